//! The scenarios: server, load, changes, measured figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::Report;
use super::load::{self, AsksFor, Latency, Load, Plan};
use super::server::{Change, Kind, Server, Start, World, cluster};
use super::wire::{Type, Variant};

/// Longest time of a cold start.
const COLD: Duration = Duration::from_secs(180);
/// How long after the last change every client must have everything.
const SETTLE: Duration = Duration::from_secs(60);
/// A quiet moment before a figure of memory is read.
const QUIET: Duration = Duration::from_secs(2);

/// The changed part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Nothing.
    Nothing,
    /// One cluster's endpoints at a time.
    Endpoints,
    /// One cluster at a time.
    Clusters,
    /// One route at a time.
    Routes,
    /// Endpoints of so many clusters as fast as they are taken.
    Burst(usize),
}

/// One cell: a load and its changes.
#[derive(Debug, Clone)]
pub struct Cell {
    /// `B1` and so on.
    pub id: &'static str,
    /// Distinguishes the cell within its scenario.
    pub label: String,
    /// The form.
    pub variant: Variant,
    /// How many clients.
    pub clients: usize,
    /// The documents.
    pub world: World,
    /// The kind of changes.
    pub changes: Changes,
    /// How often.
    pub updates: u32,
    /// The distance between two.
    pub distance: Duration,
    /// Names that a client subscribes to; 0: all, as Envoy does.
    pub each: usize,
    /// Clients that refuse everything.
    pub refusing: usize,
    /// Clients that stop reading.
    pub stalling: usize,
    /// After the changes.
    pub idle: Duration,
    /// Nodes as large as a real Envoy's.
    pub envoy_node: bool,
    /// The servers that are compared.
    pub servers: &'static [Kind],
}

/// The figures of one run of a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The scenario.
    pub id: String,
    /// See [`Cell::label`].
    pub label: String,
    /// The server.
    pub server: Kind,
    /// The form.
    pub variant: Variant,
    /// Clients.
    pub clients: usize,
    /// Clusters.
    pub clusters: usize,
    /// Figures by name: `cpu_us` a client and update, `rss_kib` a client, `cold_us` a client …
    pub figures: BTreeMap<String, f64>,
}

impl Cell {
    fn plan(&self, server: &Server) -> Plan {
        let asks = if self.each == 0 {
            AsksFor::All
        } else {
            AsksFor::Endpoints {
                names: (0..self.world.clusters).map(cluster).collect(),
                each: self.each,
            }
        };
        Plan {
            address: server.address,
            variant: self.variant,
            clients: self.clients,
            refusing: self.refusing,
            stalling: self.stalling,
            asks,
            keep_versions: false,
            envoy_node: self.envoy_node,
        }
    }

    fn change(&self, update: u32) -> Option<Change> {
        // The step is prime to every count, so each cluster is changed once, and neighbours are not changed in a row.
        let at = |count: usize| update as usize * 7919 % count.max(1);
        match self.changes {
            Changes::Nothing => None,
            Changes::Endpoints | Changes::Burst(_) => Some(Change::Endpoint {
                cluster: at(self.world.clusters),
                update,
            }),
            Changes::Clusters => Some(Change::Cluster {
                cluster: at(self.world.clusters),
                update,
            }),
            Changes::Routes => Some(Change::Route {
                route: at(self.world.routes),
                update,
            }),
        }
    }

    /// How many sightings all changes make, were none coalesced.
    fn expected(&self, plan: &Plan) -> usize {
        let faithful = self.clients - self.refusing - self.stalling;
        (0..self.updates)
            .filter_map(|update| self.change(update))
            .map(|change| match change {
                Change::Endpoint { cluster, .. } => plan.asks.interested(cluster, self.clients).min(faithful),
                Change::Cluster { .. } | Change::Route { .. } => faithful,
            })
            .sum()
    }

    /// Run it once on one server.
    ///
    /// # Errors
    /// The server or a client failed, or a client ended with another state than the source's.
    pub async fn run(&self, kind: Kind, resources: &Path) -> Result<Row> {
        let start = Start {
            world: self.world,
            variant: self.variant,
            resources,
        };
        let loading = Instant::now();
        let mut server = Server::start(kind, &start).await?;
        let mut figures = BTreeMap::new();
        figures.insert("load_s".to_owned(), loading.elapsed().as_secs_f64());
        let plan = self.plan(&server);
        sleep(QUIET).await;
        let (rss_empty, cpu_empty) = (server.rss()?, server.cpu()?);
        figures.insert("rss_empty_mib".to_owned(), rss_empty / 1024.0);

        let mut load = Load::start(plan.clone(), None, COLD).await?;
        let clients = self.clients as f64;
        figures.insert("cold_s".to_owned(), load.cold.as_secs_f64());
        sleep(QUIET).await;
        figures.insert("cold_us".to_owned(), (server.cpu()? - cpu_empty) * 1e6 / clients);
        let (bytes, responses) = (load.shared.bytes.load(Ordering::Relaxed), counts(&load));

        let cpu = server.cpu()?;
        let (puts, coalesced) = self.make_changes(&mut server, &mut load, &plan).await?;
        figures.insert("coalesced".to_owned(), coalesced as f64);
        sleep(self.idle).await;
        let spent = server.cpu()? - cpu;
        let updates = f64::from(self.updates.max(1));
        let interested = if self.each == 0 {
            clients * updates
        } else {
            self.expected(&plan).max(1) as f64
        };
        figures.insert("cpu_us".to_owned(), spent * 1e6 / interested);
        figures.insert("cpu_ms_update".to_owned(), spent * 1e3 / updates);
        figures.insert("cpu_s".to_owned(), spent);
        let sent = load.shared.bytes.load(Ordering::Relaxed) - bytes;
        figures.insert("bytes_update".to_owned(), sent as f64 / interested);
        for (of_type, (before, after)) in Type::ALL.iter().zip(responses.iter().zip(counts(&load))) {
            figures.insert(
                format!("responses_{of_type:?}").to_lowercase(),
                (after - before) as f64 / clients,
            );
        }
        sleep(QUIET).await;
        figures.insert("rss_kib".to_owned(), (server.rss()? - rss_empty) / clients);
        figures.insert("rss_mib".to_owned(), server.rss()? / 1024.0);

        let reference = load::reference(&plan).await?;
        let reports = load.stop().await?;
        load::compare(&plan, &reports, &reference)?;
        let Latency { p50, p99, max, last } = self.latency(&puts, &reports);
        let latencies = [("p50_ms", p50), ("p99_ms", p99), ("max_ms", max), ("last_ms", last)];
        // Without changes there are none.
        figures.extend(
            latencies
                .into_iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(name, it)| (name.to_owned(), it)),
        );
        if self.refusing > 0 {
            let most = reports[..self.refusing]
                .iter()
                .map(|report| report.responses.iter().sum::<u32>())
                .max();
            figures.insert("responses_refuser".to_owned(), f64::from(most.unwrap_or(0)));
        }
        Ok(self.row(kind, figures))
    }

    fn row(&self, kind: Kind, figures: BTreeMap<String, f64>) -> Row {
        Row {
            id: self.id.to_owned(),
            label: self.label.clone(),
            server: kind,
            variant: self.variant,
            clients: self.clients,
            clusters: self.world.clusters,
            figures,
        }
    }

    /// Make the changes at their moments, and wait until every client that reads has seen them. Gives when each was
    /// made, and how many sightings were coalesced with later ones.
    async fn make_changes(&self, server: &mut Server, load: &mut Load, plan: &Plan) -> Result<(Vec<Instant>, usize)> {
        let before = load.shared.sightings.load(Ordering::Relaxed);
        let began = Instant::now();
        let mut puts = Vec::new();
        if let Changes::Burst(_) = self.changes {
            let changes: Vec<Change> = (0..self.updates).filter_map(|update| self.change(update)).collect();
            puts = server.burst(&changes).await?;
        } else {
            for update in 0..self.updates {
                let Some(change) = self.change(update) else { break };
                sleep_until(began + self.distance * update).await;
                puts.push(server.change(change).await?);
                if self.changes == Changes::Routes {
                    // There is one RouteConfiguration, whose arrival does not show which change it has. So one change
                    // at a time.
                    let wanted = before + (update as usize + 1) * self.clients;
                    load.wait(SETTLE, "saw a route", |shared| {
                        shared.sightings.load(Ordering::Relaxed) >= wanted
                    })
                    .await?;
                }
            }
        }
        let wanted = before + self.expected(plan);
        let coalesced = load.see(SETTLE, wanted).await?;
        Ok((puts, coalesced))
    }

    fn latency(&self, puts: &[Instant], reports: &[Report]) -> Latency {
        let faithful = &reports[(self.refusing + self.stalling).min(reports.len())..];
        load::latency(puts, faithful.iter())
    }
}

fn counts(load: &Load) -> [u64; Type::COUNT] {
    load.shared
        .responses
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed))
}

/// B4: every client reconnects to a second replica with the same resources.
///
/// # Errors
/// A server or a client failed.
pub async fn reconnect(cell: &Cell) -> Result<Row> {
    let start = Start {
        world: cell.world,
        variant: cell.variant,
        resources: Path::new(""),
    };
    let server = Server::start(Kind::Chancery, &start).await?;

    let plan = Plan {
        keep_versions: true,
        ..cell.plan(&server)
    };
    let first = Load::start(
        Plan {
            clients: 1,
            ..plan.clone()
        },
        None,
        COLD,
    )
    .await?
    .stop()
    .await?;

    let names = load::reference(&Plan {
        variant: Variant::Delta,
        ..plan.clone()
    })
    .await?;
    let mut past = load::past(&first[0]);
    past.names = load::past(&names).names;

    let replica = server.replica().await?;
    sleep(QUIET).await;
    let cpu = replica.cpu()?;

    let moved = Plan {
        address: replica.address,
        keep_versions: false,
        ..plan
    };
    let mut load = Load::start(moved, Some(Arc::from([past])), COLD).await?;

    let clients = cell.clients;
    load.wait(COLD, "were answered", |shared| {
        let endpoints = shared.resources[Type::Endpoint as usize].load(Ordering::Relaxed);
        endpoints >= (clients * cell.world.clusters) as u64
    })
    .await?;
    sleep(QUIET).await;

    let mut figures = BTreeMap::new();
    figures.insert("cold_s".to_owned(), load.cold.as_secs_f64());
    figures.insert("cold_us".to_owned(), (replica.cpu()? - cpu) * 1e6 / clients as f64);

    for of_type in Type::ALL {
        let resources = load.shared.resources[of_type as usize].load(Ordering::Relaxed);
        figures.insert(
            format!("resources_{of_type:?}").to_lowercase(),
            resources as f64 / clients as f64,
        );
    }
    figures.insert(
        "bytes_client".to_owned(),
        load.shared.bytes.load(Ordering::Relaxed) as f64 / clients as f64,
    );

    load.stop().await?;
    Ok(cell.row(Kind::Chancery, figures))
}

/// B10: node ids come and go, a hundred at a time.
///
/// # Errors
/// A server or a client failed.
pub async fn churn(cell: &Cell, nodes: usize) -> Result<Row> {
    let start = Start {
        world: cell.world,
        variant: cell.variant,
        resources: Path::new(""),
    };
    let mut server = Server::start(Kind::Chancery, &start).await?;
    let plan = cell.plan(&server);

    let mut rss = Vec::new();
    for round in 0..nodes / cell.clients {
        let change = Change::Endpoint {
            cluster: round % cell.world.clusters,
            update: u32::try_from(round)?,
        };
        server.change(change).await?;
        Load::start(plan.clone(), None, COLD).await?.stop().await?;
        rss.push(server.rss()? / 1024.0);
    }

    sleep(QUIET).await;
    let tenth = (rss.len() / 10).max(1);

    let mut figures = BTreeMap::new();
    figures.insert(
        "rss_early_mib".to_owned(),
        rss[..tenth].iter().sum::<f64>() / tenth as f64,
    );
    figures.insert(
        "rss_late_mib".to_owned(),
        rss[rss.len() - tenth..].iter().sum::<f64>() / tenth as f64,
    );
    figures.insert("rss_mib".to_owned(), server.rss()? / 1024.0);

    Ok(cell.row(Kind::Chancery, figures))
}

/// Record the resources of a world as this server serves them, for servers that serve recorded resources.
///
/// # Errors
/// The server or the client failed, or the file cannot be written.
pub async fn record(world: World, path: &Path) -> Result<()> {
    let start = Start {
        world,
        variant: Variant::Delta,
        resources: Path::new(""),
    };
    let server = Server::start(Kind::Chancery, &start).await?;
    let messages = super::client::record(server.address).await?;
    let mut file = BytesMut::new();
    for message in messages {
        file.put_u32(u32::try_from(message.len()).context("a message of 4 GB")?);
        file.put_slice(&message);
    }
    ensure!(!file.is_empty(), "nothing was recorded");
    std::fs::write(path, &file).with_context(|| format!("write {}", path.display()))
}
