//! How a document stands among the others: which of its matches it has, and what it names that is not there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Compiled;
use super::group::entries_on;
use crate::document::cluster::{Cluster, Source};
use crate::document::key::{DocumentKey, Kind};
use crate::document::{DEFAULT_GROUP, Document, listener};
use crate::resource::compile::translate::Made;
use crate::resource::grpc::warnings;
use crate::resource::{Resource, ResourceType};

/// A match that another rule has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// Which of the document's rules.
    pub place: Arc<str>,
    /// Who has the match.
    pub winner: DocumentKey,
    /// Which of the winner's rules.
    pub winner_place: Arc<str>,
}

/// How a document stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// A route that is on a listener, and every match of it, everywhere, belongs to others.
    pub shadowed: bool,
    /// Matches that others have, sorted, each once.
    pub losses: Vec<Loss>,
    /// For an xds document: everywhere, what another document makes under its name is served instead. Says which, and
    /// what would change that.
    pub beneath: Option<String>,
    /// Sentences about what is named and does not exist, and about what gRPC clients cannot take.
    pub dangling: Vec<String>,
}

impl Compiled {
    /// How a document that takes part stands.
    #[must_use]
    pub fn standing(&self, key: &DocumentKey) -> Standing {
        let Some(unit) = self.inventory.unit(key) else {
            return Standing::default();
        };
        let mut standing = Standing {
            dangling: self.unknown_groups(unit.document()),
            ..Standing::default()
        };
        match unit.document() {
            Document::Route(route) => {
                self.judge_matches(key, &mut standing);
                standing.dangling.extend(self.unknown_listeners(route));
                standing.dangling.extend(self.missing_clusters(key));
                standing
                    .dangling
                    .extend(warnings::of_route(route, &self.api_listeners_of(unit.document())));
            }
            Document::Cluster(cluster) => {
                standing.dangling.extend(self.without_instances(key, cluster));
                standing.dangling.extend(self.cluster_for_grpc(key, cluster));
                standing
                    .dangling
                    .extend(self.replaced(ResourceType::Cluster, &key.name));
            }
            Document::Endpoint(_) => standing.dangling.extend(self.unused_registration(key)),
            Document::Xds(_) => self.judge_verbatim(key, &mut standing),
            Document::Listener(_) => standing
                .dangling
                .extend(self.replaced(ResourceType::Listener, &key.name)),
            Document::Group(_) | Document::Defaults(_) => {}
        }
        standing
    }

    fn judge_matches(&self, key: &DocumentKey, standing: &mut Standing) {
        let Some(unit) = self.inventory.unit(key) else { return };
        let mut losses = BTreeSet::new();
        let (mut own, mut kept) = (0, 0);
        for (group, state) in &self.groups {
            for (listener, table) in &state.tables {
                for entry in entries_on(unit, group, listener) {
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
        standing.shadowed = own > 0 && kept == 0;
        standing.losses = losses.into_iter().collect();
    }

    /// Whether an xds document serves, or what is made of others under its name.
    fn judge_verbatim(&self, key: &DocumentKey, standing: &mut Standing) {
        let Some(unit) = self.inventory.unit(key) else { return };
        let Made::Verbatim(made) = &unit.made else { return };
        let (resource_type, written) = (made.resource_type, &made.resource);
        let resource = (resource_type, Arc::clone(&written.name));
        let mut others: Vec<(&str, String)> = Vec::new();
        let mut serves = false;
        for (group, state) in self.groups.iter().filter(|(group, _)| unit.document().is_for(group)) {
            let is_beneath = |served: &&Arc<Resource>| !Arc::ptr_eq(served, written);
            match state.resources.get(&resource).filter(is_beneath) {
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
            standing
                .dangling
                .push(format!("not in group {}: {sentence}", groups.join(", ")));
        } else {
            standing.beneath = Some(sentence);
        }
    }

    /// That an xds document stands in the place of a document's resource.
    fn replaced(&self, resource_type: ResourceType, name: &Arc<str>) -> Option<String> {
        let (document, unit) = self.inventory.verbatim(resource_type, name)?;
        let replaces = unit.document().as_xds().is_some_and(|xds| xds.replace);
        let key = (resource_type, Arc::clone(name));
        let over = self
            .groups
            .values()
            .any(|state| replaces && state.beneath.contains_key(&key));
        over.then(|| format!("{document} is served in its place"))
    }

    fn unknown_groups(&self, document: &Document) -> Vec<String> {
        let named = document.groups().iter().flatten();
        let unknown = named.filter(|group| !self.groups.contains_key(*group) && &***group != DEFAULT_GROUP);
        unknown
            .map(|group| format!("groups: there is no document groups/{group}; no proxy gets this for it"))
            .collect()
    }

    fn unknown_listeners(&self, route: &crate::document::route::Route) -> Vec<String> {
        let written = self.inventory.of_kind(Kind::Listeners).next().is_some();
        let exists = |name: &Arc<str>| {
            let key = DocumentKey::new(Kind::Listeners, Arc::clone(name));
            self.inventory.unit(&key).is_some() || (!written && &**name == listener::DEFAULT_NAME)
        };
        let named = route.listeners.iter().flatten();
        let unknown = named.filter(|name| !exists(name));
        unknown
            .map(|name| format!("listeners: there is no document listeners/{name}; nothing is served there"))
            .collect()
    }

    /// Clusters that a route or an xds document names and no document describes, sorted.
    #[must_use]
    pub fn undescribed_clusters(&self, user: &DocumentKey) -> Vec<Arc<str>> {
        let undescribed = |name: &&Arc<str>| !self.inventory.describes(name);
        match self.inventory.unit(user).map(|unit| &unit.made) {
            Some(Made::Route { upstreams, .. }) => {
                let by_name = upstreams.iter().filter(|(_, url)| url.is_none()).map(|(name, _)| name);
                by_name.filter(undescribed).cloned().collect()
            }
            Some(Made::Verbatim(written)) => written.clusters.iter().filter(undescribed).cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Clusters that the route names and its groups do not have: generated ones without endpoints stand for them.
    fn missing_clusters(&self, key: &DocumentKey) -> Vec<String> {
        let Some(unit) = self.inventory.unit(key) else {
            return Vec::new();
        };
        let Made::Route { upstreams, .. } = &unit.made else {
            return Vec::new();
        };
        let mut sentences = Vec::new();
        for (name, _) in upstreams.iter().filter(|(_, url)| url.is_none()) {
            let written = self.inventory.cluster(name);
            if written.is_some_and(|(cluster, ..)| cluster.on_demand) {
                sentences.push(format!(
                    "to: clusters/{name} is on_demand, which Envoy gets by name only; its requests are answered with 503"
                ));
            }
            let written = written.map(|(_, _, cluster)| (format!("clusters/{name}"), cluster));
            let verbatim = self.inventory.verbatim(ResourceType::Cluster, name);
            let describing: Vec<_> = written
                .into_iter()
                .chain(verbatim.map(|(key, unit)| (key.to_string(), unit)))
                .collect();
            let Some((document, _)) = describing.first() else {
                sentences.push(format!(
                    "to: there is no document clusters/{name}; requests sent there are answered with 503"
                ));
                continue;
            };
            let has = |group: &str| describing.iter().any(|(_, cluster)| cluster.document().is_for(group));
            let without = self
                .groups
                .keys()
                .filter(|group| unit.document().is_for(group) && !has(group));
            let without: Vec<&str> = without.map(|group| &**group).collect();
            if !without.is_empty() {
                let without = without.join(", ");
                sentences.push(format!(
                    "to: {document} is not for group {without}; there, requests are answered with 503"
                ));
            }
        }
        sentences
    }

    /// The listeners of gRPC clients that have a route, sorted.
    fn api_listeners_of(&self, document: &Document) -> Vec<Arc<str>> {
        let has = |listener: &DocumentKey| document.as_route().is_some_and(|route| route.is_on(&listener.name));
        let listeners = self.inventory.api_listeners();
        let reached = listeners.filter(|(key, unit)| has(key) && document.shares_a_group(unit.document()));
        reached.map(|(key, _)| Arc::clone(&key.name)).collect()
    }

    /// What the gRPC clients cannot take that get the cluster by the first of its routes that any of them have.
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
            .map(|listeners| warnings::of_cluster(cluster, &self.context, &listeners))
            .unwrap_or_default()
    }

    /// That routes name a cluster whose instances register themselves, and none is there.
    fn without_instances(&self, key: &DocumentKey, cluster: &Cluster) -> Option<String> {
        if cluster.source != Source::Registered || self.inventory.registrations(&key.name).next().is_some() {
            return None;
        }
        let user = self.inventory.users(&key.name).next()?;
        Some(format!(
            "no instance is registered, and {user} names it; requests sent there are answered with 503"
        ))
    }

    fn unused_registration(&self, key: &DocumentKey) -> Option<String> {
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

/// Who makes a resource, in words.
fn maker(resource: &Resource) -> String {
    let mut documents = resource.made_of();
    match (documents.next(), documents.count()) {
        (None, _) => "the listener that exists while no listeners document does".to_owned(),
        (Some(only), 0) => only.to_string(),
        (Some(first), others) => format!("{first} (and {others} more)"),
    }
}
