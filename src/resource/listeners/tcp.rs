//! The filter chains of a listener for TCP: one for each entry of the document, chosen by the name that a TLS client
//! asks for.

use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};

use crate::document::listener::{Settings, TcpEntry};
use crate::document::route::Target;
use crate::proto::message::{any, duration};

use super::{connection_limit, network_filter};

/// The filter chains, in the order of the document.
pub(super) fn chains(name: &str, entries: &[TcpEntry], settings: &Settings) -> Vec<FilterChain> {
    let chain = |(index, entry): (usize, &TcpEntry)| FilterChain {
        name: index.to_string(),
        filter_chain_match: (!entry.sni.is_empty()).then(|| FilterChainMatch {
            server_names: entry.sni.clone(),
            ..FilterChainMatch::default()
        }),
        filters: connection_limit(name, settings)
            .into_iter()
            .chain([proxy(name, entry)])
            .collect(),
        ..FilterChain::default()
    };
    entries.iter().enumerate().map(chain).collect()
}

fn proxy(name: &str, entry: &TcpEntry) -> Filter {
    let by_client = HashPolicy {
        policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {})),
    };
    let config = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(cluster_specifier(&entry.to)),
        // Without the field Envoy closes after an hour; zero means never.
        idle_timeout: Some(duration(entry.idle_timeout.unwrap_or(Duration::ZERO))),
        hash_policy: entry.hash_on_client_ip.then_some(by_client).into_iter().collect(),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(&config))
}

/// The clusters of an entry. Envoy refuses a weight of 0 here, and such a cluster gets nothing.
fn cluster_specifier(targets: &[Target]) -> ClusterSpecifier {
    let share = |target: &Target| ClusterWeight {
        name: target.upstream.cluster_name().to_string(),
        weight: target.weight,
        ..ClusterWeight::default()
    };
    let mut clusters: Vec<ClusterWeight> = targets.iter().filter(|target| target.weight > 0).map(share).collect();
    match clusters.len() {
        1 => ClusterSpecifier::Cluster(std::mem::take(&mut clusters[0].name)),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }),
    }
}
