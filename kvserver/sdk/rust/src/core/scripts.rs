//! The verbs: which calls are sent, and how their answers are read.

use crate::core::answers;
use crate::core::batch::{self, Op, OpResult};
use crate::core::calls::{Answer, Call, Outcome};
use crate::core::codes;
use crate::core::errors::{Error, OutcomeUnknown};
use crate::core::lists::{DeletePrefix, List};
use crate::core::model::{
    Deleted, Entry, Exchanged, IfChanged, Meta, Page, Patched, Revision, Status, Ticket, Written,
};
use crate::core::options::Options;
use crate::core::paths::{key_path, with_query};
use crate::core::policy::{Repeats, Verdict};
use crate::core::shell::Shell;
use crate::core::value::{ttl_text, Expiry, Value};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Keys in one batch of `get_many`.
const MANY: usize = 1_000;

/// A shell with the options of one client.
pub(crate) struct Context<S> {
    pub(crate) shell: std::sync::Arc<S>,
    pub(crate) options: Options,
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self { shell: self.shell.clone(), options: self.options }
    }
}

/// Return random bytes as hexadecimal digits.
pub(crate) fn random_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Return a random part of `longest`.
pub(crate) fn random_part(longest: Duration) -> Duration {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    longest.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

/// The options of a put.
#[derive(Debug, Clone)]
pub(crate) struct PutOptions {
    pub(crate) value: Value,
    pub(crate) expiry: Expiry,
    pub(crate) if_revision: Option<Revision>,
}

impl PutOptions {
    pub(crate) fn new(value: Value) -> Self {
        Self { value, expiry: Expiry::Never, if_revision: None }
    }
}

/// What `update` is to do.
#[derive(Debug, Clone)]
pub enum Next {
    /// Store this value. An entry keeps its expiry, and its type if the value brings none.
    Put(Value),
    /// Delete the key.
    Delete,
    /// Leave it as it is.
    Keep,
}

/// The answer to a delete by prefix, or what the problem says if a shard was lost midway.
#[derive(Deserialize)]
struct RawDeleted {
    #[serde(default)]
    deleted: u64,
    #[serde(default)]
    complete: bool,
    #[serde(default)]
    cut: Revision,
}

#[derive(Deserialize)]
struct RawCount {
    count: u64,
}

#[derive(Deserialize)]
struct RawBatch {
    results: Vec<Json>,
}

/// Return a patch as JSON text.
pub(crate) fn patch_text<T: Serialize + ?Sized>(patch: &T) -> Result<Vec<u8>, Error> {
    let bad = |error: serde_json::Error| Error::bad(codes::BAD_REQUEST, format!("the patch: {error}"));
    serde_json::to_vec(patch).map_err(bad)
}

fn path_of(key: &str) -> Result<String, Error> {
    if key.is_empty() {
        return Err(Error::bad(codes::BAD_KEY, "a key has at least one byte"));
    }
    Ok(key_path(key))
}

fn expiry_query(expiry: Expiry) -> Option<(&'static str, String)> {
    match expiry {
        Expiry::After(ttl) => Some(("ttl", ttl_text(ttl))),
        Expiry::At(time) => Some(("expires", time.to_string())),
        Expiry::Never => None,
    }
}

impl<S: Shell> Context<S> {
    /// Send `call` until it succeeds or fails for good.
    pub(crate) async fn run(&self, call: &Call) -> Result<Answer, Error> {
        let servers = self.shell.servers();
        servers.base(servers.current()).check(&call.target)?;
        let mut call = call.clone();
        if call.kind != crate::core::calls::Kind::Read && self.options.idempotency {
            call = call.with("idempotency-key", &random_name())?;
        }
        let (started, mut repeats) = (Instant::now(), Repeats::among(servers.count()));
        loop {
            let outcome = self.attempt(&call).await;
            match repeats.judge(&call, outcome, &self.options, started.elapsed()) {
                Verdict::Done(answer) => return Ok(answer),
                Verdict::Again { least, jitter } => self.shell.sleep(random_part(jitter).max(least)).await,
                Verdict::Fail(error) => return Err(error),
                Verdict::Look(unknown) => return Err(self.look(&call, unknown).await),
            }
        }
    }

    /// Send `call` once, to the server that is used now.
    async fn attempt(&self, call: &Call) -> Outcome {
        let servers = self.shell.servers();
        let number = servers.current();
        let outcome = self.shell.send(number, call, self.options.timeout).await;
        servers.note(number, &outcome);
        outcome
    }

    /// Return `unknown` with what the key of `call` holds now.
    async fn look(&self, call: &Call, mut unknown: Box<OutcomeUnknown>) -> Error {
        let path = call.target.split('?').next().unwrap_or_default().to_owned();
        let read = Call::read(Method::GET, path).of_key();
        let outcome = self.attempt(&read).await;
        let once = Options { patience: Duration::ZERO, ..self.options };
        if let Verdict::Done(answer) = Repeats::default().judge(&read, outcome, &once, Duration::ZERO) {
            unknown.current = answers::entry(&read, "", answer).ok();
        }
        Error::OutcomeUnknown(unknown)
    }

    pub(crate) async fn get(&self, key: &str, range: Option<(u64, Option<u64>)>) -> Result<Option<Entry>, Error> {
        let mut call = Call::read(Method::GET, path_of(key)?).accepts(&[404]).of_key();
        if let Some((first, last)) = range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            call = call.with("range", &format!("bytes={first}-{last}"))?;
        }
        let answer = self.run(&call).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        answers::entry(&call, key, answer).map(Some)
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<Meta>, Error> {
        let call = Call::read(Method::HEAD, path_of(key)?).accepts(&[404]).of_key();
        let answer = self.run(&call).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        answers::meta(&call, &answer).map(Some)
    }

    pub(crate) async fn get_if_changed(&self, key: &str, revision: Revision) -> Result<IfChanged, Error> {
        let call = Call::read(Method::GET, path_of(key)?).accepts(&[404]).of_key();
        let call = call.with("if-none-match", &format!("\"{revision}\""))?;
        let answer = self.run(&call).await?;
        match answer.status {
            304 => Ok(IfChanged::Unchanged),
            404 => Ok(IfChanged::Absent),
            _ => answers::entry(&call, key, answer).map(IfChanged::Changed),
        }
    }

    pub(crate) async fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Option<Entry>>, Error> {
        let mut found = BTreeMap::new();
        let mut left: Vec<&str> = keys.to_vec();
        while !left.is_empty() {
            let asked: Vec<&str> = left.drain(..left.len().min(MANY)).collect();
            let ops: Vec<Op> = asked.iter().map(|key| Op::get(key)).collect();
            let results = self.batch_of_reads(&ops).await?;
            let mut later = Vec::new();
            for (index, (key, result)) in asked.iter().zip(results).enumerate() {
                if result.code.as_deref() == Some(codes::ANSWER_TOO_LARGE) && index > 0 {
                    later.push(*key);
                } else if result.status == 404 {
                    found.insert((*key).to_owned(), None);
                } else {
                    result.check()?;
                    found.insert((*key).to_owned(), Some(entry_of(key, result)));
                }
            }
            left.splice(..0, later);
        }
        Ok(found)
    }

    async fn batch_of_reads(&self, ops: &[Op]) -> Result<Vec<OpResult>, Error> {
        let mut call = Call::read(Method::POST, "/v1/batch".to_owned()).with_body(batch::body(ops, false)?);
        call = call.with("content-type", "application/json")?;
        self.results(&call, ops.len()).await
    }

    async fn results(&self, call: &Call, wanted: usize) -> Result<Vec<OpResult>, Error> {
        let answer = self.run(call).await?;
        let raw: RawBatch = answers::json(call, &answer)?;
        let results: Vec<OpResult> = raw.results.into_iter().filter_map(OpResult::from_json).collect();
        if results.len() != wanted {
            return Err(answers::foreign(call, &answer, "another number of results than operations"));
        }
        Ok(results)
    }

    fn put_call(&self, key: &str, options: PutOptions, previous: bool) -> Result<Call, Error> {
        let mut query: Vec<_> = expiry_query(options.expiry).into_iter().collect();
        query.extend(previous.then(|| ("return", "previous".to_owned())));
        let target = with_query(&path_of(key)?, &query);
        let content_type = options.value.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        if content_type.is_empty() {
            return Err(Error::bad(codes::BAD_REQUEST, "a content type is not empty"));
        }
        let call = Call::write(Method::PUT, target, options.if_revision).of_key();
        Ok(call.with("content-type", &content_type)?.with_body(options.value.bytes))
    }

    pub(crate) async fn put(&self, key: &str, options: PutOptions) -> Result<Written, Error> {
        let call = self.put_call(key, options, false)?;
        let answer = self.run(&call).await?;
        answers::written(&call, &answer)
    }

    pub(crate) async fn exchange(&self, key: &str, options: PutOptions) -> Result<Exchanged, Error> {
        let call = self.put_call(key, options, true)?;
        let answer = self.run(&call).await?;
        answers::exchanged(&call, key, answer)
    }

    /// Apply a merge patch, which is JSON text.
    pub(crate) async fn patch(
        &self,
        key: &str,
        patch: Vec<u8>,
        if_revision: Option<Revision>,
    ) -> Result<Patched, Error> {
        let call = Call::write(Method::PATCH, path_of(key)?, if_revision).of_key();
        let call = call.with("content-type", "application/merge-patch+json")?.with_body(patch);
        let answer = self.run(&call).await?;
        answers::result(&call, answer)
    }

    pub(crate) async fn incr(&self, key: &str, by: i64, ttl_if_new: Option<Duration>) -> Result<i64, Error> {
        let mut query = vec![("incr", by.to_string())];
        query.extend(ttl_if_new.map(|ttl| ("ttl_if_new", ttl_text(ttl))));
        let call = Call::write(Method::POST, with_query(&path_of(key)?, &query), None).of_key();
        let answer = self.run(&call).await?;
        let result = answers::result(&call, answer.clone())?;
        let text = String::from_utf8(result.value).unwrap_or_default();
        text.parse().map_err(|_| answers::foreign(&call, &answer, "no integer"))
    }

    pub(crate) async fn touch(
        &self,
        key: &str,
        expiry: Expiry,
        if_revision: Option<Revision>,
    ) -> Result<Revision, Error> {
        let query = expiry_query(expiry).unwrap_or(("persist", "true".to_owned()));
        let call = Call::write(Method::POST, with_query(&path_of(key)?, &[query]), if_revision).of_key();
        let answer = self.run(&call).await?;
        answers::revision(&call, &answer)
    }

    pub(crate) async fn delete(&self, key: &str, if_revision: Option<Revision>) -> Result<bool, Error> {
        let call = Call::write(Method::DELETE, path_of(key)?, if_revision).accepts(&[404]).of_key();
        Ok(self.run(&call).await?.status != 404)
    }

    pub(crate) async fn page(&self, list: &List) -> Result<Page, Error> {
        let call = list.call();
        let answer = self.run(&call).await?;
        answers::page(&call, &answer)
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let (mut keys, mut list) = (Vec::new(), List::prefix(prefix).limit(1_000));
        loop {
            let page = self.page(&list).await?;
            keys.extend(page.items.into_iter().map(|item| item.key));
            match page.next {
                Some(next) => list = list.continued(next),
                None => return Ok(keys),
            }
        }
    }

    pub(crate) async fn count(&self, prefix: &str) -> Result<u64, Error> {
        let query = [("prefix", prefix.to_owned()), ("count", "true".to_owned())];
        let call = Call::read(Method::GET, with_query("/v1/kv", &query));
        let answer = self.run(&call).await?;
        Ok(answers::json::<RawCount>(&call, &answer)?.count)
    }

    /// Delete in as many requests as it takes. Only repeats with the cut are safe: they spare what is newer.
    pub(crate) async fn delete_prefix(&self, what: &DeletePrefix) -> Result<Deleted, Error> {
        let (mut count, mut cut, mut failed_at) = (0, None, None);
        loop {
            let call = what.call(what.limit.map(|limit| limit - count), cut);
            let call = call.accepts(if what.dry_run { &[] } else { &[504] });
            let answer = self.run(&call).await?;
            let raw: RawDeleted = answers::json(&call, &answer)?;
            count += raw.deleted;
            if answer.status == 504 {
                let since = *failed_at.get_or_insert_with(Instant::now);
                if raw.cut == 0 || since.elapsed() >= self.options.patience {
                    return Err(lost_midway(&answer, count));
                }
                self.shell.sleep(random_part(Duration::from_millis(250))).await;
            } else {
                failed_at = None;
                if raw.complete || what.dry_run || what.limit.is_some_and(|limit| count >= limit) {
                    return Ok(Deleted { count, complete: raw.complete, cut: raw.cut });
                }
            }
            cut = Some(raw.cut);
        }
    }

    pub(crate) async fn batch(&self, ops: &[Op], atomic: bool) -> Result<Vec<OpResult>, Error> {
        let call = Call::write(Method::POST, "/v1/batch".to_owned(), None).with_body(batch::body(ops, atomic)?);
        self.results(&call.with("content-type", "application/json")?, ops.len()).await
    }

    /// Read, let `next` decide, and write on the condition that nothing came between; at most `tries` times.
    pub(crate) async fn update<F>(&self, key: &str, mut next: F, tries: u32) -> Result<Option<Entry>, Error>
    where
        F: FnMut(Option<&Entry>) -> Next + Send,
    {
        for attempt in 1.. {
            let entry = self.get(key, None).await?;
            let known = entry.as_ref().map_or(0, |entry| entry.revision);
            let failed = match next(entry.as_ref()) {
                Next::Keep => return Ok(entry),
                Next::Delete if entry.is_none() => return Ok(None),
                Next::Delete => match self.delete(key, Some(known)).await {
                    Ok(_) => return Ok(None),
                    Err(error) => error,
                },
                Next::Put(value) => match self.replace(key, entry, value).await {
                    Ok(entry) => return Ok(Some(entry)),
                    Err(error) => error,
                },
            };
            if failed.code() != codes::PRECONDITION_FAILED || attempt >= tries {
                return Err(failed);
            }
            let longest = Duration::from_millis(2) * 2u32.pow(attempt.min(6));
            self.shell.sleep(random_part(longest)).await;
        }
        unreachable!("the loop ends by returning")
    }

    async fn replace(&self, key: &str, entry: Option<Entry>, mut value: Value) -> Result<Entry, Error> {
        let (mut expiry, mut known) = (Expiry::Never, 0);
        if let Some(entry) = entry {
            known = entry.revision;
            expiry = entry.expires.map_or(Expiry::Never, Expiry::At);
            value.content_type.get_or_insert(entry.content_type);
        }
        let content_type = value.content_type.get_or_insert("application/octet-stream".to_owned()).clone();
        let bytes = value.bytes.clone();
        let written = self.put(key, PutOptions { value, expiry, if_revision: Some(known) }).await?;
        let expires = match expiry {
            Expiry::At(time) => Some(time),
            _ => None,
        };
        let (key, revision) = (key.to_owned(), written.revision);
        Ok(Entry { key, value: bytes, revision, content_type, expires, modified: None })
    }

    pub(crate) async fn status(&self) -> Result<Status, Error> {
        let call = Call::read(Method::GET, "/v1/status".to_owned());
        let answer = self.run(&call).await?;
        let json: Json = answers::json(&call, &answer)?;
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let (version, store) = (text("version"), text("store"));
        Ok(Status { version, store, revision: json["revision"].as_u64().unwrap_or_default(), json })
    }

    pub(crate) async fn whoami(&self) -> Result<Json, Error> {
        let call = Call::read(Method::GET, "/v1/whoami".to_owned());
        let answer = self.run(&call).await?;
        answers::json(&call, &answer)
    }

    pub(crate) async fn ping(&self) -> Result<Duration, Error> {
        let started = Instant::now();
        let call = Call::read(Method::GET, "/ping".to_owned());
        let answer = self.run(&call).await?;
        if answer.body != b"pong" {
            return Err(answers::foreign(&call, &answer, "no pong"));
        }
        Ok(started.elapsed())
    }

    pub(crate) async fn ticket(&self, purpose: &str) -> Result<Ticket, Error> {
        let body = serde_json::json!({"for": purpose}).to_string().into_bytes();
        let call = Call::read(Method::POST, "/v1/tickets".to_owned()).with_body(body);
        let call = call.with("content-type", "application/json")?;
        let answer = self.run(&call).await?;
        answers::json(&call, &answer)
    }
}

fn lost_midway(answer: &Answer, count: u64) -> Error {
    let detail = format!("a shard was lost midway, after {count} keys");
    Error::OutcomeUnknown(Box::new(OutcomeUnknown::new(Some(answer.status), detail)))
}

fn entry_of(key: &str, result: OpResult) -> Entry {
    Entry {
        key: key.to_owned(),
        value: result.value.unwrap_or_default(),
        revision: result.revision.unwrap_or_default(),
        content_type: result.content_type.unwrap_or_default(),
        expires: result.expires,
        modified: None,
    }
}
