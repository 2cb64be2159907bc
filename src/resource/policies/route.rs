//! Routes with policies of their own: the encoded Routes of an entry, changed.
//!
//! In: the Routes of a rule without policies, and the policies that hold for its targets. Out: the Routes with the
//! filters that differ from those of the listener, preflights for cors, and the answer of `maintenance`.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteMatch, WeightedCluster, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;

use super::{Chains, PerFilter, append_all, conditions};
use crate::document::policy::app::Maintenance;
use crate::document::route::StringMatch;
use crate::proto::message::append;
use crate::proto::structs;
use crate::resource::routes::header_option;
use crate::resource::routes::matching::{methods, string};

/// The number of `Route.typed_per_filter_config`.
const OF_ROUTE: u32 = 13;
/// The number of `ClusterWeight.typed_per_filter_config`.
const OF_WEIGHT: u32 = 10;
/// The number of `Route.route`.
const ACTION: u32 = 2;
/// The number of `RouteAction.weighted_clusters`.
const WEIGHTED: u32 = 3;
/// The number of `WeightedCluster.clusters`.
const CLUSTERS: u32 = 1;
/// The header of a preflight with the method of the request that follows.
const REQUEST_METHOD: &str = "access-control-request-method";

/// The number of `Route.metadata`.
const METADATA_OF_ROUTE: u32 = 4;
/// The number of `Metadata.filter_metadata`.
const FILTER_METADATA: u32 = 1;
/// The part of a route's metadata that filters of policies read.
pub(super) const METADATA: &str = "chancery";
/// The name of the rate limit of a route.
pub(super) const POLICY_KEY: &str = "rate_limit";
/// The document of the route.
pub(super) const ROUTE_KEY: &str = "route";
/// The header with the client.
pub(super) const CLIENT_KEY: &str = "client";

/// The name of the generated route that answers requests without a route.
pub const NOT_FOUND: &str = "chancery/not-found";
/// The name of the generated routes for callback and logout.
pub const LOGIN: &str = "chancery/oidc";

/// The policies that hold for a rule on a listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RulePolicies<'a> {
    /// The filters of the listener.
    pub listener: Option<&'a Chains>,
    /// The filters for each target in the order of the rule; one for a rule without targets.
    pub targets: Vec<Chains>,
    /// The answer that replaces the action.
    pub maintenance: Option<&'a Maintenance>,
    /// Preflights for these methods are answered by a filter, and the match does not take them.
    pub preflights: Option<&'a [String]>,
    /// The metadata for filters that count requests.
    pub counted: Option<Counted>,
}

/// The metadata of a route whose requests are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The name of its rate limit; `None`: a service counts.
    pub rate_limit: Option<String>,
    /// The document of the route.
    pub route: String,
    /// The header with the client, if the rate limit is by it.
    pub client: Option<String>,
}

impl Counted {
    /// Put the metadata into an encoded Route.
    fn append_to(&self, route: &mut Vec<u8>) {
        let limit = self.rate_limit.iter().map(|name| (POLICY_KEY, name));
        let client = self.client.iter().map(|header| (CLIENT_KEY, header));
        let fields = limit
            .chain(client)
            .chain([(ROUTE_KEY, &self.route)])
            .map(|(key, text)| {
                let value = structs::Value {
                    kind: Some(structs::Kind::String(text.clone())),
                };
                (key.to_owned(), value)
            });
        let fields = structs::Struct {
            fields: fields.collect(),
        };
        let mut entry = Vec::new();
        append(&mut entry, 1, METADATA.as_bytes());
        append(&mut entry, 2, &fields.encode_to_vec());
        let mut metadata = Vec::new();
        append(&mut metadata, FILTER_METADATA, &entry);
        append(route, METADATA_OF_ROUTE, &metadata);
    }
}

/// The encoded Routes of a rule with its policies, in two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policed {
    /// With everything.
    pub given: Arc<[Bytes]>,
    /// For a proxy that may not have secrets; `None`: the same.
    pub withheld: Option<Arc<[Bytes]>>,
    /// The bytes of the policies in the Routes.
    pub policy_bytes: usize,
}

/// The encoded Routes of a rule with its policies.
#[must_use]
pub fn with_policies(routes: &[Bytes], policies: &RulePolicies<'_>) -> Policed {
    let (given, policy_bytes) = in_form(routes, policies, false);
    let has_secrets = |chains: &Chains| chains.withheld.is_some();
    let has_secrets = policies.listener.is_some_and(has_secrets) || policies.targets.iter().any(has_secrets);
    let withheld = has_secrets.then(|| in_form(routes, policies, true).0);
    Policed {
        withheld: withheld.filter(|withheld| *withheld != given).map(Arc::from),
        given: given.into(),
        policy_bytes,
    }
}

/// The Routes in one form, and the bytes of the policies in them.
fn in_form(routes: &[Bytes], policies: &RulePolicies<'_>, is_withheld: bool) -> (Vec<Bytes>, usize) {
    let none = Chains::default();
    let listener = policies.listener.unwrap_or(&none).form(is_withheld);
    let mut targets: Vec<Vec<PerFilter>> = policies
        .targets
        .iter()
        .map(|chains| chains.form(is_withheld).beside(listener))
        .collect();
    // Equal for all targets: they stand once, on the route.
    let own = match targets.split_first() {
        Some((first, others)) if others.iter().all(|other| other == first) => {
            let own = first.clone();
            targets.clear();
            own
        }
        _ => Vec::new(),
    };
    let is_split = !targets.is_empty();
    let each: usize = targets
        .iter()
        .flatten()
        .chain(&own)
        .map(|entry| entry.entry.len())
        .sum();

    let mut changed = Vec::new();
    let mut preflights: Vec<Bytes> = Vec::new();
    for encoded in routes {
        let Ok(route) = Route::decode(&encoded[..]) else {
            // Encoded by this server; an entry that cannot be read is left out, and answers 404.
            continue;
        };
        let finish = |route: Route| {
            let mut bytes = match is_split {
                true => split(&route, &targets),
                false => {
                    let mut bytes = route.encode_to_vec();
                    append_all(&mut bytes, OF_ROUTE, &own);
                    bytes
                }
            };
            if let Some(counted) = &policies.counted {
                counted.append_to(&mut bytes);
            }
            Bytes::from(bytes)
        };

        if let Some(methods) = policies.preflights {
            for preflight in preflights_of(&route, methods) {
                let preflight = finish(preflight);
                if !preflights.contains(&preflight) {
                    preflights.push(preflight);
                }
            }
        }
        match policies.maintenance {
            Some(maintenance) => {
                if !maintenance.unless.is_empty() {
                    changed.push(finish(passing(&route, maintenance)));
                }
                changed.push(finish(closed(route, maintenance)));
            }
            None => changed.push(finish(route)),
        }
    }
    changed.extend(preflights);
    let policy_bytes = each * changed.len();
    (changed, policy_bytes)
}

/// A Route whose weighted clusters have filters of their own.
fn split(route: &Route, targets: &[Vec<PerFilter>]) -> Vec<u8> {
    let Some(route::Action::Route(
        action @ RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
            ..
        },
    )) = &route.action
    else {
        // A fixed answer has no target.
        let mut bytes = route.encode_to_vec();
        append_all(&mut bytes, OF_ROUTE, targets.first().map_or(&[][..], Vec::as_slice));
        return bytes;
    };

    let mut clusters = WeightedCluster {
        clusters: Vec::new(),
        ..weighted.clone()
    }
    .encode_to_vec();
    for (cluster, entries) in weighted.clusters.iter().zip(targets) {
        let mut bytes = cluster.encode_to_vec();
        append_all(&mut bytes, OF_WEIGHT, entries);
        append(&mut clusters, CLUSTERS, &bytes);
    }

    let mut inner = RouteAction {
        cluster_specifier: None,
        ..action.clone()
    }
    .encode_to_vec();
    append(&mut inner, WEIGHTED, &clusters);
    let mut bytes = Route {
        action: None,
        ..route.clone()
    }
    .encode_to_vec();
    append(&mut bytes, ACTION, &inner);
    bytes
}

/// The Route for requests that pass in spite of the maintenance.
fn passing(route: &Route, maintenance: &Maintenance) -> Route {
    let mut route = route.clone();
    let unless = maintenance.unless.iter();
    let headers = unless.map(|(name, condition)| conditions::header(name, condition));
    route.r#match.get_or_insert_default().headers.extend(headers);
    route
}

/// The Route with the answer of the maintenance.
fn closed(mut route: Route, maintenance: &Maintenance) -> Route {
    let body = (!maintenance.body.is_empty()).then(|| DataSource {
        specifier: Some(data_source::Specifier::InlineString(maintenance.body.clone())),
        ..DataSource::default()
    });
    route.action = Some(route::Action::DirectResponse(DirectResponseAction {
        status: maintenance.status.into(),
        body,
        ..DirectResponseAction::default()
    }));

    let seconds = maintenance.retry_after.as_secs().to_string();
    let headers = [("content-type", &maintenance.content_type), ("retry-after", &seconds)];
    let option = |(name, value): (&str, &String)| {
        header_option((&name.to_owned(), value), HeaderAppendAction::OverwriteIfExistsOrAdd)
    };
    route.response_headers_to_add.extend(headers.map(option));
    route
}

/// The Routes that take preflights for a Route of these methods: the same, with other conditions on the method.
fn preflights_of(route: &Route, allowed: &[String]) -> Vec<Route> {
    let own = route.r#match.clone().unwrap_or_default();
    let options = HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string(MatchPattern::Exact(
            "OPTIONS".to_owned(),
        )))),
        ..HeaderMatcher::default()
    };
    let origin = conditions::header("origin", &StringMatch::Present(true));
    let others = own.headers.iter().filter(|header| header.name != ":method").cloned();
    let others: Vec<HeaderMatcher> = others.collect();

    let announced = methods(allowed).into_iter().flatten().map(|method| HeaderMatcher {
        name: REQUEST_METHOD.to_owned(),
        ..method
    });
    announced
        .map(|announced| Route {
            r#match: Some(RouteMatch {
                headers: [options.clone(), origin.clone(), announced]
                    .into_iter()
                    .chain(others.clone())
                    .collect(),
                ..own.clone()
            }),
            ..route.clone()
        })
        .collect()
}

/// The generated Route that answers requests without a route: 404, with the policies of the listener.
#[must_use]
pub fn not_found() -> Bytes {
    answered(NOT_FOUND, PathSpecifier::Prefix("/".to_owned()))
}

/// The generated Route for a path that a login filter answers; 404 if the filter lets a request go on.
#[must_use]
pub fn login(path: &str) -> Bytes {
    answered(LOGIN, PathSpecifier::Path(path.to_owned()))
}

fn answered(name: &str, path: PathSpecifier) -> Bytes {
    Route {
        name: name.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 404,
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    }
    .encode_to_vec()
    .into()
}
