//! The loop: events of a backend → plan → snapshot → publish.
//!
//! The one writer of the world and of the snapshot store. It owns every watch, spaces publishes (`coalesce`), looks up last
//! good texts that the plan wants, asks for the second list that a guard wants, and marks the snapshot stale when the store
//! has been silent for too long. It decides nothing about documents: that is [`plan`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::coalesce::Pace;
use super::persist::disk::{Disk, Saved};
use super::plan::{Input, Moment, Plan, plan};
use super::world::World;
use crate::backend::{Backend, Event};
use crate::document::key::Root;
use crate::resource::compile::Difference;
use crate::snapshot::store::Store;
use crate::snapshot::trace::Trace;
use crate::snapshot::{Facts, GroupRules, Snapshot, Source};

mod health;
mod last_good;
mod log;

pub use health::Health;
use health::Roots;
use last_good::LastGood;

/// A list must be this old before a second one may confirm it.
const CONFIRM_AFTER: Duration = Duration::from_secs(10);
/// Events waiting for the loop, over all roots. When it is full the watches wait; nothing is dropped.
const EVENTS: usize = 1024;

/// What an operator asks of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Let what is held act now: these full keys or prefixes; `None`: everything.
    Release(Option<Vec<String>>),
}

/// What the loop is made of.
pub struct Parts {
    /// Where documents live.
    pub backend: Arc<dyn Backend>,
    /// Without documents; its options say which roots are followed.
    pub world: World,
    /// Where snapshots are published.
    pub snapshots: Arc<Store>,
    /// The state directory.
    pub disk: Disk,
    /// Below which last good texts are shared.
    pub state_prefix: String,
    /// Longest distance that a burst puts between two publishes.
    pub publish_distance: Duration,
    /// `--allow-empty`: an empty prefix takes away what proxies hold.
    pub allow_empty: bool,
    /// Asks of operators.
    pub commands: mpsc::Receiver<Command>,
    /// Told of each publish.
    pub observer: Arc<dyn Observer>,
}

/// Who wants to know what the loop saw and did (metrics).
pub trait Observer: Send + Sync + 'static {
    /// A root's watch told something.
    fn told(&self, root: &Root, event: &Event);
    /// A snapshot was published, `waited` after the first of its changes was seen.
    fn published(&self, waited: Duration);
    /// A change altered no resource, so no stream was woken.
    fn skipped(&self);
}

/// The loop, its views shared with `admin` before it runs.
pub struct Reconciler {
    parts: Parts,
    worlds: Arc<ArcSwap<World>>,
    saves: watch::Sender<Option<Arc<World>>>,
    health: watch::Sender<Health>,
    pace: Pace,
    roots: Roots,
    /// The newest snapshot built; the published one, but for the time until `settled`.
    built: Snapshot,
    waiting: Waiting,
    /// When the plan wants to be made again though nothing happens.
    hold_ends: Option<Instant>,
    /// When a root's list is to be confirmed.
    relists: BTreeMap<Root, Instant>,
    /// Last good texts, looked for and remembered.
    last_good: LastGood,
    /// Whether any document was ever there, saved or listed: an empty prefix is meant then.
    had_documents: bool,
    /// Whether a snapshot of what the store itself holds was published. Saved state may serve before.
    settled: bool,
}

/// What has happened since the last plan.
#[derive(Default)]
struct Waiting {
    inputs: Vec<Input>,
    /// When the first of it arrived.
    since: Option<Instant>,
    /// The trace of this change.
    span: Option<Span>,
}

impl Reconciler {
    /// A loop that has not read anything yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let last_good = LastGood::new(&parts.backend, &parts.state_prefix);
        let roots = Roots::new(
            &parts.world.options().layout,
            parts.backend.name(),
            parts.backend.is_shared(),
        );
        Self {
            worlds: Arc::new(ArcSwap::from_pointee(parts.world.clone())),
            saves: watch::Sender::new(None),
            health: watch::Sender::new(roots.health(false)),
            pace: Pace::new(parts.publish_distance),
            built: Snapshot::unpublished(),
            waiting: Waiting::default(),
            hold_ends: None,
            relists: BTreeMap::new(),
            had_documents: false,
            settled: false,
            roots,
            last_good,
            parts,
        }
    }

    /// The current world, for `admin`.
    #[must_use]
    pub fn worlds(&self) -> Arc<ArcSwap<World>> {
        Arc::clone(&self.worlds)
    }

    /// Whether and since when things are as they should be, for `/readyz`.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Run until cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut helpers = JoinSet::new();
        helpers.spawn(self.parts.disk.clone().run(self.saves.subscribe(), token.clone()));
        helpers.spawn(self.last_good.writer(token.clone()));
        self.load_saved().await;
        let mut events = self.follow_roots(&mut helpers, &token);
        while !token.is_cancelled() {
            self.wait(&mut events, &token).await;
            let now = self.now();
            self.ask_for_due_lists(now.instant);
            if self.is_due(now.instant) {
                self.turn(now).await;
            }
            self.health.send_replace(self.roots.health(self.is_published()));
        }
        drop(self);
        while helpers.join_next().await.is_some() {}
    }

    fn now(&self) -> Moment {
        Moment {
            instant: tokio::time::Instant::now().into_std(),
            wall: SystemTime::now(),
        }
    }

    fn is_published(&self) -> bool {
        self.parts.snapshots.current().generation > 0
    }

    /// Take up what an earlier run left. It serves where the store does not answer.
    async fn load_saved(&mut self) {
        match self.parts.disk.load() {
            Ok(None) => {}
            Ok(Some(Saved { revision, entries })) => {
                info!(
                    revision,
                    documents = entries.len(),
                    "Found saved state: it serves if the store does not answer"
                );
                let now = self.now();
                self.roots.restored(now.instant);
                self.had_documents |= !entries.is_empty();
                self.waiting.inputs.push(Input::Saved { entries, revision });
                self.waiting.since = Some(now.instant);
                self.turn(now).await;
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "Could not read the saved state, starting without it"
                );
            }
        }
        self.health.send_replace(self.roots.health(self.is_published()));
    }

    /// One watch a root, all into one channel.
    fn follow_roots(&self, helpers: &mut JoinSet<()>, token: &CancellationToken) -> mpsc::Receiver<(Root, Event)> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        for (root, relist) in self.roots.watches() {
            let backend = Arc::clone(&self.parts.backend);
            let prefix = self.parts.world.options().layout.prefix_of(&root).to_owned();
            let (token, sender) = (token.clone(), sender.clone());
            let span = info_span!("watch", prefix);
            helpers.spawn(
                async move {
                    let (events, mut own) = mpsc::channel(EVENTS);
                    let forward = async {
                        while let Some(event) = own.recv().await {
                            if sender.send((root.clone(), event)).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::join!(backend.watch(&prefix, relist, events, token), forward);
                }
                .instrument(span),
            );
        }
        receiver
    }

    /// Until something happened or is due.
    async fn wait(&mut self, events: &mut mpsc::Receiver<(Root, Event)>, token: &CancellationToken) {
        let wake_up = self.wake_up();
        let timer = async {
            match wake_up {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((root, event)) = events.recv() => {
                self.on_event(root, event);
                while let Ok((root, event)) = events.try_recv() {
                    self.on_event(root, event);
                }
            }
            Some(command) = self.parts.commands.recv() => self.on_command(command),
            Some((key, text)) = self.last_good.found() => self.add(Input::LastGood { key, text }),
            () = timer => {}
            () = token.cancelled() => {}
        }
    }

    /// The earliest moment at which something is to be done though nothing happens.
    fn wake_up(&self) -> Option<Instant> {
        let due = self.waiting.since.map(|since| self.pace.due(since));
        let moments = [due, self.hold_ends, self.roots_deadline()];
        moments
            .into_iter()
            .flatten()
            .chain(self.relists.values().copied())
            .min()
    }

    fn is_due(&self, now: Instant) -> bool {
        let change = self.waiting.since.is_some_and(|since| self.pace.due(since) <= now);
        change || self.hold_ends.is_some_and(|at| at <= now) || self.roots_deadline().is_some_and(|at| at <= now)
    }

    /// When the snapshot becomes stale, saved state begins to serve, or the first publish of the store need not wait for a
    /// root any longer; while last good texts are looked for that waits for those.
    fn roots_deadline(&self) -> Option<Instant> {
        let told = self
            .roots
            .next_deadline(self.settled)
            .filter(|_| self.settled || !self.last_good.is_looking());
        [told, self.roots.saved_due()].into_iter().flatten().min()
    }

    fn add(&mut self, input: Input) {
        self.waiting
            .since
            .get_or_insert_with(|| tokio::time::Instant::now().into_std());
        self.waiting.inputs.push(input);
    }

    fn on_event(&mut self, root: Root, event: Event) {
        self.parts.observer.told(&root, &event);
        let now = tokio::time::Instant::now().into_std();
        match event {
            Event::Alive => {
                if self.roots.alive(&root, now) {
                    // The snapshot is stale no longer: say so to the streams.
                    self.waiting.since.get_or_insert(now);
                }
            }
            Event::Problems { problems } => {
                problems.iter().for_each(log::problem);
                self.add(Input::Problems { root, problems });
            }
            Event::Failed { reason } => self.roots.failed(&root, reason, now),
            Event::Listed {
                revision,
                reason,
                entries,
            } => {
                info!(
                    prefix = self.prefix_of(&root),
                    revision,
                    reason = reason.as_str(),
                    keys = entries.len(),
                    "Listed"
                );
                self.roots.listed(&root, now);
                self.had_documents |= root == Root::Documents && !entries.is_empty();
                self.begin_trace(revision);
                self.add(Input::Listed {
                    root,
                    revision,
                    reason,
                    entries,
                });
            }
            Event::Changed { revision, changes } => {
                debug!(
                    prefix = self.prefix_of(&root),
                    revision,
                    keys = changes.len(),
                    "Changed"
                );
                self.roots.alive(&root, now);
                self.had_documents |= root == Root::Documents;
                self.begin_trace(revision);
                self.add(Input::Changed {
                    root,
                    revision,
                    changes,
                });
            }
        }
    }

    fn prefix_of(&self, root: &Root) -> String {
        self.parts.world.options().layout.prefix_of(root).to_owned()
    }

    /// One trace a change: it starts with the first revision that is seen and ends with the ACKs of its publish.
    fn begin_trace(&mut self, revision: i64) {
        self.waiting
            .span
            .get_or_insert_with(|| info_span!(parent: None, "change", store.revision = revision));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Release(keys) => self.add(Input::Release(keys)),
        }
    }

    fn ask_for_due_lists(&mut self, now: Instant) {
        let due: Vec<Root> = self
            .relists
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(root, _)| root.clone())
            .collect();
        for root in due {
            self.relists.remove(&root);
            self.roots.relist(&root);
        }
    }

    /// One turn: plan what has happened, publish what follows.
    async fn turn(&mut self, now: Moment) {
        let Waiting {
            mut inputs,
            since,
            span,
        } = std::mem::take(&mut self.waiting);
        let span = span.unwrap_or_else(|| info_span!(parent: None, "change"));
        if inputs.is_empty() || self.hold_ends.is_some_and(|at| at <= now.instant) {
            inputs.push(Input::Tick);
        }
        let world = World::clone(&self.worlds.load());
        let planning = info_span!(parent: &span, "plan", inputs = inputs.len());
        let planned = tokio::task::spawn_blocking(move || planning.in_scope(|| plan(&world, inputs, now))).await;
        match planned {
            Ok(planned) => self.apply(planned, now, since.unwrap_or(now.instant), span).await,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => debug!("The plan was cut short by the end of the process"),
        }
    }

    async fn apply(&mut self, planned: Plan, now: Moment, arrived: Instant, span: Span) {
        for verdict in &planned.verdicts {
            log::verdict(verdict);
        }
        self.hold_ends = planned.deadline;
        for root in planned.relist {
            self.relists.entry(root).or_insert(now.instant + CONFIRM_AFTER);
        }
        let world = Arc::new(planned.world);
        self.worlds.store(Arc::clone(&world));
        for write in planned.last_good {
            self.last_good.remember(&world, write).await;
        }
        for key in planned.wanted {
            self.last_good.look_for(&world, key);
        }
        self.build(&world, &planned.difference, now);
        if !self.may_publish(now.instant) {
            return;
        }
        self.publish(arrived, &span);
        self.saves.send_replace(Some(Arc::clone(&world)));
        self.pace.published(arrived, now.instant);
        if !self.settled && !self.roots.is_from_disk(now.instant) {
            self.settled = true;
            log::older_forms(&world);
            self.last_good.forget_what_was_mended(&world).await;
        }
    }

    /// The next snapshot. One that says nothing new keeps the generation, so that no stream is woken for it.
    fn build(&mut self, world: &World, difference: &Difference, now: Moment) {
        let stale = self.roots.is_stale(now.instant);
        let facts = Facts {
            revision: world.revision(),
            built_at: now.wall,
            source: self.source(now.instant),
            stale,
            withhold_removals: !self.parts.allow_empty && !self.had_documents,
            group_rules: group_rules(world),
        };
        let unchanged = difference.is_empty()
            && self.built.generation > 0
            && self.built.stale == facts.stale
            && self.built.withhold_removals == facts.withhold_removals
            && self.built.group_rules == facts.group_rules;
        let generation = self.built.generation;
        let mut next = self.built.next(difference, facts);
        if unchanged {
            next.generation = generation;
        }
        self.built = next;
    }

    fn source(&self, now: Instant) -> Source {
        match self.parts.backend.name() {
            _ if self.roots.is_from_disk(now) => Source::Disk,
            "etcd" => Source::Etcd,
            "directory" => Source::Directory,
            _ => Source::Memory,
        }
    }

    /// After the first publish of what the store holds: always. Before: once every root has been listed or given up, and
    /// every bad document's last good text was looked for, lest it be taken from proxies that have it; or when saved state
    /// is to serve.
    fn may_publish(&self, now: Instant) -> bool {
        self.settled || self.roots.is_from_disk(now) || (!self.last_good.is_looking() && self.roots.all_told(now))
    }

    /// Swap the pointer. What says nothing new to streams only brings the revision that people see.
    fn publish(&mut self, arrived: Instant, change: &Span) {
        let (revision, generation) = (self.built.revision, self.built.generation);
        let (source, stale) = (self.built.source.as_str(), self.built.stale);
        let news = generation != self.parts.snapshots.current().generation;
        let span = if news {
            info_span!(parent: change, "publish", store.revision = revision, generation)
        } else {
            change.clone()
        };
        let _inside = span.enter();
        if news {
            self.built.trace = Trace::of(&span);
        }
        self.parts.snapshots.publish(Arc::new(self.built.clone()));
        if news {
            let waited = tokio::time::Instant::now()
                .into_std()
                .saturating_duration_since(arrived);
            info!(revision, generation, source, stale, ?waited, "Published");
            self.parts.observer.published(waited);
        } else {
            debug!(revision, generation, "Nothing to publish");
            self.parts.observer.skipped();
        }
    }
}

fn group_rules(world: &World) -> Arc<GroupRules> {
    let mut rules: Vec<_> = world.groups().collect();
    rules.sort_by(|(a, left), (b, right)| right.priority.cmp(&left.priority).then_with(|| a.cmp(b)));
    rules.into()
}
