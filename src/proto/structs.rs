//! `google.protobuf.Struct` with sorted fields: the same wire format, always the same bytes.
//!
//! The generated type holds its fields in a `HashMap` and encodes them in random order; these hold them in a
//! `BTreeMap`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// Sorted by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// The kind of the value; always present in values from [`Value::from`].
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// The kinds of a [`Value`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// `null`, always 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A string.
    #[prost(string, tag = "3")]
    String(String),
    /// `true` or `false`.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// An object.
    #[prost(message, tag = "5")]
    Struct(Struct),
    /// A list.
    #[prost(message, tag = "6")]
    List(List),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct List {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

impl<'a> FromIterator<(&'a String, &'a Json)> for Struct {
    fn from_iter<I: IntoIterator<Item = (&'a String, &'a Json)>>(fields: I) -> Self {
        Self {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.clone(), Value::from(value)))
                .collect(),
        }
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        let kind = match json {
            Json::Null => Kind::Null(0),
            Json::Bool(value) => Kind::Bool(*value),
            // Every number of serde_json is one of u64, i64 and f64 and converts, the first two to the nearest.
            Json::Number(value) => Kind::Number(value.as_f64().unwrap_or_default()),
            Json::String(value) => Kind::String(value.clone()),
            Json::Array(values) => Kind::List(List {
                values: values.iter().map(Self::from).collect(),
            }),
            Json::Object(fields) => Kind::Struct(fields.iter().collect()),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf;
    use prost::Message;
    use serde_json::json;

    use super::*;

    fn sample() -> Struct {
        let json =
            json!({ "b": [1, "x", null], "a": { "z": true, "y": -1.5, "x": {}, "w": "" }, "c": 3, "d": 4, "e": 5 });
        json.as_object().unwrap().iter().collect()
    }

    #[test]
    fn bytes_decode_as_the_real_struct_and_back() {
        let bytes = sample().encode_to_vec();
        let real = protobuf::Struct::decode(&bytes[..]).unwrap();
        assert_eq!(real.fields.len(), 5);
        assert_eq!(real.fields["c"].kind, Some(protobuf::value::Kind::NumberValue(3.0)));
        assert_eq!(Struct::decode(&real.encode_to_vec()[..]).unwrap(), sample());
    }

    #[test]
    fn the_same_fields_always_give_the_same_bytes() {
        let real = |bytes: &[u8]| protobuf::Struct::decode(bytes).unwrap().encode_to_vec();
        let bytes = sample().encode_to_vec();
        let mut random_order_seen = false;
        for _ in 0..200 {
            // Through the generated type, each time with another hash seed, the order changes; through this one it does
            // not.
            let shuffled = real(&bytes);
            random_order_seen |= shuffled != bytes;
            assert_eq!(Struct::decode(&shuffled[..]).unwrap().encode_to_vec(), bytes);
        }
        assert!(random_order_seen, "the generated type would do");
    }
}
