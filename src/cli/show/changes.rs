//! What a change altered, in a few words: `to: orders-v2 5 % -> 100 %` of the texts before and after.

use std::collections::BTreeSet;

use serde_json::Value;

/// Most differences of a document that are told.
const TOLD: usize = 3;
/// Longest value, in characters.
const LONGEST: usize = 40;

/// The differences of two texts of a document; `None`: there is no such text.
pub(in crate::cli) fn of_texts(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (None, None) => String::new(),
        (None, Some(_)) => "new".to_owned(),
        (Some(_), None) => "deleted".to_owned(),
        (Some(before), Some(after)) => match (value(before), value(after)) {
            (Some(before), Some(after)) => of_values(&before, &after),
            _ => "another text".to_owned(),
        },
    }
}

/// The value of a text in JSON or YAML.
fn value(text: &str) -> Option<Value> {
    let json = serde_json::from_str(text).ok();
    json.or_else(|| serde_saphyr::from_str(text).ok())
}

fn of_values(before: &Value, after: &Value) -> String {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    if found.is_empty() {
        return "the same value, written otherwise".to_owned();
    }
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    let mut told = found.join("; ");
    if more > 0 {
        told.push_str(&format!("; and {more} more"));
    }
    told
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<String>) {
    if before == after {
        return;
    }
    if path == "to"
        && let (Some(before), Some(after)) = (before.and_then(shares), after.and_then(shares))
        && (before.len() > 1 || after.len() > 1)
    {
        found.push(of_shares(&before, &after));
        return;
    }
    match (before, after) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                compare(&path, one.get(name), other.get(name), found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}[{index}]"), Some(one), Some(other), found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) if one.iter().chain(other).any(is_large) => {
            found.push(format!("{path}: {} -> {} entries", one.len(), other.len()));
        }
        (before, after) => {
            let change = format!("{} -> {}", shown(before), shown(after));
            found.push(match path {
                "" => change,
                path => format!("{path}: {change}"),
            });
        }
    }
}

fn is_large(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    super::table::cut(&text, LONGEST)
}

/// The clusters of a target with their weights.
fn shares<'t>(target: &'t Value) -> Option<Vec<(&'t str, u64)>> {
    match target {
        Value::String(name) => Some(vec![(name, 1)]),
        Value::Array(targets) => {
            let share = |target: &'t Value| Some((target["cluster"].as_str()?, target["weight"].as_u64().unwrap_or(1)));
            targets.iter().map(share).collect()
        }
        target => Some(vec![(target["cluster"].as_str()?, 1)]),
    }
}

/// The clusters that get more of the requests; if none does, those that get less.
fn of_shares(before: &[(&str, u64)], after: &[(&str, u64)]) -> String {
    let share = |targets: &[(&str, u64)], name: &str| {
        let sum = targets.iter().map(|(_, weight)| weight).sum();
        let own = targets.iter().find(|(other, _)| *other == name);
        percent(own.map_or(0, |(_, weight)| *weight), sum)
    };
    let names: BTreeSet<&str> = before.iter().chain(after).map(|(name, _)| *name).collect();
    let all: Vec<(&str, u64, u64)> = names
        .into_iter()
        .map(|name| (name, share(before, name), share(after, name)))
        .collect();
    let gains = all.iter().filter(|(_, before, after)| before < after);
    let mut told: Vec<&(&str, u64, u64)> = gains.collect();
    if told.is_empty() {
        told.extend(all.iter().filter(|(_, before, after)| before > after));
    }
    if told.is_empty() {
        return "to: other weights, the same shares".to_owned();
    }
    let told: Vec<String> = told
        .into_iter()
        .map(|(name, before, after)| format!("{name} {before} % -> {after} %"))
        .collect();
    format!("to: {}", told.join(", "))
}

/// The per cent of a weight.
pub(in crate::cli) fn percent(weight: u64, sum: u64) -> u64 {
    (weight * 100 + sum / 2).checked_div(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> String {
        of_texts(Some(before), Some(after))
    }

    #[test]
    fn a_change_of_shares_is_told_in_per_cent() {
        let before = r#"{"to": [{"cluster": "v1", "weight": 95}, {"cluster": "v2", "weight": 5}]}"#;
        let after = r#"{"to": [{"cluster": "v1", "weight": 0}, {"cluster": "v2", "weight": 100}]}"#;
        assert_eq!(told(before, after), "to: v2 5 % -> 100 %");
        assert_eq!(told(before, "to: v1"), "to: v1 95 % -> 100 %");
        assert_eq!(told("to: v1", "to: v2"), "to: v1 -> v2");
        let scaled = before.replace("95", "950").replace(": 5}", ": 50}");
        assert_eq!(told(before, &scaled), "to: other weights, the same shares");
    }

    #[test]
    fn fields_are_told_with_their_path_and_both_values() {
        assert_eq!(
            told(
                r#"{"match": "/a", "retry": {"attempts": 2}}"#,
                "match: /a\nretry: {attempts: 3}\ntimeout: 5s\n"
            ),
            "retry.attempts: 2 -> 3; timeout: none -> 5s"
        );
        assert_eq!(told("a: [{x: 1}]", "a: [{x: 1}, {x: 2}]"), "a: 1 -> 2 entries");
        assert_eq!(told("a: [{x: 1}]", "a: [{x: 2}]"), "a[0].x: 1 -> 2");
        assert_eq!(
            told("{a: 1, b: 1, c: 1, d: 1}", "{}"),
            "a: 1 -> none; b: 1 -> none; c: 1 -> none; and 1 more"
        );
        assert_eq!(told("10.0.0.1:80", "10.0.0.2:80"), "10.0.0.1:80 -> 10.0.0.2:80");
        assert_eq!(told("{\"a\": 1}", "a: 1"), "the same value, written otherwise");
        assert_eq!(told("{", "a: 1"), "another text");
    }

    #[test]
    fn a_document_begins_and_ends() {
        assert_eq!(of_texts(None, Some("x")), "new");
        assert_eq!(of_texts(Some("x"), None), "deleted");
        assert_eq!(of_texts(None, None), "");
    }
}
