//! Binds the xDS port and accepts connections, up to the limit.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::fleet::Fleet;
use crate::fleet::limit::Limit;
use crate::snapshot::store::Store;
use crate::socket::bind_unix;
use crate::xds::http2::peer::network;
use crate::xds::reached::Reached;
use crate::xds::server::connection::{ConnectionPermit, Transport};
use crate::xds::server::options::{Listen, Options};
use crate::xds::server::service::ServerState;

pub mod options;

mod connection;
mod service;

/// Connections that wait to be accepted. A fleet reconnects within half a second; with 128, the usual number, a
/// thousand connects take two seconds.
const BACKLOG: i32 = 4096;
/// The pause after an accept error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The shortest interval between two searches for stalled clients. The usual one is a quarter of the stall timeout.
const SWEEP_MIN: Duration = Duration::from_millis(10);

/// The longest one: a stalled client is shown soon.
const SWEEP_MAX: Duration = Duration::from_secs(2);

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
        let server = Arc::new(ServerState::new(self.options, store, fleet, draining, token));
        let connection_limit = ConnectionLimit::new(&server);
        server.tasks.spawn(Arc::clone(&server).open_gate());
        // Until the last stream has ended.
        let _announcer = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&server).announce()));
        let mut sweep = interval((server.options.shortest_time() / 4).clamp(SWEEP_MIN, SWEEP_MAX));
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
    max: usize,
    max_of_address: usize,
    /// A permit a connection.
    permits: Arc<Semaphore>,
    /// The connections of each address.
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    reached: Arc<Reached>,
}

impl ConnectionLimit {
    fn new(server: &ServerState) -> Self {
        let max = server.options.max_connections;
        Self {
            max,
            max_of_address: server.options.limits.address_connections,
            permits: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            addresses: Arc::default(),
            reached: Arc::clone(&server.reached),
        }
    }

    /// Admit a connection. `None`: a limit is reached.
    fn admit(&self, address: Option<SocketAddr>) -> Option<ConnectionPermit> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let reason = format!("{} connections, which follows from the limit on open files", self.max);
            self.reached.note(Limit::Connections, address, &reason);
            return None;
        };

        if let Some(address) = address {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(network(address)).or_default();
            if *count >= self.max_of_address {
                let reason = format!("{} connections of one address", self.max_of_address);
                self.reached.note(Limit::AddressConnections, Some(address), &reason);
                return None;
            }
            *count += 1;
        }

        Some(ConnectionPermit {
            address,
            addresses: Arc::clone(&self.addresses),
            _permit: permit,
        })
    }
}
