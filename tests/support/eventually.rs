//! Waits with a deadline; a failed wait shows the last value.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Poll `observe` until it gives `expected`.
///
/// # Panics
/// After `limit`, with the last observation.
pub async fn eventually<T, Observe, Observed>(limit: Duration, mut observe: Observe, expected: T)
where
    T: PartialEq + Debug,
    Observe: FnMut() -> Observed,
    Observed: Future<Output = T>,
{
    let deadline = Instant::now() + limit;
    loop {
        let seen = observe().await;
        if seen == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "after {limit:?}: expected {expected:?}, last saw {seen:?}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}
