//! `ext_proc`: a service reads and changes requests and answers.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{STRING, words};
use super::super::route::Upstream;
use super::super::route::target::TARGET;
use super::service;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new("grpc", TARGET, "The service").required(),
    Field::new(
        "request",
        Shape::Object(&REQUEST_FIELDS),
        "The parts of requests that the service gets",
    )
    .or("headers"),
    Field::new(
        "response",
        Shape::Object(&PART_FIELDS),
        "The parts of answers that the service gets",
    )
    .or("none"),
    Field::new("timeout", Shape::Duration, "Of each message, at most 60 s").or("`\"200ms\"`"),
    service::DENIED,
    Field::new(
        "attributes",
        Shape::List {
            of: &STRING,
            least: 0,
            most: MAX_ATTRIBUTES.0,
            once: false,
        },
        "Attributes of the request for the service",
    )
    .or("`[]`"),
]);
const PART_FIELDS: Fields = Fields::of(&[
    Field::new("headers", Shape::Flag, "Headers").or("`false`"),
    Field::new("body", Shape::Words(&words(&BODIES)), "The body").or("`\"none\"`"),
    Field::new("trailers", Shape::Flag, "Trailers").or("`false`"),
]);
const REQUEST_FIELDS: Fields = Fields::of(&[
    Field::new("headers", Shape::Flag, "Headers").or("`true`"),
    Field::new("body", Shape::Words(&words(&BODIES)), "The body").or("`\"none\"`"),
    Field::new("trailers", Shape::Flag, "Trailers").or("`false`"),
]);
const BODIES: [(&str, BodyMode); 3] = [
    ("none", BodyMode::None),
    ("streamed", BodyMode::Streamed),
    ("buffered", BodyMode::Buffered),
];
const TIMEOUT: Duration = Duration::from_millis(200);
/// Most attributes, and the longest one, in bytes.
const MAX_ATTRIBUTES: (usize, usize) = (100, 256);

/// `ext_proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtProc {
    /// The service, which speaks `envoy.service.ext_proc.v3.ExternalProcessor`.
    pub service: Upstream,
    /// The parts of requests that the service gets.
    pub request: Parts,
    /// The parts of answers that the service gets.
    pub response: Parts,
    /// How long Envoy waits for each message of the service.
    pub timeout: Duration,
    /// Whether requests go on if the service does not answer.
    pub allows_on_error: bool,
    /// Attributes of a request that the service gets.
    pub attributes: Vec<String>,
}

impl ExtProc {
    /// Whether the service gets bodies.
    #[must_use]
    pub fn has_bodies(&self) -> bool {
        [self.request, self.response]
            .iter()
            .any(|parts| parts.body != BodyMode::None)
    }
}

/// The parts of a message that the service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Headers.
    pub headers: bool,
    /// The body.
    pub body: BodyMode,
    /// Trailers.
    pub trailers: bool,
}

/// How the service gets a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMode {
    /// Not at all.
    None,
    /// In pieces.
    Streamed,
    /// As a whole.
    Buffered,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<ExtProc, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let part = |name, headers| {
        let read = object.read(name, |field| read_parts(&field, headers))?;
        Ok::<_, Rejection>(read.unwrap_or(Parts {
            headers,
            body: BodyMode::None,
            trailers: false,
        }))
    };
    let (request, response) = (part("request", true)?, part("response", false)?);
    let is_idle = |parts: Parts| !parts.headers && parts.body == BodyMode::None && !parts.trailers;
    if is_idle(request) && is_idle(response) {
        return Err(cursor.reject("found no part that the service gets, expected at least one"));
    }
    Ok(ExtProc {
        service: service::read_grpc(&object.require("grpc", "the service: a cluster's name or \"grpc://host:port\"")?)?,
        request,
        response,
        timeout: service::read_timeout(&object, TIMEOUT)?,
        allows_on_error: service::read_on_error(&object, false)?,
        attributes: object
            .read("attributes", |field| read_attributes(&field))?
            .unwrap_or_default(),
    })
}

fn read_parts(cursor: &Cursor<'_>, headers: bool) -> Result<Parts, Rejection> {
    let object = cursor.object(&PART_FIELDS)?;
    Ok(Parts {
        headers: object.read("headers", |field| field.bool())?.unwrap_or(headers),
        body: object
            .read("body", |field| field.word(&BODIES))?
            .unwrap_or(BodyMode::None),
        trailers: object.read("trailers", |field| field.bool())?.unwrap_or(false),
    })
}

/// Names such as `request.path`: Envoy drops an unknown one without a word.
fn read_attributes(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let (most, longest) = MAX_ATTRIBUTES;
    let entries = cursor.list()?;
    if entries.len() > most {
        return Err(cursor.reject(format!("found {} attributes, expected at most {most}", entries.len())));
    }
    let read = |entry: &Cursor<'_>| {
        let text = entry.string()?;
        let segment = |segment: &str| {
            segment.starts_with(|first: char| first.is_ascii_lowercase())
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        match text.len() <= longest && text.split('.').all(segment) {
            true => Ok(text.to_owned()),
            false => Err(entry.expected("an attribute such as \"request.path\" or \"source.address\"")),
        }
    };
    entries.iter().map(read).collect()
}
