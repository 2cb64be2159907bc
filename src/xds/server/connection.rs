//! Serves one connection: TLS handshake, HTTP/2 preface, then HTTP/2 until the client or the server ends the
//! connection.
//!
//! The type of the transport is a parameter, so a plain TCP connection takes no room for TLS state.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::Connection as Http2;
use h2::{Ping, PingPong, Reason};
use parking_lot::Mutex;
use rand::Rng;
use rustls::InvalidMessage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::xds::http2::peer::{Link, Peer, network, shown};
use crate::xds::http2::preface::{self, Foreign};
use crate::xds::http2::socket::Socket;
use crate::xds::limits::Limits;
use crate::xds::server::service::{Client, ServerState};
use crate::xds::stream::in_flight::decrement;
use crate::xds::stream::message::Message;
use crate::xds::stream::wake::{SideFuture, TaskWaker};

/// How often a client is asked whether it is there, and how long it may take to answer: Envoy's main thread can be busy
/// for seconds with a large CDS (GR-01).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// The time for the TLS handshake and the HTTP/2 preface together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Flow-control windows for received data: of a stream, of a connection.
const WINDOWS: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Headers of a request, in bytes: names, values and 32 for each. xDS clients send a few hundred.
const HEADERS_MAX: u32 = 16 * 1024;
/// Bounds of reset streams, beyond which the connection ends: streams that the client reset before they were accepted,
/// and streams that the server reset because of the client's errors.
const RESETS_MAX: (usize, usize) = (20, 1024);

/// An accepted socket.
pub(in crate::xds) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The permission to hold a connection. Returned when dropped.
pub(in crate::xds) struct ConnectionPermit {
    pub(in crate::xds) address: Option<SocketAddr>,
    pub(in crate::xds) _permit: OwnedSemaphorePermit,
    pub(in crate::xds) addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            decrement(&mut self.addresses.lock(), network(address));
        }
    }
}

/// Serve an accepted connection in a task of its own.
pub(in crate::xds) fn start(server: Arc<ServerState>, transport: Transport, permit: ConnectionPermit) {
    let tasks = server.tasks.clone();
    match transport {
        Transport::Unix(stream) => {
            let deadline = Instant::now() + HANDSHAKE_MAX;
            tasks.spawn(server.read_preface(stream, permit, Link::Unix, deadline));
        }
        Transport::Tcp(stream) => {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "TCP_NODELAY could not be set");
            }
            tasks.spawn(server.tls_handshake(stream, permit));
        }
    }
}

impl ServerState {
    /// The TLS handshake, if the port serves TLS.
    async fn tls_handshake(self: Arc<Self>, stream: TcpStream, permit: ConnectionPermit) {
        let address = permit.address;
        let deadline = Instant::now() + HANDSHAKE_MAX;
        let tls = self.options.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let Some(tls) = tls else {
            return self.read_preface(stream, permit, Link::Plaintext, deadline).await;
        };
        match self.by(deadline, TlsAcceptor::from(tls).accept(stream)).await {
            Some(Ok(stream)) => {
                // rustls accepts a certificate only after the client CA has verified it.
                let verified = stream.get_ref().1.peer_certificates().is_some();
                let link = if verified { Link::MutualTls } else { Link::Tls };
                self.read_preface(stream, permit, link, deadline).await;
            }
            Some(Err(error)) if is_plaintext(&error) => warn!(
                peer = %shown(address),
                "A client speaks plain text to the TLS port. Give its xDS cluster a TLS transport_socket, or start the \
                 server without --xds-tls-cert"
            ),
            Some(Err(error)) => info!(peer = %shown(address), %error, "A TLS handshake failed"),
            None => info!(peer = %shown(address), "A TLS handshake took longer than {HANDSHAKE_MAX:?}"),
        }
    }

    /// Read the HTTP/2 preface. The connection then gets a new task, which does not hold the state of the handshakes.
    async fn read_preface(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        permit: ConnectionPermit,
        link: Link,
        deadline: Instant,
    ) {
        let address = permit.address;
        let socket = match self.by(deadline, preface::read(io)).await {
            Some(Ok(Ok(socket))) => socket,
            Some(Ok(Err(Foreign::Nothing))) => {
                return debug!(peer = %shown(address), "A connection ended without a byte");
            }
            Some(Ok(Err(foreign))) => {
                return info!(peer = %shown(address), "Ended a connection that speaks {}", foreign.what());
            }
            Some(Err(error)) => return debug!(peer = %shown(address), %error, "A connection ended"),
            None => {
                return info!(
                    peer = %shown(address),
                    "Ended a connection that sent no HTTP/2 preface within {HANDSHAKE_MAX:?}"
                );
            }
        };

        // The preface is read already, so this does not wait.
        match http2(&self.options.limits).handshake(socket.clone()).await {
            Ok(http2) => drop(
                self.tasks
                    .clone()
                    .spawn(Connection::new(self, http2, socket, permit, link)),
            ),
            Err(error) => debug!(peer = %shown(address), %error, "A connection ended"),
        }
    }

    /// The result of a future. `None`: the deadline passed, or the server ends.
    async fn by<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            result = timeout_at(deadline, future) => result.ok(),
            () = self.draining.cancelled() => None,
            () = self.token.cancelled() => None,
        }
    }
}

/// Whether a TLS handshake failed because the first bytes are no TLS record.
fn is_plaintext(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(
        error,
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
    )
}

/// How the server ends a connection.
enum End {
    /// Send GOAWAY; each stream goes on until its own end.
    Drain,
    /// Drop the connection.
    Stop,
    /// Drop the connection, because the client is gone.
    Dead,
}

/// One served connection. Ready when the connection is over.
struct Connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    http2: Http2<Socket<T>, Message>,
    socket: Socket<T>,
    task_waker: Arc<TaskWaker>,
    end: SideFuture<Pin<Box<dyn Future<Output = End> + Send>>>,
    server: Arc<ServerState>,
    client: Client,
    permit: ConnectionPermit,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<T> {
    fn new(
        server: Arc<ServerState>,
        mut http2: Http2<Socket<T>, Message>,
        socket: Socket<T>,
        permit: ConnectionPermit,
        link: Link,
    ) -> Self {
        let peer = Peer::new(permit.address, link, server.options.plaintext_secrets);
        let task_waker = Arc::<TaskWaker>::default();
        let account = server.budget.open(permit.address, Arc::clone(&task_waker));
        let end = Arc::clone(&server).end(http2.ping_pong());
        let end: Pin<Box<dyn Future<Output = End> + Send>> = Box::pin(end);
        let end = SideFuture::new(end, Arc::clone(&task_waker));
        Self {
            http2,
            socket,
            task_waker,
            end,
            server,
            client: Client {
                peer,
                account,
                ending: CancellationToken::new(),
            },
            permit,
        }
    }

    /// Read and write frames, and start a task for each request. Ready: the connection is over.
    fn poll_serve(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Some(request) = ready!(pin!(self.http2.accept()).poll(context)) {
            let (request, respond) = request?;
            self.server.serve(request, respond, &self.client);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Connection<T> {
    fn drop(&mut self) {
        self.server.budget.close(&self.client.account);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.task_waker.register(context);
        if this.client.account.is_doomed() {
            this.http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            let told = (
                this.poll_serve(context).is_ready(),
                this.socket.poll_send(context).is_ready(),
            );
            debug!(
                peer = %shown(this.permit.address),
                ?told,
                "Closed a connection whose unfinished requests are too large"
            );
            return Poll::Ready(());
        }

        loop {
            let served = this.poll_serve(context);
            let sent = this.socket.poll_send(context);
            let error = match (served, sent) {
                (Poll::Ready(Ok(())), _) => return Poll::Ready(()),
                (Poll::Ready(Err(error)), _) => Some(error.to_string()),
                (Poll::Pending, Poll::Ready(Err(error))) => Some(error.to_string()),
                (Poll::Pending, _) => None,
            };
            if let Some(error) = error {
                debug!(peer = %shown(this.permit.address), error, "A connection ended");
                return Poll::Ready(());
            }
            match ready!(this.end.poll()) {
                End::Drain => {
                    // The client opens its next streams elsewhere. The open ones end one by one.
                    this.http2.graceful_shutdown();
                    this.client.ending.cancel();
                    this.end = SideFuture::new(
                        Box::pin(Arc::clone(&this.server).end_of_grace()),
                        Arc::clone(&this.task_waker),
                    );
                }
                End::Stop => return Poll::Ready(()),
                End::Dead => {
                    let silence = KEEPALIVE.1;
                    info!(
                        peer = %shown(this.permit.address),
                        "Ended a connection whose client did not answer a PING within {silence:?}"
                    );
                    return Poll::Ready(());
                }
            }
        }
    }
}

fn http2(limits: &Limits) -> h2::server::Builder {
    let streams = limits.connection_streams + limits.connection_service_streams;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_header_list_size(HEADERS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX.0)
        .max_local_error_reset_streams(Some(RESETS_MAX.1))
        .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
    builder
}

/// Send PINGs until the client does not answer one. Without `pings` this never resolves.
async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(KEEPALIVE.0).await;
        match timeout(KEEPALIVE.1, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over, which its own poll reports.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

impl ServerState {
    /// Resolves when the server ends a connection: because it drains, because the connection reaches its age, because
    /// the server stops, or because the client is gone.
    async fn end(self: Arc<Self>, pings: Option<PingPong>) -> End {
        let age = self
            .options
            .max_connection_age
            .map(|age| age.mul_f64(rand::rng().random_range(0.9..1.1)));
        let aged = async {
            match age {
                Some(age) => sleep(age).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = aged => End::Drain,
            () = self.draining.cancelled() => End::Drain,
            () = self.token.cancelled() => End::Stop,
            () = silence(pings) => End::Dead,
        }
    }

    /// Resolves when a draining connection has used up its time.
    async fn end_of_grace(self: Arc<Self>) -> End {
        tokio::select! {
            () = sleep(self.options.grace * 5 / 6) => {}
            () = self.token.cancelled() => {}
        }
        End::Stop
    }
}
