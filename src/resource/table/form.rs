//! One form of a table: its encoded virtual hosts.
//!
//! Policies may put secrets into routes. A table with such policies has a second form for proxies that may not have
//! secrets. Both share each virtual host without secrets, and the slabs of these.

use std::collections::BTreeSet;

use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_128;

use super::HostKey;
use super::slabs::{Slabs, VirtualHost};
use crate::resource::ResourceVersion;
use crate::resource::body::Run;

/// The encoded virtual hosts of a table. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Form {
    pub(super) encoded: OrdMap<HostKey, VirtualHost>,
    /// Neighbouring virtual hosts, encoded together.
    slabs: Slabs,
    /// Wrapping sum of the virtual hosts' hashes.
    sum: u128,
}

impl Form {
    /// Set the virtual hosts of these patterns; `new` gives each one, or `None` if the pattern has no virtual host now.
    pub(super) fn update(&mut self, hosts: &BTreeSet<HostKey>, mut new: impl FnMut(&HostKey) -> Option<VirtualHost>) {
        for host in hosts {
            let (new, old) = match new(host) {
                Some(new) => (new.hash, self.encoded.insert(host.clone(), new)),
                None => (0, self.encoded.remove(host)),
            };
            self.sum = self.sum.wrapping_add(new).wrapping_sub(old.map_or(0, |old| old.hash));
        }
        self.slabs.update(&self.encoded, hosts);
    }

    /// The virtual hosts in order, encoded as members of a RouteConfiguration, in runs of slabs.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.slabs.runs()
    }

    /// The version of a RouteConfiguration with this head and these virtual hosts: equal ones have equal versions,
    /// whatever their history.
    #[must_use]
    pub fn version(&self, head: &[u8]) -> ResourceVersion {
        ResourceVersion(self.sum.wrapping_add(xxh3_128(head)))
    }
}
