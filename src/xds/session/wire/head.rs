//! Encodes a response without its resources. Every response to every stream has a head of its own.

use std::fmt::Display;
use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::proto::message::append;

/// Room for the texts of most responses, in bytes: a version, a type's URL, a nonce.
const CAPACITY: usize = 192;
/// `ControlPlane.identifier`.
const IDENTIFIER: u32 = 1;

/// The fields that were written.
#[derive(Debug)]
pub(in crate::xds) struct ResponseHead(Vec<u8>);

impl ResponseHead {
    /// Without fields.
    pub(in crate::xds) fn new() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }

    /// A text.
    pub(in crate::xds) fn text(&mut self, number: u32, text: &str) {
        append(&mut self.0, number, text.as_bytes());
    }

    /// A text that is shorter than 128 bytes, such as a version or a nonce.
    #[expect(clippy::cast_possible_truncation, reason = "asserted")]
    pub(in crate::xds) fn short(&mut self, number: u32, text: impl Display) {
        append(&mut self.0, number, &[]);
        let start = self.0.len();
        // A `Vec` takes everything.
        write!(self.0, "{text}").ok();
        let len = self.0.len() - start;
        assert!(len < 0x80, "{len} bytes");
        self.0[start - 1] = len as u8;
    }

    /// A `ControlPlane`.
    pub(in crate::xds) fn control_plane(&mut self, number: u32, identifier: &str) {
        let len = 1 + encoded_len_varint(identifier.len() as u64) + identifier.len();
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(len as u64, &mut self.0);
        self.text(IDENTIFIER, identifier);
    }

    /// Any message.
    pub(in crate::xds) fn message(&mut self, number: u32, message: &impl Message) {
        append(&mut self.0, number, &message.encode_to_vec());
    }

    /// Its bytes.
    pub(in crate::xds) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
