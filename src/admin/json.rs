//! JSON as the API writes it.

use std::io;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::ser::Formatter;

/// A value as JSON.
pub(super) fn to_text(value: &impl Serialize) -> serde_json::Result<String> {
    let mut json = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, Escaping))?;
    String::from_utf8(json).map_err(serde::ser::Error::custom)
}

/// JSON that a terminal can show: all control characters are escaped, not only those below U+0020 as JSON wants it. A key
/// of etcd may have any of them.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(place) = rest.find(char::is_control) {
            let (before, from) = rest.split_at(place);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            if let Some(control) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(control))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// A whole answer in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        match to_text(&self.0) {
            Ok(text) => (json, text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_in_the_json() {
        let shown = |value: &str| to_text(&serde_json::json!({ value: [value] })).unwrap();
        assert_eq!(shown("a\"é\\"), r#"{"a\"é\\":["a\"é\\"]}"#);
        let hostile = "\0\n\u{1b}[31m\u{7f}\u{80}x\u{9b}2J\u{9f}";
        let json = shown(hostile);
        assert!(!json.contains(char::is_control), "{json:?}");
        assert!(json.contains(r"\u007f\u0080x\u009b2J\u009f"), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read[hostile][0], hostile);
    }
}
