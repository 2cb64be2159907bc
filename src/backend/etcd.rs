//! Documents in etcd.
//!
//! In: [`Options`], then prefixes to follow, keys to read, writes. Out: [`Event`]s in the order of etcd's revisions,
//! one event a revision.
//!
//! Promise: a followed root misses no change. If the next message cannot be proven to be the next revision of the same
//! history, the root is listed again (`follow`). An [`Etcd`] is made without a connection, and its output has no
//! secret.
//!
//! ```text
//! options ──→ connect ──→ follow ──→ Event          stats: counters of all modules
//!                │          ├ list    at one revision, in pages
//!                │          ├ batch   messages → revisions (pure)
//!                │          ├ reach   how far has the watch come? (pure)
//!                │          └ fork    still the same history?
//!                └──→ list, history, write, lease   error: the class of a failure, which decides the next step
//! ```
//! Supported: etcd 3.4 and later; no repair of a newer version is relied on. Left to other modules: the meaning of a
//! key, the guard against a list that lost half of its keys, and the behaviour while etcd is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::connect::{Connection, Connector, Rotation, Shared};
use self::error::{Class, Failure};
use self::follow::Follower;
pub use self::options::{DEFAULT_MAX_TXN_OPS, Options, Texts};
pub use self::stats::Stats;
use self::write::WriteFailure;
use super::{
    Backend, Entry, Event, Lease, Marked, ReadError, Revision, Terms, Unchanged, WatchControl, Write, WriteError,
};

mod batch;
mod connect;
mod error;
mod follow;
mod fork;
mod history;
mod lease;
mod list;
mod options;
mod reach;
pub mod stats;
mod token;
mod write;

/// The etcd backend. Cheap to share behind an `Arc`.
pub struct Etcd {
    connector: Connector,
    shared: Shared,
    /// The user has no right to the marker of [`Unchanged`]: writes go without it.
    is_marker_denied: AtomicBool,
}

impl Etcd {
    /// No connection is made, and no file read or option checked yet: the first use reports mistakes in the options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            connector: Connector::new(options, Arc::default()),
            shared: Shared::default(),
            is_marker_denied: AtomicBool::new(false),
        }
    }

    /// The counters of this backend.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.connector.stats)
    }

    /// The attempts of one call on the shared connection: one for each endpoint, and one more for a refused token.
    fn attempts(&self) -> Attempts<'_> {
        let rotation = self.connector.rotation();
        Attempts {
            etcd: self,
            left: rotation.len() + 1,
            rotation,
            begun: Instant::now(),
        }
    }

    /// Most operations in one transaction.
    fn most_operations(&self) -> usize {
        self.connector.options.max_txn_ops.unwrap_or(DEFAULT_MAX_TXN_OPS)
    }

    /// Make a call on the shared connection, on another one after a failure of the connection.
    async fn with_connection<T: Send>(
        &self,
        call: impl for<'a> Fn(&'a mut Connection) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync,
    ) -> Result<T, WriteError> {
        let unavailable = |failure: Failure| WriteError::Unavailable(failure.to_string());
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await.map_err(unavailable)?;
            match call(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.on_failure(&connection, failure).await.map_err(unavailable)?,
            }
        }
    }

    /// Writes go without the marker from now on.
    fn on_marker_denied(&self, marker: &str) {
        if !self.is_marker_denied.swap(true, Ordering::Relaxed) {
            warn!(
                marker,
                "etcd grants no right to the marker of writes: two replicas may accept writes that exclude each other, \
                 and no write has an author or a message. Grant the right to read and write below --state-prefix"
            );
        }
    }

    /// One key, now (`None`) or at a revision.
    async fn get_one(&self, key: &[u8], revision: Option<i64>) -> Result<Option<Entry>, Failure> {
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await?;
            match list::get(&mut connection, key, revision).await {
                Ok((entry, _)) => return Ok(entry),
                Err(failure) => attempts.on_failure(&connection, failure).await?,
            }
        }
    }
}

/// See [`Etcd::attempts`].
struct Attempts<'a> {
    etcd: &'a Etcd,
    rotation: Rotation,
    left: usize,
    begun: Instant,
}

impl Attempts<'_> {
    async fn connection(&mut self) -> Result<Connection, Failure> {
        loop {
            let shared = &self.etcd.shared;
            match shared.get(&self.etcd.connector, &mut self.rotation, self.begun).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => self.spend(failure)?,
            }
        }
    }

    /// `Ok` if another connection may succeed.
    async fn on_failure(&mut self, connection: &Connection, failure: Failure) -> Result<(), Failure> {
        if failure.class == Class::Authentication {
            self.etcd.connector.on_token_refused();
        }
        if is_of_connection(&failure) {
            self.etcd.shared.forget(connection).await;
        }
        self.spend(failure.at(&connection.endpoint))
    }

    fn spend(&mut self, failure: Failure) -> Result<(), Failure> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || !is_of_connection(&failure) {
            Err(failure)
        } else {
            Ok(())
        }
    }
}

/// True if another connection may not have this failure.
fn is_of_connection(failure: &Failure) -> bool {
    matches!(failure.class, Class::Retry | Class::Authentication | Class::Certificate)
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Etcd")
            .field("options", &self.connector.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken) {
        Box::pin(Follower::new(&self.connector, prefix, control, events).run(token)).await;
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        Ok(self.get_one(key, None).await?)
    }

    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError> {
        if revision < 1 {
            return Err(ReadError::NoHistory(revision));
        }
        match self.get_one(key, Some(revision)).await {
            Err(failure) if matches!(failure.class, Class::Compacted | Class::Future) => {
                Err(ReadError::NoHistory(revision))
            }
            read => Ok(read?),
        }
    }

    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await?;
            match list::list(&mut connection, prefix.as_bytes()).await {
                Ok(listed) => return Ok((listed.revision, listed.entries)),
                Err(failure) => attempts.on_failure(&connection, failure).await?,
            }
        }
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Entry>>, ReadError> {
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await?;
            match write::read(&mut connection, keys.iter(), self.most_operations()).await {
                Ok((_, entries)) => return Ok(entries),
                Err(failure) => attempts.on_failure(&connection, failure).await?,
            }
        }
    }

    async fn marked(&self, marker: &str) -> Result<Marked, ReadError> {
        if self.is_marker_denied.load(Ordering::Relaxed) {
            return Ok(Marked::default());
        }
        match self.get_one(marker.as_bytes(), None).await {
            Ok(found) => Ok(found.map_or_else(Marked::default, |marker| Marked {
                revision: marker.mod_revision,
                is_claim: marker.value == write::CLAIM,
            })),
            Err(failure) if failure.is_denied() => {
                self.on_marker_denied(marker);
                Ok(Marked::default())
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn history(&self, prefix: &str, after: i64, up_to: i64) -> Result<Vec<Revision>, ReadError> {
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await?;
            match history::read(&mut connection, prefix.as_bytes(), after, up_to).await {
                Ok(revisions) => return Ok(revisions),
                Err(failure) if matches!(failure.class, Class::Compacted | Class::Future) => {
                    return Err(ReadError::NoHistory(after));
                }
                Err(failure) => attempts.on_failure(&connection, failure).await?,
            }
        }
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease, WriteError> {
        self.with_connection(|connection| Box::pin(lease::grant(connection, ttl)))
            .await
    }

    async fn keep_lease(&self, lease: Lease) -> Result<bool, WriteError> {
        self.with_connection(|connection| Box::pin(lease::keep(connection, lease)))
            .await
    }

    async fn end_lease(&self, lease: Lease) -> Result<(), WriteError> {
        self.with_connection(|connection| Box::pin(lease::end(connection, lease)))
            .await
    }

    async fn write_if(&self, writes: Vec<Write>, mut terms: Terms) -> Result<i64, WriteError> {
        if self.is_marker_denied.load(Ordering::Relaxed) {
            (terms.unchanged, terms.note) = (None, None);
        }
        let unavailable = |failure: Failure| WriteError::Unavailable(failure.to_string());
        let mut attempts = self.attempts();
        loop {
            let mut connection = attempts.connection().await.map_err(unavailable)?;
            match write::write(&mut connection, &writes, &terms, self.most_operations()).await {
                Ok(revision) => return Ok(revision),
                Err(WriteFailure::Denied(failure)) => match terms.unchanged.take() {
                    Some(Unchanged { marker, .. }) => {
                        terms.note = None;
                        self.on_marker_denied(&marker);
                    }
                    None => return Err(unavailable(failure)),
                },
                Err(WriteFailure::NotSent(failure)) => {
                    attempts.on_failure(&connection, failure).await.map_err(unavailable)?;
                }
                Err(WriteFailure::Final(error)) => {
                    if matches!(error, WriteError::Unknown(_)) {
                        self.shared.forget(&connection).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    fn etag(&self, entry: &Entry) -> String {
        entry.mod_revision.to_string()
    }

    /// Read the password and certificate files. If their content differs from the credentials in use, every connection
    /// is replaced; if a file cannot be read, the connections stay.
    async fn reload(&self) -> Result<(), String> {
        self.is_marker_denied.store(false, Ordering::Relaxed);
        self.connector.reload().await.map_err(|failure| failure.to_string())
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.to_string())
    }
}
