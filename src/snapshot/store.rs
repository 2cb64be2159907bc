//! The current snapshot: one pointer, one writer, and a generation that wakes the waiting streams.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::Snapshot;

/// Holds the current snapshot. Reading takes no lock; one task publishes.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot::unpublished()),
            generation: watch::Sender::new(0),
        }
    }
}

impl Store {
    /// The current snapshot; its generation is 0 before the first publish.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The current snapshot for a short look; cheaper, because the pointer is not shared.
    #[must_use]
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Swap in the next snapshot and wake the waiting streams. One of the same generation (no change for streams) wakes
    /// nobody. Only the one writer calls this.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.generation
            .send_if_modified(|current| std::mem::replace(current, generation) != generation);
    }

    /// A receiver of the generation of the latest publish.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
