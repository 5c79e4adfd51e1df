//! Iterators over lists and the feed.

use super::shell::UreqShell;
use super::{finish, Client};
use crate::core::changes::{Change, Envelope};
use crate::core::lists::List;
use crate::core::model::Item;
use crate::core::requests::WatchRequest;
use crate::core::scan::Walk;
use crate::core::scripts::Context;
use crate::core::watch::{Held, Turn, Watcher};
use crate::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An iterator over the items of a list.
pub struct Scan {
    context: Context<UreqShell>,
    walk: Walk,
}

impl Scan {
    pub(crate) fn new(context: Context<UreqShell>, list: &List) -> Self {
        Self { context, walk: Walk::new(list) }
    }

    /// Return the cursor of the first page: a watch from there misses nothing. `None` before the first item.
    pub fn cursor(&self) -> Option<&str> {
        self.walk.cursor.as_deref()
    }
}

impl Iterator for Scan {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Result<Item>> {
        finish(self.walk.next(&self.context))
    }
}

impl WatchRequest<'_, Client> {
    /// Open the feed. Returns when its first message has come: what is written after that is sure to be seen.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error), for a malformed cursor or a missing grant too; `cannot_connect` and
    /// [`Error::NotAnswered`](crate::Error) when patience is used up.
    pub fn start(self) -> Result<Watch> {
        let mut watcher = Watcher::new(self.client.context.clone(), self.wish, self.on_state);
        let held = finish(watcher.first())?;
        Ok(Watch { watcher, held })
    }
}

/// The live feed: an iterator that ends only after an error, or when it is stopped.
///
/// A lost connection is opened again where it broke: no change is lost and none comes twice. An application that wants to
/// continue after its own restart saves [`cursor`](Self::cursor) and passes it to
/// [`since`](crate::WatchRequest::since).
pub struct Watch {
    watcher: Watcher<UreqShell>,
    held: Held,
}

impl Watch {
    /// Return the cursor after the last message of which every change was taken. Continuing from there repeats nothing
    /// that was wholly taken, and misses nothing.
    pub fn cursor(&self) -> Option<&str> {
        self.held.cursor()
    }

    /// Return the next change, or `None` if none comes within `time`. After an error or [`Stopper::stop`] it is `None`
    /// at once.
    ///
    /// # Errors
    /// As the iterator's.
    pub fn next_timeout(&mut self, time: Duration) -> Result<Option<Change>> {
        self.change(Some(Instant::now() + time))
    }

    fn change(&mut self, deadline: Option<Instant>) -> Result<Option<Change>> {
        loop {
            if let Some(change) = self.held.pop() {
                return Ok(Some(change));
            }
            match finish(self.watcher.next(deadline)) {
                Turn::Message(envelope) => self.held.hold(envelope),
                Turn::Failed(error) => return Err(error),
                Turn::TimedOut | Turn::Stopped => return Ok(None),
            }
        }
    }

    /// Return the next whole message: all its changes and the cursor after them, for programs that store both in one
    /// transaction. An atomic batch is never divided. `None`: the watch is over.
    ///
    /// # Errors
    /// As the iterator's.
    pub fn next_envelope(&mut self) -> Result<Option<Envelope>> {
        if let Some(rest) = self.held.rest() {
            return Ok(Some(rest));
        }
        match finish(self.watcher.next(None)) {
            Turn::Message(envelope) => {
                self.held = Held::new(Some(envelope.cursor.clone()));
                Ok(Some(envelope))
            }
            Turn::Failed(error) => Err(error),
            Turn::TimedOut | Turn::Stopped => Ok(None),
        }
    }

    /// Return a switch that ends the watch from another thread, within a quarter of a second.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.watcher.stop_switch())
    }
}

impl Iterator for Watch {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        self.change(None).transpose()
    }
}

/// Ends a watch.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// End the watch.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The lines of MemoryKV's feed: an iterator that ends after an error.
#[cfg(feature = "ws")]
pub struct Wal {
    tail: crate::core::websocket::Tail<UreqShell>,
}

#[cfg(feature = "ws")]
impl Wal {
    pub(crate) fn open(context: Context<UreqShell>) -> Result<Self> {
        let tail = finish(crate::core::websocket::Tail::open(context.shell, context.options.timeout))?;
        Ok(Self { tail })
    }

    /// Return the next line, or `None` if none comes within `time`.
    ///
    /// # Errors
    /// [`Error::NotAnswered`](crate::Error) when the connection is lost.
    pub fn next_timeout(&mut self, time: Duration) -> Result<Option<String>> {
        finish(self.tail.next(Some(Instant::now() + time)))
    }
}

#[cfg(feature = "ws")]
impl Iterator for Wal {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        finish(self.tail.next(None)).transpose()
    }
}
