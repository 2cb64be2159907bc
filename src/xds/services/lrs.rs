//! Load reports (LRS): proxies report the number of requests to each cluster, [`crate::fleet`] adds them up.
//!
//! The response to the first request lists the clusters to report and the interval. Every later request is a report. A
//! client with `envoy.lrs.supports_send_all_clusters` reports all clusters. Other clients get the names of their
//! group's clusters, and a new response when these names change.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsResponse;
use futures::stream::try_unfold;
use http::{HeaderValue, Response, header};
use prost::Message;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic_prost::ProstCodec;
use tracing::debug;

use crate::fleet::Fleet;
use crate::fleet::load::Reporter;
use crate::proto::message::duration;
use crate::proto::wire;
use crate::resource::ResourceType;
use crate::rollout::{self, Node};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::store::Store;
use crate::xds::error::Error;
use crate::xds::http2::incoming::Incoming;
use crate::xds::node;
use crate::xds::session::wire::limits;
use crate::xds::stream::in_flight::Cell;
use crate::xds::stream::reader::Reader;

mod report;

use report::Report;

/// The path of the only method.
pub(in crate::xds) const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// How often proxies report; at least a second (PX-14).
const INTERVAL: Duration = Duration::from_secs(10);
/// The client feature to report every cluster it knows.
const SENDS_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// Serve a stream of reports. `cell` is told of the first one.
///
/// tonic would decode each report into messages and keep a buffer of the size of the largest one, so the requests are
/// read here.
pub(in crate::xds) fn serve(
    store: &Arc<Store>,
    fleet: &Fleet,
    requests: Reader<Incoming>,
    cell: Arc<Cell>,
) -> Response<Body> {
    let conversation = Conversation {
        requests,
        cell,
        store: Arc::clone(store),
        reporter: fleet.loads().reporter(),
        asked: None,
        look_at: Instant::now(),
    };
    let responses = Box::pin(try_unfold(conversation, Conversation::step));
    let encoder = ProstCodec::<LoadStatsResponse, ()>::default().encoder();
    let compression = SingleMessageCompressionOverride::Disable;
    let body = EncodeBody::new_server(encoder, responses, None, compression, None);
    let mut response = Response::new(Body::new(body));
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// One stream of reports.
struct Conversation {
    requests: Reader<Incoming>,
    cell: Arc<Cell>,
    store: Arc<Store>,
    reporter: Reporter,
    /// The client, after its first request.
    asked: Option<Asked>,
    /// The next check for changed clusters.
    look_at: Instant,
}

/// A client, and the clusters that it is to report.
struct Asked {
    node: Node,
    sends_all: bool,
    clusters: Option<Arc<ResourceSet>>,
}

impl Conversation {
    /// Read reports until a response is due. `None`: the client has ended its side.
    async fn step(mut self) -> Result<Option<(LoadStatsResponse, Self)>, Status> {
        loop {
            let request = tokio::select! {
                request = poll_fn(|context| self.requests.poll_next(context)) => request.transpose().map_err(status)?,
                () = sleep_until(self.look_at), if self.asked.is_some() => {
                    self.look_at = Instant::now() + INTERVAL;
                    match self.ask_again() {
                        Some(response) => return Ok(Some((response, self))),
                        None => continue,
                    }
                }
            };
            let Some(request) = request else { return Ok(None) };
            let report = Report::read(&request).map_err(status)?;
            let response = match self.asked {
                Some(_) => None,
                None => Some(self.ask(report.node).map_err(status)?),
            };
            self.take(&report);
            if let Some(response) = response {
                self.look_at = Instant::now() + INTERVAL;
                return Ok(Some((response, self)));
            }
        }
    }

    /// The response to the first request, which has this node.
    fn ask(&mut self, node: Option<&[u8]>) -> Result<LoadStatsResponse, Error> {
        let node = node.map(self::node).transpose()?;
        let node = node.filter(|node| !node.id.is_empty()).ok_or(Error::NoNode)?;
        let sends_all = node.features.iter().any(|feature| feature == SENDS_ALL);
        debug!(node.id = &*node.id, sends_all, "A proxy opened a load report stream");
        self.cell.heard();
        let asked = self.asked.insert(Asked {
            node,
            sends_all,
            clusters: None,
        });
        asked.clusters = if sends_all { None } else { asked.wanted(&self.store) };
        Ok(asked.response())
    }

    /// A new response, if the names of the group's clusters have changed.
    fn ask_again(&mut self) -> Option<LoadStatsResponse> {
        let asked = self.asked.as_mut().filter(|asked| !asked.sends_all)?;
        let wanted = asked.wanted(&self.store);
        let pointer = |set: &Option<Arc<ResourceSet>>| set.as_ref().map(Arc::as_ptr);
        if pointer(&wanted) == pointer(&asked.clusters) {
            return None;
        }
        let before = asked.response();
        asked.clusters = wanted;
        Some(asked.response()).filter(|after| *after != before)
    }

    /// Count a report. Names of clusters that the proxy is served are trusted with a label.
    fn take(&mut self, report: &Report<'_>) {
        let clusters = self.asked.as_ref().and_then(|asked| asked.wanted(&self.store));
        let is_served = |name: &str| clusters.as_ref().is_some_and(|set| set.get(name).is_some());
        self.reporter.report(report.clusters.iter().copied(), is_served);
    }
}

fn status(error: Error) -> Status {
    Status::new((error.code() as i32).into(), error.to_string())
}

impl Asked {
    fn wanted(&self, store: &Store) -> Option<Arc<ResourceSet>> {
        let snapshot = store.current();
        let group = snapshot.group(&rollout::select(&snapshot.group_rules, &self.node))?;
        Some(Arc::clone(group.set(ResourceType::Cluster)))
    }

    fn response(&self) -> LoadStatsResponse {
        let clusters = self.clusters.iter().flat_map(|set| set.iter());
        LoadStatsResponse {
            clusters: clusters.map(|cluster| cluster.name.to_string()).collect(),
            send_all_clusters: self.sends_all,
            load_reporting_interval: Some(duration(INTERVAL)),
            report_endpoint_granularity: false,
        }
    }
}

/// The node as rollout uses it, decoded as for xDS.
fn node(bytes: &[u8]) -> Result<Node, Error> {
    limits::node_size(bytes)?;
    let node = wire::Node::decode(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let node = node::node(&node);
    limits::node(&node)?;
    Ok(node)
}
