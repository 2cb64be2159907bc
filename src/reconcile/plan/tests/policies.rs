//! Policies: which one holds for a route, what a change of one costs, and that a broken one opens nothing.

use envoy_types::pb::envoy::config::route::v3::{FilterConfig, Route, RouteConfiguration, route};
use envoy_types::pb::envoy::extensions::filters::http::filter_chain::v3::FilterChainConfigPerRoute;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use prost::{Message, Name};
use serde_json::{Value as Json, json};

use super::*;

const LISTENER: &str = r#"{"address": "0.0.0.0:80"}"#;
const GUARDED: &str = r#"{"address": "0.0.0.0:80", "policies": ["p"]}"#;
const TO_X: &str = r#"{"match": "/a", "to": "x"}"#;

/// A policy that marks answers.
fn mark(text: &str) -> String {
    format!(r#"{{"headers": {{"response": {{"set": {{"x-mark": "{text}"}}}}}}}}"#)
}

/// The text that serves; `None`: no text does, or there is no such document.
fn serving(stage: &Stage, key: &str) -> Option<String> {
    stage
        .world
        .document(&document_key(key))
        .and_then(|_| stage.serving(key))
}

fn configuration(stage: &Stage) -> RouteConfiguration {
    let compiled = stage.world.compiled();
    let resource = compiled.resource("default", ResourceType::Route, "edge").unwrap();
    RouteConfiguration::decode(&*resource.body.to_bytes()).unwrap()
}

fn listener_version(stage: &Stage) -> String {
    let compiled = stage.world.compiled();
    let listener = compiled.resource("default", ResourceType::Listener, "edge").unwrap();
    listener.version.to_string()
}

/// The routes of the virtual host `*` by name.
fn routes(configuration: &RouteConfiguration) -> Vec<&Route> {
    let hosts = configuration.virtual_hosts.iter();
    hosts
        .filter(|host| host.domains == ["*"])
        .flat_map(|host| &host.routes)
        .collect()
}

/// The filters that Envoy runs for a route in the slot `chancery.edge`, and the mark of `headers`.
fn filters(configuration: &RouteConfiguration, route: &Route) -> Vec<String> {
    let chain = |any: Option<&Any>| -> Vec<String> {
        let Some(any) = any else { return Vec::new() };
        if any.type_url == FilterConfig::type_url() {
            assert!(FilterConfig::decode(&*any.value).unwrap().disabled);
            return Vec::new();
        }
        let config = FilterChainConfigPerRoute::decode(&*any.value).unwrap();
        let filters = config.filter_chain.unwrap().filters.into_iter();
        filters
            .map(|filter| {
                let config = filter.typed_config.unwrap();
                let name = filter.name.trim_end_matches(".own").to_owned();
                if config.type_url != HeaderMutation::type_url() {
                    return name;
                }
                let config = HeaderMutation::decode(&*config.value).unwrap();
                let text = format!("{:?}", config.mutations.unwrap().response_mutations);
                let value = text.split("value: \"").nth(1).unwrap().split('"').next().unwrap();
                format!("{name}={value}")
            })
            .collect()
    };
    let shared = route
        .typed_per_filter_config
        .get("chancery.edge")
        .or_else(|| configuration.typed_per_filter_config.get("chancery.edge"));
    let own = route.typed_per_filter_config.get("chancery.edge.own");
    [chain(shared), chain(own)].concat()
}

fn filters_of(stage: &Stage, name: &str) -> Vec<String> {
    let configuration = configuration(stage);
    let found = routes(&configuration).into_iter().find(|route| route.name == name);
    found.map_or_else(|| vec!["no route".to_owned()], |route| filters(&configuration, route))
}

fn edge(documents: &[(&str, &str)]) -> Stage {
    world_of(&[&[("clusters/x", "{}")], documents].concat())
}

#[test]
fn the_filters_of_a_listener_stand_once_and_no_policy_changes_the_listener() {
    let mut stage = edge(&[
        ("policies/p", &mark("one")),
        ("listeners/edge", GUARDED),
        ("routes/a", TO_X),
        ("routes/b", r#"{"match": "/b", "to": "x", "policies": [{"csrf": {}}]}"#),
    ]);
    let listener = listener_version(&stage);
    let plan = stage.put("policies/p", &mark("two"));
    assert_eq!(changed(&plan), ["default routes edge"]);
    let configuration = configuration(&stage);
    let plain: Vec<&str> = routes(&configuration)
        .into_iter()
        .filter(|route| route.typed_per_filter_config.is_empty())
        .map(|route| &*route.name)
        .collect();
    assert_eq!(plain, ["routes/a", "chancery/not-found"]);
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=two"]);
    assert_eq!(filters_of(&stage, "routes/b"), ["headers=two", "csrf"]);
    assert_eq!(filters_of(&stage, "chancery/not-found"), ["headers=two"]);

    stage.put("routes/b", r#"{"match": "/b", "to": "x"}"#);
    stage.put("listeners/edge", LISTENER);
    assert_eq!(filters_of(&stage, "chancery/not-found"), ["no route"]);
    assert_eq!(listener_version(&stage), listener);
}

#[test]
fn a_policy_of_a_listener_that_changes_encodes_no_virtual_host() {
    let route = r#"{"match": "a.example.com/a", "to": "x"}"#;
    let mut stage = edge(&[
        ("policies/p", &mark("one")),
        ("listeners/edge", GUARDED),
        ("routes/a", route),
        ("routes/b", TO_X),
    ]);
    let pieces = |stage: &Stage| -> Vec<*const u8> {
        let compiled = stage.world.compiled();
        let resource = compiled.resource("default", ResourceType::Route, "edge").unwrap();
        resource.body.pieces().map(|piece| piece.as_ptr()).collect()
    };
    let before = pieces(&stage);
    let plan = stage.put("policies/p", &mark("two"));
    assert_eq!(changed(&plan), ["default routes edge"]);
    let after = pieces(&stage);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
}

#[test]
fn a_missing_name_is_rejected_and_tried_again_when_it_appears() {
    let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", TO_X)]);
    let named = r#"{"match": "/a", "to": "x", "policies": ["p"]}"#;
    let plan = stage.put("routes/a", named);
    assert_eq!(changed(&plan), Vec::<String>::new());
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    assert_eq!(stage.status("routes/a").path.as_deref(), Some("policies[0]"));
    stage.put("policies/p", r#"{"nonsense": {}}"#);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    stage.put("policies/p", &mark("one"));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one"]);
    // A bad text of the policy: its last good one holds. A deleted one stays while it is named.
    stage.put("policies/p", r#"{"nonsense": {}}"#);
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one"]);
    stage.delete("policies/p");
    assert_eq!(stage.state("policies/p"), Some(State::Held));
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one"]);
    stage.put("routes/a", TO_X);
    assert_eq!(stage.state("policies/p"), None);
}

#[test]
fn a_policy_of_another_group_is_no_policy() {
    let mut stage = edge(&[
        ("policies/p", r#"{"csrf": {}, "groups": ["inner"]}"#),
        ("listeners/edge", LISTENER),
        ("groups/inner", "{\"match\": [{\"id\": \"inner\"}]}"),
    ]);
    stage.put("routes/a", r#"{"match": "/a", "to": "x", "policies": ["p"]}"#);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    stage.put(
        "routes/a",
        r#"{"match": "/a", "to": "x", "policies": ["p"], "groups": ["inner"]}"#,
    );
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
}

#[test]
fn two_of_a_kind_are_rejected_at_the_document_written_last() {
    let mut stage = edge(&[
        ("policies/p", &mark("one")),
        ("policies/q", r#"{"csrf": {}}"#),
        ("listeners/edge", LISTENER),
        ("routes/a", r#"{"match": "/a", "to": "x", "policies": ["p", "q"]}"#),
    ]);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.put("policies/q", &mark("two"));
    assert_eq!(stage.state("policies/q"), Some(State::Rejected));
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one", "csrf"]);
    stage.put("policies/p", r#"{"csrf": {}}"#);
    assert_eq!(stage.state("policies/p"), Some(State::Rejected));
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one", "csrf"]);
    stage.put(
        "routes/b",
        r#"{"match": "/b", "to": "x", "policies": ["p", {"headers": "off"}]}"#,
    );
    assert_eq!(stage.status("routes/b").path.as_deref(), Some("policies[1]"));
}

#[test]
fn policies_on_a_listener_on_demand_are_rejected() {
    let on_demand = r#"{"address": "0.0.0.0:80", "http": {"virtual_hosts": "on_demand"}}"#;
    let csrf = r#"{"match": "/a", "to": "x", "policies": [{"csrf": {}}]}"#;
    let mut stage = edge(&[("listeners/edge", on_demand), ("routes/a", TO_X)]);
    stage.put("routes/a", csrf);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    stage.put("clusters/x", r#"{"policies": [{"csrf": {}}]}"#);
    assert_eq!(stage.state("clusters/x"), Some(State::Rejected));
    stage.put("defaults", r#"{"policies": [{"csrf": {}}]}"#);
    assert_eq!(stage.state("defaults"), Some(State::Rejected));

    let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", csrf)]);
    stage.put("listeners/edge", on_demand);
    assert_eq!(stage.state("listeners/edge"), Some(State::Rejected));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
}

#[test]
fn targets_in_maintenance_beside_others_are_rejected() {
    let split = r#"{"match": "/a", "to": [{"cluster": "x", "weight": 1}, {"cluster": "y", "weight": 1}]}"#;
    let mut stage = edge(&[("clusters/y", "{}"), ("listeners/edge", LISTENER), ("routes/a", split)]);
    stage.put("clusters/y", r#"{"policies": [{"maintenance": {}}]}"#);
    assert_eq!(stage.state("clusters/y"), Some(State::Rejected));
    stage.put("routes/a", TO_X);
    assert_eq!(stage.state("clusters/y"), Some(State::Accepted));
    stage.put("routes/a", split);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));

    // Both in maintenance, each by another document: the one that leaves it is at fault.
    stage.put("policies/m", r#"{"maintenance": {}}"#);
    stage.put("clusters/x", r#"{"policies": ["m"]}"#);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    for (key, text) in [("policies/m", r#"{"csrf": {}}"#), ("clusters/y", "{}")] {
        stage.put(key, text);
        assert_eq!(stage.state(key), Some(State::Rejected), "{key}");
        assert_eq!(stage.state("routes/a"), Some(State::Accepted), "{key}");
    }
}

#[test]
fn maintenance_of_a_listener_closes_every_route_and_opens_them_again() {
    let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", TO_X)]);
    let forwards = |stage: &Stage| {
        let configuration = configuration(stage);
        let is_forwarded = |route: &&Route| matches!(route.action, Some(route::Action::Route(_)));
        routes(&configuration).into_iter().filter(is_forwarded).count()
    };
    stage.put(
        "listeners/edge",
        r#"{"address": "0.0.0.0:80", "policies": [{"maintenance": {}}]}"#,
    );
    assert_eq!(forwards(&stage), 0);
    stage.put(
        "routes/b",
        r#"{"match": "/b", "to": "x", "policies": [{"maintenance": "off"}]}"#,
    );
    assert_eq!(forwards(&stage), 1);
    stage.put("listeners/edge", LISTENER);
    assert_eq!(forwards(&stage), 2);
}

#[test]
fn a_peer_needs_a_listener_that_checks_certificates() {
    let with_ca = r#"{"address": "0.0.0.0:443", "tls": {"certificates": ["c"], "client_ca": "ca", "client_certificate": "required"}}"#;
    let peer = r#"{"rbac": {"rules": [{"action": "deny", "peer": {"dns": "a.example.com"}}], "default": "allow"}}"#;
    let named = r#"{"match": "/a", "to": "x", "policies": ["p"]}"#;
    let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", TO_X), ("policies/p", peer)]);
    stage.put("routes/a", named);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    assert_eq!(
        stage.status("routes/a").reason.as_deref(),
        Some(
            "routes/a: policies[0]: found \"peer\" of rbac on listeners/edge, which has no \"client_ca\", expected one"
        )
    );
    // Of the policy, its list and the listener the one written last.
    stage.put("policies/p", &mark("one"));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.put("policies/p", peer);
    assert_eq!(stage.state("policies/p"), Some(State::Rejected));
    assert_eq!(filters_of(&stage, "routes/a"), ["headers=one"]);

    // Where no list names it, it waits.
    stage.put("routes/a", TO_X);
    assert_eq!(stage.state("policies/p"), Some(State::Accepted));
    stage.put("listeners/edge", r#"{"address": "0.0.0.0:80", "policies": ["p"]}"#);
    assert_eq!(stage.state("listeners/edge"), Some(State::Rejected));
    let texts = crate::document::value(include_bytes!("../../../../tests/golden/in/listener-tls.yaml")).unwrap();
    stage.put("secrets/c", &texts["secrets/edge"].to_string());
    stage.put("secrets/ca", &texts["secrets/partners"].to_string());
    stage.put("listeners/edge", with_ca);
    stage.put("routes/a", named);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.put("listeners/edge", LISTENER);
    assert_eq!(stage.state("listeners/edge"), Some(State::Rejected));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
}

#[test]
fn a_buffer_on_a_grpc_match_is_rejected_wherever_it_comes_from() {
    let grpc = r#"{"match": {"grpc": "pkg.Service"}, "to": "x"}"#;
    let buffer = r#"{"buffer": {"max": "1KiB"}}"#;
    let mut stage = edge(&[
        ("listeners/edge", LISTENER),
        ("routes/a", grpc),
        ("policies/p", &mark("one")),
    ]);
    stage.put("listeners/edge", GUARDED);
    for (key, text) in [
        ("policies/p", buffer.to_owned()),
        ("clusters/x", format!(r#"{{"policies": [{buffer}]}}"#)),
        ("defaults", format!(r#"{{"policies": [{buffer}]}}"#)),
        (
            "listeners/edge",
            format!(r#"{{"address": "0.0.0.0:80", "policies": [{buffer}]}}"#),
        ),
    ] {
        stage.put(key, &text);
        assert_eq!(stage.state(key), Some(State::Rejected), "{key}");
        assert_eq!(stage.state("routes/a"), Some(State::Accepted), "{key}");
    }
    stage.put(
        "routes/a",
        r#"{"match": {"grpc": "pkg.Service"}, "to": "x", "policies": [{"buffer": "off"}]}"#,
    );
    stage.put(
        "listeners/edge",
        &format!(r#"{{"address": "0.0.0.0:80", "policies": [{buffer}]}}"#),
    );
    assert_eq!(stage.state("listeners/edge"), Some(State::Accepted));
    stage.put("routes/b", grpc);
    assert_eq!(stage.state("routes/b"), Some(State::Rejected));
}

#[test]
fn surprising_policies_have_warnings() {
    let private = r#"{"match": "/a", "to": "x", "websocket": true, "policies": [{"ip_access": {"allow": ["10.0.0.0/8"]}}, {"buffer": {"max": "1KiB"}}, {"sticky": {}}]}"#;
    let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", private)]);
    let warnings = |stage: &Stage| {
        stage
            .status("routes/a")
            .warnings
            .iter()
            .map(|text| text.split(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut found = warnings(&stage);
    found.sort();
    assert_eq!(found, ["ip_access", "policies[2].sticky", "websocket"]);
    stage.put(
        "listeners/edge",
        r#"{"address": "0.0.0.0:80", "http": {"client_ip": {"trusted_hops": 1}}}"#,
    );
    stage.put("routes/a", &private.replace("10.0.0.0/8", "10.0.0.0/7"));
    assert!(!warnings(&stage).contains(&"ip_access".to_owned()));
}

/// Documents with lists, each with the texts around a list.
const LISTS: [(&str, &str, &str); 4] = [
    ("defaults", r#"{"policies": "#, "}"),
    ("listeners/edge", r#"{"address": "0.0.0.0:80", "policies": "#, "}"),
    ("clusters/x", r#"{"policies": "#, "}"),
    ("routes/a", r#"{"match": "/a", "to": "x", "policies": "#, "}"),
];
/// Lists: good, with a missing name, and bad.
const CONTENTS: [&str; 9] = [
    "[]",
    r#"["p"]"#,
    r#"["q"]"#,
    r#"["p", "q"]"#,
    r#"[{"headers": {"response": {"set": {"x-mark": "OWN"}}}}]"#,
    r#"[{"headers": "off"}]"#,
    r#"[{"csrf": "off"}]"#,
    r#"["missing"]"#,
    r#"[{"nonsense": {}}]"#,
];
/// Texts of policies documents: good, final, and bad.
const POLICIES: [&str; 5] = [
    r#"{"headers": {"response": {"set": {"x-mark": "NAME"}}}}"#,
    r#"{"headers": {"response": {"set": {"x-mark": "NAME"}}}, "final": true}"#,
    r#"{"csrf": {}}"#,
    r#"{"csrf": {}, "final": true}"#,
    r#"{"headers": 5}"#,
];

/// The RouteConfiguration for proxies that may not have secrets; `None`: the same as for others.
fn withheld(stage: &Stage) -> Option<(String, RouteConfiguration)> {
    let compiled = stage.world.compiled();
    let resource = compiled.resource("default", ResourceType::Route, "edge").unwrap();
    let withheld = resource.withheld.as_ref()?;
    let configuration = RouteConfiguration::decode(&*withheld.body.to_bytes()).unwrap();
    Some((withheld.version.to_string(), configuration))
}

/// The type of each filter of a slot, and whether it refuses every request.
fn slot(config: &std::collections::HashMap<String, Any>, slot: &str) -> Vec<(String, bool)> {
    use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
    let Some(chain) = config.get(slot) else {
        return Vec::new();
    };
    let chain = FilterChainConfigPerRoute::decode(&*chain.value).unwrap();
    let filters = chain.filter_chain.unwrap().filters.into_iter();
    let shown = filters.map(|filter| {
        let config = filter.typed_config.unwrap();
        let refuses = config.type_url == Rbac::type_url()
            && Rbac::decode(&*config.value).unwrap().rules.unwrap().policies.is_empty();
        (filter.name, refuses)
    });
    shown.collect()
}

const KEYS: &str = r#"{"api_keys": {"umbra": "0123456789abcdef"}}"#;
const BY_KEY: &str = r#"{"api_key": {"keys": ["keys"]}}"#;

#[test]
fn a_proxy_that_may_not_have_secrets_gets_filters_that_refuse() {
    let mut stage = edge(&[
        ("secrets/keys", KEYS),
        ("policies/p", BY_KEY),
        ("listeners/edge", LISTENER),
        (
            "routes/a",
            r#"{"match": "a.example.com/a", "to": "x", "policies": ["p"]}"#,
        ),
        ("routes/b", TO_X),
    ]);
    let (version, configuration) = withheld(&stage).unwrap();
    let hosts = configuration.virtual_hosts.iter();
    let own: Vec<_> = hosts
        .flat_map(|host| &host.routes)
        .map(|route| (&*route.name, slot(&route.typed_per_filter_config, "chancery.auth.own")))
        .collect();
    let refusing = ("api_key.own".to_owned(), true);
    assert_eq!(
        own,
        [
            ("routes/a", vec![refusing]),
            ("routes/b", Vec::new()),
            ("routes/b", Vec::new()),
        ]
    );
    let text = format!("{configuration:?}");
    assert!(!text.contains("0123456789abcdef"));

    // Another key is news to nobody without secrets.
    let plan = stage.put("secrets/keys", &KEYS.replace("abcdef", "fedcba"));
    assert!(changed(&plan).contains(&"default routes edge".to_owned()));
    assert_eq!(withheld(&stage).unwrap().0, version);

    stage.put("listeners/edge", GUARDED);
    let (_, configuration) = withheld(&stage).unwrap();
    let shared = slot(&configuration.typed_per_filter_config, "chancery.auth");
    assert_eq!(shared, [("api_key".to_owned(), true)]);
    stage.put("listeners/edge", LISTENER);
    stage.put("routes/a", r#"{"match": "a.example.com/a", "to": "x"}"#);
    assert_eq!(withheld(&stage), None);
}

#[test]
fn a_login_whose_secrets_are_withheld_refuses() {
    let oidc = r#"{"oidc": {"authorization_endpoint": "https://id.example.com/authorize",
        "token_endpoint": "https://10.0.0.9/token", "client_id": "web", "client_secret": "client",
        "cookie_secret": "cookie", "redirect_hosts": ["a.example.com"]}}"#;
    let mut stage = world_of(&[
        ("secrets/client", r#"{"generic": "0123456789abcdef"}"#),
        ("secrets/cookie", r#"{"generic": "0123456789abcdef0123456789abcdef"}"#),
        ("listeners/edge", LISTENER),
        ("routes/a", r#"{"match": "/a", "to": "x"}"#),
    ]);
    stage.put("policies/p", &oidc.replace("https://10.0.0.9", "http://127.0.0.1:9"));
    stage.put("listeners/edge", GUARDED);
    assert_eq!(
        stage.status("listeners/edge").reason,
        None,
        "{:?}",
        stage.status("policies/p").reason
    );
    let (_, configuration) = withheld(&stage).unwrap();
    assert_eq!(
        slot(&configuration.typed_per_filter_config, "chancery.edge"),
        [("oidc".to_owned(), true)]
    );
    assert!(!configuration.typed_per_filter_config.contains_key("chancery.oidc"));
}

#[test]
fn a_policy_for_all_targets_of_a_split_stands_on_the_route() {
    let stage = edge(&[
        ("clusters/y", "{}"),
        ("listeners/edge", LISTENER),
        (
            "routes/a",
            r#"{"match": "/a", "to": [{"cluster": "x", "weight": 1}, {"cluster": "y", "weight": 1}],
                "policies": [{"csrf": {}}]}"#,
        ),
    ]);
    assert_eq!(filters_of(&stage, "routes/a"), ["csrf"]);
    let configuration = configuration(&stage);
    let action = routes(&configuration)[0].action.clone();
    let Some(route::Action::Route(action)) = action else {
        panic!("{action:?}")
    };
    assert!(!format!("{action:?}").contains("chancery"));
}

#[test]
fn policies_of_too_many_bytes_reject_the_newest_document() {
    let mut stage = Stage::empty();
    stage.world.compiled = Compiled::new(compile::Options {
        bounds: Bounds {
            policy_bytes: 4000,
            ..Bounds::default()
        },
        ..compile::Options::default()
    });
    let ranges: Vec<String> = (0..40).map(|number| format!("\"10.{}.0.0/16\"", 2 * number)).collect();
    stage.put(
        "policies/p",
        &format!(r#"{{"ip_access": {{"allow": [{}]}}}}"#, ranges.join(",")),
    );
    stage.put("listeners/edge", LISTENER);
    let with = |path: &str| format!(r#"{{"match": "{path}", "to": "x", "policies": ["p"]}}"#);
    let mut accepted = 0;
    while stage.state(&format!("routes/{accepted}")) != Some(State::Rejected) {
        accepted += 1;
        stage.put(&format!("routes/{accepted}"), &with(&format!("/{accepted}")));
        assert!(accepted < 20);
    }
    assert!(accepted > 2, "{accepted}");
    let reason = stage.status(&format!("routes/{accepted}")).reason.clone().unwrap();
    assert!(
        reason.contains("bytes of policies in the routes of listeners/edge"),
        "{reason}"
    );

    // A policy that grows is at fault itself.
    let more: Vec<String> = (0..100).map(|number| format!("\"10.{}.0.0/16\"", 2 * number)).collect();
    stage.put(
        "policies/p",
        &format!(r#"{{"ip_access": {{"allow": [{}]}}}}"#, more.join(",")),
    );
    assert_eq!(stage.state("policies/p"), Some(State::Rejected));
}

/// A change of a document; `None`: its deletion.
fn changes() -> impl Strategy<Value = (&'static str, Option<String>)> {
    let list = (0..LISTS.len(), 0..CONTENTS.len()).prop_map(|(at, content)| {
        let (key, before, after) = LISTS[at];
        (
            key,
            Some(format!("{before}{}{after}", CONTENTS[content].replace("OWN", key))),
        )
    });
    let policy = (prop_oneof![Just("policies/p"), Just("policies/q")], 0..POLICIES.len())
        .prop_map(|(key, text)| (key, Some(POLICIES[text].replace("NAME", key))));
    let deleted = prop_oneof![Just("policies/p"), Just("policies/q"), Just("defaults")].prop_map(|key| (key, None));
    prop_oneof![4 => list, 3 => policy, 1 => deleted]
}

/// What the serving texts say: for each kind the winner, as [`filters`] shows it. `Err`: a name without a policy.
fn expected(stage: &Stage) -> Result<Vec<String>, String> {
    let read = |key: &str| serving(stage, key).map(|text| serde_json::from_str::<Json>(&text).unwrap());
    let mut winners: BTreeMap<&str, (Option<String>, bool)> = BTreeMap::new();
    for (key, ..) in LISTS {
        let Some(document) = read(key) else { continue };
        for item in document["policies"].as_array().cloned().unwrap_or_default() {
            let policy = match item.as_str() {
                Some(name) => read(&format!("policies/{name}")).ok_or_else(|| format!("{key} names {name}"))?,
                None => item,
            };
            let is_final = policy["final"] == json!(true);
            let (kind, entry) = match (&policy["headers"], &policy["csrf"]) {
                (Json::String(_), _) => ("headers", None),
                (_, Json::String(_)) => ("csrf", None),
                (Json::Object(headers), _) => {
                    let mark = headers["response"]["set"]["x-mark"].as_str().unwrap();
                    ("headers", Some(format!("headers={mark}")))
                }
                _ => ("csrf", Some("csrf".to_owned())),
            };
            let winner = winners.entry(kind).or_insert((None, false));
            if !winner.1 {
                *winner = (entry, is_final);
            }
        }
    }
    let of_kind = |kind| winners.get(kind).and_then(|(entry, _)| entry.clone());
    Ok(of_kind("headers").into_iter().chain(of_kind("csrf")).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// Over levels, `off`, `final`, missing names, bad texts and deletions: a route that serves has exactly the policies
    /// that the serving texts give it, and no serving text names a policy that does not serve.
    #[test]
    fn a_broken_policy_opens_no_route(changes in prop::collection::vec(changes(), 1..25)) {
        let mut stage = edge(&[("listeners/edge", LISTENER), ("routes/a", TO_X), ("routes/b", r#"{"match": "/b", "to": "x"}"#)]);
        let listener = listener_version(&stage);
        for (key, text) in changes {
            match text {
                Some(text) => drop(stage.put(key, &text)),
                None if serving(&stage, key).is_some() => drop(stage.delete(key)),
                None => continue,
            }
            let expected = expected(&stage);
            prop_assert!(expected.is_ok(), "{expected:?}");
            prop_assert_eq!(filters_of(&stage, "routes/a"), expected.unwrap());
            prop_assert_eq!(listener_version(&stage), listener.clone());

            // What is compiled step by step is what is compiled at once.
            let texts: Vec<(String, String)> = ["policies/p", "policies/q", "defaults", "listeners/edge", "clusters/x", "routes/a", "routes/b"]
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), serving(&stage, key)?)))
                .collect();
            let texts: Vec<(&str, &str)> = texts.iter().map(|(key, text)| (&**key, &**text)).collect();
            prop_assert_eq!(world_of(&texts).resources(), stage.resources());
        }
    }
}
