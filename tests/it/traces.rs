//! One trace per change: the spans that a running server sends to a collector.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, SotwStream, connect, delta, delta_ack, sotw, sotw_ack, types,
};
use crate::support::eventually::eventually;
use crate::support::server::Server;

/// Longest wait for an export: the exporter sends the ended spans every 5 s.
const EXPORTED_WITHIN: Duration = Duration::from_secs(12);

/// The fields of `ExportTraceServiceRequest` that the tests read.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

/// An OTLP collector.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    /// Every export, as it came.
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let service = service_fn(move |request| collect(request, Arc::clone(&kept)));
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // It ends when the exporter hangs up.
                drop(connection.serve_connection(TokioIo::new(stream), service).await);
            }
        });
        Self { endpoint, bodies }
    }

    /// Every export, as it came.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Span> {
        // A gRPC message follows its flag and its length.
        let exports = self
            .bodies()
            .into_iter()
            .map(|body| Export::decode(body.slice(5..)).unwrap());
        let scopes = exports
            .flat_map(|export| export.resources)
            .flat_map(|resource| resource.scopes);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Name and parent's name of every span of the traces that reached a proxy, one list a trace, sorted.
    fn traces(&self) -> Vec<Vec<(String, String)>> {
        let spans = self.spans();
        let reached: BTreeSet<&[u8]> = spans
            .iter()
            .filter(|span| span.name == "acknowledged")
            .map(|span| &*span.trace_id)
            .collect();
        let trace = |id: &[u8]| {
            let of_trace: Vec<&Span> = spans.iter().filter(|span| span.trace_id == id).collect();
            let parent = |span: &Span| {
                let parent = of_trace.iter().find(|other| other.span_id == span.parent_span_id);
                let unknown = if span.parent_span_id.is_empty() { "-" } else { "?" };
                parent.map_or(unknown, |parent| &parent.name).to_owned()
            };
            let mut names: Vec<_> = of_trace.iter().map(|span| (span.name.clone(), parent(span))).collect();
            names.sort();
            names
        };
        reached.into_iter().map(trace).collect()
    }
}

async fn collect(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Bytes>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    kept.lock().unwrap().push(body);
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "0");
    Ok(response.body(Empty::new()).unwrap())
}

/// A server that exports to this collector, with two proxies that have sent an ACK for every cluster.
async fn serve(collector: &Collector, arguments: &[&str]) -> (Server, DeltaStream, SotwStream) {
    let folder = tempfile::Builder::new().prefix("chancery-traces-").tempdir().unwrap();
    std::fs::create_dir(folder.path().join("gateway")).unwrap();
    let ours = ["--dir", "gateway", "--otlp-endpoint", &collector.endpoint];
    let server = Server::start_in(folder, &[&ours, arguments].concat()).await;
    server.ready().await;
    put(&server, "first").await;
    let channel = connect(server.xds()).await;
    let mut one = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    one.send(delta(types::CLUSTER, &[], &[]));
    acknowledge(&mut one).await;
    let mut other = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
    other.send(sotw(types::CLUSTER, &[]));
    let clusters = other.receive().await;
    other.send(sotw_ack(&clusters, &[]));
    (server, one, other)
}

async fn acknowledge(stream: &mut DeltaStream) {
    let clusters = stream.receive().await;
    stream.send(delta_ack(&clusters));
}

async fn put(server: &Server, cluster: &str) {
    let document = r#"{"endpoints": [{"address": "10.0.0.1:8080"}]}"#;
    assert_eq!(
        server
            .put(&format!("/api/v1/documents/clusters/{cluster}"), document)
            .await
            .0,
        201
    );
    let published = || async {
        server
            .try_get(&format!("/api/v1/snapshot/clusters/{cluster}"))
            .await
            .unwrap()
            .0
    };
    eventually(Duration::from_secs(5), published, 200).await;
}

#[tokio::test]
async fn a_change_is_one_trace_from_its_revision_to_every_stream() {
    let collector = Collector::start().await;
    // The filter of log lines does not filter traces.
    let (server, mut one, mut other) = serve(&collector, &["--log-level", "warn,chancery::app=info"]).await;
    put(&server, "second").await;
    acknowledge(&mut one).await;
    let clusters = other.receive().await;
    other.send(sotw_ack(&clusters, &[]));
    let span = |name: &str, parent: &str| (name.to_owned(), parent.to_owned());
    let trace = vec![
        span("acknowledged", "publish"),
        span("acknowledged", "publish"),
        span("change", "-"),
        span("plan", "change"),
        span("publish", "change"),
    ];
    // The server runs on and sees no later change.
    eventually(EXPORTED_WITHIN, || async { collector.traces() }, vec![trace]).await;
    let names: BTreeSet<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(
        names,
        ["acknowledged", "change", "plan", "publish"].map(str::to_owned).into()
    );
}

#[tokio::test]
async fn a_change_that_is_not_sampled_is_sent_nowhere() {
    let collector = Collector::start().await;
    let (mut server, mut one, _) = serve(&collector, &["--trace-sample-percent", "0", "--grace", "1s"]).await;
    put(&server, "second").await;
    acknowledge(&mut one).await;
    server.terminate();
    assert!(server.ended(Duration::from_secs(10)).await.success());
    assert_eq!(collector.spans(), []);
}
