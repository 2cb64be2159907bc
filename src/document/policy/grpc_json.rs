//! `grpc_json`: JSON over HTTP for methods of gRPC.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost_reflect::DescriptorPool;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{TEXT, words};
use super::super::sentence::quote;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new("descriptor", TEXT, "Base64 of a `FileDescriptorSet` with its imports").required(),
    Field::new(
        "services",
        Shape::entries(&TEXT, MAX_SERVICES),
        "Full names of services of the descriptor",
    )
    .required(),
    Field::new("print", Shape::Object(&PRINT_FIELDS), "The form of JSON").or("`{}`"),
    Field::new(
        "unknown_query",
        Shape::Words(&words(&UNKNOWN)),
        "Unknown query parameters",
    )
    .or("`\"reject\"`"),
    Field::new("status_to_json", Shape::Flag, "A status of gRPC becomes JSON").or("`true`"),
    Field::new("max_body", Shape::Size(1, u32::MAX), "Largest request").or("the `buffer` of the listener"),
])
.later(&["descriptor_file"]);
const UNKNOWN: [(&str, bool); 2] = [("reject", false), ("ignore", true)];
const PRINT_FIELDS: Fields = Fields::of(&[
    Field::new("whitespace", Shape::Flag, "Line breaks and blanks").or("`false`"),
    Field::new("defaults", Shape::Flag, "Fields with their default, too").or("`false`"),
    Field::new("enum_numbers", Shape::Flag, "Enums as numbers").or("`false`"),
    Field::new("proto_names", Shape::Flag, "Names as in the descriptor").or("`false`"),
]);
/// Largest descriptor, in bytes.
const MAX_DESCRIPTOR: usize = 1024 * 1024;
/// Most services.
const MAX_SERVICES: usize = 100;

/// `grpc_json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcJson {
    /// A `FileDescriptorSet`, encoded.
    pub descriptor: Bytes,
    /// The services; at least one, each in the descriptor.
    pub services: Vec<String>,
    /// The form of JSON.
    pub print: Print,
    /// Whether unknown query parameters are ignored; else a request with one is refused.
    pub ignores_unknown_query: bool,
    /// Whether a status of gRPC becomes JSON.
    pub status_to_json: bool,
    /// Largest body of a request, in bytes; `None`: the listener's buffer.
    pub max_body: Option<u32>,
}

/// `print`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Print {
    /// Line breaks and blanks.
    pub whitespace: bool,
    /// Fields with their default, too.
    pub defaults: bool,
    /// Enums as numbers.
    pub enum_numbers: bool,
    /// Names as in the descriptor instead of camel case.
    pub proto_names: bool,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<GrpcJson, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let field = object.require("descriptor", "the base64 of a FileDescriptorSet")?;
    let encoded = field.value().as_str().and_then(|text| BASE64.decode(text).ok());
    let descriptor: Bytes = encoded
        .ok_or_else(|| field.confidential("the base64 of a FileDescriptorSet"))?
        .into();
    if descriptor.len() > MAX_DESCRIPTOR {
        let size = descriptor.len();
        return Err(field.reject(format!("found {size} bytes, expected at most {MAX_DESCRIPTOR}")));
    }
    let pool = DescriptorPool::decode(descriptor.clone()).map_err(|error| {
        field.reject(format!(
            "found a descriptor that cannot be read ({error}), expected a FileDescriptorSet with its imports"
        ))
    })?;

    let list = object.require("services", "the names of services")?;
    let entries = list.entries()?;
    if entries.len() > MAX_SERVICES {
        return Err(list.reject(format!(
            "found {} services, expected at most {MAX_SERVICES}",
            entries.len()
        )));
    }
    let mut services: Vec<String> = Vec::new();
    for entry in &entries {
        let name = entry.text()?;
        if pool.get_service_by_name(name).is_none() {
            let known: Vec<String> = pool
                .services()
                .map(|service| quote(service.full_name()))
                .take(5)
                .collect();
            return Err(entry.expected(&format!("a service of the descriptor, such as {}", known.join(", "))));
        }
        if services.iter().any(|other| other == name) {
            return Err(entry.reject("found a service a second time, expected each once"));
        }
        services.push(name.to_owned());
    }

    Ok(GrpcJson {
        descriptor,
        services,
        print: object.read("print", |field| read_print(&field))?.unwrap_or_default(),
        ignores_unknown_query: object
            .read("unknown_query", |field| field.word(&UNKNOWN))?
            .unwrap_or(false),
        status_to_json: object.read("status_to_json", |field| field.bool())?.unwrap_or(true),
        max_body: object.read("max_body", |field| field.size(1..=u32::MAX))?,
    })
}

fn read_print(cursor: &Cursor<'_>) -> Result<Print, Rejection> {
    let object = cursor.object(&PRINT_FIELDS)?;
    let flag = |name| Ok::<_, Rejection>(object.read(name, |field| field.bool())?.unwrap_or(false));
    Ok(Print {
        whitespace: flag("whitespace")?,
        defaults: flag("defaults")?,
        enum_numbers: flag("enum_numbers")?,
        proto_names: flag("proto_names")?,
    })
}
