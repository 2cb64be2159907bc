//! How often a limit on clients was reached, as a metric: read at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::fleet::limit::{Limit, Reached};

/// The collector.
#[derive(Debug)]
pub(super) struct LimitMetrics(pub(super) Arc<Reached>);

impl Collector for LimitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Streams, requests, connections and answers that were refused or ended at a limit on clients";
        let mut metric = encoder.encode_descriptor("chancery_limit_reached", help, None, MetricType::Counter)?;
        for limit in Limit::ALL {
            let labels = [("limit", limit.as_str())];
            ConstCounter::new(self.0.of(limit)).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
