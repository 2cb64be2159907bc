//! The stage between the fleet and the loop: documents that every proxy refuses which has answered.
//!
//! In: NACKs that wait in the fleet; the world, and each publish. Out: commands to the loop. A NACK is judged 2 s after its
//! arrival. If its cause may be any of several documents, they fall back together. Then they are tried again ([`trials`]),
//! until a proxy ACKs them or they have fallen back once more. The replica that sent them into quarantine tries them
//! again; if that replica is gone, another one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::document::key::DocumentKey;
use crate::fleet::suspicions::{Judged, PATIENCE, refusal_reason};
use crate::fleet::{Fleet, SUSPECTS_MAX};
use crate::reconcile::quarantine::Quarantined;
use crate::reconcile::refusal::{Refusal, Witness};
use crate::reconcile::run::Command;
use crate::reconcile::world::World;
use crate::resource::refused::RefusedResource;

mod trials;

use trials::{Outcome, Trials};

/// Longest trial of documents that no proxy ACKs or NACKs.
const TRIAL: Duration = Duration::from_secs(3);
/// After the first document of a trial has fallen back again: longest wait for the others.
const FALL_BACK_WITHIN: Duration = Duration::from_millis(500);
/// Longest message of a proxy in the record of each document, in bytes, if the records are many.
const SHORT_MESSAGE: usize = 256;
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
    trials: Trials,
    trial: Option<Trial>,
    /// When this replica takes over trials of another one.
    adopts_at: Option<Instant>,
}

/// Documents that serve their refused texts once more.
struct Trial {
    documents: BTreeMap<DocumentKey, Tried>,
    /// One of them has fallen back again.
    is_refused: bool,
    until: Instant,
}

struct Tried {
    about: i64,
    /// When the quarantine was recorded that this trial ends.
    since: SystemTime,
    resources: Vec<RefusedResource>,
}

impl Tried {
    fn is_back(&self, now: Option<&Quarantined<'_>>) -> bool {
        now.is_some_and(|now| (now.about, now.since) != (self.about, self.since))
    }
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
            trials: Trials::default(),
            trial: None,
            adopts_at: None,
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
        let message = match count {
            ..=SUSPECTS_MAX => &message,
            _ => &message[..message.floor_char_boundary(SHORT_MESSAGE)],
        };
        let reason: Arc<str> = refusal_reason(&nodes, count, message).into();
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
        let quarantined: BTreeMap<&DocumentKey, Quarantined<'_>> =
            world.quarantined().map(|one| (one.key, one)).collect();
        self.own
            .retain(|key, at| quarantined.contains_key(key) || now < *at + RECORDED_WITHIN);
        if !self.is_trial_over(&quarantined, now) {
            return;
        }

        let untried = quarantined.values().filter(|one| !one.quarantine.is_sole_suspect);
        let (due, of_others): (Vec<&Quarantined<'_>>, Vec<_>) = untried.partition(|one| {
            let age = SystemTime::now().duration_since(one.since).unwrap_or_default();
            self.own.contains_key(one.key) || age >= ADOPTED_AFTER
        });
        self.adopts_at = (!of_others.is_empty()).then_some(now + ADOPTED_AFTER);
        let keys = self.trials.next(&due.iter().map(|one| one.key).collect());
        self.fleet.suspicions().await_acks(!keys.is_empty());
        match keys.as_slice() {
            [] => return,
            [key] => {
                info!(document.key = %key, "Document is tried again alone: proxies refused it together with others")
            }
            [first, ..] => info!(
                documents = keys.len(),
                first = %first,
                "Half of the documents that proxies refused together are tried again"
            ),
        }

        let tried = |key: DocumentKey| {
            let one = quarantined.get(&key)?;
            let tried = Tried {
                about: one.about,
                since: one.since,
                resources: one.quarantine.resources.clone(),
            };
            Some((key, tried))
        };
        let documents: BTreeMap<_, _> = keys.into_iter().filter_map(tried).collect();
        let texts = documents.iter().map(|(key, tried)| (key.clone(), tried.about));
        let command = Command::TryAgain(texts.collect());
        self.trial = Some(Trial {
            documents,
            is_refused: false,
            until: now + PATIENCE.max(TRIAL),
        });
        self.send(command).await;
    }

    /// Whether no trial is going on. Ends one that is decided.
    fn is_trial_over(&mut self, quarantined: &BTreeMap<&DocumentKey, Quarantined<'_>>, now: Instant) -> bool {
        let Some(trial) = &mut self.trial else { return true };
        let documents = &trial.documents;
        let is_back = |(key, tried): &(&DocumentKey, &Tried)| tried.is_back(quarantined.get(key));
        let back = documents.iter().filter(is_back).count();
        if back > 0 && !trial.is_refused {
            (trial.is_refused, trial.until) = (true, now + FALL_BACK_WITHIN);
        }

        let is_late = trial.until <= now;
        let of_trial = || documents.iter().map(|(key, tried)| (key, &*tried.resources));
        let outcome = if back == documents.len() || (trial.is_refused && is_late) {
            Outcome::Refused
        } else if !trial.is_refused && self.fleet.has_accepted_all(of_trial()) {
            Outcome::Accepted
        } else if is_late && !self.fleet.suspicions().may_be_of(&documents.keys().collect()) {
            Outcome::Unanswered
        } else {
            if is_late {
                trial.until = self.fleet.suspicions().due_at().unwrap_or(now + PATIENCE);
            }
            return false;
        };
        self.trials.on_end(outcome);
        self.trial = None;
        true
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
