//! The small gRPC services beside xDS on the same port: client status, load reports, health and reflection. Load
//! reports are served apart from the routes of tonic, see [`lrs`].

use std::sync::Arc;

use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_server::SERVICE_NAME as LRS;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server as csds_server;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;
use tracing::warn;

use crate::fleet::Fleet;
use crate::proto::ENVOY_DESCRIPTORS;
use crate::snapshot::store::Store;
use crate::xds::grpc::SERVICE_REQUEST_MAX;
use crate::xds::service_table;
use crate::xds::services::csds::Csds;

pub(in crate::xds) mod lrs;
pub(in crate::xds) mod relay;

mod csds;

/// The last reported health of the services, and the reporter.
pub(in crate::xds) struct Health {
    reporter: HealthReporter,
    said: ServingStatus,
}

/// The services, and their health.
pub(in crate::xds) async fn routes(store: Arc<Store>, fleet: Fleet, draining: &CancellationToken) -> (Routes, Health) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let said = status_of(&store, draining);
    report_all(&reporter, said).await;
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(health.max_decoding_message_size(SERVICE_REQUEST_MAX))
        .add_service(Csds::server(store, fleet));
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            routes
                .add_service(v1.max_decoding_message_size(SERVICE_REQUEST_MAX))
                .add_service(v1alpha.max_decoding_message_size(SERVICE_REQUEST_MAX));
        }
        (Err(error), _) | (_, Err(error)) => warn!(%error, "gRPC reflection is not served"),
    }
    (routes.routes().prepare(), Health { reporter, said })
}

/// Reflection for the served services only; the descriptors hold all of Envoy's.
fn reflection() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(ENVOY_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // By itself each version of reflection would list only itself.
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .with_service_name("grpc.reflection.v1alpha.ServerReflection")
        .with_service_name(health_server::SERVICE_NAME);
    configuration_services().fold(builder, Builder::with_service_name)
}

/// The services that send or report configuration.
fn configuration_services() -> impl Iterator<Item = &'static str> {
    service_table::service_names().chain([csds_server::SERVICE_NAME, LRS])
}

/// Report the health of the server: SERVING from the first publish until `draining`. Ends with `draining` or `token`.
pub(in crate::xds) async fn report(
    health: Health,
    store: Arc<Store>,
    draining: CancellationToken,
    token: CancellationToken,
) {
    let Health { reporter, said } = health;
    let mut published = store.subscribe();
    let follow = async {
        tokio::select! {
            // The store outlives this task. An error would mean that there are no further publishes.
            _ = published.wait_for(|generation| *generation > 0) => {}
            () = draining.cancelled() => {}
        }
        // A watcher gets changes only.
        let status = status_of(&store, &draining);
        if status != said {
            report_all(&reporter, status).await;
        }
        draining.cancelled().await;
        report_all(&reporter, ServingStatus::NotServing).await;
    };

    tokio::select! {
        () = follow => {}
        () = token.cancelled() => {}
    }
}

/// `NOT_SERVING` before the first publish, when streams get no response, and while streams are ended.
fn status_of(store: &Store, draining: &CancellationToken) -> ServingStatus {
    let serves = store.current().generation > 0 && !draining.is_cancelled();
    if serves {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

async fn report_all(reporter: &HealthReporter, status: ServingStatus) {
    // The empty name is the server as a whole.
    for service in configuration_services().chain([""]) {
        reporter.set_service_status(service, status).await;
    }
}
