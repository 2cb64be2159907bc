//! The HTTP options of a Cluster: the protocol, and the life of connections.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings,
};
use envoy_types::pb::envoy::extensions::filters::http::credential_injector::v3::CredentialInjector;
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config,
};
use envoy_types::pb::google::protobuf;

use crate::document::cluster::{Credential, Keepalive, Ping, Protocol, Settings};
use crate::proto::message::{any, duration, extension, uint32};
use crate::resource::secrets;

/// The only key under which Envoy reads a cluster's HTTP options.
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// `Cluster.typed_extension_protocol_options`; empty if all options are Envoy's.
pub(super) fn options(settings: &Settings, credential: Option<&Credential>) -> HashMap<String, protobuf::Any> {
    let protocol = settings.protocol.unwrap_or(Protocol::Http1);
    if protocol == Protocol::Http1 && settings.keepalive.is_none() && credential.is_none() {
        return HashMap::new();
    }
    let options = HttpProtocolOptions {
        common_http_protocol_options: settings.keepalive.as_ref().map(common),
        upstream_protocol_options: Some(upstream(protocol, settings.keepalive.as_ref())),
        http_filters: credential.map(injecting).unwrap_or_default(),
        ..HttpProtocolOptions::default()
    };
    // One entry: a map of two would be encoded in random order.
    HashMap::from([(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&options))])
}

fn upstream(protocol: Protocol, keepalive: Option<&Keepalive>) -> UpstreamProtocolOptions {
    let http1 = Http1ProtocolOptions::default();
    let http2 = Http2ProtocolOptions {
        connection_keepalive: keepalive.and_then(|keepalive| keepalive.ping.as_ref()).map(ping),
        ..Http2ProtocolOptions::default()
    };
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    match protocol {
        Protocol::Http1 => explicit(explicit_http_config::ProtocolConfig::HttpProtocolOptions(http1)),
        Protocol::Http2 => explicit(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2)),
        Protocol::Auto => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(http2),
            ..AutoHttpConfig::default()
        }),
        Protocol::LikeClient => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(http2),
            ..UseDownstreamHttpConfig::default()
        }),
    }
}

/// The filters that put a credential on each request. Envoy answers 401 itself while it has no secret.
fn injecting(credential: &Credential) -> Vec<HttpFilter> {
    let generic = Generic {
        credential: Some(secrets::sds(&credential.secret)),
        header: credential.header.to_string(),
        header_value_prefix: credential.prefix.clone(),
    };
    let injector = CredentialInjector {
        // A client must not choose the credential.
        overwrite: true,
        credential: Some(extension("envoy.http.injected_credentials.generic", &generic)),
        ..CredentialInjector::default()
    };
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    vec![
        filter("envoy.filters.http.credential_injector", any(&injector)),
        filter("envoy.filters.http.upstream_codec", any(&UpstreamCodec::default())),
    ]
}

/// `"none"` for `idle` is an explicit 0: without a value, Envoy closes idle connections after an hour.
fn common(keepalive: &Keepalive) -> Common {
    Common {
        idle_timeout: Some(duration(keepalive.idle.unwrap_or_default())),
        max_connection_duration: keepalive.max_age.map(duration),
        max_requests_per_connection: keepalive.max_requests.map(uint32),
        ..Common::default()
    }
}

fn ping(ping: &Ping) -> KeepaliveSettings {
    KeepaliveSettings {
        interval: Some(duration(ping.interval)),
        timeout: Some(duration(ping.timeout)),
        ..KeepaliveSettings::default()
    }
}
