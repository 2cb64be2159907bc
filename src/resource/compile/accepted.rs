//! Types that the files of the compiler share: an accepted document with its translation, a resource within a group, a
//! listener as routes are on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::translate::Translated;
use crate::document::Document;
use crate::document::key::{DocumentKey, Kind};
use crate::document::policy::Policy;
use crate::document::reference::{Needs, Reference};
use crate::document::route::Route;
use crate::resource::ResourceType;
use crate::resource::policies::Extension;

/// An accepted document, and the revisions that decide between equals.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The document.
    pub document: Arc<Document>,
    /// The revision that created the key; 0 if the backend has none.
    pub create_revision: i64,
    /// The revision of the text.
    pub mod_revision: i64,
}

/// An accepted document and its own translation.
#[derive(Debug, Clone)]
pub(super) struct CompiledDocument {
    pub(super) accepted: Accepted,
    pub(super) translated: Translated,
}

impl CompiledDocument {
    pub(super) fn document(&self) -> &Document {
        &self.accepted.document
    }

    /// The documents that it names. A resource in Envoy's own form names Secrets by SDS.
    pub(super) fn references(&self) -> Vec<Reference> {
        let mut references = self.document().references();
        if let Translated::Verbatim(written) = &self.translated {
            let refers = written.resource.refers.iter().flat_map(|refers| refers.iter());
            let secrets = refers.filter(|refers| refers.resource_type == ResourceType::Secret);
            references.extend(secrets.map(|refers| Reference {
                path: "resource".to_owned(),
                key: DocumentKey::new(Kind::Secrets, refers.name.clone()),
                needs: Needs::RightOfUse,
            }));
        }
        references
    }

    /// The keys of the documents that it names, each once.
    pub(super) fn names(&self) -> BTreeSet<DocumentKey> {
        self.references().into_iter().map(|reference| reference.key).collect()
    }
}

/// A resource within a group.
pub(super) type ResourceKey = (ResourceType, Arc<str>);

/// A listener, and whether a route without `listeners` is on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct On<'a> {
    pub(super) listener: &'a str,
    /// Only routes that name it are on it.
    pub(super) by_name: bool,
}

impl On<'_> {
    /// Whether a route is on the listener.
    pub(super) fn has(&self, route: &Route) -> bool {
        route.is_on(self.listener) && !(self.by_name && route.listeners.is_none())
    }
}

/// The policies of a document: its own, or those that stand in its lists; each with its name.
pub(super) fn own_policies<'a>(
    key: &'a DocumentKey,
    document: &'a Document,
) -> impl Iterator<Item = (String, &'a Arc<Policy>)> {
    let own = document.as_policy().map(|document| (key.to_string(), &document.policy));
    let items = document.policy_lists().flat_map(|items| items.iter());
    let inline = items.filter_map(move |item| Some((format!("{key}#{}", item.place), item.inline()?)));
    own.into_iter().chain(inline)
}

/// Whether a document has a policy in one of the filters.
pub(super) fn has_extension(key: &DocumentKey, document: &Document) -> bool {
    let is_in = |policy: &Policy| Extension::ALL.iter().any(|extension| extension.has(policy));
    own_policies(key, document).any(|(_, policy)| is_in(policy))
}
