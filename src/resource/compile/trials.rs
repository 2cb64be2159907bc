//! `tests` of route documents, judged on the compiled tables. Persistent.
//!
//! In: the accepted documents and the tables of every group, before and after a change. Out: the failing tests. A change
//! judges these tests again:
//!
//! - the tests of the changed documents;
//! - each test whose request a route of a changed document took before, or could take now;
//! - the same for routes whose policies changed, and all tests on a listener with another policy that changes entries of
//!   routes (maintenance, cors);
//! - all tests, if a listener or a group comes or goes, or a listener gets or loses TLS or its redirect to HTTPS.
//!
//! A document whose own change fails its own tests is at fault. A test that fails through the change of another document
//! is a warning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::Route;
use imbl::{OrdMap, OrdSet};
use prost::Message;

use super::accepted::{CompiledDocument, On};
use super::depends::Dirty;
use super::group::GroupState;
use super::input::Repoliced;
use super::inventory::Inventory;
use super::translate::Translated;
use super::{Fault, policies};
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::PolicyKind;
use crate::document::route::{HostPattern, Trial};
use crate::document::{Document, Rejection};
use crate::resource::ResourceType;
use crate::resource::matcher::conditions::Paths;
use crate::resource::matcher::{Effect, Request, Seen};
use crate::resource::table::{Entry, Finder};

/// Most tests of all documents together.
const MAX_TRIALS: usize = 100_000;

/// A test: its document, and its index there.
type TrialId = (DocumentKey, usize);
/// A test behind the path of its request. `None` stands before all tests of the path.
type OfHost = (Arc<str>, Option<TrialId>);
/// The finders of the tables, by group and listener.
type Finders<'a> = BTreeMap<(Arc<str>, Arc<str>), Finder<'a>>;
/// Groups by name.
type Groups = OrdMap<Arc<str>, GroupState>;
/// The listeners of a group that take HTTP requests.
type Places = BTreeMap<Arc<str>, Vec<Place>>;

/// A listener that takes HTTP requests.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: Arc<str>,
    has_tls: bool,
    /// Only routes that name it are on it.
    by_name: bool,
}

/// See the module. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Trials {
    known: OrdMap<TrialId, Known>,
    /// Tests by the host of their request, each behind the path. A request that Envoy refuses is not listed: no route
    /// takes it.
    of_host: OrdMap<Arc<str>, OrdSet<OfHost>>,
    /// The tests whose requests the routes of a document take.
    taken: OrdMap<DocumentKey, OrdSet<TrialId>>,
    /// The failing tests, each with its sentence.
    failing: OrdMap<TrialId, Arc<str>>,
}

/// A failing test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The document of the test.
    pub key: &'a DocumentKey,
    /// The request of the test, as written.
    pub request: &'a str,
    /// The expected answer.
    pub expected: &'a str,
    /// The answer.
    pub got: &'a str,
}

impl<'a> Failure<'a> {
    /// From the sentence of a failing test: `REQUEST expected ANSWER, got ANSWER`.
    fn of(key: &'a DocumentKey, sentence: &'a str) -> Self {
        let (request, answers) = sentence.split_once(" expected ").unwrap_or((sentence, ""));
        let (expected, got) = answers.split_once(", got ").unwrap_or((answers, ""));
        Self {
            key,
            request,
            expected,
            got,
        }
    }
}

/// A test that was judged.
#[derive(Debug, Clone)]
struct Known {
    /// The request as Envoy sees it; `None`: Envoy refuses it.
    request: Option<Arc<Seen>>,
    /// The documents whose routes take the request.
    takers: Arc<[DocumentKey]>,
}

/// A change.
pub(super) struct Change<'a> {
    pub(super) before: &'a Inventory,
    pub(super) after: &'a Inventory,
    pub(super) dirty: &'a Dirty,
    pub(super) groups_before: &'a Groups,
    pub(super) groups: &'a Groups,
    pub(super) repoliced: &'a Repoliced,
}

impl Trials {
    /// Judge again. Returns the documents with a test that fails now and did not, or the other way around, or fails in
    /// another way.
    pub(super) fn update(&mut self, change: &Change<'_>) -> BTreeSet<DocumentKey> {
        let before = self.failing.clone();
        let mut again: BTreeSet<TrialId> = BTreeSet::new();
        for key in &change.dirty.routes {
            self.forget(key);
            again.extend(self.remember(key, change.after));
        }
        if !self.known.is_empty() {
            for key in change.dirty.routes.union(&change.repoliced.routes) {
                again.extend(self.taken.get(key).into_iter().flatten().cloned());
                self.collect_takeable_by(change.after.get(key), &mut again);
            }
            let generated = change.repoliced.entries.iter();
            generated.for_each(|entry| self.collect_takeable_of(entry, &mut again));
            again.extend(self.on(&change.repoliced.listeners, change.after, |_| true));
            let expects_kinds = |trial: &Trial| trial.expect.policies.is_some();
            again.extend(self.on(&change.repoliced.kinds, change.after, expects_kinds));
            if change.moves_listeners() {
                again.extend(self.known.keys().cloned());
            }
        }
        if !again.is_empty() {
            let places = places(change.after, change.groups);
            let mut finders = Finders::new();
            again
                .iter()
                .for_each(|id| self.judge(id, change, &places, &mut finders));
        }

        let ids = before.diff(&self.failing).map(|item| match item {
            imbl::ordmap::DiffItem::Add((key, _), _)
            | imbl::ordmap::DiffItem::Remove((key, _), _)
            | imbl::ordmap::DiffItem::Update { new: ((key, _), _), .. } => key.clone(),
        });
        ids.collect()
    }

    /// The faults of documents whose own change fails their own tests, and of the newest documents with tests if there
    /// are too many.
    pub(super) fn faults(&self, judged: &BTreeSet<DocumentKey>, change: &Change<'_>) -> Vec<Fault> {
        let own = judged.iter().filter(|key| change.dirty.routes.contains(*key));
        let mut faults: Vec<Fault> = own.filter_map(|key| self.fault(key, change.after)).collect();
        if self.known.len() > MAX_TRIALS && !change.dirty.routes.is_empty() {
            faults.extend(self.too_many(change.after));
        }
        faults
    }

    fn fault(&self, key: &DocumentKey, after: &Inventory) -> Option<Fault> {
        let route = after.document(key)?.as_route()?;
        for (index, trial) in route.tests.iter().enumerate() {
            let is_unknown = |name: &&String| {
                let name: Arc<str> = name.as_str().into();
                !after.describes(&name) && after.users(&name).next().is_none()
            };
            if let Some(name) = trial.expect.to.iter().flatten().find(is_unknown) {
                let reason = format!(
                    "found {name:?}, which no document describes and no route names, expected the name of a cluster"
                );
                let path = format!("tests[{index}].expect.to");
                return Some(Fault::of_itself(key.clone(), Rejection::new(path, reason)));
            }
        }
        let (index, sentence) = self.failing_of(key).next()?;
        let rejection = Rejection::new(format!("tests[{index}]"), &**sentence);
        Some(Fault::of_itself(key.clone(), rejection))
    }

    fn too_many(&self, after: &Inventory) -> Vec<Fault> {
        let mut counts: BTreeMap<&DocumentKey, usize> = BTreeMap::new();
        for (key, _) in self.known.keys() {
            *counts.entry(key).or_default() += 1;
        }
        let mut by_age: Vec<(i64, &DocumentKey, usize)> = counts
            .into_iter()
            .filter_map(|(key, count)| Some((after.get(key)?.accepted.mod_revision, key, count)))
            .collect();
        by_age.sort_unstable();

        let mut excess = self.known.len().saturating_sub(MAX_TRIALS);
        let reason = format!("found more than {MAX_TRIALS} tests in all documents, expected at most as many");
        let mut faults = Vec::new();
        while excess > 0
            && let Some((_, key, count)) = by_age.pop()
        {
            excess = excess.saturating_sub(count);
            faults.push(Fault::of_itself(key.clone(), Rejection::new("tests", reason.clone())));
        }
        faults
    }

    fn failing_of(&self, key: &DocumentKey) -> impl Iterator<Item = (usize, &Arc<str>)> {
        let own = self.failing.range((key.clone(), 0)..=(key.clone(), usize::MAX));
        own.map(|((_, index), sentence)| (*index, sentence))
    }

    /// One sentence for each failing test of a document.
    pub(super) fn warnings(&self, key: &DocumentKey) -> impl Iterator<Item = String> {
        let own = self.failing_of(key);
        own.map(|(index, sentence)| format!("tests[{index}]: {sentence}"))
    }

    /// The tests that fail here and did not before.
    pub(super) fn newly_failing(&self, before: &Self) -> impl Iterator<Item = (&DocumentKey, String)> {
        let new = self.failing.iter().filter(|(id, _)| !before.failing.contains_key(*id));
        new.map(|((key, index), sentence)| (key, format!("tests[{index}]: {sentence}")))
    }

    /// The tests that fail here and did not before, in parts.
    pub(super) fn new_failures<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Failure<'a>> {
        let new = self.failing.iter().filter(|(id, _)| !before.failing.contains_key(*id));
        new.map(|((key, _), sentence)| Failure::of(key, sentence))
    }

    /// Forget the tests of a document.
    fn forget(&mut self, key: &DocumentKey) {
        let own = self.known.range((key.clone(), 0)..=(key.clone(), usize::MAX));
        let own: Vec<TrialId> = own.map(|(id, _)| id.clone()).collect();
        for id in own {
            let Some(known) = self.known.remove(&id) else { continue };
            self.failing.remove(&id);
            known
                .takers
                .iter()
                .for_each(|taker| remove(&mut self.taken, taker, &id));
            if let Some(request) = &known.request {
                let place = (request.path().into(), Some(id));
                remove(&mut self.of_host, &request.host.as_str().into(), &place);
            }
        }
    }

    /// Take up the tests of a document that serves. Returns them.
    fn remember(&mut self, key: &DocumentKey, after: &Inventory) -> Vec<TrialId> {
        let route = after.document(key).and_then(Document::as_route);
        let Some(route) = route.filter(|route| route.enabled_rules().next().is_some()) else {
            return Vec::new();
        };
        let mut ids = Vec::with_capacity(route.tests.len());
        for (index, trial) in route.tests.iter().enumerate() {
            let id = (key.clone(), index);
            let request = seen(trial).map(Arc::new);
            if let Some(request) = &request {
                let of_host = self.of_host.entry(request.host.as_str().into()).or_default();
                of_host.insert((request.path().into(), Some(id.clone())));
            }
            let takers = Arc::new([]);
            self.known.insert(id.clone(), Known { request, takers });
            ids.push(id);
        }
        ids
    }

    /// Collect the tests whose requests match a route of a document.
    fn collect_takeable_by(&self, compiled: Option<&Arc<CompiledDocument>>, ids: &mut BTreeSet<TrialId>) {
        let Some(Translated::Route { entries, .. }) = compiled.map(|compiled| &compiled.translated) else {
            return;
        };
        entries.iter().for_each(|entry| self.collect_takeable_of(entry, ids));
    }

    /// Collect the tests whose requests match an entry.
    fn collect_takeable_of(&self, entry: &Entry, ids: &mut BTreeSet<TrialId>) {
        match entry.position.host() {
            HostPattern::Exact(host) => self.collect_takeable(entry, self.of_host.get(&host), ids),
            HostPattern::Wildcard(pattern) => {
                let covered = self.of_host.iter().filter(|(host, _)| host.ends_with(&pattern[1..]));
                covered.for_each(|(_, of_host)| self.collect_takeable(entry, Some(of_host), ids));
            }
            HostPattern::Any => {
                let of_hosts = self.of_host.values();
                of_hosts.for_each(|of_host| self.collect_takeable(entry, Some(of_host), ids));
            }
        }
    }

    /// The tests of a sort on some of these listeners.
    fn on(
        &self,
        listeners: &BTreeSet<Arc<str>>,
        after: &Inventory,
        sort: impl Fn(&Trial) -> bool,
    ) -> BTreeSet<TrialId> {
        if listeners.is_empty() {
            return BTreeSet::new();
        }
        let is_on_one = |(key, index): &TrialId| {
            let trial = after
                .document(key)
                .and_then(|document| Some((document, document.as_route()?.tests.get(*index)?)));
            trial.is_some_and(|(document, trial)| {
                let mut names = listeners.iter();
                sort(trial) && names.any(|name| is_about(document, trial, after.on(name)))
            })
        };
        self.known.keys().filter(|id| is_on_one(id)).cloned().collect()
    }

    fn collect_takeable(&self, entry: &Entry, of_host: Option<&OrdSet<OfHost>>, ids: &mut BTreeSet<TrialId>) {
        let Some(of_host) = of_host else { return };
        for paths in entry.paths() {
            let (Paths::One(first) | Paths::Beginning(first)) = paths;
            let is_among = |path: &str| match paths {
                Paths::One(one) => path == one,
                Paths::Beginning(beginning) => path.starts_with(beginning),
            };
            let from_first = of_host.range((Arc::from(first), None)..);
            let among = from_first.take_while(|(path, _)| is_among(path));
            for id in among.filter_map(|(_, id)| id.as_ref()) {
                let request = self.known.get(id).and_then(|known| known.request.as_ref());
                // A policy may take preflights that the match does not take.
                let takes = |request: &Arc<Seen>| is_preflight(request) || entry.first_route(request).is_some();
                if !ids.contains(id) && request.is_some_and(takes) {
                    ids.insert(id.clone());
                }
            }
        }
    }

    fn judge<'a>(&mut self, id: &TrialId, change: &Change<'a>, places: &Places, finders: &mut Finders<'a>) {
        let (key, index) = id;
        let document = change.after.document(key);
        let trial = document.and_then(|document| document.as_route()?.tests.get(*index));
        let (Some(document), Some(trial), Some(known)) = (document, trial, self.known.get(id).cloned()) else {
            return;
        };

        let mut takers = BTreeSet::new();
        let mut sentence = None;
        let mut is_asked = false;
        for (group, listeners) in places.iter().filter(|(group, _)| document.is_for(group)) {
            let Some((group, state)) = change.groups.get_key_value(group) else {
                continue;
            };
            for place in listeners {
                if place.has_tls != trial.https || !is_on(document, trial, place) {
                    continue;
                }
                is_asked = true;
                let request = known.request.as_deref();
                let taken = request.and_then(|request| {
                    let (listener, table) = state.tables.get_key_value(&place.name)?;
                    let finder = finders.entry((Arc::clone(group), Arc::clone(listener)));
                    finder.or_insert_with(|| Finder::new(table)).take(request)
                });
                let policies = trial.expect.policies.is_some().then(|| {
                    let Some(taken) = taken.as_ref().map(|(entry, _)| &entry.claim) else {
                        return Vec::new();
                    };
                    let on = state.policies.get(&place.name).map(|on| &**on);
                    policies::kinds(change.after, group, on, &taken.document, taken.rule)
                });
                let answer = Answer {
                    policies: policies.unwrap_or_default(),
                    ..Answer::of(trial, request, taken)
                };
                takers.extend(answer.taker.clone());
                sentence = sentence.or_else(|| answer.mismatch(trial));
            }
        }

        if !is_asked {
            sentence = Some(without_listener(trial));
        }
        self.set_takers(id, known, takers);
        match sentence {
            Some(sentence) => self.failing.insert(id.clone(), sentence.into()),
            None => self.failing.remove(id),
        };
    }

    fn set_takers(&mut self, id: &TrialId, known: Known, takers: BTreeSet<DocumentKey>) {
        if known.takers.iter().eq(takers.iter()) {
            return;
        }
        known.takers.iter().for_each(|taker| remove(&mut self.taken, taker, id));
        for taker in &takers {
            self.taken.entry(taker.clone()).or_default().insert(id.clone());
        }
        let takers = takers.into_iter().collect();
        self.known.insert(id.clone(), Known { takers, ..known });
    }
}

impl Change<'_> {
    /// Whether a listener or a group may have come or gone, or a listener may have got or lost TLS or its redirect to
    /// HTTPS.
    fn moves_listeners(&self) -> bool {
        let dirty = self.dirty;
        let same_groups = self.groups_before.keys().eq(self.groups.keys());
        let redirects = |documents: &Inventory, name: &Arc<str>| {
            let compiled = documents.get(&DocumentKey::new(Kind::Listeners, Arc::clone(name)))?;
            match &compiled.translated {
                Translated::Listener(served) => served.last_resort.clone(),
                _ => None,
            }
        };
        let mut listeners = dirty.listeners.iter();
        if !same_groups || listeners.any(|name| redirects(self.before, name) != redirects(self.after, name)) {
            return true;
        }
        let may_move = dirty.groups || dirty.every_listener || !dirty.listeners.is_empty();
        may_move && places(self.before, self.groups_before) != places(self.after, self.groups)
    }
}

fn remove<K: Ord + Clone, V: Ord + Clone>(index: &mut OrdMap<K, OrdSet<V>>, key: &K, value: &V) {
    let Some(ids) = index.get_mut(key) else { return };
    ids.remove(value);
    if ids.is_empty() {
        index.remove(key);
    }
}

/// The listeners that take HTTP requests.
fn places(documents: &Inventory, groups: &Groups) -> Places {
    let of_group = |state: &GroupState| {
        let listeners = state.tables.keys().filter(|name| !documents.is_api(name));
        let place = |name: &Arc<str>| Place {
            name: Arc::clone(name),
            has_tls: has_tls(state, name),
            by_name: documents.on(name).by_name,
        };
        listeners.map(place).collect()
    };
    groups
        .iter()
        .map(|(name, state)| (Arc::clone(name), of_group(state)))
        .collect()
}

pub(super) fn has_tls(state: &GroupState, listener: &Arc<str>) -> bool {
    let resource = state.resources.get(&(ResourceType::Listener, Arc::clone(listener)));
    let listener = resource.and_then(|resource| Listener::decode(&*resource.body.to_bytes()).ok());
    listener.is_some_and(|listener| {
        listener
            .filter_chains
            .iter()
            .any(|chain| chain.transport_socket.is_some())
    })
}

/// Whether a test is about a listener.
fn is_on(document: &Document, trial: &Trial, place: &Place) -> bool {
    let on = On {
        listener: &place.name,
        by_name: place.by_name,
    };
    is_about(document, trial, on)
}

fn is_about(document: &Document, trial: &Trial, on: On<'_>) -> bool {
    match &trial.listener {
        Some(name) => **name == *on.listener,
        None => document.as_route().is_some_and(|route| on.has(route)),
    }
}

/// Whether a request asks for the permission of another one (CORS).
fn is_preflight(request: &Seen) -> bool {
    request.method == "OPTIONS"
}

/// The request of a test as Envoy sees it; `None`: Envoy refuses it.
fn seen(trial: &Trial) -> Option<Seen> {
    let headers = trial.headers.iter();
    let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Seen::of(&Request {
        method: &trial.method,
        host: &trial.host,
        target: &trial.target,
        headers: &headers,
    })
}

fn without_listener(trial: &Trial) -> String {
    let request = &trial.request;
    let kind = if trial.https { "with TLS" } else { "without TLS" };
    match &trial.listener {
        Some(name) => format!("{request} expected an answer, got none: there is no listener {name} {kind}"),
        None => format!("{request} expected an answer, got none: the route is on no listener {kind}"),
    }
}

/// Kinds of policies in a sentence.
fn listed(kinds: &BTreeSet<PolicyKind>) -> String {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(","),
    }
}

/// The answer to the request of a test.
struct Answer {
    /// The document whose route takes the request.
    taker: Option<DocumentKey>,
    effect: Effect,
    /// The kinds of policies that hold, for each target.
    policies: Vec<BTreeSet<PolicyKind>>,
}

impl Answer {
    /// `request` is `None` if Envoy refuses it; `taken` if no route takes it.
    fn of(trial: &Trial, request: Option<&Seen>, taken: Option<(&Arc<Entry>, Route)>) -> Self {
        let scheme = if trial.https { "https" } else { "http" };
        let (taker, effect) = match (request, taken) {
            (Some(request), Some((entry, route))) => {
                let taker = (*entry.claim.document).clone();
                (Some(taker), Effect::of(&route, request, scheme))
            }
            (Some(_), None) => (None, Effect::of_status(404)),
            (None, _) => (None, Effect::of_status(400)),
        };
        Self {
            taker,
            effect,
            policies: Vec::new(),
        }
    }

    /// The sentence about the fields of `expect` that do not hold.
    fn mismatch(&self, trial: &Trial) -> Option<String> {
        let expect = &trial.expect;
        let effect = &self.effect;
        let clusters = |names: &[String]| names.join(",");
        let fields = [
            (
                "to",
                expect.to.as_deref().map(clusters),
                Some(clusters(&effect.clusters)),
            ),
            (
                "route",
                expect.route.clone(),
                self.taker.as_ref().map(ToString::to_string),
            ),
            (
                "status",
                expect.status.map(|status| status.to_string()),
                effect.status.map(|status| status.to_string()),
            ),
            ("redirect", expect.redirect.clone(), effect.redirect.clone()),
            ("host", expect.host.clone(), effect.host.clone()),
            ("path", expect.path.clone(), effect.path.clone()),
            (
                "policies",
                expect.policies.as_ref().map(listed),
                self.kinds_beside(trial),
            ),
        ];

        let (mut expected, mut got) = (Vec::new(), Vec::new());
        for (name, wanted, found) in fields {
            let Some(wanted) = wanted else { continue };
            if found.as_ref() != Some(&wanted) {
                expected.push(format!("{name}={wanted}"));
                got.extend(
                    found
                        .filter(|found| name != "route" && !found.is_empty())
                        .map(|found| format!("{name}={found}")),
                );
            }
        }
        if expected.is_empty() {
            return None;
        }
        if got.is_empty() {
            got.push(self.in_short());
        }
        let taker = self
            .taker
            .as_ref()
            .map_or_else(|| "no route".to_owned(), ToString::to_string);
        Some(format!(
            "{} expected {}, got {taker} ({})",
            trial.request,
            expected.join(" "),
            got.join(" ")
        ))
    }

    /// The kinds that hold, of the first target with others than expected.
    fn kinds_beside(&self, trial: &Trial) -> Option<String> {
        let expected = trial.expect.policies.as_ref()?;
        let other = self.policies.iter().find(|kinds| *kinds != expected);
        let none = BTreeSet::new();
        let kinds = other.or_else(|| self.policies.first()).unwrap_or(&none);
        Some(listed(kinds))
    }

    /// The clusters, or the status.
    fn in_short(&self) -> String {
        match self.effect.status {
            Some(status) => format!("status={status}"),
            None => format!("to={}", self.effect.clusters.join(",")),
        }
    }
}
