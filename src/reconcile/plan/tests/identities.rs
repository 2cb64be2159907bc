//! Policies about an identity: logins, claims, clients. Each fails closed where the identity cannot be there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::OAuth2PerRoute;
use prost::Message;

use super::*;

const X: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;
const LISTENER: &str = r#"{"address": "0.0.0.0:80"}"#;
const CLIENT: &str = r#"{"generic": "the-secret-of-the-client"}"#;
const COOKIES: &str = r#"{"generic": "0123456789abcdef0123456789abcdef"}"#;
const TOKEN: &str = r#"{"jwt": {"issuer": "a", "audiences": ["b"], "jwks": "http://127.0.0.1:80/keys"}}"#;
const KEYS: &str = r#"{"api_keys": {"acme": "acme-0123456789abcdef"}}"#;
const KEY: &str = r#"{"api_key": {"keys": ["keys"], "client_header": "x-client"}}"#;

fn login(more: &str) -> String {
    format!(
        r#"{{"oidc": {{"authorization_endpoint": "https://login.example.com/a", "token_endpoint": "http://127.0.0.1:80/t",
            "client_id": "a", "client_secret": "client", "cookie_secret": "cookies"{more}}}}}"#
    )
}

fn edge(documents: &[(&str, &str)]) -> Stage {
    let around = [
        ("clusters/x", X),
        ("listeners/edge", LISTENER),
        ("secrets/client", CLIENT),
        ("secrets/cookies", COOKIES),
        ("secrets/keys", KEYS),
    ];
    world_of(&around.into_iter().chain(documents.iter().copied()).collect::<Vec<_>>())
}

fn reason(stage: &Stage, key: &str) -> String {
    stage.status(key).reason.clone().unwrap_or_default()
}

/// The path of a route, and the hosts of its login to come back to; `None`: no login.
type Path = (String, Option<Vec<String>>);

/// The paths of each virtual host.
fn logins(stage: &Stage) -> Vec<(String, Vec<Path>)> {
    let compiled = stage.world.compiled();
    let resource = compiled.resource("default", ResourceType::Route, "edge").unwrap();
    let configuration = RouteConfiguration::decode(&*resource.body.to_bytes()).unwrap();
    let hosts = configuration.virtual_hosts.into_iter().map(|host| {
        let routes = host.routes.into_iter().map(|route| {
            let path = route.r#match.and_then(|matches| matches.path_specifier);
            let config = route.typed_per_filter_config.get("chancery.oidc");
            let hosts = config.map(|any| {
                let config = OAuth2PerRoute::decode(&*any.value).unwrap().config.unwrap();
                config.allowed_redirect_domains
            });
            (
                format!("{path:?}")
                    .replace(['"', '(', ')'], " ")
                    .split_whitespace()
                    .nth(2)
                    .unwrap()
                    .to_owned(),
                hosts,
            )
        });
        (host.domains.join(","), routes.collect())
    });
    hosts.collect()
}

#[test]
fn a_login_has_its_paths_on_every_host_of_its_routes() {
    let both =
        r#"{"match": {"path": "/app", "hosts": ["a.example.com", "b.example.com"]}, "to": "x", "policies": ["login"]}"#;
    let more = r#"{"match": "a.example.com/more", "to": "x", "policies": ["login"]}"#;
    let plain = r#"{"match": "a.example.com/logout", "to": "x"}"#;
    let mut stage = edge(&[
        ("policies/login", &login("")),
        ("routes/both", both),
        ("routes/plain", plain),
    ]);
    let paths = |stage: &Stage, host: &str| -> Vec<String> {
        let hosts = logins(stage);
        let (_, routes) = hosts.into_iter().find(|(domains, _)| domains == host).unwrap();
        routes
            .into_iter()
            .map(|(path, with)| format!("{path} {}", with.is_some()))
            .collect()
    };
    let of_a = ["/logout true", "/oauth2/callback true", "/logout false", "/app true"];
    let sorted = |mut paths: Vec<String>| {
        paths.sort_by_key(|path| !path.ends_with("true"));
        paths
    };
    let first_with_path = |stage: &Stage, path: &str| -> Option<String> {
        paths(stage, "a.example.com")
            .into_iter()
            .find(|one| one.starts_with(&format!("{path} ")))
    };
    assert_eq!(paths(&stage, "a.example.com").len(), of_a.len());
    assert_eq!(first_with_path(&stage, "/logout").as_deref(), Some("/logout true"));
    assert_eq!(sorted(paths(&stage, "b.example.com")).len(), 3);

    // A second route with the login changes nothing about its paths, and the paths stay until the last one goes.
    stage.put("routes/more", more);
    stage.delete("routes/both");
    assert_eq!(
        first_with_path(&stage, "/oauth2/callback").as_deref(),
        Some("/oauth2/callback true")
    );
    stage.put("policies/login", &login(r#", "callback_path": "/back""#));
    assert_eq!(first_with_path(&stage, "/oauth2/callback"), None);
    assert_eq!(first_with_path(&stage, "/back").as_deref(), Some("/back true"));
    stage.put("routes/more", &more.replace(r#", "policies": ["login"]"#, ""));
    assert_eq!(first_with_path(&stage, "/back"), None);
    assert_eq!(first_with_path(&stage, "/logout").as_deref(), Some("/logout false"));
}

#[test]
fn a_login_of_a_cluster_or_a_listener_has_its_paths_too() {
    let with = r#", "redirect_hosts": ["b.example.com"]"#;
    let route = r#"{"match": "a.example.com/app", "to": "x"}"#;
    let has_callback = |stage: &Stage| {
        let hosts = logins(stage);
        let mut routes = hosts
            .iter()
            .filter(|(host, _)| host == "a.example.com")
            .flat_map(|(_, routes)| routes);
        routes.any(|(path, _)| path == "/oauth2/callback")
    };
    let mut stage = edge(&[("policies/login", &login(with)), ("routes/a", route)]);
    assert!(!has_callback(&stage));
    stage.put("clusters/x", &X.replacen('{', r#"{"policies": ["login"], "#, 1));
    assert!(has_callback(&stage));
    stage.put("clusters/x", X);
    assert!(!has_callback(&stage));
    stage.put("listeners/edge", &LISTENER.replace('}', r#", "policies": ["login"]}"#));
    assert!(has_callback(&stage));
    stage.put("listeners/edge", LISTENER);
    assert!(!has_callback(&stage));
}

#[test]
fn a_login_always_names_the_hosts_to_come_back_to() {
    let any = r#"{"match": "/app", "to": "x", "policies": ["login"]}"#;
    let some = r#"{"match": "*.example.com/app", "to": "x", "policies": ["login"]}"#;
    let mut stage = edge(&[("policies/login", &login("")), ("routes/a", some)]);
    let hosts = |stage: &Stage| -> Vec<String> {
        let hosts = logins(stage);
        hosts
            .into_iter()
            .flat_map(|(_, routes)| routes)
            .find_map(|(_, hosts)| hosts)
            .unwrap()
    };
    assert_eq!(hosts(&stage), ["*.example.com"]);
    stage.put("routes/a", any);
    assert!(reason(&stage, "routes/a").contains("no \"redirect_hosts\" for requests of any host"));
    stage.put("listeners/edge", &LISTENER.replace('}', r#", "policies": ["login"]}"#));
    assert!(reason(&stage, "listeners/edge").contains("no \"redirect_hosts\""));
    stage.put("policies/login", &login(r#", "redirect_hosts": ["a.example.com"]"#));
    assert_eq!(
        (reason(&stage, "routes/a"), reason(&stage, "listeners/edge")),
        (String::new(), String::new())
    );
    stage.put("policies/login", &login(""));
    assert!(reason(&stage, "policies/login").contains("no \"redirect_hosts\""));
}

#[test]
fn two_logins_of_a_host_need_paths_of_their_own() {
    let route = |path: &str, policy: &str| {
        format!(r#"{{"match": "a.example.com/{path}", "to": "x", "policies": ["{policy}"]}}"#)
    };
    let other = r#", "callback_path": "/b/back", "logout_path": "/b/logout""#;
    let mut stage = edge(&[
        ("policies/one", &login("")),
        ("policies/two", &login(other)),
        ("routes/a", &route("a", "one")),
        ("routes/b", &route("b", "two")),
    ]);
    assert_eq!(reason(&stage, "routes/b"), "");
    stage.put("policies/two", &login(""));
    assert!(
        reason(&stage, "policies/two").contains("for policies/two and policies/one on the host a.example.com")
            || reason(&stage, "policies/two").contains("for policies/one and policies/two on the host a.example.com"),
        "{}",
        reason(&stage, "policies/two")
    );
}

#[test]
fn a_secret_for_cookies_is_long_enough() {
    let route = r#"{"match": "a.example.com/app", "to": "x", "policies": ["login"]}"#;
    let mut stage = edge(&[("policies/login", &login("")), ("routes/a", route)]);
    stage.put("secrets/cookies", CLIENT);
    assert!(reason(&stage, "secrets/cookies").contains("found a secret of 24 bytes, expected at least 32"));
    stage.put("policies/other", &login("").replace("cookies", "client"));
    assert!(reason(&stage, "policies/other").contains("found a secret of 24 bytes, expected at least 32"));
}

#[test]
fn a_claim_needs_a_token_and_a_client_a_key() {
    let rules = [
        (
            TOKEN,
            "token",
            r#"{"rbac": {"rules": [{"action": "deny", "claims": {"sub": "mallory"}}], "default": "allow"}}"#,
            "a claim",
        ),
        (
            TOKEN,
            "token",
            r#"{"rate_limit": {"requests": 1, "per": "1s", "by": {"claim": "sub"}}}"#,
            "a claim",
        ),
        (
            KEY,
            "key",
            r#"{"rbac": {"rules": [{"clients": ["acme"]}]}}"#,
            "the client",
        ),
        (
            KEY,
            "key",
            r#"{"rate_limit": {"requests": 1, "per": "1s", "by": "client"}}"#,
            "the client",
        ),
        (
            KEY,
            "key",
            r#"{"global_rate_limit": {"service": "x", "domain": "d", "descriptors": [[{"key": "k", "from": "client"}]]}}"#,
            "the client",
        ),
    ];
    for (basis, kind, rule, what) in rules {
        let both = r#"{"match": "/a", "to": "x", "policies": ["basis", "rule"]}"#;
        let alone = r#"{"match": "/a", "to": "x", "policies": ["rule"]}"#;
        let mut stage = edge(&[("policies/basis", basis), ("policies/rule", rule), ("routes/a", both)]);
        assert_eq!(reason(&stage, "routes/a"), "", "{rule}");
        stage.put("routes/a", alone);
        assert!(
            reason(&stage, "routes/a").contains(&format!("found {what}")),
            "{rule}: {}",
            reason(&stage, "routes/a")
        );
        // The identity from an outer level will do.
        stage.put("defaults", r#"{"policies": ["basis"]}"#);
        assert_eq!(reason(&stage, "routes/a"), "", "{rule}");
        stage.put("defaults", "{}");
        assert!(
            reason(&stage, "defaults").contains(&format!("found {what}")),
            "{kind} {rule}"
        );
    }

    // A policy, or the list of a cluster, that gives the identity no longer.
    let both = r#"{"match": "/a", "to": "x", "policies": [{"rate_limit": {"requests": 1, "per": "1s", "by": {"claim": "sub"}}}]}"#;
    let mut stage = edge(&[("policies/basis", TOKEN), ("routes/a", both)]);
    let guarded = X.replacen('{', r#"{"policies": ["basis"], "#, 1);
    stage.put("clusters/x", &guarded);
    assert_eq!(reason(&stage, "routes/a"), "");
    stage.put("policies/basis", r#"{"csrf": {}}"#);
    assert!(reason(&stage, "policies/basis").contains("found a claim"));
    stage.put("policies/basis", TOKEN);
    stage.put("clusters/x", X);
    assert!(reason(&stage, "clusters/x").contains("found a claim"));

    let mut stage = edge(&[
        ("policies/basis", KEY),
        (
            "routes/a",
            r#"{"match": "/a", "to": "x", "policies": ["basis", {"rbac": {"rules": [{"clients": ["acme"]}]}}]}"#,
        ),
    ]);
    stage.put("policies/basis", r#"{"api_key": {"keys": ["keys"]}}"#);
    assert!(reason(&stage, "policies/basis").contains("found the client"));
}

#[test]
fn scripts_and_logins_change_no_listener_and_scripts_no_route() {
    let script = |text: &str| format!(r#"{{"lua": {{"source": "{text}"}}}}"#);
    let mut stage = edge(&[
        ("policies/script", &script("local a = 1")),
        ("policies/login", &login("")),
        (
            "routes/a",
            r#"{"match": "a.example.com/a", "to": "x", "policies": ["script", "login"]}"#,
        ),
    ]);
    let plan = stage.put("policies/script", &script("local a = 2"));
    assert_eq!(changed(&plan), ["default extension_configs chancery.lua"]);
    let plan = stage.put("policies/login", &login(r#", "scopes": ["email"]"#));
    assert_eq!(changed(&plan), ["default routes edge"]);

    // 1 MiB of scripts in all.
    let long = format!("--{}", "x".repeat(60 * 1024));
    for number in 0..17 {
        stage.put(&format!("policies/s{number}"), &script(&long));
    }
    assert_eq!(reason(&stage, "policies/s16"), "");
    stage.put("policies/s17", &script(&long));
    assert!(reason(&stage, "policies/s17").contains("bytes of scripts in group default, expected at most 1048576"));
}

#[test]
fn addresses_of_clients_hold_for_connections_of_tcp() {
    let listener = |more: &str| format!(r#"{{"address": "0.0.0.0:5432", "tcp": {{"to": "x"}}{more}}}"#);
    let chain = |stage: &Stage| -> Vec<String> {
        let compiled = stage.world.compiled();
        let resource = compiled.resource("default", ResourceType::Listener, "db").unwrap();
        let listener = Listener::decode(&*resource.body.to_bytes()).unwrap();
        let filters = listener.filter_chains[0].filters.iter();
        filters
            .map(|filter| filter.name.trim_start_matches("envoy.filters.network.").to_owned())
            .collect()
    };
    let inside = r#"{"ip_access": {"allow": ["10.0.0.0/8"]}}"#;
    let mut stage = edge(&[("policies/inside", inside), ("listeners/db", &listener(""))]);
    assert_eq!(chain(&stage), ["tcp_proxy"]);
    stage.put("listeners/db", &listener(r#", "policies": ["inside"]"#));
    assert_eq!(chain(&stage), ["rbac", "tcp_proxy"]);
    let plan = stage.put("policies/inside", r#"{"ip_access": {"allow": ["10.0.0.0/9"]}}"#);
    assert_eq!(changed(&plan), ["default listeners db"]);
    let plan = stage.put("policies/inside", r#"{"csrf": {}}"#);
    assert!(
        reason(&stage, "policies/inside").contains("found csrf beside \"tcp\""),
        "{:?}",
        changed(&plan)
    );
    assert_eq!(chain(&stage), ["rbac", "tcp_proxy"]);

    stage.put("policies/inside", inside);
    stage.put("listeners/db", &listener(""));
    stage.put(
        "defaults",
        r#"{"policies": ["inside", {"cors": {"allow_origins": ["*"]}}]}"#,
    );
    assert_eq!(chain(&stage), ["rbac", "tcp_proxy"]);
    stage.put("listeners/db", &listener(r#", "policies": [{"ip_access": "off"}]"#));
    assert_eq!(chain(&stage), ["tcp_proxy"]);
}

#[test]
fn json_for_grpc_needs_a_cluster_of_http2_and_a_held_body_no_grpc() {
    let descriptor = BASE64.encode(include_bytes!("../../../../tests/data/grpc_json/greet.bin"));
    let json = format!(r#"{{"grpc_json": {{"descriptor": "{descriptor}", "services": ["greet.Greeter"]}}}}"#);
    let http2 = X.replacen('{', r#"{"protocol": "http2", "#, 1);
    let route = r#"{"match": "/a", "to": "x", "policies": ["json"]}"#;
    let mut stage = edge(&[("policies/json", &json)]);
    stage.put("routes/a", route);
    assert!(reason(&stage, "routes/a").contains("whose \"protocol\" is not \"http2\""));
    stage.put("clusters/x", &http2);
    assert_eq!(reason(&stage, "routes/a"), "");
    stage.put("clusters/x", X);
    assert!(reason(&stage, "clusters/x").contains("whose \"protocol\" is not \"http2\""));

    let authz = r#"{"ext_authz": {"grpc": "x", "body": {}}}"#;
    let grpc = r#"{"match": {"grpc": "a.B/C"}, "to": "x", "policies": ["authz"]}"#;
    let stage = edge(&[("policies/authz", authz), ("routes/a", grpc)]);
    assert!(reason(&stage, "routes/a").contains("found \"body\" of ext_authz on a \"grpc\" match"));
}

#[test]
fn csrf_beside_keys_has_a_warning() {
    let stage = edge(&[
        ("policies/key", KEY),
        (
            "routes/a",
            r#"{"match": "/a", "to": "x", "policies": ["key", {"csrf": {}}]}"#,
        ),
    ]);
    let sentence = "csrf: holds beside api_key, whose clients may send no Origin and get 403 then";
    assert_eq!(stage.status("routes/a").warnings, [sentence]);
}

#[test]
fn cors_on_a_route_without_an_upstream_has_a_warning() {
    let cors = r#"{"cors": {"allow_origins": ["*"]}}"#;
    let own =
        format!(r#"{{"match": "/a", "to": {{"respond": {{"status": 204}}}}, "policies": [{{"csrf": {{}}}}, {cors}]}}"#);
    let forward = format!(r#"{{"match": "/b", "to": "x", "policies": [{cors}]}}"#);
    let stage = edge(&[("routes/own", &own), ("routes/forward", &forward)]);
    let sentence = "policies[1]: Envoy ignores cors on a route with redirect or respond";
    assert_eq!(stage.status("routes/own").warnings, [sentence]);
    assert_eq!(stage.status("routes/forward").warnings, [""; 0]);
}

#[test]
fn a_login_that_comes_has_tests_of_its_paths_judged_again() {
    let test = r#"[{"request": "GET http://a.example.com/oauth2/callback", "expect": {"to": "x"}}]"#;
    let all = format!(r#"{{"match": "a.example.com/*", "to": "x", "tests": {test}}}"#);
    let app = r#"{"match": "a.example.com/app", "to": "x", "policies": ["login"]}"#;
    let mut stage = edge(&[
        ("policies/login", r#"{"csrf": {}}"#),
        ("routes/all", &all),
        ("routes/app", app),
    ]);
    assert_eq!(stage.status("routes/all").warnings, [""; 0]);
    stage.put("policies/login", &login(""));
    let sentence = "tests[0]: GET http://a.example.com/oauth2/callback expected to=x, got routes/app (status=404)";
    assert_eq!(stage.status("routes/all").warnings, [sentence]);
    stage.put("policies/login", r#"{"csrf": {}}"#);
    assert_eq!(stage.status("routes/all").warnings, [""; 0]);
}
