//! Routes each request of the port to its service, and holds the state that all connections share.
//!
//! xDS streams are served by [`crate::xds::stream`]. Every other request (health, reflection, unknown paths) goes to
//! the routes of tonic. [`crate::xds::service_table`] lists the xDS services, one line a type.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;
use tracing::debug;

use crate::fleet::limit::Limit;
use crate::fleet::{Fleet, Variant};
use crate::resource::ResourceType;
use crate::snapshot::store::Store;
use crate::xds::error::{Error as StreamError, status};
use crate::xds::grpc;
use crate::xds::http2::incoming::Incoming;
use crate::xds::http2::peer::Peer;
use crate::xds::reached::Reached;
use crate::xds::server::options::Options;
use crate::xds::service_table::find_service;
use crate::xds::services::relay::RelayBody;
use crate::xds::services::{self, lrs};
use crate::xds::session::subscription::names::Interner;
use crate::xds::session::{Session, Settings};
use crate::xds::stream::admission::Gate;
use crate::xds::stream::budget::{Account, Budget};
use crate::xds::stream::in_flight::{MaxStreams, Watchdog};
use crate::xds::stream::interest::Interests;
use crate::xds::stream::message::Message;
use crate::xds::stream::meter::Meter;
use crate::xds::stream::reader::Reader;
use crate::xds::stream::{Ending, Opening, Stream};

/// The state that the streams of a connection share.
pub(in crate::xds) struct Client {
    pub(in crate::xds) peer: Peer,
    pub(in crate::xds) account: Arc<Account>,
    /// Cancelled when the streams are to end, each at a moment of its own.
    pub(in crate::xds) ending: CancellationToken,
}

/// The state that the connections of a server share.
pub(in crate::xds) struct ServerState {
    pub(in crate::xds) options: Options,
    identifier: Arc<str>,
    store: Arc<Store>,
    fleet: Fleet,
    /// Built at the first request: reflection reads megabytes of descriptors.
    services: OnceCell<Routes>,
    watchdog: Arc<Watchdog>,
    /// Counts the streams of the small services apart, so that these are served when the limit of xDS streams is
    /// reached.
    services_watchdog: Arc<Watchdog>,
    /// The memory that unfinished requests may take.
    pub(in crate::xds) budget: Arc<Budget>,
    pub(in crate::xds) reached: Arc<Reached>,
    gate: Arc<Gate>,
    interests: Arc<Interests>,
    interner: Arc<Interner>,
    next_salt: AtomicU32,
    /// One task for each connection, and one for each stream.
    pub(in crate::xds) tasks: TaskTracker,
    pub(in crate::xds) draining: CancellationToken,
    pub(in crate::xds) token: CancellationToken,
}

impl ServerState {
    pub(in crate::xds) fn new(
        options: Options,
        store: Arc<Store>,
        fleet: Fleet,
        draining: CancellationToken,
        token: CancellationToken,
    ) -> Self {
        let limits = options.limits.clone();
        let reached = Arc::new(Reached::new(fleet.clone()));
        let all = options.max_streams;
        let watchdog = |of_connection| {
            let max = MaxStreams {
                all,
                of_address: limits.address_streams,
                of_connection,
            };
            Arc::new(Watchdog::new(max, limits.clone(), Arc::clone(&reached)))
        };

        Self {
            identifier: options.identifier.as_str().into(),
            options,
            store,
            fleet,
            services: OnceCell::new(),
            watchdog: watchdog(limits.connection_streams),
            services_watchdog: watchdog(limits.connection_service_streams),
            budget: Arc::new(Budget::new(limits, Arc::clone(&reached))),
            reached,
            gate: Arc::default(),
            interests: Arc::default(),
            interner: Arc::default(),
            next_salt: AtomicU32::new(rand::random()),
            tasks: TaskTracker::new(),
            draining,
            token,
        }
    }

    /// End the streams whose clients read nothing, send nothing, or send too slowly.
    pub(in crate::xds) fn sweep(&self) {
        self.watchdog.sweep(self.options.stall_timeout);
        self.services_watchdog.sweep(self.options.stall_timeout);
    }

    /// Open the gate for first responses at the first publish.
    pub(in crate::xds) async fn open_gate(self: Arc<Self>) {
        let mut published = self.store.subscribe();
        tokio::select! {
            _ = published.wait_for(|generation| *generation > 0) => self.gate.open(turns()),
            () = self.draining.cancelled() => {}
            () = self.token.cancelled() => {}
        }
    }

    /// Wake streams at each publish, without end.
    pub(in crate::xds) async fn announce(self: Arc<Self>) {
        Arc::clone(&self.interests).follow(Arc::clone(&self.store)).await;
    }

    /// The small services. The first call builds them and starts to report their health.
    async fn services(&self) -> Routes {
        let build = async || {
            let (routes, health) = services::routes(Arc::clone(&self.store), self.fleet.clone(), &self.draining).await;
            let (store, draining, token) = (Arc::clone(&self.store), self.draining.clone(), self.token.clone());
            self.tasks.spawn(services::report(health, store, draining, token));
            routes
        };
        self.services.get_or_init(build).await.clone()
    }
}

impl ServerState {
    /// A request arrived: start a task that answers it.
    pub(in crate::xds) fn serve(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Message>,
        client: &Client,
    ) {
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
        let request = request.map(Incoming::new);
        match find_service(request.uri().path()) {
            Some((variant, service_type)) if is_grpc && request.method() == Method::POST => {
                if let Some(stream) = self.open(request.into_body(), respond, variant, service_type, client) {
                    self.tasks.spawn(stream);
                }
            }
            _ => drop(self.tasks.spawn(Arc::clone(self).answer(
                request,
                respond,
                Arc::clone(&client.account),
                client.ending.clone(),
            ))),
        }
    }

    /// Open an xDS stream. `None`: the client is gone, or the stream limit is reached and the client got that error.
    fn open(
        &self,
        requests: Incoming,
        respond: SendResponse<Message>,
        variant: Variant,
        service_type: Option<ResourceType>,
        client: &Client,
    ) -> Option<Stream> {
        let progress = match self.watchdog.admit(&client.account) {
            Ok(progress) => progress,
            Err(error) => {
                head(respond, failed(&error), true);
                return None;
            }
        };

        let session = Session::new(Settings {
            variant,
            service_type,
            identifier: Arc::clone(&self.identifier),
            salt: self.next_salt.fetch_add(1, Ordering::Relaxed),
            interner: Arc::clone(&self.interner),
            secrets: client.peer.withheld.is_none(),
        });

        Some(Stream::new(Opening {
            requests,
            out: head(respond, grpc_response(), false)?,
            session,
            variant,
            aggregated: service_type.is_none(),
            peer: client.peer,
            account: Arc::clone(&client.account),
            store: Arc::clone(&self.store),
            fleet: self.fleet.clone(),
            ticket: self.gate.ticket(progress.number(), &client.account.rounds),
            registration: self.interests.register(progress.number(), Arc::clone(progress.cell())),
            progress,
            ending: self.turn(client.ending.clone()),
        }))
    }

    /// Answer a request that is not xDS.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        respond: SendResponse<Message>,
        account: Arc<Account>,
        ending: CancellationToken,
    ) {
        let progress = match self.services_watchdog.admit(&account) {
            Ok(progress) => progress,
            Err(error) => {
                head(respond, failed(&error), true);
                return;
            }
        };

        let response = if request.uri().path() == lrs::PATH {
            let meter = Meter::new(&account, progress.cell());
            let reader = Reader::new(request.into_body(), grpc::LOAD_REPORT_MAX, Some(meter));
            lrs::serve(&self.store, &self.fleet, reader, Arc::clone(progress.cell()))
        } else {
            progress.cell().heard();
            let within = self.options.limits.silent_for;
            // The small services read a request whole before they answer.
            match timeout(within, self.services().await.call(request)).await {
                Ok(Ok(response)) => response,
                Err(_) => {
                    let error = StreamError::Slow(within);
                    self.reached.note(Limit::RequestTime, account.address, &error);
                    head(respond, failed(&error), true);
                    return;
                }
            }
        };

        let (parts, body) = response.into_parts();
        let ended = body.is_end_stream();
        if let Some(out) = head(respond, Response::from_parts(parts, ()), ended)
            && !ended
        {
            RelayBody::new(body, out, progress, self.turn(ending)).await;
        }
    }

    /// Resolves when a stream is to end: once its connection is `ending`, at a random moment within two thirds of the
    /// grace, so that proxies do not reconnect all at once.
    fn turn(&self, ending: CancellationToken) -> Ending {
        let spread = self.options.grace * 2 / 3;
        Box::pin(async move {
            ending.cancelled_owned().await;
            sleep(spread.mul_f64(rand::random())).await;
        })
    }
}

/// The number of streams that may build first responses at a time. One thread is left for all other work.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get() - 1)
}

/// A response that is only a status.
fn failed(error: &StreamError) -> Response<()> {
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

/// Send the head of a response; `ends`: also its end. `None`: the client is gone.
fn head(mut respond: SendResponse<Message>, response: Response<()>, ends: bool) -> Option<SendStream<Message>> {
    respond
        .send_response(response, ends)
        .inspect_err(|error| debug!(%error, "A stream ended before its response began"))
        .ok()
}
