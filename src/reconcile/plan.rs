//! The decision function: pure, the only place that says what serves.
//!
//! What enters: the [`World`] as it is and what happened. What leaves: the world as it becomes, a verdict for every
//! document whose status changed, and the difference of resources to publish. When a plan fails, the offender falls back
//! to its last good text and the plan is made again; a bad document harms itself only.
//!
//! Three steps: `intake` takes what happened past the guards and says what each key has become; `choices` reads the texts
//! and finds, for each document, the latest that can serve beside all others; `verdicts` says what has become of every
//! document. A plan costs what changed; the world before it is left as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::memory::{self, Folder, Known, MemoryWrite};
use super::world::{Status, Text, World};
use crate::backend::{Change, Entry, ListReason, Problem};
use crate::document::key::{DocumentKey, Layout, Root};
use crate::resource::compile::{Difference, Touched};

mod choices;
mod intake;
#[cfg(test)]
mod tests;
mod verdicts;

use choices::Choices;
use intake::Intake;

/// A moment, on both clocks. Given from outside: the plan reads no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For distances.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Everything below a root, at one revision.
    Listed {
        /// The root.
        root: Root,
        /// The store's revision.
        revision: i64,
        /// Why it was read.
        reason: ListReason,
        /// Sorted by key.
        entries: Vec<Entry>,
    },
    /// All changes of one revision below a root.
    Changed {
        /// The root.
        root: Root,
        /// The revision.
        revision: i64,
        /// What changed.
        changes: Vec<Change>,
    },
    /// Everything below a root that was meant to be a document and cannot be one. It alters no document.
    Problems {
        /// The root.
        root: Root,
        /// All of them, as they are now.
        problems: Vec<Problem>,
    },
    /// The state saved by an earlier run: served, marked as from disk, until the roots are listed.
    Saved {
        /// The texts that served then.
        entries: Vec<(Root, Entry)>,
        /// The documents root's revision then.
        revision: i64,
    },
    /// Records of the shared memory, as they were read.
    Remembered {
        /// Where they lie.
        folder: Folder,
        /// Whether they are all there are.
        whole: bool,
        /// By full key; `None`: the record is gone.
        records: Vec<(Arc<str>, Option<Known>)>,
    },
    /// The answer to [`Plan::wanted`].
    Found {
        /// The document.
        key: DocumentKey,
        /// Texts of the store's history that parse, oldest first. None: the document is left out until it is good, or goes on
        /// serving the text that it serves.
        texts: Vec<Arc<Text>>,
    },
    /// An operator lets what is held act now: these full keys or prefixes; `None`: everything.
    Release(Option<Vec<String>>),
    /// Nothing but time passed: holds that are over act.
    Tick,
}

/// What a plan says of one document.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its status now; `None`: it is gone.
    pub status: Option<Status>,
    /// The document.
    pub key: DocumentKey,
    /// For a route: the older document that has the same match (API: 409).
    pub conflict: Option<DocumentKey>,
    /// For a deleted cluster: the documents that still use it (API: 409).
    pub used_by: Vec<DocumentKey>,
}

/// What follows from what happened.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The world as it becomes.
    pub world: World,
    /// One for each document whose status changed.
    pub verdicts: Vec<Verdict>,
    /// What to publish.
    pub difference: Difference,
    /// Records to be written to the shared memory.
    pub memory: Vec<MemoryWrite>,
    /// Documents that are bad now, and whose last good text may have gone unseen: look for it in the store's history, and tell
    /// the outcome as [`Input::Found`]. Until then they serve what they served (a first publish waits).
    pub wanted: Vec<DocumentKey>,
    /// When the earliest hold ends: plan again then with [`Input::Tick`].
    pub deadline: Option<Instant>,
    /// Roots that are held by a guard which wants a second list, 10 s from now or more. Told with every list that left the
    /// root held.
    pub relist: Vec<Root>,
    /// Keys of which the shared memory may have to say something else now.
    recheck: BTreeSet<DocumentKey>,
}

/// Decide.
#[must_use]
pub fn plan(world: &World, inputs: Vec<Input>, moment: Moment) -> Plan {
    let mut runs = runs(world, inputs).into_iter();
    let first = plan_run(world, runs.next().unwrap_or_default(), moment);
    let mut plan = runs.fold(first, |plan, inputs| {
        let next = plan_run(&plan.world, inputs, moment);
        plan.then(world, next)
    });
    plan.memory = memory::due(&plan.world, &plan.recheck, moment.wall);
    plan
}

/// With what else an input may be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    /// With anything.
    Any,
    /// With others that say nothing of deleted clusters.
    Ordinary,
    /// With others that do nothing but delete clusters.
    Deletions,
    /// With none: it may do both.
    Alone,
}

fn company(layout: &Layout, input: &Input) -> Company {
    match input {
        Input::Changed {
            root: Root::Registrations,
            ..
        }
        | Input::Listed {
            root: Root::Registrations,
            ..
        }
        | Input::Problems { .. }
        | Input::Found { .. }
        | Input::Tick => Company::Any,
        Input::Saved { .. } => Company::Ordinary,
        Input::Listed { .. } | Input::Remembered { .. } | Input::Release(_) => Company::Alone,
        Input::Changed { root, changes, .. } => {
            let deletes = |change: &Change| {
                matches!(change, Change::Delete { .. }) && layout.locate(root, change.key()).cluster().is_some()
            };
            match changes.iter().filter(|change| deletes(change)).count() {
                0 => Company::Ordinary,
                count if count == changes.len() => Company::Deletions,
                _ => Company::Alone,
            }
        }
    }
}

/// The inputs, cut so that a deleted cluster's users are those of the revision that deletes it, and, while one lives on
/// because it is used, those of each revision since: however many revisions are planned at once, a replica that was slower
/// comes to the same end.
fn runs(world: &World, inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut has_kept_cluster = !world.kept_deleted.is_empty();
    let mut runs = Vec::new();
    let (mut run, mut met) = (Vec::new(), Company::Any);
    for input in inputs {
        let company = match company(&world.options().layout, &input) {
            Company::Ordinary if has_kept_cluster => Company::Alone,
            company => company,
        };
        has_kept_cluster |= matches!(company, Company::Deletions | Company::Alone);
        if company != Company::Any {
            if met != Company::Any && (met != company || company == Company::Alone) {
                runs.push(std::mem::take(&mut run));
            }
            met = company;
        }
        run.push(input);
    }
    runs.push(run);
    runs
}

fn plan_run(world: &World, inputs: Vec<Input>, moment: Moment) -> Plan {
    let mut intake = Intake::new(world, moment);
    for input in inputs {
        intake.take(input);
    }
    let choices = Choices::read(&mut intake);
    let decision = choices.decide(&intake);
    let mut plan = verdicts::conclude(world, intake, decision);
    for write in memory::due(&plan.world, &plan.recheck, moment.wall) {
        plan.world.memory.on_write(&write);
    }
    plan
}

impl Plan {
    /// This plan, made on the world `before`, and the next as one.
    fn then(self, before: &World, next: Self) -> Self {
        let mut touched = Touched::new();
        for change in self.difference.resources.iter().chain(&next.difference.resources) {
            let resource = (change.resource_type, Arc::clone(&change.name));
            touched.entry(Arc::clone(&change.group)).or_default().insert(resource);
        }
        let mut verdicts: BTreeMap<DocumentKey, Verdict> = BTreeMap::new();
        verdicts.extend(
            self.verdicts
                .into_iter()
                .chain(next.verdicts)
                .map(|verdict| (verdict.key.clone(), verdict)),
        );
        let relist: BTreeSet<Root> = self.relist.into_iter().chain(next.relist).collect();
        let wanted: BTreeSet<DocumentKey> = self.wanted.into_iter().chain(next.wanted).collect();
        Self {
            difference: next.world.compiled().difference(before.compiled(), &touched),
            verdicts: verdicts.into_values().collect(),
            memory: Vec::new(),
            recheck: self.recheck.into_iter().chain(next.recheck).collect(),
            wanted: wanted.into_iter().filter(|key| next.world.is_searched(key)).collect(),
            deadline: next.deadline,
            relist: relist.into_iter().collect(),
            world: next.world,
        }
    }
}
