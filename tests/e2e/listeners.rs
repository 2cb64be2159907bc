//! Listeners in a real Envoy: addresses of clients, logs, redirects, TCP by name, and the connections that a change
//! drains.
//!
//! One bootstrap is enough: what a listener does with a connection does not depend on its delivery.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::authority::Authority;
use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{Ask, LIMIT, World, ask, shared};

/// Put a listener and wait until it accepts connections.
pub(crate) async fn put_listener(world: &World, name: &str, document: &Value) -> SocketAddr {
    let address = own_address();
    let mut document = document.clone();
    document["address"] = json!(address.to_string());
    world
        .put(&format!("/gateway/listeners/{name}"), document.to_string())
        .await;
    eventually(LIMIT, || async { TcpStream::connect(address).await.is_ok() }, true).await;
    address
}

/// An upstream that writes its name to each connection, and ends it.
async fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            // The upstream leaves first, so the bytes of the client are read away: a reset would overtake the name.
            let mut hello = Vec::with_capacity(4096);
            connection.read_buf(&mut hello).await.ok();
            connection.write_all(name.as_bytes()).await.ok();
        }
    });
    address
}

/// The answer to these bytes on a new connection; empty: it was closed.
pub(crate) async fn answer_to(address: SocketAddr, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.expect("connect");
    connection.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let end = timeout(LIMIT, connection.read_to_end(&mut answer)).await;
    end.expect("the connection ends").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The first message of a TLS client that wants this name.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("write to memory");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_goes_to_the_cluster_of_its_name() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let (db, mail, rest) = (named("db").await, named("mail").await, named("rest").await);
    for (name, address) in [("db", db), ("mail", mail)] {
        let cluster = json!({ "endpoints": [{ "address": address.to_string() }] });
        world
            .put(&format!("/gateway/clusters/{name}"), cluster.to_string())
            .await;
    }
    let document = json!({ "tcp": [
        { "sni": ["db.example.com"], "to": "db", "hash_on": "client_ip" },
        { "sni": ["*.mail.example.com"], "to": [{ "cluster": "mail", "weight": 1 }, { "cluster": "none", "weight": 0 }] },
        { "to": format!("http://{rest}") },
    ] });
    let address = put_listener(&world, "by-name", &document).await;

    for (bytes, expected) in [
        (client_hello("db.example.com"), "db"),
        (client_hello("DB.example.com"), "db"),
        (client_hello("a.mail.example.com"), "mail"),
        (client_hello("mail.example.com"), "rest"),
        (
            b"no TLS at all, and long enough to be sure of that\r\n".to_vec(),
            "rest",
        ),
    ] {
        eventually(LIMIT, || answer_to(address, &bytes), expected.to_owned()).await;
    }

    let entry = world.document_is("/gateway/listeners/by-name", "accepted").await;
    let warnings = entry["warnings"].to_string();
    assert!(warnings.contains("clusters/none"), "{entry}");
    world.nothing_was_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_client_comes_from_the_proxy_in_front() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let upstream = Upstream::start("a").await;
    world
        .put(
            "/gateway/routes/a",
            json!({ "match": "/a", "to": upstream.url() }).to_string(),
        )
        .await;
    let request = "GET /a HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n";

    let required = put_listener(&world, "required", &json!({ "proxy_protocol": true })).await;
    let told = format!("PROXY TCP4 203.0.113.7 10.0.0.1 5555 80\r\n{request}");
    eventually(
        LIMIT,
        || async {
            answer_to(required, told.as_bytes())
                .await
                .contains("\"x-forwarded-for\":\"203.0.113.7\"")
        },
        true,
    )
    .await;
    assert_eq!(answer_to(required, request.as_bytes()).await, "", "closed without it");

    let second = json!({ "proxy_protocol": { "versions": [2], "optional": true } });
    let optional = put_listener(&world, "optional", &second).await;
    eventually(
        LIMIT,
        || async {
            answer_to(optional, request.as_bytes())
                .await
                .starts_with("HTTP/1.1 200")
        },
        true,
    )
    .await;
    let entry = world.document_is("/gateway/listeners/optional", "accepted").await;
    assert!(
        entry["warnings"].to_string().contains("proxy_protocol.optional"),
        "{entry}"
    );

    let by_networks = json!({ "http": { "client_ip": { "trusted_cidrs": ["127.0.0.0/8", "10.0.0.0/8"] } } });
    let by_networks = put_listener(&world, "by-networks", &by_networks).await;
    let forwarded = || {
        Ask::from("GET /a")
            .with("x-forwarded-for", "203.0.113.9, 10.0.0.1")
            .with("x-request-id", "mine")
    };
    let answer = || async { ask(&world.http, by_networks, &forwarded()).await };
    eventually(LIMIT, || async { answer().await.status }, 200).await;
    let headers = &answer().await.body["headers"];
    assert_ne!(headers["x-request-id"], "mine", "a client's id is replaced");
    let chain = headers["x-forwarded-for"].as_str().unwrap_or_default();
    assert!(chain.starts_with("203.0.113.9, 10.0.0.1"), "{headers}");
    world.nothing_was_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_cleaned_logged_and_redirected_as_the_document_says() {
    let _shared = shared().await;
    let logs = tempfile::tempdir().expect("a folder");
    let folder = logs.path().to_str().expect("a path");
    let world = World::start_with(Bootstrap::Delta, &["--access-log-dir", folder]).await;
    let upstream = Upstream::start("a").await;
    world
        .put(
            "/gateway/routes/a",
            json!({ "match": "/a", "to": upstream.url() }).to_string(),
        )
        .await;
    let own = json!({ "match": "/own", "to": { "respond": { "status": 418, "body": "own" } } });
    world.put("/gateway/routes/own", own.to_string()).await;
    let (all, errors) = (logs.path().join("all.log"), logs.path().join("errors.log"));
    let document = json!({ "http": {
        "errors": "json", "remove_request_headers": ["X-User"], "http10": true, "server_header": "edge",
        "access_log": [
            { "to": format!("file:{}", all.display()), "fields": { "tenant": "%REQ(X-TENANT)%" } },
            { "to": format!("file:{}", errors.display()), "format": { "path": "%REQ(:PATH)%" }, "only": { "status": ">=500" } },
        ],
    } });
    let address = put_listener(&world, "logged", &document).await;
    let world = &world;
    let call = |request: Ask| async move { ask(&world.http, address, &request).await };

    eventually(LIMIT, || async { call(Ask::from("GET /a")).await.status }, 200).await;
    let answer = call(
        Ask::from("GET /a?key=secret")
            .with("x-user", "root")
            .with("x-tenant", "t1"),
    )
    .await;
    assert_eq!(answer.body["headers"]["x-user"], Value::Null);
    assert_eq!(answer.headers["server"], "edge");
    assert!(
        answer.headers.keys().all(|name| !name.as_str().starts_with("x-envoy")),
        "{:?}",
        answer.headers
    );
    assert_eq!(
        call(Ask::from("GET /own")).await.body,
        json!("own"),
        "the body of a route is kept"
    );
    let missing = call(Ask::from("GET /none")).await;
    assert_eq!(missing.headers["content-type"], "application/problem+json");
    assert_eq!(
        (&missing.body["status"], &missing.body["detail"]),
        (&json!(404), &json!("route_not_found"))
    );
    assert_eq!(
        call(Ask::from("GET /a").with("a_b", "1")).await.status,
        400,
        "an underscore"
    );
    let old = answer_to(address, b"GET /a HTTP/1.0\r\n\r\n").await;
    assert!(
        old.starts_with("HTTP/1.0 200") || old.starts_with("HTTP/1.1 200"),
        "{old}"
    );

    let lines = || async {
        let text = std::fs::read_to_string(&all).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["tenant"] == "t1")
            .map(|line| json!([line["path"], line["route"], line["response_code"], line["method"]]))
            .collect::<Vec<_>>()
    };
    // Envoy writes its buffer after 10 s at most.
    eventually(
        Duration::from_secs(20),
        lines,
        vec![json!(["/a", "routes/a", 200, "GET"])],
    )
    .await;
    assert_eq!(
        std::fs::read_to_string(&errors).expect("the file is there"),
        "",
        "no answer was a 5xx"
    );

    let redirecting = put_listener(world, "to-https", &json!({ "http": { "redirect_to_https": true } })).await;
    let acme = json!({ "match": "/.well-known/*", "to": upstream.url(), "listeners": ["to-https"] });
    world.put("/gateway/routes/acme", acme.to_string()).await;
    let location = |request: &'static str| async move {
        let answer = ask(&world.http, redirecting, &request.into()).await;
        let location = answer.headers.get("location").and_then(|value| value.to_str().ok());
        (answer.status, location.unwrap_or_default().to_owned())
    };
    eventually(LIMIT, || location("GET a.com/.well-known/x"), (200, String::new())).await;
    assert_eq!(
        location("GET a.com:8080/a?b=c").await,
        (301, "https://a.com/a?b=c".to_owned())
    );
    world.nothing_was_refused().await;
}

/// A connection with TLS to a server of this authority.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    name: &str,
    authority: &Authority,
    client: Option<&(String, String)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.read("ca.pem").as_bytes()).expect("a certificate");
    roots.add(ca).expect("a root");
    let builder = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let name = name.to_owned().try_into().expect("a name");
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// The certificate that a server shows to a client that asks for a name, and its answer to a request.
async fn over_tls(
    address: SocketAddr,
    name: &str,
    authority: &Authority,
    client: Option<&(String, String)>,
) -> std::io::Result<(Vec<u8>, String)> {
    exchange_over_tls(address, name, authority, client, "GET /a HTTP/1.1\r\nhost: a.com").await
}

/// The same for any request: its head without the end.
pub(crate) async fn exchange_over_tls(
    address: SocketAddr,
    name: &str,
    authority: &Authority,
    client: Option<&(String, String)>,
    request: &str,
) -> std::io::Result<(Vec<u8>, String)> {
    let mut stream = connect_tls(address, name, authority, client).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.map(|certificate| certificate.to_vec()).unwrap_or_default();
    stream
        .write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((shown, String::from_utf8_lossy(&answer).into_owned()))
}

pub(crate) fn der((certificate, _): &(String, String)) -> Vec<u8> {
    CertificateDer::from_pem_slice(certificate.as_bytes())
        .expect("a certificate")
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_chosen_by_name_and_asked_of_clients() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let upstream = Upstream::start("a").await;
    world
        .put(
            "/gateway/routes/a",
            json!({ "match": "/a", "to": upstream.url() }).to_string(),
        )
        .await;
    let authority = Authority::new();
    let (one, two) = (
        authority.issue_for(&["one.example.com"]),
        authority.issue_for(&["*.two.example.com"]),
    );
    for (name, (certificate, key)) in [("one", &one), ("two", &two)] {
        let secret = json!({ "certificate": certificate, "private_key": key });
        world.put(&format!("/gateway/secrets/{name}"), secret.to_string()).await;
    }
    world
        .put(
            "/gateway/secrets/ca",
            json!({ "ca": authority.read("ca.pem") }).to_string(),
        )
        .await;

    let document = json!({ "tls": { "certificates": ["one", "two"] }, "http": { "http3": true } });
    let address = put_listener(&world, "secure", &document).await;
    for (name, expected) in [("one.example.com", &one), ("a.two.example.com", &two)] {
        let seen = || async {
            over_tls(address, name, &authority, None)
                .await
                .ok()
                .map(|(shown, _)| shown)
        };
        eventually(LIMIT, seen, Some(der(expected))).await;
    }
    let (_, answer) = over_tls(address, "one.example.com", &authority, None)
        .await
        .expect("an answer");
    let alt_svc = format!("alt-svc: h3=\":{}\"; ma=86400", address.port());
    assert!(answer.contains(&alt_svc), "{answer}");
    let has_quic = || async { world.envoy.admin("/listeners").await.contains("secure/quic::") };
    eventually(LIMIT, has_quic, true).await;

    let document = json!({ "tls": {
        "certificates": ["one"], "client_ca": "ca", "client_certificate": "required",
        "client_names": [{ "dns": { "suffix": ".two.example.com" } }], "forward_client_certificate": "set",
    } });
    let mutual = put_listener(&world, "mutual", &document).await;
    let served = |client: Option<(String, String)>| {
        let authority = &authority;
        async move {
            let answer = over_tls(mutual, "one.example.com", authority, client.as_ref()).await;
            answer.map(|(_, answer)| answer).unwrap_or_default()
        }
    };
    let is_ok = || async { served(Some(two.clone())).await.starts_with("HTTP/1.1 200") };
    eventually(LIMIT, is_ok, true).await;
    let answer = served(Some(two.clone())).await;
    assert!(answer.contains("DNS=*.two.example.com"), "{answer}");
    assert_eq!(served(None).await, "", "no certificate");
    assert_eq!(served(Some(one.clone())).await, "", "another name");
    let other = Authority::new().issue_for(&["a.two.example.com"]);
    assert_eq!(served(Some(other)).await, "", "another authority");
    world.nothing_was_refused().await;
}

/// A connection with HTTP/1.1 that is kept open.
pub(crate) struct Kept<Stream>(pub(crate) Stream);

impl Kept<TcpStream> {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("connect"))
    }
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Kept<Stream> {
    /// A request and its answer; `None`: the connection is closed.
    pub(crate) async fn ask(&mut self) -> Option<String> {
        self.0
            .write_all(b"GET /own HTTP/1.1\r\nhost: a.com\r\n\r\n")
            .await
            .ok()?;
        let mut answer = String::new();
        while !answer.ends_with("own") {
            let mut bytes = [0; 4096];
            let count = timeout(LIMIT, self.0.read(&mut bytes)).await.expect("an answer").ok()?;
            if count == 0 {
                return None;
            }
            answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Some(answer)
    }

    /// Ask until the connection ends or is told to; whether it was within the time.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> bool {
        let ended = async {
            loop {
                match self.ask().await {
                    Some(answer) if !answer.contains("connection: close") => sleep(Duration::from_millis(50)).await,
                    _ => return,
                }
            }
        };
        timeout(time, ended).await.is_ok()
    }
}

/// The table of docs/documents/listeners.md, Changes and connections, row by row; `drains` has the rows of TLS, TCP and
/// sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_drains_the_connections_that_the_table_names_and_no_others() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let own = |body: &str| json!({ "match": "/own", "to": { "respond": { "status": 200, "body": body } } }).to_string();
    world.put("/gateway/routes/own", own("own")).await;
    let address = put_listener(&world, "changing", &json!({})).await;
    let other = put_listener(&world, "other", &json!({})).await;
    eventually(
        LIMIT,
        || async { ask(&world.http, address, &"GET /own".into()).await.status },
        200,
    )
    .await;
    eventually(
        LIMIT,
        || async { ask(&world.http, other, &"GET /own".into()).await.status },
        200,
    )
    .await;
    let mut elsewhere = Kept::open(other).await;

    // Routes change nothing of a listener.
    let mut kept = Kept::open(address).await;
    let before = world.envoy.stat("listener_manager.listener_modified").await;
    for change in 0..5 {
        world.put("/gateway/routes/own", own(&format!("{change} own"))).await;
        let body = format!("{change} own");
        eventually(
            LIMIT,
            || async { ask(&world.http, address, &"GET /own".into()).await.body },
            json!(body),
        )
        .await;
        let answer = kept.ask().await.expect("the connection is kept");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(world.envoy.stat("listener_manager.listener_modified").await, before);

    // Any other field drains the filter chains that it changed, within --drain-time-s (5 s).
    let rows = [
        json!({ "http": { "max_headers": 99 } }),
        json!({ "buffer": "64KiB" }),
        json!({ "connections": { "max": 1000 } }),
        json!({ "proxy_protocol": { "optional": true } }),
        json!({ "http": { "access_log": "json" }, "proxy_protocol": { "optional": true } }),
    ];
    for row in rows {
        let mut kept = Kept::open(address).await;
        assert!(kept.ask().await.is_some());
        let mut document = row.clone();
        document["address"] = json!(address.to_string());
        world.put("/gateway/listeners/changing", document.to_string()).await;
        assert!(kept.ends_within(Duration::from_secs(15)).await, "{row} drains");
        eventually(
            LIMIT,
            || async { ask(&world.http, address, &"GET /own".into()).await.status },
            200,
        )
        .await;
    }

    // Another address: all connections of the listener.
    let mut kept = Kept::open(address).await;
    assert!(kept.ask().await.is_some());
    put_listener(&world, "changing", &json!({ "proxy_protocol": { "optional": true } })).await;
    assert!(
        kept.ends_within(Duration::from_secs(15)).await,
        "another address drains"
    );
    let answer = elsewhere.ask().await.expect("the other listener's connection is kept");
    assert!(!answer.contains("connection: close"), "{answer}");
    world.nothing_was_refused().await;
}
