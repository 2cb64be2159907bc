//! Needs of a resource towards others of its group (docs/refused-by-envoy.md NR-15, NR-16, NC-06, NP-10, NP-11).
//!
//! In: the message. Out: the clusters that must exist, must not exist, or must not use a hash policy.
//! `compile` checks whether the group meets these needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, grpc_service};
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, RequestMirrorPolicy};
use envoy_types::pb::envoy::config::route::v3::{RouteAction, RouteConfiguration, route};
use prost_reflect::{DynamicMessage, ReflectMessage};

use super::walk;
use crate::resource::ResourceType;
use crate::resource::check::endpoints;
use crate::resource::place::Place;

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// One need, with the field path that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Envoy checks that this cluster exists before it accepts the resource.
    Cluster {
        /// The field path.
        path: String,
        /// The cluster.
        name: Arc<str>,
    },
    /// The cluster must be one of the bootstrap, not one of CDS.
    NoCluster {
        /// The field path.
        path: String,
        /// The cluster.
        name: Arc<str>,
    },
    /// No cluster with a hash policy can use these endpoints.
    NoHashing {
        /// The field path of the endpoints.
        path: String,
        /// The property that exceeds the limit.
        reason: String,
    },
}

/// All needs of a resource.
pub(super) fn needs(resource_type: ResourceType, message: &DynamicMessage, at: &Place) -> Vec<Need> {
    if resource_type == ResourceType::Endpoint {
        let reason = message.transcode_to().ok().as_ref().and_then(endpoints::too_heavy);
        return reason
            .map(|reason| Need::NoHashing {
                path: at.field("endpoints").path,
                reason,
            })
            .into_iter()
            .collect();
    }

    let mut needs = Vec::new();
    walk::each(
        message,
        at,
        &mut |message, at, around| match message.descriptor().full_name() {
            "envoy.config.route.v3.RouteConfiguration" => {
                let Ok(configuration) = message.transcode_to::<RouteConfiguration>() else {
                    return;
                };
                let written = configuration.validate_clusters.as_ref().map(|switch| switch.value);
                if written.unwrap_or(around == MANAGER) {
                    let named = validated(&configuration, at).into_iter();
                    needs.extend(named.map(|(path, name)| Need::Cluster {
                        path,
                        name: name.into(),
                    }));
                }
            }
            "envoy.config.core.v3.ApiConfigSource" => {
                let Ok(source) = message.transcode_to::<ApiConfigSource>() else {
                    return;
                };
                needs.extend(asked(&source, at).map(|(path, name)| Need::NoCluster {
                    path,
                    name: name.into(),
                }));
            }
            _ => {}
        },
    );

    needs
}

/// The clusters behind the config sources of a resource.
fn asked(source: &ApiConfigSource, at: &Place) -> impl Iterator<Item = (String, String)> {
    let names = at.field("cluster_names");
    let by_name = source
        .cluster_names
        .iter()
        .enumerate()
        .map(move |(index, name)| (names.index(index).path, name.clone()));

    let services = at.field("grpc_services");
    let by_service = source
        .grpc_services
        .iter()
        .enumerate()
        .filter_map(move |(index, service)| {
            let Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
                return None;
            };
            Some((
                services.index(index).field("envoy_grpc").field("cluster_name").path,
                target.cluster_name.clone(),
            ))
        });

    by_name.chain(by_service)
}

/// The clusters that Envoy checks, with their field paths. Of mirrors, only the nearest to a route count: those of the
/// route, else of its virtual host, else of the RouteConfiguration.
fn validated(configuration: &RouteConfiguration, at: &Place) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for (index, host) in configuration.virtual_hosts.iter().enumerate() {
        let at_host = at.field("virtual_hosts").index(index);
        for (index, route) in host.routes.iter().enumerate() {
            let Some(route::Action::Route(action)) = &route.action else {
                continue;
            };
            let at_action = at_host.field("routes").index(index).field("route");
            target(action, &at_action, &mut named);
            let levels = [
                (&action.request_mirror_policies, &at_action),
                (&host.request_mirror_policies, &at_host),
                (&configuration.request_mirror_policies, at),
            ];
            if let Some((mirrors, at)) = levels.into_iter().find(|(mirrors, _)| !mirrors.is_empty()) {
                mirrored(mirrors, at, &mut named);
            }
        }
    }

    named
}

fn target(action: &RouteAction, at: &Place, named: &mut BTreeMap<String, String>) {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => drop(named.insert(at.field("cluster").path, name.clone())),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let at = at.field("weighted_clusters").field("clusters");
            let clusters = weighted
                .clusters
                .iter()
                .enumerate()
                .filter(|(_, cluster)| !cluster.name.is_empty());
            named.extend(clusters.map(|(index, cluster)| (at.index(index).field("name").path, cluster.name.clone())));
        }
        _ => {}
    }
}

fn mirrored(mirrors: &[RequestMirrorPolicy], at: &Place, named: &mut BTreeMap<String, String>) {
    let at = at.field("request_mirror_policies");
    let clusters = mirrors
        .iter()
        .enumerate()
        .filter(|(_, mirror)| !mirror.cluster.is_empty());
    named.extend(clusters.map(|(index, mirror)| (at.index(index).field("cluster").path, mirror.cluster.clone())));
}
