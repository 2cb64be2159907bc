//! The entry that takes a request, for many requests.
//!
//! In: a [`Table`], and requests one after another. Out: the same as [`Table::take`]. The first requests of a virtual host
//! cost all its entries; each one after [`FEW`] costs the entries that may take its path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;

use super::{Entry, HostKey, Table, decoded};
use crate::resource::matcher::Seen;
use crate::resource::matcher::conditions::Paths;

/// An index of a virtual host costs more than so many requests without one.
const FEW: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct Finder<'a> {
    table: &'a Table,
    hosts: BTreeMap<HostKey, Host<'a>>,
}

/// A virtual host that was asked for.
#[derive(Debug, Default)]
struct Host<'a> {
    requests: usize,
    index: Option<Index<'a>>,
}

/// The entries of a virtual host by their paths, each by its place in the order.
#[derive(Debug, Default)]
struct Index<'a> {
    entries: Vec<&'a Arc<Entry>>,
    by_path: HashMap<&'a str, Vec<usize>>,
    /// By the length of the beginning, and the beginning.
    by_beginning: BTreeMap<usize, HashMap<&'a str, Vec<usize>>>,
}

impl<'a> Finder<'a> {
    /// For this table.
    #[must_use]
    pub fn new(table: &'a Table) -> Self {
        Self {
            table,
            hosts: BTreeMap::new(),
        }
    }

    /// The entry that takes a request, and its Route.
    #[must_use]
    pub fn take(&mut self, request: &Seen) -> Option<(&'a Arc<Entry>, Route)> {
        let (entry, route) = self.find(request)?;
        decoded(entry, route)
    }

    /// The entry that takes a request, and the index of its Route.
    #[must_use]
    pub fn find(&mut self, request: &Seen) -> Option<(&'a Arc<Entry>, usize)> {
        let table = self.table;
        let key = table.virtual_host_of(request)?;
        let host = self.hosts.entry(key.clone()).or_default();
        host.requests += 1;
        if host.requests <= FEW {
            return table.find(&key, request);
        }
        host.index.get_or_insert_with(|| Index::of(table, &key)).first(request)
    }
}

impl<'a> Index<'a> {
    fn of(table: &'a Table, host: &HostKey) -> Self {
        let sources = table.sources(host);
        let mut index = Self {
            entries: sources.iter().flat_map(|own| own.winners.values()).collect(),
            ..Self::default()
        };
        if sources.len() > 1 {
            index.entries.sort_unstable_by_key(|entry| &entry.position);
        }
        for (place, entry) in index.entries.iter().enumerate() {
            for paths in entry.paths() {
                let places = match paths {
                    Paths::One(path) => index.by_path.entry(path),
                    Paths::Beginning(beginning) => {
                        let of_length = index.by_beginning.entry(beginning.len()).or_default();
                        of_length.entry(beginning)
                    }
                };
                places.or_default().push(place);
            }
        }
        index
    }

    /// The first entry that takes a request, and the index of its Route.
    fn first(&self, request: &Seen) -> Option<(&'a Arc<Entry>, usize)> {
        let path = request.path();
        let by_beginning = self
            .by_beginning
            .range(..=path.len())
            .filter_map(|(length, of_length)| of_length.get(path.get(..*length)?));
        let mut places: Vec<usize> = self
            .by_path
            .get(path)
            .into_iter()
            .chain(by_beginning)
            .flatten()
            .copied()
            .collect();
        places.sort_unstable();
        places.into_iter().find_map(|place| {
            let entry = self.entries[place];
            Some((entry, entry.first_route(request)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
    use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
    use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RouteMatch};
    use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
    use prost::Message;

    use super::super::{Bounds, Origin, Touched, entries};
    use super::*;
    use crate::document::key::{DocumentKey, Kind};
    use crate::document::route::{HostPattern, Match, PathMatch};
    use crate::resource::matcher::Request;

    /// The encoded Route of a path, for POST alone or for any method.
    fn route(path: &PathMatch, is_post: bool) -> Bytes {
        let specifier = match path {
            PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
            PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
            PathMatch::Regex(regex) => PathSpecifier::SafeRegex(RegexMatcher {
                regex: regex.clone(),
                ..RegexMatcher::default()
            }),
            PathMatch::Exact(path) | PathMatch::Legacy(path) | PathMatch::Template(path) => {
                PathSpecifier::Path(path.clone())
            }
        };
        let post = StringMatcher {
            match_pattern: Some(MatchPattern::Exact("POST".to_owned())),
            ..StringMatcher::default()
        };
        let method = HeaderMatcher {
            name: ":method".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(post)),
            ..HeaderMatcher::default()
        };
        let matches = RouteMatch {
            path_specifier: Some(specifier),
            headers: is_post.then_some(method).into_iter().collect(),
            ..RouteMatch::default()
        };
        let route = Route {
            r#match: Some(matches),
            ..Route::default()
        };
        route.encode_to_vec().into()
    }

    #[test]
    fn the_finder_and_the_table_name_the_same_entry() {
        let hosts = [
            HostPattern::Any,
            HostPattern::Wildcard("*.example.com".into()),
            HostPattern::Exact("a.example.com".into()),
        ];
        let paths = [
            PathMatch::Exact("/a".to_owned()),
            PathMatch::Exact("/a/b".to_owned()),
            PathMatch::Prefix(String::new()),
            PathMatch::Prefix("/a".to_owned()),
            PathMatch::Prefix("/a/b".to_owned()),
            PathMatch::Regex("/[ab]/.*".to_owned()),
        ];
        let (mut table, mut touched, mut number) = (Table::default(), Touched::default(), 0);
        for host in &hosts {
            for path in &paths {
                for is_post in [false, true] {
                    number += 1;
                    // Some are left out, so that the wider hosts have their turn.
                    if number % 5 == 0 || (number / 7) % 3 == 0 {
                        continue;
                    }
                    let matches = Match {
                        hosts: vec![host.clone()],
                        path: path.clone(),
                        methods: is_post.then(|| "POST".to_owned()).into_iter().collect(),
                        headers: Vec::new(),
                        query: Vec::new(),
                        grpc: false,
                    };
                    let origin = Origin {
                        document: Arc::new(DocumentKey::new(Kind::Routes, format!("r{number}"))),
                        create_revision: 0,
                        priority: number % 2,
                    };
                    let made = entries(&origin, 0, "match", &matches, path, vec![route(path, is_post)]);
                    made.iter().for_each(|entry| table.insert(entry, &mut touched));
                }
            }
        }
        table.encode(&touched, Bounds::default()).unwrap();

        let (mut finder, mut takers) = (Finder::new(&table), std::collections::BTreeSet::new());
        for host in ["a.example.com", "b.example.com", "example.org"] {
            for target in ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b/x?y=/a", "/a/"] {
                for method in ["GET", "POST"] {
                    let request = Request {
                        method,
                        host,
                        target,
                        headers: &[],
                    };
                    let seen = Seen::of(&request).unwrap();
                    let name =
                        |taken: Option<(&Arc<Entry>, Route)>| taken.map(|(entry, _)| entry.claim.document.clone());
                    let found = name(finder.take(&seen));
                    assert_eq!(found, name(table.take(&seen)), "{request:?}");
                    takers.extend(found);
                }
            }
        }
        assert!(takers.len() >= 8, "{takers:?}");
    }
}
