//! Listeners that take over each other's addresses, and scopes that take over each other's keys.
//!
//! Envoy applies the resources of these responses one by one, and refuses two with the same claim. The resources are
//! therefore sent in the order of the [`Transition`]. If members exchange claims in a circle, the first step is the set
//! without the parked members. After a NACK, a refused resource may be accepted once another has moved, so over delta
//! each change sends the NACKed resources again.

use std::sync::Arc;

use super::Step;
use crate::resource::ResourceType;
use crate::snapshot::changes::transition::Transition;
use crate::snapshot::set::ResourceSet;

/// Whether Envoy applies the resources of a type one by one and refuses two with the same claim.
pub(super) fn is_one_by_one(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Listener | ResourceType::ScopedRoute)
}

/// The step from one set to another.
pub(super) fn step(base: &Arc<ResourceSet>, set: &Arc<ResourceSet>) -> Step {
    let changes = set.changes_since(base);
    let Some(Transition { order, parked }) = changes.transition() else {
        return Step::default();
    };
    let without = || parked.iter().map(|name| (Arc::clone(name), None)).collect();
    let key = base.version().0 ^ set.version().0.rotate_left(1);
    Step {
        set: (!parked.is_empty()).then(|| set.variant(key, without)),
        order: order.clone(),
    }
}
