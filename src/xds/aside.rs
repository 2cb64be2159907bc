//! A future that waits beside a busy one.
//!
//! A stream and its connection are polled for every frame, and each has something else to wait for that comes once in hours:
//! its end. Polled along with every frame that would cost more than the frame's own work, since a cancellation token takes a
//! lock that all streams share. Here it is polled when it was woken itself, and otherwise asked with one atomic read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A future and whether it was woken.
#[derive(Debug)]
pub(super) struct Aside<F> {
    future: F,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> Aside<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, bell: Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() }) }
    }

    /// What the future comes to. Pending: the task is woken when the future is. Not to be called after it was ready.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<F::Output> {
        self.bell.task.register(context.waker());
        if !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before the future is polled: it may be woken meanwhile.
        self.bell.rung.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.bell));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use futures::task::noop_waker_ref;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn its_task_is_woken_when_it_is_ready() {
        let (sender, receiver) = oneshot::channel();
        let mut aside = Aside::new(receiver);
        assert!(aside.poll(&Context::from_waker(noop_waker_ref())).is_pending());
        let waiting = tokio::spawn(async move { poll_fn(|context| aside.poll(context)).await });
        tokio::task::yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
    }

    #[test]
    fn it_is_polled_only_when_it_was_woken() {
        let (mut polls, mut woken) = (0, None);
        let mut aside = Aside::new(poll_fn(|context| {
            polls += 1;
            woken = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        let context = Context::from_waker(noop_waker_ref());
        for _ in 0..3 {
            assert!(aside.poll(&context).is_pending());
        }
        drop(aside);
        assert_eq!(polls, 1);
        woken.unwrap().wake();
    }
}
