//! The order of changes between two sets whose members exchange exclusive claims.
//!
//! Envoy applies the listeners of a response one by one, removals first, and refuses a listener whose address another
//! one still has. If two scopes exchange their keys in one response, Envoy loses one scope. A member therefore goes
//! before the members that take over its claims. If members exchange in a circle, one of them is parked: removed first,
//! and added when the others have moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Change;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The changed and the new members in the order in which they are to be applied, the parked ones left out.
    pub order: Vec<Arc<str>>,
    /// Members that are removed first and added last, sorted.
    pub parked: Vec<Arc<str>>,
}

impl Transition {
    /// The transition of these changes; `None`: no member takes over anything, so that any order will do.
    ///
    /// Costs n log n for n claims: each member is walked over once, each blocker removed once.
    pub(super) fn of(changes: &[Change]) -> Option<Self> {
        let mut waits = Waits::of(changes);
        if waits.members.values().all(BTreeSet::is_empty) {
            return None;
        }

        let (mut order, mut parked) = (Vec::new(), Vec::new());
        loop {
            while let Some(free) = waits.free.pop_first() {
                waits.remove(free);
                order.push(Arc::clone(free));
            }
            let Some(member) = waits.next_in_circle() else { break };
            waits.remove(member);
            parked.push(Arc::clone(member));
        }

        parked.sort_unstable();
        Some(Self { order, parked })
    }
}

/// The members that are not applied yet.
struct Waits<'a> {
    /// Each with the members that have what it is to take.
    members: BTreeMap<&'a Arc<str>, BTreeSet<&'a Arc<str>>>,
    /// Of each blocker, the members that it blocks.
    blocked: BTreeMap<&'a Arc<str>, Vec<&'a Arc<str>>>,
    /// Members without a blocker.
    free: BTreeSet<&'a Arc<str>>,
    /// A walk from a member to one of its blockers, and so on. The walk goes on where it stopped: a member of the walk
    /// can leave only after the members behind it.
    walk: Vec<&'a Arc<str>>,
    on_walk: BTreeSet<&'a Arc<str>>,
}

impl<'a> Waits<'a> {
    /// Removals come first, so a removed member blocks none.
    fn of(changes: &'a [Change]) -> Self {
        let mut holders: BTreeMap<&str, &Arc<str>> = BTreeMap::new();
        for change in changes {
            if let (Some(old), Some(new)) = (&change.old, &change.new) {
                holders.extend(old.claims().map(|claim| (claim, &new.name)));
            }
        }

        let mut waits = Self {
            members: BTreeMap::new(),
            blocked: BTreeMap::new(),
            free: BTreeSet::new(),
            walk: Vec::new(),
            on_walk: BTreeSet::new(),
        };

        for member in changes.iter().filter_map(|change| change.new.as_ref()) {
            let holders = member.claims().filter_map(|claim| holders.get(claim).copied());
            let blockers: BTreeSet<_> = holders.filter(|holder| *holder != &member.name).collect();
            for blocker in &blockers {
                waits.blocked.entry(blocker).or_default().push(&member.name);
            }
            if blockers.is_empty() {
                waits.free.insert(&member.name);
            }
            waits.members.insert(&member.name, blockers);
        }

        waits
    }

    /// The member is applied or parked: it blocks no other.
    fn remove(&mut self, member: &'a Arc<str>) {
        self.members.remove(member);
        for blocked in self.blocked.remove(member).unwrap_or_default() {
            let Some(blockers) = self.members.get_mut(blocked) else {
                continue;
            };
            blockers.remove(member);
            if blockers.is_empty() {
                self.free.insert(blocked);
            }
        }
    }

    /// The member that closes a circle of the walk; `None`: no member is left. Each member has a blocker.
    fn next_in_circle(&mut self) -> Option<&'a Arc<str>> {
        while let Some(last) = self.walk.pop_if(|last| !self.members.contains_key(*last)) {
            self.on_walk.remove(last);
        }

        let mut next = match self.walk.last() {
            Some(last) => self.members.get(*last)?.first().copied()?,
            None => self.members.last_key_value().map(|(name, _)| *name)?,
        };
        while self.on_walk.insert(next) {
            self.walk.push(next);
            next = self.members.get(next)?.first().copied()?;
        }
        self.walk.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;

    fn member(name: &str, claims: &str) -> Option<Arc<Resource>> {
        let claims: Vec<Arc<str>> = claims.split_whitespace().map(Arc::from).collect();
        (!claims.is_empty()).then(|| {
            Arc::new(Resource {
                claims: Some(claims.into()),
                ..Resource::new(name, name.as_bytes().to_vec(), Vec::new())
            })
        })
    }

    /// `name: before -> after` as text: the order, and the parked members.
    fn transition(changes: &[&str]) -> Option<(String, String)> {
        let change = |text: &&str| {
            let (name, claims) = text.split_once(": ").unwrap();
            let (old, new) = claims.split_once("->").unwrap();
            Change {
                old: member(name, old),
                new: member(name, new),
            }
        };
        let changes: Vec<_> = changes.iter().map(change).collect();
        Transition::of(&changes).map(|way| (way.order.join(" "), way.parked.join(" ")))
    }

    fn way(order: &str, parked: &str) -> Option<(String, String)> {
        Some((order.to_owned(), parked.to_owned()))
    }

    #[test]
    fn who_gives_up_goes_before_who_takes() {
        assert_eq!(transition(&["a: 1 -> 2", "b: 2 -> 3", "c: 3 -> 4"]), way("c b a", ""));
        assert_eq!(transition(&["a: -> 2", "b: 2 -> 3"]), way("b a", ""));
        assert_eq!(
            transition(&["a: 1 5 -> 2 5", "b: 2 -> 3", "x: 9 -> 9"]),
            way("b a x", "")
        );
    }

    #[test]
    fn where_nothing_is_taken_over_any_order_will_do() {
        assert_eq!(transition(&["a: 1 -> 2", "b: 3 -> 4"]), None);
        assert_eq!(transition(&["a: 1 -> 1"]), None);
        assert_eq!(transition(&["a: 1 -> 2", "b: 2 -> "]), None, "removals come first");
    }

    #[test]
    fn of_each_circle_one_member_is_parked() {
        assert_eq!(transition(&["a: 1 -> 2", "b: 2 -> 1"]), way("b", "a"));
        assert_eq!(transition(&["a: 1 -> 2", "b: 2 -> 3", "c: 3 -> 1"]), way("a c", "b"));
        // Two circles, and one that waits for a member of the first.
        let changes = ["a: -> 8", "b: 8 1 -> 2", "c: 2 -> 1", "d: 3 -> 4", "e: 4 -> 3"];
        assert_eq!(transition(&changes), way("e a c", "b d"));
    }

    #[test]
    fn ten_thousand_exchanges_take_no_quadratic_time() {
        // Quadratic steps would take minutes. A pair waits for the pair before it, so no two circles are found at once.
        let pairs: usize = 10_000;
        let mut changes = Vec::new();
        for pair in 0..pairs {
            let before = format!("{}-x", pair.wrapping_sub(1));
            let (a, b) = (format!("{pair:05}-a"), format!("{pair:05}-b"));
            changes.push(format!("{a}: {pair}-a {pair}-x -> {pair}-b"));
            changes.push(format!("{b}: {pair}-b -> {pair}-a {before}"));
        }
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        let (order, parked) = transition(&changes).unwrap();
        assert_eq!(order.split(' ').count(), pairs);
        assert_eq!(parked.split(' ').count(), pairs);
    }
}
