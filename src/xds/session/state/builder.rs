//! Builds one response of a type.
//!
//! In: changed, subscribed and removed resources. Out: a [`Draft`] with each resource once.

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
    /// The resources of the shared part, if it is a difference.
    pub(in crate::xds) shared_updates: Vec<Arc<Resource>>,
    pub(in crate::xds) updates: Vec<Arc<Resource>>,
    /// Subscribed names without a resource.
    pub(in crate::xds) missing: Vec<Arc<str>>,
    /// Updates whose names a reconnected client did not report.
    pub(in crate::xds) novel: Vec<Entry>,
    /// Delta: resources without a body.
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

    /// Answer for a route configuration: with its virtual hosts, or with the absence of any.
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
            // A resource with a held removal is in no set.
            SharedPart::Wildcard(set) => set.get(&resource.name).is_some_and(|one| !one.on_demand),
            SharedPart::Selection(selection) => selection.get(&resource.name).is_some(),
        }
    }

    /// Whether the response carries the resource. Called after [`Self::dedup`].
    pub(in crate::xds) fn carries(&self, resource: &Resource) -> bool {
        self.shares(resource) || is_among(&self.updates, resource)
    }

    /// Keep each resource once, and none that the shared part carries.
    pub(in crate::xds) fn dedup(&mut self) {
        let mut updates = std::mem::take(&mut self.updates);
        updates.retain(|resource| !self.shares(resource));
        updates.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        updates.dedup_by(|one, other| one.name == other.name);
        self.updates = updates;
    }

    /// Replace the shared part and the updates by a larger shared part.
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

/// An empty assignment for an endpoint name without a resource. Without any answer the cluster, and every ACK of
/// clusters, would wait for 15 s (SW-26).
pub(in crate::xds) fn empty_assignment(name: &str) -> Arc<Resource> {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    };
    Arc::new(Resource::new(name, assignment.encode_to_vec(), Vec::new()))
}

/// Whether a resource of that name is in a list sorted by name.
fn is_among(sorted: &[Arc<Resource>], resource: &Resource) -> bool {
    sorted.binary_search_by(|one| one.name.cmp(&resource.name)).is_ok()
}

/// The answer for a virtual host that does not exist: its name as an alias without a resource. A removal would leave
/// the request that waits for the virtual host hanging (DX-29).
pub(in crate::xds) fn unresolved(name: Arc<str>) -> Arc<Resource> {
    Arc::new(Resource {
        aliases: Arc::new([Arc::clone(&name)]),
        ..Resource::new(name, Vec::new(), Vec::new())
    })
}
