//! The next response of a stream: which type has one, from which set, with which head.
//!
//! In: the current snapshot, a moment. Out: at most one response. Types are tried in the order of
//! [`ResourceType::ALL`], so a resource is sent before the resources that refer to it.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::idle::IdleStep;
use super::{Response, Session, Unserved, order};
use crate::fleet::{Nonce, Variant};
use crate::resource::ResourceType;
use crate::rollout;
use crate::snapshot::blocks::{Blocks, Shape};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::steps::Mark;
use crate::snapshot::version::SetVersion;
use crate::snapshot::{GroupSnapshot, RouteForm, Snapshot};
use crate::xds::session::state::content::Content;
use crate::xds::session::state::{Draft, Target, Unacked};
use crate::xds::session::wire::head::ControlPlane;
use crate::xds::session::wire::{delta, sotw};

mod marks;
mod removals;

/// The secrets of a client that may not have any.
static NO_SECRETS: LazyLock<Arc<ResourceSet>> = LazyLock::new(|| Arc::new(ResourceSet::new(ResourceType::Secret)));

impl Session {
    /// The next owed response. `None`: the client is up to date, or the session waits for its answers.
    pub fn next_response(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Response> {
        self.back.begin();
        if snapshot.generation == 0 {
            return None;
        }
        self.regroup(snapshot)?;
        if let Some(unserved) = self.unserved.pop_front() {
            return Some(self.answer_unserved(&unserved, snapshot.revision));
        }
        let group = snapshot.group(self.group()?)?;
        if let Some(idle) = self.idle.take()
            && let IdleStep::Sends(response) = self.step_idle(idle, snapshot, group, now)
        {
            return response;
        }
        self.spare_waits(now);
        loop {
            self.release_holds(now);
            for resource_type in self.order(group) {
                if let Some(response) = self.step(resource_type, snapshot, group, now) {
                    return Some(response);
                }
            }
            // The last response may have ended another wait.
            if !self.raise_barriers() && !self.release_holds(now) {
                self.spare_waits(now);
                let clusters_unacked = self.check_stuck(now);
                self.back
                    .end(|| self.types.iter().flatten().any(|state| state.is_returning()));
                let greeting = self.greeting(snapshot.revision, now);
                if greeting.is_none() {
                    self.enter_idle(group, clusters_unacked);
                }
                return greeting;
            }
        }
    }

    /// The order of types. If extensions only lose parts, policies inside routes for example, the routes come first: a route
    /// that names a part which is not there is answered with 403.
    pub(super) fn order(&self, group: &GroupSnapshot) -> [ResourceType; ResourceType::COUNT] {
        let base = self.types[ResourceType::ExtensionConfig.index()]
            .as_ref()
            .and_then(|state| state.base());
        let now = group.set(ResourceType::ExtensionConfig);
        match base {
            Some(base) if !Arc::ptr_eq(base, now) && now.changes_since(base).only_remove_parts() => {
                order::EXTENSIONS_LAST
            }
            _ => ResourceType::ALL,
        }
    }

    /// The next moment at which a response may be due without an event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.idle.is_some() {
            return self.stuck.deadline().into_iter().chain(self.spared.deadline()).min();
        }
        let states = || self.types.iter().flatten();
        let holds = states().flat_map(|state| &state.work.pending().holds);
        let deferrals = states().filter_map(|state| state.work.pending().deferrals.deadline());
        let refreshes = states().filter_map(|state| state.refresh_at());
        let steps = states().filter_map(|state| state.step_deadline());
        let removals = holds.filter_map(|hold| hold.deadline(|barrier| self.barrier_state(barrier)));
        removals
            .chain(deferrals)
            .chain(refreshes)
            .chain(steps)
            .chain(self.back.deadline())
            .chain(self.stuck.deadline())
            .chain(self.spared.deadline())
            .chain(self.greeting_at)
            .min()
    }

    /// Select the group of the node again if the rules or the node changed.
    fn regroup(&mut self, snapshot: &Snapshot) -> Option<()> {
        let node = self.node.as_ref()?;
        let known = self
            .group
            .as_ref()
            .is_some_and(|(rules, _)| Arc::ptr_eq(rules, &snapshot.group_rules));
        if !known {
            let group = rollout::select(&snapshot.group_rules, node);
            self.group = Some((Arc::clone(&snapshot.group_rules), group));
        }
        Some(())
    }

    /// The resource set of a type that the client should have.
    fn target<'a>(&self, resource_type: ResourceType, group: &'a GroupSnapshot) -> &'a Arc<ResourceSet> {
        if resource_type == ResourceType::Secret && !self.settings.secrets {
            &NO_SECRETS
        } else {
            let form = RouteForm {
                // VHDS has no SotW form (docs/xds-rules.md GR-14).
                vhds: self.settings.variant == Variant::Delta && self.features.vhds,
                secrets: self.settings.secrets,
            };
            group.set_in(form, resource_type)
        }
    }

    /// Whether the client, which may not have secrets, gets another form of the resources of a type on that account.
    pub(in crate::xds) fn withholds(&self, resource_type: ResourceType, snapshot: &Snapshot) -> bool {
        let group = || snapshot.group(self.group()?);
        !self.settings.secrets
            && match resource_type {
                ResourceType::Secret => true,
                ResourceType::Route => group().is_some_and(|group| group.set(resource_type).has_withheld()),
                _ => false,
            }
    }

    /// One type: the next response, if one is owed.
    pub(super) fn step(
        &mut self,
        resource_type: ResourceType,
        snapshot: &Snapshot,
        group: &GroupSnapshot,
        now: Instant,
    ) -> Option<Response> {
        if resource_type == ResourceType::VirtualHost {
            self.follow_route_configs(group);
        }
        let variant = self.settings.variant;
        let own = Some(group.set(resource_type)).filter(|_| resource_type == ResourceType::Cluster);
        let own = own.and_then(|clusters| self.spared.form_of(clusters));
        let set = own.as_ref().unwrap_or_else(|| self.target(resource_type, group));
        let step = self.next_step(resource_type, set, now);
        let set = step.set.as_ref().unwrap_or(set);
        let state = self.types[resource_type.index()].as_ref()?;
        if state.is_idle() && state.is_current(set) && self.recalled.is_empty() {
            return None;
        }

        let unwarm = order::referrers(ResourceType::Cluster).contains(&resource_type);
        let clusters = self.types[ResourceType::Cluster.index()].as_ref().filter(|_| unwarm);
        let endpoints = self.types[ResourceType::Endpoint.index()].as_deref();
        let unwarm = clusters.and_then(|clusters| clusters.unwarm(now, self.spared.resolving(), endpoints));

        let referred = order::referrers(resource_type)
            .iter()
            .any(|other| self.types[other.index()].is_some());
        let state = self.types[resource_type.index()].as_mut()?;
        if variant == Variant::Delta
            && state.is_returning()
            && unwarm.as_ref().is_some_and(|unwarm| self.back.waits(unwarm))
        {
            return None;
        }
        let target = Target {
            set,
            variant,
            referred: referred && (variant == Variant::Delta || state.is_full_state(variant)),
            cautious: self.reported && (snapshot.stale || snapshot.withhold_removals),
            unwarm: unwarm.as_ref(),
            features: self.features,
            stuck: resource_type == ResourceType::Cluster && self.stuck.is_stuck(),
        };

        if !self.recalled.is_empty() {
            let own = self.recalled.extract_if(.., |(of, _)| *of == resource_type);
            state.work.pending_mut().recalled.extend(own.map(|(_, name)| name));
        }
        let returning = order::is_awaiting(resource_type) && state.is_returning();

        let draft = state.draft(target, now);
        if returning && !state.is_withheld() {
            self.sources.assume(target.set.own_sources());
        }
        if let Some(version) = state.work.take(|work| &mut work.confirmed) {
            self.confirmed.push((resource_type, version));
        }
        let Some(draft) = draft else {
            return state
                .goes_on()
                .then(|| self.step(resource_type, snapshot, group, now))
                .flatten();
        };

        let Draft {
            mut content,
            version,
            published,
            changed,
        } = draft;

        step.sort(&mut content);
        self.sequence += 1;
        self.greeting_at = None;
        let unacked = Unacked {
            sequence: self.sequence,
            version,
            content: content.clone(),
            published_at: published.then_some(snapshot.built_at),
            trace: snapshot.trace.clone().filter(|_| published),
            mark: state.mark_of(group),
            set: None,
            sent_at: now,
        };

        state.on_sent(unacked, now);
        if resource_type == ResourceType::Cluster {
            self.spared.on_sent(self.sequence, &changed, now);
        }
        if order::is_awaiting(resource_type) {
            self.warm(&content, &changed, returning);
        }
        self.keep_what_is_back(resource_type, group);
        Some(self.respond(resource_type, &content, version, snapshot.revision))
    }

    fn nonce(&self) -> Nonce {
        Nonce::new(self.settings.salt, self.sequence)
    }

    fn plane(&self, revision: i64) -> ControlPlane<'_> {
        ControlPlane {
            identifier: &self.settings.identifier,
            revision,
        }
    }

    fn respond(&self, resource_type: ResourceType, content: &Content, version: SetVersion, revision: i64) -> Response {
        let nonce = self.nonce();
        let (type_url, plane) = (resource_type.type_url(), self.plane(revision));
        let (shape, head) = match self.settings.variant {
            Variant::Sotw => (
                Shape::Sotw,
                sotw::head(type_url, version, nonce, plane, &content.removed),
            ),
            Variant::Delta => {
                let asked = self.types[resource_type.index()]
                    .as_ref()
                    .filter(|_| self.features.resource_errors);
                let is_asked = |name: &&Arc<str>| asked.is_some_and(|state| state.subscription.names.contains(name));
                let (removed, absent) = (&content.removed, content.removed.iter().filter(is_asked));
                (
                    Shape::Delta,
                    delta::head(type_url, version, nonce, plane, removed, absent),
                )
            }
        };

        let wrapped = shape == Shape::Sotw && self.features.wrappers && resource_type.knows_ttl();
        let blocks = if wrapped && content.is_timed() {
            content.wrapped_blocks(resource_type)
        } else {
            content.blocks(resource_type, shape)
        };

        Response {
            resource_type: Some(resource_type),
            version,
            nonce,
            head,
            blocks,
        }
    }

    fn answer_unserved(&mut self, unserved: &Unserved, revision: i64) -> Response {
        self.sequence += 1;
        self.greeting_at = None;
        let (version, nonce) = (SetVersion::default(), self.nonce());
        let head = delta::head(
            &unserved.type_url,
            version,
            nonce,
            self.plane(revision),
            &unserved.names,
            [].iter(),
        );

        Response {
            resource_type: None,
            version,
            nonce,
            head,
            blocks: Blocks::empty(),
        }
    }

    /// The one empty response of a delta stream without any other (GR-08).
    fn greeting(&mut self, revision: i64, now: Instant) -> Option<Response> {
        if self.greeting_at.is_none_or(|at| now < at) {
            return None;
        }
        self.greeting_at = None;
        let resource_type = ResourceType::ALL
            .into_iter()
            .skip(ResourceType::Cluster.index())
            .find(|resource_type| self.types[resource_type.index()].is_some())?;
        self.sequence += 1;
        let state = self.types[resource_type.index()].as_mut()?;
        let version = SetVersion::default();
        let unacked = Unacked {
            sequence: self.sequence,
            version,
            content: Content::default(),
            published_at: None,
            trace: None,
            mark: Mark::NEVER,
            set: None,
            sent_at: now,
        };

        state.on_sent(unacked, now);
        Some(self.respond(resource_type, &Content::default(), version, revision))
    }
}
