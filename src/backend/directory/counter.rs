//! The revision of a folder: a counter that outlives the process.
//!
//! The state directory saves the counter with a digest of the folder's content. After a restart, an unchanged folder
//! keeps its revision and a changed folder gets the next one.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tracing::warn;

/// The file in the state directory.
const FILE: &str = "directory.json";

/// A revision, with the digest of its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    pub(super) revision: i64,
    /// 32 hex digits, over keys and contents.
    pub(super) digest: String,
}

/// The counter, saved as a file in the state directory.
#[derive(Debug)]
pub(super) struct Counter {
    folder: PathBuf,
    failed: bool,
}

impl Counter {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, failed: false }
    }

    /// The saved revision; revision 0 if there is none.
    pub(super) fn load(&self) -> Saved {
        let path = self.folder.join(FILE);
        let saved = match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Saved::default(),
            Err(error) => Err(error),
        };
        saved.unwrap_or_else(|error| {
            warn!(
                path = %path.display(),
                %error,
                "Saved revision of the folder cannot be read; revisions start again at 1"
            );
            Saved::default()
        })
    }

    /// Save a revision. A failure is logged once: the process counts on, and a restart may repeat revisions.
    pub(super) fn save(&mut self, saved: &Saved) {
        if let Err(error) = self.try_save(saved)
            && !std::mem::replace(&mut self.failed, true)
        {
            warn!(
                path = %self.folder.display(),
                %error,
                "Revision of the folder cannot be saved; after a restart, revisions may repeat"
            );
        }
    }

    fn try_save(&self, saved: &Saved) -> io::Result<()> {
        create_private(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        file.persist(self.folder.join(FILE))?;
        Ok(())
    }
}

fn create_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_nonsense_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut counter = Counter::new(folder.path().join("state"));
        assert_eq!(counter.load(), Saved::default());
        let saved = Saved {
            revision: 7,
            digest: "d".to_owned(),
        };
        counter.save(&saved);
        assert_eq!(counter.load(), saved);
        fs::write(folder.path().join("state").join(FILE), "{").unwrap();
        assert_eq!(counter.load(), Saved::default());
    }
}
