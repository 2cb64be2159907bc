//! GR: what holds below xDS, in HTTP/2 and gRPC.
//!
//! `raw` is a connection that sees what a gRPC library hides. `connections` is about connections and their ends,
//! `sizes` about much of something, `services` about the methods and the status codes, `malformed` about bad input,
//! `hostile` about attacks on what is below gRPC, with `frames` written by hand.

pub(crate) mod connections;
pub(crate) mod frames;
pub(crate) mod hostile;
pub(crate) mod malformed;
pub(crate) mod raw;
pub(crate) mod services;
pub(crate) mod sizes;

/// Held by the rules that fill the machine, so that they do so one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
