//! The changes that snapshots took in, and the types that each of them altered.
//!
//! A change is a revision of the document roots. In: the revisions of a plan and the difference they lead to. Out: a
//! [`Step`] for each such plan, and a [`Mark`] for each type of each group: the newest step that altered the type there.
//! A proxy is live on a revision if it has, for each of its types, the mark that the revision asks for. Endpoints that
//! registrations alone altered get no mark, nor does content that no document changed (the files of secrets).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use imbl::Vector;

use super::{GroupSnapshot, Snapshot};
use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::{Difference, ResourceChange};
use crate::resource::{Resource, ResourceType};

/// Most steps that are kept. For an older revision the oldest step counts.
const STEPS_MAX: usize = 1024;

/// The newest step that altered a type of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The generation of the first snapshot with the content; 0: no step altered the type.
    pub generation: u64,
    /// The moment of building.
    pub at: SystemTime,
}

impl Mark {
    /// No step altered the type.
    pub const NEVER: Self = Self {
        generation: 0,
        at: SystemTime::UNIX_EPOCH,
    };
}

/// One mark a type, by [`ResourceType::index`].
pub type Marks = [Mark; ResourceType::COUNT];

/// The part of documents in a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// The revisions that altered a text, in order. Empty: an earlier text begins or ends to serve.
    pub revisions: Vec<i64>,
    /// The documents that changed; `None`: any may have.
    pub documents: Option<BTreeSet<DocumentKey>>,
}

impl Cause {
    /// Whether the documents altered a resource. An assignment of endpoints may be altered by registrations alone.
    fn alters(&self, change: &ResourceChange, old: Option<&Arc<Resource>>) -> bool {
        let Some(documents) = &self.documents else { return true };
        if change.resource_type != ResourceType::Endpoint {
            return true;
        }
        let resources = || change.resource.iter().chain(old);
        let is_of = |key: &DocumentKey| match key.kind {
            Kind::Routes => false,
            Kind::Clusters => resources().any(|resource| resource.documents.contains(key)),
            _ => true,
        };
        change.resource.is_none() || old.is_none() || documents.iter().any(is_of)
    }
}

/// The groups and types that a step altered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Altered {
    /// A bit a type.
    Groups(BTreeMap<Arc<str>, u16>),
    /// Nodes may have moved between groups.
    Everything,
}

/// The resources that a step altered, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// By type. A name that several groups have counts once.
    pub types: BTreeMap<ResourceType, Counts>,
    /// The groups with an altered resource, sorted.
    pub groups: Vec<Arc<str>>,
    /// The listeners whose connections end, sorted.
    pub drains: Vec<Drain>,
}

/// The numbers of altered resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New ones.
    pub added: usize,
    /// With other content.
    pub changed: usize,
    /// Gone.
    pub removed: usize,
}

/// A Listener that changed or went: Envoy ends its connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drain {
    /// The listener.
    pub listener: Arc<str>,
    /// The group.
    pub group: Arc<str>,
    /// The listener is gone.
    pub is_removed: bool,
}

impl Effect {
    fn of(before: &Snapshot, difference: &Difference, cause: &Cause) -> Self {
        let mut names: BTreeMap<(ResourceType, &str), (bool, bool)> = BTreeMap::new();
        let mut groups = BTreeSet::new();
        let mut drains = BTreeSet::new();
        for change in &difference.resources {
            let old = before.groups.get(&change.group);
            let old = old.and_then(|group| group.set(change.resource_type).get(&change.name));
            if (old.is_none() && change.resource.is_none()) || !cause.alters(change, old) {
                continue;
            }
            let (is_old, is_new) = names.entry((change.resource_type, &change.name)).or_default();
            *is_old |= old.is_some();
            *is_new |= change.resource.is_some();
            groups.insert(Arc::clone(&change.group));
            if change.resource_type == ResourceType::Listener && old.is_some() {
                drains.insert(Drain {
                    listener: Arc::clone(&change.name),
                    group: Arc::clone(&change.group),
                    is_removed: change.resource.is_none(),
                });
            }
        }

        let mut types: BTreeMap<ResourceType, Counts> = BTreeMap::new();
        for ((resource_type, _), was_and_is) in names {
            let counts = types.entry(resource_type).or_default();
            match was_and_is {
                (false, _) => counts.added += 1,
                (true, true) => counts.changed += 1,
                (true, false) => counts.removed += 1,
            }
        }
        Self {
            types,
            groups: groups.into_iter().collect(),
            drains: drains.into_iter().collect(),
        }
    }
}

/// One plan with changes of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The generation of the first snapshot with the content.
    pub generation: u64,
    /// The revisions of the changes, in order; never empty.
    pub revisions: Box<[i64]>,
    /// The moment of building.
    pub at: SystemTime,
    /// `None`: the step has no revision of its own, or is the first one, which has every resource.
    pub effect: Option<Arc<Effect>>,
    altered: Altered,
}

impl Step {
    /// The oldest revision that the step took in.
    #[must_use]
    pub fn first(&self) -> i64 {
        self.revisions.first().copied().unwrap_or_default()
    }

    /// The newest revision that the step took in.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.revisions.last().copied().unwrap_or_default()
    }

    /// Whether the step altered a type of a group.
    #[must_use]
    pub fn has_altered(&self, group: &str, resource_type: ResourceType) -> bool {
        match &self.altered {
            Altered::Everything => true,
            Altered::Groups(groups) => groups.get(group).is_some_and(|types| types & bit(resource_type) != 0),
        }
    }
}

fn bit(resource_type: ResourceType) -> u16 {
    1 << resource_type.index()
}

/// The newest steps, oldest first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Steps(Vector<Arc<Step>>);

impl Steps {
    /// All steps that are kept, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Step>> {
        self.0.iter().rev()
    }

    /// The oldest step that is kept.
    #[must_use]
    pub fn oldest(&self) -> Option<&Arc<Step>> {
        self.0.front()
    }

    /// The newest step.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Step>> {
        self.0.last()
    }

    /// The newest change; 0: there is none.
    #[must_use]
    pub fn newest_revision(&self) -> i64 {
        self.0.last().map_or(0, |step| step.last())
    }

    /// The newest change up to this revision, with its step; `None`: it is older than the steps that are kept.
    #[must_use]
    pub fn change_at(&self, revision: i64) -> Option<(i64, &Arc<Step>)> {
        let step = self.newest_first().find(|step| step.first() <= revision)?;
        let found = step.revisions.iter().rev().find(|of| **of <= revision)?;
        Some((*found, step))
    }

    /// Whether a step counts for a revision: the step took in this revision or an older one. The oldest step that is kept counts
    /// for every revision.
    #[must_use]
    pub fn counts_for(&self, step: &Arc<Step>, revision: i64) -> bool {
        step.first() <= revision || self.oldest().is_some_and(|oldest| Arc::ptr_eq(oldest, step))
    }

    /// The oldest step after this generation that altered a type of a group.
    #[must_use]
    pub fn missing(&self, group: &str, resource_type: ResourceType, after: u64) -> Option<&Arc<Step>> {
        let later = self.newest_first().take_while(|step| step.generation > after);
        later.filter(|step| step.has_altered(group, resource_type)).last()
    }

    fn push(&mut self, step: Step) {
        if self.0.len() == STEPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(step));
    }
}

impl Snapshot {
    /// Note the changes of documents that led from `before` to this snapshot.
    pub(super) fn take_step(&mut self, before: &Self, difference: &Difference, cause: &Cause) {
        let generation = self.generation;
        let moves = !Arc::ptr_eq(&self.group_rules, &before.group_rules);
        let mut altered: BTreeMap<Arc<str>, u16> = BTreeMap::new();
        for change in &difference.resources {
            let old = before.groups.get(&change.group);
            let old = old.and_then(|group| group.set(change.resource_type).get(&change.name));
            let types = altered.entry(Arc::clone(&change.group)).or_default();
            if *types & bit(change.resource_type) == 0 && cause.alters(change, old) {
                *types |= bit(change.resource_type);
            }
        }
        altered.retain(|group, types| *types != 0 && self.groups.contains_key(group));
        if cause.revisions.is_empty() && altered.is_empty() && !moves {
            return;
        }

        let mark = Mark {
            generation,
            at: self.built_at,
        };
        if moves {
            for group in self.groups.values_mut() {
                Arc::make_mut(group).marks = [mark; ResourceType::COUNT];
            }
        } else {
            for (name, types) in &altered {
                let Some(group) = self.groups.get_mut(name) else {
                    continue;
                };
                let marks = &mut Arc::make_mut(group).marks;
                let types = ResourceType::ALL.into_iter().filter(|of| types & bit(*of) != 0);
                types.for_each(|of| marks[of.index()] = mark);
            }
        }
        if moves || !altered.is_empty() {
            self.marked = generation;
        }

        let newest = self.steps.newest_revision();
        let revisions = match cause.revisions.as_slice() {
            [] => [if newest > 0 { newest } else { self.revision }].into(),
            revisions => revisions.into(),
        };
        let has_effect = !cause.revisions.is_empty() && before.generation > 0;
        self.steps.push(Step {
            generation,
            effect: has_effect.then(|| Arc::new(Effect::of(before, difference, cause))),
            revisions,
            at: self.built_at,
            altered: if moves {
                Altered::Everything
            } else {
                Altered::Groups(altered)
            },
        });
    }
}

impl GroupSnapshot {
    /// The newest step that altered each type.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Facts;

    fn resource(name: &str, body: &'static [u8], document: &str) -> Option<Arc<Resource>> {
        let document = DocumentKey::new(Kind::Clusters, document);
        Some(Arc::new(Resource::new(name, body, vec![document])))
    }

    fn change(resource_type: ResourceType, name: &str, resource: Option<Arc<Resource>>) -> ResourceChange {
        ResourceChange {
            group: "default".into(),
            resource_type,
            name: name.into(),
            resource,
        }
    }

    fn next(before: &Snapshot, changes: Vec<ResourceChange>, cause: Option<Cause>) -> Snapshot {
        let difference = Difference {
            resources: changes,
            ..Difference::default()
        };
        let facts = Facts {
            cause,
            ..Facts::after(before)
        };
        before.next(&difference, facts)
    }

    fn by(revisions: &[i64], clusters: &[&str]) -> Option<Cause> {
        let documents = clusters.iter().map(|name| DocumentKey::new(Kind::Clusters, *name));
        Some(Cause {
            revisions: revisions.to_vec(),
            documents: Some(documents.collect()),
        })
    }

    fn generations(snapshot: &Snapshot) -> (u64, u64) {
        let marks = snapshot.groups["default"].marks();
        let of = |resource_type: ResourceType| marks[resource_type.index()].generation;
        (of(ResourceType::Cluster), of(ResourceType::Endpoint))
    }

    #[test]
    fn registrations_alone_leave_no_mark() {
        let (clusters, endpoints) = (ResourceType::Cluster, ResourceType::Endpoint);
        let first = vec![
            change(clusters, "a", resource("a", b"1", "a")),
            change(endpoints, "a", resource("a", b"1", "a")),
            change(endpoints, "b", resource("b", b"1", "b")),
        ];
        let one = next(&Snapshot::unpublished(), first, by(&[5], &["a", "b"]));
        assert_eq!((generations(&one), one.marked), ((1, 1), 1));

        let registered = || change(endpoints, "b", resource("b", b"2", "b"));
        let two = next(&one, vec![registered()], None);
        assert_eq!(generations(&two), (1, 1));
        assert_eq!(two.steps.newest_revision(), 5);

        // A cluster changes in the plan in which an instance of another one registers.
        let changed = vec![change(clusters, "a", resource("a", b"2", "a")), registered()];
        let three = next(&one, changed, by(&[7], &["a"]));
        assert_eq!(generations(&three), (2, 1));

        let listed = vec![change(endpoints, "b", resource("b", b"3", "b"))];
        assert_eq!(generations(&next(&one, listed, by(&[7], &["b"]))), (1, 2));
    }

    #[test]
    fn the_change_at_a_revision_is_the_newest_before_it() {
        let first = vec![change(ResourceType::Cluster, "a", resource("a", b"1", "a"))];
        let one = next(&Snapshot::unpublished(), first, by(&[5, 7], &["a"]));
        let two = next(&one, Vec::new(), by(&[9], &["a"]));
        let at = |revision| two.steps.change_at(revision).map(|(found, _)| found);
        assert_eq!(
            [4, 5, 6, 8, 9, 99].map(at),
            [None, Some(5), Some(5), Some(7), Some(9), Some(9)]
        );

        let missing = |resource_type, after| {
            let step = two.steps.missing("default", resource_type, after);
            step.map(|step| step.first())
        };
        assert_eq!(missing(ResourceType::Cluster, 0), Some(5), "the burst as a whole");
        assert_eq!(
            missing(ResourceType::Cluster, 1),
            None,
            "the second altered no resource"
        );
        assert_eq!(missing(ResourceType::Route, 0), None);
    }

    #[test]
    fn an_effect_counts_a_name_once_and_names_the_listeners_that_drain() {
        let (listeners, clusters) = (ResourceType::Listener, ResourceType::Cluster);
        let mut elsewhere = change(clusters, "a", resource("a", b"1", "a"));
        elsewhere.group = "edge".into();
        let first = vec![
            change(listeners, "l", resource("l", b"1", "a")),
            change(clusters, "a", resource("a", b"1", "a")),
            elsewhere.clone(),
        ];
        let difference = Difference {
            resources: first,
            groups_added: vec!["edge".into()],
            ..Difference::default()
        };
        let facts = Facts {
            cause: by(&[5], &["a"]),
            ..Facts::after(&Snapshot::unpublished())
        };
        let one = Snapshot::unpublished().next(&difference, facts);
        assert_eq!(one.steps.newest().unwrap().effect, None, "every resource");

        elsewhere.resource = resource("a", b"2", "a");
        let changes = vec![
            change(listeners, "l", None),
            change(clusters, "a", resource("a", b"2", "a")),
            change(clusters, "b", resource("b", b"2", "a")),
            elsewhere,
        ];
        let two = next(&one, changes, by(&[6], &["a"]));
        let effect = two.steps.newest().unwrap().effect.clone().unwrap();
        let counts = |added, changed, removed| Counts {
            added,
            changed,
            removed,
        };
        assert_eq!(
            effect.types,
            [(listeners, counts(0, 0, 1)), (clusters, counts(1, 1, 0))].into()
        );
        assert_eq!(effect.groups, ["default".into(), "edge".into()]);
        let drains = effect.drains.iter().map(|drain| (&*drain.listener, drain.is_removed));
        assert!(drains.eq([("l", true)]));
        let released = next(&two, vec![change(clusters, "b", None)], Some(Cause::default()));
        assert_eq!(released.steps.newest().unwrap().effect, None, "no change of its own");
    }

    #[test]
    fn a_change_of_groups_alters_every_type() {
        let first = vec![change(ResourceType::Cluster, "a", resource("a", b"1", "a"))];
        let one = next(&Snapshot::unpublished(), first, by(&[5], &["a"]));
        let facts = Facts {
            cause: Some(Cause {
                revisions: vec![6],
                documents: Some(BTreeSet::new()),
            }),
            group_rules: Arc::new([(
                "edge".into(),
                Arc::new(crate::document::group::Group {
                    matches: Vec::new(),
                    priority: 0,
                }),
            )]),
            ..Facts::after(&one)
        };
        let two = one.next(&Difference::default(), facts);
        assert_eq!(generations(&two), (2, 2));
        assert_eq!(
            two.steps
                .missing("any", ResourceType::Listener, 1)
                .map(|step| step.first()),
            Some(6)
        );
    }

    #[test]
    fn text_that_begins_to_serve_later_counts_for_the_newest_change() {
        let first = vec![change(ResourceType::Cluster, "a", resource("a", b"1", "a"))];
        let one = next(&Snapshot::unpublished(), first, by(&[5], &["a"]));
        let released = vec![change(ResourceType::Cluster, "a", resource("a", b"2", "a"))];
        let two = next(&one, released, Some(Cause::default()));
        assert_eq!(generations(&two).0, 2);
        assert_eq!(
            two.steps.change_at(5).map(|(found, step)| (found, step.generation)),
            Some((5, 2))
        );
    }
}
