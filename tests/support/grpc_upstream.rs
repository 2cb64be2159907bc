//! A gRPC server that answers every call of the service `echo.Echo` with its name.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tower_service::Service;

use super::raw_codec::Raw;

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// A server on an ephemeral port of 127.0.0.1, which it keeps for good.
pub struct GrpcUpstream {
    name: Arc<str>,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl GrpcUpstream {
    /// Start one.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind an upstream");
        let address = listener.local_addr().expect("a bound listener has an address");
        let name: Arc<str> = name.into();
        let running = Some(run(Arc::clone(&name), listener));
        Self { name, address, running }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// End calls and connections, and listen no more.
    pub async fn stop(&mut self) {
        let Running { stop, server } = self.running.take().expect("it runs");
        drop(stop);
        server.await.expect("the server ends");
    }

    /// Listen again after a stop, on the same port.
    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("bind the same port again");
        self.running = Some(run(Arc::clone(&self.name), listener));
    }
}

fn run(name: Arc<str>, listener: TcpListener) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let router = Server::builder().add_service(Echo(name));
        let until = async { drop(stopped.await) };
        let connections = TcpListenerStream::new(listener);
        router
            .serve_with_incoming_shutdown(connections, until)
            .await
            .expect("serve until stopped");
    });
    Running { stop, server }
}

#[derive(Clone)]
struct Echo(Arc<str>);

impl NamedService for Echo {
    const NAME: &'static str = "echo.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(echo, request).await) })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Answer<tonic::Response<Bytes>, Status>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        let name = Bytes::copy_from_slice(self.0.as_bytes());
        Box::pin(async move { Ok(tonic::Response::new(name)) })
    }
}
