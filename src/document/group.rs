//! `groups/{name}`: which proxies are one group.

use std::collections::BTreeMap;

/// A group document.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// A node belongs when any of these holds; none: nobody.
    pub matches: Vec<NodeMatch>,
    /// Higher first, then by name.
    pub priority: i32,
}

/// What a node must be; what is absent does not matter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeMatch {
    /// Glob (`*` any characters) for the node's id.
    pub id: Option<String>,
    /// Glob for the node's cluster.
    pub cluster: Option<String>,
    /// Each must be there with an equal value.
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
