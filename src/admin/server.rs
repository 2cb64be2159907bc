//! The admin listener: HTTP/1.1, bounded in connections, header size and time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Admin;

/// Largest number of connections; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// Largest size of a request line with its headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Longest time for a request's headers, and of an idle connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Wait after a failed accept, for example without free file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Longest time for open requests when the process stops.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Serve the admin API until `token` is cancelled. Open requests are then finished, within 2 seconds.
///
/// # Errors
/// Never: a failed connection ends alone, and a failed accept is tried again.
pub async fn serve(listener: TcpListener, admin: Admin, token: CancellationToken) -> io::Result<()> {
    let router = admin.router();
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));

    loop {
        let place = tokio::select! {
            () = token.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(io::Error::other)?,
        };

        let stream = tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "Accepting an admin connection failed; the next try follows in 200 ms");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            },
        };

        let connection = connection(stream, router.clone(), token.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
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

async fn connection(stream: TcpStream, router: Router, token: CancellationToken) {
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
