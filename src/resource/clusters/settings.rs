//! The settings of a Cluster from its document and `defaults.cluster`, source and TLS aside.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster as WireCluster, OutlierDetection as WireOutlierDetection, circuit_breakers, cluster,
};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::{HealthCheck as WireHealthCheck, Http2ProtocolOptions};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config,
};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Percent};
use envoy_types::pb::google::protobuf;

use crate::document::Rejection;
use crate::document::cluster::{
    Check, CircuitBreaker, HealthCheck, LbPolicy, LocalityMode, OutlierDetection, Protocol, Settings,
};
use crate::proto::message::{any, boolean, duration, uint32};
use crate::resource::check;

/// The connect timeout if no document gives one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The only key under which Envoy reads a cluster's HTTP options.
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

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
    }
}

/// The connect timeout.
pub(super) fn connect_timeout(settings: &Settings) -> protobuf::Duration {
    duration(settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
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
    if settings.protocol == Some(Protocol::Http2) {
        // One entry: a map of two would be encoded in random order.
        message.typed_extension_protocol_options =
            HashMap::from([(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&http2_options()))]);
    }

    if let Some(lb) = &settings.lb {
        message.lb_policy = lb_policy(lb.policy) as i32;
        message.lb_config = lb.slow_start.and_then(|window| slow_start(lb.policy, window));
        message.common_lb_config = lb.locality.map(common_lb_config);
    }

    let http2 = settings.protocol == Some(Protocol::Http2);
    message.health_checks = settings
        .health_check
        .iter()
        .map(|check| health_check(check, http2, host))
        .collect();

    message.outlier_detection = settings.outlier_detection.as_ref().map(outlier_detection);
    message.circuit_breakers = settings.circuit_breaker.as_ref().map(circuit_breakers);
    Ok(message)
}

fn http2_options() -> HttpProtocolOptions {
    let http2 = explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(http2),
    };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    }
}

fn lb_policy(policy: LbPolicy) -> cluster::LbPolicy {
    match policy {
        LbPolicy::RoundRobin => cluster::LbPolicy::RoundRobin,
        LbPolicy::LeastRequest => cluster::LbPolicy::LeastRequest,
        LbPolicy::Random => cluster::LbPolicy::Random,
        LbPolicy::RingHash => cluster::LbPolicy::RingHash,
        LbPolicy::Maglev => cluster::LbPolicy::Maglev,
    }
}

fn slow_start(policy: LbPolicy, window: Duration) -> Option<LbConfig> {
    let slow_start_config = Some(SlowStartConfig {
        slow_start_window: Some(duration(window)),
        ..Default::default()
    });
    match policy {
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })),
        LbPolicy::LeastRequest => Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            slow_start_config,
            ..Default::default()
        })),
        LbPolicy::Random | LbPolicy::RingHash | LbPolicy::Maglev => None,
    }
}

fn common_lb_config(mode: LocalityMode) -> CommonLbConfig {
    let specifier = match mode {
        LocalityMode::ZoneAware => LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig::default()),
        LocalityMode::Weighted => LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}),
    };
    CommonLbConfig {
        locality_config_specifier: Some(specifier),
        ..CommonLbConfig::default()
    }
}

fn health_check(check: &HealthCheck, http2: bool, host: Option<&str>) -> WireHealthCheck {
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
        retry_budget,
        ..Default::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds],
        ..CircuitBreakers::default()
    }
}
