//! A static Envoy bootstrap of compiled resources: the same messages, with routes and endpoints inlined.

use std::collections::BTreeMap;

use chancery::resource::ResourceType;
use chancery::resource::compile::Compiled;
use serde_json::{Value, json};

use super::outputs::resources;

/// The bootstrap of one group's resources, as YAML (JSON is).
pub(crate) fn of_group(compiled: &Compiled, group: &str) -> String {
    let (clusters, listeners) = put_together(compiled, group);
    let mut secrets = resources(compiled, ResourceType::Secret)
        .remove(group)
        .unwrap_or_default();
    secrets.iter_mut().for_each(without_type);
    let bootstrap = json!({
        // Envoy takes no secret by SDS without them.
        "node": { "id": "golden", "cluster": "golden" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "node": { "id": "golden", "cluster": "golden" },
        "static_resources": { "clusters": clusters, "listeners": listeners, "secrets": secrets },
    });
    bootstrap.to_string()
}

/// The clusters and the listeners of a group, with their endpoints and routes inside.
pub(crate) fn put_together(compiled: &Compiled, group: &str) -> (Vec<Value>, Vec<Value>) {
    let take = |resource_type| resources(compiled, resource_type).remove(group).unwrap_or_default();
    let endpoints = by_name(take(ResourceType::Endpoint), "cluster_name");
    let mut routes = by_name(take(ResourceType::Route), "name");
    take(ResourceType::VirtualHost)
        .into_iter()
        .for_each(|host| put_host_inside(host, &mut routes));
    let mut clusters = take(ResourceType::Cluster);
    let mut listeners = take(ResourceType::Listener);
    // Envoy knows no API listeners and is never sent any.
    listeners.retain(|listener| listener.get("api_listener").is_none());
    clusters
        .iter_mut()
        .for_each(|cluster| put_endpoints_inside(cluster, &endpoints));
    let extensions = by_name(take(ResourceType::ExtensionConfig), "name");
    listeners.iter_mut().for_each(|listener| {
        put_routes_inside(listener, &routes);
        put_extensions_inside(listener, &extensions);
    });
    (clusters, listeners)
}

fn by_name(resources: Vec<Value>, field: &str) -> BTreeMap<String, Value> {
    resources
        .into_iter()
        .map(|resource| (resource[field].as_str().unwrap_or_default().to_owned(), resource))
        .collect()
}

fn put_endpoints_inside(cluster: &mut Value, endpoints: &BTreeMap<String, Value>) {
    without_type(cluster);
    without_sds(cluster);
    if cluster["type"] != json!("EDS") {
        return;
    }
    let name = cluster["name"].as_str().unwrap_or_default().to_owned();
    let fields = cluster.as_object_mut().expect("a message");
    fields
        .remove("eds_cluster_config")
        .expect("an EDS cluster says where its endpoints come from");
    fields.insert("type".to_owned(), json!("STATIC"));
    // The endpoints of an on-demand cluster are compiled like those of any other cluster.
    let mut assignment = endpoints
        .get(&name)
        .unwrap_or_else(|| panic!("{name} has no ClusterLoadAssignment"))
        .clone();
    without_type(&mut assignment);
    fields.insert("load_assignment".to_owned(), assignment);
}

fn put_routes_inside(listener: &mut Value, routes: &BTreeMap<String, Value>) {
    without_type(listener);
    without_sds(listener);
    let chains = listener["filter_chains"].as_array_mut().expect("filter chains");
    let filters = chains
        .iter_mut()
        .flat_map(|chain| chain["filters"].as_array_mut().expect("filters"));
    for filter in filters {
        let fields = filter["typed_config"].as_object_mut().expect("a configuration");
        // A filter for TCP has no routes.
        let Some(rds) = fields.remove("rds") else { continue };
        let name = rds["route_config_name"].as_str().unwrap_or_default();
        let mut configuration = routes
            .get(name)
            .unwrap_or_else(|| panic!("{name} has no RouteConfiguration"))
            .clone();
        without_type(&mut configuration);
        fields.insert("route_config".to_owned(), configuration);
    }
}

/// Put filters that come by ECDS into a listener.
fn put_extensions_inside(value: &mut Value, extensions: &BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            if fields.remove("config_discovery").is_some() {
                let name = fields["name"].as_str().unwrap_or_default();
                let extension = extensions
                    .get(name)
                    .unwrap_or_else(|| panic!("there is no filter {name}"));
                fields.insert("typed_config".to_owned(), extension["typed_config"].clone());
            }
            fields
                .values_mut()
                .for_each(|value| put_extensions_inside(value, extensions));
        }
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| put_extensions_inside(value, extensions)),
        _ => {}
    }
}

/// Secrets of the bootstrap instead of those that come by SDS.
fn without_sds(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("sds_config");
            fields.values_mut().for_each(without_sds);
        }
        Value::Array(values) => values.iter_mut().for_each(without_sds),
        _ => {}
    }
}

/// Put a separate virtual host into its route configuration.
fn put_host_inside(mut host: Value, routes: &mut BTreeMap<String, Value>) {
    without_type(&mut host);
    let (name, _) = host["name"]
        .as_str()
        .and_then(|name| name.split_once('/'))
        .expect("a name of two parts");
    let Some(routes) = routes.get_mut(name) else { return };
    routes.as_object_mut().expect("a message").remove("vhds");
    match routes.get_mut("virtual_hosts").and_then(Value::as_array_mut) {
        Some(hosts) => hosts.push(host),
        None => routes["virtual_hosts"] = json!([host]),
    }
}

fn without_type(resource: &mut Value) {
    resource.as_object_mut().expect("a message").remove("@type");
}
