//! The client for threads.

mod lock;
mod mirror;
mod shell;
#[cfg(feature = "ws")]
mod socket;
mod watch;

pub use lock::Lock;
pub use mirror::Mirror;
#[cfg(feature = "ws")]
pub use watch::Wal;
pub use watch::{Scan, Stopper, Watch};

use self::shell::UreqShell;
use crate::core::batch::{Op, OpResult};
use crate::core::errors::ConfigError;
#[cfg(doc)]
use crate::core::errors::Error;
use crate::core::lists::{DeletePrefix, List};
use crate::core::model::{
    Deleted, Entry, Exchanged, IfChanged, Meta, Page, Patched, Revision, Status, Ticket, Written,
};
use crate::core::options::{client_setters, Options, Settings};
use crate::core::requests::{Atomic, Exchange, MirrorRequest, Put, WatchRequest};
use crate::core::scripts::{patch_text, Context, Next};
use crate::core::shell::Shell;
use crate::core::value::{Expiry, Value};
use crate::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Return what `future` yields. The blocking shell blocks instead of suspending, so it is ready at once.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a blocking call never suspends"),
    }
}

/// Settings of a [`Client`].
#[derive(Clone, Default)]
pub struct ClientBuilder {
    settings: Settings,
}

impl ClientBuilder {
    client_setters!();

    /// Return the client. It connects when it is first used.
    ///
    /// # Errors
    /// The URL or the token is malformed.
    pub fn build(self) -> Result<Client, ConfigError> {
        let shell = Arc::new(UreqShell::new(&self.settings)?);
        Ok(Client { context: Context { shell, options: self.settings.options } })
    }
}

/// A client of one server. It is cheap to clone, and threads may share it; clones share its connections.
///
/// ```no_run
/// use kvserver_client::blocking::Client;
///
/// let client = Client::connect("localhost:8080")?;
/// let written = client.put("theme", "dark").send()?;
/// assert_eq!(client.get("theme")?.unwrap().text()?, "dark");
/// client.put("theme", "light").if_revision(written.revision).send()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) context: Context<UreqShell>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.context.shell.servers().urls()).finish_non_exhaustive()
    }
}

impl Client {
    /// Return a builder, for all that can be set.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Return a client of the server at `url`, with the token of the variable `KVSERVER_TOKEN` if it is set.
    ///
    /// # Errors
    /// The URL or the token is malformed.
    pub fn connect(url: &str) -> Result<Self, ConfigError> {
        Self::builder().url(url).build()
    }

    /// Return a client of the server that the variables `KVSERVER_URL` and `KVSERVER_TOKEN` name; without them, of the
    /// one at `http://localhost:8080`.
    ///
    /// # Errors
    /// The URL or the token is malformed.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::builder().build()
    }

    fn with(&self, change: impl FnOnce(&mut Options)) -> Self {
        let mut other = self.clone();
        change(&mut other.context.options);
        other
    }

    /// Return a client on the same connections whose answers may take `timeout`.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with(|options| options.timeout = timeout)
    }

    /// Return a client on the same connections that repeats failed calls for `patience`; zero: never.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        self.with(|options| options.patience = patience)
    }

    /// Return a client on the same connections whose writes carry an `Idempotency-Key`, or none.
    #[must_use]
    pub fn with_idempotency(&self, idempotency: bool) -> Self {
        self.with(|options| options.idempotency = idempotency)
    }

    /// Return the entry of `key`, or `None`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotAnswered`].
    pub fn get(&self, key: &str) -> Result<Option<Entry>> {
        finish(self.context.get(key, None))
    }

    /// Return the entry of `key` with the bytes `first` to `last` (included; `None`: to the end) of its value.
    ///
    /// # Errors
    /// As [`get`](Self::get); `range_not_satisfiable` if the value ends before `first`.
    pub fn get_range(&self, key: &str, first: u64, last: Option<u64>) -> Result<Option<Entry>> {
        finish(self.context.get(key, Some((first, last))))
    }

    /// Return what is known of `key` without its value, or `None`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn head(&self, key: &str) -> Result<Option<Meta>> {
        finish(self.context.head(key))
    }

    /// Return the entry of `key` if it has another revision than this one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_if_changed(&self, key: &str, revision: Revision) -> Result<IfChanged> {
        finish(self.context.get_if_changed(key, revision))
    }

    /// Return the entries of many keys, in batches of 1,000.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Option<Entry>>> {
        finish(self.context.get_many(keys))
    }

    /// Store `value` under `key`. Nothing happens before [`Put::send`].
    ///
    /// ```no_run
    /// # use kvserver_client::{blocking::Client, Value};
    /// # use std::time::Duration;
    /// # let client = Client::connect("localhost:8080")?;
    /// client.put("theme", "dark").send()?;
    /// client.put("session/7", Value::json(&["ann", "bob"])?).ttl(Duration::from_secs(60)).send()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put(&self, key: &str, value: impl Into<Value>) -> Put<'_, Self> {
        Put::new(self, key, value.into())
    }

    /// Store `value` under `key` if there is no such key; else it fails with the code `precondition_failed`.
    pub fn create(&self, key: &str, value: impl Into<Value>) -> Put<'_, Self> {
        self.put(key, value).if_revision(0)
    }

    /// Store `value` under `key`, and return what was there.
    pub fn exchange(&self, key: &str, value: impl Into<Value>) -> Exchange<'_, Self> {
        Exchange::new(self, key, value.into())
    }

    /// Read `key`, and write what `next` makes of it on the condition that nothing came between; again if something
    /// did, 64 times at most. Returns the entry afterwards.
    ///
    /// ```no_run
    /// # use kvserver_client::{blocking::Client, Next};
    /// # let client = Client::connect("localhost:8080")?;
    /// client.update("log", |entry| {
    ///     let mut lines = entry.map_or(Vec::new(), |entry| entry.value.clone());
    ///     lines.extend_from_slice(b"one more\n");
    ///     Next::Put(lines.into())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `precondition_failed` if others were faster each time; otherwise as [`Put::send`].
    pub fn update(&self, key: &str, next: impl FnMut(Option<&Entry>) -> Next + Send) -> Result<Option<Entry>> {
        finish(self.context.update(key, next, 64))
    }

    /// Apply an RFC 7396 merge patch to the JSON of `key`, `{}` if it is absent.
    ///
    /// # Errors
    /// `not_json` if the value is none; [`Error::AnswerWithheld`] if it is done and the token may not read.
    pub fn patch<T: Serialize + ?Sized>(&self, key: &str, patch: &T) -> Result<Patched> {
        finish(self.context.patch(key, patch_text(patch)?, None))
    }

    /// Patch as [`patch`](Self::patch), only if `key` has this revision.
    ///
    /// # Errors
    /// `precondition_failed`, and those of [`patch`](Self::patch).
    pub fn patch_if<T: Serialize + ?Sized>(&self, key: &str, patch: &T, revision: Revision) -> Result<Patched> {
        finish(self.context.patch(key, patch_text(patch)?, Some(revision)))
    }

    /// Add `by` to the integer of `key`, 0 if it is absent. Returns the sum.
    ///
    /// # Errors
    /// `not_an_integer`, `overflow`; [`Error::AnswerWithheld`] if it is done and the token may not read.
    pub fn incr(&self, key: &str, by: i64) -> Result<i64> {
        finish(self.context.incr(key, by, None))
    }

    /// Add as [`incr`](Self::incr); a key that it makes expires after `ttl`.
    ///
    /// # Errors
    /// As [`incr`](Self::incr).
    pub fn incr_with_ttl(&self, key: &str, by: i64, ttl: Duration) -> Result<i64> {
        finish(self.context.incr(key, by, Some(ttl)))
    }

    /// Change when `key` expires. Returns its new revision.
    ///
    /// # Errors
    /// `not_found` if there is no such key.
    pub fn touch(&self, key: &str, expiry: impl Into<Expiry>) -> Result<Revision> {
        finish(self.context.touch(key, expiry.into(), None))
    }

    /// Touch as [`touch`](Self::touch), only if `key` has this revision.
    ///
    /// # Errors
    /// `not_found`, `precondition_failed`.
    pub fn touch_if(&self, key: &str, expiry: impl Into<Expiry>, revision: Revision) -> Result<Revision> {
        finish(self.context.touch(key, expiry.into(), Some(revision)))
    }

    /// Delete `key`. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::OutcomeUnknown`].
    pub fn delete(&self, key: &str) -> Result<bool> {
        finish(self.context.delete(key, None))
    }

    /// Delete `key` only if it has this revision. Returns whether it was there.
    ///
    /// # Errors
    /// `precondition_failed`, and those of [`delete`](Self::delete).
    pub fn delete_if(&self, key: &str, revision: Revision) -> Result<bool> {
        finish(self.context.delete(key, Some(revision)))
    }

    /// Return one page of a list.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn page(&self, list: &List) -> Result<Page> {
        finish(self.context.page(list))
    }

    /// Return an iterator over a list, however long. It asks for page after page; what `delimiter` folds is left out.
    pub fn scan(&self, list: &List) -> Scan {
        Scan::new(self.context.clone(), list)
    }

    /// Return all keys that begin with `prefix`, in byte order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        finish(self.context.keys(prefix))
    }

    /// Return how many keys begin with `prefix`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn count(&self, prefix: &str) -> Result<u64> {
        finish(self.context.count(prefix))
    }

    /// Delete many keys, in as many requests as it takes. What is written in the meantime is spared.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::OutcomeUnknown`]: some may be deleted.
    pub fn delete_prefix(&self, what: &DeletePrefix) -> Result<Deleted> {
        finish(self.context.delete_prefix(what))
    }

    /// Do many operations in one request, each on its own. Their results are not raised: see [`OpResult::check`].
    ///
    /// # Errors
    /// The batch as a whole is refused, or its outcome is unknown.
    pub fn batch(&self, ops: &[Op]) -> Result<Vec<OpResult>> {
        finish(self.context.batch(ops, false))
    }

    /// Do several operations as one. Nothing happens before [`Atomic::commit`].
    ///
    /// ```no_run
    /// # use kvserver_client::blocking::Client;
    /// # let client = Client::connect("localhost:8080")?;
    /// client.atomic().put("{ann}/name", "Ann").incr("{ann}/visits", 1).commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn atomic(&self) -> Atomic<'_, Self> {
        Atomic::new(self)
    }

    /// Watch the keys that begin with `prefix`, all of them if it is empty. Nothing happens before
    /// [`WatchRequest::start`].
    ///
    /// ```no_run
    /// # use kvserver_client::{blocking::Client, Change};
    /// # let client = Client::connect("localhost:8080")?;
    /// for change in client.watch("flags/").snapshot().start()? {
    ///     match change? {
    ///         Change::Put { key, value, .. } => println!("{key} = {value:?}"),
    ///         Change::Delete { key, .. } => println!("{key} is gone"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok::<(), kvserver_client::Error>(())
    /// # .map_err(Box::<dyn std::error::Error>::from)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self, prefix: &str) -> WatchRequest<'_, Self> {
        WatchRequest::new(self, prefix)
    }

    /// Keep a copy of the keys that begin with `prefix`. Nothing happens before [`MirrorRequest::start`].
    pub fn mirror(&self, prefix: &str) -> MirrorRequest<'_, Self> {
        MirrorRequest::new(self, prefix)
    }

    /// Take the lock `name`, waiting for it as long as it takes. A thread keeps it until it is dropped or released; if
    /// this process dies, it is free after `ttl`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotAnswered`], [`Error::OutcomeUnknown`].
    pub fn lock(&self, name: &str, ttl: Duration) -> Result<Lock> {
        Lock::acquire(self, name, ttl)
    }

    /// Take the lock `name` if it is free.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Lock>> {
        Lock::attempt(self, name, ttl)
    }

    /// Follow MemoryKV's feed as text: `Insert { key: k, value: v }` and so on, line by line. It has no cursor: after a
    /// break, lines are missing. [`watch`](Self::watch) has one.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotAnswered`].
    #[cfg(feature = "ws")]
    pub fn wal(&self) -> Result<Wal> {
        Wal::open(self.context.clone())
    }

    /// Return what is running.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn status(&self) -> Result<Status> {
        finish(self.context.status())
    }

    /// Return what the token may do, as the server reports it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn whoami(&self) -> Result<serde_json::Value> {
        finish(self.context.whoami())
    }

    /// Return how long the server takes to answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn ping(&self) -> Result<Duration> {
        finish(self.context.ping())
    }

    /// Return a ticket by which a browser may open one stream: `purpose` is `sse` or `websocket`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn ticket(&self, purpose: &str) -> Result<Ticket> {
        finish(self.context.ticket(purpose))
    }
}

impl Put<'_, Client> {
    /// Write.
    ///
    /// # Errors
    /// [`Error::Refused`], with the code `precondition_failed` if a condition does not hold; [`Error::OutcomeUnknown`].
    pub fn send(self) -> Result<Written> {
        finish(self.client.context.put(&self.key, self.options))
    }
}

impl Exchange<'_, Client> {
    /// Write.
    ///
    /// # Errors
    /// As [`Put::send`]; [`Error::AnswerWithheld`] if it is done, and what was there is withheld.
    pub fn send(self) -> Result<Exchanged> {
        finish(self.client.context.exchange(&self.key, self.options))
    }
}

impl Atomic<'_, Client> {
    /// Do all of it, or nothing.
    ///
    /// # Errors
    /// `batch_failed`, with [`Refused::failed`](crate::Refused::failed) and the results; `cross_slot`;
    /// [`Error::OutcomeUnknown`].
    pub fn commit(self) -> Result<Vec<OpResult>> {
        finish(self.client.context.batch(&self.ops, true))
    }
}
