//! Conditions of conformance.md section 9 by their IDs, and what section 10 says must not be refused.

use serde_json::{Value, json};

use crate::document::key::{DocumentKey, Kind};
use crate::document::{Limits, xds::Xds};
use crate::resource::{ResourceType, verbatim};

/// What is said of a resource with these fields.
fn judged(resource_type: ResourceType, fields: Value) -> Result<(), String> {
    let name = if resource_type == ResourceType::VirtualHost { "r/h" } else { "a" };
    let key = DocumentKey::new(Kind::Xds, format!("{resource_type}/{name}"));
    let mut resource = fields;
    resource["@type"] = json!(resource_type.type_url());
    resource[if resource_type == ResourceType::Endpoint { "cluster_name" } else { "name" }] = json!(name);
    let xds = Xds {
        resource_type: resource_type.as_str(),
        name: name.into(),
        resource,
        groups: None,
        replace: false,
        aliases: Vec::new(),
        ttl: None,
        limits: Limits::default(),
    };
    verbatim::from_document(&key, &xds).map(|_| ()).map_err(|rejection| rejection.to_string())
}

/// Asserts that each is refused with a sentence that starts so.
fn refused(resource_type: ResourceType, cases: Vec<(&str, Value, &str)>) {
    for (id, fields, start) in cases {
        let sentence = judged(resource_type, fields.clone()).expect_err(&format!("{id}: {fields}"));
        assert!(sentence.starts_with(&format!("resource{start}")), "{id}: {sentence}");
    }
}

fn accepted(resource_type: ResourceType, cases: Vec<Value>) {
    for fields in cases {
        assert_eq!(judged(resource_type, fields.clone()), Ok(()), "{fields}");
    }
}

/// A RouteConfiguration of one host with one route.
fn with_route(route: Value) -> Value {
    json!({ "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": [route] }] })
}

/// One with a route that does this.
fn with_action(action: Value) -> Value {
    with_route(json!({ "match": { "prefix": "/" }, "route": action }))
}

fn hosts(domains: &[&[&str]]) -> Value {
    let hosts: Vec<Value> = domains.iter().map(|domains| json!({ "name": "h", "domains": domains })).collect();
    json!({ "virtual_hosts": hosts })
}

fn template(kind: &str, message: &str, field: &str) -> Value {
    let url = format!("type.googleapis.com/envoy.extensions.path.{kind}.uri_template.v3.{message}");
    json!({ "name": "t", "typed_config": { "@type": url, field: "/a/{b}" } })
}

#[test]
fn routes() {
    let add =
        |key: &str, value: &str| json!({ "request_headers_to_add": [{ "header": { "key": key, "value": value } }] });
    let weights = |clusters: Value| with_action(json!({ "weighted_clusters": { "clusters": clusters } }));
    let mirror = |policy: Value| with_action(json!({ "cluster": "c", "request_mirror_policies": [policy] }));
    let action = ".virtual_hosts[0].routes[0].route";
    let at = |rest: &str| format!("{action}{rest}");
    let both = json!({ "header": { "key": "x", "value": "y" }, "append": true, "append_action": "ADD_IF_ABSENT" });
    let policy = template("rewrite", "UriTemplateRewriteConfig", "path_template_rewrite");
    let upgrade = |kinds: &[&str]| -> Value { kinds.iter().map(|kind| json!({ "upgrade_type": kind })).collect() };
    refused(
        ResourceType::Route,
        vec![
            ("NR-02", hosts(&[&["a.com"], &["b.com", "A.com"]]), ".virtual_hosts[1].domains[1]: found the domain"),
            ("NR-03", hosts(&[&["*"], &["*"]]), ".virtual_hosts[1].domains[0]: found the domain"),
            (
                "NR-07",
                with_route(json!({ "match": { "safe_regex": { "regex": "(?=a)" } }, "redirect": {} })),
                ".virtual_hosts[0].routes[0].match.safe_regex.regex: found",
            ),
            (
                "NR-09",
                with_route(json!({ "match": { "safe_regex": { "regex": "a".repeat(97) } }, "redirect": {} })),
                ".virtual_hosts[0].routes[0].match.safe_regex.regex: found",
            ),
            ("NR-17", mirror(json!({})), &at(".request_mirror_policies[0]: found neither")),
            (
                "NR-17",
                mirror(json!({ "cluster": "a", "cluster_header": "b" })),
                &at(".request_mirror_policies[0]: found both"),
            ),
            (
                "NR-18",
                weights(json!([{ "name": "a", "weight": 0 }])),
                &at(".weighted_clusters.clusters: found weights whose sum is 0"),
            ),
            ("NR-19", weights(json!([{ "name": "a" }])), &at(".weighted_clusters.clusters[0].weight: missing")),
            (
                "NR-20",
                weights(json!([{ "name": "a", "weight": 4_294_967_295_u32 }, { "name": "b", "weight": 1 }])),
                &at(".weighted_clusters.clusters: found weights whose sum is 4294967296"),
            ),
            ("NR-21", weights(json!([{ "weight": 1 }])), &at(".weighted_clusters.clusters[0]: found neither")),
            (
                "NR-22",
                with_action(
                    json!({ "cluster": "c", "prefix_rewrite": "/", "regex_rewrite": { "pattern": { "regex": "a" } } }),
                ),
                &at(".regex_rewrite: found together with prefix_rewrite"),
            ),
            (
                "NR-23",
                with_action(json!({ "cluster": "c", "path_rewrite_policy": policy })),
                &at(".path_rewrite_policy: found a template"),
            ),
            (
                "NR-25",
                with_action(
                    json!({ "cluster": "c", "retry_policy": { "retry_back_off": { "base_interval": "2s", "max_interval": "1s" } } }),
                ),
                &at(".retry_policy.retry_back_off.max_interval: found less"),
            ),
            (
                "NR-29",
                with_action(json!({ "cluster": "c", "upgrade_configs": upgrade(&["websocket", "WebSocket"]) })),
                &at(".upgrade_configs[1].upgrade_type: found"),
            ),
            (
                "NR-30",
                with_action(
                    json!({ "cluster": "c", "upgrade_configs": [{ "upgrade_type": "x", "connect_config": {} }] }),
                ),
                &at(".upgrade_configs[0].connect_config: found"),
            ),
            (
                "NR-32",
                with_route(
                    json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": "x".repeat(4097) } } }),
                ),
                ".virtual_hosts[0].routes[0].direct_response.body: found 4097 bytes",
            ),
            ("NR-34", add("Host", "x"), ".request_headers_to_add[0].header.key: found \"Host\""),
            ("NR-34", add(":path", "x"), ".request_headers_to_add[0].header.key: found \":path\""),
            ("NR-35", json!({ "response_headers_to_remove": [":status"] }), ".response_headers_to_remove[0]: found"),
            (
                "NR-36",
                with_action(
                    json!({ "cluster": "c", "internal_redirect_policy": { "response_headers_to_copy": ["x", "host"] } }),
                ),
                &at(".internal_redirect_policy.response_headers_to_copy[1]: found"),
            ),
            ("NR-39", add("x", "50%"), ".request_headers_to_add[0].header.value: found a \"%\""),
            ("NR-39", add("x", "%REQ(a%"), ".request_headers_to_add[0].header.value: found a \"%\""),
            ("NR-40", json!({ "request_headers_to_add": [both] }), ".request_headers_to_add[0].append: found together"),
            (
                "NR-43",
                with_action(json!({ "cluster_specifier_plugin": "p" })),
                &at(".cluster_specifier_plugin: found \"p\""),
            ),
            (
                "NR-45",
                json!({ "virtual_hosts": [{ "name": "h", "domains": ["*"], "virtual_clusters": [{ "name": "v" }] }] }),
                ".virtual_hosts[0].virtual_clusters[0].headers: missing",
            ),
        ],
    );
    let by_template = json!({
        "match": { "path_match_policy": template("match", "UriTemplateMatchConfig", "path_template") },
        "route": { "cluster": "c", "path_rewrite_policy": policy },
    });
    accepted(
        ResourceType::Route,
        vec![
            hosts(&[&["a.*.com", "**", "*.", "a.com:80", ""], &["*"]]),
            with_route(by_template),
            with_route(json!({ "match": { "prefix": "a?b#c" }, "filter_action": {} })),
            with_route(json!({ "match": { "prefix": "/" }, "non_forwarding_action": {} })),
            with_route(json!({ "match": { "prefix": "/" }, "redirect": { "port_redirect": 70_000 } })),
            with_route(json!({ "match": { "safe_regex": { "regex": "a".repeat(96) } }, "redirect": {} })),
            weights(json!([{ "name": "a", "weight": 0 }, { "name": "a", "weight": 1 }])),
            with_action(
                json!({ "cluster": "unknown", "retry_policy": { "retry_on": "nonsense", "retriable_status_codes": [99] } }),
            ),
            add("content-length", "%REQ(a)% %DYNAMIC_METADATA(a:b):3% 100%%"),
            json!({ "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": [{ "match": { "prefix": "/", "headers": [{ "name": "a b", "range_match": { "start": 5, "end": 1 } }] }, "redirect": {} }] }] }),
        ],
    );
    refused(
        ResourceType::VirtualHost,
        vec![("NR-02", json!({ "domains": ["a", "A"] }), ".domains[1]: found the domain")],
    );
    refused(
        ResourceType::ScopedRoute,
        vec![(
            "NS-03",
            json!({ "key": { "fragments": [{ "string_key": "k" }] } }),
            ".route_configuration_name: missing",
        )],
    );
}

fn assignment(address: Value) -> Value {
    json!({ "cluster_name": "a", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

fn socket(address: &str) -> Value {
    json!({ "socket_address": { "address": address, "port_value": 80 } })
}

#[test]
fn clusters() {
    let ads = json!({ "ads": {} });
    let typed = |name: &str, fields: Value| {
        let mut config = fields;
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}"));
        json!({ "load_balancing_policy": { "policies": [{ "typed_extension_config": { "name": "p", "typed_config": config } }] } })
    };
    let check = |checker: &str, fields: Value| json!({ "timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1, checker: fields });
    let checks = |checks: Value| json!({ "health_checks": checks });
    let policy = ".load_balancing_policy.policies[0].typed_extension_config.typed_config";
    let tls = |context: Value| {
        let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        json!({ "transport_socket": { "name": "tls", "typed_config": { "@type": url, "common_tls_context": context } } })
    };
    let common = ".transport_socket.typed_config.common_tls_context";
    let san = json!([{ "san_type": "DNS", "matcher": { "exact": "a" } }]);
    let sds = json!([{ "name": "a" }, { "name": "b" }]);
    let subset = |keys: Value| json!({ "lb_subset_config": { "subset_selectors": [{ "keys": ["a", "b"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": keys }] } });
    let grpc = check("grpc_health_check", json!({}));
    let http = |range: Value| check("http_health_check", json!({ "path": "/", "expected_statuses": [range] }));
    let tcp = check("tcp_health_check", json!({ "send": { "text": "xyz" } }));
    refused(
        ResourceType::Cluster,
        vec![
            ("NC-02", json!({ "type": "EDS" }), ".eds_cluster_config: missing"),
            ("NC-03", json!({ "type": "EDS", "eds_cluster_config": {} }), ".eds_cluster_config.eds_config: missing"),
            (
                "NC-03",
                json!({ "type": "EDS", "eds_cluster_config": { "eds_config": { "self": {} } } }),
                ".eds_cluster_config.eds_config: missing",
            ),
            (
                "NC-05",
                json!({ "type": "STATIC", "eds_cluster_config": { "eds_config": ads } }),
                ".eds_cluster_config: found",
            ),
            (
                "NC-09",
                json!({ "load_assignment": assignment(socket("a.com")) }),
                ".load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: found \"a.com\"",
            ),
            (
                "NC-11",
                json!({ "load_assignment": assignment(json!({ "socket_address": { "address": "1.1.1.1", "named_port": "x" } })) }),
                ".load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.named_port: found",
            ),
            (
                "NC-12",
                json!({ "load_assignment": { "cluster_name": "a", "endpoints": [{ "lb_endpoints": [{ "endpoint": {} }] }] } }),
                ".load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: missing",
            ),
            (
                "NC-14",
                json!({ "type": "STRICT_DNS", "load_assignment": assignment(json!({ "socket_address": { "address": "a", "port_value": 1, "resolver_name": "x" } })) }),
                ".load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name: found",
            ),
            ("NC-15", json!({ "type": "LOGICAL_DNS" }), ".load_assignment: found a cluster of type LOGICAL_DNS"),
            (
                "NC-17",
                json!({ "dns_failure_refresh_rate": { "base_interval": "2s", "max_interval": "1s" } }),
                ".dns_failure_refresh_rate.max_interval: found less",
            ),
            ("NC-18", json!({ "type": "ORIGINAL_DST" }), ".lb_policy: found ROUND_ROBIN"),
            (
                "NC-18",
                json!({ "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "load_assignment": assignment(socket("1.1.1.1")) }),
                ".load_assignment: found endpoints",
            ),
            (
                "NC-19",
                json!({ "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "lb_subset_config": {} }),
                ".lb_subset_config: found",
            ),
            ("NC-20", json!({ "lb_policy": "CLUSTER_PROVIDED" }), ".lb_policy: found CLUSTER_PROVIDED"),
            ("NC-21", json!({ "lb_policy": "LOAD_BALANCING_POLICY_CONFIG" }), ".load_balancing_policy: missing"),
            (
                "NC-24",
                json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": { "minimum_ring_size": 8, "maximum_ring_size": 7 } }),
                ".ring_hash_lb_config.minimum_ring_size: found 8",
            ),
            (
                "NC-24",
                json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": { "maximum_ring_size": 1023 } }),
                ".ring_hash_lb_config.minimum_ring_size: found 1024",
            ),
            (
                "NC-24",
                typed("ring_hash.v3.RingHash", json!({ "minimum_ring_size": 9, "maximum_ring_size": 8 })),
                &format!("{policy}.minimum_ring_size: found 9"),
            ),
            (
                "NC-25",
                json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": 65536 } }),
                ".maglev_lb_config.table_size: found the number 65536",
            ),
            (
                "NC-25",
                typed("maglev.v3.Maglev", json!({ "table_size": 9 })),
                &format!("{policy}.table_size: found the number 9"),
            ),
            ("NC-27", subset(json!([])), ".lb_subset_config.subset_selectors[0].fallback_keys_subset: expected"),
            (
                "NC-27",
                subset(json!(["a", "b"])),
                ".lb_subset_config.subset_selectors[0].fallback_keys_subset: expected",
            ),
            (
                "NC-28",
                json!({ "circuit_breakers": { "per_host_thresholds": [{ "max_requests": 1 }] } }),
                ".circuit_breakers.per_host_thresholds[0]: found",
            ),
            (
                "NC-29",
                json!({ "http_protocol_options": {}, "http2_protocol_options": {} }),
                ".http2_protocol_options: found together",
            ),
            ("NC-39", checks(json!([grpc, grpc])), ".health_checks: found 2"),
            (
                "NC-40",
                checks(json!([http(json!({ "start": 99, "end": 200 }))])),
                ".health_checks[0].http_health_check.expected_statuses[0]: found 99",
            ),
            ("NC-41", checks(json!([grpc])), ".health_checks[0].grpc_health_check: found"),
            ("NC-42", checks(json!([tcp])), ".health_checks[0].tcp_health_check.send.text: found \"xyz\""),
            (
                "NC-43",
                json!({ "outlier_detection": { "base_ejection_time": "600s" } }),
                ".outlier_detection.max_ejection_time: found 300 s",
            ),
            (
                "NC-44",
                tls(json!({ "validation_context": { "trusted_ca": { "inline_string": "x" } } })),
                &format!("{common}.validation_context.trusted_ca: found no certificate"),
            ),
            (
                "NC-45",
                tls(json!({ "validation_context": { "match_typed_subject_alt_names": san } })),
                &format!("{common}.validation_context.trusted_ca: missing"),
            ),
            (
                "NC-48",
                tls(json!({ "tls_certificate_sds_secret_configs": sds })),
                &format!("{common}: found 2 certificates"),
            ),
            (
                "NC-51",
                json!({ "upstream_bind_config": { "source_address": { "address": "x", "port_value": 0 } } }),
                ".upstream_bind_config.source_address.address: found \"x\"",
            ),
        ],
    );
    accepted(
        ResourceType::Cluster,
        vec![
            json!({ "type": "STATIC" }),
            json!({ "type": "STRICT_DNS", "load_assignment": assignment(socket("1.1.1.1")) }),
            json!({ "type": "STRICT_DNS", "load_assignment": assignment(json!({ "pipe": { "path": "/p" } })) }),
            json!({ "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V2" } }, "load_assignment": assignment(socket("a.com")) }),
            json!({ "ring_hash_lb_config": { "minimum_ring_size": 8, "maximum_ring_size": 7 } }),
            json!({ "lb_policy": "MAGLEV" }),
            json!({ "load_assignment": { "cluster_name": "a", "endpoints": [{ "priority": 3 }] } }),
            json!({ "circuit_breakers": { "thresholds": [{}, {}] } }),
        ],
    );
}

#[test]
fn endpoints() {
    let with = |address: Value| json!({ "endpoints": assignment(address)["endpoints"] });
    let at = ".endpoints[0].lb_endpoints[0].endpoint.address";
    let drop_all = |numerator: u32| json!({ "policy": { "drop_overloads": [{ "category": "a", "drop_percentage": { "numerator": numerator } }] } });
    let category = json!({ "category": "a" });
    refused(
        ResourceType::Endpoint,
        vec![
            ("NP-03", with(socket("a.com")), &format!("{at}.socket_address.address: found \"a.com\"")),
            ("NP-03", with(socket("[::1]")), &format!("{at}.socket_address.address: found \"[::1]\"")),
            (
                "NP-04",
                with(json!({ "socket_address": { "address": "1.1.1.1", "named_port": "x" } })),
                &format!("{at}.socket_address.named_port"),
            ),
            (
                "NP-05",
                json!({ "endpoints": [{ "lb_endpoints": [{ "endpoint_name": "x" }] }] }),
                ".endpoints[0].lb_endpoints[0].endpoint: missing",
            ),
            (
                "NP-06",
                with(json!({ "pipe": { "path": "p".repeat(109) } })),
                &format!("{at}.pipe.path: found 109 bytes"),
            ),
            (
                "NP-07",
                json!({ "policy": { "drop_overloads": [category, category] } }),
                ".policy.drop_overloads: found 2",
            ),
            ("NP-08", drop_all(101), ".policy.drop_overloads[0].drop_percentage: found 101 of 100"),
        ],
    );
    accepted(
        ResourceType::Endpoint,
        vec![
            json!({}),
            with(socket("::1")),
            with(json!({ "socket_address": { "address": "0.0.0.0", "port_value": 0 } })),
            drop_all(100),
            json!({ "endpoints": [{ "priority": 2 }, { "priority": 2 }] }),
        ],
    );
}

/// A listener with these chains.
fn chains(chains: Value) -> Value {
    json!({ "address": socket("127.0.0.1"), "filter_chains": chains })
}

fn network(name: &str, fields: Value) -> Value {
    let mut config = fields;
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.network.{name}"));
    json!({ "name": "f", "typed_config": config })
}

fn http(name: &str, fields: Value) -> Value {
    let mut config = fields;
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{name}"));
    json!({ "name": "f", "typed_config": config })
}

/// A listener with a connection manager with these fields more.
fn manager(fields: Value) -> Value {
    let mut config = json!({ "stat_prefix": "s", "rds": { "route_config_name": "r", "config_source": { "ads": {} } } });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    chains(json!([{ "filters": [network("http_connection_manager.v3.HttpConnectionManager", config)] }]))
}

#[test]
fn listeners() {
    let matched =
        |one: Value, other: Value| chains(json!([{ "filter_chain_match": one }, { "filter_chain_match": other }]));
    let hcm = ".filter_chains[0].filters[0].typed_config";
    let (router, cors) = (http("router.v3.Router", json!({})), http("cors.v3.Cors", json!({})));
    let tcp = network("tcp_proxy.v3.TcpProxy", json!({ "stat_prefix": "s", "cluster": "c" }));
    let limit = network("connection_limit.v3.ConnectionLimit", json!({ "stat_prefix": "s", "max_connections": 1 }));
    let range =
        |address: &str, length: u32| json!({ "prefix_ranges": [{ "address_prefix": address, "prefix_len": length }] });
    let udp = json!({ "socket_address": { "protocol": "UDP", "address": "127.0.0.1", "port_value": 1 } });
    let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "a" }, { "upgrade_type": "A" }] });
    let inline = json!({ "rds": null, "route_config": hosts(&[&["a"], &["a"]]) });
    let tls = |context: Value| {
        let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        chains(
            json!([{ "transport_socket": { "name": "tls", "typed_config": { "@type": url, "common_tls_context": context } } }]),
        )
    };
    refused(
        ResourceType::Listener,
        vec![
            ("NL-01", json!({ "filter_chains": [{}] }), ".address: missing"),
            (
                "NL-02",
                json!({ "address": socket("a.com"), "filter_chains": [{}] }),
                ".address.socket_address.address: found",
            ),
            ("NL-05", json!({ "address": socket("127.0.0.1") }), ".filter_chains: missing"),
            ("NL-06", chains(json!([{}, {}])), ".filter_chains[1].filter_chain_match: found a match"),
            (
                "NL-07",
                matched(json!({ "server_names": ["a", "b"] }), json!({ "server_names": ["B"] })),
                ".filter_chains[1].filter_chain_match: found a match",
            ),
            (
                "NL-07",
                matched(range("10.1.2.3", 8), range("10.9.9.9", 8)),
                ".filter_chains[1].filter_chain_match: found a match",
            ),
            (
                "NL-07",
                matched(json!({ "server_names": ["a", "A"] }), json!({})),
                ".filter_chains[0].filter_chain_match.server_names[1]: found",
            ),
            (
                "NL-08",
                matched(json!({ "server_names": ["a*.com"] }), json!({})),
                ".filter_chains[0].filter_chain_match.server_names[0]: found \"a*.com\"",
            ),
            (
                "NL-09",
                matched(range("x", 8), json!({})),
                ".filter_chains[0].filter_chain_match.prefix_ranges[0].address_prefix: found",
            ),
            (
                "NL-11",
                matched(json!({ "suffix_len": 3 }), json!({})),
                ".filter_chains[0].filter_chain_match: found suffix_len",
            ),
            (
                "NL-13",
                chains(json!([{ "filters": [{ "name": "f" }] }])),
                ".filter_chains[0].filters[0].typed_config: missing",
            ),
            (
                "NL-15",
                chains(json!([{ "filters": [tcp, limit] }])),
                ".filter_chains[0].filters[0]: found a filter that ends",
            ),
            ("NL-15", chains(json!([{ "filters": [limit] }])), ".filter_chains[0].filters[0]: found a filter last"),
            (
                "NL-15",
                manager(json!({ "http_filters": [router, cors] })),
                &format!("{hcm}.http_filters[0]: found the router"),
            ),
            (
                "NL-15",
                manager(json!({ "http_filters": [cors] })),
                &format!("{hcm}.http_filters[0]: found a filter last"),
            ),
            ("NL-16", json!({ "address": udp, "filter_chains": [{}] }), ".filter_chains: found filter chains on a UDP"),
            (
                "NL-17",
                json!({ "address": udp, "additional_addresses": [{ "address": socket("127.0.0.1") }] }),
                ".additional_addresses: found both",
            ),
            (
                "NL-18",
                json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1, "ipv4_compat": true } }, "filter_chains": [{}] }),
                ".address.socket_address.ipv4_compat: found",
            ),
            (
                "NL-19",
                json!({ "address": socket("127.0.0.1"), "internal_listener": {}, "filter_chains": [{}] }),
                ".address: found an address",
            ),
            (
                "NL-22",
                tls(json!({})),
                ".filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificates: missing",
            ),
            ("NL-28", manager(upgrades), &format!("{hcm}.upgrade_configs[1].upgrade_type: found")),
            (
                "NL-29",
                manager(json!({ "strip_matching_host_port": true, "strip_any_host_port": true })),
                &format!("{hcm}.strip_any_host_port: found"),
            ),
            ("NL-32", manager(inline), &format!("{hcm}.route_config.virtual_hosts[1].domains[0]: found the domain")),
        ],
    );
    accepted(
        ResourceType::Listener,
        vec![
            chains(json!([{}])),
            json!({ "address": socket("127.0.0.1"), "default_filter_chain": {} }),
            matched(json!({ "server_names": ["a"] }), json!({ "server_names": ["*.a"] })),
            matched(range("10.0.0.0", 33), range("10.0.0.0", 8)),
            matched(json!({}), json!({ "destination_port": 1 })),
            manager(json!({})),
            manager(json!({ "http_filters": [cors, cors, router] })),
            json!({ "address": udp }),
            json!({ "api_listener": {} }),
        ],
    );
}

#[test]
fn secrets() {
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let inline = |text: &str| json!({ "inline_string": text });
    refused(
        ResourceType::Secret,
        vec![
            ("NS-05", json!({}), ": found an empty secret"),
            (
                "NS-05",
                json!({ "tls_certificate": { "certificate_chain": inline("hunter2"), "private_key": inline(&key) } }),
                ".tls_certificate.certificate_chain: found no certificate",
            ),
            (
                "NS-05",
                json!({ "tls_certificate": { "certificate_chain": inline(&chain), "private_key": inline("hunter2") } }),
                ".tls_certificate.private_key: found no private key",
            ),
            (
                "NS-05",
                json!({ "tls_certificate": { "certificate_chain": inline(&chain) } }),
                ".tls_certificate.private_key: missing",
            ),
            (
                "NS-05",
                json!({ "validation_context": { "trusted_ca": inline(&key) } }),
                ".validation_context.trusted_ca: found no certificate",
            ),
        ],
    );
    accepted(
        ResourceType::Secret,
        vec![
            json!({ "tls_certificate": { "certificate_chain": inline(&chain), "private_key": inline(&key) } }),
            json!({ "tls_certificate": { "certificate_chain": { "filename": "/c" }, "private_key": { "filename": "/k" } } }),
            json!({ "validation_context": { "trusted_ca": inline(&chain) } }),
        ],
    );
}
