//! `groups`, a field of several kinds: the groups of proxies that get the document.

use super::decode::{Field, Object};
use super::{Groups, Rejection, name};

/// `groups` of a document.
pub(super) const FIELD: Field = Field::new(
    "groups",
    name::NAMES,
    "The [groups](groups.md) of proxies that get the document",
)
.or("all groups");

/// Reads `groups`; `None` when the field is absent.
pub(super) fn read(object: &Object<'_>) -> Result<Groups, Rejection> {
    Ok(object
        .read("groups", name::read_list)?
        .map(|names| names.into_iter().collect()))
}
