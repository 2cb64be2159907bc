//! The limits of requests and subscriptions.
//!
//! A few bytes on the wire can take many in memory: an empty name takes 2 and 32, an empty value in a node's metadata 2
//! and 100. A request far beyond those of any proxy is therefore rejected before it is decoded, by a count of its
//! entries. The error states the count and the limit.

use bytes::Buf as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use crate::proto::wire;
use crate::rollout::Node;
use crate::xds::error::Error;
use crate::xds::grpc::REQUEST_MAX;
use crate::xds::session::subscription::names::Names;

/// Names, versions and other fields of one request. Ten times what the largest proxy is expected to have.
const ENTRIES_MAX: usize = 1_000_000;
/// The names of one type that a stream subscribes to, and their bytes, over all requests.
const NAMES_MAX: (usize, usize) = (ENTRIES_MAX, REQUEST_MAX);
/// Globs of one type. Each changed resource is matched against every glob.
const GLOBS_MAX: usize = 1000;
/// A node, in bytes. A real Envoy's has 61 kB.
const NODE_MAX: usize = 1024 * 1024;
/// A text of the node that is kept after the end of its stream, in bytes.
pub(in crate::xds) const NODE_TEXT_MAX: usize = 1024;
/// The message of a NACK in bytes. Envoy sends a quarter of it at most.
const ERROR_MESSAGE_MAX: usize = 16 * 1024;
/// The entries of a request up to this size, in bytes, are not counted.
const SMALL: usize = 64 * 1024;

/// Reject a request that is too large to be read.
pub(in crate::xds) fn request_size(bytes: usize, max: usize) -> Result<(), Error> {
    at_most("the request has", bytes, "bytes", max)
}

/// Reject a request with too many entries. Malformed requests are rejected when they are decoded.
pub(in crate::xds) fn entries(request: &[u8]) -> Result<(), Error> {
    if request.len() <= SMALL {
        return Ok(());
    }
    let (mut rest, mut count) = (request, 0_usize);
    while rest.has_remaining()
        && let Ok((tag, wire_type)) = decode_key(&mut rest)
        && skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_ok()
    {
        count += 1;
    }
    at_most("the request has", count, "entries", ENTRIES_MAX)
}

/// Reject a subscription with too many names of one type.
pub(in crate::xds) fn names(names: &Names, globs: usize) -> Result<(), Error> {
    let asks = "the stream subscribes to";
    at_most(asks, names.len(), "names of a type", NAMES_MAX.0)?;
    at_most(asks, globs, "globs of a type", GLOBS_MAX)?;
    at_most(
        "the names of a type have",
        names.iter().map(|name| name.len()).sum(),
        "bytes",
        NAMES_MAX.1,
    )
}

/// Reject a node that is too large to be decoded.
pub(in crate::xds) fn node_size(bytes: &[u8]) -> Result<(), Error> {
    at_most("the node has", bytes.len(), "bytes", NODE_MAX)
}

fn at_most(has: &'static str, found: usize, unit: &'static str, max: usize) -> Result<(), Error> {
    if found > max {
        Err(Error::TooMuch { has, found, unit, max })
    } else {
        Ok(())
    }
}

/// Reject a node with an id or a cluster that is too long to be kept.
pub(in crate::xds) fn node(node: &Node) -> Result<(), Error> {
    let too_long = |text: &str| text.len() > NODE_TEXT_MAX;
    match [("node.id", &node.id), ("node.cluster", &node.cluster)]
        .into_iter()
        .find(|(_, text)| too_long(text))
    {
        Some((field, text)) => Err(Error::NodeTextTooLong {
            field,
            length: text.len(),
            max: NODE_TEXT_MAX,
        }),
        None => Ok(()),
    }
}

/// Cut the message of a NACK to its limit.
pub(in crate::xds) fn error_message(status: wire::Status) -> wire::Status {
    let wire::Status { code, mut message } = status;
    message.truncate(message.floor_char_boundary(ERROR_MESSAGE_MAX));
    wire::Status { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with empty names, the cheapest ones, after other bytes.
    fn request(before: &[u8], names: usize) -> Vec<u8> {
        [before, &[0x1a, 0].repeat(names)].concat()
    }

    #[test]
    fn entries_are_counted_whatever_stands_before_and_behind_them() {
        assert_eq!(entries(&request(&[], ENTRIES_MAX)), Ok(()));
        let group = [0x7b, 0x08, 1, 0x7c];
        let too_many = at_most("the request has", ENTRIES_MAX + 1, "entries", ENTRIES_MAX);
        assert!(too_many.is_err());
        assert_eq!(entries(&request(&[], ENTRIES_MAX + 1)), too_many);
        assert_eq!(entries(&request(&group, ENTRIES_MAX)), too_many, "a group is an entry");
        // A malformed field after a million names: each of them would be kept until the decoder reaches it.
        assert_eq!(
            entries(&[request(&[], ENTRIES_MAX + 1), vec![0x0a, 0x7f]].concat()),
            too_many
        );
        assert_eq!(
            entries(&[vec![0x0a, 0xff], request(&[], ENTRIES_MAX + 1)].concat()),
            Ok(()),
            "ends at once"
        );
    }

    #[test]
    fn names_are_bounded_over_all_requests() {
        let of = |count: usize, len: usize| {
            let name = |number: usize| format!("{number:07}{}", "n".repeat(len - 7)).into();
            let all = (0..count).map(name).collect();
            names(
                &Names::new(all, &crate::xds::session::subscription::names::Interner::default()),
                0,
            )
            .map_err(|error| error.to_string())
        };
        assert_eq!(of(3, REQUEST_MAX / 3), Ok(()));
        let sentence = "the names of a type have 67108866 bytes, expected 67108864 at most";
        assert_eq!(of(3, REQUEST_MAX / 3 + 1), Err(sentence.to_owned()));
        assert_eq!(of(NAMES_MAX.0, 7), Ok(()));
        let sentence = "the stream subscribes to 1000001 names of a type, expected 1000000 at most";
        assert_eq!(of(NAMES_MAX.0 + 1, 7), Err(sentence.to_owned()));
    }

    #[test]
    fn texts_of_a_node_are_short() {
        let long = |text: usize| "\u{e9}".repeat(text / 2);
        let of = |id: usize, cluster: usize| {
            node(&Node {
                id: long(id).into(),
                cluster: long(cluster).into(),
                ..Node::default()
            })
        };
        assert_eq!(of(NODE_TEXT_MAX, NODE_TEXT_MAX), Ok(()));
        let length = NODE_TEXT_MAX + 2;
        assert_eq!(
            of(length, 0),
            Err(Error::NodeTextTooLong {
                field: "node.id",
                length,
                max: NODE_TEXT_MAX,
            })
        );
        assert_eq!(
            of(1, length),
            Err(Error::NodeTextTooLong {
                field: "node.cluster",
                length,
                max: NODE_TEXT_MAX,
            })
        );
    }

    #[test]
    fn an_error_message_is_cut_between_characters() {
        let status = error_message(wire::Status {
            code: 3,
            message: format!("a{}", "\u{e9}".repeat(ERROR_MESSAGE_MAX)),
        });
        assert_eq!((status.code, status.message.len()), (3, ERROR_MESSAGE_MAX - 1));
    }
}
