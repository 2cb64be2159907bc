//! The xDS port: accepts connections, finds the service of each request, ends what must end.
//!
//! hyper serves HTTP/2; xDS streams are our own bodies ([`super::body`]), everything else on the port (health, reflection,
//! what is unknown) goes to tonic's routes. The services are a table: one line a type.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;
use tracing::{debug, info, warn};

use super::any_body::{AnyBody, Other};
use super::body::{Ending, Opening, Stream, status};
use super::gate::Gate;
use super::names::Interner;
use super::peer::{Link, Peer};
use super::preface::{self, Foreign};
use super::progress::Watchdog;
use super::session::{Session, Settings};
use super::{Error as StreamError, others};
use crate::fleet::{Fleet, Variant};
use crate::resource::ResourceType;
use crate::snapshot::store::Store;

/// Connections that wait to be accepted. A fleet reconnects within half a second; with 128, the usual number, a thousand
/// connects take two seconds.
const BACKLOG: i32 = 4096;
/// Envoy's per-type services open a stream a cluster (GR-05).
const STREAMS_A_CONNECTION: u32 = 100_000;
/// Envoy's main thread can be busy for seconds with a large CDS (GR-01).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// A client that has not finished the TLS handshake, and said that it speaks HTTP/2, is not waited for any longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// After an accept error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Stalled clients are looked for four times in the time they have, but no more often than this.
const SWEEP_MIN: Duration = Duration::from_millis(10);
/// What a client may send ahead of being read: a stream's window, a connection's.
const WINDOWS: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Headers of a request, in bytes: names, values and 32 for each. xDS clients send a few hundred.
const HEADERS_MAX: u32 = 16 * 1024;
/// Streams that a client may have reset before they were looked at, and that it may have had reset for errors of its own;
/// then its connection ends.
const RESETS_MAX: (usize, usize) = (20, 1024);

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP; port 0: any free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path; an old one there is replaced.
    Unix(PathBuf),
}

/// `127.0.0.1:18000` or `unix:PATH`.
impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// How the port is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub listen: Listen,
    /// Streams beyond it end with UNAVAILABLE before anything is read. Default 50,000.
    pub max_streams: usize,
    /// A client that takes nothing of what was handed to it for so long is closed. Default 60 s.
    pub stall_timeout: Duration,
    /// A connection ends at this age, give or take a tenth; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How long a drain takes: streams end spread over two thirds of it.
    pub grace: Duration,
    /// `control_plane.identifier`.
    pub identifier: String,
    /// The latest certificates; `None`: plain text. A new value holds for new connections.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Secrets go over connections of strangers too. Default off.
    pub plaintext_secrets: bool,
}

/// Why the server stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket is unusable.
    #[error("listen on {0}")]
    Listen(Listen, #[source] io::Error),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The xDS port, bound.
pub struct Server {
    listener: Listener,
    address: Listen,
    options: Options,
}

impl Server {
    /// Bind the port. Connections queue from here on; they are served by [`Server::run`].
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(options: Options) -> io::Result<Self> {
        let (listener, address) = match &options.listen {
            Listen::Tcp(address) => bind_tcp(*address)?,
            Listen::Unix(path) => {
                if path.exists() {
                    std::fs::remove_file(path)?;
                }
                (Listener::Unix(UnixListener::bind(path)?), Listen::Unix(path.clone()))
            }
        };
        Ok(Self { listener, address, options })
    }

    /// Where it really listens.
    #[must_use]
    pub fn local_addr(&self) -> &Listen {
        &self.address
    }

    /// Serve until `draining` is cancelled and every stream has ended, or until `token` is cancelled.
    ///
    /// # Errors
    /// The listening socket became unusable.
    pub async fn run(
        self,
        store: Arc<Store>,
        fleet: Fleet,
        draining: CancellationToken,
        token: CancellationToken,
    ) -> Result<(), Error> {
        let server = Arc::new(Shared {
            identifier: self.options.identifier.as_str().into(),
            options: self.options,
            store,
            fleet,
            others: OnceCell::new(),
            watchdog: Arc::default(),
            watchdog_of_others: Arc::default(),
            gate: Arc::default(),
            interner: Arc::default(),
            next_salt: AtomicU32::new(rand::rng().random()),
            tasks: TaskTracker::new(),
            draining,
            token,
        });
        server.tasks.spawn(Arc::clone(&server).open_gate());
        let mut sweep = interval((server.options.stall_timeout / 4).max(SWEEP_MIN));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener) => accepted,
                _ = sweep.tick() => {
                    server.watchdog.sweep(server.options.stall_timeout);
                    server.watchdog_of_others.sweep(server.options.stall_timeout);
                    continue;
                }
                () = server.draining.cancelled() => break,
                () = server.token.cancelled() => break,
            };
            match accepted {
                Ok((transport, address)) => {
                    let server = Arc::clone(&server);
                    server.tasks.clone().spawn(async move { server.serve(transport, address).await });
                }
                Err(error) => {
                    warn!(%error, "A connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        server.tasks.close();
        server.tasks.wait().await;
        Ok(())
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(Listener, Listen)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = Listen::Tcp(listener.local_addr()?);
    Ok((Listener::Tcp(listener), address))
}

/// What was accepted.
enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<(Transport, Option<SocketAddr>)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            Ok((Transport::Tcp(stream), Some(address)))
        }
        Listener::Unix(listener) => Ok((Transport::Unix(listener.accept().await?.0), None)),
    }
}

/// What the connections of a server share.
struct Shared {
    options: Options,
    identifier: Arc<str>,
    store: Arc<Store>,
    fleet: Fleet,
    /// Built when they are first asked for: reflection reads megabytes of descriptors.
    others: OnceCell<Routes>,
    watchdog: Arc<Watchdog>,
    /// Of the small services: when xDS streams are as many as may be, these are still answered.
    watchdog_of_others: Arc<Watchdog>,
    gate: Arc<Gate>,
    interner: Arc<Interner>,
    next_salt: AtomicU32,
    /// Connections and the tasks that hyper has for their streams.
    tasks: TaskTracker,
    draining: CancellationToken,
    token: CancellationToken,
}

impl Shared {
    async fn serve(self: Arc<Self>, transport: Transport, address: Option<SocketAddr>) {
        match transport {
            Transport::Unix(stream) => self.greet(stream, address, Link::Unix, Instant::now() + HANDSHAKE_MAX).await,
            Transport::Tcp(stream) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "TCP_NODELAY could not be set");
                }
                self.secure(stream, address).await;
            }
        }
    }

    /// The TLS handshake, where there is to be one.
    async fn secure(self: Arc<Self>, stream: TcpStream, address: Option<SocketAddr>) {
        let deadline = Instant::now() + HANDSHAKE_MAX;
        let tls = self.options.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let Some(tls) = tls else { return self.greet(stream, address, Link::Plaintext, deadline).await };
        match self.by(deadline, TlsAcceptor::from(tls).accept(stream)).await {
            Some(Ok(stream)) => {
                // The server takes a certificate only after it was verified by the client CA.
                let verified = stream.get_ref().1.peer_certificates().is_some();
                let link = if verified { Link::MutualTls } else { Link::Tls };
                self.greet(stream, address, link, deadline).await;
            }
            Some(Err(error)) => info!(%error, ?address, "A TLS handshake failed"),
            None => info!(?address, "A TLS handshake took longer than {HANDSHAKE_MAX:?}"),
        }
    }

    /// Hear that the client speaks HTTP/2.
    async fn greet(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: Option<SocketAddr>,
        link: Link,
        deadline: Instant,
    ) {
        match self.by(deadline, preface::read(io)).await {
            Some(Ok(Ok(io))) => self.drive(io, address, link).await,
            Some(Ok(Err(Foreign::Nothing))) => debug!(?address, "A connection ended that said nothing"),
            Some(Ok(Err(foreign))) => info!(?address, "Ended a connection that speaks {}", foreign.what()),
            Some(Err(error)) => debug!(%error, ?address, "A connection ended"),
            None => info!(?address, "Ended a connection that did not say within {HANDSHAKE_MAX:?} what it speaks"),
        }
    }

    /// What comes of it by then; `None`: nothing, or the server ends.
    async fn by<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            result = timeout_at(deadline, future) => result.ok(),
            () = self.draining.cancelled() => None,
            () = self.token.cancelled() => None,
        }
    }

    /// Serve one connection until it is over.
    async fn drive(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: Option<SocketAddr>,
        link: Link,
    ) {
        let peer = Peer::new(address, link, self.options.plaintext_secrets);
        let ending = CancellationToken::new();
        let dispatch = Dispatch { server: Arc::clone(&self), peer, ending: ending.clone() };
        let mut connection = pin!(self.http2(address).serve_connection(TokioIo::new(io), dispatch));
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%error, ?address, "A connection ended");
                }
                return;
            }
            () = self.token.cancelled() => return,
            () = self.end_of_connection() => {}
        }
        // GOAWAY first: the client opens its next streams elsewhere, while each of these goes on until its turn.
        connection.as_mut().graceful_shutdown();
        ending.cancel();
        tokio::select! {
            _ = connection => {}
            () = sleep(self.options.grace * 5 / 6) => {}
            () = self.token.cancelled() => {}
        }
    }

    fn http2(&self, address: Option<SocketAddr>) -> http2::Builder<Tasks> {
        let stall_timeout = self.options.stall_timeout;
        let mut builder = http2::Builder::new(Tasks { tracker: self.tasks.clone(), address, stall_timeout });
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(HEADERS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX.0)
            .max_local_error_reset_streams(RESETS_MAX.1)
            .max_concurrent_streams(STREAMS_A_CONNECTION);
        builder
    }

    /// First answers may be made once there is something to answer with.
    async fn open_gate(self: Arc<Self>) {
        let mut published = self.store.subscribe();
        tokio::select! {
            _ = published.wait_for(|generation| *generation > 0) => self.gate.open(turns()),
            () = self.draining.cancelled() => {}
            () = self.token.cancelled() => {}
        }
    }

    /// When the server ends a connection: when it drains, or at its age.
    async fn end_of_connection(&self) {
        let age = self.options.max_connection_age.map(|age| age.mul_f64(rand::rng().random_range(0.9..1.1)));
        let aged = async {
            match age {
                Some(age) => sleep(age).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = aged => {}
            () = self.draining.cancelled() => {}
        }
    }

    /// The small services; built, and their health reported, from when they are first asked for.
    async fn others(&self) -> Routes {
        let build = async || {
            let (routes, health) = others::routes(Arc::clone(&self.store), self.fleet.clone(), &self.draining).await;
            let (store, draining, token) = (Arc::clone(&self.store), self.draining.clone(), self.token.clone());
            self.tasks.spawn(others::report(health, store, draining, token));
            routes
        };
        self.others.get_or_init(build).await.clone()
    }
}

tokio::task_local! {
    /// Told when the client of the stream that this task serves takes nothing.
    static STALLED: Arc<Notify>;
}

/// Spawns the streams of a connection, so that they have an owner, and can be ended though HTTP/2 does not ask them for
/// more: a task that is dropped resets its stream, and its connection's other streams go on.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    address: Option<SocketAddr>,
    stall_timeout: Duration,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stalled = Arc::new(Notify::new());
        let (address, limit) = (self.address, self.stall_timeout);
        self.tracker.spawn(STALLED.scope(Arc::clone(&stalled), async move {
            tokio::select! {
                _ = future => {}
                () = stalled.notified() => info!(?address, "Reset a stream whose client took nothing for {limit:?}"),
            }
        }));
    }
}

/// One xDS service: its name, its SotW and delta methods, its one type.
struct Row(&'static str, &'static str, &'static str, Option<ResourceType>);

/// VHDS has no SotW method.
const NO_METHOD: &str = "";

const SERVICES: [Row; 10] = [
    Row(
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "StreamAggregatedResources",
        "DeltaAggregatedResources",
        None,
    ),
    Row(
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "StreamListeners",
        "DeltaListeners",
        Some(ResourceType::Listener),
    ),
    Row("envoy.service.route.v3.RouteDiscoveryService", "StreamRoutes", "DeltaRoutes", Some(ResourceType::Route)),
    Row(
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        "StreamClusters",
        "DeltaClusters",
        Some(ResourceType::Cluster),
    ),
    Row(
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "StreamEndpoints",
        "DeltaEndpoints",
        Some(ResourceType::Endpoint),
    ),
    Row("envoy.service.secret.v3.SecretDiscoveryService", "StreamSecrets", "DeltaSecrets", Some(ResourceType::Secret)),
    Row(
        "envoy.service.runtime.v3.RuntimeDiscoveryService",
        "StreamRuntime",
        "DeltaRuntime",
        Some(ResourceType::Runtime),
    ),
    Row(
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        "StreamExtensionConfigs",
        "DeltaExtensionConfigs",
        Some(ResourceType::ExtensionConfig),
    ),
    Row(
        "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        "StreamScopedRoutes",
        "DeltaScopedRoutes",
        Some(ResourceType::ScopedRoute),
    ),
    Row(
        "envoy.service.route.v3.VirtualHostDiscoveryService",
        NO_METHOD,
        "DeltaVirtualHosts",
        Some(ResourceType::VirtualHost),
    ),
];

/// The names of the xDS services, for health.
pub(super) fn service_names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|row| row.0)
}

/// The variant and the one type of the service that a path names.
fn find_service(path: &str) -> Option<(Variant, Option<ResourceType>)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let Row(_, sotw, delta, service_type) = SERVICES.iter().find(|row| row.0 == service)?;
    let variants = [(*sotw, Variant::Sotw), (*delta, Variant::Delta)];
    let (_, variant) = variants.into_iter().find(|(name, _)| !name.is_empty() && *name == method)?;
    Some((variant, *service_type))
}

/// The requests of one connection, each to its service.
struct Dispatch {
    server: Arc<Shared>,
    peer: Peer,
    ending: CancellationToken,
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<AnyBody<Incoming>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
        let server = Arc::clone(&self.server);
        match find_service(request.uri().path()) {
            Some((variant, service_type)) if is_grpc && request.method() == Method::POST => {
                let (peer, ending) = (self.peer, self.ending.clone());
                Box::pin(async move { Ok(server.open(request.into_body(), variant, service_type, peer, ending)) })
            }
            _ => {
                let ending = self.ending.clone();
                Box::pin(async move { server.call_other(request, ending).await })
            }
        }
    }
}

impl Shared {
    /// Open an xDS stream, in the task that serves it.
    fn open(
        &self,
        requests: Incoming,
        variant: Variant,
        service_type: Option<ResourceType>,
        peer: Peer,
        ending: CancellationToken,
    ) -> Response<AnyBody<Incoming>> {
        let Some(progress) = self.watchdog.admit(self.options.max_streams, STALLED.with(Arc::clone)) else {
            return too_many_streams();
        };
        let session = Session::new(Settings {
            variant,
            service_type,
            identifier: Arc::clone(&self.identifier),
            salt: self.next_salt.fetch_add(1, Ordering::Relaxed),
            interner: Arc::clone(&self.interner),
            secrets: peer.withheld.is_none(),
        });
        grpc_response(AnyBody::Stream(Box::new(Stream::new(Opening {
            requests,
            session,
            variant,
            aggregated: service_type.is_none(),
            peer,
            store: Arc::clone(&self.store),
            fleet: self.fleet.clone(),
            seat: self.gate.seat(progress.number()),
            progress,
            ending: self.turn(ending),
        }))))
    }

    /// Answer what is not xDS.
    async fn call_other(
        &self,
        request: Request<Incoming>,
        ending: CancellationToken,
    ) -> Result<Response<AnyBody<Incoming>>, Infallible> {
        let stalled = STALLED.with(Arc::clone);
        let Some(progress) = self.watchdog_of_others.admit(self.options.max_streams, stalled) else {
            return Ok(too_many_streams());
        };
        let response = self.others().await.call(request).await?;
        let ending = self.turn(ending);
        Ok(response.map(|body| AnyBody::Other(Box::new(Other { body, progress, ending }))))
    }

    /// The end of a stream once its connection is `ending`: at a moment of its own within two thirds of the grace, so that
    /// proxies do not come back all at once.
    fn turn(&self, ending: CancellationToken) -> Ending {
        let spread = self.options.grace * 2 / 3;
        Box::pin(async move {
            ending.cancelled_owned().await;
            sleep(spread.mul_f64(rand::random())).await;
        })
    }
}

/// How many streams may put first answers together at a time: one thread is left for everything else.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get() - 1)
}

fn too_many_streams() -> Response<AnyBody<Incoming>> {
    let error = StreamError::TooManyStreams;
    let mut response = grpc_response(AnyBody::Empty);
    response.headers_mut().extend(status(error.code(), &error.to_string()));
    response
}

fn grpc_response(body: AnyBody<Incoming>) -> Response<AnyBody<Incoming>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
