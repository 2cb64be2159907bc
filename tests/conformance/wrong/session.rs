//! One stream of the wrong server: its subscriptions, the sent resources, and the resources to send.
//!
//! Both variants keep the same state. They differ in the effect of a request and in the part of a difference that is
//! sent. After every request and every commit, each type sends its pending resources, in the order of the types.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::content::{Owed, without, wrong_body};
use super::fault::Fault;
use super::store::{Catalog, Entry, Set, Shared, hash};

pub(super) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(super) const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(super) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
pub(super) const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub(super) const HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// The types that are served, in the order they are sent in.
pub(super) const ORDER: [&str; 9] = [
    CLUSTER,
    ENDPOINT,
    LISTENER,
    SCOPED_ROUTE,
    ROUTE,
    HOST,
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    "type.googleapis.com/envoy.service.runtime.v3.Runtime",
];

/// Types whose SotW responses carry the whole set, and whose empty first list is a wildcard.
pub(super) const WHOLE: [&str; 3] = [CLUSTER, LISTENER, SCOPED_ROUTE];

/// The protocol variant of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Sotw,
    Delta,
}

/// The subscription part of a request.
pub(super) enum Names {
    /// The whole list of names, which replaces the previous one.
    All(Vec<String>),
    /// The subscribed and unsubscribed names, and the versions that the client has.
    Change {
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        initial: BTreeMap<String, String>,
    },
}

/// The client of a stream.
pub(super) struct Asker {
    pub(super) id: String,
    /// Of the suite's other group.
    pub(super) elsewhere: bool,
}

/// A request.
pub(super) struct Ask {
    pub(super) node: Option<Asker>,
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
pub(super) struct State {
    pub(super) requested: bool,
    /// A name was listed once (SotW).
    pub(super) named: bool,
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<String>,
    /// The last list as it came (SotW).
    pub(super) listed: Vec<String>,
    /// Sent without a subscription, because a parent was sent.
    pub(super) pushed: BTreeSet<String>,
    /// Resources that were sent, or that the client reported.
    pub(super) sent: Set,
    /// Resources at the last ACK.
    accepted: Set,
    /// The last refused resources, if the fault treats them as the held ones.
    rejected: Set,
    /// Names and versions of the newest response.
    newest: BTreeMap<String, String>,
    /// Versions that were accepted, and names that were refused since.
    acknowledged: BTreeMap<String, String>,
    refused: BTreeSet<String>,
    /// Names to answer, even if they were sent before.
    pub(super) due: BTreeSet<String>,
    /// A response to send though it be empty.
    pub(super) answer_due: bool,
    nonce: String,
    version: String,
    /// The newest response has not been accepted.
    pub(super) pending: bool,
}

/// One stream.
pub(super) struct Session {
    pub(super) variant: Variant,
    fault: Option<Fault>,
    /// The type, if the stream is of a per-type service.
    service: Option<&'static str>,
    shared: Arc<Shared>,
    stream: u64,
    node: Option<String>,
    elsewhere: bool,
    pub(super) types: BTreeMap<String, State>,
    /// Route configurations that some listener named by another source than the common one.
    pub(super) own_sources: BTreeSet<String>,
    pub(super) nonces: u64,
    silenced: bool,
}

impl Session {
    pub(super) fn new(
        variant: Variant,
        service: Option<&'static str>,
        fault: Option<Fault>,
        shared: Arc<Shared>,
        stream: u64,
    ) -> Self {
        Self {
            variant,
            fault,
            service,
            shared,
            stream,
            node: None,
            elsewhere: false,
            types: BTreeMap::new(),
            own_sources: BTreeSet::new(),
            nonces: 0,
            silenced: false,
        }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn is_sotw(&self) -> bool {
        self.variant == Variant::Sotw
    }

    /// A request came.
    pub(super) fn on_ask(&mut self, mut ask: Ask, catalog: &Catalog) -> Result<Vec<Answer>, Status> {
        self.check(&mut ask)?;
        let catalog = &*self.visible(catalog);
        let unknown = !ORDER.contains(&&*ask.type_url);
        if unknown && self.has(Fault::UnknownTypeEndsStream) {
            return Err(Status::invalid_argument("unknown type"));
        }
        if unknown && (self.is_sotw() || self.has(Fault::UnknownTypeSilent)) {
            return Ok(Vec::new());
        }
        let mut state = self.types.remove(&ask.type_url).unwrap_or_default();
        if self.has(Fault::EmptyNonceIsFirst) && ask.nonce.is_empty() {
            state = State::default();
        }
        let first = !state.requested;
        let stale = !first && !ask.nonce.is_empty() && ask.nonce != state.nonce;
        let answers = !first && !ask.nonce.is_empty() && !stale;
        if answers {
            self.on_verdict(&mut state, &ask, catalog);
        }
        if stale && self.has(Fault::StaleNonceAnswered) {
            state.due.extend(state.sent.keys().cloned());
        }
        let unread =
            (ask.refused && self.has(Fault::NackNamesIgnored)) || (stale && self.has(Fault::StaleNonceNamesIgnored));
        if first && self.variant == Variant::Delta {
            self.recall(&mut state, &ask);
        }
        if !unread {
            self.subscribe(&mut state, ask.names, &ask.type_url, catalog);
        }
        if first && self.has(Fault::ReconnectTrusted) && !ask.version.is_empty() {
            state.due.clear();
            state.sent = self.view(&state, catalog.get(&ask.type_url), false);
        }
        state.requested = true;
        self.types.insert(ask.type_url, state);
        if answers && self.has(Fault::AckIsOnlyAnAck) {
            return Ok(Vec::new());
        }
        Ok(self.flush(catalog))
    }

    /// The catalog changed.
    pub(super) fn on_commit(&mut self, catalog: &Catalog) -> Vec<Answer> {
        if self.has(Fault::UnrequestedType) && !self.types.contains_key(LISTENER) {
            self.types.insert(
                LISTENER.to_owned(),
                State {
                    requested: true,
                    wildcard: true,
                    ..State::default()
                },
            );
        }
        let catalog = self.visible(catalog);
        self.flush(&catalog)
    }

    /// Time until the next heartbeat; `None` if no resource has a time to live.
    pub(super) fn refresh(&self) -> Option<Duration> {
        let told = match self.variant {
            Variant::Sotw => self.has(Fault::HeartbeatsInSotw),
            Variant::Delta => !self.has(Fault::NoHeartbeats),
        };
        let entries = self
            .types
            .values()
            .filter(|_| told)
            .flat_map(|state| state.sent.values());
        entries.filter_map(|entry| entry.ttl).min().map(|ttl| ttl / 4)
    }

    /// The heartbeat is due.
    pub(super) fn on_refresh(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for type_url in ORDER {
            let Some(mut state) = self.types.remove(type_url) else {
                continue;
            };
            let always = self.is_sotw() || self.has(Fault::HeartbeatAfterNack);
            let repeated = state
                .sent
                .iter()
                .filter(|(_, entry)| entry.ttl.is_some())
                .map(|(name, entry)| {
                    let bodiless = always || state.acknowledged.get(name) == Some(&entry.version);
                    (
                        name.clone(),
                        Entry {
                            bodiless,
                            ..entry.clone()
                        },
                    )
                });
            let repeated: Vec<_> = repeated.collect();
            if !repeated.is_empty() {
                answers.push(self.answer(type_url, &mut state, repeated, Vec::new()));
            }
            self.types.insert(type_url.to_owned(), state);
        }
        answers
    }

    /// The catalog as it is for the client's group.
    fn visible<'a>(&self, catalog: &'a Catalog) -> Cow<'a, Catalog> {
        let hidden = |entry: &Entry| entry.elsewhere && !self.elsewhere;
        if !catalog.values().flatten().any(|(_, entry)| hidden(entry)) {
            return Cow::Borrowed(catalog);
        }
        let mut catalog = catalog.clone();
        catalog
            .values_mut()
            .for_each(|set| set.retain(|_, entry| !hidden(entry)));
        Cow::Owned(catalog)
    }

    fn check(&mut self, ask: &mut Ask) -> Result<(), Status> {
        let node = ask.node.take().filter(|node| !node.id.is_empty());
        if self.has(Fault::NodeInEveryRequest) {
            self.node = None;
        }
        match (&self.node, node) {
            (None, None) if !self.has(Fault::NoNodeAccepted) => return Err(Status::invalid_argument("no node.id")),
            (None, None) | (Some(_), None) => {}
            (Some(was), Some(is)) if *was != is.id && !self.has(Fault::OtherNodeAccepted) => {
                return Err(Status::invalid_argument("another node.id"));
            }
            (Some(_), Some(_)) if self.has(Fault::OtherMetadataIgnored) => {}
            (was, Some(is)) => {
                if was.is_none() && self.has(Fault::OneStreamPerNode) && !self.shared.meet(&is.id) {
                    return Err(Status::already_exists("the node has a stream"));
                }
                (self.node, self.elsewhere) = (Some(is.id), is.elsewhere);
            }
        }
        match self.service {
            Some(own) if ask.type_url.is_empty() => ask.type_url = own.to_owned(),
            Some(own) if ask.type_url != own && !self.has(Fault::ServiceTakesAnyType) => {
                return Err(Status::invalid_argument("another type than the service's"));
            }
            None if ask.type_url.is_empty() && !self.has(Fault::NoTypeAccepted) => {
                return Err(Status::invalid_argument("no type_url"));
            }
            _ => {}
        }
        Ok(())
    }

    /// An ACK or a NACK of the newest response.
    fn on_verdict(&mut self, state: &mut State, ask: &Ask, catalog: &Catalog) {
        let accepted = self.has(Fault::NackByVersion) && ask.version == state.version;
        let node = self.node.clone().unwrap_or_default();
        if ask.refused && !accepted {
            self.silenced |= self.has(Fault::NackSilencesAll);
            if self.has(Fault::RefusedSentAgain) {
                state.due.extend(state.sent.keys().cloned());
            }
            if self.has(Fault::AcceptedTakenForHeld) {
                state.rejected = std::mem::replace(&mut state.sent, state.accepted.clone());
            }
            state.acknowledged.retain(|name, _| !state.newest.contains_key(name));
            state.refused.extend(state.newest.keys().cloned());
            self.shared.refuse(&node, &ask.type_url, state.newest.keys());
            return;
        }
        if !state.pending && self.has(Fault::RepeatedAckAnswered) {
            state.due.extend(state.sent.keys().cloned());
        }
        state.pending = false;
        state.refused.retain(|name| !state.newest.contains_key(name));
        self.shared.accept(&node, &ask.type_url, state.newest.keys());
        state.acknowledged.extend(state.newest.clone());
        state.accepted = state.sent.clone();
        state.answer_due |= self.has(Fault::EmptyResponseToAck);
        let exists = |name: &String| catalog.get(&ask.type_url).is_some_and(|set| set.contains_key(name));
        if self.has(Fault::AckWithMissingNameAnswered) && !state.names.iter().all(exists) {
            state.due.extend(state.names.iter().cloned());
        }
    }

    /// A reconnecting client may have resources that it refused on an earlier stream.
    fn recall(&self, state: &mut State, ask: &Ask) {
        if self.has(Fault::RefusedTakenForAbsent) {
            return;
        }
        let unknown = self
            .shared
            .refused(self.node.as_deref().unwrap_or_default(), &ask.type_url);
        let Names::Change { subscribe, initial, .. } = &ask.names else {
            return;
        };
        let unknown = unknown
            .into_iter()
            .filter(|_| subscribe.is_empty() && !initial.is_empty());
        state.sent.extend(unknown.map(|name| (name, Entry::default())));
    }

    /// All pending responses, type by type.
    fn flush(&mut self, catalog: &Catalog) -> Vec<Answer> {
        let hold = !self.has(Fault::ClusterRemovedBeforeRouteAck) && self.routes_are_unsettled(catalog);
        let unknown = self
            .types
            .keys()
            .filter(|type_url| !ORDER.contains(&&***type_url))
            .cloned();
        let order: Vec<String> = ORDER.iter().map(ToString::to_string).chain(unknown).collect();
        let mut answers = Vec::new();
        for type_url in order {
            if !self.silenced
                && !self.waits_for_parents(&type_url)
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

    /// True while the client has, or will get, routes without an ACK. Until then their clusters stay.
    fn routes_are_unsettled(&self, catalog: &Catalog) -> bool {
        [LISTENER, SCOPED_ROUTE, ROUTE].iter().any(|type_url| {
            let Some(state) = self.types.get(*type_url) else {
                return false;
            };
            let owed = Owed::of(state, &self.view(state, catalog.get(*type_url), false));
            state.pending || !owed.changed.is_empty() || !owed.gone.is_empty()
        })
    }

    /// True if the type waits for a subscription to clusters or listeners.
    fn waits_for_parents(&self, type_url: &str) -> bool {
        let parents = [CLUSTER, LISTENER];
        self.has(Fault::ChildrenNeedParents)
            && !parents.contains(&type_url)
            && parents.iter().all(|parent| !self.types.contains_key(*parent))
    }

    /// The next response of a type, if one is pending; recorded as sent.
    fn next(&mut self, type_url: &str, state: &mut State, catalog: &Catalog, hold: bool) -> Option<Answer> {
        let view = self.view(state, catalog.get(type_url), hold && type_url == CLUSTER);
        if self.waits(type_url, state, &view) {
            return None;
        }
        let owed = Owed::of(state, &view);
        let content = self.content(type_url, state, &view, &owed);
        match type_url {
            CLUSTER if self.has(Fault::NoEndpointsAfterCluster) => {}
            CLUSTER if self.has(Fault::FirstClustersNotFollowed) && state.nonce.is_empty() => {}
            CLUSTER => self.follow_clusters(&owed.changed, &view, catalog),
            LISTENER => self.follow_listeners(&owed.changed, &view),
            _ => {}
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

    /// The resources that the client should have; with `hold` also those that it has and should lose.
    fn view(&self, state: &State, set: Option<&Set>, hold: bool) -> Set {
        let held = state.sent.iter().filter(|_| hold);
        let entries = held.chain(set.into_iter().flatten());
        let covered = entries.filter(|(name, entry)| self.covers(state, name, entry));
        covered.map(|(name, entry)| (name.clone(), entry.clone())).collect()
    }

    fn covers(&self, state: &State, name: &str, entry: &Entry) -> bool {
        let named = state.names.contains(name) || state.pushed.contains(name);
        match self.fault {
            Some(Fault::WildcardHidesNames) if state.wildcard => !entry.on_demand,
            Some(Fault::NamesAreAWildcard) => state.wildcard || !state.names.is_empty(),
            _ => named || (state.wildcard && !entry.on_demand),
        }
    }

    fn waits(&self, type_url: &str, state: &State, view: &Set) -> bool {
        let clusters_pending = || self.types.get(CLUSTER).is_some_and(|clusters| clusters.pending);
        match self.fault {
            Some(Fault::ClustersWaitForAck) => type_url == CLUSTER && state.pending,
            Some(Fault::EndpointsWaitForClusterAck) => type_url == ENDPOINT && clusters_pending(),
            Some(Fault::AcceptedTakenForHeld) => {
                let is_refused = |(name, entry): (&String, &Entry)| {
                    state.rejected.get(name).is_some_and(|one| one.version == entry.version)
                };
                !state.rejected.is_empty() && view.iter().all(is_refused)
            }
            Some(Fault::NamesSilent) => !state.wildcard && !state.names.is_empty() && state.version.is_empty(),
            Some(Fault::WaitsForMissingNames) => state.names.iter().any(|name| !view.contains_key(name)),
            _ => false,
        }
    }

    /// The content of a response: resources and removed names; `None` if both are empty.
    fn content(&self, type_url: &str, state: &State, view: &Set, owed: &Owed) -> Option<Content> {
        let pick = |names: &[String]| {
            names
                .iter()
                .map(|name| (name.clone(), view[name].clone()))
                .collect::<Vec<_>>()
        };
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
                    resources.extend(
                        owed.missing
                            .iter()
                            .map(|name| (name.clone(), super::content::no_endpoints(name))),
                    );
                }
            }
            Variant::Delta => {
                if self.has(Fault::WholeDelta) && !resources.is_empty() {
                    resources = everything();
                }
                if !self.has(Fault::RemovedMissing) {
                    let silent =
                        |name: &&String| self.has(Fault::RefusedTakenForAbsent) && state.refused.contains(*name);
                    removed.extend(owed.gone.iter().filter(|name| !silent(name)).cloned());
                }
                if type_url == HOST && !self.has(Fault::MissingHostRemoved) {
                    resources.extend(owed.missing.iter().map(|name| (name.clone(), without(name))));
                    if state.wildcard && view.is_empty() && forced {
                        let routes = self.types.get(ROUTE).into_iter().flat_map(|routes| &routes.names);
                        removed.extend(routes.map(|route| format!("{route}/-")));
                    }
                } else if !self.has(Fault::MissingNameSilent) {
                    removed.extend(owed.missing.iter().cloned());
                }
                removed.sort();
                removed.dedup();
            }
        }
        (forced || !resources.is_empty() || !removed.is_empty()).then_some((resources, removed))
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
        state.newest = resources
            .iter()
            .map(|(name, entry)| (name.clone(), entry.version.clone()))
            .collect();
        for (_, entry) in &mut resources {
            entry.version += &self.salt();
            if self.has(Fault::ListenersRewritten) && type_url == LISTENER {
                wrong_body(entry);
            }
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

    /// The suffix of every version.
    pub(super) fn salt(&self) -> String {
        if self.has(Fault::VersionsOfTheStream) {
            format!("-{}", self.stream)
        } else {
            String::new()
        }
    }
}

type Content = (Vec<(String, Entry)>, Vec<String>);
