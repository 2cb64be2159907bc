//! `/api/v1/freezes`: documents that the API does not change for a while.
//!
//! A freeze is a key `<state-prefix>freezes/ID`, so every replica refuses the same writes. Each change of documents reads
//! the freezes; an expired one does not count, and the next change of the freezes deletes it. Registrations are never
//! frozen.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use humantime::{format_rfc3339_seconds, parse_duration};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::author::check_message;
use super::change::{Author, Edit};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params};
use super::release::json_only;
use crate::backend::{Expect, Write};
use crate::document::key::Layout;

/// The folder below the state prefix.
const FOLDER: &str = "freezes/";
/// The format that this version writes.
const FORMAT: u32 = 1;
/// Longest freeze.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most freezes at a time.
const MOST: usize = 1000;

/// A freeze, as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Freeze {
    format: u32,
    id: String,
    /// A full key, or the begin of full keys with `*` at its end.
    key: String,
    why: String,
    by: Option<String>,
    /// In milliseconds since 1970.
    since: u64,
    until: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    key: String,
    r#for: String,
    why: String,
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn shown_time(millis: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

impl Freeze {
    /// Whether the freeze holds a document. A prefix holds secrets only if it names their folder.
    fn holds(&self, layout: &Layout, full_key: &str) -> bool {
        let Some(prefix) = self.key.strip_suffix('*') else {
            return self.key == full_key;
        };
        let names_secrets = |folder: &str| {
            let folder = format!("{}{folder}", layout.prefix);
            !full_key.starts_with(&folder) || prefix.starts_with(&folder)
        };
        full_key.starts_with(prefix) && names_secrets("secrets/") && names_secrets("xds/secrets/")
    }

    fn shown(&self) -> serde_json::Value {
        json!({
            "id": self.id, "key": self.key, "why": self.why, "by": self.by,
            "since": shown_time(self.since), "until": shown_time(self.until),
        })
    }
}

/// The freezes, and those that are over.
async fn read(admin: &Admin) -> Result<(Vec<Freeze>, Vec<String>), Problem> {
    let (_, entries) = admin.backend.list(&admin.journal.state_key(FOLDER)).await?;
    let now = millis(SystemTime::now());
    let freezes = entries
        .iter()
        .filter_map(|entry| serde_json::from_slice::<Freeze>(&entry.value).ok());
    let (mut current, over): (Vec<_>, Vec<_>) = freezes.partition(|freeze| freeze.until > now);
    current.sort_by(|one, other| (one.until, &one.id).cmp(&(other.until, &other.id)));
    Ok((current, over.into_iter().map(|freeze| freeze.id).collect()))
}

/// Refuse a change of documents that are frozen.
pub(super) async fn refuse_frozen(admin: &Admin, edits: &[Edit]) -> Result<(), Problem> {
    let world = admin.world.load_full();
    let layout = &world.options().layout;
    let is_document = |edit: &&Edit| {
        let root = layout.root_of(edit.full_key.as_bytes());
        root.is_none_or(|root| !root.is_registrations())
    };
    if !edits.iter().any(|edit| is_document(&edit)) {
        return Ok(());
    }
    let place = edits.first().map_or("", |edit| edit.full_key.as_str());
    let (freezes, _) = read(admin).await.map_err(|problem| problem.of_key(place))?;
    let frozen = edits.iter().filter(is_document).filter_map(|edit| {
        let freeze = freezes.iter().find(|freeze| freeze.holds(layout, &edit.full_key))?;
        let by = freeze.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let detail = format!(
            "{} is frozen{by} until {}: {}; ?force=true makes the change nevertheless",
            edit.key,
            shown_time(freeze.until),
            freeze.why
        );
        Some(Problem::new(Code::Frozen, detail).of_key(&edit.full_key))
    });
    Problem::of_all(frozen)
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
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn key_of(admin: &Admin, id: &str) -> Bytes {
    format!("{}{id}", admin.journal.state_key(FOLDER)).into()
}

fn deletion(admin: &Admin, id: &str) -> Write {
    Write {
        key: key_of(admin, id),
        value: None,
        expect: Expect::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_secrets_only_if_it_names_them() {
        let holds = |key: &str, full_key: &str| {
            let freeze = Freeze {
                format: FORMAT,
                id: String::new(),
                key: key.to_owned(),
                why: String::new(),
                by: None,
                since: 0,
                until: 0,
            };
            freeze.holds(&Layout::default(), full_key)
        };
        assert!(holds("/gateway/routes/a", "/gateway/routes/a"));
        assert!(!holds("/gateway/routes/a", "/gateway/routes/ab"));
        assert!(holds("/gateway/*", "/gateway/routes/a"));
        assert!(!holds("/gateway/*", "/gateway/secrets/a"));
        assert!(!holds("/gateway/xds/*", "/gateway/xds/secrets/a"));
        assert!(holds("/gateway/secrets/*", "/gateway/secrets/a"));
        assert!(holds("/gateway/secrets/a", "/gateway/secrets/a"));
    }
}
