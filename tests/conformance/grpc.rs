//! GR: what holds below xDS, in HTTP/2 and gRPC.
//!
//! `raw` is a connection that sees what a gRPC library hides. `connections` is about connections and their ends, `sizes`
//! about much of something, `services` about the methods and the status codes.

pub(crate) mod connections;
pub(crate) mod raw;
pub(crate) mod services;
pub(crate) mod sizes;
