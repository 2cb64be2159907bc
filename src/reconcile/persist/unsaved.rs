//! State that cannot be saved now: a full disk, a full etcd, no right to write below the state prefix.
//!
//! In: the outcome of each save. Out: one log line when saves begin to fail, one when they succeed again, an item of
//! `/readyz`, and the counter of failures. Serving goes on meanwhile; a later start finds less.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{info, warn};

/// Where state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `--state-dir`.
    Directory,
    /// Below `--state-prefix`.
    Prefix,
}

impl Place {
    /// All places.
    pub const ALL: [Self; 2] = [Self::Directory, Self::Prefix];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Prefix => "prefix",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Directory => "--state-dir",
            Self::Prefix => "--state-prefix",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Directory => "a server that restarts while the store is away serves older texts",
            Self::Prefix => "replicas that start later may serve other texts",
        }
    }
}

/// The saves that fail. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Unsaved(Arc<Mutex<[Saves; 2]>>);

#[derive(Debug, Default)]
struct Saves {
    /// Why the last save failed.
    failing: Option<String>,
    failures: u64,
}

impl Unsaved {
    /// A save failed. Logged if the saves before succeeded, or failed for another reason.
    pub(super) fn failed(&self, place: Place, reason: String) {
        let mut all = self.0.lock();
        let saves = &mut all[place as usize];
        saves.failures += 1;
        if saves.failing.as_ref() != Some(&reason) {
            warn!(
                place = place.flag(),
                reason,
                "State cannot be saved: {}; the save is retried",
                place.consequence()
            );
        }
        saves.failing = Some(reason);
    }

    /// A save succeeded.
    pub(super) fn saved(&self, place: Place) {
        if self.0.lock()[place as usize].failing.take().is_some() {
            info!(place = place.flag(), "State is saved again");
        }
    }

    /// A sentence for each place that cannot be saved to now.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let all = self.0.lock();
        Place::ALL
            .into_iter()
            .zip(all.iter())
            .filter_map(|(place, saves)| Some(format!("save to {} ({})", place.flag(), saves.failing.as_ref()?)))
            .collect()
    }

    /// Number of failed saves since the start.
    #[must_use]
    pub fn failures(&self, place: Place) -> u64 {
        self.0.lock()[place as usize].failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_saved_is_named_until_it_can() {
        let unsaved = Unsaved::default();
        assert_eq!(unsaved.sentences(), Vec::<String>::new());
        unsaved.failed(Place::Prefix, "permission denied".to_owned());
        unsaved.failed(Place::Directory, "no space".to_owned());
        unsaved.failed(Place::Directory, "no space".to_owned());
        assert_eq!(
            unsaved.sentences(),
            [
                "save to --state-dir (no space)",
                "save to --state-prefix (permission denied)"
            ]
        );
        unsaved.saved(Place::Directory);
        assert_eq!(unsaved.sentences(), ["save to --state-prefix (permission denied)"]);
        assert_eq!(Place::ALL.map(|place| unsaved.failures(place)), [2, 1]);
    }
}
