//! Held removals: their barriers are set once every owed response was sent, and the removals are sent once the barriers
//! have passed ([`order`]).

use std::time::Instant;

use super::{Session, order};
use crate::resource::ResourceType;
use crate::snapshot::GroupSnapshot;
use crate::xds::session::order::{Barrier, BarrierState, HeldRemoval};
use crate::xds::session::state::State;

impl Session {
    /// Every owed response was sent: set the barriers of the held removals. Gives whether any were set.
    pub(in crate::xds::session) fn raise_barriers(&mut self) -> bool {
        let mut raised = false;
        for resource_type in ResourceType::ALL {
            if !self.types[resource_type.index()]
                .as_ref()
                .is_some_and(|state| state.has_removals_to_raise())
            {
                continue;
            }
            let others = || order::referrers(resource_type).iter();
            let withheld = |other: &ResourceType| self.types[other.index()].as_ref().is_some_and(|it| it.is_withheld());
            if self.referrers_wait(resource_type) || others().any(withheld) {
                continue;
            }
            let barriers: Vec<Barrier> = others()
                .filter_map(|other| {
                    let state = self.types[other.index()].as_ref()?;
                    let sent_at = state.sent_at?;
                    Some(Barrier {
                        resource_type: *other,
                        sequence: state.sent,
                        sent_at,
                    })
                })
                .collect();
            if let Some(state) = self.types[resource_type.index()].as_mut() {
                state.raise(&barriers);
                raised = true;
            }
        }

        raised
    }

    /// The first subscription to a type: held removals of the types that it may refer to wait for this type too.
    pub(in crate::xds::session) fn lower_barriers(&mut self, referrer: ResourceType) {
        for state in self.types.iter_mut().flatten() {
            if order::referrers(state.resource_type).contains(&referrer) {
                state.lower();
            }
        }
    }

    /// A response of a type was sent. The type may refer to resources that exist again: their held removals get new
    /// barriers.
    pub(in crate::xds::session) fn keep_what_is_back(&mut self, referrer: ResourceType, group: &GroupSnapshot) {
        for state in self.types.iter_mut().flatten() {
            if order::referrers(state.resource_type).contains(&referrer) {
                state.keep_what_is_back(group.set(state.resource_type));
            }
        }
    }

    /// Release the held removals whose barriers have passed. Gives whether there are any.
    pub(in crate::xds::session) fn release_holds(&mut self, now: Instant) -> bool {
        let mut released = false;
        for index in 0..self.types.len() {
            let Some(mut state) = self.types[index].take() else {
                continue;
            };
            if !state.work.pending().holds.is_empty() {
                released |=
                    state.release(|hold: &HeldRemoval| hold.is_over(now, |barrier| self.barrier_state(barrier)));
            }
            self.types[index] = Some(state);
        }
        released
    }

    /// Whether a type that may refer to this one has pending work: a held removal, a deferred change, a second step.
    pub(in crate::xds::session) fn referrers_wait(&self, resource_type: ResourceType) -> bool {
        let waits = |state: &State| {
            let work = state.work.pending();
            !(work.holds.is_empty() && work.deferrals.is_empty()) || state.first_step.is_some()
        };
        order::referrers(resource_type)
            .iter()
            .any(|other| self.types[other.index()].as_deref().is_some_and(waits))
    }

    pub(in crate::xds::session) fn barrier_state(&self, barrier: &Barrier) -> BarrierState {
        self.types[barrier.resource_type.index()]
            .as_ref()
            .map_or(BarrierState::Passed, |state| state.barrier_state(barrier.sequence))
    }
}
