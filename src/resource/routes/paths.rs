//! Paths: the matcher of a rule's path, and the replacement of the matched part.
//!
//! A replacement follows docs/documents/routes.md: it takes the place of the matched part, and the rest starts with one
//! slash. If the replacement has no trailing slash, Envoy's `prefix_rewrite` does exactly that after a segment prefix
//! (`/v1/orders` → `/orders`: `/v1/orders/7` becomes `/orders/7`). The other cases, seen on Envoy 1.40:
//!
//! - `/` instead of a segment prefix would give `//7`, and a regex rewrite is bounded by RE2's program size. So there
//!   are two matches: the prefix itself, exact, and everything below it, each replaced by `/`.
//! - `/*` is matched as the prefix `/`. Its replacement must end with a slash (`/orders/`), or `/7` becomes `/orders7`.
//! - An exact path or a regex is replaced whole, as written.
//! - A URI template refuses `prefix_rewrite`, in a rewrite and in a redirect. A whole path in a format string takes its
//!   place, percent signs doubled.
//!
//! The query stays in every case.

use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;

use crate::document::defaults::LegacyPath;
use crate::document::route::PathMatch;
use crate::proto::message::extension;

/// One matcher of a path, and the rewrite of the path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    pub(super) specifier: PathSpecifier,
    pub(super) replacement: Replacement,
}

/// The rewrite of a matched path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replacement {
    /// No rewrite.
    None,
    /// `prefix_rewrite`
    Prefix(String),
    /// `path_rewrite`, in Envoy's format.
    Path(String),
}

/// The variants of a path, neighbours in this order: one, or two if the replacement needs it.
pub(super) fn variants(path: &PathMatch, legacy_path: LegacyPath, replacement: Option<&str>) -> Vec<Variant> {
    let whole = || replacement.map_or(Replacement::None, |text| Replacement::Prefix(text.to_owned()));
    let one = |specifier, replacement| vec![Variant { specifier, replacement }];
    match (path, legacy_path) {
        (PathMatch::Exact(path), _) | (PathMatch::Legacy(path), LegacyPath::Exact) => {
            one(PathSpecifier::Path(path.clone()), whole())
        }
        (PathMatch::Prefix(prefix), _) | (PathMatch::Legacy(prefix), LegacyPath::Prefix) => segment_prefix(
            prefix.trim_end_matches('/'),
            replacement.map(|text| text.trim_end_matches('/')),
        ),
        (PathMatch::Regex(regex), _) => {
            let matcher = RegexMatcher {
                regex: regex.clone(),
                ..RegexMatcher::default()
            };
            one(PathSpecifier::SafeRegex(matcher), whole())
        }
        (PathMatch::Template(template), _) => {
            let config = UriTemplateMatchConfig {
                path_template: template.clone(),
            };
            let policy = extension("envoy.path.match.uri_template.uri_template_matcher", &config);
            let escaped = replacement.map(|text| Replacement::Path(escaped(text)));
            one(
                PathSpecifier::PathMatchPolicy(policy),
                escaped.unwrap_or(Replacement::None),
            )
        }
    }
}

/// A path as a format string of `path_rewrite`.
pub(super) fn escaped(path: &str) -> String {
    path.replace('%', "%%")
}

/// `prefix` and `replacement` without a trailing slash.
fn segment_prefix(prefix: &str, replacement: Option<&str>) -> Vec<Variant> {
    let variant = |specifier, replacement: Option<String>| Variant {
        specifier,
        replacement: replacement.map_or(Replacement::None, Replacement::Prefix),
    };
    let slash = || "/".to_owned();
    match (prefix, replacement) {
        ("", _) => vec![variant(
            PathSpecifier::Prefix(slash()),
            replacement.map(|text| format!("{text}/")),
        )],
        (_, Some("")) => vec![
            variant(PathSpecifier::Path(prefix.to_owned()), Some(slash())),
            variant(PathSpecifier::Prefix(format!("{prefix}/")), Some(slash())),
        ],
        _ => vec![variant(
            PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
            replacement.map(str::to_owned),
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(specifier: PathSpecifier, replacement: &str) -> Variant {
        Variant {
            specifier,
            replacement: Replacement::Prefix(replacement.into()),
        }
    }

    fn of(path: PathMatch, replacement: Option<&str>) -> Vec<Variant> {
        variants(&path, LegacyPath::Exact, replacement)
    }

    #[test]
    fn a_trailing_slash_of_a_prefix_replacement_makes_no_difference() {
        let expected = [prefix(
            PathSpecifier::PathSeparatedPrefix("/v1/orders".into()),
            "/orders",
        )];
        assert_eq!(of(PathMatch::Prefix("/v1/orders".into()), Some("/orders/")), expected);
        assert_eq!(of(PathMatch::Prefix("/v1/orders".into()), Some("/orders")), expected);
    }

    #[test]
    fn a_prefix_replaced_by_a_slash_takes_two_matches() {
        let expected = [
            prefix(PathSpecifier::Path("/v1/orders".into()), "/"),
            prefix(PathSpecifier::Prefix("/v1/orders/".into()), "/"),
        ];
        assert_eq!(of(PathMatch::Prefix("/v1/orders".into()), Some("/")), expected);
    }

    #[test]
    fn everything_is_replaced_with_a_slash_at_the_end() {
        let expected = [prefix(PathSpecifier::Prefix("/".into()), "/orders/")];
        assert_eq!(of(PathMatch::Prefix(String::new()), Some("/orders")), expected);
        let same = [prefix(PathSpecifier::Prefix("/".into()), "/")];
        assert_eq!(of(PathMatch::Prefix(String::new()), Some("/")), same);
    }

    #[test]
    fn exact_paths_and_regexes_are_replaced_as_written() {
        let exact = [prefix(PathSpecifier::Path("/a".into()), "/b/")];
        assert_eq!(of(PathMatch::Exact("/a".into()), Some("/b/")), exact);
        let matcher = RegexMatcher {
            regex: "/a+".into(),
            ..RegexMatcher::default()
        };
        assert_eq!(
            of(PathMatch::Regex("/a+".into()), Some("/b")),
            [prefix(PathSpecifier::SafeRegex(matcher), "/b")]
        );
    }

    #[test]
    fn a_template_is_replaced_by_a_format_string() {
        let variants = of(PathMatch::Template("/a/{id}".into()), Some("/b%20c"));
        assert_eq!(variants.len(), 1);
        assert_eq!(variants[0].replacement, Replacement::Path("/b%%20c".into()));
        let plain = of(PathMatch::Template("/a/{id}".into()), None);
        assert_eq!(plain[0].replacement, Replacement::None);
    }

    #[test]
    fn an_older_forms_path_is_exact_or_a_prefix() {
        let legacy = |mode, path: &str| {
            variants(&PathMatch::Legacy(path.into()), mode, None)[0]
                .specifier
                .clone()
        };
        assert_eq!(legacy(LegacyPath::Exact, "/v1/"), PathSpecifier::Path("/v1/".into()));
        assert_eq!(
            legacy(LegacyPath::Prefix, "/v1/"),
            PathSpecifier::PathSeparatedPrefix("/v1".into())
        );
        assert_eq!(legacy(LegacyPath::Prefix, "/"), PathSpecifier::Prefix("/".into()));
    }
}
