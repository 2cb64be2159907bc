//! A real Envoy, started from a bootstrap of `envoy-config/` with ports of its own.
//!
//! ```ignore
//! let envoy = Envoy::start(Bootstrap::Delta, server.xds(), "edge-1").await;
//! envoy.ready().await;
//! assert_eq!(envoy.stat("cluster_manager.cds.update_rejected").await, 0);
//! ```
//! Its listeners come from documents, so they need addresses that no other test uses: [`own_address`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::eventually::eventually;
use super::process::Process;
use super::tools;

/// From its start until the admin port answers (it is there before anything was fetched).
const START_LIMIT: Duration = Duration::from_secs(20);
/// Until it has its first configuration.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Which of the bootstraps in `envoy-config/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// `ads-delta.yaml`.
    Delta,
    /// `ads-sotw.yaml`.
    Sotw,
    /// `sidecar.yaml`.
    Sidecar,
    /// `mtls.yaml`.
    Mtls,
}

/// One Envoy process.
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    http: reqwest::Client,
    folder: TempDir,
}

impl Envoy {
    /// Start an Envoy with the node id `node`, connected to the server at `xds`.
    pub async fn start(bootstrap: Bootstrap, xds: SocketAddr, node: &str) -> Self {
        Self::start_with(&bootstrap.text(xds), node).await
    }

    /// Start one from the text of a bootstrap; its admin port is replaced by a free one.
    pub async fn start_with(bootstrap: &str, node: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("chancery-envoy-")
            .tempdir()
            .expect("make a folder for Envoy");
        let config = folder.path().join("envoy.yaml");
        let admin_path = folder.path().join("admin.txt");
        fs::write(&config, bootstrap.replace("port_value: 9901", "port_value: 0")).expect("write the bootstrap");
        let mut command = Command::new(tools::binary("envoy"));
        command
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_path)
            .args(["--service-node", node])
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "2",
                "--log-level",
                "info",
                "--drain-time-s",
                "5",
            ]);
        let mut process = Process::spawn(&format!("envoy-{node}"), &mut command, &folder.path().join("envoy.log"));
        let admin = admin_address(&mut process, &admin_path).await;
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self {
            process,
            admin,
            http,
            folder,
        }
    }

    /// Wait until it has its configuration.
    ///
    /// # Panics
    /// After 20 s.
    pub async fn ready(&self) {
        eventually(
            READY_LIMIT,
            || async { self.admin("/ready").await.trim().to_owned() },
            "LIVE".to_owned(),
        )
        .await;
    }

    /// The answer of its admin interface to a GET.
    pub async fn admin(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.admin);
        let response = self
            .http
            .get(&url)
            .send()
            .await
            .unwrap_or_else(|error| panic!("GET {url}: {error}"));
        response.text().await.expect("text from Envoy's admin interface")
    }

    /// The `configs` of `/config_dump`, `resource` being one of its lists such as `dynamic_route_configs`.
    pub async fn config_dump(&self, resource: &str) -> Vec<Value> {
        let dump: Value = parsed(&self.admin(&format!("/config_dump?resource={resource}")).await);
        dump["configs"].as_array().cloned().unwrap_or_default()
    }

    /// The addresses of a cluster's hosts, sorted; `None`: there is no such cluster.
    pub async fn hosts(&self, cluster: &str) -> Option<Vec<String>> {
        let clusters: Value = parsed(&self.admin("/clusters?format=json").await);
        let statuses = clusters["cluster_statuses"].as_array()?;
        let status = statuses.iter().find(|status| status["name"] == cluster)?;
        let hosts = status["host_statuses"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let address = |host: &Value| {
            let address = &host["address"]["socket_address"];
            format!(
                "{}:{}",
                address["address"].as_str().unwrap_or_default(),
                address["port_value"]
            )
        };
        let mut hosts: Vec<String> = hosts.iter().map(address).collect();
        hosts.sort();
        Some(hosts)
    }

    /// A counter or gauge; 0 when there is none of this name yet.
    pub async fn stat(&self, name: &str) -> u64 {
        self.stats(&format!("^{}$", name.replace('.', "\\.")))
            .await
            .first()
            .map_or(0, |(_, value)| *value)
    }

    /// The counters and gauges whose names match a regex.
    pub async fn stats(&self, regex: &str) -> Vec<(String, u64)> {
        let stats = self.admin(&format!("/stats?filter={regex}")).await;
        stats
            .lines()
            .filter_map(|line| line.rsplit_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// The sum of all `update_rejected` counters: the number of NACKs.
    pub async fn rejections(&self) -> u64 {
        self.stats("update_rejected$")
            .await
            .iter()
            .map(|(_, value)| value)
            .sum()
    }

    /// The log of the process.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Bootstrap {
    /// The file's text with the server's address filled in.
    pub fn text(self, xds: SocketAddr) -> String {
        let name = match self {
            Self::Delta => "ads-delta.yaml",
            Self::Sotw => "ads-sotw.yaml",
            Self::Sidecar => "sidecar.yaml",
            Self::Mtls => "mtls.yaml",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let port = format!("port_value: {}", xds.port());
        text.replace("port_value: 18000", &port)
    }
}

/// An address for a listener of Envoy that no other test, in this process or another, binds: the port is fixed, the
/// loopback network has 2^24 addresses.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = u16::try_from(std::process::id() % (1 << 16))
        .expect("below 2^16")
        .to_be_bytes();
    // Network 127.0 is where everything else on this machine listens.
    let network = if high == 0 { 255 } else { high };
    SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(127, network, low, NEXT.fetch_add(1, Ordering::Relaxed))),
        10_000,
    )
}

async fn admin_address(process: &mut Process, path: &Path) -> SocketAddr {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(address) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()) {
            return address;
        }
        assert!(process.is_running(), "Envoy has ended at once:\n{}", process.log());
        assert!(
            Instant::now() < deadline,
            "Envoy has no admin port after {START_LIMIT:?}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("JSON from Envoy: {error}: {text}"))
}
