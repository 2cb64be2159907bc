//! Listeners with virtual hosts on demand, through real Envoy: VHDS from route documents.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::types::{put_cluster, serves};
use crate::world::{Ask, LIMIT, World, ask, shared};

/// A listener of the test's own, `shop`, with one lone host and one below a wildcard.
struct Shop {
    world: World,
    address: SocketAddr,
    blue: Upstream,
    green: Upstream,
}

impl Shop {
    async fn open(bootstrap: Bootstrap, virtual_hosts: &str) -> Self {
        let world = Box::pin(World::start(bootstrap)).await;
        let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
        put_cluster(&world, &blue, false).await;
        put_cluster(&world, &green, false).await;
        let shop = Self {
            world,
            address: own_address(),
            blue,
            green,
        };
        shop.set(virtual_hosts).await;
        shop.route("a", "a.example.com/*", &shop.blue).await;
        shop.route("wild", "*.example.org/*", &shop.blue).await;
        shop.route("narrow", "b.example.org/*", &shop.green).await;
        shop.serves("GET b.example.org/", 200, "green").await;
        shop
    }

    async fn set(&self, virtual_hosts: &str) {
        let listener = json!({ "address": self.address.to_string(), "http": { "virtual_hosts": virtual_hosts } });
        self.world.put("/gateway/listeners/shop", listener.to_string()).await;
    }

    async fn route(&self, name: &str, matches: &str, to: &Upstream) {
        let route = json!({ "match": matches, "to": to.name, "listeners": ["shop"] });
        let key = format!("/gateway/routes/{name}");
        self.world.put(&key, route.to_string()).await;
        self.world.document_is(&key, "accepted").await;
    }

    /// One request on a new connection: an open connection keeps the old listener.
    async fn status(&self, request: &str) -> u16 {
        let request = Ask::from(request).with("connection", "close");
        ask(&self.world.http, self.address, &request).await.status
    }

    async fn serves(&self, request: &str, status: u16, upstream: &str) {
        let request = Ask::from(request).with("connection", "close");
        serves(&self.world, self.address, request, status, upstream).await;
    }

    /// The names of the virtual hosts that Envoy has, sorted.
    async fn loaded(&self) -> Vec<String> {
        let tables = self.world.envoy.config_dump("dynamic_route_configs").await;
        let own = tables
            .iter()
            .map(|table| &table["route_config"])
            .filter(|table| table["name"] == "shop");
        let hosts = own.filter_map(|table| table["virtual_hosts"].as_array()).flatten();
        let mut names: Vec<String> = hosts
            .filter_map(|host| host["name"].as_str())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }
}

// DX-28, DX-29, DX-30
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_loads_a_virtual_host_when_a_request_needs_it() {
    let _shared = shared().await;
    let shop = Shop::open(Bootstrap::Delta, "on_demand").await;
    // A host and the hosts of a wider pattern come together; no other host does.
    shop.serves("GET other.example.org/", 200, "blue").await;
    assert_eq!(shop.loaded().await, ["shop/*.example.org", "shop/b.example.org"]);
    assert_eq!(shop.status("GET unknown.example.com/").await, 404);
    assert_eq!(
        shop.status("GET a.example.com/").await,
        200,
        "the first request waits for its virtual host"
    );
    assert_eq!(
        shop.loaded().await,
        ["shop/*.example.org", "shop/a.example.com", "shop/b.example.org"]
    );

    shop.route("a", "a.example.com/*", &shop.green).await;
    shop.serves("GET a.example.com/", 200, "green").await;
    shop.world.delete("/gateway/routes/a").await;
    shop.serves("GET a.example.com/", 404, "").await;
    shop.route("a", "a.example.com/*", &shop.blue).await;
    shop.serves("GET a.example.com/", 200, "blue").await;
    // Envoy subscribes to a host with the port in the Host header.
    shop.route("port", "port.example.com/*", &shop.blue).await;
    assert_eq!(shop.status("GET port.example.com:8443/").await, 200);
    assert_eq!(shop.status("GET port.example.com:9443/").await, 200);
    shop.route("port", "port.example.com/*", &shop.green).await;
    shop.serves("GET port.example.com:8443/", 200, "green").await;
    shop.world.nothing_was_refused().await;
}

// VHDS has no SotW form
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_demand_has_all_virtual_hosts_for_a_sotw_proxy() {
    let _shared = shared().await;
    let shop = Shop::open(Bootstrap::Sotw, "on_demand").await;
    shop.serves("GET a.example.com/", 200, "blue").await;
    assert_eq!(shop.loaded().await, ["*.example.org", "a.example.com", "b.example.org"]);
    shop.route("a", "a.example.com/*", &shop.green).await;
    shop.serves("GET a.example.com/", 200, "green").await;
    assert_eq!(shop.status("GET unknown.example.com/").await, 404);
    shop.world.nothing_was_refused().await;
}

// DX-30
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_can_change_how_its_virtual_hosts_come() {
    let _shared = shared().await;
    let shop = Shop::open(Bootstrap::Delta, "all").await;
    for (virtual_hosts, known) in [("on_demand", "shop/b.example.org"), ("all", "b.example.org")] {
        shop.set(virtual_hosts).await;
        eventually(
            LIMIT,
            || async { shop.loaded().await.iter().any(|name| name == known) },
            true,
        )
        .await;
        shop.serves("GET a.example.com/", 200, "blue").await;
        shop.serves("GET b.example.org/", 200, "green").await;
        shop.serves("GET unknown.example.com/", 404, "").await;
    }
    shop.world.nothing_was_refused().await;
}
