//! The memory that unfinished requests may take: of one connection, and of all.
//!
//! A request that arrives whole within one read costs nothing here. If a reader must wait for the rest of a request, it
//! reports the bytes it keeps (`meter`).
//!
//! - If the large unfinished requests of a connection exceed its budget, the stream that reports ends.
//! - If all unfinished requests exceed the budget of the server, connections are closed, beginning with the largest one
//!   of the address that has the most. So an address with many half-sent requests cannot make the server close the
//!   connection of another one.
//!
//! The budget of the server grows with each stream that has sent an ACK: a fleet may report all its names at once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fleet::limit::Limit;
use crate::xds::error::Error;
use crate::xds::http2::peer::network;
use crate::xds::limits::{Limits, SMALL_REQUEST};
use crate::xds::reached::Reached;
use crate::xds::stream::admission::Rounds;
use crate::xds::stream::wake::TaskWaker;

/// The budget of a server.
#[derive(Debug)]
pub(in crate::xds) struct Budget {
    limits: Limits,
    reached: Arc<Reached>,
    /// Bytes of all unfinished requests.
    unfinished: AtomicUsize,
    /// Streams that have sent an ACK.
    proven: AtomicUsize,
    next_number: AtomicU64,
    accounts: Mutex<HashMap<u64, Arc<Account>>>,
}

/// The account of one connection.
#[derive(Debug)]
pub(in crate::xds) struct Account {
    budget: Arc<Budget>,
    /// Unique within the server.
    pub(in crate::xds) number: u64,
    /// `None` over a Unix socket.
    pub(in crate::xds) address: Option<SocketAddr>,
    /// The places of the streams at the gate.
    pub(in crate::xds) rounds: Arc<Rounds>,
    task_waker: Arc<TaskWaker>,
    /// Bytes of all unfinished requests, and of the large ones.
    unfinished: AtomicUsize,
    large: AtomicUsize,
    /// The connection is to be closed.
    is_doomed: AtomicBool,
}

impl Budget {
    pub(in crate::xds) fn new(limits: Limits, reached: Arc<Reached>) -> Self {
        Self {
            limits,
            reached,
            unfinished: AtomicUsize::new(0),
            proven: AtomicUsize::new(0),
            next_number: AtomicU64::new(0),
            accounts: Mutex::default(),
        }
    }

    /// The account of a new connection, whose task is woken if the connection is to be closed.
    pub(in crate::xds) fn open(
        self: &Arc<Self>,
        address: Option<SocketAddr>,
        task_waker: Arc<TaskWaker>,
    ) -> Arc<Account> {
        let account = Arc::new(Account {
            budget: Arc::clone(self),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            address,
            rounds: Arc::default(),
            task_waker,
            unfinished: AtomicUsize::new(0),
            large: AtomicUsize::new(0),
            is_doomed: AtomicBool::new(false),
        });
        let mut accounts = self.accounts.lock();
        accounts.insert(account.number, Arc::clone(&account));
        drop(accounts);
        account
    }

    /// The connection is over.
    pub(in crate::xds) fn close(&self, account: &Account) {
        self.accounts.lock().remove(&account.number);
    }

    fn max(&self) -> usize {
        let proven = self.proven.load(Ordering::Relaxed);
        self.limits.unfinished + proven * self.limits.unfinished_per_proven
    }

    /// Doom connections until the others are within the budget.
    fn relieve(&self) {
        let accounts = self.accounts.lock();
        let mut alive: Vec<(&Account, usize)> = accounts
            .values()
            .filter(|account| !account.is_doomed())
            .map(|account| (&**account, account.unfinished.load(Ordering::Relaxed)))
            .collect();
        let mut sum: usize = alive.iter().map(|(_, bytes)| bytes).sum();
        while sum > self.max() {
            let mut by_network: HashMap<Option<IpAddr>, usize> = HashMap::new();
            for (account, bytes) in &alive {
                *by_network.entry(account.address.map(network)).or_default() += bytes;
            }
            let size = |(account, bytes): &(&Account, usize)| (by_network[&account.address.map(network)], *bytes);
            let Some(largest) = (0..alive.len()).max_by_key(|index| size(&alive[*index])) else {
                return;
            };
            let (account, bytes) = alive.swap_remove(largest);
            sum -= bytes;
            account.is_doomed.store(true, Ordering::Release);
            account.task_waker.wake_task();
            let reason = "the unfinished requests of all clients exceed their budget; the largest connection is closed";
            self.reached.note(Limit::Unfinished, account.address, &reason);
        }
    }
}

impl Account {
    /// Whether the connection is to be closed.
    pub(in crate::xds) fn is_doomed(&self) -> bool {
        self.is_doomed.load(Ordering::Acquire)
    }

    /// The unfinished request of a stream has grown or shrunk to `after` bytes.
    pub(in crate::xds) fn keep(&self, before: usize, after: usize) {
        let large = |bytes: usize| if bytes > SMALL_REQUEST { bytes } else { 0 };
        change(&self.large, large(before), large(after));
        change(&self.unfinished, before, after);

        let budget = &self.budget;
        change(&budget.unfinished, before, after);
        if after > before && budget.unfinished.load(Ordering::Relaxed) > budget.max() {
            budget.relieve();
        }
    }

    /// Check an unfinished request of a stream.
    ///
    /// # Errors
    /// The request is large, and the large ones of the connection exceed its budget.
    pub(in crate::xds) fn check(&self, bytes: usize) -> Result<(), Error> {
        let max = self.budget.limits.connection_unfinished;
        let large = self.large.load(Ordering::Relaxed);
        if bytes <= SMALL_REQUEST || large <= max {
            return Ok(());
        }
        let error = Error::TooMuch {
            has: "the unfinished requests of the connection have",
            found: large,
            unit: "bytes",
            max,
        };
        self.budget
            .reached
            .note(Limit::ConnectionUnfinished, self.address, &error);
        Err(error)
    }

    /// A stream of the connection sent its first ACK. The result is kept as long as the stream.
    pub(in crate::xds) fn prove(self: &Arc<Self>) -> Proven {
        self.budget.proven.fetch_add(1, Ordering::Relaxed);
        Proven(Arc::clone(self))
    }
}

/// A stream that has sent an ACK.
#[derive(Debug)]
pub(in crate::xds) struct Proven(Arc<Account>);

impl Drop for Proven {
    fn drop(&mut self) {
        self.0.budget.proven.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Replace a part of a sum.
fn change(sum: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        sum.fetch_add(after - before, Ordering::Relaxed);
    } else if after < before {
        sum.fetch_sub(before - after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::xds::stream::in_flight::Watchdog;
    use crate::xds::stream::meter::Meter;

    const LARGE: usize = 1024 * 1024;

    fn budget(limits: Limits) -> Arc<Budget> {
        Arc::new(Budget::new(limits, Arc::new(Reached::new(Fleet::default()))))
    }

    fn open(budget: &Arc<Budget>, address: &str) -> Arc<Account> {
        budget.open(Some(address.parse().unwrap()), Arc::default())
    }

    /// A meter of a new stream that keeps so many bytes.
    fn keeps(account: &Arc<Account>, bytes: usize) -> (Meter, Result<(), Error>) {
        let watchdog = Watchdog::unlimited();
        let progress = watchdog.admit(account).unwrap();
        let mut meter = Meter::new(account, progress.cell());
        let result = meter.waits(bytes);
        (meter, result)
    }

    #[test]
    fn large_requests_of_a_connection_have_a_budget_and_small_ones_do_not_count() {
        let budget = budget(Limits {
            connection_unfinished: 2 * LARGE,
            ..Limits::new(100, 100)
        });
        let account = open(&budget, "10.0.0.1:1");
        let small: Vec<_> = (0..50).map(|_| keeps(&account, SMALL_REQUEST)).collect();
        let large = [keeps(&account, LARGE), keeps(&account, LARGE)];
        assert!(small.iter().chain(&large).all(|(_, result)| result.is_ok()));
        let (meter, result) = keeps(&account, SMALL_REQUEST + 1);
        assert!(matches!(result, Err(Error::TooMuch { .. })));
        drop((meter, large));
        assert!(keeps(&account, 2 * LARGE).1.is_ok());
        drop(small);
        assert_eq!(budget.unfinished.load(Ordering::Relaxed), 0);
        assert_eq!(account.large.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_largest_connection_of_the_largest_address_is_closed_first() {
        let budget = budget(Limits {
            unfinished: 10 * LARGE,
            unfinished_per_proven: LARGE,
            ..Limits::new(100, 100)
        });
        let honest = open(&budget, "10.0.0.1:1");
        let greedy = [2, 3, 1].map(|size| {
            let account = open(&budget, "10.0.0.2:1");
            let meter = keeps(&account, size * LARGE);
            (account, meter)
        });
        let whole = keeps(&honest, 4 * LARGE);
        let doomed = || greedy.each_ref().map(|(account, _)| account.is_doomed());
        assert_eq!(doomed(), [false; 3]);

        let proven = honest.prove();
        let more = keeps(&honest, LARGE);
        assert_eq!(doomed(), [false; 3], "an ACK adds to the budget");
        drop(proven);
        let more_yet = keeps(&honest, 1);
        assert_eq!(doomed(), [false, true, false]);
        assert!(!honest.is_doomed());
        drop((whole, more, more_yet));
    }
}
