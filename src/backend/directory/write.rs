//! Writing files so that no reader ever sees half of one.
//!
//! All new contents are first written to temporary files beside their places, then each file is renamed into its place.
//! So most failures (a full disk, a missing permission) come before any change. Blocks.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::backend::WriteError;

/// The mode of new files, before the umask of the process.
const NEW_FILE_MODE: u32 = 0o666;

/// The change of one file, an absolute path.
#[derive(Debug)]
pub(super) enum Step {
    /// Create the file or replace its content.
    Put(PathBuf, Bytes),
    /// Remove the file.
    Remove(PathBuf),
}

enum Staged {
    Put(NamedTempFile, PathBuf),
    Remove(PathBuf),
}

/// Carry out the steps.
///
/// # Errors
/// `Unavailable`: no file has changed. `Unknown`: some of the files have changed.
pub(super) fn carry_out(steps: Vec<Step>) -> Result<(), WriteError> {
    let staged = steps
        .into_iter()
        .map(stage)
        .collect::<Result<Vec<_>, _>>()
        .map_err(WriteError::Unavailable)?;
    let all = staged.len();
    for (done, step) in staged.into_iter().enumerate() {
        commit(step).map_err(|sentence| match done {
            0 => WriteError::Unavailable(sentence),
            _ => WriteError::Unknown(format!("{sentence}, after {done} of {all} files were written")),
        })?;
    }
    Ok(())
}

fn stage(step: Step) -> Result<Staged, String> {
    match step {
        Step::Remove(path) => Ok(Staged::Remove(path)),
        Step::Put(path, content) => match write_beside(&path, &content) {
            Ok(file) => Ok(Staged::Put(file, path)),
            Err(error) => Err(format!("could not write {}: {error}", path.display())),
        },
    }
}

fn write_beside(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // A dot file: no scan takes it for a document.
    let mut file = tempfile::Builder::new()
        .prefix(".chancery-")
        .permissions(Permissions::from_mode(NEW_FILE_MODE))
        .tempfile_in(folder)?;
    if let Ok(existing) = fs::metadata(path) {
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn commit(step: Staged) -> Result<(), String> {
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
        .map_err(|error| format!("could not change {}: {error}", path.display()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
