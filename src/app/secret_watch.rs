//! Follows the things beside the store that secrets depend on.
//!
//! | thing | looked at | brings |
//! |---|---|---|
//! | files of documents ([`SecretFiles`]) | every second | the documents are read again |
//! | `--secret-keys-file` ([`KeyFile`]) | every second | the keys are replaced, and all secrets are read again |
//! | expiry ([`Expiry`]) | when documents change, and every minute | a line of the log |
//!
//! Everything is looked at at once after a SIGHUP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::secret_files::{SecretFiles, Stamp, stamp};
use crate::document::key::DocumentKey;
use crate::document::secret::sealed::Keys;
use crate::document::secret::{Vault, key_id_in};
use crate::reconcile::run::Command;
use crate::reconcile::world::World;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at expiry while no document changes.
const EXPIRY_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct SecretWatch {
    files: Option<Arc<SecretFiles>>,
    keys: Option<KeyFile>,
    expiry: Expiry,
}

impl SecretWatch {
    pub(super) fn new(files: Option<Arc<SecretFiles>>, keys: Option<KeyFile>) -> Self {
        Self {
            files,
            keys,
            expiry: Expiry::default(),
        }
    }

    /// Follow everything until `token` is cancelled.
    ///
    /// # Errors
    /// Never.
    pub(super) async fn run(
        mut self,
        worlds: Arc<ArcSwap<World>>,
        commands: mpsc::Sender<Command>,
        mut reloads: watch::Receiver<u64>,
        token: CancellationToken,
    ) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Ok(()) = reloads.changed() => {}
            }
            let world = worlds.load_full();
            let looked = tokio::task::spawn_blocking(move || {
                let changed = self.look(&world);
                (self, changed)
            });
            // The runtime ends.
            let Ok((watch, changed)) = looked.await else {
                return Ok(());
            };
            self = watch;
            // The loop is gone only if the process stops.
            if !changed.is_empty() && commands.send(Command::ReadAgain(changed)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// The documents that are to be read again.
    fn look(&mut self, world: &Arc<World>) -> Vec<DocumentKey> {
        let now = Instant::now();
        for (key, warning) in self.expiry.look(world, now, SystemTime::now()) {
            warn!(document.key = %key, "The secret of {key} {warning}");
        }
        if self.keys.as_mut().is_some_and(|keys| keys.look(world)) {
            return world.secrets().map(|status| status.key.clone()).collect();
        }
        self.files
            .as_ref()
            .map_or_else(Vec::new, |files| files.look(world, now))
    }
}

/// The file of `--secret-keys-file`.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    vault: Vault,
    /// Of the content in use.
    stamp: Option<Stamp>,
    /// Why the present content is not used.
    refused: Option<String>,
}

impl KeyFile {
    /// The file whose content `vault` has, or content before this stamp.
    pub(super) fn new(path: PathBuf, stamp: Option<Stamp>, vault: Vault) -> Self {
        Self {
            path,
            vault,
            stamp,
            refused: None,
        }
    }

    /// Replace the keys if the file has others. A key that a document of the store is sealed with must stay.
    fn look(&mut self, world: &World) -> bool {
        let found = stamp(&self.path);
        if found == self.stamp {
            self.refused = None;
            return false;
        }
        let path = self.path.display();
        match self.read(world) {
            Ok(keys) => {
                info!(path = %path, seals = keys.first(), "Keys of sealed secrets are replaced");
                self.vault.replace_keys(keys);
                (self.stamp, self.refused) = (found, None);
                true
            }
            Err(reason) => {
                if self.refused.as_ref() != Some(&reason) {
                    warn!(path = %path, reason, "New keys of sealed secrets are not used, the keys before stay");
                    self.refused = Some(reason);
                }
                false
            }
        }
    }

    fn read(&self, world: &World) -> Result<Keys, String> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| error.kind().to_string())?;
        let keys = Keys::read(&text)?;
        let before = self.vault.keys();
        let is_lost = |id: &String| before.as_ref().is_some_and(|before| before.has(id)) && !keys.has(id);
        let texts = world.secrets().flat_map(|status| [&status.latest, &status.serving]);
        let used = texts.flatten().filter_map(|text| key_id_in(&text.value));
        match used.filter(is_lost).min() {
            Some(id) => Err(format!(
                "the key {id:?} is missing, and documents are sealed with it; \"chancery secret rotate\" seals them with \
                 the first key"
            )),
            None => Ok(keys),
        }
    }
}

/// Secrets that expire, each logged once.
#[derive(Debug, Default)]
struct Expiry {
    said: BTreeMap<DocumentKey, String>,
    looked: Option<(Arc<World>, Instant)>,
}

impl Expiry {
    /// The warnings that are new.
    fn look(&mut self, world: &Arc<World>, now: Instant, wall: SystemTime) -> Vec<(DocumentKey, String)> {
        let is_recent = |(seen, at): &(Arc<World>, Instant)| Arc::ptr_eq(seen, world) && now < *at + EXPIRY_EVERY;
        if self.looked.as_ref().is_some_and(is_recent) {
            return Vec::new();
        }
        self.looked = Some((Arc::clone(world), now));
        let said: BTreeMap<DocumentKey, String> = world
            .secrets()
            .filter_map(|status| Some((status.key.clone(), status.validity?.warning(wall)?)))
            .collect();
        let new = said
            .iter()
            .filter(|(key, warning)| self.said.get(*key) != Some(*warning));
        let new = new.map(|(key, warning)| (key.clone(), warning.clone())).collect();
        self.said = said;
        new
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::backend::{Entry, Event, ListReason};
    use crate::document::key::{Kind, Layout, Root};
    use crate::reconcile::plan::{Input, Moment, plan};
    use crate::reconcile::world::{Options, State};

    const OLD: &str = "old AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
    const NEW: &str = "new AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";

    fn key() -> DocumentKey {
        DocumentKey::new(Kind::Secrets, "a")
    }

    fn options(vault: &Vault) -> Options {
        Options {
            layout: Layout::default(),
            confirm_mass_loss: false,
            has_leases: true,
            re2_max_program_size: 100,
            ca_bundle: None,
            access_log_dir: "/var/log".into(),
            vault: vault.clone(),
        }
    }

    fn planned(world: &World, input: Input) -> World {
        let moment = Moment {
            instant: Instant::now().into_std(),
            wall: SystemTime::now(),
        };
        plan(world, vec![input], moment).world
    }

    /// The world after a list with one secret of this text.
    fn listed(world: &World, text: &str, revision: i64) -> World {
        let entry = Entry {
            key: "/gateway/secrets/a".into(),
            value: text.to_owned().into(),
            create_revision: 1,
            mod_revision: revision,
            leased: false,
        };
        let event = Event::Listed {
            revision,
            reason: ListReason::Start,
            entries: vec![entry],
        };
        let root = Root::Documents;
        planned(world, Input::Event { root, event })
    }

    #[test]
    fn new_keys_are_used_unless_a_document_needs_a_key_that_is_gone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, OLD).unwrap();
        let vault = Vault::new("/gateway/", Some(Keys::read(OLD).unwrap()), false, None);
        let mut file = KeyFile::new(path.clone(), stamp(&path), vault.clone());
        let sealed = vault.seal(&key(), br#"{"generic": "hunter2"}"#).unwrap().unwrap();
        let world = listed(&World::new(options(&vault)), &sealed, 1);
        assert!(!file.look(&world));

        // The old key is still needed.
        fs::write(&path, NEW).unwrap();
        assert!(!file.look(&world));
        assert_eq!(
            file.refused.as_deref(),
            Some(
                "the key \"old\" is missing, and documents are sealed with it; \"chancery secret rotate\" seals them \
                 with the first key"
            )
        );
        assert_eq!(vault.keys().unwrap().first(), "old");
        fs::write(&path, "hunter2").unwrap();
        assert!(!file.look(&world));
        assert!(
            file.refused
                .as_ref()
                .is_some_and(|reason| reason.starts_with("line 1: "))
        );

        fs::write(&path, format!("{NEW}{OLD}")).unwrap();
        assert!(file.look(&world));
        assert_eq!(vault.keys().unwrap().first(), "new");
        assert!(!file.look(&world));

        // After a rotation the old key may go.
        let opened = vault.seal(&key(), br#"{"generic": "hunter2"}"#).unwrap().unwrap();
        let world = listed(&world, &opened, 2);
        fs::write(&path, NEW).unwrap();
        assert!(file.look(&world));
        assert!(!vault.keys().unwrap().has("old"));
    }

    #[test]
    fn a_document_whose_key_comes_later_serves_then() {
        let both = Vault::new("/gateway/", Some(Keys::read(NEW).unwrap()), false, None);
        let sealed = both.seal(&key(), br#"{"generic": "hunter2"}"#).unwrap().unwrap();
        let vault = Vault::new("/gateway/", Some(Keys::read(OLD).unwrap()), false, None);
        let world = listed(&World::new(options(&vault)), &sealed, 1);
        let state = |world: &World| world.document(&key()).unwrap().state;
        assert_eq!(state(&world), State::Rejected);

        vault.replace_keys(Keys::read(NEW).unwrap());
        let world = planned(&world, Input::ReadAgain(vec![key()]));
        assert_eq!(state(&world), State::Accepted);
    }

    #[test]
    fn expiry_is_logged_once() {
        let pem = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/secrets");
            fs::read_to_string(folder.join(name)).unwrap()
        };
        let pair = json!({ "certificate": pem("p256.pem"), "private_key": pem("p256.key") });
        let world = listed(&World::new(options(&Vault::default())), &pair.to_string(), 1);
        let world = Arc::new(world);
        let ends = world.document(&key()).unwrap().validity.unwrap().ends.unwrap();
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
        let (mut expiry, now) = (Expiry::default(), Instant::now());

        assert_eq!(expiry.look(&world, now, at(ends - 30 * 86_400)), []);
        // Not looked at before a minute has passed.
        assert_eq!(expiry.look(&world, now, at(ends - 60)), []);
        let later = now + EXPIRY_EVERY;
        let said = |expiry: &mut Expiry, now, wall| {
            let new = expiry.look(&world, now, wall);
            new.into_iter().map(|(_, warning)| warning).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&mut expiry, later, at(ends - 60)),
            ["expires at 2126-11-06T15:00:07Z"]
        );
        assert_eq!(said(&mut expiry, later + EXPIRY_EVERY, at(ends)), [""; 0]);
        assert_eq!(
            said(&mut expiry, later + EXPIRY_EVERY * 2, at(ends + 1)),
            ["expired at 2126-11-06T15:00:07Z"]
        );
    }
}
