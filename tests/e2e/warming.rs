//! One change adds a cluster and moves a route to it: no request reaches a cluster that is not warm.

use std::ops::Range;
use std::time::Duration;

use etcd_client::TxnOp;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::load::{Clients, Load};
use crate::support::envoy::Bootstrap;
use crate::support::upstream::Upstream;
use crate::world::{World, quiet};

with_both_bootstraps!(
    a_route_moves_to_clusters_that_are_new,
    a_route_to_hosts_that_are_all_unhealthy_gets_through,
    a_silent_name_server_and_a_silent_host_hold_up_nothing_else
);

const ROUTE: &str = "/gateway/routes/load";
/// How often the route moves, each time to clusters that did not exist before.
const MOVES: usize = 12;
/// Time of the first answer to a health check, and so the shortest time to warm the cluster.
const CHECK: Duration = Duration::from_millis(300);

async fn a_route_moves_to_clusters_that_are_new(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let world = World::start(bootstrap).await;
    let upstreams = [Upstream::start("zero").await, Upstream::start("one").await];
    world.put("/gateway/clusters/start", listed(&upstreams[0])).await;
    world.put(ROUTE, route(&["start"])).await;
    world.serves("GET api.example.com/load", 200, "zero").await;
    let load = Load::start(world.address, "api.example.com", "/load", Clients::default());
    load.reach(500).await;
    move_on(&world, &load, &upstreams, 0..MOVES, vec!["start".to_owned()]).await;
    let report = load.stop().await;
    println!("{bootstrap:?}, {MOVES} moves to new clusters: {report}");
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    world.nothing_was_refused().await;
}

/// Move the route under load, each time to new clusters. Gives the clusters of the last move.
async fn move_on(
    world: &World,
    load: &Load,
    upstreams: &[Upstream; 2],
    moves: Range<usize>,
    mut clusters: Vec<String>,
) -> Vec<String> {
    for n in moves {
        let to = &upstreams[(n + 1) % 2];
        clusters = move_to(world, n, to, &clusters).await;
        world.serves("GET api.example.com/load", 200, &to.name).await;
        load.reach(load.requests() + 200).await;
    }
    clusters
}

/// One revision: new clusters, the route to them, the deletion of the old ones. Gives the new ones.
async fn move_to(world: &World, n: usize, to: &Upstream, old: &[String]) -> Vec<String> {
    let names: Vec<String> = match n % 4 {
        0 => vec![format!("checked-{n}")],
        1 => vec![format!("dns-{n}")],
        2 => vec![format!("listed-{n}")],
        _ => vec![format!("checked-{n}"), format!("dns-{n}"), format!("inline-{n}")],
    };
    let mut operations: Vec<TxnOp> = Vec::new();
    for name in &names {
        let document = match name.split('-').next() {
            Some("checked") => checked(to),
            Some("dns") => json!({ "dns": format!("localhost:{}", to.address().port()) }).to_string(),
            _ => listed(to),
        };
        operations.push(TxnOp::put(format!("/gateway/clusters/{name}"), document, None));
    }
    to.slow_down(if names.iter().any(|name| name.starts_with("checked")) {
        CHECK
    } else {
        Duration::ZERO
    });
    let names_of: Vec<&str> = names.iter().map(String::as_str).collect();
    operations.push(TxnOp::put(ROUTE, route(&names_of), None));
    operations.extend(
        old.iter()
            .map(|name| TxnOp::delete(format!("/gateway/clusters/{name}"), None)),
    );
    world.transaction(operations).await;
    names
}

/// A cluster that no host of can be reached must not keep its route away for ever.
async fn a_route_to_hosts_that_are_all_unhealthy_gets_through(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let world = World::start(bootstrap).await;
    let (good, silent) = (Upstream::start("good").await, Upstream::start("silent").await);
    world.put("/gateway/clusters/good", listed(&good)).await;
    world.put(ROUTE, route(&["good"])).await;
    world.serves("GET api.example.com/load", 200, "good").await;
    // Hosts that do not answer a check within its timeout, which is longer than a change may wait.
    silent.slow_down(Duration::from_secs(3600));
    let check = json!({ "http": "/healthz", "interval": "60s", "timeout": "30s" });
    let dead = json!({ "endpoints": [{ "address": silent.address().to_string() }], "health_check": check });
    let began = Instant::now();
    let operations = vec![
        TxnOp::put("/gateway/clusters/dead", dead.to_string(), None),
        TxnOp::put(ROUTE, route(&["dead"]), None),
        TxnOp::put("/gateway/routes/other", r#"{ "match": "/other", "to": "good" }"#, None),
    ];
    world.transaction(operations).await;
    world.serves("GET api.example.com/load", 503, "").await;
    let took = began.elapsed();
    println!("{bootstrap:?}, a route to a cluster that does not become warm came through after {took:?}");
    assert!(
        (Duration::from_millis(4500)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    world.serves("GET api.example.com/other", 200, "good").await;
    world.nothing_was_refused().await;
}

/// One name that nobody resolves (Envoy goes on for two minutes) and one host that answers no health check: a new Envoy
/// serves what can be served, and routes move to clusters that are new, without a request that fails.
async fn a_silent_name_server_and_a_silent_host_hold_up_nothing_else(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let name_server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let port = name_server.local_addr().expect("an address").port();
    let resolver = format!("resolvers: [{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}]");
    // Envoy's own bound is left out, so that the server's is what ends the waits.
    let edit = |text: String| {
        let edited = text.replace("query_timeout_seconds: 1\n    query_tries: 2", &resolver);
        assert_ne!(edited, text, "the bootstrap has the bound");
        edited
    };
    let (silent, upstreams) = (
        Upstream::start("silent").await,
        [Upstream::start("zero").await, Upstream::start("one").await],
    );
    silent.slow_down(Duration::from_secs(3600));
    let check = json!({ "http": "/healthz", "interval": "60s", "timeout": "30s" });
    let dead = json!({ "endpoints": [{ "address": silent.address().to_string() }], "health_check": check });
    let documents = [
        ("clusters/sick", json!({ "dns": "sick.example.com:80" }).to_string()),
        ("routes/sick", json!({ "match": "/sick", "to": "sick" }).to_string()),
        ("clusters/dead", dead.to_string()),
        ("routes/dead", json!({ "match": "/dead", "to": "dead" }).to_string()),
        ("clusters/start", listed(&upstreams[0])),
        ("routes/load", route(&["start"])),
    ];
    let began = Instant::now();
    let world = World::start_with_bootstrap(bootstrap, edit, &documents).await;
    world.serves("GET api.example.com/load", 200, "zero").await;
    println!(
        "{bootstrap:?}, etcd, the server and an Envoy with a sick name serve after {:?}",
        began.elapsed()
    );
    world.serves("GET api.example.com/sick", 503, "").await;

    let load = Load::start(world.address, "api.example.com", "/load", Clients::default());
    load.reach(500).await;
    let old = move_on(&world, &load, &upstreams, 0..3, vec!["start".to_owned()]).await;
    let changed = json!({ "dns": "sicker.example.com:80" });
    world.put("/gateway/clusters/sick", changed.to_string()).await;
    move_on(&world, &load, &upstreams, 3..6, old).await;
    let report = load.stop().await;
    println!("{bootstrap:?}, moves beside a sick name and a dead host: {report}");
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    world.nothing_was_refused().await;
}

fn listed(upstream: &Upstream) -> String {
    json!({ "endpoints": [{ "address": upstream.address().to_string() }] }).to_string()
}

fn checked(upstream: &Upstream) -> String {
    let check = json!({ "http": "/healthz", "interval": "1s", "timeout": "5s", "healthy": 1 });
    json!({ "endpoints": [{ "address": upstream.address().to_string() }], "health_check": check }).to_string()
}

fn route(clusters: &[&str]) -> String {
    let to: Vec<Value> = clusters
        .iter()
        .map(|name| json!({ "cluster": name, "weight": 1 }))
        .collect();
    json!({ "match": "/load", "to": to, "timeout": "10s" }).to_string()
}

/// While the server is down, the route moves to a new, slow cluster, and the old cluster stays. (In SotW the server
/// does not know the clusters of the proxy.)
#[tokio::test(flavor = "multi_thread")]
async fn a_route_moves_while_the_proxy_is_away() {
    let _quiet = quiet().await;
    let mut world = World::start(Bootstrap::Delta).await;
    let upstreams = [Upstream::start("zero").await, Upstream::start("one").await];
    world.put("/gateway/clusters/start", listed(&upstreams[0])).await;
    world.put(ROUTE, route(&["start"])).await;
    world.serves("GET api.example.com/load", 200, "zero").await;
    let load = Load::start(world.address, "api.example.com", "/load", Clients::default());
    for n in 0..4 {
        load.reach(load.requests() + 200).await;
        let to = &upstreams[(n + 1) % 2];
        to.slow_down(CHECK);
        world.server.kill();
        // Once without the saved state, because otherwise the server starts with it.
        if n == 0 {
            std::fs::remove_dir_all(world.server.folder().join("state")).expect("it saves what it serves");
        }
        let cluster = TxnOp::put(format!("/gateway/clusters/new-{n}"), checked(to), None);
        world
            .transaction(vec![cluster, TxnOp::put(ROUTE, route(&[&format!("new-{n}")]), None)])
            .await;
        world.server.restart().await;
        world.serves("GET api.example.com/load", 200, &to.name).await;
    }
    let report = load.stop().await;
    println!("4 moves while the server was away: {report}");
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    world.nothing_was_refused().await;
}
