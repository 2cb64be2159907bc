//! How long after a publish the proxies had its content: a histogram for each of the newest steps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Most steps with a histogram.
const STEPS_MAX: usize = 128;
/// The number of classes between a power of two and the next: an error of 3 % at most.
const CLASSES: u32 = 32;

/// The times of one step, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// The histograms by the generation of the step.
#[derive(Debug, Default)]
pub(super) struct Latencies(BTreeMap<u64, Times>);

/// The times of the proxies of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// By class.
    pub counts: BTreeMap<u32, u32>,
    /// The longest, in milliseconds.
    pub max: u64,
    /// The last moment at which a proxy came to have the step.
    pub last: SystemTime,
}

impl Latencies {
    /// A proxy has the step.
    pub(super) fn add(&mut self, generation: u64, after: Duration, now: SystemTime) {
        let times = self.0.entry(generation).or_insert(Times {
            counts: BTreeMap::new(),
            max: 0,
            last: now,
        });
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        *times.counts.entry(class(millis)).or_default() += 1;
        times.max = times.max.max(millis);
        times.last = times.last.max(now);
        if self.0.len() > STEPS_MAX {
            self.0.pop_first();
        }
    }

    /// The times of one step; `None`: no proxy had to acknowledge it.
    pub(super) fn of(&self, generation: u64) -> Option<Times> {
        self.0.get(&generation).cloned()
    }
}

impl Times {
    /// Add the times of other proxies.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.counts {
            *self.counts.entry(*class).or_default() += count;
        }
        (self.max, self.last) = (self.max.max(other.max), self.last.max(other.last));
    }

    /// The median, the 99th percentile and the longest, in milliseconds.
    #[must_use]
    pub fn summary(&self) -> Latency {
        let total: u64 = self.counts.values().map(|count| u64::from(*count)).sum();
        let percentile = |percent: u64| {
            let mut rank = (total * percent).div_ceil(100).max(1);
            for (class, count) in &self.counts {
                rank = rank.saturating_sub(u64::from(*count));
                if rank == 0 {
                    return upper(*class).min(self.max);
                }
            }
            self.max
        };
        Latency {
            p50: percentile(50),
            p99: percentile(99),
            max: self.max,
        }
    }
}

/// Classes of one millisecond up to [`CLASSES`], then [`CLASSES`] classes for each power of two.
#[expect(clippy::cast_possible_truncation, reason = "smaller than two times CLASSES")]
fn class(millis: u64) -> u32 {
    if millis < u64::from(CLASSES) {
        return millis as u32;
    }
    let shift = millis.ilog2() - CLASSES.ilog2();
    shift * CLASSES + (millis >> shift) as u32
}

/// The largest value of a class.
fn upper(class: u32) -> u64 {
    if class < CLASSES {
        return u64::from(class);
    }
    let shift = class / CLASSES - 1;
    let first = u64::from(class - shift * CLASSES);
    ((first + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_an_error_of_three_percent() {
        for millis in (0..5000).chain([60_000, 3_600_000, u64::from(u32::MAX)]) {
            let upper = upper(class(millis));
            assert!(upper >= millis && upper <= millis + millis / 31, "{millis}: {upper}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_step() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|millis| latencies.add(7, Duration::from_millis(millis), SystemTime::UNIX_EPOCH));
        latencies.add(8, Duration::from_millis(5), SystemTime::UNIX_EPOCH);
        let of = |generation| {
            let summary = latencies.of(generation)?.summary();
            Some((summary.p50, summary.p99, summary.max))
        };
        assert_eq!(of(8), Some((5, 5, 5)));
        let (p50, p99, max) = of(7).unwrap();
        assert!((50..=51).contains(&p50) && (99..=100).contains(&p99) && max == 100);
        assert_eq!(of(9), None);
    }
}
