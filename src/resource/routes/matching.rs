//! Conditions on method, headers and query parameters.
//!
//! Facts about Envoy that this relies on (seen on 1.40):
//!
//! - Each value of a repeated header is compared alone: a condition holds if one value fulfils it, an inverted
//!   condition if none does.
//! - A missing header fulfils no condition, and no inverted one, unless it counts as empty. Here `not` is the exact
//!   opposite, so a missing header must fulfil it. If the empty value does not fulfil it (`not` of `""` or of a regex
//!   that matches the empty text), the rule has two alternatives: the header is missing, or the header exists and does
//!   not match.
//! - Of a repeated query parameter the first value is compared. Parameters are compared as sent, percent-encoded.
//! - Conditions on query parameters cannot be inverted. `not` becomes an inverted regex for `:path`, which includes the
//!   query: the first parameter of that name has no such value. A long name makes a program beyond RE2's limit; such a
//!   condition is rejected.
//! - A regex may have a program of 100 instructions, about one a character. Several methods are one regex; above
//!   [`REGEX_LITERAL`] characters they become several entries.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use crate::document::Rejection;
use crate::document::regex::{may_match_nothing, program_size};
use crate::document::route::{Rule, StringMatch};

/// Most bytes of a regex of methods, so that its program stays well below 100 instructions.
const REGEX_LITERAL: usize = 60;
/// The largest RE2 program that Envoy accepts by default.
const MAX_PROGRAM: u32 = 100;
/// Most conditions of a rule that need two alternatives each.
const MAX_DOUBLED: usize = 4;

/// The conditions of a match, without path and method.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    headers: Vec<HeaderMatcher>,
    query_parameters: Vec<QueryParameterMatcher>,
}

/// One condition in Envoy's form.
#[derive(Debug, Clone, PartialEq)]
enum Choice {
    Header(HeaderMatcher),
    Parameter(QueryParameterMatcher),
}

impl Conditions {
    /// These conditions and one more.
    fn and(&self, choice: &Choice) -> Self {
        let mut both = self.clone();
        match choice {
            Choice::Header(header) => both.headers.push(header.clone()),
            Choice::Parameter(parameter) => both.query_parameters.push(parameter.clone()),
        }
        both
    }

    /// The `RouteMatch` with these conditions, a path, and a condition on the method if there is one.
    pub(super) fn with(&self, path: PathSpecifier, method: Option<HeaderMatcher>) -> RouteMatch {
        RouteMatch {
            path_specifier: Some(path),
            headers: method.into_iter().chain(self.headers.iter().cloned()).collect(),
            query_parameters: self.query_parameters.clone(),
            ..RouteMatch::default()
        }
    }
}

/// The conditions of a rule: any of the alternatives may hold; usually there is one.
///
/// # Errors
/// An empty prefix, suffix or part, which Envoy refuses; an inverted condition on a query parameter whose regex is too
/// large; too many inverted conditions that the empty value does not fulfil.
pub(super) fn alternatives(rule: &Rule) -> Result<Vec<Conditions>, Rejection> {
    let mut written = Vec::new();
    for (name, condition) in &rule.matches.headers {
        let place = place(rule, "headers", name);
        let test = Test::of(condition, &place)?;
        written.push((place, header_choices(name, test)));
    }

    for (name, condition) in &rule.matches.query {
        let place = place(rule, "query", name);
        let test = Test::of(condition, &place)?;
        let choices = parameter_choices(&place, name, test)?;
        written.push((place, choices));
    }

    let mut alternatives = vec![Conditions::default()];
    for (place, choices) in written {
        if alternatives.len() * choices.len() > 1 << MAX_DOUBLED {
            let reason = format!(
                "found more than {MAX_DOUBLED} conditions with \"not\" that take two entries each, \
                 expected at most {MAX_DOUBLED}"
            );
            return Err(Rejection::new(place, reason));
        }
        alternatives = alternatives
            .iter()
            .flat_map(|before| choices.iter().map(|choice| before.and(choice)))
            .collect();
    }

    Ok(alternatives)
}

fn place(rule: &Rule, field: &str, name: &str) -> String {
    let dot = if rule.place.is_empty() { "" } else { "." };
    format!("{}{dot}{field}.{name}", rule.place)
}

/// A condition in Envoy's form.
enum Test {
    /// The header exists, or does not exist.
    Present(bool),
    /// The value matches, or does not match.
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

/// The conditions on the method that together match any of these; none for every method.
pub(in crate::resource) fn methods(methods: &[String]) -> Vec<Option<HeaderMatcher>> {
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

/// The matchers of a test on a header; any of them may hold.
fn header_choices(name: &str, test: Test) -> Vec<Choice> {
    let empty_fulfils = match &test {
        Test::Value {
            pattern: MatchPattern::Exact(text),
            inverted: true,
        } => text.is_empty(),
        Test::Value {
            pattern: MatchPattern::SafeRegex(regex),
            inverted: true,
        } => may_match_nothing(&regex.regex),
        Test::Present(_) | Test::Value { .. } => false,
    };

    let matcher = header(name, test);
    if !empty_fulfils {
        return vec![Choice::Header(matcher)];
    }

    let there_but_other = HeaderMatcher {
        treat_missing_header_as_empty: false,
        ..matcher
    };

    [header(name, Test::Present(false)), there_but_other]
        .map(Choice::Header)
        .into()
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

/// The matchers of a test on a query parameter; any of them may hold.
///
/// # Errors
/// A "not" that needs a larger regex than Envoy accepts.
fn parameter_choices(place: &str, name: &str, test: Test) -> Result<Vec<Choice>, Rejection> {
    let one = |specifier| Ok(vec![Choice::Parameter(query_parameter(name, specifier))]);
    let pattern = match test {
        Test::Present(present) => return one(QueryParameterMatchSpecifier::PresentMatch(present)),
        Test::Value {
            pattern,
            inverted: false,
        } => return one(QueryParameterMatchSpecifier::StringMatch(string(pattern))),
        Test::Value { pattern, .. } => pattern,
    };

    if let Some(matcher) = other_first_value(place, name, &pattern)? {
        return Ok(vec![Choice::Header(matcher)]);
    }

    // The name is long. If the value is short, the parameter is missing or has another value.
    if let MatchPattern::Exact(text) = &pattern {
        let other = other_than(text, b"", b"", "[!-~]*");
        if fits(&other) {
            let choices = [
                QueryParameterMatchSpecifier::PresentMatch(false),
                QueryParameterMatchSpecifier::StringMatch(string(regex(other))),
            ];
            return Ok(choices
                .map(|specifier| Choice::Parameter(query_parameter(name, specifier)))
                .into());
        }
    }

    let reason = "found \"not\" of a name and a value that are too long for Envoy to invert (its limit of RE2 \
                  programs), expected shorter ones, or a second route without \"not\"";
    Err(Rejection::new(place, reason))
}

fn fits(pattern: &str) -> bool {
    program_size(pattern).is_ok_and(|size| size <= MAX_PROGRAM)
}

fn query_parameter(name: &str, specifier: QueryParameterMatchSpecifier) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// "The first parameter of this name has no such value, or there is none", as a condition on `:path`; `None`: the regex
/// would be too large.
///
/// The regex expresses the opposite: parameters of other names, then this one with such a value. Classes list the
/// printable characters that they match: no others arrive, and negated classes have more instructions.
fn other_first_value(place: &str, name: &str, pattern: &MatchPattern) -> Result<Option<HeaderMatcher>, Rejection> {
    let escape = |text: &String| regex_syntax::escape(text);
    let any = "[!-%'-~]*";
    let value = match pattern {
        MatchPattern::Exact(text) if text.is_empty() => "=?".to_owned(),
        MatchPattern::Exact(text) => format!("={}", escape(text)),
        MatchPattern::Prefix(text) => format!("={}{any}", escape(text)),
        MatchPattern::Suffix(text) => format!("={any}{}", escape(text)),
        MatchPattern::Contains(text) => format!("={any}{}{any}", escape(text)),
        _ => {
            let reason =
                "found a regex in \"not\", which Envoy cannot invert on a query parameter, expected another condition";
            return Err(Rejection::new(place, reason));
        }
    };

    // After a name comes only "=" or the end of the parameter.
    let others = other_than(name, b"&", b"=&", any);
    let pattern = format!(
        "[!->@-~]*\\?(?:{others}&)*{}{value}(?:&[!-~]*)?",
        regex_syntax::escape(name)
    );

    if !fits(&pattern) {
        return Ok(None);
    }

    let test = Test::Value {
        pattern: regex(pattern),
        inverted: true,
    };

    Ok(Some(HeaderMatcher {
        treat_missing_header_as_empty: false,
        ..header(":path", test)
    }))
}

/// A regex for a text other than this one: the text is shorter, or one letter differs, or the text continues with a
/// character that is not in `after`; then `rest` follows. None has any of `separators`.
fn other_than(text: &str, separators: &[u8], after: &[u8], rest: &str) -> String {
    let mut differs = without(after);
    let mut stops = String::new();
    for (index, byte) in text.bytes().enumerate().rev() {
        let letter = regex_syntax::escape(&char::from(byte).to_string());
        differs = format!("(?:{}|{letter}{differs})", without(&[&[byte], separators].concat()));
        if index + 1 < text.len() {
            stops = format!("(?:{letter}{stops})?");
        }
    }
    match text {
        "" => format!("{differs}{rest}"),
        _ => format!("(?:{differs}{rest}|{stops})"),
    }
}

/// A class of all printable characters but these.
fn without(excluded: &[u8]) -> String {
    let mut class = String::from("[");
    let mut first: Option<u8> = None;
    for byte in b'!'..=0x7f {
        let inside = byte < 0x7f && !excluded.contains(&byte);
        match (first, inside) {
            (None, true) => first = Some(byte),
            (Some(from), false) => {
                class.push_str(&format!("\\x{from:02x}-\\x{:02x}", byte - 1));
                first = None;
            }
            _ => {}
        }
    }
    class.push(']');
    class
}

pub(in crate::resource) fn regex(pattern: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher {
        regex: pattern,
        ..RegexMatcher::default()
    })
}

pub(in crate::resource) fn string(pattern: MatchPattern) -> StringMatcher {
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
            mirrors: Vec::new(),
            settings: Settings::default(),
            policies: crate::document::policy::Items::default(),
            enabled: true,
        }
    }

    fn shown(headers: &[(&str, StringMatch)], query: &[(&str, StringMatch)]) -> Json {
        let alternatives = alternatives(&rule(headers, query)).unwrap();
        let matches = alternatives[0].with(PathSpecifier::Prefix("/".into()), None);
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
        alternatives(&rule(&[], query)).err().unwrap().to_string()
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
                  "string_match": { "safe_regex": { "regex": format!("[!->@-~]*\\?(?:{}&)*c=1\\.5(?:&[!-~]*)?", other_than("c", b"&", b"=&", "[!-%'-~]*")) } } },
                { "name": ":path", "invert_match": true,
                  "string_match": { "safe_regex": { "regex": format!("[!->@-~]*\\?(?:{}&)*d=[!-%'-~]*y[!-%'-~]*(?:&[!-~]*)?", other_than("d", b"&", b"=&", "[!-%'-~]*")) } } },
            ],
        });
        assert_eq!(shown(&[], &conditions), expected);
    }

    #[test]
    fn what_envoy_cannot_say_is_refused_with_its_place() {
        assert_eq!(
            refused(&[("v", not(StringMatch::Regex("a".into())))]),
            "match[0].query.v: found a regex in \"not\", which Envoy cannot invert on a query parameter, \
             expected another condition"
        );
        let long = refused(&[("v", not(StringMatch::Exact("a".repeat(90))))]);
        assert!(long.contains("too long for Envoy to invert"), "{long}");
        assert_eq!(
            refused(&[("v", StringMatch::Prefix(String::new()))]),
            "match[0].query.v: found an empty text, expected at least one character (for any value, \"present\": true)"
        );
    }

    #[test]
    fn not_of_what_the_empty_value_fulfils_is_two_alternatives() {
        let long = [("a-long-name", not(StringMatch::Exact("beta".into())))];
        assert_eq!(alternatives(&rule(&[], &long)).unwrap().len(), 2);
        let of = |condition| alternatives(&rule(&[("x-a", not(condition))], &[])).unwrap();
        let both = of(StringMatch::Exact(String::new()));
        assert_eq!(both.len(), 2);
        assert_eq!(both[0].headers, [header("x-a", Test::Present(false))]);
        assert!(both[1].headers[0].invert_match && !both[1].headers[0].treat_missing_header_as_empty);
        assert_eq!(of(StringMatch::Regex("a*".into())).len(), 2);
        assert_eq!(of(StringMatch::Regex("a+".into())).len(), 1);
        assert_eq!(of(StringMatch::Exact("a".into())).len(), 1);

        let empty = || not(StringMatch::Exact(String::new()));
        let five = ["a", "b", "c", "d", "e"].map(|name| (name, empty()));
        assert!(alternatives(&rule(&five, &[])).is_err());
        assert_eq!(alternatives(&rule(&five[..4], &[])).unwrap().len(), 16);
    }

    #[test]
    fn a_regex_for_other_names_takes_all_but_the_name() {
        let others = other_than("ab", b"&", b"=&", "[!-%'-~]*");
        let others = ::regex::Regex::new(&format!("^(?:{others})$")).unwrap();
        for other in ["", "a", "a=1", "b", "abc", "abc=1", "=ab", "b=ab", "aab", "AB=1"] {
            assert!(others.is_match(other), "{other}");
        }
        for same in ["ab", "ab=", "ab=1", "a&", "x&ab=1"] {
            assert!(!others.is_match(same), "{same}");
        }
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
