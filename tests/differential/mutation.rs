//! One change of a resource, at the edge of what its message allows.
//!
//! The change is made anywhere in the message, messages in an Any included: a field goes, a number moves to an edge, a
//! text gets a letter that few fields allow, an enum gets a number that it has not, a list loses or doubles its entries,
//! a field that was absent gets a value.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use chancery::proto::json::pool;

use super::dice::Dice;

const ANY: &str = "google.protobuf.Any";
/// Messages that are one value.
const WRAPPED: [&str; 7] = [
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Int32Value",
    "google.protobuf.DoubleValue",
    "google.protobuf.BoolValue",
    "google.protobuf.StringValue",
    "google.protobuf.Duration",
];
const TEXTS: [&str; 12] = [
    "", "a", "*", "a\nb", "a\rb", "/", "/a", "%", "%REQ(x)%", "a b", "A", "\u{e4}",
];
const NUMBERS: [u32; 14] = [
    0,
    1,
    2,
    99,
    100,
    101,
    127,
    199,
    600,
    1024,
    65535,
    65536,
    i32::MAX as u32,
    u32::MAX,
];
/// Seconds and nanoseconds.
const DURATIONS: [(i64, i32); 7] = [
    (0, 0),
    (0, 1),
    (0, 1_000_000),
    (1, 0),
    (-1, 0),
    (86_400, 0),
    (9_223_372_036, 0),
];

/// Change a message. Out: the place of the change and its kind; `None` if nothing could be changed there.
pub(crate) fn mutate(message: &mut DynamicMessage, dice: &mut Dice) -> Option<String> {
    if message.descriptor().full_name() == ANY {
        return within_any(message, dice);
    }
    let inner: Vec<FieldDescriptor> = message
        .fields()
        .filter(|(field, _)| is_inner(field))
        .map(|(field, _)| field)
        .collect();
    if !inner.is_empty() && dice.percent(75) {
        let field = dice.one(&inner).clone();
        let changed = match message.get_field_mut(&field) {
            Value::Message(inner) => mutate(inner, dice),
            Value::List(entries) if !entries.is_empty() => {
                let index = dice.below(entries.len());
                entries[index].as_message_mut().and_then(|inner| mutate(inner, dice))
            }
            Value::Map(entries) => {
                let first = entries.keys().min_by_key(|key| format!("{key:?}")).cloned();
                let entry = first.and_then(|key| entries.get_mut(&key));
                entry
                    .and_then(Value::as_message_mut)
                    .and_then(|inner| mutate(inner, dice))
            }
            _ => None,
        };
        return changed.map(|place| format!("{}.{place}", field.name()));
    }
    alter(message, dice)
}

fn within_any(any: &mut DynamicMessage, dice: &mut Dice) -> Option<String> {
    let type_url = any.get_field_by_name("type_url")?.as_str()?.to_owned();
    let bytes = any.get_field_by_name("value")?.as_bytes()?.clone();
    let descriptor = pool().get_message_by_name(type_url.rsplit('/').next()?)?;
    let mut inner = DynamicMessage::decode(descriptor, bytes).ok()?;
    let place = mutate(&mut inner, dice)?;
    any.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
    Some(place)
}

/// Whether a field holds messages with fields of their own.
fn is_inner(field: &FieldDescriptor) -> bool {
    let message = match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => match entry.map_entry_value_field().kind() {
            Kind::Message(message) => message,
            _ => return false,
        },
        Kind::Message(message) => message,
        _ => return false,
    };
    !WRAPPED.contains(&message.full_name())
        && (message.full_name() == ANY || !message.full_name().starts_with("google.protobuf."))
}

fn alter(message: &mut DynamicMessage, dice: &mut Dice) -> Option<String> {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    let set: Vec<&FieldDescriptor> = fields.iter().filter(|field| message.has_field(field)).collect();
    let field = match set.is_empty() || dice.percent(35) {
        true if fields.is_empty() => return None,
        true => dice.one(&fields).clone(),
        false => (*dice.one(&set)).clone(),
    };
    let name = field.name();

    if message.has_field(&field) && dice.percent(25) {
        message.clear_field(&field);
        return Some(format!("{name} removed"));
    }
    if field.is_map() {
        return None;
    }
    if field.is_list() {
        let mut entries = message.get_field(&field).as_list().unwrap_or_default().to_vec();
        match entries.first().cloned() {
            Some(first) if dice.percent(50) => entries.push(first),
            Some(_) => entries[0] = edge(&field, &entries[0].clone(), dice)?,
            None => entries.push(edge(&field, &Value::default_value(&field.kind()), dice)?),
        }
        message.set_field(&field, Value::List(entries));
        return Some(format!("{name} list"));
    }
    let value = edge(&field, &message.get_field(&field), dice)?;
    let shown = format!("{name} = {value}");
    message.set_field(&field, value);
    Some(shown)
}

/// A value at an edge.
fn edge(field: &FieldDescriptor, now: &Value, dice: &mut Dice) -> Option<Value> {
    let number = *dice.one(&NUMBERS);
    Some(match field.kind() {
        Kind::Bool => Value::Bool(!now.as_bool().unwrap_or_default()),
        Kind::String => Value::String((*dice.one(&TEXTS)).to_owned()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::from(number)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::try_from(number).unwrap_or(-1)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::from(number)),
        Kind::Double => Value::F64(f64::from(number)),
        Kind::Float => return None,
        Kind::Bytes => return None,
        Kind::Enum(words) => {
            let mut numbers: Vec<i32> = words.values().map(|word| word.number()).collect();
            numbers.push(77);
            Value::EnumNumber(*dice.one(&numbers))
        }
        Kind::Message(message) => {
            let mut inner = DynamicMessage::new(message.clone());
            match message.full_name() {
                "google.protobuf.Duration" => {
                    let (seconds, nanos) = *dice.one(&DURATIONS);
                    inner.set_field_by_name("seconds", Value::I64(seconds));
                    inner.set_field_by_name("nanos", Value::I32(nanos));
                }
                name if WRAPPED.contains(&name) => {
                    let field = message.get_field_by_name("value")?;
                    let value = edge(&field, &Value::default_value(&field.kind()), dice)?;
                    inner.set_field(&field, value);
                }
                // An Any without a type, a Struct and the like say nothing.
                name if name.starts_with("google.protobuf.") => return None,
                _ => {}
            }
            Value::Message(inner)
        }
    })
}
