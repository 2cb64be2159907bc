//! Step 2: for each document, the latest text that can serve beside all others.
//!
//! New texts are parsed here. `instances` keeps registrations that vanished with too many others. `fallback` compiles
//! the documents together: a document that is at fault falls back to its good text before, until no document is at
//! fault.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::intake::Intake;
use crate::document::key::{DocumentKey, Kind};
use crate::document::{self, Limits, Parsed, Rejection};
use crate::reconcile::memory::{self, Content};
use crate::reconcile::quarantine;
use crate::reconcile::text::{Good, Stored};
use crate::reconcile::world::{Blocked, Record, Text, World};
use crate::resource::compile::{Compiled, Fault, Obstacle};

mod fallback;
mod instances;

pub(super) use fallback::Decision;

/// What may serve for one key.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) full_key: Arc<str>,
    /// What stands at the key; `None`: it is deleted.
    pub(super) latest: Option<Arc<Text>>,
    /// The same as a document, when it is one.
    pub(super) latest_good: Option<Good>,
    /// Why the latest does not serve.
    pub(super) blocked: Option<Blocked>,
    /// Good texts that may serve, the best last.
    candidates: Vec<Good>,
    /// Deleted, and serving nevertheless.
    pub(super) kept: bool,
    /// What is known of the texts before the latest.
    pub(super) past: Past,
    /// A watch showed the latest text in this plan.
    is_watched: bool,
    /// Let go by an operator while it was used, with this text.
    pub(super) let_go: Option<Arc<Text>>,
    /// The text of the document's record in the shared memory, if the record says that it serves.
    recorded: Option<Good>,
}

/// What is known of the texts that a key had before its latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// All of them since the world before.
    Watched,
    /// Texts may have come and gone unseen.
    HasGap,
    /// The store's history was searched.
    Searched,
}

impl Choice {
    /// What is known of a document that did not change.
    fn of(record: &Record) -> Self {
        Self {
            full_key: Arc::clone(&record.status.full_key),
            latest: record.text.clone(),
            latest_good: record.latest.clone(),
            blocked: record.blocked.clone(),
            candidates: record.serving.clone().into_iter().collect(),
            kept: record.text.is_none(),
            past: Past::Watched,
            is_watched: false,
            let_go: None,
            recorded: record.unheeded.clone(),
        }
    }

    /// The text of the document's record, if another document keeps it from serving.
    pub(super) fn unheeded(&self) -> Option<&Good> {
        let is_blocked = self.blocked.is_some() && !self.is_quarantined();
        let recorded = self.recorded.as_ref().filter(|_| is_blocked)?;
        let is_better = self
            .serving()
            .is_none_or(|serving| is_later(&recorded.text, &serving.text));
        is_better.then_some(recorded)
    }

    pub(super) fn serving(&self) -> Option<&Good> {
        self.candidates.last()
    }

    /// Whether the latest text serves, and this plan saw the change to it.
    fn is_own_change(&self) -> bool {
        let serving = self.serving().map(|good| &good.text);
        self.is_watched && serving.is_some() && serving == self.latest.as_ref()
    }

    /// A better text turned up.
    fn on_text(&mut self, stored: &Stored, read: Result<Good, Rejection>) {
        self.full_key = Arc::clone(&stored.full_key);
        self.latest = Some(Arc::clone(&stored.text));
        self.kept = false;
        match read {
            Ok(good) => {
                self.blocked = None;
                self.latest_good = Some(good.clone());
                // A guard may put back the text that serves.
                self.candidates.retain(|candidate| candidate.text != good.text);
                self.candidates.push(good);
            }
            Err(rejection) => {
                self.blocked = Some(Blocked {
                    rejection,
                    contested: false,
                    by_proxies: false,
                    obstacle: None,
                });
                self.latest_good = None;
            }
        }
    }

    fn on_deleted(&mut self) {
        (self.latest, self.latest_good, self.blocked, self.kept) = (None, None, None, false);
        self.candidates.clear();
    }

    /// The best text cannot serve.
    fn on_fault(&mut self, fault: Fault) {
        let best = self.candidates.pop();
        if best.is_some_and(|good| {
            self.latest
                .as_ref()
                .is_some_and(|latest| Arc::ptr_eq(latest, &good.text))
        }) {
            self.blocked = Some(Blocked {
                rejection: fault.rejection,
                contested: true,
                by_proxies: false,
                obstacle: fault.obstacle,
            });
        }
    }

    /// Whether the latest text is good by itself and in another document's way.
    fn is_contested(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.contested)
    }

    /// Whether proxies refuse the latest text.
    fn is_quarantined(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.by_proxies)
    }

    /// What is in the way of the latest text, if that is known.
    fn obstacle(&self) -> Option<&Obstacle> {
        self.blocked.as_ref()?.obstacle.as_ref()
    }

    /// Whether the obstacle is still there.
    fn has_obstacle(&self, compiled: &Compiled) -> bool {
        let obstacle = self.obstacle().zip(self.latest_good.as_ref());
        obstacle.is_some_and(|(obstacle, good)| compiled.has_obstacle(&good.parsed.document, obstacle))
    }

    /// The latest text is in no other document's way any more.
    fn accept_latest(&mut self) {
        (self.candidates, self.blocked) = (self.latest_good.clone().into_iter().collect(), None);
    }

    /// Add a text that may serve if the latest cannot: one that served, or one of the store's history. Candidates stay
    /// in the order in which they were written.
    fn add_candidate(&mut self, good: Good) {
        let revision = good.text.mod_revision;
        let place = self
            .candidates
            .partition_point(|candidate| candidate.text.mod_revision < revision);
        if self
            .candidates
            .get(place)
            .is_none_or(|there| there.text.mod_revision != revision)
        {
            self.candidates.insert(place, good);
        }
    }

    /// A latest text that is good by itself serves, unless a record says that it does not.
    fn prefer_latest(&mut self) {
        let is_blocked = self.blocked.is_some();
        if let Some(latest) = self.latest_good.clone().filter(|_| is_blocked) {
            self.blocked = None;
            self.candidates.retain(|good| is_later(&latest.text, &good.text));
            self.candidates.push(latest);
        }
    }

    /// Follow the document's record in the shared memory. If the latest text cannot serve, the text of the record
    /// serves, and no older one that this replica happens to know.
    fn recall(&mut self, world: &World, key: &DocumentKey, record: &memory::Record) {
        let parsed_before = self.recorded.take();
        let text = match &record.content {
            Content::Serves(Some(text)) => text,
            Content::Serves(None) => return self.recall_contested(record.about),
            Content::LetGo(text) => return self.recall_release(key, text),
            Content::LostInstance(..) | Content::Refused(..) | Content::Hold { .. } => return,
        };
        // A guard puts back the text that the record names: what serves as last good text elsewhere is the latest here.
        if self.latest.as_ref().is_some_and(|latest| latest == text) {
            self.recorded.clone_from(&self.latest_good);
            return self.prefer_latest();
        }
        let concerns = match &self.latest {
            // The record may say that the latest text, good by itself, conflicts with another document. A deleted
            // document does not serve again, except a cluster in use.
            Some(latest) => {
                let is_of_this_document = text.is_of_one_life(latest) || key.stays_while_used();
                let is_bad = self.blocked.is_some() && self.latest_good.is_none();
                (is_bad || latest.mod_revision == record.about) && is_of_this_document && is_later(latest, text)
            }
            // An operator let the cluster go here, and another replica wrote its record meanwhile.
            None => key.stays_while_used() && world.released.get(key).is_none_or(|let_go| is_later(text, let_go)),
        };

        if !concerns {
            return;
        }
        let known = parsed_before.filter(|good| good.text == *text);
        let Some(good) = known.or_else(|| read_text(world, key, text).ok()) else {
            return;
        };
        let latest = self.latest.as_ref().map(|latest| latest.mod_revision);
        self.candidates
            .retain(|candidate| is_later(&candidate.text, text) && Some(candidate.text.mod_revision) != latest);
        self.add_candidate(good.clone());

        match latest {
            None => self.kept = true,
            Some(_) if self.blocked.is_none() => self.blocked = Some(contested_elsewhere()),
            Some(_) => {}
        }
        self.recorded = Some(good);
    }

    /// A guard holds the key, and the text that it keeps is bad: the record names the text that serves instead.
    fn recall_held(&mut self, world: &World, key: &DocumentKey, record: &memory::Record) {
        let is_earlier = |text: &&Arc<Text>| self.latest.as_ref().is_some_and(|latest| is_later(latest, text));
        if let Some(text) = record.text().filter(is_earlier)
            && self.blocked.as_ref().is_some_and(|blocked| !blocked.contested)
            && let Ok(good) = read_text(world, key, text)
        {
            self.candidates.retain(|candidate| is_later(&candidate.text, text));
            self.add_candidate(good);
        }
    }

    /// An operator released the cluster.
    fn recall_release(&mut self, key: &DocumentKey, text: &Arc<Text>) {
        if self.is_deleted_cluster(key) && self.serving().is_some_and(|good| !is_later(&good.text, text)) {
            (self.candidates, self.kept) = (Vec::new(), false);
            self.let_go = Some(Arc::clone(text));
        }
    }

    /// Another replica found the latest text in the way of another document, and knows none before it.
    fn recall_contested(&mut self, about: i64) {
        let is_meant = self.latest.as_ref().is_some_and(|latest| latest.mod_revision == about);
        if is_meant && self.blocked.is_none() {
            self.candidates.retain(|good| good.text.mod_revision < about);
            self.blocked = Some(contested_elsewhere());
        }
    }

    /// Whether the document is deleted, and stays while others name it.
    fn is_deleted_cluster(&self, key: &DocumentKey) -> bool {
        key.stays_while_used() && self.latest.is_none()
    }
}

/// Until it is tried here.
fn contested_elsewhere() -> Blocked {
    Blocked {
        rejection: Rejection::new("", "cannot serve beside the other documents; expected no conflict"),
        contested: true,
        by_proxies: false,
        obstacle: None,
    }
}

fn is_later(text: &Text, other: &Text) -> bool {
    text.mod_revision > other.mod_revision
}

/// What may serve for every key that changed.
#[derive(Debug, Default)]
pub(super) struct Choices {
    by_key: BTreeMap<DocumentKey, Choice>,
    /// Good texts of the store's history, oldest first.
    found: BTreeMap<DocumentKey, Vec<Good>>,
}

impl Choices {
    /// Read what stands at the keys that changed, and let the sources' guards keep instances that went.
    pub(super) fn read(intake: &mut Intake) -> Self {
        let mut choices = Self::default();
        let history = std::mem::take(&mut intake.history);
        for (key, texts) in &history {
            let choice = read_texts(
                &intake.world,
                key,
                texts,
                intake.gaps.contains(key),
                intake.stale.contains(key),
            );
            choices.by_key.extend(choice.map(|choice| (key.clone(), choice)));
        }
        for (key, texts) in std::mem::take(&mut intake.found) {
            choices.read_found(&intake.world, &key, &texts);
        }
        choices.recall(intake);
        choices.follow_quarantine(&intake.world);
        choices.keep_instances(intake);
        choices
    }

    /// Texts that were looked for in the store's history.
    fn read_found(&mut self, world: &World, key: &DocumentKey, texts: &[Arc<Text>]) {
        let Some(record) = world.records.get(key).filter(|record| record.searching) else {
            return;
        };
        let choice = self.by_key.entry(key.clone()).or_insert_with(|| Choice::of(record));
        choice.past = Past::Searched;
        let Some(latest) = choice.latest.clone() else { return };
        let of_this_document = texts
            .iter()
            .filter(|text| text.is_of_one_life(&latest) && is_later(&latest, text));
        let found = of_this_document.filter_map(|text| read_text(world, key, text).ok());
        self.found.insert(key.clone(), found.collect());
    }

    /// The shared memory has the word on what serves in place of a latest text.
    fn recall(&mut self, intake: &Intake) {
        // A text that could not serve beside another one may serve beside the text that is there now.
        let kinds: BTreeSet<Kind> = self.by_key.keys().chain(&intake.recalled).map(|key| key.kind).collect();
        let unheeded = intake.world.unheeded.iter().filter(|_| !kinds.is_empty());
        let unheeded = unheeded.filter(|key| fallback::may_open(key, &kinds));
        for key in intake.recalled.iter().chain(unheeded) {
            let full_key = || intake.world.options.layout.full_key(key).into();
            self.by_key
                .entry(key.clone())
                .or_insert_with(|| match intake.world.records.get(key) {
                    Some(record) => Choice::of(record),
                    None => deleted(&full_key()),
                });
        }
        for (key, choice) in &mut self.by_key {
            // The quarantine is followed afterwards. If the record about a conflict is gone, all replicas decide anew.
            if choice.is_quarantined() || intake.forgotten.contains(key) {
                choice.prefer_latest();
            }
            let known = intake.world.memory.last_good(&choice.full_key);
            let known = known.filter(|known| !known.is_outdated);
            match known {
                Some(known) => choice.recall(&intake.world, key, &known.record),
                None => choice.recorded = None,
            }
            if intake.world.roots.values().any(|root| root.held_key(key).is_some())
                && let Some(known) = intake.world.memory.held(&choice.full_key)
            {
                choice.recall_held(&intake.world, key, &known.record);
            }
        }
    }
}

impl Choices {
    /// The quarantine has the word on texts that proxies refuse.
    fn follow_quarantine(&mut self, world: &World) {
        for (key, choice) in &mut self.by_key {
            let Some(latest) = choice.latest.clone() else { continue };
            match quarantine::of_text(world, &choice.full_key, &latest) {
                Some((text, quarantine)) if !quarantine.is_accepted => {
                    let known = |text: &Arc<Text>| {
                        let is_it = |good: &&Good| good.text == *text;
                        choice.candidates.iter().find(is_it).cloned()
                    };
                    let read = |text: &Arc<Text>| known(text).or_else(|| read_text(world, key, text).ok());
                    choice.candidates = text.and_then(read).into_iter().collect();
                    if choice
                        .blocked
                        .as_ref()
                        .is_none_or(|blocked| blocked.contested || blocked.by_proxies)
                    {
                        choice.blocked = Some(Blocked {
                            rejection: Rejection::new("", &*quarantine.reason),
                            contested: false,
                            by_proxies: true,
                            obstacle: None,
                        });
                    }
                }
                _ => {}
            }
        }
    }
}

fn deleted(full_key: &Arc<str>) -> Choice {
    Choice {
        full_key: Arc::clone(full_key),
        latest: None,
        latest_good: None,
        blocked: None,
        candidates: Vec::new(),
        kept: false,
        past: Past::Watched,
        is_watched: false,
        let_go: None,
        recorded: None,
    }
}

/// From the texts that a key had since the world before to what may serve for it. `is_stale`: the same text may mean
/// something else now, because it names files. `None` when nothing was or is there.
fn read_texts(
    world: &World,
    key: &DocumentKey,
    texts: &[Option<Stored>],
    has_gap: bool,
    is_stale: bool,
) -> Option<Choice> {
    let record = world.records.get(key);
    let mut choice = match (record, texts.iter().flatten().next()) {
        (Some(record), _) => Choice::of(record),
        (None, Some(stored)) => deleted(&stored.full_key),
        (None, None) => return None,
    };

    choice.past = if has_gap { Past::HasGap } else { Past::Watched };
    choice.is_watched = !has_gap;
    for stored in texts {
        // Deleted and written anew, unseen.
        let is_new_life = |good: &Good| {
            stored
                .as_ref()
                .is_some_and(|stored| !stored.text.is_of_one_life(&good.text))
        };
        if (has_gap || !key.stays_while_used()) && choice.serving().is_some_and(is_new_life) {
            choice.on_deleted();
        }
        match stored {
            None => choice.on_deleted(),
            Some(stored) => {
                // Another replica's hold moved the key back: texts that were written later do not serve.
                if world.roots.values().any(|root| root.held_key(key).is_some()) {
                    choice.candidates.retain(|good| !is_later(&good.text, &stored.text));
                }
                let again = record
                    .filter(|_| !is_stale)
                    .and_then(|record| read_again(record, stored));
                choice.on_text(stored, again.unwrap_or_else(|| read_text(world, key, &stored.text)));
            }
        }
    }
    Some(choice)
}

/// An equal value under another revision is not parsed again.
fn read_again(record: &Record, stored: &Stored) -> Option<Result<Good, Rejection>> {
    if record.text.as_ref()?.value != stored.text.value {
        return None;
    }
    match (&record.latest, &record.blocked) {
        (Some(good), _) => Some(Ok(Good {
            text: Arc::clone(&stored.text),
            parsed: good.parsed.clone(),
        })),
        (None, blocked) => blocked.as_ref().map(|blocked| Err(blocked.rejection.clone())),
    }
}

fn read_text(world: &World, key: &DocumentKey, text: &Arc<Text>) -> Result<Good, Rejection> {
    let limits = Limits {
        re2_max_program_size: world.options.re2_max_program_size,
    };
    let parsed: Result<Parsed, Rejection> = catch_unwind(AssertUnwindSafe(|| {
        document::parse_with(key, &text.value, &limits, &world.options.vault)
    }))
    .unwrap_or_else(|_| {
        Err(Rejection::new(
            "",
            "found a text that the parser failed on, which is a fault of the server; expected a document",
        ))
    });
    parsed.map(|parsed| Good {
        text: Arc::clone(text),
        parsed,
    })
}
