//! The HTTP connection manager of a listener.
//!
//! Every connection manager cleans requests in the same way before they are matched: paths are normalised, runs of
//! slashes merged, escaped slashes refused, a final dot of Host removed. Extended CONNECT is always accepted, because a
//! route may turn WebSocket on, and no route may change a listener.

use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ExtensionFilter, access_log_filter, extension_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Mutation, header_mutation::Action as MutationAction,
};
use envoy_types::pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use envoy_types::pb::envoy::config::core::v3::{
    CidrRange, Http1ProtocolOptions, Http2ProtocolOptions, Http3ProtocolOptions, HttpProtocolOptions,
    KeepaliveSettings, QuicProtocolOptions, SubstitutionFormatString, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3::OnDemand;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, StripPortMode, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, ResponseMapper, http_filter,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use envoy_types::pb::envoy::extensions::http::original_ip_detection::xff::v3::{XffConfig, XffTrustedCidrs};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf;
use ipnet::IpNet;
use prost::{Message, Name};

use crate::document::listener::{
    ClientIp, Errors, Forward, Http, Http2, RequestId, ServerHeader, Timeouts, Underscores, VirtualHosts,
};
use crate::proto::message::{ads, any, append, boolean, duration, extension, uint32};

use super::super::policies::slots;
use super::{log, network_filter, tls};

/// The variation of `timeouts.max_age`, so that connections do not end together.
const MAX_AGE_JITTER_PERCENT: f64 = 10.0;
/// The Host of an HTTP/1.0 request that has none.
const HTTP10_HOST: &str = "localhost";
/// The fields of Envoy's own answers as `application/problem+json`.
const PROBLEM_FIELDS: [(&str, &str); 3] = [
    ("detail", "%RESPONSE_CODE_DETAILS%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("status", "%RESPONSE_CODE%"),
];
/// Envoy's own answers, without the bodies of routes, of authorization services, and of `fault` policies.
const IS_ENVOYS: &str = "!(response.code_details in ['direct_response', 'ext_authz_denied', 'fault_filter_abort'])";
/// The headers that carry the trace of a client.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// The network filter of a listener's HTTP.
pub(super) fn filter(name: &str, http: &Http, codec: CodecType, forward: Forward) -> Filter {
    let manager = HttpConnectionManager {
        codec_type: codec as i32,
        http3_protocol_options: (codec == CodecType::Http3).then(|| http3_options(&http.http2)),
        ..tls::forwarding(connection_manager(name, http), forward)
    };
    let mut manager = any(&manager);
    if http.errors == Errors::Json {
        // Appended as bytes, because its fields are a map.
        append(&mut manager.value, 38, &problems());
    }
    network_filter("envoy.filters.network.http_connection_manager", manager)
}

fn connection_manager(name: &str, http: &Http) -> HttpConnectionManager {
    let hops = match http.client_ip {
        ClientIp::TrustedHops(hops) => Some(hops),
        ClientIp::TrustedCidrs(_) | ClientIp::Header(_) => None,
    };
    HttpConnectionManager {
        http_filters: http_filters(http),
        use_remote_address: Some(boolean(hops.is_some())),
        xff_num_trusted_hops: hops.unwrap_or_default(),
        original_ip_detection_extensions: detection(&http.client_ip).into_iter().collect(),
        early_header_mutation_extensions: early_removal(http).into_iter().collect(),
        normalize_path: Some(boolean(true)),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest as i32,
        strip_trailing_host_dot: true,
        // The URL of a redirect to port 443 has no port, whatever port the client wrote.
        strip_port_mode: http
            .redirect_to_https
            .is_some()
            .then_some(StripPortMode::StripAnyHostPort(true)),
        generate_request_id: (http.request_id == RequestId::Off).then(|| boolean(false)),
        preserve_external_request_id: http.request_id == RequestId::Keep,
        max_request_headers_kb: Some(uint32(http.max_header_kib)),
        common_http_protocol_options: Some(common_options(http)),
        http1_safe_max_connection_duration: http.timeouts.max_age.is_some(),
        http_protocol_options: http.http10.then(|| Http1ProtocolOptions {
            accept_http_10: true,
            default_host_for_http_10: HTTP10_HOST.to_owned(),
            ..Http1ProtocolOptions::default()
        }),
        http2_protocol_options: Some(http2_options(&http.http2)),
        server_name: match &http.server_header {
            ServerHeader::Text(text) if text != "envoy" => text.clone(),
            ServerHeader::Text(_) | ServerHeader::Keep => String::new(),
        },
        server_header_transformation: match http.server_header {
            ServerHeader::Text(_) => ServerHeaderTransformation::Overwrite,
            ServerHeader::Keep => ServerHeaderTransformation::PassThrough,
        } as i32,
        upgrade_configs: http.websocket.then(websocket).into_iter().collect(),
        access_log: http.access_log.iter().map(|own| log::access_log(name, own)).collect(),
        tracing: http.tracing.as_ref().map(|tracing| log::tracing(name, tracing)),
        ..with_timeouts(routed(name), &http.timeouts)
    }
}

/// The fields of every connection manager: the RouteConfiguration with the name of the listener, and the router.
pub(super) fn routed(name: &str) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: vec![http_filter("envoy.filters.http.router", &Router::default())],
        ..HttpConnectionManager::default()
    }
}

/// The fixed HTTP filters: no policy and no route changes them.
fn http_filters(http: &Http) -> Vec<HttpFilter> {
    let on_demand = match http.virtual_hosts {
        VirtualHosts::All => None,
        VirtualHosts::OnDemand => Some(on_demand()),
    };
    on_demand.into_iter().chain(slots()).chain([router(http)]).collect()
}

fn router(http: &Http) -> HttpFilter {
    let router = Router {
        suppress_envoy_headers: !http.envoy_headers,
        ..Router::default()
    };
    http_filter("envoy.filters.http.router", &router)
}

/// The filter that subscribes to the virtual host of a request without a route.
fn on_demand() -> HttpFilter {
    http_filter("envoy.filters.http.on_demand", &OnDemand::default())
}

fn http_filter(name: &str, config: &impl Name) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

/// The source of a client's address that is not the connection. `x-forwarded-for` gets the connection's address.
fn detection(client_ip: &ClientIp) -> Option<TypedExtensionConfig> {
    match client_ip {
        ClientIp::TrustedHops(_) => None,
        ClientIp::TrustedCidrs(networks) => {
            let config = XffConfig {
                xff_trusted_cidrs: Some(XffTrustedCidrs {
                    cidrs: networks.iter().map(cidr).collect(),
                }),
                skip_xff_append: Some(boolean(false)),
                ..XffConfig::default()
            };
            Some(extension("envoy.http.original_ip_detection.xff", &config))
        }
        ClientIp::Header(name) => {
            let config = CustomHeaderConfig {
                header_name: name.clone(),
                ..CustomHeaderConfig::default()
            };
            Some(extension("envoy.http.original_ip_detection.custom_header", &config))
        }
    }
}

fn cidr(network: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: network.addr().to_string(),
        prefix_len: Some(uint32(u32::from(network.prefix_len()))),
    }
}

/// The removal of headers before Envoy itself reads any.
///
/// Envoy replaces a client's request id only if the client's address is that of the connection; otherwise its header
/// is removed.
fn early_removal(http: &Http) -> Option<TypedExtensionConfig> {
    let replaces = matches!(http.client_ip, ClientIp::TrustedHops(_));
    let mut names: Vec<&str> = http.remove_request_headers.iter().map(String::as_str).collect();
    if http.request_id == RequestId::Generate && !replaces {
        names.push("x-request-id");
    }
    if http.tracing.as_ref().is_some_and(|tracing| !tracing.trust_parent) {
        names.extend(TRACE_HEADERS);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let mutations = names.into_iter().map(|name| Mutation {
        action: Some(MutationAction::Remove(name.to_owned())),
    });
    let config = HeaderMutation {
        mutations: mutations.collect(),
    };
    Some(extension("envoy.http.early_header_mutation.header_mutation", &config))
}

fn common_options(http: &Http) -> HttpProtocolOptions {
    let action = match http.underscores {
        Underscores::Reject => HeadersWithUnderscoresAction::RejectRequest,
        Underscores::Drop => HeadersWithUnderscoresAction::DropHeader,
        Underscores::Allow => HeadersWithUnderscoresAction::Allow,
    };
    HttpProtocolOptions {
        idle_timeout: Some(limit(http.timeouts.idle)),
        max_connection_duration: http.timeouts.max_age.map(duration),
        max_connection_duration_jitter: http.timeouts.max_age.map(|_| Percent {
            value: MAX_AGE_JITTER_PERCENT,
        }),
        max_headers_count: Some(uint32(http.max_headers)),
        headers_with_underscores_action: action as i32,
        max_requests_per_connection: http.max_requests.map(uint32),
        ..HttpProtocolOptions::default()
    }
}

fn http2_options(http2: &Http2) -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_connect: true,
        max_concurrent_streams: Some(uint32(http2.max_streams)),
        initial_stream_window_size: Some(uint32(http2.stream_window)),
        initial_connection_window_size: Some(uint32(http2.connection_window)),
        connection_keepalive: http2.ping.map(|ping| KeepaliveSettings {
            interval: Some(duration(ping.interval)),
            timeout: Some(duration(ping.timeout)),
            ..KeepaliveSettings::default()
        }),
        ..Http2ProtocolOptions::default()
    }
}

/// The limits of HTTP/2, as far as HTTP/3 has them.
fn http3_options(http2: &Http2) -> Http3ProtocolOptions {
    Http3ProtocolOptions {
        quic_protocol_options: Some(QuicProtocolOptions {
            max_concurrent_streams: Some(uint32(http2.max_streams)),
            ..QuicProtocolOptions::default()
        }),
        allow_extended_connect: true,
        ..Http3ProtocolOptions::default()
    }
}

fn with_timeouts(manager: HttpConnectionManager, timeouts: &Timeouts) -> HttpConnectionManager {
    HttpConnectionManager {
        request_headers_timeout: Some(limit(timeouts.request_headers)),
        request_timeout: timeouts.request.map(duration),
        stream_idle_timeout: Some(limit(timeouts.stream_idle)),
        ..manager
    }
}

/// Zero switches a limit off.
fn limit(time: Option<Duration>) -> protobuf::Duration {
    duration(time.unwrap_or(Duration::ZERO))
}

fn websocket() -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..UpgradeConfig::default()
    }
}

/// The encoded `LocalReplyConfig` that gives Envoy's own answers a body of JSON.
fn problems() -> Vec<u8> {
    let filter = AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".to_owned(),
            config_type: Some(extension_filter::ConfigType::TypedConfig(any(&ExpressionFilter {
                expression: IS_ENVOYS.to_owned(),
                ..ExpressionFilter::default()
            }))),
        })),
    };
    let head = SubstitutionFormatString {
        content_type: "application/problem+json".to_owned(),
        ..SubstitutionFormatString::default()
    };
    let fields = PROBLEM_FIELDS.map(|(name, command)| (name.to_owned(), command.to_owned()));
    let mut mapper = ResponseMapper {
        filter: Some(filter),
        ..ResponseMapper::default()
    }
    .encode_to_vec();
    append(&mut mapper, 4, &log::json_format(&head, &fields.into()));
    let mut config = Vec::new();
    append(&mut config, 1, &mapper);
    config
}
