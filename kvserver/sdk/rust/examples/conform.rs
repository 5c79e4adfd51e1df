//! The conformance driver of the blocking client: one JSON request a line in, one JSON line for each answer out.

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

include!("driver/mod.rs");

fn main() {
    let mut future = std::pin::pin!(drive());
    let done = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(done.is_ready(), "the blocking client never suspends");
}

use std::future::Future as _;
