//! `listeners/{name}`: an address and the traffic that is served there, HTTP or plain TCP, or a name that gRPC clients
//! resolve (`"api": true`).
//!
//! In: the fields of a listener document, or of `defaults.listener`. Out: a [`Listener`] or its [`Settings`]. The
//! compiler rejects a second listener on an address.
//!
//! | module | job |
//! |---|---|
//! | this file | addresses, sockets, connections |
//! | `http` | `http`, access logs and traces aside |
//! | `log` | `http.access_log`, `http.tracing` |
//! | `tcp` | `tcp` |
//! | `tls` | `tls` |

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::decode::{Cursor, Field, Fields, Object, Shape};
use super::field::COUNT;
use super::host::{Host, parse_address};
use super::key::DocumentKey;
use super::policy::{self, Item, Items, PolicyKind};
use super::reference::Reference;
use super::route::Upstream;
use super::secret;
use super::{Groups, Rejection, groups, name};

mod http;
mod log;
mod tcp;
mod tls;

pub use http::{
    ClientIp, Errors, Http, Http2, Http3, HttpsRedirect, Ping, RequestId, ServerHeader, Timeouts, Underscores,
    VirtualHosts,
};
pub use log::{AccessLog, LogFormat, Only, Sink, StatusIs, Tag, Tracing};
pub use tcp::TcpEntry;
pub use tls::{Client, Forward, NameKind, Tls, TlsVersion};
pub(super) use tls::{NAME_FIELDS, read_name};

/// The fields of a listener.
pub(super) const FIELDS: Fields = Fields::joined(&[&[name::FIELD], ADDRESSES, HTTP, OWN, SETTINGS, AROUND]);
/// Fields about connections, which no API listener has.
const OF_CONNECTIONS: Fields = Fields::joined(&[ADDRESSES, HTTP, OWN, SETTINGS]);
pub(super) use http::{FIELDS as HTTP_FIELDS, SETTINGS as HTTP_SETTINGS};

const ADDRESSES: &[Field] = &[
    Field::new("address", ADDRESS, "Address of Envoy; `0.0.0.0` is every one").or("required, unless `api`"),
    Field::new(
        "addresses",
        Shape::List {
            of: &ADDRESS,
            least: 0,
            most: MAX_ADDRESSES,
            once: true,
        },
        "More addresses of the same listener, for example `[::]:8080`",
    ),
];
const ADDRESS: Shape = Shape::Text("`IP:port`", Some(":[0-9]+$"));
const HTTP: &[Field] =
    &[Field::new("http", Shape::Object(&HTTP_FIELDS), "How HTTP is spoken with clients").or("`defaults`, else `{}`")];
const OWN: &[Field] = &[
    Field::new("tcp", tcp::SHAPE, "Bytes are passed on. Not beside `http`"),
    Field::new(
        "tls",
        Shape::Object(&tls::FIELDS),
        "Certificates, and the demands on clients",
    ),
    Field::new(
        "policies",
        policy::LIST,
        "For everything on the listener. See [policies.md](policies.md). Beside `tcp` only `ip_access`",
    )
    .or("those of the defaults"),
];
/// The fields that `defaults.listener` may give beside `http`.
pub(super) const SETTINGS: &[Field] = &[
    Field::new(
        "proxy_protocol",
        Shape::AnyOf(&[Shape::Flag, Shape::Object(&PROXY_PROTOCOL_FIELDS)]),
        "A connection begins with the address of its client, written by the proxy in front; one without it is closed",
    )
    .or("`defaults`, else `false`"),
    Field::new(
        "connections",
        Shape::Object(&CONNECTIONS_FIELDS),
        "Limits of connections; further ones are closed",
    )
    .or("`defaults`, else none"),
    Field::new(
        "buffer",
        Shape::Size(1024, 1 << 30),
        "Bytes that Envoy buffers for each direction of a connection",
    )
    .or("`defaults`, else `\"32KiB\"`"),
    Field::new("bind", Shape::Object(&BIND_FIELDS), "Options of the sockets").or("`defaults`, else `{}`"),
];
const AROUND: &[Field] = &[
    Field::new(
        "api",
        Shape::Flag,
        "`true`: an API listener, `xds:///NAME` for gRPC clients ([proxyless-grpc.md](../proxyless-grpc.md)). Without \
         the fields above",
    )
    .or("`false`"),
    groups::FIELD,
];
const PROXY_PROTOCOL_FIELDS: Fields = Fields::of(&[
    Field::new(
        "versions",
        Shape::List {
            of: &Shape::Whole(1, 2),
            least: 1,
            most: usize::MAX,
            once: true,
        },
        "Accepted versions of the protocol",
    )
    .or("`[1, 2]`"),
    Field::new(
        "optional",
        Shape::Flag,
        "A connection without the address is served, too: then every client that reaches the port can choose its \
         address (a warning)",
    )
    .or("`false`"),
]);
const CONNECTIONS_FIELDS: Fields = Fields::of(&[Field::new(
    "max",
    COUNT,
    "Most connections at a time, for each proxy; of `tcp`, for each entry",
)
.or("no limit")]);
const BIND_FIELDS: Fields = Fields::of(&[
    Field::new(
        "backlog",
        Shape::Whole(1, i32::MAX as i64),
        "Connections that wait to be accepted",
    )
    .or("the system's"),
    Field::new("freebind", Shape::Flag, "Whether the host may not have the address yet").or("`false`"),
    Field::new(
        "tcp_keepalive",
        Shape::DurationOrNone,
        "Silence after which the kernel probes a connection, in whole seconds up to `\"32767s\"`",
    )
    .or("`\"60s\"`"),
]);
/// Most addresses beside the first.
const MAX_ADDRESSES: usize = 16;
/// Least and most bytes of a connection's buffers.
const BUFFER: std::ops::RangeInclusive<u32> = 1024..=(1 << 30);

/// The default listener, which exists while no document describes one.
pub const DEFAULT_NAME: &str = "default";
/// The address of the default listener.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10_000);

/// A listener document.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Where Envoy listens, port 1..=65535. `None`: an API listener, which gRPC clients resolve as `xds:///NAME`.
    pub address: Option<SocketAddr>,
    /// More addresses of the same listener, each once.
    pub addresses: Vec<SocketAddr>,
    /// `tcp`: bytes are passed on, decrypted if there is `tls`. `None`: HTTP.
    pub tcp: Option<Vec<TcpEntry>>,
    /// `tls`.
    pub tls: Option<Tls>,
    /// Settings that `defaults.listener` may fill in.
    pub settings: Settings,
    /// The policies of everything on it.
    pub policies: Items,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

impl Listener {
    /// Every address, each with its field.
    pub fn bound(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let more = self.addresses.iter().enumerate();
        let more = more.map(|(index, address)| (format!("addresses[{index}]"), *address));
        self.address
            .map(|address| ("address".to_owned(), address))
            .into_iter()
            .chain(more)
    }

    /// The secrets that the document names.
    pub(super) fn references(&self) -> Vec<Reference> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let certificates = tls.certificates.iter().enumerate();
        let certificates = certificates.map(|(index, name)| {
            Reference::secret(
                format!("tls.certificates[{index}]"),
                name,
                &[secret::Shape::Certificate],
            )
        });
        let ca = tls
            .client
            .iter()
            .map(|client| Reference::secret("tls.client_ca", &client.ca, &[secret::Shape::Ca]));
        let tickets = tls
            .session_tickets
            .iter()
            .map(|name| Reference::secret("tls.session_tickets", name, &[secret::Shape::SessionTickets]));
        certificates.chain(ca).chain(tickets).collect()
    }

    /// Sentences about fields that are valid and may surprise.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self
            .settings
            .proxy_protocol
            .as_ref()
            .is_some_and(|proxy| proxy.optional)
        {
            warnings.push(
                "proxy_protocol.optional: every client that reaches the port can choose the address it is taken for"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// The fields that `defaults.listener` gives if the document does not. Each is taken whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// `http`.
    pub http: Option<Box<Http>>,
    /// `proxy_protocol`; `None`: a client's bytes begin with its request.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `connections`.
    pub connections: Option<Connections>,
    /// `buffer`, in bytes for each direction of a connection; default 32 KiB.
    pub buffer: Option<u32>,
    /// `bind`.
    pub bind: Option<Bind>,
}

impl Settings {
    /// These settings; an absent field is taken from `defaults`.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            http: self.http.clone().or_else(|| defaults.http.clone()),
            proxy_protocol: self.proxy_protocol.clone().or_else(|| defaults.proxy_protocol.clone()),
            connections: self.connections.or(defaults.connections),
            buffer: self.buffer.or(defaults.buffer),
            bind: self.bind.or(defaults.bind),
        }
    }

    /// The clusters that the settings name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.http.iter().flat_map(|http| http.upstreams())
    }
}

/// `proxy_protocol`: a connection begins with the address of its client, written by the proxy in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Accepted versions, 1 and 2, sorted; none: `false`.
    pub versions: Vec<u8>,
    /// Whether a connection without it is served too.
    pub optional: bool,
}

impl ProxyProtocol {
    /// Whether any version is read.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.versions.is_empty()
    }
}

/// `connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Most connections at a time, for each proxy; default: no limit.
    pub max: Option<u32>,
}

/// `bind`: options of the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Connections that wait to be accepted; default: the system's.
    pub backlog: Option<u32>,
    /// Whether the address may be one that the host does not have yet.
    pub freebind: bool,
    /// How long a connection is silent before the kernel probes it; `None`: never.
    pub tcp_keepalive: Option<Duration>,
}

impl Default for Bind {
    fn default() -> Self {
        Self {
            backlog: None,
            freebind: false,
            tcp_keepalive: Some(Duration::from_secs(60)),
        }
    }
}

/// Reads a listener document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Listener, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let groups = groups::read(&object)?;
    if object.read("api", |field| field.bool())?.unwrap_or(false) {
        none_of_envoys(&object)?;
        return Ok(Listener {
            address: None,
            addresses: Vec::new(),
            tcp: None,
            tls: None,
            settings: Settings::default(),
            policies: Items::default(),
            groups,
        });
    }

    let address = read_address(&object.require("address", "an address such as \"0.0.0.0:8080\"")?)?;
    let addresses = object
        .read("addresses", |field| read_addresses(&field, address))?
        .unwrap_or_default();
    if let (Some(_), Some(http)) = (object.get("tcp"), object.get("http")) {
        return Err(http.reject("found beside \"tcp\", expected one of the two"));
    }

    let listener = Listener {
        address: Some(address),
        addresses,
        tcp: object.read("tcp", |field| tcp::read(&field))?,
        tls: object.read("tls", |field| tls::read(&field))?,
        settings: read_settings(&object)?,
        policies: object
            .read("policies", |field| policy::read_list(&field))?
            .unwrap_or_default(),
        groups,
    };
    check_together(&object, &listener)?;
    Ok(listener)
}

/// Rules between two fields of one document.
fn check_together(object: &Object<'_>, listener: &Listener) -> Result<(), Rejection> {
    let field = |object_name: &str, name: &str| object.get(object_name).and_then(|object| object.get(name));
    let own = listener.settings.http.as_ref();

    if let Some(field) = field("http", "http3").filter(|_| own.is_some_and(|http| http.http3.is_some())) {
        if listener.tls.is_none() {
            return Err(field.reject("found HTTP/3 on a listener without \"tls\", expected one with it"));
        }
        if listener
            .settings
            .proxy_protocol
            .as_ref()
            .is_some_and(ProxyProtocol::is_on)
        {
            return Err(
                field.reject("found HTTP/3 beside \"proxy_protocol\", which is for TCP, expected one of the two")
            );
        }
    }

    let redirects = own.is_some_and(|http| http.redirect_to_https.is_some());
    if let Some(field) = field("http", "redirect_to_https").filter(|_| redirects && listener.tls.is_some()) {
        return Err(field.reject("found beside \"tls\", where every request came by https, expected one of the two"));
    }

    let is_http_only = |item: &&Item| item.kind().is_some_and(|kind| kind != PolicyKind::IpAccess);
    if listener.tcp.is_some()
        && let (Some(field), Some(item)) = (object.get("policies"), listener.policies.iter().find(is_http_only))
    {
        let kind = item.kind().map(PolicyKind::as_str).unwrap_or_default();
        return Err(field.reject(format!(
            "found {kind} beside \"tcp\", which has no HTTP filters, expected ip_access"
        )));
    }

    if let (Some(field), Some(_)) = (field("tls", "forward_client_certificate"), &listener.tcp) {
        return Err(field.reject("found beside \"tcp\", which has no headers, expected none"));
    }
    if let (Some(alpn), None) = (field("tls", "alpn"), &listener.tcp) {
        for entry in alpn.list()? {
            entry.word(&[("h2", ()), ("http/1.1", ())])?;
        }
    }
    Ok(())
}

fn read_address(cursor: &Cursor<'_>) -> Result<SocketAddr, Rejection> {
    match parse_address(cursor.string()?) {
        Ok((Host::Ip(ip), port)) => Ok(SocketAddr::new(ip, port)),
        Ok((Host::Name(_), _)) => Err(cursor.expected("an IP address and port (\"0.0.0.0:8080\" is every one)")),
        Err(what) => Err(cursor.expected(what)),
    }
}

fn read_addresses(cursor: &Cursor<'_>, first: SocketAddr) -> Result<Vec<SocketAddr>, Rejection> {
    let mut addresses = Vec::new();
    let entries = cursor.list()?;
    if entries.len() > MAX_ADDRESSES {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} addresses, expected at most {MAX_ADDRESSES}")));
    }
    for entry in entries {
        let address = read_address(&entry)?;
        if address == first || addresses.contains(&address) {
            return Err(entry.expected("each address once"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// An API listener is a name without connections, so the fields about connections have no meaning there.
fn none_of_envoys(object: &Object<'_>) -> Result<(), Rejection> {
    match OF_CONNECTIONS.names().find_map(|name| object.get(name)) {
        Some(field) => {
            Err(field.expected("nothing here beside \"api\": true: gRPC clients resolve the listener's name"))
        }
        None => Ok(()),
    }
}

/// Reads the fields that `defaults.listener` may give too.
pub(super) fn read_settings(object: &Object<'_>) -> Result<Settings, Rejection> {
    Ok(Settings {
        http: object.read("http", |field| http::read(&field).map(Box::new))?,
        proxy_protocol: object.read("proxy_protocol", |field| read_proxy_protocol(&field))?,
        connections: object.read("connections", |field| {
            let object = field.object(&CONNECTIONS_FIELDS)?;
            let max = object.read("max", |field| field.integer(1..=u32::MAX))?;
            Ok(Connections { max })
        })?,
        buffer: object.read("buffer", |field| field.size(BUFFER))?,
        bind: object.read("bind", |field| read_bind(&field))?,
    })
}

fn read_proxy_protocol(cursor: &Cursor<'_>) -> Result<ProxyProtocol, Rejection> {
    if let Some(is_on) = cursor.value().as_bool() {
        return Ok(ProxyProtocol {
            versions: if is_on { vec![1, 2] } else { Vec::new() },
            optional: false,
        });
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(r#"true, false or {"versions", "optional"}"#));
    }
    let object = cursor.object(&PROXY_PROTOCOL_FIELDS)?;
    let versions = object.read("versions", |field| {
        let mut versions = Vec::new();
        for entry in field.entries()? {
            let version = entry.integer(1..=2u8)?;
            if versions.contains(&version) {
                return Err(entry.expected("each version once"));
            }
            versions.push(version);
        }
        versions.sort_unstable();
        Ok(versions)
    })?;
    Ok(ProxyProtocol {
        versions: versions.unwrap_or_else(|| vec![1, 2]),
        optional: object.read("optional", |field| field.bool())?.unwrap_or(false),
    })
}

fn read_bind(cursor: &Cursor<'_>) -> Result<Bind, Rejection> {
    let object = cursor.object(&BIND_FIELDS)?;
    let tcp_keepalive = object.read("tcp_keepalive", |field| match field.duration_or_none()? {
        Some(time) if time.subsec_nanos() > 0 || time > MAX_KEEPALIVE => {
            Err(field.expected("whole seconds, at most \"32767s\", or \"none\""))
        }
        limit => Ok(limit),
    })?;
    let default = Bind::default();
    Ok(Bind {
        backlog: object
            .read("backlog", |field| field.integer(1..=i32::MAX))?
            .map(i32::unsigned_abs),
        freebind: object
            .read("freebind", |field| field.bool())?
            .unwrap_or(default.freebind),
        tcp_keepalive: tcp_keepalive.unwrap_or(default.tcp_keepalive),
    })
}

/// Longest time that Linux takes for `TCP_KEEPIDLE`.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
