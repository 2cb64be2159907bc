//! Implied subscriptions: globs, virtual hosts with ports, and the virtual hosts of whole route configurations.
//!
//! - A glob stands in a list of names (docs/xds-rules.md DX-31).
//! - A route configuration with `vhds` implies a subscription to its virtual hosts: Envoy's first VHDS request is
//!   empty, and a second route configuration causes no request (DX-30). The session knows the client's route
//!   configurations from its RDS subscription.
//! - Envoy subscribes to a virtual host by the Host header of a request, port included. Matching ignores the port. A
//!   name with a port therefore selects also the virtual host without it, which is sent with that name as an alias
//!   (DX-28).
//!
//! Implied subscriptions are rare and live in a box of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resource::Resource;
use crate::resource::xdstp::Glob;
use crate::snapshot::set::ResourceSet;
use crate::xds::session::subscription::names::Names;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) struct Implied {
    pub(in crate::xds) globs: Vec<Glob>,
    /// VHDS: names that end in a port, by the name without the port.
    ported: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// Names of the client's route configurations.
    pub(in crate::xds) route_configs: BTreeSet<Arc<str>>,
    /// The input of `route_configs`: the set of route configurations, and the subscribed names.
    pub(in crate::xds) followed: Option<(Arc<ResourceSet>, Names)>,
}

/// The name of a virtual host that ends in a port, without it.
fn without_port(name: &str) -> Option<&str> {
    let (host, port) = name.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && host.contains('/') && !host.ends_with('/')).then_some(host)
}

/// The route configuration that a virtual host belongs to.
fn route_config(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(route_config, _)| route_config)
}

/// The virtual hosts of a route configuration that are not on demand.
pub(in crate::xds) fn virtual_hosts<'a>(
    set: &'a ResourceSet,
    of: &'a str,
) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
    let below = set.below(of).filter(move |one| route_config(&one.name) == Some(of));
    below.filter(|one| !one.on_demand)
}

/// A name without a virtual host, to be removed if a route configuration has none. Envoy starts a listener once a
/// response mentions its route configuration, and an empty response does not (DX-30).
pub(in crate::xds) fn no_virtual_host(of: &str) -> Arc<str> {
    format!("{of}/-").into()
}

impl Implied {
    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.globs.is_empty() && self.ported.is_empty() && self.route_configs.is_empty() && self.followed.is_none()
    }

    /// VHDS: set the subscribed names.
    pub(in crate::xds) fn set_ported(&mut self, names: &Names) {
        self.ported.clear();
        for (name, host) in names.iter().filter_map(|name| Some((name, without_port(name)?))) {
            self.ported.entry(host.into()).or_default().push(Arc::clone(name));
        }
    }

    /// The virtual host that a name with a port stands for.
    pub(in crate::xds) fn host_of<'a>(&self, set: &'a ResourceSet, name: &str) -> Option<&'a Arc<Resource>> {
        let (host, _) = self.ported.get_key_value(without_port(name)?)?;
        set.get(host)
    }

    /// Add to each resource the subscribed names with ports, as aliases.
    pub(in crate::xds) fn alias(&self, resources: &mut [Arc<Resource>]) {
        for resource in resources.iter_mut().filter(|_| !self.ported.is_empty()) {
            let Some(asked) = self.ported.get(&resource.name) else {
                continue;
            };
            let aliases = resource.aliases.iter().chain(asked).cloned().collect();
            *resource = Arc::new(Resource {
                aliases,
                ..(**resource).clone()
            });
        }
    }

    /// Whether an implied subscription covers the resource.
    pub(in crate::xds) fn covers(&self, resource: &Resource) -> bool {
        self.globs.iter().any(|glob| glob.covers(&resource.name))
            || self.ported.contains_key(&resource.name)
            || (!resource.on_demand && route_config(&resource.name).is_some_and(|of| self.route_configs.contains(of)))
    }

    /// All members that an implied subscription covers; a member may come twice.
    pub(in crate::xds) fn members<'a>(&'a self, set: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<Resource>> {
        let globs = self.globs.iter().flat_map(|glob| glob_members(set, glob));
        let hosts = self.ported.keys().filter_map(|name| set.get(name));
        globs
            .chain(hosts)
            .chain(self.route_configs.iter().flat_map(|of| virtual_hosts(set, of)))
    }
}

/// The members that a glob covers.
pub(in crate::xds) fn glob_members<'a>(
    set: &'a ResourceSet,
    glob: &'a Glob,
) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
    set.below(glob.prefix()).filter(|one| glob.covers(&one.name))
}
