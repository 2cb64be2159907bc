//! Refusals: facts of `fleet` about documents whose resources proxies have refused with a NACK.
//!
//! [`quarantine`](super::quarantine) says what follows from a refusal.

use std::sync::Arc;

use crate::document::key::DocumentKey;
use crate::resource::refused::RefusedResource;

/// A document that every proxy refuses which has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The document.
    pub key: DocumentKey,
    /// The resources that were refused because of it.
    pub resources: Vec<RefusedResource>,
    /// Who refuses it, and the words of Envoy.
    pub reason: Arc<str>,
    /// Whether no other document can be the cause. If others can, each is tried again.
    pub is_sole_suspect: bool,
}

/// Knows what the proxies of this replica have accepted.
pub trait Witness: Send + Sync + 'static {
    /// Whether a proxy has accepted one of these resources, as far as they are of this document.
    fn has_accepted(&self, document: &DocumentKey, resources: &[RefusedResource]) -> bool;
}

/// A refusal whose fallback is looked for in the store's history.
#[derive(Debug, Clone)]
pub(super) struct Awaited {
    /// The refusal.
    pub(super) refusal: Arc<Refusal>,
    /// The text that is refused, and serves meanwhile.
    pub(super) refused: i64,
}
