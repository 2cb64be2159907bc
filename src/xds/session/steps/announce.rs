//! Names clusters to a gRPC client before a route moves there.
//!
//! A client without a proxy subscribes to a cluster when a route names that cluster. grpc-go sends calls by the new
//! routes before its balancer knows the cluster: until then calls fail with "unknown cluster selected for RPC"
//! (docs/proxyless-grpc.md). A RouteConfiguration that names a cluster without a subscription is therefore sent in two
//! steps: first the old one, with one more route, which matches no call and names the cluster; then the new one.

use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::{Session, State, Step};
use crate::resource::{ResourceType, grpc};
use crate::snapshot::changes::Named;
use crate::snapshot::set::{Entry, ResourceSet};
use crate::xds::session::state::first_step::{FirstStep, STEP_MAX};

impl Session {
    /// The first step from one set of routes to another. `None`: no cluster needs an announcement.
    pub(super) fn announce(
        &self,
        base: &Arc<ResourceSet>,
        set: &Arc<ResourceSet>,
        now: Instant,
    ) -> Option<(Step, FirstStep)> {
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
        let clusters = unknown.into_iter().flat_map(|(_, clusters)| clusters).collect();
        let until = now + STEP_MAX;
        Some((Step::to(first), FirstStep::Announcement { clusters, until }))
    }

    /// The changed route configurations that the client has, each with the clusters that it does not subscribe to.
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

    /// Whether the client has sent an ACK or NACK for a cluster and its endpoints.
    pub(super) fn has_taken(&self, cluster: &Arc<str>) -> bool {
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

/// The routes as the client has them, with one more route that names the clusters.
fn first_step(base: &ResourceSet, unknown: &[Named]) -> Vec<Entry> {
    let form = |(name, clusters): &Named| {
        let form = grpc::naming(base.get(name)?, clusters)?;
        Some((Arc::clone(name), Some(Arc::new(form))))
    };
    unknown.iter().filter_map(form).collect()
}
