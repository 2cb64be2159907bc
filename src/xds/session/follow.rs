//! What follows a resource unasked, because Envoy waits for it and does not say so.
//!
//! Envoy knows a name by its source: a reference by another `ConfigSource` than those it has is a subscription that waits, and
//! nothing is asked, since the name is asked for already (docs/xds-rules.md F-06). References by the common source wait for
//! nothing where all others are by that, too, which is so of everything compiled. So what follows is what is referred to by
//! a source of its own, what is referred to by the common source after some other was told, and, where it is not known what
//! the client has, both.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use crate::resource::{Reference, Resource, ResourceType, Source};
use crate::snapshot::GroupSnapshot;
use crate::xds::session::state::Changed;
use crate::xds::session::state::content::Content;

/// By what sources the client knows what others refer to.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// What the client was told of by a source that is not the common one, ever.
    own: BTreeSet<(ResourceType, Arc<str>)>,
    /// What follows once its type is asked for, because the client says that it has it already.
    early: BTreeSet<(ResourceType, Arc<str>)>,
}

impl Sources {
    /// The client has these.
    pub(super) fn assume<'a>(&mut self, resources: impl Iterator<Item = &'a Arc<Resource>>) {
        let references = resources
            .flat_map(|resource| resource.refers.iter())
            .flat_map(|refers| refers.iter());
        let own = references.filter(|reference| reference.source == Source::Own);
        self.own
            .extend(own.map(|reference| (reference.resource_type, Arc::clone(&reference.name))));
    }

    /// The client is told of this: whether it may wait for what is referred to.
    fn is_awaited(&mut self, reference: &Reference, returning: bool) -> bool {
        let key = (reference.resource_type, Arc::clone(&reference.name));
        match reference.source {
            Source::Own => {
                self.own.insert(key);
                true
            }
            Source::Common => returning || self.own.contains(&key),
        }
    }

    /// The type is asked for the first time: what of it follows.
    pub(super) fn take_early(&mut self, of: ResourceType) -> impl Iterator<Item = Arc<str>> {
        self.early
            .extract_if(.., move |(resource_type, _)| *resource_type == of)
            .map(|(_, name)| name)
    }
}

impl Session {
    /// A response is on its way: what Envoy waits for after each resource that is new or changed follows in the same flush,
    /// where its type was asked for: a cluster's endpoints (AD-03), a listener's routes, a cluster's or listener's secrets
    /// and extension configs (AD-05, AD-11), a route configuration's virtual hosts (DX-30).
    /// `returning`: it is the first of its type to a client that had the type from another stream.
    pub(super) fn warm(&mut self, content: &Content, changed: &Changed, returning: bool) {
        let changed: Box<dyn Iterator<Item = &Arc<Resource>>> = match changed {
            Changed::All => content.resources(),
            Changed::Some(resources) => Box::new(resources.iter()),
        };
        for resource in changed {
            if let (Some(name), Some(endpoints)) = (&resource.warms, &mut self.types[ResourceType::Endpoint.index()]) {
                endpoints.follow(name);
            }
            for reference in resource.refers.iter().flat_map(|refers| refers.iter()) {
                if !self.sources.is_awaited(reference, returning) {
                    continue;
                }
                let Reference {
                    resource_type, name, ..
                } = reference;
                match &mut self.types[resource_type.index()] {
                    Some(state) => state.follow(name),
                    None if self.reported => drop(self.sources.early.insert((*resource_type, Arc::clone(name)))),
                    // Who comes with nothing is answered with everything.
                    None => {}
                }
            }
        }
    }

    /// Route configurations with `vhds` that the client has: their virtual hosts are asked for, though no request says so.
    pub(super) fn follow_route_configs(&mut self, group: &GroupSnapshot) {
        let hosts = self.types[ResourceType::VirtualHost.index()].as_ref();
        let Some(state) = hosts.filter(|state| state.is_by_route_config()) else {
            return;
        };
        let set = group.set(ResourceType::Route);
        let routes = self.types[ResourceType::Route.index()].as_ref();
        let names = routes
            .map(|routes| routes.subscription.names.clone())
            .unwrap_or_default();
        if state.subscription.follows(set, &names) {
            return;
        }
        let with_virtual_hosts = |resource: &&Arc<Resource>| {
            let mut refers = resource.refers.iter().flat_map(|refers| refers.iter());
            refers.any(|reference| reference.resource_type == ResourceType::VirtualHost)
        };
        let has: Vec<_> = match routes {
            Some(routes) => routes.subscription.named(set),
            // Alone on its service it may be about any of them; the client takes what it has the route configuration of.
            None if self.settings.service_type.is_some() => set.iter().collect(),
            None => Vec::new(),
        };
        let has: BTreeSet<_> = has
            .into_iter()
            .filter(with_virtual_hosts)
            .map(|one| Arc::clone(&one.name))
            .collect();
        let Some(state) = self.types[ResourceType::VirtualHost.index()].as_mut() else {
            return;
        };
        let had = state.subscription.change_implied(|implied| {
            implied.followed = Some((Arc::clone(set), names));
            std::mem::replace(&mut implied.route_configs, has.clone())
        });
        state
            .work
            .pending_mut()
            .owed
            .route_configs
            .extend(has.difference(&had).cloned());
    }
}
