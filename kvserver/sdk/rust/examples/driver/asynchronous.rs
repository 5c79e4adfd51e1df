//! What the driver of the asynchronous client has of its own.

use kvserver_client::asynchronous::Client;
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};

macro_rules! wait {
    ($call:expr) => {
        $call.await
    };
}

macro_rules! receive {
    ($lines:ident) => {
        $lines.recv().await
    };
}

fn channel(feed: impl FnOnce(UnboundedSender<String>) + Send + 'static) -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || feed(sender));
    receiver
}

include!("mod.rs");

#[tokio::main(flavor = "current_thread")]
pub async fn main() {
    drive().await;
}
