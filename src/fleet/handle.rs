//! The handle through which the task of a stream records facts about that stream.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::convergence::Why;
use super::registry::Registry;
use super::stream::{Sent, Stream};
use super::suspicions::Suspicion;
use super::{Conditions, Nack, Observer, Suspects, UnresolvedNack};
use crate::resource::ResourceType;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::steps::{Mark, Marks};
use crate::snapshot::version::SetVersion;

/// Longest `error_detail` message that is kept, in bytes. Envoy cuts its messages at the same length.
const MESSAGE_MAX: usize = 4096;
/// Most unresolved NACKs of one stream. Above it the oldest is forgotten.
const UNRESOLVED_MAX: usize = 16;

/// Records facts about one stream. Dropping the handle ends the stream.
#[derive(Debug)]
pub struct StreamHandle {
    pub(super) stream: Arc<Stream>,
    pub(super) registry: Arc<Registry>,
    pub(super) observer: Arc<dyn Observer>,
}

impl StreamHandle {
    /// The number of the stream, unique within the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.stream.id
    }

    /// The node moved to another group.
    pub fn moved(&self, group: &Arc<str>) {
        self.stream.facts().group = Arc::clone(group);
        let convergence = &self.registry.convergence;
        convergence.regrouped(&self.stream.proxy, group, SystemTime::now());
    }

    /// The subscription of one type changed; `None`: wildcard.
    pub fn subscribed(&self, resource_type: ResourceType, names: Option<&Arc<[Arc<str>]>>) {
        self.stream
            .of_type(resource_type, |of_type| of_type.names = names.cloned());
        let convergence = &self.registry.convergence;
        convergence.subscribed(&self.stream.proxy, self.stream.id, resource_type, SystemTime::now());
    }

    /// Secrets are withheld from the stream, because its connection is not trusted. `true` the first time.
    #[must_use]
    pub fn secrets_withheld(&self) -> bool {
        !std::mem::replace(&mut self.stream.facts().secrets_withheld, true)
    }

    /// A response was handed to the stream; `is_too_large`: the client is a gRPC library and accepts no such message.
    pub fn sent(&self, resource_type: ResourceType, sent: Sent, is_too_large: bool) {
        self.observer.responded(resource_type, self.stream.identity.variant);
        if is_too_large {
            self.stream.facts().response_too_large = true;
            self.observer.too_large(resource_type);
        }

        self.stream.of_type(resource_type, |of_type| of_type.sent = Some(sent));
    }

    /// The client sent an ACK for a response.
    pub fn acknowledged(&self, resource_type: ResourceType, sent: Sent, since_published: Option<Duration>) {
        self.observer
            .acknowledged(resource_type, self.stream.identity.variant, since_published);
        self.stream.of_type(resource_type, |of_type| {
            of_type.acknowledged = Some(sent);
            of_type.nack = None;
        });
    }

    /// The client has all of a type up to the mark of a response that it acknowledged. Gives whether the proxy moved.
    #[must_use]
    pub fn reaches(&self, resource_type: ResourceType, mark: Mark) -> bool {
        self.has(resource_type, mark, true)
    }

    /// The client NACKed a response with this mark.
    pub fn refuses(&self, resource_type: ResourceType, mark: Mark) {
        let (convergence, stream) = (&self.registry.convergence, &self.stream);
        convergence.nacked(&stream.proxy, stream.id, resource_type, mark, SystemTime::now());
    }

    /// The client has, without an ACK for it, all of a type up to a mark: the changes do not concern the client, or it
    /// has reported their versions.
    pub fn unconcerned(&self, resource_type: ResourceType, mark: Mark) {
        self.has(resource_type, mark, false);
    }

    fn has(&self, resource_type: ResourceType, mark: Mark, is_ack: bool) -> bool {
        let (convergence, stream) = (&self.registry.convergence, &self.stream);
        convergence.has(&stream.proxy, stream.id, resource_type, mark, is_ack, SystemTime::now())
    }

    /// An ACK moved the proxy to a mark; `marks` are those of its group.
    pub fn converges(&self, mark: Mark, marks: &Marks) {
        let convergence = &self.registry.convergence;
        if let Some(after) = convergence.reached(&self.stream.proxy, mark, marks, SystemTime::now()) {
            let group = Arc::clone(&self.stream.facts().group);
            self.observer.converged(&group, after);
        }
    }

    /// Why something is still owed to the client.
    pub fn waits(&self, why: Why) {
        self.registry.convergence.waits(&self.stream.proxy, why);
    }

    /// The client reads nothing, or reads again.
    pub fn stalled(&self, is_stalled: bool) {
        let (convergence, stream) = (&self.registry.convergence, &self.stream);
        convergence.stalled(&stream.proxy, stream.id, is_stalled, SystemTime::now());
    }

    /// The client has accepted this set of a type, as far as it subscribes to it.
    pub fn holds(&self, resource_type: ResourceType, set: Option<&Arc<ResourceSet>>) {
        self.stream
            .of_type(resource_type, |of_type| of_type.accepted = set.cloned());
        self.registry.suspicions.on_ack();
    }

    /// The client sent a NACK for a response: its number within the stream, and the resources that may be the cause.
    pub fn nacked(
        &self,
        resource_type: ResourceType,
        sent: &Sent,
        code: i32,
        message: &str,
        sequence: u64,
        suspects: impl Into<Suspects>,
    ) {
        let Suspects { shown, all } = suspects.into();
        self.observer.nacked(resource_type, self.stream.identity.variant);
        let message = message[..message.floor_char_boundary(MESSAGE_MAX)].to_owned();
        let unresolved = UnresolvedNack {
            resource_type,
            sequence,
            message: message.as_str().into(),
            suspects: shown,
        };

        let nack = Box::new(Nack {
            exchange: sent.view(),
            code,
            message,
        });

        self.stream.of_type(resource_type, |of_type| of_type.nack = Some(nack));
        let mut facts = self.stream.facts();
        let suspicion = Suspicion::of(&facts.group, &unresolved, all);
        facts.unresolved_nacks.push(unresolved);
        if facts.unresolved_nacks.len() > UNRESOLVED_MAX {
            facts.unresolved_nacks.remove(0);
        }
        drop(facts);
        self.registry.suspicions.add(suspicion);
    }

    /// The client answered a response. A suspect stays only if `nack_of` gives the same response for its resource as
    /// before.
    pub fn resolve(&self, resource_type: ResourceType, nack_of: impl Fn(&str) -> Option<u64>) {
        let unresolved_nacks = &mut self.stream.facts().unresolved_nacks;
        unresolved_nacks.retain_mut(|nack| {
            let sequence = nack.sequence;
            if nack.resource_type == resource_type {
                nack.suspects
                    .retain(|suspect| nack_of(&suspect.resource) == Some(sequence));
            }
            !nack.suspects.is_empty()
        });
        if unresolved_nacks.is_empty() {
            unresolved_nacks.shrink_to_fit();
        }
    }

    /// A reconnecting client reported the version that it would have been sent.
    pub fn confirmed(&self, resource_type: ResourceType, version: SetVersion) {
        let confirmed = Sent {
            version,
            nonce: None,
            at: SystemTime::now(),
        };
        self.stream
            .of_type(resource_type, |of_type| of_type.acknowledged = Some(confirmed));
    }

    /// Record the conditions of the stream. Returns the ones before.
    #[must_use]
    pub fn conditions(&self, conditions: Conditions) -> Conditions {
        let before = std::mem::replace(&mut self.stream.facts().conditions, conditions);
        if conditions.clusters_unacknowledged && !before.clusters_unacknowledged {
            self.observer.stuck(self.stream.identity.variant);
        }
        before
    }

    /// The stream ends; the state of these resources at the client is unknown.
    pub fn leave(self, unknown: Vec<(ResourceType, Arc<str>)>) {
        self.registry
            .memory
            .keep(&self.stream.identity.node_id, unknown, SystemTime::now());
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.registry.disconnect(&self.stream, SystemTime::now());
    }
}
