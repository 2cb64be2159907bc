//! Decides which streams a publish wakes.
//!
//! Most publishes change the endpoints of a few clusters, and most streams subscribe to others. To wake every stream
//! would cost in proportion to the fleet instead of the change. Each idle stream registers an [`Interest`]. Streams
//! with equal interests share a [`Bucket`], so a publish is tested once a bucket. A stream that a publish did not wake
//! is woken [`CATCH_UP`] later; until then it keeps the resource sets of the older snapshot alive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep_until};

use crate::resource::xdstp::is_xdstp;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::Snapshot;
use crate::snapshot::changes::Change;
use crate::snapshot::store::Store;
use crate::xds::session::subscription::names::{Names, summand};
use crate::xds::stream::in_flight::Cell;

/// The longest time from a publish until every stream has seen it.
const CATCH_UP: Duration = Duration::from_secs(1);
/// The same if documents changed, not registrations alone: until then the streams count as rolling.
const CATCH_UP_WITH_DOCUMENTS: Duration = Duration::from_millis(50);
/// If a publish changes more endpoints than this, it wakes every stream of the group: the test would cost more.
const CHANGES_MAX: usize = 64;

/// The changes that matter to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::xds) enum Interest {
    /// Any change.
    Everything,
    /// Changes in this group, of endpoints with these names or of any other type.
    Endpoints(Arc<str>, Names),
}

impl Interest {
    fn of(endpoints: Option<(&Arc<str>, &Names)>) -> Self {
        match endpoints {
            Some((group, names)) => Self::Endpoints(Arc::clone(group), names.clone()),
            None => Self::Everything,
        }
    }

    /// Whether `of` would give this interest. Allocates nothing.
    fn is(&self, endpoints: Option<(&Arc<str>, &Names)>) -> bool {
        match (self, endpoints) {
            (Self::Everything, None) => true,
            (Self::Endpoints(group, names), Some(others)) => {
                Arc::ptr_eq(group, others.0) && Arc::ptr_eq(names.sorted(), others.1.sorted())
            }
            _ => false,
        }
    }
}

/// The interests of a server's streams, and the streams of each.
#[derive(Debug, Default)]
pub(in crate::xds) struct Interests(Mutex<HashMap<Interest, Bucket>>);

/// The streams with one interest.
#[derive(Debug, Default)]
struct Bucket {
    /// Hashes of the interest's names, sorted. A publish is tested against a thousand buckets; the hashes alone rule
    /// out most of them.
    hashes: Box<[u32]>,
    /// By the number of the stream.
    registered: HashMap<u64, Arc<Cell>>,
}

impl Bucket {
    fn new(interest: &Interest) -> Self {
        let mut hashes: Vec<u32> = match interest {
            Interest::Everything => Vec::new(),
            Interest::Endpoints(_, names) => names.iter().map(|name| hash(name)).collect(),
        };
        hashes.sort_unstable();
        Self {
            hashes: hashes.into(),
            registered: HashMap::new(),
        }
    }

    fn wake(&self) {
        self.registered.values().for_each(|cell| cell.wake_task());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a hash")]
fn hash(name: &str) -> u32 {
    summand(name.as_bytes()) as u32
}

impl Interests {
    /// Register a stream, with an interest in every change. `number` is unique.
    pub(in crate::xds) fn register(self: &Arc<Self>, number: u64, cell: Arc<Cell>) -> Registration {
        self.buckets()
            .entry(Interest::Everything)
            .or_default()
            .registered
            .insert(number, Arc::clone(&cell));
        Registration {
            interests: Arc::clone(self),
            number,
            cell,
            interest: Interest::Everything,
        }
    }

    /// Wake streams at each publish, without end.
    pub(in crate::xds) async fn follow(self: Arc<Self>, store: Arc<Store>) {
        let mut published = store.subscribe();
        let mut seen = store.current();
        let mut due: Option<Instant> = None;
        loop {
            let caught_up = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The store outlives this task. An error would mean that there are no further publishes.
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = store.current();
                    let everyone = self.notify(&seen, &snapshot);
                    let is_marked = snapshot.marked != seen.marked;
                    let catch_up = if is_marked { CATCH_UP_WITH_DOCUMENTS } else { CATCH_UP };
                    let latest = Instant::now() + catch_up;
                    due = if everyone { None } else { due.into_iter().chain([latest]).min() };
                    seen = snapshot;
                }
                () = caught_up => {
                    self.buckets().values().for_each(Bucket::wake);
                    due = None;
                }
            }
        }
    }

    /// A snapshot replaced another: wake the streams to which the difference matters. Gives whether these are all.
    fn notify(&self, old: &Snapshot, new: &Snapshot) -> bool {
        let mut publish = Publish {
            old,
            new,
            of_groups: BTreeMap::new(),
        };
        let mut everyone = true;
        for (interest, bucket) in self.buckets().iter() {
            if publish.touch(interest, bucket) {
                bucket.wake();
            } else {
                everyone = false;
            }
        }
        everyone
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<Interest, Bucket>> {
        self.0.lock()
    }
}

/// The step from one snapshot to the next.
struct Publish<'a> {
    old: &'a Snapshot,
    new: &'a Snapshot,
    /// The change of each group, computed when first needed.
    of_groups: BTreeMap<&'a str, OfGroup>,
}

/// The change of one group.
enum OfGroup {
    Nothing,
    /// Only endpoints, of these names; with their hashes.
    Endpoints(Vec<(u32, Arc<str>)>),
    More,
}

impl<'a> Publish<'a> {
    fn touch(&mut self, interest: &'a Interest, bucket: &Bucket) -> bool {
        let Interest::Endpoints(group, names) = interest else {
            return true;
        };
        let of_group = self
            .of_groups
            .entry(group)
            .or_insert_with(|| OfGroup::new(self.old, self.new, group));
        match of_group {
            OfGroup::Nothing => false,
            OfGroup::Endpoints(changed) => changed
                .iter()
                .any(|(hash, name)| bucket.hashes.binary_search(hash).is_ok() && names.contains(name)),
            OfGroup::More => true,
        }
    }
}

impl OfGroup {
    fn new(old: &Snapshot, new: &Snapshot, group: &str) -> Self {
        let (Some(was), Some(is)) = (old.group(group), new.group(group)) else {
            return Self::More;
        };
        if !Arc::ptr_eq(&old.group_rules, &new.group_rules) {
            return Self::More;
        }
        let endpoints = ResourceType::Endpoint;
        if was.differing(is).any(|of| of != endpoints) {
            return Self::More;
        }
        if was.differing(is).next().is_none() {
            return Self::Nothing;
        }
        let changes = is.set(endpoints).changes_since(was.set(endpoints));
        let entries = changes.entries();
        if entries.len() > CHANGES_MAX || entries.iter().any(has_other_names) {
            return Self::More;
        }
        Self::Endpoints(
            entries
                .iter()
                .map(|change| (hash(change.name()), Arc::clone(change.name())))
                .collect(),
        )
    }
}

/// Whether a publish would wake a stream.
#[cfg(test)]
pub(in crate::xds) fn is_woken(old: &Snapshot, new: &Snapshot, endpoints: Option<(&Arc<str>, &Names)>) -> bool {
    let interest = Interest::of(endpoints);
    Publish {
        old,
        new,
        of_groups: BTreeMap::new(),
    }
    .touch(&interest, &Bucket::new(&interest))
}

/// Whether a client may subscribe to the changed resource by another name.
fn has_other_names(change: &Change) -> bool {
    let goes = |resource: &Arc<Resource>| !resource.aliases.is_empty() || is_xdstp(&resource.name);
    [&change.old, &change.new].into_iter().flatten().any(goes)
}

/// The registration of one stream. Ends when dropped.
#[derive(Debug)]
pub(in crate::xds) struct Registration {
    interests: Arc<Interests>,
    number: u64,
    cell: Arc<Cell>,
    interest: Interest,
}

impl Registration {
    /// Replace the interest: these endpoints and every other type, or with `None` any change. Gives whether the
    /// interest changed; the stream must then check the current snapshot once more, because an earlier publish may not
    /// have woken it.
    pub(in crate::xds) fn update(&mut self, endpoints: Option<(&Arc<str>, &Names)>) -> bool {
        if self.interest.is(endpoints) {
            return false;
        }
        let interest = Interest::of(endpoints);
        let interests = Arc::clone(&self.interests);
        let mut buckets = interests.buckets();
        self.leave(&mut buckets);
        let bucket = buckets.entry(interest.clone()).or_insert_with_key(Bucket::new);
        bucket.registered.insert(self.number, Arc::clone(&self.cell));
        self.interest = interest;
        true
    }

    fn leave(&self, buckets: &mut HashMap<Interest, Bucket>) {
        let Some(bucket) = buckets.get_mut(&self.interest) else {
            return;
        };
        bucket.registered.remove(&self.number);
        if bucket.registered.is_empty() {
            buckets.remove(&self.interest);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.leave(&mut self.interests.buckets());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::resource::compile::{Difference, ResourceChange};
    use crate::snapshot::Facts;
    use crate::xds::session::subscription::names::Interner;
    use crate::xds::stream::in_flight::Watchdog;

    const ENDPOINT: ResourceType = ResourceType::Endpoint;

    /// A stream's task: how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Stream {
        task: Arc<Task>,
        registration: Registration,
        progress: crate::xds::stream::in_flight::Progress,
    }

    impl Stream {
        fn new(interests: &Arc<Interests>, watchdog: &Arc<Watchdog>) -> Self {
            let progress = watchdog.admit(&watchdog.accounts()[0]).expect("there is room");
            let registration = interests.register(progress.number(), Arc::clone(progress.cell()));
            Self {
                task: Arc::default(),
                registration,
                progress,
            }
        }

        fn asks(mut self, group: &Arc<str>, names: &[&str]) -> Self {
            let names = Names::new(
                names.iter().map(|name| Arc::from(*name)).collect(),
                &Interner::default(),
            );
            assert!(
                self.registration.update(Some((group, &names))) && !self.registration.update(Some((group, &names)))
            );
            self
        }

        /// Whether the task was woken since the last call.
        fn woken(&self) -> bool {
            let woken = self.task.0.swap(0, Ordering::SeqCst) > 0;
            self.listen();
            woken
        }

        fn listen(&self) {
            self.progress
                .register(&Context::from_waker(&Waker::from(Arc::clone(&self.task))));
        }
    }

    fn change(group: &str, resource_type: ResourceType, name: &str, content: u8) -> ResourceChange {
        let resource = Some(Arc::new(Resource::new(name, vec![content], Vec::new())));
        ResourceChange {
            group: group.into(),
            resource_type,
            name: name.into(),
            resource,
        }
    }

    fn after(snapshot: &Snapshot, resources: Vec<ResourceChange>) -> Snapshot {
        let groups_added = vec!["edge".into()];
        let difference = Difference {
            resources,
            groups_added,
            groups_removed: Vec::new(),
        };
        snapshot.next(&difference, Facts::after(snapshot))
    }

    fn published() -> Snapshot {
        let endpoints = ["a", "b", "c"]
            .into_iter()
            .map(|name| change("default", ENDPOINT, name, 1));
        after(
            &Snapshot::unpublished(),
            endpoints.chain([change("edge", ENDPOINT, "a", 1)]).collect(),
        )
    }

    #[test]
    fn a_publish_wakes_only_streams_to_which_it_matters() {
        let (interests, watchdog) = (Arc::<Interests>::default(), Watchdog::unlimited());
        let (default, edge): (Arc<str>, Arc<str>) = ("default".into(), "edge".into());
        let stream = || Stream::new(&interests, &watchdog);
        let streams = [
            stream(),
            stream().asks(&default, &["a", "b"]),
            stream().asks(&default, &[]),
            stream().asks(&edge, &["a"]),
        ];
        let woken_by = |old: &Snapshot, changes| {
            streams.iter().for_each(Stream::listen);
            let everyone = interests.notify(old, &after(old, changes));
            let woken = streams.each_ref().map(Stream::woken);
            assert_eq!(everyone, woken.iter().all(|woken| *woken));
            woken
        };
        let old = published();
        assert_eq!(
            woken_by(&old, vec![change("default", ENDPOINT, "a", 2)]),
            [true, true, false, false]
        );
        assert_eq!(
            woken_by(&old, vec![change("default", ENDPOINT, "c", 2)]),
            [true, false, false, false]
        );
        assert_eq!(
            woken_by(&old, vec![change("default", ENDPOINT, "new", 2)]),
            [true, false, false, false]
        );
        assert_eq!(
            woken_by(&old, vec![change("edge", ENDPOINT, "a", 2)]),
            [true, false, false, true]
        );
        assert_eq!(
            woken_by(&old, vec![change("default", ResourceType::Cluster, "z", 2)]),
            [true, true, true, false]
        );
        assert_eq!(
            woken_by(&old, vec![change("default", ENDPOINT, "xdstp://x/y/z", 2)]),
            [true, true, true, false]
        );
        let many = (0..=CHANGES_MAX)
            .map(|n| change("default", ENDPOINT, &format!("n{n:03}"), 1))
            .collect();
        assert_eq!(woken_by(&old, many), [true, true, true, false]);
        assert_eq!(woken_by(&Snapshot::unpublished(), vec![]), [true; 4]);
        streams.iter().for_each(Stream::listen);
        let group = crate::document::group::Group {
            matches: Vec::new(),
            priority: 0,
        };
        let other_rules = Snapshot {
            group_rules: Arc::new([("edge".into(), Arc::new(group))]),
            ..old.clone()
        };
        assert!(
            interests.notify(&old, &other_rules) && streams.iter().all(Stream::woken),
            "the stream may belong to another group now"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_stream_is_woken_within_the_catch_up_time() {
        let (interests, watchdog) = (Arc::<Interests>::default(), Watchdog::unlimited());
        let store = Arc::new(Store::default());
        store.publish(Arc::new(published()));
        tokio::spawn(Arc::clone(&interests).follow(Arc::clone(&store)));
        let stream = Stream::new(&interests, &watchdog).asks(&"default".into(), &["a"]);
        tokio::task::yield_now().await;
        assert!(!stream.woken());
        store.publish(Arc::new(after(
            &store.current(),
            vec![change("default", ENDPOINT, "c", 2)],
        )));
        tokio::time::sleep(CATCH_UP / 2).await;
        assert!(!stream.woken());
        tokio::time::sleep(CATCH_UP).await;
        assert!(stream.woken());
        tokio::time::sleep(10 * CATCH_UP).await;
        assert!(!stream.woken(), "once");
    }

    #[test]
    fn a_stream_that_ends_is_registered_no_longer() {
        let (interests, watchdog) = (Arc::<Interests>::default(), Watchdog::unlimited());
        let streams = [(); 2].map(|()| Stream::new(&interests, &watchdog).asks(&"default".into(), &["a"]));
        assert_eq!(interests.buckets().len(), 1);
        drop(streams);
        assert!(interests.buckets().is_empty());
    }
}
