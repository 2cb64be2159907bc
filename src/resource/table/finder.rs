//! The entry that takes a request, for many requests.
//!
//! In: a [`Table`], and requests one after another. Out: the same as [`Table::take`]. The first request of a virtual host
//! costs all its entries; each further one costs the entries that may take its path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;

use super::{Entry, HostKey, Table, decoded};
use crate::resource::matcher::Seen;
use crate::resource::matcher::conditions::Paths;

/// See the module.
#[derive(Debug)]
pub struct Finder<'a> {
    table: &'a Table,
    hosts: BTreeMap<HostKey, Index<'a>>,
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
        let host = self.table.host_of(request)?;
        let table = self.table;
        let index = self.hosts.entry(host).or_insert_with_key(|host| Index::of(table, host));
        let (entry, route) = index.first(request)?;
        decoded(entry, route)
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
