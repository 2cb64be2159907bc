//! The node of a client, from the message on the wire. Load reports name nodes too.

use crate::proto::wire;
use crate::rollout::Node;

/// The fields that rollout and the limits need.
pub(in crate::xds) fn node(wire: &wire::Node) -> Node {
    let locality = wire.locality.clone().unwrap_or_default();
    let metadata = wire.metadata.as_ref();
    Node {
        id: wire.id.as_str().into(),
        cluster: wire.cluster.as_str().into(),
        metadata: metadata
            .into_iter()
            .flat_map(|metadata| &metadata.fields)
            .map(|(key, value)| (key.clone(), json(value, 0)))
            .collect(),
        locality: (locality.region, locality.zone, locality.sub_zone),
        user_agent: wire.user_agent_name.as_str().into(),
        version: wire
            .user_agent_build_version
            .and_then(|build| build.version)
            .map(|version| (version.major_number, version.minor_number, version.patch)),
        features: wire.client_features.clone(),
    }
}

/// A protobuf value as JSON; null where it is nested deeper than any rule of a document can look.
fn json(value: &prost_types::Value, depth: usize) -> serde_json::Value {
    use prost_types::value::Kind;
    match &value.kind {
        _ if depth > crate::document::MAX_DEPTH => serde_json::Value::Null,
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => (*value).into(),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(|value| json(value, depth + 1)).collect(),
        Some(Kind::StructValue(fields)) => fields
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), json(value, depth + 1)))
            .collect(),
    }
}
