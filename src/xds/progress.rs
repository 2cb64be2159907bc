//! Which streams there are, and whose client takes nothing.
//!
//! A body that was handed to HTTP/2 and is not asked for more belongs to a client that does not read. Nobody polls it, so
//! it cannot notice by itself: each stream notes when it handed a message over and when that was taken ([`Progress`]), and
//! the [`Watchdog`] tells the connection of one that waits for too long. Streams are counted here too, because both begin
//! and end with the stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Watches over messages that were handed to HTTP/2 and not taken by the client, and counts streams.
#[derive(Debug)]
pub(super) struct Watchdog {
    started: Instant,
    streams: AtomicUsize,
    next_id: AtomicU64,
    watched: Mutex<HashMap<u64, (Arc<AtomicU64>, Arc<Notify>)>>,
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

/// Milliseconds since the watchdog started, never 0.
fn millis(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Watchdog {
    /// One more stream, unless there are `max`. `stalled` is told when it takes nothing for too long.
    pub(super) fn admit(self: &Arc<Self>, max: usize, stalled: Arc<Notify>) -> Option<Progress> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= max {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let handed_at = Arc::<AtomicU64>::default();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(id, (Arc::clone(&handed_at), stalled));
        Some(Progress { watchdog: Arc::clone(self), id, handed_at })
    }

    /// Tell the connections whose streams have taken nothing for `limit`.
    pub(super) fn sweep(&self, limit: Duration) {
        let now = millis(self.started.elapsed());
        let limit = millis(limit);
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for (handed_at, stalled) in watched.values() {
            let handed_at = handed_at.load(Ordering::Relaxed);
            if handed_at != 0 && now.saturating_sub(handed_at) > limit {
                stalled.notify_one();
            }
        }
    }
}

/// What one stream's client takes. Dropped with the stream.
#[derive(Debug)]
pub(super) struct Progress {
    watchdog: Arc<Watchdog>,
    id: u64,
    /// When a message was handed over that is not taken yet; 0: none is.
    handed_at: Arc<AtomicU64>,
}

impl Progress {
    /// A message was handed to HTTP/2.
    pub(super) fn handed(&self) {
        self.handed_at.store(millis(self.watchdog.started.elapsed()), Ordering::Relaxed);
    }

    /// HTTP/2 asks for more: the client took it.
    pub(super) fn taken(&self) {
        self.handed_at.store(0, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.watchdog.streams.fetch_sub(1, Ordering::Relaxed);
        let mut watched = self.watchdog.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.remove(&self.id);
    }
}
