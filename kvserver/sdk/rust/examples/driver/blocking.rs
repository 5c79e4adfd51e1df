//! What the driver of the blocking client has of its own.

use kvserver_client::blocking::Client;
use std::sync::mpsc::{channel as std_channel, Receiver, Sender};

macro_rules! wait {
    ($call:expr) => {
        $call
    };
}

macro_rules! receive {
    ($lines:ident) => {
        $lines.recv().ok()
    };
}

fn channel(feed: impl FnOnce(Sender<String>) + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = std_channel();
    std::thread::spawn(move || feed(sender));
    receiver
}

include!("mod.rs");

pub fn main() {
    let mut future = std::pin::pin!(drive());
    let done = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(done.is_ready(), "the blocking client never suspends");
}

use std::future::Future as _;
