//! Pushes referenced resources without a request, because Envoy waits for them without subscribing.
//!
//! Envoy keeps one subscription for each name and `ConfigSource`. If a name is subscribed already, a reference through
//! another source waits, but Envoy sends no request for it (docs/xds-rules.md F-06). Push, without a request:
//!
//! 1. every reference through a `ConfigSource` of its own;
//! 2. a reference through the common source, if the name was sent earlier through another;
//! 3. both, if the client reconnected and its sources are unknown.
//!
//! Compiled resources use the common source only, so nothing is pushed for their references.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use crate::resource::{Reference, Resource, ResourceType, Source};
use crate::snapshot::GroupSnapshot;
use crate::xds::session::state::Changed;
use crate::xds::session::state::content::Content;

/// The sources through which the client knows referenced names.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Names that were ever sent through a source other than the common one.
    own: BTreeSet<(ResourceType, Arc<str>)>,
    /// Names to push once the client subscribes to their type.
    early: BTreeSet<(ResourceType, Arc<str>)>,
}

impl Sources {
    /// The client has these resources.
    pub(super) fn assume<'a>(&mut self, resources: impl Iterator<Item = &'a Arc<Resource>>) {
        let references = resources
            .flat_map(|resource| resource.refers.iter())
            .flat_map(|refers| refers.iter());
        let own = references.filter(|reference| reference.source == Source::Own);
        self.own
            .extend(own.map(|reference| (reference.resource_type, Arc::clone(&reference.name))));
    }

    /// The reference is sent. Gives whether the client may wait for its target.
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

    /// The first subscription to a type: take the names to push.
    pub(super) fn take_early(&mut self, of: ResourceType) -> impl Iterator<Item = Arc<str>> {
        self.early
            .extract_if(.., move |(resource_type, _)| *resource_type == of)
            .map(|(_, name)| name)
    }
}

impl Session {
    /// A response was built: push the resources that Envoy will wait for, if their types are subscribed.
    ///
    /// - a cluster's endpoints (AD-03),
    /// - a listener's routes,
    /// - secrets and extension configs of a cluster or listener (AD-05, AD-11),
    /// - the virtual hosts of a route configuration (DX-30).
    ///
    /// `returning`: the response is the first of its type to a client that had the type on another stream.
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
                    // The first response of the type carries every subscribed resource.
                    None => {}
                }
            }
        }
    }

    /// The client's route configurations with `vhds` subscribe to their virtual hosts, without a request.
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
            // On a service of its own the stream does not say which route configurations the client has: all are
            // followed, and the client ignores virtual hosts of others.
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
