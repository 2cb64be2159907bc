//! From proto-JSON to a message, with the path of every value.
//!
//! This file walks the structure (objects, lists, maps, the message in an Any), so that a mistake is reported with its
//! path and an unknown field with the nearest known one. `prost-reflect` reads values without structure (numbers,
//! strings, enums, durations, free-form Structs). Field names are those of the .proto files or their camel case; `null`
//! is absent. Values of fields that Envoy marks as sensitive are never quoted.

use prost_reflect::{
    DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::{Map, Value as Json};

use crate::document::Rejection;
use crate::document::sentence::{did_you_mean, one_of, quote};
use crate::proto::canonical;
use crate::proto::json::pool;
use crate::proto::sensitive::is_sensitive;
use crate::resource::place::Place;

/// The one Any that may be empty: `{}` enables the filter of that name.
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig.config";
const ANY: &str = "google.protobuf.Any";
/// Most words in the list of a sentence.
const LISTED: usize = 16;
/// The oneof of every field of a `google.protobuf.Value`: `null` is one of its values.
const FREE_FORM: &str = "google.protobuf.Value";

/// The message of a resource; `@type` is checked already.
pub(super) fn resource(type_url: &str, json: &Json, place: &Place) -> Result<DynamicMessage, Rejection> {
    let descriptor = described(type_url, place)?;
    message(&descriptor, json, place)
}

/// A message that is not an Any, from its fields or from its own JSON form.
fn message(descriptor: &MessageDescriptor, json: &Json, place: &Place) -> Result<DynamicMessage, Rejection> {
    if descriptor.full_name() == ANY {
        return any(descriptor, json, place);
    }
    if let Some(what) = own_form(descriptor) {
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        return DynamicMessage::deserialize_with_options(descriptor.clone(), json, &options)
            .map_err(|_| place.expected(json, what));
    }
    let object = json.as_object().ok_or_else(|| place.expected(json, "an object"))?;
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in object
        .iter()
        .filter(|(name, _)| *name != "@type" || descriptor.get_field_by_name(name).is_some())
    {
        set(&mut message, name, value, place)?;
    }
    Ok(message)
}

/// The expected form of the well-known types that are not an object of their fields.
fn own_form(descriptor: &MessageDescriptor) -> Option<&'static str> {
    match descriptor.full_name() {
        "google.protobuf.Duration" => Some(r#"a duration in seconds such as "1.5s""#),
        "google.protobuf.Timestamp" => Some(r#"a time such as "2026-01-31T12:00:00Z""#),
        "google.protobuf.FieldMask" => Some(r#"field names such as "a,b.c""#),
        "google.protobuf.Struct" => Some("an object"),
        "google.protobuf.ListValue" => Some("a list"),
        FREE_FORM => Some("any value"),
        "google.protobuf.Empty" => Some("an empty object"),
        "google.protobuf.BoolValue" => Some("true or false"),
        "google.protobuf.StringValue" => Some("a string"),
        "google.protobuf.BytesValue" => Some("bytes in base64"),
        "google.protobuf.DoubleValue" | "google.protobuf.FloatValue" => Some("a number"),
        "google.protobuf.Int32Value" => Some("a whole number of 32 bits"),
        "google.protobuf.UInt32Value" => Some("a whole number from 0 to 4294967295"),
        "google.protobuf.Int64Value" => Some("a whole number of 64 bits"),
        "google.protobuf.UInt64Value" => Some("a whole number of 64 bits, 0 or more"),
        _ => None,
    }
}

/// One field of a message.
fn set(message: &mut DynamicMessage, name: &str, json: &Json, place: &Place) -> Result<(), Rejection> {
    let descriptor = message.descriptor();
    let at = place.field(name);
    let by_name = descriptor
        .get_field_by_name(name)
        .or_else(|| descriptor.get_field_by_json_name(name));
    let Some(field) = by_name else {
        return Err(match place.hidden && !is_typo(&descriptor, name) {
            // The name may be the secret.
            true => place.reject("found an unknown field, whose name may be a secret and is not quoted".to_owned()),
            false => at.reject(unknown(&descriptor, name)),
        });
    };

    let at = Place {
        hidden: at.hidden || is_sensitive(&field),
        ..at
    };

    if json.is_null() && !takes_null(&field) {
        return Ok(());
    }

    if message.has_field(&field) {
        return Err(at.reject("found this field under two names, expected one of them".to_owned()));
    }

    if let Some(oneof) = field.containing_oneof()
        && let Some(other) = oneof.fields().find(|other| message.has_field(other))
    {
        return Err(at.reject(format!(
            "found together with {:?}, expected one of the two",
            other.name()
        )));
    }

    let value = if field.full_name() == FILTER_CONFIG && json.as_object().is_some_and(Map::is_empty) {
        Value::default_value(&field.kind())
    } else {
        value(&field, json, &at)?
    };

    message.set_field(&field, value);
    Ok(())
}

fn takes_null(field: &FieldDescriptor) -> bool {
    field
        .kind()
        .as_message()
        .is_some_and(|message| message.full_name() == FREE_FORM)
        && !field.is_list()
}

/// Whether a name is near that of a field.
fn is_typo(descriptor: &MessageDescriptor, name: &str) -> bool {
    let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    !did_you_mean(name, names.iter().map(String::as_str)).is_empty()
}

fn unknown(descriptor: &MessageDescriptor, name: &str) -> String {
    let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    let hint = did_you_mean(name, names.iter().map(String::as_str));
    if !hint.is_empty() {
        return format!("unknown field{hint}");
    }
    match names.len() {
        0 => format!("unknown field, {} has none", descriptor.full_name()),
        1..=LISTED => {
            let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("unknown field, expected {}", one_of(&quoted))
        }
        _ => format!("unknown field, expected one of {}", descriptor.full_name()),
    }
}

fn value(field: &FieldDescriptor, json: &Json, place: &Place) -> Result<Value, Rejection> {
    if field.is_map() {
        let object = json.as_object().ok_or_else(|| place.expected(json, "an object"))?;
        return map(field, object, place);
    }
    if field.is_list() {
        let list = json.as_array().ok_or_else(|| place.expected(json, "a list"))?;
        let entry = |(index, json)| single(field, &field.kind(), json, &place.index(index));
        return list
            .iter()
            .enumerate()
            .map(entry)
            .collect::<Result<_, _>>()
            .map(Value::List);
    }
    single(field, &field.kind(), json, place)
}

fn map(field: &FieldDescriptor, object: &Map<String, Json>, place: &Place) -> Result<Value, Rejection> {
    let kind = field.kind();
    let Some(entry) = kind.as_message() else {
        return Err(place.reject("found a map, expected none".to_owned()));
    };
    let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    let mut entries = std::collections::HashMap::with_capacity(object.len());
    for (key, json) in object {
        let at = place.field(key);
        let key_json = match key_field.kind() {
            Kind::Bool => Json::Bool(key == "true"),
            _ => Json::String(key.clone()),
        };
        let key = leaf(&key_field, &key_json, &at)?;
        let key = key
            .into_map_key()
            .ok_or_else(|| at.reject("found a key that a map cannot have".to_owned()))?;
        entries.insert(key, single(&value_field, &value_field.kind(), json, &at)?);
    }

    Ok(Value::Map(entries))
}

/// A value other than a list or a map.
fn single(field: &FieldDescriptor, kind: &Kind, json: &Json, place: &Place) -> Result<Value, Rejection> {
    match kind {
        Kind::Message(descriptor) => message(descriptor, json, place).map(Value::Message),
        _ => leaf(field, json, place),
    }
}

/// A number, a string or an enum, read as the only field of its message.
fn leaf(field: &FieldDescriptor, json: &Json, place: &Place) -> Result<Value, Rejection> {
    let alone = if field.is_list() {
        Json::Array(vec![json.clone()])
    } else {
        json.clone()
    };
    let object = Json::Object(Map::from_iter([(field.name().to_owned(), alone)]));
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(field.parent_message().clone(), &object, &options);
    let value = read
        .ok()
        .filter(|_| !json.is_null())
        .map(|message| message.get_field(field).into_owned());
    match value {
        Some(Value::List(mut values)) => values.pop().ok_or_else(|| place.expected(json, &wanted(field, json))),
        Some(value) => Ok(value),
        None => Err(place.expected(json, &wanted(field, json))),
    }
}

fn wanted(field: &FieldDescriptor, json: &Json) -> String {
    match field.kind() {
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a whole number of 32 bits".to_owned(),
        Kind::Uint32 | Kind::Fixed32 => "a whole number from 0 to 4294967295".to_owned(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a whole number of 64 bits".to_owned(),
        Kind::Uint64 | Kind::Fixed64 => "a whole number of 64 bits, 0 or more".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Bytes => "bytes in base64".to_owned(),
        Kind::Enum(words) => word_of(&words, json),
        Kind::Message(_) => "an object".to_owned(),
    }
}

fn word_of(words: &EnumDescriptor, json: &Json) -> String {
    let names: Vec<String> = words.values().map(|value| value.name().to_owned()).collect();
    let text = json.as_str().unwrap_or_default().to_owned();
    let near = names.iter().find(|name| name.eq_ignore_ascii_case(&text));
    if let Some(near) = near {
        return format!("a word of {}, did you mean {near:?}?", words.full_name());
    }
    if names.len() > LISTED {
        return format!(
            "a word of {}{}",
            words.full_name(),
            did_you_mean(&text, names.iter().map(String::as_str))
        );
    }

    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!(
        "{}{}",
        one_of(&quoted),
        did_you_mean(&text, names.iter().map(String::as_str))
    )
}

/// The message in an Any: its fields beside `@type`, or `value` if it has its own JSON form.
fn any(descriptor: &MessageDescriptor, json: &Json, place: &Place) -> Result<DynamicMessage, Rejection> {
    let what = r#"an object with the "@type" of its message"#;
    let object = json.as_object().ok_or_else(|| place.expected(json, what))?;
    let at = place.field("@type");
    let type_url = match object.get("@type") {
        Some(Json::String(type_url)) => type_url,
        Some(other) => return Err(at.expected(other, r#"a type such as "type.googleapis.com/envoy.…""#)),
        None => return Err(at.reject(format!("missing, expected {what}"))),
    };
    let inner = described(type_url, &at)?;
    let inner = if own_form(&inner).is_some() || inner.full_name() == ANY {
        payload(&inner, object, place)?
    } else {
        message(&inner, json, place)?
    };
    let mut any = DynamicMessage::new(descriptor.clone());
    any.set_field_by_name("type_url", Value::String(type_url.clone()));
    any.set_field_by_name("value", Value::Bytes(canonical::encode(&inner).into()));
    Ok(any)
}

fn payload(
    descriptor: &MessageDescriptor,
    object: &Map<String, Json>,
    place: &Place,
) -> Result<DynamicMessage, Rejection> {
    if let Some((name, _)) = object
        .iter()
        .find(|(name, _)| !["@type", "value"].contains(&name.as_str()))
    {
        return Err(place
            .field(name)
            .reject(r#"unknown field, expected "@type" and "value""#.to_owned()));
    }
    let at = place.field("value");
    match object.get("value") {
        Some(json) => message(descriptor, json, &at),
        None => Err(at.reject(format!("missing, expected the {}", descriptor.full_name()))),
    }
}

/// The descriptor behind a type URL.
fn described(type_url: &str, place: &Place) -> Result<MessageDescriptor, Rejection> {
    let Some((_, name)) = type_url.rsplit_once('/') else {
        let reason = format!(
            "found {}, expected \"type.googleapis.com/\" and the name of a message",
            quote(type_url)
        );
        return Err(place.reject(reason));
    };

    if let Some(descriptor) = pool().get_message_by_name(name) {
        return Ok(descriptor);
    }

    let short = name.rsplit('.').next().unwrap_or(name);
    let namesakes: Vec<String> = pool()
        .all_messages()
        .filter(|message| message.name() == short)
        .map(|message| format!("\"type.googleapis.com/{}\"", message.full_name()))
        .take(3)
        .collect();

    let hint = if namesakes.is_empty() {
        String::new()
    } else {
        format!(", did you mean {}?", one_of(&namesakes))
    };

    Err(place.reject(format!(
        "found the type {}, which is not among those of this Envoy version{hint}",
        quote(type_url)
    )))
}
