//! The effect of a Route on a request: the clusters that may get it and what they see of it, or Envoy's own answer.

use std::borrow::Cow;

use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteAction};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use regex::bytes::RegexBuilder;

use super::request::{Seen, port_start, without_port};

/// The host of a request whose Host becomes the upstream's name.
pub const AUTO: &str = "auto";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effect {
    /// The clusters that may get the request: those of a weight above 0. Sorted, unique.
    pub clusters: Vec<String>,
    /// The status of a redirect or a fixed response.
    pub status: Option<u32>,
    /// The `location` of a redirect.
    pub redirect: Option<String>,
    /// Host as the upstream sees it; [`AUTO`]: the upstream's name.
    pub host: Option<String>,
    /// Path and query as the upstream sees them.
    pub path: Option<String>,
}

impl Effect {
    /// The effect of a route on a request that it takes. `scheme` is `http` or `https`, as the listener has it.
    #[must_use]
    pub fn of(route: &Route, seen: &Seen, scheme: &str) -> Self {
        match &route.action {
            Some(Action::Route(action)) => Self {
                clusters: clusters(action),
                host: Some(host(action, seen)),
                path: Some(path(route, action, seen)),
                ..Self::default()
            },
            Some(Action::Redirect(redirect)) => Self {
                status: Some(code(redirect)),
                redirect: Some(location(route, redirect, seen, scheme)),
                ..Self::default()
            },
            Some(Action::DirectResponse(response)) => Self {
                status: Some(response.status),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// Envoy's own answer.
    #[must_use]
    pub fn of_status(status: u32) -> Self {
        Self {
            status: Some(status),
            ..Self::default()
        }
    }
}

fn clusters(action: &RouteAction) -> Vec<String> {
    let mut names = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name.clone()],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let has_weight = |weight: &Option<_>| {
                weight
                    .as_ref()
                    .is_some_and(|weight: &envoy_types::pb::google::protobuf::UInt32Value| weight.value > 0)
            };
            let shares = weighted.clusters.iter().filter(|share| has_weight(&share.weight));
            shares.map(|share| share.name.clone()).collect()
        }
        _ => Vec::new(),
    };
    names.sort();
    names.dedup();
    names
}

fn host(action: &RouteAction, seen: &Seen) -> String {
    match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(name)) => name.clone(),
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if auto.value => AUTO.to_owned(),
        _ => seen.authority.clone(),
    }
}

fn path(route: &Route, action: &RouteAction, seen: &Seen) -> String {
    let path = if !action.path_rewrite.is_empty() {
        unescaped(&action.path_rewrite)
    } else if let Some(rewrite) = &action.regex_rewrite {
        substituted(rewrite, seen.path())
    } else if !action.prefix_rewrite.is_empty() {
        with_prefix(route, &action.prefix_rewrite, seen)
    } else {
        seen.path().to_owned()
    };
    format!("{path}{}", seen.query())
}

/// The matched part of the path replaced. Only a prefix leaves a rest.
fn with_prefix(route: &Route, prefix: &str, seen: &Seen) -> String {
    let matched = match route
        .r#match
        .as_ref()
        .and_then(|matches| matches.path_specifier.as_ref())
    {
        Some(PathSpecifier::Prefix(matched) | PathSpecifier::PathSeparatedPrefix(matched)) => matched.len(),
        _ => seen.path().len(),
    };
    format!("{prefix}{}", seen.path().get(matched..).unwrap_or_default())
}

/// A format string of `path_rewrite`; ours have no commands.
fn unescaped(format: &str) -> String {
    format.replace("%%", "%")
}

/// Every match replaced, as RE2 does.
fn substituted(rewrite: &RegexMatchAndSubstitute, path: &str) -> String {
    let pattern = rewrite.pattern.as_ref().map(|pattern| pattern.regex.as_str());
    let regex = RegexBuilder::new(pattern.unwrap_or_default()).unicode(false).build();
    // A pattern that RE2 takes and this crate does not: the checks of documents let none pass.
    let Ok(regex) = regex else { return path.to_owned() };
    let replacement = replacement(&rewrite.substitution);
    let replaced = regex.replace_all(path.as_bytes(), replacement.as_bytes());
    String::from_utf8_lossy(&replaced).into_owned()
}

/// `${1}` of `\1`; a dollar sign is doubled.
fn replacement(substitution: &str) -> String {
    let mut text = String::with_capacity(substitution.len());
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => text.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    text.push_str("${");
                    text.push(digit);
                    text.push('}');
                }
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

fn code(redirect: &RedirectAction) -> u32 {
    match redirect.response_code() {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    }
}

fn location(route: &Route, redirect: &RedirectAction, seen: &Seen, scheme: &str) -> String {
    let new_scheme = match &redirect.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme.as_str(),
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https",
        _ => scheme,
    };
    let host = match redirect.host_redirect.as_str() {
        "" => kept_host(&seen.authority, scheme, new_scheme, redirect.port_redirect > 0),
        host => host,
    };
    let port = match redirect.port_redirect {
        0 => String::new(),
        port => format!(":{port}"),
    };
    let path = match &redirect.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.contains('?') => Cow::Borrowed(path.as_str()),
        Some(PathRewriteSpecifier::PathRedirect(path)) => Cow::Owned(format!("{path}{}", seen.query())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            Cow::Owned(format!("{}{}", with_prefix(route, prefix, seen), seen.query()))
        }
        Some(PathRewriteSpecifier::PathRewrite(path)) => Cow::Owned(format!("{}{}", unescaped(path), seen.query())),
        _ => Cow::Borrowed(seen.target.as_str()),
    };
    format!("{new_scheme}://{host}{port}{path}")
}

/// The request's host: without its port if the redirect has one, or if the port is the old scheme's own.
fn kept_host<'h>(host: &'h str, scheme: &str, new_scheme: &str, has_port: bool) -> &'h str {
    let own = match scheme {
        "https" => ":443",
        _ => ":80",
    };
    let is_own = port_start(host).is_some_and(|colon| &host[colon..] == own);
    match has_port || (scheme != new_scheme && is_own) {
        true => without_port(host),
        false => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_substitution_has_groups_by_number() {
        assert_eq!(replacement(r"/\1/$x\\\0"), r"/${1}/$$x\${0}");
        let rewrite = RegexMatchAndSubstitute {
            pattern: Some(envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher {
                regex: "/([^/]+)".into(),
                ..Default::default()
            }),
            substitution: r"\1/$".into(),
        };
        assert_eq!(substituted(&rewrite, "/a/b"), "a/$b/$");
    }

    #[test]
    fn the_port_of_the_old_scheme_goes_with_it() {
        assert_eq!(kept_host("a:80", "http", "https", false), "a");
        assert_eq!(kept_host("a:8080", "http", "https", false), "a:8080");
        assert_eq!(kept_host("a:80", "http", "http", false), "a:80");
        assert_eq!(kept_host("[::1]:8080", "http", "http", true), "[::1]");
    }
}
