//! The order of trials: documents fell back together, and some of them are the cause.
//!
//! In: the documents that wait for a trial, and the outcome of each trial. Out: the documents of the next trial. A few
//! documents are tried one by one. Many are tried by halves: a half that proxies accept serves again at once, and a half
//! that they refuse is halved again. So one bad document among 8,192 costs some 50 trials, of which 9 wait for a
//! refusal. Pure.

use std::collections::BTreeSet;

use crate::document::key::DocumentKey;

/// Documents that are tried one by one. A trial that is accepted takes milliseconds and one that is refused takes
/// seconds, so halves of a short list would be slower.
const ONE_BY_ONE: usize = 32;

/// What a trial has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A proxy accepted all documents of the trial.
    Accepted,
    /// Proxies refused documents of the trial, and these fell back again.
    Refused,
    /// No proxy answered in time.
    Unanswered,
}

/// Groups of documents that wait for their trials.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// The last one is the next.
    waiting: Vec<Group>,
    current: Option<Group>,
}

#[derive(Debug)]
struct Group {
    keys: Vec<DocumentKey>,
    /// Proxies refused all of it together, so a document of the group is bad.
    is_refused: bool,
    half: Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    First,
    Second,
    None,
}

impl Group {
    fn refused(keys: Vec<DocumentKey>) -> Self {
        Self {
            keys,
            is_refused: true,
            half: Half::None,
        }
    }
}

impl Trials {
    /// The documents of the next trial, all of them from `untried`; empty: there is none. Ends the current trial.
    pub(super) fn next(&mut self, untried: &BTreeSet<&DocumentKey>) -> Vec<DocumentKey> {
        self.current = None;
        if !untried.is_empty() && !self.has_any(untried) {
            self.waiting = vec![Group::refused(untried.iter().copied().cloned().collect())];
        }
        while let Some(mut group) = self.waiting.pop() {
            group.keys.retain(|key| untried.contains(key));
            match group.keys.len() {
                0 => {}
                2..=ONE_BY_ONE if group.is_refused => {
                    let alone = group.keys.into_iter().rev().map(|key| Group::refused(vec![key]));
                    self.waiting.extend(alone);
                }
                2.. if group.is_refused => {
                    let second = group.keys.split_off(group.keys.len() / 2);
                    for (keys, half) in [(second, Half::Second), (group.keys, Half::First)] {
                        self.waiting.push(Group {
                            keys,
                            is_refused: false,
                            half,
                        });
                    }
                }
                _ => {
                    let keys = group.keys.clone();
                    self.current = Some(group);
                    return keys;
                }
            }
        }
        Vec::new()
    }

    fn has_any(&self, untried: &BTreeSet<&DocumentKey>) -> bool {
        let mut keys = self.waiting.iter().flat_map(|group| &group.keys);
        keys.any(|key| untried.contains(key))
    }

    /// The current trial has ended.
    pub(super) fn on_end(&mut self, outcome: Outcome) {
        let Some(group) = self.current.take() else { return };
        match outcome {
            // The bad document of the two halves is in the other one.
            Outcome::Accepted if group.half == Half::First => {
                let second = self.waiting.last_mut().filter(|next| next.half == Half::Second);
                second.into_iter().for_each(|second| second.is_refused = true);
            }
            Outcome::Refused if group.keys.len() > 1 => self.waiting.push(Group::refused(group.keys)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::Kind;

    /// The number of trials, and of those that were refused, until only the bad documents are left.
    fn tried(count: usize, bad: &[usize]) -> (usize, usize) {
        let key = |number: &usize| DocumentKey::new(Kind::Routes, format!("r{number:05}"));
        let bad: BTreeSet<DocumentKey> = bad.iter().map(key).collect();
        let mut untried: BTreeSet<DocumentKey> = (0..count).map(|number| key(&number)).collect();
        let mut sole = BTreeSet::new();
        let (mut trials, mut all, mut refused) = (Trials::default(), 0, 0);
        loop {
            let tried = trials.next(&untried.iter().collect());
            if tried.is_empty() {
                break;
            }
            all += 1;
            let is_refused = tried.iter().any(|key| bad.contains(key));
            refused += usize::from(is_refused);
            match (is_refused, tried.as_slice()) {
                // Refused alone, a document waits for no trial any more.
                (true, [alone]) => {
                    untried.remove(alone);
                    sole.insert(alone.clone());
                }
                (true, _) => {}
                (false, tried) => tried.iter().for_each(|key| {
                    untried.remove(key);
                }),
            }
            trials.on_end(if is_refused {
                Outcome::Refused
            } else {
                Outcome::Accepted
            });
        }
        assert!(untried.is_empty());
        assert_eq!(sole, bad, "all others serve");
        (all, refused)
    }

    #[test]
    fn a_few_documents_are_tried_one_by_one() {
        assert_eq!(tried(1, &[0]), (1, 1));
        assert_eq!(tried(3, &[1]), (3, 1));
        assert_eq!(tried(ONE_BY_ONE, &[0, 9]), (ONE_BY_ONE, 2));
    }

    #[test]
    fn of_many_documents_the_bad_one_is_found_by_halves() {
        for bad in [0, 1, 500, 4095, 4096, 8190, 8191] {
            let (all, refused) = tried(8192, &[bad]);
            assert!(all <= 50 && refused <= 9, "{bad}: {all} trials, {refused} refused");
        }
        let (all, refused) = tried(8192, &[77, 4100, 8000]);
        assert!(all <= 150 && refused <= 27, "{all} trials, {refused} refused");
    }

    #[test]
    fn documents_that_nobody_answers_for_are_tried_once() {
        let keys: Vec<DocumentKey> = (0..100)
            .map(|number| DocumentKey::new(Kind::Routes, format!("{number:03}")))
            .collect();
        let mut trials = Trials::default();
        assert_eq!(trials.next(&keys.iter().collect()), keys[..50]);
        trials.on_end(Outcome::Unanswered);
        assert_eq!(trials.next(&keys[50..].iter().collect()), keys[50..]);
        trials.on_end(Outcome::Unanswered);
        assert_eq!(trials.next(&BTreeSet::new()), []);
    }

    #[test]
    fn documents_that_fall_back_during_the_trials_are_tried_after_them() {
        let keys: Vec<DocumentKey> = ["a", "b", "c"].map(|name| DocumentKey::new(Kind::Routes, name)).into();
        let mut trials = Trials::default();
        assert_eq!(trials.next(&keys[..2].iter().collect()), keys[..1]);
        trials.on_end(Outcome::Accepted);
        assert_eq!(trials.next(&keys[1..].iter().collect()), keys[1..2]);
        trials.on_end(Outcome::Refused);
        assert_eq!(trials.next(&keys[2..].iter().collect()), keys[2..]);
    }
}
