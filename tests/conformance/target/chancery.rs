//! The real binary: one process per rule, with a prefix of its own in an etcd that all rules share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep};

use super::documents::Documents;
use super::{Launch, Options, Target};
use crate::fixture::{Change, Resource};
use crate::support::etcd::Etcd;
use crate::support::server::Server;

/// A server that publishes nothing new for a commit is taken to have seen it after so long.
const SEEN: Duration = Duration::from_millis(1500);

/// Servers that start at the same time: a start is work, unlike a rule, and has a time limit.
const STARTS_AT_ONCE: usize = 2;

/// Servers of this tree.
pub(crate) struct Chancery {
    etcd: OnceCell<Etcd>,
    count: AtomicUsize,
    starts: Semaphore,
}

impl Default for Chancery {
    fn default() -> Self {
        let starts = Semaphore::new(STARTS_AT_ONCE);
        Self {
            etcd: OnceCell::new(),
            count: AtomicUsize::new(0),
            starts,
        }
    }
}

#[async_trait(?Send)]
impl Launch for Chancery {
    async fn launch(&self, resources: Vec<Resource>, options: Options) -> Box<dyn Target> {
        let etcd = self.etcd.get_or_init(start_etcd).await;
        let root = format!("/{}", self.count.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("{root}/gateway/");
        let documents = Documents::at(&[etcd.endpoint()], &prefix).await;
        documents.replace(&resources, options.documents).await;
        let (registry, state) = (format!("{root}/services/"), format!("{root}/chancery/"));
        let endpoint = etcd.endpoint();
        let mut arguments = vec!["--etcd", &*endpoint, "--prefix", &*prefix];
        arguments.extend(["--registry-prefix", &*registry, "--state-prefix", &*state]);
        arguments.extend(options.arguments.iter().map(String::as_str));
        let start = self.starts.acquire().await.expect("nobody closes it");
        let server = Server::start(&arguments).await;
        server.ready().await;
        drop(start);
        Box::new(Running { documents, server })
    }
}

/// Large commits are one transaction too.
async fn start_etcd() -> Etcd {
    Etcd::start_with(&["--max-txn-ops", "200000", "--max-request-bytes", "536870912"]).await
}

struct Running {
    documents: Documents,
    server: Server,
}

#[async_trait(?Send)]
impl Target for Running {
    fn address(&self) -> String {
        self.server.xds().to_string()
    }

    async fn commit(&self, changes: Vec<Change>) {
        self.documents.apply(&changes).await;
    }

    async fn settled(&self) {
        let deadline = Instant::now() + SEEN;
        let wanted = self.documents.revision();
        while Instant::now() < deadline {
            let overview = self.server.get("/api/v1/snapshot").await;
            if overview["groups"]["default"]["revision"].as_i64() >= Some(wanted) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self) {
        self.server.restart().await;
        self.server.ready().await;
    }

    fn memory(&self) -> Option<u64> {
        Some(self.server.memory())
    }

    async fn admin(&self, path: &str) -> Option<Value> {
        Some(self.server.get(path).await)
    }
}
