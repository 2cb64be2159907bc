//! `ext_authz`: a service decides about each request.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{HEADER, STRING};
use super::super::route::Upstream;
use super::super::route::path::parse_replacement;
use super::super::route::target::TARGET;
use super::service;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "grpc",
        TARGET,
        "The service, over gRPC. One of `grpc` and `http` is required",
    ),
    Field::new("http", TARGET, "The service, over HTTP"),
    Field::new(
        "path_prefix",
        Shape::Text("path", Some("^/")),
        "`http`: comes before the path of the request",
    )
    .or("none"),
    Field::new("timeout", Shape::Duration, "How long a request waits, at most 60 s").or("`\"1s\"`"),
    service::DENIED,
    Field::new("error_status", service::STATUS, "The answer then").or("`503`"),
    Field::new(
        "request_headers",
        Shape::entries(&HEADER, usize::MAX),
        "Headers that the service sees",
    )
    .or("gRPC: all; HTTP: `authorization`"),
    Field::new(
        "drop_headers",
        service::HEADER_NAMES,
        "Headers that the service never sees",
    )
    .or("`[]`"),
    Field::new(
        "body",
        Shape::Object(&BODY_FIELDS),
        "The service sees the body, and the request waits for it",
    )
    .or("none"),
    Field::new("context", Shape::Map(&STRING), "`grpc`: values beside the request").or("`{}`"),
    Field::new(
        "upstream_headers",
        service::HEADER_NAMES,
        "`http`: headers of the 200 of the service for the upstream",
    )
    .or("`[]`"),
    Field::new(
        "client_headers",
        service::HEADER_NAMES,
        "`http`: headers of a refusal for the client, beside `www-authenticate` and `location`",
    )
    .or("`[]`"),
]);
const BODY_FIELDS: Fields = Fields::of(&[
    Field::new(
        "max",
        Shape::Size(1, MAX_BODY),
        "The largest part that the service sees",
    )
    .or("`\"64KiB\"`"),
    Field::new("partial", Shape::Flag, "`true`: a longer body is cut; else it is 413").or("`false`"),
]);
/// Fields of a service that speaks HTTP.
const OF_HTTP: [&str; 3] = ["path_prefix", "upstream_headers", "client_headers"];
/// Largest part of a body that the service sees, in bytes.
const MAX_BODY: u32 = 4 * 1024 * 1024;
const BODY: u32 = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(1);
/// Most entries of `context`, and the longest name or value.
const MAX_CONTEXT: (usize, usize) = (100, 1024);

/// `ext_authz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthz {
    /// The service.
    pub service: Upstream,
    /// How the service is asked.
    pub protocol: Protocol,
    /// How long a request waits for the service.
    pub timeout: Duration,
    /// Whether requests pass if the service does not answer.
    pub allows_on_error: bool,
    /// The answer to requests that the service did not judge.
    pub error_status: u16,
    /// The headers that the service sees; `None`: over gRPC all, over HTTP `authorization` alone.
    pub request_headers: Option<Vec<String>>,
    /// Headers that the service never sees.
    pub drop_headers: Vec<String>,
    /// The body that the service sees; `None`: none.
    pub body: Option<Body>,
}

/// The protocol of the service, and the settings that only one of the two has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc {
        /// Values that the service gets beside the request.
        context: BTreeMap<String, String>,
    },
    /// A request for each request: 200 lets it pass.
    Http {
        /// What comes before the path of the request.
        path_prefix: String,
        /// Headers of the service's 200 that the upstream gets.
        upstream_headers: Vec<String>,
        /// Headers of the service's refusal that the client gets, beside `www-authenticate` and `location`.
        client_headers: Vec<String>,
    },
}

/// `body`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// In bytes.
    pub max: u32,
    /// Whether a longer body is cut; else it is answered with 413.
    pub partial: bool,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<ExtAuthz, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let names = |field: Cursor<'_>| service::read_header_names(&field);
    let (service, protocol) = match (object.get("grpc"), object.get("http")) {
        (Some(grpc), None) => {
            if let Some(name) = object.present(&OF_HTTP).first() {
                let field = object.require(name, "nothing")?;
                return Err(field.reject("found beside \"grpc\", expected it beside \"http\" only"));
            }
            let context = object
                .read("context", |field| read_context(&field))?
                .unwrap_or_default();
            (service::read_grpc(&grpc)?, Protocol::Grpc { context })
        }
        (None, Some(http)) => {
            if let Some(field) = object.get("context") {
                return Err(field.reject("found beside \"http\", expected it beside \"grpc\" only"));
            }
            let protocol = Protocol::Http {
                path_prefix: object
                    .read("path_prefix", |field| parse_replacement(&field))?
                    .unwrap_or_default(),
                upstream_headers: object.read("upstream_headers", names)?.unwrap_or_default(),
                client_headers: object.read("client_headers", names)?.unwrap_or_default(),
            };
            (service::read_http(&http)?, protocol)
        }
        _ => return Err(cursor.expected("one of \"grpc\" and \"http\", the service")),
    };

    Ok(ExtAuthz {
        service,
        protocol,
        timeout: service::read_timeout(&object, TIMEOUT)?,
        allows_on_error: service::read_on_error(&object, false)?,
        error_status: service::read_status(&object, "error_status", 503)?,
        request_headers: read_request_headers(&object)?,
        drop_headers: object.read("drop_headers", names)?.unwrap_or_default(),
        body: object.read("body", |field| read_body(&field))?,
    })
}

fn read_request_headers(object: &Object<'_>) -> Result<Option<Vec<String>>, Rejection> {
    object.read("request_headers", |field| match service::read_header_names(&field)? {
        // Envoy takes an empty list for none at all, and sends every header.
        names if names.is_empty() => Err(field.expected("at least one header, or null")),
        names => Ok(names),
    })
}

fn read_body(cursor: &Cursor<'_>) -> Result<Body, Rejection> {
    let object = cursor.object(&BODY_FIELDS)?;
    Ok(Body {
        max: object.read("max", |field| field.size(1..=MAX_BODY))?.unwrap_or(BODY),
        partial: object.read("partial", |field| field.bool())?.unwrap_or(false),
    })
}

fn read_context(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    let (most, longest) = MAX_CONTEXT;
    let entries = cursor.map()?;
    if entries.len() > most {
        return Err(cursor.reject(format!("found {} entries, expected at most {most}", entries.len())));
    }
    let mut context = BTreeMap::new();
    for (name, value) in entries {
        let text = value.value().as_str().ok_or_else(|| value.confidential("a string"))?;
        if name.is_empty() || name.len().max(text.len()) > longest {
            return Err(value.reject(format!("expected a name and a value of at most {longest} bytes")));
        }
        context.insert(name.to_owned(), text.to_owned());
    }
    Ok(context)
}
