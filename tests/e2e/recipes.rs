//! The recipes of `envoy-config/recipes/`, loaded from a copy of their folders with addresses of the test, and driven with
//! requests through a real Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::calls::Calls;
use crate::listeners::{answer_to, client_hello, der, exchange_over_tls};
use crate::load::{Clients, Load};
use crate::secrets::{Site, connect_anew, current, fresh, keep_alive};
use crate::support::authority::Authority;
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::policy_services::{GrpcServices, HttpServices};
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::world::{Answer, Ask, LIMIT, ask, http_client, listener, shared};

with_both_bootstraps!(canary, blue_green);

/// The folders that a test of this file drives.
const DRIVEN: [&str; 12] = [
    "api-keys",
    "blue-green",
    "browser-app",
    "canary",
    "external-authorization",
    "failover",
    "grpc-for-all",
    "https-edge",
    "maintenance",
    "mutual-tls",
    "partners",
    "tcp-by-name",
];

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config/recipes")
}

#[test]
fn every_recipe_is_driven() {
    let entries = fs::read_dir(recipes())
        .expect("the recipes")
        .map(|entry| entry.expect("an entry"));
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, DRIVEN);
    let index = fs::read_to_string(recipes().join("README.md")).expect("the index");
    let unnamed = names
        .iter()
        .filter(|name| !index.contains(&format!("| [{name}]({name}/) |")));
    assert_eq!(
        unnamed.collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "every recipe has its line"
    );
}

/// A recipe that is served to an Envoy.
struct Served {
    folder: TempDir,
    server: Server,
    envoy: Envoy,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Served {
    /// Serve a recipe with these texts in place of others. A recipe without listeners gets one.
    async fn start(name: &str, bootstrap: Bootstrap, replaced: &[(&str, String)]) -> Self {
        Self::start_at(own_address(), name, bootstrap, replaced, &[]).await
    }

    /// Serve a recipe whose main listener has this address, with more arguments of the server.
    async fn start_at(
        address: SocketAddr,
        name: &str,
        bootstrap: Bootstrap,
        replaced: &[(&str, String)],
        arguments: &[&str],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&recipes().join(name), folder.path(), replaced);
        if !folder.path().join("listeners").is_dir() {
            write(folder.path(), "listeners/edge.json", &listener(address));
        }
        let server = Server::start(&[&["--dir", &folder.path().to_string_lossy()], arguments].concat()).await;
        server.ready().await;
        let envoy = Envoy::start(bootstrap, server.xds(), "recipe-1").await;
        envoy.ready().await;
        Self {
            folder,
            server,
            envoy,
            address,
            http: http_client(),
        }
    }

    async fn ask(&self, request: &Ask) -> Answer {
        ask(&self.http, self.address, request).await
    }

    /// Wait until a request is answered by this upstream, and give the answer.
    async fn serves(&self, request: impl Into<Ask>, upstream: &str) -> Answer {
        let request = request.into();
        let observe = || async { self.ask(&request).await.upstream };
        eventually(LIMIT, observe, upstream.to_owned()).await;
        self.ask(&request).await
    }

    /// Wait until a request is answered with this status.
    async fn answers(&self, request: impl Into<Ask>, status: u16) -> Answer {
        let request = request.into();
        let observe = || async { (request.to_string(), self.ask(&request).await.status) };
        eventually(LIMIT, observe, (request.to_string(), status)).await;
        self.ask(&request).await
    }

    /// Change a document.
    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.folder.path().join(file)).expect("a document");
        let mut document = serde_json::from_str(&text).expect("JSON");
        change(&mut document);
        write(self.folder.path(), file, &document.to_string());
    }

    /// Every document is accepted, with these warnings and no others, and Envoy has refused nothing.
    async fn all_is_accepted(&self, warnings: &[&str]) {
        let documents = self.server.get("/api/v1/documents").await;
        let entries = documents["documents"].as_array().expect("a list of documents");
        let others = entries.iter().filter(|entry| entry["state"] != "accepted");
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&Value>::new());
        let told = entries
            .iter()
            .flat_map(|entry| entry["warnings"].as_array().into_iter().flatten());
        assert_eq!(told.collect::<Vec<_>>(), warnings);
        assert_eq!(self.envoy.rejections().await, 0, "{}", self.envoy.log());
    }
}

/// Copy a folder of documents with other texts.
fn copy(from: &Path, to: &Path, replaced: &[(&str, String)]) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("a recipe") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, replaced);
            continue;
        }
        let mut text = fs::read_to_string(entry.path()).expect("a document");
        for (old, new) in replaced {
            text = text.replace(old, new);
        }
        fs::write(target, text).expect("write a document");
    }
}

/// Write a file as one step, as an editor does.
fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    let moved = folder.join(".new");
    fs::write(&moved, text).expect("write a file");
    fs::rename(moved, path).expect("move it");
}

async fn canary(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (one, two) = (Upstream::start("v1").await, Upstream::start("v1").await);
    let (new, lab) = (Upstream::start("v2").await, Upstream::start("lab").await);
    let replaced = [
        ("10.0.1.4:8080", one.address().to_string()),
        ("10.0.1.5:8080", two.address().to_string()),
        ("10.0.2.4:8080", new.address().to_string()),
        ("10.0.9.4:8080", lab.address().to_string()),
    ];
    let served = Served::start("canary", bootstrap, &replaced).await;
    let request = || Ask::from("GET api.example.com/v1/orders/7");
    let tester = || request().with("x-canary", "always");
    eventually(
        LIMIT,
        || async { served.ask(&tester()).await.upstream },
        "v2".to_owned(),
    )
    .await;

    let sides = async || {
        let mut sides = BTreeMap::new();
        for user in 0..60 {
            let name = format!("user-{user}");
            let answer = served.ask(&request().with("x-user", &name)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            sides.insert(name, answer.upstream);
        }
        sides
    };
    let before = sides().await;
    assert_eq!(sides().await, before, "users stay on their side");

    // A raised weight moves users to v2, and none back.
    served.change("routes/orders.json", |route| {
        route["to"][0]["weight"] = 50.into();
        route["to"][1]["weight"] = 50.into();
        route["mirror"][0]["percent"] = 100.into();
    });
    let moved = || async { sides().await.values().filter(|side| *side == "v2").count() > 10 };
    eventually(LIMIT, moved, true).await;
    let after = sides().await;
    let back = before
        .iter()
        .filter(|(user, side)| *side == "v2" && after[*user] != "v2");
    assert_eq!(back.collect::<Vec<_>>(), Vec::new());
    assert_eq!(served.ask(&tester()).await.upstream, "v2");
    eventually(LIMIT, || async { lab.requests() > 0 }, true).await;
    served.all_is_accepted(&[]).await;
}

async fn blue_green(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    let replaced = [
        ("10.0.1.4:8080", blue.address().to_string()),
        ("10.0.2.4:8080", green.address().to_string()),
    ];
    let served = Served::start("blue-green", bootstrap, &replaced).await;
    served.serves("GET shop.example.com/", "blue").await;
    let preview = served.serves("GET green.shop.example.com/cart", "green").await;
    assert_eq!(preview.body["host"], "shop.example.com");

    let load = Load::start(served.address, "shop.example.com", "/load", Clients::default());
    let switch = |to: &str| {
        served.change("routes/shop.json", |route| {
            route["to"] = to.into();
            route["tests"][0]["expect"]["to"] = json!([to]);
        });
    };
    switch("shop-green");
    served.serves("GET shop.example.com/", "green").await;
    switch("shop-blue");
    served.serves("GET shop.example.com/", "blue").await;
    load.reach(load.requests() + 100).await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    served.all_is_accepted(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_takes_over_and_gives_back() {
    let _shared = shared().await;
    let authority = Authority::new();
    authority.put("west", &authority.issue_for(&["orders.west.example.internal"]));
    let (one, two) = (Upstream::start("own").await, Upstream::start("own").await);
    let west = Upstream::start_tls("west", authority.server("west", None)).await;
    let replaced = [
        ("10.0.1.4:8080", one.address().to_string()),
        ("10.0.1.5:8080", two.address().to_string()),
        (
            "orders.west.example.internal:8443",
            format!("localhost:{}", west.address().port()),
        ),
        (r#""interval": "5s""#, r#""interval": "100ms""#.to_owned()),
    ];
    let bundle = authority.path("ca.pem");
    let arguments = ["--ca-bundle", &*bundle.to_string_lossy()];
    let served = Served::start_at(own_address(), "failover", Bootstrap::Sotw, &replaced, &arguments).await;
    let request = "GET orders.example.com/v1/orders/7";
    served.serves(request, "own").await;

    let load = Load::start(served.address, "orders.example.com", "/v1/orders/7", Clients::default());
    load.reach(100).await;
    for own in [&one, &two] {
        own.report_health(503);
    }
    served.serves(request, "west").await;
    load.reach(load.requests() + 100).await;
    for own in [&one, &two] {
        own.report_health(200);
    }
    served.serves(request, "own").await;
    load.reach(load.requests() + 100).await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    served.all_is_accepted(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_of_an_https_edge_are_renewed_under_load() {
    let _shared = shared().await;
    let authority = Arc::new(Authority::new());
    let renew = |name: &str| authority.put(name, &authority.issue_for(&[name]));
    renew("example.com");
    renew("example.org");
    let site = Upstream::start("site").await;
    let (secure, plain) = (own_address(), own_address());
    let path = |name: &str| authority.path(name).display().to_string();
    let replaced = [
        ("10.0.1.4:8080", site.address().to_string()),
        ("0.0.0.0:443", secure.to_string()),
        ("0.0.0.0:80", plain.to_string()),
        ("/etc/chancery/secrets/example.com/tls.crt", path("example.com.pem")),
        ("/etc/chancery/secrets/example.com/tls.key", path("example.com.key")),
        ("/etc/chancery/secrets/example.org/tls.crt", path("example.org.pem")),
        ("/etc/chancery/secrets/example.org/tls.key", path("example.org.key")),
    ];
    let arguments = ["--secret-dir", &*path("")];
    let served = Served::start_at(plain, "https-edge", Bootstrap::Delta, &replaced, &arguments).await;
    let of = |name: &'static str| Site {
        authority: Arc::clone(&authority),
        address: secure,
        name,
    };

    for name in ["example.com", "example.org"] {
        let site = of(name);
        eventually(LIMIT, || async { fresh(&site).await }, Ok(current(&authority, name))).await;
    }
    let large = "x".repeat(2000);
    let request = format!("GET /a HTTP/1.1\r\nhost: example.com\r\naccept-encoding: gzip\r\nx-pad: {large}");
    let (_, answer) = exchange_over_tls(secure, "example.com", &authority, None, &request)
        .await
        .expect("an answer");
    for header in [
        "strict-transport-security: max-age=31536000; includeSubDomains",
        "content-encoding: gzip",
        &format!("alt-svc: h3=\":{}\"; ma=86400", secure.port()),
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    answers_over_http3(secure, &authority).await;
    let redirect = served.answers("GET example.com/a?b=c", 301).await;
    assert_eq!(redirect.headers["location"], "https://example.com/a?b=c");

    // New connections and one that lasts, while the files change twice.
    let (new, lasting) = (Calls::new(), Calls::new());
    let mut clients = JoinSet::new();
    clients.spawn(connect_anew(of("example.com"), new.clone()));
    clients.spawn(keep_alive(of("example.com"), lasting.clone()));
    let modified = served.envoy.stat("listener_manager.listener_modified").await;
    for _ in 0..2 {
        new.more(5).await;
        renew("example.com");
        let site = of("example.com");
        let renewed = current(&authority, "example.com");
        eventually(LIMIT, || async { fresh(&site).await }, Ok(renewed)).await;
    }
    new.more(5).await;
    lasting.more(5).await;
    clients.shutdown().await;
    let nothing: Vec<String> = Vec::new();
    assert_eq!(
        (new.since(0).failures, lasting.since(0).failures),
        (nothing.clone(), nothing)
    );
    assert_eq!(new.since(0).by.len(), 3, "three certificates were met");
    assert_eq!(
        served.envoy.stat("listener_manager.listener_modified").await,
        modified,
        "the listener is not touched"
    );
    served.all_is_accepted(&[]).await;
}

/// The listener answers a client of HTTP/3, another Envoy.
async fn answers_over_http3(server: SocketAddr, authority: &Authority) {
    let plain = own_address();
    assert_eq!(plain.port(), server.port(), "the port in the file");
    let bootstrap = include_str!("../data/http3_client.yaml")
        .replace("PLAIN", &plain.ip().to_string())
        .replace("SERVER", &server.ip().to_string())
        .replace("NAME", "example.com")
        .replace("CA", &authority.path("ca.pem").display().to_string());
    let client = Envoy::start_with(&bootstrap, "http3-client").await;
    client.ready().await;
    let http = http_client();
    let answer = || async {
        let answer = ask(&http, plain, &"GET example.com/a".into()).await;
        (answer.status, answer.upstream)
    };
    eventually(LIMIT, answer, (200, "site".to_owned())).await;
    assert!(client.stat("cluster.edge.upstream_cx_http3_total").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_decides_and_nothing_opens_a_route() {
    let _shared = shared().await;
    let (site, legacy) = (Upstream::start("site").await, Upstream::start("legacy").await);
    let (grpc, http) = (GrpcServices::start().await, HttpServices::start().await);
    let authz = format!("localhost:{}", grpc.address().port());
    let replaced = [
        ("10.0.1.4:8080", site.address().to_string()),
        ("10.0.1.5:8080", legacy.address().to_string()),
        ("http://10.0.1.9:8080", http.url()),
        ("authz.internal:9000", authz.clone()),
        (r#""timeout": "300ms""#, r#""timeout": "5s""#.to_owned()),
    ];
    let served = Served::start("external-authorization", Bootstrap::Delta, &replaced).await;
    let allowed = |request: &'static str| Ask::from(request).with("x-allow", "yes");

    let answer = served.serves(allowed("GET www.example.com/"), "site").await;
    assert_eq!(answer.body["headers"]["x-zone"], "edge");
    served.answers("GET www.example.com/", 403).await;
    // The policy of the outermost place is final: the one of the route is not asked.
    let answer = served.serves(allowed("GET old.example.com/"), "legacy").await;
    assert_eq!(
        (&answer.body["headers"]["x-zone"], &answer.body["headers"]["x-user"]),
        (&json!("edge"), &Value::Null)
    );
    served.answers("GET old.example.com/", 403).await;
    served.answers("GET elsewhere.example.com/", 403).await;
    served.answers(allowed("GET elsewhere.example.com/"), 404).await;
    served
        .all_is_accepted(&["policies[0]: policies/authz is final and holds instead"])
        .await;

    // The service is away: closed.
    served.change("clusters/authz.json", |cluster| cluster["dns"] = "localhost:1".into());
    for request in ["GET www.example.com/", "GET old.example.com/"] {
        served.answers(allowed(request), 503).await;
    }
    served.change("clusters/authz.json", |cluster| cluster["dns"] = authz.into());
    served.serves(allowed("GET www.example.com/"), "site").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates_and_the_authority_changes_without_a_drain() {
    let _shared = shared().await;
    let (edge, partners, next, internal) = (Authority::new(), Authority::new(), Authority::new(), Authority::new());
    edge.put("edge", &edge.issue_for(&["partners.example.com"]));
    internal.put("orders", &internal.issue_for(&["orders.internal"]));
    let partner = partners.issue_for(&["spiffe://partners.example.com/acme"]);
    let stranger = partners.issue_for(&["spiffe://elsewhere.example.com/acme"]);
    let revoked = partners.issue_for(&["spiffe://partners.example.com/former"]);
    let orders = Upstream::start_tls("orders", internal.server("orders", Some(&internal))).await;

    let files = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| write(files.path(), name, text);
    put("edge-cert/tls.crt", &edge.read("edge.pem"));
    put("edge-cert/tls.key", &edge.read("edge.key"));
    put("gateway-client/tls.crt", &internal.read("client.pem"));
    put("gateway-client/tls.key", &internal.read("client.key"));
    put("internal-ca/ca.crt", &internal.read("ca.pem"));
    put("partners-ca/ca.crt", &partners.read("ca.pem"));
    put("partners-ca/ca.crl", &partners.revoke(&[&revoked]));

    let address = own_address();
    let folder = files.path().display().to_string();
    let replaced = [
        ("0.0.0.0:8443", address.to_string()),
        ("10.0.1.4:8443", orders.address().to_string()),
        ("/etc/chancery/secrets", folder.clone()),
    ];
    let arguments = ["--secret-dir", &*folder];
    let served = Served::start_at(address, "mutual-tls", Bootstrap::Sotw, &replaced, &arguments).await;

    let name = "partners.example.com";
    let request = "GET /v1/orders/7 HTTP/1.1\r\nhost: partners.example.com";
    let asked = |client: Option<&(String, String)>| {
        let (edge, client) = (&edge, client.cloned());
        async move {
            let answer = exchange_over_tls(address, name, edge, client.as_ref(), request).await;
            answer.map_or_else(|_| String::new(), |(_, answer)| answer)
        }
    };
    let status = |client: Option<&(String, String)>| {
        let asked = asked(client);
        async move { asked.await.split(' ').nth(1).unwrap_or_default().to_owned() }
    };
    eventually(LIMIT, || status(Some(&partner)), "200".to_owned()).await;
    let answer = asked(Some(&partner)).await;
    assert!(answer.contains("URI=spiffe://partners.example.com/acme"), "{answer}");
    assert!(answer.contains("x-upstream: orders"), "{answer}");
    assert_eq!(status(Some(&stranger)).await, "403", "another name");
    for (client, why) in [(None, "no certificate"), (Some(&revoked), "a revoked one")] {
        assert_eq!(status(client).await, "", "{why}");
    }
    let (shown, _) = exchange_over_tls(address, name, &edge, Some(&partner), request)
        .await
        .expect("an answer");
    assert_eq!(shown, der(&(edge.read("edge.pem"), String::new())));

    // First both authorities, then the new one alone. The listener stays as it is.
    let modified = served.envoy.stat("listener_manager.listener_modified").await;
    let (successor, none): (_, [&(String, String); 0]) = (next.issue_for(&["spiffe://partners.example.com/acme"]), []);
    assert_eq!(status(Some(&successor)).await, "");
    put(
        "partners-ca/ca.crl",
        &(partners.revoke(&[&revoked]) + &next.revoke(&none)),
    );
    put("partners-ca/ca.crt", &(partners.read("ca.pem") + &next.read("ca.pem")));
    eventually(LIMIT, || status(Some(&successor)), "200".to_owned()).await;
    assert_eq!(status(Some(&partner)).await, "200");
    put("partners-ca/ca.crl", &next.revoke(&none));
    put("partners-ca/ca.crt", &next.read("ca.pem"));
    eventually(LIMIT, || status(Some(&partner)), String::new()).await;
    assert_eq!(status(Some(&successor)).await, "200");
    assert_eq!(served.envoy.stat("listener_manager.listener_modified").await, modified);
    served.all_is_accepted(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_lets_the_office_through_and_ends_by_one_change_of_routes() {
    let _shared = shared().await;
    let shop = Upstream::start("shop").await;
    let address = own_address();
    let replaced = [
        ("10.0.1.4:8080", shop.address().to_string()),
        ("0.0.0.0:8080", address.to_string()),
    ];
    let served = Served::start_at(address, "maintenance", Bootstrap::Delta, &replaced, &[]).await;

    let closed = served.answers("GET shop.example.com/", 503).await;
    assert_eq!(
        (&closed.headers["retry-after"], &closed.body),
        (
            &http::HeaderValue::from_static("1800"),
            &json!({ "error": "back at 14:00" })
        )
    );
    let tester = || Ask::from("GET shop.example.com/").with("x-works", "let-me-see");
    served.serves(tester(), "shop").await;
    let from = |address| Ask::from("GET shop.example.com/admin/x").with("x-forwarded-for", address);
    served.serves(from("198.51.100.7"), "shop").await;
    served.answers(from("203.0.113.7"), 403).await;

    served.change("clusters/shop.json", |cluster| cluster["policies"] = json!([]));
    served.serves("GET shop.example.com/", "shop").await;
    served.answers(from("203.0.113.7"), 403).await;
    served.all_is_accepted(&[]).await;
}

/// Seconds since 1970.
fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn partners_have_rights_by_scope_and_the_issuer_changes_its_keys() {
    let _shared = shared().await;
    let (orders, login) = (Upstream::start("orders").await, HttpServices::start().await);
    let keys = format!("{}/keys", login.url());
    let replaced = [
        ("10.0.1.4:8080", orders.address().to_string()),
        ("https://login.example.com/.well-known/jwks.json", keys),
        (
            r#""audiences": ["orders"],"#,
            r#""audiences": ["orders"], "cache": "1s","#.to_owned(),
        ),
    ];
    let served = Arc::new(Served::start("partners", Bootstrap::Delta, &replaced).await);
    let claims = |partner: &str, scope: &str| json!({ "iss": "https://login.example.com/", "aud": "orders", "sub": partner, "scope": scope, "exp": seconds() + 3600 });
    let bearer = |key, partner: &str, scope: &str| format!("Bearer {}", login.token_by(key, &claims(partner, scope)));
    let asks = |method: &str, token: &str| {
        Ask::from(&*format!("{method} api.example.com/v1/orders/7")).with("authorization", token)
    };

    let (reads, writes) = (bearer(1, "acme", "orders.read"), bearer(1, "umbra", "orders.write"));
    let answer = served.serves(asks("GET", &reads), "orders").await;
    let seen = &answer.body["headers"];
    assert_eq!(
        (&seen["x-partner"], &seen["authorization"]),
        (&json!("acme"), &Value::Null)
    );
    assert!(answer.headers.contains_key("x-ratelimit-limit"), "{:?}", answer.headers);
    served.answers(asks("POST", &reads), 403).await;
    served.answers(asks("POST", &writes), 200).await;
    served.answers(asks("GET", &writes), 403).await;
    served.answers("GET api.example.com/v1/orders/7", 401).await;
    served.answers("GET api.example.com/v1/orders/healthz", 200).await;

    // First both keys, then tokens of the new one, then the new one alone. No request fails meanwhile.
    let calls = Calls::new();
    let client = tokio::spawn({
        let (served, calls, old) = (
            Arc::clone(&served),
            calls.clone(),
            asks("GET", &bearer(1, "load", "orders.read")),
        );
        async move {
            loop {
                let answer = served.ask(&old).await;
                calls.record(match answer.status {
                    200 => Ok(answer.upstream),
                    status => Err(status.to_string()),
                });
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
    calls.more(5).await;
    let renewed = bearer(2, "acme", "orders.read");
    assert_eq!(served.ask(&asks("GET", &renewed)).await.status, 401);
    login.publish(&[1, 2]);
    served.answers(asks("GET", &renewed), 200).await;
    calls.more(5).await;
    client.abort();
    assert_eq!(calls.since(0).failures, Vec::<String>::new());
    login.publish(&[2]);
    served.answers(asks("GET", &reads), 401).await;
    served.answers(asks("GET", &renewed), 200).await;

    // A burst of one partner is over its limit; another partner is not.
    let greedy = asks("GET", &bearer(2, "greedy", "orders.read"));
    let is_over = || async {
        let burst = (0..250).map(|_| served.ask(&greedy));
        join_all(burst).await.iter().any(|answer| answer.status == 429)
    };
    eventually(LIMIT, is_over, true).await;
    served.answers(asks("GET", &renewed), 200).await;
    served.all_is_accepted(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_have_keys_and_a_limit_for_each() {
    let _shared = shared().await;
    let (catalog, limits) = (Upstream::start("catalog").await, GrpcServices::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let keys_file = folder.path().join("keys");
    fs::write(&keys_file, format!("k1 {}\n", BASE64.encode([7; 32]))).expect("write the keys");
    let keys_file = keys_file.to_string_lossy().into_owned();
    let keys = json!({ "api_keys": {
        "shop": ["the-old-key-of-the-shop", "the-new-key-of-the-shop"], "limited": "a-key-that-is-over-the-quota",
    } });
    let sealed = seal("secrets/keys-2026", &keys, &keys_file);
    let replaced = [
        ("10.0.1.4:8080", catalog.address().to_string()),
        (
            "ratelimit.internal:8081",
            format!("localhost:{}", limits.address().port()),
        ),
        ("v1.k1.BASE64", sealed),
        (
            r#""domain": "edge","#,
            r#""domain": "edge", "timeout": "5s","#.to_owned(),
        ),
    ];
    let arguments = ["--secret-keys-file", &*keys_file];
    let served = Served::start_at(own_address(), "api-keys", Bootstrap::Sotw, &replaced, &arguments).await;
    let with_key = |key: &str| Ask::from("GET api.example.com/v1/catalog/7").with("x-api-key", key);

    for key in ["the-old-key-of-the-shop", "the-new-key-of-the-shop"] {
        let answer = served.serves(with_key(key), "catalog").await;
        let seen = &answer.body["headers"];
        assert_eq!((&seen["x-client"], &seen["x-api-key"]), (&json!("shop"), &Value::Null));
    }
    served.answers(with_key("a-key-of-nobody"), 401).await;
    served.answers("GET api.example.com/v1/catalog/7", 401).await;
    served.answers(with_key("a-key-that-is-over-the-quota"), 429).await;
    let is_over = || async {
        let shop = with_key("the-new-key-of-the-shop");
        let burst = (0..40).map(|_| served.ask(&shop));
        join_all(burst).await.iter().any(|answer| answer.status == 429)
    };
    eventually(LIMIT, is_over, true).await;
    served.all_is_accepted(&[]).await;
}

/// Seal a secret by the command line; the sealed text.
fn seal(key: &str, document: &Value, keys_file: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(["secret", "seal", "--secret-keys-file", keys_file, key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run chancery");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(document.to_string().as_bytes())
        .expect("write the document");
    drop(stdin);
    let output = child.wait_with_output().expect("the output");
    assert!(output.status.success(), "{output:?}");
    let sealed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    sealed["encrypted"].as_str().expect("a sealed text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_answers_grpc_browsers_and_json() {
    let _shared = shared().await;
    let greeter = GrpcServices::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/grpc_json");
    let replaced = [
        (
            "greeter.internal:9090",
            format!("localhost:{}", greeter.address().port()),
        ),
        (
            "/etc/chancery/proto/greeter.pb",
            folder.join("greeter.bin").display().to_string(),
        ),
    ];
    let arguments = ["--secret-dir", &*folder.to_string_lossy()];
    let served = Served::start_at(own_address(), "grpc-for-all", Bootstrap::Delta, &replaced, &arguments).await;

    let greeting = served.answers("GET /v1/hello/ann", 200).await;
    assert_eq!(greeting.body, json!({ "text": "ann" }));

    // A message with one field: text 1, "ann".
    let message = [0, 0, 0, 0, 5, 10, 3, b'a', b'n', b'n'];
    let call = |http: reqwest::Client, content_type: &'static str| {
        let url = format!("http://{}/greeter.v1.Greeter/Hello", served.address);
        let request = http
            .post(url)
            .header("content-type", content_type)
            .header("te", "trailers")
            .header("origin", "https://app.example.com");
        async move {
            let answer = request.body(message.to_vec()).send().await.expect("an answer");
            let allowed = answer.headers().get("access-control-allow-origin").cloned();
            (allowed, answer.bytes().await.expect("a body"))
        }
    };
    let over_http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build();
    let (_, answer) = call(over_http2.expect("a client"), "application/grpc").await;
    assert_eq!(&*answer, message);
    let (allowed, answer) = call(http_client(), "application/grpc-web+proto").await;
    assert_eq!(allowed.expect("the origin"), "https://app.example.com");
    let (first, trailers) = answer.split_at(message.len());
    assert_eq!(first, message);
    assert!(
        trailers[0] == 0x80 && String::from_utf8_lossy(trailers).contains("grpc-status:0"),
        "{trailers:?}"
    );
    served.all_is_accepted(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_its_scripts_may_call_the_api() {
    let _shared = shared().await;
    let (console, api) = (Upstream::start("console").await, Upstream::start("api").await);
    let (login, authority, address) = (HttpServices::start().await, Authority::new(), own_address());
    let names = ["console.example.com", "api.example.com"];
    authority.put("example.com", &authority.issue_for(&names));
    let path = |name: &str| authority.path(name).display().to_string();
    fs::write(path("idp-client"), "the-secret-of-the-client").expect("write a secret");
    fs::write(path("idp-cookie"), "0123456789abcdef0123456789abcdef").expect("write a secret");
    let replaced = [
        ("0.0.0.0:443", address.to_string()),
        ("10.0.1.4:8080", console.address().to_string()),
        ("10.0.1.5:8080", api.address().to_string()),
        ("/etc/chancery/secrets/example.com/tls.crt", path("example.com.pem")),
        ("/etc/chancery/secrets/example.com/tls.key", path("example.com.key")),
        ("/etc/chancery/secrets/idp-client", path("idp-client")),
        ("/etc/chancery/secrets/idp-cookie", path("idp-cookie")),
        ("https://login.example.com/token", format!("{}/token", login.url())),
        (r#""client_id": "console""#, r#""client_id": "web""#.to_owned()),
    ];
    let arguments = ["--secret-dir", &*path("")];
    let served = Served::start_at(address, "browser-app", Bootstrap::Delta, &replaced, &arguments).await;
    let asked = |request: String| {
        let authority = &authority;
        async move {
            let host = request
                .split("host: ")
                .nth(1)
                .and_then(|rest| rest.lines().next())
                .unwrap_or_default();
            let answer = exchange_over_tls(address, host, authority, None, &request).await;
            answer.map_or_else(|error| error.to_string(), |(_, answer)| answer)
        }
    };
    let page = |path: &str, headers: &str| asked(format!("GET {path} HTTP/1.1\r\nhost: console.example.com{headers}"));

    // To the provider, back with a code, and from then on by cookies.
    eventually(LIMIT, || async { status_of(&page("/a", "").await) }, 302).await;
    let sent = page("/a", "").await;
    let provider = header_of(&sent, "location").concat();
    assert!(
        provider.starts_with("https://login.example.com/authorize?"),
        "{provider}"
    );
    let state = provider.split("state=").nth(1).and_then(|rest| rest.split('&').next());
    let back = format!("/oauth2/callback?code=good&state={}", state.unwrap_or_default());
    let came = page(&back, &format!("\r\ncookie: {}", cookies_of(&sent))).await;
    assert_eq!(status_of(&came), 302, "{came}");
    assert_eq!(header_of(&came, "location"), ["https://console.example.com/a"]);
    let inside = page("/a", &format!("\r\ncookie: {}", cookies_of(&came))).await;
    assert!(
        status_of(&inside) == 200 && header_of(&inside, "x-upstream") == ["console"],
        "{inside}"
    );
    let script = page("/a", "\r\nx-requested-with: fetch").await;
    assert_eq!(status_of(&script), 401, "{script}");

    let preflight = asked(
        "OPTIONS /v1/a HTTP/1.1\r\nhost: api.example.com\r\norigin: https://app.example.com\r\naccess-control-request-method: POST"
            .to_owned(),
    );
    let preflight = preflight.await;
    assert_eq!(status_of(&preflight), 200, "{preflight}");
    assert_eq!(
        header_of(&preflight, "access-control-allow-origin"),
        ["https://app.example.com"]
    );
    assert_eq!(header_of(&preflight, "x-upstream"), [""; 0]);
    // The provider of this test speaks HTTP.
    let told =
        "oidc: \"token_endpoint\" is no https URL, so the secret of the client and the tokens travel in the clear";
    served.all_is_accepted(&[told]).await;
}

/// The status of an answer in HTTP/1.1; 0: it is none.
fn status_of(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_default()
}

/// The values of a header of an answer in HTTP/1.1.
fn header_of<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let headers = answer.lines().take_while(|line| !line.is_empty());
    let pairs = headers.filter_map(|line| line.split_once(": "));
    pairs.filter(|(own, _)| *own == name).map(|(_, value)| value).collect()
}

/// The cookies that an answer sets, as a browser sends them back.
fn cookies_of(answer: &str) -> String {
    let set = header_of(answer, "set-cookie").into_iter();
    let kept = set.filter(|cookie| !cookie.contains("=deleted") && !cookie.contains("Max-Age=0"));
    kept.map(|cookie| cookie.split(';').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("; ")
}

/// An upstream that tells its name and the client's address of the PROXY protocol, version 2.
async fn carried(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut head = [0; 28];
            if connection.read_exact(&mut head).await.is_err() {
                continue;
            }
            let client = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
            let is_second = head.starts_with(b"\r\n\r\n\0\r\nQUIT\n!\x11");
            let mut hello = Vec::with_capacity(4096);
            connection.read_buf(&mut hello).await.ok();
            let told = format!("{name} {client} {is_second}");
            connection.write_all(told.as_bytes()).await.ok();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_goes_by_name_with_the_address_of_the_client() {
    let _shared = shared().await;
    let (db, mail, address) = (carried("db").await, carried("mail").await, own_address());
    let replaced = [
        ("0.0.0.0:5443", address.to_string()),
        ("10.0.3.4:5432", db.to_string()),
        ("mail.internal:993", format!("localhost:{}", mail.port())),
    ];
    let served = Served::start_at(address, "tcp-by-name", Bootstrap::Delta, &replaced, &[]).await;
    let told = |client: &str, name: &str| {
        let mut bytes = format!("PROXY TCP4 {client} 10.8.0.1 5555 5443\r\n").into_bytes();
        bytes.extend(client_hello(name));
        async move { answer_to(address, &bytes).await }
    };
    eventually(
        LIMIT,
        || told("10.8.0.7", "db.example.com"),
        "db 10.8.0.7 true".to_owned(),
    )
    .await;
    eventually(
        LIMIT,
        || told("10.8.0.7", "a.mail.example.com"),
        "mail 10.8.0.7 true".to_owned(),
    )
    .await;
    assert_eq!(told("10.8.0.7", "www.example.com").await, "", "another name");
    assert_eq!(told("203.0.113.7", "db.example.com").await, "", "not by VPN");
    assert_eq!(
        answer_to(address, &client_hello("db.example.com")).await,
        "",
        "no address"
    );
    served.all_is_accepted(&[]).await;
}
