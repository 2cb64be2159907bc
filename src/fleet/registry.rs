//! All streams.
//!
//! The lock is taken when a stream starts or ends and for views, never while a stream sends or receives.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::convergence::Convergence;
use super::memory::Memory;
use super::stream::Stream;
use super::suspicions::{Evidence, Suspicions};
use super::{ClientView, Identity, UnresolvedNack, Variant};

/// How long an ended stream is kept.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Most ended streams that are kept.
const REMEMBERED: usize = 10_000;
/// Most bytes of subscribed names of ended streams. Streams with equal subscriptions share one list.
const REMEMBERED_NAMES: usize = 64 * 1024 * 1024;

/// Of how many ended streams it is remembered what they accepted: these sets may be old ones that nobody else keeps.
const REMEMBERED_ACCEPTED: usize = 64;

/// Connected streams, and streams that ended lately.
#[derive(Debug, Default)]
pub(super) struct Registry {
    next_id: AtomicU64,
    connected: [AtomicUsize; 2],
    /// Connected streams of nodes that report their zone.
    with_zone: AtomicUsize,
    streams: Mutex<Streams>,
    pub(super) memory: Memory,
    pub(super) suspicions: Suspicions,
    pub(super) convergence: Convergence,
}

#[derive(Debug, Default)]
struct Streams {
    live: BTreeMap<u64, Arc<Stream>>,
    /// In the order in which the streams ended.
    gone: VecDeque<(SystemTime, Arc<Stream>)>,
    /// The subscribed names of ended streams.
    gone_names: Lists,
}

/// Lists of names, each counted once however many streams share it.
#[derive(Debug, Default)]
struct Lists {
    /// By address, which is stable while a stream has the list: the number of streams, and the size in bytes.
    lists: HashMap<usize, (usize, usize)>,
    bytes: usize,
}

/// The address and the size of a list.
type Measured = (usize, usize);

impl Lists {
    fn measure(stream: &Stream) -> Vec<Measured> {
        let size = |list: &Arc<[Arc<str>]>| list.iter().map(|name| size_of::<Arc<str>>() * 2 + name.len()).sum();
        stream
            .subscribed_names()
            .iter()
            .map(|list| (list.as_ptr().addr(), size(list)))
            .collect()
    }

    fn add(&mut self, lists: Vec<Measured>) {
        for (address, size) in lists {
            let (count, _) = self.lists.entry(address).or_insert((0, size));
            *count += 1;
            self.bytes += if *count == 1 { size } else { 0 };
        }
    }

    fn remove(&mut self, stream: &Stream) {
        for list in stream.subscribed_names() {
            let Entry::Occupied(mut entry) = self.lists.entry(list.as_ptr().addr()) else {
                continue;
            };
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                self.bytes -= entry.remove().1;
            }
        }
    }
}

impl Streams {
    fn forget(&mut self, now: SystemTime) {
        let too_old = |left: SystemTime| now.duration_since(left).is_ok_and(|age| age > REMEMBERED_FOR);
        let is_full = |streams: &Self| streams.gone.len() > REMEMBERED || streams.gone_names.bytes > REMEMBERED_NAMES;
        while is_full(self) || self.gone.front().is_some_and(|(left, _)| too_old(*left)) {
            let Some((_, stream)) = self.gone.pop_front() else {
                return;
            };
            self.gone_names.remove(&stream);
        }
    }
}

impl Registry {
    pub(super) fn connect(&self, identity: Identity) -> Arc<Stream> {
        self.counter(identity.variant).fetch_add(1, Ordering::Relaxed);
        if identity.has_zone {
            self.with_zone.fetch_add(1, Ordering::Relaxed);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let node = (&identity.node_id, &identity.group);
        let proxy = self.convergence.join(id, node, identity.aggregated, SystemTime::now());
        let stream = Arc::new(Stream::new(id, identity, proxy));
        let nacks: Weak<Stream> = Arc::downgrade(&stream);
        Convergence::own(&stream.proxy, id, nacks);
        let mut streams = self.streams.lock();
        streams.live.insert(id, Arc::clone(&stream));
        stream
    }

    pub(super) fn disconnect(&self, stream: &Arc<Stream>, now: SystemTime) {
        self.counter(stream.identity.variant).fetch_sub(1, Ordering::Relaxed);
        if stream.identity.has_zone {
            self.with_zone.fetch_sub(1, Ordering::Relaxed);
        }
        stream.leave(now);
        self.convergence.leave(&stream.proxy, stream.id, now);
        let lists = Lists::measure(stream);
        let mut streams = self.streams.lock();
        streams.live.remove(&stream.id);
        streams.gone.push_back((now, Arc::clone(stream)));
        let too_many = streams.gone.len().checked_sub(REMEMBERED_ACCEPTED + 1);
        if let Some((_, old)) = too_many.and_then(|place| streams.gone.get(place)) {
            old.forget_accepted();
        }
        streams.gone_names.add(lists);
        streams.forget(now);
    }

    pub(super) fn connected(&self, variant: Variant) -> usize {
        self.counter(variant).load(Ordering::Relaxed)
    }

    pub(super) fn lacks_zones(&self) -> bool {
        let is_empty = |count: &AtomicUsize| count.load(Ordering::Relaxed) == 0;
        is_empty(&self.with_zone) && !self.connected.iter().all(is_empty)
    }

    fn counter(&self, variant: Variant) -> &AtomicUsize {
        &self.connected[variant as usize]
    }

    /// The connected proxies of each group: a stream over ADS is one, the other streams of one node id are one together.
    pub(super) fn proxies(&self) -> BTreeMap<Arc<str>, usize> {
        let mut proxies: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut nodes: HashSet<Arc<str>> = HashSet::new();
        let streams = self.streams.lock();
        for Identity {
            group,
            node_id,
            aggregated,
            ..
        } in streams.live.values().map(|stream| &stream.identity)
        {
            if *aggregated || node_id.is_empty() || nodes.insert(Arc::clone(node_id)) {
                *proxies.entry(Arc::clone(group)).or_default() += 1;
            }
        }
        proxies
    }

    /// Every unresolved NACK with its node. The facts are read without the lock.
    pub(super) fn unresolved_nacks(&self, now: SystemTime) -> Vec<(Arc<str>, UnresolvedNack)> {
        let (live, gone): (Vec<Arc<Stream>>, Vec<Arc<Stream>>) = {
            let mut streams = self.streams.lock();
            streams.forget(now);
            (
                streams.live.values().cloned().collect(),
                streams.gone.iter().map(|(_, gone)| Arc::clone(gone)).collect(),
            )
        };

        let mut found = Vec::new();
        let unresolved = |stream: &Arc<Stream>| {
            let node_id = Arc::clone(&stream.identity.node_id);
            stream
                .unresolved_nacks()
                .into_iter()
                .map(move |nack| (Arc::clone(&node_id), nack))
        };

        found.extend(live.iter().flat_map(unresolved));

        // The NACKs of an ended stream are those of an old process if its node is connected again.
        let left: Vec<_> = gone.iter().flat_map(unresolved).collect();
        if !left.is_empty() {
            let back: HashSet<&str> = live.iter().map(|stream| &*stream.identity.node_id).collect();
            found.extend(left.into_iter().filter(|(node_id, _)| !back.contains(&**node_id)));
        }

        found
    }

    /// The accepted and the refused resources of each stream, connected or remembered. The facts are read without the
    /// lock.
    pub(super) fn evidence(&self, now: SystemTime) -> Evidence {
        let all: Vec<Arc<Stream>> = {
            let mut streams = self.streams.lock();
            streams.forget(now);
            let gone = streams.gone.iter().map(|(_, gone)| gone);
            streams.live.values().chain(gone).cloned().collect()
        };
        let mut evidence = Evidence::default();
        all.iter().for_each(|stream| stream.add_to(&mut evidence));
        evidence
    }

    /// The connected streams whose node id is wanted, oldest first. Each view is made when the iterator reaches it,
    /// without the lock; a stream that has ended meanwhile is skipped. Duplicate node ids are not marked: that takes
    /// all streams.
    pub(super) fn connected_views(
        &self,
        wanted: &dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = ClientView> + Send + use<> {
        let streams = self.streams.lock();
        let found: Vec<Arc<Stream>> = streams.live.values().cloned().collect();
        drop(streams);
        let found: Vec<_> = found
            .into_iter()
            .filter(|stream| wanted(&stream.identity.node_id))
            .collect();
        found
            .into_iter()
            .filter(|stream| stream.gone_at().is_none())
            .map(|stream| stream.view(false))
    }

    /// The streams that are wanted and began after the stream with the number `after`, oldest first. Each view is made
    /// when the iterator reaches it, without the lock.
    pub(super) fn views(
        &self,
        now: SystemTime,
        after: u64,
        wanted: &dyn Fn(&Identity) -> bool,
    ) -> impl Iterator<Item = ClientView> + Send + use<> {
        let mut found: Vec<Arc<Stream>> = {
            let mut streams = self.streams.lock();
            streams.forget(now);
            let all = streams
                .live
                .values()
                .chain(streams.gone.iter().map(|(_, stream)| stream));
            all.filter(|stream| wanted(&stream.identity)).cloned().collect()
        };

        found.sort_by_key(|stream| stream.id);

        let mut aggregated: HashMap<&str, usize> = HashMap::new();
        let alive = |stream: &Stream| stream.identity.aggregated && stream.gone_at().is_none();
        for stream in found.iter().filter(|stream| alive(stream)) {
            *aggregated.entry(&stream.identity.node_id).or_default() += 1;
        }

        let duplicate = |stream: &Stream| {
            alive(stream)
                && aggregated
                    .get(&*stream.identity.node_id)
                    .is_some_and(|count| *count > 1)
        };

        let duplicates: HashSet<u64> = found
            .iter()
            .filter(|stream| duplicate(stream))
            .map(|stream| stream.id)
            .collect();

        found
            .into_iter()
            .skip_while(move |stream| stream.id <= after)
            .map(move |stream| stream.view(duplicates.contains(&stream.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::{DocumentKey, Kind};
    use crate::fleet::{Fleet, Nonce, Sent, Subscribed, Suspect, Suspects};
    use crate::resource::{ResourceType, ResourceVersion};
    use crate::snapshot::version::SetVersion;

    fn sent(sequence: u64) -> Sent {
        Sent {
            version: SetVersion(1),
            nonce: Some(Nonce::new(0, sequence)),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_stream_is_listed_while_connected_and_kept_when_ended() {
        let fleet = Fleet::default();
        let handle = fleet.connect(Identity::of_test("n1"));
        let other = fleet.connect(Identity::of_test("n2"));
        assert_eq!(
            (fleet.connected(Variant::Delta), fleet.connected(Variant::Sotw)),
            (2, 0)
        );
        drop(handle);
        assert_eq!(fleet.connected(Variant::Delta), 1);
        let seen: Vec<_> = fleet
            .clients()
            .into_iter()
            .map(|client| (client.node_id.to_string(), client.gone_at.is_some()))
            .collect();
        assert_eq!(seen, [("n1".to_owned(), true), ("n2".to_owned(), false)]);
        assert_eq!(fleet.clients_of("n2").len(), 1);
        drop(other);
    }

    #[test]
    fn ended_streams_are_forgotten_by_age_and_number() {
        let registry = Registry::default();
        let now = SystemTime::now();
        let stream = registry.connect(Identity::of_test("old"));
        registry.disconnect(&stream, now - REMEMBERED_FOR - Duration::from_secs(1));
        assert_eq!(registry.views(now, 0, &|_| true).count(), 0);
        for number in 0..=REMEMBERED {
            let stream = registry.connect(Identity::of_test(&number.to_string()));
            registry.disconnect(&stream, now);
        }
        assert_eq!(registry.views(now, 0, &|_| true).count(), REMEMBERED);
    }

    #[test]
    fn zones_lack_while_no_connected_node_reports_one() {
        let fleet = Fleet::default();
        assert!(!fleet.lacks_zones(), "nobody is connected");
        let without = fleet.connect(Identity::of_test("n1"));
        assert!(fleet.lacks_zones());
        let with = fleet.connect(Identity {
            has_zone: true,
            ..Identity::of_test("n2")
        });
        assert!(!fleet.lacks_zones());
        drop(with);
        assert!(fleet.lacks_zones());
        drop(without);
        assert!(!fleet.lacks_zones());
    }

    #[test]
    fn two_aggregated_streams_of_one_node_are_marked() {
        let fleet = Fleet::default();
        let one = fleet.connect(Identity::of_test("n1"));
        assert_eq!(fleet.clients()[0].warnings, Vec::<&str>::new());
        let _per_type = fleet.connect(Identity {
            aggregated: false,
            ..Identity::of_test("n1")
        });
        assert_eq!(fleet.clients()[0].warnings, Vec::<&str>::new());
        let _two = fleet.connect(Identity::of_test("n1"));
        assert_eq!(fleet.clients()[0].warnings, ["duplicate_node_id"]);
        drop(one);
        assert!(fleet.clients().iter().all(|client| client.warnings.is_empty()));
    }

    #[test]
    fn a_nack_is_shown_until_a_later_response_is_acknowledged() {
        let fleet = Fleet::default();
        let handle = fleet.connect(Identity::of_test("n1"));
        handle.subscribed(ResourceType::Cluster, None);
        handle.sent(ResourceType::Cluster, sent(1), false);
        handle.nacked(
            ResourceType::Cluster,
            &sent(1),
            13,
            &"é".repeat(4096),
            1,
            Suspects::default(),
        );
        let view = || fleet.clients()[0].types[&ResourceType::Cluster].clone();
        let nack = view().nack.expect("a NACK");
        assert_eq!(
            (nack.code, nack.message.len(), &*nack.exchange.nonce),
            (13, 4096, "00000000-1")
        );
        handle.acknowledged(ResourceType::Cluster, sent(2), None);
        assert_eq!((view().nack, view().subscribed), (None, Subscribed::Wildcard));
    }

    #[test]
    fn a_nack_is_unresolved_until_a_later_answer_or_until_its_node_reconnects() {
        let fleet = Fleet::default();
        let suspects = |name: &str| -> Suspects {
            let documents = vec![DocumentKey::new(Kind::Clusters, name)];
            let suspect = Suspect {
                resource: name.into(),
                version: ResourceVersion::of(name.as_bytes()),
                documents,
                is_complete: true,
                parts: None,
            };
            vec![suspect].into()
        };
        let unresolved = || -> Vec<String> {
            let unresolved = fleet.unresolved_nacks();
            unresolved
                .iter()
                .map(|(node, nack)| format!("{node} {}", nack.suspects[0].resource))
                .collect()
        };
        let handle = fleet.connect(Identity::of_test("n1"));
        handle.nacked(ResourceType::Cluster, &sent(1), 13, "no", 1, suspects("a"));
        handle.nacked(ResourceType::Cluster, &sent(2), 13, "no", 2, suspects("b"));
        assert_eq!(unresolved(), ["n1 a", "n1 b"]);
        handle.resolve(ResourceType::Listener, |_| None);
        handle.resolve(ResourceType::Cluster, |name| (name == "b").then_some(2));
        assert_eq!(unresolved(), ["n1 b"]);
        handle.resolve(ResourceType::Cluster, |_| Some(3));
        assert_eq!(unresolved(), [""; 0], "a later NACK has other suspects");
        handle.nacked(ResourceType::Cluster, &sent(4), 13, "no", 4, suspects("c"));
        drop(handle);
        assert_eq!(unresolved(), ["n1 c"]);
        let _back = fleet.connect(Identity::of_test("n1"));
        assert_eq!(unresolved(), [""; 0]);
    }

    #[test]
    fn names_of_ended_streams_are_bounded() {
        let fleet = Fleet::default();
        let leave = |node_id: &str, names: &Arc<[Arc<str>]>| {
            let handle = fleet.connect(Identity::of_test(node_id));
            handle.subscribed(ResourceType::Endpoint, Some(names));
            handle.subscribed(ResourceType::Route, Some(&Arc::from([])));
        };
        let remembered = || {
            fleet
                .clients()
                .iter()
                .map(|client| client.node_id.to_string())
                .collect::<Vec<_>>()
        };
        let names = || -> Arc<[Arc<str>]> { Arc::new(["n".repeat(REMEMBERED_NAMES / 4).into()]) };
        let shared = names();
        (0..100).for_each(|_| leave("shared", &shared));
        assert_eq!(remembered().len(), 100, "one list, however many streams share it");
        leave("a", &names());
        leave("b", &names());
        assert_eq!(remembered().len(), 102);
        leave("c", &names());
        assert_eq!(
            remembered(),
            ["a", "b", "c"],
            "the stream that ended first is forgotten first"
        );
        leave("d", &Arc::from(["n".repeat(2 * REMEMBERED_NAMES).into()]));
        assert_eq!(remembered(), [""; 0]);
        leave("e", &names());
        assert_eq!(remembered(), ["e"]);
    }

    #[test]
    fn a_message_too_large_for_a_grpc_library_is_marked() {
        let fleet = Fleet::default();
        let handle = fleet.connect(Identity::of_test("n1"));
        handle.sent(ResourceType::Cluster, sent(1), true);
        assert_eq!(fleet.clients()[0].warnings, ["response_too_large"]);
    }
}
