//! PX-05 to PX-10: the resources that documents compile to for clients inside gRPC.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::ConfigSource;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::Message;
use serde_json::json;

use super::grpc_node;
use crate::client::{Client, Request};
use crate::fixture::{CDS, EDS, LDS, RDS, Resource, Type};
use crate::rule::{Context, Rule, World, rules};
use crate::target::Options;

pub(crate) const RULES: &[Rule] = rules![
    "PX-05" BOTH a_listener_for_grpc_has_an_api_listener,
    "PX-06" BOTH its_manager_says_what_grpc_understands,
    "PX-07" BOTH its_routes_are_those_that_grpc_understands,
    "PX-08" BOTH its_clusters_are_of_types_that_grpc_knows,
    "PX-09" BOTH its_endpoints_have_weights_and_contiguous_priorities,
    "PX-10" BOTH a_listener_for_grpc_servers_is_served_as_it_is_written,
];

/// An API listener `echo`, routes for it, and a cluster `blue` with endpoints in two zones and a gap in its priorities.
const DOCUMENTS: [(&str, &str); 4] = [
    ("listeners/echo", r#"{"api": true}"#),
    (
        "clusters/blue",
        r#"{"endpoints": [{"address": "10.0.1.1:80", "zone": "a"}, {"address": "10.0.1.2:80", "priority": 4}], "protocol": "grpc"}"#,
    ),
    (
        "routes/say",
        r#"{"match": {"grpc": "echo.Echo/Say"}, "to": [{"cluster": "blue", "weight": 95}, {"cluster": "gone", "weight": 5}]}"#,
    ),
    (
        "routes/all",
        r#"{"match": "/echo.Echo/*", "to": "blue", "retry": {"attempts": 2, "on": ["503"]}}"#,
    ),
];

/// A server of these documents, and a stream that subscribes to one name.
async fn ask<M: Message + Default>(context: &Context, of: Type, name: &str) -> (World, Client, M) {
    let documents = DOCUMENTS
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec();
    let world = context
        .serve_with(
            Vec::new(),
            Options {
                documents,
                ..Options::default()
            },
        )
        .await;
    let mut client = world.open().await;
    client.send(Request::of(of).names(&[name]).with_node(grpc_node()));
    let response = client.expect(of).await;
    let message = response.carries(&[name]).get(name).decode();
    (world, client, message)
}

fn is_ads(source: Option<&ConfigSource>) -> bool {
    let specifier = source.and_then(|source| source.config_source_specifier.as_ref());
    matches!(
        specifier,
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))
    )
}

async fn manager(context: &Context) -> HttpConnectionManager {
    let (_, _, listener) = ask::<Listener>(context, LDS, "echo").await;
    let inside = listener
        .api_listener
        .and_then(|api| api.api_listener)
        .expect("an api_listener");
    assert!(
        inside.type_url.ends_with("HttpConnectionManager"),
        "found {}",
        inside.type_url
    );
    HttpConnectionManager::decode(&*inside.value).expect("a manager")
}

async fn a_listener_for_grpc_has_an_api_listener(context: Context) {
    manager(&context).await;
}

async fn its_manager_says_what_grpc_understands(context: Context) {
    let manager = manager(&context).await;
    let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else {
        panic!("expected RDS, found {manager:?}")
    };
    assert!(is_ads(rds.config_source.as_ref()), "expected ADS, found {rds:?}");
    let filters: Vec<&str> = manager.http_filters.iter().map(|filter| &*filter.name).collect();
    assert_eq!(
        filters,
        ["envoy.filters.http.router"],
        "the router is last, and the only one"
    );
    assert_eq!(
        (
            manager.xff_num_trusted_hops,
            manager.original_ip_detection_extensions.len()
        ),
        (0, 0)
    );
}

async fn its_routes_are_those_that_grpc_understands(context: Context) {
    let (_, _, routes) = ask::<RouteConfiguration>(&context, RDS, "echo").await;
    let hosts = &routes.virtual_hosts;
    assert!(
        hosts.iter().any(|host| host.domains.iter().any(|domain| domain == "*")),
        "found {hosts:?}"
    );
    assert!(
        hosts
            .iter()
            .all(|host| !host.domains.is_empty() && !host.routes.is_empty()),
        "found {hosts:?}"
    );
    for route in hosts.iter().flat_map(|host| &host.routes) {
        let path = route.r#match.as_ref().and_then(|one| one.path_specifier.as_ref());
        match path {
            Some(PathSpecifier::Path(_) | PathSpecifier::SafeRegex(_)) => {}
            Some(PathSpecifier::Prefix(prefix)) => assert!(prefix.is_empty() || prefix.starts_with('/'), "{route:?}"),
            other => panic!("expected a path, prefix or regex, found {other:?}"),
        }
        let Some(Action::Route(action)) = &route.action else {
            panic!("expected a cluster, found {route:?}")
        };
        match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => assert!(!name.is_empty()),
            Some(ClusterSpecifier::WeightedClusters(split)) => {
                let weights = split
                    .clusters
                    .iter()
                    .filter_map(|one| one.weight.as_ref())
                    .map(|weight| weight.value);
                assert!(weights.sum::<u32>() > 0, "expected weights, found {split:?}");
            }
            other => panic!("expected clusters, found {other:?}"),
        }
        if let Some(retry) = &action.retry_policy {
            assert!(
                retry.num_retries.as_ref().is_none_or(|retries| retries.value >= 1),
                "found {retry:?}"
            );
        }
    }
}

async fn its_clusters_are_of_types_that_grpc_knows(context: Context) {
    // No document describes the cluster `gone`.
    for name in ["blue", "gone"] {
        let (_, _, cluster) = ask::<Cluster>(&context, CDS, name).await;
        let kind = cluster.cluster_discovery_type.as_ref();
        assert_eq!(
            kind,
            Some(&ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
            "{name}"
        );
        let eds = cluster.eds_cluster_config.as_ref().expect("EDS");
        assert!(is_ads(eds.eds_config.as_ref()), "expected ADS, found {eds:?}");
        assert!(
            matches!(cluster.lb_policy(), LbPolicy::RoundRobin | LbPolicy::RingHash),
            "found {cluster:?}"
        );
    }
}

async fn its_endpoints_have_weights_and_contiguous_priorities(context: Context) {
    let (_, _, assignment) = ask::<ClusterLoadAssignment>(&context, EDS, "blue").await;
    let mut priorities = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for locality in &assignment.endpoints {
        assert!(locality.locality.is_some(), "expected a locality, found {locality:?}");
        assert!(
            locality
                .load_balancing_weight
                .as_ref()
                .is_some_and(|weight| weight.value > 0),
            "{locality:?}"
        );
        priorities.insert(locality.priority);
        for endpoint in &locality.lb_endpoints {
            assert!(
                endpoint
                    .load_balancing_weight
                    .as_ref()
                    .is_none_or(|weight| weight.value > 0),
                "{endpoint:?}"
            );
            assert!(
                addresses.insert(format!("{:?}", endpoint.host_identifier)),
                "twice: {endpoint:?}"
            );
        }
    }
    assert_eq!(priorities.into_iter().collect::<Vec<_>>(), [0, 1], "contiguous from 0");
    assert_eq!(addresses.len(), 2);
}

/// It is an `xds/listeners/…` document: gRPC servers ask by a template, and nothing is put in or left out.
async fn a_listener_for_grpc_servers_is_served_as_it_is_written(context: Context) {
    const NAME: &str = "grpc/server?xds.resource.listening_address=127.0.0.1:50051";
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "server",
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "" }, "non_forwarding_action": {} }],
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 50051 } });
    let filter = json!({ "name": "manager", "typed_config": manager });
    let listener = Resource::new(
        LDS,
        NAME,
        json!({ "address": address, "filter_chains": [{ "filters": [filter] }] }),
    );
    let written: Listener = Listener::decode(&*listener.any().value).expect("a listener");
    let world = context.serve(vec![listener]).await;
    let mut client = world.open().await;
    client.send(Request::of(LDS).names(&[NAME]).with_node(grpc_node()));
    let served: Listener = client.expect(LDS).await.carries(&[NAME]).get(NAME).decode();
    assert_eq!(served, written);
}
