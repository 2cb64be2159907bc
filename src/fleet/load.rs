//! The load on clusters that proxies report (LRS), added up by cluster.
//!
//! What enters: one report at a time from each stream ([`Reporter`]). What leaves: [`Load`] by cluster, for metrics.
//! The first [`CLUSTERS_MAX`] names have a sum each, all others share one ([`OTHER`]). When a stream ends, its requests
//! in progress are subtracted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Most clusters with a sum of their own.
pub const CLUSTERS_MAX: usize = 1000;
/// The name of the sum over all other clusters.
pub const OTHER: &str = "other";
/// Longest cluster name that becomes a label, in bytes.
const NAME_MAX: usize = 256;

/// Requests to one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sent to an endpoint, since the process started.
    pub issued: u64,
    /// Succeeded.
    pub successful: u64,
    /// Failed.
    pub error: u64,
    /// Not sent at all: dropped on purpose, or by a circuit breaker.
    pub dropped: u64,
    /// Not answered yet, as last reported.
    pub in_progress: u64,
}

impl Load {
    /// Add the events of a report. Requests in progress are a state, and not added.
    fn add(&mut self, more: &Self) {
        self.issued = self.issued.saturating_add(more.issued);
        self.successful = self.successful.saturating_add(more.successful);
        self.error = self.error.saturating_add(more.error);
        self.dropped = self.dropped.saturating_add(more.dropped);
    }
}

/// The sums of all clusters.
#[derive(Debug, Default)]
pub struct Loads(Mutex<BTreeMap<Arc<str>, Load>>);

impl Loads {
    /// The sums, sorted by cluster.
    #[must_use]
    pub fn by_cluster(&self) -> Vec<(Arc<str>, Load)> {
        self.sums()
            .iter()
            .map(|(cluster, load)| (Arc::clone(cluster), *load))
            .collect()
    }

    /// The reporter of one stream.
    #[must_use]
    pub fn reporter(self: &Arc<Self>) -> Reporter {
        Reporter {
            loads: Arc::clone(self),
            in_progress: HashMap::new(),
        }
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Load>> {
        self.0.lock()
    }
}

/// The name under which a cluster is counted.
fn label(sums: &BTreeMap<Arc<str>, Load>, cluster: &str) -> Arc<str> {
    if let Some((known, _)) = sums.get_key_value(cluster) {
        return Arc::clone(known);
    }
    let own = sums.len() - usize::from(sums.contains_key(OTHER));
    let fits = own < CLUSTERS_MAX && !cluster.is_empty() && cluster.len() <= NAME_MAX;
    if fits { cluster.into() } else { OTHER.into() }
}

/// One stream of reports. Dropping it subtracts its requests in progress; its events stay counted.
#[derive(Debug)]
pub struct Reporter {
    loads: Arc<Loads>,
    in_progress: HashMap<Arc<str>, u64>,
}

impl Reporter {
    /// Count a report: the events at each cluster since the last report. A cluster that is not named has nothing in
    /// progress.
    pub fn report<'a>(&mut self, report: impl IntoIterator<Item = (&'a str, Load)>) {
        let mut sums = self.loads.sums();
        let mut in_progress: HashMap<Arc<str>, u64> = HashMap::new();
        for (cluster, load) in report {
            let cluster = label(&sums, cluster);
            let running = in_progress.entry(Arc::clone(&cluster)).or_default();
            *running = running.saturating_add(load.in_progress);
            sums.entry(cluster).or_default().add(&load);
        }
        Self::exchange(&mut sums, &self.in_progress, &in_progress);
        drop(sums);
        self.in_progress = in_progress;
    }

    fn exchange(sums: &mut BTreeMap<Arc<str>, Load>, old: &HashMap<Arc<str>, u64>, new: &HashMap<Arc<str>, u64>) {
        for (cluster, count) in old {
            let load = sums.entry(Arc::clone(cluster)).or_default();
            load.in_progress = load.in_progress.wrapping_sub(*count);
        }
        for (cluster, count) in new {
            let load = sums.entry(Arc::clone(cluster)).or_default();
            load.in_progress = load.in_progress.wrapping_add(*count);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        Self::exchange(&mut self.loads.sums(), &self.in_progress, &HashMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(issued: u64, in_progress: u64) -> Load {
        Load {
            issued,
            successful: issued,
            in_progress,
            ..Load::default()
        }
    }

    fn sums(loads: &Loads) -> Vec<(String, u64, u64)> {
        loads
            .by_cluster()
            .into_iter()
            .map(|(name, load)| (name.to_string(), load.issued, load.in_progress))
            .collect()
    }

    #[test]
    fn events_add_up_and_states_replace_each_other() {
        let loads = Arc::new(Loads::default());
        let (mut one, mut other) = (loads.reporter(), loads.reporter());
        one.report([("a", load(3, 2)), ("b", load(1, 1)), ("a", load(1, 1))]);
        other.report([("a", load(10, 5))]);
        assert_eq!(sums(&loads), [("a".into(), 14, 8), ("b".into(), 1, 1)]);
        one.report([("a", load(1, 1))]);
        assert_eq!(
            sums(&loads),
            [("a".into(), 15, 6), ("b".into(), 1, 0)],
            "b is not named: nothing is in progress"
        );
        drop(other);
        assert_eq!(sums(&loads), [("a".into(), 15, 1), ("b".into(), 1, 0)]);
    }

    #[test]
    fn names_beyond_the_bound_are_counted_together() {
        let loads = Arc::new(Loads::default());
        let mut reporter = loads.reporter();
        let names: Vec<String> = (0..CLUSTERS_MAX + 7).map(|number| format!("{number:05}")).collect();
        reporter.report(names.iter().map(|name| (name.as_str(), load(1, 1))));
        let long = "x".repeat(NAME_MAX + 1);
        reporter.report([("", load(1, 0)), (long.as_str(), load(1, 0))]);
        let seen = sums(&loads);
        assert_eq!(seen.len(), CLUSTERS_MAX + 1);
        assert_eq!(seen.last(), Some(&(OTHER.into(), 9, 0)));
    }

    #[test]
    fn sums_saturate() {
        let loads = Arc::new(Loads::default());
        let mut reporter = loads.reporter();
        for _ in 0..2 {
            reporter.report([("a", load(u64::MAX, u64::MAX)), ("a", load(1, 1))]);
        }
        let mut second = loads.reporter();
        second.report([("a", load(0, 5))]);
        drop(reporter);
        assert_eq!(sums(&loads), [("a".into(), u64::MAX, 5)]);
    }
}
