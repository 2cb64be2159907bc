//! Addresses that Envoy does not resolve: IP literals, pipes, internal listeners.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, CidrRange, SocketAddress, address};

use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// The longest path of a Unix domain socket.
const MAX_PIPE: usize = 108;
/// The resolver that accepts addresses which need no resolution.
const IP_RESOLVER: &str = "envoy.ip";
/// The resolver of addresses of reverse connections.
const REVERSE_RESOLVER: &str = "envoy.resolvers.reverse_connection";

/// NP-03 to NP-06, NC-09, NC-11, NC-12, NL-02.
pub(super) fn unresolved(address: Option<&Address>, at: &Place) -> Result<(), Rejection> {
    match address.and_then(|address| address.address.as_ref()) {
        None => Err(at.reject("missing, expected a socket_address, a pipe or an envoy_internal_address".to_owned())),
        Some(address::Address::SocketAddress(socket)) => ip(socket, &at.field("socket_address")),
        Some(address::Address::Pipe(pipe)) if pipe.path.len() > MAX_PIPE => {
            let reason = format!("found {} bytes, expected at most {MAX_PIPE}", pipe.path.len());
            Err(at.field("pipe").field("path").reject(reason))
        }
        Some(_) => Ok(()),
    }
}

/// An IP literal and the number of a port.
pub(super) fn ip(socket: &SocketAddress, at: &Place) -> Result<(), Rejection> {
    if socket.resolver_name == REVERSE_RESOLVER && socket.address.starts_with("rc://") {
        return Ok(());
    }
    if !socket.resolver_name.is_empty() && socket.resolver_name != IP_RESOLVER {
        let reason = format!("found {}, expected {IP_RESOLVER:?}", quote(&socket.resolver_name));
        return Err(at.field("resolver_name").reject(reason));
    }
    if parsed(&socket.address).is_none() {
        let reason = format!(
            "found {}, expected an IP address (IPv6 without brackets)",
            quote(&socket.address)
        );
        return Err(at.field("address").reject(reason));
    }
    if matches!(socket.port_specifier, Some(PortSpecifier::NamedPort(_))) {
        return Err(at
            .field("named_port")
            .reject("found a named port, expected port_value".to_owned()));
    }
    Ok(())
}

/// NP-13: an endpoint is reached from the network of Envoy.
pub(super) fn without_namespace(address: Option<&Address>, at: &Place) -> Result<(), Rejection> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(address::Address::SocketAddress(socket)) if !socket.network_namespace_filepath.is_empty() => Err(at
            .field("socket_address")
            .field("network_namespace_filepath")
            .reject("found a network namespace of an endpoint, expected none".to_owned())),
        _ => Ok(()),
    }
}

/// The IP address in a text; an IPv6 address may have a scope.
pub(super) fn parsed(text: &str) -> Option<IpAddr> {
    let (unscoped, scope) = text.split_once('%').unwrap_or((text, "0"));
    let is_scoped = unscoped != text;
    let ip: IpAddr = unscoped.parse().ok()?;
    (!is_scoped || (ip.is_ipv6() && !scope.is_empty())).then_some(ip)
}

/// NE-12.
pub(super) fn range(range: &CidrRange, at: &Place) -> Result<IpAddr, Rejection> {
    parsed(&range.address_prefix).ok_or_else(|| {
        let found = quote(&range.address_prefix);
        let reason = format!("found {found}, expected an IP address (the length stands in prefix_len)");
        at.field("address_prefix").reject(reason)
    })
}
