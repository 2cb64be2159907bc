//! Every grammar that Envoy parses itself, by generated values at its edges, tried on a real Envoy.
//!
//! [`resources`]: the same resource, as an xds document and as given to Envoy. Server and Envoy must agree.
//! [`documents`]: the other documents. Envoy must accept every accepted document in its compiled form.
//!
//! The values and the places where they stand are in `tests/data/edges/`.

mod documents;
mod judge;
mod resources;
mod values;

use std::fs;
use std::path::PathBuf;

use chancery::document::Rejection;
use chancery::resource::compile::Compiled;
use serde_json::{Value, json};

use super::inputs::{edit, options};

/// A value at its place.
struct Edge {
    /// The place of the value: a key, or a part of a resource.
    within: String,
    /// The place of the value, and the value.
    whole: Value,
    /// The place of the value, and the value, for a message.
    place: String,
}

/// A file below `tests/data/edges`.
fn data(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/edges/{name}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every value of a file at every place, by place.
fn edges(file: &str) -> Vec<Vec<Edge>> {
    let mut edges = Vec::new();
    for group in data(file).as_array().expect("a list of groups") {
        for places in group["places"].as_array().expect("a list of places") {
            let values = values::of(places["values"].as_str().expect("a name of values"));
            for at in places["at"].as_array().expect("a list of paths") {
                let at = at.as_str().expect("a path");
                edges.push(values.iter().map(|value| edge(group, places, at, value)).collect());
            }
        }
    }
    edges
}

fn edge(group: &Value, places: &Value, at: &str, value: &Value) -> Edge {
    let form = places.get("as").unwrap_or(&Value::Null);
    let filled = if form.is_null() {
        value.clone()
    } else {
        filled(form, value)
    };
    let mut shown = filled.to_string();
    shown.truncate(shown.floor_char_boundary(160));
    let mut whole = group["base"].clone();
    put(&mut whole, at, filled);
    Edge {
        within: group["in"].as_str().expect("a name").to_owned(),
        whole,
        place: format!("{at} = {shown}"),
    }
}

/// A form with a value in it.
fn filled(form: &Value, value: &Value) -> Value {
    let text = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match form {
        Value::String(form) => match form.as_str() {
            "$" => value.clone(),
            "$0" => value[0].clone(),
            "$1" => value[1].clone(),
            form => form.replace('$', &text()).into(),
        },
        Value::Array(list) => list.iter().map(|form| filled(form, value)).collect(),
        Value::Object(fields) => {
            let field = |(name, form): (&String, &Value)| (name.replace('$', &text()), filled(form, value));
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

/// A document alone, or what the server says against it.
fn compiled(key: &str, document: &Value) -> Result<Compiled, Rejection> {
    let step = Compiled::new(options()).apply(vec![edit(key, &document.to_string(), 1)?]);
    step.map(|step| step.compiled)
        .map_err(|faults| faults.into_iter().next().expect("a fault").rejection)
}

/// Put a value at a path such as `route/0/timeout` below another; what lacks or is no object on the way is made.
fn put(under: &mut Value, path: &str, value: Value) {
    let mut place = under;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().expect("a list");
                list.resize(list.len().max(index + 1), Value::Null);
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
