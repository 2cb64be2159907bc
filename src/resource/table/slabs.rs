//! Neighbouring virtual hosts encoded together, so that a change of one copies its neighbours and not all.
//!
//! A slab begins at the first virtual host of all and at each whose pattern's hash says so, one in [`EVERY`]: where slabs
//! begin depends on the patterns alone, so a change moves no border but its own. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_64;

use super::{HostKey, VirtualHost};
use crate::resource::routes;

/// How many virtual hosts a slab has on average: with one short route each, about 16 KiB.
const EVERY: u64 = 64;

type Slabs = OrdMap<HostKey, Bytes>;
type Encoded = OrdMap<HostKey, VirtualHost>;

/// Bring the slabs up to date after virtual hosts came, went or changed.
pub(super) fn update(slabs: &mut Slabs, encoded: &Encoded, changed: &BTreeSet<HostKey>) {
    // One by one it is a walk to the border for each; from some number on, one walk over all is shorter.
    if changed.len() > encoded.len() / 64 {
        *slabs = all(encoded);
        return;
    }
    let starts: BTreeSet<&HostKey> =
        changed.iter().flat_map(|host| around(encoded, host)).map(|host| start(encoded, host)).collect();
    for host in changed.iter().filter(|host| !encoded.contains_key(*host)) {
        slabs.remove(host);
    }
    for start in starts {
        renew(slabs, encoded, start);
    }
}

/// A virtual host and its neighbours, those that exist: who came may have parted a slab or become the first of all, who
/// went may have joined two.
fn around<'a>(encoded: &'a Encoded, host: &HostKey) -> impl Iterator<Item = &'a HostKey> {
    let before = encoded.range(..host.clone()).next_back();
    let from = encoded.range(host.clone()..).take(2);
    from.chain(before).map(|(host, _)| host)
}

/// Whether a slab begins at this pattern wherever it stands.
fn is_border(host: &HostKey) -> bool {
    xxh3_64(host.pattern.as_bytes()).is_multiple_of(EVERY)
}

/// Where the slab of a virtual host begins.
fn start<'a>(encoded: &'a Encoded, host: &'a HostKey) -> &'a HostKey {
    let mut start = host;
    for (host, _) in encoded.range(..=host.clone()).rev() {
        start = host;
        if is_border(host) {
            break;
        }
    }
    start
}

/// Encode the slab that begins at `start`, in the place of all that began in it before.
fn renew(slabs: &mut Slabs, encoded: &Encoded, start: &HostKey) {
    let mut slab = Vec::new();
    for (host, virtual_host) in encoded.range(start.clone()..) {
        if host != start {
            if is_border(host) {
                break;
            }
            slabs.remove(host);
        }
        routes::member(&mut slab, &virtual_host.bytes);
    }
    slabs.insert(start.clone(), slab.into());
}

/// Every slab.
fn all(encoded: &Encoded) -> Slabs {
    let mut slabs = Slabs::new();
    let mut open: Option<(&HostKey, Vec<u8>)> = None;
    for (host, virtual_host) in encoded {
        if is_border(host)
            && let Some((start, slab)) = open.take()
        {
            slabs.insert(start.clone(), slab.into());
        }
        let (_, slab) = open.get_or_insert_with(|| (host, Vec::new()));
        routes::member(slab, &virtual_host.bytes);
    }
    if let Some((start, slab)) = open {
        slabs.insert(start.clone(), slab.into());
    }
    slabs
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn host(number: u16) -> HostKey {
        HostKey { rank: 0, longest_first: Reverse(0), pattern: format!("host-{number}").into() }
    }

    fn virtual_host(number: u16, content: u8) -> VirtualHost {
        VirtualHost { bytes: vec![content; usize::from(number % 5)].into(), hash: 0, routes: 1 }
    }

    proptest! {
        #[test]
        fn however_it_came_about_the_slabs_are_those_of_what_there_is(
            changes in proptest::collection::vec(
                proptest::collection::btree_map(0..2000_u16, proptest::option::weighted(0.7, any::<u8>()), 1..4),
                0..300,
            ),
        ) {
            let mut encoded: Encoded = (0..1500).map(|number| (host(number), virtual_host(number, 0))).collect();
            let mut slabs = all(&encoded);
            prop_assert!(slabs.len() > 10);
            for change in changes {
                for (number, content) in &change {
                    match content {
                        Some(content) => encoded.insert(host(*number), virtual_host(*number, *content)),
                        None => encoded.remove(&host(*number)),
                    };
                }
                update(&mut slabs, &encoded, &change.keys().map(|number| host(*number)).collect());
            }
            prop_assert_eq!(slabs, all(&encoded));
        }
    }
}
