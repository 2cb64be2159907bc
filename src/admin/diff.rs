//! `GET /api/v1/diff`: the difference of two revisions, as texts of documents or as resources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use super::Admin;
use super::earlier;
use super::entry::{is_secret, shown_text};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params, values};
use super::revisions::{is_xds_secret, located, number, shown_at, shown_now};
use crate::document::DEFAULT_GROUP;
use crate::journal::{Shown, TextAt};
use crate::proto::json::to_json;
use crate::proto::redact::redact;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::Snapshot;

/// Lines around a change.
const CONTEXT: usize = 3;
/// Longest search for the shortest difference of two texts; then a longer one is shown.
const DIFF_WITHIN: Duration = Duration::from_millis(200);
/// Resources of one type in an answer, and changes of one resource.
const MOST: usize = 1000;

#[derive(Serialize)]
struct OfDocuments {
    from: i64,
    to: i64,
    view: &'static str,
    documents: Vec<Document>,
}

#[derive(Serialize)]
struct Document {
    key: String,
    kind: &'static str,
    name: String,
    action: &'static str,
    #[serde(rename = "secret", skip_serializing_if = "std::ops::Not::not")]
    is_secret: bool,
    /// Null: a secret.
    diff: Option<String>,
}

#[derive(Serialize)]
struct OfResources {
    from: i64,
    to: i64,
    view: &'static str,
    group: String,
    types: BTreeMap<&'static str, Type>,
}

#[derive(Default, Serialize)]
struct Type {
    added: Vec<String>,
    changed: Vec<Changed>,
    removed: Vec<String>,
    /// The lists are longer than shown.
    #[serde(rename = "cut", skip_serializing_if = "std::ops::Not::not")]
    is_cut: bool,
}

#[derive(Serialize)]
struct Changed {
    name: String,
    changes: Vec<Field>,
}

/// A value of a resource that differs; absent on one side: null.
#[derive(Debug, PartialEq, Serialize)]
struct Field {
    pointer: String,
    before: Value,
    after: Value,
}

pub(super) async fn diff(Shared(admin): Shared<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["from", "to", "view", "group"])?;
    let Some(from) = number(&query, "from")? else {
        return Err(Problem::new(
            Code::InvalidRequest,
            "query parameter `from` is missing, expected a revision",
        ));
    };
    let to = number(&query, "to")?;
    shown_at(&admin, from.max(to.unwrap_or(from))).await?;
    let shown = shown_now(&admin).await;
    shown.check(from)?;
    to.map_or(Ok(()), |to| shown.check(to))?;
    match values(&query, "view").last() {
        None | Some("documents") => of_documents(&admin, &shown, from, to.unwrap_or(shown.at)).await,
        Some("xds") => of_resources(&admin, &shown, from, to, &query).await,
        Some(other) => {
            let detail = format!("query parameter `view`: found `{other}`, expected documents or xds");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

async fn of_documents(admin: &Admin, shown: &Shown, from: i64, to: i64) -> Result<Response, Problem> {
    let between = shown
        .book
        .after(from.min(to))
        .take_while(|entry| entry.revision <= from.max(to));
    let keys: BTreeSet<Arc<str>> = between
        .flat_map(|entry| entry.documents.iter().map(|changed| Arc::clone(&changed.key)))
        .collect();
    let (before, after) = (shown.texts_at(from)?, shown.texts_at(to)?);
    let world = admin.world.load_full();
    let mut documents = Vec::new();
    for full_key in keys {
        let before = value(admin, &full_key, before.get(&full_key)).await?;
        let after = value(admin, &full_key, after.get(&full_key)).await?;
        let action = match (&before, &after) {
            (before, after) if before == after => continue,
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        let key = located(&world, &full_key);
        let is_secret = is_secret(&key) || is_xds_secret(&key);
        let text = |value: Option<Vec<u8>>| value.map(|value| shown_text(&key, &value).unwrap_or_default());
        let diff = (!is_secret).then(|| unified(&full_key, text(before), text(after)));
        documents.push(Document {
            kind: key.kind.as_str(),
            name: key.name.to_string(),
            key: full_key.to_string(),
            action,
            is_secret,
            diff,
        });
    }
    let view = "documents";
    Ok(Json(OfDocuments {
        from,
        to,
        view,
        documents,
    })
    .into_response())
}

async fn value(admin: &Admin, full_key: &Arc<str>, text: Option<&TextAt>) -> Result<Option<Vec<u8>>, Problem> {
    let lost = || {
        let detail = format!("{full_key}: an earlier text was gone before the journal could keep it");
        Problem::new(Code::NotInJournal, detail).of_key(&**full_key)
    };
    let value = match text {
        None => return Ok(None),
        Some(TextAt::Present(stored)) => stored.value.clone(),
        Some(TextAt::Kept(text)) => admin.journal.text(full_key, text).await?,
    };
    value.map(|value| Some(value.to_vec())).ok_or_else(lost)
}

/// The unified difference of two texts. JSON in one line is spread over lines first.
fn unified(key: &str, before: Option<String>, after: Option<String>) -> String {
    let is_one_line = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim_end().lines().count() == 1);
    let spread = |text: &Option<String>| {
        let value: Option<Value> = text.as_ref().and_then(|text| serde_json::from_str(text).ok());
        let spread = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
        spread.map(|text| text + "\n")
    };
    let spread_both = (is_one_line(&before) || is_one_line(&after))
        .then(|| (spread(&before), spread(&after)))
        .filter(|(one, other)| one.is_some() == before.is_some() && other.is_some() == after.is_some());
    let (before, after) = spread_both.unwrap_or((before, after));
    let name = |text: &Option<String>| text.as_ref().map_or("/dev/null", |_| key).to_owned();
    let (old, new) = (name(&before), name(&after));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let diff = TextDiff::configure().timeout(DIFF_WITHIN).diff_lines(&before, &after);
    diff.unified_diff()
        .context_radius(CONTEXT)
        .header(&old, &new)
        .to_string()
}

async fn of_resources(
    admin: &Admin,
    shown: &Shown,
    from: i64,
    to: Option<i64>,
    query: &Pairs,
) -> Result<Response, Problem> {
    let group = values(query, "group").last().unwrap_or(DEFAULT_GROUP).to_owned();
    let before = Arc::clone(&earlier::at(admin, from).await?.snapshot);
    let after = match to {
        Some(to) => Arc::clone(&earlier::at(admin, to).await?.snapshot),
        None => admin.snapshots.current(),
    };
    if [&before, &after]
        .iter()
        .all(|snapshot| !snapshot.groups.contains_key(&*group))
    {
        let detail = format!("there is no group `{group}` at either revision");
        return Err(Problem::new(Code::NotFound, detail));
    }
    let to = to.unwrap_or(shown.at);
    let work = move || {
        let types = ResourceType::ALL.into_iter().map(|resource_type| {
            let between = between(resource_type, &group, &before, &after)?;
            Ok((resource_type.as_str(), between))
        });
        let types: BTreeMap<_, _> = types.collect::<Result<_, Problem>>()?;
        Ok::<_, Problem>(OfResources {
            from,
            to,
            view: "xds",
            group,
            types,
        })
    };
    let answer = tokio::task::spawn_blocking(work).await;
    let answer = answer.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    Ok(Json(answer).into_response())
}

/// The difference of one type. Resources with equal versions are equal.
fn between(resource_type: ResourceType, group: &str, before: &Snapshot, after: &Snapshot) -> Result<Type, Problem> {
    let of = |snapshot: &Snapshot| -> BTreeMap<Arc<str>, Arc<Resource>> {
        let set = snapshot
            .groups
            .get(group)
            .map(|group| Arc::clone(group.set(resource_type)));
        let resources = set.iter().flat_map(|set| set.iter().cloned().collect::<Vec<_>>());
        resources
            .map(|resource| (Arc::clone(&resource.name), resource))
            .collect()
    };
    let (before, after) = (of(before), of(after));
    let mut found = Type::default();
    for (name, old) in &before {
        match after.get(name) {
            None => found.removed.push(name.to_string()),
            Some(new) if new.version != old.version && found.changed.len() < MOST => {
                let mut changes = Vec::new();
                let (old, new) = (json_of(resource_type, old)?, json_of(resource_type, new)?);
                compare(&mut String::new(), &old, &new, &mut changes);
                found.is_cut |= changes.len() > MOST;
                changes.truncate(MOST);
                found.changed.push(Changed {
                    name: name.to_string(),
                    changes,
                });
            }
            Some(new) => found.is_cut |= new.version != old.version,
        }
    }
    found.added = after
        .keys()
        .filter(|name| !before.contains_key(*name))
        .map(ToString::to_string)
        .collect();
    found.is_cut |= found.added.len() > MOST || found.removed.len() > MOST;
    found.added.truncate(MOST);
    found.removed.truncate(MOST);
    Ok(found)
}

fn json_of(resource_type: ResourceType, resource: &Resource) -> Result<Value, Problem> {
    let mut json = to_json(resource_type.type_url(), &resource.body.to_bytes())
        .map_err(|error| Problem::new(Code::Internal, format!("{resource_type} {}: {error}", resource.name)))?;
    redact(resource_type.type_url(), &mut json);
    Ok(json)
}

/// The values that differ, by their JSON pointers. Lists of different lengths differ as a whole.
fn compare(pointer: &mut String, before: &Value, after: &Value, found: &mut Vec<Field>) {
    let end = pointer.len();
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                compare(pointer, &of(old), &of(new), found);
                pointer.truncate(end);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (number, (old, new)) in old.iter().zip(new).enumerate() {
                pointer.push_str(&format!("/{number}"));
                compare(pointer, old, new, found);
                pointer.truncate(end);
            }
        }
        _ => found.push(Field {
            pointer: pointer.clone(),
            before: before.clone(),
            after: after.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_differ_are_named_by_their_pointers() {
        let before = json!({ "a": { "b/c": 1, "same": true }, "list": [1, 2], "long": [1] });
        let after = json!({ "a": { "b/c": 2, "same": true }, "list": [1, 3], "long": [1, 2], "new": "x" });
        let mut found = Vec::new();
        compare(&mut String::new(), &before, &after, &mut found);
        let shown: Vec<_> = found
            .iter()
            .map(|field| format!("{} {} {}", field.pointer, field.before, field.after))
            .collect();
        assert_eq!(
            shown,
            ["/a/b~1c 1 2", "/list/1 2 3", "/long [1] [1,2]", "/new null \"x\""]
        );
    }

    #[test]
    fn a_text_in_one_line_is_spread() {
        let diff = unified(
            "/k",
            Some(r#"{"a":1,"b":2}"#.to_owned()),
            Some(r#"{"a":1,"b":3}"#.to_owned()),
        );
        assert_eq!(
            diff,
            "--- /k\n+++ /k\n@@ -1,4 +1,4 @@\n {\n   \"a\": 1,\n-  \"b\": 2\n+  \"b\": 3\n }\n"
        );
        let added = unified("/k", None, Some("a: 1\nb: 2\n".to_owned()));
        assert_eq!(added, "--- /dev/null\n+++ /k\n@@ -0,0 +1,2 @@\n+a: 1\n+b: 2\n");
    }
}
