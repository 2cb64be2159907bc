//! The entries of the journal in memory, without their texts. Pure; clones are cheap.
//!
//! In: entries as they lie in the store. Out: which revision an entry stands for, whether all entries after a revision
//! are there, which texts a change would put back, which entries are to go because of the bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::{HashMap, OrdMap};
use serde::{Deserialize, Serialize};

use super::entry::{Changed, Entry, TextRef};

/// The begin of the journal: the state before its first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The format of entries.
    pub format: u32,
    /// A random word of this journal, part of the names of its texts.
    pub id: String,
    /// Every later change has an entry.
    pub revision: i64,
}

/// The bounds of the journal. The oldest entries go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `--journal-revisions`.
    pub revisions: usize,
    /// `--journal-age`.
    pub age: Duration,
    /// `--journal-bytes`.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            revisions: 10_000,
            age: Duration::from_secs(90 * 24 * 3600),
            bytes: 64 << 20,
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Book {
    base: Option<Arc<Base>>,
    /// The texts at the begin, by full key.
    at_base: OrdMap<Arc<str>, TextRef>,
    entries: OrdMap<i64, Arc<Entry>>,
    /// The newest entry of each document.
    newest: HashMap<Arc<str>, i64>,
    /// The entries of requests.
    requests: HashMap<Arc<str>, i64>,
    /// How many entries name a text, and its size.
    texts: HashMap<Arc<str>, (u32, u64)>,
    /// Size of all texts and of the entries.
    bytes: u64,
    /// Size of the texts at the begin, of which no bound frees the store.
    base_bytes: u64,
}

/// A later change is in the way of an undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The document.
    pub key: Arc<str>,
    /// The newest change of it.
    pub later: i64,
}

/// A document and the text that is put back; `None`: the document is removed.
pub type PutBack = (Arc<str>, Option<TextRef>);

/// Bytes of an entry beside its texts: about those of its JSON.
fn weight(entry: &Entry) -> u64 {
    let documents = entry.documents.iter().map(|changed| 200 + changed.key.len() as u64);
    200 + documents.sum::<u64>() + entry.effect.as_ref().map_or(0, |effect| effect.weight())
}

impl Book {
    /// The begin; `None`: there is no journal yet.
    #[must_use]
    pub fn base(&self) -> Option<&Base> {
        self.base.as_deref()
    }

    /// The last revision that the journal covers; 0: there is no journal yet.
    #[must_use]
    pub fn head(&self) -> i64 {
        let last = self.entries.get_max().map_or(0, |(revision, _)| *revision);
        last.max(self.base().map_or(0, |base| base.revision))
    }

    /// Size of the journal.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The texts at the begin, by full key.
    #[must_use]
    pub fn at_base(&self) -> &OrdMap<Arc<str>, TextRef> {
        &self.at_base
    }

    /// The begin of the journal is another one. Entries up to it do not count.
    pub fn set_base(&mut self, base: Base, texts: OrdMap<Arc<str>, TextRef>) {
        let gone: Vec<i64> = self.entries.range(..=base.revision).map(|(at, _)| *at).collect();
        gone.into_iter().for_each(|at| self.remove(at));
        let before = std::mem::replace(&mut self.at_base, texts.clone());
        texts.values().for_each(|text| self.keep(text));
        before.values().for_each(|text| self.drop_text(text));
        self.base_bytes = texts.values().map(|text| text.bytes).sum();
        self.base = Some(Arc::new(base));
    }

    fn keep(&mut self, text: &TextRef) {
        if let Some(name) = &text.name {
            let (count, _) = self.texts.entry(Arc::clone(name)).or_insert((0, text.bytes));
            *count += 1;
            self.bytes += if *count == 1 { text.bytes } else { 0 };
        }
    }

    fn drop_text(&mut self, text: &TextRef) {
        let Some(name) = &text.name else { return };
        if let Some((count, bytes)) = self.texts.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.bytes -= *bytes;
                self.texts.remove(name);
            }
        }
    }

    /// Add an entry, or put it in the place of the one of this revision.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        let at = entry.revision;
        if self.entries.get(&at) == Some(&entry) || self.base().is_some_and(|base| at <= base.revision) {
            return;
        }
        self.remove(at);
        entry.texts().for_each(|text| self.keep(text));
        self.bytes += weight(&entry);
        for changed in &entry.documents {
            let newest = self.newest.entry(Arc::clone(&changed.key)).or_insert(at);
            *newest = at.max(*newest);
        }
        if let Some(request) = &entry.request_id {
            self.requests.insert(request.as_str().into(), at);
        }
        self.entries.insert(at, entry);
    }

    /// Remove an entry.
    pub fn remove(&mut self, at: i64) {
        let Some(entry) = self.entries.remove(&at) else { return };
        entry.texts().for_each(|text| self.drop_text(text));
        self.bytes -= weight(&entry);
        for changed in &entry.documents {
            if self.newest.get(&changed.key) == Some(&at) {
                self.newest.remove(&changed.key);
                // Only if the newest entry goes (a restored store), older ones of the document stay.
                if at >= self.head() {
                    let mut older = self.entries.iter().rev();
                    let older = older.find(|(_, entry)| entry.document(&changed.key).is_some());
                    if let Some(older) = older.map(|(older, _)| *older) {
                        self.newest.insert(Arc::clone(&changed.key), older);
                    }
                }
            }
        }
        if let Some(request) = &entry.request_id
            && self.requests.get(request.as_str()) == Some(&at)
        {
            self.requests.remove(request.as_str());
        }
    }

    /// Whether an entry names the text.
    #[must_use]
    pub fn has_text(&self, name: &str) -> bool {
        self.texts.contains_key(name)
    }

    /// Whether two books have the same entries. Costs the same however many there are.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let last = |book: &Self| book.entries.get_max().map(|(_, entry)| Arc::clone(entry));
        self.base == other.base && self.len() == other.len() && last(self) == last(other)
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// The entries before a revision, newest first.
    pub fn before(&self, revision: i64) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.range(..revision).rev().map(|(_, entry)| entry)
    }

    /// The entries after a revision, oldest first.
    pub fn after(&self, revision: i64) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.entries.range(revision.saturating_add(1)..).map(|(_, entry)| entry)
    }

    /// The newest change up to a revision.
    #[must_use]
    pub fn at(&self, revision: i64) -> Option<&Arc<Entry>> {
        self.entries.range(..=revision).next_back().map(|(_, entry)| entry)
    }

    /// The newest change of a document.
    #[must_use]
    pub fn newest_of(&self, full_key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(self.newest.get(full_key)?)
    }

    /// The change that a request made.
    #[must_use]
    pub fn of_request(&self, request_id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(self.requests.get(request_id)?)
    }

    /// The changes that took back a revision.
    #[must_use]
    pub fn undone_by(&self, revision: i64) -> Vec<i64> {
        let later = self.after(revision).filter(|entry| entry.undoes == Some(revision));
        later.map(|entry| entry.revision).collect()
    }

    /// Whether all entries after a revision are there.
    #[must_use]
    pub fn is_held(&self, revision: i64) -> bool {
        self.base().is_some_and(|base| revision >= base.revision)
    }

    /// The text of each document that changed after `revision`, up to `until`, as it stood at `revision`.
    #[must_use]
    pub fn texts_before(&self, revision: i64, until: i64) -> BTreeMap<Arc<str>, Option<TextRef>> {
        let mut texts = BTreeMap::new();
        for entry in self.after(revision).take_while(|entry| entry.revision <= until) {
            for Changed { key, before, .. } in &entry.documents {
                texts.entry(Arc::clone(key)).or_insert_with(|| before.clone());
            }
        }
        texts
    }

    /// The texts that put back what the documents of these revisions were before, and the conflicts with later changes.
    /// `only`: these full keys; empty: all.
    #[must_use]
    pub fn undo(&self, first: i64, last: i64, only: &[String]) -> (Vec<PutBack>, Vec<Conflict>) {
        let mut texts = self.texts_before(first - 1, last);
        texts.retain(|key, _| only.is_empty() || only.iter().any(|only| **only == **key));
        let later = |key: &Arc<str>| {
            let later = self.newest_of(key)?.revision;
            let key = Arc::clone(key);
            (later > last).then_some(Conflict { key, later })
        };
        let conflicts = texts.keys().filter_map(later).collect();
        (texts.into_iter().collect(), conflicts)
    }

    /// The revision up to which entries are to go.
    #[must_use]
    pub fn trim(&self, limits: &Limits, now: SystemTime) -> Option<i64> {
        let oldest_at = now.checked_sub(limits.age).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_full =
            self.entries.len() > limits.revisions || self.bytes > limits.bytes.saturating_add(self.base_bytes);
        let is_old = self.entries().next().is_some_and(|entry| entry.at() < oldest_at);
        if !is_full && !is_old {
            return None;
        }
        // A part more than needed goes at once, so that not every change trims.
        let part = if is_full { 20 } else { u32::MAX };
        let revisions = limits.revisions - limits.revisions / part as usize;
        let bytes = (limits.bytes - limits.bytes / u64::from(part)).saturating_add(self.base_bytes);
        let mut rest = self.clone();
        let mut last = None;
        for entry in self.entries() {
            let fits = rest.entries.len() <= revisions && rest.bytes <= bytes && entry.at() >= oldest_at;
            // The newest entry stays: its texts are of documents that serve.
            if fits || rest.entries.len() <= 1 {
                break;
            }
            rest.remove(entry.revision);
            last = Some(entry.revision);
        }
        last
    }

    /// The texts at a later begin: those of the present one, with the entries up to `revision`.
    #[must_use]
    pub fn texts_at(&self, revision: i64) -> OrdMap<Arc<str>, TextRef> {
        let mut texts = self.at_base.clone();
        for (_, entry) in self.entries.range(..=revision) {
            for changed in &entry.documents {
                match &changed.after {
                    Some(text) => texts.insert(Arc::clone(&changed.key), text.clone()),
                    None => texts.remove(&changed.key),
                };
            }
        }
        texts
    }

    /// The names of all texts.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.texts.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::super::intent::Via;
    use super::*;

    fn text(name: &str) -> Option<TextRef> {
        Some(TextRef {
            name: Some(name.into()),
            bytes: 100,
            revision: 1,
            created: 1,
            leased: false,
        })
    }

    /// An entry of documents with their texts before and after.
    fn entry(revision: i64, documents: &[(&str, Option<TextRef>, Option<TextRef>)]) -> Arc<Entry> {
        let changed = documents.iter().map(|(key, before, after)| Changed {
            key: (*key).into(),
            before: before.clone(),
            after: after.clone(),
        });
        Arc::new(Entry {
            format: 1,
            revision,
            at: u64::try_from(revision).unwrap() * 1000,
            via: Via::Direct,
            actor: None,
            message: None,
            request_id: None,
            of: None,
            undoes: (revision == 4).then_some(2),
            gap: None,
            effect: None,
            documents: changed.collect(),
        })
    }

    fn book() -> Book {
        let mut book = Book::default();
        let base = Base {
            format: 1,
            id: String::new(),
            revision: 0,
        };
        book.set_base(base, OrdMap::new());
        book.insert(entry(1, &[("a", None, text("a1")), ("b", None, text("b1"))]));
        book.insert(entry(2, &[("a", text("a1"), text("a2"))]));
        book.insert(entry(3, &[("b", text("b1"), None)]));
        book.insert(entry(4, &[("a", text("a2"), text("a1"))]));
        book
    }

    #[test]
    fn an_undo_puts_back_the_texts_before_and_names_later_changes() {
        let book = book();
        assert_eq!(book.undone_by(2), [4]);
        let (texts, conflicts) = book.undo(3, 3, &[]);
        assert_eq!(texts, [("b".into(), text("b1"))]);
        assert_eq!(conflicts, []);
        let (texts, conflicts) = book.undo(1, 2, &[]);
        assert_eq!(texts, [("a".into(), None), ("b".into(), None)]);
        let later: Vec<_> = conflicts
            .iter()
            .map(|conflict| (&*conflict.key, conflict.later))
            .collect();
        assert_eq!(later, [("a", 4), ("b", 3)]);
        let (texts, conflicts) = book.undo(2, 4, &["a".to_owned()]);
        assert_eq!(texts, [("a".into(), text("a1"))]);
        assert_eq!(conflicts, []);
    }

    #[test]
    fn a_text_counts_once_and_the_oldest_entries_go_first() {
        let book = book();
        let size = book.bytes();
        let mut again = book.clone();
        again.insert(entry(4, &[("a", text("a2"), text("a1"))]));
        assert_eq!(again.bytes(), size);
        let weights: u64 = book.entries().map(|entry| weight(entry)).sum();
        assert_eq!(size, 300 + weights);

        let limits = |revisions, age, bytes| Limits {
            revisions,
            age: Duration::from_secs(age),
            bytes,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(book.trim(&limits(4, 100, 1 << 20), now), None);
        assert_eq!(book.trim(&limits(2, 100, 1 << 20), now), Some(2));
        assert_eq!(book.trim(&limits(100, 7, 1 << 20), now), Some(2));
        assert_eq!(book.trim(&limits(100, 100, 1), now), Some(3), "the newest stays");
    }
}
