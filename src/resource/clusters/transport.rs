//! The transport socket of a Cluster: PROXY protocol around TLS or plain text.

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use prost::{Message, Name};

use crate::document::cluster::ProxyProtocol;
use crate::proto::message::any;

/// The transport socket that writes the PROXY protocol header before the bytes of `inner`; without a header, `inner`
/// itself. `None`: plain text, Envoy's default.
pub(super) fn wrapped(inner: Option<TransportSocket>, header: Option<ProxyProtocol>) -> Option<TransportSocket> {
    let Some(header) = header else { return inner };
    let version = match header {
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    let transport = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: version as i32,
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: Some(inner.unwrap_or_else(|| socket("envoy.transport_sockets.raw_buffer", &RawBuffer {}))),
        ..ProxyProtocolUpstreamTransport::default()
    };
    Some(socket("envoy.transport_sockets.upstream_proxy_protocol", &transport))
}

/// A transport socket of an extension.
pub(super) fn socket<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}
