//! What may go wrong, of two kinds: refused (nothing was done) and unknown.

use crate::core::batch::OpResult;
use crate::core::calls::Answer;
use crate::core::codes;
use crate::core::model::{Entry, Revision};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Settings with which no client can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Why a call failed.
///
/// Every failed write is either [`Refused`](Error::Refused) or [`OutcomeUnknown`](Error::OutcomeUnknown).
///
/// ```no_run
/// # use kvserver_client::{blocking::Client, codes, Error};
/// # let client = Client::connect("localhost:8080")?;
/// match client.put("config", "new").if_revision(57).send() {
///     Ok(written) => println!("revision {}", written.revision),
///     Err(Error::Refused(why)) if why.code() == codes::PRECONDITION_FAILED => {
///         println!("another write came first: it is at revision {:?}", why.revision());
///     }
///     Err(Error::OutcomeUnknown(_)) => println!("done or not: read it to know"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// Nothing was done.
    Refused(Box<Refused>),
    /// A write was done, or not.
    OutcomeUnknown(Box<OutcomeUnknown>),
    /// A read was not answered.
    NotAnswered(Box<NotAnswered>),
    /// The write was done at this revision, and the server does not tell its result: the token may not read, or the
    /// result of a repeated write was too large to be remembered.
    AnswerWithheld(Revision),
    /// The feed cannot be continued: changes are missing.
    Gap(Box<Gap>),
    /// A lock expired, or was taken away.
    LockLost,
}

impl Error {
    /// Return the error's code: one of [`codes`], or a newer server's.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(error) => &error.code,
            Self::OutcomeUnknown(error) => &error.code,
            Self::NotAnswered(_) => codes::NOT_ANSWERED,
            Self::AnswerWithheld(_) => codes::ANSWER_WITHHELD,
            Self::Gap(_) => codes::GAP,
            Self::LockLost => codes::LOCK_LOST,
        }
    }

    /// Return the HTTP status, if a server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(error) => error.status,
            Self::OutcomeUnknown(error) => error.status,
            Self::NotAnswered(error) => error.status,
            _ => None,
        }
    }

    /// Return the key's revision: what it is after a failed condition, or became by a write whose result is withheld.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Refused(error) => error.revision,
            Self::AnswerWithheld(revision) => Some(*revision),
            _ => None,
        }
    }

    /// Return whether nothing was done.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Return the error of a wait that took too long.
    pub(crate) fn late(what: &str, timeout: Duration) -> Self {
        Self::not_answered(None, format!("{what} did not come within {timeout:?}"))
    }

    /// Return the error of a read that was sent once and not answered.
    pub(crate) fn not_answered(status: Option<u16>, detail: impl Into<String>) -> Self {
        Self::NotAnswered(Box::new(NotAnswered { status, detail: detail.into(), attempts: 1 }))
    }

    /// Return an error of this client: a request that need not be sent.
    pub(crate) fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self::Refused(Box::new(Refused { code: code.to_owned(), detail: detail.into(), ..Refused::default() }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::OutcomeUnknown(error) => error.fmt(f),
            Self::NotAnswered(error) => error.fmt(f),
            Self::AnswerWithheld(revision) => {
                write!(f, "done at revision {revision}, but the server does not tell the result")
            }
            Self::Gap(gap) => gap.fmt(f),
            Self::LockLost => f.write_str("the lock was lost"),
        }
    }
}

impl std::error::Error for Error {}

/// What a server, or this client, would not do. Nothing was done.
#[derive(Debug, Clone, Default)]
pub struct Refused {
    pub(crate) code: String,
    pub(crate) status: Option<u16>,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) hint: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) revision: Option<Revision>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) failed: Option<usize>,
    pub(crate) results: Vec<OpResult>,
    pub(crate) attempts: u32,
}

impl Refused {
    /// Return the code: one of [`codes`], or a newer server's.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Return the HTTP status; `None`: no server was asked, or none could be reached.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Return what this particular problem is.
    pub fn detail(&self) -> &str {
        if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        }
    }

    /// Return what to do about it, if the server says so.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Return the name of the request in the server's log.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// Return the key's present revision, after a failed condition.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Return how long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Return the index of the operation by which an atomic batch failed.
    pub fn failed(&self) -> Option<usize> {
        self.failed
    }

    /// Return the results of an atomic batch that failed.
    pub fn results(&self) -> &[OpResult] {
        &self.results
    }

    /// Return how often the request was sent, or tried to be.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail(), self.code)?;
        if let Some(revision) = self.revision {
            write!(f, ", the key is at revision {revision}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, ". {hint}")?;
        }
        Ok(())
    }
}

/// A write that was done, or not.
#[derive(Debug, Clone)]
pub struct OutcomeUnknown {
    pub(crate) code: String,
    pub(crate) status: Option<u16>,
    pub(crate) detail: String,
    pub(crate) current: Option<Entry>,
    pub(crate) attempts: u32,
}

impl OutcomeUnknown {
    pub(crate) fn new(status: Option<u16>, detail: String) -> Self {
        Self { code: codes::OUTCOME_UNKNOWN.to_owned(), status, detail, current: None, attempts: 1 }
    }

    /// Return the code: `outcome_unknown`, or what a server said.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Return what happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Return what the key held afterwards, if it was read.
    pub fn current(&self) -> Option<&Entry> {
        self.current.as_ref()
    }

    /// Return how often the request was sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl fmt::Display for OutcomeUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the write was done or not: {}", self.detail)
    }
}

/// A read that was not answered.
#[derive(Debug, Clone, Default)]
pub struct NotAnswered {
    pub(crate) status: Option<u16>,
    pub(crate) detail: String,
    pub(crate) attempts: u32,
}

impl NotAnswered {
    /// Return what happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Return how often the request was sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl fmt::Display for NotAnswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not answered: {}", self.detail)
    }
}

/// A feed that cannot be continued without a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub(crate) reason: String,
    pub(crate) cursor: String,
    pub(crate) oldest: Option<String>,
}

impl Gap {
    /// Return why: `trimmed`, `epoch` or `bad_cursor`.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Return where the feed continues, after what is missing.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// Return the oldest cursor that the server keeps.
    pub fn oldest(&self) -> Option<&str> {
        self.oldest.as_deref()
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "changes are missing in the feed ({}); it continues at {}", self.reason, self.cursor)
    }
}

/// A problem as the server writes it, RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    code: String,
    title: String,
    detail: String,
    hint: Option<String>,
    request_id: Option<String>,
    revision: Option<Revision>,
    failed: Option<usize>,
    results: Vec<serde_json::Value>,
}

impl Refused {
    /// Return the error that `answer` is, or `None` if it is no kvserver's.
    pub(crate) fn from_answer(answer: &Answer) -> Option<Self> {
        if !answer.header("content-type")?.starts_with("application/problem+json") {
            return None;
        }
        let mut problem: Problem = match serde_json::from_slice(&answer.body) {
            Ok(problem) => problem,
            Err(_) if answer.body.is_empty() => Problem::default(), // of a HEAD
            Err(_) => return None,
        };
        if problem.code.is_empty() {
            problem.code = code_of(answer.status)?.to_owned();
        }
        Some(Self {
            code: problem.code,
            status: Some(answer.status),
            title: problem.title,
            detail: problem.detail,
            hint: problem.hint,
            request_id: problem.request_id.or_else(|| answer.header("x-request-id").map(str::to_owned)),
            revision: answer.revision().or(problem.revision),
            retry_after: answer.retry_after(),
            failed: problem.failed,
            results: problem.results.into_iter().filter_map(OpResult::from_json).collect(),
            attempts: 0,
        })
    }
}

/// Return the code that stands for `status`.
fn code_of(status: u16) -> Option<&'static str> {
    match status {
        401 => Some(codes::UNAUTHORIZED),
        409 => Some(codes::CONFLICT),
        413 => Some(codes::VALUE_TOO_LARGE),
        503 => Some(codes::UNAVAILABLE),
        _ => codes::ALL.iter().find(|(_, of)| *of == status).map(|(code, _)| *code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &'static str, body: &str) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static(content_type));
        headers.insert("retry-after", http::HeaderValue::from_static("2"));
        Answer { status, headers, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn problems_become_errors() {
        let text = r#"{"code":"precondition_failed","detail":"d","hint":"h","request_id":"r","revision":7,"new":1}"#;
        let error = Refused::from_answer(&answer(412, "application/problem+json", text)).unwrap();
        assert_eq!((error.code(), error.status(), error.revision()), ("precondition_failed", Some(412), Some(7)));
        assert_eq!((error.hint(), error.request_id()), (Some("h"), Some("r")));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error.to_string(), "d (precondition_failed), the key is at revision 7. h");
    }

    #[test]
    fn answers_without_a_body_get_the_code_of_their_status() {
        let error = Refused::from_answer(&answer(404, "application/problem+json", "")).unwrap();
        assert_eq!(error.code(), codes::NOT_FOUND);
    }

    #[test]
    fn answers_of_others_are_no_problems_of_ours() {
        assert!(Refused::from_answer(&answer(502, "text/html", "<html>")).is_none());
        assert!(Refused::from_answer(&answer(400, "application/problem+json", "{")).is_none());
    }
}
