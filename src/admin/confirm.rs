//! Changes that are undone unless they are confirmed: `confirm_within` of a write, `POST /api/v1/revisions/R/confirm`.
//!
//! In: the records below `<state-prefix>confirm/` ([`Record`]), which the writer of the journal puts. Out: the end of a
//! record, by a confirmation or by an undo.
//!
//! The replica that writes the journal undoes. The undo is a write like any other ([`carry_out`]), and deletes the record
//! in its own transaction: of a confirmation and the undo, one comes to nothing. If a document of the change was altered
//! since, nothing is undone, and the record says so until somebody confirms the change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use humantime::{format_duration, format_rfc3339_seconds, parse_duration};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use super::Admin;
use super::change::{Author, Options, carry_out};
use super::frozen::millis;
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params, values};
use super::revisions::{located, revision_of};
use super::undo::{Put, read, shown_with};
use crate::backend::{Change, Entry, Event, Expect, ReadError, WatchControl, Write};
use crate::journal::confirm::{FOLDER, FORMAT, Record};
use crate::journal::intent::Via;

/// The bounds of `confirm_within`.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Pause after a failure, and between two looks at records that are due on another replica.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause of the stage.
const IDLE: Duration = Duration::from_secs(60);

/// The changes that wait for a confirmation, as this replica knows them. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<BTreeMap<i64, Record>>>);

impl Waiting {
    /// Every record, by revision.
    pub(super) fn records(&self) -> Vec<Record> {
        self.0.lock().values().cloned().collect()
    }

    /// The items of `GET /api/v1/status`: each with its reason and its end.
    pub(super) fn attention(&self) -> impl Iterator<Item = (String, SystemTime)> {
        self.records().into_iter().map(|record| {
            let Record { revision, until, .. } = record;
            let by = record.actor.map(|actor| format!(" by {actor}")).unwrap_or_default();
            let until = UNIX_EPOCH + Duration::from_millis(until);
            let reason = match record.not_undone {
                Some(reason) => format!("{revision}{by} was not confirmed, and is not undone: {reason}"),
                None => format!(
                    "{revision}{by} is undone at {} unless it is confirmed",
                    format_rfc3339_seconds(until)
                ),
            };
            (reason, until)
        })
    }

    fn take(&self, entries: &[Entry]) {
        *self.0.lock() = entries
            .iter()
            .filter_map(record_of)
            .map(|record| (record.revision, record))
            .collect();
    }

    fn on_change(&self, change: &Change) {
        match change {
            Change::Put(entry) => {
                if let Some(record) = record_of(entry) {
                    self.0.lock().insert(record.revision, record);
                }
            }
            Change::Delete { key } => {
                let revision = std::str::from_utf8(key)
                    .ok()
                    .and_then(|key| key.rsplit('/').next()?.parse().ok());
                if let Some(revision) = revision {
                    self.forget(revision);
                }
            }
        }
    }

    fn forget(&self, revision: i64) {
        self.0.lock().remove(&revision);
    }
}

fn record_of(entry: &Entry) -> Option<Record> {
    let record: Record = serde_json::from_slice(&entry.value).ok()?;
    (record.format <= FORMAT).then_some(record)
}

/// The value of `confirm_within`.
pub(super) fn parse_within(text: &str) -> Result<Duration, Problem> {
    let within = parse_duration(text)
        .ok()
        .filter(|within| (SHORTEST..=LONGEST).contains(within));
    within.ok_or_else(|| {
        let detail = format!("confirm_within: found `{text}`, expected a duration such as 5m, from 1s to 24h");
        Problem::new(Code::InvalidRequest, detail)
    })
}

/// The `?confirm_within=` of a request.
pub(super) fn within_of(query: &Pairs) -> Result<Option<Duration>, Problem> {
    values(query, "confirm_within").last().map(parse_within).transpose()
}

pub(super) async fn confirm(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let Path(word) = path?;
    let asked = revision_of(&word)?;
    let Empty {} = read(&headers, body)?;
    let shown = shown_with(&admin, asked).await?;
    let revision = shown.book.at(asked).map_or(asked, |entry| entry.revision);
    let key = admin.journal.state_key(&Record::key(revision));
    let Some(entry) = admin.backend.get(key.as_bytes()).await? else {
        return Err(match shown.book.undone_by(revision).last() {
            Some(undone_by) => {
                let detail = format!("{revision} was undone by {undone_by}, so it cannot be confirmed");
                Problem::new(Code::ChangedSince, detail)
            }
            None => Problem::new(Code::NotFound, format!("{revision} waits for no confirmation")),
        });
    };
    let end = Write {
        expect: Expect::Etag(admin.backend.etag(&entry)),
        ..deletion(&key)
    };
    admin.backend.write(vec![end]).await?;
    admin.confirms.forget(revision);
    Ok(Json(json!({ "revision": revision, "confirmed": true })).into_response())
}

/// The body of a confirmation.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

fn deletion(key: &str) -> Write {
    Write {
        key: key.to_owned().into(),
        value: None,
        expect: Expect::Any,
    }
}

/// The stage: follows the records, and undoes the changes whose time is over.
///
/// Runs until cancelled.
pub async fn run(admin: Admin, token: CancellationToken) {
    let prefix = admin.journal.state_key(FOLDER);
    let (sender, mut events) = mpsc::channel(64);
    let mut helpers = JoinSet::new();
    let is_shared = admin.backend.is_shared();
    if is_shared {
        let (backend, stop, prefix) = (Arc::clone(&admin.backend), token.clone(), prefix.clone());
        let span = info_span!("watch", prefix);
        let watch = async move { backend.watch(&prefix, WatchControl::default(), sender, stop).await };
        helpers.spawn(watch.instrument(span));
    }
    let mut written = admin.journal.confirms();
    let mut is_known = is_shared;
    loop {
        if !is_known {
            is_known = list(&admin, &prefix).await.is_ok();
        }
        tokio::select! {
            () = token.cancelled() => break,
            Some(event) = events.recv() => match event {
                Event::Listed { entries, .. } => admin.confirms.take(&entries),
                Event::Changed { changes, .. } => changes.iter().for_each(|change| admin.confirms.on_change(change)),
                _ => {}
            },
            Ok(()) = written.changed() => is_known = is_shared,
            () = tokio::time::sleep(pause(&admin)) => {}
        }
        if admin.journal.is_writer() {
            tokio::select! {
                () = token.cancelled() => break,
                () = undo_due(&admin) => {}
            }
        }
    }
    while helpers.join_next().await.is_some() {}
}

async fn list(admin: &Admin, prefix: &str) -> Result<(), ReadError> {
    let (_, entries) = admin.backend.list(prefix).await?;
    admin.confirms.take(&entries);
    Ok(())
}

/// The time until a record is due.
fn pause(admin: &Admin) -> Duration {
    let now = millis(SystemTime::now());
    let records = admin.confirms.records().into_iter();
    let until = records
        .filter(|record| record.not_undone.is_none())
        .map(|record| record.until);
    match until.min() {
        Some(until) if until <= now => RETRY,
        Some(until) => Duration::from_millis(until - now).min(IDLE),
        None => IDLE,
    }
}

async fn undo_due(admin: &Admin) {
    let now = millis(SystemTime::now());
    for record in admin.confirms.records() {
        if record.until > now || record.not_undone.is_some() {
            continue;
        }
        let revision = record.revision;
        match undo(admin, &record).await {
            Ok(()) => {}
            Err(problem) if problem.is_retryable() => {
                warn!(
                    revision,
                    reason = problem.detail(),
                    "A change that nobody has confirmed cannot be undone now"
                );
            }
            Err(problem) => {
                warn!(
                    revision,
                    reason = problem.detail(),
                    "A change that nobody has confirmed is not undone"
                );
                give_up(admin, record, problem.detail()).await;
            }
        }
    }
}

/// Undo a change whose time is over, unless the record is gone.
async fn undo(admin: &Admin, record: &Record) -> Result<(), Problem> {
    let revision = record.revision;
    let key = admin.journal.state_key(&Record::key(revision));
    let Some(entry) = admin.backend.get(key.as_bytes()).await? else {
        admin.confirms.forget(revision);
        return Ok(());
    };
    let end = Write {
        expect: Expect::Etag(admin.backend.etag(&entry)),
        ..deletion(&key)
    };
    let shown = shown_with(admin, revision).await?;
    let world = admin.world.load_full();
    let (texts, conflicts) = shown.book.undo(revision, revision, &[]);
    if let Some(conflict) = conflicts.first() {
        let document = located(&world, &conflict.key);
        let detail = format!("{document} was changed at revision {} again", conflict.later);
        return Err(Problem::new(Code::ChangedSince, detail));
    }
    let within = format_duration(Duration::from_millis(record.within));
    let put = Put {
        texts,
        message: Some(format!("{revision} was not confirmed within {within}")),
        undoes: Some(revision),
        options: Options {
            record: Some(end.clone()),
            ..Options::default()
        },
    };
    let author = Author {
        actor: None,
        of: record.actor.clone(),
        message: None,
        request_id: format!("confirm/{revision}/{}", record.until),
        is_repeatable: true,
        undoes: None,
        via: Via::Timer,
    };
    let change = put.into_change(admin, &world, &shown, author).await?;
    let written = carry_out(admin, &change).await?;
    match written.revisions.last() {
        Some(by) => info!(revision, by, "A change that nobody has confirmed is undone"),
        // The documents have the earlier texts already.
        None => drop(admin.backend.write(vec![end]).await?),
    }
    admin.confirms.forget(revision);
    Ok(())
}

/// Keep the reason in the record, for the status.
async fn give_up(admin: &Admin, record: Record, reason: &str) {
    let key = admin.journal.state_key(&Record::key(record.revision));
    let record = Record {
        not_undone: Some(reason.to_owned()),
        ..record
    };
    let Ok(Some(entry)) = admin.backend.get(key.as_bytes()).await else {
        return;
    };
    let Ok(value) = serde_json::to_vec(&record) else { return };
    let write = Write {
        key: key.into(),
        value: Some(value.into()),
        expect: Expect::Etag(admin.backend.etag(&entry)),
    };
    if admin.backend.write(vec![write]).await.is_ok() {
        admin.confirms.0.lock().insert(record.revision, record);
    }
}
