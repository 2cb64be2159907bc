//! The needs of xds documents in their group: a cluster that must exist, one that must not exist, or one that must not
//! use a hash policy.
//!
//! Envoy refuses a resource that names a cluster which Envoy checks for and does not have. The document with the need
//! is at fault; of two documents in conflict, the one written last. Only clusters that documents describe count: a
//! generated one vanishes with its route.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use imbl::{OrdMap, OrdSet};
use prost::Message;

use super::accepted::{CompiledDocument, ResourceKey};
use super::describing;
use super::input::GroupInput;
use super::inventory::Inventory;
use super::{Fault, Obstacle};
use crate::document::Rejection;
use crate::document::key::DocumentKey;
use crate::document::sentence::quote;
use crate::resource::check::clusters;
use crate::resource::compile::translate::Translated;
use crate::resource::verbatim::needs::Need;
use crate::resource::{Resource, ResourceType};

/// The group that is checked.
struct Group<'a> {
    documents: &'a Inventory,
    name: &'a str,
    served: &'a OrdMap<ResourceKey, Arc<Resource>>,
    /// Clusters by the name of their endpoints.
    warming: &'a OrdMap<Arc<str>, OrdSet<Arc<str>>>,
}

/// Faults of the documents whose needs the group does not meet, among those that the change may concern; one fault a
/// document. `touched` are the resources that may have changed.
pub(super) fn unmet(
    input: &GroupInput<'_>,
    served: &OrdMap<ResourceKey, Arc<Resource>>,
    warming: &OrdMap<Arc<str>, OrdSet<Arc<str>>>,
    touched: &BTreeSet<ResourceKey>,
) -> Vec<Fault> {
    let all = input.every_listener_may_change() || input.dirty.every_upstream || input.dirty.groups;
    let mut with_needs = input.after.with_needs((!all).then_some(input.dirty));
    if !all {
        // A document that was shadowed may serve now.
        let shown = touched
            .iter()
            .filter_map(|(resource_type, name)| input.after.needs_of(*resource_type, name));
        with_needs.extend(shown);
        let clusters = touched
            .iter()
            .filter(|(resource_type, _)| *resource_type == ResourceType::Cluster);
        let endpoints = clusters.filter_map(|key| served.get(key)?.warms.as_deref());
        with_needs.extend(endpoints.filter_map(|name| input.after.needs_of(ResourceType::Endpoint, name)));
    }
    let group = Group {
        documents: input.after,
        name: input.name,
        served,
        warming,
    };
    with_needs
        .into_iter()
        .filter_map(|key| group.fault(key, input.after.get(key)?))
        .collect()
}

impl Group<'_> {
    fn fault(&self, key: &DocumentKey, compiled: &CompiledDocument) -> Option<Fault> {
        let Translated::Verbatim(written) = &compiled.translated else {
            return None;
        };

        let name = (written.resource_type, Arc::clone(&written.resource.name));
        let serves = self
            .served
            .get(&name)
            .is_some_and(|served| Arc::ptr_eq(served, &written.resource));
        if !serves || !compiled.document().is_for(self.name) {
            return None;
        }

        let revision = compiled.accepted.mod_revision;
        let own = |path: &String, reason: String| Fault::of_itself(key.clone(), Rejection::new(path.as_str(), reason));

        written.needs.iter().find_map(|need| match need {
            Need::Cluster { path, name } if !self.has(name) => {
                let reason = format!(
                    "found {}, which no document describes for group {}, expected clusters/{name} \
                     (or \"validate_clusters\": false, where it is Envoy's bootstrap that has it)",
                    quote(name),
                    self.name,
                );
                let is_nowhere = !self.documents.describes(name);
                let own = own(path, reason);
                Some(match is_nowhere {
                    true => own.behind(Obstacle::NoCluster(Arc::clone(name))),
                    false => own,
                })
            }
            Need::NoCluster { path, name } => {
                let (other, compiled) = self.described(name)?;
                let of = compiled.accepted.mod_revision;
                let name = quote(name);
                let reason = format!("found {name}, which {other} makes, expected a cluster of Envoy's bootstrap");
                let theirs =
                    format!("found the name of a cluster that {key} wants in Envoy's bootstrap, expected another");
                let text = |key: &DocumentKey, mod_revision| Obstacle::Text {
                    key: key.clone(),
                    mod_revision,
                };
                let own = own(path, reason).behind(text(&other, of));
                let theirs = Fault::of_itself(other, Rejection::new("", theirs)).behind(text(key, revision));
                Some(newer((own, revision), (theirs, of)))
            }
            Need::NoHashing { path, reason } => {
                let (other, of) = self.hashing(&written.resource.name)?;
                let own = own(path, format!("{reason} ({other})"));
                let theirs = format!("found ring_hash or maglev under the weights of {key}, expected another policy");
                let theirs = Fault::of_itself(other, Rejection::new("", theirs));
                Some(newer((own, revision), (theirs, of)))
            }
            Need::Cluster { .. } => None,
        })
    }

    /// Whether Envoy has a cluster without subscribing to it by name.
    fn has(&self, name: &Arc<str>) -> bool {
        let served = self.served.get(&(ResourceType::Cluster, Arc::clone(name)));
        self.described(name).is_some() && served.is_some_and(|cluster| !cluster.on_demand)
    }

    /// The document that describes a cluster in the group.
    fn described(&self, name: &str) -> Option<(DocumentKey, &CompiledDocument)> {
        describing(name).into_iter().find_map(|key| {
            let compiled = self
                .documents
                .get(&key)
                .filter(|compiled| compiled.document().is_for(self.name))?;
            Some((key, &**compiled))
        })
    }

    /// The newest document of a cluster with a hash policy over the endpoints of that name, with its revision.
    fn hashing(&self, endpoints: &str) -> Option<(DocumentKey, i64)> {
        let clusters = self.warming.get(endpoints).into_iter().flatten();
        let clusters = clusters.filter_map(|name| self.served.get(&(ResourceType::Cluster, Arc::clone(name))));
        let mut hashing = clusters.filter(|cluster| {
            Cluster::decode(&*cluster.body.to_bytes()).is_ok_and(|cluster| clusters::hashes(&cluster))
        });
        let makers = hashing.next()?.made_of().cloned().filter_map(|key| {
            let revision = self.documents.get(&key)?.accepted.mod_revision;
            Some((key, revision))
        });
        makers.max_by_key(|(_, revision)| *revision)
    }
}

/// The fault of the document written last, of two in conflict.
fn newer((own, revision): (Fault, i64), (theirs, of): (Fault, i64)) -> Fault {
    let (newer, older) = if revision >= of { (own, theirs) } else { (theirs, own) };
    Fault {
        rival: Some(Box::new(older)),
        ..newer
    }
}
