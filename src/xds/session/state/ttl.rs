//! Resources that a client forgets unless it hears of them again: when that is, and whether their bodies must be
//! repeated.
//!
//! Only clusters and listeners have a time to live (docs/xds-rules.md SW-30), and only where a document says so; a type
//! of a stream without any has none of this. A body may be left out of a delta response when this very version was
//! acknowledged on the stream and nothing that carried it was refused since (DX-19). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{State, Target};
use crate::fleet::Variant;
use crate::resource::{Resource, ResourceVersion};
use crate::snapshot::set::ResourceSet;
use crate::xds::session::state::builder::ResponseBuilder;
use crate::xds::session::state::content::Content;

/// How often a client hears of a resource within its time to live: one message may be late.
const TIMES: u32 = 3;
/// The shortest distance between two refreshes.
const DISTANCE_MIN: Duration = Duration::from_millis(50);

/// The refreshes of one type of one stream.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    next_at: Option<Instant>,
    /// What was acknowledged, of what has a time to live.
    acknowledged: BTreeMap<Arc<str>, ResourceVersion>,
}

impl Refresh {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|at| at <= now)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_at
    }

    /// The shortest time to live is `ttl`: the next refresh is due in time for it, or sooner if it was.
    pub(super) fn schedule(&mut self, ttl: Duration, now: Instant) {
        let next = now + (ttl / TIMES).max(DISTANCE_MIN);
        self.next_at = Some(self.next_at.filter(|at| *at > now).map_or(next, |at| at.min(next)));
    }

    /// Forget what has no time to live any more.
    pub(super) fn keep(&mut self, kept: impl Fn(&str) -> bool) {
        self.acknowledged.retain(|name, _| kept(name));
    }

    /// Whether the client is known to have the resource as it is.
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
    /// What the client has that has a time to live, what is held or kept back included.
    fn timed<'a>(&'a self, set: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<Resource>> {
        let covered = set.timed().filter(|resource| self.subscription.covers(resource));
        let has = covered.map(|resource| self.work.pending().deferrals.kept(&resource.name).unwrap_or(resource));
        has.chain(self.work.pending().holds.iter().flat_map(|hold| &hold.resources))
            .filter(|resource| resource.ttl.is_some())
    }

    /// Delta: it is repeated, with its body where the client is not known to have it as it is, refused or not (DX-19).
    pub(super) fn repeat(&self, set: &ResourceSet, builder: &mut ResponseBuilder) -> Vec<Arc<Resource>> {
        let told = |resource: &&Arc<Resource>| builder.carries(resource) || builder.removed.contains(&resource.name);
        let repeated = self.timed(set).filter(|resource| !told(resource)).cloned();
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

    /// When it is due the next time. To SotW clients a time to live is told only in wrappers.
    pub(super) fn schedule(&mut self, target: Target<'_>, now: Instant) {
        let told = self.resource_type.knows_ttl() && (target.variant == Variant::Delta || target.features.wrappers);
        let shortest = self
            .timed(target.set)
            .filter(|_| told)
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

    /// When something must be repeated although nothing happened.
    pub(in crate::xds) fn refresh_at(&self) -> Option<Instant> {
        self.work.pending().refresh.as_ref()?.deadline()
    }
}
