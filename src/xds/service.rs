//! The services of the port: which of them a request is for, and what all of them share.
//!
//! xDS streams are our own bodies ([`super::body`]), everything else on the port (health, reflection, what is unknown) goes
//! to tonic's routes. The services are a table: one line a type.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;

use super::any_body::{AnyBody, Other};
use super::audience::Audience;
use super::body::{Ending, Opening, Stream, status};
use super::gate::Gate;
use super::names::Interner;
use super::options::Options;
use super::peer::Peer;
use super::progress::Watchdog;
use super::session::{Session, Settings};
use super::task::StreamTask;
use super::{Error as StreamError, others};
use crate::fleet::{Fleet, Variant};
use crate::resource::ResourceType;
use crate::snapshot::store::Store;

/// What the connections of a server share.
pub(super) struct Shared {
    pub(super) options: Options,
    identifier: Arc<str>,
    store: Arc<Store>,
    fleet: Fleet,
    /// Built when they are first asked for: reflection reads megabytes of descriptors.
    others: OnceCell<Routes>,
    watchdog: Arc<Watchdog>,
    /// Of the small services: when xDS streams are as many as may be, these are still answered.
    watchdog_of_others: Arc<Watchdog>,
    gate: Arc<Gate>,
    audience: Arc<Audience>,
    interner: Arc<Interner>,
    next_salt: AtomicU32,
    /// Connections and the tasks that hyper has for their streams.
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
    pub(super) token: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        store: Arc<Store>,
        fleet: Fleet,
        draining: CancellationToken,
        token: CancellationToken,
    ) -> Self {
        Self {
            identifier: options.identifier.as_str().into(),
            options,
            store,
            fleet,
            others: OnceCell::new(),
            watchdog: Arc::default(),
            watchdog_of_others: Arc::default(),
            gate: Arc::default(),
            audience: Arc::default(),
            interner: Arc::default(),
            next_salt: AtomicU32::new(rand::random()),
            tasks: TaskTracker::new(),
            draining,
            token,
        }
    }

    /// Reset the streams whose clients take nothing.
    pub(super) fn sweep(&self) {
        self.watchdog.sweep(self.options.stall_timeout);
        self.watchdog_of_others.sweep(self.options.stall_timeout);
    }

    /// First answers may be made once there is something to answer with.
    pub(super) async fn open_gate(self: Arc<Self>) {
        let mut published = self.store.subscribe();
        tokio::select! {
            _ = published.wait_for(|generation| *generation > 0) => self.gate.open(turns()),
            () = self.draining.cancelled() => {}
            () = self.token.cancelled() => {}
        }
    }

    /// Tell the streams of what is published, for ever.
    pub(super) async fn announce(self: Arc<Self>) {
        Arc::clone(&self.audience).follow(Arc::clone(&self.store)).await;
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
            member: self.audience.enter(progress.number(), Arc::clone(progress.cell())),
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
        Ok(response.map(|body| AnyBody::Other(Box::new(Other::new(body, progress, ending)))))
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
