//! A server as a process: start, CPU time, memory, end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

/// Clock ticks a second of `/proc/PID/stat`: 100 on every Linux that counts.
const TICKS: f64 = 100.0;
/// KiB a page.
const PAGE: f64 = 4.0;

/// A process that is killed when it is dropped.
pub struct Process {
    child: Child,
    log: tempfile::NamedTempFile,
    name: String,
}

impl Process {
    /// Start a command with its output in a file.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let output = log.as_file().try_clone()?;
        let errors = log.as_file().try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            child,
            log,
            name: name.to_owned(),
        })
    }

    /// The texts after `marks`, each up to a blank, in the first line with all marks. So servers announce their ports.
    ///
    /// # Errors
    /// The process ended, or there was no such line within the limit.
    pub async fn announced(&mut self, marks: &[&str], limit: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + limit;
        loop {
            let file = File::open(self.log.path())?;
            for line in BufReader::new(file).lines() {
                let line = line?;
                let found: Vec<String> = marks.iter().filter_map(|mark| after(&line, mark)).collect();
                if found.len() == marks.len() {
                    return Ok(found);
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log());
            }
            ensure!(
                Instant::now() < deadline,
                "{} says nothing of {marks:?}:\n{}",
                self.name,
                self.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The output of the process.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// User and system time so far, seconds.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("the process is gone")?;
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .context("a stat line")?
            .1
            .split_whitespace()
            .collect();
        let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("a stat field")?.parse::<f64>()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// The process has ended.
    pub fn rss(&self) -> Result<f64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).context("the process is gone")?;
        Ok(statm
            .split_whitespace()
            .nth(1)
            .context("a statm field")?
            .parse::<f64>()?
            * PAGE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn after(line: &str, mark: &str) -> Option<String> {
    let rest = &line[line.find(mark)? + mark.len()..];
    let value = rest.trim_start_matches('"').split([' ', '"', ',']).next()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// An address that was announced.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("the address {text:?}"))
}

/// A program that the bench needs.
///
/// # Errors
/// How to get it.
pub fn program(path: &Path, how: &str) -> Result<()> {
    ensure!(path.exists(), "{} is missing: {how}", path.display());
    Ok(())
}
