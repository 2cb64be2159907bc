//! The suite, tested: a small xDS server that is right, and wrong in one way when told so.
//!
//! It shares no line with the server under test: tonic and the messages of `envoy-types` over a map in memory. Without
//! a fault it keeps every rule that a [`fault::Fault`] is listed with; with one it breaks at least those. A rule that
//! passes against its fault proves nothing, and a fault that no rule notices is a gap in the suite.
//!
//! `store` is the map and its commits, `session` the protocol of one stream (`subscribe` what requests
//! change in it, `content` what it owes), `fault` the table, `service` the wire,
//! `target` the trials.

mod content;
mod fault;
mod service;
mod session;
mod store;
mod subscribe;
pub(crate) mod target;
