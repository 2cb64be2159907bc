//! Counts and logs the limits that clients reach.

use std::net::SocketAddr;

use tokio::time::Instant;
use tracing::warn;

use crate::fleet::Fleet;
use crate::fleet::limit::Limit;
use crate::xds::sparse::Sparse;

/// A counter of each limit, and a line a minute at most.
#[derive(Debug)]
pub(in crate::xds) struct Reached {
    fleet: Fleet,
    lines: [Sparse; Limit::ALL.len()],
}

impl Reached {
    pub(in crate::xds) fn new(fleet: Fleet) -> Self {
        let lines = Default::default();
        Self { fleet, lines }
    }

    /// A client at this address reached a limit, and got this sentence.
    pub(in crate::xds) fn note(&self, limit: Limit, address: Option<SocketAddr>, reason: &dyn std::fmt::Display) {
        self.fleet.reached().count(limit);
        if let Some(times) = self.lines[limit as usize].on_event(Instant::now()) {
            warn!(limit = limit.as_str(), ?address, times, %reason, "A client reached a limit");
        }
    }
}
