//! Failed saves of state, as a metric: read at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::reconcile::persist::unsaved::{Place, Unsaved};

/// The collector of failed saves.
#[derive(Debug)]
pub(super) struct StateMetrics(pub(super) Unsaved);

impl Collector for StateMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = (
            "chancery_state_save_failures",
            "Saves to --state-dir (directory) and below --state-prefix (prefix) that failed",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for place in Place::ALL {
            let counter = ConstCounter::new(self.0.failures(place));
            counter.encode(metric.encode_family(&[("place", place.as_str())])?)?;
        }
        Ok(())
    }
}
