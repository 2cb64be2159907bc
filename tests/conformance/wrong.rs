//! Tests of the suite itself: a small xDS server that is correct, or has exactly one fault.
//!
//! The server shares no code with the server under test: tonic and the messages of `envoy-types` over a map in memory.
//! Without a fault it passes every rule that a [`fault::Fault`] lists; with a fault it fails at least the rules of this
//! fault. A rule that passes against its fault proves nothing, and a fault that no rule finds is a gap in the suite.
//!
//! | module | subject |
//! |---|---|
//! | `store` | the map and its commits |
//! | `session` | the protocol of one stream |
//! | `subscribe` | the effect of a request on the subscriptions |
//! | `content` | the resources to send |
//! | `fault` | the table of faults |
//! | `service` | the wire |
//! | `target` | the trials |

mod content;
mod fault;
mod service;
mod session;
mod store;
mod subscribe;
pub(crate) mod target;
