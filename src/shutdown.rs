//! The owner of all stages: starts them by name, ends them in order, and names the stage that failed.
//!
//! In: futures with names ([`Stages::spawn`]) and signals. Out: `Ok` if a signal stopped the process and every stage
//! ended in time, else an [`Error`] that names the stage.
//!
//! The order of a stop:
//!
//! 1. [`Stages::draining`] is cancelled: the process is not ready, accepts no new connections, and ends its streams
//!    spread out.
//! 2. When every draining stage has ended, or after five sixths of the grace, [`Stages::token`] is cancelled.
//! 3. After the grace, the stages that still run are aborted. A second signal aborts them at once.
//!
//! If a stage fails, panics or ends unasked, all others are cancelled without draining.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

/// Grace of the other stages after one has failed.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The error of a stage.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// A signal to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Reason for an end of the process other than a clean stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stage failed.
    #[error("stage {stage} failed")]
    Failed {
        /// Its name.
        stage: &'static str,
        /// Why.
        #[source]
        source: StageError,
    },
    /// A stage panicked.
    #[error("stage {stage} panicked: {message}")]
    Panicked {
        /// Its name.
        stage: &'static str,
        /// The message of the panic.
        message: String,
    },
    /// A stage ended before the process stopped.
    #[error("stage {stage} ended unasked")]
    EndedUnasked {
        /// Its name.
        stage: &'static str,
    },
    /// Stages that still ran after the grace.
    #[error("aborted after the grace of {}: {}", humantime::format_duration(*grace), stages.join(", "))]
    GraceOver {
        /// Their names, sorted.
        stages: Vec<&'static str>,
        /// The grace.
        grace: Duration,
    },
    /// A second signal came.
    #[error("aborted by a second signal")]
    SecondSignal,
}

/// The step of a stop at which a stage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndsWhen {
    /// By itself, after [`Stages::draining`] is cancelled.
    Draining,
    /// When [`Stages::token`] is cancelled.
    Cancelled,
}

/// The stages that run.
pub struct Stages {
    tasks: JoinSet<Result<(), StageError>>,
    names: HashMap<Id, (&'static str, EndsWhen)>,
    draining: CancellationToken,
    token: CancellationToken,
    reloads: watch::Sender<u64>,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            draining: CancellationToken::new(),
            token: CancellationToken::new(),
            reloads: watch::Sender::new(0),
        }
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Stages")
            .field("running", &self.running(None))
            .finish_non_exhaustive()
    }
}

impl Stages {
    /// Cancelled first when the process stops.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the draining stages have ended, or when a stage failed.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Counts the SIGHUPs.
    #[must_use]
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Run a stage until [`Stages::token`] is cancelled.
    pub fn spawn<Stage, Failure>(&mut self, name: &'static str, stage: Stage)
    where
        Stage: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<StageError> + Send + 'static,
    {
        self.add(name, EndsWhen::Cancelled, stage);
    }

    /// Run a stage that ends by itself after [`Stages::draining`] is cancelled, and at once when [`Stages::token`] is.
    pub fn spawn_draining<Stage, Failure>(&mut self, name: &'static str, stage: Stage)
    where
        Stage: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<StageError> + Send + 'static,
    {
        self.add(name, EndsWhen::Draining, stage);
    }

    fn add<Stage, Failure>(&mut self, name: &'static str, ends_when: EndsWhen, stage: Stage)
    where
        Stage: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<StageError> + Send + 'static,
    {
        let stage = async move { stage.await.map_err(Into::into) };
        let handle = self.tasks.spawn(stage.instrument(info_span!("stage", stage = name)));
        self.names.insert(handle.id(), (name, ends_when));
    }

    /// Run until a signal or a failure, then end everything within `grace`.
    ///
    /// # Errors
    /// The first stage that failed, or the stages that were aborted.
    pub async fn run(mut self, mut signals: impl Stream<Item = Signal> + Unpin, grace: Duration) -> Result<(), Error> {
        loop {
            tokio::select! {
                ended = self.tasks.join_next_with_id() => {
                    // All stages have ended.
                    let Some(ended) = ended else { return Ok(()) };
                    let failure = self.unasked(ended);
                    error!(%failure, "Stage ended unasked; the process stops");
                    self.cancel_all(GRACE_AFTER_FAILURE.min(grace)).await;
                    return Err(failure);
                }
                signal = signals.next() => match signal {
                    Some(Signal::Reload) => self.reloads.send_modify(|count| *count += 1),
                    Some(Signal::Stop) | None => break,
                },
            }
        }

        info!(grace = %humantime::format_duration(grace), "Stop signal received; streams drain first, then every \
            stage ends");
        self.stop(signals, grace).await
    }

    /// Drain, cancel, abort.
    async fn stop(mut self, mut signals: impl Stream<Item = Signal> + Unpin, grace: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        self.draining.cancel();
        let mut outcome = Ok(());
        let mut listening = true;

        loop {
            if self.running(Some(EndsWhen::Draining)).is_empty() {
                self.token.cancel();
            }

            let deadline = begun
                + if self.token.is_cancelled() {
                    grace
                } else {
                    grace / 6 * 5
                };

            tokio::select! {
                ended = self.tasks.join_next_with_id() => {
                    let Some(ended) = ended else { return outcome };
                    if let (_, Some(failure)) = self.ended(ended) {
                        error!(%failure, "Stage failed during the stop");
                        outcome = outcome.and(Err(failure));
                    }
                }
                signal = signals.next(), if listening => match signal {
                    Some(Signal::Stop) => return Err(Error::SecondSignal),
                    Some(Signal::Reload) => {}
                    None => listening = false,
                },
                () = sleep_until(deadline) => {
                    if self.token.is_cancelled() {
                        let stages = self.running(None);
                        warn!(?stages, "Grace is over; the stages that still run are aborted");
                        return outcome.and(Err(Error::GraceOver { stages, grace }));
                    }
                    self.token.cancel();
                }
            }
        }
    }

    /// Cancel without draining. The stages that still run after `within` are aborted when `self` is dropped.
    async fn cancel_all(&mut self, within: Duration) {
        self.draining.cancel();
        self.token.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            warn!("Stages still run after the cancellation; they are aborted");
        }
    }

    /// The names of the stages that run, sorted.
    fn running(&self, ends_when: Option<EndsWhen>) -> Vec<&'static str> {
        let wanted = |stage: &&(&'static str, EndsWhen)| ends_when.is_none_or(|ends_when| stage.1 == ends_when);
        let mut names: Vec<_> = self.names.values().filter(wanted).map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// The name of an ended stage, and its error if it failed.
    fn ended(&mut self, ended: Result<(Id, Result<(), StageError>), JoinError>) -> (&'static str, Option<Error>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (stage, _) = self.names.remove(&id).expect("every task was spawned with a name");
        let failure = match ended {
            Ok((_, Ok(()))) => None,
            Ok((_, Err(source))) => Some(Error::Failed { stage, source }),
            Err(error) => Some(Error::Panicked {
                stage,
                message: panic_message(error),
            }),
        };
        (stage, failure)
    }

    fn unasked(&mut self, ended: Result<(Id, Result<(), StageError>), JoinError>) -> Error {
        let (stage, failure) = self.ended(ended);
        failure.unwrap_or(Error::EndedUnasked { stage })
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload
            .downcast_ref::<&str>()
            .map_or("no message", |message| message)
            .to_owned(),
    }
}

/// SIGTERM, SIGINT and SIGHUP of this process, from now on.
///
/// # Errors
/// If a signal handler cannot be installed.
pub fn process_signals() -> io::Result<impl Stream<Item = Signal> + Unpin> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(futures::stream::poll_fn(move |context| {
        if terminate.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready() {
            return std::task::Poll::Ready(Some(Signal::Stop));
        }
        hangup.poll_recv(context).map(|_| Some(Signal::Reload))
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::channel::mpsc::{UnboundedSender, unbounded};

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    /// The events of a test in order, with the seconds since the start.
    #[derive(Clone)]
    struct Log {
        begun: Instant,
        lines: Arc<Mutex<Vec<(u64, &'static str)>>>,
    }

    impl Log {
        fn new() -> Self {
            Self {
                begun: Instant::now(),
                lines: Arc::default(),
            }
        }

        fn note(&self, what: &'static str) {
            self.lines.lock().unwrap().push((self.begun.elapsed().as_secs(), what));
        }

        fn lines(&self) -> Vec<(u64, &'static str)> {
            self.lines.lock().unwrap().clone()
        }
    }

    /// A stage that ends `after` its token is cancelled, and logs the end.
    async fn stage(token: CancellationToken, after: Duration, log: Log, name: &'static str) -> Result<(), StageError> {
        token.cancelled().await;
        tokio::time::sleep(after).await;
        log.note(name);
        Ok(())
    }

    fn signals() -> (UnboundedSender<Signal>, impl Stream<Item = Signal> + Unpin) {
        unbounded()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_drains_and_then_cancels() {
        let (log, mut stages, (sender, signals)) = (Log::new(), Stages::default(), signals());
        let (draining, token) = (stages.draining(), stages.token());
        stages.spawn_draining(
            "xds",
            stage(draining, Duration::from_secs(20), log.clone(), "xds ended"),
        );
        stages.spawn("admin", stage(token, Duration::ZERO, log.clone(), "admin ended"));
        sender.unbounded_send(Signal::Stop).unwrap();
        assert!(stages.run(signals, GRACE).await.is_ok());
        assert_eq!(log.lines(), [(20, "xds ended"), (20, "admin ended")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_drains_too_long_is_cancelled_and_then_aborted() {
        let (log, mut stages, (sender, signals)) = (Log::new(), Stages::default(), signals());
        let token = stages.token();
        stages.spawn("admin", stage(token, Duration::ZERO, log.clone(), "admin ended"));
        stages.spawn_draining("xds", std::future::pending::<Result<(), StageError>>());
        sender.unbounded_send(Signal::Stop).unwrap();
        let error = stages.run(signals, GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "aborted after the grace of 30s: xds");
        assert_eq!(log.lines(), [(25, "admin ended")]);
        assert_eq!(log.begun.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts_at_once() {
        let (log, mut stages, (sender, signals)) = (Log::new(), Stages::default(), signals());
        stages.spawn_draining("xds", std::future::pending::<Result<(), StageError>>());
        sender.unbounded_send(Signal::Stop).unwrap();
        sender.unbounded_send(Signal::Stop).unwrap();
        let error = stages.run(signals, GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "aborted by a second signal");
        assert_eq!(log.begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_stage_to_end_cancels_the_rest_and_is_named() {
        type Ending = fn() -> Result<(), StageError>;
        let endings: [(Ending, &str); 3] = [
            (|| Ok(()), "stage reconcile ended unasked"),
            (|| Err("the store is gone".into()), "stage reconcile failed"),
            (
                || panic!("index out of bounds"),
                "stage reconcile panicked: index out of bounds",
            ),
        ];
        for (ending, expected) in endings {
            let (log, mut stages, (_sender, signals)) = (Log::new(), Stages::default(), signals());
            let (draining, token) = (stages.draining(), stages.token());
            stages.spawn("admin", stage(token, Duration::ZERO, log.clone(), "admin ended"));
            stages.spawn_draining("xds", stage(draining, Duration::ZERO, log.clone(), "xds ended"));
            stages.spawn("reconcile", async move { ending() });
            let error = stages.run(signals, GRACE).await.unwrap_err();
            assert_eq!(error.to_string(), expected);
            let mut ended: Vec<_> = log.lines().into_iter().map(|(_, what)| what).collect();
            ended.sort_unstable();
            assert_eq!(ended, ["admin ended", "xds ended"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_while_stopping_is_told_and_does_not_stop_the_others() {
        let (log, mut stages, (sender, signals)) = (Log::new(), Stages::default(), signals());
        let (draining, failing) = (stages.draining(), stages.draining());
        stages.spawn_draining("xds", stage(draining, Duration::from_secs(9), log.clone(), "xds ended"));
        stages.spawn_draining("reconcile", async move {
            failing.cancelled().await;
            Err::<(), StageError>("disk full".into())
        });
        sender.unbounded_send(Signal::Stop).unwrap();
        let error = stages.run(signals, GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "stage reconcile failed");
        assert_eq!(log.lines(), [(9, "xds ended")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_counted_and_stops_nothing() {
        let (mut stages, (sender, signals)) = (Stages::default(), signals());
        let mut reloads = stages.reloads();
        let (token, stopping) = (stages.token(), sender.clone());
        stages.spawn("admin", async move {
            reloads.changed().await?;
            assert_eq!(*reloads.borrow(), 1);
            stopping.unbounded_send(Signal::Stop)?;
            token.cancelled().await;
            Ok::<(), StageError>(())
        });
        sender.unbounded_send(Signal::Reload).unwrap();
        assert!(stages.run(signals, GRACE).await.is_ok());
    }
}
