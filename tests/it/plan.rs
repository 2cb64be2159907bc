//! Plans: what `?dry_run=true` says of a change is what then happens on a scripted proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chancery::xds::options::Listen;
use chancery::xds::server::Server as XdsServer;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admin::Server;
use crate::support::ads_client::{ADS_DELTA, AdsStream, Event, connect, contents, delta, delta_ack, types};
use crate::xds_fixture::options;

/// After so long without a response, the proxy has all of a change.
const QUIET: Duration = Duration::from_millis(150);

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
        proxy.receive().await;
        proxy
    }

    /// Everything until the server is silent; each response is answered, and new names are subscribed to.
    async fn receive(&mut self) -> Received {
        let mut received = Received::default();
        loop {
            let response = match self.stream.event(QUIET).await {
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
            let new: Vec<&str> = sent
                .iter()
                .filter(|name| known.insert((*name).clone()))
                .map(String::as_str)
                .collect();
            if !type_url.is_empty() && !new.is_empty() {
                self.stream.send(delta(type_url, &new, &[]));
            }
            received.bytes += response.encoded_len();
            received.sent.entry(response.type_url.clone()).or_default().extend(sent);
            received.removed.entry(response.type_url).or_default().extend(removed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plan_says_is_what_a_proxy_gets() {
    let server = Server::start(&STORED).await;
    let mut proxy = Proxy::connect(&server).await;
    let changes = [
        json!([cluster("a", 2), route("a", "/a/*", "a")]),
        json!([route("a", "/a/{id}", "orders")]),
        json!([cluster("a", 40)]),
        json!([
            cluster("b", 1),
            cluster("c", 1),
            route("b", "b.example.com/*", "b"),
            route("c", "/c", "c")
        ]),
        json!([
            document("routes", "b", Value::Null),
            document("clusters", "b", Value::Null)
        ]),
        json!([document(
            "clusters",
            "a",
            json!({ "endpoints": [{ "address": "10.0.0.9:80" }], "connect_timeout": "3s" })
        )]),
        json!([document("listeners", "inner", json!({ "address": "127.0.0.1:9090" }))]),
        json!([document(
            "routes",
            "c",
            json!({ "match": "/c", "to": { "respond": { "status": 200, "body": "c" } } })
        )]),
        json!([document("routes", "never", Value::Null)]),
    ];
    for change in changes {
        let planned = plan(&server, &change).await;
        assert_eq!(planned["ok"], true, "{planned}");
        let applied = post(&server, "", &change).await;
        server.read_again().await;
        let received = proxy.receive().await;
        assert_eq!(
            planned["documents"].as_array().map(Vec::len),
            applied["documents"].as_array().map(Vec::len)
        );

        let names = |value: &Value| -> BTreeSet<String> {
            let names = value.as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        for (word, type_url) in [
            ("clusters", types::CLUSTER),
            ("endpoints", types::ENDPOINT),
            ("listeners", types::LISTENER),
            ("routes", types::ROUTE),
        ] {
            let of_type = &planned["resources"][word];
            let put: BTreeSet<String> = names(&of_type["added"])
                .union(&names(&of_type["changed"]))
                .cloned()
                .collect();
            let mut sent = received.sent.get(type_url).cloned().unwrap_or_default();
            if type_url == types::ENDPOINT {
                // Endpoints of a changed cluster are sent again.
                sent.retain(|name| put.contains(name));
            }
            assert_eq!(sent, put, "{word} of {change}: {received:?}");
            let removed = received.removed.get(type_url).cloned().unwrap_or_default();
            if type_url == types::CLUSTER || type_url == types::LISTENER {
                assert_eq!(removed, names(&of_type["removed"]), "{word} of {change}");
            }
        }
        let said = usize::try_from(planned["bytes"]["delta"].as_u64().unwrap()).unwrap();
        let got = received.bytes;
        assert!(
            said.abs_diff(got) * 10 <= got,
            "{said} planned, {got} received for {change}: {received:?}"
        );
    }
}
