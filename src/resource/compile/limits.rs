//! Bounds on the number of documents of a kind.
//!
//! Each registry is a watch of its own, perhaps with connections of its own to another etcd.

use super::Fault;
use super::depends::Dirty;
use super::inventory::Inventory;
use crate::document::Rejection;
use crate::document::key::{DocumentKey, Kind};

/// Most registries documents.
pub(super) const MAX_REGISTRIES: usize = 100;

/// A fault for each registries document beyond the bound: those that were written last.
pub(super) fn faults(after: &Inventory, dirty: &Dirty) -> Vec<Fault> {
    if !dirty.referred.iter().any(|key| key.kind == Kind::Registries) {
        return Vec::new();
    }
    let registries = after.of_kind(Kind::Registries);
    let mut by_age: Vec<(i64, &DocumentKey)> = registries
        .map(|(key, compiled)| (compiled.accepted.mod_revision, key))
        .collect();
    by_age.sort_unstable();
    let reason = format!("found more than {MAX_REGISTRIES} registries documents, expected at most as many");
    let excess = by_age.into_iter().skip(MAX_REGISTRIES);
    excess
        .map(|(_, key)| Fault::of_itself(key.clone(), Rejection::new("", reason.clone())))
        .collect()
}
