//! Requests out of a body: gRPC framing, nothing kept between messages.
//!
//! A message that lies in one DATA frame is handed out without a copy; a longer one is gathered as it arrives, so that a
//! client which claims a length pays for it first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;

use super::Error;

/// The largest request, in bytes: a hundred thousand names take 10 MB.
pub(super) const MAX_REQUEST: usize = 64 * 1024 * 1024;
/// Compression flag and length of a gRPC message.
const HEADER: usize = 5;

/// The requests of one stream.
#[derive(Debug)]
pub(super) struct Reader<B> {
    body: B,
    /// Received and not yet handed out, none empty.
    frames: VecDeque<Bytes>,
    buffered: usize,
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Reader<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, frames: VecDeque::new(), buffered: 0, ended: false }
    }

    /// The next request; `None` when the client has ended its side, or is gone. Ended in the midst of a request is an error.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            match self.take_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) if self.ended && self.buffered == 0 => return Poll::Ready(None),
                Ok(None) if self.ended => return Poll::Ready(Some(Err(Error::CutShort(self.buffered)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.buffered += data.len();
                        self.frames.push_back(data);
                    }
                }
                None => self.ended = true,
                // A reset is no request; HTTP/2 drops the stream as a whole.
                Some(Err(_)) => {
                    self.frames = VecDeque::new();
                    self.buffered = 0;
                    self.ended = true;
                }
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(len) = self.message_len()? else { return Ok(None) };
        if self.buffered < HEADER + len {
            return Ok(None);
        }
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
        let bytes = self.frames.iter().flat_map(|frame| frame.iter());
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let [compressed, len @ ..] = header;
        if compressed != 0 {
            return Err(Error::Compressed);
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_REQUEST { Err(Error::TooLarge(len)) } else { Ok(Some(len)) }
    }

    /// The next `len` bytes, which are there.
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
mod tests {
    use std::convert::Infallible;

    use futures::task::noop_waker_ref;
    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;

    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn read(bytes: &[u8], frame: usize) -> (Vec<Bytes>, Option<Error>) {
        let frames = bytes.chunks(frame.max(1)).map(Bytes::copy_from_slice).collect();
        let mut reader = Reader::new(Frames(frames));
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

    proptest! {
        #[test]
        fn messages_are_the_same_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            frame in 1..400_usize,
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.push(0);
                bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                bytes.extend(message);
            }
            let (seen, error) = read(&bytes, frame);
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(error, None);
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_by_its_header() {
        assert_eq!(read(&[0, 0xff, 0xff, 0xff, 0xff], 5).1, Some(Error::TooLarge(u32::MAX as usize)));
        assert_eq!(read(&[1, 0, 0, 0, 0], 5).1, Some(Error::Compressed));
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        assert_eq!(read(&[0, 0, 0, 0, 9, 1, 2], 3), (Vec::new(), Some(Error::CutShort(7))));
        assert_eq!(read(&[0, 0, 0, 0, 1, 1, 0], 3), (vec![Bytes::from_static(&[1])], Some(Error::CutShort(1))));
    }
}
