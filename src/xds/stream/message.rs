//! One response on the wire: a small head of the stream's own, then blocks that all streams share.
//!
//! A message is the data of one write to HTTP/2, whatever the number of its blocks. Nothing is copied before the write:
//! [`crate::xds::http2::socket`] gathers the writes of one poll once.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::xds::grpc::HEADER;
use crate::xds::session::Response;
use crate::xds::stream::in_flight::{InFlight, Progress};

/// The parts before the pieces: the header, the head.
const BEFORE: usize = 2;

/// Bytes that are written one part after the other: header, head, pieces.
#[derive(Debug)]
pub(in crate::xds) struct Message {
    header: [u8; HEADER],
    head: Vec<u8>,
    pieces: Arc<[Bytes]>,
    /// The part that is read, never an empty one, and the number of bytes read of it.
    part: usize,
    offset: usize,
    remaining: usize,
    /// Counts the message until it is dropped.
    in_flight: Option<InFlight>,
}

impl Message {
    /// Plain bytes, of the small services.
    pub(in crate::xds) fn plain(bytes: Bytes) -> Self {
        Self {
            header: [0; HEADER],
            head: Vec::new(),
            remaining: bytes.len(),
            pieces: Arc::new([bytes]),
            part: BEFORE,
            offset: 0,
            in_flight: None,
        }
    }

    /// A response as a gRPC message, not compressed. `None`: larger than the 4 GiB that gRPC allows.
    pub(in crate::xds) fn of(response: Response) -> Option<Self> {
        let Response { head, blocks, .. } = response;
        let size = u32::try_from(head.len() + blocks.len()).ok()?;
        let [high, second, third, low] = size.to_be_bytes();
        let header = [0, high, second, third, low];
        let remaining = HEADER + head.len() + blocks.len();
        let pieces = Arc::clone(blocks.pieces());
        Some(Self {
            header,
            head,
            pieces,
            part: 0,
            offset: 0,
            remaining,
            in_flight: None,
        })
    }

    /// This message, counted while it is in flight.
    pub(in crate::xds) fn counted(self, progress: &Progress) -> Self {
        Self {
            in_flight: Some(progress.hand(self.remaining)),
            ..self
        }
    }

    /// One of the parts; empty past the last.
    fn part(&self, part: usize) -> &[u8] {
        match part {
            0 => &self.header,
            1 => &self.head,
            _ => self.pieces.get(part - BEFORE).map_or(&[], |piece| piece),
        }
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.part(self.part)[self.offset..]
    }

    fn advance(&mut self, count: usize) {
        assert!(
            count <= self.remaining,
            "advance by {count} of {} bytes",
            self.remaining
        );
        self.remaining -= count;
        // A message that is written whole is dropped, which counts as progress too.
        if let Some(in_flight) = self.in_flight.as_ref().filter(|_| self.remaining > 0) {
            in_flight.moved();
        }
        self.offset += count;
        while self.remaining > 0 && self.offset >= self.part(self.part).len() {
            self.offset -= self.part(self.part).len();
            self.part += 1;
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = BEFORE + self.pieces.len() - self.part;
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(self.part..).take(parts) {
            let skip = if part == self.part { self.offset } else { 0 };
            *slice = IoSlice::new(&self.part(part)[skip..]);
            filled += 1;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::fleet::Nonce;
    use crate::resource::{Resource, ResourceType};
    use crate::snapshot::blocks::{Shape, encode};
    use crate::snapshot::version::SetVersion;

    fn response(bodies: &[usize]) -> Response {
        let resources: Vec<_> = bodies
            .iter()
            .map(|len| Arc::new(Resource::new(format!("r{len}"), vec![1; *len], Vec::new())))
            .collect();
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
    fn a_response_reads_the_same_in_steps_of_any_size() {
        let responses = [
            response(&[]),
            response(&[100, 200]),
            response(&[100, 20_000, 70_000, 5, 17_000]),
        ];
        let steps = [1, 997, 4096, 16_384, 1 << 20];
        let small = |response: &Response| response.blocks.len() < 4096;
        let runs = responses.iter().flat_map(|response| steps.map(|step| (response, step)));
        for (response, step) in runs.filter(|(response, step)| *step > 1 || small(response)) {
            let expected = expected(response);
            let mut message = Message::of(response.clone()).unwrap();
            let mut read = Vec::new();
            while message.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = message.chunks_vectored(&mut slices);
                assert_eq!(*slices[0], *message.chunk());
                assert!(!message.chunk().is_empty());
                let whole: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(whole.len());
                read.extend_from_slice(&whole[..count]);
                message.advance(count);
            }
            assert_eq!(read, expected, "step {step}");
        }
    }
}
