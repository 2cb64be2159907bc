//! The rules of each message type, wherever the message is in a resource.
//!
//! In: a message with its descriptor, one call for each message of a resource, messages in an Any included. Out: the
//! first of Envoy's conditions (docs/refused-by-envoy.md) that the message breaks. Mistakes that Envoy accepts (section
//! 10) are not reported. `tests/data/refused_by_envoy/` has examples of each rule, which are also tried with a real
//! Envoy.

#![allow(deprecated, reason = "operators may write the older fields")]

use envoy_types::pb::envoy::config::route::v3::ScopedRouteConfiguration;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, regex_matcher};
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage};

use super::{
    addresses, clusters, endpoints, extensions, filters, formats, listeners, protocols, routes, sources, templates, tls,
};
use crate::document::{Limits, Rejection, regex};
use crate::resource::ResourceType;
use crate::resource::place::Place;

/// Rules of one message.
///
/// # Errors
/// The broken condition, with its place.
pub(in crate::resource) fn message(message: &DynamicMessage, at: &Place) -> Result<(), Rejection> {
    if message.has_field_by_name("config_discovery") {
        let name = message.get_field_by_name("name");
        let name = name.as_deref().and_then(|name| name.as_str()).unwrap_or_default();
        sources::subscribed(name, &at.field("name"))?;
    }

    match message.descriptor().full_name() {
        "envoy.config.cluster.v3.Cluster" => held(message, at, clusters::cluster),
        "envoy.config.cluster.v3.OutlierDetection" => held(message, at, clusters::outlier_detection),
        "envoy.config.cluster.v3.CircuitBreakers" => held(message, at, clusters::circuit_breakers),
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector" => {
            held(message, at, clusters::subset_selector)
        }
        "envoy.config.core.v3.ApiConfigSource" => held(message, at, sources::api),
        "envoy.config.core.v3.ConfigSource" => held(message, at, sources::source),
        "envoy.config.core.v3.CidrRange" => held(message, at, |range, at| addresses::range(range, at).map(drop)),
        "envoy.config.core.v3.ExtensionConfigSource" => held(message, at, extensions::discovered),
        "envoy.config.core.v3.HeaderValueOption" => held(message, at, formats::header),
        "envoy.config.core.v3.Http2ProtocolOptions" => held(message, at, protocols::http2),
        "envoy.config.core.v3.TlvEntry" => held(message, at, protocols::tlv),
        "envoy.config.core.v3.SubstitutionFormatString" => held(message, at, formats::substitution),
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => held(message, at, formats::file_log),
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuth" => held(message, at, filters::basic_auth),
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => held(message, at, filters::jwt),
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => held(message, at, filters::http_limit),
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => {
            held(message, at, filters::network_limit)
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => held(message, at, filters::tcp_proxy),
        "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit" => {
            held(message, at, filters::listener_limit)
        }
        "envoy.extensions.filters.http.wasm.v3.Wasm" | "envoy.extensions.filters.network.wasm.v3.Wasm"
            if !message.has_field_by_name("config") =>
        {
            Err(at
                .field("config")
                .reject("missing, expected the code of the plugin".to_owned()))
        }
        "envoy.extensions.filters.http.cache.v3.CacheConfig"
        | "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config"
            if !message.has_field_by_name("typed_config") && !message.has_field_by_name("disabled") =>
        {
            Err(at
                .field("typed_config")
                .reject("missing, expected the store of the cache, or \"disabled\": true".to_owned()))
        }
        "envoy.extensions.http.injected_credentials.generic.v3.Generic" => {
            held(message, at, filters::injected_credential)
        }
        "envoy.extensions.wasm.v3.PluginConfig" => held(message, at, filters::wasm),
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters" => held(message, at, tls::parameters),
        "envoy.config.core.v3.HealthCheck" => held(message, at, clusters::health_check),
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash" => held(message, at, clusters::ring_hash),
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev" => held(message, at, clusters::maglev),
        "envoy.config.listener.v3.Listener" => held(message, at, listeners::listener),
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            held(message, at, listeners::connection_manager)
        }
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds" => held(message, at, listeners::rds),
        "envoy.config.route.v3.RouteConfiguration" => held(message, at, routes::configuration),
        "envoy.config.route.v3.Vhds" => held(message, at, sources::vhds),
        "envoy.config.route.v3.VirtualHost" => held(message, at, routes::virtual_host),
        "envoy.config.route.v3.Route" => held(message, at, routes::route),
        "envoy.config.route.v3.RouteAction" => held(message, at, routes::action),
        "envoy.config.route.v3.RedirectAction" => held(message, at, routes::redirect),
        "envoy.config.route.v3.RouteAction.RequestMirrorPolicy" => held(message, at, routes::mirror),
        "envoy.config.route.v3.WeightedCluster" => held(message, at, routes::weighted),
        "envoy.config.route.v3.WeightedCluster.ClusterWeight" => held(message, at, routes::weight),
        "envoy.config.route.v3.RetryPolicy.RetryBackOff" => held(message, at, routes::back_off),
        "envoy.config.route.v3.InternalRedirectPolicy" => held(message, at, routes::internal_redirect),
        "envoy.config.route.v3.VirtualCluster" => held(message, at, routes::virtual_cluster),
        "envoy.config.route.v3.ScopedRouteConfiguration" => held(message, at, scope),
        "envoy.extensions.transport_sockets.tls.v3.Secret" => held(message, at, tls::secret),
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate" => held(message, at, tls::certificate),
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" => held(message, at, sources::secret),
        "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys" => held(message, at, tls::ticket_keys),
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext" => held(message, at, tls::validation),
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext" => held(message, at, tls::common),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => held(message, at, tls::upstream),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => held(message, at, tls::downstream),
        "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" => held(message, at, templates::matching),
        "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig" => {
            held(message, at, templates::rewriting)
        }
        "envoy.type.matcher.v3.RegexMatcher" => held(message, at, regular),
        _ => Ok(()),
    }
}

/// Rules that hold for a resource but not for the same message elsewhere: endpoints of EDS are never resolved.
///
/// # Errors
/// As above.
pub(in crate::resource) fn resource(
    resource_type: ResourceType,
    message: &DynamicMessage,
    at: &Place,
) -> Result<(), Rejection> {
    match resource_type {
        ResourceType::Endpoint => held(message, at, endpoints::assignment),
        _ => Ok(()),
    }
}

/// Check the message as the type that the check takes.
fn held<T: Message + Default>(
    message: &DynamicMessage,
    at: &Place,
    check: impl FnOnce(&T, &Place) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    match message.transcode_to() {
        Ok(typed) => check(&typed, at),
        Err(error) => Err(at.reject(format!(
            "found bytes that are not this message ({error}), expected this message"
        ))),
    }
}

/// NS-03, NS-08.
fn scope(scope: &ScopedRouteConfiguration, at: &Place) -> Result<(), Rejection> {
    if scope.route_configuration_name.is_empty() && scope.route_configuration.is_none() {
        let at = at.field("route_configuration_name");
        return Err(at.reject("missing or empty, expected the name of a RouteConfiguration".to_owned()));
    }
    sources::subscribed(&scope.route_configuration_name, &at.field("route_configuration_name"))
}

/// NR-07, NR-09, NR-10.
fn regular(matcher: &RegexMatcher, at: &Place) -> Result<(), Rejection> {
    let own = matcher.engine_type.as_ref().and_then(|engine| {
        let regex_matcher::EngineType::GoogleRe2(engine) = engine;
        engine.max_program_size.as_ref().map(|size| size.value)
    });
    let limits = own.map_or(at.limits, |re2_max_program_size| Limits { re2_max_program_size });
    regex::check(&matcher.regex, &limits).map_err(|reason| at.field("regex").reject(reason))
}
