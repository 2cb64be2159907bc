//! Stage 8, facts about proxies: connected streams, and the responses sent, ACKed and NACKed on each.
//!
//! In: the events of each stream ([`StreamHandle`]). Out: views for `admin` and metrics. A fact alone never changes
//! which resources are served. Streams share no lock while they send and receive. `suspicions` judges a NACK: does one
//! host refuse the document, or does every proxy?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::document::key::DocumentKey;
use crate::resource::compile::parts::Parts;
use crate::resource::refused::RefusedResource;
use crate::resource::{Resource, ResourceType, ResourceVersion};
use crate::snapshot::Snapshot;

pub mod convergence;
pub mod limit;
pub mod load;
pub mod replicas;
pub mod suspicions;

mod handle;
mod memory;
mod nonce;
mod registry;
mod stream;

use convergence::latency::Times;
use convergence::{Gone, Place, Question, Report};
pub use handle::StreamHandle;
use limit::Reached;
use load::Loads;
pub use nonce::Nonce;
use registry::Registry;
pub use stream::{Identity, Sent};
use suspicions::{Judged, Suspicion, Suspicions};

/// Most documents, and most resources, that a NACK shows in reports.
pub const SUSPECTS_MAX: usize = 32;
/// Most documents, and most resources, that one NACK is laid on.
pub const LAID_ON_MAX: usize = 8192;

/// Warnings about a stream, as the admin API shows them.
pub mod warnings {
    /// Another stream has the same `node.id`.
    pub const DUPLICATE_NODE_ID: &str = "duplicate_node_id";
    /// A message was larger than a gRPC library accepts.
    pub const RESPONSE_TOO_LARGE: &str = "response_too_large";
    /// The stream subscribed to secrets, and its connection is not trusted with them.
    pub const SECRETS_WITHHELD: &str = "secrets_withheld";
    /// Removals wait: the client NACKed a resource that may refer to a removed one.
    pub const REMOVALS_HELD: &str = "removals_held";
    /// The client is an Envoy before 1.40, and its group has policies: it NACKs routes with policies.
    pub const ENVOY_TOO_OLD: &str = "envoy_too_old";
    /// The client has stopped answering responses for clusters.
    pub const CLUSTERS_UNACKNOWLEDGED: &str = "clusters_unacknowledged";
}

/// SotW or delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl Variant {
    /// `sotw` or `delta`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// The subscription of a stream, for one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscribed {
    /// All resources (legacy wildcard or `*`), perhaps names as well.
    Wildcard,
    /// These names.
    Names(Arc<[Arc<str>]>),
}

/// One response, as sent or acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `version_info` / `system_version_info`.
    pub version: String,
    /// The nonce.
    pub nonce: String,
    /// The moment of sending, or of the ACK.
    pub at: SystemTime,
}

/// A response that the client NACKed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The response.
    pub exchange: Exchange,
    /// The gRPC code of `error_detail`.
    pub code: i32,
    /// The message of `error_detail`, cut to 4 KiB.
    pub message: String,
}

/// A resource that may be the cause of a NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The name of the resource.
    pub resource: Arc<str>,
    /// The version of the resource.
    pub version: ResourceVersion,
    /// Its documents that changed since the client's last ACK, or the documents that the message names.
    pub documents: Vec<DocumentKey>,
    /// Whether the cause is among these documents. `false`: there are more than [`SUSPECTS_MAX`], and these are the first.
    pub is_complete: bool,
    /// The part of each document, if the resource is made of many.
    pub parts: Option<Arc<Parts>>,
}

impl Suspect {
    /// A whole resource, without a message that names a part of it.
    fn of(resource: &Resource) -> Self {
        Self {
            resource: Arc::clone(&resource.name),
            version: resource.version,
            documents: resource.documents.clone(),
            is_complete: resource.parts.is_none(),
            parts: resource.parts.clone(),
        }
    }

    /// The resource and the part of one document in it.
    fn refused(&self, group: &Arc<str>, resource_type: ResourceType, document: &DocumentKey) -> RefusedResource {
        let part = || Some(self.parts.as_ref()?.get(document)?.revision);
        RefusedResource {
            group: Arc::clone(group),
            resource_type,
            name: Arc::clone(&self.resource),
            version: self.version,
            part: part(),
        }
    }

    /// Whether this is the resource with the content that was refused, as far as it is of this document.
    fn has(&self, document: &DocumentKey, refused: &RefusedResource) -> bool {
        let part = || Some(self.parts.as_ref()?.get(document)?.revision);
        self.resource == refused.name
            && (self.version == refused.version || refused.part.is_some_and(|refused| part() == Some(refused)))
    }
}

/// The suspects of a NACK.
#[derive(Debug, Clone, Default)]
pub struct Suspects {
    /// The resources for reports, [`SUSPECTS_MAX`] at most.
    pub shown: Vec<Suspect>,
    /// All resources that may be the cause, if `shown` has not all of them. Empty, if they are more than
    /// [`LAID_ON_MAX`].
    pub all: Option<Arc<[Arc<Resource>]>>,
}

impl PartialEq for Suspects {
    fn eq(&self, other: &Self) -> bool {
        let versions = |suspects: &Self| -> Option<Vec<(Arc<str>, ResourceVersion)>> {
            let all = suspects.all.as_ref()?;
            Some(all.iter().map(|one| (Arc::clone(&one.name), one.version)).collect())
        };
        self.shown == other.shown && versions(self) == versions(other)
    }
}

impl Eq for Suspects {}

impl From<Vec<Suspect>> for Suspects {
    fn from(shown: Vec<Suspect>) -> Self {
        Self { shown, all: None }
    }
}

/// A NACK that no later answer has resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnresolvedNack {
    /// The type.
    pub resource_type: ResourceType,
    /// The number of the response within its stream.
    pub sequence: u64,
    /// The message of `error_detail`, cut to 4 KiB.
    pub message: Arc<str>,
    /// The resources that may be the cause.
    pub suspects: Vec<Suspect>,
}

/// Conditions of a stream that an operator should know of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Removals wait: the client NACKed a resource that may refer to a removed one.
    pub removals_held: bool,
    /// The client has stopped answering responses for clusters.
    pub clusters_unacknowledged: bool,
}

/// One type of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeView {
    /// The subscription.
    pub subscribed: Subscribed,
    /// The last response.
    pub sent: Option<Exchange>,
    /// The last ACK.
    pub acknowledged: Option<Exchange>,
    /// The last NACK, until a later response is acknowledged.
    pub nack: Option<Nack>,
}

/// One stream, connected or ended less than 10 minutes ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// Unique within the process.
    pub stream: u64,
    /// `node.id`.
    pub node_id: Arc<str>,
    /// `node.cluster`.
    pub node_cluster: Arc<str>,
    /// `node.user_agent_name`.
    pub user_agent: Arc<str>,
    /// `node.user_agent_build_version`: major, minor and patch number.
    pub version: Option<(u32, u32, u32)>,
    /// The group of the node.
    pub group: Arc<str>,
    /// The address of the peer; `None` over a Unix socket.
    pub address: Option<SocketAddr>,
    /// SotW or delta.
    pub variant: Variant,
    /// The moment of the first request.
    pub connected_at: SystemTime,
    /// Whether the client is an Envoy without the filters that policies need.
    pub lacks_slots: bool,
    /// The moment the stream ended; `None` while it is connected.
    pub gone_at: Option<SystemTime>,
    /// Where the proxy of the stream stands, and the last event that moved it.
    pub place: Option<(Arc<Place>, SystemTime)>,
    /// Words of [`warnings`].
    pub warnings: Vec<&'static str>,
    /// By type; only subscribed types.
    pub types: BTreeMap<ResourceType, TypeView>,
}

/// Counts the events of streams, for metrics. Called by the tasks of the streams, so it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A response was handed to a stream.
    fn responded(&self, resource_type: ResourceType, variant: Variant);
    /// A response was ACKed; `since_published` if the stream was up to date before the publish that the response
    /// carries.
    fn acknowledged(&self, resource_type: ResourceType, variant: Variant, since_published: Option<Duration>);
    /// A response was NACKed.
    fn nacked(&self, resource_type: ResourceType, variant: Variant);
    /// A response was larger than its client accepts.
    fn too_large(&self, resource_type: ResourceType);
    /// A client has stopped answering responses for clusters.
    fn stuck(&self, variant: Variant);
    /// A proxy of the group has acknowledged the newest change of its group, so long after the change was published.
    fn converged(&self, group: &str, after: Duration);
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Nobody;

impl Observer for Nobody {
    fn responded(&self, _: ResourceType, _: Variant) {}
    fn acknowledged(&self, _: ResourceType, _: Variant, _: Option<Duration>) {}
    fn nacked(&self, _: ResourceType, _: Variant) {}
    fn too_large(&self, _: ResourceType) {}
    fn stuck(&self, _: Variant) {}
    fn converged(&self, _: &str, _: Duration) {}
}

/// All streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    registry: Arc<Registry>,
    observer: Arc<dyn Observer>,
    loads: Arc<Loads>,
    reached: Arc<Reached>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new(Arc::new(Nobody))
    }
}

impl Fleet {
    /// A fleet without streams, whose events `observer` counts.
    #[must_use]
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            registry: Arc::default(),
            observer,
            loads: Arc::default(),
            reached: Arc::default(),
        }
    }

    /// Add a stream. It is connected until the handle is dropped.
    #[must_use]
    pub fn connect(&self, identity: Identity) -> StreamHandle {
        StreamHandle {
            stream: self.registry.connect(identity),
            registry: Arc::clone(&self.registry),
            observer: Arc::clone(&self.observer),
        }
    }

    /// Every stream, oldest first; ended ones for 10 minutes, 10,000 at most.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientView> {
        self.clients_after(0, &|_| true).collect()
    }

    /// The streams of one node id, oldest first.
    #[must_use]
    pub fn clients_of(&self, node_id: &str) -> Vec<ClientView> {
        self.clients_after(0, &|identity| *identity.node_id == *node_id)
            .collect()
    }

    /// The streams that are wanted and began after the stream with the number `after`, oldest first; each view is made
    /// when the iterator reaches it.
    pub fn clients_after(
        &self,
        after: u64,
        wanted: &dyn Fn(&Identity) -> bool,
    ) -> impl Iterator<Item = ClientView> + Send + use<> {
        self.registry.views(SystemTime::now(), after, wanted)
    }

    /// Every unresolved NACK with its node, oldest streams first. The NACKs of an ended stream count until its node
    /// reconnects or the stream is forgotten.
    #[must_use]
    pub fn unresolved_nacks(&self) -> Vec<(Arc<str>, UnresolvedNack)> {
        self.registry.unresolved_nacks(SystemTime::now())
    }

    /// NACKs that wait for a judgement.
    #[must_use]
    pub fn suspicions(&self) -> &Suspicions {
        &self.registry.suspicions
    }

    /// Judge a NACK: the documents that every proxy refuses which has answered. `None`: the NACK is resolved, it cannot be
    /// laid on documents, or a proxy has accepted their content.
    #[must_use]
    pub fn judge(&self, suspicion: &Suspicion) -> Option<Judged> {
        suspicions::judge(suspicion, &self.registry.evidence(SystemTime::now()))
    }

    /// Whether a proxy has accepted any of these resources, as far as they are of this document.
    #[must_use]
    pub fn has_accepted(&self, document: &DocumentKey, resources: &[RefusedResource]) -> bool {
        self.has_accepted_all([(document, resources)])
    }

    /// Like [`Fleet::has_accepted`], for each of these documents. The streams are looked at once.
    #[must_use]
    pub fn has_accepted_all<'a>(
        &self,
        documents: impl IntoIterator<Item = (&'a DocumentKey, &'a [RefusedResource])>,
    ) -> bool {
        let evidence = self.registry.evidence(SystemTime::now());
        let mut documents = documents.into_iter();
        documents.all(|(document, resources)| suspicions::has_accepted(document, resources, &evidence))
    }

    /// The resources whose state at the node is unknown since its last stream ended, if that was lately.
    #[must_use]
    pub fn recall(&self, node_id: &str) -> Vec<(ResourceType, Arc<str>)> {
        self.registry.memory.recall(node_id, SystemTime::now())
    }

    /// The connected streams whose node id is wanted, oldest first; each view is made when the iterator reaches it.
    pub fn connected_clients(&self, wanted: &dyn Fn(&str) -> bool) -> impl Iterator<Item = ClientView> + Send + use<> {
        self.registry.connected_views(wanted)
    }

    /// The load on clusters that proxies report.
    #[must_use]
    pub fn loads(&self) -> &Arc<Loads> {
        &self.loads
    }

    /// How often clients reached each limit.
    #[must_use]
    pub fn reached(&self) -> &Arc<Reached> {
        &self.reached
    }

    /// The proxies, compared with a revision.
    #[must_use]
    pub fn report(&self, snapshot: &Snapshot, question: Question<'_>) -> Report {
        self.registry.convergence.report(snapshot, question, SystemTime::now())
    }

    /// The places of proxies, each with the number of its proxies.
    #[must_use]
    pub fn places(&self) -> Vec<(Arc<Place>, usize)> {
        self.registry.convergence.places()
    }

    /// The proxies that went in the last ten minutes and are not back here, the last one first: `most` of them.
    #[must_use]
    pub fn gone(&self, most: usize) -> Vec<Gone> {
        self.registry.convergence.gone(most, SystemTime::now())
    }

    /// The times in which proxies had the step of this generation.
    #[must_use]
    pub fn times(&self, generation: u64) -> Option<Times> {
        self.registry.convergence.times(generation)
    }

    /// Which of these hashes are of connected nodes ([`replicas::hash`]).
    #[must_use]
    pub fn connected_among(&self, hashes: &BTreeSet<u32>) -> Vec<u32> {
        self.registry.convergence.connected(hashes)
    }

    /// The number of moves of proxies so far, which tells whether anything moved between two readings.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.registry.convergence.moves()
    }

    /// Ends when a proxy moves after the call. Cancel safe.
    pub fn moved(&self) -> tokio::sync::futures::Notified<'_> {
        self.registry.convergence.moved()
    }

    /// The number of connected streams.
    #[must_use]
    pub fn connected(&self, variant: Variant) -> usize {
        self.registry.connected(variant)
    }

    /// The number of connected proxies of each group.
    #[must_use]
    pub fn proxies(&self) -> BTreeMap<Arc<str>, usize> {
        self.registry.proxies()
    }

    /// Whether clients are connected and none of them reports its zone.
    #[must_use]
    pub fn lacks_zones(&self) -> bool {
        self.registry.lacks_zones()
    }
}
