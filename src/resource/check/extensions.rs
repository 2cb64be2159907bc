//! The kinds of extensions that a field accepts (docs/refused-by-envoy.md NE-10, NL-13, NC-22, NC-37, NC-49, NR-41,
//! NR-42).
//!
//! In: a field with an extension, and the kinds that the field takes ([`table`]). Out: a rejection if no extension of
//! these kinds has the type of the message. Envoy chooses an extension by that type alone; of a `TypedStruct`, by the
//! type that it names. The name of an extension matters only where no extension of the category has a message.

use std::borrow::Cow;
use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, CustomClusterType};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy};
use envoy_types::pb::envoy::config::core::v3::ExtensionConfigSource;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

use crate::document::Rejection;
use crate::document::sentence::{one_of, quote};
use crate::proto::json::pool;
use crate::resource::place::Place;

pub(in crate::resource) mod table;

use table::{Extension, Slot};

/// Most types in the list of a sentence.
const LISTED: usize = 3;
/// Two types at most this far from each other, in letters, are a mistake of typing.
const NEAR: usize = 5;
const ANY: &str = "google.protobuf.Any";
/// Messages that stand for another one: each names the type of the other, and has its fields as a Struct.
pub(in crate::resource) const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];
const CUSTOM_CLUSTER: &str = "envoy.config.cluster.v3.Cluster.CustomClusterType";
const HTTP_FILTERS: &str = "envoy.filters.http";
const BALANCING: &str = "envoy.load_balancing_policies";
/// Kinds in words.
const WORDS: [(&str, &str); 13] = [
    ("envoy.filters.http", "an HTTP filter"),
    ("envoy.filters.http.upstream", "an HTTP filter that can be upstream"),
    ("envoy.filters.network", "a network filter"),
    ("envoy.filters.listener", "a listener filter"),
    ("envoy.filters.udp_listener", "a listener filter"),
    ("envoy.transport_sockets.downstream", "a transport socket of listeners"),
    ("envoy.transport_sockets.upstream", "a transport socket of clusters"),
    ("envoy.retry_host_predicates", "a predicate of retries"),
    ("envoy.retry_priorities", "a priority of retries"),
    ("envoy.clusters", "a type of cluster"),
    ("envoy.access_loggers", "an access log"),
    ("envoy.tracers", "a tracer"),
    ("envoy.formatter", "a formatter"),
];
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

/// The packages of HTTP filters.
const FILTER_PACKAGES: &str = "envoy.extensions.filters.http.";

/// Settings of HTTP filters in routes whose names do not end in `PerRoute`.
const ROUTES_ALONE: [&str; 7] = [
    "envoy.extensions.filters.http.aws_lambda.v3.PerRouteConfig",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.mcp.v3.McpOverride",
    "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaOverride",
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

/// Whether the extensions in a field are of a kind that the field takes (NE-10). `around` is the nearest message around
/// for which the table has lines of its own.
///
/// # Errors
/// The first extension of another kind, or without its message.
pub(in crate::resource) fn of_field(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    slot: &Slot,
    around: &str,
    at: &Place,
) -> Result<(), Rejection> {
    let Some(kinds) = slot.kinds(around).filter(|_| !is_optional(message)) else {
        return Ok(());
    };
    if !message.has_field(field) {
        return match needs_message(message, field) {
            true => Err(at.reject(format!("missing, expected {}", expected("", kinds)))),
            false => Ok(()),
        };
    }

    match &*message.get_field(field) {
        Value::List(entries) => entries
            .iter()
            .enumerate()
            .try_for_each(|(index, entry)| of_value(entry, kinds, &at.index(index))),
        value => of_value(value, kinds, at),
    }
}

/// Envoy ignores an unknown filter that is optional.
fn is_optional(message: &DynamicMessage) -> bool {
    let switch = message.get_field_by_name("is_optional");
    switch.as_deref().and_then(Value::as_bool) == Some(true)
}

/// Whether the field is the message of an extension that is named beside the field, and nothing stands for the message.
fn needs_message(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    let descriptor = message.descriptor();
    let is_pair = field.name() == "typed_config" && descriptor.get_field_by_name("name").is_some();
    let mut others = field
        .containing_oneof()
        .into_iter()
        .flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
    is_pair && descriptor.full_name() != CUSTOM_CLUSTER && !others.any(|other| message.has_field(&other))
}

/// An Any, or a `TypedExtensionConfig`, whose own rules require its fields.
fn of_value(value: &Value, kinds: &[&str], at: &Place) -> Result<(), Rejection> {
    let Some(message) = value.as_message() else {
        return Ok(());
    };
    if message.descriptor().full_name() == ANY {
        return message
            .transcode_to()
            .map_or(Ok(()), |config: Any| check(&config, kinds, at));
    }
    if let Some(names) = names(kinds) {
        let name = message.get_field_by_name("name");
        let name = name.as_deref().and_then(Value::as_str).unwrap_or_default();
        if !names.contains(&name) {
            let names: Vec<String> = names.into_iter().map(quote).collect();
            let reason = format!("found {}, expected {}", quote(name), one_of(&names));
            return Err(at.field("name").reject(reason));
        }
        if types(kinds).is_empty() {
            return Ok(());
        }
    }

    let config = message.get_field_by_name("typed_config");
    match config
        .as_deref()
        .and_then(Value::as_message)
        .filter(|_| message.has_field_by_name("typed_config"))
    {
        Some(config) => config
            .transcode_to()
            .map_or(Ok(()), |config: Any| check(&config, kinds, &at.field("typed_config"))),
        None => Ok(()),
    }
}

/// The names of the extensions, if Envoy finds them by name: with `=` before the category, and if none has a message.
fn names(kinds: &[&str]) -> Option<Vec<&'static str>> {
    let extensions: Vec<&Extension> = kinds.iter().flat_map(|kind| of_kind(kind)).collect();
    let by_name = kinds.iter().any(|kind| kind.starts_with('='))
        || (!extensions.is_empty() && extensions.iter().all(|extension| extension.types.is_empty()));
    by_name.then(|| extensions.iter().map(|extension| extension.name).collect())
}

fn of_kind(kind: &str) -> &'static [Extension] {
    table::extensions(kind.trim_start_matches('='))
}

/// The types of some kinds.
fn types<'k>(kinds: &[&'k str]) -> Vec<&'k str> {
    let mut types = Vec::new();
    for kind in kinds {
        match table::is_message(kind) {
            true => types.push(*kind),
            false => types.extend(of_kind(kind).iter().flat_map(|extension| &extension.types)),
        }
    }
    types
}

/// Whether an Any is the message of an extension of a kind. Settings of routes are no extension.
fn check(config: &Any, kinds: &[&str], at: &Place) -> Result<(), Rejection> {
    let name = type_of(config);
    match types(kinds).contains(&&*name) && !for_routes_alone(&name) {
        true => Ok(()),
        false => Err(wrong_kind(&name, kinds, at)),
    }
}

fn wrong_kind(name: &str, kinds: &[&str], at: &Place) -> Rejection {
    // A TypedStruct may name any text as its type.
    let found = match at.hidden {
        true => "another type".to_owned(),
        false => format!("the type {}", quote(name)),
    };
    at.reject(format!("found {found}, expected {}", expected(name, kinds)))
}

/// The kinds in words, and the types that are nearest to the found one.
fn expected(found: &str, kinds: &[&str]) -> String {
    let words = kinds
        .iter()
        .map(|kind| match WORDS.iter().find(|(known, _)| known == kind) {
            Some((_, words)) => (*words).to_owned(),
            None if table::is_message(kind) => quote(kind),
            None => format!("an extension of {}", kind.trim_start_matches('=')),
        });
    let mut words: Vec<String> = words.collect();
    words.dedup();
    let words = one_of(&words);

    let mut types = types(kinds);
    if types.is_empty() {
        return format!("{words}, of which this Envoy version has none");
    }
    if kinds.iter().all(|kind| table::is_message(kind)) {
        return words;
    }

    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    types.sort_by_key(|name| {
        let short = strsim::damerau_levenshtein(&last(found), &last(name));
        (short, strsim::damerau_levenshtein(found, name))
    });
    let listed: Vec<String> = types.iter().take(LISTED).map(|name| format!("{name:?}")).collect();
    match types.first() {
        Some(near) if strsim::damerau_levenshtein(found, near) <= NEAR => format!("{words}, did you mean {near:?}?"),
        _ if types.len() <= LISTED => format!("{words}: {}", one_of(&listed)),
        _ => format!("{words} such as {}", one_of(&listed)),
    }
}

/// The name of the message in an Any; of a `TypedStruct`, the name of the message that it stands for.
pub(super) fn type_of(config: &Any) -> Cow<'_, str> {
    let name = short(&config.type_url);
    if !TYPED_STRUCTS.contains(&name) {
        return name.into();
    }
    let decoded = pool()
        .get_message_by_name(name)
        .and_then(|descriptor| DynamicMessage::decode(descriptor, config.value.as_slice()).ok());
    let type_url = decoded
        .as_ref()
        .and_then(|decoded| decoded.get_field_by_name("type_url"));
    let type_url = type_url.as_deref().and_then(Value::as_str).unwrap_or_default();
    short(type_url).to_owned().into()
}

fn short(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// Whether a type is one of several of an HTTP filter, the one for routes.
fn for_routes_alone(name: &str) -> bool {
    name.starts_with(FILTER_PACKAGES) && (name.ends_with("PerRoute") || ROUTES_ALONE.contains(&name))
        || name == "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute"
}

/// NC-22, NC-37, NC-49.
pub(super) fn of_cluster(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    if let Some(ClusterDiscoveryType::ClusterType(custom)) = &cluster.cluster_discovery_type {
        cluster_type(custom, &at.field("cluster_type"))?;
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

/// A type of cluster without a message is chosen by its name.
fn cluster_type(custom: &CustomClusterType, at: &Place) -> Result<(), Rejection> {
    let kind = "envoy.clusters";
    let known = table::extensions(kind)
        .iter()
        .find(|extension| extension.name == custom.name);
    match known {
        _ if custom.typed_config.is_some() => Ok(()),
        Some(extension) if extension.types.is_empty() => Ok(()),
        Some(_) => Err(at
            .field("typed_config")
            .reject(format!("missing, expected {}", expected("", &[kind])))),
        None => {
            let found = quote(&custom.name);
            Err(at
                .field("name")
                .reject(format!("found {found}, expected a type of cluster or its typed_config")))
        }
    }
}

/// Whether a type is that of a load balancing policy.
pub(super) fn is_balancing(name: &str) -> bool {
    types(&[BALANCING]).contains(&name)
}

/// NC-22: Envoy uses the first policy that it knows.
fn balancing(policy: &LoadBalancingPolicy, at: &Place) -> Result<(), Rejection> {
    let mut configs = policy
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref());
    let known = configs.any(|extension| {
        extension
            .typed_config
            .as_ref()
            .is_some_and(|config| is_balancing(&type_of(config)))
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
                return Err(at.reject(format!("found the type {}, expected {}", quote(&name), quote(expected))));
            }
            (None, Some((_, keys))) => {
                let keys = keys.map(quote);
                return Err(at.reject(format!("found the key {}, expected {}", quote(key), one_of(&keys))));
            }
            (None, None) if !name.ends_with("ProtocolOptions") => {
                return Err(at.reject(format!(
                    "found the type {}, expected options of a protocol",
                    quote(&name)
                )));
            }
            (None, None) if !has_options(key) => {
                let found = quote(key);
                return Err(at.reject(format!(
                    "found the key {found}, expected the name of an extension with options"
                )));
            }
            _ => {}
        }
    }

    Ok(())
}

/// Whether a network filter with options of its own has this name.
fn has_options(name: &str) -> bool {
    let mut filters = ["envoy.filters.network", "envoy.upstream_options"]
        .into_iter()
        .flat_map(table::extensions);
    filters.any(|filter| filter.name == name)
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
    let name = type_of(config);
    let filter = table::extensions(HTTP_FILTERS)
        .iter()
        .find(|extension| extension.types.contains(&&*name));
    let Some(filter) = filter else {
        return Err(wrong_kind(&name, &[HTTP_FILTERS], at));
    };
    if WITHOUT_ROUTES.contains(&&*name) {
        let reason = format!(
            "found the type {}, of a filter without settings in routes, expected another",
            quote(&name)
        );
        return Err(at.reject(reason));
    }
    match filter.types.iter().find(|name| for_routes_alone(name)) {
        Some(settings) if **settings != *name => Err(at.reject(format!(
            "found the type {}, expected {settings:?}, the settings of that filter in routes",
            quote(&name)
        ))),
        _ => Ok(()),
    }
}

/// NL-25.
pub(super) fn discovered(source: &ExtensionConfigSource, at: &Place) -> Result<(), Rejection> {
    if source.apply_default_config_without_warming && source.default_config.is_none() {
        let reason = "missing, expected the configuration that apply_default_config_without_warming needs";
        return Err(at.field("default_config").reject(reason.to_owned()));
    }
    for (index, url) in source.type_urls.iter().enumerate() {
        if pool().get_message_by_name(short(url)).is_none() {
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
            let reason = format!("found the type {}, expected one of type_urls", quote(&type_of(config)));
            Err(at.field("default_config").reject(reason))
        }
        _ => Ok(()),
    }
}
