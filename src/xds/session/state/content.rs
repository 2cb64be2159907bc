//! The resources of one response, by reference: a part shared with other streams, and a short list of the stream's own.
//! Kept until the ACK or NACK, so that a NACK can be attributed to resources.

use std::sync::Arc;

use crate::resource::{Resource, ResourceType, ResourceVersion};
use crate::snapshot::blocks::{self, Blocks, Shape};
use crate::snapshot::changes::Changes;
use crate::snapshot::selection::Selection;
use crate::snapshot::set::ResourceSet;

/// The shared part.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) enum SharedPart {
    /// None.
    #[default]
    Nothing,
    /// The whole wildcard set.
    Wildcard(Arc<ResourceSet>),
    /// All resources that changed with a publish.
    Changes(Arc<Changes>),
    /// The resources of these names, if they exist.
    Selection(Arc<Selection>),
}

/// The resources of one response.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) struct Content {
    pub(in crate::xds) shared: SharedPart,
    /// Resources beside the shared part, none twice.
    pub(in crate::xds) own: Vec<Arc<Resource>>,
    /// Delta: resources without a body.
    pub(in crate::xds) bodiless: Vec<Arc<Resource>>,
    /// Names that do not exist. Delta: `removed_resources`; SotW: `resource_errors`.
    pub(in crate::xds) removed: Vec<Arc<str>>,
}

impl Content {
    /// The resources, encoded.
    pub(in crate::xds) fn blocks(&self, resource_type: ResourceType, shape: Shape) -> Blocks {
        let shared = match &self.shared {
            SharedPart::Nothing => Blocks::empty(),
            SharedPart::Wildcard(set) => set.wildcard(shape).clone(),
            SharedPart::Changes(changes) => changes.blocks(shape).clone(),
            SharedPart::Selection(selection) => selection.blocks(shape).clone(),
        };
        if self.own.is_empty() && self.bodiless.is_empty() {
            return shared;
        }
        let own = blocks::encode(resource_type, shape, &self.own);
        Blocks::concat([&shared, &own, &blocks::encode_bodiless(resource_type, &self.bodiless)])
    }

    /// SotW: the resources, encoded, those with a time to live in wrappers.
    pub(in crate::xds) fn wrapped_blocks(&self, resource_type: ResourceType) -> Blocks {
        blocks::encode_timed(resource_type, self.resources())
    }

    /// Whether a resource has a time to live. A wrapped response always carries a whole set.
    pub(in crate::xds) fn is_timed(&self) -> bool {
        matches!(&self.shared, SharedPart::Wildcard(set) if set.timed().next().is_some())
            || self.own.iter().any(|resource| resource.ttl.is_some())
    }

    /// Every resource with a body, in any order.
    pub(in crate::xds) fn resources(&self) -> Box<dyn Iterator<Item = &Arc<Resource>> + '_> {
        let own = self.own.iter();
        match &self.shared {
            SharedPart::Nothing => Box::new(own),
            SharedPart::Wildcard(set) => Box::new(set.iter().filter(|resource| !resource.on_demand).chain(own)),
            SharedPart::Changes(changes) => Box::new(
                changes
                    .entries()
                    .iter()
                    .filter_map(|change| change.new.as_ref())
                    .chain(own),
            ),
            SharedPart::Selection(selection) => Box::new(selection.members().iter().chain(own)),
        }
    }

    /// The resource of that name, if the response carries it.
    pub(in crate::xds) fn resource(&self, name: &str) -> Option<&Arc<Resource>> {
        let shared = match &self.shared {
            SharedPart::Nothing => None,
            SharedPart::Wildcard(set) => set.get(name).filter(|resource| !resource.on_demand),
            SharedPart::Changes(changes) => {
                let entries = changes.entries();
                let found = entries.binary_search_by(|change| (**change.name()).cmp(name)).ok();
                found.and_then(|found| entries[found].new.as_ref())
            }
            SharedPart::Selection(selection) => selection.get(name),
        };
        shared.or_else(|| self.own.iter().find(|resource| *resource.name == *name))
    }

    /// Whether the response carries this version of a name.
    pub(in crate::xds) fn has(&self, name: &str, version: ResourceVersion) -> bool {
        self.resource(name).is_some_and(|resource| resource.version == version)
    }
}
