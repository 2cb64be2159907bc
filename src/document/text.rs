//! From bytes to a JSON value, in either of the two syntaxes.
//!
//! In: the bytes of one document. Out: a [`Value`], or a [`Rejection`] with the line and column of the mistake. A text
//! whose first character is `{` or `[` is JSON, any other is YAML 1.2 (booleans are `true` and `false` alone; anchors,
//! aliases and merge keys are expanded within a budget).
//!
//! Promises, for both: at most [`MAX_BYTES`] and [`MAX_DEPTH`] levels, UTF-8, one document, no key twice in an object,
//! no number that a 64-bit integer or float cannot hold. Work and memory are bounded by the size of the text.
//! [`confidential`] reads a text that may be a secret: of such a text nothing is quoted, only a line and a column.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::sentence::{kind_of, segment};
use super::{MAX_BYTES, MAX_DEPTH, Rejection};

/// Most events (scalars, starts and ends of lists and objects) of a YAML document, aliases expanded: more than 1 MiB
/// can hold without aliases.
const MAX_YAML_EVENTS: usize = 600_000;
/// Most of them that may come from aliases.
const MAX_ALIASED_EVENTS: usize = 20_000;
/// Most bytes of YAML scalars, aliases expanded.
const MAX_YAML_SCALAR_BYTES: usize = 2 * MAX_BYTES;

/// The text of a document, without a byte order mark.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Rejection> {
    if bytes.len() > MAX_BYTES {
        return Err(whole(format!(
            "found {} bytes, expected at most {MAX_BYTES}",
            bytes.len()
        )));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        whole(format!("found the byte 0x{byte:02x} at offset {at}, expected UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The value of a document's text.
pub(super) fn value(bytes: &[u8]) -> Result<Value, Rejection> {
    let text = utf8(bytes)?;
    let start = text.trim_start();
    if start.is_empty() {
        return Err(whole("found nothing, expected an object in JSON or YAML"));
    }
    if start.starts_with(['{', '[']) {
        json(text)
    } else {
        yaml(text)
    }
}

/// The value of a document's text that may be a secret.
pub(super) fn confidential(bytes: &[u8]) -> Result<Value, Rejection> {
    let unread = |text: &str| {
        let (syntax, place) = match text.trim_start().starts_with(['{', '[']) {
            true => (
                "JSON",
                read_json(text).err().map(|(error, _)| (error.line(), error.column())),
            ),
            false => {
                let location = read_yaml(text).err().and_then(|(error, _)| error.location());
                let place = location.map(|location| (location.line(), location.column()));
                (
                    "YAML",
                    place.and_then(|(line, column)| Some((line.try_into().ok()?, column.try_into().ok()?))),
                )
            }
        };
        let place = place.map_or_else(String::new, |(line, column): (usize, usize)| {
            format!(" at line {line}, column {column}")
        });
        format!("not valid {syntax}{place} (the text may be a secret and is not quoted)")
    };

    value(bytes).map_err(|rejection| match utf8(bytes) {
        Ok(text) if !text.trim().is_empty() => whole(unread(text)),
        Ok(_) => rejection,
        Err(_) if bytes.len() > MAX_BYTES => rejection,
        Err(_) => whole("found bytes that are not UTF-8, expected an object in JSON or YAML"),
    })
}

fn json(text: &str) -> Result<Value, Rejection> {
    read_json(text).map_err(|(error, failure)| failure.unwrap_or_else(|| whole(format!("not valid JSON: {error}"))))
}

/// The value, or the parser's error and our own.
fn read_json(text: &str) -> Result<Value, (serde_json::Error, Option<Rejection>)> {
    let mut place = Place::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Node { place: &mut place }.deserialize(&mut deserializer);
    let result = value.and_then(|value| deserializer.end().map(|()| value));
    result.map_err(|error| (error, place.failure))
}

fn yaml(text: &str) -> Result<Value, Rejection> {
    read_yaml(text).map_err(|(error, failure)| failure.unwrap_or_else(|| whole(yaml_reason(&error))))
}

/// The value, or the parser's error and our own.
#[expect(clippy::result_large_err, reason = "made once for a document")]
fn read_yaml(text: &str) -> Result<Value, (serde_saphyr::Error, Option<Rejection>)> {
    let mut place = Place::default();
    let text = without_last_marker(text);
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |deserializer| {
        Node { place: &mut place }.deserialize(deserializer)
    });
    result.map_err(|error| (error, place.failure))
}

/// The text without a marker `---` that only comments follow: the marker would start an empty second document.
fn without_last_marker(text: &str) -> &str {
    let mut before = text;
    while let Some((rest, line)) = before.trim_end().rsplit_once('\n') {
        if is_marker(line) {
            return rest;
        }
        if !is_comment(line) {
            break;
        }
        before = rest;
    }
    text
}

/// Whether a line is `---`, with or without a comment.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.trim().is_empty() || (rest.starts_with([' ', '\t']) && is_comment(rest)))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The parser's message, without the parts about its own options.
fn yaml_reason(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let place = match error.location() {
        Some(location) => format!(" at line {}, column {}", location.line(), location.column()),
        None => String::new(),
    };
    let known = [
        ("duplicate mapping key", "found a key twice in one object"),
        ("Documents {", "found more than one document, expected one"),
        (
            "budget breached",
            "found more aliases, keys or nesting than a document may have",
        ),
        (
            "alias replay",
            "found aliases that expand to more than a document may hold",
        ),
        (
            "alias expansion",
            "found aliases that expand to more than a document may hold",
        ),
    ];

    match known.into_iter().find(|(theirs, _)| message.contains(theirs)) {
        Some((_, ours)) => format!("not valid YAML: {ours}{place}"),
        None => format!("not valid YAML: {message}"),
    }
}

fn yaml_options() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_depth: MAX_DEPTH + 1,
        max_documents: 1,
        max_events: MAX_YAML_EVENTS,
        max_nodes: MAX_YAML_EVENTS,
        max_total_scalar_bytes: MAX_YAML_SCALAR_BYTES,
    };

    serde_saphyr::options! {
        budget: budget,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::Reject,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_EVENTS,
            max_replay_stack_depth: MAX_DEPTH,
            max_alias_expansions_per_anchor: 10_000,
        },
    }
}

fn whole(reason: impl Into<String>) -> Rejection {
    Rejection::new("", reason)
}

/// The position of the parser, and the mistake that it found there.
#[derive(Default)]
struct Place {
    path: String,
    depth: usize,
    failure: Option<Rejection>,
}

impl Place {
    /// Notes the mistake; the returned text only carries the failure through the parser.
    fn fail<E: serde::de::Error>(&mut self, path: String, reason: String) -> E {
        let error = E::custom(&reason);
        self.failure = Some(Rejection::new(path, reason));
        error
    }
}

/// Reads one value and keeps its path.
struct Node<'p> {
    place: &'p mut Place,
}

impl Node<'_> {
    /// Reads one value below, with `segment` added to the path.
    fn below<T, E: serde::de::Error>(
        &mut self,
        segment: &str,
        read: impl FnOnce(Node<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let length = self.place.path.len();
        self.place.path.push_str(segment);
        let result = read(Node { place: self.place });
        self.place.path.truncate(length);
        result
    }

    fn deeper<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.place.depth += 1;
        if self.place.depth > MAX_DEPTH {
            return Err(self.place.fail(
                String::new(),
                format!("found more than {MAX_DEPTH} levels of objects and lists"),
            ));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        let path = self.place.path.clone();
        Err(self.place.fail(
            path,
            format!("found the number {value}, expected one of at most 64 bits"),
        ))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        let path = self.place.path.clone();
        Err(self.place.fail(
            path,
            format!("found the number {value}, expected one of at most 64 bits"),
        ))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let path = self.place.path.clone();
        Number::from_f64(value).map(Value::Number).ok_or_else(|| {
            self.place
                .fail(path, format!("found {value}, expected a finite number"))
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = self.below(&format!("[{}]", list.len()), |node| access.next_element_seed(node))? {
            list.push(value);
        }
        self.place.depth -= 1;
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let segment = segment(&self.place.path, &key);
            if object.contains_key(&key) {
                let path = format!("{}{segment}", self.place.path);
                return Err(self.place.fail(path, "found this key twice in one object".to_owned()));
            }
            let value = self.below(&segment, |node| access.next_value_seed(node))?;
            object.insert(key, value);
        }
        self.place.depth -= 1;
        Ok(Value::Object(object))
    }
}
/// A document's field that names its schema. The server takes the field in every document and ignores it.
pub const SCHEMA_FIELD: &str = "$schema";

/// Takes the name of the schema off a document.
pub(super) fn take_off_schema(document: &mut Value) -> Result<(), Rejection> {
    let named = document.as_object_mut().and_then(|object| object.remove(SCHEMA_FIELD));
    match named {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(other) => Err(Rejection::new(
            SCHEMA_FIELD,
            format!(
                "found {}, expected a string, the address of a JSON Schema",
                kind_of(&other)
            ),
        )),
    }
}
