//! A sorted map that mostly has one or two entries.
//!
//! A persistent map reserves room for a whole node, kilobytes with keys like these; a hundred thousand hosts of one
//! route each would take hundreds of megabytes. This map is a shared list until it is long.

use std::sync::Arc;

use imbl::OrdMap;

/// The length at which the list becomes a persistent map: a change of the list copies all of it.
const MANY: usize = 16;

/// The map. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) enum Map<K: Ord, V> {
    Few(Arc<Vec<(K, V)>>),
    Many(OrdMap<K, V>),
}

impl<K: Ord, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::Few(Arc::default())
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(entries) => entries.is_empty(),
            Self::Many(entries) => entries.is_empty(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(entries) => (Some(entries.iter().map(|(key, value)| (key, value))), None),
            Self::Many(entries) => (None, Some(entries.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The value of the first key.
    pub(super) fn first(&self) -> Option<&V> {
        match self {
            Self::Few(entries) => entries.first().map(|(_, value)| value),
            Self::Many(entries) => entries.get_min().map(|(_, value)| value),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Few(entries) => {
                let found = entries.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
                entries.get(found).map(|(_, value)| value)
            }
            Self::Many(entries) => entries.get(key),
        }
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Few(entries) => {
                let found = entries.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
                Arc::make_mut(entries).get_mut(found).map(|(_, value)| value)
            }
            Self::Many(entries) => entries.get_mut(key),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let entries = match self {
            Self::Few(entries) => Arc::make_mut(entries),
            Self::Many(entries) => return entries.insert(key, value),
        };
        match entries.binary_search_by(|(own, _)| own.cmp(&key)) {
            Ok(found) => Some(std::mem::replace(&mut entries[found].1, value)),
            Err(place) => {
                entries.reserve_exact(1);
                entries.insert(place, (key, value));
                if entries.len() > MANY {
                    *self = Self::Many(std::mem::take(entries).into_iter().collect());
                }
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Few(entries) => {
                let found = entries.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
                Some(Arc::make_mut(entries).remove(found).1)
            }
            Self::Many(entries) => entries.remove(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_list_and_the_map_behave_alike(changes in vec((0..40_u8, any::<Option<u8>>()), 0..200)) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            for (key, value) in changes {
                let before = map.clone();
                let seen: Vec<(u8, u8)> = before.iter().map(|(key, value)| (*key, *value)).collect();
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
                prop_assert!(map.iter().eq(model.iter()));
                if let (Some(value), Some(expected)) = (map.get_mut(&(key / 2)), model.get_mut(&(key / 2))) {
                    (*value, *expected) = (value.wrapping_add(1), expected.wrapping_add(1));
                }
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!((map.get(&key), map.first()), (model.get(&key), model.values().next()));
                prop_assert_eq!(map.is_empty(), model.is_empty());
                prop_assert!(before.iter().map(|(key, value)| (*key, *value)).eq(seen), "a clone stays as it was");
            }
        }
    }
}
