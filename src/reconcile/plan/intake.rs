//! Step 1: what happened, past the guards, becomes what each key has been since the world before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::{Input, Moment};
use crate::backend::{Change, Entry, Event, ListReason, Problem};
use crate::document::key::{DocumentKey, Root};
use crate::reconcile::hold::{KeptText, KeyChange, Origin, PlacedKey, RootState, Rules};
use crate::reconcile::memory::{Folder, Known, MemoryWrite};
use crate::reconcile::quarantine;
use crate::reconcile::refusal::Refusal;
use crate::reconcile::text::Stored;
use crate::reconcile::world::{State, Status, Text, World};

/// What is let go by an operator.
#[derive(Debug, Default)]
pub(super) struct Released {
    everything: bool,
    keys: BTreeSet<String>,
}

impl From<Option<Vec<String>>> for Released {
    /// `None`: everything.
    fn from(keys: Option<Vec<String>>) -> Self {
        Self {
            everything: keys.is_none(),
            keys: keys.into_iter().flatten().collect(),
        }
    }
}

impl Released {
    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.keys.is_empty()
    }

    /// A full key is released by itself, or by a prefix of it that ends with a slash.
    pub(super) fn contains(&self, full_key: &str) -> bool {
        let by_prefix = || {
            self.keys
                .iter()
                .any(|key| key.ends_with('/') && full_key.starts_with(key))
        };
        self.everything || self.keys.contains(full_key) || by_prefix()
    }
}

/// What the inputs come to.
#[derive(Debug)]
pub(super) struct Intake {
    /// The world as it becomes; its roots are up to date, its documents are as before.
    pub(super) world: World,
    pub(super) moment: Moment,
    /// The first batch of the plan: time has passed since the plan before.
    pub(super) is_first: bool,
    /// What stood at each key that changed, in order; the last stands there now. A text that came and went between two
    /// plans may be the last good one.
    pub(super) history: BTreeMap<DocumentKey, Vec<Option<Stored>>>,
    /// Keys that a list changed: this replica missed any texts between the known one and that of the list.
    pub(super) gaps: BTreeSet<DocumentKey>,
    /// Roots with their first list: its registrations are no gains.
    pub(super) first_listed: BTreeSet<Root>,
    /// Documents whose text names files that have other content now.
    pub(super) stale: BTreeSet<DocumentKey>,
    /// Good texts that were looked for in the store's history, and found or not; oldest first.
    pub(super) found: BTreeMap<DocumentKey, Vec<Arc<Text>>>,
    /// Documents whose record in the shared memory is new, or is to be heeded anew.
    pub(super) recalled: BTreeSet<DocumentKey>,
    /// Documents whose record in the shared memory was there and is gone.
    pub(super) forgotten: BTreeSet<DocumentKey>,
    /// Registrations whose record in the shared memory is new, or is to be heeded anew.
    pub(super) recalled_instances: BTreeSet<DocumentKey>,
    pub(super) released: Released,
    /// Keys that a root's guard holds, or did before.
    pub(super) held: BTreeSet<DocumentKey>,
    pub(super) relist: BTreeSet<Root>,
    /// Records of the quarantine to be written.
    pub(super) writes: Vec<MemoryWrite>,
    /// Documents whose good texts before are to be looked for.
    pub(super) wanted: Vec<DocumentKey>,
}

impl Intake {
    pub(super) fn new(world: &World, moment: Moment, is_first: bool) -> Self {
        Self {
            world: world.clone(),
            moment,
            is_first,
            history: BTreeMap::new(),
            gaps: BTreeSet::new(),
            first_listed: BTreeSet::new(),
            stale: BTreeSet::new(),
            found: BTreeMap::new(),
            recalled: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            recalled_instances: BTreeSet::new(),
            released: Released::default(),
            held: BTreeSet::new(),
            relist: BTreeSet::new(),
            writes: Vec::new(),
            wanted: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Event { root, event } => self.on_event(root, event),
            Input::Saved { entries, revision } => self.on_saved(entries, revision),
            Input::Published => self.on_published(),
            Input::Reached { revision, except } => self.on_reached(revision, &except),
            Input::Unfollowed(root) => self.on_unfollowed(&root),
            Input::Remembered { folder, whole, records } => self.on_remembered(folder, whole, records),
            Input::Found { key, texts } => self.on_found(key, texts),
            Input::Refused(refusals) => refusals.into_iter().for_each(|refusal| self.on_refused(refusal)),
            Input::Accepted { full_key, about } => self.on_accepted(&full_key, about),
            Input::TryAgain(texts) => texts.iter().for_each(|(key, about)| self.on_try_again(key, *about)),
            Input::Release(keys) => self.on_release(keys),
            Input::ReadAgain(keys) => self.on_read_again(keys),
            Input::Tick => {}
        }
    }

    fn on_read_again(&mut self, keys: Vec<DocumentKey>) {
        for key in keys {
            let standing = self.standing(&key);
            if standing.is_some() {
                self.history.entry(key.clone()).or_default().push(standing);
                self.stale.insert(key);
            }
        }
    }

    fn on_found(&mut self, key: DocumentKey, texts: Vec<Arc<Text>>) {
        if let Some(awaited) = self.world.awaited.remove(&key) {
            let write = quarantine::on_found(&self.world, &awaited, &texts, self.moment.wall);
            self.writes.extend(write);
        }
        self.found.insert(key, texts);
    }

    fn on_refused(&mut self, refusal: Refusal) {
        let key = refusal.key.clone();
        match quarantine::on_refusal(&self.world, refusal, self.moment.wall) {
            quarantine::Answer::Nothing => {}
            quarantine::Answer::Write(write) => self.writes.push(write),
            quarantine::Answer::Search(awaited) => {
                if self.world.awaited.insert(key.clone(), awaited).is_none() {
                    self.wanted.push(key);
                }
            }
        }
    }

    fn on_accepted(&mut self, full_key: &Arc<str>, about: i64) {
        let known = self.world.memory.quarantine(full_key);
        let Some((known, write)) = known
            .filter(|known| known.record.about == about)
            .and_then(|known| quarantine::accepted(full_key, known))
        else {
            return;
        };
        self.world
            .memory
            .take(Folder::Quarantine, Arc::clone(full_key), Some(known));
        self.writes.push(write);
    }

    fn on_try_again(&mut self, key: &DocumentKey, about: i64) {
        let full_key = match self.world.records.get(key) {
            Some(record) => Arc::clone(&record.status.full_key),
            None => self.world.options.layout.full_key(key).into(),
        };
        let known = self.world.memory.quarantine(&full_key);
        let known = known.filter(|known| known.record.about == about);
        self.writes.extend(known.map(|known| quarantine::end(&full_key, known)));
    }

    /// End the quarantine of released keys, once the store says so.
    fn end_quarantine(&mut self, is_released: impl Fn(&str) -> bool) {
        let known = self.world.memory.keys(Folder::Quarantine);
        let over = known.filter(|full_key| is_released(full_key)).filter_map(|full_key| {
            let known = self.world.memory.quarantine(full_key)?;
            Some(quarantine::end(full_key, known))
        });
        self.writes.extend(over);
    }

    fn on_event(&mut self, root: Root, event: Event) {
        match event {
            Event::Listed {
                revision,
                reason,
                entries,
            } => self.on_listed(root, revision, reason, entries),
            Event::Changed { revision, changes } => self.on_changed(root, revision, changes),
            Event::Problems { problems } => self.on_problems(root, &problems),
            Event::Reached { .. } | Event::Alive | Event::Failed { .. } => {}
        }
    }

    fn on_listed(&mut self, root: Root, revision: i64, reason: ListReason, entries: Vec<Entry>) {
        let list = entries.into_iter().map(|entry| self.located(&root, entry)).collect();
        let origin = self
            .world
            .roots
            .get(&root)
            .map(|state| state.origin)
            .unwrap_or_default();
        if origin == Origin::Nothing {
            self.first_listed.insert(root.clone());
        }
        // No record is written before every root of documents was listed.
        let is_first = origin != Origin::Store;
        let acting = self.with_root(&root, |state, rules| state.on_listed(rules, revision, reason, list));
        self.gaps.extend(acting);
        self.recall(Folder::LastGood, &root);
        self.recall(Folder::Held, &root);
        if is_first {
            self.compare_with_memory();
        }
    }

    /// Heed every record of a root's documents anew.
    fn recall(&mut self, folder: Folder, root: &Root) {
        let layout = &self.world.options.layout;
        let prefix = layout.prefix_of(root);
        let keys = self.world.memory.keys(folder);
        let keys = keys
            .filter(|full_key| full_key.starts_with(prefix) && ***full_key != *prefix)
            .map(|full_key| layout.locate(root, full_key.as_bytes()));
        match (folder, root) {
            (Folder::LastGood | Folder::Quarantine, _) => self.recalled.extend(keys),
            (Folder::Held, root) if root.is_registrations() => self.recalled_instances.extend(keys),
            (Folder::Held, _) => {}
        }
    }

    /// Records of the shared memory that were read; `whole`: all there are.
    fn on_remembered(&mut self, folder: Folder, whole: bool, records: Vec<(Arc<str>, Option<Known>)>) {
        let mut changed: BTreeSet<Arc<str>> = records.iter().map(|(full_key, _)| Arc::clone(full_key)).collect();
        if whole {
            let gone: Vec<Arc<str>> = self.world.memory.keys(folder).cloned().collect();
            for full_key in gone {
                self.world.memory.take(folder, Arc::clone(&full_key), None);
                changed.insert(full_key);
            }
            self.world.memory.listed.insert(folder);
            self.compare_with_memory();
        }
        for (full_key, known) in records {
            self.world.memory.take(folder, full_key, known);
        }
        let mut of_roots: BTreeMap<Root, Vec<PlacedKey>> = BTreeMap::new();
        let mut of_holds: BTreeSet<Root> = BTreeSet::new();
        for full_key in changed {
            let Some(root) = self.world.options.layout.root_of(full_key.as_bytes()) else {
                continue;
            };
            let key = self.world.options.layout.locate(&root, full_key.as_bytes());
            match folder {
                Folder::LastGood | Folder::Quarantine => {
                    if folder == Folder::LastGood && self.world.memory.last_good(&full_key).is_none() {
                        self.forgotten.insert(key.clone());
                    }
                    self.recalled.insert(key);
                }
                Folder::Held if *full_key == *self.world.options.layout.prefix_of(&root) => {
                    of_roots.entry(root.clone()).or_default();
                    of_holds.insert(root);
                }
                Folder::Held => {
                    of_roots.entry(root.clone()).or_default().push((key.clone(), full_key));
                    self.held.insert(key.clone());
                    if root.is_registrations() {
                        self.recalled_instances.insert(key);
                    }
                }
            }
        }
        // Each root once.
        for (root, keys) in of_roots {
            let of_keys = Some(&*keys).filter(|_| !whole && !of_holds.contains(&root));
            let is_gone = |(_, full_key): &&PlacedKey| self.world.memory.held(full_key).is_none();
            let gone: Vec<DocumentKey> = keys.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
            self.with_keys(&root, of_keys, |state, _| {
                gone.iter().flat_map(|key| state.on_record_gone(key)).collect()
            });
            if let Some(state) = self.world.roots.get(&root) {
                let held = keys.into_iter().map(|(key, _)| key);
                self.recalled.extend(held.filter(|key| state.held_key(key).is_some()));
            }
        }
    }

    /// A text that serves in place of the latest one may have no record yet: such records become due.
    fn compare_with_memory(&mut self) {
        let world = &self.world;
        let behind = world.records.iter().filter(|(_, record)| record.is_behind());
        self.recalled.extend(behind.map(|(key, _)| key.clone()));
        let held = world
            .roots
            .values()
            .flat_map(|root| root.held().map(|(key, _)| key.clone()));
        let sources = world.sources.values().flat_map(|source| source.lost.values());
        let kept = sources.filter(|lost| lost.kept).map(|lost| lost.key.clone());
        self.held.extend(held.chain(kept));
    }

    fn on_changed(&mut self, root: Root, revision: i64, changes: Vec<Change>) {
        let change = |change| match change {
            Change::Put(entry) => {
                let (key, stored) = self.located(&root, entry);
                (key, Some(stored))
            }
            Change::Delete { key } => (self.world.options.layout.locate(&root, &key), None),
        };
        let full_keys: Vec<Arc<str>> = changes
            .iter()
            .map(|change| String::from_utf8_lossy(change.key()).into())
            .collect();
        let changes: Vec<KeyChange> = changes.into_iter().map(change).collect();
        let keys = changes.iter().map(|(key, _)| key.clone());
        let keys: Vec<PlacedKey> = keys.zip(full_keys).collect();
        self.with_keys(&root, Some(&keys), |state, rules| {
            state.on_changed(rules, revision, changes)
        });
    }

    fn on_problems(&mut self, root: Root, problems: &[Problem]) {
        let rejected = |problem: &Problem| Status {
            key: self.world.options.layout.locate(&root, &problem.key),
            full_key: String::from_utf8_lossy(&problem.key).into(),
            state: State::Rejected,
            held_by: None,
            reason: Some(problem.reason.clone()),
            path: None,
            warnings: Vec::new(),
            empty: None,
            latest: None,
            serving: None,
            validity: None,
            since: self.moment.wall,
        };
        let rejected: Arc<[Status]> = problems.iter().map(rejected).collect();
        self.world.problems.insert(root, rejected);
    }

    fn on_saved(&mut self, entries: Vec<(Root, Entry)>, revision: i64) {
        let mut by_root: BTreeMap<Root, OrdMap<DocumentKey, Stored>> = BTreeMap::new();
        for (root, entry) in entries {
            let (key, stored) = self.located(&root, entry);
            by_root.entry(root).or_default().insert(key, stored);
        }
        for (root, texts) in by_root {
            self.with_root(&root, |state, _| state.on_saved(revision, texts));
        }
    }

    /// Each listed root has reached a revision, also without a change at it. A shared hold that names a later revision
    /// than the root's last change is heeded now.
    fn on_reached(&mut self, revision: i64, except: &[Root]) {
        let world = &self.world;
        let is_foreign = |root: &Root| root.registry().is_some_and(|name| world.compiled.is_foreign(name));
        let listed = world
            .roots
            .iter()
            .filter(|(root, state)| state.origin == Origin::Store && !is_foreign(root));
        let behind: Vec<Root> = listed
            .filter(|(root, state)| state.revision < revision && !except.contains(root))
            .map(|(root, _)| root.clone())
            .collect();
        for root in behind {
            let shared = self.world.memory.hold(self.world.options.layout.prefix_of(&root));
            let state = self.world.roots.get_mut(&root);
            let before = state.map_or(revision, |state| std::mem::replace(&mut state.revision, revision));
            if shared.is_some_and(|shared| shared.about > before) {
                self.with_root(&root, |_, _| Vec::new());
            }
        }
    }

    fn on_unfollowed(&mut self, root: &Root) {
        self.with_root(root, |state, _| state.on_unfollowed());
        self.world.roots.remove(root);
    }

    fn on_published(&mut self) {
        let roots = self.world.roots.iter().filter(|(_, state)| state.awaits_publish());
        let roots: Vec<Root> = roots.map(|(root, _)| root.clone()).collect();
        for root in roots {
            self.with_root(&root, |state, _| {
                state.on_published();
                Vec::new()
            });
        }
    }

    fn on_release(&mut self, keys: Option<Vec<String>>) {
        match keys {
            None => self.released.everything = true,
            Some(keys) => self.released.keys.extend(keys),
        }
        let roots: Vec<Root> = self.world.roots.keys().cloned().collect();
        let released = std::mem::take(&mut self.released);
        self.end_quarantine(|full_key| released.contains(full_key));
        for root in roots {
            self.with_root(&root, |state, _| {
                state.on_release(|full_key| released.contains(full_key))
            });
        }
        self.released = released;
    }

    fn located(&self, root: &Root, entry: Entry) -> KeyText {
        let key = self.world.options.layout.locate(root, &entry.key);
        let Entry {
            key: full_key,
            value,
            create_revision,
            mod_revision,
            leased,
        } = entry;
        let text = Text {
            value,
            create_revision,
            mod_revision,
            leased,
        };
        (
            key,
            Stored {
                full_key: String::from_utf8_lossy(&full_key).into(),
                text: Arc::new(text),
            },
        )
    }

    /// Let something happen to a root, then what the shared memory says of it, and note which keys act. Returns those.
    fn with_root(
        &mut self,
        root: &Root,
        happen: impl FnOnce(&mut RootState, &Rules<'_>) -> Vec<KeyChange>,
    ) -> Vec<DocumentKey> {
        self.with_keys(root, None, happen)
    }

    /// [`Intake::with_root`], where only these keys can be held, or held no longer, unless a hold begins or ends.
    fn with_keys(
        &mut self,
        root: &Root,
        only: Option<&[PlacedKey]>,
        happen: impl FnOnce(&mut RootState, &Rules<'_>) -> Vec<KeyChange>,
    ) -> Vec<DocumentKey> {
        let mut state = self.world.roots.get(root).cloned().unwrap_or_default();
        let before = state.clone();
        let rules = Rules {
            root,
            confirm_mass_loss: self.world.options.confirm_mass_loss,
            has_leases: self.world.options.has_leases,
            now: self.moment.instant,
            wall: self.moment.wall,
        };
        let mut acting = happen(&mut state, &rules);

        let prefix = self.world.options.layout.prefix_of(root);
        if let Some(shared) = self.world.memory.hold(prefix) {
            // What a hold becomes may mean something else for every key.
            let mut heard = before.clone();
            loop {
                let only = only.filter(|_| state.hears_as(&heard, shared.about));
                let kept = self.kept_texts(root, prefix, only);
                heard = state.clone();
                acting.extend(state.on_shared(&rules, &shared, kept, only));
                if state.hears_as(&heard, shared.about) {
                    break;
                }
            }
        }

        match only.filter(|_| state.hold() == before.hold()) {
            Some(keys) => {
                let keys = keys.iter().map(|(key, _)| key);
                let keys = keys.chain(acting.iter().map(|(key, _)| key));
                let is_held = |key: &&DocumentKey| before.held_key(key).is_some() || state.held_key(key).is_some();
                self.held.extend(keys.filter(is_held).cloned());
            }
            None => {
                let held = before.held().chain(state.held());
                self.held.extend(held.map(|(key, _)| key.clone()));
            }
        }
        if state.wants_list() {
            self.relist.insert(root.clone());
        }
        self.world.roots.insert(root.clone(), state);
        let keys: Vec<DocumentKey> = acting.into_iter().map(|(key, _)| key).collect();
        for key in &keys {
            let standing = self.standing(key);
            self.history.entry(key.clone()).or_default().push(standing);
        }
        if before.hold().is_some() {
            self.gaps.extend(keys.iter().cloned());
        }
        keys
    }

    /// The texts that the shared memory holds at a root's keys.
    fn kept_texts(&self, root: &Root, prefix: &str, only: Option<&[PlacedKey]>) -> Vec<(DocumentKey, KeptText)> {
        let Some(keys) = only else {
            let records = self.world.memory.held_below(prefix);
            return records
                .map(|(full_key, text)| self.kept_text(root, full_key, text))
                .collect();
        };
        let kept = keys.iter().filter_map(|(_, full_key)| {
            let text = self.world.memory.held_at(full_key)?;
            Some(self.kept_text(root, full_key, text))
        });
        kept.collect()
    }

    fn kept_text(&self, root: &Root, full_key: &Arc<str>, text: Option<&Arc<Text>>) -> (DocumentKey, KeptText) {
        let key = self.world.options.layout.locate(root, full_key.as_bytes());
        let kept = text.map(|text| Stored {
            full_key: Arc::clone(full_key),
            text: Arc::clone(text),
        });
        (key, kept)
    }

    /// What stands at a key: of several roots that hold it, the first has the word.
    fn standing(&self, key: &DocumentKey) -> Option<Stored> {
        self.world
            .roots
            .values()
            .find_map(|state| state.served.get(key))
            .cloned()
    }
}

/// A key and what stands there.
type KeyText = (DocumentKey, Stored);
