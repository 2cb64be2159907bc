//! Config sources other than the stream of this server (docs/refused-by-envoy.md NC-07), and names of subscriptions
//! (NS-08).

use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, ApiVersion, ConfigSource};
use envoy_types::pb::envoy::config::route::v3::Vhds;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;

use crate::document::Rejection;
use crate::resource::place::Place;

/// The name by which a subscription gets every resource of its type (docs/xds-rules.md).
const WILDCARD: &str = "*";

/// NS-08: Envoy subscribes to one resource by its name. By the name `*` it gets them all, and takes none.
pub(super) fn subscribed(name: &str, at: &Place) -> Result<(), Rejection> {
    match name {
        WILDCARD => Err(at.reject(
            "found \"*\", by which a proxy subscribes to every resource of the type, expected the name of one"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// NS-08, of a secret.
pub(super) fn secret(config: &SdsSecretConfig, at: &Place) -> Result<(), Rejection> {
    match config.sds_config {
        Some(_) => subscribed(&config.name, &at.field("name")),
        None => Ok(()),
    }
}

/// NR-47: Envoy takes VHDS over ADS or over a delta stream of its own.
pub(super) fn vhds(vhds: &Vhds, at: &Place) -> Result<(), Rejection> {
    let at = at.field("config_source");
    let Some(source) = &vhds.config_source else {
        return Err(at.reject("missing, expected a value".to_owned()));
    };
    match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => Ok(()),
        Some(ConfigSourceSpecifier::ApiConfigSource(source)) if source.api_type() == ApiType::DeltaGrpc => Ok(()),
        _ => {
            Err(at
                .reject("found another source, expected \"ads\", or \"api_config_source\" with DELTA_GRPC".to_owned()))
        }
    }
}

/// NC-07: Envoy 1.40 knows no source `self`.
pub(super) fn source(source: &ConfigSource, at: &Place) -> Result<(), Rejection> {
    match source.config_source_specifier {
        Some(ConfigSourceSpecifier::Self_(_)) => Err(at
            .field("self")
            .reject("found \"self\", which Envoy does not know, expected a source such as \"ads\"".to_owned())),
        _ => Ok(()),
    }
}

/// A config source other than ADS.
pub(super) fn api(source: &ApiConfigSource, at: &Place) -> Result<(), Rejection> {
    match source.api_type() {
        ApiType::Rest => rest(source, at),
        ApiType::Grpc | ApiType::DeltaGrpc => grpc(source, at),
        other => {
            let reason = format!(
                "found {}, expected \"REST\", \"GRPC\" or \"DELTA_GRPC\"",
                other.as_str_name()
            );
            Err(at.field("api_type").reject(reason))
        }
    }?;

    #[expect(deprecated, reason = "Envoy refuses it by name")]
    let is_old = source.transport_api_version() == ApiVersion::V2;
    match is_old {
        true => Err(at
            .field("transport_api_version")
            .reject("found V2, expected \"V3\"".to_owned())),
        false => Ok(()),
    }
}

fn rest(source: &ApiConfigSource, at: &Place) -> Result<(), Rejection> {
    if !source.grpc_services.is_empty() {
        return Err(at
            .field("grpc_services")
            .reject("found a gRPC service for REST, expected cluster_names".to_owned()));
    }
    if source.cluster_names.len() != 1 {
        let reason = format!("found {} clusters, expected one", source.cluster_names.len());
        return Err(at.field("cluster_names").reject(reason));
    }
    match source.refresh_delay {
        Some(_) => Ok(()),
        None => Err(at
            .field("refresh_delay")
            .reject("missing, expected the interval between requests".to_owned())),
    }
}

fn grpc(source: &ApiConfigSource, at: &Place) -> Result<(), Rejection> {
    if !source.cluster_names.is_empty() {
        return Err(at
            .field("cluster_names")
            .reject("found clusters for gRPC, expected grpc_services".to_owned()));
    }
    if source.grpc_services.len() != 1 {
        let reason = format!("found {} services, expected one", source.grpc_services.len());
        return Err(at.field("grpc_services").reject(reason));
    }
    Ok(())
}
