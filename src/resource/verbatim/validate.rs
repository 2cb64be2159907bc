//! The field rules of Envoy for every message: protoc-gen-validate (PGV), as written in the .proto files.
//!
//! In: a message with its descriptor. Out: nothing, or a rejection of the first field that Envoy would refuse
//! (docs/refused-by-envoy.md NE-08, NE-09, NE-11, and every other condition that this page calls PGV). The rules of a
//! message type are read from the descriptors once ([`rules`]); [`scalar`] compares single values. A message in an Any
//! is checked against its own rules, as Envoy does when it creates the extension. Rules over several fields follow
//! ([`messages`]).

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crate::document::Rejection;
use crate::document::sentence::one_of;
use crate::proto::json::pool;
use crate::proto::sensitive::is_sensitive;
use crate::resource::check::extensions::{self, table};
use crate::resource::check::messages;
use crate::resource::place::Place;
use crate::resource::verbatim::read;

mod rules;
mod scalar;

use rules::{Rule, Rules, rules_of};

const ANY: &str = "google.protobuf.Any";
const DURATION: &str = "google.protobuf.Duration";
/// Envoy counts durations in 64-bit nanoseconds.
const MAX_DURATION_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// Checks a message and every message in it against the rules of their types.
///
/// # Errors
/// The first field that breaks a rule.
pub(super) fn message(message: &DynamicMessage, place: &Place) -> Result<(), Rejection> {
    below(message, "", place)
}

/// `around` is the nearest message around for whose extensions [`table`] has rules of their own.
fn below(message: &DynamicMessage, around: &str, place: &Place) -> Result<(), Rejection> {
    match message.descriptor().full_name() {
        ANY => return any(message, around, place),
        DURATION => return duration(message, place),
        name if name.starts_with("google.protobuf.") => return Ok(()),
        _ => {}
    }
    let rules = rules_of(&message.descriptor());
    let around = table::around(message.descriptor().full_name()).unwrap_or(around);
    for (field, rule) in &rules.fields {
        let at = Place {
            hidden: place.hidden || is_sensitive(field),
            ..place.field(field.name())
        };
        checked_field(message, field, rule, around, &at)?;
    }
    required_oneofs(message, &rules, place)?;
    messages::message(message, place)
}

fn checked_field(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    rule: &Rule,
    around: &str,
    at: &Place,
) -> Result<(), Rejection> {
    // Presence counts for fields that track it; an absent plain scalar has its default.
    let is_there = message.has_field(field);
    if !is_there && rule.required && field.containing_oneof().is_none() {
        return Err(at.reject("missing, expected a value".to_owned()));
    }
    if is_there && rule.disallowed {
        return Err(at.reject("found a field that Envoy refuses as long deprecated, expected its successor".to_owned()));
    }
    if let Some(slot) = rule.slot {
        extensions::of_field(message, field, slot, around, at)?;
    }
    if !is_there && field.supports_presence() {
        return Ok(());
    }
    let value = message.get_field(field);
    match &*value {
        Value::List(values) => list(field, values, rule, around, at),
        Value::Map(entries) => map(field, entries.iter(), rule, around, at),
        value => single(value, rule, around, at),
    }
}

fn required_oneofs(message: &DynamicMessage, rules: &Rules, place: &Place) -> Result<(), Rejection> {
    for oneof in &rules.required_oneofs {
        if !oneof.fields().any(|field| message.has_field(&field)) {
            let names: Vec<String> = oneof.fields().map(|field| format!("{:?}", field.name())).collect();
            return Err(place.reject(format!(
                "found nothing of {}, expected {}",
                oneof.name(),
                one_of(&names)
            )));
        }
    }
    Ok(())
}

fn single(value: &Value, rule: &Rule, around: &str, at: &Place) -> Result<(), Rejection> {
    scalar::check(value, rule, at)?;
    match value {
        Value::Message(inner) if !rule.skip => below(inner, around, at),
        _ => Ok(()),
    }
}

fn list(field: &FieldDescriptor, values: &[Value], rule: &Rule, around: &str, at: &Place) -> Result<(), Rejection> {
    if let Some(limits) = rule
        .repeated
        .as_ref()
        .filter(|limits| !(limits.ignore_empty() && values.is_empty()))
    {
        count(values.len(), limits.min_items, limits.max_items, "entry", "entries", at)?;
        if limits.unique() && !is_message(field) {
            let mut seen = HashSet::new();
            for (index, value) in values.iter().enumerate() {
                if !seen.insert(format!("{value:?}")) {
                    return Err(at
                        .index(index)
                        .reject("found the same entry twice, expected each once".to_owned()));
                }
            }
        }
    }

    let none = Rule::default();
    let entry = rule.items.as_deref().unwrap_or(&none);
    values
        .iter()
        .enumerate()
        .try_for_each(|(index, value)| single(value, entry, around, &at.index(index)))
}

fn is_message(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(_))
}

fn map<'a>(
    field: &FieldDescriptor,
    entries: impl Iterator<Item = (&'a MapKey, &'a Value)>,
    rule: &Rule,
    around: &str,
    at: &Place,
) -> Result<(), Rejection> {
    // Sorted, so that the first mistake is always the same.
    let mut entries: Vec<(&MapKey, &Value)> = entries.collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    if let Some(limits) = rule
        .map
        .as_ref()
        .filter(|limits| !(limits.ignore_empty() && entries.is_empty()))
    {
        count(entries.len(), limits.min_pairs, limits.max_pairs, "key", "keys", at)?;
    }

    let none = Rule::default();
    let (keys, values) = (
        rule.keys.as_deref().unwrap_or(&none),
        rule.items.as_deref().unwrap_or(&none),
    );

    // The keys of a map are part of the path, whatever they are.
    for (key, value) in entries {
        let below = at.field(&key_text(key));
        scalar::check(
            &Value::from(key.clone()),
            keys,
            &Place {
                path: format!("{} (the key)", below.path),
                ..below.clone()
            },
        )?;
        single(value, values, around, &below)?;
    }

    debug_assert!(field.is_map(), "only maps have entries");
    Ok(())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn count(
    found: usize,
    least: Option<u64>,
    most: Option<u64>,
    one: &str,
    many: &str,
    at: &Place,
) -> Result<(), Rejection> {
    let found = found as u64;
    let word = |count: u64| if count == 1 { one.to_owned() } else { many.to_owned() };
    match (least, most) {
        (Some(least), _) if found < least => {
            let found = if found == 0 {
                "missing or empty".to_owned()
            } else {
                format!("found {found} {}", word(found))
            };
            Err(at.reject(format!("{found}, expected at least {least} {}", word(least))))
        }
        (_, Some(most)) if found > most => {
            Err(at.reject(format!("found {found} {many}, expected at most {most} {}", word(most))))
        }
        _ => Ok(()),
    }
}

fn duration(message: &DynamicMessage, at: &Place) -> Result<(), Rejection> {
    let (seconds, nanos) = scalar::duration_parts(message);
    if seconds < 0 || nanos < 0 {
        return Err(at.reject("found a negative duration, expected one of 0 or more".to_owned()));
    }
    if seconds >= MAX_DURATION_SECONDS {
        let reason = format!("found a duration of {seconds} s, expected less than {MAX_DURATION_SECONDS} s");
        return Err(at.reject(reason));
    }
    Ok(())
}

/// The message in an Any. Bytes that do not decode were not read here, and are no mistake of the document.
fn any(any: &DynamicMessage, around: &str, at: &Place) -> Result<(), Rejection> {
    let type_url = any.get_field_by_name("type_url");
    let type_url = type_url.as_deref().and_then(Value::as_str).unwrap_or_default();
    let Some(descriptor) = pool().get_message_by_name(type_url.rsplit('/').next().unwrap_or_default()) else {
        return Ok(());
    };
    let bytes = any.get_field_by_name("value");
    let bytes = bytes.as_deref().and_then(Value::as_bytes).cloned().unwrap_or_default();
    let Ok(inner) = DynamicMessage::decode(descriptor, bytes) else {
        return Ok(());
    };
    below(&inner, around, at)?;
    match extensions::TYPED_STRUCTS.contains(&inner.descriptor().full_name()) {
        true => typed_struct(&inner, around, at),
        false => Ok(()),
    }
}

/// The message that a `TypedStruct` stands for; Envoy reads the message from the Struct.
fn typed_struct(message: &DynamicMessage, around: &str, at: &Place) -> Result<(), Rejection> {
    let (type_url, value) = (
        message.get_field_by_name("type_url"),
        message.get_field_by_name("value"),
    );
    let type_url = type_url.as_deref().and_then(Value::as_str).unwrap_or_default();
    let is_known = pool()
        .get_message_by_name(type_url.rsplit('/').next().unwrap_or_default())
        .is_some();
    match value.as_deref().and_then(Value::as_message).map(serde_json::to_value) {
        Some(Ok(fields)) if is_known => {
            let at = at.field("value");
            below(&read::resource(type_url, &fields, &at)?, around, &at)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
