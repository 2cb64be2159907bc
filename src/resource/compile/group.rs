//! One group of proxies: its resources, and the table behind each RouteConfiguration. Persistent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::inventory::{Inventory, Unit};
use super::{Fault, conflicts, unmet};
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::VirtualHosts;
use crate::document::{Document, Rejection, xds};
use crate::resource::compile::context::Context;
use crate::resource::compile::depends::Units;
use crate::resource::compile::parts::{Part, Parts};
use crate::resource::compile::translate::{self, Made, Served};
use crate::resource::grpc;
use crate::resource::table::{Entry, HostKey, Table, Touched};
use crate::resource::{Resource, ResourceType};

/// How many of the routes that use it a generated cluster names as its documents: thousands may share one.
const NAMED_USERS: usize = 16;

/// A resource within a group.
pub(super) type ResourceKey = (ResourceType, Arc<str>);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupState {
    /// What is served.
    pub(super) resources: OrdMap<ResourceKey, Arc<Resource>>,
    /// What was compiled of other documents under the name of an xds document, whichever of the two is served.
    pub(super) beneath: OrdMap<ResourceKey, Arc<Resource>>,
    pub(super) tables: OrdMap<Arc<str>, Table>,
    /// What each document has in a table, by the listener's name.
    parts: OrdMap<Arc<str>, Parts>,
    /// Listeners whose virtual hosts are resources of their own.
    on_demand: OrdSet<Arc<str>>,
}

/// Everything that a group's compilation looks at: the documents before and after, and what they touch.
pub(super) struct Scene<'a> {
    pub(super) context: &'a Context,
    pub(super) before: &'a Inventory,
    pub(super) after: &'a Inventory,
    pub(super) units: &'a Units,
    pub(super) name: &'a Arc<str>,
    /// The group did not exist before: everything is compiled.
    pub(super) fresh: bool,
    /// The most entries in one RouteConfiguration.
    pub(super) most_entries: usize,
}

/// What came of one group's compilation.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Resources that may have changed.
    pub(super) touched: BTreeSet<ResourceKey>,
    /// Documents whose standing may have changed.
    pub(super) concerned: BTreeSet<DocumentKey>,
    /// What cannot be together.
    pub(super) faults: Vec<Fault>,
}

impl GroupState {
    /// Compile again what is touched.
    pub(super) fn update(&mut self, scene: &Scene<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut tables: BTreeMap<Arc<str>, Touched> = BTreeMap::new();
        self.update_verbatim(scene, &mut outcome);
        if scene.fresh || !scene.units.listeners.is_empty() || scene.units.every_listener {
            self.update_listeners(scene, &mut tables, &mut outcome);
        }
        self.update_entries(scene, &mut tables);
        self.encode_tables(scene, tables, &mut outcome);
        self.update_upstreams(scene, &mut outcome);
        if scene.fresh
            || scene.units.every_listener
            || !scene.units.listeners.is_empty()
            || !scene.units.verbatim.is_empty()
        {
            outcome
                .faults
                .extend(conflicts::conflicts(scene.after, scene.name, &self.resources));
        }
        outcome.faults.extend(unmet::unmet(scene, &self.resources));
        outcome
    }

    /// Put what other documents than xds make of a name in its place: served, or beneath an xds document.
    fn set(&mut self, scene: &Scene<'_>, key: ResourceKey, resource: Option<Arc<Resource>>, outcome: &mut Outcome) {
        let Some((document, unit)) = verbatim(scene.after, scene.name, &key) else {
            let beneath = self.beneath.remove(&key);
            outcome
                .concerned
                .extend(beneath.iter().flat_map(|resource| named_makers(resource)).cloned());
            return self.serve(key, resource, outcome);
        };
        let replaces = unit.document().as_xds().is_some_and(|xds| xds.replace);
        let written = match &unit.made {
            Made::Verbatim(made) if replaces || resource.is_none() => Some(Arc::clone(&made.resource)),
            _ => resource.clone(),
        };
        let beneath = match resource {
            Some(resource) => self.beneath.insert(key.clone(), resource),
            None => self.beneath.remove(&key),
        };
        let makers = [beneath.as_ref(), self.beneath.get(&key)].into_iter().flatten();
        outcome
            .concerned
            .extend(makers.flat_map(|resource| named_makers(resource)).cloned());
        outcome.concerned.insert(document);
        self.serve(key, written, outcome);
    }

    fn serve(&mut self, key: ResourceKey, resource: Option<Arc<Resource>>, outcome: &mut Outcome) {
        match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(&key),
        };
        outcome.touched.insert(key);
    }

    /// Xds documents that came, went or changed, over what was compiled until now.
    fn update_verbatim(&mut self, scene: &Scene<'_>, outcome: &mut Outcome) {
        let all: BTreeSet<DocumentKey> = match scene.fresh {
            true => scene.after.of_kind(Kind::Xds).map(|(key, _)| key.clone()).collect(),
            false => BTreeSet::new(),
        };
        for document in all.union(&scene.units.verbatim) {
            let Some((word, name)) = xds::split(&document.name) else {
                continue;
            };
            let Some(resource_type) = ResourceType::from_word(word) else {
                continue;
            };
            let key = (resource_type, Arc::from(name));
            let was_over = !scene.fresh && verbatim(scene.before, scene.name, &key).is_some();
            let compiled = if was_over {
                self.beneath.get(&key)
            } else {
                self.resources.get(&key)
            };
            let compiled = compiled.cloned();
            self.set(scene, key, compiled, outcome);
        }
    }

    /// Listeners that came, went or changed; a new one's table is filled with every route that is on it.
    fn update_listeners(&mut self, scene: &Scene<'_>, tables: &mut BTreeMap<Arc<str>, Touched>, outcome: &mut Outcome) {
        let listeners = scene.after.listeners(scene.name);
        outcome.faults.extend(address_conflict(&listeners));
        let served = |unit: Option<&Arc<Unit>>| match unit.map(|unit| &unit.made) {
            Some(Made::Listener(served)) => served.clone(),
            _ => translate::default_listener(scene.context),
        };
        let served: BTreeMap<Arc<str>, Served> =
            listeners.into_iter().map(|(name, unit)| (name, served(unit))).collect();
        // A table for gRPC clients is filled otherwise than one for Envoy; one whose virtual hosts come otherwise than
        // before has other resources.
        let stays = |name: &Arc<str>| {
            let on_demand = served
                .get(name)
                .map(|served| served.virtual_hosts == VirtualHosts::OnDemand);
            on_demand == Some(self.on_demand.contains(name)) && scene.before.is_api(name) == scene.after.is_api(name)
        };
        let gone: Vec<Arc<str>> = self.tables.keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            self.remove_listener(scene, name, outcome);
        }
        for (
            name,
            Served {
                listener,
                virtual_hosts,
            },
        ) in served
        {
            self.set(
                scene,
                (ResourceType::Listener, Arc::clone(&name)),
                Some(listener),
                outcome,
            );
            if virtual_hosts == VirtualHosts::OnDemand {
                self.on_demand.insert(Arc::clone(&name));
            }
            if !self.tables.contains_key(&name) {
                let (table, touched) = filled_table(scene, &name);
                self.tables.insert(Arc::clone(&name), table);
                tables.insert(name, touched);
            }
        }
    }

    fn remove_listener(&mut self, scene: &Scene<'_>, name: Arc<str>, outcome: &mut Outcome) {
        let table = self.tables.remove(&name).unwrap_or_default();
        outcome.concerned.extend(table.documents().map(|key| (**key).clone()));
        if self.on_demand.remove(&name).is_some() {
            for host in table.hosts() {
                let host = translate::virtual_host_name(&name, host);
                self.set(scene, (ResourceType::VirtualHost, host), None, outcome);
            }
        }
        self.parts.remove(&name);
        self.set(scene, (ResourceType::Listener, Arc::clone(&name)), None, outcome);
        self.set(scene, (ResourceType::Route, name), None, outcome);
    }

    /// The entries of the routes that changed, in the tables that existed before.
    fn update_entries(&mut self, scene: &Scene<'_>, tables: &mut BTreeMap<Arc<str>, Touched>) {
        let names: Vec<Arc<str>> = self
            .tables
            .keys()
            .filter(|name| !tables.contains_key(*name))
            .cloned()
            .collect();
        for name in names {
            let mut touched = Touched::default();
            let for_grpc = scene.after.is_api(&name);
            for key in &scene.units.routes {
                let (old, new) = (scene.before.unit(key), scene.after.unit(key));
                let removed = old.map_or(&[][..], |unit| entries_on(unit, scene.name, &name));
                let inserted = new.map_or(&[][..], |unit| entries_on(unit, scene.name, &name));
                if removed.is_empty() && inserted.is_empty() {
                    continue;
                }
                if let Some(table) = self.tables.get_mut(&name) {
                    removed.iter().for_each(|entry| table.remove(entry, &mut touched));
                    inserted
                        .iter()
                        .for_each(|entry| table.insert(&said_for(for_grpc, entry), &mut touched));
                }
            }
            if !touched.documents.is_empty() {
                tables.insert(name, touched);
            }
        }
    }

    fn encode_tables(&mut self, scene: &Scene<'_>, tables: BTreeMap<Arc<str>, Touched>, outcome: &mut Outcome) {
        for (name, touched) in tables {
            let Some(table) = self.tables.get_mut(&name) else {
                continue;
            };
            match table.encode(&touched, scene.most_entries) {
                Ok(hosts) => {
                    let parts = self.parts.entry(Arc::clone(&name)).or_default();
                    touched
                        .documents
                        .iter()
                        .for_each(|key| set_part(scene, &name, parts, key));
                    let whole = translate::route_configuration(&name, table, parts.clone());
                    if self.on_demand.contains(&name) {
                        let (table, parts) = (table.clone(), parts.clone());
                        self.set_virtual_hosts(scene, &name, &table, &parts, &hosts, outcome);
                        let resource = translate::on_demand_configuration(whole, listener_document(scene, &name));
                        self.set(scene, (ResourceType::Route, name), Some(resource), outcome);
                    } else {
                        self.set(scene, (ResourceType::Route, name), Some(whole), outcome);
                    }
                }
                Err(entries) => outcome.faults.extend(too_many(scene, &name, table, entries)),
            }
            outcome.concerned.extend(touched.documents);
        }
    }

    /// The virtual hosts of these patterns, as resources of their own.
    fn set_virtual_hosts(
        &mut self,
        scene: &Scene<'_>,
        listener: &Arc<str>,
        table: &Table,
        parts: &Parts,
        hosts: &BTreeSet<HostKey>,
        outcome: &mut Outcome,
    ) {
        for host in hosts {
            let resource = translate::virtual_host(listener, table, host, |key| parts.get(key).cloned());
            let name = translate::virtual_host_name(listener, host);
            self.set(scene, (ResourceType::VirtualHost, name), resource, outcome);
        }
    }

    fn update_upstreams(&mut self, scene: &Scene<'_>, outcome: &mut Outcome) {
        let every = scene.fresh || scene.units.every_upstream;
        let all = if every {
            scene.after.upstream_names()
        } else {
            BTreeSet::new()
        };
        for name in all.union(&scene.units.upstreams) {
            let (cluster, endpoints) = upstreams(scene, name);
            self.set(scene, (ResourceType::Cluster, Arc::clone(name)), cluster, outcome);
            self.set(scene, (ResourceType::Endpoint, Arc::clone(name)), endpoints, outcome);
        }
    }
}

/// The documents that may have something to say of an xds document in the place of their resource.
fn named_makers(resource: &Resource) -> impl Iterator<Item = &DocumentKey> {
    resource
        .made_of()
        .filter(|key| matches!(key.kind, Kind::Clusters | Kind::Listeners))
}

/// The xds document that a group has of a resource.
pub(super) fn verbatim<'a>(
    inventory: &'a Inventory,
    group: &str,
    (resource_type, name): &ResourceKey,
) -> Option<(DocumentKey, &'a Arc<Unit>)> {
    inventory
        .verbatim(*resource_type, name)
        .filter(|(_, unit)| unit.document().is_for(group))
}

/// A route's entries, if it is for this group and on this listener.
pub(super) fn entries_on<'a>(unit: &'a Unit, group: &str, listener: &str) -> &'a [Arc<Entry>] {
    match (unit.document(), &unit.made) {
        (Document::Route(route), Made::Route { entries, .. })
            if unit.document().is_for(group) && route.is_on(listener) =>
        {
            entries
        }
        _ => &[],
    }
}

/// The document of a listener; none of the one that exists without any.
fn listener_document(scene: &Scene<'_>, name: &Arc<str>) -> Vec<DocumentKey> {
    let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
    scene.after.unit(&key).map(|_| key).into_iter().collect()
}

/// An entry as it stands in a table.
fn said_for(grpc: bool, entry: &Arc<Entry>) -> Arc<Entry> {
    if grpc { grpc::entry(entry) } else { Arc::clone(entry) }
}

/// What one document has in a listener's table now.
fn set_part(scene: &Scene<'_>, listener: &str, parts: &mut Parts, key: &DocumentKey) {
    let unit = scene
        .after
        .unit(key)
        .filter(|unit| !entries_on(unit, scene.name, listener).is_empty());
    match unit.map(|unit| (&unit.made, unit.accepted.mod_revision)) {
        Some((Made::Route { upstreams, .. }, revision)) => parts.insert(
            key.clone(),
            Part {
                revision,
                upstreams: upstreams.iter().map(|(name, _)| Arc::clone(name)).collect(),
            },
        ),
        _ => parts.remove(key),
    };
}

fn filled_table(scene: &Scene<'_>, listener: &Arc<str>) -> (Table, Touched) {
    let (mut table, mut touched) = (Table::default(), Touched::default());
    let for_grpc = scene.after.is_api(listener);
    for (_, unit) in scene.after.of_kind(Kind::Routes) {
        for entry in entries_on(unit, scene.name, listener) {
            table.insert(&said_for(for_grpc, entry), &mut touched);
        }
    }
    (table, touched)
}

/// The Cluster and the ClusterLoadAssignment that a name stands for in a group: the document's, or generated ones when
/// only routes name it.
fn upstreams(scene: &Scene<'_>, name: &Arc<str>) -> (Option<Arc<Resource>>, Option<Arc<Resource>>) {
    if let Some((_, made, unit)) = scene.after.cluster(name)
        && unit.document().is_for(scene.name)
    {
        let endpoints = if scene.after.is_registered(name) {
            Some(registered(scene.after, name))
        } else {
            made.endpoints.clone()
        };
        return (Some(Arc::clone(&made.cluster)), endpoints);
    }
    let users: Vec<DocumentKey> = scene
        .after
        .users_in(name, scene.name)
        .take(NAMED_USERS)
        .cloned()
        .collect();
    if users.is_empty() {
        return (None, None);
    }
    let inline = scene
        .after
        .url(name)
        .and_then(|url| translate::inline(scene.context, url, users.clone()).ok());
    if let Some(made) = inline {
        return (Some(made.cluster), made.endpoints);
    }
    // A stand-in gives way to what is written as it is.
    let written = |resource_type| verbatim(scene.after, scene.name, &(resource_type, Arc::clone(name))).is_some();
    if written(ResourceType::Cluster) {
        return (None, None);
    }
    let made = translate::missing(name, users);
    (
        Some(made.cluster),
        made.endpoints.filter(|_| !written(ResourceType::Endpoint)),
    )
}

fn registered(inventory: &Inventory, name: &Arc<str>) -> Arc<Resource> {
    let (keys, endpoints): (Vec<_>, Vec<_>) = inventory.instances(name).unzip();
    let mut documents = vec![DocumentKey::new(Kind::Clusters, Arc::clone(name))];
    documents.extend(keys.into_iter().cloned());
    documents.sort_unstable();
    translate::registered(name, &endpoints, documents)
}

/// When a listener was written, and its name.
type Written<'a> = (i64, &'a Arc<str>);

/// Two listeners on one address: the one written last is at fault.
fn address_conflict(listeners: &BTreeMap<Arc<str>, Option<&Arc<Unit>>>) -> Vec<Fault> {
    let mut by_address: BTreeMap<SocketAddr, Vec<Written<'_>>> = BTreeMap::new();
    for (name, unit) in listeners {
        let Some(unit) = unit else { continue };
        if let Some(address) = unit.document().as_listener().and_then(|listener| listener.address) {
            let at = by_address.entry(address).or_default();
            at.push((unit.accepted.mod_revision, name));
        }
    }
    by_address
        .into_iter()
        .filter_map(|(address, mut at)| {
            at.sort_unstable();
            let (_, newest) = at.pop()?;
            let (_, other) = at.first()?;
            let reason =
                format!("found {address}, which listeners/{other} has already, expected an address of its own");
            let key = DocumentKey::new(Kind::Listeners, Arc::clone(newest));
            Some(Fault {
                key,
                rejection: Rejection::new("address", reason),
            })
        })
        .collect()
}

/// As many of the newest documents as it takes to come below the limit, counting each at its least.
fn too_many(scene: &Scene<'_>, listener: &Arc<str>, table: &Table, entries: usize) -> Vec<Fault> {
    let mut documents: Vec<(i64, &Arc<DocumentKey>)> = table
        .documents()
        .filter_map(|key| Some((scene.after.unit(key)?.accepted.mod_revision, key)))
        .collect();
    documents.sort_unstable();
    let mut excess = entries.saturating_sub(scene.most_entries);
    let mut faults = Vec::new();
    while excess > 0
        && let Some((_, key)) = documents.pop()
    {
        let own = scene
            .after
            .unit(key)
            .map_or(&[][..], |unit| entries_on(unit, scene.name, listener));
        let own: usize = own.iter().map(|entry| entry.routes.len()).sum();
        // Copies in narrower virtual hosts are not counted: rather one more round than one document too many.
        excess = excess.saturating_sub(own.max(1));
        let reason = format!(
            "found {entries} entries in the RouteConfiguration {listener} of group {}, expected at most {} (copies of wider hosts' entries included)",
            scene.name, scene.most_entries
        );
        faults.push(Fault {
            key: (**key).clone(),
            rejection: Rejection::new("", reason),
        });
    }
    faults
}
