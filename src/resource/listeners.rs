//! Listeners: from listeners documents to Listeners, and the default listener.
//!
//! A Listener is one or more TCP addresses. A listener for HTTP has one filter chain with one HTTP connection manager
//! ([`http`]). Its RouteConfiguration has the listener's name and comes by RDS, so no route changes a Listener. A
//! listener for TCP has one filter chain for each entry of its document ([`tcp`]).
//!
//! The HTTP filters are the slots of policies ([`super::policies`]) and the router; no policy changes a Listener. If
//! virtual hosts are on demand, a filter before the router subscribes to the one that a request needs (VHDS).
//!
//! An API listener has no address but an `api_listener`. Its connection manager names the RouteConfiguration and the
//! router and has no other field: gRPC refuses trusted hops and filters that it does not know (docs/xds-rules.md PX-05,
//! PX-06). Envoy takes API listeners from its bootstrap alone, so they are sent by name only.
//!
//! A Listener refers to clusters if it sends logs and traces to them, or connections. [`upstreams`] names these.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::socket_address::Protocol;
use envoy_types::pb::envoy::config::core::v3::{Address, TcpKeepalive, address};
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, ApiListener, Filter, FilterChain, Listener as WireListener, ListenerFilter, QuicProtocolOptions,
    UdpListenerConfig, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol as WireProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;
use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

use crate::document::Rejection;
use crate::document::key::DocumentKey;
use crate::document::listener::{
    DEFAULT_ADDRESS, DEFAULT_NAME, Forward, Http, HttpsRedirect, Listener, ProxyProtocol, Settings, VirtualHosts,
};
use crate::document::route::Upstream;
use crate::proto::message::{any, boolean, uint32};

use super::compile::context::Context;
use super::compile::parts;
use super::endpoints::socket_address;
use super::policies::Extension;
use super::verbatim::claims;
use super::{Reference, Resource, ResourceType, Source, secrets};

mod http;
mod log;
mod tcp;
pub(super) mod tls;

/// Bytes that Envoy buffers for each direction of a connection if no document says it.
const BUFFER: u32 = 32 * 1024;

/// The Listener of a listeners document, with the same name.
///
/// # Errors
/// A format of an access log with a command that Envoy does not have; a log file outside the folder of access logs.
pub fn from_document(key: &DocumentKey, listener: &Listener, context: &Context) -> Result<Resource, Rejection> {
    let settings = listener.settings.or(&context.defaults.listener);
    if listener.address.is_none() {
        let routes = vec![route_reference(&key.name)];
        let resource = resource(&key.name, &api_listener(&key.name), vec![key.clone()], routes);
        return Ok(Resource {
            on_demand: true,
            ..resource
        });
    }

    let is_http = listener.tcp.is_none();
    let mut chains = match &listener.tcp {
        Some(entries) => tcp::chains(&key.name, entries, &settings),
        None => {
            let http = settings.http.clone().unwrap_or_default();
            check(&http, context)?;
            check_quic(listener, &http, &settings)?;
            let forward = listener.tls.as_ref().map_or(Forward::None, |tls| tls.forward);
            vec![http_chain(
                &key.name,
                &settings,
                http::filter(&key.name, &http, CodecType::Auto, forward),
            )]
        }
    };
    if let Some(tls) = &listener.tls {
        for chain in &mut chains {
            chain.transport_socket = Some(tls::socket(tls, is_http));
        }
    }

    let addresses = addresses_of(listener);
    let has_names = listener.tls.is_some() || chains.iter().any(|chain| chain.filter_chain_match.is_some());
    let message = message(&key.name, &addresses, chains, has_names, &settings);
    let named = upstreams(listener, context)
        .iter()
        .map(Upstream::cluster_name)
        .collect();
    Ok(with_clusters(
        Resource {
            claims: Some(claims_of(&addresses)),
            ..resource(&key.name, &message, vec![key.clone()], references(listener, &key.name))
        },
        key,
        named,
    ))
}

/// HTTP/3 beside a PROXY protocol, one of them of `defaults`. The document checks its own fields.
fn check_quic(listener: &Listener, http: &Http, settings: &Settings) -> Result<(), Rejection> {
    let over_quic = listener.tls.is_some() && http.http3.is_some();
    match &settings.proxy_protocol {
        Some(proxy_protocol) if over_quic && proxy_protocol.is_on() => {
            let reason = "found HTTP/3 beside \"proxy_protocol\", one of them of defaults, expected one of the two: the PROXY \
                          protocol is for TCP";
            Err(Rejection::new("http.http3", reason))
        }
        _ => Ok(()),
    }
}

/// The Listener `NAME/quic` of a listener with HTTP/3: the same ports of UDP, the same routes.
#[must_use]
pub fn quic(key: &DocumentKey, listener: &Listener, context: &Context) -> Option<Resource> {
    let settings = listener.settings.or(&context.defaults.listener);
    let (tls, http) = (listener.tls.as_ref()?, settings.http.as_ref()?);
    http.http3?;
    let name = format!("{}/quic", key.name);
    let filter = http::filter(&key.name, http, CodecType::Http3, tls.forward);
    let chain = FilterChain {
        transport_socket: Some(tls::quic_socket(tls)),
        ..http_chain(&key.name, &settings, filter)
    };
    let of_udp = |address: Option<Address>| {
        let mut address = address?;
        if let Some(address::Address::SocketAddress(socket)) = &mut address.address {
            socket.protocol = Protocol::Udp as i32;
        }
        Some(address)
    };
    let over_tcp = message(&name, &addresses_of(listener), vec![chain], false, &settings);
    let message = WireListener {
        address: of_udp(over_tcp.address),
        additional_addresses: over_tcp
            .additional_addresses
            .into_iter()
            .map(|more| AdditionalAddress {
                address: of_udp(more.address),
                ..more
            })
            .collect(),
        udp_listener_config: Some(UdpListenerConfig {
            quic_options: Some(QuicProtocolOptions::default()),
            ..UdpListenerConfig::default()
        }),
        tcp_backlog_size: None,
        tcp_keepalive: None,
        ..over_tcp
    };
    let named = upstreams(listener, context)
        .iter()
        .map(Upstream::cluster_name)
        .collect();
    let resource = resource(&name, &message, vec![key.clone()], references(listener, &key.name));
    Some(with_clusters(resource, key, named))
}

/// The default listener, which exists while no document describes one: `default`, on 0.0.0.0:10000.
#[must_use]
pub fn default_listener(context: &Context) -> Resource {
    let settings = &context.defaults.listener;
    let http = settings.http.clone().unwrap_or_default();
    let filter = http::filter(DEFAULT_NAME, &http, CodecType::Auto, Forward::None);
    let chains = vec![http_chain(DEFAULT_NAME, settings, filter)];
    let message = message(DEFAULT_NAME, &[DEFAULT_ADDRESS], chains, false, settings);
    let mut references = vec![route_reference(DEFAULT_NAME)];
    references.extend(Extension::ALL.map(Extension::reference));
    references.sort_unstable();
    Resource {
        claims: Some(claims_of(&[DEFAULT_ADDRESS])),
        ..resource(DEFAULT_NAME, &message, Vec::new(), references)
    }
}

/// Rules for `defaults.listener` that need more than the document.
///
/// # Errors
/// As [`from_document`].
pub fn check_defaults(settings: &Settings, context: &Context) -> Result<(), Rejection> {
    let http = settings.http.as_ref();
    http.map_or(Ok(()), |http| check(http, context))
        .map_err(|rejection| Rejection::new(format!("listener.{}", rejection.path), rejection.reason))
}

fn check(http: &Http, context: &Context) -> Result<(), Rejection> {
    log::check(&http.access_log, context)
}

/// The clusters that a listener sends to: of logs and traces, or of its connections.
#[must_use]
pub fn upstreams(listener: &Listener, context: &Context) -> Vec<Upstream> {
    match (&listener.tcp, listener.address) {
        (_, None) => Vec::new(),
        (Some(entries), _) => entries
            .iter()
            .flat_map(|entry| entry.to.iter().map(|target| target.upstream.clone()))
            .collect(),
        (None, _) => {
            let settings = listener.settings.or(&context.defaults.listener);
            settings.upstreams().cloned().collect()
        }
    }
}

/// The RouteConfiguration of a listener, beside its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// The delivery of the virtual hosts.
    pub virtual_hosts: VirtualHosts,
    /// The answer if no route matches; then only routes that name the listener are on it.
    pub redirect: Option<HttpsRedirect>,
    /// The UDP port of HTTP/3, for `alt-svc`.
    pub http3_port: Option<u16>,
}

/// The routing of a listener; `None`: it serves no HTTP. gRPC clients, which use API listeners, know only virtual hosts
/// inside the RouteConfiguration.
#[must_use]
pub fn routing(listener: &Listener, context: &Context) -> Option<Routing> {
    match (&listener.tcp, listener.address) {
        (Some(_), _) => None,
        (None, None) => Some(Routing {
            virtual_hosts: VirtualHosts::All,
            redirect: None,
            http3_port: None,
        }),
        (None, Some(address)) => {
            let routing = routing_of(&listener.settings.or(&context.defaults.listener));
            let http3 = listener.settings.http.as_ref().and_then(|http| http.http3);
            Some(Routing {
                http3_port: http3.map(|http3| http3.advertise_port.unwrap_or_else(|| address.port())),
                ..routing
            })
        }
    }
}

/// The routing of the default listener.
#[must_use]
pub fn default_routing(context: &Context) -> Routing {
    routing_of(&context.defaults.listener)
}

fn routing_of(settings: &Settings) -> Routing {
    let http = settings.http.clone().unwrap_or_default();
    Routing {
        virtual_hosts: http.virtual_hosts,
        redirect: http.redirect_to_https,
        http3_port: None,
    }
}

fn claims_of(addresses: &[SocketAddr]) -> Arc<[Arc<str>]> {
    addresses.iter().map(|address| claims::tcp(*address).into()).collect()
}

fn addresses_of(listener: &Listener) -> Vec<SocketAddr> {
    listener.bound().map(|(_, address)| address).collect()
}

/// The RouteConfiguration and the Secrets that a Listener refers to, sorted.
fn references(listener: &Listener, routes: &str) -> Vec<Reference> {
    let mut references: Vec<Reference> = Vec::new();
    if let Some(tls) = &listener.tls {
        let names = tls.certificates.iter();
        let names = names.chain(tls.client.as_ref().map(|client| &client.ca));
        references.extend(names.chain(&tls.session_tickets).map(secrets::reference));
    }
    if listener.tcp.is_none() {
        references.push(route_reference(routes));
        references.extend(Extension::ALL.map(Extension::reference));
    }
    references.sort_unstable();
    references.dedup();
    references
}

fn route_reference(name: &str) -> Reference {
    Reference {
        resource_type: ResourceType::Route,
        name: name.into(),
        source: Source::Common,
    }
}

fn resource(name: &str, message: &WireListener, documents: Vec<DocumentKey>, references: Vec<Reference>) -> Resource {
    Resource {
        refers: (!references.is_empty()).then(|| references.into()),
        ..Resource::new(name, message.encode_to_vec(), documents)
    }
}

/// The resource with the clusters that it names: a client gets these first.
fn with_clusters(resource: Resource, key: &DocumentKey, mut named: Vec<Arc<str>>) -> Resource {
    if named.is_empty() {
        return resource;
    }
    named.sort_unstable();
    named.dedup();
    let parts = parts::verbatim(key, resource.version, named.into());
    Resource {
        parts: Some(Arc::new(parts)),
        ..resource
    }
}

fn message(
    name: &str,
    addresses: &[SocketAddr],
    filter_chains: Vec<FilterChain>,
    has_names: bool,
    settings: &Settings,
) -> WireListener {
    let bind = settings.bind.unwrap_or_default();
    let mut addresses = addresses
        .iter()
        .map(|address| socket_address(address.ip().to_string(), address.port()));
    let proxy_protocol = settings.proxy_protocol.as_ref().and_then(proxy_protocol);
    let tls_inspector =
        has_names.then(|| listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default()));
    WireListener {
        name: name.to_owned(),
        address: addresses.next(),
        additional_addresses: addresses
            .map(|address| AdditionalAddress {
                address: Some(address),
                ..AdditionalAddress::default()
            })
            .collect(),
        filter_chains,
        listener_filters: proxy_protocol.into_iter().chain(tls_inspector).collect(),
        per_connection_buffer_limit_bytes: Some(uint32(settings.buffer.unwrap_or(BUFFER))),
        tcp_backlog_size: bind.backlog.map(uint32),
        freebind: bind.freebind.then(|| boolean(true)),
        tcp_keepalive: bind.tcp_keepalive.map(|time| TcpKeepalive {
            keepalive_time: u32::try_from(time.as_secs()).ok().map(uint32),
            ..TcpKeepalive::default()
        }),
        ..WireListener::default()
    }
}

/// A filter chain with this connection manager.
fn http_chain(name: &str, settings: &Settings, manager: Filter) -> FilterChain {
    FilterChain {
        filters: connection_limit(name, settings).into_iter().chain([manager]).collect(),
        ..FilterChain::default()
    }
}

/// The filter that closes connections beyond `connections.max`.
fn connection_limit(name: &str, settings: &Settings) -> Option<Filter> {
    let max = settings.connections.and_then(|connections| connections.max)?;
    let limit = ConnectionLimit {
        stat_prefix: name.to_owned(),
        max_connections: Some(protobuf::UInt64Value { value: u64::from(max) }),
        ..ConnectionLimit::default()
    };
    Some(network_filter("envoy.filters.network.connection_limit", any(&limit)))
}

/// A Listener whose connections pass another network filter first.
#[must_use]
pub fn behind(listener: &Resource, name: &str, config: protobuf::Any) -> Resource {
    let Ok(mut message) = WireListener::decode(&*listener.body.to_bytes()) else {
        // Encoded by this server.
        return listener.clone();
    };
    for chain in &mut message.filter_chains {
        chain.filters.insert(0, network_filter(name, config.clone()));
    }
    let made = Resource::new(Arc::clone(&listener.name), message.encode_to_vec(), Vec::new());
    Resource {
        version: made.version,
        body: made.body,
        ..listener.clone()
    }
}

fn network_filter(name: &str, config: protobuf::Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

fn listener_filter(name: &str, config: &impl Name) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(config))),
        ..ListenerFilter::default()
    }
}

/// The filter that reads a client's address at the start of a connection; `None`: nothing is read.
fn proxy_protocol(settings: &ProxyProtocol) -> Option<ListenerFilter> {
    if settings.versions.is_empty() {
        return None;
    }
    let versions = [(1, Version::V1), (2, Version::V2)];
    let config = WireProxyProtocol {
        allow_requests_without_proxy_protocol: settings.optional,
        disallowed_versions: versions
            .into_iter()
            .filter(|(version, _)| !settings.versions.contains(version))
            .map(|(_, version)| version as i32)
            .collect(),
        ..WireProxyProtocol::default()
    };
    Some(listener_filter("envoy.filters.listener.proxy_protocol", &config))
}

fn api_listener(name: &str) -> WireListener {
    WireListener {
        name: name.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(any(&http::routed(name))),
        }),
        ..WireListener::default()
    }
}

#[cfg(test)]
mod tests;
