//! Connections to etcd, each to one endpoint.
//!
//! In: [`Options`]. Out: a [`Connection`] to a member that can serve reads, with a valid token.
//!
//! - **One endpoint each**: the channel of etcd-client over several endpoints sends calls to dead endpoints. So a
//!   caller that loses its connection takes the next endpoint of its [`Rotation`].
//! - **One connection for each followed root**, because watches on one connection can starve each other. Reads and
//!   writes share another connection ([`Shared`]).
//! - **Tokens**: an authentication costs etcd a bcrypt. After etcd has refused an authentication or a token, the
//!   process authenticates at most once a second ([`Throttle`]). A token with an end (JWT) is renewed before its end,
//!   on the same connection, right before the next call ([`Connector::renew_if_due`]); open watches go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd_client::{Client, KvClient, LeaseClient, WatchClient};
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::error::{Class, Failure};
use super::options::{CALL_TIMEOUT, Credentials, Endpoint, Options};
use super::stats::Stats;
use super::token;

/// Largest message from etcd: a page of a list, or a catch-up. The default of tonic is 4 MiB.
const DECODE_LIMIT: usize = 64 << 20;
/// Time between two authentications, once etcd has refused an authentication or a token.
const AUTHENTICATION_DISTANCE: Duration = Duration::from_secs(1);
/// Timeout of waits that the timeout of the channel does not cover, such as the wait for the connection.
const OUTER_TIMEOUT: Duration = CALL_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The endpoints in a random order, in an endless cycle.
#[derive(Debug)]
pub(super) struct Rotation {
    order: Vec<usize>,
    next: usize,
}

impl Rotation {
    pub(super) fn new(endpoints: usize) -> Self {
        let mut order: Vec<usize> = (0..endpoints.max(1)).collect();
        order.shuffle(&mut rand::rng());
        Self { order, next: 0 }
    }

    pub(super) fn next(&mut self) -> usize {
        let index = self.order[self.next % self.order.len()];
        self.next += 1;
        index
    }

    /// Number of endpoints.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

/// A connection to one member.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) endpoint: Endpoint,
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    /// The member answers requests for progress after the events of the watch, not before.
    pub(super) answers_progress: bool,
    /// `None` if etcd requires no user.
    token: Option<Arc<Token>>,
    number: u64,
}

/// The token that the clients of one connection share.
struct Token {
    client: Client,
    /// `None` if the token has no known end.
    renew_at: Mutex<Option<Instant>>,
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) options: Options,
    pub(super) stats: Arc<Stats>,
    /// Grows with every reload; connections of an earlier generation are replaced.
    pub(super) generation: watch::Sender<u64>,
    /// Digests of the credentials that connections of this generation were made with.
    in_use: Mutex<BTreeSet<u128>>,
    /// The credentials that a member accepted last. New connections use them while the files cannot be used.
    accepted: Mutex<Option<Arc<Credentials>>>,
    throttle: Throttle,
    /// Lifetime of a token; `None` inside if the token lives until etcd forgets it.
    token_life: OnceCell<Option<Duration>>,
    /// Sentences about members that are logged already.
    logged: Mutex<BTreeSet<String>>,
}

impl Connector {
    pub(super) fn new(options: Options, stats: Arc<Stats>) -> Self {
        Self {
            options,
            stats,
            generation: watch::Sender::new(0),
            in_use: Mutex::default(),
            accepted: Mutex::default(),
            throttle: Throttle::default(),
            token_life: OnceCell::new(),
            logged: Mutex::default(),
        }
    }

    pub(super) fn rotation(&self) -> Rotation {
        Rotation::new(self.options.endpoints.len())
    }

    /// Connect to the endpoint at `index` and check that its member serves reads.
    pub(super) async fn connect(&self, index: usize) -> Result<Connection, Failure> {
        let endpoint = self.options.endpoint(index)?;
        self.connect_to(&endpoint)
            .await
            .map_err(|failure| failure.at(&endpoint))
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<Connection, Failure> {
        let read = self.options.credentials().await;
        let Some(accepted) = self.accepted.lock().clone() else {
            return Box::pin(self.connect_with(endpoint, &read?)).await;
        };
        let outcome = match read {
            Ok(read) if read.digest == accepted.digest => return Box::pin(self.connect_with(endpoint, &read)).await,
            Ok(read) => Box::pin(self.connect_with(endpoint, &read)).await,
            Err(failure) => Err(failure),
        };
        let Err(failure) = outcome else { return outcome };

        // The files have changed since, and cannot be used. Somebody may be about to replace them.
        match Box::pin(self.connect_with(endpoint, &accepted)).await {
            Ok(connection) => {
                let sentence = format!(
                    "etcd at {endpoint}: the credential files cannot be used ({failure}); new connections use the \
                     contents before"
                );
                self.log_once(sentence, true);
                Ok(connection)
            }
            Err(_) => Err(failure),
        }
    }

    async fn connect_with(&self, endpoint: &Endpoint, credentials: &Credentials) -> Result<Connection, Failure> {
        let (client, token) = self.authenticated(endpoint, credentials).await?;
        let version = self.check_member(endpoint, client.clone()).await?;
        self.in_use.lock().insert(credentials.digest);
        *self.accepted.lock() = Some(Arc::new(credentials.clone()));
        Ok(Connection {
            endpoint: endpoint.clone(),
            kv: client.kv_client().max_decoding_message_size(DECODE_LIMIT),
            watch: client.watch_client().max_decoding_message_size(DECODE_LIMIT),
            lease: client.lease_client(),
            answers_progress: answers_progress(&version),
            token,
            number: rand::rng().random(),
        })
    }

    /// etcd refused a token: space the authentications from now on.
    pub(super) fn on_token_refused(&self) {
        self.throttle.begin();
    }

    /// Read the files again. If a connection uses other contents, or if no connection was made yet, start a new
    /// generation.
    ///
    /// # Errors
    /// The contents cannot be used, or no member accepts them now: every connection stays.
    pub(super) async fn reload(&self) -> Result<(), Failure> {
        let credentials = self.options.credentials().await?;
        let is_in_use = self.in_use.lock().iter().eq([&credentials.digest]);
        if is_in_use {
            return Ok(());
        }
        let protects_none = self.in_use.lock().is_empty();
        if !protects_none {
            self.try_out(&credentials).await?;
        }
        *self.in_use.lock() = BTreeSet::new();
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Make a connection with these credentials to the first member that accepts them, and close it.
    async fn try_out(&self, credentials: &Credentials) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for index in 0..self.options.endpoints.len() {
            let endpoint = self.options.endpoint(index)?;
            match self.connect_with(&endpoint, credentials).await {
                Ok(_) => return Ok(()),
                Err(failure) => outcome = Err(failure.at(&endpoint)),
            }
        }
        outcome
    }

    /// Renew the token of a connection before a call, if the token is near its end. Open watches go on.
    pub(super) async fn renew_if_due(&self, connection: &Connection) -> Result<(), Failure> {
        let Some(token) = &connection.token else {
            return Ok(());
        };
        let is_due = token.renew_at.lock().is_some_and(|at| at <= Instant::now());
        if is_due { self.renew(token).await } else { Ok(()) }
    }

    /// etcd refused the token: renew it on the same connection. Returns `false` if the connection has no token.
    pub(super) async fn renew_refused(&self, connection: &Connection) -> Result<bool, Failure> {
        let Some(token) = &connection.token else {
            return Ok(false);
        };
        self.on_token_refused();
        self.renew(token).await?;
        Ok(true)
    }

    async fn renew(&self, token: &Token) -> Result<(), Failure> {
        self.throttle.turn().await;
        match answer("an authentication", token.client.refresh_token()).await {
            Ok(()) => {
                self.stats.token_refreshes.add(1);
                *token.renew_at.lock() = self.token_life.get().copied().flatten().map(renew_at);
                Ok(())
            }
            Err(failure) => {
                self.on_refresh_failed(&failure);
                Err(failure)
            }
        }
    }

    fn on_refresh_failed(&self, failure: &Failure) {
        if failure.class != Class::Retry {
            self.stats.token_refresh_failures.add(1);
            self.throttle.begin();
        }
    }

    /// A client, and its token if etcd requires a user.
    async fn authenticated(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<(Client, Option<Arc<Token>>), Failure> {
        let Some((user, password)) = credentials.user() else {
            return Ok((open(endpoint, credentials, false).await?, None));
        };

        self.throttle.turn().await;
        match open(endpoint, credentials, true).await {
            Ok(client) => {
                self.stats.token_refreshes.add(1);
                let life = self.token_life(&client, user, password).await;
                let token = Token {
                    client: client.clone(),
                    renew_at: Mutex::new(life.map(renew_at)),
                };
                Ok((client, Some(Arc::new(token))))
            }
            Err(failure) if failure.to_string().contains("authentication is not enabled") => {
                self.log_once(
                    format!("etcd at {endpoint} has authentication turned off: --etcd-user is not used"),
                    true,
                );
                Ok((open(endpoint, credentials, false).await?, None))
            }
            Err(failure) => {
                self.on_refresh_failed(&failure);
                Err(failure)
            }
        }
    }

    /// Lifetime of a token. The first call requests one more token from etcd, because etcd-client does not show its
    /// own.
    async fn token_life(&self, client: &Client, user: &str, password: &str) -> Option<Duration> {
        let learn = || async {
            let mut auth = client.auth_client();
            let response = answer(
                "an authentication",
                auth.authenticate(user.to_owned(), password.to_owned()),
            )
            .await?;
            self.stats.token_refreshes.add(1);
            Ok::<_, Failure>(token::life(response.token(), SystemTime::now()))
        };
        match self.token_life.get_or_try_init(learn).await {
            Ok(life) => *life,
            Err(failure) => {
                debug!(%failure, "Lifetime of etcd's tokens is unknown; a token is renewed once etcd refuses it");
                None
            }
        }
    }

    /// Reject learners and corrupt members. A member that refuses the status call (it may need more permissions than
    /// ours) is accepted. Returns the member's version; empty if it is unknown.
    async fn check_member(&self, endpoint: &Endpoint, mut client: Client) -> Result<String, Failure> {
        let status = match timeout(OUTER_TIMEOUT, client.status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                if matches!(failure.class, Class::Retry | Class::Certificate) {
                    return Err(failure);
                }
                debug!(
                    %endpoint,
                    %failure,
                    "etcd member did not answer the status call; the connection to it is used nevertheless"
                );
                return Ok(String::new());
            }
            Err(_) => return Err(Failure::timeout("the first call")),
        };

        if status.is_learner() {
            return Err(Failure::new(
                Class::Retry,
                "this member is a learner, which serves no reads",
            ));
        }

        if status.errors().iter().any(|error| error.contains("CORRUPT")) {
            return Err(Failure::new(Class::Retry, "this member has the alarm CORRUPT"));
        }

        if has_watch_faults(status.version()) {
            let version = status.version();
            let sentence = format!(
                "etcd at {endpoint} has version {version}, in which a watch can lose a delete after a compaction. \
                 Only the list after the next reconnect finds the lost delete; upgrade to 3.5.18 or later"
            );
            self.log_once(sentence, false);
        }
        if !answers_progress(status.version()) {
            let version = status.version();
            let sentence = format!(
                "etcd at {endpoint} has version {version}, which claims changes before it has sent them. Before a \
                 publish the keys of each prefix are counted instead; upgrade to 3.5.13 or later for large inventories"
            );
            self.log_once(sentence, false);
        }

        Ok(status.version().to_owned())
    }

    fn log_once(&self, sentence: String, is_warning: bool) {
        let mut logged = self.logged.lock();
        if logged.contains(&sentence) {
            return;
        }
        if is_warning {
            warn!("{sentence}");
        } else {
            info!("{sentence}");
        }
        logged.insert(sentence);
    }
}

/// Spaces authentications by one second, after the first refusal.
#[derive(Debug, Default)]
struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    fn begin(&self) {
        self.0.lock().get_or_insert_with(Instant::now);
    }

    /// Wait for the next moment at which an authentication is allowed.
    async fn turn(&self) {
        let at = {
            let mut next = self.0.lock();
            let Some(free) = *next else { return };
            let at = free.max(Instant::now());
            *next = Some(at + jittered(AUTHENTICATION_DISTANCE));
            at
        };
        sleep_until(at).await;
    }
}

/// The connection that reads and writes share; the first call makes it.
#[derive(Default)]
pub(super) struct Shared(AsyncMutex<SharedState>);

#[derive(Default)]
struct SharedState {
    /// With the generation of its credentials.
    current: Option<(Connection, u64)>,
    /// When the last connection to an endpoint failed, by its index.
    failed: BTreeMap<usize, (Instant, Failure)>,
}

impl Shared {
    /// The connection. If there is none, or only one of an earlier generation, connect to the next endpoint of
    /// `rotation`.
    ///
    /// Calls wait for each other here. An endpoint that did not answer another call since `begun` is not tried again:
    /// many calls to a frozen etcd fail together, not one after the other.
    pub(super) async fn get(
        &self,
        connector: &Connector,
        rotation: &mut Rotation,
        begun: Instant,
    ) -> Result<Connection, Failure> {
        let mut state = self.0.lock().await;
        let SharedState { current, failed } = &mut *state;
        let generation = *connector.generation.borrow();
        if let Some((connection, of)) = current.as_ref()
            && *of == generation
        {
            let connection = connection.clone();
            if let Err(failure) = connector.renew_if_due(&connection).await {
                *current = None;
                return Err(failure.at(&connection.endpoint));
            }
            return Ok(connection);
        }

        *current = None;
        let index = rotation.next();
        if let Some((_, failure)) = failed.get(&index).filter(|(at, _)| *at >= begun) {
            return Err(failure.clone());
        }
        match connector.connect(index).await {
            Ok(connection) => {
                failed.remove(&index);
                *current = Some((connection.clone(), generation));
                Ok(connection)
            }
            Err(failure) => {
                if failure.class == Class::Retry {
                    failed.insert(index, (Instant::now(), failure.clone()));
                }
                Err(failure)
            }
        }
    }

    /// Drop a failed connection, so that the next call connects anew. A newer connection stays.
    pub(super) async fn forget(&self, failed: &Connection) {
        let mut state = self.0.lock().await;
        let is_current = |(connection, _): &(Connection, u64)| connection.number == failed.number;
        if state.current.as_ref().is_some_and(is_current) {
            state.current = None;
        }
    }
}

/// The answer of a call, or a timeout.
pub(super) async fn answer<T>(
    what: &str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Failure> {
    match timeout(OUTER_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::timeout(what)),
    }
}

async fn open(endpoint: &Endpoint, credentials: &Credentials, with_user: bool) -> Result<Client, Failure> {
    let options = credentials.connect_options(endpoint, with_user);
    answer(
        "the connection",
        Box::pin(Client::connect([endpoint.as_str()], Some(options))),
    )
    .await
}

/// The moment to renew a new token: after three quarters of its lifetime.
fn renew_at(life: Duration) -> Instant {
    Instant::now() + life * 3 / 4
}

fn jittered(duration: Duration) -> Duration {
    duration + rand::rng().random_range(Duration::ZERO..duration / 4)
}

/// True if this version can lose a delete at a compacted revision (fixed in 3.4.36, 3.5.18 and 3.6).
fn has_watch_faults(version: &str) -> bool {
    has_repair(version, 36, 18) == Some(false)
}

/// True if this version answers a request for progress after all events of the watch (from 3.4.31 and 3.5.13 on, as
/// Kubernetes has it). An unknown version does not.
fn answers_progress(version: &str) -> bool {
    has_repair(version, 31, 13) == Some(true)
}

/// Whether a version has what was repaired in these patches of 3.4 and 3.5; `None`: the version is unknown.
fn has_repair(version: &str, in_3_4: u32, in_3_5: u32) -> Option<bool> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (numbers.next(), numbers.next(), numbers.next()) else {
        return None;
    };
    Some(match (major, minor) {
        (3, 4) => patch >= in_3_4,
        (3, 5) => patch >= in_3_5,
        _ => (major, minor) > (3, 5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_visits_every_endpoint_before_it_comes_back() {
        let mut rotation = Rotation::new(3);
        let first: Vec<usize> = (0..3).map(|_| rotation.next()).collect();
        let second: Vec<usize> = (0..3).map(|_| rotation.next()).collect();
        assert_eq!(first, second);
        assert_eq!(first.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn authentications_are_spaced_once_one_was_refused() {
        let throttle = Throttle::default();
        let start = Instant::now();
        throttle.turn().await;
        throttle.turn().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        throttle.begin();
        throttle.turn().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..3 {
            throttle.turn().await;
        }
        assert!(start.elapsed() >= AUTHENTICATION_DISTANCE * 3, "{:?}", start.elapsed());
    }

    #[test]
    fn versions_with_known_watch_faults_are_told_apart() {
        let faulty = ["3.3.27", "3.4.23", "3.4.35", "3.5.0", "3.5.17", "3.5.9-rc.1"];
        let sound = ["3.4.36", "3.5.18", "3.6.0", "4.0.0", "unknown"];
        assert!(faulty.into_iter().all(has_watch_faults));
        assert!(!sound.into_iter().any(has_watch_faults));

        let early = ["3.3.27", "3.4.23", "3.4.30", "3.5.12", "", "unknown"];
        let right = ["3.4.31", "3.5.13", "3.6.0", "4.0.0"];
        assert!(!early.into_iter().any(answers_progress));
        assert!(right.into_iter().all(answers_progress));
    }
}
