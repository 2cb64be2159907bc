//! The path's part in the order of entries: which of two paths is matched first (docs/documents/routes.md, Order).
//!
//! In: a path, the older forms resolved. Out: a [`PathRank`]; the lower one is matched first.
//!
//! 1. exact paths;
//! 2. templates without `{x=**}`: more literal segments first, then the longer literal text;
//! 3. regexes, the longer first;
//! 4. segment prefixes and templates that end in `{x=**}`: the longer literal beginning first, at equal length the
//!    prefix.

use std::cmp::Reverse;

use crate::document::route::PathMatch;

/// The rank of a path among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathRank {
    class: u8,
    longer_first: Reverse<usize>,
    then: Reverse<usize>,
}

impl PathRank {
    /// The rank of this path.
    #[must_use]
    pub(crate) fn of(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(_) | PathMatch::Legacy(_) => Self::new(0, 0, 0),
            PathMatch::Template(template) => Self::of_template(template),
            PathMatch::Regex(regex) => Self::new(2, regex.len(), 0),
            PathMatch::Prefix(prefix) => Self::new(3, prefix.len(), 1),
        }
    }

    fn new(class: u8, longer_first: usize, then: usize) -> Self {
        Self {
            class,
            longer_first: Reverse(longer_first),
            then: Reverse(then),
        }
    }

    fn of_template(template: &str) -> Self {
        if template.ends_with("**}") {
            let beginning = template.split('{').next().unwrap_or_default();
            return Self::new(3, beginning.trim_end_matches('/').len(), 0);
        }

        let literals = template.split('/').filter(|segment| !segment.starts_with('{'));
        let literals: Vec<&str> = literals.filter(|segment| !segment.is_empty()).collect();
        Self::new(1, literals.len(), literals.iter().map(|segment| segment.len()).sum())
    }
}

/// A template whose variables have no names: equal for two templates that match the same paths.
#[must_use]
pub(crate) fn without_names(template: &str) -> String {
    let segments = template.split('/').map(|segment| {
        if segment.ends_with("=**}") {
            "{**}"
        } else if segment.starts_with('{') {
            "{*}"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_the_order_of_the_contract() {
        let template = |text: &str| PathMatch::Template(text.into());
        let regex = |text: &str| PathMatch::Regex(text.into());
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        let ordered = [
            PathMatch::Exact("/a".into()),
            template("/a/{x}/bcd"),
            template("/a/{x}/b"),
            template("/abc/{x}"),
            template("/a/{x}"),
            template("/{x}/{y}"),
            regex("/a/.*"),
            regex("/.*"),
            prefix("/a/b"),
            template("/a/b/{x=**}"),
            prefix("/a"),
            template("/a/{rest=**}"),
            prefix(""),
            template("/{x}/b/{rest=**}"),
        ];

        let ranks: Vec<PathRank> = ordered.iter().map(PathRank::of).collect();
        for (pair, paths) in ranks.windows(2).zip(ordered.windows(2)) {
            assert!(pair[0] < pair[1], "{paths:?}");
        }
    }

    #[test]
    fn templates_that_differ_in_names_alone_are_equal_without_them() {
        assert_eq!(without_names("/a/{id}/{x=*}/{rest=**}"), "/a/{*}/{*}/{**}");
        assert_eq!(without_names("/a/{id}"), without_names("/a/{name=*}"));
        assert_ne!(without_names("/a/{id}"), without_names("/a/{id=**}"));
    }
}
