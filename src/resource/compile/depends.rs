//! What a changed document touches: which units have to be compiled again, and which not.
//!
//! What enters: a document as it was and as it is. What leaves: the [`Units`] whose bytes may be different now. It errs on
//! the side of too much (a unit that comes out the same is no difference), never of too little. It promises what keeps a
//! change cheap: a route that refers to the same clusters as before touches no cluster, and a cluster or a registration
//! touches no route. Which resources a unit becomes is `compile`'s.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::document::Document;
use crate::document::defaults::Defaults;
use crate::document::key::{DocumentKey, Kind};
use crate::document::route::Route;

/// What has to be compiled again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Units {
    /// Route documents whose entries change.
    pub(super) routes: BTreeSet<DocumentKey>,
    /// Names whose Cluster or ClusterLoadAssignment may change, written or generated.
    pub(super) upstreams: BTreeSet<Arc<str>>,
    /// Listeners documents.
    pub(super) listeners: BTreeSet<Arc<str>>,
    /// Xds documents.
    pub(super) verbatim: BTreeSet<DocumentKey>,
    /// A group came or went.
    pub(super) groups: bool,
    /// `defaults` changed what routes say.
    pub(super) every_route: bool,
    /// `defaults` changed what clusters say, generated ones too.
    pub(super) every_upstream: bool,
    /// `defaults` changed what listeners say.
    pub(super) every_listener: bool,
}

impl Units {
    /// Whether `defaults` changed what every document of a kind says.
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

/// Add what one document's change touches; `None` is a document that does not exist (or does not serve).
pub(super) fn touch(units: &mut Units, key: &DocumentKey, old: Option<&Document>, new: Option<&Document>) {
    match key.kind {
        Kind::Routes => touch_route(
            units,
            key,
            old.and_then(Document::as_route),
            new.and_then(Document::as_route),
        ),
        Kind::Clusters => {
            units.upstreams.insert(Arc::clone(&key.name));
        }
        Kind::Services => {
            units.upstreams.insert(key.first_segment().into());
        }
        Kind::Listeners => {
            units.listeners.insert(Arc::clone(&key.name));
        }
        Kind::Groups => units.groups |= old.is_some() != new.is_some(),
        Kind::Defaults => {
            let defaults =
                |document: Option<&Document>| document.and_then(Document::as_defaults).cloned().unwrap_or_default();
            touch_defaults(units, &defaults(old), &defaults(new));
        }
        Kind::Xds => {
            units.verbatim.insert(key.clone());
            // A generated Cluster stands in for one that nobody describes.
            let endpoints = key.name.strip_prefix("endpoints/");
            units.upstreams.extend(key.cluster().or(endpoints).map(Arc::from));
        }
        Kind::Registries | Kind::Secrets | Kind::Policies | Kind::Runtime | Kind::Unknown => {}
    }
}

fn touch_route(units: &mut Units, key: &DocumentKey, old: Option<&Route>, new: Option<&Route>) {
    units.routes.insert(key.clone());
    let names = |route: Option<&Route>| route.map(Route::upstream_names).unwrap_or_default();
    let (names_before, names_after) = (names(old), names(new));
    if old.map(|route| &route.groups) == new.map(|route| &route.groups) {
        units
            .upstreams
            .extend(names_before.symmetric_difference(&names_after).cloned());
    } else {
        units.upstreams.extend(names_before);
        units.upstreams.extend(names_after);
    }
}

/// Add what a change of `defaults` touches.
pub(super) fn touch_defaults(units: &mut Units, old: &Defaults, new: &Defaults) {
    units.every_route |= old.route != new.route || old.legacy_path != new.legacy_path;
    units.every_upstream |= old.cluster != new.cluster;
    units.every_listener |= old.listener != new.listener;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Limits, parse};

    fn read(key: &DocumentKey, text: &str) -> Document {
        Document::clone(&parse(key, text.as_bytes(), &Limits::default()).unwrap().document)
    }

    fn touched(kind: Kind, name: &str, old: Option<&str>, new: Option<&str>) -> Units {
        let key = DocumentKey::new(kind, name);
        let (old, new) = (old.map(|text| read(&key, text)), new.map(|text| read(&key, text)));
        let mut units = Units::default();
        touch(&mut units, &key, old.as_ref(), new.as_ref());
        units
    }

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_route_with_the_same_clusters_touches_none() {
        let units = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/b", "to": "x"}"#),
        );
        assert_eq!(units.upstreams, names(&[]));
        assert_eq!(units.routes.len(), 1);
    }

    #[test]
    fn a_route_with_another_cluster_touches_both() {
        let units = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/a", "to": "http://10.0.0.1:80"}"#),
        );
        assert_eq!(units.upstreams, names(&["x", "http://10.0.0.1:80"]));
    }

    #[test]
    fn a_route_for_other_groups_touches_its_clusters() {
        let units = touched(
            Kind::Routes,
            "a",
            Some(r#"{"match": "/a", "to": "x"}"#),
            Some(r#"{"match": "/a", "to": "x", "groups": ["edge"]}"#),
        );
        assert_eq!(units.upstreams, names(&["x"]));
    }

    #[test]
    fn a_cluster_or_a_registration_touches_no_route() {
        let upstream = Units {
            upstreams: names(&["x"]),
            ..Units::default()
        };
        assert_eq!(touched(Kind::Clusters, "x", None, Some("{}")), upstream);
        assert_eq!(touched(Kind::Services, "x/1", Some("10.0.0.1:80"), None), upstream);
    }

    #[test]
    fn defaults_touch_the_kinds_whose_part_changed() {
        let units = touched(Kind::Defaults, "", None, Some(r#"{"legacy_path": "prefix"}"#));
        assert_eq!(
            units,
            Units {
                every_route: true,
                ..Units::default()
            }
        );
        let units = touched(
            Kind::Defaults,
            "",
            Some(r#"{"cluster": {"connect_timeout": "1s"}}"#),
            None,
        );
        assert_eq!(
            units,
            Units {
                every_upstream: true,
                ..Units::default()
            }
        );
    }
}
