//! Logins, scripts, and rules by a claim or a client on a real Envoy.

use http::HeaderMap;
use serde_json::{Value, json};

use crate::policies::answer;
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::policy_services::HttpServices;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(logins_scripts_and_identities);

const HOST: &str = "any.example.com";

fn documents(address: &str, web: &str, http: &HttpServices) -> Vec<(&'static str, Value)> {
    let route =
        |path: &str, policies: Value| json!({ "match": format!("{HOST}{path}"), "to": "web", "policies": policies });
    let login = json!({ "authorization_endpoint": format!("{}/authorize?tenant=1", http.url()),
        "token_endpoint": format!("{}/token", http.url()), "client_id": "web", "client_secret": "client",
        "cookie_secret": "cookies", "forward_access_token": true, "scopes": ["openid", "email"],
        "no_redirect": [{ "accept": "application/json" }], "pass": [{ "x-pass": "yes" }] });
    let mut elsewhere = login.clone();
    elsewhere["redirect_hosts"] = json!(["other.example.com"]);
    for (field, value) in [
        ("same_site", json!("strict")),
        ("refresh", json!(false)),
        ("end_session_endpoint", json!(format!("{}/bye", http.url()))),
        ("cookie_domain", json!("example.com")),
        ("forward_id_token", json!("x-id-token")),
    ] {
        elsewhere[field] = value;
    }
    elsewhere["callback_path"] = json!("/other/callback");
    elsewhere["logout_path"] = json!("/other/logout");
    let script = "function envoy_on_request(handle) \
                    handle:headers():replace('x-stamp', handle:filterContext():get('stamp')) \
                  end \
                  function envoy_on_response(handle) handle:headers():add('x-scripted', 'yes') end";
    vec![
        ("secrets/client", json!({ "generic": "the-secret-of-the-client" })),
        (
            "secrets/cookies",
            json!({ "generic": "0123456789abcdef0123456789abcdef" }),
        ),
        (
            "secrets/keys",
            json!({ "api_keys": { "acme": "acme-0123456789abcdef", "umbra": "umbra-0123456789abcde" } }),
        ),
        ("clusters/web", json!({ "endpoints": [{ "address": web }] })),
        ("listeners/edge", json!({ "address": address })),
        ("policies/login", json!({ "oidc": login })),
        (
            "policies/token",
            json!({ "jwt": { "issuer": "me", "audiences": ["web"], "jwks": { "inline": http.jwks() },
                             "claim_to_headers": { "x-user": "sub" } } }),
        ),
        (
            "policies/key",
            json!({ "api_key": { "keys": ["keys"], "client_header": "x-client" } }),
        ),
        (
            "policies/stamp",
            json!({ "lua": { "source": script, "context": { "stamp": "one" } } }),
        ),
        (
            "routes/app",
            route(
                "/app",
                json!(["login", "token", { "rbac": { "rules": [{ "claims": { "sub": "ann", "roles": "b" } }] } }]),
            ),
        ),
        (
            "routes/strict",
            route(
                "/strict",
                json!(["token", { "rbac": { "rules": [{ "claims": { "sub": "ben" } }] } }]),
            ),
        ),
        (
            "routes/other",
            json!({ "match": "/other", "to": "web", "policies": [{ "oidc": elsewhere }] }),
        ),
        (
            "routes/keyed",
            route(
                "/keyed",
                json!(["key", { "rbac": { "rules": [{ "clients": ["acme"] }] } },
                       { "rate_limit": { "requests": 2, "per": "1h", "by": "client" } }]),
            ),
        ),
        (
            "routes/counted",
            route(
                "/counted",
                json!(["key", { "rate_limit": { "requests": 1, "per": "1h", "by": "client" } }]),
            ),
        ),
        ("routes/scripted", route("/scripted", json!(["stamp"]))),
        (
            "routes/fails",
            route(
                "/fails",
                json!([{ "lua": { "source": "function envoy_on_request(handle) error('late') end" } }]),
            ),
        ),
        ("routes/last", route("/last", json!([]))),
    ]
}

async fn ask(world: &World, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    let url = format!("http://{}{path}", world.address);
    let mut builder = world.http.get(url).header("host", HOST);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let response = builder.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("a body");
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The cookies that an answer sets, as a browser sends them back.
fn cookies(headers: &HeaderMap) -> Vec<String> {
    let set = headers.get_all("set-cookie").iter();
    let set = set.map(|value| value.to_str().expect("a cookie in ASCII"));
    let kept = set.filter(|cookie| !cookie.contains("=deleted") && !cookie.contains("Max-Age=0"));
    kept.map(|cookie| cookie.split(';').next().unwrap_or_default().to_owned())
        .collect()
}

fn location(headers: &HeaderMap) -> url::Url {
    let location = headers.get("location").and_then(|value| value.to_str().ok());
    url::Url::parse(location.unwrap_or_default()).expect("a location")
}

fn parameter(url: &url::Url, name: &str) -> String {
    let mut pairs = url.query_pairs();
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

async fn logins_scripts_and_identities(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let world = World::start(bootstrap).await;
    let (web, http) = (Upstream::start("web").await, HttpServices::start().await);
    for (key, value) in documents(&world.address.to_string(), &web.address().to_string(), &http) {
        world.put(&format!("/gateway/{key}"), value.to_string()).await;
    }
    world.serves("GET /last", 200, "web").await;

    a_browser_logs_in_and_out(&world, &http).await;
    clients_have_buckets_and_rules(&world).await;

    let (status, headers, seen) = ask(&world, "/scripted", &[("x-stamp", "forged")]).await;
    assert_eq!(
        (status, &seen["headers"]["x-stamp"]),
        (200, &json!("one")),
        "{headers:?}"
    );
    assert_eq!(headers["x-scripted"], "yes");
    assert_eq!(
        ask(&world, "/fails", &[]).await.0,
        200,
        "an error at run time lets the request pass"
    );
    world.nothing_was_refused().await;
    a_script_that_fails_at_load_keeps_nothing_back(&world).await;
}

async fn a_browser_logs_in_and_out(world: &World, http: &HttpServices) {
    let (status, sent, _) = ask(world, "/app?q=1", &[]).await;
    let page = location(&sent);
    assert_eq!((status, page.path()), (302, "/authorize"), "{sent:?}");
    assert_eq!(parameter(&page, "tenant"), "1");
    assert_eq!(
        parameter(&page, "redirect_uri"),
        format!("http://{HOST}/oauth2/callback")
    );
    assert_eq!(parameter(&page, "scope"), "openid email");
    assert_eq!(parameter(&page, "code_challenge_method"), "S256");
    let under_way = cookies(&sent);
    assert!(
        under_way.iter().any(|cookie| cookie.starts_with("OauthNonce-login")),
        "{under_way:?}"
    );

    // Another browser cannot use the answer to this one.
    let back = format!(
        "/oauth2/callback?code=good&state={}",
        url::form_urlencoded::byte_serialize(parameter(&page, "state").as_bytes()).collect::<String>()
    );
    assert_eq!(ask(world, &back, &[]).await.0, 401);
    let (status, came, _) = ask(world, &back, &[("cookie", &under_way.join("; "))]).await;
    assert_eq!(
        (status, location(&came).as_str()),
        (302, &*format!("http://{HOST}/app?q=1")),
        "{came:?}"
    );
    let kept = cookies(&came).join("; ");
    assert!(
        kept.contains("BearerToken-login=") && kept.contains("OauthHMAC-login="),
        "{kept}"
    );
    assert!(
        !kept.contains(&http.token(&json!({}))[..20]),
        "cookies are encrypted: {kept}"
    );

    let (status, _, seen) = ask(world, "/app", &[("cookie", &kept)]).await;
    assert_eq!((status, &seen["headers"]["x-user"]), (200, &json!("ann")), "{seen}");
    let forged = kept.replace("OauthHMAC-login=", "OauthHMAC-login=A");
    assert_eq!(ask(world, "/app", &[("cookie", &forged)]).await.0, 302);

    let (status, out, _) = ask(world, "/logout", &[("cookie", &kept)]).await;
    assert_eq!(status, 302);
    let deleted = out
        .get_all("set-cookie")
        .iter()
        .filter(|value| value.to_str().is_ok_and(|text| text.contains("-login=deleted")));
    assert!(deleted.count() >= 2, "{out:?}");

    assert_eq!(ask(world, "/app", &[("accept", "application/json")]).await.0, 401);
    let authorization = format!("Bearer {}", http.access_token());
    assert_eq!(
        ask(world, "/app", &[("x-pass", "yes")]).await.0,
        401,
        "the token is checked nevertheless"
    );
    assert_eq!(
        ask(world, "/app", &[("x-pass", "yes"), ("authorization", &authorization)])
            .await
            .0,
        200
    );
    assert_eq!(ask(world, "/strict", &[("authorization", &authorization)]).await.0, 403);
    assert_eq!(ask(world, "/other", &[]).await.0, 401, "no login leads to another host");
}

async fn clients_have_buckets_and_rules(world: &World) {
    let (acme, umbra) = (
        ("x-api-key", "acme-0123456789abcdef"),
        ("x-api-key", "umbra-0123456789abcde"),
    );
    let mut statuses = Vec::new();
    for headers in [&[acme][..], &[umbra, ("x-client", "acme")], &[acme], &[acme]] {
        statuses.push(answer(world, "GET /keyed", headers, 0).await.0);
    }
    assert_eq!(statuses, [200, 403, 200, 429]);
    let mut statuses = Vec::new();
    for headers in [&[acme][..], &[acme], &[umbra], &[umbra, ("x-client", "new")]] {
        statuses.push(answer(world, "GET /counted", headers, 0).await.0);
    }
    assert_eq!(statuses, [200, 429, 200, 429]);
}

/// Envoy refuses the script alone: a limit that is written with it, and routes, change.
async fn a_script_that_fails_at_load_keeps_nothing_back(world: &World) {
    let put = |key: &str, value: Value| etcd_client::TxnOp::put(format!("/gateway/{key}"), value.to_string(), None);
    let bad = json!({ "lua": { "source": "error('at once')" } });
    let limited = json!({ "match": format!("{HOST}/limited"), "to": "web",
                          "policies": [{ "rate_limit": { "requests": 1, "per": "1h" } }] });
    world
        .transaction(vec![put("policies/stamp", bad), put("routes/limited", limited)])
        .await;
    let status = || async { ask(world, "/limited", &[]).await.0 };
    eventually(LIMIT, status, 429).await;
    world.document_is("/gateway/policies/stamp", "refused").await;
    let (status, headers, _) = ask(world, "/scripted", &[]).await;
    assert_eq!(
        (status, headers.get("x-scripted").is_some()),
        (200, true),
        "the script before runs"
    );
}
