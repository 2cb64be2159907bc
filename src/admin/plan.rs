//! The plan of a change: what the change would do, before anything is written.
//!
//! In: the worlds before and after ([`crate::reconcile::plan`]), the changed documents, the connected proxies. Out: an
//! [`Answer`] with the resources by type, the listeners that drain, the requests that other routes take, failing tests,
//! guards, bytes to a proxy, and the risk by fixed rules. Pure.
//!
//! | module | job |
//! |---|---|
//! | this file | the answer, put together |
//! | `bytes` | bytes of the responses to one proxy |
//! | `fields` | the fields of a document that differ |
//! | `risk` | the rules of the risk |
//! | `summary` | the sentence |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::document::key::{DocumentKey, Kind};
use crate::journal::intent::Action;
use crate::reconcile::plan::Plan;
use crate::reconcile::world::{HeldBy, State, World};
use crate::resource::ResourceType;
use crate::resource::compile::{Owners, ResourceChange};
use crate::snapshot::Snapshot;

mod bytes;
mod fields;
mod risk;
mod summary;

use bytes::Bytes;
use risk::Risk;

/// Most requests that are shown.
const MOST_SHOWN: usize = 20;

/// The plan as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    base_revision: i64,
    /// The same write would be taken without force.
    ok: bool,
    risk: Risk,
    because: Vec<String>,
    summary: String,
    documents: Vec<Document>,
    resources: BTreeMap<&'static str, Resources>,
    drains: Vec<Drain>,
    owners: Vec<Owner>,
    owners_total: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    owners_cut: bool,
    tests: Vec<Test>,
    guards: Vec<Guard>,
    proxies: BTreeMap<String, usize>,
    bytes: Bytes,
}

/// A document of the change.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    #[serde(skip)]
    pub(super) document: DocumentKey,
    pub(super) key: String,
    pub(super) action: Action,
    pub(super) state: Option<&'static str>,
    pub(super) reason: Option<String>,
    pub(super) path: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// Names of resources of one type, in any group.
#[derive(Debug, Default, Serialize)]
struct Resources {
    added: BTreeSet<String>,
    changed: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// A listener whose connections end.
#[derive(Debug, Serialize)]
struct Drain {
    listener: String,
    group: String,
    /// The field of the document, the kind of another document, or `removed`.
    why: String,
    proxies: usize,
}

/// A request that another route takes.
#[derive(Debug, Serialize)]
struct Owner {
    request: String,
    group: String,
    before: Option<String>,
    after: Option<String>,
}

/// A test that would fail.
#[derive(Debug, Serialize)]
struct Test {
    key: String,
    request: String,
    expected: String,
    got: String,
}

/// A document that a guard would hold.
#[derive(Debug, Serialize)]
struct Guard {
    key: String,
    reason: String,
}

/// Everything that a plan looks at.
pub(super) struct Inputs<'a> {
    pub(super) base_revision: i64,
    pub(super) before: &'a World,
    pub(super) plan: &'a Plan,
    pub(super) documents: Vec<Document>,
    /// Why the write would not be taken without force.
    pub(super) refusal: Option<&'a str>,
    /// Secrets that get a text that they had before.
    pub(super) older_secrets: BTreeSet<DocumentKey>,
    /// The connected proxies of each group.
    pub(super) proxies: &'a BTreeMap<Arc<str>, usize>,
    /// The published snapshot.
    pub(super) snapshot: &'a Snapshot,
}

/// What the parts of the answer share.
struct Facts<'a> {
    inputs: &'a Inputs<'a>,
    /// The changed documents.
    changed: BTreeSet<DocumentKey>,
    owners: Owners,
    drains: Vec<Drain>,
}

/// Put the plan together.
pub(super) fn answer(inputs: Inputs<'_>) -> Answer {
    let (before, after) = (inputs.before.compiled(), inputs.plan.world.compiled());
    let is_changed = |document: &&Document| document.action != Action::Unchanged;
    let changed = inputs.documents.iter().filter(is_changed);
    let changed: BTreeSet<DocumentKey> = changed.map(|document| document.document.clone()).collect();
    let facts = Facts {
        owners: after.owners_since(before, &changed),
        drains: drains(&inputs, &changed),
        changed,
        inputs: &inputs,
    };

    let resources = resources(&inputs);
    let tests = after.new_failures(before).map(|failure| Test {
        key: failure.key.to_string(),
        request: failure.request.to_owned(),
        expected: failure.expected.to_owned(),
        got: failure.got.to_owned(),
    });
    let tests: Vec<Test> = tests.collect();
    let guards = guards(&inputs);
    let groups: BTreeSet<&Arc<str>> = inputs
        .plan
        .difference
        .resources
        .iter()
        .map(|change| &change.group)
        .collect();
    let count = |group: &&Arc<str>| inputs.proxies.get(*group).copied().unwrap_or_default();
    let proxies: BTreeMap<String, usize> = groups.iter().map(|group| (group.to_string(), count(group))).collect();
    let bytes = bytes::largest(&inputs);

    let (risk, because) = risk::judge(&facts);
    let summary = summary::sentence(&facts, &resources, &proxies, &bytes);
    let Facts { owners, drains, .. } = facts;
    let shown = owners.moved.iter().take(MOST_SHOWN).map(|moved| Owner {
        request: moved.request.clone(),
        group: moved.group.to_string(),
        before: moved.before.as_ref().map(ToString::to_string),
        after: moved.after.as_ref().map(ToString::to_string),
    });
    Answer {
        base_revision: inputs.base_revision,
        ok: inputs.refusal.is_none(),
        risk,
        because,
        summary,
        owners: shown.collect(),
        owners_total: owners.moved.len(),
        owners_cut: owners.is_cut,
        documents: inputs.documents,
        resources,
        drains,
        tests,
        guards,
        proxies,
        bytes,
    }
}

/// The resource before a change of it.
fn before_of<'a>(inputs: &'a Inputs<'_>, change: &ResourceChange) -> Option<&'a Arc<crate::resource::Resource>> {
    let before = inputs.before.compiled();
    before.resource(&change.group, change.resource_type, &change.name)
}

fn resources(inputs: &Inputs<'_>) -> BTreeMap<&'static str, Resources> {
    let mut resources: BTreeMap<&'static str, Resources> = BTreeMap::new();
    for change in &inputs.plan.difference.resources {
        let of_type = resources.entry(change.resource_type.as_str()).or_default();
        let names = match (before_of(inputs, change), &change.resource) {
            (None, _) => &mut of_type.added,
            (Some(_), None) => &mut of_type.removed,
            (Some(_), Some(_)) => &mut of_type.changed,
        };
        names.insert(change.name.to_string());
    }
    resources
}

/// The table of docs/documents/listeners.md, Changes and connections: a Listener that changes or goes ends connections.
fn drains(inputs: &Inputs<'_>, changed: &BTreeSet<DocumentKey>) -> Vec<Drain> {
    let listeners = inputs.plan.difference.resources.iter();
    let listeners = listeners.filter(|change| change.resource_type == ResourceType::Listener);
    let drain = |change: &ResourceChange| {
        let before = before_of(inputs, change)?;
        let own = before.documents.iter().find(|key| changed.contains(*key));
        let why = match (&change.resource, own) {
            (None, _) => "removed".to_owned(),
            (Some(_), Some(key)) => fields::drained_by(&fields::differing(inputs, key)),
            (Some(_), None) => changed.first().map_or("defaults", |key| key.kind.as_str()).to_owned(),
        };
        Some(Drain {
            listener: change.name.to_string(),
            group: change.group.to_string(),
            why,
            proxies: inputs.proxies.get(&change.group).copied().unwrap_or_default(),
        })
    };
    listeners.filter_map(drain).collect()
}

/// The documents that a guard would hold, and was not holding.
fn guards(inputs: &Inputs<'_>) -> Vec<Guard> {
    let statuses = inputs
        .plan
        .verdicts
        .iter()
        .filter_map(|verdict| verdict.status.as_ref());
    let held = statuses.filter(|status| status.state == State::Held && status.held_by.is_some());
    let is_new = |status: &&crate::reconcile::world::Status| {
        let before = inputs.before.document(&status.key);
        before.is_none_or(|before| before.state != State::Held)
    };
    let guard = |status: &crate::reconcile::world::Status| Guard {
        key: status.full_key.to_string(),
        reason: match &status.reason {
            Some(reason) => reason.clone(),
            None => status.held_by.map_or("held", HeldBy::as_str).to_owned(),
        },
    };
    held.filter(is_new).map(guard).collect()
}

/// The number of changed documents of a kind with this action.
fn count(facts: &Facts<'_>, kind: Kind, action: Action) -> usize {
    let documents = facts.inputs.documents.iter();
    documents
        .filter(|document| document.document.kind == kind && document.action == action)
        .count()
}
