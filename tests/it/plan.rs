//! The plan of a change (`?dry_run=true`) is compared with the responses that a scripted proxy then gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chancery::xds::options::Listen;
use chancery::xds::server::Server as XdsServer;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admin::Server;
use crate::support::ads_client::{ADS_DELTA, AdsStream, Event, connect, contents, delta, delta_ack, types};
use crate::xds_fixture::options;

/// Longest wait for a response that a plan says.
const LIMIT: Duration = Duration::from_secs(5);
/// After so long without a response, the proxy has all of a change.
const QUIET: Duration = Duration::from_millis(30);

const JSON: (&str, &str) = ("content-type", "application/json");

fn document(kind: &str, name: &str, value: Value) -> Value {
    json!({ "kind": kind, "name": name, "value": value })
}

fn route(name: &str, path: &str, to: &str) -> Value {
    document("routes", name, json!({ "match": path, "to": to }))
}

fn cluster(name: &str, endpoints: usize) -> Value {
    let endpoint = |number: usize| json!({ "address": format!("10.0.0.{number}:8080") });
    let endpoints: Vec<Value> = (1..=endpoints).map(endpoint).collect();
    document("clusters", name, json!({ "endpoints": endpoints }))
}

async fn post(server: &Server, query: &str, documents: &Value) -> Value {
    let body = json!({ "documents": documents }).to_string();
    let path = format!("/api/v1/apply{query}");
    let answer = server.request(Method::POST, &path, &[JSON], body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}

async fn plan(server: &Server, documents: &Value) -> Value {
    post(server, "?dry_run=true", documents).await
}

const STORED: [(&str, &str); 4] = [
    (
        "/gateway/clusters/orders",
        r#"{"endpoints": [{"address": "10.0.0.1:80"}, {"address": "10.0.0.2:80"}, {"address": "10.0.0.3:80"}]}"#,
    ),
    (
        "/gateway/routes/orders",
        r#"{"match": "api.example.com/v1/orders/*", "to": "orders", "tests": [{"request": "GET http://api.example.com/v1/orders/7", "expect": {"to": "orders"}}]}"#,
    ),
    ("/gateway/routes/all", r#"{"match": "/*", "to": "orders"}"#),
    ("/gateway/listeners/edge", r#"{"address": "0.0.0.0:8080"}"#),
];

#[tokio::test]
async fn a_plan_names_new_owners_failing_tests_and_the_risk() {
    let server = Server::start(&STORED).await;
    let theft = json!([document(
        "routes",
        "thief",
        json!({ "match": "api.example.com/v1/orders/*", "to": "orders", "priority": 1 })
    )]);
    let plan_of_theft = plan(&server, &theft).await;
    let fields: BTreeSet<&str> = plan_of_theft.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "base_revision",
        "because",
        "bytes",
        "documents",
        "drains",
        "guards",
        "ok",
        "owners",
        "owners_total",
        "proxies",
        "resources",
        "risk",
        "summary",
        "tests",
    ];
    assert_eq!(fields, expected.into_iter().collect());
    assert_eq!(
        (&plan_of_theft["ok"], &plan_of_theft["risk"]),
        (&json!(true), &json!("medium")),
        "{plan_of_theft}"
    );
    let owner = json!({ "request": "GET http://api.example.com/v1/orders/x", "group": "default",
        "before": "routes/orders", "after": "routes/thief" });
    assert_eq!(
        (&plan_of_theft["owners"], &plan_of_theft["owners_total"]),
        (&json!([owner]), &json!(1))
    );
    assert_eq!(plan_of_theft["because"], json!(["1 route changes owner"]));
    assert_eq!(plan_of_theft["drains"], json!([]));
    assert_eq!(plan_of_theft["documents"][0]["action"], "added");
    assert_eq!(plan_of_theft["base_revision"], 4);

    // The route is tried again with another upstream: a test of another document fails.
    let other = json!([
        cluster("other", 1),
        document(
            "routes",
            "thief",
            json!({ "match": "api.example.com/v1/orders/*", "to": "other", "priority": 1 })
        )
    ]);
    let refused = plan(&server, &other).await;
    assert_eq!(refused["ok"], false);
    assert_eq!(refused["tests"][0]["key"], "routes/orders");
    assert_eq!(refused["tests"][0]["expected"], "to=orders");
    assert_eq!(refused["tests"][0]["request"], "GET http://api.example.com/v1/orders/7");
    assert!(
        refused["summary"]
            .as_str()
            .unwrap()
            .starts_with("The change is refused: "),
        "{refused}"
    );

    // Nothing was written.
    assert!(
        server
            .request(Method::GET, "/api/v1/documents/routes/thief", &[], "")
            .await
            .status
            == StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_plan_names_drains_lost_endpoints_and_guards() {
    let server = Server::start(&STORED).await;
    let high = async |documents: Value, because: &str| {
        let plan = plan(&server, &documents).await;
        let rules: Vec<&str> = plan["because"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(plan["risk"], "high", "{plan}");
        assert!(rules.contains(&because), "{rules:?}");
        plan
    };
    let moved = json!([document("listeners", "edge", json!({ "address": "0.0.0.0:8081" }))]);
    let moved = high(moved, "listener edge drains (address)").await;
    assert_eq!(
        moved["drains"],
        json!([{ "listener": "edge", "group": "default", "why": "address", "proxies": 0 }])
    );
    let limits = json!([document(
        "listeners",
        "edge",
        json!({ "address": "0.0.0.0:8080", "http": { "http10": true } })
    )]);
    high(limits, "listener edge drains (http)").await;
    let gone = json!([document("listeners", "edge", Value::Null)]);
    high(gone, "the last document of listeners is removed").await;
    high(json!([cluster("orders", 1)]), "cluster orders loses 2 of 3 endpoints").await;
    let policed =
        json!({ "match": "/*", "to": "orders", "policies": [{ "kind": "ip_access", "deny": ["10.0.0.0/8"] }] });
    let added = plan(&server, &json!([document("routes", "all", policed)])).await;
    assert_eq!(added["drains"], json!([]), "{added}");

    let used = plan(&server, &json!([document("clusters", "orders", Value::Null)])).await;
    assert_eq!(used["ok"], false);
    assert_eq!(used["guards"][0]["key"], "/gateway/clusters/orders");
    // The catch-all route loses the requests of the new host.
    let medium = plan(&server, &json!([route("new", "new.example.com/*", "orders")])).await;
    assert_eq!(medium["risk"], "medium", "{medium}");
    assert_eq!(medium["because"], json!(["1 route changes owner"]));
    let longer = json!({ "endpoints": [{ "address": "10.0.0.1:80" }, { "address": "10.0.0.2:80" }, { "address": "10.0.0.3:80" }], "connect_timeout": "3s" });
    let low = plan(&server, &json!([document("clusters", "orders", longer)])).await;
    assert_eq!((&low["risk"], &low["because"]), (&json!("low"), &json!([])), "{low}");
}

/// What one route costs does not depend on the number of others beside it.
#[tokio::test]
async fn a_plan_of_a_route_gives_few_requests_to_the_tables() {
    for others in [10, 200] {
        let documents: Vec<(String, String)> = (0..others)
            .map(|number| {
                let key = format!("/gateway/routes/r{number}");
                (key, format!(r#"{{"match": "/r{number}/*", "to": "x"}}"#))
            })
            .collect();
        let stored: Vec<(&str, &str)> = documents
            .iter()
            .map(|(key, text)| (key.as_str(), text.as_str()))
            .collect();
        let server = Server::start(&stored).await;
        let stolen = plan(&server, &json!([route("thief", "/r7/{id}", "x")])).await;
        assert_eq!(stolen["owners_total"], 1, "{stolen}");
        assert_eq!(stolen["owners"][0]["before"], "routes/r7");
    }
}

/// A proxy over delta that subscribes to everything, and the responses to one change.
struct Proxy {
    stream: AdsStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>,
    endpoints: BTreeSet<String>,
    routes: BTreeSet<String>,
}

/// By type URL: the names of sent and removed resources; and the bytes of all responses.
#[derive(Debug, Default)]
struct Received {
    sent: BTreeMap<String, BTreeSet<String>>,
    removed: BTreeMap<String, BTreeSet<String>>,
    bytes: usize,
    responses: usize,
}

/// The types of the resources that the proxy subscribes to, as the plan names them.
const TYPES: [(&str, &str); 4] = [
    ("clusters", types::CLUSTER),
    ("endpoints", types::ENDPOINT),
    ("listeners", types::LISTENER),
    ("routes", types::ROUTE),
];

/// What a plan says of one proxy.
#[derive(Debug)]
struct Said {
    put: BTreeMap<&'static str, BTreeSet<String>>,
    removed: BTreeMap<&'static str, BTreeSet<String>>,
    bytes: usize,
}

fn names(value: &Value) -> BTreeSet<String> {
    let names = value.as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

impl Said {
    fn of(plan: &Value) -> Self {
        let of_type = |word: &str| &plan["resources"][word];
        let put = |word| {
            names(&of_type(word)["added"])
                .union(&names(&of_type(word)["changed"]))
                .cloned()
                .collect()
        };
        Self {
            put: TYPES.map(|(word, type_url)| (type_url, put(word))).into(),
            removed: TYPES
                .map(|(word, type_url)| (type_url, names(&of_type(word)["removed"])))
                .into(),
            bytes: usize::try_from(plan["bytes"]["delta"].as_u64().unwrap()).unwrap(),
        }
    }

    /// Whether the proxy has all of it.
    fn is_in(&self, received: &Received) -> bool {
        let has = |said: &BTreeMap<&str, BTreeSet<String>>, got: &BTreeMap<String, BTreeSet<String>>| {
            said.iter().all(|(type_url, names)| match got.get(*type_url) {
                Some(got) => names.is_subset(got),
                None => names.is_empty(),
            })
        };
        let is_removed = [types::CLUSTER, types::LISTENER].into_iter().all(|type_url| {
            self.removed[type_url].is_subset(received.removed.get(type_url).unwrap_or(&BTreeSet::new()))
        });
        has(&self.put, &received.sent) && is_removed && received.bytes * 10 >= self.bytes * 9
    }

    fn compare(&self, received: &Received) -> Result<(), String> {
        for (word, type_url) in TYPES {
            let put = &self.put[type_url];
            let mut sent = received.sent.get(type_url).cloned().unwrap_or_default();
            if type_url == types::ENDPOINT {
                // Endpoints of a changed cluster are sent again.
                sent.retain(|name| put.contains(name));
            }
            if sent != *put {
                return Err(format!("{word}: {put:?} planned, {sent:?} received"));
            }
            let removed = received.removed.get(type_url).cloned().unwrap_or_default();
            if matches!(type_url, types::CLUSTER | types::LISTENER) && removed != self.removed[type_url] {
                return Err(format!(
                    "{word}: {:?} planned to go, {removed:?} removed",
                    self.removed[type_url]
                ));
            }
        }
        // The name of the server and the nonce have no fixed length.
        let slack = received.bytes / 10 + 32 * received.responses;
        match self.bytes.abs_diff(received.bytes) <= slack {
            true => Ok(()),
            false => Err(format!("{} bytes planned, {} received", self.bytes, received.bytes)),
        }
    }
}

impl Proxy {
    async fn connect(server: &Server) -> Self {
        let xds = XdsServer::bind(options()).unwrap();
        let Listen::Tcp(address) = xds.local_addr() else {
            panic!("a TCP port")
        };
        let channel = connect(*address).await;
        let (draining, token) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(xds.run(Arc::clone(&server.snapshots), server.fleet.clone(), draining, token));
        let stream = AdsStream::open_early(&channel, ADS_DELTA);
        stream.send(delta(types::CLUSTER, &["*"], &[]));
        stream.send(delta(types::LISTENER, &["*"], &[]));
        let mut proxy = Self {
            stream,
            endpoints: BTreeSet::new(),
            routes: BTreeSet::new(),
        };
        proxy.receive(|received| received.sent.contains_key(types::ROUTE)).await;
        proxy
    }

    /// The responses until the proxy has all of a change, and the server is silent. Each response is answered, and the
    /// subscriptions follow the clusters and listeners.
    async fn receive(&mut self, has_all: impl Fn(&Received) -> bool) -> Received {
        let mut received = Received::default();
        loop {
            let patience = if has_all(&received) { QUIET } else { LIMIT };
            let response = match self.stream.event(patience).await {
                Event::Response(response) => response,
                Event::Nothing => return received,
                Event::Ended(status) => panic!("the stream ended: {status}"),
            };
            let (sent, removed) = contents(&response);
            let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
            let (sent, removed) = (names(sent), names(removed));
            self.stream.send(delta_ack(&response));
            let (known, type_url) = match response.type_url.as_str() {
                types::CLUSTER => (&mut self.endpoints, types::ENDPOINT),
                types::LISTENER => (&mut self.routes, types::ROUTE),
                _ => (&mut BTreeSet::new(), ""),
            };
            let subscribe: Vec<&str> = sent
                .iter()
                .filter(|name| known.insert((*name).clone()))
                .map(String::as_str)
                .collect();
            let unsubscribe: Vec<&str> = removed
                .iter()
                .filter(|name| known.remove(*name))
                .map(String::as_str)
                .collect();
            if !(type_url.is_empty() || subscribe.is_empty() && unsubscribe.is_empty()) {
                self.stream.send(delta(type_url, &subscribe, &unsubscribe));
            }
            // Whether the removal of endpoints comes before the proxy unsubscribes from them is chance.
            if !(response.type_url == types::ENDPOINT && response.resources.is_empty()) {
                received.bytes += response.encoded_len();
                received.responses += 1;
            }
            received.sent.entry(response.type_url.clone()).or_default().extend(sent);
            received.removed.entry(response.type_url).or_default().extend(removed);
        }
    }
}

/// A change by chance of a small inventory.
fn any_change(random: &mut StdRng) -> Value {
    let any_document = |random: &mut StdRng| {
        let name = |random: &mut StdRng| format!("d{}", random.random_range(0..6));
        let is_deleted = random.random_range(0..5) == 0;
        match random.random_range(0..8) {
            0..3 => {
                let name = name(random);
                match is_deleted {
                    true => document("clusters", &name, Value::Null),
                    false => cluster(&name, random.random_range(1..40)),
                }
            }
            3..7 => {
                let route = name(random);
                let host = ["", "api.example.com", "*.example.com"][random.random_range(0..3)];
                let path = ["/*", "/v1/*", "/v1/orders", "/v1/{id}", "/v1/orders/*"][random.random_range(0..5)];
                let value = json!({
                    "match": format!("{host}{path}"), "to": name(random), "priority": random.random_range(0..3),
                });
                document("routes", &route, if is_deleted { Value::Null } else { value })
            }
            _ => {
                let port = 8080 + random.random_range(0..2);
                let http = json!({ "http10": random.random_range(0..2) == 0 });
                document(
                    "listeners",
                    "edge",
                    json!({ "address": format!("0.0.0.0:{port}"), "http": http }),
                )
            }
        }
    };
    let mut documents: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..random.random_range(1..4) {
        let document = any_document(random);
        documents.insert(format!("{}/{}", document["kind"], document["name"]), document);
    }
    documents.into_values().collect()
}

/// The routes document that takes a request; null: none.
async fn taker(server: &Server, request: &Value) -> Value {
    let body = json!({ "request": request, "listener": "edge" }).to_string();
    let answer = server.request(Method::POST, "/api/v1/explain", &[JSON], body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    match answer.body["route"]["name"].as_str() {
        Some(name) => json!(format!("routes/{name}")),
        None => Value::Null,
    }
}

/// `PLANS` says how many changes are made, `PLANS_SEED` which ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plan_says_is_what_a_proxy_gets() {
    let server = Server::start(&STORED).await;
    let mut proxy = Proxy::connect(&server).await;
    let seed = setting("PLANS_SEED").unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let (mut taken, mut refused, mut moved, mut drained) = (0, 0, 0, 0);
    for number in 0..setting("PLANS").unwrap_or(50) {
        let change = any_change(&mut random);
        let place = || format!("change {number} of seed {seed}: {change}");
        let planned = plan(&server, &change).await;
        let owners = planned["owners"].as_array().unwrap().clone();
        for owner in &owners {
            assert_eq!(
                taker(&server, &owner["request"]).await,
                owner["before"],
                "{owner}, {}",
                place()
            );
        }
        let body = json!({ "documents": change }).to_string();
        let answer = server.request(Method::POST, "/api/v1/apply", &[JSON], body).await;
        assert_eq!(
            planned["ok"],
            answer.status == StatusCode::OK,
            "{planned}, {}, {}",
            answer.body,
            place()
        );
        if planned["ok"] != true {
            refused += 1;
            continue;
        }
        server.read_again().await;
        let said = Said::of(&planned);
        let received = proxy.receive(|received| said.is_in(received)).await;
        said.compare(&received)
            .unwrap_or_else(|fault| panic!("{fault}: {received:?}, {}", place()));
        let listeners = received.sent.get(types::LISTENER).cloned().unwrap_or_default();
        let drains = planned["drains"].as_array().unwrap().iter();
        let drains: BTreeSet<String> = drains
            .map(|drain| drain["listener"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(drains, listeners, "{}", place());
        for owner in &owners {
            assert_eq!(
                taker(&server, &owner["request"]).await,
                owner["after"],
                "{owner}, {}",
                place()
            );
        }
        taken += 1;
        moved += owners.len();
        drained += drains.len();
    }
    eprintln!("{taken} changes taken, {refused} refused, {moved} owners, {drained} drains");
    assert!(taken > refused && refused > 0 && moved > 10 && drained > 2);
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).ok()?.parse().ok()
}
