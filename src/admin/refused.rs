//! Which documents connected proxies refuse at this moment.
//!
//! A NACK is a fact about a proxy, so the world does not know it. It is laid over the world here, when somebody looks: a
//! resource that the message names or that was alone in the response, the documents that resource was made of; of a
//! resource made of many documents (RouteConfiguration), those whose own name is in the message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Admin;
use crate::document::key::DocumentKey;
use crate::fleet::Refusal;
use crate::reconcile::world::{State, Status};
use crate::resource::{Resource, ResourceType};
use crate::snapshot::Snapshot;

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// How many connected streams refuse it.
    streams: usize,
    /// The node of the oldest of them.
    node: Arc<str>,
    /// What it said.
    message: String,
}

impl Refused {
    /// One sentence.
    pub(super) fn reason(&self) -> String {
        match self.streams {
            1 => format!("refused by the proxy {}: {}", self.node, self.message),
            many => format!("refused by {many} streams, first by the proxy {}: {}", self.node, self.message),
        }
    }
}

/// Every document that a connected stream refuses now.
pub(super) fn documents(admin: &Admin) -> BTreeMap<DocumentKey, Refused> {
    let snapshot = admin.snapshots.current();
    // A bad change is refused by thousands alike: what a message names is found once.
    let mut named: BTreeMap<(Arc<str>, ResourceType, Said), BTreeSet<DocumentKey>> = BTreeMap::new();
    let mut refused: BTreeMap<DocumentKey, Refused> = BTreeMap::new();
    for client in admin.fleet.clients().into_iter().filter(|client| client.gone_at.is_none()) {
        for (resource_type, view) in client.types {
            let Some(said) = view.refused.map(Said::of) else { continue };
            let keys = named
                .entry((Arc::clone(&client.group), resource_type, said.clone()))
                .or_insert_with(|| named_in(&snapshot, &client.group, resource_type, &said));
            for key in keys.iter() {
                let node = || Arc::clone(&client.node_id);
                let entry = refused.entry(key.clone());
                let new = || Refused { streams: 0, node: node(), message: said.message.clone() };
                entry.or_insert_with(new).streams += 1;
            }
        }
    }
    refused
}

/// The state to show: a document that would be accepted and is refused by a proxy is `refused`.
pub(super) fn state(refused: &BTreeMap<DocumentKey, Refused>, status: &Status) -> State {
    match status.state {
        State::Accepted if refused.contains_key(&status.key) => State::Refused,
        state => state,
    }
}

/// What tells which resource is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    message: String,
    /// The resource that was alone in the response: it is meant, whatever the message names.
    only: Option<Arc<str>>,
}

impl Said {
    fn of(refusal: Refusal) -> Self {
        let only = match refusal.names.as_slice() {
            [only] => Some(Arc::clone(only)),
            _ => None,
        };
        Self { message: refusal.message, only }
    }

    fn means(&self, name: &Arc<str>) -> bool {
        self.only.as_ref() == Some(name) || mentions(&self.message, name)
    }
}

fn named_in(snapshot: &Snapshot, group: &str, resource_type: ResourceType, said: &Said) -> BTreeSet<DocumentKey> {
    let Some(group) = snapshot.groups.get(group) else { return BTreeSet::new() };
    let set = &group.sets[resource_type.index()];
    set.iter()
        .filter(|resource| said.means(&resource.name))
        .flat_map(|resource| blamed(resource, &said.message))
        .collect()
}

fn blamed(resource: &Resource, message: &str) -> Vec<DocumentKey> {
    let mut documents = resource.made_of();
    match (documents.next(), documents.next()) {
        (Some(only), None) => vec![only.clone()],
        _ => resource.made_of().filter(|key| mentions(message, &key.to_string())).cloned().collect(),
    }
}

/// Whether a name stands in a text as a whole, not as a part of a longer name.
fn mentions(text: &str, name: &str) -> bool {
    let part_of_name = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '/');
    text.match_indices(name).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let mut after = text[start + name.len()..].chars();
        let next = after.next();
        // A dot ends a sentence, or goes on with a name.
        let goes_on = match next {
            Some('.') => after.next().is_some_and(part_of_name),
            Some(character) => part_of_name(character),
            None => false,
        };
        !goes_on && !before.is_some_and(|character| part_of_name(character) || character == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_only_as_a_whole() {
        let message = "Error adding/updating cluster(s) orders-v2: bad. Also users. See http://10.0.0.1:80";
        for name in ["orders-v2", "users", "http://10.0.0.1:80"] {
            assert!(mentions(message, name), "{name}");
        }
        for name in ["orders", "v2", "orders-v", "user", "http://10.0.0.1:8"] {
            assert!(!mentions(message, name), "{name}");
        }
    }
}
