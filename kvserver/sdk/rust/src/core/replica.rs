//! A copy of the keys below a prefix, kept by the feed.

use crate::core::changes::{Change, Envelope};
use crate::core::errors::Error;
use crate::core::feed::SILENCE;
use crate::core::model::{Entry, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Whether a mirror can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorState {
    /// The first snapshot is not complete.
    Starting,
    /// Complete, and the server was heard within the last 25 s.
    Live,
    /// Complete once, but the feed is broken or sends the state again: what it holds may be old.
    Stale,
}

/// All entries of a mirror at one moment, by key.
pub type Entries = BTreeMap<String, Arc<Entry>>;

/// The copy. A resync is built aside and takes the place of the old copy when it is complete.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    entries: Entries,
    /// The resync under way.
    next: Option<Entries>,
    synced: bool,
    pub(crate) cursor: Option<String>,
    pub(crate) revision: Revision,
    pub(crate) heard: Option<Instant>,
    pub(crate) broken: bool,
    pub(crate) error: Option<Error>,
    pub(crate) ended: bool,
}

/// What a key was and is.
pub(crate) type Difference = (String, Option<Arc<Entry>>, Option<Arc<Entry>>);

impl Replica {
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn state(&self, now: Instant) -> MirrorState {
        if !self.synced {
            return MirrorState::Starting;
        }
        let recent = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < SILENCE);
        if recent && !self.broken && !self.ended && self.next.is_none() {
            MirrorState::Live
        } else {
            MirrorState::Stale
        }
    }

    /// Apply one message whole, at `now`. Returns what changed for readers.
    pub(crate) fn apply(&mut self, envelope: Envelope, now: Instant) -> Vec<Difference> {
        let mut differences = Vec::new();
        for change in envelope.changes {
            self.change(change, &mut differences);
        }
        if self.synced && self.next.is_none() {
            // Cursors within a snapshot are ahead of what readers see.
            self.revision = self.revision.max(revision_of(&envelope.cursor));
            self.cursor = Some(envelope.cursor);
        }
        self.heard = Some(now);
        self.broken = false;
        differences
    }

    fn change(&mut self, change: Change, differences: &mut Vec<Difference>) {
        match change {
            Change::Reset { .. } => self.next = Some(Entries::new()),
            Change::Synced { .. } => {
                if let Some(next) = self.next.take() {
                    self.swap(next, differences);
                }
                self.synced = true;
            }
            Change::Put { key, value, revision, time, content_type, expires, .. } => {
                let value = value.unwrap_or_default();
                let entry = Entry { key: key.clone(), value, revision, content_type, expires, modified: time };
                self.set(key, Some(Arc::new(entry)), differences);
            }
            Change::Touch { key, revision, expires, .. } => {
                let entries = self.next.as_ref().unwrap_or(&self.entries);
                if let Some(old) = entries.get(&key).cloned() {
                    self.set(key, Some(Arc::new(Entry { revision, expires, ..(*old).clone() })), differences);
                }
            }
            Change::Delete { key, .. } => self.set(key, None, differences),
            Change::Activity { .. } => {}
        }
    }

    fn set(&mut self, key: String, entry: Option<Arc<Entry>>, differences: &mut Vec<Difference>) {
        let visible = self.next.is_none();
        let entries = self.next.as_mut().unwrap_or(&mut self.entries);
        let old = match &entry {
            Some(entry) => entries.insert(key.clone(), entry.clone()),
            None => entries.remove(&key),
        };
        if visible && old != entry {
            differences.push((key, old, entry));
        }
    }

    fn swap(&mut self, next: Entries, differences: &mut Vec<Difference>) {
        let old = std::mem::replace(&mut self.entries, next);
        for (key, was) in &old {
            if !self.entries.contains_key(key) {
                differences.push((key.clone(), Some(was.clone()), None));
            }
        }
        for (key, is) in &self.entries {
            let was = old.get(key);
            if was != Some(is) {
                differences.push((key.clone(), was.cloned(), Some(is.clone())));
            }
        }
    }
}

/// Return the revision of a cursor `<epoch>.<revision>`; 0 for one inside a snapshot.
fn revision_of(cursor: &str) -> Revision {
    let mut parts = cursor.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(revision), None) => revision.parse().unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, revision: Revision, snapshot: bool) -> Change {
        Change::Put {
            key: key.to_owned(),
            value: Some(value.as_bytes().to_vec()),
            size: value.len() as u64,
            revision,
            time: None,
            content_type: "text/plain".to_owned(),
            expires: None,
            snapshot,
        }
    }

    fn reset() -> Change {
        Change::Reset { reason: "start".to_owned(), snapshot: true }
    }

    fn envelope(cursor: &str, changes: Vec<Change>) -> Envelope {
        Envelope { changes, cursor: cursor.to_owned() }
    }

    fn text(replica: &Replica) -> String {
        let pairs = replica.entries().iter().map(|(key, entry)| format!("{key}={}", entry.text().unwrap()));
        pairs.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_snapshot_appears_whole_and_changes_follow() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        assert!(replica
            .apply(envelope("e.1.b.c", vec![reset(), put("a", "1", 1, true), put("b", "2", 1, true)]), now)
            .is_empty());
        assert_eq!((text(&replica).as_str(), replica.state(now)), ("", MirrorState::Starting));
        let end = Change::Synced { cursor: "e.1".to_owned() };
        assert_eq!(replica.apply(envelope("e.1", vec![end]), now).len(), 2);
        assert_eq!((text(&replica).as_str(), replica.state(now), replica.revision), ("a=1 b=2", MirrorState::Live, 1));
        let delete = Change::Delete { key: "a".to_owned(), revision: 3, time: None, cause: "request".to_owned() };
        let touch = Change::Touch { key: "b".to_owned(), revision: 4, time: None, expires: None };
        let differences = replica.apply(envelope("e.4", vec![put("b", "3", 2, false), delete, touch]), now);
        assert_eq!((text(&replica).as_str(), differences.len()), ("b=3", 3));
        assert_eq!(replica.entries()["b"].revision, 4);
    }

    #[test]
    fn a_resync_swaps_and_tells_what_is_gone() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        let synced = |cursor: &str| Change::Synced { cursor: cursor.to_owned() };
        replica
            .apply(envelope("e.1", vec![reset(), put("a", "1", 1, true), put("b", "2", 1, true), synced("e.1")]), now);
        replica.apply(envelope("f.9.b.c", vec![reset(), put("b", "2", 1, true), put("c", "3", 9, true)]), now);
        assert_eq!(text(&replica), "a=1 b=2");
        assert_eq!((replica.revision, replica.cursor.as_deref()), (1, Some("e.1")), "readers see the old state");
        assert_eq!(replica.state(now), MirrorState::Stale);
        let differences = replica.apply(envelope("f.9", vec![synced("f.9")]), now);
        let keys: Vec<_> =
            differences.iter().map(|(key, old, new)| (key.as_str(), old.is_some(), new.is_some())).collect();
        assert_eq!(keys, [("a", true, false), ("c", false, true)]);
        assert_eq!(text(&replica), "b=2 c=3");
    }

    #[test]
    fn silence_and_breaks_make_it_stale() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        replica.apply(envelope("e.1", vec![reset(), Change::Synced { cursor: "e.1".to_owned() }]), now);
        assert_eq!(replica.state(now + SILENCE), MirrorState::Stale);
        replica.broken = true;
        assert_eq!(replica.state(now), MirrorState::Stale);
        replica.apply(envelope("e.2", Vec::new()), now);
        assert_eq!(replica.state(now), MirrorState::Live);
    }
}
