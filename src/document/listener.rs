//! `listeners/{name}`: an address and how HTTP is spoken there.
//!
//! What enters: the fields of a listener document, or of `defaults.listener`. What leaves: a [`Listener`] or its
//! [`Settings`]. That two listeners have one address is not seen here.

use std::net::IpAddr;

use super::decode::{Cursor, Fields, Object};
use super::endpoint::Host;
use super::host::parse_address;
use super::key::DocumentKey;
use super::{Groups, Rejection, name, route};

const FIELDS: Fields = Fields { known: &["name", "address", "groups", "http"], later: LATER };
const HTTP_FIELDS: Fields = Fields {
    known: &["trusted_hops", "access_log"],
    later: &["http3", "tracing", "websocket", "redirect_to_https", "virtual_hosts"],
};
/// The fields of a listener that are not built yet.
pub(super) const LATER: &[&str] = &["tls", "policies", "api", "tcp"];
/// Most proxies that may be trusted in front.
const MAX_TRUSTED_HOPS: u32 = 255;

/// The listener that exists when no listeners document does.
pub const DEFAULT_NAME: &str = "default";

/// A listener document.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// IP literal.
    pub address: IpAddr,
    /// 1..=65535.
    pub port: u16,
    /// What `defaults.listener` may fill in.
    pub settings: Settings,
    /// Which groups of proxies have it.
    pub groups: Groups,
}

/// The fields that `defaults.listener` may give where the document does not. Each is taken whole.
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
    let field = object.require("address", "an address such as \"0.0.0.0:8080\"")?;
    let (address, port) = match parse_address(field.string()?) {
        Ok((Host::Ip(ip), port)) => (ip, port),
        Ok((Host::Name(_), _)) => return Err(field.expected("an IP address and port (\"0.0.0.0:8080\" is every one)")),
        Err(what) => return Err(field.expected(what)),
    };
    Ok(Listener { address, port, settings: read_settings(&object)?, groups: route::read::read_groups(&object)? })
}

/// Reads the fields that `defaults.listener` may give too.
pub(super) fn read_settings(object: &Object<'_>) -> Result<Settings, Rejection> {
    Ok(Settings { http: object.read("http", |field| read_http(&field))? })
}

fn read_http(cursor: &Cursor<'_>) -> Result<Http, Rejection> {
    let object = cursor.object(&HTTP_FIELDS)?;
    Ok(Http {
        trusted_hops: object.read("trusted_hops", |field| field.integer(0..=MAX_TRUSTED_HOPS))?.unwrap_or(0),
        access_log: object
            .read("access_log", |field| field.word(&[("text", AccessLog::Text), ("json", AccessLog::Json)]))?,
    })
}
