//! What a client refused: what is known of it after a NACK, which documents may be the cause, and when a client is stuck.

pub(in crate::xds) mod nacks;
pub(in crate::xds) mod stuck;
pub(in crate::xds) mod suspects;
