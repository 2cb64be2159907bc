//! Binds the xDS port and accepts connections, up to the limit.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::fleet::Fleet;
use crate::snapshot::store::Store;
use crate::socket::bind_unix;
use crate::xds::server::connection::{ConnectionPermit, Transport};
use crate::xds::server::options::{Listen, Options};
use crate::xds::server::service::ServerState;

pub mod options;

mod connection;
mod service;
mod sparse;

/// Connections that wait to be accepted. A fleet reconnects within half a second; with 128, the usual number, a
/// thousand connects take two seconds.
const BACKLOG: i32 = 4096;
/// The pause after an accept error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The shortest interval between two searches for stalled clients. The usual one is a quarter of the stall timeout.
const SWEEP_MIN: Duration = Duration::from_millis(10);

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
                let listener = bind_unix(path, None)?;
                (Listener::Unix(listener), Listen::Unix(path.clone()))
            }
        };
        Ok(Self {
            listener,
            address,
            options,
        })
    }

    /// The address it listens on, with the port that was chosen.
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
        let mut connection_limit = ConnectionLimit::new(self.options.max_connections);
        let server = Arc::new(ServerState::new(self.options, store, fleet, draining, token));
        server.tasks.spawn(Arc::clone(&server).open_gate());
        // Until the last stream has ended.
        let _announcer = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&server).announce()));
        let mut sweep = interval((server.options.stall_timeout / 4).max(SWEEP_MIN));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener) => accepted,
                _ = sweep.tick() => {
                    server.sweep();
                    continue;
                }
                () = server.draining.cancelled() => break,
                () = server.token.cancelled() => break,
            };
            match accepted {
                Ok((transport, address)) => {
                    if let Some(permit) = connection_limit.admit(address) {
                        connection::start(Arc::clone(&server), transport, permit);
                    }
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

async fn accept(listener: &Listener) -> io::Result<(Transport, Option<SocketAddr>)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            Ok((Transport::Tcp(stream), Some(address)))
        }
        Listener::Unix(listener) => Ok((Transport::Unix(listener.accept().await?.0), None)),
    }
}

/// Admits a limited number of connections at a time.
struct ConnectionLimit {
    limit: usize,
    /// A permit a connection.
    permits: Arc<Semaphore>,
    /// The last connection was rejected.
    was_full: bool,
}

impl ConnectionLimit {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            permits: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            was_full: false,
        }
    }

    /// Admit a connection. `None`: the limit is reached.
    fn admit(&mut self, address: Option<SocketAddr>) -> Option<ConnectionPermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        // Logged once until a connection is admitted again.
        if permit.is_none() && !self.was_full {
            let limit = self.limit;
            warn!(
                ?address,
                limit, "Rejected a connection: the limit that follows from the limit on open files is reached"
            );
        }
        self.was_full = permit.is_none();
        permit.map(|permit| ConnectionPermit {
            address,
            _permit: permit,
        })
    }
}
