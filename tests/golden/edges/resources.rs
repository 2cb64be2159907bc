//! Resources that operators write themselves: the server says of each what Envoy says.

use chancery::resource::ResourceType;
use serde_json::{Value, json};

use super::judge::{Judge, encoded};
use super::{compiled, place, put, values};

/// A place in a resource, and what is tried there.
struct Slot {
    resource_type: ResourceType,
    base: Value,
    at: &'static str,
    values: Vec<Value>,
}

impl Slot {
    fn with(&self, value: &Value) -> Value {
        let mut resource = self.base.clone();
        // Two shares of one list.
        if let Some(shares) = value.as_array() {
            for (index, share) in shares.iter().enumerate() {
                put(&mut resource, &self.at.replace("{}", &index.to_string()), share.clone());
            }
        } else {
            put(&mut resource, self.at, value.clone());
        }
        resource
    }
}

const ROUTE: &str = "filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0";

fn manager() -> Value {
    let filter = |name: &str| json!({ "@type": format!("type.googleapis.com/envoy.extensions.filters.http.{name}") });
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "a",
        "http_filters": [{ "name": "router", "typed_config": filter("router.v3.Router") }],
        "route_config": { "validate_clusters": false, "virtual_hosts": [{ "name": "a", "domains": ["*"] }] },
    })
}

fn listener(route: Value) -> Value {
    let mut listener = json!({
        "@type": ResourceType::Listener.type_url(), "name": "a",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 10_000 } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager() }] }],
    });
    put(&mut listener, ROUTE, route);
    listener
}

fn of_route(route: Value, slots: &[(&'static str, Vec<Value>)]) -> Vec<Slot> {
    let slot = |(at, values): &(&'static str, Vec<Value>)| Slot {
        resource_type: ResourceType::Listener,
        base: listener(json!({})),
        at,
        values: values.clone(),
    };
    slots
        .iter()
        .map(slot)
        .map(|mut slot| {
            put(&mut slot.base, ROUTE, route.clone());
            slot.at = format!("{ROUTE}/{}", slot.at).leak();
            slot
        })
        .collect()
}

fn of_manager(slots: &[(&'static str, Vec<Value>)]) -> Vec<Slot> {
    of_chain("filters/0/typed_config/", slots)
}

fn of_chain(below: &str, slots: &[(&'static str, Vec<Value>)]) -> Vec<Slot> {
    let slot = |(at, values): &(&'static str, Vec<Value>)| Slot {
        resource_type: ResourceType::Listener,
        base: listener(forward()),
        at: format!("filter_chains/0/{below}{at}").leak(),
        values: values.clone(),
    };
    slots.iter().map(slot).collect()
}

fn of_cluster(base: Value, slots: &[(&'static str, Vec<Value>)]) -> Vec<Slot> {
    let slot = |(at, values): &(&'static str, Vec<Value>)| {
        let mut cluster = json!({ "@type": ResourceType::Cluster.type_url(), "name": "a", "type": "STATIC" });
        for (field, value) in base.as_object().expect("an object") {
            cluster[field] = value.clone();
        }
        Slot {
            resource_type: ResourceType::Cluster,
            base: cluster,
            at,
            values: values.clone(),
        }
    };
    slots.iter().map(slot).collect()
}

fn forward() -> Value {
    json!({ "match": { "prefix": "/" }, "route": { "cluster": "a" } })
}

fn slots() -> Vec<Slot> {
    let retry = json!({ "match": { "prefix": "/" }, "route": { "cluster": "a", "retry_policy": { "retry_back_off": { "base_interval": "1s" } } } });
    let health = json!({ "health_checks": [{ "interval": "1s", "timeout": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1, "http_health_check": { "path": "/" } }] });
    let weighted = json!({ "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [{ "name": "a" }, { "name": "b" }] } } });
    let redirect = json!({ "match": { "prefix": "/" }, "redirect": { "https_redirect": true } });
    let respond = json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200 } });
    let template = json!({ "match": { "path_match_policy": { "name": "t", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" } } }, "route": { "cluster": "a" } });
    let mut both = template.clone();
    put(
        &mut both,
        "match/path_match_policy/typed_config/path_template",
        json!("/{a}/{b=**}"),
    );
    put(
        &mut both,
        "route/path_rewrite_policy",
        json!({ "name": "r", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig" } }),
    );
    // An empty one breaks a rule of the listener itself, for which Envoy refuses the whole file.
    let ranges: Vec<Value> = values::addresses()
        .into_iter()
        .filter(|address| address != "")
        .collect();
    let tls = json!({ "transport_socket": { "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" } } });
    let endpoint = json!({ "load_assignment": { "cluster_name": "a" } });
    let formats = values::formats;
    let (durations, paths, hosts, names) = (values::durations, values::paths, values::hosts, values::header_names);
    [
        of_route(
            forward(),
            &[
                ("request_headers_to_add/0/header", formats().into_iter().map(|value| json!({ "key": "x", "value": value })).collect()),
                ("response_headers_to_add/0/header", values::percent_signs().into_iter().map(|value| json!({ "key": "x", "value": value })).collect()),
                ("request_headers_to_add/0/header", names().into_iter().map(|name| json!({ "key": name, "value": "x" })).collect()),
                ("request_headers_to_remove/0", names()),
                ("response_headers_to_remove/0", names()),
                ("route/hash_policy/0/header/header_name", names()),
                ("route/hash_policy/0/cookie/name", names()),
                ("route/hash_policy/0/cookie", durations().into_iter().map(|ttl| json!({ "name": "a", "ttl": ttl })).collect()),
                ("route/host_rewrite_header", names()),
                ("route/timeout", durations()),
                ("route/idle_timeout", durations()),
                ("route/max_stream_duration/max_stream_duration", durations()),
                ("route/max_stream_duration/grpc_timeout_header_max", durations()),
                ("route/max_stream_duration/grpc_timeout_header_offset", durations()),
                ("route/retry_policy/per_try_timeout", durations()),
                ("route/retry_policy/per_try_idle_timeout", durations()),
                ("route/retry_policy/retry_back_off/base_interval", durations()),
                ("route/retry_policy/num_retries", values::numbers()),
                ("route/retry_policy/host_selection_retry_max_attempts", values::numbers()),
                ("route/retry_policy/retriable_status_codes/0", values::statuses()),
                ("route/request_mirror_policies/0", values::numbers().into_iter().map(|number| json!({ "cluster": "a", "runtime_fraction": { "default_value": { "numerator": number } } })).collect()),
                ("match/runtime_fraction/default_value/numerator", values::numbers()),
                ("match/prefix", paths()),
                ("match/path", paths()),
                ("match/path_separated_prefix", paths()),
                ("match/safe_regex/regex", paths()),
                ("route/hash_policy/0/query_parameter/name", names()),
                ("route/upgrade_configs/0/upgrade_type", values::methods()),
                ("match/headers/0/name", names()),
                ("match/headers/0", values::methods().into_iter().map(|method| json!({ "name": ":method", "string_match": { "exact": method } })).collect()),
                ("match/query_parameters/0/name", names()),
                ("route/prefix_rewrite", paths()),
                ("route/path_rewrite", paths()),
                ("route/path_rewrite", values::percent_signs()),
                ("route/host_rewrite", values::percent_signs()),
                ("route/regex_rewrite", paths().into_iter().map(|path| json!({ "pattern": { "regex": "a" }, "substitution": path })).collect()),
                ("route/host_rewrite_literal", hosts()),
            ],
        ),
        of_route(retry, &[("route/retry_policy/retry_back_off/max_interval", durations())]),
        of_route(weighted, &[("route/weighted_clusters/clusters/{}/weight", values::weights())]),
        of_route(
            redirect,
            &[
                ("redirect/host_redirect", hosts()),
                ("redirect/scheme_redirect", hosts()),
                ("redirect/path_redirect", paths()),
                ("redirect/prefix_rewrite", paths()),
                ("redirect/path_rewrite", paths()),
                ("redirect/response_code", values::redirect_codes()),
                ("redirect/port_redirect", values::numbers()),
            ],
        ),
        of_route(
            respond,
            &[
                ("direct_response/status", values::statuses()),
                ("direct_response/body_format/text_format", formats()),
                ("direct_response/body/inline_string", [0, 4096, 4097].map(|length| json!("x".repeat(length))).to_vec()),
            ],
        ),
        of_route(template, &[("match/path_match_policy/typed_config/path_template", values::templates())]),
        of_route(
            both,
            &[(
                "route/path_rewrite_policy/typed_config/path_template_rewrite",
                values::rewrites(),
            )],
        ),
        of_manager(&[
            ("route_config/virtual_hosts/0/domains/0", hosts()),
            ("stream_idle_timeout", durations()),
            ("request_timeout", durations()),
            ("request_headers_timeout", durations()),
            ("drain_timeout", durations()),
            ("delayed_close_timeout", durations()),
            ("common_http_protocol_options/idle_timeout", durations()),
            ("common_http_protocol_options/max_connection_duration", durations()),
            ("common_http_protocol_options/max_stream_duration", durations()),
            ("http2_protocol_options/connection_keepalive", durations().into_iter().map(|time| json!({ "interval": time, "timeout": "1s" })).collect()),
            ("http2_protocol_options/connection_keepalive", durations().into_iter().map(|time| json!({ "interval": "1s", "timeout": time })).collect()),
            ("tracing/random_sampling/value", values::percents()),
            ("tracing/overall_sampling/value", values::percents()),
            ("xff_num_trusted_hops", values::numbers()),
            ("max_request_headers_kb", values::numbers()),
            ("internal_address_config/cidr_ranges/0", values::addresses().into_iter().map(|address| json!({ "address_prefix": address })).collect()),
            ("internal_address_config/cidr_ranges/0", values::numbers().into_iter().map(|length| json!({ "address_prefix": "::1", "prefix_len": length })).collect()),
            ("internal_address_config/cidr_ranges/0", values::numbers().into_iter().map(|length| json!({ "address_prefix": "1.2.3.4", "prefix_len": length })).collect()),
            ("local_reply_config/body_format/text_format", values::percent_signs()),
            ("local_reply_config/mappers/0", values::statuses().into_iter().map(|status| json!({ "filter": { "status_code_filter": { "comparison": { "value": { "default_value": 1, "runtime_key": "a" } } } }, "status_code": status })).collect()),
        ]),
        of_cluster(
            json!({}),
            &[
                ("connect_timeout", durations()),
                ("dns_refresh_rate", durations()),
                ("cleanup_interval", durations()),
                ("outlier_detection/interval", durations()),
                ("outlier_detection/base_ejection_time", durations()),
                ("outlier_detection/max_ejection_time", durations()),
                ("outlier_detection/max_ejection_percent", values::numbers()),
                ("outlier_detection/enforcing_consecutive_5xx", values::numbers()),
                ("circuit_breakers/thresholds/0/retry_budget/budget_percent/value", values::percents()),
                ("circuit_breakers/thresholds/0/max_connections", values::numbers()),
                ("common_lb_config/healthy_panic_threshold/value", values::percents()),
                ("common_lb_config/update_merge_window", durations()),
                ("round_robin_lb_config/slow_start_config/slow_start_window", durations()),
                ("round_robin_lb_config/slow_start_config/min_weight_percent/value", values::percents()),
                ("upstream_connection_options/tcp_keepalive/keepalive_time", values::numbers()),
            ],
        ),
        of_chain(
            "filter_chain_match/",
            &[
                ("server_names/0", hosts()),
                ("application_protocols/0", values::list("protocols")),
                ("prefix_ranges/0/address_prefix", ranges.clone()),
                ("source_prefix_ranges/0/address_prefix", ranges),
            ],
        ),
        of_cluster(
            tls,
            &[
                ("transport_socket/typed_config/sni", hosts()),
                ("transport_socket/typed_config/max_session_keys", values::numbers()),
                ("transport_socket/typed_config/common_tls_context/tls_params/cipher_suites/0", values::list("ciphers")),
                ("transport_socket/typed_config/common_tls_context/tls_params/ecdh_curves/0", values::list("curves")),
                ("transport_socket/typed_config/common_tls_context/alpn_protocols/0", values::list("protocols")),
                ("transport_socket/typed_config/common_tls_context/validation_context/verify_certificate_hash/0", values::list("hashes")),
                ("transport_socket/typed_config/common_tls_context/validation_context/verify_certificate_spki/0", values::list("hashes")),
            ],
        ),
        of_cluster(
            json!({ "lb_policy": "RING_HASH" }),
            &[
                ("ring_hash_lb_config/minimum_ring_size", values::numbers()),
                ("ring_hash_lb_config/maximum_ring_size", values::numbers()),
            ],
        ),
        of_cluster(json!({ "lb_policy": "MAGLEV" }), &[("maglev_lb_config/table_size", values::numbers())]),
        of_cluster(
            json!({ "lb_policy": "LEAST_REQUEST" }),
            &[("least_request_lb_config/choice_count", values::numbers())],
        ),
        of_cluster(
            health.clone(),
            &[
                ("health_checks/0", values::list("payloads").into_iter().map(|text| json!({ "interval": "1s", "timeout": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1, "tcp_health_check": { "send": { "text": text } } })).collect()),
                ("health_checks/0/http_health_check/expected_statuses/0", values::list("ranges").into_iter().map(|range| json!({ "start": range[0], "end": range[1] })).collect()),
            ],
        ),
        of_cluster(
            health,
            &[
                ("health_checks/0/interval", durations()),
                ("health_checks/0/timeout", durations()),
                ("health_checks/0/no_traffic_interval", durations()),
                ("health_checks/0/initial_jitter", durations()),
                ("health_checks/0/healthy_threshold", values::numbers()),
                ("health_checks/0/http_health_check/path", paths()),
                ("health_checks/0/http_health_check/host", hosts()),
            ],
        ),
        of_cluster(
            endpoint,
            &[
                ("load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address", values::addresses().into_iter().map(|address| json!({ "address": address, "port_value": 1 })).collect()),
                ("load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address", values::numbers().into_iter().map(|port| json!({ "address": "1.2.3.4", "port_value": port })).collect()),
                ("load_assignment/endpoints/0/lb_endpoints/0", values::numbers().into_iter().map(|weight| json!({ "endpoint": { "address": { "socket_address": { "address": "1.2.3.4", "port_value": 1 } } }, "load_balancing_weight": weight })).collect()),
                ("load_assignment/endpoints/0/priority", values::numbers()),
            ],
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Parts of places where the server may say something else, with the reason.
const KNOWN: [(&str, &str); 2] = [
    ("%CEL(", "only Envoy reads the expression"),
    (r"1.2.3.4\u0000", "Envoy does not look at what follows the NUL"),
];

/// A value at its place, and what the server says against it.
struct Asked {
    place: String,
    resource: Value,
    ours: Option<String>,
}

fn asked(slot: &Slot, value: &Value) -> Asked {
    let resource = slot.with(value);
    let key = format!("xds/{}/a", slot.resource_type);
    let ours = compiled(&key, &json!({ "resource": resource })).err();
    Asked {
        place: place(slot.at, value),
        resource,
        ours: ours.map(|rejection| rejection.to_string()),
    }
}

#[tokio::test]
async fn of_resources_the_server_says_what_envoy_says() {
    let judge = Judge::start().await;
    let (mut listeners, mut clusters, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for slot in slots() {
        for asked in slot.values.iter().map(|value| asked(&slot, value)) {
            match (slot.resource_type, encoded(slot.resource_type, &asked.resource)) {
                (_, None) if asked.ours.is_none() => wrong.push(format!("is no JSON of its type: {}", asked.place)),
                (_, None) => {}
                (ResourceType::Listener, _) => listeners.push(asked),
                _ => clusters.push(asked),
            }
        }
    }
    let (refused, taken): (Vec<_>, Vec<_>) = clusters.iter().partition(|asked| asked.ours.is_some());
    let together: Vec<&Value> = taken.iter().map(|asked| &asked.resource).collect();
    if let Some(log) = judge.clusters(&together).await {
        wrong.push(format!("Envoy refuses clusters that the server takes: {log}"));
    }
    for asked in refused {
        wrong.extend(differ(asked, judge.clusters(&[&asked.resource]).await.as_ref()));
    }
    let resources: Vec<&Value> = listeners.iter().map(|asked| &asked.resource).collect();
    let said = judge.listeners(&resources).await;
    for (index, asked) in listeners.iter().enumerate() {
        wrong.extend(differ(asked, said.get(&index)));
    }
    let count = listeners.len() + clusters.len();
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What is wrong if the server and Envoy say different things.
fn differ(asked: &Asked, envoy: Option<&String>) -> Option<String> {
    let place = &asked.place;
    if KNOWN.iter().any(|(part, _)| place.contains(part)) {
        return None;
    }
    match (&asked.ours, envoy) {
        (None, Some(words)) => Some(format!("Envoy refuses {place}: {words}")),
        (Some(words), None) => Some(format!("the server refuses {place}: {words}")),
        _ => None,
    }
}

#[test]
fn what_envoy_ends_at_is_refused() {
    let percent = json!({ "name": "a", "common_lb_config": { "healthy_panic_threshold": { "value": "NaN" } } });
    assert!(
        compiled(
            "xds/clusters/a",
            &json!({ "resource": typed(ResourceType::Cluster, percent) })
        )
        .is_err()
    );
    for argument in ["null", "true", "24", "\"a\""] {
        let value = format!("%COALESCE({argument})%");
        let routes = json!({ "name": "a", "request_headers_to_add": [{ "header": { "key": "x", "value": value } }] });
        let routes = compiled(
            "xds/routes/a",
            &json!({ "resource": typed(ResourceType::Route, routes) }),
        );
        assert!(routes.is_err(), "{argument}");
    }
}

fn typed(resource_type: ResourceType, mut resource: Value) -> Value {
    resource["@type"] = resource_type.type_url().into();
    resource
}
