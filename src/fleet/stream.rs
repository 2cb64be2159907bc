//! The facts of one stream, written by the task that serves it and read when somebody looks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::registry::Registry;
use super::{
    ClientView, Conditions, Exchange, Nonce, Observer, Refusal, Subscribed, Suspect, Suspicion, TypeView, Variant,
    warnings,
};
use crate::resource::ResourceType;
use crate::snapshot::version::SetVersion;

/// The longest refusal that is remembered, in bytes. Envoy cuts at the same length.
const MESSAGE_MAX: usize = 4096;
/// Refusals of one stream that are kept apart until they are settled. Beyond it the oldest is forgotten.
const SUSPICIONS_MAX: usize = 16;
/// Messages above this make gRPC clients drop the stream, unless told otherwise (docs/xds-rules.md GR-03).
const GRPC_MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// Who a stream is, known from its first request.
#[derive(Debug, Clone)]
pub struct Identity {
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
    /// Whether it carries all types; a node has one such stream, and as many as it likes of one type each.
    pub aggregated: bool,
    /// Whether the client is a gRPC library, with its limit on messages.
    pub grpc_library: bool,
    /// Now.
    pub connected_at: SystemTime,
}

/// One response, as handed to the stream.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `version_info` / `system_version_info`.
    pub version: SetVersion,
    /// Its nonce; `None`: the client reported the version, no response did.
    pub nonce: Option<Nonce>,
    /// When.
    pub at: SystemTime,
}

impl Sent {
    fn view(&self) -> Exchange {
        Exchange {
            version: self.version.to_string(),
            nonce: self.nonce.map_or_else(String::new, |nonce| nonce.to_string()),
            at: self.at,
        }
    }
}

/// One type of one stream. Small: there are four of them for each of ten thousand streams.
#[derive(Debug)]
struct TypeFacts {
    resource_type: ResourceType,
    /// `None`: wildcard. Shared with the stream's subscription.
    names: Option<Arc<[Arc<str>]>>,
    sent: Option<Sent>,
    acknowledged: Option<Sent>,
    refused: Option<Box<Refusal>>,
}

#[derive(Debug)]
struct Facts {
    group: Arc<str>,
    gone_at: Option<SystemTime>,
    response_too_large: bool,
    secrets_withheld: bool,
    conditions: Conditions,
    types: Vec<TypeFacts>,
    /// Oldest first; mostly none.
    suspicions: Vec<Suspicion>,
}

/// One stream: who it is and what is known of it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) identity: Identity,
    facts: Mutex<Facts>,
}

impl Stream {
    pub(super) fn new(id: u64, identity: Identity) -> Self {
        let group = Arc::clone(&identity.group);
        let facts = Facts {
            group,
            gone_at: None,
            response_too_large: false,
            secrets_withheld: false,
            conditions: Conditions::default(),
            types: Vec::new(),
            suspicions: Vec::new(),
        };
        Self {
            id,
            identity,
            facts: Mutex::new(facts),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gone_at(&self) -> Option<SystemTime> {
        self.facts().gone_at
    }

    pub(super) fn leave(&self, at: SystemTime) {
        self.facts().gone_at = Some(at);
    }

    /// The names that it asks for, type by type.
    pub(super) fn lists(&self) -> Vec<Arc<[Arc<str>]>> {
        self.facts()
            .types
            .iter()
            .filter_map(|of_type| of_type.names.clone())
            .filter(|names| !names.is_empty())
            .collect()
    }

    pub(super) fn suspicions(&self) -> Vec<Suspicion> {
        self.facts().suspicions.clone()
    }

    pub(super) fn view(&self, duplicate: bool) -> ClientView {
        let facts = self.facts();
        let warnings = [
            (duplicate, warnings::DUPLICATE_NODE_ID),
            (facts.response_too_large, warnings::RESPONSE_TOO_LARGE),
            (facts.secrets_withheld, warnings::SECRETS_WITHHELD),
            (facts.conditions.removals_held, warnings::REMOVALS_HELD),
            (
                facts.conditions.clusters_unacknowledged,
                warnings::CLUSTERS_UNACKNOWLEDGED,
            ),
        ];
        ClientView {
            stream: self.id,
            node_id: Arc::clone(&self.identity.node_id),
            node_cluster: Arc::clone(&self.identity.node_cluster),
            group: Arc::clone(&facts.group),
            address: self.identity.address,
            variant: self.identity.variant,
            connected_at: self.identity.connected_at,
            gone_at: facts.gone_at,
            warnings: warnings
                .into_iter()
                .filter_map(|(holds, warning)| holds.then_some(warning))
                .collect(),
            types: facts
                .types
                .iter()
                .map(|of_type| (of_type.resource_type, of_type.view()))
                .collect(),
        }
    }
}

impl TypeFacts {
    fn view(&self) -> TypeView {
        TypeView {
            subscribed: match &self.names {
                None => Subscribed::Wildcard,
                Some(names) => Subscribed::Names(names.to_vec()),
            },
            sent: self.sent.as_ref().map(Sent::view),
            acknowledged: self.acknowledged.as_ref().map(Sent::view),
            refused: self.refused.as_deref().cloned(),
        }
    }
}

/// How a stream tells what it did. Dropped when the stream ends.
#[derive(Debug)]
pub struct StreamHandle {
    pub(super) stream: Arc<Stream>,
    pub(super) registry: Arc<Registry>,
    pub(super) observer: Arc<dyn Observer>,
}

impl StreamHandle {
    /// Unique within the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.stream.id
    }

    /// The node belongs to this group now.
    pub fn moved(&self, group: &Arc<str>) {
        self.stream.facts().group = Arc::clone(group);
    }

    /// What it asks for now; `None`: wildcard.
    pub fn subscribed(&self, resource_type: ResourceType, names: Option<&Arc<[Arc<str>]>>) {
        self.of_type(resource_type, |of_type| of_type.names = names.cloned());
    }

    /// Secrets that it asks for do not go to it, for want of trust. Whether this is new.
    #[must_use]
    pub fn secrets_withheld(&self) -> bool {
        !std::mem::replace(&mut self.stream.facts().secrets_withheld, true)
    }

    /// A response was handed over; `size` is its message's, in bytes.
    pub fn sent(&self, resource_type: ResourceType, sent: Sent, size: usize) {
        self.observer.responded(resource_type, self.stream.identity.variant);
        if size > GRPC_MESSAGE_MAX && self.stream.identity.grpc_library {
            self.stream.facts().response_too_large = true;
            self.observer.too_large(resource_type);
        }
        self.of_type(resource_type, |of_type| of_type.sent = Some(sent));
    }

    /// A response was ACKed.
    pub fn acknowledged(&self, resource_type: ResourceType, sent: Sent, since_published: Option<Duration>) {
        self.observer
            .acknowledged(resource_type, self.stream.identity.variant, since_published);
        self.of_type(resource_type, |of_type| {
            of_type.acknowledged = Some(sent);
            of_type.refused = None;
        });
    }

    /// A response was NACKed: its number within the stream, and who may be to blame.
    pub fn refused(
        &self,
        resource_type: ResourceType,
        sent: &Sent,
        code: i32,
        message: &str,
        sequence: u64,
        suspects: Vec<Suspect>,
    ) {
        self.observer.refused(resource_type, self.stream.identity.variant);
        let message = message[..message.floor_char_boundary(MESSAGE_MAX)].to_owned();
        let suspicion = Suspicion {
            resource_type,
            sequence,
            message: message.as_str().into(),
            suspects,
        };
        let refusal = Box::new(Refusal {
            exchange: sent.view(),
            code,
            message,
        });
        self.of_type(resource_type, |of_type| of_type.refused = Some(refusal));
        let suspicions = &mut self.stream.facts().suspicions;
        suspicions.push(suspicion);
        if suspicions.len() > SUSPICIONS_MAX {
            suspicions.remove(0);
        }
    }

    /// A response was answered: what is not refused with the same response as before is suspected no longer.
    pub fn settle(&self, resource_type: ResourceType, refusal_of: impl Fn(&str) -> Option<u64>) {
        let suspicions = &mut self.stream.facts().suspicions;
        suspicions.retain_mut(|suspicion| {
            let sequence = suspicion.sequence;
            if suspicion.resource_type == resource_type {
                suspicion
                    .suspects
                    .retain(|suspect| refusal_of(&suspect.resource) == Some(sequence));
            }
            !suspicion.suspects.is_empty()
        });
        if suspicions.is_empty() {
            suspicions.shrink_to_fit();
        }
    }

    /// The client reported to have what it would have been sent.
    pub fn confirmed(&self, resource_type: ResourceType, version: SetVersion) {
        let confirmed = Sent {
            version,
            nonce: None,
            at: SystemTime::now(),
        };
        self.of_type(resource_type, |of_type| of_type.acknowledged = Some(confirmed));
    }

    /// What holds for it now. Gives what held before.
    #[must_use]
    pub fn conditions(&self, conditions: Conditions) -> Conditions {
        let before = std::mem::replace(&mut self.stream.facts().conditions, conditions);
        if conditions.clusters_unacknowledged && !before.clusters_unacknowledged {
            self.observer.stuck(self.stream.identity.variant);
        }
        before
    }

    /// The stream ends: the client may have these or not.
    pub fn leave(self, unknown: Vec<(ResourceType, Arc<str>)>) {
        self.registry
            .memory
            .keep(&self.stream.identity.node_id, unknown, SystemTime::now());
    }

    fn of_type(&self, resource_type: ResourceType, change: impl FnOnce(&mut TypeFacts)) {
        let mut facts = self.stream.facts();
        let known = facts
            .types
            .iter()
            .position(|of_type| of_type.resource_type == resource_type);
        let index = known.unwrap_or_else(|| {
            let fresh = TypeFacts {
                resource_type,
                names: Some(Arc::new([])),
                sent: None,
                acknowledged: None,
                refused: None,
            };
            facts.types.push(fresh);
            facts.types.len() - 1
        });
        change(&mut facts.types[index]);
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.registry.disconnect(&self.stream, SystemTime::now());
    }
}
