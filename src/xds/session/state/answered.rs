//! The responses of a type and their ACKs and NACKs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::pending::PendingWork;
use super::{State, Unacked};
use crate::document::key::DocumentKey;
use crate::fleet::{Suspects, Variant};
use crate::resource::Resource;
use crate::snapshot::set::{Entry, ResourceSet};
use crate::xds::session::nack::suspects;
use crate::xds::session::order::BarrierState;
use crate::xds::session::warming::WARM_MAX;

/// The most responses without ACK or NACK that are remembered. Envoy withholds its ACKs while it warms and sends them
/// in one burst.
const UNACKED_MAX: usize = 64;

impl State {
    /// A response went out.
    pub(in crate::xds) fn on_sent(&mut self, mut unacked: Unacked, now: Instant) {
        unacked.set.clone_from(&self.base);
        self.sent = unacked.sequence;
        self.sent_at = Some(now);
        if self.unacked.is_empty() {
            // Mostly one response is in flight, for a short time.
            self.unacked.reserve_exact(1);
        }
        self.unacked.push_back(unacked);
        if self.unacked.len() > UNACKED_MAX {
            self.unacked.pop_front();
        }
    }

    /// The response that an ACK or NACK is for. Earlier responses are answered by it too. `None`: stale or unknown
    /// nonce.
    pub(in crate::xds) fn on_ack_or_nack(&mut self, sequence: u64) -> Option<Unacked> {
        let position = self.unacked.iter().position(|unacked| unacked.sequence == sequence)?;
        self.answered = sequence;
        let answered = self.unacked.drain(..=position).next_back()?;
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
        // If no other response is in flight, the client is at `base`, which may have moved on without a response.
        let set = if self.unacked.is_empty() {
            self.base.clone()
        } else {
            answered.set.clone()
        };
        self.answered_set = set.or_else(|| self.answered_set.take());
        Some(answered)
    }

    /// The response was ACKed: its resources are no longer NACKed.
    pub(in crate::xds) fn on_ack(&mut self, answered: &Unacked, variant: Variant) {
        let full = self.is_full_state(variant);
        self.nacks.on_ack(&answered.content, full);
        let refresh = self.work.some().and_then(|work| work.refresh.as_mut());
        if let (Some(refresh), Some(base)) = (refresh, &self.base) {
            base.timed()
                .for_each(|resource| refresh.on_ack(&answered.content, resource));
        }
        if self.work.pending().deferrals.is_empty() {
            self.acked_set = answered.set.as_ref().map(|set| self.without_nacked(set));
        }
        self.acknowledged = answered.sequence;
        self.follow_unnacked();
    }

    /// What the client has accepted of a set: of a resource that is NACKed, the version that it accepted before.
    fn without_nacked(&self, set: &Arc<ResourceSet>) -> Arc<ResourceSet> {
        let accepted = |name: &str| self.acked_set.as_ref().and_then(|acked| acked.get(name)).cloned();
        let is_nacked =
            |resource: &&Arc<Resource>| set.get(&resource.name).is_some_and(|it| it.version == resource.version);
        let nacked = self.nacks.resources().filter(is_nacked);
        let mut entries: Vec<Entry> = nacked
            .map(|resource| (Arc::clone(&resource.name), accepted(&resource.name)))
            .collect();
        if entries.is_empty() {
            return Arc::clone(set);
        }

        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        entries.dedup_by(|one, other| one.0 == other.0);
        let mut key = Xxh3::new();
        for (name, accepted) in &entries {
            key.update(name.as_bytes());
            let version = accepted.as_ref().map_or(0, |resource| resource.version.0);
            key.update(&version.to_be_bytes());
        }
        // Clients with the same trouble share the set.
        set.variant(key.digest128(), || entries)
    }

    /// Endpoints that are no longer NACKed follow their cluster.
    pub(super) fn follow_unnacked(&mut self) {
        let Self {
            subscription,
            base,
            nacks,
            work,
            ..
        } = self;

        let Some(PendingWork {
            nacked_warming,
            warming,
            ..
        }) = work.some()
        else {
            return;
        };

        let stands = |name: &str| {
            base.as_ref()
                .and_then(|set| set.get(name))
                .is_some_and(|it| nacks.has(name, it.version))
        };

        let (kept, due): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(nacked_warming)
            .into_iter()
            .partition(|name| stands(name));
        *nacked_warming = kept;
        warming.extend(due.into_iter().filter(|name| subscription.names.contains(name)));
    }

    /// What the client has accepted; `None`: nothing yet.
    pub(in crate::xds) fn acked(&self) -> Option<&Arc<ResourceSet>> {
        self.acked_set.as_ref()
    }

    /// The response was NACKed. Gives the suspects.
    pub(in crate::xds) fn on_nack(&mut self, refused: Unacked, error_message: &str) -> Suspects {
        if let Some(refresh) = self.work.some().and_then(|work| work.refresh.as_mut()) {
            refresh.on_nack(&refused.content);
        }
        let suspects = suspects::suspects(&refused.content, self.acked_set.as_deref(), error_message);
        self.nacks.on_nack(refused.sequence, refused.content);
        self.follow_unnacked();
        suspects
    }

    /// The sequence of the response in which a subscribed resource was NACKed.
    pub(in crate::xds) fn nacked_in(&self, name: &str) -> Option<u64> {
        let refused = self.nacks.of(name)?;
        self.nacks
            .any(|one| *one.name == *name && self.subscription.covers(one))
            .then_some(refused)
    }

    /// The names of resources whose state at the client is unknown.
    pub(in crate::xds) fn unknown(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nacks.resources().map(|resource| &resource.name)
    }

    /// When the oldest response without ACK or NACK was sent.
    pub(in crate::xds) fn unacked_since(&self) -> Option<Instant> {
        self.unacked.front().map(|unacked| unacked.sent_at)
    }

    /// The set of the last response that has waited [`WARM_MAX`] for an ACK or NACK: its clusters are not waited for
    /// again.
    pub(super) fn given_up(&self, now: Instant) -> Option<&Arc<ResourceSet>> {
        let old = |unacked: &&Unacked| unacked.sent_at + WARM_MAX <= now;
        self.unacked.iter().take_while(old).last()?.set.as_ref()
    }

    /// NACKed resources that the client may accept once another resource gives up a claim.
    pub(in crate::xds) fn nacked_claimants(&self) -> Vec<Arc<str>> {
        let claimants = self.nacks.resources().filter(|resource| resource.claims.is_some());
        claimants.map(|resource| Arc::clone(&resource.name)).collect()
    }

    /// Whether any response has an ACK.
    pub(in crate::xds) fn has_acked(&self) -> bool {
        self.acknowledged > 0
    }

    /// Whether the client NACKed this version of a resource, or has not answered the response with it.
    pub(super) fn is_unknown(&self, resource: &Resource) -> bool {
        let answered = self.answered_set.as_ref().and_then(|set| set.get(&resource.name));
        answered.is_none_or(|answered| answered.version != resource.version)
            || self.nacks.has(&resource.name, resource.version)
    }

    /// The documents of the first few resources without ACK or NACK.
    pub(in crate::xds) fn unacked_documents(&self) -> Vec<DocumentKey> {
        let carried = self.unacked.iter().flat_map(|unacked| unacked.content.resources());
        let unknown = carried.filter(|resource| self.is_unknown(resource));
        let mut documents: Vec<DocumentKey> = unknown
            .flat_map(|resource| resource.documents.iter().cloned())
            .take(10)
            .collect();
        documents.sort_unstable();
        documents.dedup();
        documents
    }

    /// The state of this type against a barrier of another one.
    pub(in crate::xds) fn barrier_state(&self, sequence: u64) -> BarrierState {
        if self.is_nacked() {
            BarrierState::Nacked
        } else if self.acknowledged >= sequence {
            BarrierState::Passed
        } else if self.answered < sequence {
            BarrierState::Silent(None)
        } else {
            // The NACKed resources were replaced or removed. The client may use the old ones until it answers the
            // responses sent since.
            self.unacked_since()
                .map_or(BarrierState::Passed, |since| BarrierState::Silent(Some(since)))
        }
    }

    /// Whether a NACKed resource is still subscribed, and exists or has a removal that is not sent yet.
    pub(super) fn is_nacked(&self) -> bool {
        let is_there = |name: &str| {
            self.base.as_ref().is_some_and(|base| base.get(name).is_some())
                || self.held(name).is_some()
                || self
                    .work
                    .pending()
                    .released
                    .iter()
                    .any(|released| *released.name == *name)
        };
        self.nacks
            .any(|resource| self.subscription.covers(resource) && is_there(&resource.name))
    }
}
