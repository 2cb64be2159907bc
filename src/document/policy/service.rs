//! Parts that the kinds with a service share: the target of the service, the answer without it, lists of headers.

use std::sync::Arc;
use std::time::Duration;

use super::super::decode::{Cursor, Field, Object, Shape};
use super::super::field::{HEADER, words};
use super::super::reference::Reference;
use super::super::route::Upstream;
use super::super::route::header::parse_name;
use super::super::route::target::read_target;
use super::super::secret::Shape as SecretShape;
use super::super::{Rejection, name};

/// Most names of a list of headers.
const MAX_HEADERS: usize = 100;
/// Longest wait for a service.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// The statuses from 400 on that Envoy knows by name.
const STATUSES: [u16; 37] = [
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 426,
    428, 429, 431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];
/// Rows that kinds with a service share.
pub(super) const DENIED: Field = Field::new("on_error", ERRORS, "If the service does not answer").or("`\"deny\"`");
pub(super) const ALLOWED: Field = Field::new("on_error", ERRORS, "If the service does not answer").or("`\"allow\"`");
const ERRORS: Shape = Shape::Words(&words(&ON_ERROR));
pub(super) const HEADER_NAMES: Shape = Shape::List {
    of: &HEADER,
    least: 0,
    most: MAX_HEADERS,
    once: false,
};
pub(super) const STATUS: Shape = Shape::Whole(400, 599);
/// `on_error`: whether requests pass without an answer of the service.
const ON_ERROR: [(&str, bool); 2] = [("allow", true), ("deny", false)];

/// A service that speaks gRPC: a cluster's name, `grpc://host:port` or `grpcs://host:port`.
pub(super) fn read_grpc(cursor: &Cursor<'_>) -> Result<Upstream, Rejection> {
    match read_target(cursor, cursor.string()?)? {
        Upstream::Url(url) if !url.http2 => {
            Err(cursor.expected("a cluster's name, \"grpc://host:port\" or \"grpcs://host:port\""))
        }
        target => Ok(target),
    }
}

/// A service that speaks HTTP: a cluster's name, or a URL without a path.
pub(super) fn read_http(cursor: &Cursor<'_>) -> Result<Upstream, Rejection> {
    match read_target(cursor, cursor.string()?)? {
        Upstream::Url(url) if url.http2 => Err(cursor.expected("a cluster's name, or an http or https URL")),
        target => Ok(target),
    }
}

/// `timeout`: how long a request waits for the service.
pub(super) fn read_timeout(object: &Object<'_>, default: Duration) -> Result<Duration, Rejection> {
    let read = |field: Cursor<'_>| match field.duration()? {
        timeout if timeout > MAX_TIMEOUT => Err(field.expected("a duration of at most \"60s\"")),
        timeout => Ok(timeout),
    };
    Ok(object.read("timeout", read)?.unwrap_or(default))
}

/// `on_error`: whether requests pass if the service does not answer.
pub(super) fn read_on_error(object: &Object<'_>, default: bool) -> Result<bool, Rejection> {
    let read = |field: Cursor<'_>| field.word(&ON_ERROR);
    Ok(object.read("on_error", read)?.unwrap_or(default))
}

/// A status of an error that Envoy knows.
pub(super) fn read_status(object: &Object<'_>, name: &str, default: u16) -> Result<u16, Rejection> {
    let read = |field: Cursor<'_>| {
        let status = field.integer(400..=599)?;
        match STATUSES.contains(&status) {
            true => Ok(status),
            false => Err(field.expected("a status that Envoy knows, such as 403, 429 or 503")),
        }
    };
    Ok(object.read(name, read)?.unwrap_or(default))
}

/// A list of header names, in lower case.
pub(super) fn read_header_names(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let entries = cursor.list()?;
    if entries.len() > MAX_HEADERS {
        return Err(cursor.reject(format!(
            "found {} headers, expected at most {MAX_HEADERS}",
            entries.len()
        )));
    }
    entries.iter().map(read_header_name).collect()
}

/// The name of a header, in lower case.
pub(super) fn read_header_name(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    parse_name(cursor, cursor.string()?, "")
}

/// A secrets document that a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    /// The field, below the kind: `users`.
    pub field: String,
    /// The name.
    pub name: Arc<str>,
    /// The shape that the policy needs.
    pub shapes: &'static [SecretShape],
}

impl SecretName {
    /// The name of a secret at a field of a policy of `kind`. A text that is no name may be a secret itself, so it is
    /// never quoted.
    pub(super) fn read(cursor: &Cursor<'_>, kind: &str, shapes: &'static [SecretShape]) -> Result<Self, Rejection> {
        let text = cursor.value().as_str().filter(|text| name::is_name(text));
        let name = text.ok_or_else(|| cursor.confidential("the name of a secrets document"))?;
        let below = cursor.path().rfind(kind).map_or(0, |start| start + kind.len() + 1);
        Ok(Self {
            field: cursor.path().get(below..).unwrap_or_default().to_owned(),
            name: name.into(),
            shapes,
        })
    }

    /// The reference of a policy that stands at `place`.
    pub(super) fn reference(&self, place: &str) -> Reference {
        Reference::secret(format!("{place}.{}", self.field), &self.name, self.shapes)
    }
}
