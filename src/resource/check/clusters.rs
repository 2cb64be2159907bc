//! Clusters (docs/refused-by-envoy.md, Clusters).

#![allow(deprecated, reason = "operators may write the older fields")]

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, ClusterProtocolSelection, DiscoveryType, LbConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, Payload, payload};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use envoy_types::pb::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::{Duration, UInt64Value};
use prost::Message;

use super::{addresses, endpoints, extensions, protocols, sources};
use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// Envoy's default.
const MIN_RING: u64 = 1024;
const MAX_RING: u64 = 8 * 1024 * 1024;
const BASE_EJECTION: Duration = Duration { seconds: 30, nanos: 0 };
/// A fallback policy of subset selectors.
const KEYS_SUBSET: i32 = 4;
const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
/// Policies that hash.
const HASHING: [&str; 2] = [
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
];
/// Cluster types with their own load balancing.
const OWN_BALANCING: [&str; 2] = [
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
    "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
];

/// A whole cluster.
pub(super) fn cluster(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    let discovery = match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(number)) => DiscoveryType::try_from(*number).ok(),
        Some(ClusterDiscoveryType::ClusterType(_)) => None,
        None => Some(DiscoveryType::Static),
    };

    eds(cluster, discovery, at)?;
    if let Some(assignment) = &cluster.load_assignment {
        inline(assignment, discovery, &at.field("load_assignment"))?;
    }
    if let (Some(assignment), true) = (
        &cluster.load_assignment,
        discovery == Some(DiscoveryType::Static) && hashes(cluster),
    ) && let Some(reason) = endpoints::too_heavy(assignment)
    {
        return Err(at.field("load_assignment").field("endpoints").reject(reason));
    }
    single_host(cluster, discovery, at)?;
    hostnames(cluster, discovery, at)?;
    extensions::of_cluster(cluster, at)?;
    balancing(cluster, discovery, at)?;
    versions(cluster, at)?;
    protocols::of_cluster(cluster, at)?;
    if let Some(rate) = &cluster.dns_failure_refresh_rate
        && let (Some(base), Some(most)) = (&rate.base_interval, &rate.max_interval)
        && (most.seconds, most.nanos) < (base.seconds, base.nanos)
    {
        let at = at.field("dns_failure_refresh_rate").field("max_interval");
        return Err(at.reject("found less than base_interval, expected at least that".to_owned()));
    }
    let source = cluster
        .upstream_bind_config
        .as_ref()
        .and_then(|config| config.source_address.as_ref());
    source.map_or(Ok(()), |source| {
        addresses::ip(source, &at.field("upstream_bind_config").field("source_address"))
    })
}

/// Whether the cluster balances by `RING_HASH` or `MAGLEV`, in any of the forms.
pub(in crate::resource) fn hashes(cluster: &Cluster) -> bool {
    let Some(policy) = &cluster.load_balancing_policy else {
        return matches!(cluster.lb_policy(), LbPolicy::RingHash | LbPolicy::Maglev);
    };
    let configs = policy
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    // Envoy uses the first policy that it knows.
    let mut known = configs
        .map(extensions::type_of)
        .filter(|name| extensions::is_balancing(name));
    known.next().is_some_and(|name| HASHING.contains(&&*name))
}

/// NC-02, NC-03, NC-05, NS-08.
fn eds(cluster: &Cluster, discovery: Option<DiscoveryType>, cluster_at: &Place) -> Result<(), Rejection> {
    let at = cluster_at.field("eds_cluster_config");
    match (&cluster.eds_cluster_config, discovery) {
        (None, Some(DiscoveryType::Eds)) => {
            Err(at.reject("missing, expected the config source of the endpoints of a cluster of type EDS".to_owned()))
        }
        (Some(config), Some(DiscoveryType::Eds)) => {
            let source = config.eds_config.as_ref();
            match source.and_then(|source| source.config_source_specifier.as_ref()) {
                None => Err(at
                    .field("eds_config")
                    .reject("missing, expected a source such as \"ads\"".to_owned())),
                Some(_) if !config.service_name.is_empty() => {
                    sources::subscribed(&config.service_name, &at.field("service_name"))
                }
                Some(_) => sources::subscribed(&cluster.name, &cluster_at.field("name")),
            }
        }
        (Some(_), Some(_)) => {
            Err(at.reject("found on a cluster of another type, expected \"type\": \"EDS\"".to_owned()))
        }
        _ => Ok(()),
    }
}

/// NC-09, NC-11 to NC-14, NC-18.
fn inline(assignment: &ClusterLoadAssignment, discovery: Option<DiscoveryType>, at: &Place) -> Result<(), Rejection> {
    match discovery {
        Some(DiscoveryType::Static) => {
            endpoints::without_leds(assignment, at)?;
            endpoints::hosts(assignment, at)
        }
        Some(DiscoveryType::StrictDns | DiscoveryType::LogicalDns) => {
            endpoints::each(assignment, at, |endpoint, at| {
                let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
                    return Err(at
                        .field("endpoint")
                        .reject("missing, expected an endpoint with its address".to_owned()));
                };
                let at = at.field("endpoint").field("address");
                match endpoint.address.as_ref().and_then(|address| address.address.as_ref()) {
                    None => Err(at.reject("missing, expected an address".to_owned())),
                    Some(Address::SocketAddress(socket)) if !socket.resolver_name.is_empty() => {
                        let at = at.field("socket_address").field("resolver_name");
                        Err(at.reject("found a resolver, expected none on a cluster that DNS resolves".to_owned()))
                    }
                    Some(_) => Ok(()),
                }
            })
        }
        Some(DiscoveryType::OriginalDst) => {
            Err(at.reject("found endpoints on a cluster of type ORIGINAL_DST, expected none".to_owned()))
        }
        _ => Ok(()),
    }
}

/// NC-15.
fn single_host(cluster: &Cluster, discovery: Option<DiscoveryType>, at: &Place) -> Result<(), Rejection> {
    if discovery != Some(DiscoveryType::LogicalDns) && !has_one_dns_endpoint(cluster) {
        return Ok(());
    }
    let localities = cluster
        .load_assignment
        .as_ref()
        .map(|assignment| assignment.endpoints.as_slice());
    match localities.unwrap_or_default() {
        [only] if only.lb_endpoints.len() == 1 => Ok(()),
        _ => {
            let found = match discovery {
                Some(_) => "a cluster of type LOGICAL_DNS",
                None => "all_addresses_in_single_endpoint",
            };
            let reason = format!("found {found}, expected one locality with one endpoint");
            Err(at.field("load_assignment").reject(reason))
        }
    }
}

/// NC-24b: only a cluster of type `STRICT_DNS` hashes by the names of its endpoints.
fn hostnames(cluster: &Cluster, discovery: Option<DiscoveryType>, at: &Place) -> Result<(), Rejection> {
    let hashing = cluster
        .common_lb_config
        .as_ref()
        .and_then(|config| config.consistent_hashing_lb_config.as_ref());
    let by_name = hashing.is_some_and(|config| config.use_hostname_for_hashing);
    if !by_name || discovery == Some(DiscoveryType::StrictDns) {
        return Ok(());
    }
    let at = at
        .field("common_lb_config")
        .field("consistent_hashing_lb_config")
        .field("use_hostname_for_hashing");
    Err(at.reject("found on a cluster of another type, expected \"type\": \"STRICT_DNS\"".to_owned()))
}

/// Whether a cluster of the type `envoy.cluster.dns` is what `LOGICAL_DNS` was before.
fn has_one_dns_endpoint(cluster: &Cluster) -> bool {
    let Some(ClusterDiscoveryType::ClusterType(custom)) = &cluster.cluster_discovery_type else {
        return false;
    };
    let config = custom
        .typed_config
        .as_ref()
        .filter(|config| config.type_url.ends_with(DNS_CLUSTER));
    let config = config.and_then(|config| DnsCluster::decode(config.value.as_slice()).ok());
    config.is_some_and(|config| config.all_addresses_in_single_endpoint)
}

/// NC-18 to NC-21, NC-23 to NC-25.
fn balancing(cluster: &Cluster, discovery: Option<DiscoveryType>, at: &Place) -> Result<(), Rejection> {
    let (policy, at_policy) = (cluster.lb_policy(), at.field("lb_policy"));
    if cluster.load_balancing_policy.is_some() || policy == LbPolicy::LoadBalancingPolicyConfig {
        return typed_balancing(cluster, at);
    }
    let provided = policy == LbPolicy::ClusterProvided;
    let provides = match (&cluster.cluster_discovery_type, discovery) {
        (Some(ClusterDiscoveryType::ClusterType(custom)), _) => {
            let url = custom
                .typed_config
                .as_ref()
                .map(|config| config.type_url.as_str())
                .unwrap_or_default();
            OWN_BALANCING.iter().any(|own| url.ends_with(own)).then_some(true)
        }
        (_, discovery) => discovery.map(|discovery| discovery == DiscoveryType::OriginalDst),
    };

    if provides == Some(true) && !provided {
        let reason = format!(
            "found {}, expected CLUSTER_PROVIDED on a cluster of this type",
            policy.as_str_name()
        );
        return Err(at_policy.reject(reason));
    }

    if provides == Some(false) && provided {
        return Err(
            at_policy.reject("found CLUSTER_PROVIDED on a cluster that provides none, expected another".to_owned())
        );
    }

    if provided && cluster.lb_subset_config.is_some() {
        return Err(at
            .field("lb_subset_config")
            .reject("found together with CLUSTER_PROVIDED, expected none".to_owned()));
    }

    let common = cluster.common_lb_config.as_ref();
    let is_weighted = common.is_some_and(|common| {
        matches!(
            common.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        )
    });
    let subsets = cluster.lb_subset_config.as_ref();
    if subsets.is_some_and(|subsets| subsets.locality_weight_aware) && !is_weighted {
        let reason = "found without locality_weighted_lb_config in common_lb_config, expected that";
        return Err(at
            .field("lb_subset_config")
            .field("locality_weight_aware")
            .reject(reason.to_owned()));
    }

    match (policy, &cluster.lb_config) {
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(ring))) => ring_sizes(
            ring.minimum_ring_size,
            ring.maximum_ring_size,
            &at.field("ring_hash_lb_config"),
        ),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(maglev))) => {
            table_size(maglev.table_size, &at.field("maglev_lb_config"))
        }
        _ => Ok(()),
    }
}

/// NC-21, NC-23.
fn typed_balancing(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    if cluster.load_balancing_policy.is_none() {
        return Err(at
            .field("load_balancing_policy")
            .reject("missing, expected the policy that lb_policy names".to_owned()));
    }
    let beside = "found together with load_balancing_policy, expected one of the two";
    if cluster.lb_subset_config.is_some() {
        return Err(at.field("lb_subset_config").reject(beside.to_owned()));
    }
    if let Some(common) = &cluster.common_lb_config
        && (common.locality_config_specifier.is_some() || common.consistent_hashing_lb_config.is_some())
    {
        return Err(at.field("common_lb_config").reject(beside.to_owned()));
    }
    Ok(())
}

/// NC-24: Envoy keeps a half-built cluster and sends no ACK any more.
fn ring_sizes(least: Option<UInt64Value>, most: Option<UInt64Value>, at: &Place) -> Result<(), Rejection> {
    let (least, most) = (
        least.map_or(MIN_RING, |size| size.value),
        most.map_or(MAX_RING, |size| size.value),
    );
    if least <= most {
        return Ok(());
    }
    let reason = format!("found {least}, expected at most {most}, the maximum_ring_size");
    Err(at.field("minimum_ring_size").reject(reason))
}

/// NC-25: as NC-24.
fn table_size(size: Option<UInt64Value>, at: &Place) -> Result<(), Rejection> {
    match size.map(|size| size.value) {
        // Envoy accepts 1 as a prime number.
        Some(size) if size != 1 && !is_prime(size) => Err(at
            .field("table_size")
            .reject(format!("found the number {size}, expected a prime number"))),
        _ => Ok(()),
    }
}

/// NC-24 in the form of an extension.
pub(super) fn ring_hash(ring: &RingHash, at: &Place) -> Result<(), Rejection> {
    ring_sizes(ring.minimum_ring_size, ring.maximum_ring_size, at)
}

/// NC-25 in the form of an extension.
pub(super) fn maglev(maglev: &Maglev, at: &Place) -> Result<(), Rejection> {
    table_size(maglev.table_size, at)
}

/// The rules of the field keep numbers below six million.
fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// NC-29, NC-39, NC-41.
fn versions(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    let (http1, http2) = (
        cluster.http_protocol_options.is_some(),
        cluster.http2_protocol_options.is_some(),
    );
    let selection = cluster.protocol_selection();
    if http1 && http2 && selection != ClusterProtocolSelection::UseDownstreamProtocol {
        let reason = "found together with http_protocol_options, expected one of the two";
        return Err(at.field("http2_protocol_options").reject(reason.to_owned()));
    }
    if cluster.health_checks.len() > 1 {
        // Envoy 1.40 requires names then, and the descriptors here have no field for them.
        let found = cluster.health_checks.len();
        let reason = format!(
            "found {found} health checks, expected one (Envoy wants several to have names, which cannot be written \
            here yet)"
        );
        return Err(at.field("health_checks").reject(reason));
    }

    let grpc = |check: &HealthCheck| matches!(check.health_checker, Some(HealthChecker::GrpcHealthCheck(_)));
    match cluster.health_checks.iter().position(grpc) {
        Some(index) if !protocols::may_speak_http2(cluster) => {
            let reason = "found on a cluster that speaks HTTP/1.1, expected HttpProtocolOptions with HTTP/2";
            Err(at
                .field("health_checks")
                .index(index)
                .field("grpc_health_check")
                .reject(reason.to_owned()))
        }
        _ => Ok(()),
    }
}

/// NC-40, NC-42.
pub(super) fn health_check(check: &HealthCheck, at: &Place) -> Result<(), Rejection> {
    match &check.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => {
            let at = at.field("http_health_check");
            statuses(&http.expected_statuses, &at.field("expected_statuses"))?;
            statuses(&http.retriable_statuses, &at.field("retriable_statuses"))?;
            let send = http.send.as_ref();
            send.map_or(Ok(()), |payload| hex(payload, &at.field("send")))?;
            hexes(&http.receive, &at.field("receive"))
        }
        Some(HealthChecker::TcpHealthCheck(tcp)) => {
            let at = at.field("tcp_health_check");
            tcp.send
                .iter()
                .try_for_each(|payload| hex(payload, &at.field("send")))?;
            hexes(&tcp.receive, &at.field("receive"))
        }
        _ => Ok(()),
    }
}

fn statuses(ranges: &[Int64Range], at: &Place) -> Result<(), Rejection> {
    for (index, range) in ranges.iter().enumerate() {
        if range.start < 100 || range.start >= range.end || range.end > 600 {
            let reason = format!("found {} to {}, expected a range of 100 to 600", range.start, range.end);
            return Err(at.index(index).reject(reason));
        }
    }
    Ok(())
}

fn hexes(payloads: &[Payload], at: &Place) -> Result<(), Rejection> {
    let mut numbered = payloads.iter().enumerate();
    numbered.try_for_each(|(index, payload)| hex(payload, &at.index(index)))
}

fn hex(payload: &Payload, at: &Place) -> Result<(), Rejection> {
    let Some(payload::Payload::Text(text)) = &payload.payload else {
        return Ok(());
    };
    if text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(at
        .field("text")
        .reject(format!("found {}, expected bytes in hexadecimal", quote(text))))
}

/// NC-43: an absent field is never too small.
pub(super) fn outlier_detection(detection: &OutlierDetection, at: &Place) -> Result<(), Rejection> {
    let base = detection.base_ejection_time.unwrap_or(BASE_EJECTION);
    match detection.max_ejection_time {
        Some(most) if (most.seconds, most.nanos) < (base.seconds, base.nanos) => {
            let reason = format!(
                "found {} s, expected at least base_ejection_time, {} s",
                most.seconds, base.seconds
            );
            Err(at.field("max_ejection_time").reject(reason))
        }
        _ => Ok(()),
    }
}

/// NC-27.
pub(super) fn subset_selector(selector: &LbSubsetSelector, at: &Place) -> Result<(), Rejection> {
    if selector.fallback_policy != KEYS_SUBSET {
        return match selector.fallback_keys_subset.is_empty() {
            true => Ok(()),
            false => Err(at
                .field("fallback_keys_subset")
                .reject("found without \"fallback_policy\": \"KEYS_SUBSET\", expected that beside it".to_owned())),
        };
    }
    let keys: BTreeSet<&String> = selector.keys.iter().collect();
    let fallback: BTreeSet<&String> = selector.fallback_keys_subset.iter().collect();
    if !fallback.is_empty() && fallback.is_subset(&keys) && fallback != keys {
        return Ok(());
    }
    Err(at
        .field("fallback_keys_subset")
        .reject("expected some of keys, at least one and not all".to_owned()))
}

/// NC-28.
pub(super) fn circuit_breakers(breakers: &CircuitBreakers, at: &Place) -> Result<(), Rejection> {
    for (index, threshold) in breakers.per_host_thresholds.iter().enumerate() {
        let alone = Thresholds {
            max_connections: threshold.max_connections,
            priority: threshold.priority,
            ..Thresholds::default()
        };
        if *threshold != alone {
            let reason = "found another field than max_connections, expected that alone";
            return Err(at.field("per_host_thresholds").index(index).reject(reason.to_owned()));
        }
    }
    Ok(())
}
