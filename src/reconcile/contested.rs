//! Documents that others keep from serving, by what they wait for.
//!
//! In: the obstacle of each contested document, as a compile found it. Out: the documents to try again when another one
//! changes. A plan asks for the documents that wait for its own, so its cost does not grow with the number of conflicts.
//! Persistent, pure.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::{Obstacle, describing};

/// See the module. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Contested {
    /// Each contested document, with the places that it waits at.
    documents: OrdMap<DocumentKey, Arc<[DocumentKey]>>,
    waiting: OrdMap<DocumentKey, OrdSet<DocumentKey>>,
}

impl Contested {
    /// A document is contested. `obstacle`: what is in its way, where that is known.
    pub(super) fn insert(&mut self, key: &DocumentKey, obstacle: Option<&Obstacle>) {
        let places: Arc<[DocumentKey]> = places_of(obstacle).into();
        if self.documents.get(key) == Some(&places) {
            return;
        }
        self.remove(key);
        for place in places.iter() {
            self.waiting.entry(place.clone()).or_default().insert(key.clone());
        }
        self.documents.insert(key.clone(), places);
    }

    pub(super) fn remove(&mut self, key: &DocumentKey) {
        for place in self.documents.remove(key).iter().flat_map(|places| places.iter()) {
            if let Some(waiting) = self.waiting.get_mut(place) {
                waiting.remove(key);
                if waiting.is_empty() {
                    self.waiting.remove(place);
                }
            }
        }
    }

    pub(super) fn contains(&self, key: &DocumentKey) -> bool {
        self.documents.contains_key(key)
    }

    /// All, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &DocumentKey> {
        self.documents.keys()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    /// The documents that may serve when this one changes.
    pub(super) fn behind(&self, key: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        let default_listener = (key.kind == Kind::Listeners).then(default_listener);
        let behind = self.waiting.get(key).into_iter();
        let behind_default = default_listener.and_then(|place| self.waiting.get(&place));
        behind.chain(behind_default).flatten()
    }

    /// The documents whose obstacle is not known: any change may let them serve.
    pub(super) fn without_obstacle(&self) -> impl Iterator<Item = &DocumentKey> {
        self.waiting.get(&anything()).into_iter().flatten()
    }
}

/// The documents that a change must touch to take an obstacle away.
fn places_of(obstacle: Option<&Obstacle>) -> Vec<DocumentKey> {
    match obstacle {
        Some(Obstacle::Claimant { key: Some(key), .. } | Obstacle::Text { key, .. }) => vec![key.clone()],
        Some(Obstacle::Claimant { key: None, .. }) => vec![default_listener()],
        Some(Obstacle::NoCluster(name)) => describing(name).into(),
        Some(Obstacle::Reference { named, .. }) => vec![named.clone()],
        None => vec![anything()],
    }
}

/// The default listener goes when any listeners document comes.
fn default_listener() -> DocumentKey {
    DocumentKey::new(Kind::Listeners, "")
}

fn anything() -> DocumentKey {
    DocumentKey::new(Kind::Unknown, "")
}
