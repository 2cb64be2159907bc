//! Versions of sets.

use std::fmt;

/// Version of one resource type's set: the wrapping 128-bit sum of hash(name, version) over its members, so that it costs
/// what changed and does not depend on order. Shape on the wire: 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SetVersion(pub u128);

impl fmt::Display for SetVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}
