//! The load that proxies report, as metrics: read at each scrape. The label `cluster` has a thousand values at most.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::fleet::load::{Load, Loads};

/// The collector of load reports.
#[derive(Debug)]
pub(super) struct LoadMetrics(pub(super) Arc<Loads>);

/// One metric: its name, its help text, and its field in a [`Load`].
type Row = (&'static str, &'static str, fn(&Load) -> u64);

const COUNTERS: [Row; 4] = [
    (
        "chancery_load_requests_issued",
        "Requests that proxies sent to a cluster",
        |load| load.issued,
    ),
    (
        "chancery_load_requests_successful",
        "Requests that a cluster answered well",
        |load| load.successful,
    ),
    (
        "chancery_load_requests_error",
        "Requests that failed at a cluster",
        |load| load.error,
    ),
    (
        "chancery_load_requests_dropped",
        "Requests that proxies did not send to a cluster",
        |load| load.dropped,
    ),
];

impl Collector for LoadMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let loads = self.0.by_cluster();
        for (name, help, value) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (cluster, load) in &loads {
                ConstCounter::new(value(load)).encode(metric.encode_family(&[("cluster", &**cluster)])?)?;
            }
        }
        let (name, help) = (
            "chancery_load_requests_in_progress",
            "Requests that a cluster has not answered yet",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (cluster, load) in &loads {
            let in_progress = i64::try_from(load.in_progress).unwrap_or(i64::MAX);
            ConstGauge::new(in_progress).encode(metric.encode_family(&[("cluster", &**cluster)])?)?;
        }
        Ok(())
    }
}
