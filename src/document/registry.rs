//! `registries/{name}`: a place where services register themselves already, for clusters that name it in `registry`.
//!
//! | module | what it is |
//! |---|---|
//! | this file | the document |
//! | [`Format`] (`format`) | how a registry names services and instances in its keys |
//! | `values` | how a registry writes an instance: from a key and its value to [`Offer`](super::endpoint::Offer)s |
//! | [`normal`] | the one form in which instances of all registries become documents |
//!
//! The server only reads a registry.

use std::sync::Arc;

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::{NOT_EMPTY, words};
use super::key::DocumentKey;
use super::{Rejection, name};

mod format;
pub mod normal;
mod values;

pub use format::Format;

/// The fields of a registry.
pub(super) const FIELDS: Fields = Fields::of(&[
    name::FIELD,
    Field::new(
        "prefix",
        Shape::Text("text, 1,024 bytes at most", NOT_EMPTY),
        "Prefix of the keys; a slash at its end is added if it is missing",
    )
    .required(),
    Field::new(
        "format",
        Shape::Words(&words(&format::WORDS)),
        "Framework that writes the keys. See [Formats](registries.md#formats)",
    )
    .required(),
]);
/// Longest prefix, in bytes.
const MAX_PREFIX: usize = 1024;

/// A registries document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The prefix of the keys; ends with a slash.
    pub prefix: Arc<str>,
    /// The program that registers the services.
    pub format: Format,
}

/// Reads a registries document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Registry, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    Ok(Registry {
        prefix: read_prefix(&object.require("prefix", "the prefix of the keys, such as \"/microservices/\"")?)?,
        format: format::read(&object.require("format", &format::expected())?)?,
    })
}

/// A prefix without a slash at its end would take in the keys of other services that begin alike.
fn read_prefix(cursor: &Cursor<'_>) -> Result<Arc<str>, Rejection> {
    let text = cursor.string()?.trim_end_matches('/');
    if text.is_empty() || text.len() > MAX_PREFIX || text.contains(char::is_control) {
        return Err(cursor.expected("the prefix of the keys, 1 to 1024 bytes without control characters"));
    }
    Ok(format!("{text}/").into())
}
