//! Requests that are put together step by step, for either client.

use crate::core::feed::{OnGap, Transport, Wish};
use crate::core::model::Revision;
use crate::core::scripts::PutOptions;
use crate::core::value::{Expiry, Value};
use crate::core::watch::{OnState, WatchState};
use std::time::Duration;

macro_rules! put_setters {
    () => {
        pub(crate) fn new(client: &'c C, key: &str, value: Value) -> Self {
            Self { client, key: key.to_owned(), options: PutOptions::new(value) }
        }

        /// Set the content type.
        pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
            self.options.value.content_type = Some(content_type.into());
            self
        }

        /// Let the key expire so long after the write: above zero, at most ten years.
        pub fn ttl(self, ttl: Duration) -> Self {
            self.expires(ttl)
        }

        /// Let the key expire then. Default: never, also if it did before.
        pub fn expires(mut self, expiry: impl Into<Expiry>) -> Self {
            self.options.expiry = expiry.into();
            self
        }

        /// Write only if the key has this revision; 0: only if there is no such key. Otherwise it fails with the code
        /// `precondition_failed`, and the error has the key's revision.
        pub fn if_revision(mut self, revision: Revision) -> Self {
            self.options.if_revision = Some(revision);
            self
        }
    };
}

/// A write that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is written before `send`"]
pub struct Put<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) key: String,
    pub(crate) options: PutOptions,
}

impl<'c, C> Put<'c, C> {
    put_setters!();
}

/// A write that is not sent yet, and will tell what it replaced.
#[derive(Debug)]
#[must_use = "nothing is written before `send`"]
pub struct Exchange<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) key: String,
    pub(crate) options: PutOptions,
}

impl<'c, C> Exchange<'c, C> {
    put_setters!();
}

/// An atomic batch that is not sent yet. All its keys belong to one slot: they share what is in the first `{…}`.
#[derive(Debug)]
#[must_use = "nothing is done before `commit`"]
pub struct Atomic<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) ops: Vec<crate::core::batch::Op>,
}

impl<'c, C> Atomic<'c, C> {
    pub(crate) fn new(client: &'c C) -> Self {
        Self { client, ops: Vec::new() }
    }

    /// Add an operation.
    pub fn op(mut self, op: crate::core::batch::Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Demand that `key` has this revision; 0: that there is no such key.
    pub fn check(self, key: &str, revision: Revision) -> Self {
        self.op(crate::core::batch::Op::get(key).if_revision(revision))
    }

    /// Store `value` under `key`.
    pub fn put(self, key: &str, value: impl Into<Value>) -> Self {
        self.op(crate::core::batch::Op::put(key, value))
    }

    /// Add `by` to the integer of `key`.
    pub fn incr(self, key: &str, by: i64) -> Self {
        self.op(crate::core::batch::Op::incr(key, by))
    }

    /// Delete `key`.
    pub fn delete(self, key: &str) -> Self {
        self.op(crate::core::batch::Op::delete(key))
    }
}

/// A watch that is not started yet.
#[must_use = "nothing is watched before `start`"]
pub struct WatchRequest<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) wish: Wish,
    pub(crate) on_state: Option<OnState>,
}

impl<'c, C> WatchRequest<'c, C> {
    pub(crate) fn new(client: &'c C, prefix: &str) -> Self {
        let prefixes = if prefix.is_empty() { Vec::new() } else { vec![prefix.to_owned()] };
        Self { client, wish: Wish { prefixes, ..Wish::default() }, on_state: None }
    }

    /// Watch the keys with this prefix too. Prefixes and keys: 64 in all.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.wish.prefixes.push(prefix.into());
        self
    }

    /// Watch this key too.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.wish.keys.push(key.into());
        self
    }

    /// Begin with the present state, and then follow it.
    pub fn snapshot(mut self) -> Self {
        self.wish.snapshot = true;
        self
    }

    /// Begin after this cursor: of an earlier watch, or of a list.
    pub fn since(mut self, cursor: impl Into<String>) -> Self {
        self.wish.since = Some(cursor.into());
        self
    }

    /// Watch these operations alone, as the server names them: `put`, `touch`, `delete`, `delete:expire` …, separated
    /// by commas.
    pub fn ops(mut self, ops: impl Into<String>) -> Self {
        self.wish.ops = Some(ops.into());
        self
    }

    /// Leave the values out.
    pub fn without_values(mut self) -> Self {
        self.wish.values = false;
        self
    }

    /// Tell of reads and lists too.
    pub fn activity(mut self) -> Self {
        self.wish.activity = true;
        self
    }

    /// Skip what was overwritten in the meantime, when behind.
    pub fn conflate(mut self) -> Self {
        self.wish.conflate = true;
        self
    }

    /// Set what happens when changes are missing.
    pub fn on_gap(mut self, on_gap: OnGap) -> Self {
        self.wish.on_gap = on_gap;
        self
    }

    /// Set how the feed is carried.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.wish.transport = transport;
        self
    }

    /// Fail when no message came for so long. Default: once it began, try for ever; to begin, the client's patience.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.wish.patience = Some(patience);
        self
    }

    /// Call `on_state` when the connection is there, and when it is lost.
    pub fn on_state(mut self, on_state: impl FnMut(WatchState) + Send + 'static) -> Self {
        self.on_state = Some(Box::new(on_state));
        self
    }
}

/// Called for each key that changed in a mirror: what it was, and what it is.
pub(crate) type OnChange =
    Box<dyn FnMut(&str, Option<&crate::core::model::Entry>, Option<&crate::core::model::Entry>) + Send>;

/// A mirror that is not started yet.
#[must_use = "nothing is mirrored before `start`"]
pub struct MirrorRequest<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) prefix: String,
    pub(crate) on_change: Option<OnChange>,
}

impl<'c, C> MirrorRequest<'c, C> {
    pub(crate) fn new(client: &'c C, prefix: &str) -> Self {
        Self { client, prefix: prefix.to_owned(), on_change: None }
    }

    /// Call `on_change` for each key that changed, with what it was and what it is. It runs where the feed is read: keep
    /// it short.
    pub fn on_change<F>(mut self, on_change: F) -> Self
    where
        F: FnMut(&str, Option<&crate::core::model::Entry>, Option<&crate::core::model::Entry>) + Send + 'static,
    {
        self.on_change = Some(Box::new(on_change));
        self
    }
}
