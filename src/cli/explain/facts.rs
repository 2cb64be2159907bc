//! Facts about the documents of an explanation: the match and the age of the route, the reason of an empty cluster.
//!
//! A fact that the server does not know is left out.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use crate::cli::remote::{Session, document_path, short, text};
use crate::cli::show::age;

/// Fields of a cluster that say where its endpoints are; without one, instances register themselves.
const SOURCES: [&str; 3] = ["endpoints", "dns", "registry"];

/// The facts of people's answers.
#[derive(Default)]
pub(super) struct Facts {
    /// The match of the route and the condition of its override.
    pub(super) rule: Option<String>,
    /// `changed 4 min ago`
    pub(super) changed: Option<String>,
    /// Why a cluster has no endpoint, by full key.
    pub(super) empty: BTreeMap<String, String>,
}

impl Facts {
    /// Ask for the documents of an explanation.
    pub(super) async fn ask(session: &Session, body: &Value, now: SystemTime) -> Self {
        let mut facts = Self::default();
        let route = &body["route"];
        if let Some(key) = route["key"].as_str()
            && let Ok(document) = session.get(document_path(&short(key))).await
        {
            facts.rule = rule(
                &document.body["value"],
                text(route, "entry"),
                route["override"].as_u64(),
            );
            let age = age::long_since(&document.body["modified_at"], now);
            facts.changed = age.map(|age| format!("changed {age} ago"));
        }
        let clusters = body["destination"]["clusters"].as_array().into_iter().flatten();
        for cluster in clusters.filter(|cluster| cluster["total"] == 0) {
            let Some(key) = cluster["key"].as_str() else { continue };
            let Ok(document) = session.get(document_path(&short(key))).await else {
                continue;
            };
            let registers = SOURCES.iter().all(|field| document.body["value"].get(field).is_none());
            let mut why = match registers {
                true => format!("none below services/{}/", text(cluster, "name")),
                false => "none is listed".to_owned(),
            };
            if let Ok(status) = session.get("/api/v1/status").await {
                let items = status.body["attention"].as_array().into_iter().flatten();
                let mut of_cluster = items.filter(|item| item["kind"] == "empty" && item["key"] == key);
                if let Some(age) = of_cluster.find_map(|item| age::long_since(&item["since"], now)) {
                    why.push_str(&format!(" for {age}"));
                }
            }
            facts.empty.insert(key.to_owned(), why);
        }
        facts
    }
}

/// `/v1/orders/*  POST  overrides[0] (x-env-tag)`: the entry of a route's match, and the names in the condition of its
/// override.
fn rule(document: &Value, entry: &str, override_index: Option<u64>) -> Option<String> {
    let (document, entry) = match entry.strip_prefix('[') {
        // An array of routes in one document.
        Some(rest) => (document.get(index(rest)?)?, "match"),
        None => (document, entry),
    };
    let matches = match (&document["match"], entry.strip_prefix("match[")) {
        (Value::Array(all), Some(rest)) => all.get(index(rest)?)?,
        (Value::Array(all), None) => all.first()?,
        (only, _) => only,
    };
    let mut words = match matches {
        Value::String(text) => of_text(text),
        Value::Object(_) => {
            let path = matches["path"]
                .as_str()
                .or_else(|| matches["grpc"].as_str())
                .unwrap_or("*");
            let methods: Vec<&str> = names_of(&matches["methods"]).collect();
            let mut words = vec![path.to_owned()];
            words.extend((!methods.is_empty()).then(|| methods.join("|")));
            words.extend(conditions(matches));
            words
        }
        _ => Vec::new(),
    };
    if let Some(index) = override_index {
        let condition = usize::try_from(index)
            .ok()
            .and_then(|index| document["overrides"].get(index));
        let named = condition.and_then(conditions).map(|names| format!(" {names}"));
        words.push(format!("overrides[{index}]{}", named.unwrap_or_default()));
    }
    (!words.is_empty()).then(|| words.join("  "))
}

/// Path and methods of `METHODS HOST/PATH`.
fn of_text(text: &str) -> Vec<String> {
    let (methods, rest) = text.split_once(' ').unwrap_or(("", text));
    let path = rest.find(['/', '~']).map_or(rest, |start| &rest[start..]);
    let mut words = vec![path.to_owned()];
    words.extend((!methods.is_empty()).then(|| methods.to_owned()));
    words
}

/// `(x-env-tag, v)`: the headers and parameters of a condition.
fn conditions(of: &Value) -> Option<String> {
    let names = ["headers", "query"].iter().filter_map(|field| of[field].as_object());
    let names: Vec<&str> = names.flat_map(|fields| fields.keys().map(String::as_str)).collect();
    (!names.is_empty()).then(|| format!("({})", names.join(", ")))
}

fn names_of(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The number before a bracket.
fn index(rest: &str) -> Option<usize> {
    rest.split(']').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_told_in_few_words() {
        let told = |document: Value, entry: &str, of: Option<u64>| rule(&document, entry, of);
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(
            told(json!({ "match": "POST a.b/v1/*" }), "match", None),
            of("/v1/*  POST")
        );
        assert_eq!(told(json!({ "match": "/a" }), "match", None), of("/a"));
        let several = json!({
            "match": ["/a", { "path": "/b", "methods": ["GET", "POST"], "query": { "v": "1" } }],
            "overrides": [{ "headers": { "x-env-tag": "canary" } }],
        });
        assert_eq!(
            told(several.clone(), "match[1]", Some(0)),
            of("/b  GET|POST  (v)  overrides[0] (x-env-tag)")
        );
        assert_eq!(told(several, "match[0]", None), of("/a"));
        assert_eq!(
            told(json!([{ "match": "/a" }, { "match": "/b" }]), "[1]", None),
            of("/b")
        );
        assert_eq!(told(json!({ "path": "/old" }), "match", None), None);
    }
}
