//! The author of a write, from the headers of its request.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

use super::change::Author;
use super::problem::{Code, Problem};
use super::{Admin, RequestId};
use crate::journal::intent::Via;

/// The header with the reason of a write, percent-encoded.
const MESSAGE: HeaderName = HeaderName::from_static("x-chancery-message");
/// Most bytes of a message.
const MOST_BYTES: usize = 1024;

impl FromRequestParts<Admin> for Author {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, Problem> {
        let id = parts.extensions.get::<RequestId>();
        Ok(Self {
            actor: None,
            message: message(&parts.headers)?,
            request_id: id.map(|id| id.text.to_string()).unwrap_or_default(),
            is_repeatable: id.is_some_and(|id| id.is_chosen),
            undoes: None,
            of: None,
            via: Via::Api,
        })
    }
}

fn message(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(header) = headers.get(&MESSAGE) else {
        return Ok(None);
    };
    let text = percent_decode(header.as_bytes()).decode_utf8();
    let text = text.map_err(|_| {
        let detail = "X-Chancery-Message: found bytes that are not UTF-8, expected percent-encoded UTF-8";
        Problem::new(Code::InvalidRequest, detail)
    })?;
    check_message("X-Chancery-Message", text.into_owned()).map(Some)
}

/// A message as the journal can keep it; `place`: where it stands in the request.
pub(super) fn check_message(place: &str, text: String) -> Result<String, Problem> {
    if text.len() > MOST_BYTES {
        let detail = format!("{place}: found {} bytes, expected at most {MOST_BYTES}", text.len());
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    if text.contains(char::is_control) {
        let detail = format!("{place}: found a control character, expected a text of one line");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    Ok(text)
}
