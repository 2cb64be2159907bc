//! One revision, one plan: the changes of a revision wait until all sources have reached that revision.
//!
//! A source is the watch of a root, or of a folder of the shared memory. Each has its own watch, so a transaction over
//! a cluster, its registrations and a route arrives in pieces, and so do a document and the records about it. In: the
//! revision that each watch has reached. Out: whether a plan may be made now, and up to which revision. A source that
//! fails or has not been listed is not waited for, and no source for longer than [`PATIENCE`]. Pure: moments are
//! arguments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for a source that answers nothing. A healthy store answers within a round trip or two.
const PATIENCE: Duration = Duration::from_millis(250);

/// How far the sources have come.
#[derive(Debug)]
pub struct Cut<S> {
    sources: BTreeMap<S, Reach>,
    target: Option<Target>,
}

#[derive(Debug, Default)]
struct Reach {
    revision: i64,
    state: Watch,
    /// Asked how far it has come, and has not answered.
    is_asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Watch {
    /// Cannot be read, or was not listed yet.
    #[default]
    Away,
    /// Was away; another source was listed, so an attempt is made now.
    Retried,
    /// Listed, and not failing.
    Live,
}

/// The newest revision that waited when a plan became due.
#[derive(Debug, Clone, Copy)]
struct Target {
    revision: i64,
    since: Instant,
}

/// Whether a plan may be made.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<S> {
    /// With the inputs up to this revision.
    UpTo(i64),
    /// With every input: some source did not answer in time.
    All,
    /// Not yet: these sources are to be asked how far they have come.
    Wait(Vec<S>),
}

impl<S> Default for Cut<S> {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            target: None,
        }
    }
}

impl<S: Ord + Clone> Cut<S> {
    /// A source has sent all changes up to a revision.
    pub fn on_reached(&mut self, source: &S, revision: i64) {
        let reach = self.sources.entry(source.clone()).or_default();
        reach.revision = reach.revision.max(revision);
        reach.is_asked = false;
    }

    /// A source was listed. Its revision may be lower than before: the store's history may be another one. Returns the
    /// sources that are away: the store answers again, so they are to try at once.
    pub fn on_listed(&mut self, source: &S, revision: i64) -> Vec<S> {
        let reach = self.sources.entry(source.clone()).or_default();
        *reach = Reach {
            revision,
            state: Watch::Live,
            is_asked: false,
        };
        // A list has all changes before its revision at once, so a plan up to an earlier revision would be without them.
        if let Some(target) = &mut self.target {
            target.revision = target.revision.max(revision);
        }
        let away = self.sources.iter_mut().filter(|(_, reach)| reach.state == Watch::Away);
        let retried = away.map(|(source, reach)| {
            reach.state = Watch::Retried;
            source.clone()
        });
        retried.collect()
    }

    /// A source is followed no longer.
    pub fn forget(&mut self, source: &S) {
        self.sources.remove(source);
    }

    /// A source cannot be read now.
    pub fn on_failed(&mut self, source: &S) {
        let reach = self.sources.entry(source.clone()).or_default();
        (reach.state, reach.is_asked) = (Watch::Away, false);
    }

    /// Whether a plan that is due may be made. `newest` is the newest revision of the waiting inputs; `None`: no input
    /// has one.
    pub fn ask(&mut self, newest: Option<i64>, now: Instant) -> Answer<S> {
        let Some(newest) = newest else { return Answer::All };
        let target = *self.target.get_or_insert(Target {
            revision: newest,
            since: now,
        });
        let is_behind = |reach: &Reach| match reach.state {
            Watch::Away => false,
            Watch::Retried => true,
            Watch::Live => reach.revision < target.revision,
        };
        let lagging: Vec<_> = self.sources.iter_mut().filter(|(_, reach)| is_behind(reach)).collect();
        if lagging.is_empty() {
            self.target = None;
            return Answer::UpTo(target.revision);
        }
        if target.since + PATIENCE <= now {
            for (_, reach) in lagging.into_iter().filter(|(_, reach)| reach.state == Watch::Retried) {
                reach.state = Watch::Away;
            }
            self.target = None;
            return Answer::All;
        }
        let unasked = lagging
            .into_iter()
            .filter(|(_, reach)| reach.state == Watch::Live && !reach.is_asked);
        let sources = unasked.map(|(source, reach)| {
            reach.is_asked = true;
            source.clone()
        });
        Answer::Wait(sources.collect())
    }

    /// Sources whose changes may be missing: they cannot be read, or have not been listed since.
    pub fn unread(&self) -> impl Iterator<Item = &S> {
        let unread = self.sources.iter().filter(|(_, reach)| reach.state != Watch::Live);
        unread.map(|(source, _)| source)
    }

    /// When the wait for sources that do not answer is over; `None` while nothing waits for them.
    pub fn deadline(&self) -> Option<Instant> {
        self.target.map(|target| target.since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::Root;
    use crate::reconcile::run;

    fn now() -> Instant {
        run::now().instant
    }

    fn both_listed_at(revision: i64) -> Cut<Root> {
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
        assert!(cut.unread().eq([&Root::Registrations]), "it has not come as far");
        cut.on_listed(&Root::Registrations, 6);
        assert_eq!(cut.unread().count(), 0);
    }

    #[test]
    fn another_history_begins_at_a_lower_revision() {
        let (mut cut, now) = (both_listed_at(100), now());
        cut.on_listed(&Root::Documents, 7);
        assert_eq!(cut.ask(Some(7), now), Answer::UpTo(7));
    }

    #[test]
    fn a_source_that_is_away_tries_again_when_another_one_is_listed() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_failed(&Root::Documents);
        cut.on_failed(&Root::Registrations);
        assert_eq!(cut.on_listed(&Root::Documents, 9), [Root::Registrations]);
        assert_eq!(
            cut.ask(Some(9), now),
            Answer::Wait(Vec::new()),
            "its attempt is awaited"
        );
        cut.on_listed(&Root::Registrations, 9);
        assert_eq!(cut.ask(Some(9), now), Answer::UpTo(9));
    }

    #[test]
    fn a_list_that_comes_during_the_wait_is_part_of_the_plan() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_failed(&Root::Documents);
        cut.on_failed(&Root::Registrations);
        cut.on_listed(&Root::Registrations, 8);
        assert_eq!(cut.ask(Some(8), now), Answer::Wait(Vec::new()));
        cut.on_listed(&Root::Documents, 9);
        assert_eq!(cut.ask(Some(9), now), Answer::Wait(vec![Root::Registrations]));
        cut.on_reached(&Root::Registrations, 9);
        assert_eq!(cut.ask(Some(9), now), Answer::UpTo(9));
    }

    #[test]
    fn an_attempt_that_fails_is_awaited_no_longer() {
        let (mut cut, now) = (both_listed_at(5), now());
        cut.on_failed(&Root::Registrations);
        cut.on_listed(&Root::Documents, 9);
        assert_eq!(cut.ask(Some(9), now), Answer::Wait(Vec::new()));
        cut.on_failed(&Root::Registrations);
        assert_eq!(cut.ask(Some(9), now), Answer::UpTo(9));
    }
}
