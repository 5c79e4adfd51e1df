//! Streams of lists and of the feed.

use super::shell::HyperShell;
use super::Client;
use crate::core::changes::{Change, Envelope};
use crate::core::lists::List;
use crate::core::model::Item;
use crate::core::requests::WatchRequest;
use crate::core::scan::Walk;
use crate::core::scripts::Context as Calls;
use crate::core::watch::{Held, Turn, Watcher};
use crate::{Error, Result};
use futures_core::Stream;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A future that gives back what it worked with. It is kept when whoever polls it goes away, so nothing is lost.
type Work<T, O> = Pin<Box<dyn Future<Output = (T, O)> + Send>>;

enum State<T, O> {
    Idle(T),
    Busy(Work<T, O>),
    Moved,
}

impl<T, O> State<T, O> {
    fn poll(&mut self, cx: &mut Context<'_>, start: impl FnOnce(T) -> Work<T, O>) -> Poll<O> {
        if let Self::Idle(_) = self {
            if let Self::Idle(idle) = std::mem::replace(self, Self::Moved) {
                *self = Self::Busy(start(idle));
            }
        }
        let Self::Busy(work) = self else { unreachable!("it is idle or busy") };
        let (idle, output) = std::task::ready!(work.as_mut().poll(cx));
        *self = Self::Idle(idle);
        Poll::Ready(output)
    }
}

/// A [`Stream`] of the items of a list.
pub struct Scan {
    state: State<(Calls<HyperShell>, Walk), Option<Result<Item>>>,
    cursor: Option<String>,
}

impl Scan {
    pub(crate) fn new(context: Calls<HyperShell>, list: &List) -> Self {
        Self { state: State::Idle((context, Walk::new(list))), cursor: None }
    }

    /// Return the next item, or `None` at the end.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn next(&mut self) -> Option<Result<Item>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Return the cursor of the first page: a watch from there misses nothing. `None` before the first item.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

impl Stream for Scan {
    type Item = Result<Item>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Item>>> {
        if let State::Idle((_, walk)) = &mut self.state {
            if let Some(item) = walk.take() {
                return Poll::Ready(Some(Ok(item)));
            }
        }
        let output = std::task::ready!(self.state.poll(cx, |(context, mut walk)| {
            Box::pin(async move {
                let output = walk.next(&context).await;
                ((context, walk), output)
            })
        }));
        if let State::Idle((_, walk)) = &self.state {
            let cursor = walk.cursor.clone();
            self.cursor = cursor;
        }
        Poll::Ready(output)
    }
}

impl WatchRequest<'_, Client> {
    /// Open the feed. Returns when its first message has come: what is written after that is sure to be seen.
    ///
    /// # Errors
    /// [`Error::Refused`], for a malformed cursor or a missing grant too; `cannot_connect` and [`Error::NotAnswered`]
    /// when patience is used up.
    pub async fn start(self) -> Result<Watch> {
        let mut watcher = Watcher::new(self.client.context.clone(), self.wish, self.on_state);
        let held = watcher.first().await?;
        Ok(Watch { state: State::Idle(watcher), held })
    }
}

/// The live feed: a [`Stream`] that ends only after an error. Dropping it ends it.
///
/// A lost connection is opened again where it broke: no change is lost and none comes twice, whether the stream was polled
/// in the meantime or not. An application that wants to continue after its own restart saves [`cursor`](Self::cursor)
/// and passes it to [`since`](crate::WatchRequest::since).
pub struct Watch {
    state: State<Watcher<HyperShell>, Turn>,
    held: Held,
}

impl Watch {
    /// Return the cursor after the last message of which every change was taken. Continuing from there repeats nothing
    /// that was wholly taken, and misses nothing.
    pub fn cursor(&self) -> Option<&str> {
        self.held.cursor()
    }

    /// Return the next change; `None`: the watch is over. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What ended the watch.
    pub async fn next(&mut self) -> Option<Result<Change>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Return the next change, or `None` if none comes within `time`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_timeout(&mut self, time: Duration) -> Result<Option<Change>> {
        match tokio::time::timeout(time, self.next()).await {
            Ok(change) => change.transpose(),
            Err(_) => Ok(None),
        }
    }

    /// Return the next whole message: all its changes and the cursor after them, for programs that store both in one
    /// transaction. An atomic batch is never divided. `None`: the watch is over.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_envelope(&mut self) -> Result<Option<Envelope>> {
        if let Some(rest) = self.held.rest() {
            return Ok(Some(rest));
        }
        let envelope = poll_fn(|cx| self.poll_message(cx)).await?;
        if let Some(envelope) = &envelope {
            self.held = Held::new(Some(envelope.cursor.clone()));
        }
        Ok(envelope)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Envelope>, Error>> {
        let turn = std::task::ready!(self.state.poll(cx, |mut watcher| {
            Box::pin(async move {
                let turn = watcher.next(None).await;
                (watcher, turn)
            })
        }));
        Poll::Ready(match turn {
            Turn::Message(envelope) => Ok(Some(envelope)),
            Turn::Failed(error) => Err(error),
            Turn::TimedOut | Turn::Stopped => Ok(None),
        })
    }
}

impl Stream for Watch {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Change>>> {
        loop {
            if let Some(change) = self.held.pop() {
                return Poll::Ready(Some(Ok(change)));
            }
            match std::task::ready!(self.poll_message(cx)) {
                Ok(Some(envelope)) => self.held.hold(envelope),
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

/// The lines of MemoryKV's feed: a [`Stream`] that ends after an error.
#[cfg(feature = "ws")]
pub struct Wal {
    state: State<crate::core::websocket::Tail<HyperShell>, Result<Option<String>>>,
}

#[cfg(feature = "ws")]
impl Wal {
    pub(crate) async fn open(context: Calls<HyperShell>) -> Result<Self> {
        let tail = crate::core::websocket::Tail::open(context.shell, context.options.timeout).await?;
        Ok(Self { state: State::Idle(tail) })
    }

    /// Return the next line; `None`: the feed is over.
    ///
    /// # Errors
    /// [`Error::NotAnswered`] when the connection is lost.
    pub async fn next(&mut self) -> Option<Result<String>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Return the next line, or `None` if none comes within `time`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_timeout(&mut self, time: Duration) -> Result<Option<String>> {
        match tokio::time::timeout(time, self.next()).await {
            Ok(line) => line.transpose(),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(feature = "ws")]
impl Stream for Wal {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<String>>> {
        let line = std::task::ready!(self.state.poll(cx, |mut tail| {
            Box::pin(async move {
                let line = tail.next(None).await;
                (tail, line)
            })
        }));
        Poll::Ready(line.transpose())
    }
}
