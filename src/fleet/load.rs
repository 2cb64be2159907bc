//! The load on clusters that proxies report (LRS), added up by cluster.
//!
//! In: one report at a time from each stream ([`Reporter`]). Out: [`Load`] by cluster, for metrics. The first
//! [`CLUSTERS_MAX`] names have a sum each, all others share one ([`OTHER`]). A name that no served cluster has gets a
//! sum only within the share of its stream, so that no client takes all sums with names that it made up. When a stream
//! ends, its requests in progress are subtracted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Most clusters with a sum of their own.
pub const CLUSTERS_MAX: usize = 1000;
/// Most names of clusters that are not served, such as those of a bootstrap.
const FOREIGN_MAX: usize = 200;
/// Most such names that one stream introduces.
const FOREIGN_OF_STREAM: usize = 20;
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
pub struct Loads(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    by_cluster: BTreeMap<Arc<str>, Load>,
    /// Names of clusters that were not served when they were first reported.
    foreign: usize,
}

impl Loads {
    /// The sums, sorted by cluster.
    #[must_use]
    pub fn by_cluster(&self) -> Vec<(Arc<str>, Load)> {
        self.sums()
            .by_cluster
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
            foreign: 0,
        }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock()
    }
}

impl Sums {
    /// The name under which a cluster is counted. `foreign`: the names of clusters that are not served and that the
    /// stream introduced.
    fn label(&mut self, cluster: &str, foreign: &mut usize, is_served: impl Fn(&str) -> bool) -> Arc<str> {
        if let Some((known, _)) = self.by_cluster.get_key_value(cluster) {
            return Arc::clone(known);
        }
        let own = self.by_cluster.len() - usize::from(self.by_cluster.contains_key(OTHER));
        if own >= CLUSTERS_MAX || cluster.is_empty() || cluster.len() > NAME_MAX {
            return OTHER.into();
        }
        if !is_served(cluster) {
            if self.foreign >= FOREIGN_MAX || *foreign >= FOREIGN_OF_STREAM {
                return OTHER.into();
            }
            self.foreign += 1;
            *foreign += 1;
        }
        cluster.into()
    }

    fn of(&mut self, cluster: Arc<str>) -> &mut Load {
        self.by_cluster.entry(cluster).or_default()
    }
}

/// One stream of reports. Dropping it subtracts its requests in progress; its events stay counted.
#[derive(Debug)]
pub struct Reporter {
    loads: Arc<Loads>,
    in_progress: HashMap<Arc<str>, u64>,
    /// The names of clusters that are not served and that this stream introduced.
    foreign: usize,
}

impl Reporter {
    /// Count a report: the events at each cluster since the last report. A cluster that is not named has nothing in
    /// progress. `is_served`: whether the client is served a cluster of this name.
    pub fn report<'a>(&mut self, report: impl IntoIterator<Item = (&'a str, Load)>, is_served: impl Fn(&str) -> bool) {
        let mut sums = self.loads.sums();
        let mut in_progress: HashMap<Arc<str>, u64> = HashMap::new();
        for (cluster, load) in report {
            let cluster = sums.label(cluster, &mut self.foreign, &is_served);
            let running = in_progress.entry(Arc::clone(&cluster)).or_default();
            *running = running.saturating_add(load.in_progress);
            sums.of(cluster).add(&load);
        }
        Self::exchange(&mut sums, &self.in_progress, &in_progress);
        drop(sums);
        self.in_progress = in_progress;
    }

    fn exchange(sums: &mut Sums, old: &HashMap<Arc<str>, u64>, new: &HashMap<Arc<str>, u64>) {
        for (cluster, count) in old {
            let load = sums.of(Arc::clone(cluster));
            load.in_progress = load.in_progress.wrapping_sub(*count);
        }
        for (cluster, count) in new {
            let load = sums.of(Arc::clone(cluster));
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
        one.report([("a", load(3, 2)), ("b", load(1, 1)), ("a", load(1, 1))], |_| true);
        other.report([("a", load(10, 5))], |_| true);
        assert_eq!(sums(&loads), [("a".into(), 14, 8), ("b".into(), 1, 1)]);
        one.report([("a", load(1, 1))], |_| true);
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
        reporter.report(names.iter().map(|name| (name.as_str(), load(1, 1))), |_| true);
        let long = "x".repeat(NAME_MAX + 1);
        reporter.report([("", load(1, 0)), (long.as_str(), load(1, 0))], |_| true);
        let seen = sums(&loads);
        assert_eq!(seen.len(), CLUSTERS_MAX + 1);
        assert_eq!(seen.last(), Some(&(OTHER.into(), 9, 0)));
    }

    #[test]
    fn one_client_cannot_take_the_sums_of_all_clusters() {
        let loads = Arc::new(Loads::default());
        let names: Vec<String> = (0..CLUSTERS_MAX).map(|number| format!("made-up-{number}")).collect();
        let report = || names.iter().map(|name| (name.as_str(), load(1, 0)));
        let own = || sums(&loads).len() - 1;
        let mut greedy = loads.reporter();
        for _ in 0..3 {
            greedy.report(report(), |_| false);
        }
        assert_eq!(own(), FOREIGN_OF_STREAM);
        for _ in 0..100 {
            loads.reporter().report(report(), |_| false);
        }
        assert_eq!(own(), FOREIGN_MAX);
        loads
            .reporter()
            .report([("served", load(1, 0))], |name| name == "served");
        assert!(sums(&loads).contains(&("served".into(), 1, 0)));
    }

    #[test]
    fn sums_saturate() {
        let loads = Arc::new(Loads::default());
        let mut reporter = loads.reporter();
        for _ in 0..2 {
            reporter.report([("a", load(u64::MAX, u64::MAX)), ("a", load(1, 1))], |_| true);
        }
        let mut second = loads.reporter();
        second.report([("a", load(0, 5))], |_| true);
        drop(reporter);
        assert_eq!(sums(&loads), [("a".into(), u64::MAX, 5)]);
    }
}
