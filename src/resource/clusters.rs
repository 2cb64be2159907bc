//! Clusters: from clusters documents, inline URLs and names without a document to Clusters.
//!
//! IP literals and registered instances make an EDS cluster. Its endpoints are a resource of their own
//! ([`super::endpoints`]), so a new or removed endpoint does not change the Cluster. Names make a `STRICT_DNS` cluster
//! with endpoints inside, which Envoy resolves, IPv4 preferred. `warms` of an EDS cluster is its own name: Envoy waits
//! for the assignment after each change of the Cluster.
//!
//! A document with `failover` makes two Clusters: `NAME~own` has the endpoints and settings of the document, and NAME is
//! an aggregate of that one and of the clusters that take over.
//!
//! Settings that a document does not give come from `defaults.cluster`, each taken whole ([`settings`]).
//!
//! `https` in a URL is TLS with SNI; Envoy verifies the certificate against the host of the URL by the CA bundle of the
//! server ([`tls`]). `tls` of a document is verified alike. The bundle is part of the Cluster, so a change of the bundle
//! changes these clusters.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster as WireCluster, cluster as wire};
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use prost::Message;

use crate::document::Rejection;
use crate::document::cluster::{CircuitBreaker, Cluster, Protocol, Settings, Source, Tls};
use crate::document::endpoint::Endpoint;
use crate::document::host::Host;
use crate::document::key::DocumentKey;
use crate::document::route::UpstreamUrl;
use crate::proto::message::{ads, any, append};

use super::compile::context::Context;
use super::{Reference, References, Resource, check, endpoints, secrets};

pub mod no_wait;

mod balance;
mod http;
mod settings;
mod tls;
mod transport;

use tls::Server;

/// The end of the name of a Cluster with a document's own endpoints; `~` is in no document's name.
pub const OWN: &str = "~own";

/// The name of the Cluster that holds a document's own endpoints.
#[must_use]
pub fn own_name(name: &str, cluster: &Cluster) -> Arc<str> {
    if cluster.failover.is_empty() {
        name.into()
    } else {
        format!("{name}{OWN}").into()
    }
}

/// The Cluster of a clusters document's own endpoints, with the name [`own_name`].
///
/// # Errors
/// Settings that Envoy would refuse once the defaults are filled in; a list of both addresses and names.
pub fn from_document(key: &DocumentKey, cluster: &Cluster, context: &Context) -> Result<Resource, Rejection> {
    let settings = settings_of(cluster, context);
    let (discovery, host) = match &cluster.source {
        Source::Registered | Source::Registry { .. } => (Discovery::Eds, None),
        Source::Listed(listed) => (Discovery::of_list(listed)?, None),
        Source::Dns { host, port } => (Discovery::Dns(vec![endpoints::plain(host, *port)]), Some(host.as_str())),
    };
    let name = own_name(&key.name, cluster);
    // Without a host, health checks have the name of the Cluster as their Host header.
    let checked_host = host.or_else(|| (name != key.name).then_some(&*key.name));
    let mut message = settings::applied(base(&name, &settings), &settings, checked_host)?;
    message.typed_extension_protocol_options = http::options(&settings, cluster.credential.as_ref());
    if settings.protocol == Some(Protocol::Auto) && cluster.tls.is_none() {
        return Err(without_alpn());
    }
    let tls = cluster.tls.as_ref().map(|tls| {
        let server = server_of(tls, &discovery, host)?;
        tls::of_document(tls, server, settings.protocol, context.ca_bundle.as_ref())
    });
    message.transport_socket = transport::wrapped(tls.transpose()?, settings.proxy_protocol);
    if let Discovery::Dns(endpoints) = &discovery {
        endpoints.iter().try_for_each(check::endpoint_metadata)?;
    }
    Ok(Resource {
        // Envoy asks for an aggregate by name, and for none of its members.
        on_demand: cluster.on_demand && cluster.failover.is_empty(),
        refers: secrets_of(cluster),
        ..resource(message, &discovery, vec![key.clone()])
    })
}

/// The secrets that the Cluster names, sorted; `None`: none.
fn secrets_of(cluster: &Cluster) -> Option<References> {
    let tls = cluster.tls.iter();
    let of_tls = tls.flat_map(|tls| tls.ca.iter().filter(|_| tls.verify).chain(&tls.client_certificate));
    let names = of_tls.chain(cluster.credential.iter().map(|credential| &credential.secret));
    let found: BTreeSet<Reference> = names.map(secrets::reference).collect();
    (!found.is_empty()).then(|| found.into_iter().collect())
}

/// The aggregate Cluster of a document with `failover`, over `members`: the document's own endpoints first.
///
/// Envoy takes the members' balancers, connections and checks. Two settings are those of the aggregate: the limit of
/// retries, and the health below which Envoy panics.
#[must_use]
pub fn aggregate(key: &DocumentKey, cluster: &Cluster, members: Vec<String>, context: &Context) -> Resource {
    let settings = settings_of(cluster, context);
    let mut message = base(&key.name, &settings);
    message.lb_policy = wire::LbPolicy::ClusterProvided as i32;
    message.cluster_discovery_type = Some(wire::ClusterDiscoveryType::ClusterType(wire::CustomClusterType {
        name: "envoy.clusters.aggregate".to_owned(),
        typed_config: Some(any(&ClusterConfig { clusters: members })),
    }));
    settings::apply_to_aggregate(&mut message, &settings);
    Resource {
        on_demand: cluster.on_demand,
        ..Resource::new(&*key.name, message.encode_to_vec(), vec![key.clone()])
    }
}

/// The inline Cluster of a URL, with the name [`UpstreamUrl::cluster_name`].
///
/// # Errors
/// `https` without a CA bundle; settings that Envoy would refuse once the defaults are filled in.
pub fn from_url(url: &UpstreamUrl, documents: Vec<DocumentKey>, context: &Context) -> Result<Resource, Rejection> {
    let mut settings = settings::merged(&Settings::default(), &context.defaults.cluster);
    if url.http2 {
        settings.protocol = Some(Protocol::Http2);
    }
    let endpoint = endpoints::plain(&url.host, url.port);
    let discovery = match endpoint.host {
        Host::Ip(_) => Discovery::Eds,
        Host::Name(_) => Discovery::Dns(vec![endpoint]),
    };
    let mut message = settings::applied(base(&url.cluster_name(), &settings), &settings, Some(&url.host))?;
    message.typed_extension_protocol_options = http::options(&settings, None);
    let tls = match url.https {
        true => Some(tls::of_url(&url.host, settings.protocol, context.ca_bundle.as_ref())?),
        false if settings.protocol == Some(Protocol::Auto) => return Err(without_alpn()),
        false => None,
    };
    message.transport_socket = transport::wrapped(tls, settings.proxy_protocol);
    Ok(resource(message, &discovery, documents))
}

/// The host whose certificate is expected: `tls.sni`, else the name of `dns`, else that of each listed endpoint.
fn server_of<'a>(tls: &'a Tls, discovery: &Discovery, dns: Option<&'a str>) -> Result<Server<'a>, Rejection> {
    match (tls.sni.as_deref().or(dns), discovery) {
        (Some(host), _) => Ok(Server::One(host)),
        (None, Discovery::Dns(_)) => Ok(Server::EachEndpoint),
        (None, Discovery::Eds) => Err(Rejection::new(
            "tls.sni",
            "missing, expected the name in the certificate, because the endpoints are addresses",
        )),
    }
}

/// NC-31.
fn without_alpn() -> Rejection {
    Rejection::new(
        "protocol",
        "found \"auto\", which needs the ALPN of TLS, expected \"tls\" beside it",
    )
}

/// The Cluster for a name that no document describes. It is of type EDS, because gRPC clients refuse STATIC; its
/// assignment is empty, so that its routes answer 503.
#[must_use]
pub fn missing(name: &str, documents: Vec<DocumentKey>) -> Resource {
    resource(base(name, &Settings::default()), &Discovery::Eds, documents)
}

/// The settings of a cluster, filled in from the defaults.
#[must_use]
pub(super) fn settings_of(cluster: &Cluster, context: &Context) -> Settings {
    settings::merged(&cluster.settings, &context.defaults.cluster)
}

/// Warnings about settings without effect.
#[must_use]
pub(super) fn warnings(cluster: &Cluster, context: &Context) -> Vec<String> {
    let settings = settings_of(cluster, context);
    let budget = |limits: &CircuitBreaker| limits.retries.is_some() && limits.retry_budget_percent.is_some();
    let mut warnings = Vec::new();
    if !cluster.failover.is_empty() && settings.health_check.is_none() && settings.outlier_detection.is_none() {
        warnings.push(
            "failover: without \"health_check\" and \"outlier_detection\", Envoy goes on to the next cluster only if \
             this one has no endpoints"
                .to_owned(),
        );
    }
    if settings.circuit_breaker.as_ref().is_some_and(budget) {
        warnings.push("circuit_breaker.retries: without effect beside \"retry_budget_percent\"".to_owned());
    }
    if cluster.tls.as_ref().is_some_and(|tls| !tls.verify) {
        warnings.push("tls.verify: false, so that any certificate of the upstream is accepted".to_owned());
    }
    warnings
}

/// The place of a Cluster's endpoints.
enum Discovery {
    /// In a ClusterLoadAssignment of its own.
    Eds,
    /// In the Cluster, as names.
    Dns(Vec<Endpoint>),
}

impl Discovery {
    fn of_list(listed: &[Endpoint]) -> Result<Self, Rejection> {
        let names = listed
            .iter()
            .filter(|endpoint| matches!(endpoint.host, Host::Name(_)))
            .count();
        match names {
            0 => Ok(Self::Eds),
            all if all == listed.len() => Ok(Self::Dns(listed.to_vec())),
            _ => Err(Rejection::new(
                "endpoints",
                "found both IP addresses and names, expected one of the two",
            )),
        }
    }
}

fn base(name: &str, settings: &Settings) -> WireCluster {
    WireCluster {
        name: name.to_owned(),
        connect_timeout: Some(settings::connect_timeout(settings)),
        ignore_health_on_host_removal: true,
        ..WireCluster::default()
    }
}

fn resource(mut message: WireCluster, discovery: &Discovery, documents: Vec<DocumentKey>) -> Resource {
    let kind = match discovery {
        Discovery::Eds => wire::DiscoveryType::Eds,
        Discovery::Dns(_) => wire::DiscoveryType::StrictDns,
    };

    message.cluster_discovery_type = Some(wire::ClusterDiscoveryType::Type(kind as i32));
    match discovery {
        Discovery::Eds => {
            message.eds_cluster_config = Some(wire::EdsClusterConfig {
                eds_config: Some(ads()),
                ..Default::default()
            });
        }
        Discovery::Dns(_) => message.dns_lookup_family = wire::DnsLookupFamily::V4Preferred as i32,
    }

    let mut bytes = message.encode_to_vec();
    if let Discovery::Dns(endpoints) = discovery {
        let list: Vec<_> = endpoints.iter().collect();
        append(&mut bytes, 33, &endpoints::assignment(&message.name, &list));
    }

    let warms = matches!(discovery, Discovery::Eds).then(|| message.name.as_str().into());
    Resource {
        warms,
        waits: no_wait::wait_of(&bytes),
        ..Resource::new(message.name, bytes, documents)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use prost::Name;
    use serde_json::{Value as Json, json};

    use crate::document::cluster::{Check, HealthCheck, LbPolicy, LoadBalancing, LocalityMode, OutlierDetection};
    use crate::document::key::Kind;
    use crate::proto::json::to_json;

    use super::*;

    fn shown(resource: &Resource) -> Json {
        to_json(&WireCluster::type_url(), &resource.body.to_bytes()).unwrap()
    }

    fn document(source: Source, settings: Settings) -> Cluster {
        Cluster {
            source,
            settings,
            tls: None,
            credential: None,
            failover: Vec::new(),
            guard: None,
            on_demand: false,
            policies: crate::document::policy::Items::default(),
            groups: None,
        }
    }

    fn key() -> DocumentKey {
        DocumentKey::new(Kind::Clusters, "orders")
    }

    fn compiled(cluster: &Cluster) -> Result<Resource, Rejection> {
        from_document(&key(), cluster, &Context::default())
    }

    fn eds(name: &str) -> Json {
        json!({
            "@type": WireCluster::type_url(),
            "name": name,
            "type": "EDS",
            "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
            "connect_timeout": "2s",
            "ignore_health_on_host_removal": true,
        })
    }

    fn strict_dns(name: &str, host: &str, port: u16) -> Json {
        json!({
            "@type": WireCluster::type_url(),
            "name": name,
            "type": "STRICT_DNS",
            "dns_lookup_family": "V4_PREFERRED",
            "connect_timeout": "2s",
            "ignore_health_on_host_removal": true,
            "load_assignment": { "cluster_name": name, "endpoints": [{
                "locality": {},
                "load_balancing_weight": 1,
                "lb_endpoints": [{
                    "endpoint": { "address": { "socket_address": { "address": host, "port_value": port } } },
                    "load_balancing_weight": 1,
                }],
            }] },
        })
    }

    #[test]
    fn registered_and_listed_addresses_come_by_eds() {
        let listed = Source::Listed(vec![endpoints::plain("10.0.0.1", 80)]);
        for source in [Source::Registered, listed, Source::Listed(Vec::new())] {
            let cluster = document(source, Settings::default());
            let resource = compiled(&cluster).unwrap();
            assert_eq!(shown(&resource), eds("orders"));
            assert_eq!((resource.warms.as_deref(), resource.on_demand), (Some("orders"), false));
            assert_eq!(resource.documents, [key()]);
        }
    }

    #[test]
    fn names_are_resolved_by_envoy() {
        let dns = Source::Dns {
            host: "orders.internal".into(),
            port: 8080,
        };
        for source in [dns, Source::Listed(vec![endpoints::plain("orders.internal", 8080)])] {
            let cluster = document(source, Settings::default());
            let resource = compiled(&cluster).unwrap();
            assert_eq!(shown(&resource), strict_dns("orders", "orders.internal", 8080));
            assert_eq!(resource.warms, None);
        }
    }

    #[test]
    fn a_mix_of_addresses_and_names_is_refused() {
        let mixed = vec![
            endpoints::plain("10.0.0.1", 80),
            endpoints::plain("orders.internal", 80),
        ];
        let error = compiled(&document(Source::Listed(mixed), Settings::default())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "endpoints: found both IP addresses and names, expected one of the two"
        );
    }

    #[test]
    fn on_demand_is_kept_for_the_wildcard_set() {
        let cluster = Cluster {
            on_demand: true,
            ..document(Source::Registered, Settings::default())
        };
        assert!(compiled(&cluster).unwrap().on_demand);
    }

    #[test]
    fn all_settings_reach_the_cluster() {
        let settings = Settings {
            protocol: Some(Protocol::Http2),
            connect_timeout: Some(Duration::from_millis(250)),
            lb: Some(LoadBalancing {
                policy: LbPolicy::LeastRequest,
                slow_start: Some(Duration::from_secs(30)),
                locality: Some(LocalityMode::ZoneAware),
                ..LoadBalancing::default()
            }),
            health_check: Some(HealthCheck {
                check: Check::Grpc("orders.Orders".into()),
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy: 2,
                unhealthy: 3,
            }),
            outlier_detection: Some(OutlierDetection {
                consecutive_5xx: 5,
                eject_for: Duration::from_secs(600),
                max_eject_percent: 30,
            }),
            circuit_breaker: Some(CircuitBreaker {
                connections: Some(1),
                pending: Some(2),
                retry_budget_percent: Some(20.0),
                ..CircuitBreaker::default()
            }),
            ..Settings::default()
        };
        let mut expected = eds("orders");
        for (field, value) in json!({
            "connect_timeout": "0.250s",
            "lb_policy": "LEAST_REQUEST",
            "least_request_lb_config": { "slow_start_config": { "slow_start_window": "30s" } },
            "common_lb_config": { "zone_aware_lb_config": {} },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            } },
            "health_checks": [{
                "timeout": "1s",
                "interval": "5s",
                "no_traffic_interval": "5s",
                "healthy_threshold": 2,
                "unhealthy_threshold": 3,
                "reuse_connection": true,
                "grpc_health_check": { "service_name": "orders.Orders" },
            }],
            "outlier_detection": {
                "consecutive_5xx": 5,
                "base_ejection_time": "600s",
                "max_ejection_time": "600s",
                "max_ejection_percent": 30,
            },
            "circuit_breakers": { "thresholds": [{
                "max_connections": 1,
                "max_pending_requests": 2,
                "retry_budget": { "budget_percent": { "value": 20.0 } },
            }] },
        })
        .as_object()
        .unwrap()
        {
            expected[field] = value.clone();
        }
        let cluster = document(Source::Registered, settings.clone());
        assert_eq!(shown(&compiled(&cluster).unwrap()), expected);

        // The same comes from the defaults, whatever the seed of a map.
        let mut context = Context::default();
        context.defaults.cluster = settings;
        let bare = document(Source::Registered, Settings::default());
        for _ in 0..20 {
            assert_eq!(
                from_document(&key(), &bare, &context).unwrap().body,
                compiled(&cluster).unwrap().body
            );
        }
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_once_defaults_are_filled_in() {
        let check = HealthCheck {
            check: Check::Grpc(String::new()),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let cluster = document(
            Source::Registered,
            Settings {
                health_check: Some(check),
                ..Settings::default()
            },
        );
        let error = compiled(&cluster).unwrap_err();
        assert_eq!(
            error.to_string(),
            "health_check.grpc: found a gRPC health check on a cluster that speaks HTTP/1.1, \
             expected \"protocol\": \"http2\""
        );
        let mut context = Context::default();
        context.defaults.cluster.protocol = Some(Protocol::Http2);
        assert!(from_document(&key(), &cluster, &context).is_ok());
    }

    fn url(https: bool, host: &str, port: u16) -> UpstreamUrl {
        UpstreamUrl {
            http2: false,
            https,
            host: host.into(),
            port,
        }
    }

    #[test]
    fn a_url_with_an_address_is_an_eds_cluster_and_one_with_a_name_is_resolved() {
        let context = Context::default();
        let address = url(false, "10.0.1.5", 8080);
        let resource = from_url(&address, vec![key()], &context).unwrap();
        assert_eq!(shown(&resource), eds("http://10.0.1.5:8080"));
        assert_eq!(resource.warms.as_deref(), Some("http://10.0.1.5:8080"));

        let name = url(false, "users.internal", 80);
        let resource = from_url(&name, vec![key()], &context).unwrap();
        assert_eq!(
            shown(&resource),
            strict_dns("http://users.internal:80", "users.internal", 80)
        );
        assert_eq!(resource.warms, None);
    }

    #[test]
    fn https_is_verified_against_the_host_of_the_url() {
        let context = Context {
            ca_bundle: Some(Bytes::from_static(b"PEM")),
            ..Context::default()
        };
        let tls = |url: &UpstreamUrl| shown(&from_url(url, Vec::new(), &context).unwrap())["transport_socket"].clone();
        let expected = |sni: &[(&str, &str)], san_type: &str, host: &str| {
            let mut config = json!({
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
                    "alpn_protocols": ["http/1.1"],
                    "validation_context": {
                        "trusted_ca": { "inline_bytes": "UEVN" },
                        "match_typed_subject_alt_names": [{ "san_type": san_type, "matcher": { "exact": host } }],
                    },
                },
            });
            for (field, value) in sni {
                config[*field] = json!(value);
            }
            json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
        };
        let name = expected(&[("sni", "users.internal")], "DNS", "users.internal");
        assert_eq!(tls(&url(true, "users.internal", 443)), name);
        assert_eq!(tls(&url(true, "::1", 443)), expected(&[], "IP_ADDRESS", "::1"));
    }

    #[test]
    fn https_without_a_bundle_is_refused() {
        let error = from_url(&url(true, "users.internal", 443), Vec::new(), &Context::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "found an https upstream, but the server has no CA bundle to verify it by (--ca-bundle)"
        );
    }

    #[test]
    fn a_missing_cluster_waits_for_endpoints_like_any_other() {
        let resource = missing("gone", vec![key()]);
        assert_eq!(
            (shown(&resource), resource.warms.as_deref()),
            (eds("gone"), Some("gone"))
        );
    }
}
