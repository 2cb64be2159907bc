//! The journal against a store: writers that die at any moment, compactions, restored backups, in memory and in etcd.
//!
//! A [`Model`] knows every revision. Whatever happens, each revision that altered a text has exactly one entry, or lies in
//! a gap that says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chancery::backend::etcd::{Etcd as Store, Options};
use chancery::backend::memory::Memory;
use chancery::backend::{Backend, Event, Expect, WatchControl, Write};
use chancery::document::secret::Vault;
use chancery::journal::book::Limits;
use chancery::journal::entry::{Entry, TextRef, Why};
use chancery::journal::intent::{Action, Intent, Via};
use chancery::journal::run::Stage;
use chancery::journal::{Journal, News, Seen, Shown, TextAt};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;

const ROOT: &str = "/gateway/";
const LIMIT: Duration = Duration::from_secs(30);

/// The journal of one replica, with a watch in the place of the loop.
struct Replica {
    journal: Journal,
    token: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Replica {
    fn start(backend: &Arc<dyn Backend>) -> Self {
        Self::with_limits(backend, Limits::default())
    }

    fn with_limits(backend: &Arc<dyn Backend>, limits: Limits) -> Self {
        let backend = Arc::clone(backend);
        let journal = Journal::new(
            Arc::clone(&backend),
            "/chancery/",
            vec![ROOT.into()],
            Vault::default(),
            limits,
        );
        let token = CancellationToken::new();
        let stage = tokio::spawn(Stage::new(journal.clone()).run(token.clone()));
        let (sender, mut events) = mpsc::channel(64);
        let stop = token.clone();
        let watch = tokio::spawn(async move { backend.watch(ROOT, WatchControl::default(), sender, stop).await });
        let observer = journal.clone();
        let observe = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let seen = match event {
                    Event::Listed {
                        revision,
                        reason,
                        entries,
                    } => Seen::Listed {
                        root: ROOT.into(),
                        revision,
                        reason,
                        entries,
                    },
                    Event::Changed { revision, changes } => Seen::Changed {
                        root: ROOT.into(),
                        revision,
                        changes,
                    },
                    _ => continue,
                };
                observer.observe(News {
                    seen: vec![seen],
                    ..News::default()
                });
            }
        });
        Self {
            journal,
            token,
            tasks: vec![stage, watch, observe],
        }
    }

    /// Wait for the begin of the journal.
    async fn begun(self) -> Self {
        eventually(LIMIT, || async { self.journal.shown().book.base().is_some() }, true).await;
        self
    }

    /// As kill -9: nothing is given back.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
            drop(task.await);
        }
    }

    async fn stop(self) {
        self.token.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// The journal, once its entries go up to a revision.
    async fn at(&self, revision: i64) -> Arc<Shown> {
        let reached = self.journal.reached(revision, LIMIT).await;
        assert!(reached, "no entry up to {revision}: {:?}", self.journal.trouble());
        self.journal.shown()
    }

    async fn value(&self, key: &str, text: Option<&TextRef>) -> Option<String> {
        let text = self.journal.text(key, text?).await.unwrap().expect("the text is kept");
        Some(String::from_utf8(text.to_vec()).unwrap())
    }
}

type Content = BTreeMap<String, String>;

/// Every revision of the documents.
#[derive(Default)]
struct Model {
    /// The content after each revision that altered it.
    revisions: BTreeMap<i64, Content>,
    now: Content,
}

impl Model {
    fn at(&self, revision: i64) -> Content {
        let newest = self.revisions.range(..=revision).next_back();
        newest.map(|(_, content)| content.clone()).unwrap_or_default()
    }

    fn newest(&self) -> i64 {
        self.revisions.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// Write one to three documents in one transaction.
    async fn write(&mut self, backend: &Arc<dyn Backend>, random: &mut StdRng) {
        let mut next = self.now.clone();
        for _ in 0..random.random_range(1..=3) {
            let key = format!("{ROOT}routes/{}", random.random_range(0..8));
            match random.random_range(0..4) {
                0 => next.remove(&key),
                _ => next.insert(key, format!("text {}", random.random_range(0..4))),
            };
        }
        let keys: std::collections::BTreeSet<_> = next.keys().chain(self.now.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| next.get(key) != self.now.get(key));
        let writes: Vec<Write> = changed
            .map(|key| Write {
                value: next.get(&key).map(|value| value.clone().into()),
                key: key.into(),
                expect: Expect::Any,
            })
            .collect();
        if !writes.is_empty() {
            let revision = backend.write(writes).await.unwrap();
            self.revisions.insert(revision, next.clone());
            self.now = next;
        }
    }

    /// Each revision after the begin has its entry or lies in a gap, and every text is right.
    async fn check(&self, replica: &Replica) -> usize {
        let shown = replica.at(self.newest()).await;
        let base = shown.book.base().expect("a journal").revision;
        let mut covered = base;
        let mut gaps = 0;
        for entry in shown.book.entries() {
            let (from, revision) = (entry.gap.map_or(covered, |gap| gap.from), entry.revision);
            let before_entry = match entry.gap {
                None => {
                    let missed: Vec<_> = self.revisions.range(covered + 1..revision).map(|(at, _)| *at).collect();
                    assert!(missed.is_empty(), "{missed:?} have no entry");
                    self.at(revision - 1)
                }
                Some(_) => {
                    gaps += 1;
                    assert!(from <= covered, "from {from}, but {covered} is covered");
                    self.at(from)
                }
            };
            let (mut expected, after) = (Vec::new(), self.at(revision));
            let keys: std::collections::BTreeSet<_> = before_entry.keys().chain(after.keys()).cloned().collect();
            for key in keys {
                if before_entry.get(&key) != after.get(&key) {
                    expected.push((key.clone(), before_entry.get(&key).cloned(), after.get(&key).cloned()));
                }
            }
            let mut found = Vec::new();
            for changed in &entry.documents {
                let before = replica.value(&changed.key, changed.before.as_ref()).await;
                let after = replica.value(&changed.key, changed.after.as_ref()).await;
                found.push((changed.key.to_string(), before, after));
            }
            assert_eq!(found, expected, "at {revision}, {:?}", entry.gap);
            covered = revision;
        }
        let rest: Vec<_> = self.revisions.range(covered + 1..).collect();
        assert!(rest.is_empty(), "{rest:?} have no entry");
        self.check_texts(replica, &shown).await;
        gaps
    }

    /// The texts at every revision that the journal holds and knows one by one.
    async fn check_texts(&self, replica: &Replica, shown: &Shown) {
        for entry in shown.book.entries() {
            let mut content = Content::new();
            for (key, text) in shown.texts_at(entry.revision).unwrap() {
                let value = match text {
                    TextAt::Present(text) => String::from_utf8(text.value.unwrap().to_vec()).ok(),
                    TextAt::Kept(text) => replica.value(&key, Some(&text)).await,
                };
                content.insert(key.to_string(), value.unwrap());
            }
            assert_eq!(content, self.at(entry.revision), "texts at {}", entry.revision);
        }
    }
}

fn in_memory() -> (Memory, Arc<dyn Backend>) {
    let memory = Memory::new();
    let backend = Arc::new(memory.clone());
    (memory, backend)
}

fn entries(shown: &Shown) -> Vec<Arc<Entry>> {
    shown.book.entries().cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn every_change_has_one_entry_whichever_writer_dies_when() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let (memory, backend) = in_memory();
        let mut model = Model::default();
        let mut replicas = vec![Replica::start(&backend).begun().await];
        for _ in 0..60 {
            match random.random_range(0..10) {
                0 if !replicas.is_empty() => {
                    let place = random.random_range(0..replicas.len());
                    let dead = replicas.remove(place);
                    let was_writer = dead.journal.is_writer();
                    dead.kill().await;
                    if was_writer {
                        memory.leases().into_iter().for_each(|lease| memory.end(lease));
                    }
                }
                1 if replicas.len() < 3 => replicas.push(Replica::start(&backend)),
                2 if replicas.is_empty() && random.random() => memory.compact(memory_revision(&backend).await),
                3 => tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await,
                _ => model.write(&backend, &mut random).await,
            }
        }
        for replica in replicas {
            replica.stop().await;
        }
        memory.leases().into_iter().for_each(|lease| memory.end(lease));
        let last = Replica::start(&backend);
        model.check(&last).await;
        last.stop().await;
    }
}

async fn memory_revision(backend: &Arc<dyn Backend>) -> i64 {
    backend.list(ROOT).await.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn what_was_compacted_away_while_no_replica_ran_is_a_gap() {
    let (memory, backend) = in_memory();
    memory.put("/gateway/routes/old", "1");
    memory.put("/gateway/routes/gone", "1");
    let replica = Replica::start(&backend).begun().await;
    let first = memory.put("/gateway/routes/a", "1");
    replica.at(first).await;
    replica.stop().await;

    memory.put("/gateway/routes/a", "2");
    memory.put("/gateway/routes/old", "2");
    memory.delete("/gateway/routes/gone");
    let last = memory.put("/gateway/routes/a", "3");
    memory.compact(last);
    let replica = Replica::start(&backend);
    let shown = replica.at(last).await;
    let [_, gap] = entries(&shown).try_into().unwrap();
    let is_gap = gap.gap.unwrap();
    assert_eq!((is_gap.from, is_gap.to, is_gap.why), (first, last, Why::Compacted));
    let mut found = Vec::new();
    for changed in &gap.documents {
        let before = replica.value(&changed.key, changed.before.as_ref()).await.unwrap();
        found.push(format!("{} {:?} {before}", changed.key, changed.action()));
    }
    assert_eq!(
        found,
        [
            "/gateway/routes/a Changed 1",
            "/gateway/routes/gone Removed 1",
            "/gateway/routes/old Changed 1"
        ]
    );
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_backup_is_a_gap_and_later_entries_go() {
    let (memory, backend) = in_memory();
    let replica = Replica::start(&backend).begun().await;
    let first = memory.put("/gateway/routes/a", "1");
    replica.at(first).await;
    let backup = memory_revision(&backend).await;
    let second = memory.put("/gateway/routes/a", "2");
    replica.at(second).await;
    let third = memory.put("/gateway/routes/b", "1");
    replica.at(third).await;

    memory.restore(backup);
    let is_gap = || async { replica.journal.shown().book.entries().any(|entry| entry.gap.is_some()) };
    eventually(LIMIT, is_gap, true).await;
    let shown = replica.journal.shown();
    let gap = entries(&shown).pop().unwrap();
    let is_gap = gap.gap.unwrap();
    assert_eq!((is_gap.from, is_gap.to, is_gap.why), (third, backup, Why::Restored));
    let keys: Vec<_> = gap
        .documents
        .iter()
        .map(|changed| (&*changed.key, changed.action()))
        .collect();
    assert_eq!(
        keys,
        [
            ("/gateway/routes/a", Action::Changed),
            ("/gateway/routes/b", Action::Removed)
        ]
    );
    let fourth = memory.put("/gateway/routes/c", "1");
    let shown = replica.at(fourth).await;
    let revisions: Vec<_> = entries(&shown).iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [first, backup, fourth]);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_author_of_a_write_comes_with_it() {
    let (memory, backend) = in_memory();
    let replica = Replica::start(&backend).begun().await;
    let begun = memory.put("/gateway/routes/z", "1");
    replica.at(begun).await;
    let intent = Intent {
        format: 1,
        actor: Some("alice".to_owned()),
        message: Some("orders to v2".to_owned()),
        via: Via::Api,
        of: None,
        undoes: None,
        confirm_within: None,
        documents: BTreeMap::new(),
        part: None,
    };
    let intent = serde_json::to_string(&intent).unwrap();
    let written = memory.transact([
        ("/gateway/routes/a", Some("1".to_owned())),
        ("/chancery/writes/4711", Some(intent)),
    ]);
    let direct = memory.put("/gateway/routes/a", "2");
    let shown = replica.at(direct).await;
    let [_, by_api, by_hand] = entries(&shown).try_into().unwrap();
    assert_eq!(
        (by_api.revision, by_api.via, by_hand.via),
        (written, Via::Api, Via::Direct)
    );
    assert_eq!(by_api.actor.as_deref(), Some("alice"));
    assert_eq!(by_api.message.as_deref(), Some("orders to v2"));
    assert_eq!(replica.journal.of_request("4711"), Some(by_api));
    assert_eq!(backend.list("/chancery/writes/").await.unwrap().1, []);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_entries_go_with_their_texts() {
    let (memory, backend) = in_memory();
    let limits = Limits {
        revisions: 10,
        ..Limits::default()
    };
    let replica = Replica::with_limits(&backend, limits);
    let mut model = Model::default();
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..60 {
        model.write(&backend, &mut random).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let shown = replica.at(model.newest()).await;
    assert!(shown.book.len() <= 22, "{}", shown.book.len());
    model.check(&replica).await;
    replica.stop().await;
    memory.leases().into_iter().for_each(|lease| memory.end(lease));
    let next = Replica::start(&backend);
    model.check(&next).await;
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_lies_under_a_name_that_says_nothing_of_it() {
    let (memory, backend) = in_memory();
    let replica = Replica::start(&backend).begun().await;
    memory.put("/gateway/secrets/a", r#"{"generic": "hunter2"}"#);
    memory.put("/gateway/secrets/b", r#"{"generic": "hunter2"}"#);
    let last = memory.put("/gateway/secrets/c", r#"{"generic": "hunter2"}"#);
    let shown = replica.at(last).await;
    let names: std::collections::BTreeSet<_> = entries(&shown)
        .iter()
        .flat_map(|entry| entry.documents.clone())
        .map(|changed| changed.after.unwrap().name.unwrap())
        .collect();
    let at_base = shown.book.at_base().len();
    assert_eq!(names.len() + at_base, 3);
    replica.stop().await;
}

fn on_etcd(etcd: &Etcd) -> Arc<dyn Backend> {
    Arc::new(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        ..Options::default()
    }))
}

#[tokio::test]
async fn writers_on_etcd_die_and_the_store_is_compacted() {
    let etcd = Etcd::start().await;
    let backend = on_etcd(&etcd);
    let mut random = StdRng::seed_from_u64(1);
    let mut model = Model::default();
    let mut replica = Replica::start(&backend).begun().await;
    for round in 0..6 {
        for _ in 0..6 {
            model.write(&backend, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..120))).await;
        }
        replica.kill().await;
        end_leases(&etcd).await;
        model.write(&backend, &mut random).await;
        model.write(&backend, &mut random).await;
        if round % 3 == 2 {
            etcd.compact(model.newest()).await;
        }
        replica = Replica::start(&backend);
    }
    model.check(&replica).await;
    replica.stop().await;
}

/// As time does after the death of their holder.
async fn end_leases(etcd: &Etcd) {
    let mut client = etcd.client().await;
    for lease in client.leases().await.unwrap().leases() {
        client.lease_revoke(lease.id()).await.unwrap();
    }
}

#[tokio::test]
async fn a_paused_writer_that_wakes_writes_nothing() {
    let etcd = Etcd::start().await;
    let mut paused = Server::on_etcd(&etcd).await;
    paused.ready().await;
    let (status, _) = paused
        .put("/api/v1/documents/routes/a", r#"{"match": "/a", "to": "x"}"#)
        .await;
    assert_eq!(status, 201);
    let has_entry = || async {
        let revisions = paused.get("/api/v1/revisions").await;
        revisions["revisions"].as_array().map(Vec::len)
    };
    eventually(LIMIT, has_entry, Some(1)).await;

    paused.freeze();
    end_leases(&etcd).await;
    let other = Server::on_etcd(&etcd).await;
    other.ready().await;
    for number in 0..3 {
        let document = json!({ "match": format!("/b{number}"), "to": "x" }).to_string();
        let (status, _) = other
            .put(&format!("/api/v1/documents/routes/b{number}"), &document)
            .await;
        assert_eq!(status, 201);
    }
    let count = || async {
        let revisions = other.get("/api/v1/revisions").await;
        revisions["revisions"].as_array().map(Vec::len)
    };
    eventually(LIMIT, count, Some(4)).await;
    let writer = etcd.etcdctl(&["get", "/chancery/journal/writer", "-w", "json"]);
    let journal = etcd.etcdctl(&["get", "--prefix", "/chancery/journal/index/"]);

    paused.thaw();
    let shown = || async {
        let revisions = paused.get("/api/v1/revisions").await;
        revisions["revisions"].as_array().map(Vec::len)
    };
    eventually(LIMIT, shown, Some(4)).await;
    assert_eq!(etcd.etcdctl(&["get", "--prefix", "/chancery/journal/index/"]), journal);
    let mod_revision = |text: &str| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(text).unwrap()["kvs"][0]["mod_revision"].clone()
    };
    let now = etcd.etcdctl(&["get", "/chancery/journal/writer", "-w", "json"]);
    assert_eq!(mod_revision(&now), mod_revision(&writer));
    paused.kill();
}

#[tokio::test]
async fn a_server_that_is_killed_loses_no_change() {
    let etcd = Etcd::start().await;
    let mut server = Server::on_etcd(&etcd).await;
    server.ready().await;
    for round in 0..3 {
        for number in 0..3 {
            let document = json!({ "match": format!("/r{number}/{round}"), "to": "x" }).to_string();
            let (status, answer) = server
                .put(&format!("/api/v1/documents/routes/r{number}"), &document)
                .await;
            assert!(status < 300, "{answer}");
        }
        server.kill();
        end_leases(&etcd).await;
        server.restart().await;
        server.ready().await;
    }
    let texts = || async {
        let revisions = server.get("/api/v1/revisions?key=/gateway/routes/r2").await;
        let revisions = revisions["revisions"].as_array().cloned().unwrap_or_default();
        let mut actions: Vec<_> = revisions
            .iter()
            .map(|entry| entry["documents"][0]["action"].clone())
            .collect();
        actions.reverse();
        actions
    };
    eventually(LIMIT, texts, vec![json!("added"), json!("changed"), json!("changed")]).await;
    let revisions = server.get("/api/v1/revisions?limit=1").await;
    let newest = revisions["revisions"][0]["revision"].as_i64().unwrap();
    let one = server.get(&format!("/api/v1/revisions/{newest}")).await;
    let document = &one["documents"][0];
    assert_eq!(document["key"], "/gateway/routes/r2");
    assert!(document["before"].as_str().unwrap().contains("/r2/1"));
    assert!(document["after"].as_str().unwrap().contains("/r2/2"));
    assert_eq!(one["gap"], serde_json::Value::Null);
    let (status, problem) = server
        .try_get(&format!("/api/v1/revisions/{}", newest + 1000))
        .await
        .unwrap();
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_revision")));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_stops_nothing_and_loses_nothing() {
    let (memory, backend) = in_memory();
    let replica = Replica::start(&backend).begun().await;
    memory.set_away(Some("gone fishing"));
    let first = memory.put("/gateway/routes/a", "1");
    let second = memory.put("/gateway/routes/a", "2");
    let is_troubled = || async { replica.journal.trouble().is_some() };
    eventually(LIMIT, is_troubled, true).await;
    memory.set_away(None);
    let shown = replica.at(second).await;
    let revisions: Vec<_> = entries(&shown).iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [first, second]);
    eventually(LIMIT, is_troubled, false).await;
    replica.stop().await;
}

/// A server on a store of its own, spoken to as JSON.
struct Api {
    server: Server,
    client: reqwest::Client,
}

impl Api {
    async fn of_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("gateway")).unwrap();
        let server = Server::start_in(folder, &["--dir", "./gateway"]).await;
        server.ready().await;
        let client = reqwest::Client::new();
        Self { server, client }
    }

    async fn of_etcd(etcd: &Etcd) -> Self {
        let server = Server::on_etcd(etcd).await;
        server.ready().await;
        let client = reqwest::Client::new();
        Self { server, client }
    }

    async fn post(&self, path: &str, body: serde_json::Value) -> (u16, serde_json::Value) {
        let url = format!("http://{}{path}", self.server.admin());
        let request = self.client.post(url).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Apply documents; returns the revision.
    async fn apply(&self, documents: serde_json::Value) -> i64 {
        let (status, answer) = self.post("/api/v1/apply", json!({ "documents": documents })).await;
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_i64().unwrap()
    }

    async fn undo(&self, revision: i64, body: serde_json::Value) -> (u16, serde_json::Value) {
        self.post(&format!("/api/v1/revisions/{revision}/undo"), body).await
    }

    async fn get(&self, path: &str) -> serde_json::Value {
        self.server.get(path).await
    }

    /// The version of the routes, once the snapshot has a revision.
    async fn routes_version(&self, revision: i64) -> serde_json::Value {
        let group = || async { self.get("/api/v1/snapshot").await["groups"]["default"].clone() };
        let has_revision = || async { group().await["revision"].as_i64() >= Some(revision) };
        eventually(LIMIT, has_revision, true).await;
        group().await["types"]["routes"]["version"].clone()
    }

    async fn value(&self, key: &str) -> Option<serde_json::Value> {
        let (status, answer) = self.server.try_get(&format!("/api/v1/documents/{key}")).await.unwrap();
        (status == 200).then(|| answer["value"].clone())
    }
}

fn route(number: usize, path: &str) -> serde_json::Value {
    json!({ "kind": "routes", "name": format!("r{number}"), "value": { "match": format!("/{path}/{number}"), "to": "x" } })
}

/// The same over a directory and over etcd.
async fn a_change_is_undone(api: &Api) -> i64 {
    let first = api.apply(json!([route(0, "a"), route(1, "a")])).await;
    let second = api.apply(json!([route(0, "b"), route(2, "b")])).await;
    let versions = api.routes_version(second).await;

    let (status, undone) = api.undo(second, json!({ "message": "b was wrong" })).await;
    assert_eq!(status, 200, "{undone}");
    assert_eq!(api.value("routes/r0").await.unwrap()["match"], "/a/0");
    assert_eq!(api.value("routes/r2").await, None);
    let third = undone["revision"].as_i64().unwrap();
    let entry = api.get(&format!("/api/v1/revisions/{third}")).await;
    assert_eq!(
        (&entry["undoes"], &entry["message"]),
        (&json!(second), &json!("b was wrong"))
    );
    let entry = api.get(&format!("/api/v1/revisions/{second}")).await;
    assert_eq!(entry["undone_by"], json!([third]));
    assert_eq!(entry["via"], "api");
    let effect = json!({
        "types": { "routes": { "added": 0, "changed": 1, "removed": 0 } }, "groups": ["default"], "drains": [],
    });
    assert_eq!(entry["effect"], effect, "{entry}");
    let rollout = json!({ "state": "live", "proxies": { "total": 0, "live": 0 }, "live_after_ms": null });
    assert_eq!(entry["rollout"], rollout, "{entry}");
    let document = api.get("/api/v1/documents/routes/r0").await;
    assert_eq!(document["message"], "b was wrong");

    // The undo of the undo, and the resources of then.
    let (status, redone) = api.undo(third, json!({})).await;
    assert_eq!(status, 200, "{redone}");
    let again = api.routes_version(redone["revision"].as_i64().unwrap()).await;
    assert_eq!(again, versions);
    let earlier = api.get(&format!("/api/v1/snapshot?revision={second}")).await;
    assert_eq!(earlier["groups"]["default"]["types"]["routes"]["version"], versions);
    let earlier = api.get(&format!("/api/v1/documents/routes/r0?revision={first}")).await;
    assert_eq!(earlier["value"]["match"], "/a/0");
    for (path, taken_at) in [("a", first), ("b", second)] {
        for revision in [first, second] {
            let body = json!({ "request": format!("http://x/{path}/0"), "revision": revision });
            let (status, explained) = api.post("/api/v1/explain", body).await;
            assert_eq!((status, &explained["revision"]), (200, &json!(revision)), "{explained}");
            let is_taken = explained["route"]["name"] == "r0";
            assert_eq!(is_taken, revision == taken_at, "{explained}");
        }
    }

    // A later change is in the way.
    let (status, problem) = api.undo(second, json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("changed_since")), "{problem}");
    let later = redone["revision"].as_i64().unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains(&later.to_string()),
        "{problem}"
    );
    let (status, _) = api.undo(second, json!({ "only": ["routes/r1"] })).await;
    assert_eq!(status, 404);

    let diff = api.get(&format!("/api/v1/diff?from={first}&to={second}")).await;
    let changed: Vec<_> = diff["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|document| &document["action"])
        .collect();
    assert_eq!(changed, ["changed", "added"]);
    let text = diff["documents"][0]["diff"].as_str().unwrap();
    assert!(
        text.contains("-  \"match\": \"/a/0\"") && text.contains("+  \"match\": \"/b/0\""),
        "{text}"
    );
    let diff = api
        .get(&format!("/api/v1/diff?from={first}&to={second}&view=xds"))
        .await;
    assert!(
        !diff["types"]["routes"]["changed"].as_array().unwrap().is_empty(),
        "{diff}"
    );

    let (status, restored) = api.post(&format!("/api/v1/revisions/{first}/restore"), json!({})).await;
    assert_eq!(status, 200, "{restored}");
    assert_eq!(api.value("routes/r0").await.unwrap()["match"], "/a/0");
    assert_eq!(api.value("routes/r2").await, None);
    assert_eq!(api.value("routes/r1").await.unwrap()["match"], "/a/1");
    restored["revision"].as_i64().unwrap()
}

/// The same over a directory and over etcd.
async fn an_unconfirmed_change_is_undone(api: &Api) {
    let confirming = async |documents: serde_json::Value| {
        let body = json!({ "documents": documents, "confirm_within": "1s" });
        let (status, answer) = api.post("/api/v1/apply", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_i64().unwrap()
    };
    let confirm = async |revision: i64| {
        let path = format!("/api/v1/revisions/{revision}/confirm");
        let (status, answer) = api.post(&path, json!({})).await;
        (status, answer["code"].clone())
    };
    let attention = || async {
        let status = api.get("/api/v1/status").await;
        let items = status["attention"].as_array().cloned().unwrap_or_default();
        let of_confirm = items.into_iter().filter(|item| item["kind"] == "confirm");
        let reason = of_confirm.map(|item| item["reason"].as_str().unwrap().to_owned());
        reason.collect::<Vec<_>>()
    };
    api.apply(json!([route(0, "a")])).await;
    let kept = confirming(json!([route(0, "b")])).await;
    assert_eq!(confirm(kept).await.0, 200);
    assert_eq!(confirm(kept).await, (404, json!("not_found")));

    let lost = confirming(json!([route(0, "c"), route(1, "c")])).await;
    eventually(LIMIT, || async { attention().await.len() }, 1).await;
    eventually(LIMIT, || async { api.value("routes/r1").await }, None).await;
    assert_eq!(api.value("routes/r0").await.unwrap()["match"], "/b/0");
    let undo = || async { api.get(&format!("/api/v1/revisions/{lost}")).await["undone_by"][0].as_i64() };
    eventually(LIMIT, || async { undo().await.is_some() }, true).await;
    let undo = undo().await.unwrap();
    let undo = api.get(&format!("/api/v1/revisions/{undo}")).await;
    assert_eq!(
        (&undo["via"], &undo["undoes"]),
        (&json!("timer"), &json!(lost)),
        "{undo}"
    );
    assert_eq!(confirm(lost).await, (409, json!("changed_since")));

    let altered = confirming(json!([route(0, "d")])).await;
    api.apply(json!([route(0, "e")])).await;
    let is_told = || async { attention().await.iter().any(|reason| reason.contains("is not undone")) };
    eventually(LIMIT, is_told, true).await;
    assert_eq!(api.value("routes/r0").await.unwrap()["match"], "/e/0");
    assert_eq!(confirm(altered).await.0, 200);
    eventually(LIMIT, || async { attention().await.len() }, 0).await;

    let registration = json!([{ "kind": "services", "name": "x/a", "value": "10.0.0.1:80" }]);
    let body = json!({ "documents": registration, "confirm_within": "1s" });
    let (status, problem) = api.post("/api/v1/apply", body).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("invalid_request")),
        "{problem}"
    );
}

#[tokio::test]
async fn an_unconfirmed_change_in_a_directory_is_undone() {
    an_unconfirmed_change_is_undone(&Api::of_folder().await).await;
}

#[tokio::test]
async fn an_unconfirmed_change_is_undone_though_its_server_was_killed() {
    let etcd = Etcd::start().await;
    let mut api = Api::of_etcd(&etcd).await;
    an_unconfirmed_change_is_undone(&api).await;

    let document = json!([route(5, "killed")]);
    let (status, answer) = api
        .post(
            "/api/v1/apply",
            json!({ "documents": document, "confirm_within": "2s" }),
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    api.server.kill();
    end_leases(&etcd).await;
    api.server.restart().await;
    api.server.ready().await;
    eventually(LIMIT, || async { api.value("routes/r5").await }, None).await;
    let newest = || async {
        let newest = api.get("/api/v1/revisions?limit=1").await["revisions"][0].clone();
        (newest["via"].clone(), newest["undoes"].clone())
    };
    eventually(LIMIT, newest, (json!("timer"), answer["revision"].clone())).await;
}

#[tokio::test]
async fn a_change_in_a_directory_is_undone() {
    let mut api = Api::of_folder().await;
    let before = a_change_is_undone(&api).await;
    let has_entry = || async { api.get("/api/v1/revisions?limit=1").await["revisions"][0]["revision"].as_i64() };
    eventually(LIMIT, has_entry, Some(before)).await;

    // What is edited while no server runs is one change, with the text before.
    api.server.kill();
    let file = api.server.folder().join("gateway/routes/r1.json");
    std::fs::write(file, r#"{"match": "/edited", "to": "x"}"#).unwrap();
    api.server.restart().await;
    api.server.ready().await;
    let effect = || async { api.get(&format!("/api/v1/revisions/{before}")).await["effect"]["groups"].clone() };
    eventually(LIMIT, effect, json!(["default"])).await;
    let newest = || async {
        let newest = api.get("/api/v1/revisions?limit=1").await["revisions"][0].clone();
        (
            newest["revision"].as_i64() > Some(before),
            newest["via"].clone(),
            newest["gap"].clone(),
        )
    };
    eventually(LIMIT, newest, (true, json!("direct"), serde_json::Value::Null)).await;
    let newest = api.get("/api/v1/revisions?limit=1").await["revisions"][0]["revision"].clone();
    let entry = api.get(&format!("/api/v1/revisions/{newest}")).await;
    assert_eq!(entry["documents"].as_array().unwrap().len(), 1, "{entry}");
    assert!(
        entry["documents"][0]["before"].as_str().unwrap().contains("/a/1"),
        "{entry}"
    );
    assert!(
        entry["documents"][0]["after"].as_str().unwrap().contains("/edited"),
        "{entry}"
    );
}

#[tokio::test]
async fn a_stop_right_after_a_write_to_a_directory_loses_no_author() {
    let mut api = Api::of_folder().await;
    api.apply(json!([route(0, "a")])).await;
    let body = json!({ "documents": [route(0, "b")], "message": "the last one" });
    let (status, _) = api.post("/api/v1/apply", body).await;
    assert_eq!(status, 200);
    api.server.terminate();
    api.server.ended(LIMIT).await;
    api.server.restart().await;
    api.server.ready().await;
    let messages = || async {
        let revisions = api.get("/api/v1/revisions").await["revisions"].as_array().cloned();
        let revisions = revisions.unwrap_or_default();
        let of = |entry: &serde_json::Value| (entry["via"].clone(), entry["message"].clone(), entry["gap"].clone());
        revisions.iter().map(of).collect::<Vec<_>>()
    };
    let by_api = |message: serde_json::Value| (json!("api"), message, serde_json::Value::Null);
    let expected = vec![by_api(json!("the last one")), by_api(serde_json::Value::Null)];
    eventually(LIMIT, messages, expected).await;
}

#[tokio::test]
async fn a_change_in_etcd_is_undone() {
    let etcd = Etcd::start().await;
    let api = Api::of_etcd(&etcd).await;
    a_change_is_undone(&api).await;

    // A registration gets a lease by its ttl, and keeps the lease without one.
    let lease = || {
        let text = etcd.etcdctl(&["get", "/services/x/t", "-w", "json"]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["kvs"][0]["lease"].as_i64()
    };
    let register = async |ttl: serde_json::Value| {
        let document = json!({ "kind": "services", "name": "x/t", "value": "10.0.0.9:80", "ttl": ttl });
        let (status, answer) = api.post("/api/v1/apply", json!({ "documents": [document] })).await;
        assert_eq!(status, 200, "{answer}");
        answer["documents"][0].clone()
    };
    let warnings = register(json!(null)).await["warnings"].to_string();
    assert!(warnings.contains("no_lease") && lease().is_none(), "{warnings}");
    let leased = register(json!("60s")).await;
    let warnings = leased["warnings"].to_string();
    assert!(
        leased["action"] == "changed" && !warnings.contains("no_lease"),
        "{leased}"
    );
    let first = lease().expect("a lease");
    assert_eq!(register(json!(null)).await["action"], "unchanged");
    assert_eq!(lease(), Some(first));
    register(json!("60s")).await;
    assert!(lease().is_some_and(|second| second != first));
    let of_a_route = json!([{ "kind": "routes", "name": "t", "value": { "match": "/t", "to": "x" }, "ttl": "60s" }]);
    let (status, problem) = api.post("/api/v1/apply", json!({ "documents": of_a_route })).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("invalid_request")),
        "{problem}"
    );
}

#[tokio::test]
async fn changes_of_many_documents_are_undone() {
    let etcd = Etcd::start().await;
    let api = Api::of_etcd(&etcd).await;
    // Others stay: no guard takes the undo for an accident.
    let others: Vec<_> = (0..1100).map(|number| route(10_000 + number, "others")).collect();
    let (status, _) = api
        .post("/api/v1/apply", json!({ "documents": others, "in_parts": true }))
        .await;
    assert_eq!(status, 200);
    for (count, parts) in [(127, 1), (128, 2), (1000, 8)] {
        let documents: Vec<_> = (0..count).map(|number| route(1000 * count + number, "many")).collect();
        let body = json!({ "documents": documents, "in_parts": parts > 1 });
        let (status, written) = api.post("/api/v1/apply", body).await;
        assert_eq!(status, 200, "{written}");
        let revisions: Vec<i64> = serde_json::from_value(written["revisions"].clone()).unwrap();
        assert_eq!(revisions.len(), parts);
        let (first, last) = (revisions[0], revisions[parts - 1]);
        if parts > 1 {
            let (status, problem) = api.undo(first, json!({ "through": last })).await;
            assert_eq!((status, &problem["code"]), (413, &json!("too_large")), "{problem}");
        }
        let (status, undone) = api.undo(first, json!({ "through": last, "in_parts": true })).await;
        assert_eq!(status, 200, "{undone}");
        let routes = api.get("/api/v1/documents?kind=routes&limit=2000").await;
        assert_eq!(routes["documents"].as_array().unwrap().len(), 1100);
    }
}

#[tokio::test]
async fn a_sealed_secret_comes_back_only_with_its_key() {
    let etcd = Etcd::start().await;
    let with_key = async |key: &str| {
        let folder = tempfile::tempdir().unwrap();
        let keys = [("CHANCERY_SECRET_KEYS", key.to_owned())];
        let server = Server::start_with_environment(folder, &["--etcd", &etcd.endpoint()], &keys).await;
        server.ready().await;
        let client = reqwest::Client::new();
        Api { server, client }
    };
    let api = with_key("old AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").await;
    let secret = |value: &str| json!([{ "kind": "secrets", "name": "s", "value": { "generic": value } }]);
    api.apply(secret("hunter1")).await;
    let stored = etcd.etcdctl(&["get", "/gateway/secrets/s", "--print-value-only"]);
    let second = api.apply(secret("hunter2")).await;
    let (status, undone) = api.undo(second, json!({})).await;
    assert_eq!(status, 200, "{undone}");
    assert_eq!(
        etcd.etcdctl(&["get", "/gateway/secrets/s", "--print-value-only"]),
        stored
    );
    let third = undone["revision"].as_i64().unwrap();
    // The entry is there, for the next server.
    api.get(&format!("/api/v1/revisions/{third}")).await;
    let journal = etcd.etcdctl(&["get", "--prefix", "/chancery/journal/"]);
    assert!(!journal.contains("hunter"), "{journal}");

    let other = with_key("new AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=").await;
    let (status, problem) = other.undo(third, json!({})).await;
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("invalid_document")),
        "{problem}"
    );
}

#[tokio::test]
async fn a_frozen_document_is_not_written() {
    let api = Api::of_folder().await;
    let first = api.apply(json!([route(0, "a"), route(1, "a")])).await;
    let body = json!({ "key": "/gateway/routes/r0*", "for": "30m", "why": "sale" });
    let (status, freeze) = api.post("/api/v1/freezes", body).await;
    assert_eq!(status, 201, "{freeze}");
    let refused = [
        api.server
            .put("/api/v1/documents/routes/r0", r#"{"match": "/b", "to": "x"}"#)
            .await,
        api.undo(first, json!({})).await,
        api.post("/api/v1/apply", json!({ "documents": [route(1, "b"), route(0, "b")] }))
            .await,
    ];
    for (status, problem) in refused {
        assert_eq!((status, &problem["code"]), (423, &json!("frozen")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(": sale;"), "{problem}");
    }
    api.apply(json!([route(1, "b")])).await;
    let forced = api
        .post("/api/v1/apply?force=true", json!({ "documents": [route(0, "c")] }))
        .await;
    assert_eq!(forced.0, 200);

    assert_eq!(api.get("/api/v1/freezes").await["freezes"], json!([freeze]));
    let url = format!(
        "http://{}/api/v1/freezes/{}",
        api.server.admin(),
        freeze["id"].as_str().unwrap()
    );
    for expected in [204, 404] {
        assert_eq!(
            api.client.delete(&url).send().await.unwrap().status().as_u16(),
            expected
        );
    }
    api.apply(json!([route(0, "d")])).await;
    let (status, problem) = api
        .post("/api/v1/freezes", json!({ "key": "/x", "for": "1m", "why": "x" }))
        .await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn a_secret_is_restored_and_never_shown() {
    let etcd = Etcd::start().await;
    let api = Api::of_etcd(&etcd).await;
    let secret = |value: &str| json!([{ "kind": "secrets", "name": "s", "value": { "generic": value } }]);
    let first = api.apply(secret("hunter1")).await;
    let second = api.apply(secret("hunter2")).await;
    let entry = api.get(&format!("/api/v1/revisions/{second}")).await;
    assert_eq!(entry["documents"][0]["secret"], true);
    assert!(!entry.to_string().contains("hunter"), "{entry}");
    let diff = api.get(&format!("/api/v1/diff?from={first}&to={second}")).await;
    assert_eq!(diff["documents"][0]["diff"], serde_json::Value::Null);

    let (status, restored) = api.post(&format!("/api/v1/revisions/{first}/restore"), json!({})).await;
    assert_eq!(
        (status, &restored["revision"]),
        (200, &serde_json::Value::Null),
        "{restored}"
    );
    let body = json!({ "secrets": true });
    let (status, restored) = api.post(&format!("/api/v1/revisions/{first}/restore"), body).await;
    assert_eq!(status, 200, "{restored}");
    assert!(etcd.etcdctl(&["get", "/gateway/secrets/s"]).contains("hunter1"));
}
