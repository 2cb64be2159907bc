//! The directory backend over real folders, changed in the ways of editors, tools and volumes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use chancery::backend::directory::Directory;
use chancery::backend::{Backend, Change, Event, Expect, ListReason, ReadError, WatchControl, Write, WriteError};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

const PREFIX: &str = "/gateway/";
const REGISTRY: &str = "/services/";
/// Far below the 5 s between scans without a notice: an event within this time comes from a notice.
const NOTICED: Duration = Duration::from_secs(3);

/// A folder of documents, its state directory beside it, and the backend over both.
struct Folder {
    base: TempDir,
    backend: Directory,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let base = tempfile::tempdir().expect("a folder");
        fs::create_dir(base.path().join("gateway")).expect("make the folder");
        let backend = open(&base);
        let folder = Self { base, backend };
        for (name, content) in files {
            folder.write(name, content);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("gateway").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make the folder");
        fs::write(path, content).expect("write the file");
    }

    async fn keys(&self) -> Vec<String> {
        let (_, entries) = self.backend.list("/").await.expect("list");
        entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.key).into_owned())
            .collect()
    }

    async fn value(&self, key: &str) -> Option<Bytes> {
        self.backend
            .get(key.as_bytes())
            .await
            .expect("get")
            .map(|entry| entry.value)
    }
}

fn open(base: &TempDir) -> Directory {
    Directory::new(
        base.path().join("gateway"),
        PREFIX,
        REGISTRY,
        base.path().join("state"),
        "/chancery/",
    )
}

/// A running watch.
struct Watch {
    events: mpsc::Receiver<Event>,
    control: WatchControl,
    _stop: DropGuard,
}

impl Watch {
    fn start(folder: &Folder, prefix: &'static str) -> Self {
        let (sender, events) = mpsc::channel(16);
        let (control, token) = (WatchControl::default(), CancellationToken::new());
        let (backend, ask, stop) = (folder.backend.clone(), control.clone(), token.clone());
        tokio::spawn(async move { backend.watch(prefix, ask, sender, stop).await });
        Self {
            events,
            control,
            _stop: token.drop_guard(),
        }
    }

    /// Start and read the first list.
    async fn listed(folder: &Folder, prefix: &'static str) -> Self {
        let mut watch = Self::start(folder, prefix);
        assert!(matches!(
            watch.next().await,
            Event::Listed {
                reason: ListReason::Start,
                ..
            }
        ));
        watch
    }

    /// The next event but signs of life.
    async fn next(&mut self) -> Event {
        let next = async {
            loop {
                match self.events.recv().await.expect("the watch goes on") {
                    Event::Alive => {}
                    event => return event,
                }
            }
        };
        timeout(NOTICED, next).await.expect("no event in time")
    }

    /// The next change, as `key=value` for puts and `-key` for deletes.
    async fn next_change(&mut self) -> (i64, Vec<String>) {
        match self.next().await {
            Event::Changed { revision, changes } => (revision, changes.iter().map(shown).collect()),
            event => panic!("expected a change, got {event:?}"),
        }
    }

    async fn next_problems(&mut self) -> Vec<String> {
        match self.next().await {
            Event::Problems { problems } => problems.into_iter().map(|problem| problem.reason).collect(),
            event => panic!("expected problems, got {event:?}"),
        }
    }
}

fn shown(change: &Change) -> String {
    match change {
        Change::Put(entry) => {
            format!(
                "{}={}",
                String::from_utf8_lossy(&entry.key),
                String::from_utf8_lossy(&entry.value)
            )
        }
        Change::Delete { key } => format!("-{}", String::from_utf8_lossy(key)),
    }
}

fn write(key: &str, value: Option<&str>, expect: Expect) -> Write {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value,
        expect,
    }
}

#[tokio::test]
async fn the_tree_mirrors_the_keys() {
    let folder = Folder::new(&[
        ("defaults.json", "{}"),
        ("routes/a.json", "{}"),
        ("routes/b/list.yaml", "x: 1"),
        ("services/a/10.0.0.1:80.yml", "10.0.0.1:80"),
        ("README.md", "not a document"),
        ("routes/.hidden.json", "no"),
        ("routes/a.json~", "no"),
        ("routes/.a.json.swp", "no"),
        (".git/config.json", "no"),
    ]);
    let keys = [
        "/gateway/defaults",
        "/gateway/routes/a",
        "/gateway/routes/b/list",
        "/services/a/10.0.0.1:80",
    ];
    assert_eq!(folder.keys().await, keys);
    let (revision, entries) = folder.backend.list(REGISTRY).await.expect("list");
    assert_eq!(
        (
            revision,
            entries.len(),
            entries[0].create_revision,
            entries[0].mod_revision
        ),
        (1, 1, 0, 1)
    );
    assert!(matches!(
        folder.backend.get_at(b"/gateway/defaults", 1).await,
        Err(ReadError::NoHistory(1))
    ));
}

#[tokio::test]
async fn a_watch_tells_its_own_prefix_only() {
    let folder = Folder::new(&[("routes/a.json", "1"), ("services/a/1.json", "1")]);
    let mut watch = Watch::start(&folder, REGISTRY);
    let Event::Listed {
        revision: 1,
        reason: ListReason::Start,
        entries,
    } = watch.next().await
    else {
        panic!("expected a list");
    };
    assert_eq!(
        entries.iter().map(|entry| &entry.key[..]).collect::<Vec<_>>(),
        [b"/services/a/1"]
    );
    folder.write("routes/a.json", "2");
    // Revision 2 is none of its business.
    sleep(Duration::from_millis(200)).await;
    folder.write("services/a/2.json", "2");
    assert_eq!(watch.next_change().await, (3, vec!["/services/a/2=2".to_owned()]));
}

#[tokio::test]
async fn every_way_of_saving_is_noticed() {
    let folder = Folder::new(&[("routes/a.json", "1")]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    // In place.
    folder.write("routes/a.json", "2");
    assert_eq!(watch.next_change().await, (2, vec!["/gateway/routes/a=2".to_owned()]));
    // As vim and most others do: the old one set aside, a new one written and renamed.
    folder.write("routes/4913", "");
    fs::remove_file(folder.path("routes/4913")).expect("remove");
    fs::rename(folder.path("routes/a.json"), folder.path("routes/a.json~")).expect("rename");
    folder.write("routes/.a.json.tmp", "3");
    fs::rename(folder.path("routes/.a.json.tmp"), folder.path("routes/a.json")).expect("rename");
    fs::remove_file(folder.path("routes/a.json~")).expect("remove");
    assert_eq!(watch.next_change().await, (3, vec!["/gateway/routes/a=3".to_owned()]));
    // New folders in new folders.
    folder.write("routes/deep/er/b.json", "1");
    assert_eq!(
        watch.next_change().await,
        (4, vec!["/gateway/routes/deep/er/b=1".to_owned()])
    );
    folder.write("routes/deep/er/b.json", "2");
    assert_eq!(
        watch.next_change().await,
        (5, vec!["/gateway/routes/deep/er/b=2".to_owned()])
    );
    // Renamed, and removed with its folder.
    fs::rename(folder.path("routes/a.json"), folder.path("routes/c.yaml")).expect("rename");
    let renamed = vec!["-/gateway/routes/a".to_owned(), "/gateway/routes/c=3".to_owned()];
    assert_eq!(watch.next_change().await, (6, renamed));
    fs::remove_dir_all(folder.path("routes/deep")).expect("remove");
    assert_eq!(
        watch.next_change().await,
        (7, vec!["-/gateway/routes/deep/er/b".to_owned()])
    );
    // A folder of the same name again.
    folder.write("routes/deep/er/b.json", "3");
    assert_eq!(
        watch.next_change().await,
        (8, vec!["/gateway/routes/deep/er/b=3".to_owned()])
    );
    // The same content is written again. Nothing changed, so the next event belongs to the next write.
    folder.write("routes/c.yaml", "3");
    sleep(Duration::from_millis(100)).await;
    folder.write("routes/c.yaml", "4");
    assert_eq!(watch.next_change().await, (9, vec!["/gateway/routes/c=4".to_owned()]));
}

#[tokio::test]
async fn a_burst_is_one_revision() {
    let folder = Folder::new(&[]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    fs::create_dir(folder.path("routes")).expect("make the folder");
    for number in 0..50 {
        folder.write(&format!("routes/{number:02}.json"), "1");
    }
    let (revision, changes) = watch.next_change().await;
    assert_eq!((revision, changes.len()), (2, 50));
}

#[tokio::test]
async fn a_kubernetes_volume_is_swapped_as_a_whole() {
    let folder = Folder::new(&[
        ("routes/..2024_01/a.json", "1"),
        ("routes/..2024_01/b.json", "1"),
        ("routes/..2024_02/a.json", "2"),
        ("routes/..2024_02/b.json", "2"),
    ]);
    symlink("..2024_01", folder.path("routes/..data")).expect("link");
    for name in ["a.json", "b.json"] {
        symlink(format!("..data/{name}"), folder.path("routes").join(name)).expect("link");
    }
    let mut watch = Watch::listed(&folder, PREFIX).await;
    assert_eq!(folder.keys().await, ["/gateway/routes/a", "/gateway/routes/b"]);
    symlink("..2024_02", folder.path("routes/..data_tmp")).expect("link");
    fs::rename(folder.path("routes/..data_tmp"), folder.path("routes/..data")).expect("swap");
    let both = vec!["/gateway/routes/a=2".to_owned(), "/gateway/routes/b=2".to_owned()];
    assert_eq!(watch.next_change().await, (2, both));
}

#[tokio::test]
async fn a_replaced_root_is_followed_and_a_missing_one_is_a_failure() {
    let base = tempfile::tempdir().expect("a folder");
    for (release, value) in [("v1", "1"), ("v2", "2")] {
        fs::create_dir_all(base.path().join(release).join("routes")).expect("make the folder");
        fs::write(base.path().join(release).join("routes/a.json"), value).expect("write");
    }
    symlink("v1", base.path().join("gateway")).expect("link");
    let backend = open(&base);
    let folder = Folder { base, backend };
    let mut watch = Watch::listed(&folder, PREFIX).await;
    symlink("v2", folder.base.path().join("new")).expect("link");
    fs::rename(folder.base.path().join("new"), folder.base.path().join("gateway")).expect("swap");
    assert_eq!(watch.next_change().await, (2, vec!["/gateway/routes/a=2".to_owned()]));
    folder.write("routes/a.json", "3");
    assert_eq!(watch.next_change().await, (3, vec!["/gateway/routes/a=3".to_owned()]));

    fs::remove_file(folder.base.path().join("gateway")).expect("unlink");
    let Event::Failed { reason } = watch.next().await else {
        panic!("expected a failure")
    };
    assert!(reason.contains("gateway cannot be read"), "{reason}");
    symlink("v1", folder.base.path().join("gateway")).expect("link");
    let listed = loop {
        match watch.next().await {
            Event::Failed { .. } => {}
            event => break event,
        }
    };
    let Event::Listed {
        revision: 4,
        reason: ListReason::Reconnect,
        entries,
    } = listed
    else {
        panic!("{listed:?}")
    };
    assert_eq!(entries[0].value, "1");
}

#[tokio::test]
async fn an_unmounted_volume_is_an_empty_list_and_the_last_document_a_delete() {
    let base = tempfile::tempdir().expect("a folder");
    for file in ["volume/routes/a.json", "volume/clusters/b.json"] {
        let path = base.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make the folder");
        fs::write(path, "1").expect("write");
    }
    symlink("volume", base.path().join("gateway")).expect("link");
    let backend = open(&base);
    let folder = Folder { base, backend };
    let mut watch = Watch::listed(&folder, PREFIX).await;
    // One step, as an unmount is.
    fs::create_dir(folder.base.path().join("mount point")).expect("make a folder");
    symlink("mount point", folder.base.path().join("new")).expect("link");
    fs::rename(folder.base.path().join("new"), folder.base.path().join("gateway")).expect("swap");
    let event = watch.next().await;
    assert!(
        matches!(&event, Event::Listed { reason: ListReason::Reconnect, entries, .. } if entries.is_empty()),
        "{event:?}"
    );

    folder.write("routes/a.json", "1");
    watch.next_change().await;
    fs::remove_file(folder.path("routes/a.json")).expect("remove");
    let (_, changes) = watch.next_change().await;
    assert_eq!(changes, ["-/gateway/routes/a"], "its folder is still there");
}

#[tokio::test]
async fn the_second_file_of_a_key_is_a_problem_until_it_is_gone() {
    let folder = Folder::new(&[("routes/a.yaml", "second")]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    folder.write("routes/a.yml", "third");
    assert_eq!(
        watch.next_problems().await,
        ["routes/a.yml is a second file for the same key, routes/a.yaml serves"]
    );
    let refused = folder
        .backend
        .write(vec![write("/gateway/routes/a", None, Expect::Any)])
        .await;
    assert!(
        matches!(&refused, Err(WriteError::SecondFile(reason)) if reason.contains("would take this key")),
        "{refused:?}"
    );
    fs::remove_file(folder.path("routes/a.yml")).expect("remove");
    assert_eq!(watch.next_problems().await, Vec::<String>::new());
    folder.write("routes/a.json", "first");
    assert_eq!(
        watch.next_change().await,
        (2, vec!["/gateway/routes/a=first".to_owned()])
    );
    assert_eq!(
        watch.next_problems().await,
        ["routes/a.yaml is a second file for the same key, routes/a.json serves"]
    );
}

#[tokio::test]
async fn what_cannot_be_read_keeps_its_last_content() {
    let folder = Folder::new(&[("routes/a.json", "1")]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    // No user can read a dangling link, not even root.
    fs::remove_file(folder.path("routes/a.json")).expect("remove");
    symlink("nowhere", folder.path("routes/a.json")).expect("link");
    let problems = watch.next_problems().await;
    assert!(
        problems[0].starts_with("routes/a.json cannot be read: "),
        "{problems:?}"
    );
    assert_eq!(folder.value("/gateway/routes/a").await.as_deref(), Some(&b"1"[..]));
    symlink(".", folder.path("routes/loop")).expect("link");
    assert_eq!(watch.next_problems().await.len(), 2);
    assert_eq!(folder.keys().await, ["/gateway/routes/a"]);
}

#[tokio::test]
async fn of_a_file_too_large_one_byte_too_many_is_read() {
    let folder = Folder::new(&[("routes/a.json", &"x".repeat(3 << 20))]);
    assert_eq!(
        folder.value("/gateway/routes/a").await.map(|value| value.len()),
        Some((1 << 20) + 1)
    );
    let large = "x".repeat((1 << 20) + 1);
    let refused = folder
        .backend
        .write(vec![write("/gateway/routes/b", Some(&large), Expect::Any)])
        .await;
    assert!(
        matches!(&refused, Err(WriteError::TooLarge(reason)) if reason.contains("1048577 bytes")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_revision_survives_a_restart() {
    let folder = Folder::new(&[("routes/a.json", "1")]);
    assert_eq!(folder.backend.list("/").await.expect("list").0, 1);
    folder.write("routes/a.json", "2");
    assert_eq!(folder.backend.list("/").await.expect("list").0, 2);
    assert_eq!(
        open(&folder.base).list("/").await.expect("list").0,
        2,
        "the same folder, the same revision"
    );
    folder.write("routes/a.json", "3");
    assert_eq!(
        open(&folder.base).list("/").await.expect("list").0,
        3,
        "changed while nobody looked"
    );
    let mode = fs::metadata(folder.base.path().join("state"))
        .expect("the state directory")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_write_is_checked_and_keeps_the_extension() {
    let folder = Folder::new(&[("routes/a.yaml", "x: 1")]);
    fs::set_permissions(folder.path("routes/a.yaml"), fs::Permissions::from_mode(0o640)).expect("set the mode");
    let mut watch = Watch::listed(&folder, PREFIX).await;
    let (_, entries) = folder.backend.list(PREFIX).await.expect("list");
    let etag = Expect::Etag(folder.backend.etag(&entries[0]));
    let key = "/gateway/routes/a";
    let refused = folder
        .backend
        .write(vec![write(key, Some("x: 2"), Expect::Absent)])
        .await;
    assert!(matches!(&refused, Err(WriteError::Conflict { current: Some(entry), .. }) if *entry == entries[0]));

    let both = vec![
        write(key, Some("x: 2"), etag.clone()),
        write("/services/a/.1", Some("1"), Expect::Absent),
    ];
    assert_eq!(folder.backend.write(both).await.expect("write"), 2);
    assert_eq!(
        watch.next_change().await,
        (2, vec!["/gateway/routes/a=x: 2".to_owned()])
    );
    assert_eq!(fs::read_to_string(folder.path("routes/a.yaml")).expect("read"), "x: 2");
    assert_eq!(
        fs::metadata(folder.path("routes/a.yaml"))
            .expect("the file")
            .permissions()
            .mode()
            & 0o777,
        0o640
    );
    assert_eq!(
        fs::read_to_string(folder.path("services/a/%2E1.json")).expect("read"),
        "1"
    );

    let stale = folder.backend.write(vec![write(key, None, etag)]).await;
    assert!(matches!(stale, Err(WriteError::Conflict { .. })), "{stale:?}");
    assert_eq!(
        folder
            .backend
            .write(vec![write(key, Some("x: 2"), Expect::Any)])
            .await
            .expect("equal"),
        2
    );
    assert_eq!(
        folder
            .backend
            .write(vec![write(key, None, Expect::Any)])
            .await
            .expect("delete"),
        3
    );
    assert_eq!(watch.next_change().await, (3, vec!["-/gateway/routes/a".to_owned()]));
    assert!(!folder.path("routes/a.yaml").exists());
    let left: Vec<_> = fs::read_dir(folder.path("routes")).expect("read").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_write_never_leaves_the_folder() {
    let folder = Folder::new(&[]);
    for key in [
        "/gateway/../escaped",
        "/gateway//tmp/escaped",
        "/gateway/routes/",
        "/etc/escaped",
    ] {
        let refused = folder.backend.write(vec![write(key, Some("{}"), Expect::Any)]).await;
        assert!(
            matches!(&refused, Err(WriteError::InvalidKey(reason)) if reason.contains(key)),
            "{key}: {refused:?}"
        );
    }
    assert!(folder.keys().await.is_empty());
}

#[tokio::test]
async fn a_list_is_confirmed_when_asked() {
    let folder = Folder::new(&[("routes/a.json", "1")]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    watch.control.relist();
    let event = watch.next().await;
    assert!(
        matches!(
            event,
            Event::Listed {
                revision: 1,
                reason: ListReason::Confirm,
                ..
            }
        ),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_change_is_told_soon() {
    let folder = Folder::new(&[("routes/a.json", "1")]);
    let mut watch = Watch::listed(&folder, PREFIX).await;
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let start = Instant::now();
        folder.write("routes/a.json", &format!("x{number}"));
        watch.next_change().await;
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
