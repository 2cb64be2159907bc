//! From the loop to the journal, without a wait.
//!
//! The queue is bounded. If the stage does not keep up (a store that does not answer), the queue is emptied, and the
//! stage lists the roots and reads the revisions that it has missed from the history of the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::Effect;
use crate::backend::{Change, Entry, ListReason};

/// Most items of the queue.
const ITEMS: usize = 8192;
/// Most bytes of keys and values in it.
const BYTES: usize = 64 << 20;

/// What the loop has planned of a root of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A whole list.
    Listed {
        /// The prefix of the root.
        root: Arc<str>,
        /// Its revision.
        revision: i64,
        /// Its reason.
        reason: ListReason,
        /// Its entries.
        entries: Vec<Entry>,
    },
    /// The changes of one revision.
    Changed {
        /// The prefix of the root.
        root: Arc<str>,
        /// The revision.
        revision: i64,
        /// The changes.
        changes: Vec<Change>,
    },
}

impl Seen {
    fn bytes(&self) -> usize {
        let of = |entry: &Entry| entry.key.len() + entry.value.len();
        match self {
            Self::Listed { entries, .. } => entries.iter().map(of).sum(),
            Self::Changed { changes, .. } => {
                let put = changes.iter().map(|change| match change {
                    Change::Put(entry) => of(entry),
                    Change::Delete { key } => key.len(),
                });
                put.sum()
            }
        }
    }
}

/// The changes and the effect of one plan of the loop, for the journal.
#[derive(Debug, Default)]
pub struct News {
    /// The lists and the changes of roots of documents, in order.
    pub seen: Vec<Seen>,
    /// The revisions among them that altered a text, and the resources that all of them altered.
    pub effect: Option<(Vec<i64>, Effect)>,
    /// Every root has reached this revision.
    pub whole: Option<i64>,
    /// A guard holds a list, so a list of another history does not count yet.
    pub is_held: bool,
}

/// An item of the queue.
#[derive(Debug)]
pub(super) enum Item {
    /// The revisions of the next items that have this effect.
    Effect(Vec<i64>, Effect),
    /// With the moment in which the loop saw it.
    Seen(Seen, SystemTime),
    /// Every root has reached this revision.
    Whole(i64),
    /// Items are lost: the roots are to be listed. With the reason for their lists.
    Lost(ListReason),
}

impl Item {
    fn is_fork(&self) -> bool {
        let reason = match self {
            Self::Seen(Seen::Listed { reason, .. }, _) | Self::Lost(reason) => Some(*reason),
            _ => None,
        };
        reason == Some(ListReason::Fork)
    }
}

#[derive(Debug, Default)]
pub(super) struct Feed {
    queue: Mutex<Queue>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// A guard holds a list. If that is of another history, neither the list nor anything behind it counts yet.
    is_held: bool,
}

impl Feed {
    pub(super) fn push(&self, news: News) {
        let News {
            seen,
            effect,
            whole,
            is_held,
        } = news;
        let at = SystemTime::now();
        let mut queue = self.queue.lock();
        queue.is_held = is_held;
        queue
            .items
            .extend(effect.map(|(revisions, effect)| Item::Effect(revisions, effect)));
        for seen in seen {
            queue.bytes += seen.bytes();
            queue.items.push_back(Item::Seen(seen, at));
        }
        match (queue.items.back_mut(), whole) {
            (Some(Item::Whole(earlier)), Some(whole)) => *earlier = whole.max(*earlier),
            (_, Some(whole)) => queue.items.push_back(Item::Whole(whole)),
            (_, None) => {}
        }
        if queue.items.len() > ITEMS || queue.bytes > BYTES {
            let is_fork = queue.items.iter().any(Item::is_fork);
            queue.items.clear();
            queue.bytes = 0;
            let reason = if is_fork {
                ListReason::Fork
            } else {
                ListReason::Reconnect
            };
            queue.items.push_back(Item::Lost(reason));
        }
        drop(queue);
        self.came.notify_one();
    }

    /// The next item.
    pub(super) fn next(&self) -> Option<Item> {
        let mut queue = self.queue.lock();
        if queue.is_held && queue.items.front().is_some_and(Item::is_fork) {
            return None;
        }
        let item = queue.items.pop_front()?;
        if let Item::Seen(seen, _) = &item {
            queue.bytes = queue.bytes.saturating_sub(seen.bytes());
        }
        Some(item)
    }

    /// Put an item back that could not be taken in.
    pub(super) fn put_back(&self, item: Item) {
        let mut queue = self.queue.lock();
        if let Item::Seen(seen, _) = &item {
            queue.bytes += seen.bytes();
        }
        queue.items.push_front(item);
    }

    /// Resolves when an item has come. Cancel safe.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }
}
