//! The protocols and transport sockets of clusters (docs/refused-by-envoy.md NC-31 to NC-36).

#![allow(deprecated, reason = "operators may write the older fields")]

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::http2_protocol_options::SettingsParameter;
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, TlvEntry, TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    UpstreamProtocolOptions, explicit_http_config,
};
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Message;
use prost_reflect::DynamicMessage;

use super::extensions::type_of;
use crate::document::Rejection;
use crate::proto::json::pool;
use crate::resource::place::Place;

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
/// Envoy decides by this name, not by the socket's type.
const QUIC: &str = "envoy.transport_sockets.quic";
/// A transport socket that wraps one of QUIC.
const HTTP_11_PROXY: &str = "envoy.transport_sockets.http_11_proxy";
/// The deepest nesting of transport sockets that is checked.
const MAX_SOCKETS: usize = 8;
/// Settings of HTTP/2 by their number in RFC 9113 and RFC 8441.
const HEADER_TABLE_SIZE: u32 = 1;
const ENABLE_PUSH: u32 = 2;
const MAX_CONCURRENT_STREAMS: u32 = 3;
const INITIAL_WINDOW_SIZE: u32 = 4;
const ENABLE_CONNECT: u32 = 8;

/// NC-54: an entry of the PROXY protocol has a value.
pub(super) fn tlv(entry: &TlvEntry, at: &Place) -> Result<(), Rejection> {
    match entry.value.is_empty() {
        true => Err(at
            .field("value")
            .reject("missing or empty, expected at least 1 byte".to_owned())),
        false => Ok(()),
    }
}

/// NC-31 to NC-33 and NC-36.
pub(super) fn of_cluster(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    let common = cluster.common_http_protocol_options.as_ref();
    one_limit(
        cluster,
        common.is_some_and(|common| common.max_requests_per_connection.is_some()),
        at,
    )?;

    let Some((key, options)) = http_options(cluster) else {
        return Ok(());
    };
    let common = options.common_http_protocol_options.as_ref();
    one_limit(
        cluster,
        common.is_some_and(|common| common.max_requests_per_connection.is_some()),
        at,
    )?;

    let at_options = at.field("typed_extension_protocol_options").field(key);
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::AutoConfig(auto)) => {
            if auto.http3_protocol_options.is_some() && auto.alternate_protocols_cache_options.is_none() {
                let at = at_options
                    .field("auto_config")
                    .field("alternate_protocols_cache_options");
                return Err(at.reject("missing, expected the cache that HTTP/3 needs here".to_owned()));
            }
            alpn(cluster, at)?;
        }
        Some(
            UpstreamProtocolOptions::ExplicitHttpConfig(_) | UpstreamProtocolOptions::UseDownstreamProtocolConfig(_),
        )
        | None => {}
    }

    if speaks_http3(&options) {
        quic(cluster, at)?;
    }
    filters(&options, &at_options.field("http_filters"))
}

/// `HttpProtocolOptions` of a cluster, with their key.
fn http_options(cluster: &Cluster) -> Option<(&String, HttpProtocolOptions)> {
    let mut written = cluster.typed_extension_protocol_options.iter();
    let (key, config) = written.find(|(_, config)| type_of(config) == OPTIONS)?;
    Some((key, HttpProtocolOptions::decode(config.value.as_slice()).ok()?))
}

/// NC-41: whether a cluster may speak HTTP/2 to its endpoints.
pub(super) fn may_speak_http2(cluster: &Cluster) -> bool {
    let Some((_, options)) = http_options(cluster) else {
        return cluster.http2_protocol_options.is_some();
    };
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::AutoConfig(_)) => true,
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(all)) => all.http2_protocol_options.is_some(),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(one)) => matches!(
            one.protocol_config,
            Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(_))
        ),
        None => false,
    }
}

fn speaks_http3(options: &HttpProtocolOptions) -> bool {
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::AutoConfig(auto)) => auto.http3_protocol_options.is_some(),
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(all)) => all.http3_protocol_options.is_some(),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(one)) => {
            matches!(
                one.protocol_config,
                Some(explicit_http_config::ProtocolConfig::Http3ProtocolOptions(_))
            )
        }
        None => false,
    }
}

/// NC-36.
fn one_limit(cluster: &Cluster, in_options: bool, at: &Place) -> Result<(), Rejection> {
    if cluster.max_requests_per_connection.is_some() && in_options {
        let reason = "found together with that of common_http_protocol_options, expected one of the two";
        return Err(at.field("max_requests_per_connection").reject(reason.to_owned()));
    }
    Ok(())
}

/// NC-31: every socket of the cluster can agree on a protocol.
fn alpn(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    let matched = cluster.transport_socket_matches.iter().enumerate();
    let matched = matched.map(|(index, matched)| {
        let at = at
            .field("transport_socket_matches")
            .index(index)
            .field("transport_socket");
        (matched.transport_socket.as_ref(), at)
    });
    let own = (cluster.transport_socket.as_ref(), at.field("transport_socket"));
    for (socket, at) in std::iter::once(own).chain(matched) {
        if innermost(socket).is_none_or(|socket| has_type(&socket, RAW)) {
            let reason = "found no TLS beside auto_config, expected a socket that agrees on a protocol by ALPN";
            return Err(at.reject(reason.to_owned()));
        }
    }
    Ok(())
}

/// NC-32.
fn quic(cluster: &Cluster, at: &Place) -> Result<(), Rejection> {
    let socket = cluster.transport_socket.as_ref();
    if socket.is_some_and(|socket| [QUIC, HTTP_11_PROXY].contains(&socket.name.as_str())) {
        return Ok(());
    }
    let reason = format!("found no QUIC under HTTP/3, expected a socket with the name {QUIC:?}");
    Err(at.field("transport_socket").reject(reason))
}

fn has_type(socket: &TransportSocket, name: &str) -> bool {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(config)) => type_of(config) == name,
        None => false,
    }
}

/// The socket inside the wrapping sockets.
fn innermost(socket: Option<&TransportSocket>) -> Option<TransportSocket> {
    let mut socket = socket?.clone();
    for _ in 0..MAX_SOCKETS {
        match inner(&socket) {
            Some(within) => socket = within,
            None => break,
        }
    }
    Some(socket)
}

fn inner(socket: &TransportSocket) -> Option<TransportSocket> {
    let Some(transport_socket::ConfigType::TypedConfig(config)) = &socket.config_type else {
        return None;
    };
    let descriptor = pool().get_message_by_name(&type_of(config))?;
    let message = DynamicMessage::decode(descriptor, config.value.as_slice()).ok()?;
    let inner = message.get_field_by_name("transport_socket")?;
    inner
        .as_message()
        .filter(|_| message.has_field_by_name("transport_socket"))?
        .transcode_to()
        .ok()
}

/// NC-33.
fn filters(options: &HttpProtocolOptions, at: &Place) -> Result<(), Rejection> {
    let Some(last) = options.http_filters.last() else {
        return Ok(());
    };
    match &last.config_type {
        Some(ConfigType::TypedConfig(config)) if type_of(config) == CODEC => Ok(()),
        _ => {
            let reason = format!("found another filter last, expected {CODEC:?}");
            Err(at.index(options.http_filters.len() - 1).reject(reason))
        }
    }
}

/// NC-35, of listeners too.
pub(super) fn http2(options: &Http2ProtocolOptions, at: &Place) -> Result<(), Rejection> {
    let named = [
        (
            HEADER_TABLE_SIZE,
            "hpack_table_size",
            options.hpack_table_size.is_some(),
        ),
        (
            MAX_CONCURRENT_STREAMS,
            "max_concurrent_streams",
            options.max_concurrent_streams.is_some(),
        ),
        (
            INITIAL_WINDOW_SIZE,
            "initial_stream_window_size",
            options.initial_stream_window_size.is_some(),
        ),
    ];

    let of = |parameter: &SettingsParameter| {
        let number = |value: &Option<UInt32Value>| value.as_ref().map_or(0, |value| value.value);
        (number(&parameter.identifier), number(&parameter.value))
    };
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    for (index, parameter) in options.custom_settings_parameters.iter().enumerate() {
        let at = at.field("custom_settings_parameters").index(index);
        let (identifier, value) = of(parameter);
        if let Some((_, name, _)) = named
            .iter()
            .find(|(number, _, is_there)| *number == identifier && *is_there)
        {
            return Err(at.reject(format!("found a duplicate of {name}, expected only one of the two")));
        }
        match identifier {
            ENABLE_CONNECT => {
                return Err(at.reject("found setting 8, expected the field allow_connect instead".to_owned()));
            }
            ENABLE_PUSH if value != 0 => {
                return Err(at
                    .field("value")
                    .reject(format!("found {value} for server push, expected 0")));
            }
            _ => {}
        }
        if seen.insert(identifier, value).is_some_and(|earlier| earlier != value) {
            return Err(at.reject(format!(
                "found another value of setting {identifier} than before, expected one"
            )));
        }
    }

    Ok(())
}
