//! A cache of decoded resources, shared by all clients: each distinct message is decoded once for any number of
//! clients.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::wire::{NAMES, Received, Type, names};

/// The port that update 0 sets; an endpoint's first port below it is none of an update.
pub const FIRST_PORT: u32 = 10_000;
/// The connect timeout that update 0 sets, in milliseconds.
pub const FIRST_TIMEOUT: u32 = 10_000;

/// The decoded facts of one distinct message.
#[derive(Debug, Default)]
pub struct Body {
    /// The update that made it.
    pub update: Option<u32>,
    /// The names of the next type that it refers to: endpoints of a cluster, routes of a listener.
    pub refers: Vec<String>,
}

/// A whole set that some client was given in one response.
#[derive(Debug)]
pub struct State {
    /// Hash of the name to hash of the message.
    pub held: HashMap<u64, u64>,
    /// The latest update in it.
    pub update: Option<u32>,
    /// All names that it refers to.
    pub refers: Vec<String>,
    /// The same, encoded for a request.
    pub names: Bytes,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Known {
    bodies: RwLock<HashMap<u64, Arc<Body>>>,
    states: RwLock<HashMap<(Type, u128), Arc<State>>>,
}

/// The contribution of one resource to the sum of a set.
pub fn summand(name_hash: u64, body_hash: u64) -> u128 {
    let mut pair = [0; 16];
    pair[..8].copy_from_slice(&name_hash.to_le_bytes());
    pair[8..].copy_from_slice(&body_hash.to_le_bytes());
    xxh3_128(&pair)
}

/// The sum of a set.
pub fn sum(resources: &[Received]) -> u128 {
    resources
        .iter()
        .fold(0, |sum, one| sum.wrapping_add(summand(one.name_hash, one.body_hash)))
}

impl Known {
    /// One message.
    pub fn body(&self, of_type: Type, resource: &Received) -> Result<Arc<Body>> {
        let known = self
            .bodies
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&resource.body_hash)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let body = Arc::new(decode(of_type, &resource.body).with_context(|| format!("decode a {of_type:?}"))?);
        let mut bodies = self.bodies.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(bodies.entry(resource.body_hash).or_insert(body)))
    }

    /// A whole set, by the sum of its resources.
    pub fn state(&self, of_type: Type, sum: u128, resources: &[Received]) -> Result<Arc<State>> {
        let known = self
            .states
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(of_type, sum))
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }

        let mut state = State {
            held: HashMap::new(),
            update: None,
            refers: Vec::new(),
            names: Bytes::new(),
        };

        for resource in resources {
            let body = self.body(of_type, resource)?;
            state.held.insert(resource.name_hash, resource.body_hash);
            state.update = state.update.max(body.update);
            state.refers.extend(body.refers.iter().cloned());
        }

        state.refers.sort_unstable();
        state.refers.dedup();
        state.names = names(NAMES, state.refers.iter().map(String::as_str));

        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(
            states.entry((of_type, sum)).or_insert_with(|| Arc::new(state)),
        ))
    }
}

fn decode(of_type: Type, body: &Bytes) -> Result<Body> {
    Ok(match of_type {
        Type::Cluster => cluster(&Cluster::decode(&**body)?),
        Type::Endpoint => {
            let port = first_port(&ClusterLoadAssignment::decode(&**body)?).unwrap_or(0);
            Body {
                update: port.checked_sub(FIRST_PORT),
                refers: Vec::new(),
            }
        }
        Type::Listener => Body {
            update: None,
            refers: routes(&Listener::decode(&**body)?)?,
        },
        // A RouteConfiguration can have tens of megabytes, so it is not decoded: the order of arrival gives its update.
        Type::Route => Body::default(),
    })
}

fn cluster(cluster: &Cluster) -> Body {
    let is_eds = matches!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(kind)) if kind == DiscoveryType::Eds as i32);
    let service = cluster
        .eds_cluster_config
        .as_ref()
        .map(|eds| &eds.service_name)
        .filter(|name| !name.is_empty());
    let timeout = cluster.connect_timeout.as_ref();
    let milliseconds = timeout.map_or(0, |time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000);
    Body {
        update: u32::try_from(milliseconds)
            .ok()
            .and_then(|timeout| timeout.checked_sub(FIRST_TIMEOUT)),
        refers: if is_eds {
            vec![service.unwrap_or(&cluster.name).clone()]
        } else {
            Vec::new()
        },
    }
}

fn first_port(assignment: &ClusterLoadAssignment) -> Option<u32> {
    let endpoint = assignment.endpoints.first()?.lb_endpoints.first()?;
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return None;
    };
    match &endpoint.address.as_ref()?.address {
        Some(Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some(port),
            _ => None,
        },
        _ => None,
    }
}

fn routes(listener: &Listener) -> Result<Vec<String>> {
    let mut routes = Vec::new();
    for filter in listener.filter_chains.iter().flat_map(|chain| &chain.filters) {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            continue;
        };
        if !any.type_url.ends_with(".HttpConnectionManager") {
            continue;
        }
        let manager = HttpConnectionManager::decode(&*any.value)?;
        if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
            routes.push(rds.route_config_name);
        }
    }
    Ok(routes)
}

/// The same ClusterLoadAssignment with another first port, for servers that get their changes over HTTP.
pub fn with_port(body: &[u8], port: u32) -> Result<Vec<u8>> {
    let mut assignment = ClusterLoadAssignment::decode(body)?;
    let endpoint = assignment
        .endpoints
        .first_mut()
        .and_then(|locality| locality.lb_endpoints.first_mut());
    if let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.and_then(|one| one.host_identifier.as_mut())
        && let Some(Address::SocketAddress(socket)) = endpoint.address.as_mut().and_then(|one| one.address.as_mut())
    {
        socket.port_specifier = Some(PortSpecifier::PortValue(port));
    }
    Ok(assignment.encode_to_vec())
}

/// The same Cluster with another connect timeout.
pub fn with_timeout(body: &[u8], milliseconds: u32) -> Result<Vec<u8>> {
    let mut cluster = Cluster::decode(body)?;
    let nanos = i32::try_from(milliseconds % 1000 * 1_000_000)?;
    cluster.connect_timeout = Some(envoy_types::pb::google::protobuf::Duration {
        seconds: i64::from(milliseconds / 1000),
        nanos,
    });
    Ok(cluster.encode_to_vec())
}
