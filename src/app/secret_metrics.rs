//! The time until certificates expire, as a metric: read at each scrape.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::reconcile::world::World;

/// How many secrets have a series: those that expire soonest.
const SOONEST: usize = 100;

/// The collector of expiry times.
pub(super) struct SecretMetrics(pub(super) Arc<ArcSwap<World>>);

impl fmt::Debug for SecretMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretMetrics")
    }
}

impl Collector for SecretMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let world = self.0.load();
        let ends = world
            .secrets()
            .filter_map(|status| Some((status.validity?.ends?, &status.key.name)));
        let mut ends: Vec<_> = ends.collect();
        ends.sort_unstable();
        ends.truncate(SOONEST);
        if ends.is_empty() {
            return Ok(());
        }
        let (name, help) = (
            "chancery_certificate_expiry_seconds",
            "Time until a secret with certificates expires, below 0 afterwards; the 100 soonest",
        );
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (end, secret) in ends {
            ConstGauge::new(end.saturating_sub(now)).encode(metric.encode_family(&[("secret", &**secret)])?)?;
        }
        Ok(())
    }
}
