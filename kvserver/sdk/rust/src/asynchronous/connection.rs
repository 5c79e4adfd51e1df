//! Connections that tell whether all of a request went to the system, and the bodies of requests.

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection, with TLS or without.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How much of a request went to the system.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Whether hyper took the body.
    taken: AtomicBool,
    /// Whether the last write wrote all that there was.
    whole: AtomicBool,
}

impl Sent {
    /// Return whether all of the request did. Only then can a server have executed it.
    pub(crate) fn is_whole(&self) -> bool {
        self.taken.load(Ordering::Acquire) && self.whole.load(Ordering::Acquire)
    }
}

/// The body of a request, in one piece.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: Full<Bytes>,
    sent: Arc<Sent>,
}

impl Payload {
    /// Return the body of the next request on the connection that `sent` belongs to.
    pub(crate) fn new(bytes: &[u8], sent: Arc<Sent>) -> Self {
        sent.whole.store(false, Ordering::Release);
        sent.taken.store(bytes.is_empty(), Ordering::Release);
        Self { bytes: Full::new(Bytes::copy_from_slice(bytes)), sent }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.sent.whole.store(false, Ordering::Release);
        self.sent.taken.store(true, Ordering::Release);
        Pin::new(&mut self.bytes).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.size_hint()
    }
}

/// A connection that notes what is written.
pub(crate) struct Watched {
    inner: Box<dyn Io>,
    sent: Arc<Sent>,
}

impl Watched {
    pub(crate) fn new(inner: Box<dyn Io>, sent: Arc<Sent>) -> Self {
        Self { inner, sent }
    }

    fn note(&self, written: &Poll<io::Result<usize>>, offered: usize) {
        let whole = matches!(written, Poll::Ready(Ok(length)) if *length == offered);
        self.sent.whole.store(whole, Ordering::Release);
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&written, bytes.len());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.note(&written, bytes.iter().map(|slice| slice.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_when_its_body_was_taken_and_written() {
        let sent = Arc::new(Sent::default());
        let watched = Watched::new(Box::new(tokio::io::empty()), sent.clone());
        let mut body = Payload::new(b"abc", sent.clone());
        watched.note(&Poll::Ready(Ok(5)), 5); // the head
        assert!(!sent.is_whole());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        assert!(!sent.is_whole());
        watched.note(&Poll::Ready(Ok(2)), 3);
        assert!(!sent.is_whole());
        watched.note(&Poll::Ready(Ok(1)), 1);
        assert!(sent.is_whole());
        watched.note(&Poll::Pending, 1);
        assert!(!sent.is_whole());
    }

    #[test]
    fn a_request_without_a_body_is_sent_with_its_head() {
        let sent = Arc::new(Sent::default());
        let watched = Watched::new(Box::new(tokio::io::empty()), sent.clone());
        let _body = Payload::new(b"", sent.clone());
        assert!(!sent.is_whole());
        watched.note(&Poll::Ready(Ok(5)), 5);
        assert!(sent.is_whole());
    }
}
