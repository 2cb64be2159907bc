//! Changes that name a new cluster wait until the client has warmed that cluster.
//!
//! Envoy answers 503 for a cluster that is still warming (its hosts are resolved, or checked for the first time), and
//! withholds the ACK of the CDS response until none of its clusters warms any more (docs/xds-rules.md F-04). The ACK
//! therefore shows when traffic may be sent there. If a changed resource names a cluster that it did not name before,
//! the change is deferred until the CDS response has an ACK or NACK, at most for [`WARM_MAX`], and only once for each
//! cluster (`spared`). Subscriptions, endpoints and changes without a new cluster do not wait.
//!
//! A first response waits in one case only: the client reconnects over delta, reports its clusters, and keeps them all.
//! Its old routes then go on working while the new ones wait for clusters that the client never had. The other cases:
//!
//! - If the first response removes clusters, the client loses them at once (docs/xds-rules.md DX-13): no wait.
//! - The clusters of a SotW client are unknown, so its routes may use a removed one: no wait.
//! - A reconnecting client that has not subscribed to clusters is answered at once: it may never subscribe (F-07).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::resource::compile::parts;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::changes::Changes;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::version::SetVersion;
use crate::xds::session::subscription::Subscription;
use crate::xds::session::subscription::names::Names;

/// The longest wait of a change for the clusters that it needs (docs/xds-rules.md SW-28).
pub(in crate::xds) const WARM_MAX: Duration = Duration::from_secs(5);

/// The clusters sent to a client, and those with an ACK or NACK. `None`: every response has one.
#[derive(Debug)]
pub(in crate::xds) struct Unwarm {
    pub(in crate::xds) sent: Arc<ResourceSet>,
    pub(in crate::xds) answered: Arc<ResourceSet>,
    pub(in crate::xds) subscription: Subscription,
    /// The set sent [`WARM_MAX`] ago without ACK or NACK since. A cluster that used up its wait is not waited for again
    /// until it has an ACK or NACK, or changes.
    pub(in crate::xds) given_up: Option<Arc<ResourceSet>>,
    /// Clusters that are not warm yet although the client sent an ACK.
    pub(in crate::xds) resolving: Vec<Arc<str>>,
    /// The subscribed endpoints, if every response of endpoints has an ACK or NACK. After a wait in vain they say more
    /// than the ACK of clusters: one cold cluster makes Envoy withhold that ACK for all.
    pub(in crate::xds) assigned: Option<Names>,
    /// The end of the wait of a first response to a reconnected client. `None`: the last responses removed clusters.
    pub(in crate::xds) back_until: Option<Instant>,
    pub(in crate::xds) now: Instant,
}

/// The wait for clusters of first responses to a reconnected client.
#[derive(Debug, Default)]
pub(in crate::xds) struct Back {
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Back {
    /// Whether a first response waits. Several clusters, one after the other, share one wait of [`WARM_MAX`].
    pub(in crate::xds) fn waits(&mut self, unwarm: &Unwarm) -> bool {
        let until = unwarm.back_until.filter(|until| unwarm.now < *until);
        let Some(until) = until else { return false };
        let since = *self.since.get_or_insert(unwarm.now);
        self.until = Some(until.min(since + WARM_MAX)).filter(|until| unwarm.now < *until);
        self.until.is_some()
    }

    /// A round through all types begins.
    pub(in crate::xds) fn begin(&mut self) {
        self.until = None;
    }

    /// A round through all types ended. `returning`: whether a first response is still owed.
    pub(in crate::xds) fn end(&mut self, returning: impl FnOnce() -> bool) {
        if self.since.is_some() && !returning() {
            self.since = None;
        }
    }

    pub(in crate::xds) fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

impl Unwarm {
    /// Whether this cluster, or this version of it, was sent and has no ACK or NACK.
    pub(in crate::xds) fn has(&self, cluster: &str) -> bool {
        let sent = self
            .sent
            .get(cluster)
            .filter(|resource| self.subscription.covers(resource));
        let has = |set: &ResourceSet, sent: &Resource| set.get(cluster).is_some_and(|one| one.version == sent.version);
        sent.is_some_and(|sent| {
            let given_up = self
                .given_up
                .as_ref()
                .is_some_and(|set| has(set, sent) || self.is_assigned(sent));
            let resolving = self.resolving.iter().any(|name| **name == *cluster);
            resolving || (!given_up && !has(&self.answered, sent))
        })
    }

    /// Whether a cluster needs only its endpoints to be warm, and the client has them.
    fn is_assigned(&self, cluster: &Resource) -> bool {
        let (Some(assigned), Some(name)) = (&self.assigned, &cluster.warms) else {
            return false;
        };
        let mut refers = cluster.refers.iter().flat_map(|refers| refers.iter());
        cluster.waits.is_none()
            && assigned.contains(name)
            && !refers.any(|reference| reference.resource_type == ResourceType::Secret)
    }
}

/// A deferred change.
#[derive(Debug)]
pub(in crate::xds) struct Deferral {
    /// The resource that the client has.
    pub(in crate::xds) was: Arc<Resource>,
    /// The clusters that are not warm.
    needs: Vec<Arc<str>>,
    since: Instant,
}

impl Deferral {
    /// Defer the change of a resource from `was` to `is` if it must wait. `changes`: the shared difference with this
    /// change; `earlier`: when a change of the resource was first deferred.
    pub(in crate::xds) fn of(
        unwarm: &Unwarm,
        changes: Option<&Arc<Changes>>,
        was: &Arc<Resource>,
        is: &Resource,
        earlier: Option<Instant>,
    ) -> Option<Self> {
        let since = earlier.unwrap_or(unwarm.now);
        if unwarm.now >= since + WARM_MAX {
            return None;
        }
        let cold = |named: &[Arc<str>]| {
            named
                .iter()
                .filter(|name| unwarm.has(name))
                .cloned()
                .collect::<Vec<_>>()
        };

        let needs = if let Some(changes) = changes {
            let named = changes.newly_named();
            let found = named.binary_search_by(|(name, _)| (**name).cmp(&is.name)).ok();
            found.map(|found| cold(&named[found].1)).unwrap_or_default()
        } else {
            cold(&parts::newly_named(was, is))
        };

        (!needs.is_empty()).then(|| Self {
            was: Arc::clone(was),
            needs,
            since,
        })
    }

    /// The latest end of the wait.
    fn deadline(&self) -> Instant {
        self.since + WARM_MAX
    }

    /// When the wait began.
    pub(in crate::xds) fn since(&self) -> Instant {
        self.since
    }

    fn is_over(&self, unwarm: Option<&Unwarm>) -> bool {
        unwarm.is_none_or(|unwarm| unwarm.now >= self.deadline() || !self.needs.iter().any(|name| unwarm.has(name)))
    }
}

/// The deferred changes of one type of one stream; mostly none.
#[derive(Debug, Default)]
pub(in crate::xds) struct Deferrals(Vec<Deferral>);

impl Deferrals {
    pub(in crate::xds) const NONE: Self = Self(Vec::new());

    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::xds) fn push(&mut self, deferral: Deferral) {
        self.0.push(deferral);
    }

    /// Keep the changes of resources that are still subscribed.
    pub(in crate::xds) fn retain(&mut self, asked_for: impl Fn(&Resource) -> bool) {
        self.0.retain(|deferral| asked_for(&deferral.was));
    }

    /// The version of a resource that the client has while its change is deferred.
    pub(in crate::xds) fn kept(&self, name: &str) -> Option<&Arc<Resource>> {
        self.0
            .iter()
            .map(|deferral| &deferral.was)
            .find(|was| *was.name == *name)
    }

    /// Take a deferred change out, because another response covers the resource.
    pub(in crate::xds) fn take(&mut self, name: &str) -> Option<Deferral> {
        let position = self.0.iter().position(|deferral| *deferral.was.name == *name)?;
        Some(self.0.swap_remove(position))
    }

    /// Whether any wait is over.
    pub(in crate::xds) fn any_over(&self, unwarm: Option<&Unwarm>) -> bool {
        self.0.iter().any(|deferral| deferral.is_over(unwarm))
    }

    /// End the waits that are over. Gives the resources to send now.
    pub(in crate::xds) fn end(&mut self, set: &ResourceSet, unwarm: Option<&Unwarm>) -> Vec<Arc<Resource>> {
        let over: Vec<Deferral> = self.0.extract_if(.., |deferral| deferral.is_over(unwarm)).collect();
        let is = |Deferral { was, .. }: &Deferral| set.get(&was.name).filter(|is| is.version != was.version).cloned();
        over.iter().filter_map(is).collect()
    }

    /// The version of the client's set: the sum without the deferred changes.
    pub(in crate::xds) fn without(&self, version: SetVersion, set: &ResourceSet) -> SetVersion {
        self.0
            .iter()
            .fold(version, |sum, Deferral { was, .. }| match set.get(&was.name) {
                Some(is) => sum.without(SetVersion::of(is)).with(SetVersion::of(was)),
                None => sum,
            })
    }

    /// The earliest end of a wait.
    pub(in crate::xds) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(Deferral::deadline).min()
    }
}
