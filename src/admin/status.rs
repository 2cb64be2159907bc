//! `GET /api/v1/status`: the newest change, which proxies have it, and what waits for an operator, in less than 4 KiB.
//!
//! Each list has its total beside it and the five worst items. Proxies are counted by their places, not one by one.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use humantime::format_rfc3339_millis;
use serde_json::{Value, json};

use super::Admin;
use super::frozen::shown_time;
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params};
use super::rollout::Rollout;
use crate::reconcile::world::State as DocumentState;

/// Most items of a list.
const LIST_MAX: usize = 5;
/// Largest answer, in bytes.
const SIZE_MAX: usize = 4000;
/// Longest reason and message, in bytes.
const TEXT_MAX: usize = 200;
/// A certificate that ends within this time is an item.
const EXPIRING_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Something that waits for an operator.
struct Attention {
    kind: &'static str,
    key: Option<String>,
    reason: String,
    since: Option<SystemTime>,
}

impl Attention {
    fn show(&self) -> Value {
        json!({
            "kind": self.kind, "key": self.key, "reason": cut(&self.reason), "since": self.since.map(time),
        })
    }
}

pub(super) async fn status(State(admin): State<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let rollout = admin
        .rollout(None, None, LIST_MAX)
        .ok_or_else(|| Problem::new(Code::NotReady, "no snapshot is published yet"))?;
    let attention = attention(&admin, &rollout);

    let mut most = LIST_MAX;
    loop {
        let shown = show(&admin, &rollout, &attention, most);
        if most == 0 || shown.to_string().len() <= SIZE_MAX {
            return Ok(Json(shown).into_response());
        }
        most -= 1;
    }
}

fn show(admin: &Admin, rollout: &Rollout, attention: &[Attention], most: usize) -> Value {
    let journal = admin.journal.shown();
    // Until the journal has all changes up to this one, the newest entry is that of an earlier change.
    let is_whole = journal.whole >= rollout.revision;
    let entry = journal.book.at(rollout.revision);
    let entry = entry.filter(|entry| is_whole || entry.revision == rollout.revision);
    let documents = entry.map(|entry| entry.documents.as_slice()).unwrap_or_default();
    let changed = documents.iter().take(most);
    let refused = rollout.refused.iter().take(most).map(|refusal| {
        let documents: Vec<_> = refusal.documents.iter().take(most).collect();
        json!({
            "node": cut(&refusal.node), "replica": refusal.replica, "type": refusal.r#type,
            "revision": refusal.revision, "message": cut(&refusal.message), "documents": documents,
            "since": time(refusal.at),
        })
    });
    let health = admin.readiness.report();
    json!({
        "revision": rollout.revision,
        "at": entry.map(|entry| time(UNIX_EPOCH + Duration::from_millis(entry.at))),
        "actor": entry.and_then(|entry| entry.actor.as_deref()),
        "message": entry.and_then(|entry| entry.message.as_deref()).map(cut),
        "changed": changed.map(|one| json!({ "key": &*one.key, "action": one.action() })).collect::<Vec<_>>(),
        "changed_total": documents.len(),
        "proxies": rollout.proxies,
        "complete": rollout.complete,
        "rollout": { "state": rollout.state, "since": time(rollout.since), "live_after_ms": rollout.live_after_ms },
        "behind": rollout.behind.iter().take(most).collect::<Vec<_>>(),
        "behind_total": rollout.proxies.rolling + rollout.proxies.behind + rollout.proxies.stalled,
        "refused": refused.collect::<Vec<_>>(),
        "refused_total": rollout.proxies.refused,
        "attention": attention.iter().take(most).map(Attention::show).collect::<Vec<_>>(),
        "attention_total": attention.len(),
        "replicas": rollout.replicas.iter().take(most).collect::<Vec<_>>(),
        "replicas_total": rollout.replicas.len(),
        "store": {
            "kind": admin.backend.name(),
            "ok": health.stale_since.is_none(),
            "since": health.stale_since.map(time),
        },
    })
}

/// What waits for an operator, the worst first, then the oldest.
fn attention(admin: &Admin, rollout: &Rollout) -> Vec<Attention> {
    let mut found = Vec::new();
    if let Some(reason) = admin.journal.trouble() {
        found.push(Attention {
            kind: "journal",
            key: None,
            reason,
            since: None,
        });
    }
    if rollout.divergent {
        found.push(Attention {
            kind: "divergent",
            key: None,
            reason: "replicas at the same revisions serve different resources".to_owned(),
            since: None,
        });
    }

    found.extend(admin.confirms.attention().map(|(reason, until)| Attention {
        kind: "confirm",
        key: None,
        reason,
        since: Some(until),
    }));

    let world = admin.world.load();
    let now = SystemTime::now();
    let mut documents = Vec::new();
    for status in world.unsettled().chain(world.problems()) {
        let kind = match status.state {
            DocumentState::Held => Some("held"),
            DocumentState::Rejected | DocumentState::Refused => Some("rejected"),
            _ => None,
        };
        documents.extend(kind.map(|kind| Attention {
            kind,
            key: Some(status.full_key.to_string()),
            reason: status.reason.clone().unwrap_or_default(),
            since: Some(status.since),
        }));
    }
    let soon = (now + EXPIRING_WITHIN).duration_since(UNIX_EPOCH).unwrap_or_default();
    for status in world.ending_before(i64::try_from(soon.as_secs()).unwrap_or(i64::MAX)) {
        let end = status.validity.and_then(|validity| validity.expires_at());
        documents.push(Attention {
            kind: "expiring",
            key: Some(status.full_key.to_string()),
            reason: format!("the certificate ends at {}", end.unwrap_or_default()),
            since: None,
        });
    }
    for key in world.empty() {
        let status = world.document(key);
        documents.extend(status.map(|status| Attention {
            kind: "empty",
            key: Some(status.full_key.to_string()),
            reason: status.empty.clone().unwrap_or_default(),
            since: None,
        }));
    }
    documents.sort_by_key(|item| (item.kind == "expiring", item.since));
    found.extend(documents);
    found.extend(admin.freezes.current(now).into_iter().map(|freeze| {
        let by = freeze.by.map(|by| format!(" by {by}")).unwrap_or_default();
        Attention {
            kind: "frozen",
            reason: format!("frozen{by} until {}: {}", shown_time(freeze.until), freeze.why),
            key: Some(freeze.key),
            since: Some(UNIX_EPOCH + Duration::from_millis(freeze.since)),
        }
    }));
    found
}

fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

fn cut(text: &str) -> Cow<'_, str> {
    match text.floor_char_boundary(TEXT_MAX) {
        end if end < text.len() => Cow::Owned(format!("{}…", &text[..end])),
        _ => Cow::Borrowed(text),
    }
}
