//! The `etcd_*` family.
//!
//! The reconcile loop counts the events of its backend, so no backend names a metric. The label `watch` is the followed
//! root: `documents`, `registrations` or `routes`. The family is counted for every backend, and shown for etcd only.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// `{watch}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RootLabels {
    /// `documents`, `registrations` or `routes`.
    pub watch: &'static str,
}

/// `{watch, reason}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListLabels {
    /// `documents`, `registrations` or `routes`.
    pub watch: &'static str,
    /// `start`, `reconnect`, `compacted`, `fork` or `confirm`.
    pub reason: &'static str,
}

/// `{watch, type}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EventLabels {
    /// `documents`, `registrations` or `routes`.
    pub watch: &'static str,
    /// `put` or `delete`.
    pub r#type: &'static str,
}

type Seconds = Family<RootLabels, Gauge<f64, AtomicU64>>;

/// The moments of the last events of a root.
#[derive(Debug, Clone, Copy)]
struct Heard {
    message: Instant,
    quorum_read: Option<Instant>,
}

/// Handles of the `etcd_*` family.
#[derive(Debug)]
pub struct Etcd {
    /// Lists read, by reason.
    pub lists: Family<ListLabels, Counter>,
    /// Size of the values in the latest list.
    pub list_bytes: Family<RootLabels, Gauge>,
    /// Events applied, by type.
    pub events: Family<EventLabels, Counter>,
    /// The last applied revision of the root.
    pub applied_revision: Family<RootLabels, Gauge>,
    /// 1 while the root is followed, 0 after a failure.
    pub watch_state: Family<RootLabels, Gauge>,
    /// Duration of writes.
    pub write_seconds: Histogram,
    message_age: Seconds,
    quorum_read_age: Seconds,
    heard: Mutex<BTreeMap<&'static str, Heard>>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            lists: Family::default(),
            list_bytes: Family::default(),
            events: Family::default(),
            applied_revision: Family::default(),
            watch_state: Family::default(),
            write_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            message_age: Family::default(),
            quorum_read_age: Family::default(),
            heard: Mutex::default(),
        }
    }
}

impl Etcd {
    pub(super) fn register(&self, registry: &mut Registry) {
        let etcd = self;
        registry.register("etcd_lists", "Whole lists read, by reason", etcd.lists.clone());
        registry.register(
            "etcd_list_bytes",
            "Bytes of the values of the latest list",
            etcd.list_bytes.clone(),
        );

        registry.register("etcd_events", "Changes applied, by type", etcd.events.clone());
        registry.register(
            "etcd_applied_revision",
            "Revision applied last",
            etcd.applied_revision.clone(),
        );

        registry.register(
            "etcd_watch_state",
            "1 while the root is followed, 0 after a failure",
            etcd.watch_state.clone(),
        );

        registry.register(
            "etcd_write_seconds",
            "Time from a write to its answer",
            etcd.write_seconds.clone(),
        );

        registry.register(
            "etcd_last_message_age_seconds",
            "Time since the last message about the root",
            etcd.message_age.clone(),
        );

        registry.register(
            "etcd_last_quorum_read_age_seconds",
            "Time since the last answer to a linearizable read",
            etcd.quorum_read_age.clone(),
        );
    }

    /// Give the counters their series, with 0.
    pub(super) fn begin(&self, watches: &[&'static str], reasons: &[&'static str]) {
        for &watch in watches {
            for &reason in reasons {
                // Drop each guard before the next call, which takes the same lock.
                drop(self.lists.get_or_create(&ListLabels { watch, reason }));
            }
            for r#type in ["put", "delete"] {
                drop(self.events.get_or_create(&EventLabels { watch, r#type }));
            }
        }
    }

    /// An event of a root arrived. `quorum_read`: the event was the answer to a linearizable read.
    pub fn heard(&self, watch: &'static str, quorum_read: bool) {
        let now = Instant::now();
        let mut heard = self.heard.lock();
        let entry = heard.entry(watch).or_insert(Heard {
            message: now,
            quorum_read: None,
        });
        entry.message = now;
        if quorum_read {
            entry.quorum_read = Some(now);
        }
        drop(heard);
        self.watch_state.get_or_create(&RootLabels { watch }).set(1);
    }

    /// A whole list of a root arrived.
    pub fn listed(&self, watch: &'static str, reason: &'static str, revision: i64, bytes: usize) {
        self.heard(watch, true);
        self.lists.get_or_create(&ListLabels { watch, reason }).inc();
        self.list_bytes
            .get_or_create(&RootLabels { watch })
            .set(super::as_gauge(bytes));
        self.applied_revision.get_or_create(&RootLabels { watch }).set(revision);
    }

    /// A revision with these numbers of puts and deletes was applied.
    pub fn changed(&self, watch: &'static str, revision: i64, puts: usize, deletes: usize) {
        self.heard(watch, false);
        for (r#type, count) in [("put", puts), ("delete", deletes)] {
            self.events
                .get_or_create(&EventLabels { watch, r#type })
                .inc_by(count as u64);
        }
        self.applied_revision.get_or_create(&RootLabels { watch }).set(revision);
    }

    /// The watch of a root failed; the backend retries.
    pub fn failed(&self, watch: &'static str) {
        self.watch_state.get_or_create(&RootLabels { watch }).set(0);
    }

    /// Record the time from a write to its answer.
    pub fn wrote(&self, after: Duration) {
        self.write_seconds.observe(after.as_secs_f64());
    }

    /// Set the age gauges to the ages at `now`.
    pub(super) fn age(&self, now: Instant) {
        let heard = self.heard.lock();
        for (watch, heard) in heard.iter() {
            let age = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
            self.message_age
                .get_or_create(&RootLabels { watch })
                .set(age(heard.message));
            if let Some(quorum_read) = heard.quorum_read {
                self.quorum_read_age
                    .get_or_create(&RootLabels { watch })
                    .set(age(quorum_read));
            }
        }
    }
}
