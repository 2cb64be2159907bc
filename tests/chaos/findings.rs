//! What was seen that must not be: each finding is one sentence, with the fault during which it was seen.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// More are not kept: the run ends at the next fault.
const ENOUGH: usize = 20;

/// Shared by all that watch.
pub(crate) struct Findings {
    seed: u64,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fault: String,
    found: Vec<String>,
    count: usize,
}

impl Findings {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// The fault that begins now.
    pub(crate) fn on_fault(&self, fault: String) {
        println!("{:7.1} s  {fault}", self.began.elapsed().as_secs_f64());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fault = fault;
    }

    /// Something that must not be.
    pub(crate) fn add(&self, sentence: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        if state.found.len() < ENOUGH {
            let at = self.began.elapsed().as_secs_f64();
            let finding = format!("at {at:.1} s, {}: {sentence}", state.fault);
            println!("  FOUND {finding}");
            state.found.push(finding);
        }
    }

    /// Whether there are so many that more say nothing new.
    pub(crate) fn are_enough(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).found.len() >= ENOUGH
    }

    /// # Panics
    /// If there is a finding, with all of them. The logs of all processes are kept then, and their paths printed.
    pub(crate) fn assert_none(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, found) = (state.count, state.found.join("\n  "));
        drop(state);
        assert!(
            count == 0,
            "CHAOS_SEED={}: {count} findings; the logs are named below\n  {found}",
            self.seed
        );
    }
}
