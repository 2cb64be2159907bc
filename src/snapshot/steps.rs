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

/// One plan with changes of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The generation of the first snapshot with the content.
    pub generation: u64,
    /// The revisions of the changes, in order; never empty.
    pub revisions: Box<[i64]>,
    /// The moment of building.
    pub at: SystemTime,
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

    /// The types that the step altered, by group; `None`: perhaps all, because nodes may have moved between groups.
    #[must_use]
    pub fn altered(&self) -> Option<impl Iterator<Item = (&Arc<str>, Vec<ResourceType>)>> {
        let Altered::Groups(groups) = &self.altered else {
            return None;
        };
        let types = |types: u16| ResourceType::ALL.into_iter().filter(move |of| types & bit(*of) != 0);
        Some(groups.iter().map(move |(group, mask)| (group, types(*mask).collect())))
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
        self.steps.push(Step {
            generation,
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
