//! The table of the xDS services: name, methods, resource type.

use crate::fleet::Variant;
use crate::resource::ResourceType;

/// One xDS service: its name, its SotW and delta methods, its resource type (`None`: ADS).
struct Row(&'static str, &'static str, &'static str, Option<ResourceType>);

/// VHDS has no SotW method.
const NO_METHOD: &str = "";

const SERVICES: [Row; 10] = [
    Row(
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "StreamAggregatedResources",
        "DeltaAggregatedResources",
        None,
    ),
    Row(
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "StreamListeners",
        "DeltaListeners",
        Some(ResourceType::Listener),
    ),
    Row(
        "envoy.service.route.v3.RouteDiscoveryService",
        "StreamRoutes",
        "DeltaRoutes",
        Some(ResourceType::Route),
    ),
    Row(
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        "StreamClusters",
        "DeltaClusters",
        Some(ResourceType::Cluster),
    ),
    Row(
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "StreamEndpoints",
        "DeltaEndpoints",
        Some(ResourceType::Endpoint),
    ),
    Row(
        "envoy.service.secret.v3.SecretDiscoveryService",
        "StreamSecrets",
        "DeltaSecrets",
        Some(ResourceType::Secret),
    ),
    Row(
        "envoy.service.runtime.v3.RuntimeDiscoveryService",
        "StreamRuntime",
        "DeltaRuntime",
        Some(ResourceType::Runtime),
    ),
    Row(
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        "StreamExtensionConfigs",
        "DeltaExtensionConfigs",
        Some(ResourceType::ExtensionConfig),
    ),
    Row(
        "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        "StreamScopedRoutes",
        "DeltaScopedRoutes",
        Some(ResourceType::ScopedRoute),
    ),
    Row(
        "envoy.service.route.v3.VirtualHostDiscoveryService",
        NO_METHOD,
        "DeltaVirtualHosts",
        Some(ResourceType::VirtualHost),
    ),
];

/// The names of the xDS services, for health.
pub(in crate::xds) fn service_names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|row| row.0)
}

/// The variant and the resource type of the method at a path.
pub(in crate::xds) fn find_service(path: &str) -> Option<(Variant, Option<ResourceType>)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let Row(_, sotw, delta, service_type) = SERVICES.iter().find(|row| row.0 == service)?;
    let variants = [(*sotw, Variant::Sotw), (*delta, Variant::Delta)];
    let (_, variant) = variants
        .into_iter()
        .find(|(name, _)| !name.is_empty() && *name == method)?;
    Some((variant, *service_type))
}
