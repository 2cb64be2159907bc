//! Which streams there are, how much of what they were handed is not taken yet, and whose client takes nothing.
//!
//! HTTP/2 buffers what a body gives it, and a client that does not read leaves it there. Each message that was handed over
//! counts until it is written ([`InFlight`]): a stream builds nothing more while enough is on its way ([`Progress::has_room`]),
//! so that a slow reader skips what it missed, and the [`Watchdog`] resets a stream whose client has taken nothing for too
//! long. Streams are counted here too, because all of this begins and ends with the stream.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use h2::{Reason, SendStream};
use tokio::time::Instant;
use tracing::info;

use crate::xds::stream::message::Message;
use crate::xds::stream::wake::{self, Bell};

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

/// A stream, and where its client is.
type Watched = (Arc<Cell>, Option<SocketAddr>);

/// A stream as others see it: what is on its way to its client, and the bell of its task.
#[derive(Debug)]
pub(in crate::xds) struct Cell {
    bell: Bell,
    started: Instant,
    bytes: AtomicUsize,
    /// When something was taken last, or handed over when nothing was on its way; milliseconds, 0: nothing is.
    since: AtomicU64,
    /// The client has taken nothing for too long.
    given_up: AtomicBool,
}

impl Cell {
    /// Wake the task.
    pub(in crate::xds) fn ring(&self) {
        self.bell.ring();
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl AsRef<Bell> for Cell {
    fn as_ref(&self) -> &Bell {
        &self.bell
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
    /// One more stream, unless there are `max`. It is given up when its client takes nothing for too long.
    pub(in crate::xds) fn admit(self: &Arc<Self>, max: usize, address: Option<SocketAddr>) -> Option<Progress> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= max {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let cell = Arc::new(Cell {
            bell: Bell::default(),
            started: self.started,
            bytes: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        });
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(id, (Arc::clone(&cell), address));
        Some(Progress {
            watchdog: Arc::clone(self),
            id,
            cell,
        })
    }

    /// Give up the streams whose clients have taken nothing for `limit`.
    pub(in crate::xds) fn sweep(&self, limit: Duration) {
        let now = millis(self.started.elapsed());
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for (cell, address) in watched.values() {
            let since = cell.since.load(Ordering::Relaxed);
            let stalls = since != 0 && now.saturating_sub(since) > millis(limit);
            if stalls && !cell.given_up.swap(true, Ordering::AcqRel) {
                info!(?address, "Reset a stream whose client took nothing for {limit:?}");
                cell.ring();
            }
        }
    }
}

/// What one stream's client takes. Dropped with the stream.
#[derive(Debug)]
pub(in crate::xds) struct Progress {
    watchdog: Arc<Watchdog>,
    id: u64,
    cell: Arc<Cell>,
}

impl Progress {
    /// Unique within the server, and higher for each stream that comes.
    pub(in crate::xds) fn number(&self) -> u64 {
        self.id
    }

    /// The bell of the stream wakes this task from now on.
    pub(in crate::xds) fn hear(&self, context: &Context<'_>) {
        self.cell.bell.hear(context);
    }

    /// The stream as others see it.
    pub(in crate::xds) fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    /// Whether another response may be built. If not, the bell is rung when it may.
    pub(in crate::xds) fn has_room(&self) -> bool {
        self.cell.bytes.load(Ordering::Acquire) < IN_FLIGHT_MAX
    }

    /// Hear the bell, and whether the stream is over: the client has reset it, or took nothing for too long and it is reset
    /// here.
    pub(in crate::xds) fn poll_over(
        &self,
        out: &mut SendStream<Message>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        // Before anything is looked at that it is rung for.
        self.hear(context);
        if self.cell.given_up.load(Ordering::Acquire) {
            out.send_reset(Reason::CANCEL);
            return Poll::Ready(Ok(()));
        }
        out.poll_reset(context).map_ok(drop)
    }

    /// A message is handed to HTTP/2; what this gives goes with it.
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
        let mut watched = self.watchdog.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.remove(&self.id);
    }
}

/// A message on its way. Dropped when it is written, or given up.
#[derive(Debug)]
pub(in crate::xds) struct InFlight {
    cell: Arc<Cell>,
    bytes: usize,
}

impl InFlight {
    /// Some of it was written.
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
            self.cell.ring();
        }
    }
}
