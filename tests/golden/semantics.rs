//! A real Envoy matches, rewrites and answers as docs/documents/routes.md states.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use reqwest::header::{HOST, LOCATION};
use reqwest::redirect::Policy;
use serde_json::Value;

use super::bootstrap;
use super::inputs::compile;
use super::support::envoy::{Envoy, own_address};
use super::support::eventually::eventually;
use super::support::upstream::Upstream;

/// Documents; `UPSTREAM` is an address, `LISTENER` too.
const DOCUMENTS: &str = r#"
listeners/edge: { address: "LISTENER" }
routes/exact: { match: /exact, to: "http://UPSTREAM", rewrite: { prefix: /new/ } }
routes/prefix: { match: /v1/orders/*, to: "http://UPSTREAM", rewrite: { prefix: /orders/ } }
routes/root: { match: /v2/orders/*, to: "http://UPSTREAM", rewrite: { prefix: / } }
routes/regex: { match: '~^/re\d+/x$', to: "http://UPSTREAM", rewrite: { prefix: /new } }
routes/template: { match: "/users/{id}/x", to: "http://UPSTREAM", rewrite: { prefix: /a%20b } }
routes/rest: { match: "/files/{rest=**}", to: "http://UPSTREAM" }
routes/all: { match: [{ hosts: [all.example.com], path: "/*" }], to: "http://UPSTREAM", rewrite: { prefix: /all } }
routes/host: { match: /host, to: "http://UPSTREAM", rewrite: { host: orders.internal } }
routes/moved: { match: /old/*, to: { redirect: { prefix: /new, code: 308 } } }
routes/moved-to-root: { match: /older/*, to: { redirect: { prefix: / } } }
routes/moved-template: { match: "/item/{id}", to: { redirect: { prefix: /items } } }
routes/secure: { match: /secure, to: { redirect: { scheme: https, host: new.example.com } } }
routes/respond: { match: /respond, to: { respond: { status: 418, body: "{}", headers: { content-type: application/json } } } }
routes/methods: { match: "PUT|POST /method", to: { respond: { status: 200 } } }
routes/header: { match: { path: /header, headers: { x-a: { not: a } } }, to: { respond: { status: 200 } } }
routes/header-else: { match: /header, to: { respond: { status: 202 } } }
routes/query: { match: { path: /query, query: { v: { not: a.b } } }, to: { respond: { status: 200 } } }
routes/query-else: { match: /query, to: { respond: { status: 202 } } }
routes/absent: { match: { path: /absent, query: { v: { present: false } } }, to: { respond: { status: 200 } } }
routes/absent-else: { match: /absent, to: { respond: { status: 202 } } }
routes/not-empty: { match: { path: /not-empty, headers: { x-a: { not: "" } } }, to: { respond: { status: 200 } } }
routes/not-empty-else: { match: /not-empty, to: { respond: { status: 202 } } }
routes/first-value: { match: { path: /first, query: { v: { not: "1" } } }, to: { respond: { status: 200 } } }
routes/first-value-else: { match: { path: /first, query: { v: "1" } }, to: { respond: { status: 202 } } }
routes/spaces: { match: { path: /spaces, query: { v: "a b" } }, to: { respond: { status: 200 } } }
routes/tilde: { match: "/%7Ejoe", to: { respond: { status: 200 } } }
routes/address: { match: "[2001:db8:0:0:0:0:0:3]/address", to: { respond: { status: 200 } } }
routes/re-all: { match: '~/re-a.*', to: { respond: { status: 200 } } }
routes/re-prefix: { match: '/re-a/*', to: { respond: { status: 202 } } }
routes/missing: { match: /missing, to: gone }
routes/regex-rewrite: { match: '~/re-w/.*', to: "http://UPSTREAM", rewrite: { regex: { pattern: '^/re-w/([^/]+)/(.*)$', with: '/\2/\1' } } }
routes/regex-part: { match: /part/*, to: "http://UPSTREAM", rewrite: { regex: { pattern: 'a+', with: 'b' } } }
routes/whole-path: { match: /whole/*, to: "http://UPSTREAM", rewrite: { path: /one%20path } }
routes/mirror-missing: { match: /mirrored, to: "http://UPSTREAM", mirror: [{ cluster: gone }] }
"#;

/// A request (`METHOD path`, perhaps with a header) and its result: `path` at the upstream, or a status and perhaps a
/// `Location`.
const EXPECTED: &[(&str, &str)] = &[
    ("GET /exact", "/new/"),
    ("GET /exact?q=1", "/new/?q=1"),
    ("GET /exact/", "404"),
    ("GET /v1/orders/7", "/orders/7"),
    ("GET /v1/orders/7?q=1", "/orders/7?q=1"),
    ("GET /v1/orders", "/orders"),
    ("GET /v1/orders/", "/orders/"),
    ("GET /v1/ordersx", "404"),
    ("GET /v1//orders/7", "/orders/7"),
    ("GET /v1/orders%2F7", "400"),
    ("GET /v2/orders/7?q=1", "/7?q=1"),
    ("GET /v2/orders", "/"),
    ("GET /v2/orders/", "/"),
    ("GET /re12/x?q=1", "/new?q=1"),
    ("GET /re12/xy", "404"),
    ("GET /users/7/x?q=1", "/a%20b?q=1"),
    ("GET /users/7/8/x", "404"),
    ("GET /files/a/b/c", "/files/a/b/c"),
    ("GET /7 host: all.example.com", "/all/7"),
    ("GET /7 host: all.example.com:8080", "/all/7"),
    ("GET / host: all.example.com", "/all/"),
    ("GET /7 host: all.example.com.", "/all/7"),
    ("GET /7 host: ALL.example.com.:8080", "/all/7"),
    ("GET /not-empty", "200"),
    ("GET /not-empty x-a: 1", "200"),
    ("GET /not-empty x-a: ", "202"),
    ("GET /first", "200"),
    ("GET /first?v=2&v=1", "200"),
    ("GET /first?v=1&v=2", "202"),
    ("GET /first?vv=2&v=1", "202"),
    ("GET /spaces?v=a%20b", "200"),
    ("GET /~joe", "200"),
    ("GET /%7ejoe", "200"),
    ("GET /address host: [2001:db8::3]", "200"),
    ("GET /re-a/7", "200"),
    ("GET /host", "/host for orders.internal"),
    (
        "GET /old/7?q=1 host: h.example.com",
        "308 http://h.example.com/new/7?q=1",
    ),
    ("GET /old host: h.example.com", "308 http://h.example.com/new"),
    ("GET /older/7 host: h.example.com", "301 http://h.example.com/7"),
    ("GET /older host: h.example.com", "301 http://h.example.com/"),
    (
        "GET /item/7?q=1 host: h.example.com",
        "301 http://h.example.com/items?q=1",
    ),
    ("GET /secure?q=1", "301 https://new.example.com/secure?q=1"),
    ("GET /respond", "418 application/json"),
    ("PUT /method", "200"),
    ("POST /method", "200"),
    ("GET /method", "404"),
    ("GET /header", "200"),
    ("GET /header x-a: b", "200"),
    ("GET /header x-a: a", "202"),
    ("GET /query", "200"),
    ("GET /query?v=a.b", "202"),
    ("GET /query?x&v=a.b&y=1", "202"),
    ("GET /query?v=aXb", "200"),
    ("GET /query?v=a.bc&xv=a.b", "200"),
    ("GET /absent", "200"),
    ("GET /absent?v", "202"),
    ("GET /missing", "503"),
    ("GET /re-w/a/b/c?q=1", "/b/c/a?q=1"),
    ("GET /re-w/a", "/re-w/a"),
    ("GET /part/aab/a?q=aa", "/pbrt/bb/b?q=aa"),
    ("GET /whole/a?q=1", "/one%20path?q=1"),
    ("GET /whole", "/one%20path"),
    ("GET /mirrored", "/mirrored"),
    ("GET /nothing", "404"),
];

#[tokio::test]
async fn envoy_matches_rewrites_and_answers_as_documented() {
    let upstream = Upstream::start("echo").await;
    let listener = own_address();
    let documents = DOCUMENTS
        .replace("UPSTREAM", &upstream.address().to_string())
        .replace("LISTENER", &listener.to_string());
    let envoy = Envoy::start_with(&bootstrap::of_group(&compile(&documents), "default"), "golden").await;
    envoy.ready().await;
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .build()
        .expect("a client");
    let base = format!("http://{listener}");
    let answers = || async { client.get(format!("{base}/respond")).send().await.is_ok() };
    eventually(Duration::from_secs(5), answers, true).await;

    let mut wrong = String::new();
    for (request, expected) in EXPECTED {
        let seen = outcome(&client, &base, request).await;
        if seen != *expected {
            writeln!(wrong, "{request}: expected {expected}, got {seen}").expect("a String takes all");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint_than_the_one_that_failed() {
    let upstream = Upstream::start("alive").await;
    let listener = own_address();
    // Nothing listens on port 1. The pick of an endpoint is random, so that a plain retry fails half of the time.
    let documents = format!(
        r#"
listeners/edge: {{ address: "{listener}" }}
clusters/half: {{ endpoints: [{{ address: "{}" }}, {{ address: "127.0.0.1:1" }}], lb: {{ policy: random }} }}
routes/half: {{ match: /*, to: half, retry: {{ attempts: 1, on: [connect-failure] }} }}
"#,
        upstream.address()
    );
    let envoy = Envoy::start_with(&bootstrap::of_group(&compile(&documents), "default"), "golden-retry").await;
    envoy.ready().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{listener}/");
    let answers = || async { client.get(&url).send().await.is_ok() };
    eventually(Duration::from_secs(5), answers, true).await;

    let mut failed = 0;
    for _ in 0..200 {
        let response = client.get(&url).send().await.expect("a response");
        failed += u32::from(response.status() == 503);
    }
    // Some 50 with a plain retry; some 6 when the first retry and three further picks all hit the dead endpoint.
    assert!(failed < 25, "{failed} of 200 requests failed");
}

#[tokio::test]
async fn envoy_mirrors_hashes_and_upgrades_as_documented() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let copies = Upstream::start("copies").await;
    let listener = own_address();
    let documents = format!(
        r#"
listeners/edge: {{ address: "{listener}" }}
clusters/both: {{ endpoints: [{{ address: "{one}" }}, {{ address: "{two}" }}], lb: {{ policy: ring_hash }} }}
clusters/one: {{ endpoints: [{{ address: "{one}" }}] }}
clusters/two: {{ endpoints: [{{ address: "{two}" }}] }}
clusters/copies: {{ endpoints: [{{ address: "{copies}" }}] }}
routes/plain: {{ match: /plain, to: one }}
routes/hashed: {{ match: /hashed, to: both, hash_on: [{{ header: x-user, terminal: true }}, {{ header: x-page }}] }}
routes/cookie: {{ match: /cookie, to: both, hash_on: [{{ cookie: {{ name: page, ttl: 1h, path: /x }} }}] }}
routes/no-cookie: {{ match: /no-cookie, to: both, hash_on: [{{ cookie: {{ name: page, ttl: null }} }}] }}
routes/split:
  match: /split
  to: [{{ cluster: one, weight: 1 }}, {{ cluster: two, weight: 1 }}]
  split_by: hash_on
  hash_on: [{{ header: x-user }}, {{ header: x-page }}]
routes/mirrored: {{ match: /mirrored, to: one, mirror: [{{ cluster: copies }}] }}
routes/unmirrored: {{ match: /unmirrored, to: one, mirror: [{{ cluster: copies, percent: 0 }}] }}
routes/socket: {{ match: /socket, to: one, websocket: true }}
routes/no-socket: {{ match: /no-socket, to: one, websocket: false }}
"#,
        one = one.address(),
        two = two.address(),
        copies = copies.address()
    );
    let envoy = Envoy::start_with(&bootstrap::of_group(&compile(&documents), "default"), "golden-parts").await;
    envoy.ready().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = |path: &str| format!("http://{listener}{path}");
    let answers = || async { client.get(url("/plain")).send().await.is_ok() };
    eventually(Duration::from_secs(5), answers, true).await;

    let by = |path: &'static str, headers: [(&'static str, String); 2]| {
        let request = headers
            .into_iter()
            .fold(client.get(url(path)), |request, (name, value)| {
                request.header(name, value)
            });
        async move {
            let response = request.send().await.expect("a response");
            response.headers()["x-upstream"].to_str().expect("a name").to_owned()
        }
    };
    for path in ["/hashed", "/split"] {
        let mut chosen = BTreeSet::new();
        for user in 0..20 {
            let mut of_user = BTreeSet::new();
            for page in 0..4 {
                of_user.insert(by(path, [("x-user", format!("u{user}")), ("x-page", page.to_string())]).await);
            }
            assert_eq!(of_user.len(), 1, "{path}: user {user} stays at {of_user:?}");
            chosen.extend(of_user);
        }
        assert_eq!(chosen.len(), 2, "{path}: all 20 users at {chosen:?}");
    }

    let cookie = client.get(url("/cookie")).send().await.expect("a response");
    let cookie = cookie.headers()["set-cookie"].to_str().expect("a cookie").to_owned();
    assert!(
        cookie.starts_with("page=") && cookie.contains("Max-Age=3600") && cookie.contains("Path=/x"),
        "{cookie}"
    );
    let none = client.get(url("/no-cookie")).send().await.expect("a response");
    assert!(!none.headers().contains_key("set-cookie"));

    client.get(url("/unmirrored")).send().await.expect("a response");
    client.get(url("/mirrored")).send().await.expect("a response");
    eventually(Duration::from_secs(5), || async { copies.requests() }, 1).await;

    for (path, status) in [("/socket", 200), ("/no-socket", 403), ("/plain", 403)] {
        let request = client
            .get(url(path))
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        // The upstream speaks no WebSocket: an upgrade that passes is answered by a plain 200.
        let response = request.send().await.expect("a response");
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

async fn outcome(client: &reqwest::Client, base: &str, request: &str) -> String {
    let mut words = request.splitn(3, ' ');
    let method = words.next().and_then(|method| method.parse().ok()).expect("a method");
    let mut builder = client.request(method, format!("{base}{}", words.next().expect("a path")));
    if let Some((name, value)) = words.next().and_then(|header| header.split_once(": ")) {
        builder = builder.header(if name == "host" { HOST.as_str() } else { name }, value);
    }
    let response = builder
        .send()
        .await
        .unwrap_or_else(|error| panic!("{request}: {error}"));
    let status = response.status().as_u16();
    if response.headers().contains_key("x-upstream") {
        let echo: Value = response.json().await.expect("the upstream's JSON");
        let host = echo["host"].as_str().filter(|host| *host == "orders.internal");
        let path = echo["path"].as_str().unwrap_or_default();
        return host.map_or_else(|| path.to_owned(), |host| format!("{path} for {host}"));
    }
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let detail = text(LOCATION.as_str()).or_else(|| text("content-type").filter(|kind| *kind == "application/json"));
    detail.map_or_else(|| status.to_string(), |detail| format!("{status} {detail}"))
}
