//! Facts about plans, over small worlds of JSON texts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::backend::ListReason;
use crate::document::key::Kind;
use crate::reconcile::memory::Content;
use crate::reconcile::world::{Options, State};
use crate::resource::ResourceType;
use crate::resource::compile::{self, Compiled};
use crate::resource::table::Bounds;

mod anything;
mod conflicts;
mod costs;
mod documents;
mod failover;
mod guards;
mod histories;
mod identities;
mod named_clusters;
mod on_demand;
mod policies;
mod quarantine;
mod references;
mod replicas;
mod secrets;
mod trials;
mod verbatim;

/// A store and the world that follows it.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) store: BTreeMap<String, Entry>,
    pub(super) revision: i64,
    pub(super) now: Instant,
    pub(super) memory: SharedMemory,
}

/// The shared memory of a store.
#[derive(Clone, Default)]
pub(super) struct SharedMemory {
    records: BTreeMap<(Folder, Arc<str>), Known>,
    writes: u64,
}

impl SharedMemory {
    /// Carry out the writes that still meet what they replace. Returns what changed, as a watch tells it.
    fn carry_out(&mut self, writes: &[MemoryWrite]) -> Vec<Input> {
        let mut told = Vec::new();
        for write in writes {
            let place = (write.folder, Arc::clone(&write.full_key));
            let etag = self.records.get(&place).map(|known| &known.etag);
            if etag != write.replaces.as_ref() {
                continue;
            }
            self.writes += 1;
            let etag = self.writes.to_string();
            let known = write.record.clone().map(|record| Known::new(record, etag));
            match known.clone() {
                Some(known) => self.records.insert(place, known),
                None => self.records.remove(&place),
            };
            told.push(Input::Remembered {
                folder: write.folder,
                whole: false,
                records: vec![(Arc::clone(&write.full_key), known)],
            });
        }
        told
    }

    /// All records, as two lists.
    fn listed(&self) -> Vec<Input> {
        let of = |folder| {
            let records = self.records.iter().filter(move |((of, _), _)| *of == folder);
            records
                .map(|((_, full_key), known)| (Arc::clone(full_key), Some(known.clone())))
                .collect()
        };
        let input = |folder| Input::Remembered {
            folder,
            whole: true,
            records: of(folder),
        };
        Folder::ALL.map(input).into()
    }
}

pub(super) fn options() -> Options {
    Options {
        layout: Layout::default(),
        confirm_mass_loss: false,
        has_leases: true,
        re2_max_program_size: 100,
        ca_bundle: None,
        access_log_dir: "/var/log".into(),
        vault: crate::document::secret::Vault::default(),
    }
}

/// A world that has listed these documents, written one after the other.
pub(super) fn world_of(documents: &[(&str, &str)]) -> Stage {
    let mut stage = Stage::empty();
    documents.iter().for_each(|(key, text)| stage.store(key, text));
    stage.list(ListReason::Start);
    stage
}

pub(super) fn document_key(key: &str) -> DocumentKey {
    match key.split_once('/') {
        Some((word, name)) => DocumentKey::new(Kind::from_word(word).unwrap(), name),
        None => DocumentKey::new(Kind::Defaults, ""),
    }
}

fn full_key(key: &str) -> String {
    Layout::default().full_key(&document_key(key))
}

fn root_of(key: &str) -> Root {
    if let Some(registry) = document_key(key).registry() {
        Root::of_registry(registry)
    } else if key.starts_with("services/") {
        Root::Registrations
    } else {
        Root::Documents
    }
}

impl Stage {
    pub(super) fn empty() -> Self {
        let mut stage = Self {
            world: World::new(options()),
            store: BTreeMap::new(),
            revision: 0,
            now: crate::reconcile::run::now().instant,
            memory: SharedMemory::default(),
        };
        stage.read_memory();
        stage
    }

    /// Another replica of the same store, which has read the shared memory and no document.
    pub(super) fn newborn(&self) -> Self {
        let mut born = Self {
            world: World::new(options()),
            store: self.store.clone(),
            revision: self.revision,
            now: self.now,
            memory: self.memory.clone(),
        };
        born.read_memory();
        born
    }

    fn read_memory(&mut self) {
        self.world = plan(&self.world, self.memory.listed(), self.moment()).world;
    }

    /// With room for only so many entries in a RouteConfiguration.
    fn narrow(most_entries: usize) -> Self {
        let mut stage = Self::empty();
        stage.world.compiled = Compiled::new(compile::Options {
            bounds: Bounds {
                entries: most_entries,
                ..Bounds::default()
            },
            ..compile::Options::default()
        });
        stage
    }

    fn moment(&self) -> Moment {
        Moment {
            instant: self.now,
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub(super) fn plan(&mut self, inputs: Vec<Input>) -> Plan {
        let planned = plan(&self.world, inputs, self.moment());
        self.world = planned.world.clone();
        let told = self.memory.carry_out(&planned.memory);
        self.world = plan(&self.world, told, self.moment()).world;
        planned
    }

    /// Write to the store; the world does not hear of it.
    pub(super) fn store(&mut self, key: &str, text: &str) {
        self.revision += 1;
        let created = self.store.get(key).map_or(self.revision, |entry| entry.create_revision);
        let entry = Entry {
            key: full_key(key).into(),
            value: text.to_owned().into(),
            create_revision: created,
            mod_revision: self.revision,
            leased: key.starts_with("services/"),
        };
        self.store.insert(key.to_owned(), entry);
    }

    pub(super) fn unstore(&mut self, key: &str) {
        self.revision += 1;
        self.store.remove(key);
    }

    /// What the watch tells of one write.
    pub(super) fn put_input(&mut self, key: &str, text: &str) -> Input {
        self.store(key, text);
        let change = Change::Put(self.store[key].clone());
        Input::Event {
            root: root_of(key),
            event: Event::Changed {
                revision: self.revision,
                changes: vec![change],
            },
        }
    }

    pub(super) fn delete_input(&mut self, keys: &[&str]) -> Input {
        keys.iter().for_each(|key| self.unstore(key));
        let changes = keys
            .iter()
            .map(|key| Change::Delete {
                key: full_key(key).into(),
            })
            .collect();
        Input::Event {
            root: root_of(keys[0]),
            event: Event::Changed {
                revision: self.revision,
                changes,
            },
        }
    }

    pub(super) fn put(&mut self, key: &str, text: &str) -> Plan {
        let input = self.put_input(key, text);
        self.plan(vec![input])
    }

    pub(super) fn delete(&mut self, key: &str) -> Plan {
        let input = self.delete_input(&[key]);
        self.plan(vec![input])
    }

    pub(super) fn list_input(&self, root: Root, reason: ListReason) -> Input {
        let of_root = self.store.iter().filter(|(key, _)| root_of(key) == root);
        let entries = of_root.map(|(_, entry)| entry.clone()).collect();
        Input::Event {
            root,
            event: Event::Listed {
                revision: self.revision,
                reason,
                entries,
            },
        }
    }

    /// Every root is listed.
    pub(super) fn list(&mut self, reason: ListReason) -> Plan {
        let registries = self
            .store
            .keys()
            .map(|key| root_of(key))
            .filter(|root| root.registry().is_some());
        let roots: BTreeSet<Root> = registries.chain([Root::Documents, Root::Registrations]).collect();
        let inputs = roots.into_iter().map(|root| self.list_input(root, reason));
        self.plan(inputs.collect())
    }

    pub(super) fn status(&self, key: &str) -> &Status {
        self.world.document(&document_key(key)).unwrap()
    }

    pub(super) fn state(&self, key: &str) -> Option<State> {
        self.world.document(&document_key(key)).map(|status| status.state)
    }

    /// The text that serves.
    pub(super) fn serving(&self, key: &str) -> Option<String> {
        let text = self.status(key).serving.as_ref()?;
        Some(String::from_utf8(text.value.to_vec()).unwrap())
    }

    /// `group type name` of every resource, with its version.
    pub(super) fn resources(&self) -> BTreeMap<String, String> {
        let resources = self.world.compiled().resources();
        resources
            .map(|(group, kind, resource)| {
                (
                    format!("{group} {kind} {}", resource.name),
                    resource.version.to_string(),
                )
            })
            .collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.resources().into_keys().collect()
    }
}

/// `group type name` of every resource that changed; `-` before one that is gone.
pub(super) fn changed(plan: &Plan) -> Vec<String> {
    let describe = |change: &compile::ResourceChange| {
        let sign = if change.resource.is_some() { "" } else { "-" };
        format!("{sign}{} {} {}", change.group, change.resource_type, change.name)
    };
    plan.difference.resources.iter().map(describe).collect()
}

/// What is to be written to the shared memory: folder, key, and the text; `-` before a record that goes.
pub(super) fn remembered(plan: &Plan) -> Vec<String> {
    let describe = |write: &MemoryWrite| {
        let place = format!("{}{}", write.folder.as_str(), write.full_key);
        match &write.record {
            None => format!("-{place}"),
            Some(record) => {
                let text = record
                    .text()
                    .map(|text| String::from_utf8_lossy(&text.value).into_owned());
                let released = match record.content {
                    Content::LetGo(_) | Content::Hold { is_released: true, .. } => " released",
                    _ => "",
                };
                format!("{place} {}{released}", text.unwrap_or_default())
            }
        }
    };
    plan.memory.iter().map(describe).collect()
}

/// What was said of documents: key and state, `-` when it is gone.
pub(super) fn said(plan: &Plan) -> Vec<String> {
    let describe = |verdict: &Verdict| {
        let state = verdict.status.as_ref().map_or("-", |status| status.state.as_str());
        format!("{} {state}", verdict.key)
    };
    plan.verdicts.iter().map(describe).collect()
}
