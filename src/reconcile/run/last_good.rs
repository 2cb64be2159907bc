//! Last good texts, on the loop's side: looked for when the plan wants one, remembered and forgotten as it says.
//!
//! What is looked for comes back through [`LastGood::found`]; what is to be written goes to one task ([`LastGood::writer`]),
//! so that the loop never waits for the store. A store that nobody shares has no such memory.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::Backend;
use crate::document::Limits;
use crate::document::key::DocumentKey;
use crate::reconcile::persist::shared::{Shared, Task};
use crate::reconcile::plan::LastGoodWrite;
use crate::reconcile::world::{State, Status, Text, World};

/// Texts waiting to be written. When it is full the loop waits for the writer to take one.
const TASKS: usize = 4096;
/// Documents looked for at once: a first list may hold thousands of bad ones.
const LOOKUPS: usize = 32;

/// Last good texts, looked for and remembered.
pub(super) struct LastGood {
    shared: Option<Shared>,
    tasks: mpsc::Sender<(Arc<str>, Task)>,
    waiting: Option<mpsc::Receiver<(Arc<str>, Task)>>,
    lookups: JoinSet<(DocumentKey, Option<Arc<Text>>)>,
    places: Arc<Semaphore>,
}

impl LastGood {
    pub(super) fn new(backend: &Arc<dyn Backend>, state_prefix: &str) -> Self {
        let (tasks, waiting) = mpsc::channel(TASKS);
        Self {
            shared: backend
                .is_shared()
                .then(|| Shared::new(Arc::clone(backend), state_prefix)),
            tasks,
            waiting: Some(waiting),
            lookups: JoinSet::new(),
            places: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The task that writes, to be run once; it ends at once where there is nothing to share.
    pub(super) fn writer(&mut self, token: CancellationToken) -> impl Future<Output = ()> + use<> {
        let writer = self.shared.clone().zip(self.waiting.take());
        async move {
            if let Some((shared, tasks)) = writer {
                shared.run(tasks, token).await;
            }
        }
    }

    /// Whether anything is looked for now.
    pub(super) fn is_looking(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Look for the text that served before the one that stands at this key.
    pub(super) fn look_for(&mut self, world: &World, key: DocumentKey) {
        let known = world.document(&key);
        let full_key = known.map_or_else(
            || world.options().layout.full_key(&key).into(),
            |status| Arc::clone(&status.full_key),
        );
        // A cluster that was deleted while it was used has no text now: only a saved one can be found.
        let bad_revision = known.and_then(|status| Some(status.latest.as_ref()?.mod_revision));
        let limits = Limits {
            re2_max_program_size: world.options().re2_max_program_size,
        };
        let (shared, places) = (self.shared.clone(), Arc::clone(&self.places));
        self.lookups.spawn(async move {
            let _place = places.acquire().await;
            let text = match shared {
                Some(shared) => shared.find(&key, &full_key, bad_revision, &limits).await,
                None => None,
            };
            (key, text)
        });
    }

    /// The next outcome; `None` when nothing is looked for. Cancel safe.
    pub(super) async fn found(&mut self) -> Option<(DocumentKey, Option<Arc<Text>>)> {
        let (key, text) = self.lookups.join_next().await?.ok()?;
        debug!(document.key = %key, found = text.is_some(), "Looked for the last good text");
        Some((key, text))
    }

    /// Hand a change of the shared memory to its writer.
    pub(super) async fn remember(&self, world: &World, write: LastGoodWrite) {
        if self.shared.is_none() {
            return;
        }
        let (full_key, task) = match write {
            LastGoodWrite::Keep { full_key, text } => (full_key, Task::Keep(text)),
            LastGoodWrite::Forget { full_key } => {
                let accepted = serving_revision(world, &full_key);
                (full_key, Task::Forget { accepted })
            }
        };
        if self.tasks.send((full_key, task)).await.is_err() {
            debug!("The writer of last good texts has ended");
        }
    }

    /// Forget saved texts of documents that were mended or deleted while no server ran.
    pub(super) async fn forget_what_was_mended(&self, world: &World) {
        let Some(shared) = &self.shared else { return };
        match shared.saved().await {
            Ok(saved) => {
                for (full_key, revision) in saved {
                    if is_mended(status_of(world, &full_key), revision) {
                        self.remember(
                            world,
                            LastGoodWrite::Forget {
                                full_key: full_key.into(),
                            },
                        )
                        .await;
                    }
                }
            }
            Err(error) => debug!(%error, "Could not read the saved last good texts"),
        }
    }
}

/// Whether a document no longer needs the text that was saved at `revision`.
fn is_mended(status: Option<&Status>, revision: i64) -> bool {
    status.is_none_or(|status| {
        status.state != State::Rejected && status.serving.as_ref().is_some_and(|text| text.mod_revision > revision)
    })
}

/// The document that has this key in the store.
fn status_of<'a>(world: &'a World, full_key: &str) -> Option<&'a Status> {
    let layout = &world.options().layout;
    let root = layout.root_of(full_key.as_bytes())?;
    world.document(&layout.locate(&root, full_key.as_bytes()))
}

fn serving_revision(world: &World, full_key: &str) -> Option<i64> {
    status_of(world, full_key).and_then(|status| Some(status.serving.as_ref()?.mod_revision))
}
