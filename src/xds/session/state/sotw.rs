//! SotW responses for gRPC libraries: names without a resource, and large responses in parts. Scripts in a response of
//! their own.

use std::sync::Arc;

use super::{State, Target};
use crate::resource::Resource;
use crate::resource::policies::Extension;
use crate::xds::session::state::builder::ResponseBuilder;
use crate::xds::session::state::content::{Content, SharedPart};

/// The bytes of a resource in a SotW response beside its body: type URL, tags.
const RESOURCE_OVERHEAD: usize = 100;

impl State {
    /// SotW: subscribed names without a resource, for a client that reads `resource_errors` (PX-04).
    pub(super) fn absent(
        &self,
        target: Target<'_>,
        builder: &mut ResponseBuilder,
        released: &[Arc<Resource>],
    ) -> Vec<Arc<str>> {
        if !target.features.resource_errors {
            return Vec::new();
        }
        let mut absent = std::mem::take(&mut builder.missing);
        let gone = builder
            .removed
            .iter()
            .chain(released.iter().map(|resource| &resource.name));
        absent.extend(gone.filter(|name| self.subscription.names.contains(name)).cloned());
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    /// Split a response that is too large, if the client keeps resources that a response leaves out (SW-34).
    pub(super) fn split(&mut self, content: &mut Content, most: usize) {
        let mut size = 0;
        let (mut own, mut later) = (Vec::new(), Vec::new());
        for resource in content.resources() {
            size += resource.body.len() + RESOURCE_OVERHEAD;
            let part = if size <= most || own.is_empty() {
                &mut own
            } else {
                &mut later
            };
            part.push(Arc::clone(resource));
        }

        if !later.is_empty() {
            self.put_off(content, own, later);
        }
    }

    /// Leave scripts to a response of their own. Envoy runs them when they come; if one fails, Envoy takes no resource of
    /// the response.
    pub(super) fn part_scripts(&mut self, content: &mut Content) {
        let is_script = |resource: &Arc<Resource>| *resource.name == *Extension::Lua.name();
        let (later, own): (Vec<_>, Vec<_>) = content.resources().cloned().partition(is_script);
        if !own.is_empty() && !later.is_empty() {
            self.put_off(content, own, later);
        }
    }

    /// Send these resources, and later those.
    fn put_off(&mut self, content: &mut Content, own: Vec<Arc<Resource>>, later: Vec<Arc<Resource>>) {
        content.shared = SharedPart::Nothing;
        content.own = own;
        for resource in later {
            let work = self.work.pending_mut();
            let owed = if self.subscription.covers(&resource) {
                &mut work.owed.names
            } else {
                &mut work.warming
            };
            owed.insert(Arc::clone(&resource.name));
        }
    }
}
