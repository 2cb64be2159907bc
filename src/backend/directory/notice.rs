//! Notices of the file system about changes in the folder.
//!
//! Every folder of a scan has its own watch, by its canonical path. So new folders, swapped symlinks and a replaced
//! root need no rules of their own: the next scan names the folders to watch. The parent of the root is watched too,
//! for the root's own name. Changes without a notice (network file systems, a swapped link above the parent) are found
//! by the scan every 5 s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::scan::FolderId;

/// A batch ends after this time without a notice.
const QUIET: Duration = Duration::from_millis(20);
/// Limit of a batch, for a folder that is written without a pause.
const LONGEST_BATCH: Duration = Duration::from_secs(1);

/// The watched folders.
pub(super) struct Notices {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, FolderId>,
    /// True after the system refused to watch a folder.
    incomplete: bool,
    signal: Arc<Signal>,
}

/// Notices from the thread of the watcher.
#[derive(Default)]
pub(super) struct Signal {
    happened: Notify,
    /// Removed or renamed paths: the watch of a folder among them has ended.
    lost: Mutex<Vec<PathBuf>>,
}

impl Signal {
    /// Resolves [`QUIET`] after the last notice of a batch.
    pub(super) async fn batch(&self) {
        self.happened.notified().await;
        let latest = Instant::now() + LONGEST_BATCH;
        loop {
            tokio::select! {
                () = sleep_until(latest) => return,
                more = timeout(QUIET, self.happened.notified()) => if more.is_err() { return },
            }
        }
    }

    fn on_event(&self, event: notify::Result<Event>, root: &Path) {
        if let Ok(event) = event {
            if !is_change(&event.kind)
                || event.paths.iter().all(|path| is_neighbour(path, root)) && !event.need_rescan()
            {
                return;
            }
            if matches!(
                event.kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            ) {
                self.lost.lock().extend(event.paths);
            }
        }
        self.happened.notify_one();
    }
}

impl Notices {
    /// For the folder `root`, an absolute path. No folder is watched yet.
    pub(super) fn new(root: &Path) -> Self {
        let signal = Arc::new(Signal::default());
        let (sender, root) = (Arc::clone(&signal), canonical_root(root));
        let watcher = match notify::recommended_watcher(move |event| sender.on_event(event, &root)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "Folder cannot be watched for changes; the server scans it every second instead");
                None
            }
        };

        let incomplete = watcher.is_none();
        Self {
            watcher,
            watched: BTreeMap::new(),
            incomplete,
            signal,
        }
    }

    pub(super) fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }

    /// True if changes may come without a notice.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Watch exactly these folders. Returns true if a watch is new: earlier changes in its folder gave no notice.
    /// Blocks.
    pub(super) fn follow(&mut self, folders: &BTreeMap<PathBuf, FolderId>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };

        for lost in std::mem::take(&mut *self.signal.lost.lock()) {
            self.watched.retain(|path, _| !path.starts_with(&lost));
        }

        self.watched.retain(|path, id| {
            let keep = folders.get(path) == Some(id);
            if !keep {
                // The system ends the watch of a removed folder by itself.
                drop(watcher.unwatch(path));
            }
            keep
        });

        let mut new = false;
        for (path, id) in folders {
            if self.watched.contains_key(path) {
                continue;
            }

            // A removed folder of the same name may have left its watch.
            drop(watcher.unwatch(path));
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *id);

                    new = true;
                }
                Err(error) if is_gone(&error) => {}
                Err(error) if !self.incomplete => {
                    self.incomplete = true;
                    warn!(
                        folder = %path.display(),
                        %error,
                        "Folder cannot be watched for changes; the server scans the whole tree every second instead"
                    );
                }
                Err(_) => {}
            }
        }

        new
    }
}

/// The canonical path of the root's parent, with the root's own name. A swapped link to the root shows there.
fn canonical_root(root: &Path) -> PathBuf {
    let parent = root.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, root.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => root.to_owned(),
    }
}

/// True if a path is in the parent folder of the root and is not the root.
fn is_neighbour(path: &Path, root: &Path) -> bool {
    path != root && path.parent() == root.parent()
}

/// False for reads: our own scans read.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
