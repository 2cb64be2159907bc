//! Policies with a service, a secret or a state on a real Envoy: requests that pass, requests that are refused, services
//! that are down, secrets that change or are missing, policies that are deleted while a route names them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::policies::{answer, answer_over_http2, refused_call};
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::policy_services::{GrpcServices, HttpServices};
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(services_secrets_and_states_of_policies);

/// The hash of a password in a secret of users.
fn sha(password: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    format!("{{SHA}}{}", BASE64.encode(digest))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

fn documents(address: &str, web: &str, grpc: &GrpcServices, http: &HttpServices) -> Vec<(String, Value)> {
    let descriptor = BASE64.encode(include_bytes!("../data/grpc_json/greet.bin"));
    let route = |path: &str, policies: Value| json!({ "match": path, "to": "web", "policies": policies });
    let limits = |on_error: &str, service: &str| {
        let descriptors = json!([[{ "key": "plan", "from": { "header": "x-plan" } }]]);
        json!({ "global_rate_limit": { "service": service, "domain": "shop", "descriptors": descriptors,
                "on_error": on_error, "timeout": "2s" } })
    };
    let authorized =
        |service: &str| json!({ "ext_authz": { "grpc": service, "context": { "site": "shop" }, "timeout": "5s" } });
    let issued = |jwks: Value| json!({ "jwt": { "issuer": "me", "audiences": ["web"], "jwks": jwks, "claim_to_headers": { "x-user": "sub" } } });
    let nobody = "grpc://127.0.0.1:1";
    let documents = [
        ("clusters/web", json!({ "endpoints": [{ "address": web }] })),
        (
            "clusters/greeter",
            json!({ "endpoints": [{ "address": grpc.address().to_string() }], "protocol": "http2" }),
        ),
        ("secrets/users", json!({ "users": { "alice": sha("sesame") } })),
        (
            "secrets/keys",
            json!({ "api_keys": { "acme": "acme-0123456789abcdef", "umbra": "umbra-0123456789abcde" } }),
        ),
        ("secrets/jwks", json!({ "jwks": http.jwks() })),
        (
            "listeners/edge",
            json!({ "address": address, "policies": [{ "headers": { "response": { "set": { "x-guard": "on" } } } }] }),
        ),
        ("policies/authorized", authorized(&grpc.url())),
        ("policies/token", issued(json!(format!("{}/keys", http.url())))),
        (
            "policies/two",
            json!({ "rate_limit": { "requests": 2, "per": "1h", "headers": true } }),
        ),
        (
            "policies/users",
            json!({ "basic_auth": { "users": "users", "user_header": "x-user" } }),
        ),
        ("routes/authz", route("/authz", json!(["authorized"]))),
        ("routes/authz-down", route("/authz-down", json!([authorized(nobody)]))),
        (
            "routes/forward",
            route(
                "/forward",
                json!([{ "ext_authz": { "http": http.url(), "path_prefix": "/check", "request_headers": ["x-allow"],
                                        "upstream_headers": ["x-user"], "timeout": "5s" } }]),
            ),
        ),
        ("routes/basic", route("/basic", json!(["users"]))),
        (
            "routes/basic-seen",
            route(
                "/basic-seen",
                json!([{ "basic_auth": { "users": "users", "hide_credentials": false } }]),
            ),
        ),
        (
            "routes/keys",
            route(
                "/keys",
                json!([{ "api_key": { "keys": ["keys"], "from": [{ "header": "x-api-key" }, { "query": "key" }],
                                      "clients": ["acme"], "client_header": "x-client" } }]),
            ),
        ),
        ("routes/token", route("/token", json!(["token"]))),
        (
            "routes/token-secret",
            route("/token-secret", json!([issued(json!({ "secret": "jwks" }))])),
        ),
        (
            "routes/token-down",
            route("/token-down", json!([issued(json!("http://127.0.0.1:1/keys"))])),
        ),
        ("routes/two", route("/two", json!(["two"]))),
        ("routes/two-more", route("/two-more", json!(["two"]))),
        (
            "routes/tenants",
            route(
                "/tenants",
                json!([{ "rate_limit": { "requests": 1, "per": "1h", "by": { "header": "x-tenant" },
                                         "when": { "methods": ["POST"], "path": "/tenants" } } }]),
            ),
        ),
        (
            "routes/claims",
            route(
                "/claims",
                json!(["token", { "rate_limit": { "requests": 1, "per": "1h", "by": { "claim": "sub" } } }]),
            ),
        ),
        ("routes/plans", route("/plans", json!([limits("allow", &grpc.url())]))),
        (
            "routes/plans-down",
            route("/plans-down", json!([limits("allow", nobody)])),
        ),
        (
            "routes/plans-strict",
            route("/plans-strict", json!([limits("deny", nobody)])),
        ),
        (
            "routes/processed",
            route(
                "/processed",
                json!([{ "ext_proc": { "grpc": grpc.url(), "timeout": "5s" } }]),
            ),
        ),
        (
            "routes/processed-down",
            route("/processed-down", json!([{ "ext_proc": { "grpc": nobody } }])),
        ),
        (
            "routes/json",
            json!({ "match": "/json/*", "to": "greeter",
                    "policies": [{ "grpc_json": { "descriptor": descriptor, "services": ["greet.Greeter"] } }] }),
        ),
        ("routes/last", route("/last", json!([]))),
    ];
    let documents = documents.into_iter();
    documents.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A request with its status, and headers that the upstream saw; an empty value: absent.
struct Exchange<'a> {
    request: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    status: u16,
    seen: Vec<(&'a str, &'a str)>,
}

fn exchange<'a>(
    request: &'a str,
    headers: &[(&'a str, &'a str)],
    status: u16,
    seen: &[(&'a str, &'a str)],
) -> Exchange<'a> {
    Exchange {
        request,
        headers: headers.to_vec(),
        status,
        seen: seen.to_vec(),
    }
}

async fn judge(world: &World, exchange: &Exchange<'_>) -> Option<String> {
    let (status, answered, body) = answer(world, exchange.request, &exchange.headers, 0).await;
    let holds = |(name, expected): &(&str, &str)| match *expected {
        "" => body["headers"][*name].is_null(),
        text => body["headers"][*name] == text,
    };
    let is_guarded = answered["x-guard"] == "on";
    let is_right = status == exchange.status && is_guarded && exchange.seen.iter().all(holds);
    (!is_right).then(|| {
        format!(
            "{} {:?}: {status} {answered} {body}, expected {} {:?}",
            exchange.request, exchange.headers, exchange.status, exchange.seen
        )
    })
}

async fn services_secrets_and_states_of_policies(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (web, grpc, http) = (
        Upstream::start("web").await,
        GrpcServices::start().await,
        HttpServices::start().await,
    );
    let address = world.address.to_string();
    for (key, value) in documents(&address, &web.address().to_string(), &grpc, &http) {
        world.put(&format!("/gateway/{key}"), value.to_string()).await;
    }
    world.serves("GET /last", 200, "web").await;

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let claims =
        |subject: &str, audience: &str, ends: u64| json!({ "iss": "me", "aud": audience, "sub": subject, "exp": ends });
    let bearer = |claims: &Value| format!("Bearer {}", http.token(claims));
    let (ann, ben) = (
        bearer(&claims("ann", "web", now + 3600)),
        bearer(&claims("ben", "web", now + 3600)),
    );
    let (elsewhere, expired) = (
        bearer(&claims("ann", "other", now + 3600)),
        bearer(&claims("ann", "web", now - 3600)),
    );
    let (alice, wrong) = (basic("alice", "sesame"), basic("alice", "open"));

    let allow: &[(&str, &str)] = &[("x-allow", "yes")];
    let none: &[(&str, &str)] = &[];
    let ann: &[(&str, &str)] = &[("authorization", &ann)];
    let ben: &[(&str, &str)] = &[("authorization", &ben)];
    let rows = [
        exchange("GET /authz", allow, 200, &[("x-site", "shop")]),
        exchange("GET /authz", none, 403, none),
        exchange("GET /authz-down", allow, 503, none),
        exchange("GET /forward", allow, 200, &[("x-user", "bob")]),
        exchange("GET /forward", none, 401, none),
        exchange("GET /basic", none, 401, none),
        exchange("GET /basic", &[("authorization", &wrong)], 401, none),
        exchange(
            "GET /basic",
            &[("authorization", &alice), ("x-user", "root")],
            200,
            &[("x-user", "alice"), ("authorization", "")],
        ),
        exchange(
            "GET /basic-seen",
            &[("authorization", &alice)],
            200,
            &[("authorization", &alice)],
        ),
        exchange("GET /keys", none, 401, none),
        exchange("GET /keys", &[("x-api-key", "acme-0123456789abcdeX")], 401, none),
        exchange("GET /keys", &[("x-api-key", "umbra-0123456789abcde")], 403, none),
        exchange(
            "GET /keys",
            &[("x-api-key", "acme-0123456789abcdef"), ("x-client", "root")],
            200,
            &[("x-client", "acme"), ("x-api-key", "")],
        ),
        exchange(
            "GET /keys?key=acme-0123456789abcdef",
            none,
            200,
            &[("x-client", "acme")],
        ),
        exchange("GET /token", none, 401, none),
        exchange("GET /token", ann, 200, &[("x-user", "ann")]),
        exchange("GET /token", &[("authorization", &elsewhere)], 403, none),
        exchange("GET /token", &[("authorization", &expired)], 401, none),
        exchange("GET /token-secret", ann, 200, &[("x-user", "ann")]),
        exchange("GET /token-secret", none, 401, none),
        exchange("GET /token-down", ann, 401, none),
        exchange("GET /two", none, 200, none),
        exchange("GET /two-more", none, 200, none),
        exchange("GET /two", none, 429, none),
        exchange("POST /tenants", &[("x-tenant", "a")], 200, none),
        exchange("POST /tenants", &[("x-tenant", "a")], 429, none),
        exchange("POST /tenants", &[("x-tenant", "b")], 200, none),
        exchange("POST /tenants", none, 200, none),
        exchange("POST /tenants", none, 429, none),
        exchange("GET /tenants", none, 200, none),
        exchange("GET /claims", ann, 200, none),
        exchange("GET /claims", ann, 429, none),
        exchange("GET /claims", ben, 200, none),
        exchange("GET /claims", none, 401, none),
        exchange("GET /plans", &[("x-plan", "free")], 200, none),
        exchange("GET /plans", &[("x-plan", "limited")], 429, none),
        exchange("GET /plans", none, 200, none),
        exchange("GET /plans-down", &[("x-plan", "limited")], 200, none),
        exchange("GET /plans-strict", &[("x-plan", "free")], 503, none),
        exchange("GET /processed", none, 200, &[("x-processed", "yes")]),
        exchange("GET /processed-down", none, 500, none),
    ];
    let mut found = Vec::new();
    for row in &rows {
        found.extend(judge(&world, row).await);
    }
    // The same refusals as answers to calls of gRPC.
    for (path, status) in [
        ("/authz", "7"),
        ("/authz-down", "14"),
        ("/forward", "16"),
        ("/basic", "16"),
        ("/keys", "16"),
        ("/token", "16"),
        ("/token-down", "16"),
        ("/two", "8"),
    ] {
        found.extend(refused_call(&world, path, &[], status).await);
    }
    found.extend(refused_call(&world, "/plans", &[("x-plan", "limited")], "8").await);
    found.extend(refused_call(&world, "/plans-strict", &[("x-plan", "free")], "14").await);
    let (status, _, seen) = answer_over_http2(&world, "GET /token", ann, 0).await;
    if (status, &seen["headers"]["x-user"]) != (200, &json!("ann")) {
        found.push(format!("HTTP/2 /token: {status} {seen}"));
    }
    assert!(found.is_empty(), "{}\n{}", found.join("\n"), world.envoy.log());
    let (status, headers, body) = answer(&world, "GET /json/ann", &[], 0).await;
    assert_eq!((status, &body), (200, &json!({ "text": "ann" })), "{headers}");
    let (_, refused, _) = answer(&world, "GET /forward", &[], 0).await;
    assert_eq!(
        (&refused["www-authenticate"], &refused["x-inner"]),
        (&json!("Basic"), &Value::Null)
    );
    let (_, limited, _) = answer(&world, "GET /two", &[], 0).await;
    assert!(
        limited["retry-after"].is_string() && limited["x-ratelimit-limit"] == "2",
        "{limited}"
    );

    changes_of_routes_fill_no_bucket(&world).await;
    changes_of_secrets_reach_the_routes(&world, &alice).await;
    nothing_opens_a_route(&world, &grpc).await;
    world.nothing_was_refused().await;
}

/// A change of routes makes every per-route setting anew; buckets are none.
async fn changes_of_routes_fill_no_bucket(world: &World) {
    let more = json!({ "match": "/more", "to": "web", "policies": ["two"] });
    world.put("/gateway/routes/more", more.to_string()).await;
    let status = || async { answer(world, "GET /more", &[], 0).await.0 };
    eventually(LIMIT, status, 429).await;
    assert_eq!(answer(world, "GET /two", &[], 0).await.0, 429);
}

async fn changes_of_secrets_reach_the_routes(world: &World, alice: &str) {
    let users = json!({ "users": { "bert": sha("sesame") } });
    world.put("/gateway/secrets/users", users.to_string()).await;
    let bert = basic("bert", "sesame");
    let status = || async { answer(world, "GET /basic", &[("authorization", &bert)], 0).await.0 };
    eventually(LIMIT, status, 200).await;
    assert_eq!(answer(world, "GET /basic", &[("authorization", alice)], 0).await.0, 401);

    let none = json!({ "jwks": { "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1",
                       "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] } });
    world.put("/gateway/secrets/jwks", none.to_string()).await;
    world.document_is("/gateway/secrets/jwks", "accepted").await;
}

async fn nothing_opens_a_route(world: &World, grpc: &GrpcServices) {
    let refused = |request: &'static str, status| async move { answer(world, request, &[], 0).await.0 == status };

    // A secret that is not there, and a policy that is not.
    let missing = json!({ "basic_auth": { "users": "nobody" } });
    world.put("/gateway/policies/users", missing.to_string()).await;
    let entry = world.document_is("/gateway/policies/users", "rejected").await;
    assert_eq!(entry["path"], "basic_auth.users");
    assert!(refused("GET /basic", 401).await, "the text before serves");
    let unknown = json!({ "match": "/token", "to": "web", "policies": ["none"] });
    world.put("/gateway/routes/token", unknown.to_string()).await;
    world.document_is("/gateway/routes/token", "rejected").await;
    assert!(refused("GET /token", 401).await, "the text before serves");

    // Deleted while a route names it.
    world.delete("/gateway/policies/authorized").await;
    world.document_is("/gateway/policies/authorized", "held").await;
    world.delete("/gateway/secrets/keys").await;
    world.document_is("/gateway/secrets/keys", "held").await;
    assert!(refused("GET /authz", 403).await && refused("GET /keys", 401).await);

    // A kind that a route takes back, and one that another document gives.
    let open = json!({ "match": "/authz", "to": "web", "policies": [{ "jwt": "off" }] });
    world.put("/gateway/routes/authz", open.to_string()).await;
    let status = || async { answer(world, "GET /authz", &[], 0).await.0 };
    eventually(LIMIT, status, 200).await;
    let guarded = json!({ "endpoints": [{ "address": grpc.address().to_string() }], "protocol": "http2",
                          "policies": ["two"] });
    world.put("/gateway/clusters/greeter", guarded.to_string()).await;
    let status = || async { answer(world, "GET /json/ann", &[], 0).await.0 };
    eventually(LIMIT, status, 429).await;
}
