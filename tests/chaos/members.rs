//! An etcd of three members, each a process that can be killed and frozen. The whole can be restored from a snapshot of
//! itself: then it has another history.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::etcd::{data_folder, url_arguments};
use crate::support::process::Process;
use crate::support::tools;

pub(crate) const MEMBERS: usize = 3;
/// From a start until a quorum answers: an election takes a second or two.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Three members.
pub(crate) struct Members {
    folder: TempDir,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    processes: Vec<Option<Process>>,
    /// Grows with each restore: another history is another cluster.
    history: u32,
}

impl Members {
    /// Start them, and wait until a quorum answers.
    pub(crate) async fn start() -> Self {
        let ports = free_ports(2 * MEMBERS);
        let (client_ports, peer_ports) = ports.split_at(MEMBERS);
        let mut members = Self {
            folder: data_folder(),
            client_ports: client_ports.to_vec(),
            peer_ports: peer_ports.to_vec(),
            processes: (0..MEMBERS).map(|_| None).collect(),
            history: 0,
        };
        members.start_all();
        members.answers().await;
        members
    }

    /// `127.0.0.1:PORT` of a member.
    pub(crate) fn address(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.client_ports[member])
    }

    /// `http://127.0.0.1:PORT` of each member.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (0..MEMBERS)
            .map(|member| format!("http://{}", self.address(member)))
            .collect()
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.processes[member] = None;
    }

    pub(crate) fn freeze(&self, member: usize) {
        self.process(member).signal("-STOP");
    }

    pub(crate) fn thaw(&self, member: usize) {
        self.process(member).signal("-CONT");
    }

    /// Start each member that does not run, on the data that it has.
    pub(crate) fn start_all(&mut self) {
        for member in 0..MEMBERS {
            if self.processes[member].is_none() {
                self.processes[member] = Some(self.spawn(member));
            }
        }
    }

    /// Wait until a quorum answers.
    ///
    /// # Panics
    /// After a minute.
    pub(crate) async fn answers(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let options = ConnectOptions::new().with_timeout(Duration::from_secs(1));
            if let Ok(mut client) = Client::connect(self.endpoints(), Some(options)).await
                && client.get("/", None).await.is_ok()
            {
                return;
            }
            assert!(Instant::now() < deadline, "etcd does not answer after {START_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Save a snapshot of the store in a file.
    pub(crate) fn save(&self) -> PathBuf {
        let file = self.folder.path().join(format!("snapshot-{}", self.history));
        let endpoint = format!("http://{}", self.address(0));
        self.etcdctl(&[
            "--endpoints",
            &endpoint,
            "snapshot",
            "save",
            &file.display().to_string(),
        ]);
        file
    }

    /// Kill all members and start them again on a snapshot: an older revision of the store, and another history.
    pub(crate) async fn restore(&mut self, file: &Path) {
        self.history += 1;
        let cluster = self.initial_cluster();
        for member in 0..MEMBERS {
            self.kill(member);
        }
        for member in 0..MEMBERS {
            self.etcdctl(&[
                "snapshot",
                "restore",
                &file.display().to_string(),
                "--name",
                &name(member),
                "--initial-cluster",
                &cluster,
                "--initial-cluster-token",
                &self.token(),
                "--initial-advertise-peer-urls",
                &self.peer_url(member),
                "--data-dir",
                &self.data(member).display().to_string(),
            ]);
        }
        self.start_all();
        self.answers().await;
    }

    fn process(&self, member: usize) -> &Process {
        self.processes[member].as_ref().expect("a member that runs")
    }

    fn spawn(&self, member: usize) -> Process {
        let client_url = format!("http://{}", self.address(member));
        let peer_url = self.peer_url(member);
        let mut command = Command::new(tools::binary("etcd"));
        command
            .args(["--name", &name(member), "--log-level", "warn"])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(["--max-txn-ops", "512"])
            .args(["--initial-cluster", &self.initial_cluster()])
            .args(["--initial-cluster-token", &self.token()])
            .args(["--initial-cluster-state", "new"])
            .args(url_arguments(&client_url, &peer_url))
            .arg("--data-dir")
            .arg(self.data(member));
        let log = self.folder.path().join(format!("{}.log", name(member)));
        Process::spawn(&format!("etcd-{}", name(member)), &mut command, &log)
    }

    fn etcdctl(&self, arguments: &[&str]) {
        let mut command = Command::new(tools::binary("etcdctl"));
        let output = command
            .env("ETCDCTL_API", "3")
            .args(arguments)
            .output()
            .expect("run etcdctl");
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn initial_cluster(&self) -> String {
        let members: Vec<String> = (0..MEMBERS)
            .map(|member| format!("{}={}", name(member), self.peer_url(member)))
            .collect();
        members.join(",")
    }

    fn token(&self) -> String {
        format!("chaos-{}-{}", std::process::id(), self.history)
    }

    fn peer_url(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", self.peer_ports[member])
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("{}-{}", name(member), self.history))
    }
}

fn name(member: usize) -> String {
    format!("m{member}")
}

/// Ports below the range from which outgoing connections take theirs, so that a member that is down finds its own again.
fn free_ports(count: usize) -> Vec<u16> {
    let begin = 12_000 + u16::try_from(std::process::id() % 15_000).expect("below 15,000");
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports: Vec<u16> = (begin..30_000).filter(free).take(count).collect();
    assert_eq!(ports.len(), count, "free ports from {begin}");
    ports
}
