//! Listeners that take over each other's addresses, and scopes that take over each other's keys.
//!
//! Envoy applies the resources of these responses one by one. So they go in the order of the [`Transition`], and where
//! members exchange in a circle, in two steps: the set without the parked members, and after its answer (or
//! [`STEP_MAX`]) the set itself. Of these types a NACK leaves resources behind that may be accepted once another one
//! has moved, so over delta each change sends the refused ones again. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Session;
use super::state::State;
use super::state::content::{Content, SharedPart};
use crate::fleet::Variant;
use crate::resource::ResourceType;
use crate::snapshot::changes::transition::Transition;
use crate::snapshot::set::ResourceSet;

/// How long the second step waits for the answer to the first.
const STEP_MAX: Duration = Duration::from_secs(5);

/// Whether Envoy applies the resources of a type one by one and refuses two with the same claim.
pub(super) fn is_one_by_one(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Listener | ResourceType::ScopedRoute)
}

/// The next step of a stream towards a set.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The set of this step, if it is not the last.
    pub(super) set: Option<Arc<ResourceSet>>,
    /// The order of its changes; empty: any.
    order: Vec<Arc<str>>,
}

impl Step {
    fn towards(base: &Arc<ResourceSet>, set: &Arc<ResourceSet>) -> Self {
        let changes = set.changes_since(base);
        let Some(Transition { order, parked }) = changes.transition() else {
            return Self::default();
        };
        let without = || parked.iter().map(|name| (Arc::clone(name), None)).collect();
        let key = base.version().0 ^ set.version().0.rotate_left(1);
        Self {
            set: (!parked.is_empty()).then(|| set.variant(key, without)),
            order: order.clone(),
        }
    }

    /// Put what a response carries into the order.
    pub(super) fn sort(&self, content: &mut Content) {
        if self.order.is_empty() {
            return;
        }
        let mut resources: Vec<_> = content.resources().cloned().collect();
        resources.sort_by_cached_key(|resource| self.order.iter().position(|name| *name == resource.name));
        content.shared = SharedPart::Nothing;
        content.own = resources;
    }
}

impl Session {
    /// The step that a type takes now towards its set.
    pub(super) fn step_towards(&self, resource_type: ResourceType, set: &Arc<ResourceSet>, now: Instant) -> Step {
        if !is_one_by_one(resource_type) {
            return Step::default();
        }
        let state = self.types[resource_type.index()].as_deref();
        let Some((state, base)) = state.and_then(|state| Some((state, state.base()?))) else {
            return Step::default();
        };
        if Arc::ptr_eq(base, set) {
            return Step::default();
        }
        if step_deadline(state).is_some_and(|deadline| now < deadline) {
            return Step {
                set: Some(Arc::clone(base)),
                order: Vec::new(),
            };
        }
        Step::towards(base, set)
    }

    /// A type is about to take a step. Over delta what was refused is sent again with it.
    pub(super) fn on_step(&mut self, resource_type: ResourceType, step: &Step, set: &Arc<ResourceSet>) {
        let Some(state) = self.types[resource_type.index()]
            .as_mut()
            .filter(|_| is_one_by_one(resource_type))
        else {
            return;
        };
        state.on_the_way = step.set.is_some();
        let moves = state
            .base()
            .is_some_and(|base| !Arc::ptr_eq(base, step.set.as_ref().unwrap_or(set)));
        if moves && self.settings.variant == Variant::Delta {
            let refused = state.nacked_claimants();
            state.owe(refused);
        }
    }
}

/// Until when a type that is on the way waits for the answer to its last step.
pub(super) fn step_deadline(state: &State) -> Option<Instant> {
    let unacked = state.unacked_since().is_some();
    let sent_at = state.sent_at.filter(|_| state.on_the_way && unacked);
    sent_at.map(|sent_at| sent_at + STEP_MAX)
}
