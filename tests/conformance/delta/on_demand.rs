//! DX-26 to DX-31: resources that are subscribed by name on demand.

use serde_json::json;

use crate::client::{Request, inner_name};
use crate::fixture::{CDS, RDS, Resource, VHDS, cluster, delete, f1, on_demand_cluster, put, static_cluster};
use crate::rule::{Context, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "DX-26" DELTA names_first_are_no_wildcard,
    "DX-26" DELTA a_cluster_on_demand_comes_and_goes,
    "DX-26" DELTA a_cluster_on_demand_is_asked_for_again_after_a_reconnect,
    "DX-27" DELTA a_cluster_on_demand_is_not_in_the_wildcard_of_others,
    "DX-28" DELTA a_virtual_host_carries_the_name_that_was_asked_for,
    "DX-29" DELTA a_host_that_resolves_to_nothing_is_a_resource_without_body,
    "DX-30" DELTA an_empty_request_for_virtual_hosts_names_each_route_configuration,
    "DX-31" DELTA a_glob_matches_whatever_the_order_of_its_parameters,
    "DX-31" DELTA a_star_and_a_glob_do_not_match_each_others_names,
];

async fn names_first_are_no_wildcard(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &["S"]).await.carries(&["S"]);
    client.fetch(CDS, &["x"]).await.removes(&["x"]);
    world.commit(vec![put(cluster("B", 2))]).await;
    client.quiet().await;
    world.commit(vec![delete(CDS, "S")]).await;
    let gone = client.expect(CDS).await;
    client.ack(gone.removes(&["S"]));
    world.commit(vec![put(static_cluster("S", 1))]).await;
    client.expect(CDS).await.carries(&["S"]);
}

async fn a_cluster_on_demand_comes_and_goes(context: Context) {
    let world = context.serve([f1(), vec![on_demand_cluster("x")]].concat()).await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await.carries(&["A", "B", "S"]);
    client.fetch(CDS, &["x"]).await.carries(&["x"]);
    world.commit(vec![put(cluster("B", 2))]).await;
    let changed = client.expect(CDS).await;
    client.ack(changed.carries(&["B"]));
    world.commit(vec![delete(CDS, "x")]).await;
    let gone = client.expect(CDS).await;
    client.ack(gone.removes(&["x"]));
    world.commit(vec![put(on_demand_cluster("x"))]).await;
    client.expect(CDS).await.carries(&["x"]);
}

async fn a_cluster_on_demand_is_asked_for_again_after_a_reconnect(context: Context) {
    let world = context.serve([f1(), vec![on_demand_cluster("x")]].concat()).await;
    let mut client = world.open().await;
    client.fetch(CDS, &["*", "x"]).await.carries(&["A", "B", "S", "x"]);
    let mut client = world.open().await;
    client.fetch(CDS, &["x", "y"]).await;
    world.commit(vec![put(cluster("B", 2))]).await;
    client.quiet().await;
}

async fn a_cluster_on_demand_is_not_in_the_wildcard_of_others(context: Context) {
    let world = context.serve([f1(), vec![on_demand_cluster("x")]].concat()).await;
    let mut asking = world.open().await;
    asking.fetch(CDS, &[]).await;
    asking.fetch(CDS, &["x"]).await.carries(&["x"]);
    let mut other = world.open().await;
    other.fetch(CDS, &[]).await.carries(&["A", "B", "S"]);
    world.commit(vec![delete(CDS, "x")]).await;
    asking.expect(CDS).await.removes(&["x"]);
    other.quiet().await;
}

/// Route configuration `r1` with virtual hosts over ADS, and virtual host `r1/h` with the alias `r1/h.com`.
fn with_virtual_hosts() -> Vec<Resource> {
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    let routes = Resource::new(RDS, "r1", json!({ "vhds": { "config_source": source } }));
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "A" } });
    let host = Resource::new(VHDS, "r1/h", json!({ "domains": ["h.com"], "routes": [route] })).alias("r1/h.com");
    let others = f1().into_iter().filter(|resource| resource.name != "r1");
    others.chain([routes, host]).collect()
}

async fn a_virtual_host_carries_the_name_that_was_asked_for(context: Context) {
    let world = context.serve(with_virtual_hosts()).await;
    let mut client = world.open().await;
    client.fetch(RDS, &["r1"]).await.carries(&["r1"]);
    client.subscribe(VHDS, &["r1/h.com"]);
    let response = client.expect(VHDS).await;
    let [host] = &*response.resources else {
        panic!("expected one virtual host, found {response}")
    };
    assert!(
        host.aliases.iter().any(|alias| alias == "r1/h.com"),
        "expected alias r1/h.com, found {:?}",
        host.aliases
    );
    assert_eq!(
        inner_name(host.body.as_ref().expect("a body")),
        host.name,
        "the host's own name is the resource's"
    );
    client.ack(&response);
    client.quiet().await;
}

async fn a_host_that_resolves_to_nothing_is_a_resource_without_body(context: Context) {
    let world = context.serve(with_virtual_hosts()).await;
    let mut client = world.open().await;
    client.fetch(RDS, &["r1"]).await;
    client.subscribe(VHDS, &["r1/none"]);
    let response = client.expect(VHDS).await;
    // The response may also carry the virtual hosts of the route configuration (DX-30).
    let host = response.get("r1/none");
    assert!(host.body.is_none(), "expected no body, found {response}");
    assert!(
        host.aliases.iter().any(|alias| alias == "r1/none"),
        "expected alias r1/none, found {:?}",
        host.aliases
    );
    client.ack(&response);
    client.quiet().await;
}

async fn an_empty_request_for_virtual_hosts_names_each_route_configuration(context: Context) {
    let without: Vec<Resource> = with_virtual_hosts()
        .into_iter()
        .filter(|one| one.resource_type != VHDS)
        .collect();
    for resources in [with_virtual_hosts(), without] {
        let world = context.serve(resources).await;
        let mut client = world.open().await;
        client.fetch(RDS, &["r1"]).await;
        client.subscribe(VHDS, &[]);
        let response = client.expect(VHDS).await;
        let mut named = response.names().into_iter().chain(response.removed());
        assert!(
            named.any(|name| name.starts_with("r1/")),
            "expected a name of r1, found {response}"
        );
    }
}

const FOO: &str = "xdstp://authority/envoy.config.cluster.v3.Cluster/foo";

/// Two clusters below `foo` with parameters, and one without.
fn collection() -> Vec<Resource> {
    let names = [
        format!("{FOO}/one?a=1&b=2"),
        format!("{FOO}/two?a=1&b=2"),
        format!("{FOO}/plain"),
    ];
    let members = names.iter().map(|name| static_cluster(name, 1));
    f1().into_iter().chain(members).collect()
}

async fn a_glob_matches_whatever_the_order_of_its_parameters(context: Context) {
    let world = context.serve(collection()).await;
    let mut client = world.open().await;
    client.send(Request::of(CDS).names(&[&format!("{FOO}/*?b=2&a=1")]));
    let response = client.expect(CDS).await;
    let (one, two) = (format!("{FOO}/one?a=1&b=2"), format!("{FOO}/two?a=1&b=2"));
    response.carries(&[&one, &two]);
    client.ack(&response);
    world.commit(vec![put(static_cluster(&one, 2))]).await;
    client.expect(CDS).await.carries(&[&one]);
}

async fn a_star_and_a_glob_do_not_match_each_others_names(context: Context) {
    let world = context.serve(collection()).await;
    let mut client = world.open().await;
    client.fetch(CDS, &["*"]).await.carries(&["A", "B", "S"]);
    let mut client = world.open().await;
    client
        .fetch(CDS, &[&format!("{FOO}/*")])
        .await
        .carries(&[&format!("{FOO}/plain")]);
    world.commit(vec![put(cluster("A", 2))]).await;
    client.quiet().await;
}
