//! Canonical bytes of a message without a generated type, by its descriptor.
//!
//! A [`DynamicMessage`] holds its maps in a `HashMap`, as generated types do, and encodes them in random order. This
//! module encodes fields in the order of their numbers and map entries in the order of their keys, at every depth, so
//! that equal messages have equal bytes. The content of an Any is not changed: the caller encodes it with this module
//! first.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, ReflectMessage, Value};

use super::message::append;

/// The bytes of a message, the same for equal ones.
#[must_use]
pub fn encode(message: &DynamicMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (field, value) in message.fields() {
        match value {
            Value::Message(inner) => append(&mut bytes, field.number(), &encode(inner)),
            Value::List(values) if field.kind().as_message().is_some() => {
                let inner = values.iter().filter_map(Value::as_message);
                inner.for_each(|inner| append(&mut bytes, field.number(), &encode(inner)));
            }
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    append(&mut bytes, field.number(), &entry(&field, key, value));
                }
            }
            value => {
                let mut alone = DynamicMessage::new(message.descriptor());
                alone.set_field(&field, value.clone());
                bytes.extend_from_slice(&alone.encode_to_vec());
            }
        }
    }

    bytes
}

/// One entry of a map: a message of a key and a value.
fn entry(map: &FieldDescriptor, key: &MapKey, value: &Value) -> Vec<u8> {
    let kind = map.kind();
    let Some(descriptor) = kind.as_message() else {
        return Vec::new();
    };
    let mut entry = DynamicMessage::new(descriptor.clone());
    entry.set_field(&descriptor.map_entry_key_field(), Value::from(key.clone()));
    if let Value::Message(inner) = value {
        let mut bytes = entry.encode_to_vec();
        append(&mut bytes, descriptor.map_entry_value_field().number(), &encode(inner));
        return bytes;
    }
    entry.set_field(&descriptor.map_entry_value_field(), value.clone());
    entry.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::proto::json::pool;

    fn read(pool: &DescriptorPool, name: &str, json: &Json) -> DynamicMessage {
        let descriptor = pool.get_message_by_name(name).unwrap();
        DynamicMessage::deserialize(descriptor, json).unwrap()
    }

    #[test]
    fn equal_messages_have_equal_bytes_and_lose_nothing() {
        let metadata = json!({ "filterMetadata": {
            "b": { "x": 1, "y": [{ "q": 1, "p": null }], "z": true },
            "a": {}, "": { "": "" }, "c": { "1": 1, "2": 2, "3": 3 },
        } });
        let health = json!({ "statuses": { "a": 0, "b": 1, "c": 0, "d": 1 } });
        let cases = [
            ("envoy.config.core.v3.Metadata", metadata),
            ("envoy.config.core.v3.Locality", json!({ "region": "r" })),
            (
                "envoy.config.endpoint.v3.ClusterLoadAssignment",
                json!({ "clusterName": "a", "namedEndpoints": {
                "x": { "hostname": "x" }, "y": { "hostname": "y" }, "z": {},
            } }),
            ),
            ("google.protobuf.Struct", health),
        ];
        for (name, json) in cases {
            let first = encode(&read(pool(), name, &json));
            let mut random_order_seen = false;
            for _ in 0..50 {
                let again = read(pool(), name, &json);
                assert_eq!(encode(&again), first, "{name}");
                random_order_seen |= again.encode_to_vec() != first;
                let decoded = DynamicMessage::decode(again.descriptor(), &first[..]).unwrap();
                assert_eq!(decoded, again, "{name}");
            }
            assert!(
                random_order_seen || name.ends_with("Locality"),
                "{name}: the usual encoding would do"
            );
        }
    }
}
