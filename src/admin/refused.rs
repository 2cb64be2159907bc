//! The documents that proxies refuse now, by their NACKs.
//!
//! A NACK is a fact about a proxy, so the fleet has it and the world does not. This module joins both for each
//! response. The session of the NACK named the documents that may be the cause (`xds::session::nack::suspects`). A
//! document is refused until every proxy with such a NACK has either sent an ACK for a later response with the
//! document, or left the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Admin;
use super::entry::ShownState;
use crate::document::key::{DocumentKey, Kind};
use crate::fleet::UnresolvedNack;
use crate::reconcile::world::{State, Status};

/// Number of nodes in the reason by name; further nodes are counted.
const NODES_NAMED: usize = 5;

/// The NACKs that a document may have caused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NackedDocument {
    nodes: BTreeSet<Arc<str>>,
    /// The message of the first NACK.
    message: Arc<str>,
    /// Number of documents that may be the cause.
    suspects: usize,
    /// The field that the message is about.
    pub(super) path: Option<&'static str>,
}

impl NackedDocument {
    /// One sentence, and the message of the proxy.
    pub(super) fn reason(&self) -> String {
        let named: Vec<&str> = self.nodes.iter().take(NODES_NAMED).map(|node| &**node).collect();
        let named = named.join(", ");
        let by = match self.nodes.len() {
            1 => format!("refused by the proxy {named}"),
            many if many > NODES_NAMED => {
                format!("refused by {many} proxies, {named} and {} others", many - NODES_NAMED)
            }
            many => format!("refused by {many} proxies, {named}"),
        };
        let message = self.message.trim_end();
        match self.suspects {
            0 | 1 => format!("{by}: {message}"),
            many => {
                format!("{by}, {many} documents may be the cause: {message}")
            }
        }
    }
}

/// All documents that a proxy refuses now.
pub(super) fn documents(admin: &Admin) -> BTreeMap<DocumentKey, NackedDocument> {
    let mut refused: BTreeMap<DocumentKey, NackedDocument> = BTreeMap::new();
    for (node, UnresolvedNack { message, suspects, .. }) in admin.fleet.unresolved_nacks() {
        let documents: BTreeSet<&DocumentKey> = suspects.iter().flat_map(|suspect| &suspect.documents).collect();
        for key in &documents {
            let new = || NackedDocument {
                nodes: BTreeSet::new(),
                message: Arc::clone(&message),
                suspects: documents.len(),
                path: field(key.kind, &message),
            };
            refused
                .entry((*key).clone())
                .or_insert_with(new)
                .nodes
                .insert(Arc::clone(&node));
        }
    }
    refused
}

/// The shown state: `refused` if the world accepts the document and a proxy refuses it, else the state in the world.
pub(super) fn state(refused: &BTreeMap<DocumentKey, NackedDocument>, status: &Status) -> ShownState {
    match status.state {
        State::Accepted if refused.contains_key(&status.key) => ShownState::Refused,
        state => ShownState::World(state),
    }
}

/// The field of a document that Envoy's message is about, if a document of that kind has such a field.
/// Envoy refuses an accepted document only for facts of its host or its build: ports, files, missing extensions.
fn field(kind: Kind, message: &str) -> Option<&'static str> {
    const FIELDS: [(Kind, &str, &str); 16] = [
        (Kind::Listeners, "cannot bind", "address"),
        (Kind::Listeners, "Cannot assign requested address", "address"),
        (Kind::Listeners, "has duplicate address", "address"),
        (Kind::Listeners, "unable to open file", "http.access_log"),
        (Kind::Listeners, "certificate", "tls"),
        (Kind::Listeners, "private key", "tls"),
        (Kind::Clusters, "health check", "health_check"),
        (Kind::Clusters, "maglev", "lb"),
        (Kind::Clusters, "ring hash", "lb"),
        (Kind::Clusters, "certificate", "tls"),
        (Kind::Clusters, "private key", "tls"),
        (Kind::Clusters, "malformed IP address", "endpoints"),
        (Kind::Routes, "regex", "match"),
        (Kind::Secrets, "private key", "private_key"),
        (Kind::Secrets, "trusted CA", "ca"),
        (Kind::Secrets, "certificate", "certificate"),
    ];
    FIELDS
        .iter()
        .find(|(of, words, _)| *of == kind && message.contains(words))
        .map(|(_, _, field)| *field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(nodes: &[&str], suspects: usize) -> String {
        let nodes = nodes.iter().map(|node| Arc::from(*node)).collect();
        NackedDocument {
            nodes,
            message: "no\n".into(),
            suspects,
            path: None,
        }
        .reason()
    }

    #[test]
    fn the_reason_says_who_and_how_sure_it_is() {
        assert_eq!(refused(&["n1"], 1), "refused by the proxy n1: no");
        assert_eq!(refused(&["n2", "n1"], 1), "refused by 2 proxies, n1, n2: no");
        let many = refused(&["1", "2", "3", "4", "5", "6", "7"], 1);
        assert_eq!(many, "refused by 7 proxies, 1, 2, 3, 4, 5 and 2 others: no");
        assert_eq!(
            refused(&["n1"], 3),
            "refused by the proxy n1, 3 documents may be the cause: no"
        );
    }

    #[test]
    fn the_field_is_told_where_words_are_about_one() {
        let message = "Error adding/updating listener(s) edge: cannot bind '127.0.0.1:80': Address already in use";
        assert_eq!(field(Kind::Listeners, message), Some("address"));
        assert_eq!(field(Kind::Routes, message), None);
    }
}
