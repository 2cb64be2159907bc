//! Stage 1, where documents live: etcd, a directory, or memory (tests).
//!
//! What enters: a [`Backend`] is told which *root* (a key prefix) to follow. What leaves: [`Event`]s, whole lists and
//! whole revisions, in order, never half a revision. It promises that following a root never loses a change: whatever
//! happens to the connection, the next event is either the next revision or a new list. It does not know what a value
//! means; nothing of the other stages is named here.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod backoff;
pub mod directory;
pub mod etcd;
pub mod memory;

/// One key as the backend holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The full key, prefix included. etcd keys are bytes, not always UTF-8.
    pub key: Bytes,
    /// The value as written.
    pub value: Bytes,
    /// The store's revision when the key was created; 0 where the backend has no history (directory).
    pub create_revision: i64,
    /// The store's revision when this value was written; in a directory the saved counter.
    pub mod_revision: i64,
    /// Whether the key vanishes with a lease.
    pub leased: bool,
}

/// The change of one key in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key now has this value.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The full key.
        key: Bytes,
    },
}

impl Change {
    /// The full key that changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// Why a whole list was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListReason {
    /// The first list since the process started.
    Start,
    /// The connection was lost, or silent for too long.
    Reconnect,
    /// The watched revision was compacted away.
    Compacted,
    /// The store's history is not the one that was followed: a restore, a wiped directory, another cluster.
    Fork,
    /// Asked for, to confirm an earlier list ([`Backend::watch`]'s `control`).
    Confirm,
}

impl ListReason {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Start, Self::Reconnect, Self::Compacted, Self::Fork, Self::Confirm];

    /// The word of metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reconnect => "reconnect",
            Self::Compacted => "compacted",
            Self::Fork => "fork",
            Self::Confirm => "confirm",
        }
    }
}

/// Something in the store that was meant to be an entry and cannot be one: a second file for a key, a file that cannot be
/// read. It changes no entry: the key keeps the value it has (or none).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The full key that it would have.
    pub key: Bytes,
    /// Where it is, for people: a path below the folder.
    pub place: String,
    /// What is wrong, one sentence.
    pub reason: String,
}

/// The events of a followed root, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything below the root at one revision: what is not in it does not exist.
    Listed {
        /// The store's revision of the list.
        revision: i64,
        /// Why it was read.
        reason: ListReason,
        /// Sorted by key.
        entries: Vec<Entry>,
    },
    /// Everything that one revision changed below the root.
    Changed {
        /// The revision.
        revision: i64,
        /// At least one; for a key changed twice, the last wins.
        changes: Vec<Change>,
    },
    /// Everything up to this revision was told: the answer to [`WatchControl::progress`]. A watch that cannot say so is silent.
    Reached {
        /// The revision.
        revision: i64,
    },
    /// The store answered a linearizable read (or the folder is there) now: what was told so far is current.
    Alive,
    /// Everything below the root that is wrong now, sorted; replaces what was said before. Sent after the list or the
    /// change it belongs to, and only when it differs from what was said before. Only a directory has problems.
    Problems {
        /// May be empty: they are solved.
        problems: Vec<Problem>,
    },
    /// The root cannot be read now; retried with backoff. The sentence is for people.
    Failed {
        /// What failed, without secrets.
        reason: String,
    },
}

/// The expectation of a write about its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: the last write wins.
    Any,
    /// The key does not exist.
    Absent,
    /// The key has the value with this etag ([`Backend::etag`]).
    Etag(String),
}

/// One key of a [`Backend::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The full key.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// What must hold before.
    pub expect: Expect,
}

/// Why a write was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An expectation does not hold; nothing was written.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// The key, lossily as text.
        key: String,
        /// What it holds now.
        current: Option<Entry>,
    },
    /// The store cannot hold this key, now or later.
    #[error("{0}")]
    InvalidKey(String),
    /// Larger than the store takes.
    #[error("{0}")]
    TooLarge(String),
    /// The store did not answer in time: the write may or may not have happened.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The store refused or is away; nothing was written.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision's history was compacted, or the backend keeps none.
    #[error("no history at revision {0}")]
    NoHistory(i64),
    /// The store is away or refuses.
    #[error("{0}")]
    Unavailable(String),
}

/// What the receiver of a watch asks of it; cheap to clone. Several asks before one is heard are one.
#[derive(Debug, Clone, Default)]
pub struct WatchControl {
    relist: Arc<tokio::sync::Notify>,
    progress: Arc<tokio::sync::Notify>,
}

impl WatchControl {
    /// Ask for a list with reason [`ListReason::Confirm`].
    pub fn relist(&self) {
        self.relist.notify_one();
    }

    /// Resolves when a list was asked for. Cancel safe.
    pub async fn relist_asked(&self) {
        self.relist.notified().await;
    }

    /// Ask how far the watch has come: [`Event::Reached`] is the answer.
    pub fn progress(&self) {
        self.progress.notify_one();
    }

    /// Resolves when progress was asked for. Cancel safe.
    pub async fn progress_asked(&self) {
        self.progress.notified().await;
    }
}

/// A place where documents live.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// `etcd`, `directory` or `memory`: the `source` of `GET /api/v1/snapshot`.
    fn name(&self) -> &'static str;

    /// Whether the store is a service that other replicas share: last good texts are kept there too, and its silence makes a
    /// snapshot stale.
    fn is_shared(&self) -> bool;

    /// Follow everything below `prefix` until `token` is cancelled, sending what happens to `events`.
    ///
    /// Returns only when cancelled or when the receiver is gone; every failure of the store is an [`Event::Failed`] and a
    /// retry. Waits when `events` is full.
    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken);

    /// One key now, linearizable.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError>;

    /// One key as it was at `revision`; [`ReadError::NoHistory`] where that is gone or never kept.
    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError>;

    /// All keys below a prefix now, sorted by key, with the store's revision.
    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError>;

    /// Carry out all writes or none, as one revision. Returns it. A write that would change nothing is left out.
    async fn write(&self, writes: Vec<Write>) -> Result<i64, WriteError>;

    /// The opaque etag of an entry: the `mod_revision` (etcd, memory) or a hash of the content (directory).
    fn etag(&self, entry: &Entry) -> String;

    /// The store is read again with new credentials or certificates (SIGHUP). A no-op where there are none.
    async fn reload(&self) -> Result<(), String> {
        Ok(())
    }
}
