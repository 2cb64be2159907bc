//! One resource type's set for one group: sorted by name, in slabs that are shared between versions.
//!
//! A slab is a run of neighbouring resources (16 to 64 KiB); its encoded form is built once and shared by every stream and
//! by every later set in which the slab did not change. A change copies one slab's list and the list of slabs, nothing else.

use std::sync::Arc;

use super::version::SetVersion;
use crate::resource::Resource;

/// An immutable set of resources of one type. (Skeleton: the owner of `snapshot` gives it its slabs.)
#[derive(Debug, Default)]
pub struct ResourceSet {
    version: SetVersion,
}

impl ResourceSet {
    /// The set's version: equal sets have equal versions, on every replica, whatever the order of their history.
    #[must_use]
    pub fn version(&self) -> SetVersion {
        self.version
    }

    /// How many resources, on-demand ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        let _ = name;
        None
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        std::iter::empty()
    }
}
