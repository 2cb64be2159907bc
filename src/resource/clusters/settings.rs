//! The settings of a Cluster from its document and `defaults.cluster`, source and TLS aside.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster as WireCluster, OutlierDetection as WireOutlierDetection, UpstreamConnectionOptions,
    circuit_breakers,
};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, TlsOptions,
};
use envoy_types::pb::envoy::config::core::v3::{HealthCheck as WireHealthCheck, TcpKeepalive};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Percent};
use envoy_types::pb::google::protobuf;

use crate::document::Rejection;
use crate::document::cluster::{Check, CircuitBreaker, HealthCheck, OutlierDetection, Protocol, Settings};
use crate::proto::message::{boolean, duration, uint32};
use crate::resource::check;

use super::balance;

/// The connect timeout if no document gives one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of a document, filled in from the defaults.
pub(super) fn merged(own: &Settings, defaults: &Settings) -> Settings {
    Settings {
        protocol: own.protocol.or(defaults.protocol),
        connect_timeout: own.connect_timeout.or(defaults.connect_timeout),
        lb: own.lb.clone().or_else(|| defaults.lb.clone()),
        health_check: own.health_check.clone().or_else(|| defaults.health_check.clone()),
        outlier_detection: own
            .outlier_detection
            .clone()
            .or_else(|| defaults.outlier_detection.clone()),
        circuit_breaker: own.circuit_breaker.clone().or_else(|| defaults.circuit_breaker.clone()),
        keepalive: own.keepalive.clone().or_else(|| defaults.keepalive.clone()),
        buffer: own.buffer.or(defaults.buffer),
        proxy_protocol: own.proxy_protocol.or(defaults.proxy_protocol),
    }
}

/// The connect timeout.
pub(super) fn connect_timeout(settings: &Settings) -> protobuf::Duration {
    duration(settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
}

/// Puts the settings that Envoy reads of an aggregate into it.
pub(super) fn apply_to_aggregate(message: &mut WireCluster, settings: &Settings) {
    message.circuit_breakers = settings.circuit_breaker.as_ref().map(circuit_breakers);
    message.common_lb_config = settings.lb.as_ref().and_then(balance::panic_threshold);
}

/// `message` with the settings in it. `host`: the upstream's own name, for HTTP health checks; without one Envoy takes
/// the name of the cluster.
///
/// # Errors
/// Two settings of which Envoy would refuse or ignore one.
pub(super) fn applied(
    mut message: WireCluster,
    settings: &Settings,
    host: Option<&str>,
) -> Result<WireCluster, Rejection> {
    check::cluster_settings(settings)?;
    if let Some(lb) = &settings.lb {
        balance::apply(&mut message, lb);
    }

    message.health_checks = settings
        .health_check
        .iter()
        .map(|check| health_check(check, settings.protocol, host))
        .collect();

    message.outlier_detection = settings.outlier_detection.as_ref().map(outlier_detection);
    message.circuit_breakers = settings.circuit_breaker.as_ref().map(circuit_breakers);
    message.per_connection_buffer_limit_bytes = settings.buffer.map(uint32);
    let probes = settings.keepalive.as_ref().and_then(|keepalive| keepalive.tcp);
    message.upstream_connection_options = probes.map(|seconds| UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_time: Some(uint32(seconds)),
            keepalive_interval: Some(uint32(seconds)),
            ..TcpKeepalive::default()
        }),
        ..UpstreamConnectionOptions::default()
    });
    Ok(message)
}

fn health_check(check: &HealthCheck, protocol: Option<Protocol>, host: Option<&str>) -> WireHealthCheck {
    let http2 = protocol == Some(Protocol::Http2);
    // A check speaks one protocol; without this, ALPN could choose the other.
    let over_http1 = protocol == Some(Protocol::Auto) && matches!(check.check, Check::Http(_));
    let tls_options = over_http1.then(|| TlsOptions {
        alpn_protocols: vec!["http/1.1".to_owned()],
    });
    let checker = match &check.check {
        Check::Http(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.unwrap_or_default().to_owned(),
            path: path.clone(),
            codec_client_type: if http2 {
                CodecClientType::Http2
            } else {
                CodecClientType::Http1
            } as i32,
            ..HttpHealthCheck::default()
        }),
        Check::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        Check::Grpc(service) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            authority: host.unwrap_or_default().to_owned(),
            ..GrpcHealthCheck::default()
        }),
    };

    WireHealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        // Without this, Envoy checks only once a minute until the first request, and the first requests reach unchecked
        // endpoints.
        no_traffic_interval: Some(duration(check.interval)),
        healthy_threshold: Some(uint32(check.healthy)),
        unhealthy_threshold: Some(uint32(check.unhealthy)),
        reuse_connection: Some(boolean(true)),
        tls_options,
        health_checker: Some(checker),
        ..WireHealthCheck::default()
    }
}

fn outlier_detection(outlier: &OutlierDetection) -> WireOutlierDetection {
    WireOutlierDetection {
        consecutive_5xx: Some(uint32(outlier.consecutive_5xx)),
        base_ejection_time: Some(duration(outlier.eject_for)),
        // Envoy's own limit is 300 s, and it must not be below the base (NC-43).
        max_ejection_time: Some(duration(outlier.eject_for.max(Duration::from_secs(300)))),
        max_ejection_percent: Some(uint32(outlier.max_eject_percent)),
        ..WireOutlierDetection::default()
    }
}

fn circuit_breakers(limits: &CircuitBreaker) -> CircuitBreakers {
    let retry_budget = limits
        .retry_budget_percent
        .map(|value| circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(Percent { value }),
            ..Default::default()
        });
    let thresholds = circuit_breakers::Thresholds {
        max_connections: limits.connections.map(uint32),
        max_pending_requests: limits.pending.map(uint32),
        max_requests: limits.requests.map(uint32),
        max_retries: limits.retries.filter(|_| retry_budget.is_none()).map(uint32),
        retry_budget,
        ..Default::default()
    };

    let of_an_endpoint = |connections| circuit_breakers::Thresholds {
        max_connections: Some(uint32(connections)),
        ..Default::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds],
        per_host_thresholds: limits
            .per_endpoint_connections
            .map(of_an_endpoint)
            .into_iter()
            .collect(),
    }
}
