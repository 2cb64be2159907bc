//! The resources of the wrong server: a map by type and name, replaced as a whole by each commit; and the state that
//! its streams share.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;
use tokio::sync::watch;

/// One resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entry {
    /// A hash of the body.
    pub(super) version: String,
    /// The encoded message.
    pub(super) body: Vec<u8>,
    /// Not part of a wildcard.
    pub(super) on_demand: bool,
    /// Only for the suite's other group.
    pub(super) elsewhere: bool,
    pub(super) aliases: Vec<String>,
    pub(super) ttl: Option<Duration>,
    /// The resource is sent without its body.
    pub(super) bodiless: bool,
}

impl Entry {
    pub(super) fn new(body: Vec<u8>) -> Self {
        Self {
            version: hash(&body),
            body,
            ..Self::default()
        }
    }

    /// With a time to live, which is a part of the content.
    pub(super) fn lasting(self, ttl: Option<Duration>) -> Self {
        let Some(ttl) = ttl else { return self };
        Self {
            version: hash(&(&self.version, ttl)),
            ttl: Some(ttl),
            ..self
        }
    }

    /// The name of the endpoints that a cluster waits for.
    pub(super) fn endpoints(&self) -> Option<String> {
        let cluster = Cluster::decode(&*self.body).ok()?;
        let is_eds = cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
        let service_name = cluster.eds_cluster_config.unwrap_or_default().service_name;
        is_eds.then_some(if service_name.is_empty() {
            cluster.name
        } else {
            service_name
        })
    }
}

/// Resources of one type by name.
pub(super) type Set = BTreeMap<String, Entry>;
/// All resources, by type URL.
pub(super) type Catalog = BTreeMap<String, Set>;

/// A change: the type URL, the name, and the new entry or none.
pub(super) type Edit = (String, String, Option<Entry>);

/// The latest catalog, and the tasks that wait for it.
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

/// The state that the streams of a server share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    nodes: Mutex<BTreeSet<String>>,
    /// By node: types and names of refused resources without a later ACK.
    refused: Mutex<BTreeMap<String, Names>>,
}

/// Type URLs and names.
type Names = BTreeSet<(String, String)>;

impl Shared {
    /// True for the first stream of the node.
    pub(super) fn meet(&self, node: &str) -> bool {
        self.nodes.lock().expect("nobody panics").insert(node.to_owned())
    }

    pub(super) fn refuse<'a>(&self, node: &str, of: &str, names: impl Iterator<Item = &'a String>) {
        let mut refused = self.refused.lock().expect("nobody panics");
        refused
            .entry(node.to_owned())
            .or_default()
            .extend(names.map(|name| (of.to_owned(), name.clone())));
    }

    pub(super) fn accept<'a>(&self, node: &str, of: &str, names: impl Iterator<Item = &'a String>) {
        let mut refused = self.refused.lock().expect("nobody panics");
        let Some(unknown) = refused.get_mut(node).filter(|unknown| !unknown.is_empty()) else {
            return;
        };
        names.for_each(|name| {
            unknown.remove(&(of.to_owned(), name.clone()));
        });
    }

    pub(super) fn refused(&self, node: &str, of: &str) -> Vec<String> {
        let refused = self.refused.lock().expect("nobody panics");
        let unknown = refused
            .get(node)
            .into_iter()
            .flatten()
            .filter(|(type_url, _)| type_url == of);
        unknown.map(|(_, name)| name.clone()).collect()
    }
}

/// Sixteen digits that are equal when the value is.
pub(super) fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
