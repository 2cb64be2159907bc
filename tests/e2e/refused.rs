//! A document that only a proxy can refuse: the operator sees the refusal, and no other document is affected.

use serde_json::{Value, json};

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, ask, listener, shared};

with_both_bootstraps!(a_listener_whose_port_is_taken_is_shown_as_refused);

const TAKEN: &str = "/gateway/listeners/taken";

// NL-03, GEN-18
async fn a_listener_whose_port_is_taken_is_shown_as_refused(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let upstream = Upstream::start("good").await;
    world
        .put(
            "/gateway/routes/good",
            json!({ "match": "/good", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /good", 200, "good").await;
    let load = Load::start(
        world.address,
        "any.example.com",
        "/good",
        Clients {
            keep_alive: 1,
            fresh: 1,
            http2: 1,
        },
    );

    let port = std::net::TcpListener::bind(own_address()).expect("bind a port");
    let address = port.local_addr().expect("a bound listener has an address");
    world.put(TAKEN, listener(address)).await;
    let refused = world.document_is(TAKEN, "refused").await;
    let reason = refused["reason"].as_str().unwrap_or_default();
    for part in [
        "refused by the proxy edge-1",
        "cannot bind",
        &address.to_string(),
        "Address already in use",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let told = reported(&world).await["refused"].clone();
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|message| message.contains("cannot bind")),
        "{told}"
    );
    assert!(world.server.metric_sum("chancery_nacks_total").await >= 1.0);

    // Other listeners are added and changed. In delta the free port alone repairs nothing, because the refused listener
    // is not sent again.
    let other = own_address();
    world.put("/gateway/listeners/other", listener(other)).await;
    let good = || async { ask(&world.http, other, &"GET /good".into()).await.status };
    eventually(LIMIT, good, 200).await;
    world
        .put(
            "/gateway/routes/more",
            json!({ "match": "/more", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /more", 200, "good").await;
    for (name, state) in [("taken", "refused"), ("other", "accepted"), ("edge", "accepted")] {
        world.document_is(&format!("/gateway/listeners/{name}"), state).await;
    }
    drop(port);
    world
        .put(
            "/gateway/routes/again",
            json!({ "match": "/again", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /again", 200, "good").await;
    world.document_is(TAKEN, "refused").await;

    let free = own_address();
    world.put(TAKEN, listener(free)).await;
    let mended = || async { ask(&world.http, free, &"GET /good".into()).await.status };
    eventually(LIMIT, mended, 200).await;
    assert_eq!(world.document_is(TAKEN, "accepted").await["reason"], Value::Null);
    let settled = || async {
        let reported = reported(&world).await;
        (
            reported["refused"].clone(),
            reported["sent"]["nonce"] == reported["acknowledged"]["nonce"],
        )
    };
    eventually(LIMIT, settled, (Value::Null, true)).await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
}

/// The state of the proxy's listeners in the admin API.
async fn reported(world: &World) -> Value {
    world.server.get("/api/v1/clients/edge-1").await["clients"][0]["types"]["listeners"].clone()
}
