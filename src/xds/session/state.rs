//! The state of one type of one stream: subscription, sent set, owed responses.
//!
//! What the client has is the set it was last brought to (shared with everyone who stands there), restricted to what it
//! asked for, with short lists of exceptions: in `work` what is owed (asked for, not yet answered) and held (gone, not
//! yet removed), and `nacks`. What is to be sent is the shared difference between that set and the current one, and
//! what is owed. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fleet::Variant;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::trace::Trace;
use crate::snapshot::version::SetVersion;
use crate::xds::session::client_features::ClientFeatures;
use crate::xds::session::nack::nacks::Nacks;
use crate::xds::session::order::{Barrier, HeldRemoval};
use crate::xds::session::state::content::Content;
use crate::xds::session::steps::FirstStep;
use crate::xds::session::subscription::names::{Interner, Names};
use crate::xds::session::subscription::{Asked, Subscription};
use crate::xds::session::warming::{Deferral, Unwarm, WARM_MAX};
use crate::xds::session::wire::reported::Reported;

pub(in crate::xds) mod builder;
pub(in crate::xds) mod content;

mod advance;
mod answered;
mod draft;
mod pending;
mod sotw;
mod ttl;

use pending::{Owed, Pending, PendingWork};

/// A response without ACK or NACK.
#[derive(Debug)]
pub(in crate::xds) struct Unacked {
    pub(in crate::xds) sequence: u64,
    pub(in crate::xds) version: SetVersion,
    pub(in crate::xds) content: Content,
    /// When what it carries was published, if it carries a publish and nothing else.
    pub(in crate::xds) published_at: Option<SystemTime>,
    pub(in crate::xds) trace: Option<Trace>,
    /// The set that the client was brought to with it.
    pub(in crate::xds) set: Option<Arc<ResourceSet>>,
    pub(in crate::xds) sent_at: Instant,
}

/// What a type's next response is made of.
#[derive(Debug)]
pub(in crate::xds) struct Draft {
    pub(in crate::xds) content: Content,
    pub(in crate::xds) version: SetVersion,
    /// It carries a publish and nothing that was asked for.
    pub(in crate::xds) published: bool,
    /// Resources that are new or changed for the client: what they warm is sent after them.
    pub(in crate::xds) changed: Changed,
}

/// Which resources of a draft the client did not have as they are.
#[derive(Debug)]
pub(in crate::xds) enum Changed {
    /// Perhaps all of them.
    All,
    /// These.
    Some(Vec<Arc<Resource>>),
}

/// What a draft is made from.
#[derive(Debug, Clone, Copy)]
pub(in crate::xds) struct Target<'a> {
    pub(in crate::xds) set: &'a Arc<ResourceSet>,
    pub(in crate::xds) variant: Variant,
    /// Whether anything that refers to this type was asked for on this stream, so that removals wait.
    pub(in crate::xds) referred: bool,
    /// The snapshot may move nobody backwards, and the client reported versions (docs/decisions/008).
    pub(in crate::xds) cautious: bool,
    /// Clusters that the client may not have warmed yet, for a type that may name clusters.
    pub(in crate::xds) unwarm: Option<&'a Unwarm>,
    pub(in crate::xds) features: ClientFeatures,
    /// The client is stuck with a cluster that it cannot build: what it may be stuck with goes at once (AD-13).
    pub(in crate::xds) stuck: bool,
}

/// One type of one stream.
#[derive(Debug)]
pub(in crate::xds) struct State {
    pub(in crate::xds) resource_type: ResourceType,
    pub(in crate::xds) subscription: Subscription,
    /// Owed responses and waits; allocated only while there are any.
    pub(in crate::xds) work: Pending,
    /// The set the client was brought to; `None`: it was not answered yet.
    base: Option<Arc<ResourceSet>>,
    /// That set as of the last answer, and as of the last ACK.
    answered_set: Option<Arc<ResourceSet>>,
    acked_set: Option<Arc<ResourceSet>>,
    /// What was asked for then and is still: only what of the set the client was told, and keeps, can be gone.
    base_subscription: Subscription,
    /// Beside it: endpoints that followed their cluster before they were asked for.
    pushed: BTreeSet<Arc<str>>,
    /// VHDS: what a route configuration has is asked for, because the first request named nothing (DX-30), or is that
    /// of a client which had it before.
    by_route_config: bool,
    /// Sum over the named resources, and whether it must be counted anew.
    named: SetVersion,
    recount: bool,
    /// The client was brought to a set on the way to another ([`steps`](super::steps)).
    pub(in crate::xds) first_step: Option<FirstStep>,
    /// It was answered from a snapshot that is not stale.
    settled: bool,
    unacked: VecDeque<Unacked>,
    nacks: Nacks,
    /// Sequences of responses: the last sent, the last that was answered either way.
    pub(in crate::xds) sent: u64,
    answered: u64,
    /// And the last that was accepted.
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
            settled: false,
            unacked: VecDeque::new(),
            nacks: Nacks::default(),
            sent: 0,
            answered: 0,
            acknowledged: 0,
            sent_at: None,
        }
    }

    /// Whether a response must carry everything that is asked for, because what is left out is removed.
    pub(in crate::xds) fn is_full_state(&self, variant: Variant) -> bool {
        variant == Variant::Sotw && crate::xds::session::subscription::knows_wildcard(self.resource_type)
    }

    /// Whether it was asked for and not answered yet, because the snapshot may move nobody backwards.
    pub(in crate::xds) fn is_withheld(&self) -> bool {
        self.base.is_none()
    }

    /// Whether its first answer is still to come and goes to a client that has something from another stream.
    pub(in crate::xds) fn is_returning(&self) -> bool {
        self.base.is_none() && !matches!(self.work.pending().reported, Reported::Nothing)
    }

    /// The names, where nothing can change for the client but resources that have them.
    pub(in crate::xds) fn by_name(&self) -> Option<&Names> {
        self.subscription.by_name().filter(|_| self.pushed.is_empty())
    }

    /// Whether it is owed nothing and waits for nothing: until a request or another set comes it has nothing to say.
    pub(in crate::xds) fn is_idle(&self) -> bool {
        self.settled && self.base.is_some() && self.work.is_none() && self.first_step.is_none()
    }

    /// Something that may refer to the type is asked for only now: what it has to say is awaited, too.
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

    /// Whether a removal waits and does not know yet what for. What a stale snapshot would remove waits for a better
    /// one.
    pub(in crate::xds) fn has_removals_to_raise(&self) -> bool {
        self.settled && self.work.pending().holds.iter().any(|hold| hold.barriers.is_none())
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

    /// A request asked for more, or for less.
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
            // The wildcard was asked for and given up before it was answered.
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

    /// Send these again, changed or not, as far as they are asked for and there.
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

    /// The first request: all that it asks for is owed.
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

    /// VHDS: whether it follows the route configurations that the client has.
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

    /// The client waits for a resource of this type, though it may have it and does not ask (AD-03, AD-05, DX-30).
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

    // ---- what others wait for ----

    /// For a type that others name: what was sent of it and is not answered. Where all is answered the two sets may
    /// differ still, in what was gone for a while and not removed.
    /// `resolving`: clusters that count as not answered, whatever the client says. `endpoints`: what there is of these.
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
        // Routes that use what was just taken away work no longer: new ones must not wait.
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

    // ---- removals that wait ----

    /// The resource of that name whose removal waits.
    fn held(&self, name: &str) -> Option<&Arc<Resource>> {
        self.work
            .pending()
            .holds
            .iter()
            .flat_map(|hold| &hold.resources)
            .find(|resource| *resource.name == *name)
    }

    /// A held resource is there again, or its removal is answered otherwise.
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

    /// A change that waits for clusters is answered otherwise.
    fn undefer(&mut self, name: &str) -> Option<Deferral> {
        self.work.some()?.deferrals.take(name)
    }

    // ---- the version of what is named ----

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

    /// SotW: the version of what is asked for by name and exists.
    fn named_version(&mut self, set: &ResourceSet) -> SetVersion {
        if std::mem::take(&mut self.recount) {
            let named = self.subscription.named(set).into_iter();
            self.named = named.fold(SetVersion::default(), |sum, resource| {
                sum.with(SetVersion::of(resource))
            });
        }
        self.named
    }

    /// Holds for which `over` holds end: their removals are owed now. Gives whether there are any.
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
