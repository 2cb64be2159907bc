//! One type of one stream: what it asked for, what it was brought to, what is owed.
//!
//! What the client has is the set it was last brought to (shared with everyone who stands there), restricted to what it
//! asked for, with short lists of exceptions: `owed` (asked for, not yet answered), `holds` (gone, not yet removed) and
//! `refusals`. What is to be sent is the shared difference between that set and the current one, and what is owed. Pure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::abilities::Abilities;
use super::blame;
use super::content::{Content, Shared};
use super::found::{Found, empty_assignment, unresolved};
use super::names::Interner;
use super::order::{Barrier, Hold, Standing};
use super::refusals::Refusals;
use super::subscription::{Asked, Subscription};
use super::warming::{Deferral, Deferrals, Unwarm, WARM_MAX};
use crate::document::key::DocumentKey;
use crate::fleet::{Suspect, Variant};
use crate::resource::{Resource, ResourceType, ResourceVersion};
use crate::snapshot::changes::{self, Changes};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::trace::Trace;
use crate::snapshot::version::SetVersion;

mod refresh;
mod sotw;

use refresh::Refresh;

/// Unanswered responses that are remembered. Envoy withholds its ACKs while it warms and sends them in one burst.
const UNANSWERED_MAX: usize = 64;

/// What the client said in its first request that it has.
#[derive(Debug, Default)]
pub(super) enum Reported {
    #[default]
    Nothing,
    /// SotW: `version_info`.
    Version(String),
    /// Delta: `initial_resource_versions`.
    Versions(HashMap<String, String>),
}

/// What is to be answered whether it changed or not.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// All that is asked for.
    pub(super) all: bool,
    /// These names.
    pub(super) names: BTreeSet<Arc<str>>,
    /// VHDS: the virtual hosts of these route configurations.
    pub(super) route_configs: BTreeSet<Arc<str>>,
}

impl Owed {
    fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty() && self.route_configs.is_empty()
    }
}

/// A response that has no answer yet.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) sequence: u64,
    pub(super) version: SetVersion,
    pub(super) content: Content,
    /// When what it carries was published, if it carries a publish and nothing else.
    pub(super) published_at: Option<SystemTime>,
    pub(super) trace: Option<Trace>,
    /// The set that the client was brought to with it.
    pub(super) set: Option<Arc<ResourceSet>>,
    pub(super) sent_at: Instant,
}

/// What a type's next response is made of.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) content: Content,
    pub(super) version: SetVersion,
    /// It carries a publish and nothing that was asked for.
    pub(super) published: bool,
    /// Resources that are new or changed for the client: what they warm is sent after them.
    pub(super) changed: Changed,
}

/// Which resources of a draft the client did not have as they are.
#[derive(Debug)]
pub(super) enum Changed {
    /// Perhaps all of them.
    All,
    /// These.
    Some(Vec<Arc<Resource>>),
}

/// What a draft is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) set: &'a Arc<ResourceSet>,
    pub(super) variant: Variant,
    /// Whether anything that refers to this type was asked for on this stream, so that removals wait.
    pub(super) referred: bool,
    /// The snapshot may move nobody backwards, and the client reported what it has (design.md decision 11).
    pub(super) cautious: bool,
    /// Clusters that the client may not have warmed yet, for a type that may name clusters.
    pub(super) unwarm: Option<&'a Unwarm>,
    pub(super) abilities: Abilities,
    /// The client is stuck with a cluster that it cannot build: what it may be stuck with goes at once (AD-13).
    pub(super) stuck: bool,
}

/// One type of one stream.
#[derive(Debug)]
pub(super) struct State {
    pub(super) resource_type: ResourceType,
    pub(super) subscription: Subscription,
    pub(super) reported: Reported,
    pub(super) owed: Owed,
    pub(super) holds: Vec<Hold>,
    /// Changes that wait until the clusters they need are warm.
    pub(super) deferrals: Deferrals,
    /// Endpoints whose cluster was sent: to be sent after it, asked for or not.
    pub(super) warming: BTreeSet<Arc<str>>,
    /// Of these, the ones that were refused: sent when the client asks again.
    refused_warming: BTreeSet<Arc<str>>,
    /// The set the client was brought to; `None`: it was not answered yet.
    base: Option<Arc<ResourceSet>>,
    /// That set as of the last answer, and as of the last ACK.
    answered_set: Option<Arc<ResourceSet>>,
    acknowledged_set: Option<Arc<ResourceSet>>,
    /// Gone or not, the client may have these: it refused them on its last stream.
    pub(super) recalled: Vec<Arc<str>>,
    /// The first answer had nothing to say, because the client reported to have this.
    pub(super) confirmed: Option<SetVersion>,
    /// What was asked for then and is still: only what of the set the client was told, and keeps, can be gone.
    base_subscription: Subscription,
    /// Beside it: endpoints that followed their cluster before they were asked for.
    pushed: BTreeSet<Arc<str>>,
    /// Holds that are over: their removal is owed.
    released: Vec<Arc<Resource>>,
    /// VHDS: what a route configuration has is asked for, because the first request named nothing (DX-30), or is that of
    /// a client which had it before.
    by_route_config: bool,
    /// What must be repeated, and when; `None`: nothing has a time to live.
    refresh: Option<Box<Refresh>>,
    /// Sum over the named resources, and whether it must be counted anew.
    named: SetVersion,
    recount: bool,
    /// It was answered from a snapshot that is not stale.
    settled: bool,
    unanswered: VecDeque<Unanswered>,
    refusals: Refusals,
    /// Sequences of responses: the last sent, the last that was answered either way.
    pub(super) sent: u64,
    answered: u64,
    /// And the last that was accepted.
    acknowledged: u64,
    pub(super) sent_at: Option<Instant>,
}

impl State {
    pub(super) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            subscription: Subscription::default(),
            reported: Reported::Nothing,
            owed: Owed::default(),
            holds: Vec::new(),
            deferrals: Deferrals::default(),
            warming: BTreeSet::new(),
            refused_warming: BTreeSet::new(),
            base: None,
            answered_set: None,
            acknowledged_set: None,
            recalled: Vec::new(),
            confirmed: None,
            base_subscription: Subscription::default(),
            pushed: BTreeSet::new(),
            released: Vec::new(),
            by_route_config: false,
            refresh: None,
            named: SetVersion::default(),
            recount: true,
            settled: false,
            unanswered: VecDeque::new(),
            refusals: Refusals::default(),
            sent: 0,
            answered: 0,
            acknowledged: 0,
            sent_at: None,
        }
    }

    /// Whether a response must carry everything that is asked for, because what is left out is removed.
    pub(super) fn is_full_state(&self, variant: Variant) -> bool {
        variant == Variant::Sotw && super::subscription::knows_wildcard(self.resource_type)
    }

    /// Whether it was asked for and not answered yet, because the snapshot may move nobody backwards.
    pub(super) fn is_withheld(&self) -> bool {
        self.base.is_none()
    }

    /// Whether its first answer is still to come and goes to a client that has something from another stream.
    pub(super) fn is_returning(&self) -> bool {
        self.base.is_none() && !matches!(self.reported, Reported::Nothing)
    }

    /// Whether it is owed nothing and waits for nothing: until a request or another set comes it has nothing to say.
    pub(super) fn is_at_rest(&self) -> bool {
        self.settled
            && self.base.is_some()
            && self.owed.is_empty()
            && self.warming.is_empty()
            && self.refused_warming.is_empty()
            && self.released.is_empty()
            && self.holds.is_empty()
            && self.deferrals.is_empty()
            && self.refresh.is_none()
            && self.recalled.is_empty()
    }

    /// Something that may refer to the type is asked for only now: what it has to say is awaited, too.
    pub(super) fn lower(&mut self) {
        self.holds.iter_mut().for_each(|hold| hold.barriers = None);
        self.retract();
    }

    /// Removals that are owed and not told wait anew: something that may refer to the type was asked for, or was refused.
    pub(super) fn retract(&mut self) {
        if !self.released.is_empty() {
            self.holds.push(Hold { resources: std::mem::take(&mut self.released), barriers: None });
        }
    }

    /// Everything owed was sent: each removal that waits learns which answers it waits for. Whether any did. What a stale
    /// snapshot would remove waits for a better one.
    pub(super) fn raise(&mut self, barriers: &[Barrier]) -> bool {
        let mut raised = false;
        for hold in self.holds.iter_mut().filter(|hold| self.settled && hold.barriers.is_none()) {
            hold.barriers = Some(barriers.to_vec());
            raised = true;
        }
        raised
    }

    /// What waits to be removed and is there again waits anew, unless it is told first.
    pub(super) fn keep_what_is_back(&mut self, set: &ResourceSet) {
        let Self { holds, released, .. } = self;
        let is_back = |resource: &mut Arc<Resource>| set.get(&resource.name).is_some();
        let held = holds.iter_mut().flat_map(|hold| hold.resources.extract_if(.., is_back));
        let back: Vec<_> = held.chain(released.extract_if(.., is_back)).collect();
        if !back.is_empty() {
            holds.push(Hold { resources: back, barriers: None });
        }
    }

    /// A request asked for more, or for less.
    pub(super) fn ask(&mut self, asked: Asked, interner: &Interner) {
        if asked.changed {
            self.recount = true;
            let Self {
                subscription, reported, base, base_subscription, holds, deferrals, released, owed, warming, ..
            } = self;
            if let Some(base) = base {
                base_subscription.narrow(subscription, base, interner);
            }
            for hold in holds {
                hold.resources.retain(|resource| subscription.covers(resource));
            }
            deferrals.retain(|resource| subscription.covers(resource));
            released.retain(|resource| subscription.covers(resource));
            if let Reported::Versions(versions) = reported
                && super::subscription::knows_wildcard(self.resource_type)
                && !subscription.wildcard
                && !subscription.has_globs()
            {
                versions.retain(|name, _| subscription.names.contains(name));
            }
            if !subscription.wildcard {
                // The wildcard was asked for and given up before it was answered.
                owed.all &= base.is_none();
                owed.names.retain(|name| subscription.names.contains(name));
                warming.retain(|name| subscription.names.contains(name));
            }
        }
        self.owed.all |= asked.wildcard;
        self.owed.names.extend(asked.names);
        if asked.all_names {
            self.owed.names.extend(self.subscription.names.iter().cloned());
        }
    }

    /// The first request: all that it asks for is owed.
    pub(super) fn begin(&mut self, asked: Asked, interner: &Interner) {
        let reported = matches!(self.reported, Reported::Versions(_));
        let nameless = asked.names.is_empty() && !asked.all_names;
        self.by_route_config = self.resource_type == ResourceType::VirtualHost && (nameless || reported);
        self.ask(Asked { names: Vec::new(), all_names: false, ..asked }, interner);
        self.owed.all = true;
    }

    /// VHDS: whether it follows the route configurations that the client has.
    pub(super) fn is_by_route_config(&self) -> bool {
        self.by_route_config
    }

    /// What was kept from the client is asked for.
    pub(super) fn ask_again(&mut self) {
        let Self { subscription, refused_warming, owed, .. } = self;
        owed.names.extend(std::mem::take(refused_warming).into_iter().filter(|name| subscription.names.contains(name)));
    }

    /// The client waits for a resource of this type, though it may have it and does not ask (AD-03, AD-05, DX-30).
    pub(super) fn follow(&mut self, name: &Arc<str>) {
        match self.resource_type {
            ResourceType::VirtualHost if self.by_route_config => {
                self.owed.route_configs.insert(Arc::clone(name));
            }
            ResourceType::VirtualHost => {}
            ResourceType::Endpoint => {
                self.warming.insert(Arc::clone(name));
            }
            _ if self.subscription.names.contains(name) => {
                self.warming.insert(Arc::clone(name));
            }
            _ => {}
        }
    }

    // ---- what is to be sent ----

    /// The next response, if anything is owed. Brings the client to the target, whether that takes a response or not.
    pub(super) fn draft(&mut self, target: Target<'_>, now: Instant) -> Option<Draft> {
        let cautious = target.cautious && !self.settled;
        if cautious
            && !matches!(
                self.resource_type,
                ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret | ResourceType::VirtualHost
            )
        {
            return None;
        }
        self.settled |= !target.cautious;
        if !cautious && !target.referred {
            // What only a stale snapshot held is not told as there any more.
            self.release(|_| true);
        }
        let due = self.refresh.as_ref().is_some_and(|refresh| refresh.is_due(now));
        if self.is_current(target.set) && !self.deferrals.any_over(target.unwarm) && !due {
            return None;
        }
        let draft = match target.variant {
            Variant::Sotw => self.draft_sotw(target, cautious, due),
            Variant::Delta => self.draft_delta(target, cautious, due),
        };
        self.schedule(target, now);
        if draft.is_none() && self.unanswered.is_empty() && self.deferrals.is_empty() {
            // Old sets are not kept for a client that they do not concern.
            self.answered_set.clone_from(&self.base);
            if self.refusals.is_empty() {
                self.acknowledged_set.clone_from(&self.base);
            }
        }
        draft
    }

    fn is_current(&self, set: &Arc<ResourceSet>) -> bool {
        self.owed.is_empty()
            && self.warming.is_empty()
            && self.released.is_empty()
            && self.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, set))
    }

    fn draft_sotw(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        let full = self.is_full_state(target.variant);
        // Who comes back with a version may have what is gone: SW-24.
        let reported = !matches!(self.reported, Reported::Nothing);
        let empty_first = first && (reported || self.subscription.wildcard || self.subscription.has_globs());
        let asked = !self.owed.is_empty();
        let confirmed = match &self.reported {
            Reported::Version(version) if first && self.is_plain_wildcard() && self.recalled.is_empty() => {
                is_set_version(version, target.set.wildcard_version())
            }
            _ => false,
        };
        let mut found = self.advance(target, cautious);
        let released = std::mem::take(&mut self.released);
        if confirmed {
            self.confirmed = Some(target.set.wildcard_version());
            return None;
        }
        if full {
            let changed = found.is_any() || !released.is_empty() || !found.removed.is_empty();
            let absent = self.absent(target, &mut found, &released);
            if !changed && absent.is_empty() && !empty_first && !due {
                return None;
            }
            let (content, version) = self.whole(target.set);
            let content = Content { removed: absent, ..content };
            let published = !asked && changed;
            let changed = if first { Changed::All } else { found.changed() };
            return Some(Draft { content, version, published, changed });
        }
        if self.resource_type == ResourceType::Endpoint && !cautious {
            found.updates.extend(found.missing.drain(..).map(|name| empty_assignment(&name)));
        }
        found.removed.clear();
        found.removed = self.absent(target, &mut found, &[]);
        if !found.is_any() && found.removed.is_empty() {
            return None;
        }
        let version = self.named_version(target.set);
        let version = self.deferrals.without(version, target.set);
        let mut draft = found.into_draft(version, !asked, false);
        if let Some(most) = target.abilities.response_max {
            self.split(&mut draft.content, most);
        }
        Some(draft)
    }

    fn draft_delta(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        // DX-02: the first answer to a wildcard is sent even when there is nothing to say, if the client has nothing.
        let fresh = first && self.subscription.wildcard && matches!(self.reported, Reported::Nothing);
        let reported = first && matches!(self.reported, Reported::Versions(_));
        let asked = !self.owed.is_empty();
        let mut found = self.advance(target, cautious);
        found.removed.extend(std::mem::take(&mut self.released).into_iter().map(|resource| Arc::clone(&resource.name)));
        if self.resource_type == ResourceType::VirtualHost {
            found.bodiless = found.missing.drain(..).map(unresolved).collect();
        }
        found.removed.append(&mut found.missing);
        found.removed.sort_unstable();
        found.removed.dedup();
        let changed = found.is_any() || !found.removed.is_empty();
        if reported && found.removed.is_empty() && !found.novel.is_empty() {
            // All but these are with the client already.
            self.answered_set = Some(Arc::new(target.set.apply(&std::mem::take(&mut found.novel))));
        }
        let repeated = if due { self.repeat(target.set, &mut found) } else { Vec::new() };
        if !found.is_any() && found.removed.is_empty() && repeated.is_empty() && !fresh {
            self.confirmed = reported.then(|| target.set.version());
            return None;
        }
        let version = self.deferrals.without(target.set.version(), target.set);
        let mut draft = found.into_draft(version, !asked && changed, first);
        draft.content.own.extend(repeated);
        Some(draft)
    }

    /// All clusters, or all listeners, and nothing by name: a client that reports their version need not be answered.
    fn is_plain_wildcard(&self) -> bool {
        matches!(self.resource_type, ResourceType::Cluster | ResourceType::Listener)
            && self.subscription.wildcard
            && self.subscription.names.is_empty()
    }

    /// Everything that is asked for, and what is held: the content of a full-state response.
    fn whole(&self, set: &Arc<ResourceSet>) -> (Content, SetVersion) {
        let mut content = Content::default();
        let mut version = SetVersion::default();
        if !self.deferrals.is_empty() {
            let all = set.iter().filter(|resource| self.subscription.covers(resource));
            content.own.extend(all.map(|resource| self.deferrals.kept(&resource.name).unwrap_or(resource)).cloned());
            content.own.extend(self.holds.iter().flat_map(|hold| &hold.resources).cloned());
            version = content.own.iter().fold(version, |sum, resource| sum.with(SetVersion::of(resource)));
            return (content, version);
        }
        if self.subscription.wildcard {
            content.shared = Shared::Wildcard(Arc::clone(set));
            version = set.wildcard_version();
        }
        let named = self.subscription.named(set).into_iter();
        content.own.extend(named.filter(|resource| !self.subscription.wildcard || resource.on_demand).cloned());
        content.own.extend(self.holds.iter().flat_map(|hold| &hold.resources).cloned());
        version = content.own.iter().fold(version, |sum, resource| sum.with(SetVersion::of(resource)));
        (content, version)
    }

    /// Bring the client to the target set: what changed, what is owed, what is gone.
    fn advance(&mut self, target: Target<'_>, cautious: bool) -> Found {
        let mut found = Found::default();
        let owed = std::mem::take(&mut self.owed);
        let old = self.base.replace(Arc::clone(target.set));
        let asked_before = if self.base_subscription.is_same(&self.subscription) {
            None
        } else {
            Some(std::mem::replace(&mut self.base_subscription, self.subscription.clone()))
        };
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, target.set)) {
            let changes = changes::between(&old, target.set);
            let mut gone = self.apply_changes(&changes, asked_before.as_ref(), &owed, target, &mut found);
            if target.stuck {
                let stuck = gone.extract_if(.., |resource| self.is_unknown(resource));
                found.removed.extend(stuck.map(|resource| Arc::clone(&resource.name)));
            }
            let speaks = target.variant == Variant::Delta || self.is_full_state(target.variant);
            if speaks && (cautious || target.referred) && !gone.is_empty() {
                self.holds.push(Hold { resources: gone, barriers: None });
            } else {
                found.removed.extend(gone.into_iter().map(|resource| Arc::clone(&resource.name)));
            }
        }
        let Self { subscription, pushed, .. } = self;
        pushed.retain(|name| !subscription.names.contains(name) && target.set.get(name).is_some());
        if owed.all {
            self.deferrals.clear();
            self.answer_all(target, &mut found);
            let gone = |name: &Arc<str>| target.set.get(name).is_none_or(|one| !self.subscription.covers(one));
            let recalled = std::mem::take(&mut self.recalled);
            found.removed.extend(recalled.into_iter().filter(|_| self.subscription.wildcard).filter(gone));
        }
        if cautious {
            found.removed.clear();
        }
        for name in owed.names {
            self.deferrals.take(&name);
            self.answer(target.set, name, &mut found);
        }
        for of in owed.route_configs {
            found.answer_route_config(target.set, &of);
        }
        found.missing.sort_unstable();
        found.missing.dedup();
        let warm = self.deferrals.end(target.set, target.unwarm);
        found.updates.extend(warm.into_iter().filter(|resource| self.subscription.covers(resource)));
        found.settle();
        self.subscription.alias(&mut found.updates);
        self.warm(target.set, &mut found);
        if cautious {
            self.owed.names.append(&mut found.missing.drain(..).collect());
        }
        found
    }

    /// What the publishes since changed for this client. Gives what is gone.
    fn apply_changes(
        &mut self,
        changes: &Arc<Changes>,
        asked_before: Option<&Subscription>,
        owed: &Owed,
        target: Target<'_>,
        found: &mut Found,
    ) -> Vec<Arc<Resource>> {
        let mut gone = Vec::new();
        let was_asked = |resource: &Resource| asked_before.is_none_or(|asked| asked.covers(resource));
        for change in changes.entries() {
            let name = change.name();
            let deferred = self.deferrals.take(name);
            let old = deferred.as_ref().map(|deferral| &deferral.was).or(change.old.as_ref());
            let is = change.new.as_ref().filter(|resource| self.subscription.covers(resource));
            let was = old.filter(|resource| match &change.new {
                Some(new) if goes_by_same_names(resource, new) => is.is_some(),
                _ => self.subscription.covers(resource),
            });
            let was = was.filter(|resource| was_asked(resource) || self.pushed.contains(name));
            if target.variant == Variant::Sotw {
                self.recounted(change.old.as_ref(), change.new.as_ref());
            }
            let lost = was.is_some() && is.is_none();
            if !lost && (owed.names.contains(name) || (owed.all && is.is_some())) {
                self.unhold(name);
                continue;
            }
            let held = if was.is_none() { self.unhold(name) } else { None };
            let earlier = deferred.as_ref().map(Deferral::since);
            // Where the client has what the older set has, what is newly named is known for all.
            let shared = Some(changes).filter(|_| was.is_some() && deferred.is_none());
            let deferral = |unwarm, was, is| Deferral::of(unwarm, shared, was, is, earlier);
            match (was.or(held.as_ref()), is) {
                (Some(was), Some(is)) if was.version == is.version => {}
                (Some(was), Some(is))
                    if let Some(kept) = target.unwarm.and_then(|unwarm| deferral(unwarm, was, is)) =>
                {
                    self.deferrals.push(kept);
                }
                (_, Some(is)) => found.updates.push(Arc::clone(is)),
                (Some(was), None) => gone.push(Arc::clone(was)),
                (None, None) => {}
            }
        }
        if !found.updates.is_empty() && found.updates.len() == changes.present() {
            found.shared = Shared::Changes(Arc::clone(changes));
            found.shared_updates = std::mem::take(&mut found.updates);
        }
        gone
    }

    /// Everything that is asked for is owed: after the first request, or when the wildcard was asked for anew.
    fn answer_all(&mut self, target: Target<'_>, found: &mut Found) {
        let set = target.set;
        match std::mem::take(&mut self.reported) {
            Reported::Versions(versions) => self.answer_reported(set, &versions, found),
            Reported::Nothing | Reported::Version(_)
                if !self.subscription.wildcard && self.subscription.is_plain(set) =>
            {
                self.answer_names(set, found);
            }
            Reported::Nothing | Reported::Version(_) => {
                if self.subscription.wildcard {
                    found.supersede(Shared::Wildcard(Arc::clone(set)));
                }
                self.find_missing(set, found);
                found.updates.extend(self.subscription.named(set).into_iter().cloned());
            }
        }
    }

    /// All that is asked for are names of resources: what becomes of them is the same for all streams with these names.
    fn answer_names(&mut self, set: &ResourceSet, found: &mut Found) {
        let names = &self.subscription.names;
        let selection = set.select(names.sum(), names.iter());
        found.missing.extend(selection.missing().iter().filter(|name| self.held(name).is_none()).cloned());
        self.named = selection.version();
        self.recount = false;
        if !selection.members().is_empty() {
            found.supersede(Shared::Selection(selection));
        }
    }

    fn find_missing(&self, set: &ResourceSet, found: &mut Found) {
        let is_missing =
            |name: &&Arc<str>| self.subscription.members(set, name).next().is_none() && self.held(name).is_none();
        found.missing.extend(self.subscription.names.iter().filter(is_missing).cloned());
    }

    /// Delta, first request with `initial_resource_versions`: what differs, and what is gone (DX-13, DX-14, DX-15).
    fn answer_reported(&self, set: &ResourceSet, versions: &HashMap<String, String>, found: &mut Found) {
        let named_always = matches!(self.resource_type, ResourceType::Endpoint | ResourceType::VirtualHost);
        let has = |resource: &Resource| {
            versions.get(&*resource.name).is_some_and(|version| is_version(version, resource.version))
        };
        let is_novel = |resource: &Arc<Resource>| !versions.contains_key(&*resource.name);
        if self.subscription.wildcard {
            found.updates.extend(set.iter().filter(|one| self.subscription.covers(one) && !has(one)).cloned());
            let novel = found.updates.iter().filter(|one| is_novel(one));
            found.novel = novel.map(|one| (Arc::clone(&one.name), None)).collect();
            let gone = versions.keys().filter(|name| set.get(name).is_none_or(|one| !self.subscription.covers(one)));
            found.removed.extend(gone.map(|name| Arc::from(&**name)));
            self.find_missing(set, found);
            return;
        }
        let named = self.subscription.named(set).into_iter();
        found.updates.extend(named.filter(|resource| named_always || !has(resource)).cloned());
        self.find_missing(set, found);
        if self.resource_type == ResourceType::VirtualHost {
            // No name asks for what a route configuration has from the start: what of it is gone is known from here alone.
            let gone =
                versions.keys().filter(|name| set.get(name).is_none() && !self.subscription.names.contains(name));
            found.removed.extend(gone.map(|name| Arc::from(&**name)));
        }
    }

    /// One name that was asked for is answered: with the resource, or with its absence. What is gone and held is there still.
    fn answer(&self, set: &ResourceSet, name: Arc<str>, found: &mut Found) {
        let before = found.updates.len();
        let members = self.subscription.members(set, &name).filter(|resource| self.subscription.covers(resource));
        found.updates.extend(members.cloned());
        if found.updates.len() > before {
            return;
        }
        match self.held(&name) {
            Some(resource) => found.updates.push(Arc::clone(resource)),
            None => found.missing.push(name),
        }
    }

    /// Endpoints follow their cluster unasked, unless they were refused as they are (design.md decision 5).
    fn warm(&mut self, set: &ResourceSet, found: &mut Found) {
        let mut following = Vec::new();
        let mut refused = std::mem::take(&mut self.refused_warming);
        refused.retain(|name| set.get(name).or_else(|| self.held(name)).is_some_and(|one| !found.carries(one)));
        self.refused_warming = refused;
        for name in std::mem::take(&mut self.warming) {
            // What is gone and held is there still.
            let Some(resource) = set.get(&name).or_else(|| self.held(&name)) else { continue };
            if found.carries(resource) {
                continue;
            }
            if self.refusals.has(&name, resource.version) {
                self.refused_warming.insert(name);
            } else {
                following.push(Arc::clone(resource));
            }
        }
        let unasked = following.iter().filter(|resource| !self.subscription.covers(resource));
        self.pushed.extend(unasked.map(|resource| Arc::clone(&resource.name)));
        found.updates.extend(following);
    }

    // ---- what others wait for ----

    /// For a type that others name: what was sent of it and is not answered. Where all is answered the two sets may differ
    /// still, in what was gone for a while and not removed.
    pub(super) fn unwarm(&self, now: Instant) -> Option<Unwarm> {
        self.unanswered.front()?;
        let (sent, answered) = (self.base.as_ref()?, self.answered_set.as_ref()?);
        (!Arc::ptr_eq(sent, answered)).then(|| Unwarm {
            sent: Arc::clone(sent),
            answered: Arc::clone(answered),
            subscription: self.subscription.clone(),
            back_until: self.unanswered_since().map(|since| since + WARM_MAX),
            now,
        })
    }

    // ---- removals that wait ----

    /// The resource of that name whose removal waits.
    fn held(&self, name: &str) -> Option<&Arc<Resource>> {
        self.holds.iter().flat_map(|hold| &hold.resources).find(|resource| *resource.name == *name)
    }

    /// A held resource is there again, or its removal is answered otherwise.
    fn unhold(&mut self, name: &str) -> Option<Arc<Resource>> {
        for hold in &mut self.holds {
            if let Some(position) = hold.resources.iter().position(|resource| *resource.name == *name) {
                return Some(hold.resources.swap_remove(position));
            }
        }
        let position = self.released.iter().position(|resource| *resource.name == *name)?;
        Some(self.released.swap_remove(position))
    }

    // ---- the version of what is named ----

    fn recounted(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) {
        for (resource, added) in [(old, false), (new, true)] {
            if let Some(resource) = resource.filter(|resource| self.subscription.names_it(resource)) {
                let member = SetVersion::of(resource);
                self.named = if added { self.named.with(member) } else { self.named.without(member) };
            }
        }
    }

    /// SotW: the version of what is asked for by name and exists.
    fn named_version(&mut self, set: &ResourceSet) -> SetVersion {
        if std::mem::take(&mut self.recount) {
            let named = self.subscription.named(set).into_iter();
            self.named = named.fold(SetVersion::default(), |sum, resource| sum.with(SetVersion::of(resource)));
        }
        self.named
    }

    // ---- what was sent, and what came back ----

    /// A response went out.
    pub(super) fn on_sent(&mut self, mut unanswered: Unanswered, now: Instant) {
        unanswered.set.clone_from(&self.base);
        self.sent = unanswered.sequence;
        self.sent_at = Some(now);
        if self.unanswered.is_empty() {
            // Mostly there is one at a time, and none for long.
            self.unanswered.reserve_exact(1);
        }
        self.unanswered.push_back(unanswered);
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
    }

    /// The response that an answer is for; those before it are answered by it too. `None`: stale or unknown.
    pub(super) fn on_answer(&mut self, sequence: u64) -> Option<Unanswered> {
        let position = self.unanswered.iter().position(|unanswered| unanswered.sequence == sequence)?;
        self.answered = sequence;
        let answered = self.unanswered.drain(..=position).next_back()?;
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        // Where nothing else is on its way, all that was told is answered, and what was found to need no word.
        let set = if self.unanswered.is_empty() { self.base.clone() } else { answered.set.clone() };
        self.answered_set = set.or_else(|| self.answered_set.take());
        Some(answered)
    }

    /// The response was accepted: what it speaks of is refused no longer.
    pub(super) fn on_acknowledged(&mut self, answered: &Unanswered, variant: Variant) {
        let full = self.is_full_state(variant);
        self.refusals.on_acknowledged(&answered.content, full);
        if let (Some(refresh), Some(base)) = (&mut self.refresh, &self.base) {
            base.timed().for_each(|resource| refresh.on_acknowledged(&answered.content, resource));
        }
        if self.deferrals.is_empty() {
            self.acknowledged_set.clone_from(&answered.set);
        }
        self.acknowledged = answered.sequence;
        self.follow_unrefused();
    }

    /// What was kept back for a refusal that stands no longer follows its cluster after all.
    fn follow_unrefused(&mut self) {
        let Self { subscription, base, refusals, refused_warming, warming, .. } = self;
        let stands =
            |name: &str| base.as_ref().and_then(|set| set.get(name)).is_some_and(|it| refusals.has(name, it.version));
        let (kept, due): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(refused_warming).into_iter().partition(|name| stands(name));
        *refused_warming = kept;
        warming.extend(due.into_iter().filter(|name| subscription.names.contains(name)));
    }

    /// The response was refused. Gives who may be to blame.
    pub(super) fn on_refused(&mut self, refused: Unanswered, words: &str) -> Vec<Suspect> {
        if let Some(refresh) = &mut self.refresh {
            refresh.on_refused(&refused.content);
        }
        let suspects = blame::suspects(&refused.content, self.acknowledged_set.as_deref(), words);
        self.refusals.on_refused(refused.sequence, refused.content);
        self.follow_unrefused();
        suspects
    }

    /// The response with which a resource was refused that the client still asks for.
    pub(super) fn refusal_of(&self, name: &str) -> Option<u64> {
        let refused = self.refusals.of(name)?;
        self.refusals.any(|one| *one.name == *name && self.subscription.covers(one)).then_some(refused)
    }

    /// The names of what the client may have or not.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &Arc<str>> {
        self.refusals.resources().map(|resource| &resource.name)
    }

    /// When the oldest response was sent that has no answer.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered.front().map(|unanswered| unanswered.sent_at)
    }

    /// Whether the client refused a resource, or has not said what it makes of it.
    fn is_unknown(&self, resource: &Resource) -> bool {
        let answered = self.answered_set.as_ref().and_then(|set| set.get(&resource.name));
        answered.is_none_or(|answered| answered.version != resource.version)
            || self.refusals.has(&resource.name, resource.version)
    }

    /// What of this is not refused and was not answered, the first few, by its documents.
    pub(super) fn unanswered_documents(&self) -> Vec<DocumentKey> {
        let carried = self.unanswered.iter().flat_map(|unanswered| unanswered.content.resources());
        let unknown = carried.filter(|resource| self.is_unknown(resource));
        let mut documents: Vec<DocumentKey> =
            unknown.flat_map(|resource| resource.documents.iter().cloned()).take(10).collect();
        documents.sort_unstable();
        documents.dedup();
        documents
    }

    /// How it stands to a response that something else waits for.
    pub(super) fn standing(&self, sequence: u64) -> Standing {
        if self.is_refused() {
            Standing::Refused
        } else if self.acknowledged >= sequence {
            Standing::Passed
        } else if self.answered < sequence {
            Standing::Silent(None)
        } else {
            // What it refused is gone. It may use what it had before until it has taken what it was told since, if anything.
            self.unanswered_since().map_or(Standing::Passed, |since| Standing::Silent(Some(since)))
        }
    }

    /// Whether something refused is still wanted by the client and still there, or its removal is not told yet.
    fn is_refused(&self) -> bool {
        let is_there = |name: &str| {
            self.base.as_ref().is_some_and(|base| base.get(name).is_some())
                || self.held(name).is_some()
                || self.released.iter().any(|released| *released.name == *name)
        };
        self.refusals.any(|resource| self.subscription.covers(resource) && is_there(&resource.name))
    }

    /// Holds for which `over` holds end: their removals are owed now. Gives whether there are any.
    pub(super) fn release(&mut self, over: impl Fn(&Hold) -> bool) -> bool {
        let holds = std::mem::take(&mut self.holds);
        let (over, held): (Vec<_>, Vec<_>) =
            holds.into_iter().partition(|hold| hold.resources.is_empty() || over(hold));
        self.holds = held;
        let before = self.released.len();
        self.released.extend(over.into_iter().flat_map(|hold| hold.resources));
        self.released.len() > before
    }
}

/// Whether who asks for one version of a resource asks for the other.
fn goes_by_same_names(one: &Resource, other: &Resource) -> bool {
    one.on_demand == other.on_demand && one.aliases == other.aliases
}

fn is_set_version(text: &str, version: SetVersion) -> bool {
    text.len() == 32 && u128::from_str_radix(text, 16).is_ok_and(|parsed| parsed == version.0)
}

/// Whether a text of a version is that version, without writing it.
fn is_version(text: &str, version: ResourceVersion) -> bool {
    text.len() == 32 && u128::from_str_radix(text, 16).is_ok_and(|parsed| parsed == version.0)
}
