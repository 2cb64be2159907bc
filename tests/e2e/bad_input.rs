//! A set of bad documents among good ones: each is rejected with its reason, and no other document is affected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::load::{Clients, Load};
use crate::support::envoy::Bootstrap;
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(
    bad_documents_harm_nobody,
    a_document_that_turns_bad_keeps_its_last_good_text
);

/// A bad document, from `manifest.json` of the corpus.
struct Bad {
    key: String,
    value: Vec<u8>,
    reason: String,
    path: String,
}

async fn bad_documents_harm_nobody(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let mut world = World::start(bootstrap).await;
    let upstream = Upstream::start("good").await;
    let corpus = corpus();
    assert!(corpus.len() >= 60, "{} bad documents", corpus.len());
    let mut served = Vec::new();
    for (n, bad) in corpus.iter().enumerate() {
        world.put(&bad.key, bad.value.clone()).await;
        if n % 10 == 0 {
            let route = json!({ "match": format!("/good/{n}"), "to": upstream.url() });
            world.put(&format!("/gateway/routes/good-{n}"), route.to_string()).await;
            served.push(format!("GET /good/{n}"));
        }
    }
    // The same match again: the one that was there first keeps the traffic.
    let second = json!({ "match": "/good/0", "to": { "respond": { "status": 418 } } });
    world.put("/gateway/routes/second", second.to_string()).await;
    world.document_is("/gateway/routes/second", "shadowed").await;

    for request in &served {
        world.serves(request.as_str(), 200, "good").await;
    }
    let answer = world.server.get("/api/v1/documents").await;
    let documents = answer["documents"].as_array().expect("a list");
    let mut wrong = Vec::new();
    for bad in &corpus {
        let entry = documents.iter().find(|entry| entry["key"] == bad.key.as_str());
        if !entry.is_some_and(|entry| bad.is_told(entry)) {
            wrong.push(format!(
                "{}: {}: {}",
                bad.key,
                bad.reason,
                entry.unwrap_or(&Value::Null)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} wrong:\n{}",
        wrong.len(),
        corpus.len(),
        wrong.join("\n")
    );
    assert!(world.server.is_running(), "{}", world.server.log());
    world.nothing_was_refused().await;
    println!(
        "{bootstrap:?}: {} bad documents told why, {} good ones serve",
        corpus.len(),
        served.len()
    );
}

async fn a_document_that_turns_bad_keeps_its_last_good_text(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let mut world = World::start(bootstrap).await;
    let upstream = Upstream::start("good").await;
    world
        .put(
            "/gateway/routes/turns",
            json!({ "match": "/turns", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /turns", 200, "good").await;
    let good = world.document_is("/gateway/routes/turns", "accepted").await;
    world
        .put("/gateway/routes/turns", r#"{ "match": "/turns", "too": "nowhere" }"#)
        .await;
    let bad = world.document_is("/gateway/routes/turns", "rejected").await;
    assert_eq!(bad["path"], "too");
    assert!(
        bad["reason"].as_str().unwrap_or_default().contains("did you mean"),
        "{bad}"
    );
    assert_eq!(bad["serving_revision"], good["revision"]);
    world.serves("GET /turns", 200, "good").await;
    let load = Load::start(
        world.address,
        "any.example.com",
        "/turns",
        Clients {
            keep_alive: 2,
            fresh: 1,
            http2: 1,
        },
    );
    world.server.restart().await;
    world.server.ready().await;
    // Killed before a save to disk: after the restart, the serving texts come from the shared memory.
    eventually(
        LIMIT,
        || world.server.document("/gateway/routes/turns"),
        Some(bad.clone()),
    )
    .await;
    world
        .put(
            "/gateway/routes/other",
            json!({ "match": "/other", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /other", 200, "good").await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    world
        .put(
            "/gateway/routes/turns",
            json!({ "match": "/turned", "to": upstream.url() }).to_string(),
        )
        .await;
    world.serves("GET /turned", 200, "good").await;
    world.serves("GET /turns", 404, "").await;
    world.nothing_was_refused().await;
}

impl Bad {
    /// True if the document's entry has this fault.
    fn is_told(&self, entry: &Value) -> bool {
        let reason = entry["reason"].as_str().unwrap_or_default();
        entry["state"] == "rejected"
            && !reason.is_empty()
            && reason.contains(&self.reason)
            && entry["path"].as_str().unwrap_or_default() == self.path
    }
}

/// Every entry of the manifest, with its full key.
fn corpus() -> Vec<Bad> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents");
    let text = fs::read(folder.join("manifest.json")).expect("read the manifest");
    let entries: Vec<Value> = serde_json::from_slice(&text).expect("a manifest in JSON");
    let field = |entry: &Value, name: &str| entry[name].as_str().expect("a string").to_owned();
    let full_key = |key: String| {
        if key.starts_with("services/") {
            format!("/{key}")
        } else {
            format!("/gateway/{key}")
        }
    };
    let bad = entries.iter().map(|entry| {
        let key = full_key(field(entry, "key"));
        let bad = Bad {
            key: key.clone(),
            value: content(entry, &folder),
            reason: field(entry, "reason_contains"),
            path: field(entry, "path"),
        };
        (key, bad)
    });
    // Of several texts for one key the store holds the last.
    bad.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The content of a file, or a generated text that is too large for a file.
fn content(entry: &Value, folder: &Path) -> Vec<u8> {
    if let Some(file) = entry["file"].as_str() {
        let path: PathBuf = folder.join(file);
        return fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    }
    match entry["generate"].as_str() {
        Some("large") => vec![b' '; (1 << 20) + 1],
        Some("deep") => [vec![b'['; 500_000], vec![b']'; 500_000]].concat(),
        Some("deep_objects") => [br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat(),
        Some("deep_yaml") => (0..1000)
            .map(|level| format!("{}a:\n", " ".repeat(level)))
            .collect::<String>()
            .into_bytes(),
        other => panic!("unknown generator {other:?}"),
    }
}
