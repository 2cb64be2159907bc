//! How the xDS port is served.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP; port 0: any free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path; an old one there is replaced.
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

/// How the port is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub listen: Listen,
    /// Connections beyond it are closed at once. Default: as many as the process may have files, less what else needs them.
    pub max_connections: usize,
    /// Streams beyond it end with UNAVAILABLE before anything is read. Default 50,000.
    pub max_streams: usize,
    /// A client that takes nothing of what was handed to it for so long is closed. Default 60 s.
    pub stall_timeout: Duration,
    /// A connection ends at this age, give or take a tenth; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How long a drain takes: streams end spread over two thirds of it.
    pub grace: Duration,
    /// `control_plane.identifier`.
    pub identifier: String,
    /// The latest certificates; `None`: plain text. A new value holds for new connections.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Secrets go over connections of strangers too. Default off.
    pub plaintext_secrets: bool,
}
