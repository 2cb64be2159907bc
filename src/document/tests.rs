//! Whole documents: the examples of the contract, the corpus of bad documents, and texts that nobody wrote.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::key::{DocumentKey, Kind};
use super::{Document, Limits, MAX_BYTES, Parsed, Rejection, parse};

mod examples;
mod routes;

fn key(text: &str) -> DocumentKey {
    match text.split_once('/') {
        _ if text == "defaults" => DocumentKey::new(Kind::Defaults, ""),
        Some((word, name)) => match Kind::from_word(word) {
            Some(kind) => DocumentKey::new(kind, name),
            None => DocumentKey::new(Kind::Unknown, text),
        },
        None => DocumentKey::new(Kind::Unknown, text),
    }
}

fn parsed(key_text: &str, value: &Value) -> Result<Parsed, Rejection> {
    parse(&key(key_text), value.to_string().as_bytes(), &Limits::default())
}

fn rejected(key_text: &str, value: &str) -> String {
    parse(&key(key_text), value.as_bytes(), &Limits::default())
        .unwrap_err()
        .to_string()
}

/// The content of an entry of the manifest.
fn content(entry: &Value) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents");
    if let Some(file) = entry["file"].as_str() {
        return fs::read(folder.join(file)).unwrap();
    }
    match entry["generate"].as_str().unwrap() {
        "large" => vec![b' '; MAX_BYTES + 1],
        "deep" => [vec![b'['; 500_000], vec![b']'; 500_000]].concat(),
        "deep_objects" => [br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat(),
        "deep_yaml" => (0..1000)
            .map(|level| format!("{}a:\n", " ".repeat(level)))
            .collect::<String>()
            .into_bytes(),
        other => panic!("unknown generator {other}"),
    }
}

#[test]
fn every_document_of_the_corpus_is_rejected_with_its_sentence() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents/manifest.json");
    let entries: Vec<Value> = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    assert!(entries.len() >= 80);
    let mut wrong = Vec::new();
    for entry in &entries {
        let (reason, path) = (
            entry["reason_contains"].as_str().unwrap(),
            entry["path"].as_str().unwrap(),
        );
        match parse(
            &key(entry["key"].as_str().unwrap()),
            &content(entry),
            &Limits::default(),
        ) {
            Ok(parsed) => wrong.push(format!("{entry}: accepted as {:?}", parsed.document)),
            Err(rejection)
                if rejection.path == path
                    && rejection.reason.contains(reason)
                    && entry["sentence"]
                        .as_str()
                        .is_none_or(|sentence| sentence == rejection.to_string()) => {}
            Err(rejection) => wrong.push(format!("{entry}: {rejection:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn parse_route(value: &Value) -> super::route::Route {
    match &*parsed("routes/orders", value).unwrap().document {
        Document::Route(route) => route.clone(),
        other => panic!("{other:?}"),
    }
}

fn parse_cluster(value: &Value) -> super::cluster::Cluster {
    match &*parsed("clusters/orders", value).unwrap().document {
        Document::Cluster(cluster) => (**cluster).clone(),
        other => panic!("{other:?}"),
    }
}

fn full_route() -> Value {
    json!({
        "match": [{ "hosts": ["api.example.com"], "path": "/v1/orders/*", "methods": ["GET", "POST"],
                    "headers": { "x-tenant": "a" }, "query": { "v": { "present": true } } }],
        "to": [{ "cluster": "orders-v1", "weight": 95 }, { "cluster": "orders-v2", "weight": 5 }],
        "overrides": [{ "headers": { "x-env-tag": "canary-v2" }, "to": "orders-v2" }],
        "rewrite": { "prefix": "/orders/" },
        "timeout": "3s", "idle_timeout": "60s",
        "retry": { "attempts": 2, "on": ["connect-failure", "503"], "per_try_timeout": "1s",
                   "back_off": { "base": "25ms", "max": "250ms" } },
        "request_headers": { "set": { "x-from": "edge" }, "add": {}, "remove": ["x-debug"] },
        "response_headers": { "set": {} },
        "listeners": ["edge"], "groups": ["default"], "priority": 0, "enabled": true
    })
}

fn full_listener() -> Value {
    json!({
        "address": "0.0.0.0:80", "addresses": ["[::]:80"],
        "http": {
            "websocket": true, "redirect_to_https": { "port": 8443, "code": 308 }, "virtual_hosts": "all",
            "client_ip": { "trusted_cidrs": ["10.0.0.0/8"] }, "request_id": "keep", "underscores": "drop",
            "max_header_bytes": "32KiB", "max_headers": 50, "timeouts": { "idle": "none", "max_age": "1h" },
            "http10": true, "http2": { "max_streams": 10, "ping": { "interval": "30s", "timeout": "5s" } },
            "max_requests": 100, "server_header": "edge", "envoy_headers": true,
            "remove_request_headers": ["x-user"], "errors": "json",
            "access_log": [{ "to": "otlp:grpc://otel:4317", "format": { "path": "%PATH%" }, "fields": { "a": "b" },
                "only": { "status": ">=500", "percent": 50 }, "query": true }],
            "tracing": { "to": "otel", "sample_percent": 5, "trust_parent": false, "service": "edge",
                "tags": { "zone": "a", "tenant": { "header": "x-tenant" } } }
        },
        "proxy_protocol": { "versions": [2], "optional": true }, "connections": { "max": 1000 }, "buffer": "64KiB",
        "bind": { "backlog": 1024, "freebind": true, "tcp_keepalive": "none" }, "groups": ["edge"]
    })
}

fn full_cluster() -> Value {
    json!({
        "endpoints": [{ "address": "10.0.2.4:8080", "zone": "a", "weight": 10 },
                      { "address": "10.0.2.5:8080", "zone": "b", "priority": 1 }],
        "dns": null, "registry": null,
        "protocol": "http2", "connect_timeout": "2s",
        "lb": { "policy": "least_request", "slow_start": "30s", "locality": "zone_aware" },
        "health_check": { "http": "/healthz", "interval": "5s", "timeout": "1s", "healthy": 2, "unhealthy": 3 },
        "outlier_detection": { "consecutive_5xx": 5, "eject_for": "30s", "max_eject_percent": 30 },
        "circuit_breaker": { "connections": 1024, "pending": 1024, "requests": 1024, "retry_budget_percent": 20 },
        "on_demand": false
    })
}

#[test]
fn yaml_and_json_say_the_same() {
    let yaml = "match: POST /v1/users\nto: http://10.0.1.5:8080\ntimeout: 5s\n";
    let json = json!({ "match": "POST /v1/users", "to": "http://10.0.1.5:8080", "timeout": "5s" });
    let from_yaml = parse(&key("routes/orders"), yaml.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(from_yaml, parsed("routes/orders", &json).unwrap());
    let merged = "x: 1\n";
    assert_eq!(
        rejected("groups/a", merged),
        r#"x: unknown field, expected "name", "match" or "priority""#
    );
}

#[test]
fn fields_of_later_are_refused_by_name() {
    let refused = |key: &str, base: Value, pointer: &str, field: &str| {
        let mut document = base;
        document.pointer_mut(pointer).unwrap()[field] = json!({});
        let path = format!(
            "{}{field}",
            pointer.trim_start_matches('/').replace('/', ".") + if pointer.is_empty() { "" } else { "." }
        );
        assert_eq!(
            parsed(key, &document).unwrap_err(),
            Rejection::new(path, "not supported yet")
        );
    };
    refused("groups/edge", json!({ "match": [] }), "", "identities");
}

#[test]
fn secrets_in_a_document_are_not_quoted() {
    let documents = [
        json!({ "match": "/a", "to": "http://me:hunter2@10.0.0.1" }),
        json!({ "match": "/a", "to": "https://hunter2@10.0.0.1/x?y" }),
        json!({ "match": "/a", "request_headers": { "set": { "authorization": "Basic hunter2%" } } }),
        json!({ "match": "/a", "request_headers": { "set": { "authorization": "a%hunter2%b" } } }),
        json!({ "match": "/a", "request_headers": { "set": { "authorization": ["hunter2"] } } }),
        json!({ "match": "/a", "to": { "respond": { "status": 200, "body": ["hunter2"] } } }),
    ];
    for document in documents {
        assert!(
            !parsed("routes/a", &document)
                .unwrap_err()
                .to_string()
                .contains("hunter2"),
            "{document}"
        );
    }
}

/// One of the fields of a valid document replaced by something else.
fn mutated() -> impl Strategy<Value = (String, Value)> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[/~*{}a.:%-]{0,10}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let kinds = [
        "routes/a",
        "clusters/a",
        "listeners/a",
        "groups/a",
        "defaults",
        "services/a/1",
    ];
    (
        prop::sample::select(kinds.to_vec()),
        any::<prop::sample::Index>(),
        value,
    )
        .prop_map(|(key, at, value)| {
            let mut document = match key {
                "routes/a" => full_route(),
                "clusters/a" => full_cluster(),
                "listeners/a" => full_listener(),
                "groups/a" => json!({ "match": [{ "id": "a" }], "priority": 1 }),
                "defaults" => json!({ "route": { "timeout": "1s" }, "cluster": {}, "legacy_path": "exact" }),
                _ => json!({ "address": "10.0.0.1:80", "weight": 1 }),
            };
            let mut places = Vec::new();
            collect(&document, String::new(), &mut places);
            *document.pointer_mut(&places[at.index(places.len())]).unwrap() = value;
            (key.to_owned(), document)
        })
}

fn collect(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(key, value)| collect(value, format!("{place}/{key}"), places)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{place}/{index}"), places));
        }
        _ => {}
    }
    places.push(place);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in ["routes/a", "services/a/1"] {
            drop(parse(&key(kind), &bytes, &Limits::default()));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in r#"[\[\]{}:,"'&*!|>%@ \n\tab1.~/-]{0,60}"#) {
        for kind in ["routes/a", "services/a/1"] {
            drop(parse(&key(kind), text.as_bytes(), &Limits::default()));
        }
    }

    #[test]
    fn no_key_makes_it_panic(text in "\\PC{0,30}", kind in prop::sample::select(&Kind::ALL[..])) {
        drop(parse(&DocumentKey::new(kind, text.as_str()), b"{}", &Limits::default()));
        drop(parse(&DocumentKey::new(Kind::Unknown, text.as_str()), b"{}", &Limits::default()));
    }

    #[test]
    fn no_mutation_makes_it_panic((key_text, document) in mutated()) {
        if let Err(rejection) = parsed(&key_text, &document) {
            prop_assert!(rejection.to_string().len() < 4096);
            prop_assert!(!rejection.to_string().contains('\n'));
        }
    }

    #[test]
    fn no_pattern_makes_it_panic(pattern in r"[\[\]()a-c{}0-9,?*+|^$\\.dwpLi:<>P!&-]{0,30}") {
        drop(super::regex::program_size(&pattern));
    }

    #[test]
    fn no_path_or_host_makes_it_panic(text in r"[A-Ca-c/*{}=~.:\[\]0-9%? -]{0,30}") {
        drop(parsed("routes/a", &json!({ "match": text, "to": text })));
        drop(parsed("clusters/a", &json!({ "endpoints": [{ "address": text }] })));
    }
}
