//! Requests and answers.

use crate::core::codes;
use crate::core::errors::Error;
use crate::core::model::Revision;
use crate::core::options::Address;
use crate::core::time::Timestamp;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::Method;
use std::time::Duration;

/// What repeating a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Read,
    /// The write a second time.
    Write,
    /// Something else than the first time, so that no `Idempotency-Key` makes it safe.
    Once,
    /// A write on the condition that the key is absent: a second time, if the key was deleted in the meantime.
    Create,
    /// A write on the condition of a revision: at most one of two can succeed.
    Conditional,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) kind: Kind,
    /// Statuses from 400 that the reader of the answer understands.
    pub(crate) accepts: &'static [u16],
    /// Whether each 2xx answer carries KV-Revision: one without is somebody else's.
    pub(crate) of_key: bool,
}

impl Call {
    pub(crate) fn read(method: Method, target: String) -> Self {
        let (headers, body) = (HeaderMap::new(), Vec::new());
        Self { method, target, headers, body, kind: Kind::Read, accepts: &[], of_key: false }
    }

    pub(crate) fn write(method: Method, target: String, if_revision: Option<Revision>) -> Self {
        let mut call = Self::read(method, target);
        call.kind = match if_revision {
            None => Kind::Write,
            Some(0) => Kind::Create,
            Some(_) => Kind::Conditional,
        };
        match if_revision {
            None => call,
            Some(0) => call.with("if-none-match", "*").expect("a plain header"),
            Some(revision) => call.with("if-match", &format!("\"{revision}\"")).expect("a plain header"),
        }
    }

    /// Return the call with a header. Fails for a value that no header can have.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Result<Self, Error> {
        let Ok(header) = HeaderValue::from_str(value) else {
            return Err(Error::bad(codes::BAD_REQUEST, format!("{name} is printable ASCII, not {value:?}")));
        };
        self.headers.insert(HeaderName::from_static(name), header);
        Ok(self)
    }

    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn accepts(mut self, statuses: &'static [u16]) -> Self {
        self.accepts = statuses;
        self
    }

    pub(crate) fn of_key(mut self) -> Self {
        self.of_key = true;
        self
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        self.header("kv-revision")?.parse().ok()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.header("kv-expires")?.parse().ok()
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotency-replayed").is_some()
    }
}

/// What became of a request that was sent once.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// A whole answer.
    Answer(Answer),
    /// No answer, and not executed: not all of it was handed to the system.
    NeverSent(String),
    /// No whole answer, and a server may have executed it.
    Lost(String),
}

impl Outcome {
    /// Return whether another server of the store may answer what this one did not.
    pub(crate) fn is_better_elsewhere(&self) -> bool {
        match self {
            Self::Answer(answer) => matches!(answer.status, 500 | 502..=504),
            Self::NeverSent(_) | Self::Lost(_) => true,
        }
    }
}

/// The `http` crate takes 65,534 bytes, and the server 8 KiB, which it says itself.
const LONGEST_URL: usize = 64_000;

/// What a shell adds to each request.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) address: Address,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Base {
    /// Check that `target` makes a URL. Fails for one that is longer than any server takes.
    pub(crate) fn check(&self, target: &str) -> Result<(), Error> {
        if self.address.url().len() + target.len() > LONGEST_URL {
            return Err(Error::bad(codes::URI_TOO_LONG, "the key or the query makes a URL of over 64,000 bytes"));
        }
        Ok(())
    }

    /// Return `call` as an HTTP request without its body.
    pub(crate) fn request(&self, call: &Call) -> Result<http::Request<()>, Error> {
        let uri = format!("{}{}", self.address.url(), call.target);
        let request = http::Request::builder().method(call.method.clone()).uri(uri).body(());
        let mut request = request.map_err(|error| Error::bad(codes::BAD_REQUEST, format!("the URL: {error}")))?;
        *request.headers_mut() = self.headers(&call.headers);
        Ok(request)
    }

    /// Return `own` with the token and the name of this client.
    pub(crate) fn headers(&self, own: &HeaderMap) -> HeaderMap {
        let mut headers = own.clone();
        let agent = concat!("kvserver-client-rust/", env!("CARGO_PKG_VERSION"));
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = &self.authorization {
            headers.insert(http::header::AUTHORIZATION, authorization.clone());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_url_makes_a_request() {
        let base = Base { address: Address::parse("http://h/p").unwrap(), authorization: None };
        let target = |length: usize| format!("/{}", "a".repeat(length - "http://h/p/".len()));
        assert!(base.check(&target(LONGEST_URL)).is_ok());
        assert!(base.request(&Call::read(Method::GET, target(LONGEST_URL))).is_ok());
        assert_eq!(base.check(&target(LONGEST_URL + 1)).unwrap_err().code(), codes::URI_TOO_LONG);
    }
}
