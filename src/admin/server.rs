//! The admin listener: HTTP/1.1, bounded in connections, header size and time. A silent connection never keeps a new
//! one out, and an answer that nobody reads is cut.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Admin;
use super::activity::Connections;
use crate::fleet::limit::Limit;
use crate::socket::bind_unix;

/// Largest number of connections; a further one takes the place of the one that has been inactive for the longest time.
const MAX_CONNECTIONS: usize = 1536;
/// Longest time in which a client reads nothing of its answer.
const UNREAD_MAX: Duration = Duration::from_secs(10);
/// Largest size of a request line with its headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Longest time for a request's headers, and of an idle connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Wait after a failed accept, for example without free file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Mode of a Unix socket: only the user of the server can connect.
const SOCKET_MODE: u32 = 0o600;
/// Longest time for open requests when the process stops.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The admin port, bound.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A Unix socket, and its path.
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// `127.0.0.1:18001` or `unix:PATH`.
impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(formatter),
                Err(_) => Ok(()),
            },
            Self::Unix(_, path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// Bind a Unix socket that only this user can connect to. A socket that an earlier process left there is replaced.
    ///
    /// # Errors
    /// See [`bind_unix`].
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        let listener = bind_unix(path, Some(SOCKET_MODE))?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Serve the admin API until `token` is cancelled. Open requests are then finished, within 2 seconds.
///
/// # Errors
/// Never: a failed connection ends alone, and a failed accept is tried again.
pub async fn serve(listener: impl Into<Listener>, admin: Admin, token: CancellationToken) -> io::Result<()> {
    let listener = listener.into();
    let limits = admin.answers.limits().clone();
    let router = admin.router();
    let connections = TaskTracker::new();
    let open = Connections::new(MAX_CONNECTIONS);

    loop {
        let stream = tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "Accepting an admin connection failed; the next try follows in 200 ms");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            },
        };

        let (member, evicts) = open.add();
        if evicts {
            limits.on_reached(Limit::AdminConnections);
            debug!("Closed the admin connection that was inactive for the longest time: {MAX_CONNECTIONS} are open");
        }
        let (router, token, limits) = (router.clone(), token.clone(), limits.clone());
        connections.spawn(async move {
            let ended = async {
                match stream {
                    Stream::Tcp(stream) => connection(member.watch(stream), router, token).await,
                    Stream::Unix(stream) => connection(member.watch(stream), router, token).await,
                }
            };
            tokio::select! {
                () = ended => {}
                () = member.evicted() => {}
                () = member.unread(UNREAD_MAX) => {
                    limits.on_reached(Limit::AdminUnread);
                    debug!("Closed an admin connection whose client read nothing for {UNREAD_MAX:?}");
                }
            }
        });
    }

    connections.close();
    if tokio::time::timeout(FINISH_WITHIN, connections.wait()).await.is_err() {
        debug!(
            connections = connections.len(),
            "Admin server stopped with unfinished responses"
        );
    }

    Ok(())
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, token: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));

    let mut connection = std::pin::pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    debug!(%error, "Admin connection ended with an error");
                }
                return;
            }
            () = token.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
