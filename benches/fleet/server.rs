//! The compared servers, each with its own start and its own way to receive a change.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client as Etcd, PutOptions, Txn, TxnOp};
use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::time::Instant;

use super::known::{FIRST_PORT, FIRST_TIMEOUT};
use super::process::{Process, address, program};
use super::wire::Variant;

/// Longest time from the start of a server until it serves.
const START: Duration = Duration::from_secs(120);
/// Operations in one etcd transaction: its own limit is 128.
const BATCH: usize = 100;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// This server, with a real etcd.
    Chancery,
    /// A bare tonic server which pushes the same bytes.
    Floor,
    /// go-control-plane's `SnapshotCache`.
    GoSnapshot,
    /// go-control-plane's `LinearCache` behind a `MuxCache`.
    GoLinear,
    /// java-control-plane's `SimpleCache`.
    Java,
}

impl Kind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chancery => "chancery",
            Self::Floor => "floor",
            Self::GoSnapshot => "go-snapshot",
            Self::GoLinear => "go-linear",
            Self::Java => "java",
        }
    }
}

/// The size of the world that the documents describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct World {
    /// Clusters with two or three endpoints each, and as many routes in one RouteConfiguration.
    pub clusters: usize,
    /// Routes; each has a host of its own when `hosts` is set, else all share one virtual host.
    pub routes: usize,
    /// True if each route has a host of its own.
    pub hosts: bool,
    /// Endpoints of each cluster; 0: two or three. A hundred make a ClusterLoadAssignment of 4 KB.
    pub endpoints: usize,
}

impl World {
    /// So many clusters and as many routes.
    pub fn of(clusters: usize) -> Self {
        Self {
            clusters,
            routes: clusters,
            hosts: false,
            endpoints: 0,
        }
    }

    fn documents(&self) -> Vec<(String, String)> {
        let clusters = (0..self.clusters).map(|number| {
            (
                format!("/gateway/clusters/{}", cluster(number)),
                self.cluster(number, None, None),
            )
        });
        let routes =
            (0..self.routes).map(|number| (format!("/gateway/routes/r-{number:06}"), self.route(number, None)));
        clusters.chain(routes).collect()
    }

    fn cluster(&self, number: usize, port: Option<u32>, timeout: Option<u32>) -> String {
        let (high, low) = (number / 250 % 250, number % 250);
        let count = if self.endpoints == 0 {
            2 + number % 2
        } else {
            self.endpoints
        };
        let endpoint = |index: usize| {
            let port = if index == 0 { port.unwrap_or(8080) } else { 8080 };
            format!(r#"{{"address":"10.{index}.{high}.{low}:{port}"}}"#)
        };
        let endpoints: Vec<String> = (0..count).map(endpoint).collect();
        let timeout = timeout.map_or_else(|| "2s".to_owned(), |timeout| format!("{timeout}ms"));
        format!(
            r#"{{"endpoints":[{}],"connect_timeout":"{timeout}"}}"#,
            endpoints.join(",")
        )
    }

    fn route(&self, number: usize, timeout: Option<u32>) -> String {
        let host = if self.hosts {
            format!("host-{number:06}.example.com")
        } else {
            String::new()
        };
        let timeout = timeout.map_or_else(|| "5s".to_owned(), |timeout| format!("{timeout}ms"));
        let cluster = cluster(number % self.clusters.max(1));
        format!(r#"{{"match":"{host}/service-{number}/*","to":"{cluster}","timeout":"{timeout}"}}"#)
    }
}

/// The name of a cluster.
pub fn cluster(number: usize) -> String {
    format!("c-{number:06}")
}

/// One change.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// The first port of a cluster's endpoints.
    Endpoint {
        /// The cluster.
        cluster: usize,
        /// The number of the update.
        update: u32,
    },
    /// A cluster's connect timeout.
    Cluster {
        /// The cluster.
        cluster: usize,
        /// The number of the update.
        update: u32,
    },
    /// A route's timeout.
    Route {
        /// The route.
        route: usize,
        /// The number of the update.
        update: u32,
    },
}

/// The way in which a server gets its changes.
enum Told {
    Etcd(Box<Etcd>),
    Http(reqwest::Client, SocketAddr),
}

/// A running server.
pub struct Server {
    /// Where clients connect.
    pub address: SocketAddr,
    process: Process,
    told: Told,
    world: World,
    /// Where its documents are.
    etcd: Option<String>,
    /// Dropped last.
    keep: Vec<Kept>,
}

#[expect(dead_code, reason = "kept until the server goes, never looked at")]
enum Kept {
    Process(Process),
    Folder(TempDir),
}

/// The arguments of a start besides the kind.
pub struct Start<'a> {
    /// The documents.
    pub world: World,
    /// The form, for servers that serve one at a time.
    pub variant: Variant,
    /// Recorded resources, for servers that do not read documents.
    pub resources: &'a Path,
}

impl Server {
    /// Start a server and wait until it serves.
    ///
    /// # Errors
    /// It does not start, or a program is missing.
    pub async fn start(kind: Kind, start: &Start<'_>) -> Result<Self> {
        match kind {
            Kind::Chancery => Self::chancery(start.world).await,
            _ => Self::recorded(kind, start).await,
        }
    }

    /// This server on an etcd that has the documents.
    async fn chancery(world: World) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleet-").tempdir()?;
        let (etcd, endpoint) = etcd(folder.path()).await?;
        let mut client = Etcd::connect([&endpoint], None).await?;
        load(&mut client, world.documents()).await?;
        let mut server = Self::on(&endpoint, world).await?;
        server.keep.push(Kept::Process(etcd));
        server.keep.push(Kept::Folder(folder));
        Ok(server)
    }

    /// This server on an etcd that runs.
    async fn on(endpoint: &str, world: World) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("fleet-state-").tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_chancery"));
        command.args(["serve", "--etcd", endpoint, "--log-format", "json"]);
        command.args(["--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--state-dir").arg(state.path());
        let mut process = Process::start("chancery", &mut command)?;
        let ports = process.announced(&[r#""xds":""#, r#""admin":""#], START).await?;
        ready(&ports[1]).await?;
        let told = Told::Etcd(Box::new(Etcd::connect([endpoint], None).await?));
        let keep = vec![Kept::Folder(state)];
        Ok(Self {
            address: address(&ports[0])?,
            process,
            told,
            world,
            etcd: Some(endpoint.to_owned()),
            keep,
        })
    }

    /// A second replica of this server on the same etcd.
    ///
    /// # Errors
    /// It does not start.
    pub async fn replica(&self) -> Result<Self> {
        Self::on(
            self.etcd.as_deref().context("only a server on etcd has replicas")?,
            self.world,
        )
        .await
    }

    /// A server that serves recorded resources and gets its changes over HTTP.
    async fn recorded(kind: Kind, start: &Start<'_>) -> Result<Self> {
        let mut command = command(kind)?;
        command
            .arg("--resources")
            .arg(start.resources)
            .args(["--variant", start.variant.as_str()]);
        let mut process = Process::start(kind.as_str(), &mut command)?;
        let ports = process.announced(&["xds=", "control="], START).await?;
        let told = Told::Http(reqwest::Client::builder().no_proxy().build()?, address(&ports[1])?);
        Ok(Self {
            address: address(&ports[0])?,
            process,
            told,
            world: start.world,
            etcd: None,
            keep: Vec::new(),
        })
    }

    /// Make a change; returns when it was handed over, with the moment before.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn change(&mut self, change: Change) -> Result<Instant> {
        let world = self.world;
        let at = Instant::now();
        match &mut self.told {
            Told::Etcd(client) => {
                let (key, value) = document(&world, change);
                client
                    .put(key, value, None::<PutOptions>)
                    .await
                    .context("put a document")?;
            }
            Told::Http(client, control) => {
                let (of_type, number, value) = match change {
                    Change::Endpoint { cluster, update } => ("endpoint", cluster, FIRST_PORT + update),
                    Change::Cluster { cluster, update } => ("cluster", cluster, FIRST_TIMEOUT + update),
                    Change::Route { .. } => anyhow::bail!("routes of recorded servers do not change"),
                };
                let url = format!("http://{control}/{of_type}/{}/{value}", cluster(number));
                let status = client.post(url).send().await?.status();
                ensure!(status.is_success(), "the server answered {status}");
            }
        }
        Ok(at)
    }

    /// Make many changes as fast as they are taken.
    ///
    /// # Errors
    /// One was not taken.
    pub async fn burst(&mut self, changes: &[Change]) -> Result<Vec<Instant>> {
        let world = self.world;
        match &self.told {
            Told::Etcd(client) => {
                let puts = changes.chunks(changes.len().div_ceil(8).max(1)).map(|changes| {
                    let mut client = client.clone();
                    async move {
                        let mut puts = Vec::with_capacity(changes.len());
                        for change in changes {
                            let (key, value) = document(&world, *change);
                            puts.push(Instant::now());
                            client.put(key, value, None::<PutOptions>).await?;
                        }
                        anyhow::Ok(puts)
                    }
                });
                Ok(try_join_all(puts).await?.concat())
            }
            Told::Http(..) => {
                let mut puts = Vec::with_capacity(changes.len());
                for change in changes {
                    puts.push(self.change(*change).await?);
                }
                Ok(puts)
            }
        }
    }

    /// User and system time so far, seconds.
    ///
    /// # Errors
    /// The server is gone.
    pub fn cpu(&self) -> Result<f64> {
        self.process.cpu()
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// The server is gone.
    pub fn rss(&self) -> Result<f64> {
        self.process.rss()
    }
}

fn document(world: &World, change: Change) -> (String, String) {
    match change {
        Change::Endpoint {
            cluster: number,
            update,
        } => (
            format!("/gateway/clusters/{}", cluster(number)),
            world.cluster(number, Some(FIRST_PORT + update), None),
        ),
        Change::Cluster {
            cluster: number,
            update,
        } => (
            format!("/gateway/clusters/{}", cluster(number)),
            world.cluster(number, None, Some(FIRST_TIMEOUT + update)),
        ),
        Change::Route { route, update } => (
            format!("/gateway/routes/r-{route:06}"),
            world.route(route, Some(FIRST_TIMEOUT + update)),
        ),
    }
}

/// The command of a server that is given recorded resources.
fn command(kind: Kind) -> Result<Command> {
    let peers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let run = "run `make bench-peers`";
    Ok(match kind {
        Kind::Chancery | Kind::Floor => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("floor");
            command
        }
        Kind::GoSnapshot | Kind::GoLinear => {
            let path = peers.join("go-control-plane/out/peer");
            program(&path, run)?;
            let mut command = Command::new(path);
            command.args(["--cache", if kind == Kind::GoLinear { "linear" } else { "snapshot" }]);
            command
        }
        Kind::Java => {
            let path = peers.join("java-control-plane/target/peer.jar");
            program(&path, run)?;
            let mut command = Command::new("java");
            command.arg("-jar").arg(path);
            command
        }
    })
}

/// A real etcd in a folder.
async fn etcd(folder: &Path) -> Result<(Process, String)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/etcd");
    program(&path, "run `make tools`")?;

    let (client, peer) = (free_port()?, free_port()?);
    let endpoint = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");

    let mut command = Command::new(path);
    command.arg("--data-dir").arg(folder.join("etcd")).args([
        "--name",
        "bench",
        "--log-level",
        "warn",
        "--unsafe-no-fsync",
    ]);
    command.args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("bench={peer}")]);

    let process = Process::start("etcd", &mut command)?;
    let deadline = Instant::now() + START;

    loop {
        if let Ok(mut client) = Etcd::connect([&endpoint], None).await
            && client.get("/", None).await.is_ok()
        {
            return Ok((process, endpoint));
        }
        ensure!(Instant::now() < deadline, "etcd does not answer:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn load(client: &mut Etcd, documents: Vec<(String, String)>) -> Result<()> {
    for batch in documents.chunks(BATCH) {
        let puts = batch
            .iter()
            .map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None))
            .collect::<Vec<_>>();
        client
            .txn(Txn::new().and_then(puts))
            .await
            .context("load documents into etcd")?;
    }
    Ok(())
}

async fn ready(admin: &str) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + START;
    loop {
        let answer = client.get(format!("http://{admin}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the server is not ready after {START:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Versions of the measured servers, for the report.
pub fn versions() -> HashMap<&'static str, String> {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned();
        Some(text)
    };
    let mut versions = HashMap::new();
    let etcd = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/etcd");
    for (name, program, arguments) in [
        ("rustc", "rustc", &["--version"][..]),
        ("etcd", etcd.to_str().unwrap_or("etcd"), &["--version"]),
        ("kernel", "uname", &["-r"]),
        ("commit", "git", &["rev-parse", "--short", "HEAD"]),
    ] {
        if let Some(version) = run(program, arguments) {
            versions.insert(name, version);
        }
    }
    versions
}
