//! The JSON Schemas and the decoder agree: over the golden inputs, the examples of the pages, and mutations of them.
//!
//! - A document that the decoder takes is valid by the schema of its kind.
//! - A field that the decoder does not know, a value of another type and a number out of its bounds are invalid.
//!
//! The schemas stand in `docs/documents/schema/`; `CHANCERY_GOLDEN=write` rewrites them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use chancery::document::key::{DocumentKey, Kind};
use chancery::document::{self, Limits, Rejection, schema};
use serde_json::{Value, json};

use super::documented::documents_of_pages;
use super::inputs::{documents, names};

/// A field that no kind has.
const UNKNOWN: &str = "zzz_unknown";
/// Numbers at the edges of bounds.
const NUMBERS: [i64; 27] = [
    i32::MIN as i64 - 1,
    i32::MIN as i64,
    -1,
    0,
    1,
    2,
    3,
    99,
    100,
    101,
    128,
    129,
    199,
    200,
    255,
    256,
    599,
    600,
    10_000,
    10_001,
    65_535,
    65_536,
    5_000_011,
    5_000_012,
    i32::MAX as i64 + 1,
    u32::MAX as i64,
    u32::MAX as i64 + 1,
];
/// Parts of the reasons against numbers that are out of bounds.
const OUT_OF_BOUNDS: [&str; 2] = ["expected a whole number from", "expected a number from 0 to 100"];

/// The compiled schemas of all kinds.
pub(crate) struct Validators {
    schemas: Schemas,
    by_kind: BTreeMap<Kind, SchemaIndex>,
}

impl Validators {
    pub(crate) fn new() -> Self {
        let (mut schemas, mut by_kind) = (Schemas::new(), BTreeMap::new());
        for kind in schema::kinds() {
            let mut compiler = Compiler::new();
            compiler.set_default_draft(Draft::V2020_12);
            let name = format!("file:///{kind}.json");
            compiler.add_resource(&name, schema_of(kind)).expect("a schema");
            let index = compiler.compile(&name, &mut schemas);
            by_kind.insert(kind, index.unwrap_or_else(|error| panic!("{kind}: {error:#}")));
        }
        Self { schemas, by_kind }
    }

    /// The reason of the schema against a document.
    pub(crate) fn reason(&self, kind: Kind, document: &Value) -> Option<String> {
        let judged = self.schemas.validate(document, self.by_kind[&kind]);
        judged.err().map(|error| error.to_string())
    }
}

/// The schema of a kind.
pub(crate) fn schema_of(kind: Kind) -> Value {
    let path = kind.as_str();
    schema::find(path).expect("a kind").json_schema(path)
}

/// The key of a document.
pub(crate) fn key_of(key: &str) -> DocumentKey {
    let (word, name) = key.split_once('/').unwrap_or((key, ""));
    DocumentKey::new(Kind::from_word(word).expect("a kind"), name)
}

fn decoded(key: &DocumentKey, document: &Value) -> Result<(), Rejection> {
    let text = document.as_str().map_or_else(|| document.to_string(), str::to_owned);
    document::parse(key, text.as_bytes(), &Limits::default()).map(drop)
}

/// Every document of the golden inputs and of the pages, by key.
fn all_documents() -> Vec<(DocumentKey, Value)> {
    let golden = names().into_iter().flat_map(|name| documents(&name));
    let pages = documents_of_pages().into_iter().filter_map(|(key, text)| {
        let value = document::value(text.as_bytes()).ok()?;
        Some((key, value))
    });
    let all = golden.chain(pages).map(|(key, value)| (key_of(&key), value));
    // The server alone writes what a registry finds.
    all.filter(|(key, _)| key.registry().is_none()).collect()
}

/// One place of a document with its field path, as rejections have it.
struct Spot {
    pointer: String,
    path: String,
}

/// Every place in a document; not below objects of any content.
fn spots(document: &Value, key: &DocumentKey) -> Vec<Spot> {
    fn walk(value: &Value, pointer: &str, path: &str, found: &mut Vec<Spot>) {
        found.push(Spot {
            pointer: pointer.to_owned(),
            path: path.to_owned(),
        });
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if ["resource", "metadata", "Metadata", "jwks"].contains(&name.as_str()) {
                        continue;
                    }
                    let pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(value, &pointer, &format!("{path}{dot}{name}"), found);
                }
            }
            Value::Array(entries) => {
                for (index, value) in entries.iter().enumerate() {
                    walk(value, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    // The plain form of a registration is text of its own.
    if !(key.kind == Kind::Services && document.is_string()) {
        walk(document, "", "", &mut found);
    }
    found
}

/// The document with another value at a place.
fn with(document: &Value, spot: &Spot, value: Value) -> Value {
    let mut changed = document.clone();
    *changed.pointer_mut(&spot.pointer).expect("a place of the document") = value;
    changed
}

/// The documents with one value replaced, or one field more, each with the place of the change.
fn mutations(document: &Value, spot: &Spot) -> Vec<Value> {
    let old = document.pointer(&spot.pointer).expect("a place of the document");
    let mut values = vec![
        json!(null),
        json!(true),
        json!("x"),
        json!(5),
        json!(0.5),
        json!([]),
        json!({}),
        json!([5]),
    ];
    if old.is_number() {
        values.extend(NUMBERS.map(Value::from));
    }
    if let Value::Object(fields) = old {
        let mut more = fields.clone();
        more.insert(UNKNOWN.to_owned(), json!(5));
        values.push(Value::Object(more));
        for name in fields.keys() {
            let mut fewer = fields.clone();
            fewer.remove(name);
            values.push(Value::Object(fewer));
        }
    }
    values.into_iter().map(|value| with(document, spot, value)).collect()
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

/// Whether the schema must find the mistake, too.
fn is_for_schema(document: &Value, changed: &Value, spot: &Spot, rejection: &Rejection) -> bool {
    let value = |document: &Value| document.pointer(&spot.pointer).cloned().unwrap_or_default();
    let is_here = rejection.path == spot.path;
    let is_other_type = type_of(&value(document)) != type_of(&value(changed)) && !value(changed).is_null();
    let is_out_of_bounds = OUT_OF_BOUNDS.iter().any(|part| rejection.reason.contains(part));
    rejection.reason.contains("unknown field") || (is_here && (is_other_type || is_out_of_bounds))
}

#[test]
fn decoder_and_schema_agree() {
    let validators = Validators::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    let documents = all_documents();
    for (key, document) in &documents {
        let mut judge = |spot: Option<&Spot>, changed: &Value| {
            count += 1;
            let invalid = validators.reason(key.kind, changed);
            match (decoded(key, changed), invalid, spot) {
                (Ok(()), Some(reason), _) => wrong.push(format!("{key} {changed}\nis taken, but invalid: {reason}")),
                (Err(rejection), None, Some(spot)) if is_for_schema(document, changed, spot, &rejection) => {
                    wrong.push(format!("{key} {changed}\nis valid, but rejected: {rejection}"));
                }
                _ => {}
            }
        };
        judge(None, document);
        for spot in spots(document, key) {
            for changed in mutations(document, &spot) {
                judge(Some(&spot), &changed);
            }
        }
    }
    assert!(count > 10_000, "{count} documents of {}", documents.len());
    let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(wrong.is_empty(), "{} of {count}:\n{shown}", wrong.len());
}

#[test]
fn a_document_may_name_its_schema() {
    let validators = Validators::new();
    let mut kinds = BTreeMap::new();
    for (key, document) in all_documents() {
        let Value::Object(mut fields) = document.clone() else {
            continue;
        };
        fields.insert(schema::SCHEMA_FIELD.to_owned(), json!("../schema.json"));
        let named = Value::Object(fields);
        let parsed = |document: &Value| {
            document::parse(&key, document.to_string().as_bytes(), &Limits::default()).expect("a good document")
        };
        assert_eq!(parsed(&named), parsed(&document), "{key}");
        assert_eq!(validators.reason(key.kind, &named), None, "{key}");
        kinds.insert(key.kind, ());
    }
    assert!(kinds.into_keys().eq(sorted_kinds()), "every kind has an example");

    let key = key_of("secrets/a");
    let reason = decoded(&key, &json!({ "$schema": ["hunter2"], "generic": "a" })).map_err(|error| error.to_string());
    let expected = "$schema: found a list, expected a string, the address of a JSON Schema";
    assert_eq!(reason, Err(expected.to_owned()));
}

fn sorted_kinds() -> impl Iterator<Item = Kind> {
    let mut kinds: Vec<Kind> = schema::kinds().collect();
    kinds.sort();
    kinds.into_iter()
}

#[test]
fn the_schemas_of_the_pages_are_those_of_the_server() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/documents/schema");
    let write = std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write");
    let mut wrong = Vec::new();
    for kind in schema::kinds() {
        let path = folder.join(format!("{kind}.json"));
        let now = format!("{:#}\n", schema_of(kind));
        if write {
            fs::write(&path, &now).expect("write a schema");
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&now) {
            wrong.push(path.display().to_string());
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong:?} differ; CHANCERY_GOLDEN=write accepts the new schemas"
    );
}
