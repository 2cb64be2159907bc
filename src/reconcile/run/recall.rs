//! The loop's side of the shared memory: searches for good texts, and the queue of records to write.
//!
//! A search runs in its own task; its result comes through [`Recall::found`]. One task writes records
//! ([`Recall::writer`]), so the loop never waits for the store. A store that no other replica shares (a directory) has
//! neither such a memory nor a history.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::{Backend, Change, Entry, Event};
use crate::document::Limits;
use crate::document::key::DocumentKey;
use crate::reconcile::memory::{Folder, MemoryWrite};
use crate::reconcile::persist::shared::{DueWrites, Shared};
use crate::reconcile::persist::unsaved::Unsaved;
use crate::reconcile::plan::Input;
use crate::reconcile::text::Text;
use crate::reconcile::world::World;

/// Documents looked for at once: a first list may hold thousands of bad ones.
const LOOKUPS: usize = 32;

/// The shared memory, read and written.
pub(super) struct Recall {
    shared: Option<Shared>,
    writes: Arc<DueWrites>,
    lookups: JoinSet<(DocumentKey, Vec<Arc<Text>>)>,
    /// The latest lookup of each document. An earlier one is aborted.
    looked_for: BTreeMap<DocumentKey, AbortHandle>,
    places: Arc<Semaphore>,
}

impl Recall {
    pub(super) fn new(backend: &Arc<dyn Backend>, state_prefix: &str, unsaved: Unsaved) -> Self {
        Self {
            shared: backend
                .is_shared()
                .then(|| Shared::new(Arc::clone(backend), state_prefix, unsaved)),
            writes: Arc::default(),
            lookups: JoinSet::new(),
            looked_for: BTreeMap::new(),
            places: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The task that writes, to be run once; it ends at once where there is nothing to share.
    pub(super) fn writer(&self, token: CancellationToken) -> impl Future<Output = ()> + use<> {
        let (writer, writes) = (self.shared.clone(), Arc::clone(&self.writes));
        async move {
            if let Some(shared) = writer {
                shared.run(&writes, token).await;
            }
        }
    }

    /// The folders that are followed, with their prefixes.
    pub(super) fn folders(&self) -> impl Iterator<Item = (Folder, String)> {
        let shared = self.shared.iter();
        shared.flat_map(|shared| Folder::ALL.map(|folder| (folder, shared.prefix_of(folder))))
    }

    /// An event of the watch of a folder, as an input of the plan.
    pub(super) fn input(&self, folder: Folder, event: Event) -> Option<Input> {
        let shared = self.shared.as_ref()?;
        let read = |entry: &Entry| {
            shared
                .read(folder, entry)
                .map(|(full_key, known)| (full_key, Some(known)))
        };
        let (whole, records) = match event {
            Event::Listed { entries, .. } => (true, entries.iter().filter_map(read).collect()),
            Event::Changed { changes, .. } => {
                let record = |change: &Change| match change {
                    Change::Put(entry) => read(entry),
                    Change::Delete { key } => Some((shared.full_key(folder, key)?, None)),
                };
                (false, changes.iter().filter_map(record).collect())
            }
            Event::Alive | Event::Reached { .. } | Event::Problems { .. } | Event::Failed { .. } => return None,
        };
        Some(Input::Remembered { folder, whole, records })
    }

    /// Whether anything is looked for now.
    pub(super) fn is_looking(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Look for good texts before the one that stands at this key.
    pub(super) fn look_for(&mut self, world: &World, key: DocumentKey) {
        let Some((full_key, bad_revision)) = world.standing_at(&key) else {
            return;
        };
        let limits = Limits {
            re2_max_program_size: world.options().re2_max_program_size,
        };
        let (shared, places) = (self.shared.clone(), Arc::clone(&self.places));
        let sought = key.clone();
        let lookup = self.lookups.spawn(async move {
            let _place = places.acquire().await;
            let texts = match shared {
                Some(shared) => shared.search(&sought, &full_key, bad_revision, &limits).await,
                None => Vec::new(),
            };
            (sought, texts)
        });
        if let Some(earlier) = self.looked_for.insert(key, lookup) {
            earlier.abort();
        }
    }

    /// The next outcome; `None` when nothing is looked for. Cancel safe.
    pub(super) async fn found(&mut self) -> Option<(DocumentKey, Vec<Arc<Text>>)> {
        let (key, texts) = self.lookups.join_next().await?.ok()?;
        self.looked_for.remove(&key);
        debug!(document.key = %key, found = texts.len(), "History of a document searched for its last good text");
        Some((key, texts))
    }

    /// Hand records to their writer.
    pub(super) fn remember(&self, writes: Vec<MemoryWrite>) {
        if self.shared.is_some() && !writes.is_empty() {
            self.writes.add(writes);
        }
    }
}
