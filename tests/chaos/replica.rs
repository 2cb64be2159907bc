//! One server with its links: to each member of etcd, and from the Envoys. It has a state directory on a disk of its own,
//! which can be full, and a wall clock of its own, which can jump.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::members::{MEMBERS, Members};
use crate::support::etcd::data_folder;
use crate::support::proxy::Proxy;
use crate::support::server::Server;

/// The disk of the state directory. Some dozen documents take little.
const DISK: &str = "size=2m";
/// From SIGTERM to the end; twice `--grace` and more.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One replica.
pub(crate) struct Replica {
    pub(crate) server: Server,
    /// To each member.
    pub(crate) links: Vec<Proxy>,
    /// From the Envoys.
    pub(crate) front: Proxy,
    disk: Disk,
    /// The file with its clock's offset; `None`: there is no compiler for the shim.
    clock: Option<PathBuf>,
}

/// A folder for state directories: a small file system of its own, or (without the right to mount one) any folder.
struct Disk {
    folder: TempDir,
    is_mounted: bool,
}

impl Replica {
    pub(crate) async fn start(members: &Members, shim: Option<&Path>) -> Self {
        let mut links = Vec::new();
        for member in 0..MEMBERS {
            links.push(Proxy::start(members.address(member)).await);
        }
        let endpoints: Vec<String> = links.iter().map(Proxy::endpoint).collect();

        let disk = Disk::new();
        let state = disk.state().display().to_string();
        let folder = data_folder();
        let mut environment = Vec::new();
        let clock = shim.map(|shim| {
            let file = folder.path().join("clock");
            fs::write(&file, 0_i64.to_ne_bytes()).expect("write the clock's offset");
            environment.push(("LD_PRELOAD", shim.display().to_string()));
            environment.push(("CHAOS_CLOCK", file.display().to_string()));
            file
        });
        let arguments = ["--etcd", &endpoints.join(","), "--state-dir", &state, "--grace", "3s"];
        let server = Server::start_with_environment(folder, &arguments, &environment).await;
        let front = Proxy::start(server.xds().to_string()).await;
        Self {
            server,
            links,
            front,
            disk,
            clock,
        }
    }

    /// Cut it off from every member, or connect it again.
    pub(crate) fn cut_from_store(&self, is_cut: bool) {
        for link in &self.links {
            if is_cut { link.cut() } else { link.mend() }
        }
    }

    /// Delay whatever goes to and comes from members.
    pub(crate) fn delay_store(&self, delay: Duration) {
        self.links.iter().for_each(|link| link.delay(delay));
    }

    /// Stop it as an operator does, and wait for its end.
    pub(crate) async fn stop(&mut self) {
        self.server.terminate();
        self.server.ended(STOP_LIMIT).await;
    }

    /// Forget its state: the next start finds an empty directory.
    pub(crate) fn wipe(&self) {
        self.replace_state(None);
    }

    /// A copy of its state directory.
    pub(crate) fn copy_state(&self) -> TempDir {
        let copy = data_folder();
        copy_files(&self.disk.state(), copy.path());
        copy
    }

    /// Put this state in place of its own, while it does not run.
    pub(crate) fn replace_state(&self, state: Option<&Path>) {
        let own = self.disk.state();
        if own.exists() {
            fs::remove_dir_all(&own).expect("remove the state directory");
        }
        if let Some(state) = state {
            fs::create_dir(&own).expect("make the state directory");
            copy_files(state, &own);
        }
    }

    /// Fill the disk of the state directory to the last byte. False if that disk is not its own.
    pub(crate) fn fill_disk(&self) -> bool {
        if self.disk.is_mounted {
            // Ends when nothing fits any more.
            drop(fs::write(self.disk.filler(), vec![0; 4 * 1024 * 1024]));
        }
        self.disk.is_mounted
    }

    pub(crate) fn empty_disk(&self) {
        if self.disk.is_mounted {
            fs::remove_file(self.disk.filler()).expect("remove the filler");
        }
    }

    /// Put its wall clock so many seconds off. False if it has the machine's.
    pub(crate) fn set_clock(&self, offset: i64) -> bool {
        if let Some(clock) = &self.clock {
            // The file is mapped: it must not be truncated.
            let mut file = fs::OpenOptions::new().write(true).open(clock).expect("open the offset");
            std::io::Write::write_all(&mut file, &offset.to_ne_bytes()).expect("write the offset");
        }
        self.clock.is_some()
    }

    /// Wait until it is ready, at most as long as `limit`.
    pub(crate) async fn is_ready_within(&self, limit: Duration) -> bool {
        let ready = async {
            while !matches!(self.server.try_get("/readyz").await, Ok((200, _))) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(limit, ready).await.is_ok()
    }
}

impl Disk {
    fn new() -> Self {
        let folder = data_folder();
        let mut mount = Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", DISK, "chaos"])
            .arg(folder.path())
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        Self { folder, is_mounted }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a server that runs still has files open here.
            drop(Command::new("umount").arg("--lazy").arg(self.folder.path()).status());
        }
    }
}

/// Compile the shim of the clock. `None`: there is no C compiler.
pub(crate) fn compile_clock(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/clock.c");
    let shim = folder.join("clock.so");
    let mut compiler = Command::new("cc");
    let compiled = compiler
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(source)
        .status();
    compiled.is_ok_and(|status| status.success()).then_some(shim)
}

/// The files of a folder that has no others.
fn copy_files(from: &Path, to: &Path) {
    let Ok(files) = fs::read_dir(from) else {
        return;
    };
    for file in files {
        let file = file.expect("list a folder");
        // A journal may have been folded away meanwhile.
        drop(fs::copy(file.path(), to.join(file.file_name())));
    }
}
