//! Resource types that only xds documents make, through real Envoy: VHDS, on-demand CDS, SRDS, ECDS.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{Ask, LIMIT, World, ask, shared};

with_both_bootstraps!(scopes_and_extension_configs_are_followed);

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.filters";

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
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
    let router =
        json!({ "name": "router", "typed_config": { "@type": format!("{EXTENSIONS}.http.router.v3.Router") } });
    let mut config = manager;
    config["@type"] = format!("{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager").into();
    config["stat_prefix"] = "typed".into();
    config["http_filters"] = json!([filter, router]);
    let listener = json!({
        "name": "typed",
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": config }] }],
    });
    put(world, "listeners", "typed", "config.listener.v3.Listener", listener).await;
    address
}

async fn put_cluster(world: &World, upstream: &Upstream, on_demand: bool) {
    let endpoints = json!([{ "address": upstream.address().to_string() }]);
    let cluster = json!({ "endpoints": endpoints, "on_demand": on_demand });
    world.put(&format!("/gateway/clusters/{}", upstream.name), cluster.to_string()).await;
}

/// Wait until a request is answered with this status by this upstream.
async fn serves(world: &World, address: SocketAddr, request: impl Into<Ask>, status: u16, upstream: &str) {
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

// DX-28, DX-29, DX-30
#[tokio::test(flavor = "multi_thread")]
async fn virtual_hosts_come_one_by_one() {
    let _shared = shared().await;
    let world = World::start(Bootstrap::Delta).await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    put_cluster(&world, &blue, false).await;
    put_cluster(&world, &green, false).await;
    let routes = json!({ "name": "vh", "vhds": { "config_source": ads() } });
    put(&world, "routes", "vh", "config.route.v3.RouteConfiguration", routes).await;
    let rds = json!({ "rds": { "config_source": ads(), "route_config_name": "vh" } });
    let address = put_listener(&world, rds, on_demand_filter()).await;
    serves(&world, address, "GET a.example.com/", 404, "").await;

    let host = |name: &str, to: &Upstream| {
        let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": to.name } });
        json!({ "name": format!("vh/{name}"), "domains": [name], "routes": [route] })
    };
    for (name, to) in [("a.example.com", &blue), ("b.example.com", &green), ("a.example.com", &green)] {
        let resource = host(name, to);
        put(&world, "virtual_hosts", &format!("vh/{name}"), "config.route.v3.VirtualHost", resource).await;
        serves(&world, address, &*format!("GET {name}/"), 200, &to.name).await;
    }
    serves(&world, address, "GET c.example.com/", 404, "").await;
    world.delete("/gateway/xds/virtual_hosts/vh/a.example.com").await;
    serves(&world, address, "GET a.example.com/", 404, "").await;
    serves(&world, address, "GET b.example.com/", 200, "green").await;
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
    serves(&world, address, Ask::from("GET /").with("x-cluster", "blue"), 200, "blue").await;
    world.delete("/gateway/clusters/blue").await;
    serves(&world, address, Ask::from("GET /").with("x-cluster", "blue"), 503, "").await;
    put_cluster(&world, &blue, true).await;
    serves(&world, address, Ask::from("GET /").with("x-cluster", "blue"), 200, "blue").await;
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
    put(&world, "extension_configs", "answer", "config.core.v3.TypedExtensionConfig", answer(418, 100)).await;
    for upstream in [&blue, &green] {
        put_cluster(&world, upstream, false).await;
        let name = format!("scope-{}", upstream.name);
        let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": upstream.name } });
        let routes = json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] });
        put(&world, "routes", &name, "config.route.v3.RouteConfiguration", routes).await;
        let key = json!({ "fragments": [{ "string_key": upstream.name }] });
        let scope = json!({ "name": upstream.name, "route_configuration_name": name, "key": key });
        put(&world, "scoped_routes", &upstream.name, "config.route.v3.ScopedRouteConfiguration", scope).await;
    }
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
    put(&world, "extension_configs", "answer", "config.core.v3.TypedExtensionConfig", answer(418, 0)).await;
    serves(&world, address, scope("blue"), 200, "blue").await;
    serves(&world, address, scope("green"), 200, "green").await;
    world.delete("/gateway/xds/scoped_routes/blue").await;
    serves(&world, address, scope("blue"), 404, "").await;
    serves(&world, address, scope("green"), 200, "green").await;
    world.nothing_was_refused().await;
}
