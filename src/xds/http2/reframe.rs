//! Cuts large DATA frames into smaller ones before h2 reads them.
//!
//! h2 reads a frame into one buffer, which starts with 8 KiB, grows to the largest frame so far, and keeps that size
//! for the life of the connection. No setting bounds it below the 16 KiB that a client may send (RFC 9113, section
//! 4.2). A first request with a thousand names is such a frame, and ten thousand connections would keep the room for
//! it. The borders of DATA frames mean nothing to the request in them (section 6.1), so a large frame may be passed on
//! as several. All other frames pass unchanged. Bytes in, bytes out.

use tokio::io::ReadBuf;

/// Length, type, flags and stream of a frame.
const HEADER: usize = 9;
/// The payload of a piece, in bytes. Less than half of h2's first buffer, so that the next piece always fits beside it.
const PIECE: usize = 4000;
/// The pieces after which the reader pauses. h2 keeps a buffer for each piece that is not taken, and its room for
/// pieces, and for the head of a request, doubles after four.
const PIECES: usize = 3;
/// The frame type, and two flags: `END_STREAM`; `PADDED`, whose padding counts as payload and cannot be cut.
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// The position of the reader in the frames of a connection.
#[derive(Debug, Default)]
pub(in crate::xds) struct Reframe {
    /// The header that is read, and the number of its bytes read so far.
    read: [u8; HEADER],
    read_len: usize,
    /// The header that is passed on, and the number of its bytes still to pass.
    next: [u8; HEADER],
    next_len: usize,
    /// The bytes left of the frame, or of its piece.
    left: usize,
    /// The bytes of the frame in further pieces.
    rest: usize,
    /// The pieces since the last pause.
    pieces: usize,
}

impl Reframe {
    /// Pass on bytes, as far as the output has room. Gives the number of input bytes taken.
    pub(in crate::xds) fn feed(&mut self, input: &[u8], output: &mut ReadBuf<'_>) -> usize {
        let mut unread = input;
        while output.remaining() > 0 {
            if self.next_len > 0 {
                let len = self.next_len.min(output.remaining());
                let from = HEADER - self.next_len;
                output.put_slice(&self.next[from..from + len]);
                self.next_len -= len;
            } else if self.left > 0 && !unread.is_empty() {
                let (now, later) = unread.split_at(self.left.min(output.remaining()).min(unread.len()));
                output.put_slice(now);
                self.left -= now.len();
                unread = later;
            } else if self.left == 0 && self.rest > 0 {
                self.begin_piece();
            } else if unread.is_empty() {
                break;
            } else {
                let (now, later) = unread.split_at((HEADER - self.read_len).min(unread.len()));
                self.read[self.read_len..self.read_len + now.len()].copy_from_slice(now);
                self.read_len += now.len();
                unread = later;
                if self.read_len == HEADER {
                    self.begin_frame();
                }
            }
        }

        input.len() - unread.len()
    }

    /// Whether the reader should pause: the pieces of a large request wait to be taken.
    pub(in crate::xds) fn pauses(&mut self) -> bool {
        let pauses = self.rest > 0 && self.pieces >= PIECES;
        if pauses {
            self.pieces = 0;
        }
        pauses
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.read;
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        (self.next, self.read_len) = (self.read, 0);
        if kind == DATA && flags & PADDED == 0 && len > PIECE {
            self.rest = len;
            self.begin_piece();
        } else {
            (self.next_len, self.left) = (HEADER, len);
        }
    }

    fn begin_piece(&mut self) {
        self.left = self.rest.min(PIECE);
        self.rest -= self.left;
        self.pieces += 1;
        let [.., middle, low] = self.left.to_be_bytes();
        let [_, _, _, _, flags, ..] = self.read;
        let flags = if self.rest > 0 { flags & !END_STREAM } else { flags };
        self.next[..5].copy_from_slice(&[0, middle, low, DATA, flags]);
        self.next_len = HEADER;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The output for an input, `piece` bytes at a time with `room` bytes of output.
    fn fed(input: &[u8], piece: usize, room: usize) -> Vec<u8> {
        let (mut reframe, mut output) = (Reframe::default(), Vec::new());
        for mut chunk in input.chunks(piece) {
            loop {
                let mut space = vec![0; room];
                let mut buffer = ReadBuf::new(&mut space);
                let taken = reframe.feed(chunk, &mut buffer);
                output.extend_from_slice(buffer.filled());
                chunk = &chunk[taken..];
                if chunk.is_empty() && buffer.remaining() > 0 {
                    break;
                }
            }
        }
        output
    }

    /// Frames taken apart: type, flags, stream, payload.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
            let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let stream = u32::from_be_bytes(header[5..].try_into().unwrap());
            frames.push((header[3], header[4], stream, rest[..len].to_vec()));
            bytes = &rest[len..];
        }
        assert!(bytes.is_empty());
        frames
    }

    #[test]
    fn a_large_data_frame_becomes_several_and_the_last_one_ends_the_stream() {
        let payload: Vec<u8> = (0..=255).cycle().take(2 * PIECE + 7).collect();
        let out = frames(&fed(&frame(DATA, END_STREAM, 5, &payload), 16 * 1024, 8192));
        assert_eq!(
            out.iter().map(|frame| frame.3.len()).collect::<Vec<_>>(),
            [PIECE, PIECE, 7]
        );
        assert_eq!(out.iter().map(|frame| frame.1).collect::<Vec<_>>(), [0, 0, END_STREAM]);
        assert!(out.iter().all(|frame| (frame.0, frame.2) == (DATA, 5)));
        assert_eq!(
            out.iter().flat_map(|frame| frame.3.clone()).collect::<Vec<_>>(),
            payload
        );
    }

    #[test]
    fn everything_else_goes_through_as_it_is() {
        let long = vec![3; 3 * PIECE];
        let input = [
            frame(4, 0, 0, &[]),
            frame(1, 4, 1, &long),
            frame(DATA, 0, 1, &[7; PIECE]),
            frame(DATA, PADDED | END_STREAM, 1, &long),
            frame(DATA, END_STREAM, 1, &[]),
        ]
        .concat();
        assert_eq!(fed(&input, input.len(), 8192), input);
    }

    #[test]
    fn a_large_request_is_read_with_pauses() {
        let mut reframe = Reframe::default();
        let (input, mut space) = (frame(DATA, 0, 1, &vec![0; 10 * PIECE]), vec![0; 11 * PIECE]);
        let mut pauses = Vec::new();
        for chunk in input.chunks(PIECE) {
            reframe.feed(chunk, &mut ReadBuf::new(&mut space));
            pauses.push(reframe.pauses());
        }
        assert_eq!(pauses.iter().filter(|pauses| **pauses).count(), 3, "{pauses:?}");
        reframe.feed(&frame(DATA, 0, 1, &[0; 10]), &mut ReadBuf::new(&mut space));
        assert!(!reframe.pauses());
    }

    proptest! {
        #[test]
        fn however_it_is_read_no_byte_is_lost(
            lens in prop::collection::vec((0_u8..3, 0_u8..2, 0_usize..20_000), 1..6),
            piece in 1_usize..9000,
            room in 1_usize..9000,
        ) {
            let input: Vec<u8> =
                lens.iter().flat_map(|(kind, flags, len)| frame(*kind, *flags, 1, &vec![*kind; *len])).collect();
            let output = fed(&input, piece, room);
            prop_assert_eq!(&output, &fed(&input, input.len(), input.len() * 2));
            let sum = |frames: Vec<(u8, u8, u32, Vec<u8>)>, kind| -> usize {
                frames.iter().filter(|frame| frame.0 == kind).map(|frame| frame.3.len()).sum()
            };
            for kind in 0..3 {
                prop_assert_eq!(sum(frames(&output), kind), sum(frames(&input), kind));
            }
            prop_assert!(frames(&output).iter().all(|frame| frame.0 != DATA || frame.3.len() <= PIECE));
        }
    }
}
