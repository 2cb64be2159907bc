//! A real etcd of its own for each test: free ports, an own data directory, gone when dropped.
//!
//! ```ignore
//! let etcd = Etcd::start().await;
//! etcd.client().await.put("/gateway/routes/a", value, None).await?;
//! etcd.stop();  etcd.cont();  etcd.kill();  etcd.restart().await;
//! ```
//! The process is killed when the value is dropped, also when the test panics; its log is then printed. Everything but
//! `wipe` keeps the data and the ports.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::tools;

/// How long an etcd may need until it answers; a start is an election (0.5 s) and little else.
const START_LIMIT: Duration = Duration::from_secs(20);

/// One etcd process with one member.
pub struct Etcd {
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    extra: Vec<String>,
    child: Mutex<Option<Child>>,
    root: Mutex<Option<String>>,
}

/// The arguments of etcd for the URLs at which it listens, and which it tells others.
pub fn url_arguments<'a>(client_url: &'a str, peer_url: &'a str) -> [&'a str; 8] {
    [
        "--listen-client-urls",
        client_url,
        "--advertise-client-urls",
        client_url,
        "--listen-peer-urls",
        peer_url,
        "--initial-advertise-peer-urls",
        peer_url,
    ]
}

impl Etcd {
    /// Start one and wait until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Start an etcd with further arguments, in which `CLIENT_URL` stands for [`Self::endpoint`].
    pub async fn start_with(arguments: &[&str]) -> Self {
        let extra: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        // Another test may bind the port between our choice and etcd's start. Then another port is chosen.
        for _ in 0..5 {
            let (client_port, peer_port) = free_ports();
            let etcd = Self {
                folder: data_folder(),
                client_port,
                peer_port,
                extra: extra.clone(),
                child: Mutex::new(None),
                root: Mutex::new(None),
            };
            etcd.spawn();
            if etcd.answers().await {
                return etcd;
            }
            let log = etcd.log();
            assert!(log.contains("address already in use"), "etcd does not start:\n{log}");
        }
        panic!("no free ports for etcd");
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// A plain client (as root where [`Self::enable_auth`] was called).
    pub async fn client(&self) -> Client {
        let root = locked(&self.root).clone();
        let options = root.map(|password| ConnectOptions::new().with_user("root", password));
        Client::connect([self.endpoint()], options)
            .await
            .expect("connect to etcd")
    }

    /// Freeze the process: its sockets stay open and silent.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Thaw it.
    pub fn cont(&self) {
        self.signal("-CONT");
    }

    /// Kill the process; the data stays.
    pub fn kill(&self) {
        if let Some(mut child) = locked(&self.child).take() {
            child.kill().expect("kill etcd");
            child.wait().expect("wait for etcd");
        }
    }

    /// Kill the process if it runs, start it again on the same data and ports, and wait until it answers.
    pub async fn restart(&self) {
        self.kill();
        self.spawn();
        assert!(self.answers().await, "etcd does not start again:\n{}", self.log());
    }

    /// Kill the process and delete its data: a [`Self::restart`] begins at revision 1.
    pub fn wipe(&self) {
        self.kill();
        fs::remove_dir_all(self.data()).expect("remove the data directory");
    }

    /// Compact the history up to `revision`.
    pub async fn compact(&self, revision: i64) {
        self.client().await.compact(revision, None).await.expect("compact");
    }

    /// Run `etcdctl` against this etcd. Returns the output.
    ///
    /// # Panics
    /// If the command fails, with its output.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = self.try_etcdctl(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed
    }

    /// Turn authentication on with a root user of this password, which [`Self::client`] and [`Self::etcdctl`] use from
    /// now on.
    pub fn enable_auth(&self, root_password: &str) {
        self.etcdctl(&["user", "add", &format!("root:{root_password}")]);
        self.etcdctl(&["user", "grant-role", "root", "root"]);
        self.etcdctl(&["auth", "enable"]);
        *locked(&self.root) = Some(root_password.to_owned());
    }

    /// Add a user that may read and write below these prefixes.
    pub fn add_user(&self, name: &str, password: &str, prefixes: &[&str]) {
        self.etcdctl(&["user", "add", &format!("{name}:{password}")]);
        self.etcdctl(&["role", "add", name]);
        for prefix in prefixes {
            self.etcdctl(&["role", "grant-permission", name, "--prefix=true", "readwrite", prefix]);
        }
        self.etcdctl(&["user", "grant-role", name, name]);
    }

    /// The log of the process.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn try_etcdctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(tools::binary("etcdctl"));
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint());
        if let Some(password) = locked(&self.root).as_ref() {
            command.arg("--user").arg(format!("root:{password}"));
        }
        command.args(arguments).output().expect("run etcdctl")
    }

    fn spawn(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open the log");
        let client_url = self.endpoint();
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new(tools::binary("etcd"))
            .args([
                "--name",
                "test",
                "--log-level",
                "warn",
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
            ])
            .arg("--data-dir")
            .arg(self.data())
            .args(url_arguments(&client_url, &peer_url))
            .args(["--initial-cluster", &format!("test={peer_url}")])
            .args(
                self.extra
                    .iter()
                    .map(|argument| argument.replace("CLIENT_URL", &client_url)),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start etcd");
        *locked(&self.child) = Some(child);
    }

    /// True if etcd answers a linearizable read (or rejects it without a password) within the limit and before its end.
    async fn answers(&self) -> bool {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline && self.is_running() {
            let options = ConnectOptions::new().with_timeout(Duration::from_secs(1));
            if let Ok(mut client) = Client::connect([self.endpoint()], Some(options)).await {
                match client.get("/", None).await {
                    Ok(_) => return true,
                    Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("user name is empty") => {
                        return true;
                    }
                    Err(_) => {}
                }
            }
            sleep(Duration::from_millis(25)).await;
        }
        false
    }

    fn is_running(&self) -> bool {
        locked(&self.child)
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn signal(&self, signal: &str) {
        let id = locked(&self.child).as_ref().expect("etcd runs").id();
        let status = Command::new("kill")
            .arg(signal)
            .arg(id.to_string())
            .status()
            .expect("run kill");
        assert!(status.success(), "kill {signal} {id}: {status}");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("etcd.log")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("etcd on port {} logged:\n{}", self.client_port, self.log());
        }
        if let Some(mut child) = locked(&self.child).take() {
            // The process may have ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A mutex of a test that panicked is as good as any other.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// In memory where the system has such a folder: etcd and servers sync every write, which would measure the disk.
pub fn data_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("chancery-test-");
    let folder = if memory.is_dir() {
        builder.tempdir_in(memory)
    } else {
        builder.tempdir()
    };
    folder.expect("make a folder")
}

fn free_ports() -> (u16, u16) {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let (one, other) = (bind(), bind());
    let port = |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address").port();
    (port(&one), port(&other))
}
