//! The action of a route: forward, redirect or respond.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryHostPredicate};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, RouteAction, WeightedCluster, route,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::google::protobuf;

use crate::document::Rejection;
use crate::document::route::{Action, HostRewrite, Limit, Redirect, Respond, Retry, Rewrite, Rule, Settings, Target};
use crate::proto::message::{any, boolean, duration, uint32};

use super::paths::Replacement;

/// The timeout of a whole response if no document gives one.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The number of endpoints that Envoy picks before a retry goes to one that failed already.
const HOST_PICKS: i64 = 3;
/// Envoy's word for "one of `retriable_status_codes`".
const STATUS_CODES: &str = "retriable-status-codes";

/// The action of a rule whose matched path becomes `replacement`.
///
/// # Errors
/// A redirect code that Envoy does not know.
pub(super) fn of(rule: &Rule, settings: &Settings, replacement: &Replacement) -> Result<route::Action, Rejection> {
    Ok(match &rule.action {
        Action::Forward(targets) => {
            let timeout = timeout(settings, rule.matches.grpc);
            route::Action::Route(forward(targets, &rule.rewrite, settings, timeout, replacement))
        }
        Action::Redirect(redirect) => route::Action::Redirect(redirection(redirect, replacement)?),
        Action::Respond(respond) => route::Action::DirectResponse(response(respond)),
    })
}

fn forward(
    targets: &[Target],
    rewrite: &Rewrite,
    settings: &Settings,
    timeout: protobuf::Duration,
    replacement: &Replacement,
) -> RouteAction {
    let mut action = RouteAction {
        cluster_specifier: Some(cluster_specifier(targets)),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable as i32,
        timeout: Some(timeout),
        idle_timeout: settings.idle_timeout.map(limit),
        retry_policy: settings.retry.as_ref().map(retry_policy),
        host_rewrite_specifier: rewrite.host.as_ref().map(host_rewrite),
        ..RouteAction::default()
    };
    match replacement {
        Replacement::None => {}
        Replacement::Prefix(text) => action.prefix_rewrite.clone_from(text),
        Replacement::Path(text) => action.path_rewrite.clone_from(text),
    }
    action
}

fn cluster_specifier(targets: &[Target]) -> ClusterSpecifier {
    if let [only] = targets {
        return ClusterSpecifier::Cluster(only.upstream.cluster_name().to_string());
    }
    let share = |target: &Target| ClusterWeight {
        name: target.upstream.cluster_name().to_string(),
        weight: Some(uint32(target.weight)),
        ..ClusterWeight::default()
    };
    let clusters = targets.iter().map(share).collect();
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters,
        ..WeightedCluster::default()
    })
}

fn timeout(settings: &Settings, grpc: bool) -> protobuf::Duration {
    match settings.timeout {
        Some(value) => limit(value),
        None if grpc => limit(Limit::None),
        None => duration(TIMEOUT),
    }
}

/// Zero switches a limit off.
fn limit(value: Limit) -> protobuf::Duration {
    match value {
        Limit::None => duration(Duration::ZERO),
        Limit::After(time) => duration(time),
    }
}

fn host_rewrite(host: &HostRewrite) -> HostRewriteSpecifier {
    match host {
        HostRewrite::Name(name) => HostRewriteSpecifier::HostRewriteLiteral(name.clone()),
        HostRewrite::Auto => HostRewriteSpecifier::AutoHostRewrite(boolean(true)),
    }
}

fn retry_policy(retry: &Retry) -> RetryPolicy {
    let code = |word: &String| word.parse::<u32>().ok();
    let retriable_status_codes: Vec<u32> = retry.on.iter().filter_map(code).collect();
    let mut words: Vec<&str> = retry
        .on
        .iter()
        .filter(|word| code(word).is_none())
        .map(String::as_str)
        .collect();

    if !retriable_status_codes.is_empty() {
        words.push(STATUS_CODES);
    }

    let previous_hosts = retry.another_endpoint.then(|| RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&PreviousHostsPredicate::default()))),
    });

    RetryPolicy {
        retry_on: words.join(","),
        num_retries: Some(uint32(retry.attempts)),
        per_try_timeout: retry.per_try_timeout.map(duration),
        retriable_status_codes,
        retry_back_off: retry.back_off.map(|back_off| RetryBackOff {
            base_interval: Some(duration(back_off.base)),
            max_interval: back_off.max.map(duration),
        }),
        retry_host_predicate: previous_hosts.into_iter().collect(),
        host_selection_retry_max_attempts: if retry.another_endpoint { HOST_PICKS } else { 0 },
        ..RetryPolicy::default()
    }
}

fn redirection(redirect: &Redirect, replacement: &Replacement) -> Result<RedirectAction, Rejection> {
    let code = match redirect.code {
        301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        other => {
            let reason = format!("found {other}, expected 301, 302, 303, 307 or 308");
            return Err(Rejection::new("to.redirect.code", reason));
        }
    };

    let path = match (&redirect.path, replacement) {
        (Some(path), _) => Some(PathRewriteSpecifier::PathRedirect(path.clone())),
        (None, Replacement::None) => None,
        (None, Replacement::Prefix(text)) => Some(PathRewriteSpecifier::PrefixRewrite(text.clone())),
        (None, Replacement::Path(text)) => Some(PathRewriteSpecifier::PathRewrite(text.clone())),
    };

    Ok(RedirectAction {
        scheme_rewrite_specifier: redirect.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        host_redirect: redirect.host.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, u32::from),
        path_rewrite_specifier: path,
        response_code: code as i32,
        ..RedirectAction::default()
    })
}

fn response(respond: &Respond) -> DirectResponseAction {
    let source = |text: &String| DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.clone())),
        ..DataSource::default()
    };
    DirectResponseAction {
        status: u32::from(respond.status),
        body: respond.body.as_ref().map(source),
        ..DirectResponseAction::default()
    }
}
