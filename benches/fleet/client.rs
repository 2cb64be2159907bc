//! One simulated Envoy: a connection of its own with one ADS stream, CDS and LDS by wildcard, EDS and RDS by name. The
//! client sends an ACK for every response.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Request as HttpRequest, Version};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::known::{self, Known, State};
use super::wire::{self, Frames, Received, Request, Response, Type, Variant};

/// The subscriptions of a client.
#[derive(Debug, Clone)]
pub enum Asks {
    /// Everything, as Envoy does.
    All,
    /// These endpoints by name and nothing else.
    Endpoints(Arc<[String]>),
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Every response is acknowledged.
    Acknowledges,
    /// Every response is refused.
    Refuses,
    /// It stops reading once it has everything.
    Stalls,
}

/// The state that all clients of a load share.
#[derive(Debug)]
pub struct Shared {
    /// The server.
    pub address: SocketAddr,
    /// The form.
    pub variant: Variant,
    /// Resources that were decoded.
    pub known: Known,
    /// Bytes of messages received.
    pub bytes: AtomicU64,
    /// Responses received, by type.
    pub responses: [AtomicU64; Type::COUNT],
    /// Resources received, by type.
    pub resources: [AtomicU64; Type::COUNT],
    /// Number of clients that have all subscribed resources.
    pub settled: AtomicUsize,
    /// Number of updates seen, over all clients.
    pub sightings: AtomicUsize,
    /// Notified when one of the two counters changes.
    pub moved: Notify,
    /// The size of a real Envoy's Node, or a small one.
    pub envoy_node: bool,
}

impl Shared {
    /// For a load on one server.
    pub fn new(address: SocketAddr, variant: Variant, envoy_node: bool) -> Self {
        Self {
            address,
            variant,
            known: Known::default(),
            bytes: AtomicU64::new(0),
            responses: Default::default(),
            resources: Default::default(),
            settled: AtomicUsize::new(0),
            sightings: AtomicUsize::new(0),
            moved: Notify::new(),
            envoy_node,
        }
    }

    fn count(&self, of_type: Type, message: usize, resources: usize) {
        self.bytes.fetch_add(message as u64, Ordering::Relaxed);
        self.responses[of_type as usize].fetch_add(1, Ordering::Relaxed);
        self.resources[of_type as usize].fetch_add(resources as u64, Ordering::Relaxed);
    }
}

/// An update that a client saw.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// Which; [`Sighting::ARRIVAL`]: something of a type that carries no number.
    pub update: u32,
    /// When.
    pub at: Instant,
}

impl Sighting {
    /// A RouteConfiguration arrived.
    pub const ARRIVAL: u32 = u32::MAX;
}

/// The resources of one type that a client has.
#[derive(Debug, Default)]
pub struct Held {
    base: Option<Arc<State>>,
    own: HashMap<u64, Option<u64>>,
    /// Sum over all of it.
    pub sum: u128,
    len: usize,
    nonce: Bytes,
    version: Bytes,
    /// Delta: the version of each resource, where it is kept.
    versions: HashMap<Bytes, Bytes>,
}

impl Held {
    fn get(&self, name: u64) -> Option<u64> {
        match self.own.get(&name) {
            Some(own) => *own,
            None => self.base.as_ref().and_then(|base| base.held.get(&name).copied()),
        }
    }

    fn set(&mut self, name: u64, body: Option<u64>) {
        if let Some(old) = self.get(name) {
            self.sum = self.sum.wrapping_sub(known::summand(name, old));
            self.len -= 1;
        }
        if let Some(new) = body {
            self.sum = self.sum.wrapping_add(known::summand(name, new));
            self.len += 1;
        }
        self.own.insert(name, body);
    }

    fn replace(&mut self, sum: u128, state: Arc<State>) {
        (self.sum, self.len) = (sum, state.held.len());
        self.base = Some(state);
        self.own.clear();
    }
}

/// The result of a client.
#[derive(Debug)]
pub struct Report {
    /// The updates it saw, in order.
    pub sightings: Vec<Sighting>,
    /// Sums of the held resources, by type.
    pub sums: [u128; Type::COUNT],
    /// Responses it got, by type.
    pub responses: [u32; Type::COUNT],
    /// Delta: the versions to report on a new stream, by type, if they were kept.
    pub versions: [Vec<(Bytes, Bytes)>; Type::COUNT],
    /// SotW: the versions it accepted last.
    pub accepted: [Bytes; Type::COUNT],
}

/// The state of an earlier stream that a client reports on its next one.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Delta.
    pub versions: [Bytes; Type::COUNT],
    /// SotW.
    pub accepted: [Bytes; Type::COUNT],
    /// The subscribed endpoints and routes.
    pub names: [Bytes; Type::COUNT],
}

/// A client.
pub struct Client {
    shared: Arc<Shared>,
    asks: Asks,
    behaviour: Behaviour,
    keep_versions: bool,
    past: Option<Past>,
    node: Bytes,
    held: [Held; Type::COUNT],
    /// Subscribed names, encoded, and their number.
    names: [(Bytes, usize); Type::COUNT],
    asked: [bool; Type::COUNT],
    responses: [u32; Type::COUNT],
    sightings: Vec<Sighting>,
    settled: bool,
    recorder: Option<UnboundedSender<Bytes>>,
}

/// A node as an encoded message: with 61 kB of extensions as in a real Envoy, or only with the fields that are read.
fn node(id: &str, envoy: bool) -> Bytes {
    use bytes::BytesMut;
    let mut node = BytesMut::new();
    wire::put(&mut node, 1, id.as_bytes());
    wire::put(&mut node, 2, b"fleet");
    wire::put(&mut node, 6, b"envoy");
    if envoy {
        for number in 0..516 {
            let mut extension = BytesMut::new();
            wire::put(
                &mut extension,
                1,
                format!("envoy.filters.of.some.kind.number_{number:03}").as_bytes(),
            );
            wire::put(&mut extension, 2, b"envoy.filters.some");
            wire::put(
                &mut extension,
                5,
                b"envoy.extensions.filters.of.some.kind.v3.Configuration",
            );
            wire::put(&mut node, 9, &extension);
        }
    }
    node.freeze()
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(shared: Arc<Shared>, id: &str, asks: Asks, behaviour: Behaviour) -> Self {
        Self {
            node: node(id, shared.envoy_node),
            shared,
            asks,
            behaviour,
            keep_versions: false,
            past: None,
            held: Default::default(),
            names: Default::default(),
            asked: Default::default(),
            responses: Default::default(),
            sightings: Vec::new(),
            settled: false,
            recorder: None,
        }
    }

    /// Remember versions, so that the client can report [`Report::versions`] to another replica.
    pub fn keeping_versions(mut self) -> Self {
        self.keep_versions = true;
        self
    }

    /// Begin with the state of an earlier stream.
    pub fn with_past(mut self, past: Past) -> Self {
        self.past = Some(past);
        self
    }

    /// Run the client until `stop` is notified.
    pub async fn run(mut self, stop: Arc<Notify>) -> Result<Report> {
        let transport = connect(self.shared.address).await?;
        let (opener, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 21)
            .handshake::<_, Bytes>(transport)
            .await
            .context("open HTTP/2")?;

        let stalled = Arc::new(Notify::new());
        let waits = Arc::clone(&stalled);
        let driver = tokio::spawn(async move {
            tokio::select! {
                result = connection => drop(result),
                () = waits.notified() => pending().await,
            }
        });

        let result = self.talk(opener, &stop, &stalled).await;
        driver.abort();
        result?;

        let versions = self
            .held
            .each_mut()
            .map(|held| std::mem::take(&mut held.versions).into_iter().collect());
        Ok(Report {
            sightings: self.sightings,
            sums: self.held.each_ref().map(|held| held.sum),
            responses: self.responses,
            versions,
            accepted: self.held.each_ref().map(|held| held.version.clone()),
        })
    }

    async fn talk(&mut self, opener: h2::client::SendRequest<Bytes>, stop: &Notify, stalled: &Notify) -> Result<()> {
        let request = HttpRequest::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{}{}", self.shared.address, self.shared.variant.path()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut requests) = opener.ready().await?.send_request(request, false)?;

        self.open(&mut requests)?;
        let stopped = stop.notified();
        tokio::pin!(stopped);
        stopped.as_mut().enable();

        let response = tokio::select! {
            response = response => response?,
            () = &mut stopped => return Ok(()),
        };
        ensure!(response.status() == 200, "HTTP status {}", response.status());

        let mut responses = response.into_body();
        let mut frames = Frames::default();

        loop {
            let data = tokio::select! {
                data = responses.data() => data,
                () = &mut stopped => return Ok(()),
            };
            let Some(data) = data else {
                bail!("the stream ended: {:?}", trailers(&mut responses).await)
            };

            let data = data?;
            responses.flow_control().release_capacity(data.len())?;
            frames.push(&data);
            while let Some(message) = frames.next()? {
                self.on_message(message, &mut requests)?;
            }

            if self.settled && self.behaviour == Behaviour::Stalls {
                stalled.notify_one();
                stopped.await;
                return Ok(());
            }
        }
    }

    /// The first requests.
    fn open(&mut self, requests: &mut SendStream<Bytes>) -> Result<()> {
        if let Asks::Endpoints(list) = &self.asks {
            let encoded = wire::names(wire::NAMES, list.iter().map(String::as_str));
            self.names[Type::Endpoint as usize] = (encoded, list.len());
            return self.ask(Type::Endpoint, requests);
        }
        if let Some(past) = self.past.take() {
            for of_type in Type::ALL {
                let index = of_type as usize;
                self.asked[index] = true;
                let request = Request {
                    node: if of_type == Type::Cluster { &self.node } else { &[] },
                    names: &past.names[index],
                    version: &past.accepted[index],
                    versions: &past.versions[index],
                    ..Request::default()
                };
                requests.send_data(request.frame(self.shared.variant, of_type), false)?;
            }
            return Ok(());
        }
        self.ask(Type::Cluster, requests)
    }

    /// The first request of a type.
    fn ask(&mut self, of_type: Type, requests: &mut SendStream<Bytes>) -> Result<()> {
        let first = !self.asked.contains(&true);
        self.asked[of_type as usize] = true;
        let (names, _) = &self.names[of_type as usize];
        let request = Request {
            node: if first { &self.node } else { &[] },
            names,
            ..Request::default()
        };
        requests
            .send_data(request.frame(self.shared.variant, of_type), false)
            .context("send a request")
    }

    fn on_message(&mut self, message: Bytes, requests: &mut SendStream<Bytes>) -> Result<()> {
        let len = message.len();
        if let Some(recorder) = &self.recorder {
            recorder.send(message.clone()).context("keep a message")?;
        }

        let response = Response::parse(self.shared.variant, message)?;
        let Some(of_type) = Type::of(&response.type_url) else {
            bail!("a response of type {:?}, which was not asked for", response.type_url)
        };

        self.shared.count(of_type, len, response.resources.len());
        self.responses[of_type as usize] += 1;
        let refers = self.take(of_type, &response)?;

        let held = &mut self.held[of_type as usize];
        held.nonce = Bytes::copy_from_slice(&response.nonce);
        if self.behaviour != Behaviour::Refuses {
            held.version = Bytes::copy_from_slice(&response.version);
        }

        // Envoy subscribes to the names in a response before it sends the ACK of the response.
        match of_type {
            Type::Cluster => self.refer(Type::Endpoint, refers, requests)?,
            Type::Listener => self.refer(Type::Route, refers, requests)?,
            Type::Endpoint | Type::Route => {}
        }

        self.answer(of_type, requests)?;
        if self.asks_all() && of_type == Type::Cluster && !self.asked[Type::Listener as usize] {
            self.ask(Type::Listener, requests)?;
        }

        self.settle();
        Ok(())
    }

    fn asks_all(&self) -> bool {
        matches!(self.asks, Asks::All)
    }

    /// Store the resources of a response. Returns the names that are referenced for the first time.
    fn take(&mut self, of_type: Type, response: &Response) -> Result<Refers> {
        let (shared, held) = (&self.shared, &mut self.held[of_type as usize]);
        let now = Instant::now();
        let full = shared.variant == Variant::Sotw && matches!(of_type, Type::Cluster | Type::Listener);

        if self.keep_versions && shared.variant == Variant::Delta {
            held.versions.extend(
                response
                    .resources
                    .iter()
                    .map(|one| (Bytes::copy_from_slice(&one.name), Bytes::copy_from_slice(&one.version))),
            );
        }

        if full || held.len == 0 {
            let sum = known::sum(&response.resources);
            if sum == held.sum {
                return Ok(Refers::default());
            }
            let state = shared.known.state(of_type, sum, &response.resources)?;
            let before = held.base.replace(Arc::clone(&state));
            held.replace(sum, Arc::clone(&state));
            if let Some(update) = state.update.filter(|_| before.is_some()) {
                self.saw(update, now);
            }
            let grew = before.is_none_or(|before| before.refers != state.refers);
            return Ok(if grew {
                Refers {
                    all: Some(state),
                    new: Vec::new(),
                }
            } else {
                Refers::default()
            });
        }

        let mut refers = Refers::default();
        let mut seen = Vec::new();
        for resource in &response.resources {
            let old = held.get(resource.name_hash);
            if old == Some(resource.body_hash) {
                continue;
            }
            let body = shared.known.body(of_type, resource)?;
            held.set(resource.name_hash, Some(resource.body_hash));
            seen.extend(
                body.update
                    .or_else(|| (of_type == Type::Route).then_some(Sighting::ARRIVAL)),
            );
            if old.is_none() {
                refers.new.extend(body.refers.iter().cloned());
            }
        }

        for name in &response.removed {
            held.set(xxhash_rust::xxh3::xxh3_64(name), None);
        }

        seen.into_iter().for_each(|update| self.saw(update, now));
        Ok(refers)
    }

    fn saw(&mut self, update: u32, at: Instant) {
        self.sightings.push(Sighting { update, at });
        self.shared.sightings.fetch_add(1, Ordering::Relaxed);
        self.shared.moved.notify_waiters();
    }

    /// Ask for names of a type that were referred to.
    fn refer(&mut self, of_type: Type, refers: Refers, requests: &mut SendStream<Bytes>) -> Result<()> {
        if !self.asks_all() {
            return Ok(());
        }

        let index = of_type as usize;
        if let Some(state) = refers.all {
            self.names[index] = (state.names.clone(), state.refers.len());
            if state.refers.is_empty() {
                return Ok(());
            }
        } else if refers.new.is_empty() {
            return Ok(());
        } else {
            let (known, count) = &self.names[index];
            let new = wire::names(wire::NAMES, refers.new.iter().map(String::as_str));
            self.names[index] = ([&known[..], &new].concat().into(), count + refers.new.len());
            if self.shared.variant == Variant::Delta {
                let request = Request {
                    names: &new,
                    ..Request::default()
                };
                return Ok(requests.send_data(request.frame(Variant::Delta, of_type), false)?);
            }
        }

        if self.asked[index] && self.shared.variant == Variant::Sotw {
            let held = &self.held[index];
            let names = &self.names[index].0;
            let request = Request {
                names,
                nonce: &held.nonce,
                version: &held.version,
                ..Request::default()
            };
            return Ok(requests.send_data(request.frame(Variant::Sotw, of_type), false)?);
        }

        self.ask(of_type, requests)
    }

    fn answer(&self, of_type: Type, requests: &mut SendStream<Bytes>) -> Result<()> {
        let held = &self.held[of_type as usize];
        let names: &[u8] = if self.shared.variant == Variant::Sotw {
            &self.names[of_type as usize].0
        } else {
            &[]
        };
        let refused = (self.behaviour == Behaviour::Refuses).then_some("the load generator refuses everything");
        let request = Request {
            nonce: &held.nonce,
            version: &held.version,
            names,
            refused,
            ..Request::default()
        };
        requests
            .send_data(request.frame(self.shared.variant, of_type), false)
            .context("send an answer")
    }

    /// Count the client as settled once it has all subscribed resources.
    fn settle(&mut self) {
        if self.settled {
            return;
        }
        let has = |of_type: Type| {
            let index = of_type as usize;
            self.asked[index] && self.held[index].len >= self.names[index].1
        };
        let all = match self.asks {
            Asks::Endpoints(_) => has(Type::Endpoint),
            Asks::All => {
                let wanted = |of_type: Type| self.names[of_type as usize].1 == 0 || has(of_type);
                self.responses[Type::Listener as usize] > 0 && Type::ALL.into_iter().all(wanted)
            }
        };
        if all {
            self.settled = true;
            self.shared.settled.fetch_add(1, Ordering::Relaxed);
            self.shared.moved.notify_waiters();
        }
    }
}

/// Names that a response refers to.
#[derive(Debug, Default)]
struct Refers {
    all: Option<Arc<State>>,
    new: Vec<String>,
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let mut wait = Duration::from_millis(5);
    for _ in 0..8 {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait *= 2;
    }
    TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))
}

async fn trailers(responses: &mut RecvStream) -> Option<http::HeaderMap> {
    responses.trailers().await.ok().flatten()
}

impl Received {
    /// The name as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// One delta client's first answers, message by message, as they came.
///
/// # Errors
/// The server does not answer.
pub async fn record(address: SocketAddr) -> Result<Vec<Bytes>> {
    let shared = Arc::new(Shared::new(address, Variant::Delta, false));
    let (messages, mut recorded) = tokio::sync::mpsc::unbounded_channel();
    let mut client = Client::new(Arc::clone(&shared), "recorder", Asks::All, Behaviour::Acknowledges);
    client.recorder = Some(messages);
    let stop = Arc::new(Notify::new());
    let running = tokio::spawn(client.run(Arc::clone(&stop)));
    while shared.settled.load(Ordering::Relaxed) == 0 {
        ensure!(
            !running.is_finished(),
            "the recording client ended: {:?}",
            running.await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.notify_waiters();
    running.await??;
    let mut messages = Vec::new();
    while let Some(message) = recorded.recv().await {
        messages.push(message);
    }
    Ok(messages)
}
