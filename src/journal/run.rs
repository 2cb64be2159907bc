//! The stage: reads what was missed, and writes entries.
//!
//! In: the [`feed`](super::feed) of the loop, and the watch of the entries. Out: entries, texts and the begin of the
//! journal in the store; [`Shown`] for readers.
//!
//! Each replica tracks all changes. The one whose key is at `writer`, under a lease, writes; the others take over when
//! the key is gone. A directory has one server, which needs no lease.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};
use xxhash_rust::xxh3::Xxh3;

use super::book::Base;
use super::confirm::{self, Record};
use super::entry::{Changed, Effect, Entry, FORMAT, Gap, TextRef, Why, millis};
use super::feed::{Item, Seen};
use super::index::{BaseDocument, Index, entry_key, keys_of_base, keys_of_entry};
use super::intent::{self, Intent, Via};
use super::tracker::{Altered, Step, Stored, Texts, Tracker, texts_of};
use super::{Inner, Journal, Shown, TextError, may_hold_secret};
use crate::backend::{Change, Event, Expect, Lease, ListReason, ReadError, Terms, WatchControl, Write, WriteError};

/// Life of the writer's lease without a sign of the writer.
const LEASE: Duration = Duration::from_secs(10);
/// Time between two signs of the writer.
const KEEP: Duration = Duration::from_secs(3);
/// Time between two looks for a writer, if changes wait for one.
const LOOK: Duration = Duration::from_millis(500);
/// The same while nothing waits.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Shortest time between two transactions: at most ten a second.
const PACE: Duration = Duration::from_millis(100);
/// Longest time from the documents of a write to the key that tells of it, in a directory.
const NOTE_WITHIN: Duration = Duration::from_millis(200);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks at the bounds.
const TRIM: Duration = Duration::from_secs(60);
/// Most changes without an entry whose effects are kept.
const EFFECTS: usize = 4096;
/// Operations of one transaction, of the 128 that etcd takes.
const OPERATIONS: usize = 100;
/// Bytes of one transaction, of the 1.5 MiB that etcd takes.
const BYTES: usize = 1 << 20;
/// Texts of the begin above this size are not kept in a store that replicas share: such a text is lost if its first
/// change falls into a gap.
const BASE_BYTES: usize = 16 << 20;

/// The right to write.
struct Writer {
    lease: Option<Lease>,
    /// The etag of the writer's key.
    etag: String,
    keep_at: Instant,
}

/// See the module.
pub struct Stage {
    journal: Journal,
    /// A word of this process.
    id: String,
    index: Index,
    is_index_read: bool,
    /// Why the entries cannot be followed now.
    index_failure: Option<String>,
    /// The process stops: what waits is written at once.
    is_stopping: bool,
    tracker: Tracker,
    /// The effects of changes that have no entry yet.
    effects: BTreeMap<i64, Effect>,
    writer: Option<Writer>,
    /// The earliest next attempt to become the writer.
    look_at: Instant,
    /// The earliest next transaction.
    write_at: Instant,
    trim_at: Instant,
    /// After a failure, nothing is tried before.
    retry_at: Option<Instant>,
}

/// Why the stage waits.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Text(#[from] TextError),
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Stage {
    /// The stage of a journal; to be run once.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        let now = Instant::now();
        Self {
            journal,
            id: format!("{:032x}", rand::random::<u128>()),
            index: Index::default(),
            is_index_read: false,
            index_failure: None,
            is_stopping: false,
            tracker: Tracker::default(),
            effects: BTreeMap::new(),
            writer: None,
            look_at: now,
            write_at: now,
            trim_at: now,
            retry_at: None,
        }
    }

    fn inner(&self) -> &Inner {
        &self.journal.0
    }

    fn is_shared(&self) -> bool {
        self.inner().backend.is_shared()
    }

    /// Run until cancelled. A writer gives its lease back.
    pub async fn run(mut self, token: CancellationToken) {
        let (sender, mut events) = mpsc::channel(1024);
        let mut helpers = JoinSet::new();
        if self.is_shared() {
            let (backend, stop) = (Arc::clone(&self.inner().backend), token.clone());
            let prefix = self.inner().journal_key("index/");
            let span = info_span!("watch", prefix);
            let watch = async move { backend.watch(&prefix, WatchControl::default(), sender, stop).await };
            helpers.spawn(watch.instrument(span));
        }

        while !token.is_cancelled() {
            let wake = self.wake_at();
            let mut received = Vec::new();
            tokio::select! {
                () = token.cancelled() => break,
                1.. = events.recv_many(&mut received, 1024) => {}
                () = self.journal.0.feed.came() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            for event in received {
                self.on_index(event);
            }
            tokio::select! {
                () = token.cancelled() => break,
                () = self.turn() => {}
            }
        }

        let give_back = async {
            // The next start may not know the changes one by one.
            self.is_stopping = true;
            if self.writer.is_some() {
                self.turn().await;
            }
            if let Some(lease) = self.writer.take().and_then(|writer| writer.lease) {
                let ended = self.inner().backend.end_lease(lease).await;
                debug!(is_ended = ended.is_ok(), "Journal is left to another replica");
            }
        };
        if tokio::time::timeout(RETRY, give_back).await.is_err() {
            debug!("Lease of the journal ends by itself");
        }
        while helpers.join_next().await.is_some() {}
    }

    /// When there is something to do without an event.
    fn wake_at(&self) -> Instant {
        if let Some(retry_at) = self.retry_at {
            return retry_at;
        }
        let mut at = Instant::now() + TRIM;
        if let Some(Writer {
            keep_at,
            lease: Some(_),
            ..
        }) = &self.writer
        {
            at = at.min(*keep_at);
        }
        match self.writer {
            Some(_) if self.has_work() => at.min(self.write_at),
            Some(_) => at,
            None => at.min(self.look_at),
        }
    }

    /// Whether something waits to be written.
    fn has_work(&self) -> bool {
        self.is_index_read
            && self.knows_all()
            && (self.index.book().base().is_none() || self.tracker.due().next().is_some())
    }

    /// Whether every root was listed.
    fn knows_all(&self) -> bool {
        self.inner().roots.iter().all(|root| self.tracker.knows(root))
    }

    fn on_index(&mut self, event: Event) {
        let below = |key: &Bytes| {
            let key = std::str::from_utf8(key).ok()?;
            Some(key.strip_prefix(&self.inner().journal_key(""))?.to_owned())
        };
        match event {
            Event::Listed { entries, .. } => {
                let keys: Vec<_> = entries
                    .iter()
                    .filter_map(|entry| Some((below(&entry.key)?, &entry.value)))
                    .collect();
                self.index
                    .on_list(keys.iter().map(|(key, value)| (key.as_str(), *value)));
                self.is_index_read = true;
                self.index_failure = None;
            }
            Event::Failed { reason } => self.index_failure = Some(reason),
            Event::Changed { changes, .. } => {
                let keys: Vec<_> = changes
                    .iter()
                    .filter_map(|change| match change {
                        Change::Put(entry) => Some((below(&entry.key)?, Some(&entry.value))),
                        Change::Delete { key } => Some((below(key)?, None)),
                    })
                    .collect();
                keys.into_iter().for_each(|(key, value)| self.index.on_key(&key, value));
            }
            _ => {}
        }
    }

    /// Drop the changes that have entries now.
    fn on_head(&mut self) {
        let book = self.index.book();
        let is_restored = |revision| {
            let entry = book.at(revision).filter(|entry| entry.revision == revision);
            entry
                .and_then(|entry| entry.gap)
                .is_some_and(|gap| gap.why == Why::Restored)
        };
        self.tracker.on_head(book.head(), is_restored);
        self.effects = self.effects.split_off(&book.head().saturating_add(1));
    }

    async fn read_index(&mut self) -> Result<(), Failed> {
        let prefix = self.inner().journal_key("index/");
        let (revision, entries) = self.inner().backend.list(&prefix).await?;
        let reason = ListReason::Confirm;
        self.on_index(Event::Listed {
            revision,
            reason,
            entries,
        });
        Ok(())
    }

    /// Take in what has come, write what is due.
    async fn turn(&mut self) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            self.on_head();
            self.show();
            return;
        }
        let outcome = self.try_turn().await;
        self.retry_at = outcome.is_err().then(|| Instant::now() + RETRY);
        let reason = outcome.err().map(|error| error.to_string());
        if let Some(reason) = &reason {
            // The outcome of a write may be unknown, so the entries are read again, and the lease is taken anew.
            self.is_index_read &= self.is_shared();
            self.look_at = Instant::now() + RETRY;
            if self.journal.trouble().is_none() {
                warn!(
                    reason,
                    "Journal cannot be read or written now; it is tried again, and serving goes on"
                );
            }
        } else if self.journal.trouble().is_some() {
            info!("Journal is read and written again");
        }
        *self.inner().trouble.lock() = reason;
        self.show();
    }

    async fn try_turn(&mut self) -> Result<(), Failed> {
        if !self.is_index_read {
            if self.is_shared() {
                return match &self.index_failure {
                    Some(reason) => Err(ReadError::Unavailable(reason.clone()).into()),
                    None => Ok(()),
                };
            }
            self.read_index().await?;
        }
        while let Some(item) = self.inner().feed.next() {
            if let Err(error) = self.take(&item).await {
                self.inner().feed.put_back(item);
                return Err(error);
            }
        }
        self.on_head();
        if !self.knows_all() {
            return Ok(());
        }

        self.keep_lease().await;
        if self.writer.is_none() && self.look_at <= Instant::now() {
            self.look_at = Instant::now() + if self.has_work() { LOOK } else { IDLE_LOOK };
            self.become_writer().await?;
        }
        if self.writer.is_some() {
            let written = self.write_due().await;
            if written.is_err() {
                self.leave_writer().await;
                self.read_index().await?;
            }
            written?;
        }
        Ok(())
    }

    fn show(&self) {
        self.inner().is_writer.store(self.writer.is_some(), Ordering::Relaxed);
        let (texts, at) = self.tracker.settled();
        let book = self.index.book();
        let shown = self.inner().shown.load();
        let whole = self.tracker.whole();
        if shown.at == at && shown.whole == whole && shown.book.is_same(book) {
            return;
        }
        self.inner().shown.store(Arc::new(Shown {
            book: book.clone(),
            texts: texts.clone(),
            at,
            whole,
        }));
        self.inner().changed.send_replace(());
    }

    async fn take(&mut self, item: &Item) -> Result<(), Failed> {
        match item {
            Item::Whole(revision) => self.tracker.on_whole(*revision),
            Item::Effect(revisions, effect) => {
                let effects = revisions.iter().map(|revision| (*revision, effect.clone()));
                self.effects.extend(effects);
                while self.effects.len() > EFFECTS {
                    self.effects.pop_first();
                }
            }
            Item::Lost(reason) => {
                for root in self.inner().roots.clone() {
                    let (revision, entries) = self.inner().backend.list(&root).await?;
                    let list = texts_of(&entries);
                    self.on_list(&root, revision, *reason, list, SystemTime::now()).await?;
                }
            }
            Item::Seen(
                Seen::Changed {
                    root,
                    revision,
                    changes,
                },
                at,
            ) => {
                if *revision > self.tracker.reached(root) {
                    self.tracker.on_changed(root, *revision, *at, changes);
                }
            }
            Item::Seen(
                Seen::Listed {
                    root,
                    revision,
                    reason,
                    entries,
                },
                at,
            ) => {
                self.on_list(root, *revision, *reason, texts_of(entries), *at).await?;
            }
        }
        Ok(())
    }

    /// A whole list of a root. Revisions that were missed are read from the history of the store.
    async fn on_list(
        &mut self,
        root: &Arc<str>,
        listed: i64,
        reason: ListReason,
        list: Texts,
        at: SystemTime,
    ) -> Result<(), Failed> {
        let is_first = !self.tracker.knows(root);
        if is_first && self.index.book().base().is_none() {
            self.tracker.begin(root, listed, &list);
            return Ok(());
        }
        let reached = match is_first {
            true => self.index.book().head(),
            false => self.tracker.reached(root),
        };
        let is_restored = listed < reached || (!is_first && reason == ListReason::Fork);
        if !self.is_shared() {
            if is_first {
                let known = self.known_at_head(root, &list).await?;
                self.tracker.begin(root, reached, &known);
            }
            // A directory keeps no history. The batch after the newest entry is one change; more are not known one by one.
            let gap = match () {
                () if is_restored => Some(Why::Restored),
                () if listed > reached + 1 => Some(Why::Compacted),
                () => None,
            };
            self.tracker.on_list(root, listed, at, gap, &list);
            self.tracker.merge_into_gap();
            return Ok(());
        }

        if is_restored {
            // The entries of the store may be those of another history, too.
            self.read_index().await?;
        }
        let missed = match is_restored {
            true => Err(ReadError::NoHistory(reached)),
            false => self.inner().backend.history(root, reached, listed).await,
        };
        let missed = match missed {
            Ok(missed) => Some(missed),
            Err(ReadError::NoHistory(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if is_first {
            let known = match &missed {
                Some(missed) => self.before_history(root, reached, missed, &list).await?,
                None => self.known_at_head(root, &list).await?,
            };
            self.tracker.begin(root, reached, &known);
        }
        if let Some(missed) = missed
            && self.tracker.on_history(root, listed, at, &missed, &list)
        {
            return Ok(());
        }
        let why = if is_restored { Why::Restored } else { Why::Compacted };
        if self.tracker.differs(root, &list) {
            info!(
                root = &**root,
                from = reached,
                to = listed,
                ?why,
                "Revisions of documents are missing: the journal has a gap"
            );
        }
        self.tracker.on_list(root, listed, at, Some(why), &list);
        self.tracker.merge_into_gap();
        Ok(())
    }

    /// The texts before revisions that were missed: those of the list, but for the documents that these revisions changed.
    async fn before_history(
        &self,
        root: &Arc<str>,
        at: i64,
        missed: &[crate::backend::Revision],
        list: &Texts,
    ) -> Result<Texts, Failed> {
        let mut texts = list.clone();
        let mut seen = HashSet::new();
        for change in missed.iter().flat_map(|revision| &revision.changes) {
            let key = super::tracker::full_key(change.key());
            if !seen.insert(Arc::clone(&key)) {
                continue;
            }
            let before = match self.inner().backend.get_at(change.key(), at).await {
                Ok(entry) => entry.as_ref().map(Stored::from),
                // The state at this very revision is gone; the changes after it are not.
                Err(ReadError::NoHistory(_)) => self.known_text(root, &key).await?,
                Err(error) => return Err(error.into()),
            };
            match before {
                Some(before) => texts.insert(key, before),
                None => texts.remove(&key),
            };
        }
        Ok(texts)
    }

    /// The text of a document at the newest entry, by what the journal keeps.
    async fn known_text(&self, _root: &Arc<str>, key: &Arc<str>) -> Result<Option<Stored>, Failed> {
        let book = self.index.book();
        let text = match book.newest_of(key) {
            Some(entry) => entry.document(key).and_then(|changed| changed.after.as_ref()),
            None => book.at_base().get(key),
        };
        let Some(text) = text else { return Ok(None) };
        Ok(Some(self.stored(key, text).await?))
    }

    async fn stored(&self, key: &Arc<str>, text: &TextRef) -> Result<Stored, Failed> {
        Ok(Stored {
            value: self.journal.text(key, text).await?,
            revision: text.revision,
            created: text.created,
            leased: text.leased,
        })
    }

    /// The texts of a root at the newest entry, by what the journal keeps. A text that has not changed is not read.
    async fn known_at_head(&self, root: &Arc<str>, list: &Texts) -> Result<Texts, Failed> {
        let book = self.index.book();
        let head = book.head();
        let mut texts = Texts::new();
        for (key, text) in book.texts_at(head) {
            if !key.starts_with(&**root) {
                continue;
            }
            let listed = list.get(&key).filter(|listed| self.is_same(&key, &text, listed, head));
            let known = match listed {
                Some(listed) => listed.clone(),
                None => self.stored(&key, &text).await?,
            };
            texts.insert(key, known);
        }
        // Documents that the journal has never kept, because they are older than it.
        if self.is_shared() {
            for (key, listed) in list {
                if !texts.contains_key(key) && listed.created <= head {
                    let is_same = listed.revision <= head;
                    let value = listed.value.clone().filter(|_| is_same);
                    texts.insert(
                        Arc::clone(key),
                        Stored {
                            value,
                            ..listed.clone()
                        },
                    );
                }
            }
        }
        Ok(texts)
    }

    fn is_same(&self, key: &str, text: &TextRef, listed: &Stored, head: i64) -> bool {
        match self.is_shared() {
            true => listed.revision <= head,
            false => text.name.is_some() && text.name == self.text_ref(key, listed).name,
        }
    }

    async fn keep_lease(&mut self) {
        let Some(Writer {
            lease: Some(lease),
            keep_at,
            ..
        }) = &mut self.writer
        else {
            return;
        };
        let now = Instant::now();
        if now < *keep_at {
            return;
        }
        let (lease, is_over) = (*lease, now > *keep_at + LEASE);
        *keep_at = now + KEEP;
        // A failure says nothing: each write compares the key of the lease.
        if is_over || matches!(self.inner().backend.keep_lease(lease).await, Ok(false)) {
            self.leave_writer().await;
        }
    }

    /// Write no more, and let another replica be first.
    async fn leave_writer(&mut self) {
        let lease = self.writer.take().and_then(|writer| writer.lease);
        self.look_at = Instant::now() + LOOK;
        if let Some(lease) = lease
            && let Err(error) = self.inner().backend.end_lease(lease).await
        {
            debug!(%error, "Lease of the journal ends by itself");
        }
    }

    /// Become the writer if nobody is.
    async fn become_writer(&mut self) -> Result<(), Failed> {
        let now = Instant::now();
        if !self.is_shared() {
            self.writer = Some(Writer {
                lease: None,
                etag: String::new(),
                keep_at: now,
            });
            return Ok(());
        }
        let backend = Arc::clone(&self.inner().backend);
        let key = self.inner().journal_key("writer");
        if backend.get(key.as_bytes()).await?.is_some() {
            return Ok(());
        }
        let lease = backend.grant_lease(LEASE).await?;
        let write = Write {
            key: key.clone().into(),
            value: Some(self.id.clone().into()),
            expect: Expect::Absent,
        };
        let terms = Terms {
            lease: Some(lease),
            ..Terms::default()
        };
        let written = backend.write_if(vec![write], terms).await;
        match written {
            Ok(_) => {}
            Err(error) => {
                // Another replica was first, or nobody knows: the lease is given back.
                backend.end_lease(lease).await?;
                return match error {
                    WriteError::Conflict { .. } => Ok(()),
                    error => Err(error.into()),
                };
            }
        }
        let Some(entry) = backend
            .get(key.as_bytes())
            .await?
            .filter(|entry| entry.value == self.id)
        else {
            return Ok(());
        };
        self.writer = Some(Writer {
            lease: Some(lease),
            etag: backend.etag(&entry),
            keep_at: now + KEEP,
        });
        info!("This replica writes the journal now");
        // Another writer may have left entries that the watch has not brought yet.
        self.read_index().await?;
        self.on_head();
        Ok(())
    }

    /// Write the begin, the changes that have no entry, and what the bounds take away.
    async fn write_due(&mut self) -> Result<(), Failed> {
        // At a stop, the transaction itself waits for its time.
        if Instant::now() < self.write_at && !self.is_stopping {
            return Ok(());
        }
        if self.index.book().base().is_none() {
            return self.write_base().await;
        }
        if !self.is_shared() && !self.is_stopping && self.is_too_early() {
            self.write_at = Instant::now() + PACE;
            return Ok(());
        }
        let steps: Vec<Step> = self.tracker.due().take(OPERATIONS).cloned().collect();
        if !steps.is_empty() {
            self.write_steps(&steps).await?;
        }
        if self.trim_at <= Instant::now() {
            self.trim_at = Instant::now() + TRIM;
            self.trim().await?;
        }
        Ok(())
    }

    /// Whether the key that tells of a write may not be there yet: in a directory, it comes after the documents.
    fn is_too_early(&self) -> bool {
        let newest = self.tracker.due().last();
        newest.is_some_and(|step| step.at.elapsed().is_ok_and(|since| since < NOTE_WITHIN))
    }

    async fn write_base(&mut self) -> Result<(), Failed> {
        let (texts, at) = self.tracker.settled();
        let texts = texts.clone();
        let base = Base {
            format: FORMAT,
            id: self.id.clone(),
            revision: at,
        };
        let size: usize = texts
            .values()
            .filter_map(|text| text.value.as_ref())
            .map(Bytes::len)
            .sum();
        let keeps_texts = !self.is_shared() || size <= BASE_BYTES;
        let mut operations = Vec::new();
        let mut documents = Vec::new();
        for (key, stored) in &texts {
            let mut text = text_ref(&base.id, key, stored, &self.inner().roots);
            if keeps_texts {
                operations.extend(self.put_text(key, &text, stored));
            } else {
                text.name = None;
            }
            documents.push(BaseDocument {
                key: Arc::clone(key),
                text,
            });
        }
        let keys = keys_of_base(&base, &documents)?;
        operations.extend(
            keys.into_iter()
                .map(|(below, value)| self.put(&below, value, Expect::Any)),
        );
        self.commit(operations).await?;
        info!(revision = at, documents = documents.len(), "Journal begins");
        Ok(())
    }

    async fn write_steps(&mut self, steps: &[Step]) -> Result<(), Failed> {
        let prefix = format!("{}{}", self.inner().state_prefix, intent::FOLDER);
        let (_, found) = self.inner().backend.list(&prefix).await?;
        let mut intents: BTreeMap<i64, (String, Intent)> = BTreeMap::new();
        for entry in &found {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            if let Ok(intent) = serde_json::from_slice::<Intent>(&entry.value) {
                intents.insert(entry.mod_revision, (key, intent));
            }
        }

        let mut operations = Vec::new();
        let mut kept: HashSet<Arc<str>> = HashSet::new();
        let mut coming = Vec::new();
        let mut has_records = false;
        for step in steps {
            if step.gap == Some(Why::Restored) {
                operations.extend(self.drop_after(step.revision)?);
            }
            let mut documents = Vec::new();
            for (key, Altered { before, after }) in &step.documents {
                let mut keep = |stored: &Stored| {
                    let text = self.text_ref(key, stored);
                    let is_kept = text.name.as_ref().is_none_or(|name| self.index.book().has_text(name));
                    if !is_kept && text.name.clone().is_some_and(|name| kept.insert(name)) {
                        operations.extend(self.put_text(key, &text, stored));
                    }
                    text
                };
                documents.push(Changed {
                    key: Arc::clone(key),
                    before: before.as_ref().map(&mut keep),
                    after: after.as_ref().map(&mut keep),
                });
            }
            let intent = intents.remove(&step.revision).filter(|_| step.gap.is_none());
            let (request_key, intent) = intent.unzip();
            let request_id = request_key.as_ref().and_then(|key| key.strip_prefix(&prefix));
            let entry = Entry {
                format: FORMAT,
                revision: step.revision,
                at: millis(step.at),
                via: intent.as_ref().map_or(Via::Direct, |intent| intent.via),
                actor: intent.as_ref().and_then(|intent| intent.actor.clone()),
                message: intent.as_ref().and_then(|intent| intent.message.clone()),
                request_id: request_id.map(str::to_owned),
                of: intent.as_ref().and_then(|intent| intent.of.clone()),
                undoes: intent.as_ref().and_then(|intent| intent.undoes),
                gap: step.gap.map(|why| Gap {
                    from: step.from,
                    to: step.revision,
                    why,
                }),
                effect: self
                    .effects
                    .get(&step.revision)
                    .filter(|_| step.gap.is_none())
                    .cloned()
                    .map(Box::new),
                documents,
            };
            let expect = if step.gap == Some(Why::Restored) {
                Expect::Any
            } else {
                Expect::Absent
            };
            if let Some(within) = intent.and_then(|intent| intent.confirm_within) {
                // In front of the entry: a change that has one has its record.
                operations.push(self.put_record(&entry, within)?);
                has_records = true;
            }
            let mut keys = keys_of_entry(&entry)?;
            coming.push(Arc::new(entry));
            let own = keys.pop();
            operations.extend(
                keys.into_iter()
                    .map(|(below, value)| self.put(&below, value, Expect::Any)),
            );
            operations.extend(own.map(|(below, value)| self.put(&below, value, expect)));
            operations.extend(request_key.map(|key| Write {
                key: key.into(),
                value: None,
                expect: Expect::Any,
            }));
        }
        // Of writes that altered nothing, or that lie in a gap.
        let last = steps.last().map_or(0, |step| step.revision);
        let stale = intents.range(..last).map(|(_, (key, _))| Write {
            key: key.clone().into(),
            value: None,
            expect: Expect::Any,
        });
        operations.extend(stale.collect::<Vec<_>>());
        *self.inner().coming.lock() = coming;
        let written = self.commit(operations).await;
        if has_records {
            self.inner().confirms.send_replace(());
        }
        written
    }

    /// The record of a change that is undone unless it is confirmed.
    fn put_record(&self, entry: &Entry, within: u64) -> Result<Write, Failed> {
        let record = Record {
            format: confirm::FORMAT,
            revision: entry.revision,
            actor: entry.actor.clone(),
            within,
            until: entry.at.saturating_add(within),
            not_undone: None,
        };
        Ok(Write {
            key: self.journal.state_key(&Record::key(entry.revision)).into(),
            value: Some(serde_json::to_vec(&record)?.into()),
            expect: Expect::Any,
        })
    }

    /// The entries of the history before a restore that the restored one does not have.
    fn drop_after(&self, revision: i64) -> Result<Vec<Write>, Failed> {
        let book = self.index.book();
        let mut operations = Vec::new();
        if let Some(base) = book.base().filter(|base| base.revision >= revision) {
            let base = Base {
                revision: revision - 1,
                ..base.clone()
            };
            let documents: Vec<BaseDocument> = Vec::new();
            let keys = keys_of_base(&base, &documents)?;
            operations.extend(
                keys.into_iter()
                    .map(|(below, value)| self.put(&below, value, Expect::Any)),
            );
        }
        let later = book
            .after(revision)
            .map(|entry| self.delete(&entry_key(entry.revision)));
        operations.extend(later);
        Ok(operations)
    }

    async fn trim(&mut self) -> Result<(), Failed> {
        let book = self.index.book().clone();
        let (Some(base), Some(last)) = (book.base(), book.trim(&self.inner().limits, SystemTime::now())) else {
            return Ok(());
        };
        let old_base = base.revision;
        let base = Base {
            revision: last,
            ..base.clone()
        };
        let documents: Vec<BaseDocument> = book
            .texts_at(last)
            .into_iter()
            .map(|(key, text)| BaseDocument { key, text })
            .collect();
        let keys = keys_of_base(&base, &documents)?;
        let mut operations: Vec<Write> = keys
            .into_iter()
            .map(|(below, value)| self.put(&below, value, Expect::Any))
            .collect();

        // After the begin: an entry before the begin does not count, and a text that nothing names is never missed.
        let mut rest = book.clone();
        let texts = documents.into_iter().map(|document| (document.key, document.text));
        rest.set_base(base, texts.collect());
        let gone: Vec<_> = book.entries().take_while(|entry| entry.revision <= last).collect();
        for entry in &gone {
            let parts = keys_of_entry(entry)?;
            operations.extend(parts.iter().map(|(below, _)| self.delete(below)));
        }
        let prefix = self.inner().journal_key(&format!("index/base/{old_base:020}/"));
        let (_, parts) = self.inner().backend.list(&prefix).await?;
        operations.extend(parts.into_iter().map(|part| Write {
            key: part.key,
            value: None,
            expect: Expect::Any,
        }));
        let unused = book.names().filter(|name| !rest.has_text(name));
        operations.extend(unused.map(|name| self.delete(&format!("texts/{name}"))));
        debug!(
            up_to = last,
            entries = gone.len(),
            "Deleted the oldest entries of the journal"
        );
        self.commit(operations).await
    }

    fn put(&self, below: &str, value: Bytes, expect: Expect) -> Write {
        Write {
            key: self.inner().journal_key(below).into(),
            value: Some(value),
            expect,
        }
    }

    fn delete(&self, below: &str) -> Write {
        Write {
            key: self.inner().journal_key(below).into(),
            value: None,
            expect: Expect::Any,
        }
    }

    fn text_ref(&self, key: &str, stored: &Stored) -> TextRef {
        let id = self.index.book().base().map_or("", |base| base.id.as_str());
        text_ref(id, key, stored, &self.inner().roots)
    }

    fn put_text(&self, key: &str, text: &TextRef, stored: &Stored) -> Option<Write> {
        let (Some(name), Some(value)) = (&text.name, &stored.value) else {
            return None;
        };
        // Without keys, the store has the secret in the clear at its own key, too.
        let form = self
            .inner()
            .sealed(key, value)
            .map_or_else(|| value.clone(), Bytes::from);
        Some(self.put(&format!("texts/{name}"), form, Expect::Any))
    }

    /// Carry out operations in order, in transactions, each of which compares the writer's key.
    async fn commit(&mut self, operations: Vec<Write>) -> Result<(), Failed> {
        let mut operations = operations.into_iter().peekable();
        while operations.peek().is_some() {
            let mut transaction = Vec::new();
            let mut bytes = 0;
            while let Some(next) = operations.next_if(|write| {
                let size = write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
                let is_twice = transaction.iter().any(|earlier: &Write| earlier.key == write.key);
                let fits = transaction.is_empty() || (bytes + size <= BYTES && transaction.len() < OPERATIONS);
                bytes += size;
                fits && !is_twice
            }) {
                transaction.push(next);
            }
            tokio::time::sleep_until(self.write_at).await;
            self.keep_lease().await;
            let Some(writer) = &self.writer else { return Ok(()) };
            let own = transaction.clone();
            if writer.lease.is_some() {
                let compare = Write {
                    key: self.inner().journal_key("writer").into(),
                    value: Some(self.id.clone().into()),
                    expect: Expect::Etag(writer.etag.clone()),
                };
                transaction.insert(0, compare);
            }
            let written = self.inner().backend.write(transaction).await;
            self.write_at = Instant::now() + PACE;
            match written {
                Ok(_) => {}
                Err(WriteError::Conflict { key, .. }) => {
                    // Another replica writes, or has written this entry.
                    debug!(key, "Journal was written by another replica");
                    self.leave_writer().await;
                    self.read_index().await?;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let prefix = self.inner().journal_key("");
            for write in own {
                let key = String::from_utf8_lossy(&write.key).into_owned();
                if let Some(below) = key.strip_prefix(&prefix).filter(|below| below.starts_with("index/")) {
                    self.index.on_key(below, write.value.as_ref());
                }
            }
        }
        self.on_head();
        Ok(())
    }
}

/// The name of a text: its content, or, if the content may be a secret, a word that says nothing of it.
fn text_ref(id: &str, key: &str, stored: &Stored, roots: &[Arc<str>]) -> TextRef {
    let name = stored.value.as_ref().map(|value| {
        let mut hash = Xxh3::with_seed(0x6a6f_7572_6e61_6c31);
        hash.update(id.as_bytes());
        if may_hold_secret(key, roots) {
            hash.update(b"\0secret\0");
            hash.update(key.as_bytes());
            hash.update(&stored.revision.to_le_bytes());
        } else {
            hash.update(value);
        }
        format!("{:032x}", hash.digest128()).into()
    });
    TextRef {
        name,
        bytes: stored.value.as_ref().map_or(0, |value| value.len() as u64),
        revision: stored.revision,
        created: stored.created,
        leased: stored.leased,
    }
}
