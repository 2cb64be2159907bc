//! `clusters/{name}`: an upstream, how to reach it, balance it and guard it.
//!
//! This file has the types; `read` makes them of the fields of a document and refuses values that Envoy would refuse
//! (`balance` reads `lb`; `keepalive` and `tls` the fields of these names).
//! The compiler checks whether two documents (or a document and `defaults`) agree.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Groups;
use super::endpoint::Endpoint;
use super::key::source_in;
use super::policy::Items;
use super::reference::Reference;
use super::secret::Shape;

mod balance;
mod keepalive;
pub(super) mod read;
mod tls;

/// A cluster document.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The source of its endpoints.
    pub source: Source,
    /// Settings that `defaults.cluster` may fill in.
    pub settings: Settings,
    /// TLS to the upstream; default: plain text.
    pub tls: Option<Tls>,
    /// A header that Envoy puts on each request.
    pub credential: Option<Credential>,
    /// Clusters whose own endpoints take over, in this order, when this one has no healthy endpoint left.
    pub failover: Vec<Arc<str>>,
    /// Losses of registered instances that are held back.
    pub guard: Option<Guard>,
    /// Sent only by name, not part of the wildcard.
    pub on_demand: bool,
    /// The policies of routes to it.
    pub policies: Items,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

impl Cluster {
    /// The source of its registrations ([`DocumentKey::first_segment`](super::key::DocumentKey::first_segment) of their
    /// keys), given its name; `None`: its endpoints do not register.
    #[must_use]
    pub fn registered_as(&self, name: &Arc<str>) -> Option<Arc<str>> {
        match &self.source {
            Source::Registered => Some(Arc::clone(name)),
            Source::Registry { registry, service, .. } => Some(source_in(registry, service)),
            Source::Listed(_) | Source::Dns { .. } => None,
        }
    }

    /// The secrets and the registry that the document names.
    pub(super) fn references(&self) -> Vec<Reference> {
        let tls = self.tls.iter();
        let tls = tls.flat_map(|tls| {
            let ca = tls
                .ca
                .iter()
                .map(|name| Reference::secret("tls.ca", name, &[Shape::Ca]));
            let own = tls.client_certificate.iter();
            ca.chain(own.map(|name| Reference::secret("tls.client_certificate", name, &[Shape::Certificate])))
        });
        let credential = self.credential.iter();
        let credential = credential.map(|own| Reference::secret("credential.secret", &own.secret, &[Shape::Generic]));
        let registry = match &self.source {
            Source::Registry { registry, .. } => Some(Reference::registry("registry.source", registry)),
            _ => None,
        };
        tls.chain(credential).chain(registry).collect()
    }
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
    /// `registry`: what another registry has of a service.
    Registry {
        /// The registries document.
        registry: Arc<str>,
        /// The name of the service there.
        service: String,
        /// Of the endpoints of an instance, those with this scheme count; `None`: the one that fits the cluster best.
        scheme: Option<String>,
    },
}

/// `guard`: losses of registered instances that are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Instances that are left at least; default 0.
    pub min_endpoints: u32,
    /// The largest share of instances that may go within a short time; default 100.
    pub max_loss_percent: u32,
    /// How long lost instances are kept; default 30 s.
    pub hold: Duration,
}

impl Guard {
    /// Whether a loss is held back: `lost` instances of `all`, with `left` of them registered.
    #[must_use]
    pub fn holds_back(&self, lost: usize, left: usize, all: usize) -> bool {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let is_share = lost.saturating_mul(100) > all.saturating_mul(count(self.max_loss_percent));
        lost > 0 && (left < count(self.min_endpoints) || is_share)
    }

    /// The guard of instances that two clusters have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            min_endpoints: self.min_endpoints.max(other.min_endpoints),
            max_loss_percent: self.max_loss_percent.min(other.max_loss_percent),
            hold: self.hold.max(other.hold),
        }
    }
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
    /// The life of connections.
    pub keepalive: Option<Keepalive>,
    /// Bytes that Envoy buffers for a connection; default: Envoy's, 1 MiB.
    pub buffer: Option<u32>,
    /// PROXY protocol towards the upstream.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// The protocol towards the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `"http1"`
    Http1,
    /// `"http2"` (and `"grpc"`)
    Http2,
    /// `"auto"`: HTTP/2 or HTTP/1.1, as ALPN decides; needs TLS.
    Auto,
    /// `"like_client"`: the protocol of the client's request.
    LikeClient,
}

/// `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The name that Envoy asks for, or an IP address, which SNI does not carry. Default: the host of each endpoint.
    pub sni: Option<String>,
    /// Whether the certificate is checked; default true.
    pub verify: bool,
    /// The secret with the CA that vouches for the certificate; default: the server's CA bundle.
    pub ca: Option<Arc<str>>,
    /// The secret with the certificate that Envoy shows to the upstream.
    pub client_certificate: Option<Arc<str>>,
    /// Names of which the certificate must have one; empty: the name of `sni`.
    pub names: Vec<ServerName>,
    /// Default 1.2.
    pub min_version: TlsVersion,
}

/// `credential`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The header in lower case; default `authorization`.
    pub header: Arc<str>,
    /// The text before the secret; default `Bearer `.
    pub prefix: String,
    /// The secret.
    pub secret: Arc<str>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            sni: None,
            verify: true,
            ca: None,
            client_certificate: None,
            names: Vec::new(),
            min_version: TlsVersion::V1_2,
        }
    }
}

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// A host name; a wildcard in the certificate may match it.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
    /// A URI such as `spiffe://example.com/orders`.
    Uri(String),
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// `"1.2"`
    V1_2,
    /// `"1.3"`
    V1_3,
}

/// `lb`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadBalancing {
    /// Default: round robin.
    pub policy: LbPolicy,
    /// Ramp-up of a new endpoint (round robin and least request).
    pub slow_start: Option<Duration>,
    /// The choice of a locality.
    pub locality: Option<LocalityMode>,
    /// Endpoints that are compared (least request); 2..=100, Envoy's default 2.
    pub choices: Option<u32>,
    /// The largest share of an endpoint's requests in percent of the average (hashing policies); 100..=10,000.
    pub hash_balance: Option<u32>,
    /// The size of the ring (ring hash).
    pub ring: Option<Ring>,
    /// The size of the table (Maglev), a prime number; Envoy's default 65,537.
    pub table: Option<u32>,
    /// The share of healthy endpoints below which Envoy ignores health; 0..=100, Envoy's default 50.
    pub panic_percent: Option<f64>,
    /// The fewest endpoints for which Envoy prefers its own zone (zone aware); Envoy's default 6.
    pub min_zone_size: Option<u32>,
    /// Sets of metadata keys by which requests choose among endpoints.
    pub subsets: Vec<Vec<String>>,
}

/// `lb.ring`. Envoy wedges where `min` exceeds `max` (NC-24).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Default 1024.
    pub min: u32,
    /// Default 8,388,608, which is Envoy's limit.
    pub max: u32,
}

/// `lb.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LbPolicy {
    /// `"round_robin"`
    #[default]
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
    /// Retries in flight; Envoy's default 3. Without effect beside a budget.
    pub retries: Option<u32>,
    /// Connections to one endpoint; no limit by default.
    pub per_endpoint_connections: Option<u32>,
}

/// `keepalive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalive {
    /// The time after which a connection without requests is closed; default 60 s. `None`: `"none"`.
    pub idle: Option<Duration>,
    /// The greatest age of a connection.
    pub max_age: Option<Duration>,
    /// The most requests on a connection. `None`: 0, no limit.
    pub max_requests: Option<u32>,
    /// Seconds without traffic until TCP probes, and between two probes; 1..=32,767, the range of Linux.
    pub tcp: Option<u32>,
    /// HTTP/2 PING frames.
    pub ping: Option<Ping>,
}

/// `keepalive.ping`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// Default 30 s.
    pub interval: Duration,
    /// Default 5 s.
    pub timeout: Duration,
}

/// `proxy_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// `1`: the text form.
    V1,
    /// `2`: the binary form.
    V2,
}
