//! The messages of the incremental variant.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::abilities::not_found;
use super::names::Interner;
use super::session::{Lists, Request};
use super::state::Reported;
use super::subscription::{Asked, Subscription};
use super::{Error, limits};
use crate::proto::wire::{ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponseHead};
use crate::resource::ResourceType;

/// What a request subscribes to and from.
#[derive(Debug)]
pub(super) struct Edits {
    subscribe: Vec<Bytes>,
    unsubscribe: Vec<Bytes>,
    initial_resource_versions: HashMap<String, String>,
}

/// Take a request apart.
pub(super) fn decode(bytes: Bytes) -> Result<Request, Error> {
    limits::entries(&bytes)?;
    let request = DeltaDiscoveryRequest::decode(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let mut subscribe = request.resource_names_subscribe;
    subscribe.extend(request.resource_locators_subscribe.into_iter().map(|locator| locator.name));
    let mut unsubscribe = request.resource_names_unsubscribe;
    unsubscribe.extend(request.resource_locators_unsubscribe.into_iter().map(|locator| locator.name));
    let initial_resource_versions = request.initial_resource_versions;
    Ok(Request {
        node: request.node,
        type_url: request.type_url,
        nonce: request.response_nonce,
        refusal: request.error_detail.map(limits::words),
        lists: Lists::Delta(Edits { subscribe, unsubscribe, initial_resource_versions }),
    })
}

impl Edits {
    /// What the client says it has.
    pub(super) fn take_reported(&mut self) -> Reported {
        if self.initial_resource_versions.is_empty() {
            Reported::Nothing
        } else {
            Reported::Versions(std::mem::take(&mut self.initial_resource_versions))
        }
    }

    /// What is subscribed, what is unsubscribed.
    #[cfg(test)]
    pub(super) fn lists(&self) -> (&[Bytes], &[Bytes]) {
        (&self.subscribe, &self.unsubscribe)
    }

    /// Apply the lists.
    pub(super) fn apply(
        &self,
        subscription: &mut Subscription,
        resource_type: ResourceType,
        first: bool,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        subscription.edit(resource_type, first, &self.subscribe, &self.unsubscribe, interner)
    }

    /// The answer to a request for a type that is not served: nothing of it exists (GEN-05). `None`: none is due.
    pub(super) fn unserved(&self, answers: bool) -> Option<Vec<Arc<str>>> {
        let mut names: Vec<Arc<str>> =
            self.subscribe.iter().filter_map(|name| Some(Arc::from(std::str::from_utf8(name).ok()?))).collect();
        let asks = !names.is_empty() || (!answers && self.unsubscribe.is_empty());
        names.sort_unstable();
        names.dedup();
        asks.then(|| names.into_iter().filter(|name| **name != *"*").collect())
    }
}

/// A response without its resources. `absent`: those of `removed` that are told as errors, too.
pub(super) fn head<'a>(
    type_url: &str,
    version: String,
    nonce: &str,
    identifier: &str,
    removed: &[Arc<str>],
    absent: impl Iterator<Item = &'a Arc<str>>,
) -> Vec<u8> {
    DeltaDiscoveryResponseHead {
        system_version_info: version,
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        resource_errors: absent.map(not_found).collect(),
    }
    .encode_to_vec()
}
