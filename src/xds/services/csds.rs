//! Client status (CSDS): which client has what, for everyone who speaks gRPC and not our admin API.
//!
//! What enters: node matchers. What leaves: a [`ClientConfig`] for each connected stream, made when it is asked for and not
//! before, on threads of their own and two at a time, so that whoever asks much waits and no proxy does. A stream gets its
//! answer in messages of a few megabytes, each made when the one before was taken; `FetchClientStatus` has one message and
//! refuses what does not fit.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse};
use futures::Stream;
use futures::stream::try_unfold;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::{ClientView, Fleet};
use crate::snapshot::store::Store;

mod config;
mod matcher;

use config::client_config;
use matcher::Matcher;

/// Answers that are made at the same time.
const BUILDERS: usize = 2;
/// A message of a stream is full when it has this many bytes; gRPC clients take 4 MB unless told otherwise.
const MESSAGE_FULL: usize = 2 * 1024 * 1024;
/// The largest request, in bytes: a hundred matchers with room for their texts.
const REQUEST_MAX: usize = 256 * 1024;
/// The largest answer of `FetchClientStatus`, in bytes.
const FETCH_MAX: usize = 32 * 1024 * 1024;

/// The service.
#[derive(Debug, Clone)]
pub(in crate::xds) struct Csds {
    store: Arc<Store>,
    fleet: Fleet,
    builders: Arc<Semaphore>,
}

impl Csds {
    pub(in crate::xds) fn server(store: Arc<Store>, fleet: Fleet) -> ClientStatusDiscoveryServiceServer<Self> {
        let builders = Arc::new(Semaphore::new(BUILDERS));
        let csds = Self { store, fleet, builders };
        ClientStatusDiscoveryServiceServer::new(csds).max_decoding_message_size(REQUEST_MAX)
    }

    /// The clients that a request is about.
    fn begin(&self, request: &ClientStatusRequest) -> Result<Answer, Status> {
        let matcher = Matcher::new(&request.node_matchers).map_err(Status::invalid_argument)?;
        let views = Box::new(self.fleet.connected_clients(&|node_id| matcher.matches(node_id)));
        Ok(Answer {
            views,
            with_content: !request.exclude_resource_contents,
            begun: false,
        })
    }

    /// The next clients of an answer, until there are so many bytes.
    async fn build(&self, mut answer: Answer, full: usize) -> Result<(Vec<ClientConfig>, Answer), Status> {
        let permit = Arc::clone(&self.builders).acquire_owned().await;
        let snapshot = self.store.current();
        let build = move || {
            let _permit = permit;
            answer.begun = true;
            let (mut configs, mut size) = (Vec::new(), 0);
            while size < full
                && let Some(view) = answer.views.next()
            {
                let config = client_config(&view, &snapshot, answer.with_content);
                size += config.encoded_len();
                configs.push(config);
            }
            (configs, answer)
        };
        tokio::task::spawn_blocking(build)
            .await
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// What is still to be told of an answer.
struct Answer {
    views: Box<dyn Iterator<Item = ClientView> + Send>,
    with_content: bool,
    /// At least one message was made: an answer without clients is one too.
    begun: bool,
}

/// A stream: its requests, and the answer that is being given.
struct Conversation {
    csds: Csds,
    requests: Streaming<ClientStatusRequest>,
    answer: Option<Answer>,
}

impl Conversation {
    async fn step(mut self) -> Result<Option<(ClientStatusResponse, Self)>, Status> {
        loop {
            let Some(answer) = self.answer.take() else {
                let Some(request) = self.requests.message().await? else {
                    return Ok(None);
                };
                self.answer = Some(self.csds.begin(&request)?);
                continue;
            };
            let first = !answer.begun;
            let (config, rest) = self.csds.build(answer, MESSAGE_FULL).await?;
            if !config.is_empty() || first {
                self.answer = Some(rest).filter(|_| !config.is_empty());
                return Ok(Some((ClientStatusResponse { config }, self)));
            }
        }
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let conversation = Conversation {
            csds: self.clone(),
            requests: request.into_inner(),
            answer: None,
        };
        Ok(Response::new(Box::pin(try_unfold(conversation, Conversation::step))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let answer = self.begin(request.get_ref())?;
        let (config, mut rest) = self.build(answer, FETCH_MAX).await?;
        if rest.views.next().is_some() {
            return Err(Status::resource_exhausted(format!(
                "the status of all clients takes more than {FETCH_MAX} bytes: name fewer with node_matchers, set \
                 exclude_resource_contents, or use StreamClientStatus"
            )));
        }
        Ok(Response::new(ClientStatusResponse { config }))
    }
}
