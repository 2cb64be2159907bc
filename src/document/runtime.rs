//! `runtime/{layer}`: values of Envoy's runtime, one layer a document.
//!
//! In: the fields of a runtime document. Out: a [`Runtime`] with its values as written, and warnings about keys that
//! change Envoy's own behaviour. A proxy has the layer if its bootstrap names the layer as `rtds_layer`; the bootstrap
//! also orders the layers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::{AMOUNT, SIGNED, STRING, words};
use super::key::DocumentKey;
use super::sentence::quote;
use super::{Groups, Rejection, groups, name};

/// The fields of a runtime layer.
pub(super) const FIELDS: Fields = Fields::of(&[
    name::FIELD,
    Field::new(
        "values",
        Shape::Map(&Shape::AnyOf(&[
            Shape::Flag,
            Shape::Number,
            STRING,
            Shape::Object(&FRACTION_FIELDS),
        ])),
        "The values by key. A key has letters `a-z`, digits, `_` and dots",
    )
    .required(),
    Field::new(
        "order",
        SIGNED,
        "For readers of the documents. The order of the layers is that of the bootstrap",
    )
    .or("`0`"),
    groups::FIELD,
]);
const FRACTION_FIELDS: Fields = Fields::of(&[
    Field::new("numerator", AMOUNT, "The upper part of a fraction").required(),
    Field::new(
        "denominator",
        Shape::Words(&words(&DENOMINATORS)),
        "The lower part of a fraction",
    )
    .or("`\"HUNDRED\"`"),
]);

/// Envoy's own switches for changed behaviour.
const RELOADABLE_FEATURES: &str = "envoy.reloadable_features.";
/// The keys that Envoy's fault filter reads where its configuration names no others.
const FAULT_KEYS: &str = "fault.http.";
/// The largest RE2 program that Envoy accepts.
const RE2_ERROR_LEVEL: &str = "re2.max_program_size.error_level";

/// The denominators of a fraction, as Envoy names them.
const DENOMINATORS: [(&str, &str); 3] = [
    ("HUNDRED", "HUNDRED"),
    ("TEN_THOUSAND", "TEN_THOUSAND"),
    ("MILLION", "MILLION"),
];

/// A runtime document.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// By key: a number, a truth value, a string, or a fraction (an object with `numerator` and `denominator`).
    pub values: BTreeMap<String, Value>,
    /// For readers of the documents; the order of layers is that of a proxy's bootstrap.
    pub order: i32,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

/// Reads a runtime document, with its warnings.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<(Runtime, Vec<String>), Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let values = object.require("values", r#"an object such as {"my.feature": true}"#)?;
    let mut runtime = Runtime {
        values: BTreeMap::new(),
        order: object
            .read("order", |field| field.integer(i32::MIN..=i32::MAX))?
            .unwrap_or(0),
        groups: groups::read(&object)?,
    };

    let mut warnings = Vec::new();
    for (key, field) in values.map()? {
        runtime.values.insert(key.to_owned(), read_value(key, &field)?);
        warnings.extend(warning(key, &field));
    }
    Ok((runtime, warnings))
}

fn read_value(key: &str, field: &Cursor<'_>) -> Result<Value, Rejection> {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
    if key.is_empty() || !key.bytes().all(ordinary) {
        return Err(field.reject(format!("found the key {}, expected a-z 0-9 _ and dots", quote(key))));
    }
    if key == RE2_ERROR_LEVEL {
        let least = field.limits().re2_max_program_size;
        let size = field.integer(0..=u32::MAX)?;
        if size < least {
            return Err(field.expected(&format!(
                "at least {least}, the value of --re2-max-program-size: the server accepts regexes of this size"
            )));
        }
    }
    match field.value() {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(field.value().clone()),
        Value::Object(_) => read_fraction(field),
        _ => Err(field.expected(r#"a number, true, false, a string, or {"numerator": 1, "denominator": "HUNDRED"}"#)),
    }
}

fn read_fraction(field: &Cursor<'_>) -> Result<Value, Rejection> {
    let object = field.object(&FRACTION_FIELDS)?;
    let numerator = object.require("numerator", "a whole number")?.integer(0..=u32::MAX)?;
    let denominator = object.read("denominator", |field| field.word(&DENOMINATORS))?;
    let mut fraction = serde_json::Map::new();
    fraction.insert("numerator".to_owned(), numerator.into());
    fraction.insert("denominator".to_owned(), denominator.unwrap_or("HUNDRED").into());
    Ok(Value::Object(fraction))
}

fn warning(key: &str, field: &Cursor<'_>) -> Option<String> {
    let path = field.path();
    if let Some(flag) = key.strip_prefix(RELOADABLE_FEATURES) {
        return Some(format!(
            "{path}: \"{flag}\" switches a behaviour of Envoy itself; Envoy ignores a flag that its version does not know"
        ));
    }
    key.starts_with(FAULT_KEYS)
        .then(|| format!("{path}: this key overrides the percentages and delays of fault policies"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::document::key::Kind;
    use crate::document::{Document, Limits, Parsed, parse};

    fn read(value: &Value) -> Result<Parsed, Rejection> {
        let key = DocumentKey::new(Kind::Runtime, "features");
        parse(&key, value.to_string().as_bytes(), &Limits::default())
    }

    fn reason(value: &Value) -> String {
        read(value).expect_err("a bad document").to_string()
    }

    #[test]
    fn every_form_of_a_value_is_read() {
        let fraction = json!({ "numerator": 5, "denominator": "TEN_THOUSAND" });
        let values = json!({ "a.b_1": 1, "c": 0.5, "d": true, "e": "text", "f": fraction, "g": { "numerator": 7 } });
        let parsed = read(&json!({ "values": values, "order": -3, "groups": ["edge"] })).unwrap();
        let Document::Runtime(runtime) = Arc::unwrap_or_clone(parsed.document) else {
            panic!("another kind");
        };
        let whole = json!({ "numerator": 7, "denominator": "HUNDRED" });
        assert_eq!(
            (&runtime.values["a.b_1"], &runtime.values["f"], &runtime.values["g"]),
            (&json!(1), &fraction, &whole)
        );
        assert_eq!((runtime.order, runtime.values.len()), (-3, 6));
        assert!(parsed.warnings.is_empty());
    }

    #[test]
    fn a_key_of_envoys_own_is_a_warning() {
        let values = json!({ "envoy.reloadable_features.x": false, "fault.http.abort.http_status": 503 });
        let warnings = read(&json!({ "values": values })).unwrap().warnings;
        assert_eq!(
            warnings,
            [
                "values[\"envoy.reloadable_features.x\"]: \"x\" switches a behaviour of Envoy itself; Envoy ignores a \
                 flag that its version does not know",
                "values[\"fault.http.abort.http_status\"]: this key overrides the percentages and delays of fault \
                 policies",
            ]
        );
    }

    #[test]
    fn a_bound_of_regexes_below_the_servers_is_refused() {
        let bound = |value: u32| json!({ "values": { RE2_ERROR_LEVEL: value } });
        assert!(read(&bound(100)).is_ok());
        assert_eq!(
            reason(&bound(99)),
            "values[\"re2.max_program_size.error_level\"]: found the number 99, expected at least 100, the value of \
             --re2-max-program-size: the server accepts regexes of this size"
        );
    }
}
