//! Three replicas and their proxies under churn, against a model that looks at every proxy at each change.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::fleet::{Identity, Nonce, Sent, StreamHandle, Suspects, Variant};
use crate::resource::compile::{Difference, ResourceChange};
use crate::resource::{Resource, ResourceType};
use crate::snapshot::steps::{Cause, Mark};
use crate::snapshot::version::SetVersion;
use crate::snapshot::{Facts, Source};

const CHANGES: i64 = 500;
const PROXIES: usize = 300;
const TYPES: [ResourceType; 3] = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Route];

struct Server {
    fleet: Fleet,
    snapshot: Snapshot,
    replicas: Replicas,
}

/// The revision of the newest acknowledged response of each type, and whether a NACK followed.
type Acknowledged = BTreeMap<ResourceType, (i64, bool)>;

struct Proxy {
    server: usize,
    handle: StreamHandle,
    node: String,
    connected_on: i64,
    types: Acknowledged,
    is_stalled: bool,
}

struct World {
    servers: Vec<Server>,
    proxies: Vec<Proxy>,
    /// The types that each change altered, by its revision.
    altered: BTreeMap<i64, ResourceType>,
    /// Nodes that went: the revision then, that of their connection, and the types with what they had.
    gone: BTreeMap<String, (i64, i64, Acknowledged)>,
    revision: i64,
    content: u64,
    /// Nodes beside the first ones.
    nodes: u64,
    random: StdRng,
}

impl World {
    fn new(seed: u64) -> Self {
        let server = |number: usize| Server {
            fleet: Fleet::default(),
            snapshot: Snapshot::unpublished(),
            replicas: Replicas::new(&format!("replica-{number}")),
        };
        Self {
            servers: (0..3).map(server).collect(),
            proxies: Vec::new(),
            altered: BTreeMap::new(),
            gone: BTreeMap::new(),
            revision: 0,
            content: 0,
            nodes: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Publish a change of a type on every replica; without a revision, by registrations alone.
    fn publish(&mut self, resource_type: ResourceType, revision: Option<i64>) {
        self.content += 1;
        let resource = Arc::new(Resource::new("a", self.content.to_string(), Vec::new()));
        let change = ResourceChange {
            group: "default".into(),
            resource_type,
            name: "a".into(),
            resource: Some(resource),
        };
        let difference = Difference {
            resources: vec![change],
            ..Difference::default()
        };
        let cause = revision.map(|revision| Cause {
            revisions: vec![revision],
            documents: None,
        });
        self.revision = revision.unwrap_or(self.revision);
        let facts = Facts {
            revision: self.revision,
            revisions: Arc::default(),
            built_at: SystemTime::now(),
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            group_rules: Arc::new([]),
            cause,
        };
        for server in &mut self.servers {
            server.snapshot = server.snapshot.next(&difference, facts.clone());
        }
        self.altered.extend(revision.map(|revision| (revision, resource_type)));
    }

    fn connect(&mut self, node: String) {
        let server = self.random.random_range(0..3);
        let handle = self.servers[server].fleet.connect(Identity {
            node_id: node.as_str().into(),
            node_cluster: "c".into(),
            user_agent: "envoy".into(),
            version: None,
            group: "default".into(),
            has_zone: false,
            lacks_slots: false,
            address: None,
            variant: Variant::Delta,
            aggregated: true,
            connected_at: SystemTime::now(),
        });
        TYPES.into_iter().for_each(|of| handle.subscribed(of, None));
        self.gone.remove(&node);
        self.proxies.push(Proxy {
            server,
            handle,
            node,
            connected_on: self.revision,
            types: TYPES.into_iter().map(|of| (of, (0, false))).collect(),
            is_stalled: false,
        });
    }

    fn vanish(&mut self, index: usize) {
        let Proxy {
            node,
            types,
            connected_on,
            ..
        } = self.proxies.swap_remove(index);
        self.gone.insert(node, (self.revision, connected_on, types));
    }

    fn mark(&self, server: usize, of: ResourceType) -> Mark {
        self.servers[server].snapshot.groups["default"].marks()[of.index()]
    }

    fn act(&mut self) {
        let index = self.random.random_range(0..self.proxies.len());
        let of = TYPES[self.random.random_range(0..3)];
        let mark = self.mark(self.proxies[index].server, of);
        let revision = self.revision;
        let proxy = &mut self.proxies[index];
        match self.random.random_range(0..40) {
            0 => self.vanish(index),
            1 => {
                let node = proxy.node.clone();
                self.vanish(index);
                self.connect(node);
            }
            2 => {
                let sent = Sent {
                    version: SetVersion(1),
                    nonce: Some(Nonce::new(0, 1)),
                    at: SystemTime::now(),
                };
                proxy.handle.nacked(of, &sent, 13, "no", 1, Suspects::default());
                proxy.handle.refuses(of, mark);
                proxy.types.entry(of).and_modify(|(_, is_nacked)| *is_nacked = true);
            }
            3 => {
                proxy.is_stalled = !proxy.is_stalled;
                proxy.handle.stalled(proxy.is_stalled);
            }
            _ => {
                let marks = TYPES.map(|of| (of, self.mark(self.proxies[index].server, of)));
                let proxy = &mut self.proxies[index];
                for (of, mark) in marks {
                    let _is_moved = proxy.handle.reaches(of, mark);
                    proxy.types.insert(of, (revision, false));
                }
            }
        }
        if self.proxies.len() < PROXIES && self.random.random_range(0..3) == 0 {
            self.nodes += 1;
            self.connect(format!("node-{}", self.nodes));
        }
    }

    /// The types that a proxy lacks of a revision.
    fn lacks(&self, types: &Acknowledged, revision: i64) -> Vec<bool> {
        let lacking = types.iter().filter(|(of, (acked, _))| {
            let newest = self.altered.range(..=revision).rev().find(|(_, altered)| altered == of);
            newest.is_some_and(|(newest, _)| acked < newest)
        });
        lacking.map(|(_, (_, is_nacked))| *is_nacked).collect()
    }

    fn model(&self, revision: i64) -> (Proxies, bool) {
        let mut counts = Proxies::default();
        for proxy in &self.proxies {
            let lacking = self.lacks(&proxy.types, revision);
            let state = match lacking.as_slice() {
                [] => Standing::Live,
                nacked if nacked.contains(&true) => Standing::Refused,
                _ if proxy.is_stalled => Standing::Stalled,
                _ => Standing::Rolling,
            };
            counts.add(state, 1);
        }
        let mut has_lost = false;
        for (went_on, connected_on, types) in self.gone.values() {
            if *went_on >= revision && *connected_on < revision {
                counts.gone += 1;
                has_lost |= !self.lacks(types, revision).is_empty();
            }
        }
        (counts, has_lost)
    }

    fn sources<'a>(server: &'a Server, layout: &'a Layout) -> Sources<'a> {
        Sources {
            snapshot: &server.snapshot,
            fleet: &server.fleet,
            replicas: &server.replicas,
            layout,
            admin: None,
        }
    }

    /// Each replica hears the summaries of the others, also of the proxies that are back.
    fn exchange(&self) {
        let layout = Layout::default();
        for _ in 0..2 {
            for (number, server) in self.servers.iter().enumerate() {
                let told = summary(Self::sources(server, &layout), SystemTime::now());
                let others = self.servers.iter().enumerate().filter(|(other, _)| *other != number);
                others.for_each(|(_, other)| other.replicas.heard(told.clone(), SystemTime::now()));
            }
        }
    }

    fn check(&mut self) {
        self.exchange();
        let older = self.random.random_range(1..=self.revision);
        let layout = Layout::default();
        for server in &self.servers {
            let sources = Self::sources(server, &layout);
            let found = sources.rollout(self.revision, None, 3, SystemTime::now());
            let (expected, has_lost) = self.model(self.revision);
            let of = |counts: &Proxies| {
                let unanswered = counts.rolling + counts.behind;
                (counts.total, counts.live, unanswered, counts.refused, counts.stalled)
            };
            assert_eq!(of(&found.proxies), of(&expected), "r{}", self.revision);
            let state = match () {
                () if expected.refused > 0 => RolloutState::Refused,
                () if expected.live < expected.total || has_lost => RolloutState::Rolling,
                () => RolloutState::Live,
            };
            // A proxy that came and went within the millisecond of the publish may count as gone.
            if found.state != RolloutState::Rolling || found.proxies.gone <= expected.gone {
                assert_eq!(
                    found.state, state,
                    "r{}: {:?} {expected:?}",
                    self.revision, found.proxies
                );
            }
            assert!(found.proxies.gone >= expected.gone, "{:?} {expected:?}", found.proxies);

            let found = sources.rollout(older, None, 0, SystemTime::now());
            let (expected, has_lost) = self.model(found.revision);
            assert_eq!(found.proxies.live, expected.live, "r{older} at r{}", self.revision);
            let is_live = expected.live == expected.total && !has_lost;
            assert!(
                is_live || found.state != RolloutState::Live,
                "r{older} at r{}",
                self.revision
            );
        }
    }
}

#[test]
fn every_replica_counts_all_proxies_as_a_model_does_under_churn() {
    let mut world = World::new(15);
    world.publish(ResourceType::Cluster, Some(1));
    (0..PROXIES).for_each(|number| world.connect(format!("first-{number}")));
    for change in 1..=CHANGES {
        let of = [ResourceType::Cluster, ResourceType::Route][world.random.random_range(0..2)];
        world.publish(of, Some(change * 2));
        for _ in 0..world.random.random_range(0..3) {
            world.publish(ResourceType::Endpoint, None);
        }
        // Now and then all proxies answer: the state is live, and not before.
        let actions = if change % 25 == 0 { 0 } else { 60 };
        (0..actions).for_each(|_| world.act());
        if actions == 0 {
            let marks: Vec<_> = (0..3)
                .map(|server| TYPES.map(|of| (of, world.mark(server, of))))
                .collect();
            for proxy in &mut world.proxies {
                for (of, mark) in marks[proxy.server] {
                    let _is_moved = proxy.handle.reaches(of, mark);
                    proxy.types.insert(of, (world.revision, false));
                }
            }
        }
        world.check();
    }
}
