//! Clusters that a gRPC client gets to know before a route moves there.
//!
//! A client without a proxy subscribes to a cluster when a route names it. grpc-go sends calls by the new routes before
//! its balancer knows the cluster: until then calls fail with "unknown cluster selected for RPC"
//! (docs/proxyless-grpc.md). So a RouteConfiguration that names a cluster which the client does not subscribe to comes
//! in two steps: the old one with a route that no call matches and that names the cluster, and the new one, when the
//! client has answered the cluster and its endpoints, or after [`PREPARE_MAX`]. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use super::Session;
use super::state::State;
use crate::resource::{ResourceType, grpc};
use crate::snapshot::changes::Named;
use crate::snapshot::set::{Entry, ResourceSet};

/// How long the second step waits for the client.
const PREPARE_MAX: Duration = Duration::from_secs(5);

/// Clusters of the first step, while the second one waits.
#[derive(Debug)]
pub(in crate::xds) struct Preparing {
    clusters: Vec<Arc<str>>,
    pub(in crate::xds) until: Instant,
}

impl Session {
    /// The routes to send now, if they are not the set itself.
    pub(super) fn prepare(&mut self, set: &Arc<ResourceSet>, now: Instant) -> Option<Arc<ResourceSet>> {
        let routes = self.types[ResourceType::Route.index()].as_deref();
        let base = routes.and_then(State::base).filter(|base| !Arc::ptr_eq(base, set));
        let (Some(base), true) = (base, self.features.errors) else {
            self.preparing = None;
            return None;
        };
        if let Some(preparing) = &self.preparing {
            let waits = now < preparing.until && !preparing.clusters.iter().all(|name| self.is_ready(name));
            let base = waits.then(|| Arc::clone(base));
            self.preparing = self.preparing.take().filter(|_| waits);
            return base;
        }

        let unknown = self.unknown_clusters(base, set);
        if unknown.is_empty() {
            return None;
        }
        let mut key = Xxh3::new();
        key.update(&base.version().0.to_be_bytes());
        let named = unknown
            .iter()
            .flat_map(|(name, clusters)| std::iter::once(name).chain(clusters));
        named.for_each(|name| key.update(name.as_bytes()));
        let first = set.variant(key.digest128(), || first_step(base, &unknown));
        self.preparing = Some(Preparing {
            clusters: unknown.into_iter().flat_map(|(_, clusters)| clusters).collect(),
            until: now + PREPARE_MAX,
        });
        Some(first)
    }

    /// The names of changed routes that the client has, each with the clusters that the client does not subscribe to.
    fn unknown_clusters(&self, base: &Arc<ResourceSet>, set: &Arc<ResourceSet>) -> Vec<Named> {
        let of = |resource_type: ResourceType| self.types[resource_type.index()].as_deref();
        let (Some(routes), Some(clusters)) = (of(ResourceType::Route), of(ResourceType::Cluster)) else {
            return Vec::new();
        };
        let unknown = |(name, named): &Named| {
            let subscription = &clusters.subscription;
            let unknown = named.iter().filter(|cluster| !subscription.names.contains(cluster));
            (Arc::clone(name), unknown.cloned().collect::<Vec<_>>())
        };
        let has = |name: &str| base.get(name).is_some_and(|old| routes.subscription.covers(old));
        let changes = set.changes_since(base);
        let named = changes.newly_named().iter().filter(|(name, _)| has(name));
        let unknown = named.map(unknown).filter(|(_, clusters)| !clusters.is_empty());
        unknown.filter(|_| !clusters.subscription.wildcard).collect()
    }

    /// Whether the client has answered a cluster and its endpoints.
    fn is_ready(&self, cluster: &Arc<str>) -> bool {
        let answered = |resource_type: ResourceType, name: &Arc<str>| {
            let state: Option<&State> = self.types[resource_type.index()].as_deref();
            state.is_some_and(|state| state.subscription.names.contains(name) && state.is_answered())
        };
        let clusters = self.types[ResourceType::Cluster.index()].as_deref();
        let sent = clusters.and_then(|clusters| clusters.base()?.get(cluster));
        let endpoints = sent.and_then(|cluster| cluster.warms.as_ref());
        answered(ResourceType::Cluster, cluster) && endpoints.is_none_or(|name| answered(ResourceType::Endpoint, name))
    }
}

/// These routes as the client has them, with the clusters that they are to name.
fn first_step(base: &ResourceSet, unknown: &[Named]) -> Vec<Entry> {
    let form = |(name, clusters): &Named| {
        let form = grpc::naming(base.get(name)?, clusters)?;
        Some((Arc::clone(name), Some(Arc::new(form))))
    };
    unknown.iter().filter_map(form).collect()
}
