//! The state of one type of one stream: subscription, sent set, owed responses.
//!
//! The client has the set that it was last brought to (shared between all streams at that set), restricted to its
//! subscription. Short lists hold the exceptions: `work` has owed responses and held removals, `nacks` the NACKed
//! resources. The next response is the shared difference between that set and the current one, plus the owed resources.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fleet::Variant;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::steps::Mark;
use crate::snapshot::trace::Trace;
use crate::snapshot::version::SetVersion;
use crate::xds::session::client_features::ClientFeatures;
use crate::xds::session::nack::nacks::Nacks;
use crate::xds::session::order::{Barrier, HeldRemoval};
use crate::xds::session::state::content::Content;
use crate::xds::session::subscription::names::{Interner, Names};
use crate::xds::session::subscription::{Asked, Subscription};
use crate::xds::session::warming::{Deferral, Unwarm, WARM_MAX};
use crate::xds::session::wire::reported::Reported;

pub(in crate::xds) mod builder;
pub(in crate::xds) mod content;
pub(in crate::xds) mod first_step;

mod advance;
mod answered;
mod draft;
mod pending;
mod sotw;
mod ttl;

use first_step::FirstStep;
use pending::{Owed, Pending, PendingWork};

/// A response without ACK or NACK.
#[derive(Debug)]
pub(in crate::xds) struct Unacked {
    pub(in crate::xds) sequence: u64,
    pub(in crate::xds) version: SetVersion,
    pub(in crate::xds) content: Content,
    /// The time of the publish that the response carries; `None`: it carries also something else.
    pub(in crate::xds) published_at: Option<SystemTime>,
    pub(in crate::xds) trace: Option<Trace>,
    /// The changes up to which an ACK brings the type.
    pub(in crate::xds) mark: Mark,
    /// The set that the client was brought to by this response.
    pub(in crate::xds) set: Option<Arc<ResourceSet>>,
    pub(in crate::xds) sent_at: Instant,
}

/// The next response of a type.
#[derive(Debug)]
pub(in crate::xds) struct Draft {
    pub(in crate::xds) content: Content,
    pub(in crate::xds) version: SetVersion,
    /// Whether the response carries a publish and no answer to a subscription.
    pub(in crate::xds) published: bool,
    /// New or changed resources: the resources that they warm are sent next.
    pub(in crate::xds) changed: Changed,
}

/// The resources of a draft that are new or changed for the client.
#[derive(Debug)]
pub(in crate::xds) enum Changed {
    /// Perhaps all of them.
    All,
    /// These.
    Some(Vec<Arc<Resource>>),
}

/// The input of a draft.
#[derive(Debug, Clone, Copy)]
pub(in crate::xds) struct Target<'a> {
    pub(in crate::xds) set: &'a Arc<ResourceSet>,
    pub(in crate::xds) variant: Variant,
    /// Whether the client subscribed to any type that refers to this one, so that removals wait.
    pub(in crate::xds) referred: bool,
    /// Whether the snapshot may move no client backwards, and the client reported versions (docs/decisions/008).
    pub(in crate::xds) cautious: bool,
    /// The clusters without ACK or NACK, for a type that may name clusters.
    pub(in crate::xds) unwarm: Option<&'a Unwarm>,
    pub(in crate::xds) features: ClientFeatures,
    /// Whether the client is stuck with a cluster: removals of clusters that may be the cause do not wait (AD-13).
    pub(in crate::xds) stuck: bool,
}

/// One type of one stream.
#[derive(Debug)]
pub(in crate::xds) struct State {
    pub(in crate::xds) resource_type: ResourceType,
    pub(in crate::xds) subscription: Subscription,
    /// Owed responses and waits; allocated only while there are any.
    pub(in crate::xds) work: Pending,
    /// The set that the client was brought to; `None`: no response was sent.
    base: Option<Arc<ResourceSet>>,
    /// That set at the last ACK or NACK, and at the last ACK.
    answered_set: Option<Arc<ResourceSet>>,
    acked_set: Option<Arc<ResourceSet>>,
    /// The part of the subscription that existed at `base`: only resources that it covers can be removed from the
    /// client.
    base_subscription: Subscription,
    /// Endpoints that were pushed after their cluster and are not subscribed.
    pushed: BTreeSet<Arc<str>>,
    /// VHDS: the virtual hosts of route configurations are subscribed implicitly: the first request named none (DX-30),
    /// or reported some.
    by_route_config: bool,
    /// The sum over the named resources, and whether it must be computed again.
    named: SetVersion,
    recount: bool,
    /// The client was brought to a set on the way to another ([`steps`](super::steps)).
    pub(in crate::xds) first_step: Option<FirstStep>,
    /// A response from a snapshot that was not stale was sent.
    sent_fresh: bool,
    unacked: VecDeque<Unacked>,
    nacks: Nacks,
    /// Sequences of responses: the last one sent, the last one with an ACK or NACK.
    pub(in crate::xds) sent: u64,
    answered: u64,
    /// The last one with an ACK.
    acknowledged: u64,
    pub(in crate::xds) sent_at: Option<Instant>,
}

impl State {
    pub(in crate::xds) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            subscription: Subscription::default(),
            work: Pending::default(),
            base: None,
            answered_set: None,
            acked_set: None,
            base_subscription: Subscription::default(),
            pushed: BTreeSet::new(),
            by_route_config: false,
            named: SetVersion::default(),
            recount: true,
            first_step: None,
            sent_fresh: false,
            unacked: VecDeque::new(),
            nacks: Nacks::default(),
            sent: 0,
            answered: 0,
            acknowledged: 0,
            sent_at: None,
        }
    }

    /// Whether a response must carry every subscribed resource, because the client removes all others.
    pub(in crate::xds) fn is_full_state(&self, variant: Variant) -> bool {
        variant == Variant::Sotw && crate::xds::session::subscription::knows_wildcard(self.resource_type)
    }

    /// Whether the first response is withheld, because the snapshot may move no client backwards.
    pub(in crate::xds) fn is_withheld(&self) -> bool {
        self.base.is_none()
    }

    /// Whether the first response is owed to a client that has resources from another stream.
    pub(in crate::xds) fn is_returning(&self) -> bool {
        self.base.is_none() && !matches!(self.work.pending().reported, Reported::Nothing)
    }

    /// The names, if the subscription has nothing else and nothing was pushed.
    pub(in crate::xds) fn by_name(&self) -> Option<&Names> {
        self.subscription.by_name().filter(|_| self.pushed.is_empty())
    }

    /// Whether no response is owed and nothing waits: only a request or another set can make a response due.
    pub(in crate::xds) fn is_idle(&self) -> bool {
        self.sent_fresh && self.base.is_some() && self.work.is_none() && self.first_step.is_none()
    }

    /// Whether removals are owed whose wait is over.
    pub(in crate::xds) fn has_released(&self) -> bool {
        !self.work.pending().released.is_empty()
    }

    /// Whether a response from a snapshot that was not stale was sent.
    pub(in crate::xds) fn has_sent_fresh(&self) -> bool {
        self.sent_fresh
    }

    /// The client has all up to this mark once it sends an ACK for the last response. `false`: no response is without
    /// ACK or NACK.
    pub(in crate::xds) fn expect(&mut self, mark: Mark) -> bool {
        let last = self.unacked.back_mut();
        last.map(|last| last.mark = mark).is_some()
    }

    /// A type that may refer to this one was subscribed: removals wait for its responses too.
    pub(in crate::xds) fn lower(&mut self) {
        self.work
            .some()
            .into_iter()
            .flat_map(|work| &mut work.holds)
            .for_each(|hold| hold.barriers = None);
        self.retract();
    }

    /// Put removals that are due but not sent back on hold, because a referring type was just subscribed or NACKed.
    pub(in crate::xds) fn retract(&mut self) {
        if !self.work.pending().released.is_empty() {
            let resources = self.work.take(|work| &mut work.released);
            self.work.pending_mut().holds.push(HeldRemoval {
                resources,
                barriers: None,
            });
        }
    }

    /// Whether a held removal has no barriers yet. Removals by a stale snapshot wait for a snapshot that is not stale.
    pub(in crate::xds) fn has_removals_to_raise(&self) -> bool {
        self.sent_fresh && self.work.pending().holds.iter().any(|hold| hold.barriers.is_none())
    }

    /// Every owed response was sent: set the barriers of the held removals.
    pub(in crate::xds) fn raise(&mut self, barriers: &[Barrier]) {
        for hold in self
            .work
            .some()
            .into_iter()
            .flat_map(|work| &mut work.holds)
            .filter(|hold| hold.barriers.is_none())
        {
            hold.barriers = Some(barriers.to_vec());
        }
    }

    /// A held removal of a resource that exists again gets new barriers, unless the resource is sent first.
    pub(in crate::xds) fn keep_what_is_back(&mut self, set: &ResourceSet) {
        let Some(PendingWork { holds, released, .. }) = self.work.some() else {
            return;
        };
        let is_back = |resource: &mut Arc<Resource>| set.get(&resource.name).is_some();
        let held = holds.iter_mut().flat_map(|hold| hold.resources.extract_if(.., is_back));
        let back: Vec<_> = held.chain(released.extract_if(.., is_back)).collect();
        if !back.is_empty() {
            holds.push(HeldRemoval {
                resources: back,
                barriers: None,
            });
        }
    }

    /// The subscription grew or shrank.
    pub(in crate::xds) fn ask(&mut self, asked: Asked, interner: &Interner) {
        if asked.changed {
            self.recount = true;
            if let Some(base) = &self.base {
                self.base_subscription.narrow(&self.subscription, base, interner);
            }
            self.forget_unasked();
        }
        if asked.wildcard || asked.all_names || !asked.names.is_empty() {
            let Self { subscription, work, .. } = self;
            let owed = &mut work.pending_mut().owed;
            owed.all |= asked.wildcard;
            owed.names.extend(asked.names);
            owed.names
                .extend(subscription.names.iter().filter(|_| asked.all_names).cloned());
        }
    }

    /// Drop pending work for resources that are no longer subscribed.
    fn forget_unasked(&mut self) {
        let Self {
            subscription,
            base,
            work,
            resource_type,
            ..
        } = self;

        let Some(PendingWork {
            reported,
            holds,
            deferrals,
            released,
            owed,
            warming,
            ..
        }) = work.some()
        else {
            return;
        };

        for hold in holds {
            hold.resources.retain(|resource| subscription.covers(resource));
        }
        deferrals.retain(|resource| subscription.covers(resource));
        released.retain(|resource| subscription.covers(resource));
        if let Reported::Versions(versions) = reported
            && crate::xds::session::subscription::knows_wildcard(*resource_type)
            && !subscription.wildcard
            && !subscription.has_globs()
        {
            versions.retain(|name| subscription.names.contains(name));
        }
        if !subscription.wildcard {
            // The wildcard was subscribed and unsubscribed before the first response.
            owed.all &= base.is_none();
            owed.names.retain(|name| subscription.names.contains(name));
            warming.retain(|name| subscription.names.contains(name));
        }
    }

    /// Whether every owed response was sent and has an ACK or NACK.
    pub(in crate::xds) fn is_answered(&self) -> bool {
        let work = self.work.pending();
        let sent_all = work.owed.is_empty() && work.warming.is_empty();
        self.base.is_some() && sent_all && self.unacked.is_empty()
    }

    /// The set that the client was brought to.
    pub(in crate::xds) fn base(&self) -> Option<&Arc<ResourceSet>> {
        self.base.as_ref()
    }

    /// Owe these resources, changed or not, if they exist and are subscribed.
    pub(in crate::xds) fn owe(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        let Some(base) = &self.base else { return };
        let is_asked = |name: &Arc<str>| {
            base.get(name)
                .is_some_and(|resource| self.subscription.covers(resource))
        };
        let names: Vec<_> = names.into_iter().filter(is_asked).collect();
        if !names.is_empty() {
            self.work.pending_mut().owed.names.extend(names);
        }
    }

    /// The first request: every subscribed resource is owed.
    pub(in crate::xds) fn begin(&mut self, asked: Asked, interner: &Interner) {
        let reported = matches!(self.work.pending().reported, Reported::Versions(_));
        let nameless = asked.names.is_empty() && !asked.all_names;
        self.by_route_config = self.resource_type == ResourceType::VirtualHost && (nameless || reported);
        self.ask(
            Asked {
                names: Vec::new(),
                all_names: false,
                ..asked
            },
            interner,
        );
        self.work.pending_mut().owed.all = true;
    }

    /// VHDS: whether the virtual hosts of the client's route configurations are subscribed implicitly.
    pub(in crate::xds) fn is_by_route_config(&self) -> bool {
        self.by_route_config
    }

    /// The client asks for withheld resources.
    pub(in crate::xds) fn ask_again(&mut self) {
        let Self { subscription, work, .. } = self;
        let Some(PendingWork {
            nacked_warming, owed, ..
        }) = work.some()
        else {
            return;
        };
        owed.names.extend(
            std::mem::take(nacked_warming)
                .into_iter()
                .filter(|name| subscription.names.contains(name)),
        );
    }

    /// The client waits for a resource of this type, perhaps without a request (AD-03, AD-05, DX-30).
    pub(in crate::xds) fn follow(&mut self, name: &Arc<str>) {
        match self.resource_type {
            ResourceType::VirtualHost if self.by_route_config => {
                self.work.pending_mut().owed.route_configs.insert(Arc::clone(name));
            }
            ResourceType::VirtualHost => {}
            ResourceType::Endpoint => {
                self.work.pending_mut().warming.insert(Arc::clone(name));
            }
            _ if self.subscription.names.contains(name) => {
                self.work.pending_mut().warming.insert(Arc::clone(name));
            }
            _ => {}
        }
    }

    // ---- the type as others see it ----

    /// The clusters (or other referred resources) that were sent and have no ACK or NACK. The two sets may differ even
    /// if every response has an answer: in resources that vanished and came back before their removal was sent.
    /// `resolving`: clusters that count as unanswered despite an ACK. `endpoints`: the state of endpoints.
    pub(in crate::xds) fn unwarm(
        &self,
        now: Instant,
        resolving: Vec<Arc<str>>,
        endpoints: Option<&Self>,
    ) -> Option<Unwarm> {
        if self.unacked.is_empty() && resolving.is_empty() {
            return None;
        }
        let (sent, answered) = (self.base.as_ref()?, self.answered_set.as_ref()?);
        // The last responses may have removed a cluster that old routes use: the new routes must not wait.
        let keeps_all = self.unacked.iter().all(|unacked| unacked.content.removed.is_empty());
        let differ = !Arc::ptr_eq(sent, answered) || !resolving.is_empty();
        differ.then(|| Unwarm {
            sent: Arc::clone(sent),
            answered: Arc::clone(answered),
            subscription: self.subscription.clone(),
            given_up: self.given_up(now).cloned(),
            resolving,
            assigned: endpoints
                .filter(|endpoints| endpoints.is_answered())
                .map(|endpoints| endpoints.subscription.names.clone()),
            back_until: self.unacked_since().filter(|_| keeps_all).map(|since| since + WARM_MAX),
            now,
        })
    }

    // ---- held removals ----

    /// The resource of that name with a held removal.
    fn held(&self, name: &str) -> Option<&Arc<Resource>> {
        self.work
            .pending()
            .holds
            .iter()
            .flat_map(|hold| &hold.resources)
            .find(|resource| *resource.name == *name)
    }

    /// End the held removal of a resource: the resource exists again, or another response covers it.
    fn unhold(&mut self, name: &str) -> Option<Arc<Resource>> {
        let PendingWork { holds, released, .. } = self.work.some()?;
        for hold in holds {
            if let Some(position) = hold.resources.iter().position(|resource| *resource.name == *name) {
                return Some(hold.resources.swap_remove(position));
            }
        }
        let position = released.iter().position(|resource| *resource.name == *name)?;
        Some(released.swap_remove(position))
    }

    /// End the wait of a deferred change: another response covers the resource.
    fn undefer(&mut self, name: &str) -> Option<Deferral> {
        self.work.some()?.deferrals.take(name)
    }

    // ---- the version of named resources ----

    fn recounted(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) {
        for (resource, added) in [(old, false), (new, true)] {
            if let Some(resource) = resource.filter(|resource| self.subscription.names_it(resource)) {
                let member = SetVersion::of(resource);
                self.named = if added {
                    self.named.with(member)
                } else {
                    self.named.without(member)
                };
            }
        }
    }

    /// SotW: the version of the resources that are subscribed by name and exist.
    fn named_version(&mut self, set: &ResourceSet) -> SetVersion {
        if std::mem::take(&mut self.recount) {
            let named = self.subscription.named(set).into_iter();
            self.named = named.fold(SetVersion::default(), |sum, resource| {
                sum.with(SetVersion::of(resource))
            });
        }
        self.named
    }

    /// End the holds for which `over` holds: their removals are owed now. Gives whether there are any.
    pub(in crate::xds) fn release(&mut self, over: impl Fn(&HeldRemoval) -> bool) -> bool {
        let Some(PendingWork { holds, released, .. }) = self.work.some() else {
            return false;
        };
        let (over, held): (Vec<_>, Vec<_>) = std::mem::take(holds)
            .into_iter()
            .partition(|hold| hold.resources.is_empty() || over(hold));
        *holds = held;
        let before = released.len();
        released.extend(over.into_iter().flat_map(|hold| hold.resources));
        released.len() > before
    }
}
