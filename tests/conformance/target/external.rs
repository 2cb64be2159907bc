//! A server that somebody else runs, at an address, with the etcd that it reads.
//!
//! `XDS_UNDER_TEST=HOST:PORT` names its xDS port. `XDS_UNDER_TEST_ETCD=URL[,URL…],PREFIX` says where it takes
//! `xds/{type}/{name}` documents from; everything below the prefix is replaced for each rule. `XDS_UNDER_TEST_ADMIN=HOST:PORT`
//! names its admin API. Without the etcd it must serve fixture F1, and rules that change something fail.

use async_trait::async_trait;
use serde_json::Value;

use super::documents::Documents;
use super::{Launch, Options, Target};
use crate::fixture::{Change, Resource};

/// Where it is.
#[derive(Clone)]
pub(crate) struct External {
    address: String,
    admin: Option<String>,
    etcd: Option<(Vec<String>, String)>,
}

impl External {
    /// As the environment says; `None`: it says nothing.
    #[expect(clippy::disallowed_methods, reason = "the suite has no command line of its own")]
    pub(crate) fn from_environment() -> Option<Self> {
        let address = std::env::var("XDS_UNDER_TEST").ok()?;
        let admin = std::env::var("XDS_UNDER_TEST_ADMIN").ok();
        let etcd = std::env::var("XDS_UNDER_TEST_ETCD").ok().map(|text| {
            let (endpoints, prefix) =
                text.rsplit_once(',').unwrap_or_else(|| panic!("XDS_UNDER_TEST_ETCD is {text:?}, expected URL,PREFIX"));
            (endpoints.split(',').map(str::to_owned).collect(), prefix.to_owned())
        });
        Some(Self { address, admin, etcd })
    }
}

#[async_trait(?Send)]
impl Launch for External {
    async fn launch(&self, resources: Vec<Resource>, options: Options) -> Box<dyn Target> {
        let documents = match &self.etcd {
            Some((endpoints, prefix)) => Some(Documents::at(endpoints, prefix).await),
            None => None,
        };
        if let Some(documents) = &documents {
            documents.replace(&resources, options.documents).await;
        }
        let running = Running { external: self.clone(), documents };
        running.settled().await;
        Box::new(running)
    }

    /// There is one, which all rules change.
    fn at_once(&self) -> Option<usize> {
        Some(1)
    }
}

struct Running {
    external: External,
    documents: Option<Documents>,
}

#[async_trait(?Send)]
impl Target for Running {
    fn address(&self) -> String {
        self.external.address.clone()
    }

    async fn commit(&self, changes: Vec<Change>) {
        let documents = self.documents.as_ref().expect("XDS_UNDER_TEST_ETCD, to change what the server serves");
        documents.apply(&changes).await;
    }

    /// Nothing says when it has read them.
    async fn settled(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }

    async fn restart(&mut self) {
        panic!("a server at an address cannot be restarted from here");
    }

    async fn admin(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}{path}", self.external.admin.as_ref()?);
        let answer = reqwest::get(url).await.expect("ask the admin API");
        Some(answer.json().await.expect("the admin API answers with JSON"))
    }
}
