//! The text at a key → a checked document.

use std::hint::black_box;

use chancery::document::key::{DocumentKey, Kind};
use chancery::document::{self, Limits};
use criterion::{Criterion, Throughput};

const SHORT: &str = r#"{ "match": "POST /v1/users", "to": "http://10.0.1.5:8080", "timeout": "5s" }"#;
const FULL: &str = r#"{
  "match": [ { "hosts": ["api.example.com"], "path": "/v1/orders/*", "methods": ["GET", "POST"],
               "headers": { "x-tenant": "a" }, "query": { "v": { "present": true } } } ],
  "to": [ { "cluster": "orders-v1", "weight": 95 }, { "cluster": "orders-v2", "weight": 5 } ],
  "rewrite": { "prefix": "/orders/" }, "timeout": "3s", "idle_timeout": "60s",
  "retry": { "attempts": 2, "on": ["connect-failure", "503"], "per_try_timeout": "1s" },
  "request_headers": { "set": { "x-from": "edge" }, "remove": ["x-debug"] },
  "listeners": ["edge"], "groups": ["default"] }"#;
const YAML: &str = "match: POST /v1/users\nto: http://10.0.1.5:8080\ntimeout: 5s\n";
const REGEX: &str = r#"{ "match": "~^/v1/users/[0-9]{1,10}$", "to": "users" }"#;
const OLDER: &str = r#"{ "service": "user-service", "method": "POST", "path": "/v1/users", "upstream": "http://10.0.1.5:8080", "timeout_ms": 5000, "enable": true }"#;
const CLUSTER: &str = r#"{ "endpoints": [ { "address": "10.0.2.4:8080", "zone": "a", "weight": 10 }, { "address": "10.0.2.5:8080" } ],
  "protocol": "http2", "connect_timeout": "2s" }"#;

pub(crate) fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let (route, cluster) = (
        DocumentKey::new(Kind::Routes, "user-service"),
        DocumentKey::new(Kind::Clusters, "orders"),
    );
    let registration = DocumentKey::new(Kind::Services, "x/1");
    let texts = [
        ("route, short", &route, SHORT),
        ("route, YAML", &route, YAML),
        ("route, regex", &route, REGEX),
        ("route, full", &route, FULL),
        ("route, older form", &route, OLDER),
        ("cluster", &cluster, CLUSTER),
        ("registration", &registration, "10.0.0.1:80"),
    ];
    for (name, key, text) in texts {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| document::parse(black_box(key), text.as_bytes(), &Limits::default()).expect("a document"));
        });
    }
    group.finish();
}
