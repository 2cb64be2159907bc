//! Guards: changes that look like an accident are held.
//!
//! Two guards are always on (docs/documents/README.md, Guards):
//!
//! - A *root* is held if it loses more than half and more than ten of its documents in one revision or one list, if
//!   its list is empty, or if its history is another one (a fork). The content before keeps serving until a second
//!   list, ten seconds later or more, agrees, or until an operator releases the root.
//! - A *source* is the registrations of one cluster. If a source loses more than half and more than ten of its
//!   addresses within ten seconds, it keeps them for sixty. A cluster with a `guard` has limits of its own besides.
//!
//! Saved state of an earlier run that never served guards nothing: it does not enter the world. If it did serve, because
//! the store was away, it is guarded like any content. Another replica that serves the store's content by then ends such
//! a hold: its proxies would be moved backwards.
//!
//! While a root is held, a change that arrives acts at once, because it is the latest text of its key. A key that a
//! list holds is held no longer when the serving text and the store's text are equal again.
//!
//! A registrations root has no mass-loss guard of its own, because each source has one. Its fork or empty list never
//! waits for an operator: instances come and go without one. Pure; time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imbl::{OrdMap, OrdSet};

use super::memory::{KnownHold, SharedHold, Why};
use super::text::{Good, Stored};
use crate::backend::ListReason;
use crate::document::cluster::Guard;
use crate::document::key::{DocumentKey, Root};
use crate::resource::compile::Address;

/// A second list must be so much later to confirm the first.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(10);
/// Losses of a source within so long are counted together.
pub const LOSS_WINDOW: Duration = Duration::from_secs(10);
/// Instances lost together are kept so long.
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// No more than so many lost is ever an accident.
const HARMLESS: usize = 10;

/// Whether losing `lost` of `all` is kept back.
#[must_use]
pub fn is_mass_loss(lost: usize, all: usize) -> bool {
    lost > HARMLESS && lost * 2 > all
}

/// The origin of a root's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Origin {
    /// Nothing was read yet.
    #[default]
    Nothing,
    /// The saved state of an earlier run.
    Disk,
    /// The store listed it.
    Store,
}

/// A root that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    why: Why,
    /// Of the list or change that is held back.
    pub(super) revision: i64,
    /// The revision seen before.
    after: i64,
    /// The content before was saved by an earlier run.
    from_saved: bool,
    since: Instant,
    pub(super) since_wall: SystemTime,
    /// Whether only an operator ends the hold.
    by_operator: bool,
}

impl Hold {
    /// One sentence, for the documents it keeps.
    pub(super) fn reason(&self) -> String {
        let revision = self.revision;
        let what = match self.why {
            Why::Loss { lost, all } => format!("revision {revision} removes {lost} of {all} documents at once"),
            Why::Empty { all } => format!("the list of revision {revision} is empty, {all} documents were served"),
            Why::Fork => format!("the store's history was replaced, its list of revision {revision} is another one"),
        };
        let until = if self.by_operator {
            "an operator releases it"
        } else {
            "a second list agrees or it is released"
        };
        format!("{what}; the content before keeps serving until {until}")
    }

    /// The hold as other replicas read it.
    pub(super) fn shared(&self) -> SharedHold {
        SharedHold {
            why: self.why,
            after: self.after,
            by_operator: self.by_operator,
            from_saved: self.from_saved,
        }
    }

    /// Another replica was first: its hold is that of all, unless this one alone waits for an operator.
    fn become_shared(&mut self, shared: &KnownHold) {
        self.revision = shared.about;
        self.after = self.after.min(shared.hold.after);
        if shared.hold.by_operator || !self.by_operator {
            (self.why, self.since_wall) = (shared.hold.why, shared.since);
            (self.by_operator, self.from_saved) = (shared.hold.by_operator, shared.hold.from_saved);
        }
    }

    /// Whether a second list can end the hold. A hold that waits for an operator needs none, unless the list is empty:
    /// the next one may not be.
    fn wants_list(&self) -> bool {
        !self.by_operator || matches!(self.why, Why::Empty { .. })
    }
}

/// One root: its content in the store, the judged content, and the guard between the two.
#[derive(Debug, Clone, Default)]
pub(super) struct RootState {
    /// The judged content: each text serves or is rejected.
    pub(super) served: OrdMap<DocumentKey, Stored>,
    /// The content of the store.
    store: OrdMap<DocumentKey, Stored>,
    /// Keys where the two differ.
    held: OrdSet<DocumentKey>,
    /// Keys that were released from the hold while it goes on.
    let_go: OrdSet<DocumentKey>,
    hold: Option<Hold>,
    pub(super) revision: i64,
    /// The newest revision that is known to have changed a key.
    pub(super) changed: i64,
    pub(super) origin: Origin,
    /// Proxies were sent the store's content by this process.
    is_published: bool,
    /// The revision from which every change was watched, without a list between; 0 before the first list.
    watched_since: i64,
    /// The revision of the latest hold that is over.
    pub(super) decided: i64,
}

/// A changed key: its new text; `None`: deleted.
pub(super) type KeyChange = (DocumentKey, Option<Stored>);

/// A key, and its full key.
pub(super) type PlacedKey = (DocumentKey, Arc<str>);

/// The text that serves at a held key; `None`: no text.
pub(super) type KeptText = Option<Stored>;

/// The settings of a root's guards, and the moment.
pub(super) struct Rules<'a> {
    pub(super) root: &'a Root,
    pub(super) confirm_mass_loss: bool,
    /// Whether registrations vanish with leases (etcd). In a folder they are files like all others.
    pub(super) has_leases: bool,
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
}

impl Rules<'_> {
    fn is_registry(&self) -> bool {
        match self.root {
            Root::Registrations => self.has_leases,
            // A registry is an etcd always.
            Root::Registry(_) => true,
            Root::Documents | Root::Routes(_) => false,
        }
    }

    fn needs_operator(&self, why: Why) -> bool {
        !self.is_registry() && (self.confirm_mass_loss || matches!(why, Why::Empty { .. }))
    }
}

impl RootState {
    /// Why the root is held, if it is.
    pub(super) fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// The keys that are held, and why.
    pub(super) fn held(&self) -> impl Iterator<Item = (&DocumentKey, &Hold)> {
        self.hold
            .iter()
            .flat_map(|hold| self.held.iter().map(move |key| (key, hold)))
    }

    /// Why one key is held, and what waits.
    pub(super) fn held_key(&self, key: &DocumentKey) -> Option<(&Hold, Option<&Stored>)> {
        let hold = self.hold.as_ref()?;
        self.held.contains(key).then(|| (hold, self.store.get(key)))
    }

    /// Whether a second list could end the hold.
    pub(super) fn wants_list(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::wants_list)
    }

    /// Apply the changes of one revision. Returns the changes that act.
    pub(super) fn on_changed(&mut self, rules: &Rules<'_>, revision: i64, changes: Vec<KeyChange>) -> Vec<KeyChange> {
        let before = std::mem::replace(&mut self.revision, revision);
        self.changed = self.changed.max(revision);
        let lost = changes
            .iter()
            .filter(|(key, text)| text.is_none() && self.served.contains_key(key))
            .count();
        let all = self.served.len();
        for (key, text) in &changes {
            put(&mut self.store, key, text.clone());
        }
        if is_mass_loss(lost, all) && !rules.is_registry() {
            self.begin_hold(rules, Why::Loss { lost, all }, before, false);
            self.held.extend(changes.into_iter().map(|(key, _)| key));
            return Vec::new();
        }
        self.act(changes)
    }

    /// Apply a whole list. Returns the changes that act.
    pub(super) fn on_listed(
        &mut self,
        rules: &Rules<'_>,
        revision: i64,
        reason: ListReason,
        list: OrdMap<DocumentKey, Stored>,
    ) -> Vec<KeyChange> {
        let before = std::mem::replace(&mut self.revision, revision);
        let origin = std::mem::replace(&mut self.origin, Origin::Store);
        self.watched_since = revision;
        let has_lost = origin == Origin::Store && self.store.keys().any(|key| !list.contains_key(key));
        let newest = list.values().map(|stored| stored.text.mod_revision).max();
        self.changed = match reason {
            _ if has_lost => revision,
            ListReason::Fork => newest.unwrap_or_default(),
            _ => self.changed.max(newest.unwrap_or_default()),
        };
        let missing_before = missing(&self.served, &self.store);
        self.store = list;
        let changes = differences(&self.served, &self.store);
        if changes.is_empty() {
            return self.act(changes);
        }

        let missing = missing(&self.served, &self.store);
        let why = self.suspicion(rules, reason, missing.len());
        let acts = match (&self.hold, why) {
            (None, why) => why.is_none(),
            (Some(hold), why) if hold.by_operator => why.is_none() && hold.why != Why::Fork,
            (Some(hold), _) if rules.now < hold.since + CONFIRMED_AFTER => false,
            (Some(_), None) => true,
            (Some(_), Some(why)) => !rules.needs_operator(why) && missing.is_subset(&missing_before),
        };
        if acts {
            return self.act(changes);
        }

        let again = self
            .hold
            .as_ref()
            .is_some_and(|hold| rules.now < hold.since + CONFIRMED_AFTER || hold.by_operator);
        if !again && let Some(why) = why {
            self.begin_hold(rules, why, before, origin == Origin::Disk);
        }

        // As in a watch, a text that was written after the hold began acts at once.
        let since = self.hold.as_ref().map(|hold| (hold.why, hold.revision));
        let is_newer = |text: &Stored| match since {
            Some((Why::Fork, _)) | None => false,
            Some((_, revision)) => text.text.mod_revision > revision,
        };
        let (newer, kept): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|(_, text)| text.as_ref().is_some_and(is_newer));
        self.held = kept.into_iter().map(|(key, _)| key).collect();
        self.act(newer)
    }

    /// The saved state of an earlier run, which serves from now on; ignored once the store has listed itself.
    pub(super) fn on_saved(&mut self, revision: i64, texts: OrdMap<DocumentKey, Stored>) -> Vec<KeyChange> {
        if self.origin == Origin::Store {
            return Vec::new();
        }
        (self.origin, self.revision, self.store) = (Origin::Disk, revision, texts);
        self.act(differences(&self.served, &self.store))
    }

    /// The root is followed no longer. Returns the changes that act.
    pub(super) fn on_unfollowed(&mut self) -> Vec<KeyChange> {
        self.store = OrdMap::new();
        self.act(differences(&self.served, &self.store))
    }

    /// An operator releases held keys. Returns the changes that act.
    pub(super) fn on_release(&mut self, released: impl Fn(&str) -> bool) -> Vec<KeyChange> {
        let keys = self.held_among(&released);
        let changes = keys.map(|key| (key.clone(), self.store.get(key).cloned())).collect();
        self.act(changes)
    }

    /// The held keys whose full keys are wanted.
    pub(super) fn held_among(&self, wanted: &impl Fn(&str) -> bool) -> impl Iterator<Item = &DocumentKey> {
        self.held.iter().filter(|key| {
            let stored = self.served.get(*key).or_else(|| self.store.get(*key));
            stored.is_some_and(|stored| wanted(&stored.full_key))
        })
    }

    fn suspicion(&self, rules: &Rules<'_>, reason: ListReason, lost: usize) -> Option<Why> {
        let all = self.served.len();
        if all > 0 && self.store.is_empty() {
            Some(Why::Empty { all })
        } else if all > 0 && reason == ListReason::Fork {
            Some(Why::Fork)
        } else if is_mass_loss(lost, all) && !rules.is_registry() {
            Some(Why::Loss { lost, all })
        } else {
            None
        }
    }

    /// Whether the first publish of the store's content would be news.
    pub(super) fn awaits_publish(&self) -> bool {
        !self.is_published && self.origin == Origin::Store
    }

    /// Whether a shared hold means the same for all keys as it did to the root `before`, but for keys that changed.
    pub(super) fn hears_as(&self, before: &Self, about: i64) -> bool {
        let facts = |state: &Self| {
            let has_reached = state.revision >= about;
            (
                state.origin,
                state.watched_since,
                state.decided,
                state.is_published,
                has_reached,
            )
        };
        self.hold == before.hold && facts(self) == facts(before)
    }

    /// The content of the store was published.
    pub(super) fn on_published(&mut self) {
        self.is_published = self.origin == Origin::Store;
    }

    fn begin_hold(&mut self, rules: &Rules<'_>, why: Why, after: i64, from_saved: bool) {
        self.hold = Some(Hold {
            why,
            revision: self.revision,
            after,
            from_saved,
            since: rules.now,
            since_wall: rules.wall,
            by_operator: rules.needs_operator(why),
        });
    }

    /// Apply the shared memory to the root: a key that another replica holds is held here too, and a released key is
    /// released. `records` are those of the root's keys; `only` are the keys to look at (`None`: all). Returns the keys
    /// that act.
    pub(super) fn on_shared(
        &mut self,
        rules: &Rules<'_>,
        shared: &KnownHold,
        records: Vec<(DocumentKey, KeptText)>,
        only: Option<&[PlacedKey]>,
    ) -> Vec<KeyChange> {
        if self.origin != Origin::Store || self.revision < shared.about || self.decided >= shared.about {
            return Vec::new();
        }
        if shared.is_released {
            self.decided = shared.about;
            return match &self.hold {
                Some(hold) if hold.revision <= shared.about => self.act(differences(&self.served, &self.store)),
                _ => Vec::new(),
            };
        }
        let is_later = self.serves_later_than(shared);
        let has_watched = self.watched_since <= shared.hold.after || is_later && self.hold.is_none();
        if let Some(hold) = &mut self.hold {
            // This replica holds texts that its proxies have: its hold takes the place of the shared one.
            if !is_later {
                hold.become_shared(shared);
            }
        } else if has_watched {
            // This replica has watched every revision that the other one's list covers, and found nothing to hold.
            self.decided = shared.about;
        }
        if has_watched {
            return Vec::new();
        }

        let records = records
            .into_iter()
            .filter(|(key, _)| !is_later || self.held.contains(key));
        let records = records.collect();
        let mut acting = self.join(rules, shared, records);
        acting.extend(self.let_newer_act(shared, only));
        acting
    }

    /// Whether the shared hold protects texts that an earlier run of another replica saved, while the proxies of this
    /// replica already have the store's content.
    pub(super) fn serves_later_than(&self, shared: &KnownHold) -> bool {
        let holds_saved = self.hold.as_ref().is_some_and(|hold| hold.from_saved);
        shared.hold.from_saved && self.is_published && !holds_saved
    }

    /// Let texts act that were written after the shared hold began, as in a watch. A list of this replica may have held
    /// them under a later revision. Revisions of another history cannot be compared.
    fn let_newer_act(&mut self, shared: &KnownHold, only: Option<&[PlacedKey]>) -> Vec<KeyChange> {
        if shared.hold.why == Why::Fork || self.hold.as_ref().is_none_or(|hold| hold.why == Why::Fork) {
            return Vec::new();
        }
        let newer = |key: &DocumentKey| {
            let stored = self
                .store
                .get(key)
                .filter(|stored| stored.text.mod_revision > shared.about)?;
            Some((key.clone(), Some(stored.clone())))
        };
        let newer: Vec<KeyChange> = match only {
            Some(keys) => {
                let keys = keys.iter().map(|(key, _)| key);
                keys.filter(|key| self.held.contains(*key)).filter_map(newer).collect()
            }
            None => self.held.iter().filter_map(newer).collect(),
        };
        if newer.is_empty() { newer } else { self.act(newer) }
    }

    /// Another replica deleted the record of a key, because it watched the key change after the hold began. Returns the
    /// changes that act.
    pub(super) fn on_record_gone(&mut self, key: &DocumentKey) -> Vec<KeyChange> {
        if !self.held.contains(key) {
            return Vec::new();
        }
        self.act(vec![(key.clone(), self.store.get(key).cloned())])
    }

    /// Whether a key was released although the hold goes on: by this replica, or because this replica saw every change
    /// since before the hold.
    pub(super) fn knows_that_acts(&self, key: &DocumentKey) -> bool {
        self.let_go.contains(key) || self.hold.as_ref().is_some_and(|hold| self.watched_since <= hold.after)
    }

    /// Hold what another replica holds.
    fn join(&mut self, rules: &Rules<'_>, shared: &KnownHold, records: Vec<(DocumentKey, KeptText)>) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        for (key, kept) in records {
            let is_newer = |stored: &Stored| stored.text.mod_revision > shared.about;
            if self.store.get(&key).is_some_and(is_newer) {
                continue;
            }
            let differs = self.store.get(&key) != kept.as_ref();
            let is_better = !self.held.contains(&key) || written(kept.as_ref()) > written(self.served.get(&key));
            if differs && is_better && !self.let_go.contains(&key) {
                put(&mut self.served, &key, kept.clone());
                self.held.insert(key.clone());
                changes.push((key, kept));
            }
        }
        if !changes.is_empty() && self.hold.is_none() {
            let age = rules.wall.duration_since(shared.since).unwrap_or_default();
            self.hold = Some(Hold {
                why: shared.hold.why,
                revision: shared.about,
                after: shared.hold.after,
                from_saved: shared.hold.from_saved,
                since: rules.now.checked_sub(age).unwrap_or(rules.now),
                since_wall: shared.since,
                by_operator: shared.hold.by_operator,
            });
        }
        changes
    }

    /// Let changes act, and end the hold when no key is held any more.
    fn act(&mut self, changes: Vec<KeyChange>) -> Vec<KeyChange> {
        for (key, text) in &changes {
            put(&mut self.served, key, text.clone());
            if self.held.remove(key).is_some() {
                self.let_go.insert(key.clone());
            }
        }
        // The two differ at held keys only.
        let differs = |key| self.served.get(key) != self.store.get(key);
        if !self.held.iter().any(differs) && (self.held.is_empty() || self.hold.is_some()) {
            self.held.clear();
            self.let_go.clear();
            if let Some(hold) = self.hold.take() {
                self.decided = self.decided.max(hold.revision);
            }
            self.served = self.store.clone();
        }
        changes
    }
}

/// When a text was written; 0: there is none.
fn written(text: Option<&Stored>) -> i64 {
    text.map_or(0, |stored| stored.text.mod_revision)
}

fn put(texts: &mut OrdMap<DocumentKey, Stored>, key: &DocumentKey, text: Option<Stored>) {
    match text {
        Some(text) => texts.insert(key.clone(), text),
        None => texts.remove(key),
    };
}

fn missing(served: &OrdMap<DocumentKey, Stored>, store: &OrdMap<DocumentKey, Stored>) -> BTreeSet<DocumentKey> {
    served.keys().filter(|key| !store.contains_key(*key)).cloned().collect()
}

fn differences(served: &OrdMap<DocumentKey, Stored>, store: &OrdMap<DocumentKey, Stored>) -> Vec<KeyChange> {
    let gone = served
        .keys()
        .filter(|key| !store.contains_key(*key))
        .map(|key| (key.clone(), None));
    let put = store.iter().filter(|(key, text)| served.get(*key) != Some(*text));
    gone.chain(put.map(|(key, text)| (key.clone(), Some(text.clone()))))
        .collect()
}

/// An instance whose key vanished.
#[derive(Debug, Clone)]
pub(super) struct LostInstance {
    pub(super) key: DocumentKey,
    pub(super) full_key: Arc<str>,
    pub(super) address: Address,
    /// The registration.
    pub(super) good: Good,
    pub(super) at: Instant,
    pub(super) since_wall: SystemTime,
    /// Kept, not only remembered.
    pub(super) kept: bool,
    /// How long it is kept.
    pub(super) kept_for: Duration,
}

/// The instances that one cluster lost and gained lately.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceState {
    pub(super) lost: BTreeMap<DocumentKey, LostInstance>,
    /// Addresses that were not registered before.
    gained: Vec<(Address, Instant)>,
    /// When the first lost instance, or without any the first gain, is forgotten.
    next_end: Option<Instant>,
    /// When the first kept instance is dropped.
    deadline: Option<Instant>,
}

impl SourceState {
    /// An address registered that the cluster did not have.
    pub(super) fn on_gained(&mut self, address: Address, now: Instant) {
        self.gained.push((address, now));
    }

    /// Whether nothing lately lost or gained is remembered.
    pub(super) fn is_calm(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }

    /// Decide which of the lost instances are kept. `live` are the addresses that are registered now; `is_back` says
    /// whether a key has a text again, `is_released` whether a lost instance was released. Returns the instances that
    /// were kept until now.
    ///
    /// New instances replace as many lost ones: a deployment that stops twelve instances and starts twelve others has
    /// lost none.
    pub(super) fn sort_out(
        &mut self,
        live: &BTreeSet<Address>,
        is_back: impl Fn(&DocumentKey) -> bool,
        is_released: impl Fn(&LostInstance) -> bool,
        guard: Option<Guard>,
        now: Instant,
    ) -> Vec<LostInstance> {
        self.lost.retain(|key, _| !is_back(key));
        let (back, mut lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.lost)
            .into_values()
            .partition(|lost| live.contains(&lost.address) || lost.kept && is_released(lost));
        let mut let_go: Vec<LostInstance> = back.into_iter().filter(|lost| lost.kept).collect();

        let gained = self.forget_old_gains(&lost, live, now);
        let recent = |lost: &LostInstance| now.saturating_duration_since(lost.at) < LOSS_WINDOW;
        let gone = addresses(lost.iter().filter(|lost| recent(lost)));
        let kept_or_recent = addresses(lost.iter().filter(|lost| recent(lost) || lost.kept));
        let (missing, all) = (gone.saturating_sub(gained), live.len() + kept_or_recent);
        let by_guard = guard.filter(|guard| guard.holds_back(missing, live.len(), all));
        let by_loss = is_mass_loss(missing, all).then_some(KEPT_FOR);
        if let Some(kept_for) = by_guard.map(|guard| guard.hold).max(by_loss) {
            for lost in lost.iter_mut().filter(|lost| recent(lost)) {
                lost.kept_for = if lost.kept {
                    lost.kept_for.max(kept_for)
                } else {
                    kept_for
                };
                lost.kept = true;
            }
        }

        let are_replaced = gained >= addresses(lost.iter().filter(|lost| lost.kept));
        for lost in lost {
            let age = now.saturating_duration_since(lost.at);
            let stays = if lost.kept {
                age < lost.kept_for && !are_replaced
            } else {
                age < LOSS_WINDOW
            };
            if stays {
                self.lost.insert(lost.key.clone(), lost);
            } else if lost.kept {
                let_go.push(lost);
            }
        }
        self.note_ends();
        let_go
    }

    /// Forget gains that can replace no lost instance: addresses that vanished, and gains before the window of the
    /// first loss. Returns the number of addresses left.
    fn forget_old_gains(&mut self, lost: &[LostInstance], live: &BTreeSet<Address>, now: Instant) -> usize {
        let first = lost.iter().map(|lost| lost.at).min().unwrap_or(now);
        self.gained
            .retain(|(address, at)| live.contains(address) && *at + LOSS_WINDOW > first);
        self.gained
            .iter()
            .map(|(address, _)| address)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// When the first lost instance, or without any the first gain, is forgotten.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// When the first kept instance is dropped.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn note_ends(&mut self) {
        let (kept, forgotten): (Vec<_>, Vec<_>) = self.lost.values().partition(|lost| lost.kept);
        self.deadline = kept.iter().map(|lost| lost.at + lost.kept_for).min();
        let forgotten = forgotten.iter().map(|lost| lost.at + LOSS_WINDOW);
        let gained = self.gained.iter().map(|(_, at)| *at + LOSS_WINDOW);
        self.next_end = forgotten.chain(self.deadline).min().or_else(|| gained.min());
    }
}

fn addresses<'a>(lost: impl Iterator<Item = &'a LostInstance>) -> usize {
    lost.map(|lost| &lost.address).collect::<BTreeSet<_>>().len()
}
