//! The fields of a route that `defaults.route` may give: timeouts, retries, edits of headers, the choice of endpoints.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Fields, Object};
use super::super::sentence::did_you_mean;
use super::header::read_edits;
use super::{BackOff, Limit, Retry, Settings, SplitBy, hashing};

/// The names of the fields.
pub(crate) const FIELDS: [&str; 8] = [
    "timeout",
    "idle_timeout",
    "retry",
    "request_headers",
    "response_headers",
    "hash_on",
    "split_by",
    "websocket",
];

const RETRY_FIELDS: Fields = Fields::new(&["attempts", "on", "per_try_timeout", "back_off", "another_endpoint"]);
const BACK_OFF_FIELDS: Fields = Fields::new(&["base", "max"]);
/// Envoy's words, without those that need lists of their own.
const RETRY_WORDS: [&str; 14] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const A_RETRY_WORD: &str = r#"a status code such as "503" or one of Envoy's words such as "connect-failure""#;

/// Reads the fields that are present.
pub(crate) fn read(object: &Object<'_>) -> Result<Settings, Rejection> {
    Ok(Settings {
        timeout: object.read("timeout", |field| read_limit(&field))?,
        idle_timeout: object.read("idle_timeout", |field| read_limit(&field))?,
        retry: object.read("retry", |field| read_retry(&field))?,
        request_headers: object.read("request_headers", |field| read_edits(&field))?,
        response_headers: object.read("response_headers", |field| read_edits(&field))?,
        hash_on: object.read("hash_on", |field| hashing::read(&field))?,
        split_by: object.read("split_by", |field| {
            field.word(&[("random", SplitBy::Random), ("hash_on", SplitBy::HashOn)])
        })?,
        websocket: object.read("websocket", |field| field.bool())?,
    })
}

impl Settings {
    /// These settings; an absent field is taken from `other`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            timeout: self.timeout.or(other.timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            retry: self.retry.or_else(|| other.retry.clone()),
            request_headers: self.request_headers.or_else(|| other.request_headers.clone()),
            response_headers: self.response_headers.or_else(|| other.response_headers.clone()),
            hash_on: self.hash_on.or_else(|| other.hash_on.clone()),
            split_by: self.split_by.or(other.split_by),
            websocket: self.websocket.or(other.websocket),
        }
    }

    /// The settings that have a meaning without a forwarded request.
    pub(super) fn only_headers(self) -> Self {
        Self {
            request_headers: self.request_headers,
            response_headers: self.response_headers,
            ..Self::default()
        }
    }
}

fn read_limit(cursor: &Cursor<'_>) -> Result<Limit, Rejection> {
    match cursor.value().as_str() {
        Some("none") => Ok(Limit::None),
        Some(text) if text.starts_with('0') => cursor
            .duration()
            .map(Limit::After)
            .map_err(|_| cursor.expected("a duration above zero or \"none\"")),
        _ => cursor.duration().map(Limit::After),
    }
}

fn read_retry(cursor: &Cursor<'_>) -> Result<Retry, Rejection> {
    let object = cursor.object(&RETRY_FIELDS)?;
    let attempts = object
        .require("attempts", "the number of retries")?
        .integer(1..=u32::MAX)?;
    let on = object.require("on", r#"the retried conditions, such as ["connect-failure", "503"]"#)?;
    let mut words: Vec<String> = Vec::new();
    for entry in on.entries()? {
        let word = read_retry_word(&entry)?;
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Ok(Retry {
        attempts,
        on: words,
        per_try_timeout: object.read("per_try_timeout", |field| field.duration())?,
        back_off: object.read("back_off", |field| read_back_off(&field))?,
        another_endpoint: object.read("another_endpoint", |field| field.bool())?.unwrap_or(true),
    })
}

fn read_retry_word(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    // YAML writes a status code as a number.
    if cursor.value().is_number() {
        return cursor.integer(100u16..=599).map(|code| code.to_string());
    }
    let text = cursor.string()?;
    let is_code = text.len() == 3 && text.parse().is_ok_and(|code: u16| (100..=599).contains(&code));
    if is_code || RETRY_WORDS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(cursor.expected(&format!("{A_RETRY_WORD}{}", did_you_mean(text, RETRY_WORDS))))
}

fn read_back_off(cursor: &Cursor<'_>) -> Result<BackOff, Rejection> {
    let object = cursor.object(&BACK_OFF_FIELDS)?;
    let base: Duration = object.require("base", "the first interval")?.duration()?;
    let max = object.read("max", |field| {
        let max = field.duration()?;
        if max < base {
            Err(field.expected("not less than \"base\""))
        } else {
            Ok(max)
        }
    })?;
    Ok(BackOff { base, max })
}
