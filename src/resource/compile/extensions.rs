//! The filters of a group that hold a state: each has the policies of its kind, of documents and of lists.
//!
//! A policy that no route names is there, too: the route that names it next finds it. A change of one policy makes the
//! filter of its kind anew, and no other resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Fault;
use super::accepted::{CompiledDocument, own_policies};
use super::input::GroupInput;
use super::parts::{Part, Parts};
use super::policies::{changed_documents, secret};
use crate::document::Rejection;
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::{Policy, PolicyRule};
use crate::resource::Resource;
use crate::resource::policies::Extension;

/// Most providers of tokens in a group.
const MAX_PROVIDERS: usize = 100;
/// Most bytes of scripts in a group.
const MAX_SCRIPTS: usize = 1024 * 1024;

/// The filters that may have changed.
pub(super) fn resources(input: &GroupInput<'_>) -> Vec<Resource> {
    let touched = touched(input);
    let is_touched = |extension: &Extension| {
        let has = |document: Option<&CompiledDocument>, key: &DocumentKey| {
            document
                .is_some_and(|compiled| own_policies(key, compiled.document()).any(|(_, policy)| extension.has(policy)))
        };
        let get = |key: &DocumentKey| {
            let before = input.before.get(key).map(|compiled| &**compiled);
            let after = input.after.get(key).map(|compiled| &**compiled);
            has(before, key) || has(after, key)
        };
        input.fresh || touched.iter().any(get)
    };
    let changed = Extension::ALL.into_iter().filter(is_touched);
    changed.map(|extension| resource(input, extension)).collect()
}

/// Changed documents that have, or had, a policy in one of the filters.
fn touched(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    let (before, after) = (input.before.with_extensions(), input.after.with_extensions());
    if before.is_empty() && after.is_empty() {
        return BTreeSet::new();
    }
    let mut keys = changed_documents(input);
    keys.retain(|key| before.contains(key) || after.contains(key));
    keys
}

/// The documents of the group that have a policy in a filter.
fn documents<'a>(input: &GroupInput<'a>) -> impl Iterator<Item = (&'a DocumentKey, &'a CompiledDocument)> {
    let (inventory, group) = (input.after, input.name);
    let keys = inventory.with_extensions().iter();
    keys.filter_map(move |key| {
        let compiled = inventory.get(key)?;
        compiled.document().is_for(group).then_some((key, &**compiled))
    })
}

fn resource(input: &GroupInput<'_>, extension: Extension) -> Resource {
    let mut policies: BTreeMap<String, Arc<Policy>> = BTreeMap::new();
    let mut parts = Parts::new();
    for (key, compiled) in documents(input) {
        let mut upstreams: BTreeSet<Arc<str>> = BTreeSet::new();
        let own = own_policies(key, compiled.document()).filter(|(_, policy)| extension.has(policy));
        let before = policies.len();
        for (name, policy) in own {
            upstreams.extend(policy.upstreams().map(|upstream| upstream.cluster_name()));
            for named in policy.secrets() {
                let key = DocumentKey::new(Kind::Secrets, Arc::clone(&named.name));
                if let Some(secret) = input.after.get(&key) {
                    parts.insert(key, part(secret, Arc::new([])));
                }
            }
            policies.insert(name, Arc::clone(policy));
        }
        if policies.len() > before {
            parts.insert(key.clone(), part(compiled, upstreams.into_iter().collect()));
        }
    }
    extension.resource(&policies, &|name| secret(input.after, name), parts)
}

fn part(compiled: &CompiledDocument, upstreams: Arc<[Arc<str>]>) -> Part {
    Part {
        revision: compiled.accepted.mod_revision,
        upstreams,
    }
}

/// The newest document with providers of tokens, if the group has too many of these; and the newest with scripts.
pub(super) fn too_many(input: &GroupInput<'_>) -> Vec<Fault> {
    if touched(input).is_empty() {
        return Vec::new();
    }
    let providers = |policy: &Policy| match &policy.rule {
        PolicyRule::Jwt(jwt) => jwt.providers.len(),
        _ => 0,
    };
    let bytes = |policy: &Policy| match &policy.rule {
        PolicyRule::Lua(lua) => lua.source.len(),
        _ => 0,
    };
    let faults = [
        above(input, "providers of tokens", MAX_PROVIDERS, providers),
        above(input, "bytes of scripts", MAX_SCRIPTS, bytes),
    ];
    faults.into_iter().flatten().collect()
}

fn above(input: &GroupInput<'_>, what: &str, most: usize, amount: impl Fn(&Policy) -> usize) -> Option<Fault> {
    let mut count = 0;
    let mut newest: Option<(i64, &DocumentKey)> = None;
    for (key, compiled) in documents(input) {
        let policies = own_policies(key, compiled.document());
        let own: usize = policies.map(|(_, policy)| amount(policy)).sum();
        if own > 0 {
            count += own;
            newest = newest.max(Some((compiled.accepted.mod_revision, key)));
        }
    }
    let (_, key) = newest.filter(|_| count > most)?;
    let reason = format!("found {count} {what} in group {}, expected at most {most}", input.name);
    Some(Fault::of_itself(key.clone(), Rejection::new("", reason)))
}
