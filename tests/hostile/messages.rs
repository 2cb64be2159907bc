//! Messages that never end, or hold far more than their bytes.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use prost::Message as _;

use crate::fleet::{CLUSTER, PATIENCE};
use crate::support::ads_client::{ADS_DELTA, node};
use crate::support::eventually::eventually;
use crate::trial::{MIB, Trial};
use crate::wire::{self, crowd};

const LOAD_REPORTS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
const FETCH_STATUS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

/// What the attacks of this module may cost.
const BUDGET: u64 = 256 * MIB;
/// Unfinished requests of all (docs/operating.md), and what the connections take.
const UNFINISHED: u64 = (512 + 64) * MIB;

/// The largest request, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "60 streams with a message of 64 MiB that never ends",
            UNFINISHED,
            |target| async move {
                let one = Arc::new(wire::connect(target.xds).await.unwrap());
                crowd(60, move || {
                    let one = Arc::clone(&one);
                    async move {
                        // All on one connection, until the server ends that.
                        let (_response, mut stream) = match wire::open(&one, ADS_DELTA).await {
                            Ok(opened) => opened,
                            Err(_) => wire::open(&wire::connect(target.xds).await?, ADS_DELTA).await?,
                        };
                        wire::send(&mut stream, wire::head(LARGEST)).await?;
                        let piece = Bytes::from(vec![0x1a; 64 * 1024]);
                        for _ in 1..LARGEST / piece.len() {
                            wire::send(&mut stream, piece.clone()).await?;
                        }
                        std::future::pending().await
                    }
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_reports_of_empty_messages() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "load reports of 16 MiB of empty messages",
            BUDGET,
            |target| async move {
                // An empty `cluster_stats` takes two bytes here.
                let report = wire::message(&[0x12, 0].repeat(8 * 1024 * 1024 - 1));
                crowd(4, move || {
                    let report = report.clone();
                    async move {
                        let connection = wire::connect(target.xds).await?;
                        let (response, mut stream) = wire::open(&connection, LOAD_REPORTS).await?;
                        wire::send(&mut stream, report).await?;
                        wire::drain(response).await
                    }
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status_with_many_matchers() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "client status requests of empty matchers",
            BUDGET,
            |target| async move {
                // An empty `node_matchers` takes two bytes here.
                let request = wire::message(&[0x0a, 0].repeat(32 * 1024 - 8));
                crowd(4, move || {
                    let request = request.clone();
                    async move {
                        let connection = wire::connect(target.xds).await?;
                        let (response, mut stream) = wire::open(&connection, FETCH_STATUS).await?;
                        wire::send(&mut stream, request).await?;
                        stream.send_data(Bytes::new(), true)?;
                        wire::drain(response).await
                    }
                })
                .await;
            },
        )
        .await;
}

/// A load report of a node on clusters.
fn report(id: &str, clusters: impl Iterator<Item = String>) -> Bytes {
    let stats = |cluster_name: String| ClusterStats {
        cluster_name,
        upstream_locality_stats: vec![UpstreamLocalityStats {
            total_issued_requests: 1,
            ..UpstreamLocalityStats::default()
        }],
        ..ClusterStats::default()
    };
    let request = LoadStatsRequest {
        node: node(id),
        cluster_stats: clusters.map(stats).collect(),
    };
    wire::message(&request.encode_to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_with_all_load_labels() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "load on 2,000 clusters that do not exist",
            BUDGET,
            |target| async move {
                let report = report("hostile", (0..2000).map(|number| format!("hostile-{number}")));
                crowd(1, move || {
                    let report = report.clone();
                    async move {
                        let connection = wire::connect(target.xds).await?;
                        let (response, mut stream) = wire::open(&connection, LOAD_REPORTS).await?;
                        wire::send(&mut stream, report.clone()).await?;
                        wire::send(&mut stream, report).await?;
                        wire::drain(response).await
                    }
                })
                .await;
            },
        )
        .await;

    // A proxy that reports later still has a label for a cluster that it is served.
    let connection = wire::connect(trial.server.xds()).await.unwrap();
    let (_response, mut stream) = wire::open(&connection, LOAD_REPORTS).await.unwrap();
    let report = report("healthy", std::iter::once(CLUSTER.to_owned()));
    for _ in 0..2 {
        wire::send(&mut stream, report.clone()).await.unwrap();
    }
    let series = format!("chancery_load_requests_issued_total{{cluster=\"{CLUSTER}\"}}");
    let is_counted = || async { trial.server.metric(&series).await.is_some() };
    eventually(PATIENCE, is_counted, true).await;
}
