//! The optional features of a client, from its node.
//!
//! `resource_errors` go to gRPC libraries alone: Envoy ignores them, and an Envoy that asks for a name that does not exist
//! must hear nothing (docs/xds-rules.md SW-13, SW-16). They are also the ones that drop a stream whose message is
//! larger than 4 MB (F-21). A resource is wrapped in a SotW response only where it has a time to live and the client
//! says that it takes wrappers: grpc-js, which does not, deletes what is wrapped (F-28), and a wrapper says nothing
//! else that a bare Any does not.

use std::sync::Arc;

use crate::proto::wire::{ResourceError, ResourceName, Status};
use crate::rollout::Node;

/// The feature's two spellings: of the clients, and of the protocol's text.
const WRAPPERS: [&str; 2] = ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"];
/// What a response to a gRPC library should have at most, in bytes, where it may be told in parts: less than the 3 MB
/// from which on a warning is due.
const RESPONSE_MAX: usize = 2_900_000;

/// `google.rpc.Code.NOT_FOUND`.
const NOT_FOUND: i32 = 5;

/// That there is no resource of this name.
pub(in crate::xds) fn not_found(name: &Arc<str>) -> ResourceError {
    ResourceError {
        resource_name: Some(ResourceName { name: name.to_string() }),
        error_detail: Some(Status {
            code: NOT_FOUND,
            message: "no such resource for this node".to_owned(),
        }),
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::xds) struct ClientFeatures {
    /// It reads `resource_errors` (PX-04).
    pub(in crate::xds) resource_errors: bool,
    /// It subscribes to a cluster only when a route names that cluster, and sends calls by the route at once.
    pub(in crate::xds) clusters_by_route: bool,
    /// Delta: it asks for the virtual hosts of a RouteConfiguration with `vhds`. gRPC libraries do not know it.
    pub(in crate::xds) vhds: bool,
    /// SotW: it takes resources in wrappers (SW-29).
    pub(in crate::xds) wrappers: bool,
    /// The most bytes that a response should have; `None`: no matter (SW-34, GR-03).
    pub(in crate::xds) response_max: Option<usize>,
}

impl ClientFeatures {
    pub(in crate::xds) fn of(node: &Node) -> Self {
        Self {
            resource_errors: node.is_grpc_library(),
            clusters_by_route: node.is_grpc_library(),
            vhds: !node.is_grpc_library(),
            wrappers: node.features.iter().any(|feature| WRAPPERS.contains(&feature.as_str())),
            response_max: node.is_grpc_library().then_some(RESPONSE_MAX),
        }
    }
}
