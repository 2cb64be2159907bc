//! The shared memory: the texts that serve in place of the store's, the same on every replica.
//!
//! | place below the state prefix | content of the record |
//! |---|---|
//! | `last-good/{full key}` | the text that serves because the latest cannot, or because a deleted cluster is in use |
//! | `held/{full key}` | the text that serves at a key (or none) while a guard holds the change of the key |
//! | `quarantine/{full key}` | the text that serves (or none) because proxies refuse the latest one |
//! | `held/{prefix of a root}` | the hold of the root: its revision, its cause, and whether it was released |
//!
//! Every replica reads all records into its [`Memory`] and decides by documents and records alone, so replicas with
//! different pasts agree. [`due`](super::due) says which records are to be written. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;

use super::text::Text;
use crate::resource::refused::RefusedResource;

/// Where a record lies below the state prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// `last-good/`
    LastGood,
    /// `held/`
    Held,
    /// `quarantine/`
    Quarantine,
}

impl Folder {
    /// All.
    pub const ALL: [Self; 3] = [Self::LastGood, Self::Held, Self::Quarantine];

    /// The name with its slash, to be put behind the state prefix.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastGood => "last-good/",
            Self::Held => "held/",
            Self::Quarantine => "quarantine/",
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The revision that does not act: that of the text that cannot serve, of the deletion, or of the held change or
    /// list.
    pub about: i64,
    /// When the record was written first.
    pub since: SystemTime,
    /// What the record says.
    pub content: Content,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This text serves; `None`: no text does (a held addition; a contested document without an earlier text).
    Serves(Option<Arc<Text>>),
    /// An operator released a deleted cluster that was in use. This text served until then.
    LetGo(Arc<Text>),
    /// A registration that vanished together with too many others of its cluster, and for how long it is kept. Its root
    /// is not held.
    LostInstance(Arc<Text>, Duration),
    /// Proxies refuse the latest text, and this text serves (or none does).
    Refused(Option<Arc<Text>>, Arc<Quarantine>),
    /// At a root's prefix: the hold of the root.
    Hold {
        /// The hold.
        hold: SharedHold,
        /// An operator released the hold, or a second list agreed: nothing is held any more.
        is_released: bool,
    },
}

impl Record {
    /// The text that serves, or served until it was released.
    #[must_use]
    pub fn text(&self) -> Option<&Arc<Text>> {
        self.content.text()
    }

    pub(super) fn is_let_go(&self) -> bool {
        matches!(self.content, Content::LetGo(_))
    }
}

impl Content {
    pub(super) fn text(&self) -> Option<&Arc<Text>> {
        match self {
            Self::Serves(text) | Self::Refused(text, _) => text.as_ref(),
            Self::LetGo(text) | Self::LostInstance(text, _) => Some(text),
            Self::Hold { .. } => None,
        }
    }

    /// The text that serves at a held key, or that of a lost instance; `None`: the record says something else.
    fn kept_text(&self) -> Option<Option<&Arc<Text>>> {
        match self {
            Self::Serves(text) => Some(text.as_ref()),
            Self::LostInstance(text, _) => Some(Some(text)),
            _ => None,
        }
    }
}

/// Why a root is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Too many documents vanished at once.
    Loss {
        /// The number of vanished documents.
        lost: usize,
        /// Documents before.
        all: usize,
    },
    /// An empty list although documents were served.
    Empty {
        /// Documents before.
        all: usize,
    },
    /// Another history.
    Fork,
}

/// What a record of the quarantine says, beside the text that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The resources that were refused.
    pub resources: Vec<RefusedResource>,
    /// Who refuses the document, and the words of Envoy.
    pub reason: Arc<str>,
    /// Whether no other document can be the cause.
    pub is_sole_suspect: bool,
    /// A proxy has accepted the text: it serves.
    pub is_accepted: bool,
}

/// The hold of a root, as replicas share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedHold {
    /// Why the root is held.
    pub why: Why,
    /// The revision that the holding replica had reached before. If another replica has watched every change since then
    /// and holds nothing, the hold is not needed.
    pub after: i64,
    /// Only an operator lets it act.
    pub by_operator: bool,
    /// The hold protects texts that an earlier run of the holding replica saved.
    #[serde(default)]
    pub from_saved: bool,
}

/// The hold of a root, as the memory has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownHold {
    pub(super) about: i64,
    pub(super) since: SystemTime,
    pub(super) hold: SharedHold,
    pub(super) is_released: bool,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The record.
    pub record: Record,
    /// The etag of the record, as the backend gives it.
    pub etag: Arc<str>,
    /// This replica has decided to delete the record. The record says nothing until another one takes its place.
    pub(super) is_outdated: bool,
}

impl Known {
    /// A record that was just read.
    #[must_use]
    pub fn new(record: Record, etag: impl Into<Arc<str>>) -> Self {
        Self {
            record,
            etag: etag.into(),
            is_outdated: false,
        }
    }
}

/// Every record that was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Which folders were read whole.
    pub(super) listed: BTreeSet<Folder>,
    last_good: OrdMap<Arc<str>, Known>,
    held: OrdMap<Arc<str>, Known>,
    quarantine: OrdMap<Arc<str>, Known>,
}

/// A change of the shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryWrite {
    /// Where.
    pub folder: Folder,
    /// A document's full key, or a root's prefix.
    pub full_key: Arc<str>,
    /// What is to stand there; `None`: nothing.
    pub record: Option<Record>,
    /// The etag of the record that it replaces; `None`: none is there.
    pub replaces: Option<Arc<str>>,
}

impl MemoryWrite {
    /// Write this record in the place of the one that is known.
    pub(super) fn over(known: Option<&Known>, folder: Folder, full_key: Arc<str>, record: Option<Record>) -> Self {
        Self {
            folder,
            full_key,
            record,
            replaces: known.map(|known| Arc::clone(&known.etag)),
        }
    }
}

impl Memory {
    pub(super) fn last_good(&self, full_key: &str) -> Option<&Known> {
        self.last_good.get(full_key)
    }

    pub(super) fn held(&self, full_key: &str) -> Option<&Known> {
        self.held.get(full_key)
    }

    pub(super) fn quarantine(&self, full_key: &str) -> Option<&Known> {
        self.quarantine.get(full_key)
    }

    /// Whether replicas keep a key because most registrations of its cluster went with it.
    pub(super) fn is_lost_instance(&self, full_key: &str) -> bool {
        let known = self.held(full_key);
        known.is_some_and(|known| matches!(known.record.content, Content::LostInstance(..)))
    }

    /// The hold of a root.
    pub(super) fn hold(&self, prefix: &str) -> Option<KnownHold> {
        let record = &self.held.get(prefix)?.record;
        match record.content {
            Content::Hold { hold, is_released } => Some(KnownHold {
                about: record.about,
                since: record.since,
                hold,
                is_released,
            }),
            _ => None,
        }
    }

    /// The texts that serve at held keys below a prefix, and those of lost instances.
    pub(super) fn held_below(&self, prefix: &str) -> impl Iterator<Item = (&Arc<str>, Option<&Arc<Text>>)> {
        self.held
            .range::<_, Arc<str>>(Arc::from(prefix)..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, known)| Some((key, known.record.content.kept_text()?)))
    }

    /// The text that serves at one held key, or that of a lost instance.
    pub(super) fn held_at(&self, full_key: &str) -> Option<Option<&Arc<Text>>> {
        self.held(full_key)?.record.content.kept_text()
    }

    /// Whether a record says that a cluster was released which served this text or a later one.
    pub(super) fn says_let_go(&self, full_key: &str, text: &Text) -> bool {
        self.last_good(full_key).is_some_and(|known| {
            let is_as_late = || written(known.record.text()) >= text.mod_revision;
            known.record.is_let_go() && !known.is_outdated && is_as_late()
        })
    }

    pub(super) fn keys(&self, folder: Folder) -> impl Iterator<Item = &Arc<str>> {
        self.records(folder).keys()
    }

    fn records(&self, folder: Folder) -> &OrdMap<Arc<str>, Known> {
        match folder {
            Folder::LastGood => &self.last_good,
            Folder::Held => &self.held,
            Folder::Quarantine => &self.quarantine,
        }
    }

    fn records_mut(&mut self, folder: Folder) -> &mut OrdMap<Arc<str>, Known> {
        match folder {
            Folder::LastGood => &mut self.last_good,
            Folder::Held => &mut self.held,
            Folder::Quarantine => &mut self.quarantine,
        }
    }

    /// Whether a write is made over the record that is known now. A later batch of its plan may have read another one, or
    /// that it is gone; the store would refuse the write.
    pub(super) fn is_over_latest(&self, write: &MemoryWrite) -> bool {
        let known = match write.folder {
            Folder::LastGood => self.last_good(&write.full_key),
            Folder::Held => self.held(&write.full_key),
            Folder::Quarantine => self.quarantine(&write.full_key),
        };
        known.map(|known| &known.etag) == write.replaces.as_ref()
    }

    /// The record that a write will remove says nothing any more.
    pub(super) fn on_write(&mut self, write: &MemoryWrite) {
        if write.record.is_none()
            && let Some(known) = self.records_mut(write.folder).get_mut(&write.full_key)
        {
            known.is_outdated = true;
        }
    }

    /// The last good record of a key, which an earlier batch of a plan was to delete, counts again.
    pub(super) fn restore_last_good(&mut self, full_key: &str) {
        if let Some(known) = self.last_good.get_mut(full_key) {
            known.is_outdated = false;
        }
    }

    /// Take up one record, or that it is gone.
    pub(super) fn take(&mut self, folder: Folder, full_key: Arc<str>, known: Option<Known>) {
        match known {
            Some(known) => self.records_mut(folder).insert(full_key, known),
            None => self.records_mut(folder).remove(&full_key),
        };
    }
}

/// When a text was written; 0: there is none.
pub(super) fn written(text: Option<&Arc<Text>>) -> i64 {
    text.map_or(0, |text| text.mod_revision)
}
