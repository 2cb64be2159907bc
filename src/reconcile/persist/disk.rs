//! The state directory: the texts that serve, documents and registrations, in one file.
//!
//! Written at most once a second and atomically (temporary file, fsync, rename), directory 0700, file 0600. What cannot be
//! written is logged and tried again with the next change; serving goes on.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backend::Entry;
use crate::document::key::{Layout, Root};
use crate::reconcile::world::World;

/// Shortest time between two writes.
const PACE: Duration = Duration::from_secs(1);
const FILE: &str = "serving.json";
const FORMAT: u32 = 1;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, for example `write the state file`.
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
        /// What is wrong with it.
        reason: String,
    },
}

/// The file's shape. Texts that serve are UTF-8, as JSON and YAML are.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    revision: i64,
    entries: Vec<SavedEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    leased: bool,
}

/// What an earlier run left: every text that served, with the root it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The documents root's revision then.
    pub revision: i64,
    /// The texts.
    pub entries: Vec<(Root, Entry)>,
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: PathBuf,
    layout: Layout,
}

impl Disk {
    /// The directory at `folder`, created (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(folder: &Path, layout: Layout) -> Result<Self, Error> {
        create_private_folder(folder).map_err(|source| Error::Io {
            action: "create the state directory",
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self { folder: folder.to_owned(), layout })
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What an earlier run saved; `None` when there is nothing.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn load(&self) -> Result<Option<Saved>, Error> {
        let path = self.file();
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "read the state file", path, source }),
        };
        let file: File = serde_json::from_slice(&content)
            .map_err(|error| Error::Format { path: path.clone(), reason: error.to_string() })?;
        if file.format != FORMAT {
            let reason = format!("found format {}, expected {FORMAT}", file.format);
            return Err(Error::Format { path, reason });
        }
        let entries = file.entries.into_iter().filter_map(|saved| self.restore(saved)).collect();
        Ok(Some(Saved { revision: file.revision, entries }))
    }

    /// A saved entry with its root; `None` for a key that belongs to no root any more (another `--prefix`).
    fn restore(&self, saved: SavedEntry) -> Option<(Root, Entry)> {
        let root = self.layout.root_of(saved.key.as_bytes())?;
        let entry = Entry {
            key: Bytes::from(saved.key),
            value: Bytes::from(saved.value),
            create_revision: saved.create_revision,
            mod_revision: saved.mod_revision,
            leased: saved.leased,
        };
        Some((root, entry))
    }

    /// Write all that serves in `world`.
    ///
    /// # Errors
    /// When the file cannot be written; the one before is still there then.
    pub fn save(&self, world: &World) -> Result<(), Error> {
        let entries = world
            .documents()
            .filter_map(|status| {
                let text = status.serving.as_ref()?;
                Some(SavedEntry {
                    key: status.full_key.to_string(),
                    value: String::from_utf8(text.value.to_vec()).ok()?,
                    create_revision: text.create_revision,
                    mod_revision: text.mod_revision,
                    leased: text.leased,
                })
            })
            .collect();
        let path = self.file();
        self.replace(&path, &File { format: FORMAT, revision: world.revision(), entries }).map_err(|source| Error::Io {
            action: "write the state file",
            path,
            source,
        })
    }

    fn replace(&self, path: &Path, file: &File) -> io::Result<()> {
        // Created with mode 0600, as tempfile does by default.
        let mut temporary = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut writer = io::BufWriter::new(&mut temporary);
        serde_json::to_writer(&mut writer, file)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// Save every world that comes, the latest one only, at most once a second, until cancelled; then once more.
    pub async fn run(self, mut worlds: watch::Receiver<Option<Arc<World>>>, token: CancellationToken) {
        let mut more = true;
        while more {
            more = tokio::select! {
                changed = worlds.changed() => changed.is_ok(),
                () = token.cancelled() => false,
            };
            let latest = worlds.borrow_and_update().clone();
            if let Some(world) = latest {
                self.save_in_background(world).await;
            }
            if more {
                tokio::select! {
                    () = tokio::time::sleep(PACE) => {}
                    () = token.cancelled() => {}
                }
            }
        }
    }

    async fn save_in_background(&self, world: Arc<World>) {
        let disk = self.clone();
        match tokio::task::spawn_blocking(move || disk.save(&world)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "Could not save the serving texts, trying again");
            }
            Err(error) => info!(%error, "Saving the serving texts was cut short"),
        }
    }
}

#[cfg(unix)]
fn create_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}
