//! Properties: replicas of one store that stand at the same revision serve the same, whatever each of them missed.
//!
//! A history writes good and bad texts, deletes, and deletes many documents or instances at once. Replicas follow it by
//! watches; they are cut off (and list when they are back), killed, restarted with what they had saved, and born. Proxies refuse a
//! text that serves, or accept one that a record calls refused, and replicas try refused texts again. Each replica
//! carries out its writes to the shared memory some time later; records have revisions of the same store. A replica that
//! has taken in all changes and all records up to a revision publishes, as the loop does, unless it waits for a record
//! that it wrote or for a text that it looks for. Whatever is published at one revision must be equal, by any replica at
//! any time. At the end all replicas publish the last revision.
//!
//! `HISTORIES=N` runs N of them; `HISTORIES_SEED` repeats a run.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::*;

#[path = "../../../../tests/support/histories.rs"]
#[allow(unreachable_pub, reason = "shared with the tests on a real etcd")]
mod histories;

use histories::{BAD, DOCUMENTS, MANY, ROUTES};

/// Histories of an ordinary test run; the whole suite asks for more (Makefile).
const HISTORIES: u64 = 400;
const STEPS: usize = 60;
const REPLICAS: usize = 3;
const SOURCES: [Source; 5] = [
    Source::Root(Root::Documents),
    Source::Root(Root::Registrations),
    Source::Records(Folder::LastGood),
    Source::Records(Folder::Held),
    Source::Records(Folder::Quarantine),
];

/// What a watch follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Root(Root),
    Records(Folder),
}

/// The changes of one revision.
enum Revision {
    Documents(Vec<(String, Option<Entry>)>),
    Records(Vec<(Folder, Arc<str>, Option<Known>)>),
}

/// The store: every revision, and what stands there now.
#[derive(Default)]
struct Store {
    documents: BTreeMap<String, Entry>,
    records: BTreeMap<(Folder, Arc<str>), Known>,
    revisions: Vec<Revision>,
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
                create_revision: self.documents.get(key).map_or(revision, |entry| entry.create_revision),
                mod_revision: revision,
                leased: root_of(key) == Root::Registrations,
            });
            match entry.clone() {
                Some(entry) => drop(self.documents.insert(key.clone(), entry)),
                None if self.documents.remove(key).is_none() => continue,
                None => {}
            }
            changes.push((key.clone(), entry));
        }
        if !changes.is_empty() {
            self.revisions.push(Revision::Documents(changes));
        }
    }

    /// One transaction of records. A write whose expected record is not the stored one is left out.
    fn write_records(&mut self, writes: &[MemoryWrite]) {
        let etag: Arc<str> = (self.revision() + 1).to_string().into();
        let mut changes = Vec::new();
        for write in writes {
            let place = (write.folder, Arc::clone(&write.full_key));
            if self.records.get(&place).map(|known| &known.etag) != write.replaces.as_ref() {
                continue;
            }
            let known = write.record.clone().map(|record| Known::new(record, Arc::clone(&etag)));
            match known.clone() {
                Some(known) => drop(self.records.insert(place, known)),
                None if self.records.remove(&place).is_none() => continue,
                None => {}
            }
            changes.push((write.folder, Arc::clone(&write.full_key), known));
        }
        if !changes.is_empty() {
            self.revisions.push(Revision::Records(changes));
        }
    }

    /// The changes of a revision, as one watch tells them.
    fn told(&self, source: &Source, revision: i64) -> Option<Input> {
        match (&self.revisions[usize::try_from(revision - 1).unwrap()], source) {
            (Revision::Documents(changes), Source::Root(root)) => {
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
            (Revision::Records(changes), Source::Records(folder)) => {
                let records: Vec<_> = changes
                    .iter()
                    .filter(|(of, ..)| of == folder)
                    .map(|(_, full_key, known)| (Arc::clone(full_key), known.clone()))
                    .collect();
                (!records.is_empty()).then_some(Input::Remembered {
                    folder: *folder,
                    whole: false,
                    records,
                })
            }
            _ => None,
        }
    }

    fn listed(&self, source: &Source, reason: ListReason) -> Input {
        let revision = self.revision();
        match source {
            Source::Root(root) => {
                let below = self.documents.iter().filter(|(key, _)| root_of(key) == *root);
                Input::Event {
                    root: root.clone(),
                    event: Event::Listed {
                        revision,
                        reason,
                        entries: below.map(|(_, entry)| entry.clone()).collect(),
                    },
                }
            }
            Source::Records(folder) => {
                let records = self.records.iter().filter(|((of, _), _)| of == folder);
                Input::Remembered {
                    folder: *folder,
                    whole: true,
                    records: records
                        .map(|((_, full_key), known)| (Arc::clone(full_key), Some(known.clone())))
                        .collect(),
                }
            }
        }
    }

    /// Texts that a key had before its latest one, back to its creation, that parse; oldest first.
    fn search(&self, key: &DocumentKey, before: i64) -> Vec<Arc<Text>> {
        let mut texts = Vec::new();
        let known = self.revisions.iter().zip(1_i64..).skip(self.compacted);
        for (changes, _) in known.take_while(|(_, revision)| *revision < before) {
            let Revision::Documents(changes) = changes else {
                continue;
            };
            match changes.iter().find(|(changed, _)| document_key(changed) == *key) {
                Some((_, Some(entry))) => texts.push(Arc::new(Text {
                    value: entry.value.clone(),
                    create_revision: entry.create_revision,
                    mod_revision: entry.mod_revision,
                    leased: entry.leased,
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

/// A server.
struct Replica {
    world: World,
    is_connected: bool,
    has_published: bool,
    /// Up to where each source was taken in; one that is not here is to be listed.
    reached: BTreeMap<Source, i64>,
    /// Roots whose guards want a second list.
    relists: Vec<Root>,
    /// Found texts and releases, for the next turn.
    waiting: Vec<Input>,
    /// Records on their way to the store.
    writes: Vec<MemoryWrite>,
    /// Records that it wrote and has not read back.
    unread: BTreeSet<(Folder, Arc<str>)>,
}

impl Replica {
    fn born() -> Self {
        Self {
            world: World::new(options()),
            is_connected: true,
            has_published: false,
            reached: BTreeMap::new(),
            relists: Vec::new(),
            waiting: Vec::new(),
            writes: Vec::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Killed, and started with what it had saved, while the store is away: that serves.
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

    /// The revision up to which all sources were taken in, if they are listed.
    fn revision(&self) -> Option<i64> {
        let revision = *self.reached.get(&SOURCES[0])?;
        let is_at = |source| self.reached.get(source) == Some(&revision);
        SOURCES.iter().all(is_at).then_some(revision)
    }

    fn view(&self) -> View {
        let resources = self.world.compiled().resources();
        let resources = resources.map(|(group, kind, resource)| {
            let name = format!("{group} {kind} {}", resource.name);
            (name, resource.version.to_string())
        });
        let documents = self.world.documents().map(|status| {
            let revision = |text: &Option<Arc<Text>>| text.as_ref().map(|text| text.mod_revision);
            let shown = format!(
                "{}: {:?}, latest {:?}, serving {:?}",
                status.state.as_str(),
                status.reason,
                revision(&status.latest),
                revision(&status.serving)
            );
            (status.key.to_string(), shown)
        });
        View {
            resources: resources.collect(),
            documents: documents.collect(),
        }
    }
}

/// What a replica serves and shows.
#[derive(Debug, Clone, PartialEq)]
struct View {
    resources: BTreeMap<String, String>,
    documents: BTreeMap<String, String>,
}

fn moment(seconds: u64) -> Moment {
    static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(|| crate::reconcile::run::now().instant);
    Moment {
        instant: *ORIGIN + Duration::from_secs(3600 + seconds),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(3600 + seconds),
    }
}

struct Fleet {
    seed: u64,
    random: StdRng,
    store: Store,
    replicas: Vec<Replica>,
    seconds: u64,
    /// By revision: which replica published it first, and what.
    published: BTreeMap<i64, (usize, View)>,
    trace: Vec<String>,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            store: Store::default(),
            replicas: (0..REPLICAS).map(|_| Replica::born()).collect(),
            seconds: 0,
            published: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    fn step(&mut self) {
        let number = self.random.random_range(0..REPLICAS);
        match self.random.random_range(0..33) {
            0..8 => self.write(),
            8 => self.delete_many("routes/many/"),
            9 => self.write_many("routes/many/"),
            10 => self.delete_many("services/x/many"),
            11 => self.write_many("services/x/many"),
            12 => self.store.compacted = self.random.random_range(0..=self.store.revisions.len()),
            13..15 => self.connect(number, !self.replicas[number].is_connected),
            15 => {
                self.trace.push(format!("replica {number} is born"));
                self.replicas[number] = Replica::born();
            }
            16 => {
                self.trace.push(format!("replica {number} restarts with saved state"));
                self.replicas[number] = self.replicas[number].restarted();
            }
            17 => self.seconds += self.random.random_range(1..12),
            // The store is away from all of them, and is written to.
            18 => {
                (0..REPLICAS).for_each(|replica| self.connect(replica, false));
                (0..6).for_each(|_| self.write());
            }
            19 => {
                self.trace.push(format!("release through replica {number}"));
                self.replicas[number].waiting.push(Input::Release(None));
            }
            20..23 => self.carry_out(number),
            30 => self.refuse(number),
            31 => self.accept(number),
            32 => self.try_again(number),
            _ => self.turn(number, true),
        }
    }

    /// Each proxy of a replica refuses the text that a document serves.
    fn refuse(&mut self, number: usize) {
        let (key, _) = *DOCUMENTS.choose(&mut self.random).unwrap();
        let replica = &mut self.replicas[number];
        if replica.has_published && replica.world.document(&document_key(key)).is_some() {
            let refusal = quarantine::refusal_in(&replica.world, &document_key(key));
            replica.waiting.push(Input::Refused(vec![refusal]));
            self.trace.push(format!("proxies of replica {number} refuse {key}"));
        }
    }

    /// A proxy of a replica has accepted a text that a record calls refused.
    fn accept(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let memory = &replica.world.memory;
        let full_keys: Vec<&Arc<str>> = memory.keys(Folder::Quarantine).collect();
        if let Some(full_key) = full_keys.choose(&mut self.random) {
            let about = memory.quarantine(full_key).unwrap().record.about;
            let full_key = Arc::clone(full_key);
            self.trace
                .push(format!("a proxy of replica {number} accepts {full_key}"));
            replica.waiting.push(Input::Accepted { full_key, about });
        }
    }

    fn try_again(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let texts = replica.world.quarantined().map(|one| (one.key.clone(), one.about));
        let texts: BTreeMap<DocumentKey, i64> = texts.collect();
        if !texts.is_empty() {
            self.trace.push(format!("replica {number} tries {texts:?} again"));
            replica.waiting.push(Input::TryAgain(texts));
        }
    }

    fn write(&mut self) {
        let (key, good) = *DOCUMENTS.choose(&mut self.random).unwrap();
        let text = match self.random.random_range(0..10) {
            0..2 => None,
            2..5 => BAD.choose(&mut self.random),
            _ => good.choose(&mut self.random),
        };
        self.write_all(&[(key.to_owned(), text.copied())]);
    }

    fn write_many(&mut self, below: &str) {
        let route = *ROUTES.choose(&mut self.random).unwrap();
        let addresses: Vec<String> = (0..MANY).map(|number| format!("10.0.1.{number}:80")).collect();
        let text = |number: usize| match below.starts_with("routes/") {
            true => route,
            false => &addresses[number],
        };
        let writes: Vec<_> = (0..MANY)
            .map(|number| (format!("{below}{number}"), Some(text(number))))
            .collect();
        self.write_all(&writes);
    }

    fn delete_many(&mut self, below: &str) {
        let keys = self.store.documents.keys().filter(|key| key.starts_with(below));
        let writes: Vec<_> = keys.map(|key| (key.clone(), None)).collect();
        self.write_all(&writes);
    }

    fn write_all(&mut self, writes: &[(String, Option<&str>)]) {
        self.store.write(writes);
        let first = writes.first().map(|(key, text)| format!("{key} {text:?}"));
        self.trace
            .push(format!("{}: {first:?} of {}", self.store.revision(), writes.len()));
    }

    fn connect(&mut self, number: usize, is_connected: bool) {
        self.trace
            .push(format!("replica {number} is connected: {is_connected}"));
        let replica = &mut self.replicas[number];
        replica.is_connected = is_connected;
        replica.reached.clear();
    }

    /// The first records of a replica reach the store.
    fn carry_out(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.is_connected && !replica.writes.is_empty() {
            let count = self.random.random_range(1..=replica.writes.len());
            let writes: Vec<MemoryWrite> = replica.writes.drain(..count).collect();
            self.store.write_records(&writes);
            let described = writes.iter().map(|write| {
                let place = format!("{}{}", write.folder.as_str(), write.full_key);
                match &write.record {
                    None => format!("-{place}"),
                    Some(record) => {
                        let text = record.text().map(|text| text.mod_revision);
                        let is_released = matches!(record.content, Content::Hold { is_released: true, .. });
                        format!("{place} {text:?} about {} released {is_released}", record.about)
                    }
                }
            });
            let described = described.collect::<Vec<_>>().join(", ");
            let revision = self.store.revision();
            self.trace
                .push(format!("{revision}: replica {number} writes {described}"));
        }
    }

    /// A replica hears what its watches tell, plans, and publishes.
    fn turn(&mut self, number: usize, may_lag: bool) {
        let replica = &mut self.replicas[number];
        let mut inputs = std::mem::take(&mut replica.waiting);
        if replica.is_connected {
            let newest = self.store.revision();
            let furthest = replica.reached.values().copied().max().unwrap_or(newest);
            let up_to = match may_lag && self.random.random_bool(0.3) {
                true => self.random.random_range(furthest..=newest),
                false => newest,
            };
            let told = (1..=up_to).flat_map(|revision| SOURCES.iter().map(move |source| (source, revision)));
            let is_new = |(source, revision): &(&Source, i64)| {
                replica.reached.get(source).is_some_and(|reached| reached < revision)
            };
            inputs.extend(
                told.filter(is_new)
                    .filter_map(|(source, revision)| self.store.told(source, revision)),
            );
            replica.reached.values_mut().for_each(|reached| *reached = up_to);

            for root in std::mem::take(&mut replica.relists) {
                let source = Source::Root(root);
                inputs.push(self.store.listed(&source, ListReason::Confirm));
                replica.reached.insert(source, newest);
            }

            // One source may be listed long before another.
            let reason = match replica.has_published {
                false => ListReason::Start,
                true => ListReason::Reconnect,
            };
            let mut unlisted: Vec<&Source> = SOURCES
                .iter()
                .filter(|source| !replica.reached.contains_key(source))
                .collect();
            unlisted.shuffle(&mut self.random);
            for source in unlisted {
                if !may_lag || self.random.random_bool(0.7) {
                    inputs.push(self.store.listed(source, reason));
                    replica.reached.insert(source.clone(), newest);
                }
            }
        }
        let whole = replica.revision().map(|revision| Input::Reached {
            revision,
            except: Vec::new(),
        });
        inputs.extend(whole);
        if replica.has_published {
            inputs.push(Input::Published);
        }
        inputs.push(Input::Tick);

        for input in &inputs {
            if let Input::Remembered {
                folder, whole, records, ..
            } = input
            {
                replica.unread.retain(|(of, _)| !whole || of != folder);
                for (full_key, _) in records {
                    replica.unread.remove(&(*folder, Arc::clone(full_key)));
                }
            }
        }
        let planned = plan(&replica.world, inputs, moment(self.seconds));
        replica.world = planned.world;
        for write in planned.memory {
            let place = (write.folder, Arc::clone(&write.full_key));
            replica
                .writes
                .retain(|earlier| (earlier.folder, &earlier.full_key) != (place.0, &place.1));
            replica.writes.push(write);
            replica.unread.insert(place);
        }
        for key in planned.wanted {
            let before = replica.world.standing_at(&key).map_or(0, |(_, revision)| revision);
            let texts = self.store.search(&key, before);
            replica.waiting.push(Input::Found { key, texts });
        }
        replica.relists = planned.relist;
        self.publish(number);
    }

    fn publish(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let may_differ = !replica.unread.is_empty() || !replica.waiting.is_empty();
        let Some(revision) = replica.revision().filter(|_| !may_differ) else {
            return;
        };
        replica.has_published = true;
        let view = replica.view();
        self.trace.push(format!("replica {number} publishes {revision}"));
        let (first, expected) = self.published.entry(revision).or_insert_with(|| (number, view.clone()));
        if view != *expected {
            let seed = self.seed;
            panic!(
                "HISTORIES_SEED={seed} HISTORIES=1: at revision {revision}, replica {number} differs from replica {first}\n\
                 {}\n{}",
                self.trace.join("\n"),
                differences(&view, expected)
            );
        }
    }

    /// Everybody hears all there is at one moment, until nothing is under way.
    fn settle(&mut self, when: &str) {
        for _ in 0..20 {
            for number in 0..REPLICAS {
                self.turn(number, false);
                while self.replicas[number].is_connected && !self.replicas[number].writes.is_empty() {
                    self.carry_out(number);
                }
            }
        }
        for (number, replica) in self.replicas.iter().enumerate() {
            let (seed, unread) = (self.seed, &replica.unread);
            let is_at_rest = unread.is_empty() && replica.waiting.is_empty();
            assert!(
                is_at_rest,
                "HISTORIES_SEED={seed} HISTORIES=1: replica {number} does not come to rest {when}: {unread:?}\n{}",
                self.trace.join("\n")
            );
        }
    }

    fn connect_all(&mut self) {
        (0..REPLICAS).for_each(|replica| self.connect(replica, true));
        self.settle("while holds go on");
    }

    /// Time passes until nothing is held any more.
    fn come_to_rest(&mut self) {
        for release in [None, Some(Input::Release(None))] {
            // An empty list waits for an operator.
            self.replicas[0].waiting.extend(release);
            for _ in 0..7 {
                self.seconds += 11;
                self.settle("at rest");
            }
        }
    }
}

fn differences(view: &View, other: &View) -> String {
    let mut lines = Vec::new();
    for (left, right) in [(&view.resources, &other.resources), (&view.documents, &other.documents)] {
        let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        let differing = keys.into_iter().filter(|key| left.get(*key) != right.get(*key)).take(9);
        lines.extend(differing.map(|key| format!("{key}: {:?}, expected {:?}", left.get(key), right.get(key))));
    }
    lines.join("\n")
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn replicas_at_one_revision_are_equal_whatever_they_missed() {
    let histories = setting("HISTORIES").unwrap_or(HISTORIES);
    let first = setting("HISTORIES_SEED").unwrap_or(1);
    for seed in first..first + histories {
        let mut fleet = Fleet::new(seed);
        for _ in 0..STEPS {
            fleet.step();
        }
        fleet.connect_all();
        fleet.come_to_rest();
    }
}
