//! One stream of the wrong server: what was asked for, what was sent, and what is owed.
//!
//! Both variants keep the same state; they differ in how a request changes it and in what of a difference is sent. After
//! every request and every commit the types are gone through in order, and each sends what it owes.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message;
use tonic::Status;

use super::fault::Fault;
use super::store::{Catalog, Entry, Set, hash};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The types that are served, in the order they are sent in.
const ORDER: [&str; 9] = [
    CLUSTER,
    ENDPOINT,
    LISTENER,
    SCOPED_ROUTE,
    ROUTE,
    "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    "type.googleapis.com/envoy.service.runtime.v3.Runtime",
];

/// Types whose SotW responses carry the whole set, and whose empty first list is a wildcard.
const WHOLE: [&str; 3] = [CLUSTER, LISTENER, SCOPED_ROUTE];

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Sotw,
    Delta,
}

/// What a request says about its subscription.
pub(super) enum Names {
    /// All names that are asked for from now on.
    All(Vec<String>),
    /// What is asked for in addition and no longer, and what the client has.
    Change { subscribe: Vec<String>, unsubscribe: Vec<String>, initial: BTreeMap<String, String> },
}

/// A request.
pub(super) struct Ask {
    pub(super) node: Option<String>,
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) refused: bool,
    pub(super) names: Names,
}

/// A response.
pub(super) struct Answer {
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) resources: Vec<(String, Entry)>,
    pub(super) removed: Vec<String>,
}

/// One type on one stream.
#[derive(Debug, Default)]
struct State {
    requested: bool,
    /// A name was listed once (SotW).
    named: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has been sent, or said that it has.
    sent: Set,
    /// Names to answer whatever has been sent.
    due: BTreeSet<String>,
    /// A response to send though it be empty.
    answer_due: bool,
    nonce: String,
    version: String,
    /// The newest response has not been accepted.
    pending: bool,
}

impl State {
    fn covers(&self, name: &str, entry: &Entry) -> bool {
        (self.wildcard && !entry.on_demand) || self.names.contains(name)
    }
}

/// One stream.
pub(super) struct Session {
    variant: Variant,
    fault: Option<Fault>,
    stream: u64,
    node: Option<String>,
    types: BTreeMap<String, State>,
    nonces: u64,
    silenced: bool,
}

impl Session {
    pub(super) fn new(variant: Variant, fault: Option<Fault>, stream: u64) -> Self {
        Self { variant, fault, stream, node: None, types: BTreeMap::new(), nonces: 0, silenced: false }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn is_sotw(&self) -> bool {
        self.variant == Variant::Sotw
    }

    /// A request came.
    pub(super) fn on_ask(&mut self, ask: Ask, catalog: &Catalog) -> Result<Vec<Answer>, Status> {
        self.check(&ask)?;
        let unknown = !ORDER.contains(&&*ask.type_url);
        if unknown && self.has(Fault::UnknownTypeEndsStream) {
            return Err(Status::invalid_argument("unknown type"));
        }
        if unknown && (self.is_sotw() || self.has(Fault::UnknownTypeSilent)) {
            return Ok(Vec::new());
        }
        let mut state = self.types.remove(&ask.type_url).unwrap_or_default();
        let stale = state.requested && !ask.nonce.is_empty() && ask.nonce != state.nonce;
        if state.requested && !ask.nonce.is_empty() && !stale {
            self.on_verdict(&mut state, &ask, catalog);
        }
        if stale && self.has(Fault::StaleNonceAnswered) {
            state.due.extend(state.sent.keys().cloned());
        }
        let unread =
            (ask.refused && self.has(Fault::NackNamesIgnored)) || (stale && self.has(Fault::StaleNonceNamesIgnored));
        if !unread {
            self.subscribe(&mut state, ask.names, &ask.type_url, catalog);
        }
        state.requested = true;
        self.types.insert(ask.type_url, state);
        Ok(self.flush(catalog))
    }

    /// The catalog changed.
    pub(super) fn on_commit(&mut self, catalog: &Catalog) -> Vec<Answer> {
        if self.has(Fault::UnrequestedType) && !self.types.contains_key(LISTENER) {
            self.types.insert(LISTENER.to_owned(), State { requested: true, wildcard: true, ..State::default() });
        }
        self.flush(catalog)
    }

    fn check(&mut self, ask: &Ask) -> Result<(), Status> {
        let node = ask.node.clone().filter(|id| !id.is_empty());
        if self.has(Fault::NodeInEveryRequest) {
            self.node = None;
        }
        match (&self.node, node) {
            (None, None) if !self.has(Fault::NoNodeAccepted) => return Err(Status::invalid_argument("no node.id")),
            (Some(was), Some(is)) if *was != is => return Err(Status::invalid_argument("another node.id")),
            (None, node) => self.node = node,
            (Some(_), _) => {}
        }
        if ask.type_url.is_empty() { Err(Status::invalid_argument("no type_url")) } else { Ok(()) }
    }

    /// An ACK or a NACK of the newest response.
    fn on_verdict(&mut self, state: &mut State, ask: &Ask, catalog: &Catalog) {
        let accepted = self.has(Fault::NackByVersion) && ask.version == state.version;
        if ask.refused && !accepted {
            self.silenced |= self.has(Fault::NackSilencesAll);
            if self.has(Fault::RefusedSentAgain) {
                state.due.extend(state.sent.keys().cloned());
            }
            return;
        }
        state.pending = false;
        state.answer_due |= self.has(Fault::EmptyResponseToAck);
        let exists = |name: &String| catalog.get(&ask.type_url).is_some_and(|set| set.contains_key(name));
        if self.has(Fault::AckWithMissingNameAnswered) && !state.names.iter().all(exists) {
            state.due.extend(state.names.iter().cloned());
        }
    }

    fn subscribe(&self, state: &mut State, names: Names, type_url: &str, catalog: &Catalog) {
        let mut legacy = WHOLE.contains(&type_url) || !ORDER.contains(&type_url);
        legacy |= type_url == ENDPOINT && self.has(Fault::EmptyEndpointListIsWildcard);
        let was_wildcard = state.wildcard;
        // Who has everything is told so only where it would hear nothing else.
        let may_be_silent = matches!(&names, Names::Change { initial, .. } if !initial.is_empty()) && self.nonces > 0;
        match names {
            Names::All(names) => self.list(state, &names, legacy),
            Names::Change { subscribe, unsubscribe, initial } => {
                let first = !state.requested;
                if !self.has(Fault::InitIgnored) && (first || self.has(Fault::InitAlwaysRead)) {
                    self.believe(state, &initial, &subscribe, legacy && subscribe.is_empty());
                }
                let empty =
                    subscribe.is_empty() && (unsubscribe.is_empty() || self.has(Fault::FirstUnsubscribeIsWildcard));
                state.wildcard |= first && legacy && empty;
                if self.has(Fault::UnsubscribeFirst) {
                    self.remove(state, &unsubscribe);
                }
                let honoured = type_url != ENDPOINT || self.has(Fault::InitOfEndpointsHonoured);
                let known = |name: &String| first && honoured && initial.get(name).is_some_and(|one| !one.is_empty());
                self.add(state, subscribe, known, catalog.get(type_url));
                if !self.has(Fault::UnsubscribeFirst) {
                    self.remove(state, &unsubscribe);
                }
            }
        }
        state.answer_due |= state.wildcard && !was_wildcard && !may_be_silent && !self.has(Fault::EmptyWildcardSilent);
    }

    /// The list of a SotW request.
    fn list(&self, state: &mut State, names: &[String], legacy: bool) {
        let star = !self.has(Fault::StarIsAName) && names.iter().any(|name| name == "*");
        let listed: BTreeSet<String> = names.iter().filter(|name| *name != "*").cloned().collect();
        state.named |= !names.is_empty();
        let wildcard = star || (legacy && names.is_empty() && (!state.named || self.has(Fault::LegacyWildcardAgain)));
        let known = |name: &String| self.has(Fault::ReaddedNameSilent) && state.sent.contains_key(name);
        let grown: Vec<String> = listed.difference(&state.names).filter(|name| !known(name)).cloned().collect();
        state.due.extend(grown);
        if self.has(Fault::UnsubscribedStillSent) {
            state.wildcard |= wildcard;
            state.names.extend(listed);
            return;
        }
        state.wildcard = wildcard;
        state.names = listed;
        if !state.wildcard && !self.has(Fault::ReaddedNameSilent) {
            state.sent.retain(|name, _| state.names.contains(name));
        }
    }

    /// What the client says it has: of a wildcard all of it, else what it asks for.
    fn believe(&self, state: &mut State, initial: &BTreeMap<String, String>, subscribe: &[String], wildcard: bool) {
        let wildcard = wildcard || state.wildcard || subscribe.iter().any(|name| name == "*");
        for (name, version) in initial.iter().filter(|(name, _)| wildcard || subscribe.contains(name)) {
            let version = version.strip_suffix(&self.salt()).unwrap_or_default().to_owned();
            state.sent.insert(name.clone(), Entry { version, body: Vec::new(), on_demand: false });
        }
    }

    fn add(&self, state: &mut State, names: Vec<String>, known: impl Fn(&String) -> bool, set: Option<&Set>) {
        for name in names {
            if name == "*" {
                let members = set.into_iter().flatten().filter(|(name, entry)| !entry.on_demand && !known(name));
                state.due.extend(members.map(|(name, _)| name.clone()));
                state.wildcard = true;
                continue;
            }
            let again = state.names.contains(&name) && self.has(Fault::ResubscribeSilent);
            if !known(&name) && !again {
                state.due.insert(name.clone());
            }
            state.names.insert(name);
        }
    }

    fn remove(&self, state: &mut State, names: &[String]) {
        if self.has(Fault::UnsubscribedStillSent) {
            return;
        }
        state.wildcard &= names.iter().all(|name| name != "*");
        for name in names {
            let subscribed = state.names.remove(name);
            if state.wildcard && subscribed && !self.has(Fault::UnsubscribeUnderWildcardSilent) {
                state.due.insert(name.clone());
            } else if !state.wildcard {
                state.due.remove(name);
            }
        }
        if !state.wildcard {
            state.sent.retain(|name, _| state.names.contains(name));
            state.due.retain(|name| state.names.contains(name));
        }
    }

    /// All that is owed, type by type.
    fn flush(&mut self, catalog: &Catalog) -> Vec<Answer> {
        let hold = !self.has(Fault::ClusterRemovedBeforeRouteAck) && self.routes_are_unsettled(catalog);
        let unknown = self.types.keys().filter(|type_url| !ORDER.contains(&&***type_url)).cloned();
        let order: Vec<String> = ORDER.iter().map(ToString::to_string).chain(unknown).collect();
        let mut answers = Vec::new();
        for type_url in order {
            if !self.silenced
                && let Some(mut state) = self.types.remove(&type_url)
            {
                answers.extend(self.next(&type_url, &mut state, catalog, hold));
                self.types.insert(type_url, state);
            }
        }
        if self.has(Fault::EndpointsBeforeClusters) {
            answers.sort_by_key(|answer| answer.type_url != ENDPOINT);
        }
        answers
    }

    /// Whether the client has routes that it has not accepted, or is about to: until then their clusters stay.
    fn routes_are_unsettled(&self, catalog: &Catalog) -> bool {
        [LISTENER, SCOPED_ROUTE, ROUTE].iter().any(|type_url| {
            let Some(state) = self.types.get(*type_url) else { return false };
            let owed = Owed::of(state, &view(state, catalog.get(*type_url), false));
            state.pending || !owed.changed.is_empty() || !owed.gone.is_empty()
        })
    }

    /// The next response of a type, if it owes one, recorded as sent.
    fn next(&mut self, type_url: &str, state: &mut State, catalog: &Catalog, hold: bool) -> Option<Answer> {
        let view = view(state, catalog.get(type_url), hold && type_url == CLUSTER);
        if self.waits(type_url, state, &view) {
            return None;
        }
        let owed = Owed::of(state, &view);
        let content = self.content(type_url, state, &view, &owed);
        if type_url == CLUSTER && !self.has(Fault::NoEndpointsAfterCluster) {
            self.warm(&owed.changed, &view);
        }
        let forgotten = match self.fault {
            Some(Fault::RemovalEndsSubscription) => owed.gone,
            Some(Fault::MissingNameEndsSubscription) => owed.missing,
            _ => Vec::new(),
        };
        state.names.retain(|name| !forgotten.contains(name));
        if !self.has(Fault::ReaddedNameSilent) {
            state.sent.clear();
        }
        state.sent.extend(view);
        state.due.clear();
        state.answer_due = false;
        let (resources, removed) = content?;
        Some(self.answer(type_url, state, resources, removed))
    }

    fn waits(&self, type_url: &str, state: &State, view: &Set) -> bool {
        let clusters_pending = || self.types.get(CLUSTER).is_some_and(|clusters| clusters.pending);
        match self.fault {
            Some(Fault::ClustersWaitForAck) => type_url == CLUSTER && state.pending,
            Some(Fault::EndpointsWaitForClusterAck) => type_url == ENDPOINT && clusters_pending(),
            Some(Fault::WaitsForMissingNames) => state.names.iter().any(|name| !view.contains_key(name)),
            _ => false,
        }
    }

    /// What a response carries: resources and removed names; none when there is nothing to say.
    fn content(&self, type_url: &str, state: &State, view: &Set, owed: &Owed) -> Option<Content> {
        let pick = |names: &[String]| names.iter().map(|name| (name.clone(), view[name].clone())).collect::<Vec<_>>();
        let everything = || view.clone().into_iter().collect::<Vec<_>>();
        let mut forced = state.answer_due;
        let mut resources = pick(&owed.changed);
        let mut removed = Vec::new();
        match self.variant {
            Variant::Sotw if WHOLE.contains(&type_url) => {
                let silent = view.is_empty() && self.has(Fault::LastDeletionSilent);
                forced |= !owed.changed.is_empty() || (!owed.gone.is_empty() && !silent);
                if !self.has(Fault::OnlyWhatChanged) && forced {
                    resources = everything();
                }
            }
            Variant::Sotw => {
                forced |= self.has(Fault::EmptyResponseOnDeletion) && !owed.gone.is_empty();
                if type_url == ENDPOINT && !self.has(Fault::MissingEndpointsSilent) {
                    resources.extend(owed.missing.iter().map(|name| (name.clone(), no_endpoints(name))));
                }
            }
            Variant::Delta => {
                if self.has(Fault::WholeDelta) && !resources.is_empty() {
                    resources = everything();
                }
                if !self.has(Fault::RemovedMissing) {
                    removed.extend(owed.gone.iter().cloned());
                }
                if !self.has(Fault::MissingNameSilent) {
                    removed.extend(owed.missing.iter().cloned());
                }
                removed.sort();
                removed.dedup();
            }
        }
        (forced || !resources.is_empty() || !removed.is_empty()).then_some((resources, removed))
    }

    /// The endpoints of changed clusters are due.
    fn warm(&mut self, clusters: &[String], view: &Set) {
        if let Some(endpoints) = self.types.get_mut(ENDPOINT) {
            let names = clusters.iter().filter_map(|name| view[name].endpoints());
            let asked_for: Vec<String> =
                names.filter(|name| endpoints.wildcard || endpoints.names.contains(name)).collect();
            endpoints.due.extend(asked_for);
        }
    }

    fn answer(
        &mut self,
        type_url: &str,
        state: &mut State,
        mut resources: Vec<(String, Entry)>,
        removed: Vec<String>,
    ) -> Answer {
        let versions: Vec<_> = state.sent.iter().map(|(name, entry)| (name, &entry.version)).collect();
        state.version = format!("{}{}", hash(&versions), self.salt());
        self.nonces += 1;
        state.nonce = match self.fault {
            Some(Fault::OneNonce) => "nonce".to_owned(),
            Some(Fault::NoncePerType) => (state.nonce.parse::<u64>().unwrap_or_default() + 1).to_string(),
            _ => format!("{}-{}", self.stream, self.nonces),
        };
        state.pending = true;
        for (_, entry) in &mut resources {
            entry.version += &self.salt();
        }
        if self.has(Fault::DuplicateNames) {
            resources.extend(resources.first().cloned());
        }
        let type_url = if self.has(Fault::NoTypeUrl) { "" } else { type_url };
        Answer {
            type_url: type_url.to_owned(),
            version: state.version.clone(),
            nonce: state.nonce.clone(),
            resources,
            removed,
        }
    }

    /// What is appended to every version.
    fn salt(&self) -> String {
        if self.has(Fault::VersionsOfTheStream) { format!("-{}", self.stream) } else { String::new() }
    }
}

type Content = (Vec<(String, Entry)>, Vec<String>);

/// What the client should have; with `hold` also what it has and should lose.
fn view(state: &State, set: Option<&Set>, hold: bool) -> Set {
    let held = state.sent.iter().filter(|_| hold);
    let entries = held.chain(set.into_iter().flatten());
    let covered = entries.filter(|(name, entry)| state.covers(name, entry));
    covered.map(|(name, entry)| (name.clone(), entry.clone())).collect()
}

/// Names of which the client should hear.
struct Owed {
    /// Other than what was sent, or asked for.
    changed: Vec<String>,
    /// Sent, and there no longer.
    gone: Vec<String>,
    /// Asked for, and not there.
    missing: Vec<String>,
}

impl Owed {
    fn of(state: &State, view: &Set) -> Self {
        let differs = |name: &String, entry: &Entry| {
            state.due.contains(name) || state.sent.get(name).is_none_or(|sent| sent.version != entry.version)
        };
        let changed = view.iter().filter(|(name, entry)| differs(name, entry)).map(|(name, _)| name.clone());
        let gone = state.sent.keys().filter(|name| !view.contains_key(*name)).cloned();
        let missing = state.due.iter().filter(|name| !view.contains_key(*name)).cloned();
        Self { changed: changed.collect(), gone: gone.collect(), missing: missing.collect() }
    }
}

fn no_endpoints(name: &str) -> Entry {
    Entry::new(
        ClusterLoadAssignment { cluster_name: name.to_owned(), ..ClusterLoadAssignment::default() }.encode_to_vec(),
    )
}
