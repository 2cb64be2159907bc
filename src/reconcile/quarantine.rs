//! Quarantine: texts that pass every check, and that every proxy refuses which has answered.
//!
//! In: refusals, by a [`Refusal`] a document. Out: a record below `<state-prefix>quarantine/` that names the text which
//! serves instead. The record alone decides, on the replica that wrote it too: so all replicas fall back at the same
//! revision of the store. The record holds for one `mod_revision`. A new text ends it, and so does a release.
//!
//! If a replica reads a record of content that one of its proxies has accepted ([`Witness`](super::refusal::Witness)), the replica marks the record
//! as accepted: the refusal is the trouble of some hosts, and the document serves everywhere. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use super::hold::Origin;
use super::memory::{Content, Folder, Known, MemoryWrite, Quarantine, Record};
use super::refusal::{Awaited, Refusal};
use super::text::Text;
use super::world::{Record as Document, World};
use crate::document::key::{DocumentKey, Kind};
use crate::resource::refused::RefusedResource;

/// A document that does not serve its latest text, because proxies refuse that.
#[derive(Debug, Clone, Copy)]
pub struct Quarantined<'a> {
    /// The document.
    pub key: &'a DocumentKey,
    /// The `mod_revision` of its latest text.
    pub about: i64,
    /// When the record was written.
    pub since: SystemTime,
    /// What the record says.
    pub quarantine: &'a Quarantine,
}

/// What follows from a refusal.
pub(super) enum Answer {
    /// Nothing: it is about content that does not serve any more, or that a proxy has accepted.
    Nothing,
    /// A record is to be written.
    Write(MemoryWrite),
    /// The text that serves instead is to be looked for in the store's history.
    Search(Awaited),
}

/// A refusal arrived.
pub(super) fn on_refusal(world: &World, refusal: Refusal, now: SystemTime) -> Answer {
    let Some(document) = world.records.get(&refusal.key) else {
        return Answer::Nothing;
    };
    let (Some(latest), Some(serving)) = (&document.text, &document.serving) else {
        return Answer::Nothing;
    };
    let serves = |refused: &RefusedResource| {
        let resource = world
            .compiled
            .resource(&refused.group, refused.resource_type, &refused.name);
        resource.is_some_and(|resource| refused.is_in(&refusal.key, resource))
    };
    let is_accepted = quarantine_at(world, document, latest).is_some_and(|(_, quarantine)| quarantine.is_accepted);
    if is_accepted || !refusal.resources.iter().any(serves) {
        return Answer::Nothing;
    }

    let refused = serving.text.mod_revision;
    let is_older = |text: &&Arc<Text>| text.mod_revision < refused && text.is_of_one_life(latest);
    let last_good = world
        .memory
        .last_good(&document.status.full_key)
        .and_then(|known| known.record.text());
    let known = [document.before.as_ref(), last_good]
        .into_iter()
        .flatten()
        .find(is_older);
    match known {
        None if refusal.key.kind != Kind::Services => Answer::Search(Awaited {
            refusal: Arc::new(refusal),
            refused,
        }),
        text => Answer::Write(record(world, document, latest, text.cloned(), &refusal, now)),
    }
}

/// The history of a document was searched: texts that parse, oldest first.
pub(super) fn on_found(world: &World, awaited: &Awaited, texts: &[Arc<Text>], now: SystemTime) -> Option<MemoryWrite> {
    let document = world.records.get(&awaited.refusal.key)?;
    let (latest, serving) = (document.text.as_ref()?, document.serving.as_ref()?);
    if serving.text.mod_revision != awaited.refused {
        return None;
    }
    let is_older = |text: &&Arc<Text>| text.mod_revision < awaited.refused && text.is_of_one_life(latest);
    let text = texts.iter().rev().find(is_older).cloned();
    Some(record(world, document, latest, text, &awaited.refusal, now))
}

fn record(
    world: &World,
    document: &Document,
    latest: &Text,
    text: Option<Arc<Text>>,
    refusal: &Refusal,
    now: SystemTime,
) -> MemoryWrite {
    let full_key = &document.status.full_key;
    let quarantine = Quarantine {
        resources: refusal.resources.clone(),
        reason: Arc::clone(&refusal.reason),
        is_sole_suspect: refusal.is_sole_suspect,
        is_accepted: false,
    };
    let record = Record {
        about: latest.mod_revision,
        since: now,
        content: Content::Refused(text, Arc::new(quarantine)),
    };
    let known = world.memory.quarantine(full_key);
    MemoryWrite::over(known, Folder::Quarantine, Arc::clone(full_key), Some(record))
}

/// The write that ends the quarantine of a key.
pub(super) fn end(full_key: &Arc<str>, known: &Known) -> MemoryWrite {
    MemoryWrite::over(Some(known), Folder::Quarantine, Arc::clone(full_key), None)
}

/// The record of a key, after one of this replica's proxies has accepted the text; and the write that tells the others.
pub(super) fn accepted(full_key: &Arc<str>, known: &Known) -> Option<(Known, MemoryWrite)> {
    let Content::Refused(text, quarantine) = &known.record.content else {
        return None;
    };
    let quarantine = Quarantine {
        is_accepted: true,
        ..(**quarantine).clone()
    };
    let record = Record {
        content: Content::Refused(text.clone(), Arc::new(quarantine)),
        ..known.record.clone()
    };
    let full_key = Arc::clone(full_key);
    let write = MemoryWrite::over(Some(known), Folder::Quarantine, full_key, Some(record.clone()));
    let known = Known {
        record,
        ..known.clone()
    };
    Some((known, write))
}

/// The quarantine of this text, and the text that serves instead.
pub(super) fn of_text<'a>(
    world: &'a World,
    full_key: &str,
    latest: &Text,
) -> Option<(Option<&'a Arc<Text>>, &'a Arc<Quarantine>)> {
    let known = world.memory.quarantine(full_key)?;
    match &known.record.content {
        Content::Refused(text, quarantine) if known.record.about == latest.mod_revision => {
            Some((text.as_ref(), quarantine))
        }
        _ => None,
    }
}

fn quarantine_at<'a>(
    world: &'a World,
    document: &Document,
    latest: &Text,
) -> Option<(Option<&'a Arc<Text>>, &'a Arc<Quarantine>)> {
    of_text(world, &document.status.full_key, latest)
}

impl World {
    /// Whether an earlier text of a refused document is being looked for.
    pub(super) fn is_refusal_open(&self, key: &DocumentKey) -> bool {
        self.awaited.contains_key(key)
    }

    /// Records of the quarantine about latest texts, with full key and refused text.
    pub(super) fn refused_texts(&self) -> impl Iterator<Item = (&Arc<str>, &Record, &Arc<Text>)> {
        let layout = &self.options.layout;
        let full_keys = self.memory.keys(Folder::Quarantine);
        full_keys.filter_map(|full_key| {
            let root = layout.root_of(full_key.as_bytes())?;
            let document = self.records.get(&layout.locate(&root, full_key.as_bytes()))?;
            let (known, text) = (self.memory.quarantine(full_key)?, document.text.as_ref()?);
            (known.record.about == text.mod_revision).then_some((full_key, &known.record, text))
        })
    }

    /// Whether every document in the world is of the store, not of the state directory.
    pub(super) fn has_listed_documents(&self) -> bool {
        let mut roots = self.roots.iter();
        roots.all(|(root, state)| root.is_registrations() || state.origin == Origin::Store)
    }

    /// Documents that do not serve their latest text, because proxies refuse that; sorted.
    pub fn quarantined(&self) -> impl Iterator<Item = Quarantined<'_>> {
        let full_keys = self.memory.keys(Folder::Quarantine);
        full_keys.filter_map(|full_key| {
            let root = self.options.layout.root_of(full_key.as_bytes())?;
            let key = self.options.layout.locate(&root, full_key.as_bytes());
            let (key, document) = self.records.get_key_value(&key)?;
            let (_, quarantine) = quarantine_at(self, document, document.text.as_ref()?)?;
            let known = self.memory.quarantine(full_key)?;
            (!quarantine.is_accepted).then_some(Quarantined {
                key,
                about: known.record.about,
                since: known.record.since,
                quarantine,
            })
        })
    }
}
