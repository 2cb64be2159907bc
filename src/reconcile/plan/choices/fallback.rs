//! Which texts serve together.
//!
//! 1. Compile the changed documents. A document at fault falls back to its good text before; repeat until none is.
//! 2. Drop deleted clusters that no document uses, or that an operator released.
//! 3. Try contested documents again: latest texts that are good by themselves and conflicted with others.
//! 4. Try texts that were found in the store's history, the latest first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Choice, Choices, Intake, is_later};
use crate::document::key::{DocumentKey, Kind};
use crate::reconcile::text::Good;
use crate::reconcile::world::World;
use crate::resource::compile::{Accepted, Compiled, Edit, Fault, Step, Touched};

/// How often the documents that are at fault are left out before the others are tried one by one.
const ROUNDS_TOGETHER: usize = 16;

/// The serving text.
#[derive(Debug)]
pub(in crate::reconcile::plan) struct Decision {
    /// Every document whose text or serving text changed.
    pub(in crate::reconcile::plan) choices: BTreeMap<DocumentKey, Choice>,
    pub(in crate::reconcile::plan) compiled: Compiled,
    pub(in crate::reconcile::plan) touched: Touched,
    pub(in crate::reconcile::plan) affected: BTreeSet<DocumentKey>,
}

impl Choices {
    /// Compile until nothing is at fault.
    pub(in crate::reconcile::plan) fn decide(mut self, intake: &Intake) -> Decision {
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

    /// Compile what changed, except clusters that are deleted now: their users are known afterwards. Returns whether
    /// the change can end a conflict.
    fn compile(&mut self, world: &World, decision: &mut Decision) -> bool {
        loop {
            let changed = self
                .by_key
                .iter()
                .filter(|(key, choice)| !choice.is_deleted_cluster(key) || choice.kept);
            let edits: Vec<Edit> = changed.map(|(key, choice)| edit_of(key, choice.serving())).collect();
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

            // Another document of the same cluster takes over, unless it vanishes too.
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
                    // The document needs a cluster that vanishes.
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
            .filter_map(|key| Some(edit_of(key, self.by_key.get(key)?.serving())))
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
        let is_changed = |key: &&DocumentKey| world.compiled.accepted(key) != decision.compiled.accepted(key);
        let changed: BTreeSet<Kind> = self.by_key.keys().filter(is_changed).map(|key| key.kind).collect();
        let mut contested: BTreeMap<DocumentKey, Choice> = world
            .contested
            .iter()
            .filter(|key| may_open(key, &changed))
            .filter_map(|key| Some((key.clone(), Choice::of(world.records.get(key)?))))
            .collect();

        contested.extend(self.by_key.iter().map(|(key, choice)| (key.clone(), choice.clone())));
        contested.retain(|_, choice| refused(choice));
        let mut contested: Vec<(DocumentKey, Choice)> = contested.into_iter().collect();
        contested.sort_by_key(age);

        let contested = self.try_together(contested, decision);
        for (key, mut choice) in contested {
            let Some(good) = choice.latest_good.clone() else {
                continue;
            };
            match decision.compiled.apply(vec![edit_of(&key, Some(&good))]) {
                Ok(step) => {
                    decision.advance(step);
                    (choice.candidates, choice.blocked) = (vec![good], None);
                    self.by_key.insert(key, choice);
                }
                // A document that another replica found to be contested is contested here for a reason of its own.
                Err(faults) => {
                    let known = self.by_key.get_mut(&key).and_then(|choice| choice.blocked.as_mut());
                    let own = |faults: Vec<Fault>| faults.into_iter().find(|fault| fault.key == key);
                    // An older text than the one in its way: the fault is the other's, until this one counts as the
                    // newest.
                    let as_newest = || own(decision.compiled.apply(vec![newest(&key, &good)]).err()?);
                    if let Some(blocked) = known
                        && let Some(fault) = own(faults).or_else(as_newest)
                    {
                        blocked.rejection = fault.rejection;
                    }
                }
            }
        }
    }

    /// Try all contested documents together: two listeners that swap their addresses conflict with each other's earlier
    /// texts only. Returns those that still conflict.
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
            let edits = contested
                .iter()
                .filter_map(|(key, choice)| Some(edit_of(key, Some(choice.latest_good.as_ref()?))));
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
        left_out.sort_by_key(age);
        left_out
    }

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
                if let Ok(step) = decision.compiled.apply(vec![edit_of(&key, Some(&good))]) {
                    decision.advance(step);
                    choice.candidates = vec![good];
                    break;
                }
            }
        }
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

/// Whether changes of documents of these kinds can let a contested document serve.
fn may_open(key: &DocumentKey, changed: &BTreeSet<Kind>) -> bool {
    changed.iter().any(|kind| match (key.kind, kind) {
        // No conflict has to do with a registration, and the address of a listener with no route or cluster.
        (_, Kind::Services) | (Kind::Listeners, Kind::Routes | Kind::Clusters) => false,
        // A route can only shadow the endpoints of its own cluster.
        (Kind::Xds, Kind::Routes) => key.name.starts_with("endpoints/"),
        _ => true,
    })
}

fn edit_of(key: &DocumentKey, serving: Option<&Good>) -> Edit {
    let accepted = serving.map(|good| Accepted {
        document: Arc::clone(&good.parsed.document),
        create_revision: good.text.create_revision,
        mod_revision: good.text.mod_revision,
    });
    Edit {
        key: key.clone(),
        accepted,
    }
}

/// The same text as if it had been written last.
fn newest(key: &DocumentKey, good: &Good) -> Edit {
    let mut edit = edit_of(key, Some(good));
    if let Some(accepted) = &mut edit.accepted {
        (accepted.create_revision, accepted.mod_revision) = (i64::MAX, i64::MAX);
    }
    edit
}

/// Sorts the oldest latest text first.
fn age((key, choice): &(DocumentKey, Choice)) -> (Option<i64>, DocumentKey) {
    (choice.latest.as_ref().map(|text| text.mod_revision), key.clone())
}
