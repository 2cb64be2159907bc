//! Load reports (LRS): proxies report the number of requests to each cluster, [`crate::fleet`] adds them up.
//!
//! The response to the first request lists the clusters to report and the interval. Every later request is a report. A
//! client with `envoy.lrs.supports_send_all_clusters` reports all clusters. Other clients get the names of their
//! group's clusters, and a new response when these names change.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterStats;
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_server::{
    LoadReportingService, LoadReportingServiceServer,
};
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use futures::Stream;
use futures::stream::try_unfold;
use prost::Message;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::fleet::Fleet;
use crate::fleet::load::{Load, Reporter};
use crate::proto::message::duration;
use crate::proto::wire;
use crate::resource::ResourceType;
use crate::rollout::{self, Node};
use crate::snapshot::set::ResourceSet;
use crate::snapshot::store::Store;
use crate::xds::node;

/// How often proxies report; at least a second (PX-14).
const INTERVAL: Duration = Duration::from_secs(10);
/// The client feature to report every cluster it knows.
const SENDS_ALL: &str = "envoy.lrs.supports_send_all_clusters";
/// The largest report, in bytes: fifty thousand clusters of a few localities.
const MAX_REPORT: usize = 16 * 1024 * 1024;

/// The service.
#[derive(Debug)]
pub(in crate::xds) struct Lrs {
    store: Arc<Store>,
    fleet: Fleet,
}

impl Lrs {
    pub(in crate::xds) fn server(store: Arc<Store>, fleet: Fleet) -> LoadReportingServiceServer<Self> {
        LoadReportingServiceServer::new(Self { store, fleet }).max_decoding_message_size(MAX_REPORT)
    }
}

#[tonic::async_trait]
impl LoadReportingService for Lrs {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let conversation = Conversation {
            requests: request.into_inner(),
            store: Arc::clone(&self.store),
            reporter: self.fleet.loads().reporter(),
            asked: None,
            look_at: Instant::now(),
        };
        Ok(Response::new(Box::pin(try_unfold(conversation, Conversation::step))))
    }
}

/// One stream of reports.
struct Conversation {
    requests: Streaming<LoadStatsRequest>,
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
                request = self.requests.message() => request?,
                () = sleep_until(self.look_at), if self.asked.is_some() => {
                    self.look_at = Instant::now() + INTERVAL;
                    match self.ask_again() {
                        Some(response) => return Ok(Some((response, self))),
                        None => continue,
                    }
                }
            };
            let Some(request) = request else { return Ok(None) };
            if self.asked.is_some() {
                self.take(&request.cluster_stats);
                continue;
            }
            let response = self.ask(request.node.as_ref())?;
            self.take(&request.cluster_stats);
            self.look_at = Instant::now() + INTERVAL;
            return Ok(Some((response, self)));
        }
    }

    /// The response to the first request.
    fn ask(&mut self, node: Option<&WireNode>) -> Result<LoadStatsResponse, Status> {
        let node = node.map(self::node).transpose()?;
        let Some(node) = node.filter(|node| !node.id.is_empty()) else {
            return Err(Status::invalid_argument(crate::xds::error::Error::NoNode.to_string()));
        };
        let sends_all = node.features.iter().any(|feature| feature == SENDS_ALL);
        debug!(node.id = &*node.id, sends_all, "A proxy opened a load report stream");
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

    fn take(&mut self, stats: &[ClusterStats]) {
        self.reporter.report(
            stats
                .iter()
                .map(|of_cluster| (of_cluster.cluster_name.as_str(), load(of_cluster))),
        );
    }
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
fn node(node: &WireNode) -> Result<Node, Status> {
    let node =
        wire::Node::decode(&*node.encode_to_vec()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(node::node(&node))
}

/// The sum over the localities of a cluster.
fn load(stats: &ClusterStats) -> Load {
    let by_category = stats
        .dropped_requests
        .iter()
        .fold(0_u64, |sum, one| sum.saturating_add(one.dropped_count));
    // The total should include the categories.
    let mut load = Load {
        dropped: stats.total_dropped_requests.max(by_category),
        ..Load::default()
    };
    for locality in &stats.upstream_locality_stats {
        load.issued = load.issued.saturating_add(locality.total_issued_requests);
        load.successful = load.successful.saturating_add(locality.total_successful_requests);
        load.error = load.error.saturating_add(locality.total_error_requests);
        load.in_progress = load.in_progress.saturating_add(locality.total_requests_in_progress);
    }
    load
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::endpoint::v3::UpstreamLocalityStats;
    use envoy_types::pb::envoy::config::endpoint::v3::cluster_stats::DroppedRequests;

    use super::*;

    #[test]
    fn localities_and_drops_add_up() {
        let locality = |count| UpstreamLocalityStats {
            total_issued_requests: 10 * count,
            total_successful_requests: 7 * count,
            total_error_requests: 2 * count,
            total_requests_in_progress: count,
            ..UpstreamLocalityStats::default()
        };
        let dropped = |category: &str, dropped_count| DroppedRequests {
            category: category.to_owned(),
            dropped_count,
        };
        let stats = ClusterStats {
            upstream_locality_stats: vec![locality(1), locality(2)],
            total_dropped_requests: 3,
            dropped_requests: vec![dropped("lb", 4), dropped("throttle", 1)],
            ..ClusterStats::default()
        };
        assert_eq!(
            load(&stats),
            Load {
                issued: 30,
                successful: 21,
                error: 6,
                dropped: 5,
                in_progress: 3
            }
        );
        assert_eq!(
            load(&ClusterStats {
                total_dropped_requests: 9,
                ..stats
            })
            .dropped,
            9
        );
    }
}
