//! An idle stream: no response is owed, and the stream waits for nothing but ACKs.
//!
//! Most streams are idle most of the time. At a publish an idle stream compares ten pointers (the sets of the two
//! snapshots) and steps only the types that differ. An ACK keeps the stream idle. Any other event makes the stream
//! active, and the next response is searched among all types ([`Session::next_response`]).

use std::sync::Arc;
use std::time::Instant;

use super::{Response, Session};
use crate::resource::ResourceType;
use crate::snapshot::{GroupSnapshot, Snapshot};

/// The state of an idle stream.
#[derive(Debug)]
pub(super) struct Idle {
    /// The group snapshot that the client was brought to, except for the types in `due`.
    group: Arc<GroupSnapshot>,
    due: Types,
    /// Clusters had no ACK or NACK at the last check: a stuck client is the one thing to check for.
    clusters_unacked: bool,
}

impl Idle {
    pub(super) fn has_sent_all(&self) -> bool {
        self.due.0 == 0
    }
}

/// A set of resource types.
#[derive(Debug, Clone, Copy, Default)]
struct Types(u16);

impl Types {
    fn of(resource_type: ResourceType) -> Self {
        Self(1 << resource_type.index())
    }

    fn add(&mut self, more: Self) {
        self.0 |= more.0;
    }

    fn remove(&mut self, resource_type: ResourceType) {
        self.0 &= !Self::of(resource_type).0;
    }

    fn has(self, resource_type: ResourceType) -> bool {
        self.0 & Self::of(resource_type).0 != 0
    }

    /// The types with different sets in two groups, and the types that follow these.
    fn differing(one: &Arc<GroupSnapshot>, other: &Arc<GroupSnapshot>) -> Self {
        let mut differing = Self::default();
        if Arc::ptr_eq(one, other) {
            return differing;
        }
        one.differing(other)
            .for_each(|resource_type| differing.add(Self::of(resource_type)));
        if differing.has(ResourceType::Route) {
            differing.add(Self::of(ResourceType::VirtualHost));
        }
        differing
    }
}

/// The step of an idle stream.
pub(super) enum IdleStep {
    /// Sends this response, or none. The stream may still be idle.
    Sends(Option<Response>),
    /// The stream is active: every type must be checked.
    Active,
}

impl Session {
    /// The next response of an idle stream.
    pub(super) fn step_idle(
        &mut self,
        idle: Idle,
        snapshot: &Snapshot,
        group: &Arc<GroupSnapshot>,
        now: Instant,
    ) -> IdleStep {
        let clusters_unacked = idle.clusters_unacked && self.check_stuck(now);
        if self.stuck.is_stuck() || self.spared.is_due(now) {
            return IdleStep::Active;
        }
        let mut due = idle.due;
        due.add(Types::differing(&idle.group, group));
        let all = due;
        for resource_type in self
            .order(group)
            .into_iter()
            .filter(|resource_type| all.has(*resource_type))
        {
            let response = self.step(resource_type, snapshot, group, now);
            let is_idle = self.types[resource_type.index()]
                .as_ref()
                .is_none_or(|state| state.is_idle());
            due.remove(resource_type);
            let Some(response) = response else {
                if is_idle {
                    continue;
                }
                return IdleStep::Active;
            };
            // Clusters, listeners and routes may owe resources of other types.
            let alone = !super::order::is_awaiting(resource_type);
            self.idle = (is_idle && alone).then(|| Idle {
                group: Arc::clone(group),
                due,
                clusters_unacked,
            });
            return IdleStep::Sends(Some(response));
        }

        self.idle = Some(Idle {
            group: Arc::clone(group),
            due,
            clusters_unacked,
        });

        IdleStep::Sends(None)
    }

    /// Every type was checked, and no response is owed.
    pub(super) fn enter_idle(&mut self, group: &Arc<GroupSnapshot>, clusters_unacked: bool) {
        let is_idle = self.greeting_at.is_none()
            && self.recalled.is_empty()
            && self.confirmed.is_empty()
            && !self.stuck.is_stuck()
            && self.types.iter().flatten().all(|state| state.is_idle());
        if is_idle {
            self.types
                .iter_mut()
                .flatten()
                .for_each(|state| state.work.free_if_empty());
        }
        let idle = || Idle {
            group: Arc::clone(group),
            due: Types::default(),
            clusters_unacked,
        };
        self.idle = is_idle.then(idle);
    }
}
