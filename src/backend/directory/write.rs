//! Writing files so that no reader ever sees half of one.
//!
//! All new contents are first written to temporary files beside their places, then each file is renamed into its place.
//! So most failures (a full disk, a missing permission) come before any change. A lock on the folder lets one process
//! write at a time. Blocks.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use tempfile::NamedTempFile;
use tracing::warn;

use crate::backend::WriteError;

/// The mode of new documents, before the umask of the process.
const NEW_FILE_MODE: u32 = 0o666;
/// The mode of new files in the state directory.
const PRIVATE_MODE: u32 = 0o600;
/// Tries of the lock, and the pause between two: five seconds. A write takes milliseconds.
const LOCK_TRIES: usize = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The change of one file, an absolute path.
#[derive(Debug)]
pub(super) enum Step {
    /// Create the file or replace its content.
    Put(PathBuf, Bytes),
    /// The same, of a file that only the user of the process may read.
    PutPrivate(PathBuf, Bytes),
    /// Remove the file.
    Remove(PathBuf),
}

enum Staged {
    Put(NamedTempFile, PathBuf),
    Remove(PathBuf),
}

/// Wait until no other process writes to the folder. The lock ends with the file, or with the process.
///
/// The lock is advisory (`flock`) and on the folder itself, so that no file is added. A file system without such locks
/// is written to without one.
///
/// # Errors
/// Another process has held the lock for five seconds.
pub(super) fn lock(root: &Path) -> Result<Option<File>, String> {
    static UNLOCKED: Once = Once::new();

    let unreadable = |error| format!("the folder {} cannot be read: {error}", root.display());
    let folder = File::open(root).map_err(unreadable)?;
    for _ in 0..LOCK_TRIES {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::WouldBlock) => pause(),
            Err(TryLockError::Error(error)) => {
                UNLOCKED.call_once(|| {
                    warn!(folder = %root.display(), %error, "Folder cannot be locked; let one server write to it only");
                });
                return Ok(None);
            }
        }
    }
    Err(format!("the folder {} is locked by another process", root.display()))
}

#[expect(clippy::disallowed_methods, reason = "on a thread for blocking work")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

/// Carry out the steps.
///
/// # Errors
/// `Unavailable`: no file has changed. `Unknown`: some of the files have changed.
pub(super) fn carry_out(steps: Vec<Step>) -> Result<(), WriteError> {
    let staged = steps.into_iter().map(stage).collect::<Result<Vec<_>, _>>()?;
    let all = staged.len();
    for (done, step) in staged.into_iter().enumerate() {
        commit(step).map_err(|(path, error)| match done {
            0 => failure("could not change", &path, &error),
            _ => WriteError::Unknown(format!(
                "could not change {}: {error}, after {done} of {all} files were written",
                path.display()
            )),
        })?;
    }
    Ok(())
}

/// The failure of a file. A name that the file system cannot have, or that a file has where a folder is needed (and the
/// other way round), is the fault of the key.
fn failure(what: &str, path: &Path, error: &io::Error) -> WriteError {
    let sentence = format!("{what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => WriteError::InvalidKey(sentence),
        _ => WriteError::Unavailable(sentence),
    }
}

fn stage(step: Step) -> Result<Staged, WriteError> {
    match step {
        Step::Remove(path) => Ok(Staged::Remove(path)),
        Step::Put(path, content) => stage_file(path, &content, NEW_FILE_MODE),
        Step::PutPrivate(path, content) => stage_file(path, &content, PRIVATE_MODE),
    }
}

fn stage_file(path: PathBuf, content: &[u8], mode: u32) -> Result<Staged, WriteError> {
    match write_beside(&path, content, mode) {
        Ok(file) => Ok(Staged::Put(file, path)),
        Err(error) => Err(failure("could not write", &path, &error)),
    }
}

/// The mode of a new folder: a user who may read the file in it may enter.
const fn folder_mode(file_mode: u32) -> u32 {
    file_mode | ((file_mode & 0o444) >> 2)
}

fn write_beside(path: &Path, content: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let folder = folder_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(folder_mode(mode))
        .create(folder)?;
    // A dot file: no scan takes it for a document.
    let mut file = tempfile::Builder::new()
        .prefix(".chancery-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    if let Ok(existing) = fs::metadata(path) {
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn commit(step: Staged) -> Result<(), (PathBuf, io::Error)> {
    let (path, done) = match step {
        Staged::Put(file, path) => {
            let done = file.persist(&path).map(drop).map_err(|error| error.error);
            (path, done)
        }
        Staged::Remove(path) => {
            let done = fs::remove_file(&path);
            (path, done)
        }
    };
    // The folder too: without this, a power failure may lose the new name.
    done.and_then(|()| File::open(folder_of(&path))?.sync_all())
        .map_err(|error| (path, error))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
