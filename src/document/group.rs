//! `groups/{name}`: the proxies of one group.
//!
//! In: the fields of a group document. Out: a [`Group`] with its conditions on a node as written. [`crate::rollout`]
//! chooses among several groups.

use std::collections::BTreeMap;

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::{NOT_EMPTY, SIGNED, TEXT};
use super::key::DocumentKey;
use super::{Rejection, name};

/// The fields of a group.
pub(super) const FIELDS: Fields = Fields::of(&[
    name::FIELD,
    Field::new(
        "match",
        Shape::list(&Shape::Object(&MATCH_FIELDS)),
        "A node belongs to the group if it fulfils one of them. `[]`: no node; `[{}]`: every node",
    )
    .required(),
    Field::new(
        "priority",
        SIGNED,
        "Of several groups that match, the one with the highest; then the first by name",
    )
    .or("`0`"),
])
.later(&["identities"]);
const MATCH_FIELDS: Fields = Fields::of(&[
    Field::new("id", GLOB, "`node.id`"),
    Field::new("cluster", GLOB, "`node.cluster`"),
    Field::new(
        "metadata",
        Shape::Free,
        "Each field is in `node.metadata`, with an equal value; numbers by value",
    ),
    Field::new(
        "locality",
        Shape::AnyOf(&[TEXT, Shape::Object(&LOCALITY_FIELDS)]),
        "`node.locality`; a text is the zone",
    ),
]);
const LOCALITY_FIELDS: Fields = Fields::of(&[
    Field::new("region", TEXT, "Equal to the region of the node"),
    Field::new("zone", TEXT, "Equal to the zone of the node"),
    Field::new("sub_zone", TEXT, "Equal to the sub-zone of the node"),
]);
const GLOB: Shape = Shape::Text("text, `*` for any characters", NOT_EMPTY);

/// A group document.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// A node belongs to the group if any of these holds; an empty list: no node does.
    pub matches: Vec<NodeMatch>,
    /// Higher first, then by name.
    pub priority: i32,
}

/// Conditions on a node; an absent one does not matter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeMatch {
    /// Glob (`*` any characters) for the node's id.
    pub id: Option<String>,
    /// Glob for the node's cluster.
    pub cluster: Option<String>,
    /// Each key must be in the metadata with an equal value.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Locality, each an equal string.
    pub locality: LocalityMatch,
}

/// `locality` of a [`NodeMatch`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalityMatch {
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
    /// Sub-zone.
    pub sub_zone: Option<String>,
}

/// Reads a group document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Group, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let matches = object.require("match", r#"a list such as [{"id": "edge-*"}]"#)?;
    Ok(Group {
        matches: matches.list()?.iter().map(read_match).collect::<Result<_, _>>()?,
        priority: object
            .read("priority", |field| field.integer(i32::MIN..=i32::MAX))?
            .unwrap_or(0),
    })
}

fn read_match(cursor: &Cursor<'_>) -> Result<NodeMatch, Rejection> {
    let object = cursor.object(&MATCH_FIELDS)?;
    let metadata = object.read("metadata", |field| {
        Ok(field
            .map()?
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.value().clone()))
            .collect())
    })?;
    Ok(NodeMatch {
        id: object.read("id", |field| field.text().map(str::to_owned))?,
        cluster: object.read("cluster", |field| field.text().map(str::to_owned))?,
        metadata: metadata.unwrap_or_default(),
        locality: object
            .read("locality", |field| read_locality(&field))?
            .unwrap_or_default(),
    })
}

/// An object, or a string that is the zone.
fn read_locality(cursor: &Cursor<'_>) -> Result<LocalityMatch, Rejection> {
    if cursor.value().is_string() {
        return Ok(LocalityMatch {
            zone: Some(cursor.text()?.to_owned()),
            ..LocalityMatch::default()
        });
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(r#"a zone or an object with "region", "zone" or "sub_zone""#));
    }
    let object = cursor.object(&LOCALITY_FIELDS)?;
    let part = |name| object.read(name, |field| field.text().map(str::to_owned));
    Ok(LocalityMatch {
        region: part("region")?,
        zone: part("zone")?,
        sub_zone: part("sub_zone")?,
    })
}
