//! The journal: every change of a document, with its author, its message and both texts.
//!
//! In: the revisions of the roots of documents, from `reconcile`; what a write says of itself ([`Intent`]). Out: entries
//! below `<state-prefix>journal/`, the texts of any revision that the journal holds, the texts that an undo puts back.
//!
//! | module | what it is |
//! |---|---|
//! | [`entry`] | pure: an entry, as it lies in the store |
//! | [`book`] | pure: all entries without their texts; which texts an undo puts back; the bounds |
//! | [`index`] | pure: keys and values of the store → [`book`] |
//! | [`tracker`] | pure: the texts of the store, and the changes that have no entry yet |
//! | `feed` | from the loop to the stage, without a wait |
//! | [`intent`] | what a write says of itself, in the same transaction |
//! | [`confirm`] | pure: the record of a change that is undone unless it is confirmed |
//! | [`run`] | the stage: reads what was missed, writes entries under a lease |
//!
//! Promises:
//!
//! - Each revision that alters a text has exactly one entry, or lies in a gap that says so, whichever replica dies when.
//! - One replica writes at a time. Each of its writes compares that the key of its lease is its own, so a replica that
//!   wakes after its lease has ended writes nothing.
//! - A journal that cannot be written stops nothing else: [`Journal::trouble`] has the reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

pub mod book;
pub mod confirm;
pub mod entry;
mod feed;
pub mod index;
pub mod intent;
pub mod run;
pub mod tracker;

use book::{Book, Limits};
use entry::{Entry, TextRef};
use feed::Feed;
pub use feed::{News, Seen};
pub use intent::Intent;
use tracker::Texts;

use crate::backend::{Backend, ReadError};
use crate::document::key::Kind;
use crate::document::secret::Vault;

/// The journal as a replica sees it: its entries, and the texts at one revision.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The entries.
    pub book: Book,
    /// The texts at `at`, which has all entries before it.
    pub texts: Texts,
    /// The revision of the texts.
    pub at: i64,
    /// Every change up to this revision is known, and has its entry.
    pub whole: i64,
}

/// The journal, for readers and for the loop. Clones share the state.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    /// `<state-prefix>`.
    state_prefix: Arc<str>,
    vault: Vault,
    limits: Limits,
    /// The prefixes of the roots of documents.
    roots: Vec<Arc<str>>,
    feed: Feed,
    shown: ArcSwap<Shown>,
    /// Changes with `shown`.
    changed: watch::Sender<()>,
    is_writer: AtomicBool,
    /// The entries that are being written: the keys of their writes go in the same transaction, before `shown` has them.
    coming: Mutex<Vec<Arc<Entry>>>,
    trouble: Mutex<Option<String>>,
    /// Changes when this replica has written a [`confirm::Record`].
    confirms: watch::Sender<()>,
}

/// A revision that the journal cannot show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotShown {
    /// No change is known yet at this revision.
    #[error("there is no revision {0} yet")]
    Unknown(i64),
    /// Entries after it are gone, or there never were any.
    #[error("the journal does not hold revision {revision}: {}", sentence_of(.oldest))]
    NotHeld {
        /// The revision.
        revision: i64,
        /// The oldest revision that is held.
        oldest: Option<i64>,
    },
    /// This replica has not read the newest entries yet.
    #[error("this server has not read the newest entries of the journal yet")]
    Behind,
}

fn sentence_of(oldest: &Option<i64>) -> String {
    match oldest {
        Some(oldest) => format!("the oldest that it holds is {oldest}"),
        None => "it has not begun yet".to_owned(),
    }
}

/// Failure of a read of a text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The store does not answer.
    #[error("{0}")]
    Store(#[from] ReadError),
    /// The text does not open with the keys of this server.
    #[error("{0}")]
    Sealed(String),
}

/// A text at an earlier revision: the present one, or one that the journal keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextAt {
    /// Has not changed since.
    Present(tracker::Stored),
    /// Kept by the journal.
    Kept(TextRef),
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Journal").finish_non_exhaustive()
    }
}

impl Journal {
    /// The journal below `state_prefix` of a store. `roots`: the prefixes of the roots of documents.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        state_prefix: &str,
        roots: Vec<Arc<str>>,
        vault: Vault,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            backend,
            state_prefix: state_prefix.into(),
            vault,
            limits,
            roots,
            feed: Feed::default(),
            shown: ArcSwap::default(),
            changed: watch::Sender::new(()),
            is_writer: AtomicBool::new(false),
            coming: Mutex::default(),
            trouble: Mutex::default(),
            confirms: watch::Sender::new(()),
        }))
    }

    /// Take what the loop has planned. Never waits.
    pub fn observe(&self, news: News) {
        self.0.feed.push(news);
    }

    /// The entries and the newest texts, as this replica knows them.
    #[must_use]
    pub fn shown(&self) -> Arc<Shown> {
        self.0.shown.load_full()
    }

    /// Whether this replica writes the journal.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        self.0.is_writer.load(Ordering::Relaxed)
    }

    /// Wait until every change up to a revision has its entry, no longer than `within`. Returns whether they do. Cancel safe.
    pub async fn reached(&self, revision: i64, within: Duration) -> bool {
        let mut changed = self.0.changed.subscribe();
        let has_reached = || {
            let shown = self.0.shown.load();
            shown.whole >= revision && shown.at >= shown.book.head()
        };
        let wait = async {
            while !has_reached() {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let is_in_time = tokio::time::timeout(within, wait).await.is_ok();
        is_in_time && has_reached()
    }

    /// The full key of a name below the state prefix.
    #[must_use]
    pub fn state_key(&self, below: &str) -> String {
        format!("{}{below}", self.0.state_prefix)
    }

    /// Why entries cannot be read or written now; `None`: they can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
    }

    /// Changes when this replica has written a [`confirm::Record`].
    #[must_use]
    pub fn confirms(&self) -> watch::Receiver<()> {
        self.0.confirms.subscribe()
    }

    /// The change that a request made.
    #[must_use]
    pub fn of_request(&self, request_id: &str) -> Option<Arc<Entry>> {
        // In this order: an entry that is written meanwhile is in one of the two.
        let coming = self.0.coming.lock().clone();
        let shown = self.0.shown.load().book.of_request(request_id).cloned();
        let is_of = |entry: &&Arc<Entry>| entry.request_id.as_deref() == Some(request_id);
        shown.or_else(|| coming.iter().find(is_of).cloned())
    }

    /// A text that an entry names; `None`: the text is lost.
    ///
    /// # Errors
    /// The store does not answer, or a sealed text does not open.
    pub async fn text(&self, full_key: &str, text: &TextRef) -> Result<Option<Bytes>, TextError> {
        let Some(name) = &text.name else { return Ok(None) };
        let found = self.0.backend.get(self.0.text_key(name).as_bytes()).await?;
        let Some(found) = found else { return Ok(None) };
        if !self.0.is_sealable(full_key) {
            return Ok(Some(found.value));
        }
        let Ok(form) = String::from_utf8(found.value.to_vec()) else {
            return Ok(Some(found.value));
        };
        let opened = self.0.vault.text_of(full_key, form);
        let opened = opened.map_err(|reason| TextError::Sealed(format!("{full_key}: {reason}")))?;
        Ok(Some(opened.into()))
    }
}

impl Shown {
    /// Whether the journal has an answer about a revision.
    ///
    /// # Errors
    /// The revision is newer than every change, or not held.
    pub fn check(&self, revision: i64) -> Result<(), NotShown> {
        let base = self.book.base().map(|base| base.revision);
        if revision > self.at.max(self.book.head()) {
            return Err(NotShown::Unknown(revision));
        }
        if !self.book.is_held(revision) {
            return Err(NotShown::NotHeld { revision, oldest: base });
        }
        Ok(())
    }

    /// The texts at a revision, by full key: the newest ones with the entries after it taken back.
    ///
    /// # Errors
    /// The revision is newer than every change, or not held; or this replica has not read the newest texts yet.
    pub fn texts_at(&self, revision: i64) -> Result<imbl::OrdMap<Arc<str>, TextAt>, NotShown> {
        self.check(revision)?;
        if self.at < self.book.head() {
            return Err(NotShown::Behind);
        }
        let present = self.texts.iter();
        let mut texts: imbl::OrdMap<_, _> = present
            .map(|(key, text)| (Arc::clone(key), TextAt::Present(text.clone())))
            .collect();
        for (key, text) in self.book.texts_before(revision, i64::MAX) {
            match text {
                Some(text) => texts.insert(key, TextAt::Kept(text)),
                None => texts.remove(&key),
            };
        }
        Ok(texts)
    }
}

impl Inner {
    fn journal_key(&self, below: &str) -> String {
        format!("{}journal/{below}", self.state_prefix)
    }

    /// Whether the text of a document is sealed if there are keys: also a sealed one, since another key may seal it.
    fn is_sealable(&self, full_key: &str) -> bool {
        let below = self.roots.first().and_then(|root| full_key.strip_prefix(&**root));
        below.is_some_and(|below| below.starts_with("secrets/") || below.starts_with("xds/"))
    }

    /// The sealed form of a text; `None`: the text lies as it is.
    fn sealed(&self, full_key: &str, text: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(text).ok().filter(|_| self.is_sealable(full_key))?;
        self.vault.seal_text(full_key, text)
    }

    fn text_key(&self, name: &str) -> String {
        self.journal_key(&format!("texts/{name}"))
    }
}

/// Whether the texts of a document may be or contain a secret: they have names that say nothing of their content. The
/// first root is that of all kinds; the others have routes.
fn may_hold_secret(full_key: &str, roots: &[Arc<str>]) -> bool {
    let below = roots.first().and_then(|root| full_key.strip_prefix(&**root));
    below.is_some_and(|below| {
        let word = below.split('/').next().unwrap_or_default();
        Kind::from_word(word).is_none_or(|kind| matches!(kind, Kind::Secrets | Kind::Xds))
    })
}
