//! The etcd backend against real etcd processes.
//!
//! Each test has an etcd of its own. [`Mirror`] applies the events in order, as a receiver does; after any failure the
//! result must equal the content of etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chancery::backend::etcd::stats::WatchState;
use chancery::backend::etcd::{Etcd as Store, Options};
use chancery::backend::{
    Backend, Base, Change, Entry, Event, Expect, ListReason, Marked, Note, ReadError, Terms, Unchanged, WatchControl,
    Write, WriteError,
};
use etcd_client::{PutOptions, Txn, TxnOp};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::etcd::Etcd;
use crate::support::proxy::Proxy;

const PREFIX: &str = "/gateway/";
/// Longest wait for an event. The backend detects a frozen etcd after 7 to 10 s.
const LIMIT: Duration = Duration::from_secs(25);

/// A running watch, and the content that its events add up to.
struct Mirror {
    backend: Arc<Store>,
    control: WatchControl,
    events: mpsc::Receiver<Event>,
    token: CancellationToken,
    task: JoinHandle<()>,
    revision: i64,
    /// The newest revision up to which the watch claims to have sent all changes.
    claimed: i64,
    entries: BTreeMap<Bytes, Entry>,
}

impl Mirror {
    /// Follow the prefix; the first list is not read yet.
    fn start(backend: Store) -> Self {
        let backend = Arc::new(backend);
        let (sender, events) = mpsc::channel(4);
        let (control, token) = (WatchControl::default(), CancellationToken::new());
        let (follower, ask, stop) = (Arc::clone(&backend), control.clone(), token.clone());
        let task = tokio::spawn(async move { follower.watch(PREFIX, ask, sender, stop).await });
        Self {
            backend,
            control,
            events,
            token,
            task,
            revision: 0,
            claimed: 0,
            entries: BTreeMap::new(),
        }
    }

    /// Follow the prefix and read the first list.
    async fn listed(etcd: &Etcd) -> Self {
        let mut mirror = Self::start(backend(&[etcd.endpoint()]));
        assert_eq!(mirror.next_list().await, ListReason::Start);
        mirror
    }

    /// The next event, applied.
    async fn next(&mut self) -> Event {
        let event = timeout(LIMIT, self.events.recv())
            .await
            .expect("no event in time")
            .expect("the watch goes on");
        match &event {
            Event::Listed { revision, entries, .. } => {
                assert!(
                    entries.is_sorted_by(|one, other| one.key < other.key),
                    "a list is sorted by key"
                );
                self.entries = entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
                (self.revision, self.claimed) = (*revision, 0);
            }
            Event::Changed { revision, changes } => {
                assert!(*revision > self.revision, "revision {revision} after {}", self.revision);
                assert!(
                    *revision > self.claimed,
                    "revision {revision} after {} was claimed",
                    self.claimed
                );
                self.revision = *revision;
                for change in changes {
                    match change {
                        Change::Put(entry) => self.entries.insert(entry.key.clone(), entry.clone()),
                        Change::Delete { key } => self.entries.remove(key),
                    };
                }
            }
            Event::Reached { revision } => self.claimed = self.claimed.max(*revision),
            Event::Alive | Event::Failed { .. } | Event::Problems { .. } => {}
        }
        event
    }

    /// Events up to the next list; gives its reason.
    async fn next_list(&mut self) -> ListReason {
        loop {
            if let Event::Listed { reason, .. } = self.next().await {
                return reason;
            }
        }
    }

    /// Events up to the next change.
    async fn next_change(&mut self) -> (i64, Vec<Change>) {
        loop {
            if let Event::Changed { revision, changes } = self.next().await {
                return (revision, changes);
            }
        }
    }

    /// Events up to the next failure.
    async fn next_failure(&mut self) -> String {
        loop {
            if let Event::Failed { reason } = self.next().await {
                return reason;
            }
        }
    }

    /// Apply events until the mirror is at `revision` or later. Returns the number of changes.
    async fn reach(&mut self, revision: i64) -> usize {
        let mut changes = 0;
        while self.revision < revision {
            changes += usize::from(matches!(self.next().await, Event::Changed { .. }));
        }
        changes
    }

    /// The mirror equals the content of etcd.
    async fn assert_equal(&self) {
        let (_, entries) = self.backend.list(PREFIX).await.expect("list");
        let entries: BTreeMap<Bytes, Entry> = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        assert_eq!(self.entries, entries);
    }

    async fn stop(self) {
        self.token.cancel();
        timeout(Duration::from_secs(1), self.task)
            .await
            .expect("a cancelled watch ends")
            .expect("without a panic");
    }
}

fn backend(endpoints: &[String]) -> Store {
    Store::new(Options {
        endpoints: endpoints.to_vec(),
        ..Options::default()
    })
}

fn key(name: &str) -> Bytes {
    Bytes::from(format!("{PREFIX}{name}"))
}

fn write(name: &str, value: Option<&str>, expect: Expect) -> Write {
    Write {
        key: key(name),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        expect,
    }
}

async fn put(etcd: &Etcd, name: &str, value: impl Into<Vec<u8>>) -> i64 {
    let response = etcd
        .client()
        .await
        .put(key(name).as_ref(), value, None)
        .await
        .expect("put");
    response.header().expect("a header").revision()
}

async fn put_all(etcd: &Etcd, count: usize) {
    let mut client = etcd.client().await;
    for number in 0..count {
        client
            .put(key(&format!("clusters/{number}")), "{}", None)
            .await
            .expect("put");
    }
}

#[tokio::test]
async fn one_revision_is_one_event() {
    let etcd = Etcd::start().await;
    put(&etcd, "routes/a", "1").await;
    let mut mirror = Mirror::listed(&etcd).await;
    assert_eq!(mirror.next().await, Event::Alive);
    assert_eq!(mirror.entries.len(), 1);

    let puts: Vec<TxnOp> = (0..100)
        .map(|number| TxnOp::put(key(&format!("routes/{number:03}")).as_ref(), "x", None))
        .collect();
    let response = etcd
        .client()
        .await
        .txn(Txn::new().and_then(puts))
        .await
        .expect("a transaction");
    let (revision, changes) = mirror.next_change().await;
    assert_eq!(
        (revision, changes.len()),
        (response.header().expect("a header").revision(), 100)
    );
    etcd.client()
        .await
        .delete(key("routes/a").as_ref(), None)
        .await
        .expect("delete");
    let deleted = Change::Delete { key: key("routes/a") };
    assert_eq!(mirror.next_change().await, (revision + 1, vec![deleted]));
    mirror.assert_equal().await;
    assert_eq!(mirror.backend.stats().puts.get(), 100);
    assert_eq!(mirror.backend.stats().watches()[0].1.state(), WatchState::Live);
    mirror.stop().await;
}

#[tokio::test]
async fn a_backlog_of_thousands_of_revisions_loses_nothing() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    // The receiver reads no event (4 fit into the channel), so etcd must send the rest as catch-up, 1000 at a time.
    let mut client = etcd.client().await;
    let mut revision = 0;
    for number in 0..3500 {
        let name = key(&format!("routes/{}", number % 700));
        let response = client
            .put(name.as_ref(), format!("{number}{:4000}", ""), None)
            .await
            .expect("put");
        revision = response.header().expect("a header").revision();
    }
    assert_eq!(mirror.reach(revision).await, 3500);
    assert!(mirror.backend.stats().fragments.get() > 0, "some of it came in pieces");
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_list_of_many_pages_and_large_values_is_whole() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    // 2500 keys in three pages; beside them ten of 1 MB, more than tonic's usual 4 MiB.
    for chunk in 0..25 {
        let puts: Vec<TxnOp> = (0..100)
            .map(|n| TxnOp::put(key(&format!("routes/{:04}", chunk * 100 + n)).as_ref(), "x", None))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.expect("a transaction");
    }
    for number in 0..10 {
        put(&etcd, &format!("clusters/{number}"), vec![b'x'; 1_000_000]).await;
    }
    let mirror = Mirror::listed(&etcd).await;
    assert_eq!(mirror.entries.len(), 2510);
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_revision_larger_than_a_message_arrives_whole() {
    let etcd = Etcd::start_with(&["--max-request-bytes", "20000000"]).await;
    let mut mirror = Mirror::listed(&etcd).await;
    let puts: Vec<TxnOp> = (0..12)
        .map(|n| TxnOp::put(key(&format!("routes/{n}")).as_ref(), vec![b'x'; 1_000_000], None))
        .collect();
    etcd.client()
        .await
        .txn(Txn::new().and_then(puts))
        .await
        .expect("a transaction of 12 MB");
    let (_, changes) = mirror.next_change().await;
    assert_eq!(changes.len(), 12);
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn what_happened_while_cut_off_is_in_the_next_list() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.address()).await;
    put(&etcd, "routes/kept", "1").await;
    put(&etcd, "routes/gone", "1").await;
    let mut mirror = Mirror::start(backend(&[proxy.endpoint()]));
    assert_eq!(mirror.next_list().await, ListReason::Start);
    proxy.cut();
    mirror.next_failure().await;
    let mut revision = 0;
    for number in 0..20 {
        revision = put(&etcd, "routes/kept", number.to_string()).await;
    }
    etcd.client()
        .await
        .delete(key("routes/gone").as_ref(), None)
        .await
        .expect("delete");
    etcd.compact(revision + 1).await;
    proxy.mend();
    assert_eq!(mirror.next_list().await, ListReason::Reconnect);
    assert_eq!(mirror.entries.len(), 1);
    mirror.assert_equal().await;
    put(&etcd, "routes/new", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_restart_is_no_fork() {
    let etcd = Etcd::start().await;
    put(&etcd, "routes/a", "1").await;
    let mut mirror = Mirror::listed(&etcd).await;
    put(&etcd, "routes/b", "1").await;
    mirror.next_change().await;
    etcd.client()
        .await
        .delete(key("routes/a").as_ref(), None)
        .await
        .expect("delete");
    mirror.next_change().await;
    etcd.kill();
    let reason = mirror.next_failure().await;
    assert!(reason.starts_with(&etcd.endpoint()), "{reason}");
    etcd.restart().await;
    assert_eq!(mirror.next_list().await, ListReason::Reconnect);
    put(&etcd, "routes/c", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_wiped_data_directory_is_a_fork_even_when_it_has_grown_past_what_was_seen() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.address()).await;
    put(&etcd, "routes/a", "1").await;
    let mut mirror = Mirror::start(backend(&[proxy.endpoint()]));
    assert_eq!(mirror.next_list().await, ListReason::Start);
    let seen = put(&etcd, "routes/b", "1").await;
    mirror.reach(seen).await;
    proxy.cut();
    etcd.wipe();
    etcd.restart().await;
    let mut revision = 0;
    while revision <= seen {
        revision = put(&etcd, "routes/other", "1").await;
    }
    proxy.mend();
    assert_eq!(mirror.next_list().await, ListReason::Fork);
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_store_that_went_back_is_a_fork() {
    let etcd = Etcd::start().await;
    put(&etcd, "routes/a", "1").await;
    let mut mirror = Mirror::listed(&etcd).await;
    etcd.wipe();
    etcd.restart().await;
    assert_eq!(mirror.next_list().await, ListReason::Fork);
    assert_eq!((mirror.revision, mirror.entries.len()), (1, 0));
    mirror.stop().await;
}

#[tokio::test]
async fn no_change_comes_after_a_claim_of_its_revision() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let mut client = etcd.client().await;
        writers.spawn(async move {
            for number in 0..500 {
                let name = key(&format!("routes/{writer}/{}", number % 10));
                match number % 3 {
                    0 => drop(client.put("/elsewhere", "1", None).await.expect("put")),
                    1 => drop(client.put(name, "1", None).await.expect("put")),
                    _ => drop(client.delete(name, None).await.expect("delete")),
                }
            }
        });
    }
    let mut client = etcd.client().await;
    let last = async move {
        writers.join_all().await;
        client.put("/elsewhere", "2", None).await.expect("put")
    };
    let last = tokio::spawn(last);
    while !last.is_finished() {
        mirror.control.progress();
        mirror.next().await;
    }
    let last = last
        .await
        .expect("the writers end")
        .header()
        .expect("a header")
        .revision();
    while mirror.claimed.max(mirror.revision) < last {
        mirror.control.progress();
        mirror.next().await;
    }
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn changes_that_overtake_the_answer_to_a_probe_are_no_fork() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.address()).await;
    let mut watches = JoinSet::new();
    for _ in 0..20 {
        let mut mirror = Mirror::start(backend(&[proxy.endpoint()]));
        assert_eq!(mirror.next_list().await, ListReason::Start);
        // Until after the first probe.
        watches.spawn(timeout(Duration::from_secs(7), async move { mirror.next_list().await }));
    }
    proxy.delay(Duration::from_millis(50));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let mut client = etcd.client().await;
        writers.spawn(async move {
            for number in 0.. {
                let key = key(&format!("routes/{writer}/{}", number % 10));
                client.put(key, "1", None).await.expect("put");
            }
        });
    }
    for list in watches.join_all().await {
        assert!(list.is_err(), "a list, though nothing has failed: {list:?}");
    }
}

#[tokio::test]
async fn a_receiver_too_slow_for_the_compaction_gets_a_list() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    let mut client = etcd.client().await;
    let mut revision = 0;
    for number in 0..4000 {
        let response = client
            .put(key("routes/a").as_ref(), format!("{number}{:8000}", ""), None)
            .await
            .expect("put");
        revision = response.header().expect("a header").revision();
    }
    etcd.compact(revision).await;
    assert_eq!(mirror.next_list().await, ListReason::Compacted);
    mirror.reach(revision).await;
    mirror.assert_equal().await;
    put(&etcd, "routes/b", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_found_again() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    etcd.stop();
    let frozen = Instant::now();
    mirror.next_failure().await;
    assert!(
        frozen.elapsed() < Duration::from_secs(12),
        "noticed after {:?}",
        frozen.elapsed()
    );
    etcd.cont();
    assert_eq!(mirror.next_list().await, ListReason::Reconnect);
    put(&etcd, "routes/a", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_healthy_watch_says_that_it_is_alive() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    assert_eq!(mirror.next().await, Event::Alive);
    let listed = Instant::now();
    // The first silence has one read and one request for progress, the second proves that both were answered.
    assert_eq!(mirror.next().await, Event::Alive);
    assert_eq!(mirror.next().await, Event::Alive);
    assert!(listed.elapsed() < Duration::from_secs(12), "{:?}", listed.elapsed());
    assert_eq!(mirror.backend.stats().lists(ListReason::Reconnect), 0);
    mirror.stop().await;
}

#[tokio::test]
async fn a_list_is_confirmed_when_asked() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    mirror.control.relist();
    assert_eq!(mirror.next_list().await, ListReason::Confirm);
    put(&etcd, "routes/a", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_right_one_taken_on_reload() {
    let etcd = Etcd::start().await;
    put(&etcd, "routes/a", "1").await;
    etcd.add_user("gw", "right", &[PREFIX]);
    etcd.enable_auth("root-password");
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "wrong-hunter2\n").expect("write the password");
    let mut mirror = Mirror::start(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file.clone()),
        ..Options::default()
    }));
    let reason = mirror.next_failure().await;
    assert!(
        reason.contains("authentication failed") && !reason.contains("hunter2"),
        "{reason}"
    );
    std::fs::write(&password_file, "right\n").expect("write the password");
    mirror.backend.reload().await.expect("reload");
    assert_eq!(mirror.next_list().await, ListReason::Start);
    put(&etcd, "routes/b", "1").await;
    mirror.next_change().await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_user_without_the_right_is_told_so() {
    let etcd = Etcd::start().await;
    etcd.add_user("gw", "right", &["/elsewhere/"]);
    etcd.enable_auth("root-password");
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "right").expect("write the password");
    let mut mirror = Mirror::start(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file),
        ..Options::default()
    }));
    let reason = mirror.next_failure().await;
    assert!(reason.contains("permission denied"), "{reason}");
    mirror.stop().await;
}

#[tokio::test]
async fn a_token_that_etcd_forgot_is_renewed() {
    let etcd = Etcd::start().await;
    etcd.add_user("gw", "right", &[PREFIX]);
    etcd.enable_auth("root-password");
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "right").expect("write the password");
    let mut mirror = Mirror::start(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file),
        ..Options::default()
    }));
    assert_eq!(mirror.next_list().await, ListReason::Start);
    let revision = mirror
        .backend
        .write(vec![write("routes/a", Some("1"), Expect::Absent)])
        .await
        .expect("write");
    // Simple tokens live in the memory of the process.
    etcd.restart().await;
    let written = mirror
        .backend
        .write(vec![write("routes/a", Some("2"), Expect::Etag(revision.to_string()))])
        .await;
    assert_eq!(written.expect("write with a new token"), revision + 1);
    mirror.reach(revision + 1).await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_user_where_none_is_asked_for_is_no_hindrance() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "right").expect("write the password");
    let mut mirror = Mirror::start(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file),
        ..Options::default()
    }));
    assert_eq!(mirror.next_list().await, ListReason::Start);
    // Authentication is turned on at run time: the open watch goes on, the next write needs a token.
    etcd.add_user("gw", "right", &[PREFIX]);
    etcd.enable_auth("root-password");
    let revision = mirror
        .backend
        .write(vec![write("routes/a", Some("1"), Expect::Absent)])
        .await
        .expect("write");
    mirror.reach(revision).await;
    mirror.assert_equal().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_write_expects_what_it_was_told() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let first = store
        .write(vec![write("routes/a", Some("1"), Expect::Absent)])
        .await
        .expect("create");
    let again = store.write(vec![write("routes/a", Some("2"), Expect::Absent)]).await;
    let Err(WriteError::Conflict {
        key: conflicting,
        current: Some(current),
    }) = again
    else {
        panic!("{again:?}")
    };
    assert_eq!(
        (conflicting.as_str(), &current.value[..]),
        ("/gateway/routes/a", &b"1"[..])
    );
    assert_eq!(store.etag(&current), first.to_string());

    let second = write("routes/a", Some("2"), Expect::Etag(store.etag(&current)));
    let revision = store
        .write(vec![second.clone(), write("routes/b", Some("1"), Expect::Any)])
        .await
        .expect("update");
    assert_eq!(revision, first + 1, "two keys, one revision");
    let stale = store
        .write(vec![second, write("routes/c", Some("1"), Expect::Any)])
        .await;
    assert!(
        matches!(stale, Err(WriteError::Conflict { current: Some(_), .. })),
        "{stale:?}"
    );
    let nonsense = store
        .write(vec![write("routes/a", None, Expect::Etag("nonsense".to_owned()))])
        .await;
    assert!(matches!(nonsense, Err(WriteError::Conflict { .. })), "{nonsense:?}");
    assert_eq!(
        store.get(&key("routes/c")).await.expect("get"),
        None,
        "nothing of a refused change is written"
    );
    assert_eq!(
        store
            .write(vec![write("routes/b", None, Expect::Any)])
            .await
            .expect("delete"),
        revision + 1
    );
    assert_eq!(store.get(&key("routes/b")).await.expect("get"), None);
}

const MARKER: &str = "/chancery/writes";

fn judged(marked: i64) -> Terms {
    Terms {
        unchanged: Some(Unchanged {
            prefix: PREFIX.to_owned(),
            since: 0,
            marker: MARKER.to_owned(),
            marked,
            is_claimed: false,
        }),
        ..Terms::default()
    }
}

fn at(revision: i64) -> Marked {
    Marked {
        revision,
        is_claim: false,
    }
}

#[tokio::test]
async fn a_judged_write_finds_every_judged_write_since_and_no_other() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let put = |name, text| vec![write(name, Some(text), Expect::Any)];
    assert_eq!(store.marked(MARKER).await.expect("read"), at(0));
    let first = store.write_if(put("routes/a", "1"), judged(0)).await.expect("write");
    assert_eq!(store.marked(MARKER).await.expect("read"), at(first));
    let late = store.write_if(put("routes/b", "1"), judged(0)).await;
    assert!(matches!(late, Err(WriteError::Moved(_))), "{late:?}");

    // A deletion leaves no key that could be compared.
    let delete = vec![write("routes/a", None, Expect::Any)];
    let deleted = store.write_if(delete, judged(first)).await.expect("delete");
    let late = store.write_if(put("routes/b", "1"), judged(first)).await;
    assert!(matches!(late, Err(WriteError::Moved(_))), "{late:?}");

    // Documents of other hands, however many, are not compared.
    put_all(&etcd, 300).await;
    store
        .write_if(put("routes/b", "1"), judged(deleted))
        .await
        .expect("write");
    let (_, below) = store.list(PREFIX).await.expect("list");
    assert!(below.iter().all(|entry| entry.key != MARKER));
}

/// Terms with a note of this id.
fn noted(marked: i64, id: &str) -> Terms {
    Terms {
        note: Some(Note {
            key: format!("{MARKER}/{id}"),
            value: "the intent".into(),
        }),
        ..judged(marked)
    }
}

#[tokio::test]
async fn as_many_documents_as_etcd_takes_are_one_revision_with_their_note() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let puts = |count: usize, text| {
        let puts = (0..count).map(|number| write(&format!("routes/r{number}"), Some(text), Expect::Absent));
        puts.collect::<Vec<_>>()
    };
    let small = store.write_if(puts(2, "1"), noted(0, "small")).await.expect("write");
    assert_eq!(store.marked(MARKER).await.expect("read"), at(small));
    let again = vec![write("clusters/a", Some("1"), Expect::Any)];
    let again = store.write_if(again, noted(small, "small")).await;
    assert!(again.is_err(), "a note is written once: {again:?}");

    let deletions = |count: usize| {
        let deletions = (0..count).map(|number| write(&format!("routes/r{number}"), None, Expect::Any));
        deletions.collect::<Vec<_>>()
    };
    store
        .write_if(deletions(2), noted(small, "gone"))
        .await
        .expect("delete");

    // The documents and the note have all operations of a transaction; the marker was put before.
    let marked = store.marked(MARKER).await.expect("read").revision;
    let most = store
        .write_if(puts(127, "1"), noted(marked, "most"))
        .await
        .expect("write");
    let note = store.get(format!("{MARKER}/most").as_bytes()).await.expect("get");
    assert_eq!(note.map(|note| note.mod_revision), Some(most));
    let (_, below) = store.list(PREFIX).await.expect("list");
    assert!(below.len() == 127 && below.iter().all(|entry| entry.mod_revision == most));
    let claim = store.marked(MARKER).await.expect("read");
    assert!(claim.is_claim && (marked..most).contains(&claim.revision) && claim.revision > marked);
    let late = store.write_if(deletions(1), noted(marked, "late")).await;
    assert!(matches!(late, Err(WriteError::Moved(_))), "{late:?}");

    let too_many = store.write_if(puts(128, "2"), noted(claim.revision, "more")).await;
    assert!(too_many.is_err(), "{too_many:?}");
    let keys: Vec<_> = (0..300).map(|number| key(&format!("routes/r{number}"))).collect();
    let read = store.get_many(&keys).await.expect("read");
    assert_eq!((read.len(), read.iter().flatten().count()), (300, 127));
}

#[tokio::test]
async fn a_write_on_a_base_finds_every_document_that_was_put_since() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let put = |name| vec![write(name, Some("1"), Expect::Any)];
    let on = |revision| Terms {
        base: Some(Base {
            prefixes: vec![PREFIX.to_owned(), "/elsewhere/".to_owned()],
            revision,
        }),
        ..Terms::default()
    };
    let first = store.write(put("routes/a")).await.expect("write");
    store.write_if(put("routes/b"), on(first)).await.expect("nothing since");
    let moved = store.write_if(put("routes/c"), on(first)).await;
    assert!(matches!(moved, Err(WriteError::Moved(_))), "{moved:?}");
}

#[tokio::test]
async fn a_user_without_the_right_to_the_marker_can_write() {
    let etcd = Etcd::start().await;
    etcd.add_user("gw", "right", &[PREFIX]);
    etcd.enable_auth("root-password");
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "right").expect("write the password");
    let options = || Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file.clone()),
        ..Options::default()
    };
    let put = |text| vec![write("routes/a", Some(text), Expect::Any)];
    let store = Store::new(options());
    assert_eq!(store.marked(MARKER).await.expect("no failure"), at(0));
    store.write_if(put("1"), judged(0)).await.expect("write");
    let unasked = Store::new(options());
    unasked.write_if(put("2"), judged(0)).await.expect("write");
}

#[tokio::test]
async fn an_equal_write_is_no_write() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let revision = store
        .write(vec![write("routes/a", Some("1"), Expect::Absent)])
        .await
        .expect("create");
    let equal = vec![
        write("routes/a", Some("1"), Expect::Etag(revision.to_string())),
        write("routes/b", None, Expect::Any),
    ];
    assert_eq!(store.write(equal).await.expect("equal"), revision);
    assert_eq!(
        store.list(PREFIX).await.expect("list").0,
        revision,
        "etcd's revision did not move"
    );
}

#[tokio::test]
async fn a_write_that_etcd_does_not_take_names_its_size() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let many = (0..129)
        .map(|number| write(&format!("routes/{number}"), Some("x"), Expect::Any))
        .collect();
    let refused = store.write(many).await;
    assert!(
        matches!(&refused, Err(WriteError::TooLarge(reason)) if reason.contains("129 operations")),
        "{refused:?}"
    );
    for size in [1_600_000, 2_500_000] {
        let large = "x".repeat(size);
        let refused = store.write(vec![write("routes/a", Some(&large), Expect::Any)]).await;
        assert!(
            matches!(&refused, Err(WriteError::TooLarge(reason)) if reason.contains("bytes")),
            "{refused:?}"
        );
    }
    let twice = vec![
        write("routes/a", Some("1"), Expect::Any),
        write("routes/a", None, Expect::Any),
    ];
    let refused = store.write(twice).await;
    assert!(
        matches!(&refused, Err(WriteError::Unavailable(reason)) if reason.contains("twice")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_unavailable_not_unknown() {
    let store = backend(&["http://127.0.0.1:1".to_owned()]);
    let refused = store.write(vec![write("routes/a", Some("1"), Expect::Any)]).await;
    assert!(matches!(refused, Err(WriteError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.get(b"/a").await, Err(ReadError::Unavailable(_))));
    let mut mirror = Mirror::start(store);
    assert!(mirror.next_failure().await.starts_with("http://127.0.0.1:1: "));
    mirror.stop().await;
}

#[tokio::test]
async fn history_is_read_until_it_is_compacted() {
    let etcd = Etcd::start().await;
    let store = backend(&[etcd.endpoint()]);
    let first = put(&etcd, "routes/a", "1").await;
    let second = put(&etcd, "routes/a", "2").await;
    let value = |entry: Option<Entry>| entry.map(|entry| entry.value);
    assert_eq!(
        value(store.get_at(&key("routes/a"), first).await.expect("first")),
        Some(Bytes::from_static(b"1"))
    );
    assert_eq!(
        value(store.get_at(&key("routes/a"), first - 1).await.expect("before")),
        None
    );
    etcd.compact(second).await;
    for gone in [first, second + 10, 0] {
        let read = store.get_at(&key("routes/a"), gone).await;
        assert!(
            matches!(read, Err(ReadError::NoHistory(revision)) if revision == gone),
            "{read:?}"
        );
    }
    assert_eq!(
        value(store.get_at(&key("routes/a"), second).await.expect("second")),
        Some(Bytes::from_static(b"2"))
    );
}

#[tokio::test]
async fn a_lease_that_expires_is_a_delete() {
    let etcd = Etcd::start().await;
    let mut mirror = Mirror::listed(&etcd).await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(1, None).await.expect("a lease").id();
    let options = PutOptions::new().with_lease(lease);
    client
        .put(key("services/a/1").as_ref(), "10.0.0.1:80", Some(options))
        .await
        .expect("put");
    let (_, changes) = mirror.next_change().await;
    assert!(
        matches!(&changes[..], [Change::Put(entry)] if entry.leased),
        "{changes:?}"
    );
    let (_, changes) = mirror.next_change().await;
    assert_eq!(
        changes,
        [Change::Delete {
            key: key("services/a/1")
        }]
    );
    mirror.stop().await;
}

#[tokio::test]
async fn one_of_two_endpoints_may_be_dead() {
    let etcd = Etcd::start().await;
    put(&etcd, "routes/a", "1").await;
    for _ in 0..4 {
        let endpoints = ["http://127.0.0.1:1".to_owned(), etcd.endpoint()];
        let mut mirror = Mirror::start(backend(&endpoints));
        assert_eq!(mirror.next_list().await, ListReason::Start);
        mirror.assert_equal().await;
        assert_eq!(mirror.backend.stats().watches()[0].1.endpoint(), etcd.endpoint());
        mirror.stop().await;
    }
}

#[tokio::test]
async fn a_write_keeps_the_lease_of_its_key() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(60, None).await.expect("a lease").id();
    let leased = PutOptions::new().with_lease(lease);
    client
        .put(key("services/a").as_ref(), "1", Some(leased))
        .await
        .expect("put");
    let store = backend(&[etcd.endpoint()]);
    store
        .write(vec![
            write("services/a", Some("2"), Expect::Any),
            write("services/b", Some("2"), Expect::Any),
        ])
        .await
        .expect("write");
    let (_, entries) = store.list(PREFIX).await.expect("list");
    let shown: Vec<_> = entries.iter().map(|entry| (&*entry.value, entry.leased)).collect();
    assert_eq!(shown, [(&b"2"[..], true), (&b"2"[..], false)]);

    client.lease_revoke(lease).await.expect("revoke");
    assert_eq!(store.get(&key("services/a")).await.expect("read"), None);
    store
        .write(vec![write("services/a", Some("3"), Expect::Any)])
        .await
        .expect("a key that is gone is created without a lease");
    assert!(
        !store
            .get(&key("services/a"))
            .await
            .expect("read")
            .expect("it is there")
            .leased
    );
}
