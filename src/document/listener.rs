//! `listeners/{name}`: an address and how HTTP is spoken there.

use std::net::IpAddr;

use super::Groups;

/// The listener that exists when no listeners document does.
pub const DEFAULT_NAME: &str = "default";

/// A listener document.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// IP literal.
    pub address: IpAddr,
    /// 1..=65535.
    pub port: u16,
    /// What `defaults.listener` may fill in.
    pub settings: Settings,
    /// Which groups of proxies have it.
    pub groups: Groups,
}

/// The fields that `defaults.listener` may give where the document does not. Each is taken whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `http`.
    pub http: Option<Http>,
}

/// `http`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Proxies before this one whose `x-forwarded-for` is trusted; default 0.
    pub trusted_hops: u32,
    /// Default: none.
    pub access_log: Option<AccessLog>,
}

/// `http.access_log`, to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// `"text"`: Envoy's default format.
    Text,
    /// `"json"`
    Json,
}
