//! What the wrong server serves: a map of resources by type and name, replaced as a whole by each commit.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;
use tokio::sync::watch;

/// One resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// A hash of the body.
    pub(super) version: String,
    /// The encoded message.
    pub(super) body: Vec<u8>,
    /// Not part of a wildcard.
    pub(super) on_demand: bool,
}

impl Entry {
    pub(super) fn new(body: Vec<u8>) -> Self {
        Self { version: hash(&body), body, on_demand: false }
    }

    /// The name of the endpoints that a cluster waits for.
    pub(super) fn endpoints(&self) -> Option<String> {
        let cluster = Cluster::decode(&*self.body).ok()?;
        let is_eds = cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
        let service_name = cluster.eds_cluster_config.unwrap_or_default().service_name;
        is_eds.then_some(if service_name.is_empty() { cluster.name } else { service_name })
    }
}

/// Resources of one type by name.
pub(super) type Set = BTreeMap<String, Entry>;
/// All resources, by type URL.
pub(super) type Catalog = BTreeMap<String, Set>;

/// A change: the type URL, the name, and the new entry or none.
pub(super) type Edit = (String, String, Option<Entry>);

/// The latest catalog, and who waits for it.
#[derive(Debug)]
pub(super) struct Store(watch::Sender<Arc<Catalog>>);

impl Store {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.0.subscribe()
    }

    /// Make all these changes at once.
    pub(super) fn commit(&self, edits: Vec<Edit>) {
        self.0.send_modify(|catalog| {
            let catalog = Arc::make_mut(catalog);
            for (type_url, name, entry) in edits {
                let set = catalog.entry(type_url).or_default();
                match entry {
                    Some(entry) => drop(set.insert(name, entry)),
                    None => drop(set.remove(&name)),
                }
            }
        });
    }
}

/// Sixteen digits that are equal when the value is.
pub(super) fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
