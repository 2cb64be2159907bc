//! The content of the folder.
//!
//! A scan walks the whole tree, through symlinks, and reads the files that may have changed. The content of a file is
//! taken from the last scan if device, inode, size and both times are equal, and if the times were old enough at the
//! last read: then any later write changes one of them.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::names::{Names, is_document, is_hidden};
use crate::backend::Problem;

/// Largest document, in bytes. Of a larger file one byte more is read, so that the check of the size fails.
pub(super) const LARGEST_DOCUMENT: usize = 1 << 20;
/// Deeper folders are not scanned.
const DEEPEST: usize = 64;
/// Coarsest step of file times (FAT: 2 s). Two writes within one step may leave the same time.
const TIME_STEP: Duration = Duration::from_secs(2);

/// A file that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Path below the folder.
    pub(super) path: PathBuf,
    pub(super) value: Bytes,
    stamp: Option<Stamp>,
}

/// Identity of a folder, by which two paths to it are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId {
    device: u64,
    inode: u64,
}

/// The content of the folder.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// By key.
    pub(super) files: BTreeMap<Bytes, Content>,
    /// Sorted.
    pub(super) problems: Vec<Problem>,
    /// True if the folder itself has no file and no subfolder.
    pub(super) is_bare: bool,
    /// The folders to watch, by their canonical paths.
    pub(super) folders: BTreeMap<PathBuf, FolderId>,
}

/// The attributes of a file; after a write at least one differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if the last write is so recent that the next one may leave the same stamp.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        // Any write moves the change time, and no call sets that time back.
        let changed = Duration::new(
            u64::try_from(metadata.ctime()).ok()?,
            u32::try_from(metadata.ctime_nsec()).ok()?,
        );
        let age = now.duration_since(SystemTime::UNIX_EPOCH + changed).ok()?;
        (age > TIME_STEP).then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Walk `root`. Fails if the folder itself cannot be read.
pub(super) fn scan(root: &Path, names: &Names, last: &Scan) -> io::Result<Scan> {
    let metadata = fs::metadata(root)?;
    let mut walk = Walk {
        root,
        names,
        last,
        found: Scan::default(),
        ancestors: Vec::new(),
    };

    walk.folder(Path::new(""), &metadata, true)?;
    let mut scan = walk.found;
    scan.problems.sort();
    // A link to the root is swapped in this folder.
    if let Some(parent) = root.parent().and_then(|parent| parent.canonicalize().ok())
        && let Ok(metadata) = fs::metadata(&parent)
    {
        scan.folders.insert(
            parent,
            FolderId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        );
    }

    Ok(scan)
}

struct Walk<'a> {
    root: &'a Path,
    names: &'a Names,
    last: &'a Scan,
    found: Scan,
    ancestors: Vec<FolderId>,
}

impl Walk<'_> {
    /// Files come before subfolders, each sorted by name. The first file of a key in this order has the key.
    fn folder(&mut self, path: &Path, metadata: &Metadata, is_root: bool) -> io::Result<()> {
        let id = FolderId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        if self.ancestors.contains(&id) || self.ancestors.len() >= DEEPEST {
            self.problem(path, "is a symlink loop or deeper than 64 folders, and is not scanned");
            return Ok(());
        }

        let mut names = match read_names(&self.root.join(path)) {
            Err(error) if is_root => return Err(error),
            Err(error) => {
                self.keep_last_below(path);
                self.problem(path, format!("cannot be read: {error}"));
                return Ok(());
            }
            Ok(names) => names,
        };

        if let Ok(canonical) = self.root.join(path).canonicalize() {
            self.found.folders.insert(canonical, id);
        }
        if is_root {
            self.found.is_bare = names.is_empty();
        }

        names.sort();
        self.ancestors.push(id);
        let mut folders = Vec::new();
        for name in names {
            let path = path.join(name);
            match fs::metadata(self.root.join(&path)) {
                Ok(metadata) if metadata.is_dir() => folders.push((path, metadata)),
                metadata => self.file(&path, metadata),
            }
        }

        for (path, metadata) in folders {
            self.folder(&path, &metadata, false)?;
        }

        self.ancestors.pop();
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: io::Result<Metadata>) {
        if !path.file_name().is_some_and(is_document) {
            return;
        }
        let Some(key) = self.names.key_of(path) else { return };

        if let Some(first) = self.found.files.get(&key) {
            let reason = format!("is a second file for the same key, {} serves", first.path.display());
            self.problem(path, reason);
            return;
        }

        let content = match metadata.and_then(|metadata| self.content(&key, path, &metadata)) {
            Ok(content) => content,
            Err(_) if fs::symlink_metadata(self.root.join(path)).is_err() => return, // Removed since the folder was listed.
            Err(error) => {
                self.problem(path, format!("cannot be read: {error}"));
                match self.last.files.get(&key).filter(|last| last.path == path) {
                    Some(last) => last.clone(),
                    None => return,
                }
            }
        };

        self.found.files.insert(key, content);
    }

    fn content(&mut self, key: &Bytes, path: &Path, metadata: &Metadata) -> io::Result<Content> {
        if !metadata.is_file() {
            return Err(io::Error::other("neither a file nor a folder"));
        }
        self.follow_target(path);

        let stamp = Stamp::of(metadata, SystemTime::now());
        if let Some(last) = self.last.files.get(key)
            && last.path == path
            && stamp.is_some()
            && last.stamp == stamp
        {
            return Ok(last.clone());
        }

        let mut value = Vec::new();
        let largest = u64::try_from(LARGEST_DOCUMENT).unwrap_or(u64::MAX).saturating_add(1);
        File::open(self.root.join(path))?
            .take(largest)
            .read_to_end(&mut value)?;

        Ok(Content {
            path: path.to_owned(),
            value: Bytes::from(value),
            stamp,
        })
    }

    /// Watch also the folder of a symlink's target: a write to the target gives its notice there.
    fn follow_target(&mut self, path: &Path) {
        let path = self.root.join(path);
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return;
        }
        let Some(folder) = path
            .canonicalize()
            .ok()
            .and_then(|target| target.parent().map(Path::to_owned))
        else {
            return;
        };

        if let Ok(metadata) = fs::metadata(&folder) {
            self.found.folders.insert(
                folder,
                FolderId {
                    device: metadata.dev(),
                    inode: metadata.ino(),
                },
            );
        }
    }

    /// Keep the last content of a folder that cannot be read now.
    fn keep_last_below(&mut self, path: &Path) {
        for (key, content) in self
            .last
            .files
            .iter()
            .filter(|(_, content)| content.path.starts_with(path))
        {
            self.found.files.entry(key.clone()).or_insert_with(|| content.clone());
        }
    }

    fn problem(&mut self, path: &Path, what: impl std::fmt::Display) {
        let key = self
            .names
            .key_of(path)
            .unwrap_or_else(|| self.names.key_of_segments(path));
        let place = path.display().to_string();
        self.found.problems.push(Problem {
            key,
            reason: format!("{place} {what}"),
            place,
        });
    }
}

fn read_names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !is_hidden(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
