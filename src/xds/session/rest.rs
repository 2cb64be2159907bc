//! A stream at rest: it is owed nothing and waits for nothing but ACKs, so only what changes since then concerns it.
//!
//! Most streams are at rest most of the time. One at rest that hears of a publish compares ten pointers (the sets of then
//! and of now) and looks at the types that differ; the ACK of what it was sent takes nothing more. Whatever else happens
//! ends the rest, and the next response is looked for among all types ([`Session::next_response`]).

use std::sync::Arc;
use std::time::Instant;

use super::{Response, Session};
use crate::resource::ResourceType;
use crate::snapshot::{GroupSnapshot, Snapshot};

/// Since when a stream is at rest.
#[derive(Debug)]
pub(super) struct Rest {
    /// What it has, where no type is due.
    group: Arc<GroupSnapshot>,
    due: Types,
    /// Clusters were not answered when last looked at: that it may be stuck is all that it waits for.
    clusters_unanswered: bool,
}

impl Rest {
    pub(super) fn has_said_all(&self) -> bool {
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

    /// Those of which two groups have different sets, and those that follow them.
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

/// What a stream at rest has to say.
pub(super) enum Rested {
    /// This, or nothing. It may be at rest still.
    Says(Option<Response>),
    /// It is at rest no longer: everything must be looked at.
    Woke,
}

impl Session {
    /// The next response of a stream that was at rest.
    pub(super) fn rested(
        &mut self,
        rest: Rest,
        snapshot: &Snapshot,
        group: &Arc<GroupSnapshot>,
        now: Instant,
    ) -> Rested {
        let clusters_unanswered = rest.clusters_unanswered && self.look(now);
        if self.alarm.is_raised() || self.spared.is_due(now) {
            return Rested::Woke;
        }
        let mut due = rest.due;
        due.add(Types::differing(&rest.group, group));
        let all = due;
        for resource_type in ResourceType::ALL
            .into_iter()
            .filter(|resource_type| all.has(*resource_type))
        {
            let response = self.step(resource_type, snapshot, group, now);
            let rests = self.types[resource_type.index()]
                .as_ref()
                .is_none_or(|state| state.is_at_rest());
            due.remove(resource_type);
            let Some(response) = response else {
                if rests {
                    continue;
                }
                return Rested::Woke;
            };
            // What clusters, listeners and routes bring along is owed by other types.
            let alone = !super::order::is_awaiting(resource_type);
            self.rest = (rests && alone).then(|| Rest {
                group: Arc::clone(group),
                due,
                clusters_unanswered,
            });
            return Rested::Says(Some(response));
        }
        self.rest = Some(Rest {
            group: Arc::clone(group),
            due,
            clusters_unanswered,
        });
        Rested::Says(None)
    }

    /// Everything was looked at, and nothing is owed.
    pub(super) fn lie_down(&mut self, group: &Arc<GroupSnapshot>, clusters_unanswered: bool) {
        let rests = self.greeting_at.is_none()
            && self.recalled.is_empty()
            && self.confirmed.is_empty()
            && self.preparing.is_none()
            && !self.alarm.is_raised()
            && self.types.iter().flatten().all(|state| state.is_at_rest());
        if rests {
            self.types.iter_mut().flatten().for_each(|state| state.unrest.settle());
        }
        let rest = || Rest {
            group: Arc::clone(group),
            due: Types::default(),
            clusters_unanswered,
        };
        self.rest = rests.then(rest);
    }
}
