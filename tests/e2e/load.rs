//! Constant load that counts the failures that a client would see: failed requests and closed connections.
//!
//! Three kinds of clients together: HTTP/1.1 with one connection each, HTTP/1.1 with a new connection for every
//! request, and HTTP/2 with several requests at a time on one connection. No request is retried. A request fails if it
//! has no answer, or another status than 200.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A request without an answer after this has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Failures that a report describes; all are counted.
const DESCRIBED: usize = 10;
/// Parallel requests on one HTTP/2 connection.
const STREAMS: usize = 4;
/// Pause of each client between requests, so that the load leaves the processor to the measured processes.
const PAUSE: Duration = Duration::from_millis(4);

/// How many clients of each kind.
#[derive(Clone, Copy)]
pub(crate) struct Clients {
    pub(crate) keep_alive: usize,
    pub(crate) fresh: usize,
    pub(crate) http2: usize,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            keep_alive: 4,
            fresh: 2,
            http2: 2,
        }
    }
}

/// Clients at work.
pub(crate) struct Load {
    stop: CancellationToken,
    requests: Arc<AtomicU64>,
    clients: JoinSet<Report>,
    started: Instant,
}

/// The results of the clients.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// Connections that clients with a lasting connection had to open again.
    pub(crate) reconnects: u64,
    pub(crate) took: Duration,
    described: Vec<String>,
    latencies: Vec<Duration>,
}

impl Load {
    /// Start the clients: `GET http://{address}{path}` with this Host.
    pub(crate) fn start(address: SocketAddr, host: &'static str, path: &'static str, clients: Clients) -> Self {
        let mut load = Self {
            stop: CancellationToken::new(),
            requests: Arc::default(),
            clients: JoinSet::new(),
            started: Instant::now(),
        };
        let target = Target { address, host, path };
        for _ in 0..clients.keep_alive {
            load.clients.spawn(keep_alive(load.client(target)));
        }
        for _ in 0..clients.fresh {
            load.clients.spawn(fresh(load.client(target)));
        }
        for _ in 0..clients.http2 {
            load.clients.spawn(over_http2(load.client(target)));
        }
        load
    }

    /// Requests answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Wait until so many requests were answered.
    pub(crate) async fn reach(&self, requests: u64) {
        while self.requests() < requests {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Wait for the open requests, and sum the results.
    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        let mut report = Report {
            took: self.started.elapsed(),
            ..Report::default()
        };
        for client in self.clients.join_all().await {
            report.requests += client.requests;
            report.failures += client.failures;
            report.reconnects += client.reconnects;
            report.described.extend(client.described);
            report.latencies.extend(client.latencies);
        }
        report.described.truncate(DESCRIBED);
        report.latencies.sort();
        report
    }

    fn client(&self, target: Target) -> Client {
        Client {
            target,
            stop: self.stop.clone(),
            counter: Arc::clone(&self.requests),
            started: self.started,
            report: Report::default(),
        }
    }
}

impl Report {
    /// The latency that this share of the answered requests stayed below.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            failures,
            reconnects,
            took,
            described,
            latencies: _,
        } = self;
        let milliseconds = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        write!(
            formatter,
            "{requests} requests in {:.1} s, {failures} failed, {reconnects} reconnects, p50 {:.2} ms, p99 {:.2} ms",
            took.as_secs_f64(),
            milliseconds(50),
            milliseconds(99)
        )?;
        described
            .iter()
            .try_for_each(|failure| write!(formatter, "\n    {failure}"))
    }
}

#[derive(Clone, Copy)]
struct Target {
    address: SocketAddr,
    host: &'static str,
    path: &'static str,
}

/// One client's view of its own work.
struct Client {
    target: Target,
    stop: CancellationToken,
    counter: Arc<AtomicU64>,
    started: Instant,
    report: Report,
}

/// Why a request has failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    fn goes_on(&self) -> bool {
        !self.stop.is_cancelled()
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Failure> {
        let socket = TcpStream::connect(self.target.address).await?;
        socket.set_nodelay(true)?;
        Ok(TokioIo::new(socket))
    }

    /// In HTTP/1 form, or (with the authority in the URI) in HTTP/2 form.
    fn request(&self, http2: bool) -> Request<Empty<Bytes>> {
        let Target { host, path, .. } = self.target;
        let request = Request::builder();
        let request = if http2 {
            request.uri(format!("http://{host}{path}"))
        } else {
            request.uri(path).header("host", host)
        };
        request.body(Empty::new()).expect("a well-formed request")
    }

    fn count(&mut self, kind: &str, began: Instant, outcome: Result<(), Failure>) {
        self.counter.fetch_add(1, Ordering::Relaxed);
        self.report.requests += 1;
        match outcome {
            Ok(()) => self.report.latencies.push(began.elapsed()),
            Err(failure) => {
                self.report.failures += 1;
                if self.report.described.len() < DESCRIBED {
                    let at = self.started.elapsed().as_secs_f64();
                    self.report.described.push(format!("at {at:.3} s, {kind}: {failure}"));
                }
            }
        }
    }
}

async fn keep_alive(mut client: Client) -> Report {
    let mut connected = false;
    while client.goes_on() {
        if connected {
            client.report.reconnects += 1;
        }
        connected = true;
        let began = Instant::now();
        let mut sender = match connect_http1(&client).await {
            Ok(sender) => sender,
            Err(failure) => {
                client.count("keep-alive", began, Err(failure));
                sleep(PAUSE).await;
                continue;
            }
        };
        while client.goes_on() && sender.ready().await.is_ok() {
            let began = Instant::now();
            let outcome = answered(sender.send_request(client.request(false))).await;
            client.count("keep-alive", began, outcome);
            sleep(PAUSE).await;
        }
    }
    client.report
}

async fn fresh(mut client: Client) -> Report {
    while client.goes_on() {
        let began = Instant::now();
        let outcome = match connect_http1(&client).await {
            Ok(mut sender) => answered(sender.send_request(client.request(false))).await,
            Err(failure) => Err(failure),
        };
        client.count("fresh", began, outcome);
        sleep(PAUSE).await;
    }
    client.report
}

async fn over_http2(mut client: Client) -> Report {
    let mut connected = false;
    while client.goes_on() {
        if connected {
            client.report.reconnects += 1;
        }
        connected = true;
        let began = Instant::now();
        let mut sender = match connect_http2(&client).await {
            Ok(sender) => sender,
            Err(failure) => {
                client.count("HTTP/2", began, Err(failure));
                sleep(PAUSE).await;
                continue;
            }
        };
        while client.goes_on() && sender.ready().await.is_ok() {
            let began = Instant::now();
            let request = |_| answered(sender.clone().send_request(client.request(true)));
            for outcome in join_all((0..STREAMS).map(request)).await {
                client.count("HTTP/2", began, outcome);
            }
            sleep(PAUSE).await;
        }
    }
    client.report
}

async fn connect_http1(client: &Client) -> Result<http1::SendRequest<Empty<Bytes>>, Failure> {
    let (sender, connection) = http1::handshake(client.connect().await?).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn connect_http2(client: &Client) -> Result<http2::SendRequest<Empty<Bytes>>, Failure> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), client.connect().await?).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The whole answer arrives, with status 200.
async fn answered(response: impl Future<Output = hyper::Result<Response<Incoming>>>) -> Result<(), Failure> {
    let whole = async {
        let response = response.await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    match timeout(REQUEST_LIMIT, whole).await?? {
        (StatusCode::OK, _) => Ok(()),
        (status, body) => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
    }
}
