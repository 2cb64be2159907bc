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
use crate::reconcile::hold::{KEPT_FOR, LostInstance};
use crate::reconcile::memory;
use crate::reconcile::text::{Good, Stored};
use crate::reconcile::world::{Blocked, Record, Text, World};
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
    pub(super) blocked: Option<Blocked>,
    /// Good texts that may serve, the best last.
    candidates: Vec<Good>,
    /// Deleted, and serving nevertheless.
    pub(super) kept: bool,
    /// Texts between the known one and the latest went unseen.
    pub(super) has_gap: bool,
    /// The store's history was searched.
    pub(super) found: bool,
    /// Let go by an operator while it was used, with this text.
    pub(super) let_go: Option<Arc<Text>>,
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
            has_gap: false,
            found: false,
            let_go: None,
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
                self.blocked = None;
                self.latest_good = Some(good.clone());
                self.candidates.push(good);
            }
            Err(rejection) => {
                self.blocked = Some(Blocked {
                    rejection,
                    contested: false,
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
            });
        }
    }

    /// A text that served, or that the store's history has: it may serve if the latest cannot. Candidates stay in the order
    /// in which they were written.
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

    /// What the shared memory says of the document: the text of its record serves in place of a latest text that cannot, and
    /// older ones that this replica happens to know do not.
    fn recall(&mut self, world: &World, key: &DocumentKey, record: &memory::Record) {
        let Some(text) = &record.text else {
            return self.recall_contested(record.about);
        };
        if record.released {
            if self.is_deleted_cluster(key) && self.serving().is_some_and(|good| !is_later(&good.text, text)) {
                (self.candidates, self.kept) = (Vec::new(), false);
                self.let_go = Some(Arc::clone(text));
            }
            return;
        }
        let concerns = match &self.latest {
            // Another replica found that a text which is good by itself cannot serve beside the others. What was deleted is
            // not served again; a cluster lives on while it is used.
            Some(latest) => {
                let is_of_this_document = text.is_of_one_life(latest) || key.cluster().is_some();
                let is_behind = self.blocked.is_some() || latest.mod_revision == record.about;
                is_behind && is_of_this_document && is_later(latest, text)
            }
            // An operator let the cluster go here, and another replica wrote its record meanwhile.
            None => key.cluster().is_some() && world.released.get(key).is_none_or(|let_go| is_later(text, let_go)),
        };
        let Some(good) = Some(text)
            .filter(|_| concerns)
            .and_then(|text| read_text(world, key, text).ok())
        else {
            return;
        };
        let latest = self.latest.as_ref().map(|latest| latest.mod_revision);
        self.candidates
            .retain(|candidate| is_later(&candidate.text, text) && Some(candidate.text.mod_revision) != latest);
        self.add_candidate(good);
        match latest {
            None => self.kept = true,
            Some(_) if self.blocked.is_none() => self.blocked = Some(contested_elsewhere()),
            Some(_) => {}
        }
    }

    /// Another replica found the latest text in the way of another document, and knows none before it.
    fn recall_contested(&mut self, about: i64) {
        let is_meant = self.latest.as_ref().is_some_and(|latest| latest.mod_revision == about);
        if is_meant && self.blocked.is_none() {
            self.candidates.clear();
            self.blocked = Some(contested_elsewhere());
        }
    }

    fn is_deleted_cluster(&self, key: &DocumentKey) -> bool {
        key.cluster().is_some() && self.latest.is_none()
    }
}

/// Until it is tried here.
fn contested_elsewhere() -> Blocked {
    Blocked {
        rejection: Rejection::new("", "cannot serve beside the other documents; expected no conflict"),
        contested: true,
    }
}

fn is_later(text: &Text, other: &Text) -> bool {
    text.mod_revision > other.mod_revision
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
    /// Good texts of the store's history, oldest first.
    found: BTreeMap<DocumentKey, Vec<Good>>,
}

/// What serves.
#[derive(Debug)]
pub(super) struct Decision {
    /// Every document whose text or serving text changed.
    pub(super) choices: BTreeMap<DocumentKey, Choice>,
    pub(super) compiled: Compiled,
    pub(super) touched: Touched,
    pub(super) affected: BTreeSet<DocumentKey>,
}

impl Choices {
    /// Read what stands at the keys that changed, and let the sources' guards keep instances that went.
    pub(super) fn read(intake: &mut Intake) -> Self {
        let mut choices = Self::default();
        let history = std::mem::take(&mut intake.history);
        for (key, texts) in &history {
            let choice = read_texts(&intake.world, key, texts, intake.gaps.contains(key));
            choices.by_key.extend(choice.map(|choice| (key.clone(), choice)));
        }
        for (key, texts) in std::mem::take(&mut intake.found) {
            choices.read_found(&intake.world, &key, &texts);
        }
        choices.recall(intake);
        choices.keep_instances(intake);
        choices
    }

    /// Texts that were looked for in the store's history.
    fn read_found(&mut self, world: &World, key: &DocumentKey, texts: &[Arc<Text>]) {
        let Some(record) = world.records.get(key).filter(|record| record.searching) else {
            return;
        };
        let choice = self.by_key.entry(key.clone()).or_insert_with(|| Choice::of(record));
        choice.found = true;
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
        for key in intake.recalled.iter().chain(&intake.world.unheeded) {
            let full_key = || intake.world.options.layout.full_key(key).into();
            self.by_key
                .entry(key.clone())
                .or_insert_with(|| match intake.world.records.get(key) {
                    Some(record) => Choice::of(record),
                    None => deleted(&full_key()),
                });
        }
        for (key, choice) in &mut self.by_key {
            let known = intake.world.memory.last_good(&choice.full_key);
            if let Some(known) = known.filter(|known| !known.is_outdated) {
                choice.recall(&intake.world, key, &known.record);
            }
        }
    }

    /// Instances whose key is gone: those that went with too many others are kept for a while.
    fn keep_instances(&mut self, intake: &mut Intake) {
        let mut clusters: BTreeSet<Arc<str>> = intake.world.sources.keys().cloned().collect();
        let mut lost_instances = self.lost_instances(intake);
        lost_instances.extend(self.recalled_instances(intake));
        for (key, lost) in lost_instances {
            let cluster: Arc<str> = key.first_segment().into();
            let source = intake.world.sources.entry(Arc::clone(&cluster)).or_default();
            source.lost.retain(|earlier| earlier.key != key);
            source.lost.push(lost);
            clusters.insert(cluster);
        }
        for (cluster, address) in self.gained_addresses(intake) {
            let source = intake.world.sources.entry(Arc::clone(&cluster)).or_default();
            source.on_gained(address, intake.moment.instant);
            clusters.insert(cluster);
        }
        for cluster in clusters {
            self.keep_instances_of(intake, cluster);
        }
    }

    fn keep_instances_of(&mut self, intake: &mut Intake, cluster: Arc<str>) {
        let Some(mut source) = intake.world.sources.get(&cluster).cloned() else {
            return;
        };
        let live = self.live_addresses(&intake.world, &cluster);
        let is_back = |key: &DocumentKey| self.by_key.get(key).is_some_and(|choice| choice.latest.is_some());
        let is_released =
            |lost: &LostInstance| intake.released.contains(&lost.full_key) || is_let_go_elsewhere(intake, lost);
        let let_go = source.sort_out(&live, is_back, is_released, intake.moment.instant);
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
        if source.is_calm() {
            intake.world.sources.remove(&cluster);
        } else {
            intake.world.sources.insert(cluster, source);
        }
    }

    /// Addresses that register with a cluster which has instances, and which it did not have.
    fn gained_addresses(&self, intake: &Intake) -> Vec<(Arc<str>, Address)> {
        let world = &intake.world;
        let registered = self
            .by_key
            .iter()
            .filter(|(key, choice)| key.kind == Kind::Services && choice.latest.is_some());
        let gained = registered.filter_map(|(key, choice)| {
            let address = registered_address(&choice.serving()?.parsed.document)?;
            let cluster = key.first_segment();
            let lost = world.sources.get(cluster).map(|source| &source.lost);
            let mut known = world.compiled.registrations(cluster).peekable();
            let has_instances = known.peek().is_some() || lost.is_some();
            let is_known = known.any(|(_, earlier)| *earlier == address)
                || lost.is_some_and(|lost| lost.iter().any(|lost| lost.address == address));
            (has_instances && !is_known).then(|| (cluster.into(), address))
        });
        gained.collect()
    }

    /// Instances that another replica keeps, and whose keys are not there.
    fn recalled_instances(&self, intake: &Intake) -> Vec<(DocumentKey, LostInstance)> {
        let world = &intake.world;
        let kept = intake.recalled_instances.iter().filter_map(|key| {
            let full_key: Arc<str> = world.options.layout.full_key(key).into();
            let record = &world.memory.held(&full_key)?.record;
            if !record.is_lost_instance {
                return None;
            }
            let age = intake.moment.wall.duration_since(record.since).unwrap_or_default();
            let is_there = match self.by_key.get(key) {
                Some(choice) => choice.latest.is_some(),
                None => world.records.contains_key(key),
            };
            if is_there || record.released || age >= KEPT_FOR {
                return None;
            }
            let good = read_text(world, key, record.text.as_ref()?).ok()?;
            let lost = LostInstance {
                key: key.clone(),
                full_key,
                address: registered_address(&good.parsed.document)?,
                good,
                at: intake.moment.instant.checked_sub(age)?,
                since_wall: record.since,
                kept: true,
            };
            Some((key.clone(), lost))
        });
        kept.collect()
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
                since_wall: intake.moment.wall,
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
            affected: BTreeSet::new(),
        };
        let changed_others = self.compile(&intake.world, &mut decision);
        self.drop_unused_clusters(intake, &mut decision);
        if changed_others {
            self.try_contested(&intake.world, &mut decision);
        }
        self.try_found(&mut decision);
        decision.choices = self.by_key;
        decision
    }

    /// All that changed, but for clusters that went now: whether they are still used is known afterwards. Returns whether
    /// anything was compiled that another document could have been in the way of.
    fn compile(&mut self, world: &World, decision: &mut Decision) -> bool {
        loop {
            let changed = self
                .by_key
                .iter()
                .filter(|(key, choice)| !choice.is_deleted_cluster(key) || choice.kept);
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
    fn drop_unused_clusters(&mut self, intake: &Intake, decision: &mut Decision) {
        let world = &intake.world;
        let deleted = self
            .by_key
            .iter()
            .filter(|(key, choice)| choice.is_deleted_cluster(key));
        let mut keys: BTreeSet<DocumentKey> = deleted.map(|(key, _)| key.clone()).collect();
        keys.extend(
            world
                .kept_deleted
                .iter()
                .filter(|key| !self.by_key.contains_key(*key))
                .cloned(),
        );
        for key in &keys {
            let found = self.by_key.get(key);
            let found = found.filter(|choice| choice.kept || choice.let_go.is_some()).cloned();
            let Some(mut choice) = found.or_else(|| Some(Choice::of(world.records.get(key)?))) else {
                continue;
            };
            (choice.latest, choice.latest_good, choice.blocked) = (None, None, None);
            // Another document of the same cluster takes over, unless it goes too.
            let namesake = decision
                .compiled
                .namesake(key)
                .filter(|other| !keys.contains(other) || key > other);
            let used = |good: &Good| {
                let cluster = key.cluster().unwrap_or_default();
                namesake.is_none() && !decision.compiled.users_of(cluster, &good.parsed.document).is_empty()
            };
            let is_used = choice.serving().is_some_and(used);
            let is_released = intake.released.contains(&choice.full_key);
            choice.kept = is_used && !is_released;
            if is_used && is_released {
                choice.let_go = choice.serving().map(|good| Arc::clone(&good.text));
            }
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
        let refused = |choice: &Choice| choice.blocked.as_ref().is_some_and(|blocked| blocked.contested);
        let mut contested: BTreeMap<DocumentKey, Choice> = world
            .contested
            .iter()
            .filter_map(|key| Some((key.clone(), Choice::of(world.records.get(key)?))))
            .collect();
        contested.extend(self.by_key.iter().map(|(key, choice)| (key.clone(), choice.clone())));
        contested.retain(|_, choice| refused(choice));
        let mut contested: Vec<(DocumentKey, Choice)> = contested.into_iter().collect();
        contested.sort_by_key(|(key, choice)| (choice.latest.as_ref().map(|text| text.mod_revision), key.clone()));
        let contested = self.try_together(contested, decision);
        for (key, mut choice) in contested {
            let Some(good) = choice.latest_good.clone() else {
                continue;
            };
            let edit = Edit {
                key: key.clone(),
                accepted: Some(accepted(&good)),
            };
            match decision.compiled.apply(vec![edit]) {
                Ok(step) => {
                    decision.advance(step);
                    (choice.candidates, choice.blocked) = (vec![good], None);
                    self.by_key.insert(key, choice);
                }
                // A document that another replica found to be contested is contested here for a reason of its own.
                Err(faults) => {
                    let known = self.by_key.get_mut(&key).and_then(|choice| choice.blocked.as_mut());
                    let own = faults.into_iter().find(|fault| fault.key == key);
                    if let Some((blocked, fault)) = known.zip(own) {
                        blocked.rejection = fault.rejection;
                    }
                }
            }
        }
    }
}

impl Choices {
    /// Texts of the store's history, the latest first: one that is in no other document's way serves.
    fn try_found(&mut self, decision: &mut Decision) {
        for (key, found) in std::mem::take(&mut self.found) {
            let Some(choice) = self.by_key.get_mut(&key).filter(|choice| choice.blocked.is_some()) else {
                continue;
            };
            let is_better = |good: &&Good| {
                choice
                    .serving()
                    .is_none_or(|serving| is_later(&good.text, &serving.text))
            };
            for good in found.iter().rev().take_while(is_better).cloned().collect::<Vec<_>>() {
                let edit = Edit {
                    key: key.clone(),
                    accepted: Some(accepted(&good)),
                };
                if let Ok(step) = decision.compiled.apply(vec![edit]) {
                    decision.advance(step);
                    choice.candidates = vec![good];
                    break;
                }
            }
        }
    }
}

/// How often the documents that are at fault are left out before the others are tried one by one.
const ROUNDS_TOGETHER: usize = 16;

impl Choices {
    /// Documents that are only in the way of each other's earlier texts, as two listeners that swap their addresses, serve
    /// together. Returns those that do not.
    fn try_together(
        &mut self,
        mut contested: Vec<(DocumentKey, Choice)>,
        decision: &mut Decision,
    ) -> Vec<(DocumentKey, Choice)> {
        let mut left_out = Vec::new();
        for _ in 0..ROUNDS_TOGETHER {
            if contested.len() < 2 {
                break;
            }
            let edits = contested.iter().filter_map(|(key, choice)| {
                Some(Edit {
                    key: key.clone(),
                    accepted: Some(accepted(choice.latest_good.as_ref()?)),
                })
            });
            match decision.compiled.apply(edits.collect()) {
                Ok(step) => {
                    decision.advance(step);
                    for (key, mut choice) in contested {
                        (choice.candidates, choice.blocked) = (choice.latest_good.clone().into_iter().collect(), None);
                        self.by_key.insert(key, choice);
                    }
                    return left_out;
                }
                Err(faults) => {
                    let at_fault = |key: &DocumentKey| faults.iter().any(|fault| fault.key == *key);
                    let (out, others): (Vec<_>, Vec<_>) = contested.into_iter().partition(|(key, _)| at_fault(key));
                    contested = others;
                    if out.is_empty() {
                        break;
                    }
                    left_out.extend(out);
                }
            }
        }
        left_out.extend(contested);
        left_out.sort_by_key(|(key, choice)| (choice.latest.as_ref().map(|text| text.mod_revision), key.clone()));
        left_out
    }
}

impl Decision {
    fn advance(&mut self, step: Step) {
        let Step {
            compiled,
            touched,
            affected,
        } = step;
        self.compiled = compiled;
        self.affected.extend(affected);
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
        blocked: None,
        candidates: Vec::new(),
        kept: false,
        has_gap: false,
        found: false,
        let_go: None,
    }
}

/// Whether the record of an instance that is kept here is gone from the shared memory: another replica let it go.
fn is_let_go_elsewhere(intake: &Intake, lost: &LostInstance) -> bool {
    let is_told = intake.recalled_instances.contains(&lost.key);
    is_told && intake.world.memory.held(&lost.full_key).is_none()
}

/// From the texts that a key had since the world before to what may serve for it. `None` when nothing was or is there.
fn read_texts(world: &World, key: &DocumentKey, texts: &[Option<Stored>], has_gap: bool) -> Option<Choice> {
    let record = world.records.get(key);
    let mut choice = match (record, texts.iter().flatten().next()) {
        (Some(record), _) => Choice::of(record),
        (None, Some(stored)) => deleted(&stored.full_key),
        (None, None) => return None,
    };
    choice.has_gap = has_gap;
    for stored in texts {
        // Deleted and written anew, unseen.
        let is_new_life = |good: &Good| {
            stored
                .as_ref()
                .is_some_and(|stored| !stored.text.is_of_one_life(&good.text))
        };
        if (has_gap || key.cluster().is_none()) && choice.serving().is_some_and(is_new_life) {
            choice.on_deleted();
        }
        match stored {
            None => choice.on_deleted(),
            Some(stored) => {
                // Another replica's hold moved the key back: texts that were written later do not serve.
                if world.roots.values().any(|root| root.held_key(key).is_some()) {
                    choice.candidates.retain(|good| !is_later(&good.text, &stored.text));
                }
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
