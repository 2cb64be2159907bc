//! What is saved is what is read, whatever way it took.

use std::time::SystemTime;

use super::*;
use crate::backend::{Change, Event, ListReason};
use crate::reconcile::memory::{Content, Folder, Known, Quarantine, Record};
use crate::reconcile::plan::{Input, Moment, plan};
use crate::reconcile::run::now;
use crate::reconcile::world::Options;

mod secrets;

/// A world, saved in a directory.
struct Stage {
    folder: tempfile::TempDir,
    saver: Saver,
    world: World,
    revision: i64,
    /// Spaces behind what is put.
    padding: usize,
}

fn disk(folder: &Path) -> Disk {
    Disk::open(folder, Layout::default(), "etcd").unwrap()
}

impl Stage {
    fn new(keys: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::default();
        let options = Options {
            layout,
            confirm_mass_loss: false,
            has_leases: true,
            re2_max_program_size: 100,
            ca_bundle: None,
            access_log_dir: "/var/log".into(),
            vault: Vault::default(),
        };
        let saver = Saver::new(disk(folder.path()));
        let mut stage = Self {
            folder,
            saver,
            world: World::new(options),
            revision: 1,
            padding: 0,
        };
        let entries = keys.iter().map(|key| entry(key, "", 1)).collect();
        let listed = |root, entries| Input::Event {
            root,
            event: Event::Listed {
                revision: 1,
                reason: ListReason::Start,
                entries,
            },
        };
        stage.plan(vec![
            listed(Root::Documents, entries),
            listed(Root::Registrations, Vec::new()),
        ]);
        stage
    }

    fn plan(&mut self, inputs: Vec<Input>) {
        let now = Moment {
            wall: SystemTime::UNIX_EPOCH,
            ..now()
        };
        self.world = plan(&self.world, inputs, now).world;
    }

    /// One revision: these are put with this body, those are deleted.
    fn change(&mut self, put: &[&str], body: &str, deleted: &[&str]) {
        self.revision += 1;
        let revision = self.revision;
        let deleted = deleted.iter().map(|key| Change::Delete {
            key: full_key(key).into(),
        });
        let padding = " ".repeat(self.padding).into_bytes();
        let padded = |entry: Entry| Entry {
            value: [&*entry.value, &padding].concat().into(),
            ..entry
        };
        let put = put.iter().map(|key| Change::Put(padded(entry(key, body, revision))));
        let changes = put.chain(deleted).collect();
        self.plan(vec![Input::Event {
            root: Root::Documents,
            event: Event::Changed { revision, changes },
        }]);
    }

    fn save(&mut self) {
        self.saver.save(Arc::new(self.world.clone())).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What the next process reads: the revision, and each key with its revision.
    fn loaded(&self) -> (i64, Vec<(String, i64)>) {
        let Saved { revision, entries } = disk(self.folder.path()).load().unwrap().unwrap();
        let name = |entry: &Entry| {
            String::from_utf8(entry.key.to_vec())
                .unwrap()
                .replace("/gateway/routes/", "")
        };
        (
            revision,
            entries
                .iter()
                .map(|(_, entry)| (name(entry), entry.mod_revision))
                .collect(),
        )
    }
}

fn full_key(name: &str) -> String {
    format!("/gateway/routes/{name}")
}

fn entry(name: &str, body: &str, revision: i64) -> Entry {
    let value = format!(r#"{{"match": "/{name}", "to": {{"respond": {{"status": 200, "body": "{body}"}}}}}}"#);
    let key = full_key(name).into();
    Entry {
        key,
        value: value.into(),
        create_revision: 1,
        mod_revision: revision,
        leased: false,
    }
}

fn texts(texts: &[(&str, i64)]) -> Vec<(String, i64)> {
    texts
        .iter()
        .map(|(name, revision)| ((*name).to_owned(), *revision))
        .collect()
}

#[test]
fn what_changed_is_appended_and_read_back() {
    let mut stage = Stage::new(&["a", "b", "c"]);
    stage.save();
    let state = fs::read(stage.folder.path().join(FILE)).unwrap();
    assert_eq!(
        (stage.files(), stage.loaded()),
        (vec![FILE.to_owned()], (1, texts(&[("a", 1), ("b", 1), ("c", 1)])))
    );
    stage.change(&["a", "d"], "x", &["b"]);
    stage.save();
    assert_eq!(stage.loaded(), (2, texts(&[("a", 2), ("c", 1), ("d", 2)])));
    stage.change(&["b"], "y", &["a"]);
    stage.save();
    stage.save();
    assert_eq!(stage.loaded(), (3, texts(&[("b", 3), ("c", 1), ("d", 2)])));
    assert_eq!(fs::read(stage.folder.path().join(FILE)).unwrap(), state);
    let journal = fs::read_to_string(stage.folder.path().join("changes-1.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 2, "{journal}");
}

#[test]
fn a_line_that_was_cut_short_is_as_if_it_were_not_there() {
    let mut stage = Stage::new(&["a"]);
    stage.save();
    for body in ["x", "y"] {
        stage.change(&["a"], body, &[]);
        stage.save();
    }
    let path = stage.folder.path().join("changes-1.jsonl");
    let journal = fs::read(&path).unwrap();
    for cut in [1, 10, 30] {
        fs::write(&path, &journal[..journal.len() - cut]).unwrap();
        assert_eq!(stage.loaded(), (2, texts(&[("a", 2)])));
    }
}

/// The state directory with one byte changed, at the first occurrence of `text` in the file.
fn damage(stage: &Stage, file: &str, text: &str) {
    let path = stage.folder.path().join(file);
    let content = fs::read_to_string(&path).unwrap();
    let at = content.find(text).unwrap();
    fs::write(&path, [&content[..at], "~", &content[at + 1..]].concat()).unwrap();
}

#[test]
fn a_damaged_line_of_the_journal_costs_no_other() {
    let damages = [("{\"revision\":3", "no JSON"), ("second", "another value")];
    for (text, what) in damages {
        let mut stage = Stage::new(&["a", "b", "c"]);
        stage.save();
        for (key, body) in [("a", "first"), ("b", "second"), ("c", "third")] {
            stage.change(&[key], body, &[]);
            stage.save();
        }
        damage(&stage, "changes-1.jsonl", text);
        assert_eq!(stage.loaded(), (4, texts(&[("a", 2), ("b", 1), ("c", 4)])), "{what}");
    }
}

#[test]
fn a_damaged_entry_of_the_state_file_costs_no_other() {
    let damages = [("{\"key\":\"/gateway/routes/b", "no JSON"), ("/b", "another value")];
    for (text, what) in damages {
        let mut stage = Stage::new(&["a", "b", "c"]);
        stage.save();
        stage.change(&["c"], "x", &[]);
        stage.save();
        damage(&stage, FILE, text);
        assert_eq!(stage.loaded(), (2, texts(&[("a", 1), ("c", 2)])), "{what}");
    }
    let mut stage = Stage::new(&["a"]);
    stage.save();
    damage(&stage, FILE, "{");
    assert!(matches!(disk(stage.folder.path()).load(), Err(Error::Format { .. })));
}

#[test]
fn a_second_user_of_the_directory_is_refused_and_an_existing_one_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let first = disk(folder.path()).lock().unwrap();
    assert_eq!((mode(folder.path()), mode(&folder.path().join(LOCK))), (0o750, 0o600));
    let error = disk(folder.path()).lock().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("another process uses the state directory"),
        "{error}"
    );
    drop(first);
    disk(folder.path()).lock().unwrap();
    let created = folder.path().join("new");
    disk(&created);
    assert_eq!(mode(&created), 0o700);
}

#[tokio::test(start_paused = true)]
async fn after_a_full_disk_the_state_is_written_without_a_change() {
    let mut stage = Stage::new(&["a"]);
    let disk = disk(stage.folder.path());
    let unsaved = disk.unsaved();
    let (worlds, token) = (watch::Sender::new(None), CancellationToken::new());
    let running = tokio::spawn(disk.run(worlds.subscribe(), token.clone()));
    let send = |stage: &Stage| worlds.send_replace(Some(Arc::new(stage.world.clone())));
    let file = stage.folder.path().join(FILE);
    send(&stage);
    while !file.exists() {
        tokio::time::sleep(PACE).await;
    }

    // Nothing can be written where another thing has the name.
    fs::create_dir(stage.folder.path().join("changes-1.jsonl")).unwrap();
    stage.change(&["a"], "x", &[]);
    send(&stage);
    while unsaved.sentences().is_empty() {
        tokio::time::sleep(PACE).await;
    }
    assert!(unsaved.failures(Place::Directory) > 0);

    fs::remove_dir(stage.folder.path().join("changes-1.jsonl")).unwrap();
    while !unsaved.sentences().is_empty() {
        tokio::time::sleep(PACE).await;
    }
    assert_eq!(stage.loaded(), (2, texts(&[("a", 2)])));
    token.cancel();
    running.await.unwrap();
}

#[test]
fn the_next_process_and_a_long_journal_begin_anew() {
    let mut stage = Stage::new(&["a", "b"]);
    stage.save();
    stage.change(&["a"], "x", &[]);
    stage.save();
    stage.saver = Saver::new(disk(stage.folder.path()));
    stage.save();
    assert_eq!(
        (stage.files(), stage.loaded()),
        (vec![FILE.to_owned()], (2, texts(&[("a", 2), ("b", 1)])))
    );
    stage.padding = JOURNAL_MIN / 2;
    for body in ["1", "2", "3"] {
        stage.change(&["a"], body, &[]);
        stage.save();
        assert_eq!(
            stage.loaded(),
            (stage.revision, texts(&[("a", stage.revision), ("b", 1)]))
        );
    }
    assert_eq!(stage.files(), [FILE], "the third save found two long lines");
    // A journal that a process left when it ended between the two steps belongs to no state file.
    fs::write(stage.folder.path().join("changes-1.jsonl"), "{").unwrap();
    assert_eq!(stage.loaded().0, stage.revision);
}

#[test]
fn after_a_failed_append_everything_is_written() {
    let mut stage = Stage::new(&["a"]);
    stage.save();
    // The journal cannot be made where something else is.
    fs::create_dir(stage.folder.path().join("changes-1.jsonl")).unwrap();
    stage.change(&["a"], "x", &[]);
    assert!(stage.saver.save(Arc::new(stage.world.clone())).is_err());
    fs::remove_dir(stage.folder.path().join("changes-1.jsonl")).unwrap();
    stage.save();
    assert_eq!(
        (stage.files(), stage.loaded()),
        (vec![FILE.to_owned()], (2, texts(&[("a", 2)])))
    );
}

#[test]
fn a_file_of_the_first_format_has_no_journal() {
    let stage = Stage::new(&[]);
    let entry =
        r#"{"key": "/gateway/routes/a", "value": "x", "create_revision": 1, "mod_revision": 7, "leased": false}"#;
    let file = |format: u32| format!(r#"{{"format": {format}, "revision": 9, "entries": [{entry}]}}"#);
    fs::write(stage.folder.path().join(FILE), file(1)).unwrap();
    assert_eq!(stage.loaded(), (9, texts(&[("a", 7)])));
    fs::write(stage.folder.path().join(FILE), file(FORMAT + 1)).unwrap();
    let error = disk(stage.folder.path()).load().unwrap_err().to_string();
    assert!(error.ends_with("found format 3, expected 2 at most"), "{error}");
}

#[test]
fn texts_of_another_store_are_not_loaded() {
    let mut stage = Stage::new(&["a"]);
    stage.save();
    let folder = stage.folder.path();
    let directory = Disk::open(folder, Layout::default(), "directory /gateway").unwrap();
    let error = directory.load().unwrap_err().to_string();
    let expected = "found texts of etcd (/gateway/ and /services/), \
                    expected directory /gateway (/gateway/ and /services/)";
    assert!(error.ends_with(expected), "{error}");

    let other_prefix = Layout {
        prefix: "/other/".into(),
        ..Layout::default()
    };
    let error = Disk::open(folder, other_prefix, "etcd").unwrap().load().unwrap_err();
    assert!(matches!(error, Error::OtherStore { .. }), "{error}");

    let more_routes = Layout {
        routes_prefixes: vec!["/old/".into()],
        ..Layout::default()
    };
    let saved = Disk::open(folder, more_routes, "etcd").unwrap().load().unwrap();
    assert_eq!(saved.map(|saved| saved.entries.len()), Some(1));
}

#[test]
fn a_file_that_names_no_store_is_loaded() {
    let mut stage = Stage::new(&["a"]);
    stage.save();
    let path = stage.folder.path().join(FILE);
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file.as_object_mut().unwrap().remove("source").unwrap();
    fs::write(&path, file.to_string()).unwrap();
    assert_eq!(stage.loaded().1, texts(&[("a", 1)]));
}

/// The records of the quarantine that a new process reads.
fn kept(folder: &Path) -> Vec<Kept> {
    disk(folder).keep_quarantine()
}

#[test]
fn the_quarantine_of_a_store_without_a_shared_memory_is_kept() {
    let refuse = |stage: &mut Stage| {
        let (full_key, record) = (
            full_key("a"),
            Record {
                about: 1,
                since: SystemTime::UNIX_EPOCH,
                content: Content::Refused(
                    None,
                    Arc::new(Quarantine {
                        resources: Vec::new(),
                        reason: "no".into(),
                        is_sole_suspect: true,
                        is_accepted: false,
                    }),
                ),
            },
        );
        stage.plan(vec![Input::Remembered {
            folder: Folder::Quarantine,
            whole: false,
            records: vec![(full_key.into(), Some(Known::new(record, "")))],
        }]);
    };
    let mut shared = Stage::new(&["a"]);
    refuse(&mut shared);
    shared.save();
    assert!(kept(shared.folder.path()).is_empty(), "etcd has it");

    let mut stage = Stage::new(&["a"]);
    stage.saver.disk.keep_quarantine();
    refuse(&mut stage);
    stage.save();
    let [kept_one] = &*kept(stage.folder.path()) else {
        panic!("one record")
    };
    let listed = |value: &'static str| {
        kept_one.about(&Entry {
            value: value.into(),
            ..entry("a", "", 70)
        })
    };
    let text = String::from_utf8(entry("a", "", 1).value.to_vec()).unwrap();
    assert_eq!(listed(text.leak()).map(|record| record.about), Some(70), "of this run");
    assert_eq!(listed("{}").map(|record| record.about), None, "another text");

    stage.change(&["a"], "new", &[]);
    stage.save();
    assert!(kept(stage.folder.path()).is_empty(), "a new text ends it");

    fs::write(stage.folder.path().join("quarantine.json"), "{").unwrap();
    assert!(kept(stage.folder.path()).is_empty());
}
