//! Envoy's own rules (docs/refused-by-envoy.md) that need more than one field of one document: rules for values that
//! `defaults` may fill in, and rules that depend on the place of a value.
//!
//! Each function takes the compiled values, and refuses those that Envoy would refuse or would accept and ignore. Three
//! kinds of rules are elsewhere or nowhere:
//!
//! - Rules for one document alone are in [`crate::document`].
//! - Values that this compiler never makes (gaps in priorities, sums of weights beyond 32 bits) need no check.
//! - Resources in Envoy's own form ([`super::verbatim`]) may hold anything: [`messages`] has the rules for them, one
//!   file a resource type.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::place::Place;
use crate::document::cluster::{Check, LbPolicy, LocalityMode, Protocol, Settings};
use crate::document::endpoint::Endpoint;
use crate::document::host::Host;
use crate::document::{Limits, Rejection};

mod addresses;
pub(super) mod clusters;
pub(super) mod endpoints;
pub(super) mod extensions;
mod filters;
mod formats;
mod listeners;
pub(super) mod messages;
mod protocols;
mod routes;
mod sources;
mod templates;
mod tls;

/// Deepest metadata of an endpoint. Each level costs three messages, and Envoy's protobuf parser stops at 100.
pub const MAX_METADATA_DEPTH: usize = 24;

/// Rules between the settings of a cluster, the defaults filled in.
///
/// # Errors
/// The first pair that Envoy would refuse, or of which it would ignore one.
pub fn cluster_settings(settings: &Settings) -> Result<(), Rejection> {
    if let Some(health_check) = &settings.health_check
        && matches!(health_check.check, Check::Grpc(_))
        && matches!(settings.protocol, None | Some(Protocol::Http1))
    {
        return Err(Rejection::new(
            "health_check.grpc",
            "found a gRPC health check on a cluster that speaks HTTP/1.1, expected \"protocol\": \"http2\"",
        ));
    }

    let pings = settings
        .keepalive
        .as_ref()
        .is_some_and(|keepalive| keepalive.ping.is_some());
    if pings && matches!(settings.protocol, None | Some(Protocol::Http1)) {
        return Err(Rejection::new(
            "keepalive.ping",
            "found on a cluster that speaks HTTP/1.1, which has no ping, expected \"protocol\": \"http2\"",
        ));
    }

    let Some(lb) = &settings.lb else { return Ok(()) };
    if lb.slow_start.is_some() && !matches!(lb.policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest) {
        let reason = format!(
            "found slow start with {}, expected round_robin or least_request",
            word(lb.policy)
        );
        return Err(Rejection::new("lb.slow_start", reason));
    }

    if lb.locality == Some(LocalityMode::ZoneAware) && matches!(lb.policy, LbPolicy::RingHash | LbPolicy::Maglev) {
        let reason = format!(
            "found zone_aware with {}, expected round_robin, least_request or random",
            word(lb.policy)
        );
        return Err(Rejection::new("lb.locality", reason));
    }

    Ok(())
}

/// The formats of an access log's fields: commands that Envoy has, with arguments that it takes.
///
/// # Errors
/// The first format that Envoy would refuse.
pub fn log_fields(fields: &BTreeMap<String, String>, path: &str) -> Result<(), Rejection> {
    let at = Place {
        path: path.to_owned(),
        hidden: false,
        limits: Limits::default(),
    };
    fields
        .iter()
        .try_for_each(|(name, format)| formats::plain(format, &at.field(name)))
}

fn word(policy: LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "round_robin",
        LbPolicy::LeastRequest => "least_request",
        LbPolicy::Random => "random",
        LbPolicy::RingHash => "ring_hash",
        LbPolicy::Maglev => "maglev",
    }
}

/// Rules for an endpoint that EDS carries (NP-03, NE-01).
///
/// # Errors
/// A host name, or metadata nested deeper than [`MAX_METADATA_DEPTH`].
pub fn registered_endpoint(endpoint: &Endpoint) -> Result<(), Rejection> {
    if let Host::Name(name) = &endpoint.host {
        return Err(Rejection::new(
            "endpoints",
            format!("found the host name {name}, expected an IP address"),
        ));
    }
    endpoint_metadata(endpoint)
}

/// The rule for metadata of an endpoint, wherever it is carried (NE-01).
///
/// # Errors
/// Metadata nested deeper than [`MAX_METADATA_DEPTH`].
pub fn endpoint_metadata(endpoint: &Endpoint) -> Result<(), Rejection> {
    let depth = endpoint.metadata.values().map(depth).max().unwrap_or_default();
    if depth > MAX_METADATA_DEPTH {
        let reason = format!("found {depth} levels, expected at most {MAX_METADATA_DEPTH}");
        return Err(Rejection::new("metadata", reason));
    }
    Ok(())
}

/// Levels of objects and lists; 0 for a plain value. Documents are at most 64 levels deep, so recursion is bounded.
fn depth(json: &Json) -> usize {
    match json {
        Json::Array(values) => 1 + values.iter().map(depth).max().unwrap_or_default(),
        Json::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::document::cluster::LoadBalancing;
    use crate::resource::endpoints as compiled_endpoints;

    use super::*;

    fn lb(policy: LbPolicy, slow_start: Option<u64>, locality: Option<LocalityMode>) -> Option<String> {
        let lb = LoadBalancing {
            policy,
            slow_start: slow_start.map(Duration::from_secs),
            locality,
            ..LoadBalancing::default()
        };
        let settings = Settings {
            lb: Some(lb),
            ..Settings::default()
        };
        cluster_settings(&settings).err().map(|error| error.to_string())
    }

    #[test]
    fn what_a_policy_would_ignore_is_refused() {
        assert_eq!(
            lb(LbPolicy::Maglev, Some(1), None).unwrap(),
            "lb.slow_start: found slow start with maglev, expected round_robin or least_request"
        );
        assert_eq!(
            lb(LbPolicy::RingHash, None, Some(LocalityMode::ZoneAware)).unwrap(),
            "lb.locality: found zone_aware with ring_hash, expected round_robin, least_request or random"
        );
        assert_eq!(lb(LbPolicy::RingHash, None, Some(LocalityMode::Weighted)), None);
        assert_eq!(lb(LbPolicy::RoundRobin, Some(1), Some(LocalityMode::ZoneAware)), None);
    }

    #[test]
    fn metadata_may_be_as_deep_as_envoys_parser_allows() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        let mut endpoint = compiled_endpoints::plain("10.0.0.1", 80);
        endpoint.metadata.insert("k".into(), nested(MAX_METADATA_DEPTH));
        assert_eq!(registered_endpoint(&endpoint), Ok(()));
        endpoint.metadata.insert("k".into(), nested(MAX_METADATA_DEPTH + 1));
        let error = registered_endpoint(&endpoint).unwrap_err();
        assert_eq!(error.to_string(), "metadata: found 25 levels, expected at most 24");
    }
}
