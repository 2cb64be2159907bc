//! The wrong server on the wire: both methods of ADS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::fault::Fault;
use super::session::{Answer, Ask, Names, Session, Variant};
use super::store::{Edit, Store};

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct WrongServer {
    address: SocketAddr,
    store: Arc<Store>,
    task: JoinHandle<()>,
}

impl WrongServer {
    /// Start one on a free port, with a fault or without.
    pub(crate) async fn start(fault: Option<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let store = Arc::new(Store::new());
        let service = Service { store: Arc::clone(&store), fault, streams: AtomicU64::new(0) };
        let serve = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let task = tokio::spawn(async move { serve.await.expect("serve") });
        Self { address, store, task }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Make these changes at once.
    pub(super) fn apply(&self, edits: Vec<Edit>) {
        self.store.commit(edits);
    }
}

impl Drop for WrongServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    store: Arc<Store>,
    fault: Option<Fault>,
    streams: AtomicU64,
}

type Responses<T> = UnboundedReceiverStream<Result<T, Status>>;

#[async_trait::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.open(request.into_inner(), Variant::Sotw, sotw_ask, sotw_response)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.open(request.into_inner(), Variant::Delta, delta_ask, delta_response)))
    }
}

impl Service {
    /// Serve a stream in a task of its own, which ends with the stream.
    fn open<Req: Send + 'static, Resp: Send + 'static>(
        &self,
        mut requests: Streaming<Req>,
        variant: Variant,
        ask: fn(Req) -> Ask,
        response: fn(Answer, Option<Fault>) -> Resp,
    ) -> Responses<Resp> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut catalog = self.store.watch();
        let fault = self.fault;
        let mut session = Session::new(variant, fault, self.streams.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(async move {
            loop {
                let answers = tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => session.on_ask(ask(request), &catalog.borrow_and_update().clone()),
                        Ok(None) | Err(_) => return,
                    },
                    changed = catalog.changed() => match changed {
                        Ok(()) => Ok(session.on_commit(&catalog.borrow_and_update().clone())),
                        Err(_) => return,
                    },
                };
                let messages: Vec<_> = match answers {
                    Ok(answers) => answers.into_iter().map(|answer| Ok(response(answer, fault))).collect(),
                    Err(status) => vec![Err(status)],
                };
                for message in messages {
                    let ends = message.is_err();
                    if sender.send(message).is_err() || ends {
                        return;
                    }
                }
            }
        });
        UnboundedReceiverStream::new(receiver)
    }
}

fn sotw_ask(request: DiscoveryRequest) -> Ask {
    Ask {
        node: request.node.map(|node| node.id),
        type_url: request.type_url,
        version: request.version_info,
        nonce: request.response_nonce,
        refused: request.error_detail.is_some(),
        names: Names::All(request.resource_names),
    }
}

fn delta_ask(request: DeltaDiscoveryRequest) -> Ask {
    Ask {
        node: request.node.map(|node| node.id),
        type_url: request.type_url,
        version: String::new(),
        nonce: request.response_nonce,
        refused: request.error_detail.is_some(),
        names: Names::Change {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial: request.initial_resource_versions.into_iter().collect(),
        },
    }
}

fn sotw_response(answer: Answer, fault: Option<Fault>) -> DiscoveryResponse {
    let bodies = answer.resources.into_iter().map(|(_, entry)| any(&answer.type_url, entry.body, fault));
    DiscoveryResponse {
        version_info: answer.version,
        resources: bodies.collect(),
        type_url: answer.type_url.clone(),
        nonce: answer.nonce,
        control_plane: control_plane(fault),
        ..DiscoveryResponse::default()
    }
}

fn delta_response(answer: Answer, fault: Option<Fault>) -> DeltaDiscoveryResponse {
    let resources = answer.resources.into_iter().map(|(name, entry)| Resource {
        name,
        version: entry.version,
        resource: Some(any(&answer.type_url, entry.body, fault)),
        ..Resource::default()
    });
    DeltaDiscoveryResponse {
        system_version_info: answer.version,
        resources: resources.collect(),
        removed_resources: answer.removed,
        type_url: answer.type_url.clone(),
        nonce: answer.nonce,
        control_plane: control_plane(fault),
        ..DeltaDiscoveryResponse::default()
    }
}

fn any(type_url: &str, body: Vec<u8>, fault: Option<Fault>) -> Any {
    let type_url = if fault == Some(Fault::WrongAnyType) { "type.googleapis.com/wrong" } else { type_url };
    Any { type_url: type_url.to_owned(), value: body }
}

fn control_plane(fault: Option<Fault>) -> Option<ControlPlane> {
    (fault != Some(Fault::NoControlPlane)).then(|| ControlPlane { identifier: "wrong".to_owned() })
}
