//! The healthy fleet: proxies, newcomers and a health check, each with the time that it waited.
//!
//! The fleet runs on a thread of its own. A writer changes one cluster every 50 ms; each proxy must get the new content.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::google::protobuf::Any;
use etcd_client::Client;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, Event, SotwStream, connect, delta, delta_ack, node, sotw, sotw_ack, types,
};
use crate::support::etcd::Etcd;

/// Proxies of each variant.
const PROXIES: usize = 4;
/// Between two updates.
const PACE: Duration = Duration::from_millis(50);
/// Between two newcomers, and between two health checks.
const PROBE_PACE: Duration = Duration::from_millis(100);
/// The longest wait that is measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The cluster that changes.
pub(crate) const CLUSTER: &str = "pace";

/// Waits of one kind: those that have begun, and those that are over.
#[derive(Debug, Default)]
struct Waits {
    open: BTreeMap<(u64, usize), Instant>,
    over: Vec<(Instant, Duration)>,
}

impl Waits {
    fn begin(&mut self, id: (u64, usize)) {
        self.open.insert(id, Instant::now());
    }

    fn end(&mut self, id: (u64, usize)) {
        if let Some(since) = self.open.remove(&id) {
            self.over.push((since, since.elapsed()));
        }
    }

    /// A proxy has the content of an update, and so of all before.
    fn end_up_to(&mut self, number: u64, proxy: usize) {
        let ended: Vec<_> = self
            .open
            .keys()
            .filter(|(open, of)| *open <= number && *of == proxy)
            .copied()
            .collect();
        ended.into_iter().for_each(|id| self.end(id));
    }

    fn is_over(&self, until: Instant) -> bool {
        !self.open.values().any(|since| *since < until)
    }

    /// The 99th percentile of the waits of a period; zero if there were none.
    fn percentile(&self, period: &Period) -> Duration {
        let is_in = |since: Instant, end: Instant| {
            let begins = since >= period.from || (period.with_earlier && end > period.from);
            begins && since < period.until
        };
        let now = Instant::now();
        let open = self
            .open
            .values()
            .filter(|since| is_in(**since, now))
            .map(|since| now - *since);
        let over = self.over.iter().filter(|(since, wait)| is_in(*since, *since + *wait));
        let mut waits: Vec<Duration> = open.chain(over.map(|(_, wait)| *wait)).collect();
        waits.sort_unstable();
        let rank = (waits.len() * 99).div_ceil(100);
        rank.checked_sub(1).map_or(Duration::ZERO, |last| waits[last])
    }
}

/// A period of a trial.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Period {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    /// Whether waits that began earlier count, too.
    pub(crate) with_earlier: bool,
}

/// The kinds of waits.
#[derive(Debug, Default)]
struct Measured {
    updates: Waits,
    newcomers: Waits,
    health: Waits,
}

/// The 99th percentiles of a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    /// From the write of a document to the proxy that has its content.
    pub(crate) updates: Duration,
    /// From the connection of a new proxy to its first response.
    pub(crate) newcomers: Duration,
    /// Of a GET of `/healthz` on a new connection.
    pub(crate) health: Duration,
}

/// A running fleet. It ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    measured: Arc<Mutex<Measured>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What the thread failed with was printed.
            drop(thread.join());
        }
    }
}

/// The document of the cluster that changes, in its `number`th form.
pub(crate) fn document(number: u64) -> String {
    format!(
        r#"{{"endpoints": [{{"address": "127.0.0.1:1"}}], "connect_timeout": "{}ms"}}"#,
        number + 1
    )
}

impl Fleet {
    /// Start one and wait until each proxy has its first update.
    pub(crate) async fn start(etcd: &Etcd, xds: SocketAddr, admin: SocketAddr) -> Self {
        let mut fleet = Self {
            measured: Arc::default(),
            is_over: Arc::default(),
            thread: None,
        };
        let (measured, is_over) = (Arc::clone(&fleet.measured), Arc::clone(&fleet.is_over));
        let writer = etcd.client().await;
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(run(&measured, &is_over, writer, xds, admin));
        });
        fleet.thread = Some(thread);
        let begun = Instant::now();
        let settled = || {
            let measured = fleet.measured.lock();
            measured.updates.over.len() >= 2 * PROXIES && !measured.newcomers.over.is_empty()
        };
        while !settled() {
            assert!(begun.elapsed() < PATIENCE, "the fleet does not settle");
            sleep(PROBE_PACE).await;
        }
        fleet
    }

    /// The percentiles of a period, when all of its waits are over or the patience is.
    pub(crate) async fn percentiles(&self, period: Period) -> Percentiles {
        let is_over = || {
            let measured = self.measured.lock();
            let Measured {
                updates,
                newcomers,
                health,
            } = &*measured;
            [updates, newcomers, health]
                .iter()
                .all(|waits| waits.is_over(period.until))
        };
        while !is_over() && period.until.elapsed() < PATIENCE {
            sleep(PACE).await;
        }
        let measured = self.measured.lock();
        Percentiles {
            updates: measured.updates.percentile(&period),
            newcomers: measured.newcomers.percentile(&period),
            health: measured.health.percentile(&period),
        }
    }
}

async fn run(measured: &Mutex<Measured>, is_over: &AtomicBool, writer: Client, xds: SocketAddr, admin: SocketAddr) {
    let proxies = (0..2 * PROXIES).map(|proxy| async move {
        // A proxy whose stream ends comes back, as Envoy does; its waits go on.
        loop {
            let ended = if proxy < PROXIES {
                delta_proxy(measured, proxy, xds).await
            } else {
                sotw_proxy(measured, proxy, xds).await
            };
            println!("  proxy {proxy} of the healthy fleet lost its stream: {ended:?}");
            sleep(PACE).await;
        }
    });
    tokio::select! {
        _ = futures::future::join_all(proxies) => {}
        () = write(measured, writer) => {}
        () = newcomers(measured, xds) => {}
        () = health(measured, admin) => {}
        () = async { while !is_over.load(Ordering::Relaxed) { sleep(PACE).await } } => {}
    }
}

async fn write(measured: &Mutex<Measured>, mut writer: Client) {
    let mut tick = interval(PACE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        tick.tick().await;
        {
            let mut measured = measured.lock();
            (0..2 * PROXIES).for_each(|proxy| measured.updates.begin((number, proxy)));
        }
        writer
            .put(format!("/gateway/clusters/{CLUSTER}"), document(number), None)
            .await
            .expect("etcd takes the update");
    }
}

/// The number of the update in a resource; `None` for other clusters.
fn number(resource: &Any) -> Option<u64> {
    let cluster = Cluster::decode(&*resource.value).expect("a cluster");
    let timeout = cluster.connect_timeout.filter(|_| cluster.name == CLUSTER)?;
    let milliseconds = timeout.seconds * 1000 + i64::from(timeout.nanos) / 1_000_000;
    Some(u64::try_from(milliseconds).expect("a timeout above zero") - 1)
}

async fn delta_proxy(measured: &Mutex<Measured>, proxy: usize, xds: SocketAddr) -> tonic::Status {
    let channel = connect(xds).await;
    let mut stream = match DeltaStream::open(&channel, ADS_DELTA).await {
        Ok(stream) => stream,
        Err(status) => return status,
    };
    let mut request = delta(types::CLUSTER, &[], &[]);
    request.node = node(&format!("healthy-{proxy}"));
    stream.send(request);
    loop {
        match stream.event(PATIENCE).await {
            Event::Response(response) => {
                let resources = response.resources.iter().filter_map(|entry| entry.resource.as_ref());
                if let Some(number) = resources.filter_map(number).max() {
                    measured.lock().updates.end_up_to(number, proxy);
                }
                let mut ack = delta_ack(&response);
                ack.node = None;
                stream.send(ack);
            }
            Event::Ended(status) => return status,
            Event::Nothing => {}
        }
    }
}

async fn sotw_proxy(measured: &Mutex<Measured>, proxy: usize, xds: SocketAddr) -> tonic::Status {
    let channel = connect(xds).await;
    let mut stream = match SotwStream::open(&channel, ADS_SOTW).await {
        Ok(stream) => stream,
        Err(status) => return status,
    };
    let mut request = sotw(types::CLUSTER, &[]);
    request.node = node(&format!("healthy-{proxy}"));
    stream.send(request);
    loop {
        match stream.event(PATIENCE).await {
            Event::Response(response) => {
                if let Some(number) = response.resources.iter().filter_map(number).max() {
                    measured.lock().updates.end_up_to(number, proxy);
                }
                let mut ack = sotw_ack(&response, &[]);
                ack.node = None;
                stream.send(ack);
            }
            Event::Ended(status) => return status,
            Event::Nothing => {}
        }
    }
}

/// New proxies, one after the other: each connects, gets its first response and leaves.
async fn newcomers(measured: &Mutex<Measured>, xds: SocketAddr) {
    for number in 1.. {
        sleep(PROBE_PACE).await;
        measured.lock().newcomers.begin((number, 0));
        let first = async {
            let channel = connect(xds).await;
            let mut stream = SotwStream::open(&channel, ADS_SOTW).await?;
            let mut request = sotw(types::CLUSTER, &[]);
            request.node = node("newcomer");
            stream.send(request);
            match stream.event(PATIENCE).await {
                Event::Response(_) => Ok(()),
                Event::Ended(status) => Err(status),
                Event::Nothing => Err(tonic::Status::deadline_exceeded("no response")),
            }
        };
        match timeout(PATIENCE, first).await {
            Ok(Ok(())) => measured.lock().newcomers.end((number, 0)),
            // Counted as a wait without an end.
            failed => println!("  newcomer {number} got no response: {failed:?}"),
        }
    }
}

async fn health(measured: &Mutex<Measured>, admin: SocketAddr) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(PATIENCE)
        .build()
        .unwrap();
    for number in 1.. {
        sleep(PROBE_PACE).await;
        measured.lock().health.begin((number, 0));
        match http.get(format!("http://{admin}/healthz")).send().await {
            Ok(response) if response.status() == 200 => measured.lock().health.end((number, 0)),
            failed => println!("  /healthz did not answer: {failed:?}"),
        }
    }
}
