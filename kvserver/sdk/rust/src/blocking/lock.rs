//! A lock that a thread keeps.

use super::{Client, Stopper};
use crate::core::changes::Change;
use crate::core::codes;
use crate::core::errors::Error;
use crate::core::model::Revision;
use crate::core::scripts::random_name;
use crate::core::tenure::Tenure;
use crate::Result;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Shared {
    tenure: Mutex<Tenure>,
    released: Mutex<bool>,
    wake: Condvar,
}

/// A lock: a key that this client made, and keeps by renewing its expiry.
///
/// Whoever protects something with it hands [`fence`](Self::fence) to what is protected, which refuses smaller ones than
/// it has seen: then not even a holder that slept through its own expiry can do harm.
///
/// ```no_run
/// # use kvserver_client::blocking::Client;
/// # use std::time::Duration;
/// # let client = Client::connect("localhost:8080")?;
/// let lock = client.lock("locks/import", Duration::from_secs(10))?;
/// println!("mine, with fence {}", lock.fence());
/// lock.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lock {
    client: Client,
    name: String,
    shared: Arc<Shared>,
}

impl Lock {
    pub(crate) fn acquire(client: &Client, name: &str, ttl: Duration) -> Result<Self> {
        loop {
            let watch = client.watch("").key(name).snapshot().start()?;
            if let Some(lock) = Self::attempt(client, name, ttl)? {
                return Ok(lock);
            }
            let stopper: Stopper = watch.stopper();
            for change in watch {
                if matches!(change?, Change::Delete { .. }) {
                    stopper.stop();
                }
            }
        }
    }

    pub(crate) fn attempt(client: &Client, name: &str, ttl: Duration) -> Result<Option<Self>> {
        if ttl.is_zero() {
            return Err(Error::bad(codes::BAD_REQUEST, "the time to live of a lock is above zero"));
        }
        let (owner, sent) = (random_name(), Instant::now());
        let fence = match client.create(name, owner.clone()).ttl(ttl).send() {
            Ok(written) => written.revision,
            Err(error) if error.code() == codes::PRECONDITION_FAILED => return Ok(None),
            Err(error @ Error::OutcomeUnknown(_)) => match client.get(name)? {
                Some(entry) if entry.value == owner.as_bytes() => entry.revision,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            tenure: Mutex::new(Tenure::new(ttl, fence, sent)),
            released: Mutex::new(false),
            wake: Condvar::new(),
        });
        let lock = Self { client: client.clone(), name: name.to_owned(), shared };
        let (client, name, shared) = (lock.client.clone(), lock.name.clone(), lock.shared.clone());
        std::thread::spawn(move || keep(&client, &name, &shared));
        Ok(Some(lock))
    }

    /// Return a number that is greater than that of every earlier holder.
    pub fn fence(&self) -> Revision {
        self.tenure().fence
    }

    /// Return whether the lock is certainly held: by the local clock, counted from the last renewal that succeeded.
    pub fn is_held(&self) -> bool {
        self.tenure().is_held(Instant::now())
    }

    /// Give the lock back.
    ///
    /// # Errors
    /// [`Error::LockLost`] if it was not held any more; others as those of
    /// [`delete`](Client::delete): then it expires on its own.
    pub fn release(self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&self) -> Result<()> {
        {
            let mut released = self.shared.released.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *released, true) {
                return Ok(());
            }
            self.shared.wake.notify_all();
        }
        let tenure = self.tenure();
        let held = tenure.is_held(Instant::now());
        match self.client.delete_if(&self.name, tenure.revision) {
            Ok(true) if held => Ok(()),
            Ok(_) => Err(Error::LockLost),
            Err(error) if error.code() == codes::PRECONDITION_FAILED => Err(Error::LockLost),
            Err(error) => Err(error),
        }
    }

    fn tenure(&self) -> Tenure {
        self.shared.tenure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.give_back();
    }
}

/// Renew the lock at each third of its time, until it is released or lost. A release waits for a renewal under way, so
/// that it knows the last revision.
fn keep(client: &Client, name: &str, shared: &Shared) {
    loop {
        let released = shared.released.lock().unwrap_or_else(PoisonError::into_inner);
        let tenure = shared.tenure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waited = shared.wake.wait_timeout_while(released, tenure.ttl / 3, |released| !*released);
        let (released, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if *released || tenure.is_lost(now) {
            return;
        }
        let patient = client.with_timeout(tenure.left(now)).with_patience(tenure.left(now));
        let result = patient.touch_if(name, tenure.ttl, tenure.revision);
        shared.tenure.lock().unwrap_or_else(PoisonError::into_inner).renewed(result, now);
    }
}
