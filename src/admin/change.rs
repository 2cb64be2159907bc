//! One path for every write of documents: `PUT`, `DELETE`, `POST /api/v1/apply`.
//!
//! In: a [`Change`], documents with their new texts and an [`Author`]. Out: [`Written`], or the problems of the documents
//! that keep the change from being written. All documents of a change are written in one revision, or none is.
//!
//! A change passes three checks:
//!
//! 1. the conditions of the request, against the store's current texts;
//! 2. a dry run of the plan ([`crate::reconcile::plan`]), on the world and the writes that it has not reached (`judge`);
//! 3. the store's own comparison: the keys have the texts of the first check, and no server has written a document since
//!    the second ([`crate::backend::Unchanged`]). Else the change is judged again.
//!
//! Documents that other hands write straight to the store are judged as far as this server knows them. A change that has
//! documents, not registrations alone, carries its intent ([`crate::journal::Intent`]) in the same transaction. By it a
//! repeat of the request is answered, and writes nothing (`repeat`). A change that one transaction cannot hold is
//! refused, or written in `parts`.
//!
//! A frozen document is refused before the checks, without `force` (`frozen`).
//!
//! The answer waits until the world has taken in the write. The wait does not depend on the pace of publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Admin;
use super::entry::is_redacted;
use super::frozen::refuse_frozen;
use super::pending::{Basis, Turn};
use super::plan;
use super::problem::{Code, Problem};
use super::revisions::is_xds_secret;
use crate::backend::{self, Base, Entry, Expect, Lease, Marked, Note, Terms, Unchanged, WriteError};
use crate::document::key::{DocumentKey, Kind, Root};
use crate::journal::intent::{Action, FORMAT, Intent, Part, Via};
use crate::reconcile::run::now;
use crate::reconcile::world::Status;

mod judge;
mod parts;
mod repeat;

use judge::Judged;

/// Longest wait for the world after a write, and longest time in which a change is judged again and again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for the write of a claim ([`Marked::is_claim`]); then its server has given up.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);

/// The bounds of a `ttl`.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// Most earlier texts of secrets that a plan reads.
const MOST_EARLIER_TEXTS: usize = 50;

/// Longest wait for a newer document before the marker is read again.
const MARKER_PAUSE: Duration = Duration::from_millis(20);

/// Documents with their new texts, and who writes them.
#[derive(Debug)]
pub(super) struct Change {
    /// At least one; each document once.
    pub(super) edits: Vec<Edit>,
    pub(super) author: Author,
    pub(super) options: Options,
}

/// The new text of one document.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) key: DocumentKey,
    pub(super) full_key: String,
    pub(super) text: Text,
    pub(super) condition: Condition,
    /// Of a registration: it gets a new lease of this length.
    pub(super) ttl: Option<Duration>,
}

/// What becomes of a document.
#[derive(Debug)]
pub(super) enum Text {
    /// A text as its author wrote it.
    Written(Bytes),
    /// The document is deleted.
    Gone,
}

/// The expectation of an author about a document.
#[derive(Debug)]
pub(super) enum Condition {
    /// None: the last write wins.
    Any,
    /// The document does not exist.
    Absent,
    /// The document exists.
    Present,
    /// The document has one of these etags.
    Etags(Vec<String>),
}

/// Who makes a change, and why.
#[derive(Debug, Clone)]
pub(super) struct Author {
    /// The authenticated subject; `None`: anonymous.
    pub(super) actor: Option<String>,
    pub(super) message: Option<String>,
    pub(super) request_id: String,
    /// The client chose the id, so it may repeat the request.
    pub(super) is_repeatable: bool,
    /// The revision that the change takes back.
    pub(super) undoes: Option<i64>,
    /// Of a change by the server: the subject whose change it takes back.
    pub(super) of: Option<String>,
    pub(super) via: Via,
}

/// How a change is judged.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// Documents in use may be deleted, and tests of other documents may fail.
    pub(super) force: bool,
    /// No document has changed since this revision.
    pub(super) if_base: Option<i64>,
    /// A change that one transaction cannot hold is written in several.
    pub(super) in_parts: bool,
    /// The change is undone after this time, unless it is confirmed.
    pub(super) confirm_within: Option<Duration>,
    /// The end of the record of a change that nobody has confirmed, in the transaction of its undo.
    pub(super) record: Option<backend::Write>,
}

/// What a change has done.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// One for each transaction; none: every document was as the change wants it.
    pub(super) revisions: Vec<i64>,
    /// In the order of the change.
    pub(super) documents: Vec<WrittenDocument>,
}

/// What a change has done to one document.
#[derive(Debug)]
pub(super) struct WrittenDocument {
    pub(super) key: DocumentKey,
    pub(super) full_key: String,
    pub(super) action: Action,
    /// The text in the store; `None`: the document is gone.
    pub(super) stored: Option<Entry>,
    /// `None`: the document is gone.
    pub(super) status: Option<Status>,
}

/// Write the documents of a change, all or none.
///
/// # Errors
/// The documents that keep the change from being written, or the store does.
pub(super) async fn carry_out(admin: &Admin, change: &Change) -> Result<Written, Problem> {
    refuse_twice(&change.edits)?;
    if !change.options.force {
        let documents = change.edits.iter().map(|edit| (&edit.key, edit.full_key.as_str()));
        refuse_frozen(admin, documents).await?;
    }
    let targets = targets(admin, change)?;
    refuse_unconfirmable(change, &targets)?;
    refuse_ttl(admin, &targets)?;
    match parts::split(admin, change, &targets)? {
        None => write_all(admin, change, &targets, None).await,
        Some(parts) => parts::write(admin, change, targets, parts).await,
    }
}

/// The plan of a change; nothing is written. A plan is made without force, even if the change has it.
///
/// # Errors
/// The change cannot be judged.
pub(super) async fn dry_run(admin: &Admin, change: &Change) -> Result<plan::Answer, Problem> {
    refuse_twice(&change.edits)?;
    let targets = targets(admin, change)?;
    refuse_unconfirmable(change, &targets)?;
    refuse_ttl(admin, &targets)?;
    parts::split(admin, change, &targets)?;
    let attempt = Attempt::new(admin, change, &targets, None);
    let compared = attempt.compare(&targets).await?;
    let (turn, basis) = attempt.turn().await?;
    // Other writes go on while the plan is made.
    drop(turn);

    let judged = Judged::of(&basis, &compared, now());
    let documents = change.edits.iter().map(|edit| (&edit.key, edit.full_key.as_str()));
    let refusals = [
        refuse_frozen(admin, documents).await,
        attempt.refuse_conditions(&compared),
        attempt.refuse_moved(&basis),
        judged.refuse(&compared, false, false),
    ];
    let refusals: Vec<Problem> = refusals.into_iter().filter_map(Result::err).collect();
    let older_secrets = older_secrets(admin, &compared).await?;
    Ok(judged.answer(admin, basis.changed, &compared, &refusals, older_secrets))
}

/// The secrets that a change gives a text that they had before, as far as the journal has it.
async fn older_secrets(admin: &Admin, compared: &[Compared<'_>]) -> Result<BTreeSet<DocumentKey>, Problem> {
    let world = admin.world.load_full();
    let book = admin.journal.shown().book.clone();
    let mut older = BTreeSet::new();
    let mut reads = 0;
    let is_secret = |key: &DocumentKey| key.kind == Kind::Secrets || is_xds_secret(key);
    for compared in compared.iter().filter(|compared| compared.action == Action::Changed) {
        let Edit {
            key, full_key, text, ..
        } = compared.target.edit;
        let Text::Written(text) = text else { continue };
        if !is_secret(key) {
            continue;
        }
        let entries = book.entries().rev().filter_map(|entry| entry.document(full_key));
        let texts = entries.filter_map(|changed| changed.before.as_ref());
        for earlier in texts {
            if reads == MOST_EARLIER_TEXTS {
                return Ok(older);
            }
            reads += 1;
            let earlier = admin.journal.text(full_key, earlier).await?;
            if earlier.is_some_and(|earlier| world.options().vault.is_stored(key, &earlier, text)) {
                older.insert(key.clone());
                break;
            }
        }
    }
    Ok(older)
}

fn refuse_twice(edits: &[Edit]) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    match edits.iter().find(|edit| !seen.insert(&edit.full_key)) {
        Some(edit) => {
            let detail = format!("{} stands twice in the change", edit.key);
            Err(Problem::new(Code::InvalidRequest, detail).of_key(&edit.full_key))
        }
        None => Ok(()),
    }
}

/// Registrations have no entry in the journal, so nothing could undo their change.
fn refuse_unconfirmable(change: &Change, targets: &[Target<'_>]) -> Result<(), Problem> {
    match targets.iter().find(|target| target.root.is_registrations()) {
        Some(target) if change.options.confirm_within.is_some() => {
            let detail = format!(
                "confirm_within: found the registration {}, which is never undone",
                target.edit.key
            );
            Err(Problem::new(Code::InvalidRequest, detail).of_key(&target.edit.full_key))
        }
        _ => Ok(()),
    }
}

/// Registrations alone have leases, and not in every store.
fn refuse_ttl(admin: &Admin, targets: &[Target<'_>]) -> Result<(), Problem> {
    let has_leases = admin.world.load().options().has_leases;
    let is_refused = |target: &&Target<'_>| {
        target.edit.ttl.is_some() && (!has_leases || !target.root.is_registrations() || target.value.is_none())
    };
    let Some(Target { edit, root, .. }) = targets.iter().find(is_refused) else {
        return Ok(());
    };
    let detail = match root.is_registrations() {
        _ if !has_leases => format!("ttl: a {} has no leases", admin.backend.name()),
        true => format!("ttl: {} is deleted, expected no ttl", edit.key),
        false => format!("ttl: {} is no registration, expected a document of services", edit.key),
    };
    Err(Problem::new(Code::InvalidRequest, detail).of_key(&edit.full_key))
}

/// The value of a `ttl`.
pub(super) fn parse_ttl(text: &str) -> Result<Duration, Problem> {
    let ttl = humantime::parse_duration(text).ok();
    let ttl = ttl.filter(|ttl| (SHORTEST_TTL..=LONGEST_TTL).contains(ttl));
    ttl.ok_or_else(|| {
        let detail = format!("ttl: found `{text}`, expected a duration such as 30s, from 1s to 24h");
        Problem::new(Code::InvalidRequest, detail)
    })
}

/// A document of a change as it is to be stored.
#[derive(Debug)]
struct Target<'a> {
    edit: &'a Edit,
    root: Root,
    /// `None`: to be deleted.
    value: Option<Bytes>,
}

/// A document of a change beside its current text in the store.
struct Compared<'a> {
    target: &'a Target<'a>,
    current: Option<Entry>,
    action: Action,
}

/// What became of a try to write.
enum Outcome {
    /// The store has taken the write at this revision.
    At(i64),
    /// A key has another text than the one that was read.
    Changed,
    /// Documents were written that this server did not know at the verdict.
    Behind,
}

/// The documents of a change as they are to be stored: secrets sealed.
fn targets<'a>(admin: &Admin, change: &'a Change) -> Result<Vec<Target<'a>>, Problem> {
    let world = admin.world.load();
    let options = world.options();
    let redacted = change.edits.iter().filter(|edit| match &edit.text {
        Text::Written(text) => is_redacted(&edit.key, text),
        Text::Gone => false,
    });
    Problem::of_all(redacted.map(|edit| {
        let reason = "found \"[redacted]\" in the place of a secret, expected the secret, which no API shows";
        Problem::new(Code::RedactedValue, reason).of_key(&edit.full_key)
    }))?;

    let target = |edit: &'a Edit| {
        let value = match &edit.text {
            Text::Gone => None,
            Text::Written(text) => match options.vault.to_store(&edit.key, text) {
                Ok(sealed) => Some(sealed.map_or_else(|| text.clone(), Bytes::from)),
                Err(reason) => return Err(Problem::new(Code::Internal, reason).of_key(&edit.full_key)),
            },
        };
        let root = options.layout.root_of(edit.full_key.as_bytes());
        Ok(Target {
            edit,
            root: root.unwrap_or(Root::Documents),
            value,
        })
    };
    change.edits.iter().map(target).collect()
}

/// Write the documents in one transaction; `part`: they are one of several parts.
async fn write_all(
    admin: &Admin,
    change: &Change,
    targets: &[Target<'_>],
    part: Option<&Part>,
) -> Result<Written, Problem> {
    let attempt = Attempt::new(admin, change, targets, part);
    loop {
        if let Some(written) = repeat::find(admin, change, targets, part).await? {
            attempt.wait_for(written.revisions.last().copied()).await;
            return Ok(written);
        }
        let compared = attempt.compare(targets).await?;
        attempt.refuse_conditions(&compared)?;
        let (turn, basis) = attempt.turn().await?;
        attempt.refuse_moved(&basis)?;
        let judged = Judged::of(&basis, &compared, now());

        if compared.iter().all(|compared| compared.action == Action::Unchanged) {
            drop(turn);
            let revisions = compared.iter().filter_map(|compared| compared.current.as_ref());
            attempt
                .wait_for(revisions.map(|current| current.mod_revision).max())
                .await;
            return Ok(judged.written(None, &compared));
        }

        judged.refuse(&compared, change.options.force, part.is_some())?;
        match attempt.store(turn, &basis, &compared).await? {
            Outcome::At(revision) => {
                attempt.wait_for(Some(revision)).await;
                repeat::limit_notes(admin).await;
                return Ok(judged.written(Some(revision), &compared));
            }
            again => attempt.wait_to_retry(&basis, &again).await?,
        }
    }
}

impl Compared<'_> {
    /// The condition of the author, against the store's current text. The write itself expects this text.
    fn refuse_condition(&self, admin: &Admin) -> Result<(), Problem> {
        let etag = self.current.as_ref().map(|current| admin.backend.etag(current));
        let detail = match (&self.target.edit.condition, etag) {
            (Condition::Any, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => return Ok(()),
            (Condition::Etags(wanted), Some(etag)) if wanted.contains(&etag) => return Ok(()),
            (Condition::Absent, Some(_)) => "the document exists already".to_owned(),
            (Condition::Present | Condition::Etags(_), None) => "the document does not exist".to_owned(),
            (Condition::Etags(_), Some(etag)) => format!("the current etag is \"{etag}\""),
        };
        let detail = format!("{}: {detail}", self.target.edit.key);
        Err(Problem::new(Code::PreconditionFailed, detail).of_key(&self.target.edit.full_key))
    }

    /// The entry of the document after a write at this revision.
    fn entry(&self, revision: i64) -> Option<Entry> {
        if self.action == Action::Unchanged {
            return self.current.clone();
        }
        let current = self.current.as_ref();
        Some(Entry {
            key: self.target.edit.full_key.clone().into(),
            value: self.target.value.clone()?,
            create_revision: current.map_or(revision, |current| current.create_revision),
            mod_revision: revision,
            // A write keeps the lease of its key.
            leased: self.target.edit.ttl.is_some() || current.is_some_and(|current| current.leased),
        })
    }

    /// The change of the key at this revision; `None`: the key is absent, and was before.
    fn change(&self, revision: i64) -> Option<backend::Change> {
        match (self.entry(revision), &self.current) {
            (Some(entry), _) => Some(backend::Change::Put(entry)),
            (None, Some(_)) => Some(backend::Change::Delete {
                key: self.target.edit.full_key.clone().into(),
            }),
            (None, None) => None,
        }
    }
}

/// The changes of some documents at a revision, by root.
fn changes_by_root(compared: &[Compared<'_>], revision: i64) -> BTreeMap<Root, Vec<backend::Change>> {
    let mut by_root: BTreeMap<Root, Vec<backend::Change>> = BTreeMap::new();
    for compared in compared {
        let changes = by_root.entry(compared.target.root.clone()).or_default();
        changes.extend(compared.change(revision));
    }
    by_root
}

/// The tries to write some documents in one transaction.
struct Attempt<'a> {
    admin: &'a Admin,
    change: &'a Change,
    part: Option<&'a Part>,
    deadline: Instant,
    roots: BTreeSet<Root>,
    /// The full key of the first document, for problems of the store.
    place: &'a str,
}

impl<'a> Attempt<'a> {
    fn new(admin: &'a Admin, change: &'a Change, targets: &'a [Target<'a>], part: Option<&'a Part>) -> Self {
        Self {
            admin,
            change,
            part,
            deadline: Instant::now() + PATIENCE,
            roots: targets.iter().map(|target| target.root.clone()).collect(),
            place: targets.first().map_or("", |target| &target.edit.full_key),
        }
    }

    /// The documents beside their current texts.
    async fn compare<'t>(&self, targets: &'t [Target<'t>]) -> Result<Vec<Compared<'t>>, Problem> {
        let world = self.admin.world.load_full();
        let pending = world.pending();
        if self.roots.iter().any(|root| pending.contains(root)) {
            let detail =
                "a document can be checked only after the first list of the store; /readyz lists the pending steps";
            return Err(Problem::new(Code::NotReady, detail).of_key(self.place));
        }

        let keys: Vec<Bytes> = targets
            .iter()
            .map(|target| Bytes::from(target.edit.full_key.clone()))
            .collect();
        let read = self.admin.backend.get_many(&keys).await;
        let entries = read.map_err(|error| Problem::from(error).of_key(self.place))?;
        let vault = &world.options().vault;
        let compared = targets.iter().zip(entries).map(|(target, current)| {
            let action = match (&target.edit.text, &current) {
                (Text::Gone, None) => Action::Unchanged,
                (Text::Gone, Some(_)) => Action::Removed,
                (Text::Written(_), None) => Action::Added,
                (Text::Written(text), Some(current))
                    // A new lease is a write of an equal text, too.
                    if target.edit.ttl.is_none() && vault.is_stored(&target.edit.key, &current.value, text) =>
                {
                    Action::Unchanged
                }
                (Text::Written(_), Some(_)) => Action::Changed,
            };
            Compared {
                target,
                current,
                action,
            }
        });
        Ok(compared.collect())
    }

    fn refuse_conditions(&self, compared: &[Compared<'_>]) -> Result<(), Problem> {
        let refused = compared.iter().map(|compared| compared.refuse_condition(self.admin));
        Problem::of_all(refused.filter_map(Result::err))
    }

    fn has_documents(&self) -> bool {
        self.roots.iter().any(|root| !root.is_registrations())
    }

    /// The turn of this change, and the documents that it is judged with. A change of registrations alone is judged by
    /// itself and takes no turn. Waits until this server knows every write through a server.
    async fn turn(&self) -> Result<(Option<Turn>, Basis), Problem> {
        let admin = self.admin;
        if !self.has_documents() {
            return Ok((None, admin.pending.after(&admin.world)));
        }
        let mut turn = admin.pending.turn().await?;
        let marked = match turn.marked() {
            Some(marked) => marked,
            None => match admin.backend.marked(admin.pending.marker()).await {
                Ok(marked) => marked,
                Err(error) => {
                    let problem = Problem::from(error).of_key(self.place);
                    turn.failed(&problem);
                    return Err(problem);
                }
            },
        };
        turn.set_marked(Some(marked));
        let knows_all = || admin.pending.after(&admin.world).revision >= marked.revision;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = if marked.is_claim {
            left.min(CLAIM_PATIENCE)
        } else {
            left
        };
        if !admin.arrivals.until(knows_all, patience).await && !marked.is_claim {
            return Err(self.is_behind());
        }
        Ok((Some(turn), admin.pending.after(&admin.world)))
    }

    fn is_behind(&self) -> Problem {
        let detail = format!(
            "{}: this server has not seen the newest documents of the store yet",
            self.place
        );
        Problem::new(Code::StoreUnavailable, detail).of_key(self.place)
    }

    /// Documents changed since the revision that the author knows.
    fn refuse_moved(&self, basis: &Basis) -> Result<(), Problem> {
        match self.change.options.if_base {
            // The parts before this one have moved the base.
            Some(base) if basis.changed > base && self.part.is_none_or(|part| part.number == 1) => {
                let detail = format!(
                    "if_base: found a change of documents at revision {}, expected none after {base}",
                    basis.changed
                );
                Err(Problem::new(Code::BaseMoved, detail))
            }
            _ => Ok(()),
        }
    }

    /// The terms of the transaction.
    fn terms(&self, turn: Option<&Turn>, basis: &Basis, compared: &[Compared<'_>]) -> Terms {
        let (admin, author) = (self.admin, &self.change.author);
        let layout = &basis.world.options().layout;
        let is_first = self.part.is_none_or(|part| part.number == 1);
        let roots = layout.roots().into_iter().filter(|root| !root.is_registrations());
        let base = self.change.options.if_base.filter(|_| is_first).map(|revision| Base {
            prefixes: roots.map(|root| layout.prefix_of(&root).to_owned()).collect(),
            revision,
        });

        let documents = compared
            .iter()
            .map(|compared| (compared.target.edit.full_key.clone(), compared.action));
        let intent = Intent {
            format: FORMAT,
            actor: author.actor.clone(),
            message: author.message.clone(),
            via: author.via,
            of: author.of.clone(),
            undoes: author.undoes,
            confirm_within: self
                .change
                .options
                .confirm_within
                .and_then(|within| u64::try_from(within.as_millis()).ok()),
            documents: documents.collect(),
            part: self.part.cloned(),
        };
        let note = serde_json::to_vec(&intent).ok().map(|value| Note {
            key: admin.pending.note_key(&repeat::id_of(author, self.part)),
            value: value.into(),
        });
        Terms {
            unchanged: turn.map(|turn| Unchanged {
                prefix: layout.prefix_of(&Root::Documents).to_owned(),
                since: basis.revision,
                marker: admin.pending.marker().to_owned(),
                marked: turn.marked().unwrap_or_default().revision,
                is_claimed: false,
            }),
            base,
            note: note.filter(|_| self.has_documents()),
            lease: None,
            leases: BTreeMap::new(),
        }
    }

    /// Write, if the keys have the texts that were read and no document was written since the verdict. Else the change is
    /// to be judged again.
    async fn store(
        &self,
        mut turn: Option<Turn>,
        basis: &Basis,
        compared: &[Compared<'_>],
    ) -> Result<Outcome, Problem> {
        let (admin, begun) = (self.admin, Instant::now());
        let mut writes: Vec<_> = compared
            .iter()
            .filter(|compared| compared.action != Action::Unchanged)
            .map(|compared| backend::Write {
                key: compared.target.edit.full_key.clone().into(),
                value: compared.target.value.clone(),
                expect: match &compared.current {
                    Some(current) => Expect::Etag(admin.backend.etag(current)),
                    None => Expect::Absent,
                },
            })
            .collect();
        let record = self.change.options.record.as_ref();
        writes.extend(record.cloned());
        // The marker of so many documents has a transaction of its own: the next write asks the store for it.
        let is_claimed = writes.len() + 2 > admin.max_txn_ops;

        let leases = self.grant_leases(compared).await?;
        let terms = Terms {
            leases: leases.clone(),
            ..self.terms(turn.as_ref(), basis, compared)
        };
        let outcome = admin.backend.write_if(writes, terms).await;
        // If the outcome is unknown, the keys may have the leases.
        if !matches!(outcome, Ok(_) | Err(WriteError::Unknown(_))) {
            self.end_leases(leases).await;
        }
        admin.metrics.etcd.wrote(begun.elapsed());

        // After a failure the store is asked: another server has written, or the outcome is unknown.
        if let Some(turn) = &mut turn {
            let marked = outcome.as_ref().ok().filter(|_| !is_claimed);
            turn.set_marked(marked.map(|revision| Marked {
                revision: *revision,
                is_claim: false,
            }));
        }
        match outcome {
            Ok(revision) => {
                for (root, changes) in changes_by_root(compared, revision) {
                    admin.pending.add(root, revision, changes);
                }
                Ok(Outcome::At(revision))
            }
            Err(WriteError::Conflict { key, .. }) if record.is_some_and(|record| record.key == key) => {
                let detail = "the change was confirmed, or is undone already";
                Err(Problem::new(Code::ChangedSince, detail))
            }
            Err(WriteError::Conflict { .. }) => Ok(Outcome::Changed),
            Err(WriteError::Moved(_)) => Ok(Outcome::Behind),
            Err(error) => {
                let is_silent = matches!(error, WriteError::Unknown(_) | WriteError::Unavailable(_));
                let sentence = error.to_string();
                if let Some(turn) = turn.filter(|_| is_silent) {
                    turn.failed(&Problem::new(Code::StoreUnavailable, sentence));
                }
                Err(Problem::from(error).of_key(self.place))
            }
        }
    }

    /// Grant the new leases of registrations, by key.
    async fn grant_leases(&self, compared: &[Compared<'_>]) -> Result<BTreeMap<Bytes, Lease>, Problem> {
        let mut leases = BTreeMap::new();
        for edit in compared.iter().map(|compared| compared.target.edit) {
            let Some(ttl) = edit.ttl else { continue };
            match self.admin.backend.grant_lease(ttl).await {
                Ok(lease) => leases.insert(Bytes::from(edit.full_key.clone()), lease),
                Err(error) => {
                    self.end_leases(leases).await;
                    return Err(Problem::from(error).of_key(&edit.full_key));
                }
            };
        }
        Ok(leases)
    }

    /// A lease that cannot be ended now ends by itself.
    async fn end_leases(&self, leases: BTreeMap<Bytes, Lease>) {
        for lease in leases.into_values() {
            drop(self.admin.backend.end_lease(lease).await);
        }
    }

    /// Wait until the change can be judged again: if the server was behind, until it knows a newer document. It may know
    /// the documents and not the marker; the next turn reads the marker.
    async fn wait_to_retry(&self, basis: &Basis, outcome: &Outcome) -> Result<(), Problem> {
        let admin = self.admin;
        if matches!(outcome, Outcome::Behind) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let has_marker = admin.backend.is_shared();
            let patience = if has_marker { left.min(MARKER_PAUSE) } else { left };
            let is_newer = || admin.pending.after(&admin.world).revision > basis.revision;
            if !admin.arrivals.until(is_newer, patience).await && !has_marker {
                return Err(self.is_behind());
            }
        }
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let detail = format!("{}: other documents were written at each try", self.place);
        Err(Problem::new(Code::StoreUnavailable, detail).of_key(self.place))
    }

    /// Wait until the world has taken in a write: a request to this server that comes after the answer sees the write.
    async fn wait_for(&self, revision: Option<i64>) {
        let Some(revision) = revision else { return };
        let has_reached = || {
            let world = self.admin.world.load();
            self.roots.iter().all(|root| world.has_reached(root, revision))
        };
        self.admin.arrivals.until(has_reached, PATIENCE).await;
    }
}
