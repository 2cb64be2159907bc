//! The connections that a change of TLS, TCP or sockets drains in a real Envoy: rows of the table of
//! docs/documents/listeners.md, Changes and connections.
//!
//! Every row has a listener of its own, and all change at once: Envoy drains for 5 s.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::listeners::{Kept, client_hello, connect_tls, put_listener};
use crate::support::authority::Authority;
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::world::{LIMIT, World, shared};

/// `--drain-time-s` of Envoy is 5; the machine may be busy.
const DRAINED_WITHIN: Duration = Duration::from_secs(15);
const NAME: &str = "one.example.com";

/// An upstream that gives back all bytes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = connection.split();
                // It ends with its client.
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    address
}

/// A connection to an [`echo`], kept open.
struct Passed {
    connection: TcpStream,
    bytes: Vec<u8>,
}

impl Passed {
    /// Connect by this name; the first message chooses the filter chain.
    async fn open(address: SocketAddr, name: &str) -> Self {
        let connection = TcpStream::connect(address).await.expect("connect");
        let bytes = client_hello(name);
        Self { connection, bytes }
    }

    /// Whether the bytes come back.
    async fn echoes(&mut self) -> bool {
        let mut back = vec![0; self.bytes.len()];
        let exchange = async {
            self.connection.write_all(&self.bytes).await?;
            self.connection.read_exact(&mut back).await
        };
        timeout(LIMIT, exchange).await.expect("an answer or an end").is_ok()
    }

    async fn ends_within(&mut self, time: Duration) -> bool {
        let ended = async {
            while self.echoes().await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(time, ended).await.is_ok()
    }
}

/// Change the document of a listener.
async fn change(world: &World, name: &str, address: SocketAddr, change: &Value) {
    let mut document = change.clone();
    document["address"] = json!(address.to_string());
    let key = format!("/gateway/listeners/{name}");
    world.put(&key, document.to_string()).await;
}

/// Two echoes behind one address, by name.
fn by_name(of_one: &Value) -> Value {
    let mut one = json!({ "sni": [NAME], "to": "one" });
    for (field, value) in of_one.as_object().expect("an object") {
        one[field] = value.clone();
    }
    json!({ "tcp": [one, { "sni": ["two.example.com"], "to": "two" }] })
}

/// Put the secrets, the echoes and the route of every row.
async fn begin(authority: &Authority) -> World {
    let world = World::start(Bootstrap::Delta).await;
    put_certificate(&world, authority, "one").await;
    put_certificate(&world, authority, "two").await;
    let ca = json!({ "ca": authority.read("ca.pem") });
    world.put("/gateway/secrets/ca", ca.to_string()).await;
    let tickets = json!({ "session_tickets": ["A".repeat(106) + "A="] });
    world.put("/gateway/secrets/tickets", tickets.to_string()).await;
    for name in ["one", "two"] {
        let cluster = json!({ "endpoints": [{ "address": echo().await.to_string() }] });
        let key = format!("/gateway/clusters/{name}");
        world.put(&key, cluster.to_string()).await;
    }
    let own = json!({ "match": "/own", "to": { "respond": { "status": 200, "body": "own" } } });
    world.put("/gateway/routes/own", own.to_string()).await;
    world
}

async fn put_certificate(world: &World, authority: &Authority, name: &str) {
    let (certificate, key) = authority.issue_for(&[&format!("{name}.example.com")]);
    let secret = json!({ "certificate": certificate, "private_key": key });
    world.put(&format!("/gateway/secrets/{name}"), secret.to_string()).await;
}

/// Connect once the listener answers.
async fn kept_tls(address: SocketAddr, authority: &Authority) -> Kept<TlsStream<TcpStream>> {
    let answers = || async {
        match connect_tls(address, NAME, authority, None).await {
            Ok(stream) => Kept(stream).ask().await.is_some(),
            Err(_) => false,
        }
    };
    eventually(LIMIT, answers, true).await;
    let stream = connect_tls(address, NAME, authority, None)
        .await
        .expect("it answered a moment ago");
    let mut kept = Kept(stream);
    assert!(kept.ask().await.is_some());
    kept
}

async fn kept_plain(address: SocketAddr) -> Kept<TcpStream> {
    let answers = || async { Kept::open(address).await.ask().await.is_some() };
    eventually(LIMIT, answers, true).await;
    let mut kept = Kept::open(address).await;
    assert!(kept.ask().await.is_some());
    kept
}

async fn kept_tcp(address: SocketAddr, name: &str) -> Passed {
    let answers = || async { Passed::open(address, name).await.echoes().await };
    eventually(LIMIT, answers, true).await;
    let mut kept = Passed::open(address, name).await;
    assert!(kept.echoes().await);
    kept
}

/// Waits for the end of one connection; gives the row that did not drain.
type Drain<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

#[tokio::test(flavor = "multi_thread")]
async fn tls_tcp_and_sockets_drain_what_the_table_names() {
    let _shared = shared().await;
    let authority = Authority::new();
    let world = begin(&authority).await;
    let tls = json!({ "tls": { "certificates": ["one"] } });

    // These connections stay.
    let of_secret = put_listener(&world, "secret", &tls).await;
    let mut with_old_secret = kept_tls(of_secret, &authority).await;
    let chains = put_listener(&world, "chains", &by_name(&json!({}))).await;
    let mut other_chain = kept_tcp(chains, "two.example.com").await;

    // The rows of TLS, one listener each.
    let mut drains: Vec<Drain<'_>> = Vec::new();
    let rows = [
        json!({ "certificates": ["one", "two"] }),
        json!({ "certificates": ["one"], "min_version": "1.3" }),
        json!({ "certificates": ["one"], "alpn": ["http/1.1"] }),
        json!({ "certificates": ["one"], "client_ca": "ca", "client_certificate": "optional" }),
        json!({ "certificates": ["one"], "session_tickets": "tickets" }),
    ];
    let mut changes = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        let name = format!("tls-{index}");
        let address = put_listener(&world, &name, &tls).await;
        let mut kept = kept_tls(address, &authority).await;
        let row = json!({ "tls": row });
        let said = row.to_string();
        drains.push(Box::pin(async move {
            (!kept.ends_within(DRAINED_WITHIN).await).then_some(said)
        }));
        changes.push((name, address, row));
    }

    // One entry of TCP.
    let mut one_chain = kept_tcp(chains, NAME).await;
    drains.push(Box::pin(async move {
        (!one_chain.ends_within(DRAINED_WITHIN).await).then_some("one entry of tcp".to_owned())
    }));
    changes.push(("chains".to_owned(), chains, by_name(&json!({ "idle_timeout": "59s" }))));

    // Sockets: every connection of the listener, whatever its filter chain.
    let rows = [
        json!({ "bind": { "backlog": 100 } }),
        json!({ "bind": { "freebind": true } }),
        json!({ "bind": { "tcp_keepalive": "30s" } }),
    ];
    for (index, row) in rows.into_iter().enumerate() {
        let name = format!("bind-{index}");
        let address = put_listener(&world, &name, &json!({})).await;
        let mut kept = kept_plain(address).await;
        let said = row.to_string();
        drains.push(Box::pin(async move {
            (!kept.ends_within(DRAINED_WITHIN).await).then_some(said)
        }));
        changes.push((name, address, row));
    }
    let sockets = put_listener(&world, "sockets", &by_name(&json!({}))).await;
    for name in [NAME, "two.example.com"] {
        let mut kept = kept_tcp(sockets, name).await;
        let said = format!("bind under {name}");
        drains.push(Box::pin(async move {
            (!kept.ends_within(DRAINED_WITHIN).await).then_some(said)
        }));
    }
    let mut with_bind = by_name(&json!({}));
    with_bind["bind"] = json!({ "backlog": 100 });
    changes.push(("sockets".to_owned(), sockets, with_bind));

    for (name, address, row) in &changes {
        change(&world, name, *address, row).await;
    }
    put_certificate(&world, &authority, "one").await;
    let late: Vec<String> = join_all(drains).await.into_iter().flatten().collect();
    assert_eq!(late, Vec::<String>::new(), "rows whose connections do not end");

    // Every listener serves under its new document.
    for (name, address, _) in &changes {
        match name.as_str() {
            name if name.starts_with("tls") => drop(kept_tls(*address, &authority).await),
            name if name.starts_with("bind") => drop(kept_plain(*address).await),
            _ => drop(kept_tcp(*address, NAME).await),
        }
    }
    let answer = with_old_secret
        .ask()
        .await
        .expect("a new text of a secret ends no connection");
    assert!(!answer.contains("connection: close"), "{answer}");
    assert!(other_chain.echoes().await, "another entry of tcp keeps its connections");
    world.nothing_was_refused().await;
}
