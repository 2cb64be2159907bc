//! The services of the port: which of them a request is for, and what all of them share.
//!
//! xDS streams are our own ([`crate::xds::stream`]), everything else on the port (health, reflection, what is unknown) goes to
//! tonic's routes. The services are a table: one line a type.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;
use tracing::debug;

use crate::fleet::{Fleet, Variant};
use crate::resource::ResourceType;
use crate::snapshot::store::Store;
use crate::xds::error::{Error as StreamError, status};
use crate::xds::http2::incoming::Incoming;
use crate::xds::http2::peer::Peer;
use crate::xds::server::options::Options;
use crate::xds::server::sparse::Sparse;
use crate::xds::service_table::find_service;
use crate::xds::services;
use crate::xds::services::relay::Answer;
use crate::xds::session::subscription::names::Interner;
use crate::xds::session::{Session, Settings};
use crate::xds::stream::admission::Gate;
use crate::xds::stream::in_flight::Watchdog;
use crate::xds::stream::interest::Audience;
use crate::xds::stream::message::Message;
use crate::xds::stream::{Ending, Opening, Stream};

/// What the connections of a server share.
pub(in crate::xds) struct Shared {
    pub(in crate::xds) options: Options,
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
    /// Plaintext clients on a TLS port.
    pub(in crate::xds) plaintext_clients: Sparse,
    /// A task a connection, and one for each of its streams.
    pub(in crate::xds) tasks: TaskTracker,
    pub(in crate::xds) draining: CancellationToken,
    pub(in crate::xds) token: CancellationToken,
}

impl Shared {
    pub(in crate::xds) fn new(
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
            plaintext_clients: Sparse::default(),
            tasks: TaskTracker::new(),
            draining,
            token,
        }
    }

    /// Reset the streams whose clients take nothing.
    pub(in crate::xds) fn sweep(&self) {
        self.watchdog.sweep(self.options.stall_timeout);
        self.watchdog_of_others.sweep(self.options.stall_timeout);
    }

    /// First answers may be made once there is something to answer with.
    pub(in crate::xds) async fn open_gate(self: Arc<Self>) {
        let mut published = self.store.subscribe();
        tokio::select! {
            _ = published.wait_for(|generation| *generation > 0) => self.gate.open(turns()),
            () = self.draining.cancelled() => {}
            () = self.token.cancelled() => {}
        }
    }

    /// Tell the streams of what is published, for ever.
    pub(in crate::xds) async fn announce(self: Arc<Self>) {
        Arc::clone(&self.audience).follow(Arc::clone(&self.store)).await;
    }

    /// The small services; built, and their health reported, from when they are first asked for.
    async fn others(&self) -> Routes {
        let build = async || {
            let (routes, health) = services::routes(Arc::clone(&self.store), self.fleet.clone(), &self.draining).await;
            let (store, draining, token) = (Arc::clone(&self.store), self.draining.clone(), self.token.clone());
            self.tasks.spawn(services::report(health, store, draining, token));
            routes
        };
        self.others.get_or_init(build).await.clone()
    }
}

impl Shared {
    /// A request arrived: it is answered by a task of its own. `ending` is told when its connection ends.
    pub(in crate::xds) fn serve(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Message>,
        peer: Peer,
        ending: &CancellationToken,
    ) {
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
        let request = request.map(Incoming::new);
        match find_service(request.uri().path()) {
            Some((variant, service_type)) if is_grpc && request.method() == Method::POST => {
                if let Some(stream) = self.open(request.into_body(), respond, variant, service_type, peer, ending) {
                    self.tasks.spawn(stream);
                }
            }
            _ => drop(
                self.tasks
                    .spawn(Arc::clone(self).answer(request, respond, peer, ending.clone())),
            ),
        }
    }

    /// Open an xDS stream. `None`: there is none, and the client was told why, if it is there still.
    fn open(
        &self,
        requests: Incoming,
        respond: SendResponse<Message>,
        variant: Variant,
        service_type: Option<ResourceType>,
        peer: Peer,
        ending: &CancellationToken,
    ) -> Option<Stream> {
        let Some(progress) = self.watchdog.admit(self.options.max_streams, peer.address) else {
            head(respond, too_many_streams(), true);
            return None;
        };
        let session = Session::new(Settings {
            variant,
            service_type,
            identifier: Arc::clone(&self.identifier),
            salt: self.next_salt.fetch_add(1, Ordering::Relaxed),
            interner: Arc::clone(&self.interner),
            secrets: peer.withheld.is_none(),
        });
        Some(Stream::new(Opening {
            requests,
            out: head(respond, grpc_response(), false)?,
            session,
            variant,
            aggregated: service_type.is_none(),
            peer,
            store: Arc::clone(&self.store),
            fleet: self.fleet.clone(),
            seat: self.gate.seat(progress.number()),
            member: self.audience.enter(progress.number(), Arc::clone(progress.cell())),
            progress,
            ending: self.turn(ending.clone()),
        }))
    }

    /// Answer what is not xDS.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        respond: SendResponse<Message>,
        peer: Peer,
        ending: CancellationToken,
    ) {
        let Some(progress) = self.watchdog_of_others.admit(self.options.max_streams, peer.address) else {
            head(respond, too_many_streams(), true);
            return;
        };
        let Ok(response) = self.others().await.call(request).await;
        let (parts, body) = response.into_parts();
        let ended = body.is_end_stream();
        if let Some(out) = head(respond, Response::from_parts(parts, ()), ended)
            && !ended
        {
            Answer::new(body, out, progress, self.turn(ending)).await;
        }
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

fn too_many_streams() -> Response<()> {
    let error = StreamError::TooManyStreams;
    let mut response = grpc_response();
    response.headers_mut().extend(status(error.code(), &error.to_string()));
    response
}

fn grpc_response() -> Response<()> {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Send the head of a response, and where nothing follows it, its end. `None`: the client is gone.
fn head(mut respond: SendResponse<Message>, response: Response<()>, ends: bool) -> Option<SendStream<Message>> {
    respond
        .send_response(response, ends)
        .inspect_err(|error| debug!(%error, "A stream ended as it began"))
        .ok()
}
