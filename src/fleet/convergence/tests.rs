//! Random lives of proxies against a model that looks at every proxy and every change.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::document::key::{DocumentKey, Kind};
use crate::fleet::{Fleet, Identity, Nonce, Sent, StreamHandle, Suspects};
use crate::resource::Resource;
use crate::resource::compile::{Difference, ResourceChange};
use crate::snapshot::Facts;
use crate::snapshot::steps::Cause;
use crate::snapshot::version::SetVersion;

const GROUPS: [&str; 2] = ["default", "edge"];
const TYPES: [ResourceType; 3] = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Route];

/// A small generator of numbers: the lives are always the same ones.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// One stream of the model.
struct Modelled {
    handle: StreamHandle,
    node: String,
    is_aggregated: bool,
    group: &'static str,
    /// The generation of the newest acknowledged response of each type, and whether a NACK followed.
    types: BTreeMap<ResourceType, (u64, bool)>,
}

/// A change of a type of a group.
struct Alteration {
    generation: u64,
    first: i64,
    group: &'static str,
    resource_type: ResourceType,
}

struct World {
    fleet: Fleet,
    snapshot: Snapshot,
    revision: i64,
    streams: Vec<Modelled>,
    alterations: Vec<Alteration>,
    dice: Dice,
    content: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            fleet: Fleet::default(),
            snapshot: Snapshot::unpublished(),
            revision: 0,
            streams: Vec::new(),
            alterations: Vec::new(),
            dice: Dice(seed),
            content: 0,
        }
    }

    /// Publish changes of documents, or of registrations alone.
    fn publish(&mut self, by_documents: bool) {
        let mut altered = BTreeSet::new();
        for _ in 0..=self.dice.below(2) {
            let of = if by_documents {
                self.dice.of(&TYPES)
            } else {
                ResourceType::Endpoint
            };
            altered.insert((self.dice.of(&GROUPS), of));
        }
        self.content += 1;
        let body = self.content.to_string();
        let document = DocumentKey::new(Kind::Clusters, "a");
        let resources = altered.iter().map(|(group, resource_type)| ResourceChange {
            group: (*group).into(),
            resource_type: *resource_type,
            name: "a".into(),
            resource: Some(Arc::new(Resource::new("a", body.clone(), vec![document.clone()]))),
        });
        let first = self.revision + 1;
        let cause = by_documents.then(|| {
            self.revision += 1 + i64::try_from(self.dice.below(3)).unwrap();
            Cause {
                revisions: (first..=self.revision).collect(),
                documents: Some([document.clone()].into()),
            }
        });
        let difference = Difference {
            resources: resources.collect(),
            groups_added: GROUPS.iter().map(|group| Arc::from(*group)).collect(),
            groups_removed: Vec::new(),
        };
        let facts = Facts {
            revision: self.revision,
            built_at: SystemTime::now(),
            cause,
            ..Facts::after(&self.snapshot)
        };
        self.snapshot = self.snapshot.next(&difference, facts);
        let generation = self.snapshot.generation;
        if by_documents {
            self.alterations
                .extend(altered.into_iter().map(|(group, resource_type)| Alteration {
                    generation,
                    first,
                    group,
                    resource_type,
                }));
        }
    }

    fn connect(&mut self) {
        let (node, is_aggregated) = (format!("n{}", self.dice.below(6)), self.dice.below(3) > 0);
        // All streams of a node are of one group, as the node is the same.
        let known = self.streams.iter().find(|stream| stream.node == node);
        let group = known.map_or(GROUPS[node.len() % 2], |stream| stream.group);
        let identity = Identity {
            group: group.into(),
            aggregated: is_aggregated,
            ..Identity::of_test(&node)
        };
        self.streams.push(Modelled {
            handle: self.fleet.connect(identity),
            node,
            is_aggregated,
            group,
            types: BTreeMap::new(),
        });
    }

    fn mark(&self, group: &str, resource_type: ResourceType) -> Mark {
        let group = self.snapshot.group(group);
        group.map_or(Mark::NEVER, |group| group.marks()[resource_type.index()])
    }

    fn act(&mut self) {
        let action = self.dice.below(12);
        if action < 2 {
            return self.publish(action == 0);
        }
        if action < 4 || self.streams.is_empty() {
            return self.connect();
        }
        let index = self.dice.below(self.streams.len());
        if action == 4 {
            self.streams.swap_remove(index);
            return;
        }
        let of = self.dice.of(&TYPES);
        let group = self.streams[index].group;
        if action == 5 {
            let moved = self.dice.of(&GROUPS);
            let node = self.streams[index].node.clone();
            for stream in self.streams.iter_mut().filter(|stream| stream.node == node) {
                stream.handle.moved(&moved.into());
                if stream.group != moved {
                    stream.types.values_mut().for_each(|(generation, _)| *generation = 0);
                }
                stream.group = moved;
            }
            return;
        }

        let mark = self.mark(group, of);
        let generation = self.snapshot.generation;
        let stream = &mut self.streams[index];
        let Some((acked, is_nacked)) = stream.types.get_mut(&of) else {
            stream.handle.subscribed(of, None);
            stream.types.insert(of, (0, false));
            return;
        };
        match action {
            6..9 => {
                let _is_moved = stream.handle.reaches(of, mark);
                (*acked, *is_nacked) = (generation, false);
            }
            9 => {
                let sent = Sent {
                    version: SetVersion(1),
                    nonce: Some(Nonce::new(0, 1)),
                    at: SystemTime::now(),
                };
                stream.handle.nacked(of, &sent, 13, "no", 1, Suspects::default());
                stream.handle.refuses(of, mark);
                *is_nacked = true;
            }
            _ => {
                for (of, (acked, is_nacked)) in &mut stream.types {
                    let marks = self.snapshot.group(group).map(|group| *group.marks());
                    let mark = marks.map_or(Mark::NEVER, |marks| marks[of.index()]);
                    stream.handle.unconcerned(*of, mark);
                    *acked = if *is_nacked { *acked } else { generation };
                }
            }
        }
    }

    /// What every proxy has of a revision, one by one.
    fn model(&self, revision: i64, asked: Option<&str>) -> (usize, usize, usize) {
        let mut proxies: BTreeMap<String, Vec<&Modelled>> = BTreeMap::new();
        for (index, stream) in self.streams.iter().enumerate() {
            let proxy = if stream.is_aggregated {
                format!("{index}")
            } else {
                stream.node.clone()
            };
            proxies.entry(proxy).or_default().push(stream);
        }
        let (mut live, mut refused, mut others) = (0, 0, 0);
        for streams in proxies.values() {
            if asked.is_some_and(|asked| asked != streams[0].group) {
                continue;
            }
            let types = || {
                streams
                    .iter()
                    .flat_map(|stream| stream.types.iter().map(move |of| (stream, of)))
            };
            let lacks = |stream: &Modelled, of: ResourceType, acked: u64| {
                let altered = self
                    .alterations
                    .iter()
                    .filter(|it| it.group == stream.group && it.resource_type == of);
                // The first publish counts for all revisions before it, too.
                let counted = altered.filter(|it| it.first <= revision || it.generation == 1);
                let newest = counted.map(|it| it.generation).max();
                newest.is_some_and(|newest| acked < newest)
            };
            let lacking: Vec<bool> = types()
                .filter(|(stream, (of, (acked, _)))| lacks(stream, **of, *acked))
                .map(|(_, (_, (_, is_nacked)))| *is_nacked)
                .collect();
            match lacking.as_slice() {
                [] => live += 1,
                nacked if nacked.contains(&true) => refused += 1,
                _ => others += 1,
            }
        }
        (live, refused, others)
    }

    fn check(&mut self) {
        let older = i64::try_from(self.dice.below(usize::try_from(self.revision).unwrap() + 1)).unwrap();
        for revision in [self.revision, older] {
            for group in [None, Some("default"), Some("edge")] {
                let question = Question {
                    revision,
                    group,
                    most: 3,
                };
                let report = self.fleet.report(&self.snapshot, question);
                let Counts { live, refused, .. } = report.counts;
                let found = (live, refused, report.counts.total() - live - refused);
                assert_eq!(found, self.model(revision, group), "r{revision} {group:?}");
                assert!(report.lagging.len() == found.2.min(3), "{report:?}");
                assert!(report.refusing.len() >= found.1.min(1), "{report:?}");
            }
        }
    }
}

#[test]
fn counts_are_those_of_a_model_that_looks_at_every_proxy() {
    for seed in 1..=60_u64 {
        let mut world = World::new(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        world.publish(true);
        for _ in 0..150 {
            world.act();
            world.check();
        }
        world.streams.clear();
        assert_eq!(world.fleet.places(), [], "no bucket stays without proxies");
    }
}

fn live_fleet(nodes: &[&str]) -> (World, Vec<StreamHandle>) {
    let mut world = World::new(7);
    world.publish(true);
    let handles = nodes.iter().map(|node| {
        let handle = world.fleet.connect(Identity::of_test(node));
        for of in TYPES {
            handle.subscribed(of, None);
            handle.unconcerned(of, world.mark("default", of));
        }
        handle
    });
    let handles = handles.collect();
    (world, handles)
}

fn report(world: &World, now: SystemTime) -> Report {
    let convergence = &world.fleet.registry.convergence;
    let question = Question {
        revision: world.revision,
        group: None,
        most: 100,
    };
    convergence.report(&world.snapshot, question, now)
}

/// Publish until routes of the default group changed.
fn change_routes(world: &mut World) {
    let before = world.mark("default", ResourceType::Route);
    while world.mark("default", ResourceType::Route) == before {
        world.publish(true);
    }
}

#[test]
fn a_proxy_is_behind_after_five_seconds_and_stalled_if_it_reads_nothing() {
    let (mut world, handles) = live_fleet(&["n1", "n2"]);
    change_routes(&mut world);
    let now = SystemTime::now();
    let later = now + BEHIND_AFTER;
    assert_eq!(report(&world, now).counts.rolling, 2);
    assert_eq!(report(&world, later).counts.behind, 2);
    handles[0].stalled(true);
    let counts = report(&world, later).counts;
    assert_eq!((counts.behind, counts.stalled), (1, 1));
    handles[0].stalled(false);
    assert_eq!(report(&world, later).counts.behind, 2);
}

#[test]
fn a_proxy_that_went_counts_until_its_node_is_back() {
    let (mut world, mut handles) = live_fleet(&["n1", "n2"]);
    change_routes(&mut world);
    let now = SystemTime::now();
    let gone = |world: &World, now| report(world, now).gone.len();
    drop(handles.pop());
    assert_eq!(gone(&world, now), 1);
    assert_eq!(gone(&world, now + GONE_FOR * 2), 0, "it is forgotten");

    let (mut world, mut handles) = live_fleet(&["n1", "n2"]);
    change_routes(&mut world);
    drop(handles.pop());
    // The change kills the proxy again and again.
    for _ in 0..3 {
        let back = world.fleet.connect(Identity::of_test("n2"));
        assert_eq!(gone(&world, SystemTime::now()), 0);
        drop(back);
        assert_eq!(gone(&world, SystemTime::now()), 1);
    }
}

#[test]
fn moves_follow_from_acks_that_raise_a_mark_alone() {
    let (mut world, handles) = live_fleet(&["n1"]);
    let before = world.fleet.moves();
    world.publish(false);
    let mark = world.mark("default", ResourceType::Endpoint);
    assert!(!handles[0].reaches(ResourceType::Endpoint, mark), "registrations alone");
    assert_eq!(world.fleet.moves(), before);
    change_routes(&mut world);
    assert_eq!(world.fleet.moves(), before, "a publish costs nothing");
    let mark = world.mark("default", ResourceType::Route);
    assert!(handles[0].reaches(ResourceType::Route, mark));
}
