//! A log line that is written once a minute at most, with the number of events since the last one.

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Between two lines.
const DISTANCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::xds) struct Sparse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    events: u64,
}

impl Sparse {
    /// An event happened. Gives the number of events since the last line, this one included, if a line is due.
    pub(in crate::xds) fn on_event(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.events += 1;
        if state.last.is_some_and(|last| now < last + DISTANCE) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_counts_the_events_between() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        let after = |seconds| sparse.on_event(start + Duration::from_secs(seconds));
        assert_eq!([after(0), after(1), after(59)], [Some(1), None, None]);
        assert_eq!([after(60), after(61), after(1000)], [Some(3), None, Some(2)]);
    }
}
