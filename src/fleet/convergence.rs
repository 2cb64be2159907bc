//! Which proxies have which change.
//!
//! In: the marks ([`crate::snapshot::steps`]) that each stream acknowledges, its NACKs, its end. Out: for a revision,
//! the number of proxies in each [`State`], and the proxies that do not have it.
//!
//! Proxies that stand alike share a *bucket*: one group, and for each type one mark. A publish costs nothing here: a
//! reader compares the buckets, which are few, with the steps of the snapshot. A proxy moves to another bucket if an
//! ACK raises one of its marks, and with a NACK; an ACK of endpoints that only registrations altered raises none.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::replicas::hash;
use super::{Nack, UnresolvedNack};
use crate::resource::ResourceType;
use crate::snapshot::Snapshot;
use crate::snapshot::steps::{Mark, Marks, Step};

pub mod latency;
#[cfg(test)]
mod tests;

use latency::{Latencies, Times};

/// A change is owed to a proxy for so long before the proxy counts as behind.
pub const BEHIND_AFTER: Duration = Duration::from_secs(5);
/// How long a proxy that went is remembered.
const GONE_FOR: Duration = Duration::from_secs(600);
/// Most proxies that went and are remembered.
const GONE_MAX: usize = 10_000;

/// The standing of a proxy towards a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The proxy has acknowledged all that the revision altered for it.
    Live,
    /// Something is owed to the proxy, for less than [`BEHIND_AFTER`].
    Rolling,
    /// Something is owed to the proxy, for longer.
    Behind,
    /// The proxy sent a NACK.
    Refused,
    /// The proxy reads nothing.
    Stalled,
    /// The proxy has ended its streams.
    Gone,
}

impl State {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Rolling => "rolling",
            Self::Behind => "behind",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Gone => "gone",
        }
    }
}

/// The reason why a proxy does not have a change yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// A response was sent, or is due now.
    #[default]
    Unacknowledged,
    /// Resources wait for clusters that have no ACK or NACK.
    Warming,
    /// Removals wait for the types that may refer to the removed resources.
    RemovalsHeld,
}

impl Why {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unacknowledged => "unacknowledged",
            Self::Warming => "warming",
            Self::RemovalsHeld => "removals_held",
        }
    }
}

/// Where the proxies of one bucket stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    group: Arc<str>,
    is_stalled: bool,
    /// Sorted and unique.
    types: Box<[TypePlace]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TypePlace {
    resource_type: ResourceType,
    /// The generation of the mark; 0: nothing was acknowledged.
    mark: u64,
    /// If nothing was acknowledged: the second of the subscription.
    since: u64,
    /// The generation of the mark of a response that the proxy NACKed, if nothing was acknowledged since.
    nacked: Option<u64>,
}

/// A place, compared with a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// Since when something is owed; `None`: nothing is.
    pub since: Option<SystemTime>,
    /// The types that are missing.
    pub types: Vec<ResourceType>,
}

impl Place {
    /// The group.
    #[must_use]
    pub fn group(&self) -> &Arc<str> {
        &self.group
    }

    /// Compare with a revision.
    #[must_use]
    pub fn standing(&self, snapshot: &Snapshot, revision: i64, now: SystemTime) -> Standing {
        let mut standing = Standing {
            state: State::Live,
            since: None,
            types: Vec::new(),
        };
        let mut is_refused = false;
        for of_type in &self.types {
            let missing = self.missing(of_type, snapshot);
            let Some(step) = missing.filter(|step| snapshot.steps.counts_for(step, revision)) else {
                continue;
            };
            let owed_since = step.at.max(UNIX_EPOCH + Duration::from_secs(of_type.since));
            standing.since = standing.since.into_iter().chain([owed_since]).min();
            if standing.types.last() != Some(&of_type.resource_type) {
                standing.types.push(of_type.resource_type);
            }
            is_refused |= of_type.nacked.is_some();
        }

        standing.state = match standing.since {
            None => State::Live,
            Some(_) if is_refused => State::Refused,
            Some(_) if self.is_stalled => State::Stalled,
            Some(since) if now.duration_since(since).is_ok_and(|age| age >= BEHIND_AFTER) => State::Behind,
            Some(_) => State::Rolling,
        };
        standing
    }

    /// The newest revision that the proxy is live on; `None`: an older one than is known.
    #[must_use]
    pub fn live_on(&self, snapshot: &Snapshot) -> Option<i64> {
        let missing = self.types.iter().filter_map(|of_type| self.missing(of_type, snapshot));
        match missing.map(|step| step.first()).min() {
            None => Some(snapshot.revision.max(snapshot.steps.newest_revision())),
            Some(first) => snapshot.steps.change_at(first - 1).map(|(revision, _)| revision),
        }
    }

    /// The oldest step that a type lacks.
    fn missing<'a>(&self, of_type: &TypePlace, snapshot: &'a Snapshot) -> Option<&'a Arc<Step>> {
        let marks = snapshot.group(&self.group)?.marks();
        if marks[of_type.resource_type.index()].generation <= of_type.mark {
            return None;
        }
        snapshot.steps.missing(&self.group, of_type.resource_type, of_type.mark)
    }
}

/// The NACKs of one stream.
pub(super) trait Nacks: fmt::Debug + Send + Sync {
    /// The NACK of a type that no later ACK has ended, and the documents that may be the cause.
    fn nack_of(&self, resource_type: ResourceType) -> Option<(Nack, Option<UnresolvedNack>)>;
}

/// One ADS stream, or all other streams of a node id.
#[derive(Debug)]
pub(super) struct Proxy {
    id: u64,
    node_id: Arc<str>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    group: Arc<str>,
    /// The bucket.
    place: Option<Arc<Place>>,
    /// By number.
    streams: Vec<(u64, Option<Weak<dyn Nacks>>)>,
    types: Vec<TypeOfStream>,
    stalled: Vec<u64>,
    why: Why,
    /// The last event that moved the proxy.
    moved_at: SystemTime,
}

#[derive(Debug)]
struct TypeOfStream {
    stream: u64,
    place: TypePlace,
}

impl Inner {
    fn place(&self) -> Place {
        let mut types: Vec<TypePlace> = self.types.iter().map(|of_type| of_type.place).collect();
        types.sort_unstable();
        types.dedup();
        Place {
            group: Arc::clone(&self.group),
            is_stalled: !self.stalled.is_empty(),
            types: types.into(),
        }
    }

    fn of_type(&mut self, stream: u64, resource_type: ResourceType) -> Option<&mut TypePlace> {
        let mut types = self.types.iter_mut();
        let found = types.find(|of| of.stream == stream && of.place.resource_type == resource_type);
        found.map(|of| &mut of.place)
    }
}

/// A proxy that went.
#[derive(Debug, Clone)]
pub struct Gone {
    /// The hash of its node id.
    pub node: u32,
    /// Where it stood.
    pub place: Arc<Place>,
    /// The first connection of the node, if no more than ten minutes passed without one since.
    pub connected_at: SystemTime,
    /// The moment.
    pub gone_at: SystemTime,
}

/// A node with a stream.
#[derive(Debug)]
struct Node {
    proxies: usize,
    /// See [`Gone::connected_at`].
    connected_at: SystemTime,
}

/// All proxies by their places.
#[derive(Debug, Default)]
struct Book {
    buckets: HashMap<Arc<Place>, HashMap<u64, Arc<Proxy>>>,
    nodes: HashMap<Arc<str>, Node>,
    /// The proxies of streams that are not ADS, by node id.
    by_type: HashMap<Arc<str>, Arc<Proxy>>,
    gone: HashMap<Arc<str>, Gone>,
    /// In the order in which they went.
    order: VecDeque<(SystemTime, Arc<str>)>,
}

impl Book {
    fn leave(&mut self, place: &Arc<Place>, proxy: u64) {
        if let Entry::Occupied(mut bucket) = self.buckets.entry(Arc::clone(place)) {
            bucket.get_mut().remove(&proxy);
            if bucket.get().is_empty() {
                bucket.remove();
            }
        }
    }

    /// Put a proxy into the bucket of its place.
    fn put(&mut self, proxy: &Arc<Proxy>, inner: &mut Inner) {
        let place = inner.place();
        let place = match self.buckets.get_key_value(&place) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(place),
        };
        if let Some(before) = inner.place.replace(Arc::clone(&place)) {
            if Arc::ptr_eq(&before, &place) {
                return;
            }
            self.leave(&before, proxy.id);
        }
        self.buckets
            .entry(place)
            .or_default()
            .insert(proxy.id, Arc::clone(proxy));
    }

    fn forget(&mut self, now: SystemTime) {
        let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age > GONE_FOR);
        while let Some((at, node)) = self.order.front()
            && (is_old(at) || self.order.len() > GONE_MAX)
        {
            if self.gone.get(node).is_some_and(|gone| gone.gone_at == *at) {
                self.gone.remove(node);
            }
            self.order.pop_front();
        }
    }
}

/// The numbers of proxies by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// See [`State::Live`].
    pub live: usize,
    /// See [`State::Rolling`].
    pub rolling: usize,
    /// See [`State::Behind`].
    pub behind: usize,
    /// See [`State::Refused`].
    pub refused: usize,
    /// See [`State::Stalled`].
    pub stalled: usize,
}

impl Counts {
    /// All connected proxies.
    #[must_use]
    pub fn total(&self) -> usize {
        self.live + self.rolling + self.behind + self.refused + self.stalled
    }

    fn add(&mut self, state: State, proxies: usize) {
        match state {
            State::Live => self.live += proxies,
            State::Rolling => self.rolling += proxies,
            State::Behind => self.behind += proxies,
            State::Refused => self.refused += proxies,
            State::Stalled => self.stalled += proxies,
            State::Gone => {}
        }
    }
}

/// A proxy that does not have a revision.
#[derive(Debug, Clone)]
pub struct Lagging {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// The group.
    pub group: Arc<str>,
    /// The state, since when, and the missing types.
    pub standing: Standing,
    /// Why.
    pub why: Why,
    /// The newest revision that the proxy is live on; `None`: an older one than is known.
    pub live_on: Option<i64>,
}

/// A NACK of a change.
#[derive(Debug, Clone)]
pub struct Refusing {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// The group.
    pub group: Arc<str>,
    /// The type.
    pub resource_type: ResourceType,
    /// The newest change in the response.
    pub revision: i64,
    /// The moment of the NACK.
    pub at: SystemTime,
    /// The message of `error_detail`.
    pub message: String,
    /// The NACK with the documents that may be the cause.
    pub nack: Option<UnresolvedNack>,
}

/// The proxies of this server, compared with a revision.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Numbers.
    pub counts: Counts,
    /// Proxies that do not have the revision, the longest owed first, cut.
    pub lagging: Vec<Lagging>,
    /// NACKs, cut.
    pub refusing: Vec<Refusing>,
    /// How long after the publish proxies had the change.
    pub times: Option<Times>,
    /// Proxies that went since the change was published, and are not back here.
    pub gone: Vec<Gone>,
}

/// The question of a reader.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The revision.
    pub revision: i64,
    /// Proxies of this group only.
    pub group: Option<&'a str>,
    /// Most items of each list.
    pub most: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Convergence {
    book: Mutex<Book>,
    latencies: Mutex<Latencies>,
    moved: Notify,
    /// How often a proxy moved.
    moves: AtomicU64,
}

impl Convergence {
    /// A stream of a node of a group begins.
    pub(super) fn join(&self, stream: u64, node: (&Arc<str>, &Arc<str>), is_ads: bool, now: SystemTime) -> Arc<Proxy> {
        let (node_id, group) = node;
        let mut book = self.book.lock();
        book.forget(now);
        let known = book.by_type.get(node_id).filter(|_| !is_ads);
        if let Some(known) = known {
            known.inner.lock().streams.push((stream, None));
            return Arc::clone(known);
        }

        let gone = book.gone.remove(node_id);
        let connected_at = gone.map_or(now, |gone| gone.connected_at);
        let node = book.nodes.entry(Arc::clone(node_id)).or_insert(Node {
            proxies: 0,
            connected_at,
        });
        node.proxies += 1;
        let proxy = Arc::new(Proxy {
            id: stream,
            node_id: Arc::clone(node_id),
            inner: Mutex::new(Inner {
                group: Arc::clone(group),
                place: None,
                streams: vec![(stream, None)],
                types: Vec::new(),
                stalled: Vec::new(),
                why: Why::default(),
                moved_at: now,
            }),
        });
        if !is_ads {
            book.by_type.insert(Arc::clone(node_id), Arc::clone(&proxy));
        }
        book.put(&proxy, &mut proxy.inner.lock());
        drop(book);
        self.on_moved();
        proxy
    }

    /// The stream belongs to the proxy.
    pub(super) fn own(proxy: &Proxy, stream: u64, nacks: Weak<dyn Nacks>) {
        let mut inner = proxy.inner.lock();
        if let Some((_, of)) = inner.streams.iter_mut().find(|(id, _)| *id == stream) {
            *of = Some(nacks);
        }
    }

    /// A stream ends.
    pub(super) fn leave(&self, proxy: &Arc<Proxy>, stream: u64, now: SystemTime) {
        let mut book = self.book.lock();
        let mut inner = proxy.inner.lock();
        inner.streams.retain(|(id, _)| *id != stream);
        if !inner.streams.is_empty() {
            inner.types.retain(|of| of.stream != stream);
            inner.stalled.retain(|of| *of != stream);
            book.put(proxy, &mut inner);
            drop(inner);
            drop(book);
            return self.on_moved();
        }

        let Some(place) = inner.place.clone() else { return };
        drop(inner);
        book.leave(&place, proxy.id);
        let node_id = &proxy.node_id;
        if book.by_type.get(node_id).is_some_and(|known| known.id == proxy.id) {
            book.by_type.remove(node_id);
        }
        if let Entry::Occupied(mut node) = book.nodes.entry(Arc::clone(node_id)) {
            node.get_mut().proxies -= 1;
            if node.get().proxies == 0 {
                let gone = Gone {
                    node: hash(node_id),
                    place,
                    connected_at: node.remove().connected_at,
                    gone_at: now,
                };
                book.gone.insert(Arc::clone(node_id), gone);
                book.order.push_back((now, Arc::clone(node_id)));
            }
        }
        book.forget(now);
        drop(book);
        self.on_moved();
    }

    /// Change a proxy, and put it into its bucket if it moved.
    fn change(&self, proxy: &Arc<Proxy>, now: SystemTime, change: impl FnOnce(&mut Inner) -> bool) -> bool {
        // The lock of the book is taken first, here as elsewhere; but most changes move nothing.
        let mut inner = proxy.inner.lock();
        if !change(&mut inner) {
            return false;
        }
        inner.moved_at = now;
        drop(inner);
        let mut book = self.book.lock();
        let mut inner = proxy.inner.lock();
        book.put(proxy, &mut inner);
        drop(inner);
        drop(book);
        self.on_moved();
        true
    }

    /// A stream subscribes to a type.
    pub(super) fn subscribed(&self, proxy: &Arc<Proxy>, stream: u64, resource_type: ResourceType, now: SystemTime) {
        self.change(proxy, now, |inner| {
            if inner.of_type(stream, resource_type).is_some() {
                return false;
            }
            inner.types.push(TypeOfStream {
                stream,
                place: TypePlace {
                    resource_type,
                    mark: 0,
                    since: seconds(now),
                    nacked: None,
                },
            });
            true
        });
    }

    /// The client has all up to this mark. If `is_ack`, a NACK ends; otherwise a type with a NACK keeps its mark.
    pub(super) fn has(
        &self,
        proxy: &Arc<Proxy>,
        stream: u64,
        resource_type: ResourceType,
        mark: Mark,
        is_ack: bool,
        now: SystemTime,
    ) -> bool {
        self.change(proxy, now, |inner| {
            let Some(of_type) = inner.of_type(stream, resource_type) else {
                return false;
            };
            if of_type.nacked.is_some() && !is_ack {
                return false;
            }
            let is_raised = mark.generation > of_type.mark;
            if !is_raised && of_type.nacked.is_none() {
                return false;
            }
            of_type.nacked = None;
            if is_raised {
                (of_type.mark, of_type.since) = (mark.generation, 0);
            }
            true
        })
    }

    /// The proxy sent a NACK for a response with this mark.
    pub(super) fn nacked(
        &self,
        proxy: &Arc<Proxy>,
        stream: u64,
        resource_type: ResourceType,
        mark: Mark,
        now: SystemTime,
    ) {
        self.change(proxy, now, |inner| {
            let Some(of_type) = inner.of_type(stream, resource_type) else {
                return false;
            };
            of_type.nacked.replace(mark.generation) != Some(mark.generation)
        });
    }

    /// The node moved to another group: it has nothing of that one yet.
    pub(super) fn regrouped(&self, proxy: &Arc<Proxy>, group: &Arc<str>, now: SystemTime) {
        self.change(proxy, now, |inner| {
            if inner.group == *group {
                return false;
            }
            inner.group = Arc::clone(group);
            for of_type in &mut inner.types {
                (of_type.place.mark, of_type.place.since) = (0, seconds(now));
            }
            true
        });
    }

    /// The client reads nothing, or reads again.
    pub(super) fn stalled(&self, proxy: &Arc<Proxy>, stream: u64, is_stalled: bool, now: SystemTime) {
        self.change(proxy, now, |inner| {
            let was_stalled = inner.stalled.contains(&stream);
            if is_stalled && !was_stalled {
                inner.stalled.push(stream);
            } else if !is_stalled {
                inner.stalled.retain(|of| *of != stream);
            }
            was_stalled != is_stalled
        });
    }

    /// Why something is still owed.
    pub(super) fn waits(&self, proxy: &Proxy, why: Why) {
        proxy.inner.lock().why = why;
    }

    /// An ACK raised a mark. If the proxy now has all of its group's marks, and the newest of them came with this ACK:
    /// the time since that mark was published.
    pub(super) fn reached(&self, proxy: &Proxy, mark: Mark, marks: &Marks, now: SystemTime) -> Option<Duration> {
        let inner = proxy.inner.lock();
        let mut newest = 0;
        for of_type in &inner.types {
            let owed = marks[of_type.place.resource_type.index()].generation;
            if of_type.place.mark < owed || of_type.place.nacked.is_some() {
                return None;
            }
            newest = newest.max(owed);
        }
        drop(inner);
        if newest != mark.generation {
            return None;
        }
        let after = now.duration_since(mark.at).unwrap_or_default();
        self.latencies.lock().add(mark.generation, after, now);
        Some(after)
    }

    fn on_moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// See [`super::Fleet::moves`].
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// See [`super::Fleet::moved`].
    pub(super) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// The times in which proxies had a step.
    pub(super) fn times(&self, generation: u64) -> Option<Times> {
        self.latencies.lock().of(generation)
    }

    /// Which of these hashes are of connected nodes.
    pub(super) fn connected(&self, hashes: &BTreeSet<u32>) -> Vec<u32> {
        if hashes.is_empty() {
            return Vec::new();
        }
        let book = self.book.lock();
        let connected = book.nodes.keys().map(|node_id| hash(node_id));
        connected.filter(|hash| hashes.contains(hash)).collect()
    }

    /// The proxies that went, the last one first: `most` of them.
    pub(super) fn gone(&self, most: usize, now: SystemTime) -> Vec<Gone> {
        let mut book = self.book.lock();
        book.forget(now);
        let gone = book.order.iter().rev().filter_map(|(at, node)| {
            let gone = book.gone.get(node)?;
            (gone.gone_at == *at).then(|| gone.clone())
        });
        gone.take(most).collect()
    }

    /// The places, each with the number of its proxies.
    pub(super) fn places(&self) -> Vec<(Arc<Place>, usize)> {
        let book = self.book.lock();
        let places = book.buckets.iter();
        places
            .map(|(place, members)| (Arc::clone(place), members.len()))
            .collect()
    }

    /// Compare all proxies with a revision.
    pub(super) fn report(&self, snapshot: &Snapshot, question: Question<'_>, now: SystemTime) -> Report {
        let Question { revision, group, most } = question;
        let is_asked = |place: &Place| group.is_none_or(|group| *place.group == *group);
        let change = snapshot.steps.change_at(revision).map(|(_, step)| Arc::clone(step));
        let mut report = Report::default();
        let mut lagging: BTreeMap<(SystemTime, u64), (Standing, Arc<Proxy>)> = BTreeMap::new();

        let mut book = self.book.lock();
        book.forget(now);
        for (place, members) in &book.buckets {
            if !is_asked(place) {
                continue;
            }
            let standing = place.standing(snapshot, revision, now);
            report.counts.add(standing.state, members.len());
            let since = standing.since.filter(|_| standing.state != State::Refused);
            let Some(since) = since else { continue };
            for (id, proxy) in members.iter().take(most) {
                lagging.insert((since, *id), (standing.clone(), Arc::clone(proxy)));
                if lagging.len() > most {
                    lagging.pop_last();
                }
            }
        }
        if let Some(change) = &change {
            let has_left = |gone: &&Gone| gone.connected_at <= change.at && gone.gone_at >= change.at;
            let gone = book.gone.values().filter(has_left);
            report.gone = gone.filter(|gone| is_asked(&gone.place)).cloned().collect();
        }
        let refused: Vec<_> = {
            let refused = book.buckets.iter().filter(|(place, _)| is_asked(place));
            let refused = refused.filter(|(place, _)| place.types.iter().any(|of_type| of_type.nacked.is_some()));
            let refused = refused.map(|(place, members)| (place.standing(snapshot, revision, now), members));
            let refused = refused.filter(|(standing, _)| standing.state == State::Refused);
            let members = refused.flat_map(|(_, members)| members.values().take(most).cloned());
            members.collect()
        };
        drop(book);

        report.lagging = lagging
            .into_values()
            .map(|(standing, proxy)| proxy.lagging(standing, snapshot))
            .collect();
        let refusing = refused.iter().flat_map(|proxy| proxy.refusing(snapshot, revision));
        report.refusing = refusing.collect();
        report.refusing.sort_by_key(|one| one.at);
        report.refusing.truncate(most);
        report.times = change.and_then(|change| self.latencies.lock().of(change.generation));
        report
    }
}

impl Proxy {
    /// The place, and the last event that moved the proxy.
    pub(super) fn place(&self) -> Option<(Arc<Place>, SystemTime)> {
        let inner = self.inner.lock();
        Some((inner.place.clone()?, inner.moved_at))
    }

    fn lagging(&self, standing: Standing, snapshot: &Snapshot) -> Lagging {
        let inner = self.inner.lock();
        Lagging {
            node_id: Arc::clone(&self.node_id),
            group: Arc::clone(&inner.group),
            standing,
            why: inner.why,
            live_on: inner.place.as_ref().and_then(|place| place.live_on(snapshot)),
        }
    }

    /// The NACKs of what the revision, or an earlier one, brought.
    fn refusing(&self, snapshot: &Snapshot, revision: i64) -> Vec<Refusing> {
        let (group, place, streams, types) = {
            let inner = self.inner.lock();
            let streams: Vec<_> = inner.streams.iter().map(|(id, of)| (*id, of.clone())).collect();
            let types: Vec<_> = inner.types.iter().map(|of| (of.stream, of.place)).collect();
            (Arc::clone(&inner.group), inner.place.clone(), streams, types)
        };
        let Some(place) = place else { return Vec::new() };
        let refused = types.into_iter().filter_map(|(id, of_type)| {
            let nacked = of_type.nacked?;
            let missing = place.missing(&of_type, snapshot);
            let missing = missing.filter(|step| snapshot.steps.counts_for(step, revision))?;
            let (_, nacks) = streams.iter().find(|(stream, _)| *stream == id)?;
            let (nack, unresolved) = nacks.as_ref()?.upgrade()?.nack_of(of_type.resource_type)?;
            let mut steps = snapshot.steps.newest_first();
            let step = steps.find(|step| step.generation <= nacked).unwrap_or(missing);
            Some(Refusing {
                node_id: Arc::clone(&self.node_id),
                group: Arc::clone(&group),
                resource_type: of_type.resource_type,
                revision: step.last(),
                at: nack.exchange.at,
                message: nack.message,
                nack: unresolved,
            })
        });
        refused.collect()
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
