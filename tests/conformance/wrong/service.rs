//! The wrong server on the wire: both methods of ADS and of each type's own service.
//!
//! The transport pulls a stream: a response is made when the transport has room for it.

use std::collections::VecDeque;
use std::future::{Ready, pending, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{self, Any};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::fault::Fault;
use super::session::{Answer, Ask, Asker, Names, Session, Variant};
use super::store::{Catalog, Edit, Entry, Shared, Store};
use crate::client::method;
use crate::fixture::{ELSEWHERE, Type, VHDS};
use crate::rule;

/// The message limit of gRPC libraries, and the default of tonic.
const SMALL: usize = 4 * 1024 * 1024;

/// Number of streams so far, over all servers. A stream's number is never used again, not even after a restart.
static STREAMS: AtomicU64 = AtomicU64::new(0);

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct WrongServer {
    address: SocketAddr,
    store: Arc<Store>,
    settings: Settings,
    task: JoinHandle<()>,
}

/// The options of a server.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings {
    pub(super) fault: Option<Fault>,
    /// Age at which a connection gets a GOAWAY.
    pub(super) age: Option<Duration>,
}

impl WrongServer {
    /// Start one on a free port.
    pub(super) async fn start(settings: Settings) -> Self {
        let store = Arc::new(Store::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let task = tokio::spawn(serve(listener, Arc::clone(&store), settings));
        Self {
            address,
            store,
            settings,
            task,
        }
    }

    /// End it and start it again, with nothing but its resources.
    pub(super) async fn start_again(&mut self) {
        self.task.abort();
        // The error is the cancellation from above.
        drop((&mut self.task).await);
        let listener = TcpListener::bind(self.address).await.expect("bind the port again");
        self.task = tokio::spawn(serve(listener, Arc::clone(&self.store), self.settings));
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

async fn serve(listener: TcpListener, store: Arc<Store>, settings: Settings) {
    let service = Arc::new(Service {
        store,
        settings,
        shared: Arc::default(),
    });
    let has = |fault| settings.fault == Some(fault);
    let router = axum::Router::new().fallback(move |request| handle(Arc::clone(&service), request));
    let mut server = tonic::transport::Server::builder();
    if !has(Fault::NoKeepalive) {
        server = server.http2_keepalive_interval(Some(Duration::from_secs(30)));
        server = server.http2_keepalive_timeout(Some(Duration::from_secs(20)));
    }
    if has(Fault::FewStreams) {
        server = server.max_concurrent_streams(100);
    }
    if let Some(age) = settings.age.filter(|_| !has(Fault::AgeIgnored)) {
        server = server.max_connection_age(age);
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server
        .add_routes(Routes::from(router))
        .serve_with_incoming(incoming)
        .await
        .expect("serve");
}

struct Service {
    store: Arc<Store>,
    settings: Settings,
    shared: Arc<Shared>,
}

/// One request for a method, whichever it is.
async fn handle(service: Arc<Service>, request: http::Request<Body>) -> axum::response::Response {
    let fault = service.settings.fault;
    let Some((variant, of)) = called(request.uri().path(), fault) else {
        return Status::unimplemented("no such method")
            .into_http::<Body>()
            .into_response();
    };
    let limit = |small| if fault == Some(small) { SMALL } else { usize::MAX };
    let (requests, responses) = (limit(Fault::SmallRequests), limit(Fault::SmallResponses));
    let response = match variant {
        Variant::Sotw => {
            let grpc = Grpc::new(ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default());
            let mut grpc = grpc
                .max_decoding_message_size(requests)
                .max_encoding_message_size(responses);
            grpc.streaming(
                Open {
                    service,
                    variant,
                    of,
                    ask: sotw_ask,
                    response: sotw_response,
                },
                request,
            )
            .await
        }
        Variant::Delta => {
            let grpc = Grpc::new(ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default());
            let mut grpc = grpc
                .max_decoding_message_size(requests)
                .max_encoding_message_size(responses);
            grpc.streaming(
                Open {
                    service,
                    variant,
                    of,
                    ask: delta_ask,
                    response: delta_response,
                },
                request,
            )
            .await
        }
    };
    if fault != Some(Fault::MarkedAsCompressed) {
        return response.into_response();
    }
    let marked = response.map(|body| {
        body.map_frame(|frame| {
            frame.map_data(|data| {
                let mut data = data.to_vec();
                data.iter_mut().take(1).for_each(|flag| *flag = 1);
                data.into()
            })
        })
    });
    marked.into_response()
}

/// The variant, and the type if it is not ADS.
fn called(path: &str, fault: Option<Fault>) -> Option<(Variant, Option<&'static str>)> {
    let variants = [
        (Variant::Sotw, rule::Variant::Sotw),
        (Variant::Delta, rule::Variant::Delta),
    ];
    variants.into_iter().find_map(|(variant, of_rule)| {
        if path == method::ads(of_rule) {
            return Some((variant, None));
        }
        let types = Type::ALL
            .into_iter()
            .filter(|of| *of != VHDS || variant == Variant::Delta);
        let mut types = types.filter(|_| fault != Some(Fault::NoServices));
        let of = types.find(|of| path == method::of(*of, of_rule))?;
        Some((variant, Some(of.type_url())))
    })
}

/// How a stream is opened.
struct Open<Req, Resp> {
    service: Arc<Service>,
    variant: Variant,
    of: Option<&'static str>,
    ask: fn(Req) -> Ask,
    response: fn(Answer, Option<Fault>) -> Resp,
}

impl<Req: Send + 'static, Resp: Send + 'static> tower_service::Service<Request<Streaming<Req>>> for Open<Req, Resp> {
    type Response = Response<BoxStream<'static, Result<Resp, Status>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Req>>) -> Self::Future {
        let Service {
            store,
            settings,
            shared,
        } = &*self.service;
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let opened = Instant::now();
        let mut connected = Connected {
            requests: request.into_inner(),
            catalog: store.watch(),
            session: Session::new(self.variant, self.of, settings.fault, Arc::clone(shared), number),
            settings: *settings,
            ask: self.ask,
            queue: VecDeque::new(),
            opened,
            asked: false,
            ended: false,
            half_closed: false,
            refreshed: opened,
        };
        let (response, fault) = (self.response, settings.fault);
        let answers = if fault == Some(Fault::EveryStateQueued) {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                while let Some(answer) = connected.next().await {
                    if sender.send(answer).is_err() {
                        return;
                    }
                }
            });
            UnboundedReceiverStream::new(receiver).boxed()
        } else {
            stream::unfold(connected, async |mut connected| {
                Some((connected.next().await?, connected))
            })
            .boxed()
        };
        let messages = answers.map(move |answer| answer.map(|answer| response(answer, fault)));
        ready(Ok(Response::new(messages.boxed())))
    }
}

/// One stream.
struct Connected<Req> {
    requests: Streaming<Req>,
    catalog: watch::Receiver<Arc<Catalog>>,
    session: Session,
    settings: Settings,
    ask: fn(Req) -> Ask,
    queue: VecDeque<Answer>,
    opened: Instant,
    asked: bool,
    ended: bool,
    half_closed: bool,
    refreshed: Instant,
}

impl<Req> Connected<Req> {
    /// The next response, or how the stream ends.
    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        loop {
            if let Some(answer) = self.queue.pop_front() {
                return Some(Ok(answer));
            }
            if self.ended {
                return None;
            }
            let (refresh_at, end_at) = (self.refresh_at(), self.end_at());
            let answers = tokio::select! {
                biased;
                request = self.requests.message(), if !self.half_closed => match request {
                    Ok(Some(request)) => {
                        self.asked = true;
                        self.session.on_ask((self.ask)(request), &self.catalog.borrow_and_update().clone())
                    }
                    Ok(None) if self.has(Fault::HalfCloseIgnored) => {
                        self.half_closed = true;
                        continue;
                    }
                    Ok(None) => return None,
                    Err(status) => Err(status),
                },
                changed = self.catalog.changed() => match changed {
                    Ok(()) => Ok(self.session.on_commit(&self.catalog.borrow_and_update().clone())),
                    Err(_) => return None,
                },
                () = at(refresh_at) => {
                    self.refreshed = Instant::now();
                    Ok(self.session.on_refresh())
                }
                () = at(end_at) => match self.settings.age {
                    Some(_) => return None,
                    None => Err(Status::deadline_exceeded("it took too long")),
                },
            };
            match answers {
                Ok(answers) => self.queue.extend(answers),
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.settings.fault == Some(fault)
    }

    fn refresh_at(&self) -> Option<Instant> {
        Some(self.refreshed + self.session.refresh()?)
    }

    /// When the stream ends of itself.
    fn end_at(&self) -> Option<Instant> {
        let after = match self.settings.fault {
            Some(Fault::FirstMessageDeadline) if !self.asked => Duration::from_secs(5),
            Some(Fault::StreamsExpire) => Duration::from_secs(10),
            Some(Fault::AgeIgnored) => return None,
            // One second after the GOAWAY of the connection.
            _ => self.settings.age? + Duration::from_secs(1),
        };
        Some(self.opened + after)
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// The node of the client; true if it is in the suite's other group.
fn asker(node: Node) -> Asker {
    let place = node.metadata.as_ref().and_then(|metadata| metadata.fields.get("place"));
    let place = place.and_then(|place| place.kind.as_ref());
    let elsewhere = matches!(place, Some(Kind::StringValue(place)) if place == ELSEWHERE);
    Asker { id: node.id, elsewhere }
}

fn sotw_ask(request: DiscoveryRequest) -> Ask {
    Ask {
        node: request.node.map(asker),
        type_url: request.type_url,
        version: request.version_info,
        nonce: request.response_nonce,
        refused: request.error_detail.is_some(),
        names: Names::All(request.resource_names),
    }
}

fn delta_ask(request: DeltaDiscoveryRequest) -> Ask {
    Ask {
        node: request.node.map(asker),
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
    let type_url = answer.type_url;
    let wraps = matches!(fault, Some(Fault::WrapsAlways | Fault::HeartbeatsInSotw));
    let bodies = answer.resources.into_iter().map(|(name, entry)| {
        if wraps && (entry.ttl.is_some() || fault == Some(Fault::WrapsAlways)) {
            let resource = wrapper(name, entry, &type_url, fault);
            let wrapper = "type.googleapis.com/envoy.service.discovery.v3.Resource";
            return Any {
                type_url: wrapper.to_owned(),
                value: resource.encode_to_vec(),
            };
        }
        any(&type_url, entry.body, fault)
    });
    DiscoveryResponse {
        version_info: answer.version,
        resources: bodies.collect(),
        type_url: type_url.clone(),
        nonce: answer.nonce,
        control_plane: control_plane(fault),
        ..DiscoveryResponse::default()
    }
}

fn delta_response(answer: Answer, fault: Option<Fault>) -> DeltaDiscoveryResponse {
    let type_url = answer.type_url;
    let resources = answer
        .resources
        .into_iter()
        .map(|(name, entry)| wrapper(name, entry, &type_url, fault));
    DeltaDiscoveryResponse {
        system_version_info: answer.version,
        resources: resources.collect(),
        removed_resources: answer.removed,
        type_url: type_url.clone(),
        nonce: answer.nonce,
        control_plane: control_plane(fault),
        ..DeltaDiscoveryResponse::default()
    }
}

fn wrapper(name: String, entry: Entry, type_url: &str, fault: Option<Fault>) -> Resource {
    let ttl = entry.ttl.map(|ttl| protobuf::Duration {
        seconds: ttl.as_secs().try_into().expect("a short time"),
        nanos: ttl.subsec_nanos().try_into().expect("less than a second"),
    });
    Resource {
        name: if fault == Some(Fault::WrongWrapperName) {
            format!("{name}-wrapped")
        } else {
            name
        },
        version: entry.version,
        resource: (!entry.bodiless).then(|| any(type_url, entry.body, fault)),
        aliases: if fault == Some(Fault::NoAliases) {
            Vec::new()
        } else {
            entry.aliases
        },
        ttl,
        ..Resource::default()
    }
}

fn any(type_url: &str, body: Vec<u8>, fault: Option<Fault>) -> Any {
    let type_url = if fault == Some(Fault::WrongAnyType) {
        "type.googleapis.com/wrong"
    } else {
        type_url
    };
    Any {
        type_url: type_url.to_owned(),
        value: body,
    }
}

fn control_plane(fault: Option<Fault>) -> Option<ControlPlane> {
    (fault != Some(Fault::NoControlPlane)).then(|| ControlPlane {
        identifier: "wrong".to_owned(),
    })
}
