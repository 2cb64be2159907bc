//! Step 1: what happened, past the guards, becomes what each key has been since the world before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::{Input, Moment};
use crate::backend::{Change, Entry, ListReason, Problem};
use crate::document::key::{DocumentKey, Root};
use crate::reconcile::hold::{KeyChange, Rules};
use crate::reconcile::world::{State, Status, Stored, Text, World};

/// What is let go by an operator.
#[derive(Debug, Default)]
pub(super) struct Released {
    everything: bool,
    keys: BTreeSet<String>,
}

impl Released {
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
    /// What stood at each key that changed, in order; the last stands there now. A text that came and went between two
    /// plans may be the last good one.
    pub(super) history: BTreeMap<DocumentKey, Vec<Option<Stored>>>,
    /// Last good texts that were looked for, and found or not.
    pub(super) last_good: BTreeMap<DocumentKey, Option<Arc<Text>>>,
    pub(super) released: Released,
    /// Keys that a root's guard holds, or did before.
    pub(super) held: BTreeSet<DocumentKey>,
    pub(super) relist: BTreeSet<Root>,
}

impl Intake {
    pub(super) fn new(world: &World, moment: Moment) -> Self {
        Self {
            world: world.clone(),
            moment,
            history: BTreeMap::new(),
            last_good: BTreeMap::new(),
            released: Released::default(),
            held: BTreeSet::new(),
            relist: BTreeSet::new(),
        }
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Listed {
                root,
                revision,
                reason,
                entries,
            } => self.on_listed(root, revision, reason, entries),
            Input::Changed {
                root,
                revision,
                changes,
            } => self.on_changed(root, revision, changes),
            Input::Problems { root, problems } => self.on_problems(root, &problems),
            Input::Saved { entries, revision } => self.on_saved(entries, revision),
            Input::LastGood { key, text } => {
                self.last_good.insert(key, text);
            }
            Input::Release(keys) => self.on_release(keys),
            Input::Tick => {}
        }
    }

    fn on_listed(&mut self, root: Root, revision: i64, reason: ListReason, entries: Vec<Entry>) {
        let list = entries.into_iter().map(|entry| self.located(&root, entry)).collect();
        self.with_root(&root, |state, rules| state.on_listed(rules, revision, reason, list));
    }

    fn on_changed(&mut self, root: Root, revision: i64, changes: Vec<Change>) {
        let change = |change| match change {
            Change::Put(entry) => {
                let (key, stored) = self.located(&root, entry);
                (key, Some(stored))
            }
            Change::Delete { key } => (self.world.options.layout.locate(&root, &key), None),
        };
        let changes = changes.into_iter().map(change).collect();
        self.with_root(&root, |state, rules| state.on_changed(rules, revision, changes));
    }

    fn on_problems(&mut self, root: Root, problems: &[Problem]) {
        let rejected = |problem: &Problem| Status {
            key: self.world.options.layout.locate(&root, &problem.key),
            full_key: String::from_utf8_lossy(&problem.key).into(),
            state: State::Rejected,
            reason: Some(problem.reason.clone()),
            path: None,
            warnings: Vec::new(),
            latest: None,
            serving: None,
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

    fn on_release(&mut self, keys: Option<Vec<String>>) {
        match keys {
            None => self.released.everything = true,
            Some(keys) => self.released.keys.extend(keys),
        }
        let roots: Vec<Root> = self.world.roots.keys().cloned().collect();
        let released = std::mem::take(&mut self.released);
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

    /// Let something happen to a root, and note which keys it lets act.
    fn with_root(
        &mut self,
        root: &Root,
        happen: impl FnOnce(&mut crate::reconcile::hold::RootState, &Rules<'_>) -> Vec<KeyChange>,
    ) {
        let mut state = self.world.roots.get(root).cloned().unwrap_or_default();
        self.held.extend(state.held().map(|(key, _)| key.clone()));
        let rules = Rules {
            root,
            confirm_mass_loss: self.world.options.confirm_mass_loss,
            now: self.moment.instant,
        };
        let acting = happen(&mut state, &rules);
        self.held.extend(state.held().map(|(key, _)| key.clone()));
        if state.wants_list() {
            self.relist.insert(root.clone());
        }
        self.world.roots.insert(root.clone(), state);
        for (key, _) in acting {
            let standing = self.standing(&key);
            self.history.entry(key).or_default().push(standing);
        }
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
