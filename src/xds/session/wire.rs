//! Messages of the protocol: requests are taken apart and bounded, the heads of responses are put together.

pub(in crate::xds) mod delta;
pub(in crate::xds) mod fields;
pub(in crate::xds) mod head;
pub(in crate::xds) mod limits;
pub(in crate::xds) mod reported;
pub(in crate::xds) mod sotw;
