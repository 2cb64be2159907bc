//! The part of documents in a plan: the revisions that alter a text, and the documents that they alter.
//!
//! Registrations, files that are read again and progress of the store are no changes of documents. A put of an equal
//! value and a deletion of an absent key are none either.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::backend::{Change, Entry, Event, ListReason};
use crate::document::key::{DocumentKey, Root};
use crate::reconcile::plan::Input;
use crate::reconcile::world::World;
use crate::snapshot::steps::Cause;

/// The cause of a plan of these inputs on this world, of which the newest change has the revision `newest`; `None`: no
/// document takes part.
pub(super) fn cause(world: &World, inputs: &[Input], newest: i64) -> Option<Cause> {
    let mut cause = Reading {
        world,
        revisions: BTreeSet::new(),
        documents: Some(BTreeSet::new()),
        values: BTreeMap::new(),
        takes_part: false,
    };
    inputs.iter().for_each(|input| cause.read(input, newest));
    cause.takes_part.then(|| Cause {
        revisions: cause.revisions.into_iter().collect(),
        documents: cause.documents,
    })
}

struct Reading<'a> {
    world: &'a World,
    revisions: BTreeSet<i64>,
    documents: Option<BTreeSet<DocumentKey>>,
    /// The values of the inputs so far; `None`: the key is deleted.
    values: BTreeMap<DocumentKey, Option<&'a Bytes>>,
    takes_part: bool,
}

impl<'a> Reading<'a> {
    fn read(&mut self, input: &'a Input, newest: i64) {
        match input {
            Input::Event { root, .. } if root.is_registrations() => {}
            Input::Event { root, event } => match event {
                Event::Changed { revision, changes } => self.changed(root, *revision, changes),
                Event::Listed {
                    revision,
                    reason,
                    entries,
                } => {
                    let newest = if *reason == ListReason::Fork { 0 } else { newest };
                    self.listed(root, *revision, entries, newest);
                }
                Event::Problems { .. } | Event::Reached { .. } | Event::Alive | Event::Failed { .. } => {}
            },
            Input::Unfollowed(_) | Input::Reached { .. } | Input::Published | Input::ReadAgain(_) => {}
            // An earlier text begins or ends to serve.
            Input::Saved { .. }
            | Input::Remembered { .. }
            | Input::Found { .. }
            | Input::Release(_)
            | Input::Refused(_)
            | Input::Accepted { .. }
            | Input::TryAgain(_)
            | Input::Tick => self.take_any(),
        }
    }

    fn take_any(&mut self) {
        (self.takes_part, self.documents) = (true, None);
    }

    fn changed(&mut self, root: &Root, revision: i64, changes: &'a [Change]) {
        for change in changes {
            let key = self.world.options().layout.locate(root, change.key());
            let value = match change {
                Change::Put(entry) => Some(&entry.value),
                Change::Delete { .. } => None,
            };
            let before = match self.values.get(&key) {
                Some(before) => *before,
                None => self.value_of(&key),
            };
            if before != value {
                self.takes_part = true;
                self.revisions.insert(revision);
                self.documents.iter_mut().for_each(|all| {
                    all.insert(key.clone());
                });
            }
            self.values.insert(key, value);
        }
    }

    fn value_of(&self, key: &DocumentKey) -> Option<&'a Bytes> {
        let latest = self.world.document(key)?.latest.as_ref()?;
        Some(&latest.value)
    }

    /// Later revisions of the entries, and the list's own revision if a document is gone.
    fn listed(&mut self, root: &Root, revision: i64, entries: &[Entry], newest: i64) {
        self.take_any();
        let later = entries.iter().map(|entry| entry.mod_revision);
        self.revisions.extend(later.filter(|of| *of > newest));

        let layout = &self.world.options().layout;
        let is_gone = |full_key: &str| {
            layout.root_of(full_key.as_bytes()).as_ref() == Some(root)
                && entries
                    .binary_search_by(|entry| (*entry.key).cmp(full_key.as_bytes()))
                    .is_err()
        };
        if self.world.documents().any(|status| is_gone(&status.full_key)) {
            self.revisions.insert(revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::{Kind, Layout};
    use crate::reconcile::plan::plan;
    use crate::reconcile::run::now;
    use crate::reconcile::world::Options;

    const ROUTE: &str = r#"{"match":"/a","to":{"respond":{"status":200}}}"#;

    fn world() -> World {
        World::new(Options {
            layout: Layout::default(),
            confirm_mass_loss: false,
            has_leases: true,
            re2_max_program_size: 100,
            ca_bundle: None,
            access_log_dir: "/var/log".into(),
            vault: crate::document::secret::Vault::default(),
        })
    }

    fn put(name: &str, text: &'static str, mod_revision: i64) -> Entry {
        Entry {
            key: format!("/gateway/routes/{name}").into(),
            value: text.into(),
            create_revision: 1,
            mod_revision,
            leased: false,
        }
    }

    fn event(root: Root, event: Event) -> Input {
        Input::Event { root, event }
    }

    fn changed(revision: i64, changes: Vec<Change>) -> Input {
        event(Root::Documents, Event::Changed { revision, changes })
    }

    fn listed(revision: i64, entries: Vec<Entry>) -> Input {
        let reason = ListReason::Start;
        let listed = Event::Listed {
            revision,
            reason,
            entries,
        };
        event(Root::Documents, listed)
    }

    #[test]
    fn only_altered_texts_are_changes() {
        let empty = world();
        let first = listed(9, vec![put("a", ROUTE, 3), put("b", ROUTE, 7)]);
        let found = cause(&empty, std::slice::from_ref(&first), 0).unwrap();
        assert_eq!((found.revisions, found.documents), (vec![3, 7], None));

        let world = plan(&empty, vec![first], now()).world;
        let equal = changed(10, vec![Change::Put(put("a", ROUTE, 10))]);
        let absent = changed(
            11,
            vec![Change::Delete {
                key: "/gateway/routes/x".into(),
            }],
        );
        assert_eq!(cause(&world, &[equal, absent], 7), None);

        let registered = event(
            Root::Registrations,
            Event::Changed {
                revision: 12,
                changes: vec![Change::Delete {
                    key: "/services/x/1".into(),
                }],
            },
        );
        assert_eq!(cause(&world, &[registered, Input::Published], 7), None);

        let inputs = [
            changed(13, vec![Change::Put(put("a", "{}", 13))]),
            changed(14, vec![Change::Put(put("a", ROUTE, 14))]),
            changed(
                15,
                vec![Change::Delete {
                    key: "/gateway/routes/b".into(),
                }],
            ),
        ];
        let found = cause(&world, &inputs, 7).unwrap();
        assert_eq!(found.revisions, [13, 14, 15], "there and back are two changes");
        let keys = ["a", "b"].map(|name| DocumentKey::new(Kind::Routes, name));
        assert_eq!(found.documents, Some(BTreeSet::from(keys)));
    }

    #[test]
    fn a_document_that_a_list_lacks_is_deleted_by_its_revision() {
        let world = plan(
            &world(),
            vec![listed(9, vec![put("a", ROUTE, 3), put("b", ROUTE, 7)])],
            now(),
        )
        .world;
        let found = cause(&world, &[listed(20, vec![put("b", ROUTE, 7)])], 7).unwrap();
        assert_eq!(found.revisions, [20]);
        let found = cause(&world, &[listed(20, vec![put("a", ROUTE, 3), put("b", ROUTE, 7)])], 7).unwrap();
        assert_eq!(found.revisions, [0; 0]);
    }
}
