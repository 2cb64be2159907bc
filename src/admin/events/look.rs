//! The comparison of two moments: the events between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::admin::frozen::Freeze;
use crate::admin::rollout::{LIST_MAX, Refusal, ReplicaView, Rollout};
use crate::document::key::Kind;
use crate::journal::Shown;
use crate::reconcile::world::{HeldBy, Status, World};
use crate::snapshot::Snapshot;

/// Between two looks at proxies without an event: some of them turn from rolling to behind.
const ROLLING_EVERY: Duration = Duration::from_millis(500);
/// Most documents in the event of a change or a guard.
const DOCUMENTS_MAX: usize = 5;

/// What was seen at one moment.
pub(super) struct Look {
    world: Arc<World>,
    snapshot: Arc<Snapshot>,
    journal: Arc<Shown>,
    moves: u64,
    /// The number of news of other replicas.
    replicas: u64,
    rollout: Option<Rollout>,
    rollout_at: Instant,
    freezes: BTreeMap<String, Freeze>,
    guard: Value,
}

impl Look {
    /// The present moment: later ones are compared with it.
    pub(super) fn begin(admin: &Admin) -> Self {
        let world = admin.world.load_full();
        Self {
            snapshot: admin.snapshots.current(),
            journal: admin.journal.shown(),
            moves: admin.fleet.moves(),
            replicas: admin.replicas.changes(),
            rollout: admin.rollout(None, None, LIST_MAX),
            rollout_at: Instant::now(),
            freezes: freezes(admin),
            guard: guard(&world),
            world,
        }
    }

    /// The events since the last look.
    pub(super) fn changes(&mut self, admin: &Admin) -> Vec<Event> {
        let mut events = Vec::new();
        self.documents(admin, &mut events);
        self.revisions(admin, &mut events);
        self.proxies(admin, &mut events);
        self.freezes(admin, &mut events);
        events
    }

    fn documents(&mut self, admin: &Admin, events: &mut Vec<Event>) {
        let world = admin.world.load_full();
        if Arc::ptr_eq(&world, &self.world) {
            return;
        }
        for (key, status) in world.differing(&self.world) {
            if key.kind == Kind::Services {
                continue;
            }
            let (full_key, data) = match status {
                Some(status) => (Arc::clone(&status.full_key), document(status)),
                None => {
                    let full_key: Arc<str> = world.options().layout.full_key(key).into();
                    let data = json!({
                        "key": &*full_key, "kind": key.kind.as_str(), "name": &*key.name, "state": null,
                        "reason": null, "revision": null, "warnings": 0,
                    });
                    (full_key, data)
                }
            };
            events.push(Event {
                kind: "document",
                subject: full_key.to_string(),
                data,
            });
        }
        let guard = guard(&world);
        if guard != self.guard {
            events.push(Event {
                kind: "guard",
                subject: String::new(),
                data: guard.clone(),
            });
            self.guard = guard;
        }
        self.world = world;
    }

    fn revisions(&mut self, admin: &Admin, events: &mut Vec<Event>) {
        let journal = admin.journal.shown();
        if Arc::ptr_eq(&journal, &self.journal) {
            return;
        }
        let head = self.journal.book.head();
        events.extend(journal.book.after(head).map(|entry| {
            let changed = entry.documents.iter().take(DOCUMENTS_MAX);
            let changed = changed.map(|one| json!({ "key": &*one.key, "action": one.action() }));
            Event {
                kind: "revision",
                subject: String::new(),
                data: json!({
                    "revision": entry.revision, "at": humantime::format_rfc3339_millis(entry.at()).to_string(),
                    "via": entry.via, "actor": entry.actor, "message": entry.message,
                    "changed": changed.collect::<Vec<_>>(), "changed_total": entry.documents.len(),
                }),
            }
        }));
        self.journal = journal;
    }

    fn proxies(&mut self, admin: &Admin, events: &mut Vec<Event>) {
        let (snapshot, moves) = (admin.snapshots.current(), admin.fleet.moves());
        let is_rolling = self.rollout.as_ref().is_some_and(Rollout::is_rolling);
        let replicas = admin.replicas.changes();
        let is_same = Arc::ptr_eq(&snapshot, &self.snapshot) && (moves, replicas) == (self.moves, self.replicas);
        if is_same && !(is_rolling && self.rollout_at.elapsed() >= ROLLING_EVERY) {
            return;
        }
        (self.snapshot, self.moves, self.replicas) = (snapshot, moves, replicas);
        self.rollout_at = Instant::now();
        let rollout = admin.rollout(None, None, LIST_MAX);
        let before = std::mem::replace(&mut self.rollout, rollout);
        let Some(now) = &self.rollout else { return };

        if before.as_ref().map(head) != Some(head(now)) {
            events.push(Event {
                kind: "rollout",
                subject: String::new(),
                data: head(now),
            });
        }
        let refused = |rollout: &Rollout| -> BTreeMap<String, Value> {
            let refused = rollout.refused.iter().map(|one| (subject(one), json!(one)));
            refused.collect()
        };
        let was = before.as_ref().map(refused).unwrap_or_default();
        differ("refused", was, refused(now), "ended", events);
        let replicas = |rollout: &Rollout| -> BTreeMap<String, Value> {
            rollout.replicas.iter().map(ReplicaView::lasting).collect()
        };
        let was = before.as_ref().map(replicas).unwrap_or_default();
        differ("replica", was, replicas(now), "gone", events);
    }

    fn freezes(&mut self, admin: &Admin, events: &mut Vec<Event>) {
        let now = freezes(admin);
        if now == self.freezes {
            return;
        }
        let shown = |freezes: &BTreeMap<String, Freeze>| -> BTreeMap<String, Value> {
            let freezes = freezes.iter().map(|(id, freeze)| (id.clone(), freeze.shown()));
            freezes.collect()
        };
        differ("freeze", shown(&self.freezes), shown(&now), "ended", events);
        self.freezes = now;
    }
}

/// An event for each item that is new, changed, or gone. That of one that is gone has its last value, and `over` is true.
fn differ(
    kind: &'static str,
    before: BTreeMap<String, Value>,
    now: BTreeMap<String, Value>,
    over: &str,
    events: &mut Vec<Event>,
) {
    let event = |subject: &String, mut data: Value, is_over: bool| {
        data[over] = is_over.into();
        Event {
            kind,
            subject: subject.clone(),
            data,
        }
    };
    for (subject, value) in &now {
        if before.get(subject) != Some(value) {
            events.push(event(subject, value.clone(), false));
        }
    }
    for (subject, value) in before {
        if !now.contains_key(&subject) {
            events.push(event(&subject, value, true));
        }
    }
}

/// The event of a rollout.
fn head(rollout: &Rollout) -> Value {
    json!({
        "revision": rollout.revision, "state": rollout.state, "complete": rollout.complete,
        "divergent": rollout.divergent, "proxies": rollout.proxies, "live_after_ms": rollout.live_after_ms,
    })
}

fn subject(refusal: &Refusal) -> String {
    format!("{} {} {}", refusal.replica, refusal.node, refusal.r#type)
}

fn document(status: &Status) -> Value {
    json!({
        "key": &*status.full_key, "kind": status.key.kind.as_str(), "name": &*status.key.name,
        "state": status.state.as_str(), "reason": status.reason,
        "revision": status.latest.as_ref().map(|text| text.mod_revision), "warnings": status.warnings.len(),
    })
}

/// The documents that guards hold.
fn guard(world: &World) -> Value {
    let held: Vec<&Status> = world
        .unsettled()
        .filter(|status| status.held_by == Some(HeldBy::Guard))
        .collect();
    let keys: Vec<&str> = held
        .iter()
        .take(DOCUMENTS_MAX)
        .map(|status| &*status.full_key)
        .collect();
    json!({ "held": held.len(), "keys": keys, "reason": held.first().and_then(|status| status.reason.as_deref()) })
}

fn freezes(admin: &Admin) -> BTreeMap<String, Freeze> {
    let freezes = admin.freezes.current(SystemTime::now()).into_iter();
    freezes.map(|freeze| (freeze.id.clone(), freeze)).collect()
}
