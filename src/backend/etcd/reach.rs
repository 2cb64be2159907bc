//! How far a watch has come: up to which revision it has sent all changes. Pure.
//!
//! In: the receiver's question ([`WatchControl::progress`](crate::backend::WatchControl::progress)), the messages of the
//! watch, counts of its keys. Out: the next [`Step`]. Two ways lead to the answer:
//!
//! - **By progress.** etcd from 3.4.31 and 3.5.13 on answers a request for progress after the events of the watch. An
//!   answer counts only if it is the second in a row, requested after the first, with no event between them.
//! - **By count.** Older members answer too early: a watch that is behind gets the newest revision, and the events
//!   follow. There a linearizable read counts the keys below the prefix and looks for one that was written after the
//!   last event. If there is none, and the number is the one that the watch has, nothing is missing up to the revision
//!   of the read. The read costs etcd a look at every key of the prefix.
//!
//! A count finds a lost event, too (members before 3.4.36 and 3.5.18 can lose a delete). If the watch stays silent for
//! [`LOST_AFTER`] although keys differ, or if [`DIFFERENCES`] counts differ with no equal one between them, the prefix is
//! listed again.

use std::time::Duration;

use tokio::time::Instant;

/// Time from a count that shows a missing event to the next count, if no message comes.
const COUNT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// After this time without a message, an event that a count has shown to be missing is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// So many counts in a row differ only if an event is lost, also in a watch that is never silent.
const DIFFERENCES: u32 = 50;

/// The keys below a prefix at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// The revision of the store.
    pub(super) revision: i64,
    pub(super) keys: i64,
    /// A key was written after this revision, and exists.
    pub(super) after: i64,
    pub(super) is_newer: bool,
}

/// The events that the watch has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// The revision of the last one, or that of the list before the watch.
    pub(super) revision: i64,
    /// The keys that exist after it.
    pub(super) keys: i64,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Request progress.
    AskProgress,
    /// Count the keys.
    Count,
    /// All changes up to this revision were sent.
    Reached(i64),
    /// The watch has lost an event.
    List,
}

/// The state of one watch.
#[derive(Debug)]
pub(super) struct Reach {
    by_progress: bool,
    is_asked: bool,
    /// By progress: the revision of the first answer.
    first: Option<i64>,
    /// By count: a count is under way.
    is_counting: bool,
    /// When a count first showed a missing event, without a message since.
    missing_since: Option<Instant>,
    /// By count: the counts that differed since the last equal one.
    differences: u32,
    count_at: Option<Instant>,
}

impl Reach {
    /// `by_progress`: the member answers requests for progress rightly.
    pub(super) fn new(by_progress: bool) -> Self {
        Self {
            by_progress,
            is_asked: false,
            first: None,
            is_counting: false,
            missing_since: None,
            differences: 0,
            count_at: None,
        }
    }

    /// The receiver asks.
    pub(super) fn on_asked(&mut self) -> Step {
        self.is_asked = true;
        self.first = None;
        match self.by_progress {
            true => Step::AskProgress,
            false => self.count(),
        }
    }

    /// A message came. `progress` is its revision if it has no events.
    pub(super) fn on_message(&mut self, progress: Option<i64>) -> Step {
        if !self.is_asked {
            return Step::Wait;
        }
        if !self.by_progress {
            if progress.is_some() {
                return Step::Wait;
            }
            self.missing_since = None;
            return self.count();
        }
        match (self.first, progress) {
            (Some(revision), Some(_)) => self.reached(revision),
            (None, Some(revision)) => {
                self.first = Some(revision);
                Step::AskProgress
            }
            (_, None) => {
                self.first = None;
                Step::Wait
            }
        }
    }

    /// The answer of a count.
    pub(super) fn on_counted(&mut self, counted: Counted, sent: Sent, now: Instant) -> Step {
        self.is_counting = false;
        if sent.revision >= counted.revision {
            // The events themselves say how far the watch has come.
            return self.reached(sent.revision);
        }
        if sent.revision != counted.after {
            return self.count();
        }
        if !counted.is_newer && counted.keys == sent.keys {
            self.differences = 0;
            return self.reached(counted.revision);
        }
        self.differences += 1;
        let since = *self.missing_since.get_or_insert(now);
        if since + LOST_AFTER <= now || self.differences >= DIFFERENCES {
            return Step::List;
        }
        self.count_at = Some(now + COUNT_AGAIN_AFTER);
        Step::Wait
    }

    /// When to call [`Reach::on_time`].
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.count_at
    }

    pub(super) fn on_time(&mut self) -> Step {
        self.count()
    }

    fn count(&mut self) -> Step {
        self.count_at = None;
        if std::mem::replace(&mut self.is_counting, true) {
            Step::Wait
        } else {
            Step::Count
        }
    }

    fn reached(&mut self, revision: i64) -> Step {
        (self.is_asked, self.first) = (false, None);
        (self.missing_since, self.count_at) = (None, None);
        Step::Reached(revision)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A member of an older version, with a watch that is behind: it sends an event later than the answer to a request
    /// for progress.
    #[derive(Default)]
    struct Member {
        revision: i64,
        keys: BTreeMap<&'static str, i64>,
        unsent: Vec<(i64, i64)>,
        sent: Option<Sent>,
    }

    impl Member {
        /// A key was written, and its deletion was never sent.
        fn after_a_lost_delete() -> Self {
            let mut member = Self::default();
            member.write("a", true);
            member.send();
            member.write("a", false);
            member.unsent.clear();
            member
        }

        fn write(&mut self, key: &'static str, is_put: bool) {
            self.revision += 1;
            let grows = match is_put {
                true => i64::from(self.keys.insert(key, self.revision).is_none()),
                false => -i64::from(self.keys.remove(key).is_some()),
            };
            self.unsent.push((self.revision, grows));
        }

        fn other_root_is_written(&mut self) {
            self.revision += 1;
        }

        fn sent(&self) -> Sent {
            self.sent.unwrap_or(Sent { revision: 0, keys: 0 })
        }

        /// The oldest event arrives.
        fn send(&mut self) {
            let (revision, grows) = self.unsent.remove(0);
            let keys = self.sent().keys + grows;
            self.sent = Some(Sent { revision, keys });
        }

        fn count(&self, after: i64) -> Counted {
            Counted {
                revision: self.revision,
                keys: self.keys.len().try_into().unwrap(),
                after,
                is_newer: self.keys.values().any(|revision| *revision > after),
            }
        }
    }

    #[test]
    fn an_older_member_is_believed_once_no_event_is_missing() {
        let changes: [&[(&str, bool)]; 4] = [
            &[("a", true)],
            &[("b", true)],
            &[("a", false)],
            &[("a", true), ("b", false)],
        ];
        for missing in changes {
            let mut member = Member::default();
            member.write("a", true);
            member.send();
            missing.iter().for_each(|(key, is_put)| member.write(key, *is_put));
            member.other_root_is_written();

            let mut reach = Reach::new(false);
            let now = Instant::now();
            assert_eq!(
                reach.on_asked(),
                Step::Count,
                "a request for progress would get revision {}",
                member.revision
            );
            assert_eq!(reach.on_asked(), Step::Wait, "one count at a time");
            for left in (0..missing.len()).rev() {
                let counted = member.count(member.sent().revision);
                let differs = counted.is_newer || counted.keys != member.sent().keys;
                if differs {
                    assert_eq!(reach.on_counted(counted, member.sent(), now), Step::Wait);
                    assert_eq!(reach.due_at(), Some(now + COUNT_AGAIN_AFTER));
                    member.send();
                    assert_eq!(reach.on_message(None), Step::Count);
                } else {
                    member.send();
                }
                assert_eq!(member.unsent.len(), left);
            }
            let counted = member.count(member.sent().revision);
            assert_eq!(
                reach.on_counted(counted, member.sent(), now),
                Step::Reached(member.revision)
            );
            assert_eq!((reach.due_at(), reach.on_message(None)), (None, Step::Wait));
        }
    }

    #[test]
    fn an_event_during_the_count_makes_another_count_necessary() {
        let mut member = Member::default();
        member.write("a", true);
        member.other_root_is_written();
        let mut reach = Reach::new(false);
        reach.on_asked();
        let counted = member.count(0);
        member.send();
        assert_eq!(reach.on_message(None), Step::Wait, "a count is under way");
        assert_eq!(reach.on_counted(counted, member.sent(), Instant::now()), Step::Count);
        let counted = member.count(1);
        member.write("b", true);
        member.send();
        assert_eq!(
            reach.on_counted(counted, member.sent(), Instant::now()),
            Step::Reached(3)
        );
    }

    #[test]
    fn a_lost_delete_leads_to_a_list() {
        let member = Member::after_a_lost_delete();
        let mut reach = Reach::new(false);
        reach.on_asked();
        let now = Instant::now();
        let counted = member.count(1);
        assert_eq!(reach.on_counted(counted, member.sent(), now), Step::Wait);
        assert_eq!(reach.on_time(), Step::Count);
        assert_eq!(reach.on_message(Some(9)), Step::Wait, "progress is no event");
        assert_eq!(reach.on_counted(counted, member.sent(), now + LOST_AFTER), Step::List);
    }

    #[test]
    fn a_lost_delete_is_found_between_other_events() {
        let mut member = Member::after_a_lost_delete();
        let mut reach = Reach::new(false);
        let now = Instant::now();
        let mut next = reach.on_asked();
        for _ in 1..DIFFERENCES {
            assert_eq!(next, Step::Count);
            member.other_root_is_written();
            assert_eq!(
                reach.on_counted(member.count(member.sent().revision), member.sent(), now),
                Step::Wait
            );
            member.write("b", true);
            member.send();
            next = reach.on_message(None);
        }
        member.other_root_is_written();
        assert_eq!(
            reach.on_counted(member.count(member.sent().revision), member.sent(), now),
            Step::List
        );
    }

    #[test]
    fn a_newer_member_is_believed_at_the_second_answer_in_a_row() {
        let mut reach = Reach::new(true);
        assert_eq!(reach.on_message(Some(3)), Step::Wait, "nobody asked");
        assert_eq!(reach.on_asked(), Step::AskProgress);
        assert_eq!(reach.on_message(Some(5)), Step::AskProgress);
        assert_eq!(reach.on_message(None), Step::Wait);
        assert_eq!(reach.on_message(Some(6)), Step::AskProgress);
        assert_eq!(reach.on_message(Some(7)), Step::Reached(6));
        assert_eq!(reach.on_message(Some(8)), Step::Wait);
    }
}
