//! One revision, one plan: the changes of a revision wait until all roots have reached that revision.
//!
//! Each root has its own watch, so a transaction over a cluster, its registrations and a route arrives in pieces. What
//! enters: the revision that each watch has reached. What leaves: whether a plan may be made now, and up to which
//! revision. A root that fails or has not been listed is not waited for, and no root for longer than [`PATIENCE`].
//! Pure: moments are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::document::key::Root;

/// Longest wait for a root that answers nothing. A healthy store answers within a round trip or two.
const PATIENCE: Duration = Duration::from_millis(250);

/// How far the roots have come.
#[derive(Debug, Default)]
pub struct Cut {
    roots: BTreeMap<Root, Reach>,
    target: Option<Target>,
}

#[derive(Debug, Default)]
struct Reach {
    revision: i64,
    /// Listed, and not failing.
    is_live: bool,
    /// Asked how far it has come, and has not answered.
    is_asked: bool,
}

/// The newest revision that waited when a plan became due.
#[derive(Debug, Clone, Copy)]
struct Target {
    revision: i64,
    since: Instant,
}

/// Whether a plan may be made.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// With the inputs up to this revision.
    UpTo(i64),
    /// With every input: some root did not answer in time.
    All,
    /// Not yet: these roots are to be asked how far they have come.
    Wait(Vec<Root>),
}

impl Cut {
    /// A root has sent all changes up to a revision.
    pub fn on_reached(&mut self, root: &Root, revision: i64) {
        let reach = self.roots.entry(root.clone()).or_default();
        reach.revision = reach.revision.max(revision);
        reach.is_asked = false;
    }

    /// A root was listed. Its revision may be lower than before: the store's history may be another one.
    pub fn on_listed(&mut self, root: &Root, revision: i64) {
        let reach = self.roots.entry(root.clone()).or_default();
        *reach = Reach {
            revision,
            is_live: true,
            is_asked: false,
        };
    }

    /// A root cannot be read now.
    pub fn on_failed(&mut self, root: &Root) {
        let reach = self.roots.entry(root.clone()).or_default();
        (reach.is_live, reach.is_asked) = (false, false);
    }

    /// Whether a plan that is due may be made. `newest` is the newest revision of the waiting inputs; `None`: no input
    /// has one.
    pub fn ask(&mut self, newest: Option<i64>, now: Instant) -> Answer {
        let Some(newest) = newest else { return Answer::All };
        let target = *self.target.get_or_insert(Target {
            revision: newest,
            since: now,
        });
        let live = self.roots.iter_mut().filter(|(_, reach)| reach.is_live);
        let lagging: Vec<_> = live.filter(|(_, reach)| reach.revision < target.revision).collect();
        if lagging.is_empty() {
            self.target = None;
            return Answer::UpTo(target.revision);
        }
        if target.since + PATIENCE <= now {
            self.target = None;
            return Answer::All;
        }
        let unasked = lagging.into_iter().filter(|(_, reach)| !reach.is_asked);
        let roots = unasked.map(|(root, reach)| {
            reach.is_asked = true;
            root.clone()
        });
        Answer::Wait(roots.collect())
    }

    /// When the wait for roots that do not answer is over; `None` while nothing waits for them.
    pub fn deadline(&self) -> Option<Instant> {
        self.target.map(|target| target.since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn both_listed_at(revision: i64) -> Cut {
        let mut cut = Cut::default();
        cut.on_listed(&Root::Documents, revision);
        cut.on_listed(&Root::Registrations, revision);
        cut
    }

    #[test]
    fn a_change_waits_until_the_other_root_has_come_as_far() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_reached(&Root::Documents, 6);
        assert_eq!(cut.ask(Some(6), now), Answer::Wait(vec![Root::Registrations]));
        assert_eq!(cut.ask(Some(6), now), Answer::Wait(Vec::new()), "asked once");
        cut.on_reached(&Root::Registrations, 5);
        assert_eq!(
            cut.ask(Some(6), now),
            Answer::Wait(vec![Root::Registrations]),
            "not far enough"
        );
        cut.on_reached(&Root::Registrations, 6);
        assert_eq!(cut.ask(Some(6), now), Answer::UpTo(6));
    }

    #[test]
    fn what_arrives_during_the_wait_is_not_waited_for() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_reached(&Root::Documents, 6);
        assert_eq!(cut.ask(Some(6), now), Answer::Wait(vec![Root::Registrations]));
        cut.on_reached(&Root::Documents, 9);
        cut.on_reached(&Root::Registrations, 6);
        assert_eq!(cut.ask(Some(9), now), Answer::UpTo(6));
    }

    #[test]
    fn a_root_that_does_not_answer_is_waited_for_a_while() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_reached(&Root::Documents, 6);
        assert_eq!(cut.ask(Some(6), now), Answer::Wait(vec![Root::Registrations]));
        assert_eq!(cut.deadline(), Some(now + PATIENCE));
        assert_eq!(cut.ask(Some(6), now + PATIENCE), Answer::All);
        assert_eq!(cut.deadline(), None);
    }

    #[test]
    fn a_root_that_fails_is_not_waited_for() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_reached(&Root::Documents, 6);
        cut.on_failed(&Root::Registrations);
        assert_eq!(cut.ask(Some(6), now), Answer::UpTo(6));
    }

    #[test]
    fn another_history_begins_at_a_lower_revision() {
        let (mut cut, now) = (both_listed_at(100), now());
        cut.on_listed(&Root::Documents, 7);
        assert_eq!(cut.ask(Some(7), now), Answer::UpTo(7));
    }
}
