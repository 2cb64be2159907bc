//! The match of one Route: path, headers, query parameters.

use std::sync::OnceLock;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, Route};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;
use regex::bytes::{Regex, RegexBuilder};

use super::request::Seen;
use crate::document::route::path::template_regex;

/// A matcher that this server never writes: the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("found a matcher in {0} that this server does not write")]
pub struct Unknown(&'static str);

/// A condition of a Route that a request does not fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unmet<'c> {
    /// The path.
    Path,
    /// The header of this name; `:method` is one.
    Header(&'c str),
    /// The query parameter of this name.
    Parameter(&'c str),
}

/// The conditions of one Route, in a form for fast matching.
#[derive(Debug)]
pub struct Conditions {
    path: Path,
    headers: Vec<Header>,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Segments(String),
    Regex {
        /// The text with which each path begins.
        beginning: String,
        pattern: String,
        /// Compiled when a path with the beginning comes; `None`: the pattern is no regex.
        regex: OnceLock<Option<Regex>>,
    },
}

/// The paths that a Route may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths<'a> {
    /// This path alone.
    One(&'a str),
    /// Some of the paths with this beginning.
    Beginning(&'a str),
}

#[derive(Debug)]
struct Header {
    name: String,
    test: Test,
    inverted: bool,
    missing_is_empty: bool,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present(bool),
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Conditions {
    /// The conditions of a Route.
    ///
    /// # Errors
    /// A matcher that this server does not write.
    pub fn of(route: &Route) -> Result<Self, Unknown> {
        let matches = route.r#match.as_ref().ok_or(Unknown("match"))?;
        let parameters = matches.query_parameters.iter().map(Parameter::new);
        Ok(Self {
            path: Path::new(matches.path_specifier.as_ref())?,
            headers: matches.headers.iter().map(Header::new).collect::<Result<_, _>>()?,
            parameters: parameters.collect::<Result<_, _>>()?,
        })
    }

    /// The paths that the Route may take.
    #[must_use]
    pub fn paths(&self) -> Paths<'_> {
        match &self.path {
            Path::Exact(path) => Paths::One(path),
            Path::Prefix(beginning) | Path::Segments(beginning) | Path::Regex { beginning, .. } => {
                Paths::Beginning(beginning)
            }
        }
    }

    /// Whether the Route takes a request.
    #[must_use]
    pub fn hold(&self, request: &Seen) -> bool {
        self.first_unmet(request).is_none()
    }

    /// The first condition that a request does not fulfil: the path, then headers, then query parameters.
    #[must_use]
    pub fn first_unmet(&self, request: &Seen) -> Option<Unmet<'_>> {
        if !self.path.takes(request.path()) {
            return Some(Unmet::Path);
        }
        if let Some(header) = self.headers.iter().find(|header| !header.holds(request)) {
            return Some(Unmet::Header(&header.name));
        }
        let fails = |parameter: &&Parameter| !parameter.test.holds(request.parameter(&parameter.name));
        let parameter = self.parameters.iter().find(fails)?;
        Some(Unmet::Parameter(&parameter.name))
    }
}

impl Path {
    fn new(specifier: Option<&PathSpecifier>) -> Result<Self, Unknown> {
        Ok(match specifier {
            Some(PathSpecifier::Path(path)) => Self::Exact(path.clone()),
            Some(PathSpecifier::Prefix(prefix)) => Self::Prefix(prefix.clone()),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Self::Segments(prefix.clone()),
            Some(PathSpecifier::SafeRegex(regex)) => Self::Regex {
                beginning: String::new(),
                pattern: regex.regex.clone(),
                regex: OnceLock::new(),
            },
            Some(PathSpecifier::PathMatchPolicy(policy)) => {
                let config = policy.typed_config.as_ref().ok_or(Unknown("path_match_policy"))?;
                let config =
                    UriTemplateMatchConfig::decode(&*config.value).map_err(|_| Unknown("path_match_policy"))?;
                let beginning = config.path_template.split(['{', '*']).next().unwrap_or_default();
                Self::Regex {
                    beginning: beginning.to_owned(),
                    pattern: template_regex(&config.path_template),
                    regex: OnceLock::new(),
                }
            }
            Some(PathSpecifier::ConnectMatcher(_)) | None => return Err(Unknown("path_specifier")),
        })
    }

    fn takes(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Segments(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex {
                beginning,
                pattern,
                regex,
            } => {
                let is_match = || {
                    let regex = regex.get_or_init(|| whole(pattern).ok());
                    regex.as_ref().is_some_and(|regex| regex.is_match(path.as_bytes()))
                };
                path.starts_with(beginning.as_str()) && is_match()
            }
        }
    }
}

/// A regex for a whole text, byte by byte as Envoy's RE2.
fn whole(pattern: &str) -> Result<Regex, Unknown> {
    RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .unicode(false)
        .build()
        .map_err(|_| Unknown("safe_regex"))
}

impl Header {
    fn new(matcher: &HeaderMatcher) -> Result<Self, Unknown> {
        Ok(Self {
            name: matcher.name.clone(),
            test: match &matcher.header_match_specifier {
                Some(HeaderMatchSpecifier::StringMatch(string)) => Test::new(string)?,
                Some(HeaderMatchSpecifier::PresentMatch(present)) => Test::Present(*present),
                _ => return Err(Unknown("headers")),
            },
            inverted: matcher.invert_match,
            missing_is_empty: matcher.treat_missing_header_as_empty,
        })
    }

    fn holds(&self, request: &Seen) -> bool {
        let values: Vec<&str> = match &*self.name {
            ":method" => vec![&request.method],
            ":path" => vec![&request.target],
            name => {
                let of_name = request.headers.iter().filter(|(other, _)| *other == name);
                of_name.map(|(_, value)| value.as_str()).collect()
            }
        };
        match (&self.test, values.is_empty()) {
            (Test::Present(_), missing) => self.test.holds((!missing).then_some("")) != self.inverted,
            (_, true) if self.missing_is_empty => self.test.holds(Some("")) != self.inverted,
            (_, true) => false,
            (test, false) => values.iter().any(|value| test.holds(Some(value))) != self.inverted,
        }
    }
}

impl Parameter {
    fn new(matcher: &QueryParameterMatcher) -> Result<Self, Unknown> {
        Ok(Self {
            name: matcher.name.clone(),
            test: match &matcher.query_parameter_match_specifier {
                Some(QueryParameterMatchSpecifier::StringMatch(string)) => Test::new(string)?,
                Some(QueryParameterMatchSpecifier::PresentMatch(present)) => Test::Present(*present),
                None => return Err(Unknown("query_parameters")),
            },
        })
    }
}

impl Test {
    fn new(string: &StringMatcher) -> Result<Self, Unknown> {
        Ok(match &string.match_pattern {
            Some(MatchPattern::Exact(text)) => Self::Exact(text.clone()),
            Some(MatchPattern::Prefix(text)) => Self::Prefix(text.clone()),
            Some(MatchPattern::Suffix(text)) => Self::Suffix(text.clone()),
            Some(MatchPattern::Contains(text)) => Self::Contains(text.clone()),
            Some(MatchPattern::SafeRegex(regex)) => Self::Regex(whole(&regex.regex)?),
            Some(MatchPattern::Custom(_)) | None => return Err(Unknown("string_match")),
        })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Present(false));
        };
        match self {
            Self::Present(present) => *present,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
            Self::Contains(text) => value.contains(text),
            Self::Regex(regex) => regex.is_match(value.as_bytes()),
        }
    }
}
