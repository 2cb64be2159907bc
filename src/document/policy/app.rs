//! The kinds next to the upstream: `body_limit`, buffer, fault, sticky; and maintenance.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::regex::may_match_nothing;
use super::super::route::StringMatch;
use super::super::route::condition;
use super::edge::read_seconds;

pub(super) const LIMIT_FIELDS: Fields =
    Fields::of(&[Field::new("max", Shape::Size(1, u32::MAX), "Largest request body").required()]);
pub(super) const FAULT_FIELDS: Fields = Fields::of(&[
    Field::new(
        "abort",
        Shape::Object(&ABORT_FIELDS),
        "Errors. One of `abort` and `delay` is required",
    ),
    Field::new("delay", Shape::Object(&DELAY_FIELDS), "Delays before a request goes on"),
    Field::new("when", Shape::Object(&CONDITION_FIELDS), "Only for these requests").or("every request"),
])
.filled();
const ABORT_FIELDS: Fields = Fields::of(&[
    Field::new(
        "status",
        Shape::Whole(200, 599),
        "The status. One of `status` and `grpc_status` is required",
    ),
    Field::new("grpc_status", Shape::Whole(1, 16), "The status of gRPC"),
    SHARE,
    Field::new("body", BODY, "Text of the answer").or("Envoy's text"),
]);
const DELAY_FIELDS: Fields = Fields::of(&[Field::new("duration", Shape::Duration, "The delay").required(), SHARE]);
const SHARE: Field = Field::new(
    "percent",
    Shape::Percent,
    "Share of the requests, four decimals at most",
)
.required();
const BODY: Shape = Shape::Text("string, 4,096 bytes at most", None);
const CONDITION_FIELDS: Fields = Fields::of(&[Field::new(
    "headers",
    condition::FILLED_HEADERS,
    "All of these conditions on headers, at least one",
)
.required()]);
pub(super) const STICKY_FIELDS: Fields = Fields::of(&[
    Field::new("cookie", Shape::Object(&COOKIE_FIELDS), "The cookie with the endpoint").or("`{}`"),
    Field::new(
        "strict",
        Shape::Flag,
        "`true`: 503 if the endpoint is gone; else another one",
    )
    .or("`false`"),
]);
const COOKIE_FIELDS: Fields = Fields::of(&[
    Field::new(
        "name",
        Shape::Text("name of a cookie", Some("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")),
        "Name of the cookie",
    )
    .or("`\"lb\"`"),
    Field::new("ttl", Shape::Duration, "Life of the cookie, in whole seconds").or("until the browser closes"),
    Field::new("path", Shape::Text("path", Some("^/")), "Path of the cookie").or("`\"/\"`"),
]);
pub(super) const MAINTENANCE_FIELDS: Fields = Fields::of(&[
    Field::new("status", Shape::Whole(400, 599), "Status of the answer").or("`503`"),
    Field::new(
        "retry_after",
        Shape::Duration,
        "The header `retry-after`, in whole seconds",
    )
    .or("`\"5m\"`"),
    Field::new("body", BODY, "Body of the answer").or("`\"\"`"),
    Field::new(
        "content_type",
        Shape::Text("content type", Some("/")),
        "The header `content-type`",
    )
    .or("`\"text/plain\"`"),
    Field::new("unless", Shape::Object(&CONDITION_FIELDS), "These requests pass").or("none"),
]);
/// The warning on every `sticky`.
pub(super) const STICKY_WARNING: &str =
    "the cookie tells clients the address of an endpoint, and lets them choose among those of the cluster";
/// Longest body of an answer, in bytes: Envoy's.
const MAX_BODY: usize = 4096;
/// Longest name, path or content type, in bytes.
const MAX_TEXT: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// `fault`: at least one of abort and delay.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// An error instead of the upstream's answer.
    pub abort: Option<Abort>,
    /// A wait before the request goes on.
    pub delay: Option<Delay>,
    /// Only requests with all of these headers.
    pub headers: Vec<(String, StringMatch)>,
}

/// `fault.abort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// The error.
    pub status: AbortStatus,
    /// The share of requests, in millionths.
    pub millionths: u32,
    /// Text of the answer.
    pub body: Option<String>,
}

/// The status of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// 200..=599.
    Http(u32),
    /// 1..=16.
    Grpc(u32),
}

/// `fault.delay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// The wait.
    pub duration: Duration,
    /// The share of requests, in millionths.
    pub millionths: u32,
}

/// `sticky`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub name: String,
    /// `None`: until the browser closes.
    pub ttl: Option<Duration>,
    /// The cookie's path.
    pub path: String,
    /// If its endpoint is gone: 503; otherwise another endpoint.
    pub strict: bool,
}

/// `maintenance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// 400..=599.
    pub status: u16,
    /// The header `retry-after`.
    pub retry_after: Duration,
    /// At most 4096 bytes.
    pub body: String,
    /// The header `content-type`.
    pub content_type: String,
    /// Requests with all of these headers pass; empty: none does.
    pub unless: Vec<(String, StringMatch)>,
}

/// `body_limit` and `buffer`, in bytes.
pub(super) fn read_body_limit(cursor: &Cursor<'_>) -> Result<u32, Rejection> {
    cursor
        .object(&LIMIT_FIELDS)?
        .require("max", "a size such as \"10MiB\"")?
        .size(1..=u32::MAX)
}

pub(super) fn read_fault(cursor: &Cursor<'_>) -> Result<Fault, Rejection> {
    let object = cursor.object(&FAULT_FIELDS)?;
    if object.present(&["abort", "delay"]).is_empty() {
        return Err(cursor.expected("\"abort\" or \"delay\""));
    }
    Ok(Fault {
        abort: object.read("abort", |field| read_abort(&field))?,
        delay: object.read("delay", |field| read_delay(&field))?,
        headers: object.read("when", |field| read_headers(&field))?.unwrap_or_default(),
    })
}

fn read_abort(cursor: &Cursor<'_>) -> Result<Abort, Rejection> {
    let object = cursor.object(&ABORT_FIELDS)?;
    let status = match (object.get("status"), object.get("grpc_status")) {
        (Some(status), None) => AbortStatus::Http(status.integer(200..=599)?),
        (None, Some(status)) => AbortStatus::Grpc(status.integer(1..=16)?),
        _ => return Err(cursor.expected("one of \"status\" and \"grpc_status\"")),
    };
    Ok(Abort {
        status,
        millionths: read_share(&object)?,
        body: object.read("body", |field| read_body(&field))?,
    })
}

fn read_delay(cursor: &Cursor<'_>) -> Result<Delay, Rejection> {
    let object = cursor.object(&DELAY_FIELDS)?;
    Ok(Delay {
        duration: object.require("duration", "a duration such as \"250ms\"")?.duration()?,
        millionths: read_share(&object)?,
    })
}

/// `percent`, in millionths. It has no default: Envoy's is 0, that of others 100.
fn read_share(object: &Object<'_>) -> Result<u32, Rejection> {
    let field = object.require("percent", "a number from 0 to 100")?;
    let scaled = field.percent()? * 10_000.0;
    let rounded = scaled.round();
    if (scaled - rounded).abs() > 1e-6 {
        return Err(field.expected("at most four decimals"));
    }
    // The text of a whole number from 0 to a million is always a `u32`.
    Ok(format!("{rounded:.0}").parse().unwrap_or_default())
}

fn read_body(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    if text.len() > MAX_BODY {
        return Err(cursor.reject(format!("found {} bytes, expected at most {MAX_BODY}", text.len())));
    }
    Ok(text.to_owned())
}

/// Conditions on headers, in one list for Envoy: a condition that takes two entries of a route is rejected.
fn read_headers(cursor: &Cursor<'_>) -> Result<Vec<(String, StringMatch)>, Rejection> {
    let field = cursor
        .object(&CONDITION_FIELDS)?
        .require("headers", "conditions on headers")?;
    let headers = condition::read_headers(&field)?;
    for (name, value) in &headers {
        let StringMatch::Not(inner) = value else { continue };
        let is_met_by_nothing = match &**inner {
            StringMatch::Exact(text) => text.is_empty(),
            StringMatch::Regex(pattern) => may_match_nothing(pattern),
            _ => false,
        };
        if let Some(place) = field.get(name).filter(|_| is_met_by_nothing) {
            return Err(place.reject("found \"not\" of the empty text, expected another condition or \"present\""));
        }
    }
    match headers.is_empty() {
        true => Err(field.expected("at least one condition")),
        false => Ok(headers),
    }
}

pub(super) fn read_sticky(cursor: &Cursor<'_>) -> Result<Sticky, Rejection> {
    let object = cursor.object(&STICKY_FIELDS)?;
    let cookie = object.read("cookie", |field| field.object(&COOKIE_FIELDS))?;
    let cookie = cookie.as_ref();
    let field = |name| cookie.and_then(|cookie| cookie.get(name));
    Ok(Sticky {
        name: field("name").map_or_else(|| Ok("lb".to_owned()), |field| read_cookie_name(&field))?,
        ttl: field("ttl").map(read_seconds).transpose()?,
        path: field("path").map_or_else(|| Ok("/".to_owned()), |field| read_cookie_path(&field))?,
        strict: object.read("strict", |field| field.bool())?.unwrap_or(false),
    })
}

pub(super) fn read_cookie_name(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > MAX_TEXT || !text.bytes().all(letter) {
        return Err(cursor.expected("the name of a cookie, a token such as \"lb\""));
    }
    Ok(text.to_owned())
}

fn read_cookie_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let letter = |byte: u8| byte.is_ascii_graphic() && byte != b';' && byte != b',';
    if !text.starts_with('/') || text.len() > MAX_TEXT || !text.bytes().all(letter) {
        return Err(cursor.expected("a path such as \"/\""));
    }
    Ok(text.to_owned())
}

pub(super) fn read_maintenance(cursor: &Cursor<'_>) -> Result<Maintenance, Rejection> {
    let object = cursor.object(&MAINTENANCE_FIELDS)?;
    Ok(Maintenance {
        status: object.read("status", |field| field.integer(400..=599))?.unwrap_or(503),
        retry_after: object.read("retry_after", read_seconds)?.unwrap_or(RETRY_AFTER),
        body: object.read("body", |field| read_body(&field))?.unwrap_or_default(),
        content_type: object
            .read("content_type", |field| read_content_type(&field))?
            .unwrap_or_else(|| "text/plain".to_owned()),
        unless: object.read("unless", |field| read_headers(&field))?.unwrap_or_default(),
    })
}

fn read_content_type(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !text.contains('/') || text.len() > MAX_TEXT || !is_printable || text.contains('%') || text.trim() != text {
        return Err(cursor.expected("a content type such as \"text/html; charset=utf-8\""));
    }
    Ok(text.to_owned())
}
