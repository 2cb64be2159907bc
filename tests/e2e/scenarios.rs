//! One table of scenarios, passed by four clients: Envoy over delta and SotW, grpcio and grpc-js-xds.
//!
//! A client has two replicas on one etcd, each behind a link that the test can cut, and calls two upstreams, `blue` and
//! `green`. The client calls `Say` all the time. Unless a scenario names failures, no call may fail. At the start and
//! at the end of each scenario, `Say` leads to `blue`.

use std::pin::Pin;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::calls::Tally;
use crate::clients::{Client, Kind, SAY};
use crate::support::envoy::own_address;
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::grpc_upstream::GrpcUpstream;
use crate::support::proxy::Proxy;
use crate::support::server::Server;
use crate::world::shared;

/// Until a change must show in a client; gRPC clients wait a second or more before they connect again.
const LIMIT: Duration = Duration::from_secs(20);
/// So many calls in a row say where calls lead now.
const RUN: usize = 15;

type Step<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
type Scenario = for<'a> fn(&'a mut Stage) -> Step<'a>;

/// The table.
const SCENARIOS: [(&str, Scenario); 12] = [
    ("add", |stage| Box::pin(add(stage))),
    ("remove", |stage| Box::pin(remove(stage))),
    ("change", |stage| Box::pin(change(stage))),
    ("rename", |stage| Box::pin(rename(stage))),
    ("weighted shift", |stage| Box::pin(weighted_shift(stage))),
    ("header match", |stage| Box::pin(header_match(stage))),
    ("endpoints come and go", |stage| Box::pin(endpoints_come_and_go(stage))),
    ("failover", |stage| Box::pin(failover(stage))),
    ("NACK and fix", |stage| Box::pin(nack_and_fix(stage))),
    ("what others understand", |stage| {
        Box::pin(what_others_understand(stage))
    }),
    ("server restart", |stage| Box::pin(server_restart(stage))),
    ("move to a second replica", |stage| {
        Box::pin(move_to_a_second_replica(stage))
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn envoy_delta_passes_the_scenarios() {
    Box::pin(pass(Kind::EnvoyDelta)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_sotw_passes_the_scenarios() {
    Box::pin(pass(Kind::EnvoySotw)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_passes_the_scenarios() {
    Box::pin(pass(Kind::Grpcio)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_js_passes_the_scenarios() {
    Box::pin(pass(Kind::GrpcJs)).await;
}

async fn pass(kind: Kind) {
    let _shared = shared().await;
    let mut stage = Stage::start(kind).await;
    for (name, scenario) in SCENARIOS {
        let started = tokio::time::Instant::now();
        println!("{kind:?}: {name} ...");
        scenario(&mut stage).await;
        stage.leads_to(&["blue"]).await;
        println!(
            "{kind:?}: {name} passed in {:?}, {} calls so far",
            started.elapsed(),
            stage.client.calls().count()
        );
    }
}

/// Everything around one client.
struct Stage {
    kind: Kind,
    _etcd: Etcd,
    store: etcd_client::Client,
    servers: [Server; 2],
    links: [Proxy; 2],
    /// Which of them the client can reach.
    current: usize,
    blue: GrpcUpstream,
    green: GrpcUpstream,
    client: Box<dyn Client>,
}

impl Stage {
    async fn start(kind: Kind) -> Self {
        let (etcd, address) = (Etcd::start().await, own_address());
        let (blue, green) = (GrpcUpstream::start("blue").await, GrpcUpstream::start("green").await);
        let store = etcd.client().await;
        let documents = [
            ("listeners/echo", kind.listener(address)),
            ("clusters/blue", cluster(&blue).to_string()),
            ("clusters/green", cluster(&green).to_string()),
            ("routes/say", route(&json!("blue"))),
        ];
        for (key, text) in documents {
            store
                .kv_client()
                .put(format!("/gateway/{key}"), text, None)
                .await
                .expect("put");
        }
        let servers = [Server::on_etcd(&etcd).await, Server::on_etcd(&etcd).await];
        let links = [
            Proxy::start(servers[0].xds().to_string()).await,
            Proxy::start(servers[1].xds().to_string()).await,
        ];
        links[1].cut();
        for server in &servers {
            server.ready().await;
        }
        let client = kind.start(&[links[0].address(), links[1].address()], address).await;
        Self {
            kind,
            _etcd: etcd,
            store,
            servers,
            links,
            current: 0,
            blue,
            green,
            client,
        }
    }

    async fn put(&self, key: &str, text: impl Into<String>) {
        self.store
            .kv_client()
            .put(format!("/gateway/{key}"), text.into(), None)
            .await
            .expect("put");
    }

    async fn delete(&self, key: &str) {
        self.store
            .kv_client()
            .delete(format!("/gateway/{key}"), None)
            .await
            .expect("delete");
    }

    /// Set the target of `Say`.
    async fn route(&self, to: Value) {
        self.put("routes/say", route(&to)).await;
    }

    /// Wait until calls are answered by these, each by one of them and all of them by some, and none fails.
    async fn leads_to(&self, names: &[&str]) {
        let observe = || async {
            let before = self.client.calls().count();
            self.client.calls().more(RUN).await;
            let tally = self.client.calls().since(before);
            (tally.answered_by() == Some(names.to_vec())).then_some(()).ok_or(tally)
        };
        eventually(LIMIT, observe, Ok(())).await;
    }

    /// Not one of the constant calls has failed since there were `count`.
    fn none_failed(&self, count: usize) {
        let tally = self.client.calls().since(count);
        assert!(tally.failures.is_empty(), "{:?}: failed calls in {tally:?}", self.kind);
    }

    /// Wait until a single call of a method is answered so.
    async fn answers(&self, method: &str, headers: &[(&'static str, &'static str)], by: Option<&str>) {
        let observe = || async { self.client.call(method, headers).await.ok() };
        eventually(LIMIT, observe, by.map(str::to_owned)).await;
    }

    /// The state of a type in `/api/v1/clients` of the server that the client is connected to.
    async fn reported(&self, resource_type: &str) -> Value {
        let node = self.client.node();
        let answer = self.servers[self.current]
            .get(&format!("/api/v1/clients/{node}?names=true"))
            .await;
        let streams = answer["clients"].as_array().cloned().unwrap_or_default();
        let connected = streams.into_iter().rev().find(|stream| stream["gone_at"].is_null());
        connected.map_or(Value::Null, |stream| stream["types"][resource_type].clone())
    }

    /// Wait until the client has acknowledged that one cluster is there and the other is not.
    async fn has_cluster_instead_of(&self, new: &str, old: &str) {
        let observe = || async {
            let clusters = self.reported("clusters").await;
            let settled = clusters["sent"]["nonce"] == clusters["acknowledged"]["nonce"];
            let asked = match clusters["subscribed"].as_array() {
                Some(names) => (names.contains(&json!(new)), names.contains(&json!(old))),
                None => {
                    let version = self.servers[self.current].versions().await["clusters"]["version"].clone();
                    (clusters["acknowledged"]["version"] == version, false)
                }
            };
            (settled, asked)
        };
        eventually(LIMIT, observe, (true, (true, false))).await;
    }
}

fn cluster(upstream: &GrpcUpstream) -> Value {
    json!({ "endpoints": [{ "address": upstream.address() }], "protocol": "grpc" })
}

fn route(to: &Value) -> String {
    json!({ "match": { "grpc": "echo.Echo/Say" }, "to": to }).to_string()
}

fn weighted(blue: u32, green: u32) -> Value {
    json!([{ "cluster": "blue", "weight": blue }, { "cluster": "green", "weight": green }])
}

/// A route and a cluster that were not there, at once.
async fn add(stage: &mut Stage) {
    let before = stage.client.calls().count();
    stage.answers("/echo.Echo/Added", &[], None).await;
    let operations = vec![
        TxnOp::put("/gateway/clusters/added", cluster(&stage.green).to_string(), None),
        TxnOp::put(
            "/gateway/routes/added",
            r#"{ "match": "/echo.Echo/Added", "to": "added" }"#,
            None,
        ),
    ];
    transaction(stage, operations).await;
    stage.answers("/echo.Echo/Added", &[], Some("green")).await;
    stage.none_failed(before);
}

/// Remove it.
async fn remove(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let operations = vec![
        TxnOp::delete("/gateway/routes/added", None),
        TxnOp::delete("/gateway/clusters/added", None),
    ];
    transaction(stage, operations).await;
    stage.answers("/echo.Echo/Added", &[], None).await;
    stage.none_failed(before);
}

/// A route leads elsewhere, and back.
async fn change(stage: &mut Stage) {
    let before = stage.client.calls().count();
    stage.route(json!("green")).await;
    stage.leads_to(&["green"]).await;
    stage.route(json!("blue")).await;
    stage.leads_to(&["blue"]).await;
    stage.none_failed(before);
}

/// A cluster gets another name, again and again: old one away, new one there, route moved, all in one revision.
async fn rename(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let names = ["blue", "azure", "navy", "blue"];
    for pair in names.windows(2) {
        let operations = vec![
            TxnOp::put(
                format!("/gateway/clusters/{}", pair[1]),
                cluster(&stage.blue).to_string(),
                None,
            ),
            TxnOp::put("/gateway/routes/say", route(&json!(pair[1])), None),
            TxnOp::delete(format!("/gateway/clusters/{}", pair[0]), None),
        ];
        transaction(stage, operations).await;
        stage.has_cluster_instead_of(pair[1], pair[0]).await;
        stage.client.calls().more(RUN).await;
    }
    stage.none_failed(before);
}

/// From one to the other by shares; the shares are seen.
async fn weighted_shift(stage: &mut Stage) {
    let before = stage.client.calls().count();
    for (blue, green, expected) in [
        (95, 5, 1..=25),
        (50, 50, 70..=130),
        (0, 100, 200..=200),
        (100, 0, 0..=0),
    ] {
        stage.route(weighted(blue, green)).await;
        let observe = || async {
            let answers = join_all((0..200).map(|_| stage.client.call(SAY, &[]))).await;
            let tally = Tally::of(&answers);
            assert!(tally.failures.is_empty(), "{:?}: failed calls in {tally:?}", stage.kind);
            let share = tally.by.get("green").copied().unwrap_or(0);
            if expected.contains(&share) { Ok(()) } else { Err(share) }
        };
        eventually(LIMIT, observe, Ok(())).await;
    }
    stage.route(json!("blue")).await;
    stage.none_failed(before);
}

/// Calls with a header lead elsewhere than calls without.
async fn header_match(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let canary = json!({ "match": { "grpc": "echo.Echo/Say", "headers": { "x-env": "canary" } }, "to": "green" });
    stage.put("routes/canary", canary.to_string()).await;
    stage.answers(SAY, &[("x-env", "canary")], Some("green")).await;
    assert_eq!(
        stage.client.call(SAY, &[("x-env", "production")]).await,
        Ok("blue".to_owned())
    );
    stage.leads_to(&["blue"]).await;
    stage.delete("routes/canary").await;
    stage.answers(SAY, &[("x-env", "canary")], Some("blue")).await;
    stage.none_failed(before);
}

/// Instances that register themselves: one more, one less.
async fn endpoints_come_and_go(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let (blue, green) = (stage.blue.address().to_string(), stage.green.address().to_string());
    stage
        .store
        .kv_client()
        .put("/services/pool/a", blue, None)
        .await
        .expect("put");
    stage.put("clusters/pool", r#"{ "protocol": "grpc" }"#).await;
    stage.route(json!("pool")).await;
    stage.has_cluster_instead_of("pool", "blue").await;
    stage.leads_to(&["blue"]).await;
    stage
        .store
        .kv_client()
        .put("/services/pool/b", green, None)
        .await
        .expect("put");
    stage.leads_to(&["blue", "green"]).await;
    stage
        .store
        .kv_client()
        .delete("/services/pool/b", None)
        .await
        .expect("delete");
    stage.leads_to(&["blue"]).await;
    stage.route(json!("blue")).await;
    stage.has_cluster_instead_of("blue", "pool").await;
    stage.none_failed(before);
}

/// The endpoint of the first priority stops: the second is called; it is back: the first again. Calls that were on
/// their way may fail.
async fn failover(stage: &mut Stage) {
    let tiered = json!({
        "endpoints": [{ "address": stage.blue.address() }, { "address": stage.green.address(), "priority": 1 }],
        "protocol": "grpc",
        "health_check": { "tcp": true, "interval": "200ms", "timeout": "200ms", "healthy": 1, "unhealthy": 1 },
    });
    stage.put("clusters/tiered", tiered.to_string()).await;
    stage.route(json!("tiered")).await;
    stage.has_cluster_instead_of("tiered", "blue").await;
    stage.leads_to(&["blue"]).await;
    stage.blue.stop().await;
    stage.leads_to(&["green"]).await;
    stage.blue.start_again().await;
    stage.leads_to(&["blue"]).await;
    stage.route(json!("blue")).await;
    stage.has_cluster_instead_of("blue", "tiered").await;
}

/// A refused document does not affect calls, is shown in the admin API, and is repaired.
async fn nack_and_fix(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let taken = (taken.local_addr().expect("a bound listener has an address"), taken);
    let refusable = stage.kind.refusable(&cluster(&stage.blue), taken.0);
    stage.put(&refusable.key, refusable.refused).await;
    let observe = || async { stage.reported(refusable.resource_type).await["refused"]["message"].clone() };
    let said = |message: &Value| message.as_str().is_some_and(|message| message.contains(refusable.says));
    let observe_said = || async {
        let message = observe().await;
        if said(&message) { Ok(()) } else { Err(message) }
    };
    eventually(LIMIT, observe_said, Ok(())).await;
    stage.leads_to(&["blue"]).await;
    // Other changes still arrive. (A gRPC client that has dropped a cluster has no old content of it.)
    stage.route(weighted(50, 50)).await;
    stage.leads_to(&["blue", "green"]).await;
    stage.route(json!("blue")).await;
    stage.leads_to(&["blue"]).await;
    stage.put(&refusable.key, refusable.mended).await;
    let settled = || async {
        let report = stage.reported(refusable.resource_type).await;
        (
            report["refused"].clone(),
            report["sent"]["nonce"] == report["acknowledged"]["nonce"],
        )
    };
    eventually(LIMIT, settled, (Value::Null, true)).await;
    stage.none_failed(before);
    if stage.kind.is_envoy() {
        stage.delete(&refusable.key).await;
    }
}

/// Documents that mean nothing to gRPC, or nothing to Envoy, harm no calls: nothing is refused, and the rest is served.
async fn what_others_understand(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let documents = [
        ("listeners/other", json!({ "api": true })),
        (
            "routes/moved",
            json!({ "match": "/moved/*", "to": { "redirect": { "host": "other" } } }),
        ),
        (
            "routes/page",
            json!({ "match": "GET /page", "to": { "respond": { "status": 200 } } }),
        ),
        (
            "routes/template",
            json!({ "match": "/users/{id}", "to": "blue", "rewrite": { "prefix": "/" } }),
        ),
        (
            "routes/regex",
            json!({ "match": "~^/r[0-9]+$", "to": "green", "retry": { "attempts": 1, "on": ["503"] } }),
        ),
        (
            "routes/query",
            json!({ "match": { "path": "/q", "query": { "a": "b" } }, "to": "blue" }),
        ),
        ("routes/gone", json!({ "match": "/echo.Echo/Gone", "to": "gone" })),
        (
            "routes/last",
            json!({ "match": "/echo.Echo/*", "to": "green", "request_headers": { "set": { "x-a": "b" } } }),
        ),
    ];
    for (key, text) in &documents {
        stage.put(key, text.to_string()).await;
    }
    stage.answers("/echo.Echo/Last", &[], Some("green")).await;
    stage.answers("/echo.Echo/Gone", &[], None).await;
    for resource_type in ["listeners", "routes", "clusters", "endpoints"] {
        assert_eq!(
            stage.reported(resource_type).await["refused"],
            Value::Null,
            "{:?}: {resource_type}",
            stage.kind
        );
    }
    for (key, _) in &documents {
        stage.delete(key).await;
    }
    stage.answers("/echo.Echo/Last", &[], None).await;
    stage.none_failed(before);
}

/// The server is killed and starts again with the same state: calls go on, changes arrive again.
async fn server_restart(stage: &mut Stage) {
    let before = stage.client.calls().count();
    let current = stage.current;
    stage.servers[current].restart().await;
    stage.servers[current].ready().await;
    stage.route(json!("green")).await;
    stage.leads_to(&["green"]).await;
    stage.route(json!("blue")).await;
    stage.leads_to(&["blue"]).await;
    stage.none_failed(before);
}

/// The replica is cut off: Envoy finds the other one of its bootstrap, the one address of a gRPC client leads to the
/// other now. Changes arrive from there.
async fn move_to_a_second_replica(stage: &mut Stage) {
    let before = stage.client.calls().count();
    if stage.kind.is_envoy() {
        stage.links[1].mend();
        stage.links[0].cut();
    } else {
        stage.links[0].lead_to(stage.servers[1].xds().to_string());
    }
    stage.current = 1;
    stage.route(json!("green")).await;
    stage.leads_to(&["green"]).await;
    assert_ne!(
        stage.reported("listeners").await,
        Value::Null,
        "{:?}: not connected to the second",
        stage.kind
    );
    stage.route(json!("blue")).await;
    stage.leads_to(&["blue"]).await;
    stage.none_failed(before);
}

async fn transaction(stage: &Stage, operations: Vec<TxnOp>) {
    let always = Compare::mod_revision("never-written", CompareOp::Equal, 0);
    let transaction = Txn::new().when([always]).and_then(operations);
    assert!(
        stage
            .store
            .kv_client()
            .txn(transaction)
            .await
            .expect("transaction")
            .succeeded()
    );
}
