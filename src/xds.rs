//! Stage 7, one session per stream: from snapshots to responses, from requests to facts.
//!
//! | room | in | out |
//! |---|---|---|
//! | `server` | connections, options | one task per connection, one per stream; sees to limits and to the end |
//! | `service_table` | a path | the variant of the protocol and the type of the resources |
//! | `services` | requests beside xDS | health, reflection, load reports (LRS), client status (CSDS) |
//! | `stream` | one stream, publishes | bytes written; who is woken, whose turn it is, who reads nothing |
//! | `session` | a request, a snapshot, a moment | at most one response; pure: no I/O, no clock |
//! | `http2` | bytes | frames, addresses; names nothing of ours |
//! | `node` | a node of the wire | the node that rollout decides by |
//! | `error` | | why a stream ends: codes and sentences |
//!
//! A room names only those below it in this order: `server`, `services`, `stream`, `session`, `http2`. Nothing waits for an
//! ACK except removals, and what newly names a cluster that is not warm (`session::warming`). No queue of responses is kept:
//! a slow reader skips what it missed.

pub mod server;

mod error;
mod http2;
mod node;
mod service_table;
mod services;
mod session;
mod stream;

pub use error::{Code, Error};
pub use server::options;
pub use session::subscription::names::Interner;
pub use session::{Ack, Acked, Outcome, Response, Session, Settings};
