//! The time from `etcdctl put` of a change to Envoy's answers, by step. Printed, not limited.
//!
//! One change at a time. In the same run a bare etcd watcher receives the same put, often before etcd has answered the
//! writer.

use std::time::Duration;

use etcd_client::WatchOptions;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::support::envoy::Bootstrap;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, World, quiet};

with_both_bootstraps!(a_change_is_live_in_milliseconds);

const CHANGES: usize = 200;
/// Between changes: each finds a server at rest.
const REST: Duration = Duration::from_millis(30);

async fn a_change_is_live_in_milliseconds(bootstrap: Bootstrap) {
    let _quiet = quiet().await;
    let world = World::start(bootstrap).await;
    let upstreams = [Upstream::start("even").await, Upstream::start("odd").await];
    let route = |n: usize| json!({ "match": "/live", "to": upstreams[n % 2].url() }).to_string();
    world.put("/gateway/routes/live", route(0)).await;
    world.serves("GET /live", 200, "even").await;
    world.put("/gateway/routes/live", route(1)).await;
    world.serves("GET /live", 200, "odd").await;

    let mut seen = watched(&world).await;
    let before = Split::read(&world).await;
    let (mut live, mut put, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CHANGES {
        sleep(REST).await;
        let sent = Instant::now();
        world.put("/gateway/routes/live", route(n)).await;
        let returned = Instant::now();
        put.push(returned - sent);
        while world.ask("GET /live").await.upstream != upstreams[n % 2].name {
            assert!(returned.elapsed() < LIMIT, "change {n} is not live after {LIMIT:?}");
        }
        live.push(returned.elapsed());
        bare.push(seen.recv().await.expect("a watch that lasts") - sent);
    }
    let split = Split::read(&world).await;
    println!("{bootstrap:?}, {CHANGES} changes, ms:");
    println!("  put sent → etcd has answered           {}", percentiles(&mut put));
    println!("  put sent → a bare watcher sees it      {}", percentiles(&mut bare));
    println!("  put answered → Envoy has the new route {}", percentiles(&mut live));
    println!(
        "  seen by the server → published         {}",
        split.publish.since(&before.publish)
    );
    println!(
        "  published → acknowledged (each type)   {}",
        split.acknowledge.since(&before.acknowledge)
    );
    world.nothing_was_refused().await;
}

/// A bare watch on the documents: the moment of each event.
async fn watched(world: &World) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut client = world.client();
    let mut watch = client
        .watch("/gateway/", Some(WatchOptions::new().with_prefix()))
        .await
        .expect("watch");
    tokio::spawn(async move {
        // The first message confirms the watch.
        while let Ok(Some(message)) = watch.message().await {
            for _ in message.events() {
                if sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    format!("p50 {:7.2}  p99 {:7.2}", at(50), at(99))
}

/// The server's own histograms.
struct Split {
    publish: Histogram,
    acknowledge: Histogram,
}

/// Cumulative counts by upper bound in seconds.
struct Histogram(Vec<(f64, f64)>);

impl Split {
    async fn read(world: &World) -> Self {
        let text = world.server.get("/metrics").await;
        let text = text.as_str().expect("text");
        Self {
            publish: Histogram::parse(text, "chancery_publish_seconds"),
            acknowledge: Histogram::parse(text, "chancery_acknowledge_seconds"),
        }
    }
}

impl Histogram {
    fn parse(text: &str, name: &str) -> Self {
        let prefix = format!("{name}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().ok()?
            };
            Some((bound, count.parse().ok()?))
        };
        Self(text.lines().filter_map(bucket).collect())
    }

    /// The buckets of the median and the 99th percentile of the values since `before`.
    fn since(&self, before: &Self) -> String {
        let counts: Vec<(f64, f64)> = self
            .0
            .iter()
            .zip(&before.0)
            .map(|((bound, now), (_, then))| (*bound, now - then))
            .collect();
        let total = counts.last().map_or(0.0, |(_, count)| *count);
        let below = |share: f64| {
            let bucket = counts.iter().find(|(_, count)| *count >= total * share);
            bucket.map_or(f64::NAN, |(bound, _)| bound * 1000.0)
        };
        format!("p50 ≤{:6.2}  p99 ≤{:6.2}  ({total} of them)", below(0.5), below(0.99))
    }
}
