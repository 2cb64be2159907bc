//! Writes of this server that the world has not reached yet, and the turns of those that follow.
//!
//! In: each write that the store has taken. Out: a [`Basis`], the documents that the next write is judged with. The
//! world lags behind the store, because a change travels through the watch and the plan. Without the pending writes a
//! second route with the match of a route that was written just before would be accepted, and so would the deletion of
//! a cluster that a new route uses.
//!
//! Writes of documents take turns: from its verdict to the answer of the store, no other write of this server comes in
//! between. The store finds writes of other servers by its marker ([`crate::backend::Unchanged`]): each write is judged
//! with all documents up to the last marked write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::problem::Problem;
use crate::backend::{Change, Event, Marked};
use crate::document::key::Root;
use crate::reconcile::plan::{Input, Moment, plan};
use crate::reconcile::world::World;

/// Longest time for which a write counts. If the store is replaced by another one, the world never reaches its
/// revision.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Most writes that are kept; beyond them the oldest is dropped.
const MOST: usize = 256;

/// The writes, sorted by revision. Cheap to clone; clones share the state.
#[derive(Debug, Clone)]
pub struct PendingWrites {
    writes: Arc<Mutex<Vec<PendingWrite>>>,
    turns: Arc<AsyncMutex<Turns>>,
    marker: Arc<str>,
    /// Writes that the store has taken.
    taken: Arc<AtomicU64>,
}

/// What a write leaves to the next one.
#[derive(Debug, Default)]
struct Turns {
    /// When a write last failed because the store did not answer, and how.
    failed: Option<(Instant, Problem)>,
    /// The last marked write, as far as this server knows.
    marked: Option<Marked>,
}

#[derive(Debug)]
struct PendingWrite {
    root: Root,
    revision: i64,
    changes: Vec<Change>,
    at: Instant,
}

/// The documents that a write is judged with.
pub(super) struct Basis {
    pub(super) world: Arc<World>,
    /// The pending writes that the world has not reached, as inputs of a plan.
    pub(super) pending: Vec<Input>,
    /// The newest revision of the documents root that world and pending writes have.
    pub(super) revision: i64,
    /// The newest revision at which world and pending writes know a change of a document, not of a registration.
    pub(super) changed: i64,
    /// The newest revision of any pending write; 0: there is none.
    pub(super) newest: i64,
}

impl Basis {
    /// The world with the pending writes. They are no part of the next write: a test that it breaks is not theirs.
    pub(super) fn reached(&self, moment: Moment) -> Arc<World> {
        match self.pending.is_empty() {
            true => Arc::clone(&self.world),
            false => Arc::new(plan(&self.world, self.pending.clone(), moment).world),
        }
    }
}

/// The turn of a write.
pub(super) struct Turn(OwnedMutexGuard<Turns>);

impl Turn {
    /// The last marked write; `None`: the store is to be asked.
    pub(super) fn marked(&self) -> Option<Marked> {
        self.0.marked
    }

    pub(super) fn set_marked(&mut self, marked: Option<Marked>) {
        self.0.marked = marked;
    }

    /// The store did not answer: the writes that wait since before get the same answer, so that they do not wait for
    /// one timeout after the other.
    pub(super) fn failed(mut self, problem: &Problem) {
        self.0.failed = Some((Instant::now(), problem.clone()));
    }
}

impl PendingWrites {
    /// Of a server with this `--state-prefix`, below which the marker lies.
    #[must_use]
    pub fn new(state_prefix: &str) -> Self {
        Self {
            writes: Arc::default(),
            turns: Arc::default(),
            marker: format!("{state_prefix}writes").into(),
            taken: Arc::default(),
        }
    }

    /// The key of the marker.
    pub(super) fn marker(&self) -> &str {
        &self.marker
    }

    /// The key of the intent of a request: below that of the marker.
    pub(super) fn note_key(&self, request_id: &str) -> String {
        format!("{}/{request_id}", self.marker)
    }

    /// Count a write that the store has taken. Returns the number of all.
    pub(super) fn count_write(&self) -> u64 {
        self.taken.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Wait for the turn of a write.
    ///
    /// # Errors
    /// The store has not answered another write during the wait.
    pub(super) async fn turn(&self) -> Result<Turn, Problem> {
        let begun = Instant::now();
        let turn = Arc::clone(&self.turns).lock_owned().await;
        match &turn.failed {
            Some((at, problem)) if *at > begun => Err(problem.clone()),
            _ => Ok(Turn(turn)),
        }
    }

    /// Add a write that the store has taken at `revision`.
    pub(super) fn add(&self, root: Root, revision: i64, changes: Vec<Change>) {
        let mut writes = self.writes.lock();
        let place = writes.partition_point(|write| write.revision <= revision);
        let write = PendingWrite {
            root,
            revision,
            changes,
            at: Instant::now(),
        };
        writes.insert(place, write);
        if writes.len() > MOST {
            writes.remove(0);
        }
    }

    /// The current world, and the writes that it has not reached.
    pub(super) fn after(&self, worlds: &ArcSwap<World>) -> Basis {
        let mut writes = self.writes.lock();
        // The world is read under the lock: no other request forgets a write that this world has not reached.
        let world = worlds.load_full();
        writes.retain(|write| write.at.elapsed() < KEPT_FOR && !world.has_reached(&write.root, write.revision));

        let input = |write: &PendingWrite| Input::Event {
            root: write.root.clone(),
            event: Event::Changed {
                revision: write.revision,
                changes: write.changes.clone(),
            },
        };

        let of_documents = writes.iter().filter(|write| write.root == Root::Documents);
        let last = of_documents.map(|write| write.revision).max().unwrap_or(0);
        let changes = writes.iter().filter(|write| !write.root.is_registrations());
        let last_change = changes.map(|write| write.revision).max().unwrap_or(0);
        Basis {
            pending: writes.iter().map(input).collect(),
            revision: world.revision().max(last),
            changed: world.changed().max(last_change),
            newest: writes.last().map_or(0, |write| write.revision),
            world,
        }
    }
}
