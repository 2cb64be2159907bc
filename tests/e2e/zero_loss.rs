//! Hundreds of changes under constant load: no request fails, and no connection closes without need.
//!
//! Before the next change, the test sees the effect of each change in Envoy (its answers, its config dump or its list
//! of hosts), so no change is hidden by the next one. Neither Envoy nor the clients retry. `control.rs` proves that the
//! same load shows a wrong order.

use std::time::Duration;

use etcd_client::TxnOp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{Ask, World, ask, quiet};

with_both_bootstraps!(changes_under_load_lose_nothing, a_health_checked_cluster_takes_over);

const CHANGES: usize = 500;
const REQUESTS: u64 = 20_000;
/// Requests of the run without changes, to compare latencies with.
const UNTOUCHED_REQUESTS: u64 = 8_000;
/// Until a change must have taken effect.
const LIMIT: Duration = Duration::from_secs(10);
/// Time between two checks of a change's effect.
const LOOK: Duration = Duration::from_millis(5);

const ROUTE: &str = "/gateway/routes/load";

async fn changes_under_load_lose_nothing(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let mut scene = Box::pin(Scene::start(bootstrap)).await;
    let load = Load::start(scene.world.address, "api.example.com", "/load", Clients::default());
    load.reach(UNTOUCHED_REQUESTS).await;
    let untouched = load.stop().await;
    println!("{bootstrap:?}, nothing changes: {untouched}");

    let load = Load::start(scene.world.address, "api.example.com", "/load", Clients::default());
    let began = Instant::now();
    for n in 0..CHANGES {
        scene.change(n).await;
    }
    let took = began.elapsed();
    load.reach(REQUESTS).await;
    let changed = load.stop().await;
    println!(
        "{bootstrap:?}, {CHANGES} changes in {:.1} s: {changed}",
        took.as_secs_f64()
    );

    assert!(changed.requests >= REQUESTS);
    assert_eq!((untouched.failures, untouched.reconnects), (0, 0), "{untouched}");
    assert_eq!((changed.failures, changed.reconnects), (0, 0), "{changed}");
    scene.world.nothing_was_refused().await;
    assert!(scene.world.envoy.stat("http.edge.downstream_rq_2xx").await >= REQUESTS);
    assert_eq!(
        scene.world.envoy.stat("http.edge.downstream_rq_5xx").await,
        0,
        "Envoy itself counts failures"
    );
}

/// The cluster first, and the route to it in a later change, once it is warm (`warming` has both in one).
async fn a_health_checked_cluster_takes_over(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let world = World::start(bootstrap).await;
    let (old, new) = (Upstream::start("old").await, Upstream::start("new").await);
    let cluster = |upstream: &Upstream| {
        let check = json!({ "http": "/healthz", "interval": "1s", "healthy": 1 });
        json!({ "endpoints": [{ "address": upstream.address().to_string() }], "health_check": check }).to_string()
    };
    world.put("/gateway/clusters/old", cluster(&old)).await;
    world.put(ROUTE, r#"{ "match": "/load", "to": "old" }"#).await;
    world.serves("GET api.example.com/load", 200, "old").await;
    let load = Load::start(world.address, "api.example.com", "/load", Clients::default());
    load.reach(500).await;
    new.slow_down(Duration::from_millis(300));
    world.put("/gateway/clusters/new", cluster(&new)).await;
    eventually(LIMIT, || world.envoy.stat("cluster.new.health_check.success"), 1).await;
    new.slow_down(Duration::ZERO);
    let moved = vec![
        TxnOp::put(ROUTE, r#"{ "match": "/load", "to": "new" }"#, None),
        TxnOp::delete("/gateway/clusters/old", None),
    ];
    world.transaction(moved).await;
    world.serves("GET api.example.com/load", 200, "new").await;
    load.reach(load.requests() + 500).await;
    let report = load.stop().await;
    println!("{bootstrap:?}, a health-checked cluster takes over: {report}");
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
}

/// The changed documents, and their state.
struct Scene {
    world: World,
    upstreams: [Upstream; 3],
    /// The cluster that the route names, beside the two steady ones.
    cluster: String,
    /// Its instances: numbers of upstreams.
    instances: Vec<usize>,
    /// The route as it was put last.
    route: Value,
}

impl Scene {
    async fn start(bootstrap: Bootstrap) -> Self {
        let world = World::start(bootstrap).await;
        let upstreams = [
            Upstream::start("zero").await,
            Upstream::start("one").await,
            Upstream::start("two").await,
        ];
        for upstream in &upstreams {
            let document = json!({ "endpoints": [{ "address": upstream.address().to_string() }] });
            world
                .put(&format!("/gateway/clusters/{}", upstream.name), document.to_string())
                .await;
        }
        let route = json!({ "match": "/load", "to": "zero", "timeout": "10s" });
        let scene = Self {
            world,
            upstreams,
            cluster: "registered-0".to_owned(),
            instances: vec![0],
            route,
        };
        scene.world.put(&scene.cluster_key(), "{}").await;
        scene.world.put(&scene.instance_key(0), scene.address(0)).await;
        scene.world.put(ROUTE, scene.route.to_string()).await;
        scene.world.serves("GET api.example.com/load", 200, "zero").await;
        scene
    }

    /// Make the nth change and wait for its effect.
    async fn change(&mut self, n: usize) {
        match n % 10 {
            0 => self.move_the_route(n).await,
            1 => self.weigh(n).await,
            2 => self.time_out(n).await,
            3 => self.route_to_instances().await,
            4 => self.add_an_instance().await,
            5 => self.replace_an_instance().await,
            6 => self.remove_an_instance().await,
            7 => self.rename_at_once(n).await,
            8 => self.rename_step_by_step(n).await,
            _ => self.add_and_remove_a_listener().await,
        }
    }

    async fn move_the_route(&mut self, n: usize) {
        // Not where it points already: every third change of this kind would change nothing.
        let to = &self.upstreams[1 + (n / 10) % 2].name;
        self.route = json!({ "match": "/load", "to": to, "timeout": "10s" });
        self.world.put(ROUTE, self.route.to_string()).await;
        self.until("the route moved", async || {
            self.route_action().await["cluster"] == to.as_str()
        })
        .await;
        assert!(self.answered_by(to).await);
    }

    async fn weigh(&mut self, n: usize) {
        let weight = 1 + n;
        let to = json!([{ "cluster": "zero", "weight": weight }, { "cluster": "two", "weight": 3 }]);
        self.put_route(json!({ "match": "/load", "to": to, "timeout": "10s" }))
            .await;
        self.until("the weights", async || {
            let action = self.route_action().await;
            let weights = action["weighted_clusters"]["clusters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            weights
                .iter()
                .any(|cluster| cluster["name"] == "zero" && cluster["weight"] == weight)
        })
        .await;
    }

    async fn time_out(&mut self, n: usize) {
        let timeout = format!("{}ms", 10_001 + n);
        self.put_route(json!({ "match": "/load", "to": "one", "timeout": timeout }))
            .await;
        let expected = format!("10.{:03}s", 1 + n);
        self.until("the timeout", async || {
            self.route_action().await["timeout"] == expected.as_str()
        })
        .await;
    }

    async fn route_to_instances(&mut self) {
        let cluster = self.cluster.clone();
        self.put_route(json!({ "match": "/load", "to": cluster, "timeout": "10s" }))
            .await;
        self.until("the cluster", async || {
            self.route_action().await["cluster"] == cluster.as_str()
        })
        .await;
    }

    async fn add_an_instance(&mut self) {
        let added = (self.instances[0] + 1) % self.upstreams.len();
        self.instances.push(added);
        self.world.put(&self.instance_key(added), self.address(added)).await;
        self.until_hosts().await;
    }

    async fn replace_an_instance(&mut self) {
        let (gone, fresh) = (self.instances[0], 3 - self.instances[0] - self.instances[1]);
        self.instances[0] = fresh;
        let replaced = vec![
            TxnOp::delete(self.instance_key(gone), None),
            TxnOp::put(self.instance_key(fresh), self.address(fresh), None),
        ];
        self.world.transaction(replaced).await;
        self.until_hosts().await;
    }

    async fn remove_an_instance(&mut self) {
        let gone = self.instances.remove(0);
        self.world.delete(&self.instance_key(gone)).await;
        self.until_hosts().await;
    }

    /// The new cluster, its instance, the moved route and the old one's end in one transaction, over two roots.
    async fn rename_at_once(&mut self, n: usize) {
        let (old_cluster, old_instance) = (self.cluster_key(), self.instance_key(self.instances[0]));
        let old = std::mem::replace(&mut self.cluster, format!("registered-{n}"));
        self.route = json!({ "match": "/load", "to": self.cluster, "timeout": "10s" });
        let renamed = vec![
            TxnOp::delete(old_cluster, None),
            TxnOp::delete(old_instance, None),
            TxnOp::put(ROUTE, self.route.to_string(), None),
            TxnOp::put(self.cluster_key(), "{}", None),
            TxnOp::put(
                self.instance_key(self.instances[0]),
                self.address(self.instances[0]),
                None,
            ),
        ];
        self.world.transaction(renamed).await;
        self.until("renamed", async || {
            self.route_action().await["cluster"] == self.cluster.as_str()
        })
        .await;
        self.until("the old cluster gone", async || {
            self.world.envoy.hosts(&old).await.is_none()
        })
        .await;
    }

    async fn rename_step_by_step(&mut self, n: usize) {
        let (old_cluster, old_instance) = (self.cluster_key(), self.instance_key(self.instances[0]));
        let old = std::mem::replace(&mut self.cluster, format!("registered-{n}"));
        self.world.put(&self.cluster_key(), "{}").await;
        self.world
            .put(&self.instance_key(self.instances[0]), self.address(self.instances[0]))
            .await;
        self.until_hosts().await;
        self.put_route(json!({ "match": "/load", "to": self.cluster, "timeout": "10s" }))
            .await;
        self.world.delete(&old_cluster).await;
        self.world.delete(&old_instance).await;
        self.until("renamed", async || {
            self.route_action().await["cluster"] == self.cluster.as_str()
        })
        .await;
        self.until("the old cluster gone", async || {
            self.world.envoy.hosts(&old).await.is_none()
        })
        .await;
    }

    async fn add_and_remove_a_listener(&mut self) {
        let address = own_address();
        let request = Ask::from("GET api.example.com/load");
        let status = async || ask(&self.world.http, address, &request).await.status;
        self.world
            .put("/gateway/listeners/passing", crate::world::listener(address))
            .await;
        self.until("the listener answers", async || status().await == 200).await;
        self.world.delete("/gateway/listeners/passing").await;
        self.until("the listener is gone", async || {
            let listeners = self.world.envoy.config_dump("dynamic_listeners").await;
            listeners
                .iter()
                .all(|listener| listener["name"] != "passing" || listener["active_state"].is_null())
        })
        .await;
    }

    async fn put_route(&mut self, route: Value) {
        self.route = route;
        self.world.put(ROUTE, self.route.to_string()).await;
    }

    async fn answered_by(&self, upstream: &str) -> bool {
        self.world.ask("GET api.example.com/load").await.upstream == upstream
    }

    /// The action of the route under load, as Envoy has it.
    async fn route_action(&self) -> Value {
        let tables = self.world.envoy.config_dump("dynamic_route_configs").await;
        let table = tables
            .into_iter()
            .find(|table| table["route_config"]["name"] == crate::world::LISTENER);
        table
            .map(|mut table| table["route_config"]["virtual_hosts"][0]["routes"][0]["route"].take())
            .unwrap_or_default()
    }

    async fn until_hosts(&self) {
        let mut expected: Vec<String> = self.instances.iter().map(|upstream| self.address(*upstream)).collect();
        expected.sort();
        let expected = Some(expected);
        self.until("the hosts", async || {
            self.world.envoy.hosts(&self.cluster).await == expected
        })
        .await;
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(
                began.elapsed() < LIMIT,
                "{what}: not after {LIMIT:?}; the route is {}",
                self.route
            );
            sleep(LOOK).await;
        }
    }

    fn cluster_key(&self) -> String {
        format!("/gateway/clusters/{}", self.cluster)
    }

    fn instance_key(&self, upstream: usize) -> String {
        format!("/services/{}/{}", self.cluster, self.upstreams[upstream].name)
    }

    fn address(&self, upstream: usize) -> String {
        self.upstreams[upstream].address().to_string()
    }
}
