//! `GET /api/v1/revisions` and `GET /api/v1/revisions/R`: the changes of documents.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use humantime::{format_rfc3339_millis, parse_duration, parse_rfc3339_weak};
use serde::Serialize;

use super::Admin;
use super::entry::{is_secret, shown_text};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params, values};
use super::refused;
use super::rollout;
use crate::document::key::{DocumentKey, Root};
use crate::journal::book::Book;
use crate::journal::entry::{Changed, Effect, Entry, Gap, TextRef};
use crate::journal::intent::{Action, Via};
use crate::journal::{NotShown, Shown};
use crate::reconcile::world::{Status, World};

/// Changes of an answer if the request has no `limit`.
const DEFAULT_LIMIT: usize = 50;
/// Most changes of an answer.
const MAX_LIMIT: usize = 1000;
/// Longest wait for the entry of a change that the store has taken. At a start, the history of an etcd before 3.4.31 and
/// 3.5.13 takes two seconds.
const ENTRY_WITHIN: Duration = Duration::from_secs(5);

/// A change of documents.
#[derive(Debug, Serialize)]
struct Revision<'a> {
    revision: i64,
    at: String,
    via: Via,
    actor: Option<&'a str>,
    message: Option<&'a str>,
    request_id: Option<&'a str>,
    documents: Vec<Document<'a>>,
    /// The actor of the change that the server undid.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    effect: Option<&'a Effect>,
    /// Null: this server does not serve the change yet.
    rollout: Option<rollout::Brief>,
    undoes: Option<i64>,
    undone_by: Vec<i64>,
    gap: Option<Gap>,
}

/// A document of a change.
#[derive(Debug, Serialize)]
struct Document<'a> {
    key: &'a str,
    kind: &'static str,
    name: String,
    action: Action,
    /// What has become of the text; null once the document has another one.
    state: Option<&'static str>,
    reason: Option<String>,
    /// The texts are never shown.
    #[serde(rename = "secret", skip_serializing_if = "std::ops::Not::not")]
    is_secret: bool,
    /// Left out in lists.
    #[serde(flatten)]
    texts: Option<Texts>,
}

#[derive(Debug, Serialize)]
struct Texts {
    before: Option<String>,
    after: Option<String>,
    /// The text before was gone before the journal could keep it.
    #[serde(rename = "before_lost", skip_serializing_if = "std::ops::Not::not")]
    is_before_lost: bool,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    revisions: Vec<Revision<'a>>,
    /// The `before` of the next page.
    next: Option<i64>,
}

pub(super) async fn all(Shared(admin): Shared<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["before", "key", "actor", "since", "limit"])?;
    let wanted = Wanted::read(&query)?;
    let before = number(&query, "before")?.unwrap_or(i64::MAX);
    let limit = number(&query, "limit")?.map_or(Ok(DEFAULT_LIMIT), |limit| {
        let fits = usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit));
        let detail = format!("query parameter `limit`: found `{limit}`, expected a number from 1 to {MAX_LIMIT}");
        fits.ok_or_else(|| Problem::new(Code::InvalidRequest, detail))
    })?;

    let (shown, world) = (admin.journal.shown(), admin.world.load_full());
    let mut found = shown
        .book
        .before(before)
        .take_while(|entry| wanted.since.is_none_or(|since| entry.at() >= since))
        .filter(|entry| wanted.is_wanted(entry));
    let entries: Vec<_> = found.by_ref().take(limit).collect();
    let next = found.next().and_then(|_| entries.last()).map(|last| last.revision);
    let nacked = refused::documents(&admin);
    let state = |status: &Status| refused::state(&nacked, status).as_str();
    let revisions = entries
        .iter()
        .map(|entry| revision(&admin, &world, &shown.book, entry, &state));
    Ok(Json(Page {
        revisions: revisions.collect(),
        next,
    })
    .into_response())
}

pub(super) async fn one(
    Shared(admin): Shared<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let Path(word) = path?;
    let asked = revision_of(&word)?;
    let shown = shown_at(&admin, asked).await?;
    let entry = shown.book.at(asked).ok_or_else(|| not_kept(&shown, asked))?;
    let world = admin.world.load_full();
    let nacked = refused::documents(&admin);
    let state = |status: &Status| refused::state(&nacked, status).as_str();
    let mut revision = revision(&admin, &world, &shown.book, entry, &state);
    for (document, changed) in revision.documents.iter_mut().zip(&entry.documents) {
        let key = located(&world, &changed.key);
        document.texts = Some(Texts {
            before: text(&admin, &key, changed, changed.before.as_ref()).await?,
            after: text(&admin, &key, changed, changed.after.as_ref()).await?,
            is_before_lost: changed.before.as_ref().is_some_and(|text| text.name.is_none()),
        });
    }
    Ok(Json(revision).into_response())
}

/// The journal, once it has the change of a revision that this server has seen.
pub(super) async fn shown_at(admin: &Admin, asked: i64) -> Result<std::sync::Arc<Shown>, Problem> {
    let is_coming = |shown: &Shown| match shown.check(asked) {
        Err(NotShown::Unknown(_)) => asked <= admin.world.load().revision(),
        _ => shown.at < shown.book.head(),
    };
    if is_coming(&admin.journal.shown()) {
        admin.journal.reached(asked, ENTRY_WITHIN).await;
    }
    let shown = admin.journal.shown();
    shown.check(asked)?;
    Ok(shown)
}

/// The journal, once it has every change that this server has seen.
pub(super) async fn shown_now(admin: &Admin) -> std::sync::Arc<Shown> {
    let changed = admin.world.load().changed();
    admin.journal.reached(changed, ENTRY_WITHIN).await;
    admin.journal.shown()
}

/// The begin of the journal is at this revision, and no change: the journal does not know who made the one before.
fn not_kept(shown: &Shown, revision: i64) -> Problem {
    let oldest = shown.book.entries().next().map(|entry| entry.revision);
    NotShown::NotHeld { revision, oldest }.into()
}

/// A revision of a path.
pub(super) fn revision_of(word: &str) -> Result<i64, Problem> {
    let number = word.parse().ok().filter(|revision| *revision >= 0);
    number.ok_or_else(|| {
        Problem::new(
            Code::InvalidRequest,
            format!("found the revision `{word}`, expected a number"),
        )
    })
}

pub(super) fn number(query: &[(String, String)], name: &str) -> Result<Option<i64>, Problem> {
    let Some(text) = values(query, name).last() else {
        return Ok(None);
    };
    let number = text.parse().map_err(|_| {
        let detail = format!("query parameter `{name}`: found `{text}`, expected a number");
        Problem::new(Code::InvalidRequest, detail)
    })?;
    Ok(Some(number))
}

/// The filters of a request.
struct Wanted {
    /// A full key, or the begin of full keys.
    key: Option<(String, bool)>,
    actor: Option<String>,
    since: Option<SystemTime>,
}

impl Wanted {
    fn read(query: &[(String, String)]) -> Result<Self, Problem> {
        let key = values(query, "key").last().map(|key| match key.strip_suffix('*') {
            Some(prefix) => (prefix.to_owned(), true),
            None => (key.to_owned(), false),
        });
        let since = values(query, "since").last().map(|text| {
            let ago = parse_duration(text)
                .ok()
                .and_then(|ago| SystemTime::now().checked_sub(ago));
            let since = parse_rfc3339_weak(text).ok().or(ago);
            let detail =
                format!("query parameter `since`: found `{text}`, expected a time such as 2026-11-30T02:29:08Z");
            since.ok_or_else(|| Problem::new(Code::InvalidRequest, detail))
        });
        Ok(Self {
            key,
            actor: values(query, "actor").last().map(str::to_owned),
            since: since.transpose()?,
        })
    }

    fn is_wanted(&self, entry: &Entry) -> bool {
        let is_of_key = match &self.key {
            None => true,
            Some((key, false)) => entry.document(key).is_some(),
            Some((prefix, true)) => entry
                .documents
                .iter()
                .any(|changed| changed.key.starts_with(prefix.as_str())),
        };
        is_of_key && (self.actor.is_none() || self.actor == entry.actor)
    }
}

/// The document of a full key.
pub(super) fn located(world: &World, full_key: &str) -> DocumentKey {
    let layout = &world.options().layout;
    let root = layout.root_of(full_key.as_bytes()).unwrap_or(Root::Documents);
    layout.locate(&root, full_key.as_bytes())
}

fn revision<'a>(
    admin: &Admin,
    world: &World,
    book: &Book,
    entry: &'a Entry,
    state: &impl Fn(&Status) -> &'static str,
) -> Revision<'a> {
    let document = |changed: &'a Changed| {
        let key = located(world, &changed.key);
        let written = changed.after.as_ref().map(|text| text.revision);
        let status = world.document(&key).filter(|status| {
            let latest = status.latest.as_ref().map(|text| text.mod_revision);
            *status.full_key == *changed.key && latest == written
        });
        Document {
            key: &changed.key,
            kind: key.kind.as_str(),
            action: changed.action(),
            state: status.map(state),
            reason: status.and_then(|status| status.reason.clone()),
            is_secret: is_secret(&key) || is_xds_secret(&key),
            name: key.name.to_string(),
            texts: None,
        }
    };
    Revision {
        revision: entry.revision,
        at: format_rfc3339_millis(entry.at()).to_string(),
        via: entry.via,
        actor: entry.actor.as_deref(),
        message: entry.message.as_deref(),
        request_id: entry.request_id.as_deref(),
        documents: entry.documents.iter().map(document).collect(),
        of: entry.of.as_deref(),
        effect: entry.effect.as_deref(),
        rollout: admin.rollout(Some(entry.revision), None, 0).map(Into::into),
        undoes: entry.undoes,
        undone_by: book.undone_by(entry.revision),
        gap: entry.gap,
    }
}

/// Whether an xds document is a secret as a whole.
pub(super) fn is_xds_secret(key: &DocumentKey) -> bool {
    key.kind == crate::document::key::Kind::Xds && key.name.starts_with("secrets/")
}

/// A text of a change as it may be shown.
async fn text(
    admin: &Admin,
    key: &DocumentKey,
    changed: &Changed,
    text: Option<&TextRef>,
) -> Result<Option<String>, Problem> {
    let Some(text) = text.filter(|_| !is_secret(key) && !is_xds_secret(key)) else {
        return Ok(None);
    };
    let written = admin.journal.text(&changed.key, text).await?;
    Ok(written.and_then(|written| shown_text(key, &written)))
}
