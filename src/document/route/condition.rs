//! Conditions on headers and query parameters.

use super::super::decode::{Cursor, Fields};
use super::super::{Rejection, regex};
use super::StringMatch;
use super::header::parse_name;

const FIELDS: Fields = Fields::new(&["prefix", "suffix", "contains", "regex", "present", "not"]);
const NOT_FIELDS: Fields = Fields::new(&["prefix", "suffix", "contains", "regex", "present"]);
/// Longest value of a condition, in bytes.
const MAX_VALUE: usize = 16_384;
/// Longest name of a query parameter, in bytes: Envoy's.
const MAX_QUERY_NAME: usize = 1024;
const SHAPE: &str =
    r#"a string (exact) or an object with one of "prefix", "suffix", "contains", "regex", "present", "not""#;

/// `headers` of a match: by lower-cased name.
pub(super) fn read_headers(cursor: &Cursor<'_>) -> Result<Vec<(String, StringMatch)>, Rejection> {
    let mut conditions: Vec<(String, StringMatch)> = Vec::new();
    for (name, value) in cursor.map()? {
        let hint = "; a request's host, path and method have fields of their own";
        let name = parse_name(&value, name, hint)?;
        if conditions.iter().any(|(other, _)| *other == name) {
            return Err(value.reject(format!("found a second condition on {name:?}, expected one")));
        }
        conditions.push((name, read(&value, &FIELDS)?));
    }
    conditions.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(conditions)
}

/// `query` of a match: by parameter name.
pub(super) fn read_query(cursor: &Cursor<'_>) -> Result<Vec<(String, StringMatch)>, Rejection> {
    let mut conditions = Vec::new();
    for (name, value) in cursor.map()? {
        if name.is_empty() || name.len() > MAX_QUERY_NAME || name.contains(char::is_control) {
            let length = name.len();
            return Err(value.reject(format!(
                "found a parameter name of {length} bytes, expected 1 to {MAX_QUERY_NAME} without control characters"
            )));
        }
        conditions.push((name.to_owned(), read(&value, &FIELDS)?));
    }
    Ok(conditions)
}

fn read(cursor: &Cursor<'_>, fields: &Fields) -> Result<StringMatch, Rejection> {
    if let Some(text) = cursor.value().as_str() {
        return Ok(StringMatch::Exact(checked(cursor, text)?));
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(SHAPE));
    }
    let object = cursor.object(fields)?;
    let present = object.present(fields.known);
    let [name] = present[..] else {
        return Err(cursor.reject(format!("found {} conditions, expected one", present.len())));
    };
    let field = object.require(name, "a condition")?;
    let text = || checked(&field, field.text()?);
    Ok(match name {
        "prefix" => StringMatch::Prefix(text()?),
        "suffix" => StringMatch::Suffix(text()?),
        "contains" => StringMatch::Contains(text()?),
        "present" => StringMatch::Present(field.bool()?),
        "regex" => {
            let pattern = field.string()?;
            regex::check(pattern, field.limits()).map_err(|reason| field.reject(reason))?;
            StringMatch::Regex(pattern.to_owned())
        }
        _ => match read(&field, &NOT_FIELDS)? {
            StringMatch::Present(present) => StringMatch::Present(!present),
            inner => StringMatch::Not(Box::new(inner)),
        },
    })
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
