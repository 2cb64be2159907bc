//! Everything that runs: three members of etcd, three replicas, three Envoys, and the traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::changes::{self, Documents};
use crate::findings::Findings;
use crate::members::Members;
use crate::replica::{Replica, compile_clock};
use crate::store::Store;
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::etcd::data_folder;
use crate::support::eventually::eventually;
use crate::traffic::Traffic;
use crate::versions::Versions;

pub(crate) const REPLICAS: usize = 3;

/// The Envoys: node and bootstrap.
pub(crate) const ENVOYS: [(&str, Bootstrap); 3] = [
    ("edge-1", Bootstrap::Delta),
    ("edge-2", Bootstrap::Sotw),
    ("edge-3", Bootstrap::Delta),
];

/// From the end of a fault until everything is as if there had been none. Pauses between attempts to connect are 15 s at
/// most, a hold waits 10 s, and the machine may be busy.
pub(crate) const RECOVERY: Duration = Duration::from_secs(90);

/// The installation.
pub(crate) struct Installation {
    pub(crate) random: StdRng,
    pub(crate) findings: Arc<Findings>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) store: Arc<Store>,
    pub(crate) members: Members,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) traffic: Traffic,
    pub(crate) versions: Versions,
    /// The number of the generation of routes that is asked for.
    pub(crate) generation: usize,
    _envoys: Vec<Envoy>,
    /// Where the Envoys listen.
    addresses: Vec<SocketAddr>,
    http: reqwest::Client,
    memory: Vec<u64>,
    changes: JoinHandle<()>,
    _shim: TempDir,
}

impl Installation {
    pub(crate) async fn start(seed: u64, findings: Arc<Findings>) -> Self {
        let members = Members::start().await;
        let store = Arc::new(Store::new(members.endpoints()));
        let documents = Arc::new(Documents::start().await);
        let addresses: Vec<SocketAddr> = ENVOYS.iter().map(|_| own_address()).collect();
        let nodes: Vec<_> = ENVOYS
            .iter()
            .map(|(node, _)| *node)
            .zip(addresses.iter().copied())
            .collect();
        store.commit(&documents.first(&nodes)).await;

        let shim_folder = data_folder();
        let shim = compile_clock(shim_folder.path());
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(Replica::start(&members, shim.as_deref()).await);
        }
        for replica in &replicas {
            replica.server.ready().await;
        }
        let fronts: Vec<SocketAddr> = replicas.iter().map(|replica| replica.front.address()).collect();
        let mut envoys = Vec::new();
        for (node, bootstrap) in ENVOYS {
            envoys.push(Envoy::start_with(&listing(&bootstrap.text(fronts[0]), &fronts), node).await);
        }
        for envoy in &envoys {
            envoy.ready().await;
        }
        let admins = replicas.iter().map(|replica| replica.server.admin()).collect();
        let mut installation = Self {
            random: StdRng::seed_from_u64(seed),
            traffic: Traffic::start(&[], changes::generation_paths(0), Arc::clone(&findings)),
            versions: Versions::watch(admins, Arc::clone(&findings)),
            changes: tokio::spawn(async {}),
            generation: 0,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            memory: Vec::new(),
            _shim: shim_folder,
            findings,
            documents,
            store,
            members,
            replicas,
            _envoys: envoys,
            addresses,
        };
        installation.until_served("/generation/0/29").await;
        installation.until_served("/registered").await;
        installation.traffic = Traffic::start(
            &installation.addresses,
            changes::generation_paths(0),
            Arc::clone(&installation.findings),
        );
        let (documents, store) = (Arc::clone(&installation.documents), Arc::clone(&installation.store));
        installation.changes = tokio::spawn(changes::change_for_ever(seed, documents, store));
        installation
    }

    /// Any replica.
    pub(crate) fn any_replica(&mut self) -> usize {
        self.random.random_range(0..REPLICAS)
    }

    /// Let the fault last for a while, under traffic and changes. This is what a fault is, so nothing can be awaited.
    pub(crate) async fn last(&mut self, milliseconds: std::ops::Range<u64>) {
        let milliseconds = self.random.random_range(milliseconds);
        sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Start a replica again, and wait until it is ready.
    pub(crate) async fn restart(&mut self, replica: usize) {
        self.replicas[replica].server.restart().await;
        if !self.replicas[replica].is_ready_within(RECOVERY).await {
            self.findings
                .add(&format!("replica {replica} is not ready {RECOVERY:?} after its start"));
        }
    }

    /// Wait until each Envoy answers a path with 200.
    pub(crate) async fn until_served(&self, path: &str) {
        for address in &self.addresses {
            let url = format!("http://{address}{path}");
            let status = || async { Some(self.http.get(&url).send().await.ok()?.status().as_u16()) };
            eventually(RECOVERY, status, Some(200)).await;
        }
    }

    /// Everything is as if there had been no fault, or it is a finding:
    ///
    /// - every replica has the newest revision;
    /// - every Envoy answers with the newest route table;
    /// - every Envoy has sent an ACK for each response, or its NACK is shown.
    pub(crate) async fn recover(&self) -> bool {
        let (tick, revision) = changes::tick(&self.documents, &self.store).await;
        let deadline = Instant::now() + RECOVERY;
        loop {
            let mut missing = self.behind(revision).await;
            for ((node, _), seen) in ENVOYS.iter().zip(self.traffic.ticks()) {
                if seen < tick {
                    missing.push(format!("{node} has the route table {seen}, expected {tick}"));
                }
            }
            missing.extend(self.unacknowledged().await);
            if missing.is_empty() {
                return true;
            }
            if Instant::now() > deadline {
                self.findings
                    .add(&format!("{RECOVERY:?} after the fault: {}", missing.join("; ")));
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Wait until every replica has the newest revision. An Envoy that loses its replica goes on with another one; if that
    /// one has been cut off until a moment ago, the Envoy gets an older configuration (decision 008 allows 30 s).
    pub(crate) async fn catch_up(&self) {
        let (_, revision) = changes::tick(&self.documents, &self.store).await;
        let deadline = Instant::now() + RECOVERY;
        while !self.behind(revision).await.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Replicas that have not reached a revision, with documents or with registrations.
    async fn behind(&self, revision: i64) -> Vec<String> {
        let mut behind = Vec::new();
        for (number, replica) in self.replicas.iter().enumerate() {
            let seen = revisions_of(replica).await;
            if seen.iter().any(|seen| *seen < revision) {
                behind.push(format!("replica {number} stands at {seen:?}, expected {revision}"));
            }
        }
        behind
    }

    /// Envoys without a stream, and responses without an ACK or a shown NACK.
    async fn unacknowledged(&self) -> Vec<String> {
        let mut streams = Vec::new();
        for replica in &self.replicas {
            if let Ok((200, mut answer)) = replica.server.try_get("/api/v1/clients").await
                && let Value::Array(clients) = answer["clients"].take()
            {
                streams.extend(clients.into_iter().filter(|client| client["gone_at"].is_null()));
            }
        }
        let mut missing = Vec::new();
        for (node, _) in ENVOYS {
            let mut own = streams.iter().filter(|client| client["node"]["id"] == node).peekable();
            if own.peek().is_none() {
                missing.push(format!("{node} has no stream"));
            }
            // A replica that was frozen may not know yet that a stream has ended.
            let open: Vec<Vec<&String>> = own.map(unanswered).collect();
            if !open.is_empty() && open.iter().all(|types| !types.is_empty()) {
                missing.push(format!("{node} has sent no ACK and no NACK for {:?}", open[0]));
            }
        }
        missing
    }

    /// The entry of a document on each replica.
    pub(crate) async fn entries(&self, key: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        for replica in &self.replicas {
            let path = format!("/api/v1/documents?q={key}");
            let answer = match replica.server.try_get(&path).await {
                Ok((200, answer)) => answer,
                _ => Value::Null,
            };
            let listed = answer["documents"].as_array();
            let entry = listed.and_then(|entries| entries.iter().find(|entry| entry["key"] == key));
            entries.push(entry.cloned().unwrap_or_default());
        }
        entries
    }

    /// Wait until the entry of a document fulfils a condition on every replica; if that does not happen, it is a finding.
    pub(crate) async fn until_entries(&self, key: &str, what: &str, holds: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let entries = self.entries(key).await;
            if entries.iter().all(&holds) {
                return;
            }
            if Instant::now() > deadline {
                let shown: Vec<String> = entries.iter().map(ToString::to_string).collect();
                self.findings.add(&format!(
                    "{key} is not {what} on every replica after {RECOVERY:?}: {}",
                    shown.join(", ")
                ));
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// An operator lets act what is held, through one replica.
    pub(crate) async fn release(&self, replica: usize) {
        let url = format!("http://{}/api/v1/release", self.replicas[replica].server.admin());
        let answer = self.http.post(url).json(&json!({ "all": true })).send().await;
        // 404: nothing is held there.
        let status = answer.map(|answer| answer.status().as_u16());
        if !matches!(status, Ok(204 | 404)) {
            self.findings
                .add(&format!("release through replica {replica}: {status:?}"));
        }
    }

    /// Remember how much memory each replica has.
    pub(crate) fn measure_memory(&mut self) {
        self.memory = self.replicas.iter().map(|replica| replica.server.memory()).collect();
    }

    /// The memory of each replica is back to what it was.
    pub(crate) async fn memory_is_back(&self) {
        let base = self.memory.iter().copied().max().unwrap_or_default();
        let limit = base * 2 + 64 * 1024 * 1024;
        let memory = || {
            self.replicas
                .iter()
                .map(|replica| replica.server.memory())
                .collect::<Vec<_>>()
        };
        let deadline = Instant::now() + RECOVERY;
        while memory().iter().any(|bytes| *bytes > limit) {
            if Instant::now() > deadline {
                let megabytes: Vec<u64> = memory().iter().map(|bytes| bytes >> 20).collect();
                self.findings.add(&format!(
                    "the replicas have {megabytes:?} MiB, at first {} MiB at most",
                    base >> 20
                ));
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let megabytes: Vec<u64> = memory().iter().map(|bytes| bytes >> 20).collect();
        println!("  memory: {megabytes:?} MiB, at first {} MiB at most", base >> 20);
    }

    /// Whether every process that should run does.
    pub(crate) fn all_run(&mut self) -> bool {
        let mut all = true;
        for number in 0..REPLICAS {
            if !self.replicas[number].server.is_running() {
                self.findings.add(&format!("replica {number} has ended by itself"));
                all = false;
            }
        }
        all
    }

    /// Addresses where the Envoys listen; for documents that take one of them.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Documents that a replica lists below a key, by state.
    pub(crate) async fn listed(&self, key: &str) -> Vec<usize> {
        let mut counts = Vec::new();
        for replica in &self.replicas {
            let path = format!("/api/v1/documents?q={key}");
            counts.push(match replica.server.try_get(&path).await {
                Ok((200, answer)) => answer["documents"].as_array().map_or(usize::MAX, Vec::len),
                _ => usize::MAX,
            });
        }
        counts
    }

    /// Wait until all replicas list so many documents below a key; otherwise it is a finding.
    pub(crate) async fn until_listed(&self, key: &str, count: usize) {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let counts = self.listed(key).await;
            if counts.iter().all(|listed| *listed == count) {
                return;
            }
            if Instant::now() > deadline {
                self.findings.add(&format!(
                    "{RECOVERY:?} later the replicas list {counts:?} documents at {key}, expected {count}"
                ));
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.changes.abort();
        self.traffic.stop();
    }
}

/// Types whose last response has neither an ACK nor a NACK.
fn unanswered(client: &Value) -> Vec<&String> {
    let types = client["types"].as_object().expect("an object of types");
    let open = types.iter().filter(|(_, exchange)| {
        let nonce = &exchange["sent"]["nonce"];
        !nonce.is_null() && *nonce != exchange["acknowledged"]["nonce"] && *nonce != exchange["refused"]["nonce"]
    });
    open.map(|(word, _)| word).collect()
}

/// How far a replica has come with documents and with registrations.
async fn revisions_of(replica: &Replica) -> Vec<i64> {
    let Ok((_, answer)) = replica.server.try_get("/api/v1/snapshot").await else {
        return vec![0];
    };
    let revisions = answer["groups"]["default"]["revisions"].as_object();
    let revisions = revisions.map(|revisions| revisions.values().filter_map(Value::as_i64).collect());
    revisions.unwrap_or_else(|| vec![0])
}

/// A bootstrap whose xDS cluster has one replica, with all of them.
fn listing(bootstrap: &str, fronts: &[SocketAddr]) -> String {
    let line_of = |front: &SocketAddr| {
        let port = front.port();
        format!("- endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}")
    };
    let one = line_of(&fronts[0]);
    let lines = bootstrap.lines().flat_map(|line| match line.trim() == one {
        true => {
            let indent = &line[..line.len() - line.trim_start().len()];
            fronts
                .iter()
                .map(|front| format!("{indent}{}", line_of(front)))
                .collect()
        }
        false => vec![line.to_owned()],
    });
    let lines: Vec<String> = lines.collect();
    let listed: BTreeSet<&String> = lines.iter().filter(|line| line.contains("- endpoint:")).collect();
    assert_eq!(listed.len(), fronts.len(), "the xDS cluster lists every replica");
    lines.join("\n")
}
