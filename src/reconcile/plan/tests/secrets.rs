//! Secrets, and documents that name them.

use serde_json::json;

use super::*;

const TOKEN: &str = r#"{"generic": "hunter2"}"#;
const EDGE: &str = r#"{"match": [{"id": "edge-*"}]}"#;

/// A cluster in Envoy's own form that names the secret `token` over SDS.
fn cluster(name: &str, groups: &str) -> String {
    format!(
        r#"{{"groups": {groups}, "resource": {{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "{name}", "connect_timeout": "1s", "load_assignment": {{"cluster_name": "{name}"}},
            "transport_socket": {{"name": "tls", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {{"tls_certificate_sds_secret_configs": [
                    {{"name": "token", "sds_config": {{"ads": {{}}, "resource_api_version": "V3"}}}}]}}}}}}}}}}"#
    )
}

/// The groups that have the secret `token`, with a star where it is sent by name only.
fn groups_of_token(stage: &Stage) -> Vec<String> {
    let compiled = stage.world.compiled();
    let secrets = compiled
        .resources()
        .filter(|(_, resource_type, resource)| *resource_type == ResourceType::Secret && &*resource.name == "token");
    secrets
        .map(|(group, _, resource)| format!("{group}{}", if resource.on_demand { "*" } else { "" }))
        .collect()
}

#[test]
fn a_secret_goes_to_the_groups_of_its_users() {
    let mut stage = world_of(&[("groups/edge", EDGE), ("secrets/token", TOKEN)]);
    assert_eq!(groups_of_token(&stage), ["default*", "edge*"]);
    stage.put("xds/clusters/x", &cluster("x", r#"["edge"]"#));
    assert_eq!(groups_of_token(&stage), ["edge"]);
    stage.put("xds/clusters/y", &cluster("y", "null"));
    assert_eq!(groups_of_token(&stage), ["default", "edge"]);
    stage.delete("xds/clusters/y");
    assert_eq!(groups_of_token(&stage), ["edge"]);
    stage.put("xds/clusters/x", &cluster("x", r#"["default"]"#));
    assert_eq!(groups_of_token(&stage), ["default"]);
    stage.put("secrets/token", r#"{"generic": "hunter2", "groups": ["edge"]}"#);
    assert_eq!(groups_of_token(&stage), ["edge*"]);
}

#[test]
fn a_new_text_of_a_secret_changes_the_secret_alone() {
    let mut stage = world_of(&[("secrets/token", TOKEN), ("xds/clusters/x", &cluster("x", "null"))]);
    let plan = stage.put("secrets/token", r#"{"generic": "hunter3"}"#);
    assert_eq!(changed(&plan), ["default secrets token"]);
}

#[test]
fn a_secret_deleted_while_named_is_held_until_its_last_user_goes() {
    let mut stage = world_of(&[("secrets/token", TOKEN), ("xds/clusters/x", &cluster("x", "null"))]);
    let plan = stage.delete("secrets/token");
    assert!(plan.difference.is_empty());
    assert_eq!(plan.verdicts[0].used_by, [document_key("xds/clusters/x")]);
    let status = stage.status("secrets/token");
    assert_eq!(
        (status.state, status.reason.as_deref()),
        (State::Held, Some("deleted, still used by xds/clusters/x"))
    );
    stage.delete("xds/clusters/x");
    assert_eq!(stage.state("secrets/token"), None);
    assert_eq!(groups_of_token(&stage), [""; 0]);
}

#[test]
fn a_held_secret_that_is_released_goes() {
    let mut stage = world_of(&[("secrets/token", TOKEN), ("xds/clusters/x", &cluster("x", "null"))]);
    stage.delete("secrets/token");
    stage.plan(vec![Input::Release(Some(vec!["/gateway/secrets/token".to_owned()]))]);
    assert_eq!(stage.state("secrets/token"), None);
    assert_eq!(stage.state("xds/clusters/x"), Some(State::Accepted));
}

#[test]
fn a_policy_in_use_and_its_secret_are_not_released() {
    let key = r#"{"api_keys": {"acme": "acme-0123456789abcdef"}}"#;
    let mut stage = world_of(&[
        ("listeners/edge", r#"{"address": "0.0.0.0:80"}"#),
        ("clusters/x", r#"{"endpoints": [{"address": "127.0.0.1:1"}]}"#),
        ("secrets/keys", key),
        ("policies/keyed", r#"{"api_key": {"keys": ["keys"]}}"#),
        ("routes/a", r#"{"match": "/a", "to": "x", "policies": ["keyed"]}"#),
        ("routes/any", r#"{"match": "/*", "to": "x"}"#),
    ]);
    for key in ["policies/keyed", "secrets/keys"] {
        stage.delete(key);
        assert_eq!(stage.state(key), Some(State::Held), "{key}");
        let all = stage.plan(vec![Input::Release(None)]);
        assert!(all.difference.is_empty(), "{key}");
        assert_eq!(stage.state(key), Some(State::Held), "{key}");
        assert_eq!(stage.state("routes/a"), Some(State::Accepted), "{key}");
    }
    stage.put("routes/a", r#"{"match": "/a", "to": "x"}"#);
    assert_eq!(stage.state("policies/keyed"), None);
    assert_eq!(stage.state("secrets/keys"), None);
}

#[test]
fn a_released_secret_closes_what_needs_it() {
    const CHAIN: &str = include_str!("../../../../tests/data/secrets/p256.pem");
    const KEY: &str = include_str!("../../../../tests/data/secrets/p256.key");
    const CA: &str = include_str!("../../../../tests/data/secrets/ca.pem");
    let pair = json!({ "certificate": CHAIN, "private_key": KEY }).to_string();
    let authority = json!({ "ca": CA }).to_string();
    let users = [
        (
            "listeners/edge",
            r#"{"address": "0.0.0.0:8443", "tls": {"certificates": ["edge"]}}"#,
        ),
        ("clusters/x", r#"{"dns": "a.internal:443", "tls": {"ca": "authority"}}"#),
        ("routes/a", r#"{"match": "/a", "to": "x"}"#),
    ];
    let secrets = [("secrets/edge", &*pair), ("secrets/authority", &authority)];
    let mut stage = world_of(&[&secrets[..], &users].concat());
    for (secret, _) in secrets {
        stage.delete(secret);
        assert_eq!(stage.state(secret), Some(State::Held), "{secret}");
    }

    stage.plan(vec![Input::Release(None)]);
    for (user, path) in [("listeners/edge", "tls.certificates[0]"), ("clusters/x", "tls.ca")] {
        let status = stage.status(user);
        assert_eq!(
            (status.state, status.path.as_deref()),
            (State::Rejected, Some(path)),
            "{user}"
        );
        assert!(status.serving.is_none(), "{user}");
    }
    // The route answers 503 for want of endpoints.
    assert_eq!(
        stage.status("routes/a").warnings,
        ["to: clusters/x is rejected and has no earlier text that is good; requests sent there are answered with 503"]
    );
    let edge = stage
        .world
        .compiled()
        .resource("default", ResourceType::Listener, "edge");
    assert!(edge.is_none(), "the listener does not serve without TLS");
    assert_eq!(
        stage.resources(),
        world_of(&users).resources(),
        "as on a replica that starts now"
    );
}

#[test]
fn a_document_outside_used_by_is_rejected_until_it_is_let_in() {
    let only_pay = r#"{"generic": "hunter2", "used_by": ["xds/clusters/pay*"]}"#;
    let mut stage = world_of(&[("secrets/token", only_pay)]);
    stage.put("xds/clusters/x", &cluster("x", "null"));
    stage.put("xds/clusters/pay", &cluster("pay", "null"));
    assert_eq!(stage.state("xds/clusters/pay"), Some(State::Accepted));
    assert_eq!(
        stage.status("xds/clusters/x").reason.as_deref(),
        Some(
            "xds/clusters/x: resource: found secrets/token, whose \"used_by\" does not name xds/clusters/x, expected a \
             secret that it may use"
        )
    );
    stage.put("secrets/token", TOKEN);
    assert_eq!(stage.state("xds/clusters/x"), Some(State::Accepted));

    // The right is withdrawn: the user gives way at once.
    let plan = stage.put("secrets/token", only_pay);
    assert_eq!(stage.state("xds/clusters/x"), Some(State::Rejected));
    assert!(changed(&plan).contains(&"-default clusters x".to_owned()));
    assert_eq!(stage.state("secrets/token"), Some(State::Accepted));
}

#[test]
fn replicas_that_read_the_same_texts_in_another_order_agree() {
    let only_pay = r#"{"generic": "hunter2", "used_by": ["xds/clusters/pay*"]}"#;
    let mut stage = world_of(&[("secrets/token", TOKEN), ("xds/clusters/x", &cluster("x", "null"))]);
    stage.put("secrets/token", only_pay);
    let mut fresh = stage.newborn();
    fresh.list(ListReason::Start);
    assert_eq!(fresh.resources(), stage.resources());
}

#[test]
fn a_cluster_needs_secrets_of_the_right_shapes() {
    let mut stage = world_of(&[("secrets/token", r#"{"generic": "a"}"#)]);
    for (text, path) in [
        (r#"{"dns": "a.internal:443", "tls": {"ca": "missing"}}"#, "tls.ca"),
        (r#"{"dns": "a.internal:443", "tls": {"ca": "token"}}"#, "tls.ca"),
        (
            r#"{"dns": "a.internal:443", "tls": {"verify": false, "client_certificate": "token"}}"#,
            "tls.client_certificate",
        ),
        (r#"{"credential": {"secret": "missing"}}"#, "credential.secret"),
    ] {
        stage.put("clusters/x", text);
        let status = stage.status("clusters/x");
        assert_eq!(
            (status.state, status.path.as_deref()),
            (State::Rejected, Some(path)),
            "{text}"
        );
    }
    stage.put("clusters/x", r#"{"credential": {"secret": "token"}}"#);
    assert_eq!(stage.state("clusters/x"), Some(State::Accepted));
    let cluster = stage
        .world
        .compiled()
        .resource("default", ResourceType::Cluster, "x")
        .unwrap();
    let refers = cluster.refers.iter().flat_map(|refers| refers.iter());
    assert_eq!(refers.map(|reference| &*reference.name).collect::<Vec<_>>(), ["token"]);
}
