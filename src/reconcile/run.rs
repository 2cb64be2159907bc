//! The loop: events of a backend → plan → snapshot → publish.
//!
//! The loop is the only writer of the world and of the snapshot store. It
//!
//! - owns every watch and spaces publishes (`coalesce`);
//! - looks up last good texts that the plan wants, and asks for the second list that a guard wants;
//! - marks the snapshot stale if the store has not answered for 30 s.
//!
//! The loop waits for events and for its own plan, never for the store. All decisions about documents are made by
//! [`plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::coalesce::Pace;
use super::cut::{Answer, Cut};
use super::hold::CONFIRMED_AFTER;
use super::memory::{Content, Folder, Known, MemoryWrite};
use super::persist::disk::{Disk, Kept, Saved};
use super::plan::{Input, Moment, Plan, plan};
use super::refusal::{Refusal, Witness};
use super::world::World;
use crate::backend::etcd::Etcd;
use crate::backend::{Backend, Entry, Event, WatchControl};
use crate::document::key::{DocumentKey, Root};
use crate::resource::compile::Difference;
use crate::snapshot::steps::{Cause, Step};
use crate::snapshot::store::Store;
use crate::snapshot::trace::Trace;
use crate::snapshot::{Facts, GroupRules, Snapshot, Source};

mod arrivals;
mod cause;
mod health;
mod log;
mod recall;
mod registries;

pub use arrivals::Arrivals;
use arrivals::Planned;
pub use health::Health;
use health::Roots;
use recall::Recall;
use registries::Registries;

/// Events of one watch that wait for the loop. If the queue is full, the watch waits; no event is dropped.
const EVENTS: usize = 1024;
/// Most events that the loop takes before it checks whether a plan is due.
const EVENTS_AT_ONCE: usize = 4096;
/// Longest wait of the first publish for the shared memory, if the store lists documents but not that.
const MEMORY_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait of a publish for the first list of a new registry, so that its instances come with the documents that
/// name it.
const REGISTRY_PATIENCE: Duration = Duration::from_millis(500);

/// A request to the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Let held changes act now: these full keys or prefixes; `None`: all.
    Release(Option<Vec<String>>),
    /// Every proxy that answered refuses these documents.
    Refuse(Vec<Refusal>),
    /// The files that these documents name have other content.
    ReadAgain(Vec<DocumentKey>),
    /// Try quarantined texts again: documents, each with the `mod_revision` of its text.
    TryAgain(BTreeMap<DocumentKey, i64>),
}

/// The parts of the loop.
pub struct Parts {
    /// The store of documents.
    pub backend: Arc<dyn Backend>,
    /// A world without documents; its options name the roots to follow.
    pub world: World,
    /// The store of published snapshots.
    pub snapshots: Arc<Store>,
    /// The state directory.
    pub disk: Disk,
    /// The prefix of the shared memory.
    pub state_prefix: String,
    /// Longest distance that a burst puts between two publishes.
    pub publish_distance: Duration,
    /// `--allow-empty`: an empty prefix removes the resources of proxies.
    pub allow_empty: bool,
    /// Requests of operators, and what proxies refuse.
    pub commands: mpsc::Receiver<Command>,
    /// Receives each event and publish.
    pub observer: Arc<dyn Observer>,
    /// Knows what proxies have accepted.
    pub witness: Arc<dyn Witness>,
}

/// Receives what the loop saw and did (metrics).
pub trait Observer: Send + Sync + 'static {
    /// The watch of a root sent an event.
    fn observed(&self, root: &Root, event: &Event);
    /// A snapshot was published, `waited` after the first of its changes was seen.
    fn published(&self, waited: Duration);
    /// A change altered no resource, so no stream was woken.
    fn skipped(&self);
    /// These lists and changes of the roots of documents were planned, in order. Must not block.
    fn planned(&self, planned: PlannedEvents) {
        drop(planned);
    }
}

/// What one plan has taken in of the roots of documents.
#[derive(Debug)]
pub struct PlannedEvents {
    /// The prefix of the root, and the list or the change.
    pub events: Vec<(Arc<str>, Event)>,
    /// Every root has reached this revision, also without an event.
    pub whole: Option<i64>,
    /// A guard holds changes of a root of documents.
    pub is_held: bool,
    /// The step that the plan made, if documents took part.
    pub step: Option<Arc<Step>>,
}

/// The loop. `admin` takes its views before it runs.
pub struct Reconciler {
    parts: Parts,
    worlds: Arc<ArcSwap<World>>,
    saves: watch::Sender<Option<Arc<World>>>,
    health: watch::Sender<Health>,
    pace: Pace,
    roots: Roots,
    /// The newest snapshot built. Once the store is published, also the published one, except for `unpublished`.
    built: Snapshot,
    /// A world was planned for a request that waits, before the next publish is due: the arrival of its first change,
    /// and its trace.
    unpublished: Option<(Instant, Span)>,
    /// Requests that wait for the world.
    planned: Planned,
    waiting: Waiting,
    /// The end of the earliest hold: a plan is due then without any input.
    hold_ends: Option<Instant>,
    /// When to ask a root for a second list.
    relists: BTreeMap<Root, Instant>,
    /// How far the roots have come.
    cut: Cut<Followed>,
    /// The registries whose registrations are followed.
    registries: Registries,
    /// The shared memory, read and written.
    recall: Recall,
    /// Folders of the shared memory that have not been listed yet.
    unread: BTreeSet<Folder>,
    /// Folders of the shared memory that cannot be read now.
    failing: BTreeSet<Folder>,
    /// The end of the first publish's wait for unread folders; set by the first list of documents.
    memory_due: Option<Instant>,
    /// What an earlier run saved, until the store's content is published. It serves where the store does not answer.
    /// Otherwise it is only asked for good texts that the store's history has lost.
    saved: Option<Saved>,
    /// The quarantine of an earlier run, if it is saved in the state directory, until its documents are listed.
    kept: Vec<Kept>,
    /// Documents served before, or were listed, so an empty prefix is no mistake.
    had_documents: bool,
    /// A snapshot of the store's content was published. Saved state may serve before.
    has_published_store: bool,
}

/// Inputs since the last plan.
#[derive(Default)]
struct Waiting {
    /// Each with its revision of the store; 0: the input has none.
    inputs: Vec<(i64, Input)>,
    /// Inputs up to this revision may be planned: every source that can be read has reached it.
    whole_up_to: i64,
    /// Sources that cannot be read, when the revision above was set.
    unread: Vec<Followed>,
    /// Arrival of the first input.
    since: Option<Instant>,
    /// The trace of this change.
    span: Option<Span>,
}

/// The content that a watch follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Followed {
    Root(Root),
    Memory(Folder),
}

type Events = StreamMap<Followed, ReceiverStream<Event>>;

impl Waiting {
    /// The inputs up to the revision that all roots have reached, the arrival of the first, and the trace. Newer inputs
    /// stay.
    fn take(&mut self) -> (Vec<Input>, Option<Instant>, Option<Span>) {
        let whole_up_to = std::mem::take(&mut self.whole_up_to);
        let (whole, newer): (Vec<_>, Vec<_>) = std::mem::take(&mut self.inputs)
            .into_iter()
            .partition(|(revision, _)| *revision <= whole_up_to);
        let (since, span) = (self.since.take(), self.span.take());
        if !newer.is_empty() {
            (self.inputs, self.since) = (newer, since);
        }
        let mut inputs = in_order(whole);
        let mut except = Vec::new();
        let mut is_memory_read = true;
        for source in std::mem::take(&mut self.unread) {
            match source {
                Followed::Root(root) => except.push(root),
                Followed::Memory(_) => is_memory_read = false,
            }
        }
        if is_memory_read && whole_up_to > 0 && whole_up_to < i64::MAX {
            let revision = whole_up_to;
            inputs.push(Input::Reached { revision, except });
        }
        (inputs, since, span)
    }
}

/// This moment. Tests may pause the clock of its instant.
#[must_use]
pub fn now() -> Moment {
    Moment {
        instant: tokio::time::Instant::now().into_std(),
        wall: SystemTime::now(),
    }
}

/// Inputs in the order of their revisions, so that replicas plan a revision alike. Inputs of one source keep their
/// order: the list of another history may have a lower revision.
fn in_order(inputs: Vec<(i64, Input)>) -> Vec<Input> {
    let mut reached: BTreeMap<Option<Followed>, i64> = BTreeMap::new();
    let keyed = inputs.into_iter().map(|(revision, input)| {
        let source = match &input {
            Input::Event { root, .. } => Some(Followed::Root(root.clone())),
            Input::Remembered { folder, .. } => Some(Followed::Memory(*folder)),
            _ => None,
        };
        let reached = reached.entry(source).or_default();
        *reached = revision.max(*reached);
        (*reached, input)
    });
    let mut keyed: Vec<(i64, Input)> = keyed.collect();
    keyed.sort_by_key(|(revision, _)| *revision);
    keyed.into_iter().map(|(_, input)| input).collect()
}

impl Reconciler {
    /// A loop that has read nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let vault = &parts.world.options.vault;
        let recall = Recall::new(&parts.backend, &parts.state_prefix, parts.disk.unsaved(), vault);
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
            unpublished: None,
            planned: Planned::default(),
            waiting: Waiting::default(),
            hold_ends: None,
            relists: BTreeMap::new(),
            saved: None,
            kept: Vec::new(),
            had_documents: false,
            has_published_store: false,
            roots,
            cut: Cut::default(),
            registries: Registries::default(),
            unread: recall.folders().map(|(folder, ..)| folder).collect(),
            failing: BTreeSet::new(),
            memory_due: None,
            recall,
            parts,
        }
    }

    /// The current world, for `admin`.
    #[must_use]
    pub fn worlds(&self) -> Arc<ArcSwap<World>> {
        Arc::clone(&self.worlds)
    }

    /// Waits for the world, for `admin`.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals {
        self.planned.arrivals()
    }

    /// Whether and since when things are as they should be, for `/readyz`.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Run until cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut helpers = JoinSet::new();
        if !self.parts.backend.is_shared() {
            self.kept = self.parts.disk.keep_quarantine();
        }
        helpers.spawn(self.parts.disk.clone().run(self.saves.subscribe(), token.clone()));
        helpers.spawn(self.recall.writer(token.clone()));
        self.load_saved();
        let mut events = self.follow(&mut helpers, &token);
        while !token.is_cancelled() {
            self.wait(&mut events, &token).await;
            let now = now();
            self.ask_for_due_lists(now.instant);
            let is_due = self.is_due(now.instant);
            if (is_due || self.is_awaited()) && self.is_whole(now.instant) {
                self.turn(now, !is_due).await;
            } else if self.publish_due().is_some_and(|due| due <= now.instant) {
                self.publish_planned(now);
            }
            self.watch_registries(&mut events, &mut helpers);
            self.health.send_replace(self.roots.health(self.is_published()));
        }
        // The watches of registries end with the receivers of their events.
        drop((self, events));
        while helpers.join_next().await.is_some() {}
    }

    fn is_published(&self) -> bool {
        self.parts.snapshots.current().generation > 0
    }

    /// Load the state that an earlier run saved. It serves if the store does not answer.
    fn load_saved(&mut self) {
        match self.parts.disk.load() {
            Ok(None) => {}
            Ok(Some(saved)) => {
                info!(
                    revision = saved.revision,
                    documents = saved.entries.len(),
                    "Saved state is loaded; it serves only if the store does not answer"
                );
                self.roots.restored(now().instant);
                self.saved = Some(saved);
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "Saved state is not used; the server starts without it"
                );
            }
        }
        self.health.send_replace(self.roots.health(self.is_published()));
    }

    /// Saved texts of roots that cannot be listed, if a publish is due without them. Saved state that does not serve
    /// never enters the world: the guards protect what proxies have.
    fn take_saved(&mut self, now: Instant) -> Option<Input> {
        if self.has_published_store || !self.may_publish(now) {
            return None;
        }
        let Saved { revision, entries } = self.saved.take()?;
        let takes = |root: &Root| self.roots.takes_saved(root, now);
        let (entries, others) = entries.into_iter().partition(|(root, _)| takes(root));
        self.saved = Some(Saved {
            revision,
            entries: others,
        });
        let entries: Vec<(Root, Entry)> = entries;
        self.had_documents |= entries.iter().any(|(root, _)| *root == Root::Documents);
        (!entries.is_empty()).then_some(Input::Saved { entries, revision })
    }

    /// One watch a root, and one a folder of the shared memory.
    fn follow(&self, helpers: &mut JoinSet<()>, token: &CancellationToken) -> Events {
        let mut events = Events::new();
        let layout = &self.parts.world.options().layout;
        let roots = self.roots.watches().into_iter().map(|(root, control)| {
            let prefix = layout.prefix_of(&root).to_owned();
            (Followed::Root(root), prefix, control)
        });
        let folders = self
            .recall
            .folders()
            .map(|(folder, prefix, control)| (Followed::Memory(folder), prefix, control));
        for (followed, prefix, control) in roots.chain(folders) {
            let (sender, receiver) = mpsc::channel(EVENTS);
            let (backend, token) = (Arc::clone(&self.parts.backend), token.clone());
            let span = info_span!("watch", prefix);
            let watch = async move { backend.watch(&prefix, control, sender, token).await };
            helpers.spawn(watch.instrument(span));
            events.insert(followed, ReceiverStream::new(receiver));
        }
        events
    }

    /// Wait for an event, a request, or a deadline.
    async fn wait(&mut self, events: &mut Events, token: &CancellationToken) {
        let wake_up = self.wake_up();
        let timer = async {
            match wake_up {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut received = Vec::new();
        tokio::select! {
            1.. = events.next_many(&mut received, EVENTS_AT_ONCE) => {
                for (followed, event) in received {
                    match followed {
                        Followed::Root(root) => self.on_event(root, event),
                        Followed::Memory(folder) => self.on_memory(folder, event),
                    }
                }
            }
            Some(command) = self.parts.commands.recv() => self.on_command(command),
            Some((key, texts)) = self.recall.found() => self.add(0, Input::Found { key, texts }),
            () = self.planned.asked() => {}
            () = timer => {}
            () = token.cancelled() => {}
        }
    }

    /// The earliest deadline.
    fn wake_up(&self) -> Option<Instant> {
        let relists = self.relists.values().copied().chain(self.publish_due());
        if let Some(at) = self.cut.deadline() {
            // A plan is due, and waits for a root.
            return relists.chain([at]).min();
        }
        let due = self.waiting.since.map(|since| match self.is_awaited() {
            true => since,
            false => self.pace.due(since),
        });
        let moments = [due, self.hold_ends, self.roots_deadline(), self.recall.deadline()];
        moments.into_iter().flatten().chain(relists).min()
    }

    fn is_due(&self, now: Instant) -> bool {
        let change = self.waiting.since.is_some_and(|since| self.pace.due(since) <= now);
        let ends = [self.hold_ends, self.roots_deadline(), self.recall.deadline()];
        change || ends.into_iter().flatten().any(|at| at <= now)
    }

    /// Whether a request waits for the world, and inputs wait to be planned.
    fn is_awaited(&self) -> bool {
        self.planned.is_awaited() && !self.waiting.inputs.is_empty()
    }

    /// When the world that was planned early, or that waits for a new registry, is to be published; `None` also while the
    /// publish waits for records.
    fn publish_due(&self) -> Option<Instant> {
        let (arrived, _) = self.unpublished.as_ref()?;
        let due = self.registries.awaited_until().max(Some(self.pace.due(*arrived)));
        due.filter(|_| self.recall.deadline().is_none())
    }

    /// Whether every source has reached the newest waiting revision. Asks the others for their progress.
    fn is_whole(&mut self, now: Instant) -> bool {
        let newest = self.waiting.inputs.iter().map(|(revision, _)| *revision).max();
        match self.cut.ask(newest.filter(|newest| *newest > 0), now) {
            Answer::UpTo(revision) => {
                self.waiting.whole_up_to = revision;
                self.waiting.unread = self.cut.unread().cloned().collect();
                true
            }
            Answer::All => {
                self.waiting.whole_up_to = i64::MAX;
                true
            }
            Answer::Wait(sources) => {
                sources.iter().for_each(|source| self.control_of(source).progress());
                false
            }
        }
    }

    fn control_of(&self, followed: &Followed) -> WatchControl {
        match followed {
            Followed::Root(root) => self.roots.control(root),
            Followed::Memory(folder) => self.recall.control(*folder),
        }
    }

    /// A source was listed: the store answers. Sources that wait for their next attempt try at once, so that no
    /// document is published without the records about it.
    fn on_listed(&mut self, followed: &Followed, revision: i64) {
        for away in self.cut.on_listed(followed, revision) {
            self.control_of(&away).relist();
        }
    }

    /// The earliest of four deadlines: the snapshot turns stale; saved state starts to serve; the first publish stops
    /// waiting for a root; the first publish stops waiting for the shared memory. During a search for good texts, the
    /// third is suspended.
    fn roots_deadline(&self) -> Option<Instant> {
        let is_first = !self.has_published_store;
        let roots = self.roots.next_deadline(is_first);
        let roots = roots.filter(|_| !is_first || !self.recall.is_looking());
        let memory = self.memory_due.filter(|_| is_first && !self.unread.is_empty());
        [roots, self.roots.saved_due(), memory].into_iter().flatten().min()
    }

    /// Add an input with its revision of the store; 0: the input has none.
    fn add(&mut self, revision: i64, input: Input) {
        self.waiting.since.get_or_insert_with(|| now().instant);
        self.waiting.inputs.push((revision, input));
    }

    /// An event of the watch of a folder of the shared memory.
    fn on_memory(&mut self, folder: Folder, event: Event) {
        let followed = Followed::Memory(folder);
        match &event {
            // Logged once; the watch tries again.
            Event::Failed { reason } if self.failing.insert(folder) => warn!(
                folder = folder.as_str(),
                reason,
                "Records below the state prefix cannot be read; replicas may serve different texts until a retry \
                 succeeds"
            ),
            Event::Listed { revision, .. } => {
                self.failing.remove(&folder);
                self.unread.remove(&folder);
                self.on_listed(&followed, *revision);
            }
            Event::Changed { revision, .. } | Event::Reached { revision } => self.cut.on_reached(&followed, *revision),
            _ => {}
        }
        if let Event::Failed { .. } = &event {
            self.cut.on_failed(&followed);
        }
        let Some((revision, input)) = self.recall.input(folder, event) else {
            return;
        };
        let accepted = self.accepted(&input);
        self.add(revision, input);
        accepted.into_iter().for_each(|input| self.add(revision, input));
    }

    /// Texts that a record calls refused, and that a proxy of this replica has accepted.
    fn accepted(&self, input: &Input) -> Vec<Input> {
        let Input::Remembered { records, .. } = input else {
            return Vec::new();
        };
        let layout = &self.parts.world.options().layout;
        let is_accepted = |full_key: &Arc<str>, known: &Known| match &known.record.content {
            Content::Refused(_, quarantine) if !quarantine.is_accepted => {
                let root = layout.root_of(full_key.as_bytes())?;
                let key = layout.locate(&root, full_key.as_bytes());
                let is_accepted = self.parts.witness.has_accepted(&key, &quarantine.resources);
                is_accepted.then(|| Input::Accepted {
                    full_key: Arc::clone(full_key),
                    about: known.record.about,
                })
            }
            _ => None,
        };
        let known = records
            .iter()
            .filter_map(|(full_key, known)| is_accepted(full_key, known.as_ref()?));
        known.collect()
    }

    /// The quarantine of a store that no other replica shares: what was to be written counts as read.
    fn follow_own_quarantine(&mut self, writes: &[MemoryWrite]) {
        let own = writes.iter().filter(|write| write.folder == Folder::Quarantine);
        let records = own.map(|write| {
            let known = write.record.clone().map(|record| Known::new(record, ""));
            (Arc::clone(&write.full_key), known)
        });
        let records: Vec<_> = records.collect();
        if !self.parts.backend.is_shared() && !records.is_empty() {
            let folder = Folder::Quarantine;
            self.add(
                0,
                Input::Remembered {
                    folder,
                    whole: false,
                    records,
                },
            );
        }
    }

    fn on_event(&mut self, root: Root, event: Event) {
        self.parts.observer.observed(&root, &event);
        let now = now().instant;
        let followed = Followed::Root(root.clone());
        let is_foreign = self.registries.is_foreign(&root);
        let revision = match &event {
            Event::Alive => {
                if self.roots.alive(&root, now) {
                    // The snapshot is current again, so streams need the next one.
                    self.waiting.since.get_or_insert(now);
                }
                return;
            }
            Event::Reached { revision } => {
                self.roots.alive(&root, now);
                if !is_foreign {
                    self.cut.on_reached(&followed, *revision);
                }
                return;
            }
            Event::Failed { reason } => {
                self.registries.on_answer(&root);
                if !is_foreign {
                    self.cut.on_failed(&followed);
                }
                self.roots.failed(&root, reason.clone(), now);
                return;
            }
            Event::Problems { problems } => {
                problems.iter().for_each(log::problem);
                0
            }
            Event::Listed { revision, entries, .. } => {
                self.registries.on_answer(&root);
                self.roots.listed(&root, now);
                if !is_foreign {
                    self.on_listed(&followed, *revision);
                }
                self.had_documents |= root == Root::Documents && !entries.is_empty();
                if root == Root::Documents {
                    self.memory_due.get_or_insert(now + MEMORY_PATIENCE);
                }
                *revision
            }
            Event::Changed { revision, .. } => {
                self.roots.alive(&root, now);
                if !is_foreign {
                    self.cut.on_reached(&followed, *revision);
                }
                self.had_documents |= root == Root::Documents;
                *revision
            }
        };
        // The revisions of another store are not compared with those of this one.
        let revision = if is_foreign { 0 } else { revision };

        log::event(self.parts.world.options().layout.prefix_of(&root), &event);
        if revision > 0 {
            self.begin_trace(revision);
        }
        let kept = self.take_kept(&event);
        self.add(revision, Input::Event { root, event });
        if !kept.is_empty() {
            let (folder, whole, records) = (Folder::Quarantine, false, kept);
            self.add(revision, Input::Remembered { folder, whole, records });
        }
    }

    /// Records of the quarantine that an earlier run saved, and that are about entries of this list.
    fn take_kept(&mut self, event: &Event) -> Vec<(Arc<str>, Option<Known>)> {
        let Event::Listed { entries, .. } = event else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        self.kept.retain(|kept| {
            let place = entries.binary_search_by(|entry| (*entry.key).cmp(kept.full_key.as_bytes()));
            let Ok(place) = place else { return true };
            let known = kept.about(&entries[place]).map(|record| Known::new(record, ""));
            taken.extend(known.map(|known| (Arc::clone(&kept.full_key), Some(known))));
            false
        });
        taken
    }

    /// One trace a change: from the first revision that arrives to the ACKs of its publish.
    fn begin_trace(&mut self, revision: i64) {
        self.waiting
            .span
            .get_or_insert_with(|| info_span!(parent: None, "change", store.revision = revision));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Release(keys) => self.add(0, Input::Release(keys)),
            Command::ReadAgain(keys) => self.add(0, Input::ReadAgain(keys)),
            Command::Refuse(refusals) => self.add(0, Input::Refused(refusals)),
            Command::TryAgain(texts) => self.add(0, Input::TryAgain(texts)),
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

    /// One turn: plan the waiting inputs and publish the result. An early turn leaves the publish until it is due.
    async fn turn(&mut self, now: Moment, is_early: bool) {
        let (mut inputs, since, span) = self.waiting.take();
        inputs.splice(0..0, self.take_saved(now.instant));
        inputs.iter().for_each(|input| self.recall.on_input(input));
        let span = span.unwrap_or_else(|| info_span!(parent: None, "change"));
        if inputs.is_empty() || self.hold_ends.is_some_and(|at| at <= now.instant) {
            inputs.push(Input::Tick);
        }
        let (events, whole) = self.events_of_documents(&inputs);
        let world = World::clone(&self.worlds.load());
        let cause = cause::cause(&world, &inputs, self.built.steps.newest_revision());
        let planning = info_span!(parent: &span, "plan", inputs = inputs.len());
        let planned = tokio::task::spawn_blocking(move || planning.in_scope(|| plan(&world, inputs, now))).await;
        match planned {
            Ok(planned) => {
                let is_held = planned.world.holds_documents();
                let before = self.built.steps.newest().cloned();
                self.apply(planned, cause, now);
                let is_new = |step: &&Arc<Step>| !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, step));
                let step = self.built.steps.newest().filter(is_new).cloned();
                self.parts.observer.planned(PlannedEvents {
                    events,
                    whole,
                    is_held,
                    step,
                });
                if self.may_publish(now.instant) {
                    self.unpublished
                        .get_or_insert_with(|| (since.unwrap_or(now.instant), span));
                    let waits = self.registries.awaited_until().is_some_and(|until| now.instant < until);
                    if !is_early && !waits {
                        self.publish_planned(now);
                    }
                }
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => debug!("Process stopped before the plan was finished"),
        }
    }

    /// The lists and changes of roots of documents among inputs, and the revision that every one of these roots has
    /// reached.
    fn events_of_documents(&self, inputs: &[Input]) -> (Vec<(Arc<str>, Event)>, Option<i64>) {
        let layout = &self.parts.world.options().layout;
        let events = inputs.iter().filter_map(|input| match input {
            Input::Event { root, event } if !root.is_registrations() => match event {
                Event::Listed { .. } | Event::Changed { .. } => Some((layout.prefix_of(root).into(), event.clone())),
                _ => None,
            },
            _ => None,
        });
        let whole = inputs.iter().rev().find_map(|input| match input {
            Input::Reached { revision, except } => except.iter().all(Root::is_registrations).then_some(*revision),
            _ => None,
        });
        (events.collect(), whole)
    }

    fn apply(&mut self, planned: Plan, cause: Option<Cause>, now: Moment) {
        log::verdicts(&planned.verdicts);
        self.hold_ends = planned.deadline;
        for root in planned.relist {
            self.relists.entry(root).or_insert(now.instant + CONFIRMED_AFTER);
        }
        let world = Arc::new(planned.world);
        self.worlds.store(Arc::clone(&world));
        self.planned.on_world();
        self.follow_own_quarantine(&planned.memory);
        self.recall.remember(planned.memory, now.instant);
        for key in planned.wanted {
            self.recall.look_for(&world, key, self.saved.as_ref());
        }

        self.follow_registries(&world, now.instant);
        self.build(&world, &planned.difference, cause, now);
    }

    /// Follow the registries whose documents serve, and no others.
    fn follow_registries(&mut self, world: &World, now: Instant) {
        // The first publish waits for all roots anyway.
        let awaited_until = self.has_published_store.then_some(now + REGISTRY_PATIENCE);
        for root in self.registries.update(world, awaited_until) {
            self.roots.unfollow(&root);
            self.cut.forget(&Followed::Root(root.clone()));
            self.relists.remove(&root);
            let is_of_root = |input: &Input| matches!(input, Input::Event { root: of, .. } if *of == root);
            self.waiting.inputs.retain(|(_, input)| !is_of_root(input));
            if let Some(followed) = self.registries.get(&root) {
                self.roots.follow(root, &followed.registry.prefix);
            }
        }
        // Also the registrations that saved state has of a registry that is gone.
        let followed = world.roots.keys().filter(|root| root.registry().is_some());
        let gone: Vec<Root> = followed
            .filter(|root| self.registries.get(root).is_none())
            .cloned()
            .collect();
        gone.into_iter().for_each(|root| self.add(0, Input::Unfollowed(root)));
    }

    /// Begin and end watches of registries.
    fn watch_registries(&mut self, events: &mut Events, helpers: &mut JoinSet<()>) {
        for root in self.registries.take_changed() {
            let followed = Followed::Root(root.clone());
            // The watch ends with the receiver of its events.
            events.remove(&followed);
            let Some(registries::Followed { registry, etcd }) = self.registries.get(&root).cloned() else {
                continue;
            };
            let (sender, receiver) = mpsc::channel(EVENTS);
            let control = self.roots.control(&root);
            let layout = &self.parts.world.options().layout;
            let reserved = layout.roots().into_iter().filter(|root| !root.is_registrations());
            let reserved = reserved.map(|root| layout.prefix_of(&root).to_owned());
            let watch = registries::Watch {
                name: root.registry().unwrap_or_default().into(),
                backend: match etcd {
                    Some(options) => Arc::new(Etcd::new(options)),
                    None => Arc::clone(&self.parts.backend),
                },
                reserved: reserved.chain([self.parts.state_prefix.clone()]).collect(),
                registry,
            };
            let span = info_span!("watch", prefix = &*watch.registry.prefix);
            helpers.spawn(watch.run(control, sender).instrument(span));
            events.insert(followed, ReceiverStream::new(receiver));
        }
        while helpers.try_join_next().is_some() {}
    }

    /// Publish what was planned.
    fn publish_planned(&mut self, now: Moment) {
        let Some((arrived, span)) = self.unpublished.take() else {
            return;
        };
        let world = self.worlds.load_full();
        self.publish(arrived, &span);
        self.saves.send_replace(Some(Arc::clone(&world)));
        self.pace.published(arrived, now.instant);
        if !self.has_published_store && !self.roots.is_from_disk(now.instant) {
            (self.has_published_store, self.saved) = (true, None);
            // Taken in by the next plan.
            self.waiting.inputs.push((0, Input::Published));
            log::older_forms(&world);
        }
    }

    /// Build the next snapshot. If nothing changed for streams, it keeps the generation and wakes none of them.
    fn build(&mut self, world: &World, difference: &Difference, cause: Option<Cause>, now: Moment) {
        let stale = self.roots.is_stale(now);
        let facts = Facts {
            revision: world.revision(),
            revisions: Arc::new(world.revisions()),
            built_at: now.wall,
            source: self.source(now.instant),
            stale,
            withhold_removals: !self.parts.allow_empty && !self.had_documents,
            group_rules: group_rules(world),
            cause,
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

    /// Whether the snapshot may be published: if saved state is to serve, or if this replica serves what others serve at
    /// this revision. The first publish of the store's content waits for this, too:
    ///
    /// - every root was listed, or is not waited for any longer;
    /// - the shared memory was read;
    /// - the last good text of every bad document was searched, or proxies that have that text would lose it.
    fn may_publish(&mut self, now: Instant) -> bool {
        let may_differ = self.recall.may_differ(now);
        if self.roots.is_from_disk(now) {
            return true;
        }
        let memory_is_read = self.unread.is_empty() || self.memory_due.is_some_and(|due| due <= now);
        let is_complete =
            self.has_published_store || (!self.recall.is_looking() && memory_is_read && self.roots.are_all_listed(now));
        is_complete && !may_differ
    }

    /// Swap the pointer. A snapshot of the same generation wakes no stream; it only shows the new revision in the API.
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
            let waited = now().instant.saturating_duration_since(arrived);
            info!(revision, generation, source, stale, ?waited, "Snapshot published");
            self.parts.observer.published(waited);
        } else {
            debug!(revision, generation, "No resource changed; no snapshot is published");
            self.parts.observer.skipped();
        }
    }
}

/// The groups documents that serve, in the order of matching.
#[must_use]
pub fn group_rules(world: &World) -> Arc<GroupRules> {
    let mut rules: Vec<_> = world.groups().collect();
    rules.sort_by(|(a, left), (b, right)| right.priority.cmp(&left.priority).then_with(|| a.cmp(b)));
    rules.into()
}
