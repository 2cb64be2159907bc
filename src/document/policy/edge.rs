//! The kinds at the edge: compression, headers, cors, `ip_access`, csrf.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{NOT_EMPTY, words};
use super::super::host::parse_host;
use super::super::regex;
use super::super::route::condition::{PLAIN, read_plain};
use super::super::route::header::{self, parse_name, read_edits};
use super::super::route::matching::{is_method, parse_method};
use super::super::route::{HeaderEdits, StringMatch};
use super::super::sentence::quote;

pub(super) const COMPRESSION_FIELDS: Fields = Fields::of(&[
    Field::new(
        "algorithms",
        Shape::List {
            of: &Shape::Words(&words(&ALGORITHMS)),
            least: 1,
            most: usize::MAX,
            once: true,
        },
        "The client's q-values decide; of equal ones the first of the list",
    )
    .or("`[\"br\", \"zstd\", \"gzip\"]`"),
    Field::new("min_size", Shape::Size(1, u32::MAX), "Smaller answers stay as they are").or("`\"1KiB\"`"),
    Field::new(
        "content_types",
        Shape::entries(&Shape::Text("content type without parameters", Some("/")), MAX_NAMES),
        "Types of answers; `application/grpc` is rejected",
    )
    .or("Envoy's list: HTML, CSS, plain text, JavaScript, JSON, XML, SVG"),
    Field::new(
        "etag",
        Shape::Words(&words(&ETAGS)),
        "A strong `etag` becomes a weak one; or such an answer is not compressed",
    )
    .or("`\"weaken\"`"),
]);
const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("br", Algorithm::Brotli),
    ("zstd", Algorithm::Zstd),
    ("gzip", Algorithm::Gzip),
];
const ETAGS: [(&str, bool); 2] = [("weaken", false), ("skip", true)];
pub(super) const HEADERS_FIELDS: Fields = Fields::of(&[
    Field::new(
        "request",
        Shape::Object(&header::FIELDS),
        "As `request_headers` of a [route](routes.md#headers)",
    ),
    Field::new(
        "response",
        Shape::Object(&header::FIELDS),
        "As `response_headers` of a route",
    ),
])
.filled();
pub(super) const CORS_FIELDS: Fields = Fields::of(&[
    Field::new(
        "allow_origins",
        Shape::entries(&Shape::Text("origin", NOT_EMPTY), MAX_ORIGINS),
        "`https://a.example.com[:port]`; `https://*.example.com`: one label or more, not `https://example.com`; `~` and a \
         regex; `\"*\"`",
    )
    .required(),
    Field::new("allow_methods", METHODS, "Methods, or `[\"*\"]`").or("`[\"GET\", \"HEAD\", \"POST\"]`"),
    Field::new("allow_headers", HEADERS, "Headers that a request may have, or `[\"*\"]`").or("`[]`"),
    Field::new("expose_headers", HEADERS, "Headers of answers that scripts may read, or `[\"*\"]`").or("`[]`"),
    Field::new(
        "max_age",
        Shape::Duration,
        "How long a browser keeps the answer to a preflight, in whole seconds",
    ),
    Field::new("allow_credentials", Shape::Flag, "With `true`, `\"*\"` is rejected in every list").or("`false`"),
    Field::new(
        "private_network",
        Shape::Flag,
        "Requests from public to private networks are allowed",
    )
    .or("`false`"),
]);
const METHODS: Shape = Shape::List {
    of: &Shape::Text("method", NOT_EMPTY),
    least: 0,
    most: MAX_NAMES,
    once: false,
};
const HEADERS: Shape = Shape::List {
    of: &Shape::Text("name of a header", NOT_EMPTY),
    least: 0,
    most: MAX_NAMES,
    once: false,
};
pub(super) const IP_ACCESS_FIELDS: Fields = Fields::of(&[
    Field::new(
        "allow",
        RANGES,
        "Others are refused. One of `allow` and `deny` is required",
    )
    .or("every address"),
    Field::new("deny", RANGES, "Wins over `allow`"),
    Field::new(
        "address",
        Shape::Words(&words(&ADDRESSES)),
        "The client's address as the listener finds it (`client_ip`); or that of the connection",
    )
    .or("`\"client\"`"),
])
.filled();
/// Ranges of addresses, as a shape.
pub(super) const RANGES: Shape = Shape::entries(&Shape::Text("address or range", Some("[.:]")), MAX_RANGES);
const ADDRESSES: [(&str, bool); 2] = [("client", false), ("peer", true)];
pub(super) const CSRF_FIELDS: Fields = Fields::of(&[Field::new(
    "additional_origins",
    Shape::List {
        of: &PLAIN,
        least: 0,
        most: MAX_ORIGINS,
        once: false,
    },
    "Hosts beside that of the request, with their port if they have one",
)
.or("`[]`")]);
/// Most origins of a policy.
const MAX_ORIGINS: usize = 100;
/// Most names of a list of headers, methods or content types.
const MAX_NAMES: usize = 100;
/// Most ranges of a list.
const MAX_RANGES: usize = 10_000;
/// Smallest body that is compressed, if none is written, in bytes.
const MIN_SIZE: u32 = 1024;
const AN_ORIGIN: &str =
    r#"an origin such as "https://a.example.com", "https://*.example.com", "~regex" or "*", without a path"#;

/// `compression`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// At least one, the preferred one first.
    pub algorithms: Vec<Algorithm>,
    /// Smallest body, in bytes.
    pub min_size: u32,
    /// `None`: Envoy's list.
    pub content_types: Option<Vec<String>>,
    /// Responses with a strong `etag` are not compressed; otherwise the `etag` becomes a weak one.
    pub skip_etag: bool,
}

/// An algorithm of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `"br"`
    Brotli,
    /// `"zstd"`
    Zstd,
    /// `"gzip"`
    Gzip,
}

/// `headers`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// Of requests, before any other policy but compression.
    pub request: HeaderEdits,
    /// Of responses, also of those that a filter makes.
    pub response: HeaderEdits,
}

/// `cors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// At least one; `"*"` is exact.
    pub allow_origins: Vec<StringMatch>,
    /// `GET`, or `*`.
    pub allow_methods: Vec<String>,
    /// Names, or `*`.
    pub allow_headers: Vec<String>,
    /// Names, or `*`.
    pub expose_headers: Vec<String>,
    /// How long a browser keeps the answer to a preflight.
    pub max_age: Option<Duration>,
    /// Cookies and credentials.
    pub allow_credentials: bool,
    /// Requests from public to private networks.
    pub private_network: bool,
}

/// `ip_access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpAccess {
    /// `None`: every address that is not denied.
    pub allow: Option<Vec<IpNet>>,
    /// Wins over `allow`.
    pub deny: Vec<IpNet>,
    /// The address of the connection; otherwise that of the client, as the listener finds it.
    pub is_peer: bool,
}

impl IpAccess {
    /// Whether no public address of a client is admitted.
    pub(crate) fn admits_private_only(&self) -> bool {
        let is_private = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
            IpAddr::V6(address) => {
                address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local()
            }
        };
        let ranges = self.allow.as_ref().filter(|_| !self.is_peer);
        ranges.is_some_and(|ranges| {
            let mut ends = ranges.iter().flat_map(|range| [range.network(), range.broadcast()]);
            ends.all(is_private)
        })
    }
}

/// `csrf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csrf {
    /// Hosts beside that of the request.
    pub additional_origins: Vec<StringMatch>,
}

pub(super) fn read_compression(cursor: &Cursor<'_>) -> Result<Compression, Rejection> {
    let object = cursor.object(&COMPRESSION_FIELDS)?;
    let mut algorithms = Vec::new();
    if let Some(field) = object.get("algorithms") {
        for entry in field.entries()? {
            let algorithm = entry.word(&ALGORITHMS)?;
            if algorithms.contains(&algorithm) {
                return Err(entry.expected("each algorithm once"));
            }
            algorithms.push(algorithm);
        }
    } else {
        algorithms.extend(ALGORITHMS.map(|(_, algorithm)| algorithm));
    }

    Ok(Compression {
        algorithms,
        min_size: object
            .read("min_size", |field| field.size(1..=u32::MAX))?
            .unwrap_or(MIN_SIZE),
        content_types: object.read("content_types", |field| read_names(&field, read_content_type))?,
        skip_etag: object.read("etag", |field| field.word(&ETAGS))?.unwrap_or(false),
    })
}

fn read_content_type(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?.to_ascii_lowercase();
    let is_token = |part: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(letter)
    };
    if text.starts_with("application/grpc") {
        return Err(cursor.expected("another type: compressed gRPC messages cannot be read"));
    }
    match text.split_once('/') {
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Ok(text),
        _ => Err(cursor.expected(r#"a content type such as "text/html", without parameters"#)),
    }
}

/// A list of at least one name.
fn read_names(
    cursor: &Cursor<'_>,
    read: impl Fn(&Cursor<'_>) -> Result<String, Rejection>,
) -> Result<Vec<String>, Rejection> {
    let entries = cursor.entries()?;
    if entries.len() > MAX_NAMES {
        return Err(cursor.reject(format!("found {} entries, expected at most {MAX_NAMES}", entries.len())));
    }
    entries.iter().map(read).collect()
}

pub(super) fn read_headers(cursor: &Cursor<'_>) -> Result<Headers, Rejection> {
    let object = cursor.object(&HEADERS_FIELDS)?;
    let edits = |name| Ok(object.read(name, |field| read_edits(&field))?.unwrap_or_default());
    let headers = Headers {
        request: edits("request")?,
        response: edits("response")?,
    };
    if headers == Headers::default() {
        return Err(cursor.expected("an edit in \"request\" or \"response\""));
    }
    Ok(headers)
}

pub(super) fn read_cors(cursor: &Cursor<'_>) -> Result<Cors, Rejection> {
    let object = cursor.object(&CORS_FIELDS)?;
    let origins = object.require("allow_origins", AN_ORIGIN)?;
    let entries = origins.entries()?;
    if entries.len() > MAX_ORIGINS {
        return Err(origins.reject(format!(
            "found {} origins, expected at most {MAX_ORIGINS}",
            entries.len()
        )));
    }

    let flag = |name| Ok(object.read(name, |field| field.bool())?.unwrap_or(false));
    let allow_credentials = flag("allow_credentials")?;
    let no_star = |entry: &Cursor<'_>| match entry.value().as_str() {
        Some("*") if allow_credentials => Err(entry.expected("no \"*\" beside \"allow_credentials\": true")),
        _ => Ok(()),
    };

    let mut allow_origins = Vec::new();
    for entry in &entries {
        no_star(entry)?;
        allow_origins.push(read_origin(entry)?);
    }

    let names = |name, read: fn(&Cursor<'_>) -> Result<String, Rejection>| {
        let Some(field) = object.get(name) else {
            return Ok(None);
        };
        let entries = field.list()?;
        entries.iter().try_for_each(no_star)?;
        match entries.is_empty() {
            true => Ok(Some(Vec::new())),
            false => read_names(&field, read).map(Some),
        }
    };

    Ok(Cors {
        allow_origins,
        allow_methods: names("allow_methods", read_cors_method)?
            .unwrap_or_else(|| ["GET", "HEAD", "POST"].map(str::to_owned).to_vec()),
        allow_headers: names("allow_headers", read_cors_header)?.unwrap_or_default(),
        expose_headers: names("expose_headers", read_cors_header)?.unwrap_or_default(),
        max_age: object.read("max_age", read_seconds)?,
        allow_credentials,
        private_network: flag("private_network")?,
    })
}

/// A duration of whole seconds.
pub(super) fn read_seconds(cursor: Cursor<'_>) -> Result<Duration, Rejection> {
    let duration = cursor.duration()?;
    match duration.subsec_nanos() {
        0 => Ok(duration),
        _ => Err(cursor.expected("a duration of whole seconds")),
    }
}

fn read_cors_method(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.string()? {
        method if method == "*" || is_method(method) => Ok(method.to_owned()),
        _ => parse_method(cursor, cursor.string()?),
    }
}

fn read_cors_header(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.string()? {
        "*" => Ok("*".to_owned()),
        name => parse_name(cursor, name, ""),
    }
}

fn read_origin(cursor: &Cursor<'_>) -> Result<StringMatch, Rejection> {
    let text = cursor.string()?;
    if text == "*" {
        return Ok(StringMatch::Exact(text.to_owned()));
    }
    if let Some(pattern) = text.strip_prefix('~') {
        regex::check(pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
        return Ok(StringMatch::Regex(pattern.to_owned()));
    }

    let expected = || cursor.expected(AN_ORIGIN);
    let lower = text.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://").ok_or_else(expected)?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_port = port.is_none_or(|port| {
        port.parse::<u16>()
            .is_ok_and(|number| number > 0 && number.to_string() == port)
    });
    let name = host.strip_prefix("*.").unwrap_or(host);
    if !is_scheme || !is_port || parse_host(name).is_err() {
        return Err(expected());
    }
    if name.len() == host.len() {
        return Ok(StringMatch::Exact(lower));
    }

    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let pattern = format!(
        "{}://[^/:]+\\.{}{port}",
        regex_syntax::escape(scheme),
        regex_syntax::escape(name)
    );
    regex::check(&pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
    Ok(StringMatch::Regex(pattern))
}

pub(super) fn read_ip_access(cursor: &Cursor<'_>) -> Result<IpAccess, Rejection> {
    let object = cursor.object(&IP_ACCESS_FIELDS)?;
    if object.present(&["allow", "deny"]).is_empty() {
        return Err(cursor.expected("\"allow\" or \"deny\""));
    }
    Ok(IpAccess {
        allow: read_some_ranges(&object, "allow")?,
        deny: read_some_ranges(&object, "deny")?.unwrap_or_default(),
        is_peer: object.read("address", |field| field.word(&ADDRESSES))?.unwrap_or(false),
    })
}

fn read_some_ranges(object: &Object<'_>, name: &str) -> Result<Option<Vec<IpNet>>, Rejection> {
    object.read(name, |field| read_ranges(&field))
}

/// Ranges of addresses, at least one; sorted and merged.
pub(super) fn read_ranges(cursor: &Cursor<'_>) -> Result<Vec<IpNet>, Rejection> {
    let entries = cursor.entries()?;
    if entries.len() > MAX_RANGES {
        return Err(cursor.reject(format!("found {} ranges, expected at most {MAX_RANGES}", entries.len())));
    }
    let ranges = entries.iter().map(read_range).collect::<Result<Vec<_>, _>>()?;
    Ok(IpNet::aggregate(&ranges))
}

fn read_range(cursor: &Cursor<'_>) -> Result<IpNet, Rejection> {
    let text = cursor.string()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let range: IpNet = text
        .parse()
        .map_err(|_| cursor.expected(r#"a range of addresses such as "10.0.0.0/8" or "2001:db8::/32""#))?;
    if range != range.trunc() {
        return Err(cursor.expected(&format!(
            "{}, without bits behind the prefix",
            quote(&range.trunc().to_string())
        )));
    }
    Ok(range)
}

pub(super) fn read_csrf(cursor: &Cursor<'_>) -> Result<Csrf, Rejection> {
    let object = cursor.object(&CSRF_FIELDS)?;
    let mut additional_origins = Vec::new();
    if let Some(field) = object.get("additional_origins") {
        let entries = field.list()?;
        if entries.len() > MAX_ORIGINS {
            return Err(field.reject(format!(
                "found {} origins, expected at most {MAX_ORIGINS}",
                entries.len()
            )));
        }
        for entry in &entries {
            additional_origins.push(read_plain(entry)?);
        }
    }
    Ok(Csrf { additional_origins })
}
