//! Log lines: one line of text or one JSON object for each event.
//!
//! In: events and spans of `tracing`. Out: lines on stderr. No call site can forget one of these promises, because this
//! layer is the only writer of lines:
//!
//! - Control characters are escaped ([`short`]), so no text from outside forges a line or reaches a terminal.
//! - A field is cut to [`FIELD_MAX`] bytes, or to [`PEER_FIELD_MAX`] if the line has a field `peer`. A message is cut
//!   to [`FIELD_MAX`] bytes; it has words of the server only, words of a client stand in fields.
//! - The number of lines is limited ([`limit`]). An event that a client causes has the field `peer`, of its own or of
//!   its span: the address of the client.

use std::io::Write;
use std::sync::Arc;

use serde_json::Value as Json;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

mod limit;
mod short;

use limit::{Limits, Outcome, Summary};
use short::Short;

/// Longest value of a field, and longest message, in bytes.
const FIELD_MAX: usize = 1024;
/// Longest value of a field in a line about a client, in bytes.
const PEER_FIELD_MAX: usize = 256;
/// The field with the address of a client.
const PEER: &str = "peer";
const MESSAGE: &str = "message";

/// The text with control characters escaped, as in a line.
pub(super) fn escaped(text: &str) -> String {
    Short::of(format_args!("{text}"), usize::MAX)
}

/// Receives whole lines.
pub(super) trait Sink: Fn(&str) + Send + Sync + 'static {}

impl<F: Fn(&str) + Send + Sync + 'static> Sink for F {}

/// Write a line to stderr. If stderr is closed, the line is lost.
pub(super) fn to_stderr(line: &str) {
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text {
        /// With colours.
        ansi: bool,
    },
    /// One object a line.
    Json,
}

/// The layer. Cheap to clone.
pub(super) struct Lines<W> {
    form: Form,
    limits: Arc<Limits>,
    sink: Arc<W>,
}

impl<W> Clone for Lines<W> {
    fn clone(&self) -> Self {
        Self {
            form: self.form,
            limits: Arc::clone(&self.limits),
            sink: Arc::clone(&self.sink),
        }
    }
}

impl<W: Sink> Lines<W> {
    pub(super) fn new(form: Form, sink: W) -> Self {
        Self {
            form,
            limits: Arc::default(),
            sink: Arc::new(sink),
        }
    }

    /// Write how many lines were left out, one line a kind. `all`: also those of the minute that runs.
    pub(super) fn write_summaries(&self, all: bool) {
        for summary in self.limits.summaries(Instant::now(), all) {
            let Summary {
                metadata,
                message,
                lines,
                peers,
            } = summary;
            let mut fields = Fields::new(FIELD_MAX);
            fields.message = "Left out log lines of one kind".to_owned();
            fields.push("kind", Value::Text(message));
            fields.push("lines", Value::Json(lines.into()));
            if peers > 0 {
                fields.push("peers", Value::Json(peers.into()));
            }
            self.write(metadata, &fields, &[]);
        }
    }

    fn write(&self, metadata: &Metadata<'_>, fields: &Fields, spans: &[(&'static str, Fields)]) {
        let mut line = match self.form {
            Form::Text { ansi } => text(metadata, fields, spans, ansi),
            Form::Json => json(metadata, fields, spans),
        };
        line.push('\n');
        (self.sink)(&line);
    }
}

impl<W: Sink, S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines<W> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::new(PEER_FIELD_MAX);
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let scope = context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root());
        let spans: Vec<(&'static str, Fields)> = scope
            .map(|span| {
                (
                    span.name(),
                    span.extensions().get::<Fields>().cloned().unwrap_or_default(),
                )
            })
            .collect();

        let mut found = PeerOf(None);
        event.record(&mut found);
        let peer = found
            .0
            .or_else(|| spans.iter().rev().find_map(|(_, fields)| fields.peer()));

        let metadata = event.metadata();
        let outcome = if *metadata.level() <= Level::INFO {
            self.limits.on_event(metadata, peer.as_deref(), Instant::now())
        } else {
            Outcome::Write { left_out: 0 }
        };

        let Outcome::Write { left_out } = outcome else { return };

        let mut fields = Fields::new(if peer.is_some() { PEER_FIELD_MAX } else { FIELD_MAX });
        event.record(&mut fields);
        if left_out > 0 {
            fields.push("left_out", Value::Json(left_out.into()));
        }
        self.limits.name(metadata, &fields.message);
        self.write(metadata, &fields, &spans);
    }
}

/// A value of a field, escaped and cut.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// In quotes in a line of text.
    Text(String),
    /// As a `Display` or `Debug` wrote it.
    Written(String),
    /// A number or a boolean.
    Json(Json),
}

/// The fields of an event or of a span.
#[derive(Debug, Clone, Default)]
struct Fields {
    max: usize,
    message: String,
    list: Vec<(&'static str, Value)>,
}

impl Fields {
    fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// Add a field, or replace its value.
    fn push(&mut self, name: &'static str, value: Value) {
        // The prefix of a field whose name is a word of Rust.
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.list.iter_mut().find(|(other, _)| *other == name) {
            Some((_, earlier)) => *earlier = value,
            None => self.list.push((name, value)),
        }
    }

    fn json(&self) -> impl Iterator<Item = (&'static str, Json)> {
        self.list.iter().map(|(name, value)| match value {
            Value::Text(text) | Value::Written(text) => (*name, text.as_str().into()),
            Value::Json(value) => (*name, value.clone()),
        })
    }

    fn peer(&self) -> Option<String> {
        self.list.iter().find_map(|(name, value)| match value {
            Value::Text(text) | Value::Written(text) if *name == PEER => Some(text.clone()),
            _ => None,
        })
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let max = if field.name() == MESSAGE { FIELD_MAX } else { self.max };
        let text = Short::of(format_args!("{value:?}"), max);
        match field.name() {
            MESSAGE => self.message = text,
            // Fields that the `log` crate's bridge adds; the metadata has them.
            name if name.starts_with("log.") => {}
            name => self.push(name, Value::Written(text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            return self.record_debug(field, &format_args!("{value}"));
        }
        self.push(field.name(), Value::Text(Short::of(format_args!("{value}"), self.max)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut sentence = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            sentence = format!("{sentence}: {error}");
            source = error.source();
        }
        self.push(
            field.name(),
            Value::Written(Short::of(format_args!("{sentence}"), self.max)),
        );
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), Value::Json(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), Value::Json(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field.name(), Value::Json(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), Value::Json(value.into()));
    }
}

/// Finds the field `peer` and formats no other field: under attack most events are left out.
struct PeerOf(Option<String>);

impl Visit for PeerOf {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == PEER {
            self.0 = Some(Short::of(format_args!("{value:?}"), PEER_FIELD_MAX));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == PEER {
            self.0 = Some(Short::of(format_args!("{value}"), PEER_FIELD_MAX));
        }
    }
}

fn now() -> String {
    let mut text = String::new();
    match SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text,
        Err(_) => "-".to_owned(),
    }
}

/// `TIME LEVEL span{field=value}: target: message field=value`.
fn text(metadata: &Metadata<'_>, fields: &Fields, spans: &[(&'static str, Fields)], ansi: bool) -> String {
    let (dim, bold, end) = match ansi {
        true => ("\x1b[2m", "\x1b[1m", "\x1b[0m"),
        false => ("", "", ""),
    };
    let colour = match *metadata.level() {
        _ if !ansi => "",
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    };

    let mut line = format!("{dim}{}{end} {colour}{:>5}{end} ", now(), metadata.level());
    for (name, fields) in spans {
        line.push_str(&format!("{bold}{name}{end}"));
        if !fields.list.is_empty() {
            line.push('{');
            push_fields(&mut line, fields);
            line.push('}');
        }
        line.push(':');
    }

    if !spans.is_empty() {
        line.push(' ');
    }
    line.push_str(&format!("{dim}{}:{end} {}", metadata.target(), fields.message));
    if !fields.list.is_empty() {
        line.push(' ');
        push_fields(&mut line, fields);
    }
    line
}

fn push_fields(line: &mut String, fields: &Fields) {
    for (index, (name, value)) in fields.list.iter().enumerate() {
        let space = if index == 0 { "" } else { " " };
        line.push_str(&match value {
            Value::Text(text) => format!("{space}{name}=\"{}\"", text.replace('"', "\\\"")),
            Value::Written(text) => format!("{space}{name}={text}"),
            Value::Json(value) => format!("{space}{name}={value}"),
        });
    }
}

/// `timestamp`, `level`, `message`, the fields, `target`, `span` and `spans`, in this order.
fn json(metadata: &Metadata<'_>, fields: &Fields, spans: &[(&'static str, Fields)]) -> String {
    let mut line = vec![
        ("timestamp", now().into()),
        ("level", metadata.level().as_str().into()),
        ("message", fields.message.as_str().into()),
    ];

    line.extend(fields.json());
    line.push(("target", metadata.target().into()));
    let spans: Vec<Json> = spans
        .iter()
        .map(|(name, fields)| {
            let named = fields.json().chain([("name", (*name).into())]);
            Json::Object(named.map(|(name, value)| (name.to_owned(), value)).collect())
        })
        .collect();

    if let Some(span) = spans.last() {
        line.push(("span", span.clone()));
        line.push(("spans", spans.into()));
    }
    let members: Vec<String> = line
        .iter()
        .map(|(name, value)| format!("{}:{value}", Json::from(*name)))
        .collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests;
