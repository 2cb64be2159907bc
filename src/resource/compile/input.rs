//! The input of a group's compilation: the documents before and after a change, the names that the change made dirty,
//! and two questions that several steps ask.

use std::sync::Arc;

use super::accepted::{CompiledDocument, On, ResourceKey};
use super::context::Context;
use super::depends::Dirty;
use super::inventory::Inventory;
use super::translate::Translated;
use crate::document::Document;
use crate::document::key::DocumentKey;
use crate::resource::table::Entry;

/// Everything that a group's compilation looks at.
pub(super) struct GroupInput<'a> {
    pub(super) context: &'a Context,
    pub(super) before: &'a Inventory,
    pub(super) after: &'a Inventory,
    pub(super) dirty: &'a Dirty,
    pub(super) name: &'a Arc<str>,
    /// The group did not exist before: everything is compiled.
    pub(super) fresh: bool,
    /// The most entries in one RouteConfiguration.
    pub(super) most_entries: usize,
    /// Of the faults, one is enough.
    pub(super) is_brief: bool,
}

impl GroupInput<'_> {
    /// Whether every Listener of the group may change: the default listener comes or goes with the first document.
    pub(super) fn every_listener_may_change(&self) -> bool {
        self.fresh || self.dirty.every_listener || self.before.has_listeners() != self.after.has_listeners()
    }
}

/// The xds document of a resource, if it is for the group.
pub(super) fn verbatim<'a>(
    inventory: &'a Inventory,
    group: &str,
    (resource_type, name): &ResourceKey,
) -> Option<(DocumentKey, &'a Arc<CompiledDocument>)> {
    inventory
        .verbatim(*resource_type, name)
        .filter(|(_, compiled)| compiled.document().is_for(group))
}

/// The entries of a route; none if the route is not for the group or not on the listener.
pub(super) fn entries_on<'a>(compiled: &'a CompiledDocument, group: &str, on: On<'_>) -> &'a [Arc<Entry>] {
    match (compiled.document(), &compiled.translated) {
        (Document::Route(route), Translated::Route { entries, .. })
            if compiled.document().is_for(group) && on.has(route) =>
        {
            entries
        }
        _ => &[],
    }
}
