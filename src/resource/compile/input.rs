//! The input of a group's compilation: the documents before and after a change, the names that the change made dirty
//! in the group, and questions that several steps ask.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::accepted::{CompiledDocument, On, ResourceKey};
use super::context::Context;
use super::depends::Dirty;
use super::inventory::Inventory;
use super::translate::Translated;
use crate::document::Document;
use crate::document::key::{DocumentKey, Kind};
use crate::document::route::Route;
use crate::resource::table::{Bounds, Entry, Table};

/// Everything that a group's compilation looks at.
pub(super) struct GroupInput<'a> {
    pub(super) context: &'a Context,
    pub(super) before: &'a Inventory,
    pub(super) after: &'a Inventory,
    pub(super) dirty: &'a Dirty,
    pub(super) name: &'a Arc<str>,
    /// The group did not exist before: everything is compiled.
    pub(super) fresh: bool,
    /// The bounds of one RouteConfiguration.
    pub(super) bounds: Bounds,
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

/// The listeners with a table that a route may be in: those that it names, or all.
pub(super) fn tables_of<'a>(
    tables: &'a OrdMap<Arc<str>, Table>,
    route: &'a Route,
) -> impl Iterator<Item = &'a Arc<str>> {
    let all = route.listeners.is_none().then(|| tables.keys());
    let named = route.listeners.iter().flatten();
    let named = named.filter_map(|name| tables.get_key_value(name).map(|(name, _)| name));
    all.into_iter().flatten().chain(named)
}

/// The dirty names by group: what a change of one group's documents costs the other groups is nothing.
pub(super) struct ByGroup<'a> {
    everywhere: Dirty,
    of: BTreeMap<&'a str, Dirty>,
}

impl<'a> ByGroup<'a> {
    /// Routes and listeners that are for some groups, before or after the change, are dirty there.
    pub(super) fn new(dirty: &Dirty, before: &'a Inventory, after: &'a Inventory) -> Self {
        let mut by_group = Self {
            everywhere: Dirty {
                routes: BTreeSet::new(),
                listeners: BTreeSet::new(),
                ..dirty.clone()
            },
            of: BTreeMap::new(),
        };
        let documents = |key: &DocumentKey| [before.document(key), after.document(key)].into_iter().flatten();
        for key in &dirty.routes {
            for document in documents(key) {
                by_group.for_each(document, |dirty| {
                    dirty.routes.insert(key.clone());
                });
            }
        }
        for name in &dirty.listeners {
            for document in documents(&DocumentKey::new(Kind::Listeners, Arc::clone(name))) {
                by_group.for_each(document, |dirty| {
                    dirty.listeners.insert(Arc::clone(name));
                });
            }
        }
        by_group
    }

    fn for_each(&mut self, document: &'a Document, mark: impl Fn(&mut Dirty)) {
        match document.groups() {
            None => mark(&mut self.everywhere),
            Some(groups) => groups.iter().for_each(|group| mark(self.of.entry(group).or_default())),
        }
    }

    /// What is dirty in a group.
    pub(super) fn of(&self, group: &str) -> Cow<'_, Dirty> {
        let Some(own) = self.of.get(group) else {
            return Cow::Borrowed(&self.everywhere);
        };
        let mut dirty = self.everywhere.clone();
        dirty.routes.extend(own.routes.iter().cloned());
        dirty.listeners.extend(own.listeners.iter().cloned());
        Cow::Owned(dirty)
    }
}

/// Routes whose entries changed through policies, of all groups.
#[derive(Debug, Default)]
pub(super) struct Repoliced {
    pub(super) routes: BTreeSet<DocumentKey>,
    /// Listeners on which the entries of every route changed.
    pub(super) listeners: BTreeSet<Arc<str>>,
    /// Listeners with other policies.
    pub(super) kinds: BTreeSet<Arc<str>>,
    /// Generated entries that came or went.
    pub(super) entries: Vec<Arc<Entry>>,
}

impl Repoliced {
    pub(super) fn extend(&mut self, other: Self) {
        self.routes.extend(other.routes);
        self.listeners.extend(other.listeners);
        self.kinds.extend(other.kinds);
        self.entries.extend(other.entries);
    }
}
