//! The texts of the store, and the changes that have no entry yet. Pure.
//!
//! In: lists and changes of the roots of documents, in order; how far the entries go. Out: a [`Step`] for each revision
//! that altered a text, or for a gap, until its entry is there; the texts at the revision of the newest entry.
//!
//! Every replica tracks, so that each can write what a dead writer left.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use imbl::OrdMap;

use super::entry::Why;
use crate::backend::{Change, Entry, Revision};

/// A text as it stands at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// As written; `None`: the text is lost, only its revisions are known.
    pub value: Option<Bytes>,
    /// The revision of this text.
    pub revision: i64,
    /// The revision in which its document was created.
    pub created: i64,
    /// The key vanishes with a lease.
    pub leased: bool,
}

/// All texts, by full key.
pub type Texts = OrdMap<Arc<str>, Stored>;

/// The texts of a document before and after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// `None`: there was none.
    pub before: Option<Stored>,
    /// `None`: the document is removed.
    pub after: Option<Stored>,
}

/// The changes of one revision, or of a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The revision; of a gap its last one.
    pub revision: i64,
    /// The revision before.
    pub from: i64,
    /// When this replica saw the change.
    pub at: SystemTime,
    /// The step stands for several revisions.
    pub gap: Option<Why>,
    /// By full key.
    pub documents: BTreeMap<Arc<str>, Altered>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    /// The texts at `settled`.
    texts: Texts,
    /// The revision up to which every change has its entry.
    settled: i64,
    /// The texts after all steps.
    newest: Texts,
    /// The last revision of each root, by its prefix.
    reached: BTreeMap<Arc<str>, i64>,
    /// Sorted by revision.
    steps: VecDeque<Step>,
}

impl From<&Entry> for Stored {
    fn from(entry: &Entry) -> Self {
        Self {
            value: Some(entry.value.clone()),
            revision: entry.mod_revision,
            created: entry.create_revision,
            leased: entry.leased,
        }
    }
}

/// The full key of an entry, lossily as text.
pub fn full_key(key: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(key).into()
}

/// The texts of a list.
pub fn texts_of(entries: &[Entry]) -> Texts {
    let texts = entries.iter().map(|entry| (full_key(&entry.key), Stored::from(entry)));
    texts.collect()
}

fn put(texts: &mut Texts, key: &Arc<str>, text: Option<&Stored>) {
    match text {
        Some(text) => texts.insert(Arc::clone(key), text.clone()),
        None => texts.remove(key),
    };
}

/// The documents below a prefix.
fn below<'a>(texts: &'a Texts, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Stored)> {
    let from: Arc<str> = prefix.into();
    texts.range(from..).take_while(move |(key, _)| key.starts_with(prefix))
}

impl Tracker {
    /// Whether a root was listed.
    #[must_use]
    pub fn knows(&self, prefix: &str) -> bool {
        self.reached.contains_key(prefix)
    }

    /// The last revision of a root that is known.
    #[must_use]
    pub fn reached(&self, prefix: &str) -> i64 {
        self.reached.get(prefix).copied().unwrap_or_default()
    }

    /// The texts at the revision of the newest entry, and that revision.
    #[must_use]
    pub fn settled(&self) -> (&Texts, i64) {
        (&self.texts, self.settled)
    }

    /// Every change up to this revision is known, and has its entry.
    #[must_use]
    pub fn whole(&self) -> i64 {
        match self.steps.is_empty() {
            true => self
                .settled
                .max(self.reached.values().copied().min().unwrap_or_default()),
            false => self.settled,
        }
    }

    /// The changes that have no entry yet, oldest first.
    pub fn due(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    /// The first knowledge of a root: its texts at a revision whose changes all have entries.
    pub fn begin(&mut self, prefix: &str, at: i64, texts: &Texts) {
        for (key, text) in texts {
            self.texts.insert(Arc::clone(key), text.clone());
            self.newest.insert(Arc::clone(key), text.clone());
        }
        let is_first = self.reached.is_empty();
        self.reached.insert(prefix.into(), at);
        self.settled = if is_first { at } else { self.settled.min(at) };
    }

    /// Every source has reached a revision: quiet ones, too.
    pub fn on_whole(&mut self, revision: i64) {
        for reached in self.reached.values_mut() {
            *reached = revision.max(*reached);
        }
    }

    /// The changes of one revision. A revision of several roots comes in parts.
    pub fn on_changed(&mut self, prefix: &str, revision: i64, at: SystemTime, changes: &[Change]) {
        let changes = changes.iter().map(|change| match change {
            Change::Put(entry) => (full_key(&entry.key), Some(Stored::from(entry))),
            Change::Delete { key } => (full_key(key), None),
        });
        let changes: Vec<_> = changes.collect();
        self.add(revision, at, None, changes);
        self.reach(prefix, revision);
    }

    /// The revisions that this replica has missed, oldest first, and the list after them. Returns whether the list is what
    /// these revisions lead to; otherwise nothing is taken in.
    #[must_use]
    pub fn on_history(&mut self, prefix: &str, listed: i64, at: SystemTime, missed: &[Revision], list: &Texts) -> bool {
        let mut next = self.clone();
        for Revision { revision, changes } in missed {
            next.on_changed(prefix, *revision, at, changes);
        }
        next.reach(prefix, listed);
        let is_equal = next.differences(prefix, list).is_empty();
        if is_equal {
            *self = next;
        }
        is_equal
    }

    /// A list whose revisions are not known one by one. `gap`: why; `None`: the list is one change (a directory).
    pub fn on_list(&mut self, prefix: &str, listed: i64, at: SystemTime, gap: Option<Why>, list: &Texts) {
        let changes = self.differences(prefix, list);
        if gap == Some(Why::Restored) {
            // Revisions count from another point now.
            self.reached.insert(prefix.into(), listed);
        }
        self.add(listed, at, gap, changes);
        self.reach(prefix, listed);
    }

    /// Whether a list has other texts than are known.
    #[must_use]
    pub fn differs(&self, prefix: &str, list: &Texts) -> bool {
        !self.differences(prefix, list).is_empty()
    }

    /// What a list says of each document that is known otherwise.
    fn differences(&self, prefix: &str, list: &Texts) -> Vec<(Arc<str>, Option<Stored>)> {
        let is_other = |(key, text): &(&Arc<str>, &Stored)| {
            let known = self.newest.get(*key);
            known.is_none_or(|known| known.value.is_none() || known.value != text.value)
        };
        let written = list.iter().filter(is_other);
        let written = written.map(|(key, text)| (Arc::clone(key), Some(text.clone())));
        let gone = below(&self.newest, prefix).filter(|(key, _)| !list.contains_key(*key));
        let gone = gone.map(|(key, _)| (Arc::clone(key), None));
        written.chain(gone).collect()
    }

    fn reach(&mut self, prefix: &str, revision: i64) {
        let reached = self.reached.entry(prefix.into()).or_default();
        *reached = revision.max(*reached);
    }

    fn add(&mut self, revision: i64, at: SystemTime, gap: Option<Why>, changes: Vec<(Arc<str>, Option<Stored>)>) {
        let mut documents = BTreeMap::new();
        for (key, after) in changes {
            let before = self.newest.get(&key).cloned();
            put(&mut self.newest, &key, after.as_ref());
            let is_same = match (&before, &after) {
                (Some(before), Some(after)) => before.value.is_some() && before.value == after.value,
                (None, None) => true,
                _ => false,
            };
            if is_same {
                // The text was written again: no change, but its revision is another one.
                if !self.steps.iter().any(|step| step.documents.contains_key(&key)) {
                    put(&mut self.texts, &key, after.as_ref());
                }
                continue;
            }
            documents.insert(key, Altered { before, after });
        }
        if documents.is_empty() {
            return;
        }
        let from = self.steps.back().map_or(self.settled, |step| step.revision);
        match self.steps.iter_mut().find(|step| step.revision == revision) {
            Some(step) => {
                step.gap = step.gap.or(gap);
                step.documents.extend(documents);
            }
            None => {
                let step = Step {
                    revision,
                    from,
                    at,
                    gap,
                    documents,
                };
                // A restored store counts from another point: its step stays behind those before it.
                let place = match gap {
                    Some(Why::Restored) => self.steps.len(),
                    _ => self.steps.partition_point(|step| step.revision < revision),
                };
                self.steps.insert(place, step);
            }
        }
    }

    /// The steps before a restore had no time for an entry: their changes go into its gap.
    pub fn merge_into_gap(&mut self) {
        let Some(gap) = self.steps.iter().rposition(|step| step.gap == Some(Why::Restored)) else {
            return;
        };
        let earlier: Vec<Step> = self.steps.drain(..gap).collect();
        let Some(step) = self.steps.front_mut() else { return };
        for earlier in earlier.into_iter().rev() {
            step.from = earlier.from;
            for (key, Altered { before, after }) in earlier.documents {
                let merged = step.documents.entry(key).or_insert(Altered { before: None, after });
                merged.before = before;
            }
        }
        step.documents.retain(|_, Altered { before, after }| {
            before.as_ref().map(|text| &text.value) != after.as_ref().map(|text| &text.value)
        });
    }

    /// The entries go up to this revision now. `is_restored`: whether there is the entry of a restore at a revision.
    pub fn on_head(&mut self, head: i64, is_restored: impl Fn(i64) -> bool) {
        let is_written =
            |step: &mut Step| step.revision <= head && (step.gap != Some(Why::Restored) || is_restored(step.revision));
        while let Some(step) = self.steps.pop_front_if(is_written) {
            for (key, altered) in &step.documents {
                put(&mut self.texts, key, altered.after.as_ref());
            }
            self.settled = step.revision;
        }
        if self.steps.is_empty() {
            let reached = self.reached.values().copied().min().unwrap_or_default();
            self.settled = self.settled.max(head.min(reached));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/gateway/";
    const AT: SystemTime = SystemTime::UNIX_EPOCH;

    fn entry(key: &str, value: &str, revision: i64) -> Entry {
        Entry {
            key: format!("{ROOT}{key}").into(),
            value: value.to_owned().into(),
            create_revision: 1,
            mod_revision: revision,
            leased: false,
        }
    }

    fn begun(entries: &[Entry], at: i64) -> Tracker {
        let mut tracker = Tracker::default();
        tracker.begin(ROOT, at, &texts_of(entries));
        tracker
    }

    fn put(key: &str, value: &str, revision: i64) -> Change {
        Change::Put(entry(key, value, revision))
    }

    fn delete(key: &str) -> Change {
        Change::Delete {
            key: format!("{ROOT}{key}").into(),
        }
    }

    fn shown(tracker: &Tracker) -> Vec<String> {
        let value = |text: &Option<Stored>| {
            let text = text.as_ref().map(|text| text.value.clone().unwrap_or_default());
            text.map_or_else(|| "-".to_owned(), |text| String::from_utf8_lossy(&text).into_owned())
        };
        let shown = tracker.due().map(|step| {
            let documents = step.documents.iter().map(|(key, altered)| {
                let key = key.strip_prefix(ROOT).unwrap();
                format!(" {key}: {} to {}", value(&altered.before), value(&altered.after))
            });
            let gap = step.gap.map(|gap| format!(" {gap:?} from {}", step.from));
            format!(
                "{}{}{}",
                step.revision,
                gap.unwrap_or_default(),
                documents.collect::<String>()
            )
        });
        shown.collect()
    }

    #[test]
    fn each_revision_that_alters_a_text_is_a_step() {
        let mut tracker = begun(&[entry("a", "1", 3)], 5);
        tracker.on_changed(ROOT, 6, AT, &[put("a", "2", 6), put("b", "1", 6)]);
        tracker.on_changed(ROOT, 8, AT, &[put("a", "2", 8)]);
        tracker.on_changed(ROOT, 9, AT, &[delete("a"), delete("c")]);
        assert_eq!(shown(&tracker), ["6 a: 1 to 2 b: - to 1", "9 a: 2 to -"]);
        tracker.on_head(6, |_| false);
        assert_eq!(shown(&tracker), ["9 a: 2 to -"]);
        let (texts, at) = tracker.settled();
        assert_eq!((texts.len(), at), (2, 6));
        tracker.on_head(9, |_| false);
        assert_eq!(tracker.settled().1, 9);
        assert_eq!(tracker.settled().0.len(), 1);
    }

    #[test]
    fn missed_revisions_are_read_from_the_history_or_are_a_gap() {
        let list = texts_of(&[entry("a", "3", 8)]);
        let missed = [6, 8].map(|revision| Revision {
            revision,
            changes: vec![put("a", if revision == 6 { "2" } else { "3" }, revision)],
        });
        let mut tracker = begun(&[entry("a", "1", 3), entry("b", "1", 4)], 5);
        // The history does not lead to the list: another one.
        assert!(!tracker.on_history(ROOT, 9, AT, &missed, &list));
        assert!(shown(&tracker).is_empty());
        tracker.on_list(ROOT, 9, AT, Some(Why::Compacted), &list);
        assert_eq!(shown(&tracker), ["9 Compacted from 5 a: 1 to 3 b: 1 to -"]);

        let mut tracker = begun(&[entry("a", "1", 3)], 5);
        assert!(tracker.on_history(ROOT, 9, AT, &missed, &list));
        assert_eq!(shown(&tracker), ["6 a: 1 to 2", "8 a: 2 to 3"]);
        assert!(!tracker.differs(ROOT, &list));
    }

    #[test]
    fn changes_without_an_entry_go_into_the_gap_of_a_restore() {
        let mut tracker = begun(&[entry("a", "1", 3)], 20);
        tracker.on_changed(ROOT, 21, AT, &[put("a", "2", 21), put("b", "1", 21)]);
        tracker.on_list(ROOT, 10, AT, Some(Why::Restored), &texts_of(&[entry("a", "0", 2)]));
        tracker.merge_into_gap();
        assert_eq!(shown(&tracker), ["10 Restored from 20 a: 1 to 0"]);
    }

    #[test]
    fn two_roots_make_one_step_of_one_revision() {
        let mut tracker = begun(&[], 1);
        tracker.begin("/old/", 1, &Texts::new());
        tracker.on_changed(ROOT, 3, AT, &[put("a", "1", 3)]);
        tracker.on_changed(ROOT, 2, AT, &[put("b", "1", 2)]);
        let change = Change::Put(Entry {
            key: "/old/c".into(),
            ..entry("", "1", 3)
        });
        tracker.on_changed("/old/", 3, AT, &[change]);
        let steps: Vec<_> = tracker
            .due()
            .map(|step| (step.revision, step.documents.len()))
            .collect();
        assert_eq!(steps, [(2, 1), (3, 2)]);
    }
}
