//! `failover`: the members of an aggregate, and circles among clusters.
//!
//! The Cluster NAME of a document with `failover` is an aggregate of its own endpoints (`NAME~own`) and the own
//! endpoints of each cluster that `failover` names. Whether such a cluster has `failover` too decides the name of its
//! own endpoints, so a change of a cluster makes the aggregates over it dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Fault;
use super::depends::Dirty;
use super::input::{GroupInput, verbatim};
use super::inventory::Inventory;
use crate::document::Rejection;
use crate::document::cluster::Cluster;
use crate::document::key::{DocumentKey, Kind};
use crate::resource::{Resource, ResourceType, clusters};

/// The aggregate of a cluster document in a group. A cluster that the group does not have is left out: Envoy would pass
/// over it, and other clients would refuse the aggregate.
pub(super) fn aggregate(input: &GroupInput<'_>, name: &Arc<str>, cluster: &Cluster) -> Arc<Resource> {
    let mut members = vec![clusters::own_name(name, cluster).to_string()];
    members.extend(cluster.failover.iter().filter_map(|name| member(input, name)));
    let key = DocumentKey::new(Kind::Clusters, Arc::clone(name));
    Arc::new(clusters::aggregate(&key, cluster, members, input.context))
}

/// The name of the Cluster with a cluster's own endpoints.
fn member(input: &GroupInput<'_>, name: &Arc<str>) -> Option<String> {
    if let Some((cluster, _, compiled)) = input.after.cluster(name)
        && compiled.document().is_for(input.name)
    {
        return Some(clusters::own_name(name, cluster).to_string());
    }
    let written = verbatim(input.after, input.name, &(ResourceType::Cluster, Arc::clone(name)));
    written.map(|_| name.to_string())
}

/// A fault for each circle that a changed cluster is part of: its document that was written last.
pub(super) fn circles(inventory: &Inventory, dirty: &Dirty) -> Vec<Fault> {
    let circles = dirty.upstreams.iter().filter_map(|name| circle(inventory, name));
    let faults = circles.filter_map(|circle| {
        let revision = |name: &Arc<str>| {
            inventory
                .cluster(name)
                .map(|(_, _, compiled)| compiled.accepted.mod_revision)
        };
        let newest = circle.iter().max_by_key(|name| (revision(name), Arc::clone(name)))?;
        let named: Vec<String> = circle
            .iter()
            .chain(circle.first())
            .map(|name| format!("clusters/{name}"))
            .collect();
        let reason = format!(
            "found a circle ({}), expected clusters that do not lead back",
            named.join(", ")
        );
        Some((Arc::clone(newest), Rejection::new("failover", reason)))
    });
    // A circle is found once for each of its clusters that changed.
    let by_name: BTreeMap<Arc<str>, Rejection> = faults.collect();
    let fault = |(name, rejection)| Fault::of_itself(DocumentKey::new(Kind::Clusters, name), rejection);
    by_name.into_iter().map(fault).collect()
}

/// The clusters on a way from a cluster back to itself, that one first.
fn circle(inventory: &Inventory, start: &Arc<str>) -> Option<Vec<Arc<str>>> {
    let next = |name: &Arc<str>| {
        inventory
            .cluster(name)
            .map(|(cluster, ..)| cluster.failover.as_slice())
            .unwrap_or_default()
    };
    let mut seen = BTreeSet::new();
    let mut ways: Vec<Vec<Arc<str>>> = vec![vec![Arc::clone(start)]];
    while let Some(way) = ways.pop() {
        for name in way.last().map(next).unwrap_or_default() {
            if name == start {
                return Some(way);
            }
            if seen.insert(Arc::clone(name)) {
                ways.push(way.iter().chain([name]).cloned().collect());
            }
        }
    }
    None
}
