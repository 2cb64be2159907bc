//! The protocol of one stream, without I/O.
//!
//! In: requests as bytes, the current snapshot, moments. Out: the meaning of a request ([`Outcome`]), and the next
//! response, at most one at a time, built from what is owed at that moment.
//!
//! The session is level-triggered and keeps no queue: after a pause in writing, one response a type brings the client
//! to the newest state. The types of a stream are independent, except that removals wait for the types that may refer
//! to them.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use self::idle::Idle;
use crate::document::key::DocumentKey;
use crate::fleet::{Conditions, Nonce, Suspects, Variant};
use crate::proto::wire::Node as WireNode;
use crate::resource::ResourceType;
use crate::rollout::Node;
use crate::snapshot::GroupRules;
use crate::snapshot::blocks::Blocks;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::steps::Mark;
use crate::snapshot::trace::Trace;
use crate::snapshot::version::SetVersion;
use crate::xds::error::Error;
use crate::xds::node;
use crate::xds::session::client_features::ClientFeatures;
use crate::xds::session::nack::stuck::Stuck;
use crate::xds::session::order::HeldRemoval;
use crate::xds::session::state::State;
use crate::xds::session::subscription::names::{Interner, Names};
use crate::xds::session::warming::Back;
use crate::xds::session::wire::delta;
use crate::xds::session::wire::limits;
use crate::xds::session::wire::reported::Reported;
use crate::xds::session::wire::request::Request;
use crate::xds::session::wire::sotw;

pub(in crate::xds) mod order;
pub(in crate::xds) mod state;
pub(in crate::xds) mod subscription;
pub(in crate::xds) mod wire;

mod client_features;
mod follow;
mod idle;
mod nack;
mod respond;
mod spared;
mod steps;
mod warming;

/// A delta stream without a response for this long gets one empty response. The response resets the reconnect delay of
/// the client and shows gRPC that the server is alive (GR-08).
const GREETING_AFTER: Duration = Duration::from_secs(1);

/// The longest time that health checks of new clusters may delay the ACK of clusters.
const CHECKS_MAX: Duration = Duration::from_secs(100);

/// The names of a client without a subscription to endpoints.
static NO_NAMES: LazyLock<Names> = LazyLock::new(Names::default);

/// The most NACKed names that are kept for the client's next stream.
const UNKNOWN_MAX: usize = 1000;

/// The settings that are known when a stream opens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// SotW or delta.
    pub variant: Variant,
    /// The one type of a per-type service; `None`: ADS.
    pub service_type: Option<ResourceType>,
    /// `control_plane.identifier`.
    pub identifier: Arc<str>,
    /// Part of every nonce: distinguishes nonces of this stream from those of another.
    pub salt: u32,
    /// Shares equal lists of names.
    pub interner: Arc<Interner>,
    /// Whether secrets may be sent to this client. If not, no secret exists for it.
    pub secrets: bool,
}

/// The part of a request that differs between SotW and delta.
#[derive(Debug)]
pub(in crate::xds) enum Lists {
    Sotw(sotw::Listed),
    Delta(delta::Edits),
}

/// The meaning of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The type; `None`: one that is not served.
    pub resource_type: Option<ResourceType>,
    /// Whether the subscription changed.
    pub resubscribed: bool,
    /// The ACK or NACK in the request.
    pub acked: Option<Acked>,
}

/// An ACK or a NACK.
#[derive(Debug)]
pub struct Acked {
    /// The response's version.
    pub version: SetVersion,
    /// The response's nonce.
    pub nonce: Nonce,
    /// Its number within the stream.
    pub sequence: u64,
    /// The time of the publish that the response carried. `None`: the response carried more than one publish.
    pub published_at: Option<SystemTime>,
    /// The trace of that publish; `None` where it is not traced.
    pub trace: Option<Trace>,
    /// The changes up to which an ACK of the response brings the type.
    pub mark: Mark,
    /// ACK or NACK.
    pub ack: Ack,
}

/// The client's answer to a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Ack {
    /// ACK.
    Ack,
    /// NACK.
    Nack {
        /// The gRPC code.
        code: i32,
        /// `error_detail.message`.
        message: String,
        /// The first few names of the response.
        names: Vec<Arc<str>>,
        /// The documents that may be the cause, by resource.
        suspects: Suspects,
    },
}

/// One response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The type; `None`: one that is not served.
    pub resource_type: Option<ResourceType>,
    /// Its version.
    pub version: SetVersion,
    /// Its nonce.
    pub nonce: Nonce,
    /// The message without its resources, encoded.
    pub head: Vec<u8>,
    /// The resources, encoded.
    pub blocks: Blocks,
}

/// A subscription to a type that is not served, with the names to answer.
#[derive(Debug)]
struct Unserved {
    type_url: String,
    names: Vec<Arc<str>>,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    node: Option<Arc<Node>>,
    features: ClientFeatures,
    /// Length and hash of the last node: most clients repeat the node in every request.
    node_seen: (usize, u128),
    group: Option<(Arc<GroupRules>, Arc<str>)>,
    types: [Option<Box<State>>; ResourceType::COUNT],
    unserved: VecDeque<Unserved>,
    /// A first request of some type reported resources of an earlier stream.
    reported: bool,
    sequence: u64,
    greeting_at: Option<Instant>,
    back: Back,
    stuck: Stuck,
    /// Resources that the client NACKed on its last stream, until it subscribes to their type.
    recalled: Vec<(ResourceType, Arc<str>)>,
    sources: follow::Sources,
    confirmed: Vec<(ResourceType, SetVersion)>,
    spared: spared::Spared,
    /// The stream is idle; `None`: unknown.
    idle: Option<Idle>,
}

impl Session {
    /// The session of a new stream.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            node: None,
            features: ClientFeatures::default(),
            node_seen: (0, 0),
            group: None,
            types: Default::default(),
            unserved: VecDeque::new(),
            reported: false,
            sequence: 0,
            greeting_at: None,
            back: Back::default(),
            stuck: Stuck::default(),
            recalled: Vec::new(),
            sources: follow::Sources::default(),
            confirmed: Vec::new(),
            spared: spared::Spared::default(),
            idle: None,
        }
    }

    /// The node of the client; `None` before its first request.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The group of the last response.
    #[must_use]
    pub fn group(&self) -> Option<&Arc<str>> {
        self.group.as_ref().map(|(_, group)| group)
    }

    /// The subscription to a type: whether it has the wildcard, and its names.
    #[must_use]
    pub fn subscription(&self, resource_type: ResourceType) -> Option<(bool, &Names)> {
        let state = self.types[resource_type.index()].as_ref()?;
        Some((state.subscription.wildcard, &state.subscription.names))
    }

    /// Whether responses to requests are not taken yet. If so, no further request should be read.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.unserved.is_empty()
    }

    /// `Some((group, names))`: the stream is idle; an EDS change matters to it only in `group` and for one of `names`.
    /// `None`: any publish may matter.
    #[must_use]
    pub fn endpoints_alone(&self) -> Option<(&Arc<str>, &Names)> {
        self.idle.as_ref().filter(|idle| idle.has_sent_all())?;
        let names = match &self.types[ResourceType::Endpoint.index()] {
            Some(state) => state.by_name()?,
            None => &NO_NAMES,
        };
        Some((self.group()?, names))
    }

    // ---- facts ----

    /// A type that needs no first response, because the client reported this version.
    pub fn confirmed(&mut self) -> Option<(ResourceType, SetVersion)> {
        self.confirmed.pop()
    }

    /// The conditions of the client that an operator should know.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        if self.idle.is_some() {
            return Conditions::default();
        }
        let holds = self
            .types
            .iter()
            .flatten()
            .flat_map(|state| &state.work.pending().holds);
        let refused = |hold: &HeldRemoval| hold.is_nacked(|barrier| self.barrier_state(barrier));
        Conditions {
            removals_held: holds.into_iter().any(refused),
            clusters_unacknowledged: self.stuck.is_stuck(),
        }
    }

    /// The first few documents of clusters without ACK or NACK.
    #[must_use]
    pub fn unacked_clusters(&self) -> Vec<DocumentKey> {
        let clusters = self.types[ResourceType::Cluster.index()].as_ref();
        clusters.map(|state| state.unacked_documents()).unwrap_or_default()
    }

    /// The sequence of the response in which a resource is NACKed, if it is.
    #[must_use]
    pub fn nacked_in(&self, resource_type: ResourceType, name: &str) -> Option<u64> {
        self.types[resource_type.index()].as_ref()?.nacked_in(name)
    }

    /// The set of a type that the client has accepted, as far as it subscribes to it; `None`: nothing yet.
    #[must_use]
    pub fn acked(&self, resource_type: ResourceType) -> Option<&Arc<ResourceSet>> {
        self.types[resource_type.index()].as_ref()?.acked()
    }

    /// The resources of unknown state after a NACK, to be recalled by the client's next stream.
    #[must_use]
    pub fn unknown(&self) -> Vec<(ResourceType, Arc<str>)> {
        let states = self.types.iter().flatten();
        let of = |state: &State| {
            state
                .unknown()
                .map(|name| (state.resource_type, Arc::clone(name)))
                .collect::<Vec<_>>()
        };
        states.flat_map(|state| of(state)).take(UNKNOWN_MAX).collect()
    }

    /// The resources of unknown state from the client's last stream (DX-21). Called before the first response.
    pub fn recall(&mut self, unknown: Vec<(ResourceType, Arc<str>)>) {
        self.recalled = unknown;
    }

    /// Check whether the client is stuck with a cluster. Gives whether a response with clusters is without ACK or NACK.
    fn check_stuck(&mut self, now: Instant) -> bool {
        let others = || {
            self.types
                .iter()
                .flatten()
                .filter(|state| state.resource_type != ResourceType::Cluster)
        };

        let clusters = self.types[ResourceType::Cluster.index()]
            .as_ref()
            .filter(|_| others().next().is_some());
        let since = clusters.and_then(|state| state.unacked_since());
        let answers = since.is_some() && others().all(|state| state.unacked_since().is_none());
        let checks = if self.spared.has_checks() {
            CHECKS_MAX
        } else {
            Duration::ZERO
        };

        self.stuck.check(since.map(|since| since + checks), answers, now);
        since.is_some()
    }

    // ---- requests ----

    /// A request arrived.
    ///
    /// # Errors
    /// The stream must end with this status.
    pub fn on_request(&mut self, bytes: Bytes, now: Instant) -> Result<Outcome, Error> {
        let (idle, node_seen) = (self.idle.take(), self.node_seen);
        let outcome = self.read(&bytes, now)?;
        let accepts = |acked: &Acked| acked.ack == Ack::Ack;
        let only_acks = !outcome.resubscribed && outcome.acked.as_ref().is_some_and(accepts);
        let state = outcome
            .resource_type
            .and_then(|resource_type| self.types[resource_type.index()].as_ref());
        if only_acks && self.node_seen == node_seen && state.is_some_and(|state| state.is_idle()) {
            self.idle = idle;
        }
        Ok(outcome)
    }

    fn read(&mut self, bytes: &Bytes, now: Instant) -> Result<Outcome, Error> {
        let (request, lists) = match self.settings.variant {
            Variant::Sotw => {
                let states = self.types.iter().flatten();
                let known = states.filter_map(|state| state.subscription.long_run());
                let (request, listed) = sotw::decode(bytes, known)?;
                (request, Lists::Sotw(listed))
            }
            Variant::Delta => {
                let (request, edits) = delta::decode(bytes)?;
                (request, Lists::Delta(edits))
            }
        };

        self.on_node(&request.node)?;
        if self.settings.variant == Variant::Delta && self.greeting_at.is_none() && self.sequence == 0 {
            self.greeting_at = Some(now + GREETING_AFTER);
        }
        match self.resource_type(request.type_url)? {
            Some(resource_type) => self.on_typed(resource_type, &request, lists),
            None => {
                self.on_unserved(&request, &lists);
                Ok(Outcome {
                    resource_type: None,
                    resubscribed: false,
                    acked: None,
                })
            }
        }
    }

    /// GEN-01 to GEN-03. A node that is known already is not decoded again.
    fn on_node(&mut self, bytes: &Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return if self.node.is_some() {
                Ok(())
            } else {
                Err(Error::NoNode)
            };
        }

        let seen = (bytes.len(), xxh3_128(bytes));
        if seen == self.node_seen {
            return Ok(());
        }
        limits::node_size(bytes)?;
        let node = node::node(&WireNode::decode(&**bytes).map_err(|error| Error::Malformed(error.to_string()))?);
        if node.id.is_empty() {
            return Err(Error::NoNode);
        }
        limits::node(&node)?;
        if let Some(known) = self.node.as_ref().filter(|known| known.id != node.id) {
            return Err(Error::NodeChanged {
                was: known.id.to_string(),
                is: node.id.to_string(),
            });
        }

        self.node_seen = seen;
        self.features = ClientFeatures::of(&node);
        self.node = Some(Arc::new(node));
        self.group = None;
        Ok(())
    }

    /// GEN-04, GEN-05.
    fn resource_type(&self, type_url: &str) -> Result<Option<ResourceType>, Error> {
        match self.settings.service_type {
            Some(own) if type_url.is_empty() || type_url == own.type_url() => Ok(Some(own)),
            Some(own) => Err(Error::WrongType {
                found: type_url.to_owned(),
                expected: own.type_url(),
            }),
            None if type_url.is_empty() => Err(Error::NoTypeUrl),
            None => Ok(ResourceType::from_type_url(type_url)
                .filter(|known| *known != ResourceType::VirtualHost || self.settings.variant == Variant::Delta)),
        }
    }

    fn on_unserved(&mut self, request: &Request<'_>, lists: &Lists) {
        if let Lists::Delta(edits) = lists
            && let Some(names) = edits.unserved(!request.nonce.is_empty())
        {
            self.unserved.push_back(Unserved {
                type_url: request.type_url.to_owned(),
                names,
            });
        }
    }

    fn on_typed(
        &mut self,
        resource_type: ResourceType,
        request: &Request<'_>,
        mut lists: Lists,
    ) -> Result<Outcome, Error> {
        let first = self.types[resource_type.index()].is_none();
        let state = self.types[resource_type.index()].get_or_insert_with(|| Box::new(State::new(resource_type)));
        if first {
            let reported = match &mut lists {
                Lists::Sotw(listed) => listed.reported(),
                Lists::Delta(edits) => edits.take_reported(),
            };
            self.reported |= !matches!(reported, Reported::Nothing);
            state.work.pending_mut().reported = reported;
        }

        let asked = match &lists {
            Lists::Sotw(listed) => listed.apply(&mut state.subscription, resource_type, &self.settings.interner)?,
            Lists::Delta(edits) => {
                edits.apply(&mut state.subscription, resource_type, first, &self.settings.interner)?
            }
        };

        let resubscribed = first || asked.changed;
        let repeated = !asked.changed && asked.names.is_empty() && !asked.wildcard;
        if first {
            state.begin(asked, &self.settings.interner);
            self.sources
                .take_early(resource_type)
                .for_each(|name| state.follow(&name));
        } else {
            state.ask(asked, &self.settings.interner);
        }

        let acked = if first {
            None
        } else {
            self.on_ack_or_nack(resource_type, request)
        };

        if first {
            self.lower_barriers(resource_type);
        }
        if repeated && acked.is_none() && self.settings.variant == Variant::Sotw {
            self.ask_again(resource_type);
        }
        Ok(Outcome {
            resource_type: Some(resource_type),
            resubscribed,
            acked,
        })
    }

    /// A SotW request that is repeated without an ACK or NACK: the client waits for withheld resources (SW-20).
    fn ask_again(&mut self, resource_type: ResourceType) {
        if let Some(state) = self.types[resource_type.index()].as_mut() {
            state.ask_again();
        }
    }

    /// Match an ACK or NACK to its response by the nonce alone. `error_detail` alone makes a NACK (GEN-15).
    fn on_ack_or_nack(&mut self, resource_type: ResourceType, request: &Request<'_>) -> Option<Acked> {
        let salt = self.settings.salt;
        let sequence = Nonce::sequence_of(request.nonce, salt)?;
        let state = self.types[resource_type.index()].as_mut()?;
        let answered = state.on_ack_or_nack(sequence)?;
        if resource_type == ResourceType::Cluster {
            self.spared.on_ack_or_nack(sequence);
        }
        self.stuck.on_ack_or_nack(resource_type);

        let (version, published_at, trace) = (answered.version, answered.published_at, answered.trace.clone());
        let mark = answered.mark;
        let ack = match &request.error_detail {
            None => {
                state.on_ack(&answered, self.settings.variant);
                self.stuck.on_ack(resource_type);
                Ack::Ack
            }
            Some(status) => {
                self.stuck.on_error_message(resource_type, &status.message);
                let names = answered
                    .content
                    .resources()
                    .take(10)
                    .map(|resource| Arc::clone(&resource.name))
                    .collect();
                let suspects = state.on_nack(answered, &status.message);
                let states = self.types.iter_mut().flatten();
                states
                    .filter(|it| order::referrers(it.resource_type).contains(&resource_type))
                    .for_each(|it| it.retract());
                Ack::Nack {
                    code: status.code,
                    message: status.message.clone(),
                    names,
                    suspects,
                }
            }
        };

        Some(Acked {
            version,
            nonce: Nonce::new(salt, sequence),
            sequence,
            published_at,
            trace,
            mark,
            ack,
        })
    }
}

#[cfg(test)]
mod tests;
