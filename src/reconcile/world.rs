//! The world: every document with its state, and what is compiled of them. Immutable; clones are cheap.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::document::key::DocumentKey;

/// What has become of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Its latest text serves.
    Accepted,
    /// Its latest text is bad; its last good text serves, if there is one.
    Rejected,
    /// Every one of its matches belongs to an older route.
    Shadowed,
    /// Kept back by a guard: its change waits.
    Held,
    /// A proxy NACKed it.
    Refused,
    /// `enabled: false`.
    Disabled,
}

impl State {
    /// All, as in documents.md.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Rejected, Self::Shadowed, Self::Held, Self::Refused, Self::Disabled];

    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Shadowed => "shadowed",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
        }
    }
}

/// A text as it stood at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// As written.
    pub value: Bytes,
    /// Of the key; 0 where the backend keeps none.
    pub create_revision: i64,
    /// Of this text.
    pub mod_revision: i64,
    /// Whether the key vanishes with a lease.
    pub leased: bool,
}

/// What `GET /api/v1/documents` tells of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Kind and name.
    pub key: DocumentKey,
    /// The key in the store, lossily as text.
    pub full_key: Arc<str>,
    /// What has become of it.
    pub state: State,
    /// Why, one sentence; `None` when accepted without remark.
    pub reason: Option<String>,
    /// The bad field.
    pub path: Option<String>,
    /// Said although it serves.
    pub warnings: Vec<String>,
    /// Its latest text; `None` when it was deleted and is held.
    pub latest: Option<Arc<Text>>,
    /// The text that serves; `None` when nothing of it does.
    pub serving: Option<Arc<Text>>,
    /// Since when it has been in this state.
    pub since: SystemTime,
}

/// What the guards and the compiler are told once, at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where keys are.
    pub layout: crate::document::key::Layout,
    /// `--on-mass-loss confirm`: held lists wait for an operator; otherwise a second list releases them.
    pub confirm_mass_loss: bool,
    /// `--re2-max-program-size`.
    pub re2_max_program_size: u32,
}

/// Every document with its state, and what is compiled of them.
#[derive(Debug, Clone)]
pub struct World {
    options: Arc<Options>,
}

impl World {
    /// A world without documents.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options) }
    }

    /// What it was told at start.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Every document, sorted by key.
    pub fn documents(&self) -> impl Iterator<Item = &Status> {
        std::iter::empty()
    }

    /// One document.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Status> {
        let _ = key;
        None
    }

    /// The revision of the documents root that the world stands at.
    #[must_use]
    pub fn revision(&self) -> i64 {
        0
    }

    /// Roots that have been neither listed nor given up since start, and are not from disk either.
    #[must_use]
    pub fn pending(&self) -> Vec<crate::document::key::Root> {
        Vec::new()
    }

    /// The groups documents that hold, for rollout: name and rules.
    pub fn groups(&self) -> impl Iterator<Item = (Arc<str>, Arc<crate::document::group::Group>)> {
        std::iter::empty()
    }
}
