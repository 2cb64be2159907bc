//! The limits on clients, and how often each was reached, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit on the cost of clients. docs/operating.md has the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Streams of the server.
    Streams,
    /// Streams of one address.
    AddressStreams,
    /// Streams of one connection.
    ConnectionStreams,
    /// Connections of the server.
    Connections,
    /// Connections of one address.
    AddressConnections,
    /// Bytes of all unfinished requests.
    Unfinished,
    /// Bytes of the unfinished requests of one connection.
    ConnectionUnfinished,
    /// Memory of all long lists of subscribed names.
    Names,
    /// Memory of the long lists of names of one connection.
    ConnectionNames,
    /// The time of a request from its first byte to its last one.
    RequestTime,
    /// The time until the first request of a stream.
    Silent,
    /// Connections of the admin port.
    AdminConnections,
    /// Large answers of the admin port at a time.
    AdminAnswers,
    /// The time in which a client of the admin port must read a part of its answer.
    AdminUnread,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 14] = [
        Self::Streams,
        Self::AddressStreams,
        Self::ConnectionStreams,
        Self::Connections,
        Self::AddressConnections,
        Self::Unfinished,
        Self::ConnectionUnfinished,
        Self::Names,
        Self::ConnectionNames,
        Self::RequestTime,
        Self::Silent,
        Self::AdminConnections,
        Self::AdminAnswers,
        Self::AdminUnread,
    ];

    /// The value of the label `limit`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::AddressStreams => "address_streams",
            Self::ConnectionStreams => "connection_streams",
            Self::Connections => "connections",
            Self::AddressConnections => "address_connections",
            Self::Unfinished => "unfinished",
            Self::ConnectionUnfinished => "connection_unfinished",
            Self::Names => "names",
            Self::ConnectionNames => "connection_names",
            Self::RequestTime => "request_time",
            Self::Silent => "silent",
            Self::AdminConnections => "admin_connections",
            Self::AdminAnswers => "admin_answers",
            Self::AdminUnread => "admin_unread",
        }
    }
}

/// How often each limit was reached.
#[derive(Debug, Default)]
pub struct Reached([AtomicU64; Limit::ALL.len()]);

impl Reached {
    /// A limit was reached: something was refused, ended or closed.
    pub fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often a limit was reached since the process started.
    #[must_use]
    pub fn of(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }
}
