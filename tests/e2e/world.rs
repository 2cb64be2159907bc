//! A whole installation for one test: etcd, the server, a real Envoy, and a client of Envoy.

use std::convert::identity;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use http::HeaderMap;
use serde_json::Value;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::proxy::Proxy;
use crate::support::server::Server;

/// Longest time until a change shows in Envoy. It takes milliseconds, but the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Tests that measure want the machine for themselves.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// Wait until no other test runs, and keep others from beginning. (Poisoning does not exist here: a failed test is
/// gone.)
pub(crate) async fn quiet() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// Run beside others.
pub(crate) async fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// The listener that [`World::start`] puts, as the document's name.
pub(crate) const LISTENER: &str = "edge";

/// One installation.
pub(crate) struct World {
    pub(crate) etcd: Etcd,
    pub(crate) server: Server,
    pub(crate) envoy: Envoy,
    /// Where Envoy's listener [`LISTENER`] is.
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    client: Client,
}

impl World {
    /// Start all of it with one plain HTTP listener.
    pub(crate) async fn start(bootstrap: Bootstrap) -> Self {
        Self::start_with(bootstrap, &[]).await
    }

    /// Start the server with more arguments.
    pub(crate) async fn start_with(bootstrap: Bootstrap, arguments: &[&str]) -> Self {
        let etcd = Etcd::start().await;
        let endpoint = etcd.endpoint();
        Self::start_on(etcd, bootstrap, &[&["--etcd", &endpoint], arguments].concat(), identity).await
    }

    /// Start it with these documents, by their keys below the prefix, and Envoy with an edited bootstrap.
    pub(crate) async fn start_with_bootstrap(
        bootstrap: Bootstrap,
        edit: impl FnOnce(String) -> String,
        documents: &[(&str, String)],
    ) -> Self {
        let etcd = Etcd::start().await;
        for (key, text) in documents {
            etcd.etcdctl(&["put", &format!("/gateway/{key}"), text]);
        }
        let endpoint = etcd.endpoint();
        Self::start_on(etcd, bootstrap, &["--etcd", &endpoint], edit).await
    }

    /// Start with a link between the server and etcd that can be cut.
    pub(crate) async fn start_with_link(bootstrap: Bootstrap) -> (Self, Proxy) {
        let etcd = Etcd::start().await;
        let link = Proxy::start(etcd.address()).await;
        let endpoint = link.endpoint();
        (
            Self::start_on(etcd, bootstrap, &["--etcd", &endpoint], identity).await,
            link,
        )
    }

    async fn start_on(
        etcd: Etcd,
        bootstrap: Bootstrap,
        arguments: &[&str],
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let address = own_address();
        etcd.etcdctl(&["put", &format!("/gateway/listeners/{LISTENER}"), &listener(address)]);
        let server = Server::start(arguments).await;
        server.ready().await;
        let envoy = Envoy::start_with(&edit(bootstrap.text(server.xds())), "edge-1").await;
        envoy.ready().await;
        let client = etcd.client().await;
        Self {
            etcd,
            server,
            envoy,
            address,
            http: http_client(),
            client,
        }
    }

    /// Put a key; the revision it got.
    pub(crate) async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let response = self.client.kv_client().put(key, value, None).await;
        response
            .unwrap_or_else(|error| panic!("put {key}: {error}"))
            .header()
            .expect("a header")
            .revision()
    }

    /// Delete a key.
    pub(crate) async fn delete(&self, key: &str) {
        self.client.kv_client().delete(key, None).await.expect("delete");
    }

    /// Several operations as one revision.
    pub(crate) async fn transaction(&self, operations: Vec<TxnOp>) {
        let always = Compare::mod_revision("never-written", CompareOp::Equal, 0);
        let transaction = Txn::new().when([always]).and_then(operations);
        let response = self.client.kv_client().txn(transaction).await.expect("transaction");
        assert!(response.succeeded());
    }

    /// A client of etcd.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Ask Envoy's listener `edge`.
    pub(crate) async fn ask(&self, request: impl Into<Ask>) -> Answer {
        ask(&self.http, self.address, &request.into()).await
    }

    /// Wait until a request is answered with this status by this upstream (empty: by Envoy itself), and give the
    /// answer.
    pub(crate) async fn serves(&self, request: impl Into<Ask>, status: u16, upstream: &str) -> Answer {
        let request = request.into();
        let observe = || async {
            let answer = ask(&self.http, self.address, &request).await;
            (request.to_string(), answer.status, answer.upstream)
        };
        eventually(LIMIT, observe, (request.to_string(), status, upstream.to_owned())).await;
        self.ask(request).await
    }

    /// Wait until a document has this state, and give its entry.
    pub(crate) async fn document_is(&self, key: &str, state: &str) -> Value {
        let observe = || async { self.server.document(key).await.map(|entry| entry["state"].clone()) };
        eventually(LIMIT, observe, Some(Value::from(state))).await;
        self.server.document(key).await.expect("it was there a moment ago")
    }

    /// Envoy has refused nothing, by its own account and the server's.
    pub(crate) async fn nothing_was_refused(&self) {
        assert_eq!(
            self.envoy.rejections().await,
            0,
            "Envoy counts rejected updates:\n{}",
            self.envoy.log()
        );
        assert!(
            self.server.metric_sum("chancery_nacks_total").await.abs() < 0.5,
            "the server counts NACKs"
        );
    }
}

/// A listeners document for this address.
pub(crate) fn listener(address: SocketAddr) -> String {
    format!(r#"{{ "address": "{address}" }}"#)
}

/// A request: `"GET /path"`, `"POST api.example.com/path"`.
#[derive(Clone)]
pub(crate) struct Ask {
    method: String,
    host: String,
    path: String,
    headers: Vec<(&'static str, String)>,
}

impl Ask {
    /// The same with one more header.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl From<&str> for Ask {
    fn from(text: &str) -> Self {
        let (method, target) = text.split_once(' ').expect("METHOD [HOST]/PATH");
        let (host, path) = target.split_at(target.find('/').expect("a path"));
        let host = if host.is_empty() { "any.example.com" } else { host };
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}{} {:?}",
            self.method, self.host, self.path, self.headers
        )
    }
}

/// An answer; without one at all, status 0 and the reason as `body`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The upstream that answered; empty: Envoy itself.
    pub(crate) upstream: String,
    pub(crate) headers: HeaderMap,
    /// The request as the upstream received it (see `support::upstream`), or text.
    pub(crate) body: Value,
}

/// Ask any listener.
pub(crate) async fn ask(http: &reqwest::Client, address: SocketAddr, request: &Ask) -> Answer {
    let method = request.method.parse().expect("a method");
    let mut builder = http
        .request(method, format!("http://{address}{}", request.path))
        .header("host", &request.host);
    for (name, value) in &request.headers {
        builder = builder.header(*name, value);
    }
    let response = match builder.send().await {
        Ok(response) => response,
        Err(error) => {
            return Answer {
                status: 0,
                upstream: String::new(),
                headers: HeaderMap::new(),
                body: Value::String(error.to_string()),
            };
        }
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let upstream = headers
        .get("x-upstream")
        .and_then(|name| name.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let text = response.text().await.unwrap_or_default();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        upstream,
        headers,
        body,
    }
}

/// A client that follows no redirects.
pub(crate) fn http_client() -> reqwest::Client {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    builder.timeout(LIMIT).build().expect("a client")
}
