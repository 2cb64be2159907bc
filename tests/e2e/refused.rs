//! A document that only a proxy can refuse: the operator sees the refusal, and no other document is affected.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, ask, listener, shared};

with_both_bootstraps!(
    a_listener_whose_port_is_taken_falls_back,
    a_route_that_envoy_refuses_holds_nothing_up,
);

const TAKEN: &str = "/gateway/listeners/taken";

// NL-03, GEN-18
async fn a_listener_whose_port_is_taken_falls_back(bootstrap: Bootstrap) {
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
    world.document_is(TAKEN, "refused").await;
    let refused = quarantined(&world, TAKEN).await;
    let reason = refused["reason"].as_str().unwrap_or_default();
    for part in [
        "refused by the proxy edge-1",
        "cannot bind",
        &address.to_string(),
        "Address already in use",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(
        (&refused["path"], &refused["serving_revision"]),
        (&json!("address"), &Value::Null)
    );
    // All proxies have acknowledged what serves instead; nobody has the change.
    let status = world.server.get("/api/v1/status").await;
    assert_eq!(
        (&status["rollout"]["state"], &status["attention"][0]["key"]),
        (&json!("refused"), &json!(TAKEN)),
        "{status}"
    );
    assert!(world.server.metric_sum("chancery_nacks_total").await >= 1.0);

    // Nothing of the document is with Envoy, so other listeners and routes are added and changed as ever.
    all_is_acknowledged(&world).await;
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

    // The free port alone repairs nothing: an operator says that it is free.
    drop(port);
    release(&world, TAKEN).await;
    let mended = |address| {
        let http = &world.http;
        move || async move { ask(http, address, &"GET /good".into()).await.status }
    };
    eventually(LIMIT, mended(address), 200).await;
    assert_eq!(world.document_is(TAKEN, "accepted").await["reason"], Value::Null);

    // A text that is refused leaves the text before in place, until a new text is good.
    let port = std::net::TcpListener::bind(own_address()).expect("bind a port");
    world
        .put(
            TAKEN,
            listener(port.local_addr().expect("a bound listener has an address")),
        )
        .await;
    quarantined(&world, TAKEN).await;
    eventually(LIMIT, mended(address), 200).await;
    let free = own_address();
    world.put(TAKEN, listener(free)).await;
    eventually(LIMIT, mended(free), 200).await;
    assert_eq!(world.document_is(TAKEN, "accepted").await["reason"], Value::Null);
    all_is_acknowledged(&world).await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
}

// NR-09: the server is told of a larger limit than Envoy has
async fn a_route_that_envoy_refuses_holds_nothing_up(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start_with(bootstrap, &["--re2-max-program-size", "100000"]).await;
    let upstream = Upstream::start("good").await;
    let route = |path: &str| json!({ "match": path, "to": upstream.url() }).to_string();
    world.put("/gateway/routes/a", route("/a")).await;
    world.put("/gateway/routes/b", route("/b")).await;
    world.serves("GET /a", 200, "good").await;
    world.serves("GET /b", 200, "good").await;

    world.put("/gateway/routes/b", route("~/b[a-z]{200}")).await;
    let refused = quarantined(&world, "/gateway/routes/b").await;
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("refused by the proxy edge-1") && reason.contains("program size"),
        "{reason}"
    );
    world.put("/gateway/routes/c", route("/c")).await;
    for path in ["/a", "/b", "/c"] {
        world.serves(&*format!("GET {path}"), 200, "good").await;
    }

    let new = Envoy::start_with(&bootstrap.text(world.server.xds()), "edge-2").await;
    new.ready().await;
    let routes = || async { dynamic_routes(&new).await };
    eventually(LIMIT, routes, ["/a", "/b", "/c"].map(String::from).to_vec()).await;
    world.document_is("/gateway/routes/c", "accepted").await;
}

/// The paths in the routes that an Envoy has.
async fn dynamic_routes(envoy: &Envoy) -> Vec<String> {
    let text = Value::from(envoy.config_dump("dynamic_route_configs").await).to_string();
    let found = ["/a", "/b", "/c"]
        .into_iter()
        .filter(|path| text.contains(&format!("\"{path}\"")));
    found.map(String::from).collect()
}

/// Wait until a document is in quarantine, and give its entry.
async fn quarantined(world: &World, key: &str) -> Value {
    let is_quarantined = || async {
        let entry = world.server.document(key).await;
        entry.map(|entry| (entry["state"].clone(), entry["quarantined"].clone()))
    };
    eventually(LIMIT, is_quarantined, Some((json!("refused"), json!(true)))).await;
    world.server.document(key).await.expect("it was there a moment ago")
}

async fn release(world: &World, key: &str) {
    let url = format!("http://{}/api/v1/release", world.server.admin());
    let request = world.http.post(url).json(&json!({ "keys": [key] }));
    let answer = request.send().await.expect("the server answers");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

/// Wait until the proxy has acknowledged all listeners.
async fn all_is_acknowledged(world: &World) {
    let settled = || async {
        let client = world.server.get("/api/v1/clients/edge-1").await;
        let reported = &client["clients"][0]["types"]["listeners"];
        (
            reported["refused"].clone(),
            reported["sent"]["nonce"] == reported["acknowledged"]["nonce"],
        )
    };
    eventually(LIMIT, settled, (Value::Null, true)).await;
}
