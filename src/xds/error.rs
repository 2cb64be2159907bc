//! The errors that end a stream: gRPC code and sentence.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// The reason for the end of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No node, or one without an id, in the first request.
    #[error("node.id is empty in the first request of the stream, expected the id of the node")]
    NoNode,
    /// The node id changed.
    #[error("node.id must not change within a stream: was {was:?}, now {is:?}")]
    NodeChanged {
        /// The id before.
        was: String,
        /// The id now.
        is: String,
    },
    /// No type URL on ADS.
    #[error("type_url is empty, expected the type URL of the subscribed resources")]
    NoTypeUrl,
    /// Another type than that of the service.
    #[error("type_url is {found:?}, expected {expected:?} on this service")]
    WrongType {
        /// The type URL of the request.
        found: String,
        /// The type URL of the service.
        expected: &'static str,
    },
    /// A name that is not UTF-8.
    #[error("a resource name is not UTF-8")]
    NameNotUtf8,
    /// A malformed request.
    #[error("the request does not decode: {0}")]
    Malformed(String),
    /// A compressed request; none was offered.
    #[error("the request is compressed, expected an uncompressed one")]
    Compressed,
    /// The client ended its side of the stream within a request.
    #[error("the stream ends {0} bytes into a request, expected the rest of it")]
    CutShort(usize),
    /// More entries than the limit.
    #[error("{has} {found} {unit}, expected {max} at most")]
    TooMuch {
        /// The subject of the sentence: `the request has`.
        has: &'static str,
        /// The count.
        found: usize,
        /// The unit of the count.
        unit: &'static str,
        /// The limit.
        max: usize,
    },
    /// A text of the node that is too long to be kept.
    #[error("{field} has {length} bytes, expected {max} at most")]
    NodeTextTooLong {
        /// `node.id`, for example.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The stream limit is reached.
    #[error("stream limit of this server reached (--max-streams); connect to another replica")]
    TooManyStreams,
    /// The stream limit of one address is reached.
    #[error("stream limit of one address reached ({0}, four fifths of --max-streams)")]
    TooManyOfAddress(usize),
    /// The stream limit of one connection is reached.
    #[error("stream limit of one connection reached ({0}); open another connection")]
    TooManyOfConnection(usize),
    /// No request within the time.
    #[error("no request arrived within {0:?}, and the stream is one of many silent ones")]
    Silent(Duration),
    /// A request took too long to arrive.
    #[error("the request is not complete {0:?} after its first byte")]
    Slow(Duration),
}

/// The gRPC codes that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// OK.
    Ok = 0,
    /// `INVALID_ARGUMENT`.
    InvalidArgument = 3,
    /// `DEADLINE_EXCEEDED`.
    DeadlineExceeded = 4,
    /// `RESOURCE_EXHAUSTED`.
    ResourceExhausted = 8,
    /// UNIMPLEMENTED.
    Unimplemented = 12,
    /// UNAVAILABLE.
    Unavailable = 14,
}

impl Error {
    /// The gRPC code that the stream ends with.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Compressed => Code::Unimplemented,
            Self::TooMuch { .. } => Code::ResourceExhausted,
            Self::TooManyStreams | Self::TooManyOfAddress(_) | Self::TooManyOfConnection(_) => Code::Unavailable,
            Self::Silent(_) | Self::Slow(_) => Code::DeadlineExceeded,
            _ => Code::InvalidArgument,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", *self as u8)
    }
}

/// The encoded characters of `grpc-message`: controls, characters beyond ASCII, and `%`.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// The longest `grpc-message`, in bytes before encoding: a sentence may quote the client, and the client takes a few
/// KiB of headers.
const MESSAGE_MAX: usize = 1024;

/// `grpc-status` and `grpc-message`.
pub(in crate::xds) fn status(code: Code, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert("grpc-status", HeaderValue::from(code as u8 as u16));
    if !message.is_empty() {
        let message = &message[..message.floor_char_boundary(MESSAGE_MAX)];
        if let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(message, ENCODED).to_string()) {
            headers.insert("grpc-message", value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_quotes_anything_and_not_much_of_it() {
        let said = |message: &str| status(Code::InvalidArgument, message)["grpc-message"].clone();
        assert_eq!(
            said("type_url is \"a%20b\u{e9}\n\""),
            "type_url is \"a%2520b%C3%A9%0A\""
        );
        assert_eq!(said(&"\u{e9}".repeat(1_000_000)).len(), 3 * MESSAGE_MAX);
    }
}
