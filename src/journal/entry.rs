//! One entry of the journal: a change of documents, as it lies in the store.
//!
//! An entry names texts ([`TextRef`]); the texts lie beside the entries, each once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::intent::{Action, Via};

/// The format of entries that this version writes.
pub const FORMAT: u32 = 1;

/// A change of documents: one revision, or a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`FORMAT`]; a reader takes what it knows of a later one.
    pub format: u32,
    /// The revision of the change; of a gap its last one.
    pub revision: i64,
    /// When the writer of the entry saw the change, in milliseconds since 1970.
    pub at: u64,
    /// The way of the change.
    pub via: Via,
    /// The authenticated subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The message of the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The request of the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Of a change by the server: the subject whose change it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The revision that the change takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<i64>,
    /// The entry stands for several revisions that are not known one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// The resources that the change altered; `None`: the writer of the entry did not compile the change by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Box<Effect>>,
    /// The documents, sorted by key.
    pub documents: Vec<Changed>,
}

/// The resources that a change altered. Changes that one plan took in have the same effect: that of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// By type. A name that several groups have counts once.
    pub types: BTreeMap<String, Counts>,
    /// The first [`Effect::LIST_MAX`] groups with an altered resource.
    pub groups: Vec<String>,
    /// The first [`Effect::LIST_MAX`] listeners whose connections end.
    pub drains: Vec<Drain>,
}

impl Effect {
    /// Longest list of an effect.
    pub const LIST_MAX: usize = 100;

    /// About the bytes of its JSON.
    pub(super) fn weight(&self) -> u64 {
        let items = self.types.len() + self.groups.len() + 2 * self.drains.len();
        40 + 50 * items as u64
    }
}

/// The numbers of altered resources of a type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// New ones.
    pub added: usize,
    /// With other content.
    pub changed: usize,
    /// Gone.
    pub removed: usize,
}

/// A listener whose connections end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The listener.
    pub listener: String,
    /// The group.
    pub group: String,
    /// `changed` or `removed`.
    pub why: String,
}

/// Revisions without entries of their own: all after `from`, up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last revision before the gap.
    pub from: i64,
    /// The last revision of the gap.
    pub to: i64,
    /// The cause.
    pub why: Why,
}

/// The cause of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The store has forgotten the revisions.
    Compacted,
    /// The store has another history: a restored backup, another store.
    Restored,
}

/// One document of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The full key.
    #[serde(with = "shared")]
    pub key: Arc<str>,
    /// The text before; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<TextRef>,
    /// The text after; `None`: the document is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TextRef>,
}

impl Changed {
    /// What the change did to the document.
    #[must_use]
    pub fn action(&self) -> Action {
        match (&self.before, &self.after) {
            (None, _) => Action::Added,
            (Some(_), Some(_)) => Action::Changed,
            (Some(_), None) => Action::Removed,
        }
    }
}

/// A text of a document, by the name under which the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRef {
    /// `None`: the text was gone before the journal could keep it.
    #[serde(with = "maybe_shared")]
    pub name: Option<Arc<str>>,
    /// Size of the text.
    pub bytes: u64,
    /// The revision of this text.
    pub revision: i64,
    /// The revision in which its document was created.
    pub created: i64,
    /// The key vanishes with a lease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
}

impl Entry {
    /// When the writer of the entry saw the change.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.at));
        at.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The document of a full key.
    #[must_use]
    pub fn document(&self, full_key: &str) -> Option<&Changed> {
        let place = self.documents.binary_search_by(|changed| (*changed.key).cmp(full_key));
        self.documents.get(place.ok()?)
    }

    /// Every text that the entry names.
    pub(super) fn texts(&self) -> impl Iterator<Item = &TextRef> {
        let documents = self.documents.iter();
        documents.flat_map(|changed| changed.before.iter().chain(&changed.after))
    }
}

/// A shared text as JSON.
pub(super) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::journal) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(in crate::journal) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}

/// A shared text, or null.
mod maybe_shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Arc::from))
    }
}

/// A moment in milliseconds since 1970.
pub(super) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
