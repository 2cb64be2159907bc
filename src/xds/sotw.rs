//! The messages of the state-of-the-world variant.

use bytes::Bytes;
use prost::Message;

use super::Error;
use super::session::Request;
use super::state::Reported;
use super::subscription::{Asked, Subscription};
use crate::proto::wire::{ControlPlane, DiscoveryRequest, DiscoveryResponseHead};
use crate::resource::ResourceType;
use crate::xds::names::Interner;

/// The names that a request lists.
#[derive(Debug)]
pub(super) struct Listed {
    version_info: String,
    names: Vec<Bytes>,
}

/// Take a request apart.
pub(super) fn decode(bytes: Bytes) -> Result<Request, Error> {
    let request = DiscoveryRequest::decode(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let mut names = request.resource_names;
    names.extend(request.resource_locators.into_iter().map(|locator| locator.name));
    Ok(Request {
        node: request.node,
        type_url: request.type_url,
        nonce: request.response_nonce,
        refusal: request.error_detail,
        lists: super::session::Lists::Sotw(Listed { version_info: request.version_info, names }),
    })
}

impl Listed {
    /// What the client says it has.
    pub(super) fn take_reported(&mut self) -> Reported {
        if self.version_info.is_empty() {
            Reported::Nothing
        } else {
            Reported::Version(std::mem::take(&mut self.version_info))
        }
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

/// A response without its resources.
pub(super) fn head(type_url: &str, version_info: String, nonce: &str, identifier: &str) -> Vec<u8> {
    DiscoveryResponseHead {
        version_info,
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
    }
    .encode_to_vec()
}
