//! Following a root: the loop that loses no change.
//!
//! ```text
//! Connect ──→ List ──→ Watch ──→ Live ──┐ compacted, forked, asked to confirm: List
//!    ↑          │        │        │     └ broken, silent, out of order: Wait
//!    └── Wait ←─┴────────┴────────┘
//! ```
//! - **Every reconnect lists.** Only a list covers restores, lost tombstones and skipped events alike. If the list
//!   equals the events before it, the receiver has no work.
//! - **A silent watch may be dead.** Every 5 s etcd must answer a linearizable read, and a silent watch must answer a
//!   request for progress. The answer is a sign of life only: on older servers its revision is wrong. `reach` says up to
//!   which revision nothing is missing.
//! - **Tokens.** The read renews a token that is near its end or that etcd refuses, so no watch ends with its token.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::batch::{Batch, Joiner, KeyEvent};
use super::connect::{Connection, Connector, Rotation, answer};
use super::error::{Class, Failure};
use super::fork::Mark;
use super::list::{count, first_key, list, prefix_end, probe, to_entry};
use super::reach::{Counted, Reach, Sent, Step};
use super::stats::{StreamErrorClass, WatchState, WatchStats};
use crate::backend::backoff::Backoff;
use crate::backend::{Change, Event, ListReason, WatchControl};

/// Time between two linearizable reads of a live watch, and the silence after which the watch must answer for its
/// progress.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a request for progress. A frozen etcd accepts such requests without an answer.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// A watch of this age counts as a success: its failure starts the backoff anew.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// Follows one root.
pub(super) struct Follower<'a> {
    connector: &'a Connector,
    prefix: Vec<u8>,
    control: WatchControl,
    events: mpsc::Sender<Event>,
    stats: Arc<WatchStats>,
    rotation: Rotation,
    backoff: Backoff,
    reloads: watch::Receiver<u64>,
    /// The last put and delete seen; `None` before the first list.
    mark: Option<Mark>,
}

/// The state of the loop, with the values that only this state needs.
enum State {
    Connect,
    List {
        connection: Connection,
        reason: ListReason,
    },
    Watch {
        connection: Connection,
        listed: Sent,
    },
    Live(Box<Live>),
    Wait {
        failure: Failure,
    },
    /// Cancelled, or the receiver of the events is dropped.
    Done,
}

/// A watch that etcd has confirmed.
struct Live {
    connection: Connection,
    stream: WatchStream,
    joiner: Joiner,
    sent: Sent,
}

/// The end of a live watch.
enum End {
    List(ListReason),
    Reconnect,
    Failed(Failure),
    Done,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        prefix: &str,
        control: WatchControl,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            connector,
            prefix: prefix.as_bytes().to_vec(),
            control,
            events,
            stats: connector.stats.watch(prefix),
            rotation: connector.rotation(),
            backoff: Backoff::new(),
            reloads: connector.generation.subscribe(),
            mark: None,
        }
    }

    /// Follow until `token` is cancelled or the receiver of the events is dropped.
    pub(super) async fn run(mut self, token: CancellationToken) {
        let mut state = State::Connect;
        let events = self.events.clone();
        while !matches!(state, State::Done) {
            state = tokio::select! {
                () = token.cancelled() => State::Done,
                () = events.closed() => State::Done,
                next = self.step(state) => next,
            };
        }
    }

    async fn step(&mut self, state: State) -> State {
        match state {
            State::Connect => self.connect().await,
            State::List { connection, reason } => self.list(connection, reason).await,
            State::Watch { connection, listed } => self.watch(connection, listed).await,
            State::Live(live) => self.live(*live).await,
            State::Wait { failure } => self.wait(failure).await,
            State::Done => State::Done,
        }
    }

    async fn connect(&mut self) -> State {
        self.stats.set_state(WatchState::Connecting);
        self.reloads.mark_unchanged();
        match self.connect_and_compare().await {
            Ok((connection, reason)) => {
                self.stats.set_endpoint(connection.endpoint.as_str());
                State::List { connection, reason }
            }
            Err(failure) => State::Wait { failure },
        }
    }

    /// A connection, and the reason of its list: the first, the same history or another one.
    async fn connect_and_compare(&mut self) -> Result<(Connection, ListReason), Failure> {
        let mut connection = self.connector.connect(self.rotation.next()).await?;
        let reason = match &self.mark {
            None => ListReason::Start,
            Some(mark) => match mark.is_forked(&mut connection).await {
                Ok(true) => ListReason::Fork,
                Ok(false) => ListReason::Reconnect,
                Err(failure) => return Err(failure.at(&connection.endpoint)),
            },
        };
        Ok((connection, reason))
    }

    async fn list(&mut self, mut connection: Connection, reason: ListReason) -> State {
        self.stats.set_state(WatchState::Listing);
        let started = Instant::now();
        let listed = match list(&mut connection, &self.prefix).await {
            Ok(listed) => listed,
            Err(failure) => {
                return State::Wait {
                    failure: failure.at(&connection.endpoint),
                };
            }
        };

        let forked = self.mark.as_ref().is_some_and(|mark| mark.contradicts_list(&listed));
        let reason = if forked { ListReason::Fork } else { reason };
        self.connector.stats.on_list(reason, listed.bytes, started.elapsed());
        self.stats.on_quorum_read(listed.revision);
        self.mark = Some(Mark::of_list(&listed));

        let revision = listed.revision;
        let keys = i64::try_from(listed.entries.len()).unwrap_or(i64::MAX);
        if !self
            .send(Event::Listed {
                revision,
                reason,
                entries: listed.entries,
            })
            .await
            || !self.send(Event::Alive).await
        {
            return State::Done;
        }

        self.stats.set_applied(revision);
        State::Watch {
            connection,
            listed: Sent { revision, keys },
        }
    }

    async fn watch(&mut self, mut connection: Connection, listed: Sent) -> State {
        self.stats.set_state(WatchState::Watching);
        match open_watch(&mut connection, &self.prefix, listed.revision).await {
            Ok(stream) => State::Live(Box::new(Live {
                connection,
                stream,
                joiner: Joiner::new(listed.revision),
                sent: listed,
            })),
            Err(failure) => self.on_end(connection, End::Failed(failure)),
        }
    }

    async fn live(&mut self, live: Live) -> State {
        let Live {
            connection,
            stream,
            joiner,
            sent,
        } = live;

        self.stats.set_state(WatchState::Live);
        self.stats.last_message.set_now();
        let since = Instant::now();

        let end = self.receive(&connection, stream, joiner, sent).await;
        if since.elapsed() >= STEADY_AFTER {
            self.backoff.reset();
        }

        self.on_end(connection, end)
    }

    /// Receive and probe until the watch ends. The return drops the stream, which ends the watch at etcd too.
    async fn receive(
        &mut self,
        connection: &Connection,
        mut stream: WatchStream,
        mut joiner: Joiner,
        mut sent: Sent,
    ) -> End {
        let control = self.control.clone();
        let mut reloads = self.reloads.clone();
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        probes.reset();
        let mut read: Option<Read<'_, Probed>> = None;
        let mut last_message = Instant::now();
        let mut progress_due: Option<Instant> = None;
        let mut reach = Reach::new(connection.answers_progress);
        let mut counting: Option<Read<'_, Counted>> = None;
        let mut must_ask = false;
        let mut step = Step::Wait;

        loop {
            match std::mem::replace(&mut step, Step::Wait) {
                Step::Wait => {}
                Step::AskProgress => must_ask = true,
                Step::Count => counting = Some(self.begin_count(connection, sent.revision)),
                Step::Reached(revision) => {
                    if !self.send(Event::Reached { revision }).await {
                        return End::Done;
                    }
                }
                Step::List => return End::List(ListReason::Reconnect),
            }

            // `Ok` means queued in this process; only the answer proves that etcd is alive.
            if std::mem::take(&mut must_ask)
                && let Err(error) = stream.request_progress().await
            {
                return End::Failed(error.into());
            }

            tokio::select! {
                biased;
                () = control.relist_asked() => return End::List(ListReason::Confirm),
                Ok(()) = reloads.changed() => return End::Reconnect,

                answered = answered(&mut read) => {
                    read = None;
                    match answered {
                        Ok(probed) if probed.is_fork => return End::List(ListReason::Fork),
                        Ok(probed) => self.stats.on_quorum_read(probed.revision),
                        Err(failure) => return End::Failed(failure),
                    }
                    if !self.send(Event::Alive).await {
                        return End::Done;
                    }
                }

                _ = probes.tick() => {
                    if read.is_none() {
                        read = Some(self.begin_probe(connection));
                    }
                    if progress_due.is_none() && last_message.elapsed() >= PROBE_INTERVAL {
                        must_ask = true;
                        progress_due = Some(Instant::now() + PROGRESS_TIMEOUT);
                    }
                }

                () = control.progress_asked() => step = reach.on_asked(),

                counted = answered(&mut counting) => {
                    counting = None;
                    match counted {
                        Ok(counted) => step = reach.on_counted(counted, sent, Instant::now()),
                        Err(failure) => return End::Failed(failure),
                    }
                }

                () = due(reach.due_at()) => step = reach.on_time(),

                message = stream.message() => {
                    last_message = Instant::now();
                    progress_due = None;
                    match message {
                        Ok(Some(message)) => {
                            let progress = progress_of(&message);
                            if let Err(end) = self.on_message(&mut joiner, &mut sent, message).await {
                                return end;
                            }
                            step = reach.on_message(progress);
                        }
                        Ok(None) => return End::Failed(Failure::new(Class::Retry, "etcd ended the watch's stream")),
                        Err(error) => return End::Failed(error.into()),
                    }
                }

                () = due(progress_due) => {
                    return End::Failed(Failure::timeout("a request for the watch's progress"));
                }
            }
        }
    }

    fn begin_probe(&self, connection: &Connection) -> Read<'a, Probed> {
        let connector = self.connector;
        let mut connection = connection.clone();
        let prefix = self.prefix.clone();
        // Changes may arrive while the answer is under way, so the answer is compared with what was known before.
        let mark = self.mark.clone();
        Box::pin(async move {
            connector.renew_if_due(&connection).await?;
            let answer = match probe(&mut connection, &prefix).await {
                Err(failure)
                    if failure.class == Class::Authentication && connector.renew_refused(&connection).await? =>
                {
                    probe(&mut connection, &prefix).await
                }
                outcome => outcome,
            };
            let header = answer?;
            Ok(Probed {
                revision: header.revision(),
                is_fork: mark.is_some_and(|mark| mark.contradicts(&header)),
            })
        })
    }

    fn begin_count(&self, connection: &Connection, after: i64) -> Read<'a, Counted> {
        let connector = self.connector;
        let mut connection = connection.clone();
        let prefix = self.prefix.clone();
        Box::pin(async move {
            connector.renew_if_due(&connection).await?;
            match count(&mut connection, &prefix, after).await {
                Err(failure)
                    if failure.class == Class::Authentication && connector.renew_refused(&connection).await? =>
                {
                    count(&mut connection, &prefix, after).await
                }
                outcome => outcome,
            }
        })
    }

    async fn on_message(&mut self, joiner: &mut Joiner, sent: &mut Sent, message: WatchResponse) -> Result<(), End> {
        self.stats.last_message.set_now();

        let message = message.0;
        if message.canceled {
            return Err(End::Failed(Failure::canceled(
                &message.cancel_reason,
                message.compact_revision,
            )));
        }

        if message.events.is_empty() && !message.fragment {
            self.stats.last_progress.set_now();
        }

        self.connector.stats.fragments.add(u64::from(message.fragment));
        let events = events_of(message.events).map_err(End::Failed)?;

        let joined = joiner.push(events, message.fragment).map_err(|violation| {
            self.connector.stats.order_violations.add(1);
            self.connector.stats.on_stream_error(StreamErrorClass::Order);
            End::Failed(Failure::new(Class::Retry, violation.to_string()))
        })?;
        self.connector.stats.events_dropped_old.count(joined.old);

        for batch in joined.batches {
            (sent.revision, sent.keys) = (batch.revision, sent.keys + batch.growth());
            self.apply(batch).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { revision, changes } = batch;
        let puts = changes.iter().filter(|change| matches!(change, Change::Put(_))).count();
        self.connector.stats.puts.count(puts);
        self.connector.stats.deletes.count(changes.len() - puts);
        if let Some(mark) = &mut self.mark {
            mark.on_changes(revision, &changes);
        }
        if !self.send(Event::Changed { revision, changes }).await {
            return Err(End::Done);
        }
        self.stats.set_applied(revision);
        Ok(())
    }

    fn on_end(&mut self, connection: Connection, end: End) -> State {
        let failure = match end {
            End::List(reason) => {
                if reason == ListReason::Fork {
                    self.connector.stats.on_stream_error(StreamErrorClass::Fork);
                }
                return State::List { connection, reason };
            }
            End::Reconnect => return State::Connect,
            End::Done => return State::Done,
            End::Failed(failure) => failure.at(&connection.endpoint),
        };

        self.connector.stats.on_stream_error(failure.stream_error_class());

        match failure.class {
            Class::Compacted => State::List {
                connection,
                reason: ListReason::Compacted,
            },
            _ => State::Wait { failure },
        }
    }

    async fn wait(&mut self, failure: Failure) -> State {
        self.stats.set_state(WatchState::Backoff);
        self.stats.set_endpoint("");

        if failure.class == Class::Authentication {
            self.connector.on_token_refused();
        }

        let cap = match failure.class {
            Class::Configuration | Class::TooLarge => Backoff::CONFIGURATION_CAP,
            _ => Backoff::CAP,
        };
        let pause = self.backoff.next(cap);

        debug!(
            prefix = %String::from_utf8_lossy(&self.prefix),
            %failure,
            ?pause,
            "Watch of etcd failed; the next attempt follows after the pause"
        );
        if !self
            .send(Event::Failed {
                reason: failure.to_string(),
            })
            .await
        {
            return State::Done;
        }

        tokio::select! {
            () = sleep(pause) => {}
            // Another watch could list: the store answers again.
            () = self.control.relist_asked() => {}
            // The operator has just repaired the credentials.
            Ok(()) = self.reloads.changed() => self.backoff.reset(),
        }
        State::Connect
    }

    /// Returns false if the receiver of the events is dropped.
    async fn send(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// The events of a message.
pub(super) fn events_of(events: Vec<etcd_client::proto::PbEvent>) -> Result<Vec<KeyEvent>, Failure> {
    let mut read = Vec::with_capacity(events.len());
    for event in events {
        let Some(pair) = event.kv else { continue };
        read.push(match event.r#type {
            0 => {
                let mod_revision = pair.mod_revision;
                let entry = to_entry(etcd_client::KeyValue(pair));
                KeyEvent {
                    mod_revision,
                    change: Change::Put(entry),
                }
            }
            1 => KeyEvent {
                mod_revision: pair.mod_revision,
                change: Change::Delete { key: pair.key.into() },
            },
            unknown => {
                let sentence = format!("etcd sent an event of the unknown type {unknown}");
                return Err(Failure::configuration(sentence));
            }
        });
    }
    Ok(read)
}

/// The revision of a message that holds nothing but progress.
pub(super) fn progress_of(message: &WatchResponse) -> Option<i64> {
    let message = &message.0;
    let is_progress = message.events.is_empty() && !message.fragment && !message.canceled && !message.created;
    message
        .header
        .as_ref()
        .filter(|_| is_progress)
        .map(|header| header.revision)
}

/// A read that is under way.
type Read<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The answer to a quorum read.
struct Probed {
    revision: i64,
    /// The store has another history than at the moment of the question.
    is_fork: bool,
}

/// The answer of the open read. Never resolves if there is none.
async fn answered<T>(read: &mut Option<Read<'_, T>>) -> Result<T, Failure> {
    match read {
        Some(read) => read.await,
        None => std::future::pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Open a watch of all changes after `revision`. The first message must confirm the watch.
pub(super) async fn open_watch(
    connection: &mut Connection,
    prefix: &[u8],
    revision: i64,
) -> Result<WatchStream, Failure> {
    let options = WatchOptions::new()
        .with_range(prefix_end(prefix))
        .with_start_revision(revision + 1)
        .with_progress_notify()
        .with_fragment();
    let mut stream = answer("a watch", connection.watch.watch(first_key(prefix), Some(options))).await?;
    match answer("a new watch", stream.message()).await? {
        Some(message) if message.canceled() => {
            Err(Failure::canceled(message.cancel_reason(), message.compact_revision()))
        }
        Some(message) if message.created() => Ok(stream),
        Some(_) => Err(Failure::new(
            Class::Retry,
            "etcd did not confirm the watch with its first message",
        )),
        None => Err(Failure::new(Class::Retry, "etcd ended the watch's stream")),
    }
}
