//! An upstream that is reached by mutual TLS, with a credential: every part comes over SDS and can be replaced.
//!
//! The upstream is a second listener of the same Envoy.

use serde_json::{Value, json};

use crate::services::secure_listener;
use crate::support::authority::Authority;
use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::world::{Ask, LIMIT, World, shared};

with_both_bootstraps!(an_upstream_is_reached_by_mutual_tls_with_a_credential);

async fn an_upstream_is_reached_by_mutual_tls_with_a_credential(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (authority, other, address) = (Authority::new(), Authority::new(), own_address());
    let ca = |authority: &Authority| json!({ "ca": authority.read("ca.pem") });
    let pair = |authority: &Authority, name: &str| {
        let read = |end: &str| authority.read(&format!("{name}.{end}"));
        json!({ "certificate": read("pem"), "private_key": read("key") })
    };
    put(&world, "secrets/edge", &pair(&authority, "server")).await;
    put(&world, "secrets/ca", &ca(&authority)).await;
    put(&world, "secrets/client", &pair(&authority, "client")).await;
    put(&world, "secrets/token", &json!({ "generic": "one" })).await;
    let mut listener = secure_listener(address);
    let chain = &mut listener["resource"]["filter_chains"][0];
    let tls = &mut chain["transport_socket"]["typed_config"];
    tls["require_client_certificate"] = true.into();
    tls["common_tls_context"]["validation_context"]["trusted_ca"]["inline_string"] = authority.read("ca.pem").into();
    let route = &mut chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0];
    route["response_headers_to_add"] = json!([{ "header": { "key": "x-seen", "value": "%REQ(authorization)%" } }]);
    put(&world, "xds/listeners/secure", &listener).await;
    // A connection a request, so that each request shakes hands.
    let cluster = json!({
        "endpoints": [{ "address": address.to_string() }],
        "keepalive": { "max_requests": 1 },
        "tls": { "sni": "chancery.internal", "ca": "ca", "client_certificate": "client", "min_version": "1.3" },
        "credential": { "secret": "token" },
    });
    put(&world, "clusters/secure", &cluster).await;
    put(&world, "routes/secure", &json!({ "match": "/secure", "to": "secure" })).await;

    sees(&world, "Bearer one").await;
    put(&world, "secrets/token", &json!({ "generic": "two" })).await;
    sees(&world, "Bearer two").await;

    // Another authority vouches for the upstream, and then for Envoy.
    put(&world, "secrets/ca", &ca(&other)).await;
    world.serves("GET /secure", 503, "").await;
    put(&world, "secrets/ca", &ca(&authority)).await;
    sees(&world, "Bearer two").await;
    put(&world, "secrets/client", &pair(&other, "client")).await;
    world.serves("GET /secure", 503, "").await;
    put(&world, "secrets/client", &pair(&authority, "client")).await;
    sees(&world, "Bearer two").await;

    // The certificate is good, but not for this name.
    let elsewhere =
        json!({ "sni": "chancery.internal", "names": ["orders.internal"], "ca": "ca", "client_certificate": "client" });
    put(
        &world,
        "clusters/secure",
        &json!({ "endpoints": cluster["endpoints"], "tls": elsewhere }),
    )
    .await;
    world.serves("GET /secure", 503, "").await;
    world.nothing_was_refused().await;
}

async fn put(world: &World, key: &str, document: &Value) {
    world.put(&format!("/gateway/{key}"), document.to_string()).await;
}

/// Wait until the upstream sees this credential, whatever the client sends.
async fn sees(world: &World, credential: &str) {
    let seen = || async {
        let answer = world
            .ask(Ask::from("GET /secure").with("authorization", "Basic mine"))
            .await;
        let seen = answer
            .headers
            .get("x-seen")
            .and_then(|value| value.to_str().ok().map(str::to_owned));
        (answer.status, seen)
    };
    eventually(LIMIT, seen, (204, Some(credential.to_owned()))).await;
}
