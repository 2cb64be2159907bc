//! The transport that h2 reads from and writes to.
//!
//! h2 costs more than necessary in two ways, and no setting changes that:
//!
//! - Its read buffer grows to the largest frame and keeps that size. Large DATA frames are therefore cut first
//!   (`reframe`).
//! - It sends each frame by itself, 16 KiB at most. The writes of one poll are therefore gathered here, and sent when
//!   the poll is over ([`Socket::poll_send`]), mostly by one system call.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::xds::http2::reframe::Reframe;

/// The most bytes of one read.
const READ_MAX: usize = 16 * 1024;
/// The most bytes that are gathered before they are sent; one more frame may be added. Kept for a client that reads
/// nothing.
const GATHERED_MAX: usize = 32 * 1024;

thread_local! {
    /// The read buffer of every connection: empty between two polls.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MAX].into());
    /// A write buffer for any connection.
    static SPARE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(2 * GATHERED_MAX));
}

/// A transport with two owners: h2 and the task that polls h2. All clones are one transport.
#[derive(Debug)]
pub(in crate::xds) struct Socket<T>(Arc<Mutex<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    io: T,
    /// Bytes that were read before, to be read first.
    first: &'static [u8],
    reframe: Reframe,
    /// Bytes that were read and had no room in the output.
    backlog: Vec<u8>,
    /// Written bytes, and the number of them already sent. Empty between two polls, unless the transport is full.
    written: Vec<u8>,
    sent: usize,
    /// Whether a write was refused because the transport is full.
    refused: bool,
}

impl<T> Clone for Socket<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    /// A transport from which `first` was read already.
    pub(in crate::xds) fn new(io: T, first: &'static [u8]) -> Self {
        let (reframe, backlog, written) = (Reframe::default(), Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(Inner {
            io,
            first,
            reframe,
            backlog,
            written,
            sent: 0,
            refused: false,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock()
    }

    /// Send the written bytes. Pending: the task is woken when the transport has room.
    pub(in crate::xds) fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(context))?;
        if std::mem::take(&mut inner.refused) {
            // h2 waits for room, and its own registration with the transport may be used up.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> Inner<T> {
    /// Pass on bytes that were read before.
    fn unload(&mut self, buffer: &mut ReadBuf<'_>) {
        let taken = self.reframe.feed(&self.backlog, buffer);
        self.backlog.drain(..taken);
        if self.backlog.is_empty() {
            self.backlog = Vec::new();
        }
    }

    /// Read once and pass the bytes on. Gives the number of bytes read.
    fn poll_frames(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|space| {
            let most = buffer.remaining().min(space.len());
            let mut read = ReadBuf::new(&mut space[..most]);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut read))?;
            let taken = self.reframe.feed(read.filled(), buffer);
            self.backlog.extend_from_slice(&read.filled()[taken..]);
            Poll::Ready(Ok(read.filled().len()))
        })
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.written.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.written[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        // TLS may have records of its own to write.
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        let mut room = std::mem::take(&mut self.written);
        room.clear();
        self.sent = 0;
        SPARE.replace(room);
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // Bytes that could not be sent before are sent first: gathering more would not help.
        if self.sent > 0 || self.written.len() >= GATHERED_MAX {
            self.refused = true;
            ready!(self.poll_send(context))?;
            self.refused = false;
        }
        if self.written.capacity() == 0 {
            self.written = SPARE.take();
        }
        let before = self.written.len();
        slices.iter().for_each(|slice| self.written.extend_from_slice(slice));
        Poll::Ready(Ok(self.written.len() - before))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if !inner.first.is_empty() {
            let (now, later) = inner.first.split_at(inner.first.len().min(buffer.remaining()));
            buffer.put_slice(now);
            inner.first = later;
            return Poll::Ready(Ok(()));
        }

        if inner.reframe.pauses() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = buffer.remaining();
        inner.unload(buffer);
        while buffer.remaining() == room && room > 0 {
            // An incomplete frame header is kept until the rest arrives.
            if ready!(inner.poll_frames(context, buffer))? == 0 {
                break;
            }
        }

        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_gather(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_gather(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 calls this after each frame: the frame is sent with the others after the poll.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(context))?;
        Pin::new(&mut inner.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_sent_at_once_and_in_order() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = Socket::new(server, b"");
        for piece in [&b"one "[..], b"two ", b"three"] {
            socket.write_all(piece).await.unwrap();
            socket.flush().await.unwrap();
        }
        let mut seen = [0; 64];
        let nothing = poll_fn(|context| {
            Poll::Ready(
                Pin::new(&mut client)
                    .poll_read(context, &mut ReadBuf::new(&mut seen))
                    .is_pending(),
            )
        });
        assert!(nothing.await, "nothing is sent before the poll is over");
        poll_fn(|context| socket.poll_send(context)).await.unwrap();
        let count = client.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..count], b"one two three");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_keeps_a_bounded_part() {
        let (mut client, server) = duplex(1000);
        let mut socket = Socket::new(server, b"");
        let frame = vec![7; 16 * 1024];
        let mut taken = 0;
        let stopped = poll_fn(|context| {
            loop {
                match Pin::new(&mut socket).poll_write(context, &frame) {
                    Poll::Ready(count) => taken += count.unwrap(),
                    Poll::Pending => return Poll::Ready(socket.inner().written.len()),
                }
            }
        });
        let kept = stopped.await;
        assert!(kept <= GATHERED_MAX + frame.len(), "{kept} bytes");
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        socket.shutdown().await.unwrap();
        assert_eq!(socket.inner().written.len(), 0);
        drop(socket);
        assert_eq!(read.await.unwrap(), vec![7; taken]);
    }

    #[tokio::test]
    async fn what_was_read_first_is_read_again() {
        let (mut client, server) = duplex(1 << 20);
        let frame = [0, 0, 3, 1, 4, 0, 0, 0, 1, b'a', b'b', b'c'];
        for byte in frame {
            client.write_all(&[byte]).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        Socket::new(server, b"first").read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [&b"first"[..], &frame].concat());
    }
}
