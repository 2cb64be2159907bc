//! The memory that unfinished requests and long lists of names may take: of one connection, and of all.
//!
//! A request that arrives whole within one read costs nothing here. If a reader must wait for the rest of a request, it
//! reports the bytes it keeps (`meter`). A stream that subscribes to a long list of names, which it does not share with
//! other streams, reports the memory of the list ([`Lists`]).
//!
//! - If the large unfinished requests or the lists of a connection exceed its budget, the stream that reports ends.
//! - If all unfinished requests, or all lists, exceed the budget of the server, connections are closed, beginning with the
//!   largest one of the address that has the most. So an address with many half-sent requests or lists cannot make the
//!   server close the connection of another one.
//!
//! The budgets of the server grow with each stream that has sent an ACK: a fleet may report all its names at once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fleet::limit::Limit;
use crate::xds::error::Error;
use crate::xds::http2::peer::network;
use crate::xds::limits::{Limits, SHORT_LIST, SMALL_REQUEST};
use crate::xds::reached::Reached;
use crate::xds::session::subscription::names::Names;
use crate::xds::stream::admission::Rounds;
use crate::xds::stream::wake::TaskWaker;

/// The budget of a server.
#[derive(Debug)]
pub(in crate::xds) struct Budget {
    limits: Limits,
    reached: Arc<Reached>,
    /// Bytes of all unfinished requests, and of all lists.
    sums: [AtomicUsize; 2],
    /// Streams that have sent an ACK.
    proven: AtomicUsize,
    next_number: AtomicU64,
    accounts: Mutex<HashMap<u64, Arc<Account>>>,
}

/// What takes memory. Gives the index of its sum.
#[derive(Debug, Clone, Copy)]
enum Use {
    Unfinished,
    Names,
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
    /// Bytes of all unfinished requests, and of all lists.
    sums: [AtomicUsize; 2],
    /// Bytes of the large unfinished requests.
    large: AtomicUsize,
    /// The connection is to be closed.
    is_doomed: AtomicBool,
}

impl Budget {
    pub(in crate::xds) fn new(limits: Limits, reached: Arc<Reached>) -> Self {
        Self {
            limits,
            reached,
            sums: Default::default(),
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
            sums: Default::default(),
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

    fn max(&self, of: Use) -> usize {
        let proven = self.proven.load(Ordering::Relaxed);
        let (base, per_proven) = match of {
            Use::Unfinished => (self.limits.unfinished, self.limits.unfinished_per_proven),
            Use::Names => (self.limits.names, self.limits.names_per_proven),
        };
        base + proven * per_proven
    }

    /// Doom connections until the others are within the budget.
    fn relieve(&self, of: Use) {
        let accounts = self.accounts.lock();
        let mut alive: Vec<(&Account, usize)> = accounts
            .values()
            .filter(|account| !account.is_doomed())
            .map(|account| (&**account, account.sums[of as usize].load(Ordering::Relaxed)))
            .collect();
        let mut sum: usize = alive.iter().map(|(_, bytes)| bytes).sum();
        while sum > self.max(of) {
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
            let (limit, what) = match of {
                Use::Unfinished => (Limit::Unfinished, "unfinished requests"),
                Use::Names => (Limit::Names, "subscribed names"),
            };
            let reason = format!("the {what} of all clients exceed their budget; the largest connection is closed");
            self.reached.note(limit, account.address, &reason);
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
        self.change(Use::Unfinished, before, after);
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

    /// A stream of the connection uses other bytes than before.
    fn change(&self, of: Use, before: usize, after: usize) {
        let budget = &self.budget;
        change(&self.sums[of as usize], before, after);
        change(&budget.sums[of as usize], before, after);
        if after > before && budget.sums[of as usize].load(Ordering::Relaxed) > budget.max(of) {
            budget.relieve(of);
        }
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

/// Reports the memory of the long lists of names of one stream.
#[derive(Debug)]
pub(in crate::xds) struct Lists {
    account: Arc<Account>,
    bytes: usize,
}

impl Lists {
    pub(in crate::xds) fn new(account: &Arc<Account>) -> Self {
        Self {
            account: Arc::clone(account),
            bytes: 0,
        }
    }

    /// The stream subscribes to these lists.
    ///
    /// # Errors
    /// The lists of the connection exceed its budget.
    pub(in crate::xds) fn set<'a>(&mut self, lists: impl Iterator<Item = &'a Names>) -> Result<(), Error> {
        let bytes = lists.filter(|names| names.len() > SHORT_LIST).map(memory).sum();
        let before = std::mem::replace(&mut self.bytes, bytes);
        let account = &self.account;
        account.change(Use::Names, before, bytes);

        let (found, max) = (
            account.sums[Use::Names as usize].load(Ordering::Relaxed),
            account.budget.limits.connection_names,
        );
        if bytes <= before || found <= max {
            return Ok(());
        }
        let error = Error::TooMuch {
            has: "the names that the connection subscribes to take",
            found,
            unit: "bytes of memory",
            max,
        };
        account
            .budget
            .reached
            .note(Limit::ConnectionNames, account.address, &error);
        Err(error)
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.account.change(Use::Names, self.bytes, 0);
    }
}

/// The memory of a list, in bytes. Streams with equal lists share one: each counts a part of it.
fn memory(names: &Names) -> usize {
    // A pointer in the list, two counters, and the bytes rounded up by the allocator.
    let name = |name: &Arc<str>| size_of::<Arc<str>>() + 2 * size_of::<usize>() + name.len().next_multiple_of(16);
    let bytes: usize = names.iter().map(name).sum();
    // The session and the fleet each have the list of one stream.
    2 * bytes / Arc::strong_count(names.sorted()).max(2)
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
    use crate::xds::session::subscription::names::Interner;
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
        assert_eq!(budget.sums[Use::Unfinished as usize].load(Ordering::Relaxed), 0);
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

    #[test]
    fn long_lists_of_names_have_a_budget_and_shared_ones_count_once() {
        let budget = budget(Limits {
            connection_names: 400_000,
            ..Limits::new(100, 100)
        });
        let interner = Interner::default();
        let list = |first: usize, count: usize| {
            let names = (first..first + count).map(|number| format!("{number:016}").into());
            Names::new(names.collect(), &interner)
        };
        let account = open(&budget, "10.0.0.1:1");
        let short: Vec<Names> = (0..100).map(|first| list(first, SHORT_LIST)).collect();
        let mut lists = Lists::new(&account);
        assert_eq!(lists.set(short.iter()), Ok(()));
        // A name takes 48 bytes.
        let long = list(0, 2000);
        assert_eq!(lists.set([&long].into_iter()), Ok(()));
        let mut others: Vec<(Names, Lists)> = (0..10).map(|_| (long.clone(), Lists::new(&account))).collect();
        let shared = others
            .iter_mut()
            .all(|(names, lists)| lists.set([&*names].into_iter()).is_ok());
        assert!(shared, "ten streams share one list");
        drop((others, lists));
        let (one, other) = (list(1, 5000), list(2, 5000));
        let [mut first, mut second] = [(); 2].map(|()| Lists::new(&account));
        assert_eq!(first.set([&one].into_iter()), Ok(()));
        assert!(matches!(second.set([&other].into_iter()), Err(Error::TooMuch { .. })));
        drop((first, second));
        assert_eq!(account.sums[Use::Names as usize].load(Ordering::Relaxed), 0);
    }
}
