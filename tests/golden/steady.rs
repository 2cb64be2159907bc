//! No document of another kind changes a Listener: Envoy would drain its connections.

use std::collections::BTreeSet;

use chancery::document::key::{DocumentKey, Kind};
use chancery::resource::ResourceType;
use chancery::resource::compile::Edit;
use serde_json::Value;

use super::inputs::{compiled, documents, edit, names};
use super::outputs::resources;

/// New documents of each kind beside those that change listeners by their meaning.
const NEW: [(&str, &str); 9] = [
    (
        "routes/zz",
        r#"{ "match": "/zz/*", "to": "http://10.9.9.9:80", "priority": 7 }"#,
    ),
    (
        "routes/zz-host",
        r#"{ "match": "zz.example.com/*", "to": { "respond": { "status": 204 } } }"#,
    ),
    ("clusters/zz", r#"{ "endpoints": [{ "address": "10.9.9.9:80" }] }"#),
    ("services/zz/1", "10.9.9.9:80"),
    ("secrets/zz", r#"{ "generic": "not secret" }"#),
    ("registries/zz", r#"{ "prefix": "/zz/", "format": "kratos" }"#),
    ("runtime/zz", r#"{ "values": { "zz": 1 } }"#),
    ("policies/zz", r#"{ "ip_access": { "deny": ["10.9.9.9"] } }"#),
    (
        "routes/zz-guarded",
        r#"{ "match": "/zz-guarded", "to": "http://10.9.9.9:80", "policies": [{ "csrf": {} }] }"#,
    ),
];

/// Whether a document of the key describes listeners, or which groups there are.
fn is_of_listeners(key: &str) -> bool {
    ["listeners/", "defaults", "groups/", "xds/listeners/"]
        .iter()
        .any(|start| key.starts_with(start))
}

/// Each document of an input deleted, each secret with the content of another one, and new documents.
fn changes(name: &str) -> Vec<Edit> {
    let documents = documents(name);
    let others = || documents.iter().filter(|(key, _)| !is_of_listeners(key));
    let deleted = others().map(|(key, _)| {
        let (word, name) = key.split_once('/').expect("a kind and a name");
        Edit {
            key: DocumentKey::new(Kind::from_word(word).expect("a kind"), name),
            accepted: None,
            exists: false,
            is_judged: true,
        }
    });
    let has_certificate = |value: &Value| value.get("certificate").is_some();
    let certificates: Vec<(&String, &Value)> = documents.iter().filter(|(_, value)| has_certificate(value)).collect();
    let rotated = certificates
        .iter()
        .zip(certificates.iter().skip(1))
        .map(|((key, _), (_, other))| edit(key, &other.to_string(), 1000).expect("a good secret"));
    let new = NEW.map(|(key, text)| edit(key, text, 1000).expect("a good document"));
    deleted.chain(rotated).chain(new).collect()
}

#[test]
fn no_document_of_another_kind_changes_a_listener() {
    let mut kinds = BTreeSet::new();
    for name in names() {
        let compiled = compiled(&name);
        let before = resources(&compiled, ResourceType::Listener);
        for change in changes(&name) {
            let key = change.key.clone();
            // A document that others need cannot be deleted.
            let Ok(step) = compiled.apply(vec![change]) else {
                continue;
            };
            kinds.insert(key.kind);
            let after = resources(&step.compiled, ResourceType::Listener);
            assert_eq!(after, before, "{name}: {key} changes a listener");
        }
    }
    let all = [
        Kind::Routes,
        Kind::Clusters,
        Kind::Services,
        Kind::Registries,
        Kind::Secrets,
        Kind::Policies,
        Kind::Runtime,
        Kind::Xds,
    ];
    assert_eq!(kinds, BTreeSet::from(all));
}
