//! Step 3: the state of every affected document, and the texts to search in the store's history.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Verdict;
use super::choices::{Choice, Decision, Past};
use super::intake::Intake;
use crate::document::Document;
use crate::document::key::{DocumentKey, Kind, Root};
use crate::document::sentence::unquoted;
use crate::reconcile::hold::KEPT_FOR;
use crate::reconcile::memory::{Folder, MemoryWrite};
use crate::reconcile::text::Good;
use crate::reconcile::world::{HeldBy, Record, State, Status, Text, World};
use crate::resource::compile::{Compiled, Findings, Missing, Touched};

/// How many users of a deleted cluster its reason names.
const NAMED_USERS: usize = 3;

/// A batch, written down.
pub(super) struct Recorded {
    /// With the texts that serve; the states of `affected` are to be judged.
    pub(super) world: World,
    pub(super) affected: BTreeSet<DocumentKey>,
    pub(super) touched: Touched,
    /// Records of the quarantine to be written.
    pub(super) writes: Vec<MemoryWrite>,
    pub(super) wanted: Vec<DocumentKey>,
    pub(super) relist: BTreeSet<Root>,
}

/// Write down what a batch decided.
pub(super) fn record(intake: Intake, decision: Decision) -> Recorded {
    let Intake {
        world,
        held,
        relist,
        writes,
        wanted,
        ..
    } = intake;
    let Decision {
        choices,
        compiled,
        touched,
        mut affected,
    } = decision;
    let mut conclusion = Conclusion { world, wanted };
    conclusion.world.compiled = compiled;

    affected.extend(held);
    affected.extend(choices.keys().cloned());
    for (key, choice) in &choices {
        affected.extend(told_otherwise(
            &conclusion.world,
            &conclusion.world.compiled,
            key,
            choice,
        ));
    }
    for (key, choice) in choices {
        conclusion.record(key, choice);
    }

    let Conclusion { world, wanted } = conclusion;
    Recorded {
        world,
        affected,
        touched,
        writes,
        wanted,
        relist,
    }
}

/// Set the states of the affected documents. Returns a verdict for each whose status is another one than `before`, the
/// world that the inputs met.
pub(super) fn judge(
    before: &World,
    world: &mut World,
    affected: BTreeSet<DocumentKey>,
    wall: std::time::SystemTime,
) -> Vec<Verdict> {
    let mut conclusion = Conclusion {
        world: world.clone(),
        wanted: Vec::new(),
    };
    let verdicts = affected
        .into_iter()
        .filter_map(|key| conclusion.judge(before, key, wall));
    let verdicts = verdicts.collect();
    *world = conclusion.world;
    verdicts
}

/// Documents whose warning names a cluster as rejected now, and named it as missing before, or the other way around.
fn told_otherwise(before: &World, compiled: &Compiled, key: &DocumentKey, choice: &Choice) -> Vec<DocumentKey> {
    let was_rejected = before.records.get(key).is_some_and(|record| record.serves_nothing());
    let is_rejected = choice.blocked.is_some() && choice.serving().is_none();
    match key.cluster() {
        Some(cluster) if was_rejected != is_rejected => compiled.naming(cluster).cloned().collect(),
        _ => Vec::new(),
    }
}

struct Conclusion {
    world: World,
    wanted: Vec<DocumentKey>,
}

impl Conclusion {
    /// Write down what was chosen for a document.
    fn record(&mut self, key: DocumentKey, choice: Choice) {
        self.record_release(&key, &choice);
        if choice.latest.is_none() && !choice.kept {
            self.world.remove(&key);
            self.world.kept_deleted.remove(&key);
            self.world.contested.remove(&key);
            self.world.unheeded.remove(&key);
            return;
        }

        let serving = choice.serving().cloned();
        let searching = self.searches(&key, &choice);
        let unheeded = choice.unheeded().cloned();
        set_member(&mut self.world.unheeded, &key, unheeded.is_some());
        set_member(
            &mut self.world.kept_deleted,
            &key,
            key.stays_while_used() && choice.kept,
        );
        match choice.blocked.as_ref().filter(|blocked| blocked.contested) {
            Some(blocked) => self.world.contested.insert(&key, blocked.obstacle.as_ref()),
            None => self.world.contested.remove(&key),
        }

        let status = Status {
            key: key.clone(),
            full_key: choice.full_key,
            state: State::Accepted,
            held_by: None,
            reason: None,
            path: None,
            warnings: Vec::new(),
            empty: None,
            latest: choice.latest.clone(),
            serving: serving.as_ref().map(|good| Arc::clone(&good.text)),
            validity: serving
                .as_ref()
                .and_then(|good| Some(good.parsed.document.as_secret()?.validity())),
            since: std::time::SystemTime::UNIX_EPOCH,
        };
        let before = self.text_before(&key, choice.latest.as_ref());
        let (latest, blocked) = (choice.latest_good, choice.blocked);
        self.world.put(
            key,
            Record {
                status,
                text: choice.latest,
                latest,
                serving,
                blocked,
                searching,
                before,
                unheeded,
            },
        );
    }

    /// The text that served before the latest one was written. An equal text, written once more, is no other.
    fn text_before(&self, key: &DocumentKey, latest: Option<&Arc<Text>>) -> Option<Arc<Text>> {
        let earlier = self.world.records.get(key)?;
        let (latest, served) = (latest?, earlier.serving.as_ref());
        let is_other = |text: &&Arc<Text>| text.mod_revision != latest.mod_revision && text.value != latest.value;
        let served = served.map(|good| &good.text).filter(is_other);
        let is_new = earlier
            .text
            .as_ref()
            .is_none_or(|text| text.mod_revision != latest.mod_revision);
        served
            .filter(|_| is_new && key.kind != Kind::Services)
            .or(earlier.before.as_ref())
            .cloned()
    }

    /// A released cluster stays released until it is written anew. The world remembers the release until its record in
    /// the shared memory was read back.
    fn record_release(&mut self, key: &DocumentKey, choice: &Choice) {
        let world = &mut self.world;
        if let Some(text) = &choice.let_go
            && world.memory.listed.contains(&Folder::LastGood)
        {
            world.released.insert(key.clone(), Arc::clone(text));
        }
        let is_said = |text: &Arc<Text>| world.memory.says_let_go(&choice.full_key, text);
        if choice.latest.is_some() || world.released.get(key).is_some_and(is_said) {
            world.released.remove(key);
        }
    }

    /// Whether to search the store's history for good texts: the latest text does not serve, no record names the last
    /// good one, and this replica may have missed a good text.
    fn searches(&mut self, key: &DocumentKey, choice: &Choice) -> bool {
        let earlier = self.world.records.get(key);
        let was_searching = earlier.is_some_and(|record| record.searching);
        let is_first = earlier.is_none_or(|record| record.blocked.is_none()) && choice.serving().is_none();
        let is_known = self.world.memory.last_good(&choice.full_key).is_some();
        let is_refused = choice.blocked.as_ref().is_some_and(|blocked| blocked.by_proxies);
        if choice.blocked.is_none() || is_refused || is_known || choice.past == Past::Searched {
            return false;
        }
        if !was_searching && (choice.past == Past::HasGap || is_first) {
            self.wanted.push(key.clone());
            return true;
        }
        was_searching
    }

    /// What has become of a document, if that is another thing than before.
    fn judge(&mut self, before: &World, key: DocumentKey, wall: std::time::SystemTime) -> Option<Verdict> {
        let earlier = before.records.get(&key).map(|record| &record.status);
        let Some(record) = self.world.records.get(&key) else {
            // Held back by a guard before anything of it was ever judged, or gone.
            return earlier.map(|_| Verdict {
                status: None,
                key,
                conflict: None,
                used_by: Vec::new(),
            });
        };
        let Judgement {
            state,
            held_by,
            reason,
            path,
            warnings,
            empty,
            conflict,
            used_by,
        } = self.judgement(&key, record);
        let mut status = Status {
            state,
            held_by,
            reason,
            path,
            warnings,
            empty,
            since: wall,
            ..record.status.clone()
        };
        let held = self.world.roots.values().find_map(|root| root.held_key(&key));
        status.latest = match held {
            Some((_, waiting)) => waiting.map(|stored| Arc::clone(&stored.text)),
            None => record.text.clone(),
        };
        if let Some(earlier) = earlier.filter(|earlier| earlier.state == status.state) {
            status.since = earlier.since;
        }
        let changed = earlier != Some(&status);
        let record = Record {
            status: status.clone(),
            ..(**record).clone()
        };
        self.world.put(key.clone(), record);
        changed.then_some(Verdict {
            status: Some(status),
            key,
            conflict,
            used_by,
        })
    }

    fn judgement(&self, key: &DocumentKey, record: &Record) -> Judgement {
        let findings = match &record.serving {
            Some(_) => self.world.compiled.findings(key),
            None => Findings::default(),
        };
        let winners = findings.losses.iter().map(|loss| &loss.winner);
        let mut warnings = warnings(record.serving.as_ref(), key, &findings);
        warnings.extend(findings.missing.iter().map(|missing| self.missing(missing)));
        warnings.extend(findings.warnings.iter().cloned());
        let everywhere = self.world.roots.values().filter_map(|root| root.served.get(key));
        let elsewhere = everywhere.filter(|stored| stored.full_key != record.status.full_key);
        warnings.extend(elsewhere.map(|stored| format!("written at {} too; that text is left out", stored.full_key)));
        let judgement = Judgement {
            warnings,
            empty: findings.empty.clone(),
            conflict: winners.into_iter().find(|winner| *winner != key).cloned(),
            ..Judgement::default()
        };
        if let Some((hold, _)) = self.world.roots.values().find_map(|root| root.held_key(key)) {
            let reason = match self.world.memory.is_lost_instance(&record.status.full_key) {
                true => self.lost_instance_reason(key),
                false => hold.reason(),
            };
            return judgement.held(HeldBy::Guard, reason);
        }
        if record.text.is_none() {
            return self.judge_deleted(key, record, judgement);
        }
        if let Some(blocked) = record.blocked.as_ref().filter(|blocked| blocked.by_proxies) {
            return judgement.with(State::Refused, blocked.rejection.reason.to_string(), "");
        }
        if let Some(blocked) = &record.blocked {
            return judgement.with(
                State::Rejected,
                format!("{}: {}", unquoted(&key.to_string()), blocked.rejection),
                &blocked.rejection.path,
            );
        }
        match record.serving.as_ref().map(|good| &*good.parsed.document) {
            Some(Document::Route(route)) if route.enabled_rules().next().is_none() => Judgement {
                state: State::Disabled,
                ..judgement
            },
            _ if findings.shadowed => {
                let loss = findings.losses.first();
                let winner = loss.map_or_else(String::new, |loss| loss.winner.to_string());
                let place = loss.map_or("", |loss| &*loss.place);
                judgement.with(
                    State::Shadowed,
                    format!("{winner} has the same match and was created earlier"),
                    place,
                )
            }
            _ => match findings.shadowed_by {
                Some(reason) => judgement.with(State::Shadowed, reason, "replace"),
                None => judgement,
            },
        }
    }

    /// The sentence about a document that another one names and that does not serve.
    fn missing(&self, missing: &Missing) -> String {
        let Missing {
            field,
            document,
            consequence,
        } = missing;
        let record = self.world.records.get(document);
        match record.is_some_and(|record| record.serves_nothing()) {
            true => format!("{field}: {document} is rejected and has no earlier text that is good; {consequence}"),
            false => format!("{field}: there is no document {document}; {consequence}"),
        }
    }

    fn lost_instance_reason(&self, key: &DocumentKey) -> String {
        let source = self.world.sources.get(key.first_segment());
        let lost = source.and_then(|source| source.lost.get(key));
        let kept_for = lost.map_or(KEPT_FOR, |lost| lost.kept_for).as_secs_f64();
        format!("gone together with too many instances of its cluster; kept for {kept_for} s")
    }

    /// Deleted, and serving nevertheless.
    fn judge_deleted(&self, key: &DocumentKey, record: &Record, mut judgement: Judgement) -> Judgement {
        if !key.stays_while_used() {
            return judgement.held(HeldBy::Guard, self.lost_instance_reason(key));
        }
        if let Some(good) = &record.serving {
            judgement.used_by = self.world.compiled.users(key, &good.parsed.document).cloned().collect();
        }
        let mut users: Vec<String> = judgement
            .used_by
            .iter()
            .take(NAMED_USERS)
            .map(ToString::to_string)
            .collect();
        if judgement.used_by.len() > NAMED_USERS {
            users.push(format!("{} more", judgement.used_by.len() - NAMED_USERS));
        }
        judgement.held(HeldBy::InUse, format!("deleted, still used by {}", users.join(", ")))
    }
}

/// What there is to say of a document.
struct Judgement {
    state: State,
    held_by: Option<HeldBy>,
    reason: Option<String>,
    path: Option<String>,
    warnings: Vec<String>,
    empty: Option<String>,
    conflict: Option<DocumentKey>,
    used_by: Vec<DocumentKey>,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            state: State::Accepted,
            held_by: None,
            reason: None,
            path: None,
            warnings: Vec::new(),
            empty: None,
            conflict: None,
            used_by: Vec::new(),
        }
    }
}

impl Judgement {
    fn held(self, by: HeldBy, reason: String) -> Self {
        Self {
            held_by: Some(by),
            ..self.with(State::Held, reason, "")
        }
    }

    fn with(mut self, state: State, reason: String, path: &str) -> Self {
        self.state = state;
        self.reason = Some(reason);
        self.path = (!path.is_empty()).then(|| path.to_owned());
        self
    }
}

/// What is said of a text although it serves.
fn warnings(serving: Option<&Good>, key: &DocumentKey, findings: &Findings) -> Vec<String> {
    let mut warnings: Vec<String> = serving.map(|good| good.parsed.warnings.clone()).unwrap_or_default();
    for loss in &findings.losses {
        let (place, winner, at) = (&loss.place, &loss.winner, &loss.winner_place);
        warnings.push(if winner == key {
            format!("{place}: never reached, {at} matches the same requests")
        } else {
            format!("{place}: never reached, {winner} has the same match and was created earlier")
        });
    }
    warnings
}

fn set_member(set: &mut imbl::OrdSet<DocumentKey>, key: &DocumentKey, member: bool) {
    if member {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
}
