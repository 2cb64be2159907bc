//! From the fields of a route document to its rules.
//!
//! The conditions of a document (`match`, or a list of them any of which may hold) times its variants (each override,
//! then the document itself) give the rules. Each rule is complete: the conditions of an override come after its
//! parent's, and a field that the override does not have is taken whole from its parent.

use std::sync::Arc;

use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::SIGNED;
use super::super::key::DocumentKey;
use super::super::policy::{self, Items};
use super::super::{Rejection, groups, name};
use super::{Action, Match, Mirror, Rewrite, Route, Rule, Settings, StringMatch, Target, Upstream};
use super::{condition, matching, settings, target, trial};

/// The fields of a route.
pub(crate) const FIELDS: Fields = Fields::joined(&[
    &[name::FIELD],
    OWN,
    ACTION,
    PATHS,
    settings::FORWARDING,
    settings::HEADERS,
    POLICIES,
    AROUND,
]);
const OVERRIDE_FIELDS: Fields = Fields::joined(&[
    CONDITIONS,
    ACTION,
    PATHS,
    settings::FORWARDING,
    settings::HEADERS,
    POLICIES,
    ENABLED,
]);
/// Fields that only a forwarded request can use.
const FORWARD_ONLY: Fields = Fields::joined(&[PATHS, settings::FORWARDING]);

const OWN: &[Field] = &[
    Field::new(
        "match",
        matching::SHAPE,
        "The requests that the route takes; of a list, any entry may match",
    )
    .required(),
    Field::new(
        "overrides",
        Shape::entries(&Shape::Object(&OVERRIDE_FIELDS), usize::MAX),
        "Exceptions by header or query parameter, each a route with the fields of the document that it does not have",
    ),
];
const CONDITIONS: &[Field] = &[
    Field::new(
        "headers",
        condition::HEADERS,
        "Conditions beside those of the document, as in `match`",
    ),
    Field::new(
        "query",
        condition::QUERY,
        "Conditions beside those of the document, as in `match`",
    ),
];
const ACTION: &[Field] =
    &[Field::new("to", target::SHAPE, "The target of the requests").or("the cluster named SERVICE")];
const PATHS: &[Field] = &[
    Field::new(
        "rewrite",
        Shape::Object(&target::REWRITE_FIELDS),
        "Changes of path and host",
    ),
    Field::new(
        "mirror",
        Shape::entries(&Shape::Object(&target::MIRROR_FIELDS), usize::MAX),
        "Copies of the requests",
    ),
];
const POLICIES: &[Field] = &[Field::new(
    "policies",
    policy::LIST,
    "Rules beside the route. See [policies.md](policies.md)",
)
.or("those of the cluster, the listener and the defaults")];
const AROUND: &[Field] = &[
    Field::new("listeners", name::NAMES, "Names of [listeners](listeners.md) documents")
        .or("every listener of the route's groups"),
    groups::FIELD,
    Field::new(
        "priority",
        SIGNED,
        "The higher stands first. See [Order](routes.md#order)",
    )
    .or("`0`"),
    Field::new("enabled", Shape::Flag, "`false`: not served, and shown as `disabled`").or("`true`"),
    Field::new("tests", trial::SHAPE, "Requests with their expected answers"),
];
const ENABLED: &[Field] = &[Field::new("enabled", Shape::Flag, "`false`: the override is left out").or("`true`")];

/// The document itself or one of its overrides, without the conditions of `match`.
struct Variant {
    /// `overrides[0]`; empty for the document itself.
    place: String,
    headers: Vec<(String, StringMatch)>,
    query: Vec<(String, StringMatch)>,
    action: Action,
    rewrite: Rewrite,
    mirrors: Vec<Mirror>,
    settings: Settings,
    policies: Items,
    enabled: bool,
}

/// Reads the short and the full form.
pub(crate) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Route, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let matches = matching::read(&object.require("match", r#"a match such as "/v1/users""#)?)?;
    let base = read_base(key, &object)?;
    let mut variants = Vec::new();
    if let Some(overrides) = object.get("overrides") {
        for entry in overrides.entries()? {
            variants.push(read_override(&entry, &base)?);
        }
    } else {
        refuse_unused(&object, &base.action)?;
    }
    variants.push(base);
    Ok(Route {
        rules: matches
            .iter()
            .flat_map(|matched| variants.iter().map(move |variant| rule(matched, variant)))
            .collect(),
        listeners: object.read("listeners", name::read_list)?,
        groups: groups::read(&object)?,
        priority: object
            .read("priority", |field| field.integer(i32::MIN..=i32::MAX))?
            .unwrap_or(0),
        enabled: object.read("enabled", |field| field.bool())?.unwrap_or(true),
        tests: object.read("tests", |field| trial::read(&field))?.unwrap_or_default(),
    })
}

fn read_base(key: &DocumentKey, object: &Object<'_>) -> Result<Variant, Rejection> {
    let own = || {
        Action::Forward(vec![Target {
            upstream: Upstream::Cluster(service_of(key)),
            weight: 1,
        }])
    };
    Ok(Variant {
        place: String::new(),
        headers: Vec::new(),
        query: Vec::new(),
        action: object.read("to", |field| target::read(&field))?.unwrap_or_else(own),
        rewrite: object
            .read("rewrite", |field| target::read_rewrite(&field))?
            .unwrap_or_default(),
        mirrors: object
            .read("mirror", |field| target::read_mirrors(&field))?
            .unwrap_or_default(),
        settings: settings::read(object)?,
        policies: object
            .read("policies", |field| policy::read_list(&field))?
            .unwrap_or_default(),
        enabled: true,
    })
}

/// The cluster of a route without `to`.
pub(crate) fn service_of(key: &DocumentKey) -> Arc<str> {
    key.first_segment().into()
}

fn read_override(entry: &Cursor<'_>, base: &Variant) -> Result<Variant, Rejection> {
    let object = entry.object(&OVERRIDE_FIELDS)?;
    let headers = object
        .read("headers", |field| condition::read_headers(&field))?
        .unwrap_or_default();
    let query = object
        .read("query", |field| condition::read_query(&field))?
        .unwrap_or_default();
    if headers.is_empty() && query.is_empty() {
        return Err(
            object.reject("found no condition, expected \"headers\" or \"query\" that distinguish it from the route")
        );
    }

    let action = object
        .read("to", |field| target::read(&field))?
        .unwrap_or_else(|| base.action.clone());
    refuse_unused(&object, &action)?;
    Ok(Variant {
        place: object.path().to_owned(),
        headers,
        query,
        action,
        rewrite: object
            .read("rewrite", |field| target::read_rewrite(&field))?
            .unwrap_or_else(|| base.rewrite.clone()),
        mirrors: object
            .read("mirror", |field| target::read_mirrors(&field))?
            .unwrap_or_else(|| base.mirrors.clone()),
        settings: settings::read(&object)?.or(&base.settings),
        policies: object
            .read("policies", |field| policy::read_list(&field))?
            .unwrap_or_else(|| Arc::clone(&base.policies)),
        enabled: object.read("enabled", |field| field.bool())?.unwrap_or(true),
    })
}

/// A field without effect is refused, not ignored.
fn refuse_unused(object: &Object<'_>, action: &Action) -> Result<(), Rejection> {
    if matches!(action, Action::Forward(_)) {
        return Ok(());
    }
    match object
        .present_of(&FORWARD_ONLY)
        .first()
        .and_then(|name| object.get(name))
    {
        Some(field) => Err(field.reject("has no effect on a redirect or a fixed response, expected none")),
        None => Ok(()),
    }
}

fn rule(matched: &(String, Match), variant: &Variant) -> Rule {
    let (place, matches) = matched;
    let mut matches = matches.clone();
    matches.headers.extend(variant.headers.iter().cloned());
    matches.query.extend(variant.query.iter().cloned());
    let forwards = matches!(variant.action, Action::Forward(_));
    let settings = variant.settings.clone();
    Rule {
        place: if variant.place.is_empty() {
            place.clone()
        } else {
            variant.place.clone()
        },
        matches,
        action: variant.action.clone(),
        rewrite: if forwards {
            variant.rewrite.clone()
        } else {
            Rewrite::default()
        },
        mirrors: if forwards { variant.mirrors.clone() } else { Vec::new() },
        settings: if forwards { settings } else { settings.only_headers() },
        policies: Arc::clone(&variant.policies),
        enabled: variant.enabled,
    }
}
