//! Stage 8, facts about proxies: who is connected, what each was sent, acknowledged and refused.
//!
//! What enters: what a stream did ([`StreamHandle`]). What leaves: views for `admin` and metrics. A fact never changes what
//! is served. No lock is shared between streams while they work.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::document::key::DocumentKey;
use crate::resource::ResourceType;

pub mod load;

mod memory;
mod nonce;
mod registry;
mod stream;

use load::Loads;
pub use nonce::Nonce;
use registry::Registry;
pub use stream::{Identity, Sent, StreamHandle};

/// What is odd about a stream.
pub mod warnings {
    /// Another stream says that it is the same node.
    pub const DUPLICATE_NODE_ID: &str = "duplicate_node_id";
    /// A message was larger than a gRPC library takes.
    pub const RESPONSE_TOO_LARGE: &str = "response_too_large";
    /// It asks for secrets over a connection that they may not go over.
    pub const SECRETS_WITHHELD: &str = "secrets_withheld";
    /// Removals wait because something that may refer to what is gone was refused.
    pub const REMOVALS_HELD: &str = "removals_held";
    /// Nothing is answered about clusters any more.
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

/// What a stream is subscribed to, for one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscribed {
    /// Everything (legacy wildcard or `*`), perhaps names beside it.
    Wildcard,
    /// These names.
    Names(Vec<Arc<str>>),
}

/// One response, as sent or acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `version_info` / `system_version_info`.
    pub version: String,
    /// Its nonce.
    pub nonce: String,
    /// When.
    pub at: SystemTime,
}

/// One response that was NACKed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused.
    pub exchange: Exchange,
    /// The gRPC code of `error_detail`.
    pub code: i32,
    /// The client's words, cut to 4 KiB.
    pub message: String,
}

/// A resource that may be why a response was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its name.
    pub resource: Arc<str>,
    /// The documents of it that changed since the client last acknowledged it, or those that the client's words name.
    pub documents: Vec<DocumentKey>,
}

/// A refusal that no later answer has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// The type.
    pub resource_type: ResourceType,
    /// The response's number within its stream.
    pub sequence: u64,
    /// The client's words, cut to 4 KiB.
    pub message: Arc<str>,
    /// Who may be to blame.
    pub suspects: Vec<Suspect>,
}

/// What holds for a stream, and an operator should know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Removals wait because something that may refer to what is gone was refused.
    pub removals_held: bool,
    /// Nothing is answered about clusters any more.
    pub clusters_unacknowledged: bool,
}

/// One type of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeView {
    /// What it asked for.
    pub subscribed: Subscribed,
    /// The last response.
    pub sent: Option<Exchange>,
    /// The last ACK.
    pub acknowledged: Option<Exchange>,
    /// The last NACK, until a later response is acknowledged.
    pub refused: Option<Refusal>,
}

/// One stream, connected or gone for less than 10 minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// Unique within the process.
    pub stream: u64,
    /// `node.id`.
    pub node_id: Arc<str>,
    /// `node.cluster`.
    pub node_cluster: Arc<str>,
    /// Its group.
    pub group: Arc<str>,
    /// Where it connects from; `None` over a Unix socket.
    pub address: Option<SocketAddr>,
    /// SotW or delta.
    pub variant: Variant,
    /// Since when.
    pub connected_at: SystemTime,
    /// Until when; `None` while it is connected.
    pub gone_at: Option<SystemTime>,
    /// Words of [`warnings`].
    pub warnings: Vec<&'static str>,
    /// By type, only types that were asked for.
    pub types: BTreeMap<ResourceType, TypeView>,
}

/// Who counts what happens on streams: metrics. Called on the streams' own paths, so it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A response was handed to a stream.
    fn responded(&self, resource_type: ResourceType, variant: Variant);
    /// A response was ACKed; `since_published` when it carried a publish to a stream that was up to date before.
    fn acknowledged(&self, resource_type: ResourceType, variant: Variant, since_published: Option<Duration>);
    /// A response was NACKed.
    fn refused(&self, resource_type: ResourceType, variant: Variant);
    /// A response was larger than its client takes.
    fn too_large(&self, resource_type: ResourceType);
    /// A client answers nothing about clusters any more.
    fn stuck(&self, variant: Variant);
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Nobody;

impl Observer for Nobody {
    fn responded(&self, _: ResourceType, _: Variant) {}
    fn acknowledged(&self, _: ResourceType, _: Variant, _: Option<Duration>) {}
    fn refused(&self, _: ResourceType, _: Variant) {}
    fn too_large(&self, _: ResourceType) {}
    fn stuck(&self, _: Variant) {}
}

/// All streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    registry: Arc<Registry>,
    observer: Arc<dyn Observer>,
    loads: Arc<Loads>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new(Arc::new(Nobody))
    }
}

impl Fleet {
    /// A fleet without streams, whose doings are told to `observer`.
    #[must_use]
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            registry: Arc::default(),
            observer,
            loads: Arc::default(),
        }
    }

    /// A stream said who it is. It is connected until the handle is dropped.
    #[must_use]
    pub fn connect(&self, identity: Identity) -> StreamHandle {
        StreamHandle {
            stream: self.registry.connect(identity),
            registry: Arc::clone(&self.registry),
            observer: Arc::clone(&self.observer),
        }
    }

    /// Every stream, oldest first; gone ones for 10 minutes, 10,000 at most.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientView> {
        self.registry.views(SystemTime::now(), |_| true)
    }

    /// The streams of one node id, oldest first.
    #[must_use]
    pub fn clients_of(&self, node_id: &str) -> Vec<ClientView> {
        self.registry.views(SystemTime::now(), |id| id == node_id)
    }

    /// Who refuses what: the node and what it refused, oldest streams first. A stream that is gone counts while it is
    /// remembered and its node has not come back.
    #[must_use]
    pub fn suspicions(&self) -> Vec<(Arc<str>, Suspicion)> {
        self.registry.suspicions(SystemTime::now())
    }

    /// What the node's last streams left unknown, if that was lately.
    #[must_use]
    pub fn recall(&self, node_id: &str) -> Vec<(ResourceType, Arc<str>)> {
        self.registry.memory.recall(node_id, SystemTime::now())
    }

    /// The connected streams whose node id is wanted, oldest first; each view is made when it is taken.
    pub fn connected_clients(&self, wanted: &dyn Fn(&str) -> bool) -> impl Iterator<Item = ClientView> + Send + use<> {
        self.registry.connected_views(wanted)
    }

    /// What proxies report of the load on clusters.
    #[must_use]
    pub fn loads(&self) -> &Arc<Loads> {
        &self.loads
    }

    /// How many are connected.
    #[must_use]
    pub fn connected(&self, variant: Variant) -> usize {
        self.registry.connected(variant)
    }
}
