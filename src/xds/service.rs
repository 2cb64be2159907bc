//! The xDS port: accepts connections, finds the service of each request, ends what must end.
//!
//! hyper serves HTTP/2; xDS streams are our own bodies ([`super::body`]), everything else on the port (health, reflection,
//! what is unknown) goes to tonic's routes. The services are a table: one line a type.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;
use tracing::warn;

use super::any_body::{AnyBody, Other};
use super::aside::Aside;
use super::body::{Ending, Opening, Stream, status};
use super::connection::{self, Guest, StreamTask};
use super::gate::Gate;
use super::names::Interner;
use super::peer::Peer;
use super::progress::Watchdog;
use super::session::{Session, Settings};
use super::{Error as StreamError, others};
use crate::fleet::{Fleet, Variant};
use crate::resource::ResourceType;
use crate::snapshot::store::Store;

/// Connections that wait to be accepted. A fleet reconnects within half a second; with 128, the usual number, a thousand
/// connects take two seconds.
const BACKLOG: i32 = 4096;
/// After an accept error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Stalled clients are looked for four times in the time they have, but no more often than this.
const SWEEP_MIN: Duration = Duration::from_millis(10);

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
    /// Connections beyond it are closed at once. Default: as many as the process may have files, less what else needs them.
    pub max_connections: usize,
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
            connections: Arc::new(Semaphore::new(self.options.max_connections.min(Semaphore::MAX_PERMITS))),
            turned_away: AtomicBool::new(false),
            identifier: self.options.identifier.as_str().into(),
            options: self.options,
            store,
            fleet,
            others: OnceCell::new(),
            watchdog: Arc::default(),
            watchdog_of_others: Arc::default(),
            gate: Arc::default(),
            interner: Arc::default(),
            next_salt: AtomicU32::new(rand::random()),
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
                Ok((transport, address)) => server.take_in(transport, address),
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
pub(super) enum Transport {
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
pub(super) struct Shared {
    pub(super) options: Options,
    /// A permit a connection.
    connections: Arc<Semaphore>,
    /// The last that came was one too many.
    turned_away: AtomicBool,
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
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
    pub(super) token: CancellationToken,
}

impl Shared {
    /// Serve a connection, if there may be one more.
    fn take_in(self: &Arc<Self>, transport: Transport, address: Option<SocketAddr>) {
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            // Told once a crowd.
            if !self.turned_away.swap(true, Ordering::Relaxed) {
                let limit = self.options.max_connections;
                warn!(?address, limit, "Turned a connection away: there are as many as the limit on open files allows");
            }
            return;
        };
        self.turned_away.store(false, Ordering::Relaxed);
        connection::start(Arc::clone(self), transport, Guest { address, _permit: permit });
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
pub(super) struct Dispatch {
    pub(super) server: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) ending: CancellationToken,
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
                let (address, ending) = (self.peer.address, self.ending.clone());
                Box::pin(async move { server.call_other(request, address, ending).await })
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
        let Some(progress) = self.watchdog.admit(self.options.max_streams, StreamTask::current(peer.address)) else {
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
        address: Option<SocketAddr>,
        ending: CancellationToken,
    ) -> Result<Response<AnyBody<Incoming>>, Infallible> {
        let task = StreamTask::current(address);
        let Some(progress) = self.watchdog_of_others.admit(self.options.max_streams, task) else {
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
        Aside::new(Box::pin(async move {
            ending.cancelled_owned().await;
            sleep(spread.mul_f64(rand::random())).await;
        }))
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
