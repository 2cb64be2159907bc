//! Headers: names, values in Envoy's format, and edits of them.
//!
//! A value may hold Envoy's commands, `%REQ(x-id)%`; a literal percent sign is doubled. A value that Envoy would refuse
//! (an unknown command, a lone `%`) is rejected. Values may be credentials and are never quoted.

use std::collections::BTreeMap;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{HEADER, NOT_EMPTY};
use super::super::sentence::quote;
use super::{HeaderEdits, format};

/// Most headers that one edit may set or add: with [`MAX_RESPOND`] Envoy's 1000 for a route and direction.
const MAX_EDITS: usize = 900;
/// Most headers of a fixed response.
pub(super) const MAX_RESPOND: usize = 100;
/// Longest value, in bytes: Envoy's.
const MAX_VALUE: usize = 16_384;
/// Longest name, in bytes.
const MAX_NAME: usize = 256;
/// Headers that mark the end of a message, and those of one connection (RFC 9110, 7.6.1). A changed `content-length`
/// makes the receiver take the rest of a body for the next message.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The fields of `request_headers` and `response_headers`.
pub(in crate::document) const FIELDS: Fields = Fields::of(&[
    Field::new("set", VALUES, "The header has this value afterwards"),
    Field::new("add", VALUES, "One more value"),
    Field::new("remove", Shape::list(&HEADER), "Removed"),
]);
/// Headers by name, as a shape.
pub(super) const VALUES: Shape = Shape::Map(&Shape::Text("text, perhaps with commands of Envoy", NOT_EMPTY));

/// `request_headers` or `response_headers`.
pub(in crate::document) fn read_edits(cursor: &Cursor<'_>) -> Result<HeaderEdits, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let set = object.read("set", |field| read_values(&field))?.unwrap_or_default();
    let add = object.read("add", |field| read_values(&field))?.unwrap_or_default();
    let mut remove = Vec::new();
    if let Some(field) = object.get("remove") {
        for entry in field.list()? {
            remove.push(parse_edited_name(&entry, entry.string()?)?);
        }
    }
    let count = (set.len() + add.len()).max(remove.len());
    if count > MAX_EDITS {
        return Err(cursor.reject(format!("found {count} headers, expected at most {MAX_EDITS}")));
    }
    Ok(HeaderEdits { set, add, remove })
}

/// An object from header names to values.
pub(super) fn read_values(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    let mut values = BTreeMap::new();
    for (name, value) in cursor.map()? {
        let name = parse_edited_name(&value, name)?;
        let text = read_value(&value)?;
        if values.insert(name.clone(), text).is_some() {
            return Err(value.reject(format!("found the header {name:?} a second time, expected it once")));
        }
    }
    Ok(values)
}

fn read_value(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.value().as_str().ok_or_else(|| cursor.confidential("a string"))?;
    if text.is_empty() {
        return Err(cursor.reject("found an empty value, which Envoy would not send, expected a text (or \"remove\")"));
    }
    if text.len() > MAX_VALUE {
        return Err(cursor.reject(format!("found {} bytes, expected at most {MAX_VALUE}", text.len())));
    }
    if let Some(letter) = text.chars().find(|letter| letter.is_ascii_control() && *letter != '\t') {
        return Err(cursor.reject(format!("found the control character {letter:?}, expected none")));
    }
    format::check(text).map_err(|reason| cursor.reject(reason))?;
    Ok(text.to_owned())
}

/// The name of a header that is set, added or removed: none that frames a message or belongs to one connection.
pub(in crate::document) fn parse_edited_name(cursor: &Cursor<'_>, name: &str) -> Result<String, Rejection> {
    let name = parse_name(cursor, name, "")?;
    if FRAMING.contains(&name.as_str()) {
        return Err(cursor.reject(format!(
            "found the header {name:?}, which Envoy writes itself for each connection, expected another"
        )));
    }
    Ok(name)
}

/// A header's name in lower case: a token, neither a pseudo-header nor `host`. The hint ends the sentence about those.
pub(in crate::document) fn parse_name(cursor: &Cursor<'_>, name: &str, hint: &str) -> Result<String, Rejection> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') || lower == "host" {
        return Err(cursor.reject(format!(
            "found the header {}, expected neither \"host\" nor one with \":\"{hint}",
            quote(name)
        )));
    }
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if lower.is_empty() || lower.len() > MAX_NAME || !lower.bytes().all(token) {
        return Err(cursor.reject(format!(
            "found the header name {}, expected a token such as \"x-tenant\"",
            quote(name)
        )));
    }
    Ok(lower)
}
