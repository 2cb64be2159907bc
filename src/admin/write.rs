//! `PUT` and `DELETE` of a document.
//!
//! A write passes three checks:
//!
//! 1. the preconditions of the request, against the store's current text;
//! 2. a dry run of the plan ([`crate::reconcile::plan`]), on the world and the writes that it has not reached;
//! 3. the store's own comparison: the key has the text of the first check, and no server has written a document since the
//!    second ([`crate::backend::Unchanged`]). Else the write is judged again.
//!
//! A document that other hands write straight to the store is judged as far as this server knows it.
//!
//! The answer waits until the world has taken in the write. The wait does not depend on the pace of publishes.

use std::time::Duration;

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::Instant;

use super::documents::kind_and_name;
use super::entry::{Entry as Shown, is_redacted, key_of};
use super::json::Json;
use super::pending::{Basis, Turn};
use super::problem::{Code, Problem};
use super::query::{Pairs, parse_flag, reject_unknown_params};
use super::{Admin, refused};
use crate::backend::{Change, Entry, Event, Expect, Unchanged, Write, WriteError};
use crate::document::key::{DocumentKey, Kind, Root};
use crate::reconcile::plan::{Input, Plan, Verdict, plan};
use crate::reconcile::run::now;
use crate::reconcile::world::State;

/// Longest wait for the world after a write, and longest time in which a write is judged again and again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The warning on a registration that no lease removes.
const NO_LEASE: &str = "no_lease: the registration has no lease, so it stays until it is deleted";

pub(super) async fn put(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force"])?;
    let force = parse_flag(&query, "force")?;
    let key = key_of_path(path)?;
    let full_key = full_key_of(&admin, &key);
    let written = body.map_err(|rejection| Problem::from(rejection).of_key(&full_key))?;
    if is_redacted(&key, &written) {
        let reason = "found \"[redacted]\" in the place of a secret, expected the secret, which no API shows";
        return Err(Problem::new(Code::RedactedValue, reason).of_key(&full_key));
    }
    let vault = admin.world.load().options().vault.clone();
    let sealed = vault
        .to_store(&key, &written)
        .map_err(|reason| Problem::new(Code::Internal, reason).of_key(&full_key))?;
    let value = sealed.map_or_else(|| written.clone(), Bytes::from);

    let deadline = Instant::now() + PATIENCE;
    loop {
        let target = Target::of(&admin, &key).await?;
        target.check_preconditions(&admin, &headers)?;
        let (turn, basis) = target.turn(&admin, deadline).await?;
        let outcome = target.dry_run(&basis, Some(value.clone()));
        let is_stored = |current: &&Entry| vault.is_stored(&key, &current.value, &written);
        if let Some(current) = target.current.as_ref().filter(is_stored) {
            drop(turn);
            target.wait_for(&admin, current.mod_revision).await;
            return Ok(target.written(&admin, &outcome, StatusCode::OK, current));
        }

        target.refuse_bad(&outcome)?;
        target.refuse_overruled(&basis, &outcome)?;
        if !force {
            target.refuse_breaking(&basis, &outcome)?;
        }
        let mod_revision = match target.write(&admin, turn, &basis, Some(value.clone())).await? {
            Written::At(revision) => revision,
            again => {
                target.wait_to_retry(&admin, &basis, again, deadline).await?;
                continue;
            }
        };
        target.wait_for(&admin, mod_revision).await;
        let status = if target.current.is_some() {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let entry = target.entry(value, mod_revision);
        return Ok(target.written(&admin, &outcome, status, &entry));
    }
}

pub(super) async fn delete(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force"])?;
    let force = parse_flag(&query, "force")?;
    let key = key_of_path(path)?;

    let deadline = Instant::now() + PATIENCE;
    loop {
        let target = Target::of(&admin, &key).await?;
        target.check_preconditions(&admin, &headers)?;
        if target.current.is_none() {
            return Err(Problem::no_document(&target.key).of_key(&target.full_key));
        }

        let (turn, basis) = target.turn(&admin, deadline).await?;
        if !force {
            let outcome = target.dry_run(&basis, None);
            target.refuse_in_use(&outcome)?;
            target.refuse_breaking(&basis, &outcome)?;
        }
        match target.write(&admin, turn, &basis, None).await? {
            Written::At(revision) => {
                target.wait_for(&admin, revision).await;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            again => target.wait_to_retry(&admin, &basis, again, deadline).await?,
        }
    }
}

fn key_of_path(path: Result<Path<Vec<String>>, PathRejection>) -> Result<DocumentKey, Problem> {
    let (kind, name) = kind_and_name(path)?;
    let key = key_of(&kind, &name)?;
    match key.registry() {
        Some(registry) => {
            let detail = format!("{key} is what registries/{registry} finds; the server only reads a registry");
            Err(Problem::new(Code::MethodNotAllowed, detail))
        }
        None => Ok(key),
    }
}

fn full_key_of(admin: &Admin, key: &DocumentKey) -> String {
    admin.world.load().options().layout.full_key(key)
}

/// What became of a write.
enum Written {
    /// The store has taken the write at this revision.
    At(i64),
    /// The key has another text than the one that was read.
    Changed,
    /// Documents were written that this server did not know at the verdict.
    Behind,
}

/// The document of a request, with its current state in the store.
struct Target {
    key: DocumentKey,
    full_key: String,
    current: Option<Entry>,
}

impl Target {
    async fn of(admin: &Admin, key: &DocumentKey) -> Result<Self, Problem> {
        let full_key = full_key_of(admin, key);
        if admin.world.load().pending().contains(&root_of(key)) {
            let detail =
                "a document can be checked only after the first list of the store; /readyz lists the pending steps";
            return Err(Problem::new(Code::NotReady, detail).of_key(full_key));
        }

        let read = admin.backend.get(full_key.as_bytes()).await;
        let current = read.map_err(|error| Problem::from(error).of_key(&full_key))?;
        Ok(Self {
            key: key.clone(),
            full_key,
            current,
        })
    }

    /// The turn of this write, and the documents that it is judged with. A registration is judged by itself and takes
    /// no turn. Waits until this server knows every write through a server.
    async fn turn(&self, admin: &Admin, deadline: Instant) -> Result<(Option<Turn>, Basis), Problem> {
        if root_of(&self.key) != Root::Documents {
            return Ok((None, admin.pending.after(&admin.world)));
        }
        let mut turn = admin.pending.turn().await?;
        let marked = match turn.marked() {
            Some(marked) => marked,
            None => match admin.backend.marked(admin.pending.marker()).await {
                Ok(marked) => marked,
                Err(error) => {
                    let problem = Problem::from(error).of_key(&self.full_key);
                    turn.failed(&problem);
                    return Err(problem);
                }
            },
        };
        turn.set_marked(Some(marked));
        let knows_all = || admin.pending.after(&admin.world).revision >= marked;
        let left = deadline.saturating_duration_since(Instant::now());
        if !admin.arrivals.until(knows_all, left).await {
            return Err(self.is_behind());
        }
        Ok((Some(turn), admin.pending.after(&admin.world)))
    }

    fn is_behind(&self) -> Problem {
        let detail = format!(
            "{}: this server has not seen the newest documents of the store yet",
            self.key
        );
        Problem::new(Code::StoreUnavailable, detail).of_key(&self.full_key)
    }

    /// The conditions of the headers, against the store's current text. The write itself expects this text.
    fn check_preconditions(&self, admin: &Admin, headers: &HeaderMap) -> Result<(), Problem> {
        let if_match = header_text(headers, &header::IF_MATCH)?;
        let if_none_match = header_text(headers, &header::IF_NONE_MATCH)?;
        let etag = self.current.as_ref().map(|current| admin.backend.etag(current));
        match (if_match.as_deref(), if_none_match.as_deref()) {
            (None, None) => Ok(()),
            (None, Some("*")) => match etag {
                None => Ok(()),
                Some(_) => Err(self.changed("the document exists already")),
            },
            (Some(wanted), None) => match etag {
                None => Err(self.changed("the document does not exist")),
                Some(etag) if wanted == "*" || etags(wanted).any(|wanted| wanted == etag) => Ok(()),
                Some(etag) => Err(self.changed(&format!("the current etag is \"{etag}\""))),
            },
            (None, Some(_)) => Err(Problem::new(
                Code::InvalidRequest,
                "If-None-Match: only `*` is supported",
            )),
            (Some(_), Some(_)) => Err(Problem::new(
                Code::InvalidRequest,
                "If-Match and If-None-Match exclude each other",
            )),
        }
    }

    fn changed(&self, what: &str) -> Problem {
        Problem::new(Code::PreconditionFailed, format!("{}: {what}", self.key)).of_key(&self.full_key)
    }

    fn change(&self, value: Option<Bytes>, revision: i64) -> Change {
        match value {
            Some(value) => Change::Put(self.entry(value, revision)),
            None => Change::Delete {
                key: self.full_key.clone().into(),
            },
        }
    }

    /// The plan of the write, without effect.
    fn dry_run(&self, basis: &Basis, value: Option<Bytes>) -> Plan {
        let current = self.current.as_ref().map_or(0, |current| current.mod_revision);
        let revision = current.max(basis.revision).max(basis.newest) + 1;
        let input = Input::Event {
            root: root_of(&self.key),
            event: Event::Changed {
                revision,
                changes: vec![self.change(value, revision)],
            },
        };
        plan(&basis.reached(now()), vec![input], now())
    }

    fn entry(&self, value: Bytes, revision: i64) -> Entry {
        Entry {
            key: self.full_key.clone().into(),
            value,
            create_revision: self
                .current
                .as_ref()
                .map_or(revision, |current| current.create_revision),
            mod_revision: revision,
            // A write keeps the lease of its key.
            leased: self.current.as_ref().is_some_and(|current| current.leased),
        }
    }

    fn verdict<'a>(&self, outcome: &'a Plan) -> Option<&'a Verdict> {
        outcome.verdicts.iter().find(|verdict| verdict.key == self.key)
    }

    fn refuse_bad(&self, outcome: &Plan) -> Result<(), Problem> {
        if let Some(first) = self.verdict(outcome).and_then(|verdict| verdict.conflict.as_ref()) {
            let detail = format!("{} has the same match as {first}, which takes precedence", self.key);
            return Err(Problem::new(Code::SameMatch, detail).of_key(&self.full_key));
        }

        let Some(status) = outcome.world.document(&self.key) else {
            return Ok(());
        };

        if status.state == State::Shadowed && self.key.kind == Kind::Xds {
            let detail = format!(
                "{}: {}",
                self.key,
                status
                    .reason
                    .as_deref()
                    .unwrap_or("another document makes the same resource")
            );
            return Err(Problem::new(Code::NameTaken, detail)
                .of_key(&self.full_key)
                .at(status.path.clone()));
        }

        if status.state != State::Rejected {
            return Ok(());
        }
        let detail = status
            .reason
            .clone()
            .unwrap_or_else(|| format!("{} is not valid", self.key));
        Err(Problem::new(Code::InvalidDocument, detail)
            .of_key(&self.full_key)
            .at(status.path.clone()))
    }

    /// A policy in a list that a final one further out would beat, and did not beat before.
    fn refuse_overruled(&self, basis: &Basis, outcome: &Plan) -> Result<(), Problem> {
        let overruled = outcome.world.compiled().overruled(&self.key);
        if overruled.is_empty() {
            return Ok(());
        }
        let before = basis.reached(now()).compiled().overruled(&self.key);
        match overruled.difference(&before).next() {
            Some(sentence) => {
                let detail = format!("{}: {sentence}", self.key);
                Err(Problem::new(Code::InvalidDocument, detail).of_key(&self.full_key))
            }
            None => Ok(()),
        }
    }

    /// A write through which the tests of other documents fail.
    fn refuse_breaking(&self, basis: &Basis, outcome: &Plan) -> Result<(), Problem> {
        let before = basis.reached(now());
        let mut broken = outcome.world.compiled().newly_failing(before.compiled());
        let Some((document, sentence)) = broken.find(|(document, _)| **document != self.key) else {
            return Ok(());
        };
        let detail = format!("{document}: {sentence}; ?force=true makes the change nevertheless");
        Err(Problem::new(Code::BreaksTest, detail).of_key(&self.full_key))
    }

    fn refuse_in_use(&self, outcome: &Plan) -> Result<(), Problem> {
        let used_by = self
            .verdict(outcome)
            .map(|verdict| verdict.used_by.as_slice())
            .unwrap_or_default();
        let held = outcome
            .world
            .document(&self.key)
            .filter(|status| status.state == State::Held);

        let detail = match (used_by, held) {
            ([], None) => return Ok(()),
            ([], Some(status)) => status
                .reason
                .clone()
                .unwrap_or_else(|| format!("{} would be held", self.key)),
            (users, _) => {
                let users: Vec<_> = users.iter().map(ToString::to_string).collect();
                format!("{} is used by {}", self.key, users.join(", "))
            }
        };

        Err(Problem::new(
            Code::InUse,
            format!("{detail}; ?force=true deletes the document nevertheless"),
        )
        .of_key(&self.full_key))
    }

    /// Write, if the key has the text that was read and no document was written since the verdict. Else the write is to
    /// be judged again.
    async fn write(
        &self,
        admin: &Admin,
        mut turn: Option<Turn>,
        basis: &Basis,
        value: Option<Bytes>,
    ) -> Result<Written, Problem> {
        let begun = Instant::now();
        let write = Write {
            key: self.full_key.clone().into(),
            value: value.clone(),
            expect: match &self.current {
                Some(current) => Expect::Etag(admin.backend.etag(current)),
                None => Expect::Absent,
            },
        };

        let unchanged = turn.as_ref().map(|turn| Unchanged {
            prefix: basis.world.options().layout.prefix_of(&Root::Documents).to_owned(),
            since: basis.revision,
            marker: admin.pending.marker().to_owned(),
            marked: turn.marked().unwrap_or_default(),
        });
        let outcome = admin.backend.write_if(vec![write], unchanged).await;
        admin.metrics.etcd.wrote(begun.elapsed());

        // After a failure the store is asked: another server has written, or the outcome is unknown.
        if let Some(turn) = &mut turn {
            turn.set_marked(outcome.as_ref().ok().copied());
        }
        match outcome {
            Ok(revision) => {
                let change = self.change(value, revision);
                admin.pending.add(root_of(&self.key), revision, change);
                Ok(Written::At(revision))
            }
            Err(WriteError::Conflict { .. }) => Ok(Written::Changed),
            Err(WriteError::Moved(_)) => Ok(Written::Behind),
            Err(error) => {
                let is_silent = matches!(error, WriteError::Unknown(_) | WriteError::Unavailable(_));
                let sentence = error.to_string();
                if let Some(turn) = turn.filter(|_| is_silent) {
                    turn.failed(&Problem::new(Code::StoreUnavailable, sentence));
                }
                Err(Problem::from(error).of_key(&self.full_key))
            }
        }
    }

    /// Wait until the write can be judged again: if the server was behind, until it knows a newer document.
    async fn wait_to_retry(
        &self,
        admin: &Admin,
        basis: &Basis,
        outcome: Written,
        deadline: Instant,
    ) -> Result<(), Problem> {
        if matches!(outcome, Written::Behind) {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_newer = || admin.pending.after(&admin.world).revision > basis.revision;
            if !admin.arrivals.until(is_newer, left).await {
                return Err(self.is_behind());
            }
        }
        if Instant::now() < deadline {
            return Ok(());
        }
        let detail = format!("{}: other documents were written at each try", self.key);
        Err(Problem::new(Code::StoreUnavailable, detail).of_key(&self.full_key))
    }

    /// Wait until the world has taken in a write: a request to this server that comes after the answer sees the write.
    async fn wait_for(&self, admin: &Admin, revision: i64) {
        let root = root_of(&self.key);
        let has_reached = || admin.world.load().has_reached(&root, revision);
        admin.arrivals.until(has_reached, PATIENCE).await;
    }

    /// The entry of the document after the write, with the etag of the stored text.
    fn written(&self, admin: &Admin, outcome: &Plan, status: StatusCode, stored: &Entry) -> Response {
        let etag = [(header::ETAG, format!("\"{}\"", admin.backend.etag(stored)))];
        match outcome.world.document(&self.key) {
            Some(document) => {
                let mut shown = Shown::of(document, &refused::documents(admin)).at_revision(stored.mod_revision);
                let may_have_lease = self.key.kind == Kind::Services && admin.world.load().options().has_leases;
                if may_have_lease && !stored.leased {
                    shown = shown.with_warning(NO_LEASE);
                }
                (status, etag, Json(shown)).into_response()
            }
            None => (status, etag).into_response(),
        }
    }
}

fn root_of(key: &DocumentKey) -> Root {
    if key.kind == Kind::Services {
        Root::Registrations
    } else {
        Root::Documents
    }
}

/// The text of a header; of several lines with one name, the list of all.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::to_str)
        .collect::<Result<_, _>>()
        .map_err(|_| Problem::new(Code::InvalidRequest, format!("{name} is not text")))?;
    Ok((!lines.is_empty()).then(|| lines.join(",").trim().to_owned()))
}

/// The etags of an `If-Match` header. Quotes are optional here; weak etags match nothing, as RFC 9110 has it.
fn etags(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|etag| etag.trim().trim_matches('"'))
}
