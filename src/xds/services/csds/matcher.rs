//! The node matchers of CSDS, which select the clients of a status request.

use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use regex::{Regex, RegexBuilder};

/// Matchers that one request may have.
const MATCHERS_MAX: usize = 100;
/// The largest compiled expression, in bytes.
const REGEX_MAX: usize = 1024 * 1024;

/// Node matchers, one of which must match. An empty list matches every client.
#[derive(Debug)]
pub(super) struct Matcher(Vec<Text>);

#[derive(Debug)]
enum Text {
    Any,
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(Regex),
}

impl Matcher {
    /// The matchers of a request.
    ///
    /// # Errors
    /// A matcher is not supported or not well formed: a sentence with its field path.
    pub(super) fn new(matchers: &[NodeMatcher]) -> Result<Self, String> {
        if matchers.len() > MATCHERS_MAX {
            return Err(format!(
                "node_matchers has {} entries, expected {MATCHERS_MAX} at most",
                matchers.len()
            ));
        }
        let parse = |(index, matcher): (usize, &NodeMatcher)| {
            Text::of_node(matcher).map_err(|(field, reason)| format!("node_matchers[{index}].{field}: {reason}"))
        };
        Ok(Self(matchers.iter().enumerate().map(parse).collect::<Result<_, _>>()?))
    }

    pub(super) fn matches(&self, node_id: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|text| text.matches(node_id))
    }
}

impl Text {
    fn of_node(matcher: &NodeMatcher) -> Result<Self, (&'static str, String)> {
        if !matcher.node_metadatas.is_empty() {
            return Err((
                "node_metadatas",
                "metadata is not kept, expected a match on node_id alone".to_owned(),
            ));
        }
        matcher.node_id.as_ref().map_or(Ok(Self::Any), |text| {
            Self::new(text).map_err(|reason| ("node_id", reason))
        })
    }

    fn new(matcher: &StringMatcher) -> Result<Self, String> {
        let insensitive = matcher.ignore_case;
        let text = |text: &String| {
            if insensitive {
                text.to_ascii_lowercase()
            } else {
                text.clone()
            }
        };

        let some = |given: &String| {
            if given.is_empty() {
                Err("the text is empty, expected some".to_owned())
            } else {
                Ok(text(given))
            }
        };

        match matcher.match_pattern.as_ref() {
            Some(MatchPattern::Exact(given)) => Ok(Self::Exact(text(given), insensitive)),
            Some(MatchPattern::Prefix(given)) => Ok(Self::Prefix(some(given)?, insensitive)),
            Some(MatchPattern::Suffix(given)) => Ok(Self::Suffix(some(given)?, insensitive)),
            Some(MatchPattern::Contains(given)) => Ok(Self::Contains(some(given)?, insensitive)),
            Some(MatchPattern::SafeRegex(regex)) => whole(&regex.regex).map(Self::Regex),
            Some(MatchPattern::Custom(_)) => Err(
                "custom matchers are not supported, expected exact, prefix, suffix, contains or safe_regex".to_owned(),
            ),
            None => Err("no pattern is set, expected exact, prefix, suffix, contains or safe_regex".to_owned()),
        }
    }

    fn matches(&self, node_id: &str) -> bool {
        let text = |insensitive: bool| {
            if insensitive {
                node_id.to_ascii_lowercase()
            } else {
                node_id.to_owned()
            }
        };
        match self {
            Self::Any => true,
            Self::Exact(own, insensitive) => text(*insensitive) == *own,
            Self::Prefix(own, insensitive) => text(*insensitive).starts_with(own),
            Self::Suffix(own, insensitive) => text(*insensitive).ends_with(own),
            Self::Contains(own, insensitive) => text(*insensitive).contains(own),
            Self::Regex(regex) => regex.is_match(node_id),
        }
    }
}

/// An expression that must match the whole text, as Envoy's do.
fn whole(regex: &str) -> Result<Regex, String> {
    // Parsed without the group around it first: a surplus bracket must not close that group.
    regex_syntax::parse(regex).map_err(|error| format!("not a regular expression: {error}"))?;
    RegexBuilder::new(&format!(r"\A(?:{regex})\z"))
        .size_limit(REGEX_MAX)
        .build()
        .map_err(|error| format!("not a regular expression of acceptable size: {error}"))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StructMatcher};

    use super::*;

    fn node_id(pattern: MatchPattern, ignore_case: bool) -> NodeMatcher {
        let node_id = Some(StringMatcher {
            ignore_case,
            match_pattern: Some(pattern),
        });
        NodeMatcher {
            node_id,
            ..NodeMatcher::default()
        }
    }

    fn regex(regex: &str) -> MatchPattern {
        MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.to_owned(),
            ..RegexMatcher::default()
        })
    }

    fn matched(matchers: &[NodeMatcher]) -> Vec<&'static str> {
        let matcher = Matcher::new(matchers).unwrap();
        ["edge-1", "edge-2", "Edge-1", "core-1"]
            .into_iter()
            .filter(|id| matcher.matches(id))
            .collect()
    }

    #[test]
    fn every_pattern_matches_what_it_should() {
        let text = |text: &str| text.to_owned();
        assert_eq!(matched(&[]), ["edge-1", "edge-2", "Edge-1", "core-1"]);
        assert_eq!(matched(&[NodeMatcher::default()]).len(), 4);
        assert_eq!(
            matched(&[node_id(MatchPattern::Exact(text("edge-1")), false)]),
            ["edge-1"]
        );
        assert_eq!(
            matched(&[node_id(MatchPattern::Exact(text("EDGE-1")), true)]),
            ["edge-1", "Edge-1"]
        );
        assert_eq!(
            matched(&[node_id(MatchPattern::Prefix(text("edge")), false)]),
            ["edge-1", "edge-2"]
        );
        assert_eq!(
            matched(&[node_id(MatchPattern::Suffix(text("-1")), false)]),
            ["edge-1", "Edge-1", "core-1"]
        );
        assert_eq!(
            matched(&[node_id(MatchPattern::Contains(text("DGE")), true)]),
            ["edge-1", "edge-2", "Edge-1"]
        );
        assert_eq!(
            matched(&[node_id(regex("edge|core-1"), false)]),
            ["core-1"],
            "the whole text"
        );
        let either = [MatchPattern::Exact(text("core-1")), regex("[eE]dge-1")];
        assert_eq!(
            matched(&either.map(|pattern| node_id(pattern, false))),
            ["edge-1", "Edge-1", "core-1"]
        );
    }

    #[test]
    fn an_unsupported_matcher_is_refused_with_its_field_path() {
        let sentence = |matcher: NodeMatcher| Matcher::new(&[NodeMatcher::default(), matcher]).unwrap_err();
        let metadata = NodeMatcher {
            node_metadatas: vec![StructMatcher::default()],
            ..NodeMatcher::default()
        };
        assert!(sentence(metadata).starts_with("node_matchers[1].node_metadatas: "));
        let none = NodeMatcher {
            node_id: Some(StringMatcher::default()),
            ..NodeMatcher::default()
        };
        assert!(sentence(none).starts_with("node_matchers[1].node_id: no pattern"));
        for bad in ["a)|(?:b", "(", r"\p{L}{1000}{1000}"] {
            let said = sentence(node_id(regex(bad), false));
            assert!(
                said.starts_with("node_matchers[1].node_id: not a regular expression"),
                "{said}"
            );
        }
        assert!(sentence(node_id(MatchPattern::Prefix(String::new()), false)).contains("empty"));
        assert!(
            Matcher::new(&vec![NodeMatcher::default(); 101])
                .unwrap_err()
                .contains("100 at most")
        );
    }
}
