//! Query parameters. An unknown parameter is an error, never ignored.
//!
//! Lists that grow with the inventory or the fleet are answered in pages ([`Page`]). A cursor names the last item of a
//! page by its place in the order of the list, so an item that is added or removed meanwhile moves no other item to
//! another page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::{Code, Problem};

/// Items of a page if the request has no `limit`.
const DEFAULT_LIMIT: usize = 1000;
/// Most items of a page.
const MAX_LIMIT: usize = 10_000;

/// The decoded parameters, in the order of the request.
pub(super) type Pairs = axum::extract::Query<Vec<(String, String)>>;

/// Reject a request with a parameter that is not one of `known`.
pub(super) fn reject_unknown_params(pairs: &[(String, String)], known: &[&str]) -> Result<(), Problem> {
    let Some((name, _)) = pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let expected = if known.is_empty() {
        "none is supported here".to_owned()
    } else {
        format!("expected {}", known.join(", "))
    };
    Err(Problem::new(
        Code::InvalidRequest,
        format!("unknown query parameter `{name}`, {expected}"),
    ))
}

/// Every value of a parameter.
pub(super) fn values<'a>(pairs: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs
        .iter()
        .filter(move |(given, _)| given == name)
        .map(|(_, value)| value.as_str())
}

/// The value of a parameter, `true` or `false`; false if absent.
pub(super) fn parse_flag(pairs: &[(String, String)], name: &str) -> Result<bool, Problem> {
    match values(pairs, name).last() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let detail = format!("query parameter `{name}`: found `{other}`, expected true or false");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

/// The page of a list that a request asks for.
#[derive(Debug)]
pub(super) struct Page {
    limit: usize,
    after: Option<String>,
}

impl Page {
    /// From `limit` and `after`.
    pub(super) fn of(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let limit = values(pairs, "limit").last().map_or(Ok(DEFAULT_LIMIT), |limit| {
            let number = limit.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            number.ok_or_else(|| {
                let detail =
                    format!("query parameter `limit`: found `{limit}`, expected a number from 1 to {MAX_LIMIT}");
                Problem::new(Code::InvalidRequest, detail)
            })
        })?;

        let after = values(pairs, "after").last().map(|cursor| {
            let place = URL_SAFE_NO_PAD.decode(cursor).ok();
            place
                .and_then(|place| String::from_utf8(place).ok())
                .ok_or_else(no_cursor)
        });

        Ok(Self {
            limit,
            after: after.transpose()?,
        })
    }

    /// The place of the last item of the page before; `None`: the list is read from its beginning.
    pub(super) fn after<'a, Place>(
        &'a self,
        read: impl Fn(&'a str) -> Option<Place>,
    ) -> Result<Option<Place>, Problem> {
        let place = self.after.as_deref().map(|place| read(place).ok_or_else(no_cursor));
        place.transpose()
    }

    /// Most items of the page.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The cursor of the page behind the item at this place.
    pub(super) fn cursor(place: String) -> String {
        URL_SAFE_NO_PAD.encode(place)
    }
}

fn no_cursor() -> Problem {
    Problem::new(
        Code::InvalidRequest,
        "query parameter `after`: expected the value of `next` in an answer to the same request",
    )
}
