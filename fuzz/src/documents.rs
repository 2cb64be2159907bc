//! Documents: their keys and texts through parse, check and compile.
//!
//! An input is a list of documents, each a line with its key below the prefix, and its text.

use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use chancery::backend::{Entry, Event, ListReason};
use chancery::document::key::{Layout, Root};
use chancery::document::secret::Vault;
use chancery::document::secret::sealed::Keys;
use chancery::document::{self, Limits};
use chancery::proto::json::to_json;
use chancery::reconcile::plan::{Input, Moment, Plan, plan};
use chancery::reconcile::world::{Options, State, World};

use crate::{check_sentence, parts};

/// Documents of one input.
const DOCUMENTS: usize = 6;

/// The documents of an input, by full key.
pub(crate) fn entries(input: &[u8]) -> Vec<(Root, Entry)> {
    let layout = Layout::default();
    let mut entries: Vec<(Root, Entry)> = Vec::new();
    for (part, revision) in parts(input).take(DOCUMENTS).zip(1..) {
        let line = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
        let (key, text) = part.split_at(line);
        let key = match key.strip_prefix(b"services/") {
            Some(key) => [layout.registry_prefix.as_bytes(), key].concat(),
            None => [layout.prefix.as_bytes(), key].concat(),
        };
        let Some(root) = layout.root_of(&key) else { continue };
        entries.retain(|(_, entry)| entry.key != key);
        let entry = Entry {
            key: key.into(),
            value: Bytes::copy_from_slice(text.get(1..).unwrap_or_default()),
            create_revision: revision,
            mod_revision: revision,
            leased: false,
        };
        entries.push((root, entry));
    }
    entries.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
    entries
}

/// A vault with one key, the same in every process.
pub(crate) fn vault() -> Vault {
    static VAULT: LazyLock<Vault> = LazyLock::new(|| {
        let keys = Keys::read("k1 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").expect("a key");
        Vault::new("/gateway/", Some(keys), false, None)
    });
    VAULT.clone()
}

/// A world without documents.
pub(crate) fn world() -> World {
    World::new(Options {
        layout: Layout::default(),
        confirm_mass_loss: false,
        has_leases: true,
        re2_max_program_size: 100,
        ca_bundle: None,
        access_log_dir: "/var/log".into(),
        vault: vault(),
    })
}

/// Plan at a moment that is always the same one of the wall clock.
pub(crate) fn plan_now(world: &World, inputs: Vec<Input>) -> Plan {
    let moment = Moment {
        instant: Instant::now(),
        wall: SystemTime::UNIX_EPOCH,
    };
    plan(world, inputs, moment)
}

/// The lists of both roots.
pub(crate) fn lists(entries: &[(Root, Entry)], revision: i64) -> Vec<Input> {
    let list = |root: Root| Input::Event {
        event: Event::Listed {
            revision,
            reason: ListReason::Start,
            entries: entries
                .iter()
                .filter(|(of, _)| *of == root)
                .map(|(_, entry)| entry.clone())
                .collect(),
        },
        root,
    };
    [Root::Documents, Root::Registrations].map(list).into()
}

pub(crate) fn run(input: &[u8]) {
    let entries = entries(input);
    let layout = Layout::default();
    for (root, entry) in &entries {
        let key = layout.locate(root, &entry.key);
        match document::parse(&key, &entry.value, &Limits::default()) {
            Ok(parsed) => parsed.warnings.iter().for_each(|warning| check_sentence(warning)),
            Err(rejection) => check_sentence(&rejection.to_string()),
        }
    }

    let planned = plan_now(&world(), lists(&entries, 100));
    for status in planned.world.documents() {
        status
            .reason
            .iter()
            .chain(&status.warnings)
            .for_each(|sentence| check_sentence(sentence));
        if status.state == State::Rejected {
            assert!(status.reason.is_some(), "rejected without a reason: {}", status.key);
        }
    }
    check_resources(&planned.world);

    // A restart with the same documents changes nothing.
    let again = plan_now(&planned.world, lists(&entries, 100));
    assert!(again.difference.is_empty(), "the same documents make other resources");
}

/// Each resource is a message of its type.
fn check_resources(world: &World) {
    for (_, resource_type, resource) in world.compiled().resources() {
        let bytes = resource.body.to_bytes();
        let json = to_json(resource_type.type_url(), &bytes);
        let json = json.unwrap_or_else(|error| panic!("{resource_type} {}: {error}", resource.name));
        assert!(json.is_object(), "{resource_type} {}", resource.name);
        assert!(Arc::strong_count(&resource.name) > 0 && !resource.name.is_empty());
    }
}
