//! References between documents: a document names others that it cannot serve without.
//!
//! Each kind lists its references in `references`, and [`Document::references`] collects them. The compiler holds every
//! reference to the same rule: the named document serves, in every group of the document that names it, has the expected
//! shape, and admits the user. Else the naming document is rejected, and judged again when the named one changes.

use std::sync::Arc;

use super::key::{DocumentKey, Kind};
use super::secret::Shape;
use super::sentence::one_of;
use super::{Document, Groups};

/// A document that another one names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The field that names the document, `tls.ca`.
    pub path: String,
    /// The named document.
    pub key: DocumentKey,
    /// What the naming document needs.
    pub needs: Needs,
}

/// The condition that a document has for a document that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A document of that kind.
    Any,
    /// A secret of one of these shapes.
    Secret(&'static [Shape]),
    /// Nothing: a resource in Envoy's own form may name a secret that another server has. Only the right of use counts.
    RightOfUse,
}

impl Reference {
    /// A secret of one of these shapes, named at `path`.
    pub fn secret(path: impl Into<String>, name: &Arc<str>, shapes: &'static [Shape]) -> Self {
        Self {
            path: path.into(),
            key: DocumentKey::new(Kind::Secrets, Arc::clone(name)),
            needs: Needs::Secret(shapes),
        }
    }

    /// A policy, named at `path`.
    pub fn policy(path: impl Into<String>, name: &Arc<str>) -> Self {
        Self {
            path: path.into(),
            key: DocumentKey::new(Kind::Policies, Arc::clone(name)),
            needs: Needs::Any,
        }
    }

    /// A registry, named at `path`.
    pub fn registry(path: impl Into<String>, name: &Arc<str>) -> Self {
        Self {
            path: path.into(),
            key: DocumentKey::new(Kind::Registries, Arc::clone(name)),
            needs: Needs::Any,
        }
    }

    /// Whether the naming document holds the value of the named one, so that it is translated anew when that changes.
    #[must_use]
    pub fn is_by_value(&self) -> bool {
        matches!(self.needs, Needs::Secret(shapes) if shapes.iter().any(|shape| shape.is_by_value()))
    }

    /// The reason why the reference does not hold. `named` is the document that serves at the key.
    #[must_use]
    pub fn fault(&self, user: &DocumentKey, user_groups: &Groups, named: Option<&Document>) -> Option<Misfit> {
        let key = &self.key;
        let Some(named) = named else {
            let reason = format!("found {key}, which does not exist or is rejected, expected a document that serves");
            return (self.needs != Needs::RightOfUse).then_some(Misfit::of_user(reason));
        };
        if let Document::Secret(secret) = named {
            if !secret.admits(user) {
                let reason =
                    format!("found {key}, whose \"used_by\" does not name {user}, expected a secret that it may use");
                return Some(Misfit::of_user(reason));
            }
            if let Needs::Secret(shapes) = self.needs
                && !shapes.contains(&secret.shape())
            {
                let expected = one_of(&shapes.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>());
                return Some(Misfit {
                    reason: format!(
                        "found {key}, a secret of shape {:?}, expected {expected}",
                        secret.shape()
                    ),
                    of_named: Some(format!(
                        "found shape {:?}, but {user} uses the secret as {expected}, expected the same shape",
                        secret.shape()
                    )),
                });
            }
        }
        // The server itself uses what a registry names: groups of proxies do not count.
        if self.needs == Needs::RightOfUse || user.kind == Kind::Registries {
            return None;
        }
        let missing = outside(user_groups, named.groups())?;
        Some(Misfit {
            reason: format!("found {key}, which is not for {missing}, expected a document for every group of this one"),
            of_named: Some(format!(
                "found groups without {missing}, where {user} uses this document"
            )),
        })
    }
}

/// Why a reference does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The reason against the naming document.
    pub reason: String,
    /// The reason against the named document, if that changed under a user that served. `None`: the user gives way.
    pub of_named: Option<String>,
}

impl Misfit {
    fn of_user(reason: String) -> Self {
        Self { reason, of_named: None }
    }
}

/// A group that is among `of`, and not among `named`, in words.
fn outside(of: &Groups, named: &Groups) -> Option<String> {
    let named = named.as_ref()?;
    match of {
        None => Some("all groups".to_owned()),
        Some(groups) => groups
            .iter()
            .find(|group| !named.contains(*group))
            .map(|group| format!("group {group}")),
    }
}

/// Whether users of a document look at the same as before: its presence, groups, and of a secret the shape and the
/// users that it admits.
#[must_use]
pub fn looks_alike(old: Option<&Document>, new: Option<&Document>) -> bool {
    match (old, new) {
        (Some(Document::Secret(old)), Some(Document::Secret(new))) => {
            old.shape() == new.shape() && old.groups == new.groups && old.used_by == new.used_by
        }
        (Some(old), Some(new)) => old.groups() == new.groups(),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Limits, parse};

    fn secret(text: &str) -> Document {
        let key = DocumentKey::new(Kind::Secrets, "a");
        Document::clone(&parse(&key, text.as_bytes(), &Limits::default()).unwrap().document)
    }

    fn groups(names: &[&str]) -> Groups {
        Some(names.iter().map(|name| Arc::from(*name)).collect())
    }

    fn misfit(user_groups: &Groups, named: Option<&str>) -> Option<Misfit> {
        let user = DocumentKey::new(Kind::Clusters, "x");
        let reference = Reference::secret("tls.ca", &"a".into(), &[Shape::Generic, Shape::Jwks]);
        let named = named.map(secret);
        reference.fault(&user, user_groups, named.as_ref())
    }

    fn reason(user_groups: &Groups, named: Option<&str>) -> String {
        misfit(user_groups, named).unwrap().reason
    }

    #[test]
    fn a_document_of_the_shape_for_every_group_fits() {
        let all = r#"{"generic": "a"}"#;
        assert_eq!(misfit(&None, Some(all)), None);
        assert_eq!(misfit(&groups(&["edge"]), Some(all)), None);
        let edge = r#"{"generic": "a", "groups": ["edge", "inner"]}"#;
        assert_eq!(misfit(&groups(&["edge"]), Some(edge)), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            reason(&None, None),
            "found secrets/a, which does not exist or is rejected, expected a document that serves"
        );
        let edge = r#"{"generic": "a", "groups": ["edge"]}"#;
        assert_eq!(
            reason(&groups(&["edge", "inner"]), Some(edge)),
            "found secrets/a, which is not for group inner, expected a document for every group of this one"
        );
        assert_eq!(
            reason(&None, Some(edge)),
            "found secrets/a, which is not for all groups, expected a document for every group of this one"
        );
        assert_eq!(
            reason(&None, Some(r#"{"api_keys": {"a": "0123456789abcdef"}}"#)),
            r#"found secrets/a, a secret of shape "api_keys", expected "generic" or "jwks""#
        );
        assert_eq!(
            reason(&None, Some(r#"{"generic": "a", "used_by": ["listeners/*"]}"#)),
            r#"found secrets/a, whose "used_by" does not name clusters/x, expected a secret that it may use"#
        );
    }

    #[test]
    fn another_shape_or_fewer_groups_are_laid_on_the_document_that_changed() {
        let of_named = |named| misfit(&None, Some(named)).unwrap().of_named;
        assert!(of_named(r#"{"api_keys": {"a": "0123456789abcdef"}}"#).is_some());
        assert!(of_named(r#"{"generic": "a", "groups": ["edge"]}"#).is_some());
        assert_eq!(of_named(r#"{"generic": "a", "used_by": []}"#), None);
    }

    #[test]
    fn users_look_at_shape_groups_and_right_of_use() {
        let alike = |old: &str, new: &str| looks_alike(Some(&secret(old)), Some(&secret(new)));
        assert!(alike(r#"{"generic": "a"}"#, r#"{"generic": "b"}"#));
        assert!(!alike(r#"{"generic": "a"}"#, r#"{"generic": "a", "groups": ["edge"]}"#));
        assert!(!alike(r#"{"generic": "a"}"#, r#"{"generic": "a", "used_by": []}"#));
        assert!(!looks_alike(None, Some(&secret(r#"{"generic": "a"}"#))));
    }
}
