//! How others wake the task of a stream, or of a connection.
//!
//! Both are polled for every frame, and both have something else to wait for that comes rarely: the next publish, room for
//! more, their end. Waited for with a future each, polled along with every frame, that would cost more than the frame's own
//! work. So whoever has news rings the one bell of the task, which then looks at everything that there is to look at.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// See the module. Silent until its task has heard of it.
#[derive(Debug, Default)]
pub(in crate::xds) struct Bell {
    task: AtomicWaker,
    /// The future beside the task was not woken since it was polled.
    asleep: AtomicBool,
}

impl Bell {
    /// Wake this task from now on. Before it looks at what the bell is rung for.
    pub(in crate::xds) fn hear(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    /// Wake the task.
    pub(in crate::xds) fn ring(&self) {
        self.task.wake();
    }
}

impl AsRef<Self> for Bell {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        awaken(&*self);
    }
}

/// The future beside the task of this bell was woken.
pub(in crate::xds) fn awaken(bell: &impl AsRef<Bell>) {
    let bell = bell.as_ref();
    bell.asleep.store(false, Ordering::Release);
    bell.ring();
}

/// A future that waits beside a busy task: it is polled when it was woken itself, and otherwise asked with one atomic read.
#[derive(Debug)]
pub(in crate::xds) struct Aside<F, B = Bell> {
    future: F,
    bell: Arc<B>,
}

impl<F: Future + Unpin, B: AsRef<Bell> + Wake + Send + Sync + 'static> Aside<F, B> {
    /// The only one beside the task that hears this bell.
    pub(in crate::xds) fn new(future: F, bell: Arc<B>) -> Self {
        (*bell).as_ref().asleep.store(false, Ordering::Release);
        Self { future, bell }
    }

    /// What the future comes to. Pending: the bell is rung when the future is woken. Not to be called after it was ready.
    pub(in crate::xds) fn poll(&mut self) -> Poll<F::Output> {
        let bell: &Bell = (*self.bell).as_ref();
        if bell.asleep.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before the future is polled: it may be woken meanwhile.
        bell.asleep.store(true, Ordering::Release);
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
        let bell = Arc::new(Bell::default());
        let mut aside = Aside::new(receiver, Arc::clone(&bell));
        assert!(aside.poll().is_pending());
        let waiting = tokio::spawn(async move {
            poll_fn(|context| {
                bell.hear(context);
                aside.poll()
            })
            .await
        });
        tokio::task::yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
    }

    #[test]
    fn it_is_polled_only_when_it_was_woken() {
        let (mut polls, mut woken) = (0, None);
        let bell = Arc::new(Bell::default());
        let mut aside = Aside::new(
            poll_fn(|context| {
                polls += 1;
                woken = Some(context.waker().clone());
                Poll::<()>::Pending
            }),
            Arc::clone(&bell),
        );
        bell.hear(&Context::from_waker(noop_waker_ref()));
        for _ in 0..3 {
            bell.ring();
            assert!(aside.poll().is_pending());
        }
        drop(aside);
        assert_eq!(polls, 1);
        woken.unwrap().wake();
    }
}
