//! `POST /api/v1/revisions/R/undo` and `…/restore`: put back earlier texts.
//!
//! Both are writes like any other: the texts come from the journal, and [`carry_out`] judges and writes them.

use std::sync::Arc;

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;

use super::Admin;
use super::apply::answer;
use super::author::check_message;
use super::change::{Author, Change, Condition, Edit, Options, Text, Written, carry_out, dry_run};
use super::confirm::parse_within;
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, parse_flag, reject_unknown_params};
use super::release::json_only;
use super::revisions::{is_xds_secret, located, revision_of, shown_at, shown_now};
use crate::backend::Entry;
use crate::document::key::Kind;
use crate::journal::book::PutBack;
use crate::journal::{NotShown, Shown};
use crate::reconcile::world::World;

/// The body of an undo.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Undo {
    /// The last revision that is undone; null: the one of the path alone.
    through: Option<i64>,
    /// Documents, by full key or as KIND/NAME; empty: all.
    only: Vec<String>,
    message: Option<String>,
    in_parts: bool,
    confirm_within: Option<String>,
}

/// The body of a restore.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Restore {
    /// Secrets, too.
    secrets: bool,
    message: Option<String>,
    in_parts: bool,
    confirm_within: Option<String>,
}

pub(super) async fn undo(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force", "dry_run"])?;
    let force = parse_flag(&query, "force")?;
    let Path(word) = path?;
    let asked = revision_of(&word)?;
    let body: Undo = read(&headers, body)?;
    let through = body.through.unwrap_or(asked);
    if through < asked {
        let detail = format!("through: found {through}, expected {asked} or later");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }

    let shown = shown_with(&admin, through).await?;
    let first = shown.book.at(asked).ok_or_else(|| {
        let oldest = shown.book.entries().next().map(|entry| entry.revision);
        Problem::from(NotShown::NotHeld {
            revision: asked,
            oldest,
        })
    })?;
    let first = first.revision;
    let world = admin.world.load_full();
    let only: Vec<String> = body.only.iter().map(|word| full_key_of(&world, word)).collect();
    let (texts, conflicts) = shown.book.undo(first, through, &only);
    if let Some(missing) = only
        .iter()
        .find(|key| !texts.iter().any(|(changed, _)| **changed == ***key))
    {
        let detail = format!("only: found {missing}, expected a document of revision {first}");
        return Err(Problem::new(Code::NotFound, detail).of_key(missing));
    }
    if !force {
        Problem::of_all(conflicts.iter().map(|conflict| {
            let detail = format!(
                "{} was changed at revision {} again; ?force=true puts back its text nevertheless",
                located(&world, &conflict.key),
                conflict.later
            );
            Problem::new(Code::ChangedSince, detail).of_key(&*conflict.key)
        }))?;
    }
    let change = Put {
        texts,
        message: body.message,
        undoes: Some(first),
        options: Options {
            force,
            in_parts: body.in_parts,
            confirm_within: body.confirm_within.as_deref().map(parse_within).transpose()?,
            ..Options::default()
        },
    };
    let change = change.into_change(&admin, &world, &shown, author).await?;
    answer_to(&admin, change, parse_flag(&query, "dry_run")?).await
}

pub(super) async fn restore(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    author: Author,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force", "dry_run"])?;
    let force = parse_flag(&query, "force")?;
    let Path(word) = path?;
    let asked = revision_of(&word)?;
    let body: Restore = read(&headers, body)?;
    let shown = shown_with(&admin, asked).await?;
    let world = admin.world.load_full();
    let texts = shown
        .book
        .texts_before(asked, i64::MAX)
        .into_iter()
        .filter(|(full_key, _)| {
            let key = located(&world, full_key);
            body.secrets || !(key.kind == Kind::Secrets || is_xds_secret(&key))
        });
    let change = Put {
        texts: texts.collect(),
        message: body.message,
        undoes: None,
        options: Options {
            force,
            in_parts: body.in_parts,
            confirm_within: body.confirm_within.as_deref().map(parse_within).transpose()?,
            ..Options::default()
        },
    };
    let change = change.into_change(&admin, &world, &shown, author).await?;
    answer_to(&admin, change, parse_flag(&query, "dry_run")?).await
}

/// The journal as it is now, which holds a revision.
pub(super) async fn shown_with(admin: &Admin, revision: i64) -> Result<Arc<Shown>, Problem> {
    shown_at(admin, revision).await?;
    let shown = shown_now(admin).await;
    shown.check(revision)?;
    Ok(shown)
}

pub(super) fn read<T: for<'a> Deserialize<'a> + Default>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    let body = body?;
    if body.is_empty() {
        return Ok(T::default());
    }
    json_only(headers)?;
    serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body cannot be read: {error}");
        Problem::new(Code::InvalidRequest, detail)
    })
}

/// A full key, from a full key or from KIND/NAME.
fn full_key_of(world: &World, word: &str) -> String {
    let layout = &world.options().layout;
    if layout.root_of(word.as_bytes()).is_some() {
        return word.to_owned();
    }
    format!("{}{word}", layout.prefix)
}

/// Texts that are put back.
pub(super) struct Put {
    pub(super) texts: Vec<PutBack>,
    pub(super) message: Option<String>,
    pub(super) undoes: Option<i64>,
    pub(super) options: Options,
}

impl Put {
    /// The change that puts the texts back.
    pub(super) async fn into_change(
        self,
        admin: &Admin,
        world: &World,
        shown: &Shown,
        author: Author,
    ) -> Result<Change, Problem> {
        let message = self.message.map(|text| check_message("message", text)).transpose()?;
        let mut edits = Vec::with_capacity(self.texts.len());
        for (full_key, text) in self.texts {
            let lost = || {
                let detail = format!("{full_key}: the earlier text was gone before the journal could keep it");
                Problem::new(Code::NotInJournal, detail).of_key(&*full_key)
            };
            let text = match text {
                None => Text::Gone,
                Some(text) => Text::Written(admin.journal.text(&full_key, &text).await?.ok_or_else(lost)?),
            };
            let condition = match self.options.force {
                true => Condition::Any,
                false => condition(admin, shown, &full_key),
            };
            edits.push(Edit {
                key: located(world, &full_key),
                full_key: full_key.to_string(),
                text,
                condition,
                ttl: None,
            });
        }
        Ok(Change {
            edits,
            author: Author {
                message: message.or(author.message),
                undoes: self.undoes,
                ..author
            },
            options: self.options,
        })
    }
}

/// The plan of a change, or what it has done.
async fn answer_to(admin: &Admin, change: Change, is_dry_run: bool) -> Result<Response, Problem> {
    if is_dry_run {
        return Ok(Json(dry_run(admin, &change).await?).into_response());
    }
    let written = match change.edits.is_empty() {
        true => Written::default(),
        false => carry_out(admin, &change).await?,
    };
    Ok(Json(answer(admin, &written)).into_response())
}

/// The document is as the journal knows it: nobody has changed it since.
fn condition(admin: &Admin, shown: &Shown, full_key: &str) -> Condition {
    let Some(text) = shown.texts.get(full_key) else {
        return Condition::Absent;
    };
    let Some(value) = &text.value else {
        return Condition::Present;
    };
    let entry = Entry {
        key: full_key.as_bytes().to_vec().into(),
        value: value.clone(),
        create_revision: text.created,
        mod_revision: text.revision,
        leased: text.leased,
    };
    Condition::Etags(vec![admin.backend.etag(&entry)])
}
