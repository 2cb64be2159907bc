//! The xDS port: the bytes of one stream to a server over a socket.
//!
//! The first byte of an input chooses the method. The others are sent as they are, if it is odd, or each part as a
//! message with its head.

use std::cell::RefCell;
use std::convert::identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use chancery::fleet::Fleet;
use chancery::snapshot::store::Store;
use chancery::xds::Limits;
use chancery::xds::options::{Listen, Options};
use chancery::xds::server::Server;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{check_sentence, parts};

/// How long a stream may be silent before it counts as one that goes on.
const SILENCE: Duration = Duration::from_millis(20);

const METHODS: [&str; 10] = [
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
    "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
    "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// A server, and a connection to it.
struct Port {
    runtime: Runtime,
    address: SocketAddr,
    requests: Option<SendRequest<Bytes>>,
    /// libFuzzer has a `main` of C: a write to a closed connection would end the process.
    _broken_pipes: Signal,
}

thread_local! {
    static PORT: RefCell<Port> = RefCell::new(Port::start());
}

impl Port {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let guard = runtime.enter();
        let broken_pipes = signal(SignalKind::pipe()).expect("a handler of SIGPIPE");
        drop(guard);
        Self {
            runtime,
            address: serve(),
            requests: None,
            _broken_pipes: broken_pipes,
        }
    }

    /// The connection, or a new one.
    fn connection(&mut self) -> SendRequest<Bytes> {
        let address = self.address;
        let connect = async {
            let socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("the server accepts");
            let (requests, connection) = h2::client::handshake(socket).await.expect("the server speaks HTTP/2");
            tokio::spawn(connection);
            requests
        };
        let (requests, runtime) = (self.requests.take(), &self.runtime);
        requests.unwrap_or_else(|| runtime.block_on(connect))
    }
}

/// Start a server without documents on a thread of its own.
fn serve() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind(Options {
                listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
                max_connections: 100,
                max_streams: 1000,
                limits: Limits::new(1000, 100),
                stall_timeout: Duration::from_secs(60),
                max_connection_age: None,
                grace: Duration::from_secs(1),
                identifier: "fuzz".to_owned(),
                tls: None,
                plaintext_secrets: false,
            })
            .expect("bind");
            if let Listen::Tcp(address) = server.local_addr() {
                sender.send(*address).expect("somebody waits");
            }
            let tokens = [CancellationToken::new(), CancellationToken::new()];
            let [draining, token] = tokens;
            server
                .run(Arc::new(Store::default()), Fleet::default(), draining, token)
                .await
                .expect("serve");
        });
    });
    receiver.recv().expect("an address")
}

pub(crate) fn run(input: &[u8]) {
    let Some((head, body)) = input.split_first() else {
        return;
    };
    let path = METHODS[usize::from(head >> 1) % METHODS.len()];
    let body = if head & 1 == 1 {
        Bytes::copy_from_slice(body)
    } else {
        framed(body)
    };
    PORT.with_borrow_mut(|port| {
        let is_new = port.requests.is_none();
        let requests = port.connection();
        match port.runtime.block_on(exchange(&requests, path, body)) {
            Ok(()) => port.requests = Some(requests),
            // The server ends a connection that has reset many streams.
            Err(error) => assert!(!is_new, "one stream has ended its connection: {error}"),
        }
    });
}

fn framed(body: &[u8]) -> Bytes {
    let mut framed = Vec::new();
    for message in parts(body) {
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).expect("a small message"));
        framed.put(message);
    }
    framed.into()
}

async fn exchange(requests: &SendRequest<Bytes>, path: &str, body: Bytes) -> Result<(), h2::Error> {
    let request = Request::post(format!("http://fuzz{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut stream) = requests.clone().ready().await?.send_request(request, false)?;
    // The server may have answered before it has read all.
    drop(stream.send_data(body, true));
    let read = read(response);
    match tokio::time::timeout(SILENCE, read).await {
        Ok(Ok(said)) => said.iter().for_each(|said| check_sentence(said)),
        Ok(Err(error)) if error.is_reset() => {}
        Ok(Err(error)) => return Err(error),
        Err(_) => stream.send_reset(h2::Reason::CANCEL),
    }
    Ok(())
}

/// Read the response to its end. Returns its `grpc-message`.
async fn read(response: ResponseFuture) -> Result<Option<String>, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    let said = |headers: &HeaderMap| Some(headers.get("grpc-message")?.to_str().expect("visible ASCII").to_owned());
    Ok([trailers, Some(head.headers)]
        .iter()
        .map(|headers| headers.as_ref().and_then(said))
        .find_map(identity))
}
