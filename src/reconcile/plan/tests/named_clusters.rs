//! Clusters that xds documents name: kept like those of routes, and looked up where Envoy does.

use serde_json::{Value, json};

use super::*;

const X: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;

/// An xds document.
fn xds(resource_type: ResourceType, fields: Value) -> String {
    let mut resource = fields;
    resource["@type"] = json!(resource_type.type_url());
    resource[if resource_type == ResourceType::Endpoint {
        "cluster_name"
    } else {
        "name"
    }] = json!("a");
    json!({ "resource": resource }).to_string()
}

/// A RouteConfiguration with a route that does this.
fn routes(action: Value) -> Value {
    json!({ "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": action }] }] })
}

/// A listener that ends in this filter.
fn listener(name: &str, fields: Value) -> String {
    let mut config = fields;
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.network.{name}"));
    config["stat_prefix"] = json!("s");
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 10001 } });
    let chain = json!({ "filters": [{ "name": "f", "typed_config": config }] });
    xds(
        ResourceType::Listener,
        json!({ "address": address, "filter_chains": [chain] }),
    )
}

fn inline(action: Value) -> String {
    listener(
        "http_connection_manager.v3.HttpConnectionManager",
        json!({ "route_config": routes(action) }),
    )
}

#[test]
fn a_cluster_that_only_an_xds_document_names_is_held_until_that_goes() {
    let authorization = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", "stat_prefix": "s",
        "grpc_service": { "envoy_grpc": { "cluster_name": "x" } },
    });
    let mirrored = json!({ "cluster": "y", "request_mirror_policies": [{ "cluster": "x" }] });
    let weighted = json!({ "weighted_clusters": { "clusters": [{ "name": "x", "weight": 1 }] } });
    let tcp = json!({ "cluster": "x" });
    let users = [
        (
            "xds/routes/a",
            xds(ResourceType::Route, routes(json!({ "cluster": "x" }))),
        ),
        ("xds/routes/a", xds(ResourceType::Route, routes(weighted))),
        ("xds/routes/a", xds(ResourceType::Route, routes(mirrored))),
        ("xds/listeners/a", listener("tcp_proxy.v3.TcpProxy", tcp)),
        (
            "xds/extension_configs/a",
            xds(ResourceType::ExtensionConfig, json!({ "typed_config": authorization })),
        ),
    ];
    for (key, user) in users {
        let mut stage = world_of(&[("clusters/x", X), (key, &user)]);
        let plan = stage.delete("clusters/x");
        assert!(plan.difference.is_empty(), "{user}: {:?}", changed(&plan));
        let [verdict] = &plan.verdicts[..] else {
            panic!("{user}: {:?}", said(&plan))
        };
        assert_eq!(verdict.used_by, [document_key(key)], "{user}");
        let status = stage.status("clusters/x");
        assert_eq!(
            (status.state, status.reason.clone()),
            (State::Held, Some(format!("deleted, still used by {key}")))
        );
        assert_eq!(
            remembered(&plan),
            [format!("last-good//gateway/clusters/x {X}")],
            "{user}"
        );

        let plan = stage.delete(key);
        assert_eq!(stage.state("clusters/x"), None, "{user}");
        assert!(changed(&plan).contains(&"-default clusters x".to_owned()), "{user}");
    }
}

#[test]
fn a_cluster_of_another_group_than_the_xds_document_goes_at_once() {
    let mut user: Value = serde_json::from_str(&xds(ResourceType::Route, routes(json!({ "cluster": "x" })))).unwrap();
    user["groups"] = json!(["edge"]);
    let cluster = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "groups": ["default"]}"#;
    let mut stage = world_of(&[
        ("groups/edge", r#"{"match": [{"id": "e"}]}"#),
        ("clusters/x", cluster),
        ("xds/routes/a", &user.to_string()),
    ]);
    stage.delete("clusters/x");
    assert_eq!(stage.state("clusters/x"), None);
}

#[test]
fn a_server_born_later_serves_a_deleted_cluster_that_an_xds_document_needs() {
    let mut older = world_of(&[
        ("clusters/x", X),
        ("xds/listeners/a", &inline(json!({ "cluster": "x" }))),
    ]);
    older.delete("clusters/x");
    let mut born = older.newborn();
    born.list(ListReason::Start);
    assert_eq!(born.state("xds/listeners/a"), Some(State::Accepted));
    assert_eq!(born.resources(), older.resources());
}

#[test]
fn what_envoy_would_look_up_in_vain_is_rejected_until_it_is_there() {
    let mut stage = world_of(&[("xds/listeners/a", &inline(json!({ "cluster": "x" })))]);
    let status = stage.status("xds/listeners/a");
    assert_eq!(status.state, State::Rejected);
    let path =
        "resource.filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.cluster";
    assert_eq!(status.path.as_deref(), Some(path));
    let plan = stage.put("clusters/x", X);
    assert_eq!(
        stage.state("xds/listeners/a"),
        Some(State::Accepted),
        "{:?}",
        said(&plan)
    );
    assert!(changed(&plan).contains(&"default listeners a".to_owned()));
}

#[test]
fn a_stand_in_for_a_routes_cluster_is_not_enough() {
    let route = r#"{"match": "/v1", "to": "x"}"#;
    let stage = world_of(&[
        ("routes/a", route),
        ("xds/listeners/a", &inline(json!({ "cluster": "x" }))),
    ]);
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Rejected));
}

#[test]
fn an_on_demand_cluster_is_not_there_when_envoy_looks_for_it() {
    let cluster = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "on_demand": true}"#;
    let stage = world_of(&[
        ("clusters/x", cluster),
        ("xds/listeners/a", &inline(json!({ "cluster": "x" }))),
    ]);
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Rejected));
}

#[test]
fn what_needs_a_cluster_that_is_released_is_rejected_on_every_replica() {
    let user = inline(json!({ "cluster": "x" }));
    let mut stage = world_of(&[("clusters/x", X), ("xds/listeners/a", &user)]);
    stage.delete("clusters/x");
    assert_eq!(stage.state("clusters/x"), Some(State::Held));
    stage.plan(vec![Input::Release(Some(vec!["/gateway/clusters/x".to_owned()]))]);
    assert_eq!(stage.state("clusters/x"), None);
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Rejected));
    assert_eq!(stage.resources(), world_of(&[("xds/listeners/a", &user)]).resources());
    stage.put("clusters/x", X);
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Accepted));
}

#[test]
fn of_heavy_endpoints_and_a_cluster_that_hashes_the_later_is_rejected() {
    let weights = |of: u32| json!({ "load_balancing_weight": of, "endpoint": { "address": { "socket_address": { "address": format!("10.0.0.{}", of % 200), "port_value": 80 } } } });
    let heavy = xds(
        ResourceType::Endpoint,
        json!({ "endpoints": [{ "lb_endpoints": [weights(u32::MAX), weights(1)] }] }),
    );
    let cluster = |policy: &str| {
        let eds = json!({ "eds_config": { "ads": {}, "resource_api_version": "V3" } });
        xds(
            ResourceType::Cluster,
            json!({ "type": "EDS", "lb_policy": policy, "eds_cluster_config": eds }),
        )
    };
    let mut stage = world_of(&[("xds/clusters/a", &cluster("RANDOM")), ("xds/endpoints/a", &heavy)]);
    assert_eq!(stage.state("xds/endpoints/a"), Some(State::Accepted));
    stage.put("xds/clusters/a", &cluster("MAGLEV"));
    assert_eq!(stage.state("xds/clusters/a"), Some(State::Rejected));
    assert_eq!(stage.serving("xds/clusters/a"), Some(cluster("RANDOM")));
    assert_eq!(stage.state("xds/endpoints/a"), Some(State::Accepted));
}

#[test]
fn what_serves_only_now_that_another_is_gone_is_looked_at_then() {
    let user = inline(json!({ "cluster": "x" })).replace("10001", "10002");
    let mut stage = world_of(&[
        ("listeners/a", r#"{"address": "127.0.0.1:10001"}"#),
        ("xds/listeners/a", &user),
    ]);
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Shadowed));
    stage.put("listeners/b", r#"{"address": "127.0.0.1:10003"}"#);
    stage.delete("listeners/a");
    assert_eq!(stage.state("xds/listeners/a"), Some(State::Rejected));
}
