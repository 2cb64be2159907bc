//! One route document of an older form → the documents of the full form in its place.

use serde_json::{Map, Value};

use crate::document::defaults::LegacyPath;
use crate::document::key::DocumentKey;

/// `timeout_ms` where it is absent or 0.
const DEFAULT_TIMEOUT_MS: u64 = 3000;

/// The documents in place of an accepted one, by name. The entries of a list that differ in their matches alone are one
/// document, of the same name; others are numbered below it.
///
/// # Errors
/// The reason why the full form cannot say the same.
pub(super) fn documents(
    key: &DocumentKey,
    value: &Value,
    legacy_path: LegacyPath,
) -> Result<Vec<(String, Value)>, String> {
    let entries = match value {
        Value::Array(entries) => entries.as_slice(),
        object => std::slice::from_ref(object),
    };
    let written = entries
        .iter()
        .map(|entry| document(entry, legacy_path))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((_, first)) = written.first() else {
        return Err("the list is empty, delete the document".to_owned());
    };

    if written.iter().all(|(_, rest)| rest == first) {
        let rest = first.clone();
        let mut matches: Vec<String> = written.into_iter().map(|(matched, _)| matched).collect();
        let matched = match matches.len() {
            1 => matches.remove(0).into(),
            _ => matches.into(),
        };
        return Ok(vec![(key.name.to_string(), whole(matched, rest))]);
    }
    let numbered = written.into_iter().zip(1..).map(|((matched, rest), number)| {
        let name = format!("{}/{number}", key.name);
        (name, whole(matched.into(), rest))
    });
    Ok(numbered.collect())
}

fn whole(matched: Value, rest: Map<String, Value>) -> Value {
    let mut document = Map::from_iter([("match".to_owned(), matched)]);
    document.extend(rest);
    document.into()
}

/// The match of an entry, and the other fields of its document.
fn document(entry: &Value, legacy_path: LegacyPath) -> Result<(String, Map<String, Value>), String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let path = text("path").unwrap_or("/");
    if path.contains(['*', '{', '}']) {
        return Err(format!(
            "path: {path:?} has letters that stand for others in the full form"
        ));
    }
    let path = match legacy_path {
        LegacyPath::Exact => path.to_owned(),
        LegacyPath::Prefix => format!("{}/*", path.trim_end_matches('/')),
    };
    let method = text("method").map(str::to_ascii_uppercase);
    let method = method.filter(|method| !matches!(method.as_str(), "*" | "ANY"));
    let method = method.map_or_else(String::new, |method| format!("{method} "));

    let mut rest = Map::new();
    if let Some(to) = text("upstream").or_else(|| text("service")) {
        rest.insert("to".to_owned(), to.into());
    }
    rest.insert("timeout".to_owned(), timeout(entry).into());
    if entry.get("enable").and_then(Value::as_bool) == Some(false) {
        rest.insert("enabled".to_owned(), false.into());
    }
    Ok((format!("{method}{}{path}", text("host").unwrap_or_default()), rest))
}

fn timeout(entry: &Value) -> String {
    let millis = entry.get("timeout_ms").and_then(Value::as_u64);
    match millis.filter(|millis| *millis > 0).unwrap_or(DEFAULT_TIMEOUT_MS) {
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::key::Kind;

    fn converted(value: &Value, legacy_path: LegacyPath) -> Result<Vec<(String, Value)>, String> {
        documents(&DocumentKey::new(Kind::Routes, "users"), value, legacy_path)
    }

    fn one(name: &str, value: Value) -> Result<Vec<(String, Value)>, String> {
        Ok(vec![(name.to_owned(), value)])
    }

    #[test]
    fn an_object_becomes_one_document() {
        let first = json!({ "service": "user-service", "method": "post", "path": "/v1/users", "timeout_ms": 2500 });
        assert_eq!(
            converted(&first, LegacyPath::Exact),
            one(
                "users",
                json!({ "match": "POST /v1/users", "to": "user-service", "timeout": "2500ms" })
            )
        );
        let second = json!({ "host": "api.example.com", "path": "/v1/users/", "method": "ANY", "service": "",
            "upstream": "http://10.0.1.5:8080", "timeout_ms": 0, "enable": false });
        let document = json!({ "match": "api.example.com/v1/users/*", "to": "http://10.0.1.5:8080", "timeout": "3s",
            "enabled": false });
        assert_eq!(converted(&second, LegacyPath::Prefix), one("users", document));
    }

    #[test]
    fn a_list_becomes_one_document_if_only_matches_differ() {
        let list = json!([{ "path": "/a", "service": "s" }, { "path": "/b", "method": "GET", "service": "s" }]);
        let document = json!({ "match": ["/a", "GET /b"], "to": "s", "timeout": "3s" });
        assert_eq!(converted(&list, LegacyPath::Exact), one("users", document));
        let list = json!([{ "path": "/a", "service": "s" }, { "path": "/b", "service": "t" }]);
        let names: Vec<String> = converted(&list, LegacyPath::Exact)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["users/1", "users/2"]);
    }

    #[test]
    fn letters_of_patterns_are_refused() {
        let reason = converted(&json!({ "path": "/a/{id}" }), LegacyPath::Exact).unwrap_err();
        assert!(reason.contains("{id}"), "{reason}");
    }
}
