//! `http` of a listener: how HTTP is spoken with clients.

use std::time::Duration;

use ipnet::IpNet;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{COUNT, HEADER, NOT_EMPTY, PORT, words};
use super::super::route::Upstream;
use super::super::route::header::{parse_edited_name, parse_name};
use super::super::route::target::{CODE, read_code};
use super::log::{self, AccessLog, Sink, Tracing};

/// The fields of `http`.
pub(in crate::document) const FIELDS: Fields = Fields::joined(&[OWN, SETTINGS]);
const OWN: &[Field] = &[
    Field::new(
        "http3",
        Shape::AnyOf(&[Shape::Flag, Shape::Object(&HTTP3_FIELDS)]),
        "HTTP/3 on the same ports of UDP, as the second Listener `NAME/quic`. Needs `tls`; no early data (0-RTT); not \
         beside `proxy_protocol`",
    )
    .or("`false`"),
    Field::new(
        "redirect_to_https",
        Shape::AnyOf(&[Shape::Flag, Shape::Object(&REDIRECT_FIELDS)]),
        "See [Redirect to HTTPS](listeners.md#redirect-to-https). Not beside `tls`",
    )
    .or("`false`"),
];
/// The fields that `defaults.listener.http` may give.
pub(in crate::document) const SETTINGS: &[Field] = &[
    Field::new(
        "websocket",
        Shape::Flag,
        "Whether requests may be upgraded to WebSocket",
    )
    .or("`false`"),
    Field::new(
        "virtual_hosts",
        Shape::Words(&words(&DELIVERIES)),
        "`\"on_demand\"`: Envoy asks for a virtual host when a request needs it (VHDS); see \
         [operating.md](../operating.md#envoy)",
    )
    .or("`\"all\"`"),
    Field::new(
        "client_ip",
        Shape::Object(&CLIENT_IP_FIELDS),
        "Where the address of the client comes from; one of the fields",
    )
    .or("`{ \"trusted_hops\": 0 }`"),
    Field::new("trusted_hops", HOPS, "Older name of `client_ip.trusted_hops`"),
    Field::new(
        "request_id",
        Shape::Words(&words(&REQUEST_IDS)),
        "`x-request-id`: a new one instead of the client's; the client's or a new one; none",
    )
    .or("`\"generate\"`"),
    Field::new(
        "underscores",
        Shape::Words(&words(&UNDERSCORES)),
        "Requests with a header whose name has an underscore: 400; without the header; as they are",
    )
    .or("`\"reject\"`"),
    Field::new(
        "max_header_bytes",
        Shape::Size(KIB, 8192 * KIB),
        "Largest headers of a request, in whole KiB; beyond: 431",
    )
    .or("`\"60KiB\"`"),
    Field::new(
        "max_headers",
        Shape::Whole(1, 65_535),
        "Most headers of a request; beyond: 431",
    )
    .or("`100`"),
    Field::new("timeouts", Shape::Object(&TIMEOUTS_FIELDS), "Limits of time").or("`{}`"),
    Field::new(
        "http10",
        Shape::Flag,
        "Whether HTTP/1.0 requests are served (health checks of older balancers); else 426. One without Host gets \
         `localhost`",
    )
    .or("`false`"),
    Field::new("http2", Shape::Object(&HTTP2_FIELDS), "Limits of HTTP/2").or("`{}`"),
    Field::new("max_requests", COUNT, "Requests after which a connection is closed").or("no limit"),
    Field::new(
        "server_header",
        Shape::Text("text, or `\"keep\"`", Some("^[ -~]{1,256}$")),
        "`server` of answers; `keep`: the upstream's",
    )
    .or("`\"envoy\"`"),
    Field::new(
        "envoy_headers",
        Shape::Flag,
        "Whether Envoy adds its `x-envoy-*` headers to requests and answers",
    )
    .or("`false`"),
    Field::new(
        "remove_request_headers",
        Shape::List {
            of: &HEADER,
            least: 0,
            most: MAX_REMOVED,
            once: true,
        },
        "Headers that are removed from requests before anything reads them",
    ),
    Field::new(
        "errors",
        Shape::Words(&words(&ERRORS)),
        "Body of Envoy's own answers; `json`: `application/problem+json` with `status`, `detail` (Envoy's reason) and \
         `request_id`. A route's `respond` keeps its body",
    )
    .or("`\"text\"`"),
    Field::new(
        "access_log",
        log::SHAPE,
        "Access logs; `\"json\"` and `\"text\"` are one on standard output",
    ),
    Field::new(
        "tracing",
        Shape::Object(&log::TRACING_FIELDS),
        "Spans for OpenTelemetry",
    ),
];
const HTTP3_FIELDS: Fields = Fields::of(&[Field::new(
    "advertise_port",
    PORT,
    "The UDP port that answers of routes tell in `alt-svc`",
)
.or("that of `address`")]);
const REDIRECT_FIELDS: Fields = Fields::of(&[
    Field::new("port", PORT, "The port of the redirect's URL; 443 is left out there").or("`443`"),
    Field::new("code", CODE, "The status of the redirect").or("`301`"),
]);
const CLIENT_IP_FIELDS: Fields = Fields::of(&[
    Field::new(
        "trusted_hops",
        HOPS,
        "0: the address of the connection. n: the n-th address from the right of `x-forwarded-for`, written by n \
         proxies in front",
    ),
    Field::new(
        "trusted_cidrs",
        Shape::entries(&Shape::Text("network", NOT_EMPTY), MAX_TRUSTED_CIDRS),
        "The right-most address of `x-forwarded-for` that is in none of the networks",
    ),
    Field::new(
        "header",
        HEADER,
        "The address in the header; its sender must be the only way to the listener",
    ),
])
.filled();
const HOPS: Shape = Shape::Whole(0, MAX_TRUSTED_HOPS as i64);
const TIMEOUTS_FIELDS: Fields = Fields::of(&[
    Field::new(
        "request_headers",
        Shape::DurationOrNone,
        "Time until all headers of a request are there",
    )
    .or("`\"15s\"`"),
    Field::new(
        "request",
        Shape::DurationOrNone,
        "Time until the whole request is there",
    )
    .or("`\"none\"`"),
    Field::new(
        "stream_idle",
        Shape::DurationOrNone,
        "Silence of a request and its answer",
    )
    .or("`\"5m\"`"),
    Field::new("idle", Shape::DurationOrNone, "Time of a connection without a request").or("`\"1h\"`"),
    Field::new(
        "max_age",
        Shape::DurationOrNone,
        "Age of a connection, up to 10 % longer; HTTP/1 ends between two requests only",
    )
    .or("`\"none\"`"),
]);
const HTTP2_FIELDS: Fields = Fields::of(&[
    Field::new(
        "max_streams",
        Shape::Whole(1, i32::MAX as i64),
        "Requests of a connection at a time",
    )
    .or("`100`"),
    Field::new(
        "stream_window",
        WINDOWS,
        "Bytes of a request body before Envoy has taken them",
    )
    .or("`\"64KiB\"`"),
    Field::new("connection_window", WINDOWS, "The same for a connection").or("`\"1MiB\"`"),
    Field::new(
        "ping",
        Shape::Object(&PING_FIELDS),
        "PING frames; without an answer the connection is closed",
    ),
]);
const WINDOWS: Shape = Shape::Size(*WINDOW.start(), *WINDOW.end());
const PING_FIELDS: Fields = Fields::of(&[
    Field::new("interval", Shape::Duration, "Time between two PING frames").required(),
    Field::new("timeout", Shape::Duration, "Time until the answer").required(),
]);
const DELIVERIES: [(&str, VirtualHosts); 2] = [("all", VirtualHosts::All), ("on_demand", VirtualHosts::OnDemand)];
const REQUEST_IDS: [(&str, RequestId); 3] = [
    ("generate", RequestId::Generate),
    ("keep", RequestId::Keep),
    ("off", RequestId::Off),
];
const UNDERSCORES: [(&str, Underscores); 3] = [
    ("reject", Underscores::Reject),
    ("drop", Underscores::Drop),
    ("allow", Underscores::Allow),
];
const ERRORS: [(&str, Errors); 2] = [("text", Errors::Text), ("json", Errors::Json)];
/// Most proxies that may be trusted in front.
const MAX_TRUSTED_HOPS: u32 = 255;
/// Most networks of trusted proxies.
const MAX_TRUSTED_CIDRS: usize = 1000;
/// Most headers that are removed from each request.
const MAX_REMOVED: usize = 100;
/// Longest `server` header, in bytes.
const MAX_SERVER_HEADER: usize = 256;
/// Envoy's range of HTTP/2 windows.
const WINDOW: std::ops::RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
const KIB: u32 = 1024;

/// `http`.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Whether HTTP/3 is served on the same port of UDP, too.
    pub http3: Option<Http3>,
    /// Whether routes may be upgraded to WebSocket.
    pub websocket: bool,
    /// The answer to a request that no route of this listener matches; `None`: 404.
    pub redirect_to_https: Option<HttpsRedirect>,
    /// Default: all.
    pub virtual_hosts: VirtualHosts,
    /// Where the client's address comes from; default: the connection.
    pub client_ip: ClientIp,
    /// Default: generate.
    pub request_id: RequestId,
    /// Default: reject.
    pub underscores: Underscores,
    /// Largest headers of a request, in KiB: 1..=8192; default 60.
    pub max_header_kib: u32,
    /// Most headers of a request; default 100.
    pub max_headers: u32,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// Whether HTTP/1.0 requests are served.
    pub http10: bool,
    /// `http2`.
    pub http2: Http2,
    /// Most requests of a connection; default: no limit.
    pub max_requests: Option<u32>,
    /// The `server` header of answers.
    pub server_header: ServerHeader,
    /// Whether Envoy adds its `x-envoy-*` headers to requests and answers.
    pub envoy_headers: bool,
    /// Headers of clients that are removed before anything reads them, lower-cased.
    pub remove_request_headers: Vec<String>,
    /// The body of Envoy's own answers.
    pub errors: Errors,
    /// Default: none.
    pub access_log: Vec<AccessLog>,
    /// Default: none.
    pub tracing: Option<Tracing>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            http3: None,
            websocket: false,
            redirect_to_https: None,
            virtual_hosts: VirtualHosts::All,
            client_ip: ClientIp::default(),
            request_id: RequestId::Generate,
            underscores: Underscores::Reject,
            max_header_kib: 60,
            max_headers: 100,
            timeouts: Timeouts::default(),
            http10: false,
            http2: Http2::default(),
            max_requests: None,
            server_header: ServerHeader::Text("envoy".to_owned()),
            envoy_headers: false,
            remove_request_headers: Vec::new(),
            errors: Errors::Text,
            access_log: Vec::new(),
            tracing: None,
        }
    }
}

impl Http {
    /// The clusters of access logs and traces.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let logs = self.access_log.iter().filter_map(|log| match &log.to {
            Sink::Otlp(target) | Sink::Grpc(target) => Some(target),
            Sink::Stdout | Sink::Stderr | Sink::File(_) => None,
        });
        logs.chain(self.tracing.iter().map(|tracing| &tracing.to))
    }
}

/// `http3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http3 {
    /// The UDP port in `alt-svc`; default: the listener's.
    pub advertise_port: Option<u16>,
}

/// `redirect_to_https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// The port of the redirect's URL; 443 is left out there.
    pub port: u16,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        Self { port: 443, code: 301 }
    }
}

/// `virtual_hosts`: the delivery of the listener's virtual hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VirtualHosts {
    /// `"all"`: in the RouteConfiguration.
    #[default]
    All,
    /// `"on_demand"`: each by itself when a request needs it (VHDS).
    OnDemand,
}

/// `client_ip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientIp {
    /// The address of the connection, or with n trusted proxies the n-th from the right of `x-forwarded-for`.
    TrustedHops(u32),
    /// The right-most address of `x-forwarded-for` that is in none of these networks.
    TrustedCidrs(Vec<IpNet>),
    /// The address in this header.
    Header(String),
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::TrustedHops(0)
    }
}

/// `request_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestId {
    /// A new one; a client's is replaced.
    Generate,
    /// A client's, or a new one.
    Keep,
    /// No new one.
    Off,
}

/// `underscores`: requests with a header whose name has an underscore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// 400.
    Reject,
    /// The header is dropped.
    Drop,
    /// The header is kept.
    Allow,
}

/// `timeouts`; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until all headers of a request are there; default 15 s.
    pub request_headers: Option<Duration>,
    /// Until the whole request is there; default none.
    pub request: Option<Duration>,
    /// Silence of a stream; default 5 minutes.
    pub stream_idle: Option<Duration>,
    /// Silence of a connection without a stream; default an hour.
    pub idle: Option<Duration>,
    /// Age of a connection; default none.
    pub max_age: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_headers: Some(Duration::from_secs(15)),
            request: None,
            stream_idle: Some(Duration::from_secs(300)),
            idle: Some(Duration::from_secs(3600)),
            max_age: None,
        }
    }
}

/// `http2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Streams of a connection at a time; default 100.
    pub max_streams: u32,
    /// Bytes; default 64 KiB.
    pub stream_window: u32,
    /// Bytes; default 1 MiB.
    pub connection_window: u32,
    /// Default: none.
    pub ping: Option<Ping>,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            ping: None,
        }
    }
}

/// `http2.ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Between two pings.
    pub interval: Duration,
    /// Until the answer; then the connection is closed.
    pub timeout: Duration,
}

/// `server_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHeader {
    /// This text.
    Text(String),
    /// `"keep"`: the upstream's.
    Keep,
}

/// `errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// Envoy's short text.
    Text,
    /// `application/problem+json`.
    Json,
}

/// Reads `http`.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Http, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let default = Http::default();
    Ok(Http {
        http3: object.read("http3", |field| read_http3(&field))?.flatten(),
        websocket: flag(&object, "websocket", default.websocket)?,
        redirect_to_https: object
            .read("redirect_to_https", |field| read_redirect(&field))?
            .flatten(),
        virtual_hosts: object
            .read("virtual_hosts", |field| field.word(&DELIVERIES))?
            .unwrap_or(default.virtual_hosts),
        client_ip: read_client_ip(&object)?,
        request_id: object
            .read("request_id", |field| field.word(&REQUEST_IDS))?
            .unwrap_or(default.request_id),
        underscores: object
            .read("underscores", |field| field.word(&UNDERSCORES))?
            .unwrap_or(default.underscores),
        max_header_kib: object
            .read("max_header_bytes", |field| read_kib(&field))?
            .unwrap_or(default.max_header_kib),
        max_headers: object
            .read("max_headers", |field| field.integer(1..=65_535u32))?
            .unwrap_or(default.max_headers),
        timeouts: object
            .read("timeouts", |field| read_timeouts(&field))?
            .unwrap_or_default(),
        http10: flag(&object, "http10", default.http10)?,
        http2: object.read("http2", |field| read_http2(&field))?.unwrap_or_default(),
        max_requests: object.read("max_requests", |field| field.integer(1..=u32::MAX))?,
        server_header: object
            .read("server_header", |field| read_server_header(&field))?
            .unwrap_or(default.server_header),
        envoy_headers: flag(&object, "envoy_headers", default.envoy_headers)?,
        remove_request_headers: object
            .read("remove_request_headers", |field| read_removed(&field))?
            .unwrap_or_default(),
        errors: object
            .read("errors", |field| field.word(&ERRORS))?
            .unwrap_or(default.errors),
        access_log: object
            .read("access_log", |field| log::read(&field))?
            .unwrap_or_default(),
        tracing: object.read("tracing", |field| log::read_tracing(&field))?,
    })
}

fn flag(object: &Object<'_>, name: &str, default: bool) -> Result<bool, Rejection> {
    Ok(object.read(name, |field| field.bool())?.unwrap_or(default))
}

/// `true`, `false`, or an object.
fn read_http3(cursor: &Cursor<'_>) -> Result<Option<Http3>, Rejection> {
    if let Some(is_on) = cursor.value().as_bool() {
        return Ok(is_on.then(Http3::default));
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(r#"true, false or {"advertise_port"}"#));
    }
    let object = cursor.object(&HTTP3_FIELDS)?;
    let advertise_port = object.read("advertise_port", |field| field.integer(1..=u16::MAX))?;
    Ok(Some(Http3 { advertise_port }))
}

fn read_redirect(cursor: &Cursor<'_>) -> Result<Option<HttpsRedirect>, Rejection> {
    if let Some(is_on) = cursor.value().as_bool() {
        return Ok(is_on.then(HttpsRedirect::default));
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(r#"true, false or {"port", "code"}"#));
    }
    let object = cursor.object(&REDIRECT_FIELDS)?;
    let default = HttpsRedirect::default();
    Ok(Some(HttpsRedirect {
        port: object
            .read("port", |field| field.integer(1..=u16::MAX))?
            .unwrap_or(default.port),
        code: object.read("code", |field| read_code(&field))?.unwrap_or(default.code),
    }))
}

/// `client_ip`, or the older `trusted_hops` beside it.
fn read_client_ip(object: &Object<'_>) -> Result<ClientIp, Rejection> {
    let hops = |field: Cursor<'_>| field.integer(0..=MAX_TRUSTED_HOPS).map(ClientIp::TrustedHops);
    let Some(field) = object.get("client_ip") else {
        return Ok(object.read("trusted_hops", hops)?.unwrap_or_default());
    };
    if let Some(older) = object.get("trusted_hops") {
        return Err(older.reject("found beside \"client_ip\", expected one of the two"));
    }
    let object = field.object(&CLIENT_IP_FIELDS)?;
    let [name] = object.present_of(&CLIENT_IP_FIELDS)[..] else {
        return Err(object.reject("expected one of \"trusted_hops\", \"trusted_cidrs\" and \"header\""));
    };
    let field = object.require(name, "a value")?;
    match name {
        "trusted_hops" => hops(field),
        "trusted_cidrs" => {
            let networks = field.entries()?;
            if networks.len() > MAX_TRUSTED_CIDRS {
                let count = networks.len();
                return Err(field.reject(format!("found {count} networks, expected at most {MAX_TRUSTED_CIDRS}")));
            }
            let networks = networks.iter().map(Cursor::network).collect::<Result<_, _>>()?;
            Ok(ClientIp::TrustedCidrs(networks))
        }
        _ => parse_name(&field, field.string()?, "").map(ClientIp::Header),
    }
}

fn read_kib(cursor: &Cursor<'_>) -> Result<u32, Rejection> {
    let size = cursor.size(KIB..=8192 * KIB)?;
    match size.is_multiple_of(KIB) {
        true => Ok(size / KIB),
        false => Err(cursor.expected("a whole number of KiB")),
    }
}

fn read_timeouts(cursor: &Cursor<'_>) -> Result<Timeouts, Rejection> {
    let object = cursor.object(&TIMEOUTS_FIELDS)?;
    let limit = |name: &str, default| Ok(object.read(name, |field| field.duration_or_none())?.unwrap_or(default));
    let default = Timeouts::default();
    Ok(Timeouts {
        request_headers: limit("request_headers", default.request_headers)?,
        request: limit("request", default.request)?,
        stream_idle: limit("stream_idle", default.stream_idle)?,
        idle: limit("idle", default.idle)?,
        max_age: limit("max_age", default.max_age)?,
    })
}

fn read_http2(cursor: &Cursor<'_>) -> Result<Http2, Rejection> {
    let object = cursor.object(&HTTP2_FIELDS)?;
    let default = Http2::default();
    let window = |name: &str| object.read(name, |field| field.size(WINDOW));
    Ok(Http2 {
        max_streams: object
            .read("max_streams", |field| field.integer(1..=i32::MAX))?
            .map_or(default.max_streams, i32::unsigned_abs),
        stream_window: window("stream_window")?.unwrap_or(default.stream_window),
        connection_window: window("connection_window")?.unwrap_or(default.connection_window),
        ping: object.read("ping", |field| {
            let object = field.object(&PING_FIELDS)?;
            Ok(Ping {
                interval: object.require("interval", "a duration such as \"30s\"")?.duration()?,
                timeout: object.require("timeout", "a duration such as \"5s\"")?.duration()?,
            })
        })?,
    })
}

fn read_server_header(cursor: &Cursor<'_>) -> Result<ServerHeader, Rejection> {
    match cursor.text()? {
        "keep" => Ok(ServerHeader::Keep),
        text if text.len() > MAX_SERVER_HEADER || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
            Err(cursor.expected(&format!(
                "at most {MAX_SERVER_HEADER} printable characters of ASCII, or \"keep\""
            )))
        }
        text => Ok(ServerHeader::Text(text.to_owned())),
    }
}

fn read_removed(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let entries = cursor.list()?;
    if entries.len() > MAX_REMOVED {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} headers, expected at most {MAX_REMOVED}")));
    }
    let mut names = Vec::new();
    for entry in entries {
        let name = parse_edited_name(&entry, entry.string()?)?;
        if names.contains(&name) {
            return Err(entry.expected("each header once"));
        }
        names.push(name);
    }
    Ok(names)
}
