//! The dry run of a change: the plan of its documents without effect, and the reasons to refuse them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::pending::Basis;
use super::super::plan;
use super::super::problem::{Code, Problem};
use super::{Admin, Compared, Written, WrittenDocument, changes_by_root};
use crate::backend::Event;
use crate::document::key::{DocumentKey, Kind};
use crate::journal::intent::Action;
use crate::reconcile::plan::{self as reconcile, Input, Moment, Plan, Verdict};
use crate::reconcile::world::{State, World};

/// A change and the two worlds around it.
pub(super) struct Judged {
    before: Arc<World>,
    plan: Plan,
}

impl Judged {
    pub(super) fn of(basis: &Basis, compared: &[Compared<'_>], moment: Moment) -> Self {
        let before = basis.reached(moment);
        let current = compared.iter().filter_map(|compared| compared.current.as_ref());
        let current = current.map(|current| current.mod_revision).max().unwrap_or_default();
        let revision = current.max(basis.revision).max(basis.newest) + 1;
        let by_root = changes_by_root(compared, revision).into_iter();
        let events = by_root.filter(|(_, changes)| !changes.is_empty());
        let inputs = events.map(|(root, changes)| Input::Event {
            root,
            event: Event::Changed { revision, changes },
        });
        let plan = reconcile::plan(&before, inputs.collect(), moment);
        Self { before, plan }
    }

    /// Refuse documents that are bad or in use, and tests of other documents that fail through the change; `is_part`: the
    /// tests are judged after all parts.
    pub(super) fn refuse(&self, compared: &[Compared<'_>], force: bool, is_part: bool) -> Result<(), Problem> {
        let problems = compared.iter().filter_map(|compared| {
            let judged = match compared.action {
                Action::Unchanged => Ok(()),
                Action::Removed if force => Ok(()),
                Action::Removed => self.refuse_in_use(compared),
                Action::Added | Action::Changed => {
                    self.refuse_bad(compared).and_then(|()| self.refuse_overruled(compared))
                }
            };
            judged.err()
        });
        Problem::of_all(problems)?;
        if force || is_part {
            return Ok(());
        }
        self.refuse_breaking(compared)
    }

    fn verdict(&self, compared: &Compared<'_>) -> Option<&Verdict> {
        let key = &compared.target.edit.key;
        self.plan.verdicts.iter().find(|verdict| verdict.key == *key)
    }

    fn refuse_bad(&self, compared: &Compared<'_>) -> Result<(), Problem> {
        let edit = compared.target.edit;
        if let Some(first) = self.verdict(compared).and_then(|verdict| verdict.conflict.as_ref()) {
            let detail = format!("{} has the same match as {first}, which takes precedence", edit.key);
            return Err(Problem::new(Code::SameMatch, detail).of_key(&edit.full_key));
        }

        let Some(status) = self.plan.world.document(&edit.key) else {
            return Ok(());
        };
        let problem = |code, detail| {
            let problem = Problem::new(code, detail).of_key(&edit.full_key);
            Err(problem.at(status.path.clone()))
        };
        match status.state {
            State::Shadowed if edit.key.kind == Kind::Xds => {
                let reason = status.reason.as_deref();
                let reason = reason.unwrap_or("another document makes the same resource");
                problem(Code::NameTaken, format!("{}: {reason}", edit.key))
            }
            State::Rejected => {
                let detail = status.reason.clone();
                problem(
                    Code::InvalidDocument,
                    detail.unwrap_or_else(|| format!("{} is not valid", edit.key)),
                )
            }
            _ => Ok(()),
        }
    }

    /// A policy in a list that a final one further out would beat, and did not beat before.
    fn refuse_overruled(&self, compared: &Compared<'_>) -> Result<(), Problem> {
        let edit = compared.target.edit;
        let overruled = self.plan.world.compiled().overruled(&edit.key);
        if overruled.is_empty() {
            return Ok(());
        }
        let before = self.before.compiled().overruled(&edit.key);
        match overruled.difference(&before).next() {
            Some(sentence) => {
                let detail = format!("{}: {sentence}", edit.key);
                Err(Problem::new(Code::InvalidDocument, detail).of_key(&edit.full_key))
            }
            None => Ok(()),
        }
    }

    /// A change through which the tests of documents outside of it fail.
    fn refuse_breaking(&self, compared: &[Compared<'_>]) -> Result<(), Problem> {
        let is_outside = |key: &DocumentKey| compared.iter().all(|compared| compared.target.edit.key != *key);
        let broken = self.plan.world.compiled().newly_failing(self.before.compiled());
        let broken = broken.filter(|(document, _)| is_outside(document));
        Problem::of_all(broken.map(|(document, sentence)| {
            let detail = format!("{document}: {sentence}; ?force=true makes the change nevertheless");
            let key = match compared {
                [alone] => alone.target.edit.full_key.clone(),
                _ => self.before.options().layout.full_key(document),
            };
            Problem::new(Code::BreaksTest, detail).of_key(key)
        }))
    }

    fn refuse_in_use(&self, compared: &Compared<'_>) -> Result<(), Problem> {
        let key = &compared.target.edit.key;
        let used_by = self
            .verdict(compared)
            .map(|verdict| verdict.used_by.as_slice())
            .unwrap_or_default();
        let held = self
            .plan
            .world
            .document(key)
            .filter(|status| status.state == State::Held);

        let detail = match (used_by, held) {
            ([], None) => return Ok(()),
            ([], Some(status)) => status.reason.clone().unwrap_or_else(|| format!("{key} would be held")),
            (users, _) => {
                let users: Vec<_> = users.iter().map(ToString::to_string).collect();
                format!("{key} is used by {}", users.join(", "))
            }
        };
        let detail = format!("{detail}; ?force=true deletes the document nevertheless");
        Err(Problem::new(Code::InUse, detail).of_key(&compared.target.edit.full_key))
    }

    /// The plan of the change. `refusals`: why the write would not be taken.
    pub(super) fn answer(
        &self,
        admin: &Admin,
        base_revision: i64,
        compared: &[Compared<'_>],
        refusals: &[Problem],
        older_secrets: BTreeSet<DocumentKey>,
    ) -> plan::Answer {
        let document = |compared: &Compared<'_>| {
            let edit = compared.target.edit;
            let status = self.plan.world.document(&edit.key);
            let refusal = refusals.iter().flat_map(Problem::each);
            let refusal = refusal.into_iter().find(|problem| problem.is_of(&edit.full_key));
            plan::Document {
                document: edit.key.clone(),
                key: edit.full_key.clone(),
                action: compared.action,
                state: status.map(|status| status.state.as_str()),
                reason: match refusal {
                    Some(refusal) => Some(refusal.detail().to_owned()),
                    None => status.and_then(|status| status.reason.clone()),
                },
                path: status.and_then(|status| status.path.clone()),
                warnings: status.map(|status| status.warnings.clone()).unwrap_or_default(),
            }
        };
        plan::answer(plan::Inputs {
            base_revision,
            before: &self.before,
            plan: &self.plan,
            documents: compared.iter().map(document).collect(),
            refusal: refusals.first().map(Problem::detail),
            older_secrets,
            proxies: &admin.fleet.proxies(),
            snapshot: &admin.snapshots.current(),
        })
    }

    /// The answer about the change; `revision`: that of its transaction, `None`: nothing was written.
    pub(super) fn written(&self, revision: Option<i64>, compared: &[Compared<'_>]) -> Written {
        let document = |compared: &Compared<'_>| {
            let edit = compared.target.edit;
            WrittenDocument {
                key: edit.key.clone(),
                full_key: edit.full_key.clone(),
                action: compared.action,
                stored: compared.entry(revision.unwrap_or_default()),
                status: self.plan.world.document(&edit.key).cloned(),
            }
        };
        Written {
            revisions: revision.into_iter().collect(),
            documents: compared.iter().map(document).collect(),
        }
    }
}
