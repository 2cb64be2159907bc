//! Keeps instances that vanished together with too many others, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Choice, Choices, Intake, deleted, read_text};
use crate::document::Document;
use crate::document::key::{DocumentKey, Kind};
use crate::reconcile::hold::{KEPT_FOR, LostInstance, SourceState};
use crate::reconcile::memory::Content;
use crate::reconcile::world::World;
use crate::resource::compile::{Address, address};

impl Choices {
    /// Keep instances that vanished together with too many others, for a while.
    pub(super) fn keep_instances(&mut self, intake: &mut Intake) {
        let mut clusters = self.concerned_sources(intake);
        for (key, lost) in self.lost_instances(intake) {
            let cluster: Arc<str> = key.first_segment().into();
            let source = intake.world.sources.entry(Arc::clone(&cluster)).or_default();
            source.lost.insert(key, lost);
            clusters.insert(cluster);
        }
        for (key, lost) in self.recalled_instances(intake) {
            let cluster: Arc<str> = key.first_segment().into();
            let source = intake.world.sources.entry(Arc::clone(&cluster)).or_default();
            match source.lost.get_mut(&key) {
                // Of two texts that replicas keep, all take the later one.
                Some(own) if is_as_late(own, &lost) => {}
                Some(own) if !lost.kept => (own.good, own.address) = (lost.good, lost.address),
                None if !lost.kept => {}
                _ => {
                    source.lost.insert(key, lost);
                }
            }
            clusters.insert(cluster);
        }
        for (cluster, address) in self.gained_addresses(intake) {
            let source = intake.world.sources.entry(Arc::clone(&cluster)).or_default();
            source.on_gained(address, intake.moment.instant);
            clusters.insert(cluster);
        }
        for cluster in clusters {
            self.keep_instances_of(intake, cluster);
        }
    }

    /// Clusters that lost or gained instances lately, and to which this plan, or the time, may make a difference.
    fn concerned_sources(&self, intake: &Intake) -> BTreeSet<Arc<str>> {
        let sources = &intake.world.sources;
        let is_over = |source: &SourceState| source.next_end().is_some_and(|end| end <= intake.moment.instant);
        let looks_at_all = intake.is_first || !intake.released.is_empty();
        let all = looks_at_all.then_some(sources).into_iter().flatten();
        let over = all.filter(|(_, source)| !intake.released.is_empty() || is_over(source));
        let changed = self.by_key.keys().chain(&intake.recalled_instances);
        let changed = changed
            .filter(|key| key.kind == Kind::Services)
            .filter_map(|key| Some(sources.get_key_value(key.first_segment())?.0));
        over.map(|(cluster, _)| cluster).chain(changed).cloned().collect()
    }

    fn keep_instances_of(&mut self, intake: &mut Intake, cluster: Arc<str>) {
        let Some(mut source) = intake.world.sources.get(&cluster).cloned() else {
            return;
        };
        let guard = intake.world.compiled.guard_of(&cluster);
        let live = self.live_addresses(&intake.world, &cluster);
        let is_back = |key: &DocumentKey| self.by_key.get(key).is_some_and(|choice| choice.latest.is_some());
        let is_released =
            |lost: &LostInstance| intake.released.contains(&lost.full_key) || is_let_go_elsewhere(intake, lost);

        let let_go = source.sort_out(&live, is_back, is_released, guard, intake.moment.instant);
        for lost in let_go {
            self.by_key
                .entry(lost.key.clone())
                .or_insert_with(|| deleted(&lost.full_key))
                .on_deleted();
        }

        for lost in source.lost.values().filter(|lost| lost.kept) {
            let choice = self
                .by_key
                .entry(lost.key.clone())
                .or_insert_with(|| deleted(&lost.full_key));
            (choice.candidates, choice.kept) = (vec![lost.good.clone()], true);
        }

        if source.is_calm() {
            intake.world.sources.remove(&cluster);
        } else {
            intake.world.sources.insert(cluster, source);
        }
    }

    /// Addresses that register with a cluster which has instances, and which it did not have.
    fn gained_addresses(&self, intake: &Intake) -> Vec<(Arc<str>, Address)> {
        let world = &intake.world;
        let is_in_first_list = |choice: &Choice| {
            let root = world.options.layout.root_of(choice.full_key.as_bytes());
            root.is_some_and(|root| intake.first_listed.contains(&root))
        };
        let registered = self.by_key.iter().filter(|(key, choice)| {
            let is_registered = key.kind == Kind::Services && choice.latest.is_some();
            is_registered && (intake.first_listed.is_empty() || !is_in_first_list(choice))
        });
        let mut lost_addresses: BTreeMap<&str, BTreeSet<&Address>> = BTreeMap::new();
        let gained = registered.filter_map(|(key, choice)| {
            let address = registered_address(&choice.serving()?.parsed.document)?;
            let cluster = key.first_segment();
            let source = world.sources.get(cluster);
            let lost = lost_addresses.entry(cluster).or_insert_with(|| {
                let lost = source.iter().flat_map(|source| source.lost.values());
                lost.map(|lost| &lost.address).collect()
            });
            let has_instances = source.is_some() || world.compiled.registrations(cluster).next().is_some();
            let is_known = world.compiled.is_registered_at(cluster, &address) || lost.contains(&address);
            (has_instances && !is_known).then(|| (cluster.into(), address))
        });

        gained.collect()
    }

    /// Instances that another replica keeps, and whose keys are not there. Not `kept`: the other replica holds the root,
    /// and has this text of the instance.
    fn recalled_instances(&self, intake: &Intake) -> Vec<(DocumentKey, LostInstance)> {
        let world = &intake.world;
        let kept = intake.recalled_instances.iter().filter_map(|key| {
            let full_key: Arc<str> = world.options.layout.full_key(key).into();
            let record = &world.memory.held(&full_key)?.record;
            let (text, kept, kept_for) = match &record.content {
                Content::LostInstance(text, kept_for) => (text, true, *kept_for),
                Content::Serves(Some(text)) => (text, false, KEPT_FOR),
                _ => return None,
            };
            let age = intake.moment.wall.duration_since(record.since).unwrap_or_default();
            let is_there = match self.by_key.get(key) {
                Some(choice) => choice.latest.is_some(),
                None => world.records.get(key).is_some_and(|record| record.text.is_some()),
            };
            if is_there || age >= kept_for {
                return None;
            }
            let good = read_text(world, key, text).ok()?;
            let lost = LostInstance {
                key: key.clone(),
                full_key,
                address: registered_address(&good.parsed.document)?,
                good,
                at: intake.moment.instant.checked_sub(age)?,
                since_wall: record.since,
                kept,
                kept_for,
            };
            Some((key.clone(), lost))
        });

        kept.collect()
    }

    fn lost_instances(&self, intake: &Intake) -> Vec<(DocumentKey, LostInstance)> {
        let services = self
            .by_key
            .iter()
            .filter(|(key, choice)| key.kind == Kind::Services && choice.latest.is_none());
        let lost = services.filter_map(|(key, choice)| {
            // A key without a text was lost before, and is kept.
            let record = intake.world.records.get(key).filter(|record| record.text.is_some())?;
            let good = record.serving.clone()?;
            let lost = LostInstance {
                key: key.clone(),
                full_key: Arc::clone(&choice.full_key),
                address: registered_address(&good.parsed.document)?,
                good,
                at: intake.moment.instant,
                since_wall: intake.moment.wall,
                kept: false,
                kept_for: KEPT_FOR,
            };
            Some((key.clone(), lost))
        });

        lost.collect()
    }

    /// The addresses of a cluster's existing instances.
    fn live_addresses(&self, world: &World, cluster: &str) -> BTreeSet<Address> {
        let is_there = |key: &DocumentKey| {
            !self.by_key.contains_key(key) && world.records.get(key).is_some_and(|record| record.text.is_some())
        };
        let unchanged = world.compiled.registrations(cluster).filter(|(key, _)| is_there(key));
        let mut live: BTreeSet<Address> = unchanged.map(|(_, address)| address.clone()).collect();
        let first = DocumentKey::new(Kind::Services, format!("{cluster}/"));
        let changed = self
            .by_key
            .range(first..)
            .take_while(|(key, _)| key.first_segment() == cluster);
        let there = changed.filter(|(key, choice)| key.kind == Kind::Services && choice.latest.is_some());
        live.extend(there.filter_map(|(_, choice)| registered_address(&choice.serving()?.parsed.document)));
        live
    }
}

/// Whether the own entry of an instance says all that the recalled one says.
fn is_as_late(own: &LostInstance, recalled: &LostInstance) -> bool {
    let is_as_kept = own.kept || !recalled.kept;
    is_as_kept && own.good.text.mod_revision >= recalled.good.text.mod_revision
}

/// Whether another replica released an instance that is kept here: its record was deleted.
fn is_let_go_elsewhere(intake: &Intake, lost: &LostInstance) -> bool {
    let was_read = intake.recalled_instances.contains(&lost.key);
    was_read && intake.world.memory.held(&lost.full_key).is_none()
}

fn registered_address(document: &Document) -> Option<Address> {
    match document {
        Document::Endpoint(registration) => Some(address(registration.endpoint())),
        _ => None,
    }
}
