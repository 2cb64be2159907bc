//! Stage 5, immutable versioned sets of encoded resources.
//!
//! One writer builds snapshot n+1 from n and a [`crate::resource::compile::Difference`], shares everything unchanged,
//! and swaps a pointer.
//!
//! | module | job |
//! |---|---|
//! | `set` | the resources of one type and group, in shared slabs |
//! | `version` | versions from content: equal documents give equal versions on every replica |
//! | `changes` | the difference between two sets, once for all streams |
//! | `selection`, `aliases` | members by a list of names, and by other names |
//! | `blocks` | encoded resources, shared by all streams |
//! | `store` | the pointer to the current snapshot |
//! | `steps` | the changes that snapshots took in, and the types that each altered |
//! | `trace` | the place of a publish in its trace |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

mod aliases;
pub mod blocks;
pub mod changes;
pub mod selection;
pub mod set;
pub mod steps;
pub mod store;
pub mod trace;
pub mod version;

use set::{Entry, ResourceSet};
use steps::{Cause, Mark, Marks, Steps};
use trace::Trace;

use crate::document::DEFAULT_GROUP;
use crate::document::group::Group;
use crate::resource::compile::{Difference, ResourceChange};
use crate::resource::{Resource, ResourceType};

/// The groups documents in force, in the order of matching: highest priority first, then by name.
pub type GroupRules = [(Arc<str>, Arc<Group>)];

/// The origin of a snapshot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Read from etcd.
    Etcd,
    /// Read from a directory.
    Directory,
    /// Read from memory (tests).
    Memory,
    /// The saved state of an earlier run; the backend has not answered yet.
    Disk,
}

impl Source {
    /// The word of `GET /api/v1/snapshot`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Directory => "directory",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// The resources of every group of proxies at one moment. Immutable.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts publishes of this process, from 1. 0: nothing was published yet, and streams wait.
    pub generation: u64,
    /// The revision of the documents root; for people, not a version.
    pub revision: i64,
    /// For each root, by its prefix, the revision up to which its changes are in the snapshot.
    pub revisions: Arc<BTreeMap<String, i64>>,
    /// The moment of building.
    pub built_at: SystemTime,
    /// The origin of the content.
    pub source: Source,
    /// Whether the snapshot may be older than what clients hold (docs/decisions/008): it is from disk, or the last
    /// quorum read is too old.
    pub stale: bool,
    /// Neither documents nor saved state exist: clients that report versions get no removals (`--allow-empty` off).
    pub withhold_removals: bool,
    /// By group name; `default` always exists once published.
    pub groups: BTreeMap<Arc<str>, Arc<GroupSnapshot>>,
    /// The rules that map a node to its group. One pointer holds the rules and the content, so that the two never
    /// disagree.
    pub group_rules: Arc<GroupRules>,
    /// The trace of the publish, and the parent of the span of each ACK; `None` if it is not traced.
    pub trace: Option<Trace>,
    /// The changes of documents, and the types that each altered.
    pub steps: Steps,
    /// The generation of the newest step that altered any resource.
    pub marked: u64,
}

/// The form of route configurations that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteForm {
    /// Virtual hosts may be resources of their own. If not, route configurations have all of them inline.
    pub vhds: bool,
    /// Policies may have secrets. If not, filters that refuse every request stand in place of those with secrets.
    pub secrets: bool,
}

impl RouteForm {
    /// All but the one in [`GroupSnapshot::sets`], in the order of [`RouteForm::index`].
    const DERIVED: [Self; 3] = [
        Self {
            vhds: false,
            secrets: true,
        },
        Self {
            vhds: true,
            secrets: false,
        },
        Self {
            vhds: false,
            secrets: false,
        },
    ];

    /// The place among the derived forms; `None`: the form in [`GroupSnapshot::sets`].
    fn index(self) -> Option<usize> {
        Self::DERIVED.iter().position(|form| *form == self)
    }

    /// Whether any member of a set differs in this form.
    fn alters(self, set: &ResourceSet) -> bool {
        (!self.vhds && set.has_wholes()) || (!self.secrets && set.has_withheld())
    }

    /// A member in this form.
    fn of(self, resource: Arc<Resource>) -> Arc<Resource> {
        let withheld = resource.withheld.as_ref().filter(|_| !self.secrets);
        let whole = resource.whole.as_ref().filter(|_| !self.vhds);
        withheld.or(whole).cloned().unwrap_or(resource)
    }
}

/// The resources of one group of proxies: a set a type.
#[derive(Debug, Clone)]
pub struct GroupSnapshot {
    /// The group.
    pub name: Arc<str>,
    /// By [`crate::resource::ResourceType::index`]. Unchanged sets are shared with the snapshot before.
    pub sets: [Arc<ResourceSet>; ResourceType::COUNT],
    /// The sets of route configurations in other forms, if any member differs from the one in `sets`.
    route_forms: [Option<Arc<ResourceSet>>; RouteForm::DERIVED.len()],
    /// The newest step that altered each type.
    marks: Marks,
}

impl GroupSnapshot {
    /// A group without resources.
    #[must_use]
    pub fn empty(name: Arc<str>) -> Self {
        let sets = ResourceType::ALL.map(|resource_type| Arc::new(ResourceSet::new(resource_type)));
        Self {
            name,
            sets,
            route_forms: Default::default(),
            marks: [Mark::NEVER; ResourceType::COUNT],
        }
    }

    /// The set of one type.
    #[must_use]
    pub fn set(&self, resource_type: ResourceType) -> &Arc<ResourceSet> {
        &self.sets[resource_type.index()]
    }

    /// The set of one type for clients that take route configurations in this form.
    #[must_use]
    pub fn set_in(&self, form: RouteForm, resource_type: ResourceType) -> &Arc<ResourceSet> {
        let index = form.index().filter(|_| resource_type == ResourceType::Route);
        let derived = index.and_then(|index| self.route_forms.get(index)?.as_ref());
        derived.unwrap_or_else(|| self.set(resource_type))
    }

    /// The types whose sets differ.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ResourceType> + 'a {
        let differs = move |of: &ResourceType| !Arc::ptr_eq(self.set(*of), other.set(*of));
        ResourceType::ALL.into_iter().filter(differs)
    }

    /// This group with its changes applied, which are sorted by type and name.
    fn apply(&self, changes: &[ResourceChange]) -> Self {
        let mut next = self.clone();
        for of_type in changes.chunk_by(|one, other| one.resource_type == other.resource_type) {
            let Some(index) = of_type.first().map(|change| change.resource_type.index()) else {
                continue;
            };
            let entries: Vec<Entry> = of_type
                .iter()
                .map(|change| (Arc::clone(&change.name), change.resource.clone()))
                .collect();
            next.sets[index] = Arc::new(self.sets[index].apply(&entries));
            if index == ResourceType::Route.index() {
                next.route_forms = RouteForm::DERIVED.map(|form| self.routes_in(form, &next.sets[index], &entries));
            }
        }
        next
    }

    /// The route configurations in a form, after the changes that led to the set `next`.
    fn routes_in(&self, form: RouteForm, next: &ResourceSet, changes: &[Entry]) -> Option<Arc<ResourceSet>> {
        if !form.alters(next) {
            return None;
        }
        let before = form.index().and_then(|index| self.route_forms.get(index)?.as_ref());
        let (before, changes) = match before {
            Some(before) => (Arc::clone(before), changes.to_vec()),
            None => {
                let all = next
                    .iter()
                    .map(|resource| (Arc::clone(&resource.name), Some(Arc::clone(resource))));
                (Arc::new(ResourceSet::new(ResourceType::Route)), all.collect())
            }
        };

        let entries: Vec<Entry> = changes
            .into_iter()
            .map(|(name, resource)| (name, resource.map(|resource| form.of(resource))))
            .collect();
        Some(Arc::new(before.apply(&entries)))
    }
}

/// Facts of the writer about a snapshot beside its resources.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The documents root's revision.
    pub revision: i64,
    /// See [`Snapshot::revisions`].
    pub revisions: Arc<BTreeMap<String, i64>>,
    /// The moment of building.
    pub built_at: SystemTime,
    /// The origin of the content.
    pub source: Source,
    /// See [`Snapshot::stale`].
    pub stale: bool,
    /// See [`Snapshot::withhold_removals`].
    pub withhold_removals: bool,
    /// See [`Snapshot::group_rules`]. Sorted by the caller.
    pub group_rules: Arc<GroupRules>,
    /// The changes of documents that led to the snapshot; `None`: there were none.
    pub cause: Option<Cause>,
}

#[cfg(test)]
impl Facts {
    /// The facts of a snapshot that follows another, for tests to which they do not matter.
    pub(crate) fn after(snapshot: &Snapshot) -> Self {
        Self {
            revision: 1,
            revisions: Arc::default(),
            built_at: SystemTime::UNIX_EPOCH,
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            group_rules: Arc::clone(&snapshot.group_rules),
            cause: None,
        }
    }
}

impl Snapshot {
    /// The content of the store before the first publish: generation 0, no groups.
    #[must_use]
    pub fn unpublished() -> Self {
        Self {
            generation: 0,
            revision: 0,
            revisions: Arc::default(),
            built_at: SystemTime::UNIX_EPOCH,
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            groups: BTreeMap::new(),
            group_rules: Arc::new([]),
            trace: None,
            steps: Steps::default(),
            marked: 0,
        }
    }

    /// The next snapshot: this one with a difference applied. Everything unchanged is shared.
    #[must_use]
    pub fn next(&self, difference: &Difference, facts: Facts) -> Self {
        let mut groups = self.groups.clone();
        for name in &difference.groups_removed {
            groups.remove(name);
        }

        let default = Arc::from(DEFAULT_GROUP);
        for name in difference.groups_added.iter().chain([&default]) {
            groups
                .entry(Arc::clone(name))
                .or_insert_with(|| Arc::new(GroupSnapshot::empty(Arc::clone(name))));
        }

        for of_group in difference.resources.chunk_by(|one, other| one.group == other.group) {
            if let Some(group) = of_group.first().and_then(|change| groups.get_mut(&change.group)) {
                *group = Arc::new(group.apply(of_group));
            }
        }

        let mut next = Self {
            generation: self.generation + 1,
            revision: facts.revision,
            revisions: facts.revisions,
            built_at: facts.built_at,
            source: facts.source,
            stale: facts.stale,
            withhold_removals: facts.withhold_removals,
            groups,
            // An equal list is kept: streams look for their group again only when the pointer changes.
            group_rules: if facts.group_rules == self.group_rules {
                Arc::clone(&self.group_rules)
            } else {
                facts.group_rules
            },
            trace: self.trace.clone(),
            steps: self.steps.clone(),
            marked: self.marked,
        };
        if let Some(cause) = &facts.cause {
            next.take_step(self, difference, cause);
        }
        next
    }

    /// One group; `default` if no group has the name. `None` only before the first publish.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Arc<GroupSnapshot>> {
        self.groups.get(name).or_else(|| self.groups.get(DEFAULT_GROUP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            revision: 7,
            revisions: Arc::default(),
            ..Facts::after(&Snapshot::unpublished())
        }
    }

    fn change(group: &str, resource_type: ResourceType, name: &str, body: Option<&'static [u8]>) -> ResourceChange {
        let resource = body.map(|body| Arc::new(Resource::new(name, body, Vec::new())));
        ResourceChange {
            group: group.into(),
            resource_type,
            name: name.into(),
            resource,
        }
    }

    #[test]
    fn the_next_snapshot_shares_every_unchanged_set() {
        let first = Difference {
            resources: vec![
                change("default", ResourceType::Cluster, "a", Some(b"1")),
                change("default", ResourceType::Route, "r", Some(b"1")),
                change("edge", ResourceType::Cluster, "a", Some(b"1")),
            ],
            groups_added: vec!["default".into(), "edge".into()],
            groups_removed: Vec::new(),
        };
        let one = Snapshot::unpublished().next(&first, facts());
        let second = Difference {
            resources: vec![change("default", ResourceType::Cluster, "a", None)],
            groups_added: Vec::new(),
            groups_removed: Vec::new(),
        };
        let two = one.next(&second, facts());
        assert_eq!((one.generation, two.generation, two.revision), (1, 2, 7));
        let (before, after) = (&one.groups["default"], &two.groups["default"]);
        assert!(Arc::ptr_eq(
            before.set(ResourceType::Route),
            after.set(ResourceType::Route)
        ));
        assert!(Arc::ptr_eq(&one.groups["edge"], &two.groups["edge"]));
        assert_eq!(
            (
                before.set(ResourceType::Cluster).len(),
                after.set(ResourceType::Cluster).len()
            ),
            (1, 0)
        );
    }

    #[test]
    fn the_default_group_exists_once_published() {
        let snapshot = Snapshot::unpublished();
        assert!(snapshot.group("edge").is_none());
        let published = snapshot.next(&Difference::default(), facts());
        assert_eq!(published.group("edge").map(|group| &*group.name), Some("default"));
    }

    #[test]
    fn a_removed_group_is_gone() {
        let added = Difference {
            groups_added: vec!["edge".into()],
            ..Difference::default()
        };
        let one = Snapshot::unpublished().next(&added, facts());
        let removed = Difference {
            groups_removed: vec!["edge".into()],
            ..Difference::default()
        };
        let two = one.next(&removed, facts());
        assert_eq!(two.groups.keys().map(|name| &**name).collect::<Vec<_>>(), ["default"]);
    }
}
