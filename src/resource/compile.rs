//! The compiled whole and its difference: which resource each group of proxies has.
//!
//! In: [`Edit`]s of the accepted documents. Out: a new [`Compiled`] that shares everything unchanged with the old one,
//! the [`Difference`] between the two, and the documents whose status may change; or the [`Fault`]s of the documents
//! that cannot be accepted, and then nothing has changed. The caller decides which document gives way: in a [`Stage`],
//! conflicts are found as edits are made, before anything is compiled, so that a conflict costs the documents in it and
//! not all edits.
//!
//! | module | job |
//! |---|---|
//! | `context` | the parameters that hold for a whole compile |
//! | `translate` | one document at a time, once: from the checked value to its share of resources |
//! | `accepted` | words that these files share |
//! | `inventory` | every accepted document with its translation, and the references between documents |
//! | `depends` | which translations and resources a change makes dirty |
//! | `group` | the resources and tables of one group of proxies |
//! | `input` | the input of a group's compilation |
//! | `conflicts` | addresses, scopes and domains that only one resource of a group can have |
//! | `references` | documents that name others, and need them |
//! | `failover` | the members of aggregate clusters, and circles among them |
//! | `trials` | tests of routes, judged on the tables |
//! | `owners` | requests that another document takes after a change |
//! | `unmet` | xds documents against the clusters of their group |
//! | `policies` | the policies that hold for a listener, a route and its target |
//! | `extensions` | the filters of a group that hold a state: tokens, rate limits |
//! | `parts` | each document's part in a resource that is made of many documents |
//! | `findings` | facts for the operator about one document among the others: lost matches, missing references |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::table::Bounds;
use super::{Resource, ResourceType, clusters};
use crate::document::cluster::{Guard, LocalityMode, Source};
use crate::document::defaults::Defaults;
use crate::document::group::Group;
use crate::document::key::{DocumentKey, Kind};
use crate::document::registry::Registry;
use crate::document::route::Route;
use crate::document::{Document, Rejection};

mod accepted;
mod conflicts;
pub mod context;
mod depends;
pub mod explain;
mod extensions;
mod failover;
mod findings;
mod group;
mod input;
mod inventory;
mod limits;
mod offers;
mod owners;
pub mod parts;
mod policies;
mod references;
pub mod translate;
mod trials;
mod unmet;

pub use accepted::Accepted;
use accepted::CompiledDocument;
use conflicts::Examined;
use context::Context;
use depends::Dirty;
pub use findings::{EndpointCounts, Findings, Loss, Missing};
use group::{GroupState, Outcome};
use input::{ByGroup, GroupInput};
use inventory::Inventory;
pub use inventory::{Address, address};
pub use owners::{Moved, Owners};
pub use policies::{EffectivePolicy, Holding};
use translate::Translated;
pub use trials::Failure;
use trials::Trials;

/// The difference between two compiled wholes.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    /// One entry a resource and group: the new resource, or `None` if it was removed. Sorted by group, type, name;
    /// unique. Resources of removed groups are not listed.
    pub resources: Vec<ResourceChange>,
    /// New groups; one without resources in `resources` is empty.
    pub groups_added: Vec<Arc<str>>,
    /// Removed groups.
    pub groups_removed: Vec<Arc<str>>,
}

impl Difference {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.groups_added.is_empty() && self.groups_removed.is_empty()
    }
}

/// One resource of one group after the change.
#[derive(Debug, Clone)]
pub struct ResourceChange {
    /// The group.
    pub group: Arc<str>,
    /// The type.
    pub resource_type: ResourceType,
    /// The name.
    pub name: Arc<str>,
    /// The resource; `None`: removed.
    pub resource: Option<Arc<Resource>>,
}

/// The new state of one document.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The document.
    pub key: DocumentKey,
    /// `None`: the document is not accepted, or was deleted.
    pub accepted: Option<Accepted>,
    /// Whether there is a document, accepted or not: beside a listeners document that is not accepted, there is no default
    /// listener, which would serve every route without the listener's TLS and policies.
    pub exists: bool,
    /// Whether the document is at fault if its own tests fail. A text that serves in place of another is not, nor one that
    /// a list shows: its tests may fail through documents that were changed later.
    pub is_judged: bool,
}

/// A document that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The document.
    pub key: DocumentKey,
    /// The reason: in the document itself, or in a conflict with others.
    pub rejection: Rejection,
    /// The obstacle, where one can be named: as long as the obstacle is there, so is the fault.
    pub obstacle: Option<Obstacle>,
    /// Of two documents in conflict the fault is that of the one written last. This is the fault that the other one has
    /// as long as it does not serve.
    pub rival: Option<Box<Self>>,
}

impl Fault {
    /// A fault that has to do with no other document.
    fn of_itself(key: DocumentKey, rejection: Rejection) -> Self {
        Self {
            key,
            rejection,
            obstacle: None,
            rival: None,
        }
    }

    /// The same fault, which lasts as long as this is in the way.
    fn behind(self, obstacle: Obstacle) -> Self {
        Self {
            obstacle: Some(obstacle),
            ..self
        }
    }

    /// The same conflict as the fault of one of its two documents.
    #[must_use]
    pub fn of(self, key: &DocumentKey) -> Option<Self> {
        match self.rival {
            _ if self.key == *key => Some(self),
            Some(rival) if rival.key == *key => Some(*rival),
            _ => None,
        }
    }
}

/// What keeps a document from serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A document claims a thing that only one can have; `None`: the default listener does.
    Claimant {
        /// The thing in words.
        what: Arc<str>,
        /// The document.
        key: Option<DocumentKey>,
    },
    /// No document describes this cluster.
    NoCluster(Arc<str>),
    /// A document that it names does not fit.
    Reference {
        /// The document that does not serve.
        user: DocumentKey,
        /// The document that it names.
        named: DocumentKey,
    },
    /// This text of another document.
    Text {
        /// The document.
        key: DocumentKey,
        /// The revision of the text.
        mod_revision: i64,
    },
}

/// Options that hold for the whole process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `--ca-bundle`, PEM.
    pub ca_bundle: Option<Bytes>,
    /// `--access-log-dir`.
    pub access_log_dir: Arc<str>,
    /// The bounds of one RouteConfiguration.
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            access_log_dir: context::ACCESS_LOG_DIR.into(),
            bounds: Bounds::default(),
        }
    }
}

/// Every accepted document, and every resource of every group. Immutable; clones are cheap.
#[derive(Debug, Clone)]
pub struct Compiled {
    bounds: Bounds,
    context: Arc<Context>,
    inventory: Inventory,
    groups: OrdMap<Arc<str>, GroupState>,
    trials: Trials,
}

/// The result of one [`Compiled::apply`].
#[derive(Debug, Clone)]
pub struct Step {
    /// The new whole.
    pub compiled: Compiled,
    /// Resources that may differ, by group.
    pub touched: Touched,
    /// Documents whose status may change: a match was won or lost, or a referenced document appeared or vanished.
    pub affected: BTreeSet<DocumentKey>,
}

/// Resources that may differ, by group.
pub type Touched = BTreeMap<Arc<str>, BTreeSet<(ResourceType, Arc<str>)>>;

impl Compiled {
    /// The compiled whole without documents: not even the group `default` exists before the first [`Compiled::apply`].
    #[must_use]
    pub fn new(options: Options) -> Self {
        let context = Context {
            ca_bundle: options.ca_bundle,
            access_log_dir: options.access_log_dir,
            ..Context::default()
        };
        Self {
            bounds: options.bounds,
            context: Arc::new(context),
            inventory: Inventory::empty(),
            groups: OrdMap::new(),
            trials: Trials::default(),
        }
    }

    /// Begin a change.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage {
            before: self.clone(),
            context: Arc::clone(&self.context),
            inventory: self.inventory.clone(),
            dirty: Dirty::default(),
            examined: Examined::new(),
            judged: BTreeSet::new(),
        }
    }

    /// Make the edits, all or none.
    ///
    /// # Errors
    /// Documents that cannot be accepted. Not all of them: others may be at fault when these have given way.
    pub fn apply(&self, edits: Vec<Edit>) -> Result<Step, Vec<Fault>> {
        self.stage().advance(edits)
    }

    /// Make the edits, all or none. `None`: some document would be at fault.
    #[must_use]
    pub fn try_apply(&self, edits: Vec<Edit>) -> Option<Step> {
        let mut stage = self.stage();
        if !stage.set(edits).is_empty() || stage.next_conflict().is_some() {
            return None;
        }
        stage.compile(true).ok()
    }

    /// `is_brief`: of the faults, one is enough.
    fn compile(&self, stage: &Stage, is_brief: bool) -> Result<Step, Vec<Fault>> {
        let (context, inventory) = (Arc::clone(&stage.context), stage.inventory.clone());
        let dirty = &stage.dirty;

        let mut faults = references::faults(&self.inventory, &inventory, dirty);
        faults.extend(limits::faults(&inventory, dirty));
        if !faults.is_empty() {
            return Err(faults);
        }
        let names = inventory.groups();
        let mut groups: OrdMap<Arc<str>, GroupState> = self
            .groups
            .iter()
            .filter(|(name, _)| names.contains(*name))
            .map(|(name, state)| (Arc::clone(name), state.clone()))
            .collect();

        let (mut touched, mut affected) = (Touched::new(), BTreeSet::new());
        let mut repoliced = input::Repoliced::default();
        let mut faults = failover::circles(&inventory, dirty);
        let by_group = ByGroup::new(dirty, &self.inventory, &inventory);
        for name in names {
            let dirty = by_group.of(name);
            let input = GroupInput {
                context: &context,
                before: &self.inventory,
                after: &inventory,
                dirty: &dirty,
                name,
                fresh: !groups.contains_key(name),
                bounds: self.bounds,
                is_brief,
            };
            let state = groups.entry(Arc::clone(name)).or_default();
            let Outcome {
                touched: resources,
                affected: documents,
                faults: found,
                repoliced: policed,
            } = state.update(&input);
            repoliced.extend(policed);
            touched.insert(Arc::clone(name), resources);
            affected.extend(documents);
            faults.extend(found);
        }

        if !faults.is_empty() {
            // A document with faults in several groups is listed once.
            faults.sort_by(|a, b| a.key.cmp(&b.key));
            faults.dedup_by(|a, b| a.key == b.key);
            return Err(faults);
        }

        let mut trials = self.trials.clone();
        let change = trials::Change {
            before: &self.inventory,
            after: &inventory,
            dirty,
            groups_before: &self.groups,
            groups: &groups,
            repoliced: &repoliced,
        };
        affected.extend(trials.update(&change));
        let faults = trials.faults(&stage.judged, &change);
        if !faults.is_empty() {
            return Err(faults);
        }

        affected.extend(self.referring(&inventory, dirty));
        Ok(Step {
            compiled: Self {
                bounds: self.bounds,
                context,
                inventory,
                groups,
                trials,
            },
            touched,
            affected,
        })
    }

    /// Documents with a reference that may have appeared or vanished: users of clusters, registrations, and, if a group
    /// or a listener changed, every document that could name it.
    fn referring(&self, after: &Inventory, dirty: &Dirty) -> BTreeSet<DocumentKey> {
        let mut referring = dirty.routes.clone();
        for name in &dirty.upstreams {
            let moved = |key: &DocumentKey| !same_reach(self.inventory.document(key), after.document(key));
            if !describing(name).iter().any(moved) {
                continue;
            }
            let users = after.users(name).chain(after.verbatim_users(name));
            let users = users.chain(after.failing_over_to(name));
            // The registrations below the registry prefix have a warning if no cluster of that name uses them.
            referring.extend(users.chain(after.registrations(name).map(|(key, _)| key)).cloned());
        }

        // A document may look at a listener that it does not name: at any for gRPC clients, and at whether there is any.
        let mut every = dirty.groups || self.inventory.has_listeners() != after.has_listeners();
        for name in &dirty.listeners {
            let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
            let (old, new) = (self.inventory.document(&key), after.document(&key));
            if !same_reach(old, new) {
                every |= [old, new].into_iter().flatten().any(Document::is_api_listener);
                referring.extend(after.routes_on(name).cloned());
            }
        }
        if every {
            referring.extend(
                after
                    .iter()
                    .map(|(key, _)| key)
                    .filter(|key| key.kind != Kind::Services)
                    .cloned(),
            );
        }

        if dirty.every_upstream {
            // The balancing of a cluster may come from `defaults`: `hash_on` of a route depends on it, and so do the
            // warnings of the cluster itself.
            let kinds = [Kind::Routes, Kind::Clusters].into_iter();
            referring.extend(kinds.flat_map(|kind| after.of_kind(kind)).map(|(key, _)| key.clone()));
        }

        if after.has_api_listener() {
            referring.extend(self.reached_by_grpc(after, dirty));
        }

        referring.extend(self.filled_or_emptied(after, dirty));
        referring
    }

    /// Clusters that got their first instance or lost their last one, and clusters without any that a changed route
    /// names now or named before.
    fn filled_or_emptied(&self, after: &Inventory, dirty: &Dirty) -> BTreeSet<DocumentKey> {
        let is_empty =
            |inventory: &Inventory, name: &Arc<str>| offers::taken(inventory, &self.context, name).next().is_none();
        let moved = dirty
            .upstreams
            .iter()
            .filter(|name| is_empty(&self.inventory, name) != is_empty(after, name))
            .cloned();
        let listeners = dirty
            .listeners
            .iter()
            .map(|name| DocumentKey::new(Kind::Listeners, Arc::clone(name)));
        let users: BTreeSet<DocumentKey> = dirty.routes.iter().cloned().chain(listeners).collect();
        let named = users
            .iter()
            .flat_map(|key| [self.inventory.get(key), after.get(key)])
            .flatten()
            .flat_map(|compiled| compiled.translated.upstreams())
            .map(|(name, _)| Arc::clone(name));
        let clusters = moved.chain(named.filter(|name| is_empty(after, name)));
        clusters.map(|name| DocumentKey::new(Kind::Clusters, name)).collect()
    }

    /// Documents whose warnings for gRPC clients may change: clusters of changed routes, and every document of the
    /// kinds whose `defaults` changed.
    fn reached_by_grpc(&self, after: &Inventory, dirty: &Dirty) -> BTreeSet<DocumentKey> {
        let routes = dirty
            .routes
            .iter()
            .flat_map(|key| [self.inventory.document(key), after.document(key)]);
        let names = routes
            .flatten()
            .filter_map(Document::as_route)
            .flat_map(Route::upstream_names);
        let clusters = names.map(|name| DocumentKey::new(Kind::Clusters, name));
        let mut reached: BTreeSet<DocumentKey> = clusters.filter(|key| after.get(key).is_some()).collect();
        let kinds = [Kind::Routes, Kind::Clusters]
            .into_iter()
            .filter(|kind| dirty.every_of(*kind));
        reached.extend(kinds.flat_map(|kind| after.of_kind(kind)).map(|(key, _)| key.clone()));
        reached
    }

    /// The difference between an earlier whole and this one, among the resources that were touched on the way.
    #[must_use]
    pub fn difference(&self, before: &Self, touched: &Touched) -> Difference {
        let mut difference = Difference {
            groups_added: self
                .groups
                .keys()
                .filter(|name| !before.groups.contains_key(*name))
                .cloned()
                .collect(),
            groups_removed: before
                .groups
                .keys()
                .filter(|name| !self.groups.contains_key(*name))
                .cloned()
                .collect(),
            resources: Vec::new(),
        };

        for (group, resources) in touched {
            let Some(state) = self.groups.get(group) else { continue };
            let earlier = before.groups.get(group);
            for key in resources {
                let (old, new) = (
                    earlier.and_then(|earlier| earlier.resources.get(key)),
                    state.resources.get(key),
                );
                if !same_resource(old, new) {
                    let (resource_type, name) = key.clone();
                    difference.resources.push(ResourceChange {
                        group: Arc::clone(group),
                        resource_type,
                        name,
                        resource: new.cloned(),
                    });
                }
            }
        }

        difference
    }

    /// Every resource with its group and type, sorted by group, type and name.
    pub fn resources(&self) -> impl Iterator<Item = (&Arc<str>, ResourceType, &Arc<Resource>)> {
        self.groups.iter().flat_map(|(group, state)| {
            state
                .resources
                .iter()
                .map(move |((resource_type, _), resource)| (group, *resource_type, resource))
        })
    }

    /// One resource.
    #[must_use]
    pub fn resource(&self, group: &str, resource_type: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.groups
            .get(group)?
            .resources
            .get(&(resource_type, Arc::<str>::from(name)))
    }

    /// The names of the groups that exist.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.keys()
    }

    /// The groups documents, sorted by name.
    pub fn group_rules(&self) -> impl Iterator<Item = (&Arc<str>, &Group)> {
        self.inventory.group_rules()
    }

    /// The `defaults` in force.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.context.defaults
    }

    /// The accepted document of a key.
    #[must_use]
    pub fn accepted(&self, key: &DocumentKey) -> Option<&Accepted> {
        self.inventory.get(key).map(|compiled| &compiled.accepted)
    }

    /// Every registration of a source ([`DocumentKey::first_segment`] of their keys), with its address; sorted by
    /// address.
    pub fn registrations(&self, source: &str) -> impl Iterator<Item = (&DocumentKey, &Address)> {
        self.inventory.registrations(source)
    }

    /// Whether a registration of a source has this address.
    #[must_use]
    pub fn is_registered_at(&self, source: &str, address: &Address) -> bool {
        self.inventory.is_registered_at(source, address)
    }

    /// The guard of the clusters that take their endpoints from a source.
    #[must_use]
    pub fn guard_of(&self, source: &str) -> Option<Guard> {
        let own = Arc::from(source);
        let own = self
            .inventory
            .cluster(&own)
            .filter(|(cluster, ..)| cluster.source == Source::Registered);
        let named = self
            .inventory
            .clusters_of_source(source)
            .filter_map(|name| self.inventory.cluster(name));
        let guards = own.into_iter().chain(named).filter_map(|(cluster, ..)| cluster.guard);
        guards.reduce(Guard::and)
    }

    /// Whether a registry has an etcd of its own.
    #[must_use]
    pub fn is_foreign(&self, registry: &str) -> bool {
        let document = self.inventory.document(&DocumentKey::new(Kind::Registries, registry));
        matches!(document, Some(Document::Registry(Registry { etcd: Some(_), .. })))
    }

    /// The registries documents, sorted by name.
    pub fn registries(&self) -> impl Iterator<Item = (&Arc<str>, &Registry)> {
        self.inventory.registries()
    }

    /// The other accepted document that describes the same cluster.
    #[must_use]
    pub fn namesake(&self, key: &DocumentKey) -> Option<DocumentKey> {
        let others = describing(key.cluster()?).into_iter().filter(|other| other != key);
        others.into_iter().find(|other| self.inventory.get(other).is_some())
    }

    /// The routes and the xds documents that name a cluster and share a group with it, sorted.
    pub fn users_of(&self, cluster: &str, document: &Document) -> impl Iterator<Item = &DocumentKey> {
        let shares = |user: &Document| document.shares_a_group(user);
        self.naming(cluster)
            .filter(move |key| self.inventory.document(key).is_some_and(shares))
    }

    /// The documents that keep a document from vanishing: of a cluster those of [`Compiled::users_of`], else those that
    /// name it by a reference. Sorted.
    pub fn users<'a>(&'a self, key: &DocumentKey, document: &Document) -> impl Iterator<Item = &'a DocumentKey> {
        let of_cluster = key.cluster().map(|cluster| self.users_of(cluster, document));
        let others = self.inventory.users_of(key);
        of_cluster.into_iter().flatten().chain(others)
    }

    /// Whether a document keeps this one from vanishing.
    #[must_use]
    pub fn is_used(&self, key: &DocumentKey, document: &Document) -> bool {
        self.users(key, document).next().is_some()
    }

    /// Whether requests that a policy guards would be served without the policy if the document vanished: a policy with
    /// users, or a secret of a policy. A document that names what is not there is rejected, and a less specific route
    /// would take the requests.
    #[must_use]
    pub fn guards_requests(&self, key: &DocumentKey) -> bool {
        let mut users = self.inventory.users_of(key);
        match key.kind {
            Kind::Policies => users.next().is_some(),
            Kind::Secrets => users.any(|user| matches!(user.kind, Kind::Policies | Kind::Routes | Kind::Defaults)),
            _ => false,
        }
    }

    /// The documents that an accepted document names by a reference.
    #[must_use]
    pub fn references(&self, user: &DocumentKey) -> BTreeSet<DocumentKey> {
        self.inventory
            .get(user)
            .map(|compiled| compiled.names())
            .unwrap_or_default()
    }

    /// One sentence for each failing test of a route.
    pub fn failing_tests(&self, key: &DocumentKey) -> impl Iterator<Item = String> {
        self.trials.warnings(key)
    }

    /// The tests of routes that fail here and did not before: each with its document, and a sentence.
    pub fn newly_failing<'c>(&'c self, before: &'c Self) -> impl Iterator<Item = (&'c DocumentKey, String)> {
        self.trials.newly_failing(&before.trials)
    }

    /// The tests of routes that fail here and did not before, in parts.
    pub fn new_failures<'c>(&'c self, before: &'c Self) -> impl Iterator<Item = Failure<'c>> {
        self.trials.new_failures(&before.trials)
    }

    /// Documents that name a cluster, in any group.
    pub fn naming(&self, cluster: &str) -> impl Iterator<Item = &DocumentKey> {
        self.inventory
            .users(cluster)
            .chain(self.inventory.verbatim_users(cluster))
            .chain(self.inventory.failing_over_to(cluster))
    }

    /// The clusters that an accepted document names.
    pub fn named_by(&self, user: &DocumentKey) -> impl Iterator<Item = &Arc<str>> {
        let compiled = self.inventory.get(user);
        let (routes, written) = match compiled.map(|compiled| &compiled.translated) {
            Some(Translated::Route { upstreams, .. }) => (Some(upstreams), None),
            Some(Translated::Verbatim(written)) => (None, Some(&written.clusters)),
            _ => (None, None),
        };
        let failover = match compiled.map(|compiled| compiled.document()) {
            Some(Document::Cluster(cluster)) => cluster.failover.as_slice(),
            _ => &[],
        };
        let of_routes = routes
            .into_iter()
            .flat_map(|upstreams| upstreams.iter().map(|(name, _)| name));
        of_routes
            .chain(written.into_iter().flat_map(|names| names.iter()))
            .chain(failover)
    }

    /// Whether a document is a cluster whose requests prefer the zone of the proxy.
    #[must_use]
    pub fn is_zone_aware(&self, key: &DocumentKey) -> bool {
        let Some(Document::Cluster(cluster)) = self.inventory.document(key) else {
            return false;
        };
        let lb = clusters::settings_of(cluster, &self.context).lb;
        lb.is_some_and(|lb| lb.locality == Some(LocalityMode::ZoneAware))
    }

    /// Whether what kept a document from serving is still in its way.
    #[must_use]
    pub fn has_obstacle(&self, document: &Document, obstacle: &Obstacle) -> bool {
        self.inventory.has_obstacle(document, obstacle)
    }
}

/// A change in the making. Nothing is compiled while a document is at fault by itself or in conflict with another one.
#[derive(Debug, Clone)]
pub struct Stage {
    before: Compiled,
    context: Arc<Context>,
    inventory: Inventory,
    dirty: Dirty,
    /// Documents that may be in conflict.
    examined: Examined,
    /// Documents that are at fault if their own tests fail.
    judged: BTreeSet<DocumentKey>,
}

impl Stage {
    /// Make edits. Returns the documents whose translation fails: they are as before, and are to be set again before
    /// the stage is compiled. If the fault is that of `defaults`, the stage is of no use any more.
    fn set(&mut self, edits: Vec<Edit>) -> Vec<Fault> {
        let mut fresh = Dirty::default();
        if let Some(edit) = edits.iter().rev().find(|edit| edit.key.kind == Kind::Defaults) {
            let document = edit.accepted.as_ref().map(|accepted| &*accepted.document);
            let context = Context {
                defaults: document.and_then(Document::as_defaults).cloned().unwrap_or_default(),
                ..(*self.context).clone()
            };
            depends::touch_defaults(&mut fresh, &self.context.defaults, &context.defaults);
            depends::touch_defaults(&mut self.dirty, &self.context.defaults, &context.defaults);
            self.context = Arc::new(context);
        }

        for edit in edits.iter().filter(|edit| edit.key.kind == Kind::Listeners) {
            let is_unaccepted = edit.exists && edit.accepted.is_none();
            self.inventory
                .set_unaccepted(&edit.key, is_unaccepted, &mut self.examined);
        }
        let edits = self.without_unchanged(edits, &fresh);
        for edit in &edits {
            match edit.is_judged && edit.accepted.is_some() {
                true => self.judged.insert(edit.key.clone()),
                false => self.judged.remove(&edit.key),
            };
        }
        let dependents = self.dependents(&edits, &fresh);
        let (mut translated, mut faults) = translate_all(&self.context, edits);
        let (others, of_defaults) = translate_all(&self.context, dependents);
        faults.extend(blame_defaults(of_defaults));
        translated.extend(others);
        for (key, compiled) in translated {
            let before = self.inventory.get(&key).map(|before| &**before);
            let new = compiled.as_ref().map(CompiledDocument::document);
            depends::touch(&mut self.dirty, &key, before.map(CompiledDocument::document), new);
            depends::touch_upstreams(&mut self.dirty, &key, before, compiled.as_ref());
            references::touch(&mut self.dirty, &key, before, compiled.as_ref());
            if key.registry().is_some() {
                let clusters = self.inventory.clusters_of_source(key.first_segment());
                self.dirty.upstreams.extend(clusters.cloned());
            }
            self.inventory.set(&key, compiled, &mut self.examined);
        }
        faults
    }

    /// Make edits, and compile the change if no document is at fault.
    ///
    /// # Errors
    /// The next documents at fault: of translations, of one conflict, or of the compiled whole. The caller makes other
    /// edits for them and asks again.
    pub fn advance(&mut self, edits: Vec<Edit>) -> Result<Step, Vec<Fault>> {
        let faults = self.set(edits);
        if !faults.is_empty() {
            return Err(faults);
        }
        match self.next_conflict() {
            Some(fault) => Err(vec![fault]),
            None => self.compile(false),
        }
    }

    /// A document in conflict with an older one; the caller sets another text for it, or none, and asks again.
    fn next_conflict(&mut self) -> Option<Fault> {
        self.inventory.next_conflict(&mut self.examined)
    }

    /// Compile the change.
    ///
    /// # Errors
    /// The documents that cannot serve in their groups.
    fn compile(&self, is_brief: bool) -> Result<Step, Vec<Fault>> {
        self.before.compile(self, is_brief)
    }

    /// The edits that change something. If only the revision of an equal document is new, the inventory notes it, and
    /// that is all.
    fn without_unchanged(&mut self, mut edits: Vec<Edit>, dirty: &Dirty) -> Vec<Edit> {
        let Self {
            inventory, examined, ..
        } = self;
        edits.retain(|edit| {
            let (Some(compiled), Some(accepted)) = (inventory.get(&edit.key), &edit.accepted) else {
                return edit.accepted.is_some() || inventory.get(&edit.key).is_some();
            };
            let equal = compiled.accepted.create_revision == accepted.create_revision
                && compiled.accepted.document == accepted.document
                && !dirty.every_of(edit.key.kind);
            if equal && compiled.accepted.mod_revision != accepted.mod_revision {
                let again = CompiledDocument {
                    accepted: accepted.clone(),
                    translated: compiled.translated.clone(),
                };
                inventory.set(&edit.key, Some(again), examined);
            }
            !equal
        });
        edits
    }

    /// Every other document whose translation uses a part of `defaults` that changed.
    fn dependents(&self, edits: &[Edit], dirty: &Dirty) -> Vec<Edit> {
        let edited: BTreeSet<&DocumentKey> = edits.iter().map(|edit| &edit.key).collect();
        let kinds = Kind::ALL.into_iter().filter(|kind| dirty.every_of(*kind));
        let others = kinds
            .flat_map(|kind| self.inventory.of_kind(kind))
            .filter(|(key, _)| !edited.contains(key));
        others
            .map(|(key, compiled)| Edit {
                key: key.clone(),
                accepted: Some(compiled.accepted.clone()),
                exists: true,
                is_judged: false,
            })
            .collect()
    }
}

/// The keys of the documents that can describe a cluster.
#[must_use]
pub fn describing(cluster: &str) -> [DocumentKey; 2] {
    [
        DocumentKey::new(Kind::Clusters, cluster),
        DocumentKey::new(Kind::Xds, format!("clusters/{cluster}")),
    ]
}

fn translate_all(context: &Context, edits: Vec<Edit>) -> (Vec<(DocumentKey, Option<CompiledDocument>)>, Vec<Fault>) {
    let mut compiled = Vec::with_capacity(edits.len());
    let mut faults = Vec::new();
    for Edit { key, accepted, .. } in edits {
        let Some(accepted) = accepted else {
            compiled.push((key, None));
            continue;
        };
        match translate::document(context, &key, accepted.create_revision, &accepted.document) {
            Ok(translated) => compiled.push((key, Some(CompiledDocument { accepted, translated }))),
            Err(rejection) => faults.push(Fault::of_itself(key, rejection)),
        }
    }
    (compiled, faults)
}

/// The fault of `defaults`, for documents that were good until it changed.
fn blame_defaults(faults: Vec<Fault>) -> Vec<Fault> {
    let blame = |Fault { key, rejection, .. }| {
        let reason = format!("found a default that {key} cannot have ({rejection}), expected none");
        Fault::of_itself(DocumentKey::new(Kind::Defaults, ""), Rejection::new("", reason))
    };
    faults.into_iter().take(1).map(blame).collect()
}

/// Whether a document has the same groups as before, and the same facts that others look at: of a cluster, where its
/// instances register themselves, whether it is on demand, and its balancing; of a listener, whether it is for gRPC clients
/// or for TCP.
fn same_reach(old: Option<&Document>, new: Option<&Document>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return old.is_some() == new.is_some();
    };
    let registered = |document: &Document| match document {
        Document::Cluster(cluster) => {
            matches!(cluster.source, Source::Registered | Source::Registry { .. }).then(|| cluster.source.clone())
        }
        _ => None,
    };
    let on_demand = |document: &Document| matches!(document, Document::Cluster(cluster) if cluster.on_demand);
    let balancing = |document: &Document| match document {
        Document::Cluster(cluster) => cluster.settings.lb.as_ref().map(|lb| lb.policy),
        _ => None,
    };
    old.groups() == new.groups()
        && balancing(old) == balancing(new)
        && on_demand(old) == on_demand(new)
        && registered(old) == registered(new)
        && old.is_api_listener() == new.is_api_listener()
        && old.is_tcp_listener() == new.is_tcp_listener()
}

fn same_resource(old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            old.version == new.version
                && old.on_demand == new.on_demand
                && same_resource(old.whole.as_ref(), new.whole.as_ref())
        }
        _ => false,
    }
}
