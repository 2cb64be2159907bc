//! The decision function: pure, the only place that says what serves.
//!
//! What enters: the current [`World`] and inputs. What leaves: the next world, a verdict for every document whose
//! status changed, the difference of resources to publish, and writes to the shared memory. If documents cannot be
//! compiled together, the one at fault falls back to its last good text and compiling starts again: a bad document
//! harms no other.
//!
//! Three steps:
//! 1. `intake` passes the inputs through the guards; the result is a text, or a deletion, for each changed key;
//! 2. `choices` parses the texts and finds, for each document, the latest text that can serve beside all others;
//! 3. `verdicts` sets the state of every affected document.
//!
//! A plan costs time for changes only, not for the whole world. The world before it stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::due;
use super::memory::{Folder, Known, MemoryWrite};
use super::refusal::Refusal;
use super::world::{HeldBy, State, Status, Text, World};
use crate::backend::{Change, Entry, Event};
use crate::document::key::{DocumentKey, Layout, Root};
use crate::resource::compile::{Difference, Touched};

mod choices;
mod intake;
#[cfg(test)]
mod tests;
mod verdicts;

use choices::Choices;
use intake::{Intake, Released};

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
    /// An event of a root's watch. Lists, changes and problems count; an event without content changes nothing.
    Event {
        /// The root.
        root: Root,
        /// The event.
        event: Event,
    },
    /// The state saved by an earlier run, where it is to serve because a root cannot be listed.
    Saved {
        /// The texts that served then.
        entries: Vec<(Root, Entry)>,
        /// The documents root's revision then.
        revision: i64,
    },
    /// A registry is followed no longer: its registrations go.
    Unfollowed(Root),
    /// Every change and every record up to this revision was among the inputs: roots without a change have reached it,
    /// too.
    Reached {
        /// The revision.
        revision: i64,
        /// Roots that cannot be read now, so their changes may be missing.
        except: Vec<Root>,
    },
    /// The content of the store was published for the first time.
    Published,
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
        /// Texts of the store's history that parse, oldest first. If there are none, the document keeps its serving
        /// text, or serves nothing until it is good.
        texts: Vec<Arc<Text>>,
    },
    /// An operator lets held changes act now: these full keys or prefixes; `None`: all.
    Release(Option<Vec<String>>),
    /// The files that these documents name have other content.
    ReadAgain(Vec<DocumentKey>),
    /// Every proxy that answered refuses these documents.
    Refused(Vec<Refusal>),
    /// A proxy has accepted the text of this revision, which a record calls refused.
    Accepted {
        /// The document's full key.
        full_key: Arc<str>,
        /// The `mod_revision` of the text.
        about: i64,
    },
    /// The quarantine of these texts ends, and they are tried again: documents, each with the `mod_revision` of its
    /// text.
    TryAgain(BTreeMap<DocumentKey, i64>),
    /// Time passed: holds that are over end.
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
    /// Records to be written to the shared memory. Of two for one place, the last counts.
    pub memory: Vec<MemoryWrite>,
    /// Bad documents whose last good text this replica may have missed. Search the store's history for it; the answer
    /// is [`Input::Found`]. Until then they keep their serving text (a first publish waits).
    pub wanted: Vec<DocumentKey>,
    /// When the earliest hold ends: plan again then with [`Input::Tick`].
    pub deadline: Option<Instant>,
    /// Held roots whose guard wants a second list, 10 s from now or later.
    pub relist: Vec<Root>,
}

/// Plan the inputs, one batch after the other.
#[must_use]
pub fn plan(world: &World, inputs: Vec<Input>, moment: Moment) -> Plan {
    let mut whole = Planned::begin(world, moment);
    let mut affected = BTreeSet::new();
    for inputs in batches(world, inputs) {
        // A record that is to be deleted does not count in the batches after.
        whole.take_due_writes(&affected);
        affected = whole.plan_batch(inputs, BTreeSet::new());
    }
    let all_affected = whole.affected.clone();
    let mut due = whole.take_due_writes(&all_affected);

    let restored = due::restore_kept(&mut whole.world, &all_affected, &due);
    if !restored.is_empty() {
        whole.plan_batch(Vec::new(), restored);
        let all_affected = whole.affected.clone();
        due = whole.take_due_writes(&all_affected);
    }
    whole.memory.extend(due);
    whole.conclude(world)
}

/// True if a release ([`Input::Release`]) of these full keys or prefixes finds a change that is held.
#[must_use]
pub fn finds_held(world: &World, keys: Option<Vec<String>>) -> bool {
    let released = Released::from(keys);
    let is_released = |full_key: &str| released.contains(full_key);

    // A guard may hold a new key, which is no document of the world yet.
    let mut roots = world.roots.values();
    roots.any(|root| root.held_among(&is_released).next().is_some())
        || world
            .documents()
            .filter(|status| matches!(status.state, State::Held | State::Refused) && is_released(&status.full_key))
            .any(|status| !stays(world, status))
}

/// The full key of a deleted document among these that no release lets go: it guards requests.
#[must_use]
pub fn finds_guarding(world: &World, keys: Option<Vec<String>>) -> Option<Arc<str>> {
    let released = Released::from(keys);
    let mut held = world.documents().filter(|status| stays(world, status));
    let found = held.find(|status| released.contains(&status.full_key))?;
    Some(Arc::clone(&found.full_key))
}

/// Whether a document stays held until no document names it.
fn stays(world: &World, status: &Status) -> bool {
    status.held_by == Some(HeldBy::InUse) && world.compiled.guards_requests(&status.key)
}

/// Which inputs may share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batching {
    /// Any input.
    Any,
    /// Inputs that delete no cluster.
    NoDeletions,
    /// Inputs that delete clusters and change nothing else.
    Deletions,
    /// None: this input may do both.
    Alone,
}

fn batching(layout: &Layout, input: &Input) -> Batching {
    match input {
        Input::Event { root, .. } if root.is_registrations() => Batching::Any,
        Input::Found { .. }
        | Input::Published
        | Input::ReadAgain(_)
        | Input::Unfollowed(_)
        | Input::Reached { .. }
        | Input::Tick => Batching::Any,
        Input::Saved { .. } => Batching::NoDeletions,
        Input::Remembered { .. }
        | Input::Release(_)
        | Input::Refused(_)
        | Input::Accepted { .. }
        | Input::TryAgain(_) => Batching::Alone,
        Input::Event { root, event } => match event {
            Event::Listed { .. } => Batching::Alone,
            Event::Changed { changes, .. } => batching_of_changes(layout, root, changes),
            Event::Problems { .. } | Event::Reached { .. } | Event::Alive | Event::Failed { .. } => Batching::Any,
        },
    }
}

fn batching_of_changes(layout: &Layout, root: &Root, changes: &[Change]) -> Batching {
    let deletes_cluster = |change: &&Change| {
        matches!(change, Change::Delete { .. }) && layout.locate(root, change.key()).stays_while_used()
    };
    match changes.iter().filter(deletes_cluster).count() {
        0 => Batching::NoDeletions,
        count if count == changes.len() => Batching::Deletions,
        _ => Batching::Alone,
    }
}

/// The inputs in batches, each planned on the world that the one before it left.
///
/// The users of a deleted cluster are those at the revision that deletes the cluster. While a deleted cluster is kept
/// because it is used, its users are checked after each revision. So a slow replica, which plans many revisions at
/// once, comes to the same result as a fast one.
fn batches(world: &World, inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut has_kept_cluster = !world.kept_deleted.is_empty();
    let mut batches = Vec::new();
    let (mut batch, mut shared) = (Vec::new(), Batching::Any);
    for input in merge_records(inputs) {
        let batching = match batching(&world.options().layout, &input) {
            Batching::NoDeletions if has_kept_cluster => Batching::Alone,
            batching => batching,
        };
        has_kept_cluster |= matches!(batching, Batching::Deletions | Batching::Alone);

        if batching != Batching::Any {
            if shared != Batching::Any && (shared != batching || batching == Batching::Alone) {
                batches.push(std::mem::take(&mut batch));
            }
            shared = batching;
        }
        batch.push(input);
    }
    batches.push(batch);
    batches
}

/// Records of one folder that were read one after the other, with no other input between, as one input: a plan then
/// looks once at the documents and roots that they concern.
fn merge_records(inputs: Vec<Input>) -> Vec<Input> {
    let mut merged: Vec<Input> = Vec::with_capacity(inputs.len());
    for input in inputs {
        match (merged.last_mut(), input) {
            (
                Some(Input::Remembered { folder, records, .. }),
                Input::Remembered {
                    folder: next,
                    whole: false,
                    records: more,
                },
            ) if *folder == next => records.extend(more),
            (_, input) => merged.push(input),
        }
    }
    merged
}

/// The batches of one plan, so far.
struct Planned {
    world: World,
    moment: Moment,
    /// A batch was planned.
    is_begun: bool,
    /// Documents whose status may have changed.
    affected: BTreeSet<DocumentKey>,
    touched: Touched,
    /// Records of the quarantine to be written.
    memory: Vec<MemoryWrite>,
    wanted: BTreeSet<DocumentKey>,
    relist: BTreeSet<Root>,
}

impl Planned {
    fn begin(world: &World, moment: Moment) -> Self {
        Self {
            world: world.clone(),
            moment,
            is_begun: false,
            affected: BTreeSet::new(),
            touched: Touched::new(),
            memory: Vec::new(),
            wanted: BTreeSet::new(),
            relist: BTreeSet::new(),
        }
    }

    /// Plan one batch. `recalled`: documents whose records count again. Returns the documents of which the shared memory may
    /// have to say something else now.
    fn plan_batch(&mut self, inputs: Vec<Input>, recalled: BTreeSet<DocumentKey>) -> BTreeSet<DocumentKey> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let mut intake = Intake::new(&self.world, self.moment, is_first);
        intake.recalled = recalled;
        for input in inputs {
            intake.take(input);
        }
        let choices = Choices::read(&mut intake);
        let decision = choices.decide(&intake);
        let recorded = verdicts::record(intake, decision);
        self.world = recorded.world;
        self.affected.extend(recorded.affected.iter().cloned());
        self.memory.extend(recorded.writes);
        self.wanted.extend(recorded.wanted);
        self.relist.extend(recorded.relist);
        for (group, resources) in recorded.touched {
            self.touched.entry(group).or_default().extend(resources);
        }
        recorded.affected
    }

    /// The writes that make the shared memory say what serves. A record that they delete does not count any more.
    fn take_due_writes(&mut self, affected: &BTreeSet<DocumentKey>) -> Vec<MemoryWrite> {
        let writes = due::records(&self.world, affected, self.moment.wall);
        for write in &writes {
            self.world.memory.on_write(write);
        }
        writes
    }

    /// Judge once what all batches have affected.
    fn conclude(self, before: &World) -> Plan {
        let Self {
            mut world,
            moment,
            affected,
            touched,
            memory,
            wanted,
            relist,
            ..
        } = self;
        let verdicts = verdicts::judge(before, &mut world, affected, moment.wall);
        let memory = memory
            .into_iter()
            .filter(|write| world.memory.is_over_latest(write))
            .collect();
        let deadlines = world.sources.values().filter_map(|source| source.deadline());
        Plan {
            verdicts,
            difference: world.compiled.difference(&before.compiled, &touched),
            memory,
            wanted: wanted.into_iter().filter(|key| world.is_searched(key)).collect(),
            deadline: deadlines.min(),
            relist: relist.into_iter().collect(),
            world,
        }
    }
}
