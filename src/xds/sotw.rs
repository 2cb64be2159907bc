//! The messages of the state-of-the-world variant.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::abilities::not_found;
use super::session::Request;
use super::state::Reported;
use super::subscription::{Asked, Subscription};
use super::{Error, limits};
use crate::proto::wire::{ControlPlane, DiscoveryRequest, DiscoveryResponseHead};
use crate::resource::ResourceType;
use crate::xds::names::Interner;

/// The names that a request lists.
#[derive(Debug)]
pub(super) struct Listed {
    /// Whether it has a `version_info`: the client has something already.
    version_info: String,
    names: Vec<Bytes>,
}

/// Take a request apart.
pub(super) fn decode(bytes: Bytes) -> Result<Request, Error> {
    limits::entries(&bytes)?;
    let request = DiscoveryRequest::decode(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let mut names = request.resource_names;
    names.extend(request.resource_locators.into_iter().map(|locator| locator.name));
    Ok(Request {
        node: request.node,
        type_url: request.type_url,
        nonce: request.response_nonce,
        refusal: request.error_detail.map(limits::words),
        lists: super::session::Lists::Sotw(Listed { version_info: request.version_info, names }),
    })
}

impl Listed {
    /// What the client says it has.
    pub(super) fn reported(&mut self) -> Reported {
        match std::mem::take(&mut self.version_info) {
            version if version.is_empty() => Reported::Nothing,
            version => Reported::Version(version),
        }
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> &[Bytes] {
        &self.names
    }

    /// Adopt the list.
    pub(super) fn apply(
        &self,
        subscription: &mut Subscription,
        resource_type: ResourceType,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        subscription.adopt(resource_type, &self.names, interner)
    }
}

/// A response without its resources. `absent`: what was asked for and does not exist.
pub(super) fn head(
    type_url: &str,
    version_info: String,
    nonce: &str,
    identifier: &str,
    absent: &[Arc<str>],
) -> Vec<u8> {
    DiscoveryResponseHead {
        version_info,
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        resource_errors: absent.iter().map(not_found).collect(),
    }
    .encode_to_vec()
}
