//! Implied subscriptions: globs, virtual hosts with ports, and the virtual hosts of whole route configurations.
//!
//! Rare, so it lives in a box of its own. A glob comes from a list of names (docs/xds-rules.md DX-31). A route
//! configuration with `vhds` asks for its virtual hosts without saying so: Envoy's first VHDS request is empty, and
//! none follows for a second one (DX-30). Which of them a client has, the session knows from what it asked for by RDS.
//! A virtual host is asked for by the Host header of a request, port included, which is ignored where hosts are
//! matched: a name that ends in one stands also for the virtual host that has it without, and goes with it as an alias
//! (DX-28). Pure.

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
    /// VHDS: names that end in a port, by what they are without it.
    ported: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// Names of route configurations whose virtual hosts the client has.
    pub(in crate::xds) route_configs: BTreeSet<Arc<str>>,
    /// What `route_configs` was made from: the route configurations there are, and those that are asked for.
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

/// The virtual hosts that a route configuration has from the start.
pub(in crate::xds) fn virtual_hosts<'a>(
    set: &'a ResourceSet,
    of: &'a str,
) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
    let below = set.below(of).filter(move |one| route_config(&one.name) == Some(of));
    below.filter(|one| !one.on_demand)
}

/// A name that no virtual host has, to be removed where a route configuration has none: Envoy starts its listener when
/// a response speaks of that route configuration, and an empty one does not (DX-30).
pub(in crate::xds) fn no_virtual_host(of: &str) -> Arc<str> {
    format!("{of}/-").into()
}

impl Implied {
    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.globs.is_empty() && self.ported.is_empty() && self.route_configs.is_empty() && self.followed.is_none()
    }

    /// VHDS: these names are asked for.
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

    /// Each goes by the names with ports that it was asked for by, too.
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

    /// Whether the resource is asked for by anything here.
    pub(in crate::xds) fn covers(&self, resource: &Resource) -> bool {
        self.globs.iter().any(|glob| glob.covers(&resource.name))
            || self.ported.contains_key(&resource.name)
            || (!resource.on_demand && route_config(&resource.name).is_some_and(|of| self.route_configs.contains(of)))
    }

    /// All members that are asked for by anything here, some perhaps twice.
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
