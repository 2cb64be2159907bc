//! The loop over a store in memory: first publish, saved state, shared last good texts, staleness, pace.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use chancery::backend::directory::Directory;
use chancery::backend::memory::Memory;
use chancery::backend::{Backend, Entry, Event, ListReason, ReadError, Terms, WatchControl, Write, WriteError};
use chancery::document::key::{DocumentKey, Kind, Layout, Root};
use chancery::reconcile::persist::disk::Disk;
use chancery::reconcile::refusal::Witness;
use chancery::reconcile::run::{Health, Observer, Parts, Reconciler};
use chancery::reconcile::world::{Options, State, World};
use chancery::resource::ResourceType;
use chancery::resource::refused::RefusedResource;
use chancery::snapshot::store::Store;
use chancery::snapshot::{Snapshot, Source};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::eventually::eventually;

const LIMIT: Duration = Duration::from_secs(10);
const ROUTE: &str = r#"{ "match": "/a", "to": "http://127.0.0.1:8080" }"#;
const OTHER_ROUTE: &str = r#"{ "match": "/b", "to": "http://127.0.0.1:8081" }"#;
const BAD_ROUTE: &str = r#"{ "match": "/a", "too": "http://127.0.0.1:8080" }"#;

/// Has no proxies.
struct Nobody;

impl Witness for Nobody {
    fn has_accepted(&self, _: &DocumentKey, _: &[RefusedResource]) -> bool {
        false
    }
}

/// One server's loop.
pub(crate) struct Replica {
    pub(crate) snapshots: Arc<Store>,
    pub(crate) worlds: Arc<ArcSwap<World>>,
    health: watch::Receiver<Health>,
    token: CancellationToken,
    task: JoinHandle<()>,
    /// The versions of every snapshot that was published.
    seen: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Replica {
    pub(crate) fn start(store: &Memory, state_dir: &Path) -> Self {
        Self::start_on(Arc::new(store.clone()), state_dir)
    }

    fn start_on(backend: Arc<dyn Backend>, state_dir: &Path) -> Self {
        Self::start_with(backend, state_dir, false)
    }

    fn start_with(backend: Arc<dyn Backend>, state_dir: &Path, confirm_mass_loss: bool) -> Self {
        let (layout, store) = (Layout::default(), backend.name());
        let options = Options {
            layout: layout.clone(),
            confirm_mass_loss,
            has_leases: backend.is_shared(),
            re2_max_program_size: 100,
            ca_bundle: None,
            access_log_dir: "/var/log".into(),
            vault: chancery::document::secret::Vault::default(),
        };
        let (snapshots, seen) = (Arc::new(Store::default()), Arc::default());
        let recorder = Recorder {
            snapshots: Arc::clone(&snapshots),
            seen: Arc::clone(&seen),
        };
        let (_, commands) = mpsc::channel(1);
        let reconciler = Reconciler::new(Parts {
            backend,
            world: World::new(options),
            snapshots: Arc::clone(&snapshots),
            disk: Disk::open(state_dir, layout, store).unwrap(),
            state_prefix: "/chancery/".to_owned(),
            publish_distance: Duration::from_millis(100),
            allow_empty: false,
            commands,
            observer: Arc::new(recorder),
            witness: Arc::new(Nobody),
        });
        let (worlds, health, token) = (reconciler.worlds(), reconciler.health(), CancellationToken::new());
        let task = tokio::spawn(reconciler.run(token.clone()));
        Self {
            snapshots,
            worlds,
            health,
            token,
            task,
            seen,
        }
    }

    pub(crate) async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }

    /// Wait for a snapshot of which this holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut generations = self.snapshots.subscribe();
        let wait = async {
            loop {
                generations.borrow_and_update();
                let current = self.snapshots.current();
                if holds(&current) {
                    return current;
                }
                generations.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: last saw {:?}", self.snapshots.current()))
    }

    pub(crate) async fn until_health(&self, holds: impl Fn(&Health) -> bool) -> Health {
        let mut health = self.health.clone();
        let reached = tokio::time::timeout(LIMIT, health.wait_for(|health| holds(health)))
            .await
            .is_ok();
        let seen = health.borrow().clone();
        assert!(reached, "last saw {seen:?}");
        seen
    }

    async fn until_state(&self, name: &str, state: State) {
        let key = DocumentKey::new(Kind::Routes, name);
        eventually(
            LIMIT,
            async || self.worlds.load().document(&key).map(|status| status.state),
            Some(state),
        )
        .await;
    }
}

fn names(snapshot: &Snapshot, resource_type: ResourceType) -> Vec<String> {
    snapshot
        .group("default")
        .map(|group| {
            group
                .set(resource_type)
                .iter()
                .map(|resource| resource.name.to_string())
                .collect()
        })
        .unwrap_or_default()
}

fn versions(snapshot: &Snapshot) -> Vec<String> {
    let group = snapshot
        .group("default")
        .expect("the default group exists once published");
    ResourceType::ALL
        .iter()
        .map(|resource_type| group.set(*resource_type).version().to_string())
        .collect()
}

#[tokio::test]
async fn a_put_becomes_a_snapshot_and_a_delete_takes_it_away() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let replica = Replica::start(&store, folder.path());
    replica
        .until("the empty store is published", |snapshot| snapshot.generation > 0)
        .await;
    let revision = store.put("/gateway/routes/a", ROUTE);
    let snapshot = replica
        .until("the route's cluster", |snapshot| {
            names(snapshot, ResourceType::Cluster) == ["http://127.0.0.1:8080"]
        })
        .await;
    assert_eq!(
        (snapshot.revision, snapshot.source, snapshot.stale),
        (revision, Source::Memory, false)
    );
    assert_eq!(names(&snapshot, ResourceType::Listener), ["default"]);
    assert_eq!(names(&snapshot, ResourceType::Endpoint), ["http://127.0.0.1:8080"]);
    store.delete("/gateway/routes/a");
    replica
        .until("no cluster is left", |snapshot| {
            names(snapshot, ResourceType::Cluster).is_empty()
        })
        .await;
    replica.stop().await;
}

#[tokio::test]
async fn the_first_publish_waits_for_every_root() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.set_away(Some("no route to host"));
    let replica = Replica::start(&store, folder.path());
    let waiting = replica
        .until_health(|health| health.pending.iter().any(|what| what.contains("no route to host")))
        .await;
    assert!(!waiting.ready);
    assert_eq!(replica.snapshots.current().generation, 0);
    store.set_away(None);
    store.relist(ListReason::Reconnect);
    replica.until("published", |snapshot| snapshot.generation > 0).await;
    replica
        .until_health(|health| health.ready && health.pending.is_empty())
        .await;
    replica.stop().await;
}

#[tokio::test]
async fn saved_state_serves_at_once_and_says_so_where_the_store_is_away() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/a", ROUTE);
    store.put("/services/users/1", "127.0.0.1:9000");
    let first = Replica::start(&store, folder.path());
    let served = first
        .until("served", |snapshot| !names(snapshot, ResourceType::Cluster).is_empty())
        .await;
    first.stop().await;

    store.set_away(Some("connection refused"));
    let second = Replica::start(&store, folder.path());
    let restored = second
        .until("served from disk", |snapshot| snapshot.generation > 0)
        .await;
    assert_eq!((restored.source, restored.stale), (Source::Disk, true));
    assert_eq!(versions(&restored), versions(&served));
    assert!(second.health.borrow().ready);
    assert!(second.health.borrow().stale_since.is_some());

    store.set_away(None);
    store.put("/gateway/routes/b", OTHER_ROUTE);
    store.relist(ListReason::Reconnect);
    let current = second
        .until("current again", |snapshot| snapshot.source == Source::Memory)
        .await;
    assert!(!current.stale);
    assert_eq!(
        names(&current, ResourceType::Cluster),
        ["http://127.0.0.1:8080", "http://127.0.0.1:8081"]
    );
    second.stop().await;
}

#[tokio::test]
async fn saved_state_of_another_store_neither_serves_nor_holds() {
    let (store, folder, state) = (
        Memory::new(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    write_folder(folder.path(), "blue");
    let backend = Directory::new(folder.path(), "/gateway/", "/services/", state.path(), "/chancery/");
    let first = Replica::start_on(Arc::new(backend), state.path());
    first
        .until("served", |snapshot| names(snapshot, ResourceType::Cluster) == ["blue"])
        .await;
    first.stop().await;

    // An empty list would be held if the texts of the directory counted.
    let second = Replica::start(&store, state.path());
    let snapshot = second.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(snapshot.source, Source::Memory);
    assert_eq!(names(&snapshot, ResourceType::Cluster), [""; 0]);
    second.stop().await;
}

/// Write thirty routes, each to a cluster of its own. One after the other: no guard holds that.
fn write_routes(store: &Memory, name: &str, port: usize) {
    for number in 0..30 {
        let (key, port) = (format!("/gateway/routes/{name}{number}"), port + number);
        let text = format!(r#"{{ "match": "/{name}{number}", "to": "http://127.0.0.1:{port}" }}"#);
        store.put(&key, text);
    }
}

/// The thirty routes `old` become thirty routes `new`.
fn replace_routes(store: &Memory) {
    write_routes(store, "new", 9000);
    for number in 0..30 {
        store.delete(&format!("/gateway/routes/old{number}"));
    }
}

fn serves(snapshot: &Snapshot, port: usize) -> bool {
    let clusters: Vec<String> = (port..port + 30)
        .map(|port| format!("http://127.0.0.1:{port}"))
        .collect();
    names(snapshot, ResourceType::Cluster) == clusters
}

/// A state directory that holds the routes `old`.
async fn old_state(store: &Memory) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_routes(store, "old", 8000);
    let first = Replica::start(store, folder.path());
    first.until("served", |snapshot| serves(snapshot, 8000)).await;
    first.stop().await;
    folder
}

async fn serves_the_new_routes_alone(store: &Memory, state_dir: &Path, confirm_mass_loss: bool) {
    let replica = Replica::start_with(Arc::new(store.clone()), state_dir, confirm_mass_loss);
    let first = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert!(serves(&first, 9000), "{:?}", names(&first, ResourceType::Cluster));
    let states: Vec<State> = replica.worlds.load().documents().map(|status| status.state).collect();
    assert_eq!(states, [State::Accepted; 30]);
    replica.stop().await;
}

#[tokio::test]
async fn an_old_state_directory_guards_nothing_where_the_store_answers() {
    for confirm_mass_loss in [false, true] {
        let store = Memory::new();
        let folder = old_state(&store).await;
        replace_routes(&store);
        serves_the_new_routes_alone(&store, folder.path(), confirm_mass_loss).await;
    }
}

#[tokio::test]
async fn the_state_directory_of_another_cluster_guards_nothing() {
    for confirm_mass_loss in [false, true] {
        let folder = old_state(&Memory::new()).await;
        let other = Memory::new();
        write_routes(&other, "new", 9000);
        serves_the_new_routes_alone(&other, folder.path(), confirm_mass_loss).await;
    }
}

#[tokio::test]
async fn instances_of_an_old_state_directory_are_not_kept() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/clusters/users", "{}");
    for number in 0..30 {
        store.put(
            &format!("/services/users/{number}"),
            format!("127.0.0.1:{}", 9000 + number),
        );
    }
    store.put("/services/other/1", "127.0.0.1:8000");
    let first = Replica::start(&store, folder.path());
    first
        .until("served", |snapshot| names(snapshot, ResourceType::Cluster) == ["users"])
        .await;
    first.stop().await;
    for number in 0..30 {
        store.delete(&format!("/services/users/{number}"));
    }

    let second = Replica::start(&store, folder.path());
    second.until("published", |snapshot| snapshot.generation > 0).await;
    assert!(
        second
            .worlds
            .load()
            .documents()
            .all(|status| status.state != State::Held)
    );
    second.stop().await;
}

#[tokio::test]
async fn saved_state_that_served_is_guarded() {
    let store = Memory::new();
    let folder = old_state(&store).await;
    replace_routes(&store);
    store.set_away(Some("connection refused"));
    let replica = Replica::start(&store, folder.path());
    let served = replica
        .until("served from disk", |snapshot| snapshot.generation > 0)
        .await;
    store.set_away(None);
    store.relist(ListReason::Reconnect);
    let current = replica.until("current again", |snapshot| !snapshot.stale).await;
    assert_eq!(versions(&current), versions(&served));
    replica.until_state("old0", State::Held).await;
    replica.stop().await;
}

#[tokio::test]
async fn saved_state_that_served_moves_no_other_replica_backwards() {
    let (store, other_folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let folder = old_state(&store).await;
    replace_routes(&store);
    // It does not know the routes that were there before.
    let other = Replica::start(&store, other_folder.path());
    other.until("published", |snapshot| serves(snapshot, 9000)).await;
    store.set_away(Some("connection refused"));
    let replica = Replica::start_with(Arc::new(store.clone()), folder.path(), true);
    replica
        .until("served from disk", |snapshot| serves(snapshot, 8000))
        .await;
    store.set_away(None);
    store.relist(ListReason::Reconnect);
    replica
        .until("the other one ends the hold", |snapshot| serves(snapshot, 9000))
        .await;
    let current = versions(&other.snapshots.current());
    assert!(other.seen.lock().unwrap().iter().all(|seen| *seen == current));
    replica.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_replica_born_after_a_document_turned_bad_serves_the_same() {
    let (store, folder, other_folder) = (
        Memory::new(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    store.put("/gateway/routes/a", ROUTE);
    let old = Replica::start(&store, folder.path());
    old.until("the good text serves", |snapshot| {
        !names(snapshot, ResourceType::Cluster).is_empty()
    })
    .await;
    store.put("/gateway/routes/a", BAD_ROUTE);
    old.until_state("a", State::Rejected).await;
    let saved = async || {
        store
            .get(b"/chancery/last-good//gateway/routes/a")
            .await
            .unwrap()
            .is_some()
    };
    eventually(LIMIT, saved, true).await;
    // Without history the saved text is the only memory.
    store.compact(store.list("/").await.unwrap().0);

    let young = Replica::start(&store, other_folder.path());
    let snapshot = young.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(versions(&snapshot), versions(&old.snapshots.current()));
    young.until_state("a", State::Rejected).await;

    store.put("/gateway/routes/a", OTHER_ROUTE);
    eventually(LIMIT, saved, false).await;
    old.stop().await;
    young.stop().await;
}

#[tokio::test]
async fn where_nothing_is_saved_the_history_of_the_store_is_asked() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/a", ROUTE);
    store.put("/gateway/routes/a", "{");
    store.put("/gateway/routes/a", BAD_ROUTE);
    let replica = Replica::start(&store, folder.path());
    let snapshot = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(names(&snapshot, ResourceType::Cluster), ["http://127.0.0.1:8080"]);
    replica.until_state("a", State::Rejected).await;
    replica.stop().await;
}

#[tokio::test]
async fn after_a_restart_nothing_is_taken_away_while_a_last_good_text_is_looked_for() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/b", OTHER_ROUTE);
    let first = Replica::start(&store, folder.path());
    first
        .until("served", |snapshot| !names(snapshot, ResourceType::Cluster).is_empty())
        .await;
    first.stop().await;
    // The saved state knows nothing of it: the server ended before it could save.
    store.put("/gateway/routes/a", ROUTE);
    store.put("/gateway/routes/a", BAD_ROUTE);
    let second = Replica::start(&store, folder.path());
    // The first published snapshot has the content of the store.
    let current = second.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!((current.source, current.stale), (Source::Memory, false));
    assert_eq!(
        names(&current, ResourceType::Cluster),
        ["http://127.0.0.1:8080", "http://127.0.0.1:8081"]
    );
    second.stop().await;
}

/// A store that takes writes and never answers them.
struct Frozen(Memory);

#[async_trait]
impl Backend for Frozen {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken) {
        self.0.watch(prefix, control, events, token).await;
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        self.0.get(key).await
    }

    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError> {
        self.0.get_at(key, revision).await
    }

    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        self.0.list(prefix).await
    }

    async fn write_if(&self, _: Vec<Write>, _: Terms) -> Result<i64, WriteError> {
        std::future::pending().await
    }

    fn etag(&self, entry: &Entry) -> String {
        self.0.etag(entry)
    }
}

#[tokio::test]
async fn the_loop_ends_although_the_store_does_not_answer_a_write() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/a", ROUTE);
    let replica = Replica::start_on(Arc::new(Frozen(store.clone())), folder.path());
    replica.until("published", |snapshot| snapshot.generation > 0).await;
    store.put("/gateway/routes/a", BAD_ROUTE);
    replica.until_state("a", State::Rejected).await;
    tokio::time::timeout(LIMIT, replica.stop())
        .await
        .expect("the write of the last good text holds up the end");
}

/// More than any queue of the loop takes. All of them are bad, and the store takes no record of their last good texts.
#[tokio::test]
async fn the_loop_goes_on_although_the_store_takes_no_record() {
    const DOCUMENTS: usize = 1200;
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let routes = |text: &str| -> Vec<(String, Option<String>)> {
        let route = |number: usize| {
            let key = format!("/gateway/routes/r{number}");
            (key, Some(text.replace("NUMBER", &number.to_string())))
        };
        (0..DOCUMENTS).map(route).collect()
    };
    let transact = |texts: Vec<(String, Option<String>)>| {
        store.transact(texts.iter().map(|(key, text)| (key.as_str(), text.clone())));
    };
    transact(routes(r#"{ "match": "/r/NUMBER", "to": "http://127.0.0.1:8080" }"#));
    let replica = Replica::start_on(Arc::new(Frozen(store.clone())), folder.path());
    replica.until("published", |snapshot| snapshot.generation > 0).await;

    transact(routes(r#"{ "match": "/r/NUMBER", "too": "bad" }"#));
    for port in 1..=3 {
        let cluster = format!("http://127.0.0.1:{port}");
        store.put("/gateway/routes/good", ROUTE.replace("http://127.0.0.1:8080", &cluster));
        let is_there = |snapshot: &Snapshot| names(snapshot, ResourceType::Cluster).contains(&cluster);
        replica.until("a change beside the bad documents", is_there).await;
    }
    let last = format!("r{}", DOCUMENTS - 1);
    replica.until_state(&last, State::Rejected).await;
    replica.stop().await;
}

/// A store whose watch of the documents can be broken. The other watches go on.
struct Broken {
    store: Memory,
    is_broken: watch::Receiver<bool>,
}

#[async_trait]
impl Backend for Broken {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken) {
        if prefix != "/gateway/" {
            return self.store.watch(prefix, control, events, token).await;
        }
        let (sender, mut received) = mpsc::channel(1);
        let mut is_broken = self.is_broken.clone();
        let pass = async {
            loop {
                let event = tokio::select! {
                    Ok(()) = is_broken.changed() => Some(Event::Alive),
                    event = received.recv() => event,
                };
                let event = match event {
                    Some(_) if *is_broken.borrow() => Event::Failed {
                        reason: "broken".to_owned(),
                    },
                    Some(event) => event,
                    None => return,
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(self.store.watch(prefix, control, sender, token), pass);
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        self.store.get(key).await
    }

    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError> {
        self.store.get_at(key, revision).await
    }

    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        self.store.list(prefix).await
    }

    async fn write_if(&self, writes: Vec<Write>, terms: Terms) -> Result<i64, WriteError> {
        self.store.write_if(writes, terms).await
    }

    fn etag(&self, entry: &Entry) -> String {
        self.store.etag(entry)
    }
}

#[tokio::test]
async fn a_root_that_cannot_be_read_stays_at_the_revision_that_it_has() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let before = store.put("/gateway/clusters/x", "{}");
    let (breaks, is_broken) = watch::channel(false);
    let backend = Broken {
        store: store.clone(),
        is_broken,
    };
    let replica = Replica::start_on(Arc::new(backend), folder.path());
    let revisions = |snapshot: &Snapshot| (snapshot.revisions["/gateway/"], snapshot.revisions["/services/"]);
    let listed = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(revisions(&listed), (before, before));

    breaks.send_replace(true);
    store.put("/gateway/routes/a", ROUTE);
    let registered = store.put_leased("/services/x/1", "127.0.0.1:9000");
    let is_registered = |snapshot: &Snapshot| snapshot.revisions["/services/"] == registered;
    let current = replica.until("the registration", is_registered).await;
    assert_eq!(revisions(&current), (before, registered), "the route is missing");

    breaks.send_replace(false);
    store.relist(ListReason::Reconnect);
    let is_whole = |snapshot: &Snapshot| snapshot.revisions["/gateway/"] == registered;
    let current = replica.until("the route", is_whole).await;
    assert!(names(&current, ResourceType::Cluster).contains(&"http://127.0.0.1:8080".to_owned()));
    replica.stop().await;
}

#[tokio::test]
async fn an_equal_list_wakes_no_stream() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/a", ROUTE);
    let replica = Replica::start(&store, folder.path());
    let before = replica.until("published", |snapshot| snapshot.generation > 0).await;
    let revision = store.put("/gateway/routes/a", ROUTE);
    store.relist(ListReason::Compacted);
    eventually(LIMIT, async || replica.snapshots.current().revision, revision).await;
    assert_eq!(replica.snapshots.current().generation, before.generation);
    replica.stop().await;
}

#[tokio::test]
async fn a_silent_store_makes_the_snapshot_stale_and_an_answer_makes_it_current() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    store.put("/gateway/routes/a", ROUTE);
    let replica = Replica::start(&store, folder.path());
    replica.until("published", |snapshot| snapshot.generation > 0).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    replica.until("stale", |snapshot| snapshot.stale).await;
    assert!(replica.health.borrow().ready);
    store.alive();
    replica.until("current", |snapshot| !snapshot.stale).await;
    replica.stop().await;
}

#[tokio::test]
async fn with_an_empty_prefix_removals_are_withheld() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let replica = Replica::start(&store, folder.path());
    let empty = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert!(empty.withhold_removals);
    store.put("/gateway/routes/a", ROUTE);
    replica
        .until("a document is there", |snapshot| !snapshot.withhold_removals)
        .await;
    replica.stop().await;
}

/// Remembers the versions of every snapshot that is published.
struct Recorder {
    snapshots: Arc<Store>,
    seen: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Observer for Recorder {
    fn observed(&self, _: &Root, _: &Event) {}

    fn published(&self, _: Duration) {
        let versions = versions(&self.snapshots.current());
        self.seen.lock().unwrap().push(versions);
    }

    fn skipped(&self) {}
}

/// Write a folder with a cluster, its registration and a route to the cluster.
fn write_folder(folder: &Path, cluster: &str) {
    let write = |path: String, text: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(format!("clusters/{cluster}.json"), "{}");
    write(
        format!("services/{cluster}/1.json"),
        r#"{ "address": "127.0.0.1:9000" }"#,
    );
    write(
        "routes/a.json".to_owned(),
        &format!(r#"{{ "match": "/a", "to": "{cluster}" }}"#),
    );
}

/// As Kubernetes swaps a volume.
fn swap(link: &Path, target: &Path) {
    let fresh = link.with_extension("fresh");
    std::os::unix::fs::symlink(target, &fresh).unwrap();
    std::fs::rename(&fresh, link).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_that_is_swapped_is_one_snapshot() {
    const SWAPS: usize = 20;
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (blue, green) = (folder.path().join("blue"), folder.path().join("green"));
    write_folder(&blue, "blue");
    write_folder(&green, "green");
    let link = folder.path().join("current");
    swap(&link, &blue);
    let backend = Directory::new(&link, "/gateway/", "/services/", state.path(), "/chancery/");
    let replica = Replica::start_on(Arc::new(backend), state.path());
    let routes_to = |snapshot: &Snapshot, cluster: &str| names(snapshot, ResourceType::Cluster) == [cluster];
    let first = replica.until("blue", |snapshot| routes_to(snapshot, "blue")).await;
    swap(&link, &green);
    let second = replica.until("green", |snapshot| routes_to(snapshot, "green")).await;
    let whole = [versions(&first), versions(&second)];

    for n in 0..SWAPS {
        let (target, cluster) = if n % 2 == 0 { (&blue, "blue") } else { (&green, "green") };
        swap(&link, target);
        replica.until(cluster, |snapshot| routes_to(snapshot, cluster)).await;
    }
    for seen in replica.seen.lock().unwrap().iter() {
        assert!(
            whole.contains(seen),
            "a part of a swap was published: {seen:?}, expected one of {whole:?}"
        );
    }
    replica.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_emptied_keeps_its_few_documents() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mounted, empty) = (folder.path().join("mounted"), folder.path().join("empty"));
    write_folder(&mounted, "blue");
    std::fs::create_dir(&empty).unwrap();
    let link = folder.path().join("current");
    swap(&link, &mounted);
    let backend = Directory::new(&link, "/gateway/", "/services/", state.path(), "/chancery/");
    let replica = Replica::start_on(Arc::new(backend), state.path());
    let before = replica
        .until("blue", |snapshot| names(snapshot, ResourceType::Cluster) == ["blue"])
        .await;
    swap(&link, &empty);
    replica.until_state("a", State::Held).await;
    assert_eq!(versions(&replica.snapshots.current()), versions(&before));
    swap(&link, &mounted);
    replica.until_state("a", State::Accepted).await;
    assert_eq!(versions(&replica.snapshots.current()), versions(&before));
    replica.stop().await;
}
