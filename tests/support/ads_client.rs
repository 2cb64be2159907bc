//! A raw xDS client that does only the steps of a test: SotW and delta, ADS and per-type services.

use std::fmt::Debug;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `StreamAggregatedResources`.
pub const ADS_SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// `DeltaAggregatedResources`.
pub const ADS_DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// The type URLs that tests name.
pub mod types {
    /// CDS.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// EDS.
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// LDS.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// RDS.
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// SDS.
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
}

/// One stream.
#[derive(Debug)]
pub struct AdsStream<Req, Resp> {
    requests: Option<mpsc::UnboundedSender<Req>>,
    responses: Inbox<Resp>,
}

/// Where responses come from: some servers send the headers of a stream only with its first response.
#[derive(Debug)]
enum Inbox<Resp> {
    Opening(JoinHandle<Result<Streaming<Resp>, Status>>),
    Open(Box<Streaming<Resp>>),
    Refused(Status),
}

impl<Resp> Inbox<Resp> {
    /// The stream once its headers are there.
    async fn opened(&mut self) -> Result<&mut Streaming<Resp>, Status> {
        if let Self::Opening(opening) = self {
            *self = opening
                .await
                .expect("opening a stream does not panic")
                .map_or_else(Self::Refused, |opened| Self::Open(Box::new(opened)));
        }
        match self {
            Self::Open(responses) => Ok(responses),
            Self::Refused(status) => Err(status.clone()),
            Self::Opening(_) => unreachable!("it was opened above"),
        }
    }

    async fn message(&mut self) -> Result<Option<Resp>, Status> {
        self.opened().await?.message().await
    }
}

/// The next event of a stream.
#[derive(Debug)]
pub enum Event<Resp> {
    /// A response.
    Response(Resp),
    /// Its end.
    Ended(Status),
    /// Nothing in the given time.
    Nothing,
}

/// A state-of-the-world stream.
pub type SotwStream = AdsStream<DiscoveryRequest, DiscoveryResponse>;
/// An incremental stream.
pub type DeltaStream = AdsStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

/// A connection to a server.
///
/// # Panics
/// When there is none.
pub async fn connect(address: impl ToString) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", address.to_string())).expect("an address");
    endpoint.connect().await.expect("the server accepts")
}

impl<Req, Resp> AdsStream<Req, Resp>
where
    Req: prost::Message + Send + Sync + 'static,
    Resp: prost::Message + Default + Send + Sync + Debug + 'static,
{
    /// Open a stream of a method.
    ///
    /// # Errors
    /// The status that it ends with instead.
    pub async fn open(channel: &Channel, path: &'static str) -> Result<Self, Status> {
        let mut stream = Self::open_early(channel, path);
        stream.responses.opened().await?;
        Ok(stream)
    }

    /// Open a stream of a method without waiting until the server says that it is open.
    pub fn open_early(channel: &Channel, path: &'static str) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let opening = async move {
            client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::default();
            let stream = Request::new(UnboundedReceiverStream::new(receiver));
            let response = client.streaming(stream, PathAndQuery::from_static(path), codec).await?;
            Ok(response.into_inner())
        };
        Self {
            requests: Some(requests),
            responses: Inbox::Opening(tokio::spawn(opening)),
        }
    }

    /// Send a request.
    pub fn send(&self, request: Req) {
        self.requests
            .as_ref()
            .expect("open")
            .send(request)
            .expect("the stream is open");
    }

    /// The client sends nothing more.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next response.
    ///
    /// # Panics
    /// When none comes.
    pub async fn receive(&mut self) -> Resp {
        self.receive_within(PATIENCE).await
    }

    /// The next response, with a longer limit.
    ///
    /// # Panics
    /// When none comes.
    pub async fn receive_within(&mut self, limit: Duration) -> Resp {
        match timeout(limit, self.responses.message()).await {
            Ok(Ok(Some(response))) => response,
            Ok(other) => panic!("expected a response, the stream ended: {other:?}"),
            Err(_) => panic!("expected a response within {limit:?}"),
        }
    }

    /// The next event within a period.
    pub async fn event(&mut self, period: Duration) -> Event<Resp> {
        match timeout(period, self.responses.message()).await {
            Ok(Ok(Some(response))) => Event::Response(response),
            Ok(Ok(None)) => Event::Ended(Status::ok("")),
            Ok(Err(status)) => Event::Ended(status),
            Err(_) => Event::Nothing,
        }
    }

    /// Nothing arrives for a while.
    ///
    /// # Panics
    /// When something does.
    pub async fn quiet(&mut self, period: Duration) {
        if let Ok(response) = timeout(period, self.responses.message()).await {
            panic!("expected silence, found {response:?}");
        }
    }

    /// The status of the end of the stream; responses before it are ignored.
    ///
    /// # Panics
    /// If the stream does not end.
    pub async fn ended(&mut self) -> Status {
        let end = async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                }
            }
        };
        timeout(PATIENCE, end).await.expect("the stream ends")
    }
}

/// The node of tests.
pub fn node(id: &str) -> Option<Node> {
    Some(Node {
        id: id.to_owned(),
        cluster: "c".to_owned(),
        ..Node::default()
    })
}

/// An error detail.
pub fn refusal(message: &str) -> Option<RpcStatus> {
    Some(RpcStatus {
        code: 13,
        message: message.to_owned(),
        details: Vec::new(),
    })
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A SotW request without version and nonce.
pub fn sotw(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: node("n1"),
        type_url: type_url.to_owned(),
        resource_names: strings(names),
        ..DiscoveryRequest::default()
    }
}

/// The ACK of a SotW response.
pub fn sotw_ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..sotw(&response.type_url, names)
    }
}

/// A delta request without nonce.
pub fn delta(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node("n1"),
        type_url: type_url.to_owned(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

/// The ACK of a delta response.
pub fn delta_ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        ..delta(&response.type_url, &[], &[])
    }
}

/// The names in a delta response, and the removed ones.
pub fn contents(response: &DeltaDiscoveryResponse) -> (Vec<&str>, Vec<&str>) {
    let names = response.resources.iter().map(|resource| &*resource.name).collect();
    (names, response.removed_resources.iter().map(|name| &**name).collect())
}
