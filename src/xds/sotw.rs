//! The messages of the state-of-the-world variant.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::abilities::not_found;
use super::listing::{Fields, Listing};
use super::session::{Lists, Request};
use super::state::Reported;
use super::subscription::{Asked, Subscription};
use super::{Error, limits};
use crate::proto::wire::{ControlPlane, DiscoveryResponseHead, ResourceLocator};
use crate::resource::ResourceType;
use crate::xds::names::Interner;

/// The names that a request lists.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Whether it has a `version_info`: the client has something already.
    version_info: String,
    names: Listing,
}

/// Take a request apart: an `envoy.service.discovery.v3.DiscoveryRequest`.
pub(super) fn decode(message: &Bytes) -> Result<Request, Error> {
    limits::entries(message)?;
    let mut request = Request::default();
    let mut listed = Listed::default();
    let mut fields = Fields::new(message, 7);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => listed.version_info = field.text()?,
            2 => request.node = field.bytes(message),
            3 => listed.names.push(message, &field),
            4 => request.type_url = field.text()?,
            5 => request.nonce = field.text()?,
            6 => field.merge_into(request.refusal.get_or_insert_default())?,
            _ => listed.names.add(&field.message::<ResourceLocator>()?.name),
        }
    }
    request.refusal = request.refusal.map(limits::words);
    Ok(Request { lists: Lists::Sotw(listed), ..request })
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
    pub(super) fn names(&self) -> &Listing {
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
