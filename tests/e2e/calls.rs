//! The outcomes of calls, in the order in which the calls ended, so that a scenario can await and count them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The name of the upstream that answered a call, or the error.
pub(crate) type Answer = Result<String, String>;

/// The constant calls of one client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Calls {
    answers: Arc<Mutex<Vec<Answer>>>,
    ended: watch::Sender<usize>,
}

/// Number of calls by answering upstream, and the errors of failed calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) by: BTreeMap<String, usize>,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn of<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Self {
        let mut tally = Self::default();
        for answer in answers {
            match answer {
                Ok(by) => *tally.by.entry(by.clone()).or_default() += 1,
                Err(why) => tally.failures.push(why.clone()),
            }
        }
        tally
    }

    /// The upstreams that answered; `None` if a call failed.
    pub(crate) fn answered_by(&self) -> Option<Vec<&str>> {
        self.failures
            .is_empty()
            .then(|| self.by.keys().map(String::as_str).collect())
    }
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            answers: Arc::default(),
            ended: watch::Sender::new(0),
        }
    }

    /// One call has ended.
    pub(crate) fn record(&self, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer);
        self.ended.send_replace(answers.len());
    }

    /// How many have ended.
    pub(crate) fn count(&self) -> usize {
        *self.ended.borrow()
    }

    /// The calls that ended since there were `count`.
    pub(crate) fn since(&self, count: usize) -> Tally {
        Tally::of(&self.answers.lock().unwrap_or_else(PoisonError::into_inner)[count..])
    }

    /// Wait until more calls have ended.
    ///
    /// # Panics
    /// When none do for 20 s.
    pub(crate) async fn more(&self, calls: usize) {
        let enough = self.count() + calls;
        let mut ended = self.ended.subscribe();
        let wait = ended.wait_for(|count| *count >= enough);
        let waited = timeout(Duration::from_secs(20), wait)
            .await
            .map(|ended| drop(ended.expect("the sender is here")));
        waited.unwrap_or_else(|_| panic!("no {calls} more calls have ended: {} are there", self.count()));
    }
}
