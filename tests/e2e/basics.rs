//! Documents written with plain `etcdctl put`, and the answers of Envoy after that.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{Ask, LIMIT, World, ask, listener, shared};

with_both_bootstraps!(
    the_shortest_route,
    the_full_route,
    overrides_win_under_their_conditions,
    both_older_forms,
    defaults_hold_where_nothing_is_written,
    fields_of_later_releases_are_refused_by_name,
    a_lease_that_expires_takes_its_endpoint_out,
    a_cluster_of_listed_endpoints,
    redirect_and_respond,
    a_route_for_one_host_takes_nothing_from_others,
    weights_share_the_traffic,
    a_cluster_that_never_existed,
    listeners_come_and_go,
    groups_part_proxies,
);

/// `etcdctl put KEY VALUE`, as an operator types it.
fn put(world: &World, key: &str, value: &Value) {
    world.etcd.etcdctl(&["put", key, &value.to_string()]);
}

fn delete(world: &World, key: &str) {
    world.etcd.etcdctl(&["del", key]);
}

async fn the_shortest_route(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    world.serves("POST /v1/users", 404, "").await;

    put(
        &world,
        "/gateway/routes/users",
        &json!({ "match": "POST /v1/users", "to": blue.url(), "timeout": "5s" }),
    );
    let answer = world.serves("POST /v1/users?page=2", 200, "blue").await;
    assert_eq!(answer.body["path"], "/v1/users?page=2");
    assert_eq!(answer.body["host"], "any.example.com");
    assert_eq!(
        world.ask("GET /v1/users").await.status,
        404,
        "the match names POST alone"
    );
    assert_eq!(
        world.ask("POST /v1/users/7").await.status,
        404,
        "a path without * is exact"
    );

    put(
        &world,
        "/gateway/routes/users",
        &json!({ "match": "POST /v1/users", "to": green.url() }),
    );
    world.serves("POST /v1/users", 200, "green").await;
    delete(&world, "/gateway/routes/users");
    world.serves("POST /v1/users", 404, "").await;
    world.nothing_was_refused().await;
}

async fn the_full_route(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (first, second) = (Upstream::start("orders-v1").await, Upstream::start("orders-v2").await);
    for upstream in [&first, &second] {
        let cluster = json!({ "endpoints": [{ "address": upstream.address().to_string() }] });
        put(&world, &format!("/gateway/clusters/{}", upstream.name), &cluster);
    }
    let route = json!({
        "match": [{
            "hosts": ["api.example.com"], "path": "/v1/orders/*", "methods": ["GET", "POST"],
            "headers": { "x-tenant": "a" }, "query": { "v": { "present": true } },
        }],
        "to": [{ "cluster": "orders-v1", "weight": 95 }, { "cluster": "orders-v2", "weight": 5 }],
        "overrides": [{ "headers": { "x-env-tag": "canary-v2" }, "to": "orders-v2" }],
        "rewrite": { "prefix": "/orders/", "host": "orders.internal" },
        "timeout": "3s", "idle_timeout": "60s",
        "retry": {
            "attempts": 2, "on": ["connect-failure", "503"], "per_try_timeout": "1s",
            "back_off": { "base": "25ms", "max": "250ms" },
        },
        "request_headers": { "set": { "x-from": "edge" }, "add": { "x-more": "1" }, "remove": ["x-debug"] },
        "response_headers": { "set": { "x-served": "chancery" }, "remove": ["server-timing"] },
        "listeners": ["edge"], "groups": ["default"], "priority": 0, "enabled": true,
    });
    put(&world, "/gateway/routes/orders/list", &route);

    let right = || {
        Ask::from("GET api.example.com/v1/orders/7?v=")
            .with("x-tenant", "a")
            .with("x-debug", "1")
    };
    let canary = world
        .serves(right().with("x-env-tag", "canary-v2"), 200, "orders-v2")
        .await;
    assert_eq!(canary.body["path"], "/orders/7?v=", "an override inherits the rewrite");
    let whole = world
        .ask(Ask::from("POST api.example.com/v1/orders?v=1").with("x-tenant", "a"))
        .await;
    assert_eq!(
        (whole.status, &whole.body["path"]),
        (200, &json!("/orders?v=1")),
        "what matched is replaced"
    );

    let answer = world.ask(right()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["path"], "/orders/7?v=");
    assert_eq!(answer.body["host"], "orders.internal");
    let headers = &answer.body["headers"];
    assert_eq!((&headers["x-from"], &headers["x-more"]), (&json!("edge"), &json!("1")));
    assert_eq!(headers["x-debug"], Value::Null, "removed on the way in");
    assert_eq!(answer.headers["x-served"], "chancery");
    assert!(!answer.headers.contains_key("server-timing"), "removed on the way out");

    for (why, wrong) in [
        (
            "another host",
            Ask::from("GET www.example.com/v1/orders/7?v=").with("x-tenant", "a"),
        ),
        (
            "another method",
            Ask::from("DELETE api.example.com/v1/orders/7?v=").with("x-tenant", "a"),
        ),
        (
            "another tenant",
            Ask::from("GET api.example.com/v1/orders/7?v=").with("x-tenant", "b"),
        ),
        (
            "no parameter",
            Ask::from("GET api.example.com/v1/orders/7").with("x-tenant", "a"),
        ),
        (
            "no whole segment",
            Ask::from("GET api.example.com/v1/orders7?v=").with("x-tenant", "a"),
        ),
    ] {
        assert_eq!(world.ask(wrong).await.status, 404, "{why}");
    }

    // A retry hides one upstream that answers 503; without one it shows.
    let port = world
        .ask(Ask::from("GET api.example.com:8443/v1/orders/7?v=").with("x-tenant", "a"))
        .await;
    assert_eq!(port.status, 200, "the port in Host is ignored");
    first.answer_with(503);
    let before = first.requests();
    let tries = async || {
        // 95 % go to orders-v1: among 20 requests some do.
        for _ in 0..20 {
            world.ask(right()).await;
        }
        first.requests() - before
    };
    assert!(tries().await > 20, "a 503 is tried again");
    second.slow_down(Duration::from_secs(4));
    let began = Instant::now();
    let slow = world.ask(right().with("x-env-tag", "canary-v2")).await;
    assert_eq!(slow.status, 504, "the timeout is 3 s");
    assert!(
        began.elapsed() < Duration::from_millis(3900),
        "after {:?}",
        began.elapsed()
    );

    let disabled = json!({ "match": "GET api.example.com/v1/orders/7", "to": "orders-v1", "enabled": false });
    put(&world, "/gateway/routes/orders/list", &disabled);
    world.serves("GET api.example.com/v1/orders/7", 404, "").await;
    world.document_is("/gateway/routes/orders/list", "disabled").await;
    world.nothing_was_refused().await;
}

async fn overrides_win_under_their_conditions(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (stable, canary) = (Upstream::start("stable").await, Upstream::start("canary").await);
    let route = json!({
        "match": ["/a/*", "/b/*"], "to": stable.url(), "request_headers": { "set": { "x-from": "edge" } },
        "overrides": [
            { "headers": { "x-env-tag": { "prefix": "canary" } }, "to": canary.url() },
            { "query": { "teapot": { "present": true } }, "to": { "respond": { "status": 418 } } },
        ],
    });
    put(&world, "/gateway/routes/split", &route);
    world.serves("GET /b/1", 200, "stable").await;
    for path in ["GET /a/1", "GET /b/1"] {
        let answer = world.ask(Ask::from(path).with("x-env-tag", "canary-7")).await;
        assert_eq!((answer.status, answer.upstream.as_str()), (200, "canary"), "{path}");
        assert_eq!(answer.body["headers"]["x-from"], "edge", "the rest is inherited");
        let answer = world.ask(Ask::from(path).with("x-env-tag", "stable-7")).await;
        assert_eq!((answer.status, answer.upstream.as_str()), (200, "stable"), "{path}");
        assert_eq!(world.ask(format!("{path}?teapot=1").as_str()).await.status, 418);
    }
    world.nothing_was_refused().await;
}

async fn both_older_forms(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let users = Upstream::start("user-service").await;
    let first = json!({
        "service": "user-service", "method": "POST", "path": "/v1/users", "upstream": users.url(),
        "timeout_ms": 5000, "enable": true,
    });
    put(&world, "/gateway/routes/user-service/create", &first);
    world.serves("POST /v1/users", 200, "user-service").await;
    assert_eq!(world.ask("GET /v1/users").await.status, 404);
    assert_eq!(
        world.ask("POST /v1/users/7").await.status,
        404,
        "the older forms' path is exact"
    );

    put(
        &world,
        "/gateway/clusters/search",
        &json!({ "endpoints": [{ "address": users.address().to_string() }] }),
    );
    let second = json!({ "host": "api.example.com", "path": "/v1/search", "service": "search", "timeout_ms": 3000 });
    put(&world, "/gateway/routes/search", &second);
    world.serves("GET api.example.com/v1/search", 200, "user-service").await;
    assert_eq!(world.ask("GET www.example.com/v1/search").await.status, 404);

    let list = json!([
        { "path": "/list/1", "method": "", "upstream": users.url(), "timeout_ms": 0 },
        { "path": "/list/2", "method": "ANY", "upstream": users.url() },
        { "path": "/list/3", "method": "*", "upstream": users.url(), "enable": false },
    ]);
    put(&world, "/gateway/routes/list", &list);
    world.serves("PUT /list/1", 200, "user-service").await;
    world.serves("GET /list/2", 200, "user-service").await;
    assert_eq!(world.ask("GET /list/3").await.status, 404, "disabled");
    put(
        &world,
        "/gateway/routes/user-service/create",
        &json!({ "path": "/v1/users", "upstream": users.url(), "enable": false }),
    );
    world.serves("POST /v1/users", 404, "").await;
    world.nothing_was_refused().await;
}

async fn defaults_hold_where_nothing_is_written(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let upstream = Upstream::start("slow").await;
    put(
        &world,
        "/gateway/routes/old",
        &json!({ "path": "/old", "upstream": upstream.url() }),
    );
    put(
        &world,
        "/gateway/routes/new",
        &json!({ "match": "/new/*", "to": upstream.url() }),
    );
    world.serves("GET /new/1", 200, "slow").await;
    assert_eq!(world.ask("GET /old/1").await.status, 404);
    let defaults = json!({
        "route": { "timeout": "300ms", "response_headers": { "set": { "x-default": "1" } } }, "legacy_path": "prefix",
    });
    put(&world, "/gateway/defaults", &defaults);
    world.serves("GET /old/1", 200, "slow").await;
    assert_eq!(world.ask("GET /new/1").await.headers["x-default"], "1");
    upstream.slow_down(Duration::from_secs(1));
    assert_eq!(world.ask("GET /new/1").await.status, 504);
    delete(&world, "/gateway/defaults");
    world.serves("GET /old/1", 404, "").await;
    assert_eq!(world.ask("GET /new/1").await.status, 200, "15 s without defaults");
    world.nothing_was_refused().await;
}

async fn fields_of_later_releases_are_refused_by_name(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let key = "/gateway/groups/later";
    let group = json!({ "match": { "id": "later-*" }, "priority": 1, "identities": ["spiffe://example.org/a"] });
    put(&world, key, &group);
    let entry = world.document_is(key, "rejected").await;
    assert_eq!(
        (&entry["path"], &entry["reason"]),
        (
            &json!("identities"),
            &json!("groups/later: identities: not supported yet")
        ),
        "{entry}"
    );
}

async fn a_lease_that_expires_takes_its_endpoint_out(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (stays, goes) = (Upstream::start("stays").await, Upstream::start("goes").await);
    put(&world, "/gateway/clusters/orders", &json!({}));
    put(&world, "/gateway/routes/orders", &json!({ "match": "/*" }));
    world
        .etcd
        .etcdctl(&["put", "/services/orders/1", &stays.address().to_string()]);
    world.serves("GET /", 200, "stays").await;

    let granted = world.etcd.etcdctl(&["lease", "grant", "2"]);
    let lease = granted
        .split_whitespace()
        .nth(1)
        .expect("lease ID granted with TTL(2s)");
    let instance = json!({ "address": goes.address().to_string(), "weight": 2, "zone": "b" }).to_string();
    world
        .etcd
        .etcdctl(&["put", "/services/orders/2", &instance, "--lease", lease]);
    let mut both = vec![stays.address().to_string(), goes.address().to_string()];
    both.sort();
    eventually(LIMIT, || world.envoy.hosts("orders"), Some(both)).await;
    world.serves("GET /", 200, "goes").await;

    // etcd expires a lease when it likes; the time that counts begins when anyone could know.
    let mut client = world.client();
    let mut watch = client
        .watch("/services/", Some(WatchOptions::new().with_prefix()))
        .await
        .expect("watch");
    let deleted = async {
        while let Some(message) = watch.message().await.expect("a watch that lasts") {
            if message
                .events()
                .iter()
                .any(|event| event.event_type() == EventType::Delete)
            {
                return Instant::now();
            }
        }
        panic!("the watch has ended");
    };
    let deleted = tokio::time::timeout(LIMIT, deleted).await.expect("the lease expires");
    eventually(
        LIMIT,
        || world.envoy.hosts("orders"),
        Some(vec![stays.address().to_string()]),
    )
    .await;
    let took = deleted.elapsed();
    println!("{bootstrap:?}: an expired lease's endpoint left Envoy {took:?} after its key");
    assert!(took < Duration::from_secs(2), "{took:?}");
    for _ in 0..20 {
        assert_eq!(world.ask("GET /").await.upstream, "stays");
    }
    world.etcd.etcdctl(&["del", "/services/orders/1"]);
    world.serves("GET /", 503, "").await;
    world.nothing_was_refused().await;
}

async fn a_cluster_of_listed_endpoints(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (near, far) = (Upstream::start("near").await, Upstream::start("far").await);
    let cluster = json!({
        "endpoints": [
            { "address": near.address().to_string(), "zone": "a", "weight": 10 },
            { "address": far.address().to_string(), "zone": "b", "priority": 1 },
        ],
        "protocol": "http2", "connect_timeout": "2s", "lb": { "policy": "least_request", "slow_start": "30s" },
        "health_check": { "http": "/healthz", "interval": "1s", "timeout": "1s", "healthy": 1, "unhealthy": 1 },
        "outlier_detection": { "consecutive_5xx": 5, "eject_for": "30s", "max_eject_percent": 30 },
        "circuit_breaker": { "connections": 1024, "pending": 1024, "requests": 1024, "retry_budget_percent": 20 },
    });
    put(&world, "/gateway/clusters/orders", &cluster);
    put(&world, "/gateway/routes/orders", &json!({ "match": "/orders/*" }));
    let answer = world.serves("GET /orders/1", 200, "near").await;
    assert_eq!(answer.body["version"], "HTTP/2.0");
    near.answer_with(503);
    world.serves("GET /orders/1", 200, "far").await;

    // By name: every hosts file has localhost as 127.0.0.1.
    let port = far.address().port();
    put(
        &world,
        "/gateway/clusters/named",
        &json!({ "dns": format!("localhost:{port}") }),
    );
    put(&world, "/gateway/routes/named", &json!({ "match": "/named/*" }));
    world.serves("GET /named/1", 200, "far").await;
    world.nothing_was_refused().await;
}

async fn redirect_and_respond(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let to = json!({ "redirect": { "scheme": "https", "host": "www.example.com", "path": "/new", "code": 308 } });
    put(&world, "/gateway/routes/whole", &json!({ "match": "/old", "to": to }));
    let to = json!({ "redirect": { "prefix": "/current" } });
    put(
        &world,
        "/gateway/routes/prefix",
        &json!({ "match": "/legacy/*", "to": to }),
    );
    let to = json!({ "respond": { "status": 418, "body": "short and stout", "headers": { "x-pot": "tea" } } });
    put(&world, "/gateway/routes/respond", &json!({ "match": "/tea", "to": to }));
    let tea = world.serves("GET /tea", 418, "").await;
    assert_eq!(tea.body, "short and stout");
    assert_eq!(tea.headers["x-pot"], "tea");
    let whole = world.ask("GET /old").await;
    assert_eq!(whole.status, 308);
    assert_eq!(whole.headers["location"], "https://www.example.com/new");
    let prefix = world.ask("GET api.example.com/legacy/a/b?c=1").await;
    assert_eq!(prefix.status, 301);
    assert_eq!(prefix.headers["location"], "http://api.example.com/current/a/b?c=1");
    world.nothing_was_refused().await;
}

async fn a_route_for_one_host_takes_nothing_from_others(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (general, special) = (Upstream::start("general").await, Upstream::start("special").await);
    put(
        &world,
        "/gateway/routes/general",
        &json!({ "match": "/*", "to": general.url() }),
    );
    put(
        &world,
        "/gateway/routes/wide",
        &json!({ "match": "*.example.com/wide", "to": special.url() }),
    );
    put(
        &world,
        "/gateway/routes/special",
        &json!({ "match": "api.example.com/v1/*", "to": special.url() }),
    );
    world.serves("GET api.example.com/v1/a", 200, "special").await;
    world.serves("GET api.example.com/wide", 200, "special").await;
    world.serves("GET www.example.com/wide", 200, "special").await;
    world.serves("GET api.example.com/other", 200, "general").await;
    world.serves("GET www.example.com/v1/a", 200, "general").await;
    world.serves("GET www.example.org/wide", 200, "general").await;
    // The longest path wins, independent of the order of writes; a priority wins over all.
    put(
        &world,
        "/gateway/routes/longer",
        &json!({ "match": "api.example.com/v1/a", "to": general.url() }),
    );
    world.serves("GET api.example.com/v1/a", 200, "general").await;
    put(
        &world,
        "/gateway/routes/first",
        &json!({ "match": "/v1/*", "to": special.url(), "priority": 1 }),
    );
    world.serves("GET api.example.com/v1/a", 200, "special").await;
    world.nothing_was_refused().await;
}

async fn weights_share_the_traffic(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (one, three) = (Upstream::start("one").await, Upstream::start("three").await);
    let to = json!([{ "cluster": one.url(), "weight": 1 }, { "cluster": three.url(), "weight": 3 }]);
    put(&world, "/gateway/routes/weighted", &json!({ "match": "/*", "to": to }));
    eventually(LIMIT, || async { world.ask("GET /").await.status }, 200).await;
    let before = three.requests();
    for _ in 0..400 {
        world.ask("GET /").await;
    }
    let share = three.requests() - before;
    assert!((250..350).contains(&share), "{share} of 400 with a weight of 3 in 4");
    let to = json!([{ "cluster": one.url(), "weight": 1 }, { "cluster": three.url(), "weight": 0 }]);
    put(&world, "/gateway/routes/weighted", &json!({ "match": "/*", "to": to }));
    world.serves("GET /", 200, "one").await;
    sleep(Duration::from_millis(300)).await;
    let before = three.requests();
    for _ in 0..100 {
        assert_eq!(world.ask("GET /").await.upstream, "one");
    }
    assert_eq!(three.requests(), before);
    world.nothing_was_refused().await;
}

async fn a_cluster_that_never_existed(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let upstream = Upstream::start("late").await;
    put(&world, "/gateway/routes/late", &json!({ "match": "/late" }));
    world.serves("GET /late", 503, "").await;
    let entry = world.document_is("/gateway/routes/late", "accepted").await;
    assert!(entry["warnings"].to_string().contains("late"), "{entry}");
    put(
        &world,
        "/gateway/clusters/late",
        &json!({ "endpoints": [{ "address": upstream.address().to_string() }] }),
    );
    world.serves("GET /late", 200, "late").await;

    // Deleted while in use: the cluster stays until its last user is deleted.
    delete(&world, "/gateway/clusters/late");
    world.document_is("/gateway/clusters/late", "held").await;
    world.serves("GET /late", 200, "late").await;
    delete(&world, "/gateway/routes/late");
    world.serves("GET /late", 404, "").await;
    eventually(LIMIT, || world.envoy.hosts("late"), None).await;
    assert_eq!(world.server.document("/gateway/clusters/late").await, None);
    world.nothing_was_refused().await;
}

async fn listeners_come_and_go(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let upstream = Upstream::start("any").await;
    put(
        &world,
        "/gateway/routes/all",
        &json!({ "match": "/all", "to": upstream.url() }),
    );
    put(
        &world,
        "/gateway/routes/inner",
        &json!({ "match": "/inner", "to": upstream.url(), "listeners": ["inner"] }),
    );
    world.serves("GET /all", 200, "any").await;
    assert_eq!(world.ask("GET /inner").await.status, 404);

    let inner = own_address();
    let document = json!({ "address": inner.to_string(), "http": { "trusted_hops": 1, "access_log": "json" } });
    put(&world, "/gateway/listeners/inner", &document);
    let status = async |path: &str| ask(&world.http, inner, &Ask::from(path)).await.status;
    eventually(LIMIT, || status("GET /inner"), 200).await;
    assert_eq!(
        status("GET /all").await,
        200,
        "a route without listeners is on all of them"
    );
    let escaped = ask(&world.http, inner, &Ask::from("GET /a%2Fb")).await;
    assert_eq!(escaped.status, 400, "an escaped slash is rejected");
    delete(&world, "/gateway/listeners/inner");
    eventually(LIMIT, || status("GET /inner"), 0).await;
    world.serves("GET /all", 200, "any").await;
    world.nothing_was_refused().await;
}

async fn groups_part_proxies(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let upstream = Upstream::start("any").await;
    let canary = own_address();
    put(
        &world,
        "/gateway/groups/canary",
        &json!({ "match": [{ "id": "canary-*" }] }),
    );
    put(
        &world,
        "/gateway/listeners/canary",
        &json!({ "address": canary.to_string(), "groups": ["canary"] }),
    );
    let edge: Value = serde_json::from_str(&listener(world.address)).expect("JSON");
    put(
        &world,
        "/gateway/listeners/edge",
        &json!({ "address": edge["address"], "groups": ["default"] }),
    );
    put(
        &world,
        "/gateway/routes/all",
        &json!({ "match": "/all", "to": upstream.url() }),
    );
    put(
        &world,
        "/gateway/routes/new",
        &json!({ "match": "/new", "to": upstream.url(), "groups": ["canary"] }),
    );
    world.serves("GET /all", 200, "any").await;
    assert_eq!(world.ask("GET /new").await.status, 404);
    let envoy = Envoy::start(bootstrap, world.server.xds(), "canary-1").await;
    envoy.ready().await;
    let status = async |path: &str| ask(&world.http, canary, &Ask::from(path)).await.status;
    eventually(LIMIT, || status("GET /new"), 200).await;
    assert_eq!(status("GET /all").await, 200);
    let clients = world.server.get("/api/v1/clients").await;
    let mut groups: Vec<(&str, &str)> = clients["clients"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|client| {
            (
                client["node"]["id"].as_str().unwrap_or_default(),
                client["group"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, [("canary-1", "canary"), ("edge-1", "default")]);
    assert_eq!(envoy.rejections().await, 0);
    world.nothing_was_refused().await;
}
