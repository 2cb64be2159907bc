//! The answer of a small service: the frames of its body, one after the other.
//!
//! It is watched as xDS streams are: a client that takes nothing of it is reset, and when the server ends the connection, what
//! would go on for ever (load reports, a health watch) ends with OK.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use tracing::debug;

use crate::xds::error::{Code, status};
use crate::xds::stream::Ending;
use crate::xds::stream::in_flight::{Cell, Progress};
use crate::xds::stream::message::Message;
use crate::xds::stream::wake::Aside;

/// See the module. Done when it is over; dropped before that, its stream is reset.
pub(in crate::xds) struct Answer {
    body: tonic::body::Body,
    out: SendStream<Message>,
    progress: Progress,
    ending: Aside<Ending, Cell>,
}

impl Answer {
    pub(in crate::xds) fn new(
        body: tonic::body::Body,
        out: SendStream<Message>,
        progress: Progress,
        ending: Ending,
    ) -> Self {
        let ending = Aside::new(ending, Arc::clone(progress.cell()));
        Self {
            body,
            out,
            progress,
            ending,
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.progress.poll_over(&mut self.out, context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        while self.progress.has_room() {
            let frame = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.ending.poll());
                    return Poll::Ready(self.out.send_trailers(status(Code::Ok, "")));
                }
            };
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                Some(Ok(Ok(data))) => self
                    .out
                    .send_data(Message::plain(data).counted(&self.progress), false)?,
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.out.send_trailers(trailers));
                }
                Some(Err(error)) => {
                    debug!(%error, "A small service failed");
                    self.out.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(self.out.send_data(Message::plain(Bytes::new()), true)),
            }
        }
        Poll::Pending
    }
}

impl Future for Answer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.get_mut().poll_send(context)) {
            debug!(%error, "An answer was not taken");
        }
        Poll::Ready(())
    }
}
