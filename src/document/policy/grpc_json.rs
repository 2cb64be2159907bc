//! `grpc_json`: JSON over HTTP for methods of gRPC.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost_reflect::DescriptorPool;
use serde_json::{Map, Value};

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{TEXT, words};
use super::super::key::{DocumentKey, Kind};
use super::super::secret::Vault;
use super::super::sentence::quote;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        DESCRIPTOR,
        TEXT,
        "Base64 of a `FileDescriptorSet` with its imports. One of `descriptor` and `descriptor_file` is required",
    ),
    Field::new(
        FILE,
        Shape::Text("path", Some("^/")),
        "A file with such a set on the server, below `--secret-dir`; read again when it changes",
    ),
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
]);
const DESCRIPTOR: &str = "descriptor";
const FILE: &str = "descriptor_file";
/// The kind.
const KIND: &str = "grpc_json";
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
    /// The file with it on the server.
    pub file: Option<String>,
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

/// Whether the text of a document may have a `descriptor_file`: few have, so the others are not searched.
pub(in crate::document) fn may_name_files(key: &DocumentKey, text: &[u8]) -> bool {
    let kinds = [
        Kind::Policies,
        Kind::Routes,
        Kind::Clusters,
        Kind::Listeners,
        Kind::Defaults,
    ];
    kinds.contains(&key.kind) && std::str::from_utf8(text).is_ok_and(|text| text.contains(FILE))
}

/// Put the content of each `descriptor_file` beside it, as its `descriptor`. Returns whether there is one.
pub(in crate::document) fn insert_files(
    value: &mut Value,
    path: &str,
    key: &DocumentKey,
    vault: &Vault,
) -> Result<bool, Rejection> {
    let mut has_files = false;
    match value {
        Value::Array(entries) => {
            for (index, entry) in entries.iter_mut().enumerate() {
                has_files |= insert_files(entry, &format!("{path}[{index}]"), key, vault)?;
            }
        }
        Value::Object(fields) => {
            for (name, inner) in fields {
                let below = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                match inner {
                    Value::Object(json) if name == KIND => has_files |= insert_file(json, &below, key, vault)?,
                    inner @ (Value::Array(_) | Value::Object(_)) => {
                        has_files |= insert_files(inner, &below, key, vault)?
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(has_files)
}

fn insert_file(json: &mut Map<String, Value>, path: &str, key: &DocumentKey, vault: &Vault) -> Result<bool, Rejection> {
    let Some(file) = json.get(FILE).and_then(Value::as_str) else {
        return Ok(false);
    };
    let at = format!("{path}.{FILE}");
    if json.get(DESCRIPTOR).is_some_and(|descriptor| !descriptor.is_null()) {
        return Err(Rejection::new(
            at,
            "found beside \"descriptor\", expected one of the two",
        ));
    }
    let content = vault.content(key, file).map_err(|reason| Rejection::new(at, reason))?;
    json.insert(DESCRIPTOR.to_owned(), BASE64.encode(content).into());
    Ok(true)
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<GrpcJson, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let file = object.read(FILE, |field| field.string().map(str::to_owned))?;
    let field = object.require(DESCRIPTOR, "the base64 of a FileDescriptorSet, or \"descriptor_file\"")?;
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
        file,
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
