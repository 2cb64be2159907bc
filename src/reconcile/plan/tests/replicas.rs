//! Properties: replicas of one store end with equal resources, whatever each of them missed.
//!
//! A history writes good and bad texts, deletes, and deletes many documents at once. Replicas follow it by watches; they are
//! cut off (and list when they are back), killed, restarted with what they had saved, and born. Each carries out its writes
//! to the shared memory, which every connected replica reads. At the end all are connected and nothing is under way: then
//! all have equal resources and equal serving texts.
//!
//! `HISTORIES=N` runs N of them; `HISTORIES_SEED` repeats a run.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// Histories of an ordinary test run; the whole suite asks for more (Makefile).
const HISTORIES: u64 = 400;
const STEPS: usize = 40;
const REPLICAS: usize = 3;

/// Keys, and texts that are good there.
const DOCUMENTS: &[(&str, &[&str])] = &[
    ("routes/a", ROUTES),
    ("routes/b", ROUTES),
    ("clusters/x", CLUSTERS),
    ("clusters/y", CLUSTERS),
    ("listeners/l", LISTENERS),
    ("listeners/m", LISTENERS),
    ("groups/edge", &[r#"{"match": [{"id": "edge-*"}]}"#]),
    (
        "defaults",
        &[r#"{"route": {"timeout": "7s"}}"#, r#"{"route": {"timeout": "8s"}}"#],
    ),
    ("services/x/1", &["10.0.0.8:80", "10.0.0.9:80"]),
];

const ROUTES: &[&str] = &[
    r#"{"match": "/v1", "to": "x"}"#,
    r#"{"match": "/v2", "to": "y"}"#,
    r#"{"match": "example.com/v1/*", "to": "y", "listeners": ["l"]}"#,
    r#"{"match": "/v1", "to": "http://10.0.0.1:80", "groups": ["edge"]}"#,
];

const CLUSTERS: &[&str] = &[
    r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#,
    r#"{"endpoints": [{"address": "10.0.0.2:80"}], "groups": ["edge"]}"#,
    "{}",
];

/// Both listeners claim the same addresses: the last good text of one may conflict with the latest text of the other.
const LISTENERS: &[&str] = &[r#"{"address": "0.0.0.0:8080"}"#, r#"{"address": "0.0.0.0:8081"}"#];

const BAD: &[&str] = &["{", r#"{"match": 5}"#, r#"{"endpoints": 7}"#];

/// The store's history: what each revision changed, and every text that each key had.
#[derive(Default)]
struct Store {
    current: BTreeMap<String, Entry>,
    revisions: Vec<Vec<(String, Option<Entry>)>>,
    /// History before this revision is gone.
    compacted: usize,
}

impl Store {
    fn revision(&self) -> i64 {
        i64::try_from(self.revisions.len()).unwrap()
    }

    fn write(&mut self, writes: &[(String, Option<&str>)]) {
        let revision = self.revision() + 1;
        let mut changes = Vec::new();
        for (key, text) in writes {
            let entry = text.map(|text| Entry {
                key: full_key(key).into(),
                value: text.to_owned().into(),
                create_revision: self.current.get(key).map_or(revision, |entry| entry.create_revision),
                mod_revision: revision,
                leased: false,
            });
            match entry.clone() {
                Some(entry) => drop(self.current.insert(key.clone(), entry)),
                None if self.current.remove(key).is_none() => continue,
                None => {}
            }
            changes.push((key.clone(), entry));
        }
        if !changes.is_empty() {
            self.revisions.push(changes);
        }
    }

    /// One root's changes of a revision, as its watch tells them.
    fn told(&self, root: &Root, revision: i64) -> Option<Input> {
        let changes = &self.revisions[usize::try_from(revision - 1).unwrap()];
        let changes: Vec<Change> = changes
            .iter()
            .filter(|(key, _)| root_of(key) == *root)
            .map(|(key, entry)| match entry {
                Some(entry) => Change::Put(entry.clone()),
                None => Change::Delete {
                    key: full_key(key).into(),
                },
            })
            .collect();
        (!changes.is_empty()).then(|| Input::Event {
            root: root.clone(),
            event: Event::Changed { revision, changes },
        })
    }

    fn listed(&self, root: &Root, reason: ListReason) -> Input {
        let below = self.current.iter().filter(|(key, _)| root_of(key) == *root);
        Input::Event {
            root: root.clone(),
            event: Event::Listed {
                revision: self.revision(),
                reason,
                entries: below.map(|(_, entry)| entry.clone()).collect(),
            },
        }
    }

    /// Texts that a key had before its latest one, back to its creation, that parse; oldest first.
    fn search(&self, key: &DocumentKey, before: i64) -> Vec<Arc<Text>> {
        let mut texts = Vec::new();
        let known = self.revisions.iter().enumerate().skip(self.compacted);
        for (number, changes) in known.take_while(|(number, _)| i64::try_from(*number).unwrap() < before - 1) {
            let _ = number;
            match changes.iter().find(|(changed, _)| document_key(changed) == *key) {
                Some((_, Some(entry))) => texts.push(Arc::new(Text {
                    value: entry.value.clone(),
                    create_revision: entry.create_revision,
                    mod_revision: entry.mod_revision,
                    leased: false,
                })),
                Some((_, None)) => texts.clear(),
                None => {}
            }
        }
        let limits = crate::document::Limits {
            re2_max_program_size: 100,
        };
        texts.retain(|text| crate::document::parse(key, &text.value, &limits).is_ok());
        texts
    }
}

/// A server. What it is told waits until it is its turn.
struct Replica {
    world: World,
    connected: bool,
    /// Up to where its watches have told.
    revision: i64,
    listed: bool,
    memory_told: bool,
    waiting: Vec<Input>,
}

impl Replica {
    fn born() -> Self {
        Self {
            world: World::new(options()),
            connected: true,
            revision: 0,
            listed: false,
            memory_told: false,
            waiting: Vec::new(),
        }
    }

    /// Killed, and started with what it had saved.
    fn restarted(&self) -> Self {
        let mut born = Self::born();
        let entries = self.world.documents().filter_map(|status| {
            let text = status.serving.as_ref()?;
            let entry = Entry {
                key: status.full_key.to_string().into(),
                value: text.value.clone(),
                create_revision: text.create_revision,
                mod_revision: text.mod_revision,
                leased: text.leased,
            };
            let root = Layout::default().root_of(&entry.key)?;
            Some((root, entry))
        });
        let saved = Input::Saved {
            entries: entries.collect(),
            revision: self.world.revision(),
        };
        born.world = plan(&born.world, vec![saved], moment(0)).world;
        born
    }
}

fn moment(seconds: u64) -> Moment {
    static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(|| tokio::time::Instant::now().into_std());
    Moment {
        instant: *ORIGIN + Duration::from_secs(3600 + seconds),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(3600 + seconds),
    }
}

struct Fleet {
    random: StdRng,
    store: Store,
    memory: SharedMemory,
    replicas: Vec<Replica>,
    seconds: u64,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            store: Store::default(),
            memory: SharedMemory::default(),
            replicas: (0..REPLICAS).map(|_| Replica::born()).collect(),
            seconds: 0,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..22) {
            0..8 => self.write(),
            8 => self.delete_many(),
            9 => self.write_many(),
            10 => self.store.compacted = self.random.random_range(0..=self.store.revisions.len()),
            11..13 => {
                let replica = self.random.random_range(0..REPLICAS);
                let connected = !self.replicas[replica].connected;
                self.connect(replica, connected);
            }
            13 => {
                let replica = self.random.random_range(0..REPLICAS);
                self.replicas[replica] = Replica::born();
            }
            14 => {
                let replica = self.random.random_range(0..REPLICAS);
                self.replicas[replica] = self.replicas[replica].restarted();
            }
            15 => self.seconds += self.random.random_range(1..12),
            // The store is away from all of them, and is written to.
            16 => {
                (0..REPLICAS).for_each(|replica| self.connect(replica, false));
                (0..6).for_each(|_| self.write());
            }
            17 => {
                let replica = self.random.random_range(0..REPLICAS);
                self.replicas[replica].waiting.push(Input::Release(None));
            }
            _ => {
                let replica = self.random.random_range(0..REPLICAS);
                self.turn(replica);
            }
        }
    }

    fn write(&mut self) {
        let (key, good) = *DOCUMENTS.choose(&mut self.random).unwrap();
        let text = match self.random.random_range(0..10) {
            0..2 => None,
            2..5 => BAD.choose(&mut self.random),
            _ => good.choose(&mut self.random),
        };
        self.store.write(&[(key.to_owned(), text.copied())]);
    }

    fn write_many(&mut self) {
        let text = *ROUTES.choose(&mut self.random).unwrap();
        let writes: Vec<_> = (0..14)
            .map(|number| (format!("routes/many/{number}"), Some(text)))
            .collect();
        self.store.write(&writes);
    }

    fn delete_many(&mut self) {
        let below: Vec<_> = self
            .store
            .current
            .keys()
            .filter(|key| key.starts_with("routes/many/"))
            .map(|key| (key.clone(), None))
            .collect();
        self.store.write(&below);
    }

    fn connect(&mut self, replica: usize, connected: bool) {
        let replica = &mut self.replicas[replica];
        replica.connected = connected;
        if connected {
            (replica.listed, replica.memory_told) = (false, false);
            // What the watches had told before they broke.
            replica
                .waiting
                .retain(|input| !matches!(input, Input::Remembered { .. }));
        }
    }

    /// A replica hears what its watches tell, plans, and writes what it is to remember.
    fn turn(&mut self, number: usize) {
        let reason = |replica: &Replica| {
            if replica.revision == 0 {
                ListReason::Start
            } else {
                ListReason::Reconnect
            }
        };
        let replica = &mut self.replicas[number];
        let mut inputs = std::mem::take(&mut replica.waiting);
        if replica.connected {
            let roots = [Root::Documents, Root::Registrations];
            if replica.listed {
                let revisions = replica.revision + 1..=self.store.revision();
                let told = revisions.flat_map(|revision| roots.iter().map(move |root| (root, revision)));
                inputs.extend(told.filter_map(|(root, revision)| self.store.told(root, revision)));
            } else {
                let reason = reason(replica);
                inputs.extend(roots.iter().map(|root| self.store.listed(root, reason)));
                replica.listed = true;
            }
            replica.revision = self.store.revision();
            if !replica.memory_told {
                replica.memory_told = true;
                let at = if self.random.random_bool(0.5) { 0 } else { inputs.len() };
                let listed = self.memory.listed();
                inputs.splice(at..at, listed);
            }
        }
        inputs.push(Input::Tick);
        let planned = plan(&replica.world, inputs, moment(self.seconds));
        replica.world = planned.world;
        for key in planned.wanted {
            let before = replica.world.standing_at(&key).map_or(0, |(_, revision)| revision);
            let texts = self.store.search(&key, before);
            replica.waiting.push(Input::Found { key, texts });
        }
        if !planned.relist.is_empty() {
            replica.listed = false;
        }
        if replica.connected {
            let told = self.memory.carry_out(&planned.memory);
            let readers = self
                .replicas
                .iter_mut()
                .filter(|replica| replica.connected && replica.memory_told);
            readers.for_each(|replica| replica.waiting.extend(told.iter().cloned()));
        }
    }

    /// Everybody is connected and hears all there is, at one moment: what is held stays held.
    fn connect_all(&mut self) {
        (0..REPLICAS).for_each(|replica| self.connect(replica, true));
        for _ in 0..12 {
            (0..REPLICAS).for_each(|replica| self.turn(replica));
        }
    }

    /// Time passes until nothing is held any more.
    fn come_to_rest(&mut self) {
        for release in [None, Some(Input::Release(None))] {
            // An empty list waits for an operator.
            self.replicas[0].waiting.extend(release);
            for _ in 0..10 {
                self.seconds += 11;
                (0..REPLICAS).for_each(|replica| self.turn(replica));
            }
        }
    }

    fn serving(&self, replica: usize) -> BTreeMap<String, Option<i64>> {
        let documents = self.replicas[replica].world.documents();
        let revision = |status: &Status| status.serving.as_ref().map(|text| text.mod_revision);
        documents
            .map(|status| (format!("{} {}", status.key, status.state.as_str()), revision(status)))
            .collect()
    }
}

impl Fleet {
    fn assert_equal(&self, seed: u64, when: &str) {
        let resources = |replica: usize| {
            let resources = self.replicas[replica].world.compiled().resources();
            let described = resources.map(|(group, kind, resource)| {
                (
                    format!("{group} {kind} {}", resource.name),
                    resource.version.to_string(),
                )
            });
            described.collect::<BTreeMap<_, _>>()
        };
        for replica in 1..REPLICAS {
            let place = format!("HISTORIES_SEED={seed} HISTORIES=1: replicas 0 and {replica} differ {when}");
            assert_eq!(
                self.serving(0),
                self.serving(replica),
                "{place}; {:#?}",
                self.memory.records
            );
            assert_eq!(resources(0), resources(replica), "{place}");
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn replicas_are_equal_at_rest_whatever_they_missed() {
    let histories = setting("HISTORIES").unwrap_or(HISTORIES);
    let first = setting("HISTORIES_SEED").unwrap_or(1);
    for seed in first..first + histories {
        let mut fleet = Fleet::new(seed);
        for _ in 0..STEPS {
            fleet.step();
        }
        fleet.connect_all();
        fleet.assert_equal(seed, "while holds go on");
        fleet.come_to_rest();
        fleet.assert_equal(seed, "at rest");
    }
}
