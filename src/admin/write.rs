//! `PUT` and `DELETE` of a document.
//!
//! A write passes three checks:
//!
//! 1. the preconditions of the request, against the store's current text;
//! 2. a dry run of the plan ([`crate::reconcile::plan`]);
//! 3. the store's own comparison, which finds a change by another writer in between.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::documents::kind_and_name;
use super::entry::{Entry as Shown, key_of};
use super::problem::{Code, Problem};
use super::query::{Pairs, parse_flag, reject_unknown_params};
use super::{Admin, refused};
use crate::backend::{Change, Entry, Event, Expect, Write};
use crate::document::key::{DocumentKey, Kind, Root};
use crate::reconcile::plan::{Input, Moment, Plan, Verdict, plan};
use crate::reconcile::world::{State, World};

/// The warning on a registration that no lease removes.
const NO_LEASE: &str = "no_lease: the registration has no lease, so it stays until it is deleted";

pub(super) async fn put(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    // `force` accepts a change that breaks the test of another document. No document has tests yet, so it has no
    // effect.
    reject_unknown_params(&query, &["force"])?;
    parse_flag(&query, "force")?;

    let target = Target::of(&admin, path).await?;
    let expect = target.expectation(&admin, &headers)?;

    let value = body.map_err(|rejection| Problem::from(rejection).of_key(&target.full_key))?;

    let outcome = target.dry_run(Some(value.clone()));
    if let Some(current) = target.current.as_ref().filter(|current| current.value == value) {
        return Ok(target.written(&admin, &outcome, StatusCode::OK, current));
    }

    target.refuse_bad(&outcome)?;
    let mod_revision = target.write(&admin, Some(value.clone()), expect).await?;
    let status = if target.current.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };

    Ok(target.written(&admin, &outcome, status, &target.entry(value, mod_revision)))
}

pub(super) async fn delete(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["force"])?;
    let force = parse_flag(&query, "force")?;
    let target = Target::of(&admin, path).await?;
    let expect = target.expectation(&admin, &headers)?;
    if target.current.is_none() {
        return Err(Problem::no_document(&target.key).of_key(&target.full_key));
    }
    if !force {
        target.refuse_in_use(&target.dry_run(None))?;
    }
    target.write(&admin, None, expect).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The document of a request, with its current state in the store and the world.
struct Target {
    key: DocumentKey,
    full_key: String,
    current: Option<Entry>,
    world: std::sync::Arc<World>,
    /// Earlier writes that the world has not reached, and the revision of the last one.
    pending: Vec<Input>,
    pending_revision: i64,
}

impl Target {
    async fn of(admin: &Admin, path: Result<Path<Vec<String>>, PathRejection>) -> Result<Self, Problem> {
        let (kind, name) = kind_and_name(path)?;
        let key = key_of(&kind, &name)?;
        let world = admin.world.load_full();

        let full_key = world.options().layout.full_key(&key);
        if world.pending().contains(&root_of(&key)) {
            let detail =
                "a document can be checked only after the first list of the store; /readyz lists the pending steps";
            return Err(Problem::new(Code::NotReady, detail).of_key(full_key));
        }

        let read = admin.backend.get(full_key.as_bytes()).await;
        let current = read.map_err(|error| Problem::from(error).of_key(&full_key))?;

        let (world, pending, pending_revision) = admin.pending.after(&admin.world);
        Ok(Self {
            key,
            full_key,
            current,
            world,
            pending,
            pending_revision,
        })
    }

    /// The condition of the headers, checked against the store's current text.
    fn expectation(&self, admin: &Admin, headers: &HeaderMap) -> Result<Expect, Problem> {
        let if_match = header_text(headers, &header::IF_MATCH)?;
        let if_none_match = header_text(headers, &header::IF_NONE_MATCH)?;
        let etag = self.current.as_ref().map(|current| admin.backend.etag(current));
        match (if_match.as_deref(), if_none_match.as_deref()) {
            (None, None) => Ok(Expect::Any),
            (None, Some("*")) => match etag {
                None => Ok(Expect::Absent),
                Some(_) => Err(self.changed("the document exists already")),
            },
            (Some(wanted), None) => match etag {
                None => Err(self.changed("the document does not exist")),
                Some(etag) if wanted == "*" || etags(wanted).any(|wanted| wanted == etag) => Ok(Expect::Etag(etag)),
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
    fn dry_run(&self, value: Option<Bytes>) -> Plan {
        let revision = self.next_revision();
        let input = Input::Event {
            root: root_of(&self.key),
            event: Event::Changed {
                revision,
                changes: vec![self.change(value, revision)],
            },
        };
        let inputs = self.pending.iter().cloned().chain([input]).collect();
        let moment = Moment {
            instant: tokio::time::Instant::now().into_std(),
            wall: std::time::SystemTime::now(),
        };
        plan(&self.world, inputs, moment)
    }

    fn next_revision(&self) -> i64 {
        self.current
            .as_ref()
            .map_or(0, |current| current.mod_revision)
            .max(self.world.revision())
            .max(self.pending_revision)
            + 1
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

    async fn write(&self, admin: &Admin, value: Option<Bytes>, expect: Expect) -> Result<i64, Problem> {
        let begun = tokio::time::Instant::now();
        let write = Write {
            key: self.full_key.clone().into(),
            value: value.clone(),
            expect,
        };
        let outcome = admin.backend.write(vec![write]).await;
        admin.metrics.etcd.wrote(begun.elapsed());

        let revision = outcome.map_err(|error| Problem::from(error).of_key(&self.full_key))?;
        admin
            .pending
            .add(root_of(&self.key), revision, self.change(value, revision));
        Ok(revision)
    }

    /// The entry of the document after the write, with the etag of the stored text.
    fn written(&self, admin: &Admin, outcome: &Plan, status: StatusCode, stored: &Entry) -> Response {
        let etag = [(header::ETAG, format!("\"{}\"", admin.backend.etag(stored)))];
        match outcome.world.document(&self.key) {
            Some(document) => {
                let mut shown = Shown::of(document, &refused::documents(admin)).at_revision(stored.mod_revision);
                let may_have_lease = self.key.kind == Kind::Services && self.world.options().has_leases;
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
