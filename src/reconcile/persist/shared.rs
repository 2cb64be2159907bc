//! Last good texts beside the documents, shared between replicas.
//!
//! Written when a document turns bad (`<state-prefix>last-good/<key>`, created only if absent), removed with a compare once
//! a later text is accepted or the document is gone. Read by a replica that finds a bad document and never saw a good one;
//! where nothing is saved, the store's own history is asked, from `mod_revision − 1` back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backend::{Backend, Entry, Expect, ReadError, Write, WriteError};
use crate::document::{self, Limits, key::DocumentKey};
use crate::reconcile::world::Text;

/// How many earlier texts of one key are tried.
const HISTORY_STEPS: usize = 32;
/// How often a saved text is asked for before it is given up: a store that just answered may be between two leaders.
const READ_ATTEMPTS: usize = 4;
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What is to be done about one document's saved text.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Save this text unless one is saved already.
    Keep(Arc<Text>),
    /// Remove what is saved if it is older than this revision; `None`: whatever it is.
    Forget {
        /// The `mod_revision` of the text that was accepted; `None` when the document is gone.
        accepted: Option<i64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedText {
    mod_revision: i64,
    create_revision: i64,
    value: String,
}

/// The shared memory of last good texts. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    backend: Arc<dyn Backend>,
    prefix: String,
}

impl Shared {
    /// Below `<state_prefix>last-good/` of this backend.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, state_prefix: &str) -> Self {
        Self {
            backend,
            prefix: format!("{state_prefix}last-good/"),
        }
    }

    fn place(&self, full_key: &str) -> Bytes {
        Bytes::from(format!("{}{full_key}", self.prefix))
    }

    /// The text that served before the one written at `bad_revision`: the saved one, else the newest of the store's history
    /// that parses; `None` when there is none. Without a `bad_revision` (nothing stands there) only the saved one counts.
    pub async fn find(
        &self,
        key: &DocumentKey,
        full_key: &str,
        bad_revision: Option<i64>,
        limits: &Limits,
    ) -> Option<Arc<Text>> {
        match self.get_saved(full_key).await {
            Ok(Some(entry)) => {
                if let Some(text) = decode(&entry) {
                    return Some(Arc::new(text));
                }
                warn!(
                    document.key = full_key,
                    "The saved last good text cannot be read, looking in the store's history"
                );
            }
            Ok(None) => {}
            Err(error) => warn!(document.key = full_key, %error, "Could not read the saved last good text"),
        }
        self.find_in_history(key, full_key, bad_revision?, limits).await
    }

    /// What is saved. One failed read says nothing of it: it is tried again before it is given up.
    async fn get_saved(&self, full_key: &str) -> Result<Option<Entry>, ReadError> {
        let place = self.place(full_key);
        for _ in 1..READ_ATTEMPTS {
            match self.backend.get(&place).await {
                Ok(entry) => return Ok(entry),
                Err(error) => debug!(document.key = full_key, %error, "Reading the saved last good text again"),
            }
            tokio::time::sleep(RETRY).await;
        }
        self.backend.get(&place).await
    }

    async fn find_in_history(
        &self,
        key: &DocumentKey,
        full_key: &str,
        bad_revision: i64,
        limits: &Limits,
    ) -> Option<Arc<Text>> {
        let mut revision = bad_revision - 1;
        for _ in 0..HISTORY_STEPS {
            match self.backend.get_at(full_key.as_bytes(), revision).await {
                Ok(Some(entry)) if document::parse(key, &entry.value, limits).is_ok() => {
                    return Some(Arc::new(text_of(&entry)));
                }
                Ok(Some(entry)) => revision = entry.mod_revision - 1,
                Ok(None) | Err(ReadError::NoHistory(_)) => return None,
                Err(error) => {
                    warn!(document.key = full_key, revision, %error, "Could not read an earlier text");
                    return None;
                }
            }
        }
        None
    }

    /// Every saved text: the document's full key and the saved revision.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn saved(&self) -> Result<Vec<(String, i64)>, ReadError> {
        let (_, entries) = self.backend.list(&self.prefix).await?;
        Ok(entries
            .iter()
            .filter_map(|entry| {
                let full_key = std::str::from_utf8(&entry.key)
                    .ok()?
                    .strip_prefix(&self.prefix)?
                    .to_owned();
                Some((full_key, decode(entry).map_or(0, |text| text.mod_revision)))
            })
            .collect())
    }

    /// Carry out tasks as they come, each until it succeeds; a later task for a document replaces an earlier one.
    pub async fn run(self, mut tasks: mpsc::Receiver<(Arc<str>, Task)>, token: CancellationToken) {
        let mut open: BTreeMap<Arc<str>, Task> = BTreeMap::new();
        loop {
            let retry = tokio::time::sleep(RETRY);
            tokio::select! {
                task = tasks.recv() => match task {
                    Some((full_key, task)) => { open.insert(full_key, task); }
                    None => return,
                },
                () = retry, if !open.is_empty() => {}
                () = token.cancelled() => return,
            }
            while let Ok((full_key, task)) = tasks.try_recv() {
                open.insert(full_key, task);
            }
            let mut failed = BTreeMap::new();
            for (full_key, task) in std::mem::take(&mut open) {
                if let Err(reason) = self.carry_out(&full_key, &task).await {
                    debug!(
                        document.key = &*full_key,
                        reason, "Could not update the saved last good text, trying again"
                    );
                    failed.insert(full_key, task);
                }
            }
            open = failed;
        }
    }

    async fn carry_out(&self, full_key: &str, task: &Task) -> Result<(), String> {
        let place = self.place(full_key);
        let write = match task {
            Task::Keep(text) => Write {
                key: place,
                value: Some(encode(text)?),
                expect: Expect::Absent,
            },
            Task::Forget { accepted } => match self.backend.get(&place).await.map_err(|error| error.to_string())? {
                Some(entry) if accepted.is_none_or(|accepted| is_older(&entry, accepted)) => Write {
                    key: place,
                    value: None,
                    expect: Expect::Etag(self.backend.etag(&entry)),
                },
                _ => return Ok(()),
            },
        };
        match self.backend.write(vec![write]).await {
            // Somebody else was first: another replica saved or removed it.
            Ok(_) | Err(WriteError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn is_older(entry: &Entry, accepted: i64) -> bool {
    decode(entry).is_none_or(|text| text.mod_revision < accepted)
}

fn text_of(entry: &Entry) -> Text {
    Text {
        value: entry.value.clone(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        leased: entry.leased,
    }
}

fn encode(text: &Text) -> Result<Bytes, String> {
    let value = String::from_utf8(text.value.to_vec()).map_err(|error| error.to_string())?;
    let saved = SavedText {
        mod_revision: text.mod_revision,
        create_revision: text.create_revision,
        value,
    };
    serde_json::to_vec(&saved)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

fn decode(entry: &Entry) -> Option<Text> {
    let saved: SavedText = serde_json::from_slice(&entry.value).ok()?;
    Some(Text {
        value: Bytes::from(saved.value),
        create_revision: saved.create_revision,
        mod_revision: saved.mod_revision,
        leased: false,
    })
}
