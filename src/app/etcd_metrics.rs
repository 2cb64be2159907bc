//! The counters of the etcd backend as metrics, read at each scrape, so that the backend names no metrics.
//!
//! Lists, changes, revisions and ages by root are counted by the loop for every backend (`telemetry::metrics`).

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::backend::etcd::Stats;
use crate::backend::etcd::stats::StreamErrorClass;

/// The collector of an etcd backend.
#[derive(Debug)]
pub(super) struct EtcdMetrics(pub(super) Arc<Stats>);

/// One label and its value; the values are bounded by the configuration or by an enum.
type Label = (&'static str, String);

impl Collector for EtcdMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.0;
        self.watches(&mut encoder)?;
        let errors = StreamErrorClass::ALL.map(|class| ([label("class", class.as_str())], stats.stream_errors(class)));
        counters(
            &mut encoder,
            "etcd_stream_errors",
            "Watches that ended, by class of error",
            &errors,
        )?;

        let refreshes = [
            ("ok", &stats.token_refreshes),
            ("failed", &stats.token_refresh_failures),
        ]
        .map(|(result, count)| ([label("result", result)], count.get()));

        counters(
            &mut encoder,
            "etcd_token_refresh",
            "Authentications, by result",
            &refreshes,
        )?;

        let alone = [
            (
                "etcd_fragments",
                "Parts of messages too large for one",
                &stats.fragments,
            ),
            (
                "etcd_events_dropped_old",
                "Events no newer than the list before them",
                &stats.events_dropped_old,
            ),
            (
                "etcd_order_violations",
                "Revisions that came after a later one",
                &stats.order_violations,
            ),
        ];

        alone.into_iter().try_for_each(|(name, help, count)| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.get()).encode(metric)
        })?;
        let metric = encoder.encode_descriptor(
            "etcd_list_seconds",
            "Time spent in whole lists",
            None,
            MetricType::Counter,
        )?;

        ConstCounter::new(stats.list_time().as_secs_f64()).encode(metric)
    }
}

impl EtcdMetrics {
    /// The metrics of each followed prefix.
    fn watches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let watches = self.0.watches();
        let connected: Vec<_> = watches
            .iter()
            .map(|(prefix, watch)| (prefix, watch.endpoint()))
            .filter(|(_, endpoint)| !endpoint.is_empty())
            .map(|(prefix, endpoint)| ([label("prefix", prefix), ("endpoint", endpoint)], 1))
            .collect();

        gauges(
            encoder,
            "etcd_connected_endpoint",
            "1: the prefix is followed at this member",
            &connected,
        )?;

        let revisions: Vec<_> = watches
            .iter()
            .map(|(prefix, watch)| ([label("prefix", prefix)], watch.store_revision()))
            .collect();
        gauges(
            encoder,
            "etcd_store_revision",
            "Revision of the store at the last linearizable read",
            &revisions,
        )
    }
}

fn label(name: &'static str, value: &str) -> Label {
    (name, value.to_owned())
}

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[([Label; N], u64)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    series
        .iter()
        .try_for_each(|(labels, count)| ConstCounter::new(*count).encode(metric.encode_family(labels)?))
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[([Label; N], i64)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    series
        .iter()
        .try_for_each(|(labels, value)| ConstGauge::new(*value).encode(metric.encode_family(labels)?))
}
