//! A cluster that takes over when the health of another is gone, and gives back, under load.

use serde_json::json;

use crate::load::{Clients, Load};
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(another_region_takes_over_and_gives_back);

const OWN: &str = "/services/orders/a";
/// Requests that every state must answer.
const REQUESTS: u64 = 300;

async fn another_region_takes_over_and_gives_back(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (own, west) = (Upstream::start("own").await, Upstream::start("west").await);
    let check = json!({ "http": "/healthz", "interval": "100ms", "healthy": 1, "unhealthy": 1 });
    let orders = json!({ "failover": ["west"], "health_check": check, "lb": { "panic_percent": 0 } });
    let members = json!({ "endpoints": [{ "address": west.address().to_string() }], "failover": ["unused"] });
    world.put("/gateway/clusters/west", members.to_string()).await;
    world.put("/gateway/clusters/orders", orders.to_string()).await;
    world.put(OWN, own.address().to_string()).await;
    world
        .put("/gateway/routes/load", r#"{ "match": "/load", "to": "orders" }"#)
        .await;
    world.serves("GET api.example.com/load", 200, "own").await;

    let load = Load::start(world.address, "api.example.com", "/load", Clients::default());
    load.reach(REQUESTS).await;
    let to_west = west.requests();
    assert_eq!(to_west, 0, "nothing goes to west while its turn has not come");

    // The health checks of the own endpoint fail; requests that reach it meanwhile are answered.
    own.report_health(503);
    world.serves("GET api.example.com/load", 200, "west").await;
    load.reach(load.requests() + REQUESTS).await;
    own.report_health(200);
    world.serves("GET api.example.com/load", 200, "own").await;
    load.reach(load.requests() + REQUESTS).await;

    // The last instance deregisters itself, and comes back.
    world.delete(OWN).await;
    world.serves("GET api.example.com/load", 200, "west").await;
    load.reach(load.requests() + REQUESTS).await;
    world.put(OWN, own.address().to_string()).await;
    world.serves("GET api.example.com/load", 200, "own").await;
    load.reach(load.requests() + REQUESTS).await;

    // Without `failover` the cluster is its endpoints again, and an aggregate with it.
    let alone = json!({ "health_check": check, "lb": orders["lb"] });
    for (document, is_aggregate) in [(&alone, false), (&orders, true), (&alone, false), (&orders, true)] {
        world.put("/gateway/clusters/orders", document.to_string()).await;
        let has_own = || async { world.envoy.hosts("orders~own").await.is_some() };
        eventually(LIMIT, has_own, is_aggregate).await;
        load.reach(load.requests() + REQUESTS).await;
    }

    let report = load.stop().await;
    println!("{bootstrap:?}, another region takes over: {report}");
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");

    // Both are sick: 503, because panic_percent is 0.
    own.report_health(503);
    world
        .put("/gateway/clusters/west", json!({ "failover": ["unused"] }).to_string())
        .await;
    world.serves("GET api.example.com/load", 503, "").await;
    world.nothing_was_refused().await;
}
