//! Failures under traffic, of etcd, the server and the network: no request fails because of them, and in the end Envoy
//! has the configuration of etcd.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, Envoy};
use crate::support::eventually::eventually;
use crate::support::server::{Server, run_to_end};
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(
    etcd_is_restarted,
    etcd_is_frozen_for_20_seconds,
    history_is_compacted_while_disconnected,
    the_server_restarts_while_etcd_is_away,
    a_replica_born_after_a_document_turned_bad_serves_the_same,
    a_stop_drains_and_envoy_goes_on,
);

/// Longest wait after etcd or the server is back: a reconnect waits for a backoff of a few seconds.
const BACK: Duration = Duration::from_secs(20);

/// Routes `/r/0` to `/r/4`, each to the upstream `a`, and light traffic on `/steady` that must never fail.
struct Scene {
    world: World,
    a: Upstream,
    b: Upstream,
    load: Load,
}

impl Scene {
    async fn start(bootstrap: Bootstrap) -> Self {
        Self::load(World::start(bootstrap).await).await
    }

    async fn load(world: World) -> Self {
        let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
        put(&world, "steady", "/steady", &a).await;
        for n in 0..5 {
            put(&world, &format!("r-{n}"), &format!("/r/{n}"), &a).await;
        }
        world.serves("GET /steady", 200, "a").await;
        world.serves("GET /r/4", 200, "a").await;
        let load = traffic(&world);
        Self { world, a, b, load }
    }

    /// The same with a new Envoy, which knows nothing, at this server; the traffic makes a pause while there is none.
    async fn moved_to(mut self, bootstrap: Bootstrap, server: SocketAddr) -> Self {
        let report = self.load.stop().await;
        assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
        self.world.envoy = Envoy::start(bootstrap, server, "edge-2").await;
        self.world.envoy.ready().await;
        self.world.serves("GET /steady", 200, "a").await;
        self.load = traffic(&self.world);
        self
    }

    /// Move one route, delete one, create one: changes that the fault must not lose.
    async fn change(&self) {
        put(&self.world, "r-0", "/r/0", &self.b).await;
        self.world.delete("/gateway/routes/r-1").await;
        put(&self.world, "r-5", "/r/5", &self.b).await;
    }

    /// Every key of etcd is served, and nothing else; no request has failed meanwhile.
    async fn ends_as_etcd(self) {
        eventually(
            BACK,
            || async { self.world.ask("GET /r/5").await.upstream },
            "b".to_owned(),
        )
        .await;
        self.world.serves("GET /r/0", 200, "b").await;
        self.world.serves("GET /r/1", 404, "").await;
        for n in 2..5 {
            self.world.serves(format!("GET /r/{n}").as_str(), 200, "a").await;
        }
        put(&self.world, "after", "/after", &self.b).await;
        self.world.serves("GET /after", 200, "b").await;
        self.load.reach(500).await;
        let report = self.load.stop().await;
        println!("  under the fault: {report}");
        assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
        self.world.nothing_was_refused().await;
        drop(self.a);
    }
}

fn traffic(world: &World) -> Load {
    let clients = Clients {
        keep_alive: 2,
        fresh: 1,
        http2: 1,
    };
    Load::start(world.address, "any.example.com", "/steady", clients)
}

async fn put(world: &World, name: &str, path: &str, to: &Upstream) {
    let route = json!({ "match": path, "to": to.url() });
    world.put(&format!("/gateway/routes/{name}"), route.to_string()).await;
}

async fn etcd_is_restarted(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let scene = Scene::start(bootstrap).await;
    scene.world.etcd.kill();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        scene.world.ask("GET /r/1").await.upstream,
        "a",
        "served while etcd is away"
    );
    assert_eq!(
        scene.world.server.try_get("/readyz").await.expect("an answer").0,
        200,
        "still ready"
    );
    scene.world.etcd.restart().await;
    scene.change().await;
    scene.ends_as_etcd().await;
}

async fn etcd_is_frozen_for_20_seconds(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let scene = Scene::start(bootstrap).await;
    scene.world.etcd.stop();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(
        scene.world.ask("GET /r/1").await.upstream,
        "a",
        "served while etcd is silent"
    );
    scene.world.etcd.cont();
    scene.change().await;
    scene.ends_as_etcd().await;
}

async fn history_is_compacted_while_disconnected(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (world, link) = World::start_with_link(bootstrap).await;
    let scene = Scene::load(world).await;
    link.cut();
    sleep(Duration::from_millis(500)).await;
    scene.change().await;
    let revision = scene
        .world
        .put("/gateway/routes/passing", r#"{ "match": "/passing", "to": "nowhere" }"#)
        .await;
    scene.world.delete("/gateway/routes/passing").await;
    scene.world.etcd.compact(revision + 1).await;
    assert_eq!(
        scene.world.ask("GET /r/1").await.upstream,
        "a",
        "served while disconnected"
    );
    link.mend();
    scene.ends_as_etcd().await;
}

async fn the_server_restarts_while_etcd_is_away(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let mut scene = Scene::start(bootstrap).await;
    // Saved within a second.
    sleep(Duration::from_millis(1500)).await;
    let versions = scene.world.server.versions().await;
    scene.world.etcd.kill();
    scene.world.server.kill();
    scene.world.server.restart().await;
    scene.world.server.ready().await;
    let (_, readiness) = scene.world.server.try_get("/readyz").await.expect("an answer");
    assert!(readiness["stale_since"].is_string(), "{readiness}");
    assert_eq!(
        scene.world.server.versions().await,
        versions,
        "equal documents, equal versions"
    );
    assert_eq!(
        scene.world.server.get("/api/v1/snapshot").await["groups"]["default"]["source"],
        "disk"
    );
    let log = scene.world.server.log();
    assert!(
        log.contains("Snapshot may be stale: it is from --state-dir"),
        "the log says that saved documents are served:\n{log}"
    );

    // An Envoy that knows nothing gets everything.
    let address = scene.world.server.xds();
    let scene = scene.moved_to(bootstrap, address).await;
    scene.world.serves("GET /r/1", 200, "a").await;
    scene.world.etcd.restart().await;
    scene.change().await;
    let fresh = || async {
        scene
            .world
            .server
            .try_get("/readyz")
            .await
            .map(|(_, body)| body["stale_since"].clone())
            .ok()
    };
    eventually(BACK, fresh, Some(Value::Null)).await;
    scene.ends_as_etcd().await;
}

async fn a_replica_born_after_a_document_turned_bad_serves_the_same(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let scene = Scene::start(bootstrap).await;
    let world = &scene.world;
    world
        .put("/gateway/routes/r-2", r#"{ "match": "/r/2", "to": 7 }"#)
        .await;
    world.document_is("/gateway/routes/r-2", "rejected").await;
    world.put("/gateway/clusters/never-good", "{").await;
    world.document_is("/gateway/clusters/never-good", "rejected").await;
    let versions = world.server.versions().await;

    let replica = Server::on_etcd(&world.etcd).await;
    replica.ready().await;
    eventually(LIMIT, || replica.versions(), versions.clone()).await;
    let states = |answer: Value| -> Vec<(Value, Value, Value)> {
        let documents = answer["documents"].as_array().cloned().unwrap_or_default();
        let facts = |entry: Value| {
            (
                entry["key"].clone(),
                entry["state"].clone(),
                entry["serving_revision"].clone(),
            )
        };
        documents.into_iter().map(facts).collect()
    };
    let elder = states(world.server.get("/api/v1/documents").await);
    assert_eq!(states(replica.get("/api/v1/documents").await), elder);

    // Also when the history that a younger replica could look into is compacted.
    let revision = world.put("/unrelated", "1").await;
    world.etcd.compact(revision).await;
    let youngest = Server::on_etcd(&world.etcd).await;
    youngest.ready().await;
    eventually(LIMIT, || youngest.versions(), versions).await;

    let scene = scene.moved_to(bootstrap, youngest.xds()).await;
    scene.world.serves("GET /r/2", 200, "a").await;
    scene.change().await;
    scene.ends_as_etcd().await;
}

async fn a_stop_drains_and_envoy_goes_on(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start_with(bootstrap, &["--grace", "5s"]).await;
    let mut scene = Scene::load(world).await;
    scene.world.server.terminate();
    let status = scene.world.server.ended(Duration::from_secs(6)).await;
    let log = scene.world.server.log();
    assert_eq!(
        status.code(),
        Some(0),
        "a stop that was asked for is no failure:\n{log}"
    );
    assert_eq!(
        scene.world.ask("GET /r/1").await.upstream,
        "a",
        "Envoy keeps what it has"
    );
    scene.change().await;
    scene.world.server.restart().await;
    scene.ends_as_etcd().await;
}

#[tokio::test]
async fn a_port_in_use_ends_the_process_with_a_sentence() {
    let folder = tempfile::tempdir().expect("make a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = taken.local_addr().expect("a bound listener has an address").to_string();
    for flag in ["--admin-listen", "--xds-listen"] {
        let other = if flag == "--admin-listen" {
            "--xds-listen"
        } else {
            "--admin-listen"
        };
        let arguments = ["serve", "--dir", ".", flag, &address, other, "127.0.0.1:0"];
        let (code, printed) = run_to_end(folder.path(), &arguments, LIMIT).await;
        assert_eq!(code, Some(1), "{flag}: {printed}");
        let last = printed.lines().last().unwrap_or_default();
        assert!(
            last.contains(&address),
            "{flag}: the last line names the address: {last}"
        );
    }
}
