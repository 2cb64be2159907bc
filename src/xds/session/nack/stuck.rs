//! Detects a client that sends neither ACK nor NACK for clusters any more.
//!
//! Envoy withholds the ACK of clusters while any of them warms, for seconds. Two invalid configurations leave a
//! half-built cluster behind; Envoy then sends neither ACK nor NACK for clusters until that cluster is removed
//! (docs/xds-rules.md F-17). A client counts as stuck after [`SILENCE_MAX`], if it answers all other types, or as soon
//! as the message of a NACK shows that case. The state ends with the next ACK or NACK; after such a message, with the
//! next ACK. Pure.

use std::time::{Duration, Instant};

use crate::resource::ResourceType;
use crate::xds::session::nack::suspects;

/// The longest time without ACK or NACK for clusters (docs/xds-rules.md AD-13).
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Whether one client is stuck.
#[derive(Debug, Default)]
pub(in crate::xds) struct Stuck {
    /// The message of a NACK showed the state.
    half_built: bool,
    silent: bool,
    check_at: Option<Instant>,
}

impl Stuck {
    pub(in crate::xds) fn is_stuck(&self) -> bool {
        self.half_built || self.silent
    }

    /// The moment of the next check.
    pub(in crate::xds) fn deadline(&self) -> Option<Instant> {
        self.check_at
    }

    /// A response was NACKed with this message.
    pub(in crate::xds) fn on_error_message(&mut self, resource_type: ResourceType, error_message: &str) {
        self.half_built |= suspects::is_stuck(resource_type, error_message);
    }

    /// A response was ACKed.
    pub(in crate::xds) fn on_ack(&mut self, resource_type: ResourceType) {
        self.half_built &= resource_type != ResourceType::Cluster;
    }

    /// An ACK or NACK arrived: the silence is over.
    pub(in crate::xds) fn on_ack_or_nack(&mut self, resource_type: ResourceType) {
        self.silent &= resource_type != ResourceType::Cluster;
    }

    /// Check: since when clusters have neither ACK nor NACK, and whether all other types are answered.
    pub(in crate::xds) fn check(&mut self, unacked_since: Option<Instant>, answers: bool, now: Instant) {
        let at = unacked_since.map(|since| since + SILENCE_MAX);
        self.check_at = at.filter(|at| *at > now);
        self.silent = at.is_some_and(|at| at <= now) && (answers || self.silent);
    }
}
