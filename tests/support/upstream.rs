//! An HTTP/1.1 and HTTP/2 (prior knowledge) server whose answer describes the received request, in the clear or over TLS.
//!
//! Every answer is 200 with `{"name", "method", "path", "host", "version", "headers"}`, and the server's name in the
//! header `x-upstream`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// A server on an ephemeral port of 127.0.0.1; it stops accepting when dropped.
pub struct Upstream {
    /// The name in its answers.
    pub name: String,
    address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

struct State {
    name: String,
    requests: AtomicU64,
    connections: AtomicU64,
    delay_ms: AtomicU64,
    status: AtomicU16,
    /// The status of `/healthz`; 0: that of all paths.
    health: AtomicU16,
}

impl Upstream {
    /// Start one.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, None).await
    }

    /// Start one that speaks TLS.
    pub async fn start_tls(name: &str, config: Arc<ServerConfig>) -> Self {
        Self::start_with(name, Some(config.into())).await
    }

    async fn start_with(name: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind an upstream");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            status: AtomicU16::new(200),
            health: AtomicU16::new(0),
        });
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&state))).abort_handle();
        Self {
            name: name.to_owned(),
            address,
            state,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Delay every further answer by this time.
    pub fn slow_down(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("a sane delay");
        self.state.delay_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// Answer with this status from now on.
    pub fn answer_with(&self, status: u16) {
        self.state.status.store(status, Ordering::Relaxed);
    }

    /// Answer health checks (`/healthz`) with this status from now on, and other requests as before.
    pub fn report_health(&self, status: u16) {
        self.state.health.store(status, Ordering::Relaxed);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::Relaxed);
        // Small answers must not wait for one another.
        drop(socket.set_nodelay(true));
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => serve(socket, state).await,
                // A failed handshake is for the client to tell.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    let connection = auto::Builder::new(TokioExecutor::new());
    // The end of a connection by its client is no error here.
    drop(connection.serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    // The body is read, so that the connection can be used again.
    drop(body.collect().await);
    let delay = state.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let text = |name: &HeaderName| {
        head.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let headers: BTreeMap<&str, _> = head.headers.keys().map(|name| (name.as_str(), text(name))).collect();
    let host = head
        .uri
        .authority()
        .map(|authority| authority.to_string().into())
        .or_else(|| text(&http::header::HOST));
    let body = json!({
        "name": state.name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        "host": host,
        "version": format!("{:?}", head.version),
        "headers": headers,
    });
    let status = match state.health.load(Ordering::Relaxed) {
        0 => state.status.load(Ordering::Relaxed),
        _ if head.uri.path() != "/healthz" => state.status.load(Ordering::Relaxed),
        health => health,
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("x-upstream", &state.name)
        .header("server-timing", "upstream")
        .body(Full::new(Bytes::from(body.to_string())));
    Ok(response.expect("a well-formed response"))
}
