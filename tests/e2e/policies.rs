//! Policies on a real Envoy: for every kind requests and answers, and what the upstream saw.
//!
//! One installation serves all rows: a route for each, and a listener with policies of its own.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, LISTENER, World, shared};

with_both_bootstraps!(every_kind_of_policy);

/// A request and its answer.
struct Row {
    request: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: usize,
    status: u16,
    /// Whether the upstream answered.
    forwarded: bool,
    /// Headers of the answer; an empty value: absent. `*`: any value.
    answer: &'static [(&'static str, &'static str)],
    /// Headers that the upstream saw; an empty value: absent.
    seen: &'static [(&'static str, &'static str)],
}

const ROW: Row = Row {
    request: "GET /",
    headers: &[],
    body: 0,
    status: 200,
    forwarded: true,
    answer: &[],
    seen: &[],
};

/// A row that Envoy itself answers.
const ENVOY: Row = Row {
    forwarded: false,
    ..ROW
};

const APP: (&str, &str) = ("origin", "https://app.example.com");
const OTHER: (&str, &str) = ("origin", "https://evil.example.net");
const ANNOUNCED: (&str, &str) = ("access-control-request-method", "POST");

const ROWS: &[Row] = &[
    // The listener has headers, which a route can switch off.
    Row {
        request: "GET /plain",
        answer: &[("x-guard", "on")],
        ..ROW
    },
    Row {
        request: "GET /bare",
        answer: &[("x-guard", "")],
        ..ROW
    },
    Row {
        request: "GET /nothing",
        status: 404,
        answer: &[("x-guard", "on")],
        ..ENVOY
    },
    Row {
        request: "GET /moved",
        status: 301,
        answer: &[("x-guard", "on"), ("location", "*")],
        ..ENVOY
    },
    Row {
        request: "GET /headers",
        headers: &[("x-debug", "1")],
        answer: &[("x-guard", ""), ("x-own", "1")],
        seen: &[("x-debug", ""), ("x-from", "edge")],
        ..ROW
    },
    // cors
    Row {
        request: "OPTIONS /cors",
        headers: &[APP, ANNOUNCED],
        answer: &[
            ("access-control-allow-origin", APP.1),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            ("access-control-allow-methods", "GET, HEAD, POST"),
        ],
        ..ENVOY
    },
    Row {
        request: "OPTIONS /cors",
        headers: &[OTHER, ANNOUNCED],
        answer: &[("access-control-allow-origin", "")],
        ..ENVOY
    },
    Row {
        request: "OPTIONS /cors",
        ..ROW
    },
    Row {
        request: "GET /cors",
        headers: &[APP],
        answer: &[("access-control-allow-origin", APP.1)],
        ..ROW
    },
    Row {
        request: "GET /cors",
        headers: &[OTHER],
        answer: &[("access-control-allow-origin", "")],
        ..ROW
    },
    Row {
        request: "OPTIONS /cors-post",
        headers: &[APP, ANNOUNCED],
        answer: &[("access-control-allow-origin", APP.1)],
        ..ENVOY
    },
    Row {
        request: "OPTIONS /cors-post",
        headers: &[APP, ("access-control-request-method", "PUT")],
        status: 404,
        ..ENVOY
    },
    Row {
        request: "GET /cors-post",
        status: 404,
        ..ENVOY
    },
    // ip_access
    Row {
        request: "GET /denied",
        status: 403,
        answer: &[("x-guard", "on")],
        ..ENVOY
    },
    Row {
        request: "GET /allowed",
        ..ROW
    },
    Row {
        request: "GET /elsewhere",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /peer",
        status: 403,
        ..ENVOY
    },
    // csrf
    Row {
        request: "POST /csrf",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "POST /csrf",
        headers: &[("origin", "http://any.example.com")],
        ..ROW
    },
    Row {
        request: "POST /csrf",
        headers: &[("origin", "https://app.example.com")],
        ..ROW
    },
    Row {
        request: "POST /csrf",
        headers: &[OTHER],
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /csrf",
        ..ROW
    },
    // rbac
    Row {
        request: "GET /rbac/open",
        ..ROW
    },
    Row {
        request: "POST /rbac/open",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /rbac/admin/x",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /rbac/admin",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "POST /rbac/open",
        headers: &[("x-tenant", "a")],
        ..ROW
    },
    Row {
        request: "POST /rbac/7/item",
        headers: &[("x-old", "b")],
        status: 403,
        ..ENVOY
    },
    Row {
        request: "POST /rbac/7/item",
        ..ROW
    },
    Row {
        request: "GET /rbac-default",
        ..ROW
    },
    Row {
        request: "DELETE /rbac-default",
        status: 403,
        ..ENVOY
    },
    // compression
    Row {
        request: "GET /compressed",
        headers: &[("accept-encoding", "gzip")],
        answer: &[("content-encoding", "gzip")],
        ..ROW
    },
    Row {
        request: "GET /compressed",
        headers: &[("accept-encoding", "zstd, br, gzip")],
        answer: &[("content-encoding", "br")],
        ..ROW
    },
    Row {
        request: "GET /compressed",
        headers: &[("accept-encoding", "gzip, br;q=0.5")],
        answer: &[("content-encoding", "gzip")],
        ..ROW
    },
    Row {
        request: "GET /compressed",
        answer: &[("content-encoding", "")],
        ..ROW
    },
    Row {
        request: "GET /large-only",
        headers: &[("accept-encoding", "gzip")],
        answer: &[("content-encoding", "")],
        ..ROW
    },
    // body_limit, buffer
    Row {
        request: "POST /upload",
        body: 1024,
        ..ROW
    },
    Row {
        request: "POST /upload",
        body: 1025,
        status: 413,
        ..ENVOY
    },
    Row {
        request: "POST /buffer",
        body: 1024,
        seen: &[("content-length", "1024")],
        ..ROW
    },
    Row {
        request: "POST /buffer",
        body: 1025,
        status: 413,
        ..ENVOY
    },
    // fault
    Row {
        request: "GET /fault",
        headers: &[("x-fault", "1")],
        status: 418,
        ..ENVOY
    },
    Row {
        request: "GET /fault",
        headers: &[("x-fault", "1"), ("x-calm", "1")],
        ..ROW
    },
    Row {
        request: "GET /fault",
        ..ROW
    },
    Row {
        request: "POST /fault-grpc",
        headers: &[("content-type", "application/grpc")],
        answer: &[("grpc-status", "14")],
        ..ENVOY
    },
    // sticky
    Row {
        request: "GET /sticky",
        answer: &[("set-cookie", "*")],
        ..ROW
    },
    Row {
        request: "GET /plain",
        answer: &[("set-cookie", "")],
        ..ROW
    },
    // maintenance
    Row {
        request: "GET /closed",
        status: 503,
        answer: &[("retry-after", "600"), ("content-type", "text/html"), ("x-guard", "on")],
        ..ENVOY
    },
    Row {
        request: "GET /closed",
        headers: &[("x-staff", "1")],
        answer: &[("retry-after", "")],
        ..ROW
    },
    Row {
        request: "GET /closed-cluster",
        status: 503,
        answer: &[("retry-after", "300")],
        ..ENVOY
    },
    // grpc_web
    Row {
        request: "POST /plain",
        headers: &[("content-type", "application/grpc-web")],
        seen: &[("content-type", "application/grpc-web")],
        ..ROW
    },
    // levels
    Row {
        request: "GET /by-cluster",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /by-cluster-off",
        ..ROW
    },
    Row {
        request: "GET /override",
        status: 403,
        ..ENVOY
    },
    Row {
        request: "GET /override",
        headers: &[("x-env-tag", "canary")],
        ..ROW
    },
];

fn documents(address: &str, web: &str) -> Vec<(String, Value)> {
    let endpoints = json!([{ "address": web }]);
    let all = json!(["127.0.0.0/8"]);
    let route = |path: &str, policies: Value| json!({ "match": path, "to": "web", "policies": policies });
    let documents = [
        ("clusters/web", json!({ "endpoints": endpoints })),
        (
            "clusters/guarded",
            json!({ "endpoints": endpoints, "policies": ["nobody"] }),
        ),
        (
            "clusters/closed",
            json!({ "endpoints": endpoints, "policies": [{ "maintenance": {} }] }),
        ),
        (
            "policies/guard",
            json!({ "headers": { "response": { "set": { "x-guard": "on" } } } }),
        ),
        ("policies/nobody", json!({ "ip_access": { "deny": all } })),
        (
            "policies/cors",
            json!({ "cors": { "allow_origins": ["https://app.example.com"], "allow_credentials": true, "max_age": "10m" } }),
        ),
        ("routes/plain", route("/plain", json!([]))),
        ("routes/bare", route("/bare", json!([{ "headers": "off" }]))),
        (
            "routes/moved",
            json!({ "match": "/moved", "to": { "redirect": { "path": "/plain" } } }),
        ),
        (
            "routes/headers",
            route(
                "/headers",
                json!([{ "headers": {
            "request": { "set": { "x-from": "edge" }, "remove": ["x-debug"] }, "response": { "set": { "x-own": "1" } } } }]),
            ),
        ),
        ("routes/cors", route("/cors", json!(["cors"]))),
        ("routes/cors-post", route("POST /cors-post", json!(["cors"]))),
        ("routes/denied", route("/denied", json!(["nobody"]))),
        (
            "routes/allowed",
            route(
                "/allowed",
                json!([{ "ip_access": { "allow": all, "deny": ["10.0.0.0/8"] } }]),
            ),
        ),
        (
            "routes/elsewhere",
            route(
                "/elsewhere",
                json!([{ "ip_access": { "allow": ["10.0.0.0/8", "::1"] } }]),
            ),
        ),
        (
            "routes/peer",
            route(
                "/peer",
                json!([{ "ip_access": { "allow": all, "deny": ["127.0.0.1"], "address": "peer" } }]),
            ),
        ),
        (
            "routes/csrf",
            route(
                "/csrf",
                json!([{ "csrf": { "additional_origins": ["app.example.com"] } }]),
            ),
        ),
        (
            "routes/rbac",
            route(
                "/rbac/*",
                json!([{ "rbac": { "rules": [
            { "action": "deny", "path": "/rbac/admin/*" },
            { "methods": ["GET", "HEAD"] },
            { "headers": { "x-tenant": "a" } },
            { "path": "/rbac/{id}/item", "headers": { "x-old": { "not": "b" } }, "client_ip": all },
        ] } }]),
            ),
        ),
        (
            "routes/rbac-default",
            route(
                "/rbac-default",
                json!([{ "rbac": { "rules": [{ "action": "deny", "methods": ["DELETE"] }], "default": "allow" } }]),
            ),
        ),
        (
            "routes/compressed",
            route(
                "/compressed",
                json!([{ "compression": { "algorithms": ["br", "gzip", "zstd"], "min_size": "1B" } }]),
            ),
        ),
        (
            "routes/large-only",
            route("/large-only", json!([{ "compression": { "min_size": "1MiB" } }])),
        ),
        (
            "routes/upload",
            route("/upload", json!([{ "body_limit": { "max": "1KiB" } }])),
        ),
        (
            "routes/buffer",
            route("/buffer", json!([{ "buffer": { "max": "1KiB" } }])),
        ),
        (
            "routes/fault",
            route(
                "/fault",
                json!([{ "fault": {
            "abort": { "status": 418, "percent": 100, "body": "teapot" }, "delay": { "duration": "5ms", "percent": 100 },
            "when": { "headers": { "x-fault": "1", "x-calm": { "present": false } } } } }]),
            ),
        ),
        (
            "routes/fault-grpc",
            route(
                "/fault-grpc",
                json!([{ "fault": { "abort": { "grpc_status": 14, "percent": 100 } } }]),
            ),
        ),
        ("routes/sticky", route("/sticky", json!([{ "sticky": {} }]))),
        (
            "routes/closed",
            route(
                "/closed",
                json!([{ "maintenance": {
            "retry_after": "10m", "body": "<p>soon</p>", "content_type": "text/html", "unless": { "headers": { "x-staff": "1" } } } }]),
            ),
        ),
        (
            "routes/closed-cluster",
            json!({ "match": "/closed-cluster", "to": "closed" }),
        ),
        ("routes/web", route("/web", json!([{ "grpc_web": {} }]))),
        ("routes/by-cluster", json!({ "match": "/by-cluster", "to": "guarded" })),
        (
            "routes/by-cluster-off",
            json!({ "match": "/by-cluster-off", "to": "guarded", "policies": [{ "ip_access": "off" }] }),
        ),
        (
            "routes/override",
            json!({ "match": "/override", "to": "web", "policies": ["nobody"],
            "overrides": [{ "headers": { "x-env-tag": "canary" }, "policies": [] }] }),
        ),
        (
            "routes/split",
            json!({ "match": "/split", "to": [{ "cluster": "guarded", "weight": 1 }, { "cluster": "web", "weight": 1 }] }),
        ),
        ("listeners/edge", json!({ "address": address, "policies": ["guard"] })),
    ];
    documents
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

async fn every_kind_of_policy(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let web = Upstream::start("web").await;
    assert_eq!(LISTENER, "edge");
    for (key, value) in documents(&world.address.to_string(), &web.address().to_string()) {
        world.put(&format!("/gateway/{key}"), value.to_string()).await;
    }

    let answered = || async { answer(&world, "GET /nothing", &[], 0).await.1["x-guard"] == "on" };
    eventually(LIMIT, answered, true).await;
    world.serves("GET /by-cluster-off", 200, "web").await;
    let mut wrong = Vec::new();
    for row in ROWS {
        wrong.extend(judge(row, answer(&world, row.request, row.headers, row.body).await));
        // Envoy counts a body that waits; over HTTP/2 a body of one frame is complete at once.
        if row.request == "POST /buffer" && row.status == 413 {
            continue;
        }
        let over_http2 = answer_over_http2(&world, row.request, row.headers, row.body).await;
        wrong.extend(judge(row, over_http2).into_iter().map(|why| format!("HTTP/2: {why}")));
    }
    // A path, and the status of gRPC that refuses a call.
    for (path, status) in [
        ("/denied", "7"),
        ("/csrf", "7"),
        ("/rbac/open", "7"),
        ("/override", "7"),
        ("/closed", "14"),
    ] {
        wrong.extend(refused_call(&world, path, &[], status).await);
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), world.envoy.log());

    // The answer is framed as gRPC-Web.
    let grpc_web = [("content-type", "application/grpc-web")];
    let (status, headers, body) = answer(&world, "POST /web", &grpc_web, 0).await;
    assert_eq!(
        (status, &headers["x-upstream"], body),
        (200, &json!("web"), Value::Null)
    );
    weighted_targets_have_their_own(&world).await;
    final_wins_and_a_missing_name_changes_nothing(&world).await;
    world.nothing_was_refused().await;
}

/// Status, headers and body of an answer.
pub(crate) async fn answer(world: &World, request: &str, headers: &[(&str, &str)], body: usize) -> (u16, Value, Value) {
    let (method, path) = request.split_once(' ').expect("METHOD /path");
    let url = format!("http://{}{path}", world.address);
    let mut builder = world
        .http
        .request(method.parse().expect("a method"), url)
        .header("host", "any.example.com");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    if body > 0 {
        builder = builder.body(vec![b'x'; body]);
    }
    let response = builder.send().await.expect("an answer");
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let bytes = response.bytes().await.expect("a body");
    let seen = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    (status, Value::Object(headers), seen)
}

/// The same over HTTP/2.
pub(crate) async fn answer_over_http2(
    world: &World,
    request: &str,
    headers: &[(&str, &str)],
    body: usize,
) -> (u16, Value, Value) {
    let (method, path) = request.split_once(' ').expect("METHOD /path");
    let stream = TcpStream::connect(world.address).await.expect("connect to Envoy");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("speak HTTP/2");
    tokio::spawn(connection);
    let mut builder = Request::builder()
        .method(method)
        .uri(format!("http://any.example.com{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let request = builder.body(Full::<Bytes>::from(vec![b'x'; body])).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let seen = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    (status, Value::Object(headers), seen)
}

/// Why a call of gRPC is not refused with this status.
pub(crate) async fn refused_call(world: &World, path: &str, headers: &[(&str, &str)], status: &str) -> Option<String> {
    let headers = [&[("content-type", "application/grpc"), ("te", "trailers")], headers].concat();
    let (http, answered, _) = answer_over_http2(world, &format!("POST {path}"), &headers, 0).await;
    let is_right = http == 200 && answered["grpc-status"] == status && answered["x-upstream"].is_null();
    (!is_right).then(|| format!("gRPC {path}: {http} {answered}, expected grpc-status {status}"))
}

/// Why a row does not hold.
fn judge(row: &Row, (status, answered, body): (u16, Value, Value)) -> Vec<String> {
    let place = format!("{} {:?}", row.request, row.headers);
    let mut wrong = Vec::new();
    if status != row.status || answered["x-upstream"].is_string() != row.forwarded {
        wrong.push(format!(
            "{place}: {status} {answered}, expected {} forwarded {}",
            row.status, row.forwarded
        ));
    }
    let holds = |found: &Value, expected: &str| match expected {
        "" => found.is_null(),
        "*" => found.is_string(),
        text => found == text,
    };
    for (name, expected) in row.answer {
        if !holds(&answered[*name], expected) {
            wrong.push(format!("{place}: {name} is {}, expected {expected:?}", answered[*name]));
        }
    }
    for (name, expected) in row.seen {
        let seen = &body["headers"][*name];
        if !holds(seen, expected) {
            wrong.push(format!(
                "{place}: the upstream saw {name} {seen}, expected {expected:?}"
            ));
        }
    }
    wrong
}

async fn weighted_targets_have_their_own(world: &World) {
    let mut statuses = Vec::new();
    for _ in 0..40 {
        let (status, headers, _) = answer(world, "GET /split", &[], 0).await;
        assert_eq!(headers["x-guard"], "on", "{status}");
        statuses.push(status);
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [200, 403]);
}

async fn final_wins_and_a_missing_name_changes_nothing(world: &World) {
    let is_final = json!({ "headers": { "response": { "set": { "x-guard": "final" } } }, "final": true });
    world.put("/gateway/policies/guard", is_final.to_string()).await;
    let guarded = || async { answer(world, "GET /bare", &[], 0).await.1["x-guard"].clone() };
    eventually(LIMIT, guarded, json!("final")).await;
    let entry = world.document_is("/gateway/routes/bare", "accepted").await;
    assert_eq!(
        entry["warnings"],
        json!(["policies[0]: policies/guard is final and holds instead"])
    );

    let missing = json!({ "match": "/denied", "to": "web", "policies": ["none"] });
    world.put("/gateway/routes/denied", missing.to_string()).await;
    let entry = world.document_is("/gateway/routes/denied", "rejected").await;
    assert_eq!(entry["path"], "policies[0]");
    assert_eq!(
        answer(world, "GET /denied", &[], 0).await.0,
        403,
        "the text before serves"
    );
}
