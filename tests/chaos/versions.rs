//! Replicas that stand at one revision have equal versions, at every moment.
//!
//! Every replica is asked for its snapshot ten times a second. Of two replicas, the newest revisions (of documents and of
//! registrations) at which both were seen within the last second are compared: they differ there if the last versions
//! that each had there differ. A hold that is released, or a document that proxies refused, takes effect through one
//! replica; the others follow a record below the state prefix. So a difference must have ended after [`GRACE`], whatever
//! the revision then. A replica that has gone on to later revisions is no longer seen at an older one: a difference lasts
//! until the last moment at which both replicas were seen with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::findings::Findings;

/// Longest difference at one revision, or over several. A record takes milliseconds on a machine that is not busy.
const GRACE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
/// A replica that does not answer within this is frozen.
const PATIENCE: Duration = Duration::from_millis(700);
/// Revisions that were seen longer ago are not compared.
const FRESH: Duration = Duration::from_secs(1);

/// The comparison, at work until it is dropped.
pub(crate) struct Versions {
    shared: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    is_paused: bool,
    /// For each replica, the last versions seen at each of its revisions.
    seen: Vec<BTreeMap<Revisions, Seen>>,
    differences: BTreeMap<(usize, usize), Difference>,
    compared: u64,
    differed: u64,
    longest: Duration,
}

/// The revision of each root, in the order of their prefixes: documents, then registrations.
type Revisions = Vec<i64>;

struct Seen {
    versions: Value,
    at: Instant,
}

struct Difference {
    since: Instant,
    first_revisions: Revisions,
    is_found: bool,
}

impl Versions {
    /// Compare the replicas whose admin ports are these.
    pub(crate) fn watch(replicas: Vec<SocketAddr>, findings: Arc<Findings>) -> Self {
        let shared = Arc::new(Mutex::new(State {
            seen: replicas.iter().map(|_| BTreeMap::new()).collect(),
            ..State::default()
        }));
        let state = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
            let http = http.expect("a client");
            loop {
                let asked = replicas.iter().map(|replica| snapshot(&http, *replica));
                let answers = futures::future::join_all(asked).await;
                locked(&state).on_answers(answers, &findings);
                sleep(LOOK).await;
            }
        });
        Self { shared, task }
    }

    /// Compare nothing: a restored store gives its revisions a second time, with other content.
    pub(crate) fn pause(&self) {
        locked(&self.shared).is_paused = true;
    }

    /// Forget what was seen, and compare again.
    pub(crate) fn resume(&self) {
        let mut state = locked(&self.shared);
        state.is_paused = false;
        state.seen.iter_mut().for_each(BTreeMap::clear);
        state.differences.clear();
    }

    /// What was compared, for people.
    pub(crate) fn summary(&self) -> String {
        let state = locked(&self.shared);
        format!(
            "{} comparisons of two replicas at one revision, {} with a difference, the longest for {:?}",
            state.compared, state.differed, state.longest
        )
    }
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn on_answers(&mut self, answers: Vec<Option<(Revisions, Value)>>, findings: &Findings) {
        if self.is_paused {
            return;
        }
        let now = Instant::now();
        for (seen, answer) in self.seen.iter_mut().zip(answers) {
            seen.retain(|_, seen| seen.at + FRESH > now);
            if let Some((revisions, versions)) = answer {
                seen.insert(revisions, Seen { versions, at: now });
            }
        }

        for one in 0..self.seen.len() {
            for other in one + 1..self.seen.len() {
                self.compare(one, other, now, findings);
            }
        }
    }

    fn compare(&mut self, one: usize, other: usize, now: Instant, findings: &Findings) {
        let newest_first = self.seen[one].iter().rev();
        let mut common = newest_first.filter_map(|(at, left)| Some((at, left, self.seen[other].get(at)?)));
        let Some((revisions, left, right)) = common.next() else {
            // Without a revision in common, nothing can be said.
            self.differences.remove(&(one, other));
            return;
        };
        self.compared += 1;
        if left.versions == right.versions {
            self.differences.remove(&(one, other));
            return;
        }

        self.differed += 1;
        let difference = self.differences.entry((one, other)).or_insert_with(|| Difference {
            since: now,
            first_revisions: revisions.clone(),
            is_found: false,
        });
        let lasted = left.at.min(right.at).saturating_duration_since(difference.since);
        self.longest = self.longest.max(lasted);
        if lasted > GRACE && !difference.is_found {
            difference.is_found = true;
            let which = differing(&left.versions, &right.versions).join(", ");
            findings.add(&format!(
                "replicas {one} and {other} have differed since the revisions {:?}, for {lasted:?}; at {revisions:?} in {which}",
                difference.first_revisions
            ));
        }
    }
}

/// The group and type of each version that differs.
fn differing(left: &Value, right: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let groups = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let mut found = Vec::new();
    for (group, types) in groups(left) {
        for (word, version) in groups(&types["types"]) {
            let beside = &right[&group]["types"][&word];
            if version != *beside {
                found.push(format!("{group} {word} ({} and {})", version["count"], beside["count"]));
            }
        }
    }
    found
}

/// The revisions and the versions of a replica that serves what etcd holds.
async fn snapshot(http: &reqwest::Client, replica: SocketAddr) -> Option<(Revisions, Value)> {
    let url = format!("http://{replica}/api/v1/snapshot");
    let text = http.get(url).send().await.ok()?.text().await.ok()?;
    let mut groups = serde_json::from_str::<Value>(&text).ok()?["groups"].take();
    let figures = &groups["default"];
    if figures["source"] != "etcd" {
        return None;
    }
    let revisions = figures["revisions"].as_object()?.values().map(Value::as_i64);
    let revisions = revisions.collect::<Option<_>>()?;
    for group in groups.as_object_mut()?.values_mut() {
        let figures = group.as_object_mut()?;
        figures.retain(|field, _| field == "types");
    }
    Some((revisions, groups))
}

fn locked(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state() -> State {
        State {
            seen: vec![BTreeMap::new(), BTreeMap::new()],
            ..State::default()
        }
    }

    fn answer(revision: i64, content: &str) -> Option<(Revisions, Value)> {
        Some((
            vec![revision],
            json!({ "default": { "types": { "endpoints": content } } }),
        ))
    }

    /// Both replicas are asked until `until`; the answers depend on the number of the question.
    async fn longest(until: Duration, answers: impl Fn(usize) -> [Option<(Revisions, Value)>; 2]) -> Duration {
        let findings = Findings::new(1);
        let mut state = state();
        for number in 0..until.as_millis() / LOOK.as_millis() {
            state.on_answers(answers(usize::try_from(number).unwrap()).into(), &findings);
            tokio::time::advance(LOOK).await;
        }
        state.longest
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_goes_on_ends_a_difference() {
        let answers = |number| match number {
            0 => [answer(1, "a"), answer(1, "b")],
            _ => [answer(2, "b"), answer(1, "b")],
        };
        assert_eq!(longest(Duration::from_secs(3), answers).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_stay_differ_as_long_as_they_stay() {
        let longest = longest(Duration::from_secs(3), |_| [answer(1, "a"), answer(1, "b")]).await;
        assert_eq!(longest, Duration::from_millis(2900));
    }
}
