//! The ways to a service: a cluster, asked over gRPC or HTTP.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{GrpcService, HttpUri, grpc_service, http_uri};
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, HttpStatus};

use super::{Filter, Slot};
use crate::document::route::Upstream;
use crate::proto::message::{any, duration};
use crate::resource::routes::matching::string;

/// The key of settings that no runtime layer has.
const NO_RUNTIME_KEY: &str = "chancery.none";

/// A service over gRPC. A URL is no authority, so its host and port are sent as one.
pub(super) fn grpc(target: &Upstream, timeout: Duration) -> GrpcService {
    let name = target.cluster_name();
    let authority = match target {
        Upstream::Url(_) => name.split_once("://").map_or("", |(_, authority)| authority),
        Upstream::Cluster(_) => "",
    };
    let envoy_grpc = grpc_service::EnvoyGrpc {
        cluster_name: name.to_string(),
        authority: authority.to_owned(),
        ..grpc_service::EnvoyGrpc::default()
    };
    GrpcService {
        timeout: Some(duration(timeout)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(envoy_grpc)),
        ..GrpcService::default()
    }
}

/// A service over HTTP: `uri`, or the cluster's name as a host.
pub(super) fn http(target: &Upstream, uri: Option<&str>, timeout: Duration) -> HttpUri {
    let name = target.cluster_name();
    let uri = match (uri, target) {
        (Some(uri), _) => uri.to_owned(),
        (None, Upstream::Url(_)) => name.to_string(),
        (None, Upstream::Cluster(name)) => format!("http://{name}"),
    };
    HttpUri {
        uri,
        timeout: Some(duration(timeout)),
        http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(name.to_string())),
    }
}

/// A filter that refuses every request with 403.
pub(super) fn refusing(slot: Slot, name: &'static str) -> Filter {
    let nobody = Rbac {
        rules: Some(rbac::Rbac::default()),
        ..Rbac::default()
    };
    Filter::new(slot, name, any(&nobody))
}

/// The filters of a policy whose secret is not there: every request gets 503.
///
/// Settings of a runtime layer may switch a fault off, even one with keys of its own, so a filter that refuses stands
/// behind it. The names are those of the two filters.
pub(super) fn closed([unavailable, refused]: [&'static str; 2]) -> Vec<Filter> {
    let fault = HttpFault {
        abort: Some(FaultAbort {
            percentage: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred as i32,
            }),
            error_type: Some(fault_abort::ErrorType::HttpStatus(503)),
            ..FaultAbort::default()
        }),
        abort_percent_runtime: NO_RUNTIME_KEY.to_owned(),
        abort_http_status_runtime: NO_RUNTIME_KEY.to_owned(),
        abort_grpc_status_runtime: NO_RUNTIME_KEY.to_owned(),
        max_active_faults_runtime: NO_RUNTIME_KEY.to_owned(),
        ..HttpFault::default()
    };
    vec![
        Filter::new(Slot::Auth, unavailable, any(&fault)),
        refusing(Slot::Auth, refused),
    ]
}

/// A status.
pub(super) fn status(code: u16) -> HttpStatus {
    HttpStatus { code: code.into() }
}

/// A matcher of these names; `None`: there are none.
pub(super) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<ListStringMatcher> {
    let patterns: Vec<_> = names
        .into_iter()
        .map(|name| string(MatchPattern::Exact(name.to_owned())))
        .collect();
    (!patterns.is_empty()).then_some(ListStringMatcher { patterns })
}
