//! Listeners whose virtual hosts are resources of their own.

use super::*;
use crate::resource::Resource;

const ALL: &str = r#"{"address": "0.0.0.0:80"}"#;
const ON_DEMAND: &str = r#"{"address": "0.0.0.0:80", "http": {"virtual_hosts": "on_demand"}}"#;

fn edge(routes: &[(&str, &str)]) -> Stage {
    world_of(&[&[("listeners/edge", ON_DEMAND), ("clusters/x", "{}")], routes].concat())
}

fn resource(stage: &Stage, resource_type: ResourceType, name: &str) -> Arc<Resource> {
    Arc::clone(stage.world.compiled().resource("default", resource_type, name).unwrap())
}

/// The virtual hosts, those on demand with a `?`.
fn hosts(stage: &Stage) -> Vec<String> {
    let all = stage.world.compiled().resources();
    let hosts = all.filter(|(_, resource_type, _)| *resource_type == ResourceType::VirtualHost);
    hosts
        .map(|(_, _, host)| format!("{}{}", host.name, if host.on_demand { "?" } else { "" }))
        .collect()
}

#[test]
fn a_change_is_one_virtual_host_and_no_other_route_configuration() {
    let mut stage = edge(&[
        ("routes/a", r#"{"match": "a.com/1", "to": "x"}"#),
        ("routes/b", r#"{"match": "b.com/1", "to": "x"}"#),
    ]);
    assert_eq!(hosts(&stage), ["edge/a.com?", "edge/b.com?"]);
    let before = resource(&stage, ResourceType::Route, "edge");
    let plan = stage.put("routes/a", r#"{"match": "a.com/2", "to": "x"}"#);
    // The second for those who cannot ask for virtual hosts.
    assert_eq!(
        changed(&plan),
        ["default routes edge", "default virtual_hosts edge/a.com"]
    );
    let after = resource(&stage, ResourceType::Route, "edge");
    assert_eq!(before.version, after.version);
    assert_ne!(
        before.whole.as_ref().unwrap().version,
        after.whole.as_ref().unwrap().version
    );
    let made_of = |host| {
        resource(&stage, ResourceType::VirtualHost, host)
            .made_of()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(made_of("edge/a.com"), [document_key("routes/a")]);
    stage.delete("routes/b");
    assert_eq!(hosts(&stage), ["edge/a.com?"]);
}

#[test]
fn the_whole_is_that_of_a_listener_with_all_virtual_hosts() {
    let routes: &[_] = &[
        ("routes/a", r#"{"match": "a.com/1", "to": "x"}"#),
        ("routes/any", r#"{"match": "/2", "to": "x"}"#),
    ];
    let on_demand = edge(routes);
    let all = world_of(&[&[("listeners/edge", ALL), ("clusters/x", "{}")], routes].concat());
    let whole = resource(&on_demand, ResourceType::Route, "edge").whole.clone().unwrap();
    let other = resource(&all, ResourceType::Route, "edge");
    assert_eq!((whole.version, &whole.body), (other.version, &other.body));
    assert!(other.whole.is_none());
}

#[test]
fn what_a_wider_pattern_covers_is_there_from_the_start() {
    let mut stage = edge(&[
        ("routes/a", r#"{"match": "a.example.com/1", "to": "x"}"#),
        ("routes/b", r#"{"match": "b.com/1", "to": "x"}"#),
    ]);
    stage.put("routes/wild", r#"{"match": "*.example.com/2", "to": "x"}"#);
    assert_eq!(
        hosts(&stage),
        ["edge/*.example.com", "edge/a.example.com", "edge/b.com?"]
    );
    stage.put("routes/any", r#"{"match": "/3", "to": "x"}"#);
    assert_eq!(
        hosts(&stage),
        ["edge/*", "edge/*.example.com", "edge/a.example.com", "edge/b.com"]
    );
    stage.delete("routes/any");
    let plan = stage.delete("routes/wild");
    assert_eq!(hosts(&stage), ["edge/a.example.com?", "edge/b.com?"]);
    let expected = [
        "default routes edge",
        "-default virtual_hosts edge/*.example.com",
        "default virtual_hosts edge/a.example.com",
    ];
    assert_eq!(changed(&plan), expected);
}

#[test]
fn the_listener_can_change_its_mind() {
    let mut stage = edge(&[("routes/a", r#"{"match": "a.com/1", "to": "x"}"#)]);
    let on_demand = stage.resources();
    let plan = stage.put("listeners/edge", ALL);
    assert_eq!(
        changed(&plan),
        [
            "default listeners edge",
            "default routes edge",
            "-default virtual_hosts edge/a.com"
        ]
    );
    stage.put("listeners/edge", ON_DEMAND);
    assert_eq!(stage.resources(), on_demand);
    let plan = stage.delete("listeners/edge");
    assert!(
        changed(&plan).contains(&"-default virtual_hosts edge/a.com".to_owned()),
        "{:?}",
        changed(&plan)
    );
}

#[test]
fn defaults_speak_for_the_listener_that_exists_without_any() {
    let mut stage = world_of(&[(
        "routes/a",
        r#"{"match": "a.com/1", "to": {"respond": {"status": 200}}}"#,
    )]);
    stage.put("defaults", r#"{"listener": {"http": {"virtual_hosts": "on_demand"}}}"#);
    assert_eq!(hosts(&stage), ["default/a.com?"]);
    // gRPC clients know no VHDS.
    stage.put("listeners/grpc", r#"{"api": true}"#);
    assert_eq!(hosts(&stage), [""; 0]);
}

#[test]
fn a_route_to_a_cluster_that_is_on_demand_is_warned() {
    let mut stage = world_of(&[
        (
            "clusters/x",
            r#"{"endpoints": [{"address": "10.0.0.1:80"}], "on_demand": true}"#,
        ),
        ("routes/a", r#"{"match": "/v1", "to": "x"}"#),
    ]);
    let warning =
        "to: clusters/x is on_demand, which Envoy gets by name only; requests sent there are answered with 503";
    assert_eq!(stage.status("routes/a").warnings, [warning]);
    stage.put("clusters/x", r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#);
    assert!(stage.status("routes/a").warnings.is_empty());
}

#[test]
fn a_cluster_without_instances_that_a_route_names_is_warned() {
    let mut stage = world_of(&[("clusters/x", "{}")]);
    assert!(stage.status("clusters/x").warnings.is_empty());
    stage.put("routes/a", r#"{"match": "/v1", "to": "x"}"#);
    let warning = "no instance is registered, and routes/a names it; requests sent there are answered with 503";
    assert_eq!(stage.status("clusters/x").warnings, [warning]);
    stage.put("services/x/1", "10.0.0.1:80");
    assert!(stage.status("clusters/x").warnings.is_empty());
    stage.delete("services/x/1");
    assert_eq!(stage.status("clusters/x").warnings, [warning]);
    stage.delete("routes/a");
    assert!(stage.status("clusters/x").warnings.is_empty());
}
