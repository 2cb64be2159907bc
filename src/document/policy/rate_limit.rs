//! `rate_limit`: token buckets of each Envoy process.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{HEADER as HEADER_NAME, NOT_EMPTY, TEXT, words};
use super::super::regex;
use super::super::route::condition::{HEADERS, parse_parameter_name, read_headers};
use super::super::route::matching::read_methods;
use super::super::route::path::{self, template_regex};
use super::super::route::{PathMatch, StringMatch};
use super::jwt::{CLAIM, read_claim};
use super::service::read_header_name;

/// The fields of both forms.
pub(super) const EVERY_FIELD: Fields = Fields::joined(&[LIST, &[REQUESTS, PER], RULE, AROUND]);
const FIELDS: Fields = Fields::joined(&[LIST, AROUND]);
const RULE_FIELDS: Fields = Fields::joined(&[&[REQUESTS.required(), PER.required()], RULE]);
const LIST: &[Field] = &[Field::new(
    "rules",
    Shape::entries(&Shape::Object(&RULE_FIELDS), MAX_RULES),
    "All of them hold",
)];
const REQUESTS: Field = Field::new("requests", AMOUNT, "Requests that a bucket gets in each `per`");
const PER: Field = Field::new("per", Shape::Duration, "The time, at least 50 ms");
/// The other fields of a rule.
const RULE: &[Field] = &[
    Field::new("burst", AMOUNT, "Requests that a full bucket holds").or("`requests`"),
    Field::new("by", BY, "A bucket for each value").or("one bucket"),
    Field::new("when", Shape::Object(&WHEN_FIELDS), "Requests that count").or("every request"),
    Field::new("dry_run", Shape::Flag, "`true`: counts and refuses nothing").or("`false`"),
];
const AROUND: &[Field] = &[
    Field::new("status", Shape::Numbers(&[429]), "The answer").or("`429`"),
    Field::new("headers", Shape::Flag, "Answers have `x-ratelimit-*`").or("`false`"),
    Field::new("max_keys", Shape::Whole(1, 100_000), "Most buckets of a rule with `by`").or("`10000`"),
];
const AMOUNT: Shape = Shape::Whole(1, 1_000_000_000);
const BY_FIELDS: Fields = Fields::of(&[
    Field::new("header", HEADER_NAME, "A header"),
    Field::new("query", TEXT, "A query parameter"),
    Field::new("claim", CLAIM, "A claim of a token"),
])
.filled();
/// The value that chooses a bucket, as a shape.
pub(super) const BY: Shape = Shape::AnyOf(&[Shape::Words(&words(&WORDS)), Shape::Object(&BY_FIELDS)]);
const WORDS: [(&str, Word); 3] = [
    ("client_ip", Word::ClientIp),
    ("route", Word::Route),
    ("client", Word::Client),
];
const WHEN_FIELDS: Fields = Fields::of(&[
    Field::new(
        "methods",
        Shape::entries(&Shape::Text("method", NOT_EMPTY), usize::MAX),
        "Any of these methods",
    )
    .or("any"),
    Field::new("headers", HEADERS, "All of these conditions on headers").or("none"),
    Field::new(
        "path",
        Shape::Text("path", Some("^[/~]")),
        "A path as in a `match`, without query",
    )
    .or("any"),
]);
/// Most characters of the methods of a rule.
const MAX_METHODS: usize = 60;
/// Most rules of a policy.
const MAX_RULES: usize = 20;
/// Most requests in a bucket.
const MAX_REQUESTS: u32 = 1_000_000_000;
/// Shortest time of `per`: Envoy's.
const MIN_PER: Duration = Duration::from_millis(50);
const MAX_KEYS: u32 = 100_000;
const KEYS: u32 = 10_000;
const STATUS: i64 = 429;

/// `rate_limit`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// At least one; all of them hold.
    pub rules: Vec<LimitRule>,
    /// Whether answers carry `x-ratelimit-*`.
    pub headers: bool,
    /// Most buckets of a rule with `by`.
    pub max_keys: u32,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    /// The requests that flow into a bucket in [`LimitRule::per`].
    pub requests: u32,
    /// The time for these.
    pub per: Duration,
    /// The requests that a full bucket holds.
    pub burst: u32,
    /// A bucket for each value; `None`: one bucket.
    pub by: Option<By>,
    /// The requests that count.
    pub when: When,
    /// Whether the rule counts, and refuses nothing.
    pub dry_run: bool,
}

/// The value that chooses a bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The client's address; of IPv6 the first 64 bits.
    ClientIp,
    /// The document of the route.
    Route,
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A claim of a token, segment by segment.
    Claim(Vec<String>),
    /// The client that `api_key` or `basic_auth` found.
    Client,
}

/// A value that has no name.
#[derive(Debug, Clone, Copy)]
enum Word {
    ClientIp,
    Route,
    Client,
}

impl By {
    /// Whether the value is known only after authentication.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::Client)
    }
}

/// Conditions of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct When {
    /// Any of these; empty: every one.
    pub methods: Vec<String>,
    /// By lower-cased header name.
    pub headers: Vec<(String, StringMatch)>,
    /// A regex for the path, without its query.
    pub path: Option<String>,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<RateLimit, Rejection> {
    let has_rules = cursor.get("rules").is_some();
    let object = cursor.object(match has_rules {
        true => &FIELDS,
        false => &EVERY_FIELD,
    })?;
    let rules = match object.get("rules") {
        Some(field) => {
            let entries = field.entries()?;
            if entries.len() > MAX_RULES {
                return Err(field.reject(format!("found {} rules, expected at most {MAX_RULES}", entries.len())));
            }
            entries
                .iter()
                .map(|entry| read_rule(&entry.object(&RULE_FIELDS)?))
                .collect::<Result<_, _>>()?
        }
        None => vec![read_rule(&object)?],
    };
    if let Some(field) = object.get("status")
        && field.value().as_i64() != Some(STATUS)
    {
        return Err(field.expected("429, the one status of all rate limits of a listener"));
    }
    Ok(RateLimit {
        rules,
        headers: object.read("headers", |field| field.bool())?.unwrap_or(false),
        max_keys: object
            .read("max_keys", |field| field.integer(1..=MAX_KEYS))?
            .unwrap_or(KEYS),
    })
}

fn read_rule(object: &Object<'_>) -> Result<LimitRule, Rejection> {
    let requests = object
        .require("requests", "a number of requests")?
        .integer(1..=MAX_REQUESTS)?;
    let per = object.require("per", "a duration such as \"1s\" or \"1m\"")?;
    Ok(LimitRule {
        requests,
        per: match per.duration()? {
            duration if duration < MIN_PER => return Err(per.expected("a duration of at least \"50ms\"")),
            duration => duration,
        },
        burst: object
            .read("burst", |field| field.integer(1..=MAX_REQUESTS))?
            .unwrap_or(requests),
        by: object.read("by", |field| read_by(&field))?,
        when: object.read("when", |field| read_when(&field))?.unwrap_or_default(),
        dry_run: object.read("dry_run", |field| field.bool())?.unwrap_or(false),
    })
}

/// The value that chooses a bucket.
pub(super) fn read_by(cursor: &Cursor<'_>) -> Result<By, Rejection> {
    if cursor.value().is_string() {
        return Ok(match cursor.word(&WORDS)? {
            Word::ClientIp => By::ClientIp,
            Word::Route => By::Route,
            Word::Client => By::Client,
        });
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(r#""client_ip", "route", "client", {"header": …}, {"query": …} or {"claim": …}"#));
    }
    let object = cursor.object(&BY_FIELDS)?;
    match (object.get("header"), object.get("query"), object.get("claim")) {
        (Some(field), None, None) => read_header_name(&field).map(By::Header),
        (None, Some(field), None) => parse_parameter_name(&field, field.text()?).map(By::Query),
        (None, None, Some(field)) => read_claim(&field).map(By::Claim),
        _ => Err(cursor.expected("one of \"header\", \"query\" and \"claim\"")),
    }
}

fn read_when(cursor: &Cursor<'_>) -> Result<When, Rejection> {
    let object = cursor.object(&WHEN_FIELDS)?;
    Ok(When {
        methods: object
            .read("methods", |field| read_some_methods(&field))?
            .unwrap_or_default(),
        headers: object
            .read("headers", |field| read_headers(&field))?
            .unwrap_or_default(),
        path: object.read("path", |field| read_path(&field))?,
    })
}

/// Methods that one condition of Envoy can hold: a rule has no alternatives.
fn read_some_methods(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let methods = read_methods(cursor)?;
    match methods.join("|").len() {
        length if length > MAX_METHODS => {
            Err(cursor.expected(&format!("methods of at most {MAX_METHODS} characters together")))
        }
        _ => Ok(methods),
    }
}

/// Envoy's condition sees the path with its query, so the path becomes a regex.
fn read_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let pattern = match path::parse(cursor, cursor.string()?)? {
        PathMatch::Exact(path) | PathMatch::Legacy(path) => regex_syntax::escape(&path),
        PathMatch::Prefix(prefix) => format!("{}(?:/[^?]*)?", regex_syntax::escape(prefix.trim_end_matches('/'))),
        PathMatch::Template(template) => template_regex(&template),
        PathMatch::Regex(pattern) => format!("(?:{pattern})"),
    };
    let pattern = format!("{pattern}(?:\\?.*)?");
    regex::check(&pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
    Ok(pattern)
}
