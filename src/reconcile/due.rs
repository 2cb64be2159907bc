//! The records that are due: the texts that a world serves, compared with the records of the shared memory.
//!
//! In: a world and the keys that a plan touched. Out: the writes that are missing. Each write expects the record that was
//! read before: of two replicas, one writes and the other reads. Pure; time is given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::hold::{Hold, Origin, RootState};
use super::memory::{Content, Folder, Known, KnownHold, MemoryWrite, Record, written};
use super::quarantine;
use super::text::Text;
use super::world::{Record as Document, World};
use crate::document::key::{DocumentKey, Root};

/// The records that are to be written so that they say what the world serves at `keys`, and what its roots hold.
pub(super) fn records(world: &World, keys: &BTreeSet<DocumentKey>, now: SystemTime) -> Vec<MemoryWrite> {
    let mut writes = Vec::new();
    if world.memory.listed.contains(&Folder::LastGood) && world.has_listed_documents() {
        writes.extend(keys.iter().filter_map(|key| last_good_due(world, key, now)));
    }
    if world.memory.listed.contains(&Folder::Held) {
        let holds = world.roots.keys().filter_map(|root| hold_due(world, root, now));
        let (ended, begun): (Vec<_>, Vec<_>) = holds.partition(is_released);
        // A replica that reads a hold finds the records of its keys beside it.
        writes.extend(ended);
        writes.extend(keys.iter().filter_map(|key| held_due(world, key)));
        writes.extend(begun);
    }
    writes.extend(keys.iter().filter_map(|key| quarantine_over(world, key)));
    writes
}

/// Last good records that an earlier batch of the plan was to delete, and that the whole plan leaves, count again. A
/// document may serve its latest text at one revision and conflict with another document at the next. Returns those of
/// these documents that have such a record.
pub(super) fn restore_kept(
    world: &mut World,
    keys: &BTreeSet<DocumentKey>,
    writes: &[MemoryWrite],
) -> BTreeSet<DocumentKey> {
    let of_last_good = writes.iter().filter(|write| write.folder == Folder::LastGood);
    let written: BTreeSet<&str> = of_last_good.map(|write| &*write.full_key).collect();
    let mut restored = BTreeSet::new();
    for key in keys {
        let (_, full_key) = place(world, key);
        let outdated = |known: &Known| known.is_outdated && !written.contains(&*full_key);
        if world.memory.last_good(&full_key).is_some_and(outdated) {
            world.memory.restore_last_good(&full_key);
            restored.insert(key.clone());
        }
    }
    restored
}

/// The root that a document's record speaks of, and the document's full key.
fn place(world: &World, key: &DocumentKey) -> (Root, Arc<str>) {
    let layout = &world.options.layout;
    let full_key: Arc<str> = match world.records.get(key) {
        Some(document) => Arc::clone(&document.status.full_key),
        None => layout.full_key(key).into(),
    };
    (layout.root_of(full_key.as_bytes()).unwrap_or(Root::Documents), full_key)
}

fn last_good_due(world: &World, key: &DocumentKey, now: SystemTime) -> Option<MemoryWrite> {
    let (root, full_key) = place(world, key);
    let state = world.roots.get(&root)?;
    let revision = state.revision;
    let known = world.memory.last_good(&full_key);
    let is_held = state.held_key(key).is_some();
    let document = world.records.get(key).map(|document| &**document);
    let record = match (fallback(document, key), known) {
        _ if document.is_some_and(|document| document.searching) => return None,
        (None, _) if let Some(text) = world.released.get(key) => {
            if world.memory.says_let_go(&full_key, text) {
                return None;
            }
            Some(Record {
                about: revision,
                since: now,
                content: Content::LetGo(Arc::clone(text)),
            })
        }
        (Some(_), Some(known)) if known.record.about > revision => return None,
        (Some(text), known) => {
            let latest = document.and_then(|document| document.text.as_ref());
            let about = latest.map_or(revision, |latest| latest.mod_revision);
            let said = known.and_then(|known| known.record.text().filter(|text| is_of_life(text, key, latest)));
            // Records only ever become later ones, lest two replicas replace each other's for ever.
            let is_said = known.is_some() && written(said) >= written(text);
            let is_contested = document.is_some_and(|document| document.is_contested());
            // A latest text that is good by itself serves unless the record is about that very text.
            if is_said && (!is_contested || known.is_some_and(|known| known.record.about >= about)) {
                return None;
            }
            let is_later = is_said && known.is_some_and(|known| !known.record.is_let_go());
            let later = if is_later { said } else { text };
            Some(Record {
                about,
                since: now,
                content: Content::Serves(later.cloned()),
            })
        }
        (None, None) => return None,
        // Decided already, by an earlier revision of this plan.
        (None, Some(known)) if known.is_outdated => None,
        // What the record is about is kept back here; or its text cannot serve here, and may be of use to others.
        (None, Some(_)) if is_held || document.is_some_and(|document| document.blocked.is_some()) => return None,
        // A cluster that was let go stays so until it is written anew.
        (None, Some(known)) if known.record.about > revision || (known.record.is_let_go() && document.is_none()) => {
            return None;
        }
        (None, Some(_)) => None,
    };

    Some(MemoryWrite::over(known, Folder::LastGood, full_key, record))
}

/// Whether a record may name a text in place of the latest one: none of an earlier life, except that of a document that
/// stays while others name it.
fn is_of_life(text: &Text, key: &DocumentKey, latest: Option<&Arc<Text>>) -> bool {
    key.stays_while_used() || latest.is_none_or(|latest| text.is_of_one_life(latest))
}

/// The end of a quarantine: the document has another text, or is gone.
fn quarantine_over(world: &World, key: &DocumentKey) -> Option<MemoryWrite> {
    let (root, full_key) = place(world, key);
    let state = world.roots.get(&root).filter(|state| state.origin == Origin::Store)?;
    let known = world.memory.quarantine(&full_key)?;
    let text = world.records.get(key).and_then(|document| document.text.as_ref());
    let is_about = text.is_some_and(|text| text.mod_revision == known.record.about);
    // A later text than this replica has read, or one that a guard holds, may be meant.
    let is_later = known.record.about > state.revision || state.held_key(key).is_some();
    (!is_about && !is_later).then(|| quarantine::end(&full_key, known))
}

/// The text that serves in place of the store's. `Some(None)`: no text serves, because the latest is good by itself and
/// conflicts with another document. `None`: the latest serves, or is bad and no earlier text is known.
fn fallback<'a>(document: Option<&'a Document>, key: &DocumentKey) -> Option<Option<&'a Arc<Text>>> {
    let document = document?;
    let is_blocked = document.blocked.as_ref().is_some_and(|blocked| !blocked.by_proxies);
    let is_behind = is_blocked || (document.text.is_none() && key.stays_while_used());
    let is_contested = document.is_contested();
    let text = document.serving.as_ref().map(|good| &good.text);
    let text = text.filter(|text| is_of_life(text, key, document.text.as_ref()));
    (is_behind && (text.is_some() || is_contested)).then_some(text)
}

fn held_due(world: &World, key: &DocumentKey) -> Option<MemoryWrite> {
    let (root, full_key) = place(world, key);
    let state = world.roots.get(&root).filter(|state| state.origin == Origin::Store)?;
    let known = world.memory.held(&full_key);
    let kept = state.served.get(key).map(|stored| &stored.text);
    let fallen_back = world
        .records
        .get(key)
        .and_then(|document| document.text_instead_of_bad());
    let lost = || {
        let source = world.sources.get(key.first_segment())?;
        source.lost.get(key).filter(|lost| lost.kept)
    };
    let (about, since, content) = match (state.held_key(key), known) {
        (Some((hold, _)), _) => (
            hold.revision,
            hold.since_wall,
            Content::Serves(fallen_back.or(kept).cloned()),
        ),
        (None, _)
            if root.is_registrations()
                && let Some(lost) = lost() =>
        {
            let content = Content::LostInstance(Arc::clone(&lost.good.text), lost.kept_for);
            (state.revision, lost.since_wall, content)
        }
        (None, None) => return None,
        (None, Some(known)) => {
            let hold = world.memory.hold(world.options.layout.prefix_of(&root));
            let hold = hold.filter(|hold| !hold.is_released);
            let is_over = hold.is_none_or(|hold| state.decided >= hold.about || state.serves_later_than(&hold));
            let knows_better = state.knows_that_acts(key) || is_over;
            return (known.record.about <= state.revision && knows_better)
                .then(|| MemoryWrite::over(Some(known), Folder::Held, full_key, None));
        }
    };

    // Of two replicas that hold different texts of a key, the later text is held; a bad text gives way to the one that
    // serves instead.
    let is_said = |record: &Record| {
        let (said, text) = (record.text(), content.text());
        let is_bad = fallen_back.is_some() && said == kept;
        let are_lost = [&record.content, &content].map(|content| matches!(content, Content::LostInstance(..)));
        // The revision of a lost instance is that at which its replica wrote it: it says nothing about the text.
        let is_as_late = are_lost == [true; 2] || record.about >= about;
        said == text || !is_bad && is_as_late && written(said) >= written(text)
    };
    if known.is_some_and(|known| is_said(&known.record)) {
        return None;
    }
    let record = Record { about, since, content };
    Some(MemoryWrite::over(known, Folder::Held, full_key, Some(record)))
}

fn is_released(write: &MemoryWrite) -> bool {
    let content = write.record.as_ref().map(|record| &record.content);
    matches!(content, Some(Content::Hold { is_released: true, .. }))
}

/// Whether the record of a root's hold is to become the hold of this replica: the recorded one is over, protects texts of
/// an earlier run while the proxies of this replica have later ones, or does not wait for an operator as this one does.
fn replaces(state: &RootState, hold: &Hold, known: &KnownHold) -> bool {
    let is_known_to_be_over = known.is_released || state.decided >= known.about;
    let is_over = is_known_to_be_over && known.about < hold.revision;
    let is_stricter = hold.shared().by_operator && !known.hold.by_operator;
    is_over || !known.is_released && (is_stricter || state.serves_later_than(known))
}

fn hold_due(world: &World, root: &Root, now: SystemTime) -> Option<MemoryWrite> {
    let prefix = world.options.layout.prefix_of(root);
    let state = world.roots.get(root).filter(|state| state.origin == Origin::Store)?;
    let record = match (state.hold(), world.memory.hold(prefix)) {
        (Some(hold), known) if known.is_none_or(|known| replaces(state, hold, &known)) => Record {
            about: hold.revision,
            since: hold.since_wall,
            content: Content::Hold {
                hold: hold.shared(),
                is_released: false,
            },
        },
        (None, Some(known)) if !known.is_released && state.decided >= known.about => Record {
            about: known.about,
            since: now,
            content: Content::Hold {
                hold: known.hold,
                is_released: true,
            },
        },
        _ => return None,
    };
    let known = world.memory.held(prefix);
    Some(MemoryWrite::over(known, Folder::Held, prefix.into(), Some(record)))
}
