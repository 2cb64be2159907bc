//! Decodes SotW requests and encodes the heads of SotW responses.

use std::sync::Arc;

use bytes::Bytes;

use crate::fleet::Nonce;
use crate::proto::wire::ResourceLocator;
use crate::resource::ResourceType;
use crate::snapshot::version::SetVersion;
use crate::xds::error::Error;
use crate::xds::session::client_features::not_found;
use crate::xds::session::subscription::names::Interner;
use crate::xds::session::subscription::{Asked, Subscription};
use crate::xds::session::wire::fields::{Fields, NameList, Run};
use crate::xds::session::wire::head::{ControlPlane, ResponseHead};
use crate::xds::session::wire::limits;
use crate::xds::session::wire::reported::Reported;
use crate::xds::session::wire::request::Request;

/// The lists of a SotW request.
#[derive(Debug, Default)]
pub(in crate::xds) struct Listed {
    /// The `version_info`, a text. If it is not empty, the client has resources already.
    version_info: Bytes,
    names: NameList,
}

/// Decode an `envoy.service.discovery.v3.DiscoveryRequest`. `known`: the client's earlier lists.
pub(in crate::xds) fn decode(
    message: &Bytes,
    known: impl Iterator<Item = Run> + Clone,
) -> Result<(Request<'_>, Listed), Error> {
    limits::entries(message)?;
    let mut request = Request::default();
    let mut listed = Listed::default();
    let mut fields = Fields::new(message, 7);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                field.text()?;
                listed.version_info = field.bytes(message);
            }
            2 => request.node = field.bytes(message),
            3 => {
                listed.names.read(message, &field, &mut fields, known.clone());
            }
            4 => request.type_url = field.text()?,
            5 => request.nonce = field.text()?,
            6 => field.merge_into(request.error_detail.get_or_insert_default())?,
            _ => listed.names.add(&field.message::<ResourceLocator>()?.name),
        }
    }

    request.error_detail = request.error_detail.map(limits::error_message);
    Ok((request, listed))
}

impl Listed {
    /// The version that the client reports.
    pub(in crate::xds) fn reported(&self) -> Reported {
        match &*String::from_utf8_lossy(&self.version_info) {
            "" => Reported::Nothing,
            version => Reported::Version(version.to_owned()),
        }
    }

    #[cfg(test)]
    pub(in crate::xds) fn names(&self) -> &NameList {
        &self.names
    }

    /// Adopt the list.
    pub(in crate::xds) fn apply(
        &self,
        subscription: &mut Subscription,
        resource_type: ResourceType,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        subscription.adopt(resource_type, &self.names, interner)
    }
}

/// An `envoy.service.discovery.v3.DiscoveryResponse` without its resources (field 2). `absent`: subscribed names
/// without a resource.
pub(in crate::xds) fn head(
    type_url: &str,
    version: SetVersion,
    nonce: Nonce,
    plane: ControlPlane<'_>,
    absent: &[Arc<str>],
) -> Vec<u8> {
    let mut head = ResponseHead::new();
    head.short(1, version);
    head.text(4, type_url);
    head.short(5, nonce);
    head.control_plane(6, plane);
    absent.iter().for_each(|name| head.message(7, &not_found(name)));
    head.into_bytes()
}
