//! The route that takes a request: Envoy's answer, computed on a compiled RouteConfiguration.
//!
//! In: a RouteConfiguration in its form for Envoy, and a raw request. Out: the first Route that matches, or the reason
//! why none does. The order of routes is that of the configuration. The listener is assumed to be one of this server
//! ([`super::super::listeners`]): the path is normalised, the port and a final dot of Host are ignored.
//!
//! `tests/golden/parity.rs` compares the answers with a real Envoy. Only matchers that [`super::entries`] writes are
//! known.

use std::borrow::Cow;
use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;
use regex::bytes::{Regex, RegexBuilder};

use crate::document::route::path::seen_by_envoy;

/// A request as sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`
    pub method: &'a str,
    /// The Host header, with or without a port.
    pub host: &'a str,
    /// The target: a path, with or without a query.
    pub target: &'a str,
    /// The other headers in their order, names in lower case; a name may occur several times.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Envoy's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// Envoy answers 400 before it looks for a route.
    Malformed,
    /// Envoy answers 404.
    NoRoute,
    /// The route takes the request.
    Route(&'a Route),
}

/// A RouteConfiguration in a form for fast matching.
#[derive(Debug)]
pub struct Matcher {
    /// Virtual hosts by domain, in lower case.
    hosts: BTreeMap<String, Vec<Candidate>>,
}

/// A matcher that this server never writes: the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("found a matcher in {0} that this server does not write")]
pub struct Unknown(&'static str);

#[derive(Debug)]
struct Candidate {
    route: Route,
    path: Path,
    headers: Vec<Header>,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Segments(String),
    Regex(Regex),
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

impl Matcher {
    /// Reads a RouteConfiguration.
    ///
    /// # Errors
    /// A matcher that this server does not write.
    pub fn new(configuration: &RouteConfiguration) -> Result<Self, Unknown> {
        let mut hosts = BTreeMap::new();
        for host in &configuration.virtual_hosts {
            for domain in &host.domains {
                let candidates = host.routes.iter().map(Candidate::new).collect::<Result<_, _>>()?;
                hosts.insert(domain.to_ascii_lowercase(), candidates);
            }
        }
        Ok(Self { hosts })
    }

    /// Envoy's answer to a request.
    #[must_use]
    pub fn outcome(&self, request: &Request<'_>) -> Outcome<'_> {
        match self.candidates(request) {
            None => Outcome::Malformed,
            Some(routes) => routes.first().map_or(Outcome::NoRoute, |first| Outcome::Route(first)),
        }
    }

    /// All routes that match a request, in order: the first takes the request. `None`: Envoy answers 400.
    #[must_use]
    pub fn candidates(&self, request: &Request<'_>) -> Option<Vec<&Route>> {
        let (path, query) = seen_by_envoy(request.target)?;
        let target = format!("{path}{query}");
        let parameters = first_values(query);

        let candidates = self.virtual_host(request.host).unwrap_or_default().iter();
        let matching = candidates.filter(|candidate| candidate.takes(request, &path, &target, &parameters));
        Some(matching.map(|candidate| &candidate.route).collect())
    }

    /// The routes of the host's own domain, else of the longest wildcard, else of `*`.
    fn virtual_host(&self, host: &str) -> Option<&[Candidate]> {
        let host = without_port_and_dot(host).to_ascii_lowercase();
        if let Some(own) = self.hosts.get(&host) {
            return Some(own);
        }
        let suffixes = host
            .char_indices()
            .filter(|(index, letter)| *index > 0 && *letter == '.');
        let mut wildcards = suffixes.map(|(index, _)| format!("*{}", &host[index..]));
        wildcards
            .find_map(|wildcard| self.hosts.get(&wildcard))
            .or_else(|| self.hosts.get("*"))
            .map(Vec::as_slice)
    }
}

/// Host as Envoy compares it: `a.example.com` of `a.example.com.:8080`.
fn without_port_and_dot(host: &str) -> &str {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// The first value of each query parameter, as sent; `query` is empty or begins with its question mark.
fn first_values(query: &str) -> BTreeMap<&str, &str> {
    let mut values = BTreeMap::new();
    for parameter in query.strip_prefix('?').unwrap_or_default().split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        values.entry(name).or_insert(value);
    }
    values
}

impl Candidate {
    fn new(route: &Route) -> Result<Self, Unknown> {
        let matches = route.r#match.as_ref().ok_or(Unknown("match"))?;
        Ok(Self {
            route: route.clone(),
            path: Path::new(matches.path_specifier.as_ref())?,
            headers: matches.headers.iter().map(Header::new).collect::<Result<_, _>>()?,
            parameters: matches
                .query_parameters
                .iter()
                .map(Parameter::new)
                .collect::<Result<_, _>>()?,
        })
    }

    fn takes(&self, request: &Request<'_>, path: &str, target: &str, parameters: &BTreeMap<&str, &str>) -> bool {
        self.path.takes(path)
            && self.headers.iter().all(|header| header.holds(request, target))
            && self
                .parameters
                .iter()
                .all(|parameter| parameter.test.holds(parameters.get(&*parameter.name).copied()))
    }
}

impl Path {
    fn new(specifier: Option<&PathSpecifier>) -> Result<Self, Unknown> {
        Ok(match specifier {
            Some(PathSpecifier::Path(path)) => Self::Exact(path.clone()),
            Some(PathSpecifier::Prefix(prefix)) => Self::Prefix(prefix.clone()),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Self::Segments(prefix.clone()),
            Some(PathSpecifier::SafeRegex(regex)) => Self::Regex(whole(&regex.regex)?),
            Some(PathSpecifier::PathMatchPolicy(policy)) => {
                let config = policy.typed_config.as_ref().ok_or(Unknown("path_match_policy"))?;
                let config =
                    UriTemplateMatchConfig::decode(&*config.value).map_err(|_| Unknown("path_match_policy"))?;
                Self::Regex(whole(&template(&config.path_template))?)
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
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

/// A URI template as a regex. Envoy's variables match every character except brackets, and `**` matches slashes, too.
fn template(template: &str) -> String {
    let segments = template.split('/').map(|segment| {
        if segment.ends_with("=**}") {
            Cow::Borrowed(r"[^\[\]]*")
        } else if segment.starts_with('{') {
            Cow::Borrowed(r"[^/\[\]]+")
        } else {
            Cow::Owned(regex_syntax::escape(segment))
        }
    });
    segments.collect::<Vec<_>>().join("/")
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

    fn holds(&self, request: &Request<'_>, target: &str) -> bool {
        let values: Vec<&str> = match &*self.name {
            ":method" => vec![request.method],
            ":path" => vec![target],
            name => {
                let of_name = request.headers.iter().filter(|(other, _)| *other == name);
                of_name.map(|(_, value)| value.trim_matches([' ', '\t'])).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_port_and_final_dot() {
        for host in [
            "a.example.com",
            "a.example.com.",
            "a.example.com:80",
            "a.example.com.:80",
        ] {
            assert_eq!(without_port_and_dot(host), "a.example.com");
        }
        assert_eq!(without_port_and_dot("[2001:db8::3]"), "[2001:db8::3]");
        assert_eq!(without_port_and_dot("[2001:db8::3]:80"), "[2001:db8::3]");
    }

    #[test]
    fn the_first_of_repeated_parameters_counts() {
        let values = first_values("?v=2&v=1&w&=3");
        assert_eq!(values, BTreeMap::from([("", "3"), ("v", "2"), ("w", "")]));
    }
}
