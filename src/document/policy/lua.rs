//! `lua`: a script for requests and answers.

use std::collections::BTreeMap;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::STRING;

mod syntax;

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "source",
        Shape::Text("script in Lua 5.1, 64 KiB at most", Some(r"[\s\S]")),
        "The script: `envoy_on_request(handle)`, `envoy_on_response(handle)`, or both",
    )
    .required(),
    Field::new(
        "context",
        Shape::Map(&STRING),
        "Texts for the script: `handle:filterContext():get(NAME)`",
    )
    .or("`{}`"),
]);
/// Longest script, in bytes.
const MAX_SOURCE: usize = 64 * 1024;
/// Most entries of the context, and the longest name or text of one, in bytes.
const MAX_CONTEXT: (usize, usize) = (100, 1024);

/// `lua`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lua {
    /// The script.
    pub source: String,
    /// Texts for the script.
    pub context: BTreeMap<String, String>,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<Lua, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let field = object.require("source", "a script")?;
    let source = field.text()?;
    if source.len() > MAX_SOURCE {
        let length = source.len();
        return Err(field.reject(format!("found {length} bytes, expected at most {MAX_SOURCE}")));
    }
    syntax::check(source).map_err(|reason| field.reject(format!("found a script that is no Lua 5.1, {reason}")))?;
    Ok(Lua {
        source: source.to_owned(),
        context: object
            .read("context", |field| read_context(&field))?
            .unwrap_or_default(),
    })
}

fn read_context(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    let (most, longest) = MAX_CONTEXT;
    let mut context = BTreeMap::new();
    for (name, value) in cursor.map()? {
        let text = value.string()?;
        if name.len() > longest || text.len() > longest {
            return Err(value.reject(format!(
                "found a name or text of more than {longest} bytes, expected at most as many"
            )));
        }
        context.insert(name.to_owned(), text.to_owned());
    }
    match context.len() {
        count if count > most => Err(cursor.reject(format!("found {count} entries, expected at most {most}"))),
        _ => Ok(context),
    }
}
