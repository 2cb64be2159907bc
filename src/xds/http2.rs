//! HTTP/2 below gRPC: bytes, sockets, frames and addresses. Nothing here names another room.

pub(in crate::xds) mod incoming;
pub(in crate::xds) mod peer;
pub(in crate::xds) mod preface;
pub(in crate::xds) mod reframe;
pub(in crate::xds) mod socket;
