//! An ADS server of the delta protocol for one Envoy: sends prepared responses, and keeps the verdict of each.
//!
//! Responses may be sent without waiting; Envoy answers them in order. The first request for a type is answered by its
//! resources at the start. Other names that Envoy subscribes to are answered at once, too, by what is known of them or
//! as removed: Envoy holds the answers of later responses while a cluster waits for its secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// Until Envoy has answered. Envoy takes no clusters while one of them waits, for example for a health check.
const LIMIT: Duration = Duration::from_secs(10);

type Outbox = mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>;

/// One resource of a response: name, encoded message.
pub(crate) type Named = (String, Vec<u8>);

#[derive(Default)]
struct State {
    outbox: Option<Outbox>,
    subscribed: BTreeSet<String>,
    /// Resources for subscriptions by name: type URL and name, encoded message.
    known: BTreeMap<(String, String), Vec<u8>>,
    /// Verdicts by nonce; `None`: an ACK.
    verdicts: BTreeMap<String, Option<String>>,
    /// Whether the stream has ended: Envoy is gone.
    ended: bool,
    /// Whether a response had no answer within the limit.
    stuck: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// Resources at the start, by type URL.
    first: BTreeMap<&'static str, Vec<Named>>,
}

/// The server.
pub(crate) struct Ads {
    shared: Arc<Shared>,
    sent: usize,
}

impl Ads {
    /// Bind a port; Envoy gets the resources of `first` when it asks for their types.
    pub(crate) async fn start(first: BTreeMap<&'static str, Vec<Named>>) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            first,
        });
        let service =
            AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&shared))).max_decoding_message_size(64 << 20);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (Self { shared, sent: 0 }, address)
    }

    /// Wait until Envoy has asked for each type of `first`.
    pub(crate) async fn subscribed(&self) {
        let all = |state: &State| self.shared.first.keys().all(|url| state.subscribed.contains(*url));
        let subscribed = self.until(|state| all(state).then_some(())).await;
        assert!(
            subscribed.is_some(),
            "Envoy asks for {:?}",
            self.shared.state.lock().subscribed
        );
    }

    /// Give a resource to whoever subscribes to its name from now on.
    pub(crate) fn offer(&self, type_url: &str, (name, value): Named) {
        let mut state = self.shared.state.lock();
        state.known.insert((type_url.to_owned(), name), value);
    }

    /// Send a response. Out: its nonce.
    pub(crate) fn send(&mut self, type_url: &str, resources: Vec<Named>, removed: Vec<String>) -> String {
        self.sent += 1;
        let nonce = self.sent.to_string();
        let response = response(&nonce, type_url, resources, removed);
        let state = self.shared.state.lock();
        let outbox = state.outbox.as_ref().expect("Envoy is connected");
        // If Envoy has ended, the verdict says so.
        drop(outbox.send(Ok(response)));
        nonce
    }

    /// Envoy's error for a response; `None`: an ACK, or no answer within the limit ([`Ads::is_stuck`]).
    pub(crate) async fn verdict(&self, nonce: &str) -> Option<String> {
        let ended = |state: &State| {
            let reason = state.ended.then(|| Some("Envoy has ended".to_owned()));
            reason.or_else(|| state.stuck.then_some(None))
        };
        let verdict = self
            .until(|state| state.verdicts.get(nonce).cloned().or_else(|| ended(state)))
            .await;
        verdict.unwrap_or_else(|| {
            self.shared.state.lock().stuck = true;
            None
        })
    }

    /// Whether Envoy is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.state.lock().ended
    }

    /// Whether Envoy left a response without an answer.
    pub(crate) fn is_stuck(&self) -> bool {
        self.shared.state.lock().stuck
    }

    async fn until<T>(&self, found: impl Fn(&State) -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                let found = found(&self.shared.state.lock());
                if found.is_some() {
                    return found;
                }
                changed.await;
            }
        };
        timeout(LIMIT, waiting).await.ok().flatten()
    }
}

fn response(nonce: &str, type_url: &str, resources: Vec<Named>, removed: Vec<String>) -> DeltaDiscoveryResponse {
    let resource = |(name, value): Named| Resource {
        name,
        version: nonce.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: nonce.to_owned(),
        resources: resources.into_iter().map(resource).collect(),
        type_url: type_url.to_owned(),
        removed_resources: removed,
        nonce: nonce.to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

struct Service(Arc<Shared>);

impl Shared {
    fn on_request(&self, request: DeltaDiscoveryRequest) {
        let mut state = self.state.lock();
        if !request.response_nonce.is_empty() {
            let error = request.error_detail.map(|error| error.message);
            state.verdicts.insert(request.response_nonce, error);
        }
        let type_url = request.type_url;
        let first = self.first.get(type_url.as_str()).map_or(&[][..], Vec::as_slice);
        let is_new = state.subscribed.insert(type_url.clone());
        let mut resources = if is_new { first.to_vec() } else { Vec::new() };
        let names = request.resource_names_subscribe.into_iter();
        let mut removed = Vec::new();
        for name in names.filter(|name| name != "*" && !first.iter().any(|(one, _)| one == name)) {
            match state.known.get(&(type_url.clone(), name.clone())) {
                Some(value) => resources.push((name, value.clone())),
                None => removed.push(name),
            }
        }
        if is_new || !resources.is_empty() || !removed.is_empty() {
            let response = response("names", &type_url, resources, removed);
            if let Some(outbox) = &state.outbox {
                drop(outbox.send(Ok(response)));
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

#[async_trait::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = UnboundedReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (outbox, responses) = mpsc::unbounded_channel();
        self.0.state.lock().outbox = Some(outbox);
        let (shared, mut requests) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                shared.on_request(request);
            }
            shared.state.lock().ended = true;
            shared.changed.notify_waiters();
        });
        Ok(Response::new(UnboundedReceiverStream::new(responses)))
    }
}
