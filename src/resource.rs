//! Stage 4, from accepted documents to Envoy resources: a change compiles only what it touches.
//!
//! | module | job |
//! |---|---|
//! | `clusters`, `endpoints`, `listeners`, `routes`, `runtime`, `secrets` | one resource type each: documents become encoded resources |
//! | `verbatim` | resources that operators write in Envoy's own form |
//! | `check` | Envoy's own rules (docs/refused-by-envoy.md) |
//! | `policies` | policies as HTTP filters, and the slots of a listener that run them |
//! | `table` | the order of the entries of a RouteConfiguration |
//! | `matcher` | the route that takes a request, and its effect |
//! | `grpc` | routes as gRPC clients without a proxy take them |
//! | `compile` | the compiled whole, and the difference that a change makes to it |
//! | `body`, `xdstp` | the bytes of a resource; the form of an `xdstp://` name |
//! | `refused` | a resource as a proxy refused it |
//!
//! Each resource is encoded and hashed when it changes, and never again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::document::key::DocumentKey;
use body::Body;
use clusters::no_wait::Wait;
use compile::parts::Parts;

pub mod body;
pub mod check;
pub mod clusters;
pub mod compile;
pub mod endpoints;
pub mod grpc;
pub mod listeners;
pub mod matcher;
mod place;
pub mod policies;
pub mod refused;
pub mod routes;
pub mod runtime;
pub mod secrets;
pub mod table;
pub mod verbatim;
pub mod xdstp;

/// The resource types served, in make-before-break order: a type comes before the types that refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// RTDS.
    Runtime,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// SDS.
    Secret,
    /// ECDS.
    ExtensionConfig,
    /// LDS.
    Listener,
    /// SRDS.
    ScopedRoute,
    /// RDS.
    Route,
    /// VHDS.
    VirtualHost,
}

impl ResourceType {
    /// The number of types.
    pub const COUNT: usize = 9;
    /// All, in make-before-break order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Runtime,
        Self::Cluster,
        Self::Endpoint,
        Self::Secret,
        Self::ExtensionConfig,
        Self::Listener,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
    ];

    /// The type URL on the wire.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// The type that a type URL names.
    #[must_use]
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource_type| resource_type.type_url() == type_url)
    }

    /// The word of the admin API and of metrics labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Cluster => "clusters",
            Self::Endpoint => "endpoints",
            Self::Secret => "secrets",
            Self::ExtensionConfig => "extension_configs",
            Self::Listener => "listeners",
            Self::ScopedRoute => "scoped_routes",
            Self::Route => "routes",
            Self::VirtualHost => "virtual_hosts",
        }
    }

    /// The type that a word of the admin API names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource_type| resource_type.as_str() == word)
    }

    /// Whether resources of the type are sent with a time to live. When the time is over, Envoy 1.40 removes clusters
    /// and listeners; for other types it does nothing, or crashes (docs/xds-rules.md F-18).
    #[must_use]
    pub fn knows_ttl(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Position in [`ResourceType::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Version of one resource: a 128-bit hash of its canonical bytes. It changes if and only if the content does, on every
/// replica alike. Shape on the wire: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceVersion(pub u128);

impl ResourceVersion {
    /// The version of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// The version of these bytes, whatever the pieces are.
    fn of_body(body: &Body) -> Self {
        let mut hasher = Xxh3::new();
        body.pieces().for_each(|piece| hasher.update(piece));
        Self(hasher.digest128())
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for ResourceVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The references of a resource by `ConfigSource`, sorted.
pub type References = Arc<[Reference]>;

/// One resource that another refers to by a `ConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The type of the other resource.
    pub resource_type: ResourceType,
    /// The name of the other resource.
    pub name: Arc<str>,
    /// The source of the other resource.
    pub source: Source,
}

/// The `ConfigSource` of a reference. To Envoy the same name through another source is another subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The source in all compiled resources: `{"ads": {}, "resource_api_version": "V3"}`.
    Common,
    /// Any other source.
    Own,
}

/// One encoded resource. Two are equal when name, version, and `on_demand` are.
///
/// The version covers `aliases` and `ttl`, too ([`Resource::wrapped`]).
#[derive(Debug, Clone)]
pub struct Resource {
    /// The name on the wire.
    pub name: Arc<str>,
    /// Hash of [`Resource::body`]; of a RouteConfiguration made of many documents, a sum over its virtual hosts.
    pub version: ResourceVersion,
    /// The encoded message (the `value` of the Any), canonical: map entries sorted.
    pub body: Body,
    /// The documents that it was made of, sorted. Empty for the default listener, which is made of none, and for a
    /// resource with [`Resource::parts`].
    pub documents: Vec<DocumentKey>,
    /// Of a Cluster: the ClusterLoadAssignment that Envoy waits for after a change of the Cluster (docs/xds-rules.md
    /// AD-03).
    pub warms: Option<Arc<str>>,
    /// Of a Cluster: what Envoy waits for before it uses the Cluster, if that may never come.
    pub waits: Option<Wait>,
    /// Claims that no other resource of the type and group can have at the same time: the addresses of a Listener, the
    /// key of a scope. `None`: no claim.
    pub claims: Option<Arc<[Arc<str>]>>,
    /// Its references: Envoy may wait for these, and does not subscribe again to those that it has (AD-05, DX-30).
    pub refers: Option<References>,
    /// `true`: not part of the wildcard set, sent by name only. So is each resource with an `xdstp://` name.
    pub on_demand: bool,
    /// Other names under which a client may subscribe to it (delta, VHDS: `<route config>/<host>`). Sorted.
    pub aliases: Arc<[Arc<str>]>,
    /// How long a client keeps it without a response that carries it; `None`: for ever.
    pub ttl: Option<Duration>,
    /// The part of each document, if the resource is made of many. Not part of the content.
    pub parts: Option<Arc<Parts>>,
    /// Of a RouteConfiguration whose virtual hosts are resources of their own: the same with all of them inline, for
    /// clients without VHDS. Not part of the content.
    pub whole: Option<Arc<Self>>,
    /// Of a RouteConfiguration with secrets: the same with filters that refuse every request in place of those with
    /// secrets, for proxies that may not have secrets. Not part of the content.
    pub withheld: Option<Arc<Self>>,
}

impl Resource {
    /// A resource that warms nothing. It is part of the wildcard set, unless it has an `xdstp://` name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, body: impl Into<Body>, documents: Vec<DocumentKey>) -> Self {
        let (name, body) = (name.into(), body.into());
        let on_demand = xdstp::is_xdstp(&name);
        Self {
            name,
            version: ResourceVersion::of_body(&body),
            body,
            documents,
            warms: None,
            waits: None,
            claims: None,
            refers: None,
            on_demand,
            aliases: Arc::new([]),
            ttl: None,
            parts: None,
            whole: None,
            withheld: None,
        }
    }

    /// A resource made of the parts of many documents; its version is computed from theirs.
    #[must_use]
    pub fn put_together(name: Arc<str>, version: ResourceVersion, body: Body, parts: Parts) -> Self {
        Self {
            version,
            parts: Some(Arc::new(parts)),
            body,
            ..Self::new(name, "", Vec::new())
        }
    }

    /// The documents that it was made of, sorted.
    pub fn made_of(&self) -> impl Iterator<Item = &DocumentKey> {
        let parts = self.parts.as_ref().filter(|_| self.documents.is_empty());
        self.documents
            .iter()
            .chain(parts.into_iter().flat_map(|parts| parts.keys()))
    }

    /// The claims, in no order that matters ([`Resource::claims`]).
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.claims
            .iter()
            .flat_map(|claims| claims.iter())
            .map(|claim| &**claim)
    }

    /// Whether any reference has a source of its own.
    #[must_use]
    pub fn has_own_source(&self) -> bool {
        self.refers
            .iter()
            .flat_map(|refers| refers.iter())
            .any(|reference| reference.source == Source::Own)
    }

    /// The same resource in a wrapper with aliases and a time to live. Without either, nothing changes, the version
    /// included.
    #[must_use]
    pub fn wrapped(self, mut aliases: Vec<Arc<str>>, ttl: Option<Duration>) -> Self {
        if aliases.is_empty() && ttl.is_none() {
            return self;
        }
        aliases.sort_unstable();
        aliases.dedup();
        let mut seen = self.version.0.to_be_bytes().to_vec();
        for alias in &aliases {
            seen.extend_from_slice(alias.as_bytes());
            seen.push(0);
        }
        seen.extend_from_slice(&ttl.map_or(u128::MAX, |ttl| ttl.as_nanos()).to_be_bytes());
        Self {
            version: ResourceVersion::of(&seen),
            aliases: aliases.into(),
            ttl,
            ..self
        }
    }
}
