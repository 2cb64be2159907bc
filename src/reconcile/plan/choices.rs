//! Step 2: for each document, the latest text that can serve beside all others.
//!
//! Texts are parsed here, when they are new. The documents are compiled together; one that is at fault falls back to the
//! good text before, and it is tried again, until nothing is at fault. Then clusters that were deleted and are still used
//! are kept, and documents that others kept from serving get another chance.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::intake::Intake;
use crate::document::key::{DocumentKey, Kind};
use crate::document::{self, Document, Limits, Parsed, Rejection};
use crate::reconcile::hold::LostInstance;
use crate::reconcile::world::{Good, Record, Refusal, Stored, Text, World};
use crate::resource::compile::{Accepted, Address, Compiled, Edit, Fault, Step, Touched, address};

/// What may serve for one key.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) full_key: Arc<str>,
    /// What stands at the key; `None`: it is deleted.
    pub(super) latest: Option<Arc<Text>>,
    /// The same as a document, when it is one.
    pub(super) latest_good: Option<Good>,
    /// Why the latest does not serve.
    pub(super) refusal: Option<Refusal>,
    /// Good texts that may serve, the best last.
    candidates: Vec<Good>,
    /// Deleted, and serving nevertheless.
    pub(super) kept: bool,
}

impl Choice {
    /// What is known of a document that did not change.
    fn of(record: &Record) -> Self {
        Self {
            full_key: Arc::clone(&record.status.full_key),
            latest: record.text.clone(),
            latest_good: record.latest.clone(),
            refusal: record.refusal.clone(),
            candidates: record.serving.clone().into_iter().collect(),
            kept: record.text.is_none(),
        }
    }

    pub(super) fn serving(&self) -> Option<&Good> {
        self.candidates.last()
    }

    fn edit(&self, key: &DocumentKey) -> Edit {
        Edit {
            key: key.clone(),
            accepted: self.serving().map(accepted),
        }
    }

    /// A better text turned up.
    fn on_text(&mut self, stored: &Stored, read: Result<Good, Rejection>) {
        self.full_key = Arc::clone(&stored.full_key);
        self.latest = Some(Arc::clone(&stored.text));
        self.kept = false;
        match read {
            Ok(good) => {
                self.refusal = None;
                self.latest_good = Some(good.clone());
                self.candidates.push(good);
            }
            Err(rejection) => {
                self.refusal = Some(Refusal {
                    rejection,
                    contested: false,
                });
                self.latest_good = None;
            }
        }
    }

    fn on_deleted(&mut self) {
        (self.latest, self.latest_good, self.refusal, self.kept) = (None, None, None, false);
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
            self.refusal = Some(Refusal {
                rejection: fault.rejection,
                contested: true,
            });
        }
    }

    fn is_deleted_cluster(&self, key: &DocumentKey) -> bool {
        key.cluster().is_some() && self.latest.is_none()
    }
}

fn accepted(good: &Good) -> Accepted {
    Accepted {
        document: Arc::clone(&good.parsed.document),
        create_revision: good.text.create_revision,
        mod_revision: good.text.mod_revision,
    }
}

/// What may serve for every key that changed.
#[derive(Debug, Default)]
pub(super) struct Choices {
    by_key: BTreeMap<DocumentKey, Choice>,
}

/// What serves.
#[derive(Debug)]
pub(super) struct Decision {
    /// Every document whose text or serving text changed.
    pub(super) choices: BTreeMap<DocumentKey, Choice>,
    pub(super) compiled: Compiled,
    pub(super) touched: Touched,
    pub(super) concerned: BTreeSet<DocumentKey>,
}

impl Choices {
    /// Read what stands at the keys that changed, and let the sources' guards keep instances that went.
    pub(super) fn read(intake: &mut Intake) -> Self {
        let mut choices = Self::default();
        let history = std::mem::take(&mut intake.history);
        for (key, texts) in &history {
            let choice = read_texts(&intake.world, key, texts);
            choices.by_key.extend(choice.map(|choice| (key.clone(), choice)));
        }
        for (key, text) in std::mem::take(&mut intake.last_good) {
            choices.read_last_good(&intake.world, &key, text);
        }
        choices.keep_instances(intake);
        choices
    }

    /// The text that was looked for serves if nothing of the document does; for a cluster that is not there, as one that was
    /// deleted while it was used.
    fn read_last_good(&mut self, world: &World, key: &DocumentKey, text: Option<Arc<Text>>) {
        let Some(good) = text.and_then(|text| read_text(world, key, &text).ok()) else {
            return;
        };
        let full_key = || world.options.layout.full_key(key).into();
        let choice = self
            .by_key
            .entry(key.clone())
            .or_insert_with(|| match world.records.get(key) {
                Some(record) => Choice::of(record),
                None => deleted(&full_key()),
            });
        if choice.serving().is_some() {
            return;
        }
        if choice.is_deleted_cluster(key) {
            (choice.candidates, choice.kept) = (vec![good], true);
        } else if choice.refusal.is_some() {
            choice.candidates.push(good);
            choice.candidates.extend(choice.latest_good.clone());
        }
    }

    /// Instances whose key is gone: those that went with too many others are kept for a while.
    fn keep_instances(&mut self, intake: &mut Intake) {
        let mut clusters: BTreeSet<Arc<str>> = intake.world.sources.keys().cloned().collect();
        for (key, lost) in self.lost_instances(intake) {
            let cluster: Arc<str> = key.first_segment().into();
            let mut source = intake.world.sources.get(&cluster).cloned().unwrap_or_default();
            source.lost.retain(|earlier| earlier.key != key);
            source.lost.push(lost);
            intake.world.sources.insert(Arc::clone(&cluster), source);
            clusters.insert(cluster);
        }
        for cluster in clusters {
            let Some(mut source) = intake.world.sources.get(&cluster).cloned() else {
                continue;
            };
            let live = self.live_addresses(&intake.world, &cluster);
            let is_back = |key: &DocumentKey| self.by_key.get(key).is_some_and(|choice| choice.latest.is_some());
            let released = |lost: &LostInstance| intake.released.contains(&lost.full_key);
            let let_go = source.settle(&live, is_back, released, intake.moment.instant);
            for lost in let_go {
                self.by_key
                    .entry(lost.key.clone())
                    .or_insert_with(|| deleted(&lost.full_key))
                    .on_deleted();
            }
            for lost in source.lost.iter().filter(|lost| lost.kept) {
                let choice = self
                    .by_key
                    .entry(lost.key.clone())
                    .or_insert_with(|| deleted(&lost.full_key));
                (choice.candidates, choice.kept) = (vec![lost.good.clone()], true);
            }
            if source.lost.is_empty() {
                intake.world.sources.remove(&cluster);
            } else {
                intake.world.sources.insert(cluster, source);
            }
        }
    }

    fn lost_instances(&self, intake: &Intake) -> Vec<(DocumentKey, LostInstance)> {
        let services = self
            .by_key
            .iter()
            .filter(|(key, choice)| key.kind == Kind::Services && choice.latest.is_none());
        let lost = services.filter_map(|(key, choice)| {
            let good = intake.world.records.get(key)?.serving.clone()?;
            let lost = LostInstance {
                key: key.clone(),
                full_key: Arc::clone(&choice.full_key),
                address: registered_address(&good.parsed.document)?,
                good,
                at: intake.moment.instant,
                kept: false,
            };
            Some((key.clone(), lost))
        });
        lost.collect()
    }

    /// Where a cluster's instances listen whose keys are there.
    fn live_addresses(&self, world: &World, cluster: &str) -> BTreeSet<Address> {
        let is_there = |key: &DocumentKey| {
            !self.by_key.contains_key(key) && world.records.get(key).is_some_and(|record| record.text.is_some())
        };
        let unchanged = world.compiled.registrations(cluster).filter(|(key, _)| is_there(key));
        let mut live: BTreeSet<Address> = unchanged.map(|(_, address)| address.clone()).collect();
        let first = DocumentKey::new(Kind::Services, format!("{cluster}/"));
        let changed = self
            .by_key
            .range(first..)
            .take_while(|(key, _)| key.first_segment() == cluster);
        let there = changed.filter(|(key, choice)| key.kind == Kind::Services && choice.latest.is_some());
        live.extend(there.filter_map(|(_, choice)| registered_address(&choice.serving()?.parsed.document)));
        live
    }

    /// Compile until nothing is at fault.
    pub(super) fn decide(mut self, intake: &Intake) -> Decision {
        let mut decision = Decision {
            choices: BTreeMap::new(),
            compiled: intake.world.compiled.clone(),
            touched: Touched::new(),
            concerned: BTreeSet::new(),
        };
        let changed_others = self.compile(&intake.world, &mut decision);
        self.bury_clusters(intake, &mut decision);
        if changed_others {
            self.try_contested(&intake.world, &mut decision);
        }
        decision.choices = self.by_key;
        decision
    }

    /// All that changed, but for clusters that are gone: whether they are still used is known afterwards. Returns whether
    /// anything was compiled that another document could have been in the way of.
    fn compile(&mut self, world: &World, decision: &mut Decision) -> bool {
        loop {
            let changed = self
                .by_key
                .iter()
                .filter(|(key, choice)| !choice.is_deleted_cluster(key));
            let edits: Vec<Edit> = changed.map(|(key, choice)| choice.edit(key)).collect();
            let opens = edits.iter().any(|edit| edit.key.kind != Kind::Services);
            if edits.is_empty() && decision.compiled.groups().next().is_some() {
                return false;
            }
            match decision.compiled.apply(edits) {
                Ok(step) => {
                    decision.advance(step);
                    return opens;
                }
                Err(faults) => faults.into_iter().for_each(|fault| self.on_fault(world, fault)),
            }
        }
    }

    fn on_fault(&mut self, world: &World, fault: Fault) {
        let known = || world.records.get(&fault.key).map(|record| Choice::of(record));
        if !self.by_key.contains_key(&fault.key) {
            self.by_key.extend(known().map(|choice| (fault.key.clone(), choice)));
        }
        if let Some(choice) = self.by_key.get_mut(&fault.key) {
            choice.on_fault(fault);
        }
    }

    /// Deleted clusters go when nothing uses them, or when an operator says so.
    fn bury_clusters(&mut self, intake: &Intake, decision: &mut Decision) {
        let world = &intake.world;
        let deleted = self
            .by_key
            .iter()
            .filter(|(key, choice)| choice.is_deleted_cluster(key));
        let mut keys: BTreeSet<DocumentKey> = deleted.map(|(key, _)| key.clone()).collect();
        keys.extend(
            world
                .tombstones
                .iter()
                .filter(|key| !self.by_key.contains_key(*key))
                .cloned(),
        );
        for key in &keys {
            let found = self.by_key.get(key).filter(|choice| choice.kept).cloned();
            let Some(mut choice) = found.or_else(|| Some(Choice::of(world.records.get(key)?))) else {
                continue;
            };
            (choice.latest, choice.latest_good, choice.refusal) = (None, None, None);
            // Another document of the same cluster takes over, unless it goes too.
            let namesake = decision
                .compiled
                .namesake(key)
                .filter(|other| !keys.contains(other) || key > other);
            let used = |good: &Good| {
                let cluster = key.cluster().unwrap_or_default();
                namesake.is_none() && !decision.compiled.users_of(cluster, &good.parsed.document).is_empty()
            };
            choice.kept = choice.serving().is_some_and(used) && !intake.released.contains(&choice.full_key);
            if !choice.kept {
                choice.candidates.clear();
            }
            self.by_key.insert(key.clone(), choice);
        }
        // A text that was saved may be bad by now; each round takes one text out at least.
        for _ in 0..=keys.len() + world.records.len() {
            let Err(faults) = self.compile_keys(&keys, decision) else {
                break;
            };
            for fault in faults {
                match self
                    .by_key
                    .get_mut(&fault.key)
                    .filter(|choice| choice.is_deleted_cluster(&fault.key))
                {
                    Some(choice) => (choice.kept, choice.candidates) = (false, Vec::new()),
                    // It cannot be without a cluster that goes.
                    None => {
                        keys.insert(fault.key.clone());
                        self.on_fault(world, fault);
                    }
                }
            }
        }
    }

    fn compile_keys(&self, keys: &BTreeSet<DocumentKey>, decision: &mut Decision) -> Result<(), Vec<Fault>> {
        let edits: Vec<Edit> = keys
            .iter()
            .filter_map(|key| Some(self.by_key.get(key)?.edit(key)))
            .collect();
        if !edits.is_empty() {
            let step = decision.compiled.apply(edits)?;
            decision.advance(step);
        }
        Ok(())
    }

    /// Documents that are good by themselves, oldest text first: whoever is not in the way any more lets them serve.
    fn try_contested(&mut self, world: &World, decision: &mut Decision) {
        let refused = |choice: &Choice| choice.refusal.as_ref().is_some_and(|refusal| refusal.contested);
        let mut contested: BTreeMap<DocumentKey, Choice> = world
            .contested
            .iter()
            .filter_map(|key| Some((key.clone(), Choice::of(world.records.get(key)?))))
            .collect();
        contested.extend(self.by_key.iter().map(|(key, choice)| (key.clone(), choice.clone())));
        contested.retain(|_, choice| refused(choice));
        let mut contested: Vec<(DocumentKey, Choice)> = contested.into_iter().collect();
        contested.sort_by_key(|(key, choice)| (choice.latest.as_ref().map(|text| text.mod_revision), key.clone()));
        for (key, mut choice) in contested {
            let Some(good) = choice.latest_good.clone() else {
                continue;
            };
            let edit = Edit {
                key: key.clone(),
                accepted: Some(accepted(&good)),
            };
            if let Ok(step) = decision.compiled.apply(vec![edit]) {
                decision.advance(step);
                (choice.candidates, choice.refusal) = (vec![good], None);
                self.by_key.insert(key, choice);
            }
        }
    }
}

impl Decision {
    fn advance(&mut self, step: Step) {
        let Step {
            compiled,
            touched,
            concerned,
        } = step;
        self.compiled = compiled;
        self.concerned.extend(concerned);
        for (group, resources) in touched {
            self.touched.entry(group).or_default().extend(resources);
        }
    }
}

fn deleted(full_key: &Arc<str>) -> Choice {
    Choice {
        full_key: Arc::clone(full_key),
        latest: None,
        latest_good: None,
        refusal: None,
        candidates: Vec::new(),
        kept: false,
    }
}

/// From the texts that a key had since the world before to what may serve for it. `None` when nothing was or is there.
fn read_texts(world: &World, key: &DocumentKey, texts: &[Option<Stored>]) -> Option<Choice> {
    let record = world.records.get(key);
    let mut choice = match (record, texts.iter().flatten().next()) {
        (Some(record), _) => Choice::of(record),
        (None, Some(stored)) => deleted(&stored.full_key),
        (None, None) => return None,
    };
    for stored in texts {
        match stored {
            None => choice.on_deleted(),
            Some(stored) => {
                let again = record.and_then(|record| read_again(record, stored));
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
    match (&record.latest, &record.refusal) {
        (Some(good), _) => Some(Ok(Good {
            text: Arc::clone(&stored.text),
            parsed: good.parsed.clone(),
        })),
        (None, refusal) => refusal.as_ref().map(|refusal| Err(refusal.rejection.clone())),
    }
}

fn read_text(world: &World, key: &DocumentKey, text: &Arc<Text>) -> Result<Good, Rejection> {
    let limits = Limits {
        re2_max_program_size: world.options.re2_max_program_size,
    };
    let parsed: Result<Parsed, Rejection> =
        catch_unwind(AssertUnwindSafe(|| document::parse(key, &text.value, &limits))).unwrap_or_else(|_| {
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

fn registered_address(document: &Document) -> Option<Address> {
    match document {
        Document::Endpoint(registration) => Some(address(&registration.endpoint)),
        _ => None,
    }
}
