//! Operations of batches, and their results.

use crate::core::answers::{time, Carried};
use crate::core::codes;
use crate::core::errors::{Error, Refused};
use crate::core::model::Revision;
use crate::core::time::Timestamp;
use crate::core::value::{ttl_text, Expiry, Value};
use base64::prelude::{Engine, BASE64_STANDARD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value as Json};

/// One operation of a batch.
///
/// ```
/// use kvserver_client::Op;
/// use std::time::Duration;
/// let ops = [
///     Op::get("a"),
///     Op::put("b", "text").expires(Duration::from_secs(60)).if_revision(57),
///     Op::put("c", "new").if_revision(0),
///     Op::incr("n", 1),
///     Op::delete("d"),
/// ];
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    json: Map<String, Json>,
}

impl Op {
    fn new(op: &str, key: &str) -> Self {
        let mut json = Map::new();
        json.insert("op".to_owned(), op.into());
        json.insert("key".to_owned(), key.into());
        Self { json }
    }

    fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.json.insert(name.to_owned(), value.into());
        self
    }

    /// Read `key`.
    pub fn get(key: &str) -> Self {
        Self::new("get", key)
    }

    /// Store `value` under `key`.
    pub fn put(key: &str, value: impl Into<Value>) -> Self {
        let Value { bytes, content_type } = value.into();
        let op = match String::from_utf8(bytes) {
            Ok(text) => Self::new("put", key).with("value", text),
            Err(error) => Self::new("put", key).with("value_base64", BASE64_STANDARD.encode(error.as_bytes())),
        };
        op.with("content_type", content_type.unwrap_or_else(|| "application/octet-stream".to_owned()))
    }

    /// Apply an RFC 7396 merge patch to the JSON of `key`.
    ///
    /// # Errors
    /// As [`Value::json`].
    pub fn patch<T: Serialize + ?Sized>(key: &str, patch: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::new("patch", key).with("patch", serde_json::to_value(patch)?))
    }

    /// Add `by` to the integer of `key`, zero if it is absent.
    pub fn incr(key: &str, by: i64) -> Self {
        Self::new("incr", key).with("by", by)
    }

    /// Change when `key` expires.
    pub fn touch(key: &str, expiry: impl Into<Expiry>) -> Self {
        let op = Self::new("touch", key);
        match expiry.into() {
            Expiry::Never => op.with("persist", true),
            other => op.expires(other),
        }
    }

    /// Delete `key`.
    pub fn delete(key: &str) -> Self {
        Self::new("delete", key)
    }

    /// Do it only if the key has this revision; 0: only if there is no such key. A [`get`](Self::get) is then a check.
    #[must_use]
    pub fn if_revision(self, revision: Revision) -> Self {
        self.with("if_revision", revision)
    }

    /// Set when the key of a put expires.
    #[must_use]
    pub fn expires(self, expiry: impl Into<Expiry>) -> Self {
        match expiry.into() {
            Expiry::After(ttl) => self.with("ttl", seconds(ttl)),
            Expiry::At(time) => self.with("expires", time.to_string()),
            Expiry::Never => self,
        }
    }

    /// Set when the key of an increment expires, if the increment makes it.
    #[must_use]
    pub fn ttl_if_new(self, ttl: std::time::Duration) -> Self {
        self.with("ttl_if_new", seconds(ttl))
    }

    fn key(&self) -> &str {
        self.json.get("key").and_then(Json::as_str).unwrap_or_default()
    }
}

/// Return a time to live as a JSON number.
fn seconds(ttl: std::time::Duration) -> Json {
    ttl_text(ttl).parse().ok().and_then(Number::from_f64).map_or(Json::Null, Json::Number)
}

/// Return the body of a batch.
pub(crate) fn body(ops: &[Op], atomic: bool) -> Result<Vec<u8>, Error> {
    if ops.iter().any(|op| op.key().is_empty()) {
        return Err(Error::bad(codes::BAD_KEY, "a key has at least one byte"));
    }
    let ops: Vec<&Map<String, Json>> = ops.iter().map(|op| &op.json).collect();
    let body = serde_json::json!({"atomic": atomic, "ops": ops});
    Ok(body.to_string().into_bytes())
}

/// What became of one operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpResult {
    /// The HTTP status that it would have had alone.
    pub status: u16,
    /// The key's revision: its new one, or of what was found.
    pub revision: Option<Revision>,
    /// The code of the error, if it failed.
    pub code: Option<String>,
    /// What the error is.
    pub detail: Option<String>,
    /// The content type of `value`.
    pub content_type: Option<String>,
    /// When the key expires.
    pub expires: Option<Timestamp>,
    /// What was read, or the result of a patch or an increment.
    pub value: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct RawResult {
    status: u16,
    revision: Option<Revision>,
    code: Option<String>,
    detail: Option<String>,
    content_type: Option<String>,
    #[serde(default, deserialize_with = "time")]
    expires: Option<Timestamp>,
    #[serde(flatten)]
    value: Carried,
}

impl OpResult {
    pub(crate) fn from_json(json: Json) -> Option<Self> {
        let raw: RawResult = serde_json::from_value(json).ok()?;
        Some(Self {
            status: raw.status,
            revision: raw.revision,
            code: raw.code,
            detail: raw.detail,
            content_type: raw.content_type,
            expires: raw.expires,
            value: raw.value.bytes(),
        })
    }

    /// Return whether the operation succeeded.
    pub fn is_ok(&self) -> bool {
        self.code.is_none() && self.status < 400
    }

    /// Return the result, or the error that it is.
    ///
    /// # Errors
    /// [`Error::Refused`], or [`Error::OutcomeUnknown`] if the shard was lost in the meantime.
    pub fn check(&self) -> Result<&Self, Error> {
        if self.is_ok() {
            return Ok(self);
        }
        let detail = self.detail.clone().unwrap_or_default();
        if self.code.as_deref() == Some(codes::OUTCOME_UNKNOWN) {
            let unknown = crate::core::errors::OutcomeUnknown::new(Some(self.status), detail);
            return Err(Error::OutcomeUnknown(Box::new(unknown)));
        }
        Err(Error::Refused(Box::new(Refused {
            code: self.code.clone().unwrap_or_default(),
            status: Some(self.status),
            detail,
            revision: self.revision,
            attempts: 1,
            ..Refused::default()
        })))
    }

    /// Return the value, read as JSON.
    ///
    /// # Errors
    /// There is no value, or it is not that of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(op: Op) -> Json {
        serde_json::from_slice::<Json>(&body(&[op], false).unwrap()).unwrap()["ops"][0].take()
    }

    #[test]
    fn operations_are_written_as_the_server_reads_them() {
        let put = text(Op::put("k", "v").expires(Duration::from_millis(1_500)).if_revision(0));
        let wanted = r#"{"op":"put","key":"k","value":"v","content_type":"text/plain; charset=utf-8","ttl":1.5,"if_revision":0}"#;
        assert_eq!(put, serde_json::from_str::<Json>(wanted).unwrap());
        assert_eq!(text(Op::put("k", vec![255]))["value_base64"], "/w==");
        assert_eq!(text(Op::touch("k", Expiry::Never))["persist"], true);
        assert_eq!(text(Op::incr("k", -1).ttl_if_new(Duration::from_secs(2)))["ttl_if_new"], 2.0);
        assert_eq!(text(Op::patch("k", &[1]).unwrap())["patch"], serde_json::json!([1]));
    }

    #[test]
    fn an_empty_key_is_refused_before_it_is_sent() {
        assert_eq!(body(&[Op::get("")], true).unwrap_err().code(), codes::BAD_KEY);
    }

    #[test]
    fn results_tell_success_from_failure() {
        let read = |text: &str| OpResult::from_json(serde_json::from_str(text).unwrap()).unwrap();
        let good = read(r#"{"status":200,"revision":5,"content_type":"a/b","expires":null,"value":"1"}"#);
        assert_eq!(good.check().unwrap().json::<i32>().unwrap(), 1);
        let bad = read(r#"{"status":412,"revision":6,"code":"precondition_failed","detail":"d"}"#);
        assert_eq!(bad.check().unwrap_err().revision(), Some(6));
        let lost = read(r#"{"status":504,"code":"outcome_unknown"}"#);
        assert!(matches!(lost.check(), Err(Error::OutcomeUnknown(_))));
    }
}
