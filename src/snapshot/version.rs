//! Versions of sets.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::resource::{Resource, ResourceVersion};

/// Version of one resource type's set.
///
/// The wrapping 128-bit sum of hash(name, version) over its members: an update costs what changed, and the order of
/// members does not matter. Shape on the wire: 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SetVersion(pub u128);

impl SetVersion {
    /// The share of a member in the sum.
    #[must_use]
    pub fn of_member(name: &str, version: ResourceVersion) -> Self {
        let mut both = [0; 32];
        both[..16].copy_from_slice(&xxh3_128(name.as_bytes()).to_le_bytes());
        both[16..].copy_from_slice(&version.0.to_le_bytes());
        Self(xxh3_128(&both))
    }

    /// The share of a resource in the sum.
    #[must_use]
    pub fn of(resource: &Resource) -> Self {
        Self::of_member(&resource.name, resource.version)
    }

    /// The sum with one more member.
    #[must_use]
    pub fn with(self, member: Self) -> Self {
        Self(self.0.wrapping_add(member.0))
    }

    /// The sum with one member less.
    #[must_use]
    pub fn without(self, member: Self) -> Self {
        Self(self.0.wrapping_sub(member.0))
    }
}

impl fmt::Display for SetVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}
