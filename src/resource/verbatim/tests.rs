//! Tests of single documents; the tests of the plan have several.

use serde_json::json;

use super::*;
use crate::document::key::Kind;
use crate::document::{Limits, xds};

fn document(name: &str, resource: &Json) -> (DocumentKey, Xds) {
    let key = DocumentKey::new(Kind::Xds, name);
    let (resource_type, name) = xds::split(name).unwrap();
    let resource = resource.clone();
    let (groups, replace, aliases, ttl, limits) = (None, false, Vec::new(), None, Limits::default());
    (
        key,
        Xds {
            resource_type,
            name: name.into(),
            resource,
            groups,
            replace,
            aliases,
            ttl,
            limits,
        },
    )
}

fn made(name: &str, resource: &Json) -> Result<Resource, String> {
    let (key, xds) = document(name, resource);
    let made = from_document(&key, &xds).map_err(|rejection| rejection.to_string())?;
    Ok(Resource::clone(&made.resource))
}

/// A cluster with one more field.
fn cluster(field: &str, value: Json) -> Json {
    json!({ "@type": ResourceType::Cluster.type_url(), "name": "a", field: value })
}

fn refused(field: &str, value: Json) -> String {
    made("clusters/a", &cluster(field, value)).unwrap_err()
}

#[test]
fn the_type_is_that_of_the_key() {
    let refused = |resource: Json| made("clusters/a", &resource).unwrap_err();
    let expected = format!("expected {:?}", ResourceType::Cluster.type_url());
    assert_eq!(refused(json!({})), format!("resource[\"@type\"]: missing, {expected}"));
    let url = ResourceType::Runtime.type_url();
    assert_eq!(
        refused(json!({ "@type": url })),
        format!("resource[\"@type\"]: found the string {url:?}, {expected}")
    );
}

#[test]
fn the_name_is_that_of_the_key() {
    let url = |resource_type: ResourceType| resource_type.type_url();
    let runtime = json!({ "@type": url(ResourceType::Runtime) });
    assert_eq!(
        made("runtime/a", &runtime).unwrap_err(),
        "resource.name: missing, expected \"a\", the name in its key"
    );
    let endpoints = json!({ "@type": url(ResourceType::Endpoint), "cluster_name": "b" });
    assert_eq!(
        made("endpoints/a", &endpoints).unwrap_err(),
        "resource.cluster_name: found the string \"b\", expected \"a\", the name in its key"
    );
    let host = json!({ "@type": url(ResourceType::VirtualHost), "name": "a", "domains": ["a"] });
    assert_eq!(
        made("virtual_hosts/a", &host).unwrap_err(),
        "resource.name: found the string \"a\", expected the name of a RouteConfiguration, \
         a slash and a host, as proxies subscribe to it"
    );
}

#[test]
fn mistakes_are_told_with_their_path() {
    assert_eq!(
        refused("conect_timeout", json!("1s")),
        "resource.conect_timeout: unknown field, did you mean \"connect_timeout\"?"
    );
    assert_eq!(
        refused("connect_timeout", json!(5)),
        "resource.connect_timeout: found the number 5, expected a duration in seconds such as \"1.5s\""
    );
    assert_eq!(
        refused("lb_policy", json!("round_robin")),
        "resource.lb_policy: found the string \"round_robin\", \
         expected a word of envoy.config.cluster.v3.Cluster.LbPolicy, did you mean \"ROUND_ROBIN\"?"
    );
    assert_eq!(
        refused("health_checks", json!([{}, { "timeout": "1s", "interval": [] }])),
        "resource.health_checks[1].interval: found an empty list, expected a duration in seconds such as \"1.5s\""
    );
    assert_eq!(
        refused(
            "circuit_breakers",
            json!({ "thresholds": [{ "max_connections": "many" }] })
        ),
        "resource.circuit_breakers.thresholds[0].max_connections: found the string \"many\", \
         expected a whole number from 0 to 4294967295"
    );
    assert_eq!(
        refused("health_checks", json!({})),
        "resource.health_checks: found an empty object, expected a list"
    );
    assert_eq!(
        refused("metadata", json!({ "filter_metadata": { "a": 1 } })),
        "resource.metadata.filter_metadata.a: found the number 1, expected an object"
    );
    let both = json!({
        "@type": ResourceType::Cluster.type_url(), "name": "a", "connect_timeout": "1s", "connectTimeout": "2s",
    });
    let sentence = made("clusters/a", &both).unwrap_err();
    assert!(
        sentence.ends_with("found this field under two names, expected one of them"),
        "{sentence}"
    );
    let both = cluster("type", json!("EDS"));
    let mut both = both.as_object().unwrap().clone();
    both.insert("cluster_type".into(), json!({ "name": "x" }));
    let sentence = made("clusters/a", &Json::Object(both)).unwrap_err();
    assert!(sentence.contains("found together with"), "{sentence}");
}

#[test]
fn the_type_of_an_any_is_known_or_refused() {
    let socket = |config: Json| refused("transport_socket", json!({ "name": "tls", "typed_config": config }));
    let place = "resource.transport_socket.typed_config";
    assert_eq!(
        socket(json!({})),
        format!("{place}[\"@type\"]: missing, expected an object with the \"@type\" of its message")
    );
    let old = "type.googleapis.com/envoy.api.v2.auth.UpstreamTlsContext";
    assert_eq!(
        socket(json!({ "@type": old })),
        format!(
            "{place}[\"@type\"]: found the type {old:?}, which is not among those of this Envoy version, \
             did you mean \"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\"?"
        )
    );
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    assert_eq!(
        socket(json!({ "@type": tls, "snii": "a" })),
        format!("{place}.snii: unknown field, did you mean \"sni\"?")
    );
    let long = json!({ "@type": tls, "sni": "a".repeat(256) });
    assert!(
        socket(long).starts_with(&format!("{place}.sni: found the string")),
        "the rules of the message in it hold"
    );
}

#[test]
fn all_forms_of_a_value_are_read_and_bytes_are_canonical() {
    let resource = json!({
        "@type": ResourceType::Cluster.type_url(), "name": "a", "connectTimeout": "1.5s", "type": 0, "lb_policy": null,
        "max_requests_per_connection": 3, "ignore_health_on_host_removal": true,
        "circuit_breakers": { "thresholds": [{ "priority": "HIGH", "max_connections": "7" }] },
        "metadata": {
            "filter_metadata": { "b": { "x": [1, null, { "y": "z" }] }, "a": {}, "c": {}, "d": {} },
            "typed_filter_metadata": { "o": {
                "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
                "type_url": "t", "value": { "q": 1, "p": 2, "r": { "c": 1, "b": 2, "a": 3 } },
            } },
        },
    });
    let first = made("clusters/a", &resource).unwrap();
    for _ in 0..20 {
        assert_eq!(made("clusters/a", &resource).unwrap().body, first.body);
    }
    let shown = crate::proto::json::to_json(ResourceType::Cluster.type_url(), &first.body.to_bytes()).unwrap();
    assert_eq!(shown["connect_timeout"], json!("1.500s"));
    assert_eq!(
        shown["circuit_breakers"]["thresholds"][0],
        json!({ "priority": "HIGH", "max_connections": 7 })
    );
    assert_eq!(
        shown["metadata"]["filter_metadata"]["b"],
        json!({ "x": [1.0, null, { "y": "z" }] })
    );
    assert_eq!(
        shown["metadata"]["typed_filter_metadata"]["o"]["value"]["r"]["b"],
        json!(2.0)
    );
}

#[test]
fn an_eds_cluster_warms_the_assignment_it_asks_for() {
    let eds = |config: Json| {
        let mut resource = cluster("type", json!("EDS"));
        resource["eds_cluster_config"] = config;
        made("clusters/a", &resource).unwrap().warms
    };
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    assert_eq!(eds(json!({ "eds_config": ads })).as_deref(), Some("a"));
    assert_eq!(
        eds(json!({ "eds_config": ads, "service_name": "b" })).as_deref(),
        Some("b")
    );
    assert_eq!(
        made("clusters/a", &cluster("type", json!("STATIC"))).unwrap().warms,
        None
    );
}

#[test]
fn aliases_and_a_time_to_live_are_part_of_the_version() {
    let resource = cluster("connect_timeout", json!("1s"));
    let plain = made("clusters/a", &resource).unwrap();
    let (key, xds) = document("clusters/a", &resource);
    let wrapped = from_document(
        &key,
        &Xds {
            ttl: Some(std::time::Duration::from_secs(9)),
            ..xds
        },
    )
    .unwrap()
    .resource;
    assert_ne!(wrapped.version, plain.version);
    assert_eq!(wrapped.ttl, Some(std::time::Duration::from_secs(9)));
}

#[test]
fn secrets_are_not_quoted() {
    let secret = |fields: Json| {
        let mut resource = json!({ "@type": ResourceType::Secret.type_url(), "name": "a" });
        resource
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        made("secrets/a", &resource).unwrap_err()
    };
    let texts = [
        secret(json!({ "tls_certificate": { "private_key": { "inline_bytes": "hunter2!" } } })),
        secret(json!({ "tls_certificate": { "private_key": "hunter2" } })),
        secret(json!({ "tls_certificate": { "password": { "inline_string": ["hunter2"] } } })),
        secret(json!({ "generic_secret": { "secret": { "inline_bytes": 4711 } } })),
        secret(json!({ "generic_secret": "hunter2" })),
        secret(json!({ "session_ticket_keys": { "keys": ["hunter2"] } })),
        secret(json!({ "generic_secret": { "secrets": { "hunter2": 4711 } } })),
    ];
    for text in texts {
        assert!(
            !text.contains("hunter2\"") && !text.contains("hunter2!") && !text.contains("4711"),
            "{text}"
        );
    }
}

#[test]
fn empty_filter_config_enables_the_filter() {
    let wrapped = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {} });
    let routes = json!({
        "@type": ResourceType::Route.type_url(),
        "name": "a",
        "typed_per_filter_config": { "envoy.filters.http.buffer": wrapped },
    });
    made("routes/a", &routes).unwrap();
}
