//! Replicas that stand at one revision have equal versions, at every moment.
//!
//! Every replica is asked for its snapshot ten times a second. A replica shows the revisions of its roots, and these count
//! records below the state prefix, too. So two replicas that show equal revisions (of documents and of registrations) have
//! taken in equal documents and equal records, and a single difference of their versions is a finding. Answers of the last
//! second are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::findings::Findings;

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
    /// Two replicas, and the revisions at which they differ. Each is one finding.
    differences: BTreeSet<(usize, usize, Revisions)>,
    compared: u64,
}

/// The revision of each root, in the order of their prefixes: documents, then registrations.
type Revisions = Vec<i64>;

struct Seen {
    versions: Value,
    at: Instant,
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
            "{} comparisons of two replicas at equal revisions, {} revisions with a difference",
            state.compared,
            state.differences.len()
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
                self.compare(one, other, findings);
            }
        }
    }

    fn compare(&mut self, one: usize, other: usize, findings: &Findings) {
        for (revisions, left) in &self.seen[one] {
            let Some(right) = self.seen[other].get(revisions) else {
                continue;
            };
            self.compared += 1;
            if left.versions != right.versions && self.differences.insert((one, other, revisions.clone())) {
                let which = differing(&left.versions, &right.versions).join(", ");
                findings.add(&format!(
                    "replicas {one} and {other} differ at the revisions {revisions:?} in {which}"
                ));
            }
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

    /// The differences after these answers of two replicas, one a look.
    async fn differences(answers: impl IntoIterator<Item = [Option<(Revisions, Value)>; 2]>) -> usize {
        let findings = Findings::new(1);
        let mut state = state();
        for answer in answers {
            state.on_answers(answer.into(), &findings);
            tokio::time::advance(LOOK).await;
        }
        state.differences.len()
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_may_differ_at_different_revisions() {
        let answers = [
            [answer(1, "a"), answer(2, "b")],
            [answer(2, "b"), answer(3, "c")],
            [None, answer(4, "d")],
        ];
        assert_eq!(differences(answers).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_difference_at_one_revision_is_found_though_both_go_on() {
        let answers = [
            [answer(1, "a"), answer(2, "b")],
            [answer(2, "other"), answer(3, "c")],
            [answer(3, "c"), answer(3, "c")],
        ];
        assert_eq!(differences(answers).await, 1);
    }
}
