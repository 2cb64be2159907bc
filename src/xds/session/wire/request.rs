//! The fields that SotW and delta requests share.

use bytes::Bytes;

use crate::proto::wire::Status;

/// A decoded request, without its lists.
#[derive(Debug, Default)]
pub(in crate::xds) struct Request<'a> {
    pub(in crate::xds) node: Bytes,
    pub(in crate::xds) type_url: &'a str,
    pub(in crate::xds) nonce: &'a str,
    pub(in crate::xds) error_detail: Option<Status>,
}
