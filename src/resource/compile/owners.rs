//! Requests that another document takes after a change.
//!
//! In: two compiled wholes and the changed routes. Out: example requests whose winner differs. The examples come from the
//! matches of the changed routes, before and after, and of other routes that overlap them. The server's own matcher says
//! who takes each one. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Compiled;
use super::accepted::On;
use super::input::entries_on;
use super::trials::has_tls;
use crate::document::key::DocumentKey;
use crate::document::route::{HostPattern, Match, PathMatch};
use crate::resource::matcher::Effect;
use crate::resource::table::{Entry, Finder, Table};

mod example;

use example::Example;

/// Most example requests that are made.
const MOST_TRIED: usize = 10_000;

/// The requests that other documents take.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// One for each route that gains or loses requests, in the order of groups, listeners and entries.
    pub moved: Vec<Moved>,
    /// Routes that keep their requests and send them elsewhere.
    pub sent_elsewhere: BTreeSet<DocumentKey>,
    /// Not all examples were tried.
    pub is_cut: bool,
    /// How many example requests were made.
    pub tried: usize,
}

/// A request that another document takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `GET http://api.example.com/v1/orders/x`
    pub request: String,
    /// The group.
    pub group: Arc<str>,
    /// The document that took the request; `None`: no route did.
    pub before: Option<DocumentKey>,
    /// The document that takes the request.
    pub after: Option<DocumentKey>,
}

/// One listener of one group, before and after.
struct Place<'a> {
    group: &'a Arc<str>,
    before: Option<Finder<'a>>,
    after: Option<Finder<'a>>,
    scheme: &'static str,
}

/// An entry of a route, with its match.
struct WithMatch<'a> {
    entry: &'a Entry,
    matches: &'a Match,
}

impl Compiled {
    /// See [`Owners`]. `changed`: the changed documents; those that are no routes are left out.
    #[must_use]
    pub fn owners_since(&self, before: &Self, changed: &BTreeSet<DocumentKey>) -> Owners {
        let mut owners = Owners::default();
        for (group, state) in &self.groups {
            let old = before.groups.get(group);
            for (listener, table) in &state.tables {
                if self.inventory.is_api(listener) {
                    continue;
                }
                let mut entries = before.entries_of(changed, group, listener);
                entries.extend(self.entries_of(changed, group, listener));
                if entries.is_empty() {
                    continue;
                }
                let mut place = Place {
                    group,
                    before: old.and_then(|old| old.tables.get(listener)).map(Finder::new),
                    after: Some(Finder::new(table)),
                    scheme: if has_tls(state, listener) { "https" } else { "http" },
                };
                let mut seen = BTreeSet::new();
                owners.try_own(&mut place, &entries, &mut seen);
                owners.try_others(&mut place, &entries, self.others(table, changed), &mut seen);
            }
        }
        owners
    }

    /// The entries of the changed routes on a listener.
    fn entries_of<'a>(
        &'a self,
        changed: &BTreeSet<DocumentKey>,
        group: &str,
        listener: &Arc<str>,
    ) -> Vec<WithMatch<'a>> {
        let On { by_name, .. } = self.inventory.on(listener);
        let compiled = changed.iter().filter_map(|key| self.inventory.get(key));
        let entries = compiled.flat_map(|compiled| entries_on(compiled, group, On { listener, by_name }));
        entries.filter_map(|entry| self.with_match(entry)).collect()
    }

    /// The entries of the other routes that have their match.
    fn others<'a>(&'a self, table: &'a Table, changed: &BTreeSet<DocumentKey>) -> impl Iterator<Item = WithMatch<'a>> {
        let others = table.all_entries();
        let others = others.filter(|entry| !changed.contains(&*entry.claim.document));
        others.filter_map(|entry| self.with_match(entry))
    }

    fn with_match<'a>(&'a self, entry: &'a Entry) -> Option<WithMatch<'a>> {
        let route = self.inventory.document(&entry.claim.document)?.as_route()?;
        let matches = &route.rules.get(entry.claim.rule)?.matches;
        Some(WithMatch { entry, matches })
    }
}

impl Owners {
    /// Try one request of each entry of the changed routes.
    fn try_own(&mut self, place: &mut Place<'_>, entries: &[WithMatch<'_>], seen: &mut BTreeSet<String>) {
        for own in entries {
            if !self.may_try() {
                return;
            }
            let example = Example::of(&own.entry.position.host(), own.matches);
            if let Some(example) = example.filter(|example| example.is_taken_by(own.entry))
                && seen.insert(example.shown(place.scheme))
                && !self.compare(place, &example)
            {
                self.compare_upstreams(place, &example);
            }
        }
    }

    /// Try one request of each other entry that comes after an entry of a changed route, and that shares requests with it.
    fn try_others<'a>(
        &mut self,
        place: &mut Place<'_>,
        entries: &[WithMatch<'_>],
        others: impl Iterator<Item = WithMatch<'a>>,
        seen: &mut BTreeSet<String>,
    ) {
        let own: Vec<(&Entry, HostPattern, &str)> = entries
            .iter()
            .map(|own| (own.entry, own.entry.position.host(), beginning(&own.matches.path)))
            .collect();
        // Several hosts of a rule are several entries, of which one example is enough.
        let mut done: BTreeSet<(&DocumentKey, usize)> = BTreeSet::new();
        for other in others {
            let claim = &other.entry.claim;
            if done.contains(&(&*claim.document, claim.rule)) {
                continue;
            }
            let (host, start) = (other.entry.position.host(), beginning(&other.matches.path));
            let before_it = own
                .iter()
                .filter(|(entry, _, beginning)| entry.position < other.entry.position && overlap(beginning, start));
            let mut last: Option<(HostPattern, Option<Example>)> = None;
            for (entry, own_host, _) in before_it {
                let Some(host) = narrower(own_host, &host) else {
                    continue;
                };
                if last.as_ref().is_none_or(|(of, _)| *of != host) {
                    if !self.may_try() {
                        return;
                    }
                    let example = Example::of(&host, other.matches);
                    last = Some((host, example.filter(|example| example.is_taken_by(other.entry))));
                }
                let example = last.as_ref().and_then(|(_, example)| example.as_ref());
                if let Some(example) = example.filter(|example| example.is_taken_by(entry)) {
                    if seen.insert(example.shown(place.scheme)) {
                        self.compare(place, example);
                    }
                    done.insert((&*claim.document, claim.rule));
                    break;
                }
            }
        }
    }

    /// Count a request. `false`: enough were tried.
    fn may_try(&mut self) -> bool {
        self.is_cut |= self.tried == MOST_TRIED;
        self.tried += usize::from(!self.is_cut);
        !self.is_cut
    }

    /// Compare the winners of a request. Returns whether they differ.
    fn compare(&mut self, place: &mut Place<'_>, example: &Example) -> bool {
        let owner = |finder: &mut Option<Finder<'_>>| {
            let (entry, _) = finder.as_mut()?.find(&example.seen)?;
            Some((*entry.claim.document).clone())
        };
        let (before, after) = (owner(&mut place.before), owner(&mut place.after));
        if before == after {
            return false;
        }
        self.moved.push(Moved {
            request: example.shown(place.scheme),
            group: Arc::clone(place.group),
            before,
            after,
        });
        true
    }

    /// Compare the upstreams of a request that one route takes before and after.
    fn compare_upstreams(&mut self, place: &mut Place<'_>, example: &Example) {
        let scheme = place.scheme;
        let upstream = |finder: &mut Option<Finder<'_>>| {
            let (entry, route) = finder.as_mut()?.take(&example.seen)?;
            let effect = Effect::of(&route, &example.seen, scheme);
            let document = (*entry.claim.document).clone();
            Some((document, (effect.clusters, effect.status, effect.redirect)))
        };
        let (before, after) = (upstream(&mut place.before), upstream(&mut place.after));
        if before != after
            && let Some((owner, _)) = after
        {
            self.sent_elsewhere.insert(owner);
        }
    }
}

/// The literal beginning of every path that matches.
fn beginning(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Legacy(path) => path,
        PathMatch::Template(template) => template.split('{').next().unwrap_or_default(),
        PathMatch::Regex(_) => "",
    }
}

fn overlap(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The narrower of two host patterns; `None`: no host has both.
fn narrower(one: &HostPattern, other: &HostPattern) -> Option<HostPattern> {
    match (one, other) {
        (HostPattern::Any, host) | (host, HostPattern::Any) => Some(host.clone()),
        (HostPattern::Exact(one), HostPattern::Exact(other)) => {
            (one == other).then(|| HostPattern::Exact(Arc::clone(one)))
        }
        (HostPattern::Exact(host), HostPattern::Wildcard(wildcard))
        | (HostPattern::Wildcard(wildcard), HostPattern::Exact(host)) => host
            .ends_with(&wildcard[1..])
            .then(|| HostPattern::Exact(Arc::clone(host))),
        (HostPattern::Wildcard(one), HostPattern::Wildcard(other)) => {
            let (long, short) = if one.len() < other.len() {
                (other, one)
            } else {
                (one, other)
            };
            long.ends_with(&short[1..])
                .then(|| HostPattern::Wildcard(Arc::clone(long)))
        }
    }
}

impl Example {
    fn is_taken_by(&self, entry: &Entry) -> bool {
        entry.first_route(&self.seen).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_bound_no_request_is_tried() {
        let mut owners = Owners {
            tried: MOST_TRIED - 1,
            ..Owners::default()
        };
        assert!(owners.may_try() && !owners.is_cut);
        assert!(!owners.may_try() && owners.is_cut);
        assert_eq!(owners.tried, MOST_TRIED);
    }

    #[test]
    fn the_narrower_host_has_both_patterns() {
        let exact = |host: &str| HostPattern::Exact(host.into());
        let wildcard = |host: &str| HostPattern::Wildcard(host.into());
        assert_eq!(narrower(&HostPattern::Any, &exact("a.b")), Some(exact("a.b")));
        assert_eq!(narrower(&wildcard("*.b"), &exact("a.b")), Some(exact("a.b")));
        assert_eq!(narrower(&wildcard("*.b"), &exact("a.c")), None);
        assert_eq!(narrower(&wildcard("*.b"), &wildcard("*.a.b")), Some(wildcard("*.a.b")));
        assert_eq!(narrower(&exact("a"), &exact("b")), None);
    }
}
