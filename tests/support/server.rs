//! `chancery serve` as a process of its own, on free ports, with an admin client.
//!
//! ```ignore
//! let mut server = Server::on_etcd(&etcd).await;
//! let snapshot = server.get("/api/v1/snapshot").await;
//! server.kill();  server.restart().await;  let status = server.stop(limit).await;
//! ```
//! A restart keeps the ports and the state directory.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::etcd::Etcd;
use super::eventually::eventually;
use super::process::Process;

/// From its start until it listens.
const START_LIMIT: Duration = Duration::from_secs(30);

/// One server process.
pub struct Server {
    process: Process,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    xds: SocketAddr,
    admin: SocketAddr,
    http: reqwest::Client,
    folder: TempDir,
}

impl Server {
    /// Start one on this etcd and wait until it listens (which is before it is ready).
    pub async fn on_etcd(etcd: &Etcd) -> Self {
        Self::start(&["--etcd", &etcd.endpoint()]).await
    }

    /// Start one with these arguments after `serve`; ports and the state directory are seen to.
    pub async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("chancery-server-")
            .tempdir()
            .expect("make a folder");
        Self::start_in(folder, arguments).await
    }

    /// Start one in this working directory.
    pub async fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_at(folder, arguments, &[], [127, 0, 0, 1].into()).await
    }

    /// Start one in this working directory with further variables in its environment.
    pub async fn start_with_environment(folder: TempDir, arguments: &[&str], environment: &[(&str, String)]) -> Self {
        Self::start_at(folder, arguments, environment, [127, 0, 0, 1].into()).await
    }

    /// Start one whose xDS port is open on all addresses of this machine.
    pub async fn start_on_all_addresses(folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_at(folder, arguments, &[], [0, 0, 0, 0].into()).await
    }

    async fn start_at(folder: TempDir, arguments: &[&str], environment: &[(&str, String)], xds: IpAddr) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = spawn(folder.path(), &arguments, &environment, SocketAddr::new(xds, 0), any);
        let (xds, admin) = listening(&mut process, 0).await;
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self {
            process,
            arguments,
            environment,
            xds,
            admin,
            http,
            folder,
        }
    }

    /// Where proxies connect.
    pub fn xds(&self) -> SocketAddr {
        self.xds
    }

    /// Where the admin API is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The log of the server, over all its starts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// True if the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The memory that it has now, in bytes.
    pub fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// The most memory since its start, or since [`Self::forget_peak`], in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Begin the measurement of [`Self::peak_memory`] anew.
    pub fn forget_peak(&self) {
        self.process.forget_peak();
    }

    /// A GET of the admin API: the status and the body, as JSON where it is JSON and else as a string.
    pub async fn try_get(&self, path: &str) -> Result<(u16, Value), reqwest::Error> {
        let response = self.http.get(self.url(path)).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A GET that must be answered with 200.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self
            .try_get(path)
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Write a document through the API; the status and the answer.
    pub async fn put(&self, path: &str, document: &str) -> (u16, Value) {
        let request = self.http.put(self.url(path)).body(document.to_owned());
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("PUT {path}: {error}"));
        let status = response.status().as_u16();
        let text = response.text().await.expect("the answer's text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// One document's entry of `/api/v1/documents`, by its key.
    pub async fn document(&self, key: &str) -> Option<Value> {
        let answer = self.get("/api/v1/documents").await;
        let documents = answer["documents"].as_array().expect("a list of documents");
        documents.iter().find(|document| document["key"] == key).cloned()
    }

    /// The version and count of every type in the group `default`.
    pub async fn versions(&self) -> Value {
        self.get("/api/v1/snapshot").await["groups"]["default"]["types"].take()
    }

    /// The value of a metric with these labels (`name{a="b"}`, as it is printed); `None` where it is not printed.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").await;
        let lines = text.as_str().expect("text").lines();
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .find(|(name, _)| *name == series)?
            .1
            .parse()
            .ok()
    }

    /// The sum of a metric over all its labels.
    pub async fn metric_sum(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let lines = text.as_str().expect("text").lines();
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        series
            .filter(|(series, _)| {
                *series == name || series.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            })
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// Wait until the server is ready.
    ///
    /// # Panics
    /// After 30 s, with the pending steps.
    pub async fn ready(&self) {
        let observe = || async {
            match self.try_get("/readyz").await {
                Ok((200, _)) => String::new(),
                Ok((status, body)) => format!("{status}: {body}"),
                Err(error) => error.to_string(),
            }
        };
        eventually(START_LIMIT, observe, String::new()).await;
    }

    /// Kill it (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freeze it: its sockets stay open and silent.
    pub fn freeze(&self) {
        self.process.signal("-STOP");
    }

    /// Thaw it.
    pub fn thaw(&self) {
        self.process.signal("-CONT");
    }

    /// Send SIGTERM.
    pub fn terminate(&self) {
        self.process.signal("-TERM");
    }

    /// Send SIGHUP.
    pub fn hang_up(&self) {
        self.process.signal("-HUP");
    }

    /// Wait for its end.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        self.process.ended(limit).await
    }

    /// Kill it if it runs and start it again: same arguments, same ports, same folder.
    pub async fn restart(&mut self) {
        self.kill();
        let earlier = self.log().len();
        self.process = spawn(
            self.folder.path(),
            &self.arguments,
            &self.environment,
            self.xds,
            self.admin,
        );
        listening(&mut self.process, earlier).await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }
}

/// Run `chancery` to its end: the exit code and all that it printed. For starts that must fail.
pub async fn run_to_end(folder: &Path, arguments: &[&str], limit: Duration) -> (Option<i32>, String) {
    let log = folder.join("run.log");
    let mut process = Process::spawn(
        "chancery",
        Command::new(binary()).args(arguments).current_dir(folder),
        &log,
    );
    let status = process.ended(limit).await;
    (status.code(), process.log())
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_chancery"))
}

fn spawn(
    folder: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    xds: SocketAddr,
    admin: SocketAddr,
) -> Process {
    let mut command = Command::new(binary());
    command.current_dir(folder).arg("serve").args([
        "--xds-listen",
        &xds.to_string(),
        "--admin-listen",
        &admin.to_string(),
    ]);
    if !arguments.iter().any(|argument| argument == "--log-format") {
        command.args(["--log-format", "json"]);
    }
    command.args(arguments).envs(environment.iter().cloned());
    Process::spawn("chancery", &mut command, &folder.join("chancery.log"))
}

/// The ports in the first start line of the log after byte `earlier`.
async fn listening(process: &mut Process, earlier: usize) -> (SocketAddr, SocketAddr) {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let log = process.log();
        if let Some(ports) = log[earlier..].lines().find_map(start_line) {
            return ports;
        }
        assert!(process.is_running(), "chancery has ended at once:\n{log}");
        assert!(
            Instant::now() < deadline,
            "chancery does not listen after {START_LIMIT:?}:\n{log}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

fn start_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return start_line_of_text(line);
    };
    (line["message"] == "listening").then_some(())?;
    let address = |field: &str| line[field].as_str()?.parse().ok();
    Some((address("xds")?, address("admin")?))
}

/// The same with `--log-format text`.
fn start_line_of_text(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let fields = line.split_once("listening ")?.1;
    let address = |field: &str| {
        let value = fields.split(' ').find_map(|word| word.strip_prefix(field))?;
        value.trim_matches('"').parse().ok()
    };
    Some((address("xds=")?, address("admin=")?))
}
