//! The settings of the xDS port.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;

use crate::xds::limits::Limits;

/// The address that the server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP; port 0: any free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path. An older socket file is replaced.
    Unix(PathBuf),
}

/// `127.0.0.1:18000` or `unix:PATH`.
impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The settings of the port.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address.
    pub listen: Listen,
    /// Further connections are closed at once. Default: the limit on open files, less those that the rest of the server
    /// needs.
    pub max_connections: usize,
    /// Further streams end with UNAVAILABLE before a request is read. Default 50,000.
    pub max_streams: usize,
    /// What one client and one address may have of it.
    pub limits: Limits,
    /// A stream whose client reads nothing for this long is reset. Default 60 s.
    pub stall_timeout: Duration,
    /// A connection ends at this age, give or take a tenth; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// The time for a drain. Streams end spread over two thirds of it.
    pub grace: Duration,
    /// `control_plane.identifier`.
    pub identifier: String,
    /// The latest certificates. `None`: plain text. New connections use the new value.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Send secrets to clients without a verified certificate too. Default off.
    pub plaintext_secrets: bool,
}

impl Options {
    /// The shortest time after which the server ends a stream.
    pub(in crate::xds) fn shortest_time(&self) -> Duration {
        let limits = &self.limits;
        self.stall_timeout.min(limits.silent_for).min(limits.request_within)
    }
}
