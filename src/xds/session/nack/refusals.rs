//! What a client refused, resource by resource, until a later answer says what became of it.
//!
//! A NACK covers a whole response, and what is then known of its resources is nothing: Envoy takes the good ones, but does
//! not say which they are. Each stays refused until a later response that speaks of it is acknowledged, or it is refused
//! anew. The responses are kept by reference, beside the names that were settled since: refusing a large one costs nothing.
//! Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Resource, ResourceVersion};
use crate::xds::session::state::content::Content;

/// Refused responses that are kept apart. Beyond it the two oldest become one.
const APART_MAX: usize = 16;

/// What is refused on one stream, of one type.
#[derive(Debug, Default)]
pub(in crate::xds) struct Refusals {
    /// Oldest first. No resource is left in two of them.
    refused: Vec<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    /// Of the response.
    sequence: u64,
    content: Content,
    /// Of its resources, those that a later answer speaks of.
    settled: BTreeSet<Arc<str>>,
}

impl Refusal {
    /// The resources that are still refused.
    fn left(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.content
            .resources()
            .filter(|resource| !self.settled.contains(&resource.name))
    }

    /// What a later response speaks of is no longer this one's. Gives whether anything is left.
    fn settle(&mut self, later: &Content) -> bool {
        let spoken_of = later.resources().map(|resource| &resource.name).chain(&later.removed);
        let settled = spoken_of.filter(|name| self.content.resource(name).is_some()).cloned();
        self.settled.extend(settled.collect::<Vec<_>>());
        self.left().next().is_some()
    }
}

impl Refusals {
    /// A response was acknowledged. `full`: it carried all that is asked for.
    pub(in crate::xds) fn on_acknowledged(&mut self, content: &Content, full: bool) {
        if full {
            self.refused.clear();
        } else {
            self.settle(content);
        }
    }

    /// A response was refused.
    pub(in crate::xds) fn on_refused(&mut self, sequence: u64, content: Content) {
        self.settle(&content);
        self.refused.push(Refusal {
            sequence,
            content,
            settled: BTreeSet::new(),
        });
        if self.refused.len() > APART_MAX {
            let sequence = self.refused[1].sequence;
            let own = self
                .refused
                .drain(..2)
                .flat_map(|refusal| refusal.left().cloned().collect::<Vec<_>>());
            let content = Content {
                own: own.collect(),
                ..Content::default()
            };
            self.refused.insert(
                0,
                Refusal {
                    sequence,
                    content,
                    settled: BTreeSet::new(),
                },
            );
        }
    }

    fn settle(&mut self, later: &Content) {
        self.refused.retain_mut(|refusal| refusal.settle(later));
    }

    /// Whether this version of it is refused.
    pub(in crate::xds) fn has(&self, name: &str, version: ResourceVersion) -> bool {
        self.refused
            .iter()
            .any(|refusal| !refusal.settled.contains(name) && refusal.content.has(name, version))
    }

    /// The sequence of the response with which a resource was refused, if it is.
    pub(in crate::xds) fn of(&self, name: &str) -> Option<u64> {
        let refused = |refusal: &&Refusal| !refusal.settled.contains(name) && refusal.content.resource(name).is_some();
        self.refused.iter().find(refused).map(|refusal| refusal.sequence)
    }

    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }

    /// The resources that are refused.
    pub(in crate::xds) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.refused.iter().flat_map(Refusal::left)
    }

    /// Whether any resource that is refused is as `wanted` says.
    pub(in crate::xds) fn any(&self, wanted: impl Fn(&Resource) -> bool) -> bool {
        self.refused
            .iter()
            .any(|refusal| refusal.left().any(|resource| wanted(resource)))
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

    fn left(refusals: &Refusals) -> Vec<&str> {
        refusals
            .refused
            .iter()
            .flat_map(Refusal::left)
            .map(|resource| &*resource.name)
            .collect()
    }

    #[test]
    fn an_answer_settles_what_it_speaks_of_and_nothing_else() {
        let mut refusals = Refusals::default();
        refusals.on_refused(1, content(&["a", "b", "c"]));
        refusals.on_acknowledged(&content(&["a", "x"]), false);
        assert_eq!(left(&refusals), ["b", "c"]);
        refusals.on_refused(1, content(&["b", "d"]));
        assert_eq!(left(&refusals), ["c", "b", "d"]);
        refusals.on_acknowledged(
            &Content {
                removed: vec!["c".into(), "d".into()],
                ..Content::default()
            },
            false,
        );
        assert_eq!(left(&refusals), ["b"]);
        assert!(refusals.has("b", ResourceVersion::of(b"b")) && !refusals.has("c", ResourceVersion::of(b"c")));
        refusals.on_acknowledged(&content(&[]), true);
        assert_eq!(left(&refusals), [""; 0]);
    }

    #[test]
    fn many_refusals_are_all_remembered() {
        let names: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        let mut refusals = Refusals::default();
        for name in &names {
            refusals.on_refused(1, content(&[name]));
        }
        assert_eq!(left(&refusals), names);
        assert_eq!(refusals.refused.len(), APART_MAX);
    }
}
