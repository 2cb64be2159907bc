//! Constant requests through each Envoy. No fault of the control plane may make one fail, and no answer may come from an
//! older configuration than an answer before.
//!
//! | path | answered by | shows |
//! |---|---|---|
//! | `/steady` | an upstream by its URL | a route that nobody changes |
//! | `/moving` | one of two clusters in turn | changes of routes and clusters |
//! | `/registered` | instances that come and go | changes of endpoints |
//! | `/generation/N/I` | an upstream by its URL | routes that others have replaced |
//! | `/tick` | Envoy, with a number that grows | the age of the route table |
//! | `/mark` | one upstream after the other | the age of the endpoints |

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::findings::Findings;

/// A request without an answer after this has failed. The machine may be busy with other tests.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(20);
/// Upstreams that take turns at `/mark`. Half of them are the longest step forward that counts as one.
pub(crate) const MARKS: u64 = 32;

/// The clients of all Envoys.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    /// For each Envoy, the newest number seen on `/tick`.
    ticks: Vec<Arc<AtomicU64>>,
    clients: JoinSet<()>,
}

struct Shared {
    findings: Arc<Findings>,
    requests: AtomicU64,
    /// The paths of the generation of routes that all Envoys have.
    generation: Mutex<Vec<String>>,
    /// A restored store holds older numbers; until they are written anew, that is no finding.
    may_go_back: AtomicBool,
}

/// How a client connects.
#[derive(Debug, Clone, Copy)]
enum Kind {
    KeepAlive,
    Fresh,
    Http2,
}

impl Traffic {
    /// Start the clients of the Envoys that listen at these addresses.
    pub(crate) fn start(envoys: &[SocketAddr], generation: Vec<String>, findings: Arc<Findings>) -> Self {
        let shared = Arc::new(Shared {
            findings,
            requests: AtomicU64::new(0),
            generation: Mutex::new(generation),
            may_go_back: AtomicBool::new(false),
        });
        let (mut clients, mut ticks) = (JoinSet::new(), Vec::new());
        for address in envoys {
            for (kind, path) in [
                (Kind::KeepAlive, "/steady"),
                (Kind::Fresh, "/steady"),
                (Kind::Http2, "/moving"),
                (Kind::Fresh, "/registered"),
            ] {
                clients.spawn(Asker::new(*address, kind, &shared).ask_for_ever(path));
            }
            clients.spawn(Asker::new(*address, Kind::KeepAlive, &shared).ask_generations());
            let tick = Arc::new(AtomicU64::new(0));
            clients.spawn(Asker::new(*address, Kind::KeepAlive, &shared).watch_ticks(Arc::clone(&tick)));
            clients.spawn(Asker::new(*address, Kind::Http2, &shared).watch_marks());
            ticks.push(tick);
        }
        Self { shared, ticks, clients }
    }

    /// Ask no more: the installation is taken down.
    pub(crate) fn stop(&mut self) {
        self.clients.abort_all();
    }

    /// Answered requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The newest number that each Envoy has answered.
    pub(crate) fn ticks(&self) -> Vec<u64> {
        self.ticks.iter().map(|tick| tick.load(Ordering::Relaxed)).collect()
    }

    /// Ask for these paths from now on in place of the generation before.
    pub(crate) fn move_to(&self, generation: Vec<String>) {
        *self.shared.generation.lock().unwrap_or_else(PoisonError::into_inner) = generation;
    }

    /// Whether an older answer is no finding now.
    pub(crate) fn may_go_back(&self, may: bool) {
        self.shared.may_go_back.store(may, Ordering::Relaxed);
    }
}

/// One client of one Envoy.
struct Asker {
    address: SocketAddr,
    kind: Kind,
    http: Client,
    shared: Arc<Shared>,
}

/// An answer with status 200.
struct Answer {
    upstream: String,
    body: String,
}

impl Asker {
    fn new(address: SocketAddr, kind: Kind, shared: &Arc<Shared>) -> Self {
        let builder = Client::builder()
            .no_proxy()
            .timeout(REQUEST_LIMIT)
            .retry(reqwest::retry::never());
        let builder = match kind {
            Kind::KeepAlive => builder,
            Kind::Fresh => builder.pool_max_idle_per_host(0),
            Kind::Http2 => builder.http2_prior_knowledge(),
        };
        Self {
            address,
            kind,
            http: builder.build().expect("a client"),
            shared: Arc::clone(shared),
        }
    }

    async fn ask_for_ever(self, path: &'static str) {
        loop {
            self.ask(path).await;
            sleep(PAUSE).await;
        }
    }

    async fn ask_generations(self) {
        for number in 0.. {
            let path = {
                let paths = self.shared.generation.lock().unwrap_or_else(PoisonError::into_inner);
                paths[number % paths.len()].clone()
            };
            self.ask(&path).await;
            sleep(PAUSE).await;
        }
    }

    async fn watch_ticks(self, newest: Arc<AtomicU64>) {
        loop {
            if let Some(answer) = self.ask("/tick").await {
                let seen = answer.body.parse().expect("the number of a tick");
                let before = newest.load(Ordering::Relaxed);
                if seen < before && !self.shared.may_go_back.load(Ordering::Relaxed) {
                    self.find(&format!("moved backwards, from route table {before} to {seen}"));
                }
                newest.store(seen, Ordering::Relaxed);
            }
            sleep(PAUSE).await;
        }
    }

    async fn watch_marks(self) {
        let mut before = None;
        loop {
            if let Some(answer) = self.ask("/mark").await {
                let seen: u64 = answer.upstream.trim_start_matches('u').parse().expect("a mark");
                let step = before.map_or(0, |before| (seen + MARKS - before) % MARKS);
                if step > MARKS / 2 && !self.shared.may_go_back.load(Ordering::Relaxed) {
                    self.find(&format!("moved backwards, from endpoint {before:?} to {seen}"));
                }
                before = Some(seen);
            }
            sleep(PAUSE).await;
        }
    }

    /// The answer, if its status is 200; anything else is a finding.
    async fn ask(&self, path: &str) -> Option<Answer> {
        let url = format!("http://{}{path}", self.address);
        let outcome = async {
            let response = self.http.get(&url).header("host", "any.example.com").send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, response.text().await?))
        };
        let failure = match outcome.await {
            Ok((status, headers, body)) if status == 200 => {
                self.shared.requests.fetch_add(1, Ordering::Relaxed);
                let upstream = headers.get("x-upstream").and_then(|name| name.to_str().ok());
                let upstream = upstream.unwrap_or_default().to_owned();
                return Some(Answer { upstream, body });
            }
            Ok((status, _, body)) => format!("{status}: {body}"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        self.find(&format!("GET {path} ({:?}) failed: {failure}", self.kind));
        None
    }

    fn find(&self, sentence: &str) {
        self.shared
            .findings
            .add(&format!("the Envoy at {} {sentence}", self.address));
    }
}
