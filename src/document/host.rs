//! Hosts and addresses in several kinds of documents: names, IP literals, `host:port`.
//!
//! The values that leave are normalised: names in lower case, IPv6 addresses without brackets. A port is always
//! written.

use std::net::{IpAddr, Ipv6Addr};

/// The host of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An IP literal.
    Ip(IpAddr),
    /// A lower-cased name.
    Name(String),
}

/// Whether a text is a host name: labels of `a-z 0-9 - _` in lower case, at most 253 characters, no dot at the end.
pub(super) fn is_host_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
    text.len() <= 253 && text.split('.').all(label)
}

/// A host in lower case: an IP literal (IPv6 in brackets) or a name. The error says what is expected.
pub(super) fn parse_host(text: &str) -> Result<Host, &'static str> {
    if !text.is_ascii() {
        return Err("a host in ASCII (an international name in punycode, xn--…)");
    }
    if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return literal
            .parse::<Ipv6Addr>()
            .map(|ip| Host::Ip(ip.into()))
            .map_err(|_| "an IPv6 address in brackets");
    }

    if let Ok(ip) = text.parse::<IpAddr>() {
        return if ip.is_ipv6() {
            Err("an IPv6 address in brackets")
        } else {
            Ok(Host::Ip(ip))
        };
    }

    let name = text.to_ascii_lowercase();
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if name.rsplit('.').next().is_some_and(numeric) {
        return Err("an IP address or a host name (whose last label is no number)");
    }
    if is_host_name(&name) {
        Ok(Host::Name(name))
    } else {
        Err("an IP address or a host name")
    }
}

/// A host in the form of a Host header: a name, or an IP literal, an IPv6 address in its shortest form and in brackets.
pub(super) fn in_host_header(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Ip(IpAddr::V4(ip)) => ip.to_string(),
        Host::Ip(IpAddr::V6(ip)) => url::Host::<&str>::Ipv6(*ip).to_string(),
    }
}

/// `host:port`. The error says what is expected.
pub(super) fn parse_address(text: &str) -> Result<(Host, u16), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("host:port, with a port")?;
    if host.contains(':') && !host.starts_with('[') {
        return Err("host:port, an IPv6 address in brackets");
    }
    let port = parse_port(port).ok_or("host:port, with a port from 1 to 65535")?;
    Ok((parse_host(host)?, port))
}

/// A port from 1 to 65535, in digits alone.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}
