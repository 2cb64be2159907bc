//! The changes ([`crate::snapshot::steps`]) up to which the client has each type.
//!
//! A response carries the mark of its type, unless a part of the content must wait. If nothing is owed, the client has
//! the newest mark of a type, or will have it with the ACK of the last response.

use crate::fleet::convergence::Why;
use crate::resource::ResourceType;
use crate::snapshot::GroupSnapshot;
use crate::snapshot::steps::Mark;
use crate::xds::session::Session;
use crate::xds::session::state::State;

impl Session {
    /// No response is owed. Calls `has` for each type of which the client has everything, and gives why another type
    /// waits.
    pub fn look(&mut self, group: &GroupSnapshot, mut has: impl FnMut(ResourceType, Mark)) -> Option<Why> {
        let mut why = None;
        for state in self.types.iter_mut().flatten() {
            let mark = group.marks()[state.resource_type.index()];
            match state.wait() {
                None if !state.expect(mark) => has(state.resource_type, mark),
                None => {}
                wait => why = why.or(wait),
            }
        }
        why
    }
}

impl State {
    /// Why the client does not have, and was not sent, everything of its set; `None`: it was.
    fn wait(&self) -> Option<Why> {
        let work = self.work.pending();
        if !work.holds.is_empty() || self.has_released() {
            return Some(Why::RemovalsHeld);
        }
        if !work.deferrals.is_empty() || !work.warming.is_empty() || self.first_step.is_some() {
            return Some(Why::Warming);
        }
        let is_brought = !self.is_withheld() && self.has_sent_fresh() && work.owed.is_empty();
        (!is_brought).then_some(Why::Unacknowledged)
    }

    /// The mark of the response that is built now.
    pub(in crate::xds::session) fn mark_of(&self, group: &GroupSnapshot) -> Mark {
        match self.wait() {
            None => group.marks()[self.resource_type.index()],
            Some(_) => Mark::NEVER,
        }
    }
}
