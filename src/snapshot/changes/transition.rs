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
    pub(super) fn of(changes: &[Change]) -> Option<Self> {
        let mut waits = blockers(changes);
        if waits.values().all(BTreeSet::is_empty) {
            return None;
        }

        let (mut order, mut parked) = (Vec::new(), Vec::new());
        while !waits.is_empty() {
            let free = waits.iter().find(|(_, blockers)| blockers.is_empty());
            let next = match free {
                Some((name, _)) => *name,
                None => in_circle(&waits),
            };
            if waits.remove(next).is_some_and(|blockers| blockers.is_empty()) {
                order.push(Arc::clone(next));
            } else {
                parked.push(Arc::clone(next));
            }
            for blockers in waits.values_mut() {
                blockers.remove(next);
            }
        }

        parked.sort_unstable();
        Some(Self { order, parked })
    }
}

/// For each changed or new member, the members whose claims it takes over. Removals come first, so a removed member
/// blocks none.
fn blockers(changes: &[Change]) -> BTreeMap<&Arc<str>, BTreeSet<&Arc<str>>> {
    let mut holders: BTreeMap<&str, &Arc<str>> = BTreeMap::new();
    for change in changes {
        if let (Some(old), Some(new)) = (&change.old, &change.new) {
            holders.extend(old.claims().map(|claim| (claim, &new.name)));
        }
    }

    let members = changes.iter().filter_map(|change| change.new.as_ref());
    let blockers_of = |claims: &mut dyn Iterator<Item = &str>, name: &Arc<str>| {
        let holders = claims.filter_map(|claim| holders.get(claim).copied());
        holders.filter(|holder| *holder != name).collect()
    };
    members
        .map(|member| (&member.name, blockers_of(&mut member.claims(), &member.name)))
        .collect()
}

/// The first name, in their order, of the members of a circle. Each member has a blocker.
fn in_circle<'a>(waits: &BTreeMap<&'a Arc<str>, BTreeSet<&'a Arc<str>>>) -> &'a Arc<str> {
    let follow = |name: &'a Arc<str>| *waits[name].iter().next().expect("each member has a blocker");
    let first = *waits.keys().next().expect("there are members");
    // After as many steps as there are members the walk is inside a circle.
    let inside = (0..waits.len()).fold(first, |name, _| follow(name));
    let circle = std::iter::successors(Some(follow(inside)), |name| Some(follow(name)));
    let circle: BTreeSet<_> = circle.take(waits.len()).collect();
    circle.into_iter().next().unwrap_or(inside)
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
        assert_eq!(transition(&["a: 1 -> 2", "b: 2 -> 3", "c: 3 -> 1"]), way("c b", "a"));
        // Two circles, and one that waits for a member of the first.
        let changes = ["a: -> 8", "b: 8 1 -> 2", "c: 2 -> 1", "d: 3 -> 4", "e: 4 -> 3"];
        assert_eq!(transition(&changes), way("a c e", "b d"));
    }
}
