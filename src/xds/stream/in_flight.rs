//! Counts the streams of a server and the bytes each of them has in flight, and resets streams whose client reads
//! nothing.
//!
//! HTTP/2 buffers the messages of a stream while its client does not read. Each message counts until it is written
//! ([`InFlight`]). The count has two uses:
//!
//! - While many bytes are in flight the stream builds no further response ([`Progress::has_room`]), so a slow reader
//!   skips the versions between.
//! - The [`Watchdog`] resets a stream whose client has read nothing for too long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Buf;
use h2::{Reason, SendStream};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use crate::xds::stream::wake::{self, TaskWaker};

/// No further response is built while this many bytes wait to be written.
const IN_FLIGHT_MAX: usize = 64 * 1024;

/// All streams of a server.
#[derive(Debug)]
pub(in crate::xds) struct Watchdog {
    started: Instant,
    streams: AtomicUsize,
    next_id: AtomicU64,
    watched: Mutex<HashMap<u64, Watched>>,
}

/// A stream, and the address of its client.
type Watched = (Arc<Cell>, Option<SocketAddr>);

/// The part of a stream that other tasks use: its bytes in flight, and the waker of its task.
#[derive(Debug)]
pub(in crate::xds) struct Cell {
    task_waker: TaskWaker,
    started: Instant,
    bytes: AtomicUsize,
    /// Milliseconds of the last write, or of the first message handed over since none was in flight. 0: none is in
    /// flight.
    since: AtomicU64,
    /// The client has read nothing for too long.
    given_up: AtomicBool,
}

impl Cell {
    /// Wake the task.
    pub(in crate::xds) fn wake_task(&self) {
        self.task_waker.wake_task();
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
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

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            streams: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            watched: Mutex::default(),
        }
    }
}

/// Milliseconds, never 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Watchdog {
    /// Register a stream, unless there are `max` already.
    pub(in crate::xds) fn admit(self: &Arc<Self>, max: usize, address: Option<SocketAddr>) -> Option<Progress> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= max {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let cell = Arc::new(Cell {
            task_waker: TaskWaker::default(),
            started: self.started,
            bytes: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        });
        let mut watched = self.watched.lock();
        watched.insert(id, (Arc::clone(&cell), address));
        Some(Progress {
            watchdog: Arc::clone(self),
            id,
            cell,
        })
    }

    /// Reset the streams whose clients have read nothing for `limit`.
    pub(in crate::xds) fn sweep(&self, limit: Duration) {
        let now = millis(self.started.elapsed());
        let watched = self.watched.lock();
        for (cell, address) in watched.values() {
            let since = cell.since.load(Ordering::Relaxed);
            let stalls = since != 0 && now.saturating_sub(since) > millis(limit);
            if stalls && !cell.given_up.swap(true, Ordering::AcqRel) {
                info!(?address, "Reset a stream whose client read nothing for {limit:?}");
                cell.wake_task();
            }
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

    /// Register the running task. Ready: the stream is over, because the client has reset it, or because the client
    /// read nothing for too long and the stream is reset here.
    pub(in crate::xds) fn poll_over<B: Buf>(
        &self,
        out: &mut SendStream<B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        // Registered before any of the events is checked.
        self.register(context);
        if self.cell.given_up.load(Ordering::Acquire) {
            out.send_reset(Reason::CANCEL);
            return Poll::Ready(Ok(()));
        }
        out.poll_reset(context).map_ok(drop)
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
        self.watchdog.streams.fetch_sub(1, Ordering::Relaxed);
        let mut watched = self.watchdog.watched.lock();
        watched.remove(&self.id);
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
