//! Wakes the task of a stream or a connection from outside.
//!
//! Both tasks are polled for every frame. Both also wait for rare events: the next publish, room for more bytes, the
//! end of the connection. One future for each of these events, polled with every frame, would cost more than the frame
//! itself. Instead the source of an event wakes the task through its [`TaskWaker`], and the task checks all of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// The waker of one task. Does nothing until the task has registered.
#[derive(Debug, Default)]
pub(in crate::xds) struct TaskWaker {
    task: AtomicWaker,
    /// The [`SideFuture`] of the task was not woken since its last poll.
    asleep: AtomicBool,
}

impl TaskWaker {
    /// Register the running task. The task must call this before it checks the events it is woken for.
    pub(in crate::xds) fn register(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    /// Wake the task.
    pub(in crate::xds) fn wake_task(&self) {
        self.task.wake();
    }
}

impl AsRef<Self> for TaskWaker {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        awaken(&*self);
    }
}

/// The [`SideFuture`] of this task was woken.
pub(in crate::xds) fn awaken(task_waker: &impl AsRef<TaskWaker>) {
    let task_waker = task_waker.as_ref();
    task_waker.asleep.store(false, Ordering::Release);
    task_waker.wake_task();
}

/// A future that waits beside a busy task. A poll is one atomic read unless the future itself was woken.
#[derive(Debug)]
pub(in crate::xds) struct SideFuture<F, B = TaskWaker> {
    future: F,
    task_waker: Arc<B>,
}

impl<F: Future + Unpin, B: AsRef<TaskWaker> + Wake + Send + Sync + 'static> SideFuture<F, B> {
    /// A task waker has at most one side future.
    pub(in crate::xds) fn new(future: F, task_waker: Arc<B>) -> Self {
        (*task_waker).as_ref().asleep.store(false, Ordering::Release);
        Self { future, task_waker }
    }

    /// Poll the future. Pending: the task is woken when the future is. Must not be called after Ready.
    pub(in crate::xds) fn poll(&mut self) -> Poll<F::Output> {
        let task_waker: &TaskWaker = (*self.task_waker).as_ref();
        if task_waker.asleep.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Stored before the poll: the future may be woken during the poll.
        task_waker.asleep.store(true, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.task_waker));
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
    async fn the_task_is_woken_when_the_side_future_is_ready() {
        let (sender, receiver) = oneshot::channel();
        let task_waker = Arc::new(TaskWaker::default());
        let mut side_future = SideFuture::new(receiver, Arc::clone(&task_waker));
        assert!(side_future.poll().is_pending());
        let waiting = tokio::spawn(async move {
            poll_fn(|context| {
                task_waker.register(context);
                side_future.poll()
            })
            .await
        });
        tokio::task::yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
    }

    #[test]
    fn a_side_future_is_polled_only_when_it_was_woken() {
        let (mut polls, mut woken) = (0, None);
        let task_waker = Arc::new(TaskWaker::default());
        let mut side_future = SideFuture::new(
            poll_fn(|context| {
                polls += 1;
                woken = Some(context.waker().clone());
                Poll::<()>::Pending
            }),
            Arc::clone(&task_waker),
        );
        task_waker.register(&Context::from_waker(noop_waker_ref()));
        for _ in 0..3 {
            task_waker.wake_task();
            assert!(side_future.poll().is_pending());
        }
        drop(side_future);
        assert_eq!(polls, 1);
        woken.unwrap().wake();
    }
}
