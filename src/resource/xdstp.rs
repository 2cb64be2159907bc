//! Names of the form `xdstp://authority/type/path?key=value` (docs/xds-rules.md DX-31).
//!
//! In: names as clients and documents write them. Out: their canonical form, and the [`Glob`] of a name that ends in
//! `/*`. Context parameters are a set: order and repetition do not matter. A glob stands for all resources directly
//! below its path with the same parameters. Escapes are compared as written.

use std::borrow::Cow;
use std::sync::Arc;

const SCHEME: &str = "xdstp://";

/// Whether the name has that form. Such a name is not part of a wildcard (`*`).
#[must_use]
pub fn is_xdstp(name: &str) -> bool {
    name.starts_with(SCHEME)
}

/// The name with its context parameters sorted, each once; any other name unchanged.
#[must_use]
pub fn canonical(name: &str) -> Cow<'_, str> {
    let Some((path, query)) = name.split_once('?').filter(|_| is_xdstp(name)) else {
        return Cow::Borrowed(name);
    };
    let mut parameters: Vec<&str> = query.split('&').filter(|parameter| !parameter.is_empty()).collect();
    if !query.is_empty() && parameters.is_sorted_by(|one, other| one < other) && !query.ends_with('&') {
        return Cow::Borrowed(name);
    }
    parameters.sort_unstable();
    parameters.dedup();
    match parameters.as_slice() {
        [] => Cow::Borrowed(path),
        parameters => Cow::Owned(format!("{path}?{}", parameters.join("&"))),
    }
}

/// The path and the context parameters of a canonical name.
fn parts(name: &str) -> (&str, &str) {
    name.split_once('?').unwrap_or((name, ""))
}

/// A subscription to all resources directly below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// Canonical, with the `*`.
    name: Arc<str>,
    /// The length of the name before the `*`.
    prefix: usize,
}

impl Glob {
    /// The glob of a canonical name; `None`: the name is that of one resource.
    #[must_use]
    pub fn parse(name: &Arc<str>) -> Option<Self> {
        if !is_xdstp(name) {
            return None;
        }
        let (path, _) = parts(name);
        let prefix = path.strip_suffix('*').filter(|prefix| prefix.ends_with('/'))?;
        Some(Self {
            name: Arc::clone(name),
            prefix: prefix.len(),
        })
    }

    /// The canonical name of the subscription.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The beginning of the names of its resources.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.name[..self.prefix]
    }

    /// Whether the glob covers the resource of that name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let name = canonical(name);
        let (path, parameters) = parts(&name);
        let last = path.strip_prefix(self.prefix());
        last.is_some_and(|last| !last.is_empty() && !last.contains('/')) && parameters == parts(&self.name).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/foo";

    #[test]
    fn context_parameters_are_a_set() {
        for (written, expected) in [
            ("?b=2&a=1", "?a=1&b=2"),
            ("?a=1&b=2", "?a=1&b=2"),
            ("?a=1&a=1", "?a=1"),
            ("?a=1&", "?a=1"),
            ("?", ""),
            ("", ""),
        ] {
            assert_eq!(
                canonical(&format!("{PATH}{written}")),
                format!("{PATH}{expected}"),
                "{written}"
            );
        }
        assert_eq!(canonical("plain?b=2&a=1"), "plain?b=2&a=1");
    }

    #[test]
    fn a_glob_covers_what_is_directly_below_with_the_same_parameters() {
        let glob = Glob::parse(&format!("{PATH}/*?a=1&b=2").into()).expect("a glob");
        assert_eq!(glob.prefix(), format!("{PATH}/"));
        let covered = |rest: &str| glob.covers(&format!("{PATH}{rest}"));
        assert!(covered("/x?a=1&b=2") && covered("/x?b=2&a=1"));
        assert!(!covered("/x") && !covered("/x?a=1") && !covered("/x/y?a=1&b=2") && !covered("/?a=1&b=2"));
        assert!(!covered("x?a=1&b=2") && !glob.covers("x?a=1&b=2"));
    }

    #[test]
    fn a_star_elsewhere_is_no_glob() {
        for name in [
            "*",
            "foo/*",
            "xdstp://a/t/foo*",
            "xdstp://a/t/*/x",
            "xdstp://a/t/x?k=/*",
        ] {
            assert_eq!(Glob::parse(&name.into()), None, "{name}");
        }
        assert!(Glob::parse(&"xdstp://a/t/*".into()).is_some());
    }
}
