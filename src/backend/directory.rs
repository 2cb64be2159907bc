//! Documents in a folder, the default without etcd.
//!
//! In: a folder that editors, `git` or a Kubernetes volume change. Out: the same events as from etcd.
//!
//! - **Keys**: the tree mirrors them (`names`). `routes/orders.json` is `{prefix}routes/orders`, `services/a/1.yaml` is
//!   `{registry prefix}a/1`.
//! - **Revisions**: all changes until 20 ms of quiet are one batch with one revision, a counter that the state
//!   directory saves (`counter`). There is no history ([`ReadError::NoHistory`]), no lease, and every `create_revision`
//!   is 0.
//! - **Keys of the server** below the state prefix are files in the state directory (`keys`).
//! - **Scans**: after a notice of the file system, and every 5 s without one, the whole tree is scanned and compared
//!   with the events sent before (`scan`). So the content of a notice does not matter, and a lost notice costs seconds.
//! - **Problems**: [`Event::Problems`] names the files that cannot be entries: the second file of a key (by name), and
//!   files and folders that cannot be read; their keys keep the last content.
//! - **Size**: a file larger than 1 MiB gives an entry of 1 MiB and one byte, which the check of the document rejects.
//! - **Missing folder**: if the folder does not exist, the root fails; the backend sends no empty list. If a folder
//!   with documents becomes empty, without even a subfolder, its volume may be unmounted. The backend then sends an
//!   empty list, which the guard of lists can hold, instead of deletes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use self::counter::{Counter, Saved};
use self::keys::Keys;
use self::names::Names;
use self::notice::Notices;
use self::scan::{Content, LARGEST_DOCUMENT, Scan, scan};
use self::write::{Step, carry_out, lock};
use super::{
    Backend, Base, Change, Entry, Event, Expect, ListReason, Marked, Note, Problem, ReadError, Terms, Unchanged,
    WatchControl, Write, WriteError,
};

mod counter;
mod keys;
mod names;
mod notice;
mod scan;
mod write;

/// Time between two scans without a notice of the file system.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// The same, if the folder is missing or the system cannot watch all of its folders.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Limit of scans in a row: folders may appear while new folders get their watches. The next scan finds the rest.
const MOST_RESCANS: usize = 8;

/// The directory backend. Clones share the folder and its revision.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    names: Names,
    keys: Keys,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    counter: Counter,
    scan: Scan,
    tree: Arc<Tree>,
}

/// The folder at one revision.
#[derive(Debug, Default)]
struct Tree {
    /// 0 before the first scan.
    revision: i64,
    entries: BTreeMap<Bytes, Entry>,
    problems: Vec<Problem>,
    is_bare: bool,
}

impl Tree {
    fn below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Entry> {
        let from = self
            .entries
            .range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// The changes from an older tree to this one.
    fn changes_since(&self, old: &Self, prefix: &[u8]) -> Vec<Change> {
        let puts = self.below(prefix).filter(|entry| {
            old.entries
                .get(&entry.key)
                .is_none_or(|old| old.mod_revision != entry.mod_revision)
        });
        let deletes = old.below(prefix).filter(|entry| !self.entries.contains_key(&entry.key));
        let mut changes: Vec<Change> = puts.cloned().map(Change::Put).collect();
        changes.extend(deletes.map(|entry| Change::Delete { key: entry.key.clone() }));
        changes.sort_by(|one, other| one.key().cmp(other.key()));
        changes
    }
}

/// The documents of a folder at one moment.
#[derive(Debug)]
pub struct Folder {
    /// Each entry with the path of its file below the folder, sorted by key.
    pub files: Vec<(Entry, PathBuf)>,
    /// Files that cannot be entries.
    pub problems: Vec<Problem>,
}

/// Read a folder once; its folder `services` stands for `registry_prefix`. Nothing is written.
///
/// # Errors
/// The folder itself cannot be read.
pub fn read(dir: &Path, prefix: &str, registry_prefix: &str) -> std::io::Result<Folder> {
    let names = Names {
        prefix: prefix.to_owned(),
        registry_prefix: registry_prefix.to_owned(),
    };
    let scan = scan(dir, &names, &Scan::default())?;
    let entry = |(key, content): (Bytes, Content)| {
        let entry = Entry {
            key,
            value: content.value,
            create_revision: 0,
            mod_revision: 1,
            leased: false,
        };
        (entry, content.path)
    };
    Ok(Folder {
        files: scan.files.into_iter().map(entry).collect(),
        problems: scan.problems,
    })
}

impl Directory {
    /// The folder `dir` stands for `prefix`, its folder `services` for `registry_prefix`; the revision is saved in
    /// `state_dir`, and so are the keys below `state_prefix`. No file is read yet, and neither folder has to exist.
    #[must_use]
    pub fn new(
        dir: impl AsRef<Path>,
        prefix: impl Into<String>,
        registry_prefix: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        state_prefix: impl Into<String>,
    ) -> Self {
        let state_dir = state_dir.into();
        let dir = dir.as_ref();
        let root = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let names = Names {
            prefix: prefix.into(),
            registry_prefix: registry_prefix.into(),
        };
        let keys = Keys::new(&state_dir, state_prefix.into());
        let counter = Counter::new(state_dir);
        let state = Mutex::new(State {
            counter,
            scan: Scan::default(),
            tree: Arc::default(),
        });
        Self(Arc::new(Inner {
            root,
            names,
            keys,
            state,
        }))
    }

    /// Run `work`, which blocks, on a thread for blocking work.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || work(&inner))
            .await
            .expect("work on the folder does not panic and is not aborted")
    }

    async fn tree(&self) -> Result<Arc<Tree>, ReadError> {
        self.blocking(|inner| inner.state().rescan(inner))
            .await
            .map_err(ReadError::Unavailable)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Scan and watch the folders of the scan; scan again as long as a watch is new.
    fn rescan_and_follow(&self, notices: &mut Notices) -> Result<Arc<Tree>, String> {
        for _ in 0..MOST_RESCANS {
            let (tree, folders) = {
                let mut state = self.state();
                (state.rescan(self), state.scan.folders.clone())
            };
            let found_new = notices.follow(&folders);
            if !found_new {
                return tree;
            }
        }
        self.state().rescan(self)
    }

    fn write(&self, writes: &[Write], terms: &Terms) -> Result<i64, WriteError> {
        // Of two servers on one folder, one writes at a time: what the scan finds stands until the files are renamed.
        let _lock = lock(&self.root).map_err(WriteError::Unavailable)?;
        let mut state = self.state();
        let tree = state.rescan(self).map_err(WriteError::Unavailable)?;

        let mut seen = HashSet::new();
        let mut steps = Vec::new();
        for write in writes {
            if !seen.insert(&write.key) {
                return Err(WriteError::Unavailable(format!(
                    "{} is written twice in one change",
                    shown(&write.key)
                )));
            }
            let is_of_state = self.keys.has(&write.key);
            let current = match is_of_state {
                true => self.keys.get(&write.key).map_err(WriteError::Unavailable)?,
                false => tree.entries.get(&write.key).cloned(),
            };
            if !holds(&write.expect, current.as_ref()) {
                return Err(WriteError::Conflict {
                    key: shown(&write.key),
                    current,
                });
            }
            if current.as_ref().map(|entry| &entry.value) == write.value.as_ref() {
                continue;
            }
            steps.push(match is_of_state {
                true => self.keys.step(&write.key, write.value.as_ref(), tree.revision),
                false => self.step(write, &state.scan)?,
            });
        }

        let unchanged = terms.unchanged.iter();
        let unchanged = unchanged.map(|Unchanged { prefix, since, .. }| (prefix, *since));
        let bases = terms.base.iter().flat_map(|Base { prefixes, revision }| {
            let since = |prefix| (prefix, *revision);
            prefixes.iter().map(since)
        });
        for (prefix, since) in unchanged.chain(bases) {
            if tree.below(prefix.as_bytes()).any(|entry| entry.mod_revision > since) {
                return Err(WriteError::Moved(prefix.clone()));
            }
        }

        if steps.is_empty() {
            return Ok(tree.revision);
        }

        // The last file: a note tells of a write that was carried out.
        if let Some(Note { key, value }) = &terms.note {
            steps.push(self.keys.step(key.as_bytes(), Some(value), tree.revision + 1));
        }
        carry_out(steps)?;
        let tree = state.rescan(self).map_err(WriteError::Unknown)?;
        Ok(tree.revision)
    }

    fn step(&self, write: &Write, scan: &Scan) -> Result<Step, WriteError> {
        let held = scan.files.get(&write.key);
        match &write.value {
            Some(value) if value.len() > LARGEST_DOCUMENT => Err(WriteError::TooLarge(format!(
                "{} would have {} bytes, a file holds at most {LARGEST_DOCUMENT}",
                shown(&write.key),
                value.len()
            ))),
            Some(value) => {
                let path = match held {
                    Some(content) => content.path.clone(),
                    None => self.names.path_of(&write.key).map_err(WriteError::InvalidKey)?,
                };
                Ok(Step::Put(self.root.join(path), value.clone()))
            }
            None => {
                if let Some(second) = scan.problems.iter().find(|problem| problem.key == write.key) {
                    let sentence = format!(
                        "after the delete {} would take this key: {}",
                        second.place, second.reason
                    );
                    return Err(WriteError::SecondFile(sentence));
                }
                let path = held.map(|content| content.path.clone()).unwrap_or_default();
                Ok(Step::Remove(self.root.join(path)))
            }
        }
    }
}

impl State {
    /// The tree of the folder now, with the next revision if the content has changed. Blocks.
    fn rescan(&mut self, inner: &Inner) -> Result<Arc<Tree>, String> {
        let found = scan(&inner.root, &inner.names, &self.scan)
            .map_err(|error| format!("the folder {} cannot be read: {error}", inner.root.display()))?;

        let is_same = self.tree.revision != 0
            && found.files.len() == self.tree.entries.len()
            && found
                .files
                .iter()
                .all(|(key, content)| is_held(&self.tree, key, content));

        if !is_same {
            self.tree = Arc::new(self.next_tree(&found));
        } else if found.problems != self.tree.problems {
            self.tree = Arc::new(Tree {
                revision: self.tree.revision,
                entries: self.tree.entries.clone(),
                problems: found.problems.clone(),
                is_bare: found.is_bare,
            });
        }

        self.scan = found;
        Ok(Arc::clone(&self.tree))
    }

    fn next_tree(&mut self, found: &Scan) -> Tree {
        let digest = digest(found);
        let last = match self.tree.revision {
            0 => self.counter.load(),
            revision => Saved {
                revision,
                digest: String::new(),
            },
        };

        let revision = if last.digest == digest {
            last.revision
        } else {
            last.revision + 1
        };

        if last.digest != digest {
            self.counter.save(&Saved { revision, digest });
        }

        let entry = |(key, content): (&Bytes, &Content)| {
            let held = self.tree.entries.get(key).filter(|_| is_held(&self.tree, key, content));
            let entry = held.cloned().unwrap_or_else(|| Entry {
                key: key.clone(),
                value: content.value.clone(),
                create_revision: 0,
                mod_revision: revision,
                leased: false,
            });
            (key.clone(), entry)
        };

        Tree {
            revision,
            entries: found.files.iter().map(entry).collect(),
            problems: found.problems.clone(),
            is_bare: found.is_bare,
        }
    }
}

fn is_held(tree: &Tree, key: &Bytes, content: &Content) -> bool {
    tree.entries.get(key).is_some_and(|entry| {
        // An unchanged file shares its bytes with the last scan, so equal pointers save the comparison.
        std::ptr::eq(entry.value.as_ptr(), content.value.as_ptr()) && entry.value.len() == content.value.len()
            || entry.value == content.value
    })
}

fn digest(found: &Scan) -> String {
    let mut hasher = Xxh3::new();
    for (key, content) in &found.files {
        for part in [key, &content.value] {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part);
        }
    }
    format!("{:032x}", hasher.digest128())
}

fn etag_of(value: &[u8]) -> String {
    format!("{:032x}", xxh3_128(value))
}

fn holds(expect: &Expect, current: Option<&Entry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Etag(etag) => current.is_some_and(|entry| etag_of(&entry.value) == *etag),
    }
}

fn shown(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// One followed prefix.
struct Follower {
    directory: Directory,
    prefix: Bytes,
    control: WatchControl,
    events: mpsc::Sender<Event>,
    notices: Arc<Mutex<Notices>>,
    sent: Option<Arc<Tree>>,
    sent_problems: Vec<Problem>,
    failing: bool,
}

/// The cause of a scan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Start,
    Notice,
    Timer,
    Relist,
}

/// The receiver of the events is dropped.
struct Gone;

impl Follower {
    async fn run(mut self) -> Result<(), Gone> {
        let signal = self.notices.lock().signal();
        let mut wake = Wake::Start;

        loop {
            let (tree, is_incomplete) = self.scan().await;
            match tree {
                Ok(tree) => self.on_tree(tree, wake).await?,
                Err(reason) => {
                    self.failing = true;
                    self.send(Event::Failed { reason }).await?;
                }
            }

            let pause = if self.failing || is_incomplete {
                POLL_INTERVAL
            } else {
                SCAN_INTERVAL
            };
            let due = Instant::now() + pause;

            wake = loop {
                tokio::select! {
                    () = self.control.relist_asked() => break Wake::Relist,
                    () = signal.batch() => break Wake::Notice,
                    () = self.control.progress_asked() => self.on_progress_asked().await?,
                    () = sleep_until(due) => break Wake::Timer,
                }
            };
        }
    }

    /// Another root has sent a revision of the folder: send the content of the same scan below this root.
    async fn on_progress_asked(&mut self) -> Result<(), Gone> {
        if self.sent.is_none() || self.failing {
            return Ok(());
        }
        let tree = self.directory.blocking(|inner| Arc::clone(&inner.state().tree)).await;
        let revision = tree.revision;
        self.on_tree(tree, Wake::Notice).await?;
        self.send(Event::Reached { revision }).await
    }

    async fn scan(&self) -> (Result<Arc<Tree>, String>, bool) {
        let notices = Arc::clone(&self.notices);
        let scan = move |inner: &Inner| {
            let mut notices = notices.lock();
            let tree = inner.rescan_and_follow(&mut notices);
            (tree, notices.is_incomplete())
        };
        self.directory.blocking(scan).await
    }

    async fn on_tree(&mut self, tree: Arc<Tree>, wake: Wake) -> Result<(), Gone> {
        let reason = match (&self.sent, wake) {
            (None, _) => Some(ListReason::Start),
            (Some(_), Wake::Relist) => Some(ListReason::Confirm),
            (Some(_), _) if self.failing => Some(ListReason::Reconnect),
            (Some(sent), _) if tree.is_bare && !sent.entries.is_empty() => Some(ListReason::Reconnect),
            _ => None,
        };

        self.failing = false;
        let revision = tree.revision;

        if let Some(reason) = reason {
            let entries = tree.below(&self.prefix).cloned().collect();
            self.send(Event::Listed {
                revision,
                reason,
                entries,
            })
            .await?;
        } else if let Some(sent) = &self.sent {
            let changes = tree.changes_since(sent, &self.prefix);
            if !changes.is_empty() {
                self.send(Event::Changed { revision, changes }).await?;
            }
        }

        let problems: Vec<Problem> = tree
            .problems
            .iter()
            .filter(|problem| problem.key.starts_with(&self.prefix))
            .cloned()
            .collect();

        if problems != self.sent_problems {
            self.sent_problems.clone_from(&problems);
            self.send(Event::Problems { problems }).await?;
        }

        if reason.is_some() || wake == Wake::Timer {
            self.send(Event::Alive).await?;
        }

        self.sent = Some(tree);
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

#[async_trait]
impl Backend for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken) {
        let notices = self.blocking(|inner| Notices::new(&inner.root)).await;
        let follower = Follower {
            directory: self.clone(),
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            control,
            events: events.clone(),
            notices: Arc::new(Mutex::new(notices)),
            sent: None,
            sent_problems: Vec::new(),
            failing: false,
        };
        tokio::select! {
            () = token.cancelled() => {}
            () = events.closed() => {}
            Err(Gone) = follower.run() => {}
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        if self.0.keys.has(key) {
            let key = key.to_vec();
            let read = self.blocking(move |inner| inner.keys.get(&key)).await;
            return read.map_err(ReadError::Unavailable);
        }
        Ok(self.tree().await?.entries.get(key).cloned())
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Entry>>, ReadError> {
        let tree = self.tree().await?;
        Ok(keys.iter().map(|key| tree.entries.get(key).cloned()).collect())
    }

    async fn get_at(&self, _key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError> {
        Err(ReadError::NoHistory(revision))
    }

    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        let tree = self.tree().await?;
        if self.0.keys.has(prefix.as_bytes()) {
            let prefix = prefix.as_bytes().to_vec();
            let listed = self.blocking(move |inner| inner.keys.list(&prefix)).await;
            return Ok((tree.revision, listed.map_err(ReadError::Unavailable)?));
        }
        Ok((tree.revision, tree.below(prefix.as_bytes()).cloned().collect()))
    }

    async fn marked(&self, _: &str) -> Result<Marked, ReadError> {
        Ok(Marked::default())
    }

    /// Files are renamed one after the other: a crash between two renames leaves a part of the change.
    async fn write_if(&self, writes: Vec<Write>, terms: Terms) -> Result<i64, WriteError> {
        self.blocking(move |inner| inner.write(&writes, &terms)).await
    }

    fn etag(&self, entry: &Entry) -> String {
        etag_of(&entry.value)
    }
}
