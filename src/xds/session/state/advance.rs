//! Advances a client from the set it was brought to, to the current set: changed, owed and removed resources.

use std::sync::Arc;

use super::{Owed, State, Target};
use crate::fleet::Variant;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::changes::Changes;
use crate::snapshot::set::ResourceSet;
use crate::xds::session::order::HeldRemoval;
use crate::xds::session::state::builder::ResponseBuilder;
use crate::xds::session::state::content::SharedPart;
use crate::xds::session::subscription::Subscription;
use crate::xds::session::warming::Deferral;
use crate::xds::session::wire::reported::{Reported, Versions};

impl State {
    /// Bring the client to the target set: changed, owed and removed resources.
    pub(super) fn advance(&mut self, target: Target<'_>, cautious: bool) -> ResponseBuilder {
        let mut builder = ResponseBuilder::default();
        let owed = self.work.take(|work| &mut work.owed);
        let old = self.base.replace(Arc::clone(target.set));
        let asked_before = if self.base_subscription.is_same(&self.subscription) {
            None
        } else {
            Some(std::mem::replace(
                &mut self.base_subscription,
                self.subscription.clone(),
            ))
        };

        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, target.set)) {
            let changes = target.set.changes_since(&old);
            let mut gone = self.apply_changes(&changes, asked_before.as_ref(), &owed, target, &mut builder);
            if target.stuck {
                let stuck = gone.extract_if(.., |resource| self.is_unknown(resource));
                builder.removed.extend(stuck.map(|resource| Arc::clone(&resource.name)));
            }
            let speaks = target.variant == Variant::Delta || self.is_full_state(target.variant);
            if speaks && (cautious || target.referred) && !gone.is_empty() {
                self.work.pending_mut().holds.push(HeldRemoval {
                    resources: gone,
                    barriers: None,
                });
            } else {
                builder
                    .removed
                    .extend(gone.into_iter().map(|resource| Arc::clone(&resource.name)));
            }
        }

        let Self {
            subscription, pushed, ..
        } = self;
        pushed.retain(|name| !subscription.names.contains(name) && target.set.get(name).is_some());

        if owed.all {
            self.work.take(|work| &mut work.deferrals);
            self.answer_all(target, &mut builder);
            let gone = |name: &Arc<str>| target.set.get(name).is_none_or(|one| !self.subscription.covers(one));
            let recalled = self.work.take(|work| &mut work.recalled);
            builder
                .removed
                .extend(recalled.into_iter().filter(|_| self.subscription.wildcard).filter(gone));
        }

        if cautious {
            builder.removed.clear();
        }
        for name in owed.names {
            self.undefer(&name);
            self.answer(target.set, name, &mut builder);
        }
        for of in owed.route_configs {
            builder.answer_route_config(target.set, &of);
        }

        builder.missing.sort_unstable();
        builder.missing.dedup();
        if let Some(work) = self.work.some() {
            let warm = work.deferrals.end(target.set, target.unwarm);
            builder
                .updates
                .extend(warm.into_iter().filter(|resource| self.subscription.covers(resource)));
        }

        builder.dedup();
        self.subscription.alias(&mut builder.updates);
        self.warm(target.set, &mut builder);
        if cautious {
            self.work
                .pending_mut()
                .owed
                .names
                .append(&mut builder.missing.drain(..).collect());
        }

        builder
    }

    /// Apply the difference to the last set of the client. Gives the removed resources.
    pub(super) fn apply_changes(
        &mut self,
        changes: &Arc<Changes>,
        asked_before: Option<&Subscription>,
        owed: &Owed,
        target: Target<'_>,
        builder: &mut ResponseBuilder,
    ) -> Vec<Arc<Resource>> {
        let mut gone = Vec::new();
        let was_asked = |resource: &Resource| asked_before.is_none_or(|asked| asked.covers(resource));
        for change in changes.entries() {
            let name = change.name();
            let deferred = self.undefer(name);
            let old = deferred.as_ref().map(|deferral| &deferral.was).or(change.old.as_ref());
            let is = change
                .new
                .as_ref()
                .filter(|resource| self.subscription.covers(resource));
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
            // If the client has the older set unchanged, the newly named clusters are computed once for all streams.
            let shared = Some(changes).filter(|_| was.is_some() && deferred.is_none());
            let deferral = |unwarm, was, is| Deferral::of(unwarm, shared, was, is, earlier);

            match (was.or(held.as_ref()), is) {
                (Some(was), Some(is)) if was.version == is.version => {}
                (Some(was), Some(is))
                    if let Some(kept) = target.unwarm.and_then(|unwarm| deferral(unwarm, was, is)) =>
                {
                    self.work.pending_mut().deferrals.push(kept);
                }
                (_, Some(is)) => builder.updates.push(Arc::clone(is)),
                (Some(was), None) => gone.push(Arc::clone(was)),
                (None, None) => {}
            }
        }

        if !builder.updates.is_empty() && builder.updates.len() == changes.present() {
            builder.shared = SharedPart::Changes(Arc::clone(changes));
            builder.shared_updates = std::mem::take(&mut builder.updates);
        }
        gone
    }

    /// Every subscribed resource is owed: after the first request, or after a new subscription to the wildcard.
    pub(super) fn answer_all(&mut self, target: Target<'_>, builder: &mut ResponseBuilder) {
        let set = target.set;
        let by_names = !self.subscription.wildcard && self.subscription.is_plain(set);
        match self.work.take(|work| &mut work.reported) {
            // Endpoints are sent even if the client reports them.
            Reported::Versions(_) if by_names && self.resource_type == ResourceType::Endpoint => {
                self.answer_names(set, builder);
            }
            Reported::Versions(versions) => self.answer_reported(set, &versions, builder),
            Reported::Nothing | Reported::Version(_) if by_names => self.answer_names(set, builder),
            Reported::Nothing | Reported::Version(_) => {
                if self.subscription.wildcard {
                    builder.supersede(SharedPart::Wildcard(Arc::clone(set)));
                }
                self.find_missing(set, builder);
                builder
                    .updates
                    .extend(self.subscription.named(set).into_iter().cloned());
            }
        }
    }

    /// The subscription has only names of resources: the selection is shared between all streams with these names.
    pub(super) fn answer_names(&mut self, set: &ResourceSet, builder: &mut ResponseBuilder) {
        let names = &self.subscription.names;
        let selection = set.select(names.sum(), names.iter());
        builder.missing.extend(
            selection
                .missing()
                .iter()
                .filter(|name| self.held(name).is_none())
                .cloned(),
        );
        self.named = selection.version();
        self.recount = false;
        if !selection.members().is_empty() {
            builder.supersede(SharedPart::Selection(selection));
        }
    }

    pub(super) fn find_missing(&self, set: &ResourceSet, builder: &mut ResponseBuilder) {
        let is_missing =
            |name: &&Arc<str>| self.subscription.members(set, name).next().is_none() && self.held(name).is_none();
        builder
            .missing
            .extend(self.subscription.names.iter().filter(is_missing).cloned());
    }

    /// Delta, first request with `initial_resource_versions`: send what differs, remove what no longer exists (DX-13,
    /// DX-14, DX-15).
    pub(super) fn answer_reported(&self, set: &ResourceSet, versions: &Versions, builder: &mut ResponseBuilder) {
        if self.is_plain_wildcard() && versions.sum() == set.wildcard_version() {
            return;
        }
        let versions = versions.by_name();
        let named_always = matches!(self.resource_type, ResourceType::Endpoint | ResourceType::VirtualHost);
        let has = |resource: &Resource| versions.get(&*resource.name) == Some(&Some(resource.version));
        let is_novel = |resource: &Arc<Resource>| !versions.contains_key(&*resource.name);
        if self.subscription.wildcard {
            builder.updates.extend(
                set.iter()
                    .filter(|one| self.subscription.covers(one) && !has(one))
                    .cloned(),
            );
            let novel = builder.updates.iter().filter(|one| is_novel(one));
            builder.novel = novel.map(|one| (Arc::clone(&one.name), None)).collect();
            let gone = versions
                .keys()
                .filter(|name| set.get(name).is_none_or(|one| !self.subscription.covers(one)));
            builder.removed.extend(gone.map(|name| Arc::from(&**name)));
            self.find_missing(set, builder);
            return;
        }

        let named = self.subscription.named(set).into_iter();
        builder
            .updates
            .extend(named.filter(|resource| named_always || !has(resource)).cloned());
        self.find_missing(set, builder);
        if self.resource_type == ResourceType::VirtualHost {
            // The virtual hosts of a route configuration have no subscription by name: only the report shows the
            // removed ones.
            let gone = versions
                .keys()
                .filter(|name| set.get(name).is_none() && !self.subscription.names.contains(name));
            builder.removed.extend(gone.map(|name| Arc::from(&**name)));
        }
    }

    /// Answer one subscribed name: with the resource, or with its absence. A resource with a held removal still exists.
    pub(super) fn answer(&self, set: &ResourceSet, name: Arc<str>, builder: &mut ResponseBuilder) {
        let before = builder.updates.len();
        let members = self
            .subscription
            .members(set, &name)
            .filter(|resource| self.subscription.covers(resource));
        builder.updates.extend(members.cloned());
        if builder.updates.len() > before {
            return;
        }
        match self.held(&name) {
            Some(resource) => builder.updates.push(Arc::clone(resource)),
            None => builder.missing.push(name),
        }
    }

    /// Endpoints follow their cluster without a request (AD-03), unless the client NACKed them as they are.
    pub(super) fn warm(&mut self, set: &ResourceSet, builder: &mut ResponseBuilder) {
        if self.work.pending().warming.is_empty() && self.work.pending().nacked_warming.is_empty() {
            return;
        }
        let mut following = Vec::new();
        let mut refused = self.work.take(|work| &mut work.nacked_warming);
        refused.retain(|name| {
            set.get(name)
                .or_else(|| self.held(name))
                .is_some_and(|one| !builder.carries(one))
        });

        self.work.pending_mut().nacked_warming = refused;
        for name in self.work.take(|work| &mut work.warming) {
            // A resource with a held removal still exists.
            let Some(resource) = set.get(&name).or_else(|| self.held(&name)) else {
                continue;
            };
            if builder.carries(resource) {
                continue;
            }
            if self.nacks.has(&name, resource.version) {
                self.work.pending_mut().nacked_warming.insert(name);
            } else {
                following.push(Arc::clone(resource));
            }
        }

        let unasked = following.iter().filter(|resource| !self.subscription.covers(resource));
        self.pushed.extend(unasked.map(|resource| Arc::clone(&resource.name)));
        builder.updates.extend(following);
    }
}

/// Whether a subscription to one version of a resource covers the other too.
fn goes_by_same_names(one: &Resource, other: &Resource) -> bool {
    one.on_demand == other.on_demand && one.aliases == other.aliases
}
