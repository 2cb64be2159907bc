//! Proxies that do not have the newest change, as metrics by group: read at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::fleet::Fleet;
use crate::fleet::convergence::State;
use crate::snapshot::store::Store;
use crate::telemetry::metrics::{GROUPS_MAX, OTHER_GROUPS};

/// The collector.
#[derive(Debug)]
pub(super) struct RolloutMetrics(pub(super) Fleet, pub(super) Arc<Store>);

impl Collector for RolloutMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, now) = (self.1.current(), SystemTime::now());
        let groups = snapshot.groups.keys().take(GROUPS_MAX);
        let mut counts: BTreeMap<&str, [i64; 2]> = groups.map(|group| (&**group, [0, 0])).collect();
        let places = self.0.places();
        for (place, proxies) in &places {
            let index = match place.standing(&snapshot, i64::MAX, now).state {
                State::Behind | State::Stalled => 0,
                State::Refused => 1,
                State::Live | State::Rolling | State::Gone => continue,
            };
            let group = &**place.group();
            let label = if counts.contains_key(group) {
                group
            } else {
                OTHER_GROUPS
            };
            counts.entry(label).or_default()[index] += i64::try_from(*proxies).unwrap_or(i64::MAX);
        }

        let metrics = [
            (
                "chancery_rollout_behind",
                "Proxies that have not had the newest change for five seconds",
            ),
            ("chancery_rollout_refused", "Proxies that refuse a change"),
        ];
        for (index, (name, help)) in metrics.into_iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (group, counts) in &counts {
                ConstGauge::new(counts[index]).encode(metric.encode_family(&[("group", *group)])?)?;
            }
        }
        Ok(())
    }
}
