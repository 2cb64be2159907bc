//! Listeners that take over each other's addresses in one change, and scopes that take over each other's keys.

use std::net::SocketAddr;

use etcd_client::TxnOp;
use serde_json::json;

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, own_address};
use crate::types::serves;
use crate::world::{LISTENER, World, listener, quiet, shared};

with_both_bootstraps!(
    a_shift_of_addresses_loses_no_request,
    listeners_exchange_addresses_in_a_circle,
    a_rejected_listener_serves_once_its_address_is_free
);

/// Listeners named by their letters, with a route each that answers the letter.
async fn put_listeners(world: &World, addresses: &[(&str, SocketAddr)]) {
    let mut operations = Vec::new();
    for (name, address) in addresses {
        let headers = json!({ "x-upstream": name });
        let respond = json!({ "respond": { "status": 200, "headers": headers } });
        let route = json!({ "match": "/who", "listeners": [name], "to": respond });
        operations.push(TxnOp::put(format!("/gateway/routes/{name}"), route.to_string(), None));
        operations.push(TxnOp::put(
            format!("/gateway/listeners/{name}"),
            listener(*address),
            None,
        ));
    }
    world.transaction(operations).await;
}

async fn serve(world: &World, addresses: &[(&str, SocketAddr)]) {
    for (name, address) in addresses {
        serves(world, *address, "GET /who", 200, name).await;
    }
}

async fn a_shift_of_addresses_loses_no_request(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let world = World::start(bootstrap).await;
    let [one, two, three, four] = std::array::from_fn(|_| own_address());
    let before = [("a", one), ("b", two), ("c", three)];
    put_listeners(&world, &before).await;
    serve(&world, &before).await;
    // The connection of a client closes with its listener; a new one at the same address finds the next.
    let clients = Clients {
        keep_alive: 0,
        fresh: 4,
        http2: 0,
    };
    let load = Load::start(two, "any.example.com", "/who", clients);
    load.reach(200).await;
    for round in 0..4 {
        let (first, last) = if round % 2 == 0 { (two, four) } else { (one, three) };
        let middle = if round % 2 == 0 { three } else { two };
        let after = [("a", first), ("b", middle), ("c", last)];
        put_listeners(&world, &after).await;
        serve(&world, &after).await;
        load.reach(load.requests() + 200).await;
    }
    let report = load.stop().await;
    println!("{bootstrap:?}, 4 shifts of three addresses: {report}");
    assert_eq!(report.failures, 0, "{report}");
    world.nothing_was_refused().await;
}

async fn listeners_exchange_addresses_in_a_circle(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let [one, two, three] = std::array::from_fn(|_| own_address());
    for addresses in [
        [("a", one), ("b", two), ("c", three)],
        [("a", two), ("b", one), ("c", three)],
        [("a", three), ("b", two), ("c", one)],
        [("a", one), ("b", three), ("c", two)],
    ] {
        put_listeners(&world, &addresses).await;
        serve(&world, &addresses).await;
        for (name, _) in addresses {
            world
                .document_is(&format!("/gateway/listeners/{name}"), "accepted")
                .await;
        }
    }
    world.nothing_was_refused().await;
}

/// No transaction: one listener is written too early, and accepted when the other one moves away.
async fn a_rejected_listener_serves_once_its_address_is_free(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (taken, free) = (own_address(), own_address());
    put_listeners(&world, &[("z", taken)]).await;
    serve(&world, &[("z", taken)]).await;
    put_listeners(&world, &[("a", taken)]).await;
    world.document_is("/gateway/listeners/a", "rejected").await;
    world.put("/gateway/listeners/z", listener(free)).await;
    serve(&world, &[("a", taken), ("z", free)]).await;
    world
        .put(&format!("/gateway/listeners/{LISTENER}"), listener(own_address()))
        .await;
    world.document_is("/gateway/listeners/a", "accepted").await;
    world.nothing_was_refused().await;
}
