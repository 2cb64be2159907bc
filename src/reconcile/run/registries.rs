//! The registries that are followed, and the watch of each: whatever a program writes becomes registrations.
//!
//! In: the registries documents that serve. Out: the events of a root of registrations, whose keys and values say the same
//! for all formats. A change of a registries document ends its watch and begins another one; the first list of that one
//! is compared with the registrations of the old one. So does a change of a secret that the document names. No other watch
//! is touched. A registry with an etcd of its own has connections of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::EVENTS;
use crate::backend::etcd::{self, Texts};
use crate::backend::{Backend, Change, Entry, Event, WatchControl};
use crate::document::key::{DocumentKey, Kind, Layout, Root};
use crate::document::registry::{Etcd, Registry, normal};
use crate::document::secret::Content;
use crate::reconcile::world::World;

/// The registries that are followed.
#[derive(Debug, Default)]
pub(super) struct Registries {
    by_root: BTreeMap<Root, Followed>,
    /// Roots whose watch is to begin, to end, or to begin anew.
    changed: BTreeSet<Root>,
    /// Roots that are new and have not been listed: how long the publish waits for each.
    awaited: BTreeMap<Root, Instant>,
}

/// A registry, and the access to its own etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) registry: Registry,
    pub(super) etcd: Option<etcd::Options>,
}

impl Registries {
    /// The documents that serve. Returns the roots whose document, or a secret that it names, appeared, changed or went.
    /// The publish waits for the first list of a new one until `awaited_until`.
    pub(super) fn update(&mut self, world: &World, awaited_until: Option<Instant>) -> Vec<Root> {
        let serving = world.compiled().registries().map(|(name, registry)| {
            let etcd = registry.etcd.as_ref().map(|etcd| access(world, etcd));
            let registry = registry.clone();
            (Root::of_registry(name), Followed { registry, etcd })
        });
        let serving: BTreeMap<Root, Followed> = serving.collect();
        let roots: BTreeSet<&Root> = self.by_root.keys().chain(serving.keys()).collect();
        let is_other = |root: &&&Root| self.by_root.get(**root) != serving.get(**root);
        let changed: Vec<Root> = roots.iter().filter(is_other).map(|root| (*root).clone()).collect();
        for root in &changed {
            match (self.by_root.contains_key(root), awaited_until) {
                (false, Some(until)) => self.awaited.insert(root.clone(), until),
                _ => self.awaited.remove(root),
            };
        }
        self.by_root = serving;
        self.changed.extend(changed.iter().cloned());
        changed
    }

    /// How long the publish waits for new registries.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        self.awaited.values().max().copied()
    }

    /// A registry was listed, or cannot be read.
    pub(super) fn on_answer(&mut self, root: &Root) {
        self.awaited.remove(root);
    }

    pub(super) fn get(&self, root: &Root) -> Option<&Followed> {
        self.by_root.get(root)
    }

    /// Whether a root is of another store: its revisions say nothing about those of the other roots.
    pub(super) fn is_foreign(&self, root: &Root) -> bool {
        self.by_root.get(root).is_some_and(|followed| followed.etcd.is_some())
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<Root> {
        std::mem::take(&mut self.changed)
    }
}

/// The access to the etcd of a registry, with the secrets as they serve.
fn access(world: &World, etcd: &Etcd) -> etcd::Options {
    let secret = |name: &Arc<str>| {
        let key = DocumentKey::new(Kind::Secrets, Arc::clone(name));
        let secret = world.compiled().accepted(&key)?.document.as_secret()?;
        Some(secret.content.clone())
    };
    let password = |name| match secret(name)? {
        Content::Generic(text) => Some(text.expose().to_owned()),
        _ => None,
    };
    let ca = |name| match secret(name)? {
        Content::Ca { ca, .. } => Some(ca.to_string()),
        _ => None,
    };
    let identity = |name| match secret(name)? {
        Content::Certificate { chain, private_key, .. } => Some((chain.to_string(), private_key.expose().to_owned())),
        _ => None,
    };
    etcd::Options {
        endpoints: etcd.members.clone(),
        user: etcd.auth.as_ref().map(|(user, _)| user.clone()),
        texts: Texts {
            password: etcd.auth.as_ref().and_then(|(_, name)| password(name)),
            ca: etcd.ca.as_ref().and_then(ca),
            identity: etcd.client_certificate.as_ref().and_then(identity),
        },
        ..etcd::Options::default()
    }
}

/// The watch of one registry.
pub(super) struct Watch {
    pub(super) name: Arc<str>,
    pub(super) backend: Arc<dyn Backend>,
    /// Prefixes of the server's own, which hold secrets.
    pub(super) reserved: Vec<String>,
    pub(super) registry: Registry,
}

impl Watch {
    /// Send events until their receiver is dropped.
    pub(super) async fn run(self, control: WatchControl, events: mpsc::Sender<Event>) {
        if let Some(reason) = self.obstacle() {
            // The receiver learns of it once; a new document begins a new watch.
            if events.send(Event::Failed { reason }).await.is_ok() {
                events.closed().await;
            }
            return;
        }
        let (sender, mut received) = mpsc::channel(EVENTS);
        let token = CancellationToken::new();
        let watch = self.backend.watch(&self.registry.prefix, control, sender, token);
        let translate = async {
            while let Some(event) = received.recv().await {
                if events.send(self.translated(event)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = watch => {}
            () = translate => {}
            () = events.closed() => {}
        }
    }

    /// Why the registry cannot be followed.
    fn obstacle(&self) -> Option<String> {
        let prefix = &*self.registry.prefix;
        if self.registry.etcd.is_some() {
            return None;
        }
        if self.backend.name() == "directory" {
            return Some("documents come from a directory, which has no registrations; name the etcd of the registry in \"etcd\"".to_owned());
        }
        let overlaps = |own: &&String| own.starts_with(prefix) || prefix.starts_with(own.as_str());
        let own = self.reserved.iter().find(overlaps)?;
        Some(format!(
            "the prefix {prefix} overlaps {own}, which holds documents of this server"
        ))
    }

    fn translated(&self, event: Event) -> Event {
        match event {
            Event::Listed {
                revision,
                reason,
                entries,
            } => {
                let mut entries: Vec<Entry> = entries
                    .into_iter()
                    .filter_map(|entry| self.registration(entry))
                    .collect();
                entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                Event::Listed {
                    revision,
                    reason,
                    entries,
                }
            }
            Event::Changed { revision, changes } => {
                let change = |change| match change {
                    Change::Put(entry) => self.registration(entry).map(Change::Put),
                    Change::Delete { key } => self.full_key(&key).map(|key| Change::Delete { key }),
                };
                let changes: Vec<Change> = changes.into_iter().filter_map(change).collect();
                match changes.is_empty() {
                    true => Event::Reached { revision },
                    false => Event::Changed { revision, changes },
                }
            }
            event => event,
        }
    }

    fn full_key(&self, key: &[u8]) -> Option<Bytes> {
        let Registry { prefix, format, .. } = &self.registry;
        let key = format.document_key(&self.name, prefix, key)?;
        Some(Layout::default().full_key(&key).into())
    }

    fn registration(&self, entry: Entry) -> Option<Entry> {
        let Registry { prefix, format, .. } = &self.registry;
        let offers = format.read(prefix, &entry.key, &entry.value);
        Some(Entry {
            key: self.full_key(&entry.key)?,
            value: normal::text_of(&offers).into(),
            ..entry
        })
    }
}
