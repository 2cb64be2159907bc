//! Stage 7: the xDS port. One session per stream turns snapshots into responses and requests into facts.
//!
//! | room | in | out |
//! |---|---|---|
//! | `server` | connections, options | one task per connection, one per stream; limits, drain |
//! | `service_table` | a path | the protocol variant and the resource type |
//! | `services` | requests beside xDS | health, reflection, load reports (LRS), client status (CSDS) |
//! | `stream` | one stream, publishes | bytes written; wake-ups, turns, flow control |
//! | `session` | a request, a snapshot, a moment | at most one response; pure: no I/O, no clock |
//! | `http2` | bytes | frames, addresses; names nothing of ours |
//! | `node` | the node of a request | the node that rollout decides by |
//! | `error` | | gRPC codes and sentences that end a stream |
//! | `limits`, `grpc` | | the figures: limits of clients, sizes of messages |
//! | `reached` | a limit that a client reached | a count, and a log line |
//!
//! A room names only those below it in this order: `server`, `services`, `stream`, `session`, `http2`. Only removals,
//! and changes that newly name a cluster which is not warm (`session::warming`), wait for an ACK. The server keeps no
//! queue of responses: a slow reader skips intermediate states.

pub mod server;

mod error;
mod grpc;
mod http2;
mod limits;
mod node;
mod reached;
mod service_table;
mod services;
mod session;
mod stream;

pub use error::{Code, Error};
pub use limits::Limits;
pub use server::options;
pub use session::subscription::names::Interner;
pub use session::{Ack, Acked, Outcome, Response, Session, Settings};
