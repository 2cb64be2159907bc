//! PX: the rules that xDS clients inside gRPC rely on.
//!
//! `protocol` repeats recorded requests of such clients; `content` reads the resources that documents compile to for
//! them. Real clients are in `tests/e2e`.

pub(crate) mod content;
pub(crate) mod protocol;

use envoy_types::pb::envoy::config::core::v3::Node;

use crate::support::ads_client::node;

/// The node as grpcio introduces itself.
fn grpc_node() -> Option<Node> {
    Some(Node {
        user_agent_name: "gRPC C-core linux".to_owned(),
        ..node("n1")?
    })
}
