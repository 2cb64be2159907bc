//! The subscribed names of a stream, as a set.
//!
//! Names are sorted, unique and immutable. Two streams with equal lists share one ([`Interner`]): ten thousand proxies
//! with the same thousand endpoints cost ten thousand pointers.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A set of names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Names {
    sorted: Arc<[Arc<str>]>,
    sum: u128,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            sorted: Arc::clone(&NONE),
            sum: 0,
        }
    }
}

/// No names: most streams have none of most types.
static NONE: LazyLock<Arc<[Arc<str>]>> = LazyLock::new(|| Arc::new([]));

/// Unknown to clients: lists are found by their sums ([`Interner::known`]), and no client may forge a list with the sum
/// of another.
static SEED: LazyLock<u64> = LazyLock::new(rand::random);

/// The summand of a name in [`Names::sum`].
pub(in crate::xds) fn summand(name: &[u8]) -> u128 {
    xxh3_128_with_seed(name, *SEED)
}

impl Names {
    /// All names, sorted.
    #[must_use]
    pub fn sorted(&self) -> &Arc<[Arc<str>]> {
        &self.sorted
    }

    /// Wrapping sum of the names' hashes: equal sets have equal sums, whatever the order they were listed in.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Whether the set has the name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.sorted.binary_search_by(|own| (**own).cmp(name)).is_ok()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.sorted.iter()
    }

    fn of_sorted(sorted: Vec<Arc<str>>, interner: &Interner) -> Self {
        let sum = sorted
            .iter()
            .fold(0_u128, |sum, name| sum.wrapping_add(summand(name.as_bytes())));
        interner.intern(sum, sorted)
    }

    /// These names, sorted and unique.
    #[must_use]
    pub fn new(mut names: Vec<Arc<str>>, interner: &Interner) -> Self {
        names.sort_unstable();
        names.dedup();
        Self::of_sorted(names, interner)
    }

    /// This set with more names, in any order.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = Arc<str>>, interner: &Interner) -> Self {
        Self::new(self.sorted.iter().cloned().chain(more).collect(), interner)
    }

    /// This set without the names for which `leaves` holds.
    #[must_use]
    pub fn without(&self, leaves: impl Fn(&str) -> bool, interner: &Interner) -> Self {
        Self::of_sorted(
            self.sorted.iter().filter(|name| !leaves(name)).cloned().collect(),
            interner,
        )
    }
}

impl Eq for Names {}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sum.hash(state);
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sorted, &other.sorted) || self.sorted == other.sorted
    }
}

/// Keeps one copy of each list of names that some stream has.
#[derive(Debug, Default)]
pub struct Interner(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    lists: HashMap<u128, Weak<[Arc<str>]>>,
    /// The number of entries at which dead entries are removed.
    sweep_at: usize,
}

impl Interner {
    /// The list with this sum and number of names, if some stream has it.
    pub(in crate::xds) fn known(&self, sum: u128, len: usize) -> Option<Names> {
        let kept = self.0.lock();
        let sorted = kept
            .lists
            .get(&sum)
            .and_then(Weak::upgrade)
            .filter(|known| known.len() == len)?;
        Some(Names { sorted, sum })
    }

    fn intern(&self, sum: u128, sorted: Vec<Arc<str>>) -> Names {
        if sorted.is_empty() {
            return Names::default();
        }
        let mut kept = self.0.lock();
        if let Some(known) = kept.lists.get(&sum).and_then(Weak::upgrade)
            && *known == *sorted
        {
            return Names { sorted: known, sum };
        }
        if kept.lists.len() >= kept.sweep_at {
            kept.lists.retain(|_, list| list.strong_count() > 0);
            kept.sweep_at = (kept.lists.len() * 2).max(64);
        }
        let sorted: Arc<[Arc<str>]> = sorted.into();
        kept.lists.insert(sum, Arc::downgrade(&sorted));
        Names { sorted, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn equal_sets_are_one_list_whatever_their_order() {
        let interner = Interner::default();
        let one = Names::new(names(&["b", "a", "a"]), &interner);
        let other = Names::new(names(&["a"]), &interner).with(names(&["b"]), &interner);
        assert!(Arc::ptr_eq(one.sorted(), other.sorted()));
        assert_eq!((one.len(), one.sum()), (2, other.sum()));
        assert!(one.contains("b") && !one.contains("c"));
        assert_eq!(
            one.without(|name| name == "a", &interner),
            Names::new(names(&["b"]), &interner)
        );
    }

    #[test]
    fn lists_that_no_stream_has_are_forgotten() {
        let interner = Interner::default();
        for number in 0..1000 {
            drop(Names::new(vec![number.to_string().into()], &interner));
        }
        assert!(interner.0.lock().lists.len() <= 64);
    }
}
