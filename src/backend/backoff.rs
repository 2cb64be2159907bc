//! Waiting between attempts, in one place.
//!
//! Full jitter: the n-th wait is drawn evenly between zero and `50 ms · 2^n`, at most the cap. It spreads the replicas
//! that lost the same etcd at the same moment. The caller decides when an attempt counts as a success
//! ([`Backoff::reset`]): a connection that breaks right after it was made does not.

use std::time::Duration;

use rand::Rng;

/// Upper limit of the first wait.
const BASE: Duration = Duration::from_millis(50);

/// The waits between the attempts of one caller.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Cap for failures that may end without an operator.
    pub const CAP: Duration = Duration::from_secs(15);
    /// Cap for failures that an operator must repair: a password, a permission, a certificate.
    pub const CONFIGURATION_CAP: Duration = Duration::from_secs(30);

    /// A backoff before the first failure.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Count a failed attempt; returns the wait before the next one, at most `cap`.
    pub fn next(&mut self, cap: Duration) -> Duration {
        let limit = self.limit(cap);
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=limit)
    }

    /// Count a success: the wait after the next failure is as short as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn limit(&self, cap: Duration) -> Duration {
        2_u32
            .checked_pow(self.failures)
            .and_then(|factor| BASE.checked_mul(factor))
            .map_or(cap, |limit| limit.min(cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_double_up_to_the_cap_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::new();
        let mut limits = Vec::new();
        for _ in 0..10 {
            limits.push(backoff.limit(Backoff::CAP).as_millis());
            assert!(backoff.next(Backoff::CAP) <= Backoff::CAP);
        }
        assert_eq!(limits, [50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000]);
        backoff.reset();
        assert_eq!(backoff.limit(Backoff::CAP), BASE);
    }

    #[test]
    fn any_number_of_failures_keeps_to_the_cap() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert!(backoff.next(Backoff::CONFIGURATION_CAP) <= Backoff::CONFIGURATION_CAP);
        assert_eq!(backoff.failures, u32::MAX);
    }
}
