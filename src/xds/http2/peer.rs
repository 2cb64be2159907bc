//! The other end of a connection, and whether it may get secrets.
//!
//! Secrets go to a client with a verified certificate, over a Unix socket, and to this machine itself: nobody can read
//! or pretend there. To other clients no secret exists, unless the operator allows secrets over plaintext.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The transport of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) enum Link {
    /// A Unix socket: the file's permissions say who may connect.
    Unix,
    /// TCP without TLS.
    Plaintext,
    /// TLS without a client certificate.
    Tls,
    /// TLS with a client certificate of the client CA.
    MutualTls,
}

/// The part of an address that belongs to one client: an IPv4 address, the first 64 bits of an IPv6 one.
pub(in crate::xds) fn network(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) struct Peer {
    /// `None` over a Unix socket.
    pub(in crate::xds) address: Option<SocketAddr>,
    /// The reason to withhold secrets; `None`: the client gets them.
    pub(in crate::xds) withheld: Option<&'static str>,
}

/// The field `peer` of log lines: the address of a client, or `unix`. Log lines with this field are limited by it.
pub(in crate::xds) fn shown(address: Option<SocketAddr>) -> impl fmt::Display {
    fmt::from_fn(move |formatter| match address {
        Some(address) => write!(formatter, "{address}"),
        None => formatter.write_str("unix"),
    })
}

impl Peer {
    pub(in crate::xds) fn new(address: Option<SocketAddr>, link: Link, plaintext_secrets: bool) -> Self {
        // An IPv4 client of a dual-stack socket is ::ffff:127.0.0.1.
        let is_loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        let withheld = match link {
            Link::Unix | Link::MutualTls => None,
            Link::Plaintext | Link::Tls if is_loopback || plaintext_secrets => None,
            Link::Plaintext => Some("its connection is plaintext"),
            Link::Tls => Some("its connection has no verified client certificate"),
        };
        Self { address, withheld }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gets_secrets(address: &str, link: Link, plaintext_secrets: bool) -> bool {
        Peer::new(Some(address.parse().unwrap()), link, plaintext_secrets)
            .withheld
            .is_none()
    }

    #[test]
    fn an_ipv6_client_has_64_bits_for_itself() {
        let network = |address: &str| network(address.parse().unwrap()).to_string();
        assert_eq!(network("[2001:db8:1:2:3:4:5:6]:9"), "2001:db8:1:2::");
        assert_eq!(network("[::ffff:10.0.0.1]:9"), "10.0.0.1");
        assert_eq!(network("10.0.0.1:8"), "10.0.0.1");
    }

    #[test]
    fn secrets_go_where_nobody_can_listen_or_pretend() {
        for address in ["127.0.0.1:9", "127.8.8.8:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(gets_secrets(address, Link::Plaintext, false), "{address}");
            assert!(gets_secrets(address, Link::Tls, false), "{address}");
        }
        for address in [
            "192.0.2.2:9",
            "10.0.0.1:9",
            "[2001:db8::1]:9",
            "[::ffff:10.0.0.1]:9",
            "0.0.0.0:9",
        ] {
            assert!(!gets_secrets(address, Link::Plaintext, false), "{address}");
            assert!(!gets_secrets(address, Link::Tls, false), "{address}");
            assert!(gets_secrets(address, Link::MutualTls, false), "{address}");
            assert!(gets_secrets(address, Link::Plaintext, true), "{address}");
        }
        assert_eq!(Peer::new(None, Link::Unix, false).withheld, None);
    }
}
