//! The routes that do not get a request, the nearest first, each with the first condition that failed, or with the reason
//! why another route comes before.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use super::Compiled;
use crate::document::key::DocumentKey;
use crate::document::route::{HostPattern, PathMatch, Rule, StringMatch};
use crate::resource::matcher::Seen;
use crate::resource::matcher::conditions::Unmet;
use crate::resource::table::{Entry, HostKey, Table};

/// Most losers of an answer.
const LISTED: usize = 10;
/// Most entries of other virtual hosts that are looked at.
const ELSEWHERE: usize = 20_000;

/// A route that does not get the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loser {
    /// The document.
    pub document: DocumentKey,
    /// The place in the document.
    pub place: String,
    /// Whether all its conditions hold, and another route comes before.
    pub matches: bool,
    /// The first condition that failed, or the advantage of the route that comes before.
    pub why: String,
}

/// The other routes of a listener.
pub(super) fn of(
    compiled: &Compiled,
    table: &Table,
    host: Option<&HostKey>,
    seen: &Seen,
    winner: Option<&Arc<Entry>>,
) -> Vec<Loser> {
    let mut losers = Vec::new();
    let own: Vec<&Arc<Entry>> = host.map(|host| table.entries_of(host).collect()).unwrap_or_default();
    let (mut matching, mut missing): (Vec<_>, Vec<_>) = own
        .iter()
        .copied()
        .filter(|entry| winner.is_none_or(|winner| !Arc::ptr_eq(winner, entry)))
        .filter(|entry| compiled.rule_of(entry).is_some())
        .partition(|entry| entry.first_unmet(seen).is_none());

    if let Some(winner) = winner {
        matching.sort_by(|one, other| one.position.cmp(&other.position));
        let rivals = table
            .rivals(winner)
            .map(|rival| (rival, "the same match, and a newer document"));
        let behind = matching
            .into_iter()
            .map(|entry| (entry, winner.position.advantage(&entry.position)));
        losers.extend(
            rivals
                .chain(behind)
                .map(|(entry, why)| loser(entry, true, why.to_owned())),
        );
    }

    // Beside a winner, a route on another path is of no interest.
    if winner.is_some() {
        missing.retain(|entry| entry.first_unmet(seen) != Some(Unmet::Path));
    }
    missing.sort_by_cached_key(|entry| {
        let unmet = entry.first_unmet(seen);
        let common = compiled
            .rule_of(entry)
            .map_or(0, |rule| common_prefix(&rule.matches.path, seen.path()));
        (Reverse(unmet.map(depth)), Reverse(common), entry.position.clone())
    });
    let near = missing.into_iter().filter_map(|entry| {
        let rule = compiled.rule_of(entry)?;
        let unmet = entry.first_unmet(seen)?;
        Some(loser(entry, false, sentence(unmet, rule, seen)))
    });
    losers.extend(near.take(LISTED));

    if winner.is_none() {
        let is_own = |entry: &Arc<Entry>| own.iter().any(|own| Arc::ptr_eq(own, entry));
        let elsewhere = table.all_entries().take(ELSEWHERE);
        let others = elsewhere.filter(|entry| entry.first_unmet(seen).is_none() && !is_own(entry));
        let others = others.filter(|entry| compiled.rule_of(entry).is_some());
        let others = others.map(|entry| {
            let why = format!("host {} is not {}", seen.host, pattern(&entry.position.host()));
            loser(entry, false, why)
        });
        losers.splice(0..0, others.take(LISTED).collect::<Vec<_>>());
    }
    losers.truncate(LISTED);
    losers
}

fn loser(entry: &Entry, matches: bool, why: String) -> Loser {
    Loser {
        document: (*entry.claim.document).clone(),
        place: entry.place.to_string(),
        matches,
        why,
    }
}

fn depth(unmet: Unmet<'_>) -> usize {
    match unmet {
        Unmet::Path => 0,
        Unmet::Header(_) => 1,
        Unmet::Parameter(_) => 2,
    }
}

/// The length of the beginning that a path has in common with the text of a match.
fn common_prefix(path: &PathMatch, request: &str) -> usize {
    let (PathMatch::Exact(text)
    | PathMatch::Prefix(text)
    | PathMatch::Template(text)
    | PathMatch::Regex(text)
    | PathMatch::Legacy(text)) = path;
    let pairs = text.bytes().zip(request.bytes());
    pairs.take_while(|(one, other)| one == other).count()
}

fn pattern(host: &HostPattern) -> &str {
    match host {
        HostPattern::Exact(host) | HostPattern::Wildcard(host) => host,
        HostPattern::Any => "*",
    }
}

fn sentence(unmet: Unmet<'_>, rule: &Rule, seen: &Seen) -> String {
    let matches = &rule.matches;
    match unmet {
        Unmet::Path => format!("path {} is not {}", seen.path(), path(&matches.path)),
        Unmet::Header(":method") => format!("method {} is not {}", seen.method, matches.methods.join(" or ")),
        Unmet::Header(name) => {
            let values: Vec<&str> = seen
                .headers
                .iter()
                .filter(|(own, _)| own == name)
                .map(|(_, value)| &**value)
                .collect();
            let found = (!values.is_empty()).then(|| values.join(","));
            format!("header {name}: {}", condition(&matches.headers, name, found))
        }
        Unmet::Parameter(name) => {
            let found = seen.parameter(name).map(str::to_owned);
            format!("query {name}: {}", condition(&matches.query, name, found))
        }
    }
}

/// Found and expected values.
fn condition(conditions: &[(String, StringMatch)], name: &str, found: Option<String>) -> String {
    let own = conditions.iter().filter(|(own, _)| own == name);
    let expected: Vec<String> = own.map(|(_, condition)| value(condition)).collect();
    let found = found.map_or_else(|| "missing".to_owned(), |found| format!("found {found:?}"));
    format!("{found}, expected {}", expected.join(" and "))
}

fn value(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Exact(text) => format!("{text:?}"),
        StringMatch::Prefix(text) => format!("a value that begins with {text:?}"),
        StringMatch::Suffix(text) => format!("a value that ends with {text:?}"),
        StringMatch::Contains(text) => format!("a value with {text:?} in it"),
        StringMatch::Regex(text) => format!("a value that matches {text:?}"),
        StringMatch::Present(true) => "any value".to_owned(),
        StringMatch::Present(false) => "none".to_owned(),
        StringMatch::Not(inner) => format!("not {}", value(inner)),
    }
}

/// A path as documents write it.
fn path(path: &PathMatch) -> Cow<'_, str> {
    match path {
        PathMatch::Exact(text) | PathMatch::Template(text) | PathMatch::Legacy(text) => Cow::Borrowed(text),
        PathMatch::Prefix(text) => Cow::Owned(format!("{text}/*")),
        PathMatch::Regex(text) => Cow::Owned(format!("~{text}")),
    }
}
