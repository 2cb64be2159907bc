//! The fields of a route that `defaults.route` may give: timeouts, retries, edits of headers, the choice of endpoints.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{COUNT, words};
use super::super::sentence::did_you_mean;
use super::header::{self, read_edits};
use super::{BackOff, Limit, Retry, Settings, SplitBy, hashing};

/// The fields that only a forwarded request can use.
pub(crate) const FORWARDING: &[Field] = &[
    Field::new("timeout", Shape::DurationOrNone, "Limit of the whole response")
        .or("`defaults`, else `15s`; none for a `grpc` match"),
    Field::new(
        "idle_timeout",
        Shape::DurationOrNone,
        "Limit without a byte in either direction",
    )
    .or("`defaults`, else Envoy's, 5 minutes"),
    Field::new("retry", Shape::Object(&RETRY_FIELDS), "Retries").or("`defaults`, else none"),
    Field::new("hash_on", hashing::SHAPE, "Parts of a request that choose the endpoint").or("`defaults`, else none"),
    Field::new(
        "split_by",
        Shape::Words(&words(&SPLITS)),
        "The choice among weighted clusters",
    )
    .or("`defaults`, else `\"random\"`"),
    Field::new(
        "websocket",
        Shape::Flag,
        "`true`: WebSocket upgrades pass; `false`: Envoy answers them with 403",
    )
    .or("`defaults`, else the listener's"),
];
/// The fields that every answer can use.
pub(crate) const HEADERS: &[Field] = &[
    Field::new(
        "request_headers",
        Shape::Object(&header::FIELDS),
        "Edits of the request's headers",
    )
    .or("`defaults`, else none"),
    Field::new(
        "response_headers",
        Shape::Object(&header::FIELDS),
        "Edits of the response's headers",
    )
    .or("`defaults`, else none"),
];
const SPLITS: [(&str, SplitBy); 2] = [("random", SplitBy::Random), ("hash_on", SplitBy::HashOn)];

const RETRY_FIELDS: Fields = Fields::of(&[
    Field::new("attempts", COUNT, "Retries beyond the first try").required(),
    Field::new(
        "on",
        Shape::entries(
            &Shape::AnyOf(&[Shape::Words(&RETRY_WORDS), STATUS, Shape::Whole(100, 599)]),
            usize::MAX,
        ),
        "Status codes from 100 to 599, and words of Envoy",
    )
    .required(),
    Field::new("per_try_timeout", Shape::Duration, "Limit of each try"),
    Field::new("back_off", Shape::Object(&BACK_OFF_FIELDS), "Pauses between two tries"),
    Field::new(
        "another_endpoint",
        Shape::Flag,
        "A retry goes to an endpoint that was not tried before, if Envoy finds one in 3 picks",
    )
    .or("`true`"),
]);
const BACK_OFF_FIELDS: Fields = Fields::of(&[
    Field::new("base", Shape::Duration, "First pause").required(),
    Field::new("max", Shape::Duration, "Longest pause, at least `base`").or("Envoy's, 10 × `base`"),
]);
const STATUS: Shape = Shape::Text("status code", Some("^[1-5][0-9][0-9]$"));
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
        split_by: object.read("split_by", |field| field.word(&SPLITS))?,
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
