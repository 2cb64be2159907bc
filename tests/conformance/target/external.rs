//! A server at an address, started by somebody else, with the etcd that it reads.
//!
//! | variable | value |
//! |---|---|
//! | `XDS_UNDER_TEST` | `HOST:PORT` of the xDS port |
//! | `XDS_UNDER_TEST_ETCD` | `URL[,URL…],PREFIX` of its `xds/{type}/{name}` documents; each rule replaces all keys below the prefix |
//! | `XDS_UNDER_TEST_ADMIN` | `HOST:PORT` of the admin API |
//!
//! Without the etcd the server must serve fixture F1, and rules with a change fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::documents::Documents;
use super::{Launch, Options, Target};
use crate::fixture::{Change, Resource};

/// Longest time from a write until the server serves it.
const SEEN: Duration = Duration::from_secs(15);
/// Wait after a write if no admin API shows the served version; else the time between two checks.
const UNSEEN: Duration = Duration::from_millis(300);

/// Where it is.
pub(crate) struct External {
    place: Place,
    rules: AtomicUsize,
}

#[derive(Clone)]
struct Place {
    address: String,
    admin: Option<String>,
    etcd: Option<(Vec<String>, String)>,
}

impl External {
    /// From the environment variables; `None` if `XDS_UNDER_TEST` is not set.
    #[expect(clippy::disallowed_methods, reason = "the suite has no command line of its own")]
    pub(crate) fn from_environment() -> Option<Self> {
        let address = std::env::var("XDS_UNDER_TEST").ok()?;
        let admin = std::env::var("XDS_UNDER_TEST_ADMIN").ok();
        let etcd = std::env::var("XDS_UNDER_TEST_ETCD").ok().map(|text| {
            let (endpoints, prefix) = text
                .rsplit_once(',')
                .unwrap_or_else(|| panic!("XDS_UNDER_TEST_ETCD is {text:?}, expected URL,PREFIX"));
            (endpoints.split(',').map(str::to_owned).collect(), prefix.to_owned())
        });
        Some(Self {
            place: Place { address, admin, etcd },
            rules: AtomicUsize::new(0),
        })
    }
}

#[async_trait(?Send)]
impl Launch for External {
    async fn launch(&self, resources: Vec<Resource>, options: Options) -> Box<dyn Target> {
        assert!(
            options.arguments.is_empty(),
            "it must be a server that is started with {}",
            options.arguments.join(" ")
        );
        let documents = match &self.place.etcd {
            Some((endpoints, prefix)) => Some(Documents::at(endpoints, prefix).await),
            None => None,
        };
        if let Some(documents) = &documents {
            documents.replace(&resources, options.documents).await;
        }
        let number = self.rules.fetch_add(1, Ordering::Relaxed);
        let node = format!("n1-{}-{number}", std::process::id());
        let running = Running {
            place: self.place.clone(),
            documents,
            node,
        };
        running.settled().await;
        Box::new(running)
    }

    /// There is one, which all rules change.
    fn at_once(&self) -> Option<usize> {
        Some(1)
    }
}

struct Running {
    place: Place,
    documents: Option<Documents>,
    node: String,
}

impl Running {
    fn url(&self, path: &str) -> Option<String> {
        Some(format!("http://{}{path}", self.place.admin.as_ref()?))
    }

    /// True if the server serves the last write. If a rule removes most documents, a guard may hold the change; then
    /// the change is released.
    async fn has_seen(&self, url: &str, wanted: i64) -> bool {
        let overview = get(format!("{url}/api/v1/snapshot")).await;
        let held = get(format!("{url}/api/v1/documents?state=held")).await;
        if held["documents"].as_array().is_none_or(Vec::is_empty) {
            return overview["groups"]["default"]["revision"].as_i64() >= Some(wanted);
        }
        let release = reqwest::Client::new()
            .post(format!("{url}/api/v1/release"))
            .json(&json!({ "all": true }));
        let answer = release.send().await.expect("ask the admin API");
        // 404: the hold has ended since it was read.
        let is_over = answer.status() == reqwest::StatusCode::NOT_FOUND;
        assert!(
            answer.status().is_success() || is_over,
            "it does not let go: {}",
            answer.status()
        );
        false
    }
}

#[async_trait(?Send)]
impl Target for Running {
    fn address(&self) -> String {
        self.place.address.clone()
    }

    async fn commit(&self, changes: Vec<Change>) {
        let documents = self
            .documents
            .as_ref()
            .expect("XDS_UNDER_TEST_ETCD, to change what the server serves");
        documents.apply(&changes).await;
    }

    /// With its admin API it is known when it has read them.
    async fn settled(&self) {
        sleep(UNSEEN).await;
        let deadline = Instant::now() + SEEN;
        let (Some(url), Some(documents)) = (self.url(""), &self.documents) else {
            return;
        };
        while Instant::now() < deadline && !self.has_seen(&url, documents.revision()).await {
            sleep(UNSEEN).await;
        }
    }

    /// A new node id for each rule, so that the server does not mix up their clients.
    fn node(&self) -> String {
        self.node.clone()
    }

    async fn restart(&mut self) {
        panic!("a server at an address cannot be restarted from here");
    }

    async fn admin(&self, path: &str) -> Option<Value> {
        Some(get(self.url(&path.replace("/n1", &format!("/{}", self.node)))?).await)
    }
}

async fn get(url: String) -> Value {
    let answer = reqwest::get(url).await.expect("ask the admin API");
    answer.json().await.expect("the admin API answers with JSON")
}
