//! The floor: a bare tonic server that pushes recorded bytes to every stream, without any logic.
//!
//! The distance of a management server to the floor is the cost of its protocol, its bookkeeping and its encoding.
//!
//! - In: resources that were recorded from another server.
//! - The first request of each type is answered with all resources of the type; every other request is ignored.
//! - `POST /endpoint/NAME/PORT` and `POST /cluster/NAME/MILLISECONDS` push the same resources as Chancery pushes for
//!   this change: one resource, or in SotW all clusters; and after a cluster its endpoints, because without them a real
//!   Envoy does not finish warming (AD-03).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path as Route, State as Handle};
use axum::http::StatusCode;
use axum::routing::post;
use bytes::{Bytes, BytesMut};
use socket2::{Domain, Socket, Type as SocketType};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::known::{with_port, with_timeout};
use super::raw_codec::Raw;
use super::wire::{self, Type, Variant};

/// The recorded resources, and the streams to push to.
#[derive(Debug)]
struct Floor {
    variant: Variant,
    /// By type, by name: the encoded message.
    resources: Mutex<[BTreeMap<String, Bytes>; Type::COUNT]>,
    pushes: broadcast::Sender<(Type, Bytes)>,
}

impl Floor {
    fn read(variant: Variant, path: &Path) -> Result<Self> {
        let mut resources: [BTreeMap<String, Bytes>; Type::COUNT] = Default::default();
        let mut file = Bytes::from(std::fs::read(path).with_context(|| format!("read {}", path.display()))?);
        while file.len() >= 4 {
            use bytes::Buf;
            let len = file.get_u32() as usize;
            let response = wire::Response::parse(Variant::Delta, file.split_to(len))?;
            let of_type = Type::of(&response.type_url).context("a recorded type")?;
            for one in response.resources {
                resources[of_type as usize].insert(one.text(), one.body);
            }
        }
        let (pushes, _) = broadcast::channel(1024);
        Ok(Self {
            variant,
            resources: Mutex::new(resources),
            pushes,
        })
    }

    fn message(&self, of_type: Type, only: Option<&str>) -> Bytes {
        let resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut message = BytesMut::new();
        wire::put(&mut message, 1, b"0123456789abcdef0123456789abcdef");
        wire::put(&mut message, 4, of_type.url().as_bytes());
        wire::put(&mut message, 5, b"01234567-123");
        for (name, body) in &resources[of_type as usize] {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let mut any = BytesMut::new();
            wire::put(&mut any, 1, of_type.url().as_bytes());
            wire::put(&mut any, 2, body);
            if self.variant == Variant::Sotw {
                wire::put(&mut message, 2, &any);
                continue;
            }
            let mut resource = BytesMut::new();
            wire::put(&mut resource, 3, name.as_bytes());
            wire::put(&mut resource, 1, b"0123456789abcdef0123456789abcdef");
            wire::put(&mut resource, 2, &any);
            wire::put(&mut message, 2, &resource);
        }
        message.freeze()
    }

    fn change(&self, of_type: Type, name: &str, number: u32) -> Result<()> {
        {
            let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
            let body = resources[of_type as usize]
                .get_mut(name)
                .context("a resource of that name")?;
            *body = match of_type {
                Type::Endpoint => with_port(body, number)?.into(),
                _ => with_timeout(body, number)?.into(),
            };
        }
        let whole = self.variant == Variant::Sotw && of_type == Type::Cluster;
        let follows = (of_type == Type::Cluster).then_some((Type::Endpoint, Some(name)));
        for (of_type, only) in [(of_type, (!whole).then_some(name))].into_iter().chain(follows) {
            // Fails before the first client, without a receiver.
            drop(self.pushes.send((of_type, self.message(of_type, only))));
        }
        Ok(())
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The one method.
#[derive(Clone)]
struct Service(Arc<Floor>);

impl tonic::server::StreamingService<Bytes> for Service {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let floor = Arc::clone(&self.0);
        let pushes = BroadcastStream::new(floor.pushes.subscribe());
        let mut asked = [false; Type::COUNT];
        let first = request.into_inner().filter_map(move |request| {
            let of_type = requested(floor.variant, &request.ok()?)?;
            let first = !std::mem::replace(&mut asked[of_type as usize], true);
            first.then(|| Ok(floor.message(of_type, None)))
        });
        let pushed = pushes.filter_map(|push| push.ok().map(|(_, message)| Ok(message)));
        std::future::ready(Ok(Response::new(Box::pin(first.merge(pushed)))))
    }
}

/// The type of a request, found without decoding the rest.
fn requested(variant: Variant, message: &Bytes) -> Option<Type> {
    let field = match variant {
        Variant::Sotw => 4,
        Variant::Delta => 2,
    };
    wire::field(message.clone(), field).and_then(|url| Type::of(&url))
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX);
            Ok(server.streaming(service, request).await)
        })
    }
}

impl tonic::server::NamedService for Service {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

/// Serve until killed; prints the ports to standard output.
///
/// # Errors
/// The resources cannot be read or a port cannot be bound.
pub async fn serve(variant: Variant, resources: &Path) -> Result<()> {
    let floor = Arc::new(Floor::read(variant, resources)?);
    let listener = listen()?;
    let control = TcpListener::bind("127.0.0.1:0").await?;
    super::say(&format!(
        "listening xds={} control={}",
        listener.local_addr()?,
        control.local_addr()?
    ));

    let change = |of_type: Type| {
        move |Handle(floor): Handle<Arc<Floor>>, Route((name, number)): Route<(String, u32)>| async move {
            match floor.change(of_type, &name, number) {
                Ok(()) => StatusCode::NO_CONTENT,
                Err(_) => StatusCode::NOT_FOUND,
            }
        }
    };

    let routes = Router::new()
        .route("/endpoint/{name}/{number}", post(change(Type::Endpoint)))
        .route("/cluster/{name}/{number}", post(change(Type::Cluster)))
        .with_state(Arc::clone(&floor));

    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener)
        .map(|stream| stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)));
    let streams = tonic::transport::Server::builder()
        .add_service(Service(floor))
        .serve_with_incoming(incoming);

    tokio::try_join!(async { streams.await.context("serve the streams") }, async {
        axum::serve(control, routes).await.context("serve the control port")
    })?;
    Ok(())
}

/// A listener with a large backlog. The one of tonic has a backlog of 128, which would limit the measurement.
fn listen() -> Result<TcpListener> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = Socket::new(Domain::for_address(address), SocketType::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}
