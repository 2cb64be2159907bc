//! Resources that operators write themselves: the server says of each what Envoy says.

use chancery::resource::ResourceType;
use serde_json::{Value, json};

use super::judge::{Judge, encoded};
use super::{Edge, compiled, edges, put};

/// The place of the route in a listener.
const ROUTE: &str = "filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0";
const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.filters";

/// Parts of places where the server may say something else, with the reason.
const KNOWN: [(&str, &str); 3] = [
    ("%CEL(", "only Envoy reads the expression"),
    (
        "fill_interval = \"0.000",
        "Envoy takes less than a millisecond for none and fills nothing",
    ),
    (r"1.2.3.4\u0000", "Envoy does not look at what follows the NUL"),
];

/// A value at its place, and what the server says against it.
struct Asked {
    place: String,
    resource_type: ResourceType,
    resource: Value,
    ours: Option<String>,
}

fn asked(edge: Edge) -> Asked {
    let (resource_type, resource) = resource(&edge);
    let key = format!("xds/{resource_type}/a");
    let ours = compiled(&key, &json!({ "resource": resource })).err();
    Asked {
        place: edge.place,
        resource_type,
        resource,
        ours: ours.map(|rejection| rejection.to_string()),
    }
}

/// The resource of which a value's surroundings are a part.
fn resource(edge: &Edge) -> (ResourceType, Value) {
    let mut cluster = typed(ResourceType::Cluster, json!({ "name": "a", "type": "STATIC" }));
    let mut listener = listener();
    match edge.within.as_str() {
        "cluster" => {
            lay_over(&mut cluster, &edge.whole);
            return (ResourceType::Cluster, cluster);
        }
        "route" => put(&mut listener, ROUTE, edge.whole.clone()),
        "manager" => lay_over(
            &mut listener["filter_chains"][0]["filters"][0]["typed_config"],
            &edge.whole,
        ),
        "chain" => lay_over(&mut listener["filter_chains"][0], &edge.whole),
        other => panic!("no part {other} of a resource"),
    }
    (ResourceType::Listener, listener)
}

fn listener() -> Value {
    let router = json!({ "@type": format!("{EXTENSIONS}.http.router.v3.Router") });
    let manager = json!({
        "@type": format!("{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "a",
        "http_filters": [{ "name": "router", "typed_config": router }],
        "route_config": { "validate_clusters": false, "virtual_hosts": [{ "name": "a", "domains": ["*"] }] },
    });
    let mut listener = typed(ResourceType::Listener, json!({ "name": "a" }));
    put(
        &mut listener,
        "address/socket_address",
        json!({ "address": "127.0.0.1", "port_value": 10_000 }),
    );
    put(
        &mut listener,
        "filter_chains/0/filters/0",
        json!({ "name": "http", "typed_config": manager }),
    );
    put(
        &mut listener,
        ROUTE,
        json!({ "match": { "prefix": "/" }, "route": { "cluster": "a" } }),
    );
    listener
}

fn typed(resource_type: ResourceType, mut resource: Value) -> Value {
    resource["@type"] = resource_type.type_url().into();
    resource
}

/// Objects over objects, entries of lists over those at their place.
fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(under.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(under), Value::Array(over)) => {
            under.resize(under.len().max(over.len()), Value::Null);
            for (under, over) in under.iter_mut().zip(over) {
                lay_over(under, over);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

#[tokio::test]
async fn of_resources_the_server_says_what_envoy_says() {
    let judge = Judge::start().await;
    let (mut listeners, mut clusters, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for asked in edges("resources").into_iter().flatten().map(asked) {
        match (asked.resource_type, encoded(asked.resource_type, &asked.resource)) {
            (_, None) if asked.ours.is_none() => wrong.push(format!("is no JSON of its type: {}", asked.place)),
            (_, None) => {}
            (ResourceType::Listener, _) => listeners.push(asked),
            _ => clusters.push(asked),
        }
    }

    let (refused, taken): (Vec<_>, Vec<_>) = clusters.iter().partition(|asked| asked.ours.is_some());
    let together: Vec<&Value> = taken.iter().map(|asked| &asked.resource).collect();
    if let Some(log) = judge.clusters(&together).await {
        wrong.push(format!("Envoy refuses clusters that the server takes: {log}"));
    }
    for asked in refused {
        wrong.extend(differ(asked, judge.clusters(&[&asked.resource]).await.as_ref()));
    }
    let resources: Vec<&Value> = listeners.iter().map(|asked| &asked.resource).collect();
    let said = judge.listeners(&resources).await;
    for (index, asked) in listeners.iter().enumerate() {
        wrong.extend(differ(asked, said.get(&index)));
    }

    let count = listeners.len() + clusters.len();
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The fault if the server and Envoy disagree.
fn differ(asked: &Asked, envoy: Option<&String>) -> Option<String> {
    let place = &asked.place;
    if KNOWN.iter().any(|(part, _)| place.contains(part)) {
        return None;
    }
    match (&asked.ours, envoy) {
        (None, Some(words)) => Some(format!("Envoy refuses {place}: {words}")),
        (Some(words), None) => Some(format!("the server refuses {place}: {words}")),
        _ => None,
    }
}

#[test]
fn what_envoy_ends_at_is_refused() {
    let percent = json!({ "name": "a", "common_lb_config": { "healthy_panic_threshold": { "value": "NaN" } } });
    assert!(
        compiled(
            "xds/clusters/a",
            &json!({ "resource": typed(ResourceType::Cluster, percent) })
        )
        .is_err()
    );
    for argument in ["null", "true", "24", "\"a\""] {
        let value = format!("%COALESCE({argument})%");
        let routes = json!({ "name": "a", "request_headers_to_add": [{ "header": { "key": "x", "value": value } }] });
        let routes = compiled(
            "xds/routes/a",
            &json!({ "resource": typed(ResourceType::Route, routes) }),
        );
        assert!(routes.is_err(), "{argument}");
    }
}
