//! What happens after each outcome of a call: done, again, or an error.

use crate::core::calls::{Answer, Call, Kind, Outcome};
use crate::core::codes;
use crate::core::errors::{Error, NotAnswered, OutcomeUnknown, Refused};
use crate::core::options::Options;
use std::time::Duration;

/// The longest delay before a repeat, but for what `Retry-After` asks.
const LONGEST: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(50);

/// What to do now.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The call succeeded.
    Done(Answer),
    /// Send it again, after a random part of `jitter`, and `least` at least.
    Again { least: Duration, jitter: Duration },
    /// It failed.
    Fail(Error),
    /// It failed, and the key's current value says more.
    Look(Box<OutcomeUnknown>),
}

/// The repeats of one call.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// How many servers there are; 0: one. Each is asked after the one before it failed.
    servers: u32,
    /// Whether the next attempt goes to a server that was not asked since all of them were.
    is_elsewhere: bool,
    attempts: u32,
    first_failure: Option<Duration>,
    maybe_done: bool,
}

/// Why an attempt failed.
enum Failure {
    /// Nothing was done by it, and the same may succeed later.
    Later(Refused),
    /// Nothing was done by it, and a repeat would fare no better.
    Final(Refused),
    /// It may have been executed.
    Unknown(OutcomeUnknown),
    /// It is no kvserver's answer.
    Foreign(u16, String),
}

impl Repeats {
    /// Begin the repeats of a call that so many servers may answer.
    pub(crate) fn among(servers: usize) -> Self {
        Self { servers: u32::try_from(servers).unwrap_or(u32::MAX), ..Self::default() }
    }

    /// Judge the `outcome` of one more attempt, `now` after the first began.
    pub(crate) fn judge(&mut self, call: &Call, outcome: Outcome, options: &Options, now: Duration) -> Verdict {
        self.attempts += 1;
        self.is_elsewhere = outcome.is_better_elsewhere() && self.attempts % self.servers.max(1) != 0;
        let failure = match outcome {
            Outcome::Answer(answer) if is_success(call, &answer) => return Verdict::Done(answer),
            Outcome::Answer(answer) => failure_of(&answer),
            Outcome::NeverSent(why) => {
                Failure::Later(Refused { code: codes::CANNOT_CONNECT.to_owned(), detail: why, ..Refused::default() })
            }
            Outcome::Lost(why) => Failure::Unknown(OutcomeUnknown::new(None, why)),
        };
        let left = options.patience.saturating_sub(now - *self.first_failure.get_or_insert(now));
        match failure {
            Failure::Later(mut error) => {
                let least = if self.is_elsewhere { Duration::ZERO } else { error.retry_after.unwrap_or_default() };
                if !left.is_zero() && least <= left {
                    return self.again(least, left);
                }
                error.attempts = self.attempts;
                self.refused(call, error)
            }
            Failure::Final(mut error) => {
                error.attempts = self.attempts;
                if self.maybe_done
                    && call.kind == Kind::Conditional
                    && !options.idempotency
                    && error.status == Some(412)
                {
                    return Verdict::Look(
                        self.unknown(Some(412), "repeated after a lost answer, and refused".to_owned()),
                    );
                }
                self.refused(call, error)
            }
            Failure::Unknown(error) => self.after_unknown(call, options, left, error),
            Failure::Foreign(status, detail) if call.kind == Kind::Read => {
                let attempts = self.attempts;
                Verdict::Fail(Error::NotAnswered(Box::new(NotAnswered { status: Some(status), detail, attempts })))
            }
            Failure::Foreign(status, detail) => {
                Verdict::Fail(Error::OutcomeUnknown(self.unknown(Some(status), detail)))
            }
        }
    }

    fn after_unknown(&mut self, call: &Call, options: &Options, left: Duration, mut error: OutcomeUnknown) -> Verdict {
        let repeatable = match call.kind {
            Kind::Read | Kind::Conditional => true,
            Kind::Write | Kind::Create => options.idempotency,
            Kind::Once => false,
        };
        self.maybe_done |= call.kind != Kind::Read;
        if repeatable && !left.is_zero() {
            return self.again(Duration::ZERO, left);
        }
        error.attempts = self.attempts;
        match call.kind {
            Kind::Read => {
                let OutcomeUnknown { status, detail, attempts, .. } = error;
                Verdict::Fail(Error::NotAnswered(Box::new(NotAnswered { status, detail, attempts })))
            }
            Kind::Create if !options.idempotency => Verdict::Look(Box::new(error)),
            _ => Verdict::Fail(Error::OutcomeUnknown(Box::new(error))),
        }
    }

    fn again(&self, least: Duration, left: Duration) -> Verdict {
        if self.is_elsewhere {
            return Verdict::Again { least, jitter: Duration::ZERO };
        }
        let rounds = self.attempts / self.servers.max(1);
        let doubled = SHORTEST * 2u32.pow(rounds.saturating_sub(1).min(10));
        Verdict::Again { least, jitter: doubled.min(LONGEST).min(left) }
    }

    /// A refusal says nothing about an earlier attempt, unless the shard, which remembers that one, decided it.
    fn refused(&self, call: &Call, error: Refused) -> Verdict {
        let decided = matches!(error.status, Some(400 | 404 | 409 | 412..=416 | 507));
        if self.maybe_done && call.kind != Kind::Read && !decided {
            return Verdict::Fail(Error::OutcomeUnknown(self.unknown(error.status, error.detail)));
        }
        Verdict::Fail(Error::Refused(Box::new(error)))
    }

    fn unknown(&self, status: Option<u16>, detail: String) -> Box<OutcomeUnknown> {
        Box::new(OutcomeUnknown { attempts: self.attempts, ..OutcomeUnknown::new(status, detail) })
    }
}

fn is_success(call: &Call, answer: &Answer) -> bool {
    match answer.status {
        200..=299 => !call.of_key || answer.revision().is_some(),
        304 => true,
        status => call.accepts.contains(&status) && Refused::from_answer(answer).is_some(),
    }
}

fn failure_of(answer: &Answer) -> Failure {
    let status = answer.status;
    let foreign = || match answer.header("location") {
        Some(to) => Failure::Foreign(status, format!("redirected to {to}; redirects are not followed")),
        None => Failure::Foreign(status, format!("status {status} from something that is no kvserver")),
    };
    match (status, Refused::from_answer(answer)) {
        (503 | 408, Some(error)) => Failure::Later(error),
        (503 | 408, None) => Failure::Later(Refused {
            code: if status == 408 { codes::REQUEST_TIMEOUT } else { codes::UNAVAILABLE }.to_owned(),
            status: Some(status),
            detail: format!("status {status} from a proxy"),
            retry_after: answer.retry_after(),
            ..Refused::default()
        }),
        (507, Some(error)) => Failure::Final(error),
        (500.., Some(error)) => {
            let detail = error.detail().to_owned();
            Failure::Unknown(OutcomeUnknown { code: error.code, ..OutcomeUnknown::new(Some(status), detail) })
        }
        (500 | 502 | 504, None) => {
            Failure::Unknown(OutcomeUnknown::new(Some(status), format!("status {status} from a proxy")))
        }
        (400..=499, Some(error)) => Failure::Final(error),
        _ => foreign(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Method};

    const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Create, Kind::Conditional];

    fn call(kind: Kind) -> Call {
        let mut call = Call::read(Method::PUT, "/v1/kv/a".to_owned()).of_key();
        call.kind = kind;
        call
    }

    fn answer(status: u16, code: Option<&str>, headers: &[(&'static str, &'static str)]) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        if code.is_some() {
            map.insert("content-type", HeaderValue::from_static("application/problem+json"));
        }
        let body = code.map(|code| format!("{{\"code\":\"{code}\"}}").into_bytes()).unwrap_or_default();
        Outcome::Answer(Answer { status, headers: map, body })
    }

    fn options(idempotency: bool) -> Options {
        Options { idempotency, ..Options::default() }
    }

    fn judge(kind: Kind, outcome: Outcome, idempotency: bool) -> Verdict {
        Repeats::default().judge(&call(kind), outcome, &options(idempotency), Duration::ZERO)
    }

    fn lost() -> Outcome {
        Outcome::Lost("cut".to_owned())
    }

    #[test]
    fn success_needs_a_revision() {
        let good = || answer(204, None, &[("kv-revision", "5")]);
        for kind in KINDS {
            assert!(matches!(judge(kind, good(), true), Verdict::Done(_)));
        }
        assert!(matches!(judge(Kind::Read, answer(200, None, &[]), true), Verdict::Fail(Error::NotAnswered(_))));
        assert!(matches!(judge(Kind::Write, answer(200, None, &[]), true), Verdict::Fail(Error::OutcomeUnknown(_))));
    }

    #[test]
    fn what_was_never_sent_is_repeated_and_then_refused() {
        for kind in KINDS {
            for idempotency in [true, false] {
                let never = || Outcome::NeverSent("refused".to_owned());
                assert!(matches!(judge(kind, never(), idempotency), Verdict::Again { .. }));
                let none = Options { patience: Duration::ZERO, ..options(idempotency) };
                match Repeats::default().judge(&call(kind), never(), &none, Duration::ZERO) {
                    Verdict::Fail(error) => assert_eq!(error.code(), codes::CANNOT_CONNECT),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_lost_answer_is_repeated_where_that_is_safe() {
        for outcome in [lost, || answer(502, None, &[]), || answer(504, Some("outcome_unknown"), &[])] {
            for kind in KINDS {
                assert!(matches!(judge(kind, outcome(), true), Verdict::Again { .. }), "{kind:?}");
            }
            assert!(matches!(judge(Kind::Read, outcome(), false), Verdict::Again { .. }));
            assert!(matches!(judge(Kind::Conditional, outcome(), false), Verdict::Again { .. }));
            assert!(matches!(judge(Kind::Write, outcome(), false), Verdict::Fail(Error::OutcomeUnknown(_))));
            assert!(matches!(judge(Kind::Create, outcome(), false), Verdict::Look(_)));
        }
    }

    #[test]
    fn what_would_do_something_else_is_repeated_only_if_it_did_nothing() {
        for idempotency in [true, false] {
            let verdict = judge(Kind::Once, lost(), idempotency);
            assert!(matches!(verdict, Verdict::Fail(Error::OutcomeUnknown(_))), "{verdict:?}");
            let busy = answer(503, Some("overloaded"), &[]);
            assert!(matches!(judge(Kind::Once, busy, idempotency), Verdict::Again { .. }));
            let never = Outcome::NeverSent("refused".to_owned());
            assert!(matches!(judge(Kind::Once, never, idempotency), Verdict::Again { .. }));
        }
    }

    #[test]
    fn a_refusal_after_a_lost_answer_is_believed_only_from_the_shard() {
        for (status, code, known) in
            [(412, "precondition_failed", true), (404, "not_found", true), (401, "invalid_token", false)]
        {
            let mut repeats = Repeats::default();
            let write = call(Kind::Write);
            assert!(matches!(repeats.judge(&write, lost(), &options(true), Duration::ZERO), Verdict::Again { .. }));
            let verdict = repeats.judge(&write, answer(status, Some(code), &[]), &options(true), Duration::ZERO);
            match verdict {
                Verdict::Fail(error) => assert_eq!(error.is_refused(), known, "{error:?}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_failed_condition_after_a_lost_answer_is_looked_at_without_idempotency() {
        let mut repeats = Repeats::default();
        let write = call(Kind::Conditional);
        assert!(matches!(repeats.judge(&write, lost(), &options(false), Duration::ZERO), Verdict::Again { .. }));
        let verdict =
            repeats.judge(&write, answer(412, Some("precondition_failed"), &[]), &options(false), Duration::ZERO);
        assert!(matches!(verdict, Verdict::Look(_)));
    }

    #[test]
    fn patience_ends_with_the_right_half() {
        let mut repeats = Repeats::default();
        let write = call(Kind::Write);
        assert!(matches!(repeats.judge(&write, lost(), &options(true), Duration::ZERO), Verdict::Again { .. }));
        let never = Outcome::NeverSent("down".to_owned());
        match repeats.judge(&write, never, &options(true), Duration::from_secs(6)) {
            Verdict::Fail(Error::OutcomeUnknown(error)) => assert_eq!(error.attempts(), 2),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn retry_after_is_kept_and_limited_by_patience() {
        let busy = |seconds| answer(503, Some("overloaded"), &[("retry-after", seconds)]);
        match judge(Kind::Write, busy("2"), false) {
            Verdict::Again { least, .. } => assert_eq!(least, Duration::from_secs(2)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(judge(Kind::Write, busy("60"), false), Verdict::Fail(Error::Refused(_))));
    }

    #[test]
    fn delays_double_up_to_two_seconds() {
        let mut repeats = Repeats::default();
        let patient = Options { patience: Duration::from_secs(600), ..options(true) };
        let mut delays = Vec::new();
        for _ in 0..12 {
            match repeats.judge(&call(Kind::Read), lost(), &patient, Duration::ZERO) {
                Verdict::Again { least, jitter } => delays.push((least.as_millis(), jitter.as_millis())),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(delays[..3], [(0, 50), (0, 100), (0, 200)]);
        assert_eq!(delays[11], (0, 2000));
    }

    #[test]
    fn another_server_is_asked_at_once_until_all_were_asked() {
        let mut repeats = Repeats::among(3);
        let patient = Options { patience: Duration::from_secs(600), ..options(true) };
        let mut delays = Vec::new();
        for _ in 0..7 {
            let busy = answer(503, Some("unavailable"), &[("retry-after", "1")]);
            match repeats.judge(&call(Kind::Write), busy, &patient, Duration::ZERO) {
                Verdict::Again { least, jitter } => delays.push((least.as_millis(), jitter.as_millis())),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(delays, [(0, 0), (0, 0), (1000, 50), (0, 0), (0, 0), (1000, 100), (0, 0)]);
    }

    #[test]
    fn refusals_are_final() {
        for (status, code) in
            [(400, "bad_request"), (401, "unauthorized"), (409, "overflow"), (412, "x"), (507, "memory_limit")]
        {
            for kind in KINDS {
                match judge(kind, answer(status, Some(code), &[]), true) {
                    Verdict::Fail(error @ Error::Refused(_)) => assert_eq!(error.code(), code),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn redirects_are_errors() {
        match judge(Kind::Read, answer(302, None, &[("location", "http://other/")]), true) {
            Verdict::Fail(Error::NotAnswered(error)) => assert!(error.detail().contains("http://other/")),
            other => panic!("{other:?}"),
        }
    }
}
