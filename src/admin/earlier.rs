//! The documents and the resources of an earlier revision: the texts of then, compiled by this binary.
//!
//! In: the texts that the journal holds at a revision, the registrations of now. Out: a world and a snapshot of their own.
//! One compile runs at a time, and the last two results are kept; other requests wait, no longer than [`WAIT`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Admin;
use super::problem::{Code, Problem};
use super::query::Pairs;
use super::revisions::{located, number, shown_at};
use crate::backend::{Change, Entry, Event, ListReason};
use crate::document::key::Root;
use crate::journal::entry::TextRef;
use crate::journal::tracker::Stored;
use crate::journal::{Shown, TextAt};
use crate::reconcile::plan::{Input, plan};
use crate::reconcile::run::{group_rules, now};
use crate::reconcile::world::{State, World};
use crate::snapshot::{Facts, Snapshot, Source};

/// Results that are kept.
const KEPT: usize = 2;
/// Longest wait for the compile of another request.
const WAIT: Duration = Duration::from_secs(10);
/// Texts that are read at a time.
const READS: usize = 16;
/// Earlier texts of a rejected document that are tried.
const EARLIER_TEXTS: usize = 3;

/// What served at a revision.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Of the change that made it, and when that was: a restored store may count a revision twice.
    revision: i64,
    at: u64,
    pub(super) world: Arc<World>,
    pub(super) snapshot: Arc<Snapshot>,
}

/// Compiles earlier revisions. Clones share the state.
#[derive(Debug, Clone)]
pub struct Earlier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    turn: Semaphore,
    kept: Mutex<VecDeque<Arc<Compiled>>>,
}

impl Default for Earlier {
    fn default() -> Self {
        Self(Arc::new(Inner {
            turn: Semaphore::new(1),
            kept: Mutex::default(),
        }))
    }
}

/// What served at the revision of the parameter `revision`; `None`: the request has none.
pub(super) async fn asked(admin: &Admin, query: &Pairs) -> Result<Option<Arc<Compiled>>, Problem> {
    match number(query, "revision")? {
        Some(revision) => Ok(Some(at(admin, revision).await?)),
        None => Ok(None),
    }
}

/// What served at a revision.
pub(super) async fn at(admin: &Admin, asked: i64) -> Result<Arc<Compiled>, Problem> {
    let shown = shown_at(admin, asked).await?;
    let (revision, at) = shown
        .book
        .at(asked)
        .map_or((asked, 0), |entry| (entry.revision, entry.at));
    let Inner { turn, kept } = &*admin.earlier.0;
    let find = || {
        kept.lock()
            .iter()
            .find(|compiled| (compiled.revision, compiled.at) == (revision, at))
            .cloned()
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(WAIT, turn.acquire()).await else {
        let detail = "an earlier revision is compiled for each of several other requests; ask again later";
        return Err(Problem::new(Code::TooMany, detail));
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let compiled = Arc::new(Compiled {
        at,
        ..compile(admin, &shown, revision).await?
    });
    let mut kept = kept.lock();
    kept.push_front(Arc::clone(&compiled));
    kept.truncate(KEPT);
    Ok(compiled)
}

async fn compile(admin: &Admin, shown: &Shown, revision: i64) -> Result<Compiled, Problem> {
    let texts = shown.texts_at(revision)?.into_iter();
    let entries: Vec<Entry> = stream::iter(texts)
        .map(|(key, text)| async move { entry(admin, &key, text, revision).await })
        .buffer_unordered(READS)
        .try_collect()
        .await?;
    let now_world = admin.world.load_full();
    let first = planned(&now_world, entries.clone(), Vec::new(), revision).await?;

    // A rejected text has the last good one before it serve on.
    let bad: Vec<Arc<str>> = first
        .world
        .documents()
        .filter(|status| status.state == State::Rejected && status.serving.is_none())
        .map(|status| Arc::clone(&status.full_key))
        .collect();
    let mut before: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    for key in bad {
        before.extend(
            last_good(admin, shown, &now_world, &key, revision)
                .await?
                .map(|entry| (key, entry)),
        );
    }
    if before.is_empty() {
        return Ok(first);
    }
    let is_bad = |entry: &Entry| before.contains_key(&*String::from_utf8_lossy(&entry.key));
    let (bad, good): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_bad);
    let listed = good.into_iter().chain(before.into_values()).collect();
    planned(&now_world, listed, bad, revision).await
}

/// The newest text of a document before a revision that can be parsed.
async fn last_good(
    admin: &Admin,
    shown: &Shown,
    world: &World,
    full_key: &Arc<str>,
    revision: i64,
) -> Result<Option<Entry>, Problem> {
    let key = located(world, full_key);
    let before: Vec<TextRef> = shown
        .book
        .before(revision + 1)
        .filter_map(|entry| entry.document(full_key)?.before.clone())
        .take(EARLIER_TEXTS)
        .collect();
    let limits = crate::document::Limits {
        re2_max_program_size: world.options().re2_max_program_size,
    };
    for text in before.into_iter().filter(|text| text.name.is_some()) {
        let entry = entry(admin, full_key, TextAt::Kept(text), revision).await?;
        if crate::document::parse_with(&key, &entry.value, &limits, &world.options().vault).is_ok() {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// A text as the store had it.
async fn entry(admin: &Admin, full_key: &Arc<str>, text: TextAt, revision: i64) -> Result<Entry, Problem> {
    let lost = || {
        let detail = format!("{full_key}: the text at revision {revision} was gone before the journal could keep it");
        Problem::new(Code::NotInJournal, detail).of_key(&**full_key)
    };
    let stored = match text {
        TextAt::Present(stored) => stored,
        TextAt::Kept(text) => Stored {
            value: admin.journal.text(full_key, &text).await?,
            revision: text.revision,
            created: text.created,
            leased: text.leased,
        },
    };
    Ok(Entry {
        key: full_key.as_bytes().to_vec().into(),
        value: stored.value.ok_or_else(lost)?,
        create_revision: stored.created,
        mod_revision: stored.revision,
        leased: stored.leased,
    })
}

/// The world of these documents, and of the registrations of now: first the listed texts, then the changed ones.
async fn planned(
    now_world: &Arc<World>,
    listed: Vec<Entry>,
    changed: Vec<Entry>,
    revision: i64,
) -> Result<Compiled, Problem> {
    let now_world = Arc::clone(now_world);
    let work = move || {
        let options = now_world.options().clone();
        let layout = options.layout.clone();
        let root_of = |entry: &Entry| layout.root_of(&entry.key).unwrap_or(Root::Documents);
        let mut by_root: BTreeMap<Root, Vec<Entry>> =
            layout.roots().into_iter().map(|root| (root, Vec::new())).collect();
        let registrations = now_world.documents().filter_map(|status| {
            let text = status.latest.as_ref()?;
            let entry = Entry {
                key: status.full_key.as_bytes().to_vec().into(),
                value: text.value.clone(),
                create_revision: text.create_revision,
                mod_revision: text.mod_revision,
                leased: text.leased,
            };
            root_of(&entry).is_registrations().then_some(entry)
        });
        for entry in listed.into_iter().chain(registrations) {
            by_root.entry(root_of(&entry)).or_default().push(entry);
        }
        let mut inputs: Vec<Input> = by_root
            .into_iter()
            .map(|(root, mut entries)| {
                entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                let event = Event::Listed {
                    revision,
                    reason: ListReason::Start,
                    entries,
                };
                Input::Event { root, event }
            })
            .collect();
        let mut changes: BTreeMap<Root, Vec<Change>> = BTreeMap::new();
        for entry in changed {
            changes.entry(root_of(&entry)).or_default().push(Change::Put(entry));
        }
        inputs.extend(changes.into_iter().map(|(root, changes)| Input::Event {
            root,
            event: Event::Changed { revision, changes },
        }));

        let planned = plan(&World::new(options), inputs, now());
        let facts = Facts {
            revision,
            revisions: Arc::new(planned.world.revisions()),
            built_at: now().wall,
            source: Source::Etcd,
            stale: false,
            withhold_removals: false,
            group_rules: group_rules(&planned.world),
            cause: None,
        };
        let snapshot = Snapshot::unpublished().next(&planned.difference, facts);
        Compiled {
            revision,
            at: 0,
            world: Arc::new(planned.world),
            snapshot: Arc::new(snapshot),
        }
    };
    let compiled = tokio::task::spawn_blocking(work).await;
    compiled.map_err(|error| Problem::new(Code::Internal, error.to_string()))
}
