//! Watch messages → whole revisions. Pure.
//!
//! A message is not a revision: a catch-up message holds up to a thousand revisions, and a fragment may end in the
//! middle of a revision. The [`Joiner`] keeps fragments until the last one has come, then splits the events by
//! `mod_revision`. The revision of the header is not used: during a catch-up it is ahead of the events.

use std::collections::HashSet;

use crate::backend::Change;

/// One event of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyEvent {
    pub(super) mod_revision: i64,
    pub(super) change: Change,
}

/// All changes of one revision, in the order of the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) revision: i64,
    pub(super) changes: Vec<Change>,
}

impl Batch {
    /// The number of keys that exist more than before.
    pub(super) fn growth(&self) -> i64 {
        let growth = |change: &Change| match change {
            Change::Put(entry) => i64::from(entry.create_revision == entry.mod_revision),
            Change::Delete { .. } => -1,
        };
        self.changes.iter().map(growth).sum()
    }
}

/// The revisions of a whole message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Joined {
    /// In order of revision.
    pub(super) batches: Vec<Batch>,
    /// Number of events that are not newer than the list.
    pub(super) old: usize,
}

/// A revision came after a later one, so the rest of the watch is not trusted either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("etcd sent revision {found} after revision {after}")]
pub(super) struct OrderViolation {
    pub(super) found: i64,
    pub(super) after: i64,
}

/// Joins the messages of one watch.
#[derive(Debug)]
pub(super) struct Joiner {
    /// Revision of the list before the watch.
    listed: i64,
    /// The last revision that was returned.
    cursor: i64,
    pieces: Vec<KeyEvent>,
}

impl Joiner {
    /// For a watch that starts after `listed`.
    pub(super) fn new(listed: i64) -> Self {
        Self {
            listed,
            cursor: listed,
            pieces: Vec::new(),
        }
    }

    /// Take the events of a message. If `fragment` is set, more fragments of the message follow.
    pub(super) fn push(&mut self, events: Vec<KeyEvent>, fragment: bool) -> Result<Joined, OrderViolation> {
        self.pieces.extend(events);
        if fragment {
            return Ok(Joined::default());
        }

        let mut joined = Joined::default();
        for event in std::mem::take(&mut self.pieces) {
            if event.mod_revision <= self.listed {
                joined.old += 1;
                continue;
            }

            match joined.batches.last_mut() {
                Some(batch) if batch.revision == event.mod_revision => batch.changes.push(event.change),
                _ if event.mod_revision <= self.cursor => {
                    return Err(OrderViolation {
                        found: event.mod_revision,
                        after: self.cursor,
                    });
                }
                _ => {
                    self.cursor = event.mod_revision;
                    joined.batches.push(Batch {
                        revision: event.mod_revision,
                        changes: vec![event.change],
                    });
                }
            }
        }

        joined.batches.iter_mut().for_each(keep_last_of_each_key);
        Ok(joined)
    }
}

fn keep_last_of_each_key(batch: &mut Batch) {
    let mut seen = HashSet::with_capacity(batch.changes.len());
    let mut keep: Vec<bool> = batch
        .changes
        .iter()
        .rev()
        .map(|change| seen.insert(change.key().clone()))
        .collect();
    if seen.len() < batch.changes.len() {
        batch.changes.retain(|_| keep.pop().unwrap_or(true));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backend::Entry;

    fn put(key: &'static str, value: &'static str, mod_revision: i64) -> KeyEvent {
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        let entry = Entry {
            key,
            value,
            create_revision: 1,
            mod_revision,
            leased: false,
        };
        KeyEvent {
            mod_revision,
            change: Change::Put(entry),
        }
    }

    fn delete(key: &'static str, mod_revision: i64) -> KeyEvent {
        KeyEvent {
            mod_revision,
            change: Change::Delete { key: Bytes::from(key) },
        }
    }

    fn batch(events: &[KeyEvent]) -> Batch {
        Batch {
            revision: events[0].mod_revision,
            changes: events.iter().map(|event| event.change.clone()).collect(),
        }
    }

    #[test]
    fn a_catch_up_message_is_split_by_revision() {
        let mut joiner = Joiner::new(4);
        let events = vec![put("a", "1", 5), put("b", "1", 5), delete("a", 7)];
        let joined = joiner.push(events.clone(), false).unwrap();
        assert_eq!(
            joined,
            Joined {
                batches: vec![batch(&events[..2]), batch(&events[2..])],
                old: 0
            }
        );
        assert_eq!(joiner.cursor, 7);
    }

    #[test]
    fn a_revision_cut_by_fragments_is_given_once_and_whole() {
        let mut joiner = Joiner::new(4);
        let events = [put("a", "1", 5), put("b", "1", 6), put("c", "1", 6)];
        assert_eq!(joiner.push(events[..2].to_vec(), true), Ok(Joined::default()));
        let joined = joiner.push(events[2..].to_vec(), false).unwrap();
        assert_eq!(
            joined,
            Joined {
                batches: vec![batch(&events[..1]), batch(&events[1..])],
                old: 0
            }
        );
    }

    #[test]
    fn what_the_list_told_is_dropped() {
        let mut joiner = Joiner::new(4);
        let joined = joiner
            .push(vec![put("a", "1", 3), put("a", "2", 4), put("a", "3", 5)], false)
            .unwrap();
        assert_eq!(
            joined,
            Joined {
                batches: vec![batch(&[put("a", "3", 5)])],
                old: 2
            }
        );
    }

    #[test]
    fn a_revision_that_goes_back_or_comes_twice_is_a_violation() {
        let mut joiner = Joiner::new(4);
        joiner.push(vec![put("a", "1", 6)], false).unwrap();
        assert_eq!(
            joiner.push(vec![put("b", "1", 5)], false),
            Err(OrderViolation { found: 5, after: 6 })
        );
        assert_eq!(
            joiner.push(vec![put("b", "1", 6)], false),
            Err(OrderViolation { found: 6, after: 6 })
        );
    }

    #[test]
    fn of_a_key_changed_twice_the_last_wins() {
        let mut joiner = Joiner::new(4);
        let events = vec![put("a", "1", 5), put("b", "1", 5), delete("a", 5)];
        let joined = joiner.push(events.clone(), false).unwrap();
        assert_eq!(joined.batches, [batch(&events[1..])]);
    }
}
