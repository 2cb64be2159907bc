//! Encodes a response without its resources. Each response of each stream has its own head.

use std::fmt::Display;
use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::proto::message::append;

/// The room for the fields of most heads in bytes: a version, a type URL, a nonce.
const CAPACITY: usize = 192;
/// `ControlPlane.identifier`.
const IDENTIFIER: u32 = 1;

/// The sender of a response.
#[derive(Debug, Clone, Copy)]
pub(in crate::xds) struct ControlPlane<'a> {
    /// The identifier of the server.
    pub(in crate::xds) identifier: &'a str,
    /// The revision of the snapshot.
    pub(in crate::xds) revision: i64,
}

/// The encoded fields.
#[derive(Debug)]
pub(in crate::xds) struct ResponseHead(Vec<u8>);

impl ResponseHead {
    /// A head without fields.
    pub(in crate::xds) fn new() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }

    /// Add a text.
    pub(in crate::xds) fn text(&mut self, number: u32, text: &str) {
        append(&mut self.0, number, text.as_bytes());
    }

    /// Add a text that is shorter than 128 bytes, such as a version or a nonce.
    #[expect(clippy::cast_possible_truncation, reason = "asserted")]
    pub(in crate::xds) fn short(&mut self, number: u32, text: impl Display) {
        append(&mut self.0, number, &[]);
        let start = self.0.len();
        // Writing to a `Vec` does not fail.
        write!(self.0, "{text}").ok();
        let len = self.0.len() - start;
        assert!(len < 0x80, "{len} bytes");
        self.0[start - 1] = len as u8;
    }

    /// Add a `ControlPlane`: the identifier of the server, and the revision, as in `chancery r1842`.
    pub(in crate::xds) fn control_plane(&mut self, number: u32, plane: ControlPlane<'_>) {
        let ControlPlane { identifier, revision } = plane;
        let revision = revision.unsigned_abs();
        let digits = revision.checked_ilog10().unwrap_or_default() as usize + 1;
        let text = identifier.len() + " r".len() + digits;
        let len = 1 + encoded_len_varint(text as u64) + text;
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(len as u64, &mut self.0);
        encode_key(IDENTIFIER, WireType::LengthDelimited, &mut self.0);
        encode_varint(text as u64, &mut self.0);
        // Writing to a `Vec` does not fail.
        write!(self.0, "{identifier} r{revision}").ok();
    }

    /// Add a message.
    pub(in crate::xds) fn message(&mut self, number: u32, message: &impl Message) {
        append(&mut self.0, number, &message.encode_to_vec());
    }

    /// The encoded head.
    pub(in crate::xds) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
