//! The first of two steps towards a set, and the wait for the second one ([`steps`](crate::xds::session::steps)).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::State;

/// How long the second step waits at most.
pub(in crate::xds) const STEP_MAX: Duration = Duration::from_secs(5);

/// The first of two steps was taken.
#[derive(Debug)]
pub(in crate::xds) enum FirstStep {
    /// Some members of a circle were left out. The bound counts from the response.
    Exchange,
    /// The old routes were sent with the names of these clusters.
    Announcement { clusters: Vec<Arc<str>>, until: Instant },
}

impl FirstStep {
    /// The latest moment of the second step of this type; `None`: the first step has its ACK or NACK.
    pub(in crate::xds) fn deadline(&self, state: &State) -> Option<Instant> {
        match self {
            Self::Exchange => {
                state.unacked_since()?;
                Some(state.sent_at? + STEP_MAX)
            }
            Self::Announcement { until, .. } => Some(*until),
        }
    }
}

impl State {
    /// The latest moment of a second step; `None`: no second step waits.
    pub(in crate::xds) fn step_deadline(&self) -> Option<Instant> {
        self.first_step.as_ref()?.deadline(self)
    }

    /// Whether the second step may follow at once, because the first one needed no response.
    pub(in crate::xds) fn goes_on(&self) -> bool {
        matches!(self.first_step, Some(FirstStep::Exchange)) && self.unacked_since().is_none()
    }
}
