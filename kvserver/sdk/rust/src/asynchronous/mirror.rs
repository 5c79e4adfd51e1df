//! A live copy of the keys below a prefix, kept by a task.

use super::shell::HyperShell;
use super::Client;
use crate::core::errors::Error;
use crate::core::feed::Wish;
use crate::core::model::{Entry, Revision};
use crate::core::replica::{Entries, MirrorState, Replica};
use crate::core::requests::{MirrorRequest, OnChange};
use crate::core::watch::{Turn, WatchState, Watcher};
use crate::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

#[derive(Default)]
struct Shared {
    replica: Mutex<Replica>,
    changed: Notify,
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
    task: JoinHandle<()>,
}

impl MirrorRequest<'_, Client> {
    /// Start a task that keeps the copy, and return at once. [`Mirror::wait_synced`] waits for the first state.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Mirror {
        let prefixes = if self.prefix.is_empty() { Vec::new() } else { vec![self.prefix] };
        let wish = Wish { prefixes, snapshot: true, patience: Some(Duration::MAX), ..Wish::default() };
        let shared = Arc::new(Shared::default());
        let broken = shared.clone();
        let on_state = Box::new(move |state| broken.lock().broken = matches!(state, WatchState::Waiting(..)));
        let watcher = Watcher::new(self.client.context.clone(), wish, Some(on_state));
        let task = tokio::spawn(keep(watcher, shared.clone(), self.on_change));
        Mirror { shared, task }
    }
}

async fn keep(mut watcher: Watcher<HyperShell>, shared: Arc<Shared>, mut on_change: Option<OnChange>) {
    loop {
        let differences = match watcher.next(None).await {
            Turn::Message(envelope) => shared.lock().apply(envelope, Instant::now()),
            other => {
                let mut replica = shared.lock();
                replica.ended = true;
                if let Turn::Failed(error) = other {
                    replica.error = Some(error);
                }
                shared.changed.notify_waiters();
                return;
            }
        };
        shared.changed.notify_waiters();
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
    pub async fn wait_synced(&self, timeout: Duration) -> Result<()> {
        self.wait(timeout, "the first state", Replica::is_synced).await
    }

    /// Wait until what was written at `revision` is applied: read your own writes. For keys below the prefix.
    ///
    /// # Errors
    /// As [`wait_synced`](Self::wait_synced).
    pub async fn wait_revision(&self, revision: Revision, timeout: Duration) -> Result<()> {
        self.wait(timeout, "the revision", move |replica| replica.is_synced() && replica.revision >= revision).await
    }

    async fn wait(&self, timeout: Duration, what: &str, done: impl Fn(&Replica) -> bool) -> Result<()> {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.shared.changed.notified());
                changed.as_mut().enable();
                if self.read(&done)? {
                    return Ok(());
                }
                changed.await;
            }
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(result) => result,
            Err(_) => Err(Error::late(what, timeout)),
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}
