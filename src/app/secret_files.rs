//! The files that documents name, secrets and descriptors: read below `--secret-dir`, and read again when they change.
//!
//! A document keeps the content that it was accepted with until new content fits together: a certificate and its key are
//! two files, and change one after the other. New content that does not fit within [`PATIENCE`] is a warning of the
//! document and a line of the log; the content before serves on.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::document::key::DocumentKey;
use crate::document::secret::Files;
use crate::document::sentence::quote;
use crate::document::{self, Limits};
use crate::reconcile::world::World;

/// How long files are followed that no document names: of a document that was read, and is not in the world yet or never
/// comes there.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Largest file, in bytes: that of a descriptor.
const MAX_FILE: u64 = 1024 * 1024;
/// How long new content may not fit together before it is a warning.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct SecretFiles {
    /// The folders, as given and without symlinks.
    folders: Vec<PathBuf>,
    held: Mutex<BTreeMap<DocumentKey, Held>>,
}

/// The files of one document.
#[derive(Debug, Default)]
struct Held {
    /// By path; `None`: the file cannot be read.
    files: BTreeMap<String, Option<Content>>,
    /// Since when the document is not in the world.
    absent_since: Option<Instant>,
    /// Since when new content does not fit.
    unfit_since: Option<Instant>,
    warning: Option<String>,
}

#[derive(Debug, Clone)]
struct Content {
    stamp: Stamp,
    bytes: Bytes,
}

/// Differs when a file was written, or another file stands at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files for SecretFiles {
    fn content(&self, document: &DocumentKey, path: &str) -> Result<Bytes, String> {
        let mut held = self.held.lock();
        let files = &mut held.entry(document.clone()).or_default().files;
        if let Some(Some(content)) = files.get(path) {
            return Ok(content.bytes.clone());
        }
        let read = self.read(path);
        files.insert(path.to_owned(), read.as_ref().ok().cloned());
        read.map(|content| content.bytes)
    }

    fn warning(&self, document: &DocumentKey) -> Option<String> {
        self.held.lock().get(document)?.warning.clone()
    }
}

/// New content of one document, tried before it takes the place of the old.
#[derive(Debug)]
struct Candidate(BTreeMap<String, Content>);

impl Files for Candidate {
    fn content(&self, _: &DocumentKey, path: &str) -> Result<Bytes, String> {
        let content = self.0.get(path);
        content
            .map(|content| content.bytes.clone())
            .ok_or_else(|| "found no file".to_owned())
    }

    fn warning(&self, _: &DocumentKey) -> Option<String> {
        None
    }
}

impl SecretFiles {
    /// Files below these folders.
    ///
    /// # Errors
    /// A folder that is not there.
    pub(super) fn new(folders: &[PathBuf]) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let real = |folder: &PathBuf| {
            let real = std::fs::canonicalize(folder);
            real.with_context(|| format!("open the folder {} of --secret-dir", folder.display()))
        };
        let real: Vec<PathBuf> = folders.iter().map(real).collect::<Result<_, _>>()?;
        Ok(Self {
            folders: [real, folders.to_vec()].concat(),
            held: Mutex::default(),
        })
    }

    /// The file that a path leads to, symlinks resolved.
    fn place(&self, path: &str) -> Result<PathBuf, String> {
        let found = quote(path);
        if !Path::new(path).is_absolute() {
            return Err(format!("found {found}, expected an absolute path"));
        }
        let is_below = |place: &Path| self.folders.iter().any(|folder| place.starts_with(folder));
        let elsewhere = || format!("found {found}, which does not lead below --secret-dir, expected a file there");
        match std::fs::canonicalize(path) {
            Ok(place) if is_below(&place) => Ok(place),
            Ok(_) => Err(elsewhere()),
            // The sentence must not say which files exist elsewhere.
            Err(_) if !is_below(Path::new(path)) || path.split('/').any(|part| part == "..") => Err(elsewhere()),
            Err(error) => Err(format!(
                "found {found}, which cannot be read ({}), expected a file",
                error.kind()
            )),
        }
    }

    fn read(&self, path: &str) -> Result<Content, String> {
        let (place, found) = (self.place(path)?, quote(path));
        let stamp = stamp(&place).ok_or_else(|| format!("found {found}, which is no file, expected one"))?;
        if stamp.size > MAX_FILE {
            return Err(format!(
                "found {found} of {} bytes, expected at most {MAX_FILE}",
                stamp.size
            ));
        }
        let bytes = std::fs::read(&place).map_err(|error| {
            format!(
                "found {found}, which cannot be read ({}), expected a file",
                error.kind()
            )
        })?;
        Ok(Content {
            stamp,
            bytes: bytes.into(),
        })
    }

    /// The documents whose files have other content now, or whose warning changed.
    pub(super) fn look(&self, world: &World, now: Instant) -> Vec<DocumentKey> {
        let mut held = self.held.lock();
        held.retain(|key, held| {
            if world.document(key).is_some() {
                held.absent_since = None;
                return true;
            }
            let since = *held.absent_since.get_or_insert(now);
            now.duration_since(since) < FORGET_AFTER
        });
        let mut changed = Vec::new();
        for (key, held) in held.iter_mut() {
            if self.look_at(world, key, held, now) {
                changed.push(key.clone());
            }
        }
        changed
    }

    fn look_at(&self, world: &World, key: &DocumentKey, held: &mut Held, now: Instant) -> bool {
        // A write that was only tried may have named others.
        if let Some(accepted) = world.compiled().accepted(key) {
            let named = accepted.document.files();
            held.files.retain(|path, _| named.contains(&path.as_str()));
        }
        let stamp_now = |path: &str| self.place(path).ok().and_then(|place| stamp(&place));
        let is_same = |(path, content): (&String, &Option<Content>)| {
            stamp_now(path) == content.as_ref().map(|content| content.stamp)
        };
        if held.files.iter().all(is_same) {
            held.unfit_since = None;
            return held.warning.take().is_some();
        }

        let status = world.document(key);
        let Some(text) = status.and_then(|status| status.latest.as_ref()) else {
            return false;
        };
        let read: Result<BTreeMap<String, Content>, String> = held
            .files
            .keys()
            .map(|path| Ok((path.clone(), self.read(path)?)))
            .collect();
        let judged = read.and_then(|contents| {
            let vault = world.options().vault.with_files(Arc::new(Candidate(contents.clone())));
            let limits = Limits::default();
            match document::parse_with(key, &text.value, &limits, &vault) {
                Ok(_) => Ok(contents),
                Err(rejection) => Err(rejection.to_string()),
            }
        });
        match judged {
            Ok(contents) => {
                info!(document.key = %key, "New content of the files of {key} is served");
                *held = Held {
                    files: contents
                        .into_iter()
                        .map(|(path, content)| (path, Some(content)))
                        .collect(),
                    ..Held::default()
                };
                true
            }
            Err(reason) => {
                let since = *held.unfit_since.get_or_insert(now);
                let warning = format!("new content of the files cannot be used, the content before serves: {reason}");
                if now.duration_since(since) < PATIENCE || held.warning.as_ref() == Some(&warning) {
                    return false;
                }
                warn!(document.key = %key, reason, "New content of the files of {key} cannot be used");
                held.warning = Some(warning);
                true
            }
        }
    }
}

/// `None`: no file is there.
pub(super) fn stamp(place: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(place).ok().filter(std::fs::Metadata::is_file)?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::backend::{Entry, Event, ListReason};
    use crate::document::key::{Kind, Layout, Root};
    use crate::document::secret::Vault;
    use crate::reconcile::plan::{Input, Moment, plan};
    use crate::reconcile::world::{Options, State};

    struct Fixture {
        folder: TempDir,
        files: Arc<SecretFiles>,
        world: World,
    }

    fn key() -> DocumentKey {
        DocumentKey::new(Kind::Secrets, "edge")
    }

    fn pem(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/secrets");
        fs::read_to_string(folder.join(name)).unwrap()
    }

    impl Fixture {
        /// A world with one secret, whose files hold the P-256 pair.
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let files = Arc::new(SecretFiles::new(&[folder.path().to_owned()]).unwrap());
            let vault = Vault::new("/gateway/", None, false, Some(Arc::clone(&files) as Arc<dyn Files>));
            let options = Options {
                layout: Layout::default(),
                confirm_mass_loss: false,
                has_leases: true,
                re2_max_program_size: 100,
                ca_bundle: None,
                access_log_dir: "/var/log".into(),
                vault,
            };
            let mut fixture = Self {
                folder,
                files,
                world: World::new(options),
            };
            fixture.write("p256");
            let path = |name| fixture.folder.path().join(name).display().to_string();
            let files = serde_json::json!({ "certificate": path("tls.crt"), "private_key": path("tls.key") });
            let entry = Entry {
                key: "/gateway/secrets/edge".into(),
                value: serde_json::json!({ "files": files }).to_string().into(),
                create_revision: 1,
                mod_revision: 1,
                leased: false,
            };
            let event = Event::Listed {
                revision: 1,
                reason: ListReason::Start,
                entries: vec![entry],
            };
            fixture.plan(Input::Event {
                root: Root::Documents,
                event,
            });
            fixture
        }

        fn write(&self, pair: &str) {
            fs::write(self.folder.path().join("tls.crt"), pem(&format!("{pair}.pem"))).unwrap();
            fs::write(self.folder.path().join("tls.key"), pem(&format!("{pair}.key"))).unwrap();
        }

        /// Returns how many resources changed.
        fn plan(&mut self, input: Input) -> usize {
            let moment = Moment {
                instant: Instant::now().into_std(),
                wall: std::time::SystemTime::now(),
            };
            let plan = plan(&self.world, vec![input], moment);
            self.world = plan.world;
            plan.difference.resources.len()
        }

        fn look(&self, now: Instant) -> Vec<DocumentKey> {
            self.files.look(&self.world, now)
        }

        fn subject(&self) -> String {
            let accepted = self.world.compiled().accepted(&key()).unwrap();
            accepted.document.as_secret().unwrap().certificates()[0].subject.clone()
        }
    }

    #[test]
    fn new_files_are_served_when_they_fit_together() {
        let mut fixture = Fixture::new();
        let now = Instant::now();
        assert_eq!(fixture.subject(), "CN=p256.example.com");
        assert!(fixture.look(now).is_empty());

        // The certificate alone: the old pair serves on, also if the document is read again.
        fs::write(fixture.folder.path().join("tls.crt"), pem("rsa2048.pem")).unwrap();
        assert!(fixture.look(now).is_empty());
        assert_eq!(fixture.plan(Input::ReadAgain(vec![key()])), 0);

        fixture.write("rsa2048");
        assert_eq!(fixture.look(now), [key()]);
        assert_eq!(fixture.plan(Input::ReadAgain(vec![key()])), 1);
        assert_eq!(fixture.subject(), "CN=rsa2048.example.com");
        assert!(fixture.look(now).is_empty());
    }

    #[test]
    fn files_are_followed_before_their_document_is_in_the_world() {
        let mut fixture = Fixture::new();
        let now = Instant::now();
        // The plan has read the files, and its world is not published.
        let before = World::new(fixture.world.options().clone());
        assert!(fixture.files.look(&before, now).is_empty());
        fixture.write("rsa2048");
        assert_eq!(fixture.look(now), [key()]);
        fixture.plan(Input::ReadAgain(vec![key()]));
        assert_eq!(fixture.subject(), "CN=rsa2048.example.com");

        // A document that never comes is forgotten.
        fixture.files.look(&before, now);
        fixture.files.look(&before, now + FORGET_AFTER);
        assert!(fixture.files.held.lock().is_empty());
    }

    #[test]
    fn files_that_do_not_fit_for_ten_seconds_are_a_warning() {
        let mut fixture = Fixture::new();
        let now = Instant::now();
        fs::write(fixture.folder.path().join("tls.key"), pem("rsa2048.key")).unwrap();
        assert!(fixture.look(now).is_empty());
        assert!(fixture.look(now + PATIENCE / 2).is_empty());
        assert_eq!(fixture.look(now + PATIENCE), [key()]);
        fixture.plan(Input::ReadAgain(vec![key()]));
        let status = fixture.world.document(&key()).unwrap();
        assert_eq!(status.state, State::Accepted);
        assert_eq!(
            status.warnings,
            [
                "files: new content of the files cannot be used, the content before serves: files.private_key: found the \
              private key of another certificate, expected that of \"certificate\""
            ]
        );

        // The old content again.
        fixture.write("p256");
        assert_eq!(fixture.look(now + PATIENCE), [key()]);
        fixture.plan(Input::ReadAgain(vec![key()]));
        assert_eq!(fixture.world.document(&key()).unwrap().warnings, [""; 0]);
    }

    #[test]
    fn only_files_below_the_folders_are_read() {
        let fixture = Fixture::new();
        let elsewhere = TempDir::new().unwrap();
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "hunter2").unwrap();
        let link = fixture.folder.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        let up = fixture
            .folder
            .path()
            .join("..")
            .join(elsewhere.path().file_name().unwrap())
            .join("secret");
        let reason = |path: &Path| fixture.files.content(&key(), &path.display().to_string()).unwrap_err();
        for path in [&secret, &link, &up] {
            let reason = reason(path);
            assert!(
                reason.ends_with("which does not lead below --secret-dir, expected a file there"),
                "{reason}"
            );
        }
        assert!(reason(Path::new("tls.crt")).ends_with("expected an absolute path"));
        assert!(reason(fixture.folder.path()).ends_with("which is no file, expected one"));
    }
}
