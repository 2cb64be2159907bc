//! One connection: HTTP/2 over what was accepted, until the client leaves or the server ends it.
//!
//! A connection holds its transport in one allocation of the right size: most are plain TCP, and there are ten thousand of
//! them.

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::Connection as Http2;
use h2::{Ping, PingPong};
use rand::Rng;
use rustls::InvalidMessage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::xds::http2::peer::{Link, Peer};
use crate::xds::http2::preface::{self, Foreign};
use crate::xds::http2::socket::Socket;
use crate::xds::server::service::Shared;
use crate::xds::stream::message::Message;
use crate::xds::stream::wake::{Aside, Bell};

/// Envoy's per-type services open a stream a cluster (GR-05).
const STREAMS_A_CONNECTION: u32 = 100_000;
/// How often a client is asked whether it is there, and how long it may take to answer: Envoy's main thread can be busy for
/// seconds with a large CDS (GR-01).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// A client that has not finished the TLS handshake, and said that it speaks HTTP/2, is not waited for any longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// What a client may send ahead of being read: a stream's window, a connection's.
const WINDOWS: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Headers of a request, in bytes: names, values and 32 for each. xDS clients send a few hundred.
const HEADERS_MAX: u32 = 16 * 1024;
/// Streams that a client may have reset before they were looked at, and that it may have had reset for errors of its own;
/// then its connection ends.
const RESETS_MAX: (usize, usize) = (20, 1024);

/// What was accepted.
pub(in crate::xds) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who connects: one of as many as there may be.
pub(in crate::xds) struct Guest {
    pub(in crate::xds) address: Option<SocketAddr>,
    pub(in crate::xds) _permit: OwnedSemaphorePermit,
}

/// Serve what was accepted, in a task of its own.
pub(in crate::xds) fn start(server: Arc<Shared>, transport: Transport, guest: Guest) {
    let tasks = server.tasks.clone();
    match transport {
        Transport::Unix(stream) => {
            let deadline = Instant::now() + HANDSHAKE_MAX;
            tasks.spawn(server.greet(stream, guest, Link::Unix, deadline));
        }
        Transport::Tcp(stream) => {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "TCP_NODELAY could not be set");
            }
            tasks.spawn(server.secure(stream, guest));
        }
    }
}

impl Shared {
    /// The TLS handshake, where there is to be one.
    async fn secure(self: Arc<Self>, stream: TcpStream, guest: Guest) {
        let address = guest.address;
        let deadline = Instant::now() + HANDSHAKE_MAX;
        let tls = self.options.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let Some(tls) = tls else {
            return self.greet(stream, guest, Link::Plaintext, deadline).await;
        };
        match self.by(deadline, TlsAcceptor::from(tls).accept(stream)).await {
            Some(Ok(stream)) => {
                // The server takes a certificate only after it was verified by the client CA.
                let verified = stream.get_ref().1.peer_certificates().is_some();
                let link = if verified { Link::MutualTls } else { Link::Tls };
                self.greet(stream, guest, link, deadline).await;
            }
            Some(Err(error)) if is_plaintext(&error) => self.on_plaintext_client(address),
            Some(Err(error)) => info!(%error, ?address, "A TLS handshake failed"),
            None => info!(?address, "A TLS handshake took longer than {HANDSHAKE_MAX:?}"),
        }
    }

    /// A client that retries every second must not fill the log, and must not go unnoticed.
    fn on_plaintext_client(&self, address: Option<SocketAddr>) {
        if let Some(attempts) = self.plaintext_clients.on_event(Instant::now()) {
            warn!(
                ?address,
                attempts,
                "A client speaks plain text to the TLS port. Give its xDS cluster a TLS transport_socket, or start the \
                 server without --xds-tls-cert"
            );
        }
    }

    /// Hear that the client speaks HTTP/2. From there on the connection has a task that holds nothing of what led to it.
    async fn greet(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        guest: Guest,
        link: Link,
        deadline: Instant,
    ) {
        let address = guest.address;
        let socket = match self.by(deadline, preface::read(io)).await {
            Some(Ok(Ok(socket))) => socket,
            Some(Ok(Err(Foreign::Nothing))) => return debug!(?address, "A connection ended that said nothing"),
            Some(Ok(Err(foreign))) => return info!(?address, "Ended a connection that speaks {}", foreign.what()),
            Some(Err(error)) => return debug!(%error, ?address, "A connection ended"),
            None => {
                return info!(
                    ?address,
                    "Ended a connection that did not say within {HANDSHAKE_MAX:?} what it speaks"
                );
            }
        };
        // The preface was read: there is nothing more to wait for.
        match http2().handshake(socket.clone()).await {
            Ok(http2) => drop(
                self.tasks
                    .clone()
                    .spawn(Connection::new(self, http2, socket, guest, link)),
            ),
            Err(error) => debug!(%error, ?address, "A connection ended"),
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
}

/// Whether a TLS handshake failed because the first bytes are no TLS record.
fn is_plaintext(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(
        error,
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
    )
}

/// What the server does to a connection.
enum End {
    /// GOAWAY, and each stream goes on until its turn.
    Drain,
    /// It is dropped.
    Stop,
    /// So is this: nobody is at its other end.
    Dead,
}

/// One connection that is served. Done when it is over.
struct Connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    http2: Http2<Socket<T>, Message>,
    socket: Socket<T>,
    bell: Arc<Bell>,
    end: Aside<Pin<Box<dyn Future<Output = End> + Send>>>,
    /// Tells the connection's streams to end, each at its turn.
    ending: CancellationToken,
    server: Arc<Shared>,
    peer: Peer,
    guest: Guest,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<T> {
    fn new(
        server: Arc<Shared>,
        mut http2: Http2<Socket<T>, Message>,
        socket: Socket<T>,
        guest: Guest,
        link: Link,
    ) -> Self {
        let peer = Peer::new(guest.address, link, server.options.plaintext_secrets);
        let bell = Arc::<Bell>::default();
        let end = Arc::clone(&server).end(http2.ping_pong());
        let end: Pin<Box<dyn Future<Output = End> + Send>> = Box::pin(end);
        let end = Aside::new(end, Arc::clone(&bell));
        Self {
            http2,
            socket,
            bell,
            end,
            ending: CancellationToken::new(),
            server,
            peer,
            guest,
        }
    }

    /// Read and write what there is, and have requests answered. Ready: the connection is over.
    fn poll_serve(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Some(request) = ready!(pin!(self.http2.accept()).poll(context)) {
            let (request, respond) = request?;
            self.server.serve(request, respond, self.peer, &self.ending);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.bell.hear(context);
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
                debug!(error, address = ?this.guest.address, "A connection ended");
                return Poll::Ready(());
            }
            match ready!(this.end.poll()) {
                End::Drain => {
                    // The client opens its next streams elsewhere, while each of these goes on until its turn.
                    this.http2.graceful_shutdown();
                    this.ending.cancel();
                    this.end = Aside::new(
                        Box::pin(Arc::clone(&this.server).end_of_grace()),
                        Arc::clone(&this.bell),
                    );
                }
                End::Stop => return Poll::Ready(()),
                End::Dead => {
                    let silence = KEEPALIVE.1;
                    info!(address = ?this.guest.address, "Ended a connection whose client did not answer a PING within {silence:?}");
                    return Poll::Ready(());
                }
            }
        }
    }
}

fn http2() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_header_list_size(HEADERS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX.0)
        .max_local_error_reset_streams(Some(RESETS_MAX.1))
        .max_concurrent_streams(STREAMS_A_CONNECTION);
    builder
}

/// Ask again and again whether the client is there, until it is not. For ever where there is nothing to ask with.
async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(KEEPALIVE.0).await;
        match timeout(KEEPALIVE.1, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over, and says so itself.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

impl Shared {
    /// When the server ends a connection: when it drains, or at the connection's age; when it stops; when nobody is there.
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

    /// How long a connection that drains may take.
    async fn end_of_grace(self: Arc<Self>) -> End {
        tokio::select! {
            () = sleep(self.options.grace * 5 / 6) => {}
            () = self.token.cancelled() => {}
        }
        End::Stop
    }
}
