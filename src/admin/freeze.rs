//! `/api/v1/freezes`: documents that the API does not change for a while.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use humantime::parse_duration;
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::author::check_message;
use super::change::Author;
use super::frozen::{FORMAT, Freeze, deletion, key_of, millis, read};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params};
use super::release::json_only;
use crate::backend::{Expect, Write};

/// Longest freeze.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most freezes at a time.
const MOST: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    key: String,
    r#for: String,
    why: String,
}

pub(super) async fn all(State(admin): State<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let (freezes, _) = read(&admin).await?;
    let freezes: Vec<_> = freezes.iter().map(Freeze::shown).collect();
    Ok(Json(json!({ "freezes": freezes })).into_response())
}

pub(super) async fn begin(
    State(admin): State<Admin>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    json_only(&headers)?;
    let invalid = |detail: String| Problem::new(Code::InvalidRequest, detail);
    let body: Body = serde_json::from_slice(&body?).map_err(|error| {
        invalid(format!(
            "the body cannot be read, expected {{\"key\", \"for\", \"why\"}}: {error}"
        ))
    })?;
    let layout = admin.world.load().options().layout.clone();
    let prefix = body.key.trim_end_matches('*');
    let root = layout
        .root_of(prefix.as_bytes())
        .filter(|root| !root.is_registrations());
    if root.is_none() {
        let detail = format!(
            "key: found `{}`, expected a full key such as {}routes/orders, or a prefix such as {}routes/*",
            body.key, layout.prefix, layout.prefix
        );
        return Err(invalid(detail));
    }
    let length = parse_duration(&body.r#for)
        .ok()
        .filter(|length| !length.is_zero() && *length <= LONGEST);
    let Some(length) = length else {
        return Err(invalid(format!(
            "for: found `{}`, expected a duration such as 30m, at most 30d",
            body.r#for
        )));
    };
    if body.why.trim().is_empty() {
        return Err(invalid("why: found nothing, expected a reason".to_owned()));
    }
    let now = SystemTime::now();
    let freeze = Freeze {
        format: FORMAT,
        id: format!("{:012x}", rand::random::<u64>() >> 16),
        key: body.key,
        why: check_message("why", body.why)?,
        by: author.actor,
        since: millis(now),
        until: millis(now + length),
    };

    let (freezes, over) = read(&admin).await?;
    if freezes.len() >= MOST {
        return Err(invalid(format!("there are {MOST} freezes already, expected fewer")));
    }
    let value = serde_json::to_vec(&freeze).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let mut writes = vec![Write {
        key: key_of(&admin, &freeze.id),
        value: Some(value.into()),
        expect: Expect::Absent,
    }];
    writes.extend(over.iter().take(64).map(|id| deletion(&admin, id)));
    admin.backend.write(writes).await?;
    admin.freezes.begin(freeze.clone());
    Ok((StatusCode::CREATED, Json(freeze.shown())).into_response())
}

pub(super) async fn end(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let Path(id) = path?;
    let (freezes, _) = read(&admin).await?;
    if !freezes.iter().any(|freeze| freeze.id == id) {
        return Err(Problem::new(Code::NotFound, format!("there is no freeze `{id}`")));
    }
    admin.backend.write(vec![deletion(&admin, &id)]).await?;
    admin.freezes.end(&id);
    Ok(StatusCode::NO_CONTENT.into_response())
}
