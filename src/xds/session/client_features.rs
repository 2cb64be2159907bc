//! The optional features of a client, from its node.
//!
//! - `resource_errors`: for gRPC libraries only. Envoy ignores them, and must get no response for a name that does not
//!   exist (docs/xds-rules.md SW-13, SW-16).
//! - Size of a response: gRPC libraries drop a stream with a message larger than 4 MB (F-21).
//! - Wrappers: a SotW resource is wrapped only if it has a time to live and the client announces the feature. grpc-js
//!   does not, and deletes wrapped resources (F-28). A wrapper carries nothing else that a bare Any does not.

use std::sync::Arc;

use crate::proto::wire::{ResourceError, ResourceName, Status};
use crate::rollout::Node;
use crate::xds::grpc;

/// The feature's two spellings: of the clients, and of the protocol's text.
const WRAPPERS: [&str; 2] = ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"];

/// `google.rpc.Code.NOT_FOUND`.
const NOT_FOUND: i32 = 5;

/// The error for a name without a resource.
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
            response_max: node.is_grpc_library().then_some(grpc::LIBRARY_PART),
        }
    }
}
