//! The bodies of the port: an xDS stream, an answer of one of the small services, or nothing.
//!
//! What the small services send is watched as xDS streams are: a client that takes nothing of it is reset, and when the server
//! ends the connection, what would go on for ever (load reports, a health watch) ends with OK.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::Code;
use super::bell::Aside;
use super::body::{Ending, Stream, status};
use super::message::Message;
use super::progress::{Cell, Progress};

/// What the bodies of this server may fail with.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The bodies of this server.
pub(super) enum AnyBody<B> {
    /// An xDS stream.
    Stream(Box<Stream<B>>),
    /// One of the small services.
    Other(Box<Other>),
    /// Nothing: the status is in the head, or was sent.
    Empty,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnyBody<B> {
    type Data = Message;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Message>, BoxError>>> {
        let this = self.get_mut();
        match this {
            Self::Stream(stream) => stream.poll_frame(context).map(|frame| frame.map(Ok)),
            Self::Other(other) => match other.poll_frame(context) {
                Polled::Frame(frame) => Poll::Ready(frame),
                Polled::Pending => Poll::Pending,
                Polled::Ended => {
                    *this = Self::Empty;
                    Poll::Ready(Some(Ok(Frame::trailers(status(Code::Ok, "")))))
                }
            },
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Other(other) => other.body.is_end_stream(),
            Self::Empty => true,
        }
    }
}

/// The answer of a small service.
pub(super) struct Other {
    body: tonic::body::Body,
    progress: Progress,
    ending: Aside<Ending, Cell>,
}

enum Polled {
    Frame(Option<Result<Frame<Message>, BoxError>>),
    Pending,
    /// The server ends it.
    Ended,
}

impl Other {
    pub(super) fn new(body: tonic::body::Body, progress: Progress, ending: Ending) -> Self {
        let ending = Aside::new(ending, Arc::clone(progress.cell()));
        Self { body, progress, ending }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let counted = |bytes| Message::plain(bytes).counted(&self.progress);
                Polled::Frame(frame.map(|frame| Ok(frame.map_err(BoxError::from)?.map_data(counted))))
            }
            Poll::Pending if self.ends(context) => Polled::Ended,
            Poll::Pending => Polled::Pending,
        }
    }

    fn ends(&mut self, context: &Context<'_>) -> bool {
        self.progress.hear(context);
        self.ending.poll().is_ready()
    }
}
