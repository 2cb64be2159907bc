//! The proxies of the other replicas, as each of them tells.
//!
//! In: a [`Summary`] of each replica, read from the store. Out: the same answers from any replica. A summary that ended
//! without a clean stop is remembered for ten minutes: until then nobody knows what the proxies of that replica have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The form of summaries that this server writes and reads.
pub const FORMAT: u32 = 1;
/// How long a replica that vanished is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// The summary of the proxies of a replica, for the other replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`FORMAT`].
    pub format: u32,
    /// The id of the replica.
    pub id: String,
    /// The version of the server.
    pub version: String,
    /// `--advertise-admin`.
    pub admin: Option<String>,
    /// The revision that the replica serves.
    pub revision: i64,
    /// The revision that each root stands at, by its prefix.
    pub revisions: BTreeMap<String, i64>,
    /// A version of everything that a group is served, by group.
    pub sets: BTreeMap<String, String>,
    /// Numbers of proxies.
    pub places: Vec<PlaceSummary>,
    /// Proxies that do not have the newest change, the first ones.
    pub behind: Vec<BehindSummary>,
    /// NACKs, the first ones.
    pub refused: Vec<RefusedSummary>,
    /// Proxies that went lately, the last ones.
    pub gone: Vec<GoneSummary>,
    /// The hashes of proxies that went from another replica and are connected here.
    pub back: Vec<u32>,
    /// The times of the newest changes.
    pub latencies: Vec<LatencySummary>,
    /// The replica stops, and its proxies connect to others.
    #[serde(default)]
    pub stopped: bool,
    /// The replicas that vanished, as this one remembers: a server that starts later learns of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostSummary>,
}

/// A replica that vanished without a clean stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostSummary {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its revision.
    pub revision: i64,
    /// In milliseconds.
    pub at: u64,
}

impl LostSummary {
    /// A summary without proxies.
    fn summary(self) -> Summary {
        Summary {
            format: FORMAT,
            id: self.id,
            version: self.version,
            admin: None,
            revision: self.revision,
            revisions: BTreeMap::new(),
            sets: BTreeMap::new(),
            places: Vec::new(),
            behind: Vec::new(),
            refused: Vec::new(),
            gone: Vec::new(),
            back: Vec::new(),
            latencies: Vec::new(),
            stopped: false,
            lost: Vec::new(),
        }
    }
}

/// Proxies that stand alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceSummary {
    /// The group.
    pub group: String,
    /// The newest revision that they are live on.
    pub live_on: i64,
    /// How many.
    pub proxies: usize,
    /// `refused` or `stalled`; `None`: neither.
    pub state: Option<String>,
    /// Since when something is owed to them, in milliseconds; `None`: nothing is.
    pub since: Option<u64>,
}

/// A proxy that does not have the newest change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BehindSummary {
    /// `node.id`.
    pub node: String,
    /// The group.
    pub group: String,
    /// `stalled`; `None`: it depends on the time.
    pub state: Option<String>,
    /// The newest revision that the proxy is live on.
    pub live_on: i64,
    /// The missing types.
    pub types: Vec<String>,
    /// In milliseconds.
    pub since: u64,
    /// Why.
    pub why: String,
}

/// A NACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSummary {
    /// `node.id`.
    pub node: String,
    /// The group.
    pub group: String,
    /// The type.
    pub r#type: String,
    /// The newest change in the response.
    pub revision: i64,
    /// The moment, in milliseconds.
    pub at: u64,
    /// The message.
    pub message: String,
    /// The documents that may be the cause.
    pub documents: Vec<Blamed>,
}

/// A document that may be the cause of a NACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blamed {
    /// The full key.
    pub key: String,
    /// The field, where the words of Envoy tell it.
    pub path: Option<String>,
}

/// A proxy that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneSummary {
    /// The hash of `node.id`.
    pub node: u32,
    /// The group.
    pub group: String,
    /// In milliseconds.
    pub connected_at: u64,
    /// In milliseconds.
    pub gone_at: u64,
    /// The newest revision that it was live on.
    pub live_on: i64,
}

/// The times in which proxies had a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// The change.
    pub revision: i64,
    /// The classes, each with its count.
    pub counts: Vec<(u32, u32)>,
    /// The longest, in milliseconds.
    pub max: u64,
    /// The last moment at which a proxy came to have the change, in milliseconds.
    pub last: u64,
}

/// Another replica.
#[derive(Debug, Clone)]
pub struct Replica {
    /// What it told last.
    pub summary: Arc<Summary>,
    /// When this server read that.
    pub heard_at: SystemTime,
    /// When the replica vanished without a clean stop; `None`: it is there.
    pub lost_at: Option<SystemTime>,
}

/// The other replicas. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Replicas(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    own: Mutex<Arc<str>>,
    others: Mutex<BTreeMap<String, Replica>>,
    changed: Notify,
    changes: AtomicU64,
}

impl Replicas {
    /// No other replica is known.
    #[must_use]
    pub fn new(own: &str) -> Self {
        let replicas = Self::default();
        replicas.set_own(own);
        replicas
    }

    /// The id of this replica.
    #[must_use]
    pub fn own(&self) -> Arc<str> {
        Arc::clone(&self.0.own.lock())
    }

    /// This replica has another id: its own was taken.
    pub fn set_own(&self, own: &str) {
        *self.0.own.lock() = own.into();
    }

    /// The others, by id; those that vanished longer ago are forgotten.
    #[must_use]
    pub fn others(&self, now: SystemTime) -> Vec<Replica> {
        let mut others = self.0.others.lock();
        let is_known = |lost: SystemTime| now.duration_since(lost).is_ok_and(|age| age < REMEMBERED_FOR);
        others.retain(|_, replica| replica.lost_at.is_none_or(is_known));
        let own = self.own();
        let others = others.values().filter(|replica| *replica.summary.id != *own);
        others.cloned().collect()
    }

    /// A replica told something.
    pub fn heard(&self, summary: Summary, now: SystemTime) {
        let replica = Replica {
            summary: Arc::new(summary),
            heard_at: now,
            lost_at: None,
        };
        let id = replica.summary.id.clone();
        let mut others = self.0.others.lock();
        for lost in &replica.summary.lost {
            // A replica that is there, or was here when it vanished, is known better.
            if !others.contains_key(&lost.id) {
                let of_lost = Replica {
                    lost_at: Some(moment(lost.at)),
                    heard_at: moment(lost.at),
                    summary: Arc::new(lost.clone().summary()),
                };
                others.insert(lost.id.clone(), of_lost);
            }
        }
        others.insert(id, replica);
        drop(others);
        self.on_changed();
    }

    /// The summary of a replica is gone: after a clean stop, or with its lease.
    pub fn ended(&self, id: &str, now: SystemTime) {
        let mut others = self.0.others.lock();
        if others.get(id).is_some_and(|replica| replica.summary.stopped) {
            others.remove(id);
        } else if let Some(replica) = others.get_mut(id) {
            replica.lost_at.get_or_insert(now);
        }
        drop(others);
        self.on_changed();
    }

    fn on_changed(&self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }

    /// How often a replica told something, which tells whether there is news between two readings.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    /// Ends when a replica tells something after the call. Cancel safe.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

/// A moment in milliseconds.
#[must_use]
pub fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment from its milliseconds.
#[must_use]
pub fn moment(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// The hash of a node id.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a hash")]
pub fn hash(node_id: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(node_id.as_bytes()) as u32
}
