//! The decision function: pure, the only place that says what serves.
//!
//! What enters: the [`World`] as it is and what happened. What leaves: the world as it becomes, a verdict for every
//! document whose status changed, and the difference of resources to publish. When a plan fails, the offender falls back
//! to its last good text and the plan is made again; a bad document harms itself only.
//!
//! Three steps: `intake` takes what happened past the guards and says what each key has become; `choices` reads the texts
//! and finds, for each document, the latest that can serve beside all others; `verdicts` says what has become of every
//! document. A plan costs what changed; the world before it is left as it was.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::world::{Status, Text, World};
use crate::backend::{Change, Entry, ListReason};
use crate::document::key::{DocumentKey, Root};
use crate::resource::compile::Difference;

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
    /// The state saved by an earlier run: served, marked as from disk, until the roots are listed.
    Saved {
        /// The texts that served then.
        entries: Vec<(Root, Entry)>,
        /// The documents root's revision then.
        revision: i64,
    },
    /// The answer to [`Plan::wanted`]: the text that served before the bad one, if any was found.
    LastGood {
        /// The document.
        key: DocumentKey,
        /// `None`: nothing was found; the document is left out until it is good.
        text: Option<Arc<Text>>,
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

/// A change of the shared memory of last good texts, below `<state-prefix>last-good/`.
#[derive(Debug, Clone, PartialEq)]
pub enum LastGoodWrite {
    /// Save this text of the document (created only if absent).
    Keep {
        /// The document's full key in the store.
        full_key: Arc<str>,
        /// Its last good text.
        text: Arc<Text>,
    },
    /// A later text was accepted, or the document is gone: forget it.
    Forget {
        /// The document's full key in the store.
        full_key: Arc<str>,
    },
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
    /// What to remember.
    pub last_good: Vec<LastGoodWrite>,
    /// Documents that are bad now and whose last good text this process never saw: look for the saved text, then in the
    /// store's history, and tell the outcome as [`Input::LastGood`]. Until then they serve nothing (and a first publish waits).
    pub wanted: Vec<DocumentKey>,
    /// When the earliest hold ends: plan again then with [`Input::Tick`].
    pub deadline: Option<Instant>,
    /// Roots that are held by a guard which wants a second list, 10 s from now or more. Told with every list that left the
    /// root held.
    pub relist: Vec<Root>,
}

/// Decide.
#[must_use]
pub fn plan(world: &World, inputs: Vec<Input>, moment: Moment) -> Plan {
    let mut intake = Intake::new(world, moment);
    for input in inputs {
        intake.take(input);
    }
    let choices = Choices::read(&mut intake);
    let decision = choices.decide(&intake);
    verdicts::conclude(world, intake, decision)
}
