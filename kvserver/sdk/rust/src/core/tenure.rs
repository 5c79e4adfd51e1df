//! How long a lock is certainly held, by a clock of this machine.

use crate::core::codes;
use crate::core::errors::Error;
use crate::core::model::Revision;
use std::time::{Duration, Instant};

/// A lock that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Tenure {
    pub(crate) ttl: Duration,
    /// The revision that took it.
    pub(crate) fence: Revision,
    /// The revision of the last renewal.
    pub(crate) revision: Revision,
    /// When the last renewal that succeeded was sent.
    sent: Instant,
    lost: bool,
}

impl Tenure {
    pub(crate) fn new(ttl: Duration, fence: Revision, sent: Instant) -> Self {
        Self { ttl, fence, revision: fence, sent, lost: false }
    }

    /// Return whether the lock is certainly held at `now`.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        !self.lost && now.saturating_duration_since(self.sent) < self.ttl.mul_f64(0.9)
    }

    /// Return how long it is certainly held from `now` on.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.ttl.mul_f64(0.9).saturating_sub(now.saturating_duration_since(self.sent))
    }

    /// Note the outcome of a renewal that was sent at `sent`.
    pub(crate) fn renewed(&mut self, result: Result<Revision, Error>, sent: Instant) {
        match result {
            Ok(revision) => (self.revision, self.sent) = (revision, sent),
            Err(error) if matches!(error.code(), codes::NOT_FOUND | codes::PRECONDITION_FAILED) => self.lost = true,
            Err(_) => {} // the next renewal may succeed; until then the clock runs
        }
    }

    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        !self.is_held(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_nine_tenths_of_its_time_after_the_last_renewal_was_sent() {
        let (start, ttl) = (Instant::now(), Duration::from_secs(10));
        let mut tenure = Tenure::new(ttl, 5, start);
        assert!(tenure.is_held(start + Duration::from_millis(8_999)));
        assert!(tenure.is_lost(start + Duration::from_secs(9)));
        tenure.renewed(Ok(6), start + Duration::from_secs(3));
        assert!(tenure.is_held(start + Duration::from_secs(11)));
        assert_eq!((tenure.revision, tenure.fence), (6, 5));
        tenure.renewed(Err(Error::bad(codes::UNAVAILABLE, "")), start + Duration::from_secs(6));
        assert!(tenure.is_lost(start + Duration::from_secs(12)));
        tenure.renewed(Err(Error::bad(codes::PRECONDITION_FAILED, "")), start + Duration::from_secs(6));
        assert!(tenure.is_lost(start + Duration::from_secs(4)));
    }
}
