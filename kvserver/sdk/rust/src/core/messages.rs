//! The messages of the feed.

use crate::core::answers::{time, Carried, RawItem};
use crate::core::changes::Change;
use crate::core::model::Revision;
use crate::core::time::Timestamp;
use serde::Deserialize;

/// A message of the feed, as it is on the wire.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message {
    Events {
        cursor: String,
        events: Vec<Event>,
    },
    Activity {
        cursor: String,
        op: String,
        #[serde(alias = "prefix", alias = "peer")]
        key: Option<String>,
        #[serde(default, deserialize_with = "time")]
        time: Option<Timestamp>,
    },
    Snapshot {
        cursor: String,
        #[serde(default)]
        first: bool,
        items: Vec<RawItem>,
    },
    SnapshotEnd {
        cursor: String,
    },
    Bookmark {
        cursor: String,
    },
    Gap {
        cursor: String,
        reason: String,
        oldest: Option<String>,
        #[serde(default)]
        snapshot: bool,
    },
    Closing {
        cursor: String,
        reason: String,
        #[serde(default)]
        retry_ms: u64,
    },
    Error {
        status: u16,
        code: String,
        #[serde(default)]
        detail: String,
        hint: Option<String>,
    },
    #[serde(other)]
    Newer,
}

/// A change, as it is in a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    op: String,
    key: String,
    revision: Revision,
    #[serde(default, deserialize_with = "time")]
    time: Option<Timestamp>,
    #[serde(default)]
    content_type: String,
    #[serde(default, deserialize_with = "time")]
    expires: Option<Timestamp>,
    size: Option<u64>,
    #[serde(default)]
    cause: String,
    #[serde(flatten)]
    value: Carried,
}

impl Event {
    pub(crate) fn change(self) -> Option<Change> {
        let Self { key, revision, time, expires, .. } = self;
        match self.op.as_str() {
            "put" => {
                let value = self.value.bytes();
                let size = self.size.unwrap_or_else(|| value.as_ref().map_or(0, |bytes| bytes.len() as u64));
                let content_type = self.content_type;
                Some(Change::Put { key, value, size, revision, time, content_type, expires, snapshot: false })
            }
            "touch" => Some(Change::Touch { key, revision, time, expires }),
            "delete" => Some(Change::Delete { key, revision, time, cause: self.cause }),
            _ => None,
        }
    }
}

/// Return an item of a snapshot as a change.
pub(crate) fn put_of(item: RawItem, values: bool) -> Change {
    let item = item.item();
    Change::Put {
        key: item.key,
        value: item.value.filter(|_| values),
        size: item.size,
        revision: item.revision,
        time: item.modified,
        content_type: item.content_type,
        expires: item.expires,
        snapshot: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_messages_of_a_newer_server_are_passed_over() {
        let read = |text: &str| serde_json::from_str::<Message>(text).unwrap();
        assert!(matches!(read(r#"{"type":"bookmark","cursor":"e.1","new":[1]}"#), Message::Bookmark { .. }));
        assert!(matches!(read(r#"{"type":"other","new":[1]}"#), Message::Newer));
    }

    #[test]
    fn an_operation_of_a_newer_server_is_no_change() {
        let event: Event = serde_json::from_str(r#"{"op":"rename","key":"a","revision":1}"#).unwrap();
        assert_eq!(event.change(), None);
    }
}
