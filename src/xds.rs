//! Stage 7, one session per stream: from snapshots to messages, from messages to facts.
//!
//! `session` is the protocol without I/O: a request, a snapshot or a moment goes in, at most one response comes out. It
//! stands on `subscription` (what was asked for; `beyond` names), `state` (what the stream has, one type), `content`
//! (what a response carries; `found`, while it is put together), `refusals` (what of it was refused), `abilities` (what
//! the client understands), `reported` (what it says that it has), `order` (make before break) and shapes its messages in
//! `sotw` and `delta`. Around it is what moves bytes: `preface` hears that a client speaks HTTP/2, `reader` takes
//! requests apart, `limits` bounds them, `message` is a response on the wire, `stream` has a task, `bell` wakes it and
//! `audience` says which publish it hears of, `gate` says whose first answer is next, `progress` watches its client,
//! `peer` says who that is, `service` is the port, and `others` what is on it beside xDS (`answer`): `csds`, `lrs`, health,
//! reflection. Nothing waits for an ACK except removals, and what newly names a cluster that is not warm (`warming`); no
//! queue of responses is kept: a slow reader skips what it missed.

use std::fmt;

pub mod options;
pub mod server;

mod abilities;
mod alarm;
mod answer;
mod audience;
mod bell;
mod beyond;
mod blame;
mod connection;
mod content;
mod csds;
mod delta;
mod found;
mod gate;
mod head;
mod incoming;
mod limits;
mod listing;
mod lrs;
mod message;
mod names;
mod order;
mod others;
mod peer;
mod preface;
mod progress;
mod reader;
mod reframe;
mod refusals;
mod reported;
mod service;
mod session;
mod socket;
mod sotw;
mod state;
mod stream;
mod subscription;
mod warming;

pub use names::Interner;
pub use session::{Answer, Outcome, Response, Session, Settings, Verdict};

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No node, or one without an id, in the first request.
    #[error("node.id is empty in the first request of the stream, expected the id of the node")]
    NoNode,
    /// The node became another.
    #[error("node.id changed from {was:?} to {is:?} within a stream, expected it to stay")]
    NodeChanged {
        /// As it was.
        was: String,
        /// As it is.
        is: String,
    },
    /// No type URL where one is needed.
    #[error("type_url is empty, expected the type of the resources that are asked for")]
    NoTypeUrl,
    /// Another type than that of the service.
    #[error("type_url is {found:?}, expected {expected:?} on this service")]
    WrongType {
        /// What was asked for.
        found: String,
        /// What the service has.
        expected: &'static str,
    },
    /// A name that no resource can have.
    #[error("a resource name is not UTF-8")]
    NameNotUtf8,
    /// Not a request.
    #[error("the request does not decode: {0}")]
    Malformed(String),
    /// A compressed request; none was offered.
    #[error("the request is compressed, expected none of the encodings")]
    Compressed,
    /// The client ended its side in the midst of one.
    #[error("the stream ends {0} bytes into a request, expected the rest of it")]
    CutShort(usize),
    /// Larger than any request should be.
    #[error("the request has {0} bytes, expected {max} at most", max = reader::MAX_REQUEST)]
    TooLarge(usize),
    /// More than anybody should say or ask for.
    #[error("{has} {found} {unit}, expected {max} at most")]
    TooMuch {
        /// What has it: `the request has`.
        has: &'static str,
        /// How much.
        found: usize,
        /// Of what.
        unit: &'static str,
        /// How much it may have.
        max: usize,
    },
    /// Text of the node that is kept, and is too long.
    #[error("{field} has {length} bytes, expected {max} at most", max = limits::NODE_TEXT_MAX)]
    NodeTextTooLong {
        /// `node.id`, for example.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The server has as many streams as it may.
    #[error("the server has as many streams as it may have, try another")]
    TooManyStreams,
}

/// The gRPC codes that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// OK.
    Ok = 0,
    /// `INVALID_ARGUMENT`.
    InvalidArgument = 3,
    /// `RESOURCE_EXHAUSTED`.
    ResourceExhausted = 8,
    /// UNIMPLEMENTED.
    Unimplemented = 12,
    /// UNAVAILABLE.
    Unavailable = 14,
}

impl Error {
    /// The status that a stream which failed like this ends with.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Compressed => Code::Unimplemented,
            Self::TooLarge(_) | Self::TooMuch { .. } => Code::ResourceExhausted,
            Self::TooManyStreams => Code::Unavailable,
            _ => Code::InvalidArgument,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", *self as u8)
    }
}
