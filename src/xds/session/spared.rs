//! Spares a client waits of clusters that take too long.
//!
//! Envoy withholds every ACK of clusters while one cluster warms, and a starting Envoy subscribes to listeners only
//! when all clusters are warm (docs/xds-rules.md F-02, F-04). One silent name server or host would hold up unrelated
//! clusters, routes and listeners. After two bounds, clusters are therefore sent again in their no-wait form
//! ([`no_wait`]):
//!
//! | client | bound | clusters |
//! |---|---|---|
//! | running: no ACK of clusters | [`SLOW_AFTER`] | new and changed clusters of that response that wait for DNS |
//! | starting: no subscription to listeners | [`START_MAX`] | all that wait for DNS or for health checks |
//!
//! A cluster that waits for DNS stays in its no-wait form until it changes. Health checks come back when the client has
//! its listeners: Envoy then uses the cluster without checks until the first check is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use super::Session;
use super::warming::WARM_MAX;
use crate::resource::clusters::no_wait::{Wait, no_wait};
use crate::resource::{Resource, ResourceType, ResourceVersion};
use crate::snapshot::set::{Entry, ResourceSet};
use crate::xds::session::state::Changed;

/// The time for the DNS names of clusters without ACK. Shorter by [`RESOLVING`] than the wait of resources that refer
/// to these clusters ([`WARM_MAX`]).
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(4);
/// The longest time that a DNS server which answers takes for the names of a cluster in no-wait form.
const RESOLVING: Duration = WARM_MAX.saturating_sub(SLOW_AFTER);
/// The time for the clusters of a starting client.
pub(super) const START_MAX: Duration = Duration::from_secs(3);
/// The time without health checks if the client does not subscribe to listeners: it may have listeners from elsewhere.
pub(super) const UNCHECKED_MAX: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spared {
    start: Start,
    /// Clusters whose DNS names are not waited for, sorted by name.
    slow: Vec<Slow>,
    /// Names of clusters that are sent without health checks, sorted.
    unchecked: Vec<Arc<str>>,
    /// Responses without ACK or NACK whose new or changed clusters wait for DNS or health checks, oldest first.
    unacked: Vec<WaitingResponse>,
    /// Until this moment slow clusters count as not warm: Envoy sends the ACK for their no-wait form at once.
    resolving_until: Option<Instant>,
}

/// The progress of a starting client.
#[derive(Debug, Default, Clone, Copy)]
enum Start {
    /// No clusters were sent.
    #[default]
    Begun,
    /// Clusters were sent; no subscription to listeners.
    Warming { until: Instant },
    /// Some clusters were sent without their health checks.
    Unchecked { until: Instant },
    /// The client subscribed to listeners.
    Over,
}

#[derive(Debug)]
struct Slow {
    name: Arc<str>,
    /// The version of the slow cluster. Another version is waited for again.
    version: ResourceVersion,
}

/// A response with clusters.
#[derive(Debug)]
struct WaitingResponse {
    sequence: u64,
    sent_at: Instant,
    /// Clusters that wait for DNS; empty once they are given up.
    names: Vec<Arc<Resource>>,
    /// Whether any cluster waits for health checks.
    checks: bool,
}

impl Spared {
    /// The next moment at which a bound may be reached.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let start = match self.start {
            Start::Warming { until } | Start::Unchecked { until } => Some(until),
            Start::Begun | Start::Over => None,
        };
        let mut waiting = self.unacked.iter().filter(|response| !response.names.is_empty());
        let slow = waiting.next().map(|response| response.sent_at + SLOW_AFTER);
        start.into_iter().chain(slow).chain(self.resolving_until).min()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// A response with clusters was sent. A response with all clusters, to a client whose clusters are unknown, is not
    /// counted.
    pub(super) fn on_sent(&mut self, sequence: u64, changed: &Changed, now: Instant) {
        let Changed::Some(changed) = changed else { return };
        let waiting = |wait| changed.iter().filter(move |cluster| cluster.waits == Some(wait));
        let response = WaitingResponse {
            sequence,
            sent_at: now,
            names: waiting(Wait::Names).cloned().collect(),
            checks: waiting(Wait::Checks).next().is_some(),
        };
        if response.checks || !response.names.is_empty() {
            self.unacked.push(response);
        }
    }

    /// Whether first health checks of clusters may delay the ACK.
    pub(super) fn has_checks(&self) -> bool {
        self.unacked.iter().any(|response| response.checks)
    }

    /// An ACK or a NACK of clusters arrived.
    pub(super) fn on_ack_or_nack(&mut self, sequence: u64) {
        self.unacked.retain(|response| response.sequence > sequence);
    }

    /// Clusters that Envoy reports as warm although their names may not be resolved yet.
    pub(super) fn resolving(&self) -> Vec<Arc<str>> {
        let slow = self.slow.iter().filter(|_| self.resolving_until.is_some());
        slow.map(|slow| Arc::clone(&slow.name)).collect()
    }

    /// The clusters in the form for this client; `None`: the common form.
    pub(super) fn form_of(&self, clusters: &ResourceSet) -> Option<Arc<ResourceSet>> {
        if self.slow.is_empty() && self.unchecked.is_empty() {
            return None;
        }
        let mut key = Xxh3::new();
        for slow in &self.slow {
            key.update(slow.name.as_bytes());
            key.update(&slow.version.0.to_be_bytes());
        }
        for name in &self.unchecked {
            key.update(name.as_bytes());
            key.update(&[0]);
        }
        Some(clusters.variant(key.digest128(), || self.entries(clusters)))
    }

    fn entries(&self, clusters: &ResourceSet) -> Vec<Entry> {
        let unresolved = self.slow.iter().filter_map(|slow| {
            let cluster = clusters
                .get(&slow.name)
                .filter(|cluster| cluster.version == slow.version)?;
            no_wait(cluster).filter(|_| cluster.waits == Some(Wait::Names))
        });
        let unchecked = self.unchecked.iter().filter_map(|name| {
            let cluster = clusters.get(name)?;
            no_wait(cluster).filter(|_| cluster.waits == Some(Wait::Checks))
        });
        let forms = unresolved.chain(unchecked);
        let mut entries: Vec<Entry> = forms
            .map(|form| (Arc::clone(&form.name), Some(Arc::new(form))))
            .collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        entries
    }

    /// Stop waiting for the DNS names of these clusters. Gives the names of the clusters.
    fn give_up(&mut self, clusters: &[Arc<Resource>], now: Instant) -> Vec<Arc<str>> {
        let names: Vec<_> = clusters.iter().map(|cluster| Arc::clone(&cluster.name)).collect();
        self.slow.retain(|slow| !names.contains(&slow.name));
        self.slow.extend(clusters.iter().map(|cluster| Slow {
            name: Arc::clone(&cluster.name),
            version: cluster.version,
        }));
        self.slow.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if !names.is_empty() {
            self.resolving_until = Some(now + RESOLVING);
        }
        names
    }
}

impl Session {
    /// End the waits that have taken too long.
    pub(super) fn spare_waits(&mut self, now: Instant) {
        self.spare_start(now);
        self.spared.resolving_until = self.spared.resolving_until.filter(|until| now < *until);
        let Some(clusters) = self.types[ResourceType::Cluster.index()].as_mut() else {
            return;
        };
        let spared = &mut self.spared;
        let late = |response: &&mut WaitingResponse| response.sent_at + SLOW_AFTER <= now;
        let late = spared.unacked.iter_mut().filter(late);
        let slow: Vec<_> = late.flat_map(|response| std::mem::take(&mut response.names)).collect();
        clusters.owe(spared.give_up(&slow, now));
    }

    /// Advance the start of a client; the start ends with the subscription to listeners.
    fn spare_start(&mut self, now: Instant) {
        if matches!(self.spared.start, Start::Over) {
            return;
        }
        let state = |resource_type: ResourceType| self.types[resource_type.index()].as_deref();
        let listens = [ResourceType::Listener, ResourceType::ScopedRoute, ResourceType::Route]
            .into_iter()
            .any(|resource_type| state(resource_type).is_some());
        let has_listeners = state(ResourceType::Listener).is_some_and(|listeners| listeners.has_acked());
        let own_service = self.settings.service_type.is_some();
        let Some(clusters) = self.types[ResourceType::Cluster.index()].as_mut() else {
            return;
        };

        let spared = &mut self.spared;
        spared.start = match spared.start {
            Start::Begun | Start::Warming { .. } if listens || own_service => Start::Over,
            Start::Begun => match (clusters.sent_at, clusters.base()) {
                (Some(sent_at), Some(set)) if set.has_waits() => Start::Warming {
                    until: sent_at + START_MAX,
                },
                _ => Start::Begun,
            },
            Start::Warming { until } if until <= now => {
                let waiting = |wait: Wait| {
                    let all = clusters.base().into_iter().flat_map(|set| set.iter());
                    all.filter(move |cluster| cluster.waits == Some(wait)).cloned()
                };
                let unchecked = waiting(Wait::Checks).map(|cluster| Arc::clone(&cluster.name));
                spared.unchecked = unchecked.collect();
                let unresolved = spared.give_up(&waiting(Wait::Names).collect::<Vec<_>>(), now);
                clusters.owe(unresolved.into_iter().chain(spared.unchecked.iter().cloned()));
                Start::Unchecked {
                    until: now + UNCHECKED_MAX,
                }
            }
            Start::Unchecked { until } if has_listeners || until <= now => {
                clusters.owe(std::mem::take(&mut spared.unchecked));
                Start::Over
            }
            start => start,
        };
    }
}
