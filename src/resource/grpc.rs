//! Routes for proxyless gRPC clients: the same documents in the part of xDS that gRPC understands.
//!
//! In: an [`Entry`] of a route in its form for Envoy. Out: the same entry for the RouteConfiguration of an API
//! listener. Clusters and endpoints need no translation: both kinds of clients take the same. [`warnings`] names the
//! fields that cannot be translated.
//!
//! A client refuses a whole RouteConfiguration for one Route that it does not understand, so no such Route may be in it
//! (measured on grpcio 1.85 and grpc-js-xds 1.14; docs/xds-rules.md PX-07):
//!
//! - A segment prefix becomes an exact path and a prefix: clients know neither `path_separated_prefix` nor URI
//!   templates.
//! - A call is a POST without a query: a condition on either always holds or never does. A Route that can never match
//!   is left out. Clients have no pseudo headers to compare.
//! - A redirect or a fixed response is left out: grpc-js refuses them, and `non_forwarding_action`, the form that gRPC
//!   has for them, ends its process.
//! - The timeout of a whole response becomes `max_stream_duration`.
//!
//! Fields that clients ignore (edits of headers, rewrites) are left out, so that a change of them changes nothing for
//! gRPC clients.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    WeightedCluster, weighted_cluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;

use super::table::Entry;
use super::{Resource, ResourceVersion};
use crate::proto::message::uint32;

pub mod warnings;

/// The method of every call.
const METHOD: &str = "POST";

/// The entry for an API listener. Even without any Route, the entry keeps its claim on its match.
#[must_use]
pub fn entry(entry: &Entry) -> Arc<Entry> {
    let routes = entry.routes.iter().flat_map(routes).collect();
    Arc::new(entry.with_routes(routes))
}

/// A path that no call has: a call's path has two slashes.
const NO_CALL: &str = "/";

/// The RouteConfiguration with a Route more in each virtual host, which no call matches and which names these clusters.
/// `None`: the body is no RouteConfiguration.
///
/// A client subscribes to a cluster when a RouteConfiguration names it, and builds its part of the client's balancer
/// from the answer.
#[must_use]
pub fn naming(routes: &Resource, clusters: &[Arc<str>]) -> Option<Resource> {
    let mut message = RouteConfiguration::decode(&*routes.body.to_bytes()).ok()?;
    let weighted = clusters.iter().map(|name| weighted_cluster::ClusterWeight {
        name: name.to_string(),
        weight: Some(uint32(1)),
        ..weighted_cluster::ClusterWeight::default()
    });

    let weighted = WeightedCluster {
        clusters: weighted.collect(),
        ..WeightedCluster::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path(NO_CALL.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
            ..RouteAction::default()
        })),
        ..Route::default()
    };

    for host in &mut message.virtual_hosts {
        host.routes.push(route.clone());
    }
    let body = message.encode_to_vec();
    Some(Resource {
        version: ResourceVersion::of(&body),
        body: body.into(),
        ..routes.clone()
    })
}

/// The encoded Routes for one of Envoy's Routes: none, one, or two.
fn routes(envoy: &Bytes) -> Vec<Bytes> {
    // Bytes that do not decode were not encoded here.
    let Ok(route) = Route::decode(envoy.clone()) else {
        return Vec::new();
    };

    let (Some(matches), Some(Action::Route(action))) = (route.r#match, route.action) else {
        return Vec::new();
    };

    let Some(headers) = conditions(matches.headers, &matches.query_parameters) else {
        return Vec::new();
    };

    let action = Action::Route(forward(action));
    let route = |path| Route {
        name: route.name.clone(),
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            headers: headers.clone(),
            ..RouteMatch::default()
        }),
        action: Some(action.clone()),
        ..Route::default()
    };

    paths(matches.path_specifier)
        .into_iter()
        .map(|path| route(path).encode_to_vec().into())
        .collect()
}

fn paths(envoy: Option<PathSpecifier>) -> Vec<PathSpecifier> {
    match envoy {
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            vec![
                PathSpecifier::Path(prefix.clone()),
                PathSpecifier::Prefix(format!("{prefix}/")),
            ]
        }
        Some(path @ (PathSpecifier::Path(_) | PathSpecifier::Prefix(_) | PathSpecifier::SafeRegex(_))) => vec![path],
        _ => Vec::new(),
    }
}

/// The conditions that a client can check; `None`: no call fulfils all of them.
fn conditions(headers: Vec<HeaderMatcher>, query: &[QueryParameterMatcher]) -> Option<Vec<HeaderMatcher>> {
    let absent = |parameter: &QueryParameterMatcher| {
        parameter.query_parameter_match_specifier == Some(QueryParameterMatchSpecifier::PresentMatch(false))
    };
    let (of_call, headers): (Vec<_>, Vec<_>) = headers.into_iter().partition(|header| header.name.starts_with(':'));
    let holds = query.iter().all(absent) && of_call.iter().all(holds_for_a_call);
    holds.then_some(headers)
}

/// Whether a condition on a pseudo header holds for every call. On `:path` it does: the condition there is that the
/// query lacks some parameter.
fn holds_for_a_call(header: &HeaderMatcher) -> bool {
    if header.name != ":method" {
        return true;
    }
    match &header.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(text)) => match &text.match_pattern {
            Some(MatchPattern::Exact(method)) => method == METHOD,
            Some(MatchPattern::SafeRegex(methods)) => methods.regex.split('|').any(|method| method == METHOD),
            _ => false,
        },
        _ => false,
    }
}

fn forward(action: RouteAction) -> RouteAction {
    let limited = action
        .timeout
        .filter(|timeout| timeout.seconds > 0 || timeout.nanos > 0);
    RouteAction {
        cluster_specifier: action.cluster_specifier,
        // gRPC picks endpoints itself and has no predicates.
        retry_policy: action.retry_policy.map(|policy| RetryPolicy {
            retry_host_predicate: Vec::new(),
            host_selection_retry_max_attempts: 0,
            ..policy
        }),
        hash_policy: action.hash_policy,
        max_stream_duration: limited.map(|timeout| MaxStreamDuration {
            max_stream_duration: Some(timeout),
            ..MaxStreamDuration::default()
        }),
        ..RouteAction::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Name;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::document::key::{DocumentKey, Kind};
    use crate::document::{Document, Limits, parse};
    use crate::proto::json::to_json;
    use crate::resource::compile::context::Context;
    use crate::resource::compile::translate::{self, Translated};

    /// The Routes of a document for gRPC clients.
    fn adapted(document: &Json) -> Vec<Json> {
        let key = DocumentKey::new(Kind::Routes, "echo");
        let parsed = parse(&key, document.to_string().as_bytes(), &Limits::default())
            .unwrap()
            .document;
        assert!(matches!(*parsed, Document::Route(_)));
        let made = translate::document(&Context::default(), &key, 0, &parsed).unwrap();
        let Translated::Route { entries, .. } = made else {
            panic!("a route")
        };
        let routes = entries.iter().flat_map(|one| entry(one).routes.to_vec());
        routes
            .map(|route| to_json(&Route::type_url(), &route).unwrap())
            .collect()
    }

    fn route(matches: Json, action: Json) -> Json {
        json!({ "@type": Route::type_url(), "name": "routes/echo", "match": matches, "route": action })
    }

    #[test]
    fn a_segment_prefix_is_an_exact_path_and_a_prefix() {
        let action = json!({ "cluster": "x", "max_stream_duration": { "max_stream_duration": "15s" } });
        let expected = [
            route(json!({ "path": "/echo.Echo" }), action.clone()),
            route(json!({ "prefix": "/echo.Echo/" }), action),
        ];
        assert_eq!(adapted(&json!({ "match": "/echo.Echo/*", "to": "x" })), expected);
    }

    #[test]
    fn a_call_is_a_post_without_a_query() {
        let taken = json!([{ "path": "/a/b", "methods": ["GET", "POST"], "query": { "v": { "present": false } } }]);
        let action = json!({ "cluster": "x", "max_stream_duration": { "max_stream_duration": "15s" } });
        assert_eq!(
            adapted(&json!({ "match": taken, "to": "x" })),
            [route(json!({ "path": "/a/b" }), action.clone())]
        );
        let unlike = json!([{ "path": "/a/b", "query": { "v": { "not": "1" } } }]);
        assert_eq!(
            adapted(&json!({ "match": unlike, "to": "x" })),
            [route(json!({ "path": "/a/b" }), action)]
        );
        for never in [
            json!({ "path": "/a/b", "methods": ["GET"] }),
            json!({ "path": "/a/b", "query": { "v": "1" } }),
        ] {
            assert_eq!(adapted(&json!({ "match": [never], "to": "x" })), [Json::Null; 0]);
        }
        assert_eq!(adapted(&json!({ "match": "/a/{id}", "to": "x" })), [Json::Null; 0]);
    }

    #[test]
    fn what_clients_know_stays_and_what_they_ignore_goes() {
        let document = json!({
            "match": { "grpc": "echo.Echo/Say", "headers": { "x-tenant": "a" } },
            "to": [{ "cluster": "x", "weight": 95 }, { "cluster": "y", "weight": 5 }],
            "retry": { "attempts": 2, "on": ["unavailable"] },
            "rewrite": { "host": "other" },
            "request_headers": { "set": { "x-from": "edge" } },
        });
        let expected = route(
            json!({ "path": "/echo.Echo/Say", "headers": [{ "name": "x-tenant", "string_match": { "exact": "a" } }] }),
            json!({
                "weighted_clusters": { "clusters": [{ "name": "x", "weight": 95 }, { "name": "y", "weight": 5 }] },
                "retry_policy": { "retry_on": "unavailable", "num_retries": 2 },
            }),
        );
        assert_eq!(adapted(&document), [expected]);
    }

    #[test]
    fn answers_of_envoys_own_are_left_out() {
        for to in [
            json!({ "redirect": { "host": "other" } }),
            json!({ "respond": { "status": 200 } }),
        ] {
            assert_eq!(adapted(&json!({ "match": "/a/b", "to": to })), [Json::Null; 0]);
        }
    }
}
