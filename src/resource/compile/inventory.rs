//! Every accepted document with its translation, and the references between documents. Persistent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::accepted::{CompiledDocument, On, ResourceKey, has_extension};
use super::conflicts::{self, Claims, Examined, Makers};
use super::{Fault, Obstacle};
use crate::document::cluster::{Cluster, Source};
use crate::document::endpoint::{Endpoint, Registration};
use crate::document::group::Group;
use crate::document::host::Host;
use crate::document::key::{DocumentKey, Kind};
use crate::document::reference::{Misfit, Reference};
use crate::document::registry::Registry;
use crate::document::route::{Route, UpstreamUrl};
use crate::document::{DEFAULT_GROUP, Document, listener};
use crate::resource::ResourceType;
use crate::resource::compile::depends::Dirty;
use crate::resource::compile::translate::{Served, Translated, Upstreams};

/// The address of an instance.
pub type Address = (Host, u16);

/// All registrations of one address. The one written last is served.
type Registrants = OrdMap<(i64, DocumentKey), Arc<Document>>;

/// The documents that name one document.
#[derive(Debug, Clone, Default)]
struct Users {
    keys: OrdSet<DocumentKey>,
    /// How many of them are for a group; `None`: for all groups.
    groups: OrdMap<Option<Arc<str>>, usize>,
}

/// See the module. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory {
    documents: OrdMap<DocumentKey, Arc<CompiledDocument>>,
    /// Documents, xds ones aside, by the upstream that they name, whatever the groups of the two are.
    users: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// Xds documents by the clusters that they name.
    verbatim_users: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// The users of documents that others name.
    named: OrdMap<DocumentKey, Users>,
    /// Clusters documents by the clusters that take over from them.
    failing_over: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// Xds documents with needs (`unmet`).
    with_needs: OrdSet<DocumentKey>,
    /// Routes by the listeners that they name.
    on_listener: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// Routes that name no listener.
    on_every_listener: OrdSet<DocumentKey>,
    claims: Claims,
    /// Documents with lists of policies.
    with_policies: OrdSet<DocumentKey>,
    /// Documents with a policy in a filter with a state: their own, or one in a list.
    with_extensions: OrdSet<DocumentKey>,
    /// Registrations by source and address.
    registered: OrdMap<Arc<str>, OrdMap<Address, Registrants>>,
    /// Clusters documents by the source of a registry that they name.
    sourced: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// The names of API listeners.
    api_listeners: OrdSet<Arc<str>>,
    /// Listeners documents that are not accepted.
    unaccepted: OrdSet<DocumentKey>,
    /// The names of all groups; `default` always exists.
    groups: OrdSet<Arc<str>>,
}

impl Inventory {
    /// Without documents: the default listener has its address.
    pub(super) fn empty() -> Self {
        let mut inventory = Self {
            groups: OrdSet::unit(DEFAULT_GROUP.into()),
            ..Self::default()
        };
        let listener = (ResourceType::Listener, listener::DEFAULT_NAME.into());
        inventory.set_claims(&listener, &mut Examined::new());
        inventory
    }

    pub(super) fn get(&self, key: &DocumentKey) -> Option<&Arc<CompiledDocument>> {
        self.documents.get(key)
    }

    pub(super) fn document(&self, key: &DocumentKey) -> Option<&Document> {
        self.documents.get(key).map(|compiled| compiled.document())
    }

    /// All documents of one kind, sorted by name.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&DocumentKey, &Arc<CompiledDocument>)> {
        self.documents
            .range(DocumentKey::new(kind, "")..)
            .take_while(move |(key, _)| key.kind == kind)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DocumentKey, &Arc<CompiledDocument>)> {
        self.documents.iter()
    }

    /// Replace the document under a key; `None` removes it. `examined` gets the documents that may be in conflict now.
    pub(super) fn set(&mut self, key: &DocumentKey, compiled: Option<CompiledDocument>, examined: &mut Examined) {
        let (had_listeners, is_new) = (self.has_listeners(), compiled.is_some());
        let old = self.documents.remove(key);
        if let Some(old) = &old {
            self.forget(key, old);
        }
        if let Some(compiled) = compiled {
            self.remember(key, &compiled);
            self.documents.insert(key.clone(), Arc::new(compiled));
        }

        if key.kind == Kind::Groups && old.is_some() != is_new {
            match is_new || &*key.name == DEFAULT_GROUP {
                true => self.groups.insert(Arc::clone(&key.name)),
                false => self.groups.remove(&key.name),
            };
            let resources: Vec<ResourceKey> = self.claims.resources().cloned().collect();
            resources
                .iter()
                .for_each(|resource| self.set_claims(resource, examined));
        }
        if let Some(resource) = conflicts::resource_of(key) {
            self.set_claims(&resource, examined);
        }
        self.after_listeners(had_listeners, examined);
    }

    /// Note whether there is a listeners document that is not accepted.
    pub(super) fn set_unaccepted(&mut self, key: &DocumentKey, is_unaccepted: bool, examined: &mut Examined) {
        let had_listeners = self.has_listeners();
        match is_unaccepted {
            true => self.unaccepted.insert(key.clone()),
            false => self.unaccepted.remove(key),
        };
        self.after_listeners(had_listeners, examined);
    }

    /// The default listener comes or goes with its claims.
    fn after_listeners(&mut self, had_listeners: bool, examined: &mut Examined) {
        if had_listeners != self.has_listeners() {
            self.set_claims(&(ResourceType::Listener, listener::DEFAULT_NAME.into()), examined);
        }
    }

    fn set_claims(&mut self, resource: &ResourceKey, examined: &mut Examined) {
        let mut claims = std::mem::take(&mut self.claims);
        let (resource_type, name) = resource;
        let key = DocumentKey::new(Kind::Xds, format!("{resource_type}/{name}"));
        let written = self.documents.get(&key).map(|compiled| (&key, &**compiled));
        let compiled = match resource_type {
            ResourceType::Listener => self.listener(name).map(|compiled| compiled.map(|compiled| &**compiled)),
            _ => None,
        };
        let makers = Makers { written, compiled };
        claims.set(resource, &makers, &self.groups, examined);
        self.claims = claims;
    }

    /// A document that an older one does not let serve. Empties `examined` as far as no document is at fault.
    pub(super) fn next_conflict(&self, examined: &mut Examined) -> Option<Fault> {
        while let Some(claimant) = examined.pop_first() {
            let fault = self.claims.fault(&claimant, &self.groups, examined, &self.documents);
            if fault.is_some() {
                return fault;
            }
        }
        None
    }

    /// Whether what kept a document from serving is still in its way.
    pub(super) fn has_obstacle(&self, document: &Document, obstacle: &Obstacle) -> bool {
        match obstacle {
            Obstacle::Claimant { what, key } => self.claims.claims(document, what, key.as_ref()),
            Obstacle::NoCluster(name) => !self.describes(name),
            Obstacle::Reference { user, named } => {
                let mut references = document.references().into_iter();
                references.any(|reference| reference.key == *named && self.misfit(user, document, &reference).is_some())
            }
            Obstacle::Text { key, mod_revision } => self
                .documents
                .get(key)
                .is_some_and(|compiled| compiled.accepted.mod_revision == *mod_revision),
        }
    }

    /// The fault of one reference of a document, if the named document does not fit.
    pub(super) fn misfit(&self, user: &DocumentKey, document: &Document, reference: &Reference) -> Option<Misfit> {
        reference.fault(user, document.groups(), self.document(&reference.key))
    }

    fn remember(&mut self, key: &DocumentKey, compiled: &CompiledDocument) {
        for named in compiled.names() {
            let users = self.named.entry(named).or_default();
            users.keys.insert(key.clone());
            for group in groups_of(compiled.document()) {
                *users.groups.entry(group).or_default() += 1;
            }
        }
        for (name, _) in compiled.translated.upstreams() {
            add_user(&mut self.users, name, key);
        }
        listeners_of(compiled).for_each(|name| add_user(&mut self.on_listener, name, key));
        if is_on_every_listener(compiled) {
            self.on_every_listener.insert(key.clone());
        }
        if let Translated::Verbatim(written) = &compiled.translated {
            written
                .clusters
                .iter()
                .for_each(|name| add_user(&mut self.verbatim_users, name, key));
            if !written.needs.is_empty() {
                self.with_needs.insert(key.clone());
            }
        }

        if let Document::Cluster(cluster) = compiled.document() {
            cluster
                .failover
                .iter()
                .for_each(|name| add_user(&mut self.failing_over, name, key));
            if let Some(source) = source_in_registry(key, cluster) {
                add_user(&mut self.sourced, &source, key);
            }
        }

        if compiled.document().policy_lists().next().is_some() {
            self.with_policies.insert(key.clone());
        }
        if has_extension(key, compiled.document()) {
            self.with_extensions.insert(key.clone());
        }
        if compiled.document().is_api_listener() {
            self.api_listeners.insert(Arc::clone(&key.name));
        }

        if let Document::Endpoint(registration) = compiled.document() {
            let instances = self.registered.entry(key.first_segment().into()).or_default();
            let registrants = instances.entry(address(registration.endpoint())).or_default();
            registrants.insert(
                (compiled.accepted.mod_revision, key.clone()),
                Arc::clone(&compiled.accepted.document),
            );
        }
    }

    fn forget(&mut self, key: &DocumentKey, compiled: &CompiledDocument) {
        for named in compiled.names() {
            let Some(users) = self.named.get_mut(&named) else {
                continue;
            };
            users.keys.remove(key);
            for group in groups_of(compiled.document()) {
                match users.groups.get_mut(&group) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(users.groups.remove(&group)),
                }
            }
            if users.keys.is_empty() {
                self.named.remove(&named);
            }
        }
        for (name, _) in compiled.translated.upstreams() {
            remove_user(&mut self.users, name, key);
        }
        listeners_of(compiled).for_each(|name| remove_user(&mut self.on_listener, name, key));
        self.on_every_listener.remove(key);
        if let Translated::Verbatim(written) = &compiled.translated {
            written
                .clusters
                .iter()
                .for_each(|name| remove_user(&mut self.verbatim_users, name, key));
            self.with_needs.remove(key);
        }

        if let Document::Cluster(cluster) = compiled.document() {
            cluster
                .failover
                .iter()
                .for_each(|name| remove_user(&mut self.failing_over, name, key));
            if let Some(source) = source_in_registry(key, cluster) {
                remove_user(&mut self.sourced, &source, key);
            }
        }

        self.with_policies.remove(key);
        self.with_extensions.remove(key);
        if compiled.document().is_api_listener() {
            self.api_listeners.remove(&key.name);
        }

        if let Document::Endpoint(registration) = compiled.document() {
            let cluster = key.first_segment();
            let Some(instances) = self.registered.get_mut(cluster) else {
                return;
            };
            let address = address(registration.endpoint());
            if let Some(registrants) = instances.get_mut(&address) {
                registrants.remove(&(compiled.accepted.mod_revision, key.clone()));
                if registrants.is_empty() {
                    instances.remove(&address);
                }
            }
            if instances.is_empty() {
                self.registered.remove(cluster);
            }
        }
    }

    /// The names of all groups; `default` always exists.
    pub(super) fn groups(&self) -> &OrdSet<Arc<str>> {
        &self.groups
    }

    /// The groups documents.
    pub(super) fn group_rules(&self) -> impl Iterator<Item = (&Arc<str>, &Group)> {
        self.of_kind(Kind::Groups)
            .filter_map(|(key, compiled)| match compiled.document() {
                Document::Group(group) => Some((&key.name, group)),
                _ => None,
            })
    }

    /// Whether there is any listeners document, accepted or not. While there is none, there is the default listener.
    pub(super) fn has_listeners(&self) -> bool {
        !self.unaccepted.is_empty() || self.of_kind(Kind::Listeners).next().is_some()
    }

    /// A listener of any group; `Some(None)` is the default listener.
    pub(super) fn listener(&self, name: &Arc<str>) -> Option<Option<&Arc<CompiledDocument>>> {
        match self.documents.get(&DocumentKey::new(Kind::Listeners, Arc::clone(name))) {
            Some(compiled) => Some(Some(compiled)),
            None if &**name == listener::DEFAULT_NAME && !self.has_listeners() => Some(None),
            None => None,
        }
    }

    /// A listener of a group.
    pub(super) fn listener_in(&self, name: &Arc<str>, group: &str) -> Option<Option<&Arc<CompiledDocument>>> {
        let is_for = |compiled: &Option<&Arc<CompiledDocument>>| {
            compiled.is_none_or(|compiled| compiled.document().is_for(group))
        };
        self.listener(name).filter(is_for)
    }

    /// Routes that name a listener, sorted.
    pub(super) fn routes_on(&self, listener: &str) -> impl Iterator<Item = &DocumentKey> {
        self.on_listener.get(listener).into_iter().flatten()
    }

    /// Routes that may be on a listener: those that name it, then those that name none.
    pub(super) fn routes_for(&self, listener: &str) -> impl Iterator<Item = &DocumentKey> {
        self.routes_on(listener).chain(&self.on_every_listener)
    }

    /// The routes among these that may be on a listener.
    pub(super) fn among_routes_for(&self, listener: &str, routes: &BTreeSet<DocumentKey>) -> BTreeSet<DocumentKey> {
        let named = self.on_listener.get(listener).map_or(0, OrdSet::len);
        let is_on = |key: &&DocumentKey| {
            let route = self.document(key).and_then(Document::as_route);
            route.is_some_and(|route| route.is_on(listener))
        };
        match routes.len() < named + self.on_every_listener.len() {
            true => routes.iter().filter(is_on).cloned().collect(),
            false => self
                .routes_for(listener)
                .filter(|key| routes.contains(key))
                .cloned()
                .collect(),
        }
    }

    /// The listeners of a group by name; `None` is the default listener, which exists while no document describes one.
    pub(super) fn listeners(&self, group: &str) -> BTreeMap<Arc<str>, Option<&Arc<CompiledDocument>>> {
        if !self.has_listeners() {
            return BTreeMap::from([(listener::DEFAULT_NAME.into(), None)]);
        }
        self.of_kind(Kind::Listeners)
            .filter(|(_, compiled)| compiled.document().is_for(group))
            .map(|(key, compiled)| (Arc::clone(&key.name), Some(compiled)))
            .collect()
    }

    /// The listeners document of a name.
    pub(super) fn listener_document(&self, name: &Arc<str>) -> Option<&Document> {
        self.document(&DocumentKey::new(Kind::Listeners, Arc::clone(name)))
    }

    /// The API listeners that a route may be on: those that it names, or all.
    pub(super) fn api_listeners_of<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = &'a Arc<str>> {
        let all = route.listeners.is_none().then_some(&self.api_listeners);
        let named = route.listeners.iter().flatten();
        let named = named.filter_map(|name| self.api_listeners.get(name));
        all.into_iter().flatten().chain(named)
    }

    /// The translation of a listeners document.
    pub(super) fn served(&self, listener: &Arc<str>) -> Option<&Served> {
        match &self
            .get(&DocumentKey::new(Kind::Listeners, Arc::clone(listener)))?
            .translated
        {
            Translated::Listener(served) => Some(served),
            _ => None,
        }
    }

    /// The port of HTTP/3 that the answers of a listener tell of.
    pub(super) fn http3_port(&self, listener: &Arc<str>) -> Option<u16> {
        self.served(listener)?.routing.as_ref()?.http3_port
    }

    /// A listener as the routes on it are chosen.
    pub(super) fn on<'a>(&self, listener: &'a Arc<str>) -> On<'a> {
        On {
            listener,
            by_name: self.served(listener).is_some_and(|served| served.last_resort.is_some()),
        }
    }

    /// Whether any API listener exists.
    pub(super) fn has_api_listener(&self) -> bool {
        !self.api_listeners.is_empty()
    }

    /// Whether a name is that of an API listener.
    pub(super) fn is_api(&self, listener: &Arc<str>) -> bool {
        self.api_listeners.contains(listener)
    }

    /// Documents that name a document by a reference, sorted.
    pub(super) fn users_of(&self, key: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.named.get(key).into_iter().flat_map(|users| &users.keys)
    }

    /// Whether a document names a document by a reference.
    pub(super) fn is_named(&self, key: &DocumentKey) -> bool {
        self.named.contains_key(key)
    }

    /// Whether a document of the group names a document by a reference.
    pub(super) fn is_named_in(&self, key: &DocumentKey, group: &str) -> bool {
        self.named.get(key).is_some_and(|users| {
            users.groups.contains_key(&None) || users.groups.contains_key(&Some(Arc::<str>::from(group)))
        })
    }

    /// Documents that name an upstream, in any group, sorted; xds documents aside.
    pub(super) fn users(&self, name: &str) -> impl Iterator<Item = &DocumentKey> {
        self.users.get(name).into_iter().flatten()
    }

    /// Documents with a list of policies that is not empty, sorted.
    pub(super) fn with_policies(&self) -> impl Iterator<Item = &DocumentKey> {
        self.with_policies.iter()
    }

    /// Documents with a policy in a filter with a state, sorted.
    pub(super) fn with_extensions(&self) -> &OrdSet<DocumentKey> {
        &self.with_extensions
    }

    /// Whether a document has a list of policies that is not empty.
    pub(super) fn is_with_policies(&self, key: &DocumentKey) -> bool {
        self.with_policies.contains(key)
    }

    /// Xds documents that name a cluster, in any group, sorted.
    pub(super) fn verbatim_users(&self, name: &str) -> impl Iterator<Item = &DocumentKey> {
        self.verbatim_users.get(name).into_iter().flatten()
    }

    /// Clusters documents whose `failover` names a cluster, in any group, sorted.
    pub(super) fn failing_over_to(&self, name: &str) -> impl Iterator<Item = &DocumentKey> {
        self.failing_over.get(name).into_iter().flatten()
    }

    /// Xds documents with needs, sorted: all, or those that a change makes dirty.
    pub(super) fn with_needs(&self, touched: Option<&Dirty>) -> BTreeSet<&DocumentKey> {
        let Some(dirty) = touched else {
            return self.with_needs.iter().collect();
        };
        let users = dirty.upstreams.iter().flat_map(|name| self.verbatim_users(name));
        // A document that was shadowed by another cluster may serve now.
        let described = dirty
            .upstreams
            .iter()
            .map(|name| DocumentKey::new(Kind::Xds, format!("clusters/{name}")));
        let touched = dirty.verbatim.iter().chain(users).cloned().chain(described);
        let kept = touched.filter_map(|key| self.documents.get_key_value(&key).map(|(key, _)| key));
        kept.filter(|key| self.with_needs.contains(*key)).collect()
    }

    /// The xds document of a resource, if it has needs.
    pub(super) fn needs_of(&self, resource_type: ResourceType, name: &str) -> Option<&DocumentKey> {
        let key = DocumentKey::new(Kind::Xds, format!("{resource_type}/{name}"));
        self.with_needs.get(&key)
    }

    /// Documents of a group that name an upstream, sorted; xds documents aside.
    pub(super) fn users_in(&self, name: &str, group: &str) -> impl Iterator<Item = &DocumentKey> {
        self.users(name)
            .filter(move |key| self.document(key).is_some_and(|route| route.is_for(group)))
    }

    /// The URL of an inline cluster.
    pub(super) fn url(&self, name: &str) -> Option<&UpstreamUrl> {
        let user = self.users(name).next()?;
        let upstreams = self.documents.get(user)?.translated.upstreams();
        let found = upstreams.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        upstreams.get(found)?.1.as_ref()
    }

    /// The xds document of a resource.
    pub(super) fn verbatim(
        &self,
        resource_type: ResourceType,
        name: &str,
    ) -> Option<(DocumentKey, &Arc<CompiledDocument>)> {
        let key = DocumentKey::new(Kind::Xds, format!("{resource_type}/{name}"));
        let compiled = self.documents.get(&key)?;
        Some((key, compiled))
    }

    /// Whether a document of any group describes a cluster.
    pub(super) fn describes(&self, cluster: &Arc<str>) -> bool {
        self.cluster(cluster).is_some() || self.verbatim(ResourceType::Cluster, cluster).is_some()
    }

    /// Every name that may have a Cluster: names of documents, and names that routes refer to.
    pub(super) fn upstream_names(&self) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = self
            .of_kind(Kind::Clusters)
            .map(|(key, _)| Arc::clone(&key.name))
            .collect();
        names.extend(self.users.keys().cloned());
        names
    }

    /// The clusters document of a name.
    pub(super) fn cluster(&self, name: &Arc<str>) -> Option<(&Cluster, &Upstreams, &Arc<CompiledDocument>)> {
        let compiled = self
            .documents
            .get(&DocumentKey::new(Kind::Clusters, Arc::clone(name)))?;
        match (compiled.document(), &compiled.translated) {
            (Document::Cluster(cluster), Translated::Cluster(upstreams)) => Some((&**cluster, upstreams, compiled)),
            _ => None,
        }
    }

    /// The source of a cluster's registrations; that of its own name if no document of the cluster names another source
    /// of endpoints.
    pub(super) fn source_of(&self, cluster: &Arc<str>) -> Arc<str> {
        let source = self
            .cluster(cluster)
            .and_then(|(document, ..)| document.registered_as(cluster));
        source.unwrap_or_else(|| Arc::clone(cluster))
    }

    /// The clusters that take their endpoints from a source of a registry, sorted.
    pub(super) fn clusters_of_source(&self, source: &str) -> impl Iterator<Item = &Arc<str>> {
        self.sourced.get(source).into_iter().flatten().map(|key| &key.name)
    }

    /// The registered instances of a source, one an address, sorted by address.
    pub(super) fn instances<'a>(
        &'a self,
        source: &str,
    ) -> impl Iterator<Item = (&'a DocumentKey, &'a Registration)> + use<'a> {
        let instances = self.registered.get(source).into_iter().flat_map(OrdMap::values);
        instances.filter_map(|registrants| {
            let ((_, key), document) = registrants.get_max()?;
            match &**document {
                Document::Endpoint(registration) => Some((key, registration)),
                _ => None,
            }
        })
    }

    /// Whether a registration of a source has this address.
    pub(super) fn is_registered_at(&self, source: &str, address: &Address) -> bool {
        self.registered
            .get(source)
            .is_some_and(|instances| instances.contains_key(address))
    }

    /// Every registration of a source, with its address.
    pub(super) fn registrations(&self, source: &str) -> impl Iterator<Item = (&DocumentKey, &Address)> {
        let instances = self.registered.get(source).into_iter().flatten();
        instances.flat_map(|(address, registrants)| registrants.keys().map(move |(_, key)| (key, address)))
    }

    /// The registries documents, sorted by name.
    pub(super) fn registries(&self) -> impl Iterator<Item = (&Arc<str>, &Registry)> {
        self.of_kind(Kind::Registries)
            .filter_map(|(key, compiled)| match compiled.document() {
                Document::Registry(registry) => Some((&key.name, registry)),
                _ => None,
            })
    }
}

/// The source of a registry that a clusters document names.
fn source_in_registry(key: &DocumentKey, cluster: &Cluster) -> Option<Arc<str>> {
    let is_in_registry = matches!(cluster.source, Source::Registry { .. });
    is_in_registry.then(|| cluster.registered_as(&key.name)).flatten()
}

/// The listeners that a route names; none: it is on every listener.
fn listeners_of(compiled: &CompiledDocument) -> impl Iterator<Item = &Arc<str>> {
    let route = compiled.document().as_route();
    route.into_iter().flat_map(|route| route.listeners.iter().flatten())
}

fn is_on_every_listener(compiled: &CompiledDocument) -> bool {
    let route = compiled.document().as_route();
    route.is_some_and(|route| route.listeners.is_none())
}

fn add_user(users: &mut OrdMap<Arc<str>, OrdSet<DocumentKey>>, name: &Arc<str>, key: &DocumentKey) {
    users.entry(Arc::clone(name)).or_default().insert(key.clone());
}

fn remove_user(users: &mut OrdMap<Arc<str>, OrdSet<DocumentKey>>, name: &Arc<str>, key: &DocumentKey) {
    let Some(of_name) = users.get_mut(name) else { return };
    of_name.remove(key);
    if of_name.is_empty() {
        users.remove(name);
    }
}

/// The groups of a document; `None`: all. A registry is for no proxy: the secrets that it names go to none on its account.
fn groups_of(document: &Document) -> Vec<Option<Arc<str>>> {
    match document.groups() {
        _ if matches!(document, Document::Registry(_)) => Vec::new(),
        Some(groups) => groups.iter().cloned().map(Some).collect(),
        None => vec![None],
    }
}

/// The address of an endpoint.
#[must_use]
pub fn address(endpoint: &Endpoint) -> Address {
    (endpoint.host.clone(), endpoint.port)
}
