//! The freezes, as this server knows them: `status` and `events` show them without asking the store.
//!
//! In: the keys below `<state-prefix>freezes/`, by a watch. Out: the freezes that are not over. A write of a document
//! reads the store itself ([`super::frozen`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frozen::{FOLDER, Freeze, millis};
use crate::backend::{Backend, Change, Event, WatchControl};

/// Events of the watch that wait.
const EVENTS: usize = 64;

/// The freezes. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Freezes(Arc<Mutex<BTreeMap<String, Freeze>>>);

impl Freezes {
    /// The freezes that are not over, the first to end first.
    pub(super) fn current(&self, now: SystemTime) -> Vec<Freeze> {
        let all = self.0.lock();
        let mut current: Vec<Freeze> = all
            .values()
            .filter(|freeze| freeze.until > millis(now))
            .cloned()
            .collect();
        drop(all);
        current.sort_by(|one, other| (one.until, &one.id).cmp(&(other.until, &other.id)));
        current
    }

    /// A freeze begins.
    pub(super) fn begin(&self, freeze: Freeze) {
        self.0.lock().insert(freeze.id.clone(), freeze);
    }

    /// A freeze is deleted.
    pub(super) fn end(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// Follow the keys until cancelled.
    pub async fn run(self, backend: Arc<dyn Backend>, state_prefix: String, token: CancellationToken) {
        let prefix = format!("{state_prefix}{FOLDER}");
        if !backend.is_shared() {
            // This server alone writes them, and says so.
            if let Ok((_, entries)) = backend.list(&prefix).await {
                entries.iter().for_each(|entry| self.put(&entry.value));
            }
            return token.cancelled().await;
        }
        let (sender, mut events) = mpsc::channel(EVENTS);
        let watch = backend.watch(&prefix, WatchControl::default(), sender, token.clone());
        let hear = async {
            while let Some(event) = events.recv().await {
                self.hear(&prefix, event);
            }
        };
        tokio::join!(watch, hear);
    }

    fn hear(&self, prefix: &str, event: Event) {
        match event {
            Event::Listed { entries, .. } => {
                self.0.lock().clear();
                entries.iter().for_each(|entry| self.put(&entry.value));
            }
            Event::Changed { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(entry) => self.put(&entry.value),
                        Change::Delete { key } => {
                            let id = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(prefix));
                            id.into_iter().for_each(|id| self.end(id));
                        }
                    }
                }
            }
            Event::Reached { .. } | Event::Alive | Event::Problems { .. } | Event::Failed { .. } => {}
        }
    }

    fn put(&self, value: &Bytes) {
        if let Ok(freeze) = serde_json::from_slice::<Freeze>(value) {
            self.begin(freeze);
        }
    }
}
