//! `GET /api/v1/snapshot`, `…/TYPE` and `…/TYPE/NAME`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use humantime::format_rfc3339_millis;
use serde::Serialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Code, Problem};
use super::query::{Page, Pairs, reject_unknown_params, values};
use crate::document::DEFAULT_GROUP;
use crate::proto::json::to_json;
use crate::proto::redact::redact;
use crate::reconcile::world::World;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::{GroupSnapshot, Snapshot};

#[derive(Serialize)]
struct Group {
    revision: i64,
    revisions: BTreeMap<String, i64>,
    built_at: String,
    source: &'static str,
    types: BTreeMap<&'static str, Type>,
}

#[derive(Serialize)]
struct Type {
    version: String,
    count: usize,
}

#[derive(Serialize)]
struct Resources {
    group: String,
    revision: i64,
    version: String,
    resources: Vec<Shown>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    version: String,
    documents: Vec<String>,
    resource: Value,
}

pub(super) async fn overview(State(admin): State<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let snapshot = admin.snapshots.current();
    let groups: BTreeMap<&str, Group> = snapshot
        .groups
        .iter()
        .map(|(name, group)| (&**name, figures(&snapshot, group)))
        .collect();
    Ok(Json(json!({ "groups": groups })).into_response())
}

fn figures(snapshot: &Snapshot, group: &GroupSnapshot) -> Group {
    let types = ResourceType::ALL.into_iter().map(|resource_type| {
        let set = &group.sets[resource_type.index()];
        (
            resource_type.as_str(),
            Type {
                version: set.version().to_string(),
                count: set.len(),
            },
        )
    });
    Group {
        revision: snapshot.revision,
        revisions: BTreeMap::clone(&snapshot.revisions),
        built_at: format_rfc3339_millis(snapshot.built_at).to_string(),
        source: snapshot.source.as_str(),
        types: types.collect(),
    }
}

pub(super) async fn all(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    let Path(word) = path?;
    reject_unknown_params(&query, &["group", "limit", "after"])?;
    let (snapshot, group, resource_type) = find(&admin, &word, &query)?;
    let page = Page::of(&query)?;
    let world = admin.world.load_full();

    // The JSON of a large set takes long to make, so a thread that serves no streams makes it.
    let shown = tokio::task::spawn_blocking(move || {
        let set = &group.sets[resource_type.index()];
        let after = page.after(Some)?;
        let rest = set
            .iter()
            .skip_while(|resource| after.is_some_and(|after| *resource.name <= *after));

        let (resources, next) = page.cut(rest, |resource| resource.name.to_string());
        let resources = resources
            .into_iter()
            .map(|resource| show(resource_type, resource, &world))
            .collect::<Result<_, _>>()?;
        let (group, version) = (group.name.to_string(), set.version().to_string());
        Ok::<_, Problem>(
            Json(Resources {
                group,
                revision: snapshot.revision,
                version,
                resources,
                next,
            })
            .into_response(),
        )
    });

    shown
        .await
        .map_err(|error| Problem::new(Code::Internal, error.to_string()))?
}

pub(super) async fn one(
    State(admin): State<Admin>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    let Path((word, name)) = path?;
    reject_unknown_params(&query, &["group"])?;
    let (_, group, resource_type) = find(&admin, &word, &query)?;
    let resource = group.sets[resource_type.index()].get(&name).ok_or_else(|| {
        let detail = format!(
            "the group `{}` has no resource `{name}` of type {resource_type}",
            group.name
        );
        Problem::new(Code::NotFound, detail)
    })?;
    Ok(Json(show(resource_type, resource, &admin.world.load())?).into_response())
}

/// The snapshot, the group and the type that a request names.
fn find(
    admin: &Admin,
    word: &str,
    query: &[(String, String)],
) -> Result<(Arc<Snapshot>, Arc<GroupSnapshot>, ResourceType), Problem> {
    let resource_type = ResourceType::from_word(word).ok_or_else(|| {
        let types = ResourceType::ALL.map(ResourceType::as_str).join(", ");
        Problem::new(
            Code::NotFound,
            format!("there is no type `{word}`, expected one of {types}"),
        )
    })?;
    let wanted = values(query, "group").last().unwrap_or(DEFAULT_GROUP);
    let snapshot = admin.snapshots.current();
    let group = snapshot.groups.get(wanted).cloned().ok_or_else(|| {
        let groups: Vec<&str> = snapshot.groups.keys().map(|name| &**name).collect();
        let detail = match groups.as_slice() {
            [] => "no snapshot was published yet".to_owned(),
            groups => format!("there is no group `{wanted}`, expected one of {}", groups.join(", ")),
        };
        Problem::new(Code::NotFound, detail)
    })?;
    Ok((snapshot, group, resource_type))
}

fn show(resource_type: ResourceType, resource: &Resource, world: &World) -> Result<Shown, Problem> {
    let full_key = |key| match world.document(key) {
        Some(status) => status.full_key.to_string(),
        None => world.options().layout.full_key(key),
    };
    Ok(Shown {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        documents: resource.made_of().map(full_key).collect(),
        resource: body(resource_type, resource)?,
    })
}

/// The resource as proto-JSON with `@type`, secrets redacted.
fn body(resource_type: ResourceType, resource: &Resource) -> Result<Value, Problem> {
    let mut shown = to_json(resource_type.type_url(), &resource.body.to_bytes())
        .map_err(|error| Problem::new(Code::Internal, format!("{resource_type} {}: {error}", resource.name)))?;
    redact(resource_type.type_url(), &mut shown);
    Ok(shown)
}
