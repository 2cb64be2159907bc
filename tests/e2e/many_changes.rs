//! 600 changes of policies, secrets and routes under load: no request fails, and no connection closes.
//!
//! None of these changes is in the table of drains (docs/documents/listeners.md, Changes and connections).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::listeners::{Kept, connect_tls, put_listener};
use crate::load::{Clients, Load};
use crate::support::authority::Authority;
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, quiet};

const CHANGES: usize = 600;
/// Enough to use the processors of the machine up.
const CLIENTS: Clients = Clients {
    keep_alive: 24,
    fresh: 4,
    http2: 8,
};
/// Lasting connections with TLS.
const LASTING: usize = 4;
const NAME: &str = "a.com";

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_policies_secrets_and_routes_lose_nothing() {
    let _quiet = quiet().await;
    let scene = Box::pin(Scene::start()).await;
    let ends = Arc::new(AtomicBool::new(false));
    let mut lasting = JoinSet::new();
    for _ in 0..LASTING {
        let connection = connect_tls(scene.secure, NAME, &scene.authority, None).await;
        lasting.spawn(ask_until(
            connection.expect("it answered a moment ago"),
            Arc::clone(&ends),
        ));
    }
    let load = Load::start(scene.world.address, "api.example.com", "/load", CLIENTS);
    let began = Instant::now();
    for n in 0..CHANGES {
        scene.change(n).await;
    }
    let took = began.elapsed().as_secs_f64();
    let report = load.stop().await;
    ends.store(true, Ordering::Relaxed);
    let asked = lasting.join_all().await;
    println!("{CHANGES} changes in {took:.1} s: {report}; over TLS {asked:?}");

    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    assert!(
        asked.iter().all(|(count, closed)| *count > 0 && !closed),
        "requests over a connection with TLS, and whether it was closed: {asked:?}"
    );
    scene.world.nothing_was_refused().await;
}

/// Ask until told to end: the number of answers, and whether the connection was closed before.
async fn ask_until(stream: TlsStream<TcpStream>, ends: Arc<AtomicBool>) -> (usize, bool) {
    let (mut kept, mut count) = (Kept(stream), 0);
    while !ends.load(Ordering::Relaxed) {
        match kept.ask().await {
            Some(answer) if !answer.contains("connection: close") => count += 1,
            _ => return (count, true),
        }
    }
    (count, false)
}

struct Scene {
    world: World,
    authority: Authority,
    secure: SocketAddr,
    _upstream: Upstream,
}

impl Scene {
    async fn start() -> Self {
        let (world, authority) = (World::start(Bootstrap::Delta).await, Authority::new());
        let upstream = Upstream::start("up").await;
        put(&world, "secrets/edge", &certificate(&authority)).await;
        put(&world, "secrets/token", &json!({ "generic": "first" })).await;
        let cluster = json!({
            "endpoints": [{ "address": upstream.address().to_string() }],
            "credential": { "secret": "token" },
        });
        put(&world, "clusters/up", &cluster).await;
        put(&world, "policies/mark", &mark(CHANGES)).await;
        put(&world, "policies/office", &office(0)).await;
        put(&world, "defaults", &json!({ "policies": ["mark"] })).await;
        let own = json!({ "match": "/own", "to": { "respond": { "status": 200, "body": "own" } } });
        put(&world, "routes/own", &own).await;
        let listener = json!({ "tls": { "certificates": ["edge"] }, "policies": ["office"] });
        let secure = put_listener(&world, "secure", &listener).await;
        let scene = Self {
            world,
            authority,
            secure,
            _upstream: upstream,
        };
        scene.put_route(CHANGES).await;
        scene.header_is("x-mark", CHANGES).await;
        let answers = || async {
            match connect_tls(scene.secure, NAME, &scene.authority, None).await {
                Ok(stream) => Kept(stream).ask().await.is_some(),
                Err(_) => false,
            }
        };
        eventually(LIMIT, answers, true).await;
        scene
    }

    /// Make the nth change and wait for its effect.
    async fn change(&self, n: usize) {
        match n % 6 {
            0 => {
                put(&self.world, "policies/mark", &mark(n)).await;
                self.header_is("x-mark", n).await;
            }
            1 => self.put_route(n).await,
            2 => {
                put(&self.world, "secrets/edge", &certificate(&self.authority)).await;
            }
            3 => {
                put(&self.world, "secrets/token", &json!({ "generic": n.to_string() })).await;
                self.upstream_sees(n).await;
            }
            4 => {
                put(&self.world, "policies/office", &office(n)).await;
            }
            _ => {
                let policies = if n % 12 == 5 {
                    json!(["mark", "office"])
                } else {
                    json!(["mark"])
                };
                put(&self.world, "defaults", &json!({ "policies": policies })).await;
            }
        }
    }

    /// The route with a policy of its own, and the effect of it.
    async fn put_route(&self, n: usize) {
        let route = json!({
            "match": "/load", "to": "up",
            "response_headers": { "set": { "x-route": n.to_string() } },
            "policies": [{ "body_limit": { "max": format!("{}KiB", 1 + n) } }],
        });
        put(&self.world, "routes/load", &route).await;
        self.header_is("x-route", n).await;
    }

    async fn header_is(&self, name: &str, n: usize) {
        let shown = || async {
            let answer = self.world.ask("GET api.example.com/load").await;
            answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok().map(str::to_owned))
        };
        eventually(LIMIT, shown, Some(n.to_string())).await;
    }

    async fn upstream_sees(&self, n: usize) {
        let seen = || async {
            let answer = self.world.ask("GET api.example.com/load").await;
            answer.body["headers"]["authorization"].clone()
        };
        eventually(LIMIT, seen, json!(format!("Bearer {n}"))).await;
    }
}

async fn put(world: &World, key: &str, document: &Value) {
    world.put(&format!("/gateway/{key}"), document.to_string()).await;
}

/// A new certificate of the authority.
fn certificate(authority: &Authority) -> Value {
    let (certificate, key) = authority.issue_for(&[NAME]);
    json!({ "certificate": certificate, "private_key": key })
}

fn mark(n: usize) -> Value {
    json!({ "headers": { "response": { "set": { "x-mark": n.to_string() } } } })
}

fn office(n: usize) -> Value {
    json!({ "ip_access": { "allow": ["127.0.0.0/8", format!("10.0.{}.0/24", n % 256)] } })
}
