//! The order of a RouteConfiguration: the rank of each entry, and the virtual hosts with it.
//!
//! In: the [`Entry`]s of route documents, one for each host of each rule, already encoded. Out: encoded virtual hosts,
//! one for each distinct host pattern. A virtual host has the entries of its pattern and those of every wider pattern
//! that covers it, sorted as docs/documents/routes.md (Order) specifies. Content decides the order, not the time of
//! writing, with one exception: of equal matches the document created first keeps the traffic.
//!
//! A [`Table`] belongs to one listener of one group. It is persistent: inserting or removing an entry costs the virtual
//! hosts with that entry, and a clone costs nothing. [`super::routes`] encodes single virtual hosts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::Route;
use imbl::{OrdMap, OrdSet};
use prost::Message;

use super::matcher::conditions::{Paths, Unmet};
use super::matcher::{self, Seen};
use super::policies::route::Policed;
use super::routes;
use super::routes::order::PathRank;
use crate::document::key::DocumentKey;
use crate::document::route::{HostPattern, Match, PathMatch};

mod conditions;
mod few;
mod finder;
mod form;
mod slabs;

pub use finder::Finder;
pub use form::Form;
use slabs::VirtualHost;

/// Most entries in one RouteConfiguration, copies in narrower virtual hosts included (docs/documents/routes.md, Order).
pub const MAX_ENTRIES: usize = 200_000;

/// Most bytes of policies in the virtual hosts of one RouteConfiguration, copies included (docs/documents/policies.md).
pub const MAX_POLICY_BYTES: usize = 16 * 1024 * 1024;

/// The bounds of one RouteConfiguration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// [`MAX_ENTRIES`], less in tests.
    pub entries: usize,
    /// [`MAX_POLICY_BYTES`], less in tests.
    pub policy_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            policy_bytes: MAX_POLICY_BYTES,
        }
    }
}

/// The size of a table, or of a part of it. The size of a table is that of all virtual hosts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// The encoded Routes.
    pub entries: usize,
    /// The bytes of policies in these.
    pub policy_bytes: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.policy_bytes += other.policy_bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.entries -= other.entries;
        self.policy_bytes -= other.policy_bytes;
    }

    /// Whether this is more than the bounds allow.
    #[must_use]
    pub fn exceeds(self, bounds: Bounds) -> bool {
        self.entries > bounds.entries || self.policy_bytes > bounds.policy_bytes
    }
}

/// A host pattern in the order of virtual hosts: exact, longest wildcard, any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostKey {
    rank: u8,
    longest_first: Reverse<usize>,
    pattern: Arc<str>,
}

impl HostKey {
    /// The key of a pattern.
    #[must_use]
    pub fn of(pattern: &HostPattern) -> Self {
        match pattern {
            HostPattern::Exact(host) => Self {
                rank: 0,
                longest_first: Reverse(0),
                pattern: Arc::clone(host),
            },
            HostPattern::Wildcard(host) => Self::wildcard(Arc::clone(host)),
            HostPattern::Any => Self::any(),
        }
    }

    /// The key of a virtual host's domain.
    fn of_domain(domain: &str) -> Self {
        match domain {
            "*" => Self::any(),
            wildcard if wildcard.starts_with('*') => Self::wildcard(wildcard.into()),
            host => Self::of(&HostPattern::Exact(host.into())),
        }
    }

    fn wildcard(pattern: Arc<str>) -> Self {
        Self {
            rank: 1,
            longest_first: Reverse(pattern.len()),
            pattern,
        }
    }

    fn any() -> Self {
        Self {
            rank: 2,
            longest_first: Reverse(0),
            pattern: "*".into(),
        }
    }

    /// The pattern of this key.
    #[must_use]
    pub fn pattern(&self) -> HostPattern {
        match self.rank {
            0 => HostPattern::Exact(Arc::clone(&self.pattern)),
            1 => HostPattern::Wildcard(Arc::clone(&self.pattern)),
            _ => HostPattern::Any,
        }
    }

    /// Every pattern that covers this one, narrowest first, whether a document names it or not.
    fn wider(&self) -> Vec<Self> {
        let skipped = match self.rank {
            0 => 0,
            1 => 2, // the `*.` of the pattern itself
            _ => return Vec::new(),
        };
        let dots = self
            .pattern
            .char_indices()
            .skip(skipped)
            .filter(|(_, letter)| *letter == '.');
        let mut wider: Vec<Self> = dots
            .map(|(index, _)| Self::wildcard(format!("*{}", &self.pattern[index..]).into()))
            .collect();
        wider.push(Self::any());
        wider
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.pattern)
    }
}

/// The position of an entry in a virtual host; the first is matched first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Beyond the range of documents for an entry that loses to every route.
    priority: Reverse<i64>,
    host: HostKey,
    path: PathRank,
    conditions: Reverse<usize>,
    document: Arc<DocumentKey>,
    rule: usize,
}

/// The claim of a rule on a match; the lowest claim has the match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The revision that created the document; 0 if the backend has none.
    pub create_revision: i64,
    /// The document.
    pub document: Arc<DocumentKey>,
    /// The rule's index in the document.
    pub rule: usize,
}

/// One rule of a route document under one of its hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The position in the virtual host.
    pub position: Position,
    /// The match after normalising: equal for two entries if no request can distinguish them.
    pub identity: Arc<str>,
    /// The claim on that match.
    pub claim: Claim,
    /// The place of the rule in the document.
    pub place: Arc<str>,
    /// The encoded Routes in order; a segment prefix needs two.
    pub routes: Arc<[Bytes]>,
    /// The Routes for a proxy that may not have secrets; `None`: the same.
    withheld: Option<Arc<[Bytes]>>,
    /// The bytes of the policies in the Routes.
    policy_bytes: usize,
    /// The conditions of these Routes.
    conditions: conditions::Lazy,
}

impl Entry {
    /// The entry with other Routes, without policies.
    #[must_use]
    pub fn with_routes(&self, routes: Arc<[Bytes]>) -> Self {
        Self {
            routes,
            withheld: None,
            policy_bytes: 0,
            ..self.clone()
        }
    }

    /// The entry with policies.
    #[must_use]
    pub fn with_policies(&self, policed: &Policed) -> Self {
        Self {
            withheld: policed.withheld.clone(),
            policy_bytes: policed.policy_bytes,
            ..self.with_routes(Arc::clone(&policed.given))
        }
    }

    fn size(&self) -> Size {
        Size {
            entries: self.routes.len(),
            policy_bytes: self.policy_bytes,
        }
    }

    /// The paths that its Routes may take.
    pub fn paths(&self) -> impl Iterator<Item = Paths<'_>> {
        self.conditions.paths(&self.routes)
    }

    /// An entry of the same rule for a whole path, asked before every other one with the path. Of several with one `kind`
    /// and path under a host the first claim has the path. `number` differs for the entries of a rule.
    #[must_use]
    pub fn at(&self, path: &str, (kind, number): (&str, usize), place: Arc<str>, policed: &Policed) -> Self {
        let path = PathMatch::Exact(path.to_owned());
        let Reverse(priority) = self.position.priority;
        Self {
            position: Position {
                path: PathRank::of(&path),
                conditions: Reverse(usize::MAX - number),
                ..self.position.clone()
            },
            identity: format!("{kind} {priority} {path:?}").into(),
            claim: self.claim.clone(),
            place,
            routes: Arc::clone(&policed.given),
            withheld: policed.withheld.clone(),
            policy_bytes: policed.policy_bytes,
            conditions: conditions::Lazy::default(),
        }
    }

    /// The first of its Routes that takes a request.
    #[must_use]
    pub fn first_route(&self, request: &Seen) -> Option<usize> {
        self.conditions.first(&self.routes, request)
    }

    /// The first condition beside the host that a request does not fulfil. `None`: a Route takes the request.
    #[must_use]
    pub fn first_unmet(&self, request: &Seen) -> Option<Unmet<'_>> {
        self.conditions.first_unmet(&self.routes, request)
    }
}

impl Position {
    /// The host pattern.
    #[must_use]
    pub fn host(&self) -> HostPattern {
        self.host.pattern()
    }

    /// The reason why this position comes before another one.
    #[must_use]
    pub fn advantage(&self, other: &Self) -> &'static str {
        if self.priority != other.priority {
            "its priority is lower"
        } else if self.host != other.host {
            "its host is less specific"
        } else if self.path != other.path {
            "its path is less specific"
        } else if self.conditions != other.conditions {
            "fewer conditions"
        } else if self.document != other.document {
            "equally specific, and its key comes later"
        } else {
            "equally specific, and it comes later in the document"
        }
    }
}

/// The facts that all entries of one document share.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The document.
    pub document: Arc<DocumentKey>,
    /// The revision that created the key; 0 if the backend has none.
    pub create_revision: i64,
    /// Its `priority`.
    pub priority: i32,
}

/// The entries of one rule, one a host. `path` is the rule's path with the older forms resolved.
#[must_use]
pub fn entries(
    origin: &Origin,
    rule: usize,
    place: &str,
    matches: &Match,
    path: &PathMatch,
    routes: Vec<Bytes>,
) -> Vec<Arc<Entry>> {
    let identity = identity(origin.priority, matches, path);
    let place: Arc<str> = place.into();
    let routes: Arc<[Bytes]> = routes.into();
    let entry = |host: &HostPattern| {
        Arc::new(Entry {
            position: Position {
                priority: Reverse(i64::from(origin.priority)),
                host: HostKey::of(host),
                path: PathRank::of(path),
                conditions: Reverse(conditions(matches)),
                document: Arc::clone(&origin.document),
                rule,
            },
            identity: Arc::clone(&identity),
            claim: Claim {
                create_revision: origin.create_revision,
                document: Arc::clone(&origin.document),
                rule,
            },
            place: Arc::clone(&place),
            routes: Arc::clone(&routes),
            withheld: None,
            policy_bytes: 0,
            conditions: conditions::Lazy::default(),
        })
    };

    matches.hosts.iter().map(entry).collect()
}

/// An entry for any request that comes after every route, in every virtual host: a listener's own.
#[must_use]
pub fn last_resort(listener: &DocumentKey, route: Bytes) -> Arc<Entry> {
    let document = Arc::new(listener.clone());
    Arc::new(Entry {
        position: Position {
            priority: Reverse(i64::MIN),
            host: HostKey::any(),
            path: PathRank::of(&PathMatch::Prefix(String::new())),
            conditions: Reverse(0),
            document: Arc::clone(&document),
            rule: 0,
        },
        identity: "last resort".into(),
        claim: Claim {
            create_revision: 0,
            document,
            rule: 0,
        },
        place: "".into(),
        routes: Arc::new([route]),
        withheld: None,
        policy_bytes: 0,
        conditions: conditions::Lazy::default(),
    })
}

/// A limit on the method counts as a condition: otherwise the names of the documents would decide between `GET /a` and
/// `/a`.
fn conditions(matches: &Match) -> usize {
    matches.headers.len() + matches.query.len() + usize::from(!matches.methods.is_empty())
}

fn identity(priority: i32, matches: &Match, path: &PathMatch) -> Arc<str> {
    let sorted = |conditions: &[(String, crate::document::route::StringMatch)]| {
        conditions
            .iter()
            .map(|condition| format!("{condition:?}"))
            .collect::<BTreeSet<_>>()
    };
    let (headers, query) = (sorted(&matches.headers), sorted(&matches.query));
    format!("{priority} {path:?} {:?} {headers:?} {query:?}", matches.methods).into()
}

/// The entries of one host pattern itself.
#[derive(Debug, Clone, Default)]
struct Own {
    /// The entries that have their match, in order.
    winners: few::Map<Position, Arc<Entry>>,
    /// All claims on each match; the first has it.
    claims: few::Map<Arc<str>, few::Map<Claim, Arc<Entry>>>,
    /// The size of the entries that have their match.
    size: Size,
}

/// A virtual host that is not part of its RouteConfiguration.
#[derive(Debug)]
pub struct Hosted {
    /// The encoded routes, each with its tag.
    pub routes: Bytes,
    /// Whether the pattern is one host, and no wider pattern covers it.
    pub is_lone: bool,
    /// Every document that has an entry in it.
    pub documents: BTreeSet<Arc<DocumentKey>>,
}

/// The work that a change of a [`Table`] leaves to do.
#[derive(Debug, Default)]
pub struct Touched {
    /// Patterns whose own entries changed.
    hosts: BTreeSet<HostKey>,
    /// Matches that another rule has now.
    matches: BTreeSet<(HostKey, Arc<str>)>,
    /// Documents that gained or lost a match; after [`Table::spread`] also those whose rival did.
    pub documents: BTreeSet<DocumentKey>,
}

/// The entries of one listener in one group, and their encoded virtual hosts.
#[derive(Debug, Clone, Default)]
pub struct Table {
    own: OrdMap<HostKey, Own>,
    /// The size of each encoded virtual host.
    sizes: OrdMap<HostKey, Size>,
    given: Form,
    /// The form for proxies that may not have secrets; `None`: the same.
    withheld: Option<Form>,
    /// The patterns whose virtual hosts differ in that form.
    withholding: OrdSet<HostKey>,
    documents: OrdMap<Arc<DocumentKey>, usize>,
    size: Size,
}

impl Table {
    /// Add an entry.
    pub fn insert(&mut self, entry: &Arc<Entry>, touched: &mut Touched) {
        let own = self.own.entry(entry.position.host.clone()).or_default();
        let mut claims = own.claims.get(&entry.identity).cloned().unwrap_or_default();
        let before = claims.first().cloned();
        claims.insert(entry.claim.clone(), Arc::clone(entry));
        own.claims.insert(Arc::clone(&entry.identity), claims);
        own.settle(&entry.identity, before, touched);
        touched.hosts.insert(entry.position.host.clone());
        touched.documents.insert((*entry.claim.document).clone());
        *self.documents.entry(Arc::clone(&entry.claim.document)).or_default() += 1;
    }

    /// Remove an entry; a missing one changes nothing.
    pub fn remove(&mut self, entry: &Entry, touched: &mut Touched) {
        let Some(own) = self.own.get_mut(&entry.position.host) else {
            return;
        };

        let Some(claims) = own.claims.get_mut(&entry.identity) else {
            return;
        };

        let before = claims.first().cloned();
        if claims.remove(&entry.claim).is_none() {
            return;
        }

        own.settle(&entry.identity, before, touched);
        if own.claims.is_empty() {
            self.own.remove(&entry.position.host);
        }

        touched.hosts.insert(entry.position.host.clone());
        touched.documents.insert((*entry.claim.document).clone());
        if let Some(count) = self.documents.get_mut(&entry.claim.document) {
            *count -= 1;
            if *count == 0 {
                self.documents.remove(&entry.claim.document);
            }
        }
    }

    /// Touch every document with a claim on a match that another rule has now. Once a change, not once an entry: thousands
    /// of routes may have one match.
    pub fn spread(&self, touched: &mut Touched) {
        for (host, identity) in std::mem::take(&mut touched.matches) {
            let claims = self.own.get(&host).and_then(|own| own.claims.get(&identity));
            let keys = claims.into_iter().flat_map(few::Map::keys);
            touched.documents.extend(keys.map(|claim| (*claim.document).clone()));
        }
    }

    /// Encode the touched virtual hosts again. Returns the patterns whose virtual hosts may have changed or vanished.
    ///
    /// # Errors
    /// The size, if it exceeds the bounds; nothing was encoded then.
    pub fn encode(&mut self, touched: &Touched, bounds: Bounds) -> Result<BTreeSet<HostKey>, Size> {
        let hosts = self.reached(&touched.hosts);
        let mut size = self.size;
        for host in &hosts {
            size.subtract(self.sizes.get(host).copied().unwrap_or_default());
            self.sources(host).iter().for_each(|own| size.add(own.size));
        }
        if size.exceeds(bounds) {
            return Err(size);
        }

        self.size = size;
        let mut made: BTreeMap<&HostKey, (VirtualHost, Option<VirtualHost>)> = BTreeMap::new();
        for host in &hosts {
            let sources = self.sources(host);
            if sources.is_empty() {
                self.sizes.remove(host);
                continue;
            }
            let mut size = Size::default();
            sources.iter().for_each(|own| size.add(own.size));
            made.insert(host, virtual_host(host, &sources));
            self.sizes.insert(host.clone(), size);
        }
        self.given
            .update(&hosts, |host| made.get(host).map(|(given, _)| given.clone()));
        self.encode_withheld(&hosts, made);
        Ok(hosts)
    }

    /// Update the form for proxies that may not have secrets, after the other one.
    fn encode_withheld(
        &mut self,
        hosts: &BTreeSet<HostKey>,
        made: BTreeMap<&HostKey, (VirtualHost, Option<VirtualHost>)>,
    ) {
        for host in hosts {
            match made.get(host) {
                Some((_, Some(_))) => drop(self.withholding.insert(host.clone())),
                _ => drop(self.withholding.remove(host)),
            }
        }
        if self.withholding.is_empty() {
            self.withheld = None;
            return;
        }

        match &mut self.withheld {
            Some(form) => form.update(hosts, |host| {
                let (given, withheld) = made.get(host)?;
                Some(withheld.as_ref().unwrap_or(given).clone())
            }),
            // The first virtual hosts that differ: all of them were made just now.
            None => {
                let mut form = self.given.clone();
                let withholding = self.withholding.iter().cloned().collect();
                form.update(&withholding, |host| made.get(host)?.1.clone());
                self.withheld = Some(form);
            }
        }
    }

    /// Every virtual host with entries of these patterns: their own, and those that they cover.
    fn reached(&self, touched: &BTreeSet<HostKey>) -> BTreeSet<HostKey> {
        let mut reached = touched.clone();
        if touched.iter().any(|host| host.rank > 0) {
            let is_covered = |host: &&HostKey| host.wider().iter().any(|wider| touched.contains(wider));
            reached.extend(self.own.keys().filter(is_covered).cloned());
        }
        reached
    }

    /// The patterns whose entries a virtual host has; none if no document names its pattern.
    fn sources(&self, host: &HostKey) -> Vec<&Own> {
        let Some(own) = self.own.get(host) else {
            return Vec::new();
        };
        let mut sources = vec![own];
        sources.extend(host.wider().iter().filter_map(|wider| self.own.get(wider)));
        sources
    }

    /// Every pattern that has a virtual host.
    pub fn hosts(&self) -> impl Iterator<Item = &HostKey> {
        self.given.encoded.keys()
    }

    /// The virtual host of a pattern, not as part of the RouteConfiguration.
    #[must_use]
    pub fn hosted(&self, host: &HostKey) -> Option<Hosted> {
        let virtual_host = self.given.encoded.get(host)?;
        let sources = self.sources(host);
        let winners = sources.iter().flat_map(|own| own.winners.values());
        let head = routes::virtual_host_head(&host.pattern, &host.pattern()).len();
        Some(Hosted {
            routes: virtual_host.bytes.slice(head..),
            is_lone: sources.len() == 1 && host.rank == 0,
            documents: winners.map(|entry| Arc::clone(&entry.claim.document)).collect(),
        })
    }

    /// The encoded virtual hosts.
    #[must_use]
    pub fn given(&self) -> &Form {
        &self.given
    }

    /// The encoded virtual hosts for proxies that may not have secrets; `None`: the same.
    #[must_use]
    pub fn withheld(&self) -> Option<&Form> {
        self.withheld.as_ref()
    }

    /// Every document with a claim in this table, sorted.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<DocumentKey>> {
        self.documents.keys()
    }

    /// The number of entries of all virtual hosts together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.size.entries
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size.entries == 0
    }

    /// The entry that has the match of this entry: itself, or one with a lower claim. `None`: the entry is not in the
    /// table.
    #[must_use]
    pub fn winner(&self, entry: &Entry) -> Option<&Arc<Entry>> {
        let claims = self.own.get(&entry.position.host)?.claims.get(&entry.identity)?;
        claims.first()
    }

    /// Every entry with the match of this one.
    pub fn claimants(&self, entry: &Entry) -> impl Iterator<Item = &Arc<Entry>> {
        let own = self.own.get(&entry.position.host);
        let claims = own.and_then(|own| own.claims.get(&entry.identity));
        claims.into_iter().flat_map(few::Map::values)
    }
}

impl Table {
    /// The pattern of the virtual host that a request is for.
    #[must_use]
    pub fn virtual_host_of(&self, request: &Seen) -> Option<HostKey> {
        let mut hosts = matcher::request::domains(&request.host).map(|domain| HostKey::of_domain(&domain));
        hosts.find(|host| self.own.contains_key(host))
    }

    /// The entries of a virtual host that have their match, in no order.
    pub fn entries_of(&self, host: &HostKey) -> impl Iterator<Item = &Arc<Entry>> {
        self.sources(host).into_iter().flat_map(|own| own.winners.values())
    }

    /// The entries of all host patterns that have their match, in no order.
    pub fn all_entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.own.values().flat_map(|own| own.winners.values())
    }

    /// The entries with the match of this entry that do not have it, because their claims are higher.
    pub fn rivals(&self, entry: &Entry) -> impl Iterator<Item = &Arc<Entry>> {
        let claims = self.own.get(&entry.position.host);
        let claims = claims.and_then(|own| own.claims.get(&entry.identity));
        claims.into_iter().flat_map(few::Map::values).skip(1)
    }

    /// The entry that takes a request, and its Route.
    #[must_use]
    pub fn take(&self, request: &Seen) -> Option<(&Arc<Entry>, Route)> {
        let (entry, route) = self.find(&self.virtual_host_of(request)?, request)?;
        decoded(entry, route)
    }

    /// The entry of a virtual host that takes a request, and the index of its Route.
    fn find(&self, host: &HostKey, request: &Seen) -> Option<(&Arc<Entry>, usize)> {
        let mut first: Option<(&Arc<Entry>, usize)> = None;
        for own in self.sources(host) {
            for (position, entry) in own.winners.iter() {
                if first.is_some_and(|(first, _)| first.position < *position) {
                    break;
                }
                if let Some(route) = entry.first_route(request) {
                    first = Some((entry, route));
                    break;
                }
            }
        }

        first
    }
}

/// The virtual host of a pattern with these entries, and the one for proxies that may not have secrets, if that differs.
fn virtual_host(host: &HostKey, sources: &[&Own]) -> (VirtualHost, Option<VirtualHost>) {
    let mut entries: Vec<(&Position, &Arc<Entry>)> = sources.iter().flat_map(|own| own.winners.iter()).collect();
    if sources.len() > 1 {
        entries.sort_unstable_by_key(|(position, _)| *position);
    }
    let encoded = |routes: &dyn Fn(&'_ Entry) -> Arc<[Bytes]>| {
        let routes: Vec<Bytes> = entries.iter().flat_map(|(_, entry)| routes(entry).to_vec()).collect();
        VirtualHost::new(routes::virtual_host(&host.pattern(), &routes))
    };
    let given = encoded(&|entry| Arc::clone(&entry.routes));
    let differs = entries.iter().any(|(_, entry)| entry.withheld.is_some());
    let withheld = differs.then(|| encoded(&|entry| Arc::clone(entry.withheld.as_ref().unwrap_or(&entry.routes))));
    (given, withheld)
}

/// An entry with one of its Routes.
fn decoded(entry: &Arc<Entry>, route: usize) -> Option<(&Arc<Entry>, Route)> {
    let route = Route::decode(entry.routes.get(route)?.clone()).ok()?;
    Some((entry, route))
}

impl Own {
    /// After a change of the claims on a match: the lowest claim takes the position. If another one has the match now,
    /// every document with a claim on it is touched.
    fn settle(&mut self, identity: &Arc<str>, before: Option<Arc<Entry>>, touched: &mut Touched) {
        let Some(claims) = self.claims.get(identity) else {
            return;
        };

        let after = claims.first().cloned();
        if before == after {
            return;
        }

        if let Some(winner) = &after {
            let place = (winner.position.host.clone(), Arc::clone(identity));
            touched.matches.insert(place);
        }
        if let Some(before) = before {
            touched.documents.insert((*before.claim.document).clone());
            self.winners.remove(&before.position);
            self.size.subtract(before.size());
        }

        match after {
            Some(winner) => {
                self.size.add(winner.size());
                self.winners.insert(winner.position.clone(), winner);
            }
            None => {
                self.claims.remove(identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::Kind;

    /// The entries of a rule: name of its document (created in the order of the alphabet), host, path.
    fn entry(name: &str, host: HostPattern, path: PathMatch, priority: i32, methods: &[&str]) -> Arc<Entry> {
        let document = Arc::new(DocumentKey::new(Kind::Routes, name));
        let origin = Origin {
            document,
            create_revision: 0,
            priority,
        };
        let matches = Match {
            hosts: vec![host],
            path: path.clone(),
            methods: methods.iter().map(ToString::to_string).collect(),
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        };
        let routes = vec![Bytes::copy_from_slice(name.as_bytes())];
        entries(&origin, 0, "match[0]", &matches, &path, routes).remove(0)
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    fn host(name: &str) -> HostPattern {
        match name {
            "*" => HostPattern::Any,
            wildcard if wildcard.starts_with('*') => HostPattern::Wildcard(wildcard.into()),
            exact => HostPattern::Exact(exact.into()),
        }
    }

    fn table_of(entries: &[Arc<Entry>]) -> (Table, Touched) {
        let (mut table, mut touched) = (Table::default(), Touched::default());
        entries.iter().for_each(|entry| table.insert(entry, &mut touched));
        table.encode(&touched, Bounds::default()).unwrap();
        (table, touched)
    }

    /// The documents of the entries of a virtual host, in order.
    fn names(table: &Table, pattern: &str) -> Vec<String> {
        let host = HostKey::of(&host(pattern));
        let mut entries: Vec<_> = table
            .sources(&host)
            .iter()
            .flat_map(|own| own.winners.values())
            .collect();
        entries.sort_by_key(|entry| &entry.position);
        entries
            .iter()
            .map(|entry| entry.claim.document.name.to_string())
            .collect()
    }

    fn patterns(table: &Table) -> Vec<String> {
        table
            .given
            .encoded
            .keys()
            .map(|host| host.pattern.to_string())
            .collect()
    }

    #[test]
    fn paths_are_asked_exact_then_template_then_regex_then_longest_prefix() {
        let any = || HostPattern::Any;
        let (table, _) = table_of(&[
            entry("regex", any(), PathMatch::Regex("/a.*".to_owned()), 0, &[]),
            entry("short", any(), prefix("/a"), 0, &[]),
            entry("long", any(), prefix("/a/b"), 0, &[]),
            entry("template", any(), PathMatch::Template("/a/{id}".to_owned()), 0, &[]),
            entry("exact", any(), exact("/a/b"), 0, &[]),
            entry("first", any(), prefix(""), 1, &[]),
        ]);
        assert_eq!(
            names(&table, "*"),
            ["first", "exact", "template", "regex", "long", "short"]
        );
    }

    #[test]
    fn the_entry_with_more_conditions_is_asked_first_then_the_name_decides() {
        let (table, _) = table_of(&[
            entry("c", HostPattern::Any, exact("/a"), 0, &[]),
            entry("b", HostPattern::Any, exact("/a"), 0, &["POST"]),
            entry("a", HostPattern::Any, exact("/a"), 0, &["GET", "HEAD"]),
        ]);
        assert_eq!(names(&table, "*"), ["a", "b", "c"]);
    }

    #[test]
    fn a_virtual_host_holds_its_own_routes_and_those_of_every_wider_pattern() {
        let (table, _) = table_of(&[
            entry("any", host("*"), exact("/a"), 0, &[]),
            entry("wide", host("*.example.com"), exact("/a"), 0, &[]),
            entry("narrow", host("*.api.example.com"), prefix("/"), 0, &[]),
            entry(
                "own",
                host("v1.api.example.com"),
                PathMatch::Regex("/.*".to_owned()),
                0,
                &[],
            ),
            entry("other", host("example.com"), exact("/a"), 0, &[]),
        ]);
        assert_eq!(
            patterns(&table),
            [
                "example.com",
                "v1.api.example.com",
                "*.api.example.com",
                "*.example.com",
                "*"
            ]
        );
        assert_eq!(names(&table, "v1.api.example.com"), ["own", "narrow", "wide", "any"]);
        assert_eq!(names(&table, "*.api.example.com"), ["narrow", "wide", "any"]);
        assert_eq!(names(&table, "*.example.com"), ["wide", "any"]);
        assert_eq!(names(&table, "example.com"), ["other", "any"]);
        assert_eq!(names(&table, "*"), ["any"]);
        assert_eq!(table.len(), 4 + 3 + 2 + 2 + 1);
    }

    #[test]
    fn priority_goes_before_the_narrower_host() {
        let (table, _) = table_of(&[
            entry("own", host("example.com"), exact("/a"), 0, &[]),
            entry("any", host("*"), prefix("/"), 1, &[]),
        ]);
        assert_eq!(names(&table, "example.com"), ["any", "own"]);
    }

    #[test]
    fn a_change_encodes_only_the_virtual_hosts_it_belongs_to() {
        let (mut table, _) = table_of(&[
            entry("a", host("a.com"), exact("/a"), 0, &[]),
            entry("b", host("b.com"), exact("/a"), 0, &[]),
        ]);
        let before: Vec<Bytes> = table.given.encoded.values().map(|host| host.bytes.clone()).collect();
        let mut touched = Touched::default();
        table.insert(&entry("c", host("a.com"), exact("/c"), 0, &[]), &mut touched);
        table.encode(&touched, Bounds::default()).unwrap();
        let after: Vec<Bytes> = table.given.encoded.values().map(|host| host.bytes.clone()).collect();
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1].as_ptr(), after[1].as_ptr());
    }

    #[test]
    fn the_first_claim_has_the_match_and_gives_it_back_when_it_goes() {
        let (older, newer) = (
            entry("a", host("*"), exact("/a"), 0, &[]),
            entry("b", host("*"), exact("/a"), 0, &[]),
        );
        let (mut table, touched) = table_of(&[Arc::clone(&newer), Arc::clone(&older)]);
        assert_eq!(names(&table, "*"), ["a"]);
        assert_eq!(table.winner(&newer), Some(&older));
        assert_eq!(touched.documents.len(), 2);
        let mut touched = Touched::default();
        table.remove(&older, &mut touched);
        assert_eq!(table.winner(&newer), Some(&newer));
        table.spread(&mut touched);
        assert_eq!(touched.documents.len(), 2, "the rival is told");
        table.remove(&newer, &mut touched);
        table.encode(&touched, Bounds::default()).unwrap();
        assert_eq!(
            (patterns(&table).len(), table.documents().count(), table.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn too_many_entries_are_counted_with_their_copies_and_not_encoded() {
        let (mut table, mut touched) = (Table::default(), Touched::default());
        table.insert(&entry("a", host("*"), exact("/a"), 0, &[]), &mut touched);
        table.insert(&entry("b", host("a.com"), exact("/b"), 0, &[]), &mut touched);
        let bounds = Bounds {
            entries: 2,
            ..Bounds::default()
        };
        assert_eq!(table.encode(&touched, bounds).map_err(|size| size.entries), Err(3));
        assert_eq!((table.given.encoded.len(), table.given().runs().count()), (0, 0));
    }
}
