//! `POST /api/v1/release`: held changes take effect now.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;

use super::Admin;
use super::problem::{Code, Problem};
use crate::reconcile::plan::{finds_guarding, finds_held};
use crate::reconcile::run::Command;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    keys: Option<Vec<String>>,
    #[serde(default)]
    all: bool,
}

pub(super) async fn release(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    json_only(&headers)?;

    let body: Body = serde_json::from_slice(&body?).map_err(|error| {
        Problem::new(
            Code::InvalidRequest,
            format!("the body cannot be read, expected {{\"keys\": [KEY]}} or {{\"all\": true}}: {error}"),
        )
    })?;

    let keys = match body {
        Body {
            keys: Some(keys),
            all: false,
        } if !keys.is_empty() => Some(keys),
        Body { keys: None, all: true } => None,
        _ => {
            let detail = "expected {\"keys\": [KEY]} with at least one key, or {\"all\": true}";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    };

    if !finds_held(&admin.world.load(), keys.clone()) {
        return Err(match finds_guarding(&admin.world.load(), keys.clone()) {
            Some(key) => guarding(&key),
            None => nothing_held(keys.as_deref()),
        });
    }

    let sent = admin.commands.send(Command::Release(keys)).await;
    sent.map_err(|_| Problem::new(Code::NotReady, "the server is stopping"))?;
    Ok(StatusCode::NO_CONTENT)
}

fn guarding(key: &str) -> Problem {
    let detail = format!(
        "{key} is deleted and guards requests, expected that no document names it before it goes: without it they would be \
         served unguarded"
    );
    Problem::new(Code::InUse, detail).of_key(key)
}

fn nothing_held(keys: Option<&[String]>) -> Problem {
    match keys {
        None => Problem::new(Code::NotFound, "nothing is held"),
        Some([key]) => Problem::new(Code::NotFound, format!("nothing is held at {key}")).of_key(key),
        Some(keys) => Problem::new(
            Code::NotFound,
            format!("nothing is held at any of these {} keys", keys.len()),
        ),
    }
}

/// Require the content type JSON: a form on a web page of another site can send text, but not this type.
pub(super) fn json_only(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!("found the content type `{content_type}`, expected application/json");
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}
