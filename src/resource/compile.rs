//! The compiled whole and its difference: which resource each group of proxies has.
//!
//! Persistent: a new [`Compiled`] shares with the old one all that did not change.

use std::sync::Arc;

use super::{Resource, ResourceType};

/// What changed between two compiled wholes.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    /// One entry a resource and group: the new resource, or `None` where it is gone. Sorted by group, type, name; unique.
    pub resources: Vec<ResourceChange>,
    /// Groups that exist now and did not before (with nothing of their own in `resources`, they are empty).
    pub groups_added: Vec<Arc<str>>,
    /// Groups that exist no longer.
    pub groups_removed: Vec<Arc<str>>,
}

impl Difference {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.groups_added.is_empty() && self.groups_removed.is_empty()
    }
}

/// One resource of one group, as it is now.
#[derive(Debug, Clone)]
pub struct ResourceChange {
    /// The group.
    pub group: Arc<str>,
    /// The type.
    pub resource_type: ResourceType,
    /// The name.
    pub name: Arc<str>,
    /// The resource; `None`: gone.
    pub resource: Option<Arc<Resource>>,
}
