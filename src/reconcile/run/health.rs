//! State of each root: listed or not, failing since when, last answer. Moments are arguments; changes are logged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::backend::WatchControl;
use crate::document::key::{Layout, Root};
use crate::reconcile::plan::Moment;

/// If a shared store has not answered for so long, the snapshot is stale.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// If a root has failed for so long since start, the first publish of the others does not wait for it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// The same, for the registrations of a registry.
const GIVE_UP_REGISTRY_AFTER: Duration = Duration::from_secs(2);
/// If the store has not answered for so long since start, the saved state serves; if the store fails, at once. Saved
/// state may be older than the content of proxies, so it does not serve where the store answers.
const SAVED_AFTER: Duration = Duration::from_secs(1);

/// Whether things are as they should be; `/readyz` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Whether a snapshot serves.
    pub ready: bool,
    /// The conditions that are not met yet, a sentence each, with the reason if there is one.
    pub pending: Vec<String>,
    /// Since when the store has not answered; `None` while it does.
    pub stale_since: Option<SystemTime>,
}

/// All roots.
#[derive(Debug)]
pub(super) struct Roots {
    backend: &'static str,
    shared: bool,
    /// From when saved state serves, until the documents root was listed.
    saved_due: Option<Instant>,
    by_root: BTreeMap<Root, RootState>,
    stale_since: Option<SystemTime>,
    was_stale: bool,
}

#[derive(Debug, Default)]
struct RootState {
    prefix: String,
    control: WatchControl,
    listed: bool,
    alive_at: Option<Instant>,
    failing: Option<Failing>,
}

impl RootState {
    /// When the first publish waits no longer for the root, because it fails.
    fn given_up_at(&self, root: &Root) -> Option<Instant> {
        let after = match root {
            Root::Registry(_) => GIVE_UP_REGISTRY_AFTER,
            _ => GIVE_UP_AFTER,
        };
        Some(self.failing.as_ref()?.since + after)
    }
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    reason: String,
}

impl Roots {
    pub(super) fn new(layout: &Layout, backend: &'static str, shared: bool) -> Self {
        let by_root = layout
            .roots()
            .into_iter()
            .map(|root| {
                let prefix = layout.prefix_of(&root).to_owned();
                (
                    root,
                    RootState {
                        prefix,
                        ..RootState::default()
                    },
                )
            })
            .collect();
        Self {
            backend,
            shared,
            saved_due: None,
            by_root,
            stale_since: None,
            was_stale: false,
        }
    }

    /// Each root with the handle that asks it to list again.
    pub(super) fn watches(&self) -> Vec<(Root, WatchControl)> {
        self.by_root
            .iter()
            .map(|(root, state)| (root.clone(), state.control.clone()))
            .collect()
    }

    /// Follow the registrations of a registry, whose keys have this prefix.
    pub(super) fn follow(&mut self, root: Root, prefix: &str) {
        let state = RootState {
            prefix: prefix.to_owned(),
            ..RootState::default()
        };
        self.by_root.insert(root, state);
    }

    /// The registry is followed no longer.
    pub(super) fn unfollow(&mut self, root: &Root) {
        self.by_root.remove(root);
    }

    /// Whether saved state may serve for a root. The registrations of a registry serve beside the registries document
    /// alone, so where documents are listed, those of other registries wait.
    pub(super) fn takes_saved(&self, root: &Root, now: Instant) -> bool {
        let is_known = root.registry().is_none() || self.by_root.contains_key(root) || self.is_from_disk(now);
        is_known && !self.is_listed(root)
    }

    pub(super) fn relist(&self, root: &Root) {
        if let Some(state) = self.by_root.get(root) {
            state.control.relist();
        }
    }

    /// The handle of a root's watch.
    pub(super) fn control(&self, root: &Root) -> WatchControl {
        let state = self.by_root.get(root);
        state.map(|state| state.control.clone()).unwrap_or_default()
    }

    /// Saved state was loaded. It serves unless the documents root is listed in time.
    pub(super) fn restored(&mut self, now: Instant) {
        self.saved_due = Some(now + SAVED_AFTER);
    }

    pub(super) fn is_listed(&self, root: &Root) -> bool {
        self.by_root.get(root).is_some_and(|state| state.listed)
    }

    pub(super) fn listed(&mut self, root: &Root, now: Instant) {
        if let Some(state) = self.by_root.get_mut(root) {
            state.listed = true;
        }
        if *root == Root::Documents {
            self.saved_due = None;
        }
        self.alive(root, now);
    }

    /// The root answered. Returns whether the snapshot was stale because of its silence.
    pub(super) fn alive(&mut self, root: &Root, now: Instant) -> bool {
        if let Some(state) = self.by_root.get_mut(root) {
            state.alive_at = Some(now);
            if let Some(failing) = state.failing.take() {
                let after = now.saturating_duration_since(failing.since);
                info!(prefix = state.prefix, ?after, "Store answers again");
            }
        }
        *root == Root::Documents && self.was_stale
    }

    pub(super) fn failed(&mut self, root: &Root, reason: String, now: Instant) {
        let Some(state) = self.by_root.get_mut(root) else {
            return;
        };
        let news = state.failing.as_ref().is_none_or(|failing| failing.reason != reason);
        if news {
            warn!(
                prefix = state.prefix,
                reason, "Store cannot be read; the current snapshot keeps serving, and the read is retried"
            );
        }
        let since = state.failing.as_ref().map_or(now, |failing| failing.since);
        state.failing = Some(Failing { since, reason });
        if *root == Root::Documents {
            self.saved_due = self.saved_due.map(|due| due.min(now));
        }
    }

    /// Whether saved state serves: the documents root has not been listed in time.
    pub(super) fn is_from_disk(&self, now: Instant) -> bool {
        self.saved_due.is_some_and(|due| due <= now)
    }

    /// When saved state begins to serve; `None`: there is none, or it serves already.
    pub(super) fn saved_due(&self) -> Option<Instant> {
        self.saved_due.filter(|_| !self.was_stale)
    }

    fn documents(&self) -> Option<&RootState> {
        self.by_root.get(&Root::Documents)
    }

    /// Whether every root was listed. A root other than documents that failed for [`GIVE_UP_AFTER`] (a registry:
    /// [`GIVE_UP_REGISTRY_AFTER`]) counts as listed.
    pub(super) fn are_all_listed(&self, now: Instant) -> bool {
        self.by_root.iter().all(|(root, state)| {
            let is_given_up = || state.given_up_at(root).is_some_and(|at| at <= now);
            state.listed || (*root != Root::Documents && is_given_up())
        })
    }

    /// Whether the snapshot may be older than the store's content. Logs each change of the answer.
    pub(super) fn is_stale(&mut self, now: Moment) -> bool {
        let stale = self.is_from_disk(now.instant) || self.silent_since(now.instant).is_some();
        if stale != self.was_stale {
            self.stale_since = stale.then_some(now.wall);
            if stale {
                warn!(
                    "Snapshot may be stale: it is from --state-dir, or the store has not answered for 30 s. It keeps \
                     serving; removals and changed clusters and listeners are withheld from reconnecting proxies"
                );
            } else {
                info!("Snapshot is current again");
            }
        }
        self.was_stale = stale;
        stale
    }

    fn silent_since(&self, now: Instant) -> Option<Instant> {
        let alive_at = self.documents()?.alive_at?;
        (self.shared && alive_at + STALE_AFTER <= now).then_some(alive_at)
    }

    /// When the snapshot becomes stale, or, before the first publish, when the wait for a root ends.
    pub(super) fn next_deadline(&self, is_first_publish: bool) -> Option<Instant> {
        let stale = self
            .documents()
            .and_then(|state| state.alive_at)
            .filter(|_| self.shared && !self.was_stale)
            .map(|alive_at| alive_at + STALE_AFTER);
        let given_up = self
            .by_root
            .iter()
            .filter(|(_, state)| is_first_publish && !state.listed)
            .filter_map(|(root, state)| state.given_up_at(root))
            .max()
            .filter(|_| self.documents().is_some_and(|state| state.listed));
        [stale, given_up].into_iter().flatten().min()
    }

    pub(super) fn health(&self, ready: bool) -> Health {
        let pending = self
            .by_root
            .iter()
            // A registry is no part of the store: whatever keeps it away is told as long as it lasts.
            .filter(|(root, state)| !state.listed || (root.registry().is_some() && state.failing.is_some()))
            .map(|(root, state)| {
                let what = match root {
                    Root::Registry(_) => {
                        let registry = root.registry().unwrap_or_default();
                        let first = if state.listed { "list" } else { "first list" };
                        format!("registries/{registry}: {first} of {}", state.prefix)
                    }
                    Root::Documents => format!("{}: first list", self.backend),
                    Root::Registrations | Root::Routes(_) => {
                        format!("{}: first list of {}", self.backend, state.prefix)
                    }
                };
                match &state.failing {
                    Some(failing) => format!("{what} ({})", failing.reason),
                    None => what,
                }
            })
            .collect();
        Health {
            ready,
            pending,
            stale_since: self.stale_since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        crate::reconcile::run::now().instant
    }

    /// With saved state, at its start.
    fn restored(start: Instant) -> Roots {
        let mut roots = Roots::new(&Layout::default(), "etcd", true);
        roots.restored(start);
        roots
    }

    #[test]
    fn saved_state_serves_where_the_store_tells_nothing_for_a_second() {
        let start = now();
        let mut roots = restored(start);
        assert!(!roots.is_from_disk(start));
        assert_eq!(roots.saved_due(), Some(start + SAVED_AFTER));
        let moment = Moment {
            instant: start + SAVED_AFTER,
            wall: SystemTime::UNIX_EPOCH,
        };
        assert!(roots.is_stale(moment));
        assert_eq!(roots.health(true).stale_since, Some(moment.wall));
        assert_eq!(roots.saved_due(), None, "it serves: nothing is due");
        assert!(roots.is_from_disk(start + SAVED_AFTER));
    }

    #[test]
    fn saved_state_serves_from_the_first_failure_until_the_list() {
        let start = now();
        let mut roots = restored(start);
        roots.failed(&Root::Documents, "connection refused".to_owned(), start);
        assert!(roots.is_from_disk(start));
        roots.alive(&Root::Documents, start);
        assert!(roots.is_from_disk(start), "an answer is no list");
        roots.listed(&Root::Documents, start);
        assert!(!roots.is_from_disk(start + SAVED_AFTER));
    }

    #[test]
    fn saved_state_does_not_serve_where_the_store_answers() {
        let start = now();
        let mut roots = restored(start);
        roots.failed(&Root::Registrations, "no route to host".to_owned(), start);
        roots.listed(&Root::Documents, start);
        assert!(!roots.is_from_disk(start + SAVED_AFTER));
        assert_eq!(roots.saved_due(), None);
    }
}
