//! The parts of a rejection's sentence: quotes of found values, lists of expected ones, steps of a field path.
//!
//! Found values are shortened. A confidential value is named by its kind ([`kind_of`]) and never quoted.

use std::borrow::Cow;

use serde_json::Value;

/// Longest quote of a found value, in characters.
const QUOTE_LENGTH: usize = 60;

/// The segment of a key in a field path: `.name`, without the dot at the start, or `["odd name"]`.
pub(crate) fn segment(path: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match plain {
        true if name.len() <= QUOTE_LENGTH => format!("{}{name}", if path.is_empty() { "" } else { "." }),
        _ => format!("[{}]", quote(name)),
    }
}

/// A text in quotes, shortened, control characters escaped.
pub(crate) fn quote(text: &str) -> String {
    if text.chars().count() <= QUOTE_LENGTH {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(QUOTE_LENGTH).collect();
    format!("{:?}", format!("{start}…"))
}

/// A text that is not in quotes, control characters escaped.
pub(crate) fn unquoted(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escape = |character: char| match character.is_control() {
        true => character.escape_debug().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// `, did you mean "route"?` when one of the names is near, else nothing.
pub(crate) fn did_you_mean<'n>(found: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(&found.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let near = |name: &&str| distance(name) <= name.len().div_ceil(3).min(3);
    if found.is_empty() || found.len() > QUOTE_LENGTH {
        return String::new();
    }
    let nearest = names.into_iter().filter(near).min_by_key(|name| distance(name));
    nearest
        .map(|name| format!(", did you mean {name:?}?"))
        .unwrap_or_default()
}

/// `"a", "b" or "c"`.
pub(crate) fn one_of(quoted: &[String]) -> String {
    match quoted {
        [] => String::new(),
        [only] => only.clone(),
        [start @ .., last] => format!("{} or {last}", start.join(", ")),
    }
}

/// A found value, shortened.
pub(crate) fn found(value: &Value) -> Cow<'static, str> {
    match value {
        Value::Number(number) => format!("the number {number}").into(),
        Value::String(text) => format!("the string {}", quote(text)).into(),
        Value::Bool(value) => value.to_string().into(),
        _ => kind_of(value).into(),
    }
}

/// A found value that must not be quoted.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(list) if list.is_empty() => "an empty list",
        Value::Array(_) => "a list",
        Value::Object(object) if object.is_empty() => "an empty object",
        Value::Object(_) => "an object",
    }
}
