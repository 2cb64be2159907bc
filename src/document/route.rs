//! `routes/{service}[/{route}]`: matches of requests, and their actions.
//!
//! The short, the full and both older forms (`legacy.rs`) become the same value: a list of [`Rule`]s, each complete in
//! itself. An override is a rule of its own, with the conditions of its parent and its own.
//!
//! | module | job |
//! |---|---|
//! | this file | the types |
//! | `read` | from the fields of a document to rules |
//! | `matching`, `condition`, `path` | matches |
//! | `target` | actions |
//! | `trial` | tests |
//! | `settings`, `hashing`, `header`, `format` | all other fields |
//!
//! Everything that can be checked on a document alone is checked there: no value that leaves has a field that Envoy
//! would refuse. References are not checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Groups;
use super::policy::Items;

pub(super) mod condition;
mod format;
mod hashing;
pub(super) mod header;
pub(super) mod matching;
pub(crate) mod path;
pub(super) mod read;
pub(super) mod settings;
pub(super) mod target;
mod trial;

pub use trial::{Expect, Trial};

/// A route document.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// In the order of the document: for each match its overrides, then itself.
    pub rules: Vec<Rule>,
    /// Names of listeners documents; `None`: every HTTP listener of the route's groups.
    pub listeners: Option<Vec<Arc<str>>>,
    /// The groups of proxies that have it.
    pub groups: Groups,
    /// Higher first.
    pub priority: i32,
    /// `false`: compiled out, still listed. In an array of the older form each rule has its own.
    pub enabled: bool,
    /// Requests with their expected answers.
    pub tests: Vec<Trial>,
}

impl Route {
    /// The rules that are in force, each with its index in the document.
    pub fn enabled_rules(&self) -> impl Iterator<Item = (usize, &Rule)> {
        let rules = self.rules.iter().enumerate();
        rules.filter(|(_, rule)| self.enabled && rule.enabled)
    }

    /// The upstreams of all rules that are in force, those of mirrors too; an inline one may occur several times.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let rules = || self.enabled_rules().map(|(_, rule)| rule);
        let targets = rules().flat_map(Rule::targets).map(|target| &target.upstream);
        targets.chain(rules().flat_map(|rule| &rule.mirrors).map(|mirror| &mirror.upstream))
    }

    /// The cluster names of these upstreams.
    #[must_use]
    pub fn upstream_names(&self) -> BTreeSet<Arc<str>> {
        self.upstreams().map(Upstream::cluster_name).collect()
    }

    /// Whether the route is for a listener by name.
    #[must_use]
    pub fn is_on(&self, listener: &str) -> bool {
        let mut listeners = self.listeners.iter().flatten();
        self.listeners.is_none() || listeners.any(|name| &**name == listener)
    }
}

/// One match, and everything that happens to its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The place in the document, for messages: `match[1]`, `overrides[0]`, `[3]` in an array.
    pub place: String,
    /// The match.
    pub matches: Match,
    /// The action.
    pub action: Action,
    /// Changes to the request's path and host.
    pub rewrite: Rewrite,
    /// Copies of the request; none without a forwarded request.
    pub mirrors: Vec<Mirror>,
    /// Settings that `defaults` may fill in.
    pub settings: Settings,
    /// The policies of the route, or of its override.
    pub policies: Items,
    /// `false` in one entry of an older form's array.
    pub enabled: bool,
}

impl Rule {
    /// The destinations of forwarded requests; none of a redirect or a fixed response.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        match &self.action {
            Action::Forward(targets) => targets,
            Action::Redirect(_) | Action::Respond(_) => &[],
        }
    }
}

/// The fields of a route that `defaults.route` gives if the document does not. Each is taken whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Whole response.
    pub timeout: Option<Limit>,
    /// Time without a byte sent or received.
    pub idle_timeout: Option<Limit>,
    /// Retries.
    pub retry: Option<Retry>,
    /// Edits of request headers.
    pub request_headers: Option<HeaderEdits>,
    /// Edits of response headers.
    pub response_headers: Option<HeaderEdits>,
    /// Parts of a request that choose the endpoint.
    pub hash_on: Option<Vec<HashOn>>,
    /// The choice among weighted clusters.
    pub split_by: Option<SplitBy>,
    /// Whether WebSocket upgrades pass.
    pub websocket: Option<bool>,
}

/// A part of a request whose hash chooses an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashOn {
    /// The part.
    pub key: HashKey,
    /// Whether later parts count only if this one is missing.
    pub terminal: bool,
}

/// The part of a request that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header, by its lower-cased name.
    Header(String),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// The lifetime of a cookie that Envoy makes if there is none; zero: for the session. `None`: none is made.
        ttl: Option<Duration>,
        /// The path of a cookie that Envoy makes.
        path: String,
    },
    /// A query parameter, by its name as it arrives.
    Query(String),
    /// The client's address.
    ClientIp,
}

/// `split_by`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitBy {
    /// Each request for itself.
    Random,
    /// By `hash_on`: equal requests stay with one cluster.
    HashOn,
}

/// One entry of `mirror`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster.
    pub upstream: Upstream,
    /// The share of requests that are copied, in millionths.
    pub millionths: u32,
}

/// A duration or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `"none"`.
    None,
    /// A longest time, above zero.
    After(Duration),
}

/// Conditions on requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// Any of them; never empty ([`HostPattern::Any`] if none is written). Sorted, unique.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathMatch,
    /// Upper-case tokens, sorted, unique; empty: any.
    pub methods: Vec<String>,
    /// By lower-cased header name; all must hold. A name may have several conditions (a parent's and its override's).
    pub headers: Vec<(String, StringMatch)>,
    /// By query parameter name; all must hold.
    pub query: Vec<(String, StringMatch)>,
    /// Written as `grpc`: no timeout by default.
    pub grpc: bool,
}

/// Host pattern, lower case, without a port. Ordered as virtual hosts are: exact, longest wildcard, any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(Arc<str>),
    /// `*.example.com`, kept as written.
    Wildcard(Arc<str>),
    /// `*`
    Any,
}

impl HostPattern {
    /// Exact first, then wildcards from the longest, any last.
    fn rank(&self) -> (u8, std::cmp::Reverse<usize>, &str) {
        match self {
            Self::Exact(name) => (0, std::cmp::Reverse(0), name),
            Self::Wildcard(name) => (1, std::cmp::Reverse(name.len()), name),
            Self::Any => (2, std::cmp::Reverse(0), "*"),
        }
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// How a path is matched; paths are without query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// `/a` of `/a/*`: `/a` itself and everything below `/a/`. Empty: everything.
    Prefix(String),
    /// A URI template, `/a/{id}`, in Envoy's syntax.
    Template(String),
    /// An RE2 regex for the whole path.
    Regex(String),
    /// The older forms' path: exact or segment prefix, as `defaults.legacy_path` directs.
    Legacy(String),
}

/// A condition on a header's or query parameter's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains.
    Contains(String),
    /// RE2, whole value.
    Regex(String),
    /// The header or parameter exists, or does not exist.
    Present(bool),
    /// The opposite. Never nested.
    Not(Box<Self>),
}

/// The action on a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Forward to one of these; never empty, weights sum to `1..=u32::MAX`.
    Forward(Vec<Target>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed response.
    Respond(Respond),
}

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The cluster.
    pub upstream: Upstream,
    /// Its share; 1 when there is only one.
    pub weight: u32,
}

/// A cluster by name or by URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A clusters document.
    Cluster(Arc<str>),
    /// An inline cluster.
    Url(UpstreamUrl),
}

impl Upstream {
    /// The Cluster's name on the wire.
    #[must_use]
    pub fn cluster_name(&self) -> Arc<str> {
        match self {
            Self::Cluster(name) => Arc::clone(name),
            Self::Url(url) => url.cluster_name().into(),
        }
    }
}

/// `http://10.0.1.5:8080`: normalised, port always there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamUrl {
    /// `https`, `grpcs`: TLS with SNI, verified.
    pub https: bool,
    /// `grpc`, `grpcs`: HTTP/2, whatever `defaults.cluster` says.
    pub http2: bool,
    /// IP literal (IPv6 without brackets) or lower-cased name.
    pub host: String,
    /// 1..=65535.
    pub port: u16,
}

impl UpstreamUrl {
    /// `scheme://host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        let scheme = match (self.http2, self.https) {
            (false, false) => "http",
            (false, true) => "https",
            (true, false) => "grpc",
            (true, true) => "grpcs",
        };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// `{ "redirect": … }`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// New host.
    pub host: Option<String>,
    /// New port.
    pub port: Option<u16>,
    /// New path, whole.
    pub path: Option<String>,
    /// Replaces the matched part of the path.
    pub prefix: Option<String>,
    /// 301 (default), 302, 303, 307 or 308.
    pub code: u16,
}

/// `{ "respond": … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// 200..=599.
    pub status: u16,
    /// At most 4096 bytes.
    pub body: Option<String>,
    /// Response headers.
    pub headers: BTreeMap<String, String>,
}

/// Changes to the request's path and host. At most one of `prefix`, `regex` and `path` is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Replaces the matched part of the path (docs/documents/routes.md, Rewrite).
    pub prefix: Option<String>,
    /// Replaces each part of the path that a regex matches.
    pub regex: Option<RegexRewrite>,
    /// Replaces the whole path.
    pub path: Option<String>,
    /// Replaces Host.
    pub host: Option<HostRewrite>,
}

/// `rewrite.regex`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegexRewrite {
    /// An RE2 regex, of any part of the path.
    pub pattern: String,
    /// The substitution, with groups as `\1`.
    pub with: String,
}

/// A new Host header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRewrite {
    /// This name.
    Name(String),
    /// The upstream's name.
    Auto,
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Retries beyond the first try; at least 1.
    pub attempts: u32,
    /// Envoy's words and status codes, as written: `connect-failure`, `503`.
    pub on: Vec<String>,
    /// Each try.
    pub per_try_timeout: Option<Duration>,
    /// Wait between tries.
    pub back_off: Option<BackOff>,
    /// Not to an endpoint that was tried before.
    pub another_endpoint: bool,
}

/// Exponential back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// First interval; at least 1 ms.
    pub base: Duration,
    /// Largest; not below base.
    pub max: Option<Duration>,
}

/// Edits of headers; names lower-cased.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Overwritten.
    pub set: BTreeMap<String, String>,
    /// Appended.
    pub add: BTreeMap<String, String>,
    /// Removed, in the order written.
    pub remove: Vec<String>,
}
