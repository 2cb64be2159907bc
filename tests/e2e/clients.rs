//! The four clients of the table of scenarios: Envoy in both variants, grpcio and grpc-js-xds.
//!
//! All clients call the same methods of `echo.Echo`. A proxyless client is a program in `tests/e2e/grpc/` that resolves
//! `xds:///echo`; Envoy is called through its listener `echo`. From the first answered call until it is dropped, each
//! client makes one call every [`DISTANCE`].

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::calls::{Answer, Calls};
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::raw_codec::Raw;
use crate::support::tools;

/// The method of the constant calls.
pub(crate) const SAY: &str = "/echo.Echo/Say";
/// From one of them to the next.
const DISTANCE: Duration = Duration::from_millis(20);
/// The listener's name, which gRPC clients resolve.
pub(crate) const LISTENER: &str = "echo";
/// Until the first call is answered: the client's start, on a machine that is busy.
const FIRST_LIMIT: Duration = Duration::from_secs(40);
/// Time after which an unanswered call must have ended: the clients' own deadline and some seconds.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EnvoyDelta,
    EnvoySotw,
    Grpcio,
    GrpcJs,
}

/// A document that this server accepts and one kind of client refuses, and the document that repairs it.
pub(crate) struct Refusable {
    pub(crate) key: String,
    pub(crate) refused: String,
    pub(crate) mended: String,
    /// The type whose response is refused, in the words of the admin API.
    pub(crate) resource_type: &'static str,
    /// A part of the message in the NACK.
    pub(crate) says: &'static str,
}

/// A client of the management server that makes calls all the time.
#[async_trait]
pub(crate) trait Client: Send + Sync {
    /// Its `node.id`.
    fn node(&self) -> &str;
    /// The constant calls of [`SAY`].
    fn calls(&self) -> &Calls;
    /// One call.
    async fn call(&self, method: &str, headers: &[(&'static str, &'static str)]) -> Answer;
}

impl Kind {
    pub(crate) fn is_envoy(self) -> bool {
        matches!(self, Self::EnvoyDelta | Self::EnvoySotw)
    }

    /// The text of `listeners/echo`.
    pub(crate) fn listener(self, address: SocketAddr) -> String {
        if self.is_envoy() {
            json!({ "address": address })
        } else {
            json!({ "api": true })
        }
        .to_string()
    }

    /// A document that this client refuses; `cluster` is the text of `clusters/blue`, `taken` an address in use.
    pub(crate) fn refusable(self, cluster: &Value, taken: SocketAddr) -> Refusable {
        if self.is_envoy() {
            return Refusable {
                key: "listeners/second".to_owned(),
                refused: json!({ "address": taken }).to_string(),
                mended: json!({ "address": own_address() }).to_string(),
                resource_type: "listeners",
                says: "cannot bind",
            };
        }
        let mut refused = cluster.clone();
        refused["lb"] = json!({ "policy": "least_request" });
        Refusable {
            key: "clusters/blue".to_owned(),
            refused: refused.to_string(),
            mended: cluster.to_string(),
            resource_type: "clusters",
            says: "policy",
        }
    }

    /// Start one that knows these servers (gRPC clients have one address, and know the first); `address` is Envoy's
    /// listener. It makes its calls once the first is answered.
    pub(crate) async fn start(self, servers: &[SocketAddr], address: SocketAddr) -> Box<dyn Client> {
        match self {
            Self::EnvoyDelta => Box::new(Proxied::start(Bootstrap::Delta, servers, address).await),
            Self::EnvoySotw => Box::new(Proxied::start(Bootstrap::Sotw, servers, address).await),
            Self::Grpcio | Self::GrpcJs => Box::new(Proxyless::start(self, servers[0]).await),
        }
    }
}

/// Envoy, and a caller on its other side.
struct Proxied {
    _envoy: Envoy,
    channel: Channel,
    calls: Calls,
    _caller: JoinSet<()>,
}

impl Proxied {
    async fn start(bootstrap: Bootstrap, servers: &[SocketAddr], address: SocketAddr) -> Self {
        let text = bootstrap.text(servers[0]);
        let line = text
            .lines()
            .find(|line| line.contains(&format!("port_value: {} ", servers[0].port())));
        let line = line.expect("the server's address has a line of its own");
        let also: String = servers[1..]
            .iter()
            .map(|server| {
                format!(
                    "\n{}",
                    line.replace(&servers[0].port().to_string(), &server.port().to_string())
                )
            })
            .collect();
        let envoy = Envoy::start_with(&text.replace(line, &format!("{line}{also}")), "edge-1").await;
        envoy.ready().await;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_lazy();
        let calls = Calls::new();
        eventually(
            FIRST_LIMIT,
            || async { call(channel.clone(), SAY, &[]).await.map(drop) },
            Ok(()),
        )
        .await;
        let mut caller = JoinSet::new();
        caller.spawn(call_constantly(channel.clone(), calls.clone()));
        Self {
            _envoy: envoy,
            channel,
            calls,
            _caller: caller,
        }
    }
}

#[async_trait]
impl Client for Proxied {
    fn node(&self) -> &str {
        "edge-1"
    }

    fn calls(&self) -> &Calls {
        &self.calls
    }

    async fn call(&self, method: &str, headers: &[(&'static str, &'static str)]) -> Answer {
        call(self.channel.clone(), method, headers).await
    }
}

async fn call_constantly(channel: Channel, calls: Calls) {
    let mut ticks = interval(DISTANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = JoinSet::new();
    loop {
        ticks.tick().await;
        let (channel, calls) = (channel.clone(), calls.clone());
        running.spawn(async move { calls.record(call(channel, SAY, &[]).await) });
        while running.try_join_next().is_some() {}
    }
}

async fn call(channel: Channel, method: &str, headers: &[(&'static str, &'static str)]) -> Answer {
    let mut request = tonic::Request::new(Bytes::new());
    for (name, value) in headers {
        request
            .metadata_mut()
            .insert(*name, value.parse().expect("a header's value"));
    }
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::try_from(method).expect("a method's path");
    match client.unary(request, path, Raw).await {
        Ok(answer) => Ok(String::from_utf8_lossy(answer.get_ref()).into_owned()),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// A program of `tests/e2e/grpc/`.
struct Proxyless {
    _child: Child,
    commands: mpsc::UnboundedSender<Value>,
    waiting: Arc<Waiting>,
    calls: Calls,
    next: AtomicU64,
    _pipes: JoinSet<()>,
    folder: TempDir,
}

/// Calls with a waiting receiver.
type Waiting = Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>;

impl Proxyless {
    async fn start(kind: Kind, server: SocketAddr) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("chancery-grpc-")
            .tempdir()
            .expect("make a folder");
        let bootstrap = folder.path().join("bootstrap.json");
        fs::write(&bootstrap, bootstrap_text(server)).expect("write the bootstrap");
        let log = fs::File::create(folder.path().join("stderr.log")).expect("make a log");
        let mut command = program(kind);
        command
            .arg(format!("xds:///{LISTENER}"))
            .env("GRPC_XDS_BOOTSTRAP", &bootstrap)
            .env_remove("GRPC_XDS_BOOTSTRAP_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {kind:?}: {error}"));
        let (calls, waiting) = (Calls::new(), Arc::<Waiting>::default());
        let (commands, queue) = mpsc::unbounded_channel();
        let mut pipes = JoinSet::new();
        pipes.spawn(write(child.stdin.take().expect("a pipe"), queue));
        pipes.spawn(read(
            child.stdout.take().expect("a pipe"),
            calls.clone(),
            Arc::clone(&waiting),
        ));
        let next = AtomicU64::new(0);
        let client = Self {
            _child: child,
            commands,
            waiting,
            calls,
            next,
            _pipes: pipes,
            folder,
        };
        eventually(FIRST_LIMIT, || async { client.call(SAY, &[]).await.map(drop) }, Ok(())).await;
        client.command(json!({ "every_ms": DISTANCE.as_millis(), "call": SAY }));
        client
    }

    fn command(&self, command: Value) {
        self.commands.send(command).expect("the program reads");
    }
}

#[async_trait]
impl Client for Proxyless {
    fn node(&self) -> &str {
        "grpc-1"
    }

    fn calls(&self) -> &Calls {
        &self.calls
    }

    async fn call(&self, method: &str, headers: &[(&'static str, &'static str)]) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, sender);
        let headers: BTreeMap<&str, &str> = headers.iter().copied().collect();
        self.command(json!({ "call": method, "headers": headers, "id": id }));
        timeout(CALL_LIMIT, answer)
            .await
            .expect("a call ends")
            .expect("the program runs")
    }
}

impl Drop for Proxyless {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("stderr.log")).unwrap_or_default();
            println!("the gRPC client said:\n{log}");
        }
    }
}

/// `envoy-config/grpc-bootstrap.json` with the server's address filled in.
fn bootstrap_text(server: SocketAddr) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config/grpc-bootstrap.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    assert!(text.contains("127.0.0.1:18000"), "{text}");
    text.replace("127.0.0.1:18000", &server.to_string())
}

fn program(kind: Kind) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (program, script) = match kind {
        Kind::Grpcio => (root.join(".tools/venv/bin/python"), "client.py"),
        _ => (tools::binary("node"), "client.js"),
    };
    let modules = root.join(".tools/grpc-js/node_modules");
    assert!(
        program.exists() && modules.is_dir(),
        "the gRPC clients are missing: run `make tools`"
    );
    let mut command = Command::new(program);
    command
        .env("NODE_PATH", modules)
        .arg(root.join("tests/e2e/grpc").join(script));
    command
}

async fn write(mut pipe: ChildStdin, mut commands: mpsc::UnboundedReceiver<Value>) {
    while let Some(command) = commands.recv().await {
        if pipe.write_all(format!("{command}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(pipe: ChildStdout, calls: Calls, waiting: Arc<Waiting>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let report: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
        let answer = if report["ok"] == true {
            Ok(text("by"))
        } else {
            Err(text("why"))
        };
        match report["id"].as_u64() {
            None => calls.record(answer),
            Some(id) => {
                if let Some(sender) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    // The receiver may be dropped.
                    drop(sender.send(answer));
                }
            }
        }
    }
}
