//! Keys: the document that a key names.
//!
//! A key below the prefix is `KIND/NAME` (`defaults` has no name); a key below the registry root is
//! `{cluster}/{instance}` and has the kind `services`. What a `registries` document finds has that kind, too, under a key
//! that the server makes: `registries/{registry}@{service}/{instance}`. No document in the store has such a key.

use std::fmt;
use std::sync::Arc;

/// The first word of a key below its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `routes/{service}` or `routes/{service}/{route}`.
    Routes,
    /// `clusters/{name}`.
    Clusters,
    /// `{registry prefix}{cluster}/{instance}`.
    Services,
    /// `registries/{name}`.
    Registries,
    /// `listeners/{name}`.
    Listeners,
    /// `secrets/{name}`.
    Secrets,
    /// `policies/{name}`.
    Policies,
    /// `groups/{name}`.
    Groups,
    /// `runtime/{layer}`.
    Runtime,
    /// `defaults`.
    Defaults,
    /// `xds/{type}/{resource name}`.
    Xds,
    /// Any other word: the document is always rejected.
    Unknown,
}

impl Kind {
    /// Every kind that a document can have, in the order of the API.
    pub const ALL: [Self; 11] = [
        Self::Routes,
        Self::Clusters,
        Self::Services,
        Self::Registries,
        Self::Listeners,
        Self::Secrets,
        Self::Policies,
        Self::Groups,
        Self::Runtime,
        Self::Defaults,
        Self::Xds,
    ];

    /// The word in keys and in the API; `unknown` for [`Kind::Unknown`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Clusters => "clusters",
            Self::Services => "services",
            Self::Registries => "registries",
            Self::Listeners => "listeners",
            Self::Secrets => "secrets",
            Self::Policies => "policies",
            Self::Groups => "groups",
            Self::Runtime => "runtime",
            Self::Defaults => "defaults",
            Self::Xds => "xds",
            Self::Unknown => "unknown",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The name of a document: its kind and the rest of its key.
///
/// Ordered by kind, then name. The full key is `prefix + kind + "/" + name`; see [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    /// The kind.
    pub kind: Kind,
    /// The rest of the key, slashes as they are; empty for `defaults`. For [`Kind::Unknown`] the whole key.
    pub name: Arc<str>,
}

impl DocumentKey {
    /// A key from its parts.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }

    /// The name of the Cluster that a document of this key describes; `None`: a document of another kind.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        match self.kind {
            Kind::Clusters => Some(&self.name),
            Kind::Xds => self.name.strip_prefix("clusters/").filter(|name| !name.is_empty()),
            _ => None,
        }
    }

    /// Whether other documents may name a document of this key, so that it stays while one does.
    #[must_use]
    pub fn stays_while_used(&self) -> bool {
        self.cluster().is_some() || matches!(self.kind, Kind::Registries | Kind::Secrets | Kind::Policies)
    }

    /// The `{service}` of a route, the `{cluster}` of a registration, the `{registry}@{service}` of a registration that a
    /// `registries` document finds: the name up to its first slash.
    #[must_use]
    pub fn first_segment(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// The registry that a registration was found in; `None`: a document of the store.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let (registry, _) = self.first_segment().split_once(FOUND_IN)?;
        (self.kind == Kind::Services).then_some(registry)
    }
}

/// Between a registry and a service in the key of a registration; no name has this character.
const FOUND_IN: char = '@';

/// The source of the registrations that a registry has of a service: [`DocumentKey::first_segment`] of their keys.
#[must_use]
pub fn source_in(registry: &str, service: &str) -> Arc<str> {
    let service = service.replace('%', "%25").replace('/', "%2F");
    format!("{registry}{FOUND_IN}{service}").into()
}

/// `routes/user-service`, as it stands below the prefix.
impl fmt::Display for DocumentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Defaults => formatter.write_str("defaults"),
            Kind::Unknown => formatter.write_str(&self.name),
            kind => write!(formatter, "{kind}/{}", self.name),
        }
    }
}

/// The place of a document's key: the roots that are followed, each with one watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// `--prefix`: every kind but `services`.
    Documents,
    /// `--registry-prefix`: `services`.
    Registrations,
    /// One of `--routes-prefix`: `routes`, the whole rest of the key is the name.
    Routes(Arc<str>),
    /// The registrations that a `registries` document finds, by the prefix of their keys: `registries/{name}@`. It is
    /// followed while the document serves.
    Registry(Arc<str>),
}

impl Root {
    /// The word of logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Registrations => "registrations",
            Self::Routes(_) => "routes",
            Self::Registry(_) => "registries",
        }
    }

    /// The root of the registrations that a registry finds.
    #[must_use]
    pub fn of_registry(name: &str) -> Self {
        Self::Registry(format!("{}/{name}{FOUND_IN}", Kind::Registries).into())
    }

    /// The registry whose registrations the root has.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        match self {
            Self::Registry(prefix) => prefix
                .strip_prefix(Kind::Registries.as_str())?
                .get(1..)?
                .strip_suffix(FOUND_IN),
            _ => None,
        }
    }

    /// Whether instances register themselves below the root.
    #[must_use]
    pub fn is_registrations(&self) -> bool {
        matches!(self, Self::Registrations | Self::Registry(_))
    }
}

/// The prefixes of all roots: from a key in the store to a [`DocumentKey`] and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `/gateway/`
    pub prefix: Arc<str>,
    /// `/services/`
    pub registry_prefix: Arc<str>,
    /// Other places of routes documents; normally none.
    pub routes_prefixes: Vec<Arc<str>>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            prefix: "/gateway/".into(),
            registry_prefix: "/services/".into(),
            routes_prefixes: Vec::new(),
        }
    }
}

impl Layout {
    /// All roots that are followed from the start.
    #[must_use]
    pub fn roots(&self) -> Vec<Root> {
        let mut roots = vec![Root::Documents, Root::Registrations];
        roots.extend(
            self.routes_prefixes
                .iter()
                .map(|prefix| Root::Routes(Arc::clone(prefix))),
        );
        roots
    }

    /// The key prefix of a root.
    #[must_use]
    pub fn prefix_of<'a>(&'a self, root: &'a Root) -> &'a str {
        match root {
            Root::Documents => &self.prefix,
            Root::Registrations => &self.registry_prefix,
            Root::Routes(prefix) | Root::Registry(prefix) => prefix,
        }
    }

    /// The root of a key in the store; `None`: the key is below none of them.
    #[must_use]
    pub fn root_of(&self, full_key: &[u8]) -> Option<Root> {
        if let Some(registry) = found_in(full_key) {
            return Some(Root::of_registry(registry));
        }
        self.roots()
            .into_iter()
            .find(|root| full_key.starts_with(self.prefix_of(root).as_bytes()))
    }

    /// The document of a key below a root. A key that names none (unknown word, not UTF-8) has [`Kind::Unknown`]; its
    /// name is the key below the prefix, lossily as text.
    #[must_use]
    pub fn locate(&self, root: &Root, full_key: &[u8]) -> DocumentKey {
        let prefix = self.prefix_of(root);
        let below = full_key.strip_prefix(prefix.as_bytes()).unwrap_or(full_key);
        let Ok(text) = std::str::from_utf8(below) else {
            return DocumentKey::new(Kind::Unknown, String::from_utf8_lossy(below));
        };
        match root {
            Root::Registry(_) => {
                let name = full_key.strip_prefix(b"registries/").unwrap_or(full_key);
                DocumentKey::new(Kind::Services, String::from_utf8_lossy(name))
            }
            // A key that would pass for one of a registry.
            Root::Registrations if text.split('/').next().is_some_and(|cluster| cluster.contains(FOUND_IN)) => {
                DocumentKey::new(Kind::Unknown, format!("{}/{text}", Kind::Services))
            }
            Root::Registrations => DocumentKey::new(Kind::Services, text),
            Root::Routes(_) => DocumentKey::new(Kind::Routes, text),
            Root::Documents if text == Kind::Defaults.as_str() => DocumentKey::new(Kind::Defaults, ""),
            Root::Documents => match text
                .split_once('/')
                .and_then(|(word, name)| Some((Kind::from_word(word)?, name)))
            {
                Some((kind, name)) if !matches!(kind, Kind::Defaults | Kind::Services) => DocumentKey::new(kind, name),
                _ => DocumentKey::new(Kind::Unknown, text),
            },
        }
    }

    /// The key in the store under which the API writes a document (never below a `--routes-prefix`).
    #[must_use]
    pub fn full_key(&self, key: &DocumentKey) -> String {
        match key.kind {
            Kind::Services if key.registry().is_some() => format!("{}/{}", Kind::Registries, key.name),
            Kind::Services => format!("{}{}", self.registry_prefix, key.name),
            _ => format!("{}{key}", self.prefix),
        }
    }
}

/// The registry of a key `registries/{registry}@{service}/{instance}`, or of the prefix of its root.
fn found_in(full_key: &[u8]) -> Option<&str> {
    let below = std::str::from_utf8(full_key).ok()?.strip_prefix("registries/")?;
    let (registry, _) = below.split('/').next()?.split_once(FOUND_IN)?;
    Some(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_of_a_registry_has_a_key_of_its_own() {
        let layout = Layout::default();
        let key = DocumentKey::new(Kind::Services, format!("{}/7f3c", source_in("kratos", "shop/orders")));
        assert_eq!(&*key.name, "kratos@shop%2Forders/7f3c");
        assert_eq!(key.registry(), Some("kratos"));
        let full_key = layout.full_key(&key);
        assert_eq!(full_key, "registries/kratos@shop%2Forders/7f3c");
        let root = layout.root_of(full_key.as_bytes()).unwrap();
        assert_eq!(root, Root::of_registry("kratos"));
        assert_eq!(root.registry(), Some("kratos"));
        assert_eq!(layout.root_of(layout.prefix_of(&root).as_bytes()), Some(root.clone()));
        assert_eq!(layout.locate(&root, full_key.as_bytes()), key);
    }

    #[test]
    fn no_key_of_the_store_passes_for_one_of_a_registry() {
        let layout = Layout::default();
        let key = layout.locate(&Root::Registrations, b"/services/kratos@orders/1");
        assert_eq!(key.kind, Kind::Unknown);
        assert_eq!(key.registry(), None);
        assert_eq!(layout.root_of(b"/gateway/registries/kratos"), Some(Root::Documents));
    }
}
