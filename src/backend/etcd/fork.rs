//! Detects a fork: the store has another history than the followed one.
//!
//! After a restore or a wiped data directory, etcd may have the same cluster id, member id and even raft term, so only
//! the content shows the fork. A [`Mark`] keeps the newest facts of the followed history and compares them with the
//! store:
//!
//! - the cluster id,
//! - the revision, which never goes back within one history,
//! - the last put and the last delete, by reads at their revisions.

use bytes::Bytes;
use etcd_client::ResponseHeader;
use xxhash_rust::xxh3::xxh3_128;

use super::connect::Connection;
use super::error::{Class, Failure};
use super::list::{Listed, get};
use crate::backend::{Change, Entry};

/// The newest facts of the followed history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    cluster_id: u64,
    revision: i64,
    put: Option<Put>,
    /// Key and revision.
    delete: Option<(Bytes, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Put {
    key: Bytes,
    mod_revision: i64,
    value_hash: u128,
}

impl Put {
    fn of(entry: &Entry) -> Self {
        Self {
            key: entry.key.clone(),
            mod_revision: entry.mod_revision,
            value_hash: xxh3_128(&entry.value),
        }
    }
}

impl Mark {
    pub(super) fn of_list(listed: &Listed) -> Self {
        let newest = listed.entries.iter().max_by_key(|entry| entry.mod_revision);
        Self {
            cluster_id: listed.cluster_id,
            revision: listed.revision,
            put: newest.map(Put::of),
            delete: None,
        }
    }

    pub(super) fn on_changes(&mut self, revision: i64, changes: &[Change]) {
        self.revision = self.revision.max(revision);
        for change in changes {
            match change {
                Change::Put(entry) => self.put = Some(Put::of(entry)),
                Change::Delete { key } => self.delete = Some((key.clone(), revision)),
            }
        }
    }

    /// True if the header of an answer proves another history.
    pub(super) fn contradicts(&self, header: &ResponseHeader) -> bool {
        header.cluster_id() != self.cluster_id || header.revision() < self.revision
    }

    /// True if the store has another history. A compacted revision proves neither.
    pub(super) async fn is_forked(&self, connection: &mut Connection) -> Result<bool, Failure> {
        if let Some(put) = &self.put {
            match get(connection, &put.key, Some(put.mod_revision)).await {
                Ok((found, header)) => {
                    if self.contradicts(&header) || found.as_ref().map(Put::of).as_ref() != Some(put) {
                        return Ok(true);
                    }
                }
                Err(failure) if failure.class == Class::Future => return Ok(true),
                Err(failure) if failure.class == Class::Compacted => {}
                Err(failure) => return Err(failure),
            }
        }

        let Some((key, revision)) = &self.delete else {
            return Ok(false);
        };
        match get(connection, key, Some(*revision)).await {
            Ok((found, header)) => Ok(self.contradicts(&header) || found.is_some()),
            Err(failure) if failure.class == Class::Future => Ok(true),
            Err(failure) if failure.class == Class::Compacted => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// True if a list comes from another history.
    pub(super) fn contradicts_list(&self, listed: &Listed) -> bool {
        listed.cluster_id != self.cluster_id || listed.revision < self.revision
    }
}
