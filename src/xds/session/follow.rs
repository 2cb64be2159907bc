//! What follows a resource unasked, because Envoy waits for it and does not say so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::GroupSnapshot;
use crate::xds::content::Content;
use crate::xds::state::Changed;

impl Session {
    /// A response is on its way: what Envoy waits for after each resource that is new or changed follows in the same flush,
    /// where its type was asked for: a cluster's endpoints (AD-03), a listener's routes, a cluster's or listener's secrets
    /// and extension configs (AD-05, AD-11), a route configuration's virtual hosts (DX-30).
    pub(super) fn warm(&mut self, content: &Content, changed: &Changed) {
        let changed: Box<dyn Iterator<Item = &Arc<Resource>>> = match changed {
            Changed::All => content.resources(),
            Changed::Some(resources) => Box::new(resources.iter()),
        };
        for resource in changed {
            let endpoints = resource.warms.iter().map(|name| (ResourceType::Endpoint, name));
            let others = resource.awaits.iter().flat_map(|awaited| awaited.iter());
            for (awaited, name) in endpoints.chain(others.map(|(awaited, name)| (*awaited, name))) {
                if let Some(state) = self.types[awaited.index()].as_mut() {
                    state.follow(name);
                }
            }
        }
    }

    /// Route configurations with `vhds` that the client has: their virtual hosts are asked for, though no request says so.
    pub(super) fn follow_route_configs(&mut self, group: &GroupSnapshot) {
        let hosts = self.types[ResourceType::VirtualHost.index()].as_ref();
        let Some(state) = hosts.filter(|state| state.is_by_route_config()) else { return };
        let set = group.set(ResourceType::Route);
        let routes = self.types[ResourceType::Route.index()].as_ref();
        let names = routes.map(|routes| routes.subscription.names.clone()).unwrap_or_default();
        if state.subscription.follows(set, &names) {
            return;
        }
        let with_virtual_hosts = |resource: &&Arc<Resource>| {
            let mut awaited = resource.awaits.iter().flat_map(|awaited| awaited.iter());
            awaited.any(|(awaited, _)| *awaited == ResourceType::VirtualHost)
        };
        let has: Vec<_> = match routes {
            Some(routes) => routes.subscription.named(set),
            // Alone on its service it may be about any of them; the client takes what it has the route configuration of.
            None if self.settings.service_type.is_some() => set.iter().collect(),
            None => Vec::new(),
        };
        let has: BTreeSet<_> = has.into_iter().filter(with_virtual_hosts).map(|one| Arc::clone(&one.name)).collect();
        let Some(state) = self.types[ResourceType::VirtualHost.index()].as_mut() else { return };
        let had = state.subscription.change_beyond(|beyond| {
            beyond.followed = Some((Arc::clone(set), names));
            std::mem::replace(&mut beyond.route_configs, has.clone())
        });
        state.owed.route_configs.extend(has.difference(&had).cloned());
    }
}
