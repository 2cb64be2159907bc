//! The loop's side of the shared memory: searches for good texts, and the queue of records to write.
//!
//! A search runs in its own task; its result comes through [`Recall::found`]. One task writes records
//! ([`Recall::writer`]), so the loop never waits for the store. A store that no other replica shares (a directory) has
//! neither such a memory nor a history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::{Backend, Change, Entry, Event, WatchControl};
use crate::document::Limits;
use crate::document::key::DocumentKey;
use crate::document::secret::Vault;
use crate::reconcile::memory::{Folder, MemoryWrite};
use crate::reconcile::persist::disk::Saved;
use crate::reconcile::persist::shared::{DueWrites, Shared};
use crate::reconcile::persist::unsaved::Unsaved;
use crate::reconcile::plan::Input;
use crate::reconcile::text::Text;
use crate::reconcile::world::World;

/// Documents looked for at once: a first list may hold thousands of bad ones.
const LOOKUPS: usize = 32;

/// Longest wait of a publish for records that this replica wrote, and for good texts that it looks for. A store that
/// cannot be written must not hold up its documents.
const AGREEMENT_PATIENCE: Duration = Duration::from_secs(1);

/// The shared memory, read and written.
pub(super) struct Recall {
    shared: Option<Shared>,
    writes: Arc<DueWrites>,
    unread: Unread,
    controls: BTreeMap<Folder, WatchControl>,
    lookups: JoinSet<(DocumentKey, Vec<Arc<Text>>)>,
    /// The latest lookup of each document. An earlier one is aborted.
    looked_for: BTreeMap<DocumentKey, AbortHandle>,
    places: Arc<Semaphore>,
}

impl Recall {
    pub(super) fn new(backend: &Arc<dyn Backend>, state_prefix: &str, unsaved: Unsaved, vault: &Vault) -> Self {
        Self {
            shared: backend
                .is_shared()
                .then(|| Shared::new(Arc::clone(backend), state_prefix, unsaved, vault.clone())),
            writes: Arc::default(),
            unread: Unread::default(),
            controls: Folder::ALL.map(|folder| (folder, WatchControl::default())).into(),
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

    /// The folders that are followed, with their prefixes and the handles of their watches.
    pub(super) fn folders(&self) -> impl Iterator<Item = (Folder, String, WatchControl)> {
        let shared = self.shared.iter();
        shared.flat_map(|shared| Folder::ALL.map(|folder| (folder, shared.prefix_of(folder), self.control(folder))))
    }

    /// The handle of a folder's watch.
    pub(super) fn control(&self, folder: Folder) -> WatchControl {
        self.controls.get(&folder).cloned().unwrap_or_default()
    }

    /// An event of the watch of a folder, as an input of the plan.
    pub(super) fn input(&self, folder: Folder, event: Event) -> Option<(i64, Input)> {
        let shared = self.shared.as_ref()?;
        let read = |entry: &Entry| {
            shared
                .read(folder, entry)
                .map(|(full_key, known)| (full_key, Some(known)))
        };
        let (whole, revision, records) = match event {
            Event::Listed { revision, entries, .. } => (true, revision, entries.iter().filter_map(read).collect()),
            Event::Changed { revision, changes } => {
                let record = |change: &Change| match change {
                    Change::Put(entry) => read(entry),
                    Change::Delete { key } => Some((shared.full_key(folder, key)?, None)),
                };
                (false, revision, changes.iter().filter_map(record).collect())
            }
            Event::Alive | Event::Reached { .. } | Event::Problems { .. } | Event::Failed { .. } => return None,
        };
        Some((revision, Input::Remembered { folder, whole, records }))
    }

    /// An input of the next plan.
    pub(super) fn on_input(&mut self, input: &Input) {
        self.unread.on_input(input);
    }

    /// Whether this replica may serve another text than others at this revision: a record that it wrote was not read
    /// back, or good texts are looked for. A publish waits for that, [`AGREEMENT_PATIENCE`] at most.
    pub(super) fn may_differ(&mut self, now: Instant) -> bool {
        if self.unread.places.is_empty() && self.lookups.is_empty() {
            self.unread.since = None;
            return false;
        }
        self.unread.since.get_or_insert(now);
        let is_over = self.deadline().is_some_and(|deadline| deadline <= now);
        if is_over {
            self.unread.give_up();
        }
        !is_over
    }

    /// When a publish waits no longer for records and searches; `None`: it does not wait.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unread.deadline()
    }

    /// Whether anything is looked for now.
    pub(super) fn is_looking(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Look for good texts before the one that stands at this key. If the store has lost them, the text counts that an
    /// earlier run of this server saved.
    ///
    /// A document that proxies refuse keeps its text until the search has ended, however long the store is away: without
    /// an answer, nobody knows whether an earlier text is there.
    pub(super) fn look_for(&mut self, world: &World, key: DocumentKey, saved: Option<&Saved>) {
        let Some((full_key, bad_revision)) = world.standing_at(&key) else {
            return;
        };
        let limits = Limits {
            re2_max_program_size: world.options().re2_max_program_size,
        };
        let (shared, places) = (self.shared.clone(), Arc::clone(&self.places));
        let (sought, is_patient) = (key.clone(), world.is_refusal_open(&key));
        let saved = saved.and_then(|saved| saved.text(&full_key));
        let lookup = self.lookups.spawn(async move {
            let _place = places.acquire().await;
            let mut texts = match shared {
                Some(shared) => {
                    let found = shared.search(&sought, &full_key, bad_revision, &limits, is_patient);
                    found.await
                }
                None => Vec::new(),
            };
            if texts.is_empty() {
                texts.extend(saved);
            }
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
    pub(super) fn remember(&mut self, writes: Vec<MemoryWrite>, now: Instant) {
        if self.shared.is_some() && !writes.is_empty() {
            self.unread.add(&writes, now);
            self.writes.add(writes);
        }
    }
}

/// Records that this replica wrote and has not read back.
#[derive(Debug, Default)]
struct Unread {
    places: BTreeSet<(Folder, Arc<str>)>,
    since: Option<Instant>,
}

impl Unread {
    fn add(&mut self, writes: &[MemoryWrite], now: Instant) {
        let places = writes.iter().map(|write| (write.folder, Arc::clone(&write.full_key)));
        self.places.extend(places);
        self.since.get_or_insert(now);
    }

    fn give_up(&mut self) {
        *self = Self::default();
    }

    /// An input of the next plan: a record that was written, by this replica or by another that was first.
    fn on_input(&mut self, input: &Input) {
        if let Input::Remembered {
            folder, whole, records, ..
        } = input
            && !self.places.is_empty()
        {
            // The plan of a whole list names every record again that is still to be written.
            self.places.retain(|(of, _)| !whole || of != folder);
            for (full_key, _) in records {
                self.places.remove(&(*folder, Arc::clone(full_key)));
            }
        }
    }

    /// When the publish waits no longer; `None`: it does not wait.
    fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + AGREEMENT_PATIENCE)
    }
}
