//! Reads requests out of a body: gRPC framing, nothing kept between messages.
//!
//! A message within one DATA frame is handed out without a copy. A longer message is gathered as it arrives; memory is
//! allocated for received bytes, not for a claimed length. Small frames are copied together, so the memory of a request
//! is never many times its size.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;

use crate::xds::error::Error;
use crate::xds::grpc::HEADER;
use crate::xds::session::wire::limits;
use crate::xds::stream::meter::Meter;

/// Frames that are smaller, in bytes, are copied into one piece: to keep one as it is costs more than the copy.
const SMALL_FRAME: usize = 4096;

/// The requests of one stream.
#[derive(Debug)]
pub(in crate::xds) struct Reader<B> {
    body: B,
    /// Received and not yet handed out, none empty.
    frames: VecDeque<Bytes>,
    /// Small frames received after `frames`.
    small: BytesMut,
    /// The bytes of `frames` and `small`.
    buffered: usize,
    ended: bool,
    /// The largest request, in bytes.
    max: usize,
    /// Reports the bytes of an unfinished request.
    meter: Option<Meter>,
}

impl<B: Body<Data = Bytes> + Unpin> Reader<B> {
    /// The requests of a body, of `max` bytes at most each.
    pub(in crate::xds) fn new(body: B, max: usize, meter: Option<Meter>) -> Self {
        Self {
            body,
            max,
            meter,
            frames: VecDeque::new(),
            small: BytesMut::new(),
            buffered: 0,
            ended: false,
        }
    }

    /// The next request. `None`: the client has ended its side or is gone. An end within a request is an error.
    pub(in crate::xds) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            match self.take_message() {
                Ok(Some(message)) => {
                    self.stop_time();
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) if self.ended && self.buffered == 0 => return Poll::Ready(None),
                Ok(None) if self.ended => return Poll::Ready(Some(Err(Error::CutShort(self.buffered)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                let bytes = self.buffered;
                return match self.meter.as_mut().map_or(Ok(()), |meter| meter.waits(bytes)) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Some(Err(error))),
                };
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.keep(data);
                    }
                }
                None => self.ended = true,
                // After a reset HTTP/2 drops the whole stream.
                Some(Err(_)) => {
                    self.frames = VecDeque::new();
                    self.small = BytesMut::new();
                    self.buffered = 0;
                    self.ended = true;
                }
            }
        }
    }

    /// The server reads no more for now, so the time of an unfinished request does not run.
    pub(in crate::xds) fn stop_time(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.stop_time();
        }
    }

    fn keep(&mut self, data: Bytes) {
        self.buffered += data.len();
        if data.len() < SMALL_FRAME && !(self.frames.is_empty() && self.small.is_empty()) {
            self.small.extend_from_slice(&data);
            if self.small.len() >= SMALL_FRAME {
                self.gather();
            }
            return;
        }
        self.gather();
        self.frames.push_back(data);
    }

    /// Close the piece that small frames were copied into.
    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.frames.push_back(std::mem::take(&mut self.small).freeze());
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(len) = self.message_len()? else {
            return Ok(None);
        };
        if self.buffered < HEADER + len {
            return Ok(None);
        }
        self.gather();
        drop(self.take(HEADER));
        let message = self.take(len);
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        Ok(Some(message))
    }

    /// The length of the message whose header is complete.
    fn message_len(&self) -> Result<Option<usize>, Error> {
        if self.buffered < HEADER {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        let bytes = self.frames.iter().flat_map(|frame| frame.iter()).chain(&self.small);
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let [compressed, len @ ..] = header;
        if compressed != 0 {
            return Err(Error::Compressed);
        }
        let len = u32::from_be_bytes(len) as usize;
        limits::request_size(len, self.max)?;
        Ok(Some(len))
    }

    /// The next `len` bytes, which must have been received.
    fn take(&mut self, len: usize) -> Bytes {
        self.buffered -= len;
        if let Some(first) = self.frames.front_mut()
            && first.len() >= len
        {
            let taken = first.split_to(len);
            if first.is_empty() {
                self.frames.pop_front();
            }
            return taken;
        }

        let mut taken = BytesMut::with_capacity(len);
        while taken.len() < len {
            let Some(first) = self.frames.front_mut() else { break };
            let count = first.len().min(len - taken.len());
            taken.extend_from_slice(&first[..count]);
            first.advance(count);
            if first.is_empty() {
                self.frames.pop_front();
            }
        }

        taken.freeze()
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths are small, contents are cut on purpose"
)]
mod tests {
    use std::convert::Infallible;

    use futures::task::noop_waker_ref;
    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;
    use crate::xds::grpc::REQUEST_MAX;

    fn too_large(found: usize) -> Error {
        limits::request_size(found, REQUEST_MAX).unwrap_err()
    }

    /// A body: its frames, and whether it ends after them.
    struct Frames(VecDeque<Bytes>, bool);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                None if !self.1 => Poll::Pending,
                frame => Poll::Ready(frame.map(|data| Ok(Frame::data(data)))),
            }
        }
    }

    /// Frames of these lengths, again and again.
    fn cut(mut bytes: &[u8], lengths: &[usize]) -> VecDeque<Bytes> {
        let mut frames = VecDeque::new();
        for length in lengths.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (frame, rest) = bytes.split_at(bytes.len().min(*length));
            frames.push_back(Bytes::copy_from_slice(frame));
            bytes = rest;
        }
        frames
    }

    fn read(bytes: &[u8], lengths: &[usize]) -> (Vec<Bytes>, Option<Error>) {
        let mut reader = Reader::new(Frames(cut(bytes, lengths), true), REQUEST_MAX, None);
        let mut messages = Vec::new();
        loop {
            match reader.poll_next(&mut Context::from_waker(noop_waker_ref())) {
                Poll::Ready(Some(Ok(message))) => messages.push(message),
                Poll::Ready(Some(Err(error))) => return (messages, Some(error)),
                Poll::Ready(None) => return (messages, None),
                Poll::Pending => unreachable!("frames are always ready"),
            }
        }
    }

    fn framed(flag: u8, len: u32, message: &[u8]) -> Vec<u8> {
        [&[flag], &len.to_be_bytes()[..], message].concat()
    }

    /// Lengths of frames: some empty, many small, none only empty.
    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let length = prop_oneof![0..4_usize, 1..400_usize, 3000..9000_usize];
        proptest::collection::vec(length, 1..12).prop_map(|lengths| [lengths, vec![7]].concat())
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![Just(0), 1..300_usize, 3000..30_000_usize];
        (len, any::<u8>()).prop_map(|(len, first)| (0..len).map(|at| first.wrapping_add(at as u8)).collect())
    }

    /// A message, a message with a wrong flag or length, or arbitrary bytes.
    fn rubbish() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => message().prop_map(|message| framed(0, message.len() as u32, &message)),
            1 => (any::<u8>(), message()).prop_map(|(flag, message)| framed(flag, message.len() as u32, &message)),
            2 => (any::<u32>(), message()).prop_map(|(len, message)| framed(0, len, &message)),
            2 => (0..400_u32, message()).prop_map(|(len, message)| framed(0, len, &message)),
            1 => proptest::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn messages_are_the_same_however_they_are_cut(
            messages in proptest::collection::vec(message(), 0..6),
            lengths in lengths(),
        ) {
            let bytes: Vec<u8> =
                messages.iter().flat_map(|message| framed(0, message.len() as u32, message)).collect();
            let (seen, error) = read(&bytes, &lengths);
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(error, None);
        }

        /// Rubbish gives the same messages and the same one error, and each byte is accounted for.
        #[test]
        fn rubbish_is_the_same_however_it_is_cut(
            rubbish in proptest::collection::vec(rubbish(), 0..6),
            lengths in lengths(),
        ) {
            let bytes = rubbish.concat();
            let (messages, error) = read(&bytes, &lengths);
            let whole = read(&bytes, &[usize::MAX]);
            prop_assert_eq!((&messages, &error), (&whole.0, &whole.1));
            let taken: usize = messages.iter().map(|message| HEADER + message.len()).sum();
            let again: Vec<u8> =
                messages.iter().flat_map(|message| framed(0, message.len() as u32, message)).collect();
            prop_assert_eq!(&bytes[..taken], &again);
            let rest = &bytes[taken..];
            let claimed = rest.get(1..HEADER).map(|len| u32::from_be_bytes(len.try_into().unwrap()) as usize);
            let expected = match (rest.first(), claimed) {
                (None, _) => None,
                (Some(0), Some(len)) if len > REQUEST_MAX => Some(too_large(len)),
                (Some(1..), Some(_)) => Some(Error::Compressed),
                _ => Some(Error::CutShort(rest.len())),
            };
            prop_assert_eq!(error, expected);
        }
    }

    // Neither a claimed length nor the number of frames makes the server allocate more than the client has sent.
    #[test]
    fn only_received_bytes_are_kept() {
        let len = u32::try_from(REQUEST_MAX).unwrap();
        for lengths in [[1, 1], [1, 5000], [4095, 1], [100_000, 100_000]] {
            let bytes = framed(0, len, &vec![7; 300_000]);
            let mut reader = Reader::new(Frames(cut(&bytes, &lengths), false), REQUEST_MAX, None);
            assert!(
                reader
                    .poll_next(&mut Context::from_waker(noop_waker_ref()))
                    .is_pending()
            );
            let pieces = reader.frames.len();
            assert!(
                pieces <= 2 * bytes.len() / SMALL_FRAME + 2,
                "{pieces} pieces of frames of {lengths:?}"
            );
            assert!(
                reader.small.capacity() <= 4 * SMALL_FRAME,
                "{} bytes",
                reader.small.capacity()
            );
            let kept: usize = reader.frames.iter().map(Bytes::len).sum();
            assert_eq!(kept + reader.small.len(), bytes.len());
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_by_its_header() {
        assert_eq!(
            read(&[0, 0xff, 0xff, 0xff, 0xff], &[5]).1,
            Some(too_large(u32::MAX as usize))
        );
        assert_eq!(read(&[1, 0, 0, 0, 0], &[5]).1, Some(Error::Compressed));
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        assert_eq!(
            read(&[0, 0, 0, 0, 9, 1, 2], &[3]),
            (Vec::new(), Some(Error::CutShort(7)))
        );
        assert_eq!(
            read(&[0, 0, 0, 0, 1, 1, 0], &[3]),
            (vec![Bytes::from_static(&[1])], Some(Error::CutShort(1)))
        );
    }
}
