//! The state directory: the serving texts of documents and registrations in one file, and the changes since
//! (`journal`).
//!
//! Changes are appended at most once a second, so a save costs what changed. From time to time the file is written
//! anew, atomically (temporary file, fsync, rename). A directory that is created has mode 0700, an existing one keeps
//! its mode; files have 0600. A failed write is reported ([`Unsaved`]) and tried again; serving goes on. The quarantine
//! of a directory of documents has a file of its own (`refused`).
//!
//! A secret is sealed with the keys of the [`Vault`]; without keys it is not saved.
//!
//! Each entry has a line of its own and a checksum. A damaged entry is left out, and costs no other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use xxhash_rust::xxh3::Xxh3;

use super::unsaved::{Place, Unsaved};
use crate::backend::Entry;
use crate::document::key::{Layout, Root};
use crate::document::secret::{AtRest, Vault};
use crate::reconcile::world::{Record, Text, World};

mod journal;
mod refused;

use journal::{Journal, Line};
pub use refused::Kept;

/// Shortest time between two writes.
const PACE: Duration = Duration::from_secs(1);
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);
const FILE: &str = "serving.json";
/// Locked by the process that uses the directory.
const LOCK: &str = "lock";
/// Format 1 had no journal.
const FORMAT: u32 = 2;
/// If a journal is longer than this part of its state file and than this minimum, the file is written anew.
const JOURNAL_SHARE: usize = 2;
const JOURNAL_MIN: usize = 256 * 1024;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
    Io {
        /// The action that failed, for example `write the state file`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what this version writes.
    #[error("read the state file {}: {reason}", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// The fault in the file.
        reason: String,
    },
    /// Another process uses the directory.
    #[error("another process uses the state directory {}, expected one of its own for each", folder.display())]
    InUse {
        /// The directory.
        folder: PathBuf,
    },
    /// The texts were read from another store than this server reads.
    #[error("read the state file {}: found texts of {found}, expected {expected}", path.display())]
    OtherStore {
        /// Where.
        path: PathBuf,
        /// The store that the file names.
        found: String,
        /// The store of this server.
        expected: String,
    },
}

/// The store that texts were read from. `--routes-prefix` does not count: a text below none of the prefixes is left
/// out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedFrom {
    /// `etcd`, or a directory with its path. Neither the endpoints of etcd nor its cluster id count: a cluster that was
    /// restored from a backup has others, and there the saved texts are wanted most.
    store: String,
    /// `--prefix`.
    prefix: String,
    /// `--registry-prefix`.
    registry_prefix: String,
}

impl fmt::Display for SavedFrom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            store,
            prefix,
            registry_prefix,
        } = self;
        write!(formatter, "{store} ({prefix} and {registry_prefix})")
    }
}

/// The file's shape: these fields, and `entries` as the last. Texts that serve are UTF-8, as JSON and YAML are.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    /// `None`: the file is of an older version.
    source: Option<SavedFrom>,
    revision: i64,
    /// The number of the journal that continues this file.
    #[serde(default)]
    journal: u64,
}

/// The file as a whole.
#[derive(Debug, Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    entries: Vec<SavedEntry>,
}

/// Between the head and the entries of the file, which have a line each.
const ENTRIES: &str = ",\"entries\":[";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SavedEntry {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    leased: bool,
    /// Checksum of the other fields. Older versions wrote none.
    sum: Option<u32>,
}

impl SavedEntry {
    /// With its checksum.
    fn sealed(self) -> Self {
        let sum = Some(self.checksum());
        Self { sum, ..self }
    }

    fn checksum(&self) -> u32 {
        let Self {
            key,
            value,
            create_revision,
            mod_revision,
            leased,
            sum: _,
        } = self;
        let mut sum = Checksum::default();
        sum.text(key);
        sum.text(value);
        sum.number(*create_revision);
        sum.number(*mod_revision);
        sum.number((*leased).into());
        sum.end()
    }

    /// Whether the entry is as it was written.
    fn is_whole(&self) -> bool {
        self.sum.is_none_or(|sum| sum == self.checksum())
    }
}

/// A checksum against damage of the disk, of 32 bits, which every JSON reader holds exactly.
#[derive(Default)]
struct Checksum(Xxh3);

impl Checksum {
    fn text(&mut self, text: &str) {
        self.0.update(&text.len().to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn number(&mut self, number: i64) {
        self.0.update(&number.to_le_bytes());
    }

    fn end(self) -> u32 {
        let [a, b, c, d, ..] = self.0.digest().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

/// The state of an earlier run: every text that served, with its root.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The documents root's revision then.
    pub revision: i64,
    /// The texts, sorted by key.
    pub entries: Vec<(Root, Entry)>,
}

impl Saved {
    /// The text that served at a key.
    pub(in crate::reconcile) fn text(&self, full_key: &str) -> Option<Arc<Text>> {
        let place = self
            .entries
            .binary_search_by(|(_, entry)| (*entry.key).cmp(full_key.as_bytes()));
        let (_, entry) = self.entries.get(place.ok()?)?;
        Some(Arc::new(Text {
            value: entry.value.clone(),
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            leased: entry.leased,
        }))
    }
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: PathBuf,
    layout: Layout,
    source: SavedFrom,
    unsaved: Unsaved,
    /// Seals secrets.
    vault: Vault,
    /// The store has no shared memory: the quarantine is saved here.
    keeps_quarantine: bool,
    /// Keeps other processes out.
    lock: Option<Arc<fs::File>>,
}

impl Disk {
    /// The directory at `folder`, created (0700) if it is missing; not locked yet. `store` names the store of the
    /// documents: `etcd`, or a directory with its path.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(folder: &Path, layout: Layout, store: &str) -> Result<Self, Error> {
        create_private_folder(folder).map_err(|source| Error::Io {
            action: "create the state directory",
            path: folder.to_owned(),
            source,
        })?;
        let source = SavedFrom {
            store: store.to_owned(),
            prefix: layout.prefix.to_string(),
            registry_prefix: layout.registry_prefix.to_string(),
        };
        Ok(Self {
            folder: folder.to_owned(),
            layout,
            source,
            unsaved: Unsaved::default(),
            vault: Vault::default(),
            keeps_quarantine: false,
            lock: None,
        })
    }

    /// Seal secrets with the keys of `vault`.
    #[must_use]
    pub fn sealed_by(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// Keep other processes out, until the last clone is dropped or the process ends.
    ///
    /// # Errors
    /// Another process uses the directory, or the lock cannot be made.
    pub fn lock(mut self) -> Result<Self, Error> {
        let path = self.folder.join(LOCK);
        let failed = |source| Error::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).mode(0o600);
        let file = file.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(Arc::new(file)),
            Err(fs::TryLockError::WouldBlock) => return Err(Error::InUse { folder: self.folder }),
            Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => warn!(
                path = %path.display(),
                "File system knows no locks; nothing keeps a second process out of --state-dir"
            ),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(self)
    }

    /// The saves that fail, here and below the state prefix.
    #[must_use]
    pub fn unsaved(&self) -> Unsaved {
        self.unsaved.clone()
    }

    /// Save the quarantine, too: the store has no shared memory. Returns the records of an earlier run.
    pub(in crate::reconcile) fn keep_quarantine(&mut self) -> Vec<Kept> {
        self.keeps_quarantine = true;
        refused::read(&self.folder, &self.source, &self.vault)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The state of an earlier run; `None` if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or that belongs to another store.
    pub fn load(&self) -> Result<Option<Saved>, Error> {
        let path = self.file();
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    action: "read the state file",
                    path,
                    source,
                });
            }
        };
        let (head, entries, damaged) = read_file(&content).map_err(|error| Error::Format {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        if head.format > FORMAT {
            let reason = format!("found format {}, expected {FORMAT} at most", head.format);
            return Err(Error::Format { path, reason });
        }
        if let Some(found) = head.source.filter(|source| *source != self.source) {
            let (found, expected) = (found.to_string(), self.source.to_string());
            return Err(Error::OtherStore { path, found, expected });
        }

        let action = "read the changes since the state file";
        let read = journal::read(&self.folder, head.journal);
        let (lines, damaged_lines) = read.map_err(|source| Error::Io { action, path, source })?;
        if damaged + damaged_lines > 0 {
            warn!(
                folder = %self.folder.display(),
                entries = damaged,
                changes = damaged_lines,
                "Saved state is damaged: these entries and changes are left out, the rest is used"
            );
        }
        let revision = lines.last().map_or(head.revision, |line| line.revision);
        let mut saved: BTreeMap<String, SavedEntry> =
            entries.into_iter().map(|saved| (saved.key.clone(), saved)).collect();
        for Line { put, gone, .. } in lines {
            for key in &gone {
                saved.remove(key);
            }
            saved.extend(put.into_iter().map(|entry| (entry.key.clone(), entry)));
        }
        let entries = saved.into_values().filter_map(|saved| self.restore(saved)).collect();
        Ok(Some(Saved { revision, entries }))
    }

    /// A saved entry with its root; `None` for a key that belongs to no root any more (another `--prefix`).
    fn restore(&self, saved: SavedEntry) -> Option<(Root, Entry)> {
        let root = self.layout.root_of(saved.key.as_bytes())?;
        let value = match self.vault.text_of(&saved.key, saved.value) {
            Ok(value) => value,
            Err(reason) => {
                warn!(
                    document.key = saved.key,
                    reason, "Saved secret cannot be opened and is left out"
                );
                return None;
            }
        };
        let entry = Entry {
            key: Bytes::from(saved.key),
            value: Bytes::from(value),
            create_revision: saved.create_revision,
            mod_revision: saved.mod_revision,
            leased: saved.leased,
        };
        Some((root, entry))
    }

    /// Write the state file anew. Gives its size.
    fn replace(&self, head: &Head, entries: &[SavedEntry]) -> io::Result<usize> {
        // Created with mode 0600, as tempfile does by default.
        let mut temporary = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut writer = io::BufWriter::new(&mut temporary);
        write_file(&mut writer, head, entries)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        let len = temporary.as_file().metadata()?.len();
        temporary.persist(self.file())?;
        fs::File::open(&self.folder)?.sync_all()?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Save every world that comes, the latest one only, at most once a second, until cancelled; then once more.
    pub async fn run(self, mut worlds: watch::Receiver<Option<Arc<World>>>, token: CancellationToken) {
        let mut saver = Saver::new(self);
        let mut more = true;
        while more {
            // A full disk may have room again although nothing changes.
            let is_failing = saver.is_failing;
            more = tokio::select! {
                changed = worlds.changed() => changed.is_ok(),
                () = tokio::time::sleep(RETRY), if is_failing => true,
                () = token.cancelled() => false,
            };
            let latest = worlds.borrow_and_update().clone();
            if let Some(world) = latest {
                saver = saver.save_in_background(world).await;
            }
            if more {
                tokio::select! {
                    () = tokio::time::sleep(PACE) => {}
                    () = token.cancelled() => {}
                }
            }
        }
    }
}

/// Saves worlds, one after the other.
struct Saver {
    disk: Disk,
    saved: Option<OnDisk>,
    /// The quarantine in its file; `None`: unknown.
    refused: Option<Vec<refused::Saved>>,
    /// The last save failed.
    is_failing: bool,
}

/// The content of the files.
struct OnDisk {
    world: Arc<World>,
    /// The id of the key that seals its secrets.
    sealed_with: Option<String>,
    /// Size of the state file.
    len: usize,
    journal: Journal,
}

impl Saver {
    fn new(disk: Disk) -> Self {
        Self {
            disk,
            saved: None,
            refused: None,
            is_failing: false,
        }
    }

    async fn save_in_background(mut self, world: Arc<World>) -> Self {
        let disk = self.disk.clone();
        let save = move || {
            let result = self.save(world);
            (self, result)
        };
        match tokio::task::spawn_blocking(save).await {
            Ok((mut saver, result)) => {
                saver.is_failing = result.is_err();
                match result {
                    Ok(()) => disk.unsaved.saved(Place::Directory),
                    Err(error) => disk.unsaved.failed(Place::Directory, sentence(&error)),
                }
                saver
            }
            Err(error) => {
                info!(%error, "Process stopped before the serving texts were saved");
                Self::new(disk)
            }
        }
    }

    /// Write the serving texts of `world` to the files.
    ///
    /// # Errors
    /// A file that cannot be written; the earlier state is kept then.
    fn save(&mut self, world: Arc<World>) -> Result<(), Error> {
        // Under a new key everything is written anew, so that nothing here needs the key before.
        let sealed_with = self.disk.vault.keys().map(|keys| keys.first().to_owned());
        if self
            .saved
            .as_ref()
            .is_some_and(|saved| saved.sealed_with != sealed_with)
        {
            (self.saved, self.refused) = (None, None);
        }
        self.save_quarantine(&world)?;
        // A failure leaves no state to continue from: the next save writes the whole file.
        if let Some(mut saved) = self.saved.take()
            && saved.journal.len < JOURNAL_MIN.max(saved.len / JOURNAL_SHARE)
        {
            if let Some(line) = changes(&saved.world, &world, &self.disk.vault) {
                let path = saved.journal.path().to_owned();
                let action = "write the changes since the state file";
                saved
                    .journal
                    .append(&line)
                    .map_err(|source| Error::Io { action, path, source })?;
            }
            self.saved = Some(OnDisk { world, ..saved });
            return Ok(());
        }
        let path = self.disk.file();
        let written = self.write_anew(&world);
        let (len, journal) = written.map_err(|source| Error::Io {
            action: "write the state file",
            path,
            source,
        })?;
        self.saved = Some(OnDisk {
            world,
            sealed_with,
            len,
            journal,
        });
        Ok(())
    }

    fn save_quarantine(&mut self, world: &World) -> Result<(), Error> {
        if !self.disk.keeps_quarantine || !world.has_listed_documents() {
            return Ok(());
        }
        let records = refused::records(world, &self.disk.vault);
        if self.refused.as_ref() != Some(&records) {
            self.refused = None;
            refused::write(&self.disk.folder, &self.disk.source, &records, &self.disk.vault).map_err(|source| {
                Error::Io {
                    action: "write the quarantine to the state directory",
                    path: self.disk.folder.clone(),
                    source,
                }
            })?;
            self.refused = Some(records);
        }
        Ok(())
    }

    fn write_anew(&self, world: &World) -> io::Result<(usize, Journal)> {
        let journal = journal::next_number(&self.disk.folder)?;
        let entries: Vec<_> = world
            .records
            .values()
            .filter_map(|record| saved_entry(record, &self.disk.vault))
            .collect();
        let head = Head {
            format: FORMAT,
            source: Some(self.disk.source.clone()),
            revision: world.revision(),
            journal,
        };
        let len = self.disk.replace(&head, &entries)?;
        Ok((len, Journal::begin(&self.disk.folder, journal)?))
    }
}

/// An error with its causes.
fn sentence(error: &Error) -> String {
    let mut sentence = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        sentence = format!("{sentence}: {error}");
        source = error.source();
    }
    sentence
}

fn write_file(writer: &mut impl Write, head: &Head, entries: &[SavedEntry]) -> io::Result<()> {
    let head = serde_json::to_string(head)?;
    write!(writer, "{}{ENTRIES}", head.trim_end_matches('}'))?;
    for (index, entry) in entries.iter().enumerate() {
        writer.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *writer, entry)?;
    }
    writer.write_all(b"\n]}\n")
}

/// The head, the whole entries, and the number of damaged ones.
///
/// # Errors
/// The head is damaged.
fn read_file(content: &[u8]) -> serde_json::Result<(Head, Vec<SavedEntry>, usize)> {
    let (head, entries, unreadable) = match serde_json::from_slice::<File>(content) {
        Ok(File { head, entries }) => (head, entries, 0),
        Err(error) => {
            let mut lines = content.split(|byte| *byte == b'\n');
            let head = lines
                .next()
                .and_then(|line| line.strip_suffix(ENTRIES.as_bytes()))
                .and_then(|head| serde_json::from_slice(&[head, b"}"].concat()).ok());
            let Some(head) = head else { return Err(error) };
            let lines = lines.filter(|line| !line.is_empty() && *line != b"]}");
            let (entries, damaged): (Vec<_>, Vec<_>) = lines
                .map(|line| serde_json::from_slice::<SavedEntry>(line.strip_suffix(b",").unwrap_or(line)))
                .partition(Result::is_ok);
            (head, entries.into_iter().flatten().collect(), damaged.len())
        }
    };
    let read = entries.len();
    let whole: Vec<_> = entries.into_iter().filter(SavedEntry::is_whole).collect();
    let damaged = unreadable + read - whole.len();
    Ok((head, whole, damaged))
}

/// The full key and the text that are saved of a record.
fn saved_text(record: &Record) -> Option<(&Arc<str>, &Text)> {
    let text = record.status.serving.as_deref()?;
    std::str::from_utf8(&text.value).ok()?;
    Some((&record.status.full_key, text))
}

/// The entry of a record; `None`: nothing serves, or a secret cannot be sealed.
fn saved_entry(record: &Record, vault: &Vault) -> Option<SavedEntry> {
    let (full_key, text) = saved_text(record)?;
    let value = match vault.at_rest(full_key, &text.value).ok()? {
        AtRest::AsItIs => String::from_utf8(text.value.to_vec()).ok()?,
        AtRest::Sealed(sealed) => sealed,
        AtRest::Unsealable => return None,
    };
    let entry = SavedEntry {
        key: full_key.to_string(),
        value,
        create_revision: text.create_revision,
        mod_revision: text.mod_revision,
        leased: text.leased,
        sum: None,
    };
    Some(entry.sealed())
}

/// The changes from one world to the other; `None`: the saved content is equal.
fn changes(before: &World, now: &World, vault: &Vault) -> Option<Line> {
    let mut line = Line {
        revision: now.revision(),
        ..Line::default()
    };
    for item in before.records.diff(&now.records) {
        let (old, new) = match item {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => (Some(old), Some(new)),
            DiffItem::Remove(_, old) => (Some(old), None),
        };
        let (old_text, new_text) = (
            old.and_then(|record| saved_text(record)),
            new.and_then(|record| saved_text(record)),
        );
        if old_text != new_text {
            let put = new.and_then(|record| saved_entry(record, vault));
            line.gone.extend(
                old_text
                    .map(|(full_key, _)| full_key.to_string())
                    .filter(|key| put.as_ref().is_none_or(|put| put.key != *key)),
            );
            line.put.extend(put);
        }
    }
    let same = line.put.is_empty() && line.gone.is_empty() && before.revision() == now.revision();
    (!same).then(|| line.sealed())
}

fn create_private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests;
