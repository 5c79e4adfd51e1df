//! A watch with its connections: opens the feed, reads it, opens it again.

use crate::core::calls::{Answer, Outcome};
use crate::core::changes::{Change, Envelope};
use crate::core::codes;
use crate::core::errors::{Error, Refused};
use crate::core::feed::{Delays, Ending, Follow, Transport, Wish, SILENCE};
use crate::core::scripts::{random_part, Context};
use crate::core::shell::{Chunk, Opened, Shell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a watch does about its connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WatchState {
    /// The feed is open.
    Connected,
    /// The feed broke, for this reason; it is opened again after this time.
    Waiting(String, Duration),
}

/// Called with each new state.
pub(crate) type OnState = Box<dyn FnMut(WatchState) + Send>;

/// What a call of `next` ended with.
pub(crate) enum Turn {
    /// A message.
    Message(Envelope),
    /// An error: the watch is over.
    Failed(Error),
    /// Nothing came in time.
    TimedOut,
    /// It was stopped, or failed before.
    Stopped,
}

enum Line<S: Shell> {
    Lines(S::Stream),
    #[cfg(feature = "ws")]
    Frames(S::Stream, Box<crate::core::websocket::Session>),
}

/// A watch.
pub(crate) struct Watcher<S: Shell> {
    context: Context<S>,
    follow: Follow,
    line: Option<Line<S>>,
    /// The server that the line goes to, or went to.
    server: usize,
    delays: Delays,
    opened: Instant,
    /// When the last message came, or the watch began.
    heard: Instant,
    /// The time since then that somebody waited for a message.
    waited: Duration,
    /// When that was counted last.
    counted: Instant,
    /// Whether a message came.
    begun: bool,
    revoked: bool,
    over: bool,
    stop: Arc<AtomicBool>,
    on_state: Option<OnState>,
}

impl<S: Shell> Watcher<S> {
    pub(crate) fn new(context: Context<S>, wish: Wish, on_state: Option<OnState>) -> Self {
        let now = Instant::now();
        let servers = context.shell.servers().count();
        Self {
            context,
            follow: Follow::new(wish),
            line: None,
            server: 0,
            delays: Delays::among(servers),
            opened: now,
            heard: now,
            waited: Duration::ZERO,
            counted: now,
            begun: false,
            revoked: false,
            over: false,
            stop: Arc::default(),
            on_state,
        }
    }

    /// Return the switch that ends the watch.
    #[cfg(feature = "blocking")]
    pub(crate) fn stop_switch(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Open the feed and return its first message: what is written after that is sure to be seen.
    pub(crate) async fn first(&mut self) -> Result<Held, Error> {
        let mut held = Held::new(self.follow.wish().since.clone());
        match self.next(None).await {
            Turn::Message(envelope) => held.hold(envelope),
            Turn::Failed(error) => return Err(error),
            Turn::TimedOut | Turn::Stopped => unreachable!("it has no deadline, and nobody has its switch"),
        }
        Ok(held)
    }

    /// Return the next message, waiting until `deadline` at most.
    pub(crate) async fn next(&mut self, deadline: Option<Instant>) -> Turn {
        self.counted = Instant::now();
        let turn = self.next_turn(deadline).await;
        self.count_wait();
        turn
    }

    async fn next_turn(&mut self, deadline: Option<Instant>) -> Turn {
        loop {
            if self.over || self.stop.load(Ordering::Relaxed) {
                self.line = None;
                return Turn::Stopped;
            }
            if let Some(envelope) = self.follow.take() {
                return Turn::Message(envelope);
            }
            if let Some(ending) = self.follow.take_ending() {
                self.line = None;
                if let Err(error) = self.come_back(ending).await {
                    return self.fail(error);
                }
                continue;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Turn::TimedOut;
            }
            let step = match self.line {
                None => self.open().await,
                Some(_) => self.read(deadline).await,
            };
            if let Err(error) = step {
                return self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: Error) -> Turn {
        self.over = true;
        self.line = None;
        Turn::Failed(error)
    }

    fn tell(&mut self, state: WatchState) {
        if let Some(on_state) = &mut self.on_state {
            on_state(state);
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let timeout = match self.follow.wish().patience {
            None => self.context.options.timeout,
            Some(_) => self.left(self.context.options.timeout).max(Duration::from_millis(1)),
        };
        self.follow.reopened();
        let call = self.follow.call();
        let servers = self.context.shell.servers();
        self.server = servers.current();
        servers.base(self.server).check(&call.target)?;
        let opened = match self.follow.wish().transport {
            Transport::Lines => match self.context.shell.open(self.server, &call, timeout).await {
                Opened::Stream(stream) => Ok(Line::Lines(stream)),
                Opened::Not(outcome) => Err(Box::new(outcome)),
            },
            #[cfg(feature = "ws")]
            Transport::WebSocket => {
                let shell = &*self.context.shell;
                let connected = crate::core::websocket::connect(shell, self.server, &call.target, timeout).await;
                connected.map(|(stream, session)| Line::Frames(stream, Box::new(session)))
            }
        };
        match opened {
            Ok(line) => {
                self.line = Some(line);
                self.opened = Instant::now();
                Ok(())
            }
            Err(outcome) => self.not_opened(*outcome).await,
        }
    }

    async fn not_opened(&mut self, outcome: Outcome) -> Result<(), Error> {
        self.context.shell.servers().note(self.server, &outcome);
        let (error, least) = match outcome {
            Outcome::NeverSent(why) => (Error::bad(codes::CANNOT_CONNECT, why), Duration::ZERO),
            Outcome::Lost(why) => (not_answered(why), Duration::ZERO),
            Outcome::Answer(answer) => (refusal(&answer)?, answer.retry_after().unwrap_or_default()),
        };
        self.wait(error, least).await
    }

    async fn come_back(&mut self, ending: Ending) -> Result<(), Error> {
        match ending {
            Ending::Over(error) => Err(error),
            Ending::Revoked if self.revoked => Err(Error::bad(codes::UNAUTHORIZED, "the token was revoked")),
            Ending::Revoked => {
                self.revoked = true;
                Ok(())
            }
            Ending::Back(least) if least.is_zero() => self.broken("the stream broke").await,
            Ending::Back(least) => {
                self.context.shell.servers().leave(self.server);
                let why = not_answered("the server is closing the stream");
                self.wait(why, least + random_part(least / 2)).await
            }
        }
    }

    async fn broken(&mut self, why: impl Into<String> + Send) -> Result<(), Error> {
        self.line = None;
        self.context.shell.servers().leave(self.server);
        self.wait(not_answered(why), Duration::ZERO).await
    }

    fn count_wait(&mut self) {
        let now = Instant::now();
        self.waited += now - self.counted;
        self.counted = now;
    }

    /// Return how much of `longest` patience leaves; zero: it is used up. Who reads slowly does not wait meanwhile.
    fn left(&mut self, longest: Duration) -> Duration {
        self.count_wait();
        let patience = match self.follow.wish().patience {
            None if !self.begun => Some(self.context.options.patience),
            patience => patience,
        };
        patience.map_or(longest, |patience| patience.saturating_sub(self.waited).min(longest))
    }

    /// Wait before the feed is opened again; fails with `error` if patience is used up.
    async fn wait(&mut self, error: Error, least: Duration) -> Result<(), Error> {
        let left = self.left(Duration::MAX);
        if left.is_zero() {
            return Err(error);
        }
        let longest = self.delays.next();
        let least = if self.delays.has_untried() { Duration::ZERO } else { least };
        let time = random_part(longest).max(least).min(left);
        self.tell(WatchState::Waiting(error.to_string(), time));
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.context.shell.sleep(left.min(S::SLICE)).await;
        }
        Ok(())
    }

    /// Whether it is to fail if no message comes.
    fn is_limited(&self) -> bool {
        !self.begun || self.follow.wish().patience.is_some()
    }

    /// Return how long the open stream may still bring no message, the `last` of which came then.
    fn left_of_silence(&mut self, last: Instant) -> Duration {
        let left = |longest: Duration| longest.saturating_sub(last.elapsed());
        let options = self.context.options;
        match self.follow.wish().patience {
            Some(_) => self.left(left(SILENCE)),
            None if self.begun => left(SILENCE),
            None => left(SILENCE.min(options.patience.max(options.timeout))),
        }
    }

    async fn read(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let last = self.heard.max(self.opened);
        let left = self.left_of_silence(last);
        let wanted = deadline.map_or(left, |deadline| deadline.saturating_duration_since(Instant::now()).min(left));
        let wait = wanted.min(S::SLICE).max(Duration::from_millis(1));
        let chunk = match &mut self.line {
            Some(Line::Lines(stream)) => self.context.shell.read(stream, wait).await,
            #[cfg(feature = "ws")]
            Some(Line::Frames(stream, session)) => session.receive(&*self.context.shell, stream, wait).await,
            None => return Ok(()),
        };
        match chunk {
            Chunk::Bytes(bytes) => {
                if self.follow.feed(&bytes) {
                    self.message_came();
                } else if self.is_limited() && self.left_of_silence(last).is_zero() {
                    return self.broken(no_message(last)).await;
                }
                Ok(())
            }
            Chunk::Silence if !self.left_of_silence(last).is_zero() => Ok(()),
            Chunk::Silence => self.broken(no_message(last)).await,
            Chunk::End(why) => self.broken(why).await,
        }
    }

    fn message_came(&mut self) {
        let now = Instant::now();
        if self.heard < self.opened {
            self.tell(WatchState::Connected);
        }
        if now - self.opened >= Delays::HEALTH {
            self.delays.reset();
            self.revoked = false;
        }
        self.heard = now;
        (self.waited, self.counted) = (Duration::ZERO, now);
        self.begun = true;
    }
}

/// The changes of the message that is being taken, and the cursor after what was taken.
#[derive(Debug, Default)]
pub(crate) struct Held {
    current: VecDeque<Change>,
    /// The cursor of the message that `current` is the rest of.
    behind: Option<String>,
    cursor: Option<String>,
}

impl Held {
    pub(crate) fn new(since: Option<String>) -> Self {
        Self { cursor: since, ..Self::default() }
    }

    /// Take in a message. The one before was wholly taken.
    pub(crate) fn hold(&mut self, envelope: Envelope) {
        if envelope.changes.is_empty() {
            self.cursor = Some(envelope.cursor);
        } else {
            self.current = envelope.changes.into();
            self.behind = Some(envelope.cursor);
        }
    }

    /// Return the cursor after the last message of which every change was taken.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Take the next change.
    pub(crate) fn pop(&mut self) -> Option<Change> {
        let change = self.current.pop_front()?;
        if self.current.is_empty() {
            self.cursor = self.behind.take();
        }
        Some(change)
    }

    /// Take the rest of the message.
    pub(crate) fn rest(&mut self) -> Option<Envelope> {
        let cursor = self.behind.take()?;
        self.cursor = Some(cursor.clone());
        Some(Envelope { changes: std::mem::take(&mut self.current).into(), cursor })
    }
}

fn no_message(last: Instant) -> String {
    format!("no message came for {:.1} s", last.elapsed().as_secs_f64())
}

fn not_answered(detail: impl Into<String>) -> Error {
    Error::not_answered(None, detail)
}

/// Return the error of a refusal that may pass; fails with that of one that will not.
fn refusal(answer: &Answer) -> Result<Error, Error> {
    let status = answer.status;
    let error = match Refused::from_answer(answer) {
        Some(mut error) => {
            error.attempts = 1;
            Error::Refused(Box::new(error))
        }
        None => Error::not_answered(Some(status), format!("status {status} from something that is no kvserver")),
    };
    if matches!(status, 408 | 429 | 500..) {
        Ok(error)
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str) -> Change {
        Change::Delete { key: key.to_owned(), revision: 1, time: None, cause: "request".to_owned() }
    }

    #[test]
    fn the_cursor_moves_when_a_message_is_wholly_taken() {
        let mut held = Held::new(Some("e.0".to_owned()));
        held.hold(Envelope { changes: vec![change("a"), change("b")], cursor: "e.2".to_owned() });
        assert_eq!(held.cursor(), Some("e.0"));
        assert_eq!((held.pop(), held.cursor()), (Some(change("a")), Some("e.0")));
        assert_eq!((held.pop(), held.cursor()), (Some(change("b")), Some("e.2")));
        assert_eq!(held.pop(), None);
        held.hold(Envelope { changes: Vec::new(), cursor: "e.9".to_owned() });
        assert_eq!((held.rest(), held.cursor()), (None, Some("e.9")));
    }

    #[test]
    fn the_rest_of_a_message_is_an_envelope() {
        let mut held = Held::default();
        held.hold(Envelope { changes: vec![change("a"), change("b")], cursor: "e.2".to_owned() });
        held.pop();
        assert_eq!(held.rest().unwrap().changes, [change("b")]);
        assert_eq!((held.pop(), held.cursor()), (None, Some("e.2")));
    }
}
