//! The recipes of `envoy-config/recipes/`, loaded from a copy of their folders with addresses of the test, and driven with
//! requests through a real Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{Clients, Load};
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::world::{Answer, Ask, LIMIT, ask, http_client, listener, shared};

with_both_bootstraps!(canary, blue_green);

/// The folders that a test of this file drives.
const DRIVEN: [&str; 2] = ["blue-green", "canary"];

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config/recipes")
}

#[test]
fn every_recipe_is_driven() {
    let entries = fs::read_dir(recipes())
        .expect("the recipes")
        .map(|entry| entry.expect("an entry"));
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, DRIVEN);
    let index = fs::read_to_string(recipes().join("README.md")).expect("the index");
    let unnamed = names
        .iter()
        .filter(|name| !index.contains(&format!("| [{name}]({name}/) |")));
    assert_eq!(
        unnamed.collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "every recipe has its line"
    );
}

/// A recipe that is served to an Envoy.
struct Served {
    folder: TempDir,
    server: Server,
    envoy: Envoy,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Served {
    /// Serve a recipe with these texts in place of others. A recipe without listeners gets one.
    async fn start(name: &str, bootstrap: Bootstrap, replaced: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&recipes().join(name), folder.path(), replaced);
        let address = own_address();
        if !folder.path().join("listeners").is_dir() {
            write(folder.path(), "listeners/edge.json", &listener(address));
        }
        let server = Server::start(&["--dir", &folder.path().to_string_lossy()]).await;
        server.ready().await;
        let envoy = Envoy::start(bootstrap, server.xds(), "recipe-1").await;
        envoy.ready().await;
        Self {
            folder,
            server,
            envoy,
            address,
            http: http_client(),
        }
    }

    async fn ask(&self, request: &Ask) -> Answer {
        ask(&self.http, self.address, request).await
    }

    /// Wait until a request is answered by this upstream, and give the answer.
    async fn serves(&self, request: &str, upstream: &str) -> Answer {
        let request = Ask::from(request);
        let observe = || async { self.ask(&request).await.upstream };
        eventually(LIMIT, observe, upstream.to_owned()).await;
        self.ask(&request).await
    }

    /// Change a document.
    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.folder.path().join(file)).expect("a document");
        let mut document = serde_json::from_str(&text).expect("JSON");
        change(&mut document);
        write(self.folder.path(), file, &document.to_string());
    }

    /// Every document is accepted, and Envoy has refused nothing.
    async fn all_is_accepted(&self) {
        let documents = self.server.get("/api/v1/documents").await;
        let entries = documents["documents"].as_array().expect("a list of documents");
        let others = entries.iter().filter(|entry| entry["state"] != "accepted");
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&Value>::new());
        assert_eq!(self.envoy.rejections().await, 0, "{}", self.envoy.log());
    }
}

/// Copy a folder of documents with other texts.
fn copy(from: &Path, to: &Path, replaced: &[(&str, String)]) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("a recipe") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, replaced);
            continue;
        }
        let mut text = fs::read_to_string(entry.path()).expect("a document");
        for (old, new) in replaced {
            text = text.replace(old, new);
        }
        fs::write(target, text).expect("write a document");
    }
}

/// Write a file as one step, as an editor does.
fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    let moved = folder.join(".new");
    fs::write(&moved, text).expect("write a file");
    fs::rename(moved, path).expect("move it");
}

async fn canary(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (one, two) = (Upstream::start("v1").await, Upstream::start("v1").await);
    let (new, lab) = (Upstream::start("v2").await, Upstream::start("lab").await);
    let replaced = [
        ("10.0.1.4:8080", one.address().to_string()),
        ("10.0.1.5:8080", two.address().to_string()),
        ("10.0.2.4:8080", new.address().to_string()),
        ("10.0.9.4:8080", lab.address().to_string()),
    ];
    let served = Served::start("canary", bootstrap, &replaced).await;
    let request = || Ask::from("GET api.example.com/v1/orders/7");
    let tester = || request().with("x-canary", "always");
    eventually(
        LIMIT,
        || async { served.ask(&tester()).await.upstream },
        "v2".to_owned(),
    )
    .await;

    let sides = async || {
        let mut sides = BTreeMap::new();
        for user in 0..60 {
            let name = format!("user-{user}");
            let answer = served.ask(&request().with("x-user", &name)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            sides.insert(name, answer.upstream);
        }
        sides
    };
    let before = sides().await;
    assert_eq!(sides().await, before, "users stay on their side");

    // A raised weight moves users to v2, and none back.
    served.change("routes/orders.json", |route| {
        route["to"][0]["weight"] = 50.into();
        route["to"][1]["weight"] = 50.into();
        route["mirror"][0]["percent"] = 100.into();
    });
    let moved = || async { sides().await.values().filter(|side| *side == "v2").count() > 10 };
    eventually(LIMIT, moved, true).await;
    let after = sides().await;
    let back = before
        .iter()
        .filter(|(user, side)| *side == "v2" && after[*user] != "v2");
    assert_eq!(back.collect::<Vec<_>>(), Vec::new());
    assert_eq!(served.ask(&tester()).await.upstream, "v2");
    eventually(LIMIT, || async { lab.requests() > 0 }, true).await;
    served.all_is_accepted().await;
}

async fn blue_green(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (blue, green) = (Upstream::start("blue").await, Upstream::start("green").await);
    let replaced = [
        ("10.0.1.4:8080", blue.address().to_string()),
        ("10.0.2.4:8080", green.address().to_string()),
    ];
    let served = Served::start("blue-green", bootstrap, &replaced).await;
    served.serves("GET shop.example.com/", "blue").await;
    let preview = served.serves("GET green.shop.example.com/cart", "green").await;
    assert_eq!(preview.body["host"], "shop.example.com");

    let load = Load::start(served.address, "shop.example.com", "/load", Clients::default());
    let switch = |to: &str| {
        served.change("routes/shop.json", |route| {
            route["to"] = to.into();
            route["tests"][0]["expect"]["to"] = json!([to]);
        });
    };
    switch("shop-green");
    served.serves("GET shop.example.com/", "green").await;
    switch("shop-blue");
    served.serves("GET shop.example.com/", "blue").await;
    load.reach(load.requests() + 100).await;
    let report = load.stop().await;
    assert_eq!((report.failures, report.reconnects), (0, 0), "{report}");
    served.all_is_accepted().await;
}
