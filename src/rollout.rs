//! Stage 6, node → group: the group whose resources a proxy gets.
//!
//! In: the node of a stream's first request, and the rules of the groups documents. Out: the name of the group, for a
//! lookup in a [`crate::snapshot::Snapshot`]. Pure.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::document::group::NodeMatch;
use crate::document::{DEFAULT_GROUP, glob};
use crate::snapshot::GroupRules;

/// The name of the default group; all its nodes share this string.
static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| DEFAULT_GROUP.into());

/// The fields of a node that the server uses. Small, even if the node on the wire is large.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// `node.id`.
    pub id: Arc<str>,
    /// `node.cluster`.
    pub cluster: Arc<str>,
    /// `node.metadata`, as JSON.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// `node.locality`: region, zone, `sub_zone`.
    pub locality: (String, String, String),
    /// `node.user_agent_name`.
    pub user_agent: Arc<str>,
    /// `node.user_agent_build_version`: major, minor and patch number.
    pub version: Option<(u32, u32, u32)>,
    /// `node.client_features`.
    pub features: Vec<String>,
}

impl Node {
    /// True if the node is an Envoy older than a version, major and minor number.
    #[must_use]
    pub fn is_envoy_before(&self, version: (u32, u32)) -> bool {
        &*self.user_agent == "envoy" && self.version.is_some_and(|(major, minor, _)| (major, minor) < version)
    }

    /// True if the node is a gRPC library that resolves names by xDS, without a proxy.
    #[must_use]
    pub fn is_grpc_library(&self) -> bool {
        self.user_agent.starts_with("gRPC")
    }
}

/// The group of a node: the first rule that matches wins; without a match, `default`.
#[must_use]
pub fn select(rules: &GroupRules, node: &Node) -> Arc<str> {
    rules
        .iter()
        .find(|(_, group)| group.matches.iter().any(|rule| matches(rule, node)))
        .map_or_else(|| Arc::clone(&DEFAULT), |(name, _)| Arc::clone(name))
}

/// True if every condition of a rule holds. A rule without conditions matches every node.
fn matches(rule: &NodeMatch, node: &Node) -> bool {
    let (region, zone, sub_zone) = &node.locality;
    let locality = [
        (&rule.locality.region, region),
        (&rule.locality.zone, zone),
        (&rule.locality.sub_zone, sub_zone),
    ];

    rule.id
        .as_deref()
        .is_none_or(|pattern| glob::matches(pattern, &node.id))
        && rule
            .cluster
            .as_deref()
            .is_none_or(|pattern| glob::matches(pattern, &node.cluster))
        && rule
            .metadata
            .iter()
            .all(|(key, value)| node.metadata.get(key).is_some_and(|found| equal(value, found)))
        && locality
            .into_iter()
            .all(|(wanted, found)| wanted.as_ref().is_none_or(|wanted| wanted == found))
}

/// Equality of JSON values. Numbers are compared by value, because a protobuf Struct has only doubles.
fn equal(wanted: &serde_json::Value, found: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (wanted, found) {
        (Value::Number(wanted), Value::Number(found)) => wanted.as_f64() == found.as_f64(),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| equal(wanted, found))
        }
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.len() == found.len()
                && wanted
                    .iter()
                    .all(|(key, value)| found.get(key).is_some_and(|found| equal(value, found)))
        }
        _ => wanted == found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::group::{Group, LocalityMatch};

    fn node() -> Node {
        Node {
            id: "edge-eu-17".into(),
            cluster: "edge".into(),
            metadata: BTreeMap::from([("tier".to_owned(), json!("gold")), ("shard".to_owned(), json!(3.0))]),
            locality: ("eu".to_owned(), "eu-1".to_owned(), String::new()),
            ..Node::default()
        }
    }

    fn rule(rule: NodeMatch) -> bool {
        matches(&rule, &node())
    }

    #[test]
    fn a_star_is_any_characters_and_everything_else_is_itself() {
        let table = [
            ("*", "", true),
            ("*", "abc", true),
            ("", "", true),
            ("", "a", false),
            ("edge-*", "edge-", true),
            ("edge-*", "edg", false),
            ("*-17", "edge-eu-17", true),
            ("e*-*7", "edge-eu-17", true),
            ("a*a", "a", false),
            ("a*b*a", "abba", true),
            ("a**b", "ab", true),
            ("a.c", "abc", false),
            ("a?c", "abc", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob::matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn every_part_of_a_rule_must_hold() {
        let id = || Some("edge-*".to_owned());
        assert!(rule(NodeMatch {
            id: id(),
            cluster: Some("edge".to_owned()),
            ..NodeMatch::default()
        }));
        assert!(!rule(NodeMatch {
            id: id(),
            cluster: Some("mesh".to_owned()),
            ..NodeMatch::default()
        }));
        let zone = |zone: &str| LocalityMatch {
            zone: Some(zone.to_owned()),
            ..LocalityMatch::default()
        };
        assert!(rule(NodeMatch {
            id: id(),
            locality: zone("eu-1"),
            ..NodeMatch::default()
        }));
        assert!(!rule(NodeMatch {
            id: id(),
            locality: zone("eu-2"),
            ..NodeMatch::default()
        }));
    }

    #[test]
    fn metadata_is_compared_by_value() {
        let metadata = |key: &str, value| BTreeMap::from([(key.to_owned(), value)]);
        assert!(rule(NodeMatch {
            metadata: metadata("shard", json!(3)),
            ..NodeMatch::default()
        }));
        assert!(rule(NodeMatch {
            metadata: metadata("tier", json!("gold")),
            ..NodeMatch::default()
        }));
        assert!(!rule(NodeMatch {
            metadata: metadata("tier", json!(null)),
            ..NodeMatch::default()
        }));
        assert!(!rule(NodeMatch {
            metadata: metadata("absent", json!("gold")),
            ..NodeMatch::default()
        }));
    }

    #[test]
    fn the_first_group_that_matches_is_taken_and_default_when_none_does() {
        let group = |id: Option<&str>| {
            let matches = id.map(|id| NodeMatch {
                id: Some(id.to_owned()),
                ..NodeMatch::default()
            });
            Arc::new(Group {
                matches: matches.into_iter().collect(),
                priority: 0,
            })
        };
        let rules: Vec<(Arc<str>, Arc<Group>)> = vec![
            ("nobody".into(), group(None)),
            ("mesh".into(), group(Some("mesh-*"))),
            ("edge".into(), group(Some("edge-*"))),
            ("all".into(), group(Some("*"))),
        ];
        assert_eq!(&*select(&rules, &node()), "edge");
        assert_eq!(&*select(&rules[..2], &node()), "default");
    }
}
