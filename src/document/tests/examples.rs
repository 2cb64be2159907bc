//! Examples of each kind (docs/documents/), and the documents that they become.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::cluster::{Settings as ClusterSettings, *};
use super::super::endpoint::Endpoint;
use super::super::group::{Group, LocalityMatch, NodeMatch};
use super::super::host::Host;
use super::super::listener::{AccessLog, ClientIp, Http, Listener, LogFormat, Only, Sink};
use super::super::policy::Items;
use super::super::route::{self, *};
use super::*;

fn url(host: &str, port: u16) -> Upstream {
    Upstream::Url(UpstreamUrl {
        http2: false,
        https: false,
        host: host.to_owned(),
        port,
    })
}

fn to(upstream: Upstream) -> Action {
    Action::Forward(vec![Target { upstream, weight: 1 }])
}

fn exact(path: &str, methods: &[&str]) -> Match {
    Match {
        hosts: vec![HostPattern::Any],
        path: PathMatch::Exact(path.to_owned()),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    }
}

#[test]
fn shortest_route() {
    let document = json!({ "match": "POST /v1/users", "to": "http://10.0.1.5:8080", "timeout": "5s" });
    let timeout = Some(Limit::After(Duration::from_secs(5)));
    let expected = Route {
        rules: vec![Rule {
            place: "match".to_owned(),
            matches: exact("/v1/users", &["POST"]),
            action: to(url("10.0.1.5", 8080)),
            rewrite: Rewrite::default(),
            mirrors: Vec::new(),
            settings: route::Settings {
                timeout,
                ..route::Settings::default()
            },
            policies: Items::default(),
            enabled: true,
        }],
        listeners: None,
        groups: None,
        priority: 0,
        enabled: true,
        tests: Vec::new(),
    };
    assert_eq!(parse_route(&document), expected);
}

#[test]
fn full_route() {
    let matches = Match {
        hosts: vec![HostPattern::Exact("api.example.com".into())],
        path: PathMatch::Prefix("/v1/orders".to_owned()),
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        headers: vec![("x-tenant".to_owned(), StringMatch::Exact("a".to_owned()))],
        query: vec![("v".to_owned(), StringMatch::Present(true))],
        grpc: false,
    };
    let settings = route::Settings {
        timeout: Some(Limit::After(Duration::from_secs(3))),
        idle_timeout: Some(Limit::After(Duration::from_secs(60))),
        retry: Some(Retry {
            attempts: 2,
            on: vec!["connect-failure".to_owned(), "503".to_owned()],
            per_try_timeout: Some(Duration::from_secs(1)),
            back_off: Some(BackOff {
                base: Duration::from_millis(25),
                max: Some(Duration::from_millis(250)),
            }),
            another_endpoint: true,
        }),
        request_headers: Some(HeaderEdits {
            set: BTreeMap::from([("x-from".to_owned(), "edge".to_owned())]),
            add: BTreeMap::new(),
            remove: vec!["x-debug".to_owned()],
        }),
        response_headers: Some(HeaderEdits::default()),
        ..route::Settings::default()
    };
    let target = |name: &str, weight| Target {
        upstream: Upstream::Cluster(name.into()),
        weight,
    };
    let rewrite = Rewrite {
        prefix: Some("/orders/".to_owned()),
        host: None,
        ..Rewrite::default()
    };
    let canary = ("x-env-tag".to_owned(), StringMatch::Exact("canary-v2".to_owned()));
    let expected = Route {
        rules: vec![
            Rule {
                place: "overrides[0]".to_owned(),
                matches: Match {
                    headers: vec![matches.headers[0].clone(), canary],
                    ..matches.clone()
                },
                action: to(Upstream::Cluster("orders-v2".into())),
                rewrite: rewrite.clone(),
                mirrors: Vec::new(),
                settings: settings.clone(),
                policies: Items::default(),
                enabled: true,
            },
            Rule {
                place: "match[0]".to_owned(),
                matches,
                action: Action::Forward(vec![target("orders-v1", 95), target("orders-v2", 5)]),
                rewrite,
                mirrors: Vec::new(),
                settings,
                policies: Items::default(),
                enabled: true,
            },
        ],
        listeners: Some(vec!["edge".into()]),
        groups: Some(BTreeSet::from([Arc::from("default")])),
        priority: 0,
        enabled: true,
        tests: Vec::new(),
    };
    assert_eq!(parse_route(&super::full_route()), expected);
}

#[test]
fn older_forms() {
    let legacy = |matches: Match, upstream, timeout, place: &str, enabled| Rule {
        place: place.to_owned(),
        matches: Match {
            path: PathMatch::Legacy("/v1/users".to_owned()),
            ..matches
        },
        action: to(upstream),
        rewrite: Rewrite::default(),
        mirrors: Vec::new(),
        settings: route::Settings {
            timeout: Some(Limit::After(Duration::from_millis(timeout))),
            ..route::Settings::default()
        },
        policies: Items::default(),
        enabled,
    };
    let first = json!({ "service": "user-service", "method": "POST", "path": "/v1/users",
                        "upstream": "http://10.0.1.5:8080", "timeout_ms": 5000, "enable": true });
    let second = json!({ "host": "api.example.com", "path": "/v1/users", "service": "user-service", "enable": false });
    let hosts = vec![HostPattern::Exact("api.example.com".into())];
    let service = || Upstream::Cluster("user-service".into());
    let one = parse_route(&first);
    assert_eq!(
        one.rules,
        [legacy(exact("", &["POST"]), url("10.0.1.5", 8080), 5000, "path", true)]
    );
    assert!(one.enabled && !parse_route(&second).enabled);
    let both = parse_route(&json!([first, second]));
    let expected = [
        legacy(exact("", &["POST"]), url("10.0.1.5", 8080), 5000, "[0]", true),
        legacy(
            Match {
                hosts,
                ..exact("", &[])
            },
            service(),
            3000,
            "[1]",
            false,
        ),
    ];
    assert_eq!((both.rules, both.enabled), (expected.to_vec(), true));
}

#[test]
fn older_forms_keep_their_keys() {
    let older = json!({ "path": "/v1/users", "service": "users" });
    for key in [
        "routes/UserService",
        "routes/team-a/users/v1/list",
        "routes/routes:42",
        "routes/größe",
    ] {
        assert!(parsed(key, &older).is_ok(), "{key}");
        assert!(parsed(key, &json!([older])).is_ok(), "{key}");
        let present = parsed(key, &json!({ "match": "/v1/users", "to": "users" })).unwrap_err();
        assert!(
            present.reason.contains("in the key") || present.reason.contains("found the key"),
            "{present}"
        );
    }
    let reason = |key, document| parsed(key, &document).unwrap_err().reason;
    assert_eq!(
        reason("routes/", older.clone()),
        "found no name in the key after its prefix, expected one"
    );
    assert_eq!(
        reason("routes/a\nb", older),
        r#"found the key "routes/a\nb", expected one without control characters"#
    );
    assert_eq!(
        reason("routes/Users/list", json!({ "path": "/v1/users" })),
        r#"found neither "upstream" nor "service", and "Users" in the key is no cluster's name"#
    );
}

#[test]
fn unknown_field_of_an_older_form_is_a_warning() {
    let parsed = parsed("routes/a", &json!([{ "path": "/a", "upstrem": "x" }])).unwrap();
    assert_eq!(
        parsed.warnings,
        [r#"[0].upstrem: unknown field, ignored, did you mean "upstream"?"#]
    );
}

#[test]
fn full_cluster() {
    let endpoint = |ip: &str, zone: &str, weight, priority| Endpoint {
        host: Host::Ip(ip.parse().unwrap()),
        port: 8080,
        zone: Some(zone.to_owned()),
        weight,
        priority,
        draining: false,
        metadata: BTreeMap::new(),
    };
    let expected = Cluster {
        source: Source::Listed(vec![endpoint("10.0.2.4", "a", 10, 0), endpoint("10.0.2.5", "b", 1, 1)]),
        settings: ClusterSettings {
            protocol: Some(Protocol::Http2),
            connect_timeout: Some(Duration::from_secs(2)),
            lb: Some(LoadBalancing {
                policy: LbPolicy::LeastRequest,
                slow_start: Some(Duration::from_secs(30)),
                locality: Some(LocalityMode::ZoneAware),
                ..LoadBalancing::default()
            }),
            health_check: Some(HealthCheck {
                check: Check::Http("/healthz".to_owned()),
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy: 2,
                unhealthy: 3,
            }),
            outlier_detection: Some(OutlierDetection {
                consecutive_5xx: 5,
                eject_for: Duration::from_secs(30),
                max_eject_percent: 30,
            }),
            circuit_breaker: Some(CircuitBreaker {
                connections: Some(1024),
                pending: Some(1024),
                requests: Some(1024),
                retry_budget_percent: Some(20.0),
                ..CircuitBreaker::default()
            }),
            ..ClusterSettings::default()
        },
        tls: None,
        credential: None,
        failover: Vec::new(),
        guard: None,
        on_demand: false,
        policies: Items::default(),
        groups: None,
    };
    assert_eq!(parse_cluster(&super::full_cluster()), expected);
    assert_eq!(parse_cluster(&json!({})).source, Source::Registered);
    let dns = Source::Dns {
        host: "orders.internal".to_owned(),
        port: 8080,
    };
    assert_eq!(parse_cluster(&json!({ "dns": "Orders.internal:8080" })).source, dns);
}

#[test]
fn listener_group_and_registrations() {
    let listener =
        json!({ "address": "0.0.0.0:8443", "groups": ["edge"], "http": { "trusted_hops": 1, "access_log": "json" } });
    let log = AccessLog {
        to: Sink::Stdout,
        format: LogFormat::Json,
        fields: BTreeMap::new(),
        only: Only::default(),
        query: false,
    };
    let expected = Listener {
        address: Some("0.0.0.0:8443".parse().unwrap()),
        addresses: Vec::new(),
        tcp: None,
        tls: None,
        settings: super::super::listener::Settings {
            http: Some(Box::new(Http {
                client_ip: ClientIp::TrustedHops(1),
                access_log: vec![log],
                ..Http::default()
            })),
            ..Default::default()
        },
        policies: Items::default(),
        groups: Some(BTreeSet::from([Arc::from("edge")])),
    };
    assert_eq!(
        *parsed("listeners/a", &listener).unwrap().document,
        Document::Listener(expected)
    );
    let api = Listener {
        address: None,
        addresses: Vec::new(),
        tcp: None,
        tls: None,
        settings: super::super::listener::Settings::default(),
        policies: Items::default(),
        groups: None,
    };
    assert_eq!(
        *parsed("listeners/a", &json!({ "api": true })).unwrap().document,
        Document::Listener(api)
    );
    let group =
        json!({ "match": [{ "id": "edge-*", "cluster": "c", "metadata": {}, "locality": "z" }], "priority": 2 });
    let locality = LocalityMatch {
        zone: Some("z".to_owned()),
        ..LocalityMatch::default()
    };
    let matches = NodeMatch {
        id: Some("edge-*".to_owned()),
        cluster: Some("c".to_owned()),
        locality,
        ..NodeMatch::default()
    };
    let expected = Document::Group(Group {
        matches: vec![matches],
        priority: 2,
    });
    assert_eq!(*parsed("groups/a", &group).unwrap().document, expected);
    let endpoint = Endpoint {
        host: Host::Ip("10.0.2.4".parse().unwrap()),
        port: 8080,
        zone: None,
        weight: 1,
        priority: 0,
        draining: false,
        metadata: BTreeMap::new(),
    };
    let registered = |text: &str| match &*parse(&key("services/a/1"), text.as_bytes(), &Limits::default())
        .unwrap()
        .document
    {
        Document::Endpoint(registration) => registration.endpoint().clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(registered("10.0.2.4:8080\n"), endpoint);
    assert_eq!(
        registered(r#"{"Op":0,"Addr":"10.0.2.4:8080","Metadata":null}"#),
        endpoint
    );
    for metadata in [json!(["v1"]), json!("v1"), json!(1), json!(true)] {
        let text = json!({ "Op": 0, "Addr": "10.0.2.4:8080", "Metadata": metadata }).to_string();
        let metadata = BTreeMap::from([("metadata".to_owned(), metadata)]);
        assert_eq!(
            registered(&text),
            Endpoint {
                metadata,
                ..endpoint.clone()
            },
            "{text}"
        );
    }
    assert_eq!(
        registered(r#"{"address":"10.0.2.4:8080","weight":0,"state":"up"}"#),
        Endpoint {
            draining: true,
            ..endpoint.clone()
        }
    );
    let native = r#"{"address":"10.0.2.4:8080","weight":3,"zone":"","priority":1,"state":"drain","metadata":{"a":1}}"#;
    let metadata = BTreeMap::from([("a".to_owned(), json!(1))]);
    assert_eq!(
        registered(native),
        Endpoint {
            weight: 3,
            priority: 1,
            draining: true,
            metadata,
            ..endpoint
        }
    );
}

#[test]
fn a_final_marker_of_yaml_starts_no_second_document() {
    let limits = Limits::default();
    let taken = |text: &str| parse(&key("clusters/a"), text.as_bytes(), &limits).is_ok();
    for one in [
        "dns: a.internal:80\n---\n",
        "dns: a.internal:80\n--- # the end\n",
        "dns: a.internal:80\n---\n\n# the end\n  # of it\n",
        "--- # the cluster\ndns: a.internal:80\n",
        "# the cluster\n---\t# it\ndns: a.internal:80\n---",
        "---\r\ndns: a.internal:80\r\n--- # the end\r\n",
    ] {
        assert!(taken(one), "{one:?}");
    }
    for two in [
        "dns: a.internal:80\n---\n---\n",
        "dns: a.internal:80\n--- # the end\n--- # of it\n",
        "dns: a.internal:80\n--- # more\ndns: b.internal:80\n",
        "dns: a.internal:80\n--- more\n",
        "dns: a.internal:80\n---#\n",
        "--- # nothing\n",
    ] {
        assert!(!taken(two), "{two:?}");
    }
}

#[test]
fn listed_endpoints_drain_as_registered_ones_do() {
    let document = json!({ "endpoints": [
        { "address": "10.0.2.4:8080", "state": "drain" },
        { "address": "10.0.2.5:8080", "state": "up" },
        { "address": "10.0.2.6:8080", "weight": 0, "state": "up" },
    ] });
    match parse_cluster(&document).source {
        Source::Listed(endpoints) => {
            let draining: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.draining).collect();
            assert_eq!(draining, [true, false, true]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        rejected(
            "clusters/a",
            r#"{"endpoints":[{"address":"10.0.2.4:8080","state":"down"}]}"#
        ),
        r#"endpoints[0].state: found the string "down", expected "up" or "drain""#
    );
}

#[test]
fn templates_and_formats_beyond_envoys_limits_are_rejected() {
    let set =
        |name: &str, value: &str| json!({ "match": "/a", "to": "b", "request_headers": { "set": { name: value } } });
    let long = format!("/{{id}}/{}", "a".repeat(256));
    let bad = [
        set("x-a", "%REQ(:)%"),
        set("x-a", "%REQ(::x)%"),
        json!({ "match": long, "to": "b" }),
    ];
    for document in bad {
        assert!(parsed("routes/a", &document).is_err(), "{document}");
    }
    parsed("routes/a", &set("x-a", "%REQ(:path)%")).unwrap();
}
