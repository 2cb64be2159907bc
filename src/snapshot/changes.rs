//! The difference between two sets, computed once for all streams.
//!
//! In: the set that a stream was brought to last, and the current one. Out: [`Changes`], sorted by name. The newer set
//! keeps them, so ten thousand streams with the same older set share one difference and its encoded form.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::blocks::{self, Blocks, Shape};
use super::version::SetVersion;
use crate::resource::compile::parts;
use crate::resource::{Resource, ResourceType};

pub mod transition;

use transition::Transition;

/// Most differences that a set keeps. A stream that is further behind (a slow reader) computes its own.
const KEPT: usize = 8;

/// One member that differs between the sets.
#[derive(Debug, Clone)]
pub struct Change {
    /// The member of the older set.
    pub old: Option<Arc<Resource>>,
    /// The member of the newer set.
    pub new: Option<Arc<Resource>>,
}

impl Change {
    /// The resource's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match (&self.new, &self.old) {
            (Some(resource), _) | (None, Some(resource)) => &resource.name,
            (None, None) => unreachable!("a change has an old or a new resource"),
        }
    }
}

/// The difference between two sets.
#[derive(Debug)]
pub struct Changes {
    resource_type: ResourceType,
    entries: Vec<Change>,
    sotw: OnceLock<Blocks>,
    delta: OnceLock<Blocks>,
    newly_named: OnceLock<Vec<Named>>,
    transition: OnceLock<Option<Transition>>,
}

/// A changed resource, and the clusters that it names now and did not name before.
pub type Named = (Arc<str>, Vec<Arc<str>>);

impl Changes {
    /// Whether there are changes, and each takes parts of documents out of a resource and does nothing else.
    #[must_use]
    pub fn only_remove_parts(&self) -> bool {
        let only_removes = |change: &Change| match (&change.old, &change.new) {
            (Some(old), Some(new)) => parts::only_removed(old, new),
            _ => false,
        };
        !self.entries.is_empty() && self.entries.iter().all(only_removes)
    }

    /// The changes of a set of this type; `entries` are sorted by name.
    pub(super) fn new(resource_type: ResourceType, entries: Vec<Change>) -> Self {
        Self {
            resource_type,
            entries,
            sotw: OnceLock::new(),
            delta: OnceLock::new(),
            newly_named: OnceLock::new(),
            transition: OnceLock::new(),
        }
    }

    /// Every difference, sorted by name.
    #[must_use]
    pub fn entries(&self) -> &[Change] {
        &self.entries
    }

    /// Every new or changed resource, encoded once for all streams that are owed all of them.
    #[must_use]
    pub fn blocks(&self, shape: Shape) -> &Blocks {
        let cell = match shape {
            Shape::Sotw => &self.sotw,
            Shape::Delta => &self.delta,
        };
        cell.get_or_init(|| {
            blocks::encode(
                self.resource_type,
                shape,
                self.entries.iter().filter_map(|change| change.new.as_ref()),
            )
        })
    }

    /// The changed resources that name clusters which they did not name before, sorted by name. Computed once for all
    /// streams.
    #[must_use]
    pub fn newly_named(&self) -> &[Named] {
        self.newly_named.get_or_init(|| {
            let named = self.entries.iter().filter_map(|change| {
                let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
                Some((Arc::clone(&new.name), parts::newly_named(old, new)))
            });
            named.filter(|(_, clusters)| !clusters.is_empty()).collect()
        })
    }

    /// The way from the old set to the new one, where the order matters. Computed once for all streams.
    #[must_use]
    pub fn transition(&self) -> Option<&Transition> {
        self.transition.get_or_init(|| Transition::of(&self.entries)).as_ref()
    }

    /// The number of resources in [`Changes::blocks`].
    #[must_use]
    pub fn present(&self) -> usize {
        self.entries.iter().filter(|change| change.new.is_some()).count()
    }
}

type Cell = Arc<OnceLock<Arc<Changes>>>;

/// The differences between some older sets and the set with this cache, by the version of the older set.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<VecDeque<(SetVersion, Cell)>>);

impl Cache {
    /// The cell of one older version. The lock is not held while a difference is computed.
    pub(super) fn cell(&self, version: SetVersion) -> Cell {
        let mut kept = self.0.lock();
        if let Some((_, cell)) = kept.iter().find(|(of, _)| *of == version) {
            return Arc::clone(cell);
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let cell = Cell::default();
        kept.push_back((version, Arc::clone(&cell)));
        cell
    }
}
