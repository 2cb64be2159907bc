//! Stage 2, the documents that operators write: one file a kind, each from text to a checked value.
//!
//! In: a [`key::DocumentKey`] and the bytes at that key (JSON or YAML). Out: a [`Document`], every shorthand resolved
//! and every field checked for itself; or a [`Rejection`] with the field, the found value and the expected one.
//! [`crate::resource`] and [`crate::reconcile::plan`] check references between documents. No I/O, no clock, no other
//! stage.

use std::collections::BTreeSet;
use std::sync::Arc;

use decode::Cursor;
use key::Kind;
use reference::Reference;

pub mod cluster;
mod decode;
pub mod defaults;
pub mod endpoint;
mod field;
pub mod glob;
pub mod group;
mod groups;
pub mod host;
pub mod key;
mod legacy;
pub mod listener;
mod name;
pub mod policy;
pub mod reference;
pub mod regex;
pub mod registry;
pub mod route;
pub mod runtime;
pub mod schema;
pub mod secret;
pub(crate) mod sentence;
mod text;
mod uri;
pub mod xds;

/// Largest document, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Deepest nesting of objects and lists.
pub const MAX_DEPTH: usize = 64;
/// The group of a node that no `groups` document matches.
pub const DEFAULT_GROUP: &str = "default";

/// A checked document.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// `routes/*`.
    Route(route::Route),
    /// `clusters/*`.
    Cluster(Box<cluster::Cluster>),
    /// `listeners/*`.
    Listener(listener::Listener),
    /// `secrets/*`.
    Secret(secret::Secret),
    /// `groups/*`.
    Group(group::Group),
    /// `policies/*`.
    Policy(policy::PolicyDocument),
    /// `runtime/*`.
    Runtime(runtime::Runtime),
    /// `defaults`.
    Defaults(Box<defaults::Defaults>),
    /// `xds/*/*`.
    Xds(xds::Xds),
    /// `registries/*`.
    Registry(registry::Registry),
    /// A key of the registry root, or one that a registry finds.
    Endpoint(endpoint::Registration),
}

impl Document {
    /// The route, if the document is one.
    #[must_use]
    pub fn as_route(&self) -> Option<&route::Route> {
        match self {
            Self::Route(route) => Some(route),
            _ => None,
        }
    }

    /// The listener, if the document is one.
    #[must_use]
    pub fn as_listener(&self) -> Option<&listener::Listener> {
        match self {
            Self::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    /// The defaults, if the document is `defaults`.
    #[must_use]
    pub fn as_defaults(&self) -> Option<&defaults::Defaults> {
        match self {
            Self::Defaults(defaults) => Some(defaults),
            _ => None,
        }
    }

    /// The resource in Envoy's own form, if the document has one.
    #[must_use]
    pub fn as_xds(&self) -> Option<&xds::Xds> {
        match self {
            Self::Xds(xds) => Some(xds),
            _ => None,
        }
    }

    /// The secret, if the document is one.
    #[must_use]
    pub fn as_secret(&self) -> Option<&secret::Secret> {
        match self {
            Self::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// The policy, if the document is one.
    #[must_use]
    pub fn as_policy(&self) -> Option<&policy::PolicyDocument> {
        match self {
            Self::Policy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The documents that the document names and cannot serve without.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        match self {
            Self::Route(_) | Self::Cluster(_) | Self::Listener(_) | Self::Defaults(_) => {
                let mut references = match self {
                    Self::Cluster(cluster) => cluster.references(),
                    Self::Listener(listener) => listener.references(),
                    _ => Vec::new(),
                };
                let items = self.policy_lists().flat_map(|items| items.iter());
                references.extend(items.flat_map(policy::Item::references));
                references
            }
            Self::Policy(policy) => policy.policy.references(""),
            Self::Secret(_) | Self::Group(_) | Self::Runtime(_) | Self::Xds(_) | Self::Endpoint(_) => Vec::new(),
            Self::Registry(registry) => registry.references(),
        }
    }

    /// The lists of policies of the document: of a route one for each rule.
    pub fn policy_lists(&self) -> impl Iterator<Item = &policy::Items> {
        let (one, rules) = match self {
            Self::Route(route) => (None, route.rules.as_slice()),
            Self::Cluster(cluster) => (Some(&cluster.policies), &[][..]),
            Self::Listener(listener) => (Some(&listener.policies), &[][..]),
            Self::Defaults(defaults) => (Some(&defaults.policies), &[][..]),
            _ => (None, &[][..]),
        };
        let lists = one.into_iter().chain(rules.iter().map(|rule| &rule.policies));
        lists.filter(|items| !items.is_empty())
    }

    /// The paths of the files on the server that the document names.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        if let Self::Secret(secret) = self {
            return secret.files.values().map(|path| &**path).collect();
        }
        let own = self.as_policy().map(|document| &document.policy);
        let inline = self
            .policy_lists()
            .flat_map(|items| items.iter())
            .filter_map(policy::Item::inline);
        own.into_iter()
            .chain(inline)
            .filter_map(|policy| policy.file())
            .collect()
    }

    /// Whether the document is a listener that gRPC clients resolve.
    #[must_use]
    pub fn is_api_listener(&self) -> bool {
        self.as_listener().is_some_and(|listener| listener.address.is_none())
    }

    /// Whether the document is a listener without routes, because it passes TCP on.
    #[must_use]
    pub fn is_tcp_listener(&self) -> bool {
        self.as_listener().is_some_and(|listener| listener.tcp.is_some())
    }

    /// The groups that the document names; `None`: all, or the kind has no `groups`.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        match self {
            Self::Route(route) => &route.groups,
            Self::Cluster(cluster) => &cluster.groups,
            Self::Listener(listener) => &listener.groups,
            Self::Secret(secret) => &secret.groups,
            Self::Policy(policy) => &policy.groups,
            Self::Runtime(runtime) => &runtime.groups,
            Self::Xds(xds) => &xds.groups,
            Self::Group(_) | Self::Defaults(_) | Self::Registry(_) | Self::Endpoint(_) => &None,
        }
    }

    /// Whether the document is for a group.
    #[must_use]
    pub fn is_for(&self, group: &str) -> bool {
        self.groups().as_ref().is_none_or(|groups| groups.contains(group))
    }

    /// Whether some group has both documents.
    #[must_use]
    pub fn shares_a_group(&self, other: &Self) -> bool {
        match (self.groups(), other.groups()) {
            (Some(ours), Some(theirs)) => !ours.is_disjoint(theirs),
            _ => true,
        }
    }
}

/// A document, and warnings about it although it is valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The document.
    pub document: Arc<Document>,
    /// One sentence each, without the key: unknown fields of the older forms, for example.
    pub warnings: Vec<String>,
}

impl Parsed {
    fn new(document: Document, warnings: Vec<String>) -> Self {
        Self {
            document: Arc::new(document),
            warnings,
        }
    }
}

/// The reason why a document is rejected: the parts of one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", path_prefix(.path))]
pub struct Rejection {
    /// The bad field, `match[0].hosts[1]`; empty if the reason is about the whole document.
    pub path: String,
    /// The found value and the expected one, for example `found the number 5, expected a duration such as "5s"`.
    pub reason: String,
}

fn path_prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

impl Rejection {
    /// A rejection of the field at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The groups a document is for; `None` means all.
pub type Groups = Option<BTreeSet<Arc<str>>>;

/// Limits that the operator may raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `--re2-max-program-size`: the runtime value `re2.max_program_size.error_level` of the Envoys; 100 by default, as
    /// there.
    pub re2_max_program_size: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            re2_max_program_size: 100,
        }
    }
}

/// From the bytes at a key to a checked document.
///
/// # Errors
/// The first mistake found, with its field path.
pub fn parse(key: &key::DocumentKey, value: &[u8], limits: &Limits) -> Result<Parsed, Rejection> {
    parse_with(key, value, limits, &secret::Vault::default())
}

/// From the bytes at a key to a checked document. A secrets document may need keys and files.
///
/// # Errors
/// The first mistake found, with its field path.
pub fn parse_with(
    key: &key::DocumentKey,
    value: &[u8],
    limits: &Limits,
    vault: &secret::Vault,
) -> Result<Parsed, Rejection> {
    if key.registry().is_some() {
        let registration = registry::normal::read(value, limits)?;
        return Ok(Parsed::new(Document::Endpoint(registration), Vec::new()));
    }
    // The form of a route decides what its key may be: the older forms keep their keys.
    if key.kind != Kind::Routes {
        check_key(key)?;
    }
    if key.kind == Kind::Services {
        let registration = registry::values::read_registration(value, limits)?;
        return Ok(Parsed::new(Document::Endpoint(registration), Vec::new()));
    }
    if key.kind == Kind::Secrets {
        secret::read::check_size(value)?;
    }
    let may_name_files = policy::grpc_json::may_name_files(key, value);
    let mut value = match key.kind == Kind::Secrets || xds::is_secret(key) {
        true => text::confidential(value)?,
        false => text::value(value)?,
    };
    text::take_off_schema(&mut value)?;
    let has_files = may_name_files && policy::grpc_json::insert_files(&mut value, "", key, vault)?;
    let root = Cursor::root(&value, limits);
    let mut warnings = Vec::new();
    let document = match key.kind {
        Kind::Routes if legacy::recognises(&root) => {
            name::check_older_key(key)?;
            let (route, said) = legacy::read(key, &root)?;
            warnings = said;
            Document::Route(route)
        }
        Kind::Routes => {
            check_key(key)?;
            Document::Route(route::read::read(key, &root)?)
        }
        Kind::Clusters => Document::Cluster(Box::new(cluster::read::read(key, &root)?)),
        Kind::Listeners => {
            let listener = listener::read(key, &root)?;
            warnings = listener.warnings();
            Document::Listener(listener)
        }
        Kind::Secrets => {
            let (secret, said) = secret::read::read(key, &root, vault)?;
            warnings = said;
            Document::Secret(secret)
        }
        Kind::Groups => Document::Group(group::read(key, &root)?),
        Kind::Policies => Document::Policy(policy::read(key, &root)?),
        Kind::Runtime => {
            let (runtime, said) = runtime::read(key, &root)?;
            warnings = said;
            Document::Runtime(runtime)
        }
        Kind::Defaults => Document::Defaults(Box::new(defaults::read(&root)?)),
        Kind::Xds => Document::Xds(xds::read(key, &root)?),
        Kind::Registries => Document::Registry(registry::read(key, &root)?),
        Kind::Services | Kind::Unknown => {
            return Err(Rejection::new("", "a document of this kind is not supported yet"));
        }
    };

    warnings.extend(policy::warnings(&document));
    warnings.extend(vault.warning(key).filter(|_| has_files));
    Ok(Parsed::new(document, warnings))
}

/// The value of a document's text, in JSON or YAML.
///
/// # Errors
/// The place of the mistake.
pub fn value(text: &[u8]) -> Result<serde_json::Value, Rejection> {
    text::value(text)
}

/// Whether a route document is in one of the two older forms.
#[must_use]
pub fn is_older_form(value: &serde_json::Value) -> bool {
    let limits = Limits::default();
    legacy::recognises(&Cursor::root(value, &limits))
}

/// Checks the form of a key.
fn check_key(key: &key::DocumentKey) -> Result<(), Rejection> {
    match key.kind {
        Kind::Unknown => Err(name::unknown_kind(&key.name)),
        Kind::Defaults => Ok(()),
        Kind::Routes => name::check_segments(key, "routes/{service} or routes/{service}/{route}", 2),
        Kind::Clusters => name::check_segments(key, "clusters/{name}", 1),
        Kind::Listeners => name::check_segments(key, "listeners/{name}", 1),
        Kind::Secrets => name::check_segments(key, "secrets/{name}", 1),
        Kind::Registries => name::check_segments(key, "registries/{name}", 1),
        Kind::Groups => name::check_segments(key, "groups/{name}", 1),
        Kind::Policies => name::check_segments(key, "policies/{name}", 1),
        Kind::Runtime => name::check_segments(key, "runtime/{layer}", 1),
        Kind::Services => name::check_registration(key),
        Kind::Xds => xds::check_key(key),
    }
}

#[cfg(test)]
mod tests;
