//! The small services beside xDS on the same port: health and reflection.

use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::warn;

use crate::proto::ENVOY_DESCRIPTORS;

/// The services, and who says how healthy the xDS services are: at first, that they serve.
pub(super) async fn routes() -> (Routes, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_all(&reporter, ServingStatus::Serving).await;
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
    (routes.routes().prepare(), reporter)
}

/// Say that no xDS service serves any more, once `draining`. Ends with it, or with `token`.
pub(super) async fn report(reporter: HealthReporter, draining: CancellationToken, token: CancellationToken) {
    tokio::select! {
        () = draining.cancelled() => report_all(&reporter, ServingStatus::NotServing).await,
        () = token.cancelled() => {}
    }
}

async fn report_all(reporter: &HealthReporter, status: ServingStatus) {
    // The empty name is the server as a whole.
    for service in super::service::service_names().chain([""]) {
        reporter.set_service_status(service, status).await;
    }
}
