//! Endpoints: as listed in a cluster, and as instances register themselves below the registry root.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// IP literal or name.
    pub host: Host,
    /// 1..=65535.
    pub port: u16,
    /// Locality zone.
    pub zone: Option<String>,
    /// At least 1; default 1.
    pub weight: u32,
    /// 0..=128; 0 first.
    pub priority: u32,
    /// Registered with `"state": "drain"`: health status DRAINING.
    pub draining: bool,
    /// Registered metadata.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// The host of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An IP literal.
    Ip(IpAddr),
    /// A lower-cased name.
    Name(String),
}

/// The value of a key `{registry prefix}{cluster}/{instance}`; always an IP literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What is registered.
    pub endpoint: Endpoint,
}
