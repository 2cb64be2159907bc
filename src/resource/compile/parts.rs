//! The parts of a resource that is made of many documents.
//!
//! Thousands of routes become one RouteConfiguration. After a change of it, two questions are asked. Which documents
//! differ from before? A NACK of the change is about one of these. Which clusters do they newly name? These must be
//! warm first. The map is persistent: keeping it and comparing two costs what changed.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::document::key::{DocumentKey, Kind};
use crate::resource::{Resource, ResourceVersion};

/// The part of one document in a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Differs when the text differs; of routes, the `mod_revision`.
    pub revision: i64,
    /// The clusters that it names. Sorted.
    pub upstreams: Arc<[Arc<str>]>,
}

/// The parts of every document of one resource.
pub type Parts = OrdMap<DocumentKey, Part>;

/// The documents in which `new` differs from `old`.
///
/// All documents, if `old` is `None` or the resource is not made of many. If no text changed, the change is one of
/// `defaults`, which holds for all of them.
#[must_use]
pub fn changed(old: Option<&Resource>, new: &Resource) -> Vec<DocumentKey> {
    let Some(parts) = &new.parts else {
        return new.documents.clone();
    };
    let Some(old) = old.and_then(|old| old.parts.as_ref()) else {
        return parts.keys().cloned().collect();
    };
    let changed: Vec<DocumentKey> = old
        .diff(parts)
        .filter_map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } => Some(key.clone()),
            DiffItem::Remove(..) => None,
        })
        .collect();

    if changed.is_empty() {
        vec![DocumentKey::new(Kind::Defaults, "")]
    } else {
        changed
    }
}

/// The clusters that a document of `new` names and did not name in `old`. Sorted, unique.
#[must_use]
pub fn newly_named(old: &Resource, new: &Resource) -> Vec<Arc<str>> {
    let (Some(old), Some(new)) = (&old.parts, &new.parts) else {
        return Vec::new();
    };

    let mut named: Vec<Arc<str>> = Vec::new();
    for item in old.diff(new) {
        match item {
            DiffItem::Add(_, part) => named.extend(part.upstreams.iter().cloned()),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => {
                named.extend(
                    new.upstreams
                        .iter()
                        .filter(|name| old.upstreams.binary_search(name).is_err())
                        .cloned(),
                );
            }
            DiffItem::Remove(..) => {}
        }
    }

    named.sort_unstable();
    named.dedup();
    named
}

/// Whether `new` differs from `old` by parts that are gone, and by nothing else.
#[must_use]
pub fn only_removed(old: &Resource, new: &Resource) -> bool {
    let (Some(old), Some(new)) = (&old.parts, &new.parts) else {
        return false;
    };
    let mut differences = old.diff(new).peekable();
    differences.peek().is_some() && differences.all(|item| matches!(item, DiffItem::Remove(..)))
}

/// The parts of a resource that one xds document has.
#[must_use]
pub fn verbatim(key: &DocumentKey, version: ResourceVersion, upstreams: Arc<[Arc<str>]>) -> Parts {
    let bytes = version.0.to_be_bytes();
    let revision = bytes
        .iter()
        .fold(0_i64, |sum, byte| sum.rotate_left(8) ^ i64::from(*byte));
    OrdMap::unit(key.clone(), Part { revision, upstreams })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(parts: &[(&str, i64, &[&str])]) -> Resource {
        let part = |revision, upstreams: &[&str]| Part {
            revision,
            upstreams: upstreams.iter().map(|name| Arc::from(*name)).collect(),
        };
        let parts = parts
            .iter()
            .map(|(name, revision, upstreams)| (DocumentKey::new(Kind::Routes, *name), part(*revision, upstreams)));
        Resource {
            parts: Some(Arc::new(parts.collect())),
            ..Resource::new("edge", "", Vec::new())
        }
    }

    fn names(keys: &[DocumentKey]) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_other_than_before_is_named() {
        let old = resource(&[("a", 1, &["x"]), ("b", 1, &["x", "y"]), ("gone", 1, &["z"])]);
        let new = resource(&[("a", 1, &["x"]), ("b", 2, &["y", "n"]), ("c", 3, &["m", "x"])]);
        assert_eq!(names(&changed(Some(&old), &new)), ["routes/b", "routes/c"]);
        assert_eq!(newly_named(&old, &new), ["m".into(), "n".into(), "x".into()]);
    }

    #[test]
    fn parts_that_are_gone_are_known() {
        let old = resource(&[("a", 1, &[]), ("b", 1, &[])]);
        for (parts, expected) in [
            (&[("a", 1, &[][..])][..], true),
            (&[("a", 1, &[]), ("b", 1, &[])], false),
            (&[("a", 2, &[])], false),
            (&[("a", 1, &[]), ("c", 1, &[])], false),
        ] {
            assert_eq!(only_removed(&old, &resource(parts)), expected, "{parts:?}");
        }
    }

    #[test]
    fn a_change_of_no_text_is_one_of_the_defaults() {
        let one = resource(&[("a", 1, &["x"])]);
        assert_eq!(names(&changed(Some(&one), &one)), ["defaults"]);
        assert_eq!(names(&changed(None, &one)), ["routes/a"]);
        assert_eq!(newly_named(&one, &one), Vec::<Arc<str>>::new());
    }
}
