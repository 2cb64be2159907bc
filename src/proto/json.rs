//! Proto-JSON of encoded messages, for people: the admin API and golden tests.
//!
//! Field names are those of the .proto files (`snake_case`, as in Envoy's own YAML), defaults are left out, an Any
//! shows its message beside `@type`. An Any of a type that is not in the descriptors shows its bytes as base64 in
//! `value`; an empty Any is `{}`.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, field_descriptor_proto};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions, Value};
use serde_json::{Value as Json, json};

use super::ENVOY_DESCRIPTORS;

/// The reason why a message has no JSON.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The type is not part of `envoy-types`.
    #[error("type {0} is not known")]
    UnknownType(String),
    /// The bytes are not a message of that type.
    #[error("decode {type_url}")]
    Decode {
        /// The type that was expected.
        type_url: String,
        /// The fault in the bytes.
        #[source]
        source: prost::DecodeError,
    },
    /// The message has a value that JSON cannot express, such as a duration out of range.
    #[error("write {type_url} as JSON")]
    Write {
        /// The type of the message.
        type_url: String,
        /// The value that cannot be expressed.
        #[source]
        source: serde_json::Error,
    },
}

/// Decoded once, when first needed (3.3 MB of descriptors).
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(ENVOY_DESCRIPTORS).expect("envoy-types ships a complete descriptor set");
    for package in ["xds.type.v3", "udpa.type.v1"] {
        pool.add_file_descriptor_proto(typed_struct(package))
            .expect("the file is complete and new");
    }
    pool
});

/// The file of `TypedStruct`, which can replace any message in an Any. Envoy accepts it; `envoy-types` does not have
/// it.
fn typed_struct(package: &str) -> FileDescriptorProto {
    let field = |name: &str, number, kind: field_descriptor_proto::Type, message: Option<&str>| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(field_descriptor_proto::Label::Optional.into()),
        r#type: Some(kind.into()),
        type_name: message.map(ToOwned::to_owned),
        ..FieldDescriptorProto::default()
    };

    let value = field(
        "value",
        2,
        field_descriptor_proto::Type::Message,
        Some(".google.protobuf.Struct"),
    );

    let message = DescriptorProto {
        name: Some("TypedStruct".to_owned()),
        field: vec![field("type_url", 1, field_descriptor_proto::Type::String, None), value],
        ..DescriptorProto::default()
    };

    FileDescriptorProto {
        name: Some(format!("{}/typed_struct.proto", package.replace('.', "/"))),
        package: Some(package.to_owned()),
        dependency: vec!["google/protobuf/struct.proto".to_owned()],
        message_type: vec![message],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

const ANY: &str = "google.protobuf.Any";
const STRUCT_URL: &str = "type.googleapis.com/google.protobuf.Struct";
/// Marks the placeholder of an Any with an unknown type. No real field has this name.
const UNKNOWN_TYPE: &str = "@unknown_type";

/// The descriptors of everything in `envoy-types`.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The proto-JSON of an encoded message, with `@type` first.
///
/// # Errors
/// Bytes that are not a message of the type, or a type that is not known.
pub fn to_json(type_url: &str, bytes: &[u8]) -> Result<Json, Error> {
    let mut message = decode(type_url, bytes)?;
    name_unknown_types(&mut message);
    let options = SerializeOptions::new().use_proto_field_name(true);
    let written = message.serialize_with_options(serde_json::value::Serializer, &options);
    let mut body = written.map_err(|source| Error::Write {
        type_url: type_url.to_owned(),
        source,
    })?;
    show_unknown_types(&mut body);
    let mut whole = serde_json::Map::from_iter([("@type".to_owned(), json!(type_url))]);
    match body {
        Json::Object(fields) => whole.extend(fields),
        // Well-known types such as Duration have a JSON form of their own.
        other => drop(whole.insert("value".to_owned(), other)),
    }
    Ok(Json::Object(whole))
}

fn decode(type_url: &str, bytes: &[u8]) -> Result<DynamicMessage, Error> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    let descriptor = POOL
        .get_message_by_name(name)
        .ok_or_else(|| Error::UnknownType(type_url.to_owned()))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|source| Error::Decode {
        type_url: type_url.to_owned(),
        source,
    })
}

/// Replace every Any that cannot be written, at any depth, by one that can: a Struct of its type and its bytes.
fn name_unknown_types(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == ANY {
        return name_unknown_type(message);
    }
    let present: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in present {
        match message.get_field_mut(&field) {
            Value::Message(inner) => name_unknown_types(inner),
            Value::List(values) => values
                .iter_mut()
                .filter_map(Value::as_message_mut)
                .for_each(name_unknown_types),
            Value::Map(values) => values
                .values_mut()
                .filter_map(Value::as_message_mut)
                .for_each(name_unknown_types),
            _ => {}
        }
    }
}

fn name_unknown_type(any: &mut DynamicMessage) {
    let type_url = any
        .get_field_by_name("type_url")
        .and_then(|value| value.as_str().map(str::to_owned));
    let bytes = any
        .get_field_by_name("value")
        .and_then(|value| value.as_bytes().cloned());
    let (type_url, bytes) = (type_url.unwrap_or_default(), bytes.unwrap_or_default());
    let (type_url, bytes) = match decode(&type_url, &bytes) {
        Ok(mut inner) => {
            name_unknown_types(&mut inner);
            (type_url, inner.encode_to_vec())
        }
        Err(_) => (STRUCT_URL.to_owned(), stand_in(&type_url, &bytes)),
    };
    any.set_field_by_name("type_url", Value::String(type_url));
    any.set_field_by_name("value", Value::Bytes(bytes.into()));
}

fn stand_in(type_url: &str, bytes: &[u8]) -> Vec<u8> {
    let fields = [
        (UNKNOWN_TYPE.to_owned(), json!(type_url)),
        ("value".to_owned(), json!(BASE64.encode(bytes))),
    ];
    fields
        .iter()
        .map(|(name, value)| (name, value))
        .collect::<super::structs::Struct>()
        .encode_to_vec()
}

/// Replace the placeholders of [`name_unknown_type`] by the unknown types.
fn show_unknown_types(json: &mut Json) {
    match json {
        Json::Object(fields) => {
            if let Some(Json::Object(inner)) = fields.get("value")
                && fields.get("@type") == Some(&json!(STRUCT_URL))
                && let Some(type_url) = inner.get(UNKNOWN_TYPE)
            {
                *json = match type_url.as_str() {
                    Some("") if inner["value"] == "" => json!({}),
                    _ => json!({ "@type": type_url, "value": inner["value"] }),
                };
            } else {
                fields.values_mut().for_each(show_unknown_types);
            }
        }
        Json::Array(values) => values.iter_mut().for_each(show_unknown_types),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Name;

    use super::*;
    use crate::proto::message;

    fn cluster(typed_config: Any) -> Cluster {
        Cluster {
            name: "orders".into(),
            connect_timeout: Some(message::duration(Duration::from_millis(2500))),
            transport_socket: Some(TransportSocket {
                name: "tls".into(),
                config_type: Some(transport_socket::ConfigType::TypedConfig(typed_config)),
            }),
            ..Cluster::default()
        }
    }

    #[test]
    fn an_any_shows_its_message() {
        let tls = UpstreamTlsContext {
            sni: "orders.internal".into(),
            ..UpstreamTlsContext::default()
        };
        let cluster = cluster(message::any(&tls));
        let expected = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "orders",
            "connect_timeout": "2.500s",
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "orders.internal",
                },
            },
        });
        assert_eq!(
            to_json(&Cluster::type_url(), &cluster.encode_to_vec()).unwrap(),
            expected
        );
    }

    #[test]
    fn an_any_of_an_unknown_type_shows_its_bytes() {
        let typed_config = Any {
            type_url: "type.googleapis.com/acme.Tls".into(),
            value: vec![8, 1],
        };
        let json = to_json(&Cluster::type_url(), &cluster(typed_config).encode_to_vec()).unwrap();
        let expected = json!({ "@type": "type.googleapis.com/acme.Tls", "value": "CAE=" });
        assert_eq!(json["transport_socket"]["typed_config"], expected);
    }

    #[test]
    fn an_empty_any_is_an_empty_object() {
        let json = to_json(&Cluster::type_url(), &cluster(Any::default()).encode_to_vec()).unwrap();
        assert_eq!(json["transport_socket"]["typed_config"], json!({}));
    }

    #[test]
    fn an_unknown_type_or_other_bytes_are_errors() {
        assert!(matches!(
            to_json("type.googleapis.com/acme.Tls", &[]),
            Err(Error::UnknownType(_))
        ));
        assert!(matches!(
            to_json(&Cluster::type_url(), &[0xff]),
            Err(Error::Decode { .. })
        ));
    }
}
