//! Counts the streams of a server and the bytes each of them has in flight, and ends streams whose client reads or
//! sends nothing.
//!
//! HTTP/2 buffers the messages of a stream while its client does not read. Each message counts until it is written
//! ([`InFlight`]). The count has two uses:
//!
//! - While many bytes are in flight the stream builds no further response ([`Progress::has_room`]), so a slow reader
//!   skips the versions between.
//! - The [`Watchdog`] resets a stream whose client has read nothing for too long.
//!
//! The watchdog also ends a stream whose request arrives too slowly, and silent streams, if there are many of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Buf;
use h2::{Reason, SendStream};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use crate::fleet::limit::Limit;
use crate::xds::error::{Error, status};
use crate::xds::http2::peer::{network, shown};
use crate::xds::limits::Limits;
use crate::xds::reached::Reached;
use crate::xds::stream::budget::Account;
use crate::xds::stream::wake::{self, TaskWaker};

/// No further response is built while this many bytes wait to be written.
const IN_FLIGHT_MAX: usize = 64 * 1024;

/// A client that has read nothing for so long is shown as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The streams of a server: those of xDS, or those of the small services.
#[derive(Debug)]
pub(in crate::xds) struct Watchdog {
    started: Instant,
    next_id: AtomicU64,
    max: MaxStreams,
    limits: Limits,
    reached: Arc<Reached>,
    watched: Mutex<Watched>,
}

/// The largest number of streams: of the server, of one address, of one connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::xds) struct MaxStreams {
    pub(in crate::xds) all: usize,
    pub(in crate::xds) of_address: usize,
    pub(in crate::xds) of_connection: usize,
}

#[derive(Debug, Default)]
struct Watched {
    streams: HashMap<u64, (Arc<Cell>, Arc<Account>)>,
    by_address: HashMap<IpAddr, usize>,
    by_connection: HashMap<u64, usize>,
}

/// The part of a stream that other tasks use: its bytes in flight, and the waker of its task.
#[derive(Debug)]
pub(in crate::xds) struct Cell {
    task_waker: TaskWaker,
    started: Instant,
    bytes: AtomicUsize,
    /// Time of the last write, or of the first message handed over since none was in flight: milliseconds since
    /// `started`. 0: none is in flight.
    since: AtomicU64,
    /// Time at which the stream was opened: milliseconds since `started`.
    opened: u64,
    /// Milliseconds at which the unfinished request began. 0: there is none.
    request_since: AtomicU64,
    /// The client has sent a complete request.
    is_heard: AtomicBool,
    /// Why the stream is to end: a [`GivenUp`], or 0.
    given_up: AtomicU8,
    /// The client has read nothing for [`STALLED_AFTER`].
    is_stalled: AtomicBool,
}

/// Why the server ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum GivenUp {
    /// The client reads nothing.
    Stalled = 1,
    /// The client has sent no request.
    Silent = 2,
    /// The client does not finish its request.
    Slow = 3,
}

impl Cell {
    /// Wake the task.
    pub(in crate::xds) fn wake_task(&self) {
        self.task_waker.wake_task();
    }

    /// The client has sent a complete request.
    pub(in crate::xds) fn heard(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    /// Whether the client has read nothing of what was sent for [`STALLED_AFTER`].
    pub(in crate::xds) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }

    /// The server has read a part of a request, or no longer waits for the rest.
    pub(in crate::xds) fn request_began(&self, began: bool) {
        let since = if began { self.now() } else { 0 };
        self.request_since.store(since, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// End the stream. `false`: the stream was to end already.
    fn give_up(&self, because: GivenUp) -> bool {
        let first = self
            .given_up
            .compare_exchange(0, because as u8, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_ok() {
            self.wake_task();
        }
        first.is_ok()
    }
}

impl AsRef<TaskWaker> for Cell {
    fn as_ref(&self) -> &TaskWaker {
        &self.task_waker
    }
}

impl Wake for Cell {
    fn wake(self: Arc<Self>) {
        wake::awaken(&*self);
    }
}

/// Milliseconds, never 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Watchdog {
    pub(in crate::xds) fn new(max: MaxStreams, limits: Limits, reached: Arc<Reached>) -> Self {
        Self {
            started: Instant::now(),
            next_id: AtomicU64::new(0),
            max,
            limits,
            reached,
            watched: Mutex::default(),
        }
    }

    /// Register a stream of a connection.
    ///
    /// # Errors
    /// The server, the address or the connection has as many streams as it may have.
    pub(in crate::xds) fn admit(self: &Arc<Self>, account: &Arc<Account>) -> Result<Progress, Error> {
        let cell = Arc::new(Cell {
            task_waker: TaskWaker::default(),
            started: self.started,
            bytes: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            opened: millis(self.started.elapsed()),
            request_since: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            given_up: AtomicU8::new(0),
            is_stalled: AtomicBool::new(false),
        });

        let mut watched = self.watched.lock();
        if let Err((limit, error)) = watched.check(&self.max, account) {
            drop(watched);
            self.reached.note(limit, account.address, &error);
            return Err(error);
        }

        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        watched.add(id, &cell, account);
        drop(watched);
        Ok(Progress {
            watchdog: Arc::clone(self),
            id,
            cell,
        })
    }

    /// End the streams whose clients have read nothing for `limit`, have not finished a request in time, or are silent.
    pub(in crate::xds) fn sweep(&self, limit: Duration) {
        let now = millis(self.started.elapsed());
        let is_over = |since: u64, limit: Duration| since != 0 && now.saturating_sub(since) > millis(limit);
        let mut silent: HashMap<u64, Vec<u64>> = HashMap::new();
        let watched = self.watched.lock();
        for (id, (cell, account)) in &watched.streams {
            let address = account.address;
            let is_stalled = is_over(cell.since.load(Ordering::Relaxed), STALLED_AFTER);
            if cell.is_stalled.swap(is_stalled, Ordering::Relaxed) != is_stalled {
                cell.wake_task();
            }
            if is_over(cell.since.load(Ordering::Relaxed), limit) {
                if cell.give_up(GivenUp::Stalled) {
                    info!(peer = %shown(address), "Reset a stream whose client read nothing for {limit:?}");
                }
            } else if is_over(cell.request_since.load(Ordering::Relaxed), self.limits.request_within) {
                if cell.give_up(GivenUp::Slow) {
                    let error = Error::Slow(self.limits.request_within);
                    self.reached.note(Limit::RequestTime, address, &error);
                }
            } else if is_over(cell.opened, self.limits.silent_for) && !cell.is_heard.load(Ordering::Relaxed) {
                silent.entry(account.number).or_default().push(*id);
            }
        }

        let is_crowded = watched.streams.len() > self.max.all / 2;
        let spared = if is_crowded { 0 } else { self.limits.silent };
        for mut streams in silent.into_values() {
            streams.sort_unstable();
            for (cell, account) in streams.iter().skip(spared).filter_map(|id| watched.streams.get(id)) {
                if cell.give_up(GivenUp::Silent) {
                    let error = Error::Silent(self.limits.silent_for);
                    self.reached.note(Limit::Silent, account.address, &error);
                }
            }
        }
    }
}

impl Watched {
    /// Whether a connection may open another stream.
    fn check(&self, max: &MaxStreams, account: &Account) -> Result<(), (Limit, Error)> {
        if self.streams.len() >= max.all {
            return Err((Limit::Streams, Error::TooManyStreams));
        }
        if self
            .by_connection
            .get(&account.number)
            .is_some_and(|count| *count >= max.of_connection)
        {
            return Err((Limit::ConnectionStreams, Error::TooManyOfConnection(max.of_connection)));
        }
        let of_address = account
            .address
            .and_then(|address| self.by_address.get(&network(address)));
        if of_address.is_some_and(|count| *count >= max.of_address) {
            return Err((Limit::AddressStreams, Error::TooManyOfAddress(max.of_address)));
        }
        Ok(())
    }

    fn add(&mut self, id: u64, cell: &Arc<Cell>, account: &Arc<Account>) {
        self.streams.insert(id, (Arc::clone(cell), Arc::clone(account)));
        *self.by_connection.entry(account.number).or_default() += 1;
        if let Some(address) = account.address {
            *self.by_address.entry(network(address)).or_default() += 1;
        }
    }

    fn remove(&mut self, id: u64) {
        let Some((_, account)) = self.streams.remove(&id) else {
            return;
        };
        decrement(&mut self.by_connection, account.number);
        if let Some(address) = account.address {
            decrement(&mut self.by_address, network(address));
        }
    }
}

/// Count one less, and forget a key with none.
pub(in crate::xds) fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// The registration of one stream. Ends when dropped, with the stream.
#[derive(Debug)]
pub(in crate::xds) struct Progress {
    watchdog: Arc<Watchdog>,
    id: u64,
    cell: Arc<Cell>,
}

impl Progress {
    /// Unique within the server, and higher for a later stream.
    pub(in crate::xds) fn number(&self) -> u64 {
        self.id
    }

    /// Register the running task as that of the stream.
    pub(in crate::xds) fn register(&self, context: &Context<'_>) {
        self.cell.task_waker.register(context);
    }

    /// The part of the stream that other tasks use.
    pub(in crate::xds) fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    /// Whether another response may be built. If not, the task is woken when it may.
    pub(in crate::xds) fn has_room(&self) -> bool {
        self.cell.bytes.load(Ordering::Acquire) < IN_FLIGHT_MAX
    }

    /// Register the running task. Ready: the stream is over, because the client has reset it, or because the server
    /// gave it up and ends it here.
    pub(in crate::xds) fn poll_over<B: Buf>(
        &self,
        out: &mut SendStream<B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        // Registered before any of the events is checked.
        self.register(context);
        let error = match self.cell.given_up.load(Ordering::Acquire) {
            0 => return out.poll_reset(context).map_ok(drop),
            reason if reason == GivenUp::Silent as u8 => Error::Silent(self.watchdog.limits.silent_for),
            reason if reason == GivenUp::Slow as u8 => Error::Slow(self.watchdog.limits.request_within),
            _ => {
                out.send_reset(Reason::CANCEL);
                return Poll::Ready(Ok(()));
            }
        };
        Poll::Ready(out.send_trailers(status(error.code(), &error.to_string())))
    }

    /// A message is handed to HTTP/2. It counts as in flight until the result is dropped.
    pub(in crate::xds) fn hand(&self, bytes: usize) -> InFlight {
        if self.cell.bytes.fetch_add(bytes, Ordering::AcqRel) == 0 {
            self.cell.since.store(self.cell.now(), Ordering::Relaxed);
        }
        InFlight {
            cell: Arc::clone(&self.cell),
            bytes,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut watched = self.watchdog.watched.lock();
        watched.remove(self.id);
    }
}

/// A message in flight. Dropped when the message is written or discarded.
#[derive(Debug)]
pub(in crate::xds) struct InFlight {
    cell: Arc<Cell>,
    bytes: usize,
}

impl InFlight {
    /// A part of the message was written.
    pub(in crate::xds) fn moved(&self) {
        self.cell.since.store(self.cell.now(), Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.cell.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if before == self.bytes {
            self.cell.since.store(0, Ordering::Relaxed);
        }
        if before >= IN_FLIGHT_MAX {
            self.cell.wake_task();
        }
    }
}

#[cfg(test)]
impl Watchdog {
    /// A watchdog without limits.
    pub(in crate::xds) fn unlimited() -> Arc<Self> {
        Self::limited(usize::MAX, Limits::new(usize::MAX, usize::MAX))
    }

    fn limited(all: usize, limits: Limits) -> Arc<Self> {
        let max = MaxStreams {
            all,
            of_address: limits.address_streams,
            of_connection: limits.connection_streams,
        };
        let reached = Arc::new(Reached::new(crate::fleet::Fleet::default()));
        Arc::new(Self::new(max, limits, reached))
    }

    /// The accounts of two new connections.
    pub(in crate::xds) fn accounts(&self) -> [Arc<Account>; 2] {
        let budget = super::budget::Budget::new(self.limits.clone(), Arc::clone(&self.reached));
        let budget = Arc::new(budget);
        [(); 2].map(|()| budget.open(None, Arc::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_silent_streams_end_and_a_few_stay() {
        let (silent, heard) = (2, 5);
        let limits = Limits {
            silent,
            ..Limits::new(20, 20)
        };
        let after = limits.silent_for + Duration::from_secs(1);
        let watchdog = Watchdog::limited(20, limits);
        let [one, other] = watchdog.accounts();
        let admit = |account| watchdog.admit(account).expect("there is room");
        let streams: Vec<_> = (0..8).map(|_| admit(&one)).collect();
        let alone = admit(&other);
        streams[heard].cell.heard();
        let ended = || {
            watchdog.sweep(Duration::from_secs(60));
            let ended = |stream: &Progress| stream.cell.given_up.load(Ordering::Relaxed) != 0;
            streams.iter().chain([&alone]).map(ended).collect::<Vec<_>>()
        };
        assert_eq!(ended(), [false; 9]);
        tokio::time::advance(after).await;
        let (stays, ends) = (false, true);
        assert_eq!(ended(), [stays, stays, ends, ends, ends, stays, ends, ends, stays]);

        // More than half of all streams are open: no silent one is spared.
        let crowd: Vec<_> = (0..2).map(|_| admit(&other)).collect();
        assert_eq!(ended(), [ends, ends, ends, ends, ends, stays, ends, ends, ends]);
        drop(crowd);
    }

    #[test]
    fn streams_are_counted_by_connection_and_forgotten() {
        let limits = Limits {
            connection_streams: 2,
            ..Limits::new(20, 20)
        };
        let watchdog = Watchdog::limited(3, limits);
        let [one, other] = watchdog.accounts();
        let streams = [(); 2].map(|()| watchdog.admit(&one).expect("there is room"));
        assert_eq!(watchdog.admit(&one).err(), Some(Error::TooManyOfConnection(2)));
        let third = watchdog.admit(&other).expect("another connection has room");
        assert_eq!(watchdog.admit(&other).err(), Some(Error::TooManyStreams));
        drop((streams, third));
        assert!(watchdog.admit(&one).is_ok());
        let watched = watchdog.watched.lock();
        assert!(watched.by_connection.is_empty() && watched.streams.is_empty());
    }
}
