//! The action of a route: forward, redirect or respond.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, RuntimeFractionalPercent, data_source};
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryHostPredicate};
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{self, PolicySpecifier};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy, UpgradeConfig,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, RandomValueSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, RouteAction, WeightedCluster, route,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf;

use crate::document::Rejection;
use crate::document::listener::HttpsRedirect;
use crate::document::route::{
    Action, HashKey, HashOn, HostRewrite, Limit, Mirror, Redirect, RegexRewrite, Respond, Retry, Rule, Settings,
    SplitBy, Target,
};
use crate::proto::message::{any, boolean, duration, uint32};

use super::paths::{Replacement, escaped};

/// The timeout of a whole response if no document gives one.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The number of endpoints that Envoy picks before a retry goes to one that failed already.
const HOST_PICKS: i64 = 3;
/// A percent of the requests that are mirrored.
const MILLIONTHS_OF_A_PERCENT: u32 = 10_000;
/// Envoy's word for "one of `retriable_status_codes`".
const STATUS_CODES: &str = "retriable-status-codes";

/// The action of a rule whose matched path becomes `replacement`.
///
/// # Errors
/// A redirect code that Envoy does not know; `split_by` without `hash_on`.
pub(super) fn of(rule: &Rule, settings: &Settings, replacement: &Replacement) -> Result<route::Action, Rejection> {
    Ok(match &rule.action {
        Action::Forward(targets) => {
            let timeout = timeout(settings, rule.matches.grpc);
            if settings.split_by == Some(SplitBy::HashOn) && settings.hash_on.is_none() {
                let reason = "found \"hash_on\" without the field \"hash_on\", expected both";
                return Err(Rejection::new("split_by", reason));
            }
            route::Action::Route(forward(rule, targets, settings, timeout, replacement))
        }
        Action::Redirect(redirect) => route::Action::Redirect(redirection(redirect, replacement)?),
        Action::Respond(respond) => route::Action::DirectResponse(response(respond)),
    })
}

fn forward(
    rule: &Rule,
    targets: &[Target],
    settings: &Settings,
    timeout: protobuf::Duration,
    replacement: &Replacement,
) -> RouteAction {
    let Rule { rewrite, mirrors, .. } = rule;
    let mut action = RouteAction {
        cluster_specifier: Some(cluster_specifier(targets, settings.split_by)),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable as i32,
        timeout: Some(timeout),
        idle_timeout: settings.idle_timeout.map(limit),
        retry_policy: settings.retry.as_ref().map(retry_policy),
        host_rewrite_specifier: rewrite.host.as_ref().map(host_rewrite),
        request_mirror_policies: mirrors.iter().map(mirror_policy).collect(),
        hash_policy: hash_policies(targets, settings),
        upgrade_configs: settings.websocket.map(websocket).into_iter().collect(),
        regex_rewrite: rewrite.regex.as_ref().map(regex_rewrite),
        ..RouteAction::default()
    };
    match (&rewrite.path, replacement) {
        (Some(path), _) => action.path_rewrite = escaped(path),
        (None, Replacement::None) => {}
        (None, Replacement::Prefix(text)) => action.prefix_rewrite.clone_from(text),
        (None, Replacement::Path(text)) => action.path_rewrite.clone_from(text),
    }
    action
}

fn regex_rewrite(rewrite: &RegexRewrite) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher {
            regex: rewrite.pattern.clone(),
            ..RegexMatcher::default()
        }),
        substitution: rewrite.with.clone(),
    }
}

fn mirror_policy(mirror: &Mirror) -> RequestMirrorPolicy {
    let (numerator, denominator) = match mirror.millionths {
        whole if whole.is_multiple_of(MILLIONTHS_OF_A_PERCENT) => {
            (whole / MILLIONTHS_OF_A_PERCENT, DenominatorType::Hundred)
        }
        millionths => (millionths, DenominatorType::Million),
    };
    RequestMirrorPolicy {
        cluster: mirror.upstream.cluster_name().to_string(),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator,
                denominator: denominator as i32,
            }),
            ..RuntimeFractionalPercent::default()
        }),
        ..RequestMirrorPolicy::default()
    }
}

/// The parts that are hashed. If they also pick among weighted clusters, the first part that is there decides: Envoy has
/// one hash for both, and a combined hash would move a user whose other parts change.
fn hash_policies(targets: &[Target], settings: &Settings) -> Vec<HashPolicy> {
    let is_split = targets.len() > 1 && settings.split_by == Some(SplitBy::HashOn);
    let parts = settings.hash_on.iter().flatten();
    parts.map(|part| hash_policy(part, part.terminal || is_split)).collect()
}

fn hash_policy(part: &HashOn, terminal: bool) -> HashPolicy {
    let specifier = match &part.key {
        HashKey::Header(name) => PolicySpecifier::Header(hash_policy::Header {
            header_name: name.clone(),
            ..hash_policy::Header::default()
        }),
        HashKey::Cookie { name, ttl, path } => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: name.clone(),
            ttl: ttl.map(duration),
            path: path.clone(),
            ..hash_policy::Cookie::default()
        }),
        HashKey::Query(name) => PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() }),
        HashKey::ClientIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
        }
    };
    HashPolicy {
        terminal,
        policy_specifier: Some(specifier),
    }
}

fn websocket(enabled: bool) -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        enabled: Some(boolean(enabled)),
        ..UpgradeConfig::default()
    }
}

fn cluster_specifier(targets: &[Target], split_by: Option<SplitBy>) -> ClusterSpecifier {
    if let [only] = targets {
        return ClusterSpecifier::Cluster(only.upstream.cluster_name().to_string());
    }
    let share = |target: &Target| ClusterWeight {
        name: target.upstream.cluster_name().to_string(),
        weight: Some(uint32(target.weight)),
        ..ClusterWeight::default()
    };
    let clusters = targets.iter().map(share).collect();
    let by_hash = (split_by == Some(SplitBy::HashOn)).then(|| RandomValueSpecifier::UseHashPolicy(boolean(true)));
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters,
        random_value_specifier: by_hash,
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

/// The same URL by https; the port 443 is left out of it.
pub(super) fn https(redirect: HttpsRedirect) -> route::Action {
    let action = RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        port_redirect: match redirect.port {
            443 => 0,
            port => u32::from(port),
        },
        response_code: redirect_code(redirect.code).unwrap_or_default() as i32,
        ..RedirectAction::default()
    };
    route::Action::Redirect(action)
}

fn redirect_code(code: u16) -> Option<RedirectResponseCode> {
    Some(match code {
        301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => return None,
    })
}

fn redirection(redirect: &Redirect, replacement: &Replacement) -> Result<RedirectAction, Rejection> {
    let code = redirect_code(redirect.code).ok_or_else(|| {
        let reason = format!("found {}, expected 301, 302, 303, 307 or 308", redirect.code);
        Rejection::new("to.redirect.code", reason)
    })?;

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
