//! `GET /api/v1/documents` and `GET /api/v1/documents/KIND/NAME`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::entry::{Entry, EntryWithValue, ShownState, key_of, value};
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params, values};
use super::{Admin, refused};
use crate::backend;
use crate::document::key::Kind;
use crate::reconcile::world::Status;

/// KIND and NAME of a path; NAME is empty if the path has none.
pub(super) fn kind_and_name(path: Result<Path<Vec<String>>, PathRejection>) -> Result<(String, String), Problem> {
    let Path(mut parts) = path?;
    let name = if parts.len() > 1 { parts.pop() } else { None };
    Ok((parts.pop().unwrap_or_default(), name.unwrap_or_default()))
}

pub(super) async fn all(Shared(admin): Shared<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["state", "kind"])?;
    let states: Vec<ShownState> = values(&query, "state").map(state_of).collect::<Result<_, _>>()?;
    let kinds: Vec<Kind> = values(&query, "kind").map(kind_of).collect::<Result<_, _>>()?;
    let world = admin.world.load_full();
    let refused = refused::documents(&admin);
    let wanted = |status: &&Status| {
        (kinds.is_empty() || kinds.contains(&status.key.kind))
            && (states.is_empty() || states.contains(&refused::state(&refused, status)))
    };
    let mut found: Vec<&Status> = world.documents().chain(world.problems()).filter(wanted).collect();
    // A stable sort keeps a document before the further files of its key.
    found.sort_by(|one, other| one.key.cmp(&other.key));
    let documents: Vec<_> = found.into_iter().map(|status| Entry::of(status, &refused)).collect();
    Ok(Json(json!({ "documents": documents })).into_response())
}

pub(super) async fn one(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let (kind, name) = kind_and_name(path)?;
    let key = key_of(&kind, &name)?;
    let world = admin.world.load_full();
    let full_key = world.options().layout.full_key(&key);
    let status = world
        .document(&key)
        .or_else(|| world.problems().find(|status| status.key == key));
    let status = status.ok_or_else(|| Problem::no_document(&key).of_key(full_key))?;
    let entry = Entry::of(status, &refused::documents(&admin));
    let body = Json(EntryWithValue {
        entry,
        value: value(status),
    });
    Ok(match etag(&admin, status) {
        Some(etag) => ([(header::ETAG, etag)], body).into_response(),
        None => body.into_response(),
    })
}

/// The `ETag` of a document's latest text; `None` if the document was deleted.
fn etag(admin: &Admin, status: &Status) -> Option<String> {
    let text = status.latest.as_ref()?;
    let entry = backend::Entry {
        key: status.full_key.as_bytes().to_vec().into(),
        value: text.value.clone(),
        create_revision: text.create_revision,
        mod_revision: text.mod_revision,
        leased: text.leased,
    };
    Some(format!("\"{}\"", admin.backend.etag(&entry)))
}

fn state_of(word: &str) -> Result<ShownState, Problem> {
    ShownState::from_word(word).ok_or_else(|| {
        let states = ShownState::words().collect::<Vec<_>>().join(", ");
        Problem::new(
            Code::InvalidRequest,
            format!("there is no state `{word}`, expected one of {states}"),
        )
    })
}

fn kind_of(word: &str) -> Result<Kind, Problem> {
    let unknown = Some(Kind::Unknown).filter(|kind| kind.as_str() == word);
    Kind::from_word(word).or(unknown).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        Problem::new(
            Code::InvalidRequest,
            format!("there is no kind `{word}`, expected one of {kinds}"),
        )
    })
}
