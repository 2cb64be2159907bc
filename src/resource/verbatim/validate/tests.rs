//! One test for each kind of rule, on messages of Envoy that have it.

use std::collections::BTreeSet;

use envoy_types::pb::validate::FieldRules;
use envoy_types::pb::validate::field_rules::Type;
use envoy_types::pb::validate::string_rules::WellKnown;
use serde_json::{Value as Json, json};

use super::*;
use crate::resource::verbatim::read;

/// The rejection of a message.
fn judged(name: &str, json: Json) -> Result<(), String> {
    let place = Place {
        path: String::new(),
        hidden: false,
        limits: crate::document::Limits::default(),
    };
    let url = format!("type.googleapis.com/{name}");
    let read = read::resource(&url, &json, &place).unwrap_or_else(|error| panic!("{name}: {error}"));
    message(&read, &place).map_err(|error| error.to_string())
}

fn refused(name: &str, json: Json) -> String {
    judged(name, json).unwrap_err()
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ROUTE: &str = "envoy.config.route.v3.Route";

#[test]
fn numbers_have_bounds_wrapped_or_not() {
    let lb = "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig";
    assert_eq!(
        refused(lb, json!({ "choice_count": 1 })),
        "choice_count: found the number 1, expected a number at least 2"
    );
    assert_eq!(judged(lb, json!({})), Ok(()));
    let endpoint = "envoy.config.core.v3.SocketAddress";
    assert_eq!(
        refused(endpoint, json!({ "address": "a", "port_value": 65536 })),
        "port_value: found the number 65536, expected a number at most 65535"
    );
    let ratio = "envoy.config.cluster.v3.Cluster.PreconnectPolicy";
    assert_eq!(
        refused(ratio, json!({ "per_upstream_preconnect_ratio": 3.5 })),
        "per_upstream_preconnect_ratio: found the number 3.5, expected a number at least 1 and at most 3"
    );
    let direct = "envoy.config.route.v3.DirectResponseAction";
    assert_eq!(
        refused(direct, json!({ "status": 199 })),
        "status: found the number 199, expected a number at least 200 and below 600"
    );
}

#[test]
fn texts_have_lengths_starts_ends_and_forms() {
    assert_eq!(
        refused(CLUSTER, json!({})),
        "name: missing or empty, expected at least 1 character"
    );
    let matcher = "envoy.config.route.v3.QueryParameterMatcher";
    assert_eq!(
        refused(matcher, json!({ "name": "ü".repeat(600) })),
        format!(
            "name: found the string \"{}…\", expected at most 1024 bytes",
            "ü".repeat(60)
        )
    );
    let matched = "envoy.config.route.v3.RouteMatch";
    assert_eq!(
        refused(matched, json!({ "path_separated_prefix": "/a/" })),
        "path_separated_prefix: found the string \"/a/\", expected a text that matches ^[^?#]+[^?#/]$"
    );
    let header = "envoy.config.route.v3.HeaderMatcher";
    assert_eq!(
        refused(header, json!({ "name": "a\nb" })),
        "name: found the string \"a\\nb\", expected a text without NUL, CR and LF"
    );
    assert_eq!(judged(header, json!({ "name": "a b" })), Ok(()));
    let own = "envoy.config.route.v3.RouteAction.HashPolicy.Header";
    assert_eq!(
        refused(own, json!({})),
        "header_name: missing or empty, expected at least 1 character"
    );
}

#[test]
fn an_empty_text_may_be_ignored() {
    let action = "envoy.config.route.v3.RouteAction";
    assert_eq!(judged(action, json!({ "cluster": "a", "prefix_rewrite": "" })), Ok(()));
    assert_eq!(
        refused(action, json!({ "cluster": "a", "prefix_rewrite": "/\r" })),
        "prefix_rewrite: found the string \"/\\r\", expected a text without NUL, CR and LF"
    );
}

#[test]
fn enums_have_defined_values() {
    assert_eq!(
        refused(CLUSTER, json!({ "name": "a", "lb_policy": 4 })),
        "lb_policy: found the number 4, expected a value of envoy.config.cluster.v3.Cluster.LbPolicy"
    );
    let filter = "envoy.config.accesslog.v3.ComparisonFilter";
    let value = json!({ "default_value": 1, "runtime_key": "a" });
    assert_eq!(judged(filter, json!({ "op": "GE", "value": value })), Ok(()));
}

#[test]
fn lists_have_a_number_of_entries_each_with_its_rule() {
    let host = "envoy.config.route.v3.VirtualHost";
    assert_eq!(
        refused(host, json!({ "name": "a" })),
        "domains: missing or empty, expected at least 1 entry"
    );
    assert_eq!(
        refused(host, json!({ "name": "a", "domains": ["ok", "a\r"] })),
        "domains[1]: found the string \"a\\r\", expected a text without NUL, CR and LF"
    );
    let retry = "envoy.config.core.v3.HealthCheck.HttpHealthCheck";
    assert_eq!(
        refused(retry, json!({ "path": "" })),
        "path: missing or empty, expected at least 1 character"
    );
}

#[test]
fn entries_may_have_to_differ() {
    let status = "envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig";
    assert_eq!(
        refused(status, json!({ "uncompressible_response_codes": [206, 206] })),
        "uncompressible_response_codes[1]: found the same entry twice, expected each once"
    );
}

#[test]
fn maps_have_keys_and_values_with_rules() {
    let jwt = "envoy.extensions.filters.http.jwt_authn.v3.FilterStateRule";
    assert_eq!(judged(jwt, json!({ "name": "a", "requires": { "k": {} } })), Ok(()));
    let rbac = "envoy.config.rbac.v3.RBAC";
    assert_eq!(
        refused(rbac, json!({ "policies": { "p": {} } })),
        "policies.p.permissions: missing or empty, expected at least 1 entry"
    );
}

#[test]
fn durations_have_bounds_and_are_never_negative_or_endless() {
    assert_eq!(
        refused(CLUSTER, json!({ "name": "a", "connect_timeout": "0s" })),
        "connect_timeout: found the duration 0s, expected one above 0s"
    );
    assert_eq!(
        refused(CLUSTER, json!({ "name": "a", "dns_refresh_rate": "0.001s" })),
        "dns_refresh_rate: found the duration 0.001s, expected one above 0.001s"
    );
    let action = "envoy.config.route.v3.RouteAction";
    assert_eq!(
        refused(action, json!({ "cluster": "a", "timeout": "-1s" })),
        "timeout: found a negative duration, expected one of 0 or more"
    );
    assert_eq!(
        refused(action, json!({ "cluster": "a", "timeout": "9223372036s" })),
        "timeout: found a duration of 9223372036 s, expected less than 9223372036 s"
    );
}

#[test]
fn messages_and_oneofs_may_have_to_be_there() {
    assert_eq!(
        refused(ROUTE, json!({ "redirect": {} })),
        "match: missing, expected a value"
    );
    let nothing = refused(ROUTE, json!({ "match": { "prefix": "/" } }));
    assert!(
        nothing.starts_with("found nothing of action, expected \"route\", \"redirect\""),
        "{nothing}"
    );
    let nothing = refused(ROUTE, json!({ "match": {}, "redirect": {} }));
    assert!(
        nothing.starts_with("match: found nothing of path_specifier, expected \"prefix\""),
        "{nothing}"
    );
}

#[test]
fn what_is_in_an_any_has_its_rules_too() {
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let chain = json!({ "filters": [{ "name": "hcm", "typed_config": { "@type": manager, "route_config": {} } }] });
    let listener = json!({ "name": "a", "filter_chains": [chain] });
    assert_eq!(
        refused("envoy.config.listener.v3.Listener", listener),
        "filter_chains[0].filters[0].typed_config.stat_prefix: missing or empty, expected at least 1 character"
    );
}

#[test]
fn fields_deprecated_long_ago_are_refused() {
    let action = "envoy.config.route.v3.RateLimit.Action";
    let metadata = json!({ "metadata_key": { "key": "a", "path": [{ "key": "b" }] }, "descriptor_key": "c" });
    assert_eq!(
        refused(action, json!({ "dynamic_metadata": metadata })),
        "dynamic_metadata: found a field that Envoy refuses as long deprecated, expected its successor"
    );
}

#[test]
fn secrets_are_not_quoted() {
    let place = Place {
        path: String::new(),
        hidden: true,
        limits: crate::document::Limits::default(),
    };
    let rule = Rule {
        value: Some(Type::Uint32(envoy_types::pb::validate::UInt32Rules {
            lt: Some(1),
            ..Default::default()
        })),
        ..Rule::default()
    };
    let error = scalar::check(&Value::U32(4711), &rule, &place).unwrap_err();
    assert!(!error.to_string().contains("4711"), "{error}");
}

/// The names of all kinds of rules in the rules of a field.
fn kinds(rules: &FieldRules, found: &mut BTreeSet<&'static str>) {
    match &rules.r#type {
        Some(Type::Repeated(repeated)) => repeated.items.iter().for_each(|items| kinds(items, found)),
        Some(Type::Map(map)) => {
            map.keys.iter().chain(&map.values).for_each(|rules| kinds(rules, found));
            found.extend((map.no_sparse.is_some()).then_some("map.no_sparse"));
        }
        Some(Type::String(string)) => {
            let only_headers = matches!(string.well_known, None | Some(WellKnown::WellKnownRegex(_)));
            found.extend((!only_headers).then_some("string.well_known"));
        }
        Some(Type::Bytes(bytes)) => {
            let more = bytes.r#const.is_some() || bytes.pattern.is_some() || bytes.prefix.is_some();
            let more = more || bytes.suffix.is_some() || bytes.contains.is_some() || bytes.well_known.is_some();
            found.extend((more || !bytes.r#in.is_empty()).then_some("bytes"));
        }
        Some(Type::Any(any)) => found.extend((!any.r#in.is_empty() || !any.not_in.is_empty()).then_some("any.in")),
        Some(Type::Timestamp(_)) => found.extend(Some("timestamp")),
        _ => {}
    }
}

#[test]
fn no_rule_of_envoys_is_of_a_kind_that_is_not_checked() {
    let mut found = BTreeSet::new();
    let (mut seen, mut patterns) = (0, 0);
    for field in pool()
        .all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
    {
        let name = field.full_name();
        let of_envoy = ["envoy.", "xds.", "udpa."]
            .iter()
            .any(|package| name.starts_with(package));
        if !of_envoy || name.starts_with("envoy.data.") {
            continue;
        }
        if let Some(rules) = rules::written(&field) {
            seen += 1;
            kinds(&rules, &mut found);
            if let Some(Type::String(string)) = &rules.r#type
                && let Some(pattern) = &string.pattern
            {
                patterns += 1;
                assert!(regex::Regex::new(pattern).is_ok(), "{name}: {pattern}");
            }
        }
    }
    assert!(
        seen > 1000 && patterns > 5,
        "{seen} fields with rules, {patterns} patterns"
    );
    assert_eq!(found, BTreeSet::new());
}
