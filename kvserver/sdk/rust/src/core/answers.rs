//! Answers, read into the types of `model`.

use crate::core::calls::{Answer, Call, Kind};
use crate::core::errors::{Error, NotAnswered, OutcomeUnknown};
use crate::core::model::{Entry, Exchanged, Item, Meta, Page, Patched, Revision, Written};
use crate::core::time::Timestamp;
use base64::prelude::{Engine, BASE64_STANDARD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// Return the error of an answer that is not what a kvserver sends.
pub(crate) fn foreign(call: &Call, answer: &Answer, what: &str) -> Error {
    let (status, detail) = (Some(answer.status), format!("the answer is not a kvserver's: {what}"));
    if call.kind == Kind::Read {
        Error::NotAnswered(Box::new(NotAnswered { status, detail, attempts: 1 }))
    } else {
        Error::OutcomeUnknown(Box::new(OutcomeUnknown::new(status, detail)))
    }
}

/// Return the JSON body of `answer`.
pub(crate) fn json<T: DeserializeOwned>(call: &Call, answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| foreign(call, answer, &error.to_string()))
}

/// Return the answer's revision. Calls that are `of_key` have one.
pub(crate) fn revision(call: &Call, answer: &Answer) -> Result<Revision, Error> {
    answer.revision().ok_or_else(|| foreign(call, answer, "no KV-Revision"))
}

fn content_type(answer: &Answer) -> String {
    answer.header("content-type").unwrap_or("application/octet-stream").to_owned()
}

fn modified(answer: &Answer) -> Option<Timestamp> {
    answer.header("last-modified").and_then(Timestamp::from_http_date)
}

pub(crate) fn entry(call: &Call, key: &str, answer: Answer) -> Result<Entry, Error> {
    Ok(Entry {
        key: key.to_owned(),
        revision: revision(call, &answer)?,
        content_type: content_type(&answer),
        expires: answer.expires(),
        modified: modified(&answer),
        value: answer.body,
    })
}

pub(crate) fn meta(call: &Call, answer: &Answer) -> Result<Meta, Error> {
    let size = answer.header("content-length").and_then(|text| text.parse().ok());
    Ok(Meta {
        size: size.ok_or_else(|| foreign(call, answer, "no Content-Length"))?,
        revision: revision(call, answer)?,
        content_type: content_type(answer),
        expires: answer.expires(),
        modified: modified(answer),
    })
}

pub(crate) fn written(call: &Call, answer: &Answer) -> Result<Written, Error> {
    Ok(Written { revision: revision(call, answer)?, created: answer.status == 201 })
}

pub(crate) fn exchanged(call: &Call, key: &str, answer: Answer) -> Result<Exchanged, Error> {
    let new = revision(call, &answer)?;
    if answer.status == 201 {
        return Ok(Exchanged { revision: new, previous: None });
    }
    let Some(old) = answer.header("kv-previous-revision").and_then(|text| text.parse().ok()) else {
        return Err(Error::AnswerWithheld(new));
    };
    if answer.status == 204 || (answer.is_replayed() && answer.header("content-type").is_none()) {
        return Err(Error::AnswerWithheld(new));
    }
    let content_type = content_type(&answer);
    let (key, value) = (key.to_owned(), answer.body);
    let previous = Entry { key, value, revision: old, content_type, expires: None, modified: None };
    Ok(Exchanged { revision: new, previous: Some(previous) })
}

/// Return revision and body of a patch or an increment, which a token without `read` does not get.
pub(crate) fn result(call: &Call, answer: Answer) -> Result<Patched, Error> {
    let revision = revision(call, &answer)?;
    if answer.status == 204 || answer.body.is_empty() {
        return Err(Error::AnswerWithheld(revision));
    }
    Ok(Patched { revision, value: answer.body })
}

/// A value as JSON carries it: text, or base64.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Carried {
    value: Option<String>,
    #[serde(default, deserialize_with = "base64_bytes")]
    value_base64: Option<Vec<u8>>,
}

impl Carried {
    pub(crate) fn bytes(self) -> Option<Vec<u8>> {
        self.value.map(String::into_bytes).or(self.value_base64)
    }
}

fn base64_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)).transpose()
}

/// Read a time, where a JSON member has one.
pub(crate) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

#[derive(Deserialize)]
struct RawPage {
    items: Vec<RawItem>,
    #[serde(default)]
    prefixes: Vec<String>,
    next: Option<String>,
}

/// An item of a list, or of a snapshot.
#[derive(Debug, Deserialize)]
pub(crate) struct RawItem {
    key: String,
    revision: Revision,
    size: Option<u64>,
    content_type: String,
    #[serde(default, deserialize_with = "time")]
    modified: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    expires: Option<Timestamp>,
    #[serde(flatten)]
    value: Carried,
}

impl RawItem {
    pub(crate) fn item(self) -> Item {
        let value = self.value.bytes();
        Item {
            size: self.size.unwrap_or_else(|| value.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            key: self.key,
            revision: self.revision,
            content_type: self.content_type,
            modified: self.modified,
            expires: self.expires,
            value,
        }
    }
}

pub(crate) fn page(call: &Call, answer: &Answer) -> Result<Page, Error> {
    let raw: RawPage = json(call, answer)?;
    Ok(Page {
        items: raw.items.into_iter().map(RawItem::item).collect(),
        prefixes: raw.prefixes,
        next: raw.next,
        cursor: answer.header("kv-cursor").ok_or_else(|| foreign(call, answer, "no KV-Cursor"))?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Method};

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Answer { status, headers: map, body: body.as_bytes().to_vec() }
    }

    fn write() -> Call {
        Call::write(Method::PUT, "/v1/kv/a".to_owned(), None)
    }

    #[test]
    fn an_entry_is_read_from_headers_and_body() {
        let headers = [
            ("kv-revision", "7"),
            ("content-type", "text/plain"),
            ("kv-expires", "2026-11-22T11:40:00.123Z"),
            ("last-modified", "Sun, 22 Nov 2026 11:40:00 GMT"),
        ];
        let entry = entry(&write(), "a", answer(200, &headers, "x")).unwrap();
        assert_eq!((entry.revision, entry.text().unwrap(), entry.etag().as_str()), (7, "x", "\"7\""));
        assert_eq!(entry.expires.unwrap().unix_millis() - entry.modified.unwrap().unix_millis(), 123);
    }

    #[test]
    fn results_that_are_withheld_are_told_apart_from_empty_ones() {
        let new = ("kv-revision", "7");
        for status in [200, 204] {
            let replayed = answer(status, &[new, ("idempotency-replayed", "true")], "");
            assert!(matches!(exchanged(&write(), "a", replayed.clone()), Err(Error::AnswerWithheld(7))));
            assert!(matches!(result(&write(), replayed), Err(Error::AnswerWithheld(7))));
        }
        let empty = answer(200, &[new, ("kv-previous-revision", "6"), ("content-type", "a/b")], "");
        assert_eq!(exchanged(&write(), "a", empty).unwrap().previous.unwrap().value, b"");
        assert_eq!(exchanged(&write(), "a", answer(201, &[new], "")).unwrap().previous, None);
    }

    #[test]
    fn pages_carry_values_of_both_kinds() {
        let text = r#"{"items":[
            {"key":"a","revision":1,"size":1,"content_type":"a/b","modified":"2026-11-22T11:40:00.123Z","expires":null,"value":"x"},
            {"key":"b","revision":2,"size":2,"content_type":"a/b","modified":null,"expires":null,"value_base64":"AP8="},
            {"key":"c","revision":3,"size":9,"content_type":"a/b","expires":null}],"prefixes":["p/"],"next":"c"}"#;
        let page = page(&write(), &answer(200, &[("kv-cursor", "e.3")], text)).unwrap();
        let values: Vec<_> = page.items.iter().map(|item| item.value.as_deref()).collect();
        assert_eq!(values, [Some(&b"x"[..]), Some(&b"\0\xff"[..]), None]);
        assert_eq!((page.items[2].size, page.next.as_deref(), page.cursor.as_str()), (9, Some("c"), "e.3"));
    }
}
