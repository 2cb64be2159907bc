//! The documents that proxies refuse now, by their NACKs.
//!
//! A NACK is a fact about a proxy, so the fleet has it and the world does not. This module joins both for each
//! response. If every proxy that answered refuses a document, the world has that (`reconcile::quarantine`). The session of the NACK named the documents that may be the cause (`xds::session::nack::suspects`). A
//! document is refused until every proxy with such a NACK has either sent an ACK for a later response with the
//! document, or left the fleet.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Admin;
use super::blame::field;
use crate::document::key::DocumentKey;
use crate::fleet::UnresolvedNack;
use crate::fleet::suspicions::refusal_reason;
use crate::reconcile::world::{State, Status};

/// The NACKs that a document may have caused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NackedDocument {
    nodes: BTreeSet<Arc<str>>,
    /// The message of the first NACK.
    message: Arc<str>,
    /// Number of documents that may be the cause.
    suspects: usize,
    /// The field that the message is about.
    pub(super) path: Option<Cow<'static, str>>,
}

impl NackedDocument {
    /// One sentence, and the message of the proxy.
    pub(super) fn reason(&self) -> String {
        refusal_reason(&self.nodes, self.suspects, &self.message)
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
                path: field(key, &message),
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
pub(super) fn state(refused: &BTreeMap<DocumentKey, NackedDocument>, status: &Status) -> State {
    match status.state {
        State::Accepted if refused.contains_key(&status.key) => State::Refused,
        state => state,
    }
}

/// The field that the reason of a quarantined document is about.
pub(super) fn field_of(status: &Status) -> Option<Cow<'static, str>> {
    field(&status.key, status.reason.as_deref()?)
}
