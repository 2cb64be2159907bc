//! What refers to a new cluster waits until the client has warmed it.
//!
//! Envoy answers 503 for a cluster that is still warming (its hosts are resolved, or checked for the first time), and
//! withholds the ACK of the CDS response that brought it until nothing warms any more (conformance.md F-04). So that ACK says when
//! traffic may be sent there. A changed resource that names a cluster which it did not name before is kept back until
//! the clusters' response is answered, one way or the other, or [`WARM_MAX`] has passed: a cluster whose ACK never comes
//! holds up nobody for longer. Nothing else waits: not what was asked for, not a first answer, not what needs no
//! new cluster, not endpoints. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::subscription::Subscription;
use crate::resource::{Resource, parts};
use crate::snapshot::changes::Changes;
use crate::snapshot::set::ResourceSet;

/// How long a change waits for the clusters that it needs (conformance.md SW-28).
pub(super) const WARM_MAX: Duration = Duration::from_secs(5);

/// What a client was sent of clusters, and how far it has answered. There is none while it has answered everything.
#[derive(Debug)]
pub(super) struct Unwarm {
    pub(super) sent: Arc<ResourceSet>,
    pub(super) answered: Arc<ResourceSet>,
    pub(super) subscription: Subscription,
    pub(super) now: Instant,
}

impl Unwarm {
    /// Whether the client was sent this cluster, or this text of it, and has not said what it made of it.
    pub(super) fn has(&self, cluster: &str) -> bool {
        let sent = self.sent.get(cluster).filter(|resource| self.subscription.covers(resource));
        sent.is_some_and(|sent| self.answered.get(cluster).is_none_or(|answered| answered.version != sent.version))
    }
}

/// A change that is kept back.
#[derive(Debug)]
pub(super) struct Deferral {
    /// What the client has.
    pub(super) was: Arc<Resource>,
    /// The clusters that are not warm.
    needs: Vec<Arc<str>>,
    since: Instant,
}

impl Deferral {
    /// Keep back the change of a resource from `was` to `is`, if it needs to be. `earlier`: when a change of it was first.
    pub(super) fn of(
        unwarm: &Unwarm,
        changes: &Changes,
        was: &Arc<Resource>,
        is: &Resource,
        earlier: Option<Instant>,
    ) -> Option<Self> {
        let since = earlier.unwrap_or(unwarm.now);
        if unwarm.now >= since + WARM_MAX {
            return None;
        }
        let cold = |named: &[Arc<str>]| named.iter().filter(|name| unwarm.has(name)).cloned().collect::<Vec<_>>();
        // What was kept back before is not what the two sets differ by.
        let needs = if earlier.is_some() {
            cold(&parts::newly_named(was, is))
        } else {
            let named = changes.newly_named();
            let found = named.binary_search_by(|(name, _)| (**name).cmp(&is.name)).ok();
            found.map(|found| cold(&named[found].1)).unwrap_or_default()
        };
        (!needs.is_empty()).then(|| Self { was: Arc::clone(was), needs, since })
    }

    /// When it is over at the latest.
    pub(super) fn deadline(&self) -> Instant {
        self.since + WARM_MAX
    }

    /// Since when a change of the resource waits.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether it is over.
    pub(super) fn is_over(&self, unwarm: Option<&Unwarm>) -> bool {
        unwarm.is_none_or(|unwarm| unwarm.now >= self.deadline() || !self.needs.iter().any(|name| unwarm.has(name)))
    }
}
