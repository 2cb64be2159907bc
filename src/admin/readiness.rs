//! The answer of `/readyz`: readiness for proxies, and the pending steps.
//!
//! In: the [`Health`] of the reconcile loop, the state that cannot be saved, the draining token, and named guards of
//! stages that must succeed once. Out: a report. The process is ready if a snapshot serves, no guard is left, and the
//! process is not stopping. If the store is lost later or state cannot be saved, only `pending` and `stale_since`
//! change.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::persist::unsaved::Unsaved;
use crate::reconcile::run::Health;

/// The pending steps of the process. Cheap to clone; clones share the state.
#[derive(Debug, Clone)]
pub struct Readiness {
    health: watch::Receiver<Health>,
    unsaved: Unsaved,
    draining: CancellationToken,
    guards: Arc<Mutex<Guards>>,
}

#[derive(Debug, Default)]
struct Guards {
    next: u64,
    names: BTreeMap<u64, String>,
}

/// While a guard lives, the process is not ready.
#[derive(Debug)]
#[must_use = "dropping the guard says that its step has succeeded"]
pub struct Guard {
    guards: Arc<Mutex<Guards>>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.lock().names.remove(&self.number);
    }
}

impl Readiness {
    /// Cancelled when the server begins to stop.
    pub(super) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Without guards: the readiness of the loop, until `draining` is cancelled.
    #[must_use]
    pub fn new(health: watch::Receiver<Health>, unsaved: Unsaved, draining: CancellationToken) -> Self {
        Self {
            health,
            unsaved,
            draining,
            guards: Arc::default(),
        }
    }

    /// Add a pending step, for example `xds: certificates`, until the guard is dropped.
    pub fn guard(&self, name: impl Into<String>) -> Guard {
        let mut guards = self.guards.lock();
        let number = guards.next;
        guards.next += 1;
        guards.names.insert(number, name.into());
        Guard {
            guards: Arc::clone(&self.guards),
            number,
        }
    }

    /// The answer of `/readyz` now; in `pending` the guards come first, then the steps of the loop, then the saves that
    /// fail.
    #[must_use]
    pub fn report(&self) -> Health {
        let health = self.health.borrow().clone();
        let mut pending: Vec<String> = self.guards.lock().names.values().cloned().collect();
        let mut ready = health.ready && pending.is_empty();
        if self.draining.is_cancelled() {
            ready = false;
            pending.insert(0, "stopping".to_owned());
        }
        pending.extend(health.pending);
        pending.extend(self.unsaved.sentences());
        Health {
            ready,
            pending,
            stale_since: health.stale_since,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn report(ready: bool, pending: &[&str]) -> Health {
        Health {
            ready,
            pending: pending.iter().map(|name| (*name).to_owned()).collect(),
            stale_since: None,
        }
    }

    #[test]
    fn ready_when_a_snapshot_serves_and_the_last_guard_is_dropped() {
        let health = watch::Sender::new(report(false, &["etcd: first list"]));
        let readiness = Readiness::new(health.subscribe(), Unsaved::default(), CancellationToken::new());
        let certificates = readiness.guard("xds: certificates");
        assert_eq!(
            readiness.report(),
            report(false, &["xds: certificates", "etcd: first list"])
        );
        health.send_replace(report(true, &[]));
        assert_eq!(readiness.report(), report(false, &["xds: certificates"]));
        drop(certificates);
        assert_eq!(readiness.report(), report(true, &[]));
    }

    #[test]
    fn what_went_away_later_is_shown_and_does_not_stand_in_the_way() {
        let stale = Health {
            stale_since: Some(SystemTime::UNIX_EPOCH),
            ..report(true, &["etcd: first list of /services/"])
        };
        let health = watch::Sender::new(stale.clone());
        let readiness = Readiness::new(health.subscribe(), Unsaved::default(), CancellationToken::new());
        assert_eq!(readiness.report(), stale);
    }

    #[test]
    fn a_stopping_process_is_not_ready() {
        let health = watch::Sender::new(report(true, &[]));
        let draining = CancellationToken::new();
        let readiness = Readiness::new(health.subscribe(), Unsaved::default(), draining.clone());
        draining.cancel();
        assert_eq!(readiness.report(), report(false, &["stopping"]));
    }
}
