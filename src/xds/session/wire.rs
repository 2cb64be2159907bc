//! Messages of the protocol: decodes and limits requests, encodes the heads of responses.

pub(in crate::xds) mod delta;
pub(in crate::xds) mod fields;
pub(in crate::xds) mod head;
pub(in crate::xds) mod limits;
pub(in crate::xds) mod reported;
pub(in crate::xds) mod request;
pub(in crate::xds) mod sotw;
