//! The counters of the etcd backend.
//!
//! Plain atomics behind an `Arc`, so a scrape does not delay the followers. Each followed prefix has its own
//! [`WatchStats`]; the other counters sum over all connections. The metrics of the `etcd_*` family show them
//! (`app::etcd_metrics`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backend::ListReason;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn count(&self, items: usize) {
        self.add(u64::try_from(items).unwrap_or(u64::MAX));
    }
}

/// Class of the failure that ended a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamErrorClass {
    /// The connection broke, or was silent.
    Connection,
    /// The revision of the watch was compacted.
    Compacted,
    /// The store has another history.
    Fork,
    /// etcd refused the token.
    Authentication,
    /// An operator must repair a permission, a password or a file.
    Configuration,
    /// A revision came after a later one.
    Order,
}

impl StreamErrorClass {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Connection,
        Self::Compacted,
        Self::Fork,
        Self::Authentication,
        Self::Configuration,
        Self::Order,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Compacted => "compacted",
            Self::Fork => "fork",
            Self::Authentication => "authentication",
            Self::Configuration => "configuration",
            Self::Order => "order",
        }
    }
}

/// The state of a follower's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchState {
    /// The follower waits before the next attempt.
    Backoff,
    /// The follower connects.
    Connecting,
    /// The follower reads the whole list.
    Listing,
    /// The follower opens the watch.
    Watching,
    /// The follower receives changes.
    Live,
}

impl WatchState {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 5] = [
        Self::Backoff,
        Self::Connecting,
        Self::Listing,
        Self::Watching,
        Self::Live,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backoff => "backoff",
            Self::Connecting => "connecting",
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Live => "live",
        }
    }
}

/// The moment of the latest event of a kind, and its age.
#[derive(Debug)]
pub struct Moment {
    origin: Instant,
    /// Milliseconds since `origin`, plus one; 0 if there was no event yet.
    at: AtomicU64,
}

impl Default for Moment {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            at: AtomicU64::new(0),
        }
    }
}

impl Moment {
    /// Time since the event; `None` if there was none yet.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    pub(super) fn set_now(&self) {
        let milliseconds = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at.store(milliseconds + 1, Ordering::Relaxed);
    }
}

/// One followed prefix.
#[derive(Debug)]
pub struct WatchStats {
    state: AtomicU8,
    endpoint: Mutex<String>,
    applied_revision: AtomicI64,
    store_revision: AtomicI64,
    /// `etcd_last_message_age_seconds`: any message of the watch.
    pub last_message: Moment,
    /// `etcd_last_progress_age_seconds`: a message without events.
    pub last_progress: Moment,
    /// `etcd_last_quorum_read_age_seconds`: a list or a linearizable read.
    pub last_quorum_read: Moment,
}

impl Default for WatchStats {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(WatchState::Connecting as u8),
            endpoint: Mutex::default(),
            applied_revision: AtomicI64::new(0),
            store_revision: AtomicI64::new(0),
            last_message: Moment::default(),
            last_progress: Moment::default(),
            last_quorum_read: Moment::default(),
        }
    }
}

impl WatchStats {
    /// `etcd_watch_state`.
    #[must_use]
    pub fn state(&self) -> WatchState {
        let state = self.state.load(Ordering::Relaxed);
        WatchState::ALL
            .into_iter()
            .find(|candidate| *candidate as u8 == state)
            .unwrap_or(WatchState::Connecting)
    }

    /// `etcd_connected_endpoint`: `scheme://host:port`; empty without a connection.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoint.lock().clone()
    }

    /// `etcd_applied_revision`: revision of the last list or change that was sent.
    #[must_use]
    pub fn applied_revision(&self) -> i64 {
        self.applied_revision.load(Ordering::Relaxed)
    }

    /// `etcd_store_revision`: revision of the last linearizable read.
    #[must_use]
    pub fn store_revision(&self) -> i64 {
        self.store_revision.load(Ordering::Relaxed)
    }

    pub(super) fn set_state(&self, state: WatchState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(super) fn set_endpoint(&self, endpoint: &str) {
        let mut current = self.endpoint.lock();
        endpoint.clone_into(&mut current);
    }

    pub(super) fn set_applied(&self, revision: i64) {
        self.applied_revision.store(revision, Ordering::Relaxed);
    }

    pub(super) fn on_quorum_read(&self, revision: i64) {
        self.store_revision.store(revision, Ordering::Relaxed);
        self.last_quorum_read.set_now();
    }
}

/// All counters of the etcd backend.
#[derive(Debug, Default)]
pub struct Stats {
    watches: Mutex<BTreeMap<String, Arc<WatchStats>>>,
    lists: [Counter; 5],
    stream_errors: [Counter; 6],
    /// `etcd_list_bytes`: keys and values of all lists.
    pub list_bytes: Counter,
    list_micros: Counter,
    /// `etcd_token_refresh_total{result="ok"}`.
    pub token_refreshes: Counter,
    /// `etcd_token_refresh_total{result="failed"}`.
    pub token_refresh_failures: Counter,
    /// `etcd_events_total{type="put"}`.
    pub puts: Counter,
    /// `etcd_events_total{type="delete"}`.
    pub deletes: Counter,
    /// `etcd_events_dropped_old_total`: events that are not newer than the list before them.
    pub events_dropped_old: Counter,
    /// `etcd_order_violations_total`.
    pub order_violations: Counter,
    /// `etcd_fragments_total`.
    pub fragments: Counter,
}

impl Stats {
    /// `etcd_lists_total{reason}`.
    #[must_use]
    pub fn lists(&self, reason: ListReason) -> u64 {
        self.lists[reason as usize].get()
    }

    /// `etcd_stream_errors_total{class}`.
    #[must_use]
    pub fn stream_errors(&self, class: StreamErrorClass) -> u64 {
        self.stream_errors[class as usize].get()
    }

    /// `etcd_list_seconds_total`: duration of all lists.
    #[must_use]
    pub fn list_time(&self) -> Duration {
        Duration::from_micros(self.list_micros.get())
    }

    /// Every prefix that was ever followed, sorted.
    #[must_use]
    pub fn watches(&self) -> Vec<(String, Arc<WatchStats>)> {
        let watches = self.watches.lock();
        watches
            .iter()
            .map(|(prefix, stats)| (prefix.clone(), Arc::clone(stats)))
            .collect()
    }

    pub(super) fn watch(&self, prefix: &str) -> Arc<WatchStats> {
        let mut watches = self.watches.lock();
        Arc::clone(watches.entry(prefix.to_owned()).or_default())
    }

    pub(super) fn on_list(&self, reason: ListReason, bytes: usize, elapsed: Duration) {
        self.lists[reason as usize].add(1);
        self.list_bytes.count(bytes);
        self.list_micros
            .add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn on_stream_error(&self, class: StreamErrorClass) {
        self.stream_errors[class as usize].add(1);
    }
}
