//! The gRPC methods of the discovery services.

use super::super::fixture::Type;
use super::super::rule::Variant;
use super::super::support::ads_client::{ADS_DELTA, ADS_SOTW};

/// The method of ADS.
pub(crate) fn ads(variant: Variant) -> &'static str {
    match variant {
        Variant::Sotw => ADS_SOTW,
        Variant::Delta => ADS_DELTA,
    }
}

/// The method of a type's own service.
///
/// # Panics
/// For SotW VHDS, which the protocol does not have.
pub(crate) fn of(resource_type: Type, variant: Variant) -> &'static str {
    let (sotw, delta) = match resource_type {
        Type::Runtime => (
            "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
            "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
        ),
        Type::Cluster => (
            "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        ),
        Type::Endpoint => (
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        ),
        Type::Secret => (
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        ),
        Type::ExtensionConfig => (
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
        ),
        Type::Listener => (
            "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        ),
        Type::ScopedRoute => (
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
        ),
        Type::Route => (
            "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
            "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        ),
        Type::VirtualHost => (
            "",
            "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        ),
    };
    let method = if variant == Variant::Sotw { sotw } else { delta };
    assert!(!method.is_empty(), "{resource_type} has no {} method", variant.word());
    method
}
