//! `listeners/{name}`: an address and how HTTP is spoken there, or a name that gRPC clients resolve (`"api": true`).
//!
//! In: the fields of a listener document, or of `defaults.listener`. Out: a [`Listener`] or its [`Settings`]. The
//! compiler rejects a second listener on an address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::decode::{Cursor, Fields, Object};
use super::host::{Host, parse_address};
use super::key::DocumentKey;
use super::{Groups, Rejection, groups, name};

const FIELDS: Fields = Fields {
    known: &["name", "address", "groups", "http", "api"],
    later: LATER,
};
const HTTP_FIELDS: Fields = Fields {
    known: &["trusted_hops", "access_log", "virtual_hosts"],
    later: &["http3", "tracing", "websocket", "redirect_to_https"],
};
/// The fields of a listener that are not built yet.
pub(super) const LATER: &[&str] = &["tls", "policies", "tcp"];
/// Most proxies that may be trusted in front.
const MAX_TRUSTED_HOPS: u32 = 255;

/// The default listener, which exists while no document describes one.
pub const DEFAULT_NAME: &str = "default";
/// The address of the default listener.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10_000);

/// A listener document.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Where Envoy listens, port 1..=65535. `None`: an API listener, which gRPC clients resolve as `xds:///NAME`.
    pub address: Option<SocketAddr>,
    /// Settings that `defaults.listener` may fill in.
    pub settings: Settings,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

/// The fields that `defaults.listener` gives if the document does not. Each is taken whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `http`.
    pub http: Option<Http>,
}

/// `http`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Proxies before this one whose `x-forwarded-for` is trusted; default 0.
    pub trusted_hops: u32,
    /// Default: none.
    pub access_log: Option<AccessLog>,
    /// Default: all.
    pub virtual_hosts: VirtualHosts,
}

/// `http.virtual_hosts`: the delivery of the listener's virtual hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VirtualHosts {
    /// `"all"`: in the RouteConfiguration.
    #[default]
    All,
    /// `"on_demand"`: each by itself when a request needs it (VHDS).
    OnDemand,
}

/// `http.access_log`, to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// `"text"`: Envoy's default format.
    Text,
    /// `"json"`
    Json,
}

/// Reads a listener document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Listener, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let api = object.read("api", |field| field.bool())?.unwrap_or(false);
    let address = if api {
        none_of_envoys(&object)?
    } else {
        Some(read_address(&object)?)
    };
    Ok(Listener {
        address,
        settings: read_settings(&object)?,
        groups: groups::read(&object)?,
    })
}

fn read_address(object: &Object<'_>) -> Result<SocketAddr, Rejection> {
    let field = object.require("address", "an address such as \"0.0.0.0:8080\"")?;
    match parse_address(field.string()?) {
        Ok((Host::Ip(ip), port)) => Ok(SocketAddr::new(ip, port)),
        Ok((Host::Name(_), _)) => Err(field.expected("an IP address and port (\"0.0.0.0:8080\" is every one)")),
        Err(what) => Err(field.expected(what)),
    }
}

/// An API listener is a name without connections, so the fields about connections have no meaning there.
fn none_of_envoys(object: &Object<'_>) -> Result<Option<SocketAddr>, Rejection> {
    match ["address", "http"].iter().find_map(|name| object.get(name)) {
        Some(field) => {
            Err(field.expected("nothing here beside \"api\": true: gRPC clients resolve the listener's name"))
        }
        None => Ok(None),
    }
}

/// Reads the fields that `defaults.listener` may give too.
pub(super) fn read_settings(object: &Object<'_>) -> Result<Settings, Rejection> {
    Ok(Settings {
        http: object.read("http", |field| read_http(&field))?,
    })
}

fn read_http(cursor: &Cursor<'_>) -> Result<Http, Rejection> {
    let object = cursor.object(&HTTP_FIELDS)?;
    Ok(Http {
        trusted_hops: object
            .read("trusted_hops", |field| field.integer(0..=MAX_TRUSTED_HOPS))?
            .unwrap_or(0),
        access_log: object.read("access_log", |field| {
            field.word(&[("text", AccessLog::Text), ("json", AccessLog::Json)])
        })?,
        virtual_hosts: object
            .read("virtual_hosts", |field| {
                field.word(&[("all", VirtualHosts::All), ("on_demand", VirtualHosts::OnDemand)])
            })?
            .unwrap_or_default(),
    })
}
