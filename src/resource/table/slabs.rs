//! Neighbouring virtual hosts, encoded together: a change of one copies its neighbours and not all.
//!
//! A slab begins at the first virtual host, and at each whose pattern has a certain hash, one in [`EVERY`]. So the
//! borders depend on the patterns alone, and a change moves no border but its own. In the same way neighbouring slabs
//! form a run: a change makes the list of one run anew, not that of all slabs.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::HostKey;
use crate::resource::body::Run;
use crate::resource::routes;

/// The number of virtual hosts in a slab on average (with one short route each, about 16 KiB), and of slabs in a run.
const EVERY: u64 = 64;

/// One virtual host, encoded.
#[derive(Debug, Clone)]
pub(super) struct VirtualHost {
    pub(super) bytes: Bytes,
    /// Hash of the bytes.
    pub(super) hash: u128,
}

impl VirtualHost {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self {
            hash: xxh3_128(&bytes),
            bytes,
        }
    }
}

/// Encoded virtual hosts, by pattern.
type Encoded = OrdMap<HostKey, VirtualHost>;

/// The slabs and runs of one RouteConfiguration. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Slabs {
    slabs: OrdMap<HostKey, Bytes>,
    runs: OrdMap<HostKey, Run>,
}

impl Slabs {
    /// Update the slabs after virtual hosts were added, changed or removed.
    pub(super) fn update(&mut self, encoded: &Encoded, changed: &BTreeSet<HostKey>) {
        let changed = join(&mut self.slabs, encoded, changed, EVERY, slab);
        join(&mut self.runs, &self.slabs, &changed, EVERY * EVERY, |slabs| {
            slabs.iter().copied().cloned().collect()
        });
    }

    /// All runs, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }
}

fn slab(virtual_hosts: &[&VirtualHost]) -> Bytes {
    let mut slab = Vec::new();
    virtual_hosts
        .iter()
        .for_each(|virtual_host| routes::member(&mut slab, &virtual_host.bytes));
    slab.into()
}

/// Update the joints of neighbouring members after some members were added, changed or removed. Returns the patterns at
/// which joints were added, changed or removed.
fn join<M, J>(
    joints: &mut OrdMap<HostKey, J>,
    members: &OrdMap<HostKey, M>,
    changed: &BTreeSet<HostKey>,
    every: u64,
    make: impl Fn(&[&M]) -> J,
) -> BTreeSet<HostKey>
where
    M: Clone,
    J: Clone,
{
    // Few members: a walk to the border for each. Many: one walk over all is shorter.
    if changed.len() > members.len() / 64 {
        let mut touched: BTreeSet<HostKey> = joints.keys().cloned().collect();
        *joints = all(members, every, make);
        touched.extend(joints.keys().cloned());
        return touched;
    }

    let starts: BTreeSet<&HostKey> = changed
        .iter()
        .flat_map(|host| around(members, host))
        .map(|host| start(members, host, every))
        .collect();

    let mut touched = BTreeSet::new();
    for host in changed.iter().filter(|host| !members.contains_key(*host)) {
        touched.extend(joints.remove(host).map(|_| host.clone()));
    }

    for start in starts {
        let from_start = members.range(start.clone()..);
        let run: Vec<_> = from_start
            .take_while(|(host, _)| *host == start || !is_border(host, every))
            .collect();
        let Some((last, _)) = run.last() else { continue };
        // Joints within the run end here. One range query finds them: removing each member by name would cost as much
        // for a missing key.
        let within = (Bound::Excluded(start.clone()), Bound::Included((*last).clone()));
        let parted: Vec<HostKey> = joints.range(within).map(|(host, _)| host.clone()).collect();
        for host in &parted {
            joints.remove(host);
        }
        let run: Vec<&M> = run.iter().map(|(_, member)| *member).collect();
        joints.insert(start.clone(), make(&run));
        touched.extend(parted);
        touched.insert(start.clone());
    }

    touched
}

/// A member and its neighbours, if they exist: a new member may have parted two or become the first; a removed one may
/// have left two together.
fn around<'a, M>(members: &'a OrdMap<HostKey, M>, host: &HostKey) -> impl Iterator<Item = &'a HostKey> {
    let before = members.range(..host.clone()).next_back();
    let from = members.range(host.clone()..).take(2);
    from.chain(before).map(|(host, _)| host)
}

/// Whether a joint begins at this pattern, whatever its neighbours are.
fn is_border(host: &HostKey, every: u64) -> bool {
    xxh3_64(host.pattern.as_bytes()).is_multiple_of(every)
}

/// The beginning of the joint with a member.
fn start<'a, M>(members: &'a OrdMap<HostKey, M>, host: &'a HostKey, every: u64) -> &'a HostKey {
    let mut start = host;
    for (host, _) in members.range(..=host.clone()).rev() {
        start = host;
        if is_border(host, every) {
            break;
        }
    }
    start
}

/// Everything joined.
fn all<M, J: Clone>(members: &OrdMap<HostKey, M>, every: u64, make: impl Fn(&[&M]) -> J) -> OrdMap<HostKey, J> {
    let mut joints = OrdMap::new();
    let mut open: Option<(&HostKey, Vec<&M>)> = None;
    for (host, member) in members {
        if is_border(host, every)
            && let Some((start, run)) = open.take()
        {
            joints.insert(start.clone(), make(&run));
        }
        let (_, run) = open.get_or_insert_with(|| (host, Vec::new()));
        run.push(member);
    }
    if let Some((start, run)) = open {
        joints.insert(start.clone(), make(&run));
    }
    joints
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn host(number: u16) -> HostKey {
        HostKey {
            rank: 0,
            longest_first: Reverse(0),
            pattern: format!("host-{number}").into(),
        }
    }

    fn virtual_host(number: u16, content: u8) -> VirtualHost {
        VirtualHost::new(vec![content; usize::from(number % 5)].into())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn however_it_came_about_the_slabs_are_those_of_what_there_is(
            changes in proptest::collection::vec(
                proptest::collection::btree_map(0..2000_u16, proptest::option::weighted(0.7, any::<u8>()), 1..4),
                0..300,
            ),
        ) {
            let mut encoded: Encoded = (0..1500).map(|number| (host(number), virtual_host(number, 0))).collect();
            // More borders of runs than usual, so that the test meets them.
            let (few, some) = (8, 64);
            let runs = |slabs: &[&Bytes]| slabs.iter().copied().cloned().collect::<Run>();
            let mut slabs = all(&encoded, few, slab);
            let mut joined = all(&slabs, some, runs);
            prop_assert!(slabs.len() > 100 && joined.len() > 10);
            for change in changes {
                for (number, content) in &change {
                    match content {
                        Some(content) => encoded.insert(host(*number), virtual_host(*number, *content)),
                        None => encoded.remove(&host(*number)),
                    };
                }
                let changed = change.keys().map(|number| host(*number)).collect();
                let changed = join(&mut slabs, &encoded, &changed, few, slab);
                join(&mut joined, &slabs, &changed, some, runs);
            }
            prop_assert_eq!(&slabs, &all(&encoded, few, slab));
            prop_assert_eq!(joined, all(&slabs, some, runs));
        }
    }
}
