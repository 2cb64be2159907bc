//! `clusters/{name}`: an upstream, how to reach it, balance it and guard it.
//!
//! This file has the types; `read` makes them of the fields of a document and refuses values that Envoy would refuse.
//! The compiler checks whether two documents (or a document and `defaults`) agree.

use std::time::Duration;

use super::Groups;
use super::endpoint::Endpoint;

pub(super) mod read;

/// A cluster document.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The source of its endpoints.
    pub source: Source,
    /// Settings that `defaults.cluster` may fill in.
    pub settings: Settings,
    /// Sent only by name, not part of the wildcard.
    pub on_demand: bool,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

/// Exactly one source of endpoints.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Listed in the document; IP literals only (EDS) or names only (`STRICT_DNS`).
    Listed(Vec<Endpoint>),
    /// `"dns": "orders.internal:8080"`.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// The keys `{registry prefix}{cluster}/*`.
    Registered,
}

/// The fields that `defaults.cluster` gives if the document does not. Each is taken whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Default: HTTP/1.1.
    pub protocol: Option<Protocol>,
    /// Default 2 s.
    pub connect_timeout: Option<Duration>,
    /// Load balancing.
    pub lb: Option<LoadBalancing>,
    /// Active health check.
    pub health_check: Option<HealthCheck>,
    /// Passive health check.
    pub outlier_detection: Option<OutlierDetection>,
    /// Limits.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// The protocol towards the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `"http1"`
    Http1,
    /// `"http2"` (and `"grpc"`)
    Http2,
}

/// `lb`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadBalancing {
    /// Default: round robin.
    pub policy: LbPolicy,
    /// Ramp-up of a new endpoint (round robin and least request).
    pub slow_start: Option<Duration>,
    /// The choice of a locality.
    pub locality: Option<LocalityMode>,
}

/// `lb.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    /// `"round_robin"`
    RoundRobin,
    /// `"least_request"`
    LeastRequest,
    /// `"random"`
    Random,
    /// `"ring_hash"`
    RingHash,
    /// `"maglev"`
    Maglev,
}

/// `lb.locality`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalityMode {
    /// `"zone_aware"`
    ZoneAware,
    /// `"weighted"`
    Weighted,
}

/// `health_check`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// The probe.
    pub check: Check,
    /// Default 5 s.
    pub interval: Duration,
    /// Default 1 s.
    pub timeout: Duration,
    /// Successes until healthy; default 2.
    pub healthy: u32,
    /// Failures until unhealthy; default 3.
    pub unhealthy: u32,
}

/// The probe of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `"http": "/healthz"`
    Http(String),
    /// `"tcp": true`: a connection.
    Tcp,
    /// `"grpc": "service"` (empty: the server); needs HTTP/2.
    Grpc(String),
}

/// `outlier_detection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Default 5.
    pub consecutive_5xx: u32,
    /// Default 30 s.
    pub eject_for: Duration,
    /// Default 10; 0..=100.
    pub max_eject_percent: u32,
}

/// `circuit_breaker`; an absent field is Envoy's default (1024).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CircuitBreaker {
    /// Connections.
    pub connections: Option<u32>,
    /// Pending requests.
    pub pending: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Retries in flight, as a share of the requests; 0..=100.
    pub retry_budget_percent: Option<f64>,
}
