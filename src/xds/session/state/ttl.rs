//! Repeats resources with a time to live, which a client forgets unless it gets them again.
//!
//! Only clusters and listeners have a time to live (docs/xds-rules.md SW-30), if a document sets one. A delta response
//! may leave out the body if this version was ACKed on the stream and no response with it was NACKed since (DX-19).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{State, Target};
use crate::fleet::Variant;
use crate::resource::{Resource, ResourceVersion};
use crate::snapshot::set::ResourceSet;
use crate::xds::session::state::builder::ResponseBuilder;
use crate::xds::session::state::content::Content;

/// The responses with a resource within its time to live: one may be late.
const TIMES: u32 = 3;
/// The shortest distance between two refreshes.
const DISTANCE_MIN: Duration = Duration::from_millis(50);

/// The refreshes of one type of one stream.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    next_at: Option<Instant>,
    /// The ACKed versions of resources with a time to live.
    acknowledged: BTreeMap<Arc<str>, ResourceVersion>,
}

impl Refresh {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|at| at <= now)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_at
    }

    /// Set the next repetition for the shortest time to live. An earlier one stays.
    pub(super) fn schedule(&mut self, ttl: Duration, now: Instant) {
        let next = now + (ttl / TIMES).max(DISTANCE_MIN);
        self.next_at = Some(self.next_at.filter(|at| *at > now).map_or(next, |at| at.min(next)));
    }

    /// Forget resources without a time to live.
    pub(super) fn keep(&mut self, kept: impl Fn(&str) -> bool) {
        self.acknowledged.retain(|name, _| kept(name));
    }

    /// Whether the client ACKed this version of the resource.
    pub(super) fn knows(&self, resource: &Resource) -> bool {
        self.acknowledged.get(&resource.name) == Some(&resource.version)
    }

    pub(super) fn on_ack(&mut self, content: &Content, resource: &Resource) {
        if content.has(&resource.name, resource.version) {
            self.acknowledged.insert(Arc::clone(&resource.name), resource.version);
        }
    }

    pub(super) fn on_nack(&mut self, content: &Content) {
        let refused =
            |name: &str| content.resource(name).is_some() || content.bodiless.iter().any(|one| *one.name == *name);
        self.acknowledged.retain(|name, _| !refused(name));
    }
}

impl State {
    /// The client's resources with a time to live, those with held removals and deferred changes included.
    fn timed<'a>(&'a self, set: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<Resource>> {
        let covered = set.timed().filter(|resource| self.subscription.covers(resource));
        let has = covered.map(|resource| self.work.pending().deferrals.kept(&resource.name).unwrap_or(resource));
        has.chain(self.work.pending().holds.iter().flat_map(|hold| &hold.resources))
            .filter(|resource| resource.ttl.is_some())
    }

    /// Delta: the resources to repeat with a body, because their version has no ACK. All others go without (DX-19).
    pub(super) fn repeat(&self, set: &ResourceSet, builder: &mut ResponseBuilder) -> Vec<Arc<Resource>> {
        let is_carried =
            |resource: &&Arc<Resource>| builder.carries(resource) || builder.removed.contains(&resource.name);
        let repeated = self.timed(set).filter(|resource| !is_carried(resource)).cloned();
        let (known, unknown) = repeated.partition(|resource| {
            self.work
                .pending()
                .refresh
                .as_ref()
                .is_some_and(|refresh| refresh.knows(resource))
        });
        builder.bodiless = known;
        unknown
    }

    /// Set the next repetition. In SotW only wrappers carry a time to live.
    pub(super) fn schedule(&mut self, target: Target<'_>, now: Instant) {
        let repeats = self.resource_type.knows_ttl() && (target.variant == Variant::Delta || target.features.wrappers);
        let shortest = self
            .timed(target.set)
            .filter(|_| repeats)
            .filter_map(|resource| resource.ttl)
            .min();
        let Some(shortest) = shortest else {
            self.work.take(|work| &mut work.refresh);
            return;
        };
        let mut refresh = self.work.take(|work| &mut work.refresh).unwrap_or_default();
        refresh.schedule(shortest, now);
        refresh.keep(|name| target.set.get(name).is_some() || self.held(name).is_some());
        self.work.pending_mut().refresh = Some(refresh);
    }

    /// The next moment of a repetition.
    pub(in crate::xds) fn refresh_at(&self) -> Option<Instant> {
        self.work.pending().refresh.as_ref()?.deadline()
    }
}
