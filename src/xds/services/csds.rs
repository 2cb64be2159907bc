//! Client status (CSDS): the configuration of each client over gRPC, as a standard alternative to the admin API.
//!
//! In: node matchers. Out: a [`ClientConfig`] for each connected stream.
//!
//! - At most two responses are built at a time, on blocking threads, so that status requests do not delay proxies.
//! - `StreamClientStatus` answers in messages of about 2 MiB. Each is built after the client has read the one before.
//! - `FetchClientStatus` answers in one message, or with `RESOURCE_EXHAUSTED` if the status does not fit.

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
use crate::xds::grpc::{SERVICE_REQUEST_MAX, STATUS_MAX, STATUS_PART};

mod config;
mod matcher;

use config::client_config;
use matcher::Matcher;

/// Responses that are built at the same time.
const BUILDERS: usize = 2;

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
        ClientStatusDiscoveryServiceServer::new(csds).max_decoding_message_size(SERVICE_REQUEST_MAX)
    }

    /// Start the response to a request.
    fn begin(&self, request: &ClientStatusRequest) -> Result<StatusCursor, Status> {
        let matcher = Matcher::new(&request.node_matchers).map_err(Status::invalid_argument)?;
        let views = Box::new(self.fleet.connected_clients(&|node_id| matcher.matches(node_id)));
        Ok(StatusCursor {
            views,
            with_content: !request.exclude_resource_contents,
            started: false,
        })
    }

    /// The next clients of a response, until their status has `full` bytes.
    async fn build(&self, mut answer: StatusCursor, full: usize) -> Result<(Vec<ClientConfig>, StatusCursor), Status> {
        let permit = Arc::clone(&self.builders).acquire_owned().await;
        let snapshot = self.store.current();
        let build = move || {
            let _permit = permit;
            answer.started = true;
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

/// The position in a status response: the clients that are still to be sent.
struct StatusCursor {
    views: Box<dyn Iterator<Item = ClientView> + Send>,
    with_content: bool,
    /// At least one message was built. A response without clients is one empty message.
    started: bool,
}

/// A stream: its requests, and the response that is being sent.
struct Conversation {
    csds: Csds,
    requests: Streaming<ClientStatusRequest>,
    answer: Option<StatusCursor>,
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
            let first = !answer.started;
            let (config, rest) = self.csds.build(answer, STATUS_PART).await?;
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
        let (config, mut rest) = self.build(answer, STATUS_MAX).await?;
        if rest.views.next().is_some() {
            return Err(Status::resource_exhausted(format!(
                "the status of all clients takes more than {STATUS_MAX} bytes: name fewer with node_matchers, set \
                 exclude_resource_contents, or use StreamClientStatus"
            )));
        }
        Ok(Response::new(ClientStatusResponse { config }))
    }
}
