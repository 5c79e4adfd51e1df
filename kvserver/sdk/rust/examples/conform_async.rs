//! The conformance driver of the asynchronous client: as `conform`.

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

include!("driver/mod.rs");

#[tokio::main(flavor = "current_thread")]
async fn main() {
    drive().await;
}
