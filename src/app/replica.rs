//! The stage that tells the other replicas what the proxies of this one have, and hears them.
//!
//! In: moves of proxies, publishes, the summaries below `<state-prefix>replicas/`. Out: the summary of this replica
//! there, under a lease of 10 s, and [`Replicas`]. The first change after a quiet second and a NACK are written at once,
//! other changes once a second; an equal summary is not written. A store that no replica shares has no summaries.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::admin::rollout::{Sources, summary};
use crate::backend::{Backend, Change, Entry, Event, Expect, Lease, Terms, WatchControl, Write, WriteError};
use crate::fleet::Fleet;
use crate::fleet::replicas::{FORMAT, Replicas, Summary};
use crate::reconcile::world::World;
use crate::snapshot::store::Store;

/// Life of a summary without a sign of its replica.
const LEASE: Duration = Duration::from_secs(10);
/// Time between two signs.
const KEEP: Duration = Duration::from_secs(3);
/// Shortest time between two writes, but for NACKs.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks at the proxies.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time between two checks of the configured id, which the lease of an earlier run of this server may still hold.
const RECLAIM_EVERY: Duration = Duration::from_secs(12);
/// Wait after a failed write.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest last write when the process stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// Events of the watch that wait.
const EVENTS: usize = 64;

/// The parts of the stage.
pub(super) struct Replica {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) state_prefix: String,
    pub(super) snapshots: Arc<Store>,
    pub(super) worlds: Arc<ArcSwap<World>>,
    pub(super) fleet: Fleet,
    pub(super) replicas: Replicas,
    /// `--advertise-admin`.
    pub(super) advertised: Option<Arc<str>>,
}

/// The summary in the store.
struct Written {
    lease: Lease,
    summary: Summary,
    revision: i64,
    at: Instant,
    keep_at: Instant,
}

/// The claim of an id.
struct Claim {
    /// The id as configured.
    base: Arc<str>,
    /// The number behind it, if others have the id.
    number: u32,
    /// When to look whether the id is free again.
    reclaim_at: Instant,
}

impl Replica {
    /// Run until cancelled.
    pub(super) async fn run(self, token: CancellationToken) {
        if !self.backend.is_shared() {
            return token.cancelled().await;
        }
        let prefix = format!("{}replicas/", self.state_prefix);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let watch = self
            .backend
            .watch(&prefix, WatchControl::default(), sender, token.clone());
        let hear = async {
            while let Some(event) = events.recv().await {
                self.hear(&prefix, event);
            }
        };
        tokio::join!(watch, hear, self.tell(&prefix, &token));
    }

    fn hear(&self, prefix: &str, event: Event) {
        let now = SystemTime::now();
        match event {
            Event::Listed { entries, .. } => {
                let ids: Vec<_> = entries.iter().filter_map(|entry| id_of(prefix, &entry.key)).collect();
                for replica in self.replicas.others(now) {
                    if !ids.contains(&&*replica.summary.id) {
                        self.replicas.ended(&replica.summary.id, now);
                    }
                }
                entries.iter().for_each(|entry| self.hear_entry(entry, now));
            }
            Event::Changed { changes, .. } => {
                for change in &changes {
                    match change {
                        Change::Put(entry) => self.hear_entry(entry, now),
                        Change::Delete { key } => {
                            id_of(prefix, key)
                                .into_iter()
                                .for_each(|id| self.replicas.ended(id, now));
                        }
                    }
                }
            }
            Event::Reached { .. } | Event::Alive | Event::Problems { .. } | Event::Failed { .. } => {}
        }
    }

    fn hear_entry(&self, entry: &Entry, now: SystemTime) {
        match serde_json::from_slice::<Summary>(&entry.value) {
            Ok(summary) if summary.format == FORMAT => self.replicas.heard(summary, now),
            _ => debug!(
                key = %String::from_utf8_lossy(&entry.key),
                "Summary of a replica has another form than {FORMAT}"
            ),
        }
    }

    /// Write the summary whenever it changes.
    async fn tell(&self, prefix: &str, token: &CancellationToken) {
        let mut written: Option<Written> = None;
        let mut claim = Claim {
            base: self.replicas.own(),
            number: 1,
            reclaim_at: Instant::now(),
        };
        let mut published = self.snapshots.subscribe();
        while !token.is_cancelled() {
            let (moved, told) = (self.fleet.moved(), self.replicas.changed());
            let (mut moved, mut told) = (std::pin::pin!(moved), std::pin::pin!(told));
            // Before the look, so that nothing is missed between the two.
            moved.as_mut().enable();
            told.as_mut().enable();

            let now = Instant::now();
            let due = match self.step(prefix, &mut written, &mut claim, now).await {
                Ok(due) => due,
                Err(error) => {
                    debug!(%error, "Summary of the replica is not written; the next try follows in a second");
                    now + AGAIN_AFTER
                }
            };
            tokio::select! {
                () = moved => {}
                () = told => {}
                Ok(()) = published.changed() => {}
                () = sleep_until(due) => {}
                () = token.cancelled() => break,
            }
            tokio::select! {
                () = sleep_until(now + LOOK_EVERY) => {}
                () = token.cancelled() => break,
            }
        }
        self.stop(prefix, written).await;
    }

    /// Keep the lease, and write the summary if it changed. Gives when to look again.
    async fn step(
        &self,
        prefix: &str,
        written: &mut Option<Written>,
        claim: &mut Claim,
        now: Instant,
    ) -> Result<Instant, WriteError> {
        if let Some(known) = written.as_mut().filter(|known| known.keep_at <= now) {
            if self.backend.keep_lease(known.lease).await? {
                known.keep_at = now + KEEP;
            } else {
                *written = None;
            }
        }

        if claim.number > 1 && claim.reclaim_at <= now {
            claim.reclaim_at = now + RECLAIM_EVERY;
            if self.is_free(&claim.base) {
                self.end(prefix, written.take()).await?;
                claim.number = 1;
                self.replicas.set_own(&claim.base);
            }
        }

        let next = self.summary();
        let expect = match &*written {
            None => Expect::Absent,
            Some(known) if known.summary == next => return Ok(known.keep_at),
            Some(known) => {
                let has_nacks = known.summary.refused != next.refused;
                if !has_nacks && now < known.at + WRITE_EVERY {
                    return Ok(known.keep_at.min(known.at + WRITE_EVERY));
                }
                Expect::Etag(self.etag_at(known.revision))
            }
        };
        let lease = match &*written {
            Some(known) => known.lease,
            None => self.backend.grant_lease(LEASE).await?,
        };

        match self.write(prefix, &next, lease, expect).await {
            Ok(revision) => {
                let keep_at = written.as_ref().map_or(now + KEEP, |known| known.keep_at);
                *written = Some(Written {
                    lease,
                    summary: next,
                    revision,
                    at: now,
                    keep_at,
                });
                Ok(keep_at)
            }
            Err(error) => {
                let had_id = written.take().is_some();
                self.backend.end_lease(lease).await?;
                let WriteError::Conflict { .. } = error else {
                    return Err(error);
                };
                if had_id {
                    // The key was deleted or overwritten; whether the id is taken, the next try tells.
                    return Ok(now);
                }
                claim.number += 1;
                claim.reclaim_at = now + RECLAIM_EVERY;
                let id = format!("{}~{}", claim.base, claim.number);
                warn!(
                    replica = id,
                    "Id of this replica is taken, by another server or by an earlier run that was killed: if this lasts, \
                     give the server an id by --replica-id"
                );
                self.replicas.set_own(&id);
                Ok(now)
            }
        }
    }

    fn summary(&self) -> Summary {
        let (snapshot, world) = (self.snapshots.current(), self.worlds.load());
        let sources = Sources {
            snapshot: &snapshot,
            fleet: &self.fleet,
            replicas: &self.replicas,
            layout: &world.options().layout,
            admin: self.advertised.as_deref(),
        };
        summary(sources, SystemTime::now())
    }

    async fn write(&self, prefix: &str, summary: &Summary, lease: Lease, expect: Expect) -> Result<i64, WriteError> {
        let value = serde_json::to_vec(summary).map_err(|error| WriteError::TooLarge(error.to_string()))?;
        let write = Write {
            key: format!("{prefix}{}", summary.id).into(),
            value: Some(value.into()),
            expect,
        };
        let terms = Terms {
            lease: Some(lease),
            ..Terms::default()
        };
        self.backend.write_if(vec![write], terms).await
    }

    /// The etag of a summary that was written at a revision.
    fn etag_at(&self, mod_revision: i64) -> String {
        self.backend.etag(&Entry {
            key: Default::default(),
            value: Default::default(),
            create_revision: 0,
            mod_revision,
            leased: true,
        })
    }

    /// Whether no replica has an id.
    fn is_free(&self, id: &str) -> bool {
        let others = self.replicas.others(SystemTime::now());
        let mut others = others.iter();
        !others.any(|other| *other.summary.id == *id && other.lost_at.is_none())
    }

    /// Say that the stop is clean, and delete the summary.
    async fn stop(&self, prefix: &str, written: Option<Written>) {
        match timeout(STOP_WITHIN, self.end(prefix, written)).await {
            Ok(Ok(())) => info!("Summary of this replica is deleted"),
            Ok(Err(error)) => debug!(%error, "Summary of this replica ends with its lease"),
            Err(_) => debug!("Summary of this replica ends with its lease"),
        }
    }

    /// Delete the summary as at a clean stop.
    async fn end(&self, prefix: &str, written: Option<Written>) -> Result<(), WriteError> {
        let Some(Written {
            lease,
            mut summary,
            revision,
            ..
        }) = written
        else {
            return Ok(());
        };
        summary.stopped = true;
        let expect = Expect::Etag(self.etag_at(revision));
        let said = self.write(prefix, &summary, lease, expect).await;
        self.backend.end_lease(lease).await?;
        said.map(drop)
    }
}

fn id_of<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::backend::memory::Memory;
    use crate::fleet::{Identity, Variant};
    use crate::reconcile::world::Options;
    use crate::resource::ResourceType;
    use crate::resource::compile::{Difference, ResourceChange};
    use crate::snapshot::steps::Cause;
    use crate::snapshot::{Facts, Source};

    struct Server {
        fleet: Fleet,
        snapshots: Arc<Store>,
        replicas: Replicas,
        token: CancellationToken,
        running: JoinHandle<()>,
    }

    impl Server {
        fn start(store: &Memory, id: &str) -> Self {
            let (fleet, snapshots, replicas) = (Fleet::default(), Arc::new(Store::default()), Replicas::new(id));
            let world = World::new(Options {
                layout: crate::document::key::Layout::default(),
                confirm_mass_loss: false,
                has_leases: true,
                re2_max_program_size: 100,
                ca_bundle: None,
                access_log_dir: "/var/log".into(),
                vault: crate::document::secret::Vault::default(),
            });
            let token = CancellationToken::new();
            let replica = Replica {
                backend: Arc::new(store.clone()),
                state_prefix: "/chancery/".to_owned(),
                snapshots: Arc::clone(&snapshots),
                worlds: Arc::new(ArcSwap::from_pointee(world)),
                fleet: fleet.clone(),
                replicas: replicas.clone(),
                advertised: None,
            };
            let running = tokio::spawn(replica.run(token.clone()));
            Self {
                fleet,
                snapshots,
                replicas,
                token,
                running,
            }
        }

        /// Publish a change of a cluster.
        fn publish(&self, revision: i64) {
            let resource = crate::resource::Resource::new("a", revision.to_string(), Vec::new());
            let change = ResourceChange {
                group: "default".into(),
                resource_type: ResourceType::Cluster,
                name: "a".into(),
                resource: Some(Arc::new(resource)),
            };
            let difference = Difference {
                resources: vec![change],
                ..Difference::default()
            };
            let current = self.snapshots.current();
            let facts = Facts {
                revision,
                revisions: Arc::default(),
                built_at: SystemTime::now(),
                source: Source::Memory,
                stale: false,
                withhold_removals: false,
                group_rules: Arc::clone(&current.group_rules),
                cause: Some(Cause {
                    revisions: vec![revision],
                    documents: None,
                }),
            };
            self.snapshots.publish(Arc::new(current.next(&difference, facts)));
        }

        /// Wait until what is heard of the other replica is so.
        async fn hears(&self, what: impl Fn(&[crate::fleet::replicas::Replica]) -> bool) {
            let waiting = async {
                loop {
                    let changed = self.replicas.changed();
                    let mut changed = std::pin::pin!(changed);
                    changed.as_mut().enable();
                    if what(&self.replicas.others(SystemTime::now())) {
                        return;
                    }
                    changed.await;
                }
            };
            let heard = timeout(Duration::from_secs(60), waiting).await;
            assert!(heard.is_ok(), "{:?}", self.replicas.others(SystemTime::now()));
        }
    }

    fn identity() -> Identity {
        Identity {
            node_id: "n1".into(),
            node_cluster: "c".into(),
            user_agent: "envoy".into(),
            version: Some((1, 40, 0)),
            group: "default".into(),
            has_zone: false,
            lacks_slots: false,
            address: None,
            variant: Variant::Delta,
            aggregated: true,
            connected_at: SystemTime::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_hear_of_each_others_proxies() {
        let store = Memory::new();
        let (one, two) = (Server::start(&store, "one"), Server::start(&store, "two"));
        one.publish(7);
        let proxy = one.fleet.connect(identity());
        proxy.subscribed(ResourceType::Cluster, None);
        let live_on = |revision: i64| {
            move |others: &[crate::fleet::replicas::Replica]| {
                let places = others.iter().flat_map(|other| &other.summary.places);
                places.map(|place| place.live_on).eq([revision])
            }
        };
        two.hears(live_on(0)).await;
        let mark = one.snapshots.current().groups["default"].marks()[ResourceType::Cluster.index()];
        assert!(proxy.reaches(ResourceType::Cluster, mark));
        two.hears(live_on(7)).await;

        one.token.cancel();
        one.running.await.unwrap();
        two.hears(<[_]>::is_empty).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_killed_has_its_id_again_when_the_old_lease_ends() {
        let store = Memory::new();
        let (one, two) = (Server::start(&store, "one"), Server::start(&store, "two"));
        two.hears(|others| others.len() == 1).await;
        let [lease, _] = store.leases()[..] else { panic!() };
        one.running.abort();
        let again = Server::start(&store, "one");
        let is_at = |id: &'static str| {
            move |others: &[crate::fleet::replicas::Replica]| {
                let there = others.iter().filter(|other| other.lost_at.is_none());
                there.map(|other| other.summary.id.as_str()).eq([id])
            }
        };
        two.hears(|others| others.iter().any(|other| other.summary.id == "one~2"))
            .await;

        store.end(lease);
        two.hears(is_at("one")).await;
        assert_eq!(&*again.replicas.own(), "one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_starts_later_learns_which_replica_vanished() {
        let store = Memory::new();
        let (one, two) = (Server::start(&store, "one"), Server::start(&store, "two"));
        two.hears(|others| others.len() == 1).await;
        one.running.abort();
        store.delete("/chancery/replicas/one");
        let late = Server::start(&store, "late");
        late.hears(|others| {
            others
                .iter()
                .any(|other| other.summary.id == "one" && other.lost_at.is_some())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_vanishes_is_remembered_and_its_id_is_not_shared() {
        let store = Memory::new();
        let one = Server::start(&store, "one");
        let two = Server::start(&store, "two");
        two.hears(|others| others.len() == 1).await;
        let twin = Server::start(&store, "one");
        two.hears(|others| others.iter().any(|other| other.summary.id == "one~2"))
            .await;
        assert_eq!((&*one.replicas.own(), &*twin.replicas.own()), ("one", "one~2"));

        two.replicas.ended("one", SystemTime::now());
        let others = two.replicas.others(SystemTime::now());
        assert!(
            others
                .iter()
                .any(|other| other.summary.id == "one" && other.lost_at.is_some())
        );
        let later = SystemTime::now() + crate::fleet::replicas::REMEMBERED_FOR;
        assert!(two.replicas.others(later).iter().all(|other| other.summary.id != "one"));
    }
}
