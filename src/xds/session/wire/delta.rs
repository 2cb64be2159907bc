//! Decodes delta requests and encodes the heads of delta responses.

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
use crate::xds::session::wire::fields::{Fields, NameList};
use crate::xds::session::wire::head::{ControlPlane, ResponseHead};
use crate::xds::session::wire::limits;
use crate::xds::session::wire::reported::{Reported, Versions};
use crate::xds::session::wire::request::Request;

/// The lists of a delta request.
#[derive(Debug, Default)]
pub(in crate::xds) struct Edits {
    subscribe: NameList,
    unsubscribe: NameList,
    initial_resource_versions: Versions,
}

/// Decode an `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
pub(in crate::xds) fn decode(message: &Bytes) -> Result<(Request<'_>, Edits), Error> {
    limits::entries(message)?;
    let mut request = Request::default();
    let mut edits = Edits::default();
    let mut fields = Fields::new(message, 9);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => request.node = field.bytes(message),
            2 => request.type_url = field.text()?,
            3 => edits.subscribe.push(message, &field),
            4 => edits.unsubscribe.push(message, &field),
            5 => edits.initial_resource_versions.push(message, &field)?,
            6 => request.nonce = field.text()?,
            7 => field.merge_into(request.error_detail.get_or_insert_default())?,
            8 => edits.subscribe.add(&field.message::<ResourceLocator>()?.name),
            _ => edits.unsubscribe.add(&field.message::<ResourceLocator>()?.name),
        }
    }

    request.error_detail = request.error_detail.map(limits::error_message);
    Ok((request, edits))
}

impl Edits {
    /// Take the versions that the client reports.
    pub(in crate::xds) fn take_reported(&mut self) -> Reported {
        if self.initial_resource_versions.is_empty() {
            Reported::Nothing
        } else {
            Reported::Versions(std::mem::take(&mut self.initial_resource_versions))
        }
    }

    /// The subscribed and the unsubscribed names.
    #[cfg(test)]
    pub(in crate::xds) fn lists(&self) -> (&NameList, &NameList) {
        (&self.subscribe, &self.unsubscribe)
    }

    /// Apply the lists.
    pub(in crate::xds) fn apply(
        &self,
        subscription: &mut Subscription,
        resource_type: ResourceType,
        first: bool,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        subscription.edit(resource_type, first, &self.subscribe, &self.unsubscribe, interner)
    }

    /// The names to answer for a type that is not served: no resource of it exists (GEN-05). `None`: no response is
    /// due.
    pub(in crate::xds) fn unserved(&self, answers: bool) -> Option<Vec<Arc<str>>> {
        let mut names: Vec<Arc<str>> = self
            .subscribe
            .iter()
            .filter_map(|name| Some(Arc::from(std::str::from_utf8(name).ok()?)))
            .collect();
        let asks = !names.is_empty() || (!answers && self.unsubscribe.is_empty());
        names.sort_unstable();
        names.dedup();
        asks.then(|| names.into_iter().filter(|name| **name != *"*").collect())
    }
}

/// A `envoy.service.discovery.v3.DeltaDiscoveryResponse` without its resources (field 2). `absent`: the names of
/// `removed` that are also listed in `resource_errors`.
pub(in crate::xds) fn head<'a>(
    type_url: &str,
    version: SetVersion,
    nonce: Nonce,
    plane: ControlPlane<'_>,
    removed: &[Arc<str>],
    absent: impl Iterator<Item = &'a Arc<str>>,
) -> Vec<u8> {
    let mut head = ResponseHead::new();
    head.short(1, version);
    head.text(4, type_url);
    head.short(5, nonce);
    removed.iter().for_each(|name| head.text(6, name));
    head.control_plane(7, plane);
    absent.for_each(|name| head.message(9, &not_found(name)));
    head.into_bytes()
}
