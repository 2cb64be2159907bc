//! The published content: a ring of snapshots, and the same content as small tables for the model.
//!
//! There are two groups, eight types, six names a type, one byte of content. The content determines the references of a
//! resource, so a table of bytes is a whole configuration. In every published one all references resolve (for endpoints
//! and secrets mostly). Each moment has two snapshots: the writer's, made from the previous one, and that of another
//! replica, built from nothing. Some contents are bad: a client NACKs them whenever they come.

use std::sync::{Arc, LazyLock, OnceLock};

use crate::document::group::{Group, NodeMatch};
use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::parts::{Part, Parts};
use crate::resource::compile::{Difference, ResourceChange};
use crate::resource::{Resource, ResourceType};
use crate::snapshot::{Facts, GroupRules, Snapshot};
use crate::xds::session::subscription::names::Interner;

/// VHDS has names of another kind and its own tests.
pub(super) const TYPES: usize = 8;
pub(super) const NAMES: usize = 6;
pub(super) const RUNTIME: usize = ResourceType::Runtime as usize;
pub(super) const CLUSTER: usize = ResourceType::Cluster as usize;
pub(super) const ENDPOINT: usize = ResourceType::Endpoint as usize;
pub(super) const SECRET: usize = ResourceType::Secret as usize;
pub(super) const EXTENSION: usize = ResourceType::ExtensionConfig as usize;
pub(super) const LISTENER: usize = ResourceType::Listener as usize;
pub(super) const SCOPED: usize = ResourceType::ScopedRoute as usize;
pub(super) const ROUTE: usize = ResourceType::Route as usize;

/// A client NACKs contents with this bit.
pub(super) const BAD: u8 = 0x80;
/// The only resource that no wildcard covers.
pub(super) const ON_DEMAND: (usize, usize) = (CLUSTER, 5);

/// The resources of one type by name; 0: missing.
pub(super) type Contents = [u8; NAMES];
/// All resources of a group.
pub(super) type Catalog = [Contents; TYPES];

const LETTERS: [&str; NAMES] = ["A", "B", "C", "D", "E", "F"];

pub(super) fn letter(name: usize) -> &'static str {
    LETTERS[name]
}

/// The name that a byte spells.
pub(super) fn of_letter(byte: u8) -> Option<usize> {
    LETTERS.iter().position(|letter| letter.as_bytes() == [byte])
}

/// A message whose first field is its name, as in most resources, followed by content.
fn body(name: usize, content: u8) -> Vec<u8> {
    vec![0x0a, 1, LETTERS[name].as_bytes()[0], content]
}

/// Versions on the wire by name and content, the same for all types.
static VERSIONS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let of = |name, content| crate::resource::ResourceVersion::of(&body(name, content)).to_string();
    (0..NAMES)
        .map(|name| (0..=u8::MAX).map(|content| of(name, content)).collect())
        .collect()
});

pub(super) fn version(name: usize, content: u8) -> &'static str {
    &VERSIONS[name][usize::from(content)]
}

/// The references of a resource: type and name.
pub(super) fn refers(of: usize, name: usize, content: u8) -> [Option<(usize, usize)>; 2] {
    let number = usize::from(content & !BAD).saturating_sub(1);
    match of {
        CLUSTER => {
            let endpoints = if number & 2 == 0 { name } else { 0 };
            [
                (number & 1 == 0).then_some((ENDPOINT, endpoints)),
                (number & 4 != 0).then_some((SECRET, number / 8 % NAMES)),
            ]
        }
        LISTENER => {
            let to = if number & 1 == 0 { ROUTE } else { CLUSTER };
            [
                Some((to, number / 2 % NAMES)),
                (number & 16 != 0).then_some((EXTENSION, name)),
            ]
        }
        SCOPED => [Some((ROUTE, number % NAMES)), None],
        ROUTE => [Some((CLUSTER, number % NAMES)), Some((CLUSTER, number / NAMES % NAMES))],
        _ => [None, None],
    }
}

/// The types whose resources may refer to one of a type.
pub(super) fn referrers(of: usize) -> &'static [usize] {
    match of {
        CLUSTER => &[LISTENER, ROUTE],
        ENDPOINT => &[CLUSTER],
        SECRET => &[CLUSTER],
        EXTENSION => &[LISTENER],
        ROUTE => &[LISTENER, SCOPED],
        _ => &[],
    }
}

/// A fast generator (`SplitMix64`): in a debug build, most others take longer than the code under test.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.word() >> 33) as usize % limit
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn content(&mut self) -> u8 {
        let good = 1 + self.below(36) as u8;
        if self.chance(3) { good | BAD } else { good }
    }
}

/// The published content at one moment.
pub(super) struct Moment {
    /// By group: `default`, `edge`.
    pub(super) groups: [Catalog; 2],
    /// Whether every client belongs to `edge`.
    pub(super) everybody_moved: bool,
    snapshot: Snapshot,
    replica: OnceLock<Snapshot>,
}

pub(super) struct World {
    pub(super) moments: Vec<Moment>,
    pub(super) interner: Arc<Interner>,
}

/// Whether `edge` is for clients of the cluster `edge`, or for every client.
fn rules(everybody: bool) -> Arc<GroupRules> {
    let matches = NodeMatch {
        cluster: Some(if everybody { "*" } else { "edge" }.to_owned()),
        ..NodeMatch::default()
    };
    Arc::new([(
        "edge".into(),
        Arc::new(Group {
            matches: vec![matches],
            priority: 0,
        }),
    )])
}

impl World {
    pub(super) fn new(seed: u64, length: usize) -> Self {
        let mut random = Random(seed);
        let by_cluster = rules(false);
        let moved = rules(true);
        let mut groups = [[[0; NAMES]; TYPES]; 2];
        let mut snapshot = Snapshot::unpublished();
        let mut moments = Vec::with_capacity(length);
        for _ in 0..length {
            let before = groups;
            let filling = moments.is_empty();
            for catalog in &mut groups {
                for _ in 0..if filling { 24 } else { random.below(4) } {
                    change(catalog, &mut random);
                }
                complete(catalog, &mut random);
            }
            let everybody_moved = random.chance(10);
            let rules = if everybody_moved { &moved } else { &by_cluster };
            snapshot = next(&snapshot, &before, &groups, rules);
            moments.push(Moment {
                groups,
                everybody_moved,
                snapshot: snapshot.clone(),
                replica: OnceLock::new(),
            });
        }
        Self {
            moments,
            interner: Arc::default(),
        }
    }
}

impl Moment {
    /// The snapshot of one replica or the other.
    pub(super) fn snapshot(&self, other_replica: bool) -> &Snapshot {
        if !other_replica {
            return &self.snapshot;
        }
        self.replica.get_or_init(|| {
            let nothing = [[[0; NAMES]; TYPES]; 2];
            next(
                &Snapshot::unpublished(),
                &nothing,
                &self.groups,
                &rules(self.everybody_moved),
            )
        })
    }
}

fn next(snapshot: &Snapshot, before: &[Catalog; 2], after: &[Catalog; 2], rules: &Arc<GroupRules>) -> Snapshot {
    let mut resources = Vec::new();
    for (group, group_name) in ["default", "edge"].into_iter().enumerate() {
        for of in 0..TYPES {
            for name in (0..NAMES).filter(|name| before[group][of][*name] != after[group][of][*name]) {
                let content = after[group][of][name];
                resources.push(ResourceChange {
                    group: group_name.into(),
                    resource_type: ResourceType::ALL[of],
                    name: LETTERS[name].into(),
                    resource: (content != 0).then(|| resource(of, name, content)),
                });
            }
        }
    }
    let difference = Difference {
        resources,
        groups_added: vec!["edge".into()],
        groups_removed: Vec::new(),
    };
    snapshot.next(
        &difference,
        Facts {
            group_rules: Arc::clone(rules),
            ..Facts::after(snapshot)
        },
    )
}

fn resource(of: usize, name: usize, content: u8) -> Arc<Resource> {
    let mut resource = Resource::new(LETTERS[name], body(name, content), Vec::new());
    match of {
        CLUSTER => {
            resource.warms = refers(of, name, content)[0].map(|(_, endpoints)| LETTERS[endpoints].into());
            resource.on_demand = (of, name) == ON_DEMAND;
        }
        LISTENER | ROUTE => resource.parts = Some(Arc::new(parts(of, name, content))),
        _ => {}
    }
    Arc::new(resource)
}

/// The one document of a resource, with the clusters that it names.
fn parts(of: usize, name: usize, content: u8) -> Parts {
    let named = refers(of, name, content)
        .into_iter()
        .flatten()
        .filter(|(to, _)| *to == CLUSTER);
    let mut upstreams: Vec<Arc<str>> = named.map(|(_, cluster)| LETTERS[cluster].into()).collect();
    upstreams.sort_unstable();
    upstreams.dedup();
    let part = Part {
        revision: i64::from(content),
        upstreams: upstreams.into(),
    };
    std::iter::once((DocumentKey::new(Kind::Routes, LETTERS[name]), part)).collect()
}

/// One edit of an operator: a resource is added, changed, removed or renamed.
fn change(catalog: &mut Catalog, random: &mut Random) {
    let of = [
        CLUSTER, CLUSTER, CLUSTER, ENDPOINT, ENDPOINT, LISTENER, ROUTE, ROUTE, SECRET, EXTENSION, SCOPED, RUNTIME,
    ][random.below(12)];
    let name = random.below(NAMES);
    match random.below(8) {
        0..=4 => catalog[of][name] = random.content(),
        5 => {
            let to = random.below(NAMES);
            if catalog[of][name] != 0 && catalog[of][to] == 0 {
                catalog[of][to] = catalog[of][name];
                remove(catalog, of, name, random);
            }
        }
        _ => remove(catalog, of, name, random),
    }
}

/// Remove a resource; the resources that refer to it refer to another one from now on.
fn remove(catalog: &mut Catalog, of: usize, name: usize, random: &mut Random) {
    catalog[of][name] = 0;
    for referrer in referrers(of) {
        for other in 0..NAMES {
            let mut tries = 0;
            while catalog[*referrer][other] != 0
                && refers(*referrer, other, catalog[*referrer][other]).contains(&Some((of, name)))
            {
                catalog[*referrer][other] = if tries < 8 { random.content() } else { 0 };
                tries += 1;
            }
        }
    }
}

/// Add missing referred resources; of endpoints, secrets and extensions most.
fn complete(catalog: &mut Catalog, random: &mut Random) {
    for of in [SCOPED, LISTENER, ROUTE, CLUSTER] {
        for name in 0..NAMES {
            if catalog[of][name] == 0 {
                continue;
            }
            for (to, missing) in refers(of, name, catalog[of][name]).into_iter().flatten() {
                if catalog[to][missing] == 0 && (matches!(to, CLUSTER | ROUTE) || random.chance(80)) {
                    catalog[to][missing] = random.content();
                }
            }
        }
    }
}
