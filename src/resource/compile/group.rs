//! One group of proxies: its resources, and the table behind each RouteConfiguration. Persistent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::accepted::{CompiledDocument, On, ResourceKey};
use super::input::{GroupInput, entries_on, tables_of, verbatim};
use super::inventory::Inventory;
use super::policies::{Logins, OnListener};
use super::{Fault, extensions, failover, input, offers, policies, unmet};
use crate::document::cluster::Cluster;
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::VirtualHosts;
use crate::document::route::Route;
use crate::document::{Document, Rejection, xds};
use crate::resource::clusters;
use crate::resource::compile::parts::{Part, Parts};
use crate::resource::compile::translate::{self, Served, Translated};
use crate::resource::grpc;
use crate::resource::listeners::{self, Routing};
use crate::resource::table::{Entry, HostKey, Table, Touched};
use crate::resource::{Resource, ResourceType};

/// Most routes that a generated cluster lists as its documents: thousands may share one cluster.
const NAMED_USERS: usize = 16;

/// The resources and tables of one group. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupState {
    /// The served resources.
    pub(super) resources: OrdMap<ResourceKey, Arc<Resource>>,
    /// Resources of other documents under the name of an xds document, whichever of the two is served.
    pub(super) shadowed: OrdMap<ResourceKey, Arc<Resource>>,
    pub(super) tables: OrdMap<Arc<str>, Table>,
    /// Every listener that is no xds document; one for TCP has no table.
    listeners: OrdSet<Arc<str>>,
    /// The part of each document in a table, by the name of the listener.
    parts: OrdMap<Arc<str>, Parts>,
    /// Clusters by the name of their endpoints.
    warming: OrdMap<Arc<str>, OrdSet<Arc<str>>>,
    /// The policies of listeners that have some.
    pub(super) policies: OrdMap<Arc<str>, Arc<OnListener>>,
    /// Listeners whose virtual hosts are resources of their own.
    on_demand: OrdSet<Arc<str>>,
    /// The entries for callback and logout in each table.
    logins: OrdMap<Arc<str>, Logins>,
}

/// The result of one group's compilation.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Resources that may have changed.
    pub(super) touched: BTreeSet<ResourceKey>,
    /// Documents whose status may change.
    pub(super) affected: BTreeSet<DocumentKey>,
    /// Documents in conflict.
    pub(super) faults: Vec<Fault>,
    /// Routes whose entries changed through policies.
    pub(super) repoliced: input::Repoliced,
}

impl GroupState {
    /// Compile everything dirty again.
    pub(super) fn update(&mut self, input: &GroupInput<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut tables: BTreeMap<Arc<str>, Touched> = BTreeMap::new();
        self.update_verbatim(input, &mut outcome);
        let repoliced = self.update_policies(input, &mut outcome);
        outcome.repoliced.kinds.extend(repoliced.keys().cloned());
        self.update_extensions(input, &mut outcome);
        self.update_listeners(input, &repoliced, &mut tables, &mut outcome);
        self.update_entries(input, &repoliced, &mut tables, &mut outcome);
        self.encode_tables(input, tables, &mut outcome);
        self.update_upstreams(input, &mut outcome);
        self.update_named(input, &mut outcome);

        let faults = unmet::unmet(input, &self.resources, &self.warming, &outcome.touched);
        outcome.faults.extend(faults);
        let listeners = policies::Listeners {
            on_demand: &self.on_demand,
            policies: &self.policies,
            tables: &self.tables,
            logins: &self.logins,
        };
        outcome
            .faults
            .extend(policies::faults(input, listeners, repoliced.keys()));
        outcome
    }

    /// Set the resource that other documents than xds give a name: it is served, or shadowed by an xds document.
    fn set(
        &mut self,
        input: &GroupInput<'_>,
        key: ResourceKey,
        resource: Option<Arc<Resource>>,
        outcome: &mut Outcome,
    ) {
        let Some((document, compiled)) = verbatim(input.after, input.name, &key) else {
            let shadowed = self.shadowed.remove(&key);
            outcome
                .affected
                .extend(shadowed.iter().flat_map(|resource| named_makers(resource)).cloned());
            return self.serve(key, resource, outcome);
        };

        let replaces = compiled.document().as_xds().is_some_and(|xds| xds.replace);
        let written = match &compiled.translated {
            Translated::Verbatim(own) if replaces || resource.is_none() => Some(Arc::clone(&own.resource)),
            _ => resource.clone(),
        };

        let shadowed = match resource {
            Some(resource) => self.shadowed.insert(key.clone(), resource),
            None => self.shadowed.remove(&key),
        };

        let makers = [shadowed.as_ref(), self.shadowed.get(&key)].into_iter().flatten();
        outcome
            .affected
            .extend(makers.flat_map(|resource| named_makers(resource)).cloned());
        outcome.affected.insert(document);
        self.serve(key, written, outcome);
    }

    fn serve(&mut self, key: ResourceKey, resource: Option<Arc<Resource>>, outcome: &mut Outcome) {
        let warms = resource.as_ref().and_then(|resource| resource.warms.clone());
        let before = match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(&key),
        };
        if key.0 == ResourceType::Cluster {
            let warmed = before.and_then(|before| before.warms.clone());
            self.set_warming(&key.1, warmed, warms);
        }
        outcome.touched.insert(key);
    }

    /// The name of a cluster's endpoints, before and now.
    fn set_warming(&mut self, cluster: &Arc<str>, before: Option<Arc<str>>, now: Option<Arc<str>>) {
        if before == now {
            return;
        }
        if let Some(before) = before
            && let Some(clusters) = self.warming.get_mut(&before)
        {
            clusters.remove(cluster);
            if clusters.is_empty() {
                self.warming.remove(&before);
            }
        }
        if let Some(now) = now {
            self.warming.entry(now).or_default().insert(Arc::clone(cluster));
        }
    }

    /// Set the resources of the xds documents that were added, changed or removed.
    fn update_verbatim(&mut self, input: &GroupInput<'_>, outcome: &mut Outcome) {
        let all: BTreeSet<DocumentKey> = match input.fresh {
            true => input.after.of_kind(Kind::Xds).map(|(key, _)| key.clone()).collect(),
            false => BTreeSet::new(),
        };
        for document in all.union(&input.dirty.verbatim) {
            let Some((word, name)) = xds::split(&document.name) else {
                continue;
            };
            let Some(resource_type) = ResourceType::from_word(word) else {
                continue;
            };
            let key = (resource_type, Arc::from(name));
            let was_over = !input.fresh && verbatim(input.before, input.name, &key).is_some();
            let resource = if was_over {
                self.shadowed.get(&key)
            } else {
                self.resources.get(&key)
            };
            let resource = resource.cloned();
            self.set(input, key, resource, outcome);
        }
    }

    /// Set the Listeners that were added, changed or removed. The table of a new one is filled with every route on it.
    fn update_listeners(
        &mut self,
        input: &GroupInput<'_>,
        repoliced: &BTreeMap<Arc<str>, Repoliced>,
        tables: &mut BTreeMap<Arc<str>, Touched>,
        outcome: &mut Outcome,
    ) {
        let every = input.every_listener_may_change();
        // The addresses of clients stand in the Listener of TCP itself.
        let of_tcp = repoliced.keys().filter(|name| is_tcp(input, name));
        let all = match every {
            true => input.after.listeners(input.name),
            false => input
                .dirty
                .listeners
                .iter()
                .chain(of_tcp)
                .filter_map(|name| {
                    let compiled = input.after.listener_in(name, input.name)?;
                    Some((Arc::clone(name), compiled))
                })
                .collect(),
        };
        let served = |compiled: Option<&Arc<CompiledDocument>>| match compiled.map(|compiled| &compiled.translated) {
            Some(Translated::Listener(served)) => served.clone(),
            _ => translate::default_listener(input.context),
        };

        let served: BTreeMap<Arc<str>, Served> = all
            .into_iter()
            .map(|(name, compiled)| (name, served(compiled)))
            .collect();
        // A listener that now is for gRPC clients, or no longer is, needs another table; one whose virtual hosts are on
        // demand now, or no longer are, has other resources. So has one with another entry behind all routes.
        let stays = |name: &Arc<str>| {
            let Some(now) = served.get(name) else { return false };
            let on_demand = now.routing.as_ref().map(is_on_demand);
            let last_resort =
                |inventory: &Inventory| inventory.served(name).and_then(|served| served.last_resort.clone());
            on_demand == self.tables.contains_key(name).then(|| self.on_demand.contains(name))
                && input.before.is_api(name) == input.after.is_api(name)
                && last_resort(input.before) == last_resort(input.after)
                && input.before.http3_port(name) == input.after.http3_port(name)
        };

        let changing: Vec<&Arc<str>> = match every {
            true => self.listeners.iter().collect(),
            false => {
                let dirty = input.dirty.listeners.iter();
                dirty.filter(|name| self.listeners.contains(*name)).collect()
            }
        };
        let gone: Vec<Arc<str>> = changing.into_iter().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            self.remove_listener(input, name, outcome);
        }

        for (name, served) in served {
            let key = (ResourceType::Listener, Arc::clone(&name));
            let filter = self.policies.get(&name).filter(|_| served.routing.is_none());
            let listener = match filter.and_then(|on| on.network_filter()) {
                Some((filter, config)) => Arc::new(listeners::behind(&served.listener, filter, config)),
                None => served.listener,
            };
            self.set(input, key, Some(listener), outcome);
            let quic = (ResourceType::Listener, quic_name(&name));
            if served.quic.is_some() || self.resources.contains_key(&quic) {
                self.set(input, quic, served.quic, outcome);
            }
            self.listeners.insert(Arc::clone(&name));
            let Some(routing) = &served.routing else { continue };
            if is_on_demand(routing) {
                self.on_demand.insert(Arc::clone(&name));
            }
            if !self.tables.contains_key(&name) {
                let policies = self.policies.get(&name);
                let (table, logins, touched) = filled_table(input, &name, served.last_resort.as_ref(), policies);
                if !logins.is_empty() {
                    self.logins.insert(Arc::clone(&name), logins);
                }
                self.tables.insert(Arc::clone(&name), table);
                tables.insert(name, touched);
            }
        }
    }

    fn remove_listener(&mut self, input: &GroupInput<'_>, name: Arc<str>, outcome: &mut Outcome) {
        let table = self.tables.remove(&name).unwrap_or_default();
        outcome.affected.extend(table.documents().map(|key| (**key).clone()));
        if self.on_demand.remove(&name).is_some() {
            for host in table.hosts() {
                let host = translate::virtual_host_name(&name, host);
                self.set(input, (ResourceType::VirtualHost, host), None, outcome);
            }
        }
        self.parts.remove(&name);
        self.logins.remove(&name);
        self.listeners.remove(&name);
        self.set(input, (ResourceType::Listener, Arc::clone(&name)), None, outcome);
        let quic = (ResourceType::Listener, quic_name(&name));
        if self.resources.contains_key(&quic) {
            self.set(input, quic, None, outcome);
        }
        self.set(input, (ResourceType::Route, name), None, outcome);
    }

    /// Set the policies of each listener where they may change. Returns the listeners whose policies did.
    fn update_policies(&mut self, input: &GroupInput<'_>, outcome: &mut Outcome) -> BTreeMap<Arc<str>, Repoliced> {
        let users = policies::users_of_changed(input);
        let mut names: BTreeSet<Arc<str>> = input.dirty.listeners.clone();
        names.extend(
            users
                .iter()
                .filter(|key| key.kind == Kind::Listeners)
                .map(|key| Arc::clone(&key.name)),
        );
        let of_defaults = input.dirty.default_policies || users.iter().any(|key| key.kind == Kind::Defaults);
        if of_defaults || input.every_listener_may_change() {
            names.extend(input.after.listeners(input.name).into_keys());
            names.extend(self.policies.keys().cloned());
        }

        let mut repoliced = BTreeMap::new();
        for name in names {
            let old = self.policies.remove(&name);
            let listener = input.after.listener_in(&name, input.name);
            let new = listener
                .filter(|_| !input.after.is_api(&name))
                .map(|compiled| OnListener::new(input, &name, compiled.map(|compiled| &**compiled)))
                .filter(|on| !on.is_empty())
                .map(Arc::new);
            if old != new {
                let change = match OnListener::changes_every_entry(old.as_ref(), new.as_ref()) {
                    true => Repoliced::Every,
                    false => Repoliced::WithPolicies,
                };
                repoliced.insert(Arc::clone(&name), change);
            }
            if let Some(new) = new {
                self.policies.insert(name, new);
            }
        }

        if !repoliced.is_empty() {
            outcome.affected.extend(input.after.with_policies().cloned());
        }
        outcome.affected.extend(users);
        repoliced
    }

    /// Set the filters with a state, if a policy in one of them may have changed.
    fn update_extensions(&mut self, input: &GroupInput<'_>, outcome: &mut Outcome) {
        for resource in extensions::resources(input) {
            let key = (ResourceType::ExtensionConfig, Arc::clone(&resource.name));
            self.set(input, key, Some(Arc::new(resource)), outcome);
        }
        outcome.faults.extend(extensions::too_many(input));
    }

    /// Update the tables of listeners that existed before with the entries of changed routes, and of routes whose
    /// policies changed.
    fn update_entries(
        &mut self,
        input: &GroupInput<'_>,
        repoliced: &BTreeMap<Arc<str>, Repoliced>,
        tables: &mut BTreeMap<Arc<str>, Touched>,
        outcome: &mut Outcome,
    ) {
        let mut changed = policies::changed_routes(input);
        outcome.repoliced.routes.clone_from(&changed);
        changed.extend(input.dirty.routes.iter().cloned());
        if changed.is_empty() && repoliced.is_empty() {
            return;
        }

        let mut by_table: BTreeMap<Arc<str>, BTreeSet<DocumentKey>> = BTreeMap::new();
        for key in changed {
            let routes = [input.before.document(&key), input.after.document(&key)];
            let routes = routes.into_iter().flatten().filter(|route| route.is_for(input.name));
            for route in routes.filter_map(Document::as_route) {
                for name in self.tables_of(route) {
                    by_table.entry(Arc::clone(name)).or_default().insert(key.clone());
                }
            }
        }
        // A new table is full.
        let is_old = |name: &Arc<str>| self.tables.contains_key(name) && !tables.contains_key(name);
        by_table.retain(|name, _| is_old(name));
        let with_policies = match repoliced.is_empty() {
            true => BTreeSet::new(),
            false => policies::routes_with_policies(input.after),
        };
        for (name, change) in repoliced.iter().filter(|(name, _)| is_old(name)) {
            let routes = by_table.entry(Arc::clone(name)).or_default();
            match change {
                Repoliced::WithPolicies => {
                    let with_policies = input.after.among_routes_for(name, &with_policies);
                    routes.extend(with_policies);
                    outcome.repoliced.routes.extend(routes.iter().cloned());
                }
                Repoliced::Every => {
                    routes.extend(input.after.routes_for(name).cloned());
                    outcome.repoliced.listeners.insert(Arc::clone(name));
                }
            }
        }

        for (name, keys) in by_table {
            let mut touched = Touched::default();
            let mut logins = self.logins.remove(&name).unwrap_or_default();
            let for_grpc = input.after.is_api(&name);
            let on = input.after.on(&name);
            let policies = self.policies.get(&name).cloned();
            for key in &keys {
                let (old, new) = (input.before.get(key), input.after.get(key));
                let removed = old.map_or(&[][..], |compiled| entries_on(compiled, input.name, on));
                let inserted = new.map_or(&[][..], |compiled| entries_on(compiled, input.name, on));
                if removed.is_empty() && inserted.is_empty() {
                    continue;
                }
                if let Some(table) = self.tables.get_mut(&name) {
                    let gone = logins.remove(key);
                    outcome
                        .repoliced
                        .entries
                        .extend(gone.iter().flat_map(|entries| entries.iter().cloned()));
                    let gone = gone.iter().flat_map(|entries| entries.iter());
                    let gone = gone.chain(removed);
                    gone.for_each(|entry| table.remove(entry, &mut touched));
                    if let Some(compiled) = new {
                        let mut insert = |entry: &Arc<Entry>| table.insert(entry, &mut touched);
                        let entries = said_for(input, for_grpc, policies.as_deref(), compiled, inserted);
                        entries.iter().for_each(&mut insert);
                        if !for_grpc {
                            let own = policies::logins(input, policies.as_deref(), compiled, inserted);
                            own.iter().for_each(&mut insert);
                            outcome.repoliced.entries.extend(own.iter().cloned());
                            if !own.is_empty() {
                                logins.insert(key.clone(), own.into());
                            }
                        }
                    }
                }
            }
            if !logins.is_empty() {
                self.logins.insert(Arc::clone(&name), logins);
            }
            if repoliced.contains_key(&name)
                && let Some(table) = self.tables.get_mut(&name)
            {
                // These entries are in every virtual host; the filters of the listener are not in the entries.
                let last_resort = input.after.served(&name).and_then(|served| served.last_resort.clone());
                let not_found = policies::not_found_entry(Vec::new());
                let places = [
                    (policies.as_ref().map(|on| on.not_found()), Some(not_found)),
                    (
                        last_resort.as_ref().map(|entry| policed(entry, policies.as_ref())),
                        last_resort,
                    ),
                ];
                for (new, place) in places {
                    let old = place.and_then(|place| {
                        table
                            .claimants(&place)
                            .find(|entry| entry.claim == place.claim)
                            .cloned()
                    });
                    if old != new {
                        old.iter().for_each(|entry| table.remove(entry, &mut touched));
                        new.iter().for_each(|entry| table.insert(entry, &mut touched));
                    }
                }
            }
            if !touched.documents.is_empty() || repoliced.contains_key(&name) {
                tables.insert(name, touched);
            }
        }
    }

    /// The listeners with a table that a route may be in.
    pub(super) fn tables_of<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = &'a Arc<str>> {
        tables_of(&self.tables, route)
    }

    fn encode_tables(&mut self, input: &GroupInput<'_>, tables: BTreeMap<Arc<str>, Touched>, outcome: &mut Outcome) {
        for (name, mut touched) in tables {
            let Some(table) = self.tables.get_mut(&name) else {
                continue;
            };
            table.spread(&mut touched);
            match table.encode(&touched, input.bounds) {
                Ok(hosts) => {
                    let parts = self.parts.entry(Arc::clone(&name)).or_default();
                    let on = input.after.on(&name);
                    let http3_port = input.after.http3_port(&name);
                    touched.documents.iter().for_each(|key| set_part(input, on, parts, key));
                    let is_new = !self.resources.contains_key(&(ResourceType::Route, Arc::clone(&name)));
                    policies::makers(input, &name, is_new)
                        .iter()
                        .for_each(|key| set_part_of_policies(input, parts, key));
                    let fields = self.policies.get(&name).map(|on| on.fields.clone()).unwrap_or_default();
                    let whole = translate::route_configuration(&name, http3_port, &fields, table, parts.clone());
                    if self.on_demand.contains(&name) {
                        let (table, parts) = (table.clone(), parts.clone());
                        self.set_virtual_hosts(input, &name, &table, &parts, &hosts, outcome);
                        let resource =
                            translate::on_demand_configuration(whole, http3_port, listener_document(input, &name));
                        self.set(input, (ResourceType::Route, name), Some(resource), outcome);
                    } else {
                        self.set(input, (ResourceType::Route, name), Some(whole), outcome);
                    }
                }
                Err(size) if size.entries > input.bounds.entries => {
                    outcome.faults.extend(too_many(input, &name, table, size.entries));
                }
                Err(size) => outcome
                    .faults
                    .extend(policies::too_large(input, &name, table, size.policy_bytes)),
            }
            outcome.affected.extend(touched.documents);
        }
    }

    /// Set the virtual hosts of these patterns as resources of their own.
    fn set_virtual_hosts(
        &mut self,
        input: &GroupInput<'_>,
        listener: &Arc<str>,
        table: &Table,
        parts: &Parts,
        hosts: &BTreeSet<HostKey>,
        outcome: &mut Outcome,
    ) {
        for host in hosts {
            let resource = translate::virtual_host(listener, table, host, |key| parts.get(key).cloned());
            let name = translate::virtual_host_name(listener, host);
            self.set(input, (ResourceType::VirtualHost, name), resource, outcome);
        }
    }

    fn update_upstreams(&mut self, input: &GroupInput<'_>, outcome: &mut Outcome) {
        let every = input.fresh || input.dirty.every_upstream;
        let all = if every {
            input.after.upstream_names()
        } else {
            BTreeSet::new()
        };
        let dirty = &input.dirty.upstreams;
        let over = dirty.iter().flat_map(|name| input.after.failing_over_to(name));
        let over: BTreeSet<Arc<str>> = over.map(|key| Arc::clone(&key.name)).collect();
        let names: BTreeSet<&Arc<str>> = all.iter().chain(dirty).chain(&over).collect();
        for name in names {
            self.update_upstream(input, name, outcome);
        }
    }

    fn update_upstream(&mut self, input: &GroupInput<'_>, name: &Arc<str>, outcome: &mut Outcome) {
        let upstreams = upstreams(input, name);
        self.set(
            input,
            (ResourceType::Cluster, Arc::clone(name)),
            upstreams.cluster,
            outcome,
        );
        self.set(
            input,
            (ResourceType::Endpoint, Arc::clone(name)),
            upstreams.endpoints,
            outcome,
        );

        let own: Arc<str> = format!("{name}{}", clusters::OWN).into();
        let key = |resource_type| (resource_type, Arc::clone(&own));
        let (cluster, endpoints) = upstreams.own.unzip();
        for (key, resource) in [
            (key(ResourceType::Cluster), cluster),
            (key(ResourceType::Endpoint), endpoints.flatten()),
        ] {
            if resource.is_some() || self.resources.contains_key(&key) {
                self.set(input, key, resource, outcome);
            }
        }
    }

    /// Set the resources of documents that become one resource under their own name.
    fn update_named(&mut self, input: &GroupInput<'_>, outcome: &mut Outcome) {
        let all: BTreeSet<DocumentKey> = match input.fresh {
            true => [Kind::Runtime, Kind::Secrets]
                .into_iter()
                .flat_map(|kind| input.after.of_kind(kind))
                .map(|(key, _)| key.clone())
                .collect(),
            false => BTreeSet::new(),
        };
        for document in all.union(&input.dirty.named) {
            let compiled = |inventory: &Inventory| {
                let compiled = inventory.get(document)?;
                match &compiled.translated {
                    Translated::Named(ResourceType::Secret, resource) => {
                        let resource = secret(inventory, document, resource, input.name);
                        Some((ResourceType::Secret, resource))
                    }
                    Translated::Named(resource_type, resource) => {
                        let is_for = compiled.document().is_for(input.name);
                        Some((*resource_type, is_for.then(|| Arc::clone(resource))))
                    }
                    _ => None,
                }
            };
            let (before, after) = (compiled(input.before), compiled(input.after));
            let Some((resource_type, _)) = after.as_ref().or(before.as_ref()) else {
                continue;
            };
            let key = (*resource_type, Arc::clone(&document.name));
            self.set(input, key, after.and_then(|(_, resource)| resource), outcome);
        }
    }
}

/// The Secret of a document in a group. Without `groups` it goes to the groups of its users, or to every group if it has
/// none. A Secret without a user in the group is sent by name only.
fn secret(inventory: &Inventory, key: &DocumentKey, secret: &Arc<Resource>, group: &str) -> Option<Arc<Resource>> {
    let is_used = inventory.is_named_in(key, group);
    let is_for = match inventory.document(key)?.groups() {
        Some(groups) => groups.contains(group),
        None => is_used || !inventory.is_named(key),
    };
    is_for.then(|| match is_used {
        true => Arc::clone(secret),
        false => Arc::new(Resource {
            on_demand: true,
            ..(**secret).clone()
        }),
    })
}

/// The documents of a resource whose findings may change with an xds document of the same name.
fn named_makers(resource: &Resource) -> impl Iterator<Item = &DocumentKey> {
    resource.made_of().filter(|key| {
        matches!(
            key.kind,
            Kind::Clusters | Kind::Listeners | Kind::Runtime | Kind::Secrets
        )
    })
}

/// The document of a listener; none for the default listener.
fn listener_document(input: &GroupInput<'_>, name: &Arc<str>) -> Vec<DocumentKey> {
    let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
    input.after.get(&key).map(|_| key).into_iter().collect()
}

/// The routes whose entries change when the policies of their listener do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repoliced {
    /// Those with policies of their own.
    WithPolicies,
    /// All.
    Every,
}

/// The form of the entries of a route in a table for Envoy or for gRPC clients.
fn said_for(
    input: &GroupInput<'_>,
    grpc: bool,
    on: Option<&OnListener>,
    compiled: &CompiledDocument,
    entries: &[Arc<Entry>],
) -> Vec<Arc<Entry>> {
    match grpc {
        true => entries.iter().map(|entry| grpc::entry(entry)).collect(),
        false => policies::entries(input, on, compiled, entries),
    }
}

/// Update the part of a document whose policies are in a table.
fn set_part_of_policies(input: &GroupInput<'_>, parts: &mut Parts, key: &DocumentKey) {
    let maker = input
        .after
        .get(key)
        .filter(|_| policies::is_maker(input.after, input.name, key));
    match maker {
        Some(compiled) => parts.insert(
            key.clone(),
            Part {
                revision: compiled.accepted.mod_revision,
                upstreams: policies::services(key, compiled.document()),
            },
        ),
        None => parts.remove(key),
    };
}

/// Update the part of one document in a listener's table.
fn set_part(input: &GroupInput<'_>, on: On<'_>, parts: &mut Parts, key: &DocumentKey) {
    let compiled = input
        .after
        .get(key)
        .filter(|compiled| key.kind == Kind::Listeners || !entries_on(compiled, input.name, on).is_empty());
    match compiled.map(|compiled| (&compiled.translated, compiled.accepted.mod_revision)) {
        Some((Translated::Route { upstreams, .. }, revision)) => parts.insert(
            key.clone(),
            Part {
                revision,
                upstreams: upstreams.iter().map(|(name, _)| Arc::clone(name)).collect(),
            },
        ),
        // The entry behind all routes, and the policies of the listener.
        Some((Translated::Listener(_), revision)) => parts.insert(
            key.clone(),
            Part {
                revision,
                upstreams: compiled
                    .map(|compiled| policies::services(key, compiled.document()))
                    .unwrap_or_default(),
            },
        ),
        _ => parts.remove(key),
    };
}

/// An entry of the listener itself, with its policies.
fn policed(entry: &Arc<Entry>, policies: Option<&Arc<OnListener>>) -> Arc<Entry> {
    policies.map_or_else(|| Arc::clone(entry), |on| on.over(entry))
}

fn is_tcp(input: &GroupInput<'_>, listener: &Arc<str>) -> bool {
    let document = input
        .after
        .document(&DocumentKey::new(Kind::Listeners, Arc::clone(listener)));
    document.is_some_and(Document::is_tcp_listener)
}

/// The name of the Listener of HTTP/3 beside a Listener.
fn quic_name(listener: &str) -> Arc<str> {
    format!("{listener}/quic").into()
}

fn is_on_demand(routing: &Routing) -> bool {
    routing.virtual_hosts == VirtualHosts::OnDemand
}

fn filled_table(
    input: &GroupInput<'_>,
    listener: &Arc<str>,
    last_resort: Option<&Arc<Entry>>,
    policies: Option<&Arc<OnListener>>,
) -> (Table, Logins, Touched) {
    let (mut table, mut touched) = (Table::default(), Touched::default());
    let mut logins = Logins::new();
    let for_grpc = input.after.is_api(listener);
    let on = input.after.on(listener);
    let routes = input.after.routes_for(listener);
    for (key, compiled) in routes.filter_map(|key| Some((key, input.after.get(key)?))) {
        let entries = entries_on(compiled, input.name, on);
        let own = match for_grpc {
            true => Vec::new(),
            false => policies::logins(input, policies.map(|policies| &**policies), compiled, entries),
        };
        own.iter().for_each(|entry| table.insert(entry, &mut touched));
        if !own.is_empty() {
            logins.insert(key.clone(), own.into());
        }
        for entry in said_for(input, for_grpc, policies.map(|policies| &**policies), compiled, entries) {
            table.insert(&entry, &mut touched);
        }
    }
    if let Some(entry) = last_resort {
        table.insert(&policed(entry, policies), &mut touched);
    }
    if let Some(policies) = policies {
        table.insert(&policies.not_found(), &mut touched);
    }
    (table, logins, touched)
}

/// The Clusters and `ClusterLoadAssignments` that a name has in a group.
#[derive(Default)]
struct Upstreams {
    cluster: Option<Arc<Resource>>,
    endpoints: Option<Arc<Resource>>,
    /// If the Cluster is an aggregate: the Cluster with the document's own endpoints, and these.
    own: Option<(Arc<Resource>, Option<Arc<Resource>>)>,
}

/// The resources of the document of a name, or generated ones if only routes name it.
fn upstreams(input: &GroupInput<'_>, name: &Arc<str>) -> Upstreams {
    if let Some((cluster, upstreams, compiled)) = input.after.cluster(name)
        && compiled.document().is_for(input.name)
    {
        let endpoints = match cluster.registered_as(name) {
            Some(_) => Some(registered(input, name, cluster)),
            None => upstreams.endpoints.clone(),
        };
        let own = Arc::clone(&upstreams.cluster);
        if !cluster.failover.is_empty() {
            return Upstreams {
                cluster: Some(failover::aggregate(input, name, cluster)),
                endpoints: None,
                own: Some((own, endpoints)),
            };
        }
        return Upstreams {
            cluster: Some(own),
            endpoints,
            own: None,
        };
    }

    let (cluster, endpoints) = generated(input, name).unzip();
    Upstreams {
        cluster,
        endpoints: endpoints.flatten(),
        own: None,
    }
}

/// The Cluster and the ClusterLoadAssignment of a name that no document of the group describes and that routes name.
fn generated(input: &GroupInput<'_>, name: &Arc<str>) -> Option<(Arc<Resource>, Option<Arc<Resource>>)> {
    let users: Vec<DocumentKey> = input
        .after
        .users_in(name, input.name)
        .take(NAMED_USERS)
        .cloned()
        .collect();

    if users.is_empty() {
        return None;
    }

    let inline = input
        .after
        .url(name)
        .and_then(|url| translate::inline(input.context, url, users.clone()).ok());
    if let Some(upstreams) = inline {
        return Some((upstreams.cluster, upstreams.endpoints));
    }

    // An xds document comes before a generated resource.
    let written = |resource_type| verbatim(input.after, input.name, &(resource_type, Arc::clone(name))).is_some();
    if written(ResourceType::Cluster) {
        return None;
    }

    let upstreams = translate::missing(name, users);
    Some((
        upstreams.cluster,
        upstreams.endpoints.filter(|_| !written(ResourceType::Endpoint)),
    ))
}

/// The endpoints of a cluster whose instances register themselves.
fn registered(input: &GroupInput<'_>, name: &Arc<str>, cluster: &Cluster) -> Arc<Resource> {
    let (keys, endpoints): (Vec<_>, Vec<_>) = offers::taken(input.after, input.context, name).unzip();
    let mut documents = vec![DocumentKey::new(Kind::Clusters, Arc::clone(name))];
    documents.extend(keys.into_iter().cloned());
    documents.sort_unstable();
    translate::registered(&clusters::own_name(name, cluster), &endpoints, documents)
}

/// Faults for the newest routes, as many as are needed to get below the limit if each has its own entries only.
fn too_many(input: &GroupInput<'_>, listener: &Arc<str>, table: &Table, entries: usize) -> Vec<Fault> {
    let on = input.after.on(listener);
    if input.is_brief {
        return table
            .documents()
            .find(|key| key.kind == Kind::Routes)
            .map(|key| too_many_of(input, listener, key, entries))
            .into_iter()
            .collect();
    }
    let mut documents: Vec<(i64, &Arc<DocumentKey>)> = table
        .documents()
        .filter(|key| key.kind == Kind::Routes)
        .filter_map(|key| Some((input.after.get(key)?.accepted.mod_revision, key)))
        .collect();
    documents.sort_unstable();
    let mut excess = entries.saturating_sub(input.bounds.entries);
    let mut faults = Vec::new();
    while excess > 0
        && let Some((_, key)) = documents.pop()
    {
        let own = input
            .after
            .get(key)
            .map_or(&[][..], |compiled| entries_on(compiled, input.name, on));
        let own: usize = own.iter().map(|entry| entry.routes.len()).sum();
        // Copies in narrower virtual hosts are not counted: one more round is better than one rejected document too
        // many.
        excess = excess.saturating_sub(own.max(1));
        faults.push(too_many_of(input, listener, key, entries));
    }

    faults
}

fn too_many_of(input: &GroupInput<'_>, listener: &Arc<str>, key: &DocumentKey, entries: usize) -> Fault {
    let reason = format!(
        "found {entries} entries in the RouteConfiguration {listener} of group {}, \
         expected at most {} (copies of wider hosts' entries included)",
        input.name, input.bounds.entries
    );
    Fault::of_itself(key.clone(), Rejection::new("", reason))
}
