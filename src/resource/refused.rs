//! A resource as a proxy refused it, told apart by its content and not by when it was sent.

use std::sync::Arc;

use super::{Resource, ResourceType, ResourceVersion};
use crate::document::key::DocumentKey;

/// A resource that a proxy refused, and the part that one document has in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedResource {
    /// The group of the proxy.
    pub group: Arc<str>,
    /// The type.
    pub resource_type: ResourceType,
    /// The name.
    pub name: Arc<str>,
    /// The version that was refused.
    pub version: ResourceVersion,
    /// Of a resource made of many documents: the revision of the document's part. Other parts of the resource may change
    /// while this one is refused.
    pub part: Option<i64>,
}

impl RefusedResource {
    /// Whether a resource of the same name has the content that was refused, as far as it is of this document.
    #[must_use]
    pub fn is_in(&self, document: &DocumentKey, resource: &Resource) -> bool {
        let part = || Some(resource.parts.as_ref()?.get(document)?.revision);
        let is_same = resource.version == self.version || self.part.is_some_and(|refused| part() == Some(refused));
        is_same || resource.whole.as_ref().is_some_and(|whole| self.is_in(document, whole))
    }
}
