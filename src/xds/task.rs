//! The tasks that HTTP/2 has for streams: they have an owner, and can be ended though HTTP/2 does not ask them for more.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tracing::info;

tokio::task_local! {
    /// The task itself, for what it serves.
    static TASK: Arc<OnceLock<AbortHandle>>;
}

/// Spawns the streams of a connection.
#[derive(Clone)]
pub(super) struct Tasks(TaskTracker);

impl Tasks {
    pub(super) fn new(tracker: TaskTracker) -> Self {
        Self(tracker)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let task = Arc::new(OnceLock::new());
        let handle = self.0.spawn(TASK.scope(Arc::clone(&task), future));
        // Nothing else sets it.
        drop(task.set(handle.abort_handle()));
    }
}

/// The task of one stream, and whose it is.
#[derive(Debug)]
pub(super) struct StreamTask {
    task: Arc<OnceLock<AbortHandle>>,
    address: Option<SocketAddr>,
}

impl StreamTask {
    /// Of the stream that this task serves.
    pub(super) fn current(address: Option<SocketAddr>) -> Self {
        Self { task: TASK.with(Arc::clone), address }
    }

    /// Of nobody.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { task: Arc::default(), address: None }
    }

    /// The client has taken nothing for too long: the task is dropped, which resets its stream; the connection's other
    /// streams go on.
    pub(super) fn reset(&self, limit: Duration) {
        if let Some(task) = self.task.get() {
            info!(address = ?self.address, "Reset a stream whose client took nothing for {limit:?}");
            task.abort();
        }
    }
}
