//! `PUT` and `DELETE` of a document: a change ([`super::change`]) of one.

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::change::{Author, Change, Condition, Edit, Options, Text, Written, WrittenDocument, carry_out, parse_ttl};
use super::confirm::within_of;
use super::documents::kind_and_name;
use super::entry::{Entry as Shown, key_of};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, parse_flag, reject_unknown_params, values};
use super::{Admin, refused};
use crate::document::key::{DocumentKey, Kind};
use crate::journal::intent::Action;

/// The warning on a registration that no lease removes.
const NO_LEASE: &str = "no_lease: the registration has no lease, so it stays until it is deleted";

pub(super) async fn put(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force", "confirm_within", "ttl"])?;
    let key = writable(key_of_path(path)?)?;
    let full_key = full_key_of(&admin, &key);
    let text = body.map_err(|rejection| Problem::from(rejection).of_key(&full_key))?;
    let change = change_of_one(key, full_key, Text::Written(text), &query, &headers, author)?;
    let written = carry_out(&admin, &change).await?;

    let is_new = |document: &&WrittenDocument| document.action == Action::Added;
    let status = match written.documents.iter().find(is_new) {
        Some(_) => StatusCode::CREATED,
        None => StatusCode::OK,
    };
    Ok(answer(&admin, status, &written))
}

pub(super) async fn delete(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force", "confirm_within"])?;
    let key = writable(key_of_path(path)?)?;
    let full_key = full_key_of(&admin, &key);
    let change = change_of_one(key.clone(), full_key.clone(), Text::Gone, &query, &headers, author)?;
    let written = carry_out(&admin, &change).await?;
    match written.revisions.is_empty() {
        true => Err(Problem::no_document(&key).of_key(full_key)),
        false => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn change_of_one(
    key: DocumentKey,
    full_key: String,
    text: Text,
    query: &Pairs,
    headers: &HeaderMap,
    author: Author,
) -> Result<Change, Problem> {
    let condition = condition(headers)?;
    Ok(Change {
        edits: vec![Edit {
            key,
            full_key,
            text,
            condition,
            ttl: values(query, "ttl").last().map(parse_ttl).transpose()?,
        }],
        author,
        options: Options {
            force: parse_flag(query, "force")?,
            confirm_within: within_of(query)?,
            ..Options::default()
        },
    })
}

fn key_of_path(path: Result<Path<Vec<String>>, PathRejection>) -> Result<DocumentKey, Problem> {
    let (kind, name) = kind_and_name(path)?;
    key_of(&kind, &name)
}

/// A key that the server may write: none of those that a registry finds.
pub(super) fn writable(key: DocumentKey) -> Result<DocumentKey, Problem> {
    match key.registry() {
        Some(registry) => {
            let detail = format!("{key} is what registries/{registry} finds; the server only reads a registry");
            Err(Problem::new(Code::MethodNotAllowed, detail))
        }
        None => Ok(key),
    }
}

pub(super) fn full_key_of(admin: &Admin, key: &DocumentKey) -> String {
    admin.world.load().options().layout.full_key(key)
}

/// The condition of the headers.
fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let if_match = header_text(headers, &header::IF_MATCH)?;
    let if_none_match = header_text(headers, &header::IF_NONE_MATCH)?;
    match (if_match.as_deref(), if_none_match.as_deref()) {
        (None, None) => Ok(Condition::Any),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(wanted), None) => Ok(if_match_of(wanted)),
        (None, Some(_)) => Err(Problem::new(
            Code::InvalidRequest,
            "If-None-Match: only `*` is supported",
        )),
        (Some(_), Some(_)) => Err(Problem::new(
            Code::InvalidRequest,
            "If-Match and If-None-Match exclude each other",
        )),
    }
}

/// The condition of an `If-Match`. Quotes are optional here; weak etags match nothing, as RFC 9110 has it.
pub(super) fn if_match_of(text: &str) -> Condition {
    if text == "*" {
        return Condition::Present;
    }
    let etags = text.split(',').map(|etag| etag.trim().trim_matches('"').to_owned());
    Condition::Etags(etags.collect())
}

/// The text of a header; of several lines with one name, the list of all.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::to_str)
        .collect::<Result<_, _>>()
        .map_err(|_| Problem::new(Code::InvalidRequest, format!("{name} is not text")))?;
    Ok((!lines.is_empty()).then(|| lines.join(",").trim().to_owned()))
}

/// The entry of the document after the write, with the etag of the stored text.
fn answer(admin: &Admin, status: StatusCode, written: &Written) -> Response {
    let Some(document) = written.documents.first() else {
        return status.into_response();
    };
    let etag = etag(admin, document).map(|etag| [(header::ETAG, format!("\"{etag}\""))]);
    let refused = refused::documents(admin);
    let shown = shown(admin, document, &refused).map(Json);
    match (etag, shown) {
        (Some(etag), Some(shown)) => (status, etag, shown).into_response(),
        (Some(etag), None) => (status, etag).into_response(),
        (None, _) => status.into_response(),
    }
}

/// The etag of a written document; `None`: the document is gone.
pub(super) fn etag(admin: &Admin, document: &WrittenDocument) -> Option<String> {
    Some(admin.backend.etag(document.stored.as_ref()?))
}

/// The entry of a written document; `None`: the document is gone.
pub(super) fn shown<'a>(admin: &Admin, document: &'a WrittenDocument, refused: &Refused) -> Option<Shown<'a>> {
    let shown = Shown::of(document.status.as_ref()?, refused);
    let Some(stored) = &document.stored else {
        return Some(shown);
    };
    let shown = shown.at_revision(stored.mod_revision);
    let may_have_lease = document.key.kind == Kind::Services && admin.world.load().options().has_leases;
    Some(match may_have_lease && !stored.leased {
        true => shown.with_warning(NO_LEASE),
        false => shown,
    })
}

/// See [`refused::documents`].
pub(super) type Refused = std::collections::BTreeMap<DocumentKey, refused::NackedDocument>;
