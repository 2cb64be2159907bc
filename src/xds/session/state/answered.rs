//! What was sent of a type, and what came back: acknowledged, refused, not answered.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::pending::Causes;
use super::{State, Unanswered};
use crate::document::key::DocumentKey;
use crate::fleet::{Suspect, Variant};
use crate::resource::Resource;
use crate::snapshot::set::ResourceSet;
use crate::xds::session::nack::suspects;
use crate::xds::session::order::Standing;
use crate::xds::session::warming::WARM_MAX;

/// Unanswered responses that are remembered. Envoy withholds its ACKs while it warms and sends them in one burst.
const UNANSWERED_MAX: usize = 64;

impl State {
    /// A response went out.
    pub(in crate::xds) fn on_sent(&mut self, mut unanswered: Unanswered, now: Instant) {
        unanswered.set.clone_from(&self.base);
        self.sent = unanswered.sequence;
        self.sent_at = Some(now);
        if self.unanswered.is_empty() {
            // Mostly there is one at a time, and none for long.
            self.unanswered.reserve_exact(1);
        }
        self.unanswered.push_back(unanswered);
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
    }

    /// The response that an answer is for; those before it are answered by it too. `None`: stale or unknown.
    pub(in crate::xds) fn on_answer(&mut self, sequence: u64) -> Option<Unanswered> {
        let position = self
            .unanswered
            .iter()
            .position(|unanswered| unanswered.sequence == sequence)?;
        self.answered = sequence;
        let answered = self.unanswered.drain(..=position).next_back()?;
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        // Where nothing else is on its way, all that was told is answered, and what was found to need no word.
        let set = if self.unanswered.is_empty() {
            self.base.clone()
        } else {
            answered.set.clone()
        };
        self.answered_set = set.or_else(|| self.answered_set.take());
        Some(answered)
    }

    /// The response was accepted: what it speaks of is refused no longer.
    pub(in crate::xds) fn on_acknowledged(&mut self, answered: &Unanswered, variant: Variant) {
        let full = self.is_full_state(variant);
        self.refusals.on_acknowledged(&answered.content, full);
        let refresh = self.unrest.some().and_then(|unrest| unrest.refresh.as_mut());
        if let (Some(refresh), Some(base)) = (refresh, &self.base) {
            base.timed()
                .for_each(|resource| refresh.on_acknowledged(&answered.content, resource));
        }
        if self.unrest.deferrals.is_empty() {
            self.acknowledged_set.clone_from(&answered.set);
        }
        self.acknowledged = answered.sequence;
        self.follow_unrefused();
    }

    /// What was kept back for a refusal that stands no longer follows its cluster after all.
    pub(super) fn follow_unrefused(&mut self) {
        let Self {
            subscription,
            base,
            refusals,
            unrest,
            ..
        } = self;
        let Some(Causes {
            refused_warming,
            warming,
            ..
        }) = unrest.some()
        else {
            return;
        };
        let stands = |name: &str| {
            base.as_ref()
                .and_then(|set| set.get(name))
                .is_some_and(|it| refusals.has(name, it.version))
        };
        let (kept, due): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(refused_warming)
            .into_iter()
            .partition(|name| stands(name));
        *refused_warming = kept;
        warming.extend(due.into_iter().filter(|name| subscription.names.contains(name)));
    }

    /// The response was refused. Gives who may be to blame.
    pub(in crate::xds) fn on_refused(&mut self, refused: Unanswered, words: &str) -> Vec<Suspect> {
        if let Some(refresh) = self.unrest.some().and_then(|unrest| unrest.refresh.as_mut()) {
            refresh.on_refused(&refused.content);
        }
        let suspects = suspects::suspects(&refused.content, self.acknowledged_set.as_deref(), words);
        self.refusals.on_refused(refused.sequence, refused.content);
        self.follow_unrefused();
        suspects
    }

    /// The response with which a resource was refused that the client still asks for.
    pub(in crate::xds) fn refusal_of(&self, name: &str) -> Option<u64> {
        let refused = self.refusals.of(name)?;
        self.refusals
            .any(|one| *one.name == *name && self.subscription.covers(one))
            .then_some(refused)
    }

    /// The names of what the client may have or not.
    pub(in crate::xds) fn unknown(&self) -> impl Iterator<Item = &Arc<str>> {
        self.refusals.resources().map(|resource| &resource.name)
    }

    /// When the oldest response was sent that has no answer.
    pub(in crate::xds) fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered.front().map(|unanswered| unanswered.sent_at)
    }

    /// What the client had been sent when it was last waited for in vain: clusters that are there unchanged had their wait.
    pub(super) fn given_up(&self, now: Instant) -> Option<&Arc<ResourceSet>> {
        let old = |unanswered: &&Unanswered| unanswered.sent_at + WARM_MAX <= now;
        self.unanswered.iter().take_while(old).last()?.set.as_ref()
    }

    /// What was refused and may be accepted once another resource has given up a claim.
    pub(in crate::xds) fn refused_claimants(&self) -> Vec<Arc<str>> {
        let claimants = self.refusals.resources().filter(|resource| resource.claims.is_some());
        claimants.map(|resource| Arc::clone(&resource.name)).collect()
    }

    /// Whether any response was acknowledged.
    pub(in crate::xds) fn has_acknowledged(&self) -> bool {
        self.acknowledged > 0
    }

    /// Whether the client refused a resource, or has not said what it makes of it.
    pub(super) fn is_unknown(&self, resource: &Resource) -> bool {
        let answered = self.answered_set.as_ref().and_then(|set| set.get(&resource.name));
        answered.is_none_or(|answered| answered.version != resource.version)
            || self.refusals.has(&resource.name, resource.version)
    }

    /// What of this is not refused and was not answered, the first few, by its documents.
    pub(in crate::xds) fn unanswered_documents(&self) -> Vec<DocumentKey> {
        let carried = self
            .unanswered
            .iter()
            .flat_map(|unanswered| unanswered.content.resources());
        let unknown = carried.filter(|resource| self.is_unknown(resource));
        let mut documents: Vec<DocumentKey> = unknown
            .flat_map(|resource| resource.documents.iter().cloned())
            .take(10)
            .collect();
        documents.sort_unstable();
        documents.dedup();
        documents
    }

    /// How it stands to a response that something else waits for.
    pub(in crate::xds) fn standing(&self, sequence: u64) -> Standing {
        if self.is_refused() {
            Standing::Refused
        } else if self.acknowledged >= sequence {
            Standing::Passed
        } else if self.answered < sequence {
            Standing::Silent(None)
        } else {
            // What it refused is gone. It may use what it had before until it has taken what it was told since, if anything.
            self.unanswered_since()
                .map_or(Standing::Passed, |since| Standing::Silent(Some(since)))
        }
    }

    /// Whether something refused is still wanted by the client and still there, or its removal is not told yet.
    pub(super) fn is_refused(&self) -> bool {
        let is_there = |name: &str| {
            self.base.as_ref().is_some_and(|base| base.get(name).is_some())
                || self.held(name).is_some()
                || self.unrest.released.iter().any(|released| *released.name == *name)
        };
        self.refusals
            .any(|resource| self.subscription.covers(resource) && is_there(&resource.name))
    }
}
