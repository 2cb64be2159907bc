//! Repeats of a request: the intent of the first one answers, and nothing is written.

use std::collections::BTreeMap;

use serde_json::from_slice;
use tracing::warn;

use super::super::problem::{Code, Problem};
use super::{Admin, Author, Change, Target, Written, WrittenDocument};
use crate::backend::{Entry, Expect, Write};
use crate::journal::intent::{Action, FORMAT, Part};
use crate::journal::{self, Intent};

/// After so many writes of this server, intents that nobody takes are deleted.
const WRITES_BETWEEN: u64 = 256;
/// The newest intents stay, so that requests can be repeated.
const KEPT_NOTES: usize = 1000;
/// Intents that one transaction deletes.
const DELETED_AT_ONCE: usize = 100;

/// The id of a request, or of one of its parts.
pub(super) fn id_of(author: &Author, part: Option<&Part>) -> String {
    match part {
        Some(part) if part.number > 1 => format!("{}/part/{}", author.request_id, part.number),
        _ => author.request_id.clone(),
    }
}

/// The first request of an id.
struct First {
    revision: i64,
    actor: Option<String>,
    documents: BTreeMap<String, Action>,
    /// The journal does not name documents that had their texts already.
    is_of_journal: bool,
}

impl First {
    fn of_note(note: &Entry) -> Option<Self> {
        let intent: Intent = from_slice(&note.value).ok()?;
        (intent.format <= FORMAT).then_some(Self {
            revision: note.mod_revision,
            actor: intent.actor,
            documents: intent.documents,
            is_of_journal: false,
        })
    }

    fn of_entry(entry: &journal::entry::Entry) -> Self {
        let documents = entry.documents.iter();
        Self {
            revision: entry.revision,
            actor: entry.actor.clone(),
            documents: documents
                .map(|changed| (changed.key.to_string(), changed.action()))
                .collect(),
            is_of_journal: true,
        }
    }

    fn is_about(&self, targets: &[Target<'_>]) -> bool {
        let named = targets
            .iter()
            .filter(|target| self.documents.contains_key(&target.edit.full_key));
        named.count() == self.documents.len() && (self.is_of_journal || targets.len() == self.documents.len())
    }
}

/// The answer to the first request of this id; `None`: the request is the first.
///
/// # Errors
/// The first request was that of another author, or about other documents.
pub(super) async fn find(
    admin: &Admin,
    change: &Change,
    targets: &[Target<'_>],
    part: Option<&Part>,
) -> Result<Option<Written>, Problem> {
    let author = &change.author;
    if !author.is_repeatable || targets.iter().all(|target| target.root.is_registrations()) {
        return Ok(None);
    }
    let id = id_of(author, part);
    let key = admin.pending.note_key(&id);
    let first = match admin.backend.get(key.as_bytes()).await {
        Ok(Some(note)) => First::of_note(&note),
        // The journal has taken over the note, or this request is the first. If the store does not answer, the reads of
        // the documents say so.
        _ => match admin.journal.of_request(&id) {
            Some(entry) => Some(First::of_entry(&entry)),
            None => return Ok(None),
        },
    };
    let first = first.filter(|first| first.actor == author.actor);
    let Some(first) = first.filter(|first| first.is_about(targets)) else {
        let detail = format!(
            "X-Request-Id: found {}, the id of another write, expected a new id, or the same documents by the same author",
            author.request_id
        );
        return Err(Problem::new(Code::RequestIdUsed, detail));
    };

    let world = admin.world.load();
    let mut documents = Vec::with_capacity(targets.len());
    for target in targets {
        let edit = target.edit;
        let action = first
            .documents
            .get(&edit.full_key)
            .copied()
            .unwrap_or(Action::Unchanged);
        let stored = match action {
            Action::Unchanged => admin.backend.get(edit.full_key.as_bytes()).await?,
            _ => target.value.clone().map(|value| Entry {
                key: edit.full_key.clone().into(),
                value,
                create_revision: first.revision,
                mod_revision: first.revision,
                leased: false,
            }),
        };
        documents.push(WrittenDocument {
            key: edit.key.clone(),
            full_key: edit.full_key.clone(),
            action,
            stored,
            status: world.document(&edit.key).cloned(),
        });
    }
    Ok(Some(Written {
        revisions: vec![first.revision],
        documents,
    }))
}

/// Delete the oldest intents once in a while. The journal deletes each one that it has told; this bounds them where no
/// journal is written.
pub(super) async fn limit_notes(admin: &Admin) {
    if !admin.pending.count_write().is_multiple_of(WRITES_BETWEEN) {
        return;
    }
    if let Err(error) = delete_oldest(admin).await {
        warn!(%error, "Old keys of writes below the state prefix cannot be deleted");
    }
}

async fn delete_oldest(admin: &Admin) -> anyhow::Result<()> {
    let (_, mut notes) = admin.backend.list(&admin.pending.note_key("")).await?;
    notes.sort_by_key(|note| note.mod_revision);
    let old = notes.len().saturating_sub(KEPT_NOTES);
    for notes in notes[..old].chunks(DELETED_AT_ONCE) {
        let deletions = notes.iter().map(|note| Write {
            key: note.key.clone(),
            value: None,
            expect: Expect::Any,
        });
        admin.backend.write(deletions.collect()).await?;
    }
    Ok(())
}
