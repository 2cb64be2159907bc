//! The stage between the fleet and the loop: documents that every proxy refuses which has answered.
//!
//! In: NACKs that wait in the fleet; the world, and each publish. Out: commands to the loop. A NACK is judged 2 s after its
//! arrival. If its cause may be any of several documents, they fall back together. Then each is tried again alone, until a
//! proxy ACKs it or it has fallen back once more. The replica that sent them into quarantine tries them again; if that
//! replica is gone, another one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::document::key::DocumentKey;
use crate::fleet::Fleet;
use crate::fleet::suspicions::{Judged, PATIENCE, refusal_reason};
use crate::reconcile::quarantine::Quarantined;
use crate::reconcile::refusal::{Refusal, Witness};
use crate::reconcile::run::Command;
use crate::reconcile::world::World;
use crate::resource::refused::RefusedResource;

/// Longest trial of a document that no proxy ACKs or NACKs.
const TRIAL: Duration = Duration::from_secs(3);
/// Shortest time between two looks at all streams during a trial.
const LOOKS_APART: Duration = Duration::from_millis(20);
/// Longest time until the loop has read the record of a refusal.
const RECORDED_WITHIN: Duration = Duration::from_secs(10);
/// After this time the replica that sent a document into quarantine counts as gone.
const ADOPTED_AFTER: Duration = Duration::from_secs(60);

/// The resources that the proxies of this replica have accepted.
pub(super) struct FleetWitness(pub(super) Fleet);

impl Witness for FleetWitness {
    fn has_accepted(&self, document: &DocumentKey, resources: &[RefusedResource]) -> bool {
        self.0.has_accepted(document, resources)
    }
}

/// The stage.
pub(super) struct Quarantine {
    fleet: Fleet,
    worlds: Arc<ArcSwap<World>>,
    published: watch::Receiver<u64>,
    commands: mpsc::Sender<Command>,
    /// Documents that this replica sent into quarantine together with others, and when.
    own: BTreeMap<DocumentKey, Instant>,
    trial: Option<Trial>,
    /// When this replica takes over trials of another one.
    adopts_at: Option<Instant>,
    /// The document that was tried last.
    last: Option<DocumentKey>,
}

/// A document that serves its refused text once more.
struct Trial {
    key: DocumentKey,
    about: i64,
    /// When the quarantine was recorded that this trial ends.
    since: SystemTime,
    resources: Vec<RefusedResource>,
    until: Instant,
}

impl Quarantine {
    pub(super) fn new(
        fleet: Fleet,
        worlds: Arc<ArcSwap<World>>,
        published: watch::Receiver<u64>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            fleet,
            worlds,
            published,
            commands,
            own: BTreeMap::new(),
            adopts_at: None,
            trial: None,
            last: None,
        }
    }

    pub(super) async fn run(mut self, token: CancellationToken) {
        loop {
            let wake_up = self.wake_up();
            tokio::select! {
                () = token.cancelled() => return,
                () = self.fleet.suspicions().changed() => {}
                Ok(()) = self.published.changed() => {}
                () = sleep_until(wake_up) => {}
            }
            let now = Instant::now();
            self.judge(now).await;
            self.try_again(now).await;
            if self.trial.is_some() {
                // Each ACK wakes the stage, and each look is at all streams.
                tokio::time::sleep(LOOKS_APART).await;
            }
        }
    }

    fn wake_up(&self) -> Option<Instant> {
        let trial = self.trial.as_ref().map(|trial| trial.until);
        let due = self.fleet.suspicions().due_at();
        [due, trial, self.adopts_at].into_iter().flatten().min()
    }

    /// Judge the NACKs whose time is over.
    async fn judge(&mut self, now: Instant) {
        let due = self.fleet.suspicions().take_due(now);
        let mut refused = Vec::new();
        for suspicion in due {
            let shares = refused.iter().any(|other| suspicion.shares_a_resource(other));
            match self.fleet.judge(&suspicion).filter(|_| !shares) {
                Some(judged) => {
                    self.refuse(judged).await;
                    refused.push(suspicion);
                }
                None => debug!("A NACK is resolved, or is the trouble of one host: no document falls back"),
            }
        }
        self.fleet.suspicions().postpone(&refused, now);
    }

    async fn refuse(&mut self, judged: Judged) {
        let Judged {
            documents,
            nodes,
            message,
        } = judged;
        let count = documents.len();
        let reason: Arc<str> = refusal_reason(&nodes, count, &message).into();
        if count > 1 {
            let now = Instant::now();
            self.own.extend(documents.keys().map(|key| (key.clone(), now)));
        }
        let refusals = documents.into_iter().map(|(key, resources)| Refusal {
            key,
            resources,
            reason: Arc::clone(&reason),
            is_sole_suspect: count == 1,
        });
        self.send(Command::Refuse(refusals.collect())).await;
    }

    /// End the trial that is decided, and begin the next one.
    async fn try_again(&mut self, now: Instant) {
        let world = self.worlds.load_full();
        let quarantined: Vec<Quarantined<'_>> = world.quarantined().collect();
        let is_quarantined = |key: &DocumentKey| quarantined.iter().any(|one| one.key == key);
        self.own
            .retain(|key, at| is_quarantined(key) || now < *at + RECORDED_WITHIN);

        if let Some(trial) = &mut self.trial {
            let is_back = quarantined
                .iter()
                .any(|one| *one.key == trial.key && (one.about, one.since) != (trial.about, trial.since));
            let is_accepted = || self.fleet.has_accepted(&trial.key, &trial.resources);
            let is_over = trial.until <= now && !self.fleet.suspicions().names(&trial.key);
            if !is_back && !is_accepted() && !is_over {
                if trial.until <= now {
                    trial.until = self.fleet.suspicions().due_at().unwrap_or(now + PATIENCE);
                }
                return;
            }
            self.last = Some(trial.key.clone());
            self.trial = None;
        }

        let untried = quarantined.iter().filter(|one| !one.quarantine.is_sole_suspect);
        let (due, of_others): (Vec<&Quarantined<'_>>, Vec<_>) = untried.partition(|one| {
            let age = SystemTime::now().duration_since(one.since).unwrap_or_default();
            self.own.contains_key(one.key) || age >= ADOPTED_AFTER
        });
        self.adopts_at = (!of_others.is_empty()).then_some(now + ADOPTED_AFTER);
        let is_after_last = |one: &&&Quarantined<'_>| self.last.as_ref().is_none_or(|last| one.key > last);
        let next = due.iter().find(is_after_last);
        let Some(next) = next.or_else(|| due.first()) else {
            self.fleet.suspicions().await_acks(false);
            return;
        };
        info!(document.key = %next.key, "Document is tried again alone: proxies refused it together with others");
        self.trial = Some(Trial {
            key: next.key.clone(),
            about: next.about,
            since: next.since,
            resources: next.quarantine.resources.clone(),
            until: now + PATIENCE.max(TRIAL),
        });
        self.fleet.suspicions().await_acks(true);
        let command = Command::TryAgain {
            key: next.key.clone(),
            about: next.about,
        };
        self.send(command).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            debug!("Process stopped before the loop took a command");
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
