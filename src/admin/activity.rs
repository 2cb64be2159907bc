//! The connections of the admin port and their last activity: a silent connection makes room for a new one, and a
//! connection that reads no answer is closed.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    started: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    activities: HashMap<u64, Arc<Activity>>,
}

/// The last activity of one connection.
#[derive(Debug)]
struct Activity {
    started: Instant,
    /// Milliseconds of the last byte, in or out.
    last: AtomicU64,
    /// Milliseconds since which the client reads nothing. 0: it reads, or has nothing to read.
    unread_since: AtomicU64,
    evicted: CancellationToken,
}

impl Activity {
    /// Never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn moved(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            started: Instant::now(),
            open: Mutex::default(),
        })
    }

    /// Add a connection. If there are too many, the one that has been inactive for the longest time is closed; `true`
    /// then.
    pub(super) fn add(self: &Arc<Self>) -> (Membership, bool) {
        let activity = Arc::new(Activity {
            started: self.started,
            last: AtomicU64::new(0),
            unread_since: AtomicU64::new(0),
            evicted: CancellationToken::new(),
        });

        activity.moved();
        let mut open = self.open.lock();
        let evicts = open.activities.len() >= self.max && open.evict();
        let number = open.next;
        open.next += 1;
        open.activities.insert(number, Arc::clone(&activity));
        drop(open);
        let membership = Membership {
            connections: Arc::clone(self),
            number,
            activity,
        };

        (membership, evicts)
    }
}

impl Open {
    fn evict(&mut self) -> bool {
        let oldest = |(number, activity): &(&u64, &Arc<Activity>)| (activity.last.load(Ordering::Relaxed), **number);
        let Some(number) = self.activities.iter().min_by_key(oldest).map(|(number, _)| *number) else {
            return false;
        };
        if let Some(activity) = self.activities.remove(&number) {
            activity.evicted.cancel();
        }
        true
    }
}

/// One connection among all of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Membership {
    connections: Arc<Connections>,
    number: u64,
    activity: Arc<Activity>,
}

impl Membership {
    /// Resolves when a new connection needs the place of this one.
    pub(super) async fn evicted(&self) {
        self.activity.evicted.cancelled().await;
    }

    /// Resolves when the client has read nothing of its answer for `limit`.
    pub(super) async fn unread(&self, limit: Duration) {
        loop {
            sleep(limit / 4).await;
            let since = self.activity.unread_since.load(Ordering::Relaxed);
            let waited = Duration::from_millis(self.activity.now().saturating_sub(since));
            if since != 0 && waited >= limit {
                return;
            }
        }
    }

    /// A transport whose bytes count as activity.
    pub(super) fn watch<T>(&self, io: T) -> Watched<T> {
        Watched {
            io,
            activity: Arc::clone(&self.activity),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.connections.open.lock().activities.remove(&self.number);
    }
}

/// A transport whose bytes count as activity.
#[derive(Debug)]
pub(super) struct Watched<T> {
    io: T,
    activity: Arc<Activity>,
}

impl<T> Watched<T> {
    fn wrote<R>(&self, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.activity.moved();
            self.activity.unread_since.store(0, Ordering::Relaxed);
        } else {
            let unread = &self.activity.unread_since;
            // The first write that waits counts.
            if unread.load(Ordering::Relaxed) == 0 {
                unread.store(self.activity.now(), Ordering::Relaxed);
            }
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.moved();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_is_inactive_for_the_longest_time_makes_room() {
        let connections = Connections::new(3);
        let add = async || {
            tokio::time::advance(Duration::from_millis(10)).await;
            connections.add()
        };
        let (first, second, third) = (add().await.0, add().await.0, add().await.0);
        let (mut client, server) = duplex(10);
        client.write_all(b"GET").await.unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        first.watch(server).read_exact(&mut [0; 3]).await.unwrap();
        let (fourth, evicts) = add().await;
        assert!(evicts);
        let evicted = [&first, &second, &third, &fourth].map(|one| one.evicted().now_or_never().is_some());
        assert_eq!(evicted, [false, true, false, false]);
        drop(third);
        assert!(!add().await.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_noticed() {
        let connections = Connections::new(3);
        let (member, _) = connections.add();
        let (mut client, server) = duplex(10);
        let mut server = member.watch(server);
        let limit = Duration::from_secs(10);
        assert!(server.write_all(&[0; 20]).now_or_never().is_none());
        tokio::time::advance(limit / 2).await;
        client.read_exact(&mut [0; 10]).await.unwrap();
        server.write_all(&[0; 10]).await.unwrap();
        let idle = tokio::time::timeout(10 * limit, member.unread(limit)).await;
        assert!(idle.is_err(), "there is nothing to read");
        assert!(server.write_all(&[0; 20]).now_or_never().is_none());
        member.unread(limit).await;
    }
}
