//! Resources as `xds/{type}/{name}` documents in an etcd, one transaction a commit.

use std::collections::BTreeMap;
use std::sync::Mutex;

use etcd_client::{Client, GetOptions, Txn, TxnOp};
use serde_json::json;

use crate::fixture::{CDS, Change, ELSEWHERE, Resource};

/// The documents below a prefix.
pub(super) struct Documents {
    client: Client,
    prefix: String,
    /// The revision of the last write.
    written: Mutex<i64>,
}

impl Documents {
    /// The documents below this prefix of this etcd.
    pub(super) async fn at(endpoints: &[String], prefix: &str) -> Self {
        let client = Client::connect(endpoints, None).await.expect("connect to etcd");
        Self {
            client,
            prefix: prefix.to_owned(),
            written: Mutex::new(0),
        }
    }

    /// Make these resources, and these documents by their keys, all that there is.
    pub(super) async fn replace(&self, resources: &[Resource], documents: Vec<(String, String)>) {
        let mut wanted = frame();
        wanted.extend(documents);
        wanted.extend(resources.iter().map(|resource| (key(resource), value(resource))));
        let options = GetOptions::new().with_prefix().with_keys_only();
        let present = self
            .client
            .kv_client()
            .get(&*self.prefix, Some(options))
            .await
            .expect("list the documents");
        let present = present
            .kvs()
            .iter()
            .map(|pair| pair.key_str().expect("a key is text").to_owned());
        let gone: Vec<String> = present
            .filter(|key| !wanted.contains_key(key.trim_start_matches(&self.prefix)))
            .collect();
        let mut writes: Vec<TxnOp> = gone.into_iter().map(|key| TxnOp::delete(key, None)).collect();
        writes.extend(
            wanted
                .into_iter()
                .map(|(key, value)| TxnOp::put(self.full(&key), value, None)),
        );
        self.write(writes).await;
    }

    /// Apply these changes.
    pub(super) async fn apply(&self, changes: &[Change]) {
        let write = |change: &Change| match change {
            Change::Put(resource) => vec![TxnOp::put(self.full(&key(resource)), value(resource), None)],
            // A cluster on demand has another key.
            Change::Delete(resource_type, name) => {
                let keys = [
                    format!("xds/{}/{name}", resource_type.as_str()),
                    format!("clusters/{name}"),
                ];
                let keys = keys.iter().take(if *resource_type == CDS { 2 } else { 1 });
                keys.map(|key| TxnOp::delete(self.full(key), None)).collect()
            }
        };
        self.write(changes.iter().flat_map(write).collect()).await;
    }

    /// The revision of the last write.
    pub(super) fn revision(&self) -> i64 {
        *self.written.lock().expect("no writer panics")
    }

    async fn write(&self, writes: Vec<TxnOp>) {
        let answer = self
            .client
            .kv_client()
            .txn(Txn::new().and_then(writes))
            .await
            .expect("write the documents");
        *self.written.lock().expect("no writer panics") = answer.header().expect("a header").revision();
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// The documents of every rule: a group, and a listener that only this group has. Because of that document, the other
/// groups do not get the default listener.
fn frame() -> BTreeMap<String, String> {
    let group = json!({ "match": [{ "metadata": { "place": ELSEWHERE } }] });
    let listener = json!({ "address": "127.0.0.1:1", "groups": [ELSEWHERE] });
    [("groups/", group), ("listeners/", listener)]
        .map(|(kind, document)| (format!("{kind}{ELSEWHERE}"), document.to_string()))
        .into()
}

fn key(resource: &Resource) -> String {
    if resource.on_demand {
        return format!("clusters/{}", resource.name);
    }
    format!("xds/{}/{}", resource.resource_type.as_str(), resource.name)
}

fn value(resource: &Resource) -> String {
    if resource.on_demand {
        return json!({ "endpoints": [{ "address": "127.0.0.1:9" }], "on_demand": true }).to_string();
    }
    let mut document = json!({ "resource": resource.json });
    if let Some(groups) = &resource.groups {
        document["groups"] = json!(groups);
    }
    if !resource.aliases.is_empty() {
        document["aliases"] = json!(resource.aliases);
    }
    if let Some(ttl) = &resource.ttl {
        document["ttl"] = json!(ttl);
    }
    document.to_string()
}
