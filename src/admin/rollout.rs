//! `GET /api/v1/rollout/R`: which proxies have a change, on all replicas.
//!
//! In: the report of this replica's fleet, the summaries of the others ([`crate::fleet::replicas`]). Out: one answer,
//! the same from every replica. [`summary`] makes the summary of this replica.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use humantime::{format_rfc3339_millis, parse_duration};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::Admin;
use super::blame::field;
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params, values};
use crate::document::key::Layout;
use crate::fleet::Fleet;
use crate::fleet::convergence::latency::{Latency, Times};
use crate::fleet::convergence::{BEHIND_AFTER, Place, Question, Refusing, State as Standing};
use crate::fleet::replicas::{
    BehindSummary, Blamed, FORMAT, GoneSummary, LatencySummary, LostSummary, PlaceSummary, RefusedSummary, Replica,
    Replicas, Summary, millis, moment,
};
use crate::snapshot::Snapshot;

/// Longest list of an answer and of a summary.
pub(super) const LIST_MAX: usize = 100;
/// Most proxies that went in a summary.
const GONE_MAX: usize = 500;
/// Most changes whose times a summary has.
const LATENCIES_MAX: usize = 4;
/// Longest message of a NACK in a summary, in bytes.
const MESSAGE_MAX: usize = 256;
/// Largest summary, in bytes.
const SUMMARY_MAX: usize = 64 * 1024;
/// Longest wait of a request.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest time until a waiting request looks again: proxies turn from rolling to behind without an event.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two looks of a waiting request.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// The state of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RolloutState {
    /// A proxy refuses the change, or an earlier one.
    Refused,
    /// A proxy does not have the change, or nobody knows.
    Rolling,
    /// Every proxy has the change.
    Live,
}

/// Numbers of proxies. `gone` is no part of `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Proxies {
    pub(super) total: usize,
    pub(super) live: usize,
    pub(super) rolling: usize,
    pub(super) behind: usize,
    pub(super) refused: usize,
    pub(super) stalled: usize,
    pub(super) pending: usize,
    pub(super) gone: usize,
}

impl Proxies {
    fn add(&mut self, state: Standing, proxies: usize) {
        let of_state = match state {
            Standing::Live => &mut self.live,
            Standing::Rolling => &mut self.rolling,
            Standing::Behind => &mut self.behind,
            Standing::Refused => &mut self.refused,
            Standing::Stalled => &mut self.stalled,
            Standing::Gone => return,
        };
        *of_state += proxies;
        self.total += proxies;
    }
}

/// A proxy that does not have the change.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Lagging {
    node: String,
    group: String,
    replica: String,
    state: &'static str,
    /// The newest change that the proxy has; `None`: an older one than is known.
    revision: Option<i64>,
    types: Vec<String>,
    #[serde(serialize_with = "as_time")]
    since: SystemTime,
    why: String,
}

/// A NACK.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Refusal {
    pub(super) node: String,
    pub(super) group: String,
    pub(super) replica: String,
    pub(super) r#type: String,
    pub(super) revision: i64,
    #[serde(serialize_with = "as_time")]
    pub(super) at: SystemTime,
    pub(super) message: String,
    pub(super) documents: Vec<Blamed>,
}

/// A replica.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ReplicaView {
    id: String,
    version: String,
    admin: Option<String>,
    revision: i64,
    proxies: usize,
    #[serde(serialize_with = "as_time")]
    heard_at: SystemTime,
    /// The replica vanished without a clean stop.
    lost: bool,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Rollout {
    pub(super) revision: i64,
    pub(super) state: RolloutState,
    #[serde(serialize_with = "as_time")]
    pub(super) since: SystemTime,
    pub(super) complete: bool,
    pub(super) divergent: bool,
    pub(super) proxies: Proxies,
    pub(super) behind: Vec<Lagging>,
    pub(super) refused: Vec<Refusal>,
    pub(super) replicas: Vec<ReplicaView>,
    pub(super) live_after_ms: Option<Latency>,
}

fn as_time<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_rfc3339_millis(*time))
}

/// The parts that a rollout is made of.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The published snapshot.
    pub snapshot: &'a Snapshot,
    /// The proxies of this replica.
    pub fleet: &'a Fleet,
    /// The other replicas.
    pub replicas: &'a Replicas,
    /// The places of keys.
    pub layout: &'a Layout,
    /// `--advertise-admin`.
    pub admin: Option<&'a str>,
}

impl Admin {
    /// Compare all proxies with a revision; `None`: it is above the newest.
    pub(super) fn rollout(&self, revision: Option<i64>, group: Option<&str>, most: usize) -> Option<Rollout> {
        let (snapshot, world) = (self.snapshots.current(), self.world.load());
        let sources = Sources {
            snapshot: &snapshot,
            fleet: &self.fleet,
            replicas: &self.replicas,
            layout: &world.options().layout,
            admin: self.advertised.as_deref(),
        };
        let newest = snapshot.revision.max(snapshot.steps.newest_revision());
        let revision = revision.unwrap_or(newest);
        let mut rollout = (revision <= newest).then(|| sources.rollout(revision, group, most, SystemTime::now()))?;
        // Every proxy refused the text, and has acknowledged the text before since: nobody has the change.
        let withdrawn = world.refused().filter(|status| {
            let latest = status.latest.as_ref();
            latest.is_some_and(|latest| latest.mod_revision <= rollout.revision)
        });
        if let Some(since) = withdrawn.map(|status| status.since).min() {
            rollout.state = RolloutState::Refused;
            rollout.since = since;
        }
        Some(rollout)
    }
}

impl Rollout {
    /// Whether time alone may change the numbers.
    pub(super) fn is_rolling(&self) -> bool {
        self.proxies.rolling > 0
    }
}

/// The rollout of a change in its entry of the journal.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Brief {
    state: RolloutState,
    proxies: BriefProxies,
    live_after_ms: Option<Latency>,
}

#[derive(Debug, Clone, Serialize)]
struct BriefProxies {
    total: usize,
    live: usize,
}

impl From<Rollout> for Brief {
    fn from(rollout: Rollout) -> Self {
        Self {
            state: rollout.state,
            proxies: BriefProxies {
                total: rollout.proxies.total,
                live: rollout.proxies.live,
            },
            live_after_ms: rollout.live_after_ms,
        }
    }
}

impl Sources<'_> {
    fn rollout(self, asked: i64, group: Option<&str>, most: usize, now: SystemTime) -> Rollout {
        let steps = &self.snapshot.steps;
        let change = steps.change_at(asked).map(|(revision, step)| (revision, step.at));
        let oldest = steps.oldest().map_or(self.snapshot.built_at, |step| step.at);
        let (revision, at) = change.unwrap_or((asked, oldest));
        let mut others = self.replicas.others(now);
        others.retain(|replica| !replica.summary.stopped);
        let own = self.replicas.own();
        let question = Question { revision, group, most };
        let report = self.fleet.report(self.snapshot, question);

        let mut proxies = Proxies::default();
        let counts = report.counts;
        let of_state = [
            (Standing::Live, counts.live),
            (Standing::Rolling, counts.rolling),
            (Standing::Behind, counts.behind),
            (Standing::Refused, counts.refused),
            (Standing::Stalled, counts.stalled),
        ];
        of_state
            .into_iter()
            .for_each(|(state, count)| proxies.add(state, count));
        let mut behind: Vec<Lagging> = report
            .lagging
            .into_iter()
            .map(|lagging| Lagging {
                node: lagging.node_id.to_string(),
                group: lagging.group.to_string(),
                replica: own.to_string(),
                state: lagging.standing.state.as_str(),
                revision: lagging.live_on,
                types: lagging.standing.types.iter().map(ToString::to_string).collect(),
                since: lagging.standing.since.unwrap_or(at),
                why: lagging.why.as_str().to_owned(),
            })
            .collect();
        let mut refused: Vec<Refusal> = report
            .refusing
            .iter()
            .map(|refusing| self.refused(refusing).refusal(&own))
            .collect();

        let mut gone: BTreeMap<u32, bool> = BTreeMap::new();
        for one in &report.gone {
            let standing = one.place.standing(self.snapshot, revision, now);
            gone.insert(one.node, standing.state == Standing::Live);
        }

        let is_of_group = |name: &str| group.is_none_or(|group| group == name);
        let mut times = report.times;
        for replica in others.iter().filter(|replica| replica.lost_at.is_none()) {
            let summary = &replica.summary;
            let has_it = summary.revision >= revision;
            for place in summary.places.iter().filter(|place| is_of_group(&place.group)) {
                let since = place.since.map_or(at, moment);
                let state = place.state.as_deref();
                proxies.add(standing(place.live_on >= revision, state, since, now), place.proxies);
            }
            let lagging = summary.behind.iter().filter(|one| is_of_group(&one.group));
            behind.extend(lagging.filter(|one| one.live_on < revision).map(|one| Lagging {
                node: one.node.clone(),
                group: one.group.clone(),
                replica: summary.id.clone(),
                state: standing(false, one.state.as_deref(), moment(one.since), now).as_str(),
                revision: (one.live_on > 0).then_some(one.live_on),
                types: one.types.clone(),
                since: moment(one.since),
                why: if has_it {
                    one.why.clone()
                } else {
                    "replica_behind".to_owned()
                },
            }));
            let nacks = summary.refused.iter().filter(|one| is_of_group(&one.group));
            let nacks = nacks.filter(|one| one.revision <= revision);
            refused.extend(nacks.map(|one| one.clone().refusal(&summary.id)));
            let left = summary.gone.iter().filter(|one| is_of_group(&one.group));
            // A summary has milliseconds.
            let left = left.filter(|one| one.connected_at <= millis(at) && one.gone_at >= millis(at));
            gone.extend(left.map(|one| (one.node, one.live_on >= revision)));
            if let Some(other) = summary.latencies.iter().find(|of| of.revision == revision) {
                let other = other.times();
                match &mut times {
                    Some(times) => times.merge(&other),
                    None => times = Some(other),
                }
            }
        }

        let back = others.iter().flat_map(|replica| &replica.summary.back);
        let hashes: BTreeSet<u32> = gone.keys().copied().collect();
        for node in self.fleet.connected_among(&hashes).iter().chain(back) {
            gone.remove(node);
        }
        proxies.gone = gone.len();
        behind.sort_by_key(|one| one.since);
        behind.truncate(most);
        refused.sort_by_key(|one| one.at);
        refused.truncate(most);

        let complete = others.iter().all(|replica| replica.lost_at.is_none());
        let unconverged = proxies.rolling + proxies.behind + proxies.stalled;
        let has_lost = gone.values().any(|is_live| !is_live);
        let state = if proxies.refused > 0 {
            RolloutState::Refused
        } else if unconverged > 0 || has_lost || !complete {
            RolloutState::Rolling
        } else {
            RolloutState::Live
        };
        let since = match state {
            RolloutState::Refused => refused.first().map_or(at, |first| first.at),
            RolloutState::Rolling => at,
            RolloutState::Live => times.as_ref().map_or(at, |times| times.last.max(at)),
        };

        let own_view = ReplicaView {
            id: own.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            admin: self.admin.map(ToOwned::to_owned),
            revision: self.snapshot.revision,
            proxies: self.fleet.places().iter().map(|(_, proxies)| proxies).sum(),
            heard_at: now,
            lost: false,
        };
        let mut replicas: Vec<ReplicaView> = others.iter().map(ReplicaView::of).collect();
        replicas.push(own_view);
        replicas.sort_by(|one, other| one.id.cmp(&other.id));
        Rollout {
            revision,
            state,
            since,
            complete,
            divergent: self.is_divergent(&others),
            proxies,
            behind,
            refused,
            replicas,
            live_after_ms: times.map(|times| times.summary()),
        }
    }

    /// A NACK with the documents that may be the cause.
    fn refused(self, refusing: &Refusing) -> RefusedSummary {
        let nack = refusing.nack.iter().flat_map(|nack| &nack.suspects);
        let keys: BTreeSet<_> = nack.flat_map(|suspect| &suspect.documents).collect();
        let blamed = keys.into_iter().take(8).map(|key| Blamed {
            key: self.layout.full_key(key),
            path: field(key, &refusing.message).map(Cow::into_owned),
        });
        let message = refusing.message.trim_end();
        RefusedSummary {
            node: refusing.node_id.to_string(),
            group: refusing.group.to_string(),
            r#type: refusing.resource_type.to_string(),
            revision: refusing.revision,
            at: millis(refusing.at),
            message: message[..message.floor_char_boundary(MESSAGE_MAX)].to_owned(),
            documents: blamed.collect(),
        }
    }

    /// Whether a replica at the same revisions serves something else.
    fn is_divergent(self, others: &[Replica]) -> bool {
        let sets = self.sets();
        let revisions = &*self.snapshot.revisions;
        let there = others.iter().filter(|replica| replica.lost_at.is_none());
        let mut at_one = there.filter(|replica| replica.summary.revisions == *revisions);
        at_one.any(|replica| replica.summary.sets != sets)
    }

    /// A version of everything that a group is served.
    fn sets(self) -> BTreeMap<String, String> {
        let of_group = |group: &crate::snapshot::GroupSnapshot| {
            let versions: Vec<u8> = group
                .sets
                .iter()
                .flat_map(|set| set.version().0.to_le_bytes())
                .collect();
            format!("{:032x}", xxh3_128(&versions))
        };
        let groups = self.snapshot.groups.iter();
        groups
            .map(|(name, group)| (name.to_string(), of_group(group)))
            .collect()
    }
}

fn standing(is_live: bool, state: Option<&str>, since: SystemTime, now: SystemTime) -> Standing {
    match state {
        _ if is_live => Standing::Live,
        Some("refused") => Standing::Refused,
        Some("stalled") => Standing::Stalled,
        _ if now.duration_since(since).is_ok_and(|age| age >= BEHIND_AFTER) => Standing::Behind,
        _ => Standing::Rolling,
    }
}

impl RefusedSummary {
    fn refusal(self, replica: &str) -> Refusal {
        Refusal {
            node: self.node,
            group: self.group,
            replica: replica.to_owned(),
            r#type: self.r#type,
            revision: self.revision,
            at: moment(self.at),
            message: self.message,
            documents: self.documents,
        }
    }
}

impl LatencySummary {
    fn times(&self) -> Times {
        Times {
            counts: self.counts.iter().copied().collect(),
            max: self.max,
            last: moment(self.last),
        }
    }
}

impl ReplicaView {
    /// The id, and the facts that proxies and publishes do not change.
    pub(super) fn lasting(&self) -> (String, serde_json::Value) {
        let facts = serde_json::json!({
            "id": self.id, "version": self.version, "admin": self.admin, "lost": self.lost,
        });
        (self.id.clone(), facts)
    }

    fn of(replica: &Replica) -> Self {
        let summary = &replica.summary;
        Self {
            id: summary.id.clone(),
            version: summary.version.clone(),
            admin: summary.admin.clone(),
            revision: summary.revision,
            proxies: summary.places.iter().map(|place| place.proxies).sum(),
            heard_at: replica.heard_at,
            lost: replica.lost_at.is_some(),
        }
    }
}

/// The summary of this replica, of 64 KiB at most.
#[must_use]
pub fn summary(sources: Sources<'_>, now: SystemTime) -> Summary {
    let mut most = LIST_MAX;
    loop {
        let summary = summary_of(sources, most, now);
        let size = serde_json::to_vec(&summary).map_or(0, |text| text.len());
        if size <= SUMMARY_MAX || most == 0 {
            return summary;
        }
        most /= 2;
    }
}

fn summary_of(sources: Sources<'_>, most: usize, now: SystemTime) -> Summary {
    let snapshot = sources.snapshot;
    let newest = snapshot.revision.max(snapshot.steps.newest_revision());
    let question = Question {
        revision: newest,
        group: None,
        most,
    };
    let report = sources.fleet.report(snapshot, question);
    let live_on = |place: &Place| place.live_on(snapshot).unwrap_or_default();

    let mut places: BTreeMap<(String, i64, Option<String>, Option<u64>), usize> = BTreeMap::new();
    for (place, proxies) in sources.fleet.places() {
        let standing = place.standing(snapshot, newest, now);
        let is_said = matches!(standing.state, Standing::Refused | Standing::Stalled);
        let state = is_said.then(|| standing.state.as_str().to_owned());
        let key = (
            place.group().to_string(),
            live_on(&place),
            state,
            standing.since.map(millis),
        );
        *places.entry(key).or_default() += proxies;
    }
    let places = places
        .into_iter()
        .map(|((group, live_on, state, since), proxies)| PlaceSummary {
            group,
            live_on,
            proxies,
            state,
            since,
        });

    let behind = report.lagging.iter().map(|lagging| BehindSummary {
        node: lagging.node_id.to_string(),
        group: lagging.group.to_string(),
        state: (lagging.standing.state == Standing::Stalled).then(|| Standing::Stalled.as_str().to_owned()),
        live_on: lagging.live_on.unwrap_or_default(),
        types: lagging.standing.types.iter().map(ToString::to_string).collect(),
        since: lagging.standing.since.map_or(0, millis),
        why: lagging.why.as_str().to_owned(),
    });
    let gone = sources.fleet.gone(GONE_MAX.min(most * 5));
    let gone = gone.iter().map(|gone| GoneSummary {
        node: gone.node,
        group: gone.place.group().to_string(),
        connected_at: millis(gone.connected_at),
        gone_at: millis(gone.gone_at),
        live_on: live_on(&gone.place),
    });
    let others = sources.replicas.others(now);
    let elsewhere = others.iter().flat_map(|replica| &replica.summary.gone);
    let elsewhere: BTreeSet<u32> = elsewhere.map(|gone| gone.node).collect();

    let newest_steps = snapshot.steps.newest_first().take(LATENCIES_MAX);
    let latencies = newest_steps.filter_map(|step| {
        let times = sources.fleet.times(step.generation)?;
        Some(LatencySummary {
            revision: step.last(),
            counts: times.counts.into_iter().collect(),
            max: times.max,
            last: millis(times.last),
        })
    });

    Summary {
        format: FORMAT,
        id: sources.replicas.own().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admin: sources.admin.map(ToOwned::to_owned),
        revision: newest,
        revisions: (*snapshot.revisions).clone(),
        sets: sources.sets(),
        places: places.collect(),
        behind: behind.collect(),
        refused: report.refusing.iter().map(|one| sources.refused(one)).collect(),
        gone: gone.collect(),
        back: sources.fleet.connected_among(&elsewhere),
        latencies: latencies.collect(),
        stopped: false,
        lost: others.iter().filter_map(lost).collect(),
    }
}

fn lost(replica: &Replica) -> Option<LostSummary> {
    Some(LostSummary {
        id: replica.summary.id.clone(),
        version: replica.summary.version.clone(),
        revision: replica.summary.revision,
        at: millis(replica.lost_at?),
    })
}

/// The state that a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Live,
    /// No proxy is rolling or behind.
    Answered,
}

impl For {
    /// Whether the wait is over: also in a state that only a person can change.
    fn is_over(self, rollout: &Rollout) -> bool {
        let is_answered = rollout.complete && rollout.proxies.rolling + rollout.proxies.behind == 0;
        match self {
            _ if rollout.state == RolloutState::Refused => true,
            Self::Live => rollout.state == RolloutState::Live,
            Self::Answered => is_answered,
        }
    }
}

pub(super) async fn of_revision(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["wait", "for", "group"])?;
    let Path(revision) = path?;
    let revision = match &*revision {
        "latest" => None,
        number => Some(
            number
                .parse::<i64>()
                .ok()
                .filter(|number| *number >= 0)
                .ok_or_else(|| {
                    let detail = format!("revision: found `{number}`, expected a number or latest");
                    Problem::new(Code::InvalidRequest, detail)
                })?,
        ),
    };
    let group = values(&query, "group").last();
    let wait = values(&query, "wait").last().map(wait).transpose()?;
    let until = match values(&query, "for").last() {
        None | Some("live") => For::Live,
        Some("answered") => For::Answered,
        Some(other) => {
            let detail = format!("query parameter `for`: found `{other}`, expected live or answered");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    };

    let look = || admin.rollout(revision, group, LIST_MAX);
    let Some(wait) = wait else {
        return look()
            .map(|rollout| Json(rollout).into_response())
            .ok_or_else(|| unknown(&admin, revision));
    };
    let deadline = tokio::time::Instant::now() + wait;
    let mut published = admin.snapshots.subscribe();
    loop {
        let (moved, told) = (admin.fleet.moved(), admin.replicas.changed());
        let (mut moved, mut told) = (std::pin::pin!(moved), std::pin::pin!(told));
        // Before the look, so that nothing is missed between the two.
        moved.as_mut().enable();
        told.as_mut().enable();
        let rollout = look();
        let now = tokio::time::Instant::now();
        match rollout {
            Some(rollout) if until.is_over(&rollout) => return Ok(Json(rollout).into_response()),
            Some(rollout) if now >= deadline => return Ok((StatusCode::ACCEPTED, Json(rollout)).into_response()),
            None if now >= deadline => return Err(unknown(&admin, revision)),
            _ => {}
        }
        tokio::select! {
            () = moved => {}
            () = told => {}
            Ok(()) = published.changed() => {}
            () = tokio::time::sleep_until(deadline.min(now + LOOK_EVERY)) => {}
        }
        tokio::time::sleep_until(deadline.min(now + LOOK_AFTER)).await;
    }
}

fn wait(text: &str) -> Result<Duration, Problem> {
    let wait = parse_duration(text).ok().filter(|wait| *wait <= WAIT_MAX);
    wait.ok_or_else(|| {
        let detail = format!("query parameter `wait`: found `{text}`, expected a time up to 60s, such as 30s");
        Problem::new(Code::InvalidRequest, detail)
    })
}

fn unknown(admin: &Admin, revision: Option<i64>) -> Problem {
    let snapshot = admin.snapshots.current();
    let newest = snapshot.revision.max(snapshot.steps.newest_revision());
    let detail = format!(
        "there is no revision {} yet, the newest is {newest}; ?wait=30s waits for it",
        revision.unwrap_or_default()
    );
    Problem::new(Code::UnknownRevision, detail)
}

/// The standing of one stream's proxy towards everything, as `clients` shows it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) state: &'static str,
    pub(super) since: SystemTime,
    pub(super) revision: Option<i64>,
}

/// See [`Shown`].
pub(super) fn shown(
    place: Option<&(Arc<Place>, SystemTime)>,
    gone_at: Option<SystemTime>,
    snapshot: &Snapshot,
    now: SystemTime,
) -> Shown {
    let Some((place, moved_at)) = place else {
        return Shown {
            state: Standing::Rolling.as_str(),
            since: now,
            revision: None,
        };
    };
    let revision = place.live_on(snapshot);
    if let Some(gone_at) = gone_at {
        return Shown {
            state: Standing::Gone.as_str(),
            since: gone_at,
            revision,
        };
    }
    let standing = place.standing(snapshot, i64::MAX, now);
    Shown {
        state: standing.state.as_str(),
        since: standing.since.unwrap_or(*moved_at),
        revision,
    }
}

#[cfg(test)]
mod tests;
