//! The keys of the journal, and the [`Book`] that they make. Pure.
//!
//! | key below `<state-prefix>journal/` | value |
//! |---|---|
//! | `index/base` | the begin, [`Base`]; its documents lie in parts |
//! | `index/base/REVISION/PART` | the documents at the begin, with their texts |
//! | `index/e/REVISION` | an [`Entry`]; if the entry is large, its documents lie in parts |
//! | `index/e/REVISION/PART` | some documents of the entry |
//! | `texts/NAME` | a text, once |
//! | `writer` | the replica that writes, under its lease |
//!
//! An entry counts once its own key is there: it is written after its parts and texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::book::{Base, Book};
use super::entry::{Changed, Entry, TextRef, shared};

/// Documents of one part, by the size of their JSON.
const PART: usize = 512 * 1024;

/// A document at the begin of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseDocument {
    /// The full key.
    #[serde(with = "shared")]
    pub key: Arc<str>,
    /// Its text.
    pub text: TextRef,
}

#[derive(Debug, Serialize, Deserialize)]
struct WithParts<T> {
    #[serde(flatten)]
    head: T,
    #[serde(default)]
    parts: usize,
}

/// A key below the prefix of the journal with its value.
pub type Key = (String, Bytes);

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    book: Book,
    /// Parts whose own key has not come yet, by the key that they belong to.
    parts: BTreeMap<String, BTreeMap<String, Bytes>>,
    /// Keys that have come before their parts.
    heads: BTreeMap<String, Bytes>,
}

impl Index {
    /// The entries.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// A whole list of the keys below `index/`.
    pub fn on_list<'a>(&mut self, keys: impl Iterator<Item = (&'a str, &'a Bytes)>) {
        *self = Self::default();
        let (heads, parts): (Vec<_>, Vec<_>) = keys.partition(|(key, _)| is_head(key));
        for (key, value) in parts.into_iter().chain(heads) {
            self.on_key(key, Some(value));
        }
    }

    /// A key of the journal has this value now.
    pub fn on_key(&mut self, key: &str, value: Option<&Bytes>) {
        if is_head(key) {
            match value {
                Some(value) => {
                    self.heads.insert(key.to_owned(), value.clone());
                    self.join(key);
                }
                None => self.on_gone(key),
            }
            return;
        }
        let Some((head, part)) = key.rsplit_once('/') else {
            return;
        };
        let parts = self.parts.entry(head.to_owned()).or_default();
        match value {
            Some(value) => {
                parts.insert(part.to_owned(), value.clone());
                let of = if head.starts_with("index/base/") {
                    "index/base"
                } else {
                    head
                };
                self.join(of);
            }
            None => {
                parts.remove(part);
                if parts.is_empty() {
                    self.parts.remove(head);
                }
            }
        }
    }

    fn on_gone(&mut self, key: &str) {
        self.heads.remove(key);
        match key.strip_prefix("index/e/").and_then(|revision| revision.parse().ok()) {
            Some(revision) => self.book.remove(revision),
            None if key == "index/base" => *self = Self::default(),
            None => {}
        }
    }

    /// Take in a key if its parts are there. A value that cannot be read is of a later format: it does not count.
    fn join(&mut self, key: &str) {
        let Some(value) = self.heads.get(key) else { return };
        let joined = if key == "index/base" {
            self.join_base(value)
        } else {
            self.join_entry(key, value)
        };
        match joined {
            Some(Joined::Base(base, documents)) => {
                self.parts.retain(|of, _| !of.starts_with("index/base/"));
                self.book.set_base(base, documents);
            }
            Some(Joined::Entry(entry)) => {
                self.parts.remove(key);
                self.book.insert(entry);
            }
            None => return,
        }
        self.heads.remove(key);
    }

    fn join_base(&self, value: &Bytes) -> Option<Joined> {
        let WithParts { head, parts } = serde_json::from_slice::<WithParts<Base>>(value).ok()?;
        let documents: Vec<BaseDocument> = self.joined(&base_parts(head.revision), parts)?;
        let documents = documents.into_iter().map(|document| (document.key, document.text));
        Some(Joined::Base(head, documents.collect()))
    }

    fn join_entry(&self, key: &str, value: &Bytes) -> Option<Joined> {
        let WithParts { mut head, parts } = serde_json::from_slice::<WithParts<Entry>>(value).ok()?;
        if parts > 0 {
            head.documents = self.joined::<Changed>(key, parts)?;
        }
        Some(Joined::Entry(Arc::new(head)))
    }

    fn joined<T: for<'a> Deserialize<'a>>(&self, of: &str, count: usize) -> Option<Vec<T>> {
        let mut joined = Vec::new();
        for number in 0..count {
            let part = self.parts.get(of)?.get(&format!("{number:04}"))?;
            joined.extend(serde_json::from_slice::<Vec<T>>(part).ok()?);
        }
        Some(joined)
    }
}

enum Joined {
    Base(Base, imbl::OrdMap<Arc<str>, TextRef>),
    Entry(Arc<Entry>),
}

/// Whether a key is no part of another one.
fn is_head(key: &str) -> bool {
    key == "index/base" || (key.starts_with("index/e/") && key.matches('/').count() == 2)
}

fn base_parts(revision: i64) -> String {
    format!("index/base/{revision:020}")
}

/// The key of an entry.
#[must_use]
pub fn entry_key(revision: i64) -> String {
    format!("index/e/{revision:020}")
}

/// The keys of an entry, in the order in which they are written.
///
/// # Errors
/// Never: every field has a JSON form.
pub fn keys_of_entry(entry: &Entry) -> serde_json::Result<Vec<Key>> {
    let key = entry_key(entry.revision);
    let parts = in_parts(&entry.documents)?;
    if parts.len() <= 1 {
        let value = serde_json::to_vec(&WithParts { head: entry, parts: 0 })?;
        return Ok(vec![(key, value.into())]);
    }
    let head = Entry {
        documents: Vec::new(),
        ..entry.clone()
    };
    with_parts(key.clone(), key, &head, parts)
}

/// The keys of the begin, in the order in which they are written.
///
/// # Errors
/// Never: every field has a JSON form.
pub fn keys_of_base(base: &Base, documents: &[BaseDocument]) -> serde_json::Result<Vec<Key>> {
    with_parts(
        "index/base".to_owned(),
        base_parts(base.revision),
        base,
        in_parts(documents)?,
    )
}

fn with_parts<T: Serialize>(key: String, below: String, head: &T, parts: Vec<Bytes>) -> serde_json::Result<Vec<Key>> {
    let head = serde_json::to_vec(&WithParts {
        head,
        parts: parts.len(),
    })?;
    let parts = parts.into_iter().enumerate();
    let mut keys: Vec<Key> = parts
        .map(|(number, part)| (format!("{below}/{number:04}"), part))
        .collect();
    keys.push((key, head.into()));
    Ok(keys)
}

fn in_parts<T: Serialize>(documents: &[T]) -> serde_json::Result<Vec<Bytes>> {
    let mut parts = Vec::new();
    let mut part = vec![b'['];
    for document in documents {
        let json = serde_json::to_vec(document)?;
        if part.len() > 1 && part.len() + json.len() > PART {
            part.push(b']');
            parts.push(std::mem::replace(&mut part, vec![b'[']).into());
        }
        if part.len() > 1 {
            part.push(b',');
        }
        part.extend(json);
    }
    if part.len() > 1 {
        part.push(b']');
        parts.push(part.into());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::super::intent::Via;
    use super::*;

    fn text(name: &str) -> TextRef {
        TextRef {
            name: Some(name.into()),
            bytes: 10,
            revision: 1,
            created: 1,
            leased: false,
        }
    }

    fn entry(revision: i64, documents: usize) -> Entry {
        let changed = |number: usize| Changed {
            key: format!("/gateway/routes/{number:06}").into(),
            before: None,
            after: Some(text(&format!("{revision}-{number}"))),
        };
        Entry {
            format: 1,
            revision,
            at: 0,
            via: Via::Direct,
            actor: None,
            message: None,
            request_id: Some(format!("request {revision}")),
            of: None,
            undoes: None,
            gap: None,
            effect: None,
            documents: (0..documents).map(changed).collect(),
        }
    }

    fn base(revision: i64) -> Base {
        Base {
            format: 1,
            id: "id".to_owned(),
            revision,
        }
    }

    fn put(index: &mut Index, keys: &[Key]) {
        for (key, value) in keys {
            index.on_key(key, Some(value));
        }
    }

    #[test]
    fn a_large_entry_lies_in_parts_and_counts_once_it_is_whole() {
        let large = entry(7, 20_000);
        let keys = keys_of_entry(&large).unwrap();
        assert!(keys.len() > 2 && keys.iter().all(|(_, value)| value.len() <= PART + 1000));
        let (own, parts) = keys.split_last().unwrap();
        assert_eq!(own.0, entry_key(7));

        let mut index = Index::default();
        put(&mut index, parts);
        assert!(index.book().is_empty());
        put(&mut index, std::slice::from_ref(own));
        assert_eq!(**index.book().at(9).unwrap(), large);
        assert!(index.parts.is_empty() && index.heads.is_empty());

        // In whatever order a list or a watch brings them.
        let mut index = Index::default();
        put(&mut index, std::slice::from_ref(own));
        put(&mut index, &parts[1..]);
        assert!(index.book().is_empty());
        put(&mut index, &parts[..1]);
        assert_eq!(index.book().len(), 1);
        let mut index = Index::default();
        index.on_list(keys.iter().map(|(key, value)| (key.as_str(), value)));
        assert_eq!(**index.book().at(7).unwrap(), large);
    }

    #[test]
    fn the_begin_takes_the_place_of_the_entries_before_it() {
        let mut index = Index::default();
        put(&mut index, &keys_of_base(&base(1), &[]).unwrap());
        for revision in [3, 5, 8] {
            put(&mut index, &keys_of_entry(&entry(revision, 2)).unwrap());
        }
        let book = index.book();
        assert_eq!((book.len(), book.head()), (3, 8));
        assert_eq!(book.of_request("request 5").unwrap().revision, 5);
        let before = book.texts_before(3, i64::MAX);
        assert_eq!(before.len(), 2);
        assert!(book.is_held(1) && !book.is_held(0));

        let texts = book.texts_at(5).into_iter();
        let documents: Vec<_> = texts.map(|(key, text)| BaseDocument { key, text }).collect();
        put(&mut index, &keys_of_base(&base(5), &documents).unwrap());
        let book = index.book();
        assert_eq!((book.len(), book.head(), book.at_base().len()), (1, 8, 2));
        assert!(!book.has_text("3-0") && book.has_text("5-0") && book.has_text("8-1"));
        assert_eq!(book.of_request("request 5"), None);
        assert_eq!(book.newest_of("/gateway/routes/000001").unwrap().revision, 8);

        // A restored store loses the newest entry: the one before it is the newest again.
        put(&mut index, &keys_of_entry(&entry(9, 2)).unwrap());
        index.on_key(&entry_key(9), None);
        assert_eq!(index.book().newest_of("/gateway/routes/000001").unwrap().revision, 8);
    }
}
