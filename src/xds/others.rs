//! The small services beside xDS on the same port: health and reflection.

use tonic::service::{Routes, RoutesBuilder};
use tracing::warn;

use crate::proto::ENVOY_DESCRIPTORS;

/// The services. Health is that of every xDS service: serving.
pub(super) async fn routes() -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in super::service::service_names() {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let mut routes = RoutesBuilder::default();
    routes.add_service(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ENVOY_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            routes.add_service(v1).add_service(v1alpha);
        }
        (Err(error), _) | (_, Err(error)) => warn!(%error, "gRPC reflection is not served"),
    }
    routes.routes().prepare()
}
