//! Two steps towards a set, where one step would break something at the client.
//!
//! - `exchange`: listeners or scopes exchange their claims in a circle. The first step is the set without some members;
//!   the second step waits for its ACK or NACK.
//! - `announce`: a route moves to a cluster that a gRPC client does not subscribe to. The first step is the old routes,
//!   which also name the cluster; the second step waits for the ACK or NACK of the cluster and of its endpoints.
//!
//! The second step waits for [`STEP_MAX`](super::state::first_step::STEP_MAX) at most. During the wait the client stays
//! at the set of the first step.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::state::State;
use super::state::content::{Content, SharedPart};
use super::state::first_step::FirstStep;
use crate::fleet::Variant;
use crate::resource::ResourceType;
use crate::snapshot::set::ResourceSet;

mod announce;
mod exchange;

/// The next step of a type towards its set.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The set of this step; `None`: the set itself.
    pub(super) set: Option<Arc<ResourceSet>>,
    /// The order of its changes; empty: any order.
    order: Vec<Arc<str>>,
}

impl Step {
    fn to(set: Arc<ResourceSet>) -> Self {
        Self {
            set: Some(set),
            order: Vec::new(),
        }
    }

    /// Put the resources of a response into the order of the step.
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
    pub(super) fn next_step(&mut self, resource_type: ResourceType, set: &Arc<ResourceSet>, now: Instant) -> Step {
        let Some(state) = self.types[resource_type.index()].as_mut() else {
            return Step::default();
        };
        let begun = state.first_step.take();
        let Some(base) = state.base().filter(|base| !Arc::ptr_eq(base, set)).cloned() else {
            return Step::default();
        };

        let begun = match begun {
            Some(begun) if self.is_waiting(resource_type, &begun, now) => {
                self.set_first_step(resource_type, Some(begun));
                return Step::to(base);
            }
            begun => begun,
        };

        let (step, first_step) = if exchange::is_one_by_one(resource_type) {
            let step = exchange::step(&base, set);
            self.send_nacked_again(resource_type, &base, step.set.as_ref().unwrap_or(set));
            let first_step = step.set.is_some().then_some(FirstStep::Exchange);
            (step, first_step)
        } else if resource_type == ResourceType::Route && self.features.clusters_by_route && begun.is_none() {
            match self.announce(&base, set, now) {
                Some((step, first_step)) => (step, Some(first_step)),
                None => (Step::default(), None),
            }
        } else {
            (Step::default(), None)
        };

        self.set_first_step(resource_type, first_step);
        step
    }

    fn set_first_step(&mut self, resource_type: ResourceType, first_step: Option<FirstStep>) {
        if let Some(state) = self.types[resource_type.index()].as_mut() {
            state.first_step = first_step;
        }
    }

    /// Whether the second step must wait.
    fn is_waiting(&self, resource_type: ResourceType, begun: &FirstStep, now: Instant) -> bool {
        let state = self.types[resource_type.index()].as_deref();
        let is_before = state
            .and_then(|state| begun.deadline(state))
            .is_some_and(|deadline| now < deadline);
        let is_answered = match begun {
            FirstStep::Exchange => false,
            FirstStep::Announcement { clusters, .. } => clusters.iter().all(|cluster| self.has_taken(cluster)),
        };
        is_before && !is_answered
    }

    /// Owe the client the members that it NACKed: another member has given up a claim (delta).
    fn send_nacked_again(&mut self, resource_type: ResourceType, base: &Arc<ResourceSet>, next: &Arc<ResourceSet>) {
        if self.settings.variant == Variant::Delta
            && !Arc::ptr_eq(base, next)
            && let Some(state) = self.types[resource_type.index()].as_mut()
        {
            let nacked = state.nacked_claimants();
            state.owe(nacked);
        }
    }
}
