//! A fleet of Envoys against any ADS server: `cargo bench --bench fleet -- --help`. See `benches/README.md`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
#![allow(unreachable_pub, reason = "one binary in several files")]
#![expect(clippy::large_futures, reason = "a few futures, each for the length of a run")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tempfile::TempDir;

mod catalogue;
mod cells;
mod client;
mod floor;
mod known;
mod load;
mod owed;
mod process;
#[path = "../../tests/support/raw_codec.rs"]
mod raw_codec;
mod report;
mod scenario;
mod server;
mod wire;

use scenario::{Cell, Row};
use server::{Kind, World};
use wire::Variant;

#[derive(Parser)]
#[command(about = "A fleet of Envoys against any ADS server, and the scenarios it is measured with")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios and append the figures to a file.
    Run {
        /// Their names; none: those that need no peers.
        scenarios: Vec<String>,
        /// Interleaved rounds.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only these servers.
        #[arg(long, value_delimiter = ',')]
        servers: Vec<Kind>,
        /// Divide the number of clients by this.
        #[arg(long, default_value_t = 1)]
        shrink: usize,
        /// Only cells whose label has this in it: `small, whole set`.
        #[arg(long, default_value = "")]
        only: String,
        /// So many changes instead of the cell's own number: CPU time is counted in hundredths of a second.
        #[arg(long)]
        updates: Option<u32>,
        /// One JSON object a line.
        #[arg(long, default_value = "target/fleet/results.jsonl")]
        results: PathBuf,
    },
    /// Connect clients to an address, wait until each has everything, and print the time.
    Connect {
        /// The ADS server.
        address: std::net::SocketAddr,
        /// The form.
        #[arg(long, default_value = "delta")]
        variant: Variant,
        /// How many clients.
        #[arg(long, default_value_t = 100)]
        clients: usize,
        /// A command that makes a change; the time until every client got a response after it is measured.
        #[arg(long)]
        hook: Option<String>,
        /// Nodes as large as a real Envoy's.
        #[arg(long)]
        envoy_node: bool,
    },
    /// Write tables and plots from results.
    Report {
        /// Where results are.
        #[arg(long, default_value = "target/fleet/results.jsonl")]
        results: PathBuf,
        /// The folder of the page and its plots.
        #[arg(long, default_value = "docs")]
        out: PathBuf,
    },
    /// Compare the small scenarios with the stored baseline of ratios; fails on a regression.
    Check {
        /// The stored ratios.
        #[arg(long, default_value = "benches/baseline.json")]
        baseline: PathBuf,
        /// Store the measured ratios instead.
        #[arg(long)]
        update: bool,
    },
    /// Be the floor: a bare server that pushes recorded bytes.
    Floor {
        /// Recorded resources.
        #[arg(long)]
        resources: PathBuf,
        /// The form.
        #[arg(long)]
        variant: Variant,
    },
}

/// Print a line at once, although standard output is a file.
fn say(line: &str) {
    use std::io::Write;
    println!("{line}");
    if let Err(error) = std::io::stdout().flush() {
        eprintln!("standard output: {error}");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        None => check(Path::new("benches/baseline.json"), false).await,
        Some(Command::Run {
            scenarios,
            rounds,
            servers,
            shrink,
            only,
            updates,
            results,
        }) => {
            let mut cells = catalogue::cells(&scenarios, shrink)?;
            cells.retain(|cell| cell.label.contains(&only));
            if let Some(updates) = updates {
                cells
                    .iter_mut()
                    .filter(|cell| cell.updates > 0)
                    .for_each(|cell| cell.updates = updates);
            }
            run(&cells, rounds, &servers, |row| report::append(&results, row)).await?;
            Ok(())
        }
        Some(Command::Connect {
            address,
            variant,
            clients,
            hook,
            envoy_node,
        }) => connect(address, variant, clients, hook, envoy_node).await,
        Some(Command::Report { results, out }) => report::write(&results, &out),
        Some(Command::Check { baseline, update }) => check(&baseline, update).await,
        Some(Command::Floor { resources, variant }) => floor::serve(variant, &resources).await,
    }
}

/// Recorded resources, a file a world.
struct Records {
    folder: TempDir,
    files: HashMap<World, PathBuf>,
}

impl Records {
    async fn of(&mut self, world: World) -> Result<PathBuf> {
        if let Some(path) = self.files.get(&world) {
            return Ok(path.clone());
        }
        let path = self.folder.path().join(format!("{}.bin", self.files.len()));
        scenario::record(world, &path)
            .await
            .context("record what this server serves")?;
        self.files.insert(world, path.clone());
        Ok(path)
    }
}

/// Run every cell on every server, in rounds, so that other load of the machine affects all servers alike. `tell` gets
/// each row at once, because a run takes hours.
async fn run(
    cells: &[Cell],
    rounds: usize,
    servers: &[Kind],
    mut tell: impl FnMut(&Row) -> Result<()>,
) -> Result<Vec<Row>> {
    let mut records = Records {
        folder: tempfile::Builder::new().prefix("fleet-").tempdir()?,
        files: HashMap::new(),
    };

    let mut rows = Vec::new();
    for cell in cells {
        for round in 0..rounds {
            for kind in cell
                .servers
                .iter()
                .filter(|kind| servers.is_empty() || servers.contains(kind))
            {
                let row = match cell.id {
                    "B4" => scenario::reconnect(cell).await,
                    "B10" => scenario::churn(cell, catalogue::CHURNED).await,
                    _ => {
                        let resources = if *kind == Kind::Chancery {
                            PathBuf::new()
                        } else {
                            records.of(cell.world).await?
                        };
                        cell.run(*kind, &resources).await
                    }
                };

                let row = row.with_context(|| format!("{} {} on {}", cell.id, cell.label, kind.as_str()))?;
                say(&report::line(round, &row));
                tell(&row)?;
                rows.push(row);
            }
        }
    }

    Ok(rows)
}

/// Small B1, B2 and B9 against the floor, as ratios, beside the stored ones.
async fn check(baseline: &Path, update: bool) -> Result<()> {
    let rows = run(&catalogue::small(), 3, &[], |_| Ok(())).await?;
    let measured = report::ratios(&rows);
    if update {
        return report::store(baseline, &measured);
    }
    let regressions = report::compare(&report::stored(baseline)?, &measured);
    regressions.iter().for_each(|regression| say(regression));
    if regressions.is_empty() {
        say("no regression against the stored ratios");
        return Ok(());
    }
    bail!("{} of {} ratios regressed", regressions.len(), measured.len())
}

/// Connect clients to a given address.
async fn connect(
    address: std::net::SocketAddr,
    variant: Variant,
    clients: usize,
    hook: Option<String>,
    envoy_node: bool,
) -> Result<()> {
    use std::sync::atomic::Ordering;
    let plan = load::Plan {
        address,
        variant,
        clients,
        refusing: 0,
        stalling: 0,
        asks: load::AsksFor::All,
        keep_versions: false,
        envoy_node,
    };

    let mut load = load::Load::start(plan.clone(), None, Duration::from_secs(120)).await?;
    say(&format!("{clients} clients have everything after {:?}", load.cold));

    if let Some(hook) = hook {
        let count =
            |shared: &client::Shared| -> u64 { shared.responses.iter().map(|one| one.load(Ordering::Relaxed)).sum() };
        let before = count(&load.shared);
        let at = tokio::time::Instant::now();
        let status = tokio::process::Command::new("sh")
            .args(["-c", &hook])
            .status()
            .await
            .context("run the hook")?;
        anyhow::ensure!(status.success(), "the hook ended with {status}");

        let wanted = before + clients as u64;
        load.wait(Duration::from_secs(60), "were told", |shared| count(shared) >= wanted)
            .await?;
        say(&format!(
            "{clients} responses within {:?} of the hook's start",
            at.elapsed()
        ));
    }

    let reference = load::reference(&plan).await?;
    load::compare(&plan, &load.stop().await?, &reference)?;
    say("every client has what a fresh one is given");
    Ok(())
}
