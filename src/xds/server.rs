//! The xDS port: binds it and accepts connections, as many as there may be.

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
use crate::xds::server::connection::{Guest, Transport};
use crate::xds::server::options::{Listen, Options};
use crate::xds::server::service::Shared;

pub mod options;

mod connection;
mod service;
mod sparse;

/// Connections that wait to be accepted. A fleet reconnects within half a second; with 128, the usual number, a thousand
/// connects take two seconds.
const BACKLOG: i32 = 4096;
/// After an accept error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Stalled clients are looked for four times in the time they have, but no more often than this.
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
                if path.exists() {
                    std::fs::remove_file(path)?;
                }
                (Listener::Unix(UnixListener::bind(path)?), Listen::Unix(path.clone()))
            }
        };
        Ok(Self {
            listener,
            address,
            options,
        })
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
        let mut door = Door::new(self.options.max_connections);
        let server = Arc::new(Shared::new(self.options, store, fleet, draining, token));
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
                    if let Some(guest) = door.admit(address) {
                        connection::start(Arc::clone(&server), transport, guest);
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

/// Lets in as many as there may be at a time.
struct Door {
    limit: usize,
    /// A permit a connection.
    places: Arc<Semaphore>,
    /// The last that came was one too many.
    turned_away: bool,
}

impl Door {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            turned_away: false,
        }
    }

    /// One more, if there may be.
    fn admit(&mut self, address: Option<SocketAddr>) -> Option<Guest> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok();
        // Told once a crowd.
        if permit.is_none() && !self.turned_away {
            let limit = self.limit;
            warn!(
                ?address,
                limit, "Turned a connection away: there are as many as the limit on open files allows"
            );
        }
        self.turned_away = permit.is_none();
        permit.map(|permit| Guest {
            address,
            _permit: permit,
        })
    }
}
