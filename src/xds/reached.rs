//! Counts and logs the limits that clients reach.

use std::net::SocketAddr;

use tracing::warn;

use crate::fleet::Fleet;
use crate::fleet::limit::Limit;
use crate::xds::http2::peer::shown;

/// A counter of each limit, and a log line.
#[derive(Debug)]
pub(in crate::xds) struct Reached {
    fleet: Fleet,
}

impl Reached {
    pub(in crate::xds) fn new(fleet: Fleet) -> Self {
        Self { fleet }
    }

    /// A client at this address reached a limit, and got this sentence.
    pub(in crate::xds) fn note(&self, limit: Limit, address: Option<SocketAddr>, reason: &dyn std::fmt::Display) {
        self.fleet.reached().count(limit);
        warn!(peer = %shown(address), limit = limit.as_str(), %reason, "A client reached a limit");
    }
}
