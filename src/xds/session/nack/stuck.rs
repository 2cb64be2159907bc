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
pub(in crate::xds) struct Alarm {
    /// A refusal's words said so.
    said: bool,
    silent: bool,
    look_at: Option<Instant>,
}

impl Alarm {
    pub(in crate::xds) fn is_raised(&self) -> bool {
        self.said || self.silent
    }

    /// When to look again though nothing happened.
    pub(in crate::xds) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// A response was refused with these words.
    pub(in crate::xds) fn on_words(&mut self, resource_type: ResourceType, words: &str) {
        self.said |= suspects::is_stuck(resource_type, words);
    }

    /// A response was accepted.
    pub(in crate::xds) fn on_acknowledged(&mut self, resource_type: ResourceType) {
        self.said &= resource_type != ResourceType::Cluster;
    }

    /// A response was answered, one way or the other: that is no silence.
    pub(in crate::xds) fn on_answer(&mut self, resource_type: ResourceType) {
        self.silent &= resource_type != ResourceType::Cluster;
    }

    /// Look: since when clusters are unanswered, and whether the client answers about all else.
    pub(in crate::xds) fn look(&mut self, unanswered_since: Option<Instant>, answers: bool, now: Instant) {
        let at = unanswered_since.map(|since| since + SILENCE_MAX);
        self.look_at = at.filter(|at| *at > now);
        self.silent = at.is_some_and(|at| at <= now) && (answers || self.silent);
    }
}
