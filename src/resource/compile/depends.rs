//! Which documents and resources a change makes dirty.
//!
//! In: a document before and after the change. Out: [`Dirty`], the names whose compiled bytes may differ now. A name
//! too many costs time only: equal bytes are no difference. A name too few would be a fault. Two promises keep a change
//! cheap:
//!
//! - A route that refers to the same clusters as before makes no cluster dirty.
//! - A cluster or a registration makes no route dirty.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::accepted::CompiledDocument;
use super::translate::route_services;
use crate::document::defaults::Defaults;
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::Items;
use crate::document::route::{Route, Upstream};
use crate::document::{Document, Groups};

/// The names to compile again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Route documents whose entries change.
    pub(super) routes: BTreeSet<DocumentKey>,
    /// Names whose Cluster or ClusterLoadAssignment may change, written or generated ones.
    pub(super) upstreams: BTreeSet<Arc<str>>,
    /// Listeners documents.
    pub(super) listeners: BTreeSet<Arc<str>>,
    /// Documents that become one resource under their own name.
    pub(super) named: BTreeSet<DocumentKey>,
    /// Changed documents that name others.
    pub(super) referring: BTreeSet<DocumentKey>,
    /// Documents that look different to those that name them.
    pub(super) referred: BTreeSet<DocumentKey>,
    /// Xds documents.
    pub(super) verbatim: BTreeSet<DocumentKey>,
    /// Policies documents.
    pub(super) policies: BTreeSet<Arc<str>>,
    /// Clusters whose policies change.
    pub(super) cluster_policies: BTreeSet<Arc<str>>,
    /// The policies of `defaults` change.
    pub(super) default_policies: bool,
    /// A group was added or removed.
    pub(super) groups: bool,
    /// `defaults` changed for routes.
    pub(super) every_route: bool,
    /// `defaults` changed for clusters, generated ones included.
    pub(super) every_upstream: bool,
    /// `defaults` changed for listeners.
    pub(super) every_listener: bool,
}

impl Dirty {
    /// Whether `defaults` changed for a kind of document.
    #[must_use]
    pub(super) fn every_of(&self, kind: Kind) -> bool {
        match kind {
            Kind::Routes => self.every_route,
            Kind::Clusters => self.every_upstream,
            Kind::Listeners => self.every_listener,
            _ => false,
        }
    }
}

/// Mark what the change of one document makes dirty; `None`: the document does not exist (or does not serve).
pub(super) fn touch(dirty: &mut Dirty, key: &DocumentKey, old: Option<&Document>, new: Option<&Document>) {
    match key.kind {
        Kind::Routes => touch_route(
            dirty,
            key,
            old.and_then(Document::as_route),
            new.and_then(Document::as_route),
        ),
        Kind::Clusters => {
            dirty.upstreams.insert(Arc::clone(&key.name));
            if policies_of(old) != policies_of(new) {
                dirty.cluster_policies.insert(Arc::clone(&key.name));
            }
        }
        // The clusters that take a registration from a registry are known to the inventory.
        Kind::Services if key.registry().is_some() => {}
        Kind::Services => {
            dirty.upstreams.insert(key.first_segment().into());
        }
        Kind::Listeners => {
            dirty.listeners.insert(Arc::clone(&key.name));
        }
        Kind::Groups => dirty.groups |= old.is_some() != new.is_some(),
        Kind::Defaults => {
            let defaults =
                |document: Option<&Document>| document.and_then(Document::as_defaults).cloned().unwrap_or_default();
            touch_defaults(dirty, &defaults(old), &defaults(new));
        }
        Kind::Xds => {
            dirty.verbatim.insert(key.clone());
            // A Cluster is generated for a name that no document describes.
            let endpoints = key.name.strip_prefix("endpoints/");
            dirty.upstreams.extend(key.cluster().or(endpoints).map(Arc::from));
        }
        Kind::Runtime | Kind::Secrets => {
            dirty.named.insert(key.clone());
        }
        Kind::Policies => {
            dirty.policies.insert(Arc::clone(&key.name));
        }
        Kind::Registries | Kind::Unknown => {}
    }
}

/// The lists of a document, and the groups for which they hold.
fn policies_of(document: Option<&Document>) -> Option<(Vec<&Items>, &Groups)> {
    let lists = |document: &'_ Document| document.policy_lists().next().is_some();
    let document = document.filter(|document| lists(document))?;
    Some((document.policy_lists().collect(), document.groups()))
}

fn touch_route(dirty: &mut Dirty, key: &DocumentKey, old: Option<&Route>, new: Option<&Route>) {
    dirty.routes.insert(key.clone());
    let names = |route: Option<&Route>| {
        let mut names = route.map(Route::upstream_names).unwrap_or_default();
        let services = route.into_iter().flat_map(route_services);
        names.extend(services.map(Upstream::cluster_name));
        names
    };
    let has_same_groups = old.map(|route| &route.groups) == new.map(|route| &route.groups);
    touch_names(dirty, has_same_groups, names(old), names(new));
}

/// Mark the clusters that a document names now or named before. If its groups are the same, a cluster in both sets stays
/// clean.
fn touch_names(dirty: &mut Dirty, has_same_groups: bool, before: BTreeSet<Arc<str>>, after: BTreeSet<Arc<str>>) {
    if has_same_groups {
        dirty.upstreams.extend(before.symmetric_difference(&after).cloned());
    } else {
        dirty.upstreams.extend(before);
        dirty.upstreams.extend(after);
    }
}

/// Mark the clusters that a document other than a route names now or named before.
pub(super) fn touch_upstreams(
    dirty: &mut Dirty,
    key: &DocumentKey,
    old: Option<&CompiledDocument>,
    new: Option<&CompiledDocument>,
) {
    if matches!(key.kind, Kind::Routes) {
        return;
    }
    let names = |compiled: Option<&CompiledDocument>| -> BTreeSet<Arc<str>> {
        let upstreams = compiled.map_or(&[][..], |compiled| compiled.translated.upstreams());
        upstreams.iter().map(|(name, _)| Arc::clone(name)).collect()
    };
    let groups = |compiled: Option<&CompiledDocument>| compiled.map(|compiled| compiled.document().groups().clone());
    touch_names(dirty, groups(old) == groups(new), names(old), names(new));
}

/// Mark what a change of `defaults` makes dirty.
pub(super) fn touch_defaults(dirty: &mut Dirty, old: &Defaults, new: &Defaults) {
    dirty.every_route |= old.route != new.route || old.legacy_path != new.legacy_path;
    dirty.every_upstream |= old.cluster != new.cluster;
    dirty.every_listener |= old.listener != new.listener;
    dirty.default_policies |= old.policies != new.policies;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Limits, parse};

    fn read(key: &DocumentKey, text: &str) -> Document {
        Document::clone(&parse(key, text.as_bytes(), &Limits::default()).unwrap().document)
    }

    fn touched(kind: Kind, name: &str, old: Option<&str>, new: Option<&str>) -> Dirty {
        let key = DocumentKey::new(kind, name);
        let (old, new) = (old.map(|text| read(&key, text)), new.map(|text| read(&key, text)));
        let mut dirty = Dirty::default();
        touch(&mut dirty, &key, old.as_ref(), new.as_ref());
        dirty
    }

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_route_with_the_same_clusters_touches_none() {
        let dirty = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/b", "to": "x"}"#),
        );
        assert_eq!(dirty.upstreams, names(&[]));
        assert_eq!(dirty.routes.len(), 1);
    }

    #[test]
    fn a_route_with_another_cluster_touches_both() {
        let dirty = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/a", "to": "http://10.0.0.1:80"}"#),
        );
        assert_eq!(dirty.upstreams, names(&["x", "http://10.0.0.1:80"]));
    }

    #[test]
    fn a_route_for_other_groups_touches_its_clusters() {
        let dirty = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/a", "to": "x", "groups": ["edge"]}"#),
        );
        assert_eq!(dirty.upstreams, names(&["x"]));
    }

    #[test]
    fn a_cluster_or_a_registration_touches_no_route() {
        let upstream = Dirty {
            upstreams: names(&["x"]),
            ..Dirty::default()
        };
        assert_eq!(touched(Kind::Clusters, "x", None, Some("{}")), upstream);
        assert_eq!(touched(Kind::Services, "x/1", Some("10.0.0.1:80"), None), upstream);
    }

    #[test]
    fn defaults_touch_the_kinds_whose_part_changed() {
        let dirty = touched(Kind::Defaults, "", None, Some(r#"{"legacy_path": "prefix"}"#));
        assert_eq!(
            dirty,
            Dirty {
                every_route: true,
                ..Dirty::default()
            }
        );
        let dirty = touched(
            Kind::Defaults,
            "",
            Some(r#"{"cluster": {"connect_timeout": "1s"}}"#),
            None,
        );
        assert_eq!(
            dirty,
            Dirty {
                every_upstream: true,
                ..Dirty::default()
            }
        );
    }
}
