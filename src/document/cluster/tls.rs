//! `tls`: from its fields to a [`Tls`].

use std::net::IpAddr;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{NOT_EMPTY, TEXT, words};
use super::super::host::{Host, parse_host};
use super::super::name;
use super::{ServerName, Tls, TlsVersion};

/// The fields of `tls`.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "sni",
        Shape::Text("host name or IP address", NOT_EMPTY),
        "The name that Envoy asks for (SNI); an IP address is verified and not sent. Required if the endpoints are IP \
         addresses",
    )
    .or("the name of `dns`, or the host of each listed endpoint"),
    Field::new(
        "verify",
        Shape::Flag,
        "`false`: every certificate is accepted; the cluster has a warning",
    )
    .or("`true`"),
    Field::new(
        "ca",
        name::NAME,
        "A [secret](secrets.md) of the shape `ca`: certificates of upstreams must be signed by one of its authorities",
    )
    .or("the CA bundle of the server (`--ca-bundle`)"),
    Field::new(
        "names",
        Shape::List {
            of: &TEXT,
            least: 0,
            most: MAX_NAMES,
            once: true,
        },
        "Host names, IP addresses and URIs. The certificate must have one of them as a subject alternative name",
    )
    .or("the name of `sni`"),
    Field::new(
        "client_certificate",
        name::NAME,
        "A [secret](secrets.md) of the shape `certificate`, which Envoy shows to the upstream",
    ),
    Field::new(
        "min_version",
        Shape::Words(&words(&VERSIONS)),
        "Lowest version of TLS; the highest is 1.3",
    )
    .or("`\"1.2\"`"),
]);
const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
/// Most names of a certificate, of which one must match.
const MAX_NAMES: usize = 100;
/// Longest URI.
const MAX_URI: usize = 2048;

/// Reads `tls`.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Tls, Rejection> {
    let object = cursor.object(&FIELDS)?;
    Ok(Tls {
        sni: object.read("sni", |field| read_sni(&field))?,
        verify: object.read("verify", |field| field.bool())?.unwrap_or(true),
        ca: object.read("ca", |field| name::read(&field))?,
        client_certificate: object.read("client_certificate", |field| name::read(&field))?,
        names: object.read("names", |field| read_names(&field))?.unwrap_or_default(),
        min_version: object
            .read("min_version", |field| field.word(&VERSIONS))?
            .unwrap_or(TlsVersion::V1_2),
    })
}

fn read_sni(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match read_host(cursor)? {
        ServerName::Dns(name) => Ok(name),
        ServerName::Ip(ip) => Ok(ip.to_string()),
        ServerName::Uri(_) => Err(cursor.expected("a host name or an IP address")),
    }
}

fn read_names(cursor: &Cursor<'_>) -> Result<Vec<ServerName>, Rejection> {
    let entries = cursor.list()?;
    if entries.len() > MAX_NAMES {
        return Err(cursor.reject(format!("found {} names, expected at most {MAX_NAMES}", entries.len())));
    }
    let mut names = Vec::new();
    for entry in entries {
        let name = read_name(&entry)?;
        if names.contains(&name) {
            return Err(entry.expected("each name once"));
        }
        names.push(name);
    }
    Ok(names)
}

fn read_name(cursor: &Cursor<'_>) -> Result<ServerName, Rejection> {
    let text = cursor.text()?;
    if !text.contains("://") {
        return read_host(cursor);
    }
    if text.len() > MAX_URI || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(cursor.expected("a URI of at most 2048 bytes, printable ASCII without spaces"));
    }
    Ok(ServerName::Uri(text.to_owned()))
}

/// An IPv6 address may have brackets, as in a URL.
fn read_host(cursor: &Cursor<'_>) -> Result<ServerName, Rejection> {
    let text = cursor.text()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ServerName::Ip(ip));
    }
    match parse_host(text) {
        Ok(Host::Name(name)) => Ok(ServerName::Dns(name)),
        Ok(Host::Ip(ip)) => Ok(ServerName::Ip(ip)),
        Err(what) => Err(cursor.expected(what)),
    }
}
