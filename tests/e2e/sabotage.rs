//! Changes that break something, one after the other: `chancery status -o json` of either replica names the document, the
//! proxies and the reason, and `chancery undo` brings equal versions back.
//!
//! Two replicas, three real Envoys, and scripted proxies. Between two sabotages good changes go out.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::ads_client::{
    ADS_DELTA, DeltaStream, Event, connect, contents, delta, delta_ack, node, refusal, types,
};
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::world::{LIMIT, listener, shared};

const SCRIPTED: usize = 50;
const ROUTES: usize = 30;
/// Instances of a cluster: enough for a loss of all but one to be held.
const INSTANCES: usize = 14;
/// Good changes between two sabotages.
const GOOD: usize = 9;
/// The store counts as away after 30 s, a replica as vanished after its lease of 10 s.
const SLOW: Duration = Duration::from_secs(60);
/// Longer than the test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What a scripted proxy does with responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Ack,
    Silent,
    /// Refuse responses with a resource: its type and name.
    Refuse(&'static str, &'static str),
}

/// A proxy that subscribes to clusters, listeners, their endpoints and the routes of the listener `edge`.
struct Scripted {
    mood: watch::Sender<Mood>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    fn start(xds: SocketAddr, index: usize) -> Self {
        let (mood, moods) = watch::channel(Mood::Ack);
        let task = tokio::spawn(run(xds, format!("scripted-{index}"), moods));
        Self { mood, task }
    }
}

async fn run(xds: SocketAddr, id: String, mut moods: watch::Receiver<Mood>) {
    let channel = connect(xds).await;
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.expect("a stream");
    let first: [(&str, &[&str]); 3] = [(types::CLUSTER, &[]), (types::LISTENER, &[]), (types::ROUTE, &["edge"])];
    for (type_url, names) in first {
        let mut request = delta(type_url, names, &[]);
        request.node = node(&id);
        stream.send(request);
    }
    let mut unanswered = Vec::new();
    loop {
        tokio::select! {
            event = stream.event(FOR_EVER) => match event {
                Event::Response(response) => unanswered.push(response),
                // A replica that is killed has its proxies elsewhere.
                _ => return,
            },
            _ = moods.changed() => {}
        }
        let mood = *moods.borrow();
        if mood != Mood::Silent {
            unanswered
                .drain(..)
                .for_each(|response| answer(&stream, &id, &response, mood));
        }
    }
}

fn answer(stream: &DeltaStream, id: &str, response: &DeltaDiscoveryResponse, mood: Mood) {
    let mut request = delta_ack(response);
    request.node = node(id);
    let (names, _) = contents(response);
    let is_refused =
        matches!(mood, Mood::Refuse(type_url, name) if type_url == response.type_url && names.contains(&name));
    if is_refused {
        request.error_detail = refusal("no such filter");
    }
    stream.send(request);
    if response.type_url == types::CLUSTER {
        let (new, removed) = contents(response);
        let mut request = delta(types::ENDPOINT, &new, &removed);
        request.node = node(id);
        stream.send(request);
    }
}

/// How a sabotage shows.
#[derive(Clone, Copy)]
enum Shows {
    /// As an item of `attention`: kind, document, a part of the reason.
    Attention(&'static str, &'static str, &'static str),
    /// As a refusal: node, document, a part of the message.
    Refused(&'static str, &'static str, &'static str),
    /// A proxy does not have the change.
    Behind(&'static str),
}

/// A change of documents that breaks something.
struct Sabotage {
    name: &'static str,
    /// Texts by key; `None`: deleted.
    edits: Vec<(String, Option<String>)>,
    /// What the first scripted proxies do meanwhile, and how many of them.
    moods: (usize, Mood),
    shows: Shows,
}

fn sabotage<const N: usize>(
    name: &'static str,
    edits: [(&str, Option<Value>); N],
    moods: (usize, Mood),
    shows: Shows,
) -> Sabotage {
    // A string is a text that is no JSON.
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let edits = edits.map(|(key, value)| (key.to_owned(), value.map(text))).to_vec();
    Sabotage {
        name,
        edits,
        moods,
        shows,
    }
}

/// All of them. `taken`: an address that no Envoy can bind; `edge`: that of the listener.
fn sabotages(edge: SocketAddr, taken: SocketAddr) -> Vec<Sabotage> {
    let calm = (0, Mood::Ack);
    let route = |path: &str, to: &str| Some(json!({ "match": path, "to": to }));
    let on = |address: SocketAddr| Some(json!({ "address": address.to_string() }));
    let prefixed = |key: &str| format!("routes/r{key}");
    let mass: Vec<(String, Option<String>)> = (0..20).map(|index| (prefixed(&index.to_string()), None)).collect();
    vec![
        sabotage(
            "a valid route to a cluster without endpoints",
            [("routes/r1", route("/r1/*", "nobody"))],
            calm,
            Shows::Attention("empty", "/gateway/clusters/nobody", "no instance is registered"),
        ),
        sabotage(
            "a cluster that loses its endpoints",
            [("clusters/orders-v2", Some(json!({})))],
            calm,
            Shows::Attention("empty", "/gateway/clusters/orders-v2", "no instance is registered"),
        ),
        sabotage(
            "a listener that real proxies refuse",
            [("listeners/taken", on(taken))],
            calm,
            Shows::Refused("envoy-", "/gateway/listeners/taken", "Address already in use"),
        ),
        sabotage(
            "a listener that every proxy refuses",
            [("listeners/taken", on(taken))],
            (SCRIPTED, Mood::Refuse(types::LISTENER, "taken")),
            Shows::Attention("rejected", "/gateway/listeners/taken", "refused by"),
        ),
        sabotage(
            "a cluster that one proxy refuses",
            [(
                "clusters/orders-v2",
                Some(json!({ "endpoints": [{ "address": "127.0.0.1:1" }], "connect_timeout": "9s" })),
            )],
            (1, Mood::Refuse(types::CLUSTER, "orders-v2")),
            Shows::Refused("scripted-0", "/gateway/clusters/orders-v2", "no such filter"),
        ),
        sabotage(
            "routes that one proxy refuses",
            [("routes/r2", route("/r2/other", "orders-v1"))],
            (1, Mood::Refuse(types::ROUTE, "edge")),
            Shows::Refused("scripted-0", "/gateway/routes/r2", "no such filter"),
        ),
        sabotage(
            "a proxy that answers nothing",
            [("routes/r3", route("/r3/other", "orders-v1"))],
            (1, Mood::Silent),
            Shows::Behind("scripted-0"),
        ),
        sabotage(
            "a text that is no document",
            [("routes/r4", Some(json!("{\"match\": ")))],
            calm,
            Shows::Attention("rejected", "/gateway/routes/r4", "line 1"),
        ),
        sabotage(
            "a field with a wrong name",
            [(
                "routes/r5",
                Some(json!({ "match": "/r5/*", "to": "orders-v1", "timout": "3s" })),
            )],
            calm,
            Shows::Attention("rejected", "/gateway/routes/r5", "did you mean \"timeout\""),
        ),
        sabotage(
            "a regex that cannot be read",
            [("routes/r6", route("~/(", "orders-v1"))],
            calm,
            Shows::Attention("rejected", "/gateway/routes/r6", "match"),
        ),
        sabotage(
            "a document that breaks its own test",
            [(
                "routes/r7",
                Some(json!({
                    "match": "/r7/*", "to": "orders-v2",
                    "tests": [{ "request": "GET http://a.example.com/r7/x", "expect": { "to": "orders-v1" } }],
                })),
            )],
            calm,
            Shows::Attention("rejected", "/gateway/routes/r7", "tests[0]"),
        ),
        sabotage(
            "a listener on the address of another one",
            [("listeners/twin", on(edge))],
            calm,
            Shows::Attention("rejected", "/gateway/listeners/twin", "listeners/edge"),
        ),
        sabotage(
            "a listener with a secret that is not there",
            [(
                "listeners/tls",
                Some(json!({ "address": "127.0.0.1:1", "tls": { "certificates": ["nobodys"] } })),
            )],
            calm,
            Shows::Attention("rejected", "/gateway/listeners/tls", "secrets/nobodys"),
        ),
        sabotage(
            "a cluster with two sources of endpoints",
            [(
                "clusters/orders-v2",
                Some(json!({ "endpoints": [{ "address": "127.0.0.1:1" }], "dns": { "host": "a", "port": 1 } })),
            )],
            calm,
            Shows::Attention("rejected", "/gateway/clusters/orders-v2", "dns"),
        ),
        sabotage(
            "a key of an unknown kind",
            [("rutes/r1", route("/x", "orders-v1"))],
            calm,
            Shows::Attention("rejected", "/gateway/rutes/r1", "routes"),
        ),
        sabotage(
            "a cluster in use that is deleted",
            [("clusters/orders-v2", None)],
            calm,
            Shows::Attention("held", "/gateway/clusters/orders-v2", "routes/"),
        ),
        sabotage(
            "a policy in use that is deleted",
            [("policies/limit", None)],
            calm,
            Shows::Attention("held", "/gateway/policies/limit", "routes/r0"),
        ),
        Sabotage {
            name: "most routes deleted at once",
            edits: mass,
            moods: calm,
            shows: Shows::Attention("held", "/gateway/routes/r", "at once"),
        },
    ]
}

struct Installation {
    etcd: Etcd,
    client: Client,
    replicas: [Server; 2],
    scripted: Vec<Scripted>,
}

impl Installation {
    /// Write a change; its revision.
    async fn write(&self, edits: &[(String, Option<String>)]) -> i64 {
        let operation = |(key, text): &(String, Option<String>)| {
            let key = format!("/gateway/{key}");
            match text {
                Some(text) => TxnOp::put(key, text.as_str(), None),
                None => TxnOp::delete(key, None),
            }
        };
        let always = Compare::mod_revision("never-written", CompareOp::Equal, 0);
        let operations: Vec<TxnOp> = edits.iter().map(operation).collect();
        let transaction = Txn::new().when([always]).and_then(operations);
        let response = self.client.kv_client().txn(transaction).await.expect("transaction");
        response.header().expect("a header").revision()
    }

    /// Run a command against both replicas, the given one first.
    async fn run(&self, replica: usize, arguments: &[&str]) -> (Option<i32>, String) {
        let url = |index: usize| format!("http://{}", self.replicas[index].admin());
        let servers = format!("{},{}", url(replica), url(1 - replica));
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chancery"));
        command.args(arguments).args(["--server", &servers]);
        let output = command.output().await.expect("run chancery");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    async fn status(&self, replica: usize) -> Value {
        let (_, printed) = self.run(replica, &["status", "-o", "json"]).await;
        serde_json::from_str(&printed).unwrap_or(Value::String(printed))
    }

    /// Wait until both replicas show it.
    async fn shows(&self, name: &str, revision: i64, shows: Shows) {
        for replica in [0, 1] {
            let deadline = Instant::now() + SLOW;
            loop {
                let status = self.status(replica).await;
                if is_shown(&status, revision, shows) {
                    break;
                }
                assert!(Instant::now() < deadline, "{name}: replica {replica} says {status:#}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Wait until both replicas say that every proxy has the newest change, and that nothing else is wrong.
    async fn is_well(&self, after: &str) {
        for replica in [0, 1] {
            let observe = || async {
                let status = self.status(replica).await;
                let is_well = status["rollout"]["state"] == "live"
                    && status["refused_total"] == 0
                    && status["attention_total"] == 0
                    && status["proxies"]["total"] == SCRIPTED + 3;
                if is_well {
                    String::new()
                } else {
                    format!("{after}: {status:#}")
                }
            };
            eventually(SLOW, observe, String::new()).await;
        }
    }

    /// The versions of the types, once both replicas agree.
    async fn versions(&self, after: &str) -> Value {
        let differing = || async {
            let [one, two] = [self.replicas[0].versions().await, self.replicas[1].versions().await];
            if one == two {
                String::new()
            } else {
                format!("{after}: {one} and {two}")
            }
        };
        eventually(LIMIT, differing, String::new()).await;
        self.replicas[0].versions().await
    }
}

fn is_shown(status: &Value, revision: i64, shows: Shows) -> bool {
    let items = |list: &str| status[list].as_array().cloned().unwrap_or_default();
    let has = |value: &Value, part: &str| value.as_str().is_some_and(|text| text.contains(part));
    status["revision"] == revision
        && match shows {
            Shows::Attention(kind, key, reason) => items("attention")
                .iter()
                .any(|item| item["kind"] == kind && has(&item["key"], key) && has(&item["reason"], reason)),
            Shows::Refused(node, key, message) => items("refused").iter().any(|item| {
                let documents = item["documents"].as_array().cloned().unwrap_or_default();
                has(&item["node"], node)
                    && has(&item["message"], message)
                    && documents.len() == 1
                    && documents[0]["key"] == key
            }),
            Shows::Behind(node) => items("behind")
                .iter()
                .any(|item| item["node"] == node && item["why"] == "unacknowledged"),
        }
}

async fn start() -> (Installation, Vec<Envoy>, SocketAddr) {
    let etcd = Etcd::start().await;
    let endpoint = etcd.endpoint();
    let client = etcd.client().await;
    let edge = own_address();
    let mut documents = vec![
        ("listeners/edge".to_owned(), Some(listener(edge))),
        ("clusters/orders-v1".to_owned(), Some("{}".to_owned())),
        ("clusters/nobody".to_owned(), Some("{}".to_owned())),
        (
            "clusters/orders-v2".to_owned(),
            Some(r#"{"endpoints": [{"address": "127.0.0.1:1"}]}"#.to_owned()),
        ),
        (
            "policies/limit".to_owned(),
            Some(r#"{"body_limit": {"max": "1MiB"}}"#.to_owned()),
        ),
    ];
    documents.extend((0..ROUTES).map(|index| {
        let policies = if index == 0 { json!(["limit"]) } else { json!([]) };
        let to = if index < 15 { "orders-v1" } else { "orders-v2" };
        let route = json!({ "match": format!("/r{index}/*"), "to": to, "policies": policies });
        (format!("routes/r{index}"), Some(route.to_string()))
    }));
    let replica = |name: &'static str| {
        let endpoint = endpoint.clone();
        async move { Server::start(&["--etcd", &endpoint, "--replica-id", name]).await }
    };
    let replicas = [replica("one").await, replica("two").await];
    let scripted = (0..SCRIPTED)
        .map(|index| Scripted::start(replicas[index % 2].xds(), index))
        .collect();
    let installation = Installation {
        etcd,
        client,
        replicas,
        scripted,
    };
    for index in 0..INSTANCES {
        installation.register(index, None).await;
    }
    installation.write(&documents).await;
    let [one, two] = &installation.replicas;
    let envoys = vec![
        Envoy::start(Bootstrap::Delta, one.xds(), "envoy-1").await,
        Envoy::start(Bootstrap::Sotw, one.xds(), "envoy-2").await,
        Envoy::start(Bootstrap::Delta, two.xds(), "envoy-3").await,
    ];
    installation.is_well("the start").await;
    (installation, envoys, edge)
}

impl Installation {
    async fn register(&self, index: usize, lease: Option<i64>) -> i64 {
        let (key, text) = (
            format!("/services/orders-v1/i{index}"),
            format!("127.0.0.1:{}", index + 1),
        );
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let put = self.client.kv_client().put(key, text, options).await;
        put.expect("a registration").header().expect("a header").revision()
    }
}

// The last three have no change of documents that could be undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sabotage_is_named_and_undone() {
    let _shared = shared().await;
    let (mut fleet, envoys, edge) = Box::pin(start()).await;
    let port = std::net::TcpListener::bind(own_address()).expect("bind a port");
    let taken = port.local_addr().expect("a bound listener has an address");

    for (number, sabotage) in sabotages(edge, taken).into_iter().enumerate() {
        let Sabotage {
            name,
            edits,
            moods: (count, mood),
            shows,
        } = sabotage;
        for good in 0..GOOD {
            let text = json!({ "match": format!("/good/{number}/{good}"), "to": "orders-v1" }).to_string();
            fleet.write(&[("routes/good".to_owned(), Some(text))]).await;
        }
        fleet.is_well(name).await;
        let versions = fleet.versions(name).await;

        let set = |mood| fleet.scripted[..count].iter().for_each(|one| _ = one.mood.send(mood));
        set(mood);
        let revision = fleet.write(&edits).await;
        fleet.shows(name, revision, shows).await;
        set(Mood::Ack);

        let (code, printed) = fleet
            .run(number % 2, &["undo", &revision.to_string(), "--yes", "-m", "sabotage"])
            .await;
        assert_eq!(code, Some(0), "{name}: {printed}");
        fleet.is_well(name).await;
        assert_eq!(fleet.versions(name).await, versions, "{name}");
    }

    fleet.two_people_change_one_document().await;
    fleet.a_proxy_is_killed().await;
    fleet.a_lease_is_lost().await;
    fleet.a_replica_is_killed().await;
    fleet.the_store_is_away().await;
    drop(envoys);
}

impl Installation {
    async fn two_people_change_one_document(&self) {
        let text = |path: &str| Some(json!({ "match": path, "to": "orders-v1" }).to_string());
        let first = self.write(&[("routes/r10".to_owned(), text("/anas"))]).await;
        let second = self.write(&[("routes/r10".to_owned(), text("/bens"))]).await;
        for replica in [0, 1] {
            let (code, printed) = self.run(replica, &["wait", &second.to_string()]).await;
            assert_eq!(code, Some(0), "{printed}");
        }
        let (code, printed) = self.run(0, &["undo", &first.to_string(), "--yes"]).await;
        assert_eq!(code, Some(1), "{printed}");
        assert!(
            printed.contains(&second.to_string()) && printed.contains("routes/r10"),
            "{printed}"
        );
        let (code, printed) = self.run(1, &["undo", &second.to_string(), "--yes"]).await;
        assert_eq!(code, Some(0), "{printed}");
        self.is_well("two people").await;
    }

    async fn a_proxy_is_killed(&mut self) {
        self.scripted[0].mood.send(Mood::Silent).expect("it runs");
        let text = json!({ "match": "/killer", "to": "orders-v1" }).to_string();
        let revision = self.write(&[("routes/r11".to_owned(), Some(text))]).await;
        self.shows("a proxy before its end", revision, Shows::Behind("scripted-0"))
            .await;
        let xds = self.replicas[0].xds();
        self.scripted.remove(0);
        for replica in [0, 1] {
            let observe = || async {
                let status = self.status(replica).await;
                (status["proxies"]["gone"].clone(), status["rollout"]["state"].clone())
            };
            eventually(LIMIT, observe, (json!(1), json!("rolling"))).await;
        }
        self.scripted.insert(0, Scripted::start(xds, 0));
        self.is_well("a proxy that came back").await;
    }

    /// All instances but one go with a lease.
    async fn a_lease_is_lost(&self) {
        let mut lease_client = self.client.lease_client();
        let lease = lease_client.grant(600, None).await.expect("a lease").id();
        let mut revision = 0;
        for index in 1..INSTANCES {
            revision = self.register(index, Some(lease)).await;
        }
        // A key that is put and deleted in one batch would be no instance that went.
        for replica in &self.replicas {
            let taken_in = || async {
                let snapshot = replica.get("/api/v1/snapshot").await;
                snapshot["groups"]["default"]["revisions"]["/services/"].as_i64() >= Some(revision)
            };
            eventually(LIMIT, taken_in, true).await;
        }
        lease_client.revoke(lease).await.expect("it was there");
        let observe = || async {
            let status = self.status(1).await;
            let shows = Shows::Attention("held", "/services/orders-v1/", "kept");
            let is_held = is_shown(&status, status["revision"].as_i64().unwrap_or_default(), shows);
            if is_held { String::new() } else { format!("{status:#}") }
        };
        eventually(LIMIT, observe, String::new()).await;
        for index in 1..INSTANCES {
            self.register(index, None).await;
        }
        self.is_well("instances that came back").await;
    }

    async fn a_replica_is_killed(&mut self) {
        self.replicas[1].kill();
        self.says("complete", json!(false)).await;
        self.replicas[1].restart().await;
        self.says("complete", json!(true)).await;
    }

    /// Wait until the first replica's status has a value.
    async fn says(&self, field: &str, expected: Value) {
        eventually(SLOW, || async { self.status(0).await[field].clone() }, expected).await;
    }

    async fn the_store_is_away(&self) {
        self.etcd.stop();
        let observe = || async { self.status(0).await["store"]["ok"].clone() };
        eventually(SLOW, observe, json!(false)).await;
        self.etcd.cont();
        eventually(SLOW, observe, json!(true)).await;
    }
}
