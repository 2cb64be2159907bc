//! The constant changes: a writer that moves routes, alters clusters, registers and deregisters instances, a few times a
//! second, as long as the test runs. At every revision each path of the traffic can be answered.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::time::sleep;

use crate::store::{Store, Write, Writer};
use crate::support::upstream::Upstream;
use crate::traffic::MARKS;

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(200);
/// Instances of the cluster `registered`. At least half of them are there at any time.
const INSTANCES: usize = 6;
/// Routes and clusters that come and go.
const PASSING: usize = 4;
/// Routes that are replaced together.
const GENERATION: usize = 30;

/// Builds the writes; upstreams live as long as it does.
pub(crate) struct Documents {
    upstreams: Vec<Upstream>,
    ticks: AtomicU64,
    marks: AtomicU64,
}

impl Documents {
    pub(crate) async fn start() -> Self {
        let mut upstreams = Vec::new();
        for number in 0..MARKS {
            upstreams.push(Upstream::start(&format!("u{number}")).await);
        }
        Self {
            upstreams,
            ticks: AtomicU64::new(0),
            marks: AtomicU64::new(0),
        }
    }

    /// Documents that are there from the start: a group, a listener and a table for each Envoy, and all that is asked for.
    pub(crate) fn first(&self, envoys: &[(&str, SocketAddr)]) -> Vec<Write> {
        let mut writes = Vec::new();
        for (node, address) in envoys {
            writes.push(put(
                &format!("/gateway/groups/{node}"),
                json!({ "match": [{ "id": node }] }),
            ));
            writes.push(put(
                &format!("/gateway/listeners/{node}"),
                json!({ "address": address.to_string(), "groups": [node] }),
            ));
        }
        writes.push(put(
            "/gateway/routes/steady",
            json!({ "match": "/steady", "to": self.url(0) }),
        ));
        writes.push(put(
            "/gateway/routes/moving",
            json!({ "match": "/moving", "to": "moving-0" }),
        ));
        writes.extend((0..2).map(|cluster| self.moving(cluster, 2000)));
        writes.push(put(
            "/gateway/routes/registered",
            json!({ "match": "/registered", "to": "registered" }),
        ));
        writes.push(put("/gateway/clusters/registered", json!({})));
        writes.extend((0..INSTANCES).map(|instance| self.instance(instance, true)));
        writes.push(put("/gateway/routes/mark", json!({ "match": "/mark", "to": "mark" })));
        writes.push(put("/gateway/clusters/mark", json!({})));
        writes.push(self.mark());
        writes.push(self.tick().0);
        writes.extend(self.generation(0));
        writes
    }

    /// The next number on `/tick`.
    pub(crate) fn tick(&self) -> (Write, u64) {
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let respond = json!({ "status": 200, "body": tick.to_string() });
        let route = json!({ "match": "/tick", "to": { "respond": respond } });
        (put("/gateway/routes/tick", route), tick)
    }

    /// The next upstream of `/mark`.
    pub(crate) fn mark(&self) -> Write {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed) % MARKS;
        let index = usize::try_from(mark).expect("a small number");
        ("/services/mark/one".to_owned(), Some(self.address(index)))
    }

    /// Thirty routes.
    pub(crate) fn generation(&self, number: usize) -> Vec<Write> {
        let route = |path: String| {
            let document = json!({ "match": path, "to": self.url(1) });
            put(
                &format!("/gateway/routes{path}").replace("generation/", "generation-"),
                document,
            )
        };
        generation_paths(number).into_iter().map(route).collect()
    }

    fn moving(&self, cluster: usize, connect_timeout: u64) -> Write {
        let endpoints = json!([{ "address": self.address(cluster) }, { "address": self.address(cluster + 2) }]);
        let document = json!({ "endpoints": endpoints, "connect_timeout": format!("{connect_timeout}ms") });
        put(&format!("/gateway/clusters/moving-{cluster}"), document)
    }

    fn instance(&self, instance: usize, is_there: bool) -> Write {
        let key = format!("/services/registered/{instance}");
        (key, is_there.then(|| self.address(instance)))
    }

    fn passing(&self, number: usize, is_there: bool) -> Vec<Write> {
        let cluster = json!({ "endpoints": [{ "address": self.address(number % 8) }] });
        let route = json!({ "match": format!("/passing/{number}"), "to": format!("passing-{number}") });
        let writes = vec![
            put(&format!("/gateway/clusters/passing-{number}"), cluster),
            put(&format!("/gateway/routes/passing-{number}"), route),
        ];
        if is_there { writes } else { deletions(&writes) }
    }

    fn url(&self, upstream: usize) -> String {
        self.upstreams[upstream].url()
    }

    fn address(&self, upstream: usize) -> String {
        self.upstreams[upstream].address().to_string()
    }
}

/// The paths of a generation.
pub(crate) fn generation_paths(number: usize) -> Vec<String> {
    (0..GENERATION)
        .map(|route| format!("/generation/{number}/{route}"))
        .collect()
}

/// The same keys, deleted.
pub(crate) fn deletions(writes: &[Write]) -> Vec<Write> {
    writes.iter().map(|(key, _)| (key.clone(), None)).collect()
}

/// A document at its key.
pub(crate) fn put(key: &str, document: serde_json::Value) -> Write {
    (key.to_owned(), Some(document.to_string()))
}

/// Commit a tick. Returns its number and its revision.
pub(crate) async fn tick(documents: &Documents, store: &Store) -> (u64, i64) {
    let mut writer = store.pause().await;
    tick_as(documents, store, &mut writer).await
}

/// The same, by whoever has the writer: no later tick can be written before.
pub(crate) async fn tick_as(documents: &Documents, store: &Store, writer: &mut Writer) -> (u64, i64) {
    let (write, tick) = documents.tick();
    let mark = documents.mark();
    (tick, store.commit_as(writer, &[write, mark]).await)
}

/// Change one thing after the other, for ever.
pub(crate) async fn change_for_ever(seed: u64, documents: Arc<Documents>, store: Arc<Store>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut registered = [true; INSTANCES];
    let mut passing = VecDeque::new();
    for step in 0_usize.. {
        if step % 8 == 0 {
            tick(&documents, &store).await;
        } else if step % 2 == 0 {
            let mut writer = store.pause().await;
            let write = documents.tick().0;
            store.commit_as(&mut writer, &[write]).await;
        } else {
            let writes = match random.random_range(0..4) {
                0 => {
                    let cluster = format!("moving-{}", random.random_range(0..2));
                    vec![put(
                        "/gateway/routes/moving",
                        json!({ "match": "/moving", "to": cluster }),
                    )]
                }
                1 => vec![documents.moving(random.random_range(0..2), random.random_range(1000..5000))],
                2 => {
                    let instance = random.random_range(0..INSTANCES);
                    let others = registered.iter().filter(|is_there| **is_there).count();
                    registered[instance] = !registered[instance] || others <= INSTANCES / 2;
                    vec![documents.instance(instance, registered[instance])]
                }
                _ => {
                    let mut writes = documents.passing(step, true);
                    passing.push_back(step);
                    if passing.len() > PASSING
                        && let Some(oldest) = passing.pop_front()
                    {
                        writes.extend(documents.passing(oldest, false));
                    }
                    writes
                }
            };
            store.commit(&writes).await;
        }
        sleep(PAUSE).await;
    }
}
