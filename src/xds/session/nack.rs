//! NACKs: the resources of unknown state, the documents that may be the cause, and clients that are stuck.

pub(in crate::xds) mod nacks;
pub(in crate::xds) mod stuck;
pub(in crate::xds) mod suspects;
