//! What a client's shell does: send, sleep, and carry streams. The only things that differ between the clients.

use crate::core::calls::{Call, Outcome};
use std::future::Future;
use std::time::Duration;

/// A part of a stream.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Bytes, at least one.
    Bytes(Vec<u8>),
    /// Nothing came within the time to wait.
    Silence,
    /// The stream is over.
    End(String),
}

/// What became of a request for a stream.
pub(crate) enum Opened<T> {
    /// Status 200: the stream begins.
    Stream(T),
    /// Anything else.
    Not(Outcome),
}

/// The way to the server. The blocking client's futures are ready when they return.
pub(crate) trait Shell: Send + Sync + 'static {
    /// A stream of bytes.
    type Stream: Send;

    /// Send `call` to `server` once.
    fn send(&self, server: usize, call: &Call, timeout: Duration) -> impl Future<Output = Outcome> + Send;

    /// Do nothing for `time`.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Send `call` to `server`, and leave its answer's body to be read.
    fn open(&self, server: usize, call: &Call, timeout: Duration) -> impl Future<Output = Opened<Self::Stream>> + Send;

    /// Read from `stream`, waiting `wait` at most.
    fn read(&self, stream: &mut Self::Stream, wait: Duration) -> impl Future<Output = Chunk> + Send;

    /// Connect to `server` without HTTP.
    #[cfg(feature = "ws")]
    fn dial(&self, server: usize, timeout: Duration) -> impl Future<Output = Result<Self::Stream, String>> + Send;

    /// Write to a stream of `dial`.
    #[cfg(feature = "ws")]
    fn write(&self, stream: &mut Self::Stream, bytes: &[u8]) -> impl Future<Output = Result<(), String>> + Send;

    /// The servers.
    fn servers(&self) -> &crate::core::servers::Servers;

    /// The longest wait in one piece: a thread that waits sees only then that it is to stop.
    const SLICE: Duration;
}
