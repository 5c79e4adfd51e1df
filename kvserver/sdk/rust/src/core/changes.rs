//! What a watch yields.

use crate::core::model::Revision;
use crate::core::time::Timestamp;

/// Something that a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A key has a new value.
    Put {
        /// The key.
        key: String,
        /// The value; `None` if the watch leaves values out.
        value: Option<Vec<u8>>,
        /// Bytes of the value.
        size: u64,
        /// The key's revision.
        revision: Revision,
        /// When it was written.
        time: Option<Timestamp>,
        /// The content type.
        content_type: String,
        /// When the key expires; `None`: never.
        expires: Option<Timestamp>,
        /// Whether it is part of a snapshot: the state at its begin, not a change.
        snapshot: bool,
    },
    /// A key expires at another time.
    Touch {
        /// The key.
        key: String,
        /// The key's revision.
        revision: Revision,
        /// When it was changed.
        time: Option<Timestamp>,
        /// When the key expires; `None`: never.
        expires: Option<Timestamp>,
    },
    /// A key is gone.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
        /// When it was deleted.
        time: Option<Timestamp>,
        /// Why: `request`, `prefix`, `expire` or `evict`.
        cause: String,
    },
    /// A copy starts over: what is not repeated until `Synced` is gone. Without a snapshot, changes are missing.
    Reset {
        /// Why: `start`, `trimmed`, `epoch` or `bad_cursor`.
        reason: String,
        /// Whether a snapshot follows.
        snapshot: bool,
    },
    /// The snapshot is complete.
    Synced {
        /// Where the changes after it begin.
        cursor: String,
    },
    /// A client reads, lists or deletes (with `activity`). Best effort.
    Activity {
        /// What: `read`, `list`, `list_prefix`, `delete`, `delete_prefix`, `delete_all` or `heartbeat`.
        op: String,
        /// The key, prefix or peer, where there is one.
        subject: Option<String>,
        /// When.
        time: Option<Timestamp>,
    },
}

impl Change {
    /// Return the key, of a put, a touch or a delete.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Put { key, .. } | Self::Touch { key, .. } | Self::Delete { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Return the revision, of a put, a touch or a delete.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Put { revision, .. } | Self::Touch { revision, .. } | Self::Delete { revision, .. } => {
                Some(*revision)
            }
            _ => None,
        }
    }
}

/// The changes of one message. A message never holds part of an atomic batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Envelope {
    /// The changes, in order; none if the message only moves the cursor.
    pub changes: Vec<Change>,
    /// Where a watch continues after them: its `since`.
    pub cursor: String,
}
