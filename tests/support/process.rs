//! A child process with a log file. The process is killed when the value is dropped; if the test fails, the log is
//! kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Lines of the log that a failing test prints; the whole is kept in a file.
const PRINTED_LINES: usize = 40;

/// A running (or ended) process.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Start `command`; its output is appended to the file `log`.
    ///
    /// # Panics
    /// If the command cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("share the log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        }
    }

    /// True if the process has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Send a signal by its name: `-TERM`, `-STOP`.
    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").arg(signal).arg(&id).status().expect("run kill");
        assert!(status.success(), "kill {signal} {id}: {status}");
    }

    /// Its resident memory, in bytes.
    ///
    /// # Panics
    /// When it has ended.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since its start, or since [`Self::forget_peak`], in bytes.
    ///
    /// # Panics
    /// When it has ended.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Begin the measurement of [`Self::peak_memory`] anew.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("reset the peak of its memory");
    }

    /// A size of `/proc/PID/status`, in bytes.
    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("read its status");
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("a process that runs");
        let kilobytes = size.trim().trim_end_matches("kB").trim();
        kilobytes.parse::<u64>().expect("a number") * 1024
    }

    /// Kill it and wait for its end.
    pub fn kill(&mut self) {
        // The process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Wait for its end.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("ask for the exit status") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} has not ended within {limit:?}",
                self.name
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The output of the process.
    pub fn log(&self) -> String {
        // Envoy logs the bytes of resources.
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Move the log out of the test's folder, which is deleted, and print its path.
    fn keep_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(PRINTED_LINES)..].join("\n");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("logs");
        let kept = folder.join(format!("{}-{}.log", self.name, self.child.id()));
        match fs::create_dir_all(&folder).and_then(|()| fs::write(&kept, &log)) {
            Ok(()) => eprintln!("{} logged ({}):\n{tail}", self.name, kept.display()),
            Err(error) => eprintln!("{} logged (not kept: {error}):\n{tail}", self.name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.keep_log();
        }
    }
}
