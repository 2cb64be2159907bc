//! Step 3: what has become of every document that changed or stands differently, and what is to be remembered.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::choices::{Choice, Decision};
use super::intake::Intake;
use super::{LastGoodWrite, Plan, Verdict};
use crate::document::Document;
use crate::document::key::DocumentKey;
use crate::reconcile::hold::KEPT_FOR;
use crate::reconcile::world::{Good, Record, State, Status, World};
use crate::resource::compile::{Standing, describing};

/// How many users of a deleted cluster its reason names.
const NAMED_USERS: usize = 3;

/// The plan of a decision. `before` is the world that the inputs met.
pub(super) fn conclude(before: &World, intake: Intake, decision: Decision) -> Plan {
    let Intake {
        world,
        moment,
        held,
        relist,
        ..
    } = intake;
    let Decision {
        choices,
        compiled,
        touched,
        concerned,
    } = decision;
    let mut conclusion = Conclusion {
        world,
        last_good: Vec::new(),
        wanted: Vec::new(),
    };
    let difference = compiled.difference(&before.compiled, &touched);
    conclusion.world.compiled = compiled;
    let mut affected: BTreeSet<DocumentKey> = concerned;
    affected.extend(held);
    affected.extend(choices.keys().cloned());
    for (key, choice) in choices {
        conclusion.record(key, choice);
    }
    conclusion.seek_clusters(&affected);
    let verdicts = affected
        .into_iter()
        .filter_map(|key| conclusion.judge(before, key, moment.wall))
        .collect();
    let deadline = conclusion
        .world
        .sources
        .values()
        .filter_map(|source| source.deadline())
        .min();
    let Conclusion {
        world,
        last_good,
        wanted,
    } = conclusion;
    Plan {
        world,
        verdicts,
        difference,
        last_good,
        wanted,
        deadline,
        relist: relist.into_iter().collect(),
    }
}

struct Conclusion {
    world: World,
    last_good: Vec<LastGoodWrite>,
    wanted: Vec<DocumentKey>,
}

impl Conclusion {
    /// Write down what was chosen for a document.
    fn record(&mut self, key: DocumentKey, choice: Choice) {
        let record = self.world.records.get(&key);
        let (mut remembered, mut asked) = record.map_or((false, false), |record| (record.remembered, record.asked));
        let serving = choice.serving().cloned();
        let is_behind = choice.refusal.is_some() || (choice.kept && key.cluster().is_some());
        match &serving {
            Some(good) if is_behind && !remembered => {
                let (full_key, text) = (Arc::clone(&choice.full_key), Arc::clone(&good.text));
                self.last_good.push(LastGoodWrite::Keep { full_key, text });
                remembered = true;
            }
            _ if !is_behind && remembered => {
                self.last_good.push(LastGoodWrite::Forget {
                    full_key: Arc::clone(&choice.full_key),
                });
                remembered = false;
            }
            None if choice.refusal.is_some() && !asked => {
                self.wanted.push(key.clone());
                asked = true;
            }
            _ => {}
        }
        if choice.latest.is_none() && !choice.kept {
            self.world.records.remove(&key);
            self.world.tombstones.remove(&key);
            self.world.contested.remove(&key);
            return;
        }
        set_member(&mut self.world.tombstones, &key, key.cluster().is_some() && choice.kept);
        let contested = choice.refusal.as_ref().is_some_and(|refusal| refusal.contested);
        set_member(&mut self.world.contested, &key, contested);
        let status = Status {
            key: key.clone(),
            full_key: choice.full_key,
            state: State::Accepted,
            reason: None,
            path: None,
            warnings: Vec::new(),
            latest: choice.latest.clone(),
            serving: serving.as_ref().map(|good| Arc::clone(&good.text)),
            since: std::time::SystemTime::UNIX_EPOCH,
        };
        let (latest, refusal) = (choice.latest_good, choice.refusal);
        self.world.records.insert(
            key,
            Arc::new(Record {
                status,
                text: choice.latest,
                latest,
                serving,
                refusal,
                remembered,
                asked,
            }),
        );
    }

    /// Clusters that routes name and nobody describes: a server that was here before may have seen them deleted while they
    /// were used, and kept their text.
    fn seek_clusters(&mut self, affected: &BTreeSet<DocumentKey>) {
        for name in affected
            .iter()
            .flat_map(|key| self.world.compiled.undescribed_clusters(key))
        {
            for key in describing(&name) {
                if !self.world.records.contains_key(&key) && self.world.sought.insert(key.clone()).is_none() {
                    self.wanted.push(key);
                }
            }
        }
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
            reason,
            path,
            warnings,
            conflict,
            used_by,
        } = self.judgement(&key, record);
        let mut status = Status {
            state,
            reason,
            path,
            warnings,
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
        self.world.records.insert(key.clone(), Arc::new(record));
        changed.then_some(Verdict {
            status: Some(status),
            key,
            conflict,
            used_by,
        })
    }

    fn judgement(&self, key: &DocumentKey, record: &Record) -> Judgement {
        let standing = match &record.serving {
            Some(_) => self.world.compiled.standing(key),
            None => Standing::default(),
        };
        let winners = standing.losses.iter().map(|loss| &loss.winner);
        let mut warnings = warnings(record.serving.as_ref(), key, &standing);
        let everywhere = self.world.roots.values().filter_map(|root| root.served.get(key));
        let elsewhere = everywhere.filter(|stored| stored.full_key != record.status.full_key);
        warnings.extend(elsewhere.map(|stored| format!("written at {} too; that text is left out", stored.full_key)));
        let judgement = Judgement {
            warnings,
            conflict: winners.into_iter().find(|winner| *winner != key).cloned(),
            ..Judgement::default()
        };
        if let Some((hold, _)) = self.world.roots.values().find_map(|root| root.held_key(key)) {
            return judgement.with(State::Held, hold.reason(), "");
        }
        if record.text.is_none() {
            return self.judge_deleted(key, record, judgement);
        }
        if let Some(refusal) = &record.refusal {
            return judgement.with(
                State::Rejected,
                format!("{key}: {}", refusal.rejection),
                &refusal.rejection.path,
            );
        }
        match record.serving.as_ref().map(|good| &*good.parsed.document) {
            Some(Document::Route(route)) if crate::resource::depends::enabled_rules(route).next().is_none() => {
                Judgement {
                    state: State::Disabled,
                    ..judgement
                }
            }
            _ if standing.shadowed => {
                let loss = standing.losses.first();
                let winner = loss.map_or_else(String::new, |loss| loss.winner.to_string());
                let place = loss.map_or("", |loss| &*loss.place);
                judgement.with(
                    State::Shadowed,
                    format!("{winner} has the same match and was created earlier"),
                    place,
                )
            }
            _ => match standing.beneath {
                Some(reason) => judgement.with(State::Shadowed, reason, "replace"),
                None => judgement,
            },
        }
    }

    /// Deleted, and serving nevertheless.
    fn judge_deleted(&self, key: &DocumentKey, record: &Record, mut judgement: Judgement) -> Judgement {
        let Some(cluster) = key.cluster() else {
            let seconds = KEPT_FOR.as_secs();
            let reason = format!("gone together with most instances of its cluster; kept for {seconds} s");
            return judgement.with(State::Held, reason, "");
        };
        if let Some(good) = &record.serving {
            judgement.used_by = self.world.compiled.users_of(cluster, &good.parsed.document);
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
        judgement.with(State::Held, format!("deleted, still used by {}", users.join(", ")), "")
    }
}

/// What there is to say of a document.
struct Judgement {
    state: State,
    reason: Option<String>,
    path: Option<String>,
    warnings: Vec<String>,
    conflict: Option<DocumentKey>,
    used_by: Vec<DocumentKey>,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            state: State::Accepted,
            reason: None,
            path: None,
            warnings: Vec::new(),
            conflict: None,
            used_by: Vec::new(),
        }
    }
}

impl Judgement {
    fn with(mut self, state: State, reason: String, path: &str) -> Self {
        self.state = state;
        self.reason = Some(reason);
        self.path = (!path.is_empty()).then(|| path.to_owned());
        self
    }
}

/// What is said of a text although it serves.
fn warnings(serving: Option<&Good>, key: &DocumentKey, standing: &Standing) -> Vec<String> {
    let mut warnings: Vec<String> = serving.map(|good| good.parsed.warnings.clone()).unwrap_or_default();
    for loss in &standing.losses {
        let (place, winner, at) = (&loss.place, &loss.winner, &loss.winner_place);
        warnings.push(if winner == key {
            format!("{place}: never reached, {at} matches the same requests")
        } else {
            format!("{place}: never reached, {winner} has the same match and was created earlier")
        });
    }
    warnings.extend(standing.dangling.iter().cloned());
    warnings
}

fn set_member(set: &mut imbl::OrdSet<DocumentKey>, key: &DocumentKey, member: bool) {
    if member {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
}
