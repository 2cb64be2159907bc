//! Conditions on method, headers and query parameters.
//!
//! What Envoy does and this relies on (seen on 1.40):
//!
//! - A header that is missing fulfils no condition, an inverted one neither. Here `not` is the plain opposite, so a
//!   missing header must fulfil it: with `not` it counts as an empty one.
//! - Conditions on query parameters cannot be inverted. `not` becomes an inverted regex for `:path`, which holds the
//!   query as well: no parameter of that name has such a value. Regexes have no such opposite and are refused there.
//! - Parameters are compared as sent, percent-encoded.
//! - A regex may have a program of 100 instructions, about one a character. Several methods are one regex; beyond
//!   [`REGEX_LITERAL`] characters they are several entries.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use crate::document::Rejection;
use crate::document::route::{Rule, StringMatch};

/// Most bytes of a regex of methods, so that its program stays well below 100 instructions.
const REGEX_LITERAL: usize = 60;
/// Most bytes of name and value in a regex for the query, which has some 30 instructions besides.
const INVERTED_LITERAL: usize = 50;

/// The conditions of a match, path and method aside.
pub(super) struct Conditions {
    headers: Vec<HeaderMatcher>,
    query_parameters: Vec<QueryParameterMatcher>,
}

impl Conditions {
    /// The `RouteMatch` with these conditions, a path and perhaps a condition on the method.
    pub(super) fn with(&self, path: PathSpecifier, method: Option<HeaderMatcher>) -> RouteMatch {
        RouteMatch {
            path_specifier: Some(path),
            headers: method.into_iter().chain(self.headers.iter().cloned()).collect(),
            query_parameters: self.query_parameters.clone(),
            ..RouteMatch::default()
        }
    }
}

/// The conditions of a rule.
///
/// # Errors
/// An empty prefix, suffix or part, which Envoy refuses; an inverted condition on a query parameter that is a regex or
/// too long.
pub(super) fn conditions(rule: &Rule) -> Result<Conditions, Rejection> {
    let mut headers = Vec::new();
    for (name, condition) in &rule.matches.headers {
        headers.push(header(name, Test::of(condition, &place(rule, "headers", name))?));
    }
    let mut query_parameters = Vec::new();
    for (name, condition) in &rule.matches.query {
        let place = place(rule, "query", name);
        match Test::of(condition, &place)? {
            Test::Value {
                pattern,
                inverted: true,
            } => headers.push(no_parameter(&place, name, &pattern)?),
            Test::Value {
                pattern,
                inverted: false,
            } => {
                let specifier = QueryParameterMatchSpecifier::StringMatch(string(pattern));
                query_parameters.push(query_parameter(name, specifier));
            }
            Test::Present(present) => {
                query_parameters.push(query_parameter(
                    name,
                    QueryParameterMatchSpecifier::PresentMatch(present),
                ));
            }
        }
    }
    Ok(Conditions {
        headers,
        query_parameters,
    })
}

fn place(rule: &Rule, field: &str, name: &str) -> String {
    let dot = if rule.place.is_empty() { "" } else { "." };
    format!("{}{dot}{field}.{name}", rule.place)
}

/// A condition as Envoy knows them.
enum Test {
    /// There, or not there.
    Present(bool),
    /// Its value is like this, or is not.
    Value { pattern: MatchPattern, inverted: bool },
}

impl Test {
    fn of(condition: &StringMatch, place: &str) -> Result<Self, Rejection> {
        let pattern = match condition {
            StringMatch::Not(inner) => {
                return Ok(match Self::of(inner, place)? {
                    Self::Present(present) => Self::Present(!present),
                    Self::Value { pattern, inverted } => Self::Value {
                        pattern,
                        inverted: !inverted,
                    },
                });
            }
            StringMatch::Present(present) => return Ok(Self::Present(*present)),
            StringMatch::Prefix(text) | StringMatch::Suffix(text) | StringMatch::Contains(text) if text.is_empty() => {
                let reason = "found an empty text, expected at least one character (for any value, \"present\": true)";
                return Err(Rejection::new(place, reason));
            }
            StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
            StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
            StringMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
            StringMatch::Contains(text) => MatchPattern::Contains(text.clone()),
            StringMatch::Regex(text) => regex(text.clone()),
        };
        Ok(Self::Value {
            pattern,
            inverted: false,
        })
    }
}

/// The conditions on the method that together take any of these; one that is absent takes every method.
pub(super) fn methods(methods: &[String]) -> Vec<Option<HeaderMatcher>> {
    if methods.is_empty() {
        return vec![None];
    }
    let mut alternatives: Vec<String> = Vec::new();
    for method in methods {
        match alternatives.last_mut() {
            Some(last) if last.len() + 1 + method.len() <= REGEX_LITERAL => *last = format!("{last}|{method}"),
            _ => alternatives.push(method.clone()),
        }
    }
    let pattern = |text: String| {
        if text.contains('|') {
            regex(text)
        } else {
            MatchPattern::Exact(text)
        }
    };
    let matcher = |text| {
        header(
            ":method",
            Test::Value {
                pattern: pattern(text),
                inverted: false,
            },
        )
    };
    alternatives.into_iter().map(|text| Some(matcher(text))).collect()
}

fn header(name: &str, test: Test) -> HeaderMatcher {
    let (specifier, inverted) = match test {
        Test::Present(present) => (HeaderMatchSpecifier::PresentMatch(present), false),
        Test::Value { pattern, inverted } => (HeaderMatchSpecifier::StringMatch(string(pattern)), inverted),
    };
    HeaderMatcher {
        name: name.to_owned(),
        invert_match: inverted,
        treat_missing_header_as_empty: inverted,
        header_match_specifier: Some(specifier),
    }
}

fn query_parameter(name: &str, specifier: QueryParameterMatchSpecifier) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// "No parameter of this name has such a value", as a condition on `:path`.
///
/// The query is searched byte by byte (`\C`): characters would cost ten times as many instructions.
fn no_parameter(place: &str, name: &str, pattern: &MatchPattern) -> Result<HeaderMatcher, Rejection> {
    let escape = |text: &String| regex_syntax::escape(text);
    let (length, value) = match pattern {
        MatchPattern::Exact(text) if text.is_empty() => (0, "=?".to_owned()),
        MatchPattern::Exact(text) => (text.len(), format!("={}", escape(text))),
        MatchPattern::Prefix(text) => (text.len(), format!("={}[^&]*", escape(text))),
        MatchPattern::Suffix(text) => (text.len(), format!("=[^&]*{}", escape(text))),
        MatchPattern::Contains(text) => (text.len(), format!("=[^&]*{}[^&]*", escape(text))),
        _ => {
            let reason =
                "found a regex in \"not\", which Envoy cannot invert on a query parameter, expected another condition";
            return Err(Rejection::new(place, reason));
        }
    };
    let length = name.len() + length;
    if length > INVERTED_LITERAL {
        let reason =
            format!("found \"not\" with {length} bytes of name and value, expected at most {INVERTED_LITERAL}");
        return Err(Rejection::new(place, reason));
    }
    let pattern = regex(format!("[^?]*\\?(\\C*&)?{}{value}(&\\C*)?", regex_syntax::escape(name)));
    let matcher = header(
        ":path",
        Test::Value {
            pattern,
            inverted: true,
        },
    );
    Ok(HeaderMatcher {
        treat_missing_header_as_empty: false,
        ..matcher
    })
}

fn regex(pattern: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher {
        regex: pattern,
        ..RegexMatcher::default()
    })
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::Route;
    use prost::{Message, Name};
    use serde_json::{Value as Json, json};

    use crate::document::route::{Action, HostPattern, Match, PathMatch, Respond, Rewrite, Settings};
    use crate::proto::json::to_json;

    use super::*;

    fn rule(headers: &[(&str, StringMatch)], query: &[(&str, StringMatch)]) -> Rule {
        let owned = |list: &[(&str, StringMatch)]| {
            list.iter()
                .map(|(name, condition)| ((*name).to_owned(), condition.clone()))
                .collect()
        };
        Rule {
            place: "match[0]".into(),
            matches: Match {
                hosts: vec![HostPattern::Any],
                path: PathMatch::Prefix(String::new()),
                methods: Vec::new(),
                headers: owned(headers),
                query: owned(query),
                grpc: false,
            },
            action: Action::Respond(Respond {
                status: 200,
                body: None,
                headers: Default::default(),
            }),
            rewrite: Rewrite::default(),
            settings: Settings::default(),
            enabled: true,
        }
    }

    fn shown(headers: &[(&str, StringMatch)], query: &[(&str, StringMatch)]) -> Json {
        let conditions = conditions(&rule(headers, query)).unwrap();
        let matches = conditions.with(PathSpecifier::Prefix("/".into()), None);
        let route = Route {
            r#match: Some(matches),
            ..Route::default()
        };
        to_json(&Route::type_url(), &route.encode_to_vec()).unwrap()["match"].clone()
    }

    fn not(condition: StringMatch) -> StringMatch {
        StringMatch::Not(Box::new(condition))
    }

    fn refused(query: &[(&str, StringMatch)]) -> String {
        conditions(&rule(&[], query)).err().unwrap().to_string()
    }

    #[test]
    fn header_conditions_become_matchers_and_a_missing_header_fulfils_not() {
        let conditions = [
            ("x-exact", StringMatch::Exact("a".into())),
            ("x-regex", StringMatch::Regex("a+".into())),
            ("x-there", StringMatch::Present(true)),
            ("x-not", not(StringMatch::Suffix("a".into()))),
            ("x-away", not(StringMatch::Present(true))),
        ];
        let expected = json!([
            { "name": "x-exact", "string_match": { "exact": "a" } },
            { "name": "x-regex", "string_match": { "safe_regex": { "regex": "a+" } } },
            { "name": "x-there", "present_match": true },
            { "name": "x-not", "string_match": { "suffix": "a" }, "invert_match": true, "treat_missing_header_as_empty": true },
            { "name": "x-away", "present_match": false },
        ]);
        assert_eq!(shown(&conditions, &[])["headers"], expected);
    }

    #[test]
    fn query_conditions_become_matchers_and_not_looks_at_the_whole_path() {
        let conditions = [
            ("a", StringMatch::Prefix("x".into())),
            ("b", StringMatch::Present(false)),
            ("c", not(StringMatch::Exact("1.5".into()))),
            ("d", not(StringMatch::Contains("y".into()))),
        ];
        let expected = json!({
            "prefix": "/",
            "query_parameters": [
                { "name": "a", "string_match": { "prefix": "x" } },
                { "name": "b", "present_match": false },
            ],
            "headers": [
                { "name": ":path", "invert_match": true,
                  "string_match": { "safe_regex": { "regex": "[^?]*\\?(\\C*&)?c=1\\.5(&\\C*)?" } } },
                { "name": ":path", "invert_match": true,
                  "string_match": { "safe_regex": { "regex": "[^?]*\\?(\\C*&)?d=[^&]*y[^&]*(&\\C*)?" } } },
            ],
        });
        assert_eq!(shown(&[], &conditions), expected);
    }

    #[test]
    fn what_envoy_cannot_say_is_refused_with_its_place() {
        assert_eq!(
            refused(&[("v", not(StringMatch::Regex("a".into())))]),
            "match[0].query.v: found a regex in \"not\", which Envoy cannot invert on a query parameter, expected another condition"
        );
        assert_eq!(
            refused(&[("v", not(StringMatch::Exact("a".repeat(50))))]),
            "match[0].query.v: found \"not\" with 51 bytes of name and value, expected at most 50"
        );
        assert_eq!(
            refused(&[("v", StringMatch::Prefix(String::new()))]),
            "match[0].query.v: found an empty text, expected at least one character (for any value, \"present\": true)"
        );
    }

    #[test]
    fn methods_are_one_condition_until_the_regex_is_full() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let patterns = |list: &[&str]| -> Vec<_> {
            let pattern = |matcher: HeaderMatcher| match matcher.header_match_specifier {
                Some(HeaderMatchSpecifier::StringMatch(matcher)) => matcher.match_pattern.unwrap(),
                other => panic!("{other:?}"),
            };
            methods(&names(list))
                .into_iter()
                .map(|matcher| matcher.map(pattern))
                .collect()
        };
        assert_eq!(patterns(&[]), [None]);
        assert_eq!(patterns(&["GET"]), [Some(MatchPattern::Exact("GET".into()))]);
        assert_eq!(patterns(&["GET", "POST"]), [Some(regex("GET|POST".into()))]);
        let long = ["A".repeat(30), "B".repeat(30), "C".repeat(30)];
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(patterns(&long).len(), 3);
    }
}
