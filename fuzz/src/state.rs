//! State files: a load gives the saved entries, and damage adds none.
//!
//! An input is damage, then documents in the form of the target `documents`. Of the damage, each four bytes are one
//! change: the file, the kind, the place. If there is none, all must load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use chancery::backend::memory::Memory;
use chancery::backend::{Change, Entry, Event};
use chancery::document::key::{Layout, Root};
use chancery::reconcile::memory::Folder;
use chancery::reconcile::persist::disk::Disk;
use chancery::reconcile::persist::shared::Shared;
use chancery::reconcile::persist::unsaved::Unsaved;
use chancery::reconcile::plan::Input;
use chancery::reconcile::world::World;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::check_sentence;
use crate::documents::{entries, lists, plan_now, vault, world};

/// The kind of damage that changes one bit.
const FLIP: u8 = 3;

/// Texts by full key.
type Texts = BTreeMap<Bytes, Bytes>;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
});

/// A folder in memory, if the system has one: every save is synced.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a folder")
}

fn disk(folder: &Path) -> Disk {
    let disk = Disk::open(folder, Layout::default(), "etcd").expect("a state directory");
    disk.sealed_by(vault())
}

pub(crate) fn run(input: &[u8]) {
    let length = usize::from(input.first().copied().unwrap_or_default() % 16) * 4;
    let rest = input.get(1..).unwrap_or_default();
    let (damage, documents) = rest.split_at(length.min(rest.len()));
    read_record(documents);

    let entries = entries(documents);
    let folder = folder();
    let first = plan_now(&world(), lists(&entries, 100)).world;
    let changes = entries.first().map(|(root, entry)| changed(root.clone(), entry));
    let last = plan_now(&first, changes.into_iter().collect()).world;
    RUNTIME.block_on(save(folder.path(), [&first, &last]));

    let saved = [serving(&first), serving(&last)];
    if damage.is_empty() {
        let loaded = load(folder.path()).expect("a state directory that was just written");
        assert_eq!(loaded, saved[1], "what loads is not what was saved");
        return;
    }

    damage.chunks(4).for_each(|change| harm(folder.path(), change));
    // What is still whole loads, or a sentence says why nothing does.
    let loaded = load(folder.path());
    if let ([_, kind, ..], Some(loaded)) = (damage, loaded)
        && damage.len() == 4
        && kind % 5 == FLIP
    {
        let was_saved = |(key, text)| saved.iter().any(|saved| saved.get(key) == Some(text));
        assert!(loaded.iter().all(was_saved), "damage made a text: {loaded:?}");
        // A bit may be the end of a line, and so of two.
        assert!(
            loaded.len() + 2 >= saved[1].len(),
            "one bit cost {saved:?}, left {loaded:?}"
        );
    }

    // The directory serves again.
    RUNTIME.block_on(save(folder.path(), [&first, &last]));
    let loaded = load(folder.path()).expect("a state directory that was written anew");
    assert_eq!(loaded, saved[1], "what loads is not what was saved over damaged files");
}

/// The first document is written again, with spaces behind it.
fn changed(root: Root, entry: &Entry) -> Input {
    let entry = Entry {
        value: [&*entry.value, b"  "].concat().into(),
        mod_revision: 101,
        ..entry.clone()
    };
    Input::Event {
        root,
        event: Event::Changed {
            revision: 101,
            changes: vec![Change::Put(entry)],
        },
    }
}

/// Save two worlds, one after the other: the first as a whole, the second as its difference.
async fn save(folder: &Path, [first, last]: [&World; 2]) {
    let (sender, receiver) = watch::channel(None);
    let token = CancellationToken::new();
    sender.send_replace(Some(Arc::new(first.clone())));
    let earlier = stamp(folder);
    let saver = tokio::spawn(disk(folder).run(receiver, token.clone()));
    while stamp(folder) == earlier {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    sender.send_replace(Some(Arc::new(last.clone())));
    token.cancel();
    saver.await.expect("the saver ends");
}

/// Tells one state file from the next.
fn stamp(folder: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(fs::metadata(folder.join("serving.json")).ok()?.ino())
}

/// The texts of a state directory.
fn load(folder: &Path) -> Option<Texts> {
    match disk(folder).load() {
        Ok(saved) => Some(
            saved?
                .entries
                .into_iter()
                .map(|(_, entry)| (entry.key, entry.value))
                .collect(),
        ),
        Err(error) => {
            check_sentence(&error.to_string());
            None
        }
    }
}

/// The texts that serve in a world and can be saved: those of UTF-8.
fn serving(world: &World) -> Texts {
    let texts = world.documents().filter_map(|status| {
        let text = status.serving.as_ref()?;
        Some((Bytes::from(status.full_key.to_string()), text.value.clone()))
    });
    texts.collect()
}

/// One change of one file.
fn harm(folder: &Path, change: &[u8]) {
    let [file, kind, low, high] = change else { return };
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "lock"))
        .collect();
    files.sort();
    let Some(path) = files.get(usize::from(*file) % files.len().max(1)) else {
        return;
    };
    let mut content = fs::read(path).expect("a file");
    let place = usize::from(u16::from_le_bytes([*low, *high])) % (content.len() + 1);
    match kind % 5 {
        0 => content.truncate(place),
        1 => content.insert(place, *kind),
        2 => drop(content.drain(place..(place + usize::from(*kind)).min(content.len()))),
        FLIP => content
            .iter_mut()
            .skip(place)
            .take(1)
            .for_each(|byte| *byte ^= 1 << (kind % 8)),
        _ => {
            let copied = content[place..].to_vec();
            content.extend(copied);
        }
    }
    fs::write(path, content).expect("write a file");
}

/// A record of the shared memory: anything may be there.
fn read_record(value: &[u8]) {
    let shared = Shared::new(Arc::new(Memory::new()), "/chancery/", Unsaved::default(), vault());
    for folder in Folder::ALL {
        let entry = Entry {
            key: format!("{}/gateway/routes/a", shared.prefix_of(folder)).into(),
            value: Bytes::copy_from_slice(value),
            create_revision: 1,
            mod_revision: 1,
            leased: false,
        };
        let Some((full_key, known)) = shared.read(folder, &entry) else {
            continue;
        };
        // A replica that reads it has a world.
        let remembered = Input::Remembered {
            folder,
            whole: true,
            records: vec![(full_key, Some(known))],
        };
        drop(plan_now(&world(), vec![remembered]));
    }
}
