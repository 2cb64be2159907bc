//! Waits for the world: the answer to a write waits until the world has taken in the write.
//!
//! In: the requests that wait, from `admin`. Out: the loop plans at once what waits, without regard to the pace of
//! publishes, as long as somebody waits; and a request goes on as soon as a world fits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// The requests that wait for a world. Clones share the state. The default has no loop behind it: nothing is waited
/// for.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Option<Arc<Waits>>);

#[derive(Debug)]
struct Waits {
    /// How many requests wait.
    waiting: AtomicUsize,
    /// Another request waits.
    asked: Notify,
    /// Changes with each world; closed when the loop has ended.
    planned: watch::Receiver<()>,
}

/// The loop's side.
#[derive(Debug)]
pub(super) struct Planned {
    waits: Arc<Waits>,
    planned: watch::Sender<()>,
}

/// One request waits, as long as this value lives.
struct Waiting<'a>(&'a Waits);

impl<'a> Waiting<'a> {
    fn begin(waits: &'a Waits) -> Self {
        waits.waiting.fetch_add(1, Ordering::Relaxed);
        waits.asked.notify_one();
        Self(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrivals {
    /// Wait until a world fits, no longer than `within`. Returns whether one does. Cancel safe.
    pub async fn until(&self, fits: impl Fn() -> bool, within: Duration) -> bool {
        let Some(waits) = &self.0 else { return fits() };
        // A world that comes from now on counts as a change.
        let mut planned = waits.planned.clone();
        planned.mark_unchanged();
        if fits() {
            return true;
        }
        let _waiting = Waiting::begin(waits);
        let wait = async {
            while planned.changed().await.is_ok() {
                if fits() {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(within, wait).await.unwrap_or(false)
    }
}

impl Default for Planned {
    fn default() -> Self {
        let (sender, planned) = watch::channel(());
        let waits = Waits {
            waiting: AtomicUsize::new(0),
            asked: Notify::new(),
            planned,
        };
        Self {
            waits: Arc::new(waits),
            planned: sender,
        }
    }
}

impl Planned {
    pub(super) fn arrivals(&self) -> Arrivals {
        Arrivals(Some(Arc::clone(&self.waits)))
    }

    /// Whether a request waits for a world.
    pub(super) fn is_awaited(&self) -> bool {
        self.waits.waiting.load(Ordering::Relaxed) > 0
    }

    /// Resolves when a request has begun to wait. Cancel safe.
    pub(super) async fn asked(&self) {
        self.waits.asked.notified().await;
    }

    /// There is a new world.
    pub(super) fn on_world(&self) {
        self.planned.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_until_a_world_fits() {
        let (planned, is_there) = (Planned::default(), AtomicBool::new(false));
        let arrivals = planned.arrivals();
        let fits = || is_there.load(Ordering::Relaxed);
        assert!(!planned.is_awaited());
        let request = arrivals.until(fits, Duration::from_secs(5));
        let stage = async {
            planned.asked().await;
            assert!(planned.is_awaited());
            planned.on_world();
            tokio::task::yield_now().await;
            is_there.store(true, Ordering::Relaxed);
            planned.on_world();
        };
        assert!(tokio::join!(request, stage).0);
        assert!(!planned.is_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_no_longer_than_it_says_nor_for_a_loop_that_has_ended() {
        let planned = Planned::default();
        let arrivals = planned.arrivals();
        assert!(!arrivals.until(|| false, Duration::from_secs(5)).await);
        drop(planned);
        assert!(!arrivals.until(|| false, Duration::MAX).await);
        assert!(Arrivals::default().until(|| true, Duration::MAX).await);
    }
}
