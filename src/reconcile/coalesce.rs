//! When the next publish may happen: leading edge first.
//!
//! A lone change is published at once. Publishes keep a minimum distance. It starts at 20 ms and doubles up to a limit
//! while changes arrive within it; a change that arrives later resets it. Pure: moments are arguments.

use std::time::{Duration, Instant};

/// The distance after a lone publish.
const FIRST_DISTANCE: Duration = Duration::from_millis(20);

/// The pace of publishes.
#[derive(Debug, Clone)]
pub struct Pace {
    limit: Duration,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    distance: Duration,
}

impl Pace {
    /// A pace whose distance grows up to `limit` (`--publish-distance`); zero: every change at once.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, last: None }
    }

    /// When a change that arrives now may be published: now, or when the distance to the last publish is over.
    #[must_use]
    pub fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last.at + last.distance))
    }

    /// A publish happened, of changes the first of which arrived at `arrived`.
    pub fn published(&mut self, arrived: Instant, now: Instant) {
        let distance = match self.last {
            Some(last) if arrived < last.at + last.distance => last.distance * 2,
            _ => FIRST_DISTANCE,
        };
        self.last = Some(Last {
            at: now,
            distance: distance.min(self.limit),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; only distances matter")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_lone_change_is_published_at_once() {
        let start = origin();
        let mut pace = Pace::new(LIMIT);
        assert_eq!(pace.due(start), start);
        pace.published(start, start);
        let later = start + milliseconds(20);
        assert_eq!(pace.due(later), later);
    }

    #[test]
    fn the_distance_doubles_up_to_the_limit_while_changes_keep_arriving() {
        let start = origin();
        let mut pace = Pace::new(LIMIT);
        let mut now = start;
        pace.published(now, now);
        for expected in [20, 40, 80, 100, 100] {
            let arrived = now + milliseconds(1);
            let due = pace.due(arrived);
            assert_eq!(due - now, milliseconds(expected));
            pace.published(arrived, due);
            now = due;
        }
    }

    #[test]
    fn a_change_after_the_distance_forgets_it() {
        let start = origin();
        let mut pace = Pace::new(LIMIT);
        pace.published(start, start);
        let second = start + milliseconds(20);
        pace.published(start + milliseconds(5), second);
        let quiet = second + milliseconds(40);
        assert_eq!(pace.due(quiet), quiet);
        pace.published(quiet, quiet);
        assert_eq!(pace.due(quiet + milliseconds(1)), quiet + milliseconds(20));
    }

    #[test]
    fn a_limit_of_zero_never_waits() {
        let start = origin();
        let mut pace = Pace::new(Duration::ZERO);
        pace.published(start, start);
        assert_eq!(pace.due(start), start);
    }
}
