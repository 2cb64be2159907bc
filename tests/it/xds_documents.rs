//! `xds/{type}/{resource name}` documents, from etcd or the API to the snapshot and to a client.

use std::time::Duration;

use chancery::resource::ResourceType;
use serde_json::{Value, json};

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, delta};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(5);

/// A valid name for the type, and the fields of a resource besides its name.
fn sample(resource_type: ResourceType) -> (&'static str, Value) {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 10_001 } });
    let router = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" });
    match resource_type {
        ResourceType::Cluster => ("Orders / v1", json!({ "type": "STATIC", "connect_timeout": "1s" })),
        ResourceType::Endpoint => ("orders", json!({ "endpoints": [] })),
        ResourceType::Runtime => ("layer", json!({ "layer": { "b": 1, "a": { "d": 2, "c": 3 } } })),
        ResourceType::Route => (
            "edge",
            json!({ "virtual_hosts": [{ "name": "all", "domains": ["*"] }] }),
        ),
        ResourceType::Secret => (
            "token",
            json!({ "generic_secret": { "secret": { "inline_string": "hunter2" } } }),
        ),
        ResourceType::ExtensionConfig => ("router", json!({ "typed_config": router })),
        ResourceType::Listener => ("edge", json!({ "address": address, "filter_chains": [{}] })),
        ResourceType::ScopedRoute => (
            "scope",
            json!({ "route_configuration_name": "edge", "key": { "fragments": [{ "string_key": "k" }] } }),
        ),
        ResourceType::VirtualHost => ("edge/h.example.com", json!({ "domains": ["h.example.com"] })),
    }
}

/// The document of the sample, with these fields around the resource.
fn document(resource_type: ResourceType, around: Value) -> (String, String) {
    let (name, mut resource) = sample(resource_type);
    let field = if resource_type == ResourceType::Endpoint {
        "cluster_name"
    } else {
        "name"
    };
    resource[field] = json!(name);
    resource["@type"] = json!(resource_type.type_url());
    let mut document = around;
    document["resource"] = resource;
    (format!("xds/{resource_type}/{name}"), document.to_string())
}

fn encoded(name: &str) -> String {
    name.replace('%', "%25").replace(' ', "%20").replace('/', "%2F")
}

#[tokio::test]
async fn a_resource_of_every_type_goes_from_etcd_to_who_names_it() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client
        .put("/gateway/groups/edge", r#"{"match": [{"id": "elsewhere"}]}"#, None)
        .await
        .unwrap();
    for resource_type in ResourceType::ALL {
        let (key, text) = document(resource_type, json!({}));
        client.put(format!("/gateway/{key}"), text, None).await.unwrap();
    }
    let far = json!({ "@type": ResourceType::Runtime.type_url(), "name": "far" });
    let far = json!({ "resource": far, "groups": ["edge"] });
    client
        .put("/gateway/xds/runtime/far", far.to_string(), None)
        .await
        .unwrap();
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;
    let channel = connect(server.xds()).await;
    for resource_type in ResourceType::ALL {
        let (name, _) = sample(resource_type);
        let shown = server
            .get(&format!("/api/v1/snapshot/{resource_type}/{}", encoded(name)))
            .await;
        assert_eq!(shown["name"], json!(name), "{resource_type}: {shown}");
        assert_eq!(
            shown["documents"],
            json!([format!("/gateway/xds/{resource_type}/{name}")]),
            "{resource_type}"
        );
        assert_eq!(shown["resource"]["@type"], json!(resource_type.type_url()));

        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
        stream.send(delta(resource_type.type_url(), &[name], &[]));
        let response = stream.receive().await;
        let sent = response
            .resources
            .iter()
            .find(|resource| resource.name == name)
            .unwrap_or_else(|| {
                panic!("{resource_type}: {response:?}");
            });
        assert_eq!(sent.version, shown["version"], "{resource_type}");
        assert_eq!(sent.resource.as_ref().unwrap().type_url, resource_type.type_url());
    }
    let (status, _) = server.try_get("/api/v1/snapshot/runtime/far").await.unwrap();
    assert_eq!(status, 404, "it is not for the group `default`");
    let far = server.get("/api/v1/snapshot/runtime/far?group=edge").await;
    assert_eq!(far["name"], json!("far"));
}

#[tokio::test]
async fn the_api_asks_before_a_resource_takes_the_place_of_another() {
    let etcd = Etcd::start().await;
    etcd.client()
        .await
        .put("/gateway/clusters/orders", "{}", None)
        .await
        .unwrap();
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;
    let resource = json!({ "@type": ResourceType::Cluster.type_url(), "name": "orders", "connect_timeout": "9s" });
    let path = "/api/v1/documents/xds/clusters/orders";
    let (status, problem) = server.put(path, &json!({ "resource": resource }).to_string()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("name_taken")), "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("clusters/orders makes orders"),
        "{problem}"
    );
    let (status, _) = server
        .put(path, &json!({ "resource": resource, "replace": true }).to_string())
        .await;
    assert_eq!(status, 201);
    let makers = || async { server.get("/api/v1/snapshot/clusters/orders").await["documents"].clone() };
    eventually(LIMIT, makers, json!(["/gateway/xds/clusters/orders"])).await;
    let shown = server.get(path).await;
    assert_eq!(
        (&shown["kind"], &shown["name"]),
        (&json!("xds"), &json!("clusters/orders"))
    );
    assert_eq!(
        (&shown["state"], &shown["value"]["replace"]),
        (&json!("accepted"), &json!(true))
    );

    let bad =
        json!({ "resource": { "@type": ResourceType::Cluster.type_url(), "name": "orders", "conect_timeout": "9s" } });
    let (status, problem) = server.put(path, &bad.to_string()).await;
    assert_eq!(
        (status, &problem["path"]),
        (422, &json!("resource.conect_timeout")),
        "{problem}"
    );

    etcd.client()
        .await
        .delete("/gateway/xds/clusters/orders", None)
        .await
        .unwrap();
    eventually(LIMIT, makers, json!(["/gateway/clusters/orders"])).await;
}

#[tokio::test]
async fn a_secret_reaches_the_client_and_no_answer_of_the_api() {
    let etcd = Etcd::start().await;
    let (key, text) = document(ResourceType::Secret, json!({}));
    etcd.client()
        .await
        .put(format!("/gateway/{key}"), text, None)
        .await
        .unwrap();
    let yaml = format!(
        "resource:\n  '@type': {}\n  name: bad\n  generic_secret:\n    secret: {{ inline_string: hunter2, x: hunter2 }}\n",
        ResourceType::Secret.type_url()
    );
    etcd.client()
        .await
        .put("/gateway/xds/secrets/bad", yaml, None)
        .await
        .unwrap();
    etcd.client()
        .await
        .put("/gateway/xds/secrets/broken", "{\"resource\": \"hunter2\", ", None)
        .await
        .unwrap();
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;
    let mut stream = DeltaStream::open(&connect(server.xds()).await, ADS_DELTA)
        .await
        .unwrap();
    stream.send(delta(ResourceType::Secret.type_url(), &["token"], &[]));
    let response = stream.receive().await;
    let body = &response.resources[0].resource.as_ref().unwrap().value;
    assert!(String::from_utf8_lossy(body).contains("hunter2"));

    let shown = server.get("/api/v1/snapshot/secrets/token").await;
    assert_eq!(
        shown["resource"]["generic_secret"]["secret"]["inline_string"],
        json!("[redacted]")
    );
    let written = server.get("/api/v1/documents/xds/secrets/token").await;
    let resource = &written["value"]["resource"];
    assert_eq!(
        (&resource["name"], &resource["generic_secret"]["secret"]),
        (&json!("token"), &json!({ "inline_string": "[redacted]" }))
    );
    let paths = [
        "documents/xds/secrets/bad",
        "documents/xds/secrets/broken",
        "documents",
        "snapshot/secrets",
    ];
    for path in paths {
        let answer = server.get(&format!("/api/v1/{path}")).await.to_string();
        assert!(!answer.contains("hunter2"), "{path}: {answer}");
    }
    assert!(!server.log().contains("hunter2"), "{}", server.log());
    assert_eq!(
        server.get("/api/v1/documents/xds/secrets/bad").await["state"],
        json!("rejected")
    );
}
