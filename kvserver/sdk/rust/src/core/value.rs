//! What is stored: bytes with a type, and when they expire.

use crate::core::time::Timestamp;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Bytes to store, with their content type.
///
/// Text is stored as `text/plain; charset=utf-8`, bytes as `application/octet-stream`, [`Value::json`] as
/// `application/json`.
///
/// ```
/// use kvserver_client::Value;
/// let text = Value::from("dark");
/// let bytes = Value::from(vec![0, 255]);
/// let json = Value::json(&[1, 2, 3])?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: Option<String>,
}

impl Value {
    /// Return `value` as JSON.
    ///
    /// # Errors
    /// As `serde_json::to_vec`: a map whose keys are no strings, or an error of `T`'s own.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let bytes = serde_json::to_vec(value)?;
        Ok(Self { bytes, content_type: Some("application/json".to_owned()) })
    }

    /// Return the value with another content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self { bytes: text.into_bytes(), content_type: Some("text/plain; charset=utf-8".to_owned()) }
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, content_type: None }
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(bytes.to_vec())
    }
}

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// So long after the write, in whole milliseconds: above zero, at most ten years.
    After(Duration),
    /// At this time.
    At(Timestamp),
    /// Never.
    Never,
}

impl From<Duration> for Expiry {
    fn from(ttl: Duration) -> Self {
        Self::After(ttl)
    }
}

impl From<Timestamp> for Expiry {
    fn from(time: Timestamp) -> Self {
        Self::At(time)
    }
}

impl From<SystemTime> for Expiry {
    fn from(time: SystemTime) -> Self {
        Self::At(time.into())
    }
}

/// Return a time to live as the server reads it: seconds with at most three digits after the point. Parts of a
/// millisecond are rounded up, so that no positive time becomes zero.
pub(crate) fn ttl_text(ttl: Duration) -> String {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    format!("{}.{:03}", millis / 1_000, millis % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_from_what_is_given() {
        assert_eq!(Value::from("x").content_type.unwrap(), "text/plain; charset=utf-8");
        assert_eq!(Value::from(&[1, 2]).content_type, None);
        let json = Value::json(&[1]).unwrap();
        assert_eq!((json.bytes, json.content_type.unwrap()), (b"[1]".to_vec(), "application/json".to_owned()));
        assert_eq!(Value::from("x").with_content_type("image/png").content_type.unwrap(), "image/png");
    }

    #[test]
    fn ttl_has_milliseconds_and_is_never_rounded_to_zero() {
        assert_eq!(ttl_text(Duration::from_millis(61_500)), "61.500");
        assert_eq!(ttl_text(Duration::from_nanos(1)), "0.001");
        assert_eq!(ttl_text(Duration::ZERO), "0.000");
    }
}
