//! Documents with a value at its edge: what the server accepts, Envoy takes as it is compiled.

use std::collections::BTreeMap;

use chancery::document::DEFAULT_GROUP;
use serde_json::{Value, json};

use super::judge::Judge;
use super::{compiled, place, put, values};
use crate::bootstrap::put_together;

/// A place in a document, and what is tried there.
struct Slot {
    key: &'static str,
    base: Value,
    at: &'static str,
    values: Vec<Value>,
}

/// What a document becomes, and the value in it.
struct Made {
    place: String,
    clusters: Vec<Value>,
    listeners: Vec<Value>,
}

fn slots_of(key: &'static str, base: &Value, slots: Vec<(&'static str, Vec<Value>)>) -> Vec<Slot> {
    let slot = |(at, values)| Slot {
        key,
        base: base.clone(),
        at,
        values,
    };
    slots.into_iter().map(slot).collect()
}

fn each(values: Vec<Value>, make: impl Fn(Value) -> Value) -> Vec<Value> {
    values.into_iter().map(make).collect()
}

/// Objects with one header of each name.
fn named(names: Vec<Value>) -> Vec<Value> {
    each(names, |name| json!({ name.as_str().expect("a name"): "x" }))
}

/// Texts around another.
fn around(before: &str, values: Vec<Value>, after: &str) -> Vec<Value> {
    each(values, |value| {
        json!(format!("{before}{}{after}", value.as_str().unwrap_or_default()))
    })
}

fn route_slots() -> Vec<Slot> {
    use values::{formats, header_names, hosts, methods, numbers, paths, percent_signs, spans, statuses, templates};
    let to = "http://10.0.0.1:80";
    let plain = json!({ "match": "/a", "to": to });
    let mut slots = slots_of(
        "routes/a",
        &plain,
        vec![
            ("request_headers/set/x", formats()),
            ("response_headers/add/x", percent_signs()),
            ("request_headers/set", named(header_names())),
            ("response_headers/remove/0", header_names()),
            ("timeout", spans()),
            ("idle_timeout", spans()),
            (
                "retry",
                each(
                    spans(),
                    |time| json!({ "attempts": 1, "on": ["5xx"], "per_try_timeout": time }),
                ),
            ),
            (
                "retry",
                each(
                    spans(),
                    |time| json!({ "attempts": 1, "on": ["5xx"], "back_off": { "base": time } }),
                ),
            ),
            (
                "retry",
                each(
                    spans(),
                    |time| json!({ "attempts": 1, "on": ["5xx"], "back_off": { "base": "1ms", "max": time } }),
                ),
            ),
            (
                "retry",
                each(numbers(), |attempts| json!({ "attempts": attempts, "on": ["5xx"] })),
            ),
            (
                "retry",
                each(statuses(), |status| json!({ "attempts": 1, "on": [status] })),
            ),
            ("match", around("", paths(), "")),
            ("match", around("", templates(), "")),
            ("match", around("~", paths(), "")),
            ("match", around("", hosts(), "/a")),
            ("match", around("", methods(), " /a")),
            (
                "match",
                each(
                    header_names(),
                    |name| json!({ "headers": { name.as_str().expect("a name"): "x" } }),
                ),
            ),
            (
                "match",
                each(
                    header_names(),
                    |name| json!({ "query": { name.as_str().expect("a name"): "x" } }),
                ),
            ),
            ("match/hosts/0", hosts()),
            ("match/grpc", paths()),
            ("priority", numbers()),
            ("rewrite/host", hosts()),
            ("to", around("http://", hosts(), "")),
            ("to", around("http://", hosts(), ":80")),
            (
                "to",
                each(
                    values::weights(),
                    |pair| json!([{ "cluster": "a", "weight": pair[0] }, { "cluster": "b", "weight": pair[1] }]),
                ),
            ),
            ("to/redirect/host", hosts()),
            ("to/redirect/path", paths()),
            ("to/redirect/port", numbers()),
            (
                "to/redirect",
                each(
                    values::redirect_codes(),
                    |code| json!({ "scheme": "https", "code": code }),
                ),
            ),
            ("to/respond/status", statuses()),
            (
                "to/respond",
                named(header_names())
                    .into_iter()
                    .map(|headers| json!({ "status": 200, "headers": headers }))
                    .collect(),
            ),
            (
                "to/respond",
                each(
                    percent_signs(),
                    |value| json!({ "status": 200, "headers": { "x": value } }),
                ),
            ),
            (
                "to/respond",
                each(percent_signs(), |body| json!({ "status": 200, "body": body })),
            ),
            (
                "to/respond",
                each(
                    vec![json!(4096), json!(4097)],
                    |length| json!({ "status": 200, "body": "x".repeat(usize::try_from(length.as_u64().expect("a number")).expect("a small one")) }),
                ),
            ),
        ],
    );
    for condition in ["", "/prefix", "/suffix", "/contains", "/regex", "/not"] {
        let at = |field: &str| -> &'static str { format!("match/{field}/x{condition}").leak() };
        slots.extend(slots_of(
            "routes/a",
            &plain,
            vec![
                (at("headers"), paths()),
                (at("query"), paths()),
                (at("headers"), percent_signs()),
            ],
        ));
    }
    for matched in ["/a", "/a/*", "/*", "/a/{b}", "/a/{b=**}", "~/a.*"] {
        let forwards = json!({ "match": matched, "to": to });
        let redirects = json!({ "match": matched });
        slots.extend(slots_of("routes/a", &forwards, vec![("rewrite/prefix", paths())]));
        slots.extend(slots_of("routes/a", &redirects, vec![("to/redirect/prefix", paths())]));
    }
    let older = json!({ "path": "/a", "upstream": to });
    slots.extend(slots_of(
        "routes/a",
        &older,
        vec![
            ("path", paths()),
            ("host", hosts()),
            ("method", methods()),
            ("timeout_ms", numbers()),
            ("upstream", around("http://", hosts(), ":80")),
        ],
    ));
    slots.extend(slots_of(
        "listeners/a",
        &json!({ "address": "0.0.0.0:1" }),
        vec![("http/trusted_hops", numbers())],
    ));
    slots
}

fn cluster_slots() -> Vec<Slot> {
    use values::{addresses, hosts, numbers, paths, percents, spans};
    let registered = json!({});
    let listed = json!({ "endpoints": [{ "address": "10.0.0.1:80" }] });
    let port = |port: Value| json!(format!("10.0.0.1:{port}"));
    let mut slots = slots_of(
        "clusters/a",
        &registered,
        vec![
            ("connect_timeout", spans()),
            (
                "lb",
                each(spans(), |time| json!({ "policy": "least_request", "slow_start": time })),
            ),
            (
                "health_check",
                each(spans(), |time| json!({ "tcp": true, "interval": time })),
            ),
            (
                "health_check",
                each(spans(), |time| json!({ "tcp": true, "timeout": time })),
            ),
            (
                "health_check",
                each(numbers(), |count| json!({ "tcp": true, "healthy": count })),
            ),
            (
                "health_check",
                each(numbers(), |count| json!({ "tcp": true, "unhealthy": count })),
            ),
            ("health_check/http", paths()),
            ("outlier_detection/consecutive_5xx", numbers()),
            ("outlier_detection/eject_for", spans()),
            ("outlier_detection/max_eject_percent", numbers()),
            ("outlier_detection/max_eject_percent", percents()),
            ("circuit_breaker/connections", numbers()),
            ("circuit_breaker/pending", numbers()),
            ("circuit_breaker/requests", numbers()),
            ("circuit_breaker/retry_budget_percent", percents()),
            ("dns", around("", hosts(), ":80")),
        ],
    );
    let hashing = json!({ "endpoints": [{ "address": "10.0.0.1:80" }, { "address": "10.0.0.2:80" }], "lb": { "policy": "ring_hash" } });
    let grpc = json!({ "protocol": "http2" });
    slots.extend(slots_of("clusters/a", &grpc, vec![("health_check/grpc", paths())]));
    slots.extend(slots_of(
        "clusters/a",
        &hashing,
        vec![("endpoints/0/weight", numbers())],
    ));
    slots.extend(slots_of(
        "clusters/a",
        &listed,
        vec![
            ("endpoints/0/address", around("", addresses(), ":80")),
            ("endpoints/0/address", around("[", addresses(), "]:80")),
            ("endpoints/0/address", around("", hosts(), ":80")),
            ("endpoints/0/address", each(numbers(), port)),
            ("endpoints/0/weight", numbers()),
            ("endpoints/0/priority", numbers()),
            ("endpoints/0/zone", paths()),
        ],
    ));
    slots
}

#[tokio::test]
async fn what_documents_become_envoy_takes() {
    let judge = Judge::start().await;
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for made in all_made(&route_slots()) {
        for mut listener in made.listeners {
            let routes = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
            routes["validate_clusters"] = false.into();
            listeners.push((made.place.clone(), listener));
        }
    }
    for made in all_made(&cluster_slots()) {
        let named = |cluster| (made.place.clone(), cluster);
        clusters.extend(made.clusters.into_iter().map(named));
    }

    let resources: Vec<&Value> = listeners.iter().map(|(_, listener)| listener).collect();
    let said: BTreeMap<usize, String> = judge.listeners(&resources).await;
    let refused = said
        .iter()
        .map(|(index, words)| format!("{}: {words}", listeners[*index].0));
    let mut wrong: Vec<String> = refused.collect();
    let resources: Vec<&Value> = clusters.iter().map(|(_, cluster)| cluster).collect();
    if judge.clusters(&resources).await.is_some() {
        for (place, cluster) in &clusters {
            wrong.extend(judge.clusters(&[cluster]).await.map(|log| format!("{place}: {log}")));
        }
    }
    let count = listeners.len() + clusters.len();
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What the server accepts.
fn all_made(slots: &[Slot]) -> Vec<Made> {
    let mut all = Vec::new();
    for slot in slots {
        let before = all.len();
        let values = slot.values.iter();
        all.extend(values.filter_map(|value| made(slot, value)));
        assert!(
            all.len() > before,
            "nothing is accepted as {} of {}",
            slot.at,
            slot.base
        );
    }
    all
}

/// A document with a value in it as it is compiled; `None`: the server refuses it.
fn made(slot: &Slot, value: &Value) -> Option<Made> {
    let mut document = slot.base.clone();
    put(&mut document, slot.at, value.clone());
    let compiled = compiled(slot.key, &document).ok()?;
    let (clusters, listeners) = put_together(&compiled, DEFAULT_GROUP);
    Some(Made {
        place: place(slot.at, value),
        clusters,
        listeners,
    })
}
