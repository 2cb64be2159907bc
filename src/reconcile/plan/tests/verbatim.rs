//! Xds documents beside what other documents make.

use serde_json::{Value, json};

use super::*;
use crate::resource::Resource;

fn cluster(name: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    let url = ResourceType::Cluster.type_url();
    format!(r#"{{"resource": {{"@type": "{url}", "name": "{name}", "connect_timeout": "7s"}}{comma}{fields}}}"#)
}

fn resource(stage: &Stage, group: &str, resource_type: ResourceType, name: &str) -> Option<Arc<Resource>> {
    stage.world.compiled().resource(group, resource_type, name).cloned()
}

/// What a resource needs beside its name.
fn needed(resource_type: ResourceType) -> Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 10001 } });
    match resource_type {
        ResourceType::Cluster => json!({ "connect_timeout": "1s" }),
        ResourceType::Endpoint | ResourceType::Runtime | ResourceType::Route => json!({}),
        ResourceType::Secret => json!({ "generic_secret": { "secret": { "inline_string": "x" } } }),
        ResourceType::ExtensionConfig => {
            let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
            json!({ "typed_config": { "@type": router } })
        }
        ResourceType::Listener => json!({ "address": address, "filter_chains": [{}] }),
        ResourceType::ScopedRoute => {
            json!({ "route_configuration_name": "r", "key": { "fragments": [{ "string_key": "k" }] } })
        }
        ResourceType::VirtualHost => json!({ "domains": ["h"] }),
    }
}

/// The documents of the Cluster `name` of the group `default`; `None`: there is none.
fn makers(stage: &Stage, name: &str) -> Option<Vec<String>> {
    let resource = resource(stage, "default", ResourceType::Cluster, name)?;
    Some(resource.documents.iter().map(ToString::to_string).collect())
}

fn status(stage: &Stage, key: &str) -> (State, Option<String>) {
    let status = stage.world.document(&document_key(key)).unwrap();
    (status.state, status.reason.clone())
}

fn warnings(stage: &Stage, key: &str) -> Vec<String> {
    stage.world.document(&document_key(key)).unwrap().warnings.clone()
}

#[test]
fn every_type_is_served_in_the_groups_of_its_document() {
    for resource_type in ResourceType::ALL {
        let name = if resource_type == ResourceType::VirtualHost {
            "r/h"
        } else {
            "a b"
        };
        let field = if resource_type == ResourceType::Endpoint {
            "cluster_name"
        } else {
            "name"
        };
        let mut resource_json = needed(resource_type);
        resource_json["@type"] = json!(resource_type.type_url());
        resource_json[field] = json!(name);
        let document = json!({ "resource": resource_json, "groups": ["edge"] });
        let key = format!("xds/{resource_type}/{name}");
        let stage = world_of(&[
            ("groups/edge", r#"{"match": [{"id": "e"}]}"#),
            (&key, &document.to_string()),
        ]);
        assert_eq!(status(&stage, &key), (State::Accepted, None), "{resource_type}");
        let served = resource(&stage, "edge", resource_type, name).unwrap();
        assert_eq!(
            (&*served.name, &served.documents[..]),
            (name, &[document_key(&key)][..])
        );
        assert!(
            resource(&stage, "default", resource_type, name).is_none(),
            "{resource_type}"
        );
    }
}

#[test]
fn a_compiled_resource_is_replaced_only_where_that_is_written() {
    let mut stage = world_of(&[("clusters/a", "{}"), ("xds/clusters/a", &cluster("a", ""))]);
    assert_eq!(makers(&stage, "a").unwrap(), ["clusters/a"]);
    let sentence =
        "clusters/a makes a of type clusters already; \"replace\": true would put this resource in its place";
    assert_eq!(
        status(&stage, "xds/clusters/a"),
        (State::Shadowed, Some(sentence.to_owned()))
    );

    stage.put("xds/clusters/a", &cluster("a", r#""replace": true"#));
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
    assert_eq!(status(&stage, "xds/clusters/a"), (State::Accepted, None));
    assert_eq!(
        warnings(&stage, "clusters/a"),
        ["xds/clusters/a is served in its place"]
    );
    // What changes beneath is not seen, and comes up when the document goes.
    assert!(
        stage
            .put("clusters/a", r#"{"connect_timeout": "3s"}"#)
            .difference
            .is_empty()
    );
    stage.delete("xds/clusters/a");
    assert_eq!(makers(&stage, "a").unwrap(), ["clusters/a"]);
    assert_eq!(warnings(&stage, "clusters/a"), Vec::<String>::new());
    assert_eq!(
        resource(&stage, "default", ResourceType::Cluster, "a").unwrap().version,
        resource(
            &world_of(&[("clusters/a", r#"{"connect_timeout": "3s"}"#)]),
            "default",
            ResourceType::Cluster,
            "a"
        )
        .unwrap()
        .version
    );
}

#[test]
fn what_is_served_does_not_depend_on_the_order_of_writing() {
    for replace in ["", r#""replace": true"#] {
        let xds = cluster("a", replace);
        let documents = [
            ("clusters/a", "{}"),
            ("xds/clusters/a", xds.as_str()),
            ("routes/a", r#"{"match": "/a"}"#),
        ];
        let mut reversed = documents;
        reversed.reverse();
        let versions = |stage: &Stage| -> Vec<_> {
            stage
                .world
                .compiled()
                .resources()
                .map(|(_, _, one)| (one.name.clone(), one.version))
                .collect()
        };
        let listed = world_of(&documents);
        for order in [documents, reversed] {
            let mut stage = world_of(&[]);
            for (key, text) in order {
                stage.put(key, text);
            }
            assert_eq!(versions(&stage), versions(&listed));
        }
    }
}

#[test]
fn a_document_that_is_beneath_in_some_groups_only_serves_in_the_others() {
    let stage = world_of(&[
        ("groups/edge", r#"{"match": [{"id": "e"}]}"#),
        ("clusters/a", r#"{"groups": ["edge"]}"#),
        ("xds/clusters/a", &cluster("a", "")),
    ]);
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
    assert_eq!(status(&stage, "xds/clusters/a"), (State::Accepted, None));
    let warning = "not in group edge: clusters/a makes a of type clusters already; \"replace\": true would put this resource in its place";
    assert_eq!(warnings(&stage, "xds/clusters/a"), [warning]);
}

#[test]
fn a_route_may_name_a_cluster_that_is_written_as_it_is() {
    let mut stage = world_of(&[("routes/a", r#"{"match": "/a", "to": "a"}"#)]);
    assert_eq!(makers(&stage, "a").unwrap(), ["routes/a"]);
    assert_eq!(warnings(&stage, "routes/a").len(), 1);
    stage.put("xds/clusters/a", &cluster("a", ""));
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
    assert_eq!(warnings(&stage, "routes/a"), Vec::<String>::new());

    let held = stage.delete("xds/clusters/a");
    assert_eq!(held.verdicts[0].used_by, [document_key("routes/a")]);
    assert_eq!(
        status(&stage, "xds/clusters/a"),
        (State::Held, Some("deleted, still used by routes/a".to_owned()))
    );
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
    stage.delete("routes/a");
    assert_eq!(makers(&stage, "a"), None);
    assert!(stage.world.document(&document_key("xds/clusters/a")).is_none());
}

#[test]
fn a_deleted_cluster_is_not_held_when_another_document_describes_it() {
    let mut stage = world_of(&[
        ("routes/a", r#"{"match": "/a", "to": "a"}"#),
        ("clusters/a", "{}"),
        ("xds/clusters/a", &cluster("a", r#""replace": true"#)),
    ]);
    stage.delete("xds/clusters/a");
    assert_eq!(makers(&stage, "a").unwrap(), ["clusters/a"]);
    stage.put("xds/clusters/a", &cluster("a", ""));
    stage.delete("clusters/a");
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
    assert_eq!(status(&stage, "xds/clusters/a"), (State::Accepted, None));
    // Both at once: one of them is held.
    stage.put("clusters/a", "{}");
    let input = stage.delete_input(&["clusters/a", "xds/clusters/a"]);
    stage.plan(vec![input]);
    assert_eq!(makers(&stage, "a").unwrap(), ["clusters/a"]);
    assert!(stage.world.document(&document_key("xds/clusters/a")).is_none());
}

#[test]
fn a_bad_resource_leaves_the_last_good_one_serving() {
    let mut stage = world_of(&[("xds/clusters/a", &cluster("a", ""))]);
    stage.put("xds/clusters/a", &cluster("b", ""));
    let sentence = "xds/clusters/a: resource.name: found the string \"b\", expected \"a\", the name in its key";
    assert_eq!(
        status(&stage, "xds/clusters/a"),
        (State::Rejected, Some(sentence.to_owned()))
    );
    assert_eq!(makers(&stage, "a").unwrap(), ["xds/clusters/a"]);
}

#[test]
fn the_default_listener_depends_on_listeners_documents_alone() {
    let url = ResourceType::Listener.type_url();
    let document =
        format!(r#"{{"resource": {{"@type": "{url}", "name": "default", "api_listener": {{}}}}, "replace": true}}"#);
    let stage = world_of(&[("xds/listeners/default", &document)]);
    let listener = resource(&stage, "default", ResourceType::Listener, "default").unwrap();
    assert_eq!(listener.documents, [document_key("xds/listeners/default")]);
    assert!(resource(&stage, "default", ResourceType::Route, "default").is_some());
    let other = document.replace(r#""replace": true"#, r#""replace": false"#);
    let stage = world_of(&[("xds/listeners/default", &other)]);
    let (state, reason) = status(&stage, "xds/listeners/default");
    assert_eq!(state, State::Shadowed);
    assert!(
        reason
            .unwrap()
            .starts_with("the listener that exists while no listeners document does makes default")
    );
}

fn listener(name: &str, port: u16) -> String {
    let address = json!({ "socket_address": { "address": "0.0.0.0", "port_value": port } });
    let url = ResourceType::Listener.type_url();
    json!({ "resource": { "@type": url, "name": name, "address": address, "filter_chains": [{}] } }).to_string()
}

#[test]
fn an_address_belongs_to_the_listener_that_was_written_first() {
    let mut stage = world_of(&[
        ("listeners/a", r#"{"address": "0.0.0.0:81"}"#),
        ("xds/listeners/b", &listener("b", 82)),
        ("xds/listeners/c", &listener("c", 81)),
    ]);
    let sentence = |key: &str, port: u16, owner: &str, path: &str| {
        let reason =
            format!("found the address 0.0.0.0:{port} (TCP), which {owner} has already, expected one of its own");
        (State::Rejected, Some(format!("{key}: {path}: {reason}")))
    };
    assert_eq!(
        status(&stage, "xds/listeners/c"),
        sentence("xds/listeners/c", 81, "listeners/a", "resource.address")
    );
    stage.put("xds/listeners/d", &listener("d", 82));
    assert_eq!(
        status(&stage, "xds/listeners/d"),
        sentence("xds/listeners/d", 82, "xds/listeners/b", "resource.address")
    );
    stage.put("listeners/a", r#"{"address": "0.0.0.0:82"}"#);
    assert_eq!(
        status(&stage, "listeners/a"),
        sentence("listeners/a", 82, "xds/listeners/b", "address")
    );
    // Who is not in the way any more lets the others serve.
    stage.delete("listeners/a");
    assert_eq!(status(&stage, "xds/listeners/c"), (State::Accepted, None));
    assert!(resource(&stage, "default", ResourceType::Listener, "c").is_some());
}

#[test]
fn the_default_listener_keeps_its_address_and_a_scope_its_key() {
    let scope = |name: &str| {
        let key = json!({ "fragments": [{ "string_key": "k" }] });
        let url = ResourceType::ScopedRoute.type_url();
        json!({ "resource": { "@type": url, "name": name, "route_configuration_name": "r", "key": key } }).to_string()
    };
    let stage = world_of(&[
        ("xds/listeners/b", &listener("b", 10_000)),
        ("xds/scoped_routes/one", &scope("one")),
        ("xds/scoped_routes/two", &scope("two")),
    ]);
    let (state, reason) = status(&stage, "xds/listeners/b");
    assert_eq!(state, State::Rejected);
    assert!(
        reason
            .unwrap()
            .contains("which the listener that exists while no listeners document does has already")
    );
    let (state, reason) = status(&stage, "xds/scoped_routes/two");
    assert_eq!(state, State::Rejected);
    assert!(
        reason
            .unwrap()
            .contains("resource.key: found the key \"k\", which xds/scoped_routes/one has already")
    );
}
