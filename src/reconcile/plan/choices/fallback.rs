//! Which texts serve together.
//!
//! 1. Compile the changed documents. A document at fault falls back to its good text before, until none is at fault.
//! 2. Drop deleted clusters, and other documents that may be named, that no document uses, or that an operator released.
//! 3. Try contested documents again: latest texts that are good by themselves and conflicted with others.
//! 4. Try earlier texts, the latest first: those that were found in the store's history, and those of records that did not
//!    serve in step 1. There, a text may have been in the way that serves no more: a document that falls back has the
//!    address of its earlier text until step 3 finds that its latest text can serve.
//!
//! Each step costs n log n for n texts, whatever their conflicts: a [`Stage`] looks again only at documents that a fallback
//! concerns, and a group of documents that cannot serve together is halved, not tried one by one against all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Choice, Choices, Intake, is_later};
use crate::document::key::{DocumentKey, Kind};
use crate::document::{listener, xds};
use crate::reconcile::text::Good;
use crate::reconcile::world::World;
use crate::resource::ResourceType;
use crate::resource::compile::{Accepted, Compiled, Edit, Fault, Obstacle, Stage, Step, Touched, describing};

/// How often documents that were left out are tried together again, before they are tried in halves.
const ROUNDS_TOGETHER: usize = 4;

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
        self.compile(&intake.world, &mut decision);
        while self.drop_unused(intake, &mut decision) {}
        self.try_contested(&intake.world, &mut decision);
        if self.try_earlier(&mut decision) {
            self.try_contested(&intake.world, &mut decision);
        }
        decision.choices = self.by_key;
        decision
    }

    /// Compile what changed, except clusters that are deleted now: their users are known afterwards.
    fn compile(&mut self, world: &World, decision: &mut Decision) {
        let changed = self
            .by_key
            .iter()
            .filter(|(key, choice)| !choice.is_deleted_cluster(key) || choice.kept);
        let keys: BTreeSet<DocumentKey> = changed.map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() || decision.compiled.groups().next().is_none() {
            self.serve(keys, decision, |choices, fault| choices.on_fault(world, fault));
        }
    }

    /// Let these documents serve. `on_fault` takes a text from the document at fault; then the text before it serves.
    fn serve(
        &mut self,
        mut keys: BTreeSet<DocumentKey>,
        decision: &mut Decision,
        mut on_fault: impl FnMut(&mut Self, Fault),
    ) {
        loop {
            let mut stage = decision.compiled.stage();
            let edits = keys.iter().map(|key| self.edit(key)).collect();
            if let Some(step) = self.settle(&mut stage, edits, &mut keys, &mut on_fault) {
                return decision.advance(step);
            }
        }
    }

    /// Make the edits in a stage until no document is at fault. `None`: the fault was that of `defaults`, so that all is
    /// to be translated anew.
    fn settle(
        &mut self,
        stage: &mut Stage,
        mut edits: Vec<Edit>,
        keys: &mut BTreeSet<DocumentKey>,
        on_fault: &mut impl FnMut(&mut Self, Fault),
    ) -> Option<Step> {
        loop {
            let faults = match stage.advance(edits) {
                Ok(step) => return Some(step),
                Err(faults) => faults,
            };
            let of_defaults = faults.iter().any(|fault| fault.key.kind == Kind::Defaults);
            edits = Vec::with_capacity(faults.len());
            for fault in faults {
                let key = fault.key.clone();
                on_fault(self, fault);
                edits.push(self.edit(&key));
                keys.insert(key);
            }
            if of_defaults {
                return None;
            }
        }
    }

    /// What serves for a document as it is chosen now.
    fn edit(&self, key: &DocumentKey) -> Edit {
        let choice = self.by_key.get(key);
        Edit {
            exists: choice.is_some_and(|choice| choice.latest.is_some()),
            is_judged: choice.is_some_and(Choice::is_own_change),
            ..edit_of(key, choice.and_then(Choice::serving))
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

    /// Deleted documents that others may name go when nothing uses them, or when an operator says so. Returns whether one
    /// went that named others, which may be unused now.
    fn drop_unused(&mut self, intake: &Intake, decision: &mut Decision) -> bool {
        let world = &intake.world;
        let deleted = self
            .by_key
            .iter()
            .filter(|(key, choice)| choice.is_deleted_cluster(key));
        let mut keys: BTreeSet<DocumentKey> = deleted.map(|(key, _)| key.clone()).collect();
        let kept = self.kept_clusters(intake, decision);
        keys.extend(kept.into_iter().filter(|key| !self.by_key.contains_key(key)));

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
            let used = |good: &Good| namesake.is_none() && decision.compiled.is_used(key, &good.parsed.document);
            let is_used = choice.serving().is_some_and(used);
            let is_released_elsewhere = choice
                .serving()
                .is_some_and(|good| world.memory.says_let_go(&choice.full_key, &good.text));
            let is_released = is_released_elsewhere || intake.released.contains(&choice.full_key);
            let is_released = is_released && !decision.compiled.guards_requests(key);
            choice.kept = is_used && !is_released;
            if is_used && is_released {
                choice.let_go = choice.serving().map(|good| Arc::clone(&good.text));
            }
            if !choice.kept {
                choice.candidates.clear();
            }
            self.by_key.insert(key.clone(), choice);
        }

        let naming = |key: &&DocumentKey| !decision.compiled.references(key).is_empty();
        let naming: Vec<DocumentKey> = keys.iter().filter(naming).cloned().collect();

        // A text that was saved may be bad by now; and a document cannot be without a cluster that goes.
        if !keys.is_empty() {
            self.serve(keys, decision, |choices, fault| {
                let choice = choices.by_key.get_mut(&fault.key);
                match choice.filter(|choice| choice.is_deleted_cluster(&fault.key)) {
                    Some(choice) => (choice.kept, choice.candidates) = (false, Vec::new()),
                    // The document needs a cluster that vanishes.
                    None => choices.on_fault(world, fault),
                }
            });
        }
        naming.iter().any(|key| decision.compiled.accepted(key).is_none())
    }

    /// The documents that are kept although they are deleted, and whose users this plan may change.
    fn kept_clusters(&self, intake: &Intake, decision: &Decision) -> BTreeSet<DocumentKey> {
        let world = &intake.world;
        let kept = &world.kept_deleted;
        if kept.is_empty() {
            return BTreeSet::new();
        }
        let changes_groups = self.by_key.keys().any(|key| key.kind == Kind::Groups);
        if changes_groups || !intake.released.is_empty() {
            return kept.iter().cloned().collect();
        }
        let mut concerned = BTreeSet::new();
        for key in self.by_key.keys() {
            let of_cluster = key.cluster().map(Arc::from).into_iter();
            let (before, now) = (world.compiled.named_by(key), decision.compiled.named_by(key));
            let named = of_cluster.chain(before.chain(now).cloned());
            let keys = named.flat_map(|name: Arc<str>| describing(&name));
            let referred = [&world.compiled, &decision.compiled].map(|compiled| compiled.references(key));
            let keys = keys.chain(referred.into_iter().flatten()).chain([key.clone()]);
            concerned.extend(keys.filter(|key| kept.contains(key)));
        }
        concerned
    }

    /// Documents that are good by themselves, oldest text first: whoever is not in the way any more lets them serve.
    fn try_contested(&mut self, world: &World, decision: &mut Decision) {
        let mut hopeful = self.hopeful(world, decision);
        for _ in 0..ROUNDS_TOGETHER {
            let before = hopeful.len();
            if before < 2 {
                break;
            }
            hopeful = self.try_together(hopeful, decision);
            if hopeful.len() == before {
                break;
            }
        }
        let stays =
            |choice: &Choice| choice.has_obstacle(&decision.compiled) && !self.is_newly_in_the_way(world, choice);
        hopeful.retain(|(_, choice)| !stays(choice));
        self.try_in_halves(&hopeful, world, decision);
    }

    /// Contested documents that may serve now, the oldest text first.
    fn hopeful(&self, world: &World, decision: &Decision) -> Vec<(DocumentKey, Choice)> {
        // A record of the shared memory that was read back, for example, changes nothing that serves.
        let is_changed = |key: &&DocumentKey| world.compiled.accepted(key) != decision.compiled.accepted(key);
        let kinds: BTreeSet<Kind> = self.by_key.keys().filter(is_changed).map(|key| key.kind).collect();
        let known = match kinds.contains(&Kind::Groups) {
            true => world.contested.iter().cloned().collect(),
            false => self.behind_changes(world),
        };
        let known = known.into_iter().filter(|_| !kinds.is_empty());
        let known = known.filter(|key| !self.by_key.contains_key(key) && may_open(key, &kinds));
        let known = known.filter_map(|key| Some((key.clone(), Choice::of(world.records.get(&key)?))));
        let changed = self.by_key.iter().filter(|(_, choice)| choice.is_contested());
        let contested: BTreeMap<DocumentKey, Choice> = known
            .chain(changed.map(|(key, choice)| (key.clone(), choice.clone())))
            .collect();

        // A contested document may give up what it has; an accepted one in the way keeps it.
        let is_contested = |key: &DocumentKey| world.contested.contains(key) || contested.contains_key(key);
        let may_vanish = |obstacle: &Obstacle| match obstacle {
            Obstacle::Claimant { key, .. } => key.as_ref().is_some_and(is_contested),
            Obstacle::NoCluster(name) => describing(name).iter().any(is_contested),
            Obstacle::Reference { named, .. } => is_contested(named),
            Obstacle::Text { key, .. } => is_contested(key) || self.may_be_shadowed_now(key),
        };
        let stays = |key: &DocumentKey, choice: &Choice| {
            let is_in_view = !kinds.contains(&Kind::Groups) && !self.may_be_shadowed_now(key);
            let may_vanish = choice.obstacle().is_some_and(may_vanish) || self.is_newly_in_the_way(world, choice);
            is_in_view && !may_vanish && choice.has_obstacle(&decision.compiled)
        };
        let hopeful = contested.iter().filter(|(key, choice)| !stays(key, choice));
        let hopeful = hopeful.filter(|(_, choice)| choice.latest_good.is_some());
        let mut hopeful: Vec<_> = hopeful.map(|(key, choice)| (key.clone(), choice.clone())).collect();
        hopeful.sort_by_key(age);
        hopeful
    }

    /// The contested documents that wait for a document of this plan, or for one of these contested documents.
    fn behind_changes(&self, world: &World) -> BTreeSet<DocumentKey> {
        let contested = &world.contested;
        let mut found: BTreeSet<DocumentKey> = contested.without_obstacle().cloned().collect();
        let mut looked_at: Vec<DocumentKey> = self.by_key.keys().cloned().collect();
        // A resource in Envoy's own form may be shadowed by another document of its name, or be shadowed no more.
        let mut names = BTreeSet::from([listener::DEFAULT_NAME]);
        let kinds = [Kind::Listeners, Kind::Clusters];
        let namesakes = self.by_key.keys().filter(|key| kinds.contains(&key.kind));
        names.extend(namesakes.map(|key| &*key.name));
        for name in names {
            let of_name = ResourceType::ALL.map(|kind| DocumentKey::new(Kind::Xds, format!("{kind}/{name}")));
            found.extend(of_name.iter().filter(|key| contested.contains(key)).cloned());
            looked_at.extend(of_name);
        }
        looked_at.extend(found.iter().cloned());

        while let Some(key) = looked_at.pop() {
            for behind in contested.behind(&key) {
                if found.insert(behind.clone()) {
                    looked_at.push(behind.clone());
                }
            }
        }
        found
    }

    /// Whether a text of this plan is in the way of a contested document, which waited before.
    fn is_newly_in_the_way(&self, world: &World, contested: &Choice) -> bool {
        let obstacle = contested.obstacle();
        let Some(Obstacle::Claimant { key: Some(key), .. } | Obstacle::Text { key, .. }) = obstacle else {
            return false;
        };
        let other = self.by_key.get(key);
        other.is_some_and(|other| is_newcomer(world, contested, (key, other), obstacle))
    }

    /// Whether another document of this plan may decide whether the resource of an xds document serves.
    fn may_be_shadowed_now(&self, key: &DocumentKey) -> bool {
        let resource = xds::split(&key.name).filter(|_| key.kind == Kind::Xds);
        resource.is_some_and(|(_, name)| {
            let others = [Kind::Listeners, Kind::Clusters].map(|kind| DocumentKey::new(kind, name));
            name == listener::DEFAULT_NAME || others.iter().any(|other| self.by_key.contains_key(other))
        })
    }

    /// Try all contested documents together, and leave out those that are at fault: two listeners that swap their
    /// addresses conflict with each other's earlier texts only. Returns those that were left out.
    fn try_together(
        &mut self,
        mut contested: Vec<(DocumentKey, Choice)>,
        decision: &mut Decision,
    ) -> Vec<(DocumentKey, Choice)> {
        let places = contested.iter().enumerate();
        let mut trying: BTreeMap<DocumentKey, usize> = places.map(|(place, (key, _))| (key.clone(), place)).collect();
        let mut stage = decision.compiled.stage();
        let mut edits: Vec<Edit> = contested.iter().map(latest_of).collect();
        loop {
            let faults = match stage.advance(edits) {
                Ok(step) => {
                    decision.advance(step);
                    break;
                }
                Err(faults) => faults,
            };
            edits = Vec::new();
            for fault in faults {
                // An accepted document that was written later than the contested one keeps what it has.
                let fault = match &fault.rival {
                    Some(rival) if !trying.contains_key(&fault.key) => (**rival).clone(),
                    _ => fault,
                };
                let Some(place) = trying.remove(&fault.key) else {
                    return contested;
                };
                let (key, choice) = &mut contested[place];
                set_reason(choice, fault);
                edits.push(edit_of(key, choice.serving()));
            }
        }

        let (served, left_out): (Vec<_>, Vec<_>) = contested.into_iter().partition(|(key, _)| trying.contains_key(key));
        served.iter().for_each(|(key, choice)| self.accept(key, choice));
        left_out.iter().for_each(|(key, choice)| self.note_reason(key, choice));
        left_out
    }

    /// Let the documents serve that can, the oldest first: all, or what can serve of each half.
    fn try_in_halves(&mut self, contested: &[(DocumentKey, Choice)], world: &World, decision: &mut Decision) {
        let edits = contested.iter().map(latest_of);
        match contested {
            [] => {}
            [contested] => self.try_one(contested, world, decision),
            _ => match decision.compiled.try_apply(edits.collect()) {
                Some(step) => {
                    decision.advance(step);
                    contested.iter().for_each(|(key, choice)| self.accept(key, choice));
                }
                None => {
                    let (older, newer) = contested.split_at(contested.len() / 2);
                    self.try_in_halves(older, world, decision);
                    self.try_in_halves(newer, world, decision);
                }
            },
        }
    }

    /// Let one contested document serve if it can. A newer text that came into its way in this plan gives way: a replica
    /// that plans each revision lets the contested document serve before the newer text is there.
    fn try_one(&mut self, contested: &(DocumentKey, Choice), world: &World, decision: &mut Decision) {
        let (key, choice) = contested;
        let mut others: BTreeMap<DocumentKey, Choice> = BTreeMap::new();
        let mut stage = decision.compiled.stage();
        let mut edits = vec![latest_of(contested)];
        loop {
            let faults = match stage.advance(edits) {
                Ok(step) => {
                    decision.advance(step);
                    self.by_key.extend(others);
                    return self.accept(key, choice);
                }
                Err(faults) => faults,
            };
            edits = Vec::new();
            for fault in faults {
                let other = others.get(&fault.key).or_else(|| self.by_key.get(&fault.key));
                let obstacle = fault.rival.as_ref().and_then(|rival| rival.obstacle.as_ref());
                let gives_way =
                    |other: &&Choice| fault.key != *key && is_newcomer(world, choice, (&fault.key, other), obstacle);
                let Some(mut other) = other.filter(gives_way).cloned() else {
                    // A document that another replica found to be contested is contested here for a reason of its own.
                    let mut choice = choice.clone();
                    fault
                        .of(key)
                        .into_iter()
                        .for_each(|fault| set_reason(&mut choice, fault));
                    return self.note_reason(key, &choice);
                };
                let other_key = fault.key.clone();
                other.on_fault(fault);
                edits.push(edit_of(&other_key, other.serving()));
                others.insert(other_key, other);
            }
        }
    }

    fn accept(&mut self, key: &DocumentKey, choice: &Choice) {
        let mut choice = choice.clone();
        choice.accept_latest();
        self.by_key.insert(key.clone(), choice);
    }

    /// The reason for which a document stays contested.
    fn note_reason(&mut self, key: &DocumentKey, choice: &Choice) {
        let known = self.by_key.entry(key.clone()).or_insert_with(|| choice.clone());
        known.blocked.clone_from(&choice.blocked);
    }

    /// Texts before the latest one, the latest first: one that is in no other document's way serves. Returns whether any
    /// serves now.
    fn try_earlier(&mut self, decision: &mut Decision) -> bool {
        let mut found = std::mem::take(&mut self.found);
        let mut earlier = Vec::new();
        for (key, choice) in &self.by_key {
            if choice.blocked.is_none() || choice.is_quarantined() {
                continue;
            }
            let (latest, serving) = (choice.latest.as_ref(), choice.serving());
            let is_better = |good: &Good| {
                let is_later = serving.is_none_or(|serving| is_later(&good.text, &serving.text));
                is_later && latest != Some(&good.text)
            };
            let mut better: Vec<Good> = found.remove(key).unwrap_or_default();
            better.extend(choice.unheeded().cloned());
            better.retain(is_better);
            better.sort_by_key(|good| good.text.mod_revision);
            if !better.is_empty() {
                earlier.push((key.clone(), better));
            }
        }
        self.try_earlier_in_halves(&mut earlier, decision)
    }

    fn try_earlier_in_halves(&mut self, earlier: &mut [(DocumentKey, Vec<Good>)], decision: &mut Decision) -> bool {
        let edits = earlier.iter().map(|(key, texts)| edit_of(key, texts.last()));
        if earlier.is_empty() {
            return false;
        }
        if let Some(step) = decision.compiled.try_apply(edits.collect()) {
            decision.advance(step);
            for (key, texts) in earlier {
                if let (Some(choice), Some(good)) = (self.by_key.get_mut(key), texts.pop()) {
                    choice.candidates = vec![good];
                }
            }
            true
        } else if let [(_, texts)] = earlier {
            texts.pop();
            !texts.is_empty() && self.try_earlier_in_halves(earlier, decision)
        } else {
            let (first, second) = earlier.split_at_mut(earlier.len() / 2);
            let of_first = self.try_earlier_in_halves(first, decision);
            self.try_earlier_in_halves(second, decision) || of_first
        }
    }
}

/// Whether another document came into the way of a contested one in this plan, as a watch showed: its text before had
/// nothing that the contested document wants, or was that of another life. A text that a list or a record shows may have
/// been there before the contested one.
fn is_newcomer(
    world: &World,
    contested: &Choice,
    (key, other): (&DocumentKey, &Choice),
    obstacle: Option<&Obstacle>,
) -> bool {
    let Some(now) = other.serving().filter(|_| other.is_own_change()) else {
        return false;
    };
    let before = world.compiled.accepted(key);
    if before.is_none_or(|before| before.create_revision != now.text.create_revision) {
        return true;
    }
    let wanted = obstacle.zip(contested.latest_good.as_ref());
    wanted.is_some_and(|(obstacle, good)| !world.compiled.has_obstacle(&good.parsed.document, obstacle))
}

fn set_reason(choice: &mut Choice, fault: Fault) {
    if let Some(blocked) = &mut choice.blocked {
        (blocked.rejection, blocked.obstacle) = (fault.rejection, fault.obstacle);
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
pub(super) fn may_open(key: &DocumentKey, changed: &BTreeSet<Kind>) -> bool {
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
        exists: accepted.is_some(),
        accepted,
        is_judged: false,
    }
}

/// The edit for a latest text that may serve now: its own tests count.
fn latest_of((key, choice): &(DocumentKey, Choice)) -> Edit {
    Edit {
        is_judged: true,
        ..edit_of(key, choice.latest_good.as_ref())
    }
}

/// Sorts the oldest latest text first.
fn age((key, choice): &(DocumentKey, Choice)) -> (Option<i64>, DocumentKey) {
    (choice.latest.as_ref().map(|text| text.mod_revision), key.clone())
}
