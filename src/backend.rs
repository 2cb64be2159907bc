//! Stage 1, the store of the documents: etcd, a directory, or memory (tests).
//!
//! In: the *root* (a key prefix) that a [`Backend`] follows, keys to read, and writes. Out: [`Event`]s, whole lists and
//! whole revisions, in order, never half a revision.
//!
//! Promise: a followed root never loses a change. After any failure of the connection, the next event is either the
//! next revision or a new list. Values are bytes here; this module names no other stage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
    /// The store's revision when the key was created; 0 if the backend has no history (directory).
    pub create_revision: i64,
    /// The store's revision when this value was written; in a directory the saved counter.
    pub mod_revision: i64,
    /// True if the key has a lease, and so is deleted when the lease ends.
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

/// The changes of one revision in the history of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The revision.
    pub revision: i64,
    /// At least one. If a key changed twice, the last change wins.
    pub changes: Vec<Change>,
}

/// The id of a lease of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(pub i64);

/// Reason for reading a whole list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListReason {
    /// The first list since the process started.
    Start,
    /// The connection was lost, or was silent for too long.
    Reconnect,
    /// The watched revision was compacted away.
    Compacted,
    /// The store has another history than the followed one: a restore, a wiped data directory, another cluster.
    Fork,
    /// Requested through [`WatchControl::relist`], to confirm an earlier list.
    Confirm,
}

impl ListReason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Start, Self::Reconnect, Self::Compacted, Self::Fork, Self::Confirm];

    /// The label in metrics and logs.
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

/// A file that cannot become an entry: a second file for the same key, or a file that cannot be read.
///
/// A problem changes no entry: the key keeps its value, or stays absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The full key that the file stands for.
    pub key: Bytes,
    /// Path of the file below the folder, for people.
    pub place: String,
    /// The fault, in one sentence.
    pub reason: String,
}

/// The events of a followed root, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All entries below the root at one revision. A key that is not in the list does not exist.
    Listed {
        /// The store's revision of the list.
        revision: i64,
        /// Reason for the list.
        reason: ListReason,
        /// Sorted by key.
        entries: Vec<Entry>,
    },
    /// All changes of one revision below the root.
    Changed {
        /// The revision.
        revision: i64,
        /// At least one change. If a key changed twice, the last change wins.
        changes: Vec<Change>,
    },
    /// All changes up to this revision were sent: the answer to [`WatchControl::progress`]. A watch without this
    /// knowledge sends no such event.
    Reached {
        /// The revision.
        revision: i64,
    },
    /// The store answered a linearizable read now (directory: the folder exists), so the events sent so far are
    /// current.
    Alive,
    /// All problems below the root now, sorted; replaces the problems sent before. Sent after the list or the change
    /// that they belong to, and only if they differ from those sent before. Only a directory has problems.
    Problems {
        /// Empty when the last problem is solved.
        problems: Vec<Problem>,
    },
    /// The root cannot be read now; the backend retries with backoff.
    Failed {
        /// The failure, one sentence for people, without secrets.
        reason: String,
    },
}

/// The expectation of a write about its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// No expectation: the last write wins.
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
    /// Condition for the write.
    pub expect: Expect,
}

/// The expectation of a write that was judged with other documents: no server has written a document since.
///
/// A store of keys has a marker, a key that each such write writes, too. So the comparison costs the same however many
/// documents there are, and finds puts and deletions alike. A change by other hands does not touch the marker. A
/// directory compares its files: one that another server has deleted is not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    /// The prefix of the documents (directory).
    pub prefix: String,
    /// The revision up to which the judgement knows the documents (directory).
    pub since: i64,
    /// The key of the marker.
    pub marker: String,
    /// The `mod_revision` of the marker ([`Backend::marked`]), up to which the judgement knows the writes of servers.
    pub marked: i64,
    /// The marker was put for this write, before it.
    pub is_claimed: bool,
}

/// The expectation of a write that was judged at a revision: no document was put since.
///
/// A store of keys compares the documents that are there, so a deletion is not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The prefixes of the documents.
    pub prefixes: Vec<String>,
    /// The revision of the judgement.
    pub revision: i64,
}

/// A key that lies beside the documents, and tells of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The full key. A store of keys refuses the write if the key exists.
    pub key: String,
    /// Its value.
    pub value: Bytes,
}

/// The terms of a write beside the expectations about its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// No server has written a document since the judgement.
    pub unchanged: Option<Unchanged>,
    /// No document was put since a revision.
    pub base: Option<Base>,
    /// Written in the same revision, if the write changes anything.
    pub note: Option<Note>,
    /// Every key that is put gets this lease.
    pub lease: Option<Lease>,
    /// Keys that get a lease of their own. They are put although their values are equal.
    pub leases: BTreeMap<Bytes, Lease>,
}

/// The last write of a document by a server ([`Backend::marked`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marked {
    /// The `mod_revision` of the marker; 0: no write was marked, or the store has no marker.
    pub revision: i64,
    /// The marker was put before its write, which follows at a later revision or fails.
    pub is_claim: bool,
}

/// Failure of a write.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A document was written since the judgement ([`Unchanged`], [`Base`]); nothing was written now.
    #[error("documents below {0} changed meanwhile")]
    Moved(String),
    /// An expectation does not hold; nothing was written.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// The key, lossily as text.
        key: String,
        /// Its current entry; `None` if the key does not exist.
        current: Option<Entry>,
    },
    /// The store cannot hold this key, now or later.
    #[error("{0}")]
    InvalidKey(String),
    /// The key cannot be deleted: another file would take its place. Nothing was written.
    #[error("{0}")]
    SecondFile(String),
    /// The value is larger than the store allows.
    #[error("{0}")]
    TooLarge(String),
    /// The store did not answer in time: the write may or may not have happened.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The store refused or is away; nothing was written.
    #[error("{0}")]
    Unavailable(String),
}

/// Failure of a read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision's history was compacted, or the backend keeps none.
    #[error("no history at revision {0}")]
    NoHistory(i64),
    /// The store is away or refuses.
    #[error("{0}")]
    Unavailable(String),
}

/// Requests of the receiver to its watch. Cheap to clone. Equal requests that wait for the watch are merged into one.
#[derive(Debug, Clone, Default)]
pub struct WatchControl {
    relist: Arc<tokio::sync::Notify>,
    progress: Arc<tokio::sync::Notify>,
}

impl WatchControl {
    /// Request a list with reason [`ListReason::Confirm`]. A watch that waits for its next attempt tries at once.
    pub fn relist(&self) {
        self.relist.notify_one();
    }

    /// Resolves when a list was requested. Cancel safe.
    pub async fn relist_asked(&self) {
        self.relist.notified().await;
    }

    /// Request the progress of the watch; the answer is [`Event::Reached`].
    pub fn progress(&self) {
        self.progress.notify_one();
    }

    /// Resolves when progress was requested. Cancel safe.
    pub async fn progress_asked(&self) {
        self.progress.notified().await;
    }
}

/// A store of documents.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// `etcd`, `directory` or `memory`: the `source` of `GET /api/v1/snapshot`.
    fn name(&self) -> &'static str;

    /// True if the store is a service that replicas share. Then last good texts are kept there too, and the silence of
    /// the store makes a snapshot stale.
    fn is_shared(&self) -> bool;

    /// Follow all keys below `prefix` until `token` is cancelled, and send each [`Event`] to `events`.
    ///
    /// Returns only if cancelled or if the receiver is dropped. Every failure of the store is an [`Event::Failed`],
    /// followed by a retry. If `events` is full, the watch waits.
    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken);

    /// One key now, linearizable.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError>;

    /// Several keys now, in the order of `keys`.
    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Entry>>, ReadError> {
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            entries.push(self.get(key).await?);
        }
        Ok(entries)
    }

    /// One key at `revision`; [`ReadError::NoHistory`] if the history of that revision is gone or was never kept.
    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError>;

    /// All keys below a prefix now, sorted by key, with the store's revision.
    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError>;

    /// Carry out all writes or none, as one revision, and return the revision. A write of an equal value is left out.
    async fn write(&self, writes: Vec<Write>) -> Result<i64, WriteError> {
        self.write_if(writes, Terms::default()).await
    }

    /// The marker of [`Unchanged`].
    async fn marked(&self, marker: &str) -> Result<Marked, ReadError> {
        let marker = self.get(marker.as_bytes()).await?;
        Ok(Marked {
            revision: marker.map_or(0, |marker| marker.mod_revision),
            is_claim: false,
        })
    }

    /// Like [`Backend::write`], on these terms. If a document was written since the judgement, the failure is
    /// [`WriteError::Moved`].
    async fn write_if(&self, writes: Vec<Write>, terms: Terms) -> Result<i64, WriteError>;

    /// The changes below a prefix of each revision after `after`, up to `up_to`, oldest first.
    /// [`ReadError::NoHistory`] if one of these revisions is gone, or the store keeps no history.
    async fn history(&self, prefix: &str, after: i64, up_to: i64) -> Result<Vec<Revision>, ReadError> {
        let _ = (prefix, up_to);
        Err(ReadError::NoHistory(after))
    }

    /// Begin a lease: keys that are written under it ([`Terms::lease`]) vanish this long after the last
    /// [`Backend::keep_lease`]. Fails in a store that no other process shares.
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease, WriteError> {
        let _ = ttl;
        Err(WriteError::Unavailable(format!("a {} has no leases", self.name())))
    }

    /// Let a lease begin anew. `false`: the lease has ended, and its keys are gone.
    async fn keep_lease(&self, lease: Lease) -> Result<bool, WriteError> {
        let _ = lease;
        Ok(false)
    }

    /// End a lease, and with it its keys.
    async fn end_lease(&self, lease: Lease) -> Result<(), WriteError> {
        let _ = lease;
        Ok(())
    }

    /// The opaque etag of an entry: the `mod_revision` (etcd, memory) or a hash of the content (directory).
    fn etag(&self, entry: &Entry) -> String;

    /// Use new credentials or certificates of the store (SIGHUP). A backend without credentials does nothing.
    async fn reload(&self) -> Result<(), String> {
        Ok(())
    }
}
