//! The risk of a change, by fixed rules; the worst counts (docs/api.md, Plan).

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;

use super::{Facts, before_of, count, fields};
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::PolicyKind;
use crate::journal::intent::Action;
use crate::reconcile::world::World;
use crate::resource::{Resource, ResourceType};

/// More removed documents than these are a high risk.
const FEW_REMOVED: usize = 10;
/// Most users of a changed policy that are looked at.
const MOST_USERS: usize = 1000;

/// How much a change may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Risk {
    Low,
    Medium,
    High,
}

/// The risk, and the rules that make it so, the worst first.
pub(super) fn judge(facts: &Facts<'_>) -> (Risk, Vec<String>) {
    let mut rules = Vec::new();
    drains(facts, &mut rules);
    guarding(facts, &mut rules);
    removals(facts, &mut rules);
    endpoints(facts, &mut rules);
    kinds(facts, &mut rules);
    routes(facts, &mut rules);
    rules.sort_by(|(one, _), (other, _)| other.cmp(one));
    let risk = rules.first().map_or(Risk::Low, |(risk, _)| *risk);
    (risk, rules.into_iter().map(|(_, rule)| rule).collect())
}

type Rules = Vec<(Risk, String)>;

fn drains(facts: &Facts<'_>, rules: &mut Rules) {
    let mut seen = BTreeSet::new();
    for drain in facts.drains.iter().filter(|drain| seen.insert(&drain.listener)) {
        let (listener, why) = (&drain.listener, &drain.why);
        rules.push((
            Risk::High,
            match why.as_str() {
                "removed" => format!("listener {listener} vanishes"),
                why => format!("listener {listener} drains ({why})"),
            },
        ));
    }
}

/// Policies that guard a route, and end on it.
fn guarding(facts: &Facts<'_>, rules: &mut Rules) {
    let (before, after) = (facts.inputs.before, &facts.inputs.plan.world);
    let mut asked: BTreeSet<DocumentKey> = BTreeSet::new();
    for key in &facts.changed {
        match key.kind {
            Kind::Routes | Kind::Clusters | Kind::Listeners => {
                asked.insert(key.clone());
            }
            Kind::Policies => {
                let document = before.compiled().accepted(key).map(|accepted| &accepted.document);
                let users = document.map(|document| before.compiled().users(key, document).take(MOST_USERS));
                asked.extend(users.into_iter().flatten().cloned());
            }
            Kind::Defaults => {
                let documents = before.documents().map(|status| &status.key);
                asked.extend(documents.filter(|key| key.kind == Kind::Listeners).cloned());
            }
            _ => {}
        }
    }
    let kinds_of = |world: &World, key: &DocumentKey| -> BTreeSet<(Arc<str>, PolicyKind)> {
        let policies = world.compiled().effective_policies(key).into_iter();
        let policies = policies.filter(|effective| effective.kind.is_guarding());
        policies.map(|effective| (effective.listener, effective.kind)).collect()
    };
    for key in asked {
        if after.compiled().accepted(&key).is_none() {
            continue;
        }
        let (old, new) = (kinds_of(before, &key), kinds_of(after, &key));
        if let Some((listener, kind)) = old.difference(&new).next() {
            let rule = format!("policy {} ends on {key} (listener {listener})", kind.as_str());
            rules.push((Risk::High, rule));
        }
        let client_ca = |world| fields::value(world, &key).and_then(|value| value.pointer("/tls/client_ca").cloned());
        if key.kind == Kind::Listeners
            && client_ca(before).is_some()
            && client_ca(after).is_none_or(|ca| ca == Value::Null)
        {
            rules.push((Risk::High, format!("{key} asks for no client certificates any more")));
        }
    }
}

fn removals(facts: &Facts<'_>, rules: &mut Rules) {
    let documents = facts.inputs.documents.iter();
    let removed: Vec<&DocumentKey> = documents
        .filter(|document| document.action == Action::Removed)
        .map(|document| &document.document)
        .collect();
    if removed.len() > FEW_REMOVED {
        rules.push((Risk::High, format!("{} documents are removed", removed.len())));
    }
    let kinds: BTreeSet<Kind> = removed.iter().map(|key| key.kind).collect();
    for kind in kinds.into_iter().filter(|kind| !facts.inputs.plan.world.has_any(*kind)) {
        rules.push((Risk::High, format!("the last document of {kind} is removed")));
    }
    for key in removed.iter().filter(|key| key.kind == Kind::Secrets) {
        rules.push((Risk::High, format!("{key} is removed")));
    }
    for key in &facts.inputs.older_secrets {
        rules.push((Risk::High, format!("{key} gets an older text")));
    }
    let clusters = removed.iter().filter(|key| key.cluster().is_some()).count();
    if clusters > 0 {
        rules.push((
            Risk::Medium,
            format!("{} removed", counted(clusters, "cluster is", "clusters are")),
        ));
    }
}

/// Clusters that routes name, and that lose over half of their endpoints.
fn endpoints(facts: &Facts<'_>, rules: &mut Rules) {
    let inputs = facts.inputs;
    let mut seen = BTreeSet::new();
    for change in &inputs.plan.difference.resources {
        if change.resource_type != ResourceType::Endpoint || seen.contains(&change.name) {
            continue;
        }
        let is_named = inputs
            .plan
            .world
            .compiled()
            .naming(&change.name)
            .any(|key| key.kind == Kind::Routes);
        let old = before_of(inputs, change).map_or(0, |resource| endpoints_of(resource));
        let new = change.resource.as_ref().map_or(0, |resource| endpoints_of(resource));
        if is_named && new * 2 < old {
            seen.insert(&change.name);
            let rule = format!("cluster {} loses {} of {old} endpoints", change.name, old - new);
            rules.push((Risk::High, rule));
        }
    }
}

fn endpoints_of(resource: &Resource) -> usize {
    let decoded = ClusterLoadAssignment::decode(&*resource.body.to_bytes());
    decoded.map_or(0, |assignment| {
        let localities = assignment.endpoints.iter();
        localities.map(|locality| locality.lb_endpoints.len()).sum()
    })
}

fn kinds(facts: &Facts<'_>, rules: &mut Rules) {
    let changed = |kind| {
        let actions = [Action::Added, Action::Changed, Action::Removed];
        actions
            .into_iter()
            .map(|action| count(facts, kind, action))
            .sum::<usize>()
    };
    if changed(Kind::Groups) > 0 {
        rules.push((Risk::High, "groups change".to_owned()));
    }
    for (kind, one, many) in [
        (Kind::Policies, "policy changes", "policies change"),
        (Kind::Xds, "xds document changes", "xds documents change"),
    ] {
        let number = changed(kind);
        if number > 0 {
            rules.push((Risk::Medium, counted(number, one, many)));
        }
    }
    for key in &facts.changed {
        let has_tls = matches!(key.kind, Kind::Listeners | Kind::Clusters);
        if has_tls && fields::differing(facts.inputs, key).contains("tls") {
            rules.push((Risk::Medium, format!("{key} changes its TLS settings")));
        }
    }
}

fn routes(facts: &Facts<'_>, rules: &mut Rules) {
    let moved = super::summary::moved(&facts.owners);
    if moved > 0 {
        rules.push((
            Risk::Medium,
            counted(moved, "route changes owner", "routes change owner"),
        ));
    }
    let elsewhere = facts.owners.sent_elsewhere.len();
    if elsewhere > 0 {
        let rule = counted(elsewhere, "route changes its upstream", "routes change their upstreams");
        rules.push((Risk::Medium, rule));
    }
}

/// `1 cluster is`, `2 clusters are`.
pub(super) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
