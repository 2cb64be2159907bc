//! Resource types beside clusters, listeners and routes, through real Envoy: VHDS, on-demand CDS, SRDS, ECDS, RTDS.

use std::net::SocketAddr;

use etcd_client::TxnOp;
use serde_json::{Value, json};

use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{Ask, LIMIT, World, ask, shared};

with_both_bootstraps!(
    scopes_and_extension_configs_are_followed,
    a_runtime_layer_is_followed,
    routes_by_another_source_are_not_waited_for
);

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.filters";

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

/// A `ConfigSource` with a stream of its own.
fn service() -> Value {
    let grpc = json!([{ "envoy_grpc": { "cluster_name": "chancery" } }]);
    let source = json!({ "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": grpc });
    json!({ "api_config_source": source, "resource_api_version": "V3" })
}

async fn put(world: &World, word: &str, name: &str, message: &str, mut resource: Value) {
    resource["@type"] = format!("type.googleapis.com/envoy.{message}").into();
    let key = format!("/gateway/xds/{word}/{name}");
    world.put(&key, json!({ "resource": resource }).to_string()).await;
    world.document_is(&key, "accepted").await;
}

/// A listener of the test's own, with these fields of its `HttpConnectionManager` and one filter before the router.
async fn put_listener(world: &World, manager: Value, filter: Value) -> SocketAddr {
    let address = own_address();
    put_listener_at(world, "typed", address, manager, filter).await;
    address
}

async fn put_listener_at(world: &World, name: &str, address: SocketAddr, manager: Value, filter: Value) {
    let router =
        json!({ "name": "router", "typed_config": { "@type": format!("{EXTENSIONS}.http.router.v3.Router") } });
    let mut config = manager;
    config["@type"] = format!("{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager").into();
    config["stat_prefix"] = "typed".into();
    config["http_filters"] = json!([filter, router]);
    let listener = json!({
        "name": name,
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": config }] }],
    });
    put(world, "listeners", name, "config.listener.v3.Listener", listener).await;
}

pub(crate) async fn put_cluster(world: &World, upstream: &Upstream, on_demand: bool) {
    let endpoints = json!([{ "address": upstream.address().to_string() }]);
    let cluster = json!({ "endpoints": endpoints, "on_demand": on_demand });
    world
        .put(&format!("/gateway/clusters/{}", upstream.name), cluster.to_string())
        .await;
}

/// Wait until a request is answered with this status by this upstream.
pub(crate) async fn serves(world: &World, address: SocketAddr, request: impl Into<Ask>, status: u16, upstream: &str) {
    let request = request.into();
    let observe = || async {
        let answer = ask(&world.http, address, &request).await;
        (request.to_string(), answer.status, answer.upstream)
    };
    eventually(LIMIT, observe, (request.to_string(), status, upstream.to_owned())).await;
}

fn on_demand_filter() -> Value {
    json!({
        "name": "envoy.filters.http.on_demand",
        "typed_config": { "@type": format!("{EXTENSIONS}.http.on_demand.v3.OnDemand") },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_hosts_come_one_by_one_over_ads() {
    virtual_hosts_come_one_by_one(ads()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_hosts_come_one_by_one_over_a_stream_of_their_own() {
    virtual_hosts_come_one_by_one(service()).await;
}

// DX-28, DX-29, DX-30
async fn virtual_hosts_come_one_by_one(source: Value) {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    put_cluster(&world, &blue, false).await;
    put_cluster(&world, &green, false).await;
    let host = |name: &str, to: &Upstream| {
        let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": to.name } });
        json!({ "name": format!("vh/{name}"), "domains": [name], "routes": [route] })
    };
    let put_host = async |name: &str, to: &Upstream| {
        let resource = host(name, to);
        put(
            &world,
            "virtual_hosts",
            &format!("vh/{name}"),
            "config.route.v3.VirtualHost",
            resource,
        )
        .await;
    };
    // One is there before the route configuration that has it.
    put_host("first.example.com", &blue).await;
    let routes = json!({ "name": "vh", "vhds": { "config_source": source } });
    put(&world, "routes", "vh", "config.route.v3.RouteConfiguration", routes).await;
    let rds = json!({ "rds": { "config_source": ads(), "route_config_name": "vh" } });
    let address = put_listener(&world, rds, on_demand_filter()).await;
    serves(&world, address, "GET first.example.com/", 200, "blue").await;
    serves(&world, address, "GET a.example.com/", 404, "").await;

    for (name, to) in [
        ("a.example.com", &blue),
        ("b.example.com", &green),
        ("a.example.com", &green),
    ] {
        put_host(name, to).await;
        serves(&world, address, &*format!("GET {name}/"), 200, &to.name).await;
    }
    serves(&world, address, "GET c.example.com/", 404, "").await;
    world.delete("/gateway/xds/virtual_hosts/vh/a.example.com").await;
    serves(&world, address, "GET a.example.com/", 404, "").await;
    serves(&world, address, "GET b.example.com/", 200, "green").await;
    put_host("a.example.com", &blue).await;
    serves(&world, address, "GET a.example.com/", 200, "blue").await;
    let streams = world.server.get("/api/v1/clients/edge-1").await["clients"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(
        streams,
        if source == ads() { 1 } else { 2 },
        "a stream of its own, if it is told so"
    );
    world.nothing_was_refused().await;
}

// DX-26
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_when_a_request_needs_it() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let blue = Upstream::start("blue").await;
    put_cluster(&world, &blue, true).await;
    let per_route = json!({
        "@type": format!("{EXTENSIONS}.http.on_demand.v3.PerRouteConfig"),
        "odcds": { "source": ads(), "timeout": "5s" },
    });
    let route = json!({
        "match": { "prefix": "/" }, "route": { "cluster_header": "x-cluster" },
        "typed_per_filter_config": { "envoy.filters.http.on_demand": per_route },
    });
    let routes = json!({ "name": "od", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] });
    put(&world, "routes", "od", "config.route.v3.RouteConfiguration", routes).await;
    let rds = json!({ "rds": { "config_source": ads(), "route_config_name": "od" } });
    let address = put_listener(&world, rds, on_demand_filter()).await;
    serves(&world, address, Ask::from("GET /").with("x-cluster", "nobody"), 503, "").await;
    assert_eq!(world.envoy.hosts("blue").await, None, "no part of the wildcard");
    serves(
        &world,
        address,
        Ask::from("GET /").with("x-cluster", "blue"),
        200,
        "blue",
    )
    .await;
    world.delete("/gateway/clusters/blue").await;
    serves(&world, address, Ask::from("GET /").with("x-cluster", "blue"), 503, "").await;
    put_cluster(&world, &blue, true).await;
    serves(
        &world,
        address,
        Ask::from("GET /").with("x-cluster", "blue"),
        200,
        "blue",
    )
    .await;
    world.nothing_was_refused().await;
}

// SW-10, F-01, AD-01
async fn scopes_and_extension_configs_are_followed(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    let answer = |status: u16, share: u32| {
        let abort = json!({ "http_status": status, "percentage": { "numerator": share } });
        json!({ "name": "answer", "typed_config": { "@type": format!("{EXTENSIONS}.http.fault.v3.HTTPFault"), "abort": abort } })
    };
    put(
        &world,
        "extension_configs",
        "answer",
        "config.core.v3.TypedExtensionConfig",
        answer(418, 100),
    )
    .await;
    for upstream in [&blue, &green] {
        put_cluster(&world, upstream, false).await;
        let name = format!("scope-{}", upstream.name);
        let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": upstream.name } });
        let routes = json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] });
        put(&world, "routes", &name, "config.route.v3.RouteConfiguration", routes).await;
    }
    put_scopes(&world, &[("blue", "blue"), ("green", "green")]).await;
    let extractor = json!({ "name": "x-scope", "element_separator": ";", "index": 0 });
    let scoped = json!({ "scoped_routes": {
        "name": "scopes", "rds_config_source": ads(), "scoped_rds": { "scoped_rds_config_source": ads() },
        "scope_key_builder": { "fragments": [{ "header_value_extractor": extractor }] },
    } });
    let types = json!([format!("{EXTENSIONS}.http.fault.v3.HTTPFault")]);
    let discovered = json!({ "name": "answer", "config_discovery": { "config_source": ads(), "type_urls": types } });
    let address = put_listener(&world, scoped, discovered).await;

    let scope = |name: &str| Ask::from("GET /").with("x-scope", name);
    serves(&world, address, scope("blue"), 418, "").await;
    put(
        &world,
        "extension_configs",
        "answer",
        "config.core.v3.TypedExtensionConfig",
        answer(418, 0),
    )
    .await;
    serves(&world, address, scope("blue"), 200, "blue").await;
    serves(&world, address, scope("green"), 200, "green").await;
    // Keys that two scopes exchange, that one leaves to the other, and the way back.
    for keys in [
        [("blue", "green"), ("green", "blue")],
        [("blue", "red"), ("green", "green")],
        [("blue", "blue"), ("green", "green")],
    ] {
        put_scopes(&world, &keys).await;
        for (upstream, key) in keys {
            serves(&world, address, scope(key), 200, upstream).await;
        }
    }
    world.delete("/gateway/xds/scoped_routes/blue").await;
    serves(&world, address, scope("blue"), 404, "").await;
    serves(&world, address, scope("green"), 200, "green").await;
    world.nothing_was_refused().await;
}

/// The scope of each upstream with its key, in one revision.
async fn put_scopes(world: &World, keys: &[(&str, &str)]) {
    let scope = |(upstream, key): &(&str, &str)| {
        let resource = json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            "name": upstream,
            "route_configuration_name": format!("scope-{upstream}"),
            "key": { "fragments": [{ "string_key": key }] },
        });
        let document = json!({ "resource": resource }).to_string();
        TxnOp::put(format!("/gateway/xds/scoped_routes/{upstream}"), document, None)
    };
    world.transaction(keys.iter().map(scope).collect()).await;
}

const RUNTIME: &str = r"
layered_runtime:
  layers:
    - name: told
      rtds_layer: { name: told, rtds_config: { ads: {}, resource_api_version: V3 } }
    - name: admin
      admin_layer: {}
";

/// The value of a key in `/runtime`; empty if no layer has the key.
async fn runtime_value(world: &World, key: &str) -> String {
    let page: Value = serde_json::from_str(&world.envoy.admin("/runtime").await).expect("JSON");
    page["entries"][key]["final_value"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

// F-02, SW-12, DX-18
async fn a_runtime_layer_is_followed(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let layer = |layer: Value| json!({ "name": "told", "layer": layer });
    let (message, key) = ("service.runtime.v3.Runtime", "share.blue");
    let mut first = layer(json!({ key: 0 }));
    first["@type"] = format!("type.googleapis.com/envoy.{message}").into();
    let documents = [("xds/runtime/told", json!({ "resource": first }).to_string())];
    let world = World::start_with_bootstrap(bootstrap, |text| text + RUNTIME, &documents).await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    put_cluster(&world, &blue, false).await;
    put_cluster(&world, &green, false).await;
    let share = json!({ "default_value": { "numerator": 100 }, "runtime_key": key });
    let routes = json!([
        { "match": { "prefix": "/", "runtime_fraction": share }, "route": { "cluster": "blue" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "green" } },
    ]);
    let routes = json!({ "name": "rt", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] });
    put(&world, "routes", "rt", "config.route.v3.RouteConfiguration", routes).await;
    let rds = json!({ "rds": { "config_source": ads(), "route_config_name": "rt" } });
    let address = put_listener(&world, rds, on_demand_filter()).await;

    serves(&world, address, "GET /", 200, "green").await;
    assert_eq!(runtime_value(&world, key).await, "0");
    for (share, upstream) in [(100, "blue"), (0, "green")] {
        put(
            &world,
            "runtime",
            "told",
            message,
            layer(json!({ key: share, "other": "text" })),
        )
        .await;
        serves(&world, address, "GET /", 200, upstream).await;
        assert_eq!(runtime_value(&world, key).await, share.to_string());
        assert_eq!(runtime_value(&world, "other").await, "text");
    }
    // SotW cannot express the removal of a layer, so the server sends an empty layer.
    match bootstrap {
        Bootstrap::Sotw => put(&world, "runtime", "told", message, layer(json!({}))).await,
        _ => world.delete("/gateway/xds/runtime/told").await,
    }
    serves(&world, address, "GET /", 200, "blue").await;
    assert_eq!(runtime_value(&world, key).await, "");
    // The layer of a runtime document serves before that of an xds document.
    let values = json!({ "values": { key: { "numerator": 0 }, "other": true } });
    let document = TxnOp::put("/gateway/runtime/told", values.to_string(), None);
    world.transaction(vec![document]).await;
    serves(&world, address, "GET /", 200, "green").await;
    assert_eq!(runtime_value(&world, "other").await, "true");
    world.nothing_was_refused().await;
}

/// If a listener names known routes through another `ConfigSource`, Envoy waits for them without a request, for 15 s.
/// So the server must push them.
// AD-05, F-06
async fn routes_by_another_source_are_not_waited_for(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let mut world = World::start(bootstrap).await;
    let blue = Upstream::start("blue").await;
    put_cluster(&world, &blue, false).await;
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "blue" } });
    let routes = json!({ "name": "vh", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] });
    put(&world, "routes", "vh", "config.route.v3.RouteConfiguration", routes).await;
    let (own, common) = (json!({ "ads": {} }), ads());
    let [first, second] = [own_address(), own_address()];
    // The server name in an answer shows which listener answers.
    let listen = async |world: &World, name: &str, address, source: &Value, server: &str| {
        let rds = json!({ "config_source": source, "route_config_name": "vh" });
        let manager = json!({ "rds": rds, "server_name": server });
        put_listener_at(world, name, address, manager, on_demand_filter()).await;
    };
    let answered = async |world: &World, address, server: &str| {
        let observe = || async {
            let answer = ask(&world.http, address, &"GET /".into()).await;
            answer
                .headers
                .get("server")
                .and_then(|name| name.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        eventually(LIMIT, observe, server.to_owned()).await;
    };
    for (source, server) in [(&own, "one"), (&common, "two"), (&own, "three")] {
        listen(&world, "typed", first, source, server).await;
        answered(&world, first, server).await;
    }
    listen(&world, "second", second, &common, "beside").await;
    answered(&world, second, "beside").await;
    world.delete("/gateway/xds/listeners/second").await;
    eventually(
        LIMIT,
        || async { ask(&world.http, second, &"GET /".into()).await.status },
        0,
    )
    .await;
    // After the restart the server knows the resources of the client only by the reported versions.
    world.server.restart().await;
    world.server.ready().await;
    for (source, server) in [(&common, "four"), (&own, "five")] {
        listen(&world, "typed", first, source, server).await;
        answered(&world, first, server).await;
    }
    // The change comes while no server runs, so the server does not know the source that the change brings back.
    let drained = || async {
        world
            .envoy
            .stats("total_(filter_chains|listeners)_draining$")
            .await
            .iter()
            .all(|(_, n)| *n == 0)
    };
    eventually(LIMIT, drained, true).await;
    world.server.kill();
    let key = "/gateway/xds/listeners/typed";
    let text = world.etcd.etcdctl(&["get", "--print-value-only", key]);
    world
        .put(
            key,
            text.replace("five", "six")
                .replace(r#"{"ads":{}}"#, &common.to_string()),
        )
        .await;
    world.server.restart().await;
    answered(&world, first, "six").await;
    world.nothing_was_refused().await;
}
