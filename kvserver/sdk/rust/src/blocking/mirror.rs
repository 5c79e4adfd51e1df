//! A live copy of the keys below a prefix, kept by a thread.

use super::shell::UreqShell;
use super::{finish, Client};
use crate::core::errors::Error;
use crate::core::feed::Wish;
use crate::core::model::{Entry, Revision};
use crate::core::replica::{Entries, MirrorState, Replica};
use crate::core::requests::{MirrorRequest, OnChange};
use crate::core::watch::{Turn, WatchState, Watcher};
use crate::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Shared {
    replica: Mutex<Replica>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live, read-only copy of the keys below a prefix.
///
/// Messages are applied whole, so no reader sees half an atomic batch. After a gap the old copy stays until the new one is
/// complete. Dropping the mirror ends it.
pub struct Mirror {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

impl MirrorRequest<'_, Client> {
    /// Start a thread that keeps the copy, and return at once. [`Mirror::wait_synced`] waits for the first state.
    pub fn start(self) -> Mirror {
        let prefixes = if self.prefix.is_empty() { Vec::new() } else { vec![self.prefix] };
        let wish = Wish { prefixes, snapshot: true, patience: Some(Duration::MAX), ..Wish::default() };
        let shared = Arc::new(Shared::default());
        let broken = shared.clone();
        let on_state = Box::new(move |state| broken.lock().broken = matches!(state, WatchState::Waiting(..)));
        let watcher = Watcher::new(self.client.context.clone(), wish, Some(on_state));
        let (stop, kept) = (watcher.stop_switch(), shared.clone());
        std::thread::spawn(move || keep(watcher, &kept, self.on_change));
        Mirror { shared, stop }
    }
}

fn keep(mut watcher: Watcher<UreqShell>, shared: &Shared, mut on_change: Option<OnChange>) {
    loop {
        let differences = match finish(watcher.next(None)) {
            Turn::Message(envelope) => shared.lock().apply(envelope, Instant::now()),
            other => {
                let mut replica = shared.lock();
                replica.ended = true;
                if let Turn::Failed(error) = other {
                    replica.error = Some(error);
                }
                shared.changed.notify_all();
                return;
            }
        };
        shared.changed.notify_all();
        if let Some(on_change) = &mut on_change {
            for (key, old, new) in &differences {
                on_change(key, old.as_deref(), new.as_deref());
            }
        }
    }
}

impl Mirror {
    /// Return the entry of `key`.
    ///
    /// # Errors
    /// The error that ended the mirror.
    pub fn get(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        self.read(|replica| replica.entries().get(key).cloned())
    }

    /// Return all entries as they are at one moment.
    ///
    /// # Errors
    /// The error that ended the mirror.
    pub fn entries(&self) -> Result<Entries> {
        self.read(|replica| replica.entries().clone())
    }

    fn read<T>(&self, how: impl FnOnce(&Replica) -> T) -> Result<T> {
        let replica = self.shared.lock();
        match &replica.error {
            Some(error) => Err(error.clone()),
            None => Ok(how(&replica)),
        }
    }

    /// Return whether the copy can be trusted now.
    pub fn state(&self) -> MirrorState {
        self.shared.lock().state(Instant::now())
    }

    /// Return how long ago the server was heard; `None`: never.
    pub fn age(&self) -> Option<Duration> {
        self.shared.lock().heard.map(|heard| heard.elapsed())
    }

    /// Return the cursor after what was applied.
    pub fn cursor(&self) -> Option<String> {
        self.shared.lock().cursor.clone()
    }

    /// Wait until the first state is complete.
    ///
    /// # Errors
    /// [`Error::NotAnswered`] if it takes longer than `timeout`; the error that ended the mirror.
    pub fn wait_synced(&self, timeout: Duration) -> Result<()> {
        self.wait(timeout, "the first state", Replica::is_synced)
    }

    /// Wait until what was written at `revision` is applied: read your own writes. For keys below the prefix.
    ///
    /// # Errors
    /// As [`wait_synced`](Self::wait_synced).
    pub fn wait_revision(&self, revision: Revision, timeout: Duration) -> Result<()> {
        self.wait(timeout, "the revision", |replica| replica.is_synced() && replica.revision >= revision)
    }

    fn wait(&self, timeout: Duration, what: &str, done: impl Fn(&Replica) -> bool) -> Result<()> {
        let replica = self.shared.lock();
        let waiting = |replica: &mut Replica| !done(replica) && !replica.ended;
        let waited = self.shared.changed.wait_timeout_while(replica, timeout, waiting);
        let (replica, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &replica.error {
            Some(error) => Err(error.clone()),
            None if done(&replica) => Ok(()),
            None => Err(Error::late(what, timeout)),
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
