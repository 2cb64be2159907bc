//! The figures of the xDS port: the cost of one client, of one address, and of all clients together.
//!
//! docs/operating.md, "Connections and limits", lists the same figures with their reasons. The limits of one request
//! and of one subscription are in [`crate::xds::session::wire::limits`], the sizes of messages in
//! [`crate::xds::grpc`].

use std::time::Duration;

use crate::xds::grpc;

/// The limits of one server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// xDS streams of one connection.
    pub connection_streams: usize,
    /// xDS streams of one address, and as many of the small services.
    pub address_streams: usize,
    /// Connections of one address.
    pub address_connections: usize,
    /// Streams of the small services of one connection.
    pub connection_service_streams: usize,
    /// A stream without a complete request ends after this time, if its connection has more than [`Self::silent`] of
    /// them, or if more than half of all streams are open.
    pub silent_for: Duration,
    /// Streams of one connection that may stay silent.
    pub silent: usize,
    /// The time from the first byte of a request to its last one.
    pub request_within: Duration,
    /// Bytes of the unfinished large requests of one connection.
    pub connection_unfinished: usize,
    /// Bytes of all unfinished requests.
    pub unfinished: usize,
    /// What each stream that has sent an ACK adds to [`Self::unfinished`].
    pub unfinished_per_proven: usize,
    /// Memory of the long lists of names that one connection subscribes to, in bytes.
    pub connection_names: usize,
    /// Memory of all long lists of names, in bytes.
    pub names: usize,
    /// What each stream that has sent an ACK adds to [`Self::names`].
    pub names_per_proven: usize,
}

/// An unfinished request up to this size, in bytes, does not count for its connection, only for the sum of all: a node
/// of 61 kB and a few hundred names. A request up to this size is also read without a turn.
pub(in crate::xds) const SMALL_REQUEST: usize = 128 * 1024;
/// A list of names up to this length does not count as memory of its connection.
pub(in crate::xds) const SHORT_LIST: usize = 1000;
const MIB: usize = 1024 * 1024;
/// Streams that one connection may have, however few the server may have.
const CONNECTION_STREAMS_MIN: usize = 1000;

impl Limits {
    /// The limits that follow from the number of streams and connections.
    #[must_use]
    pub fn new(max_streams: usize, max_connections: usize) -> Self {
        let most = |max: usize| (max - max / 5).max(1);
        Self {
            connection_streams: (max_streams / 5).max(CONNECTION_STREAMS_MIN).min(max_streams),
            address_streams: most(max_streams),
            address_connections: most(max_connections),
            connection_service_streams: 100,
            silent_for: Duration::from_secs(60),
            silent: 8,
            request_within: Duration::from_secs(30),
            connection_unfinished: grpc::REQUEST_MAX + 16 * MIB,
            unfinished: 512 * MIB,
            unfinished_per_proven: SMALL_REQUEST,
            connection_names: 256 * MIB,
            names: 1024 * MIB,
            names_per_proven: MIB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_and_one_address_leave_streams_to_others() {
        let limits = Limits::new(50_000, 1_000_000);
        assert_eq!((limits.connection_streams, limits.address_streams), (10_000, 40_000));
        assert_eq!(limits.address_connections, 800_000);
        let limits = Limits::new(2, 2);
        assert_eq!((limits.connection_streams, limits.address_streams), (2, 2));
        assert_eq!(Limits::new(1, usize::MAX).address_streams, 1);
    }
}
