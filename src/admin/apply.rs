//! `POST /api/v1/apply`: several documents in one change.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::author::check_message;
use super::change::{Author, Change, Condition, Edit, Options, Text, Written, carry_out, dry_run, parse_ttl};
use super::confirm::parse_within;
use super::entry::key_of;
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, parse_flag, reject_unknown_params};
use super::release::json_only;
use super::write::{etag, full_key_of, if_match_of, shown, writable};
use super::{Admin, refused};
use crate::document::MAX_BYTES;
use crate::journal::intent::Action;

/// Most bytes of a body.
pub(super) const MOST_BYTES: usize = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    documents: Vec<Document<'a>>,
    message: Option<String>,
    if_base: Option<i64>,
    confirm_within: Option<String>,
    #[serde(default)]
    in_parts: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    kind: String,
    #[serde(default)]
    name: String,
    /// The text as it is to be stored; a JSON string is the text itself. `null` deletes.
    #[serde(borrow)]
    value: &'a RawValue,
    if_match: Option<String>,
    /// Of a registration: the length of its new lease.
    ttl: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Applied {
    /// The last of `revisions`; null: nothing changed.
    revision: Option<i64>,
    revisions: Vec<i64>,
    documents: Vec<AppliedDocument>,
}

#[derive(Debug, Serialize)]
struct AppliedDocument {
    key: String,
    action: Action,
    state: Option<&'static str>,
    etag: Option<String>,
    warnings: Vec<String>,
}

pub(super) async fn apply(
    State(admin): State<Admin>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force", "dry_run"])?;
    json_only(&headers)?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is too large, expected at most {MOST_BYTES} bytes");
            Problem::new(Code::TooLarge, detail)
        }
        _ => Problem::from(rejection),
    })?;
    let body: Body<'_> = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!(
            "the body cannot be read, expected {{\"documents\": [{{\"kind\", \"name\", \"value\"}}]}}: {error}"
        );
        Problem::new(Code::InvalidRequest, detail)
    })?;

    let change = change(&admin, body, parse_flag(&query, "force")?, author)?;
    if parse_flag(&query, "dry_run")? {
        return Ok(Json(dry_run(&admin, &change).await?).into_response());
    }
    let written = carry_out(&admin, &change).await?;
    Ok(Json(answer(&admin, &written)).into_response())
}

fn change(admin: &Admin, body: Body<'_>, force: bool, author: Author) -> Result<Change, Problem> {
    if body.documents.is_empty() {
        let detail = "documents: found an empty list, expected at least one document";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let message = body.message.map(|text| check_message("message", text)).transpose()?;
    let edits = body.documents.iter().map(|document| edit(admin, document));
    Ok(Change {
        edits: edits.collect::<Result<_, _>>()?,
        author: Author {
            message: message.or(author.message),
            ..author
        },
        options: Options {
            force,
            if_base: body.if_base,
            in_parts: body.in_parts,
            confirm_within: body.confirm_within.as_deref().map(parse_within).transpose()?,
            ..Options::default()
        },
    })
}

fn edit(admin: &Admin, document: &Document<'_>) -> Result<Edit, Problem> {
    let key = writable(key_of(&document.kind, &document.name)?)?;
    let full_key = full_key_of(admin, &key);
    let json = document.value.get();
    let text = match serde_json::from_str::<Option<String>>(json) {
        Ok(None) => Text::Gone,
        Ok(Some(text)) => Text::Written(text.into()),
        Err(_) => Text::Written(Bytes::copy_from_slice(json.as_bytes())),
    };
    if let Text::Written(text) = &text
        && text.len() > MAX_BYTES
    {
        let detail = format!("{key} has {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(Problem::new(Code::TooLarge, detail).of_key(full_key));
    }
    let condition = document.if_match.as_deref().map_or(Condition::Any, if_match_of);
    Ok(Edit {
        key,
        full_key,
        text,
        condition,
        ttl: document.ttl.as_deref().map(parse_ttl).transpose()?,
    })
}

/// The answer about a change.
pub(super) fn answer(admin: &Admin, written: &Written) -> Applied {
    let refused = refused::documents(admin);
    let documents = written.documents.iter().map(|document| {
        let shown = shown(admin, document, &refused);
        AppliedDocument {
            key: document.full_key.clone(),
            action: document.action,
            state: shown.as_ref().map(super::entry::Entry::state),
            etag: etag(admin, document),
            warnings: shown.map(|shown| shown.warnings().to_vec()).unwrap_or_default(),
        }
    });
    Applied {
        revision: written.revisions.last().copied(),
        revisions: written.revisions.clone(),
        documents: documents.collect(),
    }
}
