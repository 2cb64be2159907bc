//! Relays the response body of a small service to HTTP/2, frame by frame.
//!
//! The watchdog resets the stream if the client reads nothing. If the server ends the connection, an endless body (load
//! reports, a health watch) ends with OK.

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
use crate::xds::stream::wake::SideFuture;

/// One response body. Ready when all is written; if dropped earlier, the stream is reset.
pub(in crate::xds) struct RelayBody {
    body: tonic::body::Body,
    out: SendStream<Message>,
    progress: Progress,
    ending: SideFuture<Ending, Cell>,
}

impl RelayBody {
    pub(in crate::xds) fn new(
        body: tonic::body::Body,
        out: SendStream<Message>,
        progress: Progress,
        ending: Ending,
    ) -> Self {
        let ending = SideFuture::new(ending, Arc::clone(progress.cell()));
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
                    debug!(%error, "Stream of a small service ended with an error");
                    self.out.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(self.out.send_data(Message::plain(Bytes::new()), true)),
            }
        }

        Poll::Pending
    }
}

impl Future for RelayBody {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.get_mut().poll_send(context)) {
            debug!(%error, "The stream of a small service ended before its response was written");
        }
        Poll::Ready(())
    }
}
