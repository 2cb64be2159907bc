//! The table of fields and values, `tests/data/differential/fields.yaml`, and documents made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::dice::Dice;

/// Fields that a document gets, on average.
const FIELDS: usize = 4;

/// A kind of documents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kind {
    pub(crate) kind: String,
    key: String,
    /// The page of docs/documents/ that describes the fields.
    page: String,
    /// In how many of a hundred sets the kind is.
    share: usize,
    bases: Vec<Value>,
    fields: BTreeMap<String, Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    good: Vec<Value>,
    near: Vec<Value>,
    /// Not beside these fields; `$terminal`: not on a redirect or fixed response.
    #[serde(default)]
    unless: Vec<String>,
    /// Only beside this field, which the document gets, too.
    needs: Option<String>,
    /// Values of further fields.
    #[serde(default)]
    with: BTreeMap<String, Value>,
    /// Only where the base has this field.
    only: Option<String>,
}

/// The documents of a set.
#[derive(Debug)]
pub(crate) struct Documents {
    /// By key, in the order of writing.
    pub(crate) documents: Vec<(String, Value)>,
    /// Kinds and fields that the documents have.
    pub(crate) fields: BTreeSet<(String, String)>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Read the table.
pub(crate) fn table() -> Vec<Kind> {
    let text = fs::read_to_string(root().join("tests/data/differential/fields.yaml")).expect("read the table");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("fields.yaml: {error}"))
}

/// Every kind and field of the table.
pub(crate) fn fields(table: &[Kind]) -> BTreeSet<(String, String)> {
    let of_kind = |kind: &Kind| {
        let fields = kind.fields.keys().map(|field| (kind.kind.clone(), field.clone()));
        fields.collect::<Vec<_>>()
    };
    table.iter().flat_map(of_kind).collect()
}

/// Fields that docs/documents/ describes and that have no row.
pub(crate) fn forgotten(table: &[Kind]) -> Vec<String> {
    let mut forgotten = Vec::new();
    let pages: BTreeSet<&str> = table.iter().map(|kind| kind.page.as_str()).collect();
    for page in pages {
        let text = fs::read_to_string(root().join("docs/documents").join(page)).expect("read a page");
        let of_page = table.iter().filter(|kind| kind.page == page);
        let rows: BTreeSet<&str> = of_page
            .flat_map(|kind| kind.fields.keys())
            .flat_map(|field| field.split('/'))
            .collect();
        let mut in_table = false;
        for line in text.lines() {
            match line.starts_with("| field |") {
                true => in_table = true,
                false if !line.starts_with('|') => in_table = false,
                false => {}
            }
            let cell = line.trim_start_matches('|').split('|').next().unwrap_or_default();
            let names = cell
                .split('`')
                .skip(1)
                .step_by(2)
                .flat_map(|name| name.split('.'))
                .map(|name| name.trim_end_matches("[]"));
            if in_table {
                let is_missing =
                    |name: &&str| !rows.contains(name) && !CONDITIONS.contains(name) && !NOT_SENT.contains(name);
                let missing = names.filter(is_missing);
                forgotten.extend(missing.map(|name| format!("{page}: {name}")));
            }
        }
    }
    forgotten
}

/// Words of a condition, which stand in the values of the table.
const CONDITIONS: [&str; 6] = ["prefix", "suffix", "contains", "regex", "present", "not"];

/// The tests of a route, which no resource has, and contents of secrets that lie elsewhere.
const NOT_SENT: [&str; 7] = ["tests", "request", "listener", "expect", "route", "files", "encrypted"];

/// The documents of set `number`; `near`: one value is just beyond an edge.
pub(crate) fn documents(table: &[Kind], number: usize, near: bool, dice: &mut Dice) -> Documents {
    let mut made = Documents {
        documents: Vec::new(),
        fields: BTreeSet::new(),
    };
    let chosen: Vec<&Kind> = table.iter().filter(|kind| dice.percent(kind.share)).collect();
    let wrong = near.then(|| dice.below(chosen.len()));
    for (index, kind) in chosen.into_iter().enumerate() {
        let (document, fields) = document(kind, wrong == Some(index), dice);
        let named = |value: &str| value.replace("$N", &number.to_string());
        let document = expanded(document, &named);
        made.documents.push((named(&kind.key), document));
        made.fields
            .extend(fields.into_iter().map(|field| (kind.kind.clone(), field)));
    }
    made
}

fn document(kind: &Kind, near: bool, dice: &mut Dice) -> (Value, BTreeSet<String>) {
    let base = dice.one(&kind.bases);
    let fields: Vec<(&String, &Field)> = kind.fields.iter().filter(|(_, field)| field.fits(base)).collect();
    let wrong = near.then(|| dice.below(fields.len()));
    let mut document = base.clone();
    for (index, (path, field)) in fields.iter().enumerate() {
        let is_wrong = wrong == Some(index) && !field.near.is_empty();
        let is_chosen = is_wrong || dice.below(fields.len()) < FIELDS;
        let blocked = |other: &String| !other.starts_with('$') && has(&document, other);
        if !is_chosen || field.unless.iter().any(blocked) {
            continue;
        }
        let mut next = field.needs.as_ref();
        while let Some(needed) = next.filter(|needed| !has(&document, needed)) {
            let needed_field = &kind.fields[needed.as_str()];
            needed_field.put(needed, false, &mut document, dice);
            next = needed_field.needs.as_ref();
        }
        field.put(path, is_wrong, &mut document, dice);
    }
    let present = kind
        .fields
        .keys()
        .filter(|path| has(&document, path))
        .cloned()
        .collect();
    (document, present)
}

impl Field {
    fn fits(&self, base: &Value) -> bool {
        let (redirect, respond) = (has(base, "to/redirect"), has(base, "to/respond"));
        let only = self.only.as_ref().is_none_or(|path| has(base, path));
        only && !(self.unless.iter().any(|word| word == "$terminal") && (redirect || respond))
    }

    fn put(&self, path: &str, near: bool, document: &mut Value, dice: &mut Dice) {
        for (path, value) in &self.with {
            if !has(document, path) {
                put(document, path, value.clone());
            }
        }
        let value = dice.one(if near { &self.near } else { &self.good });
        put(document, path, value.clone());
    }
}

/// `$N`, `{$repeat: [text, count]}` and `{$file: name}` in a value.
fn expanded(value: Value, named: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => named(&text).into(),
        Value::Array(list) => list.into_iter().map(|value| expanded(value, named)).collect(),
        Value::Object(fields) => {
            if let Some(repeat) = fields.get("$repeat") {
                let count = usize::try_from(repeat[1].as_u64().expect("a count")).expect("a small one");
                return repeat[0].as_str().expect("a text").repeat(count).into();
            }
            if let Some(file) = fields.get("$file") {
                let path = root().join("tests/data/secrets").join(file.as_str().expect("a name"));
                return fs::read_to_string(path).expect("read a file of a secret").into();
            }
            let fields = fields.into_iter();
            Value::Object(fields.map(|(name, value)| (name, expanded(value, named))).collect())
        }
        other => other,
    }
}

fn has(document: &Value, path: &str) -> bool {
    let pointer = format!("/{path}");
    document.pointer(&pointer).is_some()
}

/// Put a value at a path such as `endpoints/0/weight`; what lacks or is no object on the way is made.
fn put(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().expect("a list");
                list.resize(list.len().max(index + 1), json!({}));
                &mut list[index]
            }
            Err(_) => {
                if !place.is_object() {
                    *place = json!({});
                }
                &mut place[step]
            }
        };
    }
    *place = value;
}
