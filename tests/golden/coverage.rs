//! The coverage of fields: for each field of each kind the golden input that has it, the bad document about it, and its
//! use with a real Envoy. The run prints the table. An empty cell fails the test.
//!
//! Tables that several objects share count once. A bad document is about the field of its rejection's path. The last
//! column has the first that holds or names the field:
//!
//! - a recipe of `envoy-config/recipes/`, which `tests/e2e/recipes.rs` drives;
//! - a file of `tests/e2e/`;
//! - the table of the differential test, which gives each of its fields to a real Envoy in 20 sets or more;
//! - a file of `tests/it/` or `tests/conformance/`, if the field is of a kind that no resource shows ([`UNSEEN`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chancery::document::key::Kind;
use chancery::document::{self, Limits, schema};
use serde_json::Value;

use super::documented::rejected_of_pages;
use super::inputs::{documents, names};
use super::schema::{key_of, schema_of};

/// Fields that no golden input can have, with the tests that read them: the golden suite has no files and no keys.
const ELSEWHERE: [(&str, &str); 3] = [
    (
        "routes.overrides.policies.grpc_json.descriptor_file",
        "document/policy/tests.rs",
    ),
    ("secrets.files", "document/secret/tests.rs"),
    ("secrets.encrypted", "document/secret/tests.rs"),
];

/// Fields that take every value.
const ANY: [&str; 1] = ["services.Metadata"];

/// Kinds that decide which resources a proxy gets, and from where: no resource has their fields.
const UNSEEN: [Kind; 4] = [Kind::Services, Kind::Registries, Kind::Groups, Kind::Xds];

/// Fields whose tests need no Envoy: forms of registrations that become an endpoint like any other, and sealed secrets and
/// files, which are opened before they are sent.
const NOT_ON_ENVOY: [(&str, &str); 7] = [
    (
        "routes.overrides.policies.grpc_json.descriptor_file",
        "document/policy/tests.rs",
    ),
    ("services.Enable", "document/registry/values.rs"),
    ("services.Healthy", "document/registry/values.rs"),
    ("services.Host", "document/registry/values.rs"),
    ("services.Port", "document/registry/values.rs"),
    ("services.Weight", "document/registry/values.rs"),
    ("secrets.encrypted", "document/secret/tests.rs"),
];

/// A field: its name and its description in the schema.
type Field = (String, String);

/// The fields that a schema describes, and the schemas of the entries of lists and maps.
fn inner(schema: &Value) -> (Vec<(&str, &Value)>, Vec<&Value>) {
    let (mut fields, mut entries) = (Vec::new(), Vec::new());
    for any in schema["anyOf"].as_array().into_iter().flatten() {
        let (more, others) = inner(any);
        fields.extend(more);
        entries.extend(others);
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    fields.extend(properties.map(|(name, field)| (name.as_str(), field)));
    let of_entries = [&schema["items"], &schema["additionalProperties"]];
    entries.extend(of_entries.into_iter().filter(|of| of.is_object()));
    (fields, entries)
}

/// A field of the table; `None`: a property that is no field, such as a reserved name.
fn field(name: &str, schema: &Value) -> Option<Field> {
    let is_reserved = schema["type"] == "null" || name == schema::SCHEMA_FIELD;
    let about = schema["description"].as_str().filter(|_| !is_reserved)?;
    Some((name.to_owned(), about.to_owned()))
}

/// Every field of a schema, with the first path that leads to it.
fn all_fields(schema: &Value, path: &str, found: &mut Vec<(String, Field)>) {
    let (fields, entries) = inner(schema);
    for (name, schema) in fields {
        let Some(field) = field(name, schema) else { continue };
        let path = format!("{path}.{name}");
        if !found.iter().any(|(_, other)| *other == field) {
            found.push((path.clone(), field));
        }
        all_fields(schema, &path, found);
    }
    for schema in entries {
        all_fields(schema, path, found);
    }
}

/// The fields that a document has.
fn fields_in(schema: &Value, value: &Value, found: &mut BTreeSet<Field>) {
    let (fields, entries) = inner(schema);
    for (name, schema) in fields {
        if let Some(value) = value.get(name) {
            found.extend(field(name, schema));
            fields_in(schema, value, found);
        }
    }
    for schema in entries {
        let list = value.as_array().into_iter().flatten();
        let map = value.as_object().into_iter().flat_map(|object| object.values());
        list.chain(map).for_each(|value| fields_in(schema, value, found));
    }
}

/// The last field on a path of a rejection, such as `match[0].headers["x y"].regex`.
fn field_at(schema: &Value, path: &str) -> Option<Field> {
    let steps = path.replace("[\"", ".").replace("\"]", "").replace('[', ".[");
    let mut schemas = vec![schema];
    let mut last = None;
    for step in steps.split('.').filter(|step| !step.is_empty()) {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for schema in schemas {
            let (fields, entries) = inner(schema);
            named.extend(
                fields
                    .into_iter()
                    .filter(|(name, _)| *name == step)
                    .map(|(_, schema)| schema),
            );
            others.extend(entries);
        }
        last = named.iter().find_map(|schema| field(step, schema)).or(last);
        schemas = if named.is_empty() { others } else { named };
    }
    last
}

/// The schemas of all kinds.
fn schemas() -> BTreeMap<Kind, Value> {
    schema::kinds().map(|kind| (kind, schema_of(kind))).collect()
}

/// The name of a golden input with each field.
fn golden_inputs(schemas: &BTreeMap<Kind, Value>) -> BTreeMap<Field, String> {
    let mut golden = BTreeMap::new();
    for name in names() {
        for (key, value) in documents(&name) {
            let mut found = BTreeSet::new();
            if let Some(schema) = schemas.get(&key_of(&key).kind) {
                fields_in(schema, &value, &mut found);
            }
            for field in found {
                golden.entry(field).or_insert_with(|| name.clone());
            }
        }
    }
    golden
}

/// The name of a bad document about each field.
fn bad_documents(schemas: &BTreeMap<Kind, Value>) -> BTreeMap<Field, String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents");
    let manifest = fs::read(folder.join("manifest.json")).expect("the manifest");
    let entries: Vec<Value> = serde_json::from_slice(&manifest).expect("a list of entries");
    let of_files = entries.iter().filter_map(|entry| {
        let file = entry["file"].as_str()?;
        let text = fs::read(folder.join(file)).expect("a bad document");
        Some((entry["key"].as_str()?.to_owned(), text, file.to_owned()))
    });
    let of_pages = rejected_of_pages().into_iter();
    let of_pages = of_pages.map(|(key, text)| (key, text.into_bytes(), "docs/documents".to_owned()));

    let mut bad = BTreeMap::new();
    for (key, text, name) in of_files.chain(of_pages) {
        let word = key.split('/').next().unwrap_or_default();
        let Some(schema) = Kind::from_word(word).and_then(|kind| schemas.get(&kind)) else {
            continue;
        };
        let rejection = document::parse(&key_of(&key), &text, &Limits::default()).err();
        let about = rejection.and_then(|rejection| field_at(schema, &rejection.path));
        bad.extend(about.map(|field| (field, name)));
    }
    bad
}

/// The recipe with each field.
fn recipes(schemas: &BTreeMap<Kind, Value>) -> BTreeMap<Field, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config/recipes");
    let mut found = BTreeMap::new();
    for recipe in fs::read_dir(folder).expect("the recipes") {
        let recipe = recipe.expect("a recipe").path();
        for file in files_below(&recipe) {
            let below = file.strip_prefix(&recipe).expect("a file of the recipe");
            let word = below
                .iter()
                .next()
                .map(Path::new)
                .and_then(Path::file_stem)
                .unwrap_or_default();
            let Some(schema) = Kind::from_word(&word.to_string_lossy()).and_then(|kind| schemas.get(&kind)) else {
                continue;
            };
            let value = document::value(&fs::read(&file).expect("a document")).expect("JSON or YAML");
            let mut fields = BTreeSet::new();
            fields_in(schema, &value, &mut fields);
            found.extend(
                fields
                    .into_iter()
                    .map(|field| (field, format!("recipes/{}", name_of(&recipe)))),
            );
        }
    }
    found
}

/// The fields that the differential test gives to a real Envoy.
fn differential(schemas: &BTreeMap<Kind, Value>) -> BTreeSet<Field> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/differential/fields.yaml");
    let table = document::value(&fs::read(path).expect("the table")).expect("YAML");
    let mut found = BTreeSet::new();
    for kind in table.as_array().expect("a list of kinds") {
        let word = kind["kind"].as_str().expect("a kind");
        let Some(schema) = Kind::from_word(word).and_then(|kind| schemas.get(&kind)) else {
            continue;
        };
        let bases = kind["bases"].as_array().into_iter().flatten();
        bases.for_each(|base| fields_in(schema, base, &mut found));
        for (path, field) in kind["fields"].as_object().expect("fields by path") {
            for good in field["good"].as_array().into_iter().flatten() {
                let step = |value, step: &str| match step.parse::<usize>() {
                    Ok(_) => Value::from(vec![value]),
                    Err(_) => Value::from_iter([(step, value)]),
                };
                fields_in(schema, &path.rsplit('/').fold(good.clone(), step), &mut found);
            }
        }
    }
    found
}

/// The names and texts of the sources below a folder of `tests/`.
fn sources(folder: &str) -> Vec<(String, String)> {
    let files = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder));
    let sources = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let mut sources: Vec<(String, String)> = sources
        .map(|path| (name_of(&path), fs::read_to_string(&path).expect("a source")))
        .collect();
    sources.sort();
    sources
}

fn name_of(path: &Path) -> String {
    path.file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).into_iter().flatten();
    entries
        .flat_map(|entry| files_below(&entry.expect("a readable entry").path()))
        .collect()
}

#[test]
fn every_field_has_a_golden_input_a_bad_document_and_a_use_on_envoy() {
    let schemas = schemas();
    let (golden, bad, recipes) = (golden_inputs(&schemas), bad_documents(&schemas), recipes(&schemas));
    let differential = differential(&schemas);
    let end_to_end = sources("e2e");
    let others: Vec<_> = ["it", "conformance"].into_iter().flat_map(sources).collect();
    let named_in = |sources: &[(String, String)], name: &str| {
        let quoted = [format!("\"{name}\""), format!("\\\"{name}\\\"")];
        let named = sources
            .iter()
            .find(|(_, text)| quoted.iter().any(|name| text.contains(name)));
        named.map(|(file, _)| file.clone())
    };

    let mut fields = Vec::new();
    schemas
        .iter()
        .for_each(|(kind, schema)| all_fields(schema, kind.as_str(), &mut fields));
    let mut table = String::from("| field | golden input | bad document | on Envoy |\n|---|---|---|---|\n");
    let mut missing = Vec::new();
    for (path, field) in &fields {
        let elsewhere = ELSEWHERE.iter().find(|(place, _)| place == path).map(|(_, test)| *test);
        let input = golden.get(field).map(String::as_str).or(elsewhere).unwrap_or_default();
        let any = ANY.contains(&path.as_str()).then_some("takes every value");
        let about = bad.get(field).map(String::as_str).or(any).unwrap_or_default();
        let is_unseen = || UNSEEN.iter().any(|kind| path.split('.').next() == Some(kind.as_str()));
        let not_on_envoy = NOT_ON_ENVOY.iter().find(|(place, _)| place == path);
        let used = recipes
            .get(field)
            .cloned()
            .or_else(|| named_in(&end_to_end, &field.0))
            .or_else(|| differential.contains(field).then(|| "differential".to_owned()))
            .or_else(|| is_unseen().then(|| named_in(&others, &field.0)).flatten())
            .or_else(|| not_on_envoy.map(|(_, test)| (*test).to_owned()))
            .unwrap_or_default();
        let row = format!("| {path} | {input} | {about} | {used} |");
        writeln!(table, "{row}").expect("a string takes all");
        missing.extend((input.is_empty() || about.is_empty() || used.is_empty()).then_some(row));
    }
    // Not by a print macro, whose text the harness keeps.
    std::io::stdout().write_all(table.as_bytes()).expect("stdout");
    assert!(fields.len() > 150, "{} fields", fields.len());
    assert!(
        missing.is_empty(),
        "{} of {}:\n{}",
        missing.len(),
        fields.len(),
        missing.join("\n")
    );
}
