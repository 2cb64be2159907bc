//! Registries: what programs register in their own form becomes endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use chancery::backend::ListReason;
use chancery::backend::memory::Memory;
use chancery::document::key::{DocumentKey, Kind};
use chancery::reconcile::world::State;
use chancery::resource::ResourceType;
use chancery::snapshot::Snapshot;
use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use prost::Message;
use serde::Deserialize;
use serde_json::json;

use super::reconcile::Replica;
use crate::support::authority::Authority;
use crate::support::etcd::Etcd;

const CLUSTER: &str = r#"{"registry": {"source": "kratos", "service": "helloworld"}}"#;
const REGISTRY: &str = r#"{"prefix": "/microservices/", "format": "kratos"}"#;

/// As Kratos writes an instance, with an HTTP port.
fn instance(port: u16) -> String {
    format!(
        r#"{{"id":"{port}","name":"helloworld","version":"","metadata":{{}},"endpoints":["http://10.0.0.1:{port}?isSecure=false"]}}"#
    )
}

fn register(store: &Memory, port: u16) {
    store.put_leased(&format!("/microservices/helloworld/{port}"), instance(port));
}

/// The ports of a cluster's endpoints.
fn ports(snapshot: &Snapshot, cluster: &str) -> BTreeSet<u32> {
    let Some(group) = snapshot.group("default") else {
        return BTreeSet::new();
    };
    let set = group.set(ResourceType::Endpoint);
    let Some(resource) = set.iter().find(|resource| &*resource.name == cluster) else {
        return BTreeSet::new();
    };
    let assignment = ClusterLoadAssignment::decode(&*resource.body.to_bytes()).unwrap();
    let endpoints = assignment
        .endpoints
        .into_iter()
        .flat_map(|locality| locality.lb_endpoints);
    let port = |identifier| {
        let HostIdentifier::Endpoint(endpoint) = identifier else {
            return None;
        };
        let Address::SocketAddress(address) = endpoint.address?.address? else {
            return None;
        };
        match address.port_specifier? {
            PortSpecifier::PortValue(port) => Some(port),
            PortSpecifier::NamedPort(_) => None,
        }
    };
    endpoints
        .filter_map(|endpoint| port(endpoint.host_identifier?))
        .collect()
}

async fn until_ports(replica: &Replica, what: &str, expected: &[u32]) {
    let expected: BTreeSet<u32> = expected.iter().copied().collect();
    replica
        .until(what, |snapshot| ports(snapshot, "orders") == expected)
        .await;
}

/// A store with a cluster, its registry, and instances at these ports.
fn store_with(instances: impl IntoIterator<Item = u16>) -> Memory {
    let store = Memory::new();
    store.put("/gateway/registries/kratos", REGISTRY);
    store.put("/gateway/clusters/orders", CLUSTER);
    instances.into_iter().for_each(|port| register(&store, port));
    store
}

fn state_of(replica: &Replica, name: &str) -> Option<State> {
    let key = DocumentKey::new(Kind::Services, name);
    replica.worlds.load().document(&key).map(|status| status.state)
}

#[tokio::test]
async fn the_first_publish_has_the_instances_of_every_registry() {
    let (store, folder) = (store_with([8001, 8002]), tempfile::tempdir().unwrap());
    let replica = Replica::start(&store, folder.path());
    let first = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(ports(&first, "orders"), [8001, 8002].into());
    register(&store, 8003);
    until_ports(&replica, "a new instance", &[8001, 8002, 8003]).await;
    store.delete("/microservices/helloworld/8001");
    until_ports(&replica, "an instance is gone", &[8002, 8003]).await;
    replica.stop().await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_read_keeps_its_last_good_endpoint() {
    let (store, folder) = (store_with([8001]), tempfile::tempdir().unwrap());
    let replica = Replica::start(&store, folder.path());
    until_ports(&replica, "an instance", &[8001]).await;
    store.put("/microservices/helloworld/8001", r#"{"endpoints": ["10.0.0.1"]}"#);
    store.put("/microservices/helloworld/odd", r#"{"endpoints": []}"#);
    register(&store, 8002);
    until_ports(&replica, "another instance", &[8001, 8002]).await;
    assert_eq!(state_of(&replica, "kratos@helloworld/8001"), Some(State::Rejected));
    assert_eq!(state_of(&replica, "kratos@helloworld/odd"), Some(State::Rejected));
    let key = DocumentKey::new(Kind::Services, "kratos@helloworld/odd");
    let reason = replica.worlds.load().document(&key).unwrap().reason.clone();
    assert_eq!(
        reason.unwrap(),
        "services/kratos@helloworld/odd: endpoints: found an empty list, expected at least one entry"
    );
    replica.stop().await;
}

#[tokio::test]
async fn a_registry_is_followed_as_long_as_its_document_serves() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    register(&store, 8001);
    let replica = Replica::start(&store, folder.path());
    replica.until("published", |snapshot| snapshot.generation > 0).await;
    let at_rest = store.watches();
    store.transact([
        ("/gateway/registries/kratos", Some(REGISTRY)),
        ("/gateway/clusters/orders", Some(CLUSTER)),
    ]);
    until_ports(&replica, "the registry is followed", &[8001]).await;
    assert_eq!(store.watches(), at_rest + 1);

    // Another prefix is another watch.
    store.put("/other/helloworld/9001", instance(9001));
    store.put(
        "/gateway/registries/kratos",
        r#"{"prefix": "/other", "format": "kratos"}"#,
    );
    until_ports(&replica, "the other prefix", &[9001]).await;

    // A document that a cluster names stays, and so does its watch.
    store.delete("/gateway/registries/kratos");
    store.put("/other/helloworld/9002", instance(9002));
    until_ports(&replica, "still followed", &[9001, 9002]).await;
    store.delete("/gateway/clusters/orders");
    let is_gone = |_: &Snapshot| state_of(&replica, "kratos@helloworld/9001").is_none();
    let over = async {
        while !is_gone(&replica.snapshots.current()) || store.watches() > at_rest {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, over)
        .await
        .expect("the registry is followed no longer");
    replica.stop().await;
}

#[tokio::test]
async fn a_new_registry_and_its_cluster_come_in_one_snapshot_with_the_instances() {
    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    register(&store, 8001);
    let replica = Replica::start(&store, folder.path());
    replica.until("published", |snapshot| snapshot.generation > 0).await;
    for number in 0..5 {
        let cluster = format!("orders-{number}");
        let key = format!("/gateway/clusters/{cluster}");
        let source = format!("kratos-{number}");
        let text = CLUSTER.replace("\"kratos\"", &format!("{source:?}"));
        store.transact([
            (&*format!("/gateway/registries/{source}"), Some(REGISTRY.to_owned())),
            (&*key, Some(text)),
        ]);
        let has_cluster = |snapshot: &Snapshot| {
            let group = snapshot.group("default");
            group.is_some_and(|group| {
                group
                    .set(ResourceType::Cluster)
                    .iter()
                    .any(|other| *other.name == cluster)
            })
        };
        let first = replica.until("the cluster is there", has_cluster).await;
        assert_eq!(ports(&first, &cluster), [8001].into());
    }
    replica.stop().await;
}

#[tokio::test]
async fn instances_lost_together_are_kept_and_a_loss_of_one_service_is_no_loss_of_another() {
    let (store, folder) = (store_with(8001..8031), tempfile::tempdir().unwrap());
    let replica = Replica::start(&store, folder.path());
    let all: Vec<u32> = (8001..8031).collect();
    until_ports(&replica, "all instances", &all).await;
    let lost: Vec<String> = (8001..8021)
        .map(|port| format!("/microservices/helloworld/{port}"))
        .collect();
    store.transact(lost.iter().map(|key| (&**key, None::<&str>)));
    register(&store, 8031);
    let expected: Vec<u32> = (8001..8032).collect();
    until_ports(&replica, "the lost instances are kept", &expected).await;
    assert_eq!(state_of(&replica, "kratos@helloworld/8001"), Some(State::Held));

    // A replica born meanwhile keeps them, too.
    let other_folder = tempfile::tempdir().unwrap();
    let other = Replica::start(&store, other_folder.path());
    until_ports(&other, "kept by another replica", &expected).await;
    other.stop().await;
    replica.stop().await;
}

#[tokio::test]
async fn a_restart_without_the_store_serves_the_saved_instances() {
    let (store, folder) = (store_with([8001]), tempfile::tempdir().unwrap());
    let first = Replica::start(&store, folder.path());
    until_ports(&first, "an instance", &[8001]).await;
    first.stop().await;

    store.set_away(Some("connection refused"));
    let second = Replica::start(&store, folder.path());
    until_ports(&second, "served from disk", &[8001]).await;
    store.set_away(None);
    register(&store, 8002);
    store.relist(ListReason::Reconnect);
    until_ports(&second, "the store answers", &[8001, 8002]).await;
    second.until_health(|health| health.pending.is_empty()).await;
    second.stop().await;
}

#[tokio::test]
async fn saved_instances_that_are_gone_are_not_kept() {
    let (store, folder) = (store_with([8001]), tempfile::tempdir().unwrap());
    let first = Replica::start(&store, folder.path());
    until_ports(&first, "an instance", &[8001]).await;
    first.stop().await;

    store.delete("/microservices/helloworld/8001");
    let second = Replica::start(&store, folder.path());
    let published = second.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(ports(&published, "orders"), BTreeSet::new());
    assert_eq!(state_of(&second, "kratos@helloworld/8001"), None);
    second.stop().await;
}

#[tokio::test]
async fn a_prefix_with_documents_of_the_server_is_no_registry() {
    let (store, folder) = (store_with([8001]), tempfile::tempdir().unwrap());
    store.put(
        "/gateway/registries/own",
        r#"{"prefix": "/gateway/secrets", "format": "native"}"#,
    );
    store.put("/gateway/secrets/token", r#"{"generic": "hunter2"}"#);
    let replica = Replica::start(&store, folder.path());
    let health = replica
        .until_health(|health| health.ready && health.pending.iter().any(|what| what.contains("overlaps")))
        .await;
    assert_eq!(
        health.pending,
        [
            "registries/own: first list of /gateway/secrets/ (the prefix /gateway/secrets/ overlaps /gateway/, which holds documents of this server)"
        ]
    );
    // The other one is not held up.
    until_ports(&replica, "the other registry", &[8001]).await;
    replica.stop().await;
}

/// A registries document with an etcd of its own.
fn registry_in(members: &str, more: &str) -> String {
    format!(r#"{{"prefix": "/microservices/", "format": "kratos", "etcd": ["{members}"]{more}}}"#)
}

#[tokio::test]
async fn another_etcd_that_is_away_keeps_its_last_instances_and_delays_no_document() {
    let (store, folder, etcd) = (Memory::new(), tempfile::tempdir().unwrap(), Etcd::start().await);
    etcd.etcdctl(&["put", "/microservices/helloworld/8001", &instance(8001)]);
    store.put("/gateway/registries/kratos", registry_in(&etcd.endpoint(), ""));
    store.put("/gateway/clusters/orders", CLUSTER);
    let replica = Replica::start(&store, folder.path());
    let first = replica.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(ports(&first, "orders"), [8001].into());
    etcd.etcdctl(&["put", "/microservices/helloworld/8002", &instance(8002)]);
    until_ports(&replica, "a new instance", &[8001, 8002]).await;

    etcd.kill();
    let is_told = |what: &String| what.starts_with("registries/kratos: list of /microservices/");
    let health = replica.until_health(|health| health.pending.iter().any(is_told)).await;
    assert!(health.ready && health.stale_since.is_none(), "{health:?}");
    store.put("/services/other/1", "10.0.0.1:9001");
    store.put("/gateway/clusters/other", "{}");
    let changed = replica
        .until("a document", |snapshot| ports(snapshot, "other") == [9001].into())
        .await;
    assert_eq!(ports(&changed, "orders"), [8001, 8002].into());
    replica.stop().await;

    // A restart without it serves the saved instances.
    let second = Replica::start(&store, folder.path());
    let restarted = second.until("published", |snapshot| snapshot.generation > 0).await;
    assert_eq!(ports(&restarted, "orders"), [8001, 8002].into());
    assert!(!restarted.stale);
    etcd.restart().await;
    etcd.etcdctl(&["del", "/microservices/helloworld/8001"]);
    until_ports(&second, "the etcd answers again", &[8002]).await;
    second.until_health(|health| health.pending.is_empty()).await;
    second.stop().await;
}

#[tokio::test]
async fn another_etcd_may_want_a_certificate_and_a_user() {
    let authority = Authority::new();
    let (etcd, address) = crate::backend_etcd_tls::start(&authority).await;
    etcd.etcdctl(&["put", "/microservices/helloworld/8001", &instance(8001)]);
    etcd.add_user("gateway", "right", &["/microservices/"]);
    etcd.enable_auth("root-password");

    let (store, folder) = (Memory::new(), tempfile::tempdir().unwrap());
    let access = r#", "tls": {"ca": "west-ca", "client_certificate": "west-client"},
        "auth": {"user": "gateway", "secret": "west-password"}"#;
    let [ca, chain, private_key] = ["ca.pem", "client.pem", "client.key"].map(|name| authority.read(name));
    store.put("/gateway/secrets/west-ca", serde_json::json!({ "ca": ca }).to_string());
    let client = serde_json::json!({ "certificate": chain, "private_key": private_key });
    store.put("/gateway/secrets/west-client", client.to_string());
    store.put("/gateway/secrets/west-password", r#"{"generic": "wrong"}"#);
    store.put("/gateway/registries/kratos", registry_in(&address, access));
    store.put("/gateway/clusters/orders", CLUSTER);
    let replica = Replica::start(&store, folder.path());
    let is_told = |what: &String| what.starts_with("registries/kratos: first list of /microservices/ (");
    let health = replica.until_health(|health| health.pending.iter().any(is_told)).await;
    assert!(!format!("{health:?}").contains("wrong"), "{health:?}");

    // Another text of the secret begins another watch.
    store.put("/gateway/secrets/west-password", r#"{"generic": "right"}"#);
    until_ports(&replica, "the right password", &[8001]).await;
    let snapshot = replica.snapshots.current();
    let secrets = snapshot.group("default").unwrap().set(ResourceType::Secret);
    assert_eq!(secrets.iter().count(), 0, "no proxy gets the secrets of the server");
    replica.stop().await;
}

/// Entries that a client library wrote (tests/data/registries/README.md).
#[derive(Deserialize)]
struct Written {
    format: String,
    prefix: String,
    service: String,
    entries: BTreeMap<String, String>,
    ports: BTreeSet<u32>,
}

#[tokio::test]
async fn entries_of_client_libraries_are_endpoints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registries");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let mut count = 0;
    for file in files {
        let written: Written = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let store = Memory::new();
        for (key, value) in &written.entries {
            store.put_leased(key, value.clone());
        }
        let registry = json!({ "prefix": written.prefix, "format": written.format });
        let cluster = json!({ "registry": { "source": "library", "service": written.service } });
        store.put("/gateway/registries/library", registry.to_string());
        store.put("/gateway/clusters/orders", cluster.to_string());
        let folder = tempfile::tempdir().unwrap();
        let replica = Replica::start(&store, folder.path());
        let has_all = |snapshot: &Snapshot| ports(snapshot, "orders") == written.ports;
        replica.until(&format!("{}", file.display()), has_all).await;
        replica.stop().await;
        count += 1;
    }
    assert!(count > 0, "files of entries");
}
