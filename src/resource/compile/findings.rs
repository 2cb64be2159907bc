//! Findings about one document among the others: matches that other rules won, references to missing documents.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::accepted::CompiledDocument;
use super::input::entries_on;
use super::policies::{EffectivePolicy, applied};
use super::{Compiled, offers, policies};
use crate::document::cluster::{Cluster, LbPolicy, Source};
use crate::document::endpoint::Endpoint;
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::ClientIp;
use crate::document::policy::{PolicyKind, PolicyRule};
use crate::document::route::{Route, Rule, SplitBy};
use crate::document::sentence::quote;
use crate::document::{DEFAULT_GROUP, Document, listener};
use crate::resource::compile::translate::Translated;
use crate::resource::{Resource, ResourceType, clusters, grpc};

/// A match that the document lost to another rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// The rule of the document.
    pub place: Arc<str>,
    /// The document that has the match.
    pub winner: DocumentKey,
    /// The rule of that document.
    pub winner_place: Arc<str>,
}

/// Findings about a document. Empty: the document serves as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The route is on a listener, and other routes have each of its matches, in every group and on every listener.
    pub shadowed: bool,
    /// Matches that other rules have, sorted, each once.
    pub losses: Vec<Loss>,
    /// For an xds document: in every group, the resource of another document is served under its name. The sentence
    /// names that document and the field that would change it.
    pub shadowed_by: Option<String>,
    /// Documents that the document names and that do not serve.
    pub missing: Vec<Missing>,
    /// Sentences about references to documents that serve nothing here, and about fields that gRPC clients cannot take.
    pub warnings: Vec<String>,
    /// The cluster is used and has no endpoints: the sentence among the warnings.
    pub empty: Option<String>,
}

/// Numbers of endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct EndpointCounts {
    /// All.
    pub total: usize,
    /// Those that get new requests; the health checks of proxies are not known.
    pub healthy: usize,
    /// Those that get no new requests and finish the open ones.
    pub draining: usize,
}

impl EndpointCounts {
    fn add(&mut self, endpoint: &Endpoint) {
        self.total += 1;
        if endpoint.draining {
            self.draining += 1;
        } else {
            self.healthy += 1;
        }
    }
}

/// A document that another one names and that does not serve: it does not exist, or was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The field that names the document.
    pub field: &'static str,
    /// The document.
    pub document: DocumentKey,
    /// The consequence, half a sentence.
    pub consequence: &'static str,
}

impl Compiled {
    /// The findings about a document; empty if the document is not accepted.
    #[must_use]
    pub fn findings(&self, key: &DocumentKey) -> Findings {
        let Some(compiled) = self.inventory.get(key) else {
            return Findings::default();
        };

        let mut findings = Findings {
            missing: self.unknown_groups(compiled.document()),
            ..Findings::default()
        };

        findings.warnings.extend(self.policy_warnings(key, compiled.document()));
        match compiled.document() {
            Document::Route(route) => {
                self.find_losses(compiled, route, &mut findings);
                findings.missing.extend(self.unknown_listeners(route));
                findings.warnings.extend(self.tcp_listeners(route));
                self.find_missing_clusters(key, &mut findings);
                findings.warnings.extend(self.unused_hashing(route));
                findings.warnings.extend(self.failing_tests(key));
                findings.warnings.extend(grpc::warnings::of_route(
                    route,
                    &self.api_listeners_of(compiled.document()),
                ));
            }
            Document::Cluster(cluster) => {
                findings.warnings.extend(clusters::warnings(cluster, &self.context));
                self.find_missing_members(compiled.document(), cluster, &mut findings);
                self.find_missing_clusters(key, &mut findings);
                findings.empty = self.without_instances(key, cluster);
                findings.warnings.extend(findings.empty.clone());
                findings.warnings.extend(self.cluster_for_grpc(key, cluster));
                findings
                    .warnings
                    .extend(self.replaced(ResourceType::Cluster, &key.name));
            }
            Document::Endpoint(_) => findings.warnings.extend(self.unused_registration(key)),
            Document::Xds(_) => self.find_shadowing(key, &mut findings),
            Document::Listener(_) => {
                self.find_missing_clusters(key, &mut findings);
                findings
                    .warnings
                    .extend(self.replaced(ResourceType::Listener, &key.name));
            }
            Document::Defaults(_) | Document::Policy(_) => self.find_missing_clusters(key, &mut findings),
            Document::Secret(_) => findings.warnings.extend(self.replaced(ResourceType::Secret, &key.name)),
            Document::Runtime(_) => findings
                .warnings
                .extend(self.replaced(ResourceType::Runtime, &key.name)),
            Document::Group(_) | Document::Registry(_) => {}
        }

        findings
    }

    fn find_losses(&self, compiled: &CompiledDocument, route: &Route, findings: &mut Findings) {
        let mut losses = BTreeSet::new();
        let (mut own, mut kept) = (0, 0);
        let is_for = |group: &Arc<str>| compiled.document().is_for(group);
        for (group, state) in self.groups.iter().filter(|(group, _)| is_for(group)) {
            for listener in state.tables_of(route) {
                let Some(table) = state.tables.get(listener) else {
                    continue;
                };
                for entry in entries_on(compiled, group, self.inventory.on(listener)) {
                    own += 1;
                    match table.winner(entry) {
                        Some(winner) if winner.claim != entry.claim => losses.insert(Loss {
                            place: Arc::clone(&entry.place),
                            winner: (*winner.claim.document).clone(),
                            winner_place: Arc::clone(&winner.place),
                        }),
                        _ => {
                            kept += 1;
                            true
                        }
                    };
                }
            }
        }

        findings.shadowed = own > 0 && kept == 0;
        findings.losses = losses.into_iter().collect();
    }

    /// Whether the resource of an xds document is served, or one of another document under its name.
    fn find_shadowing(&self, key: &DocumentKey, findings: &mut Findings) {
        let Some(compiled) = self.inventory.get(key) else {
            return;
        };

        let Translated::Verbatim(own) = &compiled.translated else {
            return;
        };

        let (resource_type, written) = (own.resource_type, &own.resource);
        let resource = (resource_type, Arc::clone(&written.name));
        let mut others: Vec<(&str, String)> = Vec::new();
        let mut serves = false;
        for (group, state) in self
            .groups
            .iter()
            .filter(|(group, _)| compiled.document().is_for(group))
        {
            let is_another = |served: &&Arc<Resource>| !Arc::ptr_eq(served, written);
            match state.resources.get(&resource).filter(is_another) {
                Some(served) => others.push((group, maker(served))),
                None => serves = true,
            }
        }

        let Some((_, maker)) = others.first() else { return };
        let (word, name) = (resource_type, &written.name);
        let sentence = format!(
            "{maker} makes {name} of type {word} already; \"replace\": true would put this resource in its place"
        );

        if serves {
            let groups: Vec<&str> = others.iter().map(|(group, _)| *group).collect();
            findings
                .warnings
                .push(format!("not in group {}: {sentence}", groups.join(", ")));
        } else {
            findings.shadowed_by = Some(sentence);
        }
    }

    /// The sentence for a document whose resource an xds document replaces.
    fn replaced(&self, resource_type: ResourceType, name: &Arc<str>) -> Option<String> {
        let (document, compiled) = self.inventory.verbatim(resource_type, name)?;
        let replaces = compiled.document().as_xds().is_some_and(|xds| xds.replace);
        let key = (resource_type, Arc::clone(name));
        let over = self
            .groups
            .values()
            .any(|state| replaces && state.shadowed.contains_key(&key));
        over.then(|| format!("{document} is served in its place"))
    }

    /// Sentences about policies that do not hold: a final one further out wins, or gRPC clients have no policies.
    fn policy_warnings(&self, key: &DocumentKey, document: &Document) -> BTreeSet<String> {
        let mut sentences = BTreeSet::new();
        let upgrades = |route: &Route| {
            let mut rules = route.enabled_rules();
            rules.any(|(_, rule)| rule.settings.websocket == Some(true))
        };
        if document.as_route().is_some_and(upgrades) {
            let holding =
                self.effective_policies(key)
                    .into_iter()
                    .filter_map(|effective| match &effective.policy.rule {
                        PolicyRule::Buffer(_) => Some("buffer"),
                        PolicyRule::ExtAuthz(authz) if authz.body.is_some() => Some("ext_authz with \"body\""),
                        PolicyRule::ExtProc(processor) if processor.has_bodies() => Some("ext_proc with bodies"),
                        _ => None,
                    });
            sentences.extend(holding.map(|policy| format!("websocket: the policy {policy} holds streams back")));
        }
        if document.policy_lists().next().is_none() {
            return sentences;
        }
        sentences.extend(self.overruled(key));
        sentences.extend(self.only_private_clients(key));
        sentences.extend(self.csrf_beside_tokens(key));
        if let Some(route) = document.as_route() {
            sentences.extend(self.kinds_without_upstream(key, document, route));
        }
        for listener in self.api_listeners_of(document) {
            sentences.insert(format!("policies: gRPC clients of listeners/{listener} have none"));
        }
        sentences
    }

    /// A sentence for each listener where `ip_access` admits private addresses only, and every client has the address of
    /// the proxy in front.
    fn only_private_clients(&self, key: &DocumentKey) -> BTreeSet<String> {
        let trusts_none = |listener: &Arc<str>| {
            let document = self
                .inventory
                .document(&DocumentKey::new(Kind::Listeners, Arc::clone(listener)));
            let own = document.and_then(|document| document.as_listener()?.settings.http.as_ref());
            let http = own.or(self.context.defaults.listener.http.as_ref());
            http.is_none_or(|http| http.client_ip == ClientIp::TrustedHops(0))
        };
        let concerns = |effective: &EffectivePolicy| match &effective.policy.rule {
            PolicyRule::IpAccess(access) => access.admits_private_only() && trusts_none(&effective.listener),
            _ => false,
        };
        let effective = self.effective_policies(key).into_iter();
        let sentence = |effective: EffectivePolicy| {
            format!(
                "ip_access: admits private addresses only; behind a proxy, clients of listeners/{} have its address, unless \
                 http.client_ip says otherwise",
                effective.listener
            )
        };
        effective.filter(concerns).map(sentence).collect()
    }

    /// A sentence for each kind that a route names for requests without an upstream, on which Envoy ignores the kind.
    fn kinds_without_upstream(&self, key: &DocumentKey, document: &Document, route: &Route) -> BTreeSet<String> {
        let groups = self.groups.keys().filter(|group| document.is_for(group));
        let own = groups.flat_map(|group| {
            let rules = route.enabled_rules().map(|(_, rule)| rule);
            let rules = rules.filter(|rule| rule.targets().is_empty());
            rules.flat_map(|rule| applied(&self.inventory, group, key, &rule.policies))
        });
        own.filter(|entry| entry.policy.is_some() && !entry.kind.holds_on_own_answers())
            .map(|entry| {
                let kind = entry.kind.as_str();
                format!(
                    "{}: Envoy ignores {kind} on a route with redirect or respond",
                    entry.place
                )
            })
            .collect()
    }

    /// A sentence if clients without a browser would need an Origin: programs that send keys or tokens have none.
    fn csrf_beside_tokens(&self, key: &DocumentKey) -> Option<String> {
        let effective = self.effective_policies(key);
        let has = |kind: PolicyKind| effective.iter().any(|effective| effective.kind == kind);
        let other = [PolicyKind::ApiKey, PolicyKind::Jwt]
            .into_iter()
            .find(|kind| has(*kind));
        let other = other.filter(|_| has(PolicyKind::Csrf))?;
        Some(format!(
            "csrf: holds beside {other}, whose clients may send no Origin and get 403 then"
        ))
    }

    /// A sentence for each entry of a document's lists of policies that does not hold, because a final policy wins.
    #[must_use]
    pub fn overruled(&self, key: &DocumentKey) -> BTreeSet<String> {
        let mut sentences = BTreeSet::new();
        let Some(document) = self.inventory.document(key) else {
            return sentences;
        };
        for (group, state) in self.groups.iter().filter(|(group, _)| document.is_for(group)) {
            let reached: Vec<&Arc<str>> = match document {
                Document::Route(route) => state.tables_of(route).collect(),
                Document::Listener(_) => vec![&key.name],
                _ => state.policies.keys().collect(),
            };
            for on in reached.into_iter().filter_map(|listener| state.policies.get(listener)) {
                sentences.extend(policies::losers(&self.inventory, group, on, key, document));
            }
        }
        sentences
    }

    /// Groups with a document that has policies.
    #[must_use]
    pub fn groups_with_policies(&self) -> BTreeSet<Arc<str>> {
        let has_some = |group: &&Arc<str>| {
            let mut keys = self.inventory.with_policies();
            keys.any(|key| {
                self.inventory
                    .document(key)
                    .is_some_and(|document| document.is_for(group))
            })
        };
        self.groups.keys().filter(has_some).cloned().collect()
    }

    fn unknown_groups(&self, document: &Document) -> Vec<Missing> {
        let named = document.groups().iter().flatten();
        let unknown = named.filter(|group| !self.groups.contains_key(*group) && &***group != DEFAULT_GROUP);
        let missing = unknown.map(|group| Missing {
            field: "groups",
            document: DocumentKey::new(Kind::Groups, Arc::clone(group)),
            consequence: "no proxy gets this for it",
        });
        missing.collect()
    }

    fn unknown_listeners(&self, route: &Route) -> Vec<Missing> {
        let written = self.inventory.of_kind(Kind::Listeners).next().is_some();
        let exists = |name: &Arc<str>| {
            let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
            self.inventory.get(&key).is_some() || (!written && &**name == listener::DEFAULT_NAME)
        };
        let named = route.listeners.iter().flatten();
        let unknown = named.filter(|name| !exists(name));
        let missing = unknown.map(|name| Missing {
            field: "listeners",
            document: DocumentKey::new(Kind::Listeners, Arc::clone(name)),
            consequence: "nothing is served there",
        });
        missing.collect()
    }

    /// Warnings about `split_by` of one cluster, and about `hash_on` beside a cluster that balances without hashes.
    fn unused_hashing(&self, route: &Route) -> BTreeSet<String> {
        let rules: Vec<&Rule> = route.enabled_rules().map(|(_, rule)| rule).collect();
        let is_split = |rule: &&Rule| rule.targets().len() > 1;
        let by_hash = |rule: &Rule| rule.settings.split_by == Some(SplitBy::HashOn);

        let mut sentences = BTreeSet::new();
        if rules.iter().any(|rule| rule.settings.split_by.is_some()) && !rules.iter().any(is_split) {
            sentences.insert("split_by: has no effect on a \"to\" of one cluster".to_owned());
        }

        // An override inherits the hashes by which the route splits its users.
        let splits: Vec<_> = rules.iter().filter(|rule| is_split(rule) && by_hash(rule)).collect();
        let is_used = |rule: &&Rule| {
            splits
                .iter()
                .any(|split| split.settings.hash_on == rule.settings.hash_on)
        };
        let hashing = rules.iter().copied().filter(|rule| rule.settings.hash_on.is_some());
        for rule in hashing.filter(|rule| !is_used(rule)) {
            for name in rule.targets().iter().map(|target| target.upstream.cluster_name()) {
                let policy = self.lb_policy(&name);
                if policy.is_some_and(|policy| !matches!(policy, LbPolicy::RingHash | LbPolicy::Maglev)) {
                    sentences.insert(format!(
                        "hash_on: clusters/{name} balances without hashes; \"lb\" of ring_hash or maglev uses them"
                    ));
                }
            }
        }
        sentences
    }

    /// The policy of a cluster that a document describes.
    fn lb_policy(&self, name: &Arc<str>) -> Option<LbPolicy> {
        let (cluster, ..) = self.inventory.cluster(name)?;
        let lb = clusters::settings_of(cluster, &self.context).lb;
        Some(lb.map_or(LbPolicy::RoundRobin, |lb| lb.policy))
    }

    /// The sentence for each listener that a route names and that has no routes.
    fn tcp_listeners(&self, route: &Route) -> Vec<String> {
        let key = |name: &Arc<str>| DocumentKey::new(Kind::Listeners, Arc::clone(name));
        let is_tcp = |name: &&Arc<str>| {
            self.inventory
                .document(&key(name))
                .is_some_and(Document::is_tcp_listener)
        };
        let named = route.listeners.iter().flatten().filter(is_tcp);
        named
            .map(|name| format!("listeners: listeners/{name} passes TCP on, so no route is served there"))
            .collect()
    }

    /// Clusters that no document describes, of those that a document names. Sorted.
    #[must_use]
    pub fn undescribed_clusters(&self, user: &DocumentKey) -> Vec<Arc<str>> {
        let undescribed = |name: &&Arc<str>| !self.inventory.describes(name);
        match self.inventory.get(user).map(|compiled| &compiled.translated) {
            Some(Translated::Verbatim(written)) => written.clusters.iter().filter(undescribed).cloned().collect(),
            Some(translated) => {
                let upstreams = translated.upstreams().iter();
                let by_name = upstreams.filter(|(_, url)| url.is_none()).map(|(name, _)| name);
                by_name.filter(undescribed).cloned().collect()
            }
            None => Vec::new(),
        }
    }

    /// Clusters that the document names and its groups do not have. Generated clusters without endpoints serve for these.
    fn find_missing_clusters(&self, key: &DocumentKey, findings: &mut Findings) {
        let Some(compiled) = self.inventory.get(key) else {
            return;
        };

        let (field, outcome) = match compiled.document() {
            Document::Listener(listener) if listener.tcp.is_some() => ("tcp", "connections sent there are closed"),
            Document::Listener(_) => ("http", "logs and traces sent there are lost"),
            Document::Defaults(_) => ("listener.http", "logs and traces sent there are lost"),
            _ => ("to", "requests sent there are answered with 503"),
        };

        let services = policies::services(key, compiled.document());
        let rules = compiled
            .document()
            .as_route()
            .into_iter()
            .flat_map(Route::enabled_rules);
        let targets = rules.flat_map(|(_, rule)| rule.targets());
        let targets: BTreeSet<Arc<str>> = targets.map(|target| target.upstream.cluster_name()).collect();
        let sentences = &mut findings.warnings;
        let upstreams = compiled.translated.upstreams().iter();
        for (name, _) in upstreams.filter(|(_, url)| url.is_none()) {
            let (field, outcome) = match services.contains(name) && !targets.contains(name) {
                true => ("policies", "the service of a policy is down there"),
                false => (field, outcome),
            };
            let written = self.inventory.cluster(name);
            if written.is_some_and(|(cluster, ..)| cluster.on_demand) {
                sentences.push(format!(
                    "{field}: clusters/{name} is on_demand, which Envoy gets by name only; {outcome}"
                ));
            }
            let written = written.map(|(_, _, cluster)| (format!("clusters/{name}"), cluster));
            let verbatim = self.inventory.verbatim(ResourceType::Cluster, name);
            let describing: Vec<_> = written
                .into_iter()
                .chain(verbatim.map(|(key, compiled)| (key.to_string(), compiled)))
                .collect();
            let Some((document, _)) = describing.first() else {
                let (field, consequence) = match compiled.document() {
                    Document::Route(_) if !targets.contains(name) && !services.contains(name) => {
                        ("mirror", "copies of requests sent there are dropped")
                    }
                    _ => (field, outcome),
                };
                findings.missing.push(Missing {
                    field,
                    document: DocumentKey::new(Kind::Clusters, Arc::clone(name)),
                    consequence,
                });
                continue;
            };
            let has = |group: &str| describing.iter().any(|(_, cluster)| cluster.document().is_for(group));
            let without = self
                .groups
                .keys()
                .filter(|group| compiled.document().is_for(group) && !has(group));
            let without: Vec<&str> = without.map(|group| &**group).collect();
            if !without.is_empty() {
                let without = without.join(", ");
                sentences.push(format!(
                    "{field}: {document} is not for group {without}; there, {outcome}"
                ));
            }
        }
    }

    /// Clusters of `failover` that do not serve, or not in each group of the cluster.
    fn find_missing_members(&self, document: &Document, cluster: &Cluster, findings: &mut Findings) {
        for name in &cluster.failover {
            let own = self.inventory.cluster(name);
            if own.is_some_and(|(member, ..)| member.on_demand && member.failover.is_empty()) {
                findings.warnings.push(format!(
                    "failover: clusters/{name} is on_demand, which Envoy gets by name only, so Envoy passes over it"
                ));
            }
            // Envoy runs the upstream filters of the cluster that a route names, whichever member it chooses.
            if own.is_some_and(|(member, ..)| member.credential.is_some()) {
                findings.warnings.push(format!(
                    "failover: clusters/{name} has a credential, which Envoy does not put on requests for this cluster"
                ));
            }
            let written = self.inventory.verbatim(ResourceType::Cluster, name);
            let describing: Vec<_> = own
                .map(|(_, _, compiled)| compiled)
                .into_iter()
                .chain(written.map(|(_, compiled)| compiled))
                .collect();
            if describing.is_empty() {
                findings.missing.push(Missing {
                    field: "failover",
                    document: DocumentKey::new(Kind::Clusters, Arc::clone(name)),
                    consequence: "Envoy passes over it",
                });
                continue;
            }
            let has = |group: &str| describing.iter().any(|member| member.document().is_for(group));
            let without = self.groups.keys().filter(|group| document.is_for(group) && !has(group));
            let without: Vec<&str> = without.map(|group| &**group).collect();
            if !without.is_empty() {
                let without = without.join(", ");
                findings.warnings.push(format!(
                    "failover: clusters/{name} is not for group {without}, where Envoy passes over it"
                ));
            }
        }
    }

    /// The API listeners that a route is on, sorted.
    fn api_listeners_of(&self, document: &Document) -> Vec<Arc<str>> {
        let Some(route) = document.as_route() else {
            return Vec::new();
        };
        let listeners = self.inventory.api_listeners_of(route);
        let is_reached = |name: &&Arc<str>| {
            let listener = self.inventory.listener_document(name);
            listener.is_some_and(|listener| document.shares_a_group(listener))
        };
        let reached: BTreeSet<Arc<str>> = listeners.filter(is_reached).cloned().collect();
        reached.into_iter().collect()
    }

    /// Warnings about a cluster for gRPC clients: of the first route with this cluster that is on an API listener.
    fn cluster_for_grpc(&self, key: &DocumentKey, cluster: &Cluster) -> Vec<String> {
        if !self.inventory.has_api_listener() {
            return Vec::new();
        }
        let routes = self
            .inventory
            .users(&key.name)
            .filter_map(|user| self.inventory.document(user));
        let listeners = routes
            .map(|route| self.api_listeners_of(route))
            .find(|listeners| !listeners.is_empty());
        listeners
            .map(|listeners| grpc::warnings::of_cluster(cluster, &self.context, &listeners))
            .unwrap_or_default()
    }

    /// The sentence for a cluster that routes name and for which no instance is registered.
    fn without_instances(&self, key: &DocumentKey, cluster: &Cluster) -> Option<String> {
        let source = cluster.registered_as(&key.name)?;
        if offers::taken(&self.inventory, &self.context, &key.name)
            .next()
            .is_some()
        {
            return None;
        }
        let user = self.inventory.users(&key.name).next()?;
        let has_registrations = self.inventory.registrations(&source).next().is_some();
        let what = match &cluster.source {
            Source::Registry { .. } if has_registrations => {
                "no registered instance has an endpoint of this scheme, with TLS as the cluster has it".to_owned()
            }
            Source::Registry { registry, service, .. } => {
                format!(
                    "no instance is registered as {} in registries/{registry}",
                    quote(service)
                )
            }
            _ => "no instance is registered".to_owned(),
        };
        Some(format!(
            "{what}, and {user} names it; requests sent there are answered with 503"
        ))
    }

    /// The endpoints of a cluster; `None`: the cluster is not accepted, or Envoy resolves a name.
    #[must_use]
    pub fn endpoint_counts(&self, key: &DocumentKey) -> Option<EndpointCounts> {
        let name: Arc<str> = key.cluster().filter(|_| key.kind == Kind::Clusters)?.into();
        let (cluster, ..) = self.inventory.cluster(&name)?;
        let mut counts = EndpointCounts::default();
        match &cluster.source {
            Source::Dns { .. } => return None,
            Source::Listed(endpoints) => endpoints.iter().for_each(|endpoint| counts.add(endpoint)),
            Source::Registered | Source::Registry { .. } => {
                let taken = offers::taken(&self.inventory, &self.context, &name);
                taken.for_each(|(_, endpoint)| counts.add(endpoint));
            }
        }
        Some(counts)
    }

    fn unused_registration(&self, key: &DocumentKey) -> Option<String> {
        // A registry has services that are none of the proxies' business.
        if key.registry().is_some() {
            return None;
        }
        let name: Arc<str> = key.first_segment().into();
        match self.inventory.cluster(&name) {
            None if self.inventory.describes(&name) => {
                Some(format!("xds/clusters/{name} is served as it is and does not use it"))
            }
            None => Some(format!("no cluster document clusters/{name} uses it")),
            Some((cluster, ..)) if cluster.source != Source::Registered => {
                Some(format!("clusters/{name} has endpoints of its own and does not use it"))
            }
            Some(_) => None,
        }
    }
}

/// The documents that a resource is made of, in words.
fn maker(resource: &Resource) -> String {
    let mut documents = resource.made_of();
    match (documents.next(), documents.count()) {
        (None, _) => "the listener that exists while no listeners document does".to_owned(),
        (Some(only), 0) => only.to_string(),
        (Some(first), others) => format!("{first} (and {others} more)"),
    }
}
