//! The feed: what to ask for, bytes in, changes out, where to continue, and when to come back.

use crate::core::calls::Call;
use crate::core::changes::{Change, Envelope};
use crate::core::errors::{Error, Gap, Refused};
use crate::core::messages::{put_of, Event, Message};
use crate::core::paths::with_query;
use http::Method;
use std::collections::VecDeque;
use std::time::Duration;

/// A stream that is silent for so long is dead: the server sends something every 10 s.
pub(crate) const SILENCE: Duration = Duration::from_secs(25);

/// What to do when changes are missing and no snapshot was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnGap {
    /// End with [`Error::Gap`].
    #[default]
    Raise,
    /// Report it as [`Change::Reset`] and continue with the oldest change that is kept.
    Continue,
}

/// How the feed is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Lines of JSON over one GET.
    #[default]
    Lines,
    /// A WebSocket.
    #[cfg(feature = "ws")]
    WebSocket,
}

/// The options of a watch.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) prefixes: Vec<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) snapshot: bool,
    pub(crate) since: Option<String>,
    pub(crate) ops: Option<String>,
    pub(crate) values: bool,
    pub(crate) activity: bool,
    pub(crate) conflate: bool,
    pub(crate) on_gap: OnGap,
    pub(crate) transport: Transport,
    pub(crate) patience: Option<Duration>,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            keys: Vec::new(),
            snapshot: false,
            since: None,
            ops: None,
            values: true,
            activity: false,
            conflate: false,
            on_gap: OnGap::Raise,
            transport: Transport::Lines,
            patience: None,
        }
    }
}

/// Why the feed is to be opened again, or is over.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Come back after about this time.
    Back(Duration),
    /// The token was revoked: come back once, to see whether it is valid again.
    Revoked,
    /// Never.
    Over(Error),
}

/// A watch without its connection.
#[derive(Debug)]
pub(crate) struct Follow {
    wish: Wish,
    /// After the last message that came.
    received: Option<String>,
    /// The last bytes, which are no whole line yet.
    rest: Vec<u8>,
    /// What came and was not taken yet.
    envelopes: VecDeque<Envelope>,
    ending: Option<Ending>,
    /// Whether a gap told the reset of the snapshot that is to come.
    resets: bool,
    /// Whether any reset was told, or need not be: it goes on within a snapshot.
    has_reset: bool,
}

impl Follow {
    pub(crate) fn new(wish: Wish) -> Self {
        let received = wish.since.clone();
        let (rest, envelopes, has_reset) = (Vec::new(), VecDeque::new(), received.is_some());
        Self { wish, received, rest, envelopes, ending: None, resets: false, has_reset }
    }

    pub(crate) fn wish(&self) -> &Wish {
        &self.wish
    }

    /// Return the request that opens the feed, or opens it again where it broke.
    pub(crate) fn call(&self) -> Call {
        let wish = &self.wish;
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(wish.prefixes.iter().map(|prefix| ("prefix", prefix.clone())));
        query.extend(wish.keys.iter().map(|key| ("key", key.clone())));
        query.extend(wish.ops.iter().map(|ops| ("ops", ops.clone())));
        query.extend((!wish.values).then(|| ("values", "false".to_owned())));
        query.extend(wish.activity.then(|| ("activity", "true".to_owned())));
        query.extend(wish.conflate.then(|| ("conflate", "true".to_owned())));
        query.extend(wish.snapshot.then(|| ("snapshot", "true".to_owned())));
        query.extend(self.received.clone().map(|cursor| ("since", cursor)));
        let call = Call::read(Method::GET, with_query("/v1/feed", &query));
        call.with("accept", "application/x-ndjson").expect("a plain header")
    }

    /// Forget what a broken connection left behind.
    pub(crate) fn reopened(&mut self) {
        self.rest.clear();
        self.ending = None;
    }

    /// Read the next bytes of the stream. Returns whether a message was among them.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut any = false;
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.rest);
            any |= self.message(&line);
        }
        self.rest.extend_from_slice(bytes);
        any
    }

    /// Read one message. Returns false for what is none, with which the connection is of no use, and for what follows.
    pub(crate) fn message(&mut self, text: &[u8]) -> bool {
        if self.ending.is_some() {
            return false;
        }
        match serde_json::from_slice(text) {
            Ok(message) => self.accept(message),
            Err(_) => {
                self.ending = Some(Ending::Back(Duration::ZERO));
                return false;
            }
        }
        true
    }

    fn accept(&mut self, message: Message) {
        match message {
            Message::Events { cursor, events } => {
                self.envelope(events.into_iter().filter_map(Event::change).collect(), cursor);
            }
            Message::Activity { cursor, op, key, time } => {
                self.envelope(vec![Change::Activity { op, subject: key, time }], cursor);
            }
            Message::Snapshot { cursor, first, items } => {
                let mut changes = Vec::with_capacity(items.len() + 1);
                if first && !std::mem::take(&mut self.resets) {
                    changes.push(self.start());
                }
                let values = self.wish.values;
                changes.extend(items.into_iter().map(|item| put_of(item, values)));
                self.envelope(changes, cursor);
            }
            Message::SnapshotEnd { cursor } => {
                let mut changes = Vec::with_capacity(2);
                if !self.has_reset {
                    changes.push(self.start()); // no page: there is no key
                }
                self.resets = false;
                changes.push(Change::Synced { cursor: cursor.clone() });
                self.envelope(changes, cursor);
            }
            Message::Bookmark { cursor } => self.envelope(Vec::new(), cursor),
            Message::Gap { cursor, reason, oldest, snapshot } => {
                if !snapshot && self.wish.on_gap == OnGap::Raise {
                    let gap = Gap { reason, cursor, oldest };
                    self.ending = Some(Ending::Over(Error::Gap(Box::new(gap))));
                    return;
                }
                self.resets = snapshot;
                self.has_reset |= snapshot;
                self.envelope(vec![Change::Reset { reason, snapshot }], cursor);
            }
            Message::Closing { cursor, reason, retry_ms } => {
                self.envelope(Vec::new(), cursor);
                self.ending = Some(match reason.as_str() {
                    "revoked" => Ending::Revoked,
                    _ => Ending::Back(Duration::from_millis(retry_ms)),
                });
            }
            Message::Error { status, code, detail, hint } => {
                let status = Some(status);
                let refused = Refused { code, status, detail, hint, attempts: 1, ..Refused::default() };
                self.ending = Some(match status {
                    Some(408 | 500..) => Ending::Back(Duration::ZERO),
                    _ => Ending::Over(Error::Refused(Box::new(refused))),
                });
            }
            Message::Newer => {}
        }
    }

    /// Return the change that begins a snapshot.
    fn start(&mut self) -> Change {
        self.has_reset = true;
        Change::Reset { reason: "start".to_owned(), snapshot: true }
    }

    fn envelope(&mut self, changes: Vec<Change>, cursor: String) {
        self.received = Some(cursor.clone());
        self.envelopes.push_back(Envelope { changes, cursor });
    }

    /// Return the next message, oldest first.
    pub(crate) fn take(&mut self) -> Option<Envelope> {
        self.envelopes.pop_front()
    }

    /// Return what the server said about the end of the stream, once everything before it was taken.
    pub(crate) fn take_ending(&mut self) -> Option<Ending> {
        if self.envelopes.is_empty() {
            self.ending.take()
        } else {
            None
        }
    }
}

/// When to open the feed again after it broke.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// How many servers there are; 0: one. Each is asked after the one before it failed.
    servers: u32,
    failures: u32,
}

impl Delays {
    /// The stream was fine for long enough to start over.
    pub(crate) const HEALTH: Duration = Duration::from_secs(10);

    /// Begin to open a feed that so many servers may give.
    pub(crate) fn among(servers: usize) -> Self {
        Self { servers: u32::try_from(servers).unwrap_or(u32::MAX), failures: 0 }
    }

    /// Return the longest delay of the next attempt, of which a random part is waited.
    pub(crate) fn next(&mut self) -> Duration {
        self.failures += 1;
        match (self.failures - 1) / self.servers.max(1) {
            0 => Duration::from_millis(250),
            n => (Duration::from_millis(100) * 2u32.pow((n - 1).min(7))).min(Duration::from_secs(10)),
        }
    }

    /// Return whether the next attempt goes to a server that was not asked since all of them were.
    pub(crate) fn has_untried(&self) -> bool {
        self.failures % self.servers.max(1) != 0
    }

    /// Forget earlier failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        r#"{"type":"snapshot","cursor":"e.1.a.c","first":true,"items":[{"key":"a","revision":1,"modified":"2026-11-22T11:40:00.123Z","expires":null,"content_type":"t/p","value":"x"}]}"#,
        "\n",
        r#"{"type":"snapshot_end","cursor":"e.1"}"#,
        "\n",
        r#"{"type":"events","cursor":"e.4","events":[{"op":"put","key":"b","revision":2,"time":"2026-11-22T11:40:00.123Z","content_type":"t/p","expires":null,"size":2,"value_base64":"AP8="},{"op":"touch","key":"b","revision":3,"time":"2026-11-22T11:40:00.123Z","expires":null},{"op":"delete","key":"b","revision":4,"time":"2026-11-22T11:40:00.123Z","cause":"expire"}]}"#,
        "\n",
        r#"{"type":"of a newer server","x":1}"#,
        "\n",
        r#"{"type":"bookmark","cursor":"e.9","time":"2026-11-22T11:40:00.123Z"}"#,
        "\n",
    );

    fn all(follow: &mut Follow) -> Vec<Envelope> {
        std::iter::from_fn(|| follow.take()).collect()
    }

    fn wish() -> Wish {
        Wish { snapshot: true, prefixes: vec!["a/".to_owned()], ..Wish::default() }
    }

    #[test]
    fn messages_become_changes_wherever_the_bytes_are_cut() {
        let mut whole = Follow::new(wish());
        whole.feed(LINES.as_bytes());
        let wanted = all(&mut whole);
        assert_eq!(wanted.iter().map(|e| e.changes.len()).collect::<Vec<_>>(), [2, 1, 3, 0]);
        assert_eq!(wanted[0].changes[0], Change::Reset { reason: "start".to_owned(), snapshot: true });
        assert_eq!(wanted[1].changes[0], Change::Synced { cursor: "e.1".to_owned() });
        assert!(matches!(&wanted[2].changes[0], Change::Put { value: Some(value), size: 2, .. } if value == b"\0\xff"));
        for cut in 0..LINES.len() {
            let mut follow = Follow::new(wish());
            follow.feed(&LINES.as_bytes()[..cut]);
            follow.feed(&LINES.as_bytes()[cut..]);
            assert_eq!(all(&mut follow), wanted);
        }
    }

    #[test]
    fn a_break_at_any_byte_resumes_behind_the_last_whole_message() {
        for cut in 0..LINES.len() {
            let mut follow = Follow::new(wish());
            follow.feed(&LINES.as_bytes()[..cut]);
            let whole = LINES[..cut].matches('\n').count();
            follow.reopened();
            let since = ["", "e.1.a.c", "e.1", "e.4", "e.4", "e.9"][whole];
            let target = follow.call().target;
            if since.is_empty() {
                assert!(!target.contains("since="), "{target}");
            } else {
                assert!(target.ends_with(&format!("&since={since}")), "{target}");
            }
            assert!(target.starts_with("/v1/feed?prefix=a%2F&snapshot=true"));
        }
    }

    #[test]
    fn a_gap_ends_the_watch_or_is_told() {
        let gap = br#"{"type":"gap","cursor":"e.5","reason":"trimmed","oldest":"e.4","snapshot":false}"#;
        let mut follow = Follow::new(Wish { snapshot: false, ..wish() });
        follow.message(gap);
        assert!(matches!(follow.take_ending(), Some(Ending::Over(Error::Gap(gap))) if gap.oldest() == Some("e.4")));
        let mut follow = Follow::new(Wish { on_gap: OnGap::Continue, ..wish() });
        follow.message(gap);
        let wanted = Change::Reset { reason: "trimmed".to_owned(), snapshot: false };
        assert_eq!(follow.take().unwrap().changes, [wanted]);
    }

    #[test]
    fn a_gap_with_a_snapshot_resets_once() {
        let mut follow = Follow::new(wish());
        follow.message(br#"{"type":"gap","cursor":"e.5.","reason":"epoch","oldest":"e.4","snapshot":true}"#);
        follow.message(br#"{"type":"snapshot","cursor":"e.5.k.c","first":true,"items":[]}"#);
        let changes: Vec<_> = all(&mut follow).into_iter().flat_map(|envelope| envelope.changes).collect();
        assert_eq!(changes, [Change::Reset { reason: "epoch".to_owned(), snapshot: true }]);
    }

    #[test]
    fn an_empty_snapshot_resets_too() {
        let synced = |cursor: &str| Change::Synced { cursor: cursor.to_owned() };
        let start = Change::Reset { reason: "start".to_owned(), snapshot: true };
        let changes = |follow: &mut Follow| -> Vec<_> { all(follow).into_iter().flat_map(|it| it.changes).collect() };
        let mut follow = Follow::new(wish());
        follow.message(br#"{"type":"snapshot_end","cursor":"e.1"}"#);
        assert_eq!(changes(&mut follow), [start.clone(), synced("e.1")]);
        let mut follow = Follow::new(wish());
        follow.message(br#"{"type":"gap","cursor":"e.5.","reason":"epoch","oldest":"e.4","snapshot":true}"#);
        follow.message(br#"{"type":"snapshot_end","cursor":"e.5"}"#);
        follow.message(br#"{"type":"snapshot","cursor":"e.9.k.c","first":true,"items":[]}"#);
        let epoch = Change::Reset { reason: "epoch".to_owned(), snapshot: true };
        assert_eq!(changes(&mut follow), [epoch, synced("e.5"), start]);
        let mut follow = Follow::new(Wish { since: Some("e.1.k.c".to_owned()), ..wish() });
        follow.message(br#"{"type":"snapshot_end","cursor":"e.1"}"#);
        assert_eq!(changes(&mut follow), [synced("e.1")], "it went on within a snapshot");
    }

    #[test]
    fn closing_is_told_after_what_came_before() {
        let mut follow = Follow::new(wish());
        follow.message(br#"{"type":"closing","cursor":"e.5","reason":"stop","retry_ms":1500}"#);
        assert!(follow.take_ending().is_none());
        assert_eq!(follow.take().unwrap().cursor, "e.5");
        assert!(matches!(follow.take_ending(), Some(Ending::Back(time)) if time.as_millis() == 1500));
    }

    #[test]
    fn errors_end_the_watch_unless_they_may_pass() {
        let mut follow = Follow::new(wish());
        follow.message(br#"{"type":"error","status":403,"code":"forbidden","detail":"d","hint":null}"#);
        assert!(matches!(follow.take_ending(), Some(Ending::Over(error)) if error.code() == "forbidden"));
        follow.message(br#"{"type":"error","status":503,"code":"unavailable"}"#);
        assert!(matches!(follow.take_ending(), Some(Ending::Back(_))));
    }

    #[test]
    fn rubbish_breaks_the_connection() {
        let mut follow = Follow::new(wish());
        assert!(!follow.feed(b"<html>\n</html>\n"), "no message");
        assert!(matches!(follow.take_ending(), Some(Ending::Back(_))));
    }

    #[test]
    fn delays_grow_to_ten_seconds() {
        let mut delays = Delays::default();
        let first: Vec<_> = (0..4).map(|_| delays.next().as_millis()).collect();
        assert_eq!(first, [250, 100, 200, 400]);
        assert_eq!((0..9).map(|_| delays.next()).last(), Some(Duration::from_secs(10)));
        delays.reset();
        assert_eq!(delays.next().as_millis(), 250);
        let mut delays = Delays::among(2);
        let next: Vec<_> = (0..5).map(|_| (delays.next().as_millis(), delays.has_untried())).collect();
        assert_eq!(next, [(250, true), (250, false), (100, true), (100, false), (200, true)]);
    }
}
