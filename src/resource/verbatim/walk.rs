//! Every message of a resource, messages in an Any included.

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::proto::json::pool;
use crate::resource::place::Place;

const ANY: &str = "google.protobuf.Any";

/// A message, its path, and the name of the message around it.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&DynamicMessage, &Place, &str);

/// Visits a message and all messages in it, the outer before the inner ones.
pub(super) fn each(message: &DynamicMessage, at: &Place, visit: Visit<'_>) {
    below(message, at, "", visit);
}

fn below(message: &DynamicMessage, at: &Place, around: &str, visit: Visit<'_>) {
    let descriptor = message.descriptor();
    if descriptor.full_name() == ANY {
        if let Some(inner) = unpack(message) {
            below(&inner, at, around, visit);
        }
        return;
    }

    visit(message, at, around);
    let name = descriptor.full_name();
    for (field, value) in message.fields() {
        let at = || at.field(field.name());
        match value {
            Value::Message(inner) => below(inner, &at(), name, visit),
            Value::List(values) if matches!(values.first(), Some(Value::Message(_))) => {
                let at = at();
                let inner = values
                    .iter()
                    .enumerate()
                    .filter_map(|(index, value)| Some((index, value.as_message()?)));
                inner.for_each(|(index, inner)| below(inner, &at.index(index), name, visit));
            }
            Value::Map(entries) => {
                let at = at();
                let inner = entries
                    .iter()
                    .filter_map(|(key, value)| Some((key.as_str()?, value.as_message()?)));
                inner.for_each(|(key, inner)| below(inner, &at.field(key), name, visit));
            }
            _ => {}
        }
    }
}

/// The message in an Any.
fn unpack(any: &DynamicMessage) -> Option<DynamicMessage> {
    let (url, bytes) = (any.get_field_by_name("type_url")?, any.get_field_by_name("value")?);
    let descriptor = pool().get_message_by_name(url.as_str()?.rsplit('/').next()?)?;
    DynamicMessage::decode(descriptor, bytes.as_bytes()?.clone()).ok()
}
