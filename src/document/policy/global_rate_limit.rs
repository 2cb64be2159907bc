//! `global_rate_limit`: a service counts the requests of all proxies.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::TEXT;
use super::super::route::Upstream;
use super::super::route::target::TARGET;
use super::rate_limit::{BY, By, read_by};
use super::service;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new("service", TARGET, "The service").required(),
    Field::new("domain", TEXT, "The domain of the limits").required(),
    Field::new(
        "descriptors",
        Shape::entries(
            &Shape::entries(&Shape::Object(&ENTRY_FIELDS), MAX_DESCRIPTORS),
            MAX_DESCRIPTORS,
        ),
        "Each is a list of entries; one without a value is not sent",
    )
    .required(),
    Field::new("timeout", Shape::Duration, "How long a request waits, at most 60 s").or("`\"100ms\"`"),
    service::ALLOWED,
    Field::new("headers", Shape::Flag, "Answers have `x-ratelimit-*`").or("`false`"),
    Field::new("status", service::STATUS, "The answer above the limit").or("`429`"),
]);
const ENTRY_FIELDS: Fields = Fields::of(&[
    Field::new("key", TEXT, "The key").required(),
    Field::new("value", TEXT, "A fixed value. One of `value` and `from`"),
    Field::new(
        "from",
        Shape::AnyOf(&[BY, Shape::Words(&["method", "path"])]),
        "A part of the request",
    ),
]);
const TIMEOUT: Duration = Duration::from_millis(100);
/// Most descriptors, and most entries of one.
const MAX_DESCRIPTORS: usize = 20;
/// Longest name or value, in bytes.
const MAX_TEXT: usize = 256;
/// The key that Envoy gives to the address of a client.
pub const ADDRESS_KEY: &str = "masked_remote_address";

/// `global_rate_limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalRateLimit {
    /// The service, which speaks `envoy.service.ratelimit.v3.RateLimitService`.
    pub service: Upstream,
    /// The domain of the descriptors.
    pub domain: String,
    /// Each has entries; a descriptor with a missing value is not sent.
    pub descriptors: Vec<Vec<Entry>>,
    /// How long a request waits for the service.
    pub timeout: Duration,
    /// Whether requests pass if the service does not answer.
    pub allows_on_error: bool,
    /// Whether answers carry `x-ratelimit-*`.
    pub headers: bool,
    /// The answer to a request above the limit.
    pub status: u16,
}

impl GlobalRateLimit {
    /// The parts of requests in the entries.
    pub(super) fn values(&self) -> impl Iterator<Item = &By> {
        self.descriptors
            .iter()
            .flatten()
            .filter_map(|entry| match &entry.value {
                EntryValue::By(by) => Some(by),
                _ => None,
            })
    }
}

/// One entry of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: EntryValue,
}

/// The value of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryValue {
    /// The same for every request.
    Fixed(String),
    /// A part of the request.
    By(By),
    /// The method.
    Method,
    /// The path with its query.
    Path,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<GlobalRateLimit, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let service = object.require("service", "the service: a cluster's name or \"grpc://host:port\"")?;
    let domain = object.require("domain", "the domain of the limits")?;
    let descriptors = object.require("descriptors", "a list of lists of entries")?;
    let lists = bounded(&descriptors)?;
    let descriptors = lists.iter().map(|list| bounded(list)?.iter().map(read_entry).collect());
    Ok(GlobalRateLimit {
        service: service::read_grpc(&service)?,
        domain: read_text(&domain)?,
        descriptors: descriptors.collect::<Result<_, _>>()?,
        timeout: service::read_timeout(&object, TIMEOUT)?,
        allows_on_error: service::read_on_error(&object, true)?,
        headers: object.read("headers", |field| field.bool())?.unwrap_or(false),
        status: service::read_status(&object, "status", 429)?,
    })
}

fn bounded<'a>(list: &Cursor<'a>) -> Result<Vec<Cursor<'a>>, Rejection> {
    let entries = list.entries()?;
    match entries.len() {
        count if count > MAX_DESCRIPTORS => {
            Err(list.reject(format!("found {count} entries, expected at most {MAX_DESCRIPTORS}")))
        }
        _ => Ok(entries),
    }
}

fn read_text(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.text()? {
        text if text.len() <= MAX_TEXT && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(cursor.expected("a text of at most 256 bytes without control characters")),
    }
}

fn read_entry(cursor: &Cursor<'_>) -> Result<Entry, Rejection> {
    let object = cursor.object(&ENTRY_FIELDS)?;
    let key_field = object.require("key", "the key of the entry")?;
    let key = read_text(&key_field)?;
    let value = match (object.get("value"), object.get("from")) {
        (Some(value), None) => EntryValue::Fixed(read_text(&value)?),
        (None, Some(from)) => match from.value().as_str() {
            Some("method") => EntryValue::Method,
            Some("path") => EntryValue::Path,
            Some("client_ip" | "route" | "client") | None => EntryValue::By(read_by(&from)?),
            Some(_) => {
                return Err(from.expected(
                    r#""client_ip", "route", "client", "method", "path", {"header": …}, {"query": …} or {"claim": …}"#,
                ));
            }
        },
        _ => return Err(cursor.expected("one of \"value\" and \"from\" beside \"key\"")),
    };
    if value == EntryValue::By(By::ClientIp) && key != ADDRESS_KEY {
        return Err(key_field.expected(&format!("{ADDRESS_KEY:?}, Envoy's key for the address of a client")));
    }
    Ok(Entry { key, value })
}
