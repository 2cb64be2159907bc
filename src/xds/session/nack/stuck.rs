//! A client that answers nothing about clusters any more.
//!
//! Envoy withholds the ACK of clusters while any of them warms, for seconds. Two configurations that it refuses leave a
//! half-built cluster behind, and then no answer about clusters comes at all until that cluster is gone (docs/xds-rules.md
//! F-17). The two look alike but for the time they take, so after [`SILENCE_MAX`] an alarm is raised, if the client answers about
//! everything else. It ends with the next answer, or the next ACK where an answer's words raised it. Pure.

use std::time::{Duration, Instant};

use crate::resource::ResourceType;
use crate::xds::session::nack::suspects;

/// How long clusters may stay without an answer (docs/xds-rules.md AD-13).
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Whether one client is stuck.
#[derive(Debug, Default)]
pub(in crate::xds) struct Stuck {
    /// A refusal's words said so.
    said: bool,
    silent: bool,
    check_at: Option<Instant>,
}

impl Stuck {
    pub(in crate::xds) fn is_stuck(&self) -> bool {
        self.said || self.silent
    }

    /// When to look again though nothing happened.
    pub(in crate::xds) fn deadline(&self) -> Option<Instant> {
        self.check_at
    }

    /// A response was refused with these words.
    pub(in crate::xds) fn on_error_message(&mut self, resource_type: ResourceType, error_message: &str) {
        self.said |= suspects::is_stuck(resource_type, error_message);
    }

    /// A response was accepted.
    pub(in crate::xds) fn on_ack(&mut self, resource_type: ResourceType) {
        self.said &= resource_type != ResourceType::Cluster;
    }

    /// A response was answered, one way or the other: that is no silence.
    pub(in crate::xds) fn on_ack_or_nack(&mut self, resource_type: ResourceType) {
        self.silent &= resource_type != ResourceType::Cluster;
    }

    /// Look: since when clusters are unacked, and whether the client answers about all else.
    pub(in crate::xds) fn check(&mut self, unacked_since: Option<Instant>, answers: bool, now: Instant) {
        let at = unacked_since.map(|since| since + SILENCE_MAX);
        self.check_at = at.filter(|at| *at > now);
        self.silent = at.is_some_and(|at| at <= now) && (answers || self.silent);
    }
}
