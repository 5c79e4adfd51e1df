//! What the server answers, as types.

use crate::core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::str::Utf8Error;

/// A place in the store's one history: comparable across keys, growing, never given twice to a key.
pub type Revision = u64;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, byte for byte.
    pub value: Vec<u8>,
    /// The revision of the last change of value, type or expiry.
    pub revision: Revision,
    /// The content type, for example `application/json`.
    pub content_type: String,
    /// When the key expires; `None`: never.
    pub expires: Option<Timestamp>,
    /// When the value was written; `None` where the answer does not tell (batches).
    pub modified: Option<Timestamp>,
}

impl Entry {
    /// Return the value as text.
    ///
    /// # Errors
    /// The value is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.value)
    }

    /// Return the value, read as JSON.
    ///
    /// # Errors
    /// The value is not JSON, or not that of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.value)
    }

    /// Return the entity tag, for use with other HTTP clients.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }
}

/// What is known of a key without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Bytes of the value.
    pub size: u64,
    /// The revision of the last change.
    pub revision: Revision,
    /// The content type.
    pub content_type: String,
    /// When the key expires; `None`: never.
    pub expires: Option<Timestamp>,
    /// When the value was written.
    pub modified: Option<Timestamp>,
}

/// The answer to a question for a newer value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfChanged {
    /// The key still has the revision that was named.
    Unchanged,
    /// There is no such key.
    Absent,
    /// The key has another revision.
    Changed(Entry),
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The key's new revision.
    pub revision: Revision,
    /// Whether there was no such key before.
    pub created: bool,
}

/// What a write did, with what it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchanged {
    /// The key's new revision.
    pub revision: Revision,
    /// What was there before. Its `expires` and `modified` are unknown.
    pub previous: Option<Entry>,
}

/// The result of a merge patch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patched {
    /// The key's new revision.
    pub revision: Revision,
    /// The whole value after the patch, as JSON text.
    pub value: Vec<u8>,
}

impl Patched {
    /// Return the value after the patch, read as a `T`.
    ///
    /// # Errors
    /// The value is not that of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.value)
    }
}

/// A key of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The key.
    pub key: String,
    /// The revision of the last change.
    pub revision: Revision,
    /// Bytes of the value.
    pub size: u64,
    /// The content type.
    pub content_type: String,
    /// When the value was written.
    pub modified: Option<Timestamp>,
    /// When the key expires; `None`: never.
    pub expires: Option<Timestamp>,
    /// The value, if it was asked for.
    pub value: Option<Vec<u8>>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Keys in byte order (backwards with `reverse`).
    pub items: Vec<Item>,
    /// What `delimiter` folded.
    pub prefixes: Vec<String>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<String>,
    /// Where a watch continues so that nothing is missed: its `since`.
    pub cursor: String,
}

/// What became of a delete by prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// Keys deleted, or that would be.
    pub count: u64,
    /// False if a limit ended it before all was gone.
    pub complete: bool,
    /// Keys that are newer than this revision are spared.
    pub cut: Revision,
}

/// A password that a browser sends in place of a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Ticket {
    /// The secret: sent as `?ticket=` to open a stream, as a token if it is for keys.
    pub ticket: String,
    /// Until when it is good, as the server says it.
    pub expires: String,
}

/// A part of a token's rights: what is allowed on the keys that start with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What the keys start with; empty for all.
    pub prefix: String,
    /// Of `read`, `write` and `feed` those that are granted.
    pub allow: Vec<String>,
}

impl Grant {
    /// Allow these verbs, of `read`, `write` and `feed`, below a prefix.
    pub fn new<'v>(prefix: &str, allow: impl IntoIterator<Item = &'v str>) -> Self {
        Self { prefix: prefix.to_owned(), allow: allow.into_iter().map(str::to_owned).collect() }
    }
}

/// What is running: the answer of `/v1/status`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// The server's version.
    pub version: String,
    /// The store's name.
    pub store: String,
    /// The end of the history.
    pub revision: Revision,
    /// The whole answer.
    pub json: serde_json::Value,
}
