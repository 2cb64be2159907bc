//! Claims: things of which Envoy refuses the second (docs/refused-by-envoy.md NL-04, NS-01, NR-48).

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, socket_address};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::scoped_route_configuration::key::fragment;
use envoy_types::pb::envoy::config::route::v3::{ScopedRouteConfiguration, VirtualHost};
use prost_reflect::DynamicMessage;

use crate::resource::ResourceType;

/// A thing that only one resource of a group can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The field path.
    pub path: String,
    /// The thing in words; equal for two claims in conflict.
    pub what: String,
}

/// A TCP address in the words of a claim.
#[must_use]
pub fn tcp(address: SocketAddr) -> String {
    format!("the address {address} (TCP)")
}

/// A UDP address in the words of a claim.
#[must_use]
pub fn udp(address: SocketAddr) -> String {
    format!("the address {address} (UDP)")
}

/// All claims of a resource.
pub(super) fn claims(resource_type: ResourceType, message: &DynamicMessage) -> Vec<Claim> {
    match resource_type {
        ResourceType::Listener => message
            .transcode_to()
            .map(|listener| addresses(&listener))
            .unwrap_or_default(),
        ResourceType::ScopedRoute => message.transcode_to().map(|scope| keys(&scope)).unwrap_or_default(),
        ResourceType::VirtualHost => message.transcode_to().map(|host| domains(&host)).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn addresses(listener: &Listener) -> Vec<Claim> {
    let unbound = listener.bind_to_port.as_ref().is_some_and(|bind| !bind.value);
    if unbound || listener.api_listener.is_some() {
        return Vec::new();
    }
    let additional = listener.additional_addresses.iter().enumerate();
    let additional = additional.map(|(index, more)| {
        (
            format!("resource.additional_addresses[{index}].address"),
            more.address.as_ref(),
        )
    });

    std::iter::once(("resource.address".to_owned(), listener.address.as_ref()))
        .chain(additional)
        .filter_map(|(path, address)| {
            Some(Claim {
                path,
                what: bound(address?)?,
            })
        })
        .collect()
}

/// An address in words; `None`: any number of listeners may have it.
fn bound(address: &Address) -> Option<String> {
    match address.address.as_ref()? {
        Kind::SocketAddress(socket) => {
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
                return None;
            };
            let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
            let address = SocketAddr::new(socket.address.parse().ok()?, port);
            match socket.protocol() {
                socket_address::Protocol::Tcp => Some(tcp(address)),
                socket_address::Protocol::Udp => Some(udp(address)),
            }
        }
        Kind::Pipe(pipe) => Some(format!("the path {:?}", pipe.path)),
        Kind::EnvoyInternalAddress(_) => None,
    }
}

fn keys(scope: &ScopedRouteConfiguration) -> Vec<Claim> {
    let fragments = scope.key.iter().flat_map(|key| &key.fragments);
    let texts: Vec<String> = fragments
        .filter_map(|fragment| match fragment.r#type.as_ref()? {
            fragment::Type::StringKey(text) => Some(format!("{text:?}")),
        })
        .collect();
    vec![Claim {
        path: "resource.key".to_owned(),
        what: format!("the key {}", texts.join(", ")),
    }]
}

fn domains(host: &VirtualHost) -> Vec<Claim> {
    let Some((routes, _)) = host.name.split_once('/') else {
        return Vec::new();
    };
    let claim = |(index, domain): (usize, &String)| Claim {
        path: format!("resource.domains[{index}]"),
        what: format!(
            "the domain {:?} of the RouteConfiguration {routes}",
            domain.to_ascii_lowercase()
        ),
    };
    host.domains.iter().enumerate().map(claim).collect()
}
