//! Stage 4, from accepted documents to Envoy resources, compiling only what a change touches.
//!
//! | module | job |
//! |---|---|
//! | `clusters`, `endpoints`, `listeners`, `routes` | one resource type each: document values become encoded resources |
//! | `verbatim` | resources that operators write in Envoy's own form |
//! | `check` | Envoy's own rules (docs/refused-by-envoy.md) |
//! | `table` | the order of the entries of a RouteConfiguration |
//! | `grpc` | routes as gRPC clients without a proxy take them |
//! | `compile` | the compiled whole, and the difference that a change makes to it |
//! | `body`, `xdstp` | the bytes of a resource; the form of an `xdstp://` name |
//!
//! Each resource is encoded and hashed when it changes, and never again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::document::key::DocumentKey;
use body::Body;
use compile::parts::Parts;

pub mod body;
pub mod check;
pub mod clusters;
pub mod compile;
pub mod endpoints;
pub mod grpc;
pub mod listeners;
mod place;
pub mod routes;
pub mod table;
pub mod verbatim;
pub mod xdstp;

/// The resource types served, in make-before-break order: what is referred to comes before what refers to it.
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
    /// How many there are.
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

    /// Whether a time to live is told with resources of the type: Envoy 1.40 removes these when it is over, and does
    /// nothing, or crashes, for others (docs/xds-rules.md F-18).
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

/// Version of one resource: a 128-bit hash of its canonical bytes, so that it changes when and only when the content does,
/// on every replica alike. Shape on the wire: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceVersion(pub u128);

impl ResourceVersion {
    /// The version of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// The version of these bytes, however they are cut.
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

/// What a resource refers to by a `ConfigSource`, sorted.
pub type References = Arc<[Reference]>;

/// One resource that another refers to by a `ConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The type of what is referred to.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// By which source.
    pub source: Source,
}

/// The `ConfigSource` of a reference. To Envoy the same name by another source is another subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// As all compiled resources have it: `{"ads": {}, "resource_api_version": "V3"}`.
    Common,
    /// Any other.
    Own,
}

/// One encoded resource. Equal when name, version, and `on_demand` are.
///
/// `aliases` and `ttl` are part of the version: a change of either is a change of the resource ([`Resource::wrapped`]).
#[derive(Debug, Clone)]
pub struct Resource {
    /// The name on the wire.
    pub name: Arc<str>,
    /// Hash of [`Resource::body`]; of a RouteConfiguration that was put together, a sum over its virtual hosts.
    pub version: ResourceVersion,
    /// The encoded message (the `value` of the Any), canonical: map entries sorted.
    pub body: Body,
    /// The documents it was made of, sorted; empty for what is generated from nothing (the default listener), and where
    /// [`Resource::parts`] has them.
    pub documents: Vec<DocumentKey>,
    /// For a Cluster: the ClusterLoadAssignment that Envoy waits for after this resource changed (docs/xds-rules.md AD-03).
    pub warms: Option<Arc<str>>,
    /// What else it refers to: Envoy may wait for that without asking again where it has it (AD-05, DX-30).
    pub refers: Option<References>,
    /// Not part of the wildcard set; answered only by name. So is each resource with an `xdstp://` name.
    pub on_demand: bool,
    /// Other names that a subscription may use for it (delta, VHDS: `<route config>/<host>`). Sorted.
    pub aliases: Arc<[Arc<str>]>,
    /// How long a client may keep it without hearing of it again; `None`: for ever.
    pub ttl: Option<Duration>,
    /// What each document has in it, where many are in one resource. No part of the content.
    pub parts: Option<Arc<Parts>>,
    /// Of a RouteConfiguration whose virtual hosts are resources of their own: the same with all of them in it, for clients
    /// that do not ask for virtual hosts. No part of the content.
    pub whole: Option<Arc<Self>>,
}

impl Resource {
    /// A resource that warms nothing and is part of the wildcard set, unless its name is one that never is.
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
            refers: None,
            on_demand,
            aliases: Arc::new([]),
            ttl: None,
            parts: None,
            whole: None,
        }
    }

    /// A resource that was put together of many documents' parts, whose version is known from theirs.
    #[must_use]
    pub fn put_together(name: Arc<str>, version: ResourceVersion, body: Body, parts: Parts) -> Self {
        Self {
            version,
            parts: Some(Arc::new(parts)),
            body,
            ..Self::new(name, "", Vec::new())
        }
    }

    /// The documents it was made of, sorted.
    pub fn made_of(&self) -> impl Iterator<Item = &DocumentKey> {
        let parts = self.parts.as_ref().filter(|_| self.documents.is_empty());
        self.documents
            .iter()
            .chain(parts.into_iter().flat_map(|parts| parts.keys()))
    }

    /// Whether it refers to anything by a source of its own.
    #[must_use]
    pub fn has_own_source(&self) -> bool {
        self.refers
            .iter()
            .flat_map(|refers| refers.iter())
            .any(|reference| reference.source == Source::Own)
    }

    /// The same with what its wrapper says beside the body. Without either it is the same resource, version included.
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
