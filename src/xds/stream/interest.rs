//! Who hears of which publish.
//!
//! Most publishes change the endpoints of a few clusters, and most streams ask for others. To wake them all would cost what
//! the fleet is, not what changed. So each stream at rest says what concerns it ([`Concern`]), those of which the same does
//! stand together, and one look at what changed is for all of them. Who is passed over hears of it a little later
//! ([`CATCH_UP`]): until then it keeps the sets alive that it was brought to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::resource::xdstp::is_xdstp;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::Snapshot;
use crate::snapshot::changes::Change;
use crate::snapshot::store::Store;
use crate::xds::session::subscription::names::{Names, summand};
use crate::xds::stream::in_flight::Cell;

/// How long after a publish everybody has heard of it.
const CATCH_UP: Duration = Duration::from_secs(1);
/// When more endpoints than this change at once, nobody is passed over: to ask whom they concern would cost more.
const CHANGES_MAX: usize = 64;

/// What a publish must change to concern a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::xds) enum Concern {
    /// Anything.
    Everything,
    /// Something of this group: these endpoints, or anything but endpoints.
    Endpoints(Arc<str>, Names),
}

impl Concern {
    fn of(endpoints: Option<(&Arc<str>, &Names)>) -> Self {
        match endpoints {
            Some((group, names)) => Self::Endpoints(Arc::clone(group), names.clone()),
            None => Self::Everything,
        }
    }

    /// Whether it is that, told without making another.
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

/// The streams of a server.
#[derive(Debug, Default)]
pub(in crate::xds) struct Audience(Mutex<HashMap<Concern, Crowd>>);

/// Streams of which the same is a concern.
#[derive(Debug, Default)]
struct Crowd {
    /// Of the names that concern them, sorted: a thousand crowds are asked of each publish, and of most the names need not
    /// be touched.
    hashes: Box<[u32]>,
    /// By number.
    members: HashMap<u64, Arc<Cell>>,
}

impl Crowd {
    fn new(concern: &Concern) -> Self {
        let mut hashes: Vec<u32> = match concern {
            Concern::Everything => Vec::new(),
            Concern::Endpoints(_, names) => names.iter().map(|name| hash(name)).collect(),
        };
        hashes.sort_unstable();
        Self {
            hashes: hashes.into(),
            members: HashMap::new(),
        }
    }

    fn ring(&self) {
        self.members.values().for_each(|cell| cell.ring());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a hash")]
fn hash(name: &str) -> u32 {
    summand(name.as_bytes()) as u32
}

impl Audience {
    /// One more, whom everything concerns. `number` is unique.
    pub(in crate::xds) fn enter(self: &Arc<Self>, number: u64, cell: Arc<Cell>) -> Member {
        self.crowds()
            .entry(Concern::Everything)
            .or_default()
            .members
            .insert(number, Arc::clone(&cell));
        Member {
            audience: Arc::clone(self),
            number,
            cell,
            concern: Concern::Everything,
        }
    }

    /// Tell of each publish, for ever.
    pub(in crate::xds) async fn follow(self: Arc<Self>, store: Arc<Store>) {
        let mut published = store.subscribe();
        let mut told = store.current();
        let mut behind: Option<Instant> = None;
        loop {
            let caught_up = async {
                match behind {
                    Some(since) => sleep_until(since + CATCH_UP).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The store outlives this: an error would mean that nothing is published any more.
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = store.current();
                    let everybody = self.tell(&told, &snapshot);
                    behind = if everybody { None } else { behind.or_else(|| Some(Instant::now())) };
                    told = snapshot;
                }
                () = caught_up => {
                    self.crowds().values().for_each(Crowd::ring);
                    behind = None;
                }
            }
        }
    }

    /// Tell whom it concerns that one snapshot took the place of another. Whether that is everybody.
    fn tell(&self, old: &Snapshot, new: &Snapshot) -> bool {
        let mut news = News {
            old,
            new,
            of_groups: BTreeMap::new(),
        };
        let mut everybody = true;
        for (concern, crowd) in self.crowds().iter() {
            if news.touch(concern, crowd) {
                crowd.ring();
            } else {
                everybody = false;
            }
        }
        everybody
    }

    fn crowds(&self) -> MutexGuard<'_, HashMap<Concern, Crowd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a publish brought.
struct News<'a> {
    old: &'a Snapshot,
    new: &'a Snapshot,
    /// As far as it was asked for.
    of_groups: BTreeMap<&'a str, OfGroup>,
}

/// What it brought for one group.
enum OfGroup {
    Nothing,
    /// Those of these names, with their hashes.
    Endpoints(Vec<(u32, Arc<str>)>),
    More,
}

impl<'a> News<'a> {
    fn touch(&mut self, concern: &'a Concern, crowd: &Crowd) -> bool {
        let Concern::Endpoints(group, names) = concern else {
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
                .any(|(hash, name)| crowd.hashes.binary_search(hash).is_ok() && names.contains(name)),
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
        if entries.len() > CHANGES_MAX || entries.iter().any(goes_by_others) {
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

/// Whether a stream would be told of a publish.
#[cfg(test)]
pub(in crate::xds) fn is_told(old: &Snapshot, new: &Snapshot, endpoints: Option<(&Arc<str>, &Names)>) -> bool {
    let concern = Concern::of(endpoints);
    News {
        old,
        new,
        of_groups: BTreeMap::new(),
    }
    .touch(&concern, &Crowd::new(&concern))
}

/// Whether what changed may be asked for by another name than its own.
fn goes_by_others(change: &Change) -> bool {
    let goes = |resource: &Arc<Resource>| !resource.aliases.is_empty() || is_xdstp(&resource.name);
    [&change.old, &change.new].into_iter().flatten().any(goes)
}

/// One stream. Leaves when it is dropped.
#[derive(Debug)]
pub(in crate::xds) struct Member {
    audience: Arc<Audience>,
    number: u64,
    cell: Arc<Cell>,
    concern: Concern,
}

impl Member {
    /// These endpoints concern it, and everything that is no endpoint; `None`: everything does. Whether that is new: what
    /// was published before it was said may have been passed over, and must be looked at.
    pub(in crate::xds) fn heed(&mut self, endpoints: Option<(&Arc<str>, &Names)>) -> bool {
        if self.concern.is(endpoints) {
            return false;
        }
        let concern = Concern::of(endpoints);
        let audience = Arc::clone(&self.audience);
        let mut crowds = audience.crowds();
        self.leave(&mut crowds);
        let crowd = crowds.entry(concern.clone()).or_insert_with_key(Crowd::new);
        crowd.members.insert(self.number, Arc::clone(&self.cell));
        self.concern = concern;
        true
    }

    fn leave(&self, crowds: &mut HashMap<Concern, Crowd>) {
        let Some(crowd) = crowds.get_mut(&self.concern) else {
            return;
        };
        crowd.members.remove(&self.number);
        if crowd.members.is_empty() {
            crowds.remove(&self.concern);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave(&mut self.audience.crowds());
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
        member: Member,
        progress: crate::xds::stream::in_flight::Progress,
    }

    impl Stream {
        fn new(audience: &Arc<Audience>, watchdog: &Arc<Watchdog>) -> Self {
            let progress = watchdog.admit(100, None).expect("there is room");
            let member = audience.enter(progress.number(), Arc::clone(progress.cell()));
            Self {
                task: Arc::default(),
                member,
                progress,
            }
        }

        fn asks(mut self, group: &Arc<str>, names: &[&str]) -> Self {
            let names = Names::new(
                names.iter().map(|name| Arc::from(*name)).collect(),
                &Interner::default(),
            );
            assert!(self.member.heed(Some((group, &names))) && !self.member.heed(Some((group, &names))));
            self
        }

        /// Whether it was woken since the last look.
        fn woken(&self) -> bool {
            let woken = self.task.0.swap(0, Ordering::SeqCst) > 0;
            self.listen();
            woken
        }

        fn listen(&self) {
            self.progress
                .hear(&Context::from_waker(&Waker::from(Arc::clone(&self.task))));
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
    fn who_is_not_concerned_is_passed_over() {
        let (audience, watchdog) = (Arc::<Audience>::default(), Arc::<Watchdog>::default());
        let (default, edge): (Arc<str>, Arc<str>) = ("default".into(), "edge".into());
        let stream = || Stream::new(&audience, &watchdog);
        let streams = [
            stream(),
            stream().asks(&default, &["a", "b"]),
            stream().asks(&default, &[]),
            stream().asks(&edge, &["a"]),
        ];
        let told = |old: &Snapshot, changes| {
            streams.iter().for_each(Stream::listen);
            let everybody = audience.tell(old, &after(old, changes));
            let woken = streams.each_ref().map(Stream::woken);
            assert_eq!(everybody, woken.iter().all(|woken| *woken));
            woken
        };
        let old = published();
        assert_eq!(
            told(&old, vec![change("default", ENDPOINT, "a", 2)]),
            [true, true, false, false]
        );
        assert_eq!(
            told(&old, vec![change("default", ENDPOINT, "c", 2)]),
            [true, false, false, false]
        );
        assert_eq!(
            told(&old, vec![change("default", ENDPOINT, "new", 2)]),
            [true, false, false, false]
        );
        assert_eq!(
            told(&old, vec![change("edge", ENDPOINT, "a", 2)]),
            [true, false, false, true]
        );
        assert_eq!(
            told(&old, vec![change("default", ResourceType::Cluster, "z", 2)]),
            [true, true, true, false]
        );
        assert_eq!(
            told(&old, vec![change("default", ENDPOINT, "xdstp://x/y/z", 2)]),
            [true, true, true, false]
        );
        let many = (0..=CHANGES_MAX)
            .map(|n| change("default", ENDPOINT, &format!("n{n:03}"), 1))
            .collect();
        assert_eq!(told(&old, many), [true, true, true, false]);
        assert_eq!(told(&Snapshot::unpublished(), vec![]), [true; 4]);
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
            audience.tell(&old, &other_rules) && streams.iter().all(Stream::woken),
            "it may be another's group now"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_passed_over_hears_of_it_a_little_later() {
        let (audience, watchdog) = (Arc::<Audience>::default(), Arc::<Watchdog>::default());
        let store = Arc::new(Store::default());
        store.publish(Arc::new(published()));
        tokio::spawn(Arc::clone(&audience).follow(Arc::clone(&store)));
        let stream = Stream::new(&audience, &watchdog).asks(&"default".into(), &["a"]);
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
    fn a_stream_that_ends_leaves() {
        let (audience, watchdog) = (Arc::<Audience>::default(), Arc::<Watchdog>::default());
        let streams = [(); 2].map(|()| Stream::new(&audience, &watchdog).asks(&"default".into(), &["a"]));
        assert_eq!(audience.crowds().len(), 1);
        drop(streams);
        assert!(audience.crowds().is_empty());
    }
}
