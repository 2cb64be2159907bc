//! Conditions on headers and query parameters.
//!
//! A condition is put into the form in which Envoy compares: parameters as they arrive, percent-encoded; header values
//! without white space around them. A condition without such a form is rejected, because no request could fulfil it.

use percent_encoding::{AsciiSet, CONTROLS};

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{NOT_EMPTY, TEXT};
use super::super::regex::{self, Text};
use super::StringMatch;
use super::header::parse_name;

/// `headers` of a match, as a shape.
pub(in crate::document) const HEADERS: Shape = Shape::Map(&CONDITION);
/// The same with at least one condition, as a shape.
pub(in crate::document) const FILLED_HEADERS: Shape = Shape::FilledMap(&CONDITION);
/// `query` of a match, as a shape.
pub(super) const QUERY: Shape = Shape::Map(&CONDITION);
const CONDITION: Shape = Shape::AnyOf(&[Shape::Text("text that is equal", None), Shape::Object(&FIELDS)]);
/// A condition on a text that is always there, as a shape.
pub(in crate::document) const PLAIN: Shape = Shape::AnyOf(&[
    Shape::Text("text that is equal", NOT_EMPTY),
    Shape::Object(&PLAIN_FIELDS),
]);

const FIELDS: Fields = Fields::joined(&[TEXTS, PRESENT, NOT]).filled();
const NOT_FIELDS: Fields = Fields::joined(&[TEXTS, PRESENT]).filled();
const PLAIN_FIELDS: Fields = Fields::joined(&[TEXTS]).filled();
const TEXTS: &[Field] = &[
    Field::new("prefix", TEXT, "The value begins with the text"),
    Field::new("suffix", TEXT, "The value ends with the text"),
    Field::new("contains", TEXT, "The value contains the text"),
    Field::new("regex", Shape::Text("RE2 regex", None), "The value matches as a whole"),
];
const PRESENT: &[Field] = &[Field::new(
    "present",
    Shape::Flag,
    "`true`: the value is there; `false`: it is not",
)];
const NOT: &[Field] = &[Field::new(
    "not",
    Shape::AnyOf(&[Shape::Text("text that is equal", None), Shape::Object(&NOT_FIELDS)]),
    "The value does not fulfil this condition",
)];
/// Longest value of a condition, in bytes.
const MAX_VALUE: usize = 16_384;
/// Longest name of a query parameter, in bytes: Envoy's.
const MAX_QUERY_NAME: usize = 1024;
/// The query percent-encode set of the URL standard, and the separator of parameters.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'&');
const SHAPE: &str =
    r#"a string (exact) or an object with one of "prefix", "suffix", "contains", "regex", "present", "not""#;

/// `headers` of a match: by lower-cased name.
pub(in crate::document) fn read_headers(cursor: &Cursor<'_>) -> Result<Vec<(String, StringMatch)>, Rejection> {
    let mut conditions: Vec<(String, StringMatch)> = Vec::new();
    for (name, value) in cursor.map()? {
        let hint = "; a request's host, path and method have fields of their own";
        let name = parse_name(&value, name, hint)?;
        if conditions.iter().any(|(other, _)| *other == name) {
            return Err(value.reject(format!("found a second condition on {name:?}, expected one")));
        }
        conditions.push((name, read(&value, &FIELDS, Text::Header)?));
    }
    conditions.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(conditions)
}

/// `query` of a match: by parameter name.
pub(super) fn read_query(cursor: &Cursor<'_>) -> Result<Vec<(String, StringMatch)>, Rejection> {
    let mut conditions = Vec::new();
    for (name, value) in cursor.map()? {
        let name = parse_parameter_name(&value, name)?;
        conditions.push((name, read(&value, &FIELDS, Text::Parameter)?));
    }
    Ok(conditions)
}

/// The name of a query parameter as it arrives. The cursor is the place of a rejection.
pub(in crate::document) fn parse_parameter_name(cursor: &Cursor<'_>, name: &str) -> Result<String, Rejection> {
    if name.is_empty() || name.len() > MAX_QUERY_NAME || name.contains(char::is_control) {
        let length = name.len();
        return Err(cursor.reject(format!(
            "found a parameter name of {length} bytes, expected 1 to {MAX_QUERY_NAME} without control characters"
        )));
    }
    Ok(encoded(name).replace('=', "%3D"))
}

/// A condition on a text that is always there: without `present` and `not`.
pub(in crate::document) fn read_plain(cursor: &Cursor<'_>) -> Result<StringMatch, Rejection> {
    if cursor.value().is_string() {
        cursor.text()?;
    }
    read(cursor, &PLAIN_FIELDS, Text::Header)
}

/// A condition that the value is such a text.
fn read(cursor: &Cursor<'_>, fields: &Fields, kind: Text) -> Result<StringMatch, Rejection> {
    if let Some(text) = cursor.value().as_str() {
        return Ok(StringMatch::Exact(arriving(cursor, text, kind, (true, true))?));
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(SHAPE));
    }
    let object = cursor.object(fields)?;
    let present = object.present_of(fields);
    let [name] = present[..] else {
        return Err(cursor.reject(format!("found {} conditions, expected one", present.len())));
    };
    let field = object.require(name, "a condition")?;
    let text = |ends| arriving(&field, field.text()?, kind, ends);
    Ok(match name {
        "prefix" => StringMatch::Prefix(text((true, false))?),
        "suffix" => StringMatch::Suffix(text((false, true))?),
        "contains" => StringMatch::Contains(text((false, false))?),
        "present" => StringMatch::Present(field.bool()?),
        "regex" => {
            let pattern = field.string()?;
            regex::check(pattern, field.limits()).map_err(|reason| field.reject(reason))?;
            if !regex::can_match(pattern, kind) {
                return Err(field.reject(no_such_value(kind)));
            }
            StringMatch::Regex(pattern.to_owned())
        }
        _ => match read(&field, &NOT_FIELDS, kind)? {
            StringMatch::Present(present) => StringMatch::Present(!present),
            inner => StringMatch::Not(Box::new(inner)),
        },
    })
}

fn no_such_value(kind: Text) -> &'static str {
    match kind {
        Text::Parameter => {
            "found a regex that no parameter can match, expected one for values as they arrive: percent-encoded, \
             without space, \"&\", \"#\" and letters beyond ASCII"
        }
        Text::Path | Text::Header => {
            "found a regex that no header can match, expected one for values without control characters and without \
             white space around them"
        }
    }
}

/// The text in the form in which a value with it arrives; `ends`: whether the value starts, and ends, with the text.
fn arriving(cursor: &Cursor<'_>, text: &str, kind: Text, ends: (bool, bool)) -> Result<String, Rejection> {
    let text = checked(cursor, text)?;
    if kind == Text::Parameter {
        return Ok(encoded(&text));
    }
    if (ends.0 && text.starts_with(' ')) || (ends.1 && text.ends_with(' ')) {
        return Err(
            cursor.reject("found a space at the end of a header's value, where Envoy removes it, expected none")
        );
    }
    Ok(text)
}

/// A parameter's name or value with those characters escaped that cannot arrive, or that every client escapes.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, ESCAPED).to_string()
}

fn checked(cursor: &Cursor<'_>, text: &str) -> Result<String, Rejection> {
    if text.contains(char::is_control) {
        return Err(cursor.confidential("one without control characters"));
    }
    if text.len() > MAX_VALUE {
        return Err(cursor.reject(format!("found {} bytes, expected at most {MAX_VALUE}", text.len())));
    }
    Ok(text.to_owned())
}
