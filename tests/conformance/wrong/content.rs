//! The resources of a type that a client must get, and the types that depend on a type.

use envoy_types::pb::envoy::config::core::v3::ApiVersion;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::Message;

use super::fault::Fault;
use super::session::{ENDPOINT, ROUTE, Session, State};
use super::store::{Catalog, Entry, Set};

/// The names that the client must get.
pub(super) struct Owed {
    /// Names with other content than was sent, or newly subscribed.
    pub(super) changed: Vec<String>,
    /// Sent, and there no longer.
    pub(super) gone: Vec<String>,
    /// Subscribed names without a resource.
    pub(super) missing: Vec<String>,
}

impl Owed {
    pub(super) fn of(state: &State, view: &Set) -> Self {
        let differs = |name: &String, entry: &Entry| {
            state.due.contains(name) || state.sent.get(name).is_none_or(|sent| sent.version != entry.version)
        };
        let changed = view
            .iter()
            .filter(|(name, entry)| differs(name, entry))
            .map(|(name, _)| name.clone());
        let gone = state.sent.keys().filter(|name| !view.contains_key(*name)).cloned();
        let missing = state.due.iter().filter(|name| !view.contains_key(*name)).cloned();
        Self {
            changed: changed.collect(),
            gone: gone.collect(),
            missing: missing.collect(),
        }
    }
}

impl Session {
    /// The endpoints of changed clusters must be sent, subscribed or not.
    pub(super) fn follow_clusters(&mut self, clusters: &[String], view: &Set, catalog: &Catalog) {
        let asked_only = self.has(Fault::NewNamesNotPushed);
        let Some(endpoints) = self.types.get_mut(ENDPOINT) else {
            return;
        };
        let exists = |name: &String| catalog.get(ENDPOINT).is_some_and(|set| set.contains_key(name));
        for name in clusters.iter().filter_map(|name| view[name].endpoints()) {
            let asked = endpoints.wildcard || endpoints.names.contains(&name);
            if !asked && (asked_only || !exists(&name)) {
                continue;
            }
            if !asked {
                endpoints.pushed.insert(name.clone());
            }
            endpoints.due.insert(name);
        }
    }

    /// The route configurations of changed listeners are due, where Envoy would not ask for them.
    pub(super) fn follow_listeners(&mut self, listeners: &[String], view: &Set) {
        for (route, own) in listeners.iter().flat_map(|name| routes(&view[name].body)) {
            if own {
                self.own_sources.insert(route.clone());
            }
            let follows = self.own_sources.contains(&route) && !self.has(Fault::NoRoutesAfterListener);
            let routes = self.types.get_mut(ROUTE).filter(|routes| routes.names.contains(&route));
            if let Some(routes) = routes.filter(|_| follows) {
                routes.due.insert(route);
            }
        }
    }
}

/// The route configurations of a listener over RDS; true if through another source than the common one.
fn routes(listener: &[u8]) -> Vec<(String, bool)> {
    let listener = Listener::decode(listener).unwrap_or_default();
    let filters = listener.filter_chains.into_iter().flat_map(|chain| chain.filters);
    let managers = filters.filter_map(|filter| match filter.config_type {
        Some(ConfigType::TypedConfig(any)) => HttpConnectionManager::decode(&*any.value).ok(),
        _ => None,
    });
    let specifiers = managers.filter_map(|manager| manager.route_specifier);
    let routes = specifiers.filter_map(|specifier| match specifier {
        RouteSpecifier::Rds(rds) => {
            let version = rds.config_source.map(|source| source.resource_api_version);
            Some((rds.route_config_name, version != Some(ApiVersion::V3.into())))
        }
        _ => None,
    });
    routes.collect()
}

pub(super) fn no_endpoints(name: &str) -> Entry {
    Entry::new(
        ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..ClusterLoadAssignment::default()
        }
        .encode_to_vec(),
    )
}

/// A virtual host that does not exist.
pub(super) fn without(name: &str) -> Entry {
    Entry {
        bodiless: true,
        aliases: vec![name.to_owned()],
        ..Entry::new(Vec::new())
    }
}

/// A listener with a traffic direction that is not in its document.
pub(super) fn wrong_body(listener: &mut Entry) {
    listener.body.extend([0x80, 0x01, 0x01]);
}
