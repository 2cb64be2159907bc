//! The set of one resource type for one group: sorted by name, in slabs that versions of the set share.
//!
//! A slab is a run of neighbouring resources (16 to 64 KiB). It is encoded once, for every stream and for every later
//! set in which the slab did not change. A change copies one slab and a part of the persistent list of slabs, nothing
//! else. On-demand resources are members, found by name, but not part of the encoded wildcard set.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{OrdMap, Vector, vector};
use parking_lot::Mutex;

use super::aliases::Aliases;
use super::blocks::{self, Blocks, Shape};
use super::changes::{self, Change, Changes};
use super::selection::Selection;
use super::version::SetVersion;
use crate::resource::{Resource, ResourceType};

/// A slab larger than this is split.
const SLAB_MAX: usize = 64 * 1024;
/// The size of the parts of a split slab.
const SLAB_TARGET: usize = 32 * 1024;
/// A slab smaller than this is joined with a neighbour, if both fit into one.
const SLAB_MIN: usize = 8 * 1024;
/// Bytes of an encoded resource beside its name and its body: version, type URL, tags.
const OVERHEAD: usize = 120;

/// One entry of a difference: the name, and the resource; `None`: removed.
pub type Entry = (Arc<str>, Option<Arc<Resource>>);

/// An immutable set of resources of one type.
pub struct ResourceSet {
    resource_type: ResourceType,
    slabs: Vector<Arc<Slab>>,
    len: usize,
    wildcard_version: SetVersion,
    on_demand_version: SetVersion,
    aliases: Aliases,
    /// The number of members with a whole form for clients without VHDS.
    wholes: usize,
    /// The number of members with a form without secrets.
    withheld: usize,
    /// The number of clusters whose warming may never end.
    waiting: usize,
    /// Members with a time to live.
    timed: OrdMap<Arc<str>, Arc<Resource>>,
    /// Members with a reference through a source of its own.
    own_sources: OrdMap<Arc<str>, Arc<Resource>>,
    sotw: OnceLock<Blocks>,
    delta: OnceLock<Blocks>,
    selections: Made<Selection>,
    variants: Made<Self>,
    changes: changes::Cache,
}

/// Most selections that a set keeps.
const SELECTIONS_MAX: usize = 32;

/// Most variants that a set keeps.
const VARIANTS_MAX: usize = 8;

/// Values made of a set once for many streams, each under a key that stands for the way it is made.
type Made<T> = Mutex<VecDeque<(u128, Arc<OnceLock<Arc<T>>>)>>;

/// A run of neighbouring resources, sorted, never empty.
struct Slab {
    resources: Vec<Arc<Resource>>,
    size: usize,
    sotw: OnceLock<Blocks>,
    delta: OnceLock<Blocks>,
}

impl Slab {
    fn new(resources: Vec<Arc<Resource>>) -> Arc<Self> {
        let size = resources.iter().map(|resource| encoded_size(resource)).sum();
        Arc::new(Self {
            resources,
            size,
            sotw: OnceLock::new(),
            delta: OnceLock::new(),
        })
    }

    fn first(&self) -> &str {
        self.resources.first().map_or("", |resource| &resource.name)
    }

    fn blocks(&self, resource_type: ResourceType, shape: Shape) -> &Blocks {
        let cell = match shape {
            Shape::Sotw => &self.sotw,
            Shape::Delta => &self.delta,
        };
        let wildcard = || self.resources.iter().filter(|resource| !resource.on_demand);
        cell.get_or_init(|| blocks::encode(resource_type, shape, wildcard()))
    }
}

fn encoded_size(resource: &Resource) -> usize {
    resource.name.len() + resource.body.len() + OVERHEAD
}

/// The cell of a key, made if it is not there; of too many the oldest goes. The lock is not held while a cell is
/// filled.
fn cell<T>(kept: &Made<T>, key: u128, most: usize) -> Arc<OnceLock<Arc<T>>> {
    let mut kept = kept.lock();
    if let Some((_, cell)) = kept.iter().find(|(of, _)| *of == key) {
        return Arc::clone(cell);
    }
    if kept.len() == most {
        kept.pop_front();
    }
    let cell = Arc::default();
    kept.push_back((key, Arc::clone(&cell)));
    cell
}

impl ResourceSet {
    /// The empty set of a type.
    #[must_use]
    pub fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            slabs: Vector::new(),
            len: 0,
            wildcard_version: SetVersion::default(),
            on_demand_version: SetVersion::default(),
            aliases: Aliases::default(),
            wholes: 0,
            withheld: 0,
            waiting: 0,
            timed: OrdMap::new(),
            own_sources: OrdMap::new(),
            sotw: OnceLock::new(),
            delta: OnceLock::new(),
            selections: Made::default(),
            variants: Made::default(),
            changes: changes::Cache::default(),
        }
    }

    /// The type.
    #[must_use]
    pub fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    /// The version of the set: equal sets have equal versions, on every replica, whatever their history. On-demand
    /// members count, and count differently from others.
    #[must_use]
    pub fn version(&self) -> SetVersion {
        self.wildcard_version.with(self.on_demand_version)
    }

    /// The version of the wildcard set, without on-demand members.
    #[must_use]
    pub fn wildcard_version(&self) -> SetVersion {
        self.wildcard_version
    }

    /// The number of resources, on-demand ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        let slab = self.slabs.get(self.slab_of(name)?)?;
        let found = slab
            .resources
            .binary_search_by(|resource| (*resource.name).cmp(name))
            .ok()?;
        slab.resources.get(found)
    }

    /// The resource with this name or alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Resource>> {
        self.get(name).or_else(|| self.aliases.get(name))
    }

    /// Whether any member has an alias.
    #[must_use]
    pub fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// Whether any member has a whole form for clients without VHDS.
    #[must_use]
    pub fn has_wholes(&self) -> bool {
        self.wholes > 0
    }

    /// Whether any member has a form without secrets.
    #[must_use]
    pub fn has_withheld(&self) -> bool {
        self.withheld > 0
    }

    /// Whether Envoy waits for something that may never come before it uses a member.
    #[must_use]
    pub fn has_waits(&self) -> bool {
        self.waiting > 0
    }

    /// Members with a time to live, sorted by name.
    pub fn timed(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.timed.values()
    }

    /// Members with a reference through a source of its own, sorted by name.
    pub fn own_sources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.own_sources.values()
    }

    /// Members whose names begin with `prefix`, sorted by name.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        let slabs = self.slab_of(prefix).unwrap_or_default()..self.slabs.len();
        let members = slabs
            .filter_map(|index| self.slabs.get(index))
            .flat_map(|slab| &slab.resources);
        members
            .skip_while(move |one| *one.name < *prefix)
            .take_while(move |one| one.name.starts_with(prefix))
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.slabs.iter().flat_map(|slab| &slab.resources)
    }

    /// The encoded wildcard set: built once for all streams, slab by slab; unchanged slabs are shared with older sets.
    #[must_use]
    pub fn wildcard(&self, shape: Shape) -> &Blocks {
        let cell = match shape {
            Shape::Sotw => &self.sotw,
            Shape::Delta => &self.delta,
        };
        cell.get_or_init(|| Blocks::concat(self.slabs.iter().map(|slab| slab.blocks(self.resource_type, shape))))
    }

    /// The members with these names, found once for all streams with the same `key`, which stands for the list. `names`
    /// are sorted and unique.
    #[must_use]
    pub fn select<'a>(&self, key: u128, names: impl Iterator<Item = &'a Arc<str>>) -> Arc<Selection> {
        let cell = cell(&self.selections, key, SELECTIONS_MAX);
        Arc::clone(cell.get_or_init(|| Arc::new(self.selection(names))))
    }

    fn selection<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) -> Selection {
        let (mut members, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match self.get(name) {
                Some(member) => members.push(Arc::clone(member)),
                None => missing.push(Arc::clone(name)),
            }
        }
        Selection::new(self.resource_type, members, missing)
    }

    /// This set with some members in another form, made once for all streams with the same `key`, which stands for the
    /// form. `entries` are as in [`ResourceSet::apply`].
    #[must_use]
    pub fn variant(&self, key: u128, entries: impl FnOnce() -> Vec<Entry>) -> Arc<Self> {
        let cell = cell(&self.variants, key, VARIANTS_MAX);
        Arc::clone(cell.get_or_init(|| Arc::new(self.apply(&entries()))))
    }

    /// This set with some members replaced, added or removed. `entries` are sorted by name and unique; a slab without
    /// any of them is shared.
    #[must_use]
    pub fn apply(&self, entries: &[Entry]) -> Self {
        let mut next = Self {
            wildcard_version: self.wildcard_version,
            on_demand_version: self.on_demand_version,
            aliases: self.aliases.clone(),
            wholes: self.wholes,
            withheld: self.withheld,
            waiting: self.waiting,
            timed: self.timed.clone(),
            own_sources: self.own_sources.clone(),
            len: self.len,
            slabs: self.slabs.clone(),
            ..Self::new(self.resource_type)
        };

        if entries.len() > self.slabs.len() / 8 {
            next.apply_to_all(entries);
        } else {
            next.apply_to_some(entries);
        }

        next
    }

    /// Many entries: one walk over all slabs.
    fn apply_to_all(&mut self, entries: &[Entry]) {
        let old = std::mem::take(&mut self.slabs);
        let mut rest = entries;
        let mut slabs = Slabs::default();
        let mut following = old.iter().skip(1);
        for slab in &old {
            let end = following.next().map(|next| next.first());
            let count = end.map_or(rest.len(), |end| rest.partition_point(|(name, _)| **name < *end));
            let (here, later) = rest.split_at(count);
            rest = later;
            if here.is_empty() {
                slabs.push_shared(slab);
            } else {
                slabs.push_changed(self.merge(&slab.resources, here));
            }
        }

        if !rest.is_empty() {
            slabs.push_changed(self.merge(&[], rest));
        }
        self.slabs = slabs.0.into_iter().collect();
    }

    /// Few entries: only the slabs with their names, from the last to the first, so that earlier indexes stay valid.
    fn apply_to_some(&mut self, entries: &[Entry]) {
        let mut rest = entries;
        while let Some((last, _)) = rest.last() {
            let index = self.slab_of(last).unwrap_or_default();
            let Some(slab) = self.slabs.get(index).cloned() else {
                return self.apply_to_all(rest);
            };
            // Names before the first slab belong to it.
            let begin = if index == 0 {
                0
            } else {
                rest.partition_point(|(name, _)| **name < *slab.first())
            };
            let (before, here) = rest.split_at(begin);
            rest = before;
            let merged = self.merge(&slab.resources, here);
            self.replace(index, merged);
        }
    }

    /// Replace one slab by these resources, joined with a neighbour or split if the size requires.
    fn replace(&mut self, index: usize, resources: Vec<Arc<Resource>>) {
        let neighbours = [index.checked_sub(1), Some(index + 1)].into_iter().flatten();
        let size: usize = resources.iter().map(|resource| encoded_size(resource)).sum();
        let fits = |other: &usize| {
            let other = self.slabs.get(*other);
            other.is_some_and(|other| other.size.min(size) < SLAB_MIN && other.size + size <= SLAB_MAX)
        };

        let Some(neighbour) = neighbours.into_iter().find(fits).filter(|_| !resources.is_empty()) else {
            let mut slabs = Slabs::default();
            slabs.push_changed(resources);
            match slabs.0.pop() {
                Some(last) => drop(self.slabs.set(index, last)),
                None => drop(self.slabs.remove(index)),
            }
            for slab in slabs.0.into_iter().rev() {
                self.slabs.insert(index, slab);
            }
            return;
        };

        let other = self.slabs[neighbour].resources.iter().cloned();
        let joined = match neighbour < index {
            true => other.chain(resources).collect(),
            false => resources.into_iter().chain(other).collect(),
        };

        self.slabs.set(neighbour, Slab::new(joined));
        self.slabs.remove(index);
    }

    /// The resources of one slab with its entries applied; updates the count and the versions.
    fn merge(&mut self, resources: &[Arc<Resource>], entries: &[Entry]) -> Vec<Arc<Resource>> {
        let mut merged = Vec::with_capacity(resources.len() + entries.len());
        let mut old = resources.iter().peekable();
        for (name, new) in entries {
            while let Some(resource) = old.next_if(|resource| *resource.name < **name) {
                merged.push(Arc::clone(resource));
            }
            if let Some(replaced) = old.next_if(|resource| *resource.name == **name) {
                self.count(replaced, false);
            }
            if let Some(resource) = new {
                self.count(resource, true);
                merged.push(Arc::clone(resource));
            }
        }
        merged.extend(old.cloned());
        merged
    }

    fn count(&mut self, resource: &Arc<Resource>, added: bool) {
        let wholes = usize::from(resource.whole.is_some());
        let withheld = usize::from(resource.withheld.is_some());
        let waiting = usize::from(resource.waits.is_some());
        if added {
            self.aliases.add(resource);
            self.wholes += wholes;
            self.withheld += withheld;
            self.waiting += waiting;
        } else {
            self.aliases.remove(resource);
            self.wholes -= wholes;
            self.withheld -= withheld;
            self.waiting -= waiting;
            self.timed.remove(&resource.name);
            self.own_sources.remove(&resource.name);
        }

        if added && resource.ttl.is_some() {
            self.timed.insert(Arc::clone(&resource.name), Arc::clone(resource));
        }

        if added && resource.has_own_source() {
            self.own_sources
                .insert(Arc::clone(&resource.name), Arc::clone(resource));
        }

        let (sum, member) = if resource.on_demand {
            // An on-demand member adds another share than the same resource in the wildcard set: the two sets differ.
            let member = SetVersion::of_member(
                "on demand",
                crate::resource::ResourceVersion(SetVersion::of(resource).0),
            );
            (&mut self.on_demand_version, member)
        } else {
            (&mut self.wildcard_version, SetVersion::of(resource))
        };

        if added {
            *sum = sum.with(member);
            self.len += 1;
        } else {
            *sum = sum.without(member);
            self.len -= 1;
        }
    }

    /// The index of the slab that would have the name; `None` if the name is before the first slab.
    fn slab_of(&self, name: &str) -> Option<usize> {
        let later = |slab: &Arc<Slab>| {
            if slab.first() <= name {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        };
        self.slabs
            .binary_search_by(later)
            .unwrap_or_else(|index| index)
            .checked_sub(1)
    }

    /// The differences between an older set and this one. The cost is that of the slabs which the two do not share; the
    /// result is computed once for all streams.
    #[must_use]
    pub fn changes_since(&self, old: &Self) -> Arc<Changes> {
        let compute = || {
            let mut entries = Vec::new();
            if old.version() != self.version() {
                old.walk_differences(self, |old, new| {
                    entries.push(Change {
                        old: old.cloned(),
                        new: new.cloned(),
                    });
                });
            }
            Arc::new(Changes::new(self.resource_type, entries))
        };
        Arc::clone(self.changes.cell(old.version()).get_or_init(compute))
    }

    /// Walk this set and a newer one together: `found` gets each member that differs, sorted by name. Shared slabs are
    /// skipped.
    fn walk_differences(&self, newer: &Self, mut found: impl FnMut(Option<&Arc<Resource>>, Option<&Arc<Resource>>)) {
        let (mut old, mut new) = (Cursor::new(&self.slabs), Cursor::new(&newer.slabs));
        loop {
            if old.skip_shared(&mut new) {
                continue;
            }
            match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(gone), None) => {
                    found(Some(gone), None);
                    old.advance();
                }
                (None, Some(added)) => {
                    found(None, Some(added));
                    new.advance();
                }
                (Some(before), Some(after)) => match before.name.cmp(&after.name) {
                    Ordering::Less => {
                        found(Some(before), None);
                        old.advance();
                    }
                    Ordering::Greater => {
                        found(None, Some(after));
                        new.advance();
                    }
                    Ordering::Equal => {
                        let same = before.version == after.version && before.on_demand == after.on_demand;
                        if !Arc::ptr_eq(before, after) && !same {
                            found(Some(before), Some(after));
                        }
                        old.advance();
                        new.advance();
                    }
                },
            }
        }
    }
}

impl fmt::Debug for ResourceSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ResourceSet")
            .field("resource_type", &self.resource_type)
            .field("version", &self.version())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The list of slabs under construction: changed slabs are split or joined, unchanged ones are shared.
#[derive(Default)]
struct Slabs(Vec<Arc<Slab>>);

impl Slabs {
    fn push_shared(&mut self, slab: &Arc<Slab>) {
        match self.0.last() {
            Some(last) if last.size < SLAB_MIN && last.size + slab.size <= SLAB_MAX => {
                let joined = last.resources.iter().chain(&slab.resources).cloned().collect();
                self.0.pop();
                self.0.push(Slab::new(joined));
            }
            _ => self.0.push(Arc::clone(slab)),
        }
    }

    fn push_changed(&mut self, resources: Vec<Arc<Resource>>) {
        let size: usize = resources.iter().map(|resource| encoded_size(resource)).sum();
        let mut run = Vec::new();
        match self.0.last() {
            Some(last) if last.size.min(size) < SLAB_MIN && last.size + size <= SLAB_MAX => {
                run.clone_from(&last.resources);
                self.0.pop();
            }
            _ => {}
        }

        let limit = if size <= SLAB_MAX { usize::MAX } else { SLAB_TARGET };
        let mut run_size = 0;
        for resource in resources {
            run_size += encoded_size(&resource);
            run.push(resource);
            if run_size >= limit {
                self.0.push(Slab::new(std::mem::take(&mut run)));
                run_size = 0;
            }
        }

        if !run.is_empty() {
            self.0.push(Slab::new(run));
        }
    }
}

/// A position in a list of slabs.
struct Cursor<'a> {
    slab: Option<&'a Arc<Slab>>,
    position: usize,
    later: vector::Iter<'a, Arc<Slab>, DefaultSharedPtr>,
}

impl<'a> Cursor<'a> {
    fn new(slabs: &'a Vector<Arc<Slab>>) -> Self {
        let mut later = slabs.iter();
        Self {
            slab: later.next(),
            position: 0,
            later,
        }
    }

    fn peek(&self) -> Option<&'a Arc<Resource>> {
        self.slab?.resources.get(self.position)
    }

    fn advance(&mut self) {
        self.position += 1;
        if self.slab.is_some_and(|slab| self.position >= slab.resources.len()) {
            self.next_slab();
        }
    }

    fn next_slab(&mut self) {
        self.slab = self.later.next();
        self.position = 0;
    }

    /// If both cursors are at the start of a shared slab, move both past it.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let shared = self.position == 0
            && other.position == 0
            && matches!((self.slab, other.slab), (Some(own), Some(theirs)) if Arc::ptr_eq(own, theirs));
        if shared {
            self.next_slab();
            other.next_slab();
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<String, (u8, bool, usize)>;
    type Step = Vec<(String, Option<(u8, bool, usize)>)>;

    fn resource(name: &str, content: u8, on_demand: bool, len: usize) -> Arc<Resource> {
        Arc::new(Resource {
            on_demand,
            ..Resource::new(name, vec![content; len], Vec::new())
        })
    }

    fn apply(set: &ResourceSet, model: &mut Model, step: Step) -> ResourceSet {
        let step: BTreeMap<_, _> = step.into_iter().collect();
        let entries: Vec<Entry> = step
            .iter()
            .map(|(name, new)| {
                let new = new.map(|(content, on_demand, len)| resource(name, content, on_demand, len));
                (Arc::from(&**name), new)
            })
            .collect();
        for (name, new) in step {
            match new {
                Some(new) => drop(model.insert(name, new)),
                None => drop(model.remove(&name)),
            }
        }
        set.apply(&entries)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let content = proptest::option::weighted(0.7, (0..3_u8, proptest::bool::weighted(0.2), 1..9000_usize));
        let change = ("[a-d][a-e]{0,2}", content);
        let many = proptest::collection::vec(change.clone(), 0..40);
        let few = proptest::collection::vec(change, 0..3);
        proptest::collection::vec(prop_oneof![many, few], 1..12)
    }

    fn seen(set: &ResourceSet) -> Vec<(String, u8, bool, usize)> {
        set.iter()
            .map(|one| {
                (
                    one.name.to_string(),
                    one.body.to_bytes()[0],
                    one.on_demand,
                    one.body.len(),
                )
            })
            .collect()
    }

    fn expected(model: &Model) -> Vec<(String, u8, bool, usize)> {
        model
            .iter()
            .map(|(name, &(content, on_demand, len))| (name.clone(), content, on_demand, len))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_set_equals_the_map_with_the_same_history(steps in steps()) {
            let mut model = Model::new();
            let mut set = ResourceSet::new(ResourceType::Cluster);
            for step in steps {
                set = apply(&set, &mut model, step);
                prop_assert_eq!(seen(&set), expected(&model));
                prop_assert_eq!(set.len(), model.len());
                for name in model.keys() {
                    prop_assert_eq!(set.get(name).map(|one| one.name.to_string()), Some(name.clone()));
                }
                prop_assert!(set.get("zz").is_none());
                prop_assert!(set.slabs.iter().all(|slab| !slab.resources.is_empty()));
                let encoded: usize = set.wildcard(Shape::Delta).len();
                let wildcard = set.iter().filter(|one| !one.on_demand);
                let whole = blocks::encode(ResourceType::Cluster, Shape::Delta, wildcard);
                prop_assert_eq!(encoded, whole.len());
                prop_assert_eq!(set.wildcard(Shape::Delta).pieces().concat(), whole.pieces().concat());
            }
        }

        #[test]
        fn the_version_ignores_history(steps in steps()) {
            let mut model = Model::new();
            let mut set = ResourceSet::new(ResourceType::Cluster);
            for step in steps {
                set = apply(&set, &mut model, step);
            }
            let at_once: Step = model.clone().into_iter().map(|(name, new)| (name, Some(new))).collect();
            let other = apply(&ResourceSet::new(ResourceType::Cluster), &mut Model::new(), at_once);
            prop_assert_eq!(set.version(), other.version());
            prop_assert_eq!(set.wildcard_version(), other.wildcard_version());
        }

        #[test]
        fn changes_equal_the_difference_of_the_maps(first in steps(), then in steps()) {
            let mut model = Model::new();
            let mut set = ResourceSet::new(ResourceType::Cluster);
            for step in first {
                set = apply(&set, &mut model, step);
            }
            let (old, old_model) = (Arc::new(set), model.clone());
            let mut set = old.apply(&[]);
            for step in then {
                set = apply(&set, &mut model, step);
            }
            let new = Arc::new(set);
            let names: std::collections::BTreeSet<_> = old_model.keys().chain(model.keys()).cloned().collect();
            let differing: Vec<_> = names.into_iter().filter(|name| old_model.get(name) != model.get(name)).collect();
            let changes = new.changes_since(&old);
            let seen: Vec<_> = changes.entries().iter().map(|change| change.name().to_string()).collect();
            prop_assert_eq!(seen, differing);
            prop_assert!(Arc::ptr_eq(&changes, &new.changes_since(&old)));
        }
    }

    #[test]
    fn a_change_shares_every_slab_but_one() {
        let entries: Vec<Entry> = (0..1000)
            .map(|number| {
                let name = format!("cluster-{number:04}");
                (Arc::from(&*name), Some(resource(&name, 1, false, 500)))
            })
            .collect();
        let set = ResourceSet::new(ResourceType::Cluster).apply(&entries);
        assert!(set.slabs.len() > 10, "{} slabs", set.slabs.len());
        let changed = set.apply(&[("cluster-0500".into(), Some(resource("cluster-0500", 2, false, 500)))]);
        let own = changed
            .slabs
            .iter()
            .filter(|slab| !set.slabs.iter().any(|old| Arc::ptr_eq(old, slab)))
            .count();
        assert_eq!((own, changed.slabs.len()), (1, set.slabs.len()));
    }

    #[test]
    fn an_on_demand_member_is_found_by_name_and_not_part_of_the_wildcard_set() {
        let plain = ResourceSet::new(ResourceType::Cluster).apply(&[("a".into(), Some(resource("a", 1, false, 5)))]);
        let set = plain.apply(&[("b".into(), Some(resource("b", 1, true, 5)))]);
        assert_eq!(set.get("b").map(|one| one.on_demand), Some(true));
        assert_eq!(set.wildcard_version(), plain.wildcard_version());
        assert_ne!(set.version(), plain.version());
        assert_eq!(set.wildcard(Shape::Sotw).len(), plain.wildcard(Shape::Sotw).len());
        let other = plain.apply(&[("b".into(), Some(resource("b", 1, false, 5)))]);
        assert_ne!(set.version(), other.version());
    }

    #[test]
    fn a_member_is_found_by_what_it_goes_by_and_by_what_its_name_begins_with() {
        let by = |name: &str, aliases: &[&str]| {
            let aliases = aliases.iter().map(|alias| Arc::from(*alias)).collect();
            Some(Arc::new(
                Resource::new(name, vec![1; 20_000], Vec::new()).wrapped(aliases, None),
            ))
        };
        let entries: Vec<Entry> = vec![
            ("r0/z".into(), by("r0/z", &[])),
            ("r1/x".into(), by("r1/x", &["r1/a", "r1/b"])),
            ("r1/y".into(), by("r1/y", &["r1/a"])),
            ("r1/z".into(), by("r1/z", &[])),
            ("r10/z".into(), by("r10/z", &[])),
            ("xdstp://a/t/n?b=1&a=2".into(), by("xdstp://a/t/n?b=1&a=2", &[])),
        ];
        let set = ResourceSet::new(ResourceType::VirtualHost).apply(&entries);
        let found = |set: &ResourceSet, name: &str| set.find(name).map(|one| one.name.to_string());
        assert!(set.slabs.len() > 1);
        assert_eq!(found(&set, "r1/a").as_deref(), Some("r1/x"));
        assert_eq!(
            found(&set, "xdstp://a/t/n?a=2&b=1").as_deref(),
            Some("xdstp://a/t/n?b=1&a=2")
        );
        let below = |prefix: &str| set.below(prefix).map(|one| one.name.to_string()).collect::<Vec<_>>();
        assert_eq!(below("r1/"), ["r1/x", "r1/y", "r1/z"]);
        assert_eq!((below("r2/").len(), below("a").len(), below("r").len()), (0, 0, 5));
        let set = set.apply(&[("r1/x".into(), by("r1/x", &["r1/c"]))]);
        assert_eq!(found(&set, "r1/a").as_deref(), Some("r1/y"));
        assert_eq!(
            (found(&set, "r1/b"), found(&set, "r1/c").as_deref()),
            (None, Some("r1/x"))
        );
        let set = set.apply(&["r1/x", "r1/y", "xdstp://a/t/n?b=1&a=2"].map(|name| (name.into(), None)));
        assert!(!set.has_aliases() && set.find("r1/a").is_none());
    }
}
