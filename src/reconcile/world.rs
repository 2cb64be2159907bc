//! The world: every document with its state, and what is compiled of them. Immutable; clones are cheap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::contested::Contested;
use super::hold::{Origin, RootState, SourceState};
use super::memory::Memory;
use super::refusal::Awaited;
use super::text::Good;
pub use super::text::Text;
use crate::document::Rejection;
use crate::document::group::Group;
use crate::document::key::{DocumentKey, Kind, Root};
use crate::document::secret::{Validity, Vault};
use crate::resource::compile::{self, Compiled, Obstacle};

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
    /// Every proxy that answered refuses its latest text; its last good text serves, if there is one.
    Refused,
    /// `enabled: false`.
    Disabled,
}

impl State {
    /// All, as in docs/documents/README.md.
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Rejected,
        Self::Shadowed,
        Self::Held,
        Self::Disabled,
        Self::Refused,
    ];

    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Shadowed => "shadowed",
            Self::Held => "held",
            Self::Disabled => "disabled",
            Self::Refused => "refused",
        }
    }
}

/// The cause that holds a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// A guard: the change looks like an accident.
    Guard,
    /// Another document uses the deleted cluster.
    InUse,
}

impl HeldBy {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::InUse => "in_use",
        }
    }
}

/// One document, as `GET /api/v1/documents` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Kind and name.
    pub key: DocumentKey,
    /// The key in the store, lossily as text.
    pub full_key: Arc<str>,
    /// What has become of it.
    pub state: State,
    /// The cause of the state [`State::Held`]; `None` in every other state.
    pub held_by: Option<HeldBy>,
    /// Why, one sentence; a rejection names the document and the field. `None` when accepted without remark.
    pub reason: Option<String>,
    /// The bad field.
    pub path: Option<String>,
    /// Said although it serves.
    pub warnings: Vec<String>,
    /// A cluster that routes use has no endpoints: the warning that says so.
    pub empty: Option<String>,
    /// Its latest text; `None` when it was deleted and is held.
    pub latest: Option<Arc<Text>>,
    /// The text that serves; `None` when nothing of it does.
    pub serving: Option<Arc<Text>>,
    /// When the secret that serves can be used.
    pub validity: Option<Validity>,
    /// Since when it has been in this state.
    pub since: SystemTime,
}

/// Settings of the guards and the compiler, fixed at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where keys are.
    pub layout: crate::document::key::Layout,
    /// `--on-mass-loss confirm`: held lists wait for an operator; otherwise a second list releases them.
    pub confirm_mass_loss: bool,
    /// Whether registrations vanish with leases (etcd); in a folder they are files like all others.
    pub has_leases: bool,
    /// `--re2-max-program-size`.
    pub re2_max_program_size: u32,
    /// `--ca-bundle`: PEM, what the certificates of `https` upstreams are verified against.
    pub ca_bundle: Option<Bytes>,
    /// `--access-log-dir`.
    pub access_log_dir: Arc<str>,
    /// The keys and the files of secrets.
    pub vault: Vault,
}

/// Why the latest text does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) rejection: Rejection,
    /// Good by itself: it is tried again when others change.
    pub(super) contested: bool,
    /// Good by itself, and refused by proxies.
    pub(super) by_proxies: bool,
    /// What is in the way, where that is known: as long as it is there, the text is not tried again.
    pub(super) obstacle: Option<Obstacle>,
}

/// All that is known of one document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) status: Status,
    /// The text at the key that the guards let act ([`Status::latest`] is the store's); `None`: the key is deleted.
    pub(super) text: Option<Arc<Text>>,
    /// The same as a document, when it is one.
    pub(super) latest: Option<Good>,
    /// What serves.
    pub(super) serving: Option<Good>,
    /// Why the latest does not.
    pub(super) blocked: Option<Blocked>,
    /// Good texts are looked for in the store's history.
    pub(super) searching: bool,
    /// The text that served before the latest one was written.
    pub(super) before: Option<Arc<Text>>,
    /// The text of its record, if another document keeps that text from serving.
    pub(super) unheeded: Option<Good>,
}

impl Record {
    /// Whether the latest text is rejected, and no other one serves.
    pub(super) fn serves_nothing(&self) -> bool {
        self.blocked.is_some() && self.serving.is_none()
    }

    /// The text that serves because the one at the key is bad by itself.
    pub(super) fn text_instead_of_bad(&self) -> Option<&Arc<Text>> {
        let is_bad = self.blocked.as_ref().is_some_and(|blocked| !blocked.contested);
        self.serving.as_ref().filter(|_| is_bad).map(|good| &good.text)
    }

    /// Whether the latest text is good by itself and conflicts with another document.
    pub(super) fn is_contested(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.contested)
    }

    /// Whether the store holds something else than what serves, or serves nothing because of it.
    pub(super) fn is_behind(&self) -> bool {
        self.blocked.is_some() || self.text.is_none()
    }
}

/// Every document with its state, and what is compiled of them.
#[derive(Debug, Clone)]
pub struct World {
    pub(super) options: Arc<Options>,
    pub(super) roots: OrdMap<Root, RootState>,
    pub(super) records: OrdMap<DocumentKey, Arc<Record>>,
    /// The documents whose latest texts do not serve: rejected, held or refused.
    unsettled: OrdSet<DocumentKey>,
    /// The secrets that serve, by the end of their certificates in seconds since 1970.
    ends: OrdSet<(i64, DocumentKey)>,
    /// The clusters that are used and have no endpoints.
    empty: OrdSet<DocumentKey>,
    /// What cannot be a document, by root.
    pub(super) problems: OrdMap<Root, Arc<[Status]>>,
    /// Instances that went lately, by cluster.
    pub(super) sources: OrdMap<Arc<str>, SourceState>,
    /// Clusters that are deleted and still used.
    pub(super) kept_deleted: OrdSet<DocumentKey>,
    /// Clusters that an operator let go while they were used, with the text that served.
    pub(super) released: OrdMap<DocumentKey, Arc<Text>>,
    /// Documents whose record names a text that conflicts with another document, so that they serve another text.
    pub(super) unheeded: OrdSet<DocumentKey>,
    /// Documents that proxies refuse, while the text that serves instead is looked for.
    pub(super) awaited: OrdMap<DocumentKey, Awaited>,
    /// The shared memory, as far as it was read.
    pub(super) memory: Memory,
    /// Documents that others keep from serving.
    pub(super) contested: Contested,
    pub(super) compiled: Compiled,
}

impl World {
    /// A world without documents.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let compile = compile::Options {
            ca_bundle: options.ca_bundle.clone(),
            access_log_dir: Arc::clone(&options.access_log_dir),
            ..compile::Options::default()
        };
        let roots = options
            .layout
            .roots()
            .into_iter()
            .map(|root| (root, RootState::default()))
            .collect();
        Self {
            options: Arc::new(options),
            roots,
            records: OrdMap::new(),
            unsettled: OrdSet::new(),
            ends: OrdSet::new(),
            empty: OrdSet::new(),
            problems: OrdMap::new(),
            sources: OrdMap::new(),
            kept_deleted: OrdSet::new(),
            released: OrdMap::new(),
            unheeded: OrdSet::new(),
            awaited: OrdMap::new(),
            memory: Memory::default(),
            contested: Contested::default(),
            compiled: Compiled::new(compile),
        }
    }

    /// The settings, fixed at start.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Every document, sorted by key.
    pub fn documents(&self) -> impl Iterator<Item = &Status> {
        self.records.values().map(|record| &record.status)
    }

    /// Whether there is a document of a kind.
    #[must_use]
    pub fn has_any(&self, kind: Kind) -> bool {
        let mut from = self.records.range(DocumentKey::new(kind, "")..);
        from.next().is_some_and(|(key, _)| key.kind == kind)
    }

    /// The secrets documents, sorted by key.
    pub fn secrets(&self) -> impl Iterator<Item = &Status> {
        let secrets = self.records.range(DocumentKey::new(Kind::Secrets, "")..);
        let secrets = secrets.take_while(|(key, _)| key.kind == Kind::Secrets);
        secrets.map(|(_, record)| &record.status)
    }

    /// The documents with another status than in an earlier world, sorted by key; without a status: they are gone. Costs
    /// what changed.
    pub fn differing<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (&'a DocumentKey, Option<&'a Status>)> {
        earlier.records.diff(&self.records).filter_map(|item| match item {
            DiffItem::Add(key, record) => Some((key, Some(&record.status))),
            DiffItem::Update {
                old: (_, old),
                new: (key, new),
            } => (old.status != new.status).then_some((key, Some(&new.status))),
            DiffItem::Remove(key, _) => Some((key, None)),
        })
    }

    /// The documents whose latest texts do not serve: rejected, held or refused. Sorted by key.
    pub fn unsettled(&self) -> impl Iterator<Item = &Status> {
        self.unsettled.iter().filter_map(|key| self.document(key))
    }

    /// The documents that every proxy refuses, so that their texts before serve.
    pub fn refused(&self) -> impl Iterator<Item = &Status> {
        self.unsettled().filter(|status| status.state == State::Refused)
    }

    /// The clusters that are used and have no endpoints, sorted by key.
    pub fn empty(&self) -> impl Iterator<Item = &DocumentKey> {
        self.empty.iter()
    }

    /// The secrets with a certificate that ends before a moment, in seconds since 1970; the first to end first.
    pub fn ending_before(&self, moment: i64) -> impl Iterator<Item = &Status> {
        let ends = self.ends.iter().take_while(move |(end, _)| *end < moment);
        ends.filter_map(|(_, key)| self.document(key))
    }

    /// Put a record in the place of that of the same document.
    pub(super) fn put(&mut self, key: DocumentKey, record: Record) {
        self.forget_marks(&key);
        let status = &record.status;
        if matches!(status.state, State::Rejected | State::Held | State::Refused) {
            self.unsettled.insert(key.clone());
        }
        if status.empty.is_some() {
            self.empty.insert(key.clone());
        }
        if let Some(end) = status.validity.and_then(|validity| validity.ends) {
            self.ends.insert((end, key.clone()));
        }
        self.records.insert(key, Arc::new(record));
    }

    /// Forget a document.
    pub(super) fn remove(&mut self, key: &DocumentKey) {
        self.forget_marks(key);
        self.records.remove(key);
    }

    fn forget_marks(&mut self, key: &DocumentKey) {
        let Some(before) = self.records.get(key) else { return };
        self.unsettled.remove(key);
        self.empty.remove(key);
        if let Some(end) = before.status.validity.and_then(|validity| validity.ends) {
            self.ends.remove(&(end, key.clone()));
        }
    }

    /// Entries that cannot be a document (a second file for a key, a file that cannot be read): rejected, without a
    /// text. The key may be that of a document, which keeps serving.
    pub fn problems(&self) -> impl Iterator<Item = &Status> {
        self.problems.values().flat_map(|problems| problems.iter())
    }

    /// One document.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Status> {
        self.records.get(key).map(|record| &record.status)
    }

    /// The full key of a document and the revision of the text that stands there.
    pub(super) fn standing_at(&self, key: &DocumentKey) -> Option<(Arc<str>, i64)> {
        let record = self.records.get(key)?;
        Some((Arc::clone(&record.status.full_key), record.text.as_ref()?.mod_revision))
    }

    /// Whether a good text of a document is looked for.
    pub(super) fn is_searched(&self, key: &DocumentKey) -> bool {
        self.awaited.contains_key(key) || self.records.get(key).is_some_and(|record| record.searching)
    }

    /// The revision of the documents root that the world stands at.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.roots.get(&Root::Documents).map_or(0, |root| root.revision)
    }

    /// The newest revision that is known to have changed a document, registrations not counted: put, deleted, or written
    /// once more.
    #[must_use]
    pub fn changed(&self) -> i64 {
        let roots = self.roots.iter().filter(|(root, _)| !root.is_registrations());
        roots.map(|(_, state)| state.changed).max().unwrap_or_default()
    }

    /// The revision that the world stands at in each root, by the root's prefix. Worlds that stand at equal ones have
    /// taken in the same texts, and the same records of the shared memory.
    #[must_use]
    pub fn revisions(&self) -> BTreeMap<String, i64> {
        let roots = self.roots.iter();
        roots
            .map(|(root, state)| (self.options.layout.prefix_of(root).to_owned(), state.revision))
            .collect()
    }

    /// True if the world has taken in the changes of a root up to this revision.
    #[must_use]
    pub fn has_reached(&self, root: &Root, revision: i64) -> bool {
        self.roots.get(root).is_some_and(|state| state.revision >= revision)
    }

    /// Whether a guard holds changes of a root of documents.
    #[must_use]
    pub fn holds_documents(&self) -> bool {
        let mut roots = self.roots.iter();
        roots.any(|(root, state)| !root.is_registrations() && state.hold().is_some())
    }

    /// Roots that the store has not listed since start, whether their saved state serves meanwhile or not.
    #[must_use]
    pub fn pending(&self) -> Vec<Root> {
        let pending = self.roots.iter().filter(|(_, state)| state.origin != Origin::Store);
        pending.map(|(root, _)| root.clone()).collect()
    }

    /// Whether some root still serves what was saved by an earlier run.
    #[must_use]
    pub fn from_disk(&self) -> bool {
        self.roots.values().any(|state| state.origin == Origin::Disk)
    }

    /// The groups documents that hold, for rollout: name and rules, sorted by name.
    pub fn groups(&self) -> impl Iterator<Item = (Arc<str>, Arc<Group>)> {
        self.compiled
            .group_rules()
            .map(|(name, group)| (Arc::clone(name), Arc::new(group.clone())))
    }

    /// What is compiled of the documents that serve.
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}
