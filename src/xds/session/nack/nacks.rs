//! The NACKed resources of a stream, until a later ACK or NACK resolves each.
//!
//! A NACK covers a whole response. After a NACK the state of every resource in that response is unknown: Envoy accepts
//! the good ones, but does not name them. A resource stays NACKed until a later response with that resource is ACKed,
//! or NACKed in turn. NACKed responses are kept by reference, with the set of names resolved since, so a NACK of a
//! large response costs little. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Resource, ResourceVersion};
use crate::xds::session::state::content::Content;

/// The most NACKed responses that are kept apart. Beyond it the two oldest are merged.
const APART_MAX: usize = 16;

/// The NACKed resources of one type on one stream.
#[derive(Debug, Default)]
pub(in crate::xds) struct Nacks {
    /// Oldest first. No resource is left in two responses.
    responses: Vec<Nacked>,
}

#[derive(Debug)]
struct Nacked {
    /// The sequence of the response.
    sequence: u64,
    content: Content,
    /// Its resources that a later ACK or NACK resolved.
    resolved: BTreeSet<Arc<str>>,
}

impl Nacked {
    /// The resources that are still NACKed.
    fn left(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.content
            .resources()
            .filter(|resource| !self.resolved.contains(&resource.name))
    }

    /// Drop the resources of a later response with an ACK or NACK. Gives whether any is left.
    fn resolve(&mut self, later: &Content) -> bool {
        let named = later.resources().map(|resource| &resource.name).chain(&later.removed);
        let resolved = named.filter(|name| self.content.resource(name).is_some()).cloned();
        self.resolved.extend(resolved.collect::<Vec<_>>());
        self.left().next().is_some()
    }
}

impl Nacks {
    /// A response was ACKed. `full`: it carried every subscribed resource.
    pub(in crate::xds) fn on_ack(&mut self, content: &Content, full: bool) {
        if full {
            self.responses.clear();
        } else {
            self.resolve(content);
        }
    }

    /// A response was NACKed.
    pub(in crate::xds) fn on_nack(&mut self, sequence: u64, content: Content) {
        self.resolve(&content);
        self.responses.push(Nacked {
            sequence,
            content,
            resolved: BTreeSet::new(),
        });

        if self.responses.len() > APART_MAX {
            let sequence = self.responses[1].sequence;
            let own = self
                .responses
                .drain(..2)
                .flat_map(|nacked| nacked.left().cloned().collect::<Vec<_>>());
            let content = Content {
                own: own.collect(),
                ..Content::default()
            };
            self.responses.insert(
                0,
                Nacked {
                    sequence,
                    content,
                    resolved: BTreeSet::new(),
                },
            );
        }
    }

    fn resolve(&mut self, later: &Content) {
        self.responses.retain_mut(|nacked| nacked.resolve(later));
    }

    /// Whether this version of the resource is NACKed.
    pub(in crate::xds) fn has(&self, name: &str, version: ResourceVersion) -> bool {
        self.responses
            .iter()
            .any(|nacked| !nacked.resolved.contains(name) && nacked.content.has(name, version))
    }

    /// The sequence of the response in which the resource is NACKed.
    pub(in crate::xds) fn of(&self, name: &str) -> Option<u64> {
        let refused = |nacked: &&Nacked| !nacked.resolved.contains(name) && nacked.content.resource(name).is_some();
        self.responses.iter().find(refused).map(|nacked| nacked.sequence)
    }

    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }

    /// The NACKed resources.
    pub(in crate::xds) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.responses.iter().flat_map(Nacked::left)
    }

    /// Whether any NACKed resource is `wanted`.
    pub(in crate::xds) fn any(&self, wanted: impl Fn(&Resource) -> bool) -> bool {
        self.responses
            .iter()
            .any(|nacked| nacked.left().any(|resource| wanted(resource)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(names: &[&str]) -> Content {
        let own = names
            .iter()
            .map(|name| Arc::new(Resource::new(*name, name.as_bytes().to_vec(), Vec::new())));
        Content {
            own: own.collect(),
            ..Content::default()
        }
    }

    fn left(nacks: &Nacks) -> Vec<&str> {
        nacks
            .responses
            .iter()
            .flat_map(Nacked::left)
            .map(|resource| &*resource.name)
            .collect()
    }

    #[test]
    fn a_later_response_resolves_only_its_own_resources() {
        let mut nacks = Nacks::default();
        nacks.on_nack(1, content(&["a", "b", "c"]));
        nacks.on_ack(&content(&["a", "x"]), false);
        assert_eq!(left(&nacks), ["b", "c"]);
        nacks.on_nack(1, content(&["b", "d"]));
        assert_eq!(left(&nacks), ["c", "b", "d"]);
        nacks.on_ack(
            &Content {
                removed: vec!["c".into(), "d".into()],
                ..Content::default()
            },
            false,
        );
        assert_eq!(left(&nacks), ["b"]);
        assert!(nacks.has("b", ResourceVersion::of(b"b")) && !nacks.has("c", ResourceVersion::of(b"c")));
        nacks.on_ack(&content(&[]), true);
        assert_eq!(left(&nacks), [""; 0]);
    }

    #[test]
    fn many_nacks_are_all_remembered() {
        let names: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        let mut nacks = Nacks::default();
        for name in &names {
            nacks.on_nack(1, content(&[name]));
        }
        assert_eq!(left(&nacks), names);
        assert_eq!(nacks.responses.len(), APART_MAX);
    }
}
