//! A document as the API shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::problem::{Code, Problem};
use super::refused::{self, Refused};
use crate::document::key::{DocumentKey, Kind};
use crate::reconcile::world::{State, Status};

/// One entry of `GET /api/v1/documents`.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    key: &'a str,
    kind: &'static str,
    name: &'a str,
    state: &'static str,
    reason: Option<String>,
    path: Option<&'a str>,
    warnings: &'a [String],
    revision: Option<i64>,
    serving_revision: Option<i64>,
}

impl<'a> Entry<'a> {
    /// The entry of a document, what proxies refuse laid over it.
    pub(super) fn of(status: &'a Status, refused: &BTreeMap<DocumentKey, Refused>) -> Self {
        let state = refused::state(refused, status);
        let reason = match (state, refused.get(&status.key)) {
            (State::Refused, Some(refused)) => Some(refused.reason()),
            _ => status.reason.clone(),
        };
        Self {
            key: &status.full_key,
            kind: status.key.kind.as_str(),
            name: &status.key.name,
            state: state.as_str(),
            reason,
            path: status.path.as_deref(),
            warnings: &status.warnings,
            revision: status.latest.as_ref().map(|text| text.mod_revision),
            serving_revision: status.serving.as_ref().map(|text| text.mod_revision),
        }
    }

    /// With the revision that the store gave the write that this entry foretells.
    pub(super) fn at_revision(mut self, revision: i64) -> Self {
        if self.serving_revision == self.revision {
            self.serving_revision = Some(revision);
        }
        self.revision = Some(revision);
        self
    }
}

/// The entry of `GET /api/v1/documents/KIND/NAME`.
#[derive(Debug, Serialize)]
pub(super) struct EntryWithValue<'a> {
    #[serde(flatten)]
    pub(super) entry: Entry<'a>,
    /// As written: JSON as JSON, anything else as a string. Absent where it may hold a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Value>,
}

/// The document that a path names.
pub(super) fn key_of(kind: &str, name: &str) -> Result<DocumentKey, Problem> {
    let Some(kind) = Kind::from_word(kind) else {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        return Err(Problem::new(Code::NotFound, format!("there is no kind `{kind}`, expected one of {kinds}")));
    };
    match (kind, name) {
        (Kind::Defaults, "") => Ok(DocumentKey::new(kind, "")),
        (Kind::Defaults, _) => Err(Problem::new(Code::NotFound, "`defaults` has no name")),
        (kind, "") => {
            Err(Problem::new(Code::NotFound, format!("`{kind}` needs a name, /api/v1/documents/{kind}/NAME")))
        }
        (kind, name) => Ok(DocumentKey::new(kind, name)),
    }
}

/// Whether the texts of a document may hold secrets: never shown by any API.
pub(super) fn is_secret(key: &DocumentKey) -> bool {
    match key.kind {
        Kind::Secrets | Kind::Unknown => true,
        Kind::Xds => key.first_segment() == "secrets",
        _ => false,
    }
}

/// The latest text of a document as written; of one that was deleted and is held, the text that serves.
pub(super) fn value(status: &Status) -> Option<Value> {
    if is_secret(&status.key) {
        return None;
    }
    let text = status.latest.as_ref().or(status.serving.as_ref())?;
    let as_text = || Value::String(String::from_utf8_lossy(&text.value).into_owned());
    Some(serde_json::from_slice(&text.value).unwrap_or_else(|_| as_text()))
}
