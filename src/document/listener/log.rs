//! `http.access_log` and `http.tracing`: where requests are recorded.
//!
//! The commands of formats are checked by the compiler, which has Envoy's list.

use std::collections::BTreeMap;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{HEADER, TEXT};
use super::super::route::Upstream;
use super::super::route::header::parse_name;
use super::super::route::target::{TARGET, read_target};
use super::super::sentence::did_you_mean;

/// `access_log`, as a shape.
pub(super) const SHAPE: Shape = Shape::AnyOf(&[
    Shape::Words(&["text", "json"]),
    Shape::List {
        of: &Shape::Object(&LOG_FIELDS),
        least: 0,
        most: MAX_LOGS,
        once: false,
    },
]);
const LOG_FIELDS: Fields = Fields::of(&[
    Field::new(
        "to",
        Shape::Text(
            "`\"stdout\"`, `\"stderr\"`, `\"file:PATH\"`, `\"otlp:TARGET\"`, `\"grpc:TARGET\"`",
            Some("^(stdout|stderr|file:.+|otlp:.+|grpc:.+)$"),
        ),
        "A file must be below `--access-log-dir`. `otlp` is OpenTelemetry (by HTTP if TARGET is an `http` or `https` \
         URL, else by gRPC), `grpc` Envoy's own protocol",
    )
    .required(),
    Field::new(
        "format",
        Shape::AnyOf(&[Shape::Words(&["json", "text"]), Shape::FilledMap(&TEXT)]),
        "Form of a line; an object has names and formats. A format has [Envoy's \
         commands](https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage); an \
         unknown one is rejected. Not of `grpc`",
    )
    .or("`\"json\"`"),
    Field::new("fields", FORMATS, "More fields of a JSON line, by name"),
    Field::new(
        "only",
        Shape::Object(&ONLY_FIELDS),
        "Requests that fulfil both conditions",
    )
    .or("all"),
    Field::new(
        "query",
        Shape::Flag,
        "Whether paths have their query. Keys and tokens travel there. `grpc` always has it",
    )
    .or("`false`"),
]);
const FORMATS: Shape = Shape::Map(&TEXT);
const ONLY_FIELDS: Fields = Fields::of(&[
    Field::new(
        "status",
        Shape::Text("`>=`, `<=` or `=` and a status", Some("^(>=|<=|=)[0-9]+$")),
        "Requests with such a status, from 100 to 599",
    )
    .or("any"),
    Field::new("percent", Shape::Percent, "A share of the requests").or("`100`"),
])
.filled();
/// The fields of `tracing`.
pub(super) const TRACING_FIELDS: Fields = Fields::of(&[
    Field::new(
        "to",
        TARGET,
        "A collector of OpenTelemetry; a cluster's name or `grpc://` for gRPC, an `http` URL for HTTP",
    )
    .required(),
    Field::new(
        "sample_percent",
        Shape::Percent,
        "Requests that begin a trace. A client cannot ask for one",
    )
    .or("`1`"),
    Field::new(
        "trust_parent",
        Shape::Flag,
        "Whether the trace of a client goes on, with its decision (`traceparent`); else its headers are removed",
    )
    .or("`true`"),
    Field::new("service", TEXT, "`service.name`").or("NAME"),
    Field::new(
        "tags",
        Shape::Map(&Shape::AnyOf(&[TEXT, Shape::Object(&TAG_FIELDS)])),
        "More attributes of each span, by name",
    ),
]);
const TAG_FIELDS: Fields = Fields::of(&[Field::new("header", HEADER, "The value of this request header").required()]);
/// Most access logs of a listener.
const MAX_LOGS: usize = 10;
/// Most fields of a line, and tags of a span.
const MAX_NAMES: usize = 100;
/// Longest name of a field, and longest text of a field, in bytes.
const MAX_TEXT: usize = 4096;
const A_SINK: &str = r#""stdout", "stderr", "file:PATH", "otlp:TARGET" or "grpc:TARGET""#;

/// One access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub to: Sink,
    /// The form of a line.
    pub format: LogFormat,
    /// More fields of a JSON line, by name.
    pub fields: BTreeMap<String, String>,
    /// The requests that are logged.
    pub only: Only,
    /// Whether paths are logged with their query.
    pub query: bool,
}

/// The place of access log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Envoy's standard output.
    Stdout,
    /// Envoy's standard error.
    Stderr,
    /// A file on Envoy's host.
    File(String),
    /// A collector of OpenTelemetry.
    Otlp(Upstream),
    /// A service with Envoy's own protocol (ALS).
    Grpc(Upstream),
}

/// The form of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One line of JSON with the usual fields.
    Json,
    /// One line of JSON with these fields.
    Fields(BTreeMap<String, String>),
}

/// The requests that are logged: those that fulfil both conditions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Only {
    /// Requests with such a status; default: any.
    pub status: Option<StatusIs>,
    /// A share of the requests; default: all.
    pub percent: Option<f64>,
}

/// A condition on the status of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusIs {
    /// `>=`.
    AtLeast(u16),
    /// `<=`.
    AtMost(u16),
    /// `=`.
    Exactly(u16),
}

/// `tracing`: spans for OpenTelemetry.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector.
    pub to: Upstream,
    /// The share of requests that begin a trace.
    pub sample_percent: f64,
    /// Whether the trace of a client goes on (`traceparent`).
    pub trust_parent: bool,
    /// `service.name`; default: the name of the listener.
    pub service: Option<String>,
    /// More attributes of each span, by name.
    pub tags: BTreeMap<String, Tag>,
}

/// The value of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// This text.
    Text(String),
    /// The value of a request header, lower-cased.
    Header(String),
}

/// `"json"`, `"text"`, or a list of access logs.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Vec<AccessLog>, Rejection> {
    if !cursor.value().is_array() {
        let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let word = cursor.value().as_str();
        let Some((_, format)) = words.iter().find(|(name, _)| Some(*name) == word) else {
            let hint = did_you_mean(word.unwrap_or_default(), ["text", "json"]);
            return Err(cursor.expected(&format!("\"text\", \"json\" or a list of access logs{hint}")));
        };
        return Ok(vec![AccessLog {
            to: Sink::Stdout,
            format: format.clone(),
            fields: BTreeMap::new(),
            only: Only::default(),
            query: false,
        }]);
    }

    let entries = cursor.list()?;
    if entries.len() > MAX_LOGS {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} access logs, expected at most {MAX_LOGS}")));
    }
    entries.iter().map(read_log).collect()
}

fn read_log(cursor: &Cursor<'_>) -> Result<AccessLog, Rejection> {
    let object = cursor.object(&LOG_FIELDS)?;
    let format = object
        .read("format", |field| read_format(&field))?
        .unwrap_or(LogFormat::Json);
    let to = read_sink(&object.require("to", A_SINK)?)?;
    if let (Some(field), LogFormat::Text) = (object.get("fields"), &format) {
        return Err(field.reject("found beside the format \"text\", expected a format of JSON"));
    }
    if let (Sink::Grpc(_), Some(field)) = (&to, object.get("format").or_else(|| object.get("fields"))) {
        return Err(field.reject("found beside \"grpc:\", whose messages have a form of their own, expected none"));
    }
    if let (Sink::Grpc(_), Some(field)) = (&to, object.get("query")) {
        return Err(field.reject("found beside \"grpc:\", whose messages always have the query, expected none"));
    }
    Ok(AccessLog {
        to,
        format,
        fields: object.read("fields", |field| read_texts(&field))?.unwrap_or_default(),
        only: object.read("only", |field| read_only(&field))?.unwrap_or_default(),
        query: object.read("query", |field| field.bool())?.unwrap_or(false),
    })
}

fn read_sink(cursor: &Cursor<'_>) -> Result<Sink, Rejection> {
    let text = cursor.string()?;
    match (text, text.split_once(':')) {
        ("stdout", _) => Ok(Sink::Stdout),
        ("stderr", _) => Ok(Sink::Stderr),
        (_, Some(("file", path))) => read_path(cursor, path).map(Sink::File),
        (_, Some(("otlp", target))) => read_target(cursor, target).map(Sink::Otlp),
        (_, Some(("grpc", target))) => read_target(cursor, target).map(Sink::Grpc),
        _ => Err(cursor.expected(A_SINK)),
    }
}

/// An absolute path without detours; the compiler knows below which folder it must be.
fn read_path(cursor: &Cursor<'_>, path: &str) -> Result<String, Rejection> {
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    let segments = path.strip_prefix('/').map(|rest| rest.split('/'));
    let is_plain = segments.is_some_and(|mut segments| segments.all(plain));
    if !is_plain || path.len() > MAX_TEXT || path.contains(char::is_control) {
        return Err(
            cursor.expected("\"file:\" and an absolute path without \"..\", such as \"file:/var/log/edge.log\"")
        );
    }
    Ok(path.to_owned())
}

fn read_format(cursor: &Cursor<'_>) -> Result<LogFormat, Rejection> {
    match cursor.value().as_str() {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ if cursor.value().is_object() => {
            let fields = read_texts(cursor)?;
            match fields.is_empty() {
                true => Err(cursor.expected("at least one field")),
                false => Ok(LogFormat::Fields(fields)),
            }
        }
        _ => Err(cursor.expected(r#""json", "text" or an object from names to formats"#)),
    }
}

fn read_texts(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    let entries = cursor.map()?;
    if entries.len() > MAX_NAMES {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} fields, expected at most {MAX_NAMES}")));
    }
    let mut texts = BTreeMap::new();
    for (name, value) in entries {
        let text = value.text()?;
        if name.is_empty() || name.len().max(text.len()) > MAX_TEXT {
            return Err(value.reject(format!(
                "found a name or text of no or too many bytes, expected 1 to {MAX_TEXT}"
            )));
        }
        texts.insert(name.to_owned(), text.to_owned());
    }
    Ok(texts)
}

fn read_only(cursor: &Cursor<'_>) -> Result<Only, Rejection> {
    let object = cursor.object(&ONLY_FIELDS)?;
    if object.present_of(&ONLY_FIELDS).is_empty() {
        return Err(object.reject("found no condition, expected \"status\" or \"percent\""));
    }
    Ok(Only {
        status: object.read("status", |field| read_status(&field))?,
        percent: object.read("percent", |field| field.percent())?,
    })
}

fn read_status(cursor: &Cursor<'_>) -> Result<StatusIs, Rejection> {
    let text = cursor.value().as_str().unwrap_or_default();
    let status = |digits: &str| digits.parse().ok().filter(|status| (100..=599).contains(status));
    let after = |prefix: &str| text.strip_prefix(prefix).and_then(status);
    after(">=")
        .map(StatusIs::AtLeast)
        .or_else(|| after("<=").map(StatusIs::AtMost))
        .or_else(|| after("=").map(StatusIs::Exactly))
        .ok_or_else(|| cursor.expected(r#"">=", "<=" or "=" and a status from 100 to 599, such as ">=500""#))
}

/// Reads `tracing`.
pub(super) fn read_tracing(cursor: &Cursor<'_>) -> Result<Tracing, Rejection> {
    let object = cursor.object(&TRACING_FIELDS)?;
    let to = object.require("to", "a cluster's name or a URL such as \"grpc://otel.internal:4317\"")?;
    Ok(Tracing {
        to: read_target(&to, to.string()?)?,
        sample_percent: object.read("sample_percent", |field| field.percent())?.unwrap_or(1.0),
        trust_parent: object.read("trust_parent", |field| field.bool())?.unwrap_or(true),
        service: object.read("service", |field| Ok(field.text()?.to_owned()))?,
        tags: object.read("tags", |field| read_tags(&field))?.unwrap_or_default(),
    })
}

fn read_tags(cursor: &Cursor<'_>) -> Result<BTreeMap<String, Tag>, Rejection> {
    let entries = cursor.map()?;
    if entries.len() > MAX_NAMES {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} tags, expected at most {MAX_NAMES}")));
    }
    let mut tags = BTreeMap::new();
    for (name, value) in entries {
        if name.is_empty() {
            return Err(value.reject("found a tag without a name, expected one"));
        }
        let tag = if value.value().is_object() {
            let object = value.object(&TAG_FIELDS)?;
            let header = object.require("header", "the name of a request header")?;
            Tag::Header(parse_name(&header, header.string()?, "")?)
        } else {
            let text = value.value().as_str().filter(|text| !text.is_empty());
            Tag::Text(
                text.ok_or_else(|| value.expected(r#"a text or {"header": NAME}"#))?
                    .to_owned(),
            )
        };
        tags.insert(name.to_owned(), tag);
    }
    Ok(tags)
}
