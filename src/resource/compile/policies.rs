//! The policies that hold for a listener, a route and its target; and the documents that name missing ones.
//!
//! Four levels have lists: `defaults`, the listener, the cluster, the route. For each kind the nearest level wins as a
//! whole, unless a level further out has a final policy. The first two levels hold for everything on a listener
//! ([`OnListener`]) and stand once, on its RouteConfiguration. Entries of routes that differ are changed
//! ([`entries`]).
//!
//! A name without a document fails closed (`references`): the document with the name is at fault, so its last good text
//! serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::google::protobuf::Any;
use imbl::{OrdMap, OrdSet};

use super::accepted::{CompiledDocument, own_policies};
use super::input::{GroupInput, tables_of};
use super::inventory::Inventory;
use super::translate::Translated;
use super::{Compiled, Fault};
use crate::document::cluster::Protocol;
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::api_key::ApiKey;
use crate::document::policy::app::Maintenance;
use crate::document::policy::oidc::{MIN_COOKIE_SECRET, Oidc};
use crate::document::policy::{self, Choice, Item, Policy, PolicyKind, PolicyRule};
use crate::document::route::{Action, HostPattern, Route, Rule, Upstream};
use crate::document::secret::{Content, Secret};
use crate::document::{Document, Rejection};
use crate::resource::clusters;
use crate::resource::policies::route::{Counted, NOT_FOUND, Policed, RulePolicies, login, not_found, with_policies};
use crate::resource::policies::{self, Chains, Extension, Fields, Filter};
use crate::resource::table::{self, Entry, HostKey, Table};

/// Most policies documents.
const MAX_POLICIES: usize = 10_000;
/// Most keys of a policy.
const MAX_KEYS: usize = 1000;
/// The method of a preflight.
const OPTIONS: &str = "OPTIONS";

/// An entry of a list, with the policy of its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Applied {
    pub(super) kind: PolicyKind,
    /// `None`: off.
    pub(super) policy: Option<Arc<Policy>>,
    /// The document that has the policy.
    pub(super) document: DocumentKey,
    /// The document that has the list.
    owner: DocumentKey,
    /// The place of the entry in its list.
    pub(super) place: String,
    pub(super) is_named: bool,
    pub(super) is_final: bool,
    filters: Arc<[Filter]>,
}

impl Applied {
    /// A key, or `key#policies[0]` for an entry that is its own policy.
    fn from(&self) -> String {
        match self.is_named {
            true => self.document.to_string(),
            false => format!("{}#{}", self.document, self.place),
        }
    }
}

/// The entries of a list of `owner`. An entry with a missing name is left out: its document is at fault.
pub(super) fn applied(inventory: &Inventory, group: &str, owner: &DocumentKey, items: &[Item]) -> Vec<Applied> {
    let own = |item: &Item, kind, policy: Option<&Arc<Policy>>| Applied {
        kind,
        policy: policy.cloned(),
        document: owner.clone(),
        owner: owner.clone(),
        place: item.place.clone(),
        is_named: false,
        is_final: false,
        filters: policy.map(|policy| filters(inventory, policy)).unwrap_or_default(),
    };
    let entry = |item: &Item| match &item.choice {
        Choice::Off(kind) => Some(own(item, *kind, None)),
        Choice::Inline(policy) => Some(own(item, policy.kind(), Some(policy))),
        Choice::Named(name) => {
            let (compiled, document) = named(inventory, group, name)?;
            let Translated::Policy { filters: own, .. } = &compiled.translated else {
                return None;
            };
            let filters = match document.policy.secrets().is_empty() {
                true => Arc::clone(own),
                false => filters(inventory, &document.policy),
            };
            Some(Applied {
                kind: document.policy.kind(),
                policy: Some(Arc::clone(&document.policy)),
                document: policy::key_of(name),
                owner: owner.clone(),
                place: item.place.clone(),
                is_named: true,
                is_final: document.is_final,
                filters,
            })
        }
    };
    items.iter().filter_map(entry).collect()
}

/// The filters of a policy with the values of its secrets.
fn filters(inventory: &Inventory, policy: &Policy) -> Arc<[Filter]> {
    policies::of_policy(policy, &|name| secret(inventory, name), None).into()
}

/// The secret of a name.
pub(super) fn secret<'a>(inventory: &'a Inventory, name: &Arc<str>) -> Option<&'a Secret> {
    let key = DocumentKey::new(Kind::Secrets, Arc::clone(name));
    inventory.document(&key).and_then(Document::as_secret)
}

/// The policies document of a name in a group.
fn named<'a>(
    inventory: &'a Inventory,
    group: &str,
    name: &Arc<str>,
) -> Option<(&'a CompiledDocument, &'a policy::PolicyDocument)> {
    let compiled = inventory.get(&policy::key_of(name))?;
    let document = compiled.document().as_policy()?;
    compiled.document().is_for(group).then_some((compiled, document))
}

/// For each kind the entry that wins, from levels with the outermost first.
pub(super) fn effective<'a>(levels: &[&'a [Applied]]) -> BTreeMap<PolicyKind, &'a Applied> {
    let mut winners: BTreeMap<PolicyKind, &'a Applied> = BTreeMap::new();
    for entry in levels.iter().flat_map(|level| level.iter()) {
        let winner = winners.entry(entry.kind).or_insert(entry);
        if !winner.is_final {
            *winner = entry;
        }
    }
    winners
}

/// The filters of a route of these hosts.
fn chains(effective: &BTreeMap<PolicyKind, &Applied>, hosts: &[HostPattern]) -> Chains {
    let mut chains = Chains::default();
    let client = client_header(effective);
    for entry in effective.values() {
        let Some(policy) = &entry.policy else { continue };
        let messages = Extension::enabled_by(policy, &entry.from(), hosts);
        let withheld = policies::withheld(policy);
        match policy.needs_client() {
            true => chains.add(&policies::of_policy(policy, &|_| None, client), messages, withheld),
            false => chains.add(&entry.filters, messages, withheld),
        }
    }
    chains
}

/// The header in which one of the policies writes the client that it found.
fn client_header<'a>(effective: &BTreeMap<PolicyKind, &'a Applied>) -> Option<&'a str> {
    let header = |kind: PolicyKind| {
        let entry: &'a Applied = effective.get(&kind)?;
        entry.policy.as_ref()?.client_header()
    };
    [PolicyKind::ApiKey, PolicyKind::BasicAuth].into_iter().find_map(header)
}

/// The metadata of a route whose requests are counted by its name or for it.
fn counted(effective: &BTreeMap<PolicyKind, &Applied>, route: &DocumentKey) -> Option<Counted> {
    let is_on = |kind: PolicyKind| effective.get(&kind).filter(|entry| entry.policy.is_some());
    let limit = is_on(PolicyKind::RateLimit);
    (limit.is_some() || is_on(PolicyKind::GlobalRateLimit).is_some()).then(|| Counted {
        rate_limit: limit.map(|entry| entry.from()),
        route: route.to_string(),
        client: limit
            .filter(|entry| entry.policy.as_ref().is_some_and(|policy| policy.needs_client()))
            .and_then(|_| client_header(effective))
            .map(str::to_owned),
    })
}

fn maintenance<'a>(effective: &BTreeMap<PolicyKind, &'a Applied>) -> Option<&'a Maintenance> {
    let entry: &'a Applied = effective.get(&PolicyKind::Maintenance)?;
    match &entry.policy.as_ref()?.rule {
        PolicyRule::Maintenance(maintenance) => Some(maintenance),
        _ => None,
    }
}

fn has_cors(effective: &BTreeMap<PolicyKind, &Applied>) -> bool {
    effective
        .get(&PolicyKind::Cors)
        .is_some_and(|entry| entry.policy.is_some())
}

/// The policy with a login.
fn login_of<'a>(effective: &BTreeMap<PolicyKind, &'a Applied>) -> Option<(&'a Applied, &'a Oidc)> {
    let entry: &'a Applied = effective.get(&PolicyKind::Oidc)?;
    match &entry.policy.as_ref()?.rule {
        PolicyRule::Oidc(oidc) => Some((entry, oidc)),
        _ => None,
    }
}

/// The policies of a listener that change the entries of routes without policies of their own.
#[derive(Debug, Default, PartialEq)]
struct Beyond<'a> {
    cors: bool,
    maintenance: Option<&'a Maintenance>,
    counted: Option<Counted>,
    login: Option<(&'a Applied, &'a Oidc)>,
}

/// The policies of everything on a listener.
#[derive(Debug, PartialEq)]
pub(super) struct OnListener {
    defaults: Vec<Applied>,
    listener: Vec<Applied>,
    chains: Chains,
    /// The encoded fields of the RouteConfiguration.
    pub(super) fields: Fields,
}

impl OnListener {
    /// The policies of a listener; a listener without a document has those of `defaults`.
    pub(super) fn new(input: &GroupInput<'_>, name: &Arc<str>, compiled: Option<&CompiledDocument>) -> Self {
        let level = |key: &DocumentKey, items: &[Item]| applied(input.after, input.name, key, items);
        let defaults = level(&DocumentKey::new(Kind::Defaults, ""), &input.context.defaults.policies);
        let listener = compiled.and_then(|compiled| compiled.document().as_listener());
        let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
        let listener = listener
            .map(|listener| level(&key, &listener.policies))
            .unwrap_or_default();

        let chains = chains(&effective(&[&defaults, &listener]), &[]);
        Self {
            fields: Fields::of(&chains),
            defaults,
            listener,
            chains,
        }
    }

    /// Whether no level has an entry.
    pub(super) fn is_empty(&self) -> bool {
        self.defaults.is_empty() && self.listener.is_empty()
    }

    /// The two levels, the outermost first.
    pub(super) fn levels(&self) -> [&[Applied]; 2] {
        [&self.defaults, &self.listener]
    }

    /// The policies that change entries of routes without policies of their own.
    fn beyond_filters(&self) -> Beyond<'_> {
        let effective = effective(&self.levels());
        Beyond {
            cors: has_cors(&effective),
            maintenance: maintenance(&effective),
            counted: counted(&effective, &DocumentKey::new(Kind::Unknown, NOT_FOUND)),
            login: login_of(&effective),
        }
    }

    /// The network filter of a listener for TCP: its name and configuration.
    pub(super) fn network_filter(&self) -> Option<(&'static str, Any)> {
        let effective = effective(&self.levels());
        policies::of_connections(effective.get(&PolicyKind::IpAccess)?.policy.as_ref()?)
    }

    /// Whether a policy of the kind holds for everything without policies of its own.
    fn has(&self, kind: PolicyKind) -> bool {
        effective(&self.levels())
            .get(&kind)
            .is_some_and(|entry| entry.policy.is_some())
    }

    /// Whether entries of routes without policies of their own differ under the two.
    pub(super) fn changes_every_entry(old: Option<&Arc<Self>>, new: Option<&Arc<Self>>) -> bool {
        let beyond =
            |on: Option<&'_ Arc<Self>>| on.map(|on| on.beyond_filters()).unwrap_or_default() == Beyond::default();
        match (old, new) {
            (Some(old), Some(new)) => old.beyond_filters() != new.beyond_filters(),
            (old, new) => !beyond(old) || !beyond(new),
        }
    }

    /// The entry of the generated route that ends every virtual host.
    pub(super) fn not_found(&self) -> Arc<Entry> {
        self.over(&not_found_entry(vec![not_found()]))
    }

    /// A generated entry of the listener, with its policies.
    pub(super) fn over(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let beyond = self.beyond_filters();
        let rule = RulePolicies {
            listener: Some(&self.chains),
            targets: vec![self.chains.clone()],
            maintenance: beyond.maintenance,
            preflights: None,
            counted: beyond.counted,
        };
        Arc::new(entry.with_policies(&with_policies(&entry.routes, &rule)))
    }
}

/// The entry of the generated route, behind all others.
pub(super) fn not_found_entry(routes: Vec<Bytes>) -> Arc<Entry> {
    let entry = table::last_resort(&DocumentKey::new(Kind::Unknown, NOT_FOUND), Bytes::new());
    Arc::new(entry.with_routes(routes.into()))
}

/// The entries of a route on a listener of Envoy, with its policies.
pub(super) fn entries(
    input: &GroupInput<'_>,
    on: Option<&OnListener>,
    compiled: &CompiledDocument,
    entries: &[Arc<Entry>],
) -> Vec<Arc<Entry>> {
    let Document::Route(route) = compiled.document() else {
        return entries.to_vec();
    };

    let mut changed: BTreeMap<usize, Option<Policed>> = BTreeMap::new();
    let with_policies = |entry: &Arc<Entry>| {
        let routes = changed.entry(entry.claim.rule).or_insert_with(|| {
            let rule = route.rules.get(entry.claim.rule)?;
            rule_routes(input, on, &entry.claim.document, rule, &entry.routes)
        });
        match routes {
            Some(policed) => Arc::new(entry.with_policies(policed)),
            None => Arc::clone(entry),
        }
    };
    entries.iter().map(with_policies).collect()
}

/// The kind of the entries that [`logins`] makes.
const LOGIN_ENTRY: &str = "oidc";

/// The entries for callback and logout of the logins of a route, one of each for a host. Their place is the name of the
/// policy.
pub(super) fn logins(
    input: &GroupInput<'_>,
    on: Option<&OnListener>,
    compiled: &CompiledDocument,
    entries: &[Arc<Entry>],
) -> Vec<Arc<Entry>> {
    let Document::Route(route) = compiled.document() else {
        return Vec::new();
    };
    let outer: [&[Applied]; 2] = on.map(OnListener::levels).unwrap_or_default();
    let is_on_listener = on.is_some_and(|on| on.has(PolicyKind::Oidc));
    let mut found = Vec::new();
    for entry in entries {
        let Some(rule) = route.rules.get(entry.claim.rule) else {
            continue;
        };
        let by_target = targets(input.after, input.name, rule);
        if !is_on_listener && rule.policies.is_empty() && by_target.iter().all(Vec::is_empty) {
            continue;
        }
        let own = applied(input.after, input.name, &entry.claim.document, &rule.policies);
        let mut numbers = 0..;
        for cluster in &by_target {
            let effective = effective(&[outer[0], outer[1], cluster, &own]);
            let Some((policy, oidc)) = login_of(&effective) else {
                continue;
            };
            let with = RulePolicies {
                listener: on.map(|on| &on.chains),
                targets: vec![chains(&effective, &rule.matches.hosts)],
                counted: counted(&effective, &entry.claim.document),
                ..RulePolicies::default()
            };
            for path in [&oidc.callback_path, &oidc.logout_path] {
                let policed = with_policies(&[login(path)], &with);
                let place = policy.from().into();
                let kind = (LOGIN_ENTRY, numbers.next().unwrap_or_default());
                found.push(Arc::new(entry.at(path, kind, place, &policed)));
            }
        }
    }
    found
}

/// The clusters that a rule forwards to, each with its entries.
fn targets(inventory: &Inventory, group: &str, rule: &Rule) -> Vec<Vec<Applied>> {
    match &rule.action {
        Action::Redirect(_) | Action::Respond(_) => vec![Vec::new()],
        Action::Forward(targets) => targets
            .iter()
            .map(|target| of_cluster(inventory, group, &target.upstream.cluster_name()))
            .collect(),
    }
}

/// The entries of a cluster in a group.
pub(super) fn of_cluster(inventory: &Inventory, group: &str, name: &Arc<str>) -> Vec<Applied> {
    let cluster = inventory.cluster(name);
    let here =
        cluster.filter(|(cluster, _, compiled)| !cluster.policies.is_empty() && compiled.document().is_for(group));
    let entries = here.map(|(cluster, ..)| {
        let key = DocumentKey::new(Kind::Clusters, Arc::clone(name));
        applied(inventory, group, &key, &cluster.policies)
    });
    entries.unwrap_or_default()
}

/// The Routes of a rule with its policies; `None`: they are as without any.
fn rule_routes(
    input: &GroupInput<'_>,
    on: Option<&OnListener>,
    key: &DocumentKey,
    rule: &Rule,
    routes: &[Bytes],
) -> Option<Policed> {
    let outer: [&[Applied]; 2] = on.map(OnListener::levels).unwrap_or_default();
    let beyond = on.map(OnListener::beyond_filters).unwrap_or_default();
    let by_target = targets(input.after, input.name, rule);
    let methods = &rule.matches.methods;
    let takes_preflights = methods.is_empty() || methods.iter().any(|method| method == OPTIONS);
    if rule.policies.is_empty()
        && by_target.iter().all(Vec::is_empty)
        && beyond.maintenance.is_none()
        && beyond.counted.is_none()
        && (!beyond.cors || takes_preflights)
    {
        return None;
    }

    let own = applied(input.after, input.name, key, &rule.policies);
    let effective: Vec<_> = by_target
        .iter()
        .map(|cluster| effective(&[outer[0], outer[1], cluster, &own]))
        .collect();
    let rule = RulePolicies {
        listener: on.map(|on| &on.chains),
        targets: effective
            .iter()
            .map(|effective| chains(effective, &rule.matches.hosts))
            .collect(),
        maintenance: effective.iter().find_map(maintenance),
        preflights: (!takes_preflights && effective.iter().any(has_cors)).then_some(methods),
        counted: effective.iter().find_map(|effective| counted(effective, key)),
    };
    Some(with_policies(routes, &rule))
}

/// The kinds that hold for a rule of a document on a listener, for each of its targets; for a document without rules those
/// of the listener.
pub(super) fn kinds(
    inventory: &Inventory,
    group: &str,
    on: Option<&OnListener>,
    document: &DocumentKey,
    rule: usize,
) -> Vec<BTreeSet<PolicyKind>> {
    let outer: [&[Applied]; 2] = on.map(OnListener::levels).unwrap_or_default();
    let on = |levels: &[&[Applied]]| {
        let effective = effective(levels).into_values();
        let held = effective.filter(|entry| entry.policy.is_some());
        held.map(|entry| entry.kind).collect()
    };
    let route = inventory.document(document).and_then(Document::as_route);
    match route.and_then(|route| route.rules.get(rule)) {
        None => vec![on(&outer)],
        Some(rule) => {
            let own = applied(inventory, group, document, &rule.policies);
            let targets = targets(inventory, group, rule);
            targets
                .iter()
                .map(|cluster| on(&[outer[0], outer[1], cluster, &own]))
                .collect()
        }
    }
}

/// Changed policies documents, and those that hold the value of a changed secret.
fn changed_policies(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    let own = input.dirty.policies.iter().map(policy::key_of);
    let of_secrets = users_of_secrets(input).into_iter();
    own.chain(of_secrets.filter(|key| key.kind == Kind::Policies)).collect()
}

/// Changed secrets whose values stand in filters.
pub(super) fn changed_values<'a>(input: &GroupInput<'a>) -> impl Iterator<Item = &'a DocumentKey> {
    let (before, after) = (input.before, input.after);
    input.dirty.named.iter().filter(move |key| {
        let documents = [before.document(key), after.document(key)].into_iter().flatten();
        let mut secrets = documents.filter_map(Document::as_secret);
        secrets.any(|secret| secret.shape().is_by_value())
    })
}

/// Documents that hold the value of a changed secret, or held it before.
fn users_of_secrets(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    changed_values(input).flat_map(|key| users(input, key)).collect()
}

fn users(input: &GroupInput<'_>, key: &DocumentKey) -> Vec<DocumentKey> {
    let users = input.before.users_of(key).chain(input.after.users_of(key));
    users.cloned().collect()
}

/// Documents that name a changed policy, or named it before; and those with a policy that holds a changed secret.
pub(super) fn users_of_changed(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    let mut found: BTreeSet<DocumentKey> = users_of_secrets(input);
    found.retain(|key| key.kind != Kind::Policies);
    found.extend(changed_policies(input).iter().flat_map(|key| users(input, key)));
    found
}

/// Documents whose policies of filters with a state may have changed: their keys, and the secrets of these.
pub(super) fn changed_documents(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    let dirty = input.dirty;
    let mut keys = changed_policies(input);
    keys.extend(users_of_secrets(input));
    keys.extend(dirty.routes.iter().cloned());
    let named = |kind, names: &BTreeSet<Arc<str>>| -> Vec<DocumentKey> {
        names
            .iter()
            .map(|name| DocumentKey::new(kind, Arc::clone(name)))
            .collect()
    };
    keys.extend(named(Kind::Listeners, &dirty.listeners));
    keys.extend(named(Kind::Clusters, &dirty.cluster_policies));
    if dirty.default_policies {
        keys.insert(DocumentKey::new(Kind::Defaults, ""));
    }
    keys
}

/// The clusters of the services that the policies of a document ask. Sorted.
pub(super) fn services(key: &DocumentKey, document: &Document) -> Arc<[Arc<str>]> {
    let policies = own_policies(key, document);
    let names: BTreeSet<Arc<str>> = policies
        .flat_map(|(_, policy)| policy.upstreams().map(Upstream::cluster_name).collect::<Vec<_>>())
        .collect();
    names.into_iter().collect()
}

/// Routes whose entries may differ because a policy of theirs, or of one of their clusters, changed.
pub(super) fn changed_routes(input: &GroupInput<'_>) -> BTreeSet<DocumentKey> {
    let mut routes = BTreeSet::new();
    let mut clusters: BTreeSet<Arc<str>> = input.dirty.cluster_policies.clone();
    for key in users_of_changed(input) {
        match key.kind {
            Kind::Routes => drop(routes.insert(key)),
            Kind::Clusters => drop(clusters.insert(key.name)),
            _ => {}
        }
    }
    routes.extend(clusters.iter().flat_map(|name| input.after.users(name)).cloned());
    routes
}

/// Routes with policies of their own, or of one of their clusters.
pub(super) fn routes_with_policies(inventory: &Inventory) -> BTreeSet<DocumentKey> {
    let own = inventory.with_policies().filter(|key| key.kind == Kind::Routes);
    let clusters = inventory.with_policies().filter(|key| key.kind == Kind::Clusters);
    own.chain(clusters.flat_map(|key| inventory.users(&key.name)))
        .cloned()
        .collect()
}

/// Documents beside routes that a RouteConfiguration is made of: policies documents, and those with lists.
pub(super) fn makers(input: &GroupInput<'_>, listener: &Arc<str>, is_new: bool) -> BTreeSet<DocumentKey> {
    let concerns = |key: &DocumentKey| match key.kind {
        Kind::Routes => false,
        Kind::Listeners => key.name == *listener,
        _ => true,
    };
    let dirty = input.dirty;
    let mut makers: BTreeSet<DocumentKey> = dirty.policies.iter().map(policy::key_of).collect();
    makers.extend(changed_values(input).cloned());
    makers.extend(
        dirty
            .cluster_policies
            .iter()
            .map(|name| DocumentKey::new(Kind::Clusters, Arc::clone(name))),
    );
    if dirty.listeners.contains(listener) {
        makers.insert(DocumentKey::new(Kind::Listeners, Arc::clone(listener)));
    }
    if dirty.default_policies {
        makers.insert(DocumentKey::new(Kind::Defaults, ""));
    }
    if is_new {
        makers.extend(input.after.with_policies().filter(|key| concerns(key)).cloned());
        makers.extend(input.after.of_kind(Kind::Policies).map(|(key, _)| key.clone()));
        makers.extend(input.after.of_kind(Kind::Secrets).map(|(key, _)| key.clone()));
    }
    makers.retain(concerns);
    makers
}

/// Whether a document is one of the [`makers`] now.
pub(super) fn is_maker(inventory: &Inventory, group: &str, key: &DocumentKey) -> bool {
    let has_part = match key.kind {
        Kind::Policies => inventory.is_named(key),
        Kind::Secrets => {
            let secret = inventory.document(key).and_then(Document::as_secret);
            inventory.is_named(key) && secret.is_some_and(|secret| secret.shape().is_by_value())
        }
        _ => inventory.is_with_policies(key),
    };
    has_part && inventory.document(key).is_some_and(|document| document.is_for(group))
}

/// What the lists of a group are judged with.
#[derive(Clone, Copy)]
pub(super) struct Listeners<'a> {
    /// Listeners whose virtual hosts are on demand.
    pub(super) on_demand: &'a OrdSet<Arc<str>>,
    /// Listeners with policies.
    pub(super) policies: &'a OrdMap<Arc<str>, Arc<OnListener>>,
    /// Every listener with routes.
    pub(super) tables: &'a OrdMap<Arc<str>, Table>,
    /// The entries for logins on each listener.
    pub(super) logins: &'a OrdMap<Arc<str>, Logins>,
}

/// The entries for logins, by the document of the route.
pub(super) type Logins = OrdMap<DocumentKey, Arc<[Arc<Entry>]>>;

/// The documents of a group whose lists cannot hold. `repoliced`: listeners whose policies changed.
pub(super) fn faults<'a>(
    input: &GroupInput<'_>,
    listeners: Listeners<'_>,
    repoliced: impl Iterator<Item = &'a Arc<str>>,
) -> Vec<Fault> {
    let on_demand = listeners.on_demand;
    let (inventory, dirty) = (input.after, input.dirty);
    let every = input.every_listener_may_change();
    let is_newly_on_demand = on_demand.iter().any(|name| every || dirty.listeners.contains(name));
    let mut keys: BTreeSet<DocumentKey> = BTreeSet::new();
    if input.fresh || dirty.groups || is_newly_on_demand {
        keys.extend(inventory.with_policies().cloned());
    } else {
        let listener = |name: &Arc<str>| DocumentKey::new(Kind::Listeners, Arc::clone(name));
        let cluster = |name: &Arc<str>| DocumentKey::new(Kind::Clusters, Arc::clone(name));
        keys.extend(dirty.routes.iter().cloned());
        keys.extend(changed_routes(input));
        keys.extend(users_of_changed(input));
        keys.extend(dirty.listeners.iter().map(listener));
        keys.extend(dirty.cluster_policies.iter().map(cluster));
        if dirty.default_policies {
            keys.insert(DocumentKey::new(Kind::Defaults, ""));
        }
    }
    keys.extend(leaning(input, listeners, repoliced));

    let mut faults = Vec::new();
    for key in &keys {
        let Some(compiled) = inventory
            .get(key)
            .filter(|compiled| compiled.document().is_for(input.name))
        else {
            continue;
        };
        let mut lists = compiled.document().policy_lists();
        let fault = lists
            .find_map(|items| list_fault(input, key, compiled, items))
            .or_else(|| mixed(input, key, compiled))
            .or_else(|| on_demand_fault(input, on_demand, key, compiled))
            .or_else(|| need_fault(input, listeners, key, compiled))
            .or_else(|| login_fault(input, listeners, key))
            .or_else(|| tcp_fault(input, key, compiled));
        faults.extend(fault);
    }
    faults.extend(double_keys(input));
    faults.extend(short_secrets(input));
    faults.extend(too_many(input));
    faults
}

/// The newest policies document, if there are too many.
fn too_many(input: &GroupInput<'_>) -> Option<Fault> {
    let is_new = |name: &Arc<str>| input.before.get(&policy::key_of(name)).is_none();
    if !input.dirty.policies.iter().any(is_new) || input.after.of_kind(Kind::Policies).nth(MAX_POLICIES).is_none() {
        return None;
    }
    let documents = input.after.of_kind(Kind::Policies);
    let (_, newest) = documents
        .map(|(key, compiled)| (compiled.accepted.mod_revision, key))
        .max()?;
    let reason = format!("found more than {MAX_POLICIES} policies documents, expected at most as many");
    Some(Fault::of_itself(newest.clone(), Rejection::new("", reason)))
}

/// The newest document with policies on a listener, if the policies in its routes have too many bytes.
pub(super) fn too_large(input: &GroupInput<'_>, listener: &Arc<str>, table: &Table, bytes: usize) -> Option<Fault> {
    let inventory = input.after;
    let routes = routes_with_policies(inventory);
    let routes = table
        .documents()
        .map(|key| (**key).clone())
        .filter(|key| routes.contains(key));
    let makers = makers(input, listener, true).into_iter();
    let makers = makers.filter(|key| is_maker(inventory, input.name, key));
    let written = |key: DocumentKey| Some((inventory.get(&key)?.accepted.mod_revision, key));
    let (_, newest) = routes.chain(makers).filter_map(written).max()?;
    let reason = format!(
        "found {bytes} bytes of policies in the routes of listeners/{listener} in group {}, expected at most {}: put \
         policies on the listener, where they stand once",
        input.name, input.bounds.policy_bytes
    );
    Some(Fault::of_itself(newest, Rejection::new("", reason)))
}

/// A named policy of another kind than `ip_access` in the list of a listener for TCP. Of list and policy the document
/// written last is at fault.
fn tcp_fault(input: &GroupInput<'_>, key: &DocumentKey, compiled: &CompiledDocument) -> Option<Fault> {
    let listener = compiled
        .document()
        .as_listener()
        .filter(|listener| listener.tcp.is_some())?;
    let own = applied(input.after, input.name, key, &listener.policies);
    let entry = own.iter().find(|entry| entry.kind != PolicyKind::IpAccess)?;
    let reason = format!(
        "found {} beside \"tcp\", which has no HTTP filters, expected ip_access",
        entry.kind
    );
    Some(blamed(
        input,
        key,
        &key.name,
        &[&own],
        (entry, entry.kind.as_str(), reason),
    ))
}

/// Two logins with one path for callback or logout under a host. Of the documents with the routes and the policies the
/// one written last is at fault.
fn login_fault(input: &GroupInput<'_>, listeners: Listeners<'_>, key: &DocumentKey) -> Option<Fault> {
    let (entry, other) = listeners.logins.iter().find_map(|(listener, of_documents)| {
        let table = listeners.tables.get(listener)?;
        of_documents.get(key)?.iter().find_map(|entry| {
            let other = table.claimants(entry).find(|other| other.place != entry.place)?;
            Some((entry, other))
        })
    })?;
    let of_place = |entry: &Entry| match entry.place.strip_prefix("policies/") {
        Some(name) if !name.contains('#') => policy::key_of(&name.into()),
        _ => (*entry.claim.document).clone(),
    };
    let suspects = [entry, other]
        .into_iter()
        .flat_map(|entry| [of_place(entry), (*entry.claim.document).clone()]);
    let written = |key: &DocumentKey| input.after.get(key).map(|compiled| compiled.accepted.mod_revision);
    let newest = suspects.max_by_key(written)?;
    let reason = format!(
        "found one callback_path or logout_path for {} and {} on the host {}, expected paths of its own for each",
        entry.place,
        other.place,
        HostKey::of(&entry.position.host()),
    );
    Some(Fault::of_itself(newest, Rejection::new("", reason)))
}

/// Logins whose cookies a short secret would sign. Of the policy and its secret the one written last is at fault.
fn short_secrets(input: &GroupInput<'_>) -> Vec<Fault> {
    let inventory = input.after;
    let mut keys: BTreeSet<DocumentKey> = match input.fresh {
        true => all_with_policies(inventory),
        false => changed_documents(input),
    };
    keys.extend(input.dirty.named.iter().flat_map(|key| users(input, key)));
    let mut faults = Vec::new();
    for key in &keys {
        let Some(compiled) = inventory.get(key).filter(|one| one.document().is_for(input.name)) else {
            continue;
        };
        for (_, policy) in own_policies(key, compiled.document()) {
            let PolicyRule::Oidc(oidc) = &policy.rule else { continue };
            let name = &oidc.cookie_secret.name;
            let length = match secret(inventory, name).map(|secret| &secret.content) {
                Some(Content::Generic(text)) if text.expose().len() < MIN_COOKIE_SECRET => text.expose().len(),
                _ => continue,
            };
            let reason = format!("found a secret of {length} bytes, expected at least {MIN_COOKIE_SECRET} for cookies");
            let of_secret = DocumentKey::new(Kind::Secrets, Arc::clone(name));
            let written = inventory.get(&of_secret).map(|compiled| compiled.accepted.mod_revision);
            faults.push(match written > Some(compiled.accepted.mod_revision) {
                true => Fault::of_itself(of_secret, Rejection::new("generic", format!("{reason} ({key})"))),
                false => Fault::of_itself(key.clone(), Rejection::new("", format!("{of_secret}: {reason}"))),
            });
        }
    }
    faults
}

/// Every document with policies: policies documents, and those with lists.
fn all_with_policies(inventory: &Inventory) -> BTreeSet<DocumentKey> {
    let documents = inventory.of_kind(Kind::Policies).map(|(key, _)| key);
    documents.chain(inventory.with_policies()).cloned().collect()
}

/// Policies whose secrets give one key to two clients, which Envoy refuses. Of the policy and its secrets the one written
/// last is at fault.
fn double_keys(input: &GroupInput<'_>) -> Vec<Fault> {
    let inventory = input.after;
    let keys = match input.fresh {
        true => all_with_policies(inventory),
        false => changed_documents(input),
    };
    let mut faults = Vec::new();
    for key in &keys {
        let here = inventory
            .get(key)
            .filter(|compiled| compiled.document().is_for(input.name));
        let Some(compiled) = here else { continue };
        for (_, policy) in own_policies(key, compiled.document()) {
            let PolicyRule::ApiKey(api_key) = &policy.rule else {
                continue;
            };
            let Some(reason) = double_key(inventory, api_key) else {
                continue;
            };
            let secrets = api_key.keys.iter().filter_map(|named| {
                let key = DocumentKey::new(Kind::Secrets, Arc::clone(&named.name));
                Some((inventory.get(&key)?.accepted.mod_revision, key))
            });
            let newest = secrets
                .max()
                .filter(|(revision, _)| *revision > compiled.accepted.mod_revision);
            faults.push(match newest {
                Some((_, secret)) => Fault::of_itself(secret, Rejection::new("api_keys", format!("{reason} ({key})"))),
                None => Fault::of_itself(key.clone(), Rejection::new("", reason)),
            });
        }
    }
    faults
}

fn double_key(inventory: &Inventory, api_key: &ApiKey) -> Option<String> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for named in &api_key.keys {
        let Some(Content::ApiKeys(clients)) = secret(inventory, &named.name).map(|secret| &secret.content) else {
            continue;
        };
        if !clients.values().flatten().all(|key| seen.insert(key.expose())) {
            return Some(format!(
                "found a key of secrets/{} in another secret of the policy api_key too, expected each key once",
                named.name
            ));
        }
    }
    (seen.len() > MAX_KEYS).then(|| {
        format!(
            "found {} keys for the policy api_key, expected at most {MAX_KEYS}",
            seen.len()
        )
    })
}

/// Two entries of one kind in one list. Of the list and the policies that it names, the document written last is at fault.
fn list_fault(input: &GroupInput<'_>, key: &DocumentKey, compiled: &CompiledDocument, items: &[Item]) -> Option<Fault> {
    let mut kinds: BTreeMap<PolicyKind, (&Item, Option<NamedPolicy<'_>>)> = BTreeMap::new();
    for item in items {
        let (kind, policy) = match &item.choice {
            Choice::Off(kind) => (*kind, None),
            Choice::Inline(policy) => (policy.kind(), None),
            Choice::Named(name) => {
                // Whether there is one is checked with all references.
                let (of_name, document) = named(input.after, input.name, name)?;
                (document.policy.kind(), Some((name, of_name)))
            }
        };

        let Some((other, of_other)) = kinds.insert(kind, (item, policy)) else {
            continue;
        };
        let reason = format!(
            "found a second policy of the kind {kind} beside {}, expected one",
            other.place
        );
        let theirs = format!("found {kind}, which {key} has beside it already, expected another kind");
        let own = (
            compiled.accepted.mod_revision,
            key.clone(),
            Rejection::new(&*item.place, reason),
        );
        let named = [of_other, policy].into_iter().flatten().map(|(name, of_name)| {
            let rejection = Rejection::new(kind.as_str(), theirs.clone());
            (of_name.accepted.mod_revision, policy::key_of(name), rejection)
        });
        let newest = named.chain([own]).max_by_key(|(revision, ..)| *revision);
        return newest.map(|(_, key, rejection)| Fault::of_itself(key, rejection));
    }
    None
}

/// The name of a policies document, and the document.
type NamedPolicy<'a> = (&'a Arc<str>, &'a CompiledDocument);

/// The kinds of which a route has one for all of its targets: a fixed answer, and metadata.
const OF_WHOLE_ROUTES: [PolicyKind; 2] = [PolicyKind::Maintenance, PolicyKind::RateLimit];

/// A fixed answer replaces a whole route, and a rate limit is named by the metadata of a whole route, so the weighted
/// targets of a route must agree on both. Of the documents that disagree the one written last is at fault.
fn mixed(input: &GroupInput<'_>, key: &DocumentKey, compiled: &CompiledDocument) -> Option<Fault> {
    let Document::Route(route) = compiled.document() else {
        return None;
    };
    let is_mixed = |rule: &Rule, kind: PolicyKind| {
        let own = applied(input.after, input.name, key, &rule.policies);
        let by_target = targets(input.after, input.name, rule);
        let mut policies = by_target.iter().map(|cluster| {
            let effective = effective(&[cluster, &own]);
            let entry = effective.get(&kind)?;
            let policy = entry.policy.clone()?;
            // Equal answers are one answer; equal limits are two.
            Some(((kind == PolicyKind::RateLimit).then(|| entry.from()), policy))
        });
        let first = policies.next();
        policies.any(|policy| Some(policy) != first)
    };
    let mut rules = route.enabled_rules();
    let (rule, kind) = rules.find_map(|(_, rule)| {
        let mut kinds = OF_WHOLE_ROUTES.into_iter();
        kinds.find(|kind| is_mixed(rule, *kind)).map(|kind| (rule, kind))
    })?;

    let inventory = input.after;
    let clusters = rule.targets().iter().map(|target| target.upstream.cluster_name());
    let clusters: Vec<(DocumentKey, &CompiledDocument)> = clusters
        .filter_map(|name| {
            let (.., compiled) = inventory.cluster(&name)?;
            Some((DocumentKey::new(Kind::Clusters, name), &**compiled))
        })
        .collect();
    let lists = clusters
        .iter()
        .flat_map(|(_, compiled)| compiled.document().policy_lists());
    let items = lists.chain([&rule.policies]).flat_map(|items| items.iter());
    let policies = items.filter_map(|item| match &item.choice {
        Choice::Named(name) => named(inventory, input.name, name).map(|(compiled, _)| (policy::key_of(name), compiled)),
        Choice::Inline(_) | Choice::Off(_) => None,
    });

    let others = clusters.iter().cloned().chain(policies);
    let newest = others.max_by_key(|(_, compiled)| compiled.accepted.mod_revision);
    Some(match newest {
        Some((other, newest)) if newest.accepted.mod_revision > compiled.accepted.mod_revision => {
            let reason = format!("leaves {key} with targets with and without its {kind}, expected the same for all");
            let path = if other.kind == Kind::Policies { "" } else { "policies" };
            Fault::of_itself(other, Rejection::new(path, reason))
        }
        _ => {
            let reason = format!("found targets with and without its policy {kind}, expected the same for all of them");
            Fault::of_itself(key.clone(), Rejection::new(&*rule.place, reason))
        }
    })
}

/// Envoy skips the filters of a route on the first requests of a virtual host that is on demand. Of the documents that
/// bring this together the one written last is at fault.
fn on_demand_fault(
    input: &GroupInput<'_>,
    on_demand: &OrdSet<Arc<str>>,
    key: &DocumentKey,
    compiled: &CompiledDocument,
) -> Option<Fault> {
    let document = compiled.document();
    let has_list = document.policy_lists().next().is_some();
    // A route without a list may go to a cluster with one.
    let cluster = document.as_route().filter(|_| !has_list).and_then(|route| {
        let targets = route.enabled_rules().flat_map(|(_, rule)| rule.targets());
        let mut names = targets.map(|target| target.upstream.cluster_name());
        names.find(|name| !of_cluster(input.after, input.name, name).is_empty())
    });
    let name = match document {
        Document::Route(route) if has_list || cluster.is_some() => match &route.listeners {
            Some(names) => names.iter().find(|name| on_demand.contains(*name)),
            None => on_demand.iter().next(),
        },
        Document::Listener(_) if has_list => on_demand.get(&key.name),
        Document::Defaults(_) if has_list => on_demand.iter().next(),
        _ => None,
    }?;

    let reason = format!(
        "found policies on listeners/{name}, whose virtual hosts are on demand, expected none: \
         Envoy skips them on the first requests of a host"
    );
    let cluster = cluster.map(|name| DocumentKey::new(Kind::Clusters, name));
    let own = (key.clone(), "policies", reason.clone());
    let of_cluster = cluster.map(|key| (key, "policies", reason));
    let of_listener = (
        DocumentKey::new(Kind::Listeners, Arc::clone(name)),
        "http.virtual_hosts",
        format!("found \"on_demand\", expected \"all\": {key} has policies there, which Envoy would skip"),
    );
    let of_listener = Some(of_listener).filter(|(listener, ..)| listener != key);
    let suspects = of_listener.into_iter().chain(of_cluster).chain([own]);
    let newest = suspects.max_by_key(|(key, ..)| input.after.get(key).map(|compiled| compiled.accepted.mod_revision));
    newest.map(|(key, path, reason)| Fault::of_itself(key, Rejection::new(path, reason)))
}

/// Documents whose policies may need what a listener no longer has, or get a policy of a listener that they cannot take.
fn leaning<'a>(
    input: &GroupInput<'_>,
    listeners: Listeners<'_>,
    repoliced: impl Iterator<Item = &'a Arc<str>>,
) -> BTreeSet<DocumentKey> {
    let inventory = input.after;
    let mut keys = BTreeSet::new();
    let mut with_policies = None;
    for name in repoliced {
        keys.insert(DocumentKey::new(Kind::Listeners, Arc::clone(name)));
        keys.insert(DocumentKey::new(Kind::Defaults, ""));
        let with_policies = with_policies.get_or_insert_with(|| routes_with_policies(inventory));
        keys.extend(inventory.among_routes_for(name, with_policies));
        let on = listeners.policies.get(name);
        if on.is_some_and(|on| on.has(PolicyKind::Buffer)) {
            let is_grpc = |key: &&DocumentKey| {
                let route = inventory.document(key).and_then(Document::as_route);
                route.is_some_and(|route| route.rules.iter().any(|rule| rule.matches.grpc))
            };
            keys.extend(inventory.routes_for(name).filter(is_grpc).cloned());
        }
    }

    // A policy may need the protocol of a cluster.
    let loses_http2 =
        |name: &&Arc<str>| speaks_http2(input.before, input, name) && !speaks_http2(inventory, input, name);
    let clusters = input.dirty.upstreams.iter().filter(loses_http2);
    keys.extend(clusters.flat_map(|name| inventory.users(name)).cloned());
    if input.dirty.every_upstream {
        keys.extend(routes_with_policies(inventory));
    }

    let verifies = |inventory: &Inventory, name: &Arc<str>| verifies_clients(inventory, name);
    let loses = |name: &&Arc<str>| verifies(input.before, name) && !verifies(inventory, name);
    if input.dirty.listeners.iter().any(|name| loses(&name)) {
        keys.extend(inventory.with_policies().cloned());
        keys.extend(routes_with_policies(inventory));
    }
    keys
}

/// Whether a cluster speaks HTTP/2. A cluster without a document may come to.
fn speaks_http2(inventory: &Inventory, input: &GroupInput<'_>, name: &Arc<str>) -> bool {
    let cluster = inventory.cluster(name);
    let protocol = cluster.map(|(cluster, ..)| clusters::settings_of(cluster, input.context).protocol);
    protocol.is_none_or(|protocol| protocol == Some(Protocol::Http2))
}

/// Whether a listener checks the certificates of its clients.
fn verifies_clients(inventory: &Inventory, name: &Arc<str>) -> bool {
    let document = inventory.document(&DocumentKey::new(Kind::Listeners, Arc::clone(name)));
    let tls = document.and_then(|document| document.as_listener()?.tls.as_ref());
    tls.is_some_and(|tls| tls.client.is_some())
}

/// A policy that holds where it cannot work. Of the documents that bring this together the one written last is at fault.
fn need_fault(
    input: &GroupInput<'_>,
    listeners: Listeners<'_>,
    key: &DocumentKey,
    compiled: &CompiledDocument,
) -> Option<Fault> {
    let inventory = input.after;
    let document = compiled.document();
    let names: Vec<&Arc<str>> = match document {
        Document::Route(route) => tables_of(listeners.tables, route).collect(),
        Document::Defaults(_) => listeners.tables.keys().collect(),
        Document::Listener(_) => listeners
            .tables
            .contains_key(&key.name)
            .then_some(&key.name)
            .into_iter()
            .collect(),
        _ => return None,
    };
    for name in names.into_iter().filter(|name| !inventory.is_api(name)) {
        let on = listeners.policies.get(name);
        let outer: [&[Applied]; 2] = on.map(|on| on.levels()).unwrap_or_default();
        let verifies = verifies_clients(inventory, name);
        let unmet = |levels: &[&[Applied]], requests: Requests| {
            let fault = unmet(&effective(levels), name, verifies, requests)?;
            Some(blamed(input, key, name, levels, fault))
        };
        let fault = match document {
            Document::Route(route) if inventory.on(name).has(route) => route.enabled_rules().find_map(|(_, rule)| {
                let own = applied(inventory, input.name, key, &rule.policies);
                let targets = targets(input.after, input.name, rule);
                let names = rule.targets().iter().map(|target| Some(target.upstream.cluster_name()));
                let mut names = names.chain(std::iter::repeat(None));
                targets.iter().find_map(|cluster| {
                    let name = names.next().flatten();
                    let requests = Requests {
                        is_grpc: rule.matches.grpc,
                        any_host: rule.matches.hosts.contains(&HostPattern::Any),
                        has_http2: name.is_none_or(|name| speaks_http2(inventory, input, &name)),
                    };
                    unmet(&[outer[0], outer[1], cluster, &own], requests)
                })
            }),
            Document::Route(_) => None,
            _ => unmet(
                &outer,
                Requests {
                    is_grpc: false,
                    any_host: true,
                    has_http2: true,
                },
            ),
        };
        if fault.is_some() {
            return fault;
        }
    }
    None
}

/// The requests for which policies hold.
#[derive(Clone, Copy)]
struct Requests {
    is_grpc: bool,
    any_host: bool,
    /// The cluster speaks HTTP/2, or there is none.
    has_http2: bool,
}

/// The first of these policies that cannot work on a listener, its field, and the reason.
fn unmet<'a>(
    effective: &BTreeMap<PolicyKind, &'a Applied>,
    listener: &str,
    verifies_clients: bool,
    requests: Requests,
) -> Option<(&'a Applied, &'static str, String)> {
    let has_token = effective
        .get(&PolicyKind::Jwt)
        .is_some_and(|entry| entry.policy.is_some());
    let has_client = client_header(effective).is_some();
    effective.values().find_map(|entry| match &entry.policy.as_ref()?.rule {
        // A rule that denies would never match.
        _ if !has_token && entry.policy.as_ref()?.needs_token() => {
            let reason = "found a claim without a policy jwt that holds for the same requests, expected one".to_owned();
            Some((*entry, entry.kind.as_str(), reason))
        }
        _ if !has_client && entry.policy.as_ref()?.needs_client() => {
            let reason =
                "found the client of a request without a policy api_key with \"client_header\" or basic_auth with \
                          \"user_header\" that holds for the same requests, expected one"
                    .to_owned();
            Some((*entry, entry.kind.as_str(), reason))
        }
        // On a client without a certificate a rule that denies would never match.
        PolicyRule::Rbac(rbac) if !verifies_clients && rbac.rules.iter().any(|rule| rule.peer.is_some()) => {
            let reason =
                format!("found \"peer\" of rbac on listeners/{listener}, which has no \"client_ca\", expected one");
            Some((*entry, "rbac", reason))
        }
        // Envoy would send browsers to whatever host a request names.
        PolicyRule::Oidc(oidc) if requests.any_host && oidc.redirect_hosts.is_none() => {
            let reason =
                "found no \"redirect_hosts\" for requests of any host, expected the hosts to come back to".to_owned();
            Some((*entry, "oidc", reason))
        }
        PolicyRule::ExtAuthz(authz) if requests.is_grpc && authz.body.is_some() => {
            let reason =
                "found \"body\" of ext_authz on a \"grpc\" match, whose streams it would hold back, expected none";
            Some((*entry, "ext_authz.body", reason.to_owned()))
        }
        PolicyRule::GrpcJson(_) if !requests.has_http2 => {
            let reason =
                "found grpc_json for a cluster whose \"protocol\" is not \"http2\", expected \"http2\"".to_owned();
            Some((*entry, "grpc_json", reason))
        }
        PolicyRule::Buffer(_) if requests.is_grpc => {
            let reason = "found buffer on a \"grpc\" match, whose streams it would hold back, expected none".to_owned();
            Some((*entry, "buffer", reason))
        }
        _ => None,
    })
}

/// The fault of the document written last among those that bring the policies of a document together: the document,
/// policies and lists of each level, the listener, `defaults`, and changed clusters.
fn blamed(
    input: &GroupInput<'_>,
    key: &DocumentKey,
    listener: &Arc<str>,
    levels: &[&[Applied]],
    (entry, kind, reason): (&Applied, &str, String),
) -> Fault {
    let document = input.after.document(key);
    let named = document.and_then(Document::as_route).map(Route::upstream_names);
    let clusters = named.into_iter().flatten();
    let clusters = clusters.filter(|name| input.dirty.upstreams.contains(name));
    let mut suspects = vec![
        key.clone(),
        DocumentKey::new(Kind::Listeners, Arc::clone(listener)),
        DocumentKey::new(Kind::Defaults, ""),
    ];
    suspects.extend(clusters.map(|name| DocumentKey::new(Kind::Clusters, name)));
    let entries = levels.iter().flat_map(|level| level.iter());
    suspects.extend(entries.flat_map(|entry| [entry.document.clone(), entry.owner.clone()]));
    let written = |key: &DocumentKey| input.after.get(key).map(|compiled| compiled.accepted.mod_revision);
    let newest = suspects.into_iter().max_by_key(written).unwrap_or_else(|| key.clone());
    let (path, reason) = match () {
        () if newest == entry.owner => (entry.place.as_str(), reason),
        () if newest == entry.document => (kind, format!("{}: {reason}", entry.owner)),
        () => ("", format!("{}: {reason}", entry.from())),
    };
    Fault::of_itself(newest, Rejection::new(path, reason))
}

/// A sentence for each entry of a document's lists that a final policy of an outer level beats.
pub(super) fn losers(
    inventory: &Inventory,
    group: &str,
    on: &OnListener,
    key: &DocumentKey,
    document: &Document,
) -> Vec<String> {
    let outer: &[&[Applied]] = match document {
        Document::Defaults(_) => &[],
        Document::Listener(_) => &[&on.defaults],
        _ => &[&on.defaults, &on.listener],
    };
    let outer = effective(outer);
    let lists = document
        .policy_lists()
        .flat_map(|items| applied(inventory, group, key, items));
    lists
        .filter_map(|entry| {
            let winner = outer.get(&entry.kind).filter(|winner| winner.is_final)?;
            let is_other = winner.document != entry.document;
            is_other.then(|| format!("{}: {} is final and holds instead", entry.place, winner.document))
        })
        .collect()
}

/// A policy that holds for requests of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectivePolicy {
    /// The listener.
    pub listener: Arc<str>,
    /// The cluster; `None`: the requests go to none, or the document is a listener.
    pub cluster: Option<Arc<str>>,
    /// The kind.
    pub kind: PolicyKind,
    /// A key, or `key#policies[0]` for a policy inside a list.
    pub from: String,
    /// Whether no nearer level can change it.
    pub is_final: bool,
    /// The policy.
    pub policy: Arc<Policy>,
}

/// A policy that holds for a request, and the level that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The kind.
    pub kind: PolicyKind,
    /// The document that has the policy.
    pub document: DocumentKey,
    /// The place of the policy in this document; `None`: the document is the policy.
    pub place: Option<String>,
    /// The document whose list names the policy: `defaults`, a listener, a cluster or a route.
    pub level: DocumentKey,
}

impl Compiled {
    /// The policies that hold for a request to a cluster, in the order of filters. `own`: the entries of the rule that
    /// takes the request.
    pub(super) fn holding(
        &self,
        group: &str,
        listener: &Arc<str>,
        cluster: Option<&Arc<str>>,
        own: Option<(&DocumentKey, &Rule)>,
    ) -> Vec<Holding> {
        let on = self.groups.get(group).and_then(|state| state.policies.get(listener));
        let [defaults, of_listener]: [&[Applied]; 2] = on.map(|on| on.levels()).unwrap_or_default();
        let of_cluster = cluster.map(|name| of_cluster(&self.inventory, group, name));
        let of_cluster = of_cluster.unwrap_or_default();
        let own = own.map(|(key, rule)| applied(&self.inventory, group, key, &rule.policies));
        let own = own.unwrap_or_default();

        let effective = effective(&[defaults, of_listener, &of_cluster, &own]);
        let on = effective.values().filter(|entry| entry.policy.is_some());
        on.map(|entry| Holding {
            kind: entry.kind,
            document: entry.document.clone(),
            place: (!entry.is_named).then(|| entry.place.clone()),
            level: entry.owner.clone(),
        })
        .collect()
    }

    /// The policies that hold for a route, a cluster or a listener: by listener and cluster, in the order of kinds.
    #[must_use]
    pub fn effective_policies(&self, key: &DocumentKey) -> Vec<EffectivePolicy> {
        let Some(document) = self.inventory.document(key) else {
            return Vec::new();
        };

        let mut found: Vec<EffectivePolicy> = Vec::new();
        for (group, state) in self.groups.iter().filter(|(group, _)| document.is_for(group)) {
            let tables: Vec<&Arc<str>> = match document {
                Document::Route(route) => state.tables_of(route).collect(),
                Document::Listener(_) => state
                    .tables
                    .get_key_value(&key.name)
                    .map(|(name, _)| name)
                    .into_iter()
                    .collect(),
                _ => state.tables.keys().collect(),
            };
            for listener in tables.into_iter().filter(|listener| !self.inventory.is_api(listener)) {
                let outer: [&[Applied]; 2] = state.policies.get(listener).map(|on| on.levels()).unwrap_or_default();
                for (cluster, own) in self.inner_levels(group, listener, key, document) {
                    let of_cluster = cluster.as_ref().map(|name| of_cluster(&self.inventory, group, name));
                    let of_cluster = of_cluster.unwrap_or_default();
                    let effective = effective(&[outer[0], outer[1], &of_cluster, &own]);
                    for entry in effective.values() {
                        let Some(policy) = &entry.policy else { continue };
                        let policy = EffectivePolicy {
                            listener: Arc::clone(listener),
                            cluster: cluster.clone(),
                            kind: entry.kind,
                            from: entry.from(),
                            is_final: entry.is_final,
                            policy: Arc::clone(policy),
                        };
                        if !found.contains(&policy) {
                            found.push(policy);
                        }
                    }
                }
            }
        }
        found
    }

    /// The targets of a document on a listener, each with the entries of the innermost level.
    fn inner_levels(
        &self,
        group: &str,
        listener: &Arc<str>,
        key: &DocumentKey,
        document: &Document,
    ) -> Vec<(Option<Arc<str>>, Vec<Applied>)> {
        match document {
            Document::Route(route) if route.is_on(listener) => {
                let of_rule = |rule: &Rule| {
                    let own = applied(&self.inventory, group, key, &rule.policies);
                    let names: Vec<Option<Arc<str>>> = match &rule.action {
                        Action::Forward(targets) => targets
                            .iter()
                            .map(|target| Some(target.upstream.cluster_name()))
                            .collect(),
                        Action::Redirect(_) | Action::Respond(_) => vec![None],
                    };
                    names.into_iter().map(move |name| (name, own.clone()))
                };
                route.enabled_rules().flat_map(|(_, rule)| of_rule(rule)).collect()
            }
            Document::Cluster(_) => vec![(Some(Arc::clone(&key.name)), Vec::new())],
            Document::Listener(_) if key.name == *listener => vec![(None, Vec::new())],
            _ => Vec::new(),
        }
    }
}
