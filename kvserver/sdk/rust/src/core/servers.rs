//! The servers of one store, in the order of preference, and which of them is used now.

use crate::core::calls::{Base, Outcome};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The most time to connect, where another server can be asked instead.
const CONNECT: Duration = Duration::from_secs(2);

/// What each server is asked with. A client uses the first until it fails, then the next, and stays there.
pub(crate) struct Servers {
    bases: Vec<Base>,
    current: AtomicUsize,
}

impl Servers {
    /// Begin with the first of `bases`, of which there is one at least.
    pub(crate) fn new(bases: Vec<Base>) -> Self {
        assert!(!bases.is_empty());
        Self { bases, current: AtomicUsize::new(0) }
    }

    /// Return how many there are.
    pub(crate) fn count(&self) -> usize {
        self.bases.len()
    }

    /// Return the URLs of all, with commas between them.
    pub(crate) fn urls(&self) -> String {
        self.bases.iter().map(|base| base.address.url()).collect::<Vec<_>>().join(",")
    }

    /// Return the number of the server that is used now.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Return what server `number` is asked with.
    pub(crate) fn base(&self, number: usize) -> &Base {
        &self.bases[number]
    }

    /// Use the server after `number` from now on, unless that one was left already.
    pub(crate) fn leave(&self, number: usize) {
        let next = (number + 1) % self.bases.len();
        let _ = self.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Leave server `number`, which gave `outcome`, if another may do better.
    pub(crate) fn note(&self, number: usize, outcome: &Outcome) {
        if outcome.is_better_elsewhere() {
            self.leave(number);
        }
    }

    /// Return how long a connection may take, for a request that may take `timeout`.
    pub(crate) fn connect_time(&self, timeout: Duration) -> Duration {
        if self.bases.len() == 1 {
            timeout
        } else {
            timeout.min(CONNECT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::options::Address;

    fn three() -> Servers {
        let base = |url| Base { address: Address::parse(url).unwrap(), authorization: None };
        Servers::new(["a:1", "b:2", "c:3"].map(base).to_vec())
    }

    #[test]
    fn a_server_is_left_once_however_many_requests_failed_there() {
        let servers = three();
        servers.leave(0);
        servers.leave(0);
        assert_eq!(servers.current(), 1);
        servers.leave(1);
        servers.leave(2);
        assert_eq!(servers.current(), 0);
    }

    #[test]
    fn only_what_another_may_answer_makes_a_client_leave() {
        let answer = |status| {
            Outcome::Answer(crate::core::calls::Answer { status, headers: http::HeaderMap::new(), body: Vec::new() })
        };
        for (outcome, leaves) in [
            (Outcome::NeverSent(String::new()), true),
            (Outcome::Lost(String::new()), true),
            (answer(500), true),
            (answer(503), true),
            (answer(204), false),
            (answer(401), false),
            (answer(429), false),
            (answer(507), false),
        ] {
            let servers = three();
            servers.note(0, &outcome);
            assert_eq!(servers.current(), usize::from(leaves), "{outcome:?}");
        }
    }

    #[test]
    fn a_connection_is_awaited_for_long_only_where_there_is_no_other() {
        let long = Duration::from_secs(10);
        assert_eq!(three().connect_time(long), CONNECT);
        let one = Servers::new(vec![three().base(0).clone()]);
        assert_eq!((one.connect_time(long), one.urls()), (long, "http://a:1".to_owned()));
    }
}
