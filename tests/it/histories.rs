//! Random histories on a real etcd: in the end all replicas serve the same, for any events that each of them missed.
//!
//! Each history has its own prefixes in one etcd and three whole servers, each behind a proxy that can cut it off. A
//! seed writes good and bad texts, deletes documents one by one and many at once, cuts servers off, kills, restarts and
//! replaces them, compacts etcd, and releases what is held. At the end every server runs and is connected; then all
//! must have equal versions of every type and group, and equal states, reasons and texts of every document, also a server
//! that starts only then.
//!
//! `reconcile::plan::tests::replicas` does the same without etcd, ten thousand times. Timing is not repeated by a seed,
//! so a failure may need several runs of `HISTORIES_SEED=N HISTORIES=1`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chancery::app::App;
use chancery::config::{Config, Flags};
use chancery::document::key::{DocumentKey, Layout};
use chancery::reconcile::world::{State, Text, World};
use chancery::resource::ResourceType;
use chancery::shutdown::{self, Signal};
use chancery::snapshot::Source;
use chancery::snapshot::store::Store;
use etcd_client::{Client, GetOptions, Txn, TxnOp};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::etcd::{Etcd, data_folder};
use crate::support::eventually::eventually;
use crate::support::histories::{BAD, DOCUMENTS, MANY, ROUTES};
use crate::support::proxy::Proxy;

const HISTORIES: u64 = 100;
/// Histories that run at the same time. Most of a history is waiting.
const AT_ONCE: usize = 34;
const STEPS: usize = 40;
const REPLICAS: usize = 3;
/// From the last change to rest: a pause between two attempts to connect is 15 s at most, and a hold takes 10 s.
const LIMIT: Duration = Duration::from_secs(90);
/// A replica that has not seen a change after so long keeps it back.
const SEEN_LIMIT: Duration = Duration::from_millis(500);

/// The last write of a history: a replica that has it has seen everything before.
const LAST: &[(&str, Option<&str>)] = &[
    (
        "gateway/routes/last",
        Some(r#"{"match": "/last", "to": "http://10.0.0.7:80"}"#),
    ),
    ("services/last/1", Some("10.0.0.7:81")),
];

/// One history: its place in etcd, and its servers.
struct History {
    seed: u64,
    random: StdRng,
    client: Client,
    /// By key below the history's prefix: the revision of the current text.
    current: BTreeMap<String, i64>,
    replicas: Vec<Replica>,
    http: reqwest::Client,
}

/// A server, or the place of one that does not run.
struct Replica {
    proxy: Proxy,
    is_cut: bool,
    state: TempDir,
    running: Option<Running>,
}

/// A whole server in this process.
struct Running {
    admin: SocketAddr,
    worlds: Arc<ArcSwap<World>>,
    snapshots: Arc<Store>,
    signals: mpsc::Sender<Signal>,
    task: JoinHandle<Result<(), shutdown::Error>>,
}

/// A document as a replica shows it.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    state: State,
    reason: Option<String>,
    /// Revision of the latest text.
    latest: Option<i64>,
    /// Revision of the text that serves.
    serving: Option<i64>,
}

/// What a replica serves.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    /// By group and type.
    versions: BTreeMap<String, String>,
    documents: BTreeMap<String, Shown>,
}

impl View {
    /// The entries that another view lacks.
    fn without(&self, other: &Self) -> Self {
        let mut view = self.clone();
        view.versions
            .retain(|key, version| other.versions.get(key) != Some(version));
        view.documents
            .retain(|key, shown| other.documents.get(key) != Some(shown));
        view
    }

    fn has_held(&self) -> bool {
        self.documents.values().any(|shown| shown.state == State::Held)
    }
}

impl Running {
    async fn start(seed: u64, proxy: &Proxy, state: &TempDir) -> Self {
        let variables = [
            ("CHANCERY_ETCD", proxy.endpoint()),
            ("CHANCERY_PREFIX", format!("/{seed}/gateway/")),
            ("CHANCERY_REGISTRY_PREFIX", format!("/{seed}/services/")),
            ("CHANCERY_STATE_PREFIX", format!("/{seed}/state/")),
            ("CHANCERY_STATE_DIR", state.path().display().to_string()),
            ("CHANCERY_XDS_LISTEN", "127.0.0.1:0".to_owned()),
            ("CHANCERY_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let environment = variables.map(|(name, value)| (name.to_owned(), value)).into();
        let config = Config::load(&Flags::default(), &environment, |path| std::fs::read_to_string(path)).unwrap();
        // A replica that was killed may be in the middle of a save.
        let lock = state.path().join("lock");
        let is_free = || std::fs::File::open(&lock).map_or(true, |file| file.try_lock().is_ok());
        eventually(LIMIT, || async { is_free() }, true).await;
        let grace = config.grace;
        let app = App::bind(config).await.unwrap();
        let (admin, worlds, snapshots) = (app.admin_address().unwrap(), app.worlds(), app.snapshots());
        let (signals, asked) = mpsc::channel(1);
        let task = tokio::spawn(app.start(None).run(ReceiverStream::new(asked), grace));
        Self {
            admin,
            worlds,
            snapshots,
            signals,
            task,
        }
    }

    /// Every stage ends where it is.
    async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    async fn stop(self) {
        self.signals.send(Signal::Stop).await.unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// The revision of the latest text of a document, as this server knows it.
    fn latest(&self, key: &DocumentKey) -> Option<i64> {
        let world = self.worlds.load();
        Some(world.document(key)?.latest.as_ref()?.mod_revision)
    }

    /// The texts that the replica serves from etcd; `None`: none yet.
    fn view(&self) -> Option<View> {
        let (snapshot, world) = (self.snapshots.current(), self.worlds.load());
        if snapshot.generation == 0 || snapshot.source != Source::Etcd || !world.pending().is_empty() {
            return None;
        }
        let mut view = View::default();
        for (group, content) in &snapshot.groups {
            for resource_type in ResourceType::ALL {
                let version = content.set(resource_type).version().to_string();
                view.versions
                    .insert(format!("{group} {}", resource_type.as_str()), version);
            }
        }
        for status in world.documents() {
            let revision = |text: &Option<Arc<Text>>| text.as_ref().map(|text| text.mod_revision);
            let shown = Shown {
                state: status.state,
                reason: status.reason.clone(),
                latest: revision(&status.latest),
                serving: revision(&status.serving),
            };
            view.documents.insert(status.key.to_string(), shown);
        }
        Some(view)
    }
}

impl Replica {
    async fn born(seed: u64, etcd: &Etcd) -> Self {
        let (proxy, state) = (Proxy::start(etcd.address()).await, data_folder());
        let running = Some(Running::start(seed, &proxy, &state).await);
        Self {
            proxy,
            is_cut: false,
            state,
            running,
        }
    }

    /// Cut it off, or connect it again.
    fn cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
        match is_cut {
            true => self.proxy.cut(),
            false => self.proxy.mend(),
        }
    }

    /// Start it with the state directory that it has, where it does not run.
    async fn start(&mut self, seed: u64) {
        if self.running.is_none() {
            self.running = Some(Running::start(seed, &self.proxy, &self.state).await);
        }
    }

    async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

impl History {
    async fn new(seed: u64, etcd: &Etcd) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(Replica::born(seed, etcd).await);
        }
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            client: etcd.client().await,
            current: BTreeMap::new(),
            replicas,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn step(&mut self) {
        let replica = self.random.random_range(0..REPLICAS);
        match self.random.random_range(0..24) {
            0..9 => self.write_one().await,
            9 => self.delete_many().await,
            10 => self.write_many().await,
            11 => self.compact().await,
            12..15 => {
                let is_cut = !self.replicas[replica].is_cut;
                self.replicas[replica].cut(is_cut);
            }
            15 => self.replicas[replica].kill().await,
            16 => self.replicas[replica].stop().await,
            17 => {
                self.replicas[replica].kill().await;
                self.replicas[replica].state = data_folder();
            }
            18..20 => self.replicas[replica].start(self.seed).await,
            // All are cut off while something is written.
            20 => {
                self.replicas.iter_mut().for_each(|replica| replica.cut(true));
                for _ in 0..6 {
                    self.write_one().await;
                }
            }
            21 => self.release(replica).await,
            _ => self.replicas[replica].cut(false),
        }
    }

    async fn write_one(&mut self) {
        let (key, good) = *DOCUMENTS.choose(&mut self.random).unwrap();
        let text = match self.random.random_range(0..10) {
            0..2 => None,
            2..5 => BAD.choose(&mut self.random),
            _ => good.choose(&mut self.random),
        };
        let key = match key.starts_with("services/") {
            true => key.to_owned(),
            false => format!("gateway/{key}"),
        };
        self.write(&[(&key, text.copied())]).await;
        if self.random.random_bool(0.5) {
            self.until_some_replica_has_seen(&key).await;
        }
    }

    async fn write_many(&mut self) {
        let text = *ROUTES.choose(&mut self.random).unwrap();
        let keys: Vec<String> = (0..MANY)
            .map(|number| format!("gateway/routes/many/{number}"))
            .collect();
        let writes: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(text))).collect();
        self.write(&writes).await;
        self.until_some_replica_has_seen("gateway/routes/many/0").await;
    }

    async fn delete_many(&mut self) {
        let keys: Vec<String> = self
            .current
            .keys()
            .filter(|key| key.contains("/many/"))
            .cloned()
            .collect();
        let writes: Vec<_> = keys.iter().map(|key| (key.as_str(), None)).collect();
        self.write(&writes).await;
    }

    /// One transaction.
    async fn write(&mut self, writes: &[(&str, Option<&str>)]) {
        let operation = |(key, text): &(&str, Option<&str>)| {
            let full_key = format!("/{}/{key}", self.seed);
            match text {
                Some(text) => TxnOp::put(full_key, *text, None),
                None => TxnOp::delete(full_key, None),
            }
        };
        let operations: Vec<_> = writes.iter().map(operation).collect();
        if operations.is_empty() {
            return;
        }
        let answer = self.client.txn(Txn::new().and_then(operations)).await.unwrap();
        let revision = answer.header().unwrap().revision();
        for (key, text) in writes {
            match text {
                Some(_) => drop(self.current.insert((*key).to_owned(), revision)),
                None => drop(self.current.remove(*key)),
            }
        }
    }

    async fn compact(&mut self) {
        let answer = self.client.get("/", None).await.unwrap();
        let revision = answer.header().unwrap().revision();
        // Another history may have compacted further meanwhile.
        drop(self.client.compact(revision, None).await);
    }

    /// Wait until one connected replica has the last write, unless a guard holds it.
    async fn until_some_replica_has_seen(&mut self, key: &str) {
        let expected = self.current.get(key).copied();
        let key = self.document_key(key);
        let connected = self.replicas.iter().filter(|replica| !replica.is_cut);
        let connected: Vec<&Running> = connected.filter_map(|replica| replica.running.as_ref()).collect();
        let Some(running) = connected.choose(&mut self.random) else {
            return;
        };
        let deadline = Instant::now() + SEEN_LIMIT;
        while running.latest(&key) != expected && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn document_key(&self, key: &str) -> DocumentKey {
        let layout = Layout {
            prefix: "gateway/".into(),
            registry_prefix: "services/".into(),
            ..Layout::default()
        };
        let root = layout.root_of(key.as_bytes()).unwrap();
        layout.locate(&root, key.as_bytes())
    }

    /// An operator releases the held keys.
    async fn release(&self, replica: usize) {
        if let Some(running) = &self.replicas[replica].running {
            let url = format!("http://{}/api/v1/release", running.admin);
            let body = serde_json::json!({ "all": true });
            let answer = self.http.post(url).json(&body).send().await.unwrap();
            // 404: this replica holds nothing.
            let expected = [reqwest::StatusCode::NO_CONTENT, reqwest::StatusCode::NOT_FOUND];
            assert!(expected.contains(&answer.status()), "{}", answer.status());
        }
    }

    /// Everybody runs, is connected, and has seen everything.
    async fn come_to_rest(&mut self, etcd: &Etcd) -> Result<(), String> {
        for replica in &mut self.replicas {
            replica.start(self.seed).await;
            replica.cut(false);
        }
        self.write(LAST).await;
        self.until_equal("while holds go on", |_| true).await?;
        self.release(0).await;
        self.until_equal("when nothing is held", |view| !view.has_held())
            .await?;
        self.replicas.push(Replica::born(self.seed, etcd).await);
        self.until_equal("when another one is born", |_| true).await?;
        for replica in &mut self.replicas {
            replica.stop().await;
        }
        Ok(())
    }

    async fn until_equal(&mut self, when: &str, holds: impl Fn(&View) -> bool) -> Result<(), String> {
        let last = |(key, _): &(&str, _)| (self.document_key(key).to_string(), self.current.get(*key).copied());
        let last: Vec<_> = LAST.iter().map(last).collect();
        let has_seen_all = |view: &View| {
            last.iter()
                .all(|(key, revision)| view.documents.get(key).is_some_and(|shown| shown.latest == *revision))
        };
        let deadline = Instant::now() + LIMIT;
        loop {
            let running = self.replicas.iter().filter_map(|replica| replica.running.as_ref());
            let views: Vec<Option<View>> = running.map(Running::view).collect();
            if let Some(first) = &views[0]
                && views.iter().all(|view| view.as_ref() == Some(first))
                && has_seen_all(first)
                && holds(first)
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.difference(when, &views).await);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn difference(&mut self, when: &str, views: &[Option<View>]) -> String {
        let seed = self.seed;
        let mut text = format!("HISTORIES_SEED={seed} HISTORIES=1: replicas differ {when}\n");
        for (number, view) in views.iter().enumerate() {
            text += &match (view, &views[0]) {
                (Some(view), Some(first)) if number > 0 => format!("replica {number}: {:#?}\n", view.without(first)),
                (view, _) => format!("replica {number}: {view:#?}\n"),
            };
        }
        let everything = self
            .client
            .get(format!("/{seed}/"), Some(GetOptions::new().with_prefix()))
            .await;
        for pair in everything.unwrap().kvs() {
            text += &format!(
                "{} {}: {}\n",
                pair.mod_revision(),
                pair.key_str().unwrap(),
                pair.value_str().unwrap()
            );
        }
        text
    }
}

async fn history(seed: u64, etcd: Arc<Etcd>) -> Result<(), String> {
    let mut history = History::new(seed, &etcd).await;
    for _ in 0..STEPS {
        history.step().await;
    }
    history.come_to_rest(&etcd).await
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_on_etcd_are_equal_at_rest_whatever_they_missed() {
    let first = setting("HISTORIES_SEED").unwrap_or(1);
    let seeds = first..first + setting("HISTORIES").unwrap_or(HISTORIES);
    let etcd = Arc::new(Etcd::start().await);
    let places = Arc::new(Semaphore::new(AT_ONCE));

    let mut histories = JoinSet::new();
    for seed in seeds {
        let (etcd, places) = (Arc::clone(&etcd), Arc::clone(&places));
        histories.spawn(async move {
            let _place = places.acquire().await;
            history(seed, etcd).await
        });
    }

    let outcomes = histories.join_all().await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(
        failures.is_empty(),
        "{} histories failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
