//! The protocol of one stream, without I/O.
//!
//! What enters: requests as bytes, the current snapshot, moments. What leaves: what a request meant ([`Outcome`]) and the
//! next response, at most one at a time, made of what is owed at that moment. Level-triggered: there is no queue, a stream
//! that could not be written to is brought to the newest state by one response a type. One type's state never affects
//! another's, except that removals wait for what may refer to them.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use self::idle::{Idle, IdleStep};
use crate::document::key::DocumentKey;
use crate::fleet::{Conditions, Nonce, Suspect, Variant};
use crate::proto::wire::{Node as WireNode, Status};
use crate::resource::ResourceType;
use crate::rollout::{self, Node};
use crate::snapshot::blocks::{Blocks, Shape};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::trace::Trace;
use crate::snapshot::version::SetVersion;
use crate::snapshot::{GroupRules, GroupSnapshot, Snapshot};
use crate::xds::error::Error;
use crate::xds::node;
use crate::xds::session::client_features::ClientFeatures;
use crate::xds::session::nack::stuck::Stuck;
use crate::xds::session::order::{Barrier, BarrierState, HeldRemoval};
use crate::xds::session::state::content::Content;
use crate::xds::session::state::{Draft, State, Target, Unacked};
use crate::xds::session::subscription::names::{Interner, Names};
use crate::xds::session::warming::Back;
use crate::xds::session::wire::delta;
use crate::xds::session::wire::limits;
use crate::xds::session::wire::reported::Reported;
use crate::xds::session::wire::sotw;

pub(in crate::xds) mod order;
pub(in crate::xds) mod state;
pub(in crate::xds) mod subscription;
pub(in crate::xds) mod wire;

mod client_features;
mod exchange;
mod follow;
mod idle;
mod nack;
mod prepare;
mod spared;
mod warming;

/// A delta stream to which nothing was sent for so long gets one empty response, so that the client's reconnect delay
/// starts anew and gRPC does not take the server for a dead one (GR-08).
const GREETING_AFTER: Duration = Duration::from_secs(1);

/// How long health checks of new clusters explain that clusters are not answered.
const CHECKS_MAX: Duration = Duration::from_secs(100);

/// What secrets there are for a client that may have none.
static NO_SECRETS: LazyLock<Arc<ResourceSet>> = LazyLock::new(|| Arc::new(ResourceSet::new(ResourceType::Secret)));

/// Of who has not asked for endpoints.
static NO_NAMES: LazyLock<Names> = LazyLock::new(Names::default);

/// Names that are remembered of what a client refused, at most.
const UNKNOWN_MAX: usize = 1000;

/// What is the same for all streams, or is known when a stream opens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// SotW or delta.
    pub variant: Variant,
    /// The one type of a per-type service; `None`: ADS.
    pub service_type: Option<ResourceType>,
    /// `control_plane.identifier`.
    pub identifier: Arc<str>,
    /// Part of every nonce, so that those of another stream are not taken for this one's.
    pub salt: u32,
    /// Where lists of names are shared.
    pub interner: Arc<Interner>,
    /// Whether secrets may go to this client; if not, they are as if they did not exist.
    pub secrets: bool,
}

/// A request, taken apart.
#[derive(Debug, Default)]
pub(in crate::xds) struct Request<'a> {
    pub(in crate::xds) node: Bytes,
    pub(in crate::xds) type_url: &'a str,
    pub(in crate::xds) nonce: &'a str,
    pub(in crate::xds) error_detail: Option<Status>,
    pub(in crate::xds) lists: Lists,
}

/// The part of a request that the variants have each their own of.
#[derive(Debug)]
pub(in crate::xds) enum Lists {
    Sotw(sotw::Listed),
    Delta(delta::Edits),
}

impl Default for Lists {
    fn default() -> Self {
        Self::Delta(delta::Edits::default())
    }
}

/// What a request meant.
#[derive(Debug)]
pub struct Outcome {
    /// The type; `None`: one that is not served.
    pub resource_type: Option<ResourceType>,
    /// Whether the subscription changed.
    pub resubscribed: bool,
    /// The response that it answers.
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
    /// When what the response carried was published; `None` when it carried more than a publish.
    pub published_at: Option<SystemTime>,
    /// The trace of that publish; `None` where it is not traced.
    pub trace: Option<Trace>,
    /// Which of the two.
    pub ack: Ack,
}

/// What the client made of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Ack {
    /// ACK.
    Ack,
    /// NACK.
    Nack {
        /// The gRPC code.
        code: i32,
        /// The client's words.
        message: String,
        /// What it carried, the first few names.
        names: Vec<Arc<str>>,
        /// Who may be to blame, by resource.
        suspects: Vec<Suspect>,
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

/// A type that is not served was asked for: the names to be answered.
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
    /// Length and hash of the node as it was last received: most clients repeat it in every request.
    node_seen: (usize, u128),
    group: Option<(Arc<GroupRules>, Arc<str>)>,
    types: [Option<Box<State>>; ResourceType::COUNT],
    unserved: VecDeque<Unserved>,
    /// Some first request told what the client has.
    reported: bool,
    sequence: u64,
    greeting_at: Option<Instant>,
    back: Back,
    stuck: Stuck,
    /// What the client refused on its last stream, until its type is asked for.
    recalled: Vec<(ResourceType, Arc<str>)>,
    sources: follow::Sources,
    confirmed: Vec<(ResourceType, SetVersion)>,
    spared: spared::Spared,
    preparing: Option<prepare::Preparing>,
    /// Nothing is owed and nothing waits; `None`: that is not known.
    idle: Option<Idle>,
}

impl Session {
    /// A stream that was just opened.
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
            preparing: None,
            idle: None,
        }
    }

    /// Who the client is; `None` before its first request.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The group it was last served as.
    #[must_use]
    pub fn group(&self) -> Option<&Arc<str>> {
        self.group.as_ref().map(|(_, group)| group)
    }

    /// Whether it asks for everything of a type, and the names it asks for.
    #[must_use]
    pub fn subscription(&self, resource_type: ResourceType) -> Option<(bool, &Names)> {
        let state = self.types[resource_type.index()].as_ref()?;
        Some((state.subscription.wildcard, &state.subscription.names))
    }

    /// Whether responses to requests wait to be taken, so that no more requests should be read.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.unserved.is_empty()
    }

    /// Of endpoints only those of these names, in this group, can give it anything to say; `None`: any.
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

    /// A type of which the first answer had nothing to say, because the client reported to have this version.
    pub fn confirmed(&mut self) -> Option<(ResourceType, SetVersion)> {
        self.confirmed.pop()
    }

    /// What an operator should know of the client now.
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

    /// The documents of the clusters that the client has not answered, the first few.
    #[must_use]
    pub fn unacked_clusters(&self) -> Vec<DocumentKey> {
        let clusters = self.types[ResourceType::Cluster.index()].as_ref();
        clusters.map(|state| state.unacked_documents()).unwrap_or_default()
    }

    /// The response with which a resource was refused, if it is.
    #[must_use]
    pub fn nacked_in(&self, resource_type: ResourceType, name: &str) -> Option<u64> {
        self.types[resource_type.index()].as_ref()?.nacked_in(name)
    }

    /// What the client may have or not, because it refused it: to be recalled by its next stream.
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

    /// What the client's last stream left unknown (DX-21). Before the first response.
    pub fn recall(&mut self, unknown: Vec<(ResourceType, Arc<str>)>) {
        self.recalled = unknown;
    }

    /// Whether the client goes on about clusters. Gives whether an answer about them is still to come.
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
        let settles = !outcome.resubscribed && outcome.acked.as_ref().is_some_and(accepts);
        let state = outcome
            .resource_type
            .and_then(|resource_type| self.types[resource_type.index()].as_ref());
        if settles && self.node_seen == node_seen && state.is_some_and(|state| state.is_idle()) {
            self.idle = idle;
        }
        Ok(outcome)
    }

    fn read(&mut self, bytes: &Bytes, now: Instant) -> Result<Outcome, Error> {
        let request = match self.settings.variant {
            Variant::Sotw => {
                let states = self.types.iter().flatten();
                sotw::decode(bytes, states.filter_map(|state| state.subscription.long_run()))?
            }
            Variant::Delta => delta::decode(bytes)?,
        };
        self.on_node(&request.node)?;
        if self.settings.variant == Variant::Delta && self.greeting_at.is_none() && self.sequence == 0 {
            self.greeting_at = Some(now + GREETING_AFTER);
        }
        match self.resource_type(request.type_url)? {
            Some(resource_type) => self.on_typed(resource_type, request),
            None => {
                self.on_unserved(request);
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

    fn on_unserved(&mut self, request: Request<'_>) {
        if let Lists::Delta(edits) = &request.lists
            && let Some(names) = edits.unserved(!request.nonce.is_empty())
        {
            self.unserved.push_back(Unserved {
                type_url: request.type_url.to_owned(),
                names,
            });
        }
    }

    fn on_typed(&mut self, resource_type: ResourceType, mut request: Request<'_>) -> Result<Outcome, Error> {
        let first = self.types[resource_type.index()].is_none();
        let state = self.types[resource_type.index()].get_or_insert_with(|| Box::new(State::new(resource_type)));
        if first {
            let reported = match &mut request.lists {
                Lists::Sotw(listed) => listed.reported(),
                Lists::Delta(edits) => edits.take_reported(),
            };
            self.reported |= !matches!(reported, Reported::Nothing);
            state.work.pending_mut().reported = reported;
        }
        let asked = match &request.lists {
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
            self.on_ack_or_nack(resource_type, &request)
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

    /// A SotW request that answers nothing repeats itself: the client waits for what was kept from it (SW-20).
    fn ask_again(&mut self, resource_type: ResourceType) {
        if let Some(state) = self.types[resource_type.index()].as_mut() {
            state.ask_again();
        }
    }

    /// ACK and NACK: told apart by `error_detail` alone (GEN-15), matched by nonce alone.
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
            ack,
        })
    }

    // ---- responses ----

    /// The next response that is owed, or `None`: the client has what it should have, or must wait for itself.
    pub fn next_response(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Response> {
        self.back.begin();
        if snapshot.generation == 0 {
            return None;
        }
        self.regroup(snapshot)?;
        if let Some(unserved) = self.unserved.pop_front() {
            return Some(self.answer_unserved(&unserved));
        }
        let group = snapshot.group(self.group()?)?;
        if let Some(idle) = self.idle.take()
            && let IdleStep::Sends(response) = self.step_idle(idle, snapshot, group, now)
        {
            return response;
        }
        self.spare_waits(now);
        loop {
            self.release_holds(now);
            for resource_type in ResourceType::ALL {
                if let Some(response) = self.step(resource_type, snapshot, group, now) {
                    return Some(response);
                }
            }
            // What was just sent may have ended a wait, too.
            if !self.raise_barriers() && !self.release_holds(now) {
                self.spare_waits(now);
                let clusters_unacked = self.check_stuck(now);
                self.back
                    .end(|| self.types.iter().flatten().any(|state| state.is_returning()));
                let greeting = self.greeting(now);
                if greeting.is_none() {
                    self.enter_idle(group, clusters_unacked);
                }
                return greeting;
            }
        }
    }

    /// When to ask for the next response although nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.idle.is_some() {
            return self.stuck.deadline().into_iter().chain(self.spared.deadline()).min();
        }
        let states = || self.types.iter().flatten();
        let holds = states().flat_map(|state| &state.work.pending().holds);
        let deferrals = states().filter_map(|state| state.work.pending().deferrals.deadline());
        let refreshes = states().filter_map(|state| state.refresh_at());
        let steps = states().filter_map(|state| exchange::step_deadline(state));
        let removals = holds.filter_map(|hold| hold.deadline(|barrier| self.barrier_state(barrier)));
        removals
            .chain(deferrals)
            .chain(refreshes)
            .chain(steps)
            .chain(self.preparing.as_ref().map(|preparing| preparing.until))
            .chain(self.back.deadline())
            .chain(self.stuck.deadline())
            .chain(self.spared.deadline())
            .chain(self.greeting_at)
            .min()
    }

    /// Which group the node belongs to, again when the rules or the node changed.
    fn regroup(&mut self, snapshot: &Snapshot) -> Option<()> {
        let node = self.node.as_ref()?;
        let known = self
            .group
            .as_ref()
            .is_some_and(|(rules, _)| Arc::ptr_eq(rules, &snapshot.group_rules));
        if !known {
            let group = rollout::select(&snapshot.group_rules, node);
            self.group = Some((Arc::clone(&snapshot.group_rules), group));
        }
        Some(())
    }

    /// What the client should have of a type.
    fn target<'a>(&self, resource_type: ResourceType, group: &'a GroupSnapshot) -> &'a Arc<ResourceSet> {
        if resource_type == ResourceType::Secret && !self.settings.secrets {
            &NO_SECRETS
        } else if self.settings.variant == Variant::Delta && self.features.vhds {
            group.set(resource_type)
        } else {
            // VHDS has no SotW form (docs/xds-rules.md GR-14).
            group.set_without_vhds(resource_type)
        }
    }

    /// One type: its next response, if it is owed one.
    fn step(
        &mut self,
        resource_type: ResourceType,
        snapshot: &Snapshot,
        group: &GroupSnapshot,
        now: Instant,
    ) -> Option<Response> {
        if resource_type == ResourceType::VirtualHost {
            self.follow_route_configs(group);
        }
        let variant = self.settings.variant;
        let own = Some(group.set(resource_type)).filter(|_| resource_type == ResourceType::Cluster);
        let own = own.and_then(|clusters| self.spared.form_of(clusters));
        let set = own.as_ref().unwrap_or_else(|| self.target(resource_type, group));
        let step = self.step_towards(resource_type, set, now);
        self.on_step(resource_type, &step, set);
        let set = step.set.as_ref().unwrap_or(set);
        let prepared = match resource_type {
            ResourceType::Route => self.prepare(set, now),
            _ => None,
        };
        let set = prepared.as_ref().unwrap_or(set);
        let state = self.types[resource_type.index()].as_ref()?;
        if state.is_idle() && state.is_current(set) && self.recalled.is_empty() {
            return None;
        }
        let unwarm = order::referrers(ResourceType::Cluster).contains(&resource_type);
        let clusters = self.types[ResourceType::Cluster.index()].as_ref().filter(|_| unwarm);
        let endpoints = self.types[ResourceType::Endpoint.index()].as_deref();
        let unwarm = clusters.and_then(|clusters| clusters.unwarm(now, self.spared.resolving(), endpoints));
        let referred = order::referrers(resource_type)
            .iter()
            .any(|other| self.types[other.index()].is_some());
        let state = self.types[resource_type.index()].as_mut()?;
        if variant == Variant::Delta
            && state.is_returning()
            && unwarm.as_ref().is_some_and(|unwarm| self.back.waits(unwarm))
        {
            return None;
        }
        let target = Target {
            set,
            variant,
            referred: referred && (variant == Variant::Delta || state.is_full_state(variant)),
            cautious: self.reported && (snapshot.stale || snapshot.withhold_removals),
            unwarm: unwarm.as_ref(),
            features: self.features,
            stuck: resource_type == ResourceType::Cluster && self.stuck.is_stuck(),
        };
        if !self.recalled.is_empty() {
            let own = self.recalled.extract_if(.., |(of, _)| *of == resource_type);
            state.work.pending_mut().recalled.extend(own.map(|(_, name)| name));
        }
        let returning = order::is_awaiting(resource_type) && state.is_returning();
        let draft = state.draft(target, now);
        if returning && !state.is_withheld() {
            self.sources.assume(target.set.own_sources());
        }
        if let Some(version) = state.work.take(|work| &mut work.confirmed) {
            self.confirmed.push((resource_type, version));
        }
        let Some(draft) = draft else {
            let goes_on = state.on_the_way && state.unacked_since().is_none();
            return goes_on
                .then(|| self.step(resource_type, snapshot, group, now))
                .flatten();
        };

        let Draft {
            mut content,
            version,
            published,
            changed,
        } = draft;
        step.sort(&mut content);
        self.sequence += 1;
        self.greeting_at = None;
        let unacked = Unacked {
            sequence: self.sequence,
            version,
            content: content.clone(),
            published_at: published.then_some(snapshot.built_at),
            trace: snapshot.trace.clone().filter(|_| published),
            set: None,
            sent_at: now,
        };
        state.on_sent(unacked, now);
        if resource_type == ResourceType::Cluster {
            self.spared.on_sent(self.sequence, &changed, now);
        }
        if order::is_awaiting(resource_type) {
            self.warm(&content, &changed, returning);
        }
        self.keep_what_is_back(resource_type, group);
        Some(self.respond(resource_type, &content, version))
    }

    fn nonce(&self) -> Nonce {
        Nonce::new(self.settings.salt, self.sequence)
    }

    fn respond(&self, resource_type: ResourceType, content: &Content, version: SetVersion) -> Response {
        let nonce = self.nonce();
        let (type_url, identifier) = (resource_type.type_url(), &*self.settings.identifier);
        let (shape, head) = match self.settings.variant {
            Variant::Sotw => (
                Shape::Sotw,
                sotw::head(type_url, version, nonce, identifier, &content.removed),
            ),
            Variant::Delta => {
                let asked = self.types[resource_type.index()]
                    .as_ref()
                    .filter(|_| self.features.errors);
                let is_asked = |name: &&Arc<str>| asked.is_some_and(|state| state.subscription.names.contains(name));
                let (removed, absent) = (&content.removed, content.removed.iter().filter(is_asked));
                (
                    Shape::Delta,
                    delta::head(type_url, version, nonce, identifier, removed, absent),
                )
            }
        };
        let wrapped = shape == Shape::Sotw && self.features.wrappers && resource_type.knows_ttl();
        let blocks = if wrapped && content.is_timed() {
            content.wrapped_blocks(resource_type)
        } else {
            content.blocks(resource_type, shape)
        };
        Response {
            resource_type: Some(resource_type),
            version,
            nonce,
            head,
            blocks,
        }
    }

    fn answer_unserved(&mut self, unserved: &Unserved) -> Response {
        self.sequence += 1;
        self.greeting_at = None;
        let (version, nonce) = (SetVersion::default(), self.nonce());
        let identifier = &*self.settings.identifier;
        let head = delta::head(
            &unserved.type_url,
            version,
            nonce,
            identifier,
            &unserved.names,
            [].iter(),
        );
        Response {
            resource_type: None,
            version,
            nonce,
            head,
            blocks: Blocks::empty(),
        }
    }

    /// The one empty response of a delta stream that has all it asked for (GR-08).
    fn greeting(&mut self, now: Instant) -> Option<Response> {
        if self.greeting_at.is_none_or(|at| now < at) {
            return None;
        }
        self.greeting_at = None;
        let resource_type = ResourceType::ALL
            .into_iter()
            .skip(ResourceType::Cluster.index())
            .find(|resource_type| self.types[resource_type.index()].is_some())?;
        self.sequence += 1;
        let state = self.types[resource_type.index()].as_mut()?;
        let version = SetVersion::default();
        let unacked = Unacked {
            sequence: self.sequence,
            version,
            content: Content::default(),
            published_at: None,
            trace: None,
            set: None,
            sent_at: now,
        };
        state.on_sent(unacked, now);
        Some(self.respond(resource_type, &Content::default(), version))
    }

    // ---- removals that wait ----

    /// Everything owed was sent: each removal that waits learns which answers it waits for. Whether any did.
    fn raise_barriers(&mut self) -> bool {
        let mut raised = false;
        for resource_type in ResourceType::ALL {
            if !self.types[resource_type.index()]
                .as_ref()
                .is_some_and(|state| state.has_removals_to_raise())
            {
                continue;
            }
            let referrers = || order::referrers(resource_type).iter();
            let withheld = |other: &ResourceType| self.types[other.index()].as_ref().is_some_and(|it| it.is_withheld());
            if self.referrers_wait(resource_type) || referrers().any(withheld) {
                continue;
            }
            let barriers: Vec<Barrier> = referrers()
                .filter_map(|other| {
                    let state = self.types[other.index()].as_ref()?;
                    let sent_at = state.sent_at?;
                    Some(Barrier {
                        resource_type: *other,
                        sequence: state.sent,
                        sent_at,
                    })
                })
                .collect();
            if let Some(state) = self.types[resource_type.index()].as_mut() {
                state.raise(&barriers);
                raised = true;
            }
        }
        raised
    }

    /// A type is asked for the first time: removals that wait for what may refer to them wait for it, too.
    fn lower_barriers(&mut self, referrer: ResourceType) {
        for state in self.types.iter_mut().flatten() {
            if order::referrers(state.resource_type).contains(&referrer) {
                state.lower();
            }
        }
    }

    /// A type is told from this snapshot and may refer to what is there again. Should that go once more before it is told
    /// itself, the answer to what was just told is awaited, too.
    fn keep_what_is_back(&mut self, referrer: ResourceType, group: &GroupSnapshot) {
        for state in self.types.iter_mut().flatten() {
            if order::referrers(state.resource_type).contains(&referrer) {
                state.keep_what_is_back(group.set(state.resource_type));
            }
        }
    }

    /// Removals whose wait is over are owed. Gives whether there are any.
    fn release_holds(&mut self, now: Instant) -> bool {
        let mut released = false;
        for index in 0..self.types.len() {
            let Some(mut state) = self.types[index].take() else {
                continue;
            };
            if !state.work.pending().holds.is_empty() {
                released |=
                    state.release(|hold: &HeldRemoval| hold.is_over(now, |barrier| self.barrier_state(barrier)));
            }
            self.types[index] = Some(state);
        }
        released
    }

    /// Whether a type that may refer to this one has something to tell yet: a removal of its own that waits, a change that
    /// waits for clusters, a second step.
    fn referrers_wait(&self, resource_type: ResourceType) -> bool {
        let waits = |state: &State| {
            let work = state.work.pending();
            !(work.holds.is_empty() && work.deferrals.is_empty()) || state.on_the_way
        };
        let referrers = order::referrers(resource_type);
        (self.preparing.is_some() && referrers.contains(&ResourceType::Route))
            || referrers
                .iter()
                .any(|other| self.types[other.index()].as_deref().is_some_and(waits))
    }

    fn barrier_state(&self, barrier: &Barrier) -> BarrierState {
        self.types[barrier.resource_type.index()]
            .as_ref()
            .map_or(BarrierState::Passed, |state| state.barrier_state(barrier.sequence))
    }
}

#[cfg(test)]
mod tests;
