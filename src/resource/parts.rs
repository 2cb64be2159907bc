//! What a resource made of many documents is made of, document by document.
//!
//! Thousands of routes become one RouteConfiguration. When it changes, two questions are asked: which documents are other
//! than before (whoever refuses the change refuses one of those), and which clusters do they name that they did not name
//! before (these must be warm first). The map is persistent: keeping it and comparing two costs what changed. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use serde_json::Value as Json;

use super::{Resource, ResourceVersion};
use crate::document::key::{DocumentKey, Kind};

/// One document's part in a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Another when the text is another; of routes, the `mod_revision`.
    pub revision: i64,
    /// The clusters that it names. Sorted.
    pub upstreams: Arc<[Arc<str>]>,
}

/// Every document of one resource.
pub type Parts = OrdMap<DocumentKey, Part>;

/// The documents that made `new` other than `old`.
///
/// `old` is `None` where nothing is known to compare with. Of what was not made of many documents, all. When nobody's own
/// text changed it was what holds for all of them: `defaults`.
#[must_use]
pub fn changed(old: Option<&Resource>, new: &Resource) -> Vec<DocumentKey> {
    let Some(parts) = &new.parts else { return new.documents.clone() };
    let Some(old) = old.and_then(|old| old.parts.as_ref()) else { return parts.keys().cloned().collect() };
    let changed: Vec<DocumentKey> = old
        .diff(parts)
        .filter_map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } => Some(key.clone()),
            DiffItem::Remove(..) => None,
        })
        .collect();
    if changed.is_empty() { vec![DocumentKey::new(Kind::Defaults, "")] } else { changed }
}

/// The clusters that a document of `new` names and did not name in `old`. Sorted and unique.
#[must_use]
pub fn newly_named(old: &Resource, new: &Resource) -> Vec<Arc<str>> {
    let (Some(old), Some(new)) = (&old.parts, &new.parts) else { return Vec::new() };
    let mut named: Vec<Arc<str>> = Vec::new();
    for item in old.diff(new) {
        match item {
            DiffItem::Add(_, part) => named.extend(part.upstreams.iter().cloned()),
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                named.extend(new.upstreams.iter().filter(|name| old.upstreams.binary_search(name).is_err()).cloned());
            }
            DiffItem::Remove(..) => {}
        }
    }
    named.sort_unstable();
    named.dedup();
    named
}

/// The parts of a resource that is one document's, written as Envoy reads it.
#[must_use]
pub fn verbatim(key: &DocumentKey, version: ResourceVersion, resource: &Json) -> Parts {
    let mut upstreams = BTreeSet::new();
    find_clusters(resource, &mut upstreams);
    let bytes = version.0.to_be_bytes();
    let revision = bytes.iter().fold(0_i64, |sum, byte| sum.rotate_left(8) ^ i64::from(*byte));
    OrdMap::unit(key.clone(), Part { revision, upstreams: upstreams.into_iter().collect() })
}

/// Every name that stands where messages name a cluster; rather one too many than one too few.
fn find_clusters(json: &Json, found: &mut BTreeSet<Arc<str>>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| find_clusters(item, found)),
        Json::Object(fields) => {
            for (field, value) in fields {
                let weighted = ["weighted_clusters", "weightedClusters"].contains(&&**field);
                let clusters = value.get("clusters").and_then(Json::as_array).filter(|_| weighted);
                let names = clusters.into_iter().flatten().filter_map(|cluster| cluster.get("name"));
                let named = ["cluster", "cluster_name", "clusterName"].contains(&&**field).then_some(value);
                found.extend(names.chain(named).filter_map(Json::as_str).map(Arc::from));
                find_clusters(value, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(parts: &[(&str, i64, &[&str])]) -> Resource {
        let part = |revision, upstreams: &[&str]| Part {
            revision,
            upstreams: upstreams.iter().map(|name| Arc::from(*name)).collect(),
        };
        let parts = parts
            .iter()
            .map(|(name, revision, upstreams)| (DocumentKey::new(Kind::Routes, *name), part(*revision, upstreams)));
        Resource { parts: Some(Arc::new(parts.collect())), ..Resource::new("edge", "", Vec::new()) }
    }

    fn names(keys: &[DocumentKey]) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_other_than_before_is_named() {
        let old = resource(&[("a", 1, &["x"]), ("b", 1, &["x", "y"]), ("gone", 1, &["z"])]);
        let new = resource(&[("a", 1, &["x"]), ("b", 2, &["y", "n"]), ("c", 3, &["m", "x"])]);
        assert_eq!(names(&changed(Some(&old), &new)), ["routes/b", "routes/c"]);
        assert_eq!(newly_named(&old, &new), ["m".into(), "n".into(), "x".into()]);
    }

    #[test]
    fn a_change_of_no_text_is_one_of_the_defaults() {
        let one = resource(&[("a", 1, &["x"])]);
        assert_eq!(names(&changed(Some(&one), &one)), ["defaults"]);
        assert_eq!(names(&changed(None, &one)), ["routes/a"]);
        assert_eq!(newly_named(&one, &one), Vec::<Arc<str>>::new());
    }

    #[test]
    fn clusters_are_found_wherever_a_resource_names_one() {
        let key = DocumentKey::new(Kind::Xds, "routes/edge");
        let resource = serde_json::json!({ "name": "edge", "virtual_hosts": [{ "routes": [
            { "route": { "cluster": "a" } },
            { "route": { "weightedClusters": { "clusters": [{ "name": "b", "weight": 1 }, { "name": "c" }] } } },
            { "typed_per_filter_config": { "x": { "grpc_service": { "envoy_grpc": { "cluster_name": "d" } } } } },
        ] }] });
        let parts = verbatim(&key, ResourceVersion::of(b"1"), &resource);
        let part = parts.get(&key).unwrap();
        assert_eq!(*part.upstreams, ["a".into(), "b".into(), "c".into(), "d".into()]);
        assert_ne!(part, verbatim(&key, ResourceVersion::of(b"2"), &resource).get(&key).unwrap());
    }
}
