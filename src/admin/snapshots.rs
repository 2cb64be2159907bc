//! `GET /api/v1/snapshot`, `…/TYPE` and `…/TYPE/NAME`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use humantime::format_rfc3339_millis;
use serde::Serialize;
use serde_json::json;

use super::answer::{Answers, Pieces, list, open_object, text};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Page, Pairs, reject_unknown_params, values};
use super::{Admin, earlier};
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

/// What stands before the resources of a list.
#[derive(Serialize)]
struct Head<'a> {
    group: &'a str,
    revision: i64,
    version: String,
}

/// What stands before the resource itself.
#[derive(Serialize)]
struct About<'a> {
    name: &'a str,
    version: String,
    documents: Vec<String>,
}

/// Encoded resources above this size, in bytes, are rendered once for all answers.
const LARGE: usize = 32 * 1024;

pub(super) async fn overview(State(admin): State<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["revision"])?;
    let snapshot = match earlier::asked(&admin, &query).await? {
        Some(earlier) => Arc::clone(&earlier.snapshot),
        None => admin.snapshots.current(),
    };
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
    reject_unknown_params(&query, &["group", "limit", "after", "revision"])?;
    let (snapshot, world) = served(&admin, &query).await?;
    let (group, resource_type) = find(&snapshot, &word, &query)?;
    let page = Page::of(&query)?;

    let set = &group.sets[resource_type.index()];
    let after = page.after(Some)?;
    let rest = set
        .iter()
        .skip_while(|resource| after.is_some_and(|after| *resource.name <= *after));
    // One more than the page has, which shows that there is a next one.
    let resources: Vec<Arc<Resource>> = rest.take(page.limit() + 1).cloned().collect();

    let head = open_object(&Head {
        group: &group.name,
        revision: snapshot.revision,
        version: set.version().to_string(),
    })?;

    let answers = admin.answers.clone();
    let pieces = list(
        format!("{head},\"resources\":["),
        &page,
        resources.into_iter(),
        |resource| resource.name.to_string(),
        move |resource| show(&answers, resource_type, &resource, &world),
    );

    admin.answers.json(pieces).await
}

pub(super) async fn one(
    State(admin): State<Admin>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    let Path((word, name)) = path?;
    reject_unknown_params(&query, &["group", "revision"])?;
    let (snapshot, world) = served(&admin, &query).await?;
    let (group, resource_type) = find(&snapshot, &word, &query)?;
    let resource = group.sets[resource_type.index()].get(&name).ok_or_else(|| {
        let detail = format!(
            "the group `{}` has no resource `{name}` of type {resource_type}",
            group.name
        );
        Problem::new(Code::NotFound, detail)
    })?;
    let (answers, resource) = (admin.answers.clone(), Arc::clone(resource));
    // The JSON of a large resource takes long to make, so a thread that serves no streams makes it.
    let pieces = std::iter::once_with(move || show(&answers, resource_type, &resource, &world)).flatten();
    admin.answers.json(Box::new(pieces)).await
}

/// The snapshot and the world that serve now, or those of the revision that a request names.
async fn served(admin: &Admin, query: &Pairs) -> Result<(Arc<Snapshot>, Arc<World>), Problem> {
    Ok(match earlier::asked(admin, query).await? {
        Some(earlier) => (Arc::clone(&earlier.snapshot), Arc::clone(&earlier.world)),
        None => (admin.snapshots.current(), admin.world.load_full()),
    })
}

/// The group and the type that a request names.
fn find(
    snapshot: &Snapshot,
    word: &str,
    query: &[(String, String)],
) -> Result<(Arc<GroupSnapshot>, ResourceType), Problem> {
    let resource_type = ResourceType::from_word(word).ok_or_else(|| {
        let types = ResourceType::ALL.map(ResourceType::as_str).join(", ");
        Problem::new(
            Code::NotFound,
            format!("there is no type `{word}`, expected one of {types}"),
        )
    })?;

    let wanted = values(query, "group").last().unwrap_or(DEFAULT_GROUP);
    let group = snapshot.groups.get(wanted).cloned().ok_or_else(|| {
        let groups: Vec<&str> = snapshot.groups.keys().map(|name| &**name).collect();
        let detail = match groups.as_slice() {
            [] => "no snapshot was published yet".to_owned(),
            groups => format!("there is no group `{wanted}`, expected one of {}", groups.join(", ")),
        };
        Problem::new(Code::NotFound, detail)
    })?;

    Ok((group, resource_type))
}

/// An entry of the list: the resource as proto-JSON with `@type`, secrets redacted.
fn show(answers: &Answers, resource_type: ResourceType, resource: &Resource, world: &World) -> Pieces {
    let full_key = |key| match world.document(key) {
        Some(status) => status.full_key.to_string(),
        None => world.options().layout.full_key(key),
    };
    let about = open_object(&About {
        name: &resource.name,
        version: resource.version.to_string(),
        documents: resource.made_of().map(full_key).collect(),
    });

    let render = || body(resource_type, resource);
    let json = if resource.body.len() > LARGE {
        let key = format!("{resource_type} {} {}", resource.version, resource.name);
        answers.rendered(key, render)
    } else {
        render().map(Bytes::from)
    };

    Box::new(
        [
            about.map(|about| format!("{about},\"resource\":").into()),
            json,
            Ok(Bytes::from_static(b"}")),
        ]
        .into_iter(),
    )
}

fn body(resource_type: ResourceType, resource: &Resource) -> Result<String, Problem> {
    let mut shown = to_json(resource_type.type_url(), &resource.body.to_bytes())
        .map_err(|error| Problem::new(Code::Internal, format!("{resource_type} {}: {error}", resource.name)))?;
    redact(resource_type.type_url(), &mut shown);
    text(&shown)
}
