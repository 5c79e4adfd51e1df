//! The client for tasks, on tokio. It has the verbs of the blocking client.

mod connection;
mod lock;
mod mirror;
mod shell;
mod watch;

pub use lock::Lock;
pub use mirror::Mirror;
#[cfg(feature = "ws")]
pub use watch::Wal;
pub use watch::{Scan, Watch};

use self::shell::HyperShell;
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
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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
        let shell = Arc::new(HyperShell::new(&self.settings)?);
        Ok(Client { context: Context { shell, options: self.settings.options } })
    }
}

/// A client of one server. It is cheap to clone, and tasks may share it; clones share its connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kvserver_client::asynchronous::Client;
///
/// let client = Client::connect("localhost:8080")?;
/// let written = client.put("theme", "dark").send().await?;
/// assert_eq!(client.get("theme").await?.unwrap().text()?, "dark");
/// client.put("theme", "light").if_revision(written.revision).send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) context: Context<HyperShell>,
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
    pub async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.context.get(key, None).await
    }

    /// Return the entry of `key` with the bytes `first` to `last` (included; `None`: to the end) of its value.
    ///
    /// # Errors
    /// As [`get`](Self::get); `range_not_satisfiable` if the value ends before `first`.
    pub async fn get_range(&self, key: &str, first: u64, last: Option<u64>) -> Result<Option<Entry>> {
        self.context.get(key, Some((first, last))).await
    }

    /// Return what is known of `key` without its value, or `None`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn head(&self, key: &str) -> Result<Option<Meta>> {
        self.context.head(key).await
    }

    /// Return the entry of `key` if it has another revision than this one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_if_changed(&self, key: &str, revision: Revision) -> Result<IfChanged> {
        self.context.get_if_changed(key, revision).await
    }

    /// Return the entries of many keys, in batches of 1,000.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Option<Entry>>> {
        self.context.get_many(keys).await
    }

    /// Store `value` under `key`. Nothing happens before [`Put::send`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kvserver_client::{asynchronous::Client, Value};
    /// # use std::time::Duration;
    /// # let client = Client::connect("localhost:8080")?;
    /// client.put("theme", "dark").send().await?;
    /// client.put("session/7", Value::json(&["ann", "bob"])?).ttl(Duration::from_secs(60)).send().await?;
    /// # Ok(())
    /// # }
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
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kvserver_client::{asynchronous::Client, Next};
    /// # let client = Client::connect("localhost:8080")?;
    /// client.update("log", |entry| {
    ///     let mut lines = entry.map_or(Vec::new(), |entry| entry.value.clone());
    ///     lines.extend_from_slice(b"one more\n");
    ///     Next::Put(lines.into())
    /// }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `precondition_failed` if others were faster each time; otherwise as [`Put::send`].
    pub async fn update(&self, key: &str, next: impl FnMut(Option<&Entry>) -> Next + Send) -> Result<Option<Entry>> {
        self.context.update(key, next, 64).await
    }

    /// Apply an RFC 7396 merge patch to the JSON of `key`, `{}` if it is absent.
    ///
    /// # Errors
    /// `not_json` if the value is none; [`Error::AnswerWithheld`] if it is done and the token may not read.
    pub async fn patch<T: Serialize + ?Sized>(&self, key: &str, patch: &T) -> Result<Patched> {
        self.context.patch(key, patch_text(patch)?, None).await
    }

    /// Patch as [`patch`](Self::patch), only if `key` has this revision.
    ///
    /// # Errors
    /// `precondition_failed`, and those of [`patch`](Self::patch).
    pub async fn patch_if<T: Serialize + ?Sized>(&self, key: &str, patch: &T, revision: Revision) -> Result<Patched> {
        self.context.patch(key, patch_text(patch)?, Some(revision)).await
    }

    /// Add `by` to the integer of `key`, 0 if it is absent. Returns the sum.
    ///
    /// # Errors
    /// `not_an_integer`, `overflow`; [`Error::AnswerWithheld`] if it is done and the token may not read.
    pub async fn incr(&self, key: &str, by: i64) -> Result<i64> {
        self.context.incr(key, by, None).await
    }

    /// Add as [`incr`](Self::incr); a key that it makes expires after `ttl`.
    ///
    /// # Errors
    /// As [`incr`](Self::incr).
    pub async fn incr_with_ttl(&self, key: &str, by: i64, ttl: Duration) -> Result<i64> {
        self.context.incr(key, by, Some(ttl)).await
    }

    /// Change when `key` expires. Returns its new revision.
    ///
    /// # Errors
    /// `not_found` if there is no such key.
    pub async fn touch(&self, key: &str, expiry: impl Into<Expiry>) -> Result<Revision> {
        self.context.touch(key, expiry.into(), None).await
    }

    /// Touch as [`touch`](Self::touch), only if `key` has this revision.
    ///
    /// # Errors
    /// `not_found`, `precondition_failed`.
    pub async fn touch_if(&self, key: &str, expiry: impl Into<Expiry>, revision: Revision) -> Result<Revision> {
        self.context.touch(key, expiry.into(), Some(revision)).await
    }

    /// Delete `key`. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::OutcomeUnknown`].
    pub async fn delete(&self, key: &str) -> Result<bool> {
        self.context.delete(key, None).await
    }

    /// Delete `key` only if it has this revision. Returns whether it was there.
    ///
    /// # Errors
    /// `precondition_failed`, and those of [`delete`](Self::delete).
    pub async fn delete_if(&self, key: &str, revision: Revision) -> Result<bool> {
        self.context.delete(key, Some(revision)).await
    }

    /// Return one page of a list.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn page(&self, list: &List) -> Result<Page> {
        self.context.page(list).await
    }

    /// Return a stream of a list, however long. It asks for page after page; what `delimiter` folds is left out.
    pub fn scan(&self, list: &List) -> Scan {
        Scan::new(self.context.clone(), list)
    }

    /// Return all keys that begin with `prefix`, in byte order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.context.keys(prefix).await
    }

    /// Return how many keys begin with `prefix`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn count(&self, prefix: &str) -> Result<u64> {
        self.context.count(prefix).await
    }

    /// Delete many keys, in as many requests as it takes. What is written in the meantime is spared.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::OutcomeUnknown`]: some may be deleted.
    pub async fn delete_prefix(&self, what: &DeletePrefix) -> Result<Deleted> {
        self.context.delete_prefix(what).await
    }

    /// Do many operations in one request, each on its own. Their results are not raised: see [`OpResult::check`].
    ///
    /// # Errors
    /// The batch as a whole is refused, or its outcome is unknown.
    pub async fn batch(&self, ops: &[Op]) -> Result<Vec<OpResult>> {
        self.context.batch(ops, false).await
    }

    /// Do several operations as one. Nothing happens before [`Atomic::commit`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kvserver_client::asynchronous::Client;
    /// # let client = Client::connect("localhost:8080")?;
    /// client.atomic().put("{ann}/name", "Ann").incr("{ann}/visits", 1).commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn atomic(&self) -> Atomic<'_, Self> {
        Atomic::new(self)
    }

    /// Watch the keys that begin with `prefix`, all of them if it is empty. Nothing happens before
    /// [`WatchRequest::start`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kvserver_client::{asynchronous::Client, Change};
    /// # let client = Client::connect("localhost:8080")?;
    /// let mut watch = client.watch("flags/").snapshot().start().await?;
    /// while let Some(change) = watch.next().await {
    ///     match change? {
    ///         Change::Put { key, value, .. } => println!("{key} = {value:?}"),
    ///         Change::Delete { key, .. } => println!("{key} is gone"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self, prefix: &str) -> WatchRequest<'_, Self> {
        WatchRequest::new(self, prefix)
    }

    /// Keep a copy of the keys that begin with `prefix`. Nothing happens before [`MirrorRequest::start`].
    pub fn mirror(&self, prefix: &str) -> MirrorRequest<'_, Self> {
        MirrorRequest::new(self, prefix)
    }

    /// Take the lock `name`, waiting for it as long as it takes. A task keeps it until it is dropped or released; if
    /// this process dies, it is free after `ttl`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotAnswered`], [`Error::OutcomeUnknown`].
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Lock> {
        Lock::acquire(self, name, ttl).await
    }

    /// Take the lock `name` if it is free.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Lock>> {
        Lock::attempt(self, name, ttl).await
    }

    /// Follow MemoryKV's feed as text: `Insert { key: k, value: v }` and so on, line by line. It has no cursor: after a
    /// break, lines are missing. [`watch`](Self::watch) has one.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotAnswered`].
    #[cfg(feature = "ws")]
    pub async fn wal(&self) -> Result<Wal> {
        Wal::open(self.context.clone()).await
    }

    /// Return what is running.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn status(&self) -> Result<Status> {
        self.context.status().await
    }

    /// Return what the token may do, as the server reports it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn whoami(&self) -> Result<serde_json::Value> {
        self.context.whoami().await
    }

    /// Return how long the server takes to answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn ping(&self) -> Result<Duration> {
        self.context.ping().await
    }

    /// Return a ticket by which a browser may open one stream: `purpose` is `sse` or `websocket`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn ticket(&self, purpose: &str) -> Result<Ticket> {
        self.context.ticket(purpose).await
    }
}

impl Put<'_, Client> {
    /// Write.
    ///
    /// # Errors
    /// [`Error::Refused`], with the code `precondition_failed` if a condition does not hold; [`Error::OutcomeUnknown`].
    pub async fn send(self) -> Result<Written> {
        self.client.context.put(&self.key, self.options).await
    }
}

impl Exchange<'_, Client> {
    /// Write.
    ///
    /// # Errors
    /// As [`Put::send`]; [`Error::AnswerWithheld`] if it is done, and what was there is withheld.
    pub async fn send(self) -> Result<Exchanged> {
        self.client.context.exchange(&self.key, self.options).await
    }
}

impl Atomic<'_, Client> {
    /// Do all of it, or nothing.
    ///
    /// # Errors
    /// `batch_failed`, with [`Refused::failed`](crate::Refused::failed) and the results; `cross_slot`;
    /// [`Error::OutcomeUnknown`].
    pub async fn commit(self) -> Result<Vec<OpResult>> {
        self.client.context.batch(&self.ops, true).await
    }
}

impl<'c> IntoFuture for Put<'c, Client> {
    type Output = Result<Written>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl<'c> IntoFuture for Exchange<'c, Client> {
    type Output = Result<Exchanged>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
