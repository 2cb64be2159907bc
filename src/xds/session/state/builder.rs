//! Builds one response of a type.
//!
//! In: changed, subscribed and removed resources. Out: a [`Draft`] with each resource once. Pure.

use std::sync::Arc;

use crate::resource::Resource;
use crate::snapshot::set::{Entry, ResourceSet};
use crate::snapshot::version::SetVersion;
use crate::xds::session::state::content::{Content, SharedPart};
use crate::xds::session::state::{Changed, Draft};
use crate::xds::session::subscription::implied;

/// The parts of a response.
#[derive(Debug, Default)]
pub(in crate::xds) struct ResponseBuilder {
    pub(in crate::xds) shared: SharedPart,
    /// The resources of a shared difference.
    pub(in crate::xds) shared_updates: Vec<Arc<Resource>>,
    pub(in crate::xds) updates: Vec<Arc<Resource>>,
    /// Asked for by name and not there.
    pub(in crate::xds) missing: Vec<Arc<str>>,
    /// Those of the updates that a client which came back does not have in any form, by name.
    pub(in crate::xds) novel: Vec<Entry>,
    /// Told without a body.
    pub(in crate::xds) bodiless: Vec<Arc<Resource>>,
    pub(in crate::xds) removed: Vec<Arc<str>>,
}

impl ResponseBuilder {
    pub(in crate::xds) fn is_any(&self) -> bool {
        !matches!(self.shared, SharedPart::Nothing) || !self.updates.is_empty() || !self.bodiless.is_empty()
    }

    /// The resources that the client did not have as they are.
    pub(in crate::xds) fn changed(&self) -> Changed {
        match &self.shared {
            SharedPart::Wildcard(_) | SharedPart::Selection(_) => Changed::All,
            SharedPart::Nothing | SharedPart::Changes(_) => {
                Changed::Some(self.shared_updates.iter().chain(&self.updates).cloned().collect())
            }
        }
    }

    /// The virtual hosts of a route configuration are answered: with all there are, or with that there are none.
    pub(in crate::xds) fn answer_route_config(&mut self, set: &ResourceSet, of: &str) {
        let before = self.updates.len();
        self.updates.extend(implied::virtual_hosts(set, of).cloned());
        if self.updates.len() == before {
            self.removed.push(implied::no_virtual_host(of));
        }
    }

    /// Whether the shared part carries the resource.
    fn shares(&self, resource: &Resource) -> bool {
        match &self.shared {
            SharedPart::Nothing => false,
            SharedPart::Changes(_) => is_among(&self.shared_updates, resource),
            // What is held is in no set.
            SharedPart::Wildcard(set) => set.get(&resource.name).is_some_and(|one| !one.on_demand),
            SharedPart::Selection(selection) => selection.get(&resource.name).is_some(),
        }
    }

    /// Whether the resource is carried already. Everything is settled.
    pub(in crate::xds) fn carries(&self, resource: &Resource) -> bool {
        self.shares(resource) || is_among(&self.updates, resource)
    }

    /// Each resource once, and none that the shared part carries.
    pub(in crate::xds) fn dedup(&mut self) {
        let mut updates = std::mem::take(&mut self.updates);
        updates.retain(|resource| !self.shares(resource));
        updates.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        updates.dedup_by(|one, other| one.name == other.name);
        self.updates = updates;
    }

    /// A larger shared part takes the place of what was found so far.
    pub(in crate::xds) fn supersede(&mut self, shared: SharedPart) {
        self.shared = shared;
        self.shared_updates.clear();
        self.updates.clear();
    }

    pub(in crate::xds) fn into_draft(self, version: SetVersion, published: bool, first: bool) -> Draft {
        let changed = self.changed();
        let published = published && !first;
        let Self {
            shared,
            updates: own,
            bodiless,
            removed,
            ..
        } = self;
        let content = Content {
            shared,
            own,
            bodiless,
            removed,
        };
        Draft {
            content,
            version,
            published,
            changed,
        }
    }
}

/// An endpoint set that does not exist is answered with an empty one: silence would keep its cluster, and with it every
/// CDS ACK of the proxy, waiting for 15 s (SW-26).
pub(in crate::xds) fn empty_assignment(name: &str) -> Arc<Resource> {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    };
    Arc::new(Resource::new(name, assignment.encode_to_vec(), Vec::new()))
}

/// Whether a resource of that name is among these, which are sorted by name.
fn is_among(sorted: &[Arc<Resource>], resource: &Resource) -> bool {
    sorted.binary_search_by(|one| one.name.cmp(&resource.name)).is_ok()
}

/// A virtual host that does not exist is answered with its name as an alias of nothing: a removal would leave the
/// request that waits for it hanging (DX-29).
pub(in crate::xds) fn unresolved(name: Arc<str>) -> Arc<Resource> {
    Arc::new(Resource {
        aliases: Arc::new([Arc::clone(&name)]),
        ..Resource::new(name, Vec::new(), Vec::new())
    })
}
