//! Guards: what looks like an accident is kept back.
//!
//! Two guards are always on (documents.md, Guards). A *root* that loses more than half and more than ten of its documents
//! in one revision or one list, that comes back empty, or whose history is another one (a fork) is held: the content
//! before keeps serving until a second list, ten seconds later or more, agrees, or an operator releases it. A *source*, the
//! registrations of one cluster, that loses more than half and more than ten of its addresses within ten seconds keeps
//! them for sixty.
//!
//! While a root is held, a change that arrives acts at once, on what serves and on what waits alike: it is the latest word
//! on its key. A held list's keys, one by one, stop being held when the two agree again.
//!
//! A registrations root has no mass-loss guard of its own (each source has), and its fork or empty list never waits for
//! an operator: instances come and go without one. Pure; time is given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::{OrdMap, OrdSet};

use super::world::{Good, Stored};
use crate::backend::ListReason;
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

/// Where a root's content came from.
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

/// Why a root is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Too many documents gone at once.
    Loss { lost: usize, all: usize },
    /// An empty list although documents were served.
    Empty { all: usize },
    /// Another history.
    Fork,
}

/// A root that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    why: Why,
    /// Of the list or change that is held back.
    revision: i64,
    since: Instant,
    /// Only an operator lets it act.
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

    /// Whether a second list could end it. An operator's decision needs none, except that an empty list may be a mistake
    /// that mends itself.
    fn wants_list(&self) -> bool {
        !self.by_operator || matches!(self.why, Why::Empty { .. })
    }
}

/// One root: what the store holds, what of it is judged, and why the two differ.
#[derive(Debug, Clone, Default)]
pub(super) struct RootState {
    /// What serves, or is rejected: the content that is judged.
    pub(super) served: OrdMap<DocumentKey, Stored>,
    /// What the store holds.
    store: OrdMap<DocumentKey, Stored>,
    /// Keys where the two differ.
    held: OrdSet<DocumentKey>,
    hold: Option<Hold>,
    pub(super) revision: i64,
    pub(super) origin: Origin,
}

/// What one key has become: a text, or nothing.
pub(super) type KeyChange = (DocumentKey, Option<Stored>);

/// What a root's guards are told.
pub(super) struct Rules<'a> {
    pub(super) root: &'a Root,
    pub(super) confirm_mass_loss: bool,
    pub(super) now: Instant,
}

impl Rules<'_> {
    fn is_registry(&self) -> bool {
        *self.root == Root::Registrations
    }

    fn needs_operator(&self, why: Why) -> bool {
        !self.is_registry() && (self.confirm_mass_loss || matches!(why, Why::Empty { .. }))
    }
}

impl RootState {
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

    /// One revision's changes. Returns those that act.
    pub(super) fn on_changed(&mut self, rules: &Rules<'_>, revision: i64, changes: Vec<KeyChange>) -> Vec<KeyChange> {
        self.revision = revision;
        let lost = changes
            .iter()
            .filter(|(key, text)| text.is_none() && self.served.contains_key(key))
            .count();
        let all = self.served.len();
        for (key, text) in &changes {
            put(&mut self.store, key, text.clone());
        }
        if is_mass_loss(lost, all) && !rules.is_registry() {
            self.hold(rules, Why::Loss { lost, all }, revision);
            self.held.extend(changes.into_iter().map(|(key, _)| key));
            return Vec::new();
        }
        self.act(changes)
    }

    /// A whole list. Returns what acts.
    pub(super) fn on_listed(
        &mut self,
        rules: &Rules<'_>,
        revision: i64,
        reason: ListReason,
        list: OrdMap<DocumentKey, Stored>,
    ) -> Vec<KeyChange> {
        self.revision = revision;
        self.origin = Origin::Store;
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
            self.hold(rules, why, revision);
        }
        self.held = changes.into_iter().map(|(key, _)| key).collect();
        Vec::new()
    }

    /// The saved state of an earlier run; ignored once the store has listed itself.
    pub(super) fn on_saved(&mut self, revision: i64, texts: OrdMap<DocumentKey, Stored>) -> Vec<KeyChange> {
        if self.origin == Origin::Store {
            return Vec::new();
        }
        (self.origin, self.revision, self.store) = (Origin::Disk, revision, texts);
        self.act(differences(&self.served, &self.store))
    }

    /// An operator lets held keys act. Returns what acts.
    pub(super) fn on_release(&mut self, released: impl Fn(&str) -> bool) -> Vec<KeyChange> {
        let full_key = |key: &DocumentKey| {
            let stored = self.served.get(key).or_else(|| self.store.get(key));
            stored.map(|stored| Arc::clone(&stored.full_key))
        };
        let keys = self
            .held
            .iter()
            .filter(|key| full_key(key).is_some_and(|full_key| released(&full_key)));
        let changes = keys.map(|key| (key.clone(), self.store.get(key).cloned())).collect();
        self.act(changes)
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

    fn hold(&mut self, rules: &Rules<'_>, why: Why, revision: i64) {
        let by_operator = rules.needs_operator(why);
        self.hold = Some(Hold {
            why,
            revision,
            since: rules.now,
            by_operator,
        });
    }

    /// Let changes act, and end the hold when nothing is kept back any more.
    fn act(&mut self, changes: Vec<KeyChange>) -> Vec<KeyChange> {
        for (key, text) in &changes {
            put(&mut self.served, key, text.clone());
            self.held.remove(key);
        }
        if self.held.is_empty() || differences(&self.served, &self.store).is_empty() && self.hold.is_some() {
            self.held.clear();
            self.hold = None;
            self.served = self.store.clone();
        }
        changes
    }
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

/// An instance whose key is gone.
#[derive(Debug, Clone)]
pub(super) struct LostInstance {
    pub(super) key: DocumentKey,
    pub(super) full_key: Arc<str>,
    pub(super) address: Address,
    /// What it registered.
    pub(super) good: Good,
    pub(super) at: Instant,
    /// Kept, not only remembered.
    pub(super) kept: bool,
}

/// The instances that one cluster lost lately.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceState {
    pub(super) lost: Vec<LostInstance>,
}

impl SourceState {
    /// Decide which of the lost are kept. `live` are the addresses that are registered now; `is_back` says whether a key has
    /// a text again, `is_released` whether an operator lets it go. Returns those that were kept and go now.
    pub(super) fn settle(
        &mut self,
        live: &BTreeSet<Address>,
        is_back: impl Fn(&DocumentKey) -> bool,
        is_released: impl Fn(&LostInstance) -> bool,
        now: Instant,
    ) -> Vec<LostInstance> {
        self.lost.retain(|lost| !is_back(&lost.key));
        let (back, mut lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.lost)
            .into_iter()
            .partition(|lost| live.contains(&lost.address) || lost.kept && is_released(lost));
        let mut let_go: Vec<LostInstance> = back.into_iter().filter(|lost| lost.kept).collect();
        let addresses = |lost: &[LostInstance], counted: &dyn Fn(&LostInstance) -> bool| {
            lost.iter()
                .filter(|lost| counted(lost))
                .map(|lost| lost.address.clone())
                .collect::<BTreeSet<_>>()
                .len()
        };
        let recent = |lost: &LostInstance| now.saturating_duration_since(lost.at) < LOSS_WINDOW;
        let gone = addresses(&lost, &recent);
        if is_mass_loss(gone, live.len() + addresses(&lost, &|lost| recent(lost) || lost.kept)) {
            lost.iter_mut()
                .filter(|lost| recent(lost))
                .for_each(|lost| lost.kept = true);
        }
        for lost in lost {
            let age = now.saturating_duration_since(lost.at);
            match lost.kept {
                true if age < KEPT_FOR => self.lost.push(lost),
                true => let_go.push(lost),
                false if age < LOSS_WINDOW => self.lost.push(lost),
                false => {}
            }
        }
        let_go
    }

    /// When the first that is kept is let go.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lost
            .iter()
            .filter(|lost| lost.kept)
            .map(|lost| lost.at + KEPT_FOR)
            .min()
    }
}
