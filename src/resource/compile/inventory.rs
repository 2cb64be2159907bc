//! The documents that take part, each translated, and who refers to whom. Persistent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::document::cluster::{Cluster, Source};
use crate::document::endpoint::{Endpoint, Host};
use crate::document::group::Group;
use crate::document::key::{DocumentKey, Kind};
use crate::document::route::UpstreamUrl;
use crate::document::{DEFAULT_GROUP, Document, listener};
use crate::resource::ResourceType;
use crate::resource::compile::depends::Units;
use crate::resource::compile::translate::{Made, Upstreams};
use crate::resource::verbatim::needs::Need;

/// A document that takes part, and what decides between equals.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The document.
    pub document: Arc<Document>,
    /// Of the key; 0 where the backend keeps none.
    pub create_revision: i64,
    /// Of the text.
    pub mod_revision: i64,
}

/// A document and what it becomes by itself.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) accepted: Accepted,
    pub(super) made: Made,
}

impl Unit {
    pub(super) fn document(&self) -> &Document {
        &self.accepted.document
    }
}

/// Where an instance listens.
pub type Address = (Host, u16);

/// Everyone who registered one address: the latest text speaks for it.
type Registrants = OrdMap<(i64, DocumentKey), Arc<Document>>;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory {
    units: OrdMap<DocumentKey, Arc<Unit>>,
    /// Routes by the upstream they name, those for no group of the cluster too.
    users: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// Xds documents by the cluster they name.
    verbatim_users: OrdMap<Arc<str>, OrdSet<DocumentKey>>,
    /// Xds documents that are right only beside others.
    needy: OrdSet<DocumentKey>,
    /// Those of them that no cluster which hashes may use.
    heavy: OrdSet<DocumentKey>,
    /// Instances by cluster and address.
    registered: OrdMap<Arc<str>, OrdMap<Address, Registrants>>,
}

impl Inventory {
    pub(super) fn unit(&self, key: &DocumentKey) -> Option<&Arc<Unit>> {
        self.units.get(key)
    }

    pub(super) fn document(&self, key: &DocumentKey) -> Option<&Document> {
        self.units.get(key).map(|unit| unit.document())
    }

    /// All documents of one kind, sorted by name.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&DocumentKey, &Arc<Unit>)> {
        self.units
            .range(DocumentKey::new(kind, "")..)
            .take_while(move |(key, _)| key.kind == kind)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DocumentKey, &Arc<Unit>)> {
        self.units.iter()
    }

    /// Put a unit in the place of what was there; `None` takes it out.
    pub(super) fn set(&mut self, key: &DocumentKey, unit: Option<Unit>) {
        if let Some(old) = self.units.remove(key) {
            self.forget(key, &old);
        }
        if let Some(unit) = unit {
            self.remember(key, &unit);
            self.units.insert(key.clone(), Arc::new(unit));
        }
    }

    fn remember(&mut self, key: &DocumentKey, unit: &Unit) {
        match &unit.made {
            Made::Route { upstreams, .. } => upstreams
                .iter()
                .for_each(|(name, _)| add_user(&mut self.users, name, key)),
            Made::Verbatim(written) => {
                written
                    .clusters
                    .iter()
                    .for_each(|name| add_user(&mut self.verbatim_users, name, key));
                if !written.needs.is_empty() {
                    self.needy.insert(key.clone());
                }
                if written.needs.iter().any(|need| matches!(need, Need::NoHashing { .. })) {
                    self.heavy.insert(key.clone());
                }
            }
            _ => {}
        }
        if let Document::Endpoint(registration) = unit.document() {
            let instances = self.registered.entry(key.first_segment().into()).or_default();
            let registrants = instances.entry(address(&registration.endpoint)).or_default();
            registrants.insert(
                (unit.accepted.mod_revision, key.clone()),
                Arc::clone(&unit.accepted.document),
            );
        }
    }

    fn forget(&mut self, key: &DocumentKey, unit: &Unit) {
        match &unit.made {
            Made::Route { upstreams, .. } => upstreams
                .iter()
                .for_each(|(name, _)| remove_user(&mut self.users, name, key)),
            Made::Verbatim(written) => {
                written
                    .clusters
                    .iter()
                    .for_each(|name| remove_user(&mut self.verbatim_users, name, key));
                self.needy.remove(key);
                self.heavy.remove(key);
            }
            _ => {}
        }
        if let Document::Endpoint(registration) = unit.document() {
            let cluster = key.first_segment();
            let Some(instances) = self.registered.get_mut(cluster) else {
                return;
            };
            let address = address(&registration.endpoint);
            if let Some(registrants) = instances.get_mut(&address) {
                registrants.remove(&(unit.accepted.mod_revision, key.clone()));
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
    pub(super) fn groups(&self) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = self
            .of_kind(Kind::Groups)
            .map(|(key, _)| Arc::clone(&key.name))
            .collect();
        names.insert(DEFAULT_GROUP.into());
        names
    }

    /// The groups documents.
    pub(super) fn group_rules(&self) -> impl Iterator<Item = (&Arc<str>, &Group)> {
        self.of_kind(Kind::Groups)
            .filter_map(|(key, unit)| match unit.document() {
                Document::Group(group) => Some((&key.name, group)),
                _ => None,
            })
    }

    /// The listeners of a group by name; the unit is `None` for the one that exists when no document describes any.
    pub(super) fn listeners(&self, group: &str) -> BTreeMap<Arc<str>, Option<&Arc<Unit>>> {
        let mut documents = self.of_kind(Kind::Listeners).peekable();
        if documents.peek().is_none() {
            return BTreeMap::from([(listener::DEFAULT_NAME.into(), None)]);
        }
        documents
            .filter(|(_, unit)| unit.document().is_for(group))
            .map(|(key, unit)| (Arc::clone(&key.name), Some(unit)))
            .collect()
    }

    /// The listeners of gRPC clients, sorted.
    pub(super) fn api_listeners(&self) -> impl Iterator<Item = (&DocumentKey, &Arc<Unit>)> {
        self.of_kind(Kind::Listeners)
            .filter(|(_, unit)| unit.document().is_api_listener())
    }

    /// Whether there is any of them.
    pub(super) fn has_api_listener(&self) -> bool {
        self.api_listeners().next().is_some()
    }

    /// Whether a name is that of a listener of gRPC clients.
    pub(super) fn is_api(&self, listener: &Arc<str>) -> bool {
        self.document(&DocumentKey::new(Kind::Listeners, Arc::clone(listener)))
            .is_some_and(Document::is_api_listener)
    }

    /// Routes that name an upstream, in any group, sorted.
    pub(super) fn users(&self, name: &str) -> impl Iterator<Item = &DocumentKey> {
        self.users.get(name).into_iter().flatten()
    }

    /// Xds documents that name a cluster, in any group, sorted.
    pub(super) fn verbatim_users(&self, name: &str) -> impl Iterator<Item = &DocumentKey> {
        self.verbatim_users.get(name).into_iter().flatten()
    }

    /// Xds documents that are right only beside others, sorted: all, or those that a change touches.
    pub(super) fn needy(&self, touched: Option<&Units>) -> BTreeSet<&DocumentKey> {
        let Some(units) = touched else {
            return self.needy.iter().collect();
        };
        let users = units.upstreams.iter().flat_map(|name| self.verbatim_users(name));
        // What was beneath another cluster may serve now.
        let described = units
            .upstreams
            .iter()
            .map(|name| DocumentKey::new(Kind::Xds, format!("clusters/{name}")));
        let touched = units.verbatim.iter().chain(users).cloned().chain(described);
        let kept = touched.filter_map(|key| self.units.get_key_value(&key).map(|(key, _)| key));
        let needy = kept.filter(|key| self.needy.contains(*key));
        needy.chain(&self.heavy).collect()
    }

    /// Routes of a group that name an upstream, sorted.
    pub(super) fn users_in(&self, name: &str, group: &str) -> impl Iterator<Item = &DocumentKey> {
        self.users(name)
            .filter(move |key| self.document(key).is_some_and(|route| route.is_for(group)))
    }

    /// The URL behind an inline cluster's name.
    pub(super) fn url(&self, name: &str) -> Option<&UpstreamUrl> {
        let user = self.users(name).next()?;
        match &self.units.get(user)?.made {
            Made::Route { upstreams, .. } => {
                let found = upstreams.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
                upstreams.get(found)?.1.as_ref()
            }
            _ => None,
        }
    }

    /// The xds document of a resource.
    pub(super) fn verbatim(&self, resource_type: ResourceType, name: &str) -> Option<(DocumentKey, &Arc<Unit>)> {
        let key = DocumentKey::new(Kind::Xds, format!("{resource_type}/{name}"));
        let unit = self.units.get(&key)?;
        Some((key, unit))
    }

    /// Whether a document describes a cluster, whatever its groups are.
    pub(super) fn describes(&self, cluster: &Arc<str>) -> bool {
        self.cluster(cluster).is_some() || self.verbatim(ResourceType::Cluster, cluster).is_some()
    }

    /// Every name that a Cluster may have: of the documents and of what routes refer to.
    pub(super) fn upstream_names(&self) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = self
            .of_kind(Kind::Clusters)
            .map(|(key, _)| Arc::clone(&key.name))
            .collect();
        names.extend(self.users.keys().cloned());
        names
    }

    /// The clusters document of a name.
    pub(super) fn cluster(&self, name: &Arc<str>) -> Option<(&Cluster, &Upstreams, &Arc<Unit>)> {
        let unit = self.units.get(&DocumentKey::new(Kind::Clusters, Arc::clone(name)))?;
        match (unit.document(), &unit.made) {
            (Document::Cluster(cluster), Made::Cluster(upstreams)) => Some((cluster, upstreams, unit)),
            _ => None,
        }
    }

    /// Whether a cluster takes its endpoints from the registry.
    pub(super) fn is_registered(&self, name: &Arc<str>) -> bool {
        self.cluster(name)
            .is_some_and(|(cluster, ..)| cluster.source == Source::Registered)
    }

    /// The instances registered for a cluster, one an address, sorted by it.
    pub(super) fn instances(&self, cluster: &str) -> impl Iterator<Item = (&DocumentKey, &Endpoint)> {
        let instances = self.registered.get(cluster).into_iter().flat_map(OrdMap::values);
        instances.filter_map(|registrants| {
            let ((_, key), document) = registrants.get_max()?;
            match &**document {
                Document::Endpoint(registration) => Some((key, &registration.endpoint)),
                _ => None,
            }
        })
    }

    /// Every registration of a cluster, with its address.
    pub(super) fn registrations(&self, cluster: &str) -> impl Iterator<Item = (&DocumentKey, &Address)> {
        let instances = self.registered.get(cluster).into_iter().flatten();
        instances.flat_map(|(address, registrants)| registrants.keys().map(move |(_, key)| (key, address)))
    }
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

/// Where an endpoint listens.
#[must_use]
pub fn address(endpoint: &Endpoint) -> Address {
    (endpoint.host.clone(), endpoint.port)
}
