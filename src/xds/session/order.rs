//! Make before break: the order of types, and held removals.
//!
//! Types are sent in the order of [`ResourceType::ALL`], in one flush: a resource before the resources that refer to
//! it. Additions do not wait here (`warming` has the one exception). Removals wait: a removed cluster stays with the
//! proxy (SotW: in its set; delta: not removed) until the proxy has sent an ACK for every response that no longer
//! refers to the cluster. A [`HeldRemoval`] is a removal that waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::resource::{Resource, ResourceType};

/// The longest wait of a removal for a proxy that sends neither ACK nor NACK. After a NACK the wait has no bound: the
/// proxy uses the old configuration.
pub(in crate::xds) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The types that may refer to resources of a type. Removals of the type wait for ACKs of these. Acyclic.
pub(in crate::xds) fn referrers(resource_type: ResourceType) -> &'static [ResourceType] {
    use ResourceType::{Cluster, ExtensionConfig, Listener, Route, ScopedRoute, VirtualHost};
    match resource_type {
        Cluster => &[ExtensionConfig, Listener, ScopedRoute, Route, VirtualHost],
        ResourceType::Endpoint => &[Cluster],
        ResourceType::Secret => &[Cluster, Listener],
        ExtensionConfig => &[Listener, Route, VirtualHost],
        Route => &[Listener, ScopedRoute],
        ResourceType::Runtime | Listener | ScopedRoute | VirtualHost => &[],
    }
}

/// The types in the order of [`ResourceType::ALL`], extensions behind the routes that no longer name a part of them.
pub(in crate::xds) const EXTENSIONS_LAST: [ResourceType; ResourceType::COUNT] = [
    ResourceType::Runtime,
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Secret,
    ResourceType::Listener,
    ResourceType::ScopedRoute,
    ResourceType::Route,
    ResourceType::VirtualHost,
    ResourceType::ExtensionConfig,
];

/// The types whose resources make Envoy wait for other resources.
pub(in crate::xds) fn is_awaiting(resource_type: ResourceType) -> bool {
    matches!(
        resource_type,
        ResourceType::Cluster | ResourceType::Listener | ResourceType::Route
    )
}

/// One response of a referring type, whose ACK or NACK is awaited.
#[derive(Debug, Clone, Copy)]
pub(in crate::xds) struct Barrier {
    pub(in crate::xds) resource_type: ResourceType,
    /// The last response of the type at the moment when every owed response had been sent.
    pub(in crate::xds) sequence: u64,
    /// When it was sent.
    pub(in crate::xds) sent_at: Instant,
}

/// Removed resources that the proxy still has.
#[derive(Debug)]
pub(in crate::xds) struct HeldRemoval {
    pub(in crate::xds) resources: Vec<Arc<Resource>>,
    /// The awaited responses. `None`: some response that was owed at the removal is not sent yet.
    pub(in crate::xds) barriers: Option<Vec<Barrier>>,
}

/// The state of a referring type against a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) enum BarrierState {
    /// ACKed, and no NACKed resource is left.
    Passed,
    /// NACKed, and no later response with the same resources was ACKed.
    Nacked,
    /// No ACK or NACK yet. `Some`: the silence began at this moment, not with the barrier's response. This happens
    /// after a NACK whose resources were replaced by a later response.
    Silent(Option<Instant>),
}

impl Barrier {
    /// The end of the wait for a silent client.
    fn end(&self, since: Option<Instant>) -> Instant {
        since.unwrap_or(self.sent_at) + SILENCE_MAX
    }
}

impl HeldRemoval {
    /// Whether the removal may be sent now.
    pub(in crate::xds) fn is_over(&self, now: Instant, state_of: impl Fn(&Barrier) -> BarrierState) -> bool {
        self.barriers.as_ref().is_some_and(|barriers| {
            barriers.iter().all(|barrier| match state_of(barrier) {
                BarrierState::Passed => true,
                BarrierState::Nacked => false,
                BarrierState::Silent(since) => now >= barrier.end(since),
            })
        })
    }

    /// Whether the removal waits because of a NACK.
    pub(in crate::xds) fn is_nacked(&self, state_of: impl Fn(&Barrier) -> BarrierState) -> bool {
        self.barriers
            .iter()
            .flatten()
            .any(|barrier| state_of(barrier) == BarrierState::Nacked)
    }

    /// The end of the wait if no further ACK or NACK arrives.
    pub(in crate::xds) fn deadline(&self, state_of: impl Fn(&Barrier) -> BarrierState) -> Option<Instant> {
        let mut latest = None;
        for barrier in self.barriers.as_ref()? {
            match state_of(barrier) {
                BarrierState::Passed => {}
                BarrierState::Nacked => return None,
                BarrierState::Silent(since) => latest = latest.max(Some(barrier.end(since))),
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_in_a_circle() {
        fn depth(resource_type: ResourceType, steps: usize) {
            assert!(steps < ResourceType::COUNT, "{resource_type} waits for itself");
            for referrer in referrers(resource_type) {
                depth(*referrer, steps + 1);
            }
        }
        for resource_type in ResourceType::ALL {
            depth(resource_type, 0);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; only distances matter")]
    fn silence_is_bounded_and_refusal_is_not() {
        let start = Instant::now();
        let barrier = Barrier {
            resource_type: ResourceType::Route,
            sequence: 1,
            sent_at: start,
        };
        let hold = HeldRemoval {
            resources: Vec::new(),
            barriers: Some(vec![barrier]),
        };
        let over = |after, state| hold.is_over(start + Duration::from_secs(after), |_| state);
        assert!(over(0, BarrierState::Passed));
        assert!(!over(59, BarrierState::Silent(None)) && over(60, BarrierState::Silent(None)));
        let later = BarrierState::Silent(Some(start + Duration::from_secs(7)));
        assert!(!over(66, later) && over(67, later));
        assert!(!over(3600, BarrierState::Nacked));
        assert_eq!(hold.deadline(|_| BarrierState::Silent(None)), Some(start + SILENCE_MAX));
        assert_eq!(hold.deadline(|_| later), Some(start + Duration::from_secs(67)));
        assert_eq!(hold.deadline(|_| BarrierState::Nacked), None);
    }
}
