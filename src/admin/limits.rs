//! The limits of the admin port that were reached: counted, and said in the log once a minute each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::fleet::limit::{Limit, Reached};

/// Shortest time between two lines about a limit.
const LINES_APART: Duration = Duration::from_secs(60);

/// Counts. All clones are one.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    reached: Arc<Reached>,
    said: Arc<Mutex<BTreeMap<&'static str, Said>>>,
}

/// The last line about a limit.
#[derive(Debug)]
struct Said {
    at: Instant,
    /// How often the limit was reached since.
    since: u64,
}

impl Limits {
    pub(super) fn new(reached: Arc<Reached>) -> Self {
        Self {
            reached,
            said: Arc::default(),
        }
    }

    /// A limit was reached.
    pub(super) fn on_reached(&self, limit: Limit) {
        self.reached.count(limit);
        if let Some(left_out) = self.line(limit) {
            warn!(
                limit = limit.as_str(),
                left_out, "A limit of the admin port was reached; docs/operating.md has the figures"
            );
        }
    }

    /// Whether a line is due: the number of times since the last line that had none.
    fn line(&self, limit: Limit) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.said.lock();
        let Some(last) = said.get_mut(limit.as_str()) else {
            said.insert(limit.as_str(), Said { at: now, since: 0 });
            return Some(0);
        };
        if now < last.at + LINES_APART {
            last.since += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.since))
    }

    /// How often each was reached.
    #[cfg(test)]
    pub(super) fn reached(&self) -> &Reached {
        &self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_has_one_line_a_minute_with_a_count() {
        let limits = Limits::new(Arc::default());
        let lines = |limit, times| -> Vec<u64> { (0..times).filter_map(|_| limits.line(limit)).collect() };
        assert_eq!(lines(Limit::AdminUnread, 100), [0]);
        assert_eq!(lines(Limit::AdminAnswers, 1), [0], "each limit has its own");
        tokio::time::advance(LINES_APART).await;
        assert_eq!(lines(Limit::AdminUnread, 5), [99]);
        tokio::time::advance(LINES_APART).await;
        assert_eq!(lines(Limit::AdminUnread, 1), [4]);
        limits.on_reached(Limit::AdminUnread);
        assert_eq!(limits.reached().of(Limit::AdminUnread), 1);
    }
}
