//! The endpoints of a cluster, as proxies get them.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint};
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use prost::Message;

use super::Compiled;
use crate::resource::ResourceType;

/// Most endpoints of a cluster that are listed.
pub const LISTED: usize = 100;

/// A cluster that may get a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The name of the Cluster.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Whether the group has the Cluster; without it Envoy answers 503.
    pub exists: bool,
    /// The first endpoints, in the order of priorities: [`LISTED`] at most.
    pub endpoints: Vec<Instance>,
    /// The number of its endpoints.
    pub total: usize,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `IP:port`, `NAME:port` or the path of a socket.
    pub address: String,
    /// Health as reported by the registration: `unknown` if nothing is.
    pub health: String,
    /// Its zone.
    pub zone: Option<String>,
    /// 0 is used first.
    pub priority: u32,
}

impl Compiled {
    /// The endpoints of a Cluster; of an aggregate, those of its members, each a priority behind the ones before.
    pub(super) fn destination(&self, group: &str, name: Arc<str>, weight: u32) -> Destination {
        let cluster = self.cluster(group, &name);
        let mut endpoints = Vec::new();
        if let Some(cluster) = &cluster {
            match members(cluster) {
                Some(members) => {
                    let mut first = 0;
                    for member in members {
                        let own = self.cluster(group, &member);
                        let own = own.map(|cluster| self.endpoints(group, &cluster)).unwrap_or_default();
                        let levels = own
                            .iter()
                            .map(|endpoint| endpoint.priority + 1)
                            .max()
                            .unwrap_or_default();
                        endpoints.extend(own.into_iter().map(|endpoint| Instance {
                            priority: endpoint.priority + first,
                            ..endpoint
                        }));
                        first += levels;
                    }
                }
                None => endpoints = self.endpoints(group, cluster),
            }
        }
        let total = endpoints.len();
        endpoints.sort_by_key(|endpoint| endpoint.priority);
        endpoints.truncate(LISTED);
        Destination {
            name,
            weight,
            exists: cluster.is_some(),
            endpoints,
            total,
        }
    }

    fn cluster(&self, group: &str, name: &str) -> Option<Cluster> {
        let resource = self.resource(group, ResourceType::Cluster, name)?;
        Cluster::decode(resource.body.to_bytes()).ok()
    }

    fn endpoints(&self, group: &str, cluster: &Cluster) -> Vec<Instance> {
        let of_eds = || {
            let eds = cluster.eds_cluster_config.as_ref()?;
            let name = if eds.service_name.is_empty() {
                &cluster.name
            } else {
                &eds.service_name
            };
            let resource = self.resource(group, ResourceType::Endpoint, name)?;
            ClusterLoadAssignment::decode(resource.body.to_bytes()).ok()
        };
        let assignment = cluster.load_assignment.clone().or_else(of_eds).unwrap_or_default();
        let localities = assignment.endpoints.iter();
        let of_locality = localities.flat_map(|locality| {
            let zone = locality.locality.as_ref().map(|locality| locality.zone.clone());
            let zone = zone.filter(|zone| !zone.is_empty());
            locality.lb_endpoints.iter().filter_map(move |endpoint| {
                Some(Instance {
                    address: address(endpoint)?,
                    health: endpoint.health_status().as_str_name().to_ascii_lowercase(),
                    zone: zone.clone(),
                    priority: locality.priority,
                })
            })
        });
        of_locality.collect()
    }
}

/// The members of an aggregate; `None`: the Cluster is none.
fn members(cluster: &Cluster) -> Option<Vec<String>> {
    let Some(ClusterDiscoveryType::ClusterType(custom)) = &cluster.cluster_discovery_type else {
        return None;
    };
    let config = custom.typed_config.as_ref()?;
    let is_aggregate = custom.name == "envoy.clusters.aggregate";
    let config = ClusterConfig::decode(&*config.value).ok().filter(|_| is_aggregate)?;
    Some(config.clusters)
}

fn address(endpoint: &LbEndpoint) -> Option<String> {
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return None;
    };
    match endpoint.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(socket) => {
            let port = match &socket.port_specifier {
                Some(socket_address::PortSpecifier::PortValue(port)) => *port,
                _ => 0,
            };
            Some(match socket.address.contains(':') {
                true => format!("[{}]:{port}", socket.address),
                false => format!("{}:{port}", socket.address),
            })
        }
        address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        address::Address::EnvoyInternalAddress(_) => None,
    }
}

impl Instance {
    /// Whether Envoy sends requests here while other endpoints are healthy.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let unusable = [HealthStatus::Unhealthy, HealthStatus::Draining, HealthStatus::Timeout];
        !unusable
            .iter()
            .any(|status| status.as_str_name().eq_ignore_ascii_case(&self.health))
    }
}
