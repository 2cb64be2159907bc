//! Writes of this server that the world has not reached yet.
//!
//! In: each write that the store has taken. Out: the inputs that the next write is checked with. The world lags behind the
//! store, by up to the publish distance. Without these inputs a second route with the match of a route that was written
//! just before would be accepted, and so would the deletion of a cluster that a new route uses.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backend::{Change, Event};
use crate::document::key::Root;
use crate::reconcile::plan::Input;
use crate::reconcile::world::World;

/// Longest time for which a write counts. If the store is replaced by another one, the world never reaches its revision.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Most writes that are kept; beyond them the oldest is dropped.
const MOST: usize = 256;

/// The writes, sorted by revision. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct PendingWrites {
    writes: Arc<Mutex<Vec<PendingWrite>>>,
}

#[derive(Debug)]
struct PendingWrite {
    root: Root,
    revision: i64,
    change: Change,
    at: Instant,
}

impl PendingWrites {
    /// Add a write that the store has taken at `revision`.
    pub(super) fn add(&self, root: Root, revision: i64, change: Change) {
        let mut writes = self.writes.lock();
        let place = writes.partition_point(|write| write.revision <= revision);
        let write = PendingWrite {
            root,
            revision,
            change,
            at: Instant::now(),
        };
        writes.insert(place, write);
        if writes.len() > MOST {
            writes.remove(0);
        }
    }

    /// The current world, the writes that it has not reached as inputs of a plan, and the revision of the last one (0: there
    /// is none).
    pub(super) fn after(&self, worlds: &ArcSwap<World>) -> (Arc<World>, Vec<Input>, i64) {
        let mut writes = self.writes.lock();
        // The world is read under the lock: no other request forgets a write that this world has not reached.
        let world = worlds.load_full();
        writes.retain(|write| write.at.elapsed() < KEPT_FOR && !world.has_reached(&write.root, write.revision));

        let input = |write: &PendingWrite| Input::Event {
            root: write.root.clone(),
            event: Event::Changed {
                revision: write.revision,
                changes: vec![write.change.clone()],
            },
        };
        let last = writes.last().map_or(0, |write| write.revision);
        (world, writes.iter().map(input).collect(), last)
    }
}
