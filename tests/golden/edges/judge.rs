//! A real Envoy that accepts or rejects each listener and cluster.
//!
//! Envoy reads the resources from files, in the encoded form of a response. All listeners are in one file, because
//! Envoy checks each of them by itself; none is bound. A rejected cluster may make Envoy reject others of the same
//! file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use chancery::proto::json::pool;
use chancery::resource::ResourceType;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::envoy::Envoy;

/// Until Envoy has read a file.
const LIMIT: Duration = Duration::from_secs(60);

/// An Envoy and the files that it reads.
pub(super) struct Judge {
    envoy: Envoy,
    files: TempDir,
}

/// Encode a resource; `None`: it is no JSON of its type.
pub(super) fn encoded(resource_type: ResourceType, resource: &Value) -> Option<Vec<u8>> {
    let name = resource_type.type_url().rsplit('/').next().expect("a name");
    let descriptor = pool().get_message_by_name(name).expect("a known type");
    let mut resource = resource.clone();
    resource.as_object_mut()?.remove("@type");
    let message = DynamicMessage::deserialize(descriptor, &resource).ok()?;
    Some(message.encode_to_vec())
}

impl Judge {
    pub(super) async fn start() -> Self {
        let files = tempfile::tempdir().expect("make a folder");
        let from = |file: &str| {
            let path = files.path().join(file);
            json!({ "path_config_source": { "path": path }, "resource_api_version": "V3" })
        };
        write(files.path(), "lds", ResourceType::Listener, &[]);
        write(files.path(), "cds", ResourceType::Cluster, &[]);
        let bootstrap = json!({
            "node": { "cluster": "judge" },
            "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
            "dynamic_resources": { "lds_config": from("lds.pb"), "cds_config": from("cds.pb") },
        });
        let envoy = Envoy::start_with(&bootstrap.to_string(), "judge").await;
        envoy.ready().await;
        Self { envoy, files }
    }

    /// Envoy's refusals of these listeners, by position; accepted ones are absent.
    pub(super) async fn listeners(&self, listeners: &[&Value]) -> BTreeMap<usize, String> {
        let alone = |(index, listener): (usize, &&Value)| {
            let mut listener = (*listener).clone();
            listener["name"] = index.to_string().into();
            listener["bind_to_port"] = false.into();
            let [_, _, high, low] = u32::try_from(index).expect("few").to_be_bytes();
            let address = format!("127.1.{high}.{low}");
            listener["address"] = json!({ "socket_address": { "address": address, "port_value": 10_000 } });
            encoded(ResourceType::Listener, &listener).unwrap_or_else(|| panic!("no listener: {listener}"))
        };
        let encoded: Vec<_> = listeners.iter().enumerate().map(alone).collect();
        let (taken, log) = self.push("lds", ResourceType::Listener, &encoded).await;
        let said = log.lines().filter_map(|line| line.split_once("lds: listener '"));
        let said = said.filter_map(|(_, rest)| rest.split_once("' config rejected: "));
        let said: BTreeMap<usize, String> = said
            .map(|(name, words)| (name.parse().expect("a number"), words.to_owned()))
            .collect();
        assert!(taken == said.is_empty(), "Envoy refuses all listeners at once: {log}");
        said
    }

    /// Envoy's refusal of these clusters together; `None`: Envoy accepts all.
    pub(super) async fn clusters(&self, clusters: &[&Value]) -> Option<String> {
        let named = |(index, cluster): (usize, &&Value)| {
            let mut cluster = (*cluster).clone();
            cluster["name"] = index.to_string().into();
            encoded(ResourceType::Cluster, &cluster).unwrap_or_else(|| panic!("no cluster: {cluster}"))
        };
        let encoded: Vec<_> = clusters.iter().enumerate().map(named).collect();
        let (taken, log) = self.push("cds", ResourceType::Cluster, &encoded).await;
        let said = log.lines().filter(|line| line.contains("rejected"));
        (!taken).then(|| said.collect::<Vec<_>>().join("\n"))
    }

    /// Whether Envoy accepts the content of a file, and its log lines meanwhile.
    async fn push(&self, file: &str, resource_type: ResourceType, resources: &[Vec<u8>]) -> (bool, String) {
        let (before, logged) = (self.counts(file).await, self.envoy.log().len());
        write(self.files.path(), file, resource_type, resources);
        let deadline = Instant::now() + LIMIT;
        loop {
            let counts = self.counts(file).await;
            if counts != before {
                let log = self.envoy.log();
                return (counts.1 == before.1, log.get(logged..).unwrap_or_default().to_owned());
            }
            assert!(
                Instant::now() < deadline,
                "Envoy does not read {file}: {}",
                self.envoy.log()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// How often Envoy took and did not take a file.
    async fn counts(&self, file: &str) -> (u64, u64) {
        let filter = format!("manager.{file}.update_(success|rejected|failure)$");
        let stats = self.envoy.stats(&filter).await;
        let (taken, refused): (Vec<_>, Vec<_>) = stats.iter().partition(|(name, _)| name.ends_with("success"));
        let sum = |stats: Vec<&(String, u64)>| stats.iter().map(|(_, count)| count).sum();
        (sum(taken), sum(refused))
    }
}

/// In one step, as Envoy wants it.
fn write(folder: &Path, file: &str, resource_type: ResourceType, resources: &[Vec<u8>]) {
    let any = |value: &Vec<u8>| Any {
        type_url: resource_type.type_url().to_owned(),
        value: value.clone(),
    };
    let response = DiscoveryResponse {
        version_info: "1".to_owned(),
        type_url: resource_type.type_url().to_owned(),
        resources: resources.iter().map(any).collect(),
        ..DiscoveryResponse::default()
    };
    let path = folder.join(format!("{file}.pb"));
    fs::write(path.with_extension("new"), response.encode_to_vec()).expect("write the resources");
    fs::rename(path.with_extension("new"), path).expect("put them in place");
}
