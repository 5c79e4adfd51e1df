//! A lock that a task keeps.

use super::Client;
use crate::core::changes::Change;
use crate::core::codes;
use crate::core::errors::Error;
use crate::core::model::Revision;
use crate::core::scripts::random_name;
use crate::core::tenure::Tenure;
use crate::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

struct Shared {
    tenure: Mutex<Tenure>,
    /// Whether it was given back; locked while a renewal is under way.
    released: tokio::sync::Mutex<bool>,
    wake: Notify,
}

/// A lock: a key that this client made, and keeps by renewing its expiry. As the blocking client's;
/// dropping it gives it back from a task of its own.
pub struct Lock {
    client: Client,
    name: String,
    shared: Arc<Shared>,
    given_back: bool,
}

impl Lock {
    pub(crate) async fn acquire(client: &Client, name: &str, ttl: Duration) -> Result<Self> {
        loop {
            let mut watch = client.watch("").key(name).snapshot().start().await?;
            if let Some(lock) = Self::attempt(client, name, ttl).await? {
                return Ok(lock);
            }
            while let Some(change) = watch.next().await {
                if matches!(change?, Change::Delete { .. }) {
                    break;
                }
            }
        }
    }

    pub(crate) async fn attempt(client: &Client, name: &str, ttl: Duration) -> Result<Option<Self>> {
        if ttl.is_zero() {
            return Err(Error::bad(codes::BAD_REQUEST, "the time to live of a lock is above zero"));
        }
        let (owner, sent) = (random_name(), Instant::now());
        let fence = match client.create(name, owner.clone()).ttl(ttl).send().await {
            Ok(written) => written.revision,
            Err(error) if error.code() == codes::PRECONDITION_FAILED => return Ok(None),
            Err(error @ Error::OutcomeUnknown(_)) => match client.get(name).await? {
                Some(entry) if entry.value == owner.as_bytes() => entry.revision,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            tenure: Mutex::new(Tenure::new(ttl, fence, sent)),
            released: tokio::sync::Mutex::new(false),
            wake: Notify::new(),
        });
        tokio::spawn(keep(client.clone(), name.to_owned(), shared.clone()));
        Ok(Some(Self { client: client.clone(), name: name.to_owned(), shared, given_back: false }))
    }

    /// Return a number that is greater than that of every earlier holder.
    pub fn fence(&self) -> Revision {
        tenure(&self.shared).fence
    }

    /// Return whether the lock is certainly held: by the local clock, counted from the last renewal that succeeded.
    pub fn is_held(&self) -> bool {
        tenure(&self.shared).is_held(Instant::now())
    }

    /// Give the lock back.
    ///
    /// # Errors
    /// [`Error::LockLost`] if it was not held any more; others as those of
    /// [`delete`](Client::delete): then it expires on its own.
    pub async fn release(mut self) -> Result<()> {
        self.given_back = true;
        give_back(&self.client, &self.name, &self.shared).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        let (client, name, shared) = (self.client.clone(), self.name.clone(), self.shared.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { give_back(&client, &name, &shared).await });
        }
    }
}

fn tenure(shared: &Shared) -> Tenure {
    shared.tenure.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn give_back(client: &Client, name: &str, shared: &Shared) -> Result<()> {
    let mut released = shared.released.lock().await;
    *released = true;
    drop(released);
    shared.wake.notify_one();
    let tenure = tenure(shared);
    let held = tenure.is_held(Instant::now());
    match client.delete_if(name, tenure.revision).await {
        Ok(true) if held => Ok(()),
        Ok(_) => Err(Error::LockLost),
        Err(error) if error.code() == codes::PRECONDITION_FAILED => Err(Error::LockLost),
        Err(error) => Err(error),
    }
}

/// Renew the lock at each third of its time, until it is released or lost. A release waits for a renewal under way, so
/// that it knows the last revision.
async fn keep(client: Client, name: String, shared: Arc<Shared>) {
    loop {
        let _ = tokio::time::timeout(tenure(&shared).ttl / 3, shared.wake.notified()).await;
        let released = shared.released.lock().await;
        let (tenure, now) = (tenure(&shared), Instant::now());
        if *released || tenure.is_lost(now) {
            return;
        }
        let patient = client.with_timeout(tenure.left(now)).with_patience(tenure.left(now));
        let result = patient.touch_if(&name, tenure.ttl, tenure.revision).await;
        shared.tenure.lock().unwrap_or_else(PoisonError::into_inner).renewed(result, now);
    }
}
