//! Every grammar that Envoy parses itself, by generated values at its edges, tried on a real Envoy.
//!
//! [`resources`]: the same resource, written as an xds document and given to Envoy. Both must say the same.
//! [`documents`]: the other documents. What is accepted, Envoy must take as it is compiled.

mod documents;
mod judge;
mod resources;
mod values;

use chancery::document::Rejection;
use chancery::resource::compile::{Compiled, Options};
use serde_json::{Value, json};

use super::inputs::edit;

/// A document alone, or what the server says against it.
fn compiled(key: &str, document: &Value) -> Result<Compiled, Rejection> {
    let step = Compiled::new(Options::default()).apply(vec![edit(key, &document.to_string(), 1)?]);
    step.map(|step| step.compiled)
        .map_err(|faults| faults.into_iter().next().expect("a fault").rejection)
}

/// A value and where it stands, for a message.
fn place(at: &str, value: &Value) -> String {
    let mut shown = value.to_string();
    shown.truncate(shown.floor_char_boundary(100));
    format!("{at} = {shown}")
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
