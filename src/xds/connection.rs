//! One connection: HTTP/2 over what was accepted, until the client leaves or the server ends it.
//!
//! A connection holds its transport in one allocation of the right size: most are plain TCP, and there are ten thousand of
//! them.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::bell::{Aside, Bell};
use super::peer::{Link, Peer};
use super::preface::{self, Foreign};
use super::service::{Dispatch, Shared};
use super::socket::Socket;
use super::task::Tasks;

/// Envoy's per-type services open a stream a cluster (GR-05).
const STREAMS_A_CONNECTION: u32 = 100_000;
/// Envoy's main thread can be busy for seconds with a large CDS (GR-01).
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
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who connects: one of as many as there may be.
pub(super) struct Guest {
    pub(super) address: Option<SocketAddr>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Serve what was accepted, in a task of its own.
pub(super) fn start(server: Arc<Shared>, transport: Transport, guest: Guest) {
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
        let Some(tls) = tls else { return self.greet(stream, guest, Link::Plaintext, deadline).await };
        match self.by(deadline, TlsAcceptor::from(tls).accept(stream)).await {
            Some(Ok(stream)) => {
                // The server takes a certificate only after it was verified by the client CA.
                let verified = stream.get_ref().1.peer_certificates().is_some();
                let link = if verified { Link::MutualTls } else { Link::Tls };
                self.greet(stream, guest, link, deadline).await;
            }
            Some(Err(error)) => info!(%error, ?address, "A TLS handshake failed"),
            None => info!(?address, "A TLS handshake took longer than {HANDSHAKE_MAX:?}"),
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
        match self.by(deadline, preface::read(io)).await {
            Some(Ok(Ok(io))) => drop(self.tasks.clone().spawn(Connection::new(self, io, guest, link))),
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
}

/// What the server does to a connection.
enum End {
    /// GOAWAY, and each stream goes on until its turn.
    Drain,
    /// It is dropped.
    Stop,
}

type Http2<T> = http2::Connection<TokioIo<Socket<T>>, Dispatch, Tasks>;

/// One connection that is served. Done when it is over.
struct Connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    http2: Pin<Box<Http2<T>>>,
    socket: Socket<T>,
    bell: Arc<Bell>,
    end: Aside<Pin<Box<dyn Future<Output = End> + Send>>>,
    /// Tells the connection's streams to end, each at its turn.
    ending: CancellationToken,
    server: Arc<Shared>,
    guest: Guest,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<T> {
    fn new(server: Arc<Shared>, socket: Socket<T>, guest: Guest, link: Link) -> Self {
        let peer = Peer::new(guest.address, link, server.options.plaintext_secrets);
        let ending = CancellationToken::new();
        let dispatch = Dispatch { server: Arc::clone(&server), peer, ending: ending.clone() };
        let http2 = Box::pin(http2_of(&server.tasks).serve_connection(TokioIo::new(socket.clone()), dispatch));
        let bell = Arc::<Bell>::default();
        let end: Pin<Box<dyn Future<Output = End> + Send>> = Box::pin(Arc::clone(&server).end());
        let end = Aside::new(end, Arc::clone(&bell));
        Self { http2, socket, bell, end, ending, server, guest }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.bell.hear(context);
        loop {
            let served = this.http2.as_mut().poll(context);
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
                    this.http2.as_mut().graceful_shutdown();
                    this.ending.cancel();
                    this.end = Aside::new(Box::pin(Arc::clone(&this.server).end_of_grace()), Arc::clone(&this.bell));
                }
                End::Stop => return Poll::Ready(()),
            }
        }
    }
}

fn http2_of(tasks: &TaskTracker) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks::new(tasks.clone()));
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

impl Shared {
    /// When the server ends a connection: when it drains, or at the connection's age; when it stops.
    async fn end(self: Arc<Self>) -> End {
        let age = self.options.max_connection_age.map(|age| age.mul_f64(rand::rng().random_range(0.9..1.1)));
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
