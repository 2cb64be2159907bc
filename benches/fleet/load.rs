//! A load: many clients on one server, from the first connect to the last report.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::client::{Asks, Behaviour, Client, Past, Report, Shared, Sighting};
use super::wire::{self, NAMES, Type, Variant};

/// Handshakes that are under way at once: more only queue in the kernel.
const CONNECTING: usize = 256;

/// Clients that have seen nothing for so long will see no more of changes that were made.
const QUIET: Duration = Duration::from_secs(5);

/// The clients of a load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// The form.
    pub variant: Variant,
    /// How many clients.
    pub clients: usize,
    /// Of these, how many refuse everything.
    pub refusing: usize,
    /// Of these, how many stop reading once they have everything.
    pub stalling: usize,
    /// The subscriptions of each client.
    pub asks: AsksFor,
    /// True if the clients remember versions for a reconnect.
    pub keep_versions: bool,
    /// True if nodes are as large as a real Envoy's.
    pub envoy_node: bool,
}

/// The subscriptions of all clients.
#[derive(Debug, Clone)]
pub enum AsksFor {
    /// Everything.
    All,
    /// `each` of the names, a window that moves from client to client.
    Endpoints {
        /// All names there are.
        names: Arc<[String]>,
        /// Number of names a client subscribes to.
        each: usize,
    },
}

impl AsksFor {
    /// The subscriptions of client `number`.
    pub fn of(&self, number: usize) -> Asks {
        match self {
            Self::All => Asks::All,
            Self::Endpoints { names, each } => {
                let start = number * each;
                Asks::Endpoints(
                    (0..*each)
                        .map(|step| names[(start + step) % names.len()].clone())
                        .collect(),
                )
            }
        }
    }

    /// Number of clients, of `clients`, that subscribe to a name.
    pub fn interested(&self, name: usize, clients: usize) -> usize {
        match self {
            Self::All => clients,
            Self::Endpoints { names, each } => (0..clients)
                .filter(|number| (name + names.len() - number * each % names.len()) % names.len() < *each)
                .count(),
        }
    }
}

/// A load that runs.
pub struct Load {
    /// The state that the clients share.
    pub shared: Arc<Shared>,
    /// How long it took until each had everything.
    pub cold: Duration,
    clients: JoinSet<(usize, Result<Report>)>,
    stop: Arc<Notify>,
    plan: Plan,
}

impl Load {
    /// Connect all clients and wait until each has everything.
    ///
    /// # Errors
    /// A client failed, or not all had everything within the limit.
    pub async fn start(plan: Plan, pasts: Option<Arc<[Past]>>, limit: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::new(plan.address, plan.variant, plan.envoy_node));
        let (stop, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(CONNECTING)));

        let mut clients = JoinSet::new();
        let began = Instant::now();
        for number in 0..plan.clients {
            let behaviour = if number < plan.refusing {
                Behaviour::Refuses
            } else if number < plan.refusing + plan.stalling {
                Behaviour::Stalls
            } else {
                Behaviour::Acknowledges
            };

            let id = format!("fleet-{number:05}");
            let mut client = Client::new(Arc::clone(&shared), &id, plan.asks.of(number), behaviour);
            if plan.keep_versions {
                client = client.keeping_versions();
            }
            if let Some(pasts) = &pasts {
                client = client.with_past(pasts[number % pasts.len()].clone());
            }

            let (stop, gate) = (Arc::clone(&stop), Arc::clone(&gate));
            clients.spawn(async move {
                let permit = gate.acquire_owned().await;
                tokio::task::yield_now().await;
                drop(permit);
                (number, client.run(stop).await)
            });
        }

        let mut load = Self {
            shared,
            cold: Duration::ZERO,
            clients,
            stop,
            plan,
        };

        if pasts.is_none() {
            let wanted = load.plan.clients;
            load.wait(limit, "have everything", |shared| {
                shared.settled.load(Ordering::Relaxed) >= wanted
            })
            .await?;
        }

        load.cold = began.elapsed();
        Ok(load)
    }

    /// Wait until `holds` is true for the shared state.
    ///
    /// # Errors
    /// A client failed, or `holds` was not true within the limit.
    pub async fn wait(&mut self, limit: Duration, what: &str, holds: impl Fn(&Shared) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let moved = self.shared.moved.notified();
            if holds(&self.shared) {
                return Ok(());
            }
            tokio::select! {
                _ = timeout_at(deadline.min(Instant::now() + Duration::from_millis(50)), moved) => {}
                Some(ended) = self.clients.join_next() => {
                    let (number, result) = ended?;
                    result.with_context(|| format!("client {number}"))?;
                    bail!("client {number} ended by itself");
                }
            }
            if Instant::now() >= deadline {
                bail!(
                    "not all clients {what} within {limit:?}: {} of {} settled, {} sightings",
                    self.shared.settled.load(Ordering::Relaxed),
                    self.plan.clients,
                    self.shared.sightings.load(Ordering::Relaxed)
                );
            }
        }
    }

    /// Wait until the clients have seen `wanted` changes, or no longer see any: a slow server merges several changes
    /// into one update. Returns the number of changes that were not seen one by one.
    ///
    /// # Errors
    /// A client failed, or changes still arrive after the limit.
    pub async fn see(&mut self, limit: Duration, wanted: usize) -> Result<usize> {
        let seen = |shared: &Shared| shared.sightings.load(Ordering::Relaxed);
        let last = Cell::new((seen(&self.shared), Instant::now()));
        let all_or_quiet = |shared: &Shared| {
            let now = seen(shared);
            if now != last.get().0 {
                last.set((now, Instant::now()));
            }
            now >= wanted || last.get().1.elapsed() >= QUIET
        };
        self.wait(limit, "saw every change", all_or_quiet).await?;
        Ok(wanted.saturating_sub(seen(&self.shared)))
    }

    /// End all clients; their reports, by number.
    ///
    /// # Errors
    /// A client failed.
    pub async fn stop(mut self) -> Result<Vec<Report>> {
        self.stop.notify_waiters();
        let mut reports: Vec<Option<Report>> = (0..self.plan.clients).map(|_| None).collect();
        while let Some(ended) = self.clients.join_next().await {
            let (number, result) = ended?;
            reports[number] = Some(result.with_context(|| format!("client {number}"))?);
        }
        reports
            .into_iter()
            .map(|report| report.context("a client without a report"))
            .collect()
    }
}

/// The resources of a fresh client, to which every client's final state is compared.
///
/// # Errors
/// The fresh client failed.
pub async fn reference(plan: &Plan) -> Result<Report> {
    let asks = match &plan.asks {
        AsksFor::All => AsksFor::All,
        AsksFor::Endpoints { names, .. } => AsksFor::Endpoints {
            names: Arc::clone(names),
            each: names.len(),
        },
    };
    let plan = Plan {
        clients: 1,
        refusing: 0,
        stalling: 0,
        asks,
        keep_versions: true,
        ..plan.clone()
    };
    let mut reports = Load::start(plan, None, Duration::from_secs(60)).await?.stop().await?;
    reports.pop().context("a report")
}

/// Check that every client that reads and accepts has the resources of a fresh one.
///
/// # Errors
/// Names the number of clients with other resources.
pub fn compare(plan: &Plan, reports: &[Report], reference: &Report) -> Result<()> {
    if !matches!(plan.asks, AsksFor::All) {
        return Ok(());
    }
    let faithful = &reports[(plan.refusing + plan.stalling).min(reports.len())..];
    let behind = faithful.iter().filter(|report| report.sums != reference.sums).count();
    ensure!(
        behind == 0,
        "{behind} of {} clients ended with another state than a fresh client is given",
        faithful.len()
    );
    Ok(())
}

/// The state that a client with this report sends on its next stream.
pub fn past(report: &Report) -> Past {
    let encoded = |of_type: Type| {
        let known = &report.versions[of_type as usize];
        let names = known
            .iter()
            .filter_map(|(name, version)| Some((std::str::from_utf8(name).ok()?, &version[..])));
        wire::versions(names)
    };

    let names = |of_type: Type| {
        let known = &report.versions[of_type as usize];
        wire::names(
            NAMES,
            known.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()),
        )
    };

    let mut past = Past {
        accepted: report.accepted.clone(),
        ..Past::default()
    };

    for of_type in Type::ALL {
        past.versions[of_type as usize] = encoded(of_type);
        if matches!(of_type, Type::Endpoint | Type::Route) {
            past.names[of_type as usize] = names(of_type);
        }
    }
    past
}

/// Latencies of updates over clients.
#[derive(Debug, Default, Clone, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Over all clients and updates, milliseconds.
    pub p50: f64,
    /// The same.
    pub p99: f64,
    /// The same.
    pub max: f64,
    /// Median over the updates of the time until the slowest client had it, milliseconds.
    pub last: f64,
}

/// The latencies from the put of each update to its sighting by the clients.
pub fn latency<'a>(puts: &[Instant], reports: impl Iterator<Item = &'a Report>) -> Latency {
    let mut all = Vec::new();
    let mut last = vec![0.0_f64; puts.len()];

    for report in reports {
        // Arrivals without a number were awaited one by one: they are numbered by their order.
        let mut arrivals = 0_usize..;
        for Sighting { update, at } in &report.sightings {
            let number = if *update == Sighting::ARRIVAL {
                arrivals.next()
            } else {
                usize::try_from(*update).ok()
            };
            let Some(index) = number.filter(|index| *index < puts.len()) else {
                continue;
            };
            let took = at.saturating_duration_since(puts[index]).as_secs_f64() * 1000.0;
            last[index] = last[index].max(took);
            all.push(took);
        }
    }

    all.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);

    let at = |sorted: &[f64], share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (sorted.len().saturating_sub(1) as f64 * share) as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    };

    Latency {
        p50: at(&all, 0.5),
        p99: at(&all, 0.99),
        max: at(&all, 1.0),
        last: at(&last, 0.5),
    }
}
