//! Endpoints: from lists of endpoints to `ClusterLoadAssignments`.
//!
//! In: the endpoints of one cluster, in any order. Out: one ClusterLoadAssignment; its bytes depend on the set alone:
//!
//! - Endpoints are grouped by priority and zone; groups and their members are sorted. Of several endpoints with one
//!   address the first stays.
//! - Priorities are renumbered from 0 without a gap: other clients than Envoy insist on it, and Envoy treats a gap as
//!   an empty priority.
//! - Every group has its locality and a weight, the sum of its endpoints' weights: gRPC drops a locality without one.
//! - Weights are shares. If their sum exceeds 32 bits, all weights of the assignment are divided by one power of two
//!   and rounded up to at least 1, which keeps the shares and every endpoint (docs/refused-by-envoy.md NP-10, NP-11,
//!   PX-09).
//! - Metadata of an endpoint becomes its `filter_metadata` under [`METADATA_FILTER`], where Envoy's subset load
//!   balancer and access logs read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HealthStatus, Locality, SocketAddress, address, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use prost::Message;

use crate::document::Rejection;
use crate::document::endpoint::Endpoint;
use crate::document::host::Host;
use crate::document::key::DocumentKey;
use crate::proto::message::{append, uint32};
use crate::proto::structs::Struct;

use super::Resource;
use super::check;

/// The name of an endpoint's metadata.
pub const METADATA_FILTER: &str = "envoy.lb";

/// The ClusterLoadAssignment of the cluster `name`, for EDS.
///
/// # Errors
/// An endpoint that EDS cannot carry: a host name, or metadata nested too deep for Envoy's parser.
pub fn from_list(name: &str, endpoints: &[&Endpoint], documents: Vec<DocumentKey>) -> Result<Resource, Rejection> {
    for endpoint in endpoints {
        check::registered_endpoint(endpoint)?;
    }
    Ok(Resource::new(name, assignment(name, endpoints), documents))
}

/// A ClusterLoadAssignment without endpoints.
#[must_use]
pub fn empty(name: &str) -> Resource {
    Resource::new(name, assignment(name, &[]), Vec::new())
}

/// The encoded ClusterLoadAssignment; hosts may be names (inside a `STRICT_DNS` cluster).
#[must_use]
pub(super) fn assignment(name: &str, endpoints: &[&Endpoint]) -> Vec<u8> {
    let groups = grouped(endpoints);
    let shift = common_shift(&groups);
    let priorities: BTreeSet<u32> = groups.keys().map(|(priority, _)| *priority).collect();
    let mut bytes = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..Default::default()
    }
    .encode_to_vec();
    for ((priority, zone), members) in &groups {
        let rank = priorities.range(..priority).count();
        append(
            &mut bytes,
            2,
            &locality(u32::try_from(rank).unwrap_or(u32::MAX), zone, members, shift),
        );
    }
    bytes
}

type Groups<'a> = BTreeMap<(u32, &'a str), Vec<&'a Endpoint>>;

fn grouped<'a>(endpoints: &[&'a Endpoint]) -> Groups<'a> {
    let mut addresses = BTreeSet::new();
    let mut groups = Groups::new();
    for endpoint in endpoints {
        if addresses.insert((&endpoint.host, endpoint.port)) {
            let zone = endpoint.zone.as_deref().unwrap_or_default();
            groups.entry((endpoint.priority, zone)).or_default().push(endpoint);
        }
    }
    for members in groups.values_mut() {
        members.sort_by_key(|endpoint| (&endpoint.host, endpoint.port));
    }
    groups
}

/// The number of bits by which all weights are shifted right so that their sum fits 32 bits.
fn common_shift(groups: &Groups<'_>) -> u32 {
    let sum = |shift| {
        groups
            .values()
            .flatten()
            .map(|endpoint| u64::from(scaled(endpoint.weight, shift)))
            .sum::<u64>()
    };
    (0..u32::BITS)
        .find(|shift| sum(*shift) <= u64::from(u32::MAX))
        .unwrap_or(u32::BITS - 1)
}

fn scaled(weight: u32, shift: u32) -> u32 {
    (weight >> shift).max(1)
}

fn locality(priority: u32, zone: &str, members: &[&Endpoint], shift: u32) -> Vec<u8> {
    let weight = members.iter().fold(0_u32, |sum, endpoint| {
        sum.saturating_add(scaled(endpoint.weight, shift))
    });
    let head = LocalityLbEndpoints {
        locality: Some(Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        }),
        load_balancing_weight: Some(uint32(weight)),
        priority,
        ..LocalityLbEndpoints::default()
    };
    let mut bytes = head.encode_to_vec();
    for endpoint in members {
        append(&mut bytes, 2, &lb_endpoint(endpoint, shift));
    }
    bytes
}

fn lb_endpoint(endpoint: &Endpoint, shift: u32) -> Vec<u8> {
    let health = if endpoint.draining {
        HealthStatus::Draining
    } else {
        HealthStatus::Unknown
    };

    let head = LbEndpoint {
        health_status: health as i32,
        load_balancing_weight: Some(uint32(scaled(endpoint.weight, shift))),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(WireEndpoint {
            address: Some(socket_address(host_text(&endpoint.host), endpoint.port)),
            ..WireEndpoint::default()
        })),
        ..LbEndpoint::default()
    };

    let mut bytes = head.encode_to_vec();
    if !endpoint.metadata.is_empty() {
        append(&mut bytes, 3, &metadata(endpoint.metadata.iter().collect()));
    }
    bytes
}

/// The encoded `envoy.config.core.v3.Metadata` whose one entry is `fields`.
fn metadata(fields: Struct) -> Vec<u8> {
    let mut entry = Vec::new();
    append(&mut entry, 1, METADATA_FILTER.as_bytes());
    append(&mut entry, 2, &fields.encode_to_vec());
    let mut bytes = Vec::new();
    append(&mut bytes, 1, &entry);
    bytes
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Ip(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

/// A TCP address; an IPv6 address without brackets.
pub(super) fn socket_address(host: String, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host,
            port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..SocketAddress::default()
        })),
    }
}

/// An endpoint with nothing but an address: that of a URL, of `dns`, of a listener.
pub(super) fn plain(host: &str, port: u16) -> Endpoint {
    let host = host
        .parse::<IpAddr>()
        .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
    Endpoint::at(host, port)
}

#[cfg(test)]
mod tests {
    use prost::Name;
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::json::to_json;

    fn endpoint(address: &str) -> Endpoint {
        let (host, port) = address.rsplit_once(':').unwrap();
        plain(host, port.parse().unwrap())
    }

    fn shown(bytes: &[u8]) -> Value {
        to_json(&ClusterLoadAssignment::type_url(), bytes).unwrap()
    }

    fn weights(endpoints: &[Endpoint]) -> Vec<(u32, Vec<u32>)> {
        let list: Vec<_> = endpoints.iter().collect();
        let assignment = ClusterLoadAssignment::decode(&assignment("c", &list)[..]).unwrap();
        let weight = |value: Option<envoy_types::pb::google::protobuf::UInt32Value>| value.unwrap().value;
        let members = |locality: &LocalityLbEndpoints| {
            locality
                .lb_endpoints
                .iter()
                .map(|endpoint| weight(endpoint.load_balancing_weight))
                .collect()
        };
        assignment
            .endpoints
            .iter()
            .map(|locality| (weight(locality.load_balancing_weight), members(locality)))
            .collect()
    }

    #[test]
    fn endpoints_are_grouped_by_priority_and_zone_in_a_fixed_order() {
        let a = Endpoint {
            zone: Some("a".into()),
            weight: 10,
            ..endpoint("10.0.2.4:8080")
        };
        let b = Endpoint {
            zone: Some("b".into()),
            draining: true,
            ..endpoint("10.0.2.5:8080")
        };
        let spare = Endpoint {
            priority: 7,
            ..endpoint("::1:80")
        };
        let lower_port = Endpoint {
            zone: Some("a".into()),
            ..endpoint("10.0.2.4:80")
        };
        let expected = json!({
            "@type": ClusterLoadAssignment::type_url(),
            "cluster_name": "orders",
            "endpoints": [
                { "locality": { "zone": "a" }, "load_balancing_weight": 11, "lb_endpoints": [
                    { "endpoint": { "address": { "socket_address": { "address": "10.0.2.4", "port_value": 80 } } }, "load_balancing_weight": 1 },
                    { "endpoint": { "address": { "socket_address": { "address": "10.0.2.4", "port_value": 8080 } } }, "load_balancing_weight": 10 },
                ] },
                { "locality": { "zone": "b" }, "load_balancing_weight": 1, "lb_endpoints": [
                    { "endpoint": { "address": { "socket_address": { "address": "10.0.2.5", "port_value": 8080 } } }, "load_balancing_weight": 1, "health_status": "DRAINING" },
                ] },
                { "locality": {}, "load_balancing_weight": 1, "priority": 1, "lb_endpoints": [
                    { "endpoint": { "address": { "socket_address": { "address": "::1", "port_value": 80 } } }, "load_balancing_weight": 1 },
                ] },
            ],
        });
        let one = from_list("orders", &[&a, &b, &spare, &lower_port], Vec::new()).unwrap();
        assert_eq!(shown(&one.body.to_bytes()), expected);
        let other = from_list("orders", &[&spare, &lower_port, &b, &a], Vec::new()).unwrap();
        assert_eq!(one.body, other.body);
    }

    #[test]
    fn of_several_with_one_address_the_first_stays() {
        let first = Endpoint {
            weight: 3,
            ..endpoint("10.0.0.1:80")
        };
        let second = Endpoint {
            weight: 5,
            zone: Some("z".into()),
            ..endpoint("10.0.0.1:80")
        };
        assert_eq!(weights(&[first.clone(), second.clone()]), [(3, vec![3])]);
        assert_eq!(weights(&[second, first]), [(5, vec![5])]);
    }

    #[test]
    fn weights_beyond_32_bits_keep_their_shares() {
        let heavy = Endpoint {
            weight: u32::MAX,
            ..endpoint("10.0.0.1:80")
        };
        let half = Endpoint {
            weight: u32::MAX / 2,
            ..endpoint("10.0.0.2:80")
        };
        let light = Endpoint {
            weight: 1,
            ..endpoint("10.0.0.3:80")
        };
        assert_eq!(
            weights(&[heavy, half, light]),
            [(0xbfff_ffff, vec![0x7fff_ffff, 0x3fff_ffff, 1])]
        );
    }

    #[test]
    fn metadata_stands_under_the_load_balancers_name_and_is_always_the_same() {
        let metadata: BTreeMap<String, Value> = (0..20)
            .map(|n| (format!("k{n}"), json!({ "a": n, "b": [n] })))
            .collect();
        let endpoint = Endpoint {
            metadata: metadata.clone(),
            ..endpoint("10.0.0.1:80")
        };
        let bytes = assignment("c", &[&endpoint]);
        let expected = json!({ METADATA_FILTER: metadata.iter().map(|(name, value)| {
            let number = value["a"].as_f64().unwrap();
            (name.clone(), json!({ "a": number, "b": [number] }))
        }).collect::<serde_json::Map<_, _>>() });
        assert_eq!(
            shown(&bytes)["endpoints"][0]["lb_endpoints"][0]["metadata"]["filter_metadata"],
            expected
        );
        for _ in 0..50 {
            assert_eq!(assignment("c", &[&endpoint.clone()]), bytes);
        }
    }

    #[test]
    fn a_name_is_refused_since_eds_carries_addresses_only() {
        let error = from_list("c", &[&endpoint("orders.internal:80")], Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "endpoints: found the host name orders.internal, expected an IP address"
        );
    }

    #[test]
    fn an_empty_assignment_still_has_its_name() {
        assert_eq!(
            shown(&empty("c").body.to_bytes()),
            json!({ "@type": ClusterLoadAssignment::type_url(), "cluster_name": "c" })
        );
    }
}
