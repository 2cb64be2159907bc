//! The kinds of extensions that a field accepts (docs/refused-by-envoy.md NE-10, NL-13, NC-22, NC-37, NC-49, NR-41,
//! NR-42).
//!
//! The package of a type says which kind of extension the type configures. Only a proxy's Node says whether that proxy
//! has the extension. A `TypedStruct` names its extension inside and is accepted.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy};
use envoy_types::pb::envoy::config::core::v3::{ExtensionConfigSource, TransportSocket, transport_socket};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::document::Rejection;
use crate::document::sentence::{one_of, quote};
use crate::proto::json::pool;
use crate::resource::place::Place;

/// A place for extensions of one kind.
pub(super) struct Slot {
    /// The kind in words.
    what: &'static str,
    packages: &'static [&'static str],
    /// Packages below these with types of other kinds.
    never: &'static [&'static str],
}

/// Filters of a connection manager.
pub(super) const HTTP_FILTER: Slot = Slot {
    what: "an HTTP filter",
    packages: &["envoy.extensions.filters.http.", "envoy.extensions.common.matching."],
    never: &[],
};
/// Filters of a cluster. Of the common network filters, these are for listeners only.
pub(super) const UPSTREAM_HTTP_FILTER: Slot = Slot {
    what: "an HTTP filter that can be upstream",
    packages: HTTP_FILTER.packages,
    never: &[
        "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
        "envoy.extensions.filters.http.cors.v3.Cors",
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    ],
};
/// Filters of a filter chain.
pub(super) const NETWORK_FILTER: Slot = Slot {
    what: "a network filter",
    packages: &["envoy.extensions.filters.network."],
    never: &[],
};
/// Filters of a listener.
pub(super) const LISTENER_FILTER: Slot = Slot {
    what: "a listener filter",
    packages: &["envoy.extensions.filters.listener.", "envoy.extensions.filters.udp."],
    never: &[],
};
/// Sockets of a filter chain.
pub(super) const DOWNSTREAM_SOCKET: Slot = Slot {
    what: "a transport socket of listeners",
    packages: &["envoy.extensions.transport_sockets."],
    never: &[
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport",
        "envoy.extensions.transport_sockets.starttls.v3.UpstreamStartTlsConfig",
    ],
};
/// Sockets of a cluster.
pub(super) const UPSTREAM_SOCKET: Slot = Slot {
    what: "a transport socket of clusters",
    packages: &["envoy.extensions.transport_sockets."],
    never: &[
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
        "envoy.extensions.transport_sockets.starttls.v3.StartTlsConfig",
    ],
};
/// Predicates that reject a host for a retry.
pub(super) const RETRY_PREDICATE: Slot = Slot {
    what: "a predicate of retries",
    packages: &["envoy.extensions.retry.host."],
    never: &[],
};
/// Policies that choose the priority of a retry.
pub(super) const RETRY_PRIORITY: Slot = Slot {
    what: "a priority of retries",
    packages: &["envoy.extensions.retry.priority."],
    never: &[],
};
const CLUSTER_TYPE: Slot = Slot {
    what: "a type of cluster",
    packages: &["envoy.extensions.clusters."],
    never: &[],
};
/// The package of load balancing policies.
pub(super) const BALANCING: &str = "envoy.extensions.load_balancing_policies.";
const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// Protocol options whose key must be one of these.
const PROTOCOL_OPTIONS: [(&str, [&str; 2]); 2] = [
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        [
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "envoy.upstreams.http.http_protocol_options",
        ],
    ),
    (
        "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
        [
            "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
            "envoy.upstreams.tcp.tcp_protocol_options",
        ],
    ),
];

/// HTTP filters without settings in routes.
const WITHOUT_ROUTES: [&str; 28] = [
    "envoy.extensions.filters.http.a2a.v3.A2a",
    "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    "envoy.extensions.filters.http.alternate_protocols_cache.v3.FilterConfig",
    "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
    "envoy.extensions.filters.http.cache.v3.CacheConfig",
    "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config",
    "envoy.extensions.filters.http.cdn_loop.v3.CdnLoopConfig",
    "envoy.extensions.filters.http.connect_grpc_bridge.v3.FilterConfig",
    "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
    "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    "envoy.extensions.filters.http.gcp_authn.v3.GcpAuthnFilterConfig",
    "envoy.extensions.filters.http.geoip.v3.Geoip",
    "envoy.extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
    "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.ip_tagging.v3.IPTagging",
    "envoy.extensions.filters.http.mcp_router.v3.McpRouter",
    "envoy.extensions.filters.http.original_src.v3.OriginalSrc",
    "envoy.extensions.filters.http.proto_api_scrubber.v3.ProtoApiScrubberConfig",
    "envoy.extensions.filters.http.proto_message_extraction.v3.ProtoMessageExtractionConfig",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaOverride",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.tap.v3.Tap",
    "envoy.extensions.filters.http.thrift_to_metadata.v3.ThriftToMetadata",
    "envoy.extensions.filters.http.wasm.v3.Wasm",
];

/// The name of the message in a type URL.
pub(super) fn type_of(config: &Any) -> &str {
    config.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether an extension is of the expected kind. `at` is the place of the `typed_config`.
pub(super) fn check(config: &Any, slot: &Slot, at: &Place) -> Result<(), Rejection> {
    let name = type_of(config);
    let fits = slot.packages.iter().any(|package| name.starts_with(package)) && !slot.never.contains(&name);
    if fits || TYPED_STRUCTS.contains(&name) {
        return Ok(());
    }
    Err(at.reject(format!("found the type {}, expected {}", quote(name), slot.what)))
}

/// NE-10 of transport sockets; without `typed_config` the name decides.
pub(super) fn socket(socket: Option<&TransportSocket>, slot: &Slot, at: &Place) -> Result<(), Rejection> {
    match socket.and_then(|socket| socket.config_type.as_ref()) {
        Some(transport_socket::ConfigType::TypedConfig(config)) => check(config, slot, &at.field("typed_config")),
        None => Ok(()),
    }
}

/// NC-22, NC-37, NC-49 and the sockets.
pub(super) fn of_cluster(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    socket(
        cluster.transport_socket.as_ref(),
        &UPSTREAM_SOCKET,
        &at.field("transport_socket"),
    )?;

    for (index, matched) in cluster.transport_socket_matches.iter().enumerate() {
        let at = at
            .field("transport_socket_matches")
            .index(index)
            .field("transport_socket");
        socket(matched.transport_socket.as_ref(), &UPSTREAM_SOCKET, &at)?;
    }

    if let Some(ClusterDiscoveryType::ClusterType(custom)) = &cluster.cluster_discovery_type {
        let at = at.field("cluster_type");
        match &custom.typed_config {
            Some(config) => check(config, &CLUSTER_TYPE, &at.field("typed_config"))?,
            None if !custom.name.starts_with("envoy.cluster") => {
                let reason = format!(
                    "found {}, expected a type of cluster or its typed_config",
                    quote(&custom.name)
                );
                return Err(at.field("name").reject(reason));
            }
            None => {}
        }
    }

    protocol_options(
        &cluster.typed_extension_protocol_options,
        &at.field("typed_extension_protocol_options"),
    )?;
    cluster
        .load_balancing_policy
        .as_ref()
        .map_or(Ok(()), |policy| balancing(policy, &at.field("load_balancing_policy")))
}

/// NC-22: Envoy uses the first policy that it knows.
fn balancing(policy: &LoadBalancingPolicy, at: &Place) -> Result<(), Rejection> {
    let mut configs = policy
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref());
    let known = configs.any(|extension| {
        extension.typed_config.as_ref().is_some_and(|config| {
            let name = type_of(config);
            name.starts_with(BALANCING) || TYPED_STRUCTS.contains(&name)
        })
    });
    match known {
        true => Ok(()),
        false => Err(at
            .field("policies")
            .reject("found no load balancing policy, expected at least one".to_owned())),
    }
}

/// NC-37: the key names the extension with the options.
fn protocol_options(options: &HashMap<String, Any>, at: &Place) -> Result<(), Rejection> {
    let mut options: Vec<(&String, &Any)> = options.iter().collect();
    options.sort_unstable_by_key(|(key, _)| *key);
    for (key, config) in options {
        let (name, at) = (type_of(config), at.field(key));
        let of_key = PROTOCOL_OPTIONS.iter().find(|(_, keys)| keys.contains(&key.as_str()));
        let of_type = PROTOCOL_OPTIONS.iter().find(|(of_type, _)| *of_type == name);
        match (of_key, of_type) {
            (Some((expected, _)), _) if *expected != name => {
                return Err(at.reject(format!("found the type {}, expected {}", quote(name), quote(expected))));
            }
            (None, Some((_, keys))) => {
                let keys = keys.map(quote);
                return Err(at.reject(format!("found the key {}, expected {}", quote(key), one_of(&keys))));
            }
            (None, None) if !name.ends_with("ProtocolOptions") && !TYPED_STRUCTS.contains(&name) => {
                return Err(at.reject(format!(
                    "found the type {}, expected options of a protocol",
                    quote(name)
                )));
            }
            _ => {}
        }
    }

    Ok(())
}

/// NR-41, NR-42: settings of routes, hosts and weighted clusters for HTTP filters.
pub(super) fn per_filter(configs: &HashMap<String, Any>, at: &Place) -> Result<(), Rejection> {
    let at = at.field("typed_per_filter_config");
    let mut configs: Vec<(&String, &Any)> = configs.iter().collect();
    configs.sort_unstable_by_key(|(key, _)| *key);
    configs
        .into_iter()
        .try_for_each(|(key, config)| one_filter(config, &at.field(key)))
}

fn one_filter(config: &Any, at: &Place) -> Result<(), Rejection> {
    if type_of(config) != FILTER_CONFIG {
        return of_route(config, at);
    }
    let Ok(wrapped) = FilterConfig::decode(config.value.as_slice()) else {
        return Ok(());
    };
    match &wrapped.config {
        None if wrapped.disabled => Ok(()),
        // A disabled or optional filter may be of any type.
        Some(_) if wrapped.disabled || wrapped.is_optional => Ok(()),
        // `FilterConfig` enables the filter with its own configuration.
        Some(config) if config.type_url.is_empty() && config.value.is_empty() => Ok(()),
        Some(config) => of_route(config, &at.field("config")),
        None => Err(at
            .field("config")
            .reject("missing, expected the settings of the filter, or \"disabled\": true".to_owned())),
    }
}

fn of_route(config: &Any, at: &Place) -> Result<(), Rejection> {
    check(config, &HTTP_FILTER, at)?;
    let name = type_of(config);
    if WITHOUT_ROUTES.contains(&name) {
        let reason = format!(
            "found the type {}, of a filter without settings in routes, expected another",
            quote(name)
        );
        return Err(at.reject(reason));
    }
    Ok(())
}

/// NL-25.
pub(super) fn discovered(source: &ExtensionConfigSource, at: &Place) -> Result<(), Rejection> {
    if source.apply_default_config_without_warming && source.default_config.is_none() {
        let reason = "missing, expected the configuration that apply_default_config_without_warming needs";
        return Err(at.field("default_config").reject(reason.to_owned()));
    }
    let short = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    for (index, url) in source.type_urls.iter().enumerate() {
        if pool().get_message_by_name(&short(url)).is_none() {
            let reason = format!(
                "found {}, which is not among the types of this Envoy version",
                quote(url)
            );
            return Err(at
                .field("type_urls")
                .index(index)
                .reject(format!("{reason}, expected one that is")));
        }
    }

    match &source.default_config {
        Some(config) if !source.type_urls.iter().any(|url| short(url) == type_of(config)) => {
            let reason = format!("found the type {}, expected one of type_urls", quote(type_of(config)));
            Err(at.field("default_config").reject(reason))
        }
        _ => Ok(()),
    }
}
