//! Documents in memory, for tests.
//!
//! In: changes, by [`Backend::write`] or by the shorthands ([`Memory::put`], [`Memory::transact`]), and faults for
//! tests: fail, list again, lose the history. Out: the same events as from etcd, one per revision. Every version of
//! every key is kept for [`Backend::get_at`] until [`Memory::compact`].
//!
//! Clones share the store. A watch never blocks a writer: the queue of its events has no bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Backend, Change, Entry, Event, Expect, Lease, ListReason, Note, ReadError, Revision, Terms, Unchanged,
    WatchControl, Write, WriteError,
};

/// A store in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Revision of the last write; the first is 1.
    revision: i64,
    /// The history up to this revision is gone.
    compacted: i64,
    /// Every version of every key, oldest first; `None` is a delete.
    keys: BTreeMap<Bytes, Vec<(i64, Option<Entry>)>>,
    watches: Vec<Watch>,
    /// Keys by lease.
    leases: BTreeMap<i64, Vec<Bytes>>,
    /// The reason with which reads and writes fail now.
    away: Option<String>,
}

#[derive(Debug)]
struct Watch {
    prefix: Bytes,
    events: mpsc::UnboundedSender<Event>,
}

impl Memory {
    /// An empty store at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Put one key. Returns the revision.
    pub fn put(&self, key: &str, value: impl Into<Bytes>) -> i64 {
        self.transact([(key, Some(value.into()))])
    }

    /// Delete one key. Returns the revision.
    pub fn delete(&self, key: &str) -> i64 {
        self.transact([(key, None::<Bytes>)])
    }

    /// Put (`Some`) and delete (`None`) keys as one revision, which is returned. Equal values are written anew, as by
    /// `etcdctl put`; deletes of absent keys do nothing.
    pub fn transact<'a, Value: Into<Bytes>>(&self, changes: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> i64 {
        let changes = changes
            .into_iter()
            .map(|(key, value)| (Bytes::copy_from_slice(key.as_bytes()), value.map(Into::into)));
        self.state().apply(changes.collect(), |_, _| false)
    }

    /// Put one key as if under a lease. Returns the revision.
    pub fn put_leased(&self, key: &str, value: impl Into<Bytes>) -> i64 {
        self.state().apply(
            vec![(Bytes::copy_from_slice(key.as_bytes()), Some(value.into()))],
            |_, _| true,
        )
    }

    /// Send [`Event::Failed`] to every watch.
    pub fn fail(&self, reason: &str) {
        self.state().send_all(|_, _| Event::Failed {
            reason: reason.to_owned(),
        });
    }

    /// Send [`Event::Alive`] to every watch.
    pub fn alive(&self) {
        self.state().send_all(|_, _| Event::Alive);
    }

    /// Send a new list to every watch, with this reason.
    pub fn relist(&self, reason: ListReason) {
        self.state().send_all(|state, prefix| state.listed(prefix, reason));
    }

    /// Delete all keys and the history, as a wiped data directory does, and send every watch the empty list as a fork.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.keys.clear();
        state.revision = 0;
        state.compacted = 0;
        state.send_all(|state, prefix| state.listed(prefix, ListReason::Fork));
    }

    /// The leases that have not ended.
    #[must_use]
    pub fn leases(&self) -> Vec<i64> {
        self.state().leases.keys().copied().collect()
    }

    /// Put the content of an earlier revision in the place of the present one, with its history, as a restored backup
    /// does, and send every watch the list as a fork.
    pub fn restore(&self, revision: i64) {
        let mut state = self.state();
        for versions in state.keys.values_mut() {
            versions.retain(|(at, _)| *at <= revision);
        }
        state.keys.retain(|_, versions| !versions.is_empty());
        state.revision = revision;
        state.send_all(|state, prefix| state.listed(prefix, ListReason::Fork));
    }

    /// End a lease, as if its holder were gone: its keys vanish.
    pub fn end(&self, lease: i64) {
        let mut state = self.state();
        let keys = state.leases.remove(&lease).unwrap_or_default();
        state.apply(keys.into_iter().map(|key| (key, None)).collect(), |_, _| false);
    }

    /// Forget the history before `revision`.
    pub fn compact(&self, revision: i64) {
        self.state().compacted = revision;
    }

    /// Fail reads, writes and new watches with this reason; `None` ends the failure. A watch that began during the
    /// failure gets its list by the next [`Memory::relist`].
    pub fn set_away(&self, reason: Option<&str>) {
        self.state().away = reason.map(str::to_owned);
    }

    /// Number of open watches.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.state()
            .watches
            .iter()
            .filter(|watch| !watch.events.is_closed())
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    fn current(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn entries(&self, prefix: &[u8]) -> Vec<Entry> {
        let below = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        below.filter_map(|(_, versions)| versions.last()?.1.clone()).collect()
    }

    fn listed(&self, prefix: &[u8], reason: ListReason) -> Event {
        Event::Listed {
            revision: self.revision,
            reason,
            entries: self.entries(prefix),
        }
    }

    fn send_all(&mut self, event: impl Fn(&Self, &[u8]) -> Event) {
        let mut watches = std::mem::take(&mut self.watches);
        watches.retain(|watch| watch.events.send(event(self, &watch.prefix)).is_ok());
        self.watches = watches;
    }

    /// `is_leased`: maps the entry before the write to the lease after it.
    fn apply(
        &mut self,
        writes: Vec<(Bytes, Option<Bytes>)>,
        is_leased: impl Fn(&Bytes, Option<&Entry>) -> bool,
    ) -> i64 {
        let writes: Vec<_> = writes
            .into_iter()
            .filter(|(key, value)| value.is_some() || self.current(key).is_some())
            .collect();
        if writes.is_empty() {
            return self.revision;
        }

        self.revision += 1;
        let mut changes = Vec::with_capacity(writes.len());

        for (key, value) in writes {
            let create_revision = self.current(&key).map_or(self.revision, |entry| entry.create_revision);
            let leased = is_leased(&key, self.current(&key));
            let mod_revision = self.revision;
            let entry = value.map(|value| Entry {
                key: key.clone(),
                value,
                create_revision,
                mod_revision,
                leased,
            });
            self.keys
                .entry(key.clone())
                .or_default()
                .push((mod_revision, entry.clone()));
            changes.push(entry.map_or(Change::Delete { key }, Change::Put));
        }

        self.send_changes(&changes);
        self.revision
    }

    fn send_changes(&mut self, changes: &[Change]) {
        let revision = self.revision;
        self.watches.retain(|watch| {
            let below: Vec<_> = changes
                .iter()
                .filter(|change| change.key().starts_with(&watch.prefix))
                .collect();
            if below.is_empty() {
                return !watch.events.is_closed();
            }
            let changes = below.into_iter().cloned().collect();
            watch.events.send(Event::Changed { revision, changes }).is_ok()
        });
    }

    fn check(&self, write: &Write) -> Result<(), WriteError> {
        let current = self.current(&write.key);
        let holds = match &write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Etag(etag) => current.is_some_and(|entry| entry.mod_revision.to_string() == *etag),
        };
        if holds {
            return Ok(());
        }
        let key = String::from_utf8_lossy(&write.key).into_owned();
        Err(WriteError::Conflict {
            key,
            current: current.cloned(),
        })
    }

    fn readable(&self) -> Result<(), ReadError> {
        self.away
            .clone()
            .map_or(Ok(()), |reason| Err(ReadError::Unavailable(reason)))
    }
}

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    /// True, so that tests see what replicas share.
    fn is_shared(&self) -> bool {
        true
    }

    async fn watch(&self, prefix: &str, control: WatchControl, events: mpsc::Sender<Event>, token: CancellationToken) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        {
            let mut state = self.state();
            let first = match &state.away {
                Some(reason) => vec![Event::Failed { reason: reason.clone() }],
                None => vec![state.listed(&prefix, ListReason::Start), Event::Alive],
            };
            for event in first {
                // Cannot fail: the receiver lives below.
                drop(sender.send(event));
            }
            state.watches.push(Watch {
                prefix: prefix.clone(),
                events: sender.clone(),
            });
        }

        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                () = control.relist_asked() => {
                    // The list queues behind the events that wait already. Cannot fail: the receiver lives here.
                    let state = self.state();
                    drop(sender.send(state.listed(&prefix, ListReason::Confirm)));
                    continue;
                }
                () = control.progress_asked() => {
                    // As above: the event queues behind every change up to this revision.
                    let state = self.state();
                    drop(sender.send(Event::Reached { revision: state.revision }));
                    continue;
                }
                event = receiver.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            let sent = tokio::select! {
                () = token.cancelled() => return,
                sent = events.send(event) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        let state = self.state();
        state.readable()?;
        Ok(state.current(key).cloned())
    }

    async fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Entry>, ReadError> {
        let state = self.state();
        state.readable()?;
        if revision < 1 || revision < state.compacted || revision > state.revision {
            return Err(ReadError::NoHistory(revision));
        }
        let versions = state.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        Ok(versions
            .iter()
            .rev()
            .find(|(at, _)| *at <= revision)
            .and_then(|(_, entry)| entry.clone()))
    }

    async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        let state = self.state();
        state.readable()?;
        Ok((state.revision, state.entries(prefix.as_bytes())))
    }

    async fn write_if(&self, writes: Vec<Write>, terms: Terms) -> Result<i64, WriteError> {
        let Terms {
            unchanged,
            base,
            note,
            lease,
            leases,
        } = terms;
        let mut state = self.state();
        if let Some(reason) = &state.away {
            return Err(WriteError::Unavailable(reason.clone()));
        }
        writes.iter().try_for_each(|write| state.check(write))?;
        let marker = unchanged
            .as_ref()
            .map(|unchanged| Bytes::from(unchanged.marker.clone()));
        if let (Some(Unchanged { prefix, marked, .. }), Some(marker)) = (unchanged, &marker)
            && state.current(marker).map_or(0, |marker| marker.mod_revision) != marked
        {
            return Err(WriteError::Moved(prefix));
        }
        for prefix in base.iter().flat_map(|base| &base.prefixes) {
            let since = base.as_ref().map_or(0, |base| base.revision);
            let entries = state.entries(prefix.as_bytes());
            if entries.iter().any(|entry| entry.mod_revision > since) {
                return Err(WriteError::Moved(prefix.clone()));
            }
        }
        if let Some(Note { key, value }) = &note {
            state.check(&Write {
                key: Bytes::from(key.clone()),
                value: Some(value.clone()),
                expect: Expect::Absent,
            })?;
        }
        let of_all = lease
            .into_iter()
            .flat_map(|lease| writes.iter().map(move |write| (write.key.clone(), lease)));
        let held: Vec<(Bytes, Lease)> = of_all.chain(leases.clone()).collect();
        for (key, Lease(id)) in held {
            let Some(held) = state.leases.get_mut(&id) else {
                return Err(WriteError::Unavailable(format!("there is no lease {id}")));
            };
            held.push(key);
        }
        let changes = writes.into_iter().filter(|write| {
            let is_equal = state.current(&write.key).map(|entry| &entry.value) == write.value.as_ref();
            !is_equal || leases.contains_key(&write.key)
        });
        let mut changes: Vec<_> = changes.map(|write| (write.key, write.value)).collect();
        if !changes.is_empty() {
            changes.extend(marker.map(|marker| (marker, Some(Bytes::new()))));
            changes.extend(note.map(|note| (Bytes::from(note.key), Some(note.value))));
        }
        // The lease stays, as in etcd with `ignore_lease`.
        Ok(state.apply(changes, |key, current| {
            leases.contains_key(key) || current.is_some_and(|entry| entry.leased)
        }))
    }

    async fn history(&self, prefix: &str, after: i64, up_to: i64) -> Result<Vec<Revision>, ReadError> {
        let state = self.state();
        state.readable()?;
        if after + 1 < state.compacted || up_to > state.revision {
            return Err(ReadError::NoHistory(after));
        }
        let mut revisions: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
        for (key, versions) in &state.keys {
            if !key.starts_with(prefix.as_bytes()) {
                continue;
            }
            for (at, entry) in versions {
                if (after + 1..=up_to).contains(at) {
                    let deleted = || Change::Delete { key: key.clone() };
                    let change = entry.clone().map_or_else(deleted, Change::Put);
                    revisions.entry(*at).or_default().push(change);
                }
            }
        }
        let revisions = revisions.into_iter();
        Ok(revisions
            .map(|(revision, changes)| Revision { revision, changes })
            .collect())
    }

    async fn grant_lease(&self, _: Duration) -> Result<Lease, WriteError> {
        let mut state = self.state();
        let id = state.leases.last_key_value().map_or(1, |(id, _)| id + 1);
        state.leases.insert(id, Vec::new());
        Ok(Lease(id))
    }

    async fn keep_lease(&self, Lease(id): Lease) -> Result<bool, WriteError> {
        Ok(self.state().leases.contains_key(&id))
    }

    async fn end_lease(&self, Lease(id): Lease) -> Result<(), WriteError> {
        self.end(id);
        Ok(())
    }

    fn etag(&self, entry: &Entry) -> String {
        entry.mod_revision.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, create_revision: i64, mod_revision: i64) -> Entry {
        let (key, value) = (
            Bytes::copy_from_slice(key.as_bytes()),
            Bytes::copy_from_slice(value.as_bytes()),
        );
        Entry {
            key,
            value,
            create_revision,
            mod_revision,
            leased: false,
        }
    }

    fn write(key: &str, value: Option<&'static str>, expect: Expect) -> Write {
        Write {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.map(Bytes::from),
            expect,
        }
    }

    #[tokio::test]
    async fn a_watch_gets_the_list_and_then_each_revision_below_its_prefix() {
        let memory = Memory::new();
        memory.put("/a/1", "one");
        let (sender, mut events) = mpsc::channel(16);
        let token = CancellationToken::new();
        let (store, control, stop) = (memory.clone(), WatchControl::default(), token.clone());
        let asking = control.clone();
        let task = tokio::spawn(async move { store.watch("/a/", control, sender, stop).await });

        let listed = Event::Listed {
            revision: 1,
            reason: ListReason::Start,
            entries: vec![entry("/a/1", "one", 1, 1)],
        };
        assert_eq!(events.recv().await, Some(listed));
        assert_eq!(events.recv().await, Some(Event::Alive));
        memory.put("/b/1", "elsewhere");
        memory.transact([("/a/1", None), ("/a/2", Some("two")), ("/b/1", Some("again"))]);
        let changes = vec![
            Change::Delete {
                key: Bytes::from_static(b"/a/1"),
            },
            Change::Put(entry("/a/2", "two", 3, 3)),
        ];
        assert_eq!(events.recv().await, Some(Event::Changed { revision: 3, changes }));
        memory.fail("gone fishing");
        assert_eq!(
            events.recv().await,
            Some(Event::Failed {
                reason: "gone fishing".to_owned()
            })
        );
        asking.relist();
        let confirmed = Event::Listed {
            revision: 3,
            reason: ListReason::Confirm,
            entries: vec![entry("/a/2", "two", 3, 3)],
        };
        assert_eq!(events.recv().await, Some(confirmed));
        token.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn history_is_kept_until_it_is_compacted() {
        let memory = Memory::new();
        memory.put("/a", "1");
        memory.delete("/a");
        memory.put("/a", "3");
        assert_eq!(memory.get_at(b"/a", 1).await.unwrap(), Some(entry("/a", "1", 1, 1)));
        assert_eq!(memory.get_at(b"/a", 2).await.unwrap(), None);
        memory.compact(3);
        assert!(matches!(memory.get_at(b"/a", 2).await, Err(ReadError::NoHistory(2))));
        assert_eq!(memory.get_at(b"/a", 3).await.unwrap(), Some(entry("/a", "3", 3, 3)));
    }

    #[tokio::test]
    async fn a_write_is_all_or_nothing() {
        let memory = Memory::new();
        memory.put("/a", "1");
        let refused = memory
            .write(vec![
                write("/b", Some("2"), Expect::Any),
                write("/a", Some("2"), Expect::Absent),
            ])
            .await;
        assert!(matches!(refused, Err(WriteError::Conflict { key, current: Some(_) }) if key == "/a"));
        assert_eq!(memory.list("/").await.unwrap(), (1, vec![entry("/a", "1", 1, 1)]));
        let etag = Expect::Etag("1".to_owned());
        assert_eq!(
            memory.write(vec![write("/a", Some("1"), etag.clone())]).await.unwrap(),
            1,
            "equal: no write"
        );
        assert_eq!(
            memory.write(vec![write("/a", Some("2"), etag.clone())]).await.unwrap(),
            2
        );
        assert!(matches!(
            memory.write(vec![write("/a", None, etag)]).await,
            Err(WriteError::Conflict { .. })
        ));
    }
}
