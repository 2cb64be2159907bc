//! One response on the wire: a small head of the stream's own, then blocks that all streams share.
//!
//! It is the body's data type, so that one response is one write to HTTP/2, whatever the number of its blocks. Small ones
//! are copied into one piece: one DATA frame, one system call.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::progress::{InFlight, Progress};
use super::session::Response;

/// Compression flag and length of a gRPC message.
const GRPC_HEADER: usize = 5;
/// Up to here copying is cheaper than another piece.
const ONE_PIECE_MAX: usize = 4096;

/// Bytes that are written one piece after the other.
#[derive(Debug)]
pub(super) struct Message {
    head: Bytes,
    pieces: Option<Arc<[Bytes]>>,
    /// The piece that is read, and how much of it was.
    next: usize,
    offset: usize,
    remaining: usize,
    /// Known to be on its way until it is dropped.
    in_flight: Option<InFlight>,
}

impl Message {
    /// Plain bytes, of the small services.
    pub(super) fn plain(bytes: Bytes) -> Self {
        Self { remaining: bytes.len(), head: bytes, pieces: None, next: 0, offset: 0, in_flight: None }
    }

    /// A response as a gRPC message, not compressed. `None`: larger than gRPC can say, 4 GiB.
    pub(super) fn of(response: &Response) -> Option<Self> {
        let size = u32::try_from(response.head.len() + response.blocks.len()).ok()?;
        let in_one_piece = GRPC_HEADER + response.head.len() + response.blocks.len() <= ONE_PIECE_MAX;
        let copied = if in_one_piece { response.blocks.len() } else { 0 };
        let mut head = BytesMut::with_capacity(GRPC_HEADER + response.head.len() + copied);
        head.put_u8(0);
        head.put_u32(size);
        head.put_slice(&response.head);
        if in_one_piece {
            response.blocks.pieces().iter().for_each(|piece| head.put_slice(piece));
            return Some(Self::plain(head.freeze()));
        }
        let remaining = head.len() + response.blocks.len();
        let pieces = Some(Arc::clone(response.blocks.pieces()));
        Some(Self { head: head.freeze(), pieces, next: 0, offset: 0, remaining, in_flight: None })
    }

    /// This message, counted while it is on its way.
    pub(super) fn counted(self, progress: &Progress) -> Self {
        Self { in_flight: Some(progress.hand(self.remaining)), ..self }
    }

    /// What is left of the pieces, the current one first.
    fn rest(&self) -> &[Bytes] {
        self.pieces.as_deref().and_then(|pieces| pieces.get(self.next..)).unwrap_or_default()
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() { self.rest().first().map_or(&[], |piece| &piece[self.offset..]) } else { &self.head }
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining, "advance by {count} of {} bytes", self.remaining);
        self.remaining -= count;
        // What was written whole is dropped, which says so, too.
        if let Some(in_flight) = self.in_flight.as_ref().filter(|_| self.remaining > 0) {
            in_flight.moved();
        }
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        let mut left = count - of_head;
        while left > 0 {
            let piece = self.rest().first().map_or(0, Bytes::len) - self.offset;
            if left < piece {
                self.offset += left;
                return;
            }
            left -= piece;
            self.next += 1;
            self.offset = 0;
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let head = Some(&*self.head).filter(|head| !head.is_empty());
        let mut skip = self.offset;
        let pieces = self.rest().iter().map(|piece| &piece[std::mem::take(&mut skip)..]);
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(head.into_iter().chain(pieces)) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Nonce;
    use crate::resource::{Resource, ResourceType};
    use crate::snapshot::blocks::{Shape, encode};
    use crate::snapshot::version::SetVersion;

    fn response(bodies: &[usize]) -> Response {
        let resources: Vec<_> =
            bodies.iter().map(|len| Arc::new(Resource::new(format!("r{len}"), vec![1; *len], Vec::new()))).collect();
        Response {
            resource_type: Some(ResourceType::Cluster),
            version: SetVersion(1),
            nonce: Nonce::new(0, 1),
            head: vec![9; 40],
            blocks: encode(ResourceType::Cluster, Shape::Delta, &resources),
        }
    }

    fn expected(response: &Response) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.put_u32(u32::try_from(40 + response.blocks.len()).unwrap());
        bytes.extend_from_slice(&response.head);
        bytes.extend(response.blocks.pieces().concat());
        bytes
    }

    #[test]
    fn a_small_response_is_one_piece() {
        let response = response(&[100, 200]);
        let message = Message::of(&response).unwrap();
        assert_eq!(message.chunk(), expected(&response));
    }

    #[test]
    fn a_large_response_reads_the_same_in_steps_of_any_size() {
        let response = response(&[100, 20_000, 70_000, 5, 17_000]);
        let expected = expected(&response);
        for step in [997, 4096, 16_384, 1 << 20] {
            let mut message = Message::of(&response).unwrap();
            assert!(message.chunk().len() < 100, "the head is a piece of its own");
            let mut read = Vec::new();
            while message.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = message.chunks_vectored(&mut slices);
                assert_eq!(slices[0].len(), message.chunk().len());
                let whole: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(whole.len());
                read.extend_from_slice(&whole[..count]);
                message.advance(count);
            }
            assert_eq!(read, expected, "step {step}");
        }
    }
}
